"""A failure, for a person: what broke, in a sentence; the plan, in words; what happened, as a diagram.

Pure: a report is made from plan, history and violation, and whoever wants it prints it.
"""

from __future__ import annotations

from dataclasses import dataclass

from wool.sim.diagram import Diagram, as_text, diagram_of
from wool.sim.history import History
from wool.sim.invariants.story import Violation
from wool.sim.plan import Plan
from wool.sim.words import fault, tell

RULE = "═" * 118
MOST_ROWS = 120


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """A plan that fails, and all that is known of it."""

    plan: Plan
    history: History
    violations: tuple[Violation, ...]
    necessary: tuple[int, ...] = ()
    """The faults without which it does not fail."""
    file: str = ""
    """Where the plan is kept."""
    found: str = ""
    """How it was found."""

    @property
    def first(self) -> Violation:
        """The violation that is told."""
        return self.violations[0]

    def diagram(self) -> Diagram:
        """Return what happened to the task that is told of: what each form of the report draws."""
        return diagram_of(self.history, self.plan, self.first.task, self.first.events)


def report(failure: Failure) -> str:
    """Return the report as text, about 118 columns wide."""
    violation = failure.first
    of = f", task {violation.task}" if violation.task else ""
    lines = [RULE, f"{violation.invariant} is broken{of}: {violation.sentence}", RULE, ""]
    lines += ["The plan:", *(f"  {line}" for told in tell(failure.plan) for line in wrapped(told)), ""]
    lines += [necessity(failure), ""]
    lines += ["What happened:", "", *_shortened(as_text(failure.diagram()).splitlines()), ""]
    waits = _where_all_waits(failure.history)
    if waits:
        lines += ["Where everything waits:", "", *waits, ""]
    others = [other for other in failure.violations[1:] if str(other) != str(violation)]
    if others:
        lines += ["Also:", *(f"  {other}" for other in others[:8]), ""]
        if len(others) > 8:
            lines.insert(-1, f"  and {len(others) - 8} more")
    if failure.found:
        lines.append(f"Found {failure.found}.")
    if failure.file:
        lines += ["Replay it with:", f"  {replay_command(failure.file)}"]
    return "\n".join(lines) + "\n"


def _where_all_waits(history: History) -> list[str]:
    """Return what a run that did not end has said of its tasks."""
    return [
        line
        for event in history.of("run.ended")
        if event.get("how") != "done"
        for line in str(event.get("words", "")).splitlines()
    ]


def replay_command(file: str) -> str:
    """Return the one command that runs a kept plan again."""
    return f"nox -s sim -- --replay {file}"


def necessity(failure: Failure) -> str:
    """Say which faults it takes."""
    faults = failure.plan.faults
    if not faults:
        return "It takes no fault at all."
    if len(failure.necessary) == len(faults):
        return "It takes this fault." if len(faults) == 1 else "It takes every one of these faults."
    if not failure.necessary:
        return "No single one of these faults is necessary."
    named = "; ".join(f"fault {index} ({fault(faults[index])})" for index in failure.necessary)
    return f"Necessary: {named}."


def wrapped(line: str, width: int = 112) -> list[str]:
    """Return a line in pieces that fit, the later ones set in."""
    pieces: list[str] = []
    while len(line) > width:
        cut = line.rfind(" ", 0, width)
        cut = cut if cut > 20 else width
        pieces.append(line[:cut])
        line = "    " + line[cut:].lstrip()
    return [*pieces, line]


def _shortened(lines: list[str]) -> list[str]:
    if len(lines) <= MOST_ROWS:
        return lines
    half = MOST_ROWS // 2
    return [*lines[:half], f"           … {len(lines) - MOST_ROWS} lines left out …", *lines[-half:]]
