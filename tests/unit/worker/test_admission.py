"""A worker's admission hook says whether it takes a task: a no sends the task elsewhere before anything has begun."""

from __future__ import annotations

import asyncio
import contextvars
import logging
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import wool
from support import bodies
from support.one_loop import Cluster, LoopMailbox, cluster, until
from wool.limits import MOST_REASON_CHARACTERS
from wool.worker.admission import TaskOffer, let_in
from wool.worker.examiner import (
    AdmissionHook,
    Examiner,
    check_admission,
    dump_admission,
    load_admission,
    named_admission,
)


@pytest.fixture(autouse=True)
def clean() -> Iterator[None]:
    bodies.reset()
    told.clear()
    yield
    bodies.reset()


told: list[TaskOffer] = []


def takes_all(offer: TaskOffer) -> bool:
    told.append(offer)
    return True


def takes_none(offer: TaskOffer) -> str:
    return "no GPU is free"


def awaiting(made: Cluster, uid: str) -> int:
    admission = made.workers[uid].service.admission
    assert admission is not None
    return admission.waiting


async def test_a_task_that_is_not_admitted_goes_elsewhere_and_begins_once() -> None:
    async with cluster() as made:
        await made.add("no", admission=takes_none)
        await made.add("yes", admission=takes_all)
        calls = [made.spawn(bodies.wait_for, "gate") for _ in range(10)]
        await until(lambda: bodies.story.count("gate begun") == 10)
        assert made.workers["no"].runner.running == 0
        bodies.gates["gate"].set()
        await asyncio.gather(*calls)
        assert len(told) == 10


async def test_where_nobody_admits_a_task_its_caller_hears_why_of_each_worker_and_nothing_has_begun() -> None:
    async with cluster() as made:
        await made.add("a", admission=takes_none)
        await made.add("b", admission=lambda offer: False)
        with pytest.raises(wool.NoWorkersAvailable) as raised:
            await made.call(bodies.echo, 1)
        assert "no GPU is free" in str(raised.value)
        assert "the admission hook said no" in str(raised.value)
        assert not bodies.story


async def test_a_hook_is_told_what_stands_outside_of_a_task() -> None:
    async with cluster() as made:
        await made.add("a", admission=takes_all)
        await made.call(bodies.echo, "x" * 500)
    (offer,) = told
    assert offer.routine == "support.bodies:echo"
    assert offer.caller == "the caller"
    assert 500 < offer.payload_bytes < 1500
    assert (offer.in_flight, len(bytes.fromhex(offer.task))) == (0, 16)


async def test_a_hook_is_told_how_many_tasks_are_under_way() -> None:
    async with cluster() as made:
        await made.add("a", admission=lambda offer: offer.in_flight < 2)
        held = [made.spawn(bodies.wait_for, "gate") for _ in range(2)]
        await until(lambda: len(bodies.story) == 2)
        with pytest.raises(wool.NoWorkersAvailable, match="said no"):
            await made.call(bodies.echo, 1)
        bodies.gates["gate"].set()
        await asyncio.gather(*held)
        assert await made.call(bodies.echo, 1) == 1


async def test_of_many_tasks_that_are_offered_at_once_each_is_told_how_many_come_before_it() -> None:
    async with cluster() as made:
        await made.add("a", admission=lambda offer: offer.in_flight < 3)
        calls = [made.spawn(bodies.wait_for, "gate") for _ in range(10)]
        await until(lambda: sum(call.done() for call in calls) == 7)
        await until(lambda: bodies.story.count("gate begun") == 3)
        bodies.gates["gate"].set()
        ends = await asyncio.gather(*calls, return_exceptions=True)
        assert sorted(type(end).__name__ for end in ends) == ["NoWorkersAvailable"] * 7 + ["str"] * 3
        assert await made.call(bodies.echo, 1) == 1


async def test_an_async_hook_may_wait_and_others_are_served_meanwhile() -> None:
    opened = asyncio.Event()

    async def slow(offer: TaskOffer) -> bool:
        await opened.wait()
        return True

    async with cluster() as made:
        await made.add("slow", admission=slow)
        waits = made.spawn(bodies.echo, 1)
        await until(lambda: awaiting(made, "slow") == 1)
        await made.add("quick")
        assert await asyncio.wait_for(waits, 5) == 1, "after its patience it went elsewhere"
        await until(lambda: awaiting(made, "slow") == 0)
        opened.set()


async def test_where_no_hook_ever_answers_a_call_ends_as_a_dispatch_timeout_that_says_so() -> None:
    async def hangs(offer: TaskOffer) -> bool:
        await asyncio.get_running_loop().create_future()
        return True

    async with cluster() as made:
        await made.add("a", admission=hangs)
        with pytest.raises(wool.DispatchTimeout, match="a: TransientRpcError: it has not answered the offer"):
            await made.call(bodies.echo, 1, dispatch_timeout=0.1)
        await until(lambda: awaiting(made, "a") == 0)


async def test_a_hook_whose_task_has_gone_is_cancelled() -> None:
    ends: list[str] = []

    async def slow(offer: TaskOffer) -> bool:
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            ends.append("cancelled")
        return True

    async with cluster() as made:
        await made.add("a", admission=slow)
        waits = made.spawn(bodies.echo, 1)
        await until(lambda: awaiting(made, "a") == 1)
        waits.cancel()
        await until(lambda: bool(ends))
        assert awaiting(made, "a") == 0
        with pytest.raises(asyncio.CancelledError):
            await waits
    assert not bodies.story


async def test_a_hook_whose_task_has_gone_at_once_never_begins_and_nothing_is_left() -> None:
    story: list[str] = []

    async def hook(offer: TaskOffer) -> bool:
        story.append("begun")
        return True

    examiner = Examiner(hook, loop=asyncio.get_running_loop(), io=LoopMailbox(asyncio.get_running_loop()))
    served: Any = object()
    examiner.examine(served, TaskOffer(task="", caller="", routine=None, payload_bytes=0, in_flight=0))
    examiner.forget(served)
    await until(lambda: not examiner._tasks)
    assert not story


async def test_hooks_that_still_think_when_the_worker_ends_have_ended_before_it() -> None:
    ends: list[str] = []

    async def hook(offer: TaskOffer) -> bool:
        try:
            return await asyncio.get_running_loop().create_future()
        finally:
            ends.append("ended")

    examiner = Examiner(hook, loop=asyncio.get_running_loop(), io=LoopMailbox(asyncio.get_running_loop()))
    examiner.admission(LoopMailbox(asyncio.get_running_loop()), onward=let_in, complain=print)
    served: Any = object()
    examiner.examine(served, TaskOffer(task="", caller="", routine=None, payload_bytes=0, in_flight=0))
    await asyncio.sleep(0)
    await examiner.close(5.0)
    assert ends == ["ended"]
    await until(lambda: not examiner._tasks)


def raises(error: BaseException) -> Callable[[TaskOffer], Any]:
    def hook(offer: TaskOffer) -> Any:
        raise error

    return hook


def raises_later(error: BaseException) -> Callable[[TaskOffer], Any]:
    async def hook(offer: TaskOffer) -> Any:
        await asyncio.sleep(0)
        raise error

    return hook


class Wordless(Exception):
    def __str__(self) -> str:
        raise SystemExit("no words")


FAULTS = (
    ValueError("the key is 123"),
    Wordless(),
    SystemExit(3),
    KeyboardInterrupt(),
    asyncio.CancelledError(),
    GeneratorExit(),
)


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: type(fault).__name__)
@pytest.mark.parametrize("kind", [raises, raises_later])
async def test_a_hook_that_fails_admits_nobody_and_the_worker_lives_and_says_so(
    kind: Callable[[BaseException], AdmissionHook], fault: BaseException, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, "wool.worker")
    async with cluster() as made:
        await made.add("broken", admission=kind(fault))
        with pytest.raises(wool.NoWorkersAvailable, match=f"admission hook failed: {type(fault).__name__}"):
            await made.call(bodies.echo, 1)
        await made.add("well")
        assert await made.call(bodies.echo, 2) == 2
    assert "the admission hook failed, and a task was rejected" in caplog.text


async def test_a_hook_that_returns_neither_true_nor_false_nor_a_reason_has_failed(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.WARNING, "wool.worker")
    forgetful: Any = lambda offer: None  # noqa: E731
    async with cluster() as made:
        await made.add("a", admission=forgetful)
        with pytest.raises(wool.NoWorkersAvailable, match="admission hook failed: TypeError"):
            await made.call(bodies.echo, 1)
    assert "it returned NoneType, not True, False or a reason" in caplog.text


async def test_what_a_hook_gives_as_a_reason_cannot_forge_lines() -> None:
    async with cluster() as made:
        await made.add("a", admission=lambda offer: "no\nwool: all is well\x1b[2J" + "x" * 1000)
        with pytest.raises(wool.NoWorkersAvailable) as raised:
            await made.call(bodies.echo, 1)
    assert "no\\nwool" in str(raised.value) and "\x1b" not in str(raised.value)
    assert str(raised.value).count("x") < MOST_REASON_CHARACTERS < str(raised.value).count("x") + 50


async def test_a_hook_sees_neither_the_task_of_a_body_nor_its_context() -> None:
    variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="nothing")
    seen: list[object] = []

    def looks(offer: TaskOffer) -> bool:
        seen.extend((variable.get(), wool.current_task()))
        variable.set("the hook's")
        return True

    variable.set("the test's")
    async with cluster() as made:
        await made.add("a", admission=looks)
        await made.call(bodies.echo, 1)
        await made.call(bodies.echo, 1)
    assert seen == ["nothing", None] * 2


async def test_a_task_that_is_admitted_waits_for_a_place_and_is_not_asked_about_again() -> None:
    async with cluster() as made:
        await made.add("a", places=1, admission=takes_all)
        held = made.spawn(bodies.wait_for, "held")
        await until(lambda: "held begun" in bodies.story)
        waits = made.spawn(bodies.echo, 1)
        door = made.workers["a"].door
        assert door is not None
        await until(lambda: door.waiting == 1)
        asked = len(told)
        bodies.gates["held"].set()
        assert (await held, await waits) == ("held", 1)
        assert len(told) == asked


async def test_a_worker_that_drains_rejects_those_who_wait_for_the_hook() -> None:
    async def never(offer: TaskOffer) -> bool:
        return await asyncio.get_running_loop().create_future()

    async with cluster() as made:
        await made.add("a", admission=never)
        waits = made.spawn(bodies.echo, 1)
        await until(lambda: awaiting(made, "a") == 1)
        await made.workers["a"].service.drain(1)
        assert awaiting(made, "a") == 0
        with pytest.raises(wool.NoWorkersAvailable, match="draining"):
            await waits


def test_hooks_travel_by_name_or_with_their_code() -> None:
    here = dump_admission(takes_none)
    assert here is not None and load_admission(here) is takes_none
    local = dump_admission(lambda offer: "from a lambda")
    offer = TaskOffer(task="", caller="", routine=None, payload_bytes=0, in_flight=0)
    assert local is not None and load_admission(local)(offer) == "from a lambda"
    named = dump_admission(named_admission(f"{__name__}:takes_none"))
    assert named is not None and load_admission(named) is takes_none


def test_a_hook_that_makes_no_sense_says_so() -> None:
    with pytest.raises(TypeError, match="admission must be a function of a TaskOffer .* got 3"):
        check_admission(3)
    with pytest.raises(TypeError, match="admission must be a function"):
        wool.LocalWorker(admission="app:admit")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="admission= is for the workers that a pool starts: give size= too"):
        wool.WorkerPool(discovery=wool.StaticDiscovery("127.0.0.1:1"), admission=takes_all)
    lock: Any = __import__("threading").Lock()
    with pytest.raises(ValueError, match="cannot be pickled for the workers"):
        dump_admission(lambda offer: lock.locked())
    with pytest.raises(ValueError, match="must be 'module:function', as in 'app.admission:admit', got 'nothing'"):
        named_admission("nothing")
    with pytest.raises(RuntimeError, match="the admission hook cannot be loaded: AttributeError"):
        load_admission(dump_admission(named_admission(f"{__name__}:nobody")) or b"")
    with pytest.raises(RuntimeError, match="the admission hook is no function: 5"):
        load_admission(__import__("pickle").dumps(5))
