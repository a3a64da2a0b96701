"""Oracles that know nothing of jaxprs: they run a model and look at its outputs and gradients.

A group is anything with ``size`` and ``members``; a member has ``path``, ``axis``, ``role`` and ``indices``.
"""

import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from structures.models.case import CONSUMES, PRODUCES, Case, Made, Unit, filled

from jaxreg import structures, tree

Leaves = Mapping[str, np.ndarray]

# Each model runs a few times: compiling it is what these tests cost.
QUICK = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}


def compiled(function: Callable[..., Any], *args: Any) -> Callable[..., Any]:
    return jax.jit(function).lower(*args).compile(QUICK)


class Run:
    """A model, compiled once: its outputs and the gradients of a random projection of them."""

    def __init__(self, apply: Callable[..., Any], params: Any, inputs: Sequence[Any], output: Any):
        def projected(params: Any, inputs: Sequence[Any]) -> tuple[Any, Any]:
            outputs = jax.tree.leaves(output(apply(params, *inputs)))
            rng = np.random.default_rng(5)
            directions = [rng.normal(size=out.shape).astype(out.dtype) for out in outputs]
            return sum(jnp.sum(d * out) for d, out in zip(directions, outputs, strict=True)), outputs

        self.inputs = tuple(inputs)
        self._run = compiled(jax.grad(projected, has_aux=True), params, self.inputs)

    def __call__(self, params: Any) -> tuple[list[np.ndarray], Any]:
        grads, outputs = self._run(params, self.inputs)
        return [np.asarray(out) for out in outputs], grads


class Outputs:
    """A model, compiled once: its outputs alone."""

    def __init__(self, apply: Callable[..., Any], params: Any, inputs: Sequence[Any], output: Any):
        def outputs(params: Any, inputs: Sequence[Any]) -> list[Any]:
            return jax.tree.leaves(output(apply(params, *inputs)))

        self.inputs = tuple(inputs)
        self._run = compiled(outputs, params, self.inputs)

    def __call__(self, params: Any) -> list[np.ndarray]:
        return [np.asarray(out) for out in self._run(params, self.inputs)]


@functools.cache
def made_of(case: Case) -> Made:
    return case.make()


@functools.cache
def prepared(case: Case) -> tuple[Made, Run]:
    made = made_of(case)
    return made, Run(made.apply, made.params, made.inputs, case.output)


def generic_points(made: Made) -> list[Any]:
    return [made.params, filled(made.params, seed=1)]


def leaves_by_path(params: Any) -> dict[str, np.ndarray]:
    flat = tree.flatten(params)
    pairs = zip(flat.paths, flat.leaves, strict=True)
    return {path: np.asarray(leaf) for path, leaf in pairs if not tree.is_absent(leaf)}


def inside(leaves: Leaves, members: Iterable[Any], units: Sequence[int]) -> dict[str, np.ndarray]:
    """For every leaf, which entries belong to one of the units."""
    found = {path: np.zeros(leaf.shape, bool) for path, leaf in leaves.items()}
    for member in members:
        positions = np.asarray(member.indices)[np.asarray(units, int)].ravel()
        np.moveaxis(found[member.path], member.axis, 0)[positions] = True
    return found


def role(group: Any, wanted: str) -> list[Any]:
    return [member for member in group.members if member.role == wanted]


def is_statistic(path: str) -> bool:
    """Running means and variances are not trained: no penalty makes them zero."""
    return path.rpartition("/")[2] in ("mean", "var")


def producers(group: Any) -> list[Any]:
    return [member for member in role(group, PRODUCES) if not is_statistic(member.path)]


def with_zeros(params: Any, groups_and_units: Iterable[tuple[Any, Sequence[int]]]) -> Any:
    """The parameters with all that produces the given units exactly zero."""
    flat = tree.flatten(params)
    leaves = {path: leaf.copy() for path, leaf in leaves_by_path(params).items()}
    for group, units in groups_and_units:
        for path, entries in inside(leaves, producers(group), units).items():
            leaves[path][entries] = 0.0
    return flat.rebuild([leaves.get(path) for path in flat.paths])


def dead_units(groups: Iterable[Any], seed: int = 3) -> list[tuple[Any, list[int]]]:
    """Some units of every group, about half of them, never all."""
    random = np.random.default_rng(seed)
    return [
        (group, sorted(random.permutation(group.size)[: max(group.size // 2, 1)].tolist()))
        for group in groups
        if group.size > 1
    ]


def without(leaves: Leaves, groups_and_units: Iterable[tuple[Any, Sequence[int]]]) -> dict[str, np.ndarray]:
    """The leaves with all positions of the given units cut out."""
    cuts: dict[tuple[str, int], set[int]] = {}
    for group, units in groups_and_units:
        for member in group.members:
            gone = np.asarray(member.indices)[np.asarray(units, int)].ravel().tolist()
            cuts.setdefault((member.path, member.axis), set()).update(gone)
    found = dict(leaves)
    for (path, axis), gone in cuts.items():
        found[path] = np.delete(found[path], sorted(gone), axis)
    return found


def missing_from(group: Any, unit: int, points: Sequence[Any], run: Run, exact: bool) -> list[str]:
    """What the gradients say against a group; nothing, if it is complete.

    With a unit's producers zero, the weights whose gradient becomes exactly zero are those that feed only
    this unit or read only it: they must be members. And what reads it must indeed read nothing but zeros.
    At one point a rectified unit elsewhere may fall silent by chance; hardly at several random ones.
    """
    live: dict[str, Any] = {}
    silent: dict[str, Any] = {}
    readers = set()
    for params in points:
        before = leaves_by_path(run(params)[1])
        after = leaves_by_path(run(with_zeros(params, [(group, [unit])]))[1])
        reading = inside(before, role(group, CONSUMES), [unit])
        for path, gradient in after.items():
            live[path] = live.get(path, True) & (before[path] != 0)
            silent[path] = silent.get(path, True) & (gradient == 0)
            if exact and np.any(gradient[reading[path]] != 0):
                readers.add(path)
    members = inside(live, group.members, [unit])
    outside = [path for path in live if np.any(live[path] & silent[path] & ~members[path])]
    return [f"{path} is silenced but no member" for path in outside] + [
        f"{path} reads the unit and still has a gradient" for path in sorted(readers)
    ]


def differ(left: Sequence[np.ndarray], right: Sequence[np.ndarray]) -> float:
    return max(float(np.max(np.abs(a - b))) for a, b in zip(left, right, strict=True))


@functools.cache
def graph_of(case: Case, **options: Any) -> Any:
    made = made_of(case)
    return structures.trace(made.apply, made.params, *made.inputs, **case.options, **options)


def golden(case: Case, group: Any) -> Unit:
    """The hand-written group that this one should be."""
    shared = {unit: len(slices(unit) & slices(group)) for unit in case.groups if unit.size == group.size}
    return max(shared, key=lambda unit: shared[unit])


def slices(group: Any) -> set[tuple[Any, ...]]:
    return {
        (member.path, member.axis, tuple(sorted(np.asarray(member.indices)[0].tolist())))
        for member in group.members
    }
