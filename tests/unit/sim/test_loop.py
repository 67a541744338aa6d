"""Virtual time, order, crash and fence: what the simulated loops promise."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from wool.sim.fence import EscapedSimulation
from wool.sim.loop import Deadlock, Livelock, SimLoop, World


class Owner:
    """A process that counts what its loops tell it."""

    def __init__(self) -> None:
        self.name = "w0#0"
        self.label = "w0"
        self.dead = False
        self.said: list[dict[str, Any]] = []

    def seam(self) -> bool:
        return not self.dead

    def failed(self, loop: SimLoop, context: dict[str, Any]) -> None:
        self.said.append(context)


def finish(world: World, *works: Coroutine[Any, Any, Any], loop: SimLoop | None = None) -> None:
    tasks = [(loop or world.loop).create_task(work) for work in works]
    world.run(lambda: all(task.done() for task in tasks), most_seconds=1e9)
    for task in tasks:
        task.result()


def test_a_day_of_virtual_time_passes_in_no_time() -> None:
    world = World()
    began = time.monotonic()
    finish(world, asyncio.sleep(86_400))
    assert world.now >= 86_400
    assert time.monotonic() - began < 1.0


def test_a_loop_runs_its_callbacks_first_in_first_out() -> None:
    world = World()
    order: list[int] = []

    async def begin() -> None:
        for number in range(5):
            asyncio.get_running_loop().call_soon(order.append, number)
        await asyncio.sleep(0)

    finish(world, begin())
    assert order == [0, 1, 2, 3, 4]


def test_timers_of_the_same_time_fire_in_the_order_in_which_they_were_set() -> None:
    world = World()
    order: list[int] = []

    async def begin() -> None:
        loop = asyncio.get_running_loop()
        for number in (0, 1, 2):
            loop.call_at(1.0, order.append, number)
        loop.call_at(0.5, order.append, -1)
        cancelled = loop.call_at(0.7, order.append, 99)
        cancelled.cancel()
        await asyncio.sleep(2)

    finish(world, begin())
    assert order == [-1, 0, 1, 2]


def test_a_cancelled_timer_does_not_move_the_clock() -> None:
    world = World()

    async def begin() -> None:
        asyncio.get_running_loop().call_at(1000.0, print).cancel()
        await asyncio.sleep(1)

    finish(world, begin())
    assert world.now < 2


def test_a_held_loop_lets_others_go_first_and_goes_on_in_order() -> None:
    world = World()
    one, other = world.new_loop("one", Owner()), world.new_loop("other", Owner())
    order: list[str] = []
    one.hold()
    one.call_soon(order.append, "one a")
    one.call_soon(order.append, "one b")
    other.call_soon(order.append, "other")
    world.loop.call_at(1.0, one.release)
    world.run(lambda: len(order) == 3, most_seconds=10)
    assert order == ["other", "one a", "one b"]
    assert world.now >= 1.0


def test_overdue_timers_of_a_paused_loop_fire_all_at_once_when_it_goes_on() -> None:
    world = World()
    loop = world.new_loop("w0#0.user", Owner())
    fired: list[float] = []
    for when in (0.3, 0.1, 0.2):
        loop.call_at(when, lambda when=when: fired.append(when))
    loop.hold()
    world.loop.call_at(5.0, loop.release)
    world.run(lambda: len(fired) == 3, most_seconds=10)
    assert fired == [0.1, 0.2, 0.3]
    assert 5.0 <= world.now < 5.001


def test_nothing_of_a_killed_loop_runs_any_more_not_even_a_finally() -> None:
    world = World()
    loop = world.new_loop("w0#0.user", Owner())
    ran: list[str] = []

    async def body() -> None:
        try:
            ran.append("began")
            await asyncio.sleep(1)
        finally:
            ran.append("finally")

    loop.create_task(body())
    world.loop.call_at(0.5, loop.kill)
    finish(world, asyncio.sleep(10))
    assert ran == ["began"]
    before = list(ran)
    world.dismantle()
    # The end of the world runs it, unheard; what matters is that the verdict comes before.
    assert before == ["began"]


def test_what_blocks_takes_its_time_for_its_own_loop_alone() -> None:
    world = World()
    one, other = world.new_loop("one", Owner()), world.new_loop("other", Owner())
    seen: dict[str, float] = {}

    async def blocks() -> None:
        one.block(2.0)
        seen["clock of the one that blocks"] = asyncio.get_running_loop().time()
        other.call_soon_threadsafe(lambda: seen.setdefault("its effect", world.now))
        await asyncio.sleep(0)
        seen["it goes on"] = world.now

    async def waits() -> None:
        await asyncio.sleep(0.1)
        seen["another"] = world.now

    tasks = one.create_task(blocks()), other.create_task(waits())
    world.run(lambda: all(task.done() for task in tasks) and len(seen) == 4, most_seconds=10)
    assert seen["another"] < 0.2
    assert seen["clock of the one that blocks"] >= 2.0
    assert 2.0 <= seen["its effect"] < 2.01
    assert 2.0 <= seen["it goes on"] < 2.01


def test_a_task_group_cancels_its_children_in_the_order_in_which_they_began() -> None:
    def order() -> list[int]:
        world = World()
        cancelled: list[int] = []

        async def child(number: int) -> None:
            try:
                await asyncio.sleep(10)
            except asyncio.CancelledError:
                cancelled.append(number)
                raise

        async def parent() -> None:
            async with asyncio.TaskGroup() as group:
                for number in range(50):
                    group.create_task(child(number))
                await asyncio.sleep(0.1)
                raise ValueError

        with pytest.raises(ExceptionGroup):
            finish(world, parent())
        return cancelled

    first = order()
    assert sorted(first) == list(range(50))
    junk: list[object] = [object() for _ in range(1000)]
    assert order() == first
    del junk


def test_a_deadlock_says_where_every_task_waits() -> None:
    world = World()

    async def forever() -> None:
        await asyncio.get_running_loop().create_future()

    task = world.loop.create_task(forever(), name="the one that waits")
    with pytest.raises(Deadlock, match=r"the one that waits: test_loop.py:\d+ in .*forever"):
        world.run(task.done, most_seconds=10)
    world.dismantle()


def test_what_spins_is_stopped() -> None:
    world = World()

    async def spin() -> None:
        while True:
            await asyncio.sleep(0)

    task = world.loop.create_task(spin())
    with pytest.raises(Livelock, match="steps"):
        world.run(task.done, most_seconds=10, most_steps=1000)
    world.dismantle()


@pytest.mark.parametrize(
    "escape",
    [
        lambda: threading.Thread(target=print).start(),
        socket.socket,
        lambda: subprocess.Popen(["true"]),
        lambda: time.sleep(0),
    ],
    ids=["thread", "socket", "process", "sleep"],
)
def test_what_leaves_the_simulation_is_a_named_error(escape: Callable[[], object]) -> None:
    world = World()
    swallowed: list[BaseException] = []

    async def program() -> None:
        try:
            escape()
        except Exception as error:
            swallowed.append(error)

    with pytest.raises(EscapedSimulation, match="simulated code would"):
        finish(world, program())
    assert isinstance(swallowed[0], EscapedSimulation)


def test_an_executor_is_refused() -> None:
    world = World()
    with pytest.raises(EscapedSimulation, match="run_in_executor"):
        finish(world, asyncio.to_thread(print), loop=world.new_loop("w0#0.user", None))


def test_what_a_simulated_loop_does_not_implement_raises() -> None:
    world = World()
    with pytest.raises(NotImplementedError):
        world.loop.add_reader(0, print)


def test_outside_of_a_run_the_fence_lets_everything_pass() -> None:
    World().run(lambda: True, most_seconds=1)
    time.sleep(0)
    socket.socket().close()


def test_what_a_callback_raises_reaches_its_process_and_the_loop_goes_on() -> None:
    world = World()
    owner = Owner()
    loop = world.new_loop("w0#0.user", owner)

    def fails() -> None:
        raise ValueError("of a callback")

    ran: list[int] = []
    loop.call_soon(fails)
    loop.call_soon(ran.append, 1)
    world.run(lambda: bool(ran), most_seconds=1)
    assert str(owner.said[0]["exception"]) == "of a callback"


def test_a_generator_that_is_let_go_is_closed_on_its_own_loop() -> None:
    world = World()
    closed: list[float] = []

    async def items() -> Any:
        try:
            yield 1
        finally:
            await asyncio.sleep(0.5)
            closed.append(world.now)

    async def program() -> None:
        generator = items()
        await anext(generator)
        del generator
        await asyncio.sleep(1)

    finish(world, program())
    assert closed and 0.5 <= closed[0] < 0.6


def test_a_step_costs_next_to_nothing() -> None:
    world = World()
    left = 100_000

    def again() -> None:
        nonlocal left
        left -= 1
        if left:
            world.loop.call_soon(again)

    world.loop.call_soon(again)
    began = time.process_time()
    world.run(lambda: left == 0, most_seconds=10)
    # Measured: about 1.5 µs. The bound is for a busy machine.
    assert (time.process_time() - began) / 100_000 < 10e-6
