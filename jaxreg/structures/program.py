"""A jaxpr as a program that is easy to walk: calls inlined, every value its own object.

A sub-jaxpr that is called twice is read twice, so that a value belongs to one place. Loops, branches
and functions with a gradient rule of their own are kept as blocks.
"""

import dataclasses
import itertools
import pathlib
from collections.abc import Mapping, Sequence, Set
from typing import Any, NamedTuple

import numpy as np
from jax.extend import core, source_info_util

from jaxreg.structures.constants import as_slice, folded
from jaxreg.structures.dimensions import Dimension
from jaxreg.structures.gradient_rules import WITH_RULE, Rule, Rules, body_of

INLINED = frozenset("jit pjit closed_call core_call core_closed_call call xla_call".split())
REMATERIALISED = frozenset("checkpoint remat remat2".split())
_FRAMES = 100
_DEEPEST = 4
"""How many gradient rules inside one another are read, and in how many more of them one that repeats is
looked at before it is taken to go on so: as many derivatives are right, and the next one raises."""
_HERE = str(pathlib.Path(__file__).parent)


@dataclasses.dataclass(eq=False)
class Value:
    """An array of the program. ``constant`` is set for literals and for arrays the function closes over."""

    shape: tuple[int, ...]
    dtype: Any
    dims: tuple[Dimension, ...] = ()
    constant: Any = None


@dataclasses.dataclass(frozen=True)
class Unread:
    """Why a gradient rule is not known: it is too deep within others, or raises."""

    reason: str
    too_deep: bool


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
    unread: "Unread | None" = None
    """Why its gradient rule is not known, where it has one."""
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
    program = _Reader((), Rules()).program(jaxpr.jaxpr, jaxpr.consts)
    drop_dead(program)
    return program


def inner(jaxpr: Any) -> Program:
    """A jaxpr among the parameters of an operation, with what kernels do for its effects."""
    return _Reader((), Rules()).program(*body_of({"jaxpr": jaxpr}))


class _Reader:
    def __init__(self, around: tuple["_Reading", ...], rules: Rules, inlined: Set[str] = INLINED) -> None:
        self.around = around
        """The functions with a rule of their own in whose rules this is, from the outermost in."""
        self.rules = rules
        self.inlined = inlined
        """Primitives whose bodies are read in their place."""
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
            if equation.primitive.name in self.inlined:
                body, held = body_of(equation.params)
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
        elif name in WITH_RULE:
            # It is differentiated by its rule, so that no rule inside of it is asked for.
            plain = _Reader(self.around, self.rules, self.inlined | WITH_RULE)
            plain.calls = self.calls
            bodies = [plain.program(*body_of(params))]
        elif name == "scan" or name in REMATERIALISED:
            bodies = [self.program(*body_of(params))]
        operation = Operation(
            equation.primitive,
            params,
            tuple(inputs),
            tuple(outputs),
            (*self.calls, equation.source_info),
            tuple(bodies),
        )
        if name in WITH_RULE:
            self.add_gradient(operation, equation)
        return operation

    def add_gradient(self, operation: Operation, equation: Any) -> None:
        if len(self.around) == _DEEPEST:
            operation.unread = Unread(
                f"at most {_DEEPEST} derivatives can be taken through gradient rules that are made "
                "of functions with gradient rules of their own",
                too_deep=True,
            )
            return
        rule = self.rules.of(equation)
        if rule.error is not None:
            if not self.around:
                raise rule.error
            # It may never be asked for.
            operation.unread = Unread(f"it raised {type(rule.error).__name__}: {rule.error}", too_deep=False)
            return
        # The rule of relu calls relu, whose rule calls it again.
        further = _DEEPEST - len(self.around)
        same = next((outer for outer in self.around if self.rules.same(outer.rule, rule, further)), None)
        if same is not None:
            operation.around = same.operation
            same.repeated.append(operation)
            return
        reading = _Reading(operation, rule, [])
        inside = _Reader((*self.around, reading), self.rules)
        operation.gradient = inside.program(rule.jaxpr.jaxpr, rule.jaxpr.consts)
        for inner in reading.repeated:
            inner.gradient = operation.gradient

    def closed(self, jaxpr: Any) -> Program:
        return self.program(jaxpr.jaxpr, jaxpr.consts)


class _Reading(NamedTuple):
    """An operation whose gradient rule is being read, and the operations in it that have the same rule."""

    operation: Operation
    rule: Rule
    repeated: list[Operation]


def _frames(source: Any) -> list[str]:
    """From the innermost out, as far as the traced function goes."""
    frames = source_info_util.summarize(source, num_frames=_FRAMES).splitlines()[::-1]
    return list(itertools.takewhile(lambda frame: not frame.startswith(_HERE), frames))


def _value(aval: Any, constant: Any = None) -> Value:
    if not hasattr(aval, "shape"):  # a token, which orders side effects
        return Value((), np.dtype(bool), constant=constant)
    if constant is not None and not hasattr(constant, "dtype"):
        constant = np.asarray(constant, aval.dtype)
    return Value(tuple(aval.shape), aval.dtype, constant=constant)


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
