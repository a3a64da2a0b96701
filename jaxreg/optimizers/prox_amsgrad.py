"""Proximal AMSGrad in loss units."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from jaxreg.optimizers.adaptive import check_options, preconditioned, wide
from jaxreg.optimizers.proximal_optimizer import proximal_optimizer
from jaxreg.penalties import Penalty
from jaxreg.transforms.penalty_schedule import PenaltySchedule
from jaxreg.tree import PyTree


def prox_amsgrad(
    learning_rate: Any,
    penalty: Penalty | PenaltySchedule,
    b1: Any = 0.9,
    b2: Any = 0.999,
    eps: Any = 1e-8,
    eps_root: Any = 0.0,
    mu_dtype: Any = None,
    bias_correction_mu: bool = True,
    bias_correction_nu: bool = True,
) -> optax.GradientTransformationExtraArgs:
    r"""AMSGrad that minimises ``loss + penalty`` with exact zeros.

    .. math::
        S_i = \frac{\eta}{\sqrt{\nu^{\max}_i + \epsilon_\text{root}} + \epsilon}, \qquad
        w \leftarrow \operatorname{argmin}_z R(z) + \sum_i \frac{(z_i - (w_i - S_i \hat m_i))^2}{2 S_i}

    :math:`\nu^{\max}` is the largest second moment so far. Step sizes never grow, so that it converges
    surely, and slowly where early gradients were large.

    Args:
        learning_rate: eta, a non-negative number or a schedule.
        penalty: a :class:`jaxreg.Penalty`, its strength in the unit of the loss; or a schedule of
            them (:func:`jaxreg.scheduled`, :func:`jaxreg.sparsity_ramp`).
        b1, b2, eps, eps_root, mu_dtype: as ``optax.amsgrad``.
        bias_correction_mu, bias_correction_nu: as ``optax.amsgrad``; False needs an optax that
            has the option.

    Returns:
        An ``optax.GradientTransformationExtraArgs``; it replaces ``optax.amsgrad`` and keeps no
        buffer beyond its own.

    Raises:
        TypeError, ValueError: for bad arguments.

    Examples:
        >>> import jax.numpy as jnp
        >>> import jaxreg
        >>> import optax
        >>> optimizer = jaxreg.prox_amsgrad(0.1, jaxreg.l1(0.5))
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
        Reddi, Kale and Kumar, On the convergence of Adam and beyond, 2018, algorithm 2,
        arXiv:1904.09237. Prox: Yun, Lozano and Yang, Adaptive
        proximal gradient methods for structured neural networks, 2021, algorithm 1, arXiv:2006.14063
    """
    corrections = {"bias_correction_mu": bias_correction_mu, "bias_correction_nu": bias_correction_nu}
    check_options(
        "prox_amsgrad", learning_rate, penalty, b1=b1, b2=b2, eps=eps, eps_root=eps_root, **corrections
    )
    # Older versions of optax always correct.
    switched_off = {name: value for name, value in corrections.items() if not value}
    optimizer = optax.amsgrad(learning_rate, b1, b2, eps, eps_root, mu_dtype, **switched_off)

    def steps_at(rate: Any, amsgrad: Any) -> PyTree:
        return jax.tree.map(lambda nu: rate / (jnp.sqrt(nu + eps_root) + eps), wide(amsgrad.nu_max))

    return proximal_optimizer(optimizer, penalty, preconditioned(learning_rate, "prox_amsgrad", steps_at))
