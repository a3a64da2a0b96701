"""Penalties that change from step to step, wherever a proximal link or optimizer takes a penalty."""

import dataclasses
from typing import Any

from jaxreg.penalties import Penalty
from jaxreg.penalties.base import Leaves
from jaxreg.tree import FlatTree


@dataclasses.dataclass(frozen=True)
class PenaltySchedule:
    """A penalty for each step, made by :func:`jaxreg.scheduled` or :func:`jaxreg.sparsity_ramp`.

    It stands where a penalty does in :func:`jaxreg.proximal`, :func:`jaxreg.proximal_optimizer` and the
    ``prox_*`` optimizers, which give it their count of updates and their own step sizes.
    """

    penalty: Penalty

    def touched(self, flat: FlatTree) -> tuple[int, ...]:
        """Indices of the leaves that this penalty reaches."""
        return self.penalty.touched(flat)

    def first_strength(self) -> Any:
        """What stands for the strength in a new state; None where the state need not hold one."""
        return None

    def prox_at(self, count: Any, flat: FlatTree, points: Leaves, steps: Leaves) -> tuple[Leaves, Any]:
        """The prox after ``count`` updates, and the strength it took; ``flat`` holds the old parameters."""
        raise NotImplementedError(f"{type(self).__name__} must define prox_at().")  # the subclass's duty


@dataclasses.dataclass(frozen=True)
class Scheduled(PenaltySchedule):
    """See :func:`scheduled`."""

    strength_schedule: Any

    def prox_at(self, count: Any, flat: FlatTree, points: Leaves, steps: Leaves) -> tuple[Leaves, Any]:
        return self.penalty.scale(self.strength_schedule(count)).prox_of(flat, points, steps), None


def scheduled(penalty: Penalty, strength_schedule: Any) -> PenaltySchedule:
    r"""Vary the strength of a penalty over training: a schedule of factors, for any proximal optimizer.

    .. math:: R_k(w) = c_k R(w), \qquad c_k: \text{the schedule at the count of updates made before}

    Args:
        penalty: a :class:`jaxreg.Penalty`.
        strength_schedule: an optax schedule of non-negative factors on its strength. With a penalty of
            strength 1, the strengths themselves.

    Returns:
        What stands for a penalty in :func:`jaxreg.proximal`, :func:`jaxreg.proximal_optimizer` and the
        ``prox_*`` optimizers; the state of these does not grow.

    Raises:
        TypeError: if ``penalty`` is not a penalty, or the schedule is not callable.

    Examples:
        No penalty for 2 steps, then a rise to full strength over 2 more:

        >>> import jax.numpy as jnp
        >>> import jaxreg
        >>> import optax
        >>> warm_up = optax.linear_schedule(0.0, 1.0, transition_steps=2, transition_begin=2)
        >>> optimizer = jaxreg.prox_sgd(1.0, jaxreg.scheduled(jaxreg.l1(0.25), warm_up))
        >>> params = jnp.array([2.0, 0.25])
        >>> state = optimizer.init(params)
        >>> for _ in range(5):
        ...     params, state = jaxreg.step(optimizer, jnp.zeros(2), state, params)
        >>> print(params)  # 2 - 0.25 (0 + 0 + 0 + 0.5 + 1)
        [1.625 0.   ]

    Notes:
        For a penalty that is on from one step to another, or at every k-th, see :func:`jaxreg.windowed`.

    References:
        Distiller's policies and scheduling (starting_epoch, ending_epoch, frequency), 2019,
        https://intellabs.github.io/distiller/schedule.html
    """
    if not isinstance(penalty, Penalty):
        raise TypeError(f"The 'penalty' parameter of scheduled must be a jaxreg.Penalty. Got {penalty!r}.")
    if not callable(strength_schedule):
        raise TypeError(
            "The 'strength_schedule' parameter of scheduled must be a schedule: a function from a step count "
            f"to a factor. Got {strength_schedule!r}."
        )
    return Scheduled(penalty, strength_schedule)


def prox_at(
    penalty: Penalty | PenaltySchedule, count: Any, flat: FlatTree, points: Leaves, steps: Leaves
) -> tuple[Leaves, Any]:
    """The prox of a penalty or of a schedule of penalties, and the strength where that was sought."""
    if isinstance(penalty, PenaltySchedule):
        return penalty.prox_at(count, flat, points, steps)
    return penalty.prox_of(flat, points, steps), None


def first_strength(penalty: Penalty | PenaltySchedule) -> Any:
    return penalty.first_strength() if isinstance(penalty, PenaltySchedule) else None
