"""Workers that the domain name system names: a headless service of Kubernetes, or any zone.

Multicast does not cross cloud networks, name servers are everywhere. With a port, every address of the name is a
worker's; without one, the name is that of SRV records, which bring their ports. The resolver is dnspython, since the
system's own does not say how long an answer holds.

It must never take a name server's silence for an answer: who cannot be asked about is not gone.
"""

from __future__ import annotations

import asyncio
import importlib.util
from collections.abc import Coroutine, Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar, cast

from wool.discovery.base import NoPublisher, WorkerFilter
from wool.discovery.following import NamesSubscriber
from wool.discovery.lookups import (
    Answer,
    LookupFailed,
    ResolverLike,
    check_host_name,
    check_port,
    is_literal,
    join,
    split,
)
from wool.limits import DEFAULT_LIMITS, Limits

if TYPE_CHECKING:
    import dns.message
    import dns.resolver

_T = TypeVar("_T")

DNS_PORT = 53


class DnsDiscovery:
    """Finds the workers at the addresses of a name: ``DnsDiscovery("workers.default.svc", port=7000)``.

    With ``port`` every A and AAAA record of ``name`` is a worker's address; without, ``name`` is that of SRV records
    (``_wool._tcp.workers.default.svc``). It is asked again whenever the answer's time to live is over. Who is at an
    address is learnt from the handshake with the first call, and what answers later under another uid is another
    worker. An address that the name server no longer gives gets no new calls; a name server that does not answer
    drops nobody.

    ``nameservers`` are ``address`` or ``address:port`` of those to ask; by default those of the system. A name that
    does not end with a dot is tried with the system's search domains too. Nothing is announced: the records are kept
    by who runs the zone. Picklable; needs no closing; each process asks for itself.

    Raises `ModuleNotFoundError` without the extra ``wool[dns]``, `ValueError` for what is no name, port or address.
    """

    def __init__(
        self,
        name: str,
        *,
        port: int | None = None,
        nameservers: Sequence[str] = (),
        limits: Limits = DEFAULT_LIMITS,
    ) -> None:
        if importlib.util.find_spec("dns") is None:
            raise ModuleNotFoundError("DnsDiscovery needs dnspython: pip install 'wool[dns]'", name="dns")
        if isinstance(nameservers, str):
            raise ValueError(f"nameservers must be a sequence of addresses, got {nameservers!r:.100}: write a list")
        if isinstance(name, str) and is_literal(name):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise ValueError(f"{name!r} is an address, not a name: use StaticDiscovery('{join(name, port or 7000)}')")
        self.name: str = check_host_name(name)
        self.port: int | None = None if port is None else check_port(port)
        self._nameservers: tuple[tuple[str, int], ...] = tuple(_name_server(text) for text in nameservers)
        self._limits = limits

    @property
    def publisher(self) -> NoPublisher:
        """Refuses to announce anything."""
        return NoPublisher(f"the records of {self.name} are kept by who runs its zone")

    @property
    def subscriber(self) -> DnsSubscriber:
        """Sees the workers at all addresses of the name."""
        return self.subscribe()

    def subscribe(self, filter: WorkerFilter | None = None, /) -> DnsSubscriber:
        """Return a subscriber that sees only the workers for which ``filter`` is true.

        It is asked when a worker's handshake has told its metadata, on the I/O loop, so it must not block.
        To pickle the subscriber, the filter must be picklable.
        """
        return DnsSubscriber(self.name, self.port, self._nameservers, filter, self._limits)

    def __repr__(self) -> str:
        return f"<DnsDiscovery {self.name} {'SRV' if self.port is None else self.port}>"


def _name_server(text: str) -> tuple[str, int]:
    if is_literal(text):
        return text, DNS_PORT
    host, port = split(text)
    if not is_literal(host):
        raise ValueError(f"a name server must be given by its IP address, got {text!r:.300}")
    return host, port


class DnsSubscriber(NamesSubscriber):
    """Sees the workers at the addresses of a name."""

    def __init__(
        self,
        name: str,
        port: int | None,
        nameservers: tuple[tuple[str, int], ...],
        filter: WorkerFilter | None,
        limits: Limits,
    ) -> None:
        # Each kind of record is a name of its own: a server that knows nothing of AAAA does not hide the As.
        kinds = ["SRV"] if port is None else ["A", "AAAA"]
        super().__init__([f"{kind} {name}" for kind in kinds], filter, limits)
        self._name = name
        self._port = port
        self._nameservers = nameservers

    def _resolver(self) -> ResolverLike:
        return DnsResolver(self._port, self._nameservers, self._limits)

    def __reduce__(self) -> tuple[Any, ...]:
        return (type(self), (self._name, self._port, self._nameservers, self._filter, self._limits))

    def __repr__(self) -> str:
        return f"<DnsSubscriber of {self._name}{' filtered' if self._filter else ''}>"


@dataclass(frozen=True, kw_only=True)
class _Found:
    """What a name server has answered."""

    records: list[Any] = field(default_factory=list[Any])
    seconds: float
    """How long it holds, its denial too."""
    beside: dict[str, dict[str, float]] = field(default_factory=dict[str, dict[str, float]])
    """Addresses that came along, by host, and how long they hold."""

    def hosts(self) -> list[str]:
        return sorted(str(record.address) for record in self.records)


class DnsResolver:
    """Asks name servers. What it resolves is a kind of record and a name."""

    def __init__(self, port: int | None, nameservers: tuple[tuple[str, int], ...], limits: Limits) -> None:
        self._port = port
        self._limits = limits
        self._nameservers = nameservers
        self._resolver: dns.resolver.BaseResolver | None = None
        self._turn = asyncio.Semaphore(limits.lookups)

    async def resolve(self, name: str) -> Answer:
        """Return the addresses that the records lead to. Raises `LookupFailed`."""
        kind, name = name.split()
        if self._port is None:
            return await self._services(name)
        found = await self._query(name, kind)
        return Answer(addresses=tuple(join(host, self._port) for host in found.hosts()), seconds=found.seconds)

    async def _services(self, name: str) -> Answer:
        found = await self._query(name, "SRV")
        targets = sorted((int(record.priority), str(record.target), int(record.port)) for record in found.records)
        # A target of "." says that there is decidedly no such service.
        targets = [target for target in targets if target[1] != "." and target[2]]
        # One more than are used, so that it is noticed that there are more.
        targets = targets[: self._limits.addresses + 1]
        hosts = {target: found.beside.get(target) for _, target, _ in targets}
        # What came along need not be asked for; for a thousand workers that would be two thousand questions.
        unknown = [target for target, known in hosts.items() if known is None]
        hosts |= dict(zip(unknown, await _all(self._hosts(target) for target in unknown), strict=True))
        addresses: dict[str, None] = {}
        seconds = found.seconds
        for _, target, port in targets:
            if at := hosts[target]:
                addresses.update(dict.fromkeys(join(host, port) for host in at))
                seconds = min(seconds, *at.values())
        return Answer(addresses=tuple(addresses), seconds=seconds)

    async def _hosts(self, name: str) -> dict[str, float]:
        """Return the addresses of a host, and how long each holds."""
        async with self._turn:
            answers = await _all(self._query(name, kind) for kind in ("A", "AAAA"))
        return {host: found.seconds for found in answers for host in found.hosts()}

    async def _query(self, name: str, kind: str) -> _Found:
        """Return the records; none, if the name server denies that there are any. Raises `LookupFailed`."""
        import dns.exception
        import dns.rdataclass
        import dns.rdatatype
        import dns.resolver

        try:
            answer = await self._ask(name, kind)
        except dns.resolver.NXDOMAIN as denial:
            # Its attributes carry no types.
            messages: list[dns.message.Message] = list(cast("Any", denial).kwargs.get("responses", {}).values())
            return _Found(seconds=min(map(self._denied_seconds, messages), default=self._limits.lookup_denied_seconds))
        except (dns.exception.DNSException, OSError, EOFError) as error:
            raise LookupFailed(str(error) or type(error).__name__) from error
        if answer.rrset is None:
            return _Found(seconds=self._denied_seconds(answer.response))
        beside: dict[str, dict[str, float]] = {}
        for rrset in answer.response.additional:
            # Of another class than IN they are no addresses, whatever their type says.
            if rrset.rdtype in (dns.rdatatype.A, dns.rdatatype.AAAA) and rrset.rdclass == dns.rdataclass.IN:
                records: list[Any] = list(rrset)
                held = dict.fromkeys((str(record.address) for record in records), float(rrset.ttl))
                beside.setdefault(rrset.name.to_text(), {}).update(held)
        seconds = float(answer.chaining_result.minimum_ttl)
        return _Found(records=list(answer.rrset), seconds=seconds, beside=beside)

    async def _ask(self, name: str, kind: str) -> dns.resolver.Answer:
        import dns.asyncresolver

        resolver = self._resolver
        if resolver is None:
            resolver = self._resolver = self._made()
        assert isinstance(resolver, dns.asyncresolver.Resolver)
        return await resolver.resolve(
            name, kind, search=not name.endswith("."), raise_on_no_answer=False, lifetime=self._limits.lookup_seconds
        )

    def _made(self) -> dns.resolver.BaseResolver:
        import dns.asyncresolver
        import dns.nameserver

        resolver = dns.asyncresolver.Resolver(configure=not self._nameservers)
        if self._nameservers:
            resolver.nameservers = [dns.nameserver.Do53Nameserver(host, port) for host, port in self._nameservers]
        return resolver

    def _denied_seconds(self, response: dns.message.Message) -> float:
        """Return how long a denial holds (RFC 2308): as the zone's SOA record says, if it came along."""
        import dns.rdataclass
        import dns.rdatatype

        for rrset in response.authority:
            if rrset.rdtype == dns.rdatatype.SOA and rrset.rdclass == dns.rdataclass.IN:
                records: list[Any] = list(rrset)
                return float(min(rrset.ttl, *(record.minimum for record in records)))
        return self._limits.lookup_denied_seconds

    def close(self) -> None:
        """Nothing is kept open between two questions."""


async def _all(work: Iterable[Coroutine[Any, Any, _T]]) -> list[_T]:
    """Return what each of them returns. If one fails, the others are not left to themselves."""
    tasks = [asyncio.ensure_future(each) for each in work]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
