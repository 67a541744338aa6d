"""Workers that have had enough are replaced on real processes, and no call notices."""

from __future__ import annotations

import asyncio
import contextvars
import os
import uuid
from collections import Counter

import pytest

import wool
from support.command import worker_command
from support.faults import Journal, is_alive, until
from support.traced import count_up, run, run_nested, run_until
from wool.limits import MIB, Limits
from wool.runtime import real_runtime, set_runtime

pytestmark = pytest.mark.timeout(120)

_leak: list[bytes] = []


@wool.routine
async def leak(octets: int) -> int:
    """Keep so many bytes for ever; say where."""
    _leak.append(b"x" * octets)
    await asyncio.sleep(0.005)
    return os.getpid()


@wool.routine
async def pid_after(seconds: float) -> int:
    await asyncio.sleep(seconds)
    return os.getpid()


def pids(pool: wool.WorkerPool) -> set[int]:
    return {worker.pid for worker in pool.workers}


async def test_of_1000_calls_on_workers_that_are_replaced_after_50_tasks_none_fails_or_runs_twice(
    journal: Journal,
) -> None:
    calls = [journal.new_call() for _ in range(1000)]

    async def one(call: str) -> int:
        await pid_after(0.02)
        return await run(journal.path, call)

    async with wool.WorkerPool(size=2, max_tasks_per_worker=50) as pool:
        first = pids(pool)
        ran: Counter[int] = Counter()
        for some in range(0, len(calls), 8):
            ran.update(await asyncio.gather(*map(one, calls[some : some + 8])))
        assert sum(ran.values()) == 1000
        await until(lambda: not first & pids(pool), what="the first workers to be replaced")
        assert len(ran.keys() - first) >= 2
    assert all(journal.executions(call) == 1 for call in calls)
    assert not any(is_alive(pid) for pid in ran)


async def test_a_worker_that_leaks_is_replaced_while_calls_go_on_and_none_fails() -> None:
    def inside() -> None:
        set_runtime(real_runtime(limits=Limits(memory_look_seconds=0.05)))

    context = contextvars.copy_context()
    context.run(inside)

    async def scenario() -> None:
        async with wool.WorkerPool(size=1, memory_limit=160 * MIB) as pool:
            first = pids(pool)
            seen: list[int] = []
            while len(set(seen)) < 3:
                seen += await asyncio.gather(*(leak(MIB) for _ in range(4)))
                assert len(seen) < 20_000
            assert first == {seen[0]}
            # One after the other: none serves again that was replaced, but for the handover.
            assert seen.index(list(dict.fromkeys(seen))[2]) > len(seen) // 3

    await asyncio.get_running_loop().create_task(scenario(), context=context)


async def test_what_runs_and_a_generator_that_is_open_go_on_on_the_worker_that_is_replaced(
    journal: Journal, tmp_path: object
) -> None:
    gate = f"{journal.path}.gate"
    async with wool.WorkerPool(size=1, max_tasks_per_worker=3) as pool:
        [first] = pids(pool)
        long = asyncio.create_task(run_until(journal.path, "long", gate))
        await journal.appears("begin", "long")
        items = count_up(journal.path, "items")
        assert await anext(items) is not None
        assert await run(journal.path, "third") == first
        await until(lambda: bool(pids(pool)) and first not in pids(pool), what="a successor")
        assert await run(journal.path, "fourth") != first
        await anext(items)
        open(gate, "w").close()
        assert await long == first
        await items.aclose()
        await until(lambda: not is_alive(first), what="the old worker to end")


async def test_nested_calls_find_the_successors_too(journal: Journal) -> None:
    async with wool.WorkerPool(size=1, max_tasks_per_worker=6) as pool:
        first = pids(pool)
        for number in range(60):
            assert len(await run_nested(journal.path, f"call-{number}", 2)) == 3
            await asyncio.sleep(0.05)
        assert not first & pids(pool)


async def test_what_runs_longer_than_a_replaced_worker_may_is_interrupted(journal: Journal) -> None:
    def inside() -> None:
        set_runtime(real_runtime(limits=Limits(retire_seconds=0.2, handover_seconds=0.1)))

    context = contextvars.copy_context()
    context.run(inside)

    async def scenario() -> None:
        async with wool.WorkerPool(size=1, max_tasks_per_worker=1):
            with pytest.raises(wool.TaskInterrupted):
                await run_until(journal.path, "endless", f"{journal.path}.never")

    await asyncio.get_running_loop().create_task(scenario(), context=context)


async def test_a_memory_limit_below_what_a_worker_needs_to_start_is_an_error_at_the_start() -> None:
    with pytest.raises(wool.WorkerStartError, match=r"memory_limit=1048576 bytes: a worker holds \d+ before its first"):
        await wool.WorkerPool(size=1, memory_limit=MIB).__aenter__()


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"size": 1, "max_tasks_per_worker": 0}, "max_tasks_per_worker must be at least 1, got 0"),
        ({"size": 1, "memory_limit": -1}, "memory_limit must be at least 1, got -1"),
        (
            {"discovery": wool.StaticDiscovery, "memory_limit": 1},
            "are for workers that the pool starts: give size= too",
        ),
    ],
)
async def test_a_limit_that_makes_no_sense_is_named(given: dict[str, object], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        wool.WorkerPool(**given)  # type: ignore[arg-type]


async def test_a_pool_that_is_left_while_workers_are_replaced_leaves_none() -> None:
    async with wool.WorkerPool(size=2, max_tasks_per_worker=1) as pool:
        first = pids(pool)
        slow = [asyncio.create_task(pid_after(60.0)) for _ in range(4)]
        await until(lambda: bool(pids(pool) - first), what="a successor")
        everybody = first | pids(pool)
    for ended in await asyncio.gather(*slow, return_exceptions=True):
        assert isinstance(ended, wool.TaskInterrupted | wool.NoWorkersAvailable | wool.WorkerLost)
    assert not any(is_alive(pid) for pid in everybody)


async def test_the_command_replaces_its_workers_too_and_counts_it_as_no_restart(journal: Journal) -> None:
    namespace = f"test-{uuid.uuid4().hex}"
    flags = ("--discovery", f"local:{namespace}", "--size", "2", "--max-tasks-per-worker", "20", "--restarts", "0")
    async with worker_command(*flags) as command:
        first = set(command.pids)
        async with wool.WorkerProxy(discovery=wool.LocalDiscovery(namespace).subscriber):
            for number in range(150):
                await asyncio.gather(*(run(journal.path, f"{number}-{each}") for each in range(4)))
                await asyncio.sleep(0.02)
            await until(lambda: len(set(command.pids) - first) >= 2, what="two successors")
            await until(lambda: not any(map(is_alive, first)), what="the first workers to end")
        assert command.all("worker-restarting") == []
        assert [event["interrupted"] for event in command.all("worker-stopped")][:2] == [0, 0]
        assert "20 tasks were started on it" in (await command.event("worker-worn"))["why"]


async def test_the_command_says_that_a_memory_limit_is_too_low() -> None:
    async with worker_command(
        "--discovery", "local:test-low", "--size", "1", "--memory-limit", "1M", ready=False
    ) as command:
        failed = await command.event("failed")
        assert "memory_limit=1048576 bytes" in failed["why"]
        assert await command.ended() == 1
        # That, and nothing of where in wool it was found out.
        assert "output" not in failed and command.all("output") == []
