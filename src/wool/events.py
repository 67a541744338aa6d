"""What happens to tasks, told to whoever asks: `wool.TaskEvent` and its handlers.

Why it exists: an application counts, traces and measures its calls by a few functions of its own, which must not be
able to slow down, delay or break a single one of them.

What it owns: the eight types, the handlers of the process, and for each handler a bounded queue and a thread, which
lives as long as there is something to tell. It must never run a handler on an event loop of the engine or of the user,
nor wait for one; what does not fit is dropped and counted. When nobody asks, as `Events.mask` says, nothing is made.

Which event is emitted when, how often and by whom is `docs/events.md`.
"""

from __future__ import annotations

import asyncio
import atexit
import inspect
import logging
import os
import threading
import time
import weakref
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Final, Literal, Protocol, TypeAlias, TypeVar, cast, get_args

from wool.discovery.base import WorkerMetadata
from wool.failure import TaskException
from wool.limits import DEFAULT_LIMITS, Limits
from wool.task import Task

_log = logging.getLogger("wool.events")

TaskEventType: TypeAlias = Literal[
    "task-created",
    "task-scheduled",
    "task-started",
    "task-stopped",
    "task-completed",
    "task-iteration-initiated",
    "task-iteration-started",
    "task-iteration-completed",
]
TaskOutcome: TypeAlias = Literal["success", "failure", "cancelled", "lost"]
IterationKind: TypeAlias = Literal["next", "send", "throw", "close"]

TYPES: Final[tuple[TaskEventType, ...]] = get_args(TaskEventType)
KINDS: Final[tuple[IterationKind | None, ...]] = (None, "next", "send", "throw", "close")
"""By their numbers in the protocol, where 0 is none."""
BITS: Final[dict[str, int]] = {type: 1 << place for place, type in enumerate(TYPES)}
"""The types as bits: on the wire too, so that their order is part of the protocol."""
CREATED, SCHEDULED, STARTED, STOPPED, COMPLETED, INITIATED, ITERATION_STARTED, ITERATION_COMPLETED = BITS.values()
OF_WORKERS: Final = STARTED | STOPPED | ITERATION_STARTED
"""What only a worker can tell; all else is known where the call is made."""

IDLE_SECONDS = 0.2
"""A handler's thread that has nothing to tell for so long ends."""

_Handler = TypeVar("_Handler", bound=Callable[..., object])


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskEvent:
    """Something that has happened to a task. See `handler` for how to hear of it."""

    type: TaskEventType
    task: Task
    """Whose; its ``exception`` may still be unset, see ``exception`` here."""
    outcome: TaskOutcome | None = None
    """Of ``task-completed``: how the call ended."""
    exception: TaskException | None = None
    """Of ``task-completed``: what the call raised, if anything."""
    kind: IterationKind | None = None
    """Of the iteration types: what the consumer has asked for."""
    step: int | None = None
    """Of the iteration types: how many steps came before."""

    @staticmethod
    def handler(*types: TaskEventType, remote: bool = False) -> Callable[[_Handler], _Handler]:
        """Return a decorator that registers a plain or async function for events of ``types``.

        It is called as ``function(event, timestamp, context)``: ``timestamp`` in nanoseconds since the epoch, by the
        clock of the host where it happened; ``context`` the `WorkerMetadata` of the worker that the event is of, None
        where that is this process itself or none yet. One handler's calls come one after the other, in a thread of its
        own; an async function runs on a loop of that thread. What it raises is logged: the first time, then once a
        minute (``refusal_seconds``) with how often. Up to ``task_events`` events wait for it; further ones are
        dropped, counted (`dropped`) and logged.

        It hears of the events of its own process. With ``remote=True`` it hears in the caller what happens on the
        workers to the calls made here too, and hears nothing on a worker, so that a module imported on both sides is
        told once.

        Raises `ValueError` for a type that does not exist, or for none, and `TypeError` for a function that does not
        take the three arguments, or is a generator function.
        """
        unknown = [type for type in types if type not in BITS]
        if unknown or not types:
            named = f"unknown task event type {unknown[0]!r}" if unknown else "name at least one type of task event"
            raise ValueError(f"{named}: there are {', '.join(TYPES)}")

        def register(function: _Handler) -> _Handler:
            _check_handler(function)
            mask = 0
            for type in types:
                mask |= BITS[type]
            PROCESS.add(_Registered(cast("TaskEventHandler", function), mask, remote=remote, limits=DEFAULT_LIMITS))
            return function

        return register

    @staticmethod
    def remove_handler(function: Callable[..., object]) -> None:
        """Remove every registration of ``function``; what waits for it is dropped. `ValueError` if there is none."""
        if not PROCESS.remove(function):
            raise ValueError(f"{function!r} is no handler of task events: it was never registered, or removed before")

    @staticmethod
    def dropped() -> int:
        """Return how many events handlers of this process have missed since it began, for want of room."""
        return PROCESS.dropped

    @staticmethod
    def flush(timeout: float | None = None) -> bool:
        """Wait until handlers have returned from all that has happened; return False after ``timeout`` seconds.

        Blocks: not for an event loop. Happens by itself, for up to two seconds, when a process ends. Raises
        `RuntimeError` in a handler, which would wait for itself.
        """
        return PROCESS.flush(timeout)


TaskEventHandler: TypeAlias = Callable[[TaskEvent, int, WorkerMetadata | None], Awaitable[object] | object]


def _check_handler(function: object) -> None:
    if not callable(function):
        raise TypeError(f"a handler of task events is a function, got {type(function).__qualname__}: {function!r:.100}")
    if inspect.isasyncgenfunction(function) or inspect.isgeneratorfunction(function):
        raise TypeError(
            f"{_name(function)} cannot be a handler of task events: it is a generator function, and nobody would "
            "ask it for an item; leave the yield out"
        )
    try:
        inspect.signature(function).bind(None, 0, None)
    except ValueError:
        return  # A built-in that does not tell.
    except TypeError as error:
        raise TypeError(
            f"{getattr(function, '__qualname__', function)!s} cannot be a handler of task events, which is called as "
            f"function(event, timestamp, context): {error}"
        ) from None


class Events(Protocol):
    """Where the engine tells what happens; each process has one, a simulated one too."""

    @property
    def mask(self) -> int:
        """The types that somebody in this process wants, as bits."""
        ...

    @property
    def remote(self) -> int:
        """Those that somebody here wants from the workers."""
        ...

    def now(self) -> int:
        """Nanoseconds since the epoch."""
        ...

    def emit(self, event: TaskEvent, timestamp: int, context: WorkerMetadata | None = None) -> None:
        """Tell what has happened in this process; never waits, never raises."""
        ...

    def emit_remote(self, event: TaskEvent, timestamp: int, context: WorkerMetadata | None, missed: int) -> None:
        """Tell what has happened on a worker, which has dropped ``missed`` others before."""
        ...

    def listen(self, listener: EventsListener) -> None:
        """Tell ``listener``, as long as it lives, when ``remote`` changes. It is called in any thread."""
        ...


class EventsListener(Protocol):
    """Who wants to know which types are wanted."""

    def wanted_events_changed(self) -> None:
        """`Events.remote` is another."""
        ...


class _Registered:
    """One handler: its queue and, while there is something in it, its thread."""

    def __init__(self, function: TaskEventHandler, mask: int, *, remote: bool, limits: Limits) -> None:
        self.function: TaskEventHandler = function
        self.mask: int = mask
        self.remote: bool = remote
        self._most = limits.task_events
        self._failures = _Failures(function, limits)
        self.forget()
        self.dropped: int = 0
        self._untold = 0

    def forget(self) -> None:
        """Begin anew: in a process that was forked the thread is gone, and a lock may be held for ever."""
        self._changed = threading.Condition()
        self._queue: deque[tuple[TaskEvent, int, WorkerMetadata | None]] = deque()
        self._thread: threading.Thread | None = None
        self._busy = False
        self._removed = False
        self._failures.forked()

    def put(self, event: TaskEvent, timestamp: int, context: WorkerMetadata | None) -> None:
        with self._changed:
            if self._removed:
                return
            if len(self._queue) >= self._most:
                self.dropped += 1
                self._untold += 1
                return
            self._queue.append((event, timestamp, context))
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="wool-events", daemon=True)
                try:
                    self._thread.start()
                except RuntimeError:
                    # No thread can be had, now or since the interpreter ends.
                    self._thread = None
                    self._queue.clear()
                    self.dropped += 1
            else:
                self._changed.notify_all()

    def remove(self) -> None:
        with self._changed:
            self._removed = True
            self._queue.clear()
            self._changed.notify_all()
        self._failures.sum_up()

    def sum_up(self) -> None:
        """Log what was not said yet of its failures."""
        self._failures.sum_up()

    def flush(self, until: float | None) -> bool:
        with self._changed:
            if self._thread is threading.current_thread():
                raise RuntimeError("TaskEvent.flush was called by a handler of task events, and would wait for itself")
            while self._queue or self._busy:
                left = None if until is None else until - time.monotonic()
                if left is not None and left <= 0:
                    return False
                self._changed.wait(left)
        return True

    def _run(self) -> None:
        runner: asyncio.Runner | None = None
        try:
            while (item := self._next()) is not None:
                try:
                    answer = self.function(*item)
                    if inspect.isawaitable(answer):
                        if runner is None:
                            runner = asyncio.Runner()
                        runner.run(_awaited(answer))
                except BaseException as error:
                    # A SystemExit too: the thread is not the handler's to end.
                    self._failures.note(error, item[0].type)
                del item
        finally:
            if runner is not None:
                runner.close()

    def _next(self) -> tuple[TaskEvent, int, WorkerMetadata | None] | None:
        """Return what to tell next; None when the thread shall end."""
        with self._changed:
            self._busy = False
            self._changed.notify_all()
            if self._untold and not self._queue:
                _log.warning(
                    "handler %s of task events is too slow: %d events were dropped (task_events)",
                    _name(self.function),
                    self._untold,
                )
                self._untold = 0
            while not self._queue:
                if self._removed or not self._changed.wait(IDLE_SECONDS):
                    if self._queue:
                        break  # It came when the wait was over.
                    self._thread = None
                    return None
            self._busy = True
            return self._queue.popleft()


class _Failures:
    """What is said of a handler that raises: the first time what, with traceback, then at intervals how often.

    It is called for each task, so that a line for each would fill the disk.
    """

    def __init__(self, function: object, limits: Limits) -> None:
        self._function = function
        self._seconds = limits.refusal_seconds
        self._lock = threading.Lock()
        self._more = 0
        self._last = ""
        self._silent_until = float("-inf")

    def note(self, error: BaseException, type: str) -> None:
        """It has raised ``error``, told of an event of ``type``."""
        now = time.monotonic()
        with self._lock:
            if now < self._silent_until:
                self._more += 1
                self._last = f"{error.__class__.__name__} at {type}"
                return
            self._silent_until = now + self._seconds
        self.sum_up()
        _log.error("handler %s of task events failed at %s", _name(self._function), type, exc_info=error)

    def sum_up(self) -> None:
        """Say how often it has failed since that was said last, if it has."""
        with self._lock:
            more, self._more = self._more, 0
        if more:
            _log.error(
                "handler %s of task events failed %d more times, the last: %s", _name(self._function), more, self._last
            )

    def forked(self) -> None:
        """A lock may be held for ever; and the failures are those of another process."""
        self._lock = threading.Lock()
        self._more = 0


async def _awaited(answer: Awaitable[object]) -> None:
    await answer


def _name(function: object) -> str:
    return str(getattr(function, "__qualname__", function))


class ProcessEvents:
    """The handlers of this process. Registering is for any thread, as is all else."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._handlers: tuple[_Registered, ...] = ()
        self._listeners: weakref.WeakSet[Any] = weakref.WeakSet()
        self._is_worker = False
        self._removed_dropped = 0
        self._missed = 0
        self.mask: int = 0
        """See `Events`."""
        self.remote: int = 0
        """See `Events`."""

    def now(self) -> int:
        """See `Events`."""
        return time.time_ns()

    def be_worker(self) -> None:
        """This process is a worker: what is registered with ``remote=True`` is for its callers."""
        with self._lock:
            self._is_worker = True
        self._count()

    def add(self, handler: _Registered) -> None:
        """Register a handler."""
        with self._lock:
            self._handlers = (*self._handlers, handler)
        self._count()

    def remove(self, function: object) -> bool:
        """Remove the handlers that are ``function``; return whether there was one."""
        with self._lock:
            gone = [handler for handler in self._handlers if handler.function == function]
            self._handlers = tuple(handler for handler in self._handlers if handler not in gone)
            self._removed_dropped += sum(handler.dropped for handler in gone)
        for handler in gone:
            handler.remove()
        self._count()
        return bool(gone)

    def _count(self) -> None:
        with self._lock:
            mask = remote = 0
            for handler in self._handlers:
                if not handler.remote:
                    mask |= handler.mask
                elif not self._is_worker:
                    mask |= handler.mask
                    remote |= handler.mask & OF_WORKERS
            changed = remote != self.remote
            self.mask, self.remote = mask, remote
            listeners = list(self._listeners) if changed else []
        for listener in listeners:
            listener.wanted_events_changed()

    def listen(self, listener: EventsListener) -> None:
        """See `Events`."""
        with self._lock:
            self._listeners.add(listener)

    def emit(self, event: TaskEvent, timestamp: int, context: WorkerMetadata | None = None) -> None:
        """See `Events`."""
        bit = BITS[event.type]
        for handler in self._handlers:
            if handler.mask & bit and not (handler.remote and self._is_worker):
                handler.put(event, timestamp, context)

    def emit_remote(self, event: TaskEvent, timestamp: int, context: WorkerMetadata | None, missed: int) -> None:
        """See `Events`."""
        self._missed += missed
        bit = BITS[event.type]
        for handler in self._handlers:
            if handler.remote and handler.mask & bit and not self._is_worker:
                handler.put(event, timestamp, context)

    @property
    def dropped(self) -> int:
        """Events that somebody wanted and did not get, here or on a worker."""
        return self._missed + self._removed_dropped + sum(handler.dropped for handler in self._handlers)

    def flush(self, timeout: float | None) -> bool:
        """See `TaskEvent.flush`."""
        until = None if timeout is None else time.monotonic() + timeout
        return all(handler.flush(until) for handler in self._handlers)

    def end(self, seconds: float) -> None:
        """The process ends: let handlers hear what waits for them, for so long, and log what was only counted."""
        self.flush(seconds)
        for handler in self._handlers:
            handler.sum_up()

    def forked(self) -> None:
        """See `_Registered.forget`."""
        self._lock = threading.Lock()
        for handler in self._handlers:
            handler.forget()


PROCESS = ProcessEvents()
"""The one of a real process."""

os.register_at_fork(after_in_child=PROCESS.forked)
atexit.register(PROCESS.end, DEFAULT_LIMITS.close_seconds)


# ---- what the engine notes ---------------------------------------------------------------------------


class CallEvents:
    """What is told of one call where it is made. There is one only if somebody wants to hear something."""

    __slots__ = ("_events", "_kind", "_step", "_task")

    def __init__(self, events: Events, task: Task) -> None:
        self._events = events
        self._task = task
        self._step = 0
        self._kind: IterationKind | None = None
        self._tell(CREATED, TaskEvent(type="task-created", task=task))

    @property
    def trace(self) -> None:
        """See `wool.tracing.CallTold`: handlers trace nothing."""

    def _tell(self, bit: int, event: TaskEvent, context: WorkerMetadata | None = None) -> None:
        if self._events.mask & bit:
            self._events.emit(event, self._events.now(), context)

    def scheduled(self, worker: WorkerMetadata) -> None:
        """A worker has accepted."""
        self._tell(SCHEDULED, TaskEvent(type="task-scheduled", task=self._task), worker)

    def initiated(self, kind: int) -> None:
        """The consumer asks for a step of ``kind``, which is a place in `KINDS`."""
        self._kind = KINDS[kind]
        event = TaskEvent(type="task-iteration-initiated", task=self._task, kind=self._kind, step=self._step)
        self._tell(INITIATED, event)

    def iterated(self) -> None:
        """The step has its answer, whatever it is."""
        event = TaskEvent(type="task-iteration-completed", task=self._task, kind=self._kind, step=self._step)
        self._step += 1
        self._tell(ITERATION_COMPLETED, event)

    def completed(self, outcome: TaskOutcome, exception: TaskException | None) -> None:
        """The call has ended."""
        event = TaskEvent(type="task-completed", task=self._task, outcome=outcome, exception=exception)
        self._tell(COMPLETED, event)

    def reported(
        self, place: int, timestamp: int, worker: WorkerMetadata, kind: int | None, step: int, missed: int
    ) -> None:
        """The worker says what has happened there; ``place`` is the type's among `TYPES`, ``kind`` among `KINDS`."""
        named = KINDS[kind or 0]
        event = TaskEvent(type=TYPES[place], task=self._task, kind=named, step=None if named is None else step)
        self._events.emit_remote(event, timestamp, worker, missed)
