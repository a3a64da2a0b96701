"""Trees of dicts, lists and tuples as JSON, and other trees as nested dicts."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax

from jaxreg.tree import SEPARATOR, PyTree

_SEQUENCES = {"list": list, "tuple": tuple}


def is_plain(tree: PyTree) -> bool:
    """Whether it is made of dicts, lists and tuples, down to its leaves."""
    if type(tree) is dict:
        return all(type(key) in (str, int) for key in tree) and all(map(is_plain, tree.values()))
    if type(tree) in (list, tuple):
        return all(map(is_plain, tree))
    return tree is None or jax.tree.structure(tree) == jax.tree.structure(0)


def as_json(tree: PyTree) -> Any:
    """A plain tree, with what JSON does not tell apart named; its leaves are to be numbers or None."""
    if type(tree) is dict:
        return {"dict": [[key, as_json(child)] for key, child in tree.items()]}
    if type(tree) in (list, tuple):
        return {type(tree).__name__: list(map(as_json, tree))}
    return tree


def from_json(described: Any, leaves: Sequence[Any]) -> PyTree:
    """The tree that was described, with the leaves of these numbers."""
    if not isinstance(described, dict):
        return None if described is None else leaves[described]
    ((kind, children),) = described.items()
    if kind == "dict":
        return {key: from_json(child, leaves) for key, child in children}
    return _SEQUENCES[kind](from_json(child, leaves) for child in children)


def nested(leaves: Mapping[str, Any]) -> PyTree:
    """Dicts by the steps of the paths."""
    if list(leaves) == [""]:
        return leaves[""]
    tree: dict[str, Any] = {}
    for path, leaf in leaves.items():
        _refuse_leaf_above(path, leaves)
        *heads, last = path.split(SEPARATOR)
        node = tree
        for head in heads:
            node = node.setdefault(head, {})
        node[last] = leaf
    return tree


def _refuse_leaf_above(path: str, leaves: Mapping[str, Any]) -> None:
    above, _, _ = path.rpartition(SEPARATOR)
    while above:
        if above in leaves:
            raise ValueError(
                f"The leaf '{path}' cannot be saved beside the leaf '{above}': a key holds a '{SEPARATOR}'. "
                "A tree with containers other than dicts, lists and tuples is saved by its paths."
            )
        above, _, _ = above.rpartition(SEPARATOR)
