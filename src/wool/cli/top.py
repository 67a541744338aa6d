"""``wool top``: the workers that a discovery knows and what they do just now, drawn on a screen again and again.

It owns the terminal while it runs, and must leave it as it was, however it ends, and while it is stopped. What is shown
is asked as `wool.cli.ps` does; what happens in a second is the difference between two answers.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import sys
from collections.abc import Generator, Mapping, Sequence
from typing import NamedTuple

from wool.cli import ps
from wool.cli.credentials import CREDENTIALS
from wool.cli.settings import Option, SettingError, Settings, seconds

OPTIONS: Sequence[Option] = (
    *(option for option in ps.OPTIONS if option.name in ("discovery", "wait", "timeout")),
    Option(name="interval", convert=seconds(least=0.1), default=1.0, metavar="SECONDS", help="how often to ask "
           "(default: 1)"),
    *CREDENTIALS,
)  # fmt: skip

HEADINGS = (
    *("UID", "ADDRESS", "TAGS", "STATUS", "IN-FLIGHT", "DONE/S", "FAILED/S"),
    *("DONE", "FAILED", "LOST", "LAG", "MEMORY", "UP"),
)

ENTER, LEAVE = "\x1b[?1049h\x1b[?25l", "\x1b[?1049l\x1b[?25h"
"""The terminal's second screen, without a cursor, and back."""
HOME, CLEAR_LINE, CLEAR_REST = "\x1b[H", "\x1b[K", "\x1b[J"


def run(settings: Settings) -> int:
    """Run the command until Ctrl-C or SIGTERM; return its exit status. Raises `SettingError`."""
    if not sys.stdout.isatty():
        raise SettingError("it draws on a terminal, and standard output is none: use `wool ps --watch`")
    screen = Screen()
    with contextlib.suppress(KeyboardInterrupt):
        # What went wrong is said on the first screen: the second one vanishes with what stands on it.
        return ps.look("top", settings, screen.show, settings["interval"], _second_screen())
    return 0


@contextlib.contextmanager
def _second_screen() -> Generator[None, None, None]:
    def stop(number: int, frame: object) -> None:
        # Ctrl-Z. By the descriptor: what is interrupted may be in the middle of writing.
        os.write(sys.stdout.fileno(), LEAVE.encode())
        os.kill(os.getpid(), signal.SIGSTOP)
        os.write(sys.stdout.fileno(), ENTER.encode())

    before = signal.signal(signal.SIGTSTP, stop)
    if before is signal.SIG_IGN:
        signal.signal(signal.SIGTSTP, before)
    try:
        sys.stdout.write(ENTER)
        sys.stdout.flush()
        yield
    finally:
        signal.signal(signal.SIGTSTP, before)
        sys.stdout.write(LEAVE)
        sys.stdout.flush()


class Sample(NamedTuple):
    """What a worker had done at a time, in seconds since the epoch."""

    at: float
    done: int
    failed: int


class Screen:
    """Draws the answers. Remembers the last one of each worker."""

    def __init__(self) -> None:
        self._before: dict[str, Sample] = {}

    def show(self, rows: Sequence[ps.Row]) -> None:
        """Draw ``rows`` over what was drawn before."""
        size = shutil.get_terminal_size()
        lines = [line[: size.columns] for line in self.lines(rows, size.columns)][: max(1, size.lines - 1)]
        sys.stdout.write(HOME + "".join(f"{line}{CLEAR_LINE}\n" for line in lines) + CLEAR_REST)
        sys.stdout.flush()

    def lines(self, rows: Sequence[ps.Row], most: int | None = None) -> list[str]:
        """Return what there is to say: all together, then each, those that do most first; ``most``: see `columns`."""
        samples = {
            row.metadata.key: Sample(row.asked_at, row.statistics.done, row.statistics.failed)
            for row in rows
            if row.statistics is not None
        }
        rates = {key: rate(self._before.get(key), sample) for key, sample in samples.items()}
        self._before = samples
        known = [row.statistics for row in rows if row.statistics is not None]
        total = [found for found in rates.values() if found is not None]
        summary = (
            f"{len(rows)} workers, {sum(row.status == 'up' for row in rows)} up, "
            f"{sum(said.in_flight for said in known)} tasks in flight, {sum(done for done, _ in total):.1f} done and "
            f"{sum(failed for _, failed in total):.1f} failed a second (Ctrl-C ends)"
        )
        busiest = sorted(rows, key=lambda row: -1 if row.statistics is None else row.statistics.in_flight, reverse=True)
        return [summary, "", *ps.columns(HEADINGS, [_cells(row, rates) for row in busiest], most), *ps.reasons(rows)]


def rate(before: Sample | None, now: Sample) -> tuple[float, float] | None:
    """Return how many were done and how many failed a second; None if nobody can know yet."""
    if before is None or now.at <= before.at:
        return None
    passed = now.at - before.at
    return max(0, now.done - before.done) / passed, max(0, now.failed - before.failed) / passed


def _cells(row: ps.Row, rates: Mapping[str, tuple[float, float] | None]) -> list[str]:
    known, said, found = row.metadata, row.statistics, rates.get(row.metadata.key)
    return [
        known.uid[:8] or "-",
        known.address,
        ",".join(sorted(known.tags)) or "-",
        row.status,
        "-" if said is None else str(said.in_flight),
        *(["-", "-"] if found is None else [f"{part:.1f}" for part in found]),
        *(["-"] * 3 if said is None else map(str, (said.done, said.failed, said.lost))),
        *ps.strain(said),
        "-" if said is None else duration(said.up_milliseconds / 1000),
    ]


def duration(passed_seconds: float) -> str:
    """Return a time in the two units that matter: ``3d 4h``, ``5m 6s``."""
    rest = max(0, int(passed_seconds))
    parts: list[str] = []
    for unit, size in (("d", 86400), ("h", 3600), ("m", 60), ("s", 1)):
        count, rest = divmod(rest, size)
        if count or parts or unit == "s":
            parts.append(f"{count}{unit}")
    return " ".join(parts[:2])
