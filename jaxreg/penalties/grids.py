"""Total variation along several axes at once: its prox and its subdifferential, by passes over the lines."""

import functools
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from jaxreg.penalties.lines import denoise, ends

PASSES, ROUNDINGS, EQUAL = 500, 4, 64
"""The limit of passes; in roundings of the largest number: where they stop, and what counts as equal."""


def denoise_grids(x: Any, axes: tuple[int, ...], threshold: Any) -> Any:
    """argmin_z threshold sum |differences of z along the axes| + ||z - x||^2 / 2."""
    borders = [jnp.broadcast_to(jnp.asarray(threshold), jnp.diff(x, axis=axis).shape) for axis in axes]
    return _solve(x, borders, axes)


def grid_distances(x: Any, axes: tuple[int, ...], grad: Any, threshold: Any, soft: Any) -> Any:
    """Of ``-grad`` to the subdifferential of ``threshold`` total variation ``+ soft sum |x|``, per element.

    The subgradient of least distance is what a denoising of ``-grad`` inside the constant
    regions of x leaves: the dual of that problem is this one.
    """
    jumps = [jnp.sign(jnp.diff(x, axis=axis)) for axis in axes]
    pulls = [ends(threshold * jump, axis) for jump, axis in zip(jumps, axes, strict=True)]
    pulled = sum(pulls, -grad) - soft * jnp.sign(x)
    left = jnp.abs(_solve(pulled, [jnp.where(jump == 0, threshold, 0.0) for jump in jumps], axes))
    return jnp.where(x == 0, jnp.maximum(left - soft, 0.0), left)


@functools.partial(jax.jit, static_argnums=2)  # an eager loop would be compiled anew at each call
def _solve(x: Any, borders: Sequence[Any], axes: tuple[int, ...]) -> Any:
    """The denoised x, for a threshold at each border between neighbours along each axis."""
    last = tuple(range(-len(axes), 0))

    def grids(array: Any) -> Any:
        moved = jnp.moveaxis(array, axes, last)
        grid = moved.shape[-len(axes) :]
        return moved.reshape(math.prod(moved.shape[: -len(axes)]), *grid)

    out = jax.vmap(_solve_grid)(grids(x), [grids(border) for border in borders])
    return jnp.moveaxis(out.reshape(jnp.moveaxis(x, axes, last).shape), last, axes)


def _solve_grid(x: Any, borders: Sequence[Any]) -> Any:
    still, shift = lax.stop_gradient(x), lax.stop_gradient(x.ravel()[0])
    # An offset changes no difference, and would only be rounded.
    point = _passes(still - shift, [lax.stop_gradient(border) for border in borders])
    rounding = jnp.finfo(x.dtype).eps
    near = EQUAL * rounding * jnp.max(jnp.abs(still - shift))
    steps = [jnp.diff(point, axis=axis) for axis in range(x.ndim)]
    joined = [(jnp.abs(step) <= near) & (border > 0) for step, border in zip(steps, borders, strict=True)]
    roots = _roots(joined, x.shape)
    levels = (point + shift).ravel()[roots]
    # A region is the mean of its elements and of what pulls at its borders. Taken as a change of the
    # level that was found, it is rounded little, and it can be differentiated.
    pulls = [
        ends(jnp.where(join, 0.0, border * jnp.sign(step)), axis)
        for axis, (join, border, step) in enumerate(zip(joined, borders, steps, strict=True))
    ]
    totals = jnp.zeros(x.size, x.dtype).at[roots].add(sum(pulls, x - levels))
    counts = jnp.zeros(x.size, x.dtype).at[roots].add(1.0)
    change = totals[roots] / counts[roots]
    # Where the limit of passes is reached regions may be wrong, and a mean far off: it gives the
    # derivative alone.
    trusted = jnp.abs(change) <= near + ROUNDINGS * rounding * jnp.abs(levels)
    return levels + jnp.where(trusted, change, change - lax.stop_gradient(change))


def _passes(x: Any, borders: Sequence[Any]) -> Any:
    """The solution to rounding, by accelerated alternating descent in the dual.

    The solution is x less one pull for each axis, and the best pull of one axis, given the others,
    is what its own prox removes. Minimised over the first in this way, the dual is a smooth
    function of the others, whose gradient is minus what the first prox leaves and whose Lipschitz
    constant is their number; with two axes a step is one of Dykstra's algorithm. Nesterov's momentum
    starts anew where it points uphill.
    """
    others = list(enumerate(borders))[1:]
    size = jnp.max(jnp.abs(x))
    unit = jnp.where(size > 0, size, 1.0)

    def unsettled(carry: Any) -> Any:
        count, *_, moving = carry
        return moving & (count < PASSES)

    def advance(carry: Any) -> Any:
        count, _, pulls, ahead, weight, _ = carry
        middle = denoise(sum((-pull for pull in ahead), x), 0, borders[0]) / len(others)
        aims = [pull + middle for pull in ahead]
        parts = [denoise(aim, axis, border) for aim, (axis, border) in zip(aims, others, strict=True)]
        new = [aim - part for aim, part in zip(aims, parts, strict=True)]
        ways = [after - before for after, before in zip(new, pulls, strict=True)]
        # What is left of the gradient after the step: all zero at the solution.
        rest = [after - before for after, before in zip(new, ahead, strict=True)]
        uphill = sum(jnp.sum((r / unit) * (w / unit)) for r, w in zip(rest, ways, strict=True)) < 0
        heavier = jnp.where(uphill, 1.0, (1 + jnp.sqrt(1 + 4 * weight**2)) / 2)
        push = jnp.where(uphill, 0.0, (weight - 1) / heavier)
        further = [pull + push * way for pull, way in zip(new, ways, strict=True)]
        goal = ROUNDINGS * jnp.finfo(x.dtype).eps * jnp.maximum(size, _largest(new))
        return count + 1, sum(parts[1:], parts[0]), new, further, heavier, _largest(rest) > goal

    # Made from x, so that all parts vary over a mesh of devices as x does.
    nothing = [jnp.where(x == 0, x, 0.0) for _ in others]
    start = 0, x, nothing, nothing, jnp.where(size > 0, 1.0, unit), size > 0
    return lax.while_loop(unsettled, advance, start)[1]


def _largest(arrays: Sequence[Any]) -> Any:
    return functools.reduce(jnp.maximum, [jnp.max(jnp.abs(array)) for array in arrays])


def _roots(joined: Sequence[Any], shape: tuple[int, ...]) -> Any:
    """For each element the least index in its region, of elements joined across borders."""
    size = math.prod(shape)

    def spread(carry: Any) -> Any:
        roots, _ = carry
        new = roots
        for axis, join in enumerate(joined):
            count = shape[axis] - 1
            left, right = (lax.slice_in_dim(new, start, start + count, axis=axis) for start in (0, 1))
            least = jnp.where(join, jnp.minimum(left, right), size)
            after, before = ([(0, 0)] * len(shape) for _ in range(2))
            after[axis], before[axis] = (0, 1), (1, 0)
            for widths in (after, before):
                new = jnp.minimum(new, jnp.pad(least, widths, constant_values=size))
        # On to the root of the root, so that long regions take few rounds.
        new = new.ravel()[new]
        return new, jnp.any(new != roots)

    some = sum(jnp.sum(join) for join in joined)
    start = jnp.arange(size).reshape(shape) + 0 * some, some > 0
    return lax.while_loop(lambda carry: carry[1], spread, start)[0]
