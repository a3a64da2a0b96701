"""What the schedules of a decay will give, looked at before training."""

import dataclasses
import functools
import math
from typing import Any

import jax
import numpy as np
from jax.core import Tracer

from jaxreg.transforms.decay_rule import DecayRule, slack
from jaxreg.tree import FlatTree

# Dense enough for a peak between two ramps wherever it is, and for cycles of a few hundred steps.
LOOKED_AT = np.unique(
    np.concatenate([np.arange(0, 100_000, 50), np.geomspace(1, 1e7, 4_000)]).astype(np.int32)
)
"""Step counts at which schedules are asked."""


@dataclasses.dataclass(frozen=True)
class Outlook:
    """The shares of a :class:`DecayRule` over the steps to come."""

    rule: DecayRule

    @functools.cached_property
    def strengths(self) -> Any:
        return values_of(self.rule.strength) if callable(self.rule.strength) else None

    @functools.cached_property
    def rates(self) -> Any:
        return 1.0 if self.rule.learning_rate is None else values_of(self.rule.learning_rate)

    def check_rates(self) -> None:
        """Refuse a schedule that goes above the rate that is said to be its largest."""
        rule, largest = self.rule, self.rule.max_learning_rate
        if largest is None or isinstance(largest, Tracer) or not callable(rule.learning_rate):
            return
        bound = float(largest)
        above = np.flatnonzero(self.rates > bound * (1 + slack(largest)))
        if above.size:
            step = above[0]
            raise ValueError(
                f"The 'learning_rate' parameter of {rule.owner} must be at most 'max_learning_rate', "
                f"{bound:g}. Got {self.rates[step]:g} at step {LOOKED_AT[step]}."
            )

    def largest_shares(self, flat: FlatTree, chosen: list[int]) -> dict[int, float]:
        """For each leaf the largest share of its distance that a step takes; NaN where it is not known."""
        correction = 1.0
        if self.rule.max_learning_rate is not None:
            correction = self.rates / values_of(self.rule.max_learning_rate)
        found = {}
        for index, part in self.rule.parts(flat, chosen).items():
            strength = self.strengths if callable(part.strength) else values_of(part.strength)
            multiplier = 1.0 if part.multiplier is None else values_of(part.multiplier)
            share = strength * multiplier * self.rates * (correction if part.corrected else 1.0)
            found[index] = float(np.max(share))
        return found


def values_of(value: Any) -> Any:
    """The number, or a schedule's values at the counts looked at; NaN where it cannot be known."""
    if isinstance(value, Tracer):
        return math.nan
    if not callable(value):
        return float(value)
    try:
        with jax.ensure_compile_time_eval():  # numbers, also while ``init`` is traced
            values = jax.jit(jax.vmap(value))(LOOKED_AT)
    except Exception:  # a Python table, say: it is asked again in training, where it must answer
        return math.nan
    known = not isinstance(values, Tracer) and np.shape(values) == LOOKED_AT.shape
    return np.asarray(values, np.float64) if known else math.nan
