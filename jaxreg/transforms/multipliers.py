"""A number per path pattern, where every leaf must be spoken for."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from jax.core import Tracer

from jaxreg import patterns
from jaxreg.arguments import check_number
from jaxreg.mask_algebra import View
from jaxreg.tree import FlatTree


@dataclasses.dataclass(frozen=True)
class Multipliers:
    """``{pattern: number}``; the first pattern that matches a leaf decides."""

    table: tuple[tuple[str, Any], ...]
    owner: str

    def resolve(self, flat: FlatTree, selected: Sequence[int]) -> dict[int, tuple[str, Any]]:
        """For each selected leaf its pattern and number.

        Raises:
            ValueError: for a selected leaf without a pattern, a pattern that matches no leaf, and one
                that never decides because earlier patterns match all that it does.
        """
        found: dict[int, tuple[str, Any]] = {}
        owner = f"the multipliers of {self.owner}"
        hidden = View(flat).hidden
        for pattern, number in self.table:
            matched = patterns.matches(pattern, flat.paths, owner, hidden)
            new = [index for index in matched if index not in found]
            if matched and not new and not hidden:  # what optax hides, it may decide
                raise ValueError(
                    f"The pattern {pattern!r} of {owner} never decides: patterns before it match all its "
                    f"leaves, such as '{flat.paths[matched[0]]}'. Put it further up."
                )
            found |= dict.fromkeys(new, (pattern, number))
        for index in selected:
            if index not in found:
                raise ValueError(
                    f"The multipliers of {self.owner} have no pattern for the leaf '{flat.paths[index]}'. "
                    "Add one (with the number 0 for no decay), or take the leaf out of the mask."
                )
        return {index: found[index] for index in selected}

    def check_reach(self, flat: FlatTree, selected: Sequence[int]) -> None:
        """Refuse a number other than 0 that every one of its leaves is kept from by the mask."""
        hidden = View(flat).hidden
        every = self.resolve(flat, selected)
        used = {pattern for pattern, _ in every.values()}
        for pattern, number in self.table:
            is_zero = not isinstance(number, Tracer) and number == 0
            if pattern not in used and not is_zero and not hidden:
                raise ValueError(
                    f"The pattern {pattern!r} of the multipliers of {self.owner} decides on no leaf of the "
                    f"mask. Take its leaves into the mask, or give it the number 0. Got {number!r}."
                )


def checked_multipliers(table: Any, owner: str) -> Multipliers:
    if not isinstance(table, Mapping) or not table:
        raise TypeError(f"The 'multipliers' parameter of {owner} must be a dict of patterns. Got {table!r}.")
    patterns.check(f"the multipliers of {owner}", tuple(table))
    for pattern, number in table.items():
        check_number(number, f"multipliers[{pattern!r}]", owner)
    return Multipliers(tuple(table.items()), owner)
