"""A share of exact zeros that rises over training to a target: by an adapted strength, or by projection."""

import dataclasses
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.core import Tracer

from jaxreg.arguments import check_every, check_number, check_whole_number, check_window
from jaxreg.penalties import Penalty
from jaxreg.penalties.base import Leaves, TermPenalty
from jaxreg.penalties.composition import Sum
from jaxreg.penalties.elastic_net import ElasticNet
from jaxreg.penalties.huber import Huber
from jaxreg.penalties.selection import Units, costs, largest, units_of, with_only
from jaxreg.transforms.penalty_schedule import PenaltySchedule
from jaxreg.transforms.strength_one import at_strength_one
from jaxreg.tree import FlatTree, is_container, upcast

METHODS = ("strength", "projection")
NEVER_ZERO = (None, TermPenalty.term_vanishing, Huber.term_vanishing)


@dataclasses.dataclass(frozen=True)
class SparsityRamp(PenaltySchedule):
    """See :func:`sparsity_ramp`."""

    target: Any
    begin_step: Any
    end_step: Any
    every: Any
    method: str
    max_zero_share: Any

    def first_strength(self) -> Any:
        return jnp.zeros([], jnp.float32)

    def share_after(self, updates: Any) -> Any:
        """The share of zeros to have after so many updates."""
        begin, end = jnp.asarray(self.begin_step), jnp.asarray(self.end_step)
        past = jnp.clip(updates - begin, 0, end - begin)
        # The last step counts whether or not it is an every-th one.
        past = jnp.where(past < end - begin, past - past % self.every, past)
        return self.target * (1 - (1 - past.astype(jnp.float32) / (end - begin)) ** 3)

    def prox_at(self, count: Any, flat: FlatTree, points: Leaves, steps: Leaves) -> tuple[Leaves, Any]:
        share = self.share_after(count + 1)
        points, steps = self._squares_taken_out(count, flat, points, steps)
        if self.method == "projection":
            return self._projected(share, flat, points, steps), self.first_strength()
        return self._shrunk(share, flat, points, steps)

    def _squares_taken_out(
        self, count: Any, flat: FlatTree, points: Leaves, steps: Leaves
    ) -> tuple[Leaves, Leaves]:
        """Points and steps after the parts ``c/2 |w|^2``, as a sum of penalties takes them out."""
        points, steps = dict(points), dict(steps)
        begun = count >= jnp.asarray(self.begin_step)
        for index, curvature in self.penalty.curvature_of(flat).items():
            if index in points:
                room = 1 + jnp.where(begun, steps[index] * curvature, 0.0)
                points[index], steps[index] = points[index] / room, steps[index] / room
        return points, steps

    def _projected(self, share: Any, flat: FlatTree, points: Leaves, steps: Leaves) -> Leaves:
        zeroed = zeroed_by(self.penalty)
        units = _present(units_of(flat, zeroed.mask.indices(flat), getattr(zeroed, "groups", None)), points)
        total = sum(its.number for its in units)
        if not total:
            return points
        losses = [jnp.abs(cost) for cost in costs(units, points, steps)]
        kept, _ = self._living(units, losses, share, np.uint32(total) - _wanted(share, total))
        cut = with_only(units, kept, points)
        return {index: jnp.where(steps[index] == 0, x, cut[index]) for index, x in points.items()}

    def _shrunk(self, share: Any, flat: FlatTree, points: Leaves, steps: Leaves) -> tuple[Leaves, Any]:
        penalty = at_strength_one(zeroed_by(self.penalty))
        # The threshold, step times strength, is as little differentiated as the choice of the units.
        steps = {index: lax.stop_gradient(step) for index, step in steps.items()}
        # Traced here for its units and its errors; what is not used of it is not computed.
        found = [units for units, _ in penalty.vanishing_of(flat, points, steps)]
        total = sum(units.number for units in found)
        if not total:
            return points, self.first_strength()
        old = {index: upcast(flat.leaves[index]) for index in points}
        alive = [units.alive(units.pick(old)) for units in found]
        wanted = _wanted(share, total)
        counts = [jnp.sum(~was, dtype=jnp.uint32) for was in alive]
        zeros = jnp.sum(jnp.stack(counts), dtype=jnp.uint32)
        clearance = _clearance([flat.leaves[index] for units in found for index in units.indices])

        def search() -> tuple[list[Any], list[Any], Any]:
            factors = [factor for _, factor in penalty.vanishing_of(flat, points, steps)]
            kept, spared = self._living(found, _zeros_first(factors, alive), share, np.uint32(total) - wanted)
            # What has step 0, or is reached by a strength of 0, cannot vanish.
            gone = [~keep & jnp.isfinite(factor) for keep, factor in zip(kept, factors, strict=True)]
            # Where units tie, and only some of them are wanted, the strength that makes those zero would
            # take all of them along: then it is the next lower one.
            others = [keep & ~spare for keep, spare in zip(kept, spared, strict=True)]
            bound = (1 - clearance) * _lowest(factors, others)
            strengths = [
                jnp.max(jnp.where(dead & was & (factor <= bound), factor, 0.0), initial=0.0)
                for dead, was, factor in zip(gone, alive, factors, strict=True)
            ]
            living = [was & ~dead for was, dead in zip(alive, gone, strict=True)]
            moves = {index: points[index] - old[index] for index in points}
            pushes = [factor for _, factor in penalty.vanishing_of(flat, moves, steps)]
            strength = jnp.minimum(jnp.max(jnp.stack(strengths)), _mean(pushes, living))
            # A leaf that has to be spared any unit is spared all that it needs: see jaxreg.protected.
            unshrunk = [
                spare & jnp.any(spare & ((1 - clearance) * factor <= strength))
                for spare, factor in zip(spared, factors, strict=True)
            ]
            return gone, unshrunk, strength.astype(jnp.float32)

        def hold() -> tuple[list[Any], list[Any], Any]:
            held = [~was & (wanted > 0) for was in alive]
            return held, [was & ~was for was in alive], jnp.zeros([], jnp.float32)

        # Before the ramp and after it there is nothing to look for.
        gone, unshrunk, strength = lax.cond((wanted == 0) | (zeros == wanted), hold, search)
        own = {index: points[index] for units in found for index in units.indices}
        out = points | penalty.scale(strength).prox_of(flat, own, steps)
        for units, dead, same in zip(found, gone, unshrunk, strict=True):
            pairs = zip(units.spread(dead), units.spread(same), strict=True)
            for index, (zero, stays) in zip(units.indices, pairs, strict=True):
                out[index] = jnp.where(zero, 0.0, jnp.where(stays, points[index], out[index]))
        return out, strength

    def _living(
        self, units: list[Units], ranks: list[Any], share: Any, number: Any
    ) -> tuple[list[Any], list[Any]]:
        """Marks on the units that live, the highest in rank; and on those that their leaf needs.

        Needed are the highest of a leaf that would otherwise keep too few.
        """
        kept = largest(ranks, number[None], apart=False)
        least = self._least(units, share, number)
        counts = [
            jnp.sum(keep & (rank > 0), dtype=jnp.uint32) for keep, rank in zip(kept, ranks, strict=True)
        ]

        def spare() -> tuple[list[Any], list[Any]]:
            highest = largest(ranks, least, apart=True)
            needed = [mark & (rank > 0) for mark, rank in zip(highest, ranks, strict=True)]
            first = [jnp.where(mark, jnp.inf, rank) for mark, rank in zip(needed, ranks, strict=True)]
            return largest(first, number[None], apart=False), needed

        def leave() -> tuple[list[Any], list[Any]]:
            return kept, [keep & ~keep for keep in kept]

        return lax.cond(jnp.any(jnp.stack(counts) < least), spare, leave)

    def _least(self, units: list[Units], share: Any, number: Any) -> Any:
        """How many units each leaf is to keep."""
        sizes = np.array([its.number for its in units], np.float32)
        part = 0.5 if self.max_zero_share is None else (1 - self.max_zero_share) / (1 - self.target)
        least = jnp.floor(part * (1 - share) * sizes).astype(jnp.uint32)
        # A leaf of several units keeps one as long as there are enough for all leaves.
        one = jnp.maximum(least, np.uint32(sizes > 1))
        return jnp.where((part > 0) & (jnp.sum(one, dtype=jnp.uint32) <= number), one, least)


def _wanted(share: Any, total: int) -> Any:
    """How many units are to be zero; one at least lives."""
    # Unsigned, as the counts of the search are: a large model has more weights than an int32 counts.
    zeros = jnp.round(share * np.float32(total)).astype(jnp.uint32)
    return jnp.minimum(zeros, np.uint32(total - 1))


def _present(units: list[Units], points: Leaves) -> list[Units]:
    return [its for its in units if all(index in points for index in its.indices)]


def _zeros_first(factors: list[Any], alive: list[Any]) -> list[Any]:
    """The factors, with those of zero units taken below all others in the order they have.

    A zero stays zero, whatever its update, as long as zeros are wanted: else the noise of gradients at
    thousands of zeros would decide the strength, and shrink the weights that live.
    """
    # An update that ends at exactly 0 is below all.
    lowest = _lowest(factors, [was & (factor > 0) for factor, was in zip(factors, alive, strict=True)])
    lowest = jnp.where(jnp.isfinite(lowest), lowest, 1.0)
    # From 0 up to half of the lowest.
    return [
        jnp.where(
            was, factor, 0.5 * lowest / (1 + lowest / jnp.where(factor > 0, factor, 1.0)) * (factor > 0)
        )
        for factor, was in zip(factors, alive, strict=True)
    ]


def _lowest(factors: list[Any], among: list[Any]) -> Any:
    """The smallest of the marked factors that are numbers; infinity where there is none."""
    smallest = [
        jnp.min(jnp.where(mark & (factor >= 0), factor, jnp.inf), initial=jnp.inf)
        for factor, mark in zip(factors, among, strict=True)
    ]
    return jnp.min(jnp.stack(smallest))


def _mean(factors: list[Any], among: list[Any]) -> Any:
    """The mean of the marked factors that are finite; 0 where there is none."""
    marks = [mark & jnp.isfinite(factor) for mark, factor in zip(among, factors, strict=True)]
    sums = [jnp.sum(jnp.where(mark, factor, 0.0)) for mark, factor in zip(marks, factors, strict=True)]
    counts = [jnp.sum(mark, dtype=jnp.uint32) for mark in marks]
    number = jnp.sum(jnp.stack(counts), dtype=jnp.uint32)
    return jnp.sum(jnp.stack(sums)) / jnp.maximum(number, 1)


def _clearance(leaves: list[Any]) -> float:
    """By which share a strength is to stay below what would make a unit zero that is kept.

    So much is left of the unit that neither the rounding of its dtype nor that of ``p + (new - p)`` makes
    it zero, nor the error of a factor found by bisection.
    """
    widest = max(float(jnp.finfo(jnp.result_type(leaf)).eps) for leaf in leaves)
    return min(max(4 * widest, 2.0**-16), 0.5)


def zeroed_by(penalty: Penalty, owner: str = "sparsity_ramp") -> Any:
    """The part of a penalty that makes zeros, without its squares: of a sum, the one beside l2 terms."""
    parts = penalty.parts if isinstance(penalty, Sum) else (penalty,)
    kinds = ", ".join(part.kind for part in parts)
    if any(type(part).pull_of is not Penalty.pull_of for part in parts):
        raise ValueError(
            f"The 'penalty' parameter of {owner} must pull to zero, not to a reference. Got {kinds}."
        )
    rest = [left for left in (part.without_curvature() for part in parts) if left is not None]
    if isinstance(penalty, Sum) and len(rest) != 1:
        raise ValueError(
            f"The 'penalty' parameter of {owner} must say what becomes zero: in a sum, one part "
            f"beside l2 terms. Got {kinds}."
        )
    if not rest or getattr(type(rest[0]), "term_vanishing", None) in NEVER_ZERO or _without_l1(parts):
        raise ValueError(
            f"The 'penalty' parameter of {owner} must make elements or groups zero, as l1 and group_lasso "
            f"do. Got {kinds}."
        )
    return rest[0]


def _without_l1(parts: tuple[Penalty, ...]) -> bool:
    nets = [part for part in parts if isinstance(part, ElasticNet)]
    return any(not isinstance(net.l1_ratio, Tracer) and not np.any(net.l1_ratio) for net in nets)


def sparsity_ramp(
    penalty: Penalty,
    target: Any,
    *,
    begin_step: Any,
    end_step: Any,
    every: Any = 1,
    method: str = "strength",
    max_zero_share: Any = None,
) -> PenaltySchedule:
    r"""Ask for a share of exact zeros in place of a strength, as the penalty of any proximal optimizer.

    .. math::
        s_k = \begin{cases} 0 & k \le b \\ s \left(1 - \left(1 - \frac{k - b}{e - b}\right)^3\right)
        & b < k < e \\ s & k \ge e \end{cases}

    is the share after k updates: of the elements, or for a penalty on groups of the groups, in all leaves
    of the penalty's mask together.

    ``method="strength"``: in each step the penalty's prox is taken at the smallest strength at which that
    many units are zero, those included that were zero before and are held; but at none larger than the
    living units withstand on average, that is the mean of the strengths that would cancel their updates.
    Where that is not enough, those that the smallest strength would have taken are set to zero.
    ``method="projection"``: the smallest units are set to zero, as by :func:`jaxreg.top_k`, and nothing
    is shrunk.

    Args:
        penalty: what becomes zero: its kind, groups and mask. Its own strength does not matter where it
            is one number; with one per leaf, they weigh the leaves against each other (not under
            projection, which compares norms and knows neither them nor ``size_weights``). Its squares, an
            l2 in a sum or the elastic net's, act at their own strength from ``begin_step`` on, after the
            ramp too.
        target: s, the share of zeros to reach, a number in [0, 1), which may be traced.
        begin_step: b, how many updates to leave alone, a non-negative whole number, which may be traced.
        end_step: e, after how many updates the target is reached, larger than ``begin_step``.
        every: raise the share at every so many updates only (Distiller's and jaxpruner's frequency), a
            positive whole number, which may be traced.
        method: ``"strength"`` or ``"projection"``. Static.
        max_zero_share: the largest share of the units of a single leaf (of joined leaves, where groups join
            them) to be zero at the end, a number from ``target`` to 1, which may be traced; on the way there
            the share left to a leaf falls as the one left to all. Default: half-way from ``target`` to 1,
            so that no leaf keeps less than half of what it would keep if all were treated alike. Below 1
            one unit lives in each leaf of several, as long as the target leaves enough. 1: no leaf is
            protected.

    Returns:
        What stands for a penalty in :func:`jaxreg.proximal`, :func:`jaxreg.proximal_optimizer` and the
        ``prox_*`` optimizers. Their state grows by one scalar, ``state.strength``: the strength of the
        last step, a strength where the penalty has one number for it, else the factor on the
        penalty (0 under projection). Of a sum and of the elastic net it is that of the part without squares.

    Raises:
        TypeError, ValueError: for bad arguments, among them a penalty that makes no zeros, such as l2, or
            none of which a given number can be had, such as total_variation; one strength per leaf under
            projection; a ``max_zero_share`` below the target.

    Examples:
        Three of four weights, by Adam's own step sizes:

        >>> import jax.numpy as jnp
        >>> import jaxreg
        >>> penalty = jaxreg.sparsity_ramp(jaxreg.l1(1e-3), 0.75, begin_step=10, end_step=40)
        >>> optimizer = jaxreg.prox_adam(0.01, penalty)
        >>> wanted = jnp.array([1.0, 0.1, 0.2, 0.3])
        >>> params, state = wanted, optimizer.init(wanted)
        >>> for _ in range(40):
        ...     params, state = jaxreg.step(optimizer, params - wanted, state, params)
        >>> float(jaxreg.sparsity(params))
        0.75

    Notes:
        Zeros are held while as many are wanted: they do not come back, and when the ramp has ended the
        strength falls to 0 and the weights that live are refitted. Where there are more zeros than the
        ramp asks for, as in a layer that starts at zero, those furthest from zero are let go. Where
        units tie and only some of them are wanted, the last ones in the order of the tree become zero, and
        the strength is the largest of the chosen ones below the tie (0 where all tie), so that the others
        live: the share is never exceeded. A learning rate of 0 moves nothing, and so makes no zeros: let the
        ramp end before the rate does.

        What is taken from each leaf is decided by one strength for all, within ``max_zero_share``: behind
        an optimizer whose steps do not depend on how much a unit matters, as Adam's, small layers would
        be emptied first. Where the share binds, the units that a leaf needs are not shrunk in that step. With
        l0, which does not shrink what stays, ``"strength"`` is a projection too.

        The bound on the strength matters where units are few and large, as groups are: the strength that
        takes the next one at once outweighs the loss, and would shrink all others by as much.

        In derivatives through training the choice of the units and the threshold are constants: those with
        respect to a learning rate or the penalty's strength leave out how these move the threshold.

    References:
        Ramp: Zhu and Gupta, To prune, or not to prune: exploring the efficacy of pruning for model
        compression, 2017, equation 1, arXiv:1710.01878
    """
    return checked_ramp(penalty, target, begin_step, end_step, every, method, max_zero_share, "sparsity_ramp")


def checked_ramp(
    penalty: Any,
    target: Any,
    begin_step: Any,
    end_step: Any,
    every: Any,
    method: Any,
    max_zero_share: Any,
    owner: str,
) -> SparsityRamp:
    """The ramp, its arguments checked in the name of the function that was given them."""
    if not isinstance(penalty, Penalty):
        raise TypeError(
            f"The 'penalty' parameter of {owner} must be a jaxreg.Penalty, such as jaxreg.l1(1e-4). "
            f"Got {penalty!r}."
        )
    check_number(target, "target", owner, high=1.0, open_high=True)
    check_whole_number(end_step, "end_step", owner)
    check_window(begin_step, end_step, owner)
    check_every(every, owner)
    if method not in METHODS:
        raise ValueError(
            f"The 'method' parameter of {owner} must be 'strength' or 'projection'. Got {method!r}."
        )
    if max_zero_share is not None:
        check_number(max_zero_share, "max_zero_share", owner, high=1.0)
        known = not isinstance(max_zero_share, Tracer) and not isinstance(target, Tracer)
        if known and max_zero_share < target:
            raise ValueError(
                f"The 'max_zero_share' parameter of {owner} must not be below its target. "
                f"Got {max_zero_share!r} with target={target!r}."
            )
    zeroed = zeroed_by(penalty, owner)
    if method == "projection" and is_container(zeroed.strength):
        raise ValueError(
            f"The 'penalty' parameter of {owner} must have one strength with method='projection', which "
            f"compares sizes, not strengths. Got one per leaf: {zeroed.strength!r}."
        )
    return SparsityRamp(penalty, target, begin_step, end_step, every, method, max_zero_share)
