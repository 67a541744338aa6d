"""Targets: what discovery reads that others may have written, and addresses."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import logging
import math
from typing import Any

from fuzz.choices import Choices
from wool.authority import alternative_name
from wool.discovery import table
from wool.discovery.base import WorkerMetadata
from wool.discovery.lookups import Lookups, split
from wool.discovery.records import Interface, RecordError, from_text, label_of, to_text, worker_of
from wool.discovery.sightings import Record, Sightings
from wool.discovery.view import View
from wool.limits import Limits
from wool.lives import Life
from wool.transport.grpc_options import parse

LIMITS = Limits(lan_workers=4, addresses=4, local_workers=4)
HERE = ipaddress.ip_address("10.0.0.1")
FACES = [Interface(name="eth0", address=HERE, network=ipaddress.ip_network("10.0.0.0/8"))]


def record(data: bytes) -> None:
    """A discovery record is a worker, which writes itself down again, or `ValueError`."""
    try:
        metadata = WorkerMetadata.from_bytes(data)
    except ValueError as error:
        assert len(str(error)) < 1000
        return
    try:
        again = metadata.to_bytes()
    except ValueError as error:
        assert len(str(error)) < 1000
        return
    assert WorkerMetadata.from_bytes(again) == metadata


def life(data: bytes) -> None:
    """Where a worker shows that it lives, or nothing."""
    found = Life.from_bytes(data)
    assert found is None or found.has_ended() in (True, False)


def text_record(data: bytes) -> None:
    """A TXT record is a worker at an address that was announced, or `RecordError`."""
    with contextlib.suppress(RecordError):
        assert to_text(from_text(data)) == data
    choices = Choices(data)
    label, port = choices.one_of(("a", "A", "h-1", "")), choices.one_of((7000, 0, 65535))
    address = choices.one_of(("10.0.0.2", "::1", "nonsense"))
    rest = choices.rest()
    for text in (rest, to_text(rest)):
        try:
            metadata = worker_of(label, text, port, [address], FACES)
        except RecordError as error:
            assert len(str(error)) < 1000
        else:
            assert metadata.address.endswith(f":{port}")
            assert label_of(metadata.uid) == label.lower()


def shared_table(data: bytes) -> None:
    """Any file is a table or `TableInvalid`, for readers and for writers, in no more time than its length takes."""
    choices = Choices(data)
    if choices.flag():
        # Below an honest header, or nothing further would be looked at.
        layout = table.Layout.of(slots=4, record_bytes=200)
        buffer = bytearray()
        table.apply(buffer, layout.initial())
        metadata = WorkerMetadata(uid="a", address="unix:/a", pid=1, version="1")
        change = table.add(bytes(buffer), metadata, b"l" * 16, namespace="n", is_live=lambda lease: True)
        table.apply(buffer, change.writes)
        while choices:
            place = choices.byte() * 256 + choices.byte()
            if place < len(buffer):
                buffer[place] ^= choices.byte()
        data = bytes(buffer)
    view = View()
    try:
        snapshot = table.Snapshot.read(data)
    except table.TableInvalid as error:
        assert len(str(error)) < 500
        return
    view.advance(snapshot, {slot.lease for slot in snapshot.slots})
    another = WorkerMetadata(uid="b", address="unix:/b", pid=1, version="1")
    buffer = bytearray(data)
    try:
        table.reclaim(data, is_live=lambda lease: lease[0] == 0)
        table.apply(
            buffer, table.add(data, another, b"m" * 16, namespace="n", is_live=lambda lease: lease[0] == 0).writes
        )
    except (table.TableInvalid, table.TableFull, ValueError) as error:
        assert len(str(error)) < 500
        return
    assert table.Snapshot.read(buffer).find("b") is not None


def addresses(data: bytes) -> None:
    """An address is understood, the same by all who look at it, or `ValueError`."""
    text = data.decode("utf-8", "surrogateescape" if data[:1] == b"\0" else "replace")
    try:
        host, port = split(text)
    except ValueError:
        pass
    else:
        assert 0 < port < 65536
        assert len(host) < 300
    try:
        where = parse(text)
    except ValueError:
        pass
    else:
        assert parse(where.text).target == where.target
    with contextlib.suppress(ValueError):
        alternative_name(text)


# ---- multicast DNS -----------------------------------------------------------------------------------


def _check(heard: Sightings, now: float) -> None:
    assert len(heard) <= LIMITS.lan_workers
    for worker in heard.workers(now):
        assert worker.uid.isprintable()
        ipaddress.ip_address(split(worker.address)[0])
    assert len(heard.questions(now)) <= 1 + 4 * LIMITS.lan_workers
    assert len(heard.known(now)) <= LIMITS.lan_workers
    assert heard.next_at(now) < math.inf
    assert len(heard.complaint) < 2000


def sightings(data: bytes) -> None:
    """Whatever is announced, in whatever order: workers that can be called, bounded questions."""
    choices = Choices(data)
    heard, now = Sightings(FACES, LIMITS, 0.0), 0.0
    names = [f"{label}._wool._tcp.local." for label in ("a", "b", "c", "d", "e", "f")]
    honest = WorkerMetadata(uid="a", address="10.0.0.2:7000", pid=1, version="1").to_bytes()
    while choices:
        said: list[Record] = []
        for _ in range(1 + choices.below(6)):
            name, seconds = choices.one_of(names), choices.one_of((0.0, 1.0, 30.0, 4294967295.0))
            match choices.below(4):
                case 0:
                    target = choices.one_of((name, choices.some_bytes().decode("latin-1")))
                    said.append(Record(kind="PTR", name="_wool._tcp.local.", seconds=seconds, target=target))
                case 1:
                    port = choices.one_of((7000, 0, 1))
                    said.append(Record(kind="SRV", name=name, seconds=seconds, target="a.local.", port=port))
                case 2:
                    text = choices.one_of((to_text(honest), choices.some_bytes()))
                    said.append(Record(kind="TXT", name=name, seconds=seconds, text=text))
                case _:
                    target = choices.one_of(("10.0.0.2", "10.0.0.3", "::1", "x"))
                    said.append(Record(kind="A", name="a.local.", seconds=seconds, target=target))
        heard.heard(said, now)
        _check(heard, now)
        now += choices.byte()


def packets(data: bytes) -> None:
    """A packet from the network, as zeroconf takes it apart, is records or nothing."""
    import zeroconf

    from wool.discovery.mdns import _record_of

    dns: Any = zeroconf
    logging.getLogger("zeroconf").setLevel(logging.CRITICAL)
    incoming = dns.DNSIncoming(data)
    if not incoming.valid:
        return
    heard = Sightings(FACES, LIMITS, 0.0)
    found = [made for answer in incoming.answers() if (made := _record_of(answer)) is not None]
    heard.heard(found, 0.0)
    _check(heard, 0.0)


# ---- DNS ---------------------------------------------------------------------------------------------

_KINDS = (1, 28, 33)
"""A, AAAA and SRV: what is asked for."""

_loop: asyncio.AbstractEventLoop | None = None


def close_loop() -> None:
    """Close the loop that the targets share."""
    global _loop
    if _loop is not None:
        _loop.close()
        _loop = None


def answers(data: bytes) -> None:
    """Whatever a name server answers: addresses that can be tried, or `LookupFailed`."""
    global _loop
    import dns.exception
    import dns.message
    import dns.rdataclass
    import dns.rdatatype
    import dns.resolver

    from wool.discovery.dns import DnsResolver
    from wool.discovery.lookups import LookupFailed

    try:
        message = dns.message.from_wire(data, question_only=False)
        question = message.question[0]
    except (dns.exception.DNSException, IndexError, ValueError):
        return  # what is no message, dnspython's own resolver passes over

    class Asked(DnsResolver):
        async def _ask(self, name: str, kind: str) -> dns.resolver.Answer:
            if kind != question.rdtype.name:
                raise dns.exception.Timeout
            return dns.resolver.Answer(question.name, question.rdtype, question.rdclass, message)

    if not isinstance(message, dns.message.QueryMessage):
        return
    if _loop is None:
        _loop = asyncio.new_event_loop()
    # dnspython takes no answer to another question than was asked.
    if question.rdclass != dns.rdataclass.IN or question.rdtype not in _KINDS:
        return
    kind = question.rdtype
    resolver = Asked(None if kind == dns.rdatatype.SRV else 7000, (), LIMITS)
    name = f"{kind.name} {question.name}"
    try:
        answer = _loop.run_until_complete(resolver.resolve(name))
    except LookupFailed:
        return
    lookups = Lookups([name], LIMITS)
    lookups.answered(name, answer, 0.0)
    assert len(lookups.workers()) <= LIMITS.addresses
    for worker in lookups.workers():
        split(worker.address)
