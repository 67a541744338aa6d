"""A name server of the simulated network, what the system of each process makes of it, and those who ask.

Why it exists: production's `wool.discovery.lookups` decides whom to ask when and what an answer means, and
`wool.discovery.following` asks, for those who look by DNS and for the host names of a StaticDiscovery alike. What is
left is somebody who answers late, with what was so before, with less than that, that there is no such name, or not at
all.

It owns the zone: which addresses a name leads to, now and at any time before. What it must never do: know of workers
more than whoever runs a zone does, which is who is ready and who was told to stop, and after a while who is dead.
"""

from __future__ import annotations

import asyncio
import socket
from bisect import bisect_right
from typing import TYPE_CHECKING, Any, NoReturn, Protocol, cast

from wool.discovery.base import WorkerFilter
from wool.discovery.dns import DnsSubscriber
from wool.discovery.lookups import Answer, split
from wool.discovery.static import StaticDiscovery, StaticSubscriber, SystemResolver
from wool.limits import Limits
from wool.sim.loop import LoopOwner, SimLoop
from wool.sim.network import PORT, label_at, number_of

if TYPE_CHECKING:
    from wool.sim.history import Detail
    from wool.sim.kinds import Fault
    from wool.sim.loop import World
    from wool.sim.plan import Plan

NAME = "workers.sim"
KINDS = ("A", "AAAA")
"""Workers with an odd number are what a name server has in its answer for AAAA, as if they had IPv6 alone."""
UNREADY_SECONDS = 0.6
"""After so long a zone does not name a worker any more that has died."""


def dns_name_of(label: str) -> str:
    """Return the name, with the kind of record, of which a worker's address is a record."""
    return f"{KINDS[number_of(label) % 2]} {NAME}"


def host_name_of(label: str) -> str:
    """Return where the user of a StaticDiscovery says that a worker is, if not at an address."""
    return f"{label}.sim:{PORT}"


class Registry(Protocol):
    """The cluster, as its name server knows it."""

    @property
    def plan(self) -> Plan:
        """What happens."""
        ...

    @property
    def world(self) -> World:
        """Its clock."""
        ...

    @property
    def zone(self) -> Zone:
        """What the name server knows."""
        ...

    def strikes(self, kind: str, target: str) -> Fault | None:
        """Return the fault of this kind that strikes ``target`` now, and write down that it does."""
        ...

    def note(self, kind: str, detail: tuple[tuple[str, object], ...] = ()) -> None:
        """Write an event of the world into the history."""
        ...


class Asker(LoopOwner, Protocol):
    """A process, as the name server knows it."""

    def note(self, kind: str, task: str = "", attempt: str = "", detail: Detail = ()) -> None:
        """Write into the history."""
        ...

    @property
    def cluster(self) -> Registry:
        """Where it lives."""
        ...


class Zone:
    """Where names lead."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._known: dict[str, list[tuple[float, tuple[str, ...]]]] = {}

    def at(self, name: str, time: float) -> tuple[str, ...]:
        """Return where a name led at a time."""
        known = self._known.get(name, [])
        return known[place - 1][1] if (place := bisect_right(known, time, key=lambda entry: entry[0])) else ()

    def now(self, name: str) -> tuple[str, ...]:
        """Return where a name leads."""
        return self.at(name, self._registry.world.now)

    def add(self, name: str, address: str) -> None:
        """Let a name lead to an address too; idempotent."""
        if address not in (before := self.now(name)):
            self._change(name, (*before, address), "truth.named", address)

    def remove(self, name: str, address: str) -> None:
        """Let it not lead there any more; idempotent."""
        if address in (before := self.now(name)):
            self._change(name, tuple(each for each in before if each != address), "truth.unnamed", address)

    def _change(self, name: str, addresses: tuple[str, ...], kind: str, address: str) -> None:
        self._known.setdefault(name, []).append((self._registry.world.now, addresses))
        self._registry.note(kind, (("address", address),))


def _asker() -> Asker:
    loop = asyncio.get_running_loop()
    assert isinstance(loop, SimLoop) and loop.owner is not None
    return cast("Asker", loop.owner)


async def _ask(here: Asker, name: str) -> tuple[str, ...] | None:
    """Return where a name leads, as this process is told, after a round trip; None if there is no such name."""
    cluster, latency = here.cluster, here.cluster.plan.knobs.latency
    here.note("look.asked", detail=(("name", name),))
    if not here.seam() or cluster.strikes("answer-lost", here.label) is not None:
        await asyncio.get_running_loop().create_future()
    await asyncio.sleep(latency)
    stale = cluster.strikes("answer-stale", here.label)
    addresses = cluster.zone.now(name) if stale is None else cluster.zone.at(name, stale.at)
    if cluster.strikes("answer-denied", here.label) is not None:
        addresses = ()
    addresses = tuple(
        address for address in addresses if cluster.strikes("answer-split", f"{here.label}>{label_at(address)}") is None
    )
    await asyncio.sleep(latency)
    here.note("look.answered", detail=(("name", name),))
    return addresses or None


class SimResolver:
    """Asks the name server, from one process. See `wool.discovery.lookups.ResolverLike`."""

    def __init__(self) -> None:
        self._here = _asker()

    async def resolve(self, name: str) -> Answer:
        """Return where ``name`` leads, after a round trip; or never."""
        addresses = await _ask(self._here, name) or ()
        return Answer(addresses=addresses, seconds=float(self._here.cluster.plan.knobs.ttl))

    def close(self) -> None:
        """Nothing is kept open between two questions."""


class SimSystemResolver(SystemResolver):
    """A `wool.discovery.static.SystemResolver` of the simulated host: its ``getaddrinfo`` asks the name server."""

    async def _found(self, name: str, host: str, port: int) -> list[tuple[Any, ...]]:
        addresses = await _ask(_asker(), name)
        if addresses is None:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", split(address)) for address in addresses]


class SimNameSubscriber(DnsSubscriber):
    """A `wool.discovery.dns.DnsSubscriber` of the simulated network; it travels in the description of a pool."""

    def _resolver(self) -> SimResolver:
        return SimResolver()


class SimStaticSubscriber(StaticSubscriber):
    """A `wool.discovery.static.StaticSubscriber` of the simulated network, where host names lead elsewhere."""

    def _resolver(self) -> SimSystemResolver:
        return SimSystemResolver(len(self._names), self._limits)


class SimStatic(StaticDiscovery):
    """A `wool.discovery.static.StaticDiscovery` of the simulated network."""

    def subscribe(self, filter: WorkerFilter | None = None, /) -> SimStaticSubscriber:
        """Return a subscriber that sees only the workers for which ``filter`` is true."""
        return SimStaticSubscriber(self.addresses, filter, self._limits)


class SimNames:
    """A `wool.discovery.dns.DnsDiscovery` of the simulated network."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits

    def __repr__(self) -> str:
        return "<SimNames>"

    @property
    def publisher(self) -> NoReturn:
        """Raise: nothing is announced."""
        raise RuntimeError("the records are kept by who runs the zone")

    @property
    def subscriber(self) -> SimNameSubscriber:
        """Sees the workers at all addresses of the name."""
        return self.subscribe()

    def subscribe(self, filter: WorkerFilter | None = None, /) -> SimNameSubscriber:
        """Return a subscriber that sees only the workers for which ``filter`` is true."""
        return SimNameSubscriber(NAME, PORT, (), filter, self._limits)
