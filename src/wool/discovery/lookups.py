"""Names that lead to addresses, asked again and again: which to ask when, and what is known meanwhile.

Why it exists: a name server says where workers are now, and for how long that holds. When to ask again, and what
an answer, a denial or no answer at all mean for the workers in view, follows from that and from the clock's
reading alone; so it is decided here, where the simulator and Hypothesis can decide it too.

================  =======================================  ===================================================
what came         the addresses of that name               asked again
================  =======================================  ===================================================
an answer         those, as long as nothing else comes     when its time is over, within named bounds
"no such name"    none                                     when the denial's time is over, within the same
no answer         as before: who cannot be asked about     after a backoff that doubles
                  is not gone
================  =======================================  ===================================================

What it must never do: I/O, read a clock, draw a random number.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol

from wool.discovery.base import WorkerMetadata
from wool.limits import Limits

_LABEL = re.compile(r"(?!-)[A-Za-z0-9_-]{1,63}")
_NAME_CHARACTERS = 253


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """Where a name leads, and for how many seconds that holds."""

    addresses: tuple[str, ...]
    """As ``host:port`` with a literal host."""
    seconds: float


class LookupFailed(Exception):
    """Nobody could say where a name leads. Says nothing about the workers that it led to."""


class ResolverLike(Protocol):
    """Asks where a name leads: the I/O that `Lookups` leaves out."""

    async def resolve(self, name: str) -> Answer:
        """Return where ``name`` leads; nowhere, if it is known to lead nowhere. Raises `LookupFailed`."""
        ...

    def close(self) -> None:
        """Free what it holds; idempotent."""
        ...


@dataclass(slots=True)
class _Name:
    addresses: tuple[str, ...] = ()
    cut: bool = False
    due: float = 0.0
    failures: int = 0


class Lookups:
    """All names of one subscription. Times are seconds of the caller's clock."""

    def __init__(self, names: Iterable[str], limits: Limits) -> None:
        self._limits = limits
        self._names: dict[str, _Name] = {name: _Name() for name in names}
        self._workers: dict[str, WorkerMetadata] = {}

    def due(self, now: float) -> list[str]:
        """Return the names to ask about now."""
        return [name for name, entry in self._names.items() if entry.due <= now]

    def next_at(self, besides: Iterable[str] = ()) -> float | None:
        """Return when the next name is due, not counting ``besides``, which are being asked about."""
        skipped = frozenset(besides)
        return min((entry.due for name, entry in self._names.items() if name not in skipped), default=None)

    def answered(self, name: str, answer: Answer, now: float) -> bool:
        """Take an answer. More addresses than ``addresses`` are left out, the last ones; return whether that is new."""
        limits, entry = self._limits, self._names[name]
        was_cut, entry.cut = entry.cut, len(answer.addresses) > limits.addresses
        entry.addresses = answer.addresses[: limits.addresses]
        entry.failures = 0
        entry.due = now + min(max(answer.seconds, limits.lookup_least_seconds), limits.lookup_most_seconds)
        return entry.cut and not was_cut

    def failed(self, name: str, now: float) -> float:
        """Take it that nobody answered; return in how many seconds it is asked again."""
        limits, entry = self._limits, self._names[name]
        most = limits.lookup_retry_most_seconds
        wait = min(limits.lookup_retry_first_seconds * 2.0 ** min(entry.failures, 30), most)
        entry.failures += 1
        entry.due = now + wait
        return wait

    def has_failed(self, name: str) -> bool:
        """Whether the last attempt at ``name`` failed."""
        return self._names[name].failures > 0

    def addresses(self) -> Iterator[str]:
        """Return all addresses that are known, each once."""
        return iter(dict.fromkeys(address for entry in self._names.values() for address in entry.addresses))

    def workers(self) -> list[WorkerMetadata]:
        """Return what is known of the workers: their addresses, in the same objects as long as they are known."""
        before = self._workers
        self._workers = {address: before.get(address) or WorkerMetadata.at(address) for address in self.addresses()}
        return list(self._workers.values())


# ---- addresses as people write them ------------------------------------------------------------------


def check_host_name(name: str) -> str:
    """Return ``name`` if it can be the name of a host or service, else raise `ValueError`."""
    if not isinstance(name, str):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise ValueError(f"a name is a string, got {name!r:.300}")
    labels = name.removesuffix(".").split(".")
    if len(name) > _NAME_CHARACTERS or not all(_LABEL.fullmatch(label) for label in labels):
        raise ValueError(f"{name!r:.300} is not a name that can be looked up")
    return name


def check_port(port: int) -> int:
    """Return ``port`` if somebody can listen there, else raise `ValueError`."""
    if type(port) is not int or not 0 < port <= 65535:
        raise ValueError(f"a port must be a number from 1 to 65535, got {port!r}")
    return port


def is_literal(host: str) -> bool:
    """Whether ``host`` is an IP address."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def join(host: str, port: int) -> str:
    """Write host and port as an address, an IPv6 host in brackets."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def split(address: str) -> tuple[str, int]:
    """Return host and port of ``host:port``; the host is a name, IPv4, or IPv6 in brackets.

    Raises `ValueError` with a text that names the address and what is wrong with it.
    """
    if not isinstance(address, str):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise ValueError(f"an address is a string, 'host:port', got {address!r:.300}")
    host, colon, digits = address.rpartition(":")
    bracketed = host.startswith("[") and host.endswith("]")
    inner = host[1:-1] if bracketed else host
    if not colon or not (digits.isascii() and digits.isdigit() and 0 < int(digits[:6]) <= 65535 and len(digits) < 6):
        raise ValueError(f"{address!r:.300} is not an address: expected host:port, with a port from 1 to 65535")
    if is_literal(inner):
        if bracketed != (":" in inner):
            raise ValueError(f"{address!r:.300} is not an address: an IPv6 host, and only that, stands in brackets")
        return inner, int(digits)
    if bracketed:
        raise ValueError(f"{address!r:.300} is not an address: what stands in brackets is no IPv6 host")
    return check_host_name(host), int(digits)
