"""What goes wrong is said where it is read: in the message, by name, and of the right party."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from typing import Any

import pytest

import wool
from support.faults import Journal, workers
from support.traced import run, run_until
from wool.discovery.local import LocalDiscovery


@pytest.mark.parametrize("given", [3, None, "abc", [3], [None]])
def test_workers_that_are_none_are_refused_by_name(given: Any) -> None:
    with pytest.raises((TypeError, ValueError), match=r"workers must be|workers=") as caught:
        wool.WorkerProxy(workers=given)
    assert "WorkerMetadata" in str(caught.value) or given is None


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: wool.LocalDiscovery(3), "the namespace of a LocalDiscovery is a string, got 3"),  # type: ignore[arg-type]
        (lambda: wool.LanDiscovery(interfaces=3), "interfaces must be a sequence of names, got 3"),  # type: ignore[arg-type]
        (lambda: wool.LanDiscovery(interfaces=[]), "interfaces is empty: name those to speak on, or leave it out"),
        (lambda: wool.DnsDiscovery(3, port=3), "a name is a string, got 3"),  # type: ignore[arg-type]
        (lambda: wool.DnsDiscovery("x", nameservers="1.1.1.1"), "nameservers must be a sequence of addresses, got"),
    ],
)
def test_what_a_discovery_cannot_be_made_of_is_refused_by_name(make: Callable[[], object], words: str) -> None:
    with pytest.raises(ValueError, match=re.escape(words)):
        make()


@pytest.mark.parametrize("given", [3, None, "abc"])
@pytest.mark.parametrize("kind", ["worker-added", "worker-updated", "worker-dropped"])
async def test_what_is_published_and_is_no_worker_is_refused_by_name(kind: Any, given: Any) -> None:
    with LocalDiscovery() as discovery:
        with pytest.raises(TypeError, match="publish takes WorkerMetadata, got"):
            await discovery.publisher.publish(kind, given)


class Broken:
    def order(self, task: wool.Task, workers: Sequence[wool.WorkerStatus]) -> Iterable[wool.WorkerStatus]:
        raise LookupError("no idea")


async def test_the_error_of_a_load_balancer_is_in_the_message(journal: Journal) -> None:
    async with wool.WorkerPool(size=1, loadbalancer=Broken):
        with pytest.raises(wool.NoWorkersAvailable, match="load balancer failed to order .*LookupError: no idea"):
            await run(journal.path, "call")


async def test_the_error_of_a_filter_is_in_the_message(journal: Journal) -> None:
    def broken(metadata: wool.WorkerMetadata) -> bool:
        raise LookupError("no idea")

    async with workers("one") as [one]:
        with LocalDiscovery() as discovery:
            await discovery.publisher.publish("worker-added", one.metadata)
            async with wool.WorkerProxy(discovery=discovery.subscribe(broken)):
                with pytest.raises(wool.NoWorkersAvailable, match="discovery failed: LookupError: no idea"):
                    await run(journal.path, "call")


async def test_a_discovery_that_tells_of_what_is_no_event_is_named_with_it(journal: Journal) -> None:
    class Odd:
        def __aiter__(self) -> AsyncIterator[Any]:
            return self

        async def __anext__(self) -> str:
            return "a worker, honestly"

        def __repr__(self) -> str:
            return "<Odd>"

    async with wool.WorkerProxy(discovery=Odd()):
        with pytest.raises(wool.NoWorkersAvailable, match="<Odd> has told of 'a worker, honestly', which is no"):
            await run(journal.path, "call")


async def test_when_the_user_closed_the_pool_no_operator_is_blamed(journal: Journal) -> None:
    async with wool.WorkerPool(size=1):
        call = asyncio.create_task(run_until(journal.path, "call", "/nowhere"))
        await journal.appears("begin", "call")
    with pytest.raises(wool.TaskInterrupted, match="was interrupted: the pool was closed"):
        await call


async def test_when_an_operator_stopped_the_worker_he_is_named(journal: Journal) -> None:
    async with workers("one") as [one]:
        async with wool.WorkerProxy(workers=[one.metadata]):
            call = asyncio.create_task(run_until(journal.path, "call", "/nowhere"))
            await journal.appears("begin", "call")
            await one.stop(drain_seconds=0)
            with pytest.raises(wool.TaskInterrupted, match="was interrupted by its worker's operator"):
                await call
