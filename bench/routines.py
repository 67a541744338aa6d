"""What is measured: the routines that the benchmarks call, importable on a worker."""

from __future__ import annotations

import asyncio
import gc
import os
import threading
import time
from collections.abc import AsyncGenerator
from typing import Any

import wool
from bench import plain
from bench.processes import threads_of_this_process


@wool.routine
async def nothing() -> None:
    """Return: what is left is wool."""


@wool.routine
async def spin(iterations: int) -> int:
    """Do a counted amount of work."""
    return plain.spin(iterations)


@wool.routine
async def hold(seconds: float) -> None:
    """Hold the worker's loop for so long, as computing does, but without a core."""
    time.sleep(seconds)


@wool.routine
async def echo(data: bytes) -> bytes:
    """Send back what came."""
    return data


@wool.routine
async def count(items: int) -> AsyncGenerator[int, None]:
    """Yield so many numbers."""
    for number in range(items):
        yield number


@wool.routine
async def fib(number: int) -> int:
    """Call itself as a tree of nested routines."""
    if number < 2:
        return number
    async with asyncio.TaskGroup() as group:
        left = group.create_task(fib(number - 1))
        right = group.create_task(fib(number - 2))
    return left.result() + right.result()


@wool.routine
async def worker_state() -> dict[str, Any]:
    """Say who this worker is and what it holds."""
    gc.collect()
    return {
        "pid": os.getpid(),
        "threads": threads_of_this_process(),
        "objects": len(gc.get_objects()),
        "asyncio tasks": len(asyncio.all_tasks()),
        "python threads": threading.active_count(),
    }
