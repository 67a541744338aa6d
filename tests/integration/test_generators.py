"""A generator routine is pulled, item by item, by its consumer, and does nothing in between."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import functools
import gc
import os
import subprocess
import sys
import textwrap
import tracemalloc
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

import wool
from support import generators, routines
from support.journal import CHANGE_SECONDS, Journal, start
from support.pools import connect, module_loop, no_leaked_tasks, pool, tasks_on_worker  # noqa: F401
from support.streams import Awkward

pytestmark = module_loop


async def idle_workers(pool: wool.WorkerPool) -> set[int]:  # noqa: F811
    """Return the largest number of tasks that two rounds over the workers report."""
    return set(await asyncio.gather(*(tasks_on_worker() for _ in pool.workers)))


# ---- pulling -----------------------------------------------------------------------------------------


async def test_items_come_in_order_and_the_end_is_the_end() -> None:
    stream = routines.count(3)
    assert [await anext(stream), await anext(stream), await anext(stream)] == [0, 1, 2]
    for _ in range(2):
        with pytest.raises(StopAsyncIteration):
            await anext(stream)
    assert await anext(stream, "default") == "default"


async def test_nothing_runs_before_the_first_step() -> None:
    with Journal() as journal:
        stream = generators.noted(journal.pen, 3)
        await routines.add(1, 2)
        assert journal.notes == []
        await stream.aclose()
        assert journal.notes == []


async def test_what_is_decided_without_the_body_makes_no_task() -> None:
    # No pool could answer here; none is asked.
    stream = await in_no_pool(generators.endless)
    await stream.aclose()
    stream = await in_no_pool(generators.endless)
    error = ValueError("thrown")
    with pytest.raises(ValueError, match="thrown") as caught:
        await stream.athrow(error)
    assert caught.value is error
    stream = await in_no_pool(generators.endless)
    with pytest.raises(TypeError, match="can't send non-None value to a just-started async generator"):
        await stream.asend(1)


async def in_no_pool(function: Any) -> Any:
    return function()


async def test_the_worker_never_runs_ahead_of_the_consumer() -> None:
    with Journal() as journal:
        stream = generators.noted(journal.pen, 5)
        for number in range(5):
            assert await anext(stream) == number
            # Round trips to both workers: whatever would run ahead has had its chance.
            await asyncio.gather(*(routines.add(1, 2) for _ in range(4)))
            assert journal.notes == [f"item {n}" for n in range(number + 1)]
        with pytest.raises(StopAsyncIteration):
            await anext(stream)
        assert journal.notes[-1] == "finally"


async def test_an_infinite_generator_is_left_by_break_and_closed() -> None:
    with Journal() as journal:
        stream = generators.noted(journal.pen, 10**9)
        async for number in stream:
            if number == 3:
                break
        assert "finally" not in journal.notes
        await stream.aclose()
        assert journal.notes == ["item 0", "item 1", "item 2", "item 3", "finally"]


async def test_values_are_sent_and_answered() -> None:
    stream = generators.accumulate()
    assert await anext(stream) == 0
    assert await stream.asend(5) == 5
    assert await stream.asend(None) == 5
    assert await stream.asend(7) == 12
    assert await anext(stream) == 12
    await stream.aclose()


async def test_large_values_are_sent_and_yielded() -> None:
    stream = generators.repeat()
    await anext(stream)
    big = os.urandom(5_000_000)
    for value in (big, bytearray(big), {"a": [big]}, b""):
        assert await stream.asend(value) == value
    await stream.aclose()


async def test_a_generator_keeps_nothing_of_an_item_that_its_consumer_has() -> None:
    stream = generators.repeat()
    await anext(stream)
    size = 8_000_000
    tracemalloc.start()
    try:
        held = await stream.asend(bytearray(size))
        assert len(held) == size
        # What was sent and what has come are let go of a moment after, by the I/O loop.
        async with asyncio.timeout(CHANGE_SECONDS):
            while tracemalloc.get_traced_memory()[0] > 1.5 * size:
                await asyncio.sleep(0.01)
    finally:
        tracemalloc.stop()
    await stream.aclose()


async def test_thousands_of_generators_may_be_open_at_once() -> None:
    streams = [routines.count(3) for _ in range(2000)]
    for number in range(3):
        assert set(await asyncio.gather(*(anext(stream) for stream in streams))) == {number}
    assert set(await asyncio.gather(*(anext(stream, None) for stream in streams))) == {None}


async def test_a_generator_stays_on_one_worker_and_in_one_task() -> None:
    stream = generators.places()
    found = {await anext(stream) for _ in range(10)}
    assert len(found) == 1
    await stream.aclose()


async def test_generators_are_driven_from_several_tasks_in_turn() -> None:
    stream = routines.count(4)
    assert [await start(anext(stream)) for _ in range(4)] == [0, 1, 2, 3]
    await stream.aclose()


# ---- misuse ------------------------------------------------------------------------------------------


@pytest.fixture
def elsewhere() -> Iterator[Callable[[Callable[[], Any]], Awaitable[Any]]]:
    """Run an awaitable that is made there on a loop of another thread, which is closed afterwards."""

    def run(work: Callable[[], Any]) -> Any:
        loop = asyncio.new_event_loop()
        try:
            return loop.run_until_complete(work())
        finally:
            loop.close()

    with ThreadPoolExecutor() as executor:
        yield lambda work: asyncio.get_running_loop().run_in_executor(
            executor, contextvars.copy_context().run, run, work
        )


async def test_generators_are_driven_from_the_loops_of_several_threads_in_turn(
    elsewhere: Callable[[Callable[[], Any]], Awaitable[Any]],
) -> None:
    with Journal() as journal:
        stream = generators.slow_finally(journal.pen)
        assert await anext(stream) == 1
        assert await elsewhere(stream.__anext__) == 2
        await stream.aclose()
        assert journal.notes == ["finally began", "finally ended"]
    with Journal() as journal:
        stream = generators.slow_finally(journal.pen)
        assert await elsewhere(stream.__anext__) == 1
        assert await anext(stream) == 2
        await elsewhere(stream.aclose)
        assert journal.notes == ["finally began", "finally ended"]
    repeating = generators.repeat()
    await anext(repeating)
    for number in range(20):
        assert await elsewhere(functools.partial(repeating.asend, number)) == number
        assert await repeating.asend(-number) == -number
    await elsewhere(repeating.aclose)


async def test_a_step_on_another_loop_can_be_cancelled(
    elsewhere: Callable[[Callable[[], Any]], Awaitable[Any]],
) -> None:
    async def cancelled_step() -> None:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.2):
                await anext(stream)

    with Journal() as journal:
        stream = generators.parking_later(journal.pen)
        assert await anext(stream) == 1
        await elsewhere(cancelled_step)
        assert journal.notes[-1] == "left"


async def test_overlapping_steps_are_refused_as_locally() -> None:
    with Journal() as journal:
        stream = generators.parking(journal.pen)
        step = start(anext(stream))
        await journal.wait_for("park")
        with pytest.raises(RuntimeError, match=r"anext\(\): asynchronous generator is already running"):
            await anext(stream)
        with pytest.raises(RuntimeError, match=r"asend\(\): asynchronous generator is already running|anext\(\)"):
            await stream.asend(1)
        with pytest.raises(RuntimeError, match=r"athrow\(\): asynchronous generator is already running"):
            await stream.athrow(ValueError())
        with pytest.raises(RuntimeError, match=r"aclose\(\): asynchronous generator is already running"):
            await stream.aclose()
        step.cancel()
        with pytest.raises(asyncio.CancelledError):
            await step


async def test_a_generator_that_yields_while_it_is_closed_has_ignored_generator_exit() -> None:
    stream = generators.stubborn()
    await anext(stream)
    with pytest.raises(RuntimeError, match="async generator ignored GeneratorExit"):
        await stream.aclose()
    assert await anext(stream) == 3
    assert await anext(stream, None) is None


async def test_what_cannot_be_pickled_is_not_sent_and_the_routine_is_closed() -> None:
    with Journal() as journal:
        stream = generators.noted(journal.pen, 3)
        await anext(stream)
        with pytest.raises(TypeError, match="cannot pickle") as caught:
            await stream.asend(sys._getframe())
        assert any("sent into routine support.generators:noted" in note for note in caught.value.__notes__)
        assert journal.notes == ["item 0", "finally"]


async def test_what_cannot_be_loaded_by_the_body_is_a_serialization_error_and_the_routine_is_closed() -> None:
    with Journal() as journal:
        stream = generators.noted(journal.pen, 3)
        await anext(stream)
        with pytest.raises(wool.SerializationError, match="broken on arrival") as caught:
            await stream.asend(generators.BrokenOnWorkers())
        assert caught.value.executed == "yes"
        assert journal.notes == ["item 0", "finally"]


async def test_an_item_that_cannot_be_pickled_ends_the_routine() -> None:
    with Journal() as journal:
        stream = generators.unpicklable(journal.pen)
        assert await anext(stream) == 1
        with pytest.raises(wool.SerializationError, match="an item of task") as caught:
            await anext(stream)
        assert caught.value.executed == "yes"
        assert journal.notes == ["finally"]
        assert await anext(stream, None) is None


async def test_an_item_that_the_caller_cannot_load_closes_the_routine_and_is_not_thrown_into_it() -> None:
    with Journal() as journal:
        stream = generators.unloadable(journal.pen)
        with pytest.raises(wool.SerializationError, match="broken on arrival") as caught:
            await anext(stream)
        assert caught.value.executed == "yes"
        assert journal.notes == ["closed by GeneratorExit"]


# ---- exceptions --------------------------------------------------------------------------------------


async def test_the_very_exception_that_was_thrown_comes_back_with_what_the_body_added() -> None:
    stream = generators.annotating()
    await anext(stream)
    lock = object()
    error = Awkward(3)
    error.lock = lock  # type: ignore[attr-defined]
    error.frame = sys._getframe()  # type: ignore[attr-defined]
    with pytest.raises(Awkward) as caught:
        await stream.athrow(error)
    assert caught.value is error
    assert error.__notes__ == ["seen by the body"]
    assert error.code == 3
    # What this side has put there is this side's.
    assert error.lock is lock  # type: ignore[attr-defined]
    assert error.frame is sys._getframe()  # type: ignore[attr-defined]
    assert wool.origin(error) is not None


async def test_what_is_raised_from_the_thrown_exception_points_to_that_very_object() -> None:
    stream = generators.raising_from_it()
    await anext(stream)
    error = ValueError("thrown")
    with pytest.raises(LookupError) as caught:
        await stream.athrow(error)
    assert caught.value.__cause__ is error
    assert caught.value.__context__ is error


@pytest.mark.parametrize("local", [True, False], ids=["local", "remote"])
async def test_what_the_caller_is_handling_is_no_context_of_what_it_throws_as_locally(local: bool) -> None:
    for routine, context in ((generators.passing_it_on, None), (generators.raising_from_it, ValueError)):
        stream = (routine.__wrapped__ if local else routine)()  # type: ignore[attr-defined]
        await anext(stream)
        error = ValueError("thrown")
        try:
            raise ZeroDivisionError("of the caller")
        except ZeroDivisionError:
            with pytest.raises((ValueError, LookupError)) as caught:
                await stream.athrow(error)
        assert error.__context__ is None
        assert type(caught.value.__context__) is (context or type(None))


async def test_a_thrown_exception_keeps_its_own_cause() -> None:
    stream = routines.count(3)
    await anext(stream)
    cause = KeyError("cause")
    error = ValueError("thrown")
    error.__cause__ = cause
    with pytest.raises(ValueError, match="thrown"):
        await stream.athrow(error)
    assert error.__cause__ is cause


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit, wool.WorkerLost, GeneratorExit])
async def test_a_thrown_exception_of_any_kind_passes_through(kind: type[BaseException]) -> None:
    stream = routines.count(3)
    await anext(stream)
    error = kind("thrown")
    with pytest.raises(kind) as caught:
        await stream.athrow(error)
    assert caught.value is error


@pytest.mark.parametrize("sent", [None, 1])
async def test_a_timeout_that_passes_at_a_yield_is_heard_there_by_the_next_step(sent: int | None) -> None:
    with Journal() as journal:
        stream = generators.timing_out(journal.pen)
        assert await anext(stream) == 1
        with pytest.raises(TimeoutError):
            await stream.asend(sent)
        assert journal.notes == ["CancelledError", "finally"]
        assert asyncio.current_task().cancelling() == 0  # type: ignore[union-attr]


async def test_a_task_beside_a_generator_that_fails_at_a_yield_fails_the_next_step() -> None:
    with Journal() as journal:
        stream = generators.failing_beside(journal.pen)
        assert await anext(stream) == 1
        with pytest.raises(ExceptionGroup) as caught:
            await anext(stream)
        assert repr(caught.value.exceptions) == "(LookupError('beside'),)"
        assert journal.notes == []


async def test_a_timeout_that_passes_at_a_yield_does_not_cancel_what_closes_the_generator() -> None:
    with Journal() as journal:
        stream = generators.timing_out(journal.pen)
        assert await anext(stream) == 1
        await stream.aclose()
        assert journal.notes == ["GeneratorExit", "finally"]
        stream = generators.timing_out(journal.pen)
        assert await anext(stream) == 1
        with pytest.raises(KeyError):
            await stream.athrow(KeyError("thrown"))
        assert journal.notes[2:] == ["KeyError", "finally"]


async def test_a_generator_as_a_context_manager_behaves_as_locally() -> None:
    managed = contextlib.asynccontextmanager(generators.manager)
    with Journal() as journal:
        async with managed(journal.pen, suppress=True) as value:
            assert value == "value"
            raise ValueError("suppressed")
        assert journal.notes == ["enter", "ValueError", "exit"]
    for error in (ValueError("a"), StopAsyncIteration("b"), StopIteration("c"), RuntimeError("d"), Awkward(1)):
        with Journal() as journal:
            with pytest.raises(type(error)) as caught:
                async with managed(journal.pen, suppress=False):
                    raise error
            assert caught.value is error
            assert journal.notes == ["enter", type(error).__name__, "exit"]


# ---- the end -----------------------------------------------------------------------------------------


async def test_aclose_returns_when_the_remote_finally_has_run() -> None:
    with Journal() as journal:
        stream = generators.slow_finally(journal.pen)
        await anext(stream)
        await stream.aclose()
        assert journal.notes == ["finally began", "finally ended"]
        await stream.aclose()
        assert await anext(stream, None) is None


async def test_a_generator_that_is_collected_is_closed_on_its_worker() -> None:
    with Journal() as journal:
        stream = generators.slow_finally(journal.pen)
        await anext(stream)
        del stream
        gc.collect()
        await journal.wait_for("finally ended")


async def test_a_loop_that_shuts_down_closes_what_is_open() -> None:
    with Journal() as journal:
        pen = journal.pen

        def other_loop() -> None:
            async def main() -> None:
                keep.append(generators.slow_finally(pen))
                await anext(keep[0])

            asyncio.run(main())

        keep: list[AsyncIterator[Any]] = []
        # In this context, and so in this pool.
        with ThreadPoolExecutor(1) as threads:
            await asyncio.get_running_loop().run_in_executor(threads, contextvars.copy_context().run, other_loop)
        assert journal.notes == ["finally began", "finally ended"]


async def test_a_generator_that_outlives_its_pool_ends_without_hanging() -> None:
    async with wool.WorkerPool(size=1):
        idle, closed, collected = routines.count(3), routines.count(3), routines.count(3)
        for stream in (idle, closed, collected):
            await anext(stream)
    async with asyncio.timeout(5):
        with pytest.raises((wool.TaskInterrupted, wool.WorkerLost)):
            await anext(idle)
        with contextlib.suppress(wool.WoolError):
            await closed.aclose()
        with pytest.raises(StopAsyncIteration):
            await anext(closed)
    del collected
    gc.collect()
    others = asyncio.all_tasks() - {asyncio.current_task()}
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda loop, context: None)
    try:
        await asyncio.sleep(0)
        others = asyncio.all_tasks() - others - {asyncio.current_task()}
        if others:
            _, late = await asyncio.wait(others, timeout=5)
            assert not late
    finally:
        loop.set_exception_handler(None)


async def test_a_script_may_leave_generators_open_when_its_pool_closes(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        textwrap.dedent("""
            import asyncio, wool
            @wool.routine
            async def count():
                n = 0
                while True:
                    yield n
                    n += 1
            keep = []
            async def main():
                async with wool.WorkerPool(size=1):
                    for _ in range(3):
                        keep.append(count())
                        await anext(keep[-1])
                print("closed")
            asyncio.run(main())
            print("ended")
        """)
    )
    env = {**os.environ, "PYTHONPATH": str(Path(wool.__file__).parents[1])}
    process = await asyncio.create_subprocess_exec(
        sys.executable, str(script), env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    try:
        async with asyncio.timeout(20):
            out, err = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert (out, err) == (b"closed\nended\n", b"")


async def test_closed_and_collected_generators_leave_nothing_on_the_workers(pool: wool.WorkerPool) -> None:  # noqa: F811
    before = await idle_workers(pool)
    streams = [routines.count(3) for _ in range(200)]
    await asyncio.gather(*(anext(stream) for stream in streams))
    await asyncio.gather(*(stream.aclose() for stream in streams[:100]))
    del streams
    gc.collect()
    async with asyncio.timeout(10):
        while not (await idle_workers(pool)) <= before:
            await asyncio.sleep(0.01)
