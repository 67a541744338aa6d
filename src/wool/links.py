"""Who is there, as a proxy knows it: a link per worker that discovery has named.

Why it exists: what discovery says is repeated, late and out of order, may know a uid or an address alone, and is
a hint in any case. Here it becomes one link per worker, and each link is that of the worker that the handshake
has shown.

What it owns: the links, by the worker's uid (or its address, as long as no uid is known); whom a link is taken
for; and what is remembered of workers that are gone. It never awaits. It must never decide where a call goes:
that is the proxy's, who hears when there is something to decide.
"""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Awaitable, Callable
from typing import Protocol

from wool.balancer import WorkerStatus
from wool.connection import Connection
from wool.discovery.base import DiscoveryEvent, WorkerFilter, WorkerMetadata
from wool.errors import RpcError, TransientRpcError
from wool.limits import Limits
from wool.link import Link, LinkOwner, LinkState
from wool.observer import Observer

_MOST_GONE = 64
"""Workers that are gone, remembered to say why nobody is left."""


class LinksOwner(LinkOwner, Protocol):
    """The proxy, as its links know it."""

    def view_changed(self) -> None:
        """Who can be given a call is not who could be."""
        ...

    def left(self, link: Link) -> None:
        """The worker is in view no more."""
        ...


class Links:
    """The workers that one proxy has in view."""

    def __init__(
        self,
        *,
        owner: LinksOwner,
        connect: Callable[[WorkerMetadata], Awaitable[Connection]],
        limits: Limits,
        observer: Observer | None = None,
    ) -> None:
        self._owner = owner
        self._connect = connect
        self._limits = limits
        self._observer = observer
        self._loop = asyncio.get_running_loop()
        self._candidates: list[WorkerStatus] | None = None
        self._closed = False
        self.links: dict[str, Link] = {}
        """By `WorkerMetadata.key`, in the order in which discovery named them."""
        self.addresses: dict[str, Link] = {}
        """Links to workers that discovery knows by their address alone; they are among the others too."""
        self.gone: dict[str, RpcError] = {}
        """Why workers are in view no more, the last of them last."""

        self.ended_with: BaseException | None = None
        """Why discovery will say no more, `EOFError` if it had nothing more to say; None as long as it may."""

    def candidates(self) -> list[WorkerStatus]:
        """Return the workers that may be given a call, suspects included."""
        if self._candidates is None:
            self._candidates = [link.status for link in self.links.values() if link.usable]
        return self._candidates

    def recount(self) -> None:
        """Find the candidates anew, the next time that they are asked for: one may have come or gone."""
        self._candidates = None

    def changed(self) -> None:
        """Tell the owner that the view is not what it was."""
        self._candidates = None
        self._owner.view_changed()

    def close(self) -> None:
        """Take nobody into view from now on."""
        self._closed = True
        self._candidates = None

    def clear(self) -> None:
        """Forget all links, without a word to anybody."""
        self.links.clear()

    # ---- what discovery says ----

    def discovered(self, event: DiscoveryEvent) -> None:
        """Take an event of discovery. Repeated and reordered events do no harm."""
        metadata = event.metadata
        if not metadata.uid:
            self._discovered_address(event)
            return
        link = self.links.get(metadata.uid)
        if event.type == "worker-dropped":
            if link is not None:
                self._drop(link, TransientRpcError(f"worker {metadata.uid[:8]} was withdrawn from discovery"))
            return
        if link is not None and not link.dropped and link.state is not LinkState.REFUSED:
            if link.status.metadata.address == metadata.address:
                if self._observer is not None and link.status.metadata != metadata:
                    self._observer.viewed("worker-updated", metadata)
                link.status.metadata = metadata
                return
            moved = link
        else:
            moved = None
        if not self._closed:
            if self._observer is not None:
                if moved is not None:
                    self._observer.viewed("worker-dropped", moved.status.metadata)
                known = link is not None and moved is None
                self._observer.viewed("worker-updated" if known else "worker-added", metadata)
            self.links[metadata.uid] = self._new_link(metadata)
        if moved is not None:
            # After the new one is in view: what waits moves with the worker.
            self._drop(moved, TransientRpcError(f"worker {metadata.uid[:8]} has moved to {metadata.address}"))
        self.gone.pop(metadata.uid, None)
        self.changed()

    def _discovered_address(self, event: DiscoveryEvent) -> None:
        address = event.metadata.address
        link = self.addresses.get(address)
        if event.type == "worker-dropped":
            if link is not None:
                del self.addresses[address]
                self._drop(link, TransientRpcError(f"{address} was withdrawn from discovery"))
        elif link is None and not self._closed:
            self._look_at(event.metadata, event.wanted)
            self.changed()

    def _look_at(self, place: WorkerMetadata, wanted: WorkerFilter | None) -> None:
        """Take a worker into view of which only the address is known."""
        link = self._new_link(place, wanted)
        self.links[link.uid] = self.addresses[place.address] = link
        self.gone.pop(link.uid, None)
        if self._observer is not None:
            self._observer.viewed("worker-added", place)

    def _new_link(self, metadata: WorkerMetadata, wanted: WorkerFilter | None = None) -> Link:
        return Link(
            metadata=metadata,
            owner=self._owner,
            connect=self._connect,
            loop=self._loop,
            limits=self._limits,
            wanted=wanted,
        )

    def departed(self, uid: str, reason: RpcError) -> None:
        """Somebody who knows says that the worker has ended, and why."""
        link = self.links.get(uid)
        if link is not None:
            self._drop(link, reason)
        self._remember(uid, reason)

    def _drop(self, link: Link, reason: RpcError) -> None:
        if self.links.get(link.uid) is link:
            del self.links[link.uid]
            if self._observer is not None:
                self._observer.viewed("worker-dropped", link.status.metadata)
        link.dropped = True
        link.reason = reason
        if link.place is not None and self.addresses.get(link.place.address) is link and not self._closed:
            self._look_at(link.place, link.wanted)  # the address is still announced
        self.ask_others(link.uid)
        self._remember(link.uid, reason)
        self.changed()
        self._owner.left(link)

    def _remember(self, uid: str, reason: RpcError) -> None:
        self.gone[uid] = reason
        while len(self.gone) > _MOST_GONE:
            del self.gone[next(iter(self.gone))]

    def discovery_ended(self, error: BaseException | None) -> None:
        """Discovery will say no more; what is known stays in use."""
        self.ended_with = error if error is not None else EOFError("discovery has ended")
        self.changed()

    # ---- what the handshake says, where discovery knows an address alone ----

    def introduced(self, link: Link, metadata: WorkerMetadata) -> RpcError | None:
        """A worker that was known by its address has said who it is. Returned is why it is not used."""
        place, uid = link.place, metadata.uid
        assert place is not None
        if self.addresses.get(place.address) is not link:
            return TransientRpcError(f"{place.address} was withdrawn from discovery")
        try:
            if link.wanted is not None and not link.wanted(metadata):
                why: RpcError | None = RpcError(f"worker {uid[:8]} at {place.address} is not one that the filter wants")
            else:
                why = self._same_elsewhere(link, metadata)
        except BaseException as error:  # the user's code, as a balancer is
            why = RpcError(f"the filter failed on worker {uid[:8]} at {place.address}: {error!r}")
            why.__cause__ = error
        if why is None:
            self._rename(link, dataclasses.replace(metadata, address=place.address))
        elif link.uid != place.key:
            self._rename(link, place)
        return why

    def _same_elsewhere(self, link: Link, metadata: WorkerMetadata) -> RpcError | None:
        other = self.links.get(metadata.uid)
        if other is None or other is link:
            return None
        if other.connection is None and other.place is not None:
            # This way to the worker is open, and that one is not: when it is, it will find it in use.
            self._rename(other, other.place)
            return None
        link.same_as = metadata.uid
        return RpcError(f"worker {metadata.uid[:8]} is in use already, at {other.status.metadata.address}")

    def _rename(self, link: Link, metadata: WorkerMetadata) -> None:
        """Let ``link`` be that of another worker, or of the address alone."""
        before = link.status.metadata
        if before == metadata:
            return
        link.status.metadata = metadata
        if before.key == metadata.key:
            if self._observer is not None:
                self._observer.viewed("worker-updated", metadata)
            return
        del self.links[link.uid]
        link.uid = metadata.key
        self.links[link.uid] = link
        self._candidates = None
        self.gone.pop(link.uid, None)
        if before.uid:
            where = f"{metadata.key[:8]} answers at {metadata.address}" if metadata.uid else "it answers elsewhere"
            self._remember(before.uid, TransientRpcError(f"worker {before.uid[:8]} is gone: {where}"))
        if self._observer is not None:
            self._observer.viewed("worker-dropped", before)
            self._observer.viewed("worker-added", metadata)

    def ask_others(self, uid: str) -> None:
        """The way to a worker is lost: look whether another address that it answered at still leads there."""
        for link in self.addresses.values():
            if link.same_as == uid:
                link.ask_again()
