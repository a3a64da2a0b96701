"""Which parameter each leaf of another tree belongs to: of an optimizer's state, of an average."""

import dataclasses
from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from jaxreg.structures.program import Value
from jaxreg.structures.removal import Removal
from jaxreg.structures.state_fields import FIELDS
from jaxreg.tree import SEPARATOR, FlatTree, is_absent

Steps = tuple[str, ...]


class Owner(NamedTuple):
    """The parameter of a leaf, by path, and the field that holds the copy of the parameters: "mu" of Adam."""

    path: str
    field: str


@dataclasses.dataclass
class Parameters:
    """All leaves of the parameters by path; None for those that are no array of the traced function."""

    values: Mapping[str, Value | None]

    def __post_init__(self) -> None:
        self.by_steps = {_steps(path): path for path in self.values}
        self.nodes = {steps[:end] for steps in self.by_steps for end in range(len(steps) + 1)}
        self.by_name: dict[str, list[Steps]] = {}
        for steps in self.by_steps:
            self.by_name.setdefault(steps[-1] if steps else "", []).append(steps)

    def below(self, head: Steps, rest: Steps) -> str | None:
        return self.by_steps.get(head + rest)

    def all_below(self, head: Steps, rests: Collection[Steps]) -> bool:
        """Whether a part has no array beside these, or below them."""
        found = {head + rest for rest in rests}
        return all(
            any(steps[:end] in found for end in range(len(steps) + 1))
            for steps, path in self.by_steps.items()
            if steps[: len(head)] == head and self.values[path] is not None
        )

    def heads(self, rest: Steps, above: Steps) -> list[Steps]:
        """The parts of the parameters that have a leaf at ``rest``, for a tree that stands at ``above``."""
        if () in self.by_steps:
            return [] if rest else [()]
        if rest:
            ends = [steps for steps in self.by_name.get(rest[-1], []) if steps[-len(rest) :] == rest]
            return [steps[: -len(rest)] for steps in ends]
        # A leaf by itself is told by its name alone, which must not be that of a moment.
        name = above[-1] if above else ""
        return [] if name in FIELDS else self.by_name.get(name, [])


def owners_of(flat: FlatTree, parameters: Parameters, removal: Removal, name: str) -> list[Owner | None]:
    """For each leaf of a tree its parameter; None for counts, keys and strangers.

    The tree is searched from its root for the largest parts that have the paths of the parameters, or of a
    part of them: an optimizer may have been begun with ``variables["params"]``, or with an actor and a critic
    each. Holes, as a mask leaves them, count as paths. Of several parts that fit the one of the same shapes
    is taken, then the one whose name stands above; parts that lose other units are an error.
    """
    search = _Search(flat, parameters, [_steps(path) for path in flat.paths])
    search.visit(0, range(len(flat.paths)))
    return [search.owner(number, removal, name) for number in range(len(flat.paths))]


class _Search:
    def __init__(self, flat: FlatTree, parameters: Parameters, steps: Sequence[Steps]) -> None:
        self.flat, self.parameters, self.steps = flat, parameters, steps
        self.found: dict[int, tuple[int, list[Steps]]] = {}
        """For each leaf how far above it the part stands, and the heads of what it may be a copy of."""

    def visit(self, start: int, numbers: Sequence[int]) -> None:
        heads = self.heads(start, numbers)
        if heads:
            self.found.update(dict.fromkeys(numbers, (start, heads)))
            return
        children: dict[str, list[int]] = {}
        for number in numbers:
            if len(self.steps[number]) > start:
                children.setdefault(self.steps[number][start], []).append(number)
        for child in children.values():
            self.visit(start + 1, child)

    def heads(self, start: int, numbers: Sequence[int]) -> list[Steps]:
        present = [number for number in numbers if not is_absent(self.flat.leaves[number])]
        if not present:
            return []
        above = self.steps[present[0]][:start]
        fitting = [
            head
            for head in self.parameters.heads(self.steps[present[0]][start:], above)
            if all(self.fits(head, start, number) for number in numbers)
        ]
        if not above and () in fitting:
            return [()]
        # A state of one array, such as (trace,), must not pass for parameters that are called "trace".
        rests = [self.steps[number][start:] for number in numbers]
        if all(rest and rest[0] in FIELDS for rest in rests):
            inside = _field(above, ()) in FIELDS
            fitting = [
                head for head in fitting if (inside or not head) and self.parameters.all_below(head, rests)
            ]
        alike = [head for head in fitting if all(self.alike(head, start, number) for number in present)]
        fitting = alike or fitting
        scores = [_named(head, above) for head in fitting]
        return [head for head, score in zip(fitting, scores, strict=True) if score == max(scores)]

    def fits(self, head: Steps, start: int, number: int) -> bool:
        rest = self.steps[number][start:]
        if is_absent(self.flat.leaves[number]):  # of one parameter, or of all in a part of them
            return head + rest in self.parameters.nodes
        return self.parameters.below(head, rest) is not None

    def alike(self, head: Steps, start: int, number: int) -> bool:
        value, leaf = self.value(head, start, number), self.flat.leaves[number]
        return value is None or np.size(leaf) <= 1 or np.shape(leaf) == value.shape

    def value(self, head: Steps, start: int, number: int) -> Value | None:
        path = self.parameters.below(head, self.steps[number][start:])
        return None if path is None else self.parameters.values[path]

    def owner(self, number: int, removal: Removal, name: str) -> Owner | None:
        if number not in self.found or is_absent(self.flat.leaves[number]):
            return None
        start, heads = self.found[number]
        paths = sorted(self.parameters.by_steps[head + self.steps[number][start:]] for head in heads)
        for other in paths[1:]:
            if np.size(self.flat.leaves[number]) > 1 and not self.lose_alike(paths[0], other, removal):
                raise ValueError(
                    f"The leaf '{self.flat.paths[number]}' of '{name}' could belong to '{paths[0]}' or to "
                    f"'{other}' of the parameters. Give it for all parameters, as an optimizer has it that "
                    "was begun with them, or below the name of its part."
                )
        return Owner(paths[0], _field(self.steps[number][:start], heads[0]))

    def lose_alike(self, path: str, other: str, removal: Removal) -> bool:
        first, second = self.parameters.values[path], self.parameters.values[other]
        if first is None or second is None:
            return first is second
        return first.shape == second.shape and all(
            np.array_equal(removal.kept(one), removal.kept(two))
            for one, two in zip(first.dims, second.dims, strict=True)
        )


def _steps(path: str) -> Steps:
    return tuple(path.split(SEPARATOR)) if path else ()


def _named(head: Steps, above: Steps) -> int:
    """How many names of a part stand above a tree; numbers and names of moments may mean something else."""
    return sum(step in above for step in head if step not in FIELDS and not step.isdigit())


def _field(above: Steps, head: Steps) -> str:
    while above and head and above[-1] == head[-1]:
        above, head = above[:-1], head[:-1]
    return next((step for step in reversed(above) if not step.isdigit()), "")
