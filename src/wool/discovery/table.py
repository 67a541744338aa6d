"""The shared table of a LocalDiscovery: its layout, its changes as data, and how it is read.

Why it exists: several processes write and read one file without a server, and any of them may die at any
instruction. This module decides everything about that and does nothing about it: it turns bytes into
records, and a wish into an ordered list of writes. The simulator tears those writes apart;
`wool.discovery.namespace` carries them out.

What it owns: the bytes. What it must never do: I/O, locks, clocks, random numbers, unpickling.

    header   magic | layout version | slots | bytes per slot | CRC | … | generation
    slot     two banks, written in turns
    bank     mark | state | length | sequence | key | lease | CRC | record

Why a torn write is harmless: a change goes to the bank that does *not* hold the slot's present value: first
its mark, one byte, is cleared; then its content is written; then the mark is set; last the generation. Cut at
any byte, the slot has its old value or its new one. That holds for a reader too, as long as one change at most
is under way while it copies the table: so it compares the generation before and after, and copies again if it
was overtaken. The CRC is for what remains: processors that show writes in another order, and damaged files.
What does not fit is no value; the reader keeps what it has and looks again.

Writers exclude each other by a lock that dies with its holder; readers take none. The sequence rises by one
with every change of the table, and the valid bank with the higher one is the slot's value. The generation is
the sequence of the latest change: cheap to poll. A writer may die just before raising it: so a reader looks
without it now and then, and the next writer first raises it to where it should be.

A slot belongs to its lease, a token that the publisher proves to be alive by other means (a lock). A slot
whose lease is dead is dropped for readers, and free for writers.

The file ends with the last bank that was ever written: what lies beyond reads as never written.
"""

from __future__ import annotations

import hashlib
import struct
import zlib
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from wool.discovery.base import WorkerMetadata
from wool.limits import MOST_SLOT_BYTES, MOST_SLOTS

if TYPE_CHECKING:
    from mmap import mmap

    Readable: TypeAlias = bytes | bytearray | memoryview | mmap

MAGIC = b"woolLDT\n"
LAYOUT_VERSION = 1
"""Raised with any change of the layout or of the fields of a record."""
LEASE_BYTES = 16
KEY_BYTES = 16
FREE, LIVE = 0, 1
"""What a bank says of its slot."""
MARK = 0xA5
"""First byte of a bank that was written to its end."""

_HEADER = struct.Struct("<8sIII")
_HEADER_CRC = struct.Struct("<I")
_GENERATION = struct.Struct("<Q")
_BANK = struct.Struct(f"<BBHIQ{KEY_BYTES}s{LEASE_BYTES}s")
_BANK_CRC = struct.Struct("<I")
_BANK_OVERHEAD = _BANK.size + _BANK_CRC.size
_NO_LEASE = bytes(LEASE_BYTES)
_NO_KEY = bytes(KEY_BYTES)

GENERATION_OFFSET = 32
HEADER_BYTES = 64


class TableInvalid(ValueError):
    """The bytes are no table that this version of wool can read."""


class TableFull(RuntimeError):
    """Every slot of the namespace belongs to a live publisher."""

    def __init__(self, namespace: str, capacity: int) -> None:
        super().__init__(
            f"namespace {namespace!r} is full: all {capacity} slots belong to live workers; drop workers, use a "
            f"second namespace, or let the first process that opens it set Limits.local_workers higher"
        )


@dataclass(frozen=True, slots=True)
class Write:
    """Bytes to be put at an offset. Only a write of one byte is taken to be indivisible."""

    offset: int
    data: bytes


@dataclass(frozen=True, slots=True)
class Change:
    """Writes to be carried out in this order, under the writers' lock.

    ``retired`` is the lease that nobody needs any more once they are.
    """

    slot: int
    writes: tuple[Write, ...]
    retired: bytes | None = None


class Slot(NamedTuple):
    """A live slot as a reader sees it. ``key`` stands for the uid; ``record`` is not parsed yet.

    A tuple, because a look makes one for every worker.
    """

    number: int
    sequence: int
    key: bytes
    lease: bytes
    record: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """The dimensions of a table, fixed by whoever made it."""

    slots: int
    slot_bytes: int

    def __post_init__(self) -> None:
        if not 0 < self.slots <= MOST_SLOTS:
            raise TableInvalid(f"a table has 1 to {MOST_SLOTS} slots, not {self.slots}")
        if self.slot_bytes % 2 or not 2 * _BANK_OVERHEAD < self.slot_bytes <= MOST_SLOT_BYTES:
            raise TableInvalid(f"a slot cannot have {self.slot_bytes} bytes")

    @classmethod
    def of(cls, *, slots: int, record_bytes: int) -> Layout:
        """Return the layout for so many workers with records of up to so many bytes."""
        return cls(slots=slots, slot_bytes=2 * (_BANK_OVERHEAD + record_bytes))

    @classmethod
    def parse(cls, data: Readable) -> Layout:
        """Read the header. Raises `TableInvalid` saying what is wrong with it."""
        if len(data) < HEADER_BYTES:
            raise TableInvalid(f"a table begins with {HEADER_BYTES} bytes of header, this has {len(data)}")
        magic, version, slots, slot_bytes = _HEADER.unpack_from(data)
        if magic != MAGIC:
            raise TableInvalid("this is not a table of worker records")
        if version != LAYOUT_VERSION:
            raise TableInvalid(f"the table has layout {version}, this version of wool knows {LAYOUT_VERSION}")
        (crc,) = _HEADER_CRC.unpack_from(data, _HEADER.size)
        if crc != zlib.crc32(bytes(data[len(MAGIC) : _HEADER.size])):
            raise TableInvalid("the header of the table is damaged")
        return cls(slots=slots, slot_bytes=slot_bytes)

    @property
    def record_bytes(self) -> int:
        """The longest record that a slot holds."""
        return self.slot_bytes // 2 - _BANK_OVERHEAD

    @property
    def size(self) -> int:
        """Bytes of the table when every slot has been written."""
        return HEADER_BYTES + self.slots * self.slot_bytes

    def bank(self, slot: int, number: int) -> int:
        """Return the offset of a slot's bank 0 or 1."""
        return HEADER_BYTES + slot * self.slot_bytes + number * (self.slot_bytes // 2)

    def initial(self) -> tuple[Write, ...]:
        """Return the writes that make an empty table out of an empty file; the magic comes last."""
        header = _HEADER.pack(MAGIC, LAYOUT_VERSION, self.slots, self.slot_bytes)[len(MAGIC) :]
        rest = (header + _HEADER_CRC.pack(zlib.crc32(header))).ljust(HEADER_BYTES - len(MAGIC), b"\0")
        return (Write(len(MAGIC), rest), Write(0, MAGIC))


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """What one look at the table found, provided that the generation was the same before and after it.

    ``unreadable`` are slots whose content does not fit and that have no older one that does; ``settled`` is
    false if anything at all did not fit: then it pays to look again.
    """

    layout: Layout
    generation: int
    latest: int
    """The highest sequence in use: the next change takes the one above."""
    slots: tuple[Slot, ...]
    unreadable: frozenset[int]
    settled: bool

    @classmethod
    def read(cls, data: Readable) -> Snapshot:
        """Parse a table, whole or cut after its last written bank. Raises `TableInvalid` for a bad header."""
        layout = Layout.parse(data)
        generation = read_generation(data)
        latest, settled = generation, True
        slots: list[Slot] = []
        unreadable: set[int] = set()
        for index in _written_slots(layout, data):
            banks = [bank for number in (0, 1) if (bank := _read_bank(layout, data, index, number)) is not None]
            valid = [bank for bank in banks if bank.valid]
            if valid:
                newest = max(valid, key=_by_sequence)
                latest = max(latest, newest.sequence)
                if newest.state == LIVE:
                    slots.append(Slot(index, newest.sequence, newest.key, newest.lease, newest.record))
            elif banks:
                unreadable.add(index)
            settled = settled and len(valid) == len(banks)
        return cls(
            layout=layout,
            generation=generation,
            latest=latest,
            slots=tuple(slots),
            unreadable=frozenset(unreadable),
            settled=settled,
        )

    def find(self, uid: str) -> Slot | None:
        """Return the live slot of a worker, the newest should there be two."""
        key = key_of(uid)
        return max((slot for slot in self.slots if slot.key == key), key=lambda slot: slot.sequence, default=None)


def key_of(uid: str) -> bytes:
    """Return what stands for a uid in the table: of fixed size, and comparable without parsing records."""
    return hashlib.blake2b(uid.encode("utf-8", "surrogatepass"), digest_size=KEY_BYTES).digest()


def read_generation(data: Readable) -> int:
    """Return the hint that changes with every change of the table."""
    (generation,) = _GENERATION.unpack_from(data, GENERATION_OFFSET)
    return int(generation)


def apply(buffer: bytearray, writes: Collection[Write]) -> None:
    """Carry out writes in memory; the buffer grows as a file would."""
    for write in writes:
        end = write.offset + len(write.data)
        if len(buffer) < end:
            buffer.extend(bytes(end - len(buffer)))
        buffer[write.offset : end] = write.data


def add(
    data: Readable, metadata: WorkerMetadata, lease: bytes, *, namespace: str, is_live: Callable[[bytes], bool]
) -> Change:
    """Plan to give a worker a slot under ``lease``.

    A slot of a dead publisher is taken over if the worker had it, or if no slot is free. Raises `ValueError`
    if the worker is there already or its record is too long, and `TableFull`.
    """
    if len(lease) != LEASE_BYTES or lease == _NO_LEASE:
        raise ValueError(f"a lease is {LEASE_BYTES} bytes, not all zero")
    snapshot = Snapshot.read(data)
    record = _record(snapshot.layout, metadata, namespace)
    taken = snapshot.find(metadata.uid)
    if taken is not None and is_live(taken.lease):
        raise ValueError(
            f"worker {metadata.uid} is in namespace {namespace!r} already: publish worker-updated to change it"
        )
    if taken is None:
        occupied = {slot.number for slot in snapshot.slots}
        free = next((index for index in range(snapshot.layout.slots) if index not in occupied), None)
        if free is None:
            taken = next((slot for slot in snapshot.slots if not is_live(slot.lease)), None)
            if taken is None:
                raise TableFull(namespace, snapshot.layout.slots)
    else:
        free = None
    index = taken.number if taken is not None else free
    assert index is not None
    writes = _write_slot(snapshot.layout, data, index, snapshot.latest + 1, LIVE, key_of(metadata.uid), lease, record)
    return Change(index, writes, taken.lease if taken is not None else None)


def update(data: Readable, metadata: WorkerMetadata, *, namespace: str, is_live: Callable[[bytes], bool]) -> Change:
    """Plan to change a worker's record; its lease stays. Raises `ValueError` if no live worker has that uid."""
    snapshot = Snapshot.read(data)
    record = _record(snapshot.layout, metadata, namespace)
    slot = snapshot.find(metadata.uid)
    if slot is None or not is_live(slot.lease):
        raise ValueError(
            f"worker {metadata.uid} is not in namespace {namespace!r}, so it cannot be updated: publish worker-added"
        )
    return Change(
        slot.number,
        _write_slot(snapshot.layout, data, slot.number, snapshot.latest + 1, LIVE, slot.key, slot.lease, record),
    )


def drop(data: Readable, uid: str, *, namespace: str) -> Change:
    """Plan to free a worker's slot, whether its publisher lives or not. Raises `ValueError` if it has none."""
    snapshot = Snapshot.read(data)
    slot = snapshot.find(uid)
    if slot is None:
        raise ValueError(f"worker {uid} is not in namespace {namespace!r}, so it cannot be dropped")
    return _free(snapshot.layout, data, slot, snapshot.latest + 1)


def reclaim(data: Readable, *, is_live: Callable[[bytes], bool]) -> tuple[Change, ...]:
    """Plan to free every slot whose publisher is dead."""
    snapshot = Snapshot.read(data)
    dead = [slot for slot in snapshot.slots if not is_live(slot.lease)]
    return tuple(_free(snapshot.layout, data, slot, snapshot.latest + 1 + number) for number, slot in enumerate(dead))


class _Bank(NamedTuple):
    number: int
    valid: bool
    state: int = FREE
    sequence: int = 0
    key: bytes = _NO_KEY
    lease: bytes = _NO_LEASE
    record: bytes = b""


_MISFIT = _Bank(0, valid=False)


def _by_sequence(bank: _Bank) -> int:
    return bank.sequence


def _written_slots(layout: Layout, data: Readable) -> Iterator[int]:
    written = -(-(len(data) - HEADER_BYTES) // layout.slot_bytes)
    return iter(range(min(layout.slots, written)))


def _read_bank(layout: Layout, data: Readable, slot: int, number: int) -> _Bank | None:
    """Return a bank that carries the mark, valid or not; none if it does not: never written, or not to its end."""
    start = layout.bank(slot, number)
    if start >= len(data) or data[start] != MARK:
        return None
    # One copy first: everything below must judge the same bytes, also if somebody writes meanwhile.
    content = bytes(data[start : start + layout.slot_bytes // 2])
    if len(content) < _BANK_OVERHEAD:
        return _MISFIT
    _, state, _, length, sequence, key, lease = _BANK.unpack_from(content)
    (crc,) = _BANK_CRC.unpack_from(content, _BANK.size)
    record = content[_BANK_OVERHEAD : _BANK_OVERHEAD + length]
    if len(record) != length or state not in (FREE, LIVE):
        return _MISFIT
    if crc != _bank_crc(content[1 : _BANK.size], record):
        return _MISFIT
    return _Bank(number, True, state, sequence, key, lease, record)


def _bank_crc(head: bytes, record: bytes) -> int:
    return zlib.crc32(record, zlib.crc32(head))


def _write_slot(
    layout: Layout, data: Readable, slot: int, sequence: int, state: int, key: bytes, lease: bytes, record: bytes
) -> tuple[Write, ...]:
    if sequence >= 1 << 64:
        raise TableInvalid("the table's generation is damaged")
    banks = (_read_bank(layout, data, slot, number) for number in (0, 1))
    newest = max((bank for bank in banks if bank is not None and bank.valid), key=_by_sequence, default=None)
    start = layout.bank(slot, 0 if newest is None else 1 - newest.number)
    head = _BANK.pack(MARK, state, 0, len(record), sequence, key, lease)[1:]
    # If the last writer died before it raised the generation, that is made up for: otherwise a reader could miss
    # that two changes, its and this one, passed while it copied.
    behind = read_generation(data) != sequence - 1
    return (
        *((Write(GENERATION_OFFSET, _GENERATION.pack(sequence - 1)),) if behind else ()),
        Write(start, b"\0"),
        Write(start + 1, head + _BANK_CRC.pack(_bank_crc(head, record)) + record),
        Write(start, bytes([MARK])),
        Write(GENERATION_OFFSET, _GENERATION.pack(sequence)),
    )


def _free(layout: Layout, data: Readable, slot: Slot, sequence: int) -> Change:
    # Not just a cleared mark: the slot's older value would show again.
    writes = _write_slot(layout, data, slot.number, sequence, FREE, _NO_KEY, _NO_LEASE, b"")
    return Change(slot.number, writes, slot.lease)


def _record(layout: Layout, metadata: WorkerMetadata, namespace: str) -> bytes:
    record = metadata.to_bytes()
    if len(record) > layout.record_bytes:
        raise ValueError(
            f"metadata of worker {metadata.uid} takes {len(record)} bytes, a slot of namespace {namespace!r} holds "
            f"{layout.record_bytes} (Limits.record_bytes of whoever opened it first): use shorter tags and extra"
        )
    return record
