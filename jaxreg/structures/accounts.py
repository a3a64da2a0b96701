"""What a removal saves, by layer."""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np

from jaxreg.structures.program import Operation, Program, Value
from jaxreg.structures.removal import Removal
from jaxreg.structures.rules_control import scan_counts
from jaxreg.structures.tracing import Trace
from jaxreg.tables import text_table
from jaxreg.tree import SEPARATOR

NO_LAYER = "(without parameters)"


@dataclasses.dataclass(frozen=True)
class Cost:
    """Of one model: parameters, their bytes, floating-point operations of products and convolutions."""

    parameters: int = 0
    bytes: int = 0
    flops: int = 0

    def __add__(self, other: "Cost") -> "Cost":
        return Cost(self.parameters + other.parameters, self.bytes + other.bytes, self.flops + other.flops)


@dataclasses.dataclass(frozen=True)
class LayerCost:
    """One line of a :class:`CompactReport`."""

    layer: str
    before: Cost
    after: Cost


@dataclasses.dataclass(frozen=True)
class CompactReport:
    """Costs by layer; ``str()`` of it is a table. Operations are those of one call on the example inputs.

    A multiplication and an addition count as two. Every number in an array of the traced tree counts as a
    parameter, so running statistics do too, and the counts and keys of NNX random number generators.
    """

    layers: tuple[LayerCost, ...]

    @property
    def before(self) -> Cost:
        return sum((layer.before for layer in self.layers), Cost())

    @property
    def after(self) -> Cost:
        return sum((layer.after for layer in self.layers), Cost())

    def __str__(self) -> str:
        headers = ["layer", "parameters", "left", "% left", "bytes", "left", "FLOPs", "left", "% left"]
        total = LayerCost("total", self.before, self.after)
        return text_table(headers, [_cells(layer) for layer in (*self.layers, total)])


def account(trace: Trace, removal: Removal) -> CompactReport:
    nothing = Removal({})
    costs: dict[str, list[Cost]] = {}
    for place, index in enumerate(trace.traced):
        value = trace.program.inputs[place]
        layer = trace.flat.paths[index].rpartition(SEPARATOR)[0] or trace.flat.paths[index]
        entry = costs.setdefault(layer, [Cost(), Cost()])
        for number, removed in enumerate((nothing, removal)):
            count = removed.size(value)
            entry[number] += Cost(count, count * np.dtype(value.dtype).itemsize if _plain(value) else 0)
    owners = {
        value: frozenset([place]) for place, value in enumerate(trace.program.inputs[: len(trace.traced)])
    }
    flops: dict[int | None, list[int]] = {}
    _count(trace.program, owners, (nothing, removal), 1, flops)
    for owner, pair in flops.items():
        path = NO_LAYER if owner is None else trace.flat.paths[trace.traced[owner]]
        layer = path.rpartition(SEPARATOR)[0] or path
        entry = costs.setdefault(layer, [Cost(), Cost()])
        for number in range(2):
            entry[number] += Cost(flops=pair[number])
    return CompactReport(tuple(LayerCost(layer, *pair) for layer, pair in costs.items()))


def _count(
    program: Program,
    owners: dict[Value, frozenset[int]],
    removals: Sequence[Removal],
    times: int,
    flops: dict[int | None, list[int]],
) -> list[frozenset[int] | None]:
    """Add up operations by the parameter they are about; ``owners`` are values made of parameters alone."""
    known: dict[Value, frozenset[int]] = dict(owners)
    known |= {value: frozenset() for value in program.constants}
    for operation in program.operations:
        mine = [known.get(value) for value in operation.inputs]
        if operation.bodies:
            for body, given, repeats in _inner(operation, mine):
                inside = {v: o for v, o in zip(body.inputs, given, strict=True) if o is not None}
                _count(body, inside, removals, times * repeats, flops)
            continue
        if all(owner is not None for owner in mine):
            joined = frozenset().union(*(owner for owner in mine if owner is not None))
            known |= dict.fromkeys(operation.outputs, joined)
        if operation.name in ("dot_general", "conv_general_dilated"):
            of = next((min(owner) for owner in reversed(mine) if owner), None)
            pair = flops.setdefault(of, [0, 0])
            for number, removal in enumerate(removals):
                pair[number] += times * _flops(operation, removal)
    return [known.get(value) for value in program.outputs]


def _inner(
    operation: Operation, mine: list[frozenset[int] | None]
) -> list[tuple[Program, list[frozenset[int] | None], int]]:
    """The programs that run inside a block, whose parameters they get, and how often."""
    if operation.name == "scan":
        consts, carried = scan_counts(operation)
        given = [None if consts <= place < consts + carried else owner for place, owner in enumerate(mine)]
        return [(operation.bodies[0], given, operation.params["length"])]
    if operation.name == "cond":
        # One branch runs; which one is not known: the first stands for all.
        return [(operation.bodies[0], mine[1:], 1)]
    if operation.name == "while":
        ours, theirs = operation.params["cond_nconsts"], operation.params["body_nconsts"]
        inside = mine[ours : ours + theirs]
        carry: list[frozenset[int] | None] = [None] * len(operation.outputs)
        return [(operation.bodies[1], [*inside, *carry], 1)]
    return [(operation.bodies[0], mine, 1)]


def _flops(operation: Operation, removal: Removal) -> int:
    left, right = (removal.shape(value) for value in operation.inputs)
    result = removal.size(operation.outputs[0])
    numbers = operation.params["dimension_numbers"]
    if operation.name == "dot_general":
        return 2 * result * math.prod(left[axis] for axis in numbers[0][0])
    return 2 * result * math.prod(right[axis] for axis in numbers.rhs_spec[1:])


def _plain(value: Value) -> bool:
    return isinstance(value.dtype, np.dtype)


def _cells(layer: LayerCost) -> list[str]:
    old, new = layer.before, layer.after

    def share(part: int, whole: int) -> str:
        return f"{100 * part / whole:.1f}" if whole else "-"

    return [
        layer.layer,
        f"{old.parameters:,}",
        f"{new.parameters:,}",
        share(new.parameters, old.parameters),
        f"{old.bytes:,}",
        f"{new.bytes:,}",
        f"{old.flops:,}",
        f"{new.flops:,}",
        share(new.flops, old.flops),
    ]
