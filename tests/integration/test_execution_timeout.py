"""``@wool.routine(timeout=…)``: how long a body may run, counted where it runs."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

import wool
from support.faults import Journal
from support.traced import block, note


@pytest_asyncio.fixture(autouse=True)
async def pool() -> AsyncIterator[None]:
    async with wool.WorkerPool(size=1):
        yield


@wool.routine(timeout=0.2)
async def sleeps(journal: str, seconds: float, swallows: bool = False) -> str:
    try:
        await asyncio.sleep(seconds)
    except asyncio.CancelledError:
        if not swallows:
            raise
    finally:
        note(journal, "ended", "call")
    return "done"


@wool.routine(timeout=0.2)
async def slows_down() -> AsyncGenerator[int, None]:
    for number in range(3):
        yield number
    await asyncio.sleep(60)
    yield 3


@wool.routine()
async def unlimited() -> str:
    return "done"


class Shop:
    @wool.routine(timeout=0.1)
    @staticmethod
    async def waits() -> None:
        await asyncio.sleep(60)

    @classmethod
    @wool.routine(timeout=0.1)
    async def waits_too(cls) -> None:
        await asyncio.sleep(60)


async def test_a_body_that_runs_for_too_long_ends_in_a_time_out_and_its_finally_has_run(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal")
    began = time.monotonic()
    with pytest.raises(TimeoutError, match="the routine ran for longer than its timeout, 0.2 s") as caught:
        await sleeps(str(journal.path), 60)
    assert time.monotonic() - began < 30
    assert wool.origin(caught.value) is not None
    assert not isinstance(caught.value, wool.WoolError)
    assert len(journal.pids("ended", "call")) == 1


async def test_a_body_that_is_fast_enough_does_not_notice(tmp_path: Path) -> None:
    assert await sleeps(str(tmp_path / "journal"), 0) == "done"
    assert await unlimited() == "done"


async def test_a_body_that_swallows_the_cancellation_has_its_way_as_with_asyncio_timeout(tmp_path: Path) -> None:
    assert await sleeps(str(tmp_path / "journal"), 60, swallows=True) == "done"


async def test_waiting_for_its_turn_does_not_count(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal")
    blocking = asyncio.create_task(block(str(journal.path), "blocking", 1.0))
    await journal.appears("begin", "blocking")
    assert await sleeps(str(journal.path), 0) == "done"
    await blocking


async def test_a_generator_has_the_time_for_each_step() -> None:
    stream = slows_down()
    for expected in range(3):
        assert await anext(stream) == expected
        await asyncio.sleep(0.15)
    with pytest.raises(TimeoutError, match="longer than its timeout"):
        await anext(stream)


@pytest.mark.parametrize("name", ["waits", "waits_too"])
async def test_methods_have_one_too(name: str) -> None:
    with pytest.raises(TimeoutError, match="0.1 s"):
        await getattr(Shop, name)()


async def test_a_cancellation_by_the_caller_is_one(tmp_path: Path) -> None:
    with pytest.raises(TimeoutError) as caught:
        async with asyncio.timeout(0.05):
            await sleeps(str(tmp_path / "journal"), 60)
    assert str(caught.value) == ""


async def test_a_routine_of_a_script_takes_its_time_out_along() -> None:
    namespace: dict[str, object] = {"__name__": "__main__", "wool": wool, "asyncio": asyncio}
    exec("@wool.routine(timeout=0.1)\nasync def waits():\n    await asyncio.sleep(60)", namespace)
    with pytest.raises(TimeoutError, match="0.1 s"):
        await namespace["waits"]()  # type: ignore[operator]


@pytest.mark.parametrize("timeout", [0, -1, "1", True, float("nan")])
def test_a_time_that_is_none_is_refused_at_decoration(timeout: object) -> None:
    with pytest.raises(ValueError, match="timeout must be a positive number of seconds or None, got"):
        wool.routine(timeout=timeout)  # type: ignore[call-overload]
