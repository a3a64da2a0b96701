"""Linearised Bregman iterations with Adam's steps."""

from typing import Any

import optax

from jaxreg.arguments import check_number
from jaxreg.optimizers.adaptive import check_options
from jaxreg.optimizers.bregman import bregman
from jaxreg.penalties import Penalty
from jaxreg.transforms.new_parameters import require_penalty


def adabreg(
    learning_rate: Any,
    penalty: Penalty,
    b1: Any = 0.9,
    b2: Any = 0.999,
    eps: Any = 1e-8,
    eps_root: Any = 0.0,
    mu_dtype: Any = None,
    *,
    nesterov: bool = False,
    delta: Any = 1.0,
) -> optax.GradientTransformationExtraArgs:
    r"""Adam on a dual variable: weights enter once Adam's steps add up, and are not shrunk then.

    .. math::
        v_0 \in \frac{w_0}{\delta} + \partial J(w_0), \qquad
        v \leftarrow v - \eta \frac{\hat m}{\sqrt{\hat\nu + \epsilon_\text{root}} + \epsilon}, \qquad
        w \leftarrow \mathrm{prox}_{\delta J}(\delta v)

    :func:`jaxreg.linbreg` with Adam in place of SGD; read there what the method does. Not a minimiser of
    ``loss + J``: :func:`jaxreg.prox_adam` is.

    Args:
        learning_rate: eta, a non-negative number or a schedule.
        penalty: J, a convex :class:`jaxreg.Penalty`. Its strength delays: Adam moves v by about eta
            per step, so under l1 a zero weight whose gradient keeps its sign enters after about
            ``strength / eta`` steps, whatever the size of the gradient.
        b1, b2, eps, eps_root, mu_dtype, nesterov: as ``optax.adam``.
        delta: a positive number: live weights move by delta times Adam's step.

    Returns:
        An ``optax.GradientTransformationExtraArgs``; it replaces ``optax.adam``. Its state is v, one
        buffer of at least float32 where the penalty reaches, and ``optax.adam``'s own. Leaves that
        the penalty does not reach are updated by ``optax.adam``, without delta.

    Raises:
        TypeError, ValueError: for bad arguments; at ``update``, if ``params`` is None.

    Examples:
        >>> import jax.numpy as jnp
        >>> import jaxreg
        >>> optimizer = jaxreg.adabreg(0.1, jaxreg.l1(1.0))
        >>> params = jnp.zeros(2)
        >>> state = optimizer.init(params)
        >>> for step in range(1, 31):  # one gradient keeps its sign, the other alternates
        ...     grads = jnp.array([-1.0, (-1.0) ** step])
        ...     params, state = jaxreg.step(optimizer, grads, state, params)
        >>> print(params.round(2))
        [2. 0.]

    Notes:
        The weights follow from v: whatever else changes them (a projection, loaded values) is undone
        by the next step, so call ``init`` again. LAST in a chain.

    References:
        Bungert, Roith, Tenbrinck and Burger, A Bregman learning framework for sparse neural
        networks, 2022, algorithm 3, arXiv:2105.04319
    """
    require_penalty(penalty, "adabreg")
    check_options(
        "adabreg", learning_rate, penalty, b1=b1, b2=b2, eps=eps, eps_root=eps_root, nesterov=nesterov
    )
    check_number(delta, "delta", "adabreg", open_low=True)
    optimizer = optax.adam(learning_rate, b1, b2, eps, eps_root, mu_dtype, nesterov=nesterov)
    return bregman(optimizer, penalty, delta)
