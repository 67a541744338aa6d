"""One call of a routine, from the user's loop to the I/O loop and back.

A call has two sides that share nothing but what crosses the bridge. `Call` is the user's: it posts
what the consumer asks, waits for answers, and passes every cancellation on. `PlacedCall` is the I/O
side's: the state machine and where the task is. Only the proxy touches the latter.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any, Protocol

from wool.bridge import MailboxLike
from wool.errors import SerializationError, WorkerLost
from wool.events import TaskOutcome
from wool.failure import TaskException
from wool.protocol.caller import CallerTask
from wool.protocol.frames import ResultKind, StepKind
from wool.serialization import Definition, Payload
from wool.task import Task
from wool.tracing import CallTold
from wool.variables import ContextFault, Held, held, pack, receive

if TYPE_CHECKING:
    from wool.connection import Connection
    from wool.deadlines import Deadlines
    from wool.errors import RpcError


class Answer:
    """What came of a step: a frame's kind and payload, or an error that was made on this side."""

    __slots__ = ("cancels", "echo", "error", "kind", "payload")

    def __init__(
        self,
        kind: ResultKind | None,
        payload: Payload | None = None,
        echo: bool = False,
        error: BaseException | None = None,
        cancels: int = 0,
    ) -> None:
        self.cancels: int = cancels
        self.kind: ResultKind | None = kind
        self.payload: Payload | None = payload
        self.echo: bool = echo
        self.error: BaseException | None = error


class Placer(Protocol):
    """The proxy, as a call's user side knows it. Each is run on the I/O loop."""

    def place(self, call: PlacedCall) -> None: ...

    def cancel(self, call: PlacedCall, message: str | None) -> None: ...

    def step(self, call: PlacedCall, kind: StepKind, payload: Payload | None, cancelled: bool = False) -> None: ...

    @property
    def closed(self) -> bool:
        """Nothing will ever happen here again; `answer_closed` may then be called from any loop."""
        ...

    def answer_closed(self, call: PlacedCall) -> Answer:
        """Answer a step that was asked for when it was too late."""
        ...


class Ways(Protocol):
    """The dispatcher, as a call knows it."""

    @property
    def context_bytes(self) -> int:
        """What context variables may add to a step."""
        ...

    def way(self, loop: asyncio.AbstractEventLoop) -> tuple[MailboxLike, MailboxLike]:
        """Return how ``loop`` posts to the I/O loop, and the I/O loop to it."""
        ...


class PlacedCall:
    """The I/O side of a call."""

    __slots__ = (
        "arguments",
        "clock",
        "connection",
        "definition",
        "deliver",
        "dispatch_timeout",
        "events",
        "left_behind",
        "link",
        "machine",
        "number",
        "parked",
        "size",
        "step",
        "task",
        "tried",
        "uploaded",
        "user",
        "waits",
    )

    def __init__(
        self,
        task: Task,
        definition: Definition,
        arguments: Payload,
        dispatch_timeout: float | None,
        user: MailboxLike,
        deliver: Callable[[Answer], None],
        events: CallTold | None = None,
    ) -> None:
        self.task: Task = task
        self.events: CallTold | None = events
        """Who is told what happens to the task; None if nobody wants to know."""
        self.definition: Definition = definition
        self.arguments: Payload = arguments
        self.size: int = arguments.size
        """Bytes of the arguments, pickled."""
        self.dispatch_timeout: float | None = dispatch_timeout
        self.user: MailboxLike = user
        self.deliver: Callable[[Answer], None] | None = deliver
        self.machine: CallerTask = CallerTask()
        self.link: object | None = None
        self.connection: Connection | None = None
        self.number: int = 0
        self.parked: bool = False
        """Its offer waits at a worker for a place."""
        self.clock: Deadlines[PlacedCall] | None = None
        """The dispatch timeout's clock, while it runs."""
        self.tried: dict[str, RpcError] | None = None
        """Why each worker that was tried did not take it; None until the first."""
        self.left_behind: dict[str, int] | None = None
        """How often an offer to each worker was withdrawn for want of an answer; None until the first."""
        self.waits: int = 0
        """Patiences that this offer has left, beyond the one that runs."""
        self.uploaded: int = 0
        """How far uploads on the connection were when patience was last looked at."""
        self.step: tuple[StepKind, Payload | None] | None = None
        """The step at hand, for the machine to say."""

    def note_tried(self, worker: str, why: RpcError) -> None:
        """Note why the worker does not take the task: it is not tried again."""
        if self.tried is None:
            self.tried = {}
        self.tried[worker] = why

    def leave_behind(self, worker: str) -> None:
        """Note that the worker was given up for want of an answer."""
        if self.left_behind is None:
            self.left_behind = {}
        self.left_behind[worker] = self.left_behind.get(worker, 0) + 1

    def patiences(self, worker: str) -> int:
        """Return for how many patiences to wait for the worker: twice as long as the last time.

        Else a call would go round for ever among workers that all take longer than one patience to answer.
        """
        assert self.left_behind is not None
        return int(2 ** self.left_behind.get(worker, 0))

    def respond(self, answer: Answer) -> None:
        """Send ``answer`` to the user's side."""
        if self.deliver is not None:
            self.user.post(self.deliver, answer)

    def respond_last(self, answer: Answer) -> None:
        """Send the last answer. The two sides let go of each other, so that no cycle is left to collect."""
        self.respond(answer)
        self.deliver = None


class Call:
    """The user side of a call. Lives on the loop on which its last step was asked for, the first where it was made."""

    __slots__ = ("_answer", "_held", "_io", "_loop", "_placed", "_placer", "_ways", "unseen")

    def __init__(
        self,
        placer: Placer,
        io: MailboxLike,
        loop: asyncio.AbstractEventLoop,
        task: Task,
        definition: Definition,
        arguments: Payload,
        dispatch_timeout: float | None,
        user: MailboxLike,
        ways: Ways | None = None,
        known: Held | None = None,
        events: CallTold | None = None,
    ) -> None:
        self._held = known
        """What the other side has of the context variables."""
        self._placer = placer
        self._ways = ways
        self._io = io
        self._loop = loop
        self._answer: asyncio.Future[Answer] = loop.create_future()
        self._placed = PlacedCall(task, definition, arguments, dispatch_timeout, user, self.deliver, events)
        self.unseen: Answer | None = None
        """An answer that had come when a cancellation overtook it on the last stretch."""

    @property
    def task(self) -> Task:
        """The record of this call."""
        return self._placed.task

    def deliver(self, answer: Answer) -> None:
        """Take the answer to the step at hand. Run on the user's loop."""
        if self._answer.done():
            # Cancelled, and the task has not run since: it finds the answer when it does.
            self.unseen = answer
        else:
            self._answer.set_result(answer)

    def first(self) -> Coroutine[Any, Any, Answer]:
        """Dispatch the task, once, and return the answer to its first step (or its result)."""
        if self._placed.events is not None:
            return self._told(self._placed.events, StepKind.NEXT, self._first)
        return self._first()

    def _first(self) -> Coroutine[Any, Any, Answer]:
        if self._placer.closed:
            # The I/O loop may have ended: nobody would hear what is posted there.
            self._answer.set_result(self._placer.answer_closed(self._placed))
            return self._wait()
        self._io.post(self._placer.place, self._placed)
        return self._wait()

    def step(self, kind: StepKind, payload: Payload | None, *, cancelled: bool = False) -> Coroutine[Any, Any, Answer]:
        """Ask for the next step of a generator and return the answer.

        ``cancelled`` is a step by which the body hears of a cancellation: the grace bounds it. Raises if a context
        variable that was set since cannot be pickled; then nothing has happened.
        """
        if (now := held()) is not self._held:
            payload = self._with_context(now, payload)
        return self._ask(kind, payload, cancelled)

    def close(self) -> Coroutine[Any, Any, Answer]:
        """Close a generator that cannot go on: as `step`, but that the body sees the context that it has."""
        return self._ask(StepKind.CLOSE, None, False)

    def _ask(self, kind: StepKind, payload: Payload | None, cancelled: bool) -> Coroutine[Any, Any, Answer]:
        if self._placed.events is not None:
            return self._told(self._placed.events, kind, lambda: self._step(kind, payload, cancelled))
        return self._step(kind, payload, cancelled)

    async def _told(self, events: CallTold, kind: StepKind, ask: Callable[[], Coroutine[Any, Any, Answer]]) -> Answer:
        """Ask, and tell of the iteration, where it is one."""
        if self.task.kind == "coroutine":
            return await ask()
        events.initiated(kind)
        try:
            return await ask()
        finally:
            events.iterated()

    @property
    def events(self) -> CallTold | None:
        """Who is told what happens to the task; None if nobody wants to know."""
        return self._placed.events

    def outcome_of(self, error: BaseException) -> tuple[TaskOutcome, TaskException | None]:
        """Return what is told of a call that ends with ``error``; it holds no live object."""
        if isinstance(error, GeneratorExit) and self.task.kind == "generator":
            return "success", None  # It was closed, and did as it was asked.
        exception = TaskException.from_exception(error)
        if isinstance(error, asyncio.CancelledError | GeneratorExit):
            return "cancelled", exception
        return "lost" if isinstance(error, WorkerLost) else "failure", exception

    def _with_context(self, now: Held | None, payload: Payload | None) -> Payload | None:
        assert self._ways is not None, "a call whose context may change knows the ways"
        try:
            packed = pack(now, self._held, self._ways.context_bytes)
        except ContextFault as fault:
            raise fault.for_caller(f"{self.task} has been closed", executed=True) from None
        self._held = now
        return Payload(_NOTHING if payload is None else payload.parts, packed) if packed else payload

    def _step(self, kind: StepKind, payload: Payload | None, cancelled: bool) -> Coroutine[Any, Any, Answer]:
        loop = asyncio.get_running_loop()
        if loop is not self._loop:
            self._move(loop)
        self._answer = loop.create_future()
        if self._placer.closed:
            # The I/O loop may have ended: nobody would hear what is posted there.
            self._answer.set_result(self._placer.answer_closed(self._placed))
            return self._wait()
        # In case the last answer, which lets go, is the one that was overtaken by a cancellation.
        self._placed.deliver = self.deliver
        self._io.post(self._placer.step, self._placed, kind, payload, cancelled)
        return self._wait()

    def _move(self, loop: asyncio.AbstractEventLoop) -> None:
        """Go on on another loop. No step is outstanding, and the I/O side learns it with the next one."""
        assert self._ways is not None, "a call that may move knows the ways"
        self._io, self._placed.user = self._ways.way(loop)
        self._loop = loop

    def _receive(self, answer: Answer) -> Answer:
        """Set what the body has set, in the context of whoever waits; return the answer, or why it is none."""
        assert answer.payload is not None
        try:
            self._held = receive(answer.payload.context)
        except Exception as error:
            wrong = SerializationError(
                f"what {self.task} says of context variables cannot be read here: {type(error).__name__}: {error}",
                executed="yes",
            )
            wrong.__cause__ = error
            if answer.kind is not ResultKind.YIELD:
                raise wrong from error
            return Answer(None, error=wrong, cancels=answer.cancels)
        return answer

    async def _wait(self) -> Answer:
        self.unseen = None
        last: asyncio.CancelledError | None = None
        asked = 0
        while True:
            future = self._answer
            try:
                answer = await future
            except asyncio.CancelledError as cancelled:
                if not future.cancelled():
                    self.unseen = future.result()
                if self.unseen is not None:
                    # The answer was here, and the cancellation came before we looked: it wins, as it
                    # does for any future that is awaited.
                    if (payload := self.unseen.payload) is not None and payload.context:
                        self._receive(self.unseen)
                    raise
                # The answer may come meanwhile; what counts is what the remote end makes of it.
                self._answer = self._loop.create_future()
                last = cancelled
                asked += 1
                message = cancelled.args[0] if cancelled.args and isinstance(cancelled.args[0], str) else None
                self._io.post(self._placer.cancel, self._placed, message)
                continue
            except GeneratorExit:
                # It was thrown away, with its loop perhaps: the body need not go on for nobody.
                self._io.post(self._placer.cancel, self._placed, None)
                raise
            if (payload := answer.payload) is not None and payload.context:
                answer = self._receive(answer)
            if last is not None:
                if answer.kind is ResultKind.CANCELLED or _was_cancelled(answer):
                    raise last
                if answer.cancels < asked:
                    # The body had answered before it could hear of the cancellation, which must not be lost.
                    self.unseen = answer
                    raise last
            return answer


_NOTHING = (b"",)


def _was_cancelled(answer: Answer) -> bool:
    return answer.kind is None and isinstance(answer.error, asyncio.CancelledError)
