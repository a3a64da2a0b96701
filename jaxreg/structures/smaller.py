"""The smaller model as a function: one recorded program per shape of its inputs."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxreg.structures.compare import first_difference
from jaxreg.structures.evidence import Evidence
from jaxreg.structures.program import read
from jaxreg.structures.removal import Removal
from jaxreg.structures.replay import replay
from jaxreg.structures.tracing import Trace, find_groups, retrace, shape_of
from jaxreg.tree import PyTree, flatten


class Smaller:
    """Call it with smaller parameters and inputs. It holds shapes and constants, never parameters."""

    def __init__(
        self, graph: Any, trace: Trace, removal: Removal, params: PyTree, evidence: Evidence
    ) -> None:
        self.graph = graph
        self.large = jax.tree.map(shape_of, params)
        self.kept = {group: removal.kept(unit) for unit, group in find_groups(trace)[0]}
        self.traced = trace.traced
        self.trace, self.removal, self.evidence = trace, removal, evidence
        self._programs: dict[Any, Any] = {}

    def __call__(self, params: PyTree, *inputs: Any) -> Any:
        arrays = self._arrays(params)
        for index, value, array in zip(self.traced, self.trace.program.inputs, arrays, strict=False):
            expected = self.removal.shape(value), str(value.dtype)
            if _signature(array) != expected:
                raise ValueError(
                    f"The smaller model takes '{self.trace.flat.paths[index]}' of shape {expected[0]} and "
                    f"dtype {expected[1]}. Got {np.shape(array)} and {_signature(array)[1]}. For another "
                    "dtype trace the graph with parameters of it."
                )
        return self._program(inputs)(arrays, inputs)

    def _arrays(self, params: PyTree) -> list[Any]:
        """Modules may have leaves that are no arrays, such as activation functions."""
        flat = flatten(params)
        return [flat.leaves[index] for index in self.traced]

    def _program(self, inputs: Sequence[Any]) -> Any:
        shapes = jax.tree.map(_signature, inputs)
        key = jax.tree.structure(shapes), tuple(jax.tree.leaves(shapes))
        if key not in self._programs:
            self._programs[key] = self._make(inputs)
        return self._programs[key]

    def _make(self, inputs: Sequence[Any]) -> Any:
        trace, removal = self.trace, self.removal
        values = trace.program.inputs[len(self.traced) :]
        expected = [(removal.shape(value), str(value.dtype)) for value in values]
        if [_signature(leaf) for leaf in jax.tree.leaves(inputs)] != expected:
            trace, removal = self._at(inputs)

        @jax.jit
        def run(arrays: Sequence[Any], given: Sequence[Any]) -> Any:
            outputs = replay(trace.program, removal, [*arrays, *jax.tree.leaves(given)])
            return jax.tree.unflatten(trace.out_tree, outputs)

        return run

    def _at(self, inputs: Sequence[Any]) -> tuple[Trace, Removal]:
        """The program for other inputs: the same groups must be found in it."""
        trace = retrace(self.graph.recipe, self.large, jax.tree.map(shape_of, tuple(inputs)))
        found = {group: unit for unit, group in find_groups(trace)[0]}
        lost = [group for group, kept in self.kept.items() if len(kept) < group.size and group not in found]
        if lost:
            raise ValueError(
                f"With inputs of these shapes the units of '{lost[0].members[0].path}' are coupled otherwise "
                "than in the graph. Trace the graph with inputs of these shapes."
            )
        self.evidence.check(trace, found)
        left = {found[group]: kept for group, kept in self.kept.items() if group in found}
        return trace, Removal(left)

    def _on_arrays(self, params: PyTree, function: Callable[..., Any] | None = None) -> Callable[..., Any]:
        """The traced function, or another one, as a function of the arrays in ``params`` alone."""
        flat = flatten(params)
        apply_fn = self.graph.recipe.apply_fn if function is None else function

        def run(arrays: Sequence[Any], inputs: Sequence[Any]) -> Any:
            leaves = list(flat.leaves)
            for index, array in zip(self.traced, arrays, strict=True):
                leaves[index] = array
            return apply_fn(flat.rebuild(leaves), *inputs)

        return run

    def difference(self, small: PyTree, function: Callable[..., Any] | None = None) -> str | None:
        """Where a function, given smaller parameters, first departs from the replay."""
        arrays, inputs = [shape_of(array) for array in self._arrays(small)], self.graph.recipe.inputs

        def recorded(arrays: Sequence[Any], inputs: Sequence[Any]) -> Any:
            given = [*arrays, *jax.tree.leaves(inputs)]
            return jax.tree.unflatten(self.trace.out_tree, replay(self.trace.program, self.removal, given))

        expected = read(jax.make_jaxpr(recorded)(arrays, inputs))
        try:
            found = read(jax.make_jaxpr(self._on_arrays(small, function))(arrays, inputs))
        # Whatever the user's own code raises on shapes that it did not expect.
        except Exception as error:
            return f"it raises {type(error).__name__}: {next(iter(str(error).splitlines()), '')}"
        return first_difference(expected, found)

    def verify(self, large: PyTree, small: PyTree, inputs: Sequence[Any], tolerance: float) -> None:
        """Raise if the outputs of the two models differ."""
        trace, removal = self._at(inputs)
        expected = jax.tree.leaves(jax.jit(self._on_arrays(large))(self._arrays(large), inputs))
        found = jax.tree.leaves(self(small, *inputs))
        for value, wanted, got in zip(trace.program.outputs, expected, found, strict=True):
            wanted = np.asarray(removal.take(value, np.asarray(wanted)))
            got = np.asarray(got)
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


def _signature(leaf: Any) -> Any:
    return np.shape(leaf), str(leaf.dtype if hasattr(leaf, "dtype") else jnp.result_type(leaf))
