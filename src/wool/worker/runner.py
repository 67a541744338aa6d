"""The routine loop: loads what was started, runs the bodies, and answers.

User code runs here and nowhere else on a worker. The runner hears begin, cancel, step and abandon from
the I/O loop, in order, and answers each step once. It never touches a session: answers are posted.

A body runs in one asyncio task of its own, a generator's steps all in the same one, so that
`asyncio.current_task`, timeouts and context variables behave in a body as they do locally.
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable
from functools import partial
from inspect import isasyncgenfunction
from typing import Any, Protocol, TypeVar

from wool.bridge import MailboxLike
from wool.context import set_dispatch_timeout
from wool.definition import load_definition
from wool.errors import SerializationError
from wool.events import (
    ITERATION_STARTED,
    KINDS,
    PROCESS,
    STARTED,
    STOPPED,
    TYPES,
    Events,
    IterationKind,
    TaskEvent,
    TaskOutcome,
)
from wool.failure import Origin, TaskException, capture, rebuild
from wool.lending import set_lender
from wool.limits import Limits
from wool.protocol.frames import ResultKind, StepKind
from wool.serialization import Payload, dumps, loads
from wool.task import TIMEOUT_ATTRIBUTE, Task, set_current_task
from wool.tracing import PROCESS as TRACING
from wool.tracing import ExecutionSpan, Tracing
from wool.variables import ContextFault, Held, held, pack, receive
from wool.worker.forks import leave_if_forked
from wool.worker.job import Job
from wool.worker.lag import LoopLag
from wool.worker.seats import Desk, Seat
from wool.worker.stretches import in_stretches

_log = logging.getLogger("wool.worker")
_T = TypeVar("_T")

_NONE = Payload((b"",))
_STEP_NAMES: dict[StepKind, IterationKind] = {
    StepKind.NEXT: "next",
    StepKind.SEND: "send",
    StepKind.THROW: "throw",
    StepKind.CLOSE: "close",
}


class NestedPools(Protocol):
    """Enters a caller's pool in the context of a body, so that nested calls find the same workers."""

    def enter(self, description: bytes) -> None: ...

    def opened(self, description: bytes) -> None: ...

    def closed(self, description: bytes) -> None: ...


class _Running:
    """A job's state on the routine loop."""

    __slots__ = (
        "abandoned",
        "begun",
        "cancels",
        "closing",
        "delivered",
        "end",
        "ended",
        "held",
        "overdue",
        "owed",
        "seat",
        "span",
        "step",
        "stepping",
        "task",
        "wake",
    )

    def __init__(self) -> None:
        self.task: asyncio.Task[None] | None = None
        self.begun = False
        """The body may have run its first line."""
        self.stepping = False
        """The body holds the step: a cancel goes to it, and not to the wait for the next step."""
        self.cancels: list[str | None] = []
        """Cancels that came after a step was asked for and before it was taken up, or before the first."""
        self.delivered = 0
        """Cancels that the body has seen in this step."""
        self.step: tuple[StepKind, Payload] | None = None
        self.wake: asyncio.Future[None] | None = None
        self.overdue: asyncio.CancelledError | None = None
        """A cancel that came between two steps, and from nobody's caller: of a timeout or a task group, say, that the
        generator holds open at its yield. It hears of it there, when it is to go on."""
        self.abandoned = False
        self.closing = False
        """An operator has had the generator closed."""
        self.ended = False
        self.span: ExecutionSpan | None = None
        """Of the body, if somebody traces."""
        self.end: tuple[TaskOutcome, TaskException | None] = ("success", None)
        """How the body has ended, for its span."""
        self.held: Held | None = None
        """What the caller has of the context variables."""
        self.owed = True
        """The caller waits for an answer."""
        self.seat: Seat | None = None
        """Its place, where bodies are bounded."""


class Runner:
    """Runs jobs on one event loop. Every method is run on that loop; `post` through its mailbox."""

    def __init__(
        self,
        *,
        loop: asyncio.AbstractEventLoop,
        io: MailboxLike,
        pools: NestedPools,
        worker: str,
        limits: Limits,
        host: str,
        pid: int,
        events: Events = PROCESS,
        tracing: Tracing = TRACING,
        desk: Desk | None = None,
    ) -> None:
        self._desk = desk
        self._tracing = tracing
        self._events = events
        self._loop = loop
        self._io = io
        self._pools = pools
        self._worker = worker
        self._host = host
        self._pid = pid
        self._limits = limits
        self._running: dict[_Running, Job] = {}
        self._unbegun = 0
        self.lag: LoopLag = LoopLag(loop, lambda: bool(self._running))
        """How late the loop is."""
        self._context = contextvars.copy_context()

    @property
    def running(self) -> int:
        """Jobs that have begun and not ended."""
        return len(self._running)

    def crowd(self) -> int:
        """Return how many bodies wait for their first step: an answer may wait a little for theirs."""
        return self._unbegun

    # ---- what the I/O side asks ----

    def begin(self, job: Job) -> None:
        """Start the body of ``job``."""
        state = job.runner_state = _Running()
        self._running[state] = job
        if self._desk is not None:
            state.seat = Seat(self._desk)
        self._unbegun += 1
        self.lag.watch()
        state.task = self._loop.create_task(self._run(job, state), context=self._context.copy())

    def cancel(self, job: Job, message: str | None) -> None:
        """Deliver a cancellation to the body: at its next suspension, as locally."""
        state = _state(job)
        if state.ended:
            return
        if not state.begun or not state.stepping:
            # Before the first step: it never begins. Between two steps: the cancel crossed a yield,
            # unless the next step has been asked for already.
            if not state.begun or state.step is not None:
                state.cancels.append(message)
            if state.seat is not None and not state.begun:
                state.seat.rest()
            return
        assert state.task is not None
        state.task.cancel(message)
        state.delivered += 1

    def step(self, job: Job, kind: StepKind, payload: Payload) -> None:
        """Ask the generator for its next step."""
        state = _state(job)
        if state.ended:
            return
        state.step = (kind, payload)
        _awake(state)

    def close(self, job: Job) -> None:
        """An operator ends the generator: it is closed, and if it yields all the same, it has ended for us."""
        state = _state(job)
        if not state.ended:
            state.closing = True
            self.step(job, StepKind.CLOSE, _NONE)

    def abandon(self, job: Job) -> None:
        """The session is lost: cancel the body or close the generator, and say nothing."""
        state = _state(job)
        if state.ended:
            return
        state.abandoned = True
        if state.begun and not state.stepping:
            state.step = (StepKind.CLOSE, _NONE)
            _awake(state)
        else:
            self.cancel(job, None)

    def sweep(self) -> None:
        """Answer for the bodies that somebody's body has cancelled before their first line."""
        for state, job in list(self._running.items()):
            if state.task is not None and state.task.done():
                self._unbegun -= 1
                self._answer(job, state, ResultKind.CANCELLED, _NONE)
                if state.seat is not None:
                    state.seat.rest()
                state.ended = True
                del self._running[state]

    def session_opened(self, pool: bytes) -> None:
        """A caller with this pool has connected."""
        self._pools.opened(pool)

    def session_closed(self, pool: bytes) -> None:
        """It has gone."""
        self._pools.closed(pool)

    # ---- running ----

    async def _run(self, job: Job, state: _Running) -> None:
        self._unbegun -= 1
        task: Task | None = None
        try:
            if state.seat is not None:
                set_lender(state.seat)
                if not await state.seat.first():
                    self._answer(job, state, ResultKind.CANCELLED, _NONE)
                    return
            if state.cancels:
                self._answer(job, state, ResultKind.CANCELLED, _NONE)
                return
            try:
                function, args, kwargs = self._load(job, state)
            except BaseException as error:
                self._answer(job, state, ResultKind.UNLOADABLE, self._capture(job, error))
                return
            generator = isasyncgenfunction(function)
            task = Task(
                key=job.task,
                routine=f"{function.__module__}:{function.__qualname__}",
                kind="generator" if generator else "coroutine",
                caller=job.caller,
                parent=job.parent,
                worker=self._worker,
            )
            set_current_task(task)
            set_dispatch_timeout(job.dispatch_timeout)
            self._pools.enter(job.pool)
            if (tracer := self._tracing.tracer) is not None:
                state.span = tracer.execution(task, job.trace)
            state.begun = True
            state.stepping = True
            limit: float | None = getattr(function, TIMEOUT_ATTRIBUTE, None)
            body: Any = function(*args, **kwargs)
            del args, kwargs  # they are the body's: what it lets go of is kept by nobody, as locally
            if generator:
                await self._run_generator(job, state, task, body, limit)
            elif (job.watched | self._events.mask) & (STARTED | STOPPED):
                stretches = in_stretches(body, partial(self._tell, job, task))
                await self._run_coroutine(job, state, task, _limited(stretches, limit))
            else:
                await self._run_coroutine(job, state, task, _limited(body, limit))
        except BaseException as error:
            await self._settle(state)
            self._raised(job, state, task, error)
        finally:
            state.ended = True
            del self._running[state]
            if state.span is not None:
                state.span.ended(*state.end)
            if state.seat is not None:
                state.seat.rest()
            if state.owed and not state.abandoned:
                # It could not even be said how the body ended, out of memory perhaps: then nobody shall wait for it.
                self._io.post(job.session.broken, f"task {job.task.hex()[:12]} has ended and cannot be answered")

    def _load(self, job: Job, state: _Running) -> tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]]:
        if job.arguments.context:
            state.held = receive(job.arguments.context)
        function = load_definition(job.definition)
        arguments: Any = loads(job.arguments)
        job.arguments = _NONE
        args, kwargs = arguments
        return function, args, kwargs

    def _tell(self, job: Job, task: Task, bit: int, kind: StepKind | None = None, step: int = 0) -> None:
        """Tell what has happened to a task, here and at the caller, where it is wanted."""
        here = self._events.mask & bit
        if not (here or job.watched & bit):
            return
        now = self._events.now()
        place = bit.bit_length() - 1
        if here:
            named = KINDS[kind or 0]
            event = TaskEvent(type=TYPES[place], task=task, kind=named, step=None if kind is None else step)
            self._events.emit(event, now)
        if job.watched & bit:
            self._io.post(job.session.report, job, place, now, kind, step)

    async def _run_coroutine(self, job: Job, state: _Running, task: Task, body: Awaitable[Any]) -> None:
        answer = self._pickled(job, state, task, "the result", await body)
        await self._settle(state)
        if isinstance(answer, SerializationError):
            self._note_failure(state, answer)
            self._answer(job, state, ResultKind.UNSENDABLE, self._capture(job, answer))
        else:
            self._answer(job, state, ResultKind.RETURN, answer)

    async def _run_generator(
        self, job: Job, state: _Running, task: Task, body: AsyncGenerator[Any, Any], limit: float | None
    ) -> None:
        kind, payload = StepKind.NEXT, _NONE
        own = self._loop_task(state)
        step = 0
        watched: Callable[[Awaitable[Any]], Awaitable[Any]] = _as_it_is
        if (job.watched | self._events.mask) & (STARTED | STOPPED | ITERATION_STARTED):
            watched = partial(in_stretches, tell=partial(self._tell, job, task))
        while True:
            thrown: BaseException | None = None
            if watched is not _as_it_is:
                self._tell(job, task, ITERATION_STARTED, kind, step)
            if state.span is not None:
                state.span.step(_STEP_NAMES[kind], step)
            step += 1
            overdue, state.overdue = state.overdue, None
            try:
                if overdue is not None and kind in (StepKind.NEXT, StepKind.SEND):
                    item = await _limited(watched(body.athrow(overdue)), limit)
                elif kind is StepKind.NEXT:
                    item = await _limited(watched(body.__anext__()), limit)
                elif kind is StepKind.SEND:
                    try:
                        sent = loads(payload)
                    except BaseException as error:
                        await self._close_unanswerable(job, state, body, _not_loaded(task, error))
                        return
                    payload = _NONE
                    item = await _limited(watched(body.asend(sent)), limit)
                    del sent
                else:
                    # A close is a GeneratorExit like any other: what the body makes of it is for the
                    # caller's own generator to judge, which has been told to close.
                    thrown = GeneratorExit() if kind is StepKind.CLOSE else rebuild(payload)
                    item = await _limited(watched(body.athrow(thrown)), limit)
            except StopAsyncIteration:
                await self._settle(state)
                self._answer(job, state, ResultKind.RETURN, _NONE)
                return
            except BaseException as error:
                if kind is StepKind.CLOSE and isinstance(error, GeneratorExit):
                    thrown = error
                await self._settle(state)
                self._raised(job, state, task, error, thrown)
                return
            await self._settle(state)
            while own.cancelling():
                # What the body has swallowed does not count against its next step.
                own.uncancel()
            if state.closing and kind is StepKind.CLOSE:
                raise RuntimeError("async generator ignored GeneratorExit")
            answer = self._pickled(job, state, task, "an item", item)
            del item
            if isinstance(answer, SerializationError):
                await self._close_unanswerable(job, state, body, answer)
                return
            state.stepping = False
            self._answer(job, state, ResultKind.YIELD, answer)
            del answer
            if state.abandoned:
                # It has swallowed the cancellation, and nobody is there for the item.
                await body.aclose()
                return
            kind, payload = await self._next_step(state)
            state.stepping = state.owed = True
            if payload.context:
                try:
                    state.held = receive(payload.context)
                except BaseException as error:
                    await self._close_unanswerable(job, state, body, _not_loaded(task, error))
                    return
            for message in state.cancels:
                # Delivered where the body suspends next, as it is to a local body whose task was
                # cancelled just before.
                own.cancel(message)
                state.delivered += 1
            state.cancels.clear()

    async def _settle(self, state: _Running) -> None:
        """Take back a cancel that the body did not live to see, so that its caller hears that it was too late."""
        if not state.delivered:
            return
        state.stepping = False
        try:
            await asyncio.sleep(0)
        except asyncio.CancelledError:
            state.delivered -= 1

    def _loop_task(self, state: _Running) -> asyncio.Task[None]:
        assert state.task is not None
        return state.task

    async def _next_step(self, state: _Running) -> tuple[StepKind, Payload]:
        while state.step is None:
            state.wake = self._loop.create_future()
            try:
                await state.wake
            except asyncio.CancelledError as cancelled:
                self._keep_for_step(state, cancelled)
            finally:
                state.wake = None
        if state.seat is not None and await state.seat.again():
            self._keep_for_step(state, asyncio.CancelledError())
        step, state.step = state.step, None
        return step

    def _keep_for_step(self, state: _Running, cancelled: asyncio.CancelledError) -> None:
        """Keep a cancel that somebody's body has asked for between two steps; it goes where the generator stands."""
        task = self._loop_task(state)
        while task.cancelling():
            task.uncancel()
        state.overdue = asyncio.CancelledError(*cancelled.args)

    # ---- answering ----

    def _answer(
        self,
        job: Job,
        state: _Running,
        kind: ResultKind,
        payload: Payload,
        echo: bool = False,
        error: BaseException | None = None,
    ) -> None:
        """Say how a step ended, and what the body has set. ``error`` is what the body raised."""
        if not state.abandoned:
            if (now := held()) is not state.held:
                try:
                    payload = self._with_context(job, state, now, payload)
                except ContextFault as fault:
                    if isinstance(error, asyncio.CancelledError):
                        # Whoever has cancelled it, a time-out say, must hear that, and not of a variable.
                        _log.warning("task %s was cancelled, and does not say %s", job.task.hex()[:12], fault)
                    elif kind is not ResultKind.UNSENDABLE:
                        kind, echo = ResultKind.UNSENDABLE, False
                        wrong = fault.for_worker(f"task {job.task.hex()[:12]}")
                        wrong.__context__ = error
                        payload = self._capture(job, wrong)
            if state.seat is not None:
                state.seat.rest()  # first: who hears the answer may come at once with the next task
            self._io.post(job.session.answer, job, kind, payload, echo, state.delivered)
        state.owed = False
        state.delivered = 0

    def _pickled(self, job: Job, state: _Running, task: Task, what: str, value: object) -> Payload | SerializationError:
        """Return ``value`` as it travels, with what the body has set, or why it does not."""
        try:
            payload = dumps(value)
        except BaseException as error:
            wrong = SerializationError(
                f"{what} of {task} cannot be pickled ({type(value).__qualname__}): {type(error).__name__}: {error}",
                executed="yes",
            )
            wrong.__cause__ = error
            return wrong
        if payload.size <= job.limit:
            if (now := held()) is not state.held:
                try:
                    return self._with_context(job, state, now, payload)
                except ContextFault as fault:
                    return fault.for_worker(task)
            return payload
        return SerializationError(
            f"{what} of {task} takes {payload.size} bytes pickled, the limit is {job.limit} (payload_bytes): "
            "return a reference to the data, or yield it in pieces",
            executed="yes",
        )

    def _with_context(self, job: Job, state: _Running, now: Held | None, payload: Payload) -> Payload:
        """Return ``payload`` with what the context variables of this context are now. Raises `ContextFault`."""
        packed = pack(now, state.held, min(self._limits.context_bytes, job.limit - payload.size))
        state.held = now
        return Payload(payload.parts, packed)

    async def _close_unanswerable(
        self, job: Job, state: _Running, body: AsyncGenerator[Any, Any], why: SerializationError
    ) -> None:
        """End a generator that cannot go on: its ``finally`` has run when the caller hears why."""
        state.stepping = True
        try:
            await body.aclose()
        except BaseException as error:
            why.__context__ = error
        self._note_failure(state, why)
        self._answer(job, state, ResultKind.UNSENDABLE, self._capture(job, why))

    def _raised(
        self, job: Job, state: _Running, task: Task | None, error: BaseException, thrown: BaseException | None = None
    ) -> None:
        leave_if_forked(error)
        if task is not None:
            task.exception = TaskException.from_exception(error)
        if state.abandoned and not isinstance(error, (asyncio.CancelledError, GeneratorExit)):
            _log.info("task %s, whose caller has gone, ended with %r", job.task.hex()[:12], type(error).__name__)
        if (
            state.span is not None
            and task is not None
            and not (isinstance(error, GeneratorExit) and task.kind == "generator")
        ):
            cancelled = isinstance(error, asyncio.CancelledError)
            state.end = ("cancelled" if cancelled else "failure", task.exception)
        self._answer(job, state, ResultKind.RAISE, self._capture(job, error, thrown), error is thrown, error)

    def _note_failure(self, state: _Running, error: BaseException) -> None:
        if state.span is not None:
            state.end = ("failure", TaskException.from_exception(error))

    def _capture(self, job: Job, error: BaseException, thrown: BaseException | None = None) -> Payload:
        here = Origin(worker=self._worker, host=self._host, pid=self._pid, task=job.task.hex())
        return capture(error, here=here, limits=self._limits, thrown=thrown)


def _as_it_is(awaitable: Awaitable[Any]) -> Awaitable[Any]:
    return awaitable


def _limited(step: Awaitable[_T], seconds: float | None) -> Awaitable[_T]:
    """Return ``step``, cancelled after so long."""
    return step if seconds is None else _within(step, seconds)


async def _within(step: Awaitable[_T], seconds: float) -> _T:
    scope = asyncio.timeout(seconds)
    try:
        async with scope:
            return await step
    except TimeoutError as error:
        if not scope.expired():
            raise
        raise TimeoutError(f"the routine ran for longer than its timeout, {seconds:g} s") from error.__cause__


def _not_loaded(task: Task, error: BaseException) -> SerializationError:
    wrong = SerializationError(
        f"the worker cannot load what was sent into {task}: {type(error).__name__}: {error}", executed="yes"
    )
    wrong.__cause__ = error
    return wrong


def _state(job: Job) -> _Running:
    state = job.runner_state
    assert isinstance(state, _Running), "a job is begun before anything else comes for it"
    return state


def _awake(state: _Running) -> None:
    if state.wake is not None and not state.wake.done():
        state.wake.set_result(None)
