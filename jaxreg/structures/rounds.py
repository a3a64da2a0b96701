"""Removal in rounds: once some units are gone, others may do nothing any more."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jaxreg.structures.dimensions import Dimension
from jaxreg.structures.evidence import Folded, Judgement, Round, judge, round_of
from jaxreg.structures.exactness import Exactness
from jaxreg.structures.graph import Graph, Group, Member
from jaxreg.structures.program import Operation
from jaxreg.structures.removal import Removal
from jaxreg.structures.tracing import Trace
from jaxreg.structures.verdicts import Fold, Verdict

Units = Sequence[tuple[Dimension, Group]]
_Changes = Mapping[tuple[Dimension, int], Sequence[tuple[int, np.ndarray]]]


@dataclasses.dataclass(frozen=True)
class Rounds:
    """What is left when nothing more dies, and why the others went."""

    left: Mapping[Dimension, np.ndarray]
    held: Mapping[Dimension, np.ndarray]
    """Whether each unit was kept for the size of its group alone, whatever it does."""
    judgement: Judgement
    """Of what is left."""
    arrays: list[np.ndarray]
    """The parameters, with the constants that went into biases."""
    rounds: tuple[Round, ...]
    went: Mapping[tuple[Dimension, int], tuple[bool, int]]
    """For each unit that went, whether a bias made up for it, and the round."""


def removed(
    graph: Graph, trace: Trace, units: Units, given: list[np.ndarray], round_to: int | None
) -> Rounds:
    """Remove what may go, but as many as make the size of each group a multiple of ``round_to``.

    What is kept for that may be what others would have had to be gone for. So all is judged again with
    it; units that are held are ever more, so that it ends.
    """
    held = {unit: np.zeros(unit.size, bool) for unit, _ in units}
    while True:
        found = _rounds(graph, trace, units, given, held)
        if round_to is None:
            return found
        missing = {unit: _missing(found, unit, round_to) for unit in held}
        if not any(missing.values()):
            return found
        held = {unit: mask | np.isin(np.arange(unit.size), missing[unit]) for unit, mask in held.items()}


def _missing(found: Rounds, unit: Dimension, round_to: int) -> list[int]:
    """Those to keep: what no bias made up for, and of that what went last, as fewer went because of it."""
    gone = np.setdiff1d(np.arange(unit.size), found.left[unit]).tolist()

    def cost(index: int) -> tuple[bool, int]:
        folded, number = found.went[unit, index]
        return folded, -number

    return sorted(gone, key=cost)[: -len(found.left[unit]) % round_to]


def _rounds(
    graph: Graph, trace: Trace, units: Units, given: list[np.ndarray], held: Mapping[Dimension, np.ndarray]
) -> Rounds:
    dims = [unit for unit, _ in units]
    left = {unit: np.arange(unit.size) for unit in dims}
    changes: dict[tuple[Dimension, int], list[tuple[int, np.ndarray]]] = {}
    went: dict[tuple[Dimension, int], tuple[bool, int]] = {}
    rounds: list[Round] = []
    arrays = given
    owners: dict[Operation, Dimension] = {}

    def may_fold(fold: Fold, verdict: Verdict) -> bool:
        # Two groups may meet in one product, as heads and their width, and what both hold would be
        # folded twice: one of them has it.
        some = bool(verdict.foldable[left[fold.unit]].any())
        return some and owners.setdefault(fold.operation, fold.unit) is fold.unit

    while True:
        removal = Removal(left)
        known = Exactness(trace.program, dims, removal.kept).known(arrays)
        judgement = judge(trace, left, known, graph.state, may_fold)
        after: dict[Dimension, np.ndarray] = {}
        folded: dict[tuple[Dimension, int], Folded] = {}
        for unit, group in units:
            gone = judgement.goes(unit) & ~held[unit]
            if not judgement.verdicts[unit].read:
                # Nothing reads them at this shape: rows of a table beyond the length of the input, perhaps.
                gone &= zero_in(group.members, group.size, trace, given)
            after[unit] = left[unit][~gone[left[unit]]]
            if not len(after[unit]):
                after[unit] = left[unit][:1]
            for index in np.setdiff1d(left[unit], after[unit]).tolist():
                folded[unit, index] = judgement.folded(unit, index)
                plans = judgement.planned(unit, index)
                changes[unit, index] = [(plan.bias, plan.change(index, arrays, removal)) for plan in plans]
                went[unit, index] = (bool(plans), len(rounds))
        if not folded:
            return Rounds(left, held, judgement, arrays, tuple(rounds), went)
        rounds.append(round_of(dims, known, left, folded))
        arrays = _with(given, changes)
        left = after


def _with(arrays: Sequence[np.ndarray], changes: _Changes) -> list[np.ndarray]:
    """The parameters with what the units that are gone had added to biases."""
    totals: dict[int, Any] = {}
    for parts in changes.values():
        for bias, change in parts:
            totals[bias] = totals.get(bias, 0.0) + change
    return [
        (array + totals[number]).astype(array.dtype) if number in totals else array
        for number, array in enumerate(arrays)
    ]


def zero_in(members: Sequence[Member], size: int, trace: Trace, arrays: Sequence[np.ndarray]) -> np.ndarray:
    """Which units of a group are zero in all of these members."""
    by_path = {trace.flat.paths[index]: arrays[place] for place, index in enumerate(trace.traced)}
    zero = np.ones(size, bool)
    for member in members:
        array = by_path[member.path]
        flat = np.moveaxis(array, member.axis, 0).reshape(array.shape[member.axis], -1)
        zero &= ~(flat != 0).any(axis=1)[member.indices].any(axis=1)
    return zero
