"""See one leaf as groups: a reshape and the axes that lie inside a group, or units along an axis."""

import dataclasses
import functools
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

    def counts(self) -> Any:
        """Indices per group along this axis: a number, or an array along ``split`` where they differ."""
        groups, rest = self.padded // self.size, self.padded - self.length
        if not rest:
            return float(groups if self.strided else self.size)
        # Where, not a constant: it is weakly typed, and made on the device.
        if self.strided:
            return jnp.where(jnp.arange(self.size) < self.size - rest, float(groups), float(groups - 1))[None]
        last = jnp.arange(groups) == groups - 1
        return jnp.where(last, float(self.size - rest), float(self.size))[:, None]


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
        """Elements per group: a number, or an array that broadcasts with the groups where they differ."""
        sizes: Any = 1.0
        position = 0
        for cut in self.cuts:
            count = cut.counts()
            if jnp.ndim(count):
                after = len(self.split) - position - jnp.ndim(count)
                count = lax.expand_dims(count, [*range(position), *range(position + 2, position + 2 + after)])
            sizes = sizes * count
            position += len(cut.split)
        return sizes

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


@dataclasses.dataclass(frozen=True)
class UnitView(View):
    """A leaf whose positions along one axis belong to units, which other leaves share.

    Group arrays are vectors with one entry per unit; a unit may have no position in this leaf, but
    every position has a unit.
    """

    lengths: tuple[int, ...]
    axis: int
    units: int
    owners: tuple[int, ...]
    """The unit of each position along the axis; empty where unit j is position j."""

    @property
    def shape(self) -> tuple[int, ...]:
        return self.lengths

    @property
    def split(self) -> tuple[int, ...]:
        return (self.units,)

    @property
    def inside(self) -> tuple[int, ...]:
        return ()

    def sizes(self) -> Any:
        counts = np.bincount(self.owner(), minlength=self.units)
        others = math.prod(self.lengths) / self.lengths[self.axis]
        if (counts == counts[0]).all():
            return float(counts[0] * others)
        return jnp.asarray(counts * others, jnp.float32)

    def sum(self, x: Any) -> Any:
        sums = lax.reduce_sum(x, self._others())
        return jnp.zeros(self.units, sums.dtype).at[self.owner()].add(sums) if self.owners else sums

    def max(self, x: Any) -> Any:
        largest = jnp.maximum(lax.reduce_max(x, self._others()), 0.0)
        if not self.owners:
            return largest
        return jnp.zeros(self.units, largest.dtype).at[self.owner()].max(largest)

    def broadcast(self, per_group: Any) -> Any:
        if jnp.ndim(per_group) == 0:
            return per_group
        vector = jnp.broadcast_to(per_group, (self.units,))
        if self.owners:
            vector = vector[self.owner()]
        return lax.expand_dims(vector, self._others())

    def _others(self) -> tuple[int, ...]:
        return tuple(axis for axis in range(len(self.lengths)) if axis != self.axis)

    def owner(self) -> np.ndarray:
        """The unit of each position along the axis."""
        return _indices(self.owners) if self.owners else np.arange(self.units)


@functools.lru_cache(maxsize=1024)
def _indices(numbers: tuple[int, ...]) -> np.ndarray:
    return np.asarray(numbers, np.int32)


def unit_view(shape: tuple[int, ...], axis: int, owners: np.ndarray, units: int) -> UnitView:
    """The view of a leaf from the unit of each position along an axis."""
    plain = len(owners) == units and (owners == np.arange(units)).all()
    return UnitView((), shape, axis, units, () if plain else tuple(owners.tolist()))
