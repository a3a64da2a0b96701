"""Proximal SGD in loss units, with momentum."""

from typing import Any

import optax

from jaxreg.arguments import check_flag, check_number, check_rate
from jaxreg.optimizers.proximal_optimizer import proximal_optimizer
from jaxreg.penalties import Penalty
from jaxreg.transforms.new_parameters import rate_at, require_penalty


def prox_sgd(
    learning_rate: Any,
    penalty: Penalty,
    momentum: Any = None,
    nesterov: bool = False,
    accumulator_dtype: Any = None,
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
        penalty: a :class:`jaxreg.Penalty`; its strength is in the unit of the loss.
        momentum: mu in [0, 1), or None for plain proximal gradient descent.
        nesterov: look ahead, as ``optax.sgd``.
        accumulator_dtype: dtype of the trace, as ``optax.sgd``.

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
    require_penalty(penalty, "prox_sgd")
    check_rate(learning_rate, "learning_rate", "prox_sgd")
    check_flag(nesterov, "nesterov", "prox_sgd")
    gain: Any = 1.0
    if momentum is not None:
        check_number(momentum, "momentum", "prox_sgd", high=1.0, open_high=True)
        gain = 1 / (1 - momentum)

    def step_size(count: Any) -> Any:
        return rate_at(learning_rate, count, "prox_sgd", "learning_rate") * gain

    optimizer = optax.sgd(learning_rate, momentum, nesterov, accumulator_dtype)
    return proximal_optimizer(optimizer, penalty, step_size if callable(learning_rate) else step_size(0))
