"""Slice trees that look like the parameters: optimizer states, averages, other copies."""

import itertools
from collections.abc import Mapping, Sequence
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
    owners = owners_of(flat.paths, values, name, flat.leaves)
    leaves = [
        leaf
        if is_absent(leaf)
        else _sliced(path, leaf, None if owner is None else values[owner], removal, name)
        for path, leaf, owner in zip(flat.paths, flat.leaves, owners, strict=True)
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


def owners_of(
    paths: Sequence[str], values: Mapping[str, Value], name: str, leaves: Sequence[Any] | None = None
) -> list[str | None]:
    """For each leaf of a tree the parameter that it belongs to, by path; None for counts and keys.

    A penalty or an optimizer may have seen a part of the parameters alone, such as ``variables["params"]``:
    the part is the one that most of the tree's leaves fit into.
    """
    heads = {path[: at + 1] for path in values for at in _separators(path)}
    found = {head: _below(head, paths, values, leaves) for head in ["", *sorted(heads)]}
    scores = {head: _score(head, owners, values) for head, owners in found.items()}
    best = max(scores.values())
    if not best[0]:
        return [None] * len(paths)
    best_heads = [head for head, score in scores.items() if score == best]
    owners: list[str | None] = [None] * len(paths)
    for head in best_heads:
        for number, owner in enumerate(found[head]):
            if owner is not None and owners[number] not in (None, owner):
                raise ValueError(
                    f"The leaf '{paths[number]}' of '{name}' could belong to '{owners[number]}' or to "
                    f"'{owner}' of the parameters. Give it for all parameters, as an optimizer has it that "
                    "was begun with them."
                )
            owners[number] = owner or owners[number]
    return owners


def _separators(path: str) -> list[int]:
    return [at for at, letter in enumerate(path) if letter == SEPARATOR]


def _below(
    head: str, paths: Sequence[str], values: Mapping[str, Value], leaves: Sequence[Any] | None
) -> list[str | None]:
    owners: list[str | None] = []
    for number, path in enumerate(paths):
        steps = path.split(SEPARATOR)
        tails = (head + SEPARATOR.join(steps[start:]) for start in range(len(steps)))
        owner = next((tail for tail in tails if tail in values), None)
        if owner is not None and leaves is not None and is_absent(leaves[number]):
            owner = None
        owners.append(owner)
    return owners


def _score(head: str, owners: Sequence[str | None], values: Mapping[str, Value]) -> tuple[int, bool]:
    """How many parameters of a part are there, and whether those are all."""
    covered = set(owners) - {None}
    return len(covered), len(covered) == sum(path.startswith(head) for path in values)
