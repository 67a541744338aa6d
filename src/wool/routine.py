"""``@wool.routine``: an async function or async generator that runs on a worker when it is called.

The wrapper is a native coroutine or async generator function, so that everything which inspects or
drives it sees what it knows. It turns a worker's answers back into what a local body would have done;
whether and where the body runs is decided below.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
import sys
import weakref
from collections.abc import AsyncGenerator, AsyncIterable, Callable, Coroutine
from types import FunctionType
from typing import Any, ParamSpec, Protocol, TypeVar, cast, overload

from wool.call import Answer, Call
from wool.context import seconds_or_none
from wool.dispatch import Dispatcher, current_source, innermost_open
from wool.errors import SerializationError, TaskInterrupted, WorkerLost
from wool.events import TaskOutcome
from wool.failure import TaskException, as_outcome, capture, rebuild
from wool.limits import DEFAULT_LIMITS
from wool.protocol.frames import ResultKind, StepKind
from wool.remote_traceback import CONTEXT
from wool.serialization import ROUTINE_ATTRIBUTE, Payload, culprit, dumps, loads, set_routine_rebuilder
from wool.tally import End, end_of
from wool.task import TIMEOUT_ATTRIBUTE, RoutineKind

_P = ParamSpec("_P")
_T = TypeVar("_T")
_Items = TypeVar("_Items", bound=AsyncIterable[Any])
"""What an async generator function is said to return: `AsyncGenerator`, `AsyncIterator` or `AsyncIterable`."""
_Owner = TypeVar("_Owner")


_NOT_GIVEN = object()


class RoutineDecorator(Protocol):
    """What ``@wool.routine(…)`` is: does what ``@wool.routine`` does."""

    @overload
    def __call__(self, function: staticmethod[_P, _T], /) -> staticmethod[_P, _T]: ...  # type: ignore[overload-overlap]
    @overload
    def __call__(self, function: classmethod[_Owner, _P, _T], /) -> classmethod[_Owner, _P, _T]: ...
    @overload
    def __call__(self, function: Callable[_P, _Items], /) -> Callable[_P, _Items]: ...
    @overload
    def __call__(self, function: Callable[_P, Coroutine[Any, Any, _T]], /) -> Callable[_P, Coroutine[Any, Any, _T]]: ...


class RoutineInfo:
    """What a wrapper knows of its routine."""

    __slots__ = ("function", "kind", "name")

    def __init__(self, function: FunctionType, kind: RoutineKind) -> None:
        self.function: FunctionType = function
        self.kind = kind
        self.name: str = f"{function.__module__}:{function.__qualname__}"

    def __repr__(self) -> str:
        return f"<routine {self.name}>"


@overload
def routine(function: staticmethod[_P, _T], /) -> staticmethod[_P, _T]: ...  # type: ignore[overload-overlap]
@overload
def routine(function: classmethod[_Owner, _P, _T], /) -> classmethod[_Owner, _P, _T]: ...
@overload
def routine(function: Callable[_P, _Items], /) -> Callable[_P, _Items]: ...
@overload
def routine(function: Callable[_P, Coroutine[Any, Any, _T]], /) -> Callable[_P, Coroutine[Any, Any, _T]]: ...
@overload
def routine(*, timeout: float | None = None) -> RoutineDecorator: ...


def routine(function: Any = _NOT_GIVEN, /, *, timeout: float | None = None) -> Any:
    """Mark an async function or async generator function as a routine.

    Called inside an open pool it runs on one of the pool's workers, and looks to its caller like the
    function it was: result, exception with traceback, streaming and cancellation. Works on module-level
    and local functions, closures, and instance, class and static methods, with the decorators in either
    order. Arguments and results are pickled; see `wool.errors` for what a call may raise on top of what
    the body raises.

    A worker imports a module once, when the first of its routines runs there: what `importlib.reload` or an editor
    has changed since is seen by workers that are started afterwards.

    Cancelling the call cancels the body; the caller goes on when the body's ``finally`` has run, at most
    ``cancel_grace_seconds`` later.

    With ``timeout``, in seconds, as in ``@wool.routine(timeout=30)``, the worker cancels a body that has run for
    longer, a generator's in each step: it ends in `TimeoutError` as by `asyncio.timeout`, and so does the call. The
    time on the way to the worker does not count, and a body that blocks cannot be stopped.

    Raises `TypeError` if ``function`` is neither, and `ValueError` if it is a routine already, or if ``timeout`` is not
    positive.
    """
    if function is _NOT_GIVEN:
        limit = seconds_or_none("timeout", timeout)

        def decorate(function: Any) -> Any:
            return _limited(routine(function), limit)

        return decorate
    if timeout is not None:
        raise TypeError("give timeout= to the decorator alone: @wool.routine(timeout=…)")
    for descriptor in (cast("Any", staticmethod), cast("Any", classmethod)):
        if isinstance(function, descriptor):
            return descriptor(routine(function.__func__))
    if getattr(function, ROUTINE_ATTRIBUTE, None) is not None:
        raise ValueError(f"{function.__qualname__} is a routine already: apply @wool.routine once")
    if not isinstance(function, FunctionType):
        raise TypeError(
            "@wool.routine takes a function defined with 'async def', "
            f"got {type(function).__qualname__}: {function!r:.100}"
        )
    if inspect.isasyncgenfunction(function):
        return _wrap(function, "generator")
    # By the code: a plain function that is marked as one runs its body where it is called.
    if function.__code__.co_flags & inspect.CO_COROUTINE:
        return _wrap(function, "coroutine")
    kind = "a generator" if inspect.isgeneratorfunction(function) else "a plain function"
    raise TypeError(
        f"@wool.routine takes a function defined with 'async def', {function.__qualname__} is {kind}: "
        "define it with 'async def', and run blocking code in it as it is, or in asyncio.to_thread"
    )


def _limited(wrapper: Any, seconds: float | None) -> Any:
    """Let the body of ``wrapper``'s routine run for so long."""
    if seconds is not None:
        plain: Any = getattr(wrapper, "__func__", wrapper)
        # On the raw function, which is what a worker finds, by name or by value.
        setattr(getattr(plain, ROUTINE_ATTRIBUTE).function, TIMEOUT_ATTRIBUTE, seconds)
    return wrapper


def _wrap(function: FunctionType, kind: RoutineKind) -> Callable[..., Any]:
    known = _wrappers.get(function)
    if known is not None:
        return cast("Callable[..., Any]", known)
    info = RoutineInfo(function, kind)
    wrapper = _wrap_generator(info) if kind == "generator" else _wrap_coroutine(info)
    setattr(wrapper, ROUTINE_ATTRIBUTE, info)
    _wrappers[function] = wrapper
    return wrapper


def _rebuild(function: FunctionType) -> Callable[..., Any]:
    """Return the wrapper of a raw function that has travelled: one per function."""
    # By the code alone: the rest of a function that refers to itself may not be filled in yet.
    return _wrap(function, "generator" if inspect.isasyncgenfunction(function) else "coroutine")


# A wrapper holds its function: both go together.
_wrappers: weakref.WeakValueDictionary[FunctionType, Any] = weakref.WeakValueDictionary()


async def _dispatcher(info: RoutineInfo) -> Dispatcher:
    source = innermost_open()
    if source is None:
        left = current_source()
        if left is None:
            remedy = (
                "call it inside 'async with wool.WorkerPool():', inside 'with pool.use():' where another task or "
                "thread has opened the pool, "
                f"or run its body here with {info.function.__qualname__}.__wrapped__(…)"
            )
        else:
            remedy = f"{left!r} is closed: call routines inside its 'async with' block"
        raise RuntimeError(f"routine {info.name} was called outside a pool: {remedy}")
    return await source.dispatcher()


def _open_dispatcher() -> Dispatcher | None:
    source = current_source()
    return None if source is None else source.open_dispatcher


def _wrap_coroutine(info: RoutineInfo) -> Callable[..., Any]:
    function = info.function

    @functools.wraps(function)
    async def wrapper(*args: Any, **kwargs: Any) -> Any:
        # Binds the arguments natively, so that a wrong call is the caller's own TypeError; runs nothing.
        function(*args, **kwargs).close()
        dispatcher = _open_dispatcher() or await _dispatcher(info)
        call = dispatcher.new_call(function, "coroutine", args, kwargs)
        del args, kwargs  # they have been pickled, and may be large
        tally, events = dispatcher.tally, call.events
        try:
            value = _value(call, await call.first())
        except BaseException as error:
            tally.end(end_of(error, "coroutine"))
            if events is not None:
                events.completed(*call.outcome_of(error))
            raise
        tally.end("done")
        if events is not None:
            events.completed("success", None)
        return value

    return wrapper


def _wrap_generator(info: RoutineInfo) -> Callable[..., Any]:
    function = info.function

    @functools.wraps(function)
    async def wrapper(*args: Any, **kwargs: Any) -> AsyncGenerator[Any, Any]:
        function(*args, **kwargs)
        dispatcher = _open_dispatcher() or await _dispatcher(info)
        call = dispatcher.new_call(function, "generator", args, kwargs)
        del args, kwargs
        stream = _Stream(info, call)
        thrown: BaseException | None = None
        events = call.events
        outcome: tuple[TaskOutcome, TaskException | None] = ("success", None)
        end: End = "done"
        try:
            await stream.take(call.first(), None)
            while not stream.ended:
                kind, payload = StepKind.NEXT, None
                thrown = None
                item = [stream.item()]
                try:
                    # Popped, so that nothing here keeps it alive while the consumer is at work.
                    sent = yield item.pop()
                except BaseException as error:
                    thrown = error
                    if type(error) is GeneratorExit and not error.args:
                        kind = StepKind.CLOSE
                    else:
                        kind, payload = StepKind.THROW, capture(error, here=None, limits=DEFAULT_LIMITS)
                else:
                    if sent is not None:
                        kind, payload = StepKind.SEND, stream.pickled(sent)
                    del sent
                await stream.take(call.step(kind, payload), thrown)
        except BaseException as error:
            end = end_of(error, "generator")
            if events is not None:
                outcome = call.outcome_of(error)
            raise
        finally:
            del thrown
            try:
                if stream.suspended:
                    # Left in a way that the body has not heard of: what was sent in could not be pickled,
                    # or an item could not be loaded.
                    await call.close()
            finally:
                dispatcher.tally.end(end)
                if events is not None:
                    events.completed(*outcome)

    return wrapper


class _Stream:
    """What a generator's wrapper knows of the remote one."""

    __slots__ = ("_answer", "_call", "_info", "ended", "suspended")

    def __init__(self, info: RoutineInfo, call: Call) -> None:
        self._info = info
        self._call = call
        self._answer: Answer | None = None
        self.ended = False
        self.suspended = False
        """The remote body stands at a yield, and somebody has to tell it how to go on."""

    async def take(self, step: Coroutine[Any, Any, Answer] | Any, thrown: BaseException | None) -> None:
        """Wait for the answer to a step; raise what it raises. ``thrown`` is what was thrown in."""
        self.suspended = False
        while True:
            try:
                answer = await step
            except asyncio.CancelledError as cancelled:
                unseen = self._call.unseen
                if unseen is None or unseen.kind is not ResultKind.YIELD:
                    self.suspended = unseen is not None and _unheard(unseen)
                    raise
                # An item had come, unseen, when we were cancelled: the body hears of it where it stands.
                thrown = cancelled
                capsule = capture(cancelled, here=None, limits=DEFAULT_LIMITS)
                self.suspended = True
                step = self._call.step(StepKind.THROW, capsule, cancelled=True)
                self.suspended = False
                continue
            break
        if answer.kind is ResultKind.YIELD:
            self._answer = answer
            self.suspended = True
            return
        self.ended = True
        if answer.kind is ResultKind.RETURN:
            return
        if type(thrown) is GeneratorExit and isinstance(answer.error, TaskInterrupted):
            # It was to be closed, and it has been: by the end of its pool.
            return
        cut_short = isinstance(answer.error, TaskInterrupted | WorkerLost | asyncio.CancelledError)
        if isinstance(thrown, asyncio.CancelledError) and cut_short:
            # Whoever is cancelled hears that, as for any call, and not how little could be done about it.
            raise thrown
        self.suspended = _unheard(answer)
        _value(self._call, answer, thrown)

    def item(self) -> Any:
        """Return the item that has come."""
        answer, self._answer = self._answer, None
        assert answer is not None and answer.payload is not None
        # Taken out, since the call remembers its last answer, and the consumer may be long at work.
        payload, answer.payload = answer.payload, None
        return _load(self._call, payload)

    def pickled(self, sent: Any) -> Payload:
        """Pickle what the consumer sends in."""
        try:
            return dumps(sent)
        except Exception as error:
            error.add_note(
                f"wool cannot pickle what was sent into routine {self._info.name}: {culprit((sent,), {})}; "
                "the routine has been closed"
            )
            raise


def _unheard(answer: Answer) -> bool:
    """Whether the answer was decided on this side, before the body heard of the step; and there is a body."""
    error = answer.error
    return answer.kind is None and isinstance(error, SerializationError) and error.executed != "no"


def _load(call: Call, payload: Payload) -> Any:
    try:
        return loads(payload)
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # What user code raises here, a SystemExit say, is no wish of the caller's.
        raise SerializationError(
            f"the result or an item of {call.task} cannot be loaded here: {type(error).__name__}: {error}",
            executed="yes",
        ) from error


def _remedy(cause: BaseException) -> str:
    if not isinstance(cause, ModuleNotFoundError):
        return ""
    return (
        "; workers have the sys.path that their pool was opened with, or that of whoever else started them: put the "
        "module there, or let it travel by value with cloudpickle.register_pickle_by_value"
    )


def _value(call: Call, answer: Answer, thrown: BaseException | None = None) -> Any:
    """Return what the body returned, or raise what came instead. ``thrown`` is what was thrown in, if anything."""
    kind = answer.kind
    if kind is ResultKind.RETURN:
        assert answer.payload is not None
        return _load(call, answer.payload)
    error = answer.error
    try:
        if error is None:
            assert answer.payload is not None
            if kind is ResultKind.CANCELLED:
                error = asyncio.CancelledError()
            elif kind is ResultKind.UNLOADABLE:
                cause = rebuild(answer.payload)
                error = SerializationError(
                    f"the worker cannot load the definition or the arguments of {call.task}: "
                    f"{type(cause).__name__}: {cause}{_remedy(cause)}",
                    executed="no",
                )
                error.__cause__ = cause
            elif kind is ResultKind.UNSENDABLE:
                error = rebuild(answer.payload)
            else:
                error = rebuild(answer.payload, thrown)
                if answer.echo and thrown is not None:
                    error = thrown
                else:
                    error = as_outcome(error)
        call.task.exception = TaskException.from_exception(error)
        context = _joined(error, sys.exception(), thrown)
        try:
            raise error
        finally:
            # Raising has put what the caller is handling in the place of what the body was handling. Set past any
            # ``__setattr__`` of the user's: a frozen dataclass may be an exception.
            CONTEXT.__set__(error, context)
            del context
    finally:
        # The traceback holds this frame, and this frame must not hold the exceptions.
        del error, thrown


def _joined(error: BaseException, handled: BaseException | None, thrown: BaseException | None) -> BaseException | None:
    """Put what the caller is handling at the end of the chain of contexts, as locally; return the first context.

    Not behind what was thrown in: that was put where the generator stands, and not raised.
    """
    if handled is None or error is handled:
        return cast("BaseException | None", CONTEXT.__get__(error))
    chain = _contexts(error)
    if id(thrown) not in chain and chain.keys().isdisjoint(_contexts(handled)):
        _, last = chain.popitem()
        if CONTEXT.__get__(last) is None:
            CONTEXT.__set__(last, handled)
    return cast("BaseException | None", CONTEXT.__get__(error))


def _contexts(error: BaseException) -> dict[int, BaseException]:
    """Return ``error`` and its chain of contexts, which may be a cycle."""
    chain: dict[int, BaseException] = {}
    link: BaseException | None = error
    while link is not None and id(link) not in chain:
        chain[id(link)] = link
        link = CONTEXT.__get__(link)
    return chain


set_routine_rebuilder(cast("Callable[[FunctionType], Callable[..., object]]", _rebuild))
