"""The sockets of multicast DNS, by zeroconf: records come and go, and nothing is decided here.

Its cache, its browser and its probing are passed by. What is heard goes to `wool.discovery.sightings`, which also says
what to ask; so how long a worker is in view does not depend on how often zeroconf looks into its cache (every 10 s), or
on the least time to live that it gives a pointer (1125 s). A worker's uid is random, so nobody else has its name, and
probing would delay each announcement by more than a second. On Linux it also listens on sockets of its own, since
zeroconf's takes from others what they should hear, and hears what it should not.

It must be used on the loop that opened it.
"""

from __future__ import annotations

import asyncio
import errno
import ipaddress
import logging
import socket
import struct
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import ifaddr
import zeroconf
from zeroconf import RecordUpdate, RecordUpdateListener, ServiceInfo, Zeroconf
from zeroconf.asyncio import AsyncZeroconf

from wool.discovery.records import SERVICE, Announcement, Interface, choose_interfaces
from wool.discovery.sightings import Kind, Question, Record
from wool.limits import Limits

_dns: Any = zeroconf
"""Its classes of records and messages are offered for import, but not listed in its ``__all__``."""
_log = logging.getLogger("wool.discovery")

Hear = Callable[[Sequence[Record]], None]

_IN = 1
_QUERY = 0
_TYPES: dict[Kind, int] = {"A": 1, "PTR": 12, "TXT": 16, "AAAA": 28, "SRV": 33}
_PORT = 5353
_RECEIVE_BYTES = 4 * 1024 * 1024
_GROUP_4, _GROUP_6 = "224.0.0.251", "ff02::fb"
_IP_MULTICAST_ALL = 49
"""Of <linux/in.h>; Python does not name it."""
_POINTER_SECONDS = 1200
"""Of the pointer and the text, which are not what says that a worker lives. Less than 1125 is not taken."""


class Multicast:
    """Multicast DNS on chosen interfaces."""

    def __init__(self, multicast: AsyncZeroconf, interfaces: list[Interface], limits: Limits) -> None:
        self.interfaces: Sequence[Interface] = interfaces
        self._zeroconf: Any = multicast
        """An `AsyncZeroconf`, of which several types are incomplete."""
        self._limits = limits
        self._announced: dict[str, ServiceInfo] = {}
        self._sending: set[asyncio.Future[None]] = set()
        self._hellos: dict[str, asyncio.Future[None]] = {}
        """By name, what repeats its last announcement."""
        self._receivers: list[asyncio.BaseTransport] = []

    @classmethod
    async def open(cls, wanted: Sequence[str], limits: Limits) -> Multicast:
        """Open the sockets. Raises `OSError`: no such interface, or the port is another's alone."""
        interfaces = choose_interfaces(present_interfaces(), wanted)
        addresses = list(dict.fromkeys(str(face.address) for face in interfaces))
        try:
            multicast = AsyncZeroconf(interfaces=addresses)
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise
            why = f"UDP port {_PORT} is used by a program that does not share it: end that program, or let it share"
            raise OSError(error.errno, why) from error
        self = cls(multicast, interfaces, limits)
        try:
            await multicast.zeroconf.async_wait_for_start(limits.lan_open_seconds)
            if sys.platform == "linux":
                await self._hear_only_what_was_joined()
        except BaseException:
            await self.close()
            raise
        return self

    async def _hear_only_what_was_joined(self) -> None:
        """Let sockets of our own take the place of the one that zeroconf listens on; see `listening_socket`."""
        loop = asyncio.get_running_loop()
        transports: list[Any] = [reader.transport for reader in self._zeroconf.zeroconf.engine.readers]
        theirs = next(each for each in transports if each.get_extra_info("sockname")[0] in ("0.0.0.0", "::"))
        theirs.close()
        listener = theirs.get_protocol().__class__
        made = listening_sockets(self.interfaces)
        try:
            while made:
                receiver, _ = await loop.create_datagram_endpoint(
                    lambda: listener(self._zeroconf.zeroconf), sock=made[-1]
                )
                made.pop()
                self._receivers.append(receiver)
        finally:
            for each in made:
                each.close()

    # ---- hearing and asking ----

    def listen(self, hear: Hear) -> None:
        """Let ``hear`` be told of all records, those of one message at a time."""
        self._zeroconf.zeroconf.async_add_listener(_Ear(hear), None)

    def ask(self, questions: Iterable[Question], known: Iterable[tuple[str, float, float]]) -> None:
        """Ask everybody; who would only give an answer that is ``known`` keeps silent."""
        out = _dns.DNSOutgoing(_QUERY)
        for name, kind in questions:
            out.add_question(_dns.DNSQuestion(name, _TYPES[kind], _IN))
        for name, seconds, age in known:
            left = int(seconds - age)
            if left > 0:
                out.add_answer_at_time(_dns.DNSPointer(SERVICE, _TYPES["PTR"], _IN, left, name), 0)
        self._zeroconf.zeroconf.async_send(out)

    # ---- announcing ----

    async def announce(self, announcement: Announcement) -> None:
        """Announce a worker; on return it was said once. Raises `ValueError` if that was done before."""
        if announcement.name in self._announced:
            raise ValueError(f"{announcement.label} is announced already")
        info = self._info_of(announcement)
        self._announced[announcement.name] = info
        self._keep(await self._zeroconf.async_register_service(info, cooperating_responders=True), announcement.name)
        await asyncio.sleep(0)

    async def update(self, announcement: Announcement) -> None:
        """Announce what has changed. Raises `ValueError` if it is not announced."""
        if announcement.name not in self._announced:
            raise ValueError(f"{announcement.label} is not announced here")
        info = self._announced[announcement.name] = self._info_of(announcement)
        self._unsay(announcement.name)
        self._keep(await self._zeroconf.async_update_service(info), announcement.name)
        await asyncio.sleep(0)

    async def withdraw(self, name: str) -> None:
        """Say goodbye; on return it was said once. Raises `ValueError` if it is not announced."""
        info = self._announced.pop(name, None)
        if info is None:
            raise ValueError(f"{name} is not announced here")
        self._unsay(name)
        self._keep(await self._zeroconf.async_unregister_service(info))
        await asyncio.sleep(0)

    def _keep(self, repeats: asyncio.Future[None], name: str = "") -> None:
        # What is said is said three times, in case it gets lost.
        self._sending.add(repeats)
        repeats.add_done_callback(self._sent)
        if name:
            self._hellos[name] = repeats

    def _unsay(self, name: str) -> None:
        """Do not repeat what is no longer true: whoever has not heard the first one would believe the last."""
        if (repeats := self._hellos.pop(name, None)) is not None:
            repeats.cancel()

    def _sent(self, repeats: asyncio.Future[None]) -> None:
        self._sending.discard(repeats)
        if not repeats.cancelled() and (error := repeats.exception()) is not None:
            _log.warning("an announcement was not repeated: %s", error)

    def _info_of(self, announcement: Announcement) -> ServiceInfo:
        return ServiceInfo(
            SERVICE,
            announcement.name,
            port=announcement.port,
            properties=announcement.text,
            server=announcement.host,
            host_ttl=self._limits.lan_ttl_seconds,
            other_ttl=_POINTER_SECONDS,
            parsed_addresses=list(announcement.addresses),
        )

    async def close(self) -> None:
        """Say goodbye for all that is announced, and close the sockets; bounded by ``lan_open_seconds``."""
        try:
            async with asyncio.timeout(self._limits.lan_open_seconds):
                # Half a second at most. One that is cancelled may have a hello on its way, which would be heard after
                # the goodbye.
                await asyncio.gather(*self._sending, return_exceptions=True)
                await self._zeroconf.async_unregister_all_services()
        except TimeoutError:
            _log.warning("goodbyes could not be said in %s s (lan_open_seconds)", self._limits.lan_open_seconds)
        finally:
            self._announced.clear()
            self._hellos.clear()
            for receiver in self._receivers:
                receiver.close()
            await self._zeroconf.async_close()


class _Ear(RecordUpdateListener):
    """Tells of every record that is heard, also of one that is known already: it holds anew."""

    def __init__(self, hear: Hear) -> None:
        self._hear = hear

    def async_update_records(self, zc: Zeroconf, now: float, records: list[RecordUpdate]) -> None:
        # zeroconf also tells what it forgets, when it looks into its cache: that was not heard again.
        new: list[Any] = [update.new for update in records]
        heard = [each for record in new if not _forgotten(record, now) and (each := _record_of(record)) is not None]
        if heard:
            self._hear(heard)


def _forgotten(record: Any, now: float) -> bool:
    # A goodbye, whose time is over at once, was heard.
    return bool(record.ttl > 0 and record.is_expired(now))


def _record_of(record: Any) -> Record | None:
    name, seconds = record.name, float(record.ttl)
    if isinstance(record, _dns.DNSPointer):
        return Record(kind="PTR", name=name, seconds=seconds, target=record.alias)
    if isinstance(record, _dns.DNSService):
        return Record(kind="SRV", name=name, seconds=seconds, target=record.server, port=record.port)
    if isinstance(record, _dns.DNSText):
        return Record(kind="TXT", name=name, seconds=seconds, text=record.text)
    if isinstance(record, _dns.DNSAddress):
        try:
            address = str(ipaddress.ip_address(record.address))
        except ValueError:
            return None
        return Record(kind="A", name=name, seconds=seconds, target=address)
    return None


def listening_sockets(interfaces: Iterable[Interface]) -> list[socket.socket]:
    """Return a socket for each interface, one more where it has IPv6 too; see `listening_socket`.

    Raises `OSError` if nothing can be heard on any; one of several is logged.
    """
    made: dict[tuple[int, int], socket.socket] = {}
    failed: OSError | None = None
    for face in interfaces:
        try:
            # An interface may have several addresses.
            index = socket.if_nametoindex(face.name)
            if (index, face.address.version) not in made:
                made[index, face.address.version] = listening_socket(index, six=face.address.version == 6)
        except OSError as error:
            _log.warning("nobody can be heard on %s: %s", face, error)
            failed = error
    if failed is not None and not made:
        raise failed
    return list(made.values())


def listening_socket(index: int, *, six: bool) -> socket.socket:
    """Return a socket that hears multicast DNS on the interface ``index`` and on no other. For Linux.

    It shares the port by ``SO_REUSEADDR`` alone. Of sockets that share it by ``SO_REUSEPORT``, as zeroconf's do, the
    kernel gives what one of them alone may hear to any one of them, of whatever program of this user: it would get lost
    in one process and be heard by another that must not. One that has been bound cannot be taken out of their number.
    """
    made = socket.socket(socket.AF_INET6 if six else socket.AF_INET, socket.SOCK_DGRAM)
    try:
        made.setblocking(False)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        # As much as the system allows: many workers may speak at once, and a goodbye that is lost costs half a minute.
        made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVE_BYTES)
        if six:
            group = struct.pack("@16sI", socket.inet_pton(socket.AF_INET6, _GROUP_6), index)
            made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            made.bind((_GROUP_6, _PORT, 0, index))
            made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_JOIN_GROUP, group)
        else:
            group = struct.pack("@4s4si", socket.inet_aton(_GROUP_4), bytes(4), index)
            # Else it would hear what comes in by any interface where some process has joined the group.
            made.setsockopt(socket.IPPROTO_IP, _IP_MULTICAST_ALL, 0)
            made.bind((_GROUP_4, _PORT))
            made.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, group)
    except BaseException:
        made.close()
        raise
    return made


def present_interfaces() -> list[Interface]:
    """Return the addresses of this host's interfaces."""
    found: list[Interface] = []
    for adapter in ifaddr.get_adapters():
        for ip in adapter.ips:
            text = ip.ip if isinstance(ip.ip, str) else ip.ip[0]
            network = ipaddress.ip_network(f"{text}/{ip.network_prefix}", strict=False)
            found.append(Interface(name=adapter.name, address=ipaddress.ip_address(text), network=network))
    return found
