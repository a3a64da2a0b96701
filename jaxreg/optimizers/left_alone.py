"""Which leaves an optimizer leaves alone, as a prox after it must."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.extend
import numpy as np
import optax

from jaxreg.tree import FlatTree, PyTree, is_absent

ZERO_OF_ZEROS = frozenset(
    "add add_any broadcast_in_dim concatenate convert_element_type copy expand_dims max min neg pad "
    "pbroadcast pvary reduce_sum reshape sign slice sqrt squeeze sub transpose".split()
)
"""Primitives that make zeros of zeros."""


def left_alone(
    update: Callable[[PyTree, Any, PyTree], tuple[PyTree, Any]],
    updates: PyTree,
    state: Any,
    params: PyTree,
    flat: FlatTree,
) -> frozenset[int]:
    """Leaves whose update is always zero (``optax.set_to_zero``) or the bare gradient (``optax.masked``).

    A zero update under ``jit`` is an array like any other: only the recorded computation tells that it
    is always zero. It is recorded only for optimizers that treat leaves differently.
    """
    if not _treats_leaves_differently(state):
        return frozenset()
    closed, shapes = jax.make_jaxpr(lambda *inputs: update(*inputs)[0], return_shape=True)(
        updates, state, params
    )
    arriving = dict(zip(_present(flat, updates), closed.jaxpr.invars, strict=False))
    leaving = dict(zip(_present(flat, shapes), closed.jaxpr.outvars, strict=True))
    zero = dict(zip(leaving, _zeros(closed.jaxpr, [False] * len(closed.jaxpr.invars)), strict=True))
    return frozenset(i for i, update in leaving.items() if zero[i] or update is arriving.get(i))


def _present(flat: FlatTree, updates: PyTree) -> list[int]:
    return [i for i, move in enumerate(flat.align(updates, "updates")) if not is_absent(move)]


def _treats_leaves_differently(state: Any) -> bool:
    nodes = jax.tree.leaves(state, is_leaf=lambda node: isinstance(node, optax.MaskedState))
    return any(isinstance(node, optax.MaskedState) for node in nodes)


def _zeros(jaxpr: Any, inputs: Sequence[bool]) -> list[bool]:
    """Which outputs are zero whatever the inputs, given which of these are zero."""
    known = dict(zip(jaxpr.invars, inputs, strict=True))

    def is_zero(atom: Any) -> bool:
        if isinstance(atom, jax.extend.core.Literal):
            return bool(np.all(np.asarray(atom.val) == 0))
        return known.get(atom, False)

    for equation in jaxpr.eqns:
        outputs = _zero_outputs(equation, [is_zero(atom) for atom in equation.invars])
        known.update(zip(equation.outvars, outputs, strict=True))
    return [is_zero(atom) for atom in jaxpr.outvars]


def _zero_outputs(equation: Any, zero: list[bool]) -> list[bool]:
    name = equation.primitive.name
    if name == "cond":
        branches = [_zeros(branch.jaxpr, zero[1:]) for branch in equation.params["branches"]]
        return [all(outputs) for outputs in zip(*branches, strict=True)]
    inner = equation.params.get("jaxpr", equation.params.get("call_jaxpr"))
    inner = getattr(inner, "jaxpr", inner)
    if name not in ("while", "scan") and inner is not None and len(inner.invars) == len(zero):
        return _zeros(inner, zero)
    if name == "mul":
        result = any(zero)
    elif name == "div":
        result = zero[0]
    elif name == "select_n":
        result = all(zero[1:])
    else:
        result = name in ZERO_OF_ZEROS and all(zero)
    return [result] * len(equation.outvars)
