"""In the first moments calls wait for who is being looked for: not all go to the worker that was heard first."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import AsyncIterator

import pytest

from support import bodies
from support.one_loop import QUICK, Cluster, cluster, until
from wool.discovery.base import DiscoveryEvent
from wool.errors import NoWorkersAvailable

LONG = dataclasses.replace(QUICK, first_look_seconds=60.0)
SHORT = dataclasses.replace(QUICK, first_look_seconds=0.05)


class Searching:
    """A subscriber that knows whether everybody was heard, as those of names and networks do."""

    lives_on_io_loop = True

    def __init__(self, *, is_looking: bool = True) -> None:
        self.is_looking = is_looking

    async def __aiter__(self) -> AsyncIterator[DiscoveryEvent]:
        raise NotImplementedError
        yield


def started(made: Cluster) -> dict[str, int]:
    return {uid: worker.service.started for uid, worker in made.workers.items()}


async def test_what_is_called_in_the_first_moments_goes_to_all_that_are_found_in_them() -> None:
    searching = Searching()
    async with cluster("first", limits=LONG, subscriber=searching) as made:
        calls = [made.spawn(bodies.echo, number) for number in range(10)]
        await made.settle()
        assert started(made) == {"first": 0}
        searching.is_looking = False
        await made.add("second")
        assert await asyncio.gather(*calls) == list(range(10))
        assert started(made) == {"first": 5, "second": 5}


async def test_as_soon_as_all_were_heard_nobody_waits_though_nothing_was_told() -> None:
    searching = Searching()
    async with cluster("w", limits=LONG, subscriber=searching) as made:
        call = made.spawn(bodies.echo, 1)
        await made.settle()
        searching.is_looking = False
        assert await call == 1


async def test_where_nobody_is_looked_for_no_call_waits() -> None:
    async with cluster("w", limits=LONG, subscriber=Searching(is_looking=False)) as made:
        assert await made.call(bodies.echo, 1) == 1
    async with cluster("w", limits=LONG) as made:
        assert await made.call(bodies.echo, 1) == 1


async def test_the_first_moments_end_though_somebody_is_looked_for_still() -> None:
    async with cluster("w", limits=SHORT, subscriber=Searching()) as made:
        until_then = made.proxy._lookout._first_until
        assert until_then is not None
        assert await made.call(bodies.echo, 1) == 1
        assert made.loop.time() >= until_then
        assert not made.proxy._lookout.is_early
        call = made.spawn(bodies.echo, 2)
        await made.settle(3)  # what is called later is bound in the turn in which it comes
        assert not made.proxy._lookout.waiting
        assert await call == 2


async def test_a_call_that_waits_in_the_first_moments_ends_with_its_pool_or_its_caller() -> None:
    async with cluster("w", limits=LONG, subscriber=Searching()) as made:
        cancelled, closed = made.spawn(bodies.echo, 1), made.spawn(bodies.echo, 2)
        await until(lambda: len(made.proxy._lookout.waiting) == 2)
        cancelled.cancel()
        with pytest.raises(asyncio.CancelledError):
            await cancelled
        await made.proxy.close("it is over")
        with pytest.raises(NoWorkersAvailable, match="it is over"):
            await closed
        assert started(made) == {"w": 0}


async def test_what_has_ended_is_waited_for_by_nobody() -> None:
    async with cluster("w", limits=LONG, subscriber=Searching()) as made:
        made.proxy.discovery_ended(OSError("gone"))
        assert await made.call(bodies.echo, 1) == 1
