"""Routines whose executions leave a trace: one line in an append-only file for everything that happens.

Imported by workers and callers alike. A line is written by one ``write``, so that no process disturbs another.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import signal
import threading
import time
from collections.abc import AsyncGenerator
from typing import Any

import wool

POLL_SECONDS = 0.01


def note(journal: str, *words: object) -> None:
    """Append a line."""
    line = " ".join(map(str, (*words, os.getpid()))) + "\n"
    descriptor = os.open(journal, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        os.write(descriptor, line.encode())
    finally:
        os.close(descriptor)


async def _until_exists(path: str) -> None:
    while not os.path.exists(path):
        await asyncio.sleep(POLL_SECONDS)


@wool.routine
async def run(journal: str, call: str) -> int:
    """Begin and return at once; says where."""
    note(journal, "begin", call)
    return os.getpid()


@wool.routine
async def run_until(journal: str, call: str, gate: str) -> int:
    """Run until the file ``gate`` exists."""
    note(journal, "begin", call)
    try:
        await _until_exists(gate)
    except asyncio.CancelledError:
        note(journal, "cancelled", call)
        raise
    note(journal, "end", call)
    return os.getpid()


@wool.routine
async def ignore_cancellation(journal: str, call: str) -> None:
    """Run for ever, whatever is asked."""
    note(journal, "begin", call)
    while True:
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.sleep(3600)


@wool.routine
async def block(journal: str, call: str, seconds: float) -> int:
    """Keep the routine loop busy without ever coming back to it, but let other threads run."""
    note(journal, "begin", call)
    time.sleep(seconds)
    return os.getpid()


@wool.routine
async def hold_the_gil(journal: str, call: str, seconds: int) -> int:
    """Spend the time in C without giving up the GIL: no thread of this process runs any Python."""
    note(journal, "begin", call)
    ctypes.PyDLL(None).sleep(seconds)
    return os.getpid()


@wool.routine
async def die(journal: str, call: str, signal_number: int) -> None:
    """Take the worker down."""
    note(journal, "begin", call)
    os.kill(os.getpid(), signal_number)


@wool.routine
async def count_up(journal: str, call: str) -> AsyncGenerator[int, None]:
    """Yield 0, 1, 2, … and note each step, and the end."""
    note(journal, "begin", call)
    number = 0
    try:
        while True:
            yield number
            number += 1
            note(journal, "step", call, number)
    finally:
        note(journal, "closed", call)


@wool.routine
async def upload(journal: str, call: str, data: bytes) -> int:
    """Take bulk data; say how much came."""
    note(journal, "begin", call)
    return len(data)


@wool.routine
async def download(journal: str, call: str, size: int) -> bytes:
    """Return bulk data."""
    note(journal, "begin", call)
    return bytes(size)


@wool.routine
async def run_nested(journal: str, call: str, depth: int) -> list[int]:
    """Call itself ``depth`` times; return where each ran, outermost first."""
    note(journal, "begin", call, depth)
    return [os.getpid(), *(await run_nested(journal, call, depth - 1) if depth else [])]


@wool.routine
async def run_until_another_dies(journal: str, call: str) -> None:
    """Call a routine again and again that kills its worker, as soon as that is not our own."""
    note(journal, "begin", call)
    while True:
        await die_unless_on(os.getpid(), journal, call)


@wool.routine
async def die_unless_on(safe: int, journal: str, call: str) -> None:
    """Kill the worker, unless it is the process ``safe``."""
    if os.getpid() != safe:
        note(journal, "dies", call)
        os.kill(os.getpid(), signal.SIGKILL)


@wool.routine
async def run_nested_when(gate: str, journal: str, call: str) -> int:
    """Once the file ``gate`` exists, call `run`; return where that ran."""
    note(journal, "begin", call)
    await _until_exists(gate)
    return await run(journal, f"{call}-inner")


@wool.routine
async def describe(value: object) -> str:
    """Take anything."""
    return repr(value)


@wool.routine
async def unpicklable_result(journal: str, call: str) -> object:
    """Return what cannot travel."""
    note(journal, "begin", call)
    return {"deep": threading.Lock()}


@wool.routine
async def unpicklable_item(journal: str, call: str) -> AsyncGenerator[object, None]:
    """Yield what can travel, then what cannot."""
    note(journal, "begin", call)
    try:
        yield 0
        yield threading.Lock()
    finally:
        await asyncio.sleep(0)
        note(journal, "closed", call)


@wool.routine
async def fail_at_length(size: int) -> None:
    """Raise what has much to say."""
    raise LookupError("x" * size)


class Unloadable:
    """Loads in one process only."""

    def __init__(self, pid: int, kind: type[BaseException] = LookupError) -> None:
        self.pid = pid
        self.kind = kind

    def __setstate__(self, state: dict[str, Any]) -> None:
        if os.getpid() != state["pid"]:
            raise state["kind"]("not here")
        self.__dict__.update(state)
