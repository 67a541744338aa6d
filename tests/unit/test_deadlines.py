"""Deadlines fire when they are due: not before, not much later, not twice, and not after a stall without a look."""

from __future__ import annotations

import asyncio
import time

from hypothesis import given, settings
from hypothesis import strategies as st

from support.one_loop import until
from wool.deadlines import Deadlines, Timeouts
from wool.limits import Limits

LIMITS = Limits(stall_seconds=0.05, stall_settle_seconds=0.02)


class Fired:
    """Collects what fires, and when."""

    def __init__(self, seconds: float, limits: Limits = LIMITS) -> None:
        self.loop = asyncio.get_running_loop()
        self.begun = self.loop.time()
        self.fired: list[tuple[str, float]] = []
        self.deadlines = Deadlines[str](self.loop, seconds, limits, self.fire)

    def fire(self, key: str) -> None:
        self.fired.append((key, self.loop.time() - self.begun))

    @property
    def keys(self) -> list[str]:
        return [key for key, _ in self.fired]


async def test_each_fires_once_in_the_order_in_which_they_were_added() -> None:
    it = Fired(0.02)
    for key in "abc":
        it.deadlines.add(key)
    await until(lambda: len(it.fired) == 3)
    assert it.keys == ["a", "b", "c"]
    assert all(0.02 <= when < 1 for _, when in it.fired)
    assert len(it.deadlines) == 0
    assert it.deadlines._timer is None


async def test_what_was_removed_does_not_fire_and_the_rest_is_on_time() -> None:
    it = Fired(0.03)
    it.deadlines.add("a")
    await asyncio.sleep(0.01)
    it.deadlines.add("b")
    it.deadlines.remove("a")
    it.deadlines.remove("never added")
    await until(lambda: it.fired)
    assert it.keys == ["b"]
    assert it.fired[0][1] >= 0.04


async def test_added_again_it_counts_from_anew() -> None:
    it = Fired(0.03)
    it.deadlines.add("a")
    await asyncio.sleep(0.02)
    it.deadlines.add("a")
    await until(lambda: it.fired)
    assert it.fired[0][1] >= 0.05
    await asyncio.sleep(0.04)
    assert it.keys == ["a"]


async def test_a_key_that_is_added_again_as_it_fires_delays_no_other() -> None:
    loop = asyncio.get_running_loop()
    fired: list[tuple[str, float]] = []

    def fire(key: str) -> None:
        fired.append((key, loop.time()))
        if key == "patient":
            deadlines.add(key)

    deadlines = Deadlines[str](loop, 0.4, LIMITS, fire)
    deadlines.add("patient")
    await asyncio.sleep(0.1)
    added = loop.time()
    deadlines.add("other")
    await until(lambda: "other" in [key for key, _ in fired])
    deadlines.close()
    assert dict(fired)["other"] - added < 0.6  # Not when "patient" is due again, at 0.7.


async def test_one_that_fails_takes_no_other_with_it() -> None:
    loop = asyncio.get_running_loop()
    problems: list[dict[str, object]] = []
    loop.set_exception_handler(lambda loop, context: problems.append(context))
    fired: list[str] = []

    def fire(key: str) -> None:
        fired.append(key)
        if key == "bad":
            raise RuntimeError("bad")

    deadlines = Deadlines[str](loop, 0.02, LIMITS, fire)
    deadlines.add("bad")
    await asyncio.sleep(0.01)
    deadlines.add("good")
    await until(lambda: "good" in fired)
    assert len(problems) == 1


async def test_after_a_stall_what_has_arrived_is_read_before_anything_fires() -> None:
    it = Fired(0.01)
    it.deadlines.add("a")
    it.loop.call_later(0.02, it.deadlines.remove, "a")  # As an answer that has arrived meanwhile.
    it.deadlines.add("b")
    time.sleep(0.15)
    await until(lambda: it.fired)
    assert it.keys == ["b"]


async def test_a_process_that_stalls_again_and_again_still_fires() -> None:
    it = Fired(0.01)
    it.deadlines.add("a")
    for _ in range(3):
        time.sleep(0.1)
        await asyncio.sleep(0)
    await until(lambda: it.fired, seconds=0.5)


async def test_closed_nothing_fires_and_no_timer_is_left() -> None:
    it = Fired(0.01)
    it.deadlines.add("a")
    it.deadlines.close()
    await asyncio.sleep(0.03)
    assert it.fired == []
    it.deadlines.add("b")
    await until(lambda: it.fired)


async def test_many_cost_one_timer() -> None:
    it = Fired(60.0)
    for number in range(1000):
        it.deadlines.add(str(number))
    assert len([handle for handle in it.loop._scheduled if not handle.cancelled()]) == 1  # type: ignore[attr-defined]
    it.deadlines.close()


class Clock:
    """As much of an event loop as deadlines need, with a clock that a test turns."""

    def __init__(self) -> None:
        self.now = 0.0
        self.timers: list[Timer] = []

    def time(self) -> float:
        return self.now

    def call_at(self, when: float, callback: object) -> Timer:
        timer = Timer(when, callback)
        self.timers.append(timer)
        return timer

    def advance(self, seconds: float) -> None:
        end = self.now + seconds
        while due := [timer for timer in self.timers if timer.due <= end]:
            timer = min(due, key=lambda timer: timer.due)
            self.timers.remove(timer)
            self.now = max(self.now, timer.due)
            if not timer.off:
                timer.callback()  # type: ignore[operator]
        self.now = end


class Timer:
    def __init__(self, when: float, callback: object) -> None:
        self.due, self.callback, self.off = when, callback, False

    def when(self) -> float:
        return self.due

    def cancel(self) -> None:
        self.off = True


@settings(max_examples=200)
@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("add"), st.integers(0, 5)),
            st.tuples(st.just("remove"), st.integers(0, 5)),
            st.tuples(st.just("advance"), st.integers(1, 8)),
        ),
        max_size=40,
    ),
    st.sets(st.integers(0, 5)),
)
def test_whatever_is_added_and_removed_each_fires_exactly_when_it_is_due(
    script: list[tuple[str, int]], again: set[int]
) -> None:
    clock = Clock()
    due: dict[int, float] = {}

    def fire(key: int) -> None:
        assert clock.now == due.pop(key), "fires when it is due, and never twice"
        if key in again:
            add(key)

    def add(key: int) -> None:
        due[key] = clock.now + 5
        deadlines.add(key)

    deadlines = Deadlines[int](clock, 5, LIMITS, fire)  # type: ignore[arg-type]
    for what, number in script:
        if what == "add":
            add(number)
        elif what == "remove":
            due.pop(number, None)
            deadlines.remove(number)
        else:
            clock.advance(number)
            assert all(when > clock.now for when in due.values()), "nothing fires late"
        assert len(deadlines) == len(due)
        assert len([timer for timer in clock.timers if not timer.off]) <= 1


async def test_timeouts_of_one_length_share_a_timer_and_a_length_that_nobody_counts_on_is_forgotten() -> None:
    loop, fired = asyncio.get_running_loop(), list[str]()
    timeouts = Timeouts[str](loop, LIMITS, fired.append, keep=60.0)
    usual, other = timeouts.add("usual", 60.0), timeouts.add("other", 0.02)
    assert timeouts.add("again", 0.02) is other
    assert set(timeouts.lengths) == {60.0, 0.02}
    await until(lambda: fired == ["other", "again"])
    timeouts.remove("usual", usual)
    timeouts.remove("other", other)
    assert set(timeouts.lengths) == {60.0}
    timeouts.close()
    assert not timeouts.lengths
