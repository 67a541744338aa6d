"""Routines that call routines: on the pool's workers, to any depth."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context

import wool
from support import routines
from support.journal import Journal, start
from support.pools import connect, module_loop, no_leaked_tasks, pool  # noqa: F401
from wool import WorkerPool
from wool.discovery.base import DiscoveryEvent

pytestmark = module_loop


async def test_nested_calls_run_on_the_pools_workers(pool: WorkerPool) -> None:  # noqa: F811
    workers = {worker.pid for worker in pool.workers}
    seen: set[int] = set()
    while seen != workers:
        pids = await routines.depth(5)
        assert len(pids) == 6
        assert set(pids) <= workers
        seen |= set(pids)


async def test_calls_nest_two_hundred_deep_without_deadlock() -> None:
    assert len(await routines.depth(200)) == 201


async def test_mutually_recursive_routines_find_each_other() -> None:
    assert await routines.is_even(20) is True
    assert await routines.is_odd(20) is False


async def test_a_tree_of_three_thousand_calls_runs_on_two_workers() -> None:
    began = time.monotonic()
    assert await routines.fib(16) == 987
    assert time.monotonic() - began < 30


async def test_inside_a_worker_a_routines_own_body_is_not_dispatched_again() -> None:
    assert await routines.own_body(1) is True


async def test_nested_generators_stream_through_each_other() -> None:
    assert [item async for item in routines.nested_count(5)] == [0, 10, 20, 30, 40]
    assert await routines.total(5) == 100


async def test_the_first_nested_calls_of_many_bodies_at_once_share_one_way_out() -> None:
    async with WorkerPool(size=2):
        assert await asyncio.gather(*(routines.is_even(3) for _ in range(50))) == [False] * 50


async def test_a_nested_pool_in_the_caller_is_the_one_that_is_used(pool: WorkerPool) -> None:  # noqa: F811
    outer = {worker.pid for worker in pool.workers}
    async with WorkerPool(size=1) as inner:
        assert set(await routines.depth(3)) == {worker.pid for worker in inner.workers}
    assert set(await routines.depth(3)) <= outer


async def test_a_cancelled_first_nested_call_leaves_the_way_open_for_the_others() -> None:
    async with WorkerPool(size=1):
        with Journal() as journal:
            call = start(routines.parked(journal.pen, "a"))
            await journal.wait_for("a parked")
            call.cancel()
            await asyncio.wait([call])
            assert call.cancelled()
        assert len(await routines.depth(2)) == 3
    assert os.getpid() not in await routines.depth(1)


# ---- from a loop of its own ----------------------------------------------------------------------------


@wool.routine
async def on_a_loop_of_its_own(levels: int) -> list[int]:
    """Nest in a thread, on a loop that is closed afterwards."""
    return await asyncio.to_thread(lambda: asyncio.run(routines.depth(levels)))


@wool.routine
async def while_its_loop_waits() -> tuple[int, int]:
    """Keep the body's own loop waiting for a nested call, which another worker has to take."""
    with ThreadPoolExecutor() as executor:
        nested = executor.submit(copy_context().run, lambda: asyncio.run(elsewhere()))
        return os.getpid(), nested.result(20)


@wool.routine
async def elsewhere() -> int:
    return os.getpid()


class ByRoutine:
    """Sends a routine to the worker whose tag is its name."""

    def order(self, task: wool.Task, workers: Sequence[wool.WorkerStatus]) -> list[wool.WorkerStatus]:
        return [status for status in workers if task.routine.rpartition(":")[2] in status.metadata.tags]


@wool.routine
async def on_many_loops_at_once(count: int) -> list[list[int]]:
    calls = [asyncio.to_thread(lambda: asyncio.run(routines.depth(1))) for _ in range(count)]
    return await asyncio.gather(*calls, *(routines.depth(1) for _ in range(count)))


async def test_the_first_nested_call_may_be_made_on_a_loop_that_does_not_last() -> None:
    async with WorkerPool(size=1) as inner:
        [worker] = inner.workers
        for _ in range(3):
            assert await on_a_loop_of_its_own(2) == [worker.pid] * 3
            assert await routines.depth(2) == [worker.pid] * 3
        assert await on_many_loops_at_once(4) == [[worker.pid] * 2] * 8


async def test_the_first_nested_call_may_be_made_while_the_bodys_own_loop_waits_for_it() -> None:
    async with wool.LocalWorker("while_its_loop_waits") as one, wool.LocalWorker("elsewhere") as two:
        known = [one.metadata, two.metadata]
        async with wool.WorkerProxy(workers=known, loadbalancer=ByRoutine):
            assert await while_its_loop_waits() == (one.metadata.pid, two.metadata.pid)


async def test_the_first_nested_calls_may_be_made_on_several_loops_at_once() -> None:
    async with WorkerPool(size=2):
        assert [len(pids) for pids in await on_many_loops_at_once(6)] == [2] * 12


class Named:
    """A discovery of the user's own: it is followed on the user's loop."""

    def __init__(self, workers: list[wool.WorkerMetadata]) -> None:
        self.workers = workers

    async def __aiter__(self) -> AsyncIterator[DiscoveryEvent]:
        for metadata in self.workers:
            yield DiscoveryEvent("worker-added", metadata)
        await asyncio.sleep(3600)


async def test_with_a_discovery_of_the_users_own_too() -> None:
    async with wool.LocalWorker() as worker, wool.WorkerProxy(discovery=Named([worker.metadata])):
        for _ in range(3):
            assert await on_a_loop_of_its_own(2) == [worker.metadata.pid] * 3
            assert await routines.depth(2) == [worker.metadata.pid] * 3
