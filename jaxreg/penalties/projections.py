"""The arithmetic of constraints: nearest points of balls and simplices, distances to normal cones.

Arrays come here in the precision to compute in, groups as lists of arrays and of their views.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from jaxreg.penalties.shrinkage import direction, group_norm, inner, modulus, ratio
from jaxreg.penalties.steps import one_step
from jaxreg.tree import is_complex
from jaxreg.views import View

ROOT_STEPS = 100  # at most; 3 to 10 are usual

Arrays = Sequence[Any]
Views = Sequence[View]


def clip_norms(xs: Arrays, views: Views, low: Any, high: Any) -> list[Any]:
    """The nearest point with ``low <= ||z_g|| <= high``; without views an element is a group.

    None for a side without a bound. A zero group that must not stay one gets equal entries.
    """
    r = _norms(xs, views)
    zero = r == 0
    bounded = r if high is None else jnp.where(r > high, high, r)
    bounded = bounded if low is None else jnp.where(bounded < low, low, bounded)
    # NaN is not equal to itself: a group with NaN in it stays as it is.
    kept = (bounded == r) | jnp.isnan(r)
    moved = [
        jnp.where(stays, x, direction * length)
        for x, direction, stays, length in zip(
            xs,
            _directions(xs, views, jnp.where(kept | zero, 1.0, r)),
            *_spread(views, kept, bounded),
            strict=True,
        )
    ]
    if low is None:
        return moved
    size = sum((view.sizes() for view in views), 0.0) if views else 1.0
    equal = jnp.where(zero, low / size**0.5, 0.0)
    return [
        jnp.where(flat, entry, x) for x, flat, entry in zip(moved, *_spread(views, zero, equal), strict=True)
    ]


def project_balls(xs: Arrays, views: Views, steps: Arrays, radius: Any) -> list[Any]:
    """The argmin of ``sum_i |z_i - x_i|^2 / (2 s_i)`` over ``||z_g|| <= radius`` in each group."""
    if not views or one_step(steps):
        return clip_norms(xs, views, None, radius)
    return _project_balls_weighted(tuple(views), list(xs), list(steps), radius)


@functools.partial(jax.jit, static_argnums=0)  # an eager loop would be compiled anew at each call
def _project_balls_weighted(views: tuple[View, ...], xs: list[Any], steps: list[Any], radius: Any) -> Any:
    """``z_i = x_i / (1 + mu s_i)``, mu the root of ``||z|| = radius``.

    Elements with step 0 stay, and leave the others less room. Solved in units of the largest
    element and of the largest step; the length of the result is set apart from its direction,
    so that ratios beyond the floats do no harm.
    """
    free = [step > 0 for step in steps]
    moving = [jnp.where(can, x, 0.0) for x, can in zip(xs, free, strict=True)]
    held = group_norm([jnp.where(can, 0.0, x) for x, can in zip(xs, free, strict=True)], views)
    fits = radius > held
    less, more = (jnp.sqrt(jnp.where(fits, part, 1.0)) for part in (radius - held, radius + held))
    room = jnp.where(fits, less * more, 0.0)
    outside = group_norm(xs, views) > radius
    solvable = outside & fits
    slowest = _largest([view.max(step) for step, view in zip(steps, views, strict=True)])
    shares = [
        jnp.where(can, step / view.broadcast(slowest), 1.0)
        for step, can, view in zip(steps, free, views, strict=True)
    ]
    unit = _largest([view.max(jnp.abs(x)) for x, view in zip(moving, views, strict=True)])
    sizes = [x / view.broadcast(unit) for x, view in zip(moving, views, strict=True)]
    tiny = jnp.finfo(room.dtype).tiny
    target = jnp.where(solvable, jnp.maximum(room / unit, tiny), 1.0)

    def along(tau: Any) -> list[Any]:
        """``z / tau``, where ``tau = 1 / (1 + mu)``: neither of the two is beyond the floats."""
        return [
            x / (view.broadcast(tau) + view.broadcast(1 - tau) * s)
            for x, s, view in zip(sizes, shares, views, strict=True)
        ]

    def excess(tau: Any) -> Any:
        return jnp.where(solvable, group_norm(along(tau), views) * tau - target, tau - 1)

    # No element alone, nor all with the largest step, may be longer than the target.
    lowest = [
        view.max((jnp.abs(x) - view.broadcast(target)) / s)
        for x, s, view in zip(sizes, shares, views, strict=True)
    ]
    start = target / jnp.maximum(group_norm(sizes, views), target + functools.reduce(jnp.maximum, lowest))
    start = lax.stop_gradient(jnp.where(solvable, jnp.maximum(start, tiny), 1.0))
    aim = lax.stop_gradient(target)

    def climb(tau: Any, value: Any, slope: Any) -> Any:
        # Newton's method in mu on 1 / ||z||, which is concave: it climbs and never overshoots.
        return jnp.maximum(tau / (1 + value / slope / tau * (1 + value / aim)), tiny)

    tau = _root(excess, start, climb)
    direction = along(tau)
    norm = group_norm(direction, views)
    length = jnp.where(solvable, norm, 1.0)

    def place(x: Any, can: Any, d: Any, view: View) -> Any:
        nearest = jnp.where(view.broadcast(fits), d / view.broadcast(length) * view.broadcast(room), 0.0)
        return jnp.where(view.broadcast(outside) & can, nearest, x)

    return [place(*parts) for parts in zip(xs, free, direction, views, strict=True)]


def project_simplices(x: Any, view: View, step: Any, radius: Any) -> Any:
    """The argmin of ``sum_i (z_i - x_i)^2 / (2 s_i)`` over ``z >= 0, sum z = radius`` in each line."""
    return _project_simplices(view, x, None if jnp.ndim(step) == 0 else step, radius)


def project_l1_balls(x: Any, view: View, step: Any, radius: Any) -> Any:
    """The argmin of ``sum_i |z_i - x_i|^2 / (2 s_i)`` over ``sum |z| <= radius`` in each line."""
    size = modulus(x)
    outside = view.sum(size) > radius
    nearest = _project_simplices(view, size, None if jnp.ndim(step) == 0 else step, radius)
    return jnp.where(outside, direction(x) * nearest, x)


@functools.partial(jax.jit, static_argnums=0)
def _project_simplices(view: View, x: Any, step: Any, radius: Any) -> Any:
    """``z_i = max(x_i - tau s_i, 0)``, tau the root of ``sum z = radius``.

    Solved for the difference of tau to a level at which an element is exactly 0, so that the sum
    is right however large the line is against the radius.
    """
    if step is None:
        free, share, unit = True, 1.0, 1.0
        length: Any = jnp.broadcast_to(jnp.asarray(radius), view.sum(x).shape)
        least = 0.0
    else:
        free = step > 0
        share = step / _largest([view.max(step)])
        length = radius - view.sum(jnp.where(free, 0.0, x))
        unit = _largest([view.max(jnp.where(free, jnp.abs(x), 0.0)), length])
        # In units of the line the room may be beyond the floats: shares of it are not.
        least = float(jnp.finfo(length.dtype).tiny) ** 0.75
    total = view.sum(jnp.where(free, share, jnp.zeros_like(x)))
    fits = (length > 0) & (total > 0)
    room = jnp.where(fits, jnp.maximum(length / unit, least), 1.0)
    size = jnp.where(free, x, 0.0) / unit
    slope = jnp.where(free, share, 1.0)
    height = lax.stop_gradient(size / slope)

    def fall(base: Any, delta: Any) -> Any:
        z = base + delta * slope
        return jnp.where((z <= 0) | ~jnp.asarray(free), 0.0, z)  # in this form for NaN to come through

    def depth(base: Any, guess: Any = None) -> Any:
        """The root delta of ``sum max(base_i + delta s_i, 0) = room``."""
        fair = (room - view.sum(jnp.where(free, base, 0.0))) / total
        alone = _reduce(lax.reduce_min, jnp.where(free, (room - base) / slope, jnp.inf), view)
        start = jnp.minimum(fair, alone)
        if guess is not None:
            start = jnp.where(guess > 0, jnp.minimum(start, guess), start)
        start = lax.stop_gradient(jnp.where(fits, start, 0.0))
        # A convex function of straight pieces: Newton's method descends and ends exactly.
        return _root(lambda d: jnp.where(fits, view.sum(fall(base, d)) - room, d), start, _newton)

    # Measured from the lowest element that is left, whose own height is exactly 0 there: what
    # is subtracted from the others is then no larger than they are, and their rounding small.
    rough = None if step is None else -lax.stop_gradient(depth(size))
    left = True if rough is None else height >= rough
    lowest = _reduce(lax.reduce_min, jnp.where(free & left, height, jnp.inf), view)
    highest = _reduce(lax.reduce_max, jnp.where(free, height, -jnp.inf), view)
    level = highest if rough is None else jnp.minimum(lowest, highest)
    level = jnp.where(jnp.isfinite(level), level, 0.0)
    at_level = (size - lax.stop_gradient(size)) - level * (slope - lax.stop_gradient(slope))
    base = jnp.where(height == level, at_level, size - level * slope)
    delta = depth(base, None if rough is None else level - rough)
    z = fall(base, delta) if step is None else ratio(fall(base, delta), room) * length
    return jnp.where(free, jnp.where(fits, z, 0.0), x)


def interval_distance(x: Any, grad: Any, soft: Any, at_low: Any, at_high: Any) -> Any:
    """Distance of ``-grad`` to the subdifferential of ``soft |x|`` and of an interval's indicator."""
    least = jnp.where(x > 0, soft, -soft)
    most = jnp.where(x < 0, -soft, soft)
    below = jnp.where(at_low, 0.0, least + grad)
    above = jnp.where(at_high, 0.0, -grad - most)
    return jnp.maximum(jnp.maximum(below, above), 0.0)


def norm_distance(
    xs: Arrays, grads: Arrays, views: Views, soft: Arrays, low: Any, high: Any, rounding: float
) -> list[Any]:
    """Distance of ``-grads`` to ``soft`` l1 subgradients plus the normal cone of ``low <= ||x_g|| <= high``.

    That cone holds the multiples of x_g: the positive ones at the outer edge, the negative
    ones at the inner edge.
    """
    r = _norms(xs, views)
    directions = _directions(xs, views, jnp.where(r == 0, 1.0, r))
    pulls = [
        jnp.where(x == 0, _soft(-grad, t), -grad - t * direction(x))
        for x, grad, t in zip(xs, grads, soft, strict=True)
    ]
    along = [inner(pull, way) for pull, way in zip(pulls, directions, strict=True)]
    multiple = sum(view.sum(part) for part, view in zip(along, views, strict=True)) if views else along[0]
    at_high = jnp.zeros_like(r, bool) if high is None else r >= high * (1 - rounding)
    at_low = jnp.zeros_like(r, bool) if low is None else r <= low * (1 + rounding)
    multiple = jnp.where(at_high, multiple, jnp.minimum(multiple, 0.0))
    multiple = jnp.where(at_low, multiple, jnp.maximum(multiple, 0.0))
    (times,) = _spread(views, multiple)
    rest = [pull - m * direction for pull, m, direction in zip(pulls, times, directions, strict=True)]
    # A single point has all of space as its normal cone.
    (distances,) = _spread(views, jnp.where((r == 0) & at_high, 0.0, _norms(rest, views)))
    return [jnp.broadcast_to(distance, x.shape) for x, distance in zip(xs, distances, strict=True)]


def best_level(pull: Any, view: View, alive: Any) -> Any:
    """The c of each line for which ``{v: v = c where alive, v <= c elsewhere}`` is nearest to ``pull``."""
    count = view.sum(jnp.where(alive, 1.0, jnp.zeros_like(pull)))
    mean = view.sum(jnp.where(alive, pull, 0.0)) / jnp.maximum(count, 1.0)
    start = jnp.where(count > 0, mean, _reduce(lax.reduce_max, pull, view))

    def left(c: Any) -> Any:
        rest = pull - c
        # Where nothing is alive the start is the answer.
        return jnp.where(count > 0, view.sum(jnp.where(alive | (rest > 0), rest, 0.0)), c - start)

    return _root(left, start, _newton)


def _newton(x: Any, value: Any, slope: Any) -> Any:
    return x - value / slope


def _root(function: Callable[[Any], Any], start: Any, update: Callable[[Any, Any, Any], Any]) -> Any:
    """A root of each component by Newton's method, differentiable by the implicit function theorem."""

    def solve(function: Callable[[Any], Any], start: Any) -> Any:
        tolerance = 4 * jnp.finfo(start.dtype).eps

        def unsettled(carry: Any) -> Any:
            count, _, moving = carry
            return moving & (count < ROOT_STEPS)

        def move(carry: Any) -> Any:
            count, x, _ = carry
            value, slope = jax.jvp(function, (x,), (jnp.ones_like(x),))
            new = update(x, value, jnp.where(slope == 0, 1.0, slope))
            return count + 1, new, jnp.any(jnp.abs(new - x) > tolerance * jnp.abs(new))

        return lax.while_loop(unsettled, move, (0, start, True))[1]

    return lax.custom_root(function, start, solve, lambda slope, y: y / slope(jnp.ones_like(y)))


def _norms(xs: Arrays, views: Views) -> Any:
    return group_norm(xs, views) if views else modulus(xs[0])


def _spread(views: Views, *per_group: Any) -> list[list[Any]]:
    """Values per group, each as one array for every array of the group."""
    return [[view.broadcast(value) for view in views] if views else [value] for value in per_group]


def _directions(xs: Arrays, views: Views, norm: Any) -> list[Any]:
    """``x_g / norm`` for each array of the group."""
    if not views and not is_complex(xs[0]):
        return [lax.sign(xs[0])]
    return [ratio(x, size) for x, size in zip(xs, *_spread(views, norm), strict=True)]


def _largest(parts: Arrays) -> Any:
    """The largest of some maxima as a constant to divide by."""
    largest = lax.stop_gradient(functools.reduce(jnp.maximum, parts))
    return jnp.where(largest > 0, largest, 1.0)


def _reduce(reduce: Callable[..., Any], x: Any, view: View) -> Any:
    return lax.expand_dims(reduce(x, view.inside), view.inside)


def _soft(x: Any, threshold: Any) -> Any:
    size = modulus(x)
    return x * (jnp.maximum(size - threshold, 0.0) / jnp.where(size == 0, 1.0, size))
