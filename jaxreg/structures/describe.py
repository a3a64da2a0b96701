"""A graph as a table."""

import dataclasses
from typing import TYPE_CHECKING

from jaxreg.structures.coupled import parts_of
from jaxreg.tables import text_table

if TYPE_CHECKING:
    from jaxreg.structures.graph import Graph, Member


@dataclasses.dataclass(frozen=True)
class Row:
    """One member of one group."""

    group: int
    units: int
    path: str
    axis: int
    role: str
    positions: str
    penalised: bool


@dataclasses.dataclass(frozen=True)
class PinnedRow:
    """An axis that keeps its length, and why."""

    path: str
    axis: int
    size: int
    reason: str


@dataclasses.dataclass(frozen=True)
class Description:
    """What :meth:`Graph.describe` returns; ``str()`` of it is two tables."""

    rows: tuple[Row, ...]
    pinned: tuple[PinnedRow, ...]
    summary: str

    def __str__(self) -> str:
        headers = ["group", "units", "leaf", "axis", "role", "positions", "penalised"]
        cells = []
        previous = -1
        for row in self.rows:
            first = row.group != previous
            previous = row.group
            start = (f"{row.group}", f"{row.units:,}") if first else ("", "")
            flag = "yes" if row.penalised else "no"
            cells.append((*start, row.path, row.axis, row.role, row.positions, flag))
        text = text_table(headers, cells) + "\n"
        if self.pinned:
            entries = [(row.path, row.axis, row.size, row.reason) for row in self.pinned]
            text += "\n" + text_table(["pinned leaf", "axis", "length", "because of"], entries) + "\n"
        return text + self.summary


def describe(graph: "Graph") -> Description:
    shapes = dict(graph.leaves)
    penalised = {(part.group, part.member.path, part.member.axis) for part in parts_of(graph)}
    rows = tuple(
        Row(
            number,
            group.size,
            member.path,
            member.axis,
            member.role,
            _positions(member, shapes[member.path][member.axis]),
            (number, member.path, member.axis) in penalised,
        )
        for number, group in enumerate(graph.groups)
        for member in group.members
    )
    pinned = tuple(PinnedRow(pin.path, pin.axis, pin.size, pin.reason) for pin in graph.pinned)
    units, free = sum(group.size for group in graph.groups), len({row.path for row in rows})
    number = f"{len(graph.groups)} group{'' if len(graph.groups) == 1 else 's'}"
    return Description(rows, pinned, f"{number}, {units:,} units, in {free} of {len(shapes)} leaves")


def _positions(member: "Member", length: int) -> str:
    """What unit j occupies."""
    if member.size == length:
        return "j"
    texts = []
    for run in member.runs:
        unit = "j" if run.stride == 1 else f"{run.stride}j"
        gaps = {b - a for a, b in zip(run.bases, run.bases[1:], strict=False)}
        if len(run.bases) == 1:
            texts.append(f"{run.bases[0]} + {unit}" if run.bases[0] else unit)
        elif len(gaps) == 1:
            start, step, end = run.bases[0], gaps.pop(), run.bases[-1]
            texts.append(f"{unit} + {start}, {start + step}, ..., {end}")
        else:
            texts.append(f"{unit} + {len(run.bases)} places")
    return "; ".join(texts)
