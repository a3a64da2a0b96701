"""Regularised adaptive momentum dual averaging."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxreg.arguments import check_number, check_rate
from jaxreg.optimizers.leader import (
    check_momentum,
    copies,
    follow,
    leader,
    momentum_at,
    replaced,
    root,
    sums,
    sums_of_squares,
    with_momentum,
)
from jaxreg.penalties import Penalty
from jaxreg.penalties.base import Leaves
from jaxreg.transforms.new_parameters import rate_at, require_penalty
from jaxreg.tree import FlatTree, PyTree, as_real, squared_modulus, upcast


class RamdaState(NamedTuple):
    """The count, alpha (the sum of weights), the first parameters, the sums of gradients and squares."""

    count: jax.typing.ArrayLike
    alpha: jax.Array
    start: PyTree
    total: PyTree
    squares: PyTree


def ramda(
    learning_rate: Any,
    penalty: Penalty,
    *,
    momentum: Any = 0.9,
    eps: Any = 1e-6,
) -> optax.GradientTransformationExtraArgs:
    r"""RAMDA: dual averaging with MADGRAD's preconditioner and momentum, for structured networks.

    .. math::
        s_t = \eta_t \sqrt{t}, \qquad \alpha_t = \sum_{r \le t} s_r, \qquad
        V_t = \sum_{r \le t} s_r g_r, \qquad
        P_t = \Big( \sum_{r \le t} s_r g_r^2 \Big)^{1/3} + \epsilon, \\
        v_t = \operatorname{argmin}_w \langle V_t, w \rangle + \alpha_t R(w)
        + \sum_i P_{t,i} \frac{(w_i - w_{0,i})^2}{2}, \qquad w_t = \mu_t w_{t-1} + (1 - \mu_t) v_t

    :math:`v_t` is the prox with the step size :math:`\alpha_t / P_t` of each element. The authors
    find it by an inner iteration; here it is exact, for groups too.

    Args:
        learning_rate: eta, a non-negative number or a schedule; it weights the gradients.
        penalty: a :class:`jaxreg.Penalty`; its strength is in the unit of the loss.
        momentum: mu in [0, 1), or a schedule; the authors' c_t is ``1 - momentum``.
        eps: a non-negative number; an element without gradients has the step size ``alpha_t / eps``.

    Returns:
        An ``optax.GradientTransformationExtraArgs`` with three buffers of the size of the
        parameters: the two sums, and a copy of the first parameters.

    Raises:
        TypeError, ValueError: for bad arguments; at ``update``, if ``params`` is None.

    Examples:
        >>> import jax.numpy as jnp
        >>> import jaxreg
        >>> penalty = jaxreg.l1(0.5)
        >>> optimizer = jaxreg.ramda(0.1, penalty)
        >>> params = jnp.array([0.3, 0.3])
        >>> state = optimizer.init(params)
        >>> for _ in range(200):  # loss = sum (w - [1.5, 0.1])^2 / 2
        ...     params, state = jaxreg.step(optimizer, params - jnp.array([1.5, 0.1]), state, params)
        >>> print(bool(params[1] == 0))
        False
        >>> last = jaxreg.ramda(0.1, penalty, momentum=0.0)
        >>> params, state = jaxreg.step(last, params - jnp.array([1.5, 0.1]), state, params)
        >>> print(params.round(2))
        [1. 0.]

    Notes:
        With momentum the exact zeros are in :math:`v_t` and come late in :math:`w_t`: make the last
        update at momentum 0, as in the example, or give a schedule that falls to 0. A
        learning rate that is stable with momentum may be too large without. On this and on restarts,
        where the authors divide ``eps`` by 10 too, see :func:`jaxreg.rda`.

    References:
        Huang and Lee, Regularized adaptive momentum dual averaging with an efficient inexact
        subproblem solver for training structured neural network, 2024, algorithm 1,
        arXiv:2403.14398. Preconditioner: Defazio and Jelassi, Adaptivity without compromise, 2022,
        algorithm 1, arXiv:2101.11075
    """
    require_penalty(penalty, "ramda")
    check_rate(learning_rate, "learning_rate", "ramda")
    check_momentum(momentum, "ramda")
    check_number(eps, "eps", "ramda")

    def begin(params: PyTree) -> RamdaState:
        count, alpha = jnp.zeros([], jnp.int32), jnp.zeros([])
        return RamdaState(count, alpha, copies(params), sums(params), sums_of_squares(params))

    def advance(flat: FlatTree, grads: Leaves, state: RamdaState) -> tuple[Leaves, RamdaState]:
        share = rate_at(learning_rate, state.count, "ramda", "learning_rate") * (state.count + 1) ** 0.5
        alpha = state.alpha + share
        starts, totals = flat.align(state.start, "state"), flat.align(state.total, "state")
        old = flat.align(state.squares, "state")
        anchors, pulls, squares = {}, {}, {}
        for index, grad in grads.items():
            own_share = as_real(share, grad)
            anchors[index] = upcast(starts[index])
            pulls[index] = totals[index] + own_share * grad
            squares[index] = old[index] + own_share * squared_modulus(grad)
        curvatures = {index: root(total, 1 / 3) + eps for index, total in squares.items()}
        points = leader(penalty, flat, anchors, pulls, curvatures, alpha)
        return with_momentum(flat, points, momentum_at(momentum, state.count, "ramda")), RamdaState(
            optax.safe_increment(state.count),
            alpha.astype(state.alpha.dtype),
            state.start,
            replaced(flat, state.total, pulls),
            replaced(flat, state.squares, squares),
        )

    return follow(penalty, begin, advance)
