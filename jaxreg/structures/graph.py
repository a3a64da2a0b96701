"""The coupled groups of a model, as a value and as a structure for penalties."""

import dataclasses
import functools
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from jaxreg.group_kinds import Cluster, Groups
from jaxreg.structures import coupled, describe, picture
from jaxreg.tree import FlatTree


@dataclasses.dataclass(frozen=True)
class Run:
    """Positions along an axis: unit j lies at ``base + j * stride`` for each base."""

    stride: int
    bases: tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Member:
    """Where the units of a group lie in one leaf."""

    path: str
    axis: int
    role: str
    """"produces": the unit is an output of what the leaf feeds; "consumes": the leaf sums over it."""
    size: int
    runs: tuple[Run, ...]

    @property
    def indices(self) -> np.ndarray:
        """(units, k): the positions along ``axis`` of each unit, in ascending order."""
        steps = np.arange(self.size)[:, None]
        found = [np.asarray(run.bases)[None, :] + steps * run.stride for run in self.runs]
        return np.sort(np.concatenate(found, axis=1), axis=1)


@dataclasses.dataclass(frozen=True)
class Group:
    """Units that can be removed one by one, each from all members at once."""

    size: int
    members: tuple[Member, ...]


@dataclasses.dataclass(frozen=True)
class Pin:
    """An axis, or a part of one, that has to keep its length, and why."""

    path: str
    axis: int
    size: int
    reason: str


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Graph(Groups):
    """The coupled groups of a model, found by :func:`trace`; a structure for penalties.

    Given to a penalty as its ``groups``, unit j of a group is the elements at j of all its producing
    members that the penalty's mask selects, across leaves: their norm is one. A leaf without such a member is
    not penalised. Where two groups hold the same elements, as heads and their width do, the one of the slower
    axis is penalised; :meth:`only` chooses another, and :meth:`describe` says which it is. State, such as
    running averages, is never penalised. The penalty may be used on a part of the tree that was traced, such
    as ``variables["params"]``. A leaf of which a part of the axis is pinned is left out as a whole; one of
    which a part belongs to groups that are not chosen is an error.

    A graph holds no array. It is equal to any other graph with the same groups, so that rebuilding it
    never recompiles.

    Attributes:
        groups: the coupled groups, in the order of the leaves.
        leaves: path and shape of every array that was traced.
        state: paths of leaves that are not trained.
        pinned: which axes keep their length, and why.
        recipe: how it was traced, for :func:`jaxreg.compact`.
        consumers: whether penalties count consuming members too.
        left_out: the groups that :meth:`only` did not choose.

    Examples:
        >>> import jax, jax.numpy as jnp
        >>> import jaxreg
        >>> def apply(params, x):
        ...     return jnp.tanh(x @ params["w1"]) @ params["w2"]
        >>> params = {"w1": jnp.ones((3, 4)), "w2": jnp.ones((4, 2))}
        >>> graph = jaxreg.structures.trace(apply, params, jnp.ones((1, 3)))
        >>> print(graph.describe())
        group  units  leaf  axis  role      positions  penalised
        -----  -----  ----  ----  --------  ---------  ---------
            0      4  w1       1  produces  j          yes
                      w2       0  consumes  j          no
        <BLANKLINE>
        pinned leaf  axis  length  because of
        -----------  ----  ------  -------------------------
        w1              0       3  an input of the function
        w2              1       2  an output of the function
        1 group, 4 units, in 2 of 2 leaves
    """

    groups: tuple[Group, ...]
    leaves: tuple[tuple[str, tuple[int, ...]], ...]
    state: frozenset[str]
    pinned: tuple[Pin, ...]
    recipe: Any
    consumers: bool = False
    left_out: tuple[Group, ...] = ()

    def resolve(self, flat: FlatTree, selected: Sequence[int]) -> tuple[Cluster, ...]:
        return coupled.resolve(self, flat, selected)

    def with_consumers(self) -> "Graph":
        """The same graph, whose penalties also count what sums over a unit, such as the next kernel's row.

        In a chain of layers a kernel produces one group and consumes another: such groups overlap, which
        :func:`jaxreg.overlapping_group_lasso` takes as ``graph.with_consumers().disjoint()``. Of a recurrent
        kernel, which produces and consumes the same units, the producing axis counts alone.
        """
        return dataclasses.replace(self, consumers=True)

    def only(self, groups: Iterable[Group]) -> "Graph":
        """A graph of some of the groups, such as ``graph.only(g for g in graph.groups if g.size > 64)``.

        Groups that lie side by side in one leaf, as in a fused kernel, are penalised together or not at
        all: a penalty that reaches a leaf of which the graph has only a part is an error.
        """
        wanted = list(groups)
        for group in wanted:
            if group not in self.groups:
                raise ValueError(
                    f"The 'groups' parameter of Graph.only must hold groups of it. Got {group!r}."
                )
        chosen = tuple(group for group in self.groups if group in wanted)
        others = tuple(group for group in self.groups if group not in wanted)
        return dataclasses.replace(self, groups=chosen, left_out=self.left_out + others)

    def disjoint(self) -> "tuple[Graph, ...]":
        """The graph as several ones, in none of which two groups hold the same elements.

        Groups that lie side by side in one leaf are in one graph, unless they overlap elsewhere.
        """
        return tuple(self.only(groups) for groups in coupled.disjoint(self))

    def describe(self) -> "describe.Description":
        """A table of the groups and of what is pinned, for ``print``."""
        return describe.describe(self)

    def draw(self, path: Any) -> None:
        """Save a picture: a row per leaf and axis, a colour per group (extra ``plots``)."""
        picture.draw(self, path)

    @functools.cached_property
    def _key(self) -> Any:
        return self.groups, self.leaves, self.state, self.consumers, self.left_out

    @functools.cached_property
    def _hash(self) -> int:
        return hash(self._key)

    def __eq__(self, other: object) -> bool:
        if self is other:
            return True
        return isinstance(other, Graph) and self._hash == other._hash and self._key == other._key

    def __hash__(self) -> int:
        return self._hash

    def __repr__(self) -> str:
        return f"Graph({len(self.groups)} groups, {len(self.leaves)} leaves)"
