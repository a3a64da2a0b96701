"""Whether two programs are the same computation, operation by operation."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from jaxreg.structures.program import Operation, Program, Value

# Lengths that follow from the shapes, and names and functions, which the bodies stand for.
_IGNORED = frozenset(
    """
    name jaxpr call_jaxpr fun_jaxpr cond_jaxpr body_jaxpr branches jvp_jaxpr_fun fwd_jaxpr_thunk bwd
    out_trees sharding out_sharding ctx_mesh policy ft_in ft_out linear update_jaxpr
    """.split()
)


def first_difference(expected: Program, found: Program) -> str | None:
    """Where they first differ, or None."""
    if len(expected.operations) != len(found.operations):
        return f"it has {len(found.operations)} operations instead of {len(expected.operations)}"
    pairs: dict[Value, Value] = {}
    problem = _bind(pairs, expected.inputs, found.inputs)
    for ours, theirs in zip(expected.operations, found.operations, strict=True):
        problem = problem or _operation(ours, theirs, pairs)
        if problem is not None:
            return f"{problem}, {theirs.where()}"
    return problem or _inputs(expected.outputs, found.outputs, pairs)


def _operation(ours: Operation, theirs: Operation, pairs: dict[Value, Value]) -> str | None:
    if ours.name != theirs.name:
        return f"{theirs.name} instead of {ours.name}"
    for name in ours.params.keys() | theirs.params.keys():
        if name not in _IGNORED and not _equal(ours.params.get(name), theirs.params.get(name)):
            return f"{name}={theirs.params.get(name)} instead of {ours.params.get(name)}"
    problem = _inputs(ours.inputs, theirs.inputs, pairs)
    for mine, other in zip(ours.bodies, theirs.bodies, strict=True):
        problem = problem or first_difference(mine, other)
    return problem or _bind(pairs, ours.outputs, theirs.outputs)


def _bind(pairs: dict[Value, Value], ours: Sequence[Value], theirs: Sequence[Value]) -> str | None:
    for mine, other in zip(ours, theirs, strict=True):
        if mine.shape != other.shape or mine.dtype != other.dtype:
            return f"an array of shape {other.shape} instead of {mine.shape}"
        pairs[mine] = other
    return None


def _inputs(ours: Sequence[Value], theirs: Sequence[Value], pairs: dict[Value, Value]) -> str | None:
    for mine, other in zip(ours, theirs, strict=True):
        if mine in pairs:
            if pairs[mine] is not other:
                return "it takes another array"
        elif mine.constant is None or other.constant is None:
            return "a constant instead of an array"
        elif not _equal(mine.constant, other.constant):
            return f"the constant {_shown(other)} instead of {_shown(mine)}"
    return None


def _shown(value: Value) -> str:
    return str(value.constant) if np.ndim(value.constant) == 0 else f"of shape {value.shape}"


def _equal(a: Any, b: Any) -> bool:
    if isinstance(a, np.ndarray | np.generic) or hasattr(a, "__array__"):
        same = np.shape(a) == np.shape(b)
        return same and bool(np.array_equal(np.asarray(a), np.asarray(b)))
    if isinstance(a, tuple | list) and isinstance(b, tuple | list) and len(a) == len(b):
        return all(_equal(x, y) for x, y in zip(a, b, strict=True))
    return bool(a == b)
