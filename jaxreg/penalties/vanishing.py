"""The strength from which on a prox makes a unit zero, unit by unit."""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from jax import lax

HALVINGS = 32
"""From the largest to the smallest float32, and on to neighbours: as many as a float has bits."""


def quotient(size: Any, threshold: Any) -> Any:
    """The factor f with ``size = f threshold``: 0 for a size of 0, infinite where there is no threshold."""
    positive = threshold > 0
    found = jnp.where(positive, size / jnp.where(positive, threshold, 1.0), jnp.inf)
    return jnp.where(size == 0, 0.0, found)


def smallest_factor(vanishes: Callable[[Any], Any], like: Any) -> Any:
    """Per unit the smallest factor at which it vanishes, found by bisection; infinite where none is.

    ``vanishes`` takes factors like ``like`` and says which units are zero at them; from one on all are.
    """
    limits = jnp.finfo(like.dtype)

    def halve(_: Any, ends: Any) -> Any:
        low, high = ends
        # In logarithms: strengths lie decades apart.
        middle = jnp.exp2((low + high) / 2)
        gone = vanishes(middle)
        return jnp.where(gone, low, (low + high) / 2), jnp.where(gone, (low + high) / 2, high)

    # Zeros that vary over devices as the data do, as the carry of a loop in shard_map must.
    zero = jnp.where(jnp.isfinite(like), like, 0.0) * 0.0
    top = jnp.full_like(zero, limits.maxexp * 3 // 4) + zero
    _, high = lax.fori_loop(0, HALVINGS, halve, (-top, top))
    factor = jnp.where(vanishes(jnp.exp2(top)), jnp.exp2(high), jnp.inf)
    return jnp.where(vanishes(jnp.zeros_like(factor)), 0.0, factor)
