"""One task as the two loops of its worker know it: on its way and at work.

Why it exists: a session receives a task, the routine loop runs it, and between them stands the door, which may have it
wait. What they share is here, and nothing else: records, and what each side is asked.

It must never decide anything: when a task is accepted is the machine's, in `wool.protocol.worker`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from wool.bridge import MailboxLike
from wool.protocol import frames
from wool.protocol.frames import RejectCode, ResultKind, StepKind
from wool.protocol.worker import WorkerTask
from wool.serialization import Payload

if TYPE_CHECKING:
    from wool.protocol.handshake import CallerWords


class JobSession(Protocol):
    """The session that a job came by, as the routine loop knows it. Each method is run on the I/O loop."""

    caller: CallerWords
    answer_limit: int
    watched: int

    def answer(self, job: Job, kind: ResultKind, payload: Payload, echo: bool, cancels: int = 0) -> None: ...

    def report(self, job: Job, type: int, timestamp: int, kind: StepKind | None, step: int) -> None: ...

    def broken(self, reason: str) -> None: ...


class Job:
    """One started task, as it is handed to the routine loop. Both loops hold it; see the comments."""

    __slots__ = (
        "arguments",
        "began",
        "caller",
        "definition",
        "digest",
        "dispatch_timeout",
        "limit",
        "number",
        "parent",
        "pool",
        "runner_state",
        "session",
        "task",
        "trace",
        "watched",
    )

    def __init__(
        self,
        *,
        session: JobSession,
        number: int,
        task: bytes,
        parent: bytes,
        digest: bytes,
        definition: bytes,
        arguments: Payload,
        dispatch_timeout: float | None,
        trace: frames.Trace | None = None,
    ) -> None:
        # Written here, before the job crosses; read on the routine loop.
        self.session: JobSession = session
        self.number: int = number
        self.task: bytes = task
        self.parent: bytes = parent
        self.digest: bytes = digest
        self.definition: bytes = definition
        self.arguments: Payload = arguments
        self.dispatch_timeout: float | None = dispatch_timeout
        self.trace: frames.Trace | None = trace
        self.caller: str = session.caller.uid
        self.pool: bytes = session.caller.pool
        self.limit: int = session.answer_limit
        self.watched: int = session.watched
        """The task events that the caller wants, as bits."""
        # The ledger's, here.
        self.began: float = 0.0
        # The routine loop's own.
        self.runner_state: object | None = None


class RunnerLike(Protocol):
    """The routine loop, as the service knows it: each call crosses the bridge, in order."""

    def begin(self, job: Job) -> None: ...

    def cancel(self, job: Job, message: str | None) -> None: ...

    def step(self, job: Job, kind: StepKind, payload: Payload) -> None: ...

    def close(self, job: Job) -> None: ...

    def abandon(self, job: Job) -> None: ...

    def session_opened(self, pool: bytes) -> None: ...

    def session_closed(self, pool: bytes) -> None: ...


class PostedRunner:
    """A runner as the I/O loop sees it: the same calls, posted through one FIFO."""

    def __init__(self, runner: RunnerLike, mailbox: MailboxLike) -> None:
        self._runner = runner
        self._post = mailbox.post

    def begin(self, job: Job) -> None:
        """See `RunnerLike`."""
        self._post(self._runner.begin, job)

    def cancel(self, job: Job, message: str | None) -> None:
        """See `RunnerLike`."""
        self._post(self._runner.cancel, job, message)

    def step(self, job: Job, kind: StepKind, payload: Payload) -> None:
        """See `RunnerLike`."""
        self._post(self._runner.step, job, kind, payload)

    def close(self, job: Job) -> None:
        """See `RunnerLike`."""
        self._post(self._runner.close, job)

    def abandon(self, job: Job) -> None:
        """See `RunnerLike`."""
        self._post(self._runner.abandon, job)

    def session_opened(self, pool: bytes) -> None:
        """See `RunnerLike`."""
        self._post(self._runner.session_opened, pool)

    def session_closed(self, pool: bytes) -> None:
        """See `RunnerLike`."""
        self._post(self._runner.session_closed, pool)


class Lobby(Protocol):
    """A session, as those know it who have an offer wait. Each method is run on the I/O loop."""

    caller: CallerWords

    def admit(self, served: Served) -> None:
        """Accept what was offered."""
        ...

    def refuse(self, served: Served, code: RejectCode, reason: str) -> None:
        """Reject what was offered, and had to wait."""
        ...


class Served:
    """A task on its way or at work, on the I/O side."""

    __slots__ = ("cancels", "counted", "definition", "job", "machine", "offer", "payload", "size")

    def __init__(self, offer: frames.Offer) -> None:
        self.machine: WorkerTask = WorkerTask()
        self.offer: frames.Offer = offer
        self.size: int = offer.body.total
        self.payload: Payload | None = None
        self.definition: bytes = b""
        self.job: Job | None = None
        self.counted: bool = False
        """It was let in, where places are counted, and has not been started."""
        self.cancels: list[frames.Cancel] = []
        """Cancels that have overtaken the chunks of a step, and are for it."""
