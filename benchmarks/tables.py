"""Show what was measured: on a terminal, and as Markdown."""

from collections.abc import Sequence

from benchmarks.runner import Finished, Row

Cells = Sequence[Sequence[str]]


def show(finished: Finished) -> None:
    header, cells = table(finished)
    title = f"{finished.comparison.title} ({counted(finished.rounds)})"
    try:
        from rich.console import Console
        from rich.table import Table
    except ImportError:
        print(f"{title}\n\n{markdown(header, cells)}\n\n{finished.comparison.note}\n")
        return
    grid = Table(
        title=title, title_justify="left", title_style="bold", caption=finished.comparison.note or None
    )
    grid.caption_justify = "left"
    for position, name in enumerate(header):
        grid.add_column(name, justify="right" if position else "left")
    for row in cells:
        grid.add_row(*row)
    # Piped output has no width of its own; 80 would break the rows.
    console = Console()
    Console(width=None if console.is_terminal else 150).print(grid, "")


def report(
    command: str, versions: str, machine: str, sections: Sequence[tuple[str, str, Sequence[Finished]]]
) -> str:
    parts = [
        "# Benchmark results",
        f"Written by `{command}`.",
        f"{versions}.  \n{machine}.",
        "Programs of one table ran in turn, round by round, and each round began with another one. Times are "
        "medians. Ratios are to the table's first program: the median over rounds of the ratio within a "
        "round, with quartiles. Temporaries are the buffers that the compiled program needs beside its "
        "arguments and results, as XLA reports them.",
    ]
    for name, doc, comparisons in sections:
        parts += [f"## {name}", doc.strip()]
        for finished in comparisons:
            parts += [f"### {finished.comparison.title}", markdown(*table(finished))]
            parts += [
                " ".join(
                    filter(None, (finished.comparison.note, f"{counted(finished.rounds)}.".capitalize()))
                )
            ]
    return "\n\n".join(parts) + "\n"


def table(finished: Finished) -> tuple[list[str], list[list[str]]]:
    rows = finished.rows
    measured = list(dict.fromkeys(name for row in rows for name in row.medians))
    known = list(dict.fromkeys(name for row in rows for name in row.program.facts))
    limited = not finished.is_quick and any(row.program.limit is not None for row in rows)
    header = ["program", *measured, "ratio", *(["required"] if limited else []), *known]
    cells = []
    for row in rows:
        times = [readable(row.medians[name]) if name in row.medians else "" for name in measured]
        facts = [row.program.facts.get(name, "") for name in known]
        cells.append([row.program.name, *times, ratio(row), *([required(row)] if limited else []), *facts])
    return header, cells


def ratio(row: Row) -> str:
    low, high = row.spread
    return f"{row.ratio:.2f} ({low:.2f} to {high:.2f})"


def required(row: Row) -> str:
    limit = row.program.limit
    if limit is None:
        return ""
    return f"at most {limit:g}: {'yes' if row.ratio <= limit else 'NO'}"


def readable(seconds: float) -> str:
    for factor, unit in ((1, "s"), (1e3, "ms")):
        if seconds * factor >= 1:
            return f"{seconds * factor:.3g} {unit}"
    return f"{seconds * 1e6:.3g} us"


def markdown(header: Sequence[str], cells: Cells) -> str:
    rule = ["---", *["---:"] * (len(header) - 1)]
    return "\n".join("| " + " | ".join(row) + " |" for row in (header, rule, *cells))


def counted(rounds: int) -> str:
    return f"{rounds} round{'' if rounds == 1 else 's'}"
