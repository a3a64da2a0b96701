"""The level at which what rises above it adds up to a given amount, for each group."""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from jaxreg.views import View

NEWTON_STEPS = 64  # at most; 3 to 6 are usual

Arrays = Sequence[Any]
Views = Sequence[View]


def level(heights: Arrays, slopes: Arrays, views: Views, amount: Any, growth: Any) -> Any:
    """The root theta of ``sum_i max(h_i - q_i theta, 0) = amount + growth theta`` in each group.

    It is 0 where ``sum_i h_i`` is at most the amount. Heights and slopes are not negative; slopes
    differ from 0 where heights do, or growth does not vanish.
    """
    stopped = lax.stop_gradient((list(heights), list(slopes), amount, growth))
    theta = _climb(tuple(views), *stopped)
    # With the elements above the root known, the root is a ratio of sums that can be differentiated
    # any number of times. Those that touch it belong to it: one of them always does.
    above = [_above(h, q, view.broadcast(theta)) for h, q, view in zip(*stopped[:2], views, strict=True)]
    top, bottom = _sums(heights, slopes, above, views)
    alive, bottom = theta > 0, bottom + growth
    return jnp.where(alive, (top - amount) / jnp.where(alive, bottom, 1.0), 0.0 * theta)


@functools.partial(jax.jit, static_argnums=0)  # an eager loop would be compiled anew at each call
def _climb(views: tuple[View, ...], heights: list[Any], slopes: list[Any], amount: Any, growth: Any) -> Any:
    # What is looked for is the zero of a convex function that falls: Newton's method climbs to it
    # from 0 and never overshoots. Each step divides excess times slope by at least 4, and where
    # no element is passed any more it is at the root.
    everything = [jnp.ones(h.shape, bool) for h in heights]
    total, _ = _sums(heights, slopes, everything, views)
    alive = ~(total <= amount)  # a NaN must come through

    def unsettled(carry: Any) -> Any:
        count, _, moving = carry
        return moving & (count < NEWTON_STEPS)

    def climb(carry: Any) -> Any:
        count, theta, _ = carry
        above = [h > q * view.broadcast(theta) for h, q, view in zip(heights, slopes, views, strict=True)]
        top, bottom = _sums(heights, slopes, above, views)
        bottom = bottom + growth
        higher = jnp.where(bottom > 0, (top - amount) / jnp.where(bottom > 0, bottom, 1.0), theta)
        return count + 1, jnp.maximum(theta, higher), jnp.any(alive & (higher > theta))

    start = jnp.zeros_like(total)
    _, theta, _ = lax.while_loop(unsettled, climb, (0, start, jnp.any(alive)))
    return jnp.where(alive, theta, 0.0)


def _above(height: Any, slope: Any, theta: Any) -> Any:
    rounding = 4 * jnp.finfo(height.dtype).eps
    return (height >= slope * theta * (1 - rounding)) & (height > 0)


def _sums(heights: Arrays, slopes: Arrays, chosen: Arrays, views: Views) -> tuple[Any, Any]:
    tops = [view.sum(jnp.where(c, h, 0.0)) for h, c, view in zip(heights, chosen, views, strict=True)]
    bottoms = [view.sum(jnp.where(c, q, 0.0)) for q, c, view in zip(slopes, chosen, views, strict=True)]
    return functools.reduce(jnp.add, tops), functools.reduce(jnp.add, bottoms)
