"""What has become of the calls of one pool, for the application that makes them.

Why it exists: an application watches its own calls, whatever workers they go to; a worker knows only those that it got.
What is counted is what the caller gets, where it gets it.

What it owns: the counts. They are written in any thread that makes calls, under a lock, and read without one. It must
never keep an exception.
"""

from __future__ import annotations

import asyncio
import threading
from dataclasses import dataclass
from typing import Literal, TypeAlias

from wool.errors import NoWorkersAvailable, TaskInterrupted, WorkerLost
from wool.task import RoutineKind

End: TypeAlias = Literal["done", "failed", "cancelled", "interrupted", "lost", "unplaced"]


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolStatistics:
    """What has become of the calls that were made in this process by one pool or proxy.

    Every call is in exactly one of these, and only the first ever falls. A call is one once its arguments are pickled.
    """

    in_flight: int
    """Calls that have not ended, generators that are open among them, and calls that wait for a worker."""
    done: int
    """Calls that returned; generators that came to their end, or were closed."""
    failed: int
    """Calls that raised what the body raised, or a `SerializationError`."""
    cancelled: int
    """Calls whose caller was cancelled, whatever the body has come to."""
    interrupted: int
    """Calls that ended with `TaskInterrupted`."""
    lost: int
    """Calls that ended with `WorkerLost`: the body may have run."""
    unplaced: int
    """Calls that ended with `NoWorkersAvailable` or `DispatchTimeout`: the body has not run."""


_ENDS: tuple[tuple[type[BaseException], End], ...] = (
    (WorkerLost, "lost"),
    (NoWorkersAvailable, "unplaced"),
    (TaskInterrupted, "interrupted"),
    (asyncio.CancelledError, "cancelled"),
)


def end_of(error: BaseException, kind: RoutineKind) -> End:
    """Return what a call has come to whose caller gets ``error``."""
    if isinstance(error, GeneratorExit):
        # A generator that is closed did as it was asked; a coroutine that is closed was given up.
        return "done" if kind == "generator" else "cancelled"
    for cause, end in _ENDS:
        if isinstance(error, cause):
            return end
    return "failed"


class Tally:
    """Counts the calls of one pool, in any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._ends: dict[End, int] = {
            "done": 0,
            "failed": 0,
            "cancelled": 0,
            "interrupted": 0,
            "lost": 0,
            "unplaced": 0,
        }
        self.made: int = 0
        """Calls, ever."""

    def begin(self) -> None:
        """Note a call that is made now; pair with `end`."""
        with self._lock:
            self.made += 1

    def end(self, end: End) -> None:
        """Note what a call has come to."""
        with self._lock:
            self._ends[end] += 1

    def statistics(self) -> PoolStatistics:
        """Return the counts as they are now."""
        # In this order: what begins and ends meanwhile is in flight, and nothing is below 0.
        ends = self._ends.copy()
        return PoolStatistics(in_flight=self.made - sum(ends.values()), **ends)
