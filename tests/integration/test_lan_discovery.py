"""LanDiscovery over real multicast: on loopback, and between hosts that are network namespaces."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import os
import pickle
import socket
import struct
import subprocess
import sys
import textwrap
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

pytest.importorskip("zeroconf", reason="needs the extra wool[lan]")

from zeroconf import DNSIncoming, DNSText

from support import namespaces
from support.command import free_port
from support.faults import a_refused_call_waits, until
from support.namespaces import network, peer
from support.routines import where
from support.watch import watching
from wool import LanDiscovery, LocalWorker, WorkerMetadata, WorkerPool, WorkerProxy
from wool.discovery.base import DiscoveryLike, DiscoveryPublisherLike, DiscoverySubscriberLike
from wool.discovery.mdns import listening_socket
from wool.discovery.records import to_text
from wool.discovery.sightings import Record
from wool.limits import DEFAULT_LIMITS
from wool.runtime import real_runtime, set_runtime

pytestmark = pytest.mark.alone

LOOPBACK = ["127.0.0.1"]
JOIN_SECONDS = 2.0
LEAVE_SECONDS = 1.0

hosts = pytest.mark.skipif(bool(namespaces.why_not()), reason=namespaces.why_not() or "never")


def worker(number: int, *tags: str, address: str = "") -> WorkerMetadata:
    return WorkerMetadata(
        uid=f"{number:032x}",
        address=address or f"127.0.0.1:{7000 + number}",
        pid=1,
        version="1",
        tags=frozenset(tags),
    )


@pytest_asyncio.fixture
async def lan() -> AsyncIterator[LanDiscovery]:
    async with LanDiscovery(interfaces=LOOPBACK) as discovery:
        yield discovery


# ---- one machine -------------------------------------------------------------------------------------


def test_it_has_the_shape_of_a_discovery() -> None:
    discovery = LanDiscovery()
    assert isinstance(discovery, DiscoveryLike)
    assert isinstance(discovery.publisher, DiscoveryPublisherLike)
    assert isinstance(discovery.subscribe(), DiscoverySubscriberLike)


async def test_a_join_an_update_and_a_leave_are_seen_at_once(lan: LanDiscovery) -> None:
    publisher = lan.publisher
    async with watching(lan.subscriber) as watch:
        await publisher.publish("worker-added", worker(1))
        assert await watch.until(worker(1)) < JOIN_SECONDS
        await publisher.publish("worker-added", worker(2))
        assert await watch.until(worker(1), worker(2)) < JOIN_SECONDS
        await publisher.publish("worker-updated", worker(1, "gpu"))
        assert await watch.until(worker(1, "gpu"), worker(2)) < JOIN_SECONDS
        await publisher.publish("worker-dropped", worker(1, "gpu"))
        assert await watch.until(worker(2)) < LEAVE_SECONDS


async def test_a_late_subscriber_sees_who_is_there(lan: LanDiscovery) -> None:
    for number in range(20):
        await lan.publisher.publish("worker-added", worker(number))
    async with watching(lan.subscriber) as watch:
        assert await watch.until(*map(worker, range(20))) < JOIN_SECONDS
        assert {event.type for event in watch.events} == {"worker-added"}


async def test_a_call_that_nobody_takes_waits_until_everybody_was_heard() -> None:
    limits = dataclasses.replace(DEFAULT_LIMITS, lan_look_seconds=30.0)
    async with LanDiscovery(interfaces=LOOPBACK, limits=limits) as lan, LocalWorker(host="127.0.0.1") as real:
        refusing = worker(1, address=f"127.0.0.1:{free_port()}")
        await lan.publisher.publish("worker-added", refusing)
        async with WorkerPool(discovery=lan) as pool:
            call = asyncio.create_task(where())
            await until(lambda: a_refused_call_waits(pool))
            await lan.publisher.publish("worker-added", real.metadata)
            assert (await call)[0] == real.metadata.pid


async def test_what_is_called_at_once_goes_to_all_that_are_there_and_not_to_the_first_that_is_heard() -> None:
    async with (
        LanDiscovery(interfaces=LOOPBACK) as here,
        LanDiscovery(interfaces=LOOPBACK) as there,
        LocalWorker(host="127.0.0.1") as one,
        LocalWorker(host="127.0.0.1") as two,
    ):
        await here.publisher.publish("worker-added", one.metadata)
        await there.publisher.publish("worker-added", two.metadata)
        # Who has just spoken may answer a second later.
        set_runtime(real_runtime(limits=dataclasses.replace(DEFAULT_LIMITS, first_look_seconds=30.0)))
        async with WorkerPool(discovery=LanDiscovery(interfaces=LOOPBACK)):
            ran = Counter([pid for pid, *_ in await asyncio.gather(*(where() for _ in range(20)))])
        assert ran.keys() == {one.metadata.pid, two.metadata.pid}  # alike, unless one is slow to open its session


async def test_leaving_says_goodbye_for_all_that_is_published() -> None:
    discovery = LanDiscovery(interfaces=LOOPBACK)
    async with watching(discovery.subscriber) as watch:
        async with discovery:
            for number in range(3):
                await discovery.publisher.publish("worker-added", worker(number))
            await watch.until(*map(worker, range(3)))
            left = asyncio.get_running_loop().time()
        await watch.until()
        assert watch.times[-1] - left < LEAVE_SECONDS


async def test_a_worker_published_and_gone_at_once_does_not_come_back(lan: LanDiscovery) -> None:
    async with watching(lan.subscriber) as watch:
        async with LanDiscovery(interfaces=LOOPBACK) as brief:
            await brief.publisher.publish("worker-added", worker(1))
            await brief.publisher.publish("worker-added", worker(2))
            await brief.publisher.publish("worker-dropped", worker(2))
        # All is said, three times each. What is said now is heard after it.
        await lan.publisher.publish("worker-added", worker(3))
        await watch.until(worker(3))


@pytest.mark.skipif(sys.platform != "linux", reason="listens as wool does on Linux")
async def test_what_is_no_longer_true_is_not_said_again() -> None:
    """Each is said three times, in half a second: a hello that is repeated after the goodbye would be the last word."""
    with listening_socket(socket.if_nametoindex("lo"), six=False) as ear:
        async with LanDiscovery(interfaces=LOOPBACK) as discovery:
            for type, metadata in (
                ("worker-added", worker(2)),
                ("worker-updated", worker(2, "gpu")),
                ("worker-dropped", worker(2, "gpu")),
            ):
                await discovery.publisher.publish(type, metadata)
        said: list[tuple[str, float]] = []
        with contextlib.suppress(BlockingIOError):
            while True:
                texts = [each for each in DNSIncoming(ear.recv(9000)).answers() if isinstance(each, DNSText)]
                mine = [each for each in texts if each.name.startswith(worker(2).uid)]
                said += [("gpu" if b"gpu" in each.text else "", each.ttl) for each in mine]
    assert said == [("", 1200), ("gpu", 1200), *[("gpu", 0)] * 3]


async def test_a_filter_shows_only_what_is_wanted(lan: LanDiscovery) -> None:
    await lan.publisher.publish("worker-added", worker(1))
    await lan.publisher.publish("worker-added", worker(2, "gpu"))
    async with watching(lan.subscribe(lambda metadata: "gpu" in metadata.tags)) as watch:
        await watch.until(worker(2, "gpu"))
        await lan.publisher.publish("worker-updated", worker(1, "gpu"))
        await watch.until(worker(1, "gpu"), worker(2, "gpu"))
        await lan.publisher.publish("worker-updated", worker(2))
        await watch.until(worker(1, "gpu"))


async def test_a_worker_that_is_answered_for_stays_beyond_its_time_to_live() -> None:
    limits = dataclasses.replace(DEFAULT_LIMITS, lan_ttl_seconds=2)
    async with LanDiscovery(interfaces=LOOPBACK, limits=limits) as discovery:
        await discovery.publisher.publish("worker-added", worker(1))
        async with watching(discovery.subscriber) as watch:
            await watch.until(worker(1))
            await asyncio.sleep(5.0)
            assert len(watch.events) == 1


async def test_a_busy_program_still_answers_for_its_workers(lan: LanDiscovery) -> None:
    """The publisher's loop stands still; a subscriber of another process finds its worker all the same."""
    await lan.publisher.publish("worker-added", worker(1))
    script = """
        import asyncio
        from wool import LanDiscovery

        async def main():
            async with asyncio.timeout(10):
                async for event in LanDiscovery(interfaces=["127.0.0.1"]).subscriber:
                    print(event.metadata.uid, flush=True)
                    return

        asyncio.run(main())
    """
    found = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True, timeout=30, check=False
    )
    assert found.stdout.strip() == worker(1).uid, found.stderr


async def test_a_worker_may_be_published_from_another_loop(lan: LanDiscovery) -> None:
    def elsewhere() -> None:
        asyncio.run(lan.publisher.publish("worker-added", worker(1)))

    async with watching(lan.subscriber) as watch:
        thread = threading.Thread(target=elsewhere)
        thread.start()
        await watch.until(worker(1))
        thread.join()


def test_it_is_a_plain_context_manager_too_and_may_be_entered_again() -> None:
    discovery = LanDiscovery(interfaces=LOOPBACK)
    for _ in range(2):
        with discovery, discovery:
            asyncio.run(discovery.publisher.publish("worker-added", worker(1)))
            assert repr(discovery) == "<LanDiscovery 127.0.0.1 open, 1 published>"
        assert repr(discovery) == "<LanDiscovery 127.0.0.1 closed>"
    assert "wool-lan" not in {thread.name for thread in threading.enumerate()}


@pytest.mark.parametrize(
    ("steps", "words"),
    [
        (["worker-added", "worker-added"], "is published already"),
        (["worker-dropped"], "is not published here"),
        (["worker-updated"], "is not published here"),
        (["born"], "unknown discovery event"),
    ],
)
async def test_what_makes_no_sense_is_not_published(lan: LanDiscovery, steps: list[Any], words: str) -> None:
    *before, last = steps
    for step in before:
        await lan.publisher.publish(step, worker(1))
    with pytest.raises(ValueError, match=words):
        await lan.publisher.publish(last, worker(1))


async def test_a_worker_that_others_cannot_reach_is_not_published(lan: LanDiscovery) -> None:
    with pytest.raises(ValueError, match="start it with a host and a port"):
        await lan.publisher.publish("worker-added", worker(1, address="unix:/run/w.sock"))


async def test_a_publisher_needs_an_open_discovery() -> None:
    discovery = LanDiscovery(interfaces=LOOPBACK)
    with pytest.raises(RuntimeError, match="is closed: publish inside"):
        await discovery.publisher.publish("worker-added", worker(1))
    async with discovery:
        publisher = discovery.publisher
    with pytest.raises(RuntimeError, match="is closed"):
        await publisher.publish("worker-added", worker(1))


async def test_an_interface_that_is_not_there_is_named() -> None:
    discovery = LanDiscovery(interfaces=["wool9"])
    with pytest.raises(OSError, match=r"no interface 'wool9': this host has lo \(127\.0\.0\.1\)"):
        await discovery.__aenter__()
    with pytest.raises(OSError, match="no interface 'wool9'"), discovery:
        pass
    with pytest.raises(OSError, match="no interface 'wool9'"):
        await anext(aiter(discovery.subscriber))
    with pytest.raises(OSError, match="no interface 'wool9'"):
        async with WorkerPool(discovery=discovery):
            pass


async def test_to_be_cancelled_while_entering_leaves_nothing_open() -> None:
    discovery = LanDiscovery(interfaces=LOOPBACK)
    for turns in range(3):
        entering = asyncio.create_task(discovery.__aenter__())
        for _ in range(turns):
            await asyncio.sleep(0)
        entering.cancel()
        with pytest.raises(asyncio.CancelledError):
            await entering
        assert repr(discovery) == "<LanDiscovery 127.0.0.1 closed>"
    async with discovery:
        await discovery.publisher.publish("worker-added", worker(1))


def test_one_that_is_never_left_warns_and_leaves() -> None:
    discovery = LanDiscovery(interfaces=LOOPBACK).__enter__()
    with pytest.warns(ResourceWarning, match="unclosed <LanDiscovery"):
        del discovery


def test_it_is_not_usable_in_a_forked_child() -> None:
    with LanDiscovery(interfaces=LOOPBACK) as discovery:
        reader, writer = os.pipe()
        if (child := os.fork()) == 0:
            try:
                asyncio.new_event_loop().run_until_complete(discovery.publisher.publish("worker-added", worker(1)))
            except RuntimeError as error:
                os.write(writer, str(error).encode())
            finally:
                os._exit(0)
        os.close(writer)
        with os.fdopen(reader) as told:
            assert "was forked from" in told.read()
        os.waitpid(child, 0)


def test_discovery_and_subscriber_travel() -> None:
    discovery = LanDiscovery(interfaces=["10.0.0.0/8"])
    assert repr(pickle.loads(pickle.dumps(discovery))) == "<LanDiscovery 10.0.0.0/8 closed>"
    subscriber = pickle.loads(pickle.dumps(discovery.subscribe(WorkerMetadata.to_bytes)))
    assert repr(subscriber) == "<LanSubscriber of 10.0.0.0/8 filtered>"


def test_without_zeroconf_the_error_says_what_to_install() -> None:
    script = """
        import importlib.util
        importlib.util.find_spec = lambda name, package=None: None
        import wool
        for make in (wool.LanDiscovery, lambda: wool.DnsDiscovery("workers")):
            try:
                make()
            except ModuleNotFoundError as error:
                print(error)
    """
    told = subprocess.run([sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True, check=True)
    assert told.stdout.splitlines() == [
        "LanDiscovery needs zeroconf: pip install 'wool[lan]'",
        "DnsDiscovery needs dnspython: pip install 'wool[dns]'",
    ]


async def test_bytes_that_are_no_message_harm_nobody(lan: LanDiscovery) -> None:
    async with watching(lan.subscriber) as watch:
        await lan.publisher.publish("worker-added", worker(1))
        await watch.until(worker(1))
        noise = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        noise.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton("127.0.0.1"))
        for data in (b"", b"\xff" * 9_000, os.urandom(500), struct.pack("!6H", 0, 0x8400, 0, 9, 0, 0) + os.urandom(99)):
            noise.sendto(data[:8_000], ("224.0.0.251", 5353))
        noise.close()
        await lan.publisher.publish("worker-added", worker(2))
        await watch.until(worker(1), worker(2))


async def test_what_zeroconf_forgets_was_not_heard_again_so_who_is_gone_stays_gone() -> None:
    from zeroconf import DNSService, RecordUpdate

    from wool.discovery.mdns import Multicast

    heard: list[Record] = []
    multicast = await Multicast.open(LOOPBACK, DEFAULT_LIMITS)
    try:
        multicast.listen(heard.extend)
        manager = multicast._zeroconf.zeroconf.record_manager
        now = time.monotonic() * 1000
        for created, ttl in ((now - 31_000, 30), (now - 29_000, 30), (now, 0)):
            record = DNSService("a._wool._tcp.local.", 33, 1, ttl, 0, 0, 7000, "a.local.", created)
            manager.async_updates(now, [RecordUpdate(record, record)])
    finally:
        await multicast.close()
    assert [record.seconds for record in heard] == [30.0, 0.0]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (b"\x09txtvers=1\xff" + b"x" * 255, "lacks piece 0"),
        (to_text(b"\xff\xfe" + worker(9).to_bytes()), "not JSON"),
        (to_text(worker(9).to_bytes()), f"liar says that it is worker {worker(9).uid[:8]}"),
        (to_text(b"x" * 7_000), "a TXT record of 7"),
        (to_text(pickle.dumps(worker)), "not JSON"),
    ],
    ids=["malformed", "not UTF-8", "wrong uid", "huge", "pickle"],
)
async def test_a_record_that_lies_is_told_and_harms_nobody(
    lan: LanDiscovery, text: bytes, words: str, caplog: pytest.LogCaptureFixture
) -> None:
    from zeroconf import ServiceInfo
    from zeroconf.asyncio import AsyncZeroconf

    async with watching(lan.subscriber) as watch:
        liar = AsyncZeroconf(interfaces=LOOPBACK)
        forged = ServiceInfo(
            *("_wool._tcp.local.", "liar._wool._tcp.local."),
            port=7009,
            properties=text,
            server="liar.local.",
            parsed_addresses=["127.0.0.1"],
        )
        await liar.async_register_service(forged, cooperating_responders=True)
        await lan.publisher.publish("worker-added", worker(1))
        await watch.until(worker(1))
        async with asyncio.timeout(20):
            while not caplog.records:
                await asyncio.sleep(0.01)
        await liar.async_close()
    (told,) = (record.getMessage() for record in caplog.records)
    assert told.startswith("a record on the network is no worker's: liar: ")
    assert words in told


async def test_two_workers_with_one_uid_are_told_and_hide_no_other(
    lan: LanDiscovery, caplog: pytest.LogCaptureFixture
) -> None:
    twin = dataclasses.replace(worker(1, address="127.0.0.1:7999"), pid=2)
    async with LanDiscovery(interfaces=LOOPBACK) as elsewhere, watching(lan.subscriber) as watch:
        await lan.publisher.publish("worker-added", worker(2))
        await lan.publisher.publish("worker-added", worker(1))
        await watch.until(worker(1), worker(2))
        await elsewhere.publisher.publish("worker-added", twin)
        await watch.until(twin, worker(2))
        await lan.publisher.publish("worker-added", worker(3))
        await watch.until(twin, worker(2), worker(3))
        assert all(event.metadata.uid == worker(1).uid for event in watch.events if event.type != "worker-added")
    assert caplog.messages[0] == (
        f"two workers are announced under one uid, {twin.uid}: process 1 at 127.0.0.1:7001 and process 2 at "
        "127.0.0.1:7999; the second is used"
    )


@pytest.mark.smoke
async def test_a_published_worker_is_found_and_used(lan: LanDiscovery) -> None:
    async with LocalWorker(host="127.0.0.1") as one:
        async with WorkerProxy(discovery=lan.subscriber):
            call = asyncio.create_task(where())
            await asyncio.sleep(0.2)
            assert not call.done(), "nobody is there yet, so it waits"
            await lan.publisher.publish("worker-added", one.metadata)
            assert (await call)[0] == one.metadata.pid
            await lan.publisher.publish("worker-dropped", one.metadata)


# ---- several hosts -----------------------------------------------------------------------------------

SHORT = {"lan_ttl_seconds": 3}
"""So that a test of it does not take half a minute."""


async def seen(watcher: namespaces.Process, kind: str, number: int, within: float, since: float, times: int = 1) -> str:
    """Return at what address the event was seen, so many times, no later than ``within`` seconds after ``since``."""
    found = await watcher("wait", kind, worker(number).uid, within + 10, since, times)
    assert found is not None, f"{kind} of {number} was not seen"
    when, address = found
    print(f"{kind}: {(when - since) * 1000:.1f} ms")
    assert when - since < within
    assert isinstance(address, str)
    return address


@hosts
async def test_workers_on_another_host_are_seen_to_join_and_to_leave() -> None:
    with network() as made:
        async with peer(made.host()) as here, peer(made.host()) as there:
            await here("watch")
            await there("open")
            for number in range(3):
                began = await there("publish", "worker-added", worker(number).uid, f"0.0.0.0:{7000 + number}")
                assert await seen(here, "worker-added", number, JOIN_SECONDS, began) == f"10.77.0.2:{7000 + number}"
            began = await there("publish", "worker-dropped", worker(0).uid, "0.0.0.0:7000")
            await seen(here, "worker-dropped", 0, LEAVE_SECONDS, began)
            began = await there("leave")
            for number in (1, 2):
                await seen(here, "worker-dropped", number, LEAVE_SECONDS, began)


@hosts
async def test_a_late_subscriber_on_another_host_sees_who_is_there() -> None:
    with network() as made:
        async with peer(made.host()) as here, peer(made.host()) as there:
            await there("open")
            await there("publish", "worker-added", worker(1).uid, "10.77.0.2:7001")
            await asyncio.sleep(2.0)  # the announcements are over
            began = time.monotonic()
            await here("watch")
            await seen(here, "worker-added", 1, JOIN_SECONDS, began)


@hosts
async def test_a_host_that_vanished_without_a_word_is_dropped_when_its_time_is_over() -> None:
    with network() as made:
        async with peer(made.host(), limits=SHORT) as here, peer(made.host(), limits=SHORT) as there:
            await here("watch")
            await there("open")
            began = await there("publish", "worker-added", worker(1).uid, "10.77.0.2:7001")
            await seen(here, "worker-added", 1, JOIN_SECONDS, began)
            killed = time.monotonic()
            await there.kill()
            await seen(here, "worker-dropped", 1, SHORT["lan_ttl_seconds"] + 0.5, killed)


@hosts
async def test_a_cable_that_is_pulled_and_put_back_is_a_leave_and_a_join() -> None:
    with network() as made:
        async with peer(made.host(), limits=SHORT) as here, peer(made.host(), limits=SHORT) as there:
            await here("watch")
            await there("open")
            began = await there("publish", "worker-added", worker(1).uid, "10.77.0.2:7001")
            await seen(here, "worker-added", 1, JOIN_SECONDS, began)
            made.cut(2)
            cut = time.monotonic()
            await seen(here, "worker-dropped", 1, SHORT["lan_ttl_seconds"] + 0.5, cut)
            made.heal(2)
            healed = time.monotonic()
            await seen(here, "worker-added", 1, DEFAULT_LIMITS.lan_retry_most_seconds + 2.0, healed)


@hosts
@pytest.mark.parametrize("six", [False, True], ids=["IPv4", "both"])
async def test_only_the_chosen_interfaces_are_spoken_and_listened_on(six: bool) -> None:
    """Also by processes of one host that listen on different interfaces, several on one and one on the other.

    Not many: a kernel that finds more than ten sockets at a port does not look for the only one that may hear.
    """
    chosen = [[f"10.{number}.0.0/24", *([f"fd{number}::/64"] if six else [])] for number in (77, 78)]
    with network() as made:
        both, one, two = made.host(networks=2), made.host(networks=2), made.host(networks=2)
        async with (
            peer(both, interfaces=chosen[1]) as speaker,
            peer(one, interfaces=["eth0"]) as other,
            peer(one) as everywhere,
            peer(two, interfaces=chosen[1]) as listener,
            peer(two, interfaces=chosen[0]) as elsewhere,
        ):
            await everywhere("watch")
            await listener("watch")
            await elsewhere("watch", 3)
            await speaker("open")
            await other("open")
            for publisher, number, watcher, times in ((other, 2, elsewhere, 3), (speaker, 1, listener, 1)):
                began = await publisher("publish", "worker-added", worker(number).uid, f"0.0.0.0:{7000 + number}")
                at = await seen(watcher, "worker-added", number, JOIN_SECONDS, began, times)
                assert at == f"10.{79 - number}.0.{number}:{7000 + number}"
                assert await seen(everywhere, "worker-added", number, JOIN_SECONDS, began) == at
            # What was said before would have been heard before.
            began = await other("publish", "worker-added", worker(3).uid, "0.0.0.0:7003")
            await seen(elsewhere, "worker-added", 3, JOIN_SECONDS, began, 3)
            assert await elsewhere("wait", "worker-added", worker(1).uid, 0.0) is None
            assert await listener("wait", "worker-added", worker(2).uid, 0.0) is None


@hosts
async def test_a_network_of_ipv6_serves_as_well_where_it_is_asked_for() -> None:
    with network() as made:
        chosen = {"interfaces": ["fd77::/64"]}
        async with peer(made.host(), **chosen) as here, peer(made.host(), **chosen) as there:
            await here("watch")
            await there("open")
            began = await there("publish", "worker-added", worker(1).uid, "[::]:7001")
            assert await seen(here, "worker-added", 1, JOIN_SECONDS, began) == "[fd77::2]:7001"
            began = await there("leave")
            await seen(here, "worker-dropped", 1, LEAVE_SECONDS, began)


@hosts
async def test_a_host_without_a_network_says_so() -> None:
    with network() as made:
        async with peer(made.host(networks=0)) as alone:
            told = await alone("open")
            assert told["error"].startswith("OSError: no interface to find workers by: this host has only lo")


@hosts
async def test_a_port_that_another_program_holds_alone_is_named() -> None:
    with network() as made:
        host = made.host()
        async with peer(host) as greedy, peer(host) as late:
            await greedy("hold_port")
            told = await late("open")
            assert "UDP port 5353 is used by a program that does not share it" in told["error"]


@hosts
async def test_a_worker_on_loopback_is_not_announced_to_other_hosts() -> None:
    with network() as made:
        async with peer(made.host()) as here:
            await here("open")
            told = await here("publish", "worker-added", worker(1).uid, "127.0.0.1:7001")
            assert "ValueError" in told["error"] and "cannot be reached from other hosts" in told["error"]


@hosts
async def test_a_worker_on_another_host_is_found_by_multicast_and_used() -> None:
    with network() as made:
        async with peer(made.host()) as here, peer(made.host()) as there:
            await there("open")
            _, pid = await there("serve", "10.77.0.2:0")
            assert await here("call", 2.0) == [pid]
            await there("leave")


@hosts
async def test_a_host_that_vanished_is_passed_by_at_once_when_its_session_breaks() -> None:
    """Long before discovery drops it."""
    with network() as made:
        async with peer(made.host()) as here, peer(made.host()) as there, peer(made.host()) as elsewhere:
            pids: list[int] = []
            for number, host in ((2, there), (3, elsewhere)):
                await host("open")
                pids.append((await host("serve", f"10.77.0.{number}:0"))[1])
            await here("start_calls")
            for pid in pids:
                await here("calls", pid, 20.0)
            killed = time.monotonic()
            await there.kill()
            answered: list[list[Any]] = []
            while not answered or answered[-1][0] < killed + 4.0:
                answered += await here("calls", pids[1], 20.0)
            after = [each for each in answered if each[0] > killed + 3.0]
            assert {answer for _, _, answer in after} == {pids[1]}
            assert sum(answer == "WorkerLost" for _, _, answer in answered) <= 1, "the one that had started"
            assert max(ended - began for began, ended, _ in answered) < 5.0
            assert {answer for _, _, answer in answered} <= {*pids, "WorkerLost"}
