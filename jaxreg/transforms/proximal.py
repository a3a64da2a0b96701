"""Proximal links for the end of an optax chain."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxreg.arguments import check_rate
from jaxreg.group_kinds import Groups
from jaxreg.penalties import Penalty, group_lasso, l1
from jaxreg.transforms.new_parameters import (
    DirectTransformation,
    init_from,
    parameters_at,
    proximal_point,
    rate_at,
    require_params,
    require_penalty,
    require_penalty_or_schedule,
    updates_to,
)
from jaxreg.transforms.penalty_schedule import PenaltySchedule, first_strength, scheduled
from jaxreg.transforms.rounding import begin_rounding, check_rounding, recall, settle, updates_landing_on
from jaxreg.tree import PyTree, flatten


class ProximalState(NamedTuple):
    """How many updates have been made, and the strength of the last one where a ramp has to find it."""

    count: jax.typing.ArrayLike
    strength: Any = None


def proximal(
    penalty: Penalty | PenaltySchedule,
    learning_rate: Any,
    *,
    strength_schedule: Any = None,
    rounding: str | None = None,
    seed: Any = 0,
) -> optax.GradientTransformationExtraArgs:
    r"""Apply a penalty's prox to the parameters that the chain is about to make. LAST in a chain.

    .. math::
        w \leftarrow \mathrm{prox}_{\eta_k R}(w + u), \qquad u: \text{the update that arrives}

    Args:
        penalty: a :class:`jaxreg.Penalty`, or a schedule of them such as :func:`jaxreg.scheduled`.
        learning_rate: eta, the step size of the prox: a non-negative number, a 0-d array,
            or an optax schedule, evaluated at the count before this update, from 0.
            Give it the schedule that scales the updates.
        strength_schedule: a schedule of factors on the penalty's strength; None for 1.
        rounding: for parameters narrower than float32, ``"stochastic"`` or ``"compensated"``, so that
            small steps and thresholds are not lost: as in :func:`jaxreg.weight_decay`.
        seed: of stochastic rounding, a non-negative whole number.

    Returns:
        An ``optax.GradientTransformationExtraArgs``; its state is a count, and with rounding a PRNG
        key or the remainders. An update has the wider dtype of parameter and incoming update
        (float32 for float32 parameters and bfloat16 gradients, and with rounding). Leaves that the
        penalty does not reach, and leaves whose update is ``None``, pass through.

    Raises:
        TypeError, ValueError: for bad arguments; at ``update``, if ``params`` is None.

    Examples:
        >>> import jax.numpy as jnp
        >>> import jaxreg
        >>> import optax
        >>> optimizer = optax.chain(optax.sgd(0.5), jaxreg.proximal(jaxreg.l1(0.5), 0.5))
        >>> params = jnp.array([1.0, 0.25])
        >>> state = optimizer.init(params)
        >>> updates, state = optimizer.update(jnp.array([1.0, 1.0]), state, params)
        >>> print(optax.apply_updates(params, updates))
        [0.25 0.  ]

    Notes:
        Its threshold is ``learning_rate * strength``, which is the unit of the loss for plain
        SGD only. Behind momentum or Adam it is a decoupled form, as AdamW's decay is: it does
        not minimise ``loss + penalty``. :func:`jaxreg.prox_sgd`, :func:`jaxreg.prox_adam` and
        :func:`jaxreg.proximal_optimizer` do. Inside ``optax.MultiSteps`` it goes inside; any
        transform after it destroys exact zeros. For ``optax.inject_hyperparams`` pass
        ``static_args=("penalty",)``.

    References:
        Parikh and Boyd, Proximal algorithms, 2014, section 4.2, https://doi.org/10.1561/2400000003
    """
    require_penalty_or_schedule(penalty, "proximal")
    check_rate(learning_rate, "learning_rate", "proximal")
    if strength_schedule is not None:
        if not callable(strength_schedule):
            raise TypeError(
                "The 'strength_schedule' parameter of proximal must be a schedule or None. "
                f"Got {strength_schedule!r}."
            )
        penalty = scheduled(require_penalty(penalty, "proximal"), strength_schedule)
    check_rounding(rounding, seed, "proximal")

    def begin(params: PyTree) -> Any:
        strength = first_strength(penalty)
        if rounding is None:
            return ProximalState(jnp.zeros([], jnp.int32), strength)
        state = begin_rounding(rounding, seed, flatten(params), penalty.touched)
        return state._replace(strength=strength)

    def advance(finish: Callable[..., PyTree]) -> Callable[..., tuple[PyTree, Any]]:
        def run(updates: PyTree, state: Any, params: PyTree = None, **extra_args: Any) -> tuple[PyTree, Any]:
            del extra_args
            require_params(params)
            rate = rate_at(learning_rate, state.count, "proximal", "learning_rate")
            count = optax.safe_increment(state.count)
            flat = flatten(params)
            exact = params if rounding is None else flat.rebuild(recall(state, flat, updates))
            _, moves, points, strength = proximal_point(penalty, state.count, exact, updates, rate)
            if rounding is None:
                return finish(flat, moves, points), ProximalState(count, strength)
            points, state = settle(state, flat, points, count)
            return finish(flat, moves, points), state._replace(strength=strength)

        return run

    make_updates = updates_to if rounding is None else updates_landing_on
    return DirectTransformation.make(init_from(penalty, begin), advance(make_updates), advance(parameters_at))


def proximal_l1(
    strength: Any, learning_rate: Any, *, mask: Any = None
) -> optax.GradientTransformationExtraArgs:
    """Soft-threshold the new parameters by ``learning_rate * strength``. LAST in a chain.

    ``w <- sign(w + u) max(|w + u| - learning_rate * strength, 0)``, which is
    :func:`jaxreg.proximal` with :func:`jaxreg.l1`; read there on units and place.

    Args:
        strength: a non-negative number, a traced scalar, a pytree prefix with one number
            per leaf, or a schedule.
        learning_rate: a non-negative number or a schedule.
        mask: which leaves are regularised, as in :func:`jaxreg.l1`.

    Returns:
        An ``optax.GradientTransformationExtraArgs``; its state is a count.

    Raises:
        TypeError, ValueError: for bad arguments.

    Examples:
        >>> import jax.numpy as jnp
        >>> import jaxreg
        >>> import optax
        >>> optimizer = optax.chain(optax.sgd(0.5), jaxreg.proximal_l1(0.2, 0.5))
        >>> params = jnp.array([1.0, 0.05])
        >>> updates, _ = optimizer.update(jnp.zeros(2), optimizer.init(params), params)
        >>> print(optax.apply_updates(params, updates))
        [0.9 0. ]

    References:
        Daubechies, Defrise and De Mol, An iterative thresholding algorithm, 2004, arXiv:math/0307152
    """
    return _proximal_at(strength, learning_rate, lambda number: l1(number, mask=mask))


def proximal_group_lasso(
    strength: Any, learning_rate: Any, groups: Groups, *, mask: Any = None
) -> optax.GradientTransformationExtraArgs:
    """Shrink the groups of the new parameters by ``learning_rate * strength``. LAST in a chain.

    ``w_g <- (w_g + u_g) max(1 - learning_rate * strength * sqrt(|g|) / ||w_g + u_g||, 0)``, which
    is :func:`jaxreg.proximal` with :func:`jaxreg.group_lasso`; read there on units and place.

    Args:
        strength: a non-negative number, a traced scalar, a pytree prefix with one number
            per leaf, or a schedule.
        learning_rate: a non-negative number or a schedule.
        groups: a structure of :mod:`jaxreg.groups`.
        mask: which leaves are regularised, as in :func:`jaxreg.l1`.

    Returns:
        An ``optax.GradientTransformationExtraArgs``; its state is a count.

    Raises:
        TypeError, ValueError: for bad arguments.

    Examples:
        >>> import jax.numpy as jnp
        >>> import jaxreg
        >>> import optax
        >>> shrink = jaxreg.proximal_group_lasso(0.5, 1.0, jaxreg.groups.inputs())
        >>> params = {"kernel": jnp.array([[2.0, 2.0, 2.0, 2.0], [0.1, 0.1, 0.1, 0.1]])}
        >>> updates, _ = shrink.update({"kernel": jnp.zeros((2, 4))}, shrink.init(params), params)
        >>> print(optax.apply_updates(params, updates)["kernel"])
        [[1.5 1.5 1.5 1.5]
         [0.  0.  0.  0. ]]

    References:
        Yuan and Lin, Model selection and estimation in regression with grouped variables, 2006,
        https://doi.org/10.1111/j.1467-9868.2005.00532.x
    """
    return _proximal_at(strength, learning_rate, lambda number: group_lasso(number, groups, mask=mask))


def _proximal_at(
    strength: Any, learning_rate: Any, make: Callable[[Any], Penalty]
) -> optax.GradientTransformationExtraArgs:
    """:func:`proximal` with a penalty made at a strength that may be a schedule."""
    if callable(strength):
        return proximal(make(1.0), learning_rate, strength_schedule=strength)
    return proximal(make(strength), learning_rate)
