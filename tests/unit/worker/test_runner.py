"""Bodies run as they would locally, each step is answered once, and an abandoned body ends."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator, Iterator
from typing import NoReturn

import pytest

from support import bodies
from support.one_loop import Cluster, RemoteGenerator, cluster, until
from wool.errors import WorkerLost
from wool.protocol.frames import ResultKind, StepKind
from wool.serialization import dumps
from wool.task import current_task
from wool.worker import runner


@pytest.fixture(autouse=True)
def clean() -> Iterator[None]:
    bodies.reset()
    yield
    bodies.reset()


def running(made: Cluster) -> int:
    return made.workers["a"].runner.running


async def cut(made: Cluster) -> None:
    """Break the caller's session."""
    made.workers["a"].sessions[0].session.abort("cut")
    await made.settle(5)


# ---- what a body sees --------------------------------------------------------------------------------


async def describe() -> tuple[str, str, str, bytes]:
    task = current_task()
    assert task is not None
    return task.routine, task.kind, task.caller, task.parent


async def test_a_body_sees_its_task() -> None:
    async with cluster("a") as made:
        assert await made.call(describe) == (f"{__name__}:describe", "coroutine", "the caller", b"")
        assert current_task() is None


async def same_task() -> AsyncGenerator[bool, None]:
    mine = asyncio.current_task()
    while True:
        yield asyncio.current_task() is mine


async def test_all_steps_of_a_generator_run_in_one_asyncio_task() -> None:
    async with cluster("a") as made:
        stream = made.stream(same_task)
        assert [await stream.next() for _ in range(3)] == [True, True, True]
        await stream.close()


async def with_timeout() -> str:
    try:
        async with asyncio.timeout(0.01):
            await asyncio.sleep(60)
    except TimeoutError:
        return "timed out"
    return "not"


async def test_a_timeout_in_a_body_is_the_bodys_own() -> None:
    async with cluster("a") as made:
        assert await made.call(with_timeout) == "timed out"


# ---- what a body may raise ---------------------------------------------------------------------------


async def leave(how: str) -> None:
    raise {"exit": SystemExit(3), "interrupt": KeyboardInterrupt(), "generator": GeneratorExit()}[how]


@pytest.mark.parametrize("how", ["exit", "interrupt", "generator"])
async def test_what_would_end_a_process_ends_only_the_task(how: str) -> None:
    async with cluster("a") as made:
        answer = await made.new_call(leave, how).first()
        assert answer.kind is ResultKind.RAISE
        assert await made.call(bodies.echo, 1) == 1
        assert running(made) == 0


async def a_lock() -> object:
    return threading.Lock()


async def test_a_result_that_does_not_travel_is_told() -> None:
    async with cluster("a") as made:
        assert (await made.new_call(a_lock).first()).kind is ResultKind.UNSENDABLE
        assert running(made) == 0


async def yields_a_lock() -> AsyncGenerator[object, None]:
    try:
        yield await a_lock()
    finally:
        bodies.story.append("finally")


async def test_an_item_that_does_not_travel_ends_the_generator_and_closes_it() -> None:
    async with cluster("a") as made:
        stream = made.stream(yields_a_lock)
        assert (await stream.step()).kind is ResultKind.UNSENDABLE
        await until(lambda: not running(made))
        assert bodies.story == ["finally"]


class Unloadable:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (_refuse, ("broken",))


def _refuse(message: str) -> None:
    raise LookupError(message)


async def test_arguments_that_cannot_be_loaded_mean_that_the_body_never_begins() -> None:
    async with cluster("a") as made:
        assert (await made.new_call(bodies.echo, Unloadable()).first()).kind is ResultKind.UNLOADABLE
        assert not bodies.begun
        assert running(made) == 0


async def test_what_was_sent_in_and_cannot_be_loaded_ends_the_generator_and_closes_it() -> None:
    async with cluster("a") as made:
        stream = made.stream(bodies.count, 3)
        await stream.next()
        answer = await stream.step(StepKind.SEND, dumps(Unloadable()))
        assert answer.kind in (ResultKind.RAISE, ResultKind.UNSENDABLE)
        await until(lambda: not running(made))
        assert bodies.story == ["count finally"]


# ---- abandoned ---------------------------------------------------------------------------------------


async def suspended(stream: RemoteGenerator) -> asyncio.Task[object]:
    """Begin the first step; leave it waiting."""
    task: asyncio.Task[object] = asyncio.ensure_future(stream.next())
    await until(lambda: bodies.story)
    return task


async def test_an_abandoned_body_is_cancelled() -> None:
    async with cluster("a") as made:
        call = made.spawn(bodies.wait_for, "gate")
        await until(lambda: bodies.story)
        await cut(made)
        await until(lambda: not running(made))
        assert bodies.story[-1] == "gate finally"
        await asyncio.wait([call])


async def test_an_abandoned_generator_is_closed_where_it_stands() -> None:
    async with cluster("a") as made:
        stream = made.stream(bodies.count, 3)
        await stream.next()
        await cut(made)
        await until(lambda: not running(made))
        assert bodies.story == ["count finally"]


async def test_an_abandoned_generator_that_answers_its_cancellation_with_an_item_is_closed_all_the_same() -> None:
    async with cluster("a") as made:
        step = await suspended(made.stream(bodies.swallow_and_yield, "gate"))
        await cut(made)
        await until(lambda: not running(made))
        assert bodies.story == ["gate waits", "gate swallowed", "gate finally"]
        await asyncio.wait([step])


async def never_closes() -> AsyncGenerator[int, None]:
    bodies.story.append("begun")
    for number in range(1_000_000):
        try:
            yield number
        except GeneratorExit:
            bodies.story.append("ignored")


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
async def test_an_abandoned_generator_that_ignores_its_end_is_given_up() -> None:
    async with cluster("a") as made:
        stream = made.stream(never_closes)
        await stream.next()
        await cut(made)
        await until(lambda: not running(made))
        assert bodies.story.count("ignored") <= 4


async def test_a_body_that_was_abandoned_before_its_first_step_never_begins() -> None:
    async with cluster("a") as made:
        worker = made.workers["a"]
        assert await made.call(bodies.echo, 0) == 0
        bodies.begun.clear()
        worker.to_routines.hold()
        call = made.spawn(bodies.echo, 1)
        await until(lambda: worker.service.started == 2)
        await cut(made)
        worker.to_routines.release()
        await until(lambda: not running(made))
        assert not bodies.begun
        await asyncio.wait([call])


async def test_a_step_and_the_loss_of_the_session_together_close_the_generator() -> None:
    async with cluster("a") as made:
        worker = made.workers["a"]
        stream = made.stream(bodies.count, 3)
        await stream.next()
        worker.to_routines.hold()
        step = asyncio.ensure_future(stream.next())
        await until(lambda: len(worker.to_routines))
        await cut(made)
        worker.to_routines.release()
        await until(lambda: not running(made))
        assert bodies.story == ["count finally"]
        await asyncio.wait([step])


# ---- what cannot be answered ---------------------------------------------------------------------------


async def fail() -> None:
    raise ValueError("of the body")


async def test_a_task_whose_end_cannot_be_told_is_lost_and_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_memory(*args: object, **kwargs: object) -> NoReturn:
        raise MemoryError

    monkeypatch.setattr(runner, "capture", no_memory)
    async with cluster("a") as made:
        errors: list[dict[str, object]] = []
        made.loop.set_exception_handler(lambda loop, context: errors.append(context))
        with pytest.raises(WorkerLost):
            await asyncio.wait_for(made.call(fail), 5)
        assert await made.call(describe), "the worker is used again"
        await until(lambda: errors or running(made) == 0)
