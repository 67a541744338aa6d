"""Who is connected to a port and opens no session: gRPC lets them go in time, and tells nobody.

Why it exists: who is slow in TLS or in HTTP/2, floods a connection with what is no call, or only holds it, never comes
up to where wool could refuse it. So that the log says who takes up a worker's connections, the process looks at its own
sockets a few times within `Limits.handshake_seconds`. Who is cut off sooner takes up nothing, and is not told of.

Owns the looks, and who was seen in them. It must never read, write, duplicate or close a socket: they are gRPC's.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import socket
import struct
import sys
from collections import Counter
from collections.abc import Callable
from urllib.parse import unquote

LOOKS = 4
"""In the time after which somebody who opens no session is let go."""
SUSPECT = 2
"""Looks, one after the other, in which somebody is there: an honest caller has opened its session by then."""
HOSTS = 5
"""Named in one line; the others are counted."""

_ADDRESS_BYTES = 128
"""Of any socket's address."""


def readable(peer: str) -> str:
    """Return what gRPC calls the other end of a connection as wool writes addresses."""
    _, _, rest = unquote(peer).partition(":")
    return rest or "a Unix socket"


def _key(peer: str) -> str:
    """Return host and port of a peer, without the interface of an address of IPv6."""
    host, _, port = readable(peer).rpartition(":")
    return f"{host.strip('[]').partition('%')[0]}:{port}"


class _Names:
    """Asks the system for the two ends of a socket, by its descriptor: no object of Python's ever owns it."""

    def __init__(self, port: int) -> None:
        library = ctypes.CDLL(None)
        self._here, self._there = library.getsockname, library.getpeername
        self._port = port.to_bytes(2, "big")
        self._buffer = ctypes.create_string_buffer(_ADDRESS_BYTES)
        self._size = ctypes.c_uint32()
        self._by_reference = ctypes.byref(self._size)

    def caller(self, descriptor: int) -> tuple[str, int] | None:
        """Return who is at the other end of a connection to the port; None for whatever else it is."""
        self._size.value = _ADDRESS_BYTES
        if self._here(descriptor, self._buffer, self._by_reference) or self._buffer.raw[2:4] != self._port:
            return None
        self._size.value = _ADDRESS_BYTES
        if self._there(descriptor, self._buffer, self._by_reference):
            return None  # it listens, or has been closed
        return _parsed(self._buffer.raw)


def _parsed(address: bytes) -> tuple[str, int] | None:
    family = address[1] if sys.platform == "darwin" else int.from_bytes(address[:2], sys.byteorder)
    port: int = struct.unpack_from("!H", address, 2)[0]
    if family == socket.AF_INET:
        return socket.inet_ntop(socket.AF_INET, address[4:8]), port
    if family == socket.AF_INET6:
        packed = address[8:24]
        if packed[:12] == b"\0" * 10 + b"\xff\xff":
            return socket.inet_ntop(socket.AF_INET, packed[12:]), port
        return socket.inet_ntop(socket.AF_INET6, packed), port
    return None


class Onlookers:
    """Has ``say`` told of those that are connected to ``port`` of this process and have opened no session.

    `met` is told of the peer of each session, in gRPC's words. `start` begins to look, on the running loop; `close`
    ends it.
    """

    def __init__(self, port: int, name: str, seconds: float, say: Callable[..., object]) -> None:
        self._name = name
        self._seconds = seconds / LOOKS
        self._say = say
        self._names = _Names(port)
        self._met: set[str] = set()
        self._seen: dict[str, int] = {}
        self._timer: asyncio.TimerHandle | None = None

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {self._name} seen={len(self._seen)}>"

    def met(self, peer: str) -> None:
        """Learn that whoever is at the other end has opened a session, or was refused in words."""
        self._met.add(_key(peer))

    def start(self) -> None:
        """Look, and go on looking."""
        self._look()
        self._timer = asyncio.get_running_loop().call_later(self._seconds, self.start)

    def close(self) -> None:
        """Look no more; idempotent."""
        if self._timer is not None:
            self._timer.cancel()

    def _look(self) -> None:
        try:
            there = self._connected()
        except OSError:
            return  # to look takes a descriptor, and none is left now
        self._met &= there.keys()
        self._seen = {key: self._seen.get(key, 0) + 1 for key in there if key not in self._met}
        hosts = Counter(there[key] for key, looks in self._seen.items() if looks == SUSPECT)
        if hosts:
            named = ", ".join(f"{count} from {host}" for host, count in hosts.most_common(HOSTS))
            others = sum(hosts.values()) - sum(count for _, count in hosts.most_common(HOSTS))
            self._say(
                "%s: connections that have opened no session in %g s: %s%s",
                self._name,
                (SUSPECT - 1) * self._seconds,
                named,
                f", {others} from others" if others else "",
            )

    def _connected(self) -> dict[str, str]:
        """Return the host of each connection to the port, by host and port of its other end."""
        found: dict[str, str] = {}
        for each in os.listdir("/dev/fd"):
            if (caller := self._names.caller(int(each))) is not None:
                host, port = caller
                found[f"{host}:{port}"] = host
        return found
