"""Credentials that a function gives: asked again, told when they are others, no matter what the function does."""

from __future__ import annotations

import asyncio
import dataclasses
from typing import Any

import pytest
from fixtures import Fixtures, make

from wool.credentials import WorkerCredentials
from wool.limits import Limits
from wool.worker.renewal import Renewal

SECONDS = 0.01


@pytest.fixture(scope="module")
def fixtures() -> Fixtures:
    return make()


class Function:
    def __init__(self, gives: Any) -> None:
        self.gives = gives
        self.asked = asyncio.Semaphore(0)

    def __call__(self) -> WorkerCredentials:
        self.asked.release()
        if isinstance(self.gives, Exception):
            raise self.gives
        return self.gives

    async def was_asked(self, times: int) -> None:
        async with asyncio.timeout(10):
            for _ in range(times):
                await self.asked.acquire()


async def test_it_is_asked_as_often_as_the_limit_says(fixtures: Fixtures) -> None:
    given = fixtures.credentials("worker")
    function = Function(given)
    loop = asyncio.get_running_loop()
    began = loop.time()
    renewal = Renewal(function, given, seconds=Limits(credentials_seconds=0.05).credentials_seconds, say=pytest.fail)
    await function.was_asked(4)
    renewal.stop()
    assert loop.time() - began >= 3 * 0.05


async def test_others_than_before_are_told_once_also_at_once(fixtures: Fixtures) -> None:
    given = fixtures.credentials("worker")
    other = dataclasses.replace(given, callers=("one",))
    told: list[WorkerCredentials] = []
    function = Function(other)
    renewal = Renewal(function, given, seconds=SECONDS, say=told.append)
    assert told == [other]
    await function.was_asked(5)
    function.gives = given
    await function.was_asked(5)
    renewal.stop()
    assert told == [other, given]


@pytest.mark.parametrize("wrong", ["raises", "nothing", "a caller's"])
async def test_what_is_no_workers_changes_nothing_and_is_logged_once(
    wrong: str, fixtures: Fixtures, caplog: pytest.LogCaptureFixture
) -> None:
    given = fixtures.credentials("worker")
    callers = WorkerCredentials(ca=given.ca, mutual=False, secret=b"x" * 32)
    function = Function({"raises": OSError("gone"), "nothing": None, "a caller's": callers}[wrong])
    renewal = Renewal(function, given, seconds=SECONDS, say=pytest.fail)
    await function.was_asked(5)
    renewal.stop()
    (said,) = caplog.messages
    assert "no credentials are given, what was given before stays: " in said


async def test_who_has_stopped_asks_no_more(fixtures: Fixtures) -> None:
    given = fixtures.credentials("worker")
    function = Function(given)
    renewal = Renewal(function, given, seconds=SECONDS, say=pytest.fail)
    renewal.stop()
    await function.was_asked(1)
    await asyncio.sleep(5 * SECONDS)
    assert function.asked.locked()
