"""Path strings must not depend on the framework's containers."""

import collections
import dataclasses

import chex
import equinox as eqx
import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn
from flax import nnx
from flax.core import freeze

from jaxreg import tree

ONE = np.ones(1, np.float32)
Pair = collections.namedtuple("Pair", "kernel value")


@jax.tree_util.register_dataclass
@dataclasses.dataclass
class Plain:
    kernel: object
    value: object


@chex.dataclass
class Chex:
    kernel: object
    value: object


class Module(eqx.Module):
    kernel: object
    value: object


@pytest.mark.parametrize(
    "layer",
    [
        {"kernel": ONE, "value": ONE},
        freeze({"kernel": ONE, "value": ONE}),
        Pair(ONE, ONE),
        Plain(ONE, ONE),
        Chex(kernel=ONE, value=ONE),
        Module(ONE, ONE),
        nnx.State({"kernel": nnx.Param(ONE), "value": nnx.Param(ONE)}),
        {"kernel": nnx.Param(ONE), "value": nnx.Param(ONE)},
    ],
    ids=lambda layer: type(layer).__name__,
)
@pytest.mark.parametrize("index", [0, 1])
def test_paths_are_the_same_in_every_container(layer, index):
    layers = [(), ()]
    layers[index] = layer
    for container in (list, tuple):
        assert tree.flatten({"net": container(layers)}).paths == (f"net/{index}/kernel", f"net/{index}/value")


def test_nnx_paths_lack_the_box_with_and_without_it():
    class Net(nnx.Module):
        def __init__(self, rngs):
            self.linear = nnx.Linear(2, 3, rngs=rngs)
            # A variable may hold a pytree, so that the box is not the last step of the path.
            self.value = nnx.Param({"value": jnp.ones(1), "other": jnp.ones(1)})

    net = Net(nnx.Rngs(0))
    state = nnx.state(net, nnx.Param)
    expected = ("linear/bias", "linear/kernel", "value/other", "value/value")
    assert tree.flatten(state).paths == expected
    assert tree.flatten(nnx.to_pure_dict(state)).paths == expected
    assert tree.flatten(net).paths == expected
    assert tree.flatten(nnx.Param(jnp.ones(1))).paths == ("",)


def test_linen_and_haiku_paths():
    linen = nn.Dense(2).init(jax.random.key(0), jnp.ones((1, 3)))
    assert tree.flatten(linen).paths == ("params/bias", "params/kernel")
    net = hk.transform(lambda x: hk.nets.MLP([2])(x))
    assert tree.flatten(net.init(jax.random.key(0), jnp.ones((1, 3)))).paths == (
        "mlp/~/linear_0/b",
        "mlp/~/linear_0/w",
    )


def test_absent_leaves_keep_their_place():
    params = {"a": None, "b": optax.MaskedNode(), "c": ONE}
    flat = tree.flatten(params)
    assert flat.paths == ("a", "b", "c")
    assert [tree.is_absent(leaf) for leaf in flat.leaves] == [True, True, False]
    assert flat.rebuild(flat.leaves) == params


def test_a_single_array_has_the_empty_path():
    assert tree.flatten(ONE).paths == ("",)


@pytest.mark.parametrize(
    ("leaf", "expected"),
    [
        (1.5, True),
        (jnp.bfloat16(1), True),
        (jax.ShapeDtypeStruct((2,), jnp.complex64), True),
        (1, False),
        (np.int32(1), False),
        (jax.random.key(0), False),
        (jnp.float32, False),  # types and functions are leaves of equinox modules
        (np.float32, False),
        (jax.nn.relu, False),
    ],
    ids="float bfloat16 struct int int32 key jax-type numpy-type function".split(),
)
def test_is_inexact(leaf, expected):
    assert tree.is_inexact(leaf) is expected


def test_spread_matches_prefixes_by_path():
    flat = tree.flatten(freeze({"a": {"x": ONE, "y": ONE}, "b": ONE}))
    assert tree.spread({"a": 1, "b": 2}, flat, "strength", [0, 1, 2]) == {0: 1, 1: 1, 2: 2}
    assert tree.spread({"a": {"x": 1, "y": 3}}, flat, "strength", [0, 1]) == {0: 1, 1: 3}
    assert tree.spread(5, flat, "strength", [2]) == {2: 5}


def test_spread_errors_name_the_leaf():
    flat = tree.flatten({"a": {"x": ONE}, "b": ONE})
    with pytest.raises(ValueError, match="'strength' has no entry for the leaf 'b'"):
        tree.spread({"a": 1}, flat, "strength", [0, 1])
    with pytest.raises(ValueError, match=r"'strength' has an entry 'c' that is above no leaf.*begin: a/x, b"):
        tree.spread({"a": 1, "b": 1, "c": 1}, flat, "strength", [0, 1])
    with pytest.raises(ValueError, match="'b/deeper' that is above no leaf"):
        tree.spread({"a": 1, "b": {"deeper": 1}}, flat, "strength", [0])


def test_align_names_the_argument():
    with pytest.raises(ValueError, match="'grads' must have the tree structure of the parameters"):
        tree.flatten({"a": ONE}).align({"b": ONE}, "grads")
