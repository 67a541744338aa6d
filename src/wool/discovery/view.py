"""What a subscription makes of one look at the shared table after the other: events.

Why it exists: whether a worker was added, changed or dropped follows from two looks and from which publishers
live, and nothing else; so it is decided here, where the simulator and Hypothesis can decide it too.

What it owns: what one subscription has said so far, and the last good value of every slot.

What it must never do: I/O, locks, clocks, or say something that the grammar does not allow.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from wool.discovery.base import DiscoveryEvent, WorkerFilter, WorkerMetadata
from wool.discovery.table import Slot, Snapshot, key_of


@dataclass(frozen=True, slots=True)
class _Known:
    metadata: WorkerMetadata
    lease: bytes
    shown: bool


class View:
    """Turns looks at the table into events, for one subscription.

    Per worker the events are (added updated* dropped)*, for a worker that the filter does not show there
    are none, and one that begins or ceases to match is added or dropped. A worker that came back under
    another lease between two looks is dropped and added, since it was announced anew.
    """

    __slots__ = ("_cache", "_filter", "_known", "_last", "leases", "rejected")

    def __init__(self, filter: WorkerFilter | None = None) -> None:
        self._filter = filter
        self._known: dict[str, _Known] = {}
        self._cache: dict[int, tuple[Slot, WorkerMetadata | None]] = {}
        self._last: tuple[Snapshot, frozenset[bytes]] | None = None
        self.leases: frozenset[bytes] = frozenset()
        """The leases that the next look depends on, besides those in its snapshot."""
        self.rejected: int = 0
        """Live slots at the last look whose record is not well formed; no events come from them."""

    @property
    def workers(self) -> tuple[WorkerMetadata, ...]:
        """The workers that are added and not dropped, as last announced."""
        return tuple(known.metadata for known in self._known.values() if known.shown)

    def advance(self, snapshot: Snapshot, live: Collection[bytes]) -> list[DiscoveryEvent]:
        """Return what changed since the last look, given the leases that are alive.

        The filter is asked once per change of a worker's metadata. If it raises, that goes to the caller,
        and the view is as before.
        """
        look = (snapshot, frozenset(live))
        if look == self._last:
            return []
        cache = self._parse(snapshot)
        present: dict[str, tuple[Slot, WorkerMetadata]] = {}
        for slot, metadata in sorted(cache.values(), key=lambda entry: entry[0].sequence):
            if metadata is not None and slot.lease in live:
                present[metadata.uid] = (slot, metadata)
        known: dict[str, _Known] = {}
        for uid, (slot, metadata) in present.items():
            old = self._known.get(uid)
            same = old is not None and old.metadata == metadata
            shown = old.shown if same and old is not None else self._filter is None or bool(self._filter(metadata))
            known[uid] = _Known(metadata, slot.lease, shown)
        events = self._difference(known)
        self._known, self._cache, self._last = known, cache, look
        self.leases = frozenset([slot.lease for slot, _ in cache.values()])
        self.rejected = sum(1 for _, metadata in cache.values() if metadata is None)
        return events

    def _parse(self, snapshot: Snapshot) -> dict[int, tuple[Slot, WorkerMetadata | None]]:
        # An unreadable slot is being written: its last good value stands until there is another.
        cache = {index: self._cache[index] for index in sorted(snapshot.unreadable) if index in self._cache}
        for slot in snapshot.slots:
            cached = self._cache.get(slot.number)
            cache[slot.number] = cached if cached is not None and cached[0] == slot else (slot, _parse_record(slot))
        return cache

    def _difference(self, known: dict[str, _Known]) -> list[DiscoveryEvent]:
        dropped: list[DiscoveryEvent] = []
        others: list[DiscoveryEvent] = []
        for uid, old in self._known.items():
            new = known.get(uid)
            if old.shown and (new is None or not new.shown or new.lease != old.lease):
                dropped.append(DiscoveryEvent("worker-dropped", old.metadata))
        for uid, new in known.items():
            before = self._known.get(uid)
            if not new.shown:
                continue
            if before is None or not before.shown or before.lease != new.lease:
                others.append(DiscoveryEvent("worker-added", new.metadata))
            elif before.metadata != new.metadata:
                others.append(DiscoveryEvent("worker-updated", new.metadata))
        return dropped + others


def _parse_record(slot: Slot) -> WorkerMetadata | None:
    try:
        metadata = WorkerMetadata.from_bytes(slot.record)
    except ValueError:
        return None  # counted as `View.rejected`: another's bad record is no reason to stop seeing the rest
    return metadata if key_of(metadata.uid) == slot.key else None
