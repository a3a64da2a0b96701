"""Read the coupled structures of a model from the jaxpr of its function."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from jaxreg import masks, patterns
from jaxreg.arguments import check_flag
from jaxreg.mask_algebra import Mask
from jaxreg.structures import rules_contractions, rules_indexing, rules_shapes  # noqa: F401  fill the table
from jaxreg.structures.by_path import by_path
from jaxreg.structures.dimensions import Dimension, leaf, pin, positions, unify
from jaxreg.structures.graph import Graph, Group, Member, Pin, Run
from jaxreg.structures.program import Program, Value, read
from jaxreg.structures.recording import record, record_what_varies, shape_of
from jaxreg.structures.roles import find_roles
from jaxreg.structures.rules_control import walk
from jaxreg.tree import FlatTree, PyTree, flatten, is_absent, is_variable_box

_LINEN = "params/"

Ties = Sequence[Sequence[tuple[str, int]]]


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How a graph was traced, to trace it again. It holds the function and shapes, never arrays."""

    apply_fn: Callable[..., Any]
    inputs: PyTree
    state_outputs: Callable[[Any], Any] | None
    frozen: Any
    tie: Ties
    state: tuple[str, ...]
    free_inputs: bool
    free_outputs: bool


@dataclasses.dataclass(frozen=True)
class Trace:
    """A program with its dimensions, and where the parameters stand in it."""

    program: Program
    flat: FlatTree
    traced: tuple[int, ...]
    """Which leaves of the parameters are arrays or numbers that vary; they are the first inputs of the
    program, in this order."""
    state: dict[int, int]
    """Leaf to the output that is its new value."""
    untrained: frozenset[int]
    """Leaves in NNX variables that are no parameters, such as running averages."""
    out_tree: Any

    def parameter(self, index: int) -> Value:
        return self.program.inputs[self.traced.index(index)]


def trace(
    apply_fn: Callable[..., Any],
    params: PyTree,
    *example_inputs: Any,
    state_outputs: Callable[[Any], Any] | None = None,
    frozen: Any = (),
    tie: Ties = (),
    state: str | Sequence[str] = (),
    free_inputs: bool = False,
    free_outputs: bool = False,
) -> Graph:
    r"""Find which slices of which parameters live and die together, from the function itself.

    A hidden unit lies in several leaves: a kernel's output column, its bias, the scale, bias, mean and
    variance of a batch normalisation, the next kernel's input row, and, through residual connections, in
    those of many layers. The function is traced to a jaxpr, without computing anything, and each axis
    of each array is followed through it. What cannot be followed is left as it is, and
    ``graph.pinned`` says why.

    Args:
        apply_fn: any function of ``(params, *inputs)`` that ``jax.jit`` takes: a Linen ``apply``, a
            function that merges an NNX module, an Equinox module called, plain JAX. Trace it as it is
            used for inference, so that random numbers do not pin what they touch.
        params: a pytree of arrays or of ``jax.ShapeDtypeStruct``. It may hold state beside parameters,
            such as ``batch_stats``. Python numbers are arrays without axes, as they are to ``jax.jit``;
            those that the function needs to know, as a length or in a branch, may not change later.
        *example_inputs: what else the function takes, arrays or ``jax.ShapeDtypeStruct``.
        state_outputs: for a function that also returns new values of leaves of ``params``: a function
            from its output to a pytree of those values, whose paths are those of the leaves,
            ``lambda out: {"batch_stats": out[1]["batch_stats"]}``. Other outputs keep their shape.
        frozen: leaves whose shape must stay: path patterns as in :func:`jaxreg.masks.path`, or a mask.
        tie: axes that must lose the same units, although the function does not say so, because a
            framework checks that their lengths are equal: lists of ``(path pattern, axis)``.
        state: path patterns of leaves that are not trained, such as ``"**/running_mean"``: they shrink with
            their groups, and penalties leave them alone. Those of ``state_outputs`` need not be named, nor
            the collections of Linen's variables beside ``"params"`` and the NNX variables beside ``Param``.
        free_inputs: let the inputs lose units. Default: they keep their shape.
        free_outputs: let the outputs lose units that are zero in them.

    Returns:
        A :class:`Graph`, which is a structure for the ``groups`` argument of penalties. It holds no array:
        it is equal to another one with the same groups.

    Raises:
        TypeError, ValueError: for a bad argument, a pattern that matches no leaf, tied axes of
            different lengths.

    Examples:
        >>> import jax, jax.numpy as jnp
        >>> import jaxreg
        >>> def apply(params, x):
        ...     return jax.nn.relu(x @ params["w1"] + params["b1"]) @ params["w2"]
        >>> params = {"w1": jnp.ones((3, 8)), "b1": jnp.ones(8), "w2": jnp.ones((8, 2))}
        >>> graph = jaxreg.structures.trace(apply, params, jax.ShapeDtypeStruct((1, 3), jnp.float32))
        >>> [(m.path, m.axis, m.role) for m in graph.groups[0].members]
        [('b1', 0, 'produces'), ('w1', 1, 'produces'), ('w2', 0, 'consumes')]
        >>> penalty = jaxreg.group_lasso(0.1, graph)  # of the 8 units, each in w1 and b1

    Notes:
        Coupling follows the flow of data, never equal sizes. One array that is passed as two leaves is not
        seen to be shared: pass it once. Axes of length 1 have no unit to lose and are not listed. What has
        no part in the outputs, such as a debug print, is left out.
    """
    recipe = Recipe(
        apply_fn=_callable(apply_fn),
        inputs=jax.tree.map(shape_of, example_inputs),
        state_outputs=state_outputs,
        frozen=frozen,
        tie=tie,
        state=(state,) if isinstance(state, str) else tuple(state),
        free_inputs=check_flag(free_inputs, "free_inputs", "structures.trace"),
        free_outputs=check_flag(free_outputs, "free_outputs", "structures.trace"),
    )
    return graph_of(retrace(recipe, params), recipe)


def retrace(
    recipe: Recipe, params: PyTree, inputs: PyTree | None = None, traced: Sequence[int] | None = None
) -> Trace:
    """The program of the recipe's function, with the dimensions of all its values.

    ``traced`` are the leaves that vary. Default: all arrays and numbers, but numbers that the function needs
    to know, as a length or in a branch, stay as they are.
    """
    flat = flatten(params)
    by_path(flat, "The parameters that structures.trace takes")
    inputs = recipe.inputs if inputs is None else inputs
    if traced is None:
        traced, recorded = record_what_varies(recipe.apply_fn, flat, inputs)
    else:
        recorded = record(recipe.apply_fn, flat, traced, inputs)
    jaxpr, outputs = recorded
    program = read(jaxpr)
    for value in program.inputs:
        value.dims = _fresh(value)
    out_leaves, out_tree = jax.tree.flatten(outputs)
    state = _state_outputs(recipe, out_leaves, out_tree, flat)
    result = Trace(program, flat, tuple(traced), state, _untrained(params), out_tree)
    _pin_arguments(result, recipe)
    walk(program)
    _pin_results(result, recipe)
    return result


def graph_of(trace: Trace, recipe: Recipe) -> Graph:
    groups, pins = find_groups(trace)
    return Graph(
        groups=tuple(group for _, group in groups),
        leaves=tuple(
            (trace.flat.paths[index], trace.program.inputs[place].shape)
            for place, index in enumerate(trace.traced)
        ),
        state=_state_paths(trace, recipe),
        pinned=tuple(pins),
        recipe=recipe,
    )


def find_groups(trace: Trace) -> tuple[list[tuple[Dimension, Group]], list[Pin]]:
    """The groups, each with the dimension whose units they are, and what is pinned."""
    roles = find_roles(trace.program, len(trace.traced))
    members: dict[Dimension, list[Member]] = {}
    pins: list[Pin] = []
    for place, index in enumerate(trace.traced):
        value, path = trace.program.inputs[place], trace.flat.paths[index]
        for axis, dimension in enumerate(value.dims):
            runs: dict[Dimension, list[Run]] = {}
            for unit, stride, bases in positions(dimension):
                runs.setdefault(unit, []).append(Run(stride, bases))
            for unit, found in runs.items():
                if unit.size == 1:
                    continue
                if unit.reason is None:
                    member = Member(path, axis, roles[place, axis], unit.size, tuple(found))
                    members.setdefault(unit, []).append(member)
                else:
                    pins.append(Pin(path, axis, unit.size, unit.reason))
    return [(unit, Group(unit.size, tuple(found))) for unit, found in members.items()], pins


def _pin_arguments(trace: Trace, recipe: Recipe) -> None:
    program, paths = trace.program, trace.flat.paths
    if not recipe.free_inputs:
        for value in program.inputs[len(trace.traced) :]:
            for dimension in value.dims:
                pin(dimension, lambda: "an input of the function")
    used = {value for operation in program.operations for value in operation.inputs} | set(program.outputs)
    for index in trace.traced:
        if trace.parameter(index) not in used:
            _pin_all(trace.parameter(index), "the function does not use it")
    frozen = _selected(recipe.frozen, trace.flat, "frozen")
    for index in trace.traced:
        if frozen[index]:
            _pin_all(trace.parameter(index), "frozen")
    for tied in recipe.tie:
        _tie([_check_tie(entry) for entry in tied], trace, paths)


def _tie(tied: Sequence[tuple[str, int]], trace: Trace, paths: Sequence[str]) -> None:
    found = []
    for pattern, axis in tied:
        for index in patterns.matches(pattern, paths, "the 'tie' parameter of structures.trace"):
            if index not in trace.traced:
                continue
            value = trace.parameter(index)
            if not -len(value.shape) <= axis < len(value.shape):
                raise ValueError(
                    f"The 'tie' parameter of structures.trace names axis {axis} of the leaf '{paths[index]}' "
                    f"of shape {value.shape}."
                )
            found.append((paths[index], value.dims[axis]))
    for path, dimension in found[1:]:
        first, theirs = found[0]
        if dimension.size != theirs.size:
            raise ValueError(
                f"The 'tie' parameter of structures.trace joins axes of different lengths: {theirs.size} of "
                f"'{first}' and {dimension.size} of '{path}'."
            )
        unify(theirs, dimension, lambda: "tied axes that do not align")


def _check_tie(entry: Any) -> tuple[str, int]:
    is_pair = isinstance(entry, tuple | list) and len(entry) == 2
    if not is_pair or not isinstance(entry[0], str) or not isinstance(entry[1], int):
        raise TypeError(
            "The 'tie' parameter of structures.trace must be lists of (path pattern, axis), as in "
            f"[[('q/kernel', 1), ('k/kernel', 1)]]. Got {entry!r}."
        )
    return entry[0], entry[1]


def _pin_results(trace: Trace, recipe: Recipe) -> None:
    owners = {output: index for index, output in trace.state.items()}
    for number, value in enumerate(trace.program.outputs):
        if number in owners:
            mine = trace.parameter(owners[number])
            for a, b in zip(value.dims, mine.dims, strict=True):
                unify(a, b, lambda: "a state whose new value does not align with it")
        elif not recipe.free_outputs:
            _pin_all(value, "an output of the function")


def _state_outputs(recipe: Recipe, leaves: Sequence[Any], out_tree: Any, flat: FlatTree) -> dict[int, int]:
    if recipe.state_outputs is None:
        return {}
    owner = "The 'state_outputs' parameter of structures.trace"
    marks = [jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) for leaf in leaves]
    numbers = {id(mark): number for number, mark in enumerate(marks)}
    named = flatten(recipe.state_outputs(jax.tree.unflatten(out_tree, marks)))
    found = {}
    for path, mark in zip(named.paths, named.leaves, strict=True):
        if id(mark) not in numbers:
            raise ValueError(f"{owner} must pick leaves of the output. Got {mark!r} for '{path}'.")
        if path not in flat.path_set:
            raise ValueError(
                f"{owner} names the leaf '{path}', which the parameters do not have. "
                f"They have: {patterns.abridged(flat.paths)}."
            )
        index = flat.paths.index(path)
        if np.shape(flat.leaves[index]) != mark.shape:
            raise ValueError(
                f"{owner} gives a value of shape {mark.shape} to the leaf '{path}' of shape "
                f"{np.shape(flat.leaves[index])}."
            )
        found[index] = numbers[id(mark)]
    return found


def _state_paths(trace: Trace, recipe: Recipe) -> frozenset[str]:
    named = _selected(recipe.state, trace.flat, "state")
    linen = any(path.startswith(_LINEN) for path in trace.flat.paths)
    return frozenset(
        path
        for index, path in enumerate(trace.flat.paths)
        if named[index]
        or index in trace.state
        or index in trace.untrained
        or (linen and not path.startswith(_LINEN))
    )


def _untrained(params: PyTree) -> frozenset[int]:
    boxes = jax.tree.leaves(params, is_leaf=lambda node: is_absent(node) or is_variable_box(type(node)))
    found, index = set(), 0
    for node in boxes:
        count = len(flatten(node).leaves)
        if is_variable_box(type(node)) and not any(base.__name__ == "Param" for base in type(node).__mro__):
            found.update(range(index, index + count))
        index += count
    return frozenset(found)


def _selected(chosen: Any, flat: FlatTree, name: str) -> list[bool]:
    if isinstance(chosen, str):
        chosen = (chosen,)
    if isinstance(chosen, tuple | list):
        hits: set[int] = set()
        for pattern in chosen:
            if not isinstance(pattern, str):
                raise TypeError(
                    f"The '{name}' parameter of structures.trace must be path patterns or a mask. "
                    f"Got {pattern!r}."
                )
            hits.update(patterns.matches(pattern, flat.paths, f"the '{name}' parameter of structures.trace"))
        return [index in hits for index in range(len(flat.paths))]
    mask = chosen if isinstance(chosen, Mask) else masks.as_mask(chosen)
    return mask.select(flat)


def _pin_all(value: Value, reason: str) -> None:
    for dimension in value.dims:
        pin(dimension, lambda: reason)


def _fresh(value: Value) -> Any:
    return tuple(leaf(size) for size in value.shape)


def _callable(apply_fn: Any) -> Callable[..., Any]:
    if not callable(apply_fn):
        raise TypeError(
            "The 'apply_fn' parameter of structures.trace must be a function of (params, *inputs). "
            f"Got {apply_fn!r}."
        )
    return apply_fn
