"""The kinds of structure behind jaxreg.groups: what each says about one leaf."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from jaxreg import masks
from jaxreg.tree import SEPARATOR, FlatTree
from jaxreg.views import Cut, View

Cluster = tuple[tuple[int, View], ...]
"""Leaves whose groups are joined: (leaf index, view), all views with the same group shape."""


@dataclasses.dataclass(frozen=True)
class Groups:
    """Base of all structures. Subclass it and write :meth:`view` to add one.

    Subclasses are frozen dataclasses: equality and hash by value, so that a
    penalty rebuilt in a loop does not recompile.
    """

    def view(self, index: int, flat: FlatTree) -> View:
        """How the leaf at ``index`` falls into groups; raise ``ValueError`` if it cannot."""
        raise NotImplementedError(f"{type(self).__name__} must define view().")  # the subclass's duty

    def resolve(self, flat: FlatTree, selected: Sequence[int]) -> tuple[Cluster, ...]:
        """The clusters of a parameter tree's selected leaves; here every leaf is its own."""
        return tuple(((index, self.view(index, flat)),) for index in selected)


@dataclasses.dataclass(frozen=True)
class Channels(Groups):
    kind: str
    layout: str

    def view(self, index: int, flat: FlatTree) -> View:
        shape = np.shape(flat.leaves[index])
        attention = _attention_projection(index, flat) if self.layout == "flax" else None
        needed = 3 if self.kind == "kernels" or attention else 2
        if self.kind == "kernels" and attention:
            raise ValueError(
                f"The groups {self} need spatial axes. The leaf '{flat.paths[index]}' of shape {shape} is an "
                "attention projection, which has none. Take it out of the penalty's mask."
            )
        _require_axes(needed, index, flat, self)
        return _keep(shape, self._kept(attention, len(shape)))

    def _kept(self, attention: str | None, ndim: int) -> tuple[int, ...]:
        if self.layout == "torch":
            return {"outputs": (0,), "inputs": (1,), "kernels": (0, 1)}[self.kind]
        if attention == "split" and self.kind == "outputs":
            return (ndim - 2, ndim - 1)
        if attention == "merge" and self.kind == "inputs":
            return (ndim - 3, ndim - 2)
        first = ndim - (3 if attention == "split" else 2)
        return {"outputs": (ndim - 1,), "inputs": (first,), "kernels": (ndim - 2, ndim - 1)}[self.kind]

    def __repr__(self) -> str:
        return f"{self.kind}(layout='{self.layout}')"


@dataclasses.dataclass(frozen=True)
class Axes(Groups):
    keep: tuple[int, ...]

    def view(self, index: int, flat: FlatTree) -> View:
        shape = np.shape(flat.leaves[index])
        kept = tuple(_axis(axis, index, flat, self) for axis in self.keep)
        if len(set(kept)) < len(kept):
            raise ValueError(
                f"The groups {self} name an axis of the leaf '{flat.paths[index]}' of shape {shape} twice."
            )
        return _keep(shape, kept)

    def __repr__(self) -> str:
        return f"axes(keep={self.keep})" if self.keep else "layers()"


@dataclasses.dataclass(frozen=True)
class Blocks(Groups):
    shape: tuple[int, ...]
    ragged: bool

    def view(self, index: int, flat: FlatTree) -> View:
        lengths = np.shape(flat.leaves[index])
        _require_axes(len(self.shape), index, flat, self)
        sizes = (1,) * (len(lengths) - len(self.shape)) + self.shape
        cuts = zip(range(len(lengths)), sizes, strict=True)
        return View(tuple(_cut(axis, size, False, index, flat, self) for axis, size in cuts))

    def __repr__(self) -> str:
        return f"blocks({self.shape}{', ragged=True' if self.ragged else ''})"


@dataclasses.dataclass(frozen=True)
class AlongAxis(Groups):
    size: int
    axis: int
    strided: bool
    ragged: bool

    def view(self, index: int, flat: FlatTree) -> View:
        lengths = np.shape(flat.leaves[index])
        axis = _axis(self.axis, index, flat, self)
        cuts = [Cut(length, 1) for length in lengths]
        cuts[axis] = _cut(axis, self.size, self.strided, index, flat, self)
        return View(tuple(cuts))

    def __repr__(self) -> str:
        name = "strided" if self.strided else "chunks"
        return f"{name}({self.size}, axis={self.axis}{', ragged=True' if self.ragged else ''})"


@dataclasses.dataclass(frozen=True)
class ByPath(Groups):
    table: tuple[tuple[str, Groups], ...]

    def resolve(self, flat: FlatTree, selected: Sequence[int]) -> tuple[Cluster, ...]:
        left = list(selected)
        clusters: tuple[Cluster, ...] = ()
        for pattern, groups in self.table:
            matched = masks.path(pattern).select(flat)
            clusters += groups.resolve(flat, [index for index in left if matched[index]])
            left = [index for index in left if not matched[index]]
        if left:
            raise ValueError(
                f"The groups {self} have no pattern for the leaf '{flat.paths[left[0]]}'. Add one, or take "
                "the leaf out of the penalty's mask."
            )
        return clusters

    def __repr__(self) -> str:
        return "by_path({" + ", ".join(f"'{p}': {g}" for p, g in self.table) + "})"


def _keep(shape: tuple[int, ...], kept: tuple[int, ...]) -> View:
    return View(tuple(Cut(n, 1 if axis in kept else max(n, 1)) for axis, n in enumerate(shape)))


def _cut(axis: int, size: int, strided: bool, index: int, flat: FlatTree, groups: Any) -> Cut:
    length = np.shape(flat.leaves[index])[axis]
    if length % size and not groups.ragged:
        raise ValueError(
            f"The groups {groups} need axis {axis} of the leaf '{flat.paths[index]}' to be a multiple of "
            f"{size}. Got {length}. Pass ragged=True for a smaller last group."
        )
    return Cut(length, size, strided)


def _axis(axis: int, index: int, flat: FlatTree, groups: Groups) -> int:
    ndim = len(np.shape(flat.leaves[index]))
    _require_axes(axis + 1 if axis >= 0 else -axis, index, flat, groups)
    return axis % ndim


def _require_axes(needed: int, index: int, flat: FlatTree, groups: Groups) -> None:
    shape = np.shape(flat.leaves[index])
    if len(shape) < needed:
        raise ValueError(
            f"The groups {groups} need at least {needed} axes. The leaf '{flat.paths[index]}' has shape "
            f"{shape}. Keep it out of the penalty with "
            f"mask=jaxreg.masks.weights{f' & jaxreg.masks.min_ndim({needed})' if needed > 2 else ''}."
        )


def _attention_projection(index: int, flat: FlatTree) -> str | None:
    """Say "split" for query, key and value, "merge" for out, None for any other leaf."""
    parts = flat.paths[index].split(SEPARATOR)
    if len(parts) < 2 or parts[-1] != "kernel" or len(np.shape(flat.leaves[index])) < 3:
        return None
    block = SEPARATOR.join(parts[:-2])
    siblings = (SEPARATOR.join(filter(None, (block, name, "kernel"))) for name in ("query", "out"))
    if not all(sibling in flat.path_set for sibling in siblings):
        return None
    return {"query": "split", "key": "split", "value": "split", "out": "merge"}.get(parts[-2])
