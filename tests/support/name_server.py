"""A name server on loopback, as a test pleases: it answers, denies, fails, or says nothing.

``python -m support.name_server HOST ZONE`` is one on a host of its own.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import struct
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import cast

import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rdatatype
import dns.rrset


@dataclass
class NameServer:
    """The records of one zone, and how it behaves. Change both while it serves."""

    zone: str = "test."
    records: dict[tuple[str, str], tuple[int, list[str]]] = field(default_factory=dict)
    """By name and kind: time to live, and the records as text."""
    silent: bool = False
    failing: bool = False
    silent_about: str = ""
    """A kind of record that it says nothing about."""
    denied_seconds: int | None = 1
    """How long its denials hold; None: it does not say."""
    brings_addresses: bool = False
    """Whether the addresses of a service's hosts come along with it."""
    most_bytes: int = 512
    """A longer answer is truncated over UDP, to be asked for again over TCP."""
    asked: list[tuple[float, str, str]] = field(default_factory=list)
    """When it was asked, for what name and kind."""
    over_tcp: int = 0
    host: str = "127.0.0.1"
    port: int = 0
    _news: asyncio.Event = field(default_factory=asyncio.Event)

    def set(self, name: str, kind: str, *texts: str, ttl: int = 1) -> None:
        """Let ``name`` have these records of ``kind``, and no others."""
        if texts:
            self.records[f"{name}.{self.zone}", kind] = (ttl, list(texts))
        else:
            self.records.pop((f"{name}.{self.zone}", kind), None)

    @property
    def address(self) -> str:
        return f"{self.host}:{self.port}"

    def times(self, kind: str) -> list[float]:
        """Return when it was asked for records of ``kind``."""
        return [when for when, _, asked in self.asked if asked == kind]

    async def until_asked(self, kind: str, times: int) -> None:
        """Wait until it was asked for records of ``kind`` so many times more."""
        wanted = len(self.times(kind)) + times
        async with asyncio.timeout(30):
            while len(self.times(kind)) < wanted:
                self._news.clear()
                await self._news.wait()

    def _rrset(self, name: str, kind: str) -> dns.rrset.RRset | None:
        if (name, kind) not in self.records:
            return None
        ttl, texts = self.records[name, kind]
        return dns.rrset.from_text_list(name, ttl, "IN", kind, texts)

    def answer(self, wire: bytes) -> dns.message.Message | None:
        query = dns.message.from_wire(wire)
        (question,) = query.question
        name, kind = question.name.to_text(), dns.rdatatype.to_text(question.rdtype)
        self.asked.append((asyncio.get_running_loop().time(), name, kind))
        self._news.set()
        if self.silent or kind == self.silent_about:
            return None
        response = dns.message.make_response(query)
        response.flags |= dns.flags.AA
        if self.failing:
            response.set_rcode(dns.rcode.SERVFAIL)
            return response
        alias = self._rrset(name, "CNAME")
        if alias is not None and kind != "CNAME":
            response.answer.append(alias)
            name = alias[0].to_text()
        if (found := self._rrset(name, kind)) is not None:
            response.answer.append(found)
            if self.brings_addresses and kind == "SRV":
                for record in found:
                    for family in ("A", "AAAA"):
                        if (beside := self._rrset(record.target.to_text(), family)) is not None:
                            response.additional.append(beside)
        else:
            if name not in {known for known, _ in self.records}:
                response.set_rcode(dns.rcode.NXDOMAIN)
            if self.denied_seconds is not None:
                soa = f"ns.{self.zone} admin.{self.zone} 1 1 1 1 {self.denied_seconds}"
                response.authority.append(dns.rrset.from_text(self.zone, 3600, "IN", "SOA", soa))
        return response


class _Datagrams(asyncio.DatagramProtocol):
    def __init__(self, server: NameServer) -> None:
        self._server = server

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.DatagramTransport", transport)

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        response = self._server.answer(data)
        if response is None:
            return
        wire = response.to_wire()
        if len(wire) > self._server.most_bytes:
            response.answer.clear()
            response.flags |= dns.flags.TC
            wire = response.to_wire()
        self._transport.sendto(wire, addr)


@contextlib.asynccontextmanager
async def name_server(*, host: str = "127.0.0.1", port: int = 0, zone: str = "test.") -> AsyncIterator[NameServer]:
    """A name server, on one port of both UDP and TCP; by default a free one."""
    server = NameServer(zone=zone, host=host)
    loop = asyncio.get_running_loop()

    async def stream(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError):
            (size,) = struct.unpack("!H", await reader.readexactly(2))
            response = server.answer(await reader.readexactly(size))
            if response is not None:
                server.over_tcp += 1
                wire = response.to_wire()
                writer.write(struct.pack("!H", len(wire)) + wire)
                await writer.drain()
        writer.close()

    streams = await asyncio.start_server(stream, host, port)
    server.port = streams.sockets[0].getsockname()[1]
    datagrams, _ = await loop.create_datagram_endpoint(lambda: _Datagrams(server), local_addr=(host, server.port))
    try:
        yield server
    finally:
        datagrams.close()
        streams.close()
        await streams.wait_closed()
        await asyncio.sleep(0)


async def main(host: str, zone: str) -> None:
    """Serve on a host of its own, as the lines of standard input say: a JSON list each, the arguments of `set`."""
    lines = asyncio.StreamReader()
    loop = asyncio.get_running_loop()
    pipe, _ = await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
    async with name_server(host=host, port=53, zone=zone) as server:
        print("ready", flush=True)
        while line := await lines.readline():
            server.set(*json.loads(line))
            print("set", flush=True)
    pipe.close()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
