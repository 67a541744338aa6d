"""Hears, in a simulated process, what the engine tells of tasks, and whether it is a story that can be.

Why it exists: `docs/events.md` says which task event follows which, whatever happens; here that is a table, asked at
each event. The history gets a word at the end of each call, and one for each event that nothing allows.

What callers hear of their workers, in plans that say so, is a story of its own: what workers report, over whatever the
network does to it. In all others nobody asks for that, and no frame is said for it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from wool.events import OF_WORKERS, TYPES, EventsListener, TaskEvent

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
_UNKNOWN = "?"


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

    def __init__(self, node: Watched, *, remote: bool = False) -> None:
        self._node = node
        self.remote: int = OF_WORKERS if remote else 0
        self._reported: dict[bytes, str] = {}
        self._scheduled: set[bytes] = set()
        self._called: dict[bytes, str] = {}
        self._run: dict[bytes, str] = {}

    def now(self) -> int:
        """See `Events`."""
        return self._node.nanoseconds

    def listen(self, listener: EventsListener) -> None:
        """See `Events`: what is wanted never changes."""

    def emit_remote(self, event: TaskEvent, timestamp: int, context: WorkerMetadata | None, missed: int) -> None:
        """See `Events`. What was left out may have been of any task."""
        key, letter = event.task.key, LETTERS[event.type]
        if not self.remote:
            self._wrong(event, "a report that nobody has asked for")
        elif key not in self._scheduled or self._called[key] == "C":
            self._wrong(event, f"a report of {letter} before scheduled, or after completed")
        if missed:
            self._reported = dict.fromkeys(self._called, _UNKNOWN)
        before = self._reported.get(key, "")
        if before != _UNKNOWN and letter not in _WORKER[event.task.kind].get(before, ""):
            self._wrong(event, f"a report of {letter} after {before or 'nothing'}")
        self._reported[key] = letter

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
        if letter == "s":
            self._scheduled.add(key)
        if letter == "C":
            self._note("told.completed", event, (("outcome", event.outcome),))

    def _wrong(self, event: TaskEvent, what: str) -> None:
        self._note("told.wrong", event, (("type", event.type), ("what", what)))

    def _note(self, kind: str, event: TaskEvent, detail: Detail) -> None:
        self._node.note(kind, event.task.key.rstrip(b"\0").decode("ascii", "replace"), "", detail)
