"""`wool.map`: a routine over many arguments, with a bounded number of calls open at once.

Why it exists: the loop around ``await routine()`` that everybody writes, with what is easily forgotten in it: the
arguments are read as they are needed, however many there are, and nothing goes on when the consumer has left.

What it owns: one asyncio task that reads the arguments, and one for each call that is open. It must never hold more
than ``concurrency`` arguments and results between them, nor end before all its tasks have.
"""

from __future__ import annotations

import asyncio
import inspect
from collections import deque
from collections.abc import (
    AsyncGenerator,
    AsyncIterable,
    AsyncIterator,
    Awaitable,
    Callable,
    Generator,
    Iterable,
    Iterator,
    Sized,
)
from contextvars import copy_context
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Literal, Protocol, TypeAlias, TypeVar, cast, overload

from wool.limits import DEFAULT_LIMITS

_A = TypeVar("_A")
_B = TypeVar("_B")
_C = TypeVar("_C")
_T = TypeVar("_T")
_READ_AT_ONCE = 64
"""Arguments, before other tasks of the loop have their turn."""

AnyIterable: TypeAlias = Iterable[_A] | AsyncIterable[_A]
"""What arguments are read from."""


@overload
def map(
    routine: Callable[[_A], Awaitable[_T]],
    iterable: AnyIterable[_A],
    /,
    *,
    concurrency: int = ...,
    ordered: bool = ...,
    return_exceptions: Literal[False] = ...,
    progress: bool = ...,
) -> AsyncGenerator[_T, None]: ...
@overload
def map(
    routine: Callable[[_A, _B], Awaitable[_T]],
    iterable: AnyIterable[_A],
    second: AnyIterable[_B],
    /,
    *,
    concurrency: int = ...,
    ordered: bool = ...,
    return_exceptions: Literal[False] = ...,
    progress: bool = ...,
) -> AsyncGenerator[_T, None]: ...
@overload
def map(
    routine: Callable[[_A, _B, _C], Awaitable[_T]],
    iterable: AnyIterable[_A],
    second: AnyIterable[_B],
    third: AnyIterable[_C],
    /,
    *,
    concurrency: int = ...,
    ordered: bool = ...,
    return_exceptions: Literal[False] = ...,
    progress: bool = ...,
) -> AsyncGenerator[_T, None]: ...
@overload
def map(
    routine: Callable[..., Awaitable[_T]],
    iterable: AnyIterable[Any],
    second: AnyIterable[Any],
    third: AnyIterable[Any],
    fourth: AnyIterable[Any],
    /,
    *iterables: AnyIterable[Any],
    concurrency: int = ...,
    ordered: bool = ...,
    return_exceptions: Literal[False] = ...,
    progress: bool = ...,
) -> AsyncGenerator[_T, None]: ...
@overload
def map(
    routine: Callable[[_A], Awaitable[_T]],
    iterable: AnyIterable[_A],
    /,
    *,
    concurrency: int = ...,
    ordered: bool = ...,
    return_exceptions: bool,
    progress: bool = ...,
) -> AsyncGenerator[_T | BaseException, None]: ...
@overload
def map(
    routine: Callable[[_A, _B], Awaitable[_T]],
    iterable: AnyIterable[_A],
    second: AnyIterable[_B],
    /,
    *,
    concurrency: int = ...,
    ordered: bool = ...,
    return_exceptions: bool,
    progress: bool = ...,
) -> AsyncGenerator[_T | BaseException, None]: ...
@overload
def map(
    routine: Callable[[_A, _B, _C], Awaitable[_T]],
    iterable: AnyIterable[_A],
    second: AnyIterable[_B],
    third: AnyIterable[_C],
    /,
    *,
    concurrency: int = ...,
    ordered: bool = ...,
    return_exceptions: bool,
    progress: bool = ...,
) -> AsyncGenerator[_T | BaseException, None]: ...
@overload
def map(
    routine: Callable[..., Awaitable[_T]],
    iterable: AnyIterable[Any],
    second: AnyIterable[Any],
    third: AnyIterable[Any],
    fourth: AnyIterable[Any],
    /,
    *iterables: AnyIterable[Any],
    concurrency: int = ...,
    ordered: bool = ...,
    return_exceptions: bool,
    progress: bool = ...,
) -> AsyncGenerator[_T | BaseException, None]: ...


def map(
    routine: Callable[..., Awaitable[Any]],
    /,
    *iterables: AnyIterable[Any],
    concurrency: int = DEFAULT_LIMITS.map_concurrency,
    ordered: bool = True,
    return_exceptions: bool = False,
    progress: bool = False,
) -> AsyncGenerator[Any, None]:
    """Call a routine with arguments from iterables, and yield the results as an async iterator.

    The arguments come side by side from all ``iterables``, plain and async ones, until the shortest has ended. They
    are read as they are needed: at most ``concurrency`` of them are read whose results have not been taken, so an
    iterable may be without end. Results come in the order of the arguments, or with ``ordered=False`` as they come
    in. Calls are made in the context, and so in the pool, in which `map` was called. A plain iterable is read on the
    event loop, which it must not block.

    The first call that fails ends it, when its turn has come: what it raised is raised, and the others are cancelled.
    With ``return_exceptions=True`` it stands among the results instead. What an iterable raises is raised after the
    results of what had been read.

    Leaving early cancels the calls that are open, closes the generators that the arguments came from, and waits for
    all of them; so leave with ``contextlib.aclosing`` around it, as with any async generator:

    >>> async def largest(pages):
    ...     async with contextlib.aclosing(wool.map(count_words, pages, ordered=False)) as counts:
    ...         async for count in counts:
    ...             if count > 1000:
    ...                 return count

    ``progress=True`` shows a progress bar on standard error (extra ``wool[progress]``), of calls that have ended.

    Raises `TypeError` for what is no routine or iterable, `ValueError` for a ``concurrency`` that is no positive
    number, and `ModuleNotFoundError` for a progress bar without tqdm.
    """
    if not callable(routine) or inspect.isclass(routine):
        raise TypeError(f"wool.map takes a routine, got {type(routine).__qualname__}: {routine!r:.100}")
    if inspect.isasyncgenfunction(routine):
        raise TypeError(
            f"wool.map takes a routine that returns one result, {_name(routine)} is a generator: "
            "collect its items in a routine that returns them"
        )
    if type(concurrency) is not int or concurrency < 1:
        raise ValueError(f"concurrency must be a positive number of calls, got {concurrency!r}")
    if not iterables:
        raise TypeError(f"wool.map takes at least one iterable of arguments for {_name(routine)}")
    sources = [_iterator(iterable, place) for place, iterable in enumerate(iterables, 1)]
    bar = _progress_bar(routine, iterables) if progress else None
    mapping = _Mapping(routine, sources, concurrency, ordered=ordered, stops=not return_exceptions, bar=bar)
    return _results(mapping, return_exceptions)


async def _results(mapping: _Mapping, return_exceptions: bool) -> AsyncGenerator[Any, None]:
    try:
        mapping.begin()
        while (call := await mapping.next()) is not None:
            if return_exceptions and (call.cancelled() or call.exception() is not None):
                result = _raised_by(call)
            else:
                result = call.result()
            # Neither is kept while the consumer is at work.
            del call
            item = [result]
            del result
            yield item.pop()
    finally:
        await mapping.end()


def _raised_by(call: asyncio.Task[Any]) -> BaseException | None:
    try:
        return call.exception()
    except asyncio.CancelledError as cancelled:
        return cancelled


def _name(routine: object) -> str:
    return getattr(routine, "__qualname__", None) or repr(routine)


@dataclass(frozen=True, slots=True)
class _Plain:
    """An iterator that is not async, told apart by what it was made of: what is async need not be a full iterator."""

    iterator: Iterator[Any]

    def close(self) -> None:
        """Close it if it is a generator."""
        iterator: Any = self.iterator
        if isinstance(iterator, Generator):
            iterator.close()


def _iterator(iterable: AnyIterable[Any], place: int) -> AsyncIterator[Any] | _Plain:
    if isinstance(iterable, AsyncIterable):
        return aiter(iterable)
    try:
        return _Plain(iter(iterable))
    except TypeError:
        raise TypeError(
            f"argument {place} after the routine of wool.map is neither an iterable nor an async iterable: "
            f"{type(iterable).__qualname__}"
        ) from None


_UNREADABLE = (OSError, ValueError)
"""What writing to a standard error raises that is closed, that nobody reads, or that cannot write this."""


class _Bar(Protocol):
    """What is used of tqdm."""

    disable: bool

    def update(self, n: int) -> object: ...

    def close(self) -> object: ...


def _progress_bar(routine: object, iterables: tuple[object, ...]) -> _Bar | None:
    try:
        tqdm: Any = import_module("tqdm.auto").tqdm
    except ModuleNotFoundError:
        raise ModuleNotFoundError("a progress bar needs tqdm: pip install 'wool[progress]'", name="tqdm") from None
    # Its monitor would be a thread that outlives the bar.
    quiet: Any = type("Bar", (tqdm,), {"monitor_interval": 0})
    total = min((len(iterable) for iterable in iterables if isinstance(iterable, Sized)), default=None)
    bar: Any = quiet.__new__(quiet)
    try:
        bar.__init__(total=total, desc=_name(routine), unit="call")
    except _UNREADABLE:
        bar.disable = True  # or it would still want to write when it is collected
        return None
    return cast("_Bar", bar)


class _Mapping:
    """The state of one `map`. All of it lives on the loop of its consumer."""

    def __init__(
        self,
        routine: Callable[..., Awaitable[Any]],
        sources: list[AsyncIterator[Any] | _Plain],
        concurrency: int,
        *,
        ordered: bool,
        stops: bool,
        bar: _Bar | None,
    ) -> None:
        self._routine = routine
        self._sources = sources
        self._concurrency = concurrency
        self._ordered = ordered
        self._stops = stops
        self._bar = bar
        self._context = copy_context()
        self._reader: asyncio.Task[None] | None = None
        self._open: dict[asyncio.Task[Any], None] = {}
        self._turns: deque[asyncio.Task[Any]] = deque()
        """Calls in the order in which the consumer gets them: as they began or as they ended."""
        self._taken = 0
        """Arguments that were read and whose results the consumer has not asked for."""
        self._failed = False
        self._left = False
        self._consumer: asyncio.Future[None] | None = None
        self._room: asyncio.Future[None] | None = None

    # ---- the consumer's side ----

    def begin(self) -> None:
        """Begin to read."""
        loop = asyncio.get_running_loop()
        self._reader = loop.create_task(self._read(), name="wool map reading", context=self._context)
        self._reader.add_done_callback(lambda _: _set(self._consumer))

    async def next(self) -> asyncio.Task[Any] | None:
        """Wait for the call whose turn it is, and return it; None after the last. Raises what an iterable raised."""
        reader = self._reader
        assert reader is not None
        while True:
            if self._turns and self._turns[0] not in self._open:
                self._taken -= 1
                _set(self._room)
                return self._turns.popleft()
            if reader.done() and not self._taken:
                reader.result()
                return None
            self._consumer = asyncio.get_running_loop().create_future()
            try:
                await self._consumer
            finally:
                self._consumer = None

    async def end(self) -> None:
        """Cancel what is open and wait for all of it; raise what could not be closed."""
        self._left = True
        reader = self._reader
        self._show(lambda bar: bar.close())
        if reader is None:
            return
        read = reader.done()
        again: asyncio.CancelledError | None = None
        ask = True
        while pending := [task for task in (reader, *self._open) if not task.done()]:
            if ask:
                for task in pending:
                    task.cancel()
            ask = False
            try:
                await asyncio.wait(pending)
            except asyncio.CancelledError as cancelled:
                # Whoever cancels once more wants it passed on, as to any body.
                again, ask = cancelled, True
        for call in self._turns:
            _raised_by(call)
        self._turns.clear()
        # Asked for in any case: what an iterable has raised is no news for the loop if somebody has left before.
        error = None if reader.cancelled() else reader.exception()
        if again is not None:
            raise again
        if not read and error is not None:
            raise error

    # ---- the reader ----

    async def _read(self) -> None:
        read = 0
        try:
            while not self._left and not (self._failed and self._stops):
                if self._taken == self._concurrency:
                    self._room = asyncio.get_running_loop().create_future()
                    try:
                        await self._room
                    finally:
                        self._room = None
                    continue
                arguments: list[Any] = []
                for source in self._sources:
                    if isinstance(source, _Plain):
                        try:
                            arguments.append(next(source.iterator))
                        except StopIteration:
                            return
                    else:
                        try:
                            arguments.append(await anext(source))
                        except StopAsyncIteration:
                            return
                if not self._left:
                    self._call(arguments)
                    # A source that never waits must not keep the calls from beginning, nor the consumer from leaving.
                    read += 1
                    if read % _READ_AT_ONCE == 0:
                        await asyncio.sleep(0)
        finally:
            await self._close_sources()

    def _call(self, arguments: list[Any]) -> None:
        call = asyncio.get_running_loop().create_task(
            _call(self._routine, arguments), name=f"wool map calling {_name(self._routine)}"
        )
        self._taken += 1
        self._open[call] = None
        if self._ordered:
            self._turns.append(call)
        call.add_done_callback(self._ended)

    def _ended(self, call: asyncio.Task[Any]) -> None:
        del self._open[call]
        self._failed = self._failed or call.cancelled() or call.exception() is not None
        if not self._ordered:
            self._turns.append(call)
        _set(self._consumer)
        if not self._left:
            self._show(lambda bar: bar.update(1))

    def _show(self, what: Callable[[_Bar], object]) -> None:
        """Have the bar show something. A standard error that nobody reads is no reason to stop."""
        bar = self._bar
        if bar is not None:
            try:
                what(bar)
            except _UNREADABLE:
                bar.disable = True  # else it would try once more when it is deleted
                self._bar = None

    async def _close_sources(self) -> None:
        """Close the generators: whoever has read ahead in them leaves nothing that somebody could go on with."""
        error: BaseException | None = None
        for source in self._sources:
            try:
                if isinstance(source, AsyncGenerator):
                    await source.aclose()
                elif isinstance(source, _Plain):
                    source.close()
            except BaseException as raised:
                error = raised
        if error is not None:
            raise error


async def _call(routine: Callable[..., Awaitable[Any]], arguments: list[Any]) -> Any:
    result: object = routine(*arguments)
    # Not kept while the call is under way.
    arguments.clear()
    if not inspect.isawaitable(result):
        raise TypeError(
            f"wool.map takes a routine, and {_name(routine)} returned {type(result).__qualname__}, "
            "which is not awaitable"
        )
    return await result


def _set(future: asyncio.Future[None] | None) -> None:
    if future is not None and not future.done():
        future.set_result(None)
