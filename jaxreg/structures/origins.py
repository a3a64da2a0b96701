"""What the values inside of blocks, such as the body of a loop, are outside of them."""

import itertools
import weakref
from collections.abc import Iterable, Iterator

from jaxreg.structures.program import REMATERIALISED, Operation, Program, Value
from jaxreg.structures.rules_control import scan_counts

_KNOWN: "weakref.WeakKeyDictionary[Program, dict[Value, Value]]" = weakref.WeakKeyDictionary()


def handed_in(operation: Operation) -> list[tuple[Value, Value]]:
    """The inputs of a block's body that are an input of the block throughout, with that input.

    Not those of branches, which take what others take, nor of functions with a gradient rule of their
    own, which takes it too.
    """
    if operation.name in REMATERIALISED:
        count = len(operation.inputs)
    elif operation.name == "scan":
        count, _ = scan_counts(operation)
    else:
        return []
    return list(zip(operation.bodies[0].inputs[:count], operation.inputs[:count], strict=True))


def within(program: Program) -> Iterator[Operation]:
    """The operations of a program and of those blocks that are handed what is outside."""
    for operation in program.operations:
        yield operation
        if handed_in(operation):
            yield from within(operation.bodies[0])


def origins(program: Program) -> dict[Value, Value]:
    """For inputs of bodies what they are in the program that is around them."""
    if program not in _KNOWN:
        _KNOWN[program] = dict(itertools.chain.from_iterable(map(handed_in, within(program))))
    return _KNOWN[program]


def outermost(program: Program, value: Value) -> Value:
    known = origins(program)
    while value in known:
        value = known[value]
    return value


def depending_on(given: Iterable[Value], program: Program) -> set[Value]:
    """All values that these have a part in, those inside of blocks too."""
    found = set(given)
    for operation in program.operations:
        if found.isdisjoint(operation.inputs):
            continue
        found.update(operation.outputs)
        for body in operation.bodies:
            found |= depending_on(_taken(operation, body, found), body)
    return found


def _taken(operation: Operation, body: Program, found: set[Value]) -> list[Value]:
    """Which inputs of a body depend on what was found; those that a loop carries along all may."""
    first = len(operation.inputs) - len(body.inputs)
    if operation.name == "while":
        return body.inputs
    steady, carried = scan_counts(operation) if operation.name == "scan" else (len(body.inputs), 0)
    return [
        value
        for place, (value, outer) in enumerate(zip(body.inputs, operation.inputs[first:], strict=True))
        if outer in found or steady <= place < steady + carried
    ]
