"""Which units can be removed without changing what the function computes.

A slice may go where all that is summed over it is zero there. So the constants that slices hold are
followed through the program, and each sum, product or maximum over a group is an event that its units
pass or fail.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from jaxreg.structures import facts as f
from jaxreg.structures.dimensions import Dimension, leaves
from jaxreg.structures.facts import Facts, Known
from jaxreg.structures.program import JVP_RULE, REMATERIALISED, VJP_RULE, Operation, Program, Value
from jaxreg.structures.rules import ELEMENTWISE, IDENTITIES
from jaxreg.structures.rules_control import scan_counts

PASSED_ON = frozenset(
    """
    transpose squeeze expand_dims broadcast_in_dim reshape concatenate stack unstack tile split slice rev
    dynamic_slice sort cummax cummin
    """.split()
)
# What a removed element must be for the others' result to stay.
NEUTRAL = {
    "reduce_sum": 0, "reduce_prod": 1, "reduce_max": -np.inf, "reduce_min": np.inf, "reduce_and": True,
    "reduce_or": False, "reduce_xor": False,
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Fold:
    """A product over units that hold known constants other than zero: what they add is a constant."""

    operation: Operation
    place: int
    """The input that is constant."""
    axis: int
    unit: Dimension
    constants: Known
    needed: np.ndarray
    """The units that this product keeps from going as they are."""


@dataclasses.dataclass(frozen=True)
class Objection:
    """An operation that sees more than nothing in some units, and the constants that it sees."""

    operation: Operation
    units: np.ndarray
    constants: Known | None

    def text(self, unit: int) -> str:
        if self.constants is None or not self.constants.mask[unit]:
            return f"{self.operation.where()} meets more than zeros"
        return (
            f"{self.operation.where()} meets the constant {self.constants.values[unit]:g}, with no bias "
            "behind it that could take that up"
        )


@dataclasses.dataclass
class Verdict:
    """Of one group: for each unit whether it may go as it is, why not, and what would have to be folded."""

    exact: np.ndarray
    foldable: np.ndarray
    objections: list[Objection] = dataclasses.field(default_factory=list)
    folds: list[Fold] = dataclasses.field(default_factory=list)

    def reasons(self, unit: int) -> list[str]:
        found = [objection.text(unit) for objection in self.objections if objection.units[unit]]
        return list(dict.fromkeys(found))


class Exactness:
    """One walk through a program whose parameters have these values."""

    def __init__(
        self, program: Program, tracked: Sequence[Dimension], kept: Callable[[Dimension], Any]
    ) -> None:
        self.program = program
        self.tracked = frozenset(tracked)
        self.kept = kept
        self.recording = True
        self.verdicts = {
            unit: Verdict(np.ones(unit.size, bool), np.ones(unit.size, bool)) for unit in tracked
        }
        self._units: dict[Value, list[list[Dimension]]] = {}

    def run(self, arrays: Sequence[Any]) -> dict[Dimension, Verdict]:
        """Judge all tracked units; ``arrays`` are the values of the first inputs, the parameters."""
        inputs = [
            f.of_array(value, array, self.tracked, self.kept)
            for value, array in zip(self.program.inputs, arrays, strict=False)
        ]
        inputs += [f.nothing(value) for value in self.program.inputs[len(inputs) :]]
        self.walk(self.program, inputs)
        return self.verdicts

    def walk(self, program: Program, inputs: Sequence[Facts]) -> list[Facts]:
        known = dict(zip(program.inputs, inputs, strict=True))
        for value in program.constants:
            known[value] = self.of_constant(value)
        for operation in program.operations:
            results = self.outcome(operation, [known[value] for value in operation.inputs])
            known |= dict(zip(operation.outputs, results, strict=True))
        return [known[value] for value in program.outputs]

    def of_constant(self, value: Value) -> Facts:
        if not f._is_number(value.dtype):
            return f.nothing(value)
        return f.of_array(value, value.constant, self.tracked, self.kept)

    def outcome(self, operation: Operation, facts: list[Facts]) -> list[Facts]:
        name = operation.name
        if operation.bodies:
            return self.inside(operation, facts)
        if name in ELEMENTWISE:
            return [f.elementwise(operation, facts)]
        if name in IDENTITIES:
            return facts
        if name in PASSED_ON:
            return [self.moved(operation, facts, number) for number in range(len(operation.outputs))]
        special = _SPECIAL.get(name)
        if special is not None:
            return [special(self, operation, facts)]
        return [f.nothing(value) for value in operation.outputs]

    def any(self, value: Value, axes: Sequence[int]) -> bool:
        return any(self.units(value)[axis] for axis in axes)

    def units(self, value: Value) -> list[list[Dimension]]:
        """For each axis the tracked units along it."""
        if value not in self._units:
            self._units[value] = [
                [unit for unit in dict.fromkeys(leaves(dim)) if unit in self.tracked] for dim in value.dims
            ]
        return self._units[value]

    def moved(self, operation: Operation, facts: Sequence[Facts], number: int = 0) -> Facts:
        """What the axes of an output continue, and the constants that are only repeated."""
        output = operation.outputs[number]
        wholes = {fact.whole for fact in facts}
        if len(wholes) == 1 and None not in wholes:
            return Facts(whole=facts[0].whole)
        axes = []
        for units, pairs in zip(self.units(output), operation.moves[number], strict=True):
            found = {}
            for unit in units:
                parts = [
                    facts[place].along(axis, unit)
                    for place, axis in pairs
                    if unit in self.units(operation.inputs[place])[axis]
                ]
                known = f.agreed(parts)
                if known is not None:
                    found[unit] = known
            axes.append(found)
        return Facts(axes=tuple(axes))

    def judge(self, operation: Operation, unit: Dimension, ok: np.ndarray, fold: Fold | None = None) -> None:
        """Record which units an operation lets go."""
        if not self.recording:
            return
        verdict = self.verdicts[unit]
        failed = ~ok
        if failed.any():
            verdict.objections.append(Objection(operation, failed, None if fold is None else fold.constants))
        verdict.exact &= ok
        if fold is None or not (failed & fold.constants.mask).any():
            verdict.foldable &= ok
        else:
            verdict.foldable &= ok | fold.constants.mask
            verdict.folds.append(fold)

    def inside(self, operation: Operation, facts: list[Facts]) -> list[Facts]:
        if operation.name in REMATERIALISED | JVP_RULE | VJP_RULE:
            return self.walk(operation.bodies[0], facts)
        if operation.name == "cond":
            results = [self.walk(body, facts[1:]) for body in operation.bodies]
            joined = results[0]
            for other in results[1:]:
                joined = self.joined(joined, other, operation.outputs)
            return joined
        if operation.name == "while":
            ours, theirs = operation.params["cond_nconsts"], operation.params["body_nconsts"]
            condition, body = operation.bodies
            consts, start = facts[ours : ours + theirs], facts[ours + theirs :]
            carry, _ = self.settled(body, consts, start, [])
            self.walk(condition, [*facts[:ours], *carry])
            return carry
        (body,) = operation.bodies
        consts, carried = scan_counts(operation)
        first = consts + carried
        stacked = [Facts(fact.whole, fact.axes[1:]) for fact in facts[first:]]
        carry, rest = self.settled(body, facts[:consts], facts[consts:first], stacked)
        return [*carry, *(Facts(fact.whole, ({}, *fact.axes) if fact.axes else ()) for fact in rest)]

    def settled(
        self, body: Program, consts: list[Facts], carry: list[Facts], stacked: list[Facts]
    ) -> tuple[list[Facts], list[Facts]]:
        """What holds in every round of a loop; facts are only ever lost, so that it ends."""
        recording, self.recording = self.recording, False
        while True:
            results = self.walk(body, [*consts, *carry, *stacked])[: len(carry)]
            wider = self.joined(carry, results, body.outputs[: len(carry)])
            if all(f.same(a, b) for a, b in zip(carry, wider, strict=True)):
                break
            carry = wider
        self.recording = recording
        results = self.walk(body, [*consts, *carry, *stacked])
        return carry, results[len(carry) :]

    @staticmethod
    def joined(ours: Sequence[Facts], theirs: Sequence[Facts], values: Sequence[Value]) -> list[Facts]:
        return [f.joined(a, b, value) for a, b, value in zip(ours, theirs, values, strict=True)]


def _reduction(self: Exactness, operation: Operation, facts: Sequence[Facts]) -> Facts:
    value, fact = operation.inputs[0], facts[0]
    neutral = NEUTRAL[operation.name]
    dropped = operation.params["axes"]
    for axis in dropped:
        for unit in self.units(value)[axis]:
            known = fact.along(axis, unit)
            self.judge(
                operation,
                unit,
                np.zeros(unit.size, bool) if known is None else known.mask & (known.values == neutral),
            )
    times = int(np.prod([value.shape[axis] for axis in dropped]))

    def reduced(known: Known) -> Known:
        if operation.name == "reduce_sum":
            return Known(known.mask, known.values * np.asarray(times, known.values.dtype))
        if operation.name in ("reduce_prod", "reduce_xor"):
            return Known(known.mask & (known.values == neutral), known.values)
        return known

    if fact.whole is not None:
        known = reduced(Known(np.ones(1, bool), np.asarray([fact.whole])))
        # As many terms as there are now: a constant other than zero is not the same after a removal.
        steady = known.mask[0] and (
            operation.name != "reduce_sum" or fact.whole == 0 or not self.any(value, dropped)
        )
        return Facts(whole=known.values[0]) if steady else f.nothing(operation.outputs[0])
    steady = not self.any(value, dropped)
    axes = []
    for axis in range(len(value.shape)):
        if axis not in dropped:
            found = {unit: reduced(known) for unit, known in fact.axes[axis].items()}
            if operation.name == "reduce_sum" and not steady:
                found = {unit: Known(known.zero, known.values) for unit, known in found.items()}
            axes.append(found)
    return Facts(axes=tuple(axes))


def _dot(self: Exactness, operation: Operation, facts: Sequence[Facts]) -> Facts:
    (sums, batches) = operation.params["dimension_numbers"]
    left, right = operation.inputs
    for a, b in zip(*sums, strict=True):
        for unit in self.units(left)[a]:
            _contract(self, operation, facts, (a, b), unit)
    if any(fact.whole is not None and fact.whole == 0 for fact in facts):
        return Facts(whole=np.zeros((), operation.outputs[0].dtype)[()])
    axes: list[dict[Dimension, Known]] = []
    for a, b in zip(*batches, strict=True):
        axes.append(_zeros(self, operation, [(left, facts[0], a), (right, facts[1], b)]))
    for place, value in enumerate((left, right)):
        used = (*sums[place], *batches[place])
        for axis in range(len(value.shape)):
            if axis not in used:
                axes.append(_zeros(self, operation, [(value, facts[place], axis)]))
    return Facts(axes=tuple(axes))


def _contract(
    self: Exactness, operation: Operation, facts: Sequence[Facts], axes: tuple[int, int], unit: Dimension
) -> None:
    sides = [fact.along(axis, unit) for fact, axis in zip(facts, axes, strict=True)]
    ok = np.zeros(unit.size, bool)
    for side in sides:
        if side is not None:
            ok |= side.zero
    # Of a known constant only what a parameter makes of it can be folded.
    place = 0 if operation.inputs[1] in self.program.inputs else 1
    constants = sides[place]
    fold = None if constants is None else Fold(operation, place, axes[place], unit, constants, ~ok)
    self.judge(operation, unit, ok, fold)


def _convolution(self: Exactness, operation: Operation, facts: Sequence[Facts]) -> Facts:
    image, kernel = operation.inputs
    numbers = operation.params["dimension_numbers"]
    channels, outputs, inputs = numbers.lhs_spec[1], numbers.rhs_spec[0], numbers.rhs_spec[1]
    for unit in self.units(kernel)[inputs]:
        _contract(self, operation, facts, (channels, inputs), unit)
    axes: list[dict[Dimension, Known]] = [{} for _ in operation.outputs[0].shape]
    axes[numbers.out_spec[0]] = _zeros(self, operation, [(image, facts[0], numbers.lhs_spec[0])])
    made = _zeros(self, operation, [(kernel, facts[1], outputs)])
    if operation.params["feature_group_count"] > 1:
        # A group of channels that is zero on either side is zero in what comes out.
        inner = set(self.units(kernel)[inputs])
        own = [unit for unit in self.units(image)[channels] if unit in self.units(kernel)[outputs]]
        for unit in own:
            known = facts[0].along(channels, unit)
            if known is not None and unit not in inner:
                zero = known.zero | (made[unit].mask if unit in made else False)
                made[unit] = Known(zero, np.zeros(unit.size, operation.outputs[0].dtype))
    axes[numbers.out_spec[1]] = made
    return Facts(axes=tuple(axes))


def _zeros(
    self: Exactness, operation: Operation, sides: Sequence[tuple[Value, Facts, int]]
) -> dict[Dimension, Known]:
    """The units along an axis that are zero on one of the sides."""
    found: dict[Dimension, np.ndarray] = {}
    for value, fact, axis in sides:
        for unit in self.units(value)[axis]:
            known = fact.along(axis, unit)
            if known is not None:
                found[unit] = known.zero | found.get(unit, np.zeros(unit.size, bool))
    return {
        unit: Known(mask, np.zeros(unit.size, operation.outputs[0].dtype)) for unit, mask in found.items()
    }


def _kept_zeros(self: Exactness, operation: Operation, facts: Sequence[Facts]) -> Facts:
    """For sums along other axes: zero stays zero."""
    moved = self.moved(operation, facts[:1])
    if moved.whole is not None:
        return moved if moved.whole == 0 else f.nothing(operation.outputs[0])
    return Facts(
        axes=tuple(
            {unit: Known(known.zero, known.values) for unit, known in axis.items()} for axis in moved.axes
        )
    )


def _window_max(self: Exactness, operation: Operation, facts: Sequence[Facts]) -> Facts:
    return self.moved(operation, facts[:1])


def _pad(self: Exactness, operation: Operation, facts: Sequence[Facts]) -> Facts:
    fact, filler = facts[0], facts[1].whole
    output = operation.outputs[0]
    if fact.whole is not None and fact.whole == filler:
        return fact
    config = operation.params["padding_config"]
    axes = []
    for axis, units in enumerate(self.units(output)):
        elsewhere = any(any(c) for number, c in enumerate(config) if number != axis)
        found = {}
        inner = self.units(operation.inputs[0])[axis]
        for unit in units:
            known = fact.along(axis, unit) if unit in inner else None
            if unit not in inner and filler is not None:
                known = Known(np.ones(unit.size, bool), np.full(unit.size, filler))
            elif known is not None and elsewhere:
                known = (
                    Known(known.mask & (known.values == filler), known.values) if filler is not None else None
                )
            if known is not None:
                found[unit] = known
        axes.append(found)
    return Facts(axes=tuple(axes))


def _iota(self: Exactness, operation: Operation, facts: Sequence[Facts]) -> Facts:
    output = operation.outputs[0]
    axes: list[dict[Dimension, Known]] = [{} for _ in output.shape]
    axis = operation.params["dimension"]
    for unit in self.units(output)[axis]:
        places = f.indices(output.dims[axis], unit)
        if places.shape[1] == 1:
            axes[axis][unit] = Known(np.ones(unit.size, bool), places[:, 0].astype(output.dtype))
    return Facts(axes=tuple(axes))


def _gather(self: Exactness, operation: Operation, facts: Sequence[Facts]) -> Facts:
    moved = self.moved(operation, [facts[0], Facts(axes=tuple({} for _ in operation.inputs[1].shape))])
    return moved if facts[0].whole is None else facts[0]


def _updated(self: Exactness, operation: Operation, facts: Sequence[Facts]) -> Facts:
    """Part of an operand replaced or added to: zero where both are."""
    update = operation.inputs[1 if operation.name == "dynamic_update_slice" else 2]
    new = facts[operation.inputs.index(update)]
    if facts[0].whole == 0 and new.whole == 0:
        return facts[0]
    axes = []
    operand = operation.inputs[0]
    for axis, units in enumerate(self.units(operand)):
        found = {}
        for unit in units:
            places = [n for n, mine in enumerate(self.units(update)) if unit in mine]
            if new.whole is None and not places:
                continue
            ours = facts[0].along(axis, unit)
            theirs = new.along(places[0] if places else 0, unit)
            if ours is not None and theirs is not None:
                found[unit] = Known(ours.zero & theirs.zero, ours.values)
        axes.append(found)
    return Facts(axes=tuple(axes))


_SPECIAL: dict[str, Callable[[Exactness, Operation, Sequence[Facts]], Facts]] = {
    **dict.fromkeys(NEUTRAL, _reduction),
    **dict.fromkeys(["cumsum", "reduce_window_sum"], _kept_zeros),
    **dict.fromkeys(["reduce_window_max", "reduce_window_min"], _window_max),
    **dict.fromkeys(["scatter", "scatter-add", "scatter-sub", "dynamic_update_slice"], _updated),
    "dot_general": _dot,
    "conv_general_dilated": _convolution,
    "pad": _pad,
    "iota": _iota,
    "gather": _gather,
}
