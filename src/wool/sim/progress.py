"""What a person sees of a campaign: a line while it runs, a table when it is over.

It writes to the stream that it is given, and decides nothing.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import TextIO

from wool.sim.campaign import Found, Tally
from wool.sim.coverage import STATES, never_reached
from wool.sim.invariants.table import INVARIANTS, formula_of
from wool.sim.kinds import FAULTS
from wool.sim.speed import Speed

MODES = {"hypothesis": "Hypothesis", "volume": "plain random numbers"}

GROUPS = ("wire", "process", "discovery", "trust")
"""Of faults."""
LINE_SECONDS = 10.0
"""Between two lines where the output is no terminal."""


class Progress:
    """Shows how far a campaign is."""

    def __init__(self, out: TextIO, seconds: float | None, most_plans: int | None) -> None:
        self._out = out
        self._terminal = out.isatty()
        self._begun = time.monotonic()
        self._last = self._begun
        self._seconds = seconds
        self._most_plans = most_plans

    @property
    def elapsed(self) -> float:
        """Seconds since the campaign began."""
        return time.monotonic() - self._begun

    def show(self, tally: Tally) -> None:
        """Show where it stands, if it is time to."""
        now = time.monotonic()
        if not self._terminal and now - self._last < LINE_SECONDS:
            return
        self._last = now
        line = self.line(tally)
        self._out.write(f"\r\x1b[2K{line}" if self._terminal else f"{line}\n")
        self._out.flush()

    def line(self, tally: Tally) -> str:
        """Return the line."""
        plans = sum(tally.plans.values())
        reached = sum(tally.states[label] > 0 for label in STATES)
        goal = f"/{self._seconds:.0f}" if self._seconds is not None else ""
        of = f"/{self._most_plans}" if self._most_plans is not None else ""
        groups: dict[str, int] = {}
        for kind, count in tally.faults.items():
            if kind in FAULTS:
                group = FAULTS[kind].group
                groups[group] = groups.get(group, 0) + count
        faults = ", ".join(f"{group} {groups.get(group, 0)}" for group in GROUPS)
        return (
            f"{self.elapsed:4.0f}{goal} s  {plans}{of} plans  {tally.simulated / 3600:.2f} h simulated  "
            f"faults: {faults}  states {reached}/{len(STATES)}"
        )

    def clear(self) -> None:
        """Remove the line, where it can be removed."""
        if self._terminal:
            self._out.write("\r\x1b[2K")
            self._out.flush()


def summary(tally: Tally, *, elapsed: float, jobs: int, seed: int, kept: int, found: Found | None, speed: Speed) -> str:
    """Return the table at the end."""
    return "\n".join(_summary(tally, elapsed, jobs, seed, kept, found, speed)) + "\n"


def _summary(
    tally: Tally, elapsed: float, jobs: int, seed: int, kept: int, found: Found | None, speed: Speed
) -> Iterator[str]:
    plans = sum(tally.plans.values())
    busy = max(sum(tally.busy.values()) / 1000, 1e-9)
    rates = [
        f"{count / max(tally.busy[mode] / 1000, 1e-9):.1f} through {MODES[mode]}"
        for mode, count in sorted(tally.plans.items())
    ]
    modes = ", ".join(f"{count} {mode}" for mode, count in sorted(tally.plans.items()))
    missing = never_reached(tally.states)
    rows = [
        ("plans", f"{plans} ({modes})" if plans else "0"),
        ("of which scenarios", f"{tally.scenarios} (three workers, 20 calls of all sorts, a fault)"),
        ("kept plans replayed", str(kept)),
        ("real time", f"{elapsed:.1f} s with {jobs} process{'es' if jobs != 1 else ''}, seed {seed}"),
        ("plans a second and core", f"{', '.join(rates) or 'none'}; all checkers on"),
        (
            "simulated time",
            f"{tally.simulated:.0f} s, {tally.simulated / busy:.0f} s a second and core; idle {speed.idle_rate:,.0f} s",
        ),
        ("a callback of the loop", f"{speed.callback_seconds * 1e6:.1f} µs"),
        ("events judged", f"{tally.events}, {tally.steps} steps of loops"),
        ("run twice", f"{tally.twice}, the same event for event"),
        ("invariants", f"{len(INVARIANTS)}, {'none' if found is None else 1} broken"),
        (
            "to shrink",
            f"{found.shrink_seconds:.1f} s, {found.shrink_runs} runs"
            if found is not None
            else "nothing; the median over all planted bugs is told by nox -s mutants",
        ),
        ("states reached", f"{len(STATES) - len(missing)} of {len(STATES)}"),
    ]
    width = max(len(name) for name, _ in rows)
    yield "─" * 100
    for name, value in rows:
        yield f"{name.ljust(width)}  {value}"
    yield f"{'faults'.ljust(width)}  {sum(tally.faults.values())}"
    for group in GROUPS:
        said = [f"{kind} {tally.faults[kind]}" for kind, form in FAULTS.items() if form.group == group]
        yield from _wrapped(f"  {group}:", said, width)
    if missing:
        yield from _wrapped("never reached:", missing, width)
    yield "─" * 100


def _wrapped(head: str, items: list[str], indent: int, width: int = 100) -> Iterator[str]:
    line = head.ljust(indent) + " "
    for number, item in enumerate(items):
        piece = item + ("," if number < len(items) - 1 else "")
        if len(line) + len(piece) + 1 > width:
            yield line
            line = " " * (indent + 1)
        line += " " + piece
    yield line


def invariants_told() -> str:
    """Return every invariant with its formula, one a line."""
    return "\n".join(formula_of(name) for name in INVARIANTS) + "\n"
