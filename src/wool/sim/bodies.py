"""What a body does, and what the consumer of a generator does: the programs inside a plan.

Owns the vocabulary of steps and asks, and the labels of the tasks that a body makes; `wool.sim.plan` says when they are
called. It must never hold anything that a run would not repeat.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

MOST_SECONDS = 86_400.0
"""Of every time in a plan."""


def check_seconds(name: str, value: float) -> None:
    """Raise `ValueError` unless it is a time that a plan may have."""
    if not 0 <= value <= MOST_SECONDS:
        raise ValueError(f"{name} must be 0 to {MOST_SECONDS:g} seconds, got {value!r}")


def _check_unused(record: Any, used: tuple[str, ...], names: str) -> None:
    slots: tuple[str, ...] = record.__slots__
    for name in slots:
        if name != names and name not in used and getattr(record, name):
            raise ValueError(f"field {name!r} means nothing to {names} {record.op!r}")


# ---- what a body does -------------------------------------------------------------------------------

STEPS: dict[str, tuple[str, ...]] = {
    "sleep": ("seconds",),
    "block": ("seconds",),
    "call": ("number", "body", "script"),
    "gather": ("steps",),
    "yield": ("number", "size", "text"),
    "return": ("number", "size", "text"),
    "raise": ("text", "number"),
    "catch": ("text", "steps"),
    "finally": ("steps", "last"),
}
"""Every step, and the fields that mean something to it."""

VALUES = ("", "unpicklable", "unloadable")
"""What ``text`` may make of a yielded or returned value; without it, it is ``number``, or ``size`` bytes."""

ERRORS = (
    "value-error",
    "key-error",
    "custom",
    "unpicklable",
    "cancelled",
    "stop-async-iteration",
    "system-exit",
    "no-workers",
)
"""What a body may raise."""

THROWN = ("value-error", "key-error", "custom", "cancelled", "stop-async-iteration")
"""What a consumer may throw into a generator."""

CATCHES = ("cancelled", "generator-exit", "exception", "anything")
"""What a ``catch`` swallows when it comes out of its steps."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One step of a body. `STEPS` says which fields belong to which ``op``.

    ``sleep`` waits, ``block`` burns the time without waiting. ``call`` makes the nested call ``number``
    and waits for it (its outcome, if it is an exception, is the step's); ``gather`` makes several at once
    (``steps``, all of them calls). ``catch`` swallows what comes out of ``steps``; ``finally`` runs
    ``last`` after ``steps``, whatever happens.
    """

    op: str
    seconds: float = 0.0
    number: int = 0
    size: int = 0
    text: str = ""
    steps: tuple[Step, ...] = ()
    last: tuple[Step, ...] = ()
    body: Body | None = None
    script: tuple[Ask, ...] = ()

    def __post_init__(self) -> None:
        used = STEPS.get(self.op)
        if used is None:
            raise ValueError(f"op {self.op!r} is none of {', '.join(STEPS)}")
        _check_unused(self, used, "op")
        check_seconds("seconds", self.seconds)
        if self.size < 0 or self.number < 0:
            raise ValueError("number and size must not be negative")
        if self.op in ("yield", "return") and self.text not in VALUES:
            raise ValueError(f"text {self.text!r} is none of {', '.join(map(repr, VALUES))}")
        if self.op == "raise" and self.text not in ERRORS:
            raise ValueError(f"text {self.text!r} is none of {', '.join(ERRORS)}")
        if self.op == "catch" and self.text not in CATCHES:
            raise ValueError(f"text {self.text!r} is none of {', '.join(CATCHES)}")
        if self.op == "call" and self.body is None:
            raise ValueError("a call needs a body")
        if self.op == "gather" and any(step.op != "call" for step in self.steps):
            raise ValueError("only calls are gathered")


@dataclass(frozen=True, slots=True, kw_only=True)
class Body:
    """A small program, the body of a routine. A coroutine that comes to its end returns 0."""

    generator: bool = False
    steps: tuple[Step, ...] = ()

    def __post_init__(self) -> None:
        numbers: list[int] = []
        for step in walk(self.steps):
            if step.op == "yield" and not self.generator:
                raise ValueError("only a generator yields")
            if step.op == "call":
                numbers.append(step.number)
        if len(set(numbers)) != len(numbers):
            raise ValueError(f"two nested calls of one body have the same number: {numbers}")

    @property
    def name(self) -> str:
        """A word for the body, as ``call.made`` has it."""
        ops = "+".join(step.op for step in self.steps)
        return f"{'generator' if self.generator else 'coroutine'}({ops})"


def walk(steps: tuple[Step, ...]) -> Iterator[Step]:
    """Yield all steps of one body, those inside blocks too; not those of nested bodies."""
    for step in steps:
        yield step
        if step.steps:
            yield from walk(step.steps)
        if step.last:
            yield from walk(step.last)


NOTHING = Body()
"""A coroutine that returns 0."""


ASKS: dict[str, tuple[str, ...]] = {
    "next": (),
    "send": ("number",),
    "throw": ("text",),
    "close": (),
    "break": (),
    "sleep": ("seconds",),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """One thing that a generator's consumer does; ``break`` lets the generator go without closing it.

    A call without a script consumes all there is. One whose script is over, and whose generator is not,
    lets it go. What comes after the generator's end is skipped.
    """

    op: str
    number: int = 0
    text: str = ""
    seconds: float = 0.0

    def __post_init__(self) -> None:
        used = ASKS.get(self.op)
        if used is None:
            raise ValueError(f"op {self.op!r} is none of {', '.join(ASKS)}")
        _check_unused(self, used, "op")
        check_seconds("seconds", self.seconds)
        if self.op == "throw" and self.text not in THROWN:
            raise ValueError(f"text {self.text!r} is none of {', '.join(THROWN)}")


def labelled(label: str, body: Body, script: tuple[Ask, ...] = ()) -> Iterator[tuple[str, Body, tuple[Ask, ...]]]:
    """Yield the label, body and script of a task and of all that it may call, outermost first."""
    yield label, body, script
    for step in walk(body.steps):
        if step.op == "call":
            assert step.body is not None
            yield from labelled(nested_label(label, step), step.body, step.script)


def nested_label(parent: str, step: Step) -> str:
    """Return the label of the task that ``step`` makes inside the body of ``parent``."""
    return f"{parent}.{step.number}"
