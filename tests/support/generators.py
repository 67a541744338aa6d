"""Generator routines, for the tests to consume. Workers import this module."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any

import wool
from support.journal import Pen


@wool.routine
async def noted(pen: Pen, stop: int) -> AsyncGenerator[int, Any]:
    try:
        for number in range(stop):
            pen.note(f"item {number}")
            yield number
    finally:
        pen.note("finally")


@wool.routine
async def endless() -> AsyncGenerator[int, Any]:
    number = 0
    while True:
        yield number
        number += 1


@wool.routine
async def accumulate() -> AsyncGenerator[int, int | None]:
    total = 0
    while True:
        total += (yield total) or 0


@wool.routine
async def repeat() -> AsyncGenerator[Any, Any]:
    value: Any = None
    while True:
        value = yield value


@wool.routine
async def places() -> AsyncIterator[tuple[int, str, str]]:
    while True:
        task, inner = wool.current_task(), asyncio.current_task()
        assert task is not None
        assert inner is not None
        yield os.getpid(), str(task.id), inner.get_name()


@wool.routine
async def parking(pen: Pen) -> AsyncGenerator[int, Any]:
    await pen.park()
    yield 1


@wool.routine
async def parking_later(pen: Pen) -> AsyncGenerator[int, Any]:
    yield 1
    try:
        await asyncio.sleep(3600)
    finally:
        pen.note("left")


@wool.routine
async def stubborn() -> AsyncGenerator[int, Any]:
    try:
        yield 1
    except GeneratorExit:
        yield 2
    yield 3


@wool.routine
async def timing_out(pen: Pen) -> AsyncGenerator[int, Any]:
    """Yield in a timeout that passes as soon as the consumer has the item."""
    try:
        async with asyncio.timeout(None) as scope:
            scope.reschedule(asyncio.get_running_loop().time())
            try:
                yield 1
            except BaseException as error:
                pen.note(type(error).__name__)
                raise
            await pen.park()
    finally:
        await asyncio.sleep(0)
        pen.note("finally")


@wool.routine
async def failing_beside(pen: Pen) -> AsyncGenerator[int, Any]:
    """Yield in a task group of which a task fails as soon as the consumer has the item."""

    async def fail() -> None:
        raise LookupError("beside")

    async with asyncio.TaskGroup() as group:
        group.create_task(fail())
        yield 1
        await pen.park()


class BrokenOnWorkers:
    """Can be pickled, and not be loaded in another process."""

    def __reduce__(self) -> Any:
        return _broken, (os.getpid(),)


def _broken(pid: int) -> None:
    if os.getpid() != pid:
        raise LookupError("broken on arrival")


@wool.routine
async def unpicklable(pen: Pen) -> AsyncGenerator[Any, Any]:
    try:
        yield 1
        yield sys._getframe()
    finally:
        pen.note("finally")


@wool.routine
async def unloadable(pen: Pen) -> AsyncGenerator[Any, Any]:
    try:
        yield BrokenOnWorkers()
    except BaseException as error:
        pen.note(f"closed by {type(error).__name__}")
        raise


@wool.routine
async def annotating() -> AsyncGenerator[int, Any]:
    try:
        yield 1
    except Exception as error:
        error.add_note("seen by the body")
        raise


@wool.routine
async def passing_it_on() -> AsyncGenerator[int, Any]:
    yield 1


@wool.routine
async def raising_from_it() -> AsyncGenerator[int, Any]:
    try:
        yield 1
    except Exception as error:
        raise LookupError("because") from error


@wool.routine
async def manager(pen: Pen, *, suppress: bool) -> AsyncGenerator[str, Any]:
    pen.note("enter")
    try:
        yield "value"
    except BaseException as error:
        pen.note(type(error).__name__)
        if not suppress:
            raise
    finally:
        pen.note("exit")


@wool.routine
async def slow_finally(pen: Pen) -> AsyncGenerator[int, Any]:
    try:
        yield 1
        yield 2
    finally:
        pen.note("finally began")
        await asyncio.sleep(0.05)
        pen.note("finally ended")
