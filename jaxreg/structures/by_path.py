"""Take a model's arrays out of a tree by path, whatever its containers are."""

import collections
import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from jaxreg import patterns
from jaxreg.tree import FlatTree, PyTree, flatten, is_absent

Name = tuple[str, int]
"""A path, and how many leaves before have the same one: separators in keys may make them equal."""


@dataclasses.dataclass(frozen=True)
class ByPath:
    """The leaves that a computation takes, and those that it was traced with as they were."""

    arrays: tuple[Name, ...]
    fixed: Mapping[Name, Any]

    def pick(self, params: PyTree, owner: str) -> list[Any]:
        """The arrays in order; an error names what is missing, what is too much, and what has changed."""
        given, known = _named(flatten(params)), frozenset(self.arrays)
        missing = [name for name in self.arrays if name not in given]
        unknown = [name for name in given if name not in self.fixed and name not in known]
        if missing or unknown:
            raise ValueError(
                f"The parameters of {owner} must have the leaves that it was made with. "
                f"Missing: {_listed(missing)}. Superfluous: {_listed(unknown)}."
            )
        for name, value in self.fixed.items():
            if name in given and not _same(value, given[name]):
                raise ValueError(
                    f"The leaf '{name[0]}' is a part of what {owner} computes: it was traced with {value!r}. "
                    f"Got {given[name]!r}. Trace the graph again with that."
                )
        return [given[name] for name in self.arrays]


def by_path(flat: FlatTree, traced: Sequence[int]) -> ByPath:
    """What stands in a tree of which these leaves were traced."""
    names = _names(flat)
    fixed = {
        name: leaf
        for index, (name, leaf) in enumerate(zip(names, flat.leaves, strict=True))
        if index not in traced and not is_absent(leaf)
    }
    return ByPath(tuple(names[index] for index in traced), fixed)


def _names(flat: FlatTree) -> list[Name]:
    seen: collections.Counter[str] = collections.Counter()
    names = []
    for path in flat.paths:
        names.append((path, seen[path]))
        seen[path] += 1
    return names


def _named(flat: FlatTree) -> dict[Name, Any]:
    pairs = zip(_names(flat), flat.leaves, strict=True)
    return {name: leaf for name, leaf in pairs if not is_absent(leaf)}


def _same(a: Any, b: Any) -> bool:
    return a is b or (type(a) is type(b) and a == b)


def _listed(names: Sequence[Name]) -> str:
    return patterns.abridged([path for path, _ in names]) or "nothing"
