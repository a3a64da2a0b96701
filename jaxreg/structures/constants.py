"""Whole numbers that are known while a program is read, and what they make static.

``x[..., ::2]`` and ``x[-1]`` are slices in newer versions of JAX; older ones gather at computed positions.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from jax.extend.core import primitives

_MOST = 2**16
"""Elements of a constant that is worked out; positions are few."""

_FUNCTIONS: dict[str, Callable[..., Any]] = {
    "add": np.add,
    "sub": np.subtract,
    "mul": np.multiply,
    "neg": np.negative,
    "lt": np.less,
    "le": np.less_equal,
    "gt": np.greater,
    "ge": np.greater_equal,
    "eq": np.equal,
    "ne": np.not_equal,
    "min": np.minimum,
    "max": np.maximum,
    "select_n": lambda which, *cases: np.choose(which, cases),
    **dict.fromkeys(["squeeze", "reshape", "convert_element_type", "copy", "device_put"], lambda x: x),
}


def folded(
    name: str, params: Mapping[str, Any], inputs: Sequence[Any], shape: tuple[int, ...], dtype: Any
) -> np.ndarray | None:
    """The result of an operation on known whole numbers, or None."""
    if not _is_whole(dtype) or np.prod(shape) > _MOST:
        return None
    if name == "iota":
        axis = params["dimension"]
        lengths = [length if number == axis else 1 for number, length in enumerate(shape)]
        return np.broadcast_to(np.arange(shape[axis], dtype=dtype).reshape(lengths), shape)
    if not inputs or any(value is None or not _is_whole(_dtype(value)) for value in inputs):
        return None
    arrays = [np.asarray(value) for value in inputs]
    if name == "broadcast_in_dim":
        lengths = [1] * len(shape)
        for length, axis in zip(arrays[0].shape, params["broadcast_dimensions"], strict=True):
            lengths[axis] = length
        return np.broadcast_to(arrays[0].reshape(lengths), shape)
    if name not in _FUNCTIONS:
        return None
    result = np.asarray(_FUNCTIONS[name](*arrays)).astype(dtype)
    return result.reshape(shape) if result.size == np.prod(shape) else None


def as_slice(
    name: str,
    params: Mapping[str, Any],
    shape: tuple[int, ...],
    positions: Sequence[Any],
    out: tuple[int, ...],
) -> tuple[Any, dict[str, Any]] | None:
    """The slice that a gather or a dynamic slice at known positions is, as a primitive and its parameters."""
    if not positions or any(value is None for value in positions):
        return None
    if name == "dynamic_slice":
        sizes = params["slice_sizes"]
        starts = [
            int(np.clip(np.asarray(start), 0, length - size))
            for start, length, size in zip(positions, shape, sizes, strict=True)
        ]
        return _slice(starts, [start + size for start, size in zip(starts, sizes, strict=True)], None)
    numbers = params["dimension_numbers"]
    places = np.asarray(positions[0])
    if numbers.operand_batching_dims or places.ndim != 2 or places.shape[1] != 1 or len(places) == 0:
        return None
    (axis,), places = numbers.start_index_map, places[:, 0]
    steps = set(np.diff(places).tolist()) or {1}
    in_place = axis not in numbers.offset_dims and len(out) == len(shape)
    whole = all(s == (1 if n == axis else length) for n, (s, length) in enumerate(_pairs(params, shape)))
    within = places.min() >= 0 and places.max() < shape[axis]
    if tuple(numbers.collapsed_slice_dims) != (axis,) or not (in_place and whole and within):
        return None
    if len(steps) != 1 or min(steps) < 1:
        return None
    starts, limits, strides = [0] * len(shape), list(shape), [1] * len(shape)
    starts[axis], limits[axis], strides[axis] = int(places[0]), int(places[-1]) + 1, int(steps.pop())
    return _slice(starts, limits, tuple(strides))


def _pairs(params: Mapping[str, Any], shape: tuple[int, ...]) -> list[tuple[int, int]]:
    return list(zip(params["slice_sizes"], shape, strict=True))


def _slice(starts: Sequence[int], limits: Sequence[int], strides: Any) -> tuple[Any, dict[str, Any]]:
    params = {"start_indices": tuple(starts), "limit_indices": tuple(limits), "strides": strides}
    return primitives.slice_p, params


def _dtype(value: Any) -> Any:
    """Keys of random numbers have one too, but no NumPy array."""
    return value.dtype if hasattr(value, "dtype") else np.asarray(value).dtype


def _is_whole(dtype: Any) -> bool:
    return isinstance(dtype, np.dtype) and dtype.kind in "biu"
