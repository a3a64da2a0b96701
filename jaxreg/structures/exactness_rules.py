"""What operations that sum, multiply, pad or look up make of the constants that slices hold."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import jax.numpy as jnp
import numpy as np
from jax.lax import GatherScatterMode

from jaxreg.structures import facts as f
from jaxreg.structures.dimensions import Dimension
from jaxreg.structures.facts import Facts, Known
from jaxreg.structures.origins import outermost
from jaxreg.structures.program import Operation, Value
from jaxreg.structures.verdicts import Fold

if TYPE_CHECKING:
    from jaxreg.structures.exactness import Exactness

# What a removed element must be for the others' result to stay.
NEUTRAL = {
    "reduce_sum": 0, "reduce_prod": 1, "reduce_max": -np.inf, "reduce_min": np.inf, "reduce_and": True,
    "reduce_or": False, "reduce_xor": False,
}  # fmt: skip


def _reduction(walk: "Exactness", operation: Operation, facts: Sequence[Facts]) -> Facts:
    value, fact = operation.inputs[0], facts[0]
    neutral = NEUTRAL[operation.name]
    dropped = operation.params["axes"]
    for axis in dropped:
        for unit in walk.units(value)[axis]:
            known = fact.along(axis, unit)
            walk.judge(
                operation,
                unit,
                np.zeros(unit.size, bool) if known is None else known.mask & (known.values == neutral),
            )
    times = int(np.prod([value.shape[axis] for axis in dropped]))

    def reduced(known: Known) -> Known:
        if operation.name == "reduce_sum":
            # In the dtype of the sum, in which as many terms may overflow; but zeros add up to zero.
            total = known.values * np.asarray(times).astype(known.values.dtype)
            return Known(known.mask, np.where(known.values == 0, known.values, total))
        if operation.name in ("reduce_prod", "reduce_xor"):
            return Known(known.mask & (known.values == neutral), known.values)
        return known

    if fact.whole is not None:
        known = reduced(Known(np.ones(1, bool), np.asarray([fact.whole])))
        # As many terms as there are now: a constant other than zero is not the same after a removal.
        steady = known.mask[0] and (
            operation.name != "reduce_sum" or fact.whole == 0 or not walk.any(value, dropped)
        )
        return Facts(whole=known.values[0]) if steady else f.nothing(operation.outputs[0])
    steady = not walk.any(value, dropped)
    axes = []
    for axis in range(len(value.shape)):
        if axis not in dropped:
            found = {unit: reduced(known) for unit, known in fact.axes[axis].items()}
            if operation.name == "reduce_sum" and not steady:
                found = {unit: Known(known.zero, known.values) for unit, known in found.items()}
            axes.append(found)
    return Facts(axes=tuple(axes))


def _dot(walk: "Exactness", operation: Operation, facts: Sequence[Facts]) -> Facts:
    (sums, batches) = operation.params["dimension_numbers"]
    left, right = operation.inputs
    for a, b in zip(*sums, strict=True):
        for unit in walk.units(left)[a]:
            _contract(walk, operation, facts, (a, b), unit)
    if any(fact.whole is not None and fact.whole == 0 for fact in facts):
        return Facts(whole=np.zeros((), operation.outputs[0].dtype)[()])
    axes: list[dict[Dimension, Known]] = []
    for a, b in zip(*batches, strict=True):
        axes.append(_zeros(walk, operation, [(left, facts[0], a), (right, facts[1], b)]))
    for place, value in enumerate((left, right)):
        used = (*sums[place], *batches[place])
        for axis in range(len(value.shape)):
            if axis not in used:
                axes.append(_zeros(walk, operation, [(value, facts[place], axis)]))
    return Facts(axes=tuple(axes))


def _contract(
    walk: "Exactness", operation: Operation, facts: Sequence[Facts], axes: tuple[int, int], unit: Dimension
) -> None:
    sides = [fact.along(axis, unit) for fact, axis in zip(facts, axes, strict=True)]
    ok = np.zeros(unit.size, bool)
    for side in sides:
        if side is not None:
            ok |= side.zero
    place = _constant_side(walk, operation, sides, ok)
    fold = None
    if (side := sides[place]) is not None:
        # An infinite one stays where it is.
        constants = Known(side.mask & np.isfinite(side.values), side.values)
        fold = Fold(operation, place, axes[place], unit, constants, ~ok)
    walk.judge(operation, unit, ok, fold)


def _constant_side(
    walk: "Exactness", operation: Operation, sides: Sequence[Known | None], ok: np.ndarray
) -> int:
    """Of which side a known constant could be folded: that which meets a parameter."""
    given = [outermost(walk.program, value) in walk.program.inputs for value in operation.inputs]
    if any(given):
        return 0 if given[1] else 1
    return 0 if sides[1] is None or not (sides[1].mask & ~ok).any() else 1


def _convolution(walk: "Exactness", operation: Operation, facts: Sequence[Facts]) -> Facts:
    image, kernel = operation.inputs
    numbers = operation.params["dimension_numbers"]
    channels, outputs, inputs = numbers.lhs_spec[1], numbers.rhs_spec[0], numbers.rhs_spec[1]
    for unit in walk.units(kernel)[inputs]:
        _contract(walk, operation, facts, (channels, inputs), unit)
    axes: list[dict[Dimension, Known]] = [{} for _ in operation.outputs[0].shape]
    axes[numbers.out_spec[0]] = _zeros(walk, operation, [(image, facts[0], numbers.lhs_spec[0])])
    made = _zeros(walk, operation, [(kernel, facts[1], outputs)])
    for unit, zero in _empty_groups(walk, operation, facts[0]).items():
        if unit in made:
            zero = zero | made[unit].mask
        made[unit] = Known(zero, np.zeros(unit.size, operation.outputs[0].dtype))
    axes[numbers.out_spec[1]] = made
    return Facts(axes=tuple(axes))


def _empty_groups(walk: "Exactness", operation: Operation, image: Facts) -> dict[Dimension, np.ndarray]:
    """The units that are made of nothing but groups of channels that are zero."""
    numbers, groups = operation.params["dimension_numbers"], operation.params["feature_group_count"]
    channels = operation.inputs[0].dims[numbers.lhs_spec[1]]
    made = operation.inputs[1].dims[numbers.rhs_spec[0]]
    found = {}
    for unit in walk.units(operation.inputs[0])[numbers.lhs_spec[1]] if groups > 1 else ():
        known = image.along(numbers.lhs_spec[1], unit)
        if known is not None and unit in walk.units(operation.inputs[1])[numbers.rhs_spec[0]]:
            read = f.indices(channels, unit)
            makers = f.indices(made, unit) // (made.size // groups)
            each = channels.size // groups
            covered = [
                np.isin(np.arange(each) + each * np.unique(mine)[:, None], ours).all()
                for mine, ours in zip(makers, read, strict=True)
            ]
            found[unit] = known.zero & np.asarray(covered)
    return found


def _zeros(
    walk: "Exactness", operation: Operation, sides: Sequence[tuple[Value, Facts, int]]
) -> dict[Dimension, Known]:
    """The units along an axis that are zero on one of the sides."""
    found: dict[Dimension, np.ndarray] = {}
    for value, fact, axis in sides:
        for unit in walk.units(value)[axis]:
            known = fact.along(axis, unit)
            if known is not None:
                found[unit] = known.zero | found.get(unit, np.zeros(unit.size, bool))
    return {
        unit: Known(mask, np.zeros(unit.size, operation.outputs[0].dtype)) for unit, mask in found.items()
    }


def _kept_zeros(walk: "Exactness", operation: Operation, facts: Sequence[Facts]) -> Facts:
    """For sums along other axes: zero stays zero."""
    moved = walk.moved(operation, facts[:1])
    if moved.whole is not None:
        return moved if moved.whole == 0 else f.nothing(operation.outputs[0])
    return Facts(
        axes=tuple(
            {unit: Known(known.zero, known.values) for unit, known in axis.items()} for axis in moved.axes
        )
    )


def _extreme(walk: "Exactness", operation: Operation, facts: Sequence[Facts]) -> Facts:
    """The largest or smallest of a constant is it, where each window has an element that is no padding."""
    if all(_windows_meet(operation, axis) for axis in range(len(operation.inputs[0].shape))):
        return walk.moved(operation, facts[:1])
    return f.nothing(operation.outputs[0])


def _windows_meet(operation: Operation, axis: int) -> bool:
    params = operation.params
    base, step = (params.get(name, (1,) * (axis + 1))[axis] for name in ("base_dilation", "window_dilation"))
    starts = np.arange(operation.outputs[0].shape[axis]) * params["window_strides"][axis]
    taps = starts[:, None] + np.arange(params["window_dimensions"][axis]) * step - params["padding"][axis][0]
    real = (taps >= 0) & (taps < operation.inputs[0].shape[axis] * base) & (taps % base == 0)
    return bool(real.any(axis=1).all())


def _pad(walk: "Exactness", operation: Operation, facts: Sequence[Facts]) -> Facts:
    fact, filler = facts[0], facts[1].whole
    output = operation.outputs[0]
    if fact.whole is not None and fact.whole == filler:
        return fact
    config = operation.params["padding_config"]
    axes = []
    for axis, units in enumerate(walk.units(output)):
        elsewhere = any(any(c) for number, c in enumerate(config) if number != axis)
        found = {}
        inner = walk.units(operation.inputs[0])[axis]
        for unit in units:
            known = fact.along(axis, unit) if unit in inner else None
            if unit not in inner and filler is not None:
                known = Known(np.ones(unit.size, bool), np.full(unit.size, filler))
            elif known is not None and (elsewhere or _grown(operation, axis, unit)):
                known = (
                    Known(known.mask & (known.values == filler), known.values) if filler is not None else None
                )
            if known is not None:
                found[unit] = known
        axes.append(found)
    return Facts(axes=tuple(axes))


def _tile(walk: "Exactness", operation: Operation, facts: Sequence[Facts]) -> Facts:
    """Copies; but the copies may themselves be units, which are more than what they are copies of."""
    moved = walk.moved(operation, facts)
    if moved.whole is not None:
        return moved
    axes = []
    for axis, times in enumerate(operation.params["reps"]):
        before, after = operation.inputs[0].dims[axis], operation.outputs[0].dims[axis]
        found = {}
        for unit, known in moved.axes[axis].items():
            if f.indices(after, unit).size == times * f.indices(before, unit).size:
                found[unit] = known
        axes.append(found)
    return Facts(axes=tuple(axes))


def _grown(operation: Operation, axis: int, unit: Dimension) -> bool:
    """Whether a unit of the operand lies in the padding too."""
    before, after = operation.inputs[0].dims[axis], operation.outputs[0].dims[axis]
    return f.indices(before, unit).shape != f.indices(after, unit).shape


def _iota(walk: "Exactness", operation: Operation, facts: Sequence[Facts]) -> Facts:
    output = operation.outputs[0]
    axes: list[dict[Dimension, Known]] = [{} for _ in output.shape]
    axis = operation.params["dimension"]
    for unit in walk.units(output)[axis]:
        places = f.indices(output.dims[axis], unit)
        if places.shape[1] == 1:
            axes[axis][unit] = Known(np.ones(unit.size, bool), places[:, 0].astype(output.dtype))
    return Facts(axes=tuple(axes))


def _gather(walk: "Exactness", operation: Operation, facts: Sequence[Facts]) -> Facts:
    moved = walk.moved(operation, [facts[0], Facts(axes=tuple({} for _ in operation.inputs[1].shape))])
    if facts[0].whole is not None:
        moved = Facts(whole=facts[0].whole)
    if operation.params["mode"] in (GatherScatterMode.CLIP, GatherScatterMode.PROMISE_IN_BOUNDS):
        return moved
    filler = _filler(operation)
    if filler is None:
        return dataclasses.replace(moved, nan=True)
    if moved.whole is not None:
        return moved if moved.whole == filler else f.nothing(operation.outputs[0])
    same = lambda known: Known(known.mask & (known.values == filler), known.values)  # noqa: E731
    return Facts(axes=tuple({unit: same(known) for unit, known in found.items()} for found in moved.axes))


def _filler(operation: Operation) -> Any:
    """What an index out of bounds reads; None for NaN."""
    given = operation.params.get("fill_value")
    if given is None and not jnp.issubdtype(operation.outputs[0].dtype, jnp.inexact):
        return np.nan  # some extreme whole number, which equals nothing that is known
    return None if given is None or np.isnan(given) else given


def _updated(walk: "Exactness", operation: Operation, facts: Sequence[Facts]) -> Facts:
    """Part of an operand replaced or added to: zero where both are."""
    if not _replaces_or_adds(operation):
        return f.nothing(operation.outputs[0])
    arrays = (0, 1 if operation.name == "dynamic_update_slice" else 2)
    if all(facts[place].whole == 0 for place in arrays):
        return facts[0]
    axes = []
    for units, pairs in zip(walk.units(operation.inputs[0]), operation.moves[0], strict=True):
        found = {}
        for unit in units:
            known = f.agreed([facts[place].along(axis, unit) for place, axis in pairs if place in arrays])
            if known is not None:
                found[unit] = Known(known.zero, known.values)
        axes.append(found)
    return Facts(axes=tuple(axes))


def _replaces_or_adds(operation: Operation) -> bool:
    """Not where a function of the user's own is applied to what is there."""
    function = operation.params.get("update_jaxpr")
    return operation.name != "scatter" or function is None or function.outvars[0] is function.invars[1]


JUDGED = frozenset([*NEUTRAL, "dot_general", "conv_general_dilated"])
"""Operations that sum over an axis, which their own rule judges."""

SPECIAL: dict[str, Callable[["Exactness", Operation, Sequence[Facts]], Facts]] = {
    **dict.fromkeys(NEUTRAL, _reduction),
    **dict.fromkeys(["cumsum", "reduce_window_sum"], _kept_zeros),
    **dict.fromkeys(["reduce_window_max", "reduce_window_min"], _extreme),
    **dict.fromkeys(["scatter", "scatter-add", "scatter-sub", "dynamic_update_slice"], _updated),
    "dot_general": _dot,
    "conv_general_dilated": _convolution,
    "pad": _pad,
    "iota": _iota,
    "tile": _tile,
    "gather": _gather,
}
