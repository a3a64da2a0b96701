"""What operations that sum, multiply, pad or look up make of the constants that slices hold."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import jax.numpy as jnp
import numpy as np
from jax.lax import GatherScatterMode

from jaxreg.structures import facts as f
from jaxreg.structures.dimensions import Dimension
from jaxreg.structures.facts import Facts, Known
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
            return Known(known.mask, known.values * np.asarray(times, known.values.dtype))
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
    # Of a known constant only what a parameter makes of it can be folded.
    place = 0 if operation.inputs[1] in walk.program.inputs else 1
    fold = None
    if (side := sides[place]) is not None:
        # An infinite one stays where it is.
        constants = Known(side.mask & np.isfinite(side.values), side.values)
        fold = Fold(operation, place, axes[place], unit, constants, ~ok)
    walk.judge(operation, unit, ok, fold)


def _convolution(walk: "Exactness", operation: Operation, facts: Sequence[Facts]) -> Facts:
    image, kernel = operation.inputs
    numbers = operation.params["dimension_numbers"]
    channels, outputs, inputs = numbers.lhs_spec[1], numbers.rhs_spec[0], numbers.rhs_spec[1]
    for unit in walk.units(kernel)[inputs]:
        _contract(walk, operation, facts, (channels, inputs), unit)
    axes: list[dict[Dimension, Known]] = [{} for _ in operation.outputs[0].shape]
    axes[numbers.out_spec[0]] = _zeros(walk, operation, [(image, facts[0], numbers.lhs_spec[0])])
    made = _zeros(walk, operation, [(kernel, facts[1], outputs)])
    if operation.params["feature_group_count"] > 1:
        # A group of channels that is zero on either side is zero in what comes out.
        inner = set(walk.units(kernel)[inputs])
        own = [unit for unit in walk.units(image)[channels] if unit in walk.units(kernel)[outputs]]
        for unit in own:
            known = facts[0].along(channels, unit)
            if known is not None and unit not in inner:
                zero = known.zero | (made[unit].mask if unit in made else False)
                made[unit] = Known(zero, np.zeros(unit.size, operation.outputs[0].dtype))
    axes[numbers.out_spec[1]] = made
    return Facts(axes=tuple(axes))


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


def _window_max(walk: "Exactness", operation: Operation, facts: Sequence[Facts]) -> Facts:
    return walk.moved(operation, facts[:1])


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
    filler = _filler(operation)
    if facts[0].whole is not None:
        return facts[0] if filler is None or facts[0].whole == filler else f.nothing(operation.outputs[0])
    if filler is None:
        return moved
    same = lambda known: Known(known.mask & (known.values == filler), known.values)  # noqa: E731
    return Facts(axes=tuple({unit: same(known) for unit, known in found.items()} for found in moved.axes))


def _filler(operation: Operation) -> Any:
    """What an index out of bounds reads; None for one that reads an element, or something not finite."""
    if operation.params["mode"] in (GatherScatterMode.CLIP, GatherScatterMode.PROMISE_IN_BOUNDS):
        return None
    given = operation.params.get("fill_value")
    if given is not None:
        return given if np.isfinite(given) else None
    if jnp.issubdtype(operation.outputs[0].dtype, jnp.inexact):
        return None  # NaN
    return np.nan  # some extreme whole number, which equals nothing that is known


def _updated(walk: "Exactness", operation: Operation, facts: Sequence[Facts]) -> Facts:
    """Part of an operand replaced or added to: zero where both are."""
    update = operation.inputs[1 if operation.name == "dynamic_update_slice" else 2]
    new = facts[operation.inputs.index(update)]
    if facts[0].whole == 0 and new.whole == 0:
        return facts[0]
    axes = []
    operand = operation.inputs[0]
    for axis, units in enumerate(walk.units(operand)):
        found = {}
        for unit in units:
            places = [n for n, mine in enumerate(walk.units(update)) if unit in mine]
            if new.whole is None and not places:
                continue
            ours = facts[0].along(axis, unit)
            theirs = new.along(places[0] if places else 0, unit)
            if ours is not None and theirs is not None:
                found[unit] = Known(ours.zero & theirs.zero, ours.values)
        axes.append(found)
    return Facts(axes=tuple(axes))


JUDGED = frozenset([*NEUTRAL, "dot_general", "conv_general_dilated"])
"""Operations that sum over an axis, which their own rule judges."""

SPECIAL: dict[str, Callable[["Exactness", Operation, Sequence[Facts]], Facts]] = {
    **dict.fromkeys(NEUTRAL, _reduction),
    **dict.fromkeys(["cumsum", "reduce_window_sum"], _kept_zeros),
    **dict.fromkeys(["reduce_window_max", "reduce_window_min"], _window_max),
    **dict.fromkeys(["scatter", "scatter-add", "scatter-sub", "dynamic_update_slice"], _updated),
    "dot_general": _dot,
    "conv_general_dilated": _convolution,
    "pad": _pad,
    "iota": _iota,
    "tile": _tile,
    "gather": _gather,
}
