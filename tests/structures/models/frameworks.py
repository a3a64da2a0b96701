"""The same few layers in the other frameworks, whose parameter trees and jaxprs look different."""

import equinox as eqx
import haiku as hk
import jax
import jax.numpy as jnp
from flax import nnx
from structures.models.case import Case, Made, draw, filled, unit


class NnxModel(nnx.Module):
    def __init__(self, rngs):
        self.conv = nnx.Conv(2, 5, (3, 3), rngs=rngs)
        self.norm = nnx.BatchNorm(5, use_running_average=True, rngs=rngs)
        self.dense = nnx.Linear(5, 7, rngs=rngs)
        self.drop = nnx.Dropout(0.5, deterministic=True)
        self.classes = nnx.Linear(7, 3, rngs=rngs)

    def __call__(self, x):
        x = nnx.relu(self.norm(self.conv(x))).mean((1, 2))
        return self.classes(self.drop(nnx.relu(self.dense(x))))


def _nnx():
    graph, shapes = nnx.split(nnx.eval_shape(lambda: NnxModel(nnx.Rngs(0))))
    return Made(lambda state, x: nnx.merge(graph, state)(x), filled(shapes), (draw(4, 5, 5, 2),))


NNX = (
    unit(
        5,
        "conv/kernel@3 conv/bias@0 norm/scale@0 norm/bias@0 norm/mean@0 norm/var@0",
        "dense/kernel@0",
    ),
    unit(7, "dense/kernel@1 dense/bias@0", "classes/kernel@0"),
)


class EquinoxModel(eqx.Module):
    conv: eqx.nn.Conv2d
    norm: eqx.nn.RMSNorm
    mlp: eqx.nn.MLP

    def __init__(self, key):
        self.conv = eqx.nn.Conv2d(2, 4, 3, key=key)
        self.norm = eqx.nn.RMSNorm(4, use_bias=True)
        self.mlp = eqx.nn.MLP(4, 3, width_size=6, depth=1, activation=jax.nn.gelu, key=key)

    def __call__(self, x):
        return self.mlp(self.norm(jax.nn.relu(self.conv(x)).mean((1, 2))))


def _equinox():
    shapes = eqx.filter_eval_shape(EquinoxModel, jax.random.key(0))
    arrays, static = eqx.partition(shapes, lambda leaf: isinstance(leaf, jax.ShapeDtypeStruct))

    def apply(params, x):
        return jax.vmap(eqx.combine(params, static))(x)

    return Made(apply, filled(arrays), (draw(4, 2, 5, 5),))


EQUINOX = (
    unit(4, "conv/weight@0 conv/bias@0 norm/weight@0 norm/bias@0", "mlp/layers/0/weight@1"),
    unit(6, "mlp/layers/0/weight@0 mlp/layers/0/bias@0", "mlp/layers/1/weight@1"),
)


def _haiku():
    def model(x):
        x = jax.nn.relu(hk.Linear(8, name="first")(x))
        x = hk.LayerNorm(-1, create_scale=True, create_offset=True, name="norm")(x)
        x = jnp.tanh(hk.Linear(6, name="second")(x))
        return hk.Linear(3, name="third")(x)

    transformed = hk.without_apply_rng(hk.transform(model))
    x = draw(16, 5)
    shapes = jax.eval_shape(transformed.init, jax.random.key(0), x)
    return Made(transformed.apply, filled(shapes), (x,))


HAIKU = (
    unit(8, "first/w@1 first/b@0 norm/scale@0 norm/offset@0", "second/w@0", refused="sub|sum|mean|norm"),
    unit(6, "second/w@1 second/b@0", "third/w@0"),
)

CASES = [
    Case("nnx", _nnx, NNX),
    Case("equinox", _equinox, EQUINOX),
    Case("haiku", _haiku, HAIKU),
]
