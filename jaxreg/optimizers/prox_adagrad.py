"""Proximal AdaGrad in loss units."""

from typing import Any

import jax
import optax
from jax import lax

from jaxreg.optimizers.adaptive import check_options, preconditioned, wide
from jaxreg.optimizers.proximal_optimizer import proximal_optimizer
from jaxreg.penalties import Penalty
from jaxreg.transforms.penalty_schedule import PenaltySchedule
from jaxreg.tree import PyTree


def prox_adagrad(
    learning_rate: Any,
    penalty: Penalty | PenaltySchedule,
    initial_accumulator_value: Any = 0.1,
    eps: Any = 1e-7,
) -> optax.GradientTransformationExtraArgs:
    r"""AdaGrad that minimises ``loss + penalty`` with exact zeros.

    .. math::
        S_i = \frac{\eta}{\sqrt{\textstyle\sum_k g_{k,i}^2 + \epsilon}}, \qquad
        w \leftarrow \operatorname{argmin}_z R(z) + \sum_i \frac{(z_i - (w_i - S_i g_i))^2}{2 S_i}

    This is the composite mirror descent form of AdaGrad's own paper.

    Args:
        learning_rate: eta, a non-negative number or a schedule.
        penalty: a :class:`jaxreg.Penalty`, its strength in the unit of the loss; or a schedule of
            them (:func:`jaxreg.scheduled`, :func:`jaxreg.sparsity_ramp`).
        initial_accumulator_value, eps: as ``optax.adagrad``.

    Returns:
        An ``optax.GradientTransformationExtraArgs``; it replaces ``optax.adagrad`` and keeps no
        buffer beyond its own.

    Raises:
        TypeError, ValueError: for bad arguments.

    Examples:
        >>> import jax.numpy as jnp
        >>> import jaxreg
        >>> import optax
        >>> optimizer = jaxreg.prox_adagrad(0.5, jaxreg.l1(0.5))
        >>> params = jnp.zeros(2)
        >>> state = optimizer.init(params)
        >>> for _ in range(500):  # loss = sum (w - [1.5, 0.1])^2 / 2
        ...     grads = params - jnp.array([1.5, 0.1])
        ...     updates, state = optimizer.update(grads, state, params)
        ...     params = optax.apply_updates(params, updates)
        >>> print(params.round(3))
        [1. 0.]

    Notes:
        Under a penalty gradients do not vanish at the minimiser and the sum of their squares grows
        for ever: steps fall as ``1 / sqrt(k)``. For rare features that is the point; else
        prefer :func:`jaxreg.prox_adam`. :func:`jaxreg.ftrl` is its dual-averaging sibling.

    References:
        Duchi, Hazan and Singer, Adaptive subgradient methods for online learning and stochastic
        optimization, 2011, equation 4, https://jmlr.org/papers/v12/duchi11a.html
    """
    check_options(
        "prox_adagrad",
        learning_rate,
        penalty,
        initial_accumulator_value=initial_accumulator_value,
        eps=eps,
    )
    optimizer = optax.adagrad(learning_rate, initial_accumulator_value, eps)

    def steps_at(rate: Any, adagrad: Any) -> PyTree:
        return jax.tree.map(lambda squares: rate * lax.rsqrt(squares + eps), wide(adagrad.sum_of_squares))

    return proximal_optimizer(optimizer, penalty, preconditioned(learning_rate, "prox_adagrad", steps_at))
