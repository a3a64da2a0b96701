"""Whether the units along an axis of a parameter are made by it or summed over by it.

Followed from the parameter through everything that is computed of parameters alone (casts, transposes,
weight standardisation) to where it meets data.
"""

from collections.abc import Sequence

from jaxreg.structures.gradient_rules import WITH_RULE
from jaxreg.structures.program import REMATERIALISED, Operation, Program, Value
from jaxreg.structures.rules_control import scan_counts

PRODUCES, CONSUMES = "produces", "consumes"

Source = tuple[int, int]
"""A parameter, by its place among the inputs, and one of its axes."""
Origin = tuple[frozenset[Source], ...] | None
"""For each axis the axes of parameters that it continues; None for what depends on data."""


def find_roles(program: Program, parameters: int) -> dict[Source, str]:
    """The role of every axis of the first inputs, which are the parameters.

    An axis that is summed over in each of its uses consumes. One that is also used otherwise, as that
    of an embedding which is output layer too, produces.
    """
    roles = _Roles()
    origins: list[Origin] = [
        tuple(frozenset([(place, axis)]) for axis in range(len(value.shape)))
        for place, value in enumerate(program.inputs[:parameters])
    ]
    for outcome in roles.walk(program, [*origins, *[None] * (len(program.inputs) - parameters)]):
        roles.use(outcome)
    return {
        (place, axis): CONSUMES if (place, axis) in roles.consumed - roles.produced else PRODUCES
        for place, value in enumerate(program.inputs[:parameters])
        for axis in range(len(value.shape))
    }


class _Roles:
    def __init__(self) -> None:
        self.produced: set[Source] = set()
        self.consumed: set[Source] = set()

    def use(self, origin: Origin, consumed: Sequence[int] = ()) -> None:
        for axis, sources in enumerate(origin or ()):
            (self.consumed if axis in consumed else self.produced).update(sources)

    def walk(self, program: Program, inputs: Sequence[Origin]) -> list[Origin]:
        known: dict[Value, Origin] = dict(zip(program.inputs, inputs, strict=True))
        known |= {value: (frozenset(),) * len(value.shape) for value in program.constants}
        for operation in program.operations:
            origins = [known[value] for value in operation.inputs]
            known |= dict(zip(operation.outputs, self.outcome(operation, origins), strict=True))
        return [known[value] for value in program.outputs]

    def outcome(self, operation: Operation, origins: list[Origin]) -> list[Origin]:
        if operation.bodies:
            return self.inside(operation, origins)
        if any(origin is None for origin in origins):
            for place, origin in enumerate(origins):
                self.use(origin, [axis for p, axis in operation.contracted if p == place])
            return [None] * len(operation.outputs)
        for place, axis in operation.contracted:
            sources = (origins[place] or ())[axis]
            (self.consumed if place else self.produced).update(sources)
        return [
            tuple(frozenset().union(*((origins[p] or ())[a] for p, a in moves)) for moves in axes)
            for axes in operation.moves
        ]

    def inside(self, operation: Operation, origins: list[Origin]) -> list[Origin]:
        if operation.name in REMATERIALISED | WITH_RULE:
            return self.walk(operation.bodies[0], origins)
        if operation.name == "scan":
            consts, carried = scan_counts(operation)
            first = consts + carried
            for origin in origins[consts:first]:
                self.use(origin)
            stacked = [origin and origin[1:] for origin in origins[first:]]
            given = [origins[:consts] + [None] * carried + stacked]
        elif operation.name == "cond":
            given = [origins[1:]] * len(operation.bodies)
        else:
            ours, theirs = operation.params["cond_nconsts"], operation.params["body_nconsts"]
            for origin in origins[ours + theirs :]:
                self.use(origin)
            carry: list[Origin] = [None] * len(operation.outputs)
            given = [origins[:ours] + carry, origins[ours : ours + theirs] + carry]
        for body, inputs in zip(operation.bodies, given, strict=True):
            for outcome in self.walk(body, inputs):
                self.use(outcome)
        return [None] * len(operation.outputs)
