"""Proximal SGD in loss units, with momentum."""

from typing import Any

import optax

from jaxreg.optimizers.adaptive import check_options, current_rate, momentum_gain
from jaxreg.optimizers.proximal_optimizer import proximal_optimizer
from jaxreg.penalties import Penalty
from jaxreg.transforms.penalty_schedule import PenaltySchedule


def prox_sgd(
    learning_rate: Any,
    penalty: Penalty | PenaltySchedule,
    momentum: Any = None,
    nesterov: bool = False,
    accumulator_dtype: Any = None,
    *,
    damped: bool = False,
) -> optax.GradientTransformationExtraArgs:
    r"""SGD that minimises ``loss + penalty`` with exact zeros, momentum included.

    .. math::
        m \leftarrow \mu m + g, \qquad
        w \leftarrow \mathrm{prox}_{\frac{\eta}{1 - \mu} R}(w - \eta m)

    The trace sums gradients, so that a constant gradient g moves a weight by
    :math:`\eta g / (1 - \mu)`, with Nesterov's look-ahead too: that is the prox's step size. With the step
    :math:`\eta` the run stops at a minimiser of another problem.

    Args:
        learning_rate: eta, a non-negative number or a schedule.
        penalty: a :class:`jaxreg.Penalty`, its strength in the unit of the loss; or a schedule of
            them (:func:`jaxreg.scheduled`, :func:`jaxreg.sparsity_ramp`).
        momentum: mu in [0, 1), or None for plain proximal gradient descent.
        nesterov: look ahead, as ``optax.sgd``.
        accumulator_dtype: dtype of the trace, as ``optax.sgd``.
        damped: average gradients instead of summing them, ``m <- mu m + (1 - mu) g`` (dampening of
            mu in PyTorch), so that eta keeps its size whatever the momentum; the prox's step is then eta.

    Returns:
        An ``optax.GradientTransformationExtraArgs``; it replaces ``optax.sgd``.

    Raises:
        TypeError, ValueError: for bad arguments.

    Examples:
        >>> import jax.numpy as jnp
        >>> import jaxreg
        >>> import optax
        >>> optimizer = jaxreg.prox_sgd(0.1, jaxreg.l1(0.5), momentum=0.9)
        >>> params = jnp.zeros(2)
        >>> state = optimizer.init(params)
        >>> for _ in range(300):  # loss = sum (w - [1.5, 0.1])^2 / 2
        ...     grads = params - jnp.array([1.5, 0.1])
        ...     updates, state = optimizer.update(grads, state, params)
        ...     params = optax.apply_updates(params, updates)
        >>> print(params.round(4))
        [1. 0.]

    Notes:
        A link before it that rescales gradients, such as clipping, rescales the unit of the
        strength with them.

    References:
        Sutskever et al., On the importance of initialization and momentum in deep learning, 2013,
        https://proceedings.mlr.press/v28/sutskever13.html. Prox: Parikh and Boyd, Proximal
        algorithms, 2014, section 4.2, https://doi.org/10.1561/2400000003
    """
    check_options("prox_sgd", learning_rate, penalty, nesterov=nesterov, damped=damped)
    gain = momentum_gain(momentum, nesterov, "prox_sgd")
    if damped and momentum is None:
        raise ValueError("The 'damped' parameter of prox_sgd needs a momentum to damp. Got momentum=None.")
    # A trace is linear: damping its input is scaling its output.
    rate = _scaled(learning_rate, 1 / gain) if damped else learning_rate

    def step_size(state: Any) -> Any:
        return current_rate(rate, state, "prox_sgd") * gain

    return proximal_optimizer(optax.sgd(rate, momentum, nesterov, accumulator_dtype), penalty, step_size)


def _scaled(rate: Any, factor: Any) -> Any:
    return (lambda count: rate(count) * factor) if callable(rate) else rate * factor
