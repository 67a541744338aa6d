"""An observer is told what sessions say and hear and what a proxy decides, when it happens."""

from __future__ import annotations

from collections.abc import Sequence

from support import bodies
from support.one_loop import SECRET, Cluster, cluster, metadata_of
from wool.balancer import RoundRobinLoadBalancer
from wool.discovery.base import DiscoveryEvent, DiscoveryEventType, Sought, WorkerMetadata
from wool.protocol.frames import Frame
from wool.proxy import Proxy
from wool.transport.base import Stream
from wool.transport.memory import MemoryTransport


class Witness:
    """Writes down what it is shown."""

    def __init__(self) -> None:
        self.seen: list[str] = []
        self.streams: list[Stream] = []

    def opened(self, stream: Stream) -> None:
        self.streams.append(stream)
        self.seen.append("opened")

    def said(self, stream: Stream, frame: Frame) -> None:
        assert stream in self.streams
        self.seen.append(f"said {type(frame).__name__}")

    def heard(self, stream: Stream, frame: Frame) -> None:
        assert stream in self.streams
        self.seen.append(f"heard {type(frame).__name__}")

    def lost(self, stream: Stream, reason: str) -> None:
        assert stream in self.streams
        self.seen.append("lost")

    def viewed(self, type: DiscoveryEventType, worker: WorkerMetadata) -> None:
        self.seen.append(f"{type} {worker.uid} {worker.address}")

    def bound(self, task: bytes, worker: str, candidates: Sequence[str], suspect: bool) -> None:
        self.seen.append(f"bound to {worker} of {','.join(candidates)}{' suspect' if suspect else ''}")


def watched(made: Cluster, witness: Witness) -> Proxy:
    proxy = Proxy(
        transport=MemoryTransport(made.network, made.limits),
        balancer=RoundRobinLoadBalancer(randrange=lambda bound: 0),
        secret=SECRET,
        caller_uid="the watched caller",
        pool=b"pool",
        limits=made.limits,
        random_bytes=lambda size: bytes(range(size)),
        what=Sought(words="the cluster"),
        observer=witness,
    )
    made.proxies.append(proxy)
    return proxy


async def test_a_call_is_seen_from_the_choice_to_the_result_and_its_session_to_the_goodbye() -> None:
    witness = Witness()
    async with cluster("one", "two") as made:
        proxy = watched(made, witness)
        for uid in ("one", "two"):
            proxy.discovered(DiscoveryEvent("worker-added", metadata_of(uid, f"unix:/{uid}")))
        assert await made.call(bodies.echo, 4, proxy=proxy) == 4
        await proxy.close("done")
    assert witness.seen == [
        "worker-added one unix:/one",
        "worker-added two unix:/two",
        "bound to one of one,two",
        "opened",
        "said Offer",
        "heard Accept",
        "said Start",
        "heard Result",
        "said Goodbye",
        "lost",
    ]


async def test_the_view_is_told_as_added_updated_dropped_whatever_discovery_repeats() -> None:
    witness = Witness()
    async with cluster() as made:
        proxy = watched(made, witness)
        first, moved = metadata_of("w", "unix:/a"), metadata_of("w", "unix:/b")
        changed = WorkerMetadata(uid="w", address="unix:/a", pid=2, version="1")
        for type, metadata in (
            ("worker-dropped", first),
            ("worker-added", first),
            ("worker-added", first),
            ("worker-updated", changed),
            ("worker-added", moved),
            ("worker-dropped", moved),
            ("worker-dropped", moved),
        ):
            proxy.discovered(DiscoveryEvent(type, metadata))  # type: ignore[arg-type]
    assert witness.seen == [
        "worker-added w unix:/a",
        "worker-updated w unix:/a",
        "worker-dropped w unix:/a",
        "worker-added w unix:/b",
        "worker-dropped w unix:/b",
    ]
