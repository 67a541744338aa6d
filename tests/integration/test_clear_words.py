"""What goes wrong is said where it is read: in the message, by name, and of the right party."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
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
