"""What was exact for the traced inputs and would not be for others, or for other trees, is an error."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxreg
from jaxreg import structures


def draw(seed, *shape):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def dead(params, names, units):
    """The parameters with these units zero along the last axis of the named leaves."""
    return {name: leaf.at[..., units].set(0) if name in names else leaf for name, leaf in params.items()}


def test_a_filled_lookup_reads_the_filler_in_dead_columns_too():
    params = dead({"table": draw(0, 20, 6), "out": draw(1, 6, 2)}, ["table"], jnp.array([1, 4]))

    def apply(params, ids, fill):
        return params["table"].at[ids].get(mode="fill", fill_value=fill) @ params["out"]

    ids = jnp.array([1, 99])
    for filler, kept in ((7.0, 6), (0.0, 4), (jnp.nan, 4)):
        graph = structures.trace(lambda p, i, fill=filler: apply(p, i, fill), params, ids)
        small = jaxreg.compact(graph, params, inputs=[ids])
        assert small.sizes["out"] == (kept, 2), filler


def test_padding_that_appears_at_another_shape():
    params = {"w": draw(2, 3, 6), "b": jnp.zeros(6), "out": draw(3, 24, 2)}
    params = dead(params, ["w"], jnp.array([0, 5]))

    def apply(params, x):
        h = jax.nn.relu(x @ params["w"] + params["b"])
        h = jnp.pad(h, ((0, 0), (0, x.shape[1] % 2), (0, 0)), constant_values=1.0)
        return h[:, :4].reshape(len(x), 24) @ params["out"] if h.shape[1] >= 4 else h

    even, odd = draw(4, 2, 4, 3), draw(5, 2, 3, 3)
    graph = structures.trace(apply, params, even)
    small = jaxreg.compact(graph, params, inputs=[even])
    assert small.sizes["w"] == (3, 4)
    np.testing.assert_allclose(
        small.apply(small.params, draw(6, 5, 4, 3)), apply(params, draw(6, 5, 4, 3)), atol=1e-5
    )
    with pytest.raises(ValueError, match="could not have been removed as it was: dot_general at"):
        small.apply(small.params, odd)


def test_a_bias_that_took_up_a_constant_is_asked_for_at_every_shape():
    params = {"w": draw(7, 3, 6), "b": draw(8, 6), "out": draw(9, 6, 2), "c": draw(10, 2)}
    params = dead(params, ["w", "b"], jnp.array([2, 3]))

    def apply(params, x):
        h = jax.nn.sigmoid(x @ params["w"] + params["b"])
        h = jnp.pad(h, ((0, len(x) % 2), (0, 0)))
        return h @ params["out"] + params["c"]

    graph = structures.trace(apply, params, jnp.ones((2, 3)))
    small = jaxreg.compact(graph, params, inputs=[draw(11, 2, 3)])
    assert small.sizes["w"] == (3, 4)
    np.testing.assert_allclose(
        small.apply(small.params, draw(12, 4, 3)), apply(params, draw(12, 4, 3)), atol=1e-5
    )
    with pytest.raises(ValueError, match="could not have been removed as it was"):
        small.apply(small.params, jnp.ones((5, 3)))
    with pytest.raises(ValueError, match="folded into 'c', and 'state' has a leaf of that name"):
        jaxreg.compact(graph, params, state=params)


def test_rows_of_a_table_that_this_shape_does_not_read_stay():
    params = {"position": draw(13, 16, 6), "out": draw(14, 6, 2)}

    def apply(params, x):
        return (x + params["position"][: len(x)]) @ params["out"]

    graph = structures.trace(apply, params, jnp.ones((8, 6)))
    small = jaxreg.compact(graph, params, inputs=[draw(15, 8, 6)])
    assert small.sizes["position"] == (16, 6)
    np.testing.assert_allclose(
        small.apply(small.params, draw(16, 12, 6)), apply(params, draw(16, 12, 6)), atol=1e-5
    )


def test_parameters_of_another_dtype_or_shape_are_named():
    params = dead({"w": draw(17, 3, 6), "out": draw(18, 6, 2)}, ["w"], jnp.array([0]))

    def apply(params, x):
        return jax.nn.relu(x @ params["w"]) @ params["out"]

    small = jaxreg.compact(structures.trace(apply, params, jnp.ones((1, 3))), params)
    half = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), small.params)
    with pytest.raises(ValueError, match=r"takes 'out' of shape \(5, 2\) and dtype float32. Got .* bfloat16"):
        small.apply(half, jnp.ones((1, 3)))
    with pytest.raises(ValueError, match=r"takes 'out' of shape \(5, 2\) and dtype float32. Got \(6, 2\)"):
        small.apply(params, jnp.ones((1, 3)))


def test_a_part_is_known_by_all_of_its_leaves():
    w1, b1, w2 = draw(22, 3, 8).at[:, :3].set(0), jnp.zeros(8), draw(23, 8, 2)
    variables = {"ema": {"w1": w1, "b1": b1}, "params": {"w1": w1, "b1": b1, "w2": w2}}

    def apply(variables, x):
        p, e = variables["params"], variables["ema"]
        return jax.nn.relu(x @ p["w1"] + p["b1"]) @ p["w2"] + jnp.sum(x @ e["w1"] + e["b1"])

    graph = structures.trace(apply, variables, jnp.ones((1, 3)), frozen="ema/*")
    state = optax.adam(0.1).init(variables["params"])
    small = jaxreg.compact(graph, variables, opt_state=state)
    assert small.sizes["ema/w1"] == (3, 8)
    assert small.opt_state[0].mu["w1"].shape == small.params["params"]["w1"].shape == (3, 5)


def positions(length, width):
    angles = np.arange(length)[:, None] / 10000 ** (2 * np.arange(width // 2) / width)
    return np.stack([np.sin(angles), np.cos(angles)], -1).reshape(length, width).astype(np.float32)


def test_a_closed_over_constant_is_looked_at_where_units_are_gone():
    """At the first position some of them are zero, and nowhere else."""
    params = dead({"w": draw(24, 3, 6), "out": draw(25, 6, 2)}, ["w"], jnp.array([2, 4]))

    def apply(params, x):
        return jnp.tanh(x @ params["w"] + positions(x.shape[1], 6)) @ params["out"]

    small = jaxreg.compact(structures.trace(apply, params, jnp.ones((2, 1, 3))), params)
    assert small.sizes["w"] == (3, 4)
    with pytest.raises(
        ValueError, match="unit 2 of 'out' could not have been removed as it was: dot_general"
    ):
        small.apply(small.params, jnp.ones((2, 5, 3)))


def test_what_goes_because_others_went_is_judged_in_that_order():
    params = dead({"w": draw(26, 3, 6), "out": draw(27, 6, 2)}, ["w"], jnp.array([2, 4]))

    def apply(params, x):
        return ((x @ params["w"]) @ np.eye(6, dtype=np.float32)) @ params["out"]

    small = jaxreg.compact(structures.trace(apply, params, jnp.ones((2, 3))), params)
    assert [len(kept) for kept in small.kept] == [4, 4]
    x = draw(28, 5, 3)
    np.testing.assert_allclose(small.apply(small.params, x), apply(params, x), atol=1e-5)


def test_two_groups_are_not_each_the_reason_why_the_other_may_go():
    """Where the link is, each would be dead if the other one had gone."""
    params = {"w": draw(29, 3, 6), "out": draw(30, 6, 2)}

    def apply(params, x):
        link = np.diag(np.asarray([0, 1, len(x) - 1, 1, 1, 1], np.float32))
        return jnp.tanh((x @ params["w"]) @ link) @ params["out"]

    small = jaxreg.compact(structures.trace(apply, params, jnp.ones((1, 3))), params)
    assert [kept.tolist() for kept in small.kept] == [[1, 3, 4, 5]] * 2
    with pytest.raises(
        ValueError, match="unit 2 of 'out' could not have been removed as it was: dot_general"
    ):
        small.apply(small.params, jnp.ones((2, 3)))


def test_a_constant_that_was_folded_may_round_otherwise_at_another_length():
    shapes = {"w": (3, 6), "b": (6,), "out": (6, 2), "c": (2,)}
    params = {name: draw(31 + number, *shape) for number, (name, shape) in enumerate(shapes.items())}
    params = dead(params, ["w"], jnp.array([2, 4]))

    def apply(params, x):
        h = jax.nn.sigmoid(x @ params["w"] + params["b"]).sum(1) / (x.shape[1] - x.shape[1] // 50)
        return h @ params["out"] + params["c"]

    small = jaxreg.compact(structures.trace(apply, params, jnp.ones((2, 4, 3))), params)
    assert small.sizes["w"] == (3, 4)
    for length in (3, 5, 6, 7, 11, 49):
        x = draw(35, 2, length, 3)
        np.testing.assert_allclose(small.apply(small.params, x), apply(params, x), atol=1e-5)
    with pytest.raises(ValueError, match=r"as it was: its constant is 0\.\d+ instead of 0\.\d+\. Trace"):
        small.apply(small.params, jnp.ones((2, 50, 3)))
