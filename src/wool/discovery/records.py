"""A worker as multicast DNS announces it: names, TXT record, port and addresses, both ways.

Why it exists: what comes from the network is written by anybody on it. A record is a hint: bounded, strictly parsed,
never unpickled. Any bytes give a value or `RecordError`, and the handshake decides whether there is a worker.

::

    _wool._tcp.local.                    PTR   LABEL._wool._tcp.local.
    LABEL._wool._tcp.local.              SRV   LABEL.local. PORT
                                         TXT   "txtvers=1" "0=…" "1=…"
    LABEL.local.                         A     10.0.0.7

LABEL is the worker's uid, or a hash of one that is no label. The TXT record is the worker's discovery record, as JSON,
cut into pieces, since none of its strings may be longer than 255 bytes.

What it must never do: I/O, or believe a record that contradicts itself.
"""

from __future__ import annotations

import hashlib
import ipaddress
import re
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from wool.discovery.base import WorkerMetadata
from wool.discovery.lookups import join, split
from wool.harmless import harmless

SERVICE = "_wool._tcp.local."
DOMAIN = "local."

_VERSION = b"txtvers=1"
_PIECE_BYTES = 200
_LABEL = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?")

Ip: TypeAlias = ipaddress.IPv4Address | ipaddress.IPv6Address
Network: TypeAlias = ipaddress.IPv4Network | ipaddress.IPv6Network


class RecordError(ValueError):
    """What was announced is no worker: malformed, too large, or it contradicts itself."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Announcement:
    """What is said of one worker."""

    label: str
    text: bytes
    port: int
    addresses: tuple[str, ...]

    @property
    def name(self) -> str:
        """The instance of the service."""
        return f"{self.label}.{SERVICE}"

    @property
    def host(self) -> str:
        """The host name that the addresses belong to: the worker's own, so that no other changes them."""
        return f"{self.label}.{DOMAIN}"


def label_of(uid: str) -> str:
    """Return the label of the worker ``uid``."""
    # Labels do not tell upper from lower case, and have at most 63 bytes.
    return uid if _LABEL.fullmatch(uid) else "h-" + hashlib.sha256(uid.encode(errors="replace")).hexdigest()[:40]


def announce(metadata: WorkerMetadata, interfaces: Collection[Interface]) -> Announcement:
    """Return what to say of a worker, on these interfaces. Raises `ValueError` naming why others cannot reach it."""
    who = f"worker {metadata.key[:8]} at {metadata.address}"
    if not metadata.uid:
        raise ValueError(f"{who} cannot be announced: its uid is not known")
    if metadata.address.startswith("unix:"):
        raise ValueError(f"{who} cannot be announced on a network: start it with a host and a port")
    host, port = _host_and_port(metadata.address)
    if host.is_unspecified:
        addresses = [face.address for face in interfaces if face.address.version == host.version]
        if not addresses:
            raise ValueError(f"{who} cannot be reached through any chosen interface: {_names(interfaces)}")
    elif host.is_loopback and not all(face.address.is_loopback for face in interfaces):
        raise ValueError(
            f"{who} cannot be reached from other hosts: start it on an address of {_names(interfaces)}, use "
            "LocalDiscovery for this machine alone, or LanDiscovery(interfaces=['127.0.0.1'])"
        )
    else:
        addresses = [host]
    return Announcement(
        label=label_of(metadata.uid),
        text=to_text(metadata.to_bytes()),
        port=port,
        addresses=tuple(str(address) for address in addresses),
    )


def worker_of(
    label: str, text: bytes, port: int, addresses: Iterable[str], interfaces: Collection[Interface]
) -> WorkerMetadata:
    """Return the worker that was announced, with the address to reach it by. Raises `RecordError`."""
    data = from_text(text)
    try:
        metadata = WorkerMetadata.from_bytes(data)
        canonical = metadata.to_bytes()
    except (ValueError, TypeError, RecursionError) as error:
        raise RecordError(f"not a worker's record: {error}") from None
    if canonical != data:
        raise RecordError("a worker's record is not written as wool writes it")
    if label_of(metadata.uid) != label.lower():
        raise RecordError(f"{harmless(label, 63)} says that it is worker {metadata.uid[:8]}")
    try:
        host, said = _host_and_port(metadata.address)
    except ValueError as error:
        raise RecordError(str(error)) from None
    if said != port:
        raise RecordError(f"worker {metadata.uid[:8]} is announced at port {port}, and says {said}")
    reached = _reached_by(host, addresses, interfaces)
    if reached is None:
        raise RecordError(f"worker {metadata.uid[:8]} at {metadata.address} is announced at addresses that do not fit")
    return _at(metadata, join(str(reached), port))


def _at(metadata: WorkerMetadata, address: str) -> WorkerMetadata:
    return WorkerMetadata(
        uid=metadata.uid,
        address=address,
        pid=metadata.pid,
        version=metadata.version,
        tags=metadata.tags,
        extra=metadata.extra,
        secure=metadata.secure,
    )


def _reached_by(host: Ip, addresses: Iterable[str], interfaces: Collection[Interface]) -> Ip | None:
    """Return the address to use of those that were announced: one in a network of ours, if there is one."""
    found: list[Ip] = []
    for text in addresses:
        try:
            address = ipaddress.ip_address(text)
        except ValueError:
            continue
        fits = address.version == host.version if host.is_unspecified else address == host
        ours = not address.is_loopback or any(face.address.is_loopback for face in interfaces)
        if fits and ours and not (address.is_unspecified or address.is_multicast):
            found.append(address)
    near = [address for address in found if any(address in face.network for face in interfaces)]
    return min(near or found, key=int, default=None)


def _host_and_port(address: str) -> tuple[Ip, int]:
    host, port = split(address)
    try:
        return ipaddress.ip_address(host), port
    except ValueError:
        raise ValueError(f"{address!r:.300} is not an address: the host must be an IP address") from None


# ---- TXT records -------------------------------------------------------------------------------------


def to_text(data: bytes) -> bytes:
    """Write ``data`` as the strings of a TXT record."""
    pieces = [data[start : start + _PIECE_BYTES] for start in range(0, len(data), _PIECE_BYTES)]
    strings = [_VERSION, *(b"%d=%s" % (number, piece) for number, piece in enumerate(pieces))]
    return b"".join(bytes([len(string)]) + string for string in strings)


def from_text(text: bytes) -> bytes:
    """Return what `to_text` wrote. Raises `RecordError` for anything else."""
    strings: list[bytes] = []
    place = 0
    while place < len(text):
        size = text[place]
        string = text[place + 1 : place + 1 + size]
        if len(string) != size:
            raise RecordError("a TXT record ends in the middle of a string")
        strings.append(string)
        place += 1 + size
    if not strings or strings[0] != _VERSION:
        raise RecordError(f"a TXT record does not begin with {_VERSION.decode()}")
    data = bytearray()
    for number, string in enumerate(strings[1:]):
        key = b"%d=" % number
        if not string.startswith(key):
            raise RecordError(f"a TXT record lacks piece {number}")
        data += string[len(key) :]
    if to_text(bytes(data)) != text:
        raise RecordError("a TXT record is not cut as wool cuts it")
    return bytes(data)


# ---- interfaces --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Interface:
    """One address of a network interface."""

    name: str
    address: Ip
    network: Network

    def __str__(self) -> str:
        return f"{self.name} ({self.address})"


def check_interfaces(wanted: Iterable[str]) -> tuple[str, ...]:
    """Return ``wanted`` if each can be the name, address or network of an interface, else raise `ValueError`."""
    if isinstance(wanted, str):
        raise ValueError(f"interfaces must be a sequence of names, got {wanted!r:.100}: write [{wanted!r:.100}]")
    try:
        found = tuple(dict.fromkeys(wanted))
    except TypeError:
        raise ValueError(f"interfaces must be a sequence of names, got {wanted!r:.100}") from None
    for text in found:
        if not isinstance(text, str) or not text.strip():  # pyright: ignore[reportUnnecessaryIsInstance]
            raise ValueError(f"an interface is a name, an address or a network such as '10.0.0.0/8', got {text!r:.100}")
    return found


def choose_interfaces(present: Sequence[Interface], wanted: Sequence[str]) -> list[Interface]:
    """Return the interfaces to use: those that are wanted, else every one with IPv4 but loopback.

    Raises `OSError` if one that is wanted is not there, or if there is none at all.
    """
    if not wanted:
        chosen = [face for face in present if face.address.version == 4 and not face.address.is_loopback]
        if not chosen:
            raise OSError(f"no interface to find workers by: this host has only {_names(present)}")
        return chosen
    chosen = list[Interface]()
    for text in wanted:
        matching = [face for face in present if _matches(face, text)]
        if not matching:
            raise OSError(f"no interface {text!r:.100}: this host has {_names(present)}")
        chosen += [face for face in matching if face not in chosen]
    return chosen


def _matches(face: Interface, text: str) -> bool:
    if text == face.name:
        # By its name, as by default, its IPv4 address is meant; IPv6 has to be asked for.
        return face.address.version == 4
    try:
        return face.address in ipaddress.ip_network(text)
    except ValueError:
        return False


def _names(interfaces: Iterable[Interface]) -> str:
    return ", ".join(str(face) for face in interfaces) or "none"
