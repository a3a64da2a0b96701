"""A graph as a picture."""

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from jaxreg.structures.graph import Graph

_LONGEST_PATH = 48
_PIXELS = 20_000  # of the longer side, at most


def draw(graph: "Graph", path: Any) -> None:
    """Save one column per group and one row per axis of a leaf: where its units lie, in which role."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
        from matplotlib.lines import Line2D
    except ImportError as error:
        raise ImportError("Graph.draw needs the extra 'plots': pip install jaxreg[plots]") from error
    used = {(member.path, member.axis) for group in graph.groups for member in group.members}
    axes_of_leaves = ((path, axis) for path, shape in graph.leaves for axis in range(len(shape)))
    rows = [row for row in axes_of_leaves if row in used]
    columns = len(graph.groups)
    figure = Figure(figsize=(4.5 + 0.42 * columns, 1.6 + 0.24 * len(rows)), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    colours = {"produces": "#3b6fb6", "consumes": "#d9722e"}
    for column, group in enumerate(graph.groups):
        heights = [rows.index((member.path, member.axis)) for member in group.members]
        axes.plot([column, column], [min(heights), max(heights)], color="#c8c8c8", linewidth=1, zorder=1)
        for height, member in zip(heights, group.members, strict=True):
            axes.scatter(column, height, s=90, marker="s", color=colours[member.role], zorder=2)
    axes.set_yticks(
        np.arange(len(rows)), [f"{_shortened(path)}, axis {axis}" for path, axis in rows], fontsize=8
    )
    axes.set_xticks(
        np.arange(columns),
        [f"{number}\n({group.size:,})" for number, group in enumerate(graph.groups)],
        fontsize=8,
    )
    axes.set_xlim(-0.7, columns - 0.3)
    axes.set_ylim(len(rows) - 0.3, -0.7)
    axes.set_xlabel("group (units)")
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    handles = [
        Line2D([], [], marker="s", linestyle="", color=colour, label=role) for role, colour in colours.items()
    ]
    figure.legend(handles=handles, loc="outside upper center", ncols=2, frameon=False, fontsize=8)
    figure.savefig(path, dpi=min(150.0, _PIXELS / max(figure.get_size_inches())))


def _shortened(path: str) -> str:
    return path if len(path) <= _LONGEST_PATH else "..." + path[3 - _LONGEST_PATH :]
