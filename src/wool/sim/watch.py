"""Turns what the engine says, hears and decides into events of the history.

Why it exists: invariants are judged over words that all share, such as ``w1#0`` and ``c0#0>w1#0/2:17``, and
the engine knows uids and numbers. It must never change anything, nor look into a payload.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Protocol, cast

from wool.balancer import RoundRobinLoadBalancer, WorkerStatus
from wool.discovery.base import DiscoveryEventType, WorkerMetadata
from wool.errors import RpcError, TransientRpcError
from wool.protocol import frames
from wool.protocol.frames import Frame
from wool.sim.network import FRAME_NAMES, SimStream, label_at
from wool.task import Task
from wool.transport.base import Stream

if TYPE_CHECKING:
    from wool.sim.history import Detail, History
    from wool.sim.loop import World

_PLAIN: dict[type, Detail] = {kind: (("frame", name),) for kind, name in FRAME_NAMES.items()}
_VARIED = frozenset({frames.Offer, frames.Result, frames.Step, frames.Reject})
"""Frames of which the history says more than their kind."""
_VIEWS: dict[str, str] = {
    "worker-added": "view.added",
    "worker-updated": "view.updated",
    "worker-dropped": "view.dropped",
}
_RESULTS: dict[frames.ResultKind, Detail] = {
    kind: (("frame", "result"), ("result", kind.name.lower())) for kind in frames.ResultKind
}
_STEPS: dict[frames.StepKind, Detail] = {
    kind: (("frame", "step"), ("step", kind.name.lower())) for kind in frames.StepKind
}
_REJECTS: dict[frames.RejectCode, Detail] = {
    code: (("frame", "reject"), ("code", code.name.lower())) for code in frames.RejectCode
}


def _detail(frame: Frame) -> Detail:
    kind = type(frame)
    if kind is frames.Result:
        result = cast("frames.Result", frame)
        return _sized(_RESULTS[result.kind], result.body)
    if kind is frames.Step:
        step = cast("frames.Step", frame)
        return _sized(_STEPS[step.kind], step.body)
    if kind is frames.Offer:
        return _sized(_PLAIN[kind], cast("frames.Offer", frame).body)
    if kind is frames.Reject:
        return _REJECTS[cast("frames.Reject", frame).code]
    return _PLAIN[kind]


def _sized(detail: Detail, body: frames.Body) -> Detail:
    """Return what the history says of a frame, with how large its payload is."""
    return (*detail, ("bytes", body.total))


class Names(Protocol):
    """The cluster, as an observer knows it."""

    @property
    def world(self) -> World:
        """Its clock."""
        ...

    @property
    def history(self) -> History:
        """Where it is written down."""
        ...

    def incarnation_of(self, uid: str) -> str:
        """Return the incarnation that is a worker."""
        ...


class Watched(Protocol):
    """A process, as its observer knows it."""

    @property
    def name(self) -> str:
        """The incarnation: ``w1#0``."""
        ...

    @property
    def dead(self) -> bool:
        """Whether what it does has no effect any more."""
        ...

    @property
    def cluster(self) -> Names:
        """Where it lives."""
        ...

    def note(self, kind: str, task: str = "", attempt: str = "", detail: Detail = ()) -> None:
        """Write into the history."""
        ...


class NodeObserver:
    """Watches one incarnation. See `wool.observer.Observer`."""

    __slots__ = ("_node",)

    def __init__(self, node: Watched) -> None:
        self._node = node

    def opened(self, stream: Stream) -> None:
        """See `Observer`."""
        assert isinstance(stream, SimStream)
        self._node.note("wire.opened", "", stream.wire.name, (("heard", stream.outward.reads),))

    def lost(self, stream: Stream, reason: str) -> None:
        """See `Observer`."""
        assert isinstance(stream, SimStream)
        self._node.note("wire.lost", "", stream.wire.name, (("reason", reason),))

    def said(self, stream: Stream, frame: Frame) -> None:
        """See `Observer`."""
        self._passed("wire.said", stream, frame)

    def heard(self, stream: Stream, frame: Frame) -> None:
        """See `Observer`."""
        self._passed("wire.heard", stream, frame)

    def _passed(self, kind: str, stream: Stream, frame: Frame) -> None:
        node, sort = self._node, type(frame)
        if node.dead or (detail := _PLAIN.get(sort)) is None:
            return
        if sort in _VARIED:
            detail = _detail(frame)
        if TYPE_CHECKING:
            assert isinstance(stream, SimStream)
        wire = stream.wire
        number: int | None = getattr(frame, "number", None)
        cluster = node.cluster
        if number is None:
            cluster.history.add(cluster.world.now, node.name, kind, "", wire.name, detail)
            return
        known = wire.attempts.get(number)
        if known is None:
            label = frame.task.rstrip(b"\0").decode("ascii", "replace") if isinstance(frame, frames.Offer) else ""
            known = wire.attempts[number] = (label, f"{wire.name}:{number}")
        task, attempt = known
        cluster.history.add(cluster.world.now, node.name, kind, task, attempt, detail)

    def viewed(self, type: DiscoveryEventType, worker: WorkerMetadata) -> None:
        """See `Observer`."""
        name = self._node.cluster.incarnation_of(worker.key)
        self._node.note(_VIEWS[type], detail=(("worker", name), ("address", worker.address)))

    def unreachable(self, worker: WorkerMetadata, reason: RpcError) -> None:
        """See `Observer`. Who is not there is no news; who refuses, or is refused, is."""
        if not isinstance(reason, TransientRpcError):
            detail = (("worker", label_at(worker.address)), ("why", str(reason)))
            self._node.note("place.refused", detail=detail)

    def bound(self, task: bytes, worker: str, candidates: Sequence[str], suspect: bool) -> None:
        """See `Observer`."""
        node = self._node
        names = node.cluster.incarnation_of
        known = tuple(names(uid) for uid in candidates)
        label = task.rstrip(b"\0").decode("ascii", "replace")
        node.note("place.bound", label, detail=(("worker", names(worker)), ("candidates", known), ("suspect", suspect)))


class WatchedBalancer(RoundRobinLoadBalancer):
    """The round robin, from the first on, and whom it was shown: what is counted of each must come back to nothing."""

    def __init__(self) -> None:
        super().__init__(randrange=_zero)
        self._shown: dict[WorkerStatus, None] = {}

    def order(self, task: Task, workers: Sequence[WorkerStatus], /) -> Iterable[WorkerStatus]:
        """See `RoundRobinLoadBalancer.order`."""
        for worker in workers:
            self._shown[worker] = None
        return super().order(task, workers)

    def owed(self) -> Iterator[tuple[int, str]]:
        """Yield how many calls are counted as under way at a worker, if there are any, and the worker's uid."""
        for worker in self._shown:
            if worker.in_flight:
                yield worker.in_flight, worker.metadata.key

    def __reduce__(self) -> tuple[Callable[[], RoundRobinLoadBalancer], tuple[()]]:
        return (from_the_first, ())


def from_the_first() -> RoundRobinLoadBalancer:
    """Return the round robin of a body on a worker: nothing here follows from dice that no seed has thrown."""
    return RoundRobinLoadBalancer(randrange=_zero)


def _zero(bound: int) -> int:
    return 0
