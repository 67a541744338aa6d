"""A name server of the simulated network, and those who ask it.

Why it exists: production's `wool.discovery.lookups` decides whom to ask when and what an answer means, and
`wool.discovery.following` asks. What is left is a server that answers late, with what was so before, that there is no
such name, or not at all.

It owns the zone: which addresses a name leads to, now and at any time before. What it must never do: know of workers
more than whoever runs a zone does, which is who is ready and who was told to stop, and after a while who is dead.
"""

from __future__ import annotations

import asyncio
from bisect import bisect_right
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NoReturn, Protocol, cast

from wool.discovery.base import DiscoveryEvent, WorkerFilter
from wool.discovery.following import follow
from wool.discovery.lookups import Answer
from wool.limits import Limits
from wool.sim.loop import LoopOwner, SimLoop

if TYPE_CHECKING:
    from wool.sim.loop import World
    from wool.sim.plan import Fault, Plan

NAME = "A workers.sim"
UNREADY_SECONDS = 0.6
"""After so long a zone does not name a worker any more that has died."""


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

    @property
    def cluster(self) -> Registry:
        """Where it lives."""
        ...


class Zone:
    """Where the name of the workers leads."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._times: list[float] = [0.0]
        self._answers: list[tuple[str, ...]] = [()]

    @property
    def addresses(self) -> tuple[str, ...]:
        """Where it leads now."""
        return self._answers[-1]

    def at(self, time: float) -> tuple[str, ...]:
        """Return where it led at a time."""
        return self._answers[max(0, bisect_right(self._times, time) - 1)]

    def add(self, address: str) -> None:
        """Name an address; idempotent."""
        if address not in self.addresses:
            self._change((*self.addresses, address), "truth.named", address)

    def remove(self, address: str) -> None:
        """Name it no more; idempotent."""
        if address in self.addresses:
            self._change(tuple(each for each in self.addresses if each != address), "truth.unnamed", address)

    def _change(self, addresses: tuple[str, ...], kind: str, address: str) -> None:
        self._times.append(self._registry.world.now)
        self._answers.append(addresses)
        self._registry.note(kind, (("address", address),))


class SimResolver:
    """Asks the name server, from one process. See `wool.discovery.lookups.ResolverLike`."""

    def __init__(self) -> None:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, SimLoop) and loop.owner is not None
        self._here = cast("Asker", loop.owner)

    async def resolve(self, name: str) -> Answer:
        """Return where ``name`` leads, after a round trip; or never."""
        here, cluster = self._here, self._here.cluster
        knobs = cluster.plan.knobs
        if not here.seam() or cluster.strikes("answer-lost", here.label) is not None:
            await asyncio.get_running_loop().create_future()
        await asyncio.sleep(knobs.latency)
        addresses = cluster.zone.addresses
        if (stale := cluster.strikes("answer-stale", here.label)) is not None:
            addresses = cluster.zone.at(stale.at)
        if cluster.strikes("answer-denied", here.label) is not None:
            addresses = ()
        await asyncio.sleep(knobs.latency)
        return Answer(addresses=addresses, seconds=float(knobs.ttl))

    def close(self) -> None:
        """Nothing is kept open between two questions."""


@dataclass(frozen=True, slots=True)
class SimNameSubscriber:
    """A `wool.discovery.dns.DnsSubscriber` of the simulated network; it travels in the description of a pool."""

    limits: Limits
    filter: WorkerFilter | None = None
    lives_on_io_loop: bool = field(default=True, init=False)

    def __aiter__(self) -> AsyncGenerator[DiscoveryEvent, None]:  # noqa: PYI058 - aclose() is part of it
        """Return a new subscription."""
        return follow([NAME], SimResolver, filter=self.filter, limits=self.limits)


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
        return SimNameSubscriber(self._limits, filter)
