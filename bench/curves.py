"""Draws the figures of `bench.scale` as the curves of ``docs/scale.md``. Needs matplotlib."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("svg")

from matplotlib import pyplot as plt

from wool.limits import DEFAULT_LIMITS

_STYLE = {
    # Text stays text: small files, and the same ones every time.
    "svg.fonttype": "none",
    "svg.hashsalt": "wool",
    "font.size": 8,
    "axes.grid": True,
    "grid.alpha": 0.3,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "lines.marker": "o",
    "lines.markersize": 3,
}


def draw(found: dict[str, Any], directory: Path) -> Path:
    """Draw what there are figures of; return the file."""
    with mpl.rc_context(_STYLE):
        figure, ((sessions, costs), (views, network)) = plt.subplots(2, 2, figsize=(8, 6), layout="constrained")
        if rows := [row for row in found.get("simulated", []) if row["callers"] == 1]:
            _sessions(sessions, rows)
            _costs(costs, rows)
            _views(views, rows)
        if rows := found.get("multicast", []):
            _network(network, rows)
        directory.mkdir(parents=True, exist_ok=True)
        path = directory / "scale.svg"
        figure.savefig(path, metadata={"Date": None, "Creator": None})
        plt.close(figure)
    return path


def _sessions(axes: Any, rows: list[dict[str, Any]]) -> None:
    workers = [row["workers"] for row in rows]
    axes.loglog(workers, workers, "--", color="grey", label="if it used them all", marker="")
    axes.loglog(workers, [row["sessions_per_caller"] for row in rows], label="sessions of a caller")
    axes.axhline(DEFAULT_LIMITS.sessions, color="grey", linewidth=0.5, marker="")
    _finish(axes, "Sessions are bounded", "sessions")


def _costs(axes: Any, rows: list[dict[str, Any]]) -> None:
    workers = [row["workers"] for row in rows]
    # The first call of the smallest cluster also pays for what is loaded once.
    axes.semilogx(workers[1:], [row["first_call_us"] for row in rows[1:]], label="a call that opens a session")
    axes.semilogx(workers, [row["dispatch_us"] for row in rows], label="a call")
    axes.set_ylim(bottom=0)
    _finish(axes, "A call, caller and worker together", "µs of processor")


def _views(axes: Any, rows: list[dict[str, Any]]) -> None:
    workers = [row["workers"] for row in rows[1:]]
    axes.loglog(workers, [row["join_us_per_caller"] / 1e3 for row in rows[1:]], label="a join")
    axes.loglog(workers, [row["leave_us_per_caller"] / 1e3 for row in rows[1:]], label="a leave")
    everybody = [row["view_us_per_worker"] * row["workers"] / 1e3 for row in rows[1:]]
    axes.loglog(workers, everybody, label="to hear of everybody")
    _finish(axes, "LocalDiscovery, for each caller", "ms of processor")


def _network(axes: Any, rows: list[dict[str, Any]]) -> None:
    workers = [row["workers"] for row in rows]
    axes.loglog(workers, [row["packets_per_minute"] for row in rows], label="packets a minute")
    axes.loglog(workers, [row["bytes_per_minute"] / 1024 for row in rows], label="KiB a minute")
    axes.loglog(workers, [row["late_subscriber_seconds"] * 1e3 for row in rows], label="ms until all are seen")
    _finish(axes, "LanDiscovery, idle, one subscriber", "")


def _finish(axes: Any, title: str, unit: str) -> None:
    axes.set_title(title)
    axes.set_xlabel("workers")
    axes.set_ylabel(unit)
    axes.minorticks_off()
    axes.legend(frameon=False)
