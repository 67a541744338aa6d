"""What is heard on the network of workers, and what to ask: multicast DNS without its sockets.

Why it exists: who is there, for how long that holds, and whom to ask about again follow from the records that were
heard and from the clock's reading alone; so it is decided here, where the simulator and Hypothesis can decide it too.

=============================  ======================================================================
a worker is there              while its pointer, service, text and an address of its are all known
                               and none is older than its own time to live; but for the pointer none
                               is believed longer than ``lan_browse_seconds``
it is asked about again        when a fifth of the time to live of one of them is left, or one is
                               missing; after a growing wait, while nothing comes
it is gone                     when a goodbye (time to live 0) of its pointer or service is heard, at
                               once; else when the time is over
everybody is asked             at the start, a second and three seconds later, then every
                               ``lan_browse_seconds``
two are announced under one    the one that was heard last is there; what was heard of the other
uid                            does not count for it
=============================  ======================================================================

What it owns: the records of one subscription, bounded in number and size: of more workers than ``lan_workers`` those
that were there first are kept. What it must never do: I/O, read a clock, draw a random number.
"""

from __future__ import annotations

import operator
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple, TypeAlias

from wool.discovery.base import WorkerMetadata
from wool.discovery.records import SERVICE, Interface, RecordError, worker_of
from wool.harmless import harmless
from wool.limits import MOST_ADDRESSES, Limits

Kind: TypeAlias = Literal["PTR", "SRV", "TXT", "A", "AAAA"]
Question: TypeAlias = tuple[str, Kind]

_REFRESH = 0.2
"""The part of its time to live at the end of which a record is asked for again."""
_BROWSE_AT_SECONDS = (0.0, 1.0, 3.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """One record that was heard."""

    kind: Kind
    name: str
    seconds: float
    """Its time to live; 0 is a goodbye."""
    target: str = ""
    """Of PTR the instance, of SRV the host, of A and AAAA the address."""
    port: int = 0
    text: bytes = b""


class _Held:
    """When a record was heard, and for how long that holds: asked for far more often than heard anew."""

    __slots__ = ("heard", "refresh_at", "seconds", "until")

    def __init__(self, heard: float, seconds: float) -> None:
        self.heard = heard
        self.seconds = seconds
        self.until: float = heard + seconds
        self.refresh_at: float = heard + seconds * (1 - _REFRESH)


_NEVER = _Held(0.0, 0.0)
_UNTIL = operator.attrgetter("until")


class _Said(NamedTuple):
    text: bytes
    port: int
    addresses: tuple[str, ...]


@dataclass(slots=True)
class _Instance:
    name: str
    pointer: _Held
    service: _Held = _NEVER
    text_held: _Held = _NEVER
    host: str = ""
    port: int = 0
    text: bytes = b""
    addresses: dict[str, _Held] = field(default_factory=dict[str, _Held])
    asked: int = 0
    ask_at: float = 0.0
    parsed: tuple[_Said, WorkerMetadata | RecordError] | None = None
    shown: bool = False
    """It was there when the workers were looked at last, even if it makes no sense."""
    last: WorkerMetadata | None = None
    """The worker that was there last."""
    address: _Held = _NEVER
    """Of the addresses the one that holds longest."""
    until: float = 0.0
    """The worker is there until then."""

    def settle(self) -> None:
        """Work out what follows from the records; to be called when one of them is another."""
        self.address = max(self.addresses.values(), key=_UNTIL, default=_NEVER)
        self.until = min(self.pointer.until, self.service.until, self.text_held.until, self.address.until)

    def said(self, now: float) -> _Said:
        """Return what its worker is made of."""
        return _Said(self.text, self.port, tuple(who for who, held in self.addresses.items() if held.until > now))

    def is_news(self, now: float) -> bool:
        """Whether it is another than when the workers were looked at last."""
        if self.until <= now:
            return self.shown
        return self.parsed is None or not self.shown or self.parsed[0] != self.said(now)

    def refresh_at(self) -> float:
        """Return when a part of it is to be asked for again."""
        return min(self.service.refresh_at, self.text_held.refresh_at, self.address.refresh_at)


class Sightings:
    """What one subscription has heard. Times are seconds of the caller's clock."""

    def __init__(self, interfaces: Collection[Interface], limits: Limits, now: float) -> None:
        self._interfaces = interfaces
        self._limits = limits
        self._instances: dict[str, _Instance] = {}
        self._browsed = 0
        self._started = now
        self._browse_at = now
        self._next_at = now
        self.complaint: str = ""
        """What was wrong with what was heard, the last of it; empty again once it was told."""

    def __len__(self) -> int:
        return len(self._instances)

    # ---- what is heard ----

    def heard(self, records: Sequence[Record], now: float) -> bool:
        """Take records that came in one message; their order says nothing.

        Return whether to look again at once: a worker comes, goes or is another, or there is something to do before
        `next_at` has said. Mostly it is not so: workers say again what they have said.
        """
        of: dict[Kind, list[Record]] = {"PTR": [], "SRV": [], "TXT": [], "A": [], "AAAA": []}
        for record in records:
            of[record.kind].append(record)
        names = [*(record.target for record in of["PTR"]), *(record.name for record in [*of["SRV"], *of["TXT"]])]
        before = {key: self._instances.get(key) for key in map(str.lower, names)}
        for record in of["PTR"]:
            if record.name.lower() == SERVICE:
                self._pointer(record, now)
        news: dict[str, _Instance] = {}
        for record in of["SRV"]:
            if (instance := self._instances.get(key := record.name.lower())) is not None:
                self._service(instance, record, now)
                news[key] = instance
        for record in of["TXT"]:
            if record.seconds > 0 and (instance := self._instances.get(key := record.name.lower())) is not None:
                instance.text, instance.text_held = record.text, self._held(record, now)
                news[key] = instance
        if of["A"] or of["AAAA"]:
            self._addresses([*of["A"], *of["AAAA"]], now, news)
        for instance in news.values():
            instance.settle()
            instance.asked = 0
            # What belongs together comes together, as a rule: the next question waits for it.
            missing = instance.until <= now
            instance.ask_at = now + self._limits.lan_retry_first_seconds if missing else instance.refresh_at()
        return (
            bool(self.complaint)
            or any(self._instances.get(key) is not instance for key, instance in before.items())
            or any(self._is_news(instance, now) for instance in {**before, **news}.values() if instance is not None)
        )

    def _is_news(self, instance: _Instance, now: float) -> bool:
        if instance.ask_at < self._next_at or now < instance.until < self._next_at:
            return True
        return instance.is_news(now)

    def _pointer(self, record: Record, now: float) -> None:
        key = record.target.lower()
        instance = self._instances.get(key)
        if record.seconds <= 0:
            self._instances.pop(key, None)
        elif instance is not None:
            instance.pointer = _Held(now, record.seconds)
            instance.settle()
        elif key.endswith(f".{SERVICE}"):
            if len(self._instances) >= self._limits.lan_workers:
                self.complaint = f"more than {self._limits.lan_workers} workers are announced (lan_workers)"
                return
            self._instances[key] = _Instance(record.target, _Held(now, record.seconds), ask_at=now)

    def _service(self, instance: _Instance, record: Record, now: float) -> None:
        if record.seconds <= 0:
            del self._instances[record.name.lower()]
            return
        if instance.host.lower() != record.target.lower():
            instance.addresses.clear()
        if instance.port not in (0, record.port):
            instance.text_held = _NEVER  # it is another worker's, or will be said anew
        instance.host, instance.port = record.target, record.port
        instance.service = self._held(record, now)

    def _addresses(self, records: Sequence[Record], now: float, news: dict[str, _Instance]) -> None:
        at: dict[str, list[Record]] = {}
        for record in records:
            at.setdefault(record.name.lower(), []).append(record)
        for key, instance in self._instances.items():
            for record in at.get(instance.host.lower(), ()):
                if record.seconds <= 0:
                    instance.addresses.pop(record.target, None)
                elif record.target in instance.addresses or len(instance.addresses) < MOST_ADDRESSES:
                    instance.addresses[record.target] = self._held(record, now)
                news[key] = instance

    def _held(self, record: Record, now: float) -> _Held:
        """Believe what was heard of a worker until everybody is asked anew: else a lie could hide it for good."""
        return _Held(now, min(record.seconds, self._limits.lan_browse_seconds))

    # ---- who is there ----

    def workers(self, now: float) -> list[WorkerMetadata]:
        """Return the workers that are there now."""
        for key in [key for key, instance in self._instances.items() if instance.pointer.until <= now]:
            del self._instances[key]
        return list(self._readable(now))

    def _readable(self, now: float) -> Iterator[WorkerMetadata]:
        for instance in self._instances.values():
            instance.shown = instance.until > now
            if not instance.shown:
                continue
            said = instance.said(now)
            if instance.parsed is None or instance.parsed[0] != said:
                instance.parsed = (said, self._parse(instance, said.addresses))
                self._compare(instance, instance.parsed[1])
            if isinstance(instance.parsed[1], WorkerMetadata):
                yield instance.parsed[1]

    def _parse(self, instance: _Instance, addresses: Iterable[str]) -> WorkerMetadata | RecordError:
        label = instance.name[: -len(SERVICE) - 1]
        try:
            if len(instance.text) > 2 * self._limits.record_bytes:
                raise RecordError(f"a TXT record of {len(instance.text)} bytes")
            return worker_of(label, instance.text, instance.port, addresses, self._interfaces)
        except RecordError as error:
            self.complaint = f"a record on the network is no worker's: {harmless(label, 63)}: {error}"
            return error

    def _compare(self, instance: _Instance, metadata: WorkerMetadata | RecordError) -> None:
        if isinstance(metadata, RecordError):
            return
        before, instance.last = instance.last, metadata
        # A worker stays the process that it is. A uid is random: nobody else has it by chance.
        if before is not None and before.pid != metadata.pid:
            self.complaint = (
                f"two workers are announced under one uid, {metadata.uid}: process {before.pid} at {before.address} "
                f"and process {metadata.pid} at {metadata.address}; the second is used"
            )

    # ---- what to ask ----

    def questions(self, now: float) -> list[Question]:
        """Return what to ask now, and take it that it is asked."""
        asked: dict[Question, None] = {}
        if now >= self._browse_at:
            self._browsed += 1
            if self._browsed < len(_BROWSE_AT_SECONDS):
                self._browse_at = self._started + _BROWSE_AT_SECONDS[self._browsed]
            else:
                self._browse_at = now + self._limits.lan_browse_seconds
            asked[SERVICE, "PTR"] = None
        for instance in self._instances.values():
            if now >= instance.ask_at:
                asked.update(dict.fromkeys(self._missing(instance, now)))
                first, most = self._limits.lan_retry_first_seconds, self._limits.lan_retry_most_seconds
                instance.ask_at = now + min(first * 2.0 ** min(instance.asked, 30), most)
                instance.asked += 1
        return list(asked)

    def _missing(self, instance: _Instance, now: float) -> Iterator[Question]:
        text = instance.text_held.refresh_at <= now
        if text or instance.service.refresh_at <= now:
            yield instance.name, "SRV"
        if text:
            # Both, so that of two workers with one uid each gives answers that belong together.
            yield instance.name, "TXT"
        if instance.host and instance.address.refresh_at <= now:
            yield instance.host, "A"
            yield instance.host, "AAAA"

    def known(self, now: float) -> list[tuple[str, float, float]]:
        """Return each instance whose pointer is fresh, with its time to live and age: answers that nobody need give."""
        return [
            (instance.name, instance.pointer.seconds, now - instance.pointer.heard)
            for instance in self._instances.values()
            if now < instance.pointer.heard + instance.pointer.seconds / 2
        ]

    def next_at(self, now: float) -> float:
        """Return when to look again, if nothing is heard before that asks for it."""
        times = [self._browse_at]
        for instance in self._instances.values():
            times.append(instance.ask_at)
            if instance.until > now:
                times.append(instance.until)
        self._next_at = min(times)
        return self._next_at
