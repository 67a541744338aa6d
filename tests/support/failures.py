"""Routines that fail in every way, for the tests to catch. Workers import this module."""

from __future__ import annotations

import asyncio
import dataclasses
import os
import sys
import threading
from collections.abc import AsyncIterator
from typing import Any

import grpc

import wool
from support.journal import Pen


class Custom(Exception):
    """An exception as users write them."""


class Signature(Exception):
    """Takes other arguments than it hands to its base."""

    def __init__(self, code: int, *, hint: str) -> None:
        super().__init__(f"failed with {code}")
        self.code = code
        self.hint = hint


class Slotted(Exception):
    __slots__ = ("detail",)

    def __init__(self, detail: str) -> None:
        self.detail = detail


class Keywords(LookupError):
    """Can be made in no other way than by keyword."""

    def __init__(self, *, code: int) -> None:
        super().__init__(f"code {code}")
        self.code = code


class NotThere(OSError):
    """Of a kind that Python keeps in members of its own."""

    def __init__(self, *, path: str) -> None:
        super().__init__(2, "not there", path)


class Several(Exception):
    """Has others among its attributes."""

    def __init__(self, *errors: BaseException) -> None:
        super().__init__(f"{len(errors)} errors")
        self.errors = list(errors)


class HoldsALock(Exception):
    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.name = name
        self.lock = threading.Lock()


class Reduced(Exception):
    """Says itself how it is pickled."""

    def __init__(self, left: int, right: int) -> None:
        super().__init__("reduced")
        self.sum = left + right

    def __reduce__(self) -> Any:
        return Reduced, (self.sum, 0)


@dataclasses.dataclass(frozen=True)
class Frozen(Exception):
    """Lets nobody write to it, by ``setattr``."""

    code: int
    hint: str


class NotReducible(Exception):
    def __reduce__(self) -> Any:
        raise RuntimeError("will not be pickled")


class Cancelled(asyncio.CancelledError):
    """A CancelledError of the user's own."""


class FakeRpcError(grpc.RpcError):
    """Looks like a broken connection."""

    def code(self) -> Any:
        return grpc.StatusCode.UNAVAILABLE


def make(name: str) -> BaseException:
    """Make an exception that is hard to send or easily misread."""
    match name:
        case "signature":
            return Signature(7, hint="h")
        case "slotted":
            return Slotted("d")
        case "lock":
            return HoldsALock("l")
        case "reduced":
            return Reduced(1, 2)
        case "several":
            return Several(Signature(7, hint="h"), Keywords(code=8), NotThere(path="p"))
        case "frozen":
            return Frozen(7, "h")
        case "not reducible":
            return NotReducible("n", 1)
        case "rpc":
            return FakeRpcError("unavailable")
        case "no workers":
            return wool.NoWorkersAvailable("of the body's own")
        case "lost":
            return wool.WorkerLost("of the body's own")
        case "interrupted":
            return wool.TaskInterrupted("of the body's own")
        case "dispatch":
            return wool.DispatchTimeout("of the body's own")
        case "serialization":
            return wool.SerializationError("of the body's own", executed="no")
        case "remote":
            return wool.RemoteError("of the body's own")
        case "unexpected":
            return wool.UnexpectedResponse("of the body's own")
        case "local class":

            class Local(Exception):
                """Travels by value."""

            return Local("local", 1)
        case "module gone":
            kind = type("Nowhere", (Exception,), {"__module__": "no.such.module", "__reduce__": _refuse})
            return kind("nowhere")
        case _:
            raise LookupError(name)


def _refuse(self: Any) -> Any:
    raise TypeError("cannot pickle it")


@wool.routine
async def fail(error: BaseException, pen: Pen | None = None) -> None:
    """Raise ``error``, made by the caller."""
    if pen is not None:
        pen.note("ran")
    raise error


@wool.routine
async def fail_with(name: str, pen: Pen | None = None) -> None:
    """Raise what is made here."""
    if pen is not None:
        pen.note("ran")
    raise make(name)


@wool.routine
async def gathered(*names: str) -> list[BaseException]:
    """Return what is made here, as `asyncio.gather` does."""
    return [make(name) for name in names]


@wool.routine
async def fail_in_stream(error: BaseException, pen: Pen) -> AsyncIterator[int]:
    pen.note("ran")
    yield 1
    raise error


@wool.routine
async def chained() -> None:
    try:
        try:
            raise KeyError("innermost")
        except KeyError:
            raise LookupError("middle")  # noqa: B904
    except LookupError as error:
        error.add_note("a note")
        raise Custom("outermost", 1) from error


@wool.routine
async def hidden() -> None:
    try:
        raise KeyError("inner")
    except KeyError:
        raise Custom("outer") from None


@wool.routine
async def grouped() -> None:
    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(_raising(Signature(1, hint="x")))
            group.create_task(_raising(ValueError("plain")))
    except* ValueError as errors:
        raise ExceptionGroup("outer", [*errors.exceptions, ExceptionGroup("inner", [Custom("deep")])]) from errors


@wool.routine
async def grouped_by_a_task_group() -> None:
    async with asyncio.TaskGroup() as group:
        group.create_task(_raising(Signature(1, hint="x")))
        group.create_task(_raising(ValueError("plain")))


@wool.routine
async def miss(what: str) -> None:
    match what:
        case "attribute":
            object().missing  # type: ignore[attr-defined]
        case "name":
            missing  # type: ignore[name-defined]  # noqa: F821
        case _:
            import no_such_module  # type: ignore[import-not-found]  # noqa: F401


async def _raising(error: Exception) -> None:
    raise error


@wool.routine
async def cyclic() -> None:
    first, second = ValueError("first"), KeyError("second")
    first.__context__, second.__context__ = second, first
    raise first


@wool.routine
async def deep_frames(levels: int) -> None:
    _deeper(levels)


def _deeper(levels: int) -> None:
    if not levels:
        raise Custom("deep")
    _deeper(levels - 1)


@wool.routine
async def through(levels: int) -> None:
    """Fail after as many hops."""
    if not levels:
        raise Custom("after the hops", os.getpid())
    await through(levels - 1)


@wool.routine
async def stop(kind: str) -> None:
    raise StopIteration("of the body") if kind == "sync" else StopAsyncIteration("of the body")


@wool.routine
async def exit_process(kind: str) -> None:
    match kind:
        case "exit":
            sys.exit(3)
        case "interrupt":
            raise KeyboardInterrupt
        case "generator":
            raise GeneratorExit


@wool.routine
async def exit_in_stream(kind: str) -> AsyncIterator[int]:
    yield 1
    if kind == "exit":
        sys.exit(3)
    if kind == "interrupt":
        raise KeyboardInterrupt
    raise GeneratorExit


@wool.routine
async def exit_in_child_task() -> None:
    async with asyncio.TaskGroup() as group:
        group.create_task(_exit())


async def _exit() -> None:
    sys.exit(4)


@wool.routine
async def leave_exit_behind() -> None:
    loop = asyncio.get_running_loop()
    left = loop.create_task(_exit())
    _left.append(left)


_left: list[asyncio.Task[None]] = []


@wool.routine
async def cancel_itself(how: str) -> None:
    task = asyncio.current_task()
    assert task is not None
    if how == "raise":
        raise asyncio.CancelledError("of the body's own")
    if how == "subclass":
        raise Cancelled("of the body's own")
    task.cancel("by itself")
    await asyncio.sleep(10)


@wool.routine
async def handling() -> None:
    """Fail while handling another failure."""
    try:
        raise KeyError("inside")
    except KeyError:
        raise ValueError("raised")  # noqa: B904


class Gone:
    """Cannot be loaded anywhere."""

    def __reduce__(self) -> Any:
        return _gone, ()


def _gone() -> None:
    raise ModuleNotFoundError("No module named 'gone'")


class Heavy(Exception):
    def __init__(self, size: int) -> None:
        super().__init__("heavy")
        self.data = os.urandom(1024) * (size // 1024)


@wool.routine
async def fail_heavily(size: int) -> None:
    raise Heavy(size)


@wool.routine
async def give(what: str) -> Any:
    match what:
        case "frame":
            return sys._getframe()
        case "gone":
            return Gone()
        case "lock":
            return [threading.Lock()]
        case size:
            return os.urandom(1024) * (int(size) // 1024)
