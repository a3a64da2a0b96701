"""Fully connected networks as plain functions, and what makes a removal inexact."""

import jax
import jax.numpy as jnp
from structures.models.case import Case, Made, dense, draw, filled, shape, unit


def affine(layer, x):
    return x @ layer["kernel"] + layer["bias"]


def _mlp(first, second):
    def apply(params, x):
        x = first(affine(params["0"], x))
        x = second(affine(params["1"], x))
        return affine(params["2"], x)

    shapes = {"0": dense(5, 8), "1": dense(8, 6), "2": dense(6, 3)}
    return lambda: Made(apply, filled(shapes), (draw(16, 5),))


HIDDEN = (
    unit(8, "0/kernel@1 0/bias@0", "1/kernel@0"),
    unit(6, "1/kernel@1 1/bias@0", "2/kernel@0"),
)


def _between(middle, head=True):
    """A hidden layer, something in the middle, a last layer with or without a bias."""

    def apply(params, x):
        x = middle(affine(params["0"], x))
        return affine(params["1"], x) if head else x @ params["1"]["kernel"]

    last = dense(8, 3) if head else {"kernel": shape(8, 3)}
    return lambda: Made(apply, filled({"0": dense(5, 8), "1": last}), (draw(16, 5),))


def _middle(refused=None):
    return (unit(8, "0/kernel@1 0/bias@0", "1/kernel@0", refused=refused),)


def _layer_norm_of_deviations(x):
    centred = x - x.mean(-1, keepdims=True)
    return centred * jax.lax.rsqrt(jnp.square(centred).mean(-1, keepdims=True) + 1e-6)


def _layer_norm_of_squares(x):
    mean = x.mean(-1, keepdims=True)
    variance = jnp.square(x).mean(-1, keepdims=True) - jnp.square(mean)
    return (x - mean) * jax.lax.rsqrt(variance + 1e-6)


def _learned_layer_norm():
    def apply(params, x):
        x = _layer_norm_of_squares(affine(params["0"], x)) * params["scale"] + params["shift"]
        return affine(params["1"], x)

    shapes = {"0": dense(5, 8), "scale": shape(8), "shift": shape(8), "1": dense(8, 3)}
    return Made(apply, filled(shapes), (draw(16, 5),))


def _shared():
    def apply(params, x):
        x = affine(params["in"], x)
        for _ in range(2):
            x = jax.nn.relu(affine(params["shared"], x))
        return affine(params["out"], x)

    shapes = {"in": dense(5, 8), "shared": dense(8, 8), "out": dense(8, 3)}
    return Made(apply, filled(shapes), (draw(16, 5),))


def _mixture():
    def apply(params, x):
        gates = jax.nn.softmax(affine(params["gate"], x))
        hidden = jax.nn.gelu(jnp.einsum("bd,edh->beh", x, params["up"]) + params["up_bias"])
        experts = jnp.einsum("beh,ehd->bed", hidden, params["down"])
        return affine(params["head"], jnp.einsum("bed,be->bd", experts, gates))

    shapes = {
        "gate": dense(5, 3),
        "up": shape(3, 5, 6),
        "up_bias": shape(3, 6),
        "down": shape(3, 6, 4),
        "head": dense(4, 2),
    }
    return Made(apply, filled(shapes), (draw(16, 5),))


def _split_and_joined():
    """Halves of one layer that go separate ways and meet again, reversed in order."""

    def apply(params, x):
        left, right = jnp.split(affine(params["0"], x), [3], axis=-1)
        joined = jnp.concatenate([jnp.tanh(right), jax.nn.relu(left)], axis=-1)
        return affine(params["1"], joined)

    return Made(apply, filled({"0": dense(5, 8), "1": dense(8, 3)}), (draw(16, 5),))


def _custom_gradient():
    """An activation with a gradient rule of its own, which must survive: the straight-through sign."""

    @jax.custom_vjp
    def sign(x):
        return jnp.sign(x)

    sign.defvjp(lambda x: (jnp.sign(x), x), lambda x, g: (jnp.where(jnp.abs(x) < 1, g, 0.0),))

    def apply(params, x):
        return affine(params["1"], sign(affine(params["0"], x)))

    return Made(apply, filled({"0": dense(5, 8), "1": dense(8, 3)}), (draw(16, 5),))


def _reversed():
    """What has no rule of its own pins: here a flip, whose units would change places."""

    def apply(params, x):
        return affine(params["1"], jnp.tanh(affine(params["0"], x))[:, ::-1])

    return Made(apply, filled({"0": dense(5, 8), "1": dense(8, 3)}), (draw(16, 5),))


CASES = [
    Case("mlp", _mlp(jax.nn.relu, jnp.tanh), HIDDEN),
    Case("mlp_silu_gelu", _mlp(jax.nn.silu, jax.nn.gelu), HIDDEN),
    Case("sigmoid_before_a_bias", _between(jax.nn.sigmoid), _middle()),
    Case("sigmoid_before_no_bias", _between(jax.nn.sigmoid, head=False), _middle(refused="dot_general")),
    Case("softmax_of_features", _between(jax.nn.softmax), _middle(refused="reduce_max|exp|reduce_sum")),
    Case(
        "layer_norm_of_deviations", _between(_layer_norm_of_deviations), _middle(refused="sub|sum|mean|norm")
    ),
    Case(
        "layer_norm_of_squares",
        _learned_layer_norm,
        (unit(8, "0/kernel@1 0/bias@0 scale@0 shift@0", "1/kernel@0"),),
    ),
    Case(
        "shared_weights",
        _shared,
        (unit(8, "in/kernel@1 in/bias@0 shared/kernel@1 shared/bias@0", "shared/kernel@0 out/kernel@0"),),
    ),
    Case(
        "mixture_of_experts",
        _mixture,
        (
            unit(3, "gate/kernel@1 gate/bias@0 up@0 up_bias@0 down@0", refused="reduce_max|exp|reduce_sum"),
            unit(6, "up@2 up_bias@1", "down@1"),
            unit(4, "down@2", "head/kernel@0"),
        ),
    ),
    Case(
        "split_and_joined",
        _split_and_joined,
        (
            unit(3, "0/kernel@1 0/bias@0", "1/kernel@0+5"),
            unit(5, "0/kernel@1+3 0/bias@0+3", "1/kernel@0"),
        ),
    ),
    Case("custom_gradient", _custom_gradient, _middle()),
    Case("reversed", _reversed, ()),
]
