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
from jaxreg.structures.exactness_rules import JUDGED, SPECIAL
from jaxreg.structures.facts import Facts
from jaxreg.structures.gradient_rules import WITH_RULE
from jaxreg.structures.program import REMATERIALISED, Operation, Program, Value
from jaxreg.structures.rules import ELEMENTWISE, IDENTITIES
from jaxreg.structures.rules_control import scan_counts
from jaxreg.structures.verdicts import Fold, Objection, Verdict

PASSED_ON = frozenset(
    """
    transpose squeeze expand_dims broadcast_in_dim reshape concatenate stack unstack split slice rev
    dynamic_slice sort cummax cummin
    """.split()
)


class Exactness:
    """One walk through a program whose parameters have these values.

    ``returned`` are the outputs that the caller reads, who must miss nothing in them.
    """

    def __init__(
        self,
        program: Program,
        tracked: Sequence[Dimension],
        kept: Callable[[Dimension], Any],
        returned: Sequence[int] = (),
    ) -> None:
        self.program = program
        self.returned = returned
        self.tracked = frozenset(tracked)
        self.kept = kept
        self.recording = True
        self.verdicts = {
            unit: Verdict(np.ones(unit.size, bool), np.ones(unit.size, bool)) for unit in tracked
        }
        self._units: dict[Value, list[list[Dimension]]] = {}

    def known(self, arrays: Sequence[Any]) -> list[Facts]:
        """What the parameters hold; ``arrays`` are the values of the first inputs."""
        return [
            f.of_array(value, array, self.tracked, self.kept)
            if f.is_number(value.dtype)
            else f.nothing(value)
            for value, array in zip(self.program.inputs, arrays, strict=False)
        ]

    def run(self, known: Sequence[Facts]) -> dict[Dimension, Verdict]:
        """Judge all tracked units, from what is known of the first inputs, the parameters."""
        inputs = [*known, *(f.nothing(value) for value in self.program.inputs[len(known) :])]
        with np.errstate(all="ignore"):  # a constant may well be infinite
            results = self.walk(self.program, inputs)
        for number in self.returned:
            for axis, units in enumerate(self.units(self.program.outputs[number])):
                for unit in units:
                    claim = results[number].along(axis, unit)
                    self.judge(None, unit, np.zeros(unit.size, bool) if claim is None else claim.zero)
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
        if not f.is_number(value.dtype):
            return f.nothing(value)
        return f.of_constant(value, self.tracked, self.kept)

    def outcome(self, operation: Operation, facts: list[Facts]) -> list[Facts]:
        name = operation.name
        if operation.bodies:
            return self.inside(operation, facts)
        if name in ELEMENTWISE:
            return [f.elementwise(operation, facts)]
        if name in IDENTITIES:
            return facts
        return [
            dataclasses.replace(result, nan=result.nan or f.tainted(value, facts))
            for result, value in zip(self.rearranged(operation, facts), operation.outputs, strict=True)
        ]

    def rearranged(self, operation: Operation, facts: list[Facts]) -> list[Facts]:
        """What operations make of facts that do not go element by element."""
        name = operation.name
        if name in PASSED_ON:
            return [self.moved(operation, facts, number) for number in range(len(operation.outputs))]
        if name not in JUDGED:
            self.lost(operation)
        special = SPECIAL.get(name)
        if special is not None:
            return [special(self, operation, facts)]
        return [f.nothing(value) for value in operation.outputs]

    def lost(self, operation: Operation) -> None:
        """Units that go into an operation and do not come out have to stay, where no rule says better."""
        after = {unit for value in operation.outputs for units in self.units(value) for unit in units}
        for value in operation.inputs:
            for unit in {unit for units in self.units(value) for unit in units} - after:
                self.judge(operation, unit, np.zeros(unit.size, bool))

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

    def judge(
        self, operation: Operation | None, unit: Dimension, ok: np.ndarray, fold: Fold | None = None
    ) -> None:
        """Record which units an operation lets go, or the caller."""
        if not self.recording:
            return
        verdict = self.verdicts[unit]
        verdict.read = True
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
        if operation.name in REMATERIALISED | WITH_RULE:
            results = self.walk(operation.bodies[0], facts)
            if any(fact.nan for fact in facts) and _pointwise(operation):
                # Inside, where it asks for NaN, one value would be taken for several.
                return [f.either(f.elementwise(operation, facts), results[0])]
            return results
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
        stacked = [dataclasses.replace(fact, axes=fact.axes[1:]) for fact in facts[first:]]
        carry, rest = self.settled(body, facts[:consts], facts[consts:first], stacked)
        outer = [dataclasses.replace(fact, axes=({}, *fact.axes) if fact.axes else ()) for fact in rest]
        return [*carry, *outer]

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


def _pointwise(operation: Operation) -> bool:
    """Whether each element of the result is made of the operands' elements at the same place."""
    if not operation.bodies:
        return operation.name in ELEMENTWISE
    (body, *others), shape = operation.bodies, operation.outputs[0].shape
    values = [*body.inputs, *(value for inner in body.operations for value in inner.outputs)]
    return (
        not others
        and operation.name in WITH_RULE
        and len(operation.outputs) == 1
        and all(value.shape in ((), shape) for value in values)
        # One that is not the same at all places would be no single number beside a column of the operands'.
        and all(value.shape == () for value in body.constants)
        and all(map(_pointwise, body.operations))
    )
