"""Workers are kept alive, within bounds, and ended in order: tried on workers and by a clock that are none."""

from __future__ import annotations

import asyncio
import dataclasses
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from support.one_loop import until
from wool.cli.supervisor import STATUSES, GaveUp, Intensity, Status, Supervisor, headline
from wool.discovery.base import WorkerMetadata
from wool.limits import Limits
from wool.worker.child import WorkerStartError
from wool.worker.ledger import EVENT_FIELDS

# ---- how often ---------------------------------------------------------------------------------------


def test_as_many_restarts_as_are_allowed_and_not_one_more() -> None:
    intensity = Intensity(restarts=2, seconds=10)
    assert [intensity.crashed(now) for now in (0, 1, 2)] == [True, True, False]


def test_a_crash_counts_for_its_time_and_no_longer() -> None:
    intensity = Intensity(restarts=1, seconds=10)
    assert intensity.crashed(0)
    assert not intensity.crashed(9.9)
    intensity = Intensity(restarts=1, seconds=10)
    assert intensity.crashed(0)
    assert intensity.crashed(10)


def test_without_restarts_the_first_crash_is_one_too_many() -> None:
    assert not Intensity(restarts=0, seconds=1).crashed(0)


@given(
    st.lists(st.floats(0, 5), max_size=50), st.integers(0, 5), st.floats(0.5, 20, allow_nan=False, allow_infinity=False)
)
def test_no_stretch_of_the_time_sees_more_restarts_than_are_allowed(
    gaps: list[float], restarts: int, seconds: float
) -> None:
    intensity, now, allowed = Intensity(restarts=restarts, seconds=seconds), 0.0, list[float]()
    for gap in gaps:
        now += gap
        if not intensity.crashed(now):
            assert len([each for each in allowed if each > now - seconds]) >= restarts
            return
        allowed.append(now)
        assert len([each for each in allowed if each > now - seconds]) <= restarts


QUICK = Limits(handover_seconds=0.001, successor_retry_seconds=0.01, drain_seconds=5.0, retire_seconds=600.0)


# ---- workers that are none ---------------------------------------------------------------------------


class Worker:
    """Does what the test says."""

    def __init__(self, number: int, events: list[str]) -> None:
        self.metadata = WorkerMetadata(uid=f"uid-{number}", address=f"unix:/{number}", pid=number, version="1")
        self.exit_reason: str | None = None
        self.interrupted: int | None = None
        self.will_interrupt = 0
        self.busy = False
        self.stuck = False
        self.worn = asyncio.Event()
        self.draining = asyncio.Event()
        self.closed = asyncio.Event()
        self._events = events

    @property
    def is_draining(self) -> bool:
        return self.draining.is_set()

    async def wait_worn(self) -> str | None:
        await self.worn.wait()
        return None if self.is_draining else "enough"

    async def wait_draining(self) -> None:
        await self.draining.wait()

    async def wait_closed(self) -> str:
        await self.closed.wait()
        assert self.exit_reason is not None
        return self.exit_reason

    def end(self, how: str, interrupted: int | None = None) -> None:
        if not self.closed.is_set():
            self.exit_reason, self.interrupted = how, interrupted
            self._events.append(f"end {self.metadata.pid}")
            self.draining.set()
            self.worn.set()
            self.closed.set()

    async def stop(self, drain_seconds: float) -> None:
        self._events.append(f"stop {self.metadata.pid} in {drain_seconds:g}")
        if not self.busy:
            self.end("exit status 0", self.will_interrupt)
        await self.closed.wait()

    def close(self) -> None:
        self.end("killed by SIGKILL")


class House:
    """A supervisor, its workers, and the discovery that it announces them in."""

    def __init__(self, **options: Any) -> None:
        self.events: list[str] = []
        self.workers: list[Worker] = []
        self.now = 0.0
        self.fail_start: Callable[[int], Exception | None] = lambda number: None
        self.starting: asyncio.Event | None = None
        self.fail_publish: Callable[[str, str], Exception | None] = lambda type, uid: None
        self.publish_gate: asyncio.Event | None = None
        self.supervisor = Supervisor(
            **{
                "size": 1,
                "start": self.start,
                "publish": self.publish,
                "intensity": Intensity(restarts=2, seconds=10),
                "drain_seconds": 7.0,
                "clock": lambda: self.now,
                "limits": QUICK,
                "last_output": lambda pid: f"last words of {pid}",
                **options,
            }
        )
        self.running: asyncio.Task[Status]

    async def start(self, place: int) -> Worker:
        number = len(self.workers) + 1
        if self.starting is not None:
            await self.starting.wait()
        if (error := self.fail_start(number)) is not None:
            self.events.append(f"failed {number}")
            raise error
        worker = Worker(number, self.events)
        self.workers.append(worker)
        self.events.append(f"start {number}")
        return worker

    async def publish(self, type: str, metadata: WorkerMetadata) -> None:
        if (error := self.fail_publish(type, metadata.uid)) is not None:
            raise error
        if self.publish_gate is not None:
            await self.publish_gate.wait()
        self.events.append(f"{type} {metadata.pid}")

    async def until(self, *events: str) -> None:
        await until(lambda: all(event in self.events for event in events), f"{events} in {self.events}")


@asynccontextmanager
async def house(**options: Any) -> AsyncIterator[House]:
    made = House(**options)
    made.running = asyncio.create_task(made.supervisor.run())
    try:
        yield made
    finally:
        if not made.running.done():
            made.supervisor.signal("first")
            made.supervisor.signal("second")
        await asyncio.wait([made.running])
        assert all(worker.closed.is_set() for worker in made.workers), "a worker was left behind"


# ---- keeping alive -----------------------------------------------------------------------------------


async def test_a_worker_is_announced_once_it_is_ready() -> None:
    async with house(size=2) as made:
        await made.until("worker-added 1", "worker-added 2")
        for number in (1, 2):
            assert made.events.index(f"start {number}") < made.events.index(f"worker-added {number}")


async def test_a_worker_that_crashed_is_withdrawn_and_then_replaced() -> None:
    async with house() as made:
        await made.until("worker-added 1")
        made.workers[0].end("killed by SIGSEGV")
        await made.until("worker-added 2")
        assert made.events[2:] == ["end 1", "worker-dropped 1", "start 2", "worker-added 2"]


async def test_a_worker_that_drains_by_itself_is_withdrawn_before_it_has_ended() -> None:
    async with house() as made:
        await made.until("worker-added 1")
        made.workers[0].draining.set()
        made.workers[0].worn.set()
        await made.until("worker-dropped 1")
        assert "end 1" not in made.events
        made.workers[0].end("exit status 0", 0)
        await made.until("worker-added 2")


async def test_crashes_beyond_the_limit_end_everything_with_the_last_words(caplog: pytest.LogCaptureFixture) -> None:
    async with house(size=2) as made:
        await made.until("worker-added 1", "worker-added 2")
        for number, next_one in ((1, 3), (3, 4)):
            made.workers[number - 1].end("killed by SIGSEGV")
            made.now += 1
            await made.until(f"worker-added {next_one}")
        made.workers[3].end("killed by SIGSEGV")
        with pytest.raises(GaveUp, match=r"3 times within 10 s, and 2 restarts are allowed.*killed by SIGSEGV") as gave:
            await made.running
        assert gave.value.output == "last words of 4"
        assert made.events[-3:] == ["worker-dropped 2", "stop 2 in 7", "end 2"]


async def test_crashes_that_are_far_apart_are_no_loop() -> None:
    async with house() as made:
        for number in range(1, 8):
            await made.until(f"worker-added {number}")
            made.workers[-1].end("killed by SIGSEGV")
            made.now += 5.0
        await made.until("worker-added 8")


async def test_a_replacement_that_does_not_start_counts_as_a_crash() -> None:
    async with house() as made:
        await made.until("worker-added 1")
        made.fail_start = lambda number: WorkerStartError("did not start: exit status 1\nImportError: no such thing")
        made.workers[0].end("killed by SIGSEGV")
        with pytest.raises(GaveUp, match="did not start: exit status 1; ImportError: no such thing") as gave:
            await made.running
        assert made.events.count("failed 2") == 2
        assert "ImportError" in gave.value.output


async def test_if_one_of_the_first_does_not_start_none_is_left() -> None:
    def fail(number: int) -> Exception | None:
        return WorkerStartError("port in use") if number == 2 else None

    made = House(size=3)
    made.fail_start = fail
    with pytest.raises(WorkerStartError, match="port in use"):
        await made.supervisor.run()
    assert all(worker.closed.is_set() for worker in made.workers)
    added = [event for event in made.events if event.startswith("worker-added")]
    assert len(added) == len([event for event in made.events if event.startswith("worker-dropped")])


async def test_a_worker_that_cannot_be_announced_ends_everything_and_is_not_withdrawn() -> None:
    made = House(size=1)
    made.fail_publish = lambda type, uid: ValueError("no address that others can reach")
    with pytest.raises(ValueError, match="no address"):
        await made.supervisor.run()
    assert made.events == ["start 1", "stop 1 in 7", "end 1"]


async def test_a_discovery_that_hangs_is_not_waited_for() -> None:
    made = House(size=1, limits=dataclasses.replace(QUICK, publish_seconds=0.02))
    made.publish_gate = asyncio.Event()
    with pytest.raises(TimeoutError, match=r"worker-added of worker uid-1 could not be published: .* longer than 0.02"):
        await made.supervisor.run()
    assert made.workers[0].closed.is_set()


# ---- replacing -----------------------------------------------------------------------------------------


async def test_a_worker_that_has_had_enough_is_told_to_drain_once_its_successor_is_announced() -> None:
    async with house() as made:
        await made.until("worker-added 1")
        made.workers[0].worn.set()
        await made.until("end 1")
        assert made.events[2:] == ["start 2", "worker-added 2", "worker-dropped 1", "stop 1 in 600", "end 1"]


async def test_a_planned_replacement_is_no_crash() -> None:
    async with house(intensity=Intensity(restarts=0, seconds=10)) as made:
        for number in range(1, 6):
            await made.until(f"worker-added {number}")
            made.workers[-1].worn.set()
        await made.until("worker-added 6", "end 5")


async def test_workers_are_replaced_one_at_a_time() -> None:
    async with house(size=3) as made:
        await made.until(*(f"worker-added {number}" for number in (1, 2, 3)))
        for worker in list(made.workers):
            worker.worn.set()
        await made.until(*(f"end {number}" for number in (1, 2, 3)))
        assert [event.split()[0] for event in made.events[6:]] == [
            *("start", "worker-added", "worker-dropped", "stop", "end")
        ] * 3


async def test_a_successor_that_crashes_while_the_old_worker_drains_is_restarted() -> None:
    async with house() as made:
        await made.until("worker-added 1")
        made.workers[0].busy = True
        made.workers[0].worn.set()
        await made.until("stop 1 in 600")
        made.workers[1].end("killed by SIGSEGV")
        await made.until("worker-added 3")
        made.workers[0].end("exit status 0", 0)


async def test_a_successor_that_cannot_be_announced_is_stopped_and_the_old_worker_goes_on() -> None:
    async with house() as made:
        await made.until("worker-added 1")
        made.fail_publish = lambda type, uid: OSError("disk full") if uid == "uid-2" else None
        made.workers[0].worn.set()
        await made.until("stop 2 in 0", "worker-added 3", "end 1")
        assert made.events.index("worker-added 3") < made.events.index("worker-dropped 1")


async def test_a_worker_that_crashes_after_it_has_had_enough_is_restarted_as_any() -> None:
    async with house() as made:
        await made.until("worker-added 1")
        made.fail_start = lambda number: WorkerStartError("no") if "end 1" not in made.events else None
        made.workers[0].worn.set()
        await made.until("failed 2")
        made.workers[0].end("killed by SIGKILL")
        await made.until("worker-added 2")


async def test_told_to_stop_while_a_worker_is_replaced_both_are_stopped_within_the_drain_time() -> None:
    async with house() as made:
        await made.until("worker-added 1")
        made.workers[0].busy = True
        made.workers[0].worn.set()
        await made.until("stop 1 in 600")
        made.supervisor.signal("SIGTERM")
        await made.until("stop 1 in 7", "end 2")
        made.workers[0].end("exit status 0", 0)
        assert await made.running is Status.DRAINED


# ---- ending ------------------------------------------------------------------------------------------


async def test_told_to_stop_it_withdraws_all_workers_before_it_stops_any() -> None:
    async with house(size=2) as made:
        await made.until("worker-added 1", "worker-added 2")
        made.supervisor.signal("SIGTERM")
        assert await made.running is Status.DRAINED
        assert made.events[4:] == [
            "worker-dropped 1",
            "worker-dropped 2",
            "stop 1 in 7",
            "end 1",
            "stop 2 in 7",
            "end 2",
        ]


@pytest.mark.parametrize("interrupted", [1, None])
async def test_tasks_that_were_cut_short_are_in_the_status(interrupted: int | None) -> None:
    async with house() as made:
        await made.until("worker-added 1")
        made.workers[0].will_interrupt = interrupted  # type: ignore[assignment]
        made.supervisor.signal("SIGTERM")
        assert await made.running is Status.INTERRUPTED


async def test_a_second_signal_ends_at_once() -> None:
    async with house(size=2) as made:
        await made.until("worker-added 1", "worker-added 2")
        for worker in made.workers:
            worker.busy = True
        made.supervisor.signal("SIGTERM")
        await made.until("stop 1 in 7", "stop 2 in 7")
        assert not made.running.done()
        made.supervisor.signal("SIGTERM")
        assert await made.running is Status.ENDED_AT_ONCE
        assert [worker.exit_reason for worker in made.workers] == ["killed by SIGKILL"] * 2


async def test_a_second_signal_does_not_wait_for_a_discovery_that_hangs() -> None:
    async with house() as made:
        await made.until("worker-added 1")
        made.publish_gate = asyncio.Event()
        made.workers[0].busy = True
        made.supervisor.signal("SIGTERM")
        await asyncio.sleep(0.01)
        assert "stop 1 in 7" not in made.events
        made.supervisor.signal("SIGTERM")
        assert await made.running is Status.ENDED_AT_ONCE


async def test_a_worker_that_cannot_be_withdrawn_is_stopped_all_the_same() -> None:
    async with house() as made:
        await made.until("worker-added 1")
        made.fail_publish = lambda type, uid: OSError("disk full")
        made.supervisor.signal("SIGTERM")
        assert await made.running is Status.DRAINED


async def test_told_to_stop_while_workers_start_it_starts_no_more() -> None:
    made = House(size=2)
    made.starting = asyncio.Event()
    running = asyncio.create_task(made.supervisor.run())
    await asyncio.sleep(0.01)
    made.supervisor.signal("SIGTERM")
    assert await running is Status.DRAINED
    assert made.events == []


async def test_told_to_stop_while_a_worker_is_replaced_it_is_not() -> None:
    async with house() as made:
        await made.until("worker-added 1")
        made.starting = asyncio.Event()
        made.workers[0].end("killed by SIGSEGV")
        await made.until("worker-dropped 1")
        await asyncio.sleep(0.01)
        made.supervisor.signal("SIGTERM")
        assert await made.running is Status.DRAINED
        assert len(made.workers) == 1


async def test_told_to_stop_while_a_worker_is_announced_it_is_withdrawn_too() -> None:
    async with house() as made:
        made.publish_gate = asyncio.Event()
        await made.until("start 1")
        await asyncio.sleep(0.01)
        made.supervisor.signal("SIGTERM")
        await asyncio.sleep(0.01)
        made.publish_gate.set()
        assert await made.running is Status.DRAINED
        assert "worker-dropped 1" in made.events


async def test_what_happens_is_said_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "wool.cli"):
        async with house(size=1) as made:
            await made.until("worker-added 1")
            made.workers[0].end("killed by SIGSEGV")
            await made.until("worker-added 2")
            made.supervisor.signal("SIGTERM")
            await made.running
    assert [record.message for record in caplog.records] == [
        "worker-ready",
        "ready",
        "worker-withdrawn",
        "worker-ended",
        "worker-restarting",
        "worker-ready",
        "draining",
        "worker-withdrawn",
        "worker-stopped",
    ]
    ended = getattr(caplog.records[3], EVENT_FIELDS)
    assert ended == {"worker": "uid-1", "pid": 1, "how": "killed by SIGSEGV"}


def test_every_status_is_explained() -> None:
    assert list(STATUSES) == list(Status)
    assert sorted(Status) == list(range(6))


def test_the_headline_of_a_failed_start_is_how_and_why() -> None:
    assert headline(WorkerStartError("did not start: exit status 1")) == "did not start: exit status 1"
    assert headline(WorkerStartError("exit status 1\nTraceback\n  …\nOSError: in use\n")) == (
        "exit status 1; OSError: in use"
    )
