"""A table of what is zero, by leaf and by group."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from jaxreg.diagnostics.sparsity import selected_leaves, zero_elements, zero_groups
from jaxreg.group_kinds import Groups
from jaxreg.groups import check_groups
from jaxreg.tables import text_table
from jaxreg.tree import PyTree, flatten, is_inexact


@dataclasses.dataclass(frozen=True)
class LeafReport:
    """One line of a :class:`Report`; group counts are None where no groups were asked for.

    The total has no shape.
    """

    path: str
    shape: tuple[int, ...] | None
    elements: int
    zeros: int
    groups: int | None
    zero_groups: int | None


@dataclasses.dataclass(frozen=True)
class Report:
    """What :func:`report` returns: ``print`` it, give it to rich, or take :meth:`to_dict`."""

    leaves: tuple[LeafReport, ...]

    @property
    def total(self) -> LeafReport:
        counted = [leaf for leaf in self.leaves if leaf.groups is not None]
        return LeafReport(
            path="total",
            shape=None,
            elements=sum(leaf.elements for leaf in self.leaves),
            zeros=sum(leaf.zeros for leaf in self.leaves),
            groups=sum(leaf.groups or 0 for leaf in counted) if counted else None,
            zero_groups=sum(leaf.zero_groups or 0 for leaf in counted) if counted else None,
        )

    def to_dict(self) -> dict[str, Any]:
        """``{"total": {...}, "leaves": {path: {...}}}`` of plain Python numbers."""
        return {"total": _entry(self.total), "leaves": {leaf.path: _entry(leaf) for leaf in self.leaves}}

    def __str__(self) -> str:
        return text_table(self._headers(), [self._cells(leaf) for leaf in (*self.leaves, self.total)])

    def __rich__(self) -> Any:
        try:
            from rich.box import SIMPLE_HEAD
            from rich.markup import escape
            from rich.table import Table
        except ImportError as error:
            raise ImportError("A rich table needs the extra 'tables': pip install jaxreg[tables]") from error
        table = Table(title="Exact zeros", show_footer=True, box=SIMPLE_HEAD, collapse_padding=True)
        columns = zip(*[self._cells(leaf) for leaf in (*self.leaves, self.total)], strict=True)
        for position, (header, cells) in enumerate(zip(self._headers(), columns, strict=True)):
            # Short headings of two lines, so that paths and numbers stay whole in 80 columns.
            heading = "%" if header.startswith("%") else header.replace(" ", "\n")
            side = "left" if position < 2 else "right"
            table.add_column(heading, footer=cells[-1], justify=side, no_wrap=True)
        for leaf in self.leaves:
            cells = self._cells(leaf)
            table.add_row(escape(cells[0]), *cells[1:4], _coloured(leaf.zeros, leaf.elements), *cells[5:])
        return table

    def _headers(self) -> Sequence[str]:
        grouped = ("groups", "zero groups", "% groups") if self.total.groups is not None else ()
        return ("leaf", "shape", "elements", "zeros", "% zeros", *grouped)

    def _cells(self, leaf: LeafReport) -> Sequence[str]:
        shape = "" if leaf.shape is None else "x".join(map(str, leaf.shape))
        cells = [
            leaf.path,
            shape,
            f"{leaf.elements:,}",
            f"{leaf.zeros:,}",
            _percent(leaf.zeros, leaf.elements),
        ]
        if self.total.groups is None:
            return cells
        if leaf.groups is None or leaf.zero_groups is None:
            return [*cells, "-", "-", "-"]
        return [*cells, f"{leaf.groups:,}", f"{leaf.zero_groups:,}", _percent(leaf.zero_groups, leaf.groups)]


def report(params: PyTree, groups: Groups | None = None, *, mask: Any = None) -> Report:
    """Count exact zeros by leaf, and by group where groups are given.

    Args:
        params: a parameter pytree of concrete arrays.
        groups: a structure of :mod:`jaxreg.groups`, or None.
        mask: for which leaves groups are counted, as in :func:`jaxreg.l1`. Elements are
            counted for all floating leaves.

    Returns:
        A :class:`Report`: ``print(report)`` for a plain table, ``rich.print(report)`` for a
        coloured one (extra ``tables``), ``report.to_dict()`` for numbers.

    Raises:
        TypeError: for a bad argument.
        ValueError: for a leaf that the groups do not fit; the error names the mask to add.

    Examples:
        >>> import jax.numpy as jnp
        >>> import jaxreg
        >>> params = {"kernel": jnp.array([[1.0, 0.0], [2.0, 0.0]]), "bias": jnp.ones(2)}
        >>> print(jaxreg.report(params, jaxreg.groups.outputs(), mask=jaxreg.masks.weights))
        leaf    shape  elements  zeros  % zeros  groups  zero groups  % groups
        ------  -----  --------  -----  -------  ------  -----------  --------
        bias    2             2      0      0.0       -            -         -
        kernel  2x2           4      2     50.0       2            1      50.0
        total                 6      2     33.3       2            1      50.0
    """
    flat = flatten(params)
    grouped: dict[int, tuple[int, Any]] = {}
    if groups is not None:
        clusters = check_groups(groups, "groups", "report").resolve(flat, selected_leaves(flat, mask))
        for cluster in clusters:
            grouped[cluster[0][0]] = (cluster[0][1].n_groups, zero_groups(flat, cluster))
    present = [index for index, leaf in enumerate(flat.leaves) if is_inexact(leaf)]
    zeros = {index: zero_elements(flat.leaves[index]) for index in present}
    zeros, grouped = jax.device_get((zeros, grouped))
    rows = []
    for index in present:
        n_groups, n_zero = grouped.get(index, (None, None))
        leaf, shape = flat.leaves[index], np.shape(flat.leaves[index])
        row = LeafReport(
            path=flat.paths[index],
            shape=shape,
            elements=int(np.size(leaf)),
            zeros=int(zeros[index]),
            groups=n_groups,
            zero_groups=None if n_zero is None else int(n_zero),
        )
        rows.append(row)
    return Report(tuple(rows))


def _entry(leaf: LeafReport) -> dict[str, Any]:
    entry: dict[str, Any] = {
        "elements": leaf.elements,
        "zeros": leaf.zeros,
        "sparsity": _share(leaf.zeros, leaf.elements),
    }
    if leaf.shape is not None:
        entry = {"shape": leaf.shape, **entry}
    if leaf.groups is not None and leaf.zero_groups is not None:
        share = _share(leaf.zero_groups, leaf.groups)
        entry |= {"groups": leaf.groups, "zero_groups": leaf.zero_groups, "group_sparsity": share}
    return entry


def _share(part: int, whole: int) -> float:
    return part / whole if whole else 0.0


def _percent(part: int, whole: int) -> str:
    return f"{100 * _share(part, whole):.1f}"


def _coloured(part: int, whole: int) -> str:
    share = _share(part, whole)
    style = "green" if share >= 0.5 else "yellow" if share > 0 else "dim"
    return f"[{style}]{_percent(part, whole)}[/{style}]"
