"""How late the routine loop is: seen while it lasts, remembered for a while, and not looked at where nothing runs."""

from __future__ import annotations

import pytest

from wool.sim.loop import World
from wool.worker.lag import LOOK_SECONDS, WINDOW_SECONDS, LoopLag

CRUMB = 1e-4
"""Some steps of virtual time."""


class Watched:
    """A loop of the simulator, which a test keeps busy as a body does that does not await."""

    def __init__(self) -> None:
        self.world = World()
        self.loop = self.world.new_loop("watched", None)
        self.busy = False
        self.lag = LoopLag(self.loop, lambda: self.busy)

    def begin(self) -> None:
        self.busy = True
        self.lag.watch()

    def until(self, at: float) -> None:
        self.world.loop.call_at(at, lambda: None)
        self.world.run(lambda: self.world.now >= at, most_seconds=at + 1)

    def compute(self, seconds: float) -> None:
        self.loop.call_soon(self.loop.block, seconds)

    @property
    def worst(self) -> float:
        return self.lag.worst_seconds(self.world.now)


@pytest.fixture
def watched() -> Watched:
    return Watched()


def test_a_body_that_computes_is_seen_while_it_lasts_and_afterwards(watched: Watched) -> None:
    watched.begin()
    watched.until(1.0)
    assert watched.worst < 0.001
    watched.compute(5.0)
    watched.until(4.0)
    assert 3.0 - LOOK_SECONDS - CRUMB <= watched.worst <= 3.0, "it has not come back yet"
    watched.until(7.0)
    assert 5.0 - LOOK_SECONDS - CRUMB <= watched.worst <= 5.0 + CRUMB
    watched.until(8.0)
    assert 5.0 - LOOK_SECONDS - CRUMB <= watched.worst <= 5.0 + CRUMB, "it is the worst, not the last"


def test_no_hold_up_longer_than_a_look_is_missed(watched: Watched) -> None:
    watched.begin()
    for turn in range(1, 20):
        held = LOOK_SECONDS + 0.02 * turn
        watched.until(turn * 1.37)
        watched.compute(held)
        watched.until(turn * 1.37 + held + 0.01)
        assert watched.worst >= held - LOOK_SECONDS - CRUMB


def test_the_worst_is_remembered_for_half_a_minute_at_least_and_a_minute_at_most(watched: Watched) -> None:
    watched.begin()
    watched.compute(2.0)
    watched.until(2.0 + WINDOW_SECONDS - 1.0)
    assert watched.worst > 1.0
    watched.until(2.0 + 2 * WINDOW_SECONDS + 1.0)
    assert watched.worst < 0.001


@pytest.mark.parametrize("idle", [1.5 * WINDOW_SECONDS, 3 * WINDOW_SECONDS])
def test_what_was_long_ago_is_forgotten_although_nobody_has_looked_since(watched: Watched, idle: float) -> None:
    watched.begin()
    watched.compute(2.0)
    watched.until(2.5)
    watched.busy = False
    watched.until(2.0 + idle)
    assert (watched.worst > 1.0) == (idle < 2 * WINDOW_SECONDS)
    watched.begin()
    watched.until(2.0 + 3.5 * WINDOW_SECONDS)
    assert watched.worst < 0.001


def test_an_idle_loop_is_not_woken(watched: Watched) -> None:
    watched.until(10.0)
    assert not watched.world.timers, "not even before the first body"
    watched.begin()
    watched.until(20.0)
    watched.busy = False
    watched.until(20.0 + 2 * LOOK_SECONDS)
    assert not watched.world.timers
    assert watched.worst < 0.001


def test_to_begin_again_and_again_sets_one_timer(watched: Watched) -> None:
    for _ in range(1000):
        watched.begin()
    assert len(watched.world.timers) == 1


def test_a_closed_one_looks_no_more(watched: Watched) -> None:
    watched.begin()
    watched.lag.close()
    watched.lag.close()
    watched.compute(5.0)
    watched.until(5.0)
    assert watched.worst == 0.0
