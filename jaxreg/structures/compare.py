"""Whether two programs are the same computation, operation by operation."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxreg.structures.program import Operation, Program, Value, drop_dead, inner

# Names, and where arrays lie.
_IGNORED = frozenset("name sharding out_sharding ctx_mesh".split())
# What the bodies and the gradient rule of an operation stand for, and what follows from their shapes.
_IN_BODIES = frozenset(
    """
    jaxpr call_jaxpr fun_jaxpr cond_jaxpr body_jaxpr branches jvp_jaxpr_fun fwd_jaxpr_thunk bwd
    out_trees policy ft_in ft_out linear
    """.split()
)


def first_difference(expected: Program, found: Program) -> str | None:
    """Where they first differ, or None."""
    expected, found = _simplified(expected), _simplified(found)
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
    ignored = _IGNORED | (_IN_BODIES if ours.bodies and theirs.bodies else set())
    if "jaxpr" in ours.params:
        ignored |= {"computation"}  # the function that the jaxpr was made of
    problem = None
    for name in sorted((ours.params.keys() | theirs.params.keys()) - ignored):
        problem = problem or _parameter(name, ours.params.get(name), theirs.params.get(name))
    return (
        problem
        or _inputs(ours.inputs, theirs.inputs, pairs)
        or _bodies(ours, theirs)
        or _gradient(ours, theirs)
        or _bind(pairs, ours.outputs, theirs.outputs)
    )


def _parameter(name: str, ours: Any, theirs: Any) -> str | None:
    try:
        if _is_jaxpr(ours) and _is_jaxpr(theirs):
            problem = first_difference(inner(ours), inner(theirs))
            return None if problem is None else f"in its {name} {problem}"
        equal = _equal(ours, theirs)
    # Programs inside may be bound to where they are run, as the body of a kernel is.
    except Exception as error:
        return f"its {name} cannot be compared ({type(error).__name__})"
    return None if equal else f"{name}={theirs} instead of {ours}"


def _bodies(ours: Operation, theirs: Operation) -> str | None:
    if len(ours.bodies) != len(theirs.bodies):
        return f"{len(theirs.bodies)} branches instead of {len(ours.bodies)}"
    problem = None
    for mine, other in zip(ours.bodies, theirs.bodies, strict=True):
        problem = problem or first_difference(mine, other)
    return problem


def _gradient(ours: Operation, theirs: Operation) -> str | None:
    if ours.around is not None and theirs.around is not None:
        return None  # the rule in which they stand, which is being compared
    if ours.unread is not None and theirs.unread is not None:
        return None
    if any(side.unread is not None and side.unread.too_deep for side in (ours, theirs)):
        return None  # as far as they are read
    if ours.gradient is None or theirs.gradient is None:
        return None if ours.gradient is theirs.gradient else "with a gradient rule on one side alone"
    problem = first_difference(_alive(ours.gradient), _alive(theirs.gradient))
    return None if problem is None else f"with another gradient rule: {problem}"


def _simplified(program: Program) -> Program:
    """Without what a replay leaves out: conversions of numbers or weak types."""
    operations: list[Operation] = []
    env: dict[Value, Value] = {}
    for operation in program.operations:
        inputs = tuple(env.get(value, value) for value in operation.inputs)
        if operation.name == "convert_element_type" and _is_known(inputs[0], operation.outputs[0]):
            env[operation.outputs[0]] = _converted(inputs[0], operation.outputs[0])
        else:
            operations.append(dataclasses.replace(operation, inputs=inputs))
    return Program(program.inputs, operations, [env.get(value, value) for value in program.outputs])


def _is_known(value: Value, output: Value) -> bool:
    if value.dtype == output.dtype:
        return True
    # What a number with a fraction or beyond the range becomes is not the same everywhere.
    is_cut = jnp.issubdtype(value.dtype, jnp.inexact) and not jnp.issubdtype(output.dtype, jnp.inexact)
    return value.constant is not None and value.shape == () and not is_cut


def _converted(value: Value, output: Value) -> Value:
    if value.dtype == output.dtype:
        return value
    with np.errstate(all="ignore"):
        constant = np.asarray(value.constant, value.dtype).astype(output.dtype)
    return Value((), output.dtype, constant=constant)


def _alive(program: Program) -> Program:
    result = _simplified(program)
    drop_dead(result)
    return result


def _bind(pairs: dict[Value, Value], ours: Sequence[Value], theirs: Sequence[Value]) -> str | None:
    if len(ours) != len(theirs):
        return f"{len(theirs)} arrays instead of {len(ours)}"
    for mine, other in zip(ours, theirs, strict=True):
        if mine.shape != other.shape or mine.dtype != other.dtype:
            return f"an array {other.dtype}{list(other.shape)} instead of {mine.dtype}{list(mine.shape)}"
        pairs[mine] = other
    return None


def _inputs(ours: Sequence[Value], theirs: Sequence[Value], pairs: dict[Value, Value]) -> str | None:
    if len(ours) != len(theirs):
        return f"{len(theirs)} arrays instead of {len(ours)}"
    for mine, other in zip(ours, theirs, strict=True):
        if mine in pairs:
            if pairs[mine] is not other:
                return "it takes another array"
        elif mine.constant is None or other.constant is None:
            return "a constant instead of an array"
        elif not _same_constant(mine, other):
            return f"the constant {_shown(other)} instead of {_shown(mine)}"
    return None


def _shown(value: Value) -> str:
    return str(value.constant) if np.ndim(value.constant) == 0 else f"of shape {value.shape}"


def _same_constant(ours: Value, theirs: Value) -> bool:
    if ours.shape != theirs.shape or ours.dtype != theirs.dtype:
        return False
    return _bytes(ours) == _bytes(theirs)


def _bytes(value: Value) -> bytes:
    if jnp.issubdtype(value.dtype, jax.dtypes.prng_key):
        return np.asarray(jax.random.key_data(value.constant)).tobytes()
    return np.asarray(value.constant, value.dtype).tobytes()


def _is_jaxpr(value: Any) -> bool:
    return hasattr(value, "eqns")


def _equal(a: Any, b: Any) -> bool:
    if isinstance(a, np.ndarray | np.generic) or hasattr(a, "__array__"):
        same = np.shape(a) == np.shape(b)
        return same and bool(np.array_equal(np.asarray(a), np.asarray(b)))
    if _is_jaxpr(a) and _is_jaxpr(b):
        return first_difference(inner(a), inner(b)) is None
    if isinstance(a, tuple | list) and isinstance(b, tuple | list) and len(a) == len(b):
        return all(_equal(x, y) for x, y in zip(a, b, strict=True))
    if dataclasses.is_dataclass(a) and type(a) is type(b):
        names = [field.name for field in dataclasses.fields(a) if field.compare]
        return all(_equal(getattr(a, name), getattr(b, name)) for name in names)
    return bool(a == b)
