"""The gradient rules that functions bring along, and whether two of them are the same."""

import functools
from collections.abc import Iterator, Mapping, Sequence, Set
from typing import Any

import jax
import jax.numpy as jnp

JVP_RULE = frozenset(["custom_jvp_call", "custom_jvp_call_jaxpr"])
VJP_RULE = frozenset(["custom_vjp_call", "custom_vjp_call_jaxpr"])
WITH_RULE = JVP_RULE | VJP_RULE
_BODIES = ("jaxpr", "call_jaxpr", "fun_jaxpr")


class Rule:
    """The gradient rule of an equation, as a jaxpr, or the error that it raised."""

    def __init__(self, equation: Any) -> None:
        self.equation = equation
        self.jaxpr: Any = None
        self.error: Exception | None = None
        try:
            self.jaxpr = _gradient_jaxpr(equation, [_struct(atom.aval) for atom in equation.invars])
        except Exception as error:  # whatever the user's own rule raises
            self.error = error

    @functools.cached_property
    def text(self) -> str:
        return str(self.jaxpr)

    @functools.cached_property
    def summary(self) -> tuple[Any, ...]:
        """What tells most rules apart without their texts."""
        jaxpr = self.jaxpr.jaxpr
        return (
            self.equation.primitive,
            [(var.aval.shape, var.aval.dtype) for var in (*jaxpr.invars, *jaxpr.constvars)],
            [equation.primitive for equation in jaxpr.eqns],
        )

    @functools.cached_property
    def consts(self) -> list[Any]:
        """Arrays that the text does not show, of what it calls too."""
        return [const for _, consts in _jaxprs(self.jaxpr) for const in consts]

    @functools.cached_property
    def inner(self) -> list[Any]:
        """The equations in it with a gradient rule of their own, but for those in the bodies of others."""
        jaxprs = [jaxpr for jaxpr, _ in _jaxprs(self.jaxpr, WITH_RULE)]
        return [eqn for jaxpr in jaxprs for eqn in jaxpr.eqns if eqn.primitive.name in WITH_RULE]


class Rules:
    """The gradient rules of equations, each made once."""

    def __init__(self) -> None:
        self.known: dict[int, Rule] = {}

    def of(self, equation: Any) -> Rule:
        if id(equation) not in self.known:
            self.known[id(equation)] = Rule(equation)  # which keeps the equation, and its id, alive
        return self.known[id(equation)]

    def same(self, ours: Rule, theirs: Rule, further: int) -> bool:
        """Whether they are equal, and those of the functions in them, as many times further in.

        A text shows a function with a rule of its own by its name and body, and not its rule.
        """
        if ours is theirs:
            return True
        return (
            ours.error is None
            and theirs.error is None
            and ours.summary == theirs.summary
            and len(ours.consts) == len(theirs.consts)
            and all(a is b for a, b in zip(ours.consts, theirs.consts, strict=True))
            and ours.text == theirs.text
            and (
                further == 0
                or all(
                    self.same(self.of(a), self.of(b), further - 1)
                    for a, b in zip(ours.inner, theirs.inner, strict=True)
                )
            )
        )


def _jaxprs(value: Any, without: Set[str] = frozenset()) -> Iterator[tuple[Any, Sequence[Any]]]:
    """All jaxprs within one another, each with the arrays that it closes over.

    Those of the primitives ``without`` are left out.
    """
    if isinstance(value, tuple | list):
        for item in value:
            yield from _jaxprs(item, without)
    elif hasattr(getattr(value, "jaxpr", value), "eqns"):
        jaxpr, consts = body_of({"jaxpr": value})
        yield jaxpr, consts
        for equation in jaxpr.eqns:
            if equation.primitive.name not in without:
                yield from _jaxprs(list(equation.params.values()), without)


def bind(primitive: Any, params: Mapping[str, Any], arrays: Sequence[Any]) -> Any:
    """Apply a primitive with the parameters of an equation."""
    given = primitive.get_bind_params(dict(params))
    # Older versions hand the functions among the parameters out apart.
    subfunctions, rest = given if isinstance(given, tuple) else ((), given)
    return primitive.bind(*subfunctions, *arrays, **rest)


def differentiable(values: Sequence[Any]) -> list[int]:
    """Which of these arrays have a gradient."""
    return [index for index, value in enumerate(values) if jnp.issubdtype(value.dtype, jnp.inexact)]


def body_of(params: Mapping[str, Any]) -> tuple[Any, Sequence[Any]]:
    jaxpr = next(params[name] for name in _BODIES if name in params)
    return getattr(jaxpr, "jaxpr", jaxpr), getattr(jaxpr, "consts", ())


def _gradient_jaxpr(equation: Any, inputs: Sequence[Any]) -> Any:
    """What differentiates a function: its results as the rule has them, then tangents or cotangents."""

    def call(*arrays: Any) -> Any:
        return bind(equation.primitive, equation.params, arrays)

    places = differentiable(inputs)

    def along(arrays: Sequence[Any]) -> Any:
        def function(*moved: Any) -> Any:
            full = list(arrays)
            for place, array in zip(places, moved, strict=True):
                full[place] = array
            outputs = call(*full)
            return [outputs[index] for index in differentiable(outputs)]

        return function

    def pushforward(arrays: Any, tangents: Any) -> Any:
        return jax.jvp(along(arrays), [arrays[place] for place in places], tangents)

    def pullback(arrays: Any, cotangents: Any) -> Any:
        results, pull = jax.vjp(along(arrays), *[arrays[place] for place in places])
        return [*results, *pull(cotangents)]

    if equation.primitive.name in JVP_RULE:
        return jax.make_jaxpr(pushforward)(list(inputs), [inputs[place] for place in places])
    outputs = [_struct(var.aval) for var in equation.outvars]
    return jax.make_jaxpr(pullback)(list(inputs), [outputs[place] for place in differentiable(outputs)])


def _struct(aval: Any) -> Any:
    return jax.ShapeDtypeStruct(aval.shape, aval.dtype)
