"""A body that lays hands on what is its worker's own does not take the worker along."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path
from typing import Literal

import pytest

import wool
from support.faults import Journal, is_alive, until
from support.pools import pid
from support.traced import run, run_until


@wool.routine
async def cancel_all() -> int:
    for task in asyncio.all_tasks():
        if task is not asyncio.current_task():
            task.cancel()
    return os.getpid()


async def test_a_body_that_cancels_every_task_of_its_loop_does_not_end_the_worker(journal: Journal) -> None:
    async with wool.WorkerPool(size=1) as pool:
        [worker] = pool.workers
        for _ in range(3):
            beside = [asyncio.create_task(run_until(journal.path, f"b{n}", "/nowhere")) for n in range(2)]
            await journal.appears("begin", "b1")
            burst = [asyncio.create_task(run(journal.path, f"c{n}")) for n in range(20)]
            sweeps = [asyncio.create_task(cancel_all()) for _ in range(3)]
            burst += [asyncio.create_task(run(journal.path, f"d{n}")) for n in range(20)]
            for outcome in await asyncio.gather(*beside, *burst, *sweeps, return_exceptions=True):
                assert outcome == worker.pid or isinstance(outcome, asyncio.CancelledError)
            assert await pid() == worker.pid
            os.unlink(journal.path)
        assert pool.workers == (worker,)


@wool.routine
async def stop_the_loop() -> int:
    asyncio.get_running_loop().stop()
    await asyncio.sleep(0)
    return os.getpid()


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
async def test_a_body_that_stops_its_loop_does_not_end_the_worker(
    loop: Literal["asyncio", "uvloop"], journal: Journal, capfd: pytest.CaptureFixture[str]
) -> None:
    async with wool.WorkerPool(size=1, loop=loop) as pool:
        [worker] = pool.workers
        beside = asyncio.create_task(run_until(journal.path, "beside", f"{journal.path}.gate"))
        await journal.appears("begin", "beside")
        for _ in range(3):
            assert await stop_the_loop() == worker.pid
        Path(f"{journal.path}.gate").touch()
        assert await beside == worker.pid
        assert pool.workers == (worker,)
    assert "a routine has stopped the event loop of its worker: it runs on" in capfd.readouterr().err


@wool.routine
async def handle_signals(remove: bool) -> int:
    """Have the loop handle a signal: with that it takes the process's wakeup descriptor, and leaves none behind."""
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGUSR1, print)
    if remove:
        loop.remove_signal_handler(signal.SIGUSR1)
    return os.getpid()


@pytest.mark.parametrize("remove", [False, True])
async def test_a_worker_whose_body_handles_signals_drains_at_sigterm_all_the_same(remove: bool) -> None:
    async with wool.WorkerPool(size=1):
        worker = await handle_signals(remove)
        os.kill(worker, signal.SIGTERM)
        await until(lambda: not is_alive(worker), what="the worker's end")
