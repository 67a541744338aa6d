"""What a body forks is a process of the user's own: it takes no worker away, ends as it should, answers nobody."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import AsyncGenerator

import pytest

import wool
from support.faults import Journal, is_alive, kill, until, workers
from support.traced import note, run
from wool.worker.loops import LoopKind

FORK = multiprocessing.get_context("fork")


@pytest.fixture(params=["asyncio", "uvloop"])
def loop(request: pytest.FixtureRequest) -> LoopKind:
    """What the bodies run on that fork."""
    kind: LoopKind = request.param
    return kind


def square(number: int) -> int:
    return number * number


@wool.routine
async def squares(count: int) -> tuple[int, list[int]]:
    with FORK.Pool(2) as pool:
        return os.getpid(), pool.map(square, range(count))


@wool.routine
async def terminated_sleeper() -> tuple[int, int | None]:
    """End a process that was forked, at once."""
    child = FORK.Process(target=time.sleep, args=(3600,))
    child.start()
    child.terminate()
    child.join(10)
    status = child.exitcode
    child.kill()
    child.join()
    return os.getpid(), status


@wool.routine
async def fork_that(how: str) -> int:
    """Fork; return how the fork ended, which has left the body in one of many ways."""
    child = os.fork()
    if child == 0:
        with open(os.devnull, "w") as nowhere:
            os.dup2(nowhere.fileno(), 2)
        match how:
            case "exits":
                sys.exit(7)
            case "exits with a word":
                sys.exit("a word")
            case "exits well":
                sys.exit()
            case "raises":
                raise LookupError("in the fork")
            case "returns":
                return -1
            case "awaits":
                await asyncio.sleep(0)
                return -1
            case "waits":
                await asyncio.sleep(0.01)
                return -1
            case "is cancelled":
                raise asyncio.CancelledError
    return _ended(child)


def _ended(child: int) -> int:
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        pid, status = os.waitpid(child, os.WNOHANG)
        if pid:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.005)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    raise TimeoutError(f"the fork {child} did not end")


ENDS = {
    "exits": 7,
    "exits with a word": 1,
    "exits well": 0,
    "raises": 1,
    "returns": 1,
    "awaits": 1,
    "waits": 1,
    "is cancelled": 1,
}


async def test_a_pool_of_forks_in_a_body_leaves_the_worker_alone(loop: LoopKind) -> None:
    async with wool.WorkerPool(size=1, loop=loop) as pool:
        [worker] = pool.workers
        for count in range(12):
            assert await squares(count) == (worker.pid, [n * n for n in range(count)])
        assert pool.workers == (worker,)


async def test_a_fork_that_is_terminated_at_once_ends_and_the_worker_does_not(loop: LoopKind) -> None:
    async with wool.WorkerPool(size=1, loop=loop) as pool:
        [worker] = pool.workers
        for _ in range(30):
            assert await terminated_sleeper() == (worker.pid, -signal.SIGTERM)
        assert pool.workers == (worker,)


@pytest.mark.parametrize("how", ENDS)
async def test_a_fork_that_leaves_the_body_ends_and_answers_nobody(loop: LoopKind, how: str) -> None:
    async with wool.WorkerPool(size=1, loop=loop) as pool:
        [worker] = pool.workers
        assert await fork_that(how) == ENDS[how]
        assert await fork_that(how) == ENDS[how]
        assert pool.workers == (worker,)


@wool.routine
async def fork_beside(journal: str) -> int:
    """Fork while other bodies wait for their turn, and let the fork come back to the loop."""
    child = os.fork()
    if child == 0:
        with open(os.devnull, "w") as nowhere:
            os.dup2(nowhere.fileno(), 2)
        for _ in range(5):
            await asyncio.sleep(0)
        note(journal, "went on", "fork")
        return 0
    return _ended(child)


async def test_a_fork_runs_no_body_a_second_time(loop: LoopKind, journal: Journal) -> None:
    async with wool.WorkerPool(size=1, loop=loop):
        calls = [journal.new_call() for _ in range(40)]
        forks = [fork_beside(journal.path) for _ in range(4)]
        first, *others = [run(journal.path, call) for call in calls]
        outcomes = await asyncio.gather(first, *forks, *others)
        assert outcomes[1:5] == [1] * 4
        assert [journal.executions(call) for call in calls] == [1] * len(calls)
        assert journal.pids("went on", "fork") == []


@wool.routine
async def fork_in_a_generator() -> AsyncGenerator[int, None]:
    yield os.getpid()
    child = os.fork()
    if child == 0:
        sys.exit(9)
    yield _ended(child)


async def test_a_fork_that_leaves_a_generator_ends(loop: LoopKind) -> None:
    async with wool.WorkerPool(size=1, loop=loop) as pool:
        assert [item async for item in fork_in_a_generator()] == [pool.workers[0].pid, 9]


@wool.routine
async def fork_and_stay(journal: str) -> int:
    """Leave a fork behind that lives for a while, and wait for an end that never comes."""
    child = os.fork()
    if child == 0:
        note(journal, "child", "fork")
        time.sleep(60)
        os._exit(0)
    await asyncio.sleep(3600)
    return child


@pytest.mark.parametrize("host", [None, "127.0.0.1"], ids=["unix", "tcp"])
async def test_a_fork_does_not_keep_a_dead_workers_sessions_and_address_open(
    host: str | None, journal: Journal
) -> None:
    async with workers("one", host=host) as [worker]:
        async with wool.WorkerProxy(workers=[worker.metadata]):
            call = asyncio.create_task(fork_and_stay(journal.path))
            child = await journal.appears("child", "fork")
            try:
                began = time.monotonic()
                kill(worker.metadata.pid)
                with pytest.raises(wool.WorkerLost):
                    await call
                assert time.monotonic() - began < 1.5
                assert is_alive(child)  # it is the user's
                began = time.monotonic()
                with pytest.raises(wool.NoWorkersAvailable, match="cannot connect to"):
                    await run(journal.path, "late")
                assert time.monotonic() - began < 4.0
            finally:
                kill(child)
                await until(lambda: not is_alive(child))
