"""Places tasks: discovery says who is there, the load balancer orders them, one of them gets the task.

This is the engine of every caller, in applications and in workers alike. It lives on the I/O loop, and
its bookkeeping never awaits: each event runs a task's machine and does what that returns. It must never
decide by itself whether a task may be tried again; only `protocol.caller` does.

A call is bound to the balancer's first choice that is not suspect. It waits there for the session and
for room in the window, unless the worker proves slow or unreachable: then it is bound anew.
"""

from __future__ import annotations

import asyncio
import dataclasses
import logging
from collections.abc import Callable, Coroutine, Iterable
from typing import Any

from wool.balancer import LoadBalancerLike, WorkerStatus
from wool.call import Answer, PlacedCall
from wool.connection import Connection
from wool.deadlines import Deadlines
from wool.discovery.base import DiscoveryEvent, WorkerFilter, WorkerMetadata
from wool.errors import (
    DispatchTimeout,
    NoWorkersAvailable,
    RpcError,
    SerializationError,
    TaskInterrupted,
    TransientRpcError,
    UnexpectedResponse,
    WorkerLost,
)
from wool.limits import Limits
from wool.link import Link, LinkState
from wool.observer import Observer
from wool.protocol import caller, frames
from wool.protocol.caller import Event, Instructions, Outcome, State
from wool.protocol.frames import RejectCode, StepKind
from wool.serialization import Payload
from wool.transport.base import Transport

_log = logging.getLogger("wool.proxy")

_SENT = Payload((b"",))
"""What remains of arguments that have arrived: nothing keeps them alive here."""
_UPLOADED = -1
"""For the progress of an upload that is over."""
_MOST_DEPARTED = 64
"""Workers that are gone, remembered to say why nobody is left."""


class Proxy:
    """One caller's way to the workers of one pool."""

    def __init__(
        self,
        *,
        transport: Transport,
        balancer: LoadBalancerLike,
        secret: bytes,
        caller_uid: str,
        pool: bytes,
        limits: Limits,
        random_bytes: Callable[[int], bytes],
        what: str,
        observer: Observer | None = None,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._observer = observer
        self._transport = transport
        self._balancer = balancer
        self._secret = secret
        self._caller_uid = caller_uid
        self._pool = pool
        self._limits = limits
        self._random_bytes = random_bytes
        self._what = what
        self._links: dict[str, Link] = {}
        self._by_connection: dict[Connection, Link] = {}
        self._addresses: dict[str, Link] = {}
        """Links to workers that discovery knows by their address alone; they are among the others too."""
        self._usable: list[WorkerStatus] | None = None
        self._departed: dict[str, RpcError] = {}
        self._unplaced: dict[PlacedCall, None] = {}
        self._active = 0
        self._idle: asyncio.Event = asyncio.Event()
        self._idle.set()
        self._closing: str | None = None
        self.closed: bool = False
        """It was closed, all its calls have heard so, and no session is left."""
        self._discovery_error: BaseException | None = None
        self._closers: set[asyncio.Task[None]] = set()
        self._patience = Deadlines[PlacedCall](self._loop, limits.patience_seconds, limits, self._impatient)
        self._grace = Deadlines[PlacedCall](self._loop, limits.cancel_grace_seconds, limits, self._grace_over)
        self._dispatch: dict[float, Deadlines[PlacedCall]] = {}

    # ---- the view ----

    def discovered(self, event: DiscoveryEvent) -> None:
        """Take an event of discovery. Repeated and reordered events do no harm."""
        metadata = event.metadata
        if not metadata.uid:
            self._discovered_address(event)
            return
        link = self._links.get(metadata.uid)
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
        if self._closing is None:
            if self._observer is not None:
                if moved is not None:
                    self._observer.viewed("worker-dropped", moved.status.metadata)
                known = link is not None and moved is None
                self._observer.viewed("worker-updated" if known else "worker-added", metadata)
            self._links[metadata.uid] = Link(
                metadata=metadata, owner=self, connect=self._connect, loop=self._loop, limits=self._limits
            )
        if moved is not None:
            # After the new one is in view: what waits moves with the worker.
            self._drop(moved, TransientRpcError(f"worker {metadata.uid[:8]} has moved to {metadata.address}"))
        self._departed.pop(metadata.uid, None)
        self._view_changed()

    def _discovered_address(self, event: DiscoveryEvent) -> None:
        address = event.metadata.address
        link = self._addresses.get(address)
        if event.type == "worker-dropped":
            if link is not None:
                del self._addresses[address]
                self._drop(link, TransientRpcError(f"{address} was withdrawn from discovery"))
        elif link is None and self._closing is None:
            self._look_at(event.metadata, event.wanted)
            self._view_changed()

    def _look_at(self, place: WorkerMetadata, wanted: WorkerFilter | None) -> None:
        """Take a worker into view of which only the address is known."""
        link = Link(
            metadata=place, owner=self, connect=self._connect, loop=self._loop, limits=self._limits, wanted=wanted
        )
        self._links[link.uid] = self._addresses[place.address] = link
        self._departed.pop(link.uid, None)
        if self._observer is not None:
            self._observer.viewed("worker-added", place)

    def introduced(self, link: Link, metadata: WorkerMetadata) -> RpcError | None:
        """A worker that was known by its address has said who it is. Returned is why it is not used."""
        place, uid = link.place, metadata.uid
        assert place is not None
        if self._addresses.get(place.address) is not link:
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
        other = self._links.get(metadata.uid)
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
        del self._links[link.uid]
        link.uid = metadata.key
        self._links[link.uid] = link
        self._usable = None
        self._departed.pop(link.uid, None)
        if before.uid:
            where = f"{metadata.key[:8]} answers at {metadata.address}" if metadata.uid else "it answers elsewhere"
            self._remember_departed(before.uid, TransientRpcError(f"worker {before.uid[:8]} is gone: {where}"))
        if self._observer is not None:
            self._observer.viewed("worker-dropped", before)
            self._observer.viewed("worker-added", metadata)

    def _ask_others(self, uid: str) -> None:
        """The way to a worker is lost: look whether another address that it answered at still leads there."""
        for link in self._addresses.values():
            if link.same_as == uid:
                link.ask_again()

    def discovery_ended(self, error: BaseException | None) -> None:
        """Discovery will say no more; what is known stays in use, and nobody waits for it."""
        self._discovery_error = error if error is not None else EOFError("discovery has ended")
        self._view_changed()

    def departed(self, uid: str, reason: RpcError) -> None:
        """Somebody who knows says that the worker has ended, and why."""
        link = self._links.get(uid)
        if link is not None:
            self._drop(link, reason)
        self._remember_departed(uid, reason)

    def _remember_departed(self, uid: str, reason: RpcError) -> None:
        self._departed[uid] = reason
        while len(self._departed) > _MOST_DEPARTED:
            del self._departed[next(iter(self._departed))]

    def _drop(self, link: Link, reason: RpcError) -> None:
        if self._links.get(link.uid) is link:
            del self._links[link.uid]
            if self._observer is not None:
                self._observer.viewed("worker-dropped", link.status.metadata)
        link.dropped = True
        link.reason = reason
        if link.place is not None and self._addresses.get(link.place.address) is link and self._closing is None:
            self._look_at(link.place, link.wanted)  # the address is still announced
        self._ask_others(link.uid)
        self._remember_departed(link.uid, reason)
        self._view_changed()
        self._rebind_waiting(link)
        self._close_if_unused(link)

    def _close_if_unused(self, link: Link) -> None:
        # A worker that discovery has withdrawn keeps its session as long as a task of ours is on it.
        if link.dropped and (link.connection is None or not link.connection.calls()):
            self._spawn(link.close("no longer used"), f"wool closing link to worker {link.uid[:8]}")

    def _view_changed(self) -> None:
        self._usable = None
        if self._unplaced:
            unplaced, self._unplaced = self._unplaced, {}
            for call in unplaced:
                self._bind(call)
        # A call that waits for a suspect may have a better candidate now.
        for link in list(self._links.values()):
            if link.status.suspect and link.waiting:
                self._rebind_waiting(link)

    async def _connect(self, metadata: WorkerMetadata) -> Connection:
        return await Connection.open(
            transport=self._transport,
            address=metadata.address,
            expects=metadata.uid,
            secret=self._secret,
            caller=self._caller_uid,
            pool=self._pool,
            limits=self._limits,
            random_bytes=self._random_bytes,
            observer=self._observer,
        )

    # ---- what a call's user side asks ----

    def place(self, call: PlacedCall) -> None:
        """Take a new call."""
        self._active += 1
        self._idle.clear()
        timeout = call.dispatch_timeout
        if timeout is not None:
            deadlines = self._dispatch.get(timeout)
            if deadlines is None:
                deadlines = Deadlines(self._loop, timeout, self._limits, self._expired)
                self._dispatch[timeout] = deadlines
            deadlines.add(call)
            call.clock = deadlines
        self._bind(call)

    def cancel(self, call: PlacedCall, message: str | None) -> None:
        """The caller was cancelled; ``message`` is `asyncio.Task.cancel`'s."""
        first = call.machine.state is State.STARTED
        said = call.machine.cancel()
        if first:
            self._grace.add(call)
        for instruction in said:
            if isinstance(instruction, caller.Cancel):
                assert call.connection is not None
                call.connection.cancel(call.number, message)
            else:
                self._perform(call, (instruction,))

    def step(self, call: PlacedCall, kind: StepKind, payload: Payload | None, cancelled: bool = False) -> None:
        """The consumer asks for the next step of a generator; one that is cancelled waits for the grace at most."""
        limit = self._payload_limit(call)
        if payload is not None and payload.size > limit:
            size = payload.size
            call.respond(Answer(None, error=self._too_large(call, "the value sent in", size, limit, "yes")))
            return
        call.step = (kind, payload)
        self._perform(call, call.machine.step(cancelled=cancelled))
        if call.machine.state is State.CANCELLING:
            self._grace.add(call)

    # ---- binding: which worker ----

    def _candidates(self) -> list[WorkerStatus]:
        if self._usable is None:
            self._usable = [link.status for link in self._links.values() if link.usable]
        return self._usable

    def _bind(self, call: PlacedCall) -> None:
        """Bind ``call`` to the best candidate that it has not tried, or end it."""
        if self._closing is not None:
            self._exhausted(call)
            return
        candidates = self._candidates()
        try:
            link = self._choose(call, self._balancer.order(call.task, candidates)) if candidates else None
        except BaseException as error:
            # The balancer is the user's code: its fault is told to the caller, and nothing has begun. Also a
            # SystemExit: this loop is not its own to end.
            words = f"the load balancer failed to order {call.task}: {_in_words(error)}"
            self._end_unplaced(call, NoWorkersAvailable(words), error)
            return
        if link is not None:
            if self._observer is not None:
                names = [status.metadata.key for status in candidates]
                self._observer.bound(call.task.key, link.uid, names, link.status.suspect)
            self._bind_to(call, link)
        elif not (self._links or self._departed or call.tried or self._discovery_error):
            # Discovery has not named anybody yet; the dispatch timeout bounds the wait.
            self._unplaced[call] = None
        else:
            self._exhausted(call)

    def _choose(self, call: PlacedCall, ordered: Iterable[WorkerStatus]) -> Link | None:
        tried = call.tried
        last: Link | None = None
        for status in ordered:
            link = self._links.get(status.metadata.key)
            if link is None or not link.usable or (tried is not None and link.uid in tried):
                continue
            if not link.status.suspect:
                return link
            if link.half_open:
                link.half_open = False  # this call tries it, no other
                return link
            if last is None:
                last = link
        return last

    def _bind_to(self, call: PlacedCall, link: Link) -> None:
        call.link = link
        link.status.in_flight += 1
        connection = link.connection
        if connection is not None and not link.waiting and connection.has_room_for(call):
            self._offer(call, link, connection)
            return
        link.waiting[call] = None
        if connection is None:
            link.ensure_connecting()

    def _unbind(self, call: PlacedCall) -> None:
        link = call.link
        if isinstance(link, Link):
            link.status.in_flight -= 1
            call.link = None

    def _rebind_waiting(self, link: Link) -> None:
        waiting = list(link.waiting)
        link.waiting.clear()
        for call in waiting:
            self._unbind(call)
            self._bind(call)

    def _exhausted(self, call: PlacedCall) -> None:
        if self._closing is not None:
            error = NoWorkersAvailable(f"{call.task} was not placed: {self._closing}", self._reasons(call))
        else:
            reasons = self._reasons(call)
            said = [] if reasons else ["none is known"]
            broken = self._discovery_error
            if broken is not None:
                said.append(str(broken) if type(broken) is EOFError else f"discovery failed: {_in_words(broken)}")
            words = "; ".join(said)
            error = NoWorkersAvailable(f"no worker of {self._what} took {call.task}:{words and ' ' + words}", reasons)
        self._end_unplaced(call, error, self._discovery_error)

    def _end_unplaced(self, call: PlacedCall, error: NoWorkersAvailable, cause: BaseException | None = None) -> None:
        error.__cause__ = cause
        self._finish(call, call.machine.exhausted(), Answer(None, error=error))

    def _reasons(self, call: PlacedCall) -> dict[str, RpcError]:
        reasons: dict[str, RpcError] = dict(self._departed)
        for link in self._links.values():
            if link.draining:
                reasons[link.uid] = TransientRpcError("the worker is draining")
            elif link.reason is not None:
                reasons[link.uid] = link.reason
            elif self._closing is None:
                reasons[link.uid] = TransientRpcError(_standing(call, link))
        reasons.update(call.tried or {})
        return reasons

    # ---- offering ----

    def _offer(self, call: PlacedCall, link: Link, connection: Connection) -> None:
        limit = min(self._limits.payload_bytes, connection.peer.payload_bytes)
        size = call.size
        if size > limit:
            self._unbind(call)
            if size > self._limits.payload_bytes:
                error = self._too_large(call, "the arguments", size, limit, "no")
                self._finish(call, call.machine.exhausted(), Answer(None, error=error))
            else:
                self._note_tried(call, link.uid, RpcError(f"takes at most {limit} bytes, {call.task} has {size}"))
                self._bind(call)
            return
        number = connection.next_number()
        call.connection = connection
        call.number = number
        self._perform(call, call.machine.offer(connection, number))

    @staticmethod
    def _note_tried(call: PlacedCall, uid: str, reason: RpcError) -> None:
        if call.tried is None:
            call.tried = {}
        call.tried[uid] = reason

    def _payload_limit(self, call: PlacedCall) -> int:
        limit = self._limits.payload_bytes
        return limit if call.connection is None else min(limit, call.connection.peer.payload_bytes)

    @staticmethod
    def _too_large(call: PlacedCall, what: str, size: int, limit: int, executed: str) -> SerializationError:
        return SerializationError(
            f"{what} of {call.task} take {size} bytes pickled, the limit is {limit} (payload_bytes): "
            "pass a reference to the data, or send it in pieces with a generator",
            executed="yes" if executed == "yes" else "no",
        )

    # ---- doing what a machine says ----

    def _perform(self, call: PlacedCall, instructions: Instructions) -> None:
        for instruction in instructions:
            kind = type(instruction)
            if kind is caller.Start:
                self._start(call)
            elif kind is caller.Offer:
                assert call.connection is not None
                call.connection.offer(call.number, call)
                large = call.size > self._limits.inline_bytes
                call.uploaded = call.connection.session.outbox.progress if large else _UPLOADED
                if call.left_behind is not None:
                    call.waits = self._waits(call)
                self._patience.add(call)
            elif kind is caller.Step:
                assert call.connection is not None and call.step is not None
                call.connection.step(call.number, *call.step)
                call.step = None
            elif kind is caller.Withdraw:
                self._withdraw(call)
            elif kind is caller.Suspect:
                assert isinstance(instruction, caller.Suspect) and isinstance(instruction.session, Connection)
                self._suspect(instruction.session)
            elif kind is caller.Requeue:
                self._unbind(call)
                call.connection = None
                self._bind(call)
            elif kind is caller.CloseSession:
                assert isinstance(instruction, caller.CloseSession) and isinstance(instruction.session, Connection)
                session = instruction.session.session
                if isinstance(call.link, Link):
                    call.link.reason = UnexpectedResponse(f"{session.name}: an answer that {call.task} does not allow")
                session.violation(f"an answer that {call.task} does not allow")
            elif isinstance(instruction, caller.End):
                self._finish(call, (instruction,), self._local_answer(call, instruction.outcome))

    def _start(self, call: PlacedCall) -> None:
        connection = call.connection
        assert connection is not None
        self._patience.remove(call)
        self._stop_dispatch_clock(call)
        call.arguments = _SENT
        connection.start(call.number)

    def _withdraw(self, call: PlacedCall) -> None:
        self._patience.remove(call)
        if call.connection is not None:
            call.connection.withdraw(call.number)

    def _stop_dispatch_clock(self, call: PlacedCall) -> None:
        clock = call.clock
        if clock is not None:
            call.clock = None
            clock.remove(call)
            if not clock:
                self._retire(clock)

    def _retire(self, clock: Deadlines[PlacedCall]) -> None:
        # Timeouts may be as many as there are calls: one that nobody counts on goes, the default stays.
        if clock.seconds != self._limits.dispatch_timeout_seconds and self._dispatch.get(clock.seconds) is clock:
            clock.close()
            del self._dispatch[clock.seconds]

    def _finish(self, call: PlacedCall, instructions: Instructions, answer: Answer) -> None:
        """The call has its one outcome."""
        connection, link = call.connection, call.link
        if call.machine.started is None:
            self._stop_dispatch_clock(call)
            self._patience.remove(call)
            self._unplaced.pop(call, None)
            if isinstance(link, Link):
                link.waiting.pop(call, None)
        else:
            self._grace.remove(call)
        if connection is not None:
            connection.forget(call.number)
            call.connection = None
        if isinstance(link, Link):
            self._unbind(call)
            if link.dropped:
                self._close_if_unused(link)
        self._active -= 1
        if not self._active:
            self._idle.set()
        call.arguments = _SENT
        call.respond_last(answer)

    def _local_answer(self, call: PlacedCall, outcome: Outcome) -> Answer:
        if outcome is Outcome.TIMEOUT:
            seconds = call.dispatch_timeout
            return Answer(
                None,
                error=DispatchTimeout(
                    f"no worker of {self._what} accepted {call.task} within {seconds} s (dispatch_timeout)",
                    self._reasons(call),
                ),
            )
        if outcome is Outcome.CANCELLED:
            return Answer(None, error=asyncio.CancelledError())
        if outcome is Outcome.INTERRUPTED:
            why = " by its worker's operator" if self._closing is None else f": {self._closing}"
            return Answer(None, error=TaskInterrupted(f"{call.task} was interrupted{why}"))
        link = call.link
        uid = link.uid[:8] if isinstance(link, Link) else "?"
        error = WorkerLost(f"worker {uid} was lost after {call.task} was started: it may have run")
        error.__cause__ = link.reason if isinstance(link, Link) else None
        return Answer(None, error=error)

    # ---- timers ----

    def _expired(self, call: PlacedCall) -> None:
        self._perform(call, call.machine.expired())

    def _grace_over(self, call: PlacedCall) -> None:
        self._perform(call, call.machine.grace_over())

    def _impatient(self, call: PlacedCall) -> None:
        connection = call.connection
        if call.machine.state is not State.OFFERED or connection is None:
            return
        progress = connection.session.outbox.progress
        uploading = connection.uploading(call.number)
        # Also if it has just come to its end: the worker could not answer before.
        moved = progress != call.uploaded and (uploading or call.uploaded != _UPLOADED)
        call.uploaded = progress if uploading else _UPLOADED
        if moved or not self._has_other(call):
            self._patience.add(call)
        elif call.waits:
            call.waits -= 1
            self._patience.add(call)
        else:
            uid = connection.metadata.uid
            if call.left_behind is None:
                call.left_behind = {}
            call.left_behind[uid] = call.left_behind.get(uid, 0) + 1
            self._perform(call, call.machine.impatient(connection, call.number))

    @staticmethod
    def _waits(call: PlacedCall) -> int:
        """Return the patiences to wait beyond the first: twice as long as the last time that it was offered there.

        Else a call would go round for ever among workers that all take longer than one patience to answer.
        """
        assert call.left_behind is not None and call.connection is not None
        return int(2 ** call.left_behind.get(call.connection.metadata.uid, 0)) - 1

    def _has_other(self, call: PlacedCall) -> bool:
        tried = call.tried or {}
        return any(
            status is not getattr(call.link, "status", None) and not status.suspect and status.metadata.key not in tried
            for status in self._candidates()
        )

    def _suspect(self, connection: Connection) -> None:
        link = self._by_connection.get(connection)
        if link is not None:
            link.suspect_open()
            link.reason = TransientRpcError(f"worker {link.uid[:8]} did not answer an offer in time")
            self._rebind_waiting(link)

    # ---- what links and connections tell ----

    def opened(self, link: Link) -> None:
        """The session is up: offer what waits for it."""
        if link.connection is None:
            return
        self._by_connection[link.connection] = link
        self._drain_waiting(link)
        self._view_changed()

    def unreachable(self, link: Link, reason: RpcError) -> None:
        """The session could not be opened."""
        _log.info("worker %s: %s", link.uid[:8], reason)
        self._usable = None
        for call in link.waiting:
            self._note_tried(call, link.uid, reason)
        self._rebind_waiting(link)

    def slow_to_connect(self, link: Link) -> None:
        """The session is not up after the patience of an offer."""
        link.status.suspect = True
        if any(self._has_other(call) for call in link.waiting):
            self._rebind_waiting(link)

    def heard(self, connection: Connection) -> None:
        """The worker said something: it lives."""
        link = self._by_connection.get(connection)
        if link is not None and link.status.suspect:
            link.heard()

    def has_room(self, connection: Connection) -> None:
        """An offer was settled: the next one may go."""
        link = self._by_connection.get(connection)
        if link is not None and link.waiting:
            self._drain_waiting(link)

    def _drain_waiting(self, link: Link) -> None:
        connection, waiting = link.connection, link.waiting
        while waiting and connection is not None:
            call = next(iter(waiting))
            if not connection.has_room_for(call):
                return
            del waiting[call]
            self._offer(call, link, connection)

    def accepted(self, connection: Connection, call: PlacedCall, number: int) -> None:
        """The worker takes the task."""
        self._perform(call, call.machine.accept(connection, number))

    def rejected(self, connection: Connection, call: PlacedCall, number: int, code: RejectCode, reason: str) -> None:
        """The worker does not take the task."""
        self._patience.remove(call)
        link = self._by_connection.get(connection)
        if link is not None and code is not RejectCode.UNKNOWN_DEFINITION:
            self._note_tried(call, link.uid, TransientRpcError(f"rejected ({code.name.lower()}): {reason}"))
            if code is RejectCode.DRAINING:
                self.draining(connection)
        said = call.machine.reject(connection, number)
        if link is not None and code is RejectCode.UNKNOWN_DEFINITION and not connection.ended and link.usable:
            # Not an answer to the task: the same worker is asked again, now with the definition.
            self._unbind(call)
            call.connection = None
            self._bind_to(call, link)
        else:
            self._perform(call, said)

    def answered(
        self,
        connection: Connection,
        call: PlacedCall,
        number: int,
        event: Event,
        result: frames.Result,
        payload: Payload,
    ) -> None:
        """The worker answers a step, or the task has ended there."""
        for instruction in call.machine.result(connection, number, event):
            if isinstance(instruction, caller.Deliver):
                self._grace.remove(call)
                call.respond(Answer(result.kind, payload, cancels=result.cancels))
            elif isinstance(instruction, caller.End) and event is not Event.INTERRUPTED:
                self._finish(call, (instruction,), Answer(result.kind, payload, result.echo, cancels=result.cancels))
            else:
                self._perform(call, (instruction,))

    def draining(self, connection: Connection) -> None:
        """The worker takes no new tasks."""
        link = self._by_connection.get(connection)
        if link is not None and not link.draining:
            link.draining = True
            self._usable = None
            self._rebind_waiting(link)

    def lost(self, connection: Connection, reason: RpcError) -> None:
        """The session is gone: every task on it hears so, once."""
        link = self._by_connection.pop(connection, None)
        if link is None:
            return
        link.lost(reason)
        self._usable = None
        calls: list[PlacedCall] = connection.calls()
        if not link.dropped:
            link.probe_later()
            self._ask_others(link.uid)
        for call in calls:
            if call.machine.state is State.OFFERED:
                self._patience.remove(call)
                self._note_tried(call, link.uid, reason)
            self._perform(call, call.machine.lost(connection))
        self._rebind_waiting(link)

    # ---- the end ----

    def stop_placing(self, why: str) -> None:
        """Take no more calls; end those that no worker has started."""
        self._closing = why
        self._usable = None
        waiting = list(self._unplaced)
        for link in self._links.values():
            waiting.extend(link.waiting)
            link.waiting.clear()
        for call in waiting:
            self._unbind(call)
            self._exhausted(call)
        for connection in list(self._by_connection):
            for call in connection.calls():
                if call.machine.state is State.OFFERED:
                    self._withdraw(call)
                    self._perform(call, call.machine.reject(connection, call.number))

    async def wait_idle(self) -> None:
        """Return when no call is under way."""
        await self._idle.wait()

    async def close(self, why: str) -> None:
        """End all sessions, bounded. Tasks still started end as `WorkerLost`; idempotent."""
        self.stop_placing(why)
        links = [*self._links.values(), *(link for link in self._by_connection.values())]
        self._links.clear()
        unique = {id(link): link for link in links}
        await asyncio.gather(*(link.close(why) for link in unique.values()), *self._closers)
        for deadlines in (self._patience, self._grace, *self._dispatch.values()):
            deadlines.close()
        self._dispatch.clear()
        await self._transport.close()
        self.closed = True

    def answer_closed(self, call: PlacedCall) -> Answer:
        """Answer a call that comes too late, or a step of a generator that has outlived the proxy."""
        if call.machine.state is State.QUEUED:
            call.machine.exhausted()
            return Answer(None, error=NoWorkersAvailable(f"{call.task} was not placed: {self._closing}"))
        for instruction in call.machine.step():
            if isinstance(instruction, caller.End):
                return self._local_answer(call, instruction.outcome)
        return self._local_answer(call, Outcome.LOST)

    # ---- should the loop end by itself ----

    async def loop_dying(self, why: str) -> None:
        """See `wool.bridge.Mourner`: workers hear that this caller has gone."""
        await self.close(why)

    def loop_died(self, why: str) -> None:
        """See `wool.bridge.Mourner`: all calls end with what is known of them."""
        self._closing = why
        self.closed = True
        calls = dict.fromkeys(self._unplaced)
        for link in (*self._links.values(), *self._by_connection.values()):
            calls.update(link.waiting)
            if link.connection is not None:
                calls.update(dict.fromkeys(link.connection.calls()))
        for call in calls:
            machine = call.machine
            if machine.state is State.QUEUED:
                call.respond_last(self.answer_closed(call))
            elif machine.state is State.OFFERED:
                machine.cancel()
                call.respond_last(Answer(None, error=NoWorkersAvailable(f"{call.task} was not placed: {why}")))
            elif machine.state is State.STARTED or machine.state is State.CANCELLING:
                for instruction in machine.lost(call.connection):
                    if isinstance(instruction, caller.End):
                        call.respond_last(self._local_answer(call, instruction.outcome))

    def undeliverable(self, method: Callable[..., object], args: tuple[Any, ...]) -> None:
        """See `wool.bridge.Mailbox`: answer a call, or a step, that was on its way to a loop that is no more."""
        if method == self.place or method == self.step:
            call: PlacedCall = args[0]
            call.respond_last(self.answer_closed(call))

    def _spawn(self, work: Coroutine[Any, Any, None], name: str) -> None:
        task = self._loop.create_task(work, name=name)
        self._closers.add(task)
        task.add_done_callback(self._closers.discard)

    def workers(self) -> list[WorkerStatus]:
        """Return the workers in view, in the order in which discovery named them."""
        return [link.status for link in self._links.values()]


def _in_words(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"


def _standing(call: PlacedCall, link: Link) -> str:
    """Say why a worker that has refused nothing does not have the task."""
    if call.link is not link:
        return "the task was not offered to it: the load balancer did not name it"
    if call.machine.state is State.OFFERED:
        return "it has not answered the offer"
    return "there was no room in its window" if link.connection is not None else "its session was not open yet"
