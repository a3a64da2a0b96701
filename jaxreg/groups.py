"""Which elements of a leaf live and die together.

A structure such as :func:`outputs` is a small static object. Asked about a
parameter tree it answers with one *view* per leaf: how to reshape the leaf so
that a group is what a reduction over some axes sees. Group norms are therefore
plain reductions, and no mask of groups times elements is ever built.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jaxreg import patterns
from jaxreg.arguments import check_flag
from jaxreg.group_kinds import AlongAxis, Axes, Blocks, ByPath, Channels, Groups

__all__ = [
    "Groups",
    "axes",
    "blocks",
    "by_path",
    "chunks",
    "inputs",
    "kernels",
    "layers",
    "outputs",
    "strided",
]

_LAYOUTS = {"flax": "flax", "torch": "torch", "equinox": "torch"}


def outputs(layout: str = "flax") -> Groups:
    """One group per output unit: a neuron of a dense kernel, a filter of a convolution.

    Args:
        layout: where the output axis is. ``"flax"`` kernels are ``(..., in, out)``;
            ``"torch"`` and ``"equinox"`` weights are ``(out, in, ...)``. Flax
            attention projections ``query``, ``key``, ``value`` of shape
            ``(in, heads, head_dim)`` have two output axes, a group per (head, channel). They
            are known by their siblings: give the whole block, with ``query`` and ``out``.

    Returns:
        A structure for the ``groups`` argument of a penalty.

    Raises:
        ValueError: if ``layout`` is unknown, or, when used, for a leaf with fewer than 2 axes.

    Stacked (scanned) layers ``(layers, in, out)`` cannot be told from 1-D
    convolutions by their shape: use ``axes(keep=(0, -1))`` for them.

    Examples:
        >>> import jax.numpy as jnp
        >>> import jaxreg
        >>> params = {"kernel": jnp.array([[3.0, 0.0], [4.0, 0.0]])}
        >>> penalty = jaxreg.group_lasso(1.0, jaxreg.groups.outputs(), size_weights=False)
        >>> float(penalty(params))
        5.0

    References:
        Yuan and Lin, Model selection and estimation in regression with grouped
        variables, 2006, https://doi.org/10.1111/j.1467-9868.2005.00532.x
    """
    return Channels("outputs", _layout(layout, "outputs"))


def inputs(layout: str = "flax") -> Groups:
    """One group per input unit: a row of a Flax dense kernel, an input channel of a convolution.

    Args:
        layout: as in :func:`outputs`. Flax attention's ``out`` projection
            ``(heads, head_dim, out)`` has two input axes.

    Returns:
        A structure for the ``groups`` argument of a penalty.

    Raises:
        ValueError: if ``layout`` is unknown, or, when used, for a leaf with fewer than 2 axes.

    Examples:
        >>> import jax.numpy as jnp
        >>> import jaxreg
        >>> params = {"kernel": jnp.array([[3.0, 4.0], [0.0, 0.0]])}
        >>> jaxreg.sparsity(params, jaxreg.groups.inputs()).item()
        0.5
    """
    return Channels("inputs", _layout(layout, "inputs"))


def kernels(layout: str = "flax") -> Groups:
    """One group per pair of input and output channel: a filter's slice over space.

    Args:
        layout: as in :func:`outputs`. The leaf needs spatial axes: three axes or more.

    Returns:
        A structure for the ``groups`` argument of a penalty.

    Raises:
        ValueError: if ``layout`` is unknown, or, when used, for a leaf without spatial axes.

    Examples:
        >>> import jax.numpy as jnp
        >>> import jaxreg
        >>> conv = {"kernel": jnp.ones((3, 3, 1, 2))}
        >>> float(jaxreg.group_lasso(1.0, jaxreg.groups.kernels(), size_weights=False)(conv))
        6.0
    """
    return Channels("kernels", _layout(layout, "kernels"))


def layers() -> Groups:
    """One group per leaf.

    Examples:
        >>> import jax.numpy as jnp
        >>> import jaxreg
        >>> float(jaxreg.group_lasso(1.0, jaxreg.groups.layers())({"w": jnp.ones(4)}))
        4.0
    """
    return Axes(())


def axes(*, keep: Sequence[int]) -> Groups:
    """One group per index of the kept axes; the other axes lie inside a group.

    Args:
        keep: axes, negative ones counted from the end. ``()`` makes the leaf one group.

    Returns:
        A structure for the ``groups`` argument of a penalty.

    Raises:
        TypeError: if ``keep`` is not a sequence of integers.
        ValueError: when used, if an axis is not in the leaf or named twice.

    Examples:
        Units of scanned dense layers ``(layers, in, out)``, each layer on its own:

        >>> import jax.numpy as jnp
        >>> import jaxreg
        >>> stacked = {"kernel": jnp.ones((2, 4, 3))}
        >>> per_layer = jaxreg.groups.axes(keep=(0, -1))
        >>> float(jaxreg.group_lasso(1.0, per_layer, size_weights=False)(stacked))
        12.0
    """
    return Axes(
        tuple(
            _integer(axis, "keep", "groups.axes", low=None) for axis in _sequence(keep, "keep", "groups.axes")
        )
    )


def blocks(shape: Sequence[int], *, ragged: bool = False) -> Groups:
    """Tiles of a fixed shape over the last axes of a leaf; leading axes are kept apart.

    Args:
        shape: block lengths of the last ``len(shape)`` axes, each at least 1.
        ragged: allow a smaller last block where a length does not divide; its
            size weight is the square root of its own size.

    Returns:
        A structure for the ``groups`` argument of a penalty.

    Raises:
        TypeError, ValueError: for a bad shape, or, when used, a length that does not divide.

    Examples:
        >>> import jax.numpy as jnp
        >>> import jaxreg
        >>> params = {"kernel": jnp.eye(4)}
        >>> jaxreg.sparsity(params, jaxreg.groups.blocks((2, 2))).item()
        0.5
    """
    lengths = tuple(
        _integer(n, "shape", "groups.blocks", low=1) for n in _sequence(shape, "shape", "groups.blocks")
    )
    if not lengths:
        raise ValueError("The 'shape' parameter of groups.blocks must have at least one length. Got ().")
    return Blocks(lengths, check_flag(ragged, "ragged", "groups.blocks"))


def chunks(size: int, axis: int, *, ragged: bool = False) -> Groups:
    """Runs of ``size`` neighbours along one axis; the other axes are kept apart.

    Args:
        size: elements in a group, at least 1.
        axis: the axis to cut, negative ones counted from the end.
        ragged: allow a smaller last run where the length does not divide. Where the axis
            is sharded, such runs lie across shards and their devices must exchange them.

    Returns:
        A structure for the ``groups`` argument of a penalty.

    Raises:
        TypeError, ValueError: for a bad size, or, when used, a length that does not divide.

    Examples:
        >>> import jax.numpy as jnp
        >>> import jaxreg
        >>> jaxreg.sparsity({"w": jnp.array([1.0, 0.0, 0.0, 0.0])}, jaxreg.groups.chunks(2, axis=0)).item()
        0.5
    """
    return _along_axis("chunks", size, axis, False, ragged)


def strided(stride: int, axis: int, *, ragged: bool = False) -> Groups:
    """Elements ``j, j + stride, j + 2 stride, ...`` along one axis; the other axes are kept apart.

    Args:
        stride: distance between neighbours in a group, and number of groups on the axis.
        axis: the axis to cut, negative ones counted from the end.
        ragged: allow groups that differ by one element where the length does not divide.

    Returns:
        A structure for the ``groups`` argument of a penalty.

    Raises:
        TypeError, ValueError: for a bad stride, or, when used, a length that does not divide.

    Examples:
        >>> import jax.numpy as jnp
        >>> import jaxreg
        >>> jaxreg.sparsity({"w": jnp.array([1.0, 0.0, 1.0, 0.0])}, jaxreg.groups.strided(2, axis=0)).item()
        0.5
    """
    return _along_axis("strided", stride, axis, True, ragged)


def by_path(table: Mapping[str, Groups]) -> Groups:
    """A structure per path pattern; the first pattern that matches a leaf decides.

    Args:
        table: ``{pattern: groups}``, patterns as in :func:`jaxreg.masks.path`.

    Returns:
        A structure for the ``groups`` argument of a penalty.

    Raises:
        TypeError, ValueError: for a bad table; when used, for a pattern that matches no
            leaf and for a selected leaf that no pattern matches.

    Examples:
        >>> import jax.numpy as jnp
        >>> import jaxreg
        >>> params = {"conv": {"kernel": jnp.ones((3, 3, 1, 2))}, "dense": {"kernel": jnp.ones((4, 3))}}
        >>> groups = jaxreg.groups.by_path({
        ...     "conv/kernel": jaxreg.groups.kernels(), "**": jaxreg.groups.inputs()})
        >>> float(jaxreg.group_lasso(1.0, groups)(params))
        30.0
    """
    if not isinstance(table, Mapping) or not table:
        raise TypeError(f"The 'table' parameter of groups.by_path must be a dict of patterns. Got {table!r}.")
    patterns.check("groups.by_path", tuple(table))
    for pattern, value in table.items():
        check_groups(value, f"table[{pattern!r}]", "groups.by_path")
    return ByPath(tuple(table.items()))


def check_groups(value: Any, name: str, owner: str) -> Groups:
    if not isinstance(value, Groups):
        raise TypeError(
            f"The '{name}' parameter of {owner} must be a structure from jaxreg.groups, such as "
            f"jaxreg.groups.outputs(). Got {value!r}."
        )
    return value


def _along_axis(owner: str, size: int, axis: int, strided: bool, ragged: bool) -> Groups:
    size = _integer(size, "stride" if strided else "size", f"groups.{owner}", low=1)
    return AlongAxis(
        size,
        _integer(axis, "axis", f"groups.{owner}", low=None),
        strided,
        check_flag(ragged, "ragged", f"groups.{owner}"),
    )


def _layout(layout: str, owner: str) -> str:
    if not isinstance(layout, str) or layout not in _LAYOUTS:
        raise ValueError(
            f"The 'layout' parameter of groups.{owner} must be one of 'flax', 'torch', 'equinox'. "
            f"Got {layout!r}."
        )
    return _LAYOUTS[layout]


def _sequence(value: Any, name: str, owner: str) -> tuple[Any, ...]:
    if isinstance(value, str) or not isinstance(value, Sequence):
        raise TypeError(f"The '{name}' parameter of {owner} must be a sequence of integers. Got {value!r}.")
    return tuple(value)


def _integer(value: Any, name: str, owner: str, low: int | None) -> int:
    if isinstance(value, bool) or not isinstance(value, int | np.integer):
        raise TypeError(f"The '{name}' parameter of {owner} must be an integer. Got {value!r}.")
    if low is not None and value < low:
        raise ValueError(f"The '{name}' parameter of {owner} must be at least {low}. Got {value}.")
    return int(value)
