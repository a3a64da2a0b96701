"""What FTRL and dual averaging share: parameters that minimise a model of all gradients so far."""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp

from jaxreg.arguments import check_number
from jaxreg.penalties import Penalty
from jaxreg.penalties.base import Leaves, spread_steps
from jaxreg.transforms.new_parameters import (
    DirectTransformation,
    init_from,
    parameters_at,
    require_params,
    updates_to,
)
from jaxreg.tree import FlatTree, PyTree, as_real, cast, flatten, is_inexact, real_dtype, upcast

Advance = Callable[[FlatTree, Leaves, Any], tuple[Leaves, Any]]
"""``(parameters, gradients, state) -> (new parameters, state)``, for the leaves that have a gradient."""


def follow(penalty: Penalty, begin: Callable[[PyTree], Any], advance: Advance) -> DirectTransformation:
    """The optimizer that starts in the state ``begin(params)`` and takes the steps ``advance``."""

    def run(finish: Callable[..., PyTree]) -> Callable[..., tuple[PyTree, Any]]:
        def take(updates: PyTree, state: Any, params: PyTree = None, **extra_args: Any) -> tuple[PyTree, Any]:
            del extra_args
            require_params(params)
            flat = flatten(params)
            moves = flat.align(updates, "updates")
            grads = {
                index: jnp.asarray(move, _wide(leaf))
                for index, (leaf, move) in enumerate(zip(flat.leaves, moves, strict=True))
                if is_inexact(leaf) and is_inexact(move)
            }
            points, state = advance(flat, grads, state)
            return finish(flat, moves, points), state

        return take

    return DirectTransformation.make(init_from(penalty, begin), run(updates_to), run(parameters_at))


def leader(
    penalty: Penalty, flat: FlatTree, anchors: Leaves, pulls: Leaves, curvatures: Leaves, weight: Any
) -> Leaves:
    """``argmin_w <pull, w> + sum_i curvature_i |w_i - anchor_i|^2 / 2 + weight R(w)``.

    An element without curvature, which has had no gradient either, is left to the penalty alone;
    where that does not reach it stays at its anchor.
    """
    # Nothing is divided by 0: the square root of the smallest float is the smallest sqrt(g^2) but 0.
    rooms = {
        index: jnp.maximum(curvature, jnp.finfo(real_dtype(anchors[index])).tiny ** 0.5)
        for index, curvature in curvatures.items()
    }
    points = {index: anchor - pulls[index] / rooms[index] for index, anchor in anchors.items()}
    reached = {index: points[index] for index in penalty.touched(flat) if index in points}
    steps = {i: step / rooms[i] for i, step in spread_steps(weight, flat, reached).items()}
    return points | penalty.prox_of(flat, reached, steps)


def root(total: Any, power: Any) -> Any:
    """``total ** power`` for numbers of 0 and more; its derivative at 0 is taken as 0."""
    empty = total == 0
    return jnp.where(empty, jnp.power(0.0, power), jnp.power(jnp.where(empty, 1.0, total), power))


def with_momentum(flat: FlatTree, points: Leaves, momentum: Any) -> Leaves:
    """``momentum w + (1 - momentum) point``: at momentum 0 the point itself, exact zeros included."""
    # A schedule that has fallen to 0 may be off by its rounding, which would spoil the zeros.
    momentum = jnp.where(momentum > jnp.finfo(jnp.float32).eps, momentum, 0.0)

    def mix(index: int, point: Any) -> Any:
        kept = as_real(momentum, point)
        return kept * upcast(flat.leaves[index]) + (1 - kept) * point

    return {index: mix(index, point) for index, point in points.items()}


def check_momentum(momentum: Any, owner: str) -> Any:
    """A number in [0, 1), or a schedule of such numbers."""
    if callable(momentum):
        return momentum
    return check_number(momentum, "momentum", owner, high=1.0, open_high=True)


def momentum_at(momentum: Any, count: Any, owner: str) -> Any:
    return check_momentum(momentum(count) if callable(momentum) else momentum, owner)


# State: trees like the parameters, in which leaves that cannot train stand for themselves.


def copies(params: PyTree) -> PyTree:
    """The parameters themselves, in memory of their own: a caller may donate parameters and state."""
    return _like(params, jnp.array)


def sums(params: PyTree) -> PyTree:
    """Zeros to sum gradients in, in the precision to compute in."""
    return _like(params, lambda leaf: jnp.zeros_like(leaf, _wide(leaf)))


def sums_of_squares(params: PyTree, start: Any = 0.0) -> PyTree:
    """Real numbers to sum squared gradients in."""
    return _like(params, lambda leaf: jnp.full_like(leaf, start, real_dtype(leaf)))


def replaced(flat: FlatTree, tree: PyTree, leaves: Leaves) -> PyTree:
    """The tree with new values for some leaves, in the dtypes it has."""
    old = flat.align(tree, "state")
    return flat.rebuild([cast(leaves[i], x.dtype) if i in leaves else x for i, x in enumerate(old)])


def _like(params: PyTree, make: Callable[[Any], Any]) -> PyTree:
    flat = flatten(params)
    made = [
        make(leaf) if is_inexact(leaf) else jnp.array(leaf) if hasattr(leaf, "dtype") else leaf
        for leaf in flat.leaves
    ]
    return flat.rebuild(made)


def _wide(leaf: Any) -> Any:
    return jnp.promote_types(jnp.result_type(leaf), jnp.float32)
