"""Units that hold a constant other than zero: what they add to the next layer goes into its bias."""

import dataclasses
from collections.abc import Iterator, Sequence

import jax.numpy as jnp
import numpy as np

from jaxreg.structures.dimensions import find, leaves
from jaxreg.structures.facts import indices
from jaxreg.structures.origins import handed_in, origins, outermost, within
from jaxreg.structures.program import Operation, Program, Value
from jaxreg.structures.removal import Removal
from jaxreg.structures.verdicts import Fold

_SAME_ORDER = frozenset("broadcast_in_dim reshape convert_element_type expand_dims squeeze".split())

Users = dict[Value, list[Operation | None]]


@dataclasses.dataclass(frozen=True)
class Plan:
    """Which parameter takes up what a product loses."""

    fold: Fold
    kernel: int
    bias: int
    sign: int = 1
    """-1 where the bias is subtracted."""

    def change(self, unit: int, arrays: Sequence[np.ndarray], removal: Removal) -> np.ndarray:
        """What losing this unit adds to the bias, in the shape of the bias."""
        fold = self.fold
        value = fold.operation.inputs[1 - fold.place]
        mine, summed = _contracted(fold)
        array = np.asarray(arrays[self.kernel])
        array = array.astype(np.result_type(array.dtype, np.float64))
        for axis in summed:
            kept = removal.kept(value.dims[axis])
            if axis == mine:
                kept = np.intersect1d(kept, indices(value.dims[axis], fold.unit)[unit])
            array = np.take(array, kept, axis)
        total = np.asarray(fold.constants.values[unit]).astype(array.dtype) * array.sum(axis=summed)
        return self.sign * total.reshape(np.shape(arrays[self.bias]))


def plan(program: Program, parameters: int, fold: Fold) -> Plan | None:
    """How to fold, or None where no bias is added to the product, or to a sum of it with others."""
    operation = fold.operation
    kernel = outermost(program, operation.inputs[1 - fold.place])
    if operation not in within(program) or kernel not in program.inputs[:parameters]:
        return None
    _, summed = _contracted(fold)
    holding = [axis for axis in summed if fold.unit in leaves(kernel.dims[axis])]
    if not _sums_everywhere(operation) or len(holding) != 1:
        return None
    users = _users(program)
    for added, sign in _added(operation.outputs[0], users):
        bias = _parameter_behind(added, program, parameters, users)
        if bias is not None and _takes_up(fold, kernel, program.inputs[bias]):
            return Plan(fold, program.inputs.index(kernel), bias, sign)
    return None


def _added(result: Value, users: Users) -> Iterator[tuple[Value, int]]:
    """What is added to a value, one after the other, and the sign of it, while nothing else reads the sum."""
    while (user := _only(users[result])) is not None:
        if user.name in ("add", "add_any", "sub"):
            place = user.inputs.index(result)
            total = user.outputs[0]
            if user.name == "sub" and place == 1:
                return
            yield user.inputs[1 - place], -1 if user.name == "sub" else 1
            # A sum of another kind may be rounded, one of another shape holds the constant more than once.
            if (total.shape, total.dtype) != (result.shape, result.dtype):
                return
        elif user.name != "convert_element_type" or not _of_one_kind(user):
            return
        result = user.outputs[0]


def _contracted(fold: Fold) -> tuple[int, tuple[int, ...]]:
    """Of the kernel: the axis of the units, and all axes that are summed over."""
    operation, place = fold.operation, 1 - fold.place
    numbers = operation.params["dimension_numbers"]
    if operation.name == "conv_general_dilated":
        return numbers.rhs_spec[1], tuple(numbers.rhs_spec[1:])
    ours, theirs = numbers[0][place], numbers[0][fold.place]
    return ours[list(theirs).index(fold.axis)], tuple(ours)


def _sums_everywhere(operation: Operation) -> bool:
    """Whether each element of the result sums over all of the kernel: no border, no groups, no batch axes."""
    params = operation.params
    if operation.name == "dot_general":
        return not any(len(axes) for axes in params["dimension_numbers"][1])
    padded = any(any(pair) for pair in params["padding"])
    dilated = any(step != 1 for step in params["lhs_dilation"] or ())
    return params["feature_group_count"] == 1 and not padded and not dilated


def _users(program: Program) -> Users:
    """What reads each value; None stands for who reads the outputs, of the program or of a block's body."""
    users: Users = {value: [] for value in program.inputs + program.constants}
    for operation in program.operations:
        for value in operation.inputs:
            users[value].append(operation)
        users |= {value: [] for value in operation.outputs}
        if handed_in(operation):
            users |= _users(operation.bodies[0])
    for value in program.outputs:
        users[value].append(None)
    return users


def _only(users: Sequence[Operation | None]) -> Operation | None:
    return users[0] if len(users) == 1 else None


def _of_one_kind(operation: Operation) -> bool:
    """Whether it neither rounds to whole numbers nor drops imaginary parts."""
    kinds = (jnp.floating, jnp.complexfloating)
    values = (*operation.inputs, *operation.outputs)
    return any(all(jnp.issubdtype(value.dtype, kind) for value in values) for kind in kinds)


def _parameter_behind(value: Value, program: Program, parameters: int, users: Users) -> int | None:
    makers = {output: operation for operation in within(program) for output in operation.outputs}
    outside = origins(program)
    while len(users[value]) == 1:
        if value in outside:
            value = outside[value]
        elif value in makers and makers[value].name in _SAME_ORDER and _of_one_kind(makers[value]):
            value = makers[value].inputs[0]
        else:
            known = program.inputs[:parameters]
            return known.index(value) if value in known else None
    return None


def _takes_up(fold: Fold, kernel: Value, bias: Value) -> bool:
    """Whether the bias has the kernel's other axes and nothing else, each only once in the result."""
    if not jnp.issubdtype(bias.dtype, jnp.inexact):
        return False
    _, summed = _contracted(fold)
    free = [find(d) for axis, d in enumerate(kernel.dims) if axis not in summed and d.size != 1]
    mine = [find(dimension) for dimension in bias.dims if dimension.size != 1]
    result = [find(dimension) for dimension in fold.operation.outputs[0].dims]
    return mine == free and all(result.count(dimension) == 1 for dimension in free)
