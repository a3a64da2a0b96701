"""Proximal AdamW in loss units."""

from typing import Any

import optax

from jaxreg.optimizers.adaptive import adam_steps, check_options, preconditioned
from jaxreg.optimizers.proximal_optimizer import proximal_optimizer
from jaxreg.penalties import Penalty
from jaxreg.transforms.penalty_schedule import PenaltySchedule


def prox_adamw(
    learning_rate: Any,
    penalty: Penalty | PenaltySchedule,
    b1: Any = 0.9,
    b2: Any = 0.999,
    eps: Any = 1e-8,
    eps_root: Any = 0.0,
    mu_dtype: Any = None,
    weight_decay: Any = 1e-4,
    mask: Any = None,
    *,
    nesterov: bool = False,
) -> optax.GradientTransformationExtraArgs:
    r"""AdamW with exact zeros: decoupled weight decay, and a penalty in the unit of the loss.

    .. math::
        S_i = \frac{\eta}{\sqrt{\hat\nu_i + \epsilon_\text{root}} + \epsilon}, \qquad
        u = -S \hat m - \eta \lambda_w w, \qquad
        w \leftarrow \operatorname{argmin}_z R(z) + \sum_i \frac{(z_i - (w_i + u_i))^2}{2 S_i}

    The penalty is measured in Adam's own metric, as in :func:`jaxreg.prox_adam`; the decay is
    AdamW's and stays outside of the loss, as it is meant to.

    Args:
        learning_rate: eta, a non-negative number or a schedule.
        penalty: a :class:`jaxreg.Penalty`, its strength in the unit of the loss; or a schedule of
            them (:func:`jaxreg.scheduled`, :func:`jaxreg.sparsity_ramp`).
        b1, b2, eps, eps_root, mu_dtype, nesterov: as ``optax.adamw``.
        weight_decay: lambda_w, as ``optax.adamw``: times the learning rate, not in the loss's unit.
        mask: which leaves are decayed, as ``optax.adamw``. What the penalty reaches is
            said by the penalty's own mask.

    Returns:
        An ``optax.GradientTransformationExtraArgs``; it replaces ``optax.adamw`` and keeps no
        buffer beyond its own.

    Raises:
        TypeError, ValueError: for bad arguments.

    Examples:
        >>> import jax.numpy as jnp
        >>> import jaxreg
        >>> import optax
        >>> optimizer = jaxreg.prox_adamw(0.05, jaxreg.l1(0.5), weight_decay=0.0)
        >>> params = jnp.zeros(2)
        >>> state = optimizer.init(params)
        >>> for _ in range(500):  # loss = sum (w - [1.5, 0.1])^2 / 2
        ...     grads = params - jnp.array([1.5, 0.1])
        ...     updates, state = optimizer.update(grads, state, params)
        ...     params = optax.apply_updates(params, updates)
        >>> print(params.round(3))
        [1. 0.]

    Notes:
        Without decay the run stops at a minimiser of ``loss + penalty``. With it, at a point
        that is a little smaller, by an amount that depends on Adam's denominators: decoupled
        decay minimises nothing in particular. For an L2 penalty in the loss's unit add
        ``jaxreg.l2`` to the penalty instead. See :func:`jaxreg.prox_adam` on clipping, on
        weights that have had no gradient yet and on differentiating through training.

    References:
        Loshchilov and Hutter, Decoupled weight decay regularization, 2019, algorithm 2,
        arXiv:1711.05101. Prox: Yun, Lozano and Yang, Adaptive
        proximal gradient methods for structured neural networks, 2021, algorithm 1, arXiv:2006.14063
    """
    check_options(
        "prox_adamw",
        learning_rate,
        penalty,
        b1=b1,
        b2=b2,
        eps=eps,
        eps_root=eps_root,
        weight_decay=weight_decay,
        nesterov=nesterov,
    )
    optimizer = optax.adamw(
        learning_rate, b1, b2, eps, eps_root, mu_dtype, weight_decay, mask, nesterov=nesterov
    )
    steps = preconditioned(learning_rate, "prox_adamw", adam_steps(b2, eps, eps_root))
    return proximal_optimizer(optimizer, penalty, steps)
