"""What is known to be constant along the units of an axis, and what primitives make of it.

A fact is about one unit of one axis: every element of the slice has the same, known value. Facts are
evaluated with the real primitives, on the few different values that occur.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from jaxreg.structures.dimensions import Dimension, leaves, positions
from jaxreg.structures.program import Operation, Value, bind


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

    def along(self, axis: int, unit: Dimension) -> Known | None:
        if self.whole is not None:
            return Known(np.ones(unit.size, bool), np.full(unit.size, self.whole))
        return self.axes[axis].get(unit)


def nothing(value: Value) -> Facts:
    return Facts(axes=tuple({} for _ in value.shape))


def of_array(value: Value, array: Any, tracked: frozenset[Dimension], kept: Any) -> Facts:
    """What can be read off an array, looking only at what has not been removed.

    ``kept`` gives the remaining positions along a dimension.
    """
    array = np.asarray(array)
    if array.size == 0:
        return nothing(value)
    first = array.reshape(-1)[0]
    if array.reshape(-1)[-1] == first and (array == first).all():
        return Facts(whole=first)
    for axis, dimension in enumerate(value.dims):
        left = kept(dimension)
        if len(left) != dimension.size:
            array = np.take(array, left, axis)
    axes: list[dict[Dimension, Known]] = []
    for axis, dimension in enumerate(value.dims):
        mine = [unit for unit in dict.fromkeys(leaves(dimension)) if unit in tracked]
        found = {}
        if mine:
            others = tuple(other for other in range(array.ndim) if other != axis)
            lowest, highest = (np.full(dimension.size, first) for _ in range(2))
            lowest[kept(dimension)] = array.min(axis=others)
            highest[kept(dimension)] = array.max(axis=others)
            for unit in mine:
                places = _left(indices(dimension, unit), kept(dimension))
                low, high = lowest[places].min(axis=1), highest[places].max(axis=1)
                found[unit] = Known(low == high, low)
        axes.append(found)
    return Facts(axes=tuple(axes))


def _left(places: np.ndarray, kept: np.ndarray) -> np.ndarray:
    """The positions of each unit, where one that is gone is replaced by one that is not."""
    alive = np.isin(places, kept)
    substitute = np.take_along_axis(places, alive.argmax(axis=1)[:, None], axis=1)
    return np.where(alive, places, substitute)


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
    if a.whole is not None and b.whole is not None and a.whole == b.whole:
        return a
    axes: list[dict[Dimension, Known]] = []
    for axis in range(len(value.shape)):
        units = {*(a.axes[axis] if a.axes else ()), *(b.axes[axis] if b.axes else ())}
        found = {unit: agreed([a.along(axis, unit), b.along(axis, unit)]) for unit in units}
        axes.append({unit: known for unit, known in found.items() if known is not None})
    return Facts(axes=tuple(axes))


def same(a: Facts, b: Facts) -> bool:
    if (a.whole is None) != (b.whole is None) or a.whole != b.whole:
        return False
    return all(
        x.keys() == y.keys()
        and all((x[u].mask == y[u].mask).all() and (x[u].values == y[u].values)[x[u].mask].all() for u in x)
        for x, y in zip(a.axes, b.axes, strict=True)
    )


def elementwise(operation: Operation, facts: Sequence[Facts]) -> Facts:
    """An elementwise primitive applied to the constants."""
    output = operation.outputs[0]
    if all(fact.whole is not None for fact in facts):
        result = _evaluate(operation, [np.full(1, fact.whole) for fact in facts])
        return nothing(output) if result is None else Facts(whole=result[0])
    axes: list[dict[Dimension, Known]] = []
    for axis, size in enumerate(output.shape):
        found = {}
        units = {unit for fact in facts if len(fact.axes) > axis for unit in fact.axes[axis]}
        for unit in units:
            columns = [
                _column(value, fact, axis, size, len(output.shape), unit)
                for value, fact in zip(operation.inputs, facts, strict=True)
            ]
            known = _combined(operation, columns, unit.size)
            if known is not None and known.mask.any():
                found[unit] = known
        axes.append(found)
    return Facts(axes=tuple(axes))


def _column(value: Value, fact: Facts, axis: int, size: int, ndim: int, unit: Dimension) -> Known | None:
    aligned = len(value.shape) == ndim and value.shape[axis] == size
    return fact.along(axis, unit) if aligned or fact.whole is not None else None


def _combined(operation: Operation, columns: Sequence[Known | None], size: int) -> Known | None:
    dtype = operation.outputs[0].dtype
    mask, values = np.zeros(size, bool), np.zeros(size, _plain(dtype))
    if all(column is not None for column in columns):
        known = [column for column in columns if column is not None]
        mask = np.logical_and.reduce([column.mask for column in known])
        if mask.any():
            result = _evaluate(operation, [column.values[mask] for column in known])
            if result is None:
                return None
            values[mask] = result
    absorbed = _absorbed(operation.name, columns, size)
    if absorbed is not None:
        values = np.where(absorbed.mask & ~mask, absorbed.values, values).astype(values.dtype)
        mask = mask | absorbed.mask
    return Known(mask, values)


def _absorbed(name: str, columns: Sequence[Known | None], size: int) -> Known | None:
    """What is known although an operand is not, as 0 times anything finite."""
    if name == "mul":
        zero = np.logical_or.reduce([column.zero for column in columns if column is not None], initial=False)
        return Known(np.broadcast_to(zero, (size,)), np.zeros(size))
    if name == "div" and columns[0] is not None:
        return Known(columns[0].zero, np.zeros(size))
    if name == "select_n":
        return agreed(columns[1:])
    return None


def _evaluate(operation: Operation, columns: Sequence[np.ndarray]) -> np.ndarray | None:
    if not all(_is_number(value.dtype) for value in (*operation.inputs, *operation.outputs)):
        return None
    columns = [column.astype(value.dtype) for column, value in zip(columns, operation.inputs, strict=True)]
    rows = np.stack([column.astype(np.complex128) for column in columns], axis=1)
    _, first, back = np.unique(rows, axis=0, return_index=True, return_inverse=True)
    # One of few lengths, since each new one is compiled.
    length = 1 << (len(first) - 1).bit_length()
    padded = np.concatenate([first, np.repeat(first[:1], length - len(first))])
    with jax.ensure_compile_time_eval():
        result = bind(operation.primitive, operation.params, [jax.numpy.asarray(c[padded]) for c in columns])
    result = result[0] if operation.primitive.multiple_results else result
    return np.asarray(result)[: len(first)][back.reshape(-1)]


def _is_number(dtype: Any) -> bool:
    return jax.numpy.issubdtype(dtype, np.number) or dtype == np.bool_


def _plain(dtype: Any) -> Any:
    return dtype if _is_number(dtype) else np.float32
