"""Half-space stochastic projected gradient: exact zero groups under noisy gradients."""

from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp
import optax

from jaxreg.arguments import check_number, check_whole_number
from jaxreg.optimizers.adaptive import check_options, momentum_gain
from jaxreg.optimizers.proximal_optimizer import ProximalOptimizerState
from jaxreg.penalties import Penalty
from jaxreg.penalties.base import Leaves, Term, spread_steps
from jaxreg.penalties.group_lasso import GroupLasso
from jaxreg.penalties.shrinkage import group_norm
from jaxreg.transforms.new_parameters import (
    DirectTransformation,
    check_fit,
    parameters_at,
    rate_at,
    require_params,
    require_penalty,
    updates_to,
)
from jaxreg.tree import FlatTree, PyTree, flatten, is_inexact, upcast


def hspg(
    learning_rate: Any,
    penalty: Penalty,
    momentum: Any = None,
    nesterov: bool = False,
    accumulator_dtype: Any = None,
    *,
    begin_step: Any,
    epsilon: Any = 0.0,
) -> optax.GradientTransformationExtraArgs:
    r"""SGD on ``loss + group_lasso`` that ends with more zero groups than the prox finds in noise.

    .. math::
        &k < k_0: && w \leftarrow \mathrm{prox}_{\eta R}(w - \eta g) \\
        &k \ge k_0: && z_g = w_g - \eta \Bigl(g_g + \lambda_g \frac{w_g}{\lVert w_g \rVert}\Bigr), \qquad
        w_g \leftarrow \begin{cases}
            0 & \text{if } w_g = 0 \text{ or } \langle z_g, w_g \rangle < \epsilon \lVert w_g \rVert^2 \\
            z_g & \text{otherwise} \end{cases}

    The prox zeroes a group inside a ball of radius ``eta * strength``, which noisy gradients leave
    again. The second phase zeroes a group when its step crosses into the half-space behind it, and
    zero groups stay zero.

    Args:
        learning_rate: eta, a non-negative number or a schedule.
        penalty: R, a :func:`jaxreg.group_lasso`; ``lambda_g`` is its strength, in the unit of the
            loss, times the group's weight. Its groups and mask say what is projected.
        momentum, nesterov, accumulator_dtype: of the loss's gradient, as ``optax.sgd``. With momentum
            mu the penalty's part of the step is ``eta / (1 - mu)``, as in :func:`jaxreg.prox_sgd`.
        begin_step: ``k_0``, the number of updates before the first half-space step. No group comes
            back after it: let the loss settle first.
        epsilon: in [0, 1). A group is zeroed when a step takes away more than the share ``1 -
            epsilon`` of it: larger is sparser.

    Returns:
        An ``optax.GradientTransformationExtraArgs`` whose state is a count and ``optax.sgd``'s.
        Leaves that the penalty does not reach are updated by ``optax.sgd``.

    Raises:
        TypeError, ValueError: for bad arguments; at ``update``, if ``params`` is None.

    Examples:
        >>> import jax.numpy as jnp
        >>> import jaxreg
        >>> penalty = jaxreg.group_lasso(0.1, jaxreg.groups.inputs(), size_weights=False)
        >>> optimizer = jaxreg.hspg(0.5, penalty, begin_step=0)
        >>> params = jnp.array([[1.0, 0.0], [0.25, 0.25], [0.0, 0.0]])
        >>> grads = jnp.array([[0.9, 0.0], [0.5, 0.5], [1.0, 1.0]])
        >>> params, state = jaxreg.step(optimizer, grads, optimizer.init(params), params)
        >>> print(params)
        [[0.5 0. ]
         [0.  0. ]
         [0.  0. ]]

    Notes:
        ``groups.blocks((1,))`` makes every weight a group: the half-space is then the other orthant,
        and the method OBProx-SG. With ``begin_step=0`` groups that start at zero stay there.

    References:
        Chen et al., Half-space proximal stochastic gradient method for group-sparsity regularized
        problem, 2020, its prox-SG and half-space steps, arXiv:2009.12078; Chen et al., Only train
        once: a one-shot neural network training and pruning framework, 2021, arXiv:2107.07467
    """
    require_penalty(penalty, "hspg")
    check_options("hspg", learning_rate, penalty, nesterov=nesterov)
    if not isinstance(penalty, GroupLasso):
        raise TypeError(
            "The 'penalty' parameter of hspg must be a jaxreg.group_lasso, whose groups it projects. "
            f"Got the penalty {penalty.kind}."
        )
    gain = momentum_gain(momentum, nesterov, "hspg")
    check_whole_number(begin_step, "begin_step", "hspg")
    check_number(epsilon, "epsilon", "hspg", high=1.0, open_high=True)
    inner = optax.with_extra_args_support(optax.sgd(learning_rate, momentum, nesterov, accumulator_dtype))

    def init(params: PyTree) -> ProximalOptimizerState:
        check_fit(penalty.touched, params)
        return ProximalOptimizerState(jnp.zeros([], jnp.int32), inner.init(params))

    def advance(finish: Callable[..., PyTree]) -> Callable[..., tuple[PyTree, ProximalOptimizerState]]:
        def run(
            updates: PyTree, state: Any, params: PyTree = None, **extra_args: Any
        ) -> tuple[PyTree, ProximalOptimizerState]:
            require_params(params)
            updates, inner_state = inner.update(updates, state.inner, params, **extra_args)
            flat = flatten(params)
            moves = flat.align(updates, "updates")
            olds = {i: upcast(flat.leaves[i]) for i in penalty.touched(flat) if is_inexact(moves[i])}
            news = {i: old + upcast(moves[i]) for i, old in olds.items()}
            steps = spread_steps(
                rate_at(learning_rate, state.count, "hspg", "learning_rate") * gain, flat, news
            )
            # Both phases and a choice, not lax.cond, whose operands would be written out in full.
            early = penalty.prox_of(flat, news, steps)
            late = _half_space_step(penalty, flat, olds, news, steps, epsilon)
            points = {i: jnp.where(state.count < begin_step, early[i], late[i]) for i in news}
            state = ProximalOptimizerState(optax.safe_increment(state.count), inner_state)
            return finish(flat, moves, points), state

        return run

    return DirectTransformation.make(init, advance(updates_to), advance(parameters_at))


def _half_space_step(
    penalty: GroupLasso, flat: FlatTree, olds: Leaves, news: Leaves, steps: Leaves, epsilon: Any
) -> Leaves:
    out = dict(news)
    for term in penalty.terms(flat):
        if all(index in olds for index in term.indices):
            threshold = penalty.thresholds(term.strength, term)
            found = _project(
                term, term.pick(olds), term.pick(news), steps[term.indices[0]] * threshold, epsilon
            )
            out.update(zip(term.indices, found, strict=True))
    return out


def _project(term: Term, olds: Sequence[Any], news: Sequence[Any], pull: Any, epsilon: Any) -> list[Any]:
    """Pull each group towards zero; exact zeros where it started at zero or is pulled past it."""
    norm = group_norm(olds, term.views)
    dead = norm == 0
    unit = jnp.where(dead, 1.0, norm)
    triples = [
        (old / view.broadcast(unit), new, view) for old, new, view in zip(olds, news, term.views, strict=True)
    ]
    # The paper's product <z_g, w_g> over the norm, which neither overflows nor underflows.
    ahead = sum(view.sum((direction.conj() * new).real) for direction, new, view in triples) - pull
    gone = dead | (ahead < epsilon * norm)
    return [
        jnp.where(view.broadcast(gone), 0.0, new - view.broadcast(pull) * direction)
        for direction, new, view in triples
    ]
