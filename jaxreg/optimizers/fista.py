"""Accelerated proximal gradient descent."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxreg.arguments import check_flag, check_number, check_rate, check_whole_number
from jaxreg.optimizers.backtracking import backtrack, inner, loss_of
from jaxreg.optimizers.leader import copies
from jaxreg.penalties import Penalty
from jaxreg.penalties.base import Leaves, spread_steps
from jaxreg.transforms.new_parameters import (
    DirectTransformation,
    init_from,
    parameters_at,
    rate_at,
    require_params,
    require_penalty,
    updates_to,
)
from jaxreg.tree import FlatTree, PyTree, as_real, cast, flatten, is_inexact, upcast

FAR, YOUNG = 100, 2
"""A step size that may grow more than FAR-fold does so at once, where t is below YOUNG: for more growth than
that, momentum under way is not given up, as it saves more steps on ill-conditioned problems."""


class FistaState(NamedTuple):
    """The state of :func:`fista`.

    Attributes:
        count: how many updates have been made.
        t: the number that momentum is made of; 1 after a restart.
        step_size: that of the last update; with backtracking the one to be tried next.
        solution: the proximal point x, a pytree like the parameters.
    """

    count: jax.typing.ArrayLike
    t: jax.Array
    step_size: jax.Array
    solution: PyTree


def fista(
    learning_rate: Any,
    penalty: Penalty,
    *,
    restart: bool = True,
    backtracking: bool = False,
    max_backtracking_steps: Any = 20,
) -> optax.GradientTransformationExtraArgs:
    r"""Accelerated proximal gradient descent: for full-batch convex problems, in the fewest steps.

    .. math::
        x_k = \mathrm{prox}_{s R}(y_k - s \nabla f(y_k)), \qquad
        t_{k+1} = \frac{1 + \sqrt{1 + 4 t_k^2}}{2}, \qquad
        y_{k+1} = x_k + \frac{t_k - 1}{t_{k+1}} (x_k - x_{k-1})

    The parameters that you hold are y, where gradients are taken. The proximal point x is
    ``state.solution``; in a chain, ``optax.tree.get(state, "solution")``. Both go to a minimiser of
    ``f + R``. An element of y is exactly zero once it has been zero in x twice in a row, so that at
    convergence both have the same exact zeros; if you stop early, take x.

    Args:
        learning_rate: s, a non-negative number or a schedule: 1 / L or less, where L bounds the
            curvature of the loss (for ``||X w - y||^2 / (2 n)`` the largest eigenvalue of
            ``X^T X / n``). With ``backtracking`` the first step size tried, a positive number.
        penalty: R, a :class:`jaxreg.Penalty`; its strength is in the unit of the loss.
        restart: drop the momentum when it carries uphill: when
            :math:`\langle y_k - x_k, x_k - x_{k-1} \rangle \ge 0`.
        backtracking: find the step size by trial. The one in use lives in ``state.step_size``.
            ``update`` and :func:`jaxreg.step` then need ``value_fn``, the loss without the
            penalty, and take ``value``, the loss at the parameters, which is computed again if it
            is not given. Further arguments that ``value_fn`` names are passed on to it. Under
            ``optax.masked`` or ``optax.partition`` it is called with the masked tree.
        max_backtracking_steps: after that many step sizes have failed in one update, the next
            is taken as it is, unless the loss is not finite there.

    Returns:
        An ``optax.GradientTransformationExtraArgs`` whose state holds three scalars and one buffer
        of the size of the parameters. Leaves that the penalty does not reach are accelerated too.

    Raises:
        TypeError, ValueError: for bad arguments; at ``update``, if ``params`` is None, or with
            backtracking if ``value_fn`` is missing or ``value`` or what it returns is no real scalar.

    Examples:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> import jaxreg
        >>> x = jax.random.normal(jax.random.key(0), (50, 4))
        >>> y = x @ jnp.array([1.0, 0.0, -2.0, 0.0])
        >>> def loss(w):
        ...     return jnp.mean((x @ w - y) ** 2) / 2
        >>> optimizer = jaxreg.fista(1.0, jaxreg.l1(0.1), backtracking=True)
        >>> params = jnp.zeros(4)
        >>> state = optimizer.init(params)
        >>> @jax.jit
        ... def train_step(params, state):
        ...     value, grads = jax.value_and_grad(loss)(params)
        ...     return jaxreg.step(optimizer, grads, state, params, value=value, value_fn=loss)
        >>> for _ in range(20):
        ...     params, state = train_step(params, state)
        >>> print(state.solution.round(2))
        [ 0.88  0.   -1.9   0.  ]

    Notes:
        Gradients must be exact, those of the whole data: momentum and restarts read noise as shape.
        For minibatches there is :func:`jaxreg.prox_sgd`.

        **Backtracking.** A step size passes when the loss lies below its parabola,
        :math:`f(x) \le f(y) + \langle g, x - y \rangle + \frac{1}{2s} \lVert x - y \rVert^2`. Each trial
        measures the curvature :math:`c = 2 (f(x) - f(y) - \langle g, x - y \rangle) / \lVert x - y \rVert^2`.
        After a failure ``0.8 / c`` is tried, at least ``s / 10``; after a success the next update
        starts from ``s' = 0.8 / c`` where there is no momentum, at ``t = 1`` (from ``2 s`` if no
        curvature is seen), and from ``s' = min(0.8 / c, (1 + 1 / t^2) s)`` where there is. Growth is
        paid for with momentum, ``t' = (1 + sqrt(1 + 4 t^2 s / s')) / 2``, which keeps the rate of
        convergence; with ``restart``, ``t`` falls back to 1 where it is below 2 and ``0.8 / c > 100 s``.
        If no trial of an update finds a finite loss, ``state.solution`` stays, the parameters go back
        to it, and the next update tries shorter steps. Near a minimum the difference of two losses is
        all rounding: there another gradient, at x, measures the curvature, so that full precision is
        reached. The search is a ``lax.while_loop``, which JAX does not differentiate in reverse mode.

        **Coming from jaxopt.** ``ProximalGradient(fun, prox, stepsize, maxls)`` is
        ``fista(stepsize, penalty)``, or without a step size
        ``fista(1.0, penalty, backtracking=True, max_backtracking_steps=maxls)``; penalties
        carry their own strengths. jaxopt never restarts: that is ``restart=False``. With a step size,
        ``acceleration=False`` is :func:`jaxreg.prox_sgd`. ``solver.run`` is a loop of yours, whose
        stopping rule may use the gradient that is there anyway:

        >>> def solve(strength, tol=1e-5, maxiter=500):
        ...     penalty = jaxreg.l1(strength)
        ...     optimizer = jaxreg.fista(1.0, penalty, backtracking=True)
        ...     def unsolved(carry):
        ...         params, state, value, grads = carry
        ...         return (penalty.optimality(params, grads).max() > tol) & (state.count < maxiter)
        ...     def advance(carry):
        ...         params, state, value, grads = carry
        ...         params, state = jaxreg.step(optimizer, grads, state, params, value=value, value_fn=loss)
        ...         return params, state, *jax.value_and_grad(loss)(params)
        ...     start = jnp.zeros(4)
        ...     carry = start, optimizer.init(start), *jax.value_and_grad(loss)(start)
        ...     return jax.lax.while_loop(unsolved, advance, carry)[0]
        >>> print(jax.jit(solve)(0.1).round(2))  # other strengths run the same compiled program
        [ 0.88  0.   -1.9   0.  ]

    References:
        Beck and Teboulle, A fast iterative shrinkage-thresholding algorithm for linear inverse
        problems, 2009, equations 4.1 to 4.3, https://doi.org/10.1137/080716542. Restarts: O'Donoghue and
        Candes, Adaptive restart for accelerated gradient schemes, 2015, section 3.2, the gradient
        scheme, arXiv:1204.3982. Growing steps: Scheinberg, Goldfarb and Bai, Fast first-order methods for
        composite convex optimization with backtracking, 2014,
        https://doi.org/10.1007/s10208-014-9189-9. Curvature from gradients: Becker, Candes and Grant,
        Templates for convex cone problems, 2011, arXiv:1009.2065
    """
    require_penalty(penalty, "fista")
    check_rate(learning_rate, "learning_rate", "fista")
    check_flag(restart, "restart", "fista")
    check_flag(backtracking, "backtracking", "fista")
    check_whole_number(max_backtracking_steps, "max_backtracking_steps", "fista")
    if backtracking:
        _check_first_step(learning_rate)

    def begin(params: PyTree) -> FistaState:
        count, one = jnp.zeros([], jnp.int32), jnp.ones([])
        rate = rate_at(learning_rate, count, "fista", "learning_rate")
        return FistaState(count, one, jnp.asarray(rate, one.dtype), copies(params))

    def shrink(params: PyTree, starts: Leaves, slopes: Leaves, step: Any) -> Leaves:
        # The penalty keeps traced values beside the flat tree: a loop's body needs one of its own.
        flat = flatten(params)
        points = {index: start - as_real(step, start) * slopes[index] for index, start in starts.items()}
        reached = {index: points[index] for index in penalty.touched(flat) if index in points}
        points |= penalty.prox_of(flat, reached, spread_steps(step, flat, reached))
        return {i: upcast(cast(point, jnp.result_type(flat.leaves[i]))) for i, point in points.items()}

    def advance(finish: Callable[..., PyTree]) -> Callable[..., tuple[PyTree, FistaState]]:
        def run(
            updates: PyTree,
            state: Any,
            params: PyTree = None,
            *,
            value: Any = None,
            value_fn: Callable[..., Any] | None = None,
            **extra_args: Any,
        ) -> tuple[PyTree, FistaState]:
            require_params(params)
            flat = flatten(params)
            moves = flat.align(updates, "updates")
            trained = [i for i, leaf in enumerate(flat.leaves) if is_inexact(leaf) and is_inexact(moves[i])]
            starts = {index: upcast(flat.leaves[index]) for index in trained}
            slopes = {index: jnp.asarray(moves[index], start.dtype) for index, start in starts.items()}
            old = flat.align(state.solution, "state.solution")
            lasts = {index: upcast(old[index]) for index in trained}

            def land(step: Any) -> Leaves:
                return shrink(params, starts, slopes, step)

            if backtracking:
                loss = loss_of(_required(value_fn), flat, extra_args)
                value = loss(starts) if value is None else value
                found = backtrack(land, starts, slopes, state.step_size, value, loss, max_backtracking_steps)
                points, step, longest = found.points, found.step_size, found.following
                points = {i: jnp.where(found.lost, lasts[i], point) for i, point in points.items()}
                fresh = found.lost
            else:
                rate = rate_at(learning_rate, state.count, "fista", "learning_rate")
                step = longest = jnp.asarray(rate, state.step_size.dtype)
                points, fresh = land(step), False

            if restart:
                back = {index: start - points[index] for index, start in starts.items()}
                # With a step size of 0, too, momentum stops.
                fresh |= inner(back, _difference(points, lasts)) >= 0
                if backtracking:
                    fresh |= (state.t < YOUNG) & (longest > FAR * step)
            t = jnp.where(fresh, 1, state.t)
            if backtracking:
                free = jnp.where(jnp.isfinite(longest), longest, 2 * step)
                following = jnp.minimum(longest, jnp.where(t == 1, free, (1 + 1 / t**2) * step))
            else:
                following = step
            gain = step / following if backtracking else 1
            next_t = (1 + jnp.sqrt(1 + 4 * t**2 * gain)) / 2
            weight = (t - 1) / next_t
            ahead = {
                index: points[index] + as_real(weight, change) * change
                for index, change in _difference(points, lasts).items()
            }
            state = FistaState(
                optax.safe_increment(state.count),
                jnp.where(fresh, 1, next_t),
                following,
                _solution(flat, old, points),
            )
            return finish(flat, moves, ahead), state

        return run

    return DirectTransformation.make(init_from(penalty, begin), advance(updates_to), advance(parameters_at))


def _solution(flat: FlatTree, old: list[Any], points: Leaves) -> PyTree:
    """The points; where there are none the parameters, in memory of their own, which may be donated."""
    new = list(flat.leaves)
    for index, leaf in enumerate(flat.leaves):
        if index in points:
            new[index] = cast(points[index], old[index].dtype)
        elif hasattr(leaf, "dtype") or is_inexact(leaf):
            new[index] = jnp.array(leaf)
    return flat.rebuild(new)


def _difference(left: Leaves, right: Leaves) -> Leaves:
    return {index: leaf - right[index] for index, leaf in left.items()}


def _check_first_step(learning_rate: Any) -> None:
    if callable(learning_rate):
        raise TypeError(
            "With backtracking the 'learning_rate' parameter of fista must be a positive number, the first "
            f"step size tried, and no schedule. Got {learning_rate!r}."
        )
    check_number(learning_rate, "learning_rate", "fista", open_low=True)


def _required(value_fn: Callable[..., Any] | None) -> Callable[..., Any]:
    if value_fn is None:
        raise ValueError(
            "fista with backtracking=True needs the loss, without the penalty: "
            "update(grads, state, params, value=value, value_fn=loss)."
        )
    if not callable(value_fn):
        raise TypeError(
            "'value_fn' of fista must be a function, the loss without the penalty. "
            f"Got {value_fn!r} of type {type(value_fn).__name__}."
        )
    return value_fn
