"""A tracer for simulated processes, which knows from a task what its trace must be.

Why it exists: an execution that is the child of another call is a lie that nobody sees; here each is asked, over
whatever the network does to the offer, and each span must end once. It is there in the plans in which callers are told
of their tasks; in the others nobody traces, and offers travel in columns.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from wool.protocol.frames import Trace
from wool.tracing import Tracing

if TYPE_CHECKING:
    from wool.discovery.base import WorkerMetadata
    from wool.events import IterationKind, TaskOutcome
    from wool.failure import TaskException
    from wool.sim.told import Watched
    from wool.task import Task


def trace_of(task: Task) -> Trace:
    """Return what travels with ``task``."""
    return Trace(f"00-{task.key.hex()}-{task.key[:8].hex()}-01", "sim=1")


class SimSpan:
    """See `wool.tracing.CallSpan` and `wool.tracing.ExecutionSpan`."""

    def __init__(self, tracer: SimTracer, task: Task) -> None:
        self._tracer = tracer
        self._task = task
        self._steps = 0
        self._ended = False
        self.trace: Trace | None = trace_of(task)

    def scheduled(self, worker: WorkerMetadata) -> None:
        """See `wool.tracing.CallSpan`."""
        if self._ended:
            self._tracer.wrong(self._task, "a span was told of a worker after its end")

    def step(self, kind: IterationKind, number: int) -> None:
        """See `wool.tracing.ExecutionSpan`."""
        if self._ended or number != self._steps:
            self._tracer.wrong(self._task, f"a span was told of step {number} after {self._steps} of them")
        self._steps += 1

    def ended(self, outcome: TaskOutcome, exception: TaskException | None) -> None:
        """See `wool.tracing.CallSpan`."""
        if self._ended:
            self._tracer.wrong(self._task, "a span has ended twice")
        self._ended = True


class SimTracer:
    """See `wool.tracing.Tracer`."""

    def __init__(self, node: Watched) -> None:
        self._node = node

    def call(self, task: Task) -> SimSpan:
        """See `wool.tracing.Tracer`."""
        return SimSpan(self, task)

    def execution(self, task: Task, trace: Trace | None) -> SimSpan:
        """See `wool.tracing.Tracer`."""
        if trace != trace_of(task):
            self.wrong(task, "the trace of an execution is not that of its call")
        return SimSpan(self, task)

    def flush(self, seconds: float) -> None:
        """See `wool.tracing.Tracer`: nothing is kept."""

    def wrong(self, task: Task, what: str) -> None:
        """Write down what cannot be."""
        label = task.key.rstrip(b"\0").decode("ascii", "replace")
        self._node.note("told.wrong", label, "", (("type", "a span"), ("what", what)))


def sim_tracing(node: Watched, *, on: bool) -> Tracing:
    """Return the tracing of one simulated process."""
    tracing = Tracing()
    tracing.tracer = SimTracer(node) if on else None
    return tracing
