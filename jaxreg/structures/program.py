"""A jaxpr as a program that is easy to walk: calls inlined, every value its own object.

A sub-jaxpr that is called twice is read twice, so that a value belongs to one place. Loops, branches
and functions with a gradient rule of their own are kept as blocks.
"""

import dataclasses
import itertools
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import core, source_info_util

from jaxreg.structures.constants import as_slice, folded
from jaxreg.structures.dimensions import Dimension

INLINED = frozenset("jit pjit closed_call core_call core_closed_call call xla_call".split())
REMATERIALISED = frozenset("checkpoint remat remat2".split())
JVP_RULE = frozenset(["custom_jvp_call", "custom_jvp_call_jaxpr"])
VJP_RULE = frozenset(["custom_vjp_call", "custom_vjp_call_jaxpr"])
_FRAMES = 100
_DEEPEST = 4
"""How many gradient rules inside one another are read: as many derivatives as are right."""
_HERE = str(pathlib.Path(__file__).parent)
_BODIES = ("jaxpr", "call_jaxpr", "fun_jaxpr")


@dataclasses.dataclass(eq=False)
class Value:
    """An array of the program. ``constant`` is set for literals and for arrays the function closes over."""

    shape: tuple[int, ...]
    dtype: Any
    dims: tuple[Dimension, ...] = ()
    constant: Any = None


@dataclasses.dataclass(eq=False)
class Operation:
    """One equation. ``bodies`` are the programs inside a block, ``gradient`` is its own gradient rule."""

    primitive: Any
    params: Mapping[str, Any]
    inputs: tuple[Value, ...]
    outputs: tuple[Value, ...]
    sources: tuple[Any, ...]
    """Where it was made, after the calls that it was inlined from: JAX keeps what is inside of a jitted
    function from its first call, with the lines of that call or with none."""
    bodies: tuple["Program", ...] = ()
    gradient: "Program | None" = None
    around: "Operation | None" = None
    """The operation in whose gradient rule this one is, where it is the same function again."""
    moves: list[list[tuple[tuple[int, int], ...]]] = dataclasses.field(default_factory=list)
    """For each axis of each output, the (input, axis) pairs that it continues."""
    contracted: set[tuple[int, int]] = dataclasses.field(default_factory=set)
    """The (input, axis) pairs that are summed against another input's."""

    @property
    def name(self) -> str:
        return self.primitive.name

    def where(self) -> str:
        """The primitive and the user's line that made it."""
        frames = [frame for source in self.sources for frame in _frames(source)]
        # Those of installed packages are rarely the user's own.
        line = next((frame for frame in frames if "-packages" not in frame), frames[0] if frames else "")
        return f"{self.name} at {line}" if line else self.name


@dataclasses.dataclass(eq=False)
class Program:
    inputs: list[Value]
    operations: list[Operation]
    outputs: list[Value]
    constants: list[Value] = dataclasses.field(default_factory=list)
    """Literals and closed-over arrays, of this program alone and not of those inside its blocks."""


def read(jaxpr: Any) -> Program:
    """The program of a closed jaxpr, without the operations that nothing depends on."""
    program = _Reader(()).program(jaxpr.jaxpr, jaxpr.consts)
    drop_dead(program)
    return program


def inner(jaxpr: Any) -> Program:
    """A jaxpr among the parameters of an operation, with what kernels do for its effects."""
    return _Reader(()).program(*_body({"jaxpr": jaxpr}))


class _Reader:
    def __init__(self, rules: tuple["_Rule", ...]) -> None:
        self.rules = rules
        """Those of the functions with a rule of their own in whose rules this is, from the outermost in."""
        self.calls: list[Any] = []
        """Sources of the calls that are being inlined, from the outermost in."""

    def program(self, jaxpr: Any, consts: Sequence[Any]) -> Program:
        inputs = [_value(var.aval) for var in jaxpr.invars]
        constants = [_value(var.aval, const) for var, const in zip(jaxpr.constvars, consts, strict=True)]
        program = Program(inputs, [], [], constants)
        program.outputs = self.inline(jaxpr, inputs, constants, program)
        return program

    def inline(
        self, jaxpr: Any, inputs: Sequence[Value], consts: Sequence[Value], program: Program
    ) -> list[Value]:
        env = dict(zip([*jaxpr.constvars, *jaxpr.invars], [*consts, *inputs], strict=True))

        def lookup(atom: Any) -> Value:
            if not isinstance(atom, core.Literal):
                return env[atom]
            program.constants.append(_value(atom.aval, atom.val))
            return program.constants[-1]

        for equation in jaxpr.eqns:
            arguments = [lookup(atom) for atom in equation.invars]
            if equation.primitive.name in INLINED:
                body, held = _body(equation.params)
                consts = [_value(v.aval, c) for v, c in zip(body.constvars, held, strict=True)]
                program.constants += consts
                self.calls.append(equation.source_info)
                results = self.inline(body, arguments, consts, program)
                self.calls.pop()
            else:
                results = [_value(var.aval) for var in equation.outvars]
                self.add(equation, arguments, results, program)
            env.update(zip(equation.outvars, results, strict=True))
        return [lookup(atom) for atom in jaxpr.outvars]

    def add(self, equation: Any, inputs: list[Value], outputs: list[Value], program: Program) -> None:
        name, params, first = equation.primitive.name, equation.params, outputs[0] if outputs else None
        if first is not None and len(outputs) == 1:
            constant = folded(name, params, [value.constant for value in inputs], first.shape, first.dtype)
            if constant is not None:
                first.constant = constant
                program.constants.append(first)
                return
        operation = self.operation(equation, inputs, outputs)
        if name in ("gather", "dynamic_slice"):
            places = [value.constant for value in inputs[1:]]
            static = as_slice(name, params, inputs[0].shape, places, outputs[0].shape)
            if static is not None:
                operation.primitive, operation.params = static
                operation.inputs = operation.inputs[:1]
        program.operations.append(operation)

    def operation(self, equation: Any, inputs: Sequence[Value], outputs: Sequence[Value]) -> Operation:
        name, params = equation.primitive.name, equation.params
        bodies: list[Program] = []
        if name == "while":
            bodies = [self.closed(params["cond_jaxpr"]), self.closed(params["body_jaxpr"])]
        elif name == "cond":
            bodies = [self.closed(branch) for branch in params["branches"]]
        elif name == "scan" or name in REMATERIALISED | JVP_RULE | VJP_RULE:
            bodies = [self.program(*_body(params))]
        operation = Operation(
            equation.primitive,
            params,
            tuple(inputs),
            tuple(outputs),
            (*self.calls, equation.source_info),
            tuple(bodies),
        )
        if name in JVP_RULE | VJP_RULE and len(self.rules) < _DEEPEST:
            self.add_gradient(operation, equation)
        return operation

    def add_gradient(self, operation: Operation, equation: Any) -> None:
        try:
            jaxpr = _gradient_jaxpr(equation, [_struct(value) for value in operation.inputs])
        # Whatever the user's own rule raises: one within another rule may never be asked for.
        except Exception:
            if self.rules:
                return
            raise
        rule = _Rule(operation, jaxpr, [])
        # The rule of relu calls relu, whose rule calls it again.
        same = next((outer for outer in self.rules if outer.same(rule)), None)
        if same is not None:
            operation.around = same.operation
            same.repeated.append(operation)
            return
        operation.gradient = _Reader((*self.rules, rule)).program(rule.jaxpr.jaxpr, rule.jaxpr.consts)
        for inner in rule.repeated:
            inner.gradient = operation.gradient

    def closed(self, jaxpr: Any) -> Program:
        return self.program(jaxpr.jaxpr, jaxpr.consts)


class _Rule(NamedTuple):
    """A gradient rule that is being read, and the operations in it that have the same rule."""

    operation: Operation
    jaxpr: Any
    repeated: list[Operation]

    def same(self, other: "_Rule") -> bool:
        ours, theirs = self.jaxpr, other.jaxpr
        return (
            len(ours.consts) == len(theirs.consts)
            and all(a is b for a, b in zip(ours.consts, theirs.consts, strict=True))
            and str(ours) == str(theirs)
        )


def _frames(source: Any) -> list[str]:
    """From the innermost out, as far as the traced function goes."""
    frames = source_info_util.summarize(source, num_frames=_FRAMES).splitlines()[::-1]
    return list(itertools.takewhile(lambda frame: not frame.startswith(_HERE), frames))


def bind(primitive: Any, params: Mapping[str, Any], arrays: Sequence[Any]) -> Any:
    """Apply a primitive with the parameters of an equation."""
    given = primitive.get_bind_params(dict(params))
    # Older versions hand the functions among the parameters out apart.
    subfunctions, rest = given if isinstance(given, tuple) else ((), given)
    return primitive.bind(*subfunctions, *arrays, **rest)


def differentiable(values: Sequence[Any]) -> list[int]:
    """Which of these arrays have a gradient."""
    return [index for index, value in enumerate(values) if jnp.issubdtype(value.dtype, jnp.inexact)]


def _body(params: Mapping[str, Any]) -> tuple[Any, Sequence[Any]]:
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
    outputs = [jax.ShapeDtypeStruct(var.aval.shape, var.aval.dtype) for var in equation.outvars]
    return jax.make_jaxpr(pullback)(list(inputs), [outputs[place] for place in differentiable(outputs)])


def _value(aval: Any, constant: Any = None) -> Value:
    if not hasattr(aval, "shape"):  # a token, which orders side effects
        return Value((), np.dtype(bool), constant=constant)
    if constant is not None and not hasattr(constant, "dtype"):
        constant = np.asarray(constant, aval.dtype)
    return Value(tuple(aval.shape), aval.dtype, constant=constant)


def _struct(value: Value) -> Any:
    return jax.ShapeDtypeStruct(value.shape, value.dtype)


def drop_dead(program: Program) -> None:
    """Without the operations that nothing depends on."""
    needed = set(program.outputs)
    alive = []
    for operation in reversed(program.operations):
        if needed.isdisjoint(operation.outputs):
            continue
        alive.append(operation)
        needed.update(operation.inputs)
    program.operations = alive[::-1]
    program.constants = [value for value in program.constants if value in needed]
