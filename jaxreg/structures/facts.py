"""What is known to be constant along the units of an axis, and what primitives make of it.

A fact is about one unit of one axis: every element of the slice has the same, known value. Facts are
evaluated with the real primitives, on the few different values that occur. Zeros are zeros of either
sign: a sum of products with zeros may have any.
"""

import dataclasses
import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxreg.structures.dimensions import Dimension, leaves, positions
from jaxreg.structures.gradient_rules import bind
from jaxreg.structures.program import Operation, Value

_MOST_CHOICES = 128


@dataclasses.dataclass(frozen=True)
class Known:
    """For each unit, whether its slice is constant, and the constant."""

    mask: np.ndarray
    values: np.ndarray

    @property
    def zero(self) -> np.ndarray:
        return self.mask & (self.values == 0)


@dataclasses.dataclass(frozen=True)
class Facts:
    """About one array: the constant that it is as a whole, or for each axis what its units are."""

    whole: Any = None
    axes: tuple[dict[Dimension, Known], ...] = ()
    nan: bool = False
    """Whether elements may be NaN instead, because an index out of bounds was looked up."""

    def along(self, axis: int, unit: Dimension) -> Known | None:
        if self.whole is not None:
            return Known(np.ones(unit.size, bool), np.full(unit.size, self.whole))
        return self.axes[axis].get(unit)


def nothing(value: Value, nan: bool = False) -> Facts:
    return Facts(axes=tuple({} for _ in value.shape), nan=nan)


def of_constant(value: Value, tracked: frozenset[Dimension], kept: Any) -> Facts:
    """What can be read off a literal or a closed-over array."""
    array = np.asarray(value.constant)
    if array.size:
        first = array.reshape(-1)[0]
        if array.reshape(-1)[-1] == first and (array == first).all():
            return Facts(whole=first)
    return of_array(value, array, tracked, kept)


def of_array(value: Value, array: Any, tracked: frozenset[Dimension], kept: Any) -> Facts:
    """What the slices of units are, looking only at what has not been removed.

    ``kept`` gives the remaining positions along a dimension. Of a parameter nothing else may be taken as
    known: what a unit is goes with the unit, but elements that stay go on changing in training.
    """
    array = np.asarray(array)
    axes: list[dict[Dimension, Known]] = []
    for axis, dimension in enumerate(value.dims):
        mine = [unit for unit in dict.fromkeys(leaves(dimension)) if unit in tracked]
        axes.append(_along(array, value, axis, mine, kept) if mine and array.size else {})
    return Facts(axes=tuple(axes))


def _along(
    array: np.ndarray, value: Value, axis: int, units: Sequence[Dimension], kept: Any
) -> dict[Dimension, Known]:
    for other, dimension in enumerate(value.dims):
        left = kept(dimension)
        if other != axis and len(left) != dimension.size:
            array = np.take(array, left, other)
    others = tuple(other for other in range(array.ndim) if other != axis)
    lowest, highest = array.min(axis=others), array.max(axis=others)
    found = {}
    for unit in units:
        places = indices(value.dims[axis], unit)
        alive = np.isin(places, kept(value.dims[axis]))
        substitute = np.take_along_axis(places, alive.argmax(axis=1)[:, None], axis=1)
        places = np.where(alive, places, substitute)
        low, high = lowest[places].min(axis=1), highest[places].max(axis=1)
        # Of a unit that is gone nothing is left to look at.
        found[unit] = Known((low == high) & alive.any(axis=1), low)
    return found


def indices(dimension: Dimension, unit: Dimension) -> np.ndarray:
    """(units, k): the positions of each unit along a dimension."""
    steps = np.arange(unit.size)[:, None]
    found = [np.asarray(b)[None] + steps * stride for u, stride, b in positions(dimension) if u is unit]
    return np.concatenate(found, axis=1)


def agreed(parts: Sequence[Known | None]) -> Known | None:
    """What all of them say."""
    if not parts or any(part is None for part in parts):
        return None
    first, *others = [part for part in parts if part is not None]
    mask = first.mask.copy()
    for other in others:
        mask &= other.mask & (other.values == first.values)
    return Known(mask, first.values)


def joined(a: Facts, b: Facts, value: Value) -> Facts:
    """What holds whichever of the two arrays it is."""
    nan = a.nan or b.nan
    if a.whole is not None and b.whole is not None and a.whole == b.whole:
        return Facts(a.whole, nan=nan)
    axes: list[dict[Dimension, Known]] = []
    for axis in range(len(value.shape)):
        units = {*(a.axes[axis] if a.axes else ()), *(b.axes[axis] if b.axes else ())}
        found = {unit: agreed([a.along(axis, unit), b.along(axis, unit)]) for unit in units}
        axes.append({unit: known for unit, known in found.items() if known is not None})
    return Facts(axes=tuple(axes), nan=nan)


def either(a: Facts, b: Facts) -> Facts:
    """What one or the other of two says about the same array."""
    if a.whole is not None or b.whole is not None:
        return b if a.whole is None else a
    axes = [dict(found) for found in a.axes]
    for found, more in zip(axes, b.axes, strict=True):
        for unit, known in more.items():
            mine = found.get(unit, known)
            found[unit] = Known(mine.mask | known.mask, np.where(mine.mask, mine.values, known.values))
    return Facts(axes=tuple(axes), nan=a.nan and b.nan)


def same(a: Facts, b: Facts) -> bool:
    if (a.whole is None) != (b.whole is None) or a.whole != b.whole or a.nan != b.nan:
        return False
    return all(
        x.keys() == y.keys()
        and all((x[u].mask == y[u].mask).all() and (x[u].values == y[u].values)[x[u].mask].all() for u in x)
        for x, y in zip(a.axes, b.axes, strict=True)
    )


def elementwise(operation: Operation, facts: Sequence[Facts]) -> Facts:
    """An elementwise primitive applied to the constants."""
    output = operation.outputs[0]
    nan = tainted(output, facts)
    perhaps = [fact.nan for fact in facts]
    if all(fact.whole is not None for fact in facts):
        result = _evaluate(operation, [np.full(1, fact.whole) for fact in facts], perhaps)
        return Facts(whole=result.values[0], nan=nan) if result.mask[0] else nothing(output, nan)
    axes: list[dict[Dimension, Known]] = []
    for axis, size in enumerate(output.shape):
        found = {}
        units = {unit for fact in facts if len(fact.axes) > axis for unit in fact.axes[axis]}
        for unit in units:
            columns = [
                _column(value, fact, axis, size, len(output.shape), unit)
                for value, fact in zip(operation.inputs, facts, strict=True)
            ]
            known = _combined(operation, columns, unit.size, perhaps)
            if known.mask.any():
                found[unit] = known
        axes.append(found)
    return Facts(axes=tuple(axes), nan=nan)


def tainted(output: Value, facts: Sequence[Facts]) -> bool:
    """Whether a result may be NaN because an operand may; whole numbers and flags never are."""
    return any(fact.nan for fact in facts) and jnp.issubdtype(output.dtype, jnp.inexact)


def _column(value: Value, fact: Facts, axis: int, size: int, ndim: int, unit: Dimension) -> Known | None:
    aligned = len(value.shape) == ndim and value.shape[axis] == size
    return fact.along(axis, unit) if aligned or fact.whole is not None else None


def _combined(
    operation: Operation, columns: Sequence[Known | None], size: int, perhaps: Sequence[bool]
) -> Known:
    output = operation.outputs[0]
    mask, values = np.zeros(size, bool), np.zeros(size, _plain(output.dtype))
    if all(column is not None for column in columns):
        known = [column for column in columns if column is not None]
        mask = np.logical_and.reduce([column.mask for column in known])
        if mask.any():
            result = _evaluate(operation, [column.values[mask] for column in known], perhaps)
            values[mask] = result.values
            mask[mask] = result.mask
    absorbed = _absorbed(operation, columns, size)
    if absorbed is not None:
        values = np.where(absorbed.mask & ~mask, absorbed.values, values).astype(values.dtype)
        mask = mask | absorbed.mask
    return Known(mask, values)


def _absorbed(operation: Operation, columns: Sequence[Known | None], size: int) -> Known | None:
    """What is known although an operand is not, as 0 times anything finite."""
    name = operation.name
    if name == "mul":
        zero = np.logical_or.reduce([column.zero for column in columns if column is not None], initial=False)
        return Known(np.broadcast_to(zero, (size,)), np.zeros(size))
    # Of whole numbers 0 / 0 is -1.
    if name == "div" and columns[0] is not None and jnp.issubdtype(operation.outputs[0].dtype, jnp.inexact):
        return Known(columns[0].zero, np.zeros(size))
    if name == "select_n":
        return agreed(columns[1:])
    return None


def _evaluate(operation: Operation, columns: Sequence[np.ndarray], perhaps: Sequence[bool]) -> Known:
    """The results, and which of them are the same for zeros of either sign and where an operand is NaN.

    ``perhaps`` says which operands may be NaN: then the result may be, but nothing else.
    """
    size, dtype = len(columns[0]), operation.outputs[0].dtype
    unknown = Known(np.zeros(size, bool), np.zeros(size, _plain(dtype)))
    if not all(is_number(value.dtype) for value in (*operation.inputs, *operation.outputs)):
        return unknown
    choices = [
        list(_choices(column.astype(value.dtype), nan))
        for column, value, nan in zip(columns, operation.inputs, perhaps, strict=True)
    ]
    rows = list(itertools.islice(itertools.product(*choices), _MOST_CHOICES + 1))
    if len(rows) > _MOST_CHOICES:
        return unknown
    results = _apply(operation, [np.concatenate(column) for column in zip(*rows, strict=True)])
    first, *others = results.reshape(len(rows), size)
    mask = np.ones(size, bool)
    for row, other in zip(rows[1:], others, strict=True):
        is_nan = np.logical_or.reduce([column != column for column in row])
        mask &= (other == first) | ((other != other) & ((first != first) | is_nan))
    return Known(mask, first)


def _choices(column: np.ndarray, nan: bool) -> Iterator[np.ndarray]:
    """What a column of constants may be: with zeros of either sign, and with NaN where that may be."""
    if not jnp.issubdtype(column.dtype, jnp.inexact):
        yield column
        return
    if jnp.issubdtype(column.dtype, np.complexfloating):
        for real, imag in itertools.product(_signs(np.real(column)), _signs(np.imag(column))):
            both = np.empty_like(column)
            both.real, both.imag = real, imag
            yield both
    else:
        yield from _signs(column)
    if nan:
        yield np.full_like(column, np.nan)


def _signs(column: np.ndarray) -> Iterator[np.ndarray]:
    zero = column == 0
    positive = np.where(zero, np.zeros_like(column), column)
    yield positive
    if zero.any():
        yield np.where(zero, -positive, positive)


def _apply(operation: Operation, columns: Sequence[np.ndarray]) -> np.ndarray:
    # Bit by bit, as zeros of the two signs are equal.
    bits = [np.ascontiguousarray(column)[:, None].view(np.uint8) for column in columns]
    _, first, back = np.unique(np.concatenate(bits, axis=1), axis=0, return_index=True, return_inverse=True)
    # One of few lengths, since each new one is compiled.
    length = 1 << (len(first) - 1).bit_length()
    padded = np.concatenate([first, np.repeat(first[:1], length - len(first))])
    with jax.ensure_compile_time_eval():
        result = _result(operation, [jnp.asarray(c[padded]) for c in columns])
    return np.asarray(result)[: len(first)][back.reshape(-1)]


def _result(operation: Operation, arrays: Sequence[Any]) -> Any:
    if operation.bodies:
        (body,) = operation.bodies
        known = dict(zip(body.inputs, arrays, strict=True))
        known |= {value: value.constant for value in body.constants}
        for inner in body.operations:
            known[inner.outputs[0]] = _result(inner, [known[value] for value in inner.inputs])
        return known[body.outputs[0]]
    result = bind(operation.primitive, operation.params, arrays)
    return result[0] if operation.primitive.multiple_results else result


def is_number(dtype: Any) -> bool:
    return jnp.issubdtype(dtype, np.number) or dtype == np.bool_


def _plain(dtype: Any) -> Any:
    return dtype if is_number(dtype) else np.float32
