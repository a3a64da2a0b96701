"""A share of exact zeros that rises over training to a target: by an adapted strength, or by projection."""

import dataclasses
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxreg.arguments import check_number, check_whole_number, check_window
from jaxreg.group_kinds import Groups
from jaxreg.penalties import Penalty
from jaxreg.penalties.base import Leaves
from jaxreg.penalties.composition import Sum
from jaxreg.penalties.selection import Units, largest, units_of
from jaxreg.penalties.top_k import TopK
from jaxreg.transforms.penalty_schedule import PenaltySchedule
from jaxreg.transforms.strength_one import at_strength_one
from jaxreg.tree import FlatTree, upcast

METHODS = ("strength", "projection")


class Structure(NamedTuple):
    """What a penalty makes zero: which leaves, and what in them as a whole."""

    mask: Any
    groups: Groups | None


@dataclasses.dataclass(frozen=True)
class SparsityRamp(PenaltySchedule):
    """See :func:`sparsity_ramp`."""

    target: Any
    begin_step: Any
    end_step: Any
    every: int
    method: str

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
        if self.method == "projection":
            return self._projected(share, flat, points, steps), self.first_strength()
        return self._shrunk(share, flat, points, steps)

    def _projected(self, share: Any, flat: FlatTree, points: Leaves, steps: Leaves) -> Leaves:
        mask, groups = structure_of(self.penalty)
        total = sum(units.number for units in _present(units_of(flat, mask.indices(flat), groups), points))
        if not total:
            return points
        return TopK(mask, np.uint32(total) - _wanted(share, total), "global", groups).prox_of(
            flat, points, steps
        )

    def _shrunk(self, share: Any, flat: FlatTree, points: Leaves, steps: Leaves) -> tuple[Leaves, Any]:
        penalty = at_strength_one(self.penalty)
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

        def search() -> tuple[list[Any], Any]:
            factors = [factor for _, factor in penalty.vanishing_of(flat, points, steps)]
            budget = np.uint32(total) - wanted
            kept = largest(_zeros_first(factors, alive), budget[None], apart=False)
            # What has step 0, or is reached by a strength of 0, cannot vanish.
            gone = [~keep & jnp.isfinite(factor) for keep, factor in zip(kept, factors, strict=True)]
            strengths = [
                jnp.max(jnp.where(dead & was, factor, 0.0), initial=0.0)
                for dead, was, factor in zip(gone, alive, factors, strict=True)
            ]
            return gone, jnp.max(jnp.stack(strengths)).astype(jnp.float32)

        def hold() -> tuple[list[Any], Any]:
            return [~was & (wanted > 0) for was in alive], jnp.zeros([], jnp.float32)

        # Before the ramp and after it there is nothing to look for.
        gone, strength = lax.cond((wanted == 0) | (zeros == wanted), hold, search)
        out = penalty.scale(strength).prox_of(flat, points, steps)
        for units, dead in zip(found, gone, strict=True):
            for index, zero in zip(units.indices, units.spread(dead), strict=True):
                out[index] = jnp.where(zero, 0.0, out[index])
        return out, strength


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
    lowest = jnp.min(
        jnp.stack(
            [
                jnp.min(jnp.where(was, factor, jnp.inf), initial=jnp.inf)
                for factor, was in zip(factors, alive, strict=True)
            ]
        )
    )
    lowest = jnp.where(jnp.isfinite(lowest), lowest, 1.0)
    # From 0 up to half of the lowest.
    return [
        jnp.where(
            was, factor, 0.5 * lowest / (1 + lowest / jnp.where(factor > 0, factor, 1.0)) * (factor > 0)
        )
        for factor, was in zip(factors, alive, strict=True)
    ]


def structure_of(penalty: Penalty) -> Structure:
    """The mask and groups of a penalty; of a sum, those of its one part that is not an l2."""
    if isinstance(penalty, Sum):
        rest = [part for part in penalty.parts if part.without_curvature() is not None]
        if len(rest) != 1:
            raise ValueError(
                "The 'penalty' parameter of sparsity_ramp must say what becomes zero: in a sum, one part "
                f"beside l2 terms. Got {', '.join(part.kind for part in penalty.parts)}."
            )
        return structure_of(rest[0])
    mask, groups = getattr(penalty, "mask", None), getattr(penalty, "groups", None)
    if mask is None or not (groups is None or isinstance(groups, Groups)):
        raise ValueError(
            "The 'penalty' parameter of sparsity_ramp must be one on elements or on groups, such as l1 or "
            f"group_lasso. Got {penalty.kind}."
        )
    return Structure(mask, groups)


def sparsity_ramp(
    penalty: Penalty,
    target: Any,
    *,
    begin_step: Any,
    end_step: Any,
    every: int = 1,
    method: str = "strength",
) -> PenaltySchedule:
    r"""Ask for a share of exact zeros in place of a strength, as the penalty of any proximal optimizer.

    .. math::
        s_k = \begin{cases} 0 & k \le b \\ s \left(1 - \left(1 - \frac{k - b}{e - b}\right)^3\right)
        & b < k < e \\ s & k \ge e \end{cases}

    is the share after k updates: of the elements, or for a penalty on groups of the groups, in all leaves
    of the penalty's mask together.

    ``method="strength"``: in each step the penalty's prox is taken at the smallest strength at which that
    many units are zero, those included that were zero before and are held. ``method="projection"``: the
    smallest units are set to zero, as by :func:`jaxreg.top_k`, and nothing is shrunk.

    Args:
        penalty: what becomes zero: its kind, groups and mask. Its own strength does not matter where it
            is one number; with one per leaf, they weigh the leaves against each other.
        target: s, the share of zeros to reach, a number in [0, 1), which may be traced.
        begin_step: b, how many updates to leave alone, a non-negative whole number, which may be traced.
        end_step: e, after how many updates the target is reached, larger than ``begin_step``.
        every: raise the share at every so many updates only (Distiller's and jaxpruner's frequency).
        method: ``"strength"`` or ``"projection"``. Static.

    Returns:
        What stands for a penalty in :func:`jaxreg.proximal`, :func:`jaxreg.proximal_optimizer` and the
        ``prox_*`` optimizers. Their state grows by one scalar, ``state.strength``: the strength of the
        last step, a strength where the penalty has one number for it, else the factor on the
        penalty (0 under projection).

    Raises:
        TypeError, ValueError: for bad arguments; when used, for a penalty that makes no zeros.

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
        ramp asks for, as in a layer that starts at zero, those furthest from zero are let go. Units whose
        strengths tie vanish together. A learning rate of 0 moves nothing, and so makes no zeros: let the
        ramp end before the rate does.

        What a penalty on elements takes from each leaf is decided by one strength for all; a layer may be
        emptied. Keep small layers, the first and the last out of the mask, or give them a smaller
        strength. With l0, which does not shrink what stays, ``"strength"`` is a projection too.

    References:
        Ramp: Zhu and Gupta, To prune, or not to prune: exploring the efficacy of pruning for model
        compression, 2017, equation 1, arXiv:1710.01878
    """
    if not isinstance(penalty, Penalty):
        raise TypeError(
            "The 'penalty' parameter of sparsity_ramp must be a jaxreg.Penalty, such as jaxreg.l1(1e-4). "
            f"Got {penalty!r}."
        )
    check_number(target, "target", "sparsity_ramp", high=1.0, open_high=True)
    check_whole_number(end_step, "end_step", "sparsity_ramp")
    check_window(begin_step, end_step, "sparsity_ramp")
    check_whole_number(every, "every", "sparsity_ramp")
    if every == 0:
        raise ValueError("The 'every' parameter of sparsity_ramp must be at least 1. Got 0.")
    if method not in METHODS:
        raise ValueError(
            f"The 'method' parameter of sparsity_ramp must be 'strength' or 'projection'. Got {method!r}."
        )
    structure_of(penalty)
    return SparsityRamp(penalty, target, begin_step, end_step, every, method)
