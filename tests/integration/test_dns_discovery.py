"""DnsDiscovery against a real name server on loopback, and real workers that it and StaticDiscovery lead to."""

from __future__ import annotations

import asyncio
import dataclasses
import os
import pickle
import socket
import threading
from collections import Counter
from typing import cast

import pytest

pytest.importorskip("dns", reason="needs the extra wool[dns]")

from support.command import free_port
from support.faults import a_refused_call_waits, until
from support.name_server import NameServer, name_server
from support.routines import where
from support.watch import watching
from wool import (
    DispatchTimeout,
    DnsDiscovery,
    LocalWorker,
    NoWorkersAvailable,
    RuntimeContext,
    StaticDiscovery,
    WorkerMetadata,
    WorkerPool,
    WorkerProxy,
)
from wool.discovery import static
from wool.discovery.base import DiscoveryLike, DiscoveryPublisherLike, DiscoverySubscriberLike
from wool.limits import DEFAULT_LIMITS, Limits
from wool.runtime import real_runtime, set_runtime
from wool.worker.launch import ProcessLauncher

QUICK = dataclasses.replace(
    DEFAULT_LIMITS,
    lookup_seconds=0.5,
    lookup_least_seconds=0.2,
    lookup_retry_first_seconds=0.1,
    lookup_retry_most_seconds=0.3,
    lookup_denied_seconds=0.2,
)
PATIENT = dataclasses.replace(QUICK, lookup_seconds=20.0)
"""For a server that answers: here it runs on the same loop as who asks, and a busy machine may take its time."""
SLACK_SECONDS = 4.0
"""What a busy machine may be late by: less than what tells a wrong time to live from the right one."""


def dns_of(
    server: NameServer, name: str = "workers.test.", *, port: int | None = 7000, limits: Limits = PATIENT
) -> DnsDiscovery:
    return DnsDiscovery(name, port=port, nameservers=[server.address], limits=limits)


# ---- what the name server says -----------------------------------------------------------------------


async def test_it_has_the_shape_of_a_discovery() -> None:
    discovery = DnsDiscovery("workers.test", port=7000)
    assert isinstance(discovery, DiscoveryLike)
    assert isinstance(discovery.publisher, DiscoveryPublisherLike)
    assert isinstance(discovery.subscribe(), DiscoverySubscriberLike)


async def test_every_address_of_the_name_is_a_worker() -> None:
    async with name_server() as server:
        server.set("workers", "A", "10.0.0.1", "10.0.0.2")
        server.set("workers", "AAAA", "fd00::1")
        async with watching(dns_of(server).subscriber) as watch:
            await watch.until("10.0.0.1:7000", "10.0.0.2:7000", "[fd00::1]:7000")
            server.set("workers", "A", "10.0.0.2", "10.0.0.3")
            server.set("workers", "AAAA")
            await watch.until("10.0.0.2:7000", "10.0.0.3:7000")


async def test_services_bring_their_ports() -> None:
    async with name_server() as server:
        server.set("_wool._tcp", "SRV", "10 0 7000 one.test.", "0 0 7001 two.test.", "0 0 7002 gone.test.")
        server.set("one", "A", "10.0.0.1")
        server.set("one", "AAAA", "fd00::1")
        server.set("two", "A", "10.0.0.2")
        async with watching(dns_of(server, "_wool._tcp.test.", port=None).subscriber) as watch:
            await watch.until("10.0.0.2:7001", "10.0.0.1:7000", "[fd00::1]:7000")
            server.set("_wool._tcp", "SRV", "0 0 7001 two.test.")
            await watch.until("10.0.0.2:7001")
            server.set("_wool._tcp", "SRV", "0 0 0 .")
            await watch.until()


async def test_addresses_that_come_along_are_not_asked_for_and_their_time_to_live_counts() -> None:
    async with name_server() as server:
        server.brings_addresses = True
        server.set("_wool._tcp", "SRV", *(f"0 0 7000 host-{number}.test." for number in range(200)), ttl=60)
        for number in range(200):
            server.set(f"host-{number}", "A", f"10.0.1.{number}", ttl=1)
        async with watching(dns_of(server, "_wool._tcp.test.", port=None).subscriber) as watch:
            await watch.until(*(f"10.0.1.{number}:7000" for number in range(200)))
            server.set("host-0", "A", "10.0.2.1")
            await watch.until("10.0.2.1:7000", *(f"10.0.1.{number}:7000" for number in range(1, 200)))
        assert {kind for _, _, kind in server.asked} == {"SRV"}


async def test_one_host_of_a_service_that_nobody_can_tell_of_leaves_all_as_they_were() -> None:
    async with name_server() as server:
        server.set("_wool._tcp", "SRV", "0 0 7000 one.test.", "0 0 7000 two.test.")
        server.set("one", "A", "10.0.0.1")
        server.set("two", "A", "10.0.0.2")
        async with watching(dns_of(server, "_wool._tcp.test.", port=None, limits=QUICK).subscriber) as watch:
            await watch.until("10.0.0.1:7000", "10.0.0.2:7000")
            server.silent_about = "A"
            await server.until_asked("A", 6)
            assert len(watch.events) == 2


async def test_an_alias_is_followed_and_the_shortest_time_to_live_counts() -> None:
    async with name_server() as server:
        server.set("pool", "CNAME", "workers.test.", ttl=1)
        server.set("workers", "A", "10.0.0.1", ttl=60)
        async with watching(dns_of(server, "pool.test.").subscriber) as watch:
            await watch.until("10.0.0.1:7000")
            server.set("workers", "A", "10.0.0.2", ttl=60)
            assert await watch.until("10.0.0.2:7000") < 1.0 + SLACK_SECONDS


async def test_it_is_asked_again_when_the_time_to_live_is_over_and_not_before() -> None:
    async with name_server() as server:
        server.set("workers", "A", "10.0.0.1", ttl=1)
        server.set("workers", "AAAA", "fd00::1", ttl=60)
        async with watching(dns_of(server).subscriber):
            await server.until_asked("A", 3)
        waits = [after - before for before, after in zip(server.times("A"), server.times("A")[1:], strict=False)]
        assert all(1.0 <= wait < 1.0 + SLACK_SECONDS for wait in waits), waits
        assert len(server.times("AAAA")) == 1


async def test_a_name_that_does_not_exist_yet_is_found_when_its_denial_is_over() -> None:
    async with name_server() as server:
        async with watching(dns_of(server).subscriber) as watch:
            await server.until_asked("A", 2)
            assert watch.events == []
            server.set("workers", "A", "10.0.0.1")
            assert await watch.until("10.0.0.1:7000") < 1.0 + SLACK_SECONDS
        first, second, *_ = server.times("A")
        assert second - first >= 1.0, "its denial says for how long it holds"


async def test_a_name_that_ceases_to_exist_drops_its_workers() -> None:
    async with name_server() as server:
        server.denied_seconds = None
        server.set("workers", "A", "10.0.0.1")
        async with watching(dns_of(server).subscriber) as watch:
            await watch.until("10.0.0.1:7000")
            server.set("workers", "A")
            assert await watch.until() < 1.0 + SLACK_SECONDS


@pytest.mark.parametrize("how", ["silent", "failing"])
async def test_a_name_server_that_does_not_answer_drops_nobody(how: str, caplog: pytest.LogCaptureFixture) -> None:
    async with name_server() as server:
        server.set("workers", "A", "10.0.0.1")
        async with watching(dns_of(server, limits=QUICK).subscriber) as watch:
            await watch.until("10.0.0.1:7000")
            setattr(server, how, True)
            await server.until_asked("A", 3)
            assert len(watch.events) == 1
            setattr(server, how, False)
            server.set("workers", "A", "10.0.0.2")
            await watch.until("10.0.0.2:7000")
    told = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert told and len(told) <= 2, "once for each kind of record"
    assert any("A workers.test. cannot be looked up" in line for line in told)


async def test_a_server_that_says_nothing_of_one_kind_of_address_does_not_hide_the_other() -> None:
    async with name_server() as server:
        server.silent_about = "AAAA"
        server.set("workers", "A", "10.0.0.1")
        async with watching(dns_of(server).subscriber) as watch:
            assert await watch.until("10.0.0.1:7000") < PATIENT.lookup_seconds / 2


async def test_an_answer_too_large_for_a_datagram_is_fetched_whole() -> None:
    async with name_server() as server:
        addresses = [f"10.0.1.{number}" for number in range(1, 101)]
        server.set("workers", "A", *addresses)
        async with watching(dns_of(server).subscriber) as watch:
            await watch.until(*(f"{address}:7000" for address in addresses))
        assert server.over_tcp >= 1


@pytest.mark.parametrize("port", [7000, None], ids=["A", "SRV"])
async def test_an_answer_with_more_addresses_than_are_used_is_cut_and_told_once(
    port: int | None, caplog: pytest.LogCaptureFixture
) -> None:
    few = dataclasses.replace(PATIENT, addresses=3)
    async with name_server() as server:
        server.set("workers", "A", *(f"10.0.1.{number}" for number in range(1, 9)))
        server.set("workers", "SRV", *(f"{number} 0 7000 host-{number}.test." for number in range(1, 9)))
        for number in range(1, 9):
            server.set(f"host-{number}", "A", f"10.0.1.{number}")
        async with watching(dns_of(server, port=port, limits=few).subscriber) as watch:
            await watch.until(*(f"10.0.1.{number}:7000" for number in (1, 2, 3)))
            await server.until_asked("A", 2)
    kind = "A" if port else "SRV"
    assert caplog.messages == [f"{kind} workers.test. leads to more workers than are used: 3 (addresses)"]


async def test_bytes_that_are_no_answer_are_none() -> None:
    heard = asyncio.Semaphore(0)

    class Noise(asyncio.DatagramProtocol):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            self.transport = cast("asyncio.DatagramTransport", transport)

        def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
            for noise in (b"", data[:2], data[:2] + b"\xff" * 40, b"\x00" * 4_000, data):
                self.transport.sendto(noise, addr)
            heard.release()

    transport, _ = await asyncio.get_running_loop().create_datagram_endpoint(Noise, local_addr=("127.0.0.1", 0))
    port = transport.get_extra_info("sockname")[1]
    try:
        discovery = DnsDiscovery("workers.test.", port=1, nameservers=[f"127.0.0.1:{port}"], limits=QUICK)
        async with watching(discovery.subscriber) as watch:
            async with asyncio.timeout(30):
                for _ in range(8):
                    await heard.acquire()
            assert watch.events == []
    finally:
        transport.close()


@pytest.mark.parametrize(
    ("name", "port", "servers", "words"),
    [
        ("10.0.0.1", 7000, [], "is an address, not a name"),
        ("workers test", 7000, [], "not a name"),
        ("", 7000, [], "not a name"),
        ("workers", 0, [], "1 to 65535"),
        ("workers", 7000, ["ns.test"], "address"),
        ("workers", 7000, ["ns.test:53"], "by its IP address"),
    ],
)
def test_what_makes_no_sense_is_an_error_at_once(name: str, port: int, servers: list[str], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        DnsDiscovery(name, port=port, nameservers=servers)


def test_the_subscriber_travels() -> None:
    subscriber = DnsDiscovery("workers.test", port=7000, nameservers=["127.0.0.1"]).subscribe(WorkerMetadata.to_bytes)
    assert repr(pickle.loads(pickle.dumps(subscriber))) == "<DnsSubscriber of workers.test filtered>"


# ---- the workers -------------------------------------------------------------------------------------


async def pid_of_worker() -> int:
    pid, _, _ = await where()
    return pid


def port_of(worker: LocalWorker) -> int:
    return int(worker.metadata.address.rpartition(":")[2])


async def until_run_by(pid: int) -> None:
    """Call until the worker ``pid`` has the call."""
    async with asyncio.timeout(20):
        while await pid_of_worker() != pid:
            await asyncio.sleep(0.02)


@pytest.mark.smoke
async def test_workers_at_given_addresses_are_used_and_known_by_name_after_it() -> None:
    async with LocalWorker("one", host="127.0.0.1") as one, LocalWorker("two", host="127.0.0.1") as two:
        discovery = StaticDiscovery(one.metadata.address, f"localhost:{port_of(two)}")
        async with WorkerProxy(discovery=discovery.subscriber):
            await until_run_by(one.metadata.pid)
            await until_run_by(two.metadata.pid)


async def test_a_filter_is_asked_when_the_handshake_has_told_the_tags() -> None:
    async with LocalWorker("one", host="127.0.0.1") as one, LocalWorker("two", host="127.0.0.1") as two:
        discovery = StaticDiscovery(one.metadata.address, two.metadata.address)
        async with WorkerProxy(discovery=discovery.subscribe(lambda metadata: "two" in metadata.tags)):
            assert {await pid_of_worker() for _ in range(10)} == {two.metadata.pid}
        async with WorkerProxy(discovery=discovery.subscribe(lambda metadata: "three" in metadata.tags)):
            with pytest.raises(NoWorkersAvailable, match="is not one that the filter wants") as caught:
                await pid_of_worker()
        assert caught.value.reasons.keys() == {one.metadata.address, two.metadata.address}


async def test_nobody_at_an_address_is_said_with_the_address() -> None:
    async with WorkerProxy(discovery=StaticDiscovery("127.0.0.1:1").subscriber):
        with pytest.raises(NoWorkersAvailable, match=r"127\.0\.0\.1:1"):
            await pid_of_worker()


async def test_a_name_that_does_not_resolve_is_named_by_call_and_log_and_found_later(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with name_server() as server, LocalWorker(host="127.0.0.1") as one:
        discovery = dns_of(server, port=port_of(one), limits=QUICK)
        server.failing = True
        async with WorkerPool(discovery=discovery):
            with RuntimeContext(dispatch_timeout=1.0):
                with pytest.raises(DispatchTimeout, match=r"no worker of <DnsDiscovery workers\.test\.") as caught:
                    await pid_of_worker()
            for kind in ("A", "AAAA"):
                assert f"{kind} workers.test. cannot be looked up: " in str(caught.value)
            assert "SERVFAIL" in str(caught.value)
            assert any("A workers.test. cannot be looked up" in told for told in caplog.messages)
            server.failing = False
            server.set("workers", "A", "127.0.0.1")
            assert await pid_of_worker() == one.metadata.pid


async def test_who_waited_in_vain_for_a_name_hears_what_the_name_server_said() -> None:
    async with name_server() as server:
        async with WorkerPool(discovery=dns_of(server)):
            with RuntimeContext(dispatch_timeout=1.0), pytest.raises(DispatchTimeout) as caught:
                await pid_of_worker()
            assert "none was found; A workers.test. leads to no worker; AAAA workers.test. leads" in str(caught.value)
            server.silent = True
        async with WorkerPool(discovery=dns_of(server)):
            with RuntimeContext(dispatch_timeout=0.3), pytest.raises(DispatchTimeout, match="A workers.test. is being"):
                await pid_of_worker()


async def test_who_waited_in_vain_for_a_host_hears_what_the_resolver_said() -> None:
    async with WorkerPool(discovery=StaticDiscovery("no-such-host.invalid:7000")):
        with RuntimeContext(dispatch_timeout=3.0), pytest.raises(DispatchTimeout) as caught:
            await pid_of_worker()
    assert "no worker of <StaticDiscovery no-such-host.invalid:7000>" in str(caught.value)
    assert "none was found; no-such-host.invalid:7000 cannot be looked up: " in str(caught.value)


async def test_while_a_name_is_looked_up_a_call_waits_though_another_worker_refuses(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    released = threading.Event()

    def look_up(host: str, port: int) -> list[tuple[object, ...]]:
        assert released.wait(30)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port))] if host == "gpu.test" else []

    monkeypatch.setattr(static, "_look_up", look_up)
    async with LocalWorker(host="127.0.0.1") as worker:
        refused = f"127.0.0.1:{free_port()}"
        async with WorkerPool(discovery=StaticDiscovery(refused, f"gpu.test:{port_of(worker)}")) as pool:
            call = asyncio.create_task(pid_of_worker())
            await until(lambda: a_refused_call_waits(pool))
            released.set()
            assert await call == worker.metadata.pid
        released.clear()
        async with WorkerPool(discovery=StaticDiscovery(refused, "other.test:7000")) as pool:
            call = asyncio.create_task(pid_of_worker())
            await until(lambda: a_refused_call_waits(pool))
            released.set()
            with pytest.raises(NoWorkersAvailable, match="cannot connect"):
                await call


async def test_what_is_called_at_once_goes_to_the_workers_of_all_names_and_not_to_those_of_the_first(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each name is looked up by itself, and one may take longer."""
    second = threading.Event()

    def look_up(host: str, port: int) -> list[tuple[object, ...]]:
        assert host == "first.test" or second.wait(30)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port))]

    monkeypatch.setattr(static, "_look_up", look_up)
    set_runtime(real_runtime(limits=dataclasses.replace(DEFAULT_LIMITS, first_look_seconds=30.0)))
    async with LocalWorker(host="127.0.0.1") as one, LocalWorker(host="127.0.0.1") as two:
        names = f"first.test:{port_of(one)}", f"second.test:{port_of(two)}"
        async with WorkerPool(discovery=StaticDiscovery(*names)) as pool:
            calls = [asyncio.create_task(pid_of_worker()) for _ in range(20)]
            await until(lambda: pool.open_dispatcher is not None and len(pool.open_dispatcher._proxy.workers()) == 1)
            second.set()
            ran = Counter(await asyncio.gather(*calls))
        assert ran.keys() == {one.metadata.pid, two.metadata.pid}  # alike, unless one is slow to open its session


async def test_who_is_refused_hears_of_the_names_that_cannot_be_looked_up_too() -> None:
    async with WorkerPool(discovery=StaticDiscovery(f"127.0.0.1:{free_port()}", "no-such-host.invalid:7000")):
        with pytest.raises(NoWorkersAvailable, match="no-such-host.invalid:7000 cannot be looked up"):
            await pid_of_worker()


@pytest.mark.parametrize("kind", ["static", "dns"])
async def test_a_pool_that_could_not_publish_its_workers_says_so_before_it_starts_any(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def launch(*_: object) -> None:
        raise AssertionError("a worker was started")

    monkeypatch.setattr(ProcessLauncher, "launch", launch)
    discovery = StaticDiscovery("127.0.0.1:7000") if kind == "static" else DnsDiscovery("workers.test", port=7000)
    with pytest.raises(RuntimeError, match="cannot publish the workers that it would start: .*leave size= out"):
        async with WorkerPool(size=2, discovery=discovery):
            pass


async def test_workers_behind_a_name_come_and_go_with_its_records() -> None:
    async with name_server() as server, LocalWorker(host="127.0.0.1") as one:
        server.set("_wool._tcp", "SRV", f"0 0 {port_of(one)} here.test.")
        server.set("here", "A", "127.0.0.1")
        discovery = dns_of(server, "_wool._tcp.test.", port=None)
        async with WorkerProxy(discovery=discovery.subscriber):
            assert await pid_of_worker() == one.metadata.pid
            async with LocalWorker(host="127.0.0.1") as two:
                server.set("_wool._tcp", "SRV", f"0 0 {port_of(one)} here.test.", f"0 0 {port_of(two)} here.test.")
                await until_run_by(two.metadata.pid)
                server.set("_wool._tcp", "SRV", f"0 0 {port_of(two)} here.test.")
                async with asyncio.timeout(20):
                    while {await pid_of_worker() for _ in range(10)} != {two.metadata.pid}:
                        await asyncio.sleep(0.02)
                assert os.getpid() != two.metadata.pid


async def test_a_worker_restarted_at_its_address_is_another_one_and_is_used() -> None:
    async with LocalWorker("old", host="127.0.0.1") as old:
        port, address = port_of(old), old.metadata.address
        proxy = WorkerProxy(discovery=StaticDiscovery(address).subscriber)
        async with proxy:
            assert await pid_of_worker() == old.metadata.pid
            await old.stop(drain_seconds=0.0)
            async with LocalWorker("new", host="127.0.0.1", port=port) as new:
                async with asyncio.timeout(20):
                    while True:
                        try:
                            assert await pid_of_worker() == new.metadata.pid
                            break
                        except NoWorkersAvailable:
                            await asyncio.sleep(0.05)
