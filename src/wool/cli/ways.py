"""How a command is told where workers are found: ``local:NAME``, ``lan``, ``dns:NAME:PORT``, ``static``.

It owns that notation. It must never open anything: a command knows that all it was told makes sense before it starts.
"""

from __future__ import annotations

from dataclasses import dataclass

from wool.discovery.base import DiscoveryLike
from wool.discovery.local import LocalDiscovery
from wool.discovery.lookups import check_host_name, check_port, is_literal, split
from wool.discovery.namespace import check_name

FORMS = "local:NAME, lan, lan:INTERFACE,…, dns:NAME:PORT, dns:NAME (SRV records)"
WORKER_FORMS = f"{FORMS} or static"
CALLER_FORMS = f"{FORMS} or static:HOST:PORT,…"


@dataclass(frozen=True, slots=True, kw_only=True)
class Way:
    """One way of finding workers: its kind, and what that needs to know."""

    kind: str
    name: str = ""
    port: int | None = None
    listed: tuple[str, ...] = ()
    """Interfaces, or addresses."""

    def __str__(self) -> str:
        told = self.name or ",".join(self.listed)
        return f"{self.kind}:{told}" if told else self.kind

    @property
    def announces(self) -> bool:
        """Whether workers are published in it. The others only know addresses."""
        return self.kind in ("local", "lan")

    def open(self) -> DiscoveryLike:
        """Return the discovery, not entered. Raises `ValueError`, or `ModuleNotFoundError` without its extra."""
        if self.kind == "local":
            return LocalDiscovery(self.name)
        if self.kind == "lan":
            from wool.discovery.lan import LanDiscovery

            return LanDiscovery(interfaces=self.listed or None)
        if self.kind == "dns":
            from wool.discovery.dns import DnsDiscovery

            return DnsDiscovery(self.name, port=self.port)
        from wool.discovery.static import StaticDiscovery

        return StaticDiscovery(*self.listed)


def worker_way(given: object) -> Way:
    """Take how a worker is found. Raises `ValueError`."""
    way = _parse(given, WORKER_FORMS)
    if way.kind == "static" and way.listed:
        raise ValueError(
            f"got {given!r:.100}: a worker is at its own address, which callers are given: say static, with --host and "
            "--port"
        )
    return way


def caller_way(given: object) -> Way:
    """Take how workers are found. Raises `ValueError`."""
    way = _parse(given, CALLER_FORMS)
    if way.kind == "static" and not way.listed:
        raise ValueError(f"got {given!r:.100}: say at which addresses, static:HOST:PORT,…")
    return way


def _parse(given: object, forms: str) -> Way:
    kind, colon, rest = given.partition(":") if isinstance(given, str) else ("", "", "")
    if kind == "local" and rest:
        return Way(kind=kind, name=check_name(rest))
    if kind == "lan" and bool(rest) == bool(colon):
        return Way(kind=kind, listed=_list(rest))
    if kind == "dns" and rest:
        name, colon, port = rest.partition(":")
        if colon and not (port.isascii() and port.isdecimal()):
            raise ValueError(f"the port of a name must be a number, dns:NAME:PORT, got {given!r:.100}")
        if is_literal(name):
            raise ValueError(f"{name} is an address and no name, got {given!r:.100}: use static")
        return Way(kind=kind, name=check_host_name(name), port=check_port(int(port)) if colon else None)
    if kind == "static" and bool(rest) == bool(colon):
        for address in (addresses := _list(rest)):
            if not address.startswith("unix:/"):
                split(address)
        return Way(kind=kind, listed=addresses)
    raise ValueError(f"must be {forms}, got {given!r:.100}")


def _list(rest: str) -> tuple[str, ...]:
    return tuple(each.strip() for each in rest.split(",")) if rest else ()
