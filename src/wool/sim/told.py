"""Hears, in a simulated process, what the engine tells of tasks, and whether it is a story that can be.

Why it exists: `docs/events.md` says which task event follows which, whatever happens; here that is a table, asked at
each event. The history gets a word at the end of each call, and one for each event that nothing allows.

It must never change anything: it asks for the events of its own process alone, so that no frame is said for it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from wool.events import TYPES, EventsListener, TaskEvent

if TYPE_CHECKING:
    from wool.discovery.base import WorkerMetadata
    from wool.sim.history import Detail

LETTERS: dict[str, str] = dict(zip(TYPES, "csSECibd", strict=True))
"""created, scheduled, Started, stopped (its End), Completed, initiated, begun, done."""

_CALLER = {
    "coroutine": {"": "c", "c": "sC", "s": "C"},
    # Scheduled within the first step.
    "generator": {"": "c", "c": "i", "i": "sd", "s": "d", "d": "jC", "j": "d"},
}
_WORKER = {"coroutine": {"": "S", "S": "E", "E": "S"}, "generator": {"": "b", "b": "Sb", "S": "E", "E": "Sb"}}


class Watched(Protocol):
    """A process, as what hears its events knows it."""

    @property
    def nanoseconds(self) -> int:
        """Its clock."""
        ...

    def note(self, kind: str, task: str = "", attempt: str = "", detail: Detail = ()) -> None:
        """Write into the history."""
        ...


class SimEvents:
    """See `wool.events.Events`. ``stories`` holds, by task, the last letter of what is under way."""

    mask: int = (1 << len(TYPES)) - 1
    remote: int = 0

    def __init__(self, node: Watched) -> None:
        self._node = node
        self._called: dict[bytes, str] = {}
        self._run: dict[bytes, str] = {}

    def now(self) -> int:
        """See `Events`."""
        return self._node.nanoseconds

    def listen(self, listener: EventsListener) -> None:
        """See `Events`: what is wanted never changes."""

    def emit_remote(self, event: TaskEvent, timestamp: int, context: WorkerMetadata | None, missed: int) -> None:
        """See `Events`: none is asked for."""
        self._wrong(event, "a report")

    def emit(self, event: TaskEvent, timestamp: int, context: WorkerMetadata | None = None) -> None:
        """See `Events`."""
        letter = LETTERS[event.type]
        task = event.task
        key = task.key
        here = letter in "csCid"
        stories = self._called if here else self._run
        before = stories.get(key, "")
        allowed = (_CALLER if here else _WORKER)[task.kind].get(before, "")
        if letter == "i" and before == "d":
            letter = "j"  # Any step but the first.
        if letter not in allowed:
            self._wrong(event, f"{letter} after {before or 'nothing'}")
        stories[key] = letter
        if letter == "C":
            self._note("told.completed", event, (("outcome", event.outcome),))

    def _wrong(self, event: TaskEvent, what: str) -> None:
        self._note("told.wrong", event, (("type", event.type), ("what", what)))

    def _note(self, kind: str, event: TaskEvent, detail: Detail) -> None:
        self._node.note(kind, event.task.key.rstrip(b"\0").decode("ascii", "replace"), "", detail)
