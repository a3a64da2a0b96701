"""Constants that dead units hold, taken up by the next bias."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import jaxreg
from jaxreg import structures

GONE = [1, 3]


def conv(x, kernel, padding):
    return lax.conv_general_dilated(x, kernel, (1, 1), padding, dimension_numbers=("NHWC", "HWIO", "NHWC"))


def on_images(padding):
    def apply(params, x):
        return conv(jax.nn.sigmoid(conv(x, params["a"], "SAME")), params["b"], padding) + params["bias"]

    return apply, {"a": (3, 3, 2, 5), "b": (3, 3, 5, 4), "bias": (4,)}, (2, 6, 6, 2)


def flattened(params, x):
    hidden = jax.nn.sigmoid(conv(x, params["a"], "SAME")).reshape(len(x), -1)
    return hidden @ params["b"] + params["bias"]


def into_heads(params, x):
    hidden = jnp.cos(x @ params["a"])
    return jnp.einsum("ni,ihd->nhd", hidden, params["b"]) + params["bias"]


def in_half_precision(params, x):
    hidden = jax.nn.sigmoid(x @ params["a"])
    return jnp.tanh((hidden @ params["b"]).astype(jnp.float32) + params["bias"])


def read_twice(params, x):
    hidden = jax.nn.sigmoid(x @ params["a"])
    return hidden @ params["b"] + params["bias"], hidden @ params["c"] + params["other"]


def product_read_twice(params, x):
    product = jax.nn.sigmoid(x @ params["a"]) @ params["b"]
    return (product + params["bias"]) * product


def product_returned(params, x):
    product = jax.nn.sigmoid(x @ params["a"]) @ params["b"]
    return product.astype(jnp.bfloat16).astype(jnp.float32) + params["bias"], product


def rounded(params, x):
    product = (jax.nn.sigmoid(x @ params["a"]) @ params["b"]).astype(jnp.int32)
    return product + params["bias"].astype(jnp.int32)


def residual(params, x):
    x = x @ params["in"]
    return (x + jax.nn.sigmoid(x @ params["a"]) @ params["b"] + params["bias"]) @ params["out"]


def with_positions(params, x):
    hidden = jax.nn.sigmoid(x @ params["a"]) @ params["b"]
    return x[..., :1] + hidden + params["positions"] - 2.0 + params["bias"]


def sum_read_twice(params, x):
    total = x + jax.nn.sigmoid(x @ params["a"]) @ params["b"]
    return (total + params["bias"]) * total


def product_out_of_a_checkpoint(params, x):
    product = jax.checkpoint(lambda p, x: jax.nn.sigmoid(x @ p["a"]) @ p["b"])(params, x)
    return product * params["bias"]


def dense(params, x):
    return jax.nn.sigmoid(x @ params["a"]) @ params["b"] + params["bias"]


def step_by_step(params, x):
    def step(total, row):
        return total + dense(params, row), dense(params, total[:3])

    return lax.scan(step, jnp.zeros(4), x)


def step_by_step_once(params, x):
    def step(total, row):
        return jnp.tanh(total + dense(params, row)), total

    return lax.scan(jax.checkpoint(step), jnp.zeros(4), x)


def in_one_of_two_branches(params, x):
    return lax.cond(x[0, 0] > 0, dense, lambda p, x: x @ p["c"] * p["bias"], params, x)


# function, shapes of the parameters and of the input
FOLDED = {
    "dense": (lambda p, x: jax.nn.sigmoid(x @ p["a"]) @ p["b"] + p["bias"],
              {"a": (3, 5), "b": (5, 4), "bias": (4,)}, (2, 3)),
    "convolution without a border": on_images("VALID"),
    "flattened": (flattened, {"a": (3, 3, 2, 5), "b": (180, 4), "bias": (4,)}, (2, 6, 6, 2)),
    "heads": (into_heads, {"a": (3, 5), "b": (5, 2, 3), "bias": (2, 3)}, (2, 3)),
    "cast": (in_half_precision, {"a": (3, 5), "b": (5, 4), "bias": (4,)}, (2, 3)),
    "read twice": (read_twice, {"a": (3, 5), "b": (5, 4), "bias": (4,), "c": (5, 2), "other": (2,)}, (2, 3)),
    "residual": (residual, {"in": (3, 4), "a": (4, 5), "b": (5, 4), "bias": (4,), "out": (4, 2)}, (2, 3)),
    "positions": (with_positions, {"a": (3, 5), "b": (5, 4), "bias": (4,), "positions": (6, 4)}, (2, 6, 3)),
    "subtracted": (lambda p, x: jax.nn.sigmoid(x @ p["a"]) @ p["b"] - p["bias"],
                   {"a": (3, 5), "b": (5, 4), "bias": (4,)}, (2, 3)),
    "checkpoint": (lambda p, x: jax.checkpoint(dense)(p, x),
                   {"a": (3, 5), "b": (5, 4), "bias": (4,)}, (2, 3)),
    "loop": (step_by_step_once, {"a": (3, 5), "b": (5, 4), "bias": (4,)}, (2, 3)),
}  # fmt: skip

REFUSED = {
    "convolution with a border": on_images("SAME"),
    "no bias": (lambda p, x: jax.nn.sigmoid(x @ p["a"]) @ p["b"] * p["bias"], *FOLDED["dense"][1:]),
    "bias used elsewhere": (
        lambda p, x: (jax.nn.sigmoid(x @ p["a"]) @ p["b"] + p["bias"]) * p["bias"], *FOLDED["dense"][1:]),
    "product used elsewhere": (product_read_twice, *FOLDED["dense"][1:]),
    "bias is an output": (lambda p, x: (FOLDED["dense"][0](p, x), p["bias"]), *FOLDED["dense"][1:]),
    "product is an output": (product_returned, *FOLDED["dense"][1:]),
    "rounded to whole numbers": (rounded, *FOLDED["dense"][1:]),
    "one of two readers": (
        lambda p, x: (read_twice(p, x)[0], jax.nn.sigmoid(x @ p["a"]) @ p["c"] * p["other"]),
        *FOLDED["read twice"][1:]),
    "subtracted from the bias": (
        lambda p, x: p["bias"] - jax.nn.sigmoid(x @ p["a"]) @ p["b"], *FOLDED["dense"][1:]),
    "sum used elsewhere": (sum_read_twice, {"a": (4, 5), "b": (5, 4), "bias": (4,)}, (2, 4)),
    "out of a checkpoint": (product_out_of_a_checkpoint, *FOLDED["dense"][1:]),
    "bias used out of the checkpoint": (
        lambda p, x: jax.checkpoint(dense)(p, x) * p["bias"], *FOLDED["dense"][1:]),
    "bias used twice in a loop": (step_by_step, *FOLDED["dense"][1:]),
    "branches": (in_one_of_two_branches, {**FOLDED["dense"][1], "c": (3, 4)}, (2, 3)),
}  # fmt: skip


def shrunk(function, shapes, shape, **options):
    rng = np.random.default_rng(0)
    params = {name: rng.normal(size=lengths).astype(np.float32) for name, lengths in shapes.items()}
    params["a"][..., GONE] = 0.0
    x = rng.normal(size=shape).astype(np.float32)
    graph = structures.trace(function, params, x)
    return params, jaxreg.compact(graph, params, inputs=[x], **options), graph


@pytest.mark.parametrize("name", FOLDED)
def test_a_constant_goes_into_the_bias_behind_it(name):
    params, small, _ = shrunk(*FOLDED[name], tolerance=1e-6)  # which runs both and compares
    assert small.refused == ()
    assert small.sizes["a"][-1] == 3
    assert not np.allclose(small.params["bias"], params["bias"])


@pytest.mark.parametrize("name", REFUSED)
def test_without_such_a_bias_the_unit_stays(name):
    params, small, _ = shrunk(*REFUSED[name])
    assert [refusal.units for refusal in small.refused] == [tuple(GONE)]
    assert "the constant 0.5, with no bias" in str(small.refused[0])
    assert all(np.array_equal(small.params[name], params[name]) for name in params)


def test_what_two_groups_hold_is_not_folded_twice():
    def apply(params, x):
        heads = jnp.einsum("nhd,hde->nhe", (x @ params["a"]).reshape(-1, 3, 2), params["heads"])
        return jnp.cos(heads).reshape(len(x), -1) @ params["b"] + params["bias"]

    rng = np.random.default_rng(1)
    shapes = {"a": (5, 6), "heads": (3, 2, 4), "b": (12, 3), "bias": (3,)}
    params = {name: rng.normal(size=lengths).astype(np.float32) for name, lengths in shapes.items()}
    params["heads"][0], params["heads"][:, :, 1], params["a"][:, :2] = 0.0, 0.0, 0.0
    x = rng.normal(size=(4, 5)).astype(np.float32)
    graph = structures.trace(apply, params, x)
    for round_to in (None, 2, 3):
        small = jaxreg.compact(graph, params, inputs=[x], round_to=round_to)
        assert len(small.refused) == 1


def test_units_that_are_kept_for_their_number_keep_their_bias():
    params, small, _ = shrunk(*FOLDED["dense"], round_to=5)
    assert small.sizes["a"] == (3, 5)
    assert all(np.array_equal(small.params[name], params[name]) for name in params)


def test_a_complex_constant_keeps_its_imaginary_part():
    rng = np.random.default_rng(2)
    shapes = {"a": (3, 5), "b": (5, 4), "bias": (4,)}
    params = {
        name: (rng.normal(size=s) + 1j * rng.normal(size=s)).astype(np.complex64)
        for name, s in shapes.items()
    }
    params["a"][:, GONE] = 0.0
    x = rng.normal(size=(2, 3)).astype(np.float32)

    def apply(params, x):
        return jnp.exp(x @ params["a"] + 1j) @ params["b"] + params["bias"]

    small = jaxreg.compact(structures.trace(apply, params, x), params, inputs=[x], tolerance=1e-5)
    assert small.sizes["a"] == (3, 3)
    assert small.refused == ()


def test_a_bias_of_whole_numbers_takes_nothing_up():
    def apply(params, x):
        return (jax.nn.sigmoid(x @ params["a"]) @ params["b"]).astype(jnp.int32) + params["bias"]

    rng = np.random.default_rng(3)
    params = {"a": rng.normal(size=(3, 5)).astype(np.float32), "b": np.ones((5, 4), np.float32)}
    params = {**params, "bias": np.arange(4, dtype=np.int32)}
    params["a"][:, GONE] = 0.0
    x = rng.normal(size=(2, 3)).astype(np.float32)
    small = jaxreg.compact(structures.trace(apply, params, x), params, inputs=[x])
    assert [refusal.units for refusal in small.refused] == [tuple(GONE)]
