"""Who is there, as a proxy knows it: a link per worker that discovery has named.

Why it exists: what discovery says is repeated, late and out of order, may know a uid or an address alone, and is
a hint in any case. Here it becomes one link per worker that the pool takes (see `wool.admission`), and each link is
that of the worker that the handshake has shown.

What it owns: the links, by the worker's uid (or its address, as long as no uid is known); whom a link is taken
for; and what is remembered of workers that are gone. It never awaits. It must never decide where a call goes:
that is the proxy's, who hears when there is something to decide.
"""

from __future__ import annotations

import asyncio
import dataclasses
import heapq
import itertools
from collections.abc import Awaitable, Callable, Container, Iterable
from typing import Protocol

from wool.admission import Outside, Terms
from wool.balancer import WorkerStatus
from wool.call import PlacedCall
from wool.connection import Connection, is_refusal
from wool.discovery.base import DiscoveryEvent, WorkerFilter, WorkerMetadata
from wool.errors import RpcError, TransientRpcError
from wool.events import PROCESS, Events
from wool.limits import MOST_GONE, MOST_NAMED, Limits
from wool.link import Link, LinkOwner, LinkState
from wool.observer import Observer

_LOT_BYTES = 8


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
        owner: LinksOwner,
        connect: Callable[[WorkerMetadata], Awaitable[Connection]],
        random_bytes: Callable[[int], bytes],
        events: Events = PROCESS,
        *,
        limits: Limits,
        terms: Terms,
        observer: Observer | None = None,
    ) -> None:
        self.events: Events = events
        """Who wants to know what happens to tasks."""
        self._owner = owner
        self._random_bytes = random_bytes
        self._connect = connect
        self._limits = limits
        self._terms = terms
        self.secure: bool = terms.secure
        """Whether the workers that it takes speak TLS."""
        self._observer = observer
        self._loop = asyncio.get_running_loop()
        self._candidates: list[WorkerStatus] | None = None
        self._enough: int = limits.sessions
        """So many workers are used, besides the own ones."""
        self._needed_at = 0.0
        self._wary_until = float("-inf")
        self._closed = False
        self.links: dict[str, Link] = {}
        """By `WorkerMetadata.key`, in the order in which discovery named them."""
        self.addresses: dict[str, Link] = {}
        """Links to workers that discovery knows by their address alone; they are among the others too."""
        self.outside: Outside = Outside(terms)
        """The workers that discovery names and that are not in view."""
        self.gone: dict[str, RpcError] = {}
        """Why workers are in view no more, the last of them last."""

        self.ended_with: BaseException | None = None
        """Why discovery will say no more, `EOFError` if it had nothing more to say; None as long as it may."""

    def candidates(self, calls: int = 0) -> list[WorkerStatus]:
        """Return the workers that may be given a call, suspects included; of more than are used, those that are.

        So many calls are under way: as many workers are used, and some more, within ``sessions`` and ``sessions_most``.
        """
        if calls > self._enough or self._enough > self._limits.sessions:
            self._make_room(calls)
        if self._candidates is None:
            usable = [link for link in self.links.values() if link.usable]
            self._draw_lots(usable)
            self._candidates = [link.status for link in usable if not link.spare]
        return self._candidates

    def _make_room(self, calls: int) -> None:
        now, limits = self._loop.time(), self._limits
        if 4 * calls > self._enough:
            self._needed_at = now
            if calls > self._enough < limits.sessions_most:
                self._use(2 * calls)
        elif calls and now > self._needed_at + limits.sessions_idle_seconds:
            self._needed_at = now
            self._use(2 * calls)

    def _use(self, workers: int) -> None:
        self._enough = min(max(workers, self._limits.sessions), self._limits.sessions_most)
        self._replace()

    def spares(self) -> list[WorkerStatus]:
        """Return the workers that are kept for when no candidate takes a call."""
        return [link.status for link in self.links.values() if link.usable and link.spare]

    def choose(self, ordered: Iterable[WorkerStatus], tried: Container[str] | None) -> Link | None:
        """Return the first of ``ordered`` that was not tried; None if there is none.

        Those without a free place come after the others, and suspects last.

        Raises `RuntimeError` if it does not end, and what iterating it raises: it is the user's.
        """
        last: Link | None = None
        full: Link | None = None
        unproven: Link | None = None
        wary = self._loop.time() < self._wary_until
        for place, status in enumerate(ordered):
            if place >= MOST_NAMED + len(self.links):
                raise RuntimeError(f"it has named workers {place} times and goes on; there are {len(self.links)}")
            link = self.links.get(status.metadata.key)
            if link is None or not link.usable or (tried is not None and link.uid in tried):
                continue
            if not link.status.suspect:
                if link.full and not link.parked and self._loop.time() >= link.full_until:
                    link.full = False
                if link.full:
                    full = full or link
                elif wary and link.connection is None:
                    unproven = unproven or link
                else:
                    return link
                continue
            if link.half_open:
                link.half_open_later()  # this call tries it, no other
                return link
            last = last or link
        return unproven or full or last

    def freed(self, link: Link) -> PlacedCall | None:
        """A task has ended at a worker that had no place. Return a call that waits elsewhere and may have it.

        There is none if one waits here, whom the worker itself lets in; else it is one that waits where most do, the
        one that has waited longest.
        """
        link.full_until = 0.0
        if link.parked or not link.usable:
            return None
        link.full = False
        most = max(self.links.values(), key=lambda one: len(one.parked), default=link)
        return next(iter(most.parked), None)

    def slow_to_connect(self, link: Link) -> None:
        """Suspect a worker that takes long, and ask others meanwhile.

        Were they asked in turn, each silent one would cost a call as long again, and anybody on the network may have
        announced some. For a while calls go to those that have answered, if there are any.
        """
        link.status.suspect = True
        self.recount()
        if not link.waiting:
            return
        self._wary_until = self._loop.time() + self._limits.patience_seconds
        others = [self.links[status.metadata.key] for status in self.candidates() if not status.suspect]
        unasked = (other for other in others if other.state is LinkState.CLOSED)
        for other in itertools.islice(unasked, self._limits.connects):
            other.ensure_connecting()

    def wanted_events_changed(self) -> None:
        """Tell the workers which task events are wanted."""
        for link in self.links.values():
            if link.connection is not None:
                link.connection.watch(self.events.remote)

    def opened(self, link: Link) -> None:
        """The session with a worker is up. One that was a suspect, and is none, takes its place again."""
        if link.spare:
            self._replace()
        self._owner.view_changed()

    def unreachable(self, link: Link, reason: RpcError) -> None:
        """The session with a worker could not be opened: what waits for it has tried it, and it may make way."""
        if self._observer is not None:
            self._observer.unreachable(link.status.metadata, reason)
        for call in link.waiting:
            call.note_tried(link.uid, reason)
        self.make_way()

    def heard(self, link: Link) -> None:
        """A suspect has said something."""
        link.heard()
        self._replace()

    def _replace(self) -> None:
        """Choose anew whom to use, and end the sessions with the others as soon as no call is on them."""
        self._candidates = None
        self.candidates()
        for link in list(self.links.values()):
            if link.spare and link.connection is not None:
                self._owner.left(link)

    def _draw_lots(self, usable: list[Link]) -> None:
        """Choose whom to use, if there are too many: own workers all, of the others suspects last, else by lot.

        By lot, since callers that all took the first would leave the rest idle; each lot is drawn once, so that the
        choice stays.
        """
        most = self._enough
        others = [link for link in usable if not self._terms.is_own(link.uid)]
        enough = len(others) > most
        for link in others:
            # A suspect whose session is open must be tried, or it would be one for ever.
            link.spare = enough and not (link.status.suspect and link.connection is not None)
        if enough:
            for link in others:
                link.lot = link.lot or self._random_bytes(_LOT_BYTES)
            for link in heapq.nsmallest(most, others, key=lambda link: (link.status.suspect, link.lot)):
                link.spare = False

    def has_other(self, call: PlacedCall) -> bool:
        """Whether a worker besides the call's own, not suspect and not tried, may be given it."""
        tried = call.tried or {}
        return any(
            link is not call.link and link.usable and not link.status.suspect and link.uid not in tried
            for link in self.links.values()
        )

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
            self.outside.forget(metadata.uid)
            if link is not None:
                self._drop(link, TransientRpcError(f"worker {metadata.uid[:8]} was withdrawn from discovery"))
            return
        if (unwanted := self._terms.refusal(metadata)) is not None:
            self.outside.refuse(metadata.uid, unwanted)
            if link is not None:
                self._drop(link, unwanted)
            return
        if link is not None and not link.dropped and link.state is not LinkState.REFUSED:
            if link.status.metadata.address == metadata.address:
                if self._observer is not None and link.status.metadata != metadata:
                    self._observer.viewed("worker-updated", metadata)
                link.status.metadata = metadata
                return
            moved = link
        elif self._takes_a_place(metadata.uid):
            self._queue(metadata, link)
            return
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
        self.outside.forget(metadata.uid)
        self.gone.pop(metadata.uid, None)
        self.changed()

    def _discovered_address(self, event: DiscoveryEvent) -> None:
        address = event.metadata.address
        link = self.addresses.get(address)
        if event.type == "worker-dropped":
            self.outside.forget(address)
            if link is not None:
                del self.addresses[address]
                self._drop(link, TransientRpcError(f"{address} was withdrawn from discovery"))
        elif link is None and not self._closed:
            if self._takes_a_place(address):
                self.outside.wait(event.metadata, event.wanted)
                self.make_way()
            else:
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
        self.outside.forget(uid)
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
        made_way = self._fill()
        self._remember(link.uid, reason)
        self.changed()
        for each in (link, *made_way):
            self._owner.left(each)

    def _remember(self, uid: str, reason: RpcError) -> None:
        self.gone[uid] = reason
        while len(self.gone) > MOST_GONE:
            del self.gone[next(iter(self.gone))]

    # ---- a lease ----

    def make_way(self, *, needed: bool = False) -> bool:
        """A worker may have lost its place, or another may want one: see who has it now; return whether one made way.

        Where one is ``needed``, since nobody takes a call, one that cannot be reached makes way at once.
        """
        self._candidates = None
        waiting = len(self.outside)
        made_way = self._fill(needed=needed)
        if made_way or len(self.outside) != waiting:
            self.changed()
            for link in made_way:
                self._owner.left(link)
        return bool(made_way)

    def _takes_a_place(self, key: str) -> bool:
        return self._terms.lease is not None and not self._terms.is_own(key)

    def _queue(self, metadata: WorkerMetadata, refused: Link | None) -> None:
        """Let a worker wait for its place, which it may get at once. It is out of view if it had refused for good."""
        if self._closed:
            return
        self.outside.wait(metadata)
        if refused is None:
            self.make_way()
        else:
            assert refused.reason is not None
            self._drop(refused, refused.reason)
            self.gone.pop(metadata.uid, None)

    def _holders(self) -> list[Link]:
        """Return the links that have a place: not those of the pool's own workers, nor of who has refused for good."""
        is_own = self._terms.is_own
        return [link for link in self.links.values() if not (is_own(link.uid) or link.refuses)]

    def _fill(self, *, needed: bool = False) -> list[Link]:
        """Give places to those who wait as long as there are any; return the links that have lost theirs by it."""
        lease, outside, made_way = self._terms.lease, self.outside, list[Link]()
        while lease is not None and outside and not self._closed:
            holders = self._holders()
            if len(holders) >= lease:
                yielding = next(filter(self._yields, holders), None) if outside.fresh else None
                if yielding is None and outside.fresh and needed:
                    yielding, needed = next(filter(_is_unreachable, holders), None), False
                if yielding is None:
                    break
                self._send_outside(yielding)
                made_way.append(yielding)
            candidate = outside.next()
            self.gone.pop(candidate.metadata.key, None)
            if not candidate.metadata.uid:
                self._look_at(candidate.metadata, candidate.wanted)
                continue
            self.links[candidate.metadata.uid] = self._new_link(candidate.metadata)
            if self._observer is not None:
                self._observer.viewed("worker-added", candidate.metadata)
        return made_way

    def _yields(self, link: Link) -> bool:
        """Whether the worker makes way for one that waits.

        It drains; or nobody is sure who it is; or it cannot be reached, and its probe has become as slow as it gets.
        """
        if link.draining or not _is_unreachable(link):
            return link.draining
        refused = link.reason is not None and is_refusal(link.reason)
        return refused or link.backoff >= self._limits.reconnect_most_seconds

    def _send_outside(self, link: Link) -> None:
        del self.links[link.uid]
        if self._observer is not None:
            self._observer.viewed("worker-dropped", link.status.metadata)
        link.dropped = True
        if link.place is not None:
            del self.addresses[link.place.address]
        why = TransientRpcError("the worker is draining") if link.draining else link.reason
        self.outside.wait(link.place or link.status.metadata, link.wanted, why)
        self.ask_others(link.uid)

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
                why = self._terms.refusal(metadata) or self._no_place_for(link, uid)
                why = why or self._same_elsewhere(link, metadata)
        except BaseException as error:  # the user's code, as a balancer is
            why = RpcError(f"the filter failed on worker {uid[:8]} at {place.address}: {error!r}")
            why.__cause__ = error
        if why is None:
            self._rename(link, dataclasses.replace(metadata, address=place.address))
        elif link.uid != place.key:
            self._rename(link, place)
        return why

    def _no_place_for(self, link: Link, uid: str) -> RpcError | None:
        """Whether others have all places: they were given away while it was refused, which it is no more."""
        lease = self._terms.lease
        others = [one for one in self._holders() if one is not link]
        if lease is None or self._terms.is_own(uid) or len(others) < lease:
            return None
        return RpcError(f"worker {uid[:8]} comes too late: others have the {lease} places of the lease")

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


def _is_unreachable(link: Link) -> bool:
    return link.status.suspect and link.connection is None
