"""Who is there now, compared with who was there: events.

Why it exists: mDNS and DNS tell who is there, and never what has changed. Whether a worker was added, changed or
dropped follows from two such tellings, so it is decided here, once for all discoveries over a network.

What it owns: what one subscription has said so far.

What it must never do: I/O, clocks, or say something that the grammar does not allow.
"""

from __future__ import annotations

import operator
from collections.abc import Iterable

from wool.discovery.base import DiscoveryEvent, WorkerFilter, WorkerMetadata


class Roster:
    """Turns one list of workers after the other into events, for one subscription.

    Per worker the events are (added updated* dropped)*, for a worker that the filter does not show there are
    none, and one that begins or ceases to match is added or dropped. Of a worker that is known by its address
    alone the filter can say nothing yet: it goes with the event.
    """

    __slots__ = ("_filter", "_known", "_present")

    def __init__(self, filter: WorkerFilter | None = None) -> None:
        self._filter = filter
        self._known: dict[str, tuple[WorkerMetadata, bool]] = {}
        self._present: list[WorkerMetadata] = []

    @property
    def workers(self) -> tuple[WorkerMetadata, ...]:
        """The workers that are added and not dropped, as last announced."""
        return tuple(metadata for metadata, shown in self._known.values() if shown)

    def advance(self, present: Iterable[WorkerMetadata]) -> list[DiscoveryEvent]:
        """Return what changed, given all workers that are there; of two with one key the first counts.

        The filter is asked once per change of a worker's metadata. If it raises, that goes to the caller, and
        the roster is as before.
        """
        present = list(present)
        if len(present) == len(self._present) and all(map(operator.is_, present, self._present)):
            return []  # mostly: what is looked at again is the same, in the same objects
        known: dict[str, tuple[WorkerMetadata, bool]] = {}
        for metadata in present:
            if metadata.key not in known:
                old = self._known.get(metadata.key)
                known[metadata.key] = (
                    old if old is not None and old[0] == metadata else (metadata, self._shows(metadata))
                )
        events = self._dropped(known) + self._others(known)
        self._known, self._present = known, present
        return events

    def _shows(self, metadata: WorkerMetadata) -> bool:
        return self._filter is None or not metadata.uid or bool(self._filter(metadata))

    def _dropped(self, known: dict[str, tuple[WorkerMetadata, bool]]) -> list[DiscoveryEvent]:
        return [
            DiscoveryEvent("worker-dropped", metadata)
            for key, (metadata, shown) in self._known.items()
            if shown and not known.get(key, (metadata, False))[1]
        ]

    def _others(self, known: dict[str, tuple[WorkerMetadata, bool]]) -> list[DiscoveryEvent]:
        events: list[DiscoveryEvent] = []
        for key, (metadata, shown) in known.items():
            if shown:
                before, was_shown = self._known.get(key, (metadata, False))
                if not was_shown:
                    wanted = None if metadata.uid else self._filter
                    events.append(DiscoveryEvent("worker-added", metadata, wanted))
                elif before != metadata:
                    events.append(DiscoveryEvent("worker-updated", metadata))
        return events
