"""Narrow parameters that lose no update: stochastic rounding, and compensated summation."""

from collections.abc import Callable, Collection
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.core import Tracer

from jaxreg.arguments import check_whole_number
from jaxreg.penalties.base import Leaves
from jaxreg.transforms.new_parameters import updates_to
from jaxreg.tree import FlatTree, PyTree, cast, is_absent, is_inexact, upcast

STOCHASTIC, COMPENSATED = "stochastic", "compensated"
REMAINDER = jnp.int16
PARTS = 2.0**16
"""Remainders are counted in this part of a spacing: with bfloat16 that makes all the bits of float32."""
STREAM = 0x6A617872
"""Folded into the seed's key: its splits are what somebody else who has the seed draws from."""
IMPLEMENTATIONS = {2: "threefry2x32", 4: "rbg"}
"""Of random numbers, by the length of their keys."""
TINY = 2.0**-100
"""Below it the spacing is computed in denormals, which CPUs take for 0: rounded to the nearest."""


class RoundedState(NamedTuple):
    """The count of updates, and what rounding carries to the next one.

    ``key`` is the raw data of a PRNG key, an array of unsigned integers like any other; ``remainders``
    has the structure of the parameters, with None where nothing is rounded.
    """

    count: jax.typing.ArrayLike
    key: Any = None
    remainders: Any = None
    strength: Any = None
    """As in :class:`jaxreg.transforms.proximal.ProximalState`."""


def check_rounding(rounding: Any, seed: Any, owner: str) -> None:
    if rounding not in (None, STOCHASTIC, COMPENSATED):
        raise ValueError(
            f"The 'rounding' parameter of {owner} must be None, 'stochastic' or 'compensated'. "
            f"Got {rounding!r}."
        )
    check_whole_number(seed, "seed", owner)
    if rounding != STOCHASTIC and not isinstance(seed, Tracer) and seed != 0:
        raise ValueError(
            f"The 'seed' parameter of {owner} is of use with rounding='stochastic' only. "
            f"Got seed={seed} with rounding={rounding!r}."
        )


def is_narrow(leaf: Any) -> bool:
    """Whether the leaf has fewer bits than float32, so that small updates of it are lost."""
    if not is_inexact(leaf) or not hasattr(leaf, "dtype"):
        return False
    return jnp.issubdtype(leaf.dtype, jnp.floating) and jnp.finfo(leaf.dtype).bits < 32


def begin_rounding(
    rounding: str, seed: Any, flat: FlatTree, choose: Callable[[FlatTree], Collection[int]]
) -> RoundedState:
    """The state before the first update of the leaves that are chosen."""
    count = jnp.zeros([], jnp.int32)
    if rounding == STOCHASTIC:
        key = jax.random.fold_in(jax.random.key(seed), STREAM)
        return RoundedState(count, key=jax.random.key_data(key))
    # Of optax's placeholder for parameters there is nothing to choose.
    chosen = choose(flat) if flat.has_floating else ()
    remainders = []
    for index, leaf in enumerate(flat.leaves):
        kept = index in chosen and is_narrow(leaf)
        # A hole where there is nothing, and no scalar: what is mapped like the parameters, as their
        # shardings are, must have their shapes.
        none = leaf if is_absent(leaf) else None
        remainders.append(jnp.zeros_like(leaf, REMAINDER) if kept else none)
    return RoundedState(count, remainders=flat.rebuild(remainders))


def recall(state: RoundedState, flat: FlatTree, updates: PyTree) -> list[Any]:
    """The parameters with what earlier roundings left of them, where they have that, in float32.

    Where an update leads to exactly zero, nothing is left: an earlier link has set that weight to zero.
    """
    if state.remainders is None:
        return list(flat.leaves)
    remainders = flat.align(state.remainders, "the remainders in the state")
    moves = flat.align(updates, "updates")
    return list(map(_recalled, flat.leaves, remainders, moves))


def updates_landing_on(flat: FlatTree, moves: list[Any], points: Leaves) -> PyTree:
    """:func:`jaxreg.transforms.new_parameters.updates_to`, in float32 for narrow parameters.

    ``optax.apply_updates`` adds in float32 and then casts: it lands on the point itself, unless a
    single update makes a weight thousands of times smaller, which float32 cannot say as a difference.
    """
    narrow = {index for index in points if is_narrow(flat.leaves[index])}
    moves = [upcast(move) if index in narrow else move for index, move in enumerate(moves)]
    return updates_to(flat, moves, points)


def _recalled(leaf: Any, parts: Any, move: Any) -> Any:
    if is_absent(parts):
        return leaf
    rounded = upcast(leaf)
    exact = remembered(rounded, parts, leaf.dtype)
    return jnp.where(rounded + upcast(move) == 0, rounded, exact) if is_inexact(move) else exact


def settle(state: RoundedState, flat: FlatTree, points: Leaves, count: Any) -> tuple[Leaves, RoundedState]:
    """The points with those of narrow parameters on numbers that these can hold, and the next state."""
    points = dict(points)
    narrow = [index for index in points if is_narrow(flat.leaves[index])]
    if state.key is not None:
        # The state may have been saved where another implementation is the default.
        implementation = IMPLEMENTATIONS.get(jnp.shape(state.key)[-1])
        key, draw = jax.random.split(jax.random.wrap_key_data(state.key, impl=implementation))
        for index in narrow:
            # Of a key that split made, not of the one it split: those two would be the same.
            noise = jax.random.uniform(jax.random.fold_in(draw, index), np.shape(points[index]), jnp.float32)
            points[index] = round_up_by_chance(points[index], flat.leaves[index].dtype, noise)
        return points, RoundedState(count, key=jax.random.key_data(key))
    remainders = flat.align(state.remainders, "the remainders in the state")
    for index in narrow:
        points[index], remainders[index] = round_and_remember(points[index], flat.leaves[index].dtype)
    return points, RoundedState(count, remainders=flat.rebuild(remainders))


def round_up_by_chance(x: Any, dtype: Any, noise: Any) -> Any:
    """One of the two neighbours that x has among the numbers of a dtype, by chance: its mean is x.

    Args:
        x: an array of float32 (or wider: it is rounded to that first).
        dtype: the narrower dtype.
        noise: uniform in [0, 1), of the shape of ``x``.

    Returns:
        An array of float32 that casts to ``dtype`` without change. What ``dtype`` can hold, zeros
        included, stays as it is.
    """
    x = cast(x, jnp.float32)
    spacing = _spacing(x, dtype)
    below = jnp.floor(x / spacing)
    up = noise < x / spacing - below
    return _replaced(x, (below + up) * spacing, dtype)


def round_and_remember(x: Any, dtype: Any) -> tuple[Any, Any]:
    """The number of a dtype that is nearest to x, in float32, and the rest in parts of its spacing."""
    x = cast(x, jnp.float32)
    spacing = _spacing(x, dtype)
    # Halves go up: the rest is then at least -1/2 and below 1/2, and fits. (To even, it may be 1/2.)
    rounded = _replaced(x, jnp.floor(x / spacing + 0.5) * spacing, dtype)
    # Not x - x.astype(dtype): XLA may leave out a cast to fewer bits and back, and the rest with it.
    rest = x - lax.stop_gradient(rounded)
    parts = rest / _spacing(rounded, dtype, beside=rest) * PARTS
    usable = jnp.isfinite(rest) & (jnp.abs(rounded) >= TINY)
    return rounded, jnp.where(usable, parts, 0.0).astype(REMAINDER)


def remembered(rounded: Any, parts: Any, dtype: Any) -> Any:
    """The number, in float32, that :func:`round_and_remember` took apart."""
    # A weight that is zero is exactly zero, also where somebody else has set it to that.
    parts = jnp.where(jnp.abs(rounded) >= TINY, parts.astype(rounded.dtype), 0.0)
    return rounded + parts * (_spacing(rounded, dtype, beside=parts) / PARTS)


def _spacing(x: Any, dtype: Any, beside: Any = None) -> Any:
    """The distance of neighbouring numbers of a dtype around x, a power of two.

    At a power of two it is half as large on the side of zero: ``beside`` has the sign of the side meant.
    """
    info = jnp.finfo(dtype)
    bits = lax.bitcast_convert_type(lax.stop_gradient(x), jnp.uint32)
    power = lax.bitcast_convert_type(bits & jnp.uint32(0x7F800000), jnp.float32)
    if beside is not None:
        inward = (bits & jnp.uint32(0x007FFFFF) == 0) & (jnp.signbit(x) != jnp.signbit(beside))
        power = jnp.where(inward, power / 2, power)
    return jnp.maximum(power * float(info.eps), float(info.smallest_subnormal))


def _replaced(x: Any, rounded: Any, dtype: Any) -> Any:
    """``rounded`` where it is a number that the dtype holds; its derivative is that of x."""
    fits = (jnp.abs(x) >= TINY) & (jnp.abs(rounded) <= float(jnp.finfo(dtype).max))
    return jnp.where(fits, x + lax.stop_gradient(rounded - x), x)
