"""Ask for a share of exact zeros at the end of any optax chain."""

from typing import Any

import optax

from jaxreg.arguments import check_rate
from jaxreg.penalties import Penalty
from jaxreg.transforms.proximal import proximal
from jaxreg.transforms.sparsity_ramp import checked_ramp


def target_sparsity(
    penalty: Penalty,
    learning_rate: Any,
    target: Any,
    *,
    begin_step: Any,
    end_step: Any,
    every: Any = 1,
    method: str = "strength",
    max_zero_share: Any = None,
) -> optax.GradientTransformationExtraArgs:
    r"""Bring the share of exact zeros to a target along a cubic ramp, and keep it. LAST in a chain.

    .. math::
        w \leftarrow \mathrm{prox}_{\eta_k \lambda_k R}(w + u), \qquad
        \lambda_k: \text{the smallest at which a share } s_k \text{ is zero, or what updates withstand}

    with :math:`s_k` rising from 0 after ``begin_step`` updates to the target after ``end_step``:
    :func:`jaxreg.proximal` of a :func:`jaxreg.sparsity_ramp`; read there on the ramp and the two methods.

    Args:
        penalty: what becomes zero: its kind, groups and mask; see :func:`jaxreg.sparsity_ramp`.
        learning_rate: eta, a non-negative number or the schedule that scales the updates. It only sets the
            unit of the strength that the state reports; where it is 0 nothing moves.
        target: the share of elements (for a penalty on groups, of groups) of the masked leaves that is to
            be zero, a number in [0, 1), which may be traced.
        begin_step: how many updates to leave alone, a non-negative whole number.
        end_step: after how many updates the target is reached, larger than ``begin_step``.
        every: raise the share at every so many updates only.
        method: ``"strength"``: shrink by a strength that is found anew in each step; ``"projection"``: set
            the smallest to zero and shrink nothing. Static.
        max_zero_share: the largest share of a single leaf's units to be zero at the end, from ``target`` to
            1; default: half-way between the two.

    Returns:
        An ``optax.GradientTransformationExtraArgs``; its state is a count of updates and the last strength.

    Raises:
        TypeError, ValueError: for bad arguments; at ``init``, for a mask that selects nothing; at ``update``,
            if ``params`` is None.

    Examples:
        >>> import jax.numpy as jnp
        >>> import jaxreg
        >>> import optax
        >>> ramp = jaxreg.target_sparsity(jaxreg.l1(1.0), 0.1, 0.5, begin_step=2, end_step=6)
        >>> optimizer = optax.chain(optax.sgd(0.1), ramp)
        >>> params = jnp.array([1.0, 0.1, 0.2, 0.8])
        >>> state = optimizer.init(params)
        >>> for _ in range(6):
        ...     updates, state = optimizer.update(params - 0.5, state, params)
        ...     params = optax.apply_updates(params, updates)
        >>> float(jaxreg.sparsity(params))
        0.5

    Notes:
        Behind a ``prox_*`` optimizer it works too: a small preconditioned penalty sorts out what is not
        needed, and the ramp with ``method="projection"`` sees to the number. For a ramp in the step sizes of
        the optimizer itself give ``prox_adam`` and its siblings a :func:`jaxreg.sparsity_ramp` in place of a
        penalty. Momentum still moves what has been set to zero inside the optimizer; that is held here.
        Biases are best left out: ``mask=jaxreg.masks.weights``. For ``optax.inject_hyperparams`` pass
        ``static_args=("penalty",)``, to which ``method`` may be added.

    References:
        Zhu and Gupta, To prune, or not to prune: exploring the efficacy of pruning for model compression,
        2017, arXiv:1710.01878
    """
    ramp = checked_ramp(
        penalty, target, begin_step, end_step, every, method, max_zero_share, "target_sparsity"
    )
    check_rate(learning_rate, "learning_rate", "target_sparsity")
    return proximal(ramp, learning_rate)
