"""What each primitive does to dimensions: the table, and the rules that keep axes where they are.

A rule takes an operation whose inputs have their dimensions and returns, for each output, one
:class:`Axis` per axis. It unifies and pins on the way.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from jaxreg.structures.dimensions import Dimension, leaf, pin, pinned, unify
from jaxreg.structures.program import Operation


class Axis(NamedTuple):
    """An axis of an output, and the (input, axis) pairs that it continues."""

    dimension: Dimension
    moves: tuple[tuple[int, int], ...] = ()


Axes = Sequence[Sequence[Axis]]
Rule = Callable[[Operation], Axes]
RULES: dict[str, Rule] = {}

# Names of all supported versions of JAX; one that a version lacks does no harm.
ELEMENTWISE = frozenset(
    """
    abs acos acosh add add_any add_jaxvals and asin asinh atan atan2 atanh bessel_i0e bessel_i1e cbrt
    ceil clamp clz complex conj convert_element_type copy copy_p cos cosh digamma div eq eq_to erf
    erf_inv erfc exp exp2 expm1 floor ge ge_to gt gt_to igamma igamma_grad_a igammac imag integer_pow
    is_finite le le_to lgamma log log1p log2 logistic lt lt_to max min mul name ne neg nextafter not
    one_minus_square or polygamma polynomial population_count pow random_gamma_grad real
    reduce_precision regularized_incomplete_beta rem round rsqrt select_n shift_left
    shift_right_arithmetic shift_right_logical sign sin sinh sqrt square stop_gradient sub tan tanh xor
    zeros_like zeta mulhi
    """.split()
)
IDENTITIES = frozenset("device_put optimization_barrier sharding_constraint layout_constraint pvary".split())
REDUCTIONS = frozenset(
    """
    reduce_sum reduce_max reduce_min reduce_prod reduce_and reduce_or reduce_xor argmax argmin reduce
    """.split()
)
CUMULATIVE = frozenset("cumsum cumprod cummax cummin cumlogsumexp".split())
WINDOWS = frozenset("reduce_window reduce_window_sum reduce_window_max reduce_window_min".split())


def rule(*names: str) -> Callable[[Rule], Rule]:
    def add(function: Rule) -> Rule:
        RULES.update(dict.fromkeys(names, function))
        return function

    return add


def apply(operation: Operation) -> None:
    """Give the outputs their dimensions."""
    known = RULES.get(operation.name)
    axes = known(operation) if known is not None else unknown(operation)
    for value, spec in zip(operation.outputs, axes, strict=True):
        value.dims = tuple(axis.dimension for axis in spec)
        operation.moves.append([axis.moves for axis in spec])


def unknown(operation: Operation) -> Axes:
    """Pin everything that goes in or comes out."""

    def reason() -> str:
        return f"the primitive {operation.where()} is not known"

    for value in operation.inputs:
        for dimension in value.dims:
            pin(dimension, reason)
    return [[Axis(pinned(size, reason)) for size in value.shape] for value in operation.outputs]


def fixed(operation: Operation, size: int) -> Axis:
    """An axis that this operation makes and that has to stay as it is."""
    return Axis(pinned(size, operation.where))


def kept(operation: Operation, axis: int, place: int = 0) -> Axis:
    """An axis of an input, as it is."""
    return Axis(operation.inputs[place].dims[axis], ((place, axis),))


def hold(operation: Operation, axes: Iterable[int], place: int = 0) -> None:
    for axis in axes:
        pin(operation.inputs[place].dims[axis], operation.where)


def join(operation: Operation, pairs: Sequence[tuple[int, int]]) -> Axis:
    """Make (input, axis) pairs one axis."""
    first, *others = pairs
    dimension = operation.inputs[first[0]].dims[first[1]]
    for place, axis in others:
        unify(dimension, operation.inputs[place].dims[axis], operation.where)
    return Axis(dimension, tuple(pairs))


@rule(*ELEMENTWISE)
def elementwise(operation: Operation) -> Axes:
    shape = operation.outputs[0].shape
    axes = []
    for axis, size in enumerate(shape):
        # Scalars meet arrays in clamp and select_n, and axes of length 1 in newer versions.
        full = [
            (place, axis)
            for place, value in enumerate(operation.inputs)
            if len(value.shape) == len(shape) and value.shape[axis] == size
        ]
        axes.append(join(operation, full) if full else fixed(operation, size))
    return [axes]


@rule(*IDENTITIES)
def identity(operation: Operation) -> Axes:
    return [
        [kept(operation, axis, place) for axis in range(len(value.shape))]
        for place, value in enumerate(operation.inputs)
    ]


@rule("iota", "empty", "empty2")
def fresh(operation: Operation) -> Axes:
    return [[Axis(leaf(size)) for size in value.shape] for value in operation.outputs]


@rule(*REDUCTIONS)
def reduction(operation: Operation) -> Axes:
    params = operation.params
    dropped = params["dimensions"] if operation.name == "reduce" else params["axes"]
    if operation.name in ("argmax", "argmin", "reduce"):
        hold(operation, dropped)
    arrays = len(operation.outputs)
    rest = [axis for axis in range(len(operation.inputs[0].shape)) if axis not in dropped]
    for axis in range(len(operation.inputs[0].shape)):
        join(operation, [(place, axis) for place in range(arrays)])
    return [[kept(operation, axis, place) for axis in rest] for place in range(arrays)]


@rule(*CUMULATIVE, "rev")
def along_an_axis(operation: Operation) -> Axes:
    params = operation.params
    hold(operation, params["dimensions"] if operation.name == "rev" else [params["axis"]])
    return [[kept(operation, axis) for axis in range(len(operation.inputs[0].shape))]]


@rule("sort")
def sort(operation: Operation) -> Axes:
    hold(operation, [operation.params["dimension"]])
    places = range(len(operation.inputs))
    axes = range(len(operation.inputs[0].shape))
    joined = [join(operation, [(place, axis) for place in places]).dimension for axis in axes]
    return [[Axis(joined[axis], ((place, axis),)) for axis in axes] for place in places]


@rule("top_k", "approx_top_k")
def top_k(operation: Operation) -> Axes:
    ndim = len(operation.inputs[0].shape)
    params = operation.params
    along = params.get("axis", params.get("reduction_dimension", ndim - 1)) % ndim
    hold(operation, [along])
    return [
        [
            fixed(operation, value.shape[axis]) if axis == along else kept(operation, axis)
            for axis in range(ndim)
        ]
        for value in operation.outputs
    ]


@rule(*WINDOWS)
def window(operation: Operation) -> Axes:
    arrays = len(operation.outputs)
    params = operation.params
    outputs: list[list[Axis]] = [[] for _ in range(arrays)]
    for axis in range(len(operation.inputs[0].shape)):
        still = (
            params["window_dimensions"][axis] == 1
            and params["window_strides"][axis] == 1
            and tuple(params["padding"][axis]) == (0, 0)
            and all(
                params.get(name, (1,) * (axis + 1))[axis] == 1
                for name in ("base_dilation", "window_dilation")
            )
        )
        join(operation, [(place, axis) for place in range(arrays)])
        for place, axes in enumerate(outputs):
            if still:
                axes.append(kept(operation, axis, place))
            else:
                hold(operation, [axis], place)
                axes.append(fixed(operation, operation.outputs[place].shape[axis]))
    return outputs


@rule("bitcast_convert_type")
def bitcast(operation: Operation) -> Axes:
    same = operation.inputs[0].shape == operation.outputs[0].shape
    return elementwise(operation) if same else unknown(operation)
