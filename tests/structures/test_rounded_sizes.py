"""Groups of a size that hardware likes: dead units that are kept for their number."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxreg
from jaxreg import structures


def function(params, x):
    hidden = jnp.tanh(jnp.tanh(x @ params["a"]) @ params["b"])
    return hidden @ params["c"]


def feeding_one_that_feeds_nothing():
    """Unit 1 of the first group is read by unit 2 of the second alone, which nothing reads."""
    rng = np.random.default_rng(0)
    params = {n: rng.normal(size=s).astype(np.float32) for n, s in dict(a=(3, 6), b=(6, 5), c=(5, 2)).items()}
    params["b"][1] = 0.0
    params["b"][1, 2] = 3.0
    params["c"][2] = 0.0
    return jax.tree.map(jnp.asarray, params), jnp.asarray(rng.normal(size=(4, 3)), jnp.float32)


def loss(apply, params, x):
    return (apply(params, x) ** 2).sum() + apply(params, x).sum()


@pytest.mark.parametrize("round_to", [2, 3, 4, 5, 7])
def test_a_unit_that_is_kept_keeps_what_it_is_made_of(round_to):
    params, x = feeding_one_that_feeds_nothing()
    small = jaxreg.compact(structures.trace(function, params, x), params, round_to=round_to, inputs=(x,))
    large = jax.grad(loss, 1)(function, params, x)
    mine = jax.grad(loss, 1)(small.apply, small.params, x)
    first, second = small.kept
    # What is gone may miss no gradient: the units that stay train on as in the large model.
    assert np.allclose(mine["a"], large["a"][:, first], atol=1e-5)
    assert np.allclose(mine["b"], large["b"][np.ix_(first, second)], atol=1e-5)
    assert np.allclose(mine["c"], large["c"][second], atol=1e-5)
    assert 2 not in second or 1 in first
    assert small.refused == ()


def test_sizes_are_multiples_also_where_a_unit_comes_back_for_another():
    rng = np.random.default_rng(1)
    shapes = dict(a=(3, 12), b=(12, 12), c=(12, 2))
    params = {n: rng.normal(size=s).astype(np.float32) for n, s in shapes.items()}
    params["c"][5:] = 0.0  # 5 are left of the second group
    params["b"][4:, :5] = 0.0  # 4 are left of the first, as the others feed those that are gone alone
    x = rng.normal(size=(2, 3)).astype(np.float32)
    graph = structures.trace(function, params, x)
    assert [len(kept) for kept in jaxreg.compact(graph, params, inputs=(x,)).kept] == [4, 5]
    for round_to in (2, 3, 4, 6):
        small = jaxreg.compact(graph, params, round_to=round_to, inputs=(x,))
        assert all(len(kept) % round_to == 0 for kept in small.kept)
    small = jaxreg.compact(graph, params, round_to=4, inputs=(x,))
    wider = rng.normal(size=(2, 7, 3)).astype(np.float32)
    assert np.allclose(small.apply(small.params, wider), function(params, wider), atol=1e-5)


def test_those_that_went_last_come_back_first():
    """What went first is why others could go, and would bring them back."""

    def deeper(params, x):
        return jnp.tanh(function(params, x)) @ params["d"]

    rng = np.random.default_rng(2)
    shapes = dict(a=(3, 6), b=(6, 6), c=(6, 6), d=(6, 2))
    params = {n: rng.normal(size=s).astype(np.float32) for n, s in shapes.items()}
    params["c"][0] = params["d"][2] = 0.0  # nothing reads these two
    params["b"][0, 1:] = params["c"][3, [0, 1, 3, 4, 5]] = 0.0  # nor these, once those are gone
    x = rng.normal(size=(2, 3)).astype(np.float32)
    graph = structures.trace(deeper, params, x)
    small = jaxreg.compact(graph, params, round_to=5, inputs=(x,))
    assert [kept.tolist() for kept in small.kept] == [[1, 2, 3, 4, 5], [1, 2, 3, 4, 5], [0, 1, 3, 4, 5]]


def test_a_group_of_dead_units_is_rounded_up():
    params = {"a": jnp.zeros((3, 6)), "b": jnp.ones((6, 2)), "bias": jnp.zeros(2)}
    x = jnp.ones((1, 3))
    graph = structures.trace(lambda p, x: jax.nn.sigmoid(x @ p["a"]) @ p["b"] + p["bias"], params, x)
    small = jaxreg.compact(graph, params, round_to=4, inputs=(x,))
    assert small.sizes["b"] == (4, 2)
    assert np.allclose(small.params["bias"], 1.0)
