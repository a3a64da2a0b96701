"""The smaller model as a function: one recorded program per kind of its inputs."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxreg.structures.by_path import of_traced
from jaxreg.structures.compare import first_difference
from jaxreg.structures.evidence import Evidence
from jaxreg.structures.program import Value, read
from jaxreg.structures.recording import shape_of
from jaxreg.structures.removal import Removal
from jaxreg.structures.replay import replay
from jaxreg.structures.tracing import Trace, find_groups, retrace
from jaxreg.tree import PyTree, flatten


class Smaller:
    """Call it with smaller parameters and inputs. It holds shapes and constants, never parameters."""

    def __init__(
        self, graph: Any, trace: Trace, removal: Removal, params: PyTree, evidence: Evidence
    ) -> None:
        flat, count = flatten(params), len(trace.traced)
        self.graph = graph
        self.kept = {group: removal.kept(unit) for unit, group in find_groups(trace)[0]}
        # Under the name ``trace`` JAX would call it, as it does that of a jitted function.
        self._trace, self._removal, self._evidence = trace, removal, evidence
        self.leaves = of_traced(flat, trace.traced)
        varying = frozenset(trace.traced)
        large = [shape_of(leaf) if index in varying else leaf for index, leaf in enumerate(flat.leaves)]
        self._large = dataclasses.replace(flat, leaves=tuple(large))
        self._small = _resized(
            [large[index] for index in trace.traced], trace.program.inputs[:count], removal
        )
        leaves, tree = jax.tree.flatten(graph.recipe.inputs)
        self.inputs = jax.tree.unflatten(tree, _resized(leaves, trace.program.inputs[count:], removal))
        """Shapes of the traced inputs, without units that were removed from them."""
        self._programs: dict[Any, Any] = {}

    def __call__(self, params: PyTree, *inputs: Any) -> Any:
        arrays = self.leaves.pick(params, "the smaller model")
        for path, array, expected in zip(self.leaves.arrays, arrays, self._small, strict=True):
            shape, dtype, _ = _signature(array)
            if (shape, dtype) != (expected.shape, str(expected.dtype)):
                raise ValueError(
                    f"The smaller model takes '{path}' of shape {expected.shape} and dtype {expected.dtype}. "
                    f"Got {shape} and {dtype}. For another dtype trace the graph with parameters of it."
                )
        return self._program(arrays, inputs)(arrays, inputs)

    def __deepcopy__(self, memo: Any) -> "Smaller":
        return self

    def __reduce__(self) -> Any:
        raise TypeError(
            "A smaller model holds the function that was traced and cannot be pickled: "
            "jaxreg.structures.save writes what it computes to a file."
        )

    def _program(self, arrays: Sequence[Any], inputs: Sequence[Any]) -> Any:
        key = _kind(arrays, inputs)
        if key not in self._programs:
            recorded = self._trace, self._removal
            if key != _kind(self._small, self.inputs):
                recorded = self._at(arrays, self._enlarged(inputs))
            self._programs[key] = jax.jit(_replayed(*recorded))
        return self._programs[key]

    def _enlarged(self, inputs: Sequence[Any]) -> Any:
        """Shapes with the units that were removed from inputs, which the large model is traced with."""
        shapes = jax.tree.map(shape_of, tuple(inputs))
        values = self._input_values(self._trace)
        if not any(self._removal.touches(value) for value in values):
            return shapes
        leaves, tree = jax.tree.flatten(shapes)
        if tree != jax.tree.structure(self.inputs):
            raise ValueError(
                f"The smaller model takes inputs {jax.tree.structure(self.inputs)}, because units were "
                f"removed from them. Got {tree}."
            )
        whole = [_whole(leaf, value, self._removal) for leaf, value in zip(leaves, values, strict=True)]
        return jax.tree.unflatten(tree, whole)

    def _input_values(self, trace: Trace) -> Sequence[Value]:
        return trace.program.inputs[len(trace.traced) :]

    def _at(self, arrays: Sequence[Any], inputs: Sequence[Any]) -> tuple[Trace, Removal]:
        """The program for other inputs of the large model: the same groups must be found in it."""
        leaves = list(self._large.leaves)
        for index, array in zip(self._trace.traced, arrays, strict=True):
            leaves[index] = _of_shape(leaves[index], leaves[index].shape, shape_of(array).weak_type)
        shapes = jax.tree.map(shape_of, tuple(inputs))
        trace = retrace(self.graph.recipe, self._large.rebuild(leaves), shapes, self._trace.traced)
        found = {group: unit for unit, group in find_groups(trace)[0]}
        lost = [group for group, kept in self.kept.items() if len(kept) < group.size and group not in found]
        if lost:
            raise ValueError(
                f"With inputs of these shapes the units of '{lost[0].members[0].path}' are coupled otherwise "
                "than in the graph. Trace the graph with inputs of these shapes."
            )
        self._evidence.check(trace, found)
        left = {found[group]: kept for group, kept in self.kept.items() if group in found}
        return trace, Removal(left)

    def _on_arrays(self, params: PyTree, function: Callable[..., Any] | None = None) -> Callable[..., Any]:
        """The traced function, or another one, as a function of the arrays in ``params`` alone."""
        flat = flatten(params)
        apply_fn = self.graph.recipe.apply_fn if function is None else function

        def run(arrays: Sequence[Any], inputs: Sequence[Any]) -> Any:
            leaves = list(flat.leaves)
            for index, array in zip(self._trace.traced, arrays, strict=True):
                leaves[index] = array
            return apply_fn(flat.rebuild(leaves), *inputs)

        return run

    def difference(self, small: PyTree, function: Callable[..., Any] | None = None) -> str | None:
        """Where a function, given smaller parameters, first departs from the replay."""
        recorded = _replayed(self._trace, self._removal)
        expected = read(jax.make_jaxpr(recorded)(self._small, self.inputs))
        try:
            called = jax.make_jaxpr(self._on_arrays(small, function), return_shape=True)
            jaxpr, outputs = called(self._small, self.inputs)
            found = read(jaxpr)
        # Whatever the user's own code raises on shapes that it did not expect.
        except Exception as error:
            return f"it raises {type(error).__name__}: {next(iter(str(error).splitlines()), '')}"
        tree = jax.tree.structure(outputs)
        if tree != self._trace.out_tree:
            return f"its output is {tree} instead of {self._trace.out_tree}"
        return first_difference(expected, found)

    def verify(self, large: PyTree, small: PyTree, inputs: Sequence[Any], tolerance: float) -> None:
        """Raise if the outputs of the two models differ."""
        arrays = self.leaves.pick(large, "the graph")
        trace, removal = self._at(arrays, inputs)
        expected = jax.tree.leaves(jax.jit(self._on_arrays(large))(arrays, tuple(inputs)))
        leaves, tree = jax.tree.flatten(tuple(inputs))
        pairs = zip(self._input_values(trace), leaves, strict=True)
        fewer = jax.tree.unflatten(tree, [removal.take(value, leaf) for value, leaf in pairs])
        found = jax.tree.leaves(self(small, *fewer))
        for value, wanted, got in zip(trace.program.outputs, expected, found, strict=True):
            wanted, got = removal.take(value, _numbers(wanted)), _numbers(got)
            whole = got.dtype.kind in "biu"
            wanted, got = wanted.astype(np.complex128), got.astype(np.complex128)
            # Infinite logits are equal although their difference is not a number.
            with np.errstate(invalid="ignore"):
                apart = np.abs(wanted - got)
            apart = np.where((wanted == got) | (np.isnan(wanted) & np.isnan(got)), 0.0, apart)
            distance = float(apart.max(initial=0.0))
            scale = max(1.0, float(np.abs(wanted[np.isfinite(wanted)]).max(initial=0.0)))
            if not distance <= (0.0 if whole else tolerance * scale):
                raise ValueError(
                    f"The smaller model's output differs from the large one's by {distance:.3g}, which is "
                    f"more than the tolerance of {tolerance:g}. verify=False returns it anyway."
                )


def _replayed(trace: Trace, removal: Removal) -> Callable[..., Any]:
    def run(arrays: Sequence[Any], inputs: Sequence[Any]) -> Any:
        outputs = replay(trace.program, removal, [*arrays, *jax.tree.leaves(inputs)])
        return jax.tree.unflatten(trace.out_tree, outputs)

    return run


def _whole(small: Any, value: Value, removal: Removal) -> Any:
    """The shape of an input before units were removed from it."""
    left, size = removal.shape(value), value.shape
    fits = len(small.shape) == len(size) and all(
        here == whole or given == here for given, here, whole in zip(small.shape, left, size, strict=True)
    )
    if not fits:
        raise ValueError(
            f"The smaller model takes an input of shape {left}, from which units were removed: the axes that "
            f"were {size} before must have these lengths. Got {small.shape}."
        )
    lengths = zip(small.shape, left, size, strict=True)
    return _of_shape(small, [given if here == whole else whole for given, here, whole in lengths])


def _resized(leaves: Sequence[Any], values: Sequence[Value], removal: Removal) -> list[Any]:
    return [_of_shape(leaf, removal.shape(value)) for leaf, value in zip(leaves, values, strict=True)]


def _of_shape(like: Any, shape: Sequence[int], weak: bool | None = None) -> Any:
    is_weak = bool(like.weak_type if weak is None else weak)
    return jax.ShapeDtypeStruct(tuple(shape), like.dtype, weak_type=is_weak)


def _kind(arrays: Sequence[Any], inputs: Sequence[Any]) -> Any:
    """What a recorded program depends on: the promotion of dtypes is written into it."""
    leaves, tree = jax.tree.flatten(tuple(inputs))
    return tuple(_signature(array)[2] for array in arrays), tree, tuple(map(_signature, leaves))


def _signature(leaf: Any) -> tuple[tuple[int, ...], str, bool]:
    shape = shape_of(leaf)
    if not isinstance(shape, jax.ShapeDtypeStruct):
        raise TypeError(f"The smaller model takes arrays and numbers. Got {leaf!r}.")
    return shape.shape, str(shape.dtype), shape.weak_type


def _numbers(array: Any) -> np.ndarray:
    is_key = jnp.issubdtype(array.dtype, jax.dtypes.prng_key)
    return np.asarray(jax.random.key_data(array) if is_key else array)
