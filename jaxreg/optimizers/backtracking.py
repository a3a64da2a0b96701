"""A step size found by trial: the curvature that the loss shows along a move decides."""

import inspect
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from jaxreg.penalties.base import Leaves
from jaxreg.tree import FlatTree, PyTree, cast, is_complex, upcast

SAFETY = 0.8
"""The share of the longest step size that a move has allowed, which is tried next."""
SHORTEST = 0.1
"""Of a step size that has failed, the least share that is tried next."""
ROUNDING = 100
"""Units in the last place of the loss below which a difference of two losses says nothing."""


class Trial(NamedTuple):
    """A step size, where it leads, whether it passes the test, and the step size that is tried next.

    It is ``lost`` where the loss, or its curvature, is not finite.
    """

    count: jax.Array
    step_size: jax.Array
    points: Leaves
    fits: jax.Array
    lost: jax.Array
    following: jax.Array


def backtrack(
    land: Callable[[Any], Leaves],
    starts: Leaves,
    slopes: Leaves,
    step_size: jax.Array,
    value: Any,
    loss: Callable[[Leaves], jax.Array],
    max_steps: Any,
) -> Trial:
    """Try step sizes until ``loss(point) <= value + <slope, move> + |move|^2 / (2 step_size)``.

    A trial measures the curvature ``2 (loss(point) - value - <slope, move>) / |move|^2``, and its
    inverse is the longest step size that would have passed. Nothing is tried where ``value`` is not
    finite. A last trial that is lost leads nowhere: the caller must not go to its points.
    """
    value = real_scalar(value, "value")
    noise = ROUNDING * jnp.finfo(value.dtype).eps * jnp.abs(upcast(value))

    def attempt(last: Trial) -> Trial:
        step = last.following
        points = land(step)
        moves = {index: point - starts[index] for index, point in points.items()}
        square = inner(moves, moves)
        along = inner(slopes, moves)

        def by_value() -> Any:
            return 2 * (upcast(loss(points)) - upcast(value) - along)

        def by_slope() -> Any:
            # Equal for quadratics, which near a minimum all losses are, and no difference of losses.
            grads = jax.grad(loss)(points)
            return inner({i: g.conj() if is_complex(g) else g for i, g in grads.items()}, moves) - along

        drowned = square / 2 <= step * noise
        twice = lax.cond(drowned, _as(square, by_slope), _as(square, by_value))
        still = square == 0
        curvature = jnp.where(still, jnp.where(jnp.isfinite(twice), 0, twice), twice / square)
        curvature = jnp.where(jnp.isnan(curvature), jnp.inf, curvature).astype(step.dtype)
        longest = jnp.where(curvature > 0, SAFETY / curvature, jnp.where(still, step, jnp.inf))
        following = jnp.maximum(longest, SHORTEST * step)
        fits = step * curvature <= 1
        return Trial(last.count + 1, step, points, fits, ~fits & jnp.isinf(curvature), following)

    def searching(last: Trial) -> jax.Array:
        return ~last.fits & (last.count <= max_steps) & jnp.isfinite(value)

    no, yes = jnp.zeros([], bool), jnp.ones([], bool)
    never = Trial(jnp.zeros([], jnp.int32), step_size, starts, no, yes, step_size)
    return lax.while_loop(searching, attempt, never)


def loss_of(
    value_fn: Callable[..., Any], flat: FlatTree, extra_args: Mapping[str, Any]
) -> Callable[[Leaves], jax.Array]:
    """The loss as a function of some leaves; it is given the extra arguments that its signature names."""
    known = inspect.signature(value_fn).parameters
    given = {name: argument for name, argument in extra_args.items() if name in known}

    def loss(points: Leaves) -> jax.Array:
        leaves = list(flat.leaves)
        for index, point in points.items():
            leaves[index] = cast(point, jnp.result_type(leaves[index]))
        return real_scalar(value_fn(flat.rebuild(leaves), **given), "value_fn")

    return loss


def real_scalar(value: Any, name: str) -> jax.Array:
    """A loss as a floating array; ``name`` says where it comes from."""
    wanted = f"'{name}' of fista must {'return' if name == 'value_fn' else 'be'} the loss, a real scalar."
    if not (hasattr(value, "dtype") or isinstance(value, int | float)):
        raise TypeError(f"{wanted} Got {value!r} of type {type(value).__name__}.")
    value = jnp.asarray(value)
    if value.shape != ():
        raise ValueError(f"{wanted} Got shape {value.shape}.")
    if jnp.issubdtype(value.dtype, jnp.complexfloating):
        raise TypeError(f"{wanted} Got dtype {value.dtype}.")
    return value if jnp.issubdtype(value.dtype, jnp.floating) else value.astype(float)


def inner(left: Leaves, right: Leaves) -> jax.Array:
    """The real inner product of two trees."""
    parts = [jnp.sum((left[index].conj() * right[index]).real) for index in left]
    return sum(parts, jnp.zeros([]))


def _as(like: jax.Array, function: Callable[[], Any]) -> Callable[[], PyTree]:
    return lambda: jnp.asarray(function(), like.dtype)
