"""Linearised Bregman iterations: an optax optimizer moves a dual variable, a prox makes the weights of it."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import optax
from jax import lax

from jaxreg.penalties import Penalty
from jaxreg.penalties.base import spread_steps
from jaxreg.transforms.add_penalty import penalty_gradient
from jaxreg.transforms.new_parameters import (
    DirectTransformation,
    init_from,
    parameters_at,
    require_optimizer,
    require_params,
    updates_to,
)
from jaxreg.tree import PyTree, as_real, cast, flatten, is_inexact, is_variable_box, upcast


class BregmanState(NamedTuple):
    """The dual variable, a buffer where the penalty reaches, and the wrapped optimizer's state."""

    dual: PyTree
    inner: Any


def bregman(optimizer: optax.GradientTransformation, penalty: Penalty, delta: Any) -> DirectTransformation:
    """``v <- v + u`` with the optimizer's update u, then ``w <- prox(delta v)`` of the penalty at step delta.

    Leaves that the penalty does not reach are updated as the optimizer says and have no dual variable.
    """
    inner = require_optimizer(optimizer, "bregman")

    def begin(params: PyTree) -> BregmanState:
        return BregmanState(_initial_dual(penalty, delta, params), inner.init(params))

    def advance(finish: Callable[..., PyTree]) -> Callable[..., tuple[PyTree, BregmanState]]:
        def run(
            updates: PyTree, state: Any, params: PyTree = None, **extra_args: Any
        ) -> tuple[PyTree, BregmanState]:
            require_params(params)
            updates, inner_state = inner.update(updates, state.inner, params, **extra_args)
            flat = flatten(params)
            moves, held = flat.align(updates, "updates"), flatten(state.dual)
            duals, place = list(held.leaves), {path: index for index, path in enumerate(held.paths)}
            scaled = {}
            for index in penalty.touched(flat):
                # New weights need no old ones, and an argument that is not used cannot be donated.
                dual, _ = lax.optimization_barrier((duals[place[flat.paths[index]]], flat.leaves[index]))
                if is_inexact(moves[index]):
                    dual = lax.add(dual, cast(upcast(moves[index]), dual.dtype))
                duals[place[flat.paths[index]]] = dual
                scaled[index] = as_real(delta, dual) * dual
            # A frozen leaf moves no more, but its dual still counts in a group that it shares.
            points = penalty.prox_of(flat, scaled, spread_steps(delta, flat, scaled))
            points = {index: point for index, point in points.items() if is_inexact(moves[index])}
            return finish(flat, moves, points), BregmanState(held.rebuild(duals), inner_state)

        return run

    return DirectTransformation.make(init_from(penalty, begin), advance(updates_to), advance(parameters_at))


def _initial_dual(penalty: Penalty, delta: Any, params: PyTree) -> PyTree:
    """``w / delta`` plus a subgradient of the penalty at w, of which the prox makes w again."""
    flat = flatten(params)
    slopes = penalty_gradient(penalty, flat) if flat.has_floating else {}
    duals = [optax.MaskedNode() for _ in flat.leaves]
    for index, slope in slopes.items():
        leaf = upcast(flat.leaves[index])
        duals[index] = leaf / as_real(delta, leaf) + slope
    return jax.tree.map(_without_box, flat.rebuild(duals), is_leaf=lambda node: is_variable_box(type(node)))


def _without_box(node: Any) -> Any:
    # NNX expects an array in each of its boxes, also in those of an optimizer's state.
    return optax.MaskedNode() if is_variable_box(type(node)) and not jax.tree.leaves(node) else node
