"""Rules of loops, branches and functions with a gradient rule of their own."""

from collections.abc import Sequence

from jaxreg.structures import rules
from jaxreg.structures.dimensions import leaf, pin, pinned, unify
from jaxreg.structures.gradient_rules import JVP_RULE, VJP_RULE, differentiable
from jaxreg.structures.program import REMATERIALISED, Operation, Program, Value
from jaxreg.structures.rules import Axes, Axis, rule


def walk(program: Program) -> None:
    """Give every value of a program its dimensions; its inputs have theirs."""
    for value in program.constants:
        value.dims = tuple(leaf(size) for size in value.shape)
    for operation in program.operations:
        rules.apply(operation)


def scan_counts(operation: Operation) -> tuple[int, int]:
    """How many inputs of a scan are constants, and how many are carried."""
    params = operation.params
    if "num_consts" in params:
        return params["num_consts"], params["num_carry"]
    consts, carry, _ = params["ft_in"].unpack()
    return len(consts), len(carry)


@rule("scan")
def scan(operation: Operation) -> Axes:
    (body,) = operation.bodies
    consts, carried = scan_counts(operation)
    first = consts + carried

    def steps() -> str:
        return f"the steps of {operation.where()}"

    for place, (inner, outer) in enumerate(zip(body.inputs, operation.inputs, strict=True)):
        if place >= first:
            pin(outer.dims[0], steps)
        inner.dims = outer.dims[place >= first :]
    walk(body)
    _join_all(body.outputs[:carried], body.inputs[consts:first], operation)
    stacked = [
        [Axis(pinned(operation.params["length"], steps)), *_axes(value)] for value in body.outputs[carried:]
    ]
    return [*map(_axes, body.outputs[:carried]), *stacked]


@rule("while")
def while_loop(operation: Operation) -> Axes:
    condition, body = operation.bodies
    ours, theirs = operation.params["cond_nconsts"], operation.params["body_nconsts"]
    carry = operation.inputs[ours + theirs :]
    _pass(condition, [*operation.inputs[:ours], *carry])
    _pass(body, [*operation.inputs[ours : ours + theirs], *carry])
    _join_all(body.outputs, carry, operation)
    return [_axes(value) for value in carry]


@rule("cond")
def cond(operation: Operation) -> Axes:
    first, *others = operation.bodies
    for branch in operation.bodies:
        _pass(branch, operation.inputs[1:])
    for branch in others:
        _join_all(branch.outputs, first.outputs, operation)
    return [_axes(value) for value in first.outputs]


@rule(*REMATERIALISED, *JVP_RULE, *VJP_RULE)
def block(operation: Operation) -> Axes:
    (body,) = operation.bodies
    _pass(body, operation.inputs)
    if operation.around is not None:
        _join_all(operation.inputs, operation.around.inputs, operation)
        _join_all(body.outputs, operation.around.bodies[0].outputs, operation)
    elif operation.gradient is not None:
        _gradient(operation, operation.gradient)
    return [_axes(value) for value in body.outputs]


def _gradient(operation: Operation, gradient: Program) -> None:
    """Tangents and cotangents have the dimensions of what they belong to."""
    (body,) = operation.bodies
    inputs = [operation.inputs[place] for place in differentiable(operation.inputs)]
    outputs = [body.outputs[place] for place in differentiable(body.outputs)]
    forward = operation.name in JVP_RULE
    _pass(gradient, [*operation.inputs, *(inputs if forward else outputs)])
    _join_all(gradient.outputs, [*outputs, *(outputs if forward else inputs)], operation)


def _pass(program: Program, values: Sequence[Value]) -> None:
    for inner, outer in zip(program.inputs, values, strict=True):
        inner.dims = outer.dims
    walk(program)


def _join_all(ours: Sequence[Value], theirs: Sequence[Value], operation: Operation) -> None:
    for mine, other in zip(ours, theirs, strict=True):
        for a, b in zip(mine.dims, other.dims, strict=True):
            unify(a, b, operation.where)


def _axes(value: Value) -> list[Axis]:
    return [Axis(dimension) for dimension in value.dims]
