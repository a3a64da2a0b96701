"""Run a recorded program on smaller arrays.

Every operation is applied as it was recorded, with the lengths in its parameters adapted. Numbers such as
the 1/N of a mean stay what they were, which is what makes the smaller model equal to the large one.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxreg.structures.gradient_rules import JVP_RULE, WITH_RULE, bind, differentiable
from jaxreg.structures.program import REMATERIALISED, Operation, Program
from jaxreg.structures.removal import Removal
from jaxreg.structures.rules_control import scan_counts

Change = Callable[[Removal, Operation], dict[str, Any]]
_CHANGES: dict[str, Change] = {}


def replay(program: Program, removal: Removal, arrays: Sequence[Any]) -> list[Any]:
    """The outputs of a program for inputs of the shapes that are left."""
    env = dict(zip(program.inputs, arrays, strict=True))
    for value in program.constants:
        env[value] = removal.take(value, value.constant) if value.shape else value.constant
    for operation in program.operations:
        results = _run(operation, removal, [env[value] for value in operation.inputs])
        env |= dict(zip(operation.outputs, results, strict=True))
    return [env[value] for value in program.outputs]


def _run(operation: Operation, removal: Removal, arrays: list[Any]) -> Sequence[Any]:
    name = operation.name
    if operation.bodies:
        return _block(operation, removal, arrays)
    if name == "iota" and removal.touches(operation.outputs[0]):
        return [_iota(operation, removal)]
    params = dict(operation.params)
    change = _CHANGES.get(name)
    if change is not None:
        params |= change(removal, operation)
    results = bind(operation.primitive, params, arrays)
    return results if operation.primitive.multiple_results else [results]


def _block(operation: Operation, removal: Removal, arrays: list[Any]) -> Sequence[Any]:
    name, params, bodies = operation.name, operation.params, operation.bodies

    def runner(program: Program) -> Callable[..., list[Any]]:
        return lambda *given: replay(program, removal, given)

    if name in REMATERIALISED:
        function = jax.checkpoint(
            runner(bodies[0]), prevent_cse=params["prevent_cse"], policy=params["policy"]
        )
        return function(*arrays)
    if name in WITH_RULE:
        return _with_rule(operation, removal, runner(bodies[0]))(*arrays)
    if name == "cond":
        return lax.switch(arrays[0], [runner(body) for body in bodies], *arrays[1:])
    if name == "while":
        ours, theirs = params["cond_nconsts"], params["body_nconsts"]
        condition, body = (runner(program) for program in bodies)
        before, inside = arrays[:ours], arrays[ours : ours + theirs]
        return lax.while_loop(
            lambda carry: condition(*before, *carry)[0],
            lambda carry: body(*inside, *carry),
            arrays[ours + theirs :],
        )
    consts, carried = scan_counts(operation)
    body = runner(bodies[0])

    def step(carry: Any, stacked: Any) -> tuple[list[Any], list[Any]]:
        results = body(*arrays[:consts], *carry, *stacked)
        return results[:carried], results[carried:]

    carry, stacked = lax.scan(
        step,
        arrays[consts : consts + carried],
        arrays[consts + carried :],
        length=params["length"],
        reverse=params["reverse"],
        unroll=params["unroll"],
    )
    return [*carry, *stacked]


def _with_rule(operation: Operation, removal: Removal, function: Callable[..., Any]) -> Callable[..., Any]:
    """The function with its own gradient rule, itself replayed."""
    rule = _rule(operation)
    inputs, outputs = operation.inputs, operation.outputs
    moving, heard = differentiable(inputs), differentiable(outputs)

    def unheard(arrays: Sequence[Any]) -> list[Any]:
        """The outputs without a gradient; the rule gives the others, and only the rule is differentiated."""
        return function(*arrays) if len(heard) < len(outputs) else [None] * len(outputs)

    if operation.name in JVP_RULE:
        forward = jax.custom_jvp(function)

        @forward.defjvp
        def _(primals: Any, tangents: Any) -> Any:
            results = rule(removal, [*primals, *(tangents[place] for place in moving)])
            values = unheard(primals)
            slopes: list[Any] = [np.zeros(np.shape(value), jax.dtypes.float0) for value in values]
            for place, value, slope in zip(heard, results[: len(heard)], results[len(heard) :], strict=True):
                values[place], slopes[place] = value, slope
            return values, slopes

        return forward
    backward = jax.custom_vjp(function)

    def push(*arrays: Any) -> Any:
        # As the rule has them, since that is what is differentiated a second time.
        values = unheard(arrays)
        none = [jnp.zeros(removal.shape(outputs[place]), outputs[place].dtype) for place in heard]
        for place, value in zip(heard, rule(removal, [*arrays, *none]), strict=False):
            values[place] = value
        return values, arrays

    def pull(arrays: Any, cotangents: Any) -> Any:
        results = rule(removal, [*arrays, *(cotangents[place] for place in heard)])
        pulled: list[Any] = [np.zeros(np.shape(array), jax.dtypes.float0) for array in arrays]
        for place, result in zip(moving, results[len(heard) :], strict=True):
            pulled[place] = result
        return tuple(pulled)

    backward.defvjp(push, pull)
    return backward


def _rule(operation: Operation) -> Callable[[Removal, Sequence[Any]], list[Any]]:
    gradient, unread = operation.gradient, operation.unread
    if gradient is not None:
        return lambda removal, arrays: replay(gradient, removal, arrays)

    def unknown(removal: Removal, arrays: Sequence[Any]) -> list[Any]:
        # The function without its rule may have other derivatives.
        reason = "" if unread is None else f": {unread.reason}"
        raise NotImplementedError(f"the gradient rule of {operation.where()} is not known{reason}")

    return unknown


def _iota(operation: Operation, removal: Removal) -> Any:
    """The numbers of the positions that are left."""
    output, axis = operation.outputs[0], operation.params["dimension"]
    numbers = jnp.asarray(removal.kept(output.dims[axis]), output.dtype)
    return lax.broadcast_in_dim(numbers, removal.shape(output), (axis,))


def _change(*names: str) -> Callable[[Change], Change]:
    def add(function: Change) -> Change:
        _CHANGES.update(dict.fromkeys(names, function))
        return function

    return add


@_change("broadcast_in_dim", "iota", "empty", "empty2")
def _shape(removal: Removal, operation: Operation) -> dict[str, Any]:
    return {"shape": removal.shape(operation.outputs[0])}


@_change("reshape")
def _new_sizes(removal: Removal, operation: Operation) -> dict[str, Any]:
    return {"new_sizes": removal.shape(operation.outputs[0])}


@_change("tile")
def _reps(removal: Removal, operation: Operation) -> dict[str, Any]:
    pairs = zip(
        removal.shape(operation.outputs[0]),
        removal.shape(operation.inputs[0]),
        operation.params["reps"],
        strict=True,
    )
    return {"reps": tuple(new // old if old else times for new, old, times in pairs)}


@_change("split")
def _sizes(removal: Removal, operation: Operation) -> dict[str, Any]:
    axis = operation.params["axis"]
    return {"sizes": tuple(removal.shape(value)[axis] for value in operation.outputs)}


@_change("slice")
def _bounds(removal: Removal, operation: Operation) -> dict[str, Any]:
    params, value = operation.params, operation.inputs[0]
    strides = params["strides"] or (1,) * len(value.shape)
    starts, limits = [], []
    for axis, (start, limit, stride) in enumerate(
        zip(params["start_indices"], params["limit_indices"], strides, strict=True)
    ):
        kept = removal.kept(value.dims[axis])
        if len(kept) == value.shape[axis]:
            starts.append(start)
            limits.append(limit)
        elif stride == 1:
            starts.append(int(np.searchsorted(kept, start)))
            limits.append(int(np.searchsorted(kept, limit)))
        else:
            # Whole runs of ``stride`` positions go, so that the pattern stays.
            count = removal.shape(operation.outputs[0])[axis]
            starts.append(start)
            limits.append(start + (count - 1) * stride + 1 if count else start)
    return {"start_indices": tuple(starts), "limit_indices": tuple(limits)}


@_change("pad")
def _padding(removal: Removal, operation: Operation) -> dict[str, Any]:
    config = []
    for axis, (low, high, interior) in enumerate(operation.params["padding_config"]):
        if low > 0 or high > 0:
            kept = removal.kept(operation.outputs[0].dims[axis])
            inner = removal.shape(operation.inputs[0])[axis]
            if interior == 0 and low >= 0 and high >= 0:
                low = int(np.searchsorted(kept, low))
                high = len(kept) - low - inner
        config.append((low, high, interior))
    return {"padding_config": tuple(config)}


@_change("gather")
def _slice_sizes(removal: Removal, operation: Operation) -> dict[str, Any]:
    value = operation.inputs[0]
    sizes = zip(operation.params["slice_sizes"], value.shape, removal.shape(value), strict=True)
    return {"slice_sizes": tuple(new if size == old else size for size, old, new in sizes)}


@_change("dynamic_slice")
def _window(removal: Removal, operation: Operation) -> dict[str, Any]:
    return {"slice_sizes": removal.shape(operation.outputs[0])}


@_change("conv_general_dilated")
def _groups(removal: Removal, operation: Operation) -> dict[str, Any]:
    if operation.params["batch_group_count"] != 1:
        return {}
    numbers = operation.params["dimension_numbers"]
    channels = removal.shape(operation.inputs[0])[numbers.lhs_spec[1]]
    each = removal.shape(operation.inputs[1])[numbers.rhs_spec[1]]
    return {"feature_group_count": channels // each if each else 1}
