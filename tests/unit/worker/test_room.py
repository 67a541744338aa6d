"""No more bodies are at work than a worker is told (max_concurrency); trees end, and tasks go where there is room."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterator

import pytest

import wool
from support import bodies
from support.memory_pool import memory_pool
from support.one_loop import Cluster, cluster, until
from wool.errors import DispatchTimeout
from wool.protocol.frames import Body, Offer, RejectCode
from wool.task import current_task
from wool.worker.door import Door
from wool.worker.job import Served


@pytest.fixture(autouse=True)
def clean() -> Iterator[None]:
    bodies.reset()
    at_work.clear()
    yield
    bodies.reset()


at_work: dict[str, int] = {}
most: dict[str, int] = {}


def enters() -> str:
    task = current_task()
    assert task is not None
    at_work[task.worker] = at_work.get(task.worker, 0) + 1
    most[task.worker] = max(most.get(task.worker, 0), at_work[task.worker])
    return task.worker


@wool.routine
async def fib(n: int) -> int:
    where = enters()
    await asyncio.sleep(0)
    at_work[where] -= 1
    if n < 2:
        return n
    both = await asyncio.gather(fib(n - 1), fib(n - 2))
    at_work[where] += 1
    await asyncio.sleep(0)
    at_work[where] -= 1
    return sum(both)


@pytest.mark.parametrize(("workers", "places"), [(1, 1), (2, 1), (3, 2)])
async def test_a_tree_of_routines_ends_however_few_places_there_are(workers: int, places: int) -> None:
    most.clear()
    async with memory_pool(*"abc"[:workers], places=places):
        assert await asyncio.wait_for(fib(9), 60) == 34
    assert max(most.values()) <= places


@wool.routine
async def items(n: int) -> AsyncGenerator[int, None]:
    for index in range(n):
        yield index * await one()


@wool.routine
async def one() -> int:
    return 1


@wool.routine
async def total(n: int) -> int:
    found = 0
    async for item in items(n):
        found += item
    return found


async def test_generators_that_bodies_consume_end_with_one_place_for_all() -> None:
    async with memory_pool("a", places=1):
        assert await asyncio.wait_for(asyncio.gather(*(total(4) for _ in range(5))), 60) == [6] * 5


async def test_a_generator_that_nobody_asks_takes_no_place() -> None:
    async with memory_pool("a", places=1):
        stream = items(2)
        assert await anext(stream) == 0
        assert await asyncio.wait_for(one(), 5) == 1
        await stream.aclose()


def open_offers(made: Cluster, uid: str) -> int:
    door = made.workers[uid].door
    assert door is not None
    return door.waiting


async def test_a_task_that_finds_no_place_goes_elsewhere_at_once() -> None:
    async with cluster() as made:
        for uid in "ab":
            await made.add(uid, places=1)
        calls = [made.spawn(bodies.wait_for, "first"), made.spawn(bodies.wait_for, "first")]
        await until(lambda: bodies.story.count("first begun") == 2)
        assert {worker.runner.running for worker in made.workers.values()} == {1}
        bodies.gates["first"].set()
        await asyncio.gather(*calls)
        await made.add("free", places=9)
        made.drop("b")
        held = made.spawn(bodies.wait_for, "held")
        await until(lambda: "held begun" in bodies.story)
        assert await asyncio.wait_for(asyncio.gather(*(made.call(bodies.echo, n) for n in range(20))), 5) == [
            *range(20)
        ]
        bodies.gates["held"].set()
        await held


async def test_where_nobody_has_a_place_calls_wait_and_all_are_served_in_turn() -> None:
    async with cluster() as made:
        for uid in "ab":
            await made.add(uid, places=2)
        assert await asyncio.gather(*(made.call(bodies.echo, n) for n in range(200))) == [*range(200)]
        assert all(open_offers(made, uid) == 0 for uid in "ab")
        assert not any(link.parked for link in made.proxy._links.values())


async def test_what_waits_in_vain_for_a_place_ends_as_a_dispatch_timeout_that_says_so() -> None:
    async with cluster() as made:
        await made.add("a", places=1)
        held = made.spawn(bodies.wait_for, "held")
        await until(lambda: "held begun" in bodies.story)
        with pytest.raises(DispatchTimeout, match="max_concurrency"):
            await made.call(bodies.echo, 1, dispatch_timeout=0.2)
        bodies.gates["held"].set()
        assert await held == "held"
        assert await made.call(bodies.echo, 2) == 2


async def test_a_place_that_becomes_free_elsewhere_is_given_to_who_waits_for_another() -> None:
    async with cluster() as made:
        for uid in "ab":
            await made.add(uid, places=1)
        calls = [made.spawn(bodies.wait_for, gate) for gate in ("one", "two")]
        await until(lambda: len(bodies.story) == 2)
        third = made.spawn(bodies.wait_for, "three")
        await until(lambda: open_offers(made, "a") + open_offers(made, "b") == 1)
        busy = "a" if open_offers(made, "a") else "b"
        free = "b" if busy == "a" else "a"
        gates = {made.workers[uid].uid: gate for uid, gate in zip("ab", ("one", "two"), strict=True)}
        bodies.gates[gates[free]].set()
        await until(lambda: "three begun" in bodies.story, seconds=1)
        assert made.workers[busy].runner.running == 1
        for gate in ("one", "two", "three"):
            bodies.gates[gate].set()
        await asyncio.gather(*calls, third)


async def test_who_is_cancelled_while_it_waits_for_a_place_leaves_the_line() -> None:
    async with cluster() as made:
        await made.add("a", places=1)
        held = made.spawn(bodies.wait_for, "held")
        await until(lambda: "held begun" in bodies.story)
        gone, after = made.spawn(bodies.echo, 1), made.spawn(bodies.echo, 2)
        await until(lambda: open_offers(made, "a") == 2)
        gone.cancel()
        await until(lambda: open_offers(made, "a") == 1)
        bodies.gates["held"].set()
        assert await after == 2
        assert await held == "held"


async def test_a_worker_that_drains_rejects_those_who_wait() -> None:
    async with cluster() as made:
        await made.add("a", places=1)
        held = made.spawn(bodies.wait_for, "held")
        await until(lambda: "held begun" in bodies.story)
        waits = made.spawn(bodies.echo, 1)
        await until(lambda: open_offers(made, "a") == 1)
        draining = asyncio.create_task(made.workers["a"].service.drain(5))
        await until(lambda: open_offers(made, "a") == 0)
        await made.add("b", places=1)
        with pytest.raises(wool.NoWorkersAvailable, match="draining"):
            await waits
        bodies.gates["held"].set()
        await draining
        await held


# ---- the door alone --------------------------------------------------------------------------------------


class Lobby:
    def __init__(self) -> None:
        self.story: list[str] = []

    def admit(self, served: Served) -> None:
        self.story.append(f"admitted {served.offer.number}")

    def refuse(self, served: Served, code: RejectCode, reason: str) -> None:
        self.story.append(f"refused {served.offer.number}: {code.name}")


def offered(number: int, *, waits: bool = True) -> Served:
    return Served(Offer(number, b"t" * 16, b"d" * 16, False, Body(), waits=waits))


def test_callers_take_turns_so_that_nobody_waits_for_all_that_another_has() -> None:
    door, many, few = Door(1), Lobby(), Lobby()
    for number in range(4):
        door.arrive(many, offered(number))
    door.arrive(few, offered(9))
    for _ in range(2):
        door.changed(-1, 0)
        door.changed(0, -1)
    assert (many.story, few.story) == (["admitted 0", "admitted 1"], ["admitted 9"])


def test_an_offer_that_does_not_wait_is_rejected_at_once_and_takes_nobodys_turn() -> None:
    door, first, second = Door(1), Lobby(), Lobby()
    door.arrive(first, offered(1))
    door.arrive(first, offered(2))
    door.arrive(second, offered(3, waits=False))
    assert second.story == ["refused 3: BUSY"]
    assert door.is_full


def test_bodies_that_come_back_again_and_again_keep_nobody_out() -> None:
    door, lobby = Door(1), Lobby()
    door.arrive(lobby, offered(1))
    door.changed(-1, 0)  # it has its place
    door.changed(0, 1)  # and one that comes back waits for it
    door.arrive(lobby, offered(2))
    assert lobby.story == ["admitted 1"]
    door.changed(0, -1)
    assert lobby.story == ["admitted 1", "admitted 2"]
    door.arrive(lobby, offered(3))
    door.changed(0, 1)
    door.changed(0, -1)
    assert lobby.story == ["admitted 1", "admitted 2"], "one at a time waits behind those who come back"
