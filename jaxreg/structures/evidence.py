"""Why units could go, kept to be asked again where the function is traced for inputs of other shapes."""

import dataclasses
from collections.abc import Callable, Collection, Mapping, Sequence

import numpy as np

from jaxreg.structures import folding
from jaxreg.structures.dimensions import Dimension
from jaxreg.structures.exactness import Exactness
from jaxreg.structures.facts import Facts, Known
from jaxreg.structures.graph import Group
from jaxreg.structures.removal import Removal
from jaxreg.structures.tracing import Trace
from jaxreg.structures.verdicts import Fold, Verdict

Folded = tuple[tuple[int, int, float], ...]
"""What a unit leaves behind: kernel and bias, by their places among the parameters, and the constant."""


@dataclasses.dataclass(frozen=True)
class Judgement:
    """What a walk through a program says about its units, and how their constants would be folded."""

    verdicts: Mapping[Dimension, Verdict]
    plans: Mapping[int, folding.Plan | None]
    """By the identity of the fold; absent where another group has that product."""

    def goes(self, unit: Dimension) -> np.ndarray:
        """Which units may go, folded or as they are."""
        verdict = self.verdicts[unit]
        stuck = [fold.needed for fold in verdict.folds if self.plans.get(id(fold)) is None]
        return verdict.exact | np.logical_and.reduce([verdict.foldable, *(~units for units in stuck)])

    def planned(self, unit: Dimension, index: int) -> list[folding.Plan]:
        found = [self.plans.get(id(fold)) for fold in self.verdicts[unit].folds if fold.needed[index]]
        return [plan for plan in found if plan is not None]

    def folded(self, unit: Dimension, index: int) -> Folded:
        plans = self.planned(unit, index)
        return tuple(sorted((p.kernel, p.bias, float(p.fold.constants.values[index])) for p in plans))


def judge(
    trace: Trace,
    left: Mapping[Dimension, np.ndarray],
    known: Sequence[Facts],
    state: Collection[str],
    may_fold: Callable[[Fold, Verdict], bool],
) -> Judgement:
    """Judge all units of ``left``, of which those indices are left, from what is known of the parameters.

    ``state`` are paths of leaves that training overwrites: no constant may be folded into them.
    """
    verdicts = Exactness(trace.program, list(left), Removal(left).kept).run(known)

    def plan(fold: Fold) -> folding.Plan | None:
        made = folding.plan(trace.program, len(trace.traced), fold)
        return None if made is None or trace.flat.paths[trace.traced[made.bias]] in state else made

    folds = [(fold, verdict) for verdict in verdicts.values() for fold in verdict.folds]
    return Judgement(verdicts, {id(fold): plan(fold) for fold, verdict in folds if may_fold(fold, verdict)})


def remembered(
    before: Sequence[Facts] | None, known: Sequence[Facts], left: Mapping[Dimension, np.ndarray]
) -> list[Facts]:
    """The facts of this round about units that are left, and for those that are gone of the round before."""
    if before is None:
        return list(known)
    return [_remembered(old, new, left) for old, new in zip(before, known, strict=True)]


def _remembered(old: Facts, new: Facts, left: Mapping[Dimension, np.ndarray]) -> Facts:
    if new.whole is not None and old.whole == new.whole:
        return new
    axes: list[dict[Dimension, Known]] = []
    for axis in range(max(len(old.axes), len(new.axes))):
        units = {*(old.axes[axis] if old.axes else ()), *(new.axes[axis] if new.axes else ())}
        found = {}
        for unit in units:
            then, now = old.along(axis, unit), new.along(axis, unit)
            if then is not None and now is not None:
                here = np.isin(np.arange(unit.size), left[unit])
                found[unit] = Known(
                    np.where(here, now.mask, then.mask), np.where(here, now.values, then.values)
                )
        axes.append(found)
    return Facts(axes=tuple(axes))


@dataclasses.dataclass(frozen=True)
class Evidence:
    """What was known of the parameters, and what was made of it; vectors, no parameters."""

    groups: tuple[Group, ...]
    known: tuple[tuple[object, tuple[Mapping[int, Known], ...]], ...]
    """The facts about each parameter, with the number of a group in place of its dimension."""
    left: tuple[np.ndarray, ...]
    folded: tuple[Mapping[int, Folded], ...]
    """For each group, and each of its units that went, what was folded."""
    state: frozenset[str]

    def check(self, trace: Trace, found: Mapping[Group, Dimension]) -> None:
        """Raise where a unit that went would have had to stay for the program of this trace."""
        dims = {number: found[group] for number, group in enumerate(self.groups) if group in found}
        known = [
            Facts(whole, tuple({dims[n]: k for n, k in axis.items() if n in dims} for axis in axes))
            for whole, axes in self.known
        ]
        left = {unit: self.left[number] for number, unit in dims.items()}
        folding_units = {unit for number, unit in dims.items() if any(self.folded[number].values())}
        judgement = judge(trace, left, known, self.state, lambda fold, _: fold.unit in folding_units)
        for number, unit in dims.items():
            goes = judgement.goes(unit)
            for index, folded in self.folded[number].items():
                if goes[index] and judgement.folded(unit, index) == folded:
                    continue
                reasons = "; ".join(judgement.verdicts[unit].reasons(index)[:3])
                raise ValueError(
                    f"With inputs of these shapes unit {index} of "
                    f"'{self.groups[number].members[0].path}' could not have been removed as it was: "
                    f"{reasons or 'its constant is another'}. Trace the graph with inputs of these shapes."
                )


def evidence_of(
    groups: Sequence[Group],
    units: Sequence[Dimension],
    known: Sequence[Facts],
    judged: Mapping[Dimension, np.ndarray],
    folded: Mapping[tuple[Dimension, int], Folded],
    left: Mapping[Dimension, np.ndarray],
    state: frozenset[str],
) -> Evidence:
    """``judged`` says what was left when ``known`` was read off, ``left`` what is left at the end."""
    numbers = {unit: number for number, unit in enumerate(units)}
    return Evidence(
        groups=tuple(groups),
        known=tuple(
            (fact.whole, tuple({numbers[unit]: known for unit, known in axis.items()} for axis in fact.axes))
            for fact in known
        ),
        left=tuple(judged[unit] for unit in units),
        folded=tuple(
            {i: folded[unit, i] for i in np.setdiff1d(np.arange(unit.size), left[unit]).tolist()}
            for unit in units
        ),
        state=state,
    )
