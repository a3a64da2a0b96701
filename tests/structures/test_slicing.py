"""Trees that look like the parameters lose what the parameters lose."""

import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxreg
from jaxreg import structures


def apply(params, x):
    return jnp.tanh(x @ params["net"]["up"]) @ params["net"]["down"] + params["net"]["bias"]


@pytest.fixture(scope="module")
def model():
    rng = np.random.default_rng(0)
    shapes = {"up": (200, 160), "down": (160, 150), "bias": (150,)}
    params = {"net": {name: jnp.asarray(rng.normal(size=s), jnp.float32) for name, s in shapes.items()}}
    params["net"]["up"] = params["net"]["up"].at[:, 10:].set(0.0)
    return structures.trace(apply, params, np.ones((1, 200), np.float32)), params


def test_factored_moments_are_sliced_along_the_axes_that_they_have(model):
    graph, params = model
    state = optax.adafactor(1e-2).init(params)
    small = jaxreg.compact(graph, params, opt_state=state)
    before, after = (jaxreg.tree.flatten(tree).leaves for tree in (state, small.opt_state))
    lengths = [(np.shape(a), np.shape(b)) for a, b in zip(before, after, strict=True)]
    assert sorted({pair for pair in lengths if len(pair[0]) == 1}) == [
        ((1,), (1,)), ((150,), (150,)), ((160,), (10,)), ((200,), (200,)),
    ]  # fmt: skip


def test_a_part_of_the_tree_is_sliced_by_what_is_left_of_its_paths(model):
    graph, params = model
    average = {"net": {"up": params["net"]["up"] + 1}}
    inner = {"up": params["net"]["up"] + 1, "count": jnp.zeros((), jnp.int32)}
    small = jaxreg.compact(graph, params, state=(average, inner))
    assert small.state[0]["net"]["up"].shape == small.state[1]["up"].shape == (200, 10)
    assert small.state[1]["count"] is inner["count"]


def test_what_cannot_be_sliced_like_its_parameter_is_refused_with_its_path(model):
    graph, params = model
    with pytest.raises(ValueError, match=r"'net/up' of shape \(3, 7\) in 'state' cannot be sliced"):
        jaxreg.compact(graph, params, state={"net": {"up": jnp.ones((3, 7))}})
