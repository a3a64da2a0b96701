"""Why units could go, kept to be asked again where the function is traced for inputs of other shapes."""

import dataclasses
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxreg.structures import folding
from jaxreg.structures.dimensions import Dimension
from jaxreg.structures.exactness import Exactness
from jaxreg.structures.facts import Facts, Known
from jaxreg.structures.graph import Group
from jaxreg.structures.removal import Removal
from jaxreg.structures.tracing import Trace
from jaxreg.structures.verdicts import Fold, Verdict

Folded = tuple[tuple[int, int, Any], ...]
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
        found = [(p.kernel, p.bias, p.fold.constants.values[index]) for p in self.planned(unit, index)]
        return tuple(sorted(found, key=lambda entry: entry[:2]))


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
    returned = [number for number in range(len(trace.program.outputs)) if number not in trace.state.values()]
    verdicts = Exactness(trace.program, list(left), Removal(left).kept, returned).run(known)

    def plan(fold: Fold) -> folding.Plan | None:
        made = folding.plan(trace.program, len(trace.traced), fold)
        return None if made is None or trace.flat.paths[trace.traced[made.bias]] in state else made

    folds = [(fold, verdict) for verdict in verdicts.values() for fold in verdict.folds]
    return Judgement(verdicts, {id(fold): plan(fold) for fold, verdict in folds if may_fold(fold, verdict)})


@dataclasses.dataclass(frozen=True)
class Round:
    """What was known when some units went, by the numbers of their groups; vectors, no parameters."""

    known: tuple[tuple[Mapping[int, Known], ...], ...]
    """For each parameter and each of its axes."""
    left: tuple[np.ndarray, ...]
    """Which units there were before."""
    folded: tuple[Mapping[int, Folded], ...]
    """For each group, and each of its units that went, what was folded."""


def round_of(
    units: Sequence[Dimension],
    known: Sequence[Facts],
    left: Mapping[Dimension, np.ndarray],
    folded: Mapping[tuple[Dimension, int], Folded],
) -> Round:
    numbers = {unit: number for number, unit in enumerate(units)}
    went: list[dict[int, Folded]] = [{} for _ in units]
    for (unit, index), what in folded.items():
        went[numbers[unit]][index] = what
    return Round(
        tuple(
            tuple({numbers[u]: claim for u, claim in axis.items()} for axis in fact.axes) for fact in known
        ),
        tuple(left[unit] for unit in units),
        tuple(went),
    )


@dataclasses.dataclass(frozen=True)
class Evidence:
    """Why units could go, round by round: what went first may be why the others could follow."""

    groups: tuple[Group, ...]
    rounds: tuple[Round, ...]
    state: frozenset[str]

    def check(self, trace: Trace, found: Mapping[Group, Dimension]) -> None:
        """Raise where a unit that went would have had to stay for the program of this trace."""
        dims = {number: found[group] for number, group in enumerate(self.groups) if group in found}
        for step in self.rounds:
            self._check(trace, dims, step)

    def _check(self, trace: Trace, dims: Mapping[int, Dimension], step: Round) -> None:
        known = [
            Facts(axes=tuple({dims[n]: claim for n, claim in axis.items() if n in dims} for axis in axes))
            for axes in step.known
        ]
        left = {unit: step.left[number] for number, unit in dims.items()}
        folding_units = {unit for number, unit in dims.items() if any(step.folded[number].values())}
        judgement = judge(trace, left, known, self.state, lambda fold, _: fold.unit in folding_units)
        for number, unit in dims.items():
            goes = judgement.goes(unit)
            for index, before in step.folded[number].items():
                now = judgement.folded(unit, index)
                if goes[index] and _alike(before, now):
                    continue
                reasons = "; ".join(judgement.verdicts[unit].reasons(index)[:3])
                if goes[index]:
                    reasons = f"its constant is {_constants(now)} instead of {_constants(before)}"
                raise ValueError(
                    f"With inputs of these shapes unit {index} of "
                    f"'{self.groups[number].members[0].path}' could not have been removed as it was: "
                    f"{reasons}. Trace the graph with inputs of these shapes."
                )


def _alike(before: Folded, now: Folded) -> bool:
    """Whether the same constants go into the same biases, but for how their making rounds."""
    return [entry[:2] for entry in before] == [entry[:2] for entry in now] and all(
        abs(complex(a) - complex(b)) <= _rounding(a.dtype) * abs(complex(a))
        for (_, _, a), (_, _, b) in zip(before, now, strict=True)
    )


def _rounding(dtype: Any) -> float:
    return max(1e-6, 2 * float(jnp.finfo(dtype).eps)) if jnp.issubdtype(dtype, jnp.inexact) else 0.0


def _constants(folded: Folded) -> str:
    return ", ".join(f"{constant:g}" for _, _, constant in folded) or "0"
