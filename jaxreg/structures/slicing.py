"""Slice trees that look like the parameters: optimizer states, averages, other copies."""

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np

from jaxreg.structures.program import Value
from jaxreg.structures.removal import Removal
from jaxreg.tree import SEPARATOR, PyTree, flatten, is_absent


def slice_like(tree: PyTree, values: dict[str, Value], removal: Removal, name: str) -> PyTree:
    """Every leaf whose path ends in that of a parameter loses what the parameter loses.

    ``values`` are the parameters by path. Leaves of other shapes that belong to a parameter are sliced along
    the axes that they share with it, as in factored second moments; counts and keys are kept.
    """
    flat = flatten(tree)
    ends = _ends(values)
    leaves = [
        leaf if is_absent(leaf) else _sliced(path, leaf, _owner(path, ends), removal, name)
        for path, leaf in zip(flat.paths, flat.leaves, strict=True)
    ]
    return flat.rebuild(leaves)


def _sliced(path: str, leaf: Any, value: Value | None, removal: Removal, name: str) -> Any:
    if value is None or np.ndim(leaf) == 0 or not removal.touches(value):
        return leaf
    if np.shape(leaf) == value.shape:
        return removal.take(value, leaf)
    if np.size(leaf) <= 1:
        return leaf
    fitting = [
        axes
        for axes in itertools.combinations(range(len(value.shape)), np.ndim(leaf))
        if tuple(value.shape[axis] for axis in axes) == np.shape(leaf)
    ]
    if len(fitting) != 1:
        raise ValueError(
            f"The leaf '{path}' of shape {np.shape(leaf)} in '{name}' cannot be sliced like its parameter of "
            f"shape {value.shape}. Leave it out, and make the state anew from the smaller parameters."
        )
    part = Value(np.shape(leaf), leaf.dtype, tuple(value.dims[axis] for axis in fitting[0]))
    return removal.take(part, leaf)


def _ends(values: dict[str, Value]) -> dict[str, Value]:
    """Parameters by their path and by what is left of it below each common node."""
    ends = dict(values)
    paths = list(values)
    for path in paths:
        head = path.split(SEPARATOR)[0] + SEPARATOR
        if head != path + SEPARATOR:
            # A penalty or an optimizer may have seen variables["params"] alone.
            ends.setdefault(path.removeprefix(head), values[path])
    return ends


def _owner(path: str, ends: dict[str, Value]) -> Value | None:
    steps: Sequence[str] = path.split(SEPARATOR)
    tails = (SEPARATOR.join(steps[start:]) for start in range(len(steps)))
    return next((ends[tail] for tail in tails if tail in ends), None)
