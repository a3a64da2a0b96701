"""Linearised Bregman iterations: sparse training that starts almost empty and grows."""

from typing import Any

import optax

from jaxreg.arguments import check_number
from jaxreg.optimizers.adaptive import check_options, momentum_gain
from jaxreg.optimizers.bregman import bregman
from jaxreg.penalties import Penalty
from jaxreg.transforms.new_parameters import require_penalty


def linbreg(
    learning_rate: Any,
    penalty: Penalty,
    momentum: Any = None,
    nesterov: bool = False,
    accumulator_dtype: Any = None,
    *,
    delta: Any = 1.0,
) -> optax.GradientTransformationExtraArgs:
    r"""SGD on a dual variable: weights enter once their gradients add up, and are not shrunk then.

    .. math::
        v_0 \in \frac{w_0}{\delta} + \partial J(w_0), \qquad
        v \leftarrow v - \eta\, g, \qquad w \leftarrow \mathrm{prox}_{\delta J}(\delta v)

    An inverse scale space: training starts from few weights (:func:`jaxreg.sparse_initialization`), the
    loss decreases while the support grows, and stopping early gives the sparser model. It does not
    minimise ``loss + J``: it goes to a minimiser of the loss alone, through sparse models. Where a convex
    loss has many, it goes from zero to the one with the least ``J(w) + |w|^2 / (2 delta)``.

    Args:
        learning_rate: eta, a non-negative number or a schedule.
        penalty: J, a convex :class:`jaxreg.Penalty`. Its strength delays: under l1 a zero weight
            enters when its steps ``-eta g`` have added up to the strength, whatever the loss then.
            Larger is sparser at the same number of steps.
        momentum, nesterov, accumulator_dtype: of the step on v, as ``optax.sgd``.
        delta: a positive number: live weights move by ``delta * eta * g``. A larger ``delta *
            strength`` gives the weak quadratic term in the limit less say.

    Returns:
        An ``optax.GradientTransformationExtraArgs``; it replaces ``optax.sgd``. Its state is v, one
        buffer of at least float32 where the penalty reaches, and ``optax.sgd``'s own. Leaves that
        the penalty does not reach are updated by ``optax.sgd``, without delta.

    Raises:
        TypeError, ValueError: for bad arguments; at ``update``, if ``params`` is None.

    Examples:
        One equation, two unknowns: the smaller column never enters, the other is not shrunk.

        >>> import jax.numpy as jnp
        >>> import jaxreg
        >>> optimizer = jaxreg.linbreg(0.1, jaxreg.l1(1.0))
        >>> params, row = jnp.zeros(2), jnp.array([1.0, 0.5])
        >>> state = optimizer.init(params)
        >>> for _ in range(200):  # loss = (row @ params - 0.5)^2 / 2
        ...     grads = row * (row @ params - 0.5)
        ...     params, state = jaxreg.step(optimizer, grads, state, params)
        >>> print(params.round(3))
        [0.5 0. ]

    Notes:
        Where the penalty reaches, multiplying strength and learning rate by c and dividing delta by c
        changes nothing: what counts is ``strength / learning_rate``, the sum of gradients at which
        a weight enters, and ``delta * learning_rate``, the step of a live one. The momentum of
        ``optax.sgd`` is a sum of gradients; the paper's algorithm 2 averages them: give it
        ``learning_rate * (1 - momentum)``. The weights follow from v: whatever else changes them (a
        projection, loaded values) is undone by the next step, so call ``init`` again. The first
        weights are kept to the rounding of ``delta * strength``. LAST in a chain.

    References:
        Bungert, Roith, Tenbrinck and Burger, A Bregman learning framework for sparse neural
        networks, 2022, algorithms 1 and 2, arXiv:2105.04319. Limit: Yin, Analysis and generalizations
        of the linearized Bregman method, 2010, https://doi.org/10.1137/090760350
    """
    require_penalty(penalty, "linbreg")
    check_options("linbreg", learning_rate, penalty, nesterov=nesterov)
    momentum_gain(momentum, nesterov, "linbreg")
    check_number(delta, "delta", "linbreg", open_low=True)
    return bregman(optax.sgd(learning_rate, momentum, nesterov, accumulator_dtype), penalty, delta)
