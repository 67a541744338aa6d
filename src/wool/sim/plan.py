"""A plan says everything that happens in one simulated run: it is data, and a run is a function of it.

Owns the vocabulary (topology, knobs, calls, stalls, noise; `wool.sim.bodies` has what is called, `wool.sim.kinds` what
can go wrong), its validation and its JSON.
It must never hold anything that a run would not repeat: no objects, no clock, no order of a set.

Things are named by label and by an ordinal that the item itself carries, never by their place in a list:
dropping one item renames nothing. Every item is independent, and harmless when what it points at is not
there. So fewer and smaller is simpler, and that is the order in which Hypothesis shrinks.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Any, Literal

from wool.limits import KIB, MIB, Limits
from wool.sim.bodies import MOST_SECONDS, NOTHING, Ask, Body, check_seconds, labelled
from wool.sim.kinds import Discovery, Fault
from wool.sim.records import Json, from_json, to_json

LABEL_BYTES = 16
"""A task's label is its key on the wire."""


# ---- calls -------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """A call from the top: its label is that of its caller and its own ordinal, ``c0.3``.

    ``timeout`` is the dispatch timeout; 0 stands for the default of the knobs. ``size`` bytes of
    arguments travel with it. ``cancel_at`` is a time of the run, as ``at`` is; cancelled it may be
    ``cancels`` times, a millisecond apart.
    """

    ordinal: int
    caller: int = 0
    at: float = 0.0
    body: Body = NOTHING
    script: tuple[Ask, ...] = ()
    cancel_at: float | None = None
    cancels: int = 1
    timeout: float = 0.0
    size: int = 0

    def __post_init__(self) -> None:
        if self.ordinal < 0 or self.caller < 0 or self.size < 0:
            raise ValueError("ordinal, caller and size must not be negative")
        if not 1 <= self.cancels <= 5:
            raise ValueError("cancels must be 1 to 5")
        for name in ("at", "timeout", "cancel_at"):
            check_seconds(name, getattr(self, name) or 0.0)
        longest = max(len(label) for label, _, _ in labelled(self.label, self.body, self.script))
        if longest > LABEL_BYTES:
            raise ValueError(f"{self.label}: nested too deep, a label would take {longest} bytes of {LABEL_BYTES}")

    @property
    def label(self) -> str:
        """The name of the task."""
        return f"c{self.caller}.{self.ordinal}"


# ---- perturbations ----------------------------------------------------------------------------------

_LOOP = re.compile(r"[cw]\d+#\d+\.(user|io)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Stall:
    """A loop is not run from ``at`` on, for ``seconds``: the others go first."""

    loop: str
    at: float = 0.0
    seconds: float = 0.001

    def __post_init__(self) -> None:
        if not _LOOP.fullmatch(self.loop):
            raise ValueError(f"loop {self.loop!r} is not like 'w1#0.io' or 'c0#0.user'")
        check_seconds("at", self.at)
        check_seconds("seconds", self.seconds)


@dataclass(frozen=True, slots=True, kw_only=True)
class Noise:
    """Latencies and the choice between loops vary by a hash of seed, label and ordinal; 0 is off."""

    amplitude: float = 0.0

    def __post_init__(self) -> None:
        check_seconds("amplitude", self.amplitude)


# ---- the surroundings -------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Topology:
    """Who is there, and how callers find them.

    ==========  ================================================================================
    ``pool``    ephemeral: the one caller's own pool of so many workers
    ``proxy``   workers that are found by ``discovery``, and callers with a `WorkerProxy`
    ``durable`` the same, and callers with a `WorkerPool` that starts none
    ``hybrid``  the same, and the first caller's pool starts ``size`` workers more, and publishes them
    ==========  ================================================================================

    ``lease`` and tags are a pool's: of the workers that are found the last ``untagged`` have not the tag that
    pools want; if none has to, pools want none. With ``static``, of the last ``named`` workers callers know the names
    of their hosts, of the others addresses. With ``tls`` everybody has a certificate, and looks at those of the
    others: with ``identities`` at the identity that they name, which a caller must have too, and not at the host; with
    ``one_way`` only callers look, and show none.
    """

    mode: Literal["pool", "proxy", "durable", "hybrid"] = "pool"
    callers: int = 1
    workers: int = 3
    discovery: Discovery = "local"
    lease: int = 0
    """0: as many as there are."""
    untagged: int = 0
    size: int = 0
    named: int = 0
    tls: bool = False
    identities: bool = False
    one_way: bool = False

    def __post_init__(self) -> None:
        if not 1 <= self.callers <= 9 or not 1 <= self.workers <= 64:
            raise ValueError("there are 1 to 9 callers and 1 to 64 workers")
        if self.mode == "pool" and self.callers != 1:
            raise ValueError("a pool has one caller")
        if self.mode == "pool" and self.discovery != "local":
            raise ValueError("the workers of a pool are not found by a discovery")
        if self.lease < 0 or not 0 <= self.untagged < self.workers or not 0 <= self.size <= 9:
            raise ValueError("lease, untagged and size must not be negative, and a worker must have the tag")
        if (self.lease or self.untagged) and self.mode not in ("durable", "hybrid"):
            raise ValueError(f"lease and tags are a pool's that finds workers, not of mode {self.mode!r}")
        if bool(self.size) != (self.mode == "hybrid"):
            raise ValueError("size is of a hybrid pool, which starts one worker or more")
        if self.mode == "hybrid" and self.discovery not in ("local", "lan"):
            raise ValueError(f"by {self.discovery} a hybrid pool can publish nobody")
        if not 0 <= self.named <= self.workers or (self.named and (self.discovery != "static" or self.tls)):
            raise ValueError("named are some of the workers that are found by static, and have no certificate")
        if self.tls and self.discovery == "local":
            raise ValueError("certificates are for workers on a network, which are not found locally")
        if (self.identities or self.one_way) and not self.tls:
            raise ValueError("identities, and who shows them, are of certificates: tls")

    @property
    def finds(self) -> bool:
        """Whether there are workers that are found by a discovery."""
        return self.mode != "pool"

    @property
    def wanted(self) -> range:
        """The numbers of those of them that have the tag that is wanted."""
        return range(self.workers - self.untagged)


_COUNTS = ("places", "admits")


@dataclass(frozen=True, slots=True, kw_only=True)
class Knobs:
    """Waits and limits, small on purpose. All times in seconds."""

    patience: float = 0.2
    cancel_grace: float = 0.5
    handshake: float = 0.5
    dispatch_timeout: float = 5.0
    reconnect_first: float = 0.05
    reconnect_most: float = 0.5
    ping_timeout: float = 1.0
    """A silent peer's session is lost after so long: keepalive and ping timeout together."""
    drain: float = 1.0
    stop: float = 0.5
    close: float = 0.2
    poll: float = 0.25
    lease: float = 0.5
    latency: float = 0.001
    """One way, of every link."""
    ttl: int = 1
    """For so long an answer of the name server holds, or of a process's system, and what was heard by multicast DNS."""
    window_tasks: int = 16
    definitions: int = 16
    inline_bytes: int = 1 * KIB
    payload_bytes: int = 256 * KIB
    places: int = 0
    """Bodies that are at work at a time on each worker; 0: as many as there are."""
    admits: int = 0
    """Tasks that are under way at a time, as far as each worker's admission hook has it; 0: it has none."""
    quiet: float = 3.0
    """After everything is healed, for so long the core is watched."""

    def __post_init__(self) -> None:
        for name in Knobs.__slots__:
            value = getattr(self, name)
            if not 0 < value <= MOST_SECONDS and not name.endswith("bytes") and name not in _COUNTS:
                raise ValueError(f"{name} must be positive, got {value!r}")
        for name in _COUNTS:
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must not be negative, got {getattr(self, name)}")
        if self.inline_bytes < 1 or self.payload_bytes < self.inline_bytes:
            raise ValueError("payload_bytes must not be below inline_bytes")

    def limits(self) -> Limits:
        """Return what the engine gets."""
        return Limits(
            patience_seconds=self.patience,
            cancel_grace_seconds=self.cancel_grace,
            handshake_seconds=self.handshake,
            dispatch_timeout_seconds=self.dispatch_timeout,
            reconnect_first_seconds=self.reconnect_first,
            reconnect_most_seconds=self.reconnect_most,
            drain_seconds=self.drain,
            stop_seconds=self.stop,
            close_seconds=self.close,
            worker_start_seconds=5.0,
            first_look_seconds=0.05,
            discovery_poll_seconds=self.poll,
            discovery_lease_seconds=self.lease,
            lan_ttl_seconds=self.ttl,
            lan_browse_seconds=float(self.ttl),
            lan_retry_first_seconds=0.05,
            lan_retry_most_seconds=0.4,
            static_lookup_seconds=float(self.ttl),
            lookup_seconds=0.3,
            lookup_least_seconds=0.1,
            lookup_retry_first_seconds=0.1,
            lookup_retry_most_seconds=0.4,
            address_retry_seconds=1.0,
            window_tasks=self.window_tasks,
            definitions=self.definitions,
            inline_bytes=self.inline_bytes,
            chunk_bytes=4 * KIB,
            credit_bytes=16 * KIB,
            packet_bytes=8 * KIB,
            message_bytes=1 * MIB,
            payload_bytes=self.payload_bytes,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """One run, completely."""

    topology: Topology = Topology()
    knobs: Knobs = Knobs()
    calls: tuple[Call, ...] = ()
    faults: tuple[Fault, ...] = ()
    stalls: tuple[Stall, ...] = ()
    noise: Noise = Noise()
    seed: int = 0
    told: bool = False
    """Callers have handlers of task events with ``remote=True``, and everybody traces."""
    variables: bool = False
    """Callers and bodies set a `wool.ContextVar`, and read it."""

    def __post_init__(self) -> None:
        labels = [call.label for call in self.calls]
        if len(set(labels)) != len(labels):
            twice = next(label for label in labels if labels.count(label) > 1)
            raise ValueError(f"two calls are named {twice}")

    def tasks(self) -> dict[str, tuple[Body, tuple[Ask, ...]]]:
        """Return body and script of every task that may come to be, nested ones too, by label."""
        return {
            label: (body, script)
            for call in self.calls
            for label, body, script in labelled(call.label, call.body, call.script)
        }

    def call(self, label: str) -> Call | None:
        """Return the top-level call that the task of this label is, or descends from."""
        top = top_of(label)
        return next((call for call in self.calls if call.label == top), None)

    @property
    def staying(self) -> frozenset[int]:
        """The faults that stay for ever when all else is healed: as long as they leave a core, else none.

        A core is what calls must still succeed in: all callers, and a worker that is wanted, and that none of these
        faults strikes, nor a link to it. They mean something where discovery is told of nobody by the network.
        """
        topology, faults = self.topology, self.faults
        stays = frozenset(index for index, fault in enumerate(faults) if fault.stays)
        if not stays or topology.discovery != "local":
            return frozenset()
        struck = {worker_in(faults[index]) for index in stays}
        return stays if any(f"w{number}" not in struck for number in topology.wanted) else frozenset()

    @property
    def cut_off(self) -> frozenset[str]:
        """The workers that are no part of the core."""
        return frozenset(worker_in(self.faults[index]) for index in self.staying)

    def without(self, field: str, index: int) -> Plan:
        """Return the plan without one item of ``calls``, ``faults`` or ``stalls``."""
        items: tuple[Any, ...] = getattr(self, field)
        changed: dict[str, Any] = {field: items[:index] + items[index + 1 :]}
        return replace(self, **changed)

    def to_json(self) -> Json:
        """Return the plan as JSON values; what has its default is left out."""
        return to_json(self)

    @classmethod
    def from_json(cls, value: Any) -> Plan:
        """Read what `to_json` returned. Raises `wool.sim.records.RecordError`, with the place."""
        return from_json(cls, value)


def worker_in(fault: Fault) -> str:
    """Return the worker that a fault strikes, or the way to which it does."""
    return fault.target.rpartition(">")[2]


def top_of(label: str) -> str:
    """Return the label of the top-level call that ``label`` is or descends from."""
    return ".".join(label.split(".")[:2])
