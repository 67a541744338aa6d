"""A cancellation reaches the body, and the caller goes on when the body has cleaned up."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

import wool
from support import cancels, routines
from support.journal import Journal, start
from support.pools import connect, module_loop, no_leaked_tasks, pool, tasks_on_worker  # noqa: F401
from wool.limits import Limits
from wool.runtime import current_runtime, real_runtime, set_runtime

pytestmark = module_loop

CLEANED_UP = ["park", "cancelled ()", "finally"]


async def ended(task: asyncio.Task[Any]) -> asyncio.Task[Any]:
    async with asyncio.timeout(20):
        await asyncio.wait([task])
    return task


async def unharmed(pool: wool.WorkerPool, pids: set[int]) -> None:  # noqa: F811
    assert await connect(pool) == pids
    dispatcher = pool.open_dispatcher
    assert dispatcher is not None
    assert not any(status.suspect or status.in_flight for status in dispatcher._proxy.workers())


# ---- how it is done ----------------------------------------------------------------------------------


async def test_task_cancel_reaches_the_body_and_its_finally_has_run_when_the_caller_goes_on() -> None:
    with Journal() as journal:
        task = start(cancels.parked(journal.pen))
        await journal.wait_for("park")
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert journal.notes == CLEANED_UP
        assert task.cancelled()


async def test_the_message_of_a_cancellation_travels() -> None:
    with Journal() as journal:
        task = start(cancels.parked(journal.pen))
        await journal.wait_for("park")
        task.cancel("enough of this")
        with pytest.raises(asyncio.CancelledError) as caught:
            await task
        assert caught.value.args == ("enough of this",)
        assert journal.notes == ["park", "cancelled ('enough of this',)", "finally"]


async def test_the_body_of_a_call_that_is_thrown_away_is_cancelled() -> None:
    with Journal() as journal:
        call = cancels.parked(journal.pen)
        call.send(None)
        await journal.wait_for("park")
        call.close()
        await journal.wait_for("finally")


async def test_a_timeout_reaches_the_body() -> None:
    with Journal() as journal:

        async def expire(deadline: asyncio.Timeout) -> None:
            await journal.wait_for("park")
            deadline.reschedule(asyncio.get_running_loop().time())

        async def timed_out() -> None:
            async with asyncio.timeout(None) as deadline:
                expiring = asyncio.create_task(expire(deadline))
                try:
                    await cancels.parked(journal.pen)
                finally:
                    await expiring

        with pytest.raises(TimeoutError):
            await timed_out()
        assert journal.notes == CLEANED_UP
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(cancels.parked(journal.pen), 1)
        assert journal.notes == CLEANED_UP * 2


async def test_a_failing_sibling_in_a_task_group_reaches_the_body() -> None:
    with Journal() as journal:

        async def fail() -> None:
            await journal.wait_for("park", 2)
            raise LookupError("sibling")

        async def together() -> None:
            async with asyncio.TaskGroup() as group:
                group.create_task(cancels.parked(journal.pen))
                group.create_task(cancels.parked(journal.pen))
                group.create_task(fail())

        with pytest.raises(ExceptionGroup) as caught:
            await together()
        assert [repr(error) for error in caught.value.exceptions] == ["LookupError('sibling')"]
        assert sorted(journal.notes) == sorted(CLEANED_UP * 2)


async def test_a_timeout_in_a_body_reaches_its_nested_call(tmp_path: Path) -> None:
    with Journal() as journal:
        gate = tmp_path / "gate"
        call = asyncio.create_task(cancels.timed_out(journal.pen, str(gate)))
        await journal.wait_for("park")
        gate.touch()
        assert await call == "timed out"
        assert journal.notes == CLEANED_UP


# ---- what the body makes of it -----------------------------------------------------------------------


@pytest.mark.parametrize("local", [True, False], ids=["locally", "as a routine"])
async def test_a_body_that_swallows_a_cancellation_returns_its_value(local: bool) -> None:
    with Journal() as journal:
        function = cancels.suppressing.__wrapped__ if local else cancels.suppressing  # type: ignore[attr-defined]
        task = start(function(journal.local_pen if local else journal.pen, 1))
        await journal.wait_for("park")
        task.cancel()
        assert await task == 1
        assert task.cancelling() == 1
        assert not task.cancelled()


@pytest.mark.parametrize("local", [True, False], ids=["locally", "as a routine"])
async def test_each_repeated_cancellation_counts(local: bool) -> None:
    with Journal() as journal:
        function = cancels.suppressing.__wrapped__ if local else cancels.suppressing  # type: ignore[attr-defined]
        task = start(function(journal.local_pen if local else journal.pen, 3))
        for number in range(3):
            await journal.wait_for("park", number + 1)
            task.cancel(f"number {number}")
        assert await task == 3
        assert task.cancelling() == 3
        assert [note for note in journal.notes if note != "park"] == [f"cancelled ('number {n}',)" for n in range(3)]


@pytest.mark.parametrize("local", [True, False], ids=["locally", "as a routine"])
async def test_a_body_may_raise_something_else_instead(local: bool) -> None:
    with Journal() as journal:
        function = cancels.transforming.__wrapped__ if local else cancels.transforming  # type: ignore[attr-defined]
        task = start(function(journal.local_pen if local else journal.pen))
        await journal.wait_for("park")
        task.cancel()
        with pytest.raises(LookupError) as caught:
            await task
        assert isinstance(caught.value.__cause__, asyncio.CancelledError)


@pytest.mark.parametrize("local", [True, False], ids=["locally", "as a routine"])
async def test_a_timeout_that_the_body_swallows_leaves_the_task_uncancelled(local: bool) -> None:
    with Journal() as journal:
        function = cancels.suppressing.__wrapped__ if local else cancels.suppressing  # type: ignore[attr-defined]
        async with asyncio.timeout(0.2) as scope:
            assert await function(journal.local_pen if local else journal.pen, 1) == 1
        assert scope.expired()
        task = asyncio.current_task()
        assert task is not None
        assert not task.cancelling()


async def test_a_generator_that_swallows_a_cancellation_goes_on() -> None:
    with Journal() as journal:
        stream = cancels.after_cancel(journal.pen)
        step = start(anext(stream))
        await journal.wait_for("park")
        step.cancel()
        assert await step == "swallowed"
        assert [item async for item in stream] == ["next", "timeouts work"]


# ---- how long it is waited for -----------------------------------------------------------------------


async def with_grace(seconds: float, work: Callable[[wool.WorkerPool], Awaitable[None]]) -> None:
    """Run ``work`` in a pool whose cancel grace is ``seconds``."""

    async def main() -> None:
        set_runtime(real_runtime(limits=Limits(cancel_grace_seconds=seconds)))
        async with wool.WorkerPool(size=2) as small:
            await connect(small)
            await work(small)

    # A task of its own, so that the runtime is its own too.
    await start(main())


async def test_a_body_that_ignores_its_cancellation_is_waited_for_no_longer_than_the_grace() -> None:
    async def work(small: wool.WorkerPool) -> None:
        pids = {worker.pid for worker in small.workers}
        with Journal() as journal:
            task = start(cancels.deaf(journal.pen))
            await journal.wait_for("park")
            began = time.monotonic()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert 0.3 <= time.monotonic() - began < 5
            assert "ignored" in journal.notes
            # The worker is none the worse for it.
            await unharmed(small, pids)
            assert await routines.add(1, 2) == 3

    await with_grace(0.3, work)


async def test_a_body_that_cleans_up_within_the_grace_is_waited_for() -> None:
    async def work(small: wool.WorkerPool) -> None:
        with Journal() as journal:
            task = start(cancels.stubborn(journal.pen, 0.5))
            await journal.wait_for("park")
            task.cancel()
            await ended(task)
            assert task.cancelled()
            assert journal.notes == ["park", "finally"]

    await with_grace(10, work)


async def test_what_a_body_says_after_the_grace_is_heard_by_nobody() -> None:
    async def work(small: wool.WorkerPool) -> None:
        pids = {worker.pid for worker in small.workers}
        with Journal() as journal:
            task = start(cancels.stubborn(journal.pen, 0.5))
            await journal.wait_for("park")
            task.cancel()
            await ended(task)
            assert task.cancelled()
            assert journal.notes == ["park"]
            await journal.wait_for("finally")
            assert await routines.add(1, 2) == 3
            await unharmed(small, pids)

    await with_grace(0.2, work)


async def test_current_runtime_is_not_changed_by_a_pool_with_limits_of_its_own() -> None:
    before = current_runtime()
    await with_grace(1, lambda small: routines.add(1, 2))
    assert current_runtime() is before


# ---- when --------------------------------------------------------------------------------------------


async def test_cancelled_before_it_is_dispatched_a_body_never_begins() -> None:
    with Journal() as journal:
        task = start(cancels.step_by_step(journal.pen, 1))
        task.cancel()
        await ended(task)
        assert task.cancelled()
        await connect_once()
        assert journal.notes == []


async def connect_once() -> None:
    """Have both workers answer something: what was said to them before has been read."""
    await asyncio.gather(*(routines.add(1, 2) for _ in range(4)))


class NobodyYet:
    """A discovery that has not found anybody."""

    def __aiter__(self) -> NobodyYet:
        return self

    async def __anext__(self) -> wool.DiscoveryEvent:
        return await asyncio.get_running_loop().create_future()


async def test_cancelled_while_nobody_takes_it_a_call_ends_at_once() -> None:
    with Journal() as journal:
        async with wool.WorkerProxy(discovery=NobodyYet()):
            for call in (cancels.parked(journal.pen), anext(cancels.inner_stream(journal.pen))):
                task = start(call)
                await asyncio.sleep(0.01)
                assert not task.done()
                task.cancel()
                began = time.monotonic()
                await ended(task)
                assert task.cancelled()
                assert time.monotonic() - began < 1
        assert journal.notes == []


async def turns(number: int) -> None:
    for _ in range(number):
        await asyncio.sleep(0)


@pytest.mark.parametrize("delay", ["turns", "microseconds"])
async def test_cancelled_at_any_moment_a_call_ends_once_and_its_body_is_left_nowhere(
    pool: wool.WorkerPool,  # noqa: F811
    delay: str,
) -> None:
    pids = {worker.pid for worker in pool.workers}
    outcomes: set[str] = set()
    with Journal() as journal:
        for k in range(150):
            task = start(cancels.step_by_step(journal.pen, 3))
            if delay == "turns":
                await turns(k // 3)
            else:
                await asyncio.sleep(k * 20e-6)
            task.cancel()
            await ended(task)
            notes = journal.notes
            # What began has ended, at the moment at which the caller goes on.
            assert notes.count("begin") == notes.count("end")
            outcomes.add("cancelled" if task.cancelled() else task.result())
        assert await cancels.step_by_step(journal.pen, 1) == "value"
    assert "cancelled" in outcomes
    await unharmed(pool, pids)


async def test_cancelled_at_any_moment_a_step_of_a_generator_ends_once(pool: wool.WorkerPool) -> None:  # noqa: F811
    pids = {worker.pid for worker in pool.workers}
    for k in range(100):
        stream = routines.count(10**6)
        assert await anext(stream) == 0
        step = start(anext(stream))
        await asyncio.sleep(k * 10e-6)
        step.cancel()
        await ended(step)
        if step.cancelled():
            # It was thrown into the body, which let it pass.
            assert await anext(stream, "ended") == "ended"
        else:
            assert step.result() == 1
            assert await anext(stream) == 2
        await stream.aclose()
    await unharmed(pool, pids)


@pytest.mark.parametrize("kind", ["coroutine", "generator", "nested generator"])
async def test_no_cancellation_is_lost_to_an_answer_that_crosses_it(kind: str) -> None:
    async def forever() -> None:
        streams = {"generator": routines.count, "nested generator": routines.nested_count}
        stream = streams[kind](10**9) if kind in streams else None
        try:
            while True:
                await (routines.add(1, 2) if stream is None else anext(stream))
        finally:
            if stream is not None:
                await stream.aclose()

    for k in range(200):
        task = start(forever())
        await asyncio.sleep(0.001 + k * 10e-6)
        task.cancel("once")
        await asyncio.wait([task], timeout=5)
        assert task.done(), f"cancellation {k} was lost"
        assert task.cancelled()


async def test_a_cancel_between_two_steps_does_not_touch_the_generator() -> None:
    stream = routines.count(3)
    assert await anext(stream) == 0

    async def consume() -> int:
        try:
            await asyncio.get_running_loop().create_future()
        except asyncio.CancelledError:
            return await anext(stream)
        raise AssertionError

    task = start(consume())
    await turns(2)
    task.cancel()
    assert await task == 1
    await stream.aclose()


# ---- nested ------------------------------------------------------------------------------------------


async def test_nested_calls_of_a_cancelled_parent_are_cancelled_wherever_they_are() -> None:
    with Journal() as journal:
        task = start(cancels.tree(journal.pen, "r", 3))
        await journal.wait_for("park", 8)
        task.cancel()
        await ended(task)
        assert task.cancelled()
        notes = [note.removeprefix("finally ") for note in journal.notes if note.startswith("finally")]
        assert len(notes) == 15
        assert notes[-1] == "r"
        for name in notes[:-1]:
            # A parent's finally comes after its children's.
            assert notes.index(name) < notes.index(name[:-1])


async def test_a_cancelled_step_of_a_nested_generator_ends_the_inner_one_too() -> None:
    with Journal() as journal:
        stream = cancels.outer_stream(journal.pen)
        assert await anext(stream) == 1
        step = start(anext(stream))
        await journal.wait_for("park")
        step.cancel()
        await ended(step)
        assert step.cancelled()
        assert journal.notes == ["park", "inner finally", "outer finally"]


# ---- what is left ------------------------------------------------------------------------------------


async def test_a_thousand_cancelled_calls_leave_nothing_running_and_no_worker_suspect(
    pool: wool.WorkerPool,  # noqa: F811
) -> None:
    pids = {worker.pid for worker in pool.workers}
    before = max(await asyncio.gather(*(tasks_on_worker() for _ in range(4))))
    with Journal() as journal:
        pen = journal.pen
        tasks = [start(cancels.parked(pen)) for _ in range(1000)]
        await journal.wait_for("park", 500)
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        assert all(task.cancelled() for task in tasks)
        assert journal.notes.count("park") == journal.notes.count("finally")
    assert max(await asyncio.gather(*(tasks_on_worker() for _ in range(4)))) <= before + 3
    await unharmed(pool, pids)
