"""Task events: who hears of what, in which order, and that nobody who listens can harm a task."""

from __future__ import annotations

import asyncio
import gc
import threading
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import wool
from support.memory_pool import memory_pool
from support.one_loop import QUICK, until
from support.story import LETTERS, Listener, check, listening
from wool import events
from wool.events import BITS, OF_WORKERS, PROCESS, TYPES
from wool.limits import Limits
from wool.protocol import frames


@wool.routine
async def waits(turns: int) -> int:
    for _ in range(turns):
        await asyncio.sleep(0)
    return turns


@wool.routine
async def fails() -> None:
    raise LookupError("on purpose")


@wool.routine
async def hangs() -> None:
    await asyncio.Event().wait()


@wool.routine
async def items(stop: int, fails: bool = False) -> AsyncIterator[int]:
    for number in range(stop):
        await asyncio.sleep(0)
        yield number
    if fails:
        raise LookupError("on purpose")


@wool.routine
async def spins(seconds: float, pause: float) -> float:
    began = time.perf_counter()
    end = began + seconds
    while time.perf_counter() < end:
        pass
    await asyncio.sleep(pause)
    return time.perf_counter() - began


# ---- the story of a task -----------------------------------------------------------------------------


async def test_a_call_is_told_from_its_creation_to_its_end() -> None:
    with listening(remote=True) as listener:
        async with memory_pool("one"):
            assert await waits(2) == 2
        assert listener.types("waits") == "csSESESEC"
        story = listener.of("waits")
        assert story[-1].outcome == "success" and story[-1].exception is None
        assert len({event.task.key for event in story}) == 1
        scheduled, started = listener.told[1][2], listener.told[2][2]
        assert scheduled == started and scheduled is not None and scheduled.uid == "one"


async def test_a_failure_is_told_with_the_exception() -> None:
    with listening("task-completed") as listener:
        async with memory_pool():
            with pytest.raises(LookupError):
                await fails()
        (event,) = listener.of("fails")
        assert event.outcome == "failure" and event.exception is not None
        assert (event.exception.type, event.exception.message) == ("builtins.LookupError", "on purpose")


async def test_a_cancellation_is_told_once() -> None:
    with listening(remote=True) as listener:
        async with memory_pool() as made:
            call = asyncio.create_task(hangs())
            await made.settle(200)
            call.cancel()
            with pytest.raises(asyncio.CancelledError):
                await call
        assert listener.types("hangs") == "csSESEC"
        assert listener.of("hangs")[-1].outcome == "cancelled"


async def test_a_loss_is_told_once() -> None:
    with listening(remote=True) as listener:
        async with memory_pool("one") as made:
            call = asyncio.create_task(hangs())
            await made.settle(200)
            made.workers["one"].sessions[0].session.abort("cut")
            with pytest.raises(wool.WorkerLost):
                await call
        letters = listener.types("hangs")
        assert letters.startswith("csS") and letters.count("C") == 1
        assert listener.of("hangs")[-1].outcome == "lost"


async def test_a_call_that_nobody_takes_was_created_and_has_failed() -> None:
    with listening() as listener:
        async with memory_pool(limits=Limits(dispatch_timeout_seconds=0.05)) as made:
            for uid in list(made.workers):
                made.drop(uid)
            await made.settle()
            with wool.RuntimeContext(dispatch_timeout=0.05), pytest.raises(wool.NoWorkersAvailable):
                await waits(0)
        assert listener.types("waits") == "cC"
        assert listener.of("waits")[-1].outcome == "failure"


async def test_each_step_of_a_generator_is_told_with_kind_and_number() -> None:
    with listening(remote=True) as listener:
        async with memory_pool():
            stream: Any = items(5)
            await anext(stream)
            await stream.asend("x")
            with pytest.raises(KeyError):
                await stream.athrow(KeyError())
        assert listener.types("items") == "cisbSESEdibSESEdibSEdC"
        told = [(event.kind, event.step) for event in listener.of("items") if LETTERS[event.type] == "b"]
        assert told == [("next", 0), ("send", 1), ("throw", 2)]


async def test_closing_a_generator_is_a_success() -> None:
    with listening("task-completed", "task-iteration-initiated") as listener:
        async with memory_pool():
            stream: Any = items(5)
            await anext(stream)
            await stream.aclose()
        assert [event.kind for event in listener.of("items")] == ["next", "close", None]
        assert listener.of("items")[-1].outcome == "success"


async def test_the_stretches_of_a_body_sum_up_to_what_it_held_the_loop() -> None:
    with listening("task-started", "task-stopped", remote=True) as listener:
        async with memory_pool():
            whole = await spins(0.05, 0.2)
        assert listener.types("spins") == "SESE"
        times = [timestamp for _, timestamp, _ in listener.told]
        held = (times[1] - times[0] + times[3] - times[2]) / 1e9
        assert 0.05 <= held <= whole - 0.2 + 0.05


programs = st.lists(
    st.one_of(
        st.tuples(st.just("waits"), st.integers(0, 3)),
        st.tuples(st.just("fails")),
        st.tuples(st.just("cancelled"), st.integers(1, 30)),
        st.tuples(st.just("items"), st.integers(0, 3), st.booleans()),
        st.tuples(st.just("left"), st.integers(1, 3), st.sampled_from(["close", "throw", "cancel"])),
        st.tuples(st.just("lost"), st.integers(0, 40)),
    ),
    min_size=1,
    max_size=5,
)


@settings(max_examples=60, suppress_health_check=[HealthCheck.too_slow])
@given(programs)
async def test_whatever_happens_to_calls_their_stories_follow_the_grammar(program: list[tuple[Any, ...]]) -> None:
    with listening(remote=True) as listener:
        async with memory_pool() as made:
            calls = [asyncio.create_task(perform(made, *step)) for step in program]
            await asyncio.gather(*calls)
        assert wool.TaskEvent.flush(10)
        stories = check(listener.told)
        assert len(stories) == len([step for step in program if step[0] != "lost"])


async def perform(made: Any, kind: str, *arguments: Any) -> None:
    try:
        if kind == "waits":
            await waits(*arguments)
        elif kind == "fails":
            await fails()
        elif kind == "cancelled":
            call = asyncio.create_task(hangs())
            await made.settle(*arguments)
            call.cancel()
            await call
        elif kind == "items":
            _ = [item async for item in items(*arguments)]
        elif kind == "left":
            await leave(*arguments)
        else:
            await made.settle(*arguments)
            for worker in made.workers.values():
                for session in worker.sessions:
                    session.session.abort("cut")
    except (LookupError, asyncio.CancelledError, wool.WorkerLost, wool.NoWorkersAvailable):
        return


async def leave(after: int, how: str) -> None:
    stream: Any = items(5)
    for _ in range(after):
        await anext(stream)
    if how == "throw":
        await stream.athrow(LookupError())
    elif how == "cancel":
        step = asyncio.ensure_future(anext(stream))
        await asyncio.sleep(0)
        step.cancel()
        await step
    await stream.aclose()


# ---- who hears of what -------------------------------------------------------------------------------


async def test_a_handler_hears_of_the_types_that_it_has_named() -> None:
    with listening("task-created", "task-completed") as listener:
        async with memory_pool():
            await waits(1)
        assert listener.types("waits") == "cC"


async def test_without_a_handler_nothing_is_made_and_nothing_is_asked_of_workers() -> None:
    said: list[type] = []

    class Witness:
        def said(self, stream: Any, frame: frames.Frame) -> None:
            said.append(type(frame))

        def __getattr__(self, name: str) -> Any:
            return lambda *arguments: None

    async with memory_pool("one") as made:
        made.proxy._observer = Witness()  # type: ignore[assignment]
        await waits(3)
        assert made.workers["one"].sessions[0].watched == 0
        gc.collect()
        kept = [obj for obj in gc.get_objects() if type(obj) in (events.CallEvents, wool.TaskEvent)]
        assert not kept
    assert frames.Offer in said and frames.Watch not in said and frames.Report not in said


async def test_which_types_are_wanted_travels_with_the_session_and_when_it_changes() -> None:
    async with memory_pool("one") as made:
        await waits(0)
        (session,) = made.workers["one"].sessions
        with listening("task-started", "task-completed", remote=True) as listener:
            await until(lambda: session.watched == BITS["task-started"])
            await waits(0)
            assert listener.types("waits") == "SC"
        await until(lambda: session.watched == 0)
    with listening("task-iteration-started", remote=True):
        async with memory_pool("one") as made:
            await waits(0)
            (session,) = made.workers["one"].sessions
            assert session.watched == BITS["task-iteration-started"]


async def test_what_only_a_caller_knows_is_not_asked_of_workers() -> None:
    with listening("task-created", "task-scheduled", "task-completed", remote=True):
        assert PROCESS.remote == 0
    assert sum(BITS[type] for type in TYPES if LETTERS[type] in "SEb") == OF_WORKERS


async def test_a_worker_process_leaves_remote_handlers_to_its_callers(monkeypatch: pytest.MonkeyPatch) -> None:
    worker = events.ProcessEvents()
    told = Listener()
    worker.add(events._Registered(told, BITS["task-created"] | OF_WORKERS, remote=True, limits=Limits()))
    assert worker.mask and worker.remote == OF_WORKERS
    worker.be_worker()
    assert not worker.mask and not worker.remote
    task = wool.Task(key=bytes(16), routine="m:f", kind="coroutine", caller="c")
    worker.emit(wool.TaskEvent(type="task-created", task=task), 1)
    worker.emit_remote(wool.TaskEvent(type="task-started", task=task), 1, None, 0)
    assert worker.flush(1) and not told.told


async def test_what_was_left_out_on_the_way_is_counted() -> None:
    before = wool.TaskEvent.dropped()
    with listening("task-started", "task-stopped", remote=True) as listener:
        async with memory_pool("one", limits=Limits(**{**QUICK_NUMBERS, "task_events": 1})):
            await waits(200)
        heard = len(listener.of("waits"))
    missed = wool.TaskEvent.dropped() - before
    # 201 stretches; what is left out after the last report goes with the next one, of whatever task.
    assert 401 <= heard + missed <= 402 and heard >= 1 and missed >= 100


QUICK_NUMBERS = {name: getattr(QUICK, name) for name in ("cancel_grace_seconds", "close_seconds", "stop_seconds")}


# ---- handlers ----------------------------------------------------------------------------------------


def emit(number: int = 1) -> None:
    task = wool.Task(key=bytes(16), routine="m:f", kind="coroutine", caller="c")
    for place in range(number):
        PROCESS.emit(wool.TaskEvent(type="task-created", task=task), place)


def test_the_decorated_function_is_itself_and_hears_in_order_in_a_thread_that_ends() -> None:
    told: list[tuple[int, int]] = []

    @wool.TaskEvent.handler("task-created")
    def hear(event: wool.TaskEvent, timestamp: int, context: object = None) -> None:
        told.append((timestamp, threading.get_ident()))

    try:
        emit(100)
        assert wool.TaskEvent.flush(10)
        assert [timestamp for timestamp, _ in told] == list(range(100))
        assert threading.get_ident() not in {thread for _, thread in told}
        hear(wool.TaskEvent(type="task-created", task=None), 5)  # type: ignore[arg-type]
    finally:
        wool.TaskEvent.remove_handler(hear)


def test_an_async_handler_is_awaited_on_a_loop_of_its_own() -> None:
    loops: list[asyncio.AbstractEventLoop] = []

    @wool.TaskEvent.handler("task-created")
    async def hear(event: wool.TaskEvent, timestamp: int, context: object = None) -> None:
        await asyncio.sleep(0)
        loops.append(asyncio.get_running_loop())

    emit(3)
    assert wool.TaskEvent.flush(10)
    wool.TaskEvent.remove_handler(hear)
    assert len(loops) == 3 and len(set(loops)) == 1


@pytest.mark.parametrize("error", [LookupError("bad"), SystemExit(3), KeyboardInterrupt()])
def test_what_a_handler_raises_is_logged_and_it_goes_on(error: BaseException, caplog: pytest.LogCaptureFixture) -> None:
    told: list[int] = []

    @wool.TaskEvent.handler("task-created")
    def raising(event: wool.TaskEvent, timestamp: int, context: object = None) -> None:
        told.append(timestamp)
        raise error

    emit(2)
    assert wool.TaskEvent.flush(10)
    wool.TaskEvent.remove_handler(raising)
    assert told == [0, 1]
    assert [record.name for record in caplog.records] == ["wool.events"] * 2
    assert "raising of task events failed at task-created" in caplog.text


def test_a_handler_that_raises_at_each_event_is_told_of_once_and_then_counted_at_intervals(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 100.0
    monkeypatch.setattr(events.time, "monotonic", lambda: now)  # type: ignore[attr-defined]  # pyright: ignore[reportPrivateImportUsage]

    @wool.TaskEvent.handler("task-created")
    def raising(event: wool.TaskEvent, timestamp: int, context: object = None) -> None:
        raise LookupError(timestamp)

    def said() -> list[tuple[str, bool]]:
        records, caplog.records[:] = list(caplog.records), []
        return [(record.getMessage().partition("raising ")[2], record.exc_info is not None) for record in records]

    name = "of task events failed"
    emit(500)
    assert wool.TaskEvent.flush(10)
    assert said() == [(f"{name} at task-created", True)]
    now += Limits().refusal_seconds
    emit(500)
    assert wool.TaskEvent.flush(10)
    more = f"{name} 499 more times, the last: LookupError at task-created"
    assert said() == [(more, False), (f"{name} at task-created", True)]
    # What was only counted is said when nothing more can come.
    wool.TaskEvent.remove_handler(raising)
    assert said() == [(more, False)]


def test_a_handler_cannot_wait_for_itself_and_is_told_so() -> None:
    told: list[BaseException] = []

    @wool.TaskEvent.handler("task-created")
    def waiting(event: wool.TaskEvent, timestamp: int, context: object = None) -> None:
        with pytest.raises(RuntimeError, match="would wait for itself") as caught:
            wool.TaskEvent.flush()
        told.append(caught.value)

    emit()
    assert wool.TaskEvent.flush(10)
    wool.TaskEvent.remove_handler(waiting)
    assert len(told) == 1


async def test_a_handler_that_hangs_delays_nobody_and_what_it_misses_is_counted_and_told(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(events, "DEFAULT_LIMITS", Limits(task_events=5))
    release = threading.Event()
    heard: list[int] = []

    @wool.TaskEvent.handler("task-created", "task-completed")
    def hanging(event: wool.TaskEvent, timestamp: int, context: object = None) -> None:
        release.wait(30)
        heard.append(timestamp)

    before = wool.TaskEvent.dropped()
    with listening_beside() as other:
        async with memory_pool():
            for _ in range(10):
                await waits(0)
        await until(lambda: len(other.told) == 20)
        assert not wool.TaskEvent.flush(0.01)
        assert 13 <= wool.TaskEvent.dropped() - before <= 15
        release.set()
        assert wool.TaskEvent.flush(10)
        assert len(heard) + wool.TaskEvent.dropped() - before == 20
        await until(lambda: "is too slow" in caplog.text)
    wool.TaskEvent.remove_handler(hanging)
    assert 13 <= wool.TaskEvent.dropped() - before <= 15


def test_a_handler_that_floods_hears_no_more_than_its_queue_holds_and_the_rest_is_counted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(events, "DEFAULT_LIMITS", Limits(task_events=50))
    heard: list[int] = []

    @wool.TaskEvent.handler("task-created")
    def flooding(event: wool.TaskEvent, timestamp: int, context: object = None) -> None:
        heard.append(timestamp)
        if len(heard) <= 1000:
            emit(3)  # each makes three more

    before = wool.TaskEvent.dropped()
    emit(1)
    assert wool.TaskEvent.flush(30)
    wool.TaskEvent.remove_handler(flooding)
    assert 1000 <= len(heard) <= 1050
    assert len(heard) + wool.TaskEvent.dropped() - before == 1 + 3 * 1000


def listening_beside() -> Any:
    """A listener whose queue is as short, and that keeps up."""
    from contextlib import contextmanager

    @contextmanager
    def listen() -> Any:
        listener = Listener()
        PROCESS.add(
            events._Registered(
                listener, BITS["task-created"] | BITS["task-completed"], remote=False, limits=Limits(task_events=1000)
            )
        )
        try:
            yield listener
        finally:
            wool.TaskEvent.remove_handler(listener)

    return listen()


def test_a_removed_handler_hears_no_more_not_even_of_what_waits() -> None:
    release, heard = threading.Event(), []

    @wool.TaskEvent.handler("task-created")
    @wool.TaskEvent.handler("task-created")
    def hear(event: wool.TaskEvent, timestamp: int, context: object = None) -> None:
        release.wait(30)
        heard.append(timestamp)

    emit(5)
    wool.TaskEvent.remove_handler(hear)
    emit(5)
    release.set()
    assert wool.TaskEvent.flush(10)
    assert len(heard) <= 2 and not PROCESS.mask
    with pytest.raises(ValueError, match="is no handler of task events"):
        wool.TaskEvent.remove_handler(hear)


def too_few(event: object) -> None: ...


def keyword(event: object, timestamp: int, context: object = None, *, more: int) -> None: ...


async def streaming(event: object, timestamp: int, context: object = None) -> Any:
    yield event


def yielding(event: object, timestamp: int, context: object = None) -> Any:
    yield event


@pytest.mark.parametrize(
    ("types", "function", "error", "words"),
    [
        (("task-craeted",), too_few, ValueError, "unknown task event type 'task-craeted': there are task-created, "),
        ((), too_few, ValueError, "name at least one type"),
        (("task-created",), 3, TypeError, "is a function, got int: 3"),
        (("task-created",), too_few, TypeError, r"too_few cannot be .*called as function\(event, timestamp, context\)"),
        (("task-created",), keyword, TypeError, "missing a required .*'more'"),
        (("task-created",), streaming, TypeError, "streaming cannot be .*: it is a generator function"),
        (("task-created",), yielding, TypeError, "yielding cannot be .*: it is a generator function"),
    ],
)
def test_what_cannot_be_a_handler_is_told_when_it_is_registered(
    types: Any, function: Any, error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        wool.TaskEvent.handler(*types)(function)
    assert not PROCESS.mask
