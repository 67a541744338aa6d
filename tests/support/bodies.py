"""Bodies of routines that tests run on workers of their own process, and what the tests see of them."""

from __future__ import annotations

import asyncio
from collections import Counter, defaultdict
from collections.abc import AsyncGenerator

from wool.task import current_task

begun: Counter[bytes] = Counter()
"""How often the body of each task has begun."""
story: list[str] = []
gates: dict[str, asyncio.Event] = defaultdict(asyncio.Event)


def reset() -> None:
    begun.clear()
    story.clear()
    gates.clear()


def _begin() -> None:
    task = current_task()
    assert task is not None
    begun[task.key] += 1


async def echo(value: object) -> object:
    _begin()
    return value


async def fail(message: str) -> None:
    _begin()
    raise LookupError(message)


async def wait_for(gate: str) -> str:
    """Wait until the test opens ``gate``; say how it ended."""
    _begin()
    story.append(f"{gate} begun")
    try:
        await gates[gate].wait()
    except asyncio.CancelledError as cancelled:
        story.append(f"{gate} cancelled {cancelled.args}")
        raise
    finally:
        story.append(f"{gate} finally")
    return gate


async def linger(gate: str) -> str:
    """Swallow cancellations until the test opens ``gate``, or has plainly gone."""
    _begin()
    story.append(f"{gate} begun")
    while not gates[gate].is_set():
        try:
            await gates[gate].wait()
        except asyncio.CancelledError:
            story.append(f"{gate} swallowed")
            if story.count(f"{gate} swallowed") > 5:
                raise
    return gate


async def count(size: int) -> AsyncGenerator[object, object]:
    """Yield 0, 1, …; what is sent in is yielded back."""
    _begin()
    number = 0
    try:
        while number < size:
            sent = yield number
            while sent is not None:
                story.append(f"sent {len(sent) if isinstance(sent, bytes) else sent}")
                sent = yield sent
            number += 1
    finally:
        story.append("count finally")


async def take_then_wait(gate: str) -> AsyncGenerator[object, object]:
    """Yield once, then wait for the gate whatever was sent in."""
    _begin()
    try:
        sent = yield "first"
        story.append(f"{gate} took {len(sent) if isinstance(sent, bytes) else sent}")
        await gates[gate].wait()
        yield "second"
    finally:
        story.append(f"{gate} finally")


async def swallow_and_yield(gate: str) -> AsyncGenerator[str, None]:
    """Answer a cancellation with an item."""
    _begin()
    try:
        while True:
            story.append(f"{gate} waits")
            try:
                await gates[gate].wait()
            except asyncio.CancelledError:
                story.append(f"{gate} swallowed")
            yield "item"
    finally:
        story.append(f"{gate} finally")


async def blob(size: int) -> bytes:
    _begin()
    return bytes(size)


async def blobs(size: int, times: int) -> AsyncGenerator[bytes, None]:
    _begin()
    for _ in range(times):
        yield bytes(size)
