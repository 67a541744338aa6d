"""Strikes with the faults of a plan, and heals them.

Each fault is taken by itself, and one that points at what is not there does nothing. It owns what is to be
undone when a fault is over; what a fault means for frames is the network's, for events of discovery
`wool.sim.discovery`'s.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from wool.discovery.base import WorkerMetadata
from wool.sim.cluster import Cluster
from wool.sim.kinds import FAULTS, Discovery, Fault
from wool.sim.multicast import forge, forged_goodbye, ghostly, twin_of
from wool.sim.network import AFTER_ARRIVAL_SECONDS, Watch, Wire, label_at, net_address_of, number_of
from wool.sim.node import Incarnation
from wool.sim.plan import Stall, Topology
from wool.sim.zone import dns_name_of

Undo = Callable[[], None]
SAID_AGAIN_SECONDS = 0.3
"""Whoever is announced and not there is announced so often."""
RESTART_SECONDS = 0.05
"""From the end of a worker, at most, to the start of the next one at its place; and then until that is ready."""


class Injector:
    """All faults and stalls of one run."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self._undo: dict[int, Undo] = {}
        self._since: dict[int, float] = {}
        self._release: dict[int, Undo] = {}
        for index, fault in enumerate(cluster.plan.faults):
            self.arm(index, fault)
        for index, stall in enumerate(cluster.plan.stalls):
            cluster.world.loop.call_at(stall.at, self._stall, index, stall)

    @property
    def last_seconds(self) -> float:
        """When the last fault or stall of which the time is known is over."""
        plan = self.cluster.plan
        ends = [fault.at + (0.0 if fault.frame else fault.seconds) for fault in plan.faults]
        return max((*ends, *(stall.at + stall.seconds for stall in plan.stalls)), default=0.0)

    @property
    def restarting(self) -> bool:
        """Whether workers are being restarted, one after the other."""
        return any(self.cluster.plan.faults[index].kind == "rolling-restart" for index in self._undo)

    @property
    def active(self) -> int:
        """Faults that have struck and are not over."""
        return len(self._undo)

    @property
    def watching(self) -> bool:
        """Whether a fault waits for a frame."""
        return any(not watch.fired for watch in self.cluster.network.watches)

    def arm(self, index: int, fault: Fault) -> None:
        """Let a fault of the plan strike, when it is to."""
        cluster = self.cluster
        if fault.frame:

            def strike(wire: Wire, to_worker: bool, says: bool) -> None:
                self._frame(index, fault, wire, to_worker, says)

            watch = Watch(target=fault.target, frame=fault.frame, ordinal=fault.ordinal, strike=strike)
            watch.before = fault.when == "before"
            cluster.network.watches.append(watch)
        elif fault.kind not in _TOLD and not fault.point:
            cluster.world.loop.call_at(fault.at, self._strike, index, fault)

    def _frame(self, index: int, fault: Fault, wire: Wire, to_worker: bool, says: bool) -> None:
        """The frame that a fault waits for is passing."""
        world = self.cluster.world
        if world.now < fault.at or self.cluster.healed:
            return
        if fault.kind == "reset":
            self._note("fault.injected", index, fault)
            self.cluster.network.break_(wire, "the connection was reset")
        elif fault.kind == "delay":
            self._note("fault.injected", index, fault)
            self.cluster.network.hold(wire, to_worker=to_worker, seconds=fault.seconds)
        elif says or fault.when == "before" or ">" in fault.target:
            self._strike(index, fault)
        else:
            # It has to arrive and to be read first.
            due = (wire.to if to_worker else wire.back).due
            world.loop.call_at(due + AFTER_ARRIVAL_SECONDS, self._strike, index, fault)

    def _strike(self, index: int, fault: Fault) -> None:
        if self.cluster.healed or index in self._undo:
            return
        undo = _STRIKES[fault.kind](self.cluster, fault)
        if undo is None:
            return
        self._note("fault.injected", index, fault)
        self._since[index] = self.cluster.world.now
        if fault.kind == "rolling-restart":
            self._undo[index] = undo
            _Rolling(self.cluster, fault, lambda: self._heal_one(index, fault)).next(0)
        elif undo is not _over:
            self._undo[index] = undo
            if fault.seconds > 0:
                self.cluster.world.loop.call_later(fault.seconds, self._heal_one, index, fault)

    def lasted(self, index: int, when: float) -> float | None:
        """Return for how long a fault will have struck then; None if it does not strike now."""
        return when - self._since[index] if index in self._undo else None

    def end_at(self, index: int, when: float) -> None:
        """Let a fault that strikes be over then."""
        # This sum, and not ``when``: it is what a fault that lasts so long comes to.
        when = self._since[index] + (when - self._since[index])
        self.cluster.world.loop.call_at(when, self._heal_one, index, self.cluster.plan.faults[index])

    def _heal_one(self, index: int, fault: Fault) -> None:
        undo = self._undo.pop(index, None)
        if undo is not None:
            undo()
            self._note("fault.healed", index, fault)

    def heal(self) -> None:
        """Undo everything but what stays for ever, and let nothing strike any more."""
        cluster = self.cluster
        staying = cluster.plan.staying
        for index in [index for index in self._undo if index not in staying]:
            self._heal_one(index, cluster.plan.faults[index])
        for release in list(self._release.values()):
            release()
        cluster.healed = True
        cluster.network.watches.clear()
        for link in cluster.network.links.values():
            link.watches.clear()
        for known in cluster.incarnations.values():
            for process in known:
                process.seams_left = None
        whole = not self._undo and all(
            cluster.is_found(f"w{number}") for number in range(cluster.plan.topology.workers)
        )
        # ``all``: no worker is missing, so that none may stay without work for good.
        cluster.note("phase.healed", (("all", whole),))

    def _note(self, kind: str, index: int, fault: Fault) -> None:
        detail = (("fault", fault.kind), ("index", index), ("target", fault.target))
        self.cluster.note(kind, detail)

    # ---- stalls ----

    def _stall(self, index: int, stall: Stall) -> None:
        loops = [loop for loop in self.cluster.world.loops if loop.name == stall.loop and not loop.dead]
        if not loops or self.cluster.healed:
            return
        loop = loops[0]
        loop.hold()

        def release() -> None:
            if self._release.pop(index, None) is not None:
                loop.release()

        self._release[index] = release
        self.cluster.world.loop.call_later(stall.seconds, release)


def _over() -> None:
    """For a fault that has nothing to undo."""


def _node(cluster: Cluster, fault: Fault) -> Incarnation | None:
    return cluster.present(fault.target)


def _refuse(cluster: Cluster, fault: Fault) -> Undo:
    link = cluster.network.link(fault.target)
    link.refused += 1

    def undo() -> None:
        link.refused -= 1

    return undo


def _swallow(cluster: Cluster, fault: Fault) -> Undo:
    link = cluster.network.link(fault.target)
    link.swallowed += 1

    def undo() -> None:
        link.swallowed -= 1

    return undo


def _reset(cluster: Cluster, fault: Fault) -> Undo | None:
    wires = list(cluster.network.link(fault.target).wires)
    for wire in wires:
        cluster.network.break_(wire, "the connection was reset")
    return _over if wires else None


def _partition(cluster: Cluster, fault: Fault) -> Undo:
    link = cluster.network.link(fault.target)
    cluster.network.block(link, fault.direction)
    return lambda: cluster.network.unblock(link, fault.direction)


def _slow(cluster: Cluster, fault: Fault) -> Undo:
    link = cluster.network.link(fault.target)
    link.latency += fault.amount

    def undo() -> None:
        link.latency -= fault.amount

    return undo


def _crash(cluster: Cluster, fault: Fault) -> Undo | None:
    process = _node(cluster, fault)
    if process is None:
        return None
    if fault.seam:
        process.seams_left = fault.seam
        return _over
    process.crash("the plan says so", silent=fault.how == "silence")
    return _over


def _pause(cluster: Cluster, fault: Fault) -> Undo | None:
    process = _node(cluster, fault)
    if process is None or process.paused:
        return None
    process.pause()
    return process.resume


def _crawl(cluster: Cluster, fault: Fault) -> Undo | None:
    process = _node(cluster, fault)
    if process is None:
        return None
    for loop in (process.user, process.io):
        loop.crawl_seconds += fault.amount

    def undo() -> None:
        for loop in (process.user, process.io):
            loop.crawl_seconds -= fault.amount

    return undo


def _terminate(cluster: Cluster, fault: Fault) -> Undo | None:
    process = _node(cluster, fault)
    if process is None or process.worker is None:
        return None
    process.worker.terminate()
    return _over


def _restart(cluster: Cluster, fault: Fault) -> Undo | None:
    topology = cluster.plan.topology
    if not topology.finds or fault.target not in cluster.incarnations or number_of(fault.target) >= topology.workers:
        return None
    if cluster.present(fault.target) is not None:
        return None
    cluster.start_worker(fault.target)
    return _over


def _ghost(cluster: Cluster, fault: Fault) -> Undo | None:
    match cluster.plan.topology:
        case Topology(mode="pool") | Topology(discovery="static"):
            return None
        case Topology(discovery="dns"):
            name, address = dns_name_of(fault.target), net_address_of(f"ghost-{fault.target}")
            cluster.zone.add(name, address)
            return lambda: cluster.zone.remove(name, address)
        case Topology(discovery="lan"):
            label = f"ghost-{fault.target}"
            ghost = WorkerMetadata(uid=label, address=net_address_of(label), pid=1, version="0", tags=cluster.tags)
            return _said_again(cluster, ghost)
        case _:
            return cluster.ghost(fault.target)


def _said_again(cluster: Cluster, metadata: WorkerMetadata) -> Undo:
    """Announce again and again what nobody can reach; return what ends that, without a goodbye."""
    over = False

    def say() -> None:
        if not over:
            ghostly(cluster.segment, metadata, float(cluster.limits.lan_ttl_seconds))
            cluster.world.loop.call_later(SAID_AGAIN_SECONDS, say)

    def undo() -> None:
        nonlocal over
        over = True

    say()
    return undo


def _metadata(cluster: Cluster, fault: Fault, way: Discovery) -> WorkerMetadata | None:
    """Return what is known of the worker that a fault of this kind of discovery strikes."""
    worker = cluster.workers.get(fault.target)
    return worker.metadata if worker is not None and cluster.plan.topology.discovery == way else None


def _forged_goodbye(cluster: Cluster, fault: Fault) -> Undo | None:
    metadata = _metadata(cluster, fault, "lan")
    if metadata is None:
        return None
    forged_goodbye(cluster.segment, metadata)
    return _over


def _forged(cluster: Cluster, fault: Fault) -> Undo | None:
    metadata = _metadata(cluster, fault, "lan")
    if metadata is None:
        return None
    forge(cluster.segment, metadata, fault.ordinal, float(cluster.limits.lan_ttl_seconds))
    return _over


def _twin(cluster: Cluster, fault: Fault) -> Undo | None:
    metadata = _metadata(cluster, fault, "lan")
    return None if metadata is None else _said_again(cluster, twin_of(metadata))


def _relay(cluster: Cluster, fault: Fault) -> Undo | None:
    topology, relays = cluster.plan.topology, cluster.network.relays
    metadata = _metadata(cluster, fault, topology.discovery)
    if metadata is None or number_of(fault.target) >= topology.workers:
        return None
    if topology.discovery == "lan":
        between = twin_of(metadata)
        address, undo = between.address, _said_again(cluster, between)
    else:
        name, address = dns_name_of(fault.target), net_address_of(f"ghost-{fault.target}")
        cluster.zone.add(name, address)

        def undo() -> None:
            cluster.zone.remove(name, address)

    relays[address] = metadata.address

    def over() -> None:
        undo()
        relays.pop(address, None)

    return over


def _zone_flap(cluster: Cluster, fault: Fault) -> Undo | None:
    topology, name = cluster.plan.topology, cluster.name_of(fault.target)
    metadata = _metadata(cluster, fault, topology.discovery)
    if metadata is None or name is None or number_of(fault.target) >= topology.workers:
        return None

    def back() -> None:
        worker = cluster.workers[fault.target]
        if topology.discovery == "static":
            cluster.zone.add(name, cluster.where(fault.target))
        elif worker.serves and worker.metadata is not None:
            cluster.zone.add(name, worker.metadata.address)

    def gone() -> None:
        for address in cluster.zone.now(name):
            if label_at(address) == fault.target:
                cluster.zone.remove(name, address)

    return _by_turns(cluster, fault, gone, back)


def _by_turns(cluster: Cluster, fault: Fault, gone: Undo, back: Undo) -> Undo:
    """Do the one, and after half of each turn the other; return the other."""
    times = max(1, fault.ordinal)

    def turn() -> None:
        if not cluster.healed:
            gone()
            cluster.world.loop.call_later(fault.seconds / times / 2, back)

    turn()
    for number in range(1, times):
        cluster.world.loop.call_later(fault.seconds * number / times, turn)
    return back


def _hello_flap(cluster: Cluster, fault: Fault) -> Undo | None:
    topology = cluster.plan.topology
    if _metadata(cluster, fault, "lan") is None or number_of(fault.target) >= topology.workers:
        return None

    def announced(*, wanted: bool) -> None:
        cluster.workers[fault.target].announce(wanted=wanted)

    return _by_turns(cluster, fault, lambda: announced(wanted=False), lambda: announced(wanted=True))


class _Rolling:
    """A rolling restart under way: the next worker is told to stop when the one before is up again."""

    def __init__(self, cluster: Cluster, fault: Fault, over: Undo) -> None:
        self._cluster = cluster
        self._fault = fault
        self._over = over

    def next(self, number: int) -> None:
        """Tell the worker with this number to stop, or come to the end."""
        cluster = self._cluster
        if cluster.healed or number >= cluster.plan.topology.workers:
            self._over()
            return
        process = cluster.present(f"w{number}")
        if process is None or process.worker is None or not process.worker.serves:
            self.next(number + 1)
            return
        process.worker.terminate()
        self._wait(number, process)

    def _wait(self, number: int, process: Incarnation) -> None:
        cluster, fault = self._cluster, self._fault
        if cluster.healed:
            return
        if not process.dead:
            cluster.world.loop.call_later(RESTART_SECONDS, self._wait, number, process)
            return
        cluster.start_worker(process.label, fault.ordinal)
        cluster.world.loop.call_later(RESTART_SECONDS + fault.seconds, self.next, number + 1)


def _rolling(cluster: Cluster, fault: Fault) -> Undo | None:
    return (lambda: None) if cluster.plan.topology.finds else None


def _dead_publisher(cluster: Cluster, fault: Fault) -> Undo | None:
    process = _node(cluster, fault)
    memberships = [] if process is None else [m for m in cluster.memberships_of(process) if m.published]
    if process is None or not memberships or not cluster.plan.topology.finds:
        return None
    for membership in memberships:
        membership.abandoned = True
    cluster.note("truth.withdrawn", (("worker", process.name),))
    return _over


def _other(cluster: Cluster, fault: Fault) -> Undo | None:
    topology, label = cluster.plan.topology, fault.target
    others = cluster.other_secrets if fault.kind == "other-secret" else cluster.other_versions
    if not topology.finds or number_of(label) >= topology.workers or label in others:
        return None

    def anew() -> None:
        process = cluster.present(label)
        if process is not None:
            process.crash("it is set up anew")
        cluster.start_worker(label)

    def undo() -> None:
        others.discard(label)
        anew()

    others.add(label)
    anew()
    return undo


def _flawed(cluster: Cluster, fault: Fault) -> Undo | None:
    if cluster.trust is None:
        return None
    flaw: Any = fault.kind
    return cluster.trust.spoil(fault.target, flaw, fault.seconds)


def _rotation(cluster: Cluster, fault: Fault) -> Undo | None:
    trust = cluster.trust
    if trust is None:
        return None
    number = trust.believe_next()
    # Whatever comes later: all of it is over when the fault is.
    cluster.world.loop.call_later(fault.seconds / 2, trust.sign_by, number)

    def undo() -> None:
        trust.sign_by(number)
        trust.believe_only(number)

    return undo


_STRIKES: dict[str, Callable[[Cluster, Fault], Undo | None]] = {
    "refuse": _refuse,
    "swallow": _swallow,
    "reset": _reset,
    "partition": _partition,
    "clog": _partition,
    "slow": _slow,
    "crash": _crash,
    "pause": _pause,
    "crawl": _crawl,
    "terminate": _terminate,
    "restart": _restart,
    "ghost": _ghost,
    "dead-publisher": _dead_publisher,
    "rolling-restart": _rolling,
    "forged-goodbye": _forged_goodbye,
    "forged": _forged,
    "twin": _twin,
    "zone-flap": _zone_flap,
    "hello-flap": _hello_flap,
    "other-secret": _other,
    "other-version": _other,
    "expired": _flawed,
    "not-yet-valid": _flawed,
    "wrong-authority": _flawed,
    "wrong-name": _flawed,
    "wrong-usage": _flawed,
    "relay": _relay,
    "rotation": _rotation,
}
_TOLD = frozenset(FAULTS) - frozenset(_STRIKES) - {"delay"}
"""Kinds that are looked up where they have their effect."""
