"""Functions that compute another thing than the recorded program are told apart from it."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.sharding import Mesh, PartitionSpec
from structures.models import CASES
from structures.oracles import graph_of, made_of

import jaxreg
from jaxreg import structures


def draw(seed, *shape):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


PARAMS = {"a": draw(0, 4, 8).at[:, :3].set(0), "b": draw(1, 8, 2)}
X = draw(2, 8, 4)


def hidden(params, x):
    return jax.nn.relu(x @ params["a"]) @ params["b"]


def then(function):
    return lambda params, x: function(hidden(params, x))


def on_mesh(function):
    mesh = Mesh(np.array(jax.devices()[:1]), ("m",))
    spec = PartitionSpec()
    return lambda y: jax.shard_map(function, mesh=mesh, in_specs=spec, out_specs=spec)(y)


def reduced(combine):
    return lambda y: lax.reduce(y, np.float32(0), combine, (1,))


def windowed(combine):
    return lambda y: lax.reduce_window(y, np.float32(0), combine, (2, 1), (1, 1), "VALID")


def solved(factor):
    return lambda y: lax.custom_linear_solve(lambda v: factor * v, y, lambda _, b: b / factor)


def with_rule(factor, forward=jnp.sin):
    @jax.custom_vjp
    def function(y):
        return forward(y)

    function.defvjp(lambda y: (forward(y), y), lambda y, slope: (factor * slope * y,))
    return function


def with_jvp(factor):
    @jax.custom_jvp
    def function(y):
        return jnp.sin(y)

    function.defjvp(lambda primals, tangents: (function(*primals), factor * jax.nn.relu(*tangents)))
    return function


def with_jvp_within(factor):
    inner = with_jvp(factor)

    @jax.custom_jvp
    def function(y):
        return jnp.sin(y)

    function.defjvp(lambda primals, tangents: (function(*primals), inner(*primals) * tangents[0]))
    return function


def repeated(times):
    def step(carry):
        return carry[0] * 2, carry[1] + 1

    return lambda y: lax.while_loop(lambda carry: carry[1] < times, step, (y, 0))[0]


def listening(function):
    shape = jax.ShapeDtypeStruct((8, 2), jnp.float32)
    return lambda y: jax.pure_callback(function, shape, y)


def applied(function):
    return lambda y: y.at[0].apply(function)


def plus(constant):
    return lambda y: jnp.where(y > 0, y, constant)


PAIRS = {
    "shard_map": (on_mesh, jnp.sin, jnp.cos),
    "shard_map_with_a_rule": (on_mesh, jax.nn.relu, jax.nn.relu6),
    "reduce": (reduced, lambda a, b: a + b * a, lambda a, b: a - b + a * b),
    "reduce_window": (windowed, lambda a, b: a + b * a, lambda a, b: a - b),
    "scatter": (applied, jnp.sin, jnp.cos),
    "linear_solve": (solved, 2.0, 4.0),
    "custom_vjp": (with_rule, 2.0, 3.0),
    "custom_jvp": (with_jvp, 2.0, 3.0),
    "custom_jvp_within": (with_jvp_within, 2.0, 3.0),
    "while": (repeated, 3, 4),
    "checkpoint": (jax.checkpoint, jnp.sin, jnp.cos),
    "callback": (listening, np.sin, np.cos),
    "constant": (plus, 0.0, 1.0),
    "outputs": (lambda function: function, lambda y: (y, y), lambda y: (y, y, y)),
    "output": (lambda function: function, lambda y: y, lambda y: {"logits": y}),
    "order": (lambda function: function, lambda y: (y, 2 * y), lambda y: (2 * y, y)),
    "operands": (
        lambda function: function,
        lambda y: jnp.concatenate([y, y]),
        lambda y: jnp.concatenate([y, y, y])[:16],
    ),
}


@pytest.mark.parametrize("name", PAIRS)
def test_what_differs_inside_is_seen_and_what_is_the_same_is_not(name):
    make, mine, other = PAIRS[name]
    graph = structures.trace(then(make(mine)), PARAMS, X)
    small = jaxreg.compact(graph, PARAMS)
    assert small.sizes["a"] == (4, 5)
    assert small.module_difference() is None
    assert small.module_difference(then(make(mine))) is None
    assert isinstance(small.module_difference(then(make(other))), str)


def test_another_gradient_rule_is_named():
    small = jaxreg.compact(structures.trace(then(with_rule(2.0)), PARAMS, X), PARAMS)
    assert "another gradient rule" in small.module_difference(then(with_rule(3.0)))
    assert "instead of custom_vjp_call" in small.module_difference(then(jnp.sin))


def test_kernels_are_compared():
    pallas = pytest.importorskip("jax.experimental.pallas")

    def make(factor):
        def kernel(source, goal):
            goal[...] = source[...] * factor

        return lambda y: pallas.pallas_call(
            kernel, out_shape=jax.ShapeDtypeStruct(y.shape, y.dtype), interpret=True
        )(y)

    small = jaxreg.compact(structures.trace(then(make(2.0)), PARAMS, X), PARAMS)
    assert "3.0 instead of 2.0" in small.module_difference(then(make(3.0)))


def test_another_module_output_is_named():
    small = jaxreg.compact(structures.trace(hidden, PARAMS, X), PARAMS)
    difference = small.module_difference(functools.partial(then(lambda y: {"logits": y})))
    assert difference == "its output is PyTreeDef({'logits': *}) instead of PyTreeDef(*)"


# Their loops pass an array on that nothing changes, which JAX takes out of a loop that is replayed.
PASSED_ON = ("elman", "gru")


@pytest.mark.parametrize("case", [case for case in CASES if case.name not in PASSED_ON], ids=str)
def test_a_model_that_lost_nothing_is_the_same(case):
    made, graph = made_of(case), graph_of(case)
    assert jaxreg.compact(graph, made.params).same_module
