"""A host's shared memory, for LocalDiscovery, and what a plan does to what a subscriber hears.

Why it exists: production's `wool.discovery.local` decides when to look, `wool.discovery.view` what a look
means and `wool.discovery.table` what a change writes. Files, locks and dying processes are what is left, and
that is simulated here: a `bytearray`, the writes of a change one by one, and leases that die with their
process.

`Told` stands between a subscriber and its events, and delays, doubles, reorders, loses and makes good, hides
and flaps, as events of a discovery over a network may be.

What it must never do: tell a subscriber something about a worker that no discovery could.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, Self, cast

from wool.discovery import table
from wool.discovery.base import (
    DiscoveryEvent,
    DiscoveryEventType,
    DiscoveryLike,
    DiscoverySubscriberLike,
    WorkerFilter,
    WorkerMetadata,
)
from wool.discovery.local import LocalDiscovery
from wool.limits import Limits
from wool.sim.loop import LoopOwner, SimLoop
from wool.sim.subscribed import Between, Overheard
from wool.supplied import is_manager

if TYPE_CHECKING:
    from wool.discovery.base import DiscoveryPublisherLike
    from wool.sim.kinds import Fault
    from wool.sim.plan import Plan


class Host(Protocol):
    """The cluster, as discovery knows it."""

    @property
    def plan(self) -> Plan:
        """What happens."""
        ...

    @property
    def healed(self) -> bool:
        """Whether nothing strikes any more."""
        ...

    def table(self, namespace: str, limits: Limits) -> SharedTable:
        """Return the table of a namespace, made for the first one who joins."""
        ...

    def drop_table(self, namespace: str) -> None:
        """The last one has left."""
        ...

    def published(self, type: DiscoveryEventType, metadata: WorkerMetadata) -> None:
        """A worker was announced, or withdrawn."""
        ...

    def withdrawn(self, uid: str) -> None:
        """A worker was withdrawn."""
        ...

    def is_full(self, uid: str) -> bool:
        """Whether a worker finds no free slot in the table."""
        ...

    def torn(self, label: str) -> int | None:
        """Return after how many writes a process dies that is changing the table, if it does."""
        ...

    def struck(self, index: int, fault: Fault) -> None:
        """Write down, once, that a fault has had an effect."""
        ...

    def label_of(self, uid: str) -> str:
        """Return the label of a worker."""
        ...

    def present(self, label: str) -> LoopOwner | None:
        """Return the living process with this label."""
        ...


class Process(LoopOwner, Protocol):
    """A process of the host, as discovery knows it."""

    @property
    def cluster(self) -> Host:
        """Where it lives."""
        ...

    def crash(self, reason: str) -> None:
        """Kill it."""
        ...


def _here() -> Process:
    loop = asyncio.get_running_loop()
    assert isinstance(loop, SimLoop) and loop.owner is not None
    return cast("Process", loop.owner)


def _sees_less(here: Process, index: int, fault: Fault, worker: str) -> None:
    """Write down that a fault changes what this process sees of a worker, if there is such a worker."""
    if here.cluster.present(worker) is not None:
        here.cluster.struck(index, fault)


class SharedTable:
    """One namespace: the bytes that all its members see, and who holds which lease."""

    def __init__(self, namespace: str, limits: Limits, slots: int) -> None:
        self.namespace = namespace
        self.data: bytearray = bytearray()
        self.layout: table.Layout = table.Layout.of(slots=slots, record_bytes=limits.record_bytes)
        table.apply(self.data, self.layout.initial())
        self.leases: dict[bytes, Membership] = {}
        self.members: dict[Membership, None] = {}
        self._tokens = 0
        self._written = 1
        self._read: tuple[int, table.Snapshot] | None = None

    def new_lease(self) -> bytes:
        """Return a token that nobody has had."""
        self._tokens += 1
        return self._tokens.to_bytes(table.LEASE_BYTES, "big")

    def write(self, writes: tuple[table.Write, ...]) -> None:
        """Carry out writes, in order."""
        table.apply(self.data, writes)
        self._written += 1

    def snapshot(self) -> table.Snapshot:
        """Read the table; what was read since the last write is read once for all members."""
        if self._read is None or self._read[0] != self._written:
            self._read = (self._written, table.Snapshot.read(bytes(self.data)))
        return self._read[1]


@dataclass(frozen=True, slots=True)
class SimPlace:
    """How to join a namespace of the simulated host; it travels in the description of a pool."""

    namespace: str

    @property
    def gate(self) -> str:
        """What members wait for: nothing, each of their steps is one step of a loop."""
        return f"the gate of {self.namespace}"

    def join(self, limits: Limits) -> Membership:
        """Join; the first one makes the table."""
        here = _here()
        here.seam()
        shared = here.cluster.table(self.namespace, limits)
        membership = Membership(self, shared, here)
        shared.members[membership] = None
        return membership

    def try_join(self, limits: Limits) -> Membership | None:
        """See `join`."""
        return self.join(limits)


class Membership:
    """One process's use of a namespace."""

    def __init__(self, place: SimPlace, shared: SharedTable, owner: Process) -> None:
        self.place = place
        self.owner = owner
        self.abandoned: bool = False
        """Whoever published here is dead, although this process lives."""
        self._shared = shared
        self._leases: dict[str, bytes] = {}
        self._closed = False

    @property
    def published(self) -> int:
        """How many workers were published here and not dropped."""
        return len(self._leases)

    @property
    def alive(self) -> bool:
        """Whether its leases are held."""
        return not (self.owner.dead or self.abandoned)

    def check_process(self) -> None:
        """A simulated process does not fork."""

    def generation(self) -> int:
        """Return the number that every change raises."""
        return table.read_generation(self._shared.data)

    def look(self) -> table.Snapshot | None:
        """Return what the table holds."""
        return self._shared.snapshot()

    def is_live(self, lease: bytes) -> bool:
        """Whether the process that holds ``lease`` lives."""
        holder = self._shared.leases.get(lease)
        return holder is not None and holder.alive

    def try_publish(self, type: DiscoveryEventType, metadata: WorkerMetadata) -> bool:
        """Publish; nobody else is ever at the gate."""
        if not self.owner.seam():
            return True
        if self._closed:
            raise RuntimeError(f"namespace {self.place.namespace!r} was closed before this was published")
        shared, cluster = self._shared, self.owner.cluster
        namespace, data = self.place.namespace, shared.data
        if type == "worker-added":
            if cluster.is_full(metadata.uid):
                raise table.TableFull(namespace, shared.layout.slots)
            token = shared.new_lease()
            change = table.add(data, metadata, token, namespace=namespace, is_live=self.is_live)
            shared.leases[token] = self
            self._leases[metadata.uid] = token
        elif type == "worker-updated":
            change = table.update(data, metadata, namespace=namespace, is_live=self.is_live)
        else:
            change = table.drop(data, metadata.uid, namespace=namespace)
            self._leases.pop(metadata.uid, None)
        self._carry_out(change, cluster.torn(self.owner.label))
        if not self.owner.dead:
            cluster.published(type, metadata)
        return True

    def _carry_out(self, change: table.Change, torn: int | None) -> None:
        writes = tuple(change.writes)
        if torn is not None:
            # The process dies in the middle of one write: half of its bytes are there.
            half = [table.Write(w.offset, w.data[: len(w.data) // 2]) for w in writes[torn : torn + 1]]
            self._shared.write((*writes[:torn], *half))
            self.owner.crash("died while it wrote its record")
            return
        self._shared.write(writes)
        if change.retired is not None:
            self._shared.leases.pop(change.retired, None)

    def close(self) -> None:
        """Drop what was published here, and leave; idempotent."""
        if self._closed or not self.owner.seam():
            return
        self._closed = True
        shared, cluster = self._shared, self.owner.cluster
        shared.members.pop(self, None)
        ours = frozenset(self._leases.values())
        gone = list(self._leases)
        self._leases.clear()
        for change in table.reclaim(shared.data, is_live=lambda token: token not in ours):
            self._carry_out(change, None)
        for uid in gone:
            cluster.withdrawn(uid)
        if not shared.members:
            cluster.drop_table(self.place.namespace)

    def __repr__(self) -> str:
        return f"<Membership of {self.owner.name} in {self.place.namespace!r}>"


class SimDiscovery:
    """A LocalDiscovery of the simulated host, whose subscribers hear what the plan lets them hear."""

    def __init__(self, namespace: str, limits: Limits, *, disturbed: bool) -> None:
        self.local: LocalDiscovery = LocalDiscovery.over(SimPlace(namespace), limits=limits)
        self._disturbed = disturbed

    async def __aenter__(self) -> Self:
        self.local.__enter__()
        return self

    async def __aexit__(self, *error: object) -> None:
        self.local.__exit__(None, None, None)

    @property
    def publisher(self) -> DiscoveryPublisherLike:
        """See `LocalDiscovery.publisher`."""
        return self.local.publisher

    @property
    def subscriber(self) -> DiscoverySubscriberLike:
        """See `LocalDiscovery.subscriber`."""
        return self.subscribe()

    def subscribe(self, filter: WorkerFilter | None = None, /) -> DiscoverySubscriberLike:
        """See `LocalDiscovery.subscribe`."""
        inner = Overheard(self.local.subscribe(filter))
        return Told(inner) if self._disturbed else inner

    def __repr__(self) -> str:
        return f"<SimDiscovery {self.local.namespace!r}>"


class Opened(Protocol):
    """A discovery of the simulated host or network, of any kind; it is entered to publish."""

    @property
    def publisher(self) -> DiscoveryPublisherLike:
        """Announces workers."""
        ...

    @property
    def subscriber(self) -> DiscoverySubscriberLike:
        """Sees all workers."""
        ...

    def subscribe(self, filter: WorkerFilter | None = None, /) -> DiscoverySubscriberLike:
        """Return a subscriber that sees only the workers for which ``filter`` is true."""
        ...

    async def __aenter__(self) -> Any: ...

    async def __aexit__(self, *error: object) -> None: ...


class Disturbed:
    """A discovery over the network, whose subscribers hear what the plan lets them hear."""

    def __init__(self, made: DiscoveryLike, *, disturbed: bool) -> None:
        self._made = made
        self._disturbed = disturbed

    async def __aenter__(self) -> Self:
        if is_manager(self._made):
            await cast("Opened", self._made).__aenter__()
        return self

    async def __aexit__(self, *error: object) -> None:
        if is_manager(self._made):
            await cast("Opened", self._made).__aexit__()

    @property
    def publisher(self) -> DiscoveryPublisherLike:
        """Announces workers, where it can."""
        return self._made.publisher

    @property
    def subscriber(self) -> DiscoverySubscriberLike:
        """Sees all workers."""
        return self.subscribe()

    def subscribe(self, filter: WorkerFilter | None = None, /) -> DiscoverySubscriberLike:
        """Return a subscriber that sees only the workers for which ``filter`` is true."""
        inner = Overheard(self._made.subscribe(filter))
        return Told(inner) if self._disturbed else inner

    def __repr__(self) -> str:
        return f"<Disturbed {self._made!r:.100}>"


class Told(Between):
    """The events are delayed, doubled, lost and so on, as the plan says of whoever follows them."""

    async def _events(self) -> AsyncGenerator[DiscoveryEvent, None]:
        here = _here()
        faults = here.cluster.plan.faults
        loop = asyncio.get_running_loop()
        for index, fault in enumerate(faults):
            if fault.kind == "late-subscriber" and fault.target == here.label and fault.at > loop.time():
                here.cluster.struck(index, fault)
                await asyncio.sleep(fault.at - loop.time())
        ear = _Ear(here)
        feed = loop.create_task(ear.listen(self._inner), name="discovery, disturbed")
        try:
            while True:
                event = await ear.heard.get()
                if event is None:
                    await feed
                    return
                yield event
        finally:
            ear.close()
            feed.cancel()
            await asyncio.wait([feed])


class _Ear:
    """One subscription: what is known of each worker, and what is told of it, when."""

    def __init__(self, here: Process) -> None:
        self.heard: asyncio.Queue[DiscoveryEvent | None] = asyncio.Queue()
        self._here = here
        self._loop = asyncio.get_running_loop()
        self._count: dict[str, int] = {}
        self._there: dict[str, dict[str, WorkerMetadata]] = {}
        self._hidden: dict[str, int] = {}
        self._behind: dict[str, list[DiscoveryEvent]] = {}
        self._due: dict[str, float] = {}
        self._timers: list[asyncio.TimerHandle] = []
        for index, fault in enumerate(here.cluster.plan.faults):
            if fault.group == "discovery" and fault.target.startswith(f"{here.label}>"):
                self._schedule(index, fault, fault.target.partition(">")[2])

    def _schedule(self, index: int, fault: Fault, worker: str) -> None:
        if fault.kind in ("premature-drop", "split-view", "flap"):
            self._at(fault.at, _sees_less, self._here, index, fault, worker)
        if fault.kind in ("premature-drop", "split-view"):
            self._at(fault.at, self._hide, worker)
            self._at(fault.at + fault.seconds, self._show, worker)
        elif fault.kind == "flap":
            times = max(1, fault.ordinal)
            for turn in range(times):
                self._at(fault.at + fault.seconds * turn / times, self._hide, worker)
                self._at(fault.at + fault.seconds * (turn + 0.5) / times, self._show, worker)

    def _at(self, when: float, callback: Any, *arguments: object) -> None:
        self._timers.append(self._loop.call_at(max(when, self._loop.time()), callback, *arguments))

    def close(self) -> None:
        for timer in self._timers:
            timer.cancel()

    async def listen(self, inner: DiscoverySubscriberLike) -> None:
        events = inner.__aiter__()
        try:
            async for event in events:
                self._take(event)
        finally:
            self.heard.put_nowait(None)
            close = getattr(events, "aclose", None)
            if close is not None:
                await close()

    def _take(self, event: DiscoveryEvent) -> None:
        cluster, now = self._here.cluster, self._loop.time()
        worker = cluster.label_of(event.metadata.key)
        ordinal = self._count.get(worker, 0)
        self._count[worker] = ordinal + 1
        there = self._there.setdefault(worker, {})
        if event.type == "worker-dropped":
            there.pop(event.metadata.key, None)
        else:
            there[event.metadata.key] = event.metadata
        delay = 0.0
        target = f"{self._here.label}>{worker}"
        for index, fault in enumerate(cluster.plan.faults):
            if fault.target != target or cluster.healed:
                continue
            if fault.kind == "view-delay" and fault.at <= now < fault.at + fault.seconds:
                cluster.struck(index, fault)
                delay = max(delay, fault.amount)
            elif fault.kind == "view-duplicate" and fault.ordinal == ordinal:
                cluster.struck(index, fault)
                self._tell(worker, event, delay)
            elif fault.kind == "view-lose" and fault.ordinal == ordinal:
                cluster.struck(index, fault)
                self._at(now + fault.seconds, self._refresh, worker, event)
                return
            elif fault.kind == "view-reorder" and fault.ordinal == ordinal:
                cluster.struck(index, fault)
                self._behind.setdefault(worker, []).append(event)
                # If nothing follows, it comes by itself.
                self._at(now + 1.0, self._release, worker)
                return
        self._tell(worker, event, delay)
        self._release(worker)

    def _release(self, worker: str) -> None:
        for event in self._behind.pop(worker, ()):
            self._tell(worker, event, 0.0)
            self._at(self._loop.time() + 1.0, self._refresh, worker, event)

    def _refresh(self, worker: str, event: DiscoveryEvent) -> None:
        """Tell how it stands with a worker of which something was lost or came in the wrong order."""
        metadata = self._there.get(worker, {}).get(event.metadata.key)
        if metadata is None:
            self._tell(worker, DiscoveryEvent("worker-dropped", event.metadata), 0.0)
        else:
            self._tell(worker, DiscoveryEvent("worker-added", metadata), 0.0)

    def _tell(self, worker: str, event: DiscoveryEvent, delay: float) -> None:
        if self._hidden.get(worker):
            return
        now = self._loop.time()
        due = max(now + delay, self._due.get(worker, 0.0))
        self._due[worker] = due
        if due > now:
            self._at(due, self._tell_now, worker, event)
        else:
            self.heard.put_nowait(event)

    def _tell_now(self, worker: str, event: DiscoveryEvent) -> None:
        if not self._hidden.get(worker):
            self.heard.put_nowait(event)

    def _hide(self, worker: str) -> None:
        self._hidden[worker] = self._hidden.get(worker, 0) + 1
        if self._hidden[worker] == 1:
            for metadata in self._there.get(worker, {}).values():
                self.heard.put_nowait(DiscoveryEvent("worker-dropped", metadata))

    def _show(self, worker: str) -> None:
        self._hidden[worker] -= 1
        if not self._hidden[worker]:
            for metadata in self._there.get(worker, {}).values():
                self.heard.put_nowait(DiscoveryEvent("worker-added", metadata))
