"""Units that stay although they do nothing of interest, and the reason; those that live are not listed."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import jaxreg
from jaxreg import structures

GONE = [1, 3]


def draw(seed, *shape):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def shrunk(apply, params, x, **options):
    return jaxreg.compact(structures.trace(apply, params, x), params, inputs=[x], **options)


def scaled(params, x):
    hidden = jax.nn.softplus((x @ params["a"]) * params["scale"] + params["shift"])
    return hidden @ params["b"]


def normalised(params, x):
    def conv(x, kernel):
        return lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))

    hidden = (conv(x, params["a"]) - params["mean"]) * lax.rsqrt(params["var"] + 1e-5)
    return conv(jax.nn.softplus(hidden * params["scale"] + params["shift"]), params["b"])


def scaled_params():
    return {"a": draw(0, 3, 5), "scale": draw(1, 5), "shift": draw(2, 5), "b": draw(3, 5, 2)}


def test_units_that_are_scaled_to_a_constant_are_listed():
    params = scaled_params()
    params["scale"][GONE] = params["shift"][GONE] = 0.0
    small = shrunk(scaled, params, draw(4, 2, 3))
    assert [refusal.units for refusal in small.refused] == [tuple(GONE)]
    assert "meets the constant 0.693147, with no bias" in small.refused[0].reason


def test_units_that_a_convolution_does_not_make_are_listed_with_what_normalisation_makes_of_them():
    names = ("mean", "shift", "scale")
    params = {name: draw(seed, 5) for seed, name in enumerate(names)}
    params |= {"var": np.ones(5, np.float32), "a": draw(5, 3, 3, 2, 5), "b": draw(6, 3, 3, 5, 2)}
    params["a"][..., GONE] = 0.0
    small = shrunk(normalised, params, draw(7, 1, 6, 6, 2))
    assert sorted(unit for refusal in small.refused for unit in refusal.units) == GONE
    assert all("meets the constant" in refusal.reason for refusal in small.refused)


def live(name):
    kernel = np.ones((5, 1), np.float32)
    plain = {"a": draw(0, 3, 5), "shift": np.zeros(5, np.float32), "b": kernel}

    def dense(params, x):
        return jax.nn.softplus(x @ params["a"] + params["shift"]) @ params["b"]

    def masked(params, x):
        return jax.nn.softplus(x @ params["a"] + params["shift"]) @ (params["b"] * 2.0)

    def in_a_loop(params, x):
        return lax.scan(lambda total, row: (total + dense(params, row), None), jnp.zeros(1), x)[0]

    def attention(params, x):
        queries, keys = x @ params["a"], x @ params["keys"] + params["shift"]
        return jax.nn.softmax(queries @ keys.T) @ x

    return {
        "one output": (dense, plain),
        "kernel of a computation": (masked, plain),
        "checkpoint": (lambda p, x: jax.checkpoint(dense)(p, x), plain),
        "computed in a checkpoint": (lambda p, x: jax.checkpoint(masked)(p, x), plain),
        "loop": (in_a_loop, plain),
        "gate": (
            lambda p, x: jax.nn.sigmoid(x @ p["gate"]) * (x @ p["a"] + p["shift"]) @ p["b"],
            plain | {"gate": np.zeros((3, 5), np.float32)},
        ),
        "attention": (attention, {"a": draw(0, 3, 5), "keys": np.zeros((3, 5)), "shift": np.ones(5)}),
    }[name]


@pytest.mark.parametrize(
    "name",
    [
        "one output",
        "kernel of a computation",
        "checkpoint",
        "computed in a checkpoint",
        "loop",
        "gate",
        "attention",
    ],
)
def test_units_that_live_are_not_listed(name):
    apply, params = live(name)
    params = jax.tree.map(lambda array: np.asarray(array, np.float32), params)
    small = shrunk(apply, params, draw(1, 2, 3))
    assert small.refused == ()
    assert [len(kept) for kept in small.kept] == [5]


def test_units_that_are_kept_for_their_number_are_not_refused():
    params = scaled_params()
    params["b"][GONE] = 0.0
    assert shrunk(scaled, params, draw(4, 2, 3), round_to=5).refused == ()


def test_the_last_of_a_group_says_so_where_a_bias_could_take_it_up():
    def apply(params, x):
        return jax.nn.sigmoid(x @ params["a"]) @ params["b"] + params["bias"]

    params = {"a": np.zeros((3, 4), np.float32), "b": draw(0, 4, 2), "bias": draw(1, 2)}
    small = shrunk(apply, params, draw(2, 2, 3))
    assert [refusal.reason for refusal in small.refused] == ["the last of its group"]
