"""Penalties that have a value and a gradient, and no prox."""

import dataclasses
from collections.abc import Sequence
from typing import Any

from jaxreg.penalties.base import Term, TermPenalty


@dataclasses.dataclass(frozen=True)
class ValueOnly(TermPenalty):
    """A penalty for the loss, whose prox says what to do instead."""

    def term_prox(self, xs: Sequence[Any], steps: Sequence[Any], term: Term) -> Sequence[Any]:
        raise ValueError(
            f"The prox of {self.kind} has no closed form. Use its gradient: add penalty(params) to the loss, "
            "or put jaxreg.add_penalty(penalty) before the optimizer in a chain."
        )
