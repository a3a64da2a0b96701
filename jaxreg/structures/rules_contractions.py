"""Rules of matrix products and convolutions."""

from jaxreg.structures.dimensions import split, unify
from jaxreg.structures.program import Operation
from jaxreg.structures.rules import Axes, Axis, fixed, hold, join, kept, rule, unknown


@rule("dot_general")
def dot_general(operation: Operation) -> Axes:
    (left_sum, right_sum), (left_batch, right_batch) = operation.params["dimension_numbers"]
    for left, right in zip(left_sum, right_sum, strict=True):
        join(operation, [(0, left), (1, right)])
        operation.contracted |= {(0, left), (1, right)}
    batch = [join(operation, [(0, a), (1, b)]) for a, b in zip(left_batch, right_batch, strict=True)]
    free = [
        kept(operation, axis, place)
        for place, used in enumerate([(*left_sum, *left_batch), (*right_sum, *right_batch)])
        for axis in range(len(operation.inputs[place].shape))
        if axis not in used
    ]
    return [[*batch, *free]]


@rule("conv_general_dilated")
def convolution(operation: Operation) -> Axes:
    params = operation.params
    if params["batch_group_count"] != 1:
        return unknown(operation)
    image, kernel = operation.inputs
    numbers = params["dimension_numbers"]
    (batch, channels, *space), (outputs, inputs, *window) = numbers.lhs_spec, numbers.rhs_spec
    hold(operation, space)
    hold(operation, window, 1)
    groups = params["feature_group_count"]
    operation.contracted |= {(0, channels), (1, inputs)}
    if groups == 1:
        join(operation, [(0, channels), (1, inputs)])
    else:
        # Channels are (groups, channels of a group) on both sides; each group has its own kernel.
        shares = [groups, image.shape[channels] // groups]
        ours, inner = split(image.dims[channels], shares, operation.where)
        unify(inner, kernel.dims[inputs], operation.where)
        theirs, _ = split(kernel.dims[outputs], [groups, kernel.shape[outputs] // groups], operation.where)
        unify(ours, theirs, operation.where)
    shape = operation.outputs[0].shape
    axes: list[Axis] = [fixed(operation, 1)] * len(shape)
    out_batch, out_channels, *out_space = numbers.out_spec
    axes[out_batch] = kept(operation, batch)
    axes[out_channels] = kept(operation, outputs, 1)
    for axis in out_space:
        axes[axis] = fixed(operation, shape[axis])
    return [axes]
