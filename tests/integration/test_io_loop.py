"""An I/O loop that user code could end goes on; one that ends all the same leaves nobody waiting."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import pytest

import wool
from support.faults import Journal, is_alive, until, workers
from support.scripts import user_place
from support.traced import count_up, run, run_until
from wool.discovery.local import LocalDiscovery

pytestmark = pytest.mark.timeout(40)


class Leaving:
    """A load balancer that tries to end the process, whenever it is told to."""

    def __init__(self) -> None:
        self.error: BaseException | None = None

    def order(self, task: wool.Task, workers: Sequence[wool.WorkerStatus]) -> Iterable[wool.WorkerStatus]:
        if self.error is not None:
            raise self.error
        return workers

    def __reduce__(self) -> tuple[Any, ...]:
        return (Leaving, ())


@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt(), GeneratorExit(), asyncio.CancelledError()])
async def test_a_load_balancer_that_raises_what_ends_a_process_fails_the_call_alone(
    error: BaseException, journal: Journal
) -> None:
    balancer = Leaving()
    async with wool.WorkerPool(size=1, loadbalancer=balancer) as pool:
        balancer.error = error
        with pytest.raises(wool.NoWorkersAvailable, match="load balancer failed") as caught:
            await run(journal.path, "refused")
        assert caught.value.__cause__ is error
        balancer.error = None
        assert await run(journal.path, "taken") == pool.workers[0].pid


async def test_a_filter_that_raises_what_ends_a_process_ends_the_discovery_alone(journal: Journal) -> None:
    def leave(metadata: wool.WorkerMetadata) -> bool:
        raise SystemExit(3)

    async with workers("one") as [worker]:
        with LocalDiscovery("ns") as discovery:
            await discovery.publisher.publish("worker-added", worker.metadata)
            async with wool.WorkerProxy(discovery=discovery.subscribe(leave)):
                with pytest.raises(wool.NoWorkersAvailable) as caught:
                    await run(journal.path, "refused")
                assert isinstance(caught.value.__cause__, SystemExit)
            async with wool.WorkerProxy(discovery=discovery.subscriber):
                assert await run(journal.path, "taken") == worker.metadata.pid


def io_loop_of(pool: wool.WorkerPool | wool.WorkerProxy) -> asyncio.AbstractEventLoop:
    dispatcher = pool.open_dispatcher
    assert dispatcher is not None
    return dispatcher._io_loop


def by_exit(loop: asyncio.AbstractEventLoop) -> None:
    def leave() -> None:
        raise SystemExit(3)

    loop.call_soon_threadsafe(leave)


def by_stop(loop: asyncio.AbstractEventLoop) -> None:
    loop.call_soon_threadsafe(loop.stop)


ENDS = pytest.mark.parametrize("end", [by_exit, by_stop])


@ENDS
async def test_if_the_io_loop_ends_every_call_ends_with_what_is_known_of_it(
    end: Callable[[asyncio.AbstractEventLoop], None], journal: Journal, caplog: pytest.LogCaptureFixture
) -> None:
    balancer = Leaving()
    async with wool.WorkerPool(size=2, loadbalancer=balancer) as pool:
        pids = [worker.pid for worker in pool.workers]
        running = [asyncio.create_task(run_until(journal.path, f"r{n}", "/nowhere")) for n in range(4)]
        for number in range(4):
            await journal.appears("begin", f"r{number}")
        items = count_up(journal.path, "items")
        assert await anext(items) == 0
        end(io_loop_of(pool))
        for outcome in await asyncio.gather(*running, return_exceptions=True):
            assert isinstance(outcome, wool.WorkerLost)
        with pytest.raises(wool.WorkerLost):
            await anext(items)
        with pytest.raises(wool.NoWorkersAvailable, match="the I/O loop has ended by itself"):
            await run(journal.path, "late")
        assert journal.executions("late") == 0
    await until(lambda: not any(map(is_alive, pids)))
    async with wool.WorkerPool(size=1) as pool:  # the next one gets a loop of its own
        assert await run(journal.path, "next") == pool.workers[0].pid
    caplog.clear()


@ENDS
async def test_if_the_io_loop_ends_calls_that_are_on_their_way_end(
    end: Callable[[asyncio.AbstractEventLoop], None], journal: Journal, caplog: pytest.LogCaptureFixture
) -> None:
    async with wool.WorkerPool(size=1) as pool:
        await run(journal.path, "first")
        calls = [asyncio.create_task(run(journal.path, f"c{n}")) for n in range(300)]
        await asyncio.sleep(0)
        end(io_loop_of(pool))
        more = [asyncio.create_task(run(journal.path, f"m{n}")) for n in range(300)]
        outcomes = await asyncio.gather(*calls, *more, return_exceptions=True)
        for outcome in outcomes:
            assert isinstance(outcome, int | wool.WorkerLost | wool.NoWorkersAvailable), outcome
    for number, outcome in enumerate(outcomes):
        call = f"c{number}" if number < 300 else f"m{number - 300}"
        assert journal.executions(call) <= 1
        if isinstance(outcome, wool.NoWorkersAvailable):
            assert journal.executions(call) == 0
    caplog.clear()


@pytest.mark.parametrize("what", ["a worker", "a proxy", "a cancelled call"])
async def test_if_the_io_loop_ends_everything_can_be_left(
    what: str, journal: Journal, caplog: pytest.LogCaptureFixture
) -> None:
    worker = wool.LocalWorker()
    await worker.start()
    async with wool.WorkerProxy(workers=[worker.metadata]) as proxy:
        call = asyncio.create_task(run_until(journal.path, "running", "/nowhere"))
        await journal.appears("begin", "running")
        if what == "a cancelled call":
            by_exit(io_loop_of(proxy))
            call.cancel()
            outcome: Awaitable[Any] = asyncio.gather(call, return_exceptions=True)
            assert isinstance((await outcome)[0], asyncio.CancelledError)
        else:
            by_exit(io_loop_of(proxy))
            with pytest.raises(wool.WorkerLost):
                await call
    await worker.stop()
    await until(lambda: not is_alive(worker.metadata.pid))
    caplog.clear()


BROKEN = """
import asyncio, os
import wool

@wool.routine
async def work(seconds):
    await asyncio.sleep(seconds)

async def main():
    async with wool.WorkerPool(size=2) as pool:
        await work(0)
        calls = [asyncio.create_task(work(3600)) for _ in range(3)]
        await asyncio.sleep(0.2)
        loop = pool.open_dispatcher._io_loop
        loop.call_soon_threadsafe(os.close, loop._selector.fileno())
        print(*[type(outcome).__name__ for outcome in await asyncio.gather(*calls, return_exceptions=True)])
        try:
            await work(0)
        except Exception as error:
            print(type(error).__name__, flush=True)
    os._exit(0)

asyncio.run(main())
"""


def test_if_the_io_loop_breaks_its_calls_end_too(tmp_path: Path) -> None:
    with user_place() as place, place.start(BROKEN) as process:
        output, errors = process.communicate(timeout=30)
    assert output.splitlines() == ["WorkerLost WorkerLost WorkerLost", "NoWorkersAvailable"], errors
