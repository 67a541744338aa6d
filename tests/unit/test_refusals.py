"""Who is refused again and again fills no disk: so many lines in so long, and how many more there were."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from typing import Any

import pytest

from wool.limits import Limits
from wool.refusals import Refusals

LIMITS = Limits(refusals=3, refusal_seconds=60.0, text_characters=30)


class Clock(asyncio.SelectorEventLoop):
    """An event loop whose time is what the test says."""

    now = 1000.0

    def time(self) -> float:
        return self.now

    def go_on(self, seconds: float) -> None:
        self.now += seconds
        self.run_until_complete(asyncio.sleep(0))
        self.run_until_complete(asyncio.sleep(0))

    def do(self, action: Any, *args: Any) -> None:
        async def run() -> None:
            action(*args)

        self.run_until_complete(run())


@pytest.fixture
def clock() -> Iterator[Clock]:
    loop = Clock()
    yield loop
    loop.close()


@pytest.fixture
def refusals() -> Refusals:
    return Refusals(logging.getLogger("wool.test").warning, LIMITS)


def test_a_few_are_told_one_by_one(clock: Clock, refusals: Refusals, caplog: pytest.LogCaptureFixture) -> None:
    for number in range(3):
        clock.do(refusals.say, "refused %d", number)
    assert caplog.messages == ["refused 0", "refused 1", "refused 2"]


def test_more_are_counted_and_summed_up_when_the_time_is_over(
    clock: Clock, refusals: Refusals, caplog: pytest.LogCaptureFixture
) -> None:
    for number in range(1003):
        clock.do(refusals.say, "refused %d", number)
    assert len(caplog.messages) == 3
    clock.go_on(59)
    assert len(caplog.messages) == 3
    clock.go_on(2)
    assert caplog.messages[3:] == ["1000 more were refused in 60 s, the last: refused 1002"]


def test_a_flood_without_end_is_a_bounded_number_of_lines(
    clock: Clock, refusals: Refusals, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(600):
        for _ in range(20):
            clock.do(refusals.say, "refused")
        clock.go_on(1)
    clock.do(refusals.close)
    # In ten minutes: three a minute at most, the summary among them.
    assert 10 <= len(caplog.messages) <= 3 * 11
    counted = sum(int(message.split()[0]) for message in caplog.messages if "more were refused" in message)
    assert counted + caplog.messages.count("refused") == 600 * 20


def test_after_a_quiet_time_lines_are_written_again(
    clock: Clock, refusals: Refusals, caplog: pytest.LogCaptureFixture
) -> None:
    for number in range(4):
        clock.do(refusals.say, "refused %d", number)
    clock.go_on(61)
    clock.go_on(61)
    caplog.clear()
    clock.do(refusals.say, "refused again")
    assert caplog.messages == ["refused again"]


def test_closing_says_what_was_not_said_and_leaves_no_timer(
    clock: Clock, refusals: Refusals, caplog: pytest.LogCaptureFixture
) -> None:
    for number in range(5):
        clock.do(refusals.say, "refused %d", number)
    clock.do(refusals.close)
    clock.do(refusals.close)
    assert caplog.messages[3:] == ["2 more were refused in 60 s, the last: refused 4"]
    assert refusals._timer is None


def test_what_is_kept_of_the_last_is_bounded(
    clock: Clock, refusals: Refusals, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(4):
        clock.do(refusals.say, "%s", "x" * 1000)
    assert len(refusals._last) == 30
    clock.do(refusals.close)
    assert caplog.messages[-1].endswith(f"the last: {'x' * 30}")
