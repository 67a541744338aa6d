"""Workers that bound how many bodies are at work: trees of routines end, and no worker has more than it was told."""

from __future__ import annotations

import asyncio
import os
import uuid

import pytest

import wool
from support.command import wool_command, worker_command


@wool.routine
async def fib(n: int) -> int:
    return n if n < 2 else sum(await asyncio.gather(fib(n - 1), fib(n - 2)))


@wool.routine
async def fib_in_a_thread(n: int) -> int:
    if n < 2:
        return n

    async def both() -> int:
        return await fib_in_a_thread(n - 1) + await fib_in_a_thread(n - 2)

    return await asyncio.to_thread(asyncio.run, both())


at_work: list[int] = []


@wool.routine
async def work() -> tuple[int, int]:
    at_work.append(1)
    try:
        await asyncio.sleep(0.02)
        return os.getpid(), len(at_work)
    finally:
        at_work.pop()


@pytest.mark.timeout(90)
async def test_a_tree_ends_on_two_workers_with_one_place_each() -> None:
    async with wool.WorkerPool(size=2, max_concurrency=1):
        assert await fib(10) == 55
        assert await fib_in_a_thread(5) == 5


async def test_no_more_bodies_are_at_work_than_a_worker_was_told_and_all_workers_have_some() -> None:
    async with wool.WorkerPool(size=2, max_concurrency=2):
        seen = await asyncio.gather(*(work() for _ in range(40)))
    assert max(most for _, most in seen) <= 2
    assert len({pid for pid, _ in seen}) == 2


async def test_the_command_bounds_its_workers_too() -> None:
    namespace = f"bounded-{uuid.uuid4().hex[:8]}"
    async with worker_command("--discovery", f"local:{namespace}", "--size", "1", "--max-concurrency", "1") as command:
        await command.event("ready")
        with wool.LocalDiscovery(namespace) as discovery:
            async with wool.WorkerPool(discovery=discovery):
                assert {most for _, most in await asyncio.gather(*(work() for _ in range(10)))} == {1}
    status, _, errors = await wool_command("worker", "--discovery", "local:x", "--max-concurrency", "0")
    assert status == 2 and "--max-concurrency: must be a number of bodies, 1 or more, got '0'" in errors


async def test_a_worker_of_a_discovery_may_have_a_bound_of_its_own() -> None:
    async with wool.LocalWorker(max_concurrency=1) as worker, wool.WorkerProxy(workers=[worker.metadata]):
        assert {most for _, most in await asyncio.gather(*(work() for _ in range(10)))} == {1}


def test_a_bound_that_makes_no_sense_says_so() -> None:
    with pytest.raises(ValueError, match="max_concurrency must be at least 1, got 0: leave it out"):
        wool.WorkerPool(size=1, max_concurrency=0)
    with pytest.raises(TypeError, match="max_concurrency must be a number of bodies, got True"):
        wool.LocalWorker(max_concurrency=True)
    with pytest.raises(ValueError, match="give size= too"):
        wool.WorkerPool(discovery=wool.StaticDiscovery("127.0.0.1:1"), max_concurrency=2)
