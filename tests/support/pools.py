"""One pool of two workers for all tests of a module, which share its event loop.

A module imports the three names below and sets ``pytestmark = module_loop``. Both workers are connected
before the first test begins, so that what a test leaves behind is the test's own.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

import wool
from support.leaks import TASK_GRACE_SECONDS

module_loop = pytest.mark.asyncio(loop_scope="module")


@wool.routine
async def pid() -> int:
    return os.getpid()


@wool.routine
async def tasks_on_worker() -> int:
    """Count the asyncio tasks of the worker, this one included."""
    return len(asyncio.all_tasks())


async def connect(pool: wool.WorkerPool) -> set[int]:
    """Return the pids of the pool's workers, once each of them has answered."""
    pids = {worker.pid for worker in pool.workers}
    seen: set[int] = set()
    while seen != pids:
        seen |= set(await asyncio.gather(*(pid() for _ in pids)))
    return pids


@pytest_asyncio.fixture(scope="module", loop_scope="module", autouse=True)
async def pool() -> AsyncIterator[wool.WorkerPool]:
    async with wool.WorkerPool(size=2) as pool:
        await connect(pool)
        yield pool


@pytest_asyncio.fixture(loop_scope="module")
async def no_leaked_tasks() -> AsyncIterator[None]:
    """The check of `support.leaks`, on the loop of the module."""
    before = asyncio.all_tasks()
    yield
    left = asyncio.all_tasks() - before - {asyncio.current_task()}
    if left:
        _, left = await asyncio.wait(left, timeout=TASK_GRACE_SECONDS)
    assert not left, f"the test left tasks behind: {left}"
