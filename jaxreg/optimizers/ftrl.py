"""Follow the proximally regularised leader."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.core import Tracer

from jaxreg.arguments import check_flag, check_number, check_rate
from jaxreg.optimizers.leader import follow, leader, replaced, root, sums, sums_of_squares
from jaxreg.penalties import Penalty
from jaxreg.penalties.base import Leaves
from jaxreg.transforms.new_parameters import rate_at, require_penalty
from jaxreg.tree import FlatTree, PyTree, as_real, squared_modulus, upcast


class FtrlState(NamedTuple):
    """The count of updates, the last learning rate that was not 0, and the two sums of the paper.

    ``z`` is that learning rate times the paper's z; ``n`` is the sum of squared gradients.
    """

    count: jax.typing.ArrayLike
    rate: jax.Array
    z: PyTree
    n: PyTree


def ftrl(
    learning_rate: Any,
    penalty: Penalty,
    *,
    beta: Any = 1.0,
    lr_power: Any = -0.5,
    initial_accumulator_value: Any = 0.0,
    cumulative: bool = False,
) -> optax.GradientTransformationExtraArgs:
    r"""FTRL-Proximal: AdaGrad's step sizes, and zeros that noisy gradients do not undo.

    .. math::
        n_t = n_{t-1} + g_t^2, \qquad
        \sigma_t \ \text{such that} \ \sum_{s \le t} \sigma_s = \frac{\beta + n_t^{-p}}{\eta_t}, \\
        w_{t+1} = \operatorname{argmin}_w \Big\langle \sum_{s \le t} g_s, w \Big\rangle
        + \sum_{s \le t} \sum_i \sigma_{s,i} \frac{(w_i - w_{s,i})^2}{2} + c_t R(w)

    with :math:`c_t = 1`, or t if ``cumulative``. It is the prox of :math:`c_t R` with the step size
    :math:`\eta_t / (\beta + n_t^{-p})` of each element. Without a penalty it is AdaGrad.

    Args:
        learning_rate: eta (alpha in the paper), a non-negative number or a schedule. At a rate of
            0 the parameters stay.
        penalty: a :class:`jaxreg.Penalty`; for its unit see the notes. The paper's lambda_1 and
            lambda_2 are ``jaxreg.l1(lambda_1) + jaxreg.l2(lambda_2 / 2)``.
        beta: a non-negative number.
        lr_power: p, a number of at most 0; -0.5 is AdaGrad, 0 a step size that does not adapt.
        initial_accumulator_value: n at the start, a non-negative number.
        cumulative: count the penalty once per step, not once for all steps together.

    Returns:
        An ``optax.GradientTransformationExtraArgs`` with two buffers of the size of the parameters.

    Raises:
        TypeError, ValueError: for bad arguments; at ``update``, if ``params`` is None.

    Examples:
        >>> import jax.numpy as jnp
        >>> import jaxreg
        >>> def train(optimizer, steps=200):
        ...     params = jnp.zeros(3)
        ...     state = optimizer.init(params)
        ...     for _ in range(steps):  # loss = sum (w - [1.5, 1.0, 0.1])^2 / 2
        ...         grads = params - jnp.array([1.5, 1.0, 0.1])
        ...         params, state = jaxreg.step(optimizer, grads, state, params)
        ...     return params
        >>> print(train(jaxreg.ftrl(1.0, jaxreg.l1(0.5), cumulative=True)).round(2))
        [1.  0.5 0. ]
        >>> print(train(jaxreg.ftrl(1.0, jaxreg.l1(200 * 0.5))).round(2))
        [1.5 1.  0. ]

    Notes:
        **The unit of strength.** With ``cumulative=True``, the form of 2011, it is that of the loss:
        a run stops at a minimiser of ``loss + penalty`` (the first example). It gets there fast under
        l1; the curvature of other penalties counts ever more, so that there the end is slow.

        As published in 2013, and in TensorFlow and Keras, the penalty is counted once and compared
        with the SUM of the gradients. Under l1 a weight stays zero until the modulus of that sum
        exceeds ``strength``; from then on it goes to where its gradients vanish. So a strength that
        does not grow with the number of steps has no effect in the end. ``T * strength``
        for a run of T steps keeps about the weights that ``strength`` keeps in loss units, but
        does not shrink them (the second example).

        The paper starts at zeros. From other parameters the first proximal term is centred at
        them: without gradients and a penalty nothing moves. TensorFlow centres it at 0, which
        forgets the start. An element without gradients so far, while ``beta`` and n are 0, is left
        to the penalty alone: l1 makes it 0; where no penalty reaches it stays.

        TensorFlow's ``l1_regularization_strength`` and ``l2_regularization_strength`` are those
        of :func:`jaxreg.l1` and :func:`jaxreg.l2`, its ``learning_rate_power`` is ``lr_power``; its
        defaults are ``beta=0`` and an accumulator of 0.1. Under a schedule it divides past terms
        by the rates of their time, so that weights shrink as the rate falls; here they do not.

    References:
        McMahan et al., Ad click prediction: a view from the trenches, 2013, algorithm 1,
        https://doi.org/10.1145/2487575.2488200. The cumulative form: McMahan,
        Follow-the-regularized-leader and mirror descent: equivalence theorems and L1
        regularization, 2011, https://proceedings.mlr.press/v15/mcmahan11b.html
    """
    require_penalty(penalty, "ftrl")
    check_rate(learning_rate, "learning_rate", "ftrl")
    check_number(beta, "beta", "ftrl")
    _check_power(lr_power)
    check_number(initial_accumulator_value, "initial_accumulator_value", "ftrl")
    check_flag(cumulative, "cumulative", "ftrl")

    def begin(params: PyTree) -> FtrlState:
        squares = sums_of_squares(params, initial_accumulator_value)
        return FtrlState(jnp.zeros([], jnp.int32), jnp.zeros([]), sums(params), squares)

    def advance(flat: FlatTree, grads: Leaves, state: FtrlState) -> tuple[Leaves, FtrlState]:
        rate = rate_at(learning_rate, state.count, "ftrl", "learning_rate")
        moving, moved = jnp.asarray(rate > 0), state.rate > 0
        last_rate = jnp.where(moving, rate, state.rate)
        # What came before this step, in units of the new rate. Before the first step there is
        # nothing, and z gets its first centre, the parameters.
        ratio = jnp.where(moved, last_rate / jnp.where(moved, state.rate, 1.0), 0.0)
        zs, ns = flat.align(state.z, "state"), flat.align(state.n, "state")
        weights, pulls, curvatures, squares = {}, {}, {}, {}
        for index, grad in grads.items():
            w = weights[index] = upcast(flat.leaves[index])
            squares[index] = ns[index] + squared_modulus(grad)
            before = beta + root(ns[index], -lr_power)
            curvatures[index] = beta + root(squares[index], -lr_power)
            # The gradient at w of all but R: z is kept with the proximal terms written around 0.
            pulls[index] = as_real(ratio, w) * (zs[index] + before * w) + as_real(rate, w) * grad
        weight = rate * (state.count + 1) if cumulative else rate
        points = leader(penalty, flat, weights, pulls, curvatures, weight)
        return {i: jnp.where(moving, point, weights[i]) for i, point in points.items()}, FtrlState(
            optax.safe_increment(state.count),
            last_rate.astype(state.rate.dtype),
            replaced(flat, state.z, {i: pull - curvatures[i] * weights[i] for i, pull in pulls.items()}),
            replaced(flat, state.n, squares),
        )

    return follow(penalty, begin, advance)


def _check_power(lr_power: Any) -> None:
    if isinstance(lr_power, Tracer):
        return
    words = f"The 'lr_power' parameter of ftrl must be a number of at most 0. Got {lr_power!r}"
    power = np.asarray(lr_power)
    if power.shape or not (np.issubdtype(power.dtype, np.floating) or np.issubdtype(power.dtype, np.integer)):
        raise TypeError(f"{words} of type {type(lr_power).__name__}.")
    if not -np.inf < power <= 0:
        raise ValueError(f"{words}.")
