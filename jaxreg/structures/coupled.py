"""A graph as a structure for penalties: which leaves share units, and the view of each."""

import itertools
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from jaxreg.group_kinds import Cluster
from jaxreg.structures.roles import PRODUCES
from jaxreg.tree import SEPARATOR, FlatTree, is_absent
from jaxreg.views import unit_view

if TYPE_CHECKING:
    from jaxreg.structures.graph import Graph, Group, Member


class Part(NamedTuple):
    """A leaf that a group is penalised in."""

    group: int
    member: "Member"


def parts_of(graph: "Graph") -> list[Part]:
    """The members that hold what a penalty on the graph shrinks.

    An axis that is merged from several, such as heads and their width, has units of both kinds; its
    elements can be in one group only, and the slower axis has them.
    """
    return _whole(graph, _chosen(graph))


def resolve(graph: "Graph", flat: FlatTree, selected: Sequence[int]) -> tuple[Cluster, ...]:
    """The clusters of selected leaves: groups that share a leaf are in one."""
    shapes = dict(graph.leaves)
    prefix = _prefix(graph, flat, selected)
    places = {prefix + flat.paths[index]: index for index in selected}
    for path, index in places.items():
        if np.shape(flat.leaves[index]) != shapes[path]:
            raise ValueError(
                f"The graph was traced with a leaf '{path}' of shape {shapes[path]}. "
                f"Got {np.shape(flat.leaves[index])}. Trace it again for these parameters."
            )
    chosen = [part for part in _chosen(graph) if part.member.path in places]
    _refuse_split(graph, chosen)
    present = _whole(graph, chosen)
    if selected and not present:
        raise ValueError(
            f"None of the {len(selected)} leaves that the mask selects has a unit in the graph. "
            "print(graph.describe()) says which have, and why the others have none."
        )
    return tuple(_cluster(graph, parts, places, shapes) for parts in _components(present))


def _cluster(graph: "Graph", parts: list[Part], places: dict[str, int], shapes: dict) -> Cluster:
    starts, units = {}, 0
    for group in dict.fromkeys(part.group for part in parts):
        starts[group] = units
        units += graph.groups[group].size
    cluster = []
    for path in dict.fromkeys(part.member.path for part in parts):
        mine = [part for part in parts if part.member.path == path]
        axis = mine[0].member.axis
        owners = np.full(shapes[path][axis], -1)
        for part in mine:
            indices = part.member.indices
            owners[indices] = starts[part.group] + np.arange(len(indices))[:, None]
        cluster.append((places[path], unit_view(shapes[path], axis, owners, units)))
    return tuple(sorted(cluster, key=lambda entry: entry[0]))


def _components(parts: list[Part]) -> list[list[Part]]:
    """Parts whose groups are connected through leaves that several of them lie in."""
    found: list[list[Part]] = []
    for part in parts:
        touching = [
            component
            for component in found
            if any(other.group == part.group or other.member.path == part.member.path for other in component)
        ]
        found = [component for component in found if component not in touching]
        found.append([other for component in touching for other in component] + [part])
    return sorted(found, key=lambda component: min(part.group for part in component))


def _parts(graph: "Graph", groups: "Sequence[Group]") -> list[Part]:
    found = []
    for number, group in enumerate(groups):
        members = [
            member
            for member in group.members
            if (graph.consumers or member.role == PRODUCES) and member.path not in graph.state
        ]
        # Rows and columns of a recurrent kernel overlap: its units are those that it makes.
        axes: dict[str, int] = {}
        for member in sorted(members, key=lambda member: (member.role != PRODUCES, member.axis)):
            axes.setdefault(member.path, member.axis)
        found += [Part(number, member) for member in members if member.axis == axes[member.path]]
    return found


def _chosen(graph: "Graph") -> list[Part]:
    parts = [part for part in _parts(graph, graph.groups) if part.member.role == PRODUCES]
    beats = _conflicts(parts)
    alive = list(dict.fromkeys(part.group for part in parts))
    taken: list[int] = []
    while alive:
        # The first that no other one precedes on a leaf, as heads precede their width.
        best = next((g for g in alive if not any((other, g) in beats for other in alive)), alive[0])
        taken.append(best)
        alive = [g for g in alive if g != best and (best, g) not in beats and (g, best) not in beats]
    chosen = [part for part in parts if part.group in taken]
    if not graph.consumers:
        return chosen
    chosen = [part for part in _parts(graph, graph.groups) if part.group in taken]
    clash = sorted(_conflicts(chosen))
    if clash:
        first, second = (graph.groups[number] for number in clash[0])
        path = min({m.path for m in first.members} & {m.path for m in second.members})
        raise ValueError(
            f"With consuming members groups {clash[0][0]} and {clash[0][1]} of the graph both hold elements "
            f"of '{path}'. Give graph.with_consumers().disjoint() to jaxreg.overlapping_group_lasso, whose "
            "groups may overlap, or choose groups with graph.only(...)."
        )
    return chosen


def _conflicts(parts: Iterable[Part]) -> set[tuple[int, int]]:
    """Pairs of groups that hold the same elements of a leaf, the one that precedes first."""
    by_path: dict[str, list[Part]] = {}
    for part in parts:
        by_path.setdefault(part.member.path, []).append(part)
    return {
        (first.group, second.group)
        for mine in by_path.values()
        for first in mine
        for second in mine
        if _rank(first) < _rank(second) and first.group != second.group and _overlap(first, second)
    }


def _rank(part: Part) -> tuple[int, int, int]:
    return part.member.axis, -_stride(part), part.group


def _stride(part: Part) -> int:
    return max(run.stride for run in part.member.runs)


def _overlap(first: Part, second: Part) -> bool:
    if first.member.axis != second.member.axis:
        return True
    return bool(np.intersect1d(first.member.indices, second.member.indices).size)


def _place(part: Part) -> tuple[str, int]:
    return part.member.path, part.member.axis


def _positions(parts: Iterable[Part]) -> dict[tuple[str, int], set[int]]:
    """Which positions along which axes have a unit."""
    found: dict[tuple[str, int], set[int]] = {}
    for part in parts:
        found.setdefault(_place(part), set()).update(part.member.indices.ravel().tolist())
    return found


def _whole(graph: "Graph", parts: Iterable[Part]) -> list[Part]:
    """The parts along axes every position of which has a unit."""
    found = list(parts)
    shapes, held = dict(graph.leaves), _positions(found)
    return [part for part in found if len(held[_place(part)]) == shapes[part.member.path][part.member.axis]]


def _refuse_split(graph: "Graph", chosen: Sequence[Part]) -> None:
    """Leaves of which a part belongs to units that are not penalised, though nothing pins it."""
    groups = (*graph.groups, *graph.left_out)
    shapes = dict(graph.leaves)
    for (path, axis), mine in _positions(chosen).items():
        length = shapes[path][axis]
        if len(mine) == length:
            continue
        here = [part for part in _parts(graph, groups) if _place(part) == (path, axis)]
        if len(_positions(here)[path, axis]) < length:
            continue
        others = [part for part in here if mine.isdisjoint(part.member.indices.ravel().tolist())]
        taken, apart = ({part.group for part in some} for some in (chosen, others))
        raise ValueError(
            f"'{path}' is penalised as a whole or not at all, and {len(mine)} of the {length} positions of "
            f"its axis {axis} belong to the graph's groups: {_named(groups, here, taken)}. The others belong "
            f"to groups that are not penalised with them: {_named(groups, here, apart)}. "
            f"Choose all of these together with Graph.only, or take '{path}' out of the penalty's mask."
        )


def _named(groups: "Sequence[Group]", parts: Iterable[Part], wanted: Collection[int]) -> str:
    numbers = dict.fromkeys(part.group for part in parts if part.group in wanted)
    return ", ".join(f"{groups[n].size} units of '{groups[n].members[0].path}'" for n in numbers)


def _prefix(graph: "Graph", flat: FlatTree, selected: Sequence[int]) -> str:
    """What the graph's paths have before these: a penalty may see ``variables["params"]`` alone."""
    known = [path for path, _ in graph.leaves]
    have = frozenset(known)
    present = [path for path, leaf in zip(flat.paths, flat.leaves, strict=True) if not is_absent(leaf)]
    wanted = [flat.paths[index] for index in selected]
    for candidates in (present, wanted):
        if not candidates:
            return ""
        ends = [path.removesuffix(candidates[0]) for path in known if path.endswith(candidates[0])]
        for prefix in sorted(ends, key=len):
            nested = not prefix or prefix.endswith(SEPARATOR)
            if nested and all(prefix + path in have for path in candidates):
                return prefix
    missing = next(path for path in wanted if path not in have)
    raise ValueError(
        f"The graph was traced without the leaf '{missing}'. Trace it with these parameters, or take the "
        "leaf out of the penalty's mask."
    )


def disjoint(graph: "Graph") -> "list[list[Group]]":
    """The groups in as few lists as a greedy search finds, none of which has overlapping groups."""
    parts = _parts(graph, graph.groups)
    clashes = _conflicts(parts)
    clashes |= {(second, first) for first, second in clashes}

    def fit(some: Iterable[int], others: Collection[int]) -> bool:
        return not any((one, other) in clashes for one in some for other in others)

    colours: list[list[int]] = []
    for bundle in _bundles(graph, parts, fit):
        colour = next((colour for colour in colours if fit(bundle, colour)), None)
        if colour is None:
            colours.append(bundle)
        else:
            colour += bundle
    return [[graph.groups[number] for number in sorted(colour)] for colour in colours]


def _bundles(
    graph: "Graph", parts: Sequence[Part], fit: Callable[[Iterable[int], Collection[int]], bool]
) -> list[list[int]]:
    """Groups that lie side by side in a leaf, such as a fused kernel: it is penalised with all of them."""
    bundle_of = {number: [number] for number in range(len(graph.groups))}
    shapes = dict(graph.leaves)
    side_by_side = [
        (first, second)
        for first, second in itertools.combinations(parts, 2)
        if _place(first) == _place(second)
        and max(first.member.indices.size, second.member.indices.size)
        < shapes[first.member.path][first.member.axis]
    ]
    # Heads with heads and widths with widths, where a leaf has both.
    for first, second in sorted(side_by_side, key=lambda pair: abs(_stride(pair[0]) - _stride(pair[1]))):
        one, other = bundle_of[first.group], bundle_of[second.group]
        if one is not other and fit(one, other):
            one += other
            bundle_of.update(dict.fromkeys(other, one))
    return [bundle for number, bundle in bundle_of.items() if number == min(bundle)]
