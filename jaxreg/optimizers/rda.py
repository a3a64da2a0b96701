"""Regularised dual averaging, with the weights and the momentum of RMDA."""

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
    sums,
    with_momentum,
)
from jaxreg.penalties import Penalty
from jaxreg.penalties.base import Leaves
from jaxreg.transforms.new_parameters import rate_at, require_penalty
from jaxreg.tree import FlatTree, PyTree, as_real, upcast


class RdaState(NamedTuple):
    """The count of updates, alpha (the sum of weights), the first parameters, the sum of gradients."""

    count: jax.typing.ArrayLike
    alpha: jax.Array
    start: PyTree
    total: PyTree


def rda(
    learning_rate: Any,
    penalty: Penalty,
    *,
    momentum: Any = 0.0,
    weight_power: Any = 0.0,
) -> optax.GradientTransformationExtraArgs:
    r"""Regularised dual averaging: a prox of the AVERAGE gradient, whose zeros noise does not undo.

    .. math::
        s_t = \eta_t t^p, \qquad \alpha_t = \sum_{r \le t} s_r, \qquad V_t = \sum_{r \le t} s_r g_r, \\
        v_t = \operatorname{argmin}_w \langle V_t, w \rangle + \alpha_t R(w)
        + \sqrt{t} \, \frac{\lVert w - w_0 \rVert^2}{2}
        = \mathrm{prox}_{\frac{\alpha_t}{\sqrt{t}} R} \Big( w_0 - \frac{V_t}{\sqrt{t}} \Big), \\
        w_t = \mu_t w_{t-1} + (1 - \mu_t) v_t

    The default is Xiao's RDA, with his gamma as ``1 / learning_rate``. ``weight_power=0.5`` with a
    momentum is RMDA, with its step size as ``learning_rate`` and its c_t as ``1 - momentum``.

    Args:
        learning_rate: eta, a non-negative number or a schedule; it weights the gradients.
        penalty: a :class:`jaxreg.Penalty`; its strength is in the unit of the loss.
        momentum: mu in [0, 1), or a schedule. With any, exact zeros come late: see the notes.
        weight_power: p, a non-negative number: 0 weights all gradients alike, 0.5 late ones more.

    Returns:
        An ``optax.GradientTransformationExtraArgs`` with two buffers of the size of the parameters:
        the sum V, and a copy of the first parameters.

    Raises:
        TypeError, ValueError: for bad arguments; at ``update``, if ``params`` is None.

    Examples:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> import jaxreg
        >>> optimizer = jaxreg.rda(1.0, jaxreg.l1(0.5))
        >>> params = jnp.zeros(2)
        >>> state = optimizer.init(params)
        >>> for key in jax.random.split(jax.random.key(0), 500):  # noisy gradients
        ...     grads = params - jnp.array([1.5, 0.1]) + 0.1 * jax.random.normal(key, (2,))
        ...     params, state = jaxreg.step(optimizer, grads, state, params)
        >>> print(params.round(1))
        [1. 0.]

    Notes:
        To pick the rate: the distance from the start is ``eta / sqrt(t)`` times the SUM of the
        gradients, so that a good rate is larger than SGD's. ``weight_power=0.5`` forgets the start
        faster: try it first.

        Under l1 a weight that started at 0 is zero wherever the average of its gradients is at most
        ``strength``. The pull to the start is worth ``sqrt(t) / (2 alpha_t)`` times the squared distance
        in the loss: it fades like ``1 / sqrt(t)``, with ``weight_power=0.5`` like ``1 / t``, and the distance
        to a minimiser of ``loss + penalty`` with it.

        The sums decide: what other links or hands change in the parameters is gone after the next
        update, but for a share of mu. A falling learning rate gives late gradients less weight; the
        authors of RMDA restart where they divide it by 10: make the optimizer anew, and ``init``
        it at the parameters reached.

        A mix of two points is zero only where both are. With momentum, a weight that is zero
        in :math:`v_t` fades in :math:`w_t` as ``momentum ** k``. The authors let c_t rise to 1 in the last
        stage: give a schedule that falls to 0. Or make the last update with the same optimizer at
        ``momentum=0.0``: it takes the same state, and returns :math:`v_t`.

    References:
        Xiao, Dual averaging methods for regularized stochastic learning and online optimization,
        2010, algorithm 1, https://www.jmlr.org/papers/v11/xiao10a.html. RMDA: Huang and Lee,
        Training structured neural networks through manifold identification and variance
        reduction, 2022, algorithm 1, arXiv:2112.02612
    """
    require_penalty(penalty, "rda")
    check_rate(learning_rate, "learning_rate", "rda")
    check_momentum(momentum, "rda")
    check_number(weight_power, "weight_power", "rda")

    def begin(params: PyTree) -> RdaState:
        return RdaState(jnp.zeros([], jnp.int32), jnp.zeros([]), copies(params), sums(params))

    def advance(flat: FlatTree, grads: Leaves, state: RdaState) -> tuple[Leaves, RdaState]:
        step = state.count + 1
        share = rate_at(learning_rate, state.count, "rda", "learning_rate") * step**weight_power
        alpha = state.alpha + share
        starts, totals = flat.align(state.start, "state"), flat.align(state.total, "state")
        anchors = {index: upcast(starts[index]) for index in grads}
        pulls = {index: totals[index] + as_real(share, grad) * grad for index, grad in grads.items()}
        curvatures = {index: as_real(step**0.5, grad) for index, grad in grads.items()}
        points = leader(penalty, flat, anchors, pulls, curvatures, alpha)
        return with_momentum(flat, points, momentum_at(momentum, state.count, "rda")), RdaState(
            optax.safe_increment(state.count),
            alpha.astype(state.alpha.dtype),
            state.start,
            replaced(flat, state.total, pulls),
        )

    return follow(penalty, begin, advance)
