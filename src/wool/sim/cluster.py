"""A whole cluster: its host, its network, its processes, and what its plan does to them.

It owns who is who: which label a uid has, which incarnation is the present one, what is published. It knows
nothing of calls; those are the driver's, in `wool.sim.run`.
"""

from __future__ import annotations

import contextlib
import zlib
from collections.abc import Callable
from typing import TYPE_CHECKING, cast

from wool.credentials import CredentialFiles, WorkerCredentials
from wool.discovery.base import DiscoveryEventType, DiscoveryLike, WorkerMetadata
from wool.discovery.table import TableFull
from wool.limits import Limits
from wool.protocol.frames import PROTOCOL_VERSION
from wool.sim.bodies import Ask, Body
from wool.sim.discovery import Disturbed, Membership, Opened, SharedTable, SimDiscovery, SimPlace
from wool.sim.history import History
from wool.sim.hooks import hook_of
from wool.sim.identity import Made
from wool.sim.kinds import FAULTS, Fault
from wool.sim.loop import LoopOwner, World
from wool.sim.multicast import Segment, SimLan
from wool.sim.network import SimNetwork, Wire, address_of, label_at, net_address_of, number_of
from wool.sim.node import Incarnation
from wool.sim.plan import Plan
from wool.sim.workers import SimLauncher, SimWorker
from wool.sim.zone import UNREADY_SECONDS, SimNames, SimStatic, Zone, dns_name_of, host_name_of
from wool.worker.channel import Configure
from wool.worker.examiner import dump_admission

if TYPE_CHECKING:
    from wool.sim.trust import Trust

NAMESPACE = "cluster"
TAG = "wanted"
"""What a pool wants its workers to have, if some have it not."""
TABLE_SLOTS = 64
FIRST_PID = 100


def _shown(owner: LoopOwner) -> WorkerCredentials | None:
    assert isinstance(owner, Incarnation)
    return None if owner.provider is None else owner.provider()


class Cluster:
    """Everything of one run."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.limits: Limits = plan.knobs.limits()
        self.history: History = History()
        self.made: Made = Made()
        self.tasks: dict[str, tuple[Body, tuple[Ask, ...]]] = plan.tasks()
        jitter = self._jitter if plan.noise.amplitude > 0 else None
        self._noises: dict[str, int] = {}
        self.world: World = World(jitter=jitter)
        self.network: SimNetwork = SimNetwork(
            self.world, latency=plan.knobs.latency, ping_timeout=plan.knobs.ping_timeout, jitter=jitter
        )
        self.healed: bool = False
        """The faulty phase is over: nothing strikes any more."""
        self.disturbed: bool = any(
            fault.group == "discovery" and (">" in fault.target or fault.kind == "late-subscriber")
            for fault in plan.faults
        )
        """Whether the plan has something to do to what subscribers hear."""
        self._closes: set[str] = set()
        """Callers that have begun to close their pools."""
        self.incarnations: dict[str, list[Incarnation]] = {}
        self.workers: dict[str, SimWorker] = {}
        self.when_ended: list[Callable[[Incarnation], None]] = []
        self.segment: Segment = Segment(self, plan.knobs.latency)
        self.network.relayed = self._relayed
        self.zone: Zone = Zone(self)
        self.trust: Trust | None = self._new_trust() if plan.topology.tls else None
        self.other_versions: set[str] = set()
        """Workers that start with another version of the protocol than everybody speaks."""
        self.other_secrets: set[str] = set()
        """Workers that start with another secret than everybody has."""
        self._ports: dict[str, int] = {}
        self._own = plan.topology.workers if plan.topology.finds else 0
        self._labels: dict[str, str] = {}
        self._names: dict[str, str] = {}
        self._tables: dict[str, SharedTable] = {}
        self._tears = any(fault.kind == "torn-write" for fault in plan.faults)
        self._torn: set[str] = set()
        self._struck: set[int] = set()
        self._pids = FIRST_PID

    def _jitter(self, label: str, ordinal: int) -> float:
        # Mostly little, sometimes all of it.
        base = self._noises.get(label)
        if base is None:
            base = self._noises[label] = zlib.crc32(f"{self.plan.seed}/{label}/".encode())
        part = zlib.crc32(b"%d" % ordinal, base) / 0xFFFFFFFF
        return self.plan.noise.amplitude * part**4

    def _new_trust(self) -> Trust:
        from wool.sim.trust import Trust  # needs what no other plan does

        expiries: dict[str, list[float]] = {}
        for fault in self.plan.faults:
            if fault.kind == "expired":
                expiries.setdefault(fault.target, []).append(fault.at)
        topology = self.plan.topology
        trust = Trust(
            lambda: self.world.now,
            self.secret_of,
            expiries,
            identities=topology.identities,
            one_way=topology.one_way,
        )
        self.network.shown = _shown

        def meet(
            wire: Wire, caller: WorkerCredentials | None, worker: WorkerCredentials | None, address: str, since: float
        ) -> str | None:
            if caller is None or worker is None:
                return "one side speaks TLS, and the other does not"
            why = trust.refuses(caller, worker, address)
            if why is None:
                self.history.add(self.world.now, "", "wire.met", "", wire.name, (("since", since),))
            else:
                self.history.add(self.world.now, "", "wire.refused", "", wire.name, (("why", why),))
            return why

        self.network.meet = meet
        return trust

    def _relayed(self, wire: Wire, address: str) -> None:
        self.history.add(self.world.now, "", "wire.relayed", "", wire.name, (("at", address),))

    def secret_of(self, label: str) -> bytes:
        """Return the secret that a process with this label has now."""
        return b"the key of somebody else" if label in self.other_secrets else b"the key of the simulated user"

    def jitter(self, label: str, ordinal: int) -> float:
        """Return by how much later something comes."""
        return self._jitter(label, ordinal) if self.plan.noise.amplitude > 0 else 0.0

    def note(self, kind: str, detail: tuple[tuple[str, object], ...] = ()) -> None:
        """Write an event of the world into the history."""
        self.history.add(self.world.now, "", kind, "", "", detail)

    # ---- processes ----

    def launcher(self, owner: Incarnation) -> SimLauncher:
        """Return what starts the workers of a pool of this process."""
        return SimLauncher(owner, self.workers)

    def new_pid(self) -> int:
        """Mint a process id."""
        self._pids += 1
        return self._pids

    def new_incarnation(self, label: str) -> Incarnation:
        """Make the next process with this label."""
        before = self.incarnations.setdefault(label, [])
        made = Incarnation(self, label, len(before))
        before.append(made)
        return made

    def present(self, label: str) -> Incarnation | None:
        """Return the living process with this label."""
        known = self.incarnations.get(label)
        return known[-1] if known and not known[-1].dead else None

    def process_ended(self, process: Incarnation) -> None:
        """A process is dead."""
        if process.label.startswith("w"):
            self.note("truth.dead", (("worker", process.name),))
            if self.plan.topology.discovery == "dns":
                self.world.loop.call_later(UNREADY_SECONDS, self._unready, process)
        for tell in self.when_ended:
            tell(process)

    def start_worker(self, label: str, ports: int | None = None) -> None:
        """Start a worker that callers find, unless it is up: where it was before, or so many ports further."""
        if self.present(label) is not None or self.fails_to_start(label):
            return
        worker = self.workers[label] = SimWorker(self, label, namespace=NAMESPACE)
        process = worker.process
        uid = process.runtime.new_uid()
        self._labels[uid] = label
        before = self.where(label)
        if ports is not None:
            self._ports[label] = ports
        if self.plan.topology.discovery == "static" and (name := self.name_of(label)) is not None:
            # A name leads to its host, whoever serves there.
            if before != self.where(label):
                self.zone.remove(name, before)
            self.zone.add(name, self.where(label))
        topology = self.plan.topology
        wanted = not topology.untagged or label in self._wanted()
        self.name_incarnation(uid, process)
        if label in self.other_secrets:
            self.note("truth.other-secret", (("worker", process.name),))
        if label in self.other_versions:
            self.note("truth.other-version", (("worker", process.name),))
        trust = self.trust
        # A worker process is given files, which it reads again; this one is given what they hold.
        credentials = None if trust is None else cast("CredentialFiles", trust.provider(label))
        worker.start(
            Configure(
                sys_path=(),
                python_path=None,
                address=self.where(label),
                secret=process.runtime.user_key(),
                uid=uid,
                tags=self.tags if wanted else frozenset(),
                limits=self.limits,
                credentials=credentials,
                max_concurrency=self.plan.knobs.places or None,
                admission=dump_admission(hook_of(self.plan.knobs.admits)),
            )
        )

    # ---- names ----

    def name_worker(self, uid: str) -> str:
        """Give the next label to a worker that a pool is going to start."""
        label = self._labels[uid] = f"w{self._own}"
        self._own += 1
        return label

    def name_incarnation(self, uid: str, process: Incarnation) -> None:
        """Say which process has this uid."""
        self._names[uid] = process.name

    def label_of(self, uid: str) -> str:
        """Return the label of a worker."""
        found = self._labels.get(uid)
        return found if found is not None else label_at(uid) if ":" in uid else uid

    def incarnation_of(self, uid: str) -> str:
        """Return the incarnation that is a worker."""
        return self._names.get(uid, uid)

    # ---- how callers find workers ----

    @property
    def tags(self) -> frozenset[str]:
        """What pools want."""
        return frozenset({TAG}) if self.plan.topology.untagged else frozenset()

    def _wanted(self) -> list[str]:
        return [f"w{number}" for number in self.plan.topology.wanted]

    def where(self, label: str) -> str:
        """Return where the present incarnation of a worker listens."""
        further = self._ports.get(label, 0)
        match self.plan.topology.discovery:
            case "local":
                return address_of(label, further)
            case "static":
                # At its given address, or where the host of its given name is now.
                return net_address_of(label, moves=further if self.name_of(label) else 0)
            case _:
                return net_address_of(label, further)

    def name_of(self, label: str) -> str | None:
        """Return the name by which a worker is looked up, if it is."""
        topology = self.plan.topology
        if topology.discovery == "dns":
            return dns_name_of(label)
        named = topology.workers - topology.named <= number_of(label) < topology.workers
        return host_name_of(label) if named else None

    def _given(self, label: str) -> str:
        """Return where the user of a StaticDiscovery says that a worker is."""
        return self.name_of(label) or net_address_of(label)

    def discovery(self, *, disturbed: bool) -> Opened:
        """Return a discovery of the kind that the plan says."""
        match self.plan.topology.discovery:
            case "local":
                return SimDiscovery(NAMESPACE, self.limits, disturbed=disturbed)
            case "lan":
                made: DiscoveryLike = SimLan(self.limits)
            case "dns":
                made = SimNames(self.limits)
            case "static":
                addresses = [self._given(f"w{number}") for number in range(self.plan.topology.workers)]
                made = SimStatic(*addresses, limits=self.limits)
        return Disturbed(made, disturbed=disturbed)

    # ---- the host's shared memory ----

    def table(self, namespace: str, limits: Limits) -> SharedTable:
        """Return the table of a namespace, made for the first one who joins."""
        found = self._tables.get(namespace)
        if found is None:
            found = self._tables[namespace] = SharedTable(namespace, limits, TABLE_SLOTS)
        return found

    def drop_table(self, namespace: str) -> None:
        """The last one has left."""
        self._tables.pop(namespace, None)

    def memberships_of(self, process: Incarnation) -> list[Membership]:
        """Return the open memberships of a process."""
        return [member for shared in self._tables.values() for member in shared.members if member.owner is process]

    def published(self, type: DiscoveryEventType, metadata: WorkerMetadata) -> None:
        """A worker was announced, or withdrawn."""
        if metadata.uid in self._names:
            if type == "worker-dropped":
                self.withdrawn(metadata.uid)
            else:
                detail = (("worker", self.incarnation_of(metadata.uid)), ("address", metadata.address))
                self.note("truth.published", detail)

    def protocol_of(self, label: str) -> int:
        """Return the version of the protocol that a process with this label speaks now."""
        return PROTOCOL_VERSION + (label in self.other_versions)

    def reached(self, process: Incarnation, point: str) -> None:
        """A worker has come to this point of its life: kill it, if the plan says so."""
        for index, fault in enumerate(self.plan.faults):
            if (fault.point, fault.target) != (point, process.label) or process.dead or self.healed:
                continue
            if fault.at <= self.world.now and index not in self._struck:
                self.struck(index, fault)
                process.crash(f"the plan says so: {point}", silent=fault.how == "silence")

    def ready(self, process: Incarnation, metadata: WorkerMetadata) -> None:
        """A worker that announces nothing itself serves."""
        self.note("truth.published", (("worker", process.name), ("address", metadata.address)))
        if self.plan.topology.discovery == "dns":
            self.zone.add(dns_name_of(process.label), metadata.address)

    def leaving(self, process: Incarnation, metadata: WorkerMetadata) -> None:
        """It was told to stop."""
        self.note("truth.withdrawn", (("worker", process.name),))
        if self.plan.topology.discovery == "dns":
            self.zone.remove(dns_name_of(process.label), metadata.address)

    def _unready(self, process: Incarnation) -> None:
        """It is dead, which whoever runs the zone has noticed; perhaps another one serves at its address."""
        metadata = process.worker.metadata if process.worker is not None else None
        worker = self.workers.get(process.label)
        if metadata is not None and not (
            worker is not None
            and worker.serves
            and worker.metadata is not None
            and worker.metadata.address == metadata.address
        ):
            self.zone.remove(dns_name_of(process.label), metadata.address)

    def withdrawn(self, uid: str) -> None:
        """A worker was withdrawn."""
        if uid in self._names:
            self.note("truth.withdrawn", (("worker", self.incarnation_of(uid)),))

    def is_found(self, label: str) -> bool:
        """Whether a worker serves and is announced."""
        worker = self.workers.get(label)
        return worker is not None and worker.serves and not self._abandoned(worker.process)

    def _abandoned(self, process: Incarnation) -> list[Membership]:
        return [member for member in self.memberships_of(process) if member.abandoned]

    def restore_one(self) -> None:
        """See to it that one worker of the cluster's namespace serves and is announced, as soon as that can be."""
        cut_off = self.plan.cut_off
        labels = [label for label in self._wanted() if label not in cut_off]
        if any(self.is_found(label) for label in labels):
            return
        for label in labels:
            worker = self.workers.get(label)
            if worker is not None and worker.serves:
                # It lives, and who announced it is dead: it is announced anew.
                for membership in self._abandoned(worker.process):
                    membership.abandoned = False
                detail = (("worker", worker.process.name), ("address", self.where(label)))
                self.note("truth.published", detail)
                return
        for label in labels:
            if self.present(label) is None:
                self.start_worker(label)
                return

    def ghost(self, label: str) -> Callable[[], None]:
        """Announce a worker that is not there; return what ends that."""
        process = self.new_incarnation(f"ghost-{label}")
        shared = self.table(NAMESPACE, self.limits)
        membership = Membership(SimPlace(NAMESPACE), shared, process)
        shared.members[membership] = None
        uid = f"ghost-{label}-{process.number}"
        self._labels[uid] = label
        metadata = WorkerMetadata(uid=uid, address=address_of(f"ghost-{label}"), pid=1, version="0", tags=self.tags)
        # Whether or not the table has room is a fault of its own.
        with contextlib.suppress(TableFull):
            membership.try_publish("worker-added", metadata)
        return membership.close

    # ---- faults that are looked up where they have their effect ----

    def strikes(self, kind: str, target: str) -> Fault | None:
        """Return the fault of this kind that strikes ``target`` now, if there is one, and write down that it does."""
        if self.healed:
            return None
        now = self.world.now
        for index, fault in enumerate(self.plan.faults):
            if fault.kind == kind and fault.target == target and fault.at <= now:
                timed = "seconds" in FAULTS[kind].fields
                if not timed or now < fault.at + fault.seconds:
                    self.struck(index, fault)
                    return fault
        return None

    def struck(self, index: int, fault: Fault) -> None:
        """Write down, once, that a fault has had an effect."""
        if index not in self._struck:
            self._struck.add(index)
            self.note("fault.injected", (("fault", fault.kind), ("index", index), ("target", fault.target)))

    def pool_closes(self, caller: Incarnation) -> None:
        """A pool begins to close. From the last on, those workers stand still that the plan has stand still then."""
        self._closes.add(caller.label)
        callers = (f"c{number}" for number in range(self.plan.topology.callers))
        if any(self.present(label) is not None and label not in self._closes for label in callers):
            return
        for index, fault in enumerate(self.plan.faults):
            process = self.present(fault.target) if fault.kind == "freeze" and fault.at <= self.world.now else None
            if process is not None and not process.paused:
                self.struck(index, fault)
                process.pause()

    def thaw(self) -> None:
        """All pools are closed: let everybody go on."""
        for known in self.incarnations.values():
            for process in known:
                process.resume()

    def fails_to_start(self, label: str) -> bool:
        """Whether the plan has the process of a worker fail to start, now."""
        return self.strikes("fail-start", label) is not None

    def is_full(self, uid: str) -> bool:
        """Whether a worker finds no free slot in the table."""
        return self.strikes("table-full", self.label_of(uid)) is not None

    def torn(self, label: str) -> int | None:
        """Return after how many writes a process dies that is changing the table, if the plan says so."""
        if not self._tears or label in self._torn:
            return None
        fault = self.strikes("torn-write", label)
        if fault is None:
            return None
        self._torn.add(label)
        return fault.ordinal
