"""Walk parameter pytrees: path strings, absent leaves, prefixes, dtypes."""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

PyTree = Any
SEPARATOR = "/"


@dataclasses.dataclass(frozen=True)
class FlatTree:
    """A pytree taken apart: one path string per leaf, absent leaves included.

    ``None`` and ``optax.MaskedNode`` count as leaves here, because a path that
    a partition hides from us must still count as a match of a pattern.
    """

    paths: tuple[str, ...]
    leaves: tuple[Any, ...]
    treedef: Any

    @functools.cached_property
    def _made(self) -> dict[int, tuple[Any, Any]]:
        return {}

    def once(self, owner: Any, make: Callable[["FlatTree"], Any]) -> Any:
        """``make(self)``, made the first time that this owner asks."""
        # The owner is kept beside its result, so that its id is not given away.
        if id(owner) not in self._made:
            self._made[id(owner)] = (owner, make(self))
        return self._made[id(owner)][1]

    @functools.cached_property
    def has_floating(self) -> bool:
        """Whether there is anything to regularise; optax's placeholder for parameters has nothing."""
        return any(is_inexact(leaf) for leaf in self.leaves)

    @functools.cached_property
    def path_set(self) -> frozenset[str]:
        return frozenset(self.paths)

    def rebuild(self, leaves: Sequence[Any]) -> PyTree:
        return jax.tree.unflatten(self.treedef, leaves)

    def align(self, other: PyTree, name: str) -> list[Any]:
        """Leaves of ``other``, which must have this tree's structure, in order."""
        try:
            found = self.treedef.flatten_up_to(other)
        except (ValueError, TypeError, KeyError) as error:
            raise ValueError(
                f"'{name}' must have the tree structure of the parameters. Got "
                f"{jax.tree.structure(other)} where {self.treedef} was expected."
            ) from error
        for path, leaf, entry in zip(self.paths, self.leaves, found, strict=True):
            _refuse_misfit(path, leaf, entry, name)
        return found


def _refuse_misfit(path: str, leaf: Any, entry: Any, name: str) -> None:
    if is_absent(leaf) or is_absent(entry):
        return
    if is_container(entry):
        raise ValueError(
            f"'{name}' must have the tree structure of the parameters. Got {jax.tree.structure(entry)} at "
            f"'{path}', where the parameters have a leaf."
        )
    if is_inexact(entry) and np.shape(entry) != np.shape(leaf):
        raise ValueError(
            f"'{name}' must have the shapes of the parameters. Got {np.shape(entry)} at '{path}', where the "
            f"parameter has {np.shape(leaf)}."
        )


def is_absent(leaf: Any) -> bool:
    """Whether the leaf is a hole: ``None``, or masked out by optax."""
    return leaf is None or isinstance(leaf, optax.MaskedNode)


def flatten(tree: PyTree) -> FlatTree:
    """Flatten with path strings that are the same for every framework's containers."""
    entries, treedef = jax.tree_util.tree_flatten_with_path(tree, is_leaf=is_absent)
    keys = [key for key, _ in entries]
    if any(_is_value(step) for key in keys for step in key):
        boxes = _variable_boxes(tree)
        keys = [_unboxed(key, boxes) for key in keys]
    return FlatTree(tuple(path_string(k) for k in keys), tuple(leaf for _, leaf in entries), treedef)


def path_string(keys: Sequence[Any]) -> str:
    """``("conv", 0, "kernel")`` as ``"conv/0/kernel"``, whatever kind of key each is."""
    return SEPARATOR.join(key_name(key) for key in keys)


def key_name(key: Any) -> str:
    """The bare name of one step of a path: a dict key, a field name or an index."""
    for attribute in ("key", "name", "idx"):
        if hasattr(key, attribute):
            return str(getattr(key, attribute))
    return str(key)


def _is_value(step: Any) -> bool:
    return isinstance(step, jax.tree_util.GetAttrKey) and step.name == "value"


def _unboxed(keys: tuple[Any, ...], boxes: set[tuple[Any, ...]]) -> tuple[Any, ...]:
    for depth, step in enumerate(keys):
        if _is_value(step) and keys[:depth] in boxes:
            return keys[:depth] + keys[depth + 1 :]
    return keys


def _variable_boxes(tree: PyTree) -> set[tuple[Any, ...]]:
    # An NNX State shows `.value` below each variable and the pure state that an
    # optimizer sees does not: the box is left out of the path (in the middle of it
    # where the variable holds a pytree), but a field of the user's own that is
    # called `value` is not.
    entries = jax.tree_util.tree_leaves_with_path(tree, is_leaf=lambda node: is_variable_box(type(node)))
    return {key for key, node in entries if is_variable_box(type(node))}


def is_variable_box(cls: type) -> bool:
    """Whether this is a kind of ``nnx.Variable``, the box that NNX puts around an array."""
    return any(
        base.__name__ in ("Variable", "VariableState") and base.__module__.startswith("flax.nnx")
        for base in cls.__mro__
    )


def is_inexact(leaf: Any) -> bool:
    """Whether the leaf holds real or complex floating numbers, so can be regularised."""
    if isinstance(leaf, type):  # jnp.float32 itself, a static field of a module, has a dtype too
        return False
    if hasattr(leaf, "dtype"):
        return jnp.issubdtype(leaf.dtype, jnp.inexact)
    return isinstance(leaf, float | complex)


def is_complex(leaf: Any) -> bool:
    return jnp.issubdtype(jnp.result_type(leaf), jnp.complexfloating)


def real_dtype(leaf: Any) -> Any:
    """The dtype of the leaf's modulus, at least float32."""
    dtype = jnp.finfo(jnp.result_type(leaf)).dtype
    return jnp.promote_types(dtype, jnp.float32)


def upcast(leaf: Any) -> Any:
    """The leaf in the precision to compute in: itself, or float32 where it is narrower."""
    leaf = jnp.asarray(leaf)
    wide = jnp.promote_types(leaf.dtype, jnp.float32)
    return leaf if wide == leaf.dtype else leaf.astype(wide)


def cast(array: Any, dtype: Any) -> Any:
    """``array.astype(dtype)``, except that an array which has the dtype keeps its weak type."""
    return array if array.dtype == dtype else array.astype(dtype)


def as_real(number: Any, like: Any) -> Any:
    """A strength or step in the precision of ``like``; Python numbers stay weakly typed."""
    if isinstance(number, int | float) and not isinstance(number, np.generic):
        return float(number)
    dtype = real_dtype(like)
    if getattr(number, "weak_type", False) and number.dtype == dtype:
        return number
    return jnp.asarray(number, dtype)


def widened(number: Any) -> Any:
    """A factor of a product of strengths and rates: two small float16 numbers have none but 0."""
    is_python = isinstance(number, int | float) and not isinstance(number, np.generic)
    return number if is_python else upcast(number)


def squared_modulus(x: Any) -> Any:
    """``|x|^2`` element by element, real also for complex arrays."""
    return x.real * x.real + x.imag * x.imag if is_complex(x) else x * x


def spread(prefix: PyTree, flat: FlatTree, name: str, wanted: Sequence[int]) -> dict[int, Any]:
    """For each wanted leaf, the entry of ``prefix`` that stands at or above it.

    Entries are found by path, not by container type, so that a plain dict can
    speak of a FrozenDict or an NNX State. An entry above no leaf, and a wanted
    leaf below no entry, are errors.
    """
    if not is_container(prefix):
        return dict.fromkeys(wanted, prefix)
    given = flatten(prefix)
    entries = {p: v for p, v in zip(given.paths, given.leaves, strict=True) if not is_absent(v)}
    owners = [_owner(path, entries) for path in flat.paths]
    _refuse_unused(entries, owners, flat, name)
    found = {}
    for index in wanted:
        owner = owners[index]
        if owner is None:
            raise ValueError(f"'{name}' has no entry for the leaf '{flat.paths[index]}'.")
        found[index] = entries[owner]
    return found


def is_container(tree: PyTree) -> bool:
    # Not treedef_is_leaf, to which an empty container is a leaf too.
    return jax.tree.structure(tree, is_leaf=is_absent) != jax.tree.structure(0)


def _owner(path: str, entries: Mapping[str, Any]) -> str | None:
    while path not in entries:
        if not path:
            return None
        path = path.rpartition(SEPARATOR)[0]
    return path


def _refuse_unused(
    entries: Mapping[str, Any], owners: Sequence[str | None], flat: FlatTree, name: str
) -> None:
    unused = set(entries).difference(owners)
    if unused:
        raise ValueError(
            f"'{name}' has an entry '{min(unused)}' that is above no leaf of the parameters. "
            f"Their paths begin: {', '.join(flat.paths[:5])}."
        )
