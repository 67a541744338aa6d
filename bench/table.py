"""The table: rows in, text out."""

from __future__ import annotations

import os
import platform
import textwrap
from collections.abc import Iterable, Sequence
from importlib.metadata import version

from bench.measure import Figure, Row

_HEAD = ("workload", "median", "best", "unit", "yardstick", "median", "ratio", "of bests", "must reach", "")
_LEFT = frozenset({0, 3, 4, 8, 9})
_NOTE_WIDTH = 110


def describe_machine() -> dict[str, object]:
    """Return what the figures depend on, and how busy the machine is now."""
    return {
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        # Not imported: who imports gRPC before wool keeps wool from choosing how it moves bytes.
        "grpcio": version("grpcio"),
        "load average": [round(load, 2) for load in os.getloadavg()],
    }


def number(value: float) -> str:
    """Write a number with as many digits as it deserves."""
    if value >= 1000:
        return f"{value:,.0f}".replace(",", " ")
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def _cells(row: Row) -> tuple[str, ...]:
    def ratio(value: float | None) -> str:
        return "" if value is None else f"{value:.2f}"

    def median(figure: Figure | None) -> str:
        return "" if figure is None else number(figure.median)

    return (
        row.workload,
        median(row.figure),
        number(row.figure.best),
        row.figure.unit,
        row.yardstick,
        median(row.measure),
        ratio(row.ratio),
        ratio(row.best_ratio),
        str(row.need),
        row.verdict,
    )


def render(rows: Sequence[Row]) -> str:
    """Return the table, with the notes below it."""
    lines = [_HEAD, *map(_cells, rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(_HEAD))]

    def line(cells: Iterable[str]) -> str:
        aligned = (
            cell.ljust(width) if column in _LEFT else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(cells, widths, strict=True))
        )
        return "  ".join(aligned).rstrip()

    text = [line(_HEAD), line("─" * width for width in widths), *(line(_cells(row)) for row in rows)]
    for row in rows:
        for note in row.notes:
            text += ["", *textwrap.wrap(f"{row.workload}: {note}", _NOTE_WIDTH, subsequent_indent="    ")]
    return "\n".join(text)
