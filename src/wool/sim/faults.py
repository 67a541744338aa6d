"""Strikes with the faults of a plan, and heals them.

Each fault is taken by itself, and one that points at what is not there does nothing. It owns what is to be
undone when a fault is over; what a fault means for frames is the network's, for events of discovery
`wool.sim.discovery`'s.
"""

from __future__ import annotations

from collections.abc import Callable

from wool.sim.cluster import Cluster
from wool.sim.network import AFTER_ARRIVAL_SECONDS, Watch, Wire
from wool.sim.node import Incarnation
from wool.sim.plan import FAULTS, Fault, Stall

Undo = Callable[[], None]


class Injector:
    """All faults and stalls of one run."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self._undo: dict[int, Undo] = {}
        self._release: dict[int, Undo] = {}
        for index, fault in enumerate(cluster.plan.faults):
            self._arm(index, fault)
        for index, stall in enumerate(cluster.plan.stalls):
            cluster.world.loop.call_at(stall.at, self._stall, index, stall)

    @property
    def last_seconds(self) -> float:
        """When the last fault or stall of which the time is known is over."""
        plan = self.cluster.plan
        ends = [fault.at + (0.0 if fault.frame else fault.seconds) for fault in plan.faults]
        return max((*ends, *(stall.at + stall.seconds for stall in plan.stalls)), default=0.0)

    @property
    def active(self) -> int:
        """Faults that have struck and are not over."""
        return len(self._undo)

    @property
    def watching(self) -> bool:
        """Whether a fault waits for a frame."""
        return any(not watch.fired for watch in self.cluster.network.watches)

    def _arm(self, index: int, fault: Fault) -> None:
        cluster = self.cluster
        if fault.frame:

            def strike(wire: Wire, to_worker: bool, says: bool) -> None:
                self._frame(index, fault, wire, to_worker, says)

            watch = Watch(target=fault.target, frame=fault.frame, ordinal=fault.ordinal, strike=strike)
            watch.before = fault.when == "before"
            cluster.network.watches.append(watch)
        elif fault.kind not in _TOLD:
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
        if undo is not _over:
            self._undo[index] = undo
            if fault.seconds > 0:
                self.cluster.world.loop.call_later(fault.seconds, self._heal_one, index, fault)

    def _heal_one(self, index: int, fault: Fault) -> None:
        undo = self._undo.pop(index, None)
        if undo is not None:
            undo()
            self._note("fault.healed", index, fault)

    def heal(self) -> None:
        """Undo everything, and let nothing strike any more."""
        cluster = self.cluster
        for index in list(self._undo):
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
        whole = all(cluster.is_found(f"w{number}") for number in range(cluster.plan.topology.workers))
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
    if cluster.plan.topology.mode != "proxy" or fault.target not in cluster.incarnations:
        return None
    if cluster.present(fault.target) is not None:
        return None
    cluster.start_worker(fault.target)
    return _over


def _ghost(cluster: Cluster, fault: Fault) -> Undo | None:
    if cluster.plan.topology.mode != "proxy":
        return None
    return cluster.ghost(fault.target)


def _dead_publisher(cluster: Cluster, fault: Fault) -> Undo | None:
    process = _node(cluster, fault)
    memberships = [] if process is None else [m for m in cluster.memberships_of(process) if m.published]
    if process is None or not memberships or cluster.plan.topology.mode != "proxy":
        return None
    for membership in memberships:
        membership.abandoned = True
    cluster.note("truth.withdrawn", (("worker", process.name),))
    return _over


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
}
_TOLD = frozenset(FAULTS) - frozenset(_STRIKES) - {"delay"}
"""Kinds that are looked up where they have their effect."""
