"""Proximal RMSProp in loss units."""

from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import lax

from jaxreg.optimizers.adaptive import check_options, momentum_gain, preconditioned, wide
from jaxreg.optimizers.proximal_optimizer import proximal_optimizer
from jaxreg.penalties import Penalty
from jaxreg.transforms.penalty_schedule import PenaltySchedule
from jaxreg.tree import PyTree, squared_modulus, upcast


def prox_rmsprop(
    learning_rate: Any,
    penalty: Penalty | PenaltySchedule,
    decay: Any = 0.9,
    eps: Any = 1e-8,
    initial_scale: Any = 0.0,
    eps_in_sqrt: bool = True,
    centered: bool = False,
    momentum: Any = None,
    nesterov: bool = False,
    bias_correction: bool = False,
) -> optax.GradientTransformationExtraArgs:
    r"""RMSProp that minimises ``loss + penalty`` with exact zeros, momentum included.

    .. math::
        P_i = \frac{1}{\sqrt{\nu_i + \epsilon}}, \qquad
        m \leftarrow \mu m + P g, \qquad
        w \leftarrow \operatorname{argmin}_z R(z) + \sum_i \frac{(z_i - (w_i - \eta m_i))^2}{2 S_i},
        \quad S_i = \frac{\eta P_i}{1 - \mu}

    With ``centered`` P is ``1 / sqrt(nu - mean^2 + eps)``, and with ``eps_in_sqrt=False`` eps
    stands beside the root.

    Args:
        learning_rate: eta, a non-negative number or a schedule.
        penalty: a :class:`jaxreg.Penalty`, its strength in the unit of the loss; or a schedule of
            them (:func:`jaxreg.scheduled`, :func:`jaxreg.sparsity_ramp`).
        decay, eps, initial_scale, eps_in_sqrt, centered, nesterov, bias_correction: as ``optax.rmsprop``.
        momentum: mu in [0, 1), or None.

    Returns:
        An ``optax.GradientTransformationExtraArgs``; it replaces ``optax.rmsprop`` and keeps no
        buffer beyond its own.

    Raises:
        TypeError, ValueError: for bad arguments.

    Examples:
        >>> import jax.numpy as jnp
        >>> import jaxreg
        >>> import optax
        >>> optimizer = jaxreg.prox_rmsprop(0.01, jaxreg.l1(0.5), momentum=0.5)
        >>> params = jnp.zeros(2)
        >>> state = optimizer.init(params)
        >>> for _ in range(500):  # loss = sum (w - [1.5, 0.1])^2 / 2
        ...     grads = params - jnp.array([1.5, 0.1])
        ...     updates, state = optimizer.update(grads, state, params)
        ...     params = optax.apply_updates(params, updates)
        >>> print(params.round(3))
        [1. 0.]

    Notes:
        The trace comes before the learning rate, as in :func:`jaxreg.prox_sgd`. optax has it after:
        under a constant rate both are the same, under a decaying one optax's trace carries
        old rates, and no step size would be right. Centred, the denominator is a variance,
        which vanishes where gradients do not vary (full batches): raise ``eps`` there, and keep it
        in the root, as optax's own update is NaN where rounding takes a variance below 0. Centred and
        with momentum, a step costs some 1.2x optax's on the CPU, where XLA reads both
        moments once more; all other forms cost what optax's do. See :func:`jaxreg.prox_adam` on
        clipping.

    References:
        Tieleman and Hinton, Lecture 6.5, RMSProp, 2012. Centred: Graves, Generating sequences with
        recurrent neural networks, 2013, equations 38 to 41, arXiv:1308.0850. Prox: Yun, Lozano and
        Yang, Adaptive proximal gradient methods for structured neural networks, 2021, algorithm 1,
        arXiv:2006.14063
    """
    check_options(
        "prox_rmsprop",
        learning_rate,
        penalty,
        decay=decay,
        eps=eps,
        initial_scale=initial_scale,
        eps_in_sqrt=eps_in_sqrt,
        centered=centered,
        nesterov=nesterov,
        bias_correction=bias_correction,
    )
    scale = optax.scale_by_stddev if centered else optax.scale_by_rms
    links = [scale(decay, eps, initial_scale, eps_in_sqrt, bias_correction)]
    gain = momentum_gain(momentum, nesterov, "prox_rmsprop")
    if momentum is not None:
        links.append(optax.trace(momentum, nesterov))

    def steps_at(rate: Any, rms: Any) -> PyTree:
        moments = (wide(rms.nu), jax.tree.map(upcast, rms.mu)) if centered else (wide(rms.nu),)
        if bias_correction:
            moments = optax.tree.bias_correction(moments, decay, rms.count)
        return jax.tree.map(lambda *its: rate * gain * factor(*its), *moments)

    def factor(nu: Any, mean: Any = None) -> Any:
        # Rounding may leave a variance a little below 0.
        variance = nu if mean is None else jnp.maximum(nu - squared_modulus(mean), 0)
        return lax.rsqrt(variance + eps) if eps_in_sqrt else 1 / (jnp.sqrt(variance) + eps)

    optimizer = optax.chain(*links, optax.scale_by_learning_rate(learning_rate))
    return proximal_optimizer(optimizer, penalty, preconditioned(learning_rate, "prox_rmsprop", steps_at))
