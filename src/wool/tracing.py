"""Who traces calls and executions, if anybody does: the seam that `wool.otel` fills.

Why it exists: the engine must know nothing of any tracing library, and pay nothing where none is used: a comparison
with None per call, and one per task on the worker. Only `wool.otel` imports opentelemetry.

What it owns: the tracer of the process, and who is told of one call. None of a tracer's methods may raise, or wait.
"""

from __future__ import annotations

from typing import Protocol

from wool.discovery.base import WorkerMetadata
from wool.events import CallEvents, IterationKind, TaskOutcome
from wool.failure import TaskException
from wool.protocol.frames import Trace
from wool.task import Task


class CallSpan(Protocol):
    """A call, where it is made."""

    @property
    def trace(self) -> Trace | None:
        """What travels with the task; None if nothing is to."""
        ...

    def scheduled(self, worker: WorkerMetadata) -> None:
        """A worker has accepted. Called on the I/O loop."""
        ...

    def ended(self, outcome: TaskOutcome, exception: TaskException | None) -> None:
        """The call has ended; called once, on the user's loop."""
        ...


class ExecutionSpan(Protocol):
    """A body at work, on the routine loop."""

    def step(self, kind: IterationKind, number: int) -> None:
        """The generator takes up a step; ``number`` came before."""
        ...

    def ended(self, outcome: TaskOutcome, exception: TaskException | None) -> None:
        """The body has ended; called once."""
        ...


class Tracer(Protocol):
    """Makes spans."""

    def call(self, task: Task) -> CallSpan:
        """Begin the span of a call, a child of what is current here."""
        ...

    def execution(self, task: Task, trace: Trace | None) -> ExecutionSpan:
        """Begin the span of a body, a child of what its caller says, and make it current in this context."""
        ...

    def flush(self, seconds: float) -> None:
        """Wait at most so long until what has ended is exported. Blocks: for the end of a process."""
        ...


class Tracing:
    """The tracer of one process, which may come and go while it runs."""

    __slots__ = ("tracer", "workers")

    def __init__(self) -> None:
        self.tracer: Tracer | None = None
        self.workers: str | None = None
        """What workers that this process starts do first, ``module:function``; empty: nothing but trace; None: not even
        that."""


PROCESS = Tracing()
"""The one of a real process."""


class CallTold(Protocol):
    """Who is told what happens to one call: handlers of task events, a tracer, or both. See `CallEvents`."""

    @property
    def trace(self) -> Trace | None: ...

    def scheduled(self, worker: WorkerMetadata) -> None: ...

    def initiated(self, kind: int) -> None: ...

    def iterated(self) -> None: ...

    def completed(self, outcome: TaskOutcome, exception: TaskException | None) -> None: ...

    def reported(
        self, place: int, timestamp: int, worker: WorkerMetadata, kind: int | None, step: int, missed: int
    ) -> None: ...


class TracedCall:
    """A call with a span, and perhaps with handlers."""

    __slots__ = ("_events", "_span", "trace")

    def __init__(self, span: CallSpan, events: CallEvents | None) -> None:
        self._span = span
        self._events = events
        self.trace: Trace | None = span.trace

    def scheduled(self, worker: WorkerMetadata) -> None:
        """See `CallEvents`, as for the others."""
        self._span.scheduled(worker)
        if self._events is not None:
            self._events.scheduled(worker)

    def initiated(self, kind: int) -> None:
        """Steps are noted where they are taken up."""
        if self._events is not None:
            self._events.initiated(kind)

    def iterated(self) -> None:
        """See `initiated`."""
        if self._events is not None:
            self._events.iterated()

    def completed(self, outcome: TaskOutcome, exception: TaskException | None) -> None:
        """The span ends, whatever the outcome is."""
        self._span.ended(outcome, exception)
        if self._events is not None:
            self._events.completed(outcome, exception)

    def reported(
        self, place: int, timestamp: int, worker: WorkerMetadata, kind: int | None, step: int, missed: int
    ) -> None:
        """See `CallEvents`."""
        if self._events is not None:
            self._events.reported(place, timestamp, worker, kind, step, missed)
