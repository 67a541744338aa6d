"""Discovery among the processes of one user on one machine, without a server.

Why it exists: processes that know nothing of each other but a name must find each other's workers, and must
notice the death of one that could not say goodbye.

What it owns: when to look. A subscriber looks at the table's generation, eight bytes of mapped memory, every
``discovery_poll_seconds``; every ``discovery_lease_seconds`` it looks at the whole table and tries whether the
workers and their publishers live. What a look means is decided in `wool.discovery.view`, what a change writes in
`wool.discovery.table`, and the files and locks belong to `wool.discovery.namespace`.

What it must never do: wait without bound, or work in a forked child. It runs on an event loop, so each of its
steps is a few system calls on small files in memory.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import threading
from collections.abc import AsyncGenerator, Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from wool.discovery.base import DISCOVERY_EVENT_TYPES, DiscoveryEvent, DiscoveryEventType, WorkerFilter, WorkerMetadata
from wool.discovery.namespace import GATE_SECONDS, MembershipLike, Place, PlaceLike, check_name, gate_stuck
from wool.discovery.view import View
from wool.limits import DEFAULT_LIMITS, LOCK_RETRY_SECONDS, Limits
from wool.runtime_directory import runtime_directory


class LocalDiscovery:
    """Finds the workers that any process of this user on this machine published under the same namespace.

    A context manager, re-entrant and reusable: entering joins the namespace (or starts it), leaving drops
    what was published here, and the last one out removes every trace. With ``namespace=None`` a fresh name
    is made up. ``directory`` is a private directory (0700, ours) to use instead of the user's.

    Pickled, it carries only how to join; the copy is not open. Its `subscriber` needs no open discovery: each
    iteration joins by itself. Not usable in a forked child of the process that entered it.

    Raises `ValueError` for a namespace that is no name. Entering raises `RuntimeDirectoryError`, an `OSError`,
    `TimeoutError` (another process holds the gate), or `RuntimeError` (made by another version of wool). One
    that is never left warns with `ResourceWarning`, and leaves.
    """

    def __init__(
        self, namespace: str | None = None, *, directory: Path | None = None, limits: Limits = DEFAULT_LIMITS
    ) -> None:
        self._membership: MembershipLike | None = None
        self._entered = 0
        self._mutex = threading.Lock()
        name = f"anonymous-{secrets.token_hex(8)}" if namespace is None else check_name(namespace)
        base = runtime_directory(create=False) if directory is None else Path(os.path.abspath(directory))
        self._place: PlaceLike = Place(name, base, directory is None)
        self._limits = limits

    @classmethod
    def at(cls, directory: Path, *, limits: Limits = DEFAULT_LIMITS) -> LocalDiscovery:
        """Return the discovery of the pool that owns the private ``directory``."""
        return cls("pool", directory=directory, limits=limits)

    @classmethod
    def over(cls, place: PlaceLike, *, limits: Limits = DEFAULT_LIMITS) -> LocalDiscovery:
        """Return the discovery of a namespace that is not kept in files: the simulator's."""
        discovery = cls(place.namespace, directory=Path(os.sep), limits=limits)
        discovery._place = place
        return discovery

    @property
    def namespace(self) -> str:
        """The name that others join by."""
        return self._place.namespace

    @property
    def publisher(self) -> LocalPublisher:
        """Announces workers, while this discovery is open."""
        return LocalPublisher(self._open_membership)

    @property
    def subscriber(self) -> LocalSubscriber:
        """Sees all workers of the namespace."""
        return self.subscribe()

    def subscribe(self, filter: WorkerFilter | None = None, /) -> LocalSubscriber:
        """Return a subscriber that sees only the workers for which ``filter`` is true.

        It is called on the loop that iterates. To pickle the subscriber, the filter must be picklable.
        """
        return LocalSubscriber(self._place, filter, self._limits)

    def __enter__(self) -> Self:
        with self._mutex:
            if self._membership is not None:
                self._membership.check_process()
            else:
                self._membership = self._place.join(self._limits)
            self._entered += 1
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        with self._mutex:
            self._entered -= 1
            if self._entered == 0 and self._membership is not None:
                membership, self._membership = self._membership, None
                membership.close()

    def _open_membership(self) -> MembershipLike:
        membership = self._membership
        if membership is None:
            raise RuntimeError(f"{self!r} is closed: publish inside `with LocalDiscovery(...) as discovery`")
        membership.check_process()
        return membership

    @classmethod
    def _rebuild(cls, place: PlaceLike, limits: Limits) -> LocalDiscovery:
        return cls.over(place, limits=limits)

    def __reduce__(self) -> tuple[Any, ...]:
        return (LocalDiscovery._rebuild, (self._place, self._limits))

    def __repr__(self) -> str:
        membership = self._membership
        state = "closed" if membership is None else f"open, {membership.published} published"
        return f"<LocalDiscovery {self._place.namespace!r} {state}>"


class LocalPublisher:
    """Announces workers in a namespace, until they are dropped, or they or this process die."""

    def __init__(self, membership: Callable[[], MembershipLike]) -> None:
        self._membership = membership

    async def publish(self, type: DiscoveryEventType, metadata: WorkerMetadata, /) -> None:
        """Announce that a worker came, changed or went; on return every new look at the namespace shows it.

        Any member may update or drop any worker. Raises `ValueError` (added twice, updated or dropped but not
        there, record too long, no such event), `TableFull`, `RuntimeError` (not open, or its files were
        removed), `TimeoutError` (another process holds the gate), `OSError` (disk full). Cancelled, it has
        published or it has not, never half.
        """
        if type not in DISCOVERY_EVENT_TYPES:
            raise ValueError(f"unknown discovery event {type!r}, expected one of {DISCOVERY_EVENT_TYPES}")
        _check_metadata(metadata)
        membership = self._membership()
        loop = asyncio.get_running_loop()
        deadline = loop.time() + GATE_SECONDS
        while not membership.try_publish(type, metadata):
            if loop.time() >= deadline:
                raise gate_stuck(membership.place)
            await asyncio.sleep(LOCK_RETRY_SECONDS)


def _check_metadata(given: object) -> None:
    if not isinstance(given, WorkerMetadata):
        raise TypeError(f"publish takes WorkerMetadata, got {given!r:.100}: give worker.metadata")


class LocalSubscriber:
    """Sees the workers of a namespace. Each iteration is a subscription, and a membership, of its own."""

    lives_on_io_loop = True

    def __init__(self, place: PlaceLike, filter: WorkerFilter | None, limits: Limits) -> None:
        self._place = place
        self._filter = filter
        self._limits = limits

    def __aiter__(self) -> AsyncGenerator[DiscoveryEvent, None]:  # noqa: PYI058 - aclose() is part of it
        """Return a new subscription: first ``worker-added`` per live worker, then changes, without end.

        It joins the namespace at its first step, and leaves it when it is cancelled, fails, or is closed with
        ``aclose()``. What the filter raises ends it. Errors of joining are those of `LocalDiscovery`.
        """
        return self._events()

    async def _events(self) -> AsyncGenerator[DiscoveryEvent, None]:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + GATE_SECONDS
        while (membership := self._place.try_join(self._limits)) is None:
            if loop.time() >= deadline:
                raise gate_stuck(self._place)
            await asyncio.sleep(LOCK_RETRY_SECONDS)
        try:
            view = View(self._filter)
            live: set[bytes] = set()
            seen: int | None = None
            probe_at = loop.time()
            while True:
                membership.check_process()
                overdue = loop.time() >= probe_at
                due = overdue or membership.generation() != seen
                if due and (snapshot := membership.look()) is not None:
                    # Old leases are probed once in a while, new ones at once: nobody shows as live who never was.
                    wanted = {slot.lease for slot in snapshot.slots} | view.leases
                    known = set[bytes]() if overdue else live & wanted
                    live = known | {lease for lease in wanted - known if membership.is_live(lease)}
                    seen = snapshot.generation if snapshot.settled else None
                    if overdue:
                        probe_at = loop.time() + self._limits.discovery_lease_seconds
                    for event in view.advance(snapshot, live):
                        yield event
                await asyncio.sleep(self._limits.discovery_poll_seconds)
        finally:
            membership.close()

    def __reduce__(self) -> tuple[Any, ...]:
        return (LocalSubscriber, (self._place, self._filter, self._limits))

    def __repr__(self) -> str:
        return f"<LocalSubscriber of {self._place.namespace!r}{' filtered' if self._filter else ''}>"
