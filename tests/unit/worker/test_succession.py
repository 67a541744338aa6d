"""A worker is replaced without a moment in which nobody serves: tried on workers that are none."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from support.one_loop import until
from wool.discovery.base import WorkerMetadata
from wool.limits import Limits
from wool.worker.succession import Succession, say_in_prose


class Worker:
    """Has had enough, drains and ends when the test says so."""

    def __init__(self, number: int) -> None:
        self.metadata = WorkerMetadata(uid=f"uid-{number}", address=f"unix:/{number}", pid=number, version="1")
        self.worn: asyncio.Future[str | None] = asyncio.get_running_loop().create_future()
        self.draining = asyncio.Event()
        self.gone = asyncio.Event()

    @property
    def is_draining(self) -> bool:
        return self.draining.is_set()

    async def wait_worn(self) -> str | None:
        return await asyncio.shield(self.worn)

    async def wait_draining(self) -> None:
        await self.draining.wait()

    def has_had_enough(self) -> None:
        self.worn.set_result("enough")

    def end(self) -> None:
        if not self.worn.done():
            self.worn.set_result(None)
        self.draining.set()
        self.gone.set()


class Owner:
    """Starts and stops workers, and writes down what it does."""

    def __init__(self, **limits: Any) -> None:
        given = {"handover_seconds": 0.001, "successor_retry_seconds": 0.01, "drain_seconds": 60.0, **limits}
        self.events: list[str] = []
        self.workers: list[Worker] = []
        self.failures: list[Exception] = []
        self.succession = Succession(Limits(**given), self._say)
        self.tasks: list[asyncio.Task[Worker | None]] = []

    def _say(self, event: str, worker: WorkerMetadata, why: str) -> None:
        self.events.append(f"{event} {worker.pid}: {why}")

    def worker(self) -> Worker:
        self.workers.append(Worker(len(self.workers) + 1))
        return self.workers[-1]

    def watch(self, worker: Worker) -> asyncio.Task[Worker | None]:
        self.tasks.append(asyncio.create_task(self.succession.successor(worker, self._start, self._retire)))
        return self.tasks[-1]

    async def _start(self) -> Worker:
        if self.failures:
            raise self.failures.pop(0)
        worker = self.worker()
        self.events.append(f"start {worker.metadata.pid}")
        return worker

    async def _retire(self, worker: Worker, seconds: float) -> None:
        self.events.append(f"retire {worker.metadata.pid} in {seconds:g}")
        await worker.gone.wait()
        self.events.append(f"gone {worker.metadata.pid}")

    async def until(self, event: str) -> None:
        await until(lambda: event in self.events, f"{event} in {self.events}")


@asynccontextmanager
async def owner(**limits: Any) -> AsyncIterator[Owner]:
    made = Owner(**limits)
    try:
        yield made
    finally:
        made.succession.close()
        for task in made.tasks:
            task.cancel()
        for worker in made.workers:
            worker.end()
        await asyncio.gather(*made.tasks, return_exceptions=True)
        await made.succession.finish()
        assert made.succession.retiring == []


async def test_the_successor_is_there_before_the_old_worker_is_told_to_end() -> None:
    async with owner(retire_seconds=77.0) as made:
        old = made.worker()
        watching = made.watch(old)
        old.has_had_enough()
        assert await watching is made.workers[1]
        await made.until("retire 1 in 77")
        old.end()
        await made.until("gone 1")
        assert made.events == ["worker-worn 1: enough", "start 2", "retire 1 in 77", "gone 1"]


async def test_the_old_worker_takes_tasks_until_its_callers_may_have_heard_of_the_new_one() -> None:
    async with owner(handover_seconds=60.0) as made:
        old = made.worker()
        watching = made.watch(old)
        old.has_had_enough()
        await watching
        await asyncio.sleep(0.01)
        assert made.events[-1] == "start 2"
    assert made.events[-1] == "start 2", "at the end of all its owner stops it"


async def test_one_that_ends_by_itself_has_no_successor() -> None:
    async with owner() as made:
        old = made.worker()
        watching = made.watch(old)
        old.end()
        assert await watching is None
        assert made.events == []


async def test_workers_are_replaced_one_at_a_time_in_the_order_in_which_they_had_enough() -> None:
    async with owner() as made:
        first, second = made.worker(), made.worker()
        made.watch(second)
        made.watch(first)
        first.has_had_enough()
        await made.until("start 3")
        second.has_had_enough()
        await made.until("retire 1 in 3600")
        assert "start 4" not in made.events
        first.end()
        await made.until("start 4")
        assert made.events.index("gone 1") < made.events.index("start 4")


async def test_one_that_does_not_end_keeps_the_others_waiting_for_the_drain_time_and_no_longer() -> None:
    async with owner(drain_seconds=0.02) as made:
        stuck, other = made.worker(), made.worker()
        for worker in (stuck, other):
            made.watch(worker)
            worker.has_had_enough()
        await made.until("retire 2 in 3600")
        assert "gone 1" not in made.events


@pytest.mark.parametrize("error", [OSError("no room"), ValueError("a publisher's own")])
async def test_without_a_successor_the_old_worker_goes_on_and_it_is_tried_again(error: Exception) -> None:
    async with owner(successor_retry_seconds=0.01) as made:
        made.failures = [error, error]
        old = made.worker()
        watching = made.watch(old)
        old.has_had_enough()
        assert await watching is made.workers[1]
        said = f"worker-not-replaced 1: {type(error).__name__}: {error}"
        assert made.events == ["worker-worn 1: enough", said, "worker-worn 1: enough", said, *made.events[-2:]]


async def test_until_the_next_attempt_others_have_their_turn() -> None:
    async with owner(successor_retry_seconds=60.0) as made:
        made.failures = [OSError("no room")]
        first, second = made.worker(), made.worker()
        made.watch(first)
        first.has_had_enough()
        await made.until("worker-not-replaced 1: OSError: no room")
        made.watch(second)
        second.has_had_enough()
        await made.until("start 3")


async def test_one_that_ends_while_it_waits_for_its_turn_or_the_next_attempt_is_not_replaced() -> None:
    async with owner(successor_retry_seconds=60.0) as made:
        made.failures = [OSError("no room")]
        first, second = made.worker(), made.worker()
        watching = made.watch(first)
        first.has_had_enough()
        await made.until("worker-not-replaced 1: OSError: no room")
        first.end()
        assert await watching is None
        held, waiting = made.worker(), made.watch(second)
        made.watch(held)
        held.has_had_enough()
        await made.until("start 4")
        second.has_had_enough()
        await asyncio.sleep(0.01)
        second.end()
        held.end()
        assert await waiting is None


async def test_at_the_end_of_all_nobody_is_started_any_more() -> None:
    async with owner() as made:
        old = made.worker()
        watching = made.watch(old)
        made.succession.close()
        old.has_had_enough()
        assert await watching is None
        assert made.events == []


async def test_who_waits_for_a_turn_may_be_cancelled_and_the_turn_is_not_lost() -> None:
    async with owner() as made:
        first, second, third = made.worker(), made.worker(), made.worker()
        made.watch(first)
        first.has_had_enough()
        await made.until("start 4")
        waiting = made.watch(second)
        second.has_had_enough()
        await asyncio.sleep(0.01)
        waiting.cancel()
        made.watch(third)
        third.has_had_enough()
        first.end()
        await made.until("start 5")


def test_what_happens_to_a_programs_own_workers_is_logged_in_prose(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO", "wool.worker"):
        metadata = WorkerMetadata(uid="0123456789", address="unix:/1", pid=7, version="1")
        say_in_prose("worker-worn", metadata, "it holds 5 bytes")
        say_in_prose("worker-not-replaced", metadata, "OSError: no room")
    assert [(record.levelname, record.message) for record in caplog.records] == [
        ("INFO", "worker 01234567 (pid 7) has had enough, and is replaced: it holds 5 bytes"),
        (
            "ERROR",
            "worker 01234567 (pid 7) has had enough and goes on, since its successor did not start: OSError: no room",
        ),
    ]
