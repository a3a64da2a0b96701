"""Which leaves of a parameter pytree: by path, name, axes or role.

A mask is a callable from parameters to a pytree of bools, so it serves wherever
optax takes a mask, and an immutable value that is equal to any other mask built
the same way, so rebuilding one never recompiles. Masks are combined with ``&``,
``|`` and ``~``.

The roles are ready-made masks: ``weights`` (kernels and matrices), ``biases``,
``norms`` (scales and biases of normalisation layers) and ``embeddings``, for
models of Flax (Linen and NNX), Equinox and Haiku. No leaf has two of them.

Examples:
    >>> import jax.numpy as jnp
    >>> import jaxreg
    >>> params = {"dense": {"kernel": jnp.ones((2, 3)), "bias": jnp.ones(3)}, "ln": {"scale": jnp.ones(3)}}
    >>> mask = jaxreg.masks.weights | jaxreg.masks.path("ln/**")
    >>> mask
    weights | path('ln/**')
    >>> mask(params)
    {'dense': {'bias': False, 'kernel': True}, 'ln': {'scale': True}}
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import optax

from jaxreg import patterns, roles, tree
from jaxreg.arguments import REMEDY, refuse_step_count
from jaxreg.mask_algebra import Mask, Verdict, View
from jaxreg.tables import text_table
from jaxreg.tree import PyTree, is_absent

__all__ = [
    "as_mask",
    "biases",
    "describe",
    "embeddings",
    "min_ndim",
    "name",
    "norms",
    "path",
    "weights",
]


@dataclasses.dataclass(frozen=True)
class Row:
    """What a mask decides about one leaf."""

    path: str
    shape: tuple[int, ...]
    dtype: str
    selected: bool
    rule: str


@dataclasses.dataclass(frozen=True)
class Description:
    """What a mask decides about each leaf; ``str()`` of it is a table."""

    mask: Mask
    rows: tuple[Row, ...]
    summary: str

    def __str__(self) -> str:
        cells = [
            (row.path, row.shape, row.dtype, "yes" if row.selected else "no", row.rule) for row in self.rows
        ]
        return text_table(["path", "shape", "dtype", "selected", "rule"], cells) + "\n" + self.summary


def path(*globs: str) -> Mask:
    """Leaves whose path matches one of the patterns.

    A path is the leaf's keys, fields and indices joined by ``/``. ``*``, ``?`` and
    ``[...]`` match within one of them, ``**`` any number of them (none included), and a
    pattern has to match the whole path.

    Args:
        *globs: glob patterns; each has to match a leaf, if only one that is masked out.

    Returns:
        The mask.

    Raises:
        ValueError: if no pattern is given or one is malformed; when applied, if a
            pattern matches no leaf of the tree.

    Examples:
        >>> import jax.numpy as jnp
        >>> import jaxreg
        >>> params = {"body": {"kernel": jnp.ones(2)}, "head": {"kernel": jnp.ones(2)}}
        >>> (jaxreg.masks.path("**/kernel") & ~jaxreg.masks.path("head/**"))(params)
        {'body': {'kernel': True}, 'head': {'kernel': False}}
    """
    return _Pattern("path", patterns.check("path", globs))


def name(*names: str) -> Mask:
    """Leaves whose own name, the last step of the path, matches one of the patterns.

    Args:
        *names: names, in which ``*``, ``?`` and ``[...]`` are wildcards; each has to
            match a leaf, if only one that is masked out.

    Returns:
        The mask.

    Raises:
        ValueError: if no name is given or one holds a ``/``; when applied, if a name
            matches no leaf of the tree.

    Examples:
        >>> import jax.numpy as jnp
        >>> import jaxreg
        >>> jaxreg.masks.name("kernel")({"dense": {"kernel": jnp.ones((2, 3)), "bias": jnp.ones(3)}})
        {'dense': {'bias': False, 'kernel': True}}
    """
    for glob in patterns.check("name", names):
        if tree.SEPARATOR in glob:
            raise ValueError(f"A name has no '/' in it; path('**/{glob}') would match a path. Got {glob!r}.")
    return _Pattern("name", names)


def min_ndim(n: int) -> Mask:
    """Leaves with at least ``n`` axes; stacked layers have one more than usual.

    Args:
        n: the least number of axes, a non-negative integer.

    Returns:
        The mask.

    Raises:
        ValueError: if ``n`` is not a non-negative integer.

    Examples:
        >>> import jax.numpy as jnp
        >>> import jaxreg
        >>> jaxreg.masks.min_ndim(2)({"kernel": jnp.ones((2, 3)), "bias": jnp.ones(3)})
        {'bias': False, 'kernel': True}
    """
    if isinstance(n, bool) or not isinstance(n, int) or n < 0:
        raise ValueError(f"The 'n' parameter of min_ndim must be a non-negative integer. Got {n!r}.")
    return _MinNdim(n)


def as_mask(mask: "Mask | Callable[[PyTree], PyTree] | PyTree | None") -> Mask:
    """Turn whatever a ``mask`` argument accepts into a mask.

    Args:
        mask: ``None`` for every leaf; a mask; another callable from parameters to bools,
            which is equal only to itself (pass the same function, not a new lambda, where
            recompiling matters); or a pytree of bools (True: chosen) or a prefix of one,
            matched by path, so that it need not have the containers of the parameters.

    Returns:
        The mask.

    Raises:
        TypeError: if a leaf of the pytree is not a bool. Arrays are refused, because which
            leaves are chosen has to be known while a step is traced.

    Examples:
        >>> import jax.numpy as jnp
        >>> import jaxreg
        >>> mask = jaxreg.masks.as_mask({"body": True, "head": False})
        >>> mask({"body": {"kernel": jnp.ones(2), "bias": jnp.ones(2)}, "head": {"kernel": jnp.ones(2)}})
        {'body': {'bias': True, 'kernel': True}, 'head': {'kernel': False}}
    """
    if mask is None:
        return _Everything()
    if isinstance(mask, Mask):
        return mask
    if isinstance(mask, bool | np.bool_) and not mask:
        # What a mask function of the user's own turns into when it is called with a step count.
        raise ValueError(f"The mask False selects no leaf. {REMEDY}")
    if isinstance(mask, str):
        raise TypeError(f"The 'mask' parameter takes no string. For a path write masks.path({mask!r}).")
    # A module whose leaves were mapped to bools may well have a __call__ of its own.
    holds_bools = any(isinstance(leaf, bool | np.bool_ | jax.Array) for leaf in jax.tree.leaves(mask))
    return _Called(mask) if callable(mask) and not holds_bools else _Given(_read_bools(mask))


def describe(mask: "Mask | Callable[[PyTree], PyTree] | PyTree | None", params: PyTree) -> Description:
    """Say which leaves a mask chooses, which it leaves out, and by which rule.

    Args:
        mask: anything that :func:`as_mask` takes.
        params: a pytree of arrays or of their shapes.

    Returns:
        A description: ``.rows``, one per leaf, and ``str()``, a table. A mask that
        chooses nothing is described, not refused.

    Raises:
        ValueError: if a pattern matches no leaf.

    Examples:
        >>> import jax.numpy as jnp
        >>> import jaxreg
        >>> params = {"dense": {"kernel": jnp.ones((2, 3)), "bias": jnp.ones(3)}}
        >>> print(jaxreg.masks.describe(jaxreg.masks.weights, params))
        path          shape   dtype    selected  rule
        ------------  ------  -------  --------  --------------------------------
        dense/bias    (3,)    float32  no        role biases: leaf name 'bias'
        dense/kernel  (2, 3)  float32  yes       role weights: leaf name 'kernel'
        1 of 2 floating-point leaves selected, 6 of 9 elements
    """
    mask = as_mask(mask)
    refuse_step_count(params, f"The mask {mask}")
    view = View(tree.flatten(params))
    rows = tuple(
        _row(path, leaf, floating, verdict)
        for path, leaf, floating, verdict in zip(
            view.flat.paths, view.flat.leaves, view.floating, mask.judge(view), strict=True
        )
    )
    return Description(mask, rows, _summary(rows, view))


@dataclasses.dataclass(frozen=True, repr=False)
class _Everything(Mask):
    def judge(self, view: View) -> list[Verdict]:
        return [(True, "everything")] * len(view.flat.leaves)

    def __repr__(self) -> str:
        return "everything"


@dataclasses.dataclass(frozen=True, repr=False)
class _Pattern(Mask):
    function: str
    globs: tuple[str, ...]

    def judge(self, view: View) -> list[Verdict]:
        verdicts = [(False, f"{self} does not match")] * len(view.flat.paths)
        hits = [self._matches(glob, view) for glob in self.globs]
        for glob, matched in reversed(list(zip(self.globs, hits, strict=True))):
            for index in matched:
                verdicts[index] = (True, f"{self.function}({glob!r}) matches")
        return verdicts

    def _matches(self, glob: str, view: View) -> list[int]:
        if self.function == "path":
            return patterns.matches(glob, view.flat.paths, f"mask {self}", view.hidden)
        # A subtree that is masked out as a whole may hold any name.
        if view.hidden and not any(map(patterns.compiled(glob).fullmatch, view.names)):
            return []
        return patterns.matches(glob, view.names, f"mask {self}")

    def __repr__(self) -> str:
        return f"{self.function}({', '.join(map(repr, self.globs))})"


@dataclasses.dataclass(frozen=True, repr=False)
class _MinNdim(Mask):
    n: int

    def judge(self, view: View) -> list[Verdict]:
        axes = [len(getattr(leaf, "shape", ())) for leaf in view.flat.leaves]
        return [(count >= self.n, f"{self}: {count} {'axis' if count == 1 else 'axes'}") for count in axes]

    def __repr__(self) -> str:
        return f"min_ndim({self.n})"


@dataclasses.dataclass(frozen=True, repr=False)
class _Role(Mask):
    role: str

    def judge(self, view: View) -> list[Verdict]:
        return [(role == self.role, f"role {role}: {reason}") for role, reason in view.roles]

    def __repr__(self) -> str:
        return self.role


# Ready-made, because they take no argument; jaxreg.roles says what decides.
weights: Mask = _Role(roles.WEIGHTS)
"""Kernels of dense layers, convolutions, attention, recurrent cells: what is multiplied by the input."""
biases: Mask = _Role(roles.BIASES)
"""What is added to a layer's output; the bias of a normalisation is in ``norms``."""
norms: Mask = _Role(roles.NORMS)
"""Scales and biases of batch, layer, group and RMS normalisation."""
embeddings: Mask = _Role(roles.EMBEDDINGS)
"""Tables of token and position embeddings."""


@dataclasses.dataclass(frozen=True, repr=False)
class _Given(Mask):
    """A pytree of bools, kept by path: the containers of the parameters may differ."""

    entries: tuple[tuple[str, bool], ...]

    def judge(self, view: View) -> list[Verdict]:
        wanted = [index for index, floating in enumerate(view.floating) if floating]
        hidden = set(view.hidden)
        seen = {path: chosen for path, chosen in self.entries if hidden.isdisjoint(_above(path))}
        given = tree.spread(seen, view.flat, "mask", wanted)
        return [(given.get(i, False), f"given as {given.get(i, False)}") for i in range(len(view.floating))]

    def __repr__(self) -> str:
        shown = ", ".join(f"{path!r}: {value}" for path, value in self.entries[:4])
        return f"as_mask({{{shown}{', ...' if len(self.entries) > 4 else ''}}})"


@dataclasses.dataclass(frozen=True, repr=False)
class _Called(Mask):
    function: Callable[[PyTree], PyTree]

    def judge(self, view: View) -> list[Verdict]:
        given = _Given(_read_bools(self.function(view.flat.rebuild(view.flat.leaves))))
        return [(hit, f"{self} gives {hit}") for hit, _ in given.judge(view)]

    def __repr__(self) -> str:
        return f"as_mask({getattr(self.function, '__name__', repr(self.function))})"


def _above(path: str) -> list[str]:
    """The paths of the nodes above this one."""
    steps = path.split(tree.SEPARATOR)
    return [tree.SEPARATOR.join(steps[:end]) for end in range(1, len(steps))]


def _read_bools(mask: PyTree) -> tuple[tuple[str, bool], ...]:
    flat = tree.flatten(mask)
    entries = {}
    for path, leaf in zip(flat.paths, flat.leaves, strict=True):
        if is_absent(leaf):
            continue
        is_numpy_bool = isinstance(leaf, np.bool_ | np.ndarray) and leaf.dtype == bool and leaf.ndim == 0
        if not (isinstance(leaf, bool) or is_numpy_bool):
            raise TypeError(
                f"The 'mask' parameter must be a mask, a callable or a pytree of bools. Got a "
                f"{type(leaf).__name__} at {path!r}. Which leaves are chosen has to be known when a step "
                f"is traced, so arrays cannot say it."
            )
        entries[path] = bool(leaf)
    return tuple(sorted(entries.items()))


def _row(path: str, leaf: Any, floating: bool, verdict: Verdict) -> Row:
    hit, rule = verdict
    if not floating:
        hit, rule = False, _why_never(leaf)
    dtype = "-" if is_absent(leaf) else getattr(leaf, "dtype", type(leaf).__name__)
    return Row(path, tuple(getattr(leaf, "shape", ())), str(dtype), hit, rule)


def _why_never(leaf: Any) -> str:
    if isinstance(leaf, optax.MaskedNode):
        return "masked out by optax"
    return "absent" if leaf is None else "not floating-point"


def _summary(rows: tuple[Row, ...], view: View) -> str:
    floating = [row for row, counts in zip(rows, view.floating, strict=True) if counts]
    selected = [row for row in floating if row.selected]
    sizes = [sum(math.prod(row.shape) for row in group) for group in (selected, floating)]
    return (
        f"{len(selected)} of {len(floating)} floating-point leaves selected, "
        f"{sizes[0]:,} of {sizes[1]:,} elements"
    )
