"""Given addresses, names among them: each is announced, and a name that fails keeps nobody waiting."""

from __future__ import annotations

import asyncio
import dataclasses
import pickle
import socket
import threading
from typing import Any

import pytest

from support.watch import watching
from wool.discovery import following, static
from wool.discovery.base import DiscoveryLike, DiscoveryPublisherLike, DiscoverySubscriberLike, WorkerMetadata
from wool.discovery.lookups import Answer, LookupFailed
from wool.discovery.static import StaticDiscovery
from wool.limits import DEFAULT_LIMITS

QUICK = dataclasses.replace(
    DEFAULT_LIMITS,
    static_lookup_seconds=0.05,
    lookup_least_seconds=0.02,
    lookup_retry_first_seconds=0.02,
    lookup_retry_most_seconds=0.05,
    lookup_seconds=0.2,
)


class Names:
    """What the system says of names: addresses, a failure, or nothing for now."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.known: dict[str, list[str] | OSError | threading.Event] = {}
        self.asked = 0
        self.asked_for: list[str] = []
        monkeypatch.setattr(static, "_look_up", self._look_up)

    def _look_up(self, host: str, port: int) -> list[tuple[Any, ...]]:
        self.asked += 1
        self.asked_for.append(host)
        found = self.known[host]
        if isinstance(found, threading.Event):
            found.wait(30)
            return []
        if isinstance(found, OSError):
            raise found
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in found]


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> Names:
    return Names(monkeypatch)


def test_it_has_the_shape_of_a_discovery() -> None:
    discovery = StaticDiscovery("10.0.0.1:7000")
    assert isinstance(discovery, DiscoveryLike)
    assert isinstance(discovery.publisher, DiscoveryPublisherLike)
    assert isinstance(discovery.subscribe(), DiscoverySubscriberLike)


@pytest.mark.parametrize("address", [80, None, ["a:1"], ("a", 80), b"a:1"])
def test_what_is_no_string_is_no_address(address: object) -> None:
    with pytest.raises(ValueError, match="an address is a string, 'host:port', got"):
        StaticDiscovery(address)  # type: ignore[arg-type]


async def test_every_address_is_announced_once_and_stays() -> None:
    discovery = StaticDiscovery("10.0.0.1:7000", "[::1]:7000", "unix:/run/w.sock", "10.0.0.1:7000")
    async with watching(discovery.subscriber) as watch:
        await watch.until("10.0.0.1:7000", "[::1]:7000", "unix:/run/w.sock", seconds=5)
        await asyncio.sleep(0.05)
        assert len(watch.events) == 3


async def test_all_addresses_of_a_name_are_taken_and_it_is_asked_again(names: Names) -> None:
    names.known["gpu"] = ["10.0.0.1", "10.0.0.2"]
    async with watching(StaticDiscovery("gpu:7000", "10.0.0.9:1", limits=QUICK).subscriber) as watch:
        await watch.until("10.0.0.1:7000", "10.0.0.2:7000", "10.0.0.9:1")
        names.known["gpu"] = ["10.0.0.3"]
        await watch.until("10.0.0.3:7000", "10.0.0.9:1")


async def test_a_name_that_does_not_resolve_is_told_once_and_keeps_nobody_waiting(
    names: Names, caplog: pytest.LogCaptureFixture
) -> None:
    names.known["nobody"] = socket.gaierror(socket.EAI_NONAME, "Name or service not known")
    async with watching(StaticDiscovery("nobody:7000", "10.0.0.9:1", limits=QUICK).subscriber) as watch:
        await watch.until("10.0.0.9:1")
        while names.asked < 4:
            await asyncio.sleep(0.01)
        names.known["nobody"] = ["10.0.0.1"]
        await watch.until("10.0.0.1:7000", "10.0.0.9:1")
    told = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert len(told) == 1
    assert "nobody:7000 cannot be looked up: Name or service not known" in told[0]


async def test_a_name_that_fails_later_keeps_the_addresses_it_had(names: Names) -> None:
    names.known["gpu"] = ["10.0.0.1"]
    async with watching(StaticDiscovery("gpu:7000", limits=QUICK).subscriber) as watch:
        await watch.until("10.0.0.1:7000")
        asked, names.known["gpu"] = names.asked, socket.gaierror(socket.EAI_AGAIN, "try again")
        while names.asked < asked + 3:
            await asyncio.sleep(0.01)
        assert len(watch.events) == 1


async def test_a_slow_name_keeps_no_other_waiting() -> None:
    gave_up = asyncio.Semaphore(0)

    class Slow:
        closed = 0

        async def resolve(self, name: str) -> Answer:
            if name == "slow:1":
                try:
                    await asyncio.Event().wait()
                finally:
                    gave_up.release()
            if name == "failing:1":
                raise LookupFailed("no")
            return Answer(addresses=("10.0.0.1:1",), seconds=1.0)

        def close(self) -> None:
            self.closed += 1

    resolver = Slow()

    class Subscriber(following.NamesSubscriber):
        def _resolver(self) -> Slow:
            return resolver

    limits = dataclasses.replace(QUICK, lookup_seconds=1.0)
    async with watching(Subscriber(["slow:1", "failing:1", "quick:1"], None, limits)) as watch:
        await watch.until("10.0.0.1:1")
        assert gave_up.locked(), "the slow one is waited for"
        for _ in range(2):
            await asyncio.wait_for(gave_up.acquire(), 20)
        assert watch.present.keys() == {"10.0.0.1:1"}
    assert resolver.closed == 1


async def test_what_waits_for_a_name_is_told_of_the_subscription_that_began_last(names: Names) -> None:
    names.known["hung"] = hung = threading.Event()
    subscriber = StaticDiscovery(
        "hung:1", "10.0.0.1:1", limits=dataclasses.replace(QUICK, lookup_seconds=30)
    ).subscriber
    assert (subscriber.is_looking, subscriber.troubles) == (False, [])
    try:
        async with watching(subscriber) as first:
            await first.until("10.0.0.1:1")
            async with watching(subscriber) as last:
                await last.until("10.0.0.1:1")
                await first.close()
                assert (subscriber.is_looking, subscriber.troubles) == (True, ["hung:1 is being looked up"])
                hung.set()
                async with asyncio.timeout(20):
                    while subscriber.is_looking:
                        await asyncio.sleep(0.01)
                assert subscriber.troubles == ["hung:1 leads to no worker"]
    finally:
        hung.set()


async def test_a_name_that_hangs_takes_one_thread_however_often_it_is_tried(names: Names) -> None:
    names.known["hung"] = hung = threading.Event()
    names.known["gpu"] = ["10.0.0.1"]
    limits = dataclasses.replace(QUICK, lookup_seconds=0.1, static_lookup_seconds=0.05)
    try:
        async with watching(StaticDiscovery("hung:1", "gpu:7000", limits=limits).subscriber) as watch:
            async with asyncio.timeout(20):
                while names.asked_for.count("gpu") < 30:
                    await asyncio.sleep(0.01)
            names.known["gpu"] = ["10.0.0.2"]
            await watch.until("10.0.0.2:7000")
            assert names.asked_for.count("hung") == 1
            names.known["hung"] = ["10.0.0.9"]
            hung.set()
            await watch.until("10.0.0.2:7000", "10.0.0.9:1")
    finally:
        hung.set()


async def test_the_real_system_knows_localhost() -> None:
    async with watching(StaticDiscovery("localhost:7000").subscriber) as watch:
        async with asyncio.timeout(10):
            while "127.0.0.1:7000" not in watch.present and "[::1]:7000" not in watch.present:
                await asyncio.sleep(0.01)


def test_discovery_and_subscriber_travel() -> None:
    discovery = pickle.loads(pickle.dumps(StaticDiscovery("gpu:7000", "10.0.0.1:1")))
    assert discovery.addresses == ("gpu:7000", "10.0.0.1:1")
    subscriber = pickle.loads(pickle.dumps(discovery.subscribe(WorkerMetadata.to_bytes)))
    assert repr(subscriber) == "<StaticSubscriber of gpu:7000, 10.0.0.1:1 filtered>"
    many = StaticDiscovery(*(f"10.0.0.{number}:1" for number in range(9)))
    assert repr(many) == "<StaticDiscovery 10.0.0.0:1, 10.0.0.1:1, 10.0.0.2:1 and 6 more>"


async def test_nothing_can_be_published() -> None:
    worker = WorkerMetadata(uid="abc", address="10.0.0.1:1", pid=1, version="1")
    with pytest.raises(RuntimeError, match="worker abc cannot be published: the addresses"):
        await StaticDiscovery("10.0.0.1:7000").publisher.publish("worker-added", worker)
    with pytest.raises(ValueError, match="unknown discovery event"):
        await StaticDiscovery("10.0.0.1:7000").publisher.publish("born", worker)  # type: ignore[arg-type]


@pytest.mark.parametrize("addresses", [(), ("",), ("gpu",), ("10.0.0.1:7000", "gpu:99999"), ("10.0.0.1",)])
def test_a_malformed_address_is_an_error_at_once(addresses: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match="address"):
        StaticDiscovery(*addresses)
