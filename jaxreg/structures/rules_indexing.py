"""Rules of gathers, scatters and slices at computed positions."""

from jaxreg.structures.dimensions import pin
from jaxreg.structures.program import Operation
from jaxreg.structures.rules import Axes, fixed, hold, join, kept, rule


@rule("gather")
def gather(operation: Operation) -> Axes:
    numbers, sizes = operation.params["dimension_numbers"], operation.params["slice_sizes"]
    operand, indices = operation.inputs
    batches = dict(zip(numbers.operand_batching_dims, numbers.start_indices_batching_dims, strict=True))
    hold(operation, [len(indices.shape) - 1], 1)
    batching = {axis: join(operation, [(0, mine), (1, axis)]) for mine, axis in batches.items()}
    windows = iter(
        axis
        for axis in range(len(operand.shape))
        if axis not in numbers.collapsed_slice_dims and axis not in batches
    )
    hold(operation, numbers.collapsed_slice_dims)
    looked_up = iter(range(len(indices.shape) - 1))
    axes = []
    for axis in range(len(operation.outputs[0].shape)):
        if axis not in numbers.offset_dims:
            index = next(looked_up)
            axes.append(batching.get(index, kept(operation, index, 1)))
            continue
        mine = next(windows)
        if sizes[mine] == operand.shape[mine] and mine not in numbers.start_index_map:
            axes.append(kept(operation, mine))
        else:
            hold(operation, [mine])
            axes.append(fixed(operation, sizes[mine]))
    return [axes]


@rule("scatter", "scatter-add", "scatter-sub", "scatter-mul", "scatter-min", "scatter-max")
def scatter(operation: Operation) -> Axes:
    numbers = operation.params["dimension_numbers"]
    operand, indices, updates = operation.inputs
    hold(operation, [len(indices.shape) - 1], 1)
    hold(operation, numbers.inserted_window_dims)
    batches = dict(zip(numbers.scatter_indices_batching_dims, numbers.operand_batching_dims, strict=True))
    windows = iter(
        axis
        for axis in range(len(operand.shape))
        if axis not in numbers.inserted_window_dims and axis not in numbers.operand_batching_dims
    )
    looked_up = iter(range(len(indices.shape) - 1))
    axes = [kept(operation, axis) for axis in range(len(operand.shape))]
    for axis, size in enumerate(updates.shape):
        if axis not in numbers.update_window_dims:
            index = next(looked_up)
            if index in batches:
                mine = batches[index]
                axes[mine] = join(operation, [(0, mine), (1, index), (2, axis)])
            else:
                # Each position goes where its index says: the operand is made of all of them.
                join(operation, [(1, index), (2, axis)])
                hold(operation, [axis], 2)
            continue
        mine = next(windows)
        if size == operand.shape[mine] and mine not in numbers.scatter_dims_to_operand_dims:
            axes[mine] = join(operation, [(0, mine), (2, axis)])
        else:
            hold(operation, [mine])
            hold(operation, [axis], 2)
    return [axes]


@rule("dynamic_slice")
def dynamic_slice(operation: Operation) -> Axes:
    operand = operation.inputs[0]
    axes = []
    for axis, size in enumerate(operation.outputs[0].shape):
        if size == operand.shape[axis]:
            axes.append(kept(operation, axis))
        else:
            hold(operation, [axis])
            axes.append(fixed(operation, size))
    return [axes]


@rule("dynamic_update_slice")
def dynamic_update_slice(operation: Operation) -> Axes:
    operand, update = operation.inputs[:2]
    axes = []
    for axis, size in enumerate(update.shape):
        if size == operand.shape[axis]:
            axes.append(join(operation, [(0, axis), (1, axis)]))
        else:
            hold(operation, [axis])
            pin(update.dims[axis], operation.where)
            axes.append(kept(operation, axis))
    return [axes]
