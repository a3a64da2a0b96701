"""Proximal NAdam in loss units."""

from typing import Any

import optax

from jaxreg.optimizers.adaptive import adam_steps, check_options, preconditioned
from jaxreg.optimizers.proximal_optimizer import proximal_optimizer
from jaxreg.penalties import Penalty
from jaxreg.transforms.penalty_schedule import PenaltySchedule


def prox_nadam(
    learning_rate: Any,
    penalty: Penalty | PenaltySchedule,
    b1: Any = 0.9,
    b2: Any = 0.999,
    eps: Any = 1e-8,
    eps_root: Any = 0.0,
    mu_dtype: Any = None,
    *,
    nesterov: bool = True,
) -> optax.GradientTransformationExtraArgs:
    r"""NAdam that minimises ``loss + penalty`` with exact zeros.

    .. math::
        S_i = \frac{\eta}{\sqrt{\hat\nu_i + \epsilon_\text{root}} + \epsilon}, \qquad
        w \leftarrow \operatorname{argmin}_z R(z) + \sum_i \frac{(z_i - (w_i - S_i \tilde m_i))^2}{2 S_i}

    The look-ahead :math:`\tilde m` changes the way to the minimiser and not the update per unit of
    constant gradient: the step sizes are those of :func:`jaxreg.prox_adam`.

    Args:
        learning_rate: eta, a non-negative number or a schedule.
        penalty: a :class:`jaxreg.Penalty`, its strength in the unit of the loss; or a schedule of
            them (:func:`jaxreg.scheduled`, :func:`jaxreg.sparsity_ramp`).
        b1, b2, eps, eps_root, mu_dtype, nesterov: as ``optax.nadam``.

    Returns:
        An ``optax.GradientTransformationExtraArgs``; it replaces ``optax.nadam`` and keeps no
        buffer beyond its own.

    Raises:
        TypeError, ValueError: for bad arguments.

    Examples:
        >>> import jax.numpy as jnp
        >>> import jaxreg
        >>> import optax
        >>> optimizer = jaxreg.prox_nadam(0.05, jaxreg.l1(0.5))
        >>> params = jnp.zeros(2)
        >>> state = optimizer.init(params)
        >>> for _ in range(500):  # loss = sum (w - [1.5, 0.1])^2 / 2
        ...     grads = params - jnp.array([1.5, 0.1])
        ...     updates, state = optimizer.update(grads, state, params)
        ...     params = optax.apply_updates(params, updates)
        >>> print(params.round(3))
        [1. 0.]

    Notes:
        See :func:`jaxreg.prox_adam` on clipping, on weights that have had no gradient yet and on
        differentiating through training.

    References:
        Dozat, Incorporating Nesterov momentum into Adam, 2016,
        https://openreview.net/forum?id=OM0jvwB8jIp57ZJjtNEZ. Prox: Yun, Lozano and Yang, Adaptive
        proximal gradient methods for structured neural networks, 2021, algorithm 1, arXiv:2006.14063
    """
    check_options(
        "prox_nadam", learning_rate, penalty, b1=b1, b2=b2, eps=eps, eps_root=eps_root, nesterov=nesterov
    )
    optimizer = optax.nadam(learning_rate, b1, b2, eps, eps_root, mu_dtype, nesterov=nesterov)
    steps = preconditioned(learning_rate, "prox_nadam", adam_steps(b2, eps, eps_root))
    return proximal_optimizer(optimizer, penalty, steps)
