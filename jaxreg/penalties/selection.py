"""Choosing the largest of many scores, spread over several arrays, by counting alone.

No sort, no gather: a search for the threshold with a few counts per pass over the data, and, where
scores are equal, another for a position. On sharded arrays only the counts are exchanged.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxreg.group_kinds import Groups
from jaxreg.penalties.shrinkage import group_norm
from jaxreg.penalties.steps import one_step
from jaxreg.tree import FlatTree, is_complex
from jaxreg.views import View

TRIES = 7  # thresholds per pass, which then settles 3 bits; more would cost more than reading the data
MOST = 2**32 - 1  # what a count can hold

Arrays = Sequence[Any]


@dataclasses.dataclass(frozen=True)
class Units:
    """What is chosen as a whole: the elements of a leaf, or the groups of a leaf or of joined leaves."""

    indices: tuple[int, ...]
    views: tuple[View, ...]
    """Empty where each element is a unit of its own."""
    number: int

    def pick(self, leaves: Mapping[int, Any]) -> list[Any]:
        return [leaves[index] for index in self.indices]

    def scores(self, xs: Arrays, steps: Arrays | None) -> Any:
        """A number per unit whose modulus is the norm of ``x / sqrt(step)``: what it costs to lose the unit.

        Without steps they are taken to be equal.
        """
        xs = [lax.stop_gradient(x) for x in xs]
        if steps is not None:
            xs = [cost(x, lax.stop_gradient(step)) for x, step in zip(xs, steps, strict=True)]
        if self.views:
            return group_norm(xs, self.views)
        return jnp.abs(xs[0]) if is_complex(xs[0]) else xs[0]

    def alive(self, xs: Arrays) -> Any:
        """The units that are not zero throughout."""
        flags = [nonzero(x) for x in xs]
        if not self.views:
            return flags[0]
        counts = [view.sum(flag.astype(jnp.int32)) for flag, view in zip(flags, self.views, strict=True)]
        return sum(counts[1:], counts[0]) > 0

    def spread(self, per_unit: Any) -> list[Any]:
        """For each leaf, a value per unit as an array that broadcasts against the leaf."""
        return [view.broadcast(per_unit) for view in self.views] if self.views else [per_unit]


def units_of(flat: FlatTree, selected: Sequence[int], groups: Groups | None) -> list[Units]:
    """The units of the selected leaves, in the order of the tree."""
    if groups is None:
        return [Units((index,), (), math.prod(np.shape(flat.leaves[index]))) for index in selected]
    found = []
    for cluster in groups.resolve(flat, selected):
        indices, views = zip(*cluster, strict=True)
        found.append(Units(indices, views, views[0].n_groups))
    return sorted(found, key=lambda units: units.indices)


def costs(units: Sequence[Units], leaves: Mapping[int, Any], steps: Mapping[int, Any]) -> list[Any]:
    """What each unit costs to lose, as in :meth:`Units.scores`, by the steps where they differ."""
    equal = one_step([steps[index] for its in units for index in its.indices])
    return [its.scores(its.pick(leaves), None if equal else its.pick(steps)) for its in units]


def with_only(units: Sequence[Units], kept: Sequence[Any], leaves: Mapping[int, Any]) -> dict[int, Any]:
    """The leaves with all units at zero that are not marked; what is not a number stays."""
    out = dict(leaves)
    for its, keep in zip(units, kept, strict=True):
        for index, stays in zip(its.indices, its.spread(keep), strict=True):
            x = leaves[index]
            out[index] = jnp.where(stays | jnp.isnan(x), x, 0.0)
    return out


def cost(x: Any, step: Any) -> Any:
    """``|x| / sqrt(step)``, 0 for zeros alone, and infinite for what a step of 0 holds."""
    size = jnp.abs(x)
    limits = jnp.finfo(size.dtype)
    moves = step > 0
    # In whole numbers, which tell the least cost from none and the largest from an infinite one. A cost
    # too small for the floats becomes a denormal in the order of |x|, by what is 0 for 0 alone.
    # Comparing bits with 0 would not do: LLVM makes it a comparison of floats, which takes denormals for 0.
    spare = limits.bits - 1 - limits.nmant
    key = bits(size)
    denormal = (key >> spare) | (key & (2**spare - 1))
    infinite = bits(jnp.full((), jnp.inf, size.dtype))
    finite = jnp.clip(bits(size / jnp.sqrt(jnp.where(moves, step, 1.0))), denormal, infinite - 1)
    return lax.bitcast_convert_type(jnp.where(moves, finite, jnp.where(key > 0, infinite, 0)), size.dtype)


def nonzero(x: Any) -> Any:
    return bits(jnp.abs(x) if is_complex(x) else x) > 0


def bits(score: Any) -> Any:
    """Whole numbers in the order of ``|score|``; NaN comes last.

    Unlike floating numbers they are compared exactly: CPUs take denormals for zeros.
    """
    kind = jnp.int32 if score.dtype == jnp.float32 else jnp.int64
    return lax.bitcast_convert_type(score, kind) & jnp.iinfo(kind).max


@functools.partial(jax.jit, static_argnames="apart")  # an eager loop would be compiled anew at each call
def largest(scores: list[Any], budgets: Any, *, apart: bool) -> list[Any]:
    """Mark the ``budgets[0]`` largest moduli of all arrays, or, ``apart``, the ``budgets[i]`` of each array.

    Of equal scores the first ones in the order of the arrays are taken. Zeros may be marked
    where there is nothing else left, so that a mark on a zero means nothing.
    """
    if not scores:
        return []
    dtype = jnp.result_type(*scores)
    scores = [lax.convert_element_type(score, dtype) for score in scores]
    sizes = [score.size for score in scores]
    # Where the elements of each array begin in the order that decides between equals.
    starts = [0] * len(sizes) if apart else [sum(sizes[:i]) for i in range(len(sizes))]
    totals = sizes if apart else [sum(sizes)]
    if max(totals) > MOST:
        raise ValueError(f"At most {MOST} elements can be compared with each other. Got {max(totals)}.")
    total = jnp.array(totals, jnp.uint32)
    owner = list(range(len(sizes))) if apart else [0] * len(sizes)

    def tally(tried: Any, flags: Callable[[Any, Any, int], Any]) -> Any:
        # The barrier keeps XLA from writing out what it could make anew in each pass.
        fresh, tried = lax.optimization_barrier((scores, tried))
        counts = jnp.stack(
            [
                _counts([flags(bits(score), tried[own, j], i) for j in range(TRIES)])
                for i, (score, own) in enumerate(zip(fresh, owner, strict=True))
            ]
        )
        return counts if apart else jnp.sum(counts, axis=0, keepdims=True, dtype=jnp.uint32)

    # Zeros that vary over devices as the scores do, as the carry of a loop in shard_map must.
    zero = jnp.stack([_first(score) & 0 for score in scores])
    zero = zero if apart else jnp.sum(zero, axis=0, keepdims=True, dtype=zero.dtype)
    none = zero.astype(jnp.uint32)

    # The threshold: at least `budgets` scores reach low, fewer reach high.
    def undecided(carry: Any) -> Any:
        low, high, reach_low, _ = carry
        return jnp.any((budgets > 0) & (reach_low > budgets) & (high - low > 1))

    def narrow(carry: Any) -> Any:
        low, high, reach_low, reach_high = carry
        tried = _between(low, high)
        reach = tally(tried, lambda key, bound, _: key >= bound)
        enough = reach >= budgets[:, None]
        return (
            jnp.maximum(low, jnp.max(jnp.where(enough, tried, low[:, None]), axis=1)),
            jnp.minimum(high, jnp.min(jnp.where(enough, high[:, None], tried), axis=1)),
            jnp.minimum(reach_low, jnp.min(jnp.where(enough, reach, reach_low[:, None]), axis=1)),
            jnp.maximum(reach_high, jnp.max(jnp.where(enough, reach_high[:, None], reach), axis=1)),
        )

    top = jnp.iinfo(zero.dtype).max
    low, _, reach_low, reach_high = lax.while_loop(undecided, narrow, (zero, zero + top, none + total, none))

    # Among those that are equal to the threshold: a position before which as many of them lie as are missing.
    settled = (budgets == 0) | (reach_low <= budgets) | (low == 0)
    missing = budgets - reach_high

    def unmatched(carry: Any) -> Any:
        return jnp.any(carry[2] != missing)

    def close_in(carry: Any) -> Any:
        first, last, before_first = carry
        tried = _between(first, last)
        before = tally(
            tried, lambda key, bound, i: (key == low[owner[i]]) & _lies_before(key, bound, starts[i])
        )
        fits = before <= missing[:, None]
        return (
            jnp.maximum(first, jnp.max(jnp.where(fits, tried, first[:, None]), axis=1)),
            jnp.minimum(last, jnp.min(jnp.where(fits, last[:, None], tried), axis=1)),
            jnp.maximum(before_first, jnp.max(jnp.where(fits, before, before_first[:, None]), axis=1)),
        )

    begin = (none, none + total, jnp.where(settled, missing, none))
    end = jnp.where(settled, total, lax.while_loop(unmatched, close_in, begin)[0])

    def marks(score: Any, own: int, start: int) -> Any:
        key = bits(score)
        chosen = (key > low[own]) | ((key == low[own]) & _lies_before(score, end[own], start))
        return chosen & (budgets[own] > 0)

    return [marks(score, own, start) for score, own, start in zip(scores, owner, starts, strict=True)]


def _between(low: Any, high: Any) -> Any:
    """``TRIES`` numbers from above low to high, at equal distances; no sum may overflow."""
    width = high - low
    stride = (width - jnp.minimum(width, 1)) // (TRIES + 1) + 1
    ahead = jnp.minimum(stride[:, None] * jnp.arange(1, TRIES + 1, dtype=width.dtype), width[:, None])
    return low[:, None] + ahead


def _lies_before(score: Any, end: Any, start: int) -> Any:
    """The elements whose position in row-major order, counted from ``start``, is below ``end``."""
    position = jnp.zeros((), jnp.uint32)
    for axis, length in enumerate(score.shape):
        # One iota per axis, for shards to make their part of.
        position = position * np.uint32(length) + lax.broadcasted_iota(jnp.uint32, score.shape, axis)
    return position < jnp.where(end > start, end - np.uint32(start), 0)


def _first(score: Any) -> Any:
    """The bits of the first element; 0 where there is none."""
    if not score.size:
        return jnp.zeros((), bits(score).dtype)
    return bits(lax.slice(score, (0,) * score.ndim, (1,) * score.ndim)).reshape(())


def _counts(flags: list[Any]) -> Any:
    """How many elements of each array of flags are true."""
    return lax.platform_dependent(*flags, cpu=_counts_in_one_pass, default=_counts_by_sums)


def _counts_by_sums(*flags: Any) -> Any:
    return jnp.stack([jnp.sum(flag, dtype=jnp.uint32) for flag in flags])


def _counts_in_one_pass(*flags: Any) -> Any:
    # XLA's CPU backend writes the operand of a plain sum out before it adds it up, ten times
    # slower. A reduction of several operands at once it fuses with what makes them. Elsewhere
    # plain sums are the better form: over shards they become one all-reduce.
    ones = tuple(flag.astype(jnp.uint32) for flag in flags)
    none = (np.uint32(0),) * len(flags)

    def add(left: Any, right: Any) -> Any:
        return tuple(a + b for a, b in zip(left, right, strict=True))

    return jnp.stack(lax.reduce(ones, none, add, tuple(range(flags[0].ndim))))
