"""Dead units that have to stay."""

import dataclasses
from collections.abc import Collection

import numpy as np

from jaxreg.structures.graph import Group
from jaxreg.structures.origins import depending_on
from jaxreg.structures.program import Value
from jaxreg.structures.roles import CONSUMES, PRODUCES
from jaxreg.structures.rounds import Rounds, Units, zero_in
from jaxreg.structures.tracing import Trace
from jaxreg.structures.verdicts import Verdict

_SHOWN = 3  # reasons of a refusal


@dataclasses.dataclass(frozen=True)
class Refusal:
    """Dead units that have to stay, and why."""

    group: int
    units: tuple[int, ...]
    reason: str
    """The operations for which the units are more than nothing, with the user's source lines."""

    def __str__(self) -> str:
        number = f"{len(self.units)} unit{'' if len(self.units) == 1 else 's'}"
        return f"group {self.group}: {number} kept: {self.reason}"


def refused(units: Units, rounds: Rounds, trace: Trace, state: Collection[str]) -> list[Refusal]:
    """Units that stay although they are zero, or the same whatever the inputs are."""
    program = trace.program
    moving = depending_on(program.inputs[len(trace.traced) :], program)
    found = []
    for number, (unit, group) in enumerate(units):
        verdict, goes = rounds.judgement.verdicts[unit], rounds.judgement.goes(unit)
        dead = _zero(group, rounds, trace, state) | _constant(verdict, moving)
        by_reason: dict[str, list[int]] = {}
        for index in rounds.left[unit][(dead & ~rounds.held[unit])[rounds.left[unit]]]:
            reasons = [] if goes[index] else verdict.reasons(index)
            text = "; ".join(reasons[:_SHOWN]) or "the last of its group"
            by_reason.setdefault(text, []).append(int(index))
        found += [Refusal(number, tuple(indices), reason) for reason, indices in by_reason.items()]
    return found


def _zero(group: Group, rounds: Rounds, trace: Trace, state: Collection[str]) -> np.ndarray:
    """Units of which all that makes them is zero, or all that reads them."""
    found = np.zeros(group.size, bool)
    for role in (PRODUCES, CONSUMES):
        members = [m for m in group.members if m.role == role and m.path not in state]
        if members:
            found |= zero_in(members, group.size, trace, rounds.arrays)
    return found


def _constant(verdict: Verdict, moving: Collection[Value]) -> np.ndarray:
    """Units that are known constants for all that reads them, and for some of that not zero."""
    met, live = np.zeros(len(verdict.exact), bool), ~verdict.foldable
    for fold in verdict.folds:
        values = fold.operation.inputs
        if values[fold.place] in moving and values[1 - fold.place] not in moving:
            met |= fold.needed & fold.constants.mask
        else:
            # A constant row of a kernel says nothing about what it is multiplied with.
            live |= fold.needed
    return met & ~live
