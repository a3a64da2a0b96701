"""Rules of the primitives that move, merge, cut and lengthen axes."""

import itertools

from jaxreg.structures.dimensions import (
    Dimension,
    blocks,
    concatenation,
    cut,
    leaf,
    pin,
    product,
    split,
    unify,
)
from jaxreg.structures.program import Operation
from jaxreg.structures.rules import Axes, Axis, fixed, hold, join, kept, rule, unknown

Moves = tuple[tuple[int, int], ...]


@rule("transpose")
def transpose(operation: Operation) -> Axes:
    return [[kept(operation, axis) for axis in operation.params["permutation"]]]


@rule("squeeze")
def squeeze(operation: Operation) -> Axes:
    ndim = len(operation.inputs[0].shape)
    dropped = {axis % ndim for axis in operation.params["dimensions"]}
    hold(operation, dropped)
    return [[kept(operation, axis) for axis in range(ndim) if axis not in dropped]]


@rule("expand_dims")
def expand_dims(operation: Operation) -> Axes:
    shape = operation.outputs[0].shape
    new = {axis % len(shape) for axis in operation.params["dimensions"]}
    old = itertools.count()
    return [[Axis(leaf(1)) if axis in new else kept(operation, next(old)) for axis in range(len(shape))]]


@rule("broadcast_in_dim")
def broadcast(operation: Operation) -> Axes:
    (value, *dynamic), shape = operation.inputs, operation.outputs[0].shape
    if dynamic:
        return unknown(operation)
    origin = {out: axis for axis, out in enumerate(operation.params["broadcast_dimensions"])}
    # What is repeated does not depend on the position: any length will do.
    return [
        [
            kept(operation, origin[axis])
            if axis in origin and value.shape[origin[axis]] == size
            else Axis(leaf(size), ((0, origin[axis]),) if axis in origin else ())
            for axis, size in enumerate(shape)
        ]
    ]


@rule("reshape")
def reshape(operation: Operation) -> Axes:
    (value, *dynamic), shape = operation.inputs, operation.outputs[0].shape
    if dynamic or operation.params.get("dimensions") is not None or 0 in value.shape:
        return unknown(operation)
    out: list[Axis] = [fixed(operation, 1) if size == 1 else Axis(leaf(size)) for size in shape]
    for olds, news in blocks(value.shape, shape):
        dims: list[Dimension] = [value.dims[axis] for axis in olds]
        moves: Moves = tuple((0, axis) for axis in olds)
        if len(news) == 1:
            out[news[0]] = Axis(product(dims), moves)
            continue
        parts = [leaf(shape[axis]) for axis in news]
        unify(product(dims), product(parts), operation.where)
        for axis, part in zip(news, parts, strict=True):
            out[axis] = Axis(part, moves)
    return [out]


@rule("concatenate")
def concatenate(operation: Operation) -> Axes:
    along = operation.params["dimension"]
    places = range(len(operation.inputs))
    axes = []
    for axis in range(len(operation.outputs[0].shape)):
        pairs = [(place, axis) for place in places]
        if axis == along:
            parts = [operation.inputs[place].dims[axis] for place in places]
            axes.append(Axis(concatenation(parts), tuple(pairs)))
        else:
            axes.append(join(operation, pairs))
    return [axes]


@rule("stack")
def stack(operation: Operation) -> Axes:
    along = operation.params["axis"] % len(operation.outputs[0].shape)
    places = range(len(operation.inputs))
    axes = [join(operation, [(p, axis) for p in places]) for axis in range(len(operation.inputs[0].shape))]
    axes.insert(along, fixed(operation, len(operation.inputs)))
    return [axes]


@rule("unstack")
def unstack(operation: Operation) -> Axes:
    along = operation.params["axis"] % len(operation.inputs[0].shape)
    hold(operation, [along])
    rest = [axis for axis in range(len(operation.inputs[0].shape)) if axis != along]
    return [[kept(operation, axis) for axis in rest] for _ in operation.outputs]


@rule("tile")
def tile(operation: Operation) -> Axes:
    axes = []
    for axis, times in enumerate(operation.params["reps"]):
        same = kept(operation, axis)
        axes.append(Axis(product([leaf(times), same.dimension]), same.moves))
    return [axes]


@rule("split")
def split_axis(operation: Operation) -> Axes:
    along = operation.params["axis"]
    value = operation.inputs[0]
    parts = cut(value.dims[along], operation.params["sizes"], operation.where)
    return [
        [
            Axis(part, ((0, along),)) if axis == along else kept(operation, axis)
            for axis in range(len(value.shape))
        ]
        for part in parts
    ]


@rule("slice")
def slice_axes(operation: Operation) -> Axes:
    params, value = operation.params, operation.inputs[0]
    strides = params["strides"] or (1,) * len(value.shape)
    bounds = zip(params["start_indices"], params["limit_indices"], strides, strict=True)
    return [[_sliced(operation, axis, *bound) for axis, bound in enumerate(bounds)]]


def _sliced(operation: Operation, axis: int, start: int, limit: int, stride: int) -> Axis:
    value = operation.inputs[0]
    size, dimension = value.shape[axis], value.dims[axis]
    if stride == 1:
        if (start, limit) == (0, size):
            return kept(operation, axis)
        parts = cut(dimension, [start, limit - start, size - limit], operation.where)
        return Axis(parts[1], ((0, axis),))
    if start < stride and size % stride == 0 and limit > size - stride + start:
        # One of every few, as in rotary embeddings of neighbouring pairs.
        slow, fast = split(dimension, [size // stride, stride], operation.where)
        pin(fast, operation.where)
        return Axis(slow, ((0, axis),))
    hold(operation, [axis])
    return fixed(operation, operation.outputs[0].shape[axis])


@rule("pad")
def pad(operation: Operation) -> Axes:
    axes = []
    for axis, (low, high, interior) in enumerate(operation.params["padding_config"]):
        if low == high == interior == 0:
            axes.append(kept(operation, axis))
        elif interior == 0 and low >= 0 and high >= 0:
            inner = operation.inputs[0].dims[axis]
            axes.append(Axis(concatenation([leaf(low), inner, leaf(high)]), ((0, axis),)))
        else:
            hold(operation, [axis])
            axes.append(fixed(operation, operation.outputs[0].shape[axis]))
    return [axes]
