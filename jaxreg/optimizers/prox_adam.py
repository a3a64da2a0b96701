"""Proximal Adam in loss units."""

from typing import Any

import optax

from jaxreg.optimizers.adaptive import adam_steps, check_options, preconditioned
from jaxreg.optimizers.proximal_optimizer import proximal_optimizer
from jaxreg.penalties import Penalty
from jaxreg.transforms.penalty_schedule import PenaltySchedule


def prox_adam(
    learning_rate: Any,
    penalty: Penalty | PenaltySchedule,
    b1: Any = 0.9,
    b2: Any = 0.999,
    eps: Any = 1e-8,
    eps_root: Any = 0.0,
    mu_dtype: Any = None,
    *,
    nesterov: bool = False,
) -> optax.GradientTransformationExtraArgs:
    r"""Adam that minimises ``loss + penalty`` with exact zeros: the prox in Adam's own metric.

    .. math::
        S_i = \frac{\eta}{\sqrt{\hat\nu_i + \epsilon_\text{root}} + \epsilon}, \qquad
        w \leftarrow \operatorname{argmin}_z R(z) + \sum_i \frac{(z_i - (w_i - S_i \hat m_i))^2}{2 S_i}

    Adam's step differs by element, so must the threshold: with :math:`\eta` for all of them
    the run stops at a minimiser of another problem.

    Args:
        learning_rate: eta, a non-negative number or a schedule.
        penalty: a :class:`jaxreg.Penalty`, its strength in the unit of the loss; or a schedule of
            them (:func:`jaxreg.scheduled`, :func:`jaxreg.sparsity_ramp`).
        b1, b2, eps, eps_root, mu_dtype, nesterov: as ``optax.adam``.

    Returns:
        An ``optax.GradientTransformationExtraArgs``; it replaces ``optax.adam`` and keeps no
        buffer beyond Adam's own.

    Raises:
        TypeError, ValueError: for bad arguments.

    Examples:
        >>> import jax.numpy as jnp
        >>> import jaxreg
        >>> import optax
        >>> optimizer = jaxreg.prox_adam(0.05, jaxreg.l1(0.5))
        >>> params = jnp.zeros(2)
        >>> state = optimizer.init(params)
        >>> for _ in range(500):  # loss = sum (w - [1.5, 0.1])^2 / 2
        ...     grads = params - jnp.array([1.5, 0.1])
        ...     updates, state = optimizer.update(grads, state, params)
        ...     params = optax.apply_updates(params, updates)
        >>> print(params.round(3))
        [1. 0.]

    Notes:
        A link before it that rescales gradients, such as clipping, rescales the unit of the
        strength with them. Where a weight has had no gradient yet nu is 0 and the step size ``eta /
        eps``: it goes to zero at once. That is right for a dead input, and wrong for rows of an embedding
        that the first batches do not contain, and below a head that starts at zero: there start the
        strength at 0 (``optax.inject_hyperparams``), mask such leaves out, or raise ``eps``. To
        differentiate through training, give a positive ``eps_root``, as for ``optax.adam``: the
        root has no slope at nu = 0.

    References:
        Kingma and Ba, Adam, 2015, algorithm 1, arXiv:1412.6980. Prox: Yun, Lozano and Yang, Adaptive
        proximal gradient methods for structured neural networks, 2021, algorithm 1, arXiv:2006.14063
    """
    check_options(
        "prox_adam", learning_rate, penalty, b1=b1, b2=b2, eps=eps, eps_root=eps_root, nesterov=nesterov
    )
    optimizer = optax.adam(learning_rate, b1, b2, eps, eps_root, mu_dtype, nesterov=nesterov)
    steps = preconditioned(learning_rate, "prox_adam", adam_steps(b2, eps, eps_root))
    return proximal_optimizer(optimizer, penalty, steps)
