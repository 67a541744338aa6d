"""Places are never more than there are, nobody waits while one is free, and each waits only for those before it."""

from __future__ import annotations

import asyncio
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from support.one_loop import LoopMailbox
from wool.worker.places import Places
from wool.worker.seats import Desk, Seat


@given(most=st.integers(1, 3), acts=st.lists(st.tuples(st.booleans(), st.integers(0, 6)), max_size=60))
def test_whatever_is_asked_for_and_given_back_the_line_is_first_come_first_served(
    most: int, acts: list[tuple[bool, int]]
) -> None:
    places: Places[int] = Places(most)
    held: list[int] = []
    line: list[int] = []
    for wants, who in acts:
        known = who in held or who in line
        if wants and not known:
            assert places.want(who) == (len(held) < most)
            (held if len(held) < most else line).append(who)
        elif not wants and known:
            following = line[0] if who in held and line else None
            assert places.leave(who) == following
            (held if who in held else line).remove(who)
            if following is not None:
                line.remove(following)
                held.append(following)
        places.validate()
        assert (places.held, places.waiting) == (len(held), len(line))


class Told:
    """Counts what the I/O loop is told."""

    def __init__(self) -> None:
        self.fresh = self.used = 0

    def __call__(self, fresh: int, used: int) -> None:
        self.fresh += fresh
        self.used += used


def desk(most: int) -> tuple[Desk, Told]:
    told, loop = Told(), asyncio.get_running_loop()
    return Desk(most, loop=loop, routines=LoopMailbox(loop), mailbox=LoopMailbox, tell=told), told


def accepted(at: Desk, told: Told) -> Seat:
    told(1, 1)
    return Seat(at)


async def ready(waiting: asyncio.Task[object]) -> bool:
    for _ in range(5):
        await asyncio.sleep(0)
    return waiting.done()


async def test_a_body_that_makes_nested_calls_has_no_place_until_the_last_has_ended() -> None:
    at, told = desk(1)
    seat, other = accepted(at, told), accepted(at, told)
    assert await seat.first()
    waits = asyncio.ensure_future(other.first())
    assert not await ready(waits)
    seat.lend()
    seat.lend()
    assert await ready(waits) and waits.result()
    assert told.used == 1
    await seat.back()  # one more is under way
    last = asyncio.ensure_future(seat.back())
    assert not await ready(last)
    other.rest()
    assert await ready(last)
    seat.rest()
    assert (told.fresh, told.used, at.places.held, at.places.waiting) == (0, 0, 0, 0)


async def test_who_is_told_to_end_before_the_first_place_leaves_the_line() -> None:
    at, told = desk(1)
    seat, gone, next_one = (accepted(at, told) for _ in range(3))
    assert await seat.first()
    waits = asyncio.ensure_future(gone.first())
    after = asyncio.ensure_future(next_one.first())
    assert not await ready(waits)
    gone.rest()
    assert await ready(waits) and not waits.result()
    seat.rest()
    assert await ready(after) and after.result()
    next_one.rest()
    assert (told.fresh, told.used, at.places.held) == (0, 0, 0)


async def test_a_wait_that_somebodys_body_cancels_before_the_first_place_ends() -> None:
    at, told = desk(1)
    seat, stray = accepted(at, told), accepted(at, told)
    assert await seat.first()
    waits = asyncio.ensure_future(stray.first())
    assert not await ready(waits)
    waits.cancel()
    assert await ready(waits) and not waits.result()
    seat.rest()
    assert (told.fresh, told.used, at.places.waiting) == (0, 0, 0)


async def test_a_body_that_is_cancelled_while_it_waits_to_come_back_hears_of_it_in_its_place() -> None:
    at, told = desk(1)
    seat, other = accepted(at, told), accepted(at, told)
    assert await seat.first()
    seat.lend()
    assert await other.first()
    back = asyncio.ensure_future(seat.back())
    assert not await ready(back)
    back.cancel("enough")
    assert not await ready(back)
    other.rest()
    with pytest.raises(asyncio.CancelledError, match="enough"):
        await back
    assert at.places.held == 1
    seat.rest()
    assert (told.used, at.places.held) == (0, 0)


async def test_between_two_steps_a_generator_has_no_place_and_what_it_calls_meanwhile_changes_nothing() -> None:
    at, told = desk(1)
    seat = accepted(at, told)
    assert await seat.first()
    seat.lend()
    seat.rest()
    assert told.used == 0
    await seat.back()
    assert (told.used, at.places.held) == (0, 0)
    assert not await seat.again()
    assert (told.used, at.places.held) == (1, 1)
    seat.rest()


class ThreadsafeMailbox:
    def __init__(self, there: asyncio.AbstractEventLoop) -> None:
        self.post = there.call_soon_threadsafe

    def batched(self, there: asyncio.AbstractEventLoop, crowd: object = None) -> ThreadsafeMailbox:
        return self


async def test_a_nested_call_that_a_body_makes_in_a_thread_lends_its_place_too() -> None:
    loop = asyncio.get_running_loop()
    told = Told()

    at = Desk(1, loop=loop, routines=ThreadsafeMailbox(loop), mailbox=ThreadsafeMailbox, tell=told)
    seat = accepted(at, told)
    assert await seat.first()
    lent, go_on = threading.Event(), threading.Event()

    async def body_of_a_thread() -> None:
        seat.lend()
        lent.set()
        await asyncio.to_thread(go_on.wait)
        await seat.back()

    thread = asyncio.create_task(asyncio.to_thread(asyncio.run, body_of_a_thread()))
    await asyncio.to_thread(lent.wait)
    assert not await ready(thread)
    assert at.places.held == 0
    go_on.set()
    await thread
    assert at.places.held == 1
    seat.rest()


async def test_a_nested_call_that_is_thrown_away_where_no_loop_runs_any_more_has_ended_too() -> None:
    loop = asyncio.get_running_loop()
    told = Told()
    at = Desk(1, loop=loop, routines=ThreadsafeMailbox(loop), mailbox=ThreadsafeMailbox, tell=told)
    seat = accepted(at, told)
    assert await seat.first()
    seat.lend()
    assert at.places.held == 0
    await asyncio.to_thread(seat.forget)
    assert not await ready(loop.create_future())
    assert at.places.held == 1
    seat.rest()
