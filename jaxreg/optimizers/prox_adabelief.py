"""Proximal AdaBelief in loss units."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from jaxreg.optimizers.adaptive import check_options, preconditioned, wide
from jaxreg.optimizers.proximal_optimizer import proximal_optimizer
from jaxreg.penalties import Penalty
from jaxreg.transforms.penalty_schedule import PenaltySchedule
from jaxreg.tree import PyTree


def prox_adabelief(
    learning_rate: Any,
    penalty: Penalty | PenaltySchedule,
    b1: Any = 0.9,
    b2: Any = 0.999,
    eps: Any = 1e-16,
    eps_root: Any = 1e-16,
    *,
    nesterov: bool = False,
) -> optax.GradientTransformationExtraArgs:
    r"""AdaBelief that minimises ``loss + penalty`` with exact zeros.

    .. math::
        S_i = \frac{\eta}{\sqrt{\hat s_i} + \epsilon}, \qquad
        w \leftarrow \operatorname{argmin}_z R(z) + \sum_i \frac{(z_i - (w_i - S_i \hat m_i))^2}{2 S_i}

    :math:`s` is the moving mean of :math:`(g - m)^2 + \epsilon_\text{root}`: how far gradients are
    from what was believed.

    Args:
        learning_rate: eta, a non-negative number or a schedule.
        penalty: a :class:`jaxreg.Penalty`, its strength in the unit of the loss; or a schedule of
            them (:func:`jaxreg.scheduled`, :func:`jaxreg.sparsity_ramp`).
        b1, b2, eps, eps_root, nesterov: as ``optax.adabelief``.

    Returns:
        An ``optax.GradientTransformationExtraArgs``; it replaces ``optax.adabelief`` and keeps no
        buffer beyond its own.

    Raises:
        TypeError, ValueError: for bad arguments.

    Examples:
        >>> import jax.numpy as jnp
        >>> import jaxreg
        >>> import optax
        >>> optimizer = jaxreg.prox_adabelief(0.05, jaxreg.l1(0.5), eps=1e-2)
        >>> params = jnp.zeros(2)
        >>> state = optimizer.init(params)
        >>> for _ in range(500):  # loss = sum (w - [1.5, 0.1])^2 / 2
        ...     grads = params - jnp.array([1.5, 0.1])
        ...     updates, state = optimizer.update(grads, state, params)
        ...     params = optax.apply_updates(params, updates)
        >>> print(params.round(3))
        [1. 0.]

    Notes:
        Where gradients do not vary, as in full-batch training, s goes to ``eps_root`` and the
        step size without bound: give ``eps`` the size of a gradient difference that matters. See
        :func:`jaxreg.prox_adam` on clipping.

    References:
        Zhuang et al., AdaBelief optimizer: adapting stepsizes by the belief in observed gradients, 2020,
        algorithm 2, arXiv:2010.07468. Prox: Yun, Lozano and Yang, Adaptive
        proximal gradient methods for structured neural networks, 2021, algorithm 1, arXiv:2006.14063
    """
    check_options(
        "prox_adabelief", learning_rate, penalty, b1=b1, b2=b2, eps=eps, eps_root=eps_root, nesterov=nesterov
    )
    optimizer = optax.adabelief(learning_rate, b1, b2, eps, eps_root, nesterov=nesterov)

    def steps_at(rate: Any, belief: Any) -> PyTree:
        # optax adds eps_root before it stores nu.
        corrected = optax.tree.bias_correction(wide(belief.nu), b2, belief.count)
        return jax.tree.map(lambda nu: rate / (jnp.sqrt(nu) + eps), corrected)

    return proximal_optimizer(optimizer, penalty, preconditioned(learning_rate, "prox_adabelief", steps_at))
