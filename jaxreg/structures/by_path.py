"""Take a model's arrays out of a tree by path, whatever its containers are."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from jax.core import Tracer

from jaxreg import patterns
from jaxreg.tree import FlatTree, PyTree, flatten, is_absent

ANYTHING = object()
"""Stands for a fixed leaf of which no more is known than that it is no array."""


@dataclasses.dataclass(frozen=True)
class ByPath:
    """The leaves that a computation takes, and those that it was traced with as they were."""

    arrays: tuple[str, ...]
    fixed: Mapping[str, Any]

    def pick(self, params: PyTree, owner: str) -> list[Any]:
        """The arrays in order; an error names what is missing, what is too much, and what has changed."""
        given = by_path(flatten(params), f"The parameters of {owner}")
        missing = [path for path in self.arrays if path not in given]
        unknown = sorted(given.keys() - {*self.arrays, *self.fixed})
        if missing or unknown:
            raise ValueError(
                f"The parameters of {owner} must have the leaves that it was made with. "
                f"Missing: {_listed(missing)}. Superfluous: {_listed(unknown)}."
            )
        for path, value in self.fixed.items():
            if path in given:
                _refuse_change(path, value, given[path], owner)
        return [given[path] for path in self.arrays]


def of_traced(flat: FlatTree, traced: Sequence[int]) -> ByPath:
    """What stands in a tree of which these leaves were traced."""
    arrays = tuple(flat.paths[index] for index in traced)
    rest = zip(flat.paths, flat.leaves, strict=True)
    return ByPath(arrays, {path: leaf for path, leaf in rest if path not in arrays and not is_absent(leaf)})


def by_path(flat: FlatTree, owner: str) -> dict[str, Any]:
    """The leaves that are there; a separator in a key may make two of their paths equal."""
    pairs = [pair for pair in zip(flat.paths, flat.leaves, strict=True) if not is_absent(pair[1])]
    found = dict(pairs)
    if len(found) != len(pairs):
        paths = [path for path, _ in pairs]
        twice = next(path for path in paths if paths.count(path) > 1)
        raise ValueError(f"{owner} must have distinct paths. Got two leaves of path '{twice}'.")
    return found


def _refuse_change(path: str, old: Any, new: Any, owner: str) -> None:
    if old is ANYTHING or old is new or (type(old) is type(new) and old == new):
        return
    remedy = "Trace the graph again with that."
    if isinstance(new, Tracer):
        remedy = "Keep it out of what jax.jit and the like trace, as the function itself needs to know it."
    raise ValueError(
        f"The leaf '{path}' is a part of what {owner} computes: it was traced with {old!r}. Got {new!r}. "
        f"{remedy}"
    )


def _listed(paths: Sequence[str]) -> str:
    return patterns.abridged(paths) or "nothing"
