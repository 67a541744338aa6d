"""Workers at addresses that the user knows.

A name among the addresses is looked up by the system, as everything else on this machine does: ``/etc/hosts``, search
domains, multicast names. That says nothing about how long it holds, so it is asked again every
``static_lookup_seconds``.
"""

from __future__ import annotations

import asyncio
import socket
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from wool.discovery.base import NoPublisher, WorkerFilter
from wool.discovery.following import NamesSubscriber
from wool.discovery.lookups import Answer, LookupFailed, ResolverLike, is_literal, join, split
from wool.limits import DEFAULT_LIMITS, Limits

_UNIX = "unix:/"
_THREADS = 64
"""That look names up at a time, of one subscription."""
_NAMED = 3
"""So many addresses are named in a repr, which is part of errors."""


class StaticDiscovery:
    """Finds the workers at given addresses: ``StaticDiscovery("10.0.0.1:7000", "gpu-2:7000")``.

    Each is ``host:port``, with an IP address or a name (of which all addresses are taken), or ``unix:/path``.
    Who is there is learnt from the handshake with the first call, and what answers later under another uid is
    another worker. Nothing is announced: an address that nobody answers at is probed as long as it is used.

    Picklable; needs no closing. Raises `ValueError` for what is no address.
    """

    def __init__(self, *addresses: str, limits: Limits = DEFAULT_LIMITS) -> None:
        if not addresses:
            raise ValueError("StaticDiscovery needs at least one address: StaticDiscovery('10.0.0.1:7000')")
        for address in addresses:
            _is_name(address)
        self.addresses: tuple[str, ...] = tuple(dict.fromkeys(addresses))
        self._limits = limits

    @property
    def publisher(self) -> NoPublisher:
        """Refuses to announce anything."""
        return NoPublisher("the addresses of a StaticDiscovery are given, give its address to each of them")

    @property
    def subscriber(self) -> StaticSubscriber:
        """Sees the workers at all addresses."""
        return self.subscribe()

    def subscribe(self, filter: WorkerFilter | None = None, /) -> StaticSubscriber:
        """Return a subscriber that sees only the workers for which ``filter`` is true.

        It is asked when a worker's handshake has told its metadata, on the I/O loop, so it must not block.
        To pickle the subscriber, the filter must be picklable.
        """
        return StaticSubscriber(self.addresses, filter, self._limits)

    def __reduce__(self) -> tuple[Any, ...]:
        return (_rebuild, (self.addresses, self._limits))

    def __repr__(self) -> str:
        return f"<StaticDiscovery {_some(self.addresses)}>"


def _rebuild(addresses: tuple[str, ...], limits: Limits) -> StaticDiscovery:
    return StaticDiscovery(*addresses, limits=limits)


class StaticSubscriber(NamesSubscriber):
    """Sees the workers at given addresses."""

    def __init__(self, addresses: tuple[str, ...], filter: WorkerFilter | None, limits: Limits) -> None:
        names = [address for address in addresses if _is_name(address)]
        fixed = [address for address in addresses if not _is_name(address)]
        super().__init__(names, filter, limits, fixed=fixed)
        self._addresses = addresses

    def _resolver(self) -> ResolverLike:
        return SystemResolver(len(self._names), self._limits)

    def __reduce__(self) -> tuple[Any, ...]:
        return (type(self), (self._addresses, self._filter, self._limits))

    def __repr__(self) -> str:
        return f"<StaticSubscriber of {_some(self._addresses)}{' filtered' if self._filter else ''}>"


def _some(addresses: tuple[str, ...]) -> str:
    more = f" and {len(addresses) - _NAMED} more" if len(addresses) > _NAMED else ""
    return ", ".join(addresses[:_NAMED]) + more


def _is_name(address: str) -> bool:
    if isinstance(address, str) and address.startswith(_UNIX):  # pyright: ignore[reportUnnecessaryIsInstance]
        return False
    return not is_literal(split(address)[0])


class SystemResolver:
    """Asks the system, in a thread: ``getaddrinfo`` blocks for as long as it likes.

    Each of ``names`` names has one thread at most, so one that hangs keeps no other waiting, however often it is tried.
    """

    def __init__(self, names: int, limits: Limits) -> None:
        self._limits = limits
        self._threads = ThreadPoolExecutor(min(max(names, 1), _THREADS), thread_name_prefix="wool-getaddrinfo")
        self._asked: dict[str, asyncio.Future[list[tuple[Any, ...]]]] = {}

    async def resolve(self, name: str) -> Answer:
        """Return all addresses of ``host:port``. Raises `LookupFailed`."""
        host, port = split(name)
        try:
            found = await self._found(name, host, port)
        except OSError as error:
            raise LookupFailed(error.strerror or str(error)) from error
        addresses = dict.fromkeys(join(str(entry[4][0]).partition("%")[0], port) for entry in found)
        return Answer(addresses=tuple(addresses), seconds=self._limits.static_lookup_seconds)

    async def _found(self, name: str, host: str, port: int) -> list[tuple[Any, ...]]:
        """Return what ``getaddrinfo`` does; the simulator's system does not block. Raises `OSError`."""
        asked = self._asked.get(name)
        if asked is None:
            asked = asyncio.get_running_loop().run_in_executor(self._threads, _look_up, host, port)
            self._asked[name] = asked
            asked.add_done_callback(lambda done: self._answered(name, done))
        return await asyncio.shield(asked)

    def _answered(self, name: str, done: asyncio.Future[list[tuple[Any, ...]]]) -> None:
        del self._asked[name]
        if not done.cancelled():
            done.exception()  # perhaps nobody waits for it any more

    def close(self) -> None:
        """Start no more; a look-up under way ends by itself."""
        for asked in self._asked.values():
            asked.cancel()
        self._threads.shutdown(wait=False, cancel_futures=True)


def _look_up(host: str, port: int) -> list[tuple[Any, ...]]:
    return list(socket.getaddrinfo(host, port, type=socket.SOCK_STREAM))
