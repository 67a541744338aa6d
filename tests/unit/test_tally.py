"""Every call is counted once, as what its caller gets."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator

import pytest
from hypothesis import given
from hypothesis import strategies as st

import wool
from support.memory_pool import memory_pool
from wool.dispatch import current_source
from wool.errors import DispatchTimeout, NoWorkersAvailable, SerializationError, TaskInterrupted, WorkerLost
from wool.tally import End, PoolStatistics, Tally, end_of

ENDS: tuple[End, ...] = ("done", "failed", "cancelled", "interrupted", "lost", "unplaced")


@pytest.mark.parametrize(
    ("error", "end"),
    [
        (ValueError("the body's own"), "failed"),
        (TimeoutError("the body took too long"), "failed"),
        (SerializationError("too large", executed="no"), "failed"),
        (asyncio.CancelledError(), "cancelled"),
        (TaskInterrupted("drained"), "interrupted"),
        (WorkerLost("gone"), "lost"),
        (NoWorkersAvailable("nobody"), "unplaced"),
        (DispatchTimeout("nobody in time", {}), "unplaced"),
        (SystemExit(1), "failed"),
    ],
)
def test_a_call_is_counted_as_what_its_caller_gets(error: BaseException, end: End) -> None:
    assert end_of(error, "coroutine") == end_of(error, "generator") == end


def test_a_generator_that_is_closed_is_done_and_a_coroutine_that_is_closed_is_given_up() -> None:
    assert end_of(GeneratorExit(), "generator") == "done"
    assert end_of(GeneratorExit(), "coroutine") == "cancelled"


@given(st.lists(st.one_of(st.none(), st.sampled_from(ENDS))))
def test_every_call_is_in_exactly_one_count(ends: list[End | None]) -> None:
    tally = Tally()
    for end in ends:
        tally.begin()
        if end is not None:
            tally.end(end)
    counted = tally.statistics()
    assert counted.in_flight == ends.count(None)
    assert {end: getattr(counted, end) for end in ENDS} == {end: ends.count(end) for end in ENDS}


def test_no_call_is_missed_whatever_threads_make_them_and_no_count_is_ever_negative() -> None:
    tally = Tally()
    least: list[int] = []

    def call() -> None:
        for turn in range(5000):
            tally.begin()
            tally.end(ENDS[turn % len(ENDS)])

    threads = [threading.Thread(target=call) for _ in range(4)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        least.append(tally.statistics().in_flight)
    for thread in threads:
        thread.join()
    assert min(least, default=0) >= 0
    counted = tally.statistics()
    assert counted.in_flight == 0
    assert sum(getattr(counted, end) for end in ENDS) == tally.made == 20_000


# ---- with a pool -------------------------------------------------------------------------------------


@wool.routine
async def _echo(value: object) -> object:
    return value


@wool.routine
async def _fail() -> None:
    raise LookupError("boom")


@wool.routine
async def _numbers() -> AsyncGenerator[int, None]:
    for number in range(3):
        yield number


@wool.routine
async def _wait() -> None:
    await asyncio.Event().wait()


def counted(**ends: int) -> PoolStatistics:
    return PoolStatistics(**{"in_flight": 0, **dict.fromkeys(ENDS, 0), **ends})


def said() -> PoolStatistics:
    source = current_source()
    assert source is not None and source.open_dispatcher is not None
    return source.open_dispatcher.tally.statistics()


async def test_what_callers_get_is_counted_generators_that_are_open_and_calls_that_wait_included() -> None:
    async with memory_pool() as made:
        await asyncio.gather(*map(_echo, range(5)))
        with pytest.raises(LookupError):
            await _fail()
        assert [number async for number in _numbers()] == [0, 1, 2]
        assert said() == counted(done=6, failed=1)
        items = _numbers()
        assert said() == counted(done=6, failed=1), "nothing was called before the first step"
        await anext(items)
        waiting = asyncio.ensure_future(_wait())
        await asyncio.sleep(0)
        assert said() == counted(in_flight=2, done=6, failed=1)
        await items.aclose()
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        assert said() == counted(done=7, failed=1, cancelled=1)
        lost = asyncio.ensure_future(_wait())
        open_one = _numbers()
        await anext(open_one)
        await made.proxy.close("the pool goes")
        with pytest.raises(wool.WorkerLost):
            await lost
        with pytest.raises(wool.WorkerLost):
            await anext(open_one)
        with pytest.raises(wool.NoWorkersAvailable):
            await _echo(1)
        assert said() == counted(done=7, failed=1, cancelled=1, lost=2, unplaced=1)


async def test_arguments_that_cannot_be_pickled_are_no_call() -> None:
    async with memory_pool():
        with pytest.raises(TypeError):
            await _echo(threading.Lock())
        assert said() == counted()


async def test_an_item_that_the_consumer_throws_back_is_what_its_call_has_come_to() -> None:
    async with memory_pool():
        items = _numbers()
        await anext(items)
        with pytest.raises(LookupError):
            await items.athrow(LookupError("thrown in"))
        assert said() == counted(failed=1)


async def test_a_pool_that_was_never_opened_has_counted_nothing() -> None:
    assert wool.WorkerPool(size=1).statistics() == counted()
