"""See one leaf as groups: a reshape, and the axes that lie inside a group."""

import dataclasses
import math
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import lax


@dataclasses.dataclass(frozen=True)
class Cut:
    """How one axis falls into groups: runs of ``size`` indices, or every ``size``-th index."""

    length: int
    size: int
    strided: bool = False

    @property
    def padded(self) -> int:
        return -(-self.length // self.size) * self.size

    @property
    def split(self) -> tuple[int, ...]:
        if not self.strided and self.size in (1, self.length):
            return (self.length,)
        return (self.padded // self.size, self.size)

    @property
    def inside(self) -> tuple[bool, ...]:
        """For each axis of ``split``, whether a group runs along it."""
        if len(self.split) == 1:
            return (self.size == self.length,)
        return (True, False) if self.strided else (False, True)

    def counts(self) -> np.ndarray:
        """Indices per group along this axis, with ``split``'s rank."""
        present = (np.arange(self.padded) < self.length).astype(np.int64).reshape(self.split)
        return present.sum(axis=tuple(np.flatnonzero(self.inside).tolist()), keepdims=True)


@dataclasses.dataclass(frozen=True)
class View:
    """One leaf seen as groups. Group arrays keep their axes, so that they broadcast and shard."""

    cuts: tuple[Cut, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(cut.length for cut in self.cuts)

    @property
    def split(self) -> tuple[int, ...]:
        return tuple(n for cut in self.cuts for n in cut.split)

    @property
    def inside(self) -> tuple[int, ...]:
        return tuple(np.flatnonzero([flag for cut in self.cuts for flag in cut.inside]).tolist())

    @property
    def n_groups(self) -> int:
        return math.prod(n for axis, n in enumerate(self.split) if axis not in self.inside)

    def sizes(self) -> Any:
        """Elements per group: a number, or an array shaped like the groups where they differ."""
        counts = [cut.counts() for cut in self.cuts]
        if all(np.all(count == count.flat[0]) for count in counts if count.size):
            return math.prod(int(count.flat[0]) for count in counts if count.size)
        shaped: Any = 1
        position = 0
        for count in counts:
            rank = [1] * len(self.split)
            rank[position : position + count.ndim] = count.shape
            shaped = shaped * count.reshape(rank)
            position += count.ndim
        return shaped

    def sum(self, x: Any) -> Any:
        # lax's own reductions keep weak types, which jnp's do not.
        return lax.expand_dims(lax.reduce_sum(self._expand(x), self.inside), self.inside)

    def max(self, x: Any) -> Any:
        """The largest of a group's elements and 0."""
        largest = lax.reduce_max(self._expand(x), self.inside)
        return jnp.maximum(lax.expand_dims(largest, self.inside), 0.0)

    def broadcast(self, per_group: Any) -> Any:
        """A value per group as an array that broadcasts against the leaf."""
        if self.split == self.shape:
            return per_group
        padded = tuple(cut.padded for cut in self.cuts)
        full = jnp.broadcast_to(per_group, self.split).reshape(padded)
        return full[tuple(slice(length) for length in self.shape)]

    def _expand(self, x: Any) -> Any:
        if self.split == self.shape:
            return x
        widths = [(0, cut.padded - cut.length) for cut in self.cuts]
        if any(width for _, width in widths):
            x = jnp.pad(x, widths)
        return x.reshape(self.split)
