"""Which leaves an optimizer leaves alone, as a prox after it must."""

from collections.abc import Callable
from typing import Any

import jax
import jax.extend
import optax

from jaxreg.tree import FlatTree, PyTree, is_absent


def left_alone(
    update: Callable[[PyTree, Any, PyTree], tuple[PyTree, Any]],
    updates: PyTree,
    state: Any,
    params: PyTree,
    flat: FlatTree,
) -> frozenset[int]:
    """Leaves whose update is a constant (``optax.set_to_zero``) or the bare gradient (``optax.masked``).

    A zero update under ``jit`` is an array like any other: only the recorded computation tells that it
    does not depend on anything. It is recorded only for optimizers that treat leaves differently.
    """
    if not _treats_leaves_differently(state):
        return frozenset()
    jaxpr = jax.make_jaxpr(lambda *inputs: update(*inputs)[0])(updates, state, params).jaxpr
    changing = _depending_on_inputs(jaxpr)
    present = [i for i, move in enumerate(flat.align(updates, "updates")) if not is_absent(move)]
    arriving = jaxpr.invars[: len(present)]
    return frozenset(
        index
        for index, came, leaves in zip(present, arriving, jaxpr.outvars, strict=True)
        if leaves is came or isinstance(leaves, jax.extend.core.Literal) or leaves not in changing
    )


def _treats_leaves_differently(state: Any) -> bool:
    nodes = jax.tree.leaves(state, is_leaf=lambda node: isinstance(node, optax.MaskedState))
    return any(isinstance(node, optax.MaskedState) for node in nodes)


def _depending_on_inputs(jaxpr: Any) -> set[Any]:
    changing = {*jaxpr.invars, *jaxpr.constvars}
    for equation in jaxpr.eqns:
        inputs = (v for v in equation.invars if not isinstance(v, jax.extend.core.Literal))
        if any(variable in changing for variable in inputs):
            changing.update(equation.outvars)
    return changing
