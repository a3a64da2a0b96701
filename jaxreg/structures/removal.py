"""Which units are left, and what that makes of axes and arrays."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxreg.structures.dimensions import LEAF, SUM, Dimension, find
from jaxreg.structures.program import Value


@dataclasses.dataclass(eq=False)
class Removal:
    """For each unit dimension the indices that are left; those that are not named keep all."""

    left: Mapping[Dimension, np.ndarray]

    def __post_init__(self) -> None:
        self._kept: dict[Dimension, np.ndarray] = {}

    def kept(self, dimension: Dimension) -> np.ndarray:
        """The positions along a dimension that are left, in ascending order."""
        node = find(dimension)
        if node not in self._kept:
            self._kept[node] = self._positions(node)
        return self._kept[node]

    def _positions(self, node: Dimension) -> np.ndarray:
        if node.kind == LEAF:
            return self.left.get(node, np.arange(node.size))
        if node.kind == SUM:
            starts = np.cumsum([0, *(part.size for part in node.parts[:-1])])
            return np.concatenate([s + self.kept(p) for s, p in zip(starts, node.parts, strict=True)])
        found = np.zeros(1, int)
        for part in node.parts:
            found = (found[:, None] * part.size + self.kept(part)[None]).reshape(-1)
        return found

    def touches(self, value: Value) -> bool:
        return any(len(self.kept(d)) != d.size for d in value.dims)

    def shape(self, value: Value) -> tuple[int, ...]:
        return tuple(len(self.kept(dimension)) for dimension in value.dims)

    def size(self, value: Value) -> int:
        return math.prod(self.shape(value))

    def take(self, value: Value, array: Any) -> Any:
        """What is left of an array that has the dimensions of ``value``."""
        for axis, dimension in enumerate(value.dims):
            kept = self.kept(dimension)
            if len(kept) != dimension.size:
                is_numpy = isinstance(array, np.ndarray)
                array = np.take(array, kept, axis) if is_numpy else _take(array, kept, axis)
        return array


def _take(array: Any, kept: np.ndarray, axis: int) -> Any:
    return jnp.take(array, kept, axis, mode="clip")
