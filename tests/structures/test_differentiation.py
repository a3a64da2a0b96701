"""What is left is differentiated, once and again, as it was within the larger model."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxreg
from jaxreg import structures
from jaxreg.structures import gradient_rules


def draw(seed, *shape):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def shrunk(function, x, **more):
    params = {"a": draw(0, 3, 6), "b": draw(1, 6, 2), "c": draw(2, 2), **more}
    params["a"][:, [2, 4]] = 0
    return params, jaxreg.compact(structures.trace(function, params, x), params, inputs=[x])


# A function, what it has besides, and how many units are left.
OTHERS = {
    "scale within": (
        lambda p, x: (jax.nn.softplus(p["s"] * (x @ p["a"])) / p["s"]) @ p["b"] + p["c"], np.float32(0.3), 6),
    "shift at zero": (
        lambda p, x: jnp.tanh(x @ p["a"] + p["s"][:, None]) @ p["b"], np.zeros(4, np.float32), 6),
    "gate at zero": (lambda p, x: (p["s"] * jnp.tanh(x @ p["a"])) @ p["b"], np.zeros((), np.float32), 4),
    "slope": (
        lambda p, x: jnp.where(x @ p["a"] > 0, x @ p["a"], p["s"] * (x @ p["a"])) @ p["b"], draw(3, 1), 4),
    "one per unit": (
        lambda p, x: (jax.nn.softplus(x @ p["a"]) * p["s"]) @ p["b"] + p["c"], np.ones(6, np.float32), 4),
}  # fmt: skip


@pytest.mark.parametrize("name", OTHERS)
def test_no_constant_is_taken_from_parameters_that_stay(name):
    function, other, left = OTHERS[name]
    x = draw(4, 4, 3)
    params, small = shrunk(function, x, s=other)
    assert small.sizes["a"] == (3, left)
    live = small.kept[0]

    def slopes(apply, params):
        return jax.grad(lambda s: apply(params | {"s": s}, x).sum())(params["s"])

    ours, theirs = slopes(small.apply, small.params), slopes(function, params)
    np.testing.assert_allclose(ours, theirs if np.size(theirs) < 6 else theirs[live], rtol=1e-5, atol=1e-5)


@jax.custom_jvp
def through(x):
    """Rounds, and passes slopes on."""
    return jnp.round(x)


through.defjvp(lambda primals, tangents: (jnp.round(primals[0]), tangents[0]))


@jax.custom_jvp
def cube(x):
    return x**3 / 6


cube.defjvp(lambda p, t: (p[0] ** 3 / 6, through(p[0]) ** 2 / 2 * t[0]))


@jax.custom_vjp
def square(x):
    return 0.5 * jnp.maximum(x, 0) ** 2


square.defvjp(lambda x: (square(x), x), lambda x, slope: (slope * jax.nn.relu(x),))


def straight(again):
    """Its forward rule calls it again, or the plain function; a second derivative tells."""

    @jax.custom_vjp
    def rounded(x):
        return jnp.round(x)

    rounded.defvjp(lambda x: ((rounded if again else jnp.round)(x), None), lambda _, slope: (slope,))
    return lambda x: rounded(x) ** 3


@pytest.mark.parametrize(
    "function",
    [cube, square, straight(True), straight(False), lambda x: (jax.nn.relu(x) + 1) ** 3 - 1],
    ids=["rule in a rule", "relu in a rule", "calls itself", "does not", "relu"],
)
def test_higher_derivatives_use_the_rules_within_rules(function):
    def apply(params, x):
        return function(x @ params["a"]) @ params["b"]

    def derivatives(apply, params, x):
        first = jax.grad(lambda x: apply(params, x).sum())
        second = jax.grad(lambda x: first(x).sum())
        return first(x), second(x), jax.grad(lambda x: second(x).sum())(x)

    params, small = shrunk(apply, draw(5, 4, 3))
    assert small.sizes["a"] == (3, 4)
    for x in (3 * draw(6, 4, 3), jnp.zeros((4, 3))):  # where relu has a kink
        for ours, theirs in zip(
            derivatives(small.apply, small.params, x), derivatives(apply, params, x), strict=True
        ):
            np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-4)


def growth(deeper):
    """exp, with a slope that is another function: all of these have the same name and body."""

    @jax.custom_jvp
    def grow(x):
        return jnp.exp(x)

    grow.defjvp(lambda p, t: (jnp.exp(p[0]), t[0] * deeper(p[0])))
    return grow


def nested(times):
    return nested_in(growth, jnp.sin, times)


def nested_in(around, function, times):
    for _ in range(times):
        function = around(function)
    return function


def along_a_line(apply, params, order):
    def function(t):
        return apply(params, jnp.full((1, 3), t)).sum()

    return nested_in(jax.grad, function, order)(0.5)


@pytest.mark.parametrize("times", range(1, 7))
def test_functions_that_look_the_same_are_told_apart_by_their_rules(times):
    def apply(params, x):
        return nested(times)(0.3 * x @ params["a"]) @ params["b"]

    params, small = shrunk(
        apply, draw(5, 1, 3), b=np.where(np.isin(np.arange(6), [2, 4])[:, None], 0, draw(1, 6, 2))
    )
    assert small.sizes["a"] == (3, 4)
    assert small.module_difference() is None
    assert small.module_difference(apply) is None
    # With five, the first rule that differs is further in than is read.
    for order in range(5 if times == 5 else 6):
        np.testing.assert_allclose(
            along_a_line(small.apply, small.params, order), along_a_line(apply, params, order), rtol=1e-4
        )
    if times == 5:
        with pytest.raises(NotImplementedError, match="at most 4 derivatives"):
            along_a_line(small.apply, small.params, 5)


def test_a_rule_that_calls_its_function_is_right_to_any_order():
    @jax.custom_jvp
    def wave(x):
        return jnp.sin(x)

    wave.defjvp(lambda p, t: (wave(p[0]), wave(p[0] + jnp.pi / 2) * t[0]))

    def apply(params, x):
        return wave(x @ params["a"]) @ params["b"]

    params, small = shrunk(apply, draw(5, 1, 3))
    for order in range(7):
        np.testing.assert_allclose(
            along_a_line(small.apply, small.params, order), along_a_line(apply, params, order), rtol=1e-3
        )


def test_only_the_rule_is_differentiated_again():
    @jax.custom_jvp
    def wave(x):
        return jax.pure_callback(lambda x: np.sin(x), jax.ShapeDtypeStruct(x.shape, x.dtype), x)

    @wave.defjvp
    def _(primals, tangents):
        return jnp.sin(primals[0]), jnp.cos(primals[0]) * tangents[0]

    def apply(params, x):
        return (wave(x @ params["a"]) * (x @ params["a"])) @ params["b"]

    params, small = shrunk(apply, draw(5, 1, 3))
    np.testing.assert_allclose(
        along_a_line(small.apply, small.params, 2), along_a_line(apply, params, 2), rtol=1e-4
    )


def test_rules_that_are_not_alike_are_told_apart_without_their_texts(monkeypatch):
    printed = []

    def text(rule):
        printed.append(rule)
        return str(rule.jaxpr)

    counted = functools.cached_property(text)
    counted.__set_name__(gradient_rules.Rule, "text")
    monkeypatch.setattr(gradient_rules.Rule, "text", counted)

    def body(params, x):
        for _ in range(4):
            x = jax.nn.relu(x @ params["a"])
        return x

    net = jax.custom_vjp(lambda params, x: body(params, x))
    net.defvjp(
        lambda params, x: (body(params, x), (params, x)), lambda kept, slope: jax.vjp(body, *kept)[1](slope)
    )
    structures.trace(net, {"a": draw(0, 3, 3)}, draw(1, 2, 3))
    assert printed
    assert len(printed) == len(set(map(id, printed)))
    assert {rule.equation.primitive.name for rule in printed} == {"custom_jvp_call"}


def test_a_rule_within_a_rule_that_raises_raises_where_it_is_asked_for():
    @jax.custom_jvp
    def once(x):
        return jnp.sin(x)

    @once.defjvp
    def _(primals, tangents):
        raise NotImplementedError("there is no second derivative")

    @jax.custom_jvp
    def wave(x):
        return -jnp.cos(x) + 1

    wave.defjvp(lambda p, t: (1 - jnp.cos(p[0]), once(p[0]) * t[0]))

    def apply(params, x):
        return wave(x @ params["a"]) @ params["b"]

    x = draw(7, 4, 3)
    params, small = shrunk(apply, x)
    ours, theirs = (
        jax.grad(lambda x, f=f, p=p: f(p, x).sum())(x)
        for f, p in ((small.apply, small.params), (apply, params))
    )
    np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)
    second = {
        name: jax.grad(jax.grad(lambda t, f=f, p=p: f(p, t * x).sum()))
        for name, f, p in (("small", small.apply, small.params), ("large", apply, params))
    }
    for derivative in second.values():
        with pytest.raises(NotImplementedError, match="there is no second derivative"):
            derivative(1.0)
    assert small.module_difference() is None
    assert small.module_difference(apply) is None
