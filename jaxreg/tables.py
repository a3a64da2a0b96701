"""Plain-text tables, for everything that prints a report."""

from collections.abc import Iterable, Sequence


def text_table(headers: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Lay out a table in aligned columns of plain text.

    Columns of numbers are aligned to the right, all others to the left.

    Args:
        headers: one title per column.
        rows: one sequence of cells per row, as many as there are titles.

    Returns:
        The table, one line per row, without a newline at the end.

    Raises:
        ValueError: if a row has more or fewer cells than there are titles.

    Examples:
        >>> from jaxreg.tables import text_table
        >>> print(text_table(["leaf", "size"], [["kernel", 12], ["bias", 3]]))
        leaf    size
        ------  ----
        kernel    12
        bias       3
    """
    body = [list(row) for row in rows]
    for row in body:
        if len(row) != len(headers):
            raise ValueError(f"The table has {len(headers)} columns. Got a row of {len(row)} cells: {row}.")
    columns = list(zip(*body, strict=True)) if body else [()] * len(headers)
    numeric = [bool(column) and all(_is_number(cell) for cell in column) for column in columns]
    widths = [
        max(len(str(cell)) for cell in (title, *column))
        for title, column in zip(headers, columns, strict=True)
    ]

    def line(cells: Sequence[object]) -> str:
        padded = [
            str(cell).rjust(width) if right else str(cell).ljust(width)
            for cell, width, right in zip(cells, widths, numeric, strict=True)
        ]
        return "  ".join(padded).rstrip()

    return "\n".join([line(headers), line(["-" * width for width in widths]), *map(line, body)])


def _is_number(cell: object) -> bool:
    if isinstance(cell, str):
        return cell == "-" or cell.replace(",", "").replace(".", "").isdigit()
    return isinstance(cell, int | float) and not isinstance(cell, bool)
