"""A discovery or a load balancer is taken in whichever form it comes, by structure alone; anything else is named."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from contextlib import AsyncExitStack
from typing import Any

import pytest

from wool.balancer import RoundRobinLoadBalancer, WorkerStatus
from wool.discovery.local import LocalDiscovery
from wool.discovery.static import StaticDiscovery
from wool.supplied import DISCOVERY, LOAD_BALANCER, SUBSCRIBER, is_manager
from wool.task import Task

story: list[str] = []


class Balancer:
    def order(self, task: Task, workers: Sequence[WorkerStatus], /) -> Iterable[WorkerStatus]:
        return workers


def make_balancer() -> Balancer:
    return Balancer()


class Plain:
    """Entered, it returns another."""

    def __enter__(self) -> Balancer:
        story.append("entered")
        return Balancer()

    def __exit__(self, *_: object) -> None:
        story.append("left")


class Async:
    async def __aenter__(self) -> Balancer:
        story.append("entered")
        return Balancer()

    async def __aexit__(self, *_: object) -> None:
        story.append("left")


class Both(Balancer, Async):
    """Async goes first, and one whose ``__aenter__`` returns nothing of use is it itself."""

    def __enter__(self) -> None:
        raise AssertionError("entered plainly")

    def __exit__(self, *_: object) -> None: ...

    async def __aenter__(self) -> Any:
        story.append("entered")


@contextlib.contextmanager
def plain() -> Iterator[Balancer]:
    story.append("entered")
    yield Balancer()
    story.append("left")


@contextlib.asynccontextmanager
async def asynchronous() -> AsyncIterator[Balancer]:
    story.append("entered")
    yield Balancer()
    story.append("left")


@pytest.fixture(autouse=True)
def clean() -> None:
    story.clear()


@pytest.mark.parametrize("given", [Balancer(), Balancer, make_balancer], ids=["object", "class", "function"])
async def test_one_is_taken_as_it_is_or_made(given: Any) -> None:
    async with AsyncExitStack() as stack:
        assert isinstance(await LOAD_BALANCER.entered(LOAD_BALANCER.made(given), stack), Balancer)


@pytest.mark.parametrize(
    "given", [Plain(), Async(), Both(), Plain, Async, Both, plain(), asynchronous(), plain, asynchronous]
)
async def test_a_manager_is_entered_once_and_left_once(given: Any) -> None:
    LOAD_BALANCER.check(given)
    async with AsyncExitStack() as stack:
        made = LOAD_BALANCER.made(given)
        assert is_manager(made)
        assert story == []
        assert isinstance(await LOAD_BALANCER.entered(made, stack), Balancer)
        assert story == ["entered"]
    assert story == ["entered", "left"]


async def test_wools_own_are_what_is_wanted() -> None:
    for given in (
        StaticDiscovery("10.0.0.1:1"),
        lambda: StaticDiscovery("10.0.0.1:1"),
        LocalDiscovery,
        LocalDiscovery(),
    ):
        DISCOVERY.check(given)
        async with AsyncExitStack() as stack:
            found = await DISCOVERY.entered(DISCOVERY.made(given), stack)
            assert SUBSCRIBER.made(found.subscriber) is not None
    assert isinstance(LOAD_BALANCER.made(RoundRobinLoadBalancer), RoundRobinLoadBalancer)


def test_a_property_is_looked_for_and_not_asked() -> None:
    class Shy:
        @property
        def publisher(self) -> Any:
            raise RuntimeError("not open yet")

        subscriber = subscribe = publisher

    DISCOVERY.check(Shy())
    assert DISCOVERY.made(Shy()) is not None


def test_attributes_that_come_by_getattr_count() -> None:
    class Remote:
        def __getattr__(self, name: str) -> Any:
            return self

    assert LOAD_BALANCER.made(Remote()) is not None


@pytest.mark.parametrize("given", [7, None, "lan", object()])
def test_what_can_be_no_form_of_it_is_named_at_once(given: Any) -> None:
    with pytest.raises(TypeError, match=r"a discovery needs publisher, subscriber and subscribe\(filter\), .*has no"):
        DISCOVERY.check(given)


def test_a_subscriber_is_no_discovery_and_the_error_says_where_it_goes() -> None:
    with pytest.raises(TypeError, match="no publisher and no subscriber and no subscribe.*for WorkerProxy"):
        DISCOVERY.check(LocalDiscovery().subscriber)


@pytest.mark.parametrize("made", [7, None, object()])
def test_what_makes_something_else_is_named_with_it(made: Any) -> None:
    with pytest.raises(TypeError, match=f"what .*lambda.* makes, {made!r:.20}"):
        LOAD_BALANCER.made(lambda: made)


async def test_a_manager_of_something_else_is_named_and_left() -> None:
    class Wrong(Plain):
        def __enter__(self) -> Any:
            story.append("entered")
            return 7

    async with AsyncExitStack() as stack:
        with pytest.raises(TypeError, match="is entered for, 7, has no order"):
            await LOAD_BALANCER.entered(LOAD_BALANCER.made(Wrong()), stack)
    assert story == ["entered", "left"]


async def test_a_cancelled_entry_leaves_nothing_entered() -> None:
    class Slow(Async):
        async def __aenter__(self) -> Balancer:
            await asyncio.sleep(3600)
            raise AssertionError

    async def enter() -> None:
        async with AsyncExitStack() as stack:
            await LOAD_BALANCER.entered(LOAD_BALANCER.made(Slow), stack)

    entry = asyncio.create_task(enter())
    await asyncio.sleep(0)
    entry.cancel()
    with pytest.raises(asyncio.CancelledError):
        await entry
    assert story == []
