"""Every task that was started is counted once, as what became of it, and said in the log once it began and ended."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from support import bodies
from support.one_loop import MEMORY_BYTES, SECRET, Cluster, cluster, until
from wool.connection import Connection
from wool.errors import NoWorkersAvailable, TaskInterrupted, WorkerLost
from wool.protocol.frames import ResultKind
from wool.statistics import Statistics
from wool.transport.memory import MemoryTransport
from wool.worker.ledger import EVENT_FIELDS, Ledger, Vitals


@dataclass
class Task:
    task: bytes = b"\x01" * 16
    caller: str = "caller-uid"
    began: float = 0.0


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def statistics(ledger: Ledger, *, draining: bool = False, lag_seconds: float = 0.0) -> Statistics:
    return ledger.statistics(Vitals(lambda: 7, lambda now: lag_seconds), draining=draining, sessions=3)


ENDS = [kind for kind in ResultKind if kind is not ResultKind.YIELD]


@pytest.mark.parametrize(
    ("kind", "said", "outcome"),
    [
        (ResultKind.RETURN, {}, "done"),
        (ResultKind.RETURN, {"cancels": 1}, "done"),
        (ResultKind.RAISE, {}, "failed"),
        (ResultKind.RAISE, {"echo": True}, "done"),
        (ResultKind.RAISE, {"cancels": 1}, "cancelled"),
        (ResultKind.UNLOADABLE, {}, "failed"),
        (ResultKind.UNSENDABLE, {}, "failed"),
        (ResultKind.CANCELLED, {}, "cancelled"),
        (ResultKind.INTERRUPTED, {}, "interrupted"),
        (ResultKind.UNBEGUN, {}, "interrupted"),
    ],
)
def test_a_task_ends_as_what_became_of_it(
    kind: ResultKind, said: dict[str, Any], outcome: str, caplog: pytest.LogCaptureFixture
) -> None:
    clock = Clock()
    ledger, task = Ledger(clock), Task()
    with caplog.at_level(logging.INFO, "wool.worker.tasks"):
        ledger.begin(task)
        clock.now += 0.25
        ledger.end(task, kind, **({"echo": False, "cancels": 0} | said))
    began, ended = caplog.records
    who = {"task": "01" * 16, "caller": "caller-uid"}
    assert (began.message, getattr(began, EVENT_FIELDS)) == ("task-started", who)
    assert (ended.message, getattr(ended, EVENT_FIELDS)) == ("task-ended", {**who, "outcome": outcome, "seconds": 0.25})
    counted = statistics(ledger)
    assert (counted.done, counted.failed, counted.cancelled, counted.lost) == (
        outcome == "done",
        outcome == "failed",
        outcome in ("cancelled", "interrupted"),
        0,
    )
    assert ledger.interrupted == (outcome == "interrupted")


@given(st.lists(st.one_of(st.none(), st.sampled_from(ENDS), st.just("abandon"))))
def test_what_was_started_is_in_exactly_one_count(ends: list[Any]) -> None:
    ledger = Ledger(Clock())
    for end in ends:
        task = Task()
        ledger.begin(task)
        if end == "abandon":
            ledger.abandon(task)
        elif end is not None:
            ledger.end(task, end, echo=False, cancels=0)
    said = statistics(ledger, draining=True)
    assert said.in_flight == ends.count(None)
    assert said.lost == ends.count("abandon")
    assert said.in_flight + said.done + said.failed + said.cancelled + said.lost == ledger.started == len(ends)
    assert said.draining


def test_it_is_known_for_how_long_the_worker_is_up() -> None:
    clock = Clock()
    ledger = Ledger(clock)
    clock.now += 61.5
    assert statistics(ledger).up_milliseconds == 61_500


@pytest.mark.parametrize(("seconds", "microseconds"), [(0.0, 0), (-0.25, 0), (0.0015, 1_500), (61.5, 61_500_000)])
def test_what_others_know_is_in_the_record_and_no_lag_is_negative(seconds: float, microseconds: int) -> None:
    said = statistics(Ledger(Clock()), lag_seconds=seconds)
    assert (said.memory_bytes, said.sessions, said.loop_lag_microseconds) == (7, 3, microseconds)


async def ask(made: Cluster, uid: str) -> Statistics:
    connection = await Connection.open(
        transport=MemoryTransport(made.network, made.limits),
        address=f"unix:/{uid}",
        expects=uid,
        secret=SECRET,
        caller="who asks",
        pool=b"",
        limits=made.limits,
        random_bytes=bytes,
    )
    await connection.decline("that was all")
    assert connection.statistics is not None
    return connection.statistics


async def test_a_welcome_says_what_the_worker_has_done() -> None:
    bodies.reset()
    async with cluster("a") as made:
        await made.call(bodies.echo, 1)
        with pytest.raises(LookupError):
            await made.call(bodies.fail, "boom")
        waiting = made.spawn(bodies.wait_for, "gate")
        await until(lambda: "gate begun" in bodies.story)
        said = await ask(made, "a")
        assert (said.in_flight, said.done, said.failed, said.cancelled) == (1, 1, 1, 0)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        said = await ask(made, "a")
        assert (said.in_flight, said.done, said.failed, said.cancelled) == (0, 1, 1, 1)
        assert not said.draining
        assert (said.accepted, said.rejected) == (3, 0)
        assert (said.sessions, said.memory_bytes) == (1, MEMORY_BYTES), "who only asks is no session yet"


async def test_an_offer_that_is_refused_is_counted_as_such_and_as_nothing_else() -> None:
    bodies.reset()
    async with cluster("a") as made:
        await made.call(bodies.echo, 1)
        made.workers["a"].service.draining = True
        with pytest.raises(NoWorkersAvailable):
            await made.call(bodies.echo, 2)
        said = await ask(made, "a")
        assert (said.accepted, said.rejected, said.done, said.in_flight) == (1, 1, 1, 0)


async def test_a_task_whose_caller_has_gone_is_lost_and_counted_once() -> None:
    bodies.reset()
    async with cluster("a") as made:
        waiting = made.spawn(bodies.wait_for, "gate")
        await until(lambda: "gate begun" in bodies.story)
        await made.proxy.close("the caller goes")
        with pytest.raises(WorkerLost):
            await waiting
        await until(lambda: "gate finally" in bodies.story)
        said = await ask(made, "a")
        assert (said.in_flight, said.done, said.failed, said.cancelled, said.lost) == (0, 0, 0, 0, 1)


async def test_a_drain_says_how_many_tasks_it_has_cut_short() -> None:
    bodies.reset()
    async with cluster("a") as made:
        cut = made.spawn(bodies.wait_for, "gate")
        await until(lambda: "gate begun" in bodies.story)
        drain = asyncio.ensure_future(made.workers["a"].service.drain(0.05))
        await asyncio.sleep(0)
        assert (await ask(made, "a")).draining
        assert await drain == 1
        with pytest.raises(TaskInterrupted):
            await cut


async def test_a_drain_in_which_all_came_to_an_end_has_cut_nothing_short() -> None:
    bodies.reset()
    async with cluster("a") as made:
        waiting = made.spawn(bodies.wait_for, "gate")
        await until(lambda: "gate begun" in bodies.story)
        drain = asyncio.ensure_future(made.workers["a"].service.drain(5))
        bodies.gates["gate"].set()
        assert await waiting == "gate"
        assert await drain == 0
