"""What has become of the tasks of one worker: counted for whoever asks, and said in the log.

Why it exists: a worker is asked how it is (`wool ps`), an operator reads what it did, and who drains it wants to
know whether all came to an end. One place counts, so that the three agree.

What it owns: the counts and the lines of `wool.worker.tasks`. It lives on the I/O loop. It must never look into a
task: what is said of it is its id, its caller's and how it ended.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import NamedTuple, Protocol

from wool.protocol.frames import ResultKind
from wool.statistics import Statistics

_log = logging.getLogger("wool.worker.tasks")

EVENT_FIELDS = "wool_fields"
"""The attribute of a log record that holds the fields of an event; the message is then the event's name."""

DONE, FAILED, CANCELLED, INTERRUPTED, LOST = "done", "failed", "cancelled", "interrupted", "lost"

_OUTCOMES: dict[ResultKind, str] = {
    ResultKind.RETURN: DONE,
    ResultKind.RAISE: FAILED,
    ResultKind.UNLOADABLE: FAILED,
    ResultKind.UNSENDABLE: FAILED,
    ResultKind.CANCELLED: CANCELLED,
    ResultKind.INTERRUPTED: INTERRUPTED,
    ResultKind.UNBEGUN: INTERRUPTED,
}


class TaskLike(Protocol):
    """What the ledger has to know of a task; it writes down when the body began."""

    task: bytes
    caller: str
    began: float


class Vitals(NamedTuple):
    """How the process is, as far as it takes asking."""

    memory_bytes: Callable[[], int]
    """What it holds."""
    lag_seconds: Callable[[float], float]
    """See `wool.worker.lag`; is given the time of the I/O loop."""


class Ledger:
    """Counts offers and started tasks. ``clock`` is in seconds, and never goes back."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._up = clock()
        self.started: int = 0
        """Tasks started here, ever."""
        self.accepted: int = 0
        """Offers that were accepted; whoever accepts counts."""
        self.rejected: int = 0
        """Offers that were refused; whoever refuses counts."""
        self.interrupted: int = 0
        """Of those that ended: cut short by an operator, with their caller told so."""
        self.counted: Callable[[int], None] | None = None
        """Is told, as each task is started, how many were."""
        self._done = 0
        self._failed = 0
        self._cancelled = 0
        self._lost = 0

    @property
    def in_flight(self) -> int:
        """Tasks that were started, and whose end was neither said nor made pointless by their caller's end."""
        return self.started - self._done - self._failed - self._cancelled - self._lost

    def begin(self, task: TaskLike) -> None:
        """Note a task that is started now."""
        self.started += 1
        if self.counted is not None:
            self.counted(self.started)
        task.began = self._clock()
        if _log.isEnabledFor(logging.INFO):
            self._say("task-started", task)

    def end(self, task: TaskLike, kind: ResultKind, *, echo: bool, cancels: int) -> None:
        """Note how a task ended.

        What it raised since its consumer threw it in (``echo``) is no failure, nor what it raised after it was
        cancelled.
        """
        outcome = _OUTCOMES[kind]
        if kind is ResultKind.RAISE:
            outcome = DONE if echo else CANCELLED if cancels else FAILED
        self._count(task, outcome)

    def abandon(self, task: TaskLike) -> None:
        """Note a task whose caller has gone: it is told to end, and nobody will hear how."""
        self._count(task, LOST)

    def _count(self, task: TaskLike, outcome: str) -> None:
        if outcome == DONE:
            self._done += 1
        elif outcome == FAILED:
            self._failed += 1
        elif outcome == LOST:
            self._lost += 1
        else:
            self._cancelled += 1
            self.interrupted += outcome == INTERRUPTED
        if _log.isEnabledFor(logging.INFO):
            self._say("task-ended", task, outcome=outcome, seconds=round(self._clock() - task.began, 6))

    def _say(self, event: str, task: TaskLike, **more: object) -> None:
        _log.info(event, extra={EVENT_FIELDS: {"task": task.task.hex(), "caller": task.caller, **more}})

    def statistics(self, vitals: Vitals, *, draining: bool, sessions: int) -> Statistics:
        """Return the counts as they are now, with what others know."""
        now = self._clock()
        return Statistics(
            in_flight=self.in_flight,
            accepted=self.accepted,
            rejected=self.rejected,
            done=self._done,
            failed=self._failed,
            cancelled=self._cancelled,
            lost=self._lost,
            loop_lag_microseconds=int(max(0.0, vitals.lag_seconds(now)) * 1_000_000),
            memory_bytes=vitals.memory_bytes(),
            sessions=sessions,
            up_milliseconds=int((now - self._up) * 1000),
            draining=draining,
        )
