"""Lion with a prox, in decoupled units."""

from typing import Any

import optax

from jaxreg.optimizers.adaptive import check_options
from jaxreg.optimizers.proximal_optimizer import proximal_optimizer
from jaxreg.penalties import Penalty
from jaxreg.transforms.penalty_schedule import PenaltySchedule


def prox_lion(
    learning_rate: Any,
    penalty: Penalty | PenaltySchedule,
    b1: Any = 0.9,
    b2: Any = 0.99,
    mu_dtype: Any = None,
    weight_decay: Any = 1e-3,
    mask: Any = None,
) -> optax.GradientTransformationExtraArgs:
    r"""Lion with exact zeros. The strength is in DECOUPLED units, not in the unit of the loss.

    .. math::
        u = -\eta \bigl(\operatorname{sign}(\beta_1 m + (1 - \beta_1) g) + \lambda_w w\bigr), \qquad
        w \leftarrow \mathrm{prox}_{\eta R}(w + u)

    Every step is eta long whatever the size of the gradient, so that no step size
    makes the minimisers of ``loss + penalty`` its fixed points. The penalty is instead
    a pull beside the sign, as Lion's weight decay is: an l1 strength of 0.1 takes a tenth of
    a step back towards 0, at every step.

    Args:
        learning_rate: eta, a non-negative number or a schedule.
        penalty: a :class:`jaxreg.Penalty`; its strength is per step, relative to the sign's 1:
            l1 at a strength above 1 takes every weight to 0 and keeps it there.
        b1, b2, mu_dtype: as ``optax.lion``.
        weight_decay, mask: as ``optax.lion``; the mask is the decay's.

    Returns:
        An ``optax.GradientTransformationExtraArgs``; it replaces ``optax.lion`` and keeps no
        buffer beyond its own.

    Raises:
        TypeError, ValueError: for bad arguments.

    Examples:
        >>> import jax.numpy as jnp
        >>> import jaxreg
        >>> import optax
        >>> optimizer = jaxreg.prox_lion(0.01, jaxreg.l1(0.25), weight_decay=0.0)
        >>> params = jnp.array([1.0, 0.02])
        >>> state = optimizer.init(params)
        >>> for _ in range(4):
        ...     updates, state = optimizer.update(jnp.array([-1.0, 0.0]), state, params)
        ...     params = optax.apply_updates(params, updates)
        >>> print(params.round(4))  # 4 steps of 0.01 - 0.0025, and of -0.0025
        [1.03 0.01]

    Notes:
        For a strength in the unit of the loss use :func:`jaxreg.prox_adam`.

    References:
        Chen et al., Symbolic discovery of optimization algorithms, 2023, program 1, arXiv:2302.06675
    """
    check_options("prox_lion", learning_rate, penalty, b1=b1, b2=b2, weight_decay=weight_decay)
    optimizer = optax.lion(learning_rate, b1, b2, mu_dtype, weight_decay, mask)
    return proximal_optimizer(optimizer, penalty, learning_rate)
