"""Routines to be cancelled, for the tests to cancel. Workers import this module."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator
from typing import Any

import wool
from support.journal import Pen


@wool.routine
async def parked(pen: Pen) -> None:
    """Wait for ever; note what ends it, and take a while to clean up."""
    try:
        await pen.park()
    except asyncio.CancelledError as error:
        pen.note(f"cancelled {error.args}")
        raise
    finally:
        await asyncio.sleep(0.05)
        pen.note("finally")


@wool.routine
async def suppressing(pen: Pen, times: int) -> int:
    """Swallow ``times`` cancellations, then return."""
    for _ in range(times):
        try:
            await pen.park()
        except asyncio.CancelledError as error:
            pen.note(f"cancelled {error.args}")
    await asyncio.sleep(0)
    return times


@wool.routine
async def transforming(pen: Pen) -> None:
    try:
        await pen.park()
    except asyncio.CancelledError as error:
        raise LookupError("instead") from error


@wool.routine
async def deaf(pen: Pen) -> None:
    """Ignore every cancellation until the file descriptor of the journal is gone."""
    while True:
        try:
            await pen.park()
        except asyncio.CancelledError:
            pen.note("ignored")


@wool.routine
async def stubborn(pen: Pen, seconds: float) -> None:
    """Take ``seconds`` to clean up."""
    try:
        await pen.park()
    finally:
        await asyncio.sleep(seconds)
        pen.note("finally")


@wool.routine
async def tree(pen: Pen, name: str, levels: int) -> None:
    """Park in every leaf of a tree of nested calls."""
    try:
        if not levels:
            await pen.park()
        async with asyncio.TaskGroup() as group:
            for child in "ab":
                group.create_task(tree(pen, name + child, levels - 1))
    finally:
        pen.note(f"finally {name}")


@wool.routine
async def outer_stream(pen: Pen) -> AsyncGenerator[int, Any]:
    try:
        async for item in inner_stream(pen):
            yield item
    finally:
        pen.note("outer finally")


@wool.routine
async def inner_stream(pen: Pen) -> AsyncGenerator[int, Any]:
    try:
        yield 1
        await pen.park()
        yield 2
    finally:
        pen.note("inner finally")


@wool.routine
async def timed_out(pen: Pen, gate: str) -> str:
    """Time out a nested call, inside a body, once the file ``gate`` exists."""
    loop = asyncio.get_running_loop()

    async def expire(deadline: asyncio.Timeout) -> None:
        while not os.path.exists(gate):
            await asyncio.sleep(0.01)
        deadline.reschedule(loop.time())

    try:
        async with asyncio.timeout(None) as deadline:
            expiring = loop.create_task(expire(deadline))
            await parked(pen)
    except TimeoutError:
        await expiring
        return "timed out"
    return "returned"


@wool.routine
async def step_by_step(pen: Pen, steps: int) -> str:
    """Begin, take some turns of the loop, and end."""
    pen.note("begin")
    try:
        for _ in range(steps):
            await asyncio.sleep(0)
    finally:
        pen.note("end")
    return "value"


@wool.routine
async def after_cancel(pen: Pen) -> AsyncGenerator[str, Any]:
    """Swallow a cancellation in a step and go on."""
    try:
        await pen.park()
    except asyncio.CancelledError:
        yield "swallowed"
    yield "next"
    async with asyncio.timeout(10):
        await asyncio.sleep(0)
    yield "timeouts work"
