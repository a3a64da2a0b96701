"""The arithmetic of shrinking: moduli, soft thresholds, norms and roots of groups.

Arrays come here in the precision to compute in. A group may reach over several
arrays: functions on groups take a list of arrays and the list of their views.
"""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from jaxreg.penalties.steps import one_step
from jaxreg.tree import is_complex, squared_modulus
from jaxreg.views import View

NEWTON_STEPS = 20  # at most; 3 to 5 are usual, 13 were the most for steps spread over 13 decades

Arrays = Sequence[Any]
Views = Sequence[View]


def modulus(x: Any) -> Any:
    """``|x|`` with gradient 0 at 0, where ``jnp.abs`` has +1 (real) or NaN (complex)."""
    if not is_complex(x):
        return x * lax.sign(x)
    zero = x == 0
    return jnp.where(zero, 0.0, jnp.abs(jnp.where(zero, 1.0, x)))


@jax.custom_jvp
def ratio(x: Any, y: Any) -> Any:
    """``x / y``, whose derivative does not take the square of a small y."""
    return x / y


@ratio.defjvp
def _ratio_jvp(primals: Any, tangents: Any) -> tuple[Any, Any]:
    (x, y), (dx, dy) = primals, tangents
    return ratio(x, y), ratio(dx, y) - ratio(x, y) * ratio(dy, y)


def half_quadratic(x: Any, curvature: Any) -> Any:
    """``curvature / 2 |x|^2`` element by element; a large x times a small curvature does not overflow."""
    if is_complex(x):
        return half_quadratic(x.real, curvature) + half_quadratic(x.imag, curvature)
    return (curvature / 2 * x) * x


def soft_threshold(x: Any, threshold: Any) -> Any:
    """argmin_z threshold |z| + |z - x|^2 / 2, an exact zero where ``|x| <= threshold``."""
    if is_complex(x):
        size = modulus(x)
        alive = size > threshold
        return jnp.where(alive, x * (1 - threshold / jnp.where(alive, size, 1.0)), 0.0)
    if isinstance(threshold, float):
        # A number needs no derivative: one clamp, which is quick to trace and to compile. In
        # x's own dtype, or as a Python number that leaves a weak type weak.
        bound = threshold if x.weak_type else x.dtype.type(threshold)
        return lax.sub(x, lax.clamp(-bound, x, bound))
    # Not sign(x) * max(|x| - threshold, 0): at threshold 0 this is the identity at 0 too,
    # also to differentiation.
    return jnp.where(jnp.abs(x) < threshold, 0.0, x - threshold * lax.sign(x))


def group_norm(xs: Arrays, views: Views) -> Any:
    """``||x_g||_2`` for each group: no overflow or underflow, and gradient 0 at a zero group."""
    return _norms(tuple(views), list(xs))


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def _norms(views: tuple[View, ...], xs: list[Any]) -> Any:
    largest = _total([view.max(jnp.abs(x)) for x, view in zip(xs, views, strict=True)], jnp.maximum)
    largest = lax.stop_gradient(largest)
    usable = (largest > 0) & jnp.isfinite(largest)
    scale = jnp.where(usable, largest, 1.0)
    scaled = [x / view.broadcast(scale) for x, view in zip(xs, views, strict=True)]
    total = _sum_of_squares(scaled, views)
    zero = total == 0
    return jnp.where(zero, 0.0, scale * jnp.sqrt(jnp.where(zero, 1.0, total)))


@_norms.defjvp
def _norms_jvp(views: tuple[View, ...], primals: Any, tangents: Any) -> tuple[Any, Any]:
    # <x / ||x||, dx>, in which small norms do not underflow as scale / scale would.
    [xs], [dxs] = primals, tangents
    norm = _norms(views, xs)
    positive = jnp.where(norm == 0, 1.0, norm)
    units = [x / view.broadcast(positive) for x, view in zip(xs, views, strict=True)]
    along = [view.sum(inner(unit, dx)) for unit, dx, view in zip(units, dxs, views, strict=True)]
    return norm, _total(along, jnp.add)


def inner(x: Any, y: Any) -> Any:
    """``Re(conj(x) y)`` element by element: x and y as vectors of the plane."""
    return x.real * y.real + x.imag * y.imag if is_complex(x) or is_complex(y) else x * y


def prox_groups(xs: Arrays, views: Views, steps: Arrays, threshold: Any) -> list[Any]:
    """argmin_z threshold ||z||_2 + sum_i |z_i - x_i|^2 / (2 s_i) in each group."""
    if one_step(steps):
        return shrink_groups(xs, views, steps[0] * threshold)
    return shrink_groups_weighted(xs, views, steps, threshold)


def shrink_groups(xs: Arrays, views: Views, threshold: Any) -> list[Any]:
    """argmin_z threshold ||z||_2 + ||z - x||^2 / 2 in each group.

    The norm is taken in units of the threshold, so that one pass over the data
    is enough: what overflows there is shrunk by less than rounding, what
    underflows is zero.
    """
    active = threshold > 0
    unit = lax.stop_gradient(jnp.where(active, threshold, 1.0))
    ratio = _sum_of_squares([x / view.broadcast(unit) for x, view in zip(xs, views, strict=True)], views)
    dead = active & (ratio <= 1)
    # A zero group at threshold 0 and a norm beyond the floats keep their values.
    kept = (ratio == 0) | jnp.isinf(ratio)
    factor = 1 - (threshold / unit) / jnp.sqrt(jnp.where(dead | kept, 1.0, ratio))
    factor = jnp.where(dead, 0.0, jnp.where(kept, 1.0, factor))
    return [
        jnp.where(view.broadcast(dead), 0.0, x * view.broadcast(factor))
        for x, view in zip(xs, views, strict=True)
    ]


def shrink_groups_weighted(xs: Arrays, views: Views, steps: Arrays, threshold: Any) -> list[Any]:
    """argmin_z threshold ||z||_2 + sum_i |z_i - x_i|^2 / (2 s_i) in each group.

    ``z_i = x_i theta / (theta + threshold s_i)`` with theta = ||z|| the root of
    ``sum_i |x_i|^2 / (theta + threshold s_i)^2 = 1``, or all zero where that sum
    is at most 1 at theta = 0.
    """
    shifts = [view.broadcast(threshold) * step for step, view in zip(steps, views, strict=True)]
    sizes = [modulus(x) if is_complex(x) else x for x in xs]  # only their squares count
    theta = _norms_after(tuple(views), sizes, shifts)
    dead = theta == 0  # not its opposite: a NaN must come through
    norm = jnp.where(dead, 1.0, theta)

    def place(x: Any, shift: Any, view: View) -> Any:
        size, gone = view.broadcast(norm), view.broadcast(dead) & (shift != 0)
        return jnp.where(gone, 0.0, x * (size / (size + shift)))

    return [place(x, shift, view) for x, shift, view in zip(xs, shifts, views, strict=True)]


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
@functools.partial(jax.jit, static_argnums=0)  # an eager loop would be compiled anew at each call
def _norms_after(views: tuple[View, ...], sizes: list[Any], shifts: list[Any]) -> Any:
    """The root theta of each group, 0 where the group dies.

    Solved as ``1 / sqrt(sum) = 1``: this side is concave in theta, so Newton's
    method climbs from a lower bound and never overshoots.
    """
    lowest = [view.max(jnp.abs(size) - shift) for size, shift, view in zip(sizes, shifts, views, strict=True)]
    start = _total(lowest, jnp.maximum)
    dead = _secular(jnp.zeros_like(start), sizes, shifts, views) <= 1
    tolerance = jnp.finfo(start.dtype).eps ** 0.5

    def unsettled(carry: Any) -> Any:
        count, _, moving = carry
        return moving & (count < NEWTON_STEPS)

    def climb(carry: Any) -> Any:
        count, theta, _ = carry
        higher = _newton(theta, sizes, shifts, views)
        return count + 1, higher, jnp.any(~dead & (higher - theta > tolerance * higher))

    _, theta, _ = lax.while_loop(unsettled, climb, (0, start, jnp.any(~dead)))
    polished = jnp.maximum(_newton(theta, sizes, shifts, views), jnp.finfo(start.dtype).tiny)
    return jnp.where(dead, 0.0, polished)


@_norms_after.defjvp
def _norms_after_jvp(views: tuple[View, ...], primals: Any, tangents: Any) -> tuple[Any, Any]:
    # The implicit function theorem on sum_i x_i^2 / (theta + b_i)^2 = 1, written in theta
    # itself, so that it can be differentiated again.
    (sizes, shifts), (size_tangents, shift_tangents) = primals, tangents
    theta = _norms_after(views, sizes, shifts)
    pulls, slopes = [], []
    for size, shift, dx, db, view in zip(sizes, shifts, size_tangents, shift_tangents, views, strict=True):
        share, room = _shares(theta, size, shift, view)
        pulls.append(view.sum((share * dx - share * share * db) / room))
        slopes.append(view.sum(share * share / room))
    alive = theta > 0
    slope = jnp.where(alive, _total(slopes, jnp.add), 1.0)
    return theta, jnp.where(alive, _total(pulls, jnp.add), 0.0) / slope


def _secular(theta: Any, sizes: Arrays, shifts: Arrays, views: Views) -> Any:
    """``sum_i q_i^2`` with ``q_i = x_i / (theta + shift_i)``, which is 1 at the root."""
    parts = zip(sizes, shifts, views, strict=True)
    return _total([view.sum(_shares(theta, x, b, view)[0] ** 2) for x, b, view in parts], jnp.add)


def _newton(theta: Any, sizes: Arrays, shifts: Arrays, views: Views) -> Any:
    """A step of Newton's method up from theta, for ``1 / sqrt(_secular) = 1``."""
    value = _secular(theta, sizes, shifts, views)
    # The barrier keeps the next sum out of the pass that made the value: XLA's CPU backend
    # would fuse the two into one loop without vectors or threads, eight times slower.
    later, _ = lax.optimization_barrier((theta, value))
    slopes = []
    for size, shift, view in zip(sizes, shifts, views, strict=True):
        share, room = _shares(later, size, shift, view)
        slopes.append(view.sum(share * share / room))
    slope = _total(slopes, jnp.add)
    moving = slope > 0
    step = (value * jnp.sqrt(jnp.where(moving, value, 1.0)) - value) / jnp.where(moving, slope, 1.0)
    return jnp.maximum(theta, theta + jnp.where(moving, step, 0.0))


def _shares(theta: Any, size: Any, shift: Any, view: View) -> tuple[Any, Any]:
    # A zero element with step 0 in a dead group needs some room too. It is made here, per
    # group: a constant per element, shared by two passes, XLA's CPU backend writes out in full.
    room = view.broadcast(jnp.maximum(theta, jnp.finfo(size.dtype).tiny)) + shift
    return size / room, room


def _sum_of_squares(xs: Arrays, views: Views) -> Any:
    return _total([view.sum(squared_modulus(x)) for x, view in zip(xs, views, strict=True)], jnp.add)


def _total(parts: Arrays, combine: Any) -> Any:
    total = parts[0]
    for part in parts[1:]:
        total = combine(total, part)
    return total


def l1_distance(x: Any, grad: Any, strength: Any) -> Any:
    """Distance of ``-grad`` to the subdifferential of ``strength |x|``, element by element."""
    return jnp.where(
        x == 0, jnp.maximum(jnp.abs(grad) - strength, 0.0), jnp.abs(grad + strength * direction(x))
    )


def l1_residual(x: Any, grad: Any, strength: Any) -> Any:
    """What the subdifferential of ``strength |x|`` leaves of a gradient; its modulus is the distance."""
    held = soft_threshold(grad, jnp.asarray(strength))
    return jnp.where(x == 0, held, grad + strength * direction(x))


def group_distance(xs: Arrays, grads: Arrays, views: Views, soft: Arrays, threshold: Any) -> list[Any]:
    """Distance of ``-grads`` to the subdifferential of ``threshold ||x_g|| + soft sum |x_i|``, per group."""
    norm = group_norm(xs, views)
    dead = norm == 0
    pulls = []
    for x, grad, view in zip(xs, grads, views, strict=True):
        radial = view.broadcast(threshold / jnp.where(dead, 1.0, norm))
        pulls.append(grad + jnp.where(x == 0, 0.0, radial * x))
    residuals = [l1_distance(x, pull, strength) for x, pull, strength in zip(xs, pulls, soft, strict=True)]
    residual = group_norm(residuals, views)
    distance = jnp.where(dead, jnp.maximum(residual - threshold, 0.0), residual)
    return [jnp.broadcast_to(view.broadcast(distance), x.shape) for x, view in zip(xs, views, strict=True)]


def direction(x: Any) -> Any:
    """``x / |x|``, and 0 at 0."""
    return x / jnp.where(x == 0, 1.0, modulus(x)) if is_complex(x) else lax.sign(x)
