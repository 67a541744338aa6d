"""Places tasks: discovery says who is there, the load balancer orders them, one of them gets the task.

This is the engine of every caller, in applications and in workers alike. It lives on the I/O loop, and
its bookkeeping never awaits: each event runs a task's machine and does what that returns. It must never
decide by itself whether a task may be tried again; only `protocol.caller` does.

A call is bound to the balancer's first choice that is not suspect. It waits there for the session and
for room in the window, unless the worker proves slow or unreachable: then it is bound anew.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Mapping
from typing import Any

from wool import endings
from wool.admission import EVERYBODY, Terms
from wool.balancer import LoadBalancerLike, WorkerStatus
from wool.call import Answer, PlacedCall
from wool.connection import Connection, is_refusal
from wool.deadlines import Deadlines, Timeouts
from wool.discovery.base import DiscoveryEvent, Sought, WorkerMetadata
from wool.errors import NoWorkersAvailable, RpcError, TransientRpcError, UnexpectedResponse
from wool.events import PROCESS, Events
from wool.limits import Limits
from wool.link import Link
from wool.links import Links
from wool.lookout import Lookout
from wool.observer import Observer
from wool.protocol import caller, frames
from wool.protocol.caller import Event, Instructions, Outcome, State
from wool.protocol.frames import RejectCode, StepKind
from wool.refusals import Refusals
from wool.serialization import Payload
from wool.transport.base import Transport

_log = logging.getLogger("wool.proxy")

_SENT = Payload((b"",))
"""What remains of arguments that have arrived: nothing keeps them alive here."""
_UPLOADED = -1
"""For the progress of an upload that is over."""


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
        what: Sought,
        terms: Terms = EVERYBODY,
        observer: Observer | None = None,
        events: Events = PROCESS,
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
        self._refusals = Refusals(_log.warning, limits)
        self._view = Links(self, self._connect, random_bytes, events, limits=limits, terms=terms, observer=observer)
        self._links: Mapping[str, Link] = self._view.links
        self._by_connection: dict[Connection, Link] = {}
        self._lookout = Lookout(what, limits, self._bind)
        self._active = 0
        self._closing: str | None = None
        self.closed: bool = False
        """It was closed, all its calls have heard so, and no session is left."""
        self._closers: set[asyncio.Task[None]] = set()
        self._patience = Deadlines[PlacedCall](self._loop, limits.patience_seconds, limits, self._impatient)
        self._grace = Deadlines[PlacedCall](self._loop, limits.cancel_grace_seconds, limits, self._grace_over)
        self._dispatch = Timeouts[PlacedCall](self._loop, limits, self._expired, keep=limits.dispatch_timeout_seconds)

    # ---- who is there: see `wool.links` ----

    def discovered(self, event: DiscoveryEvent) -> None:
        """Take an event of discovery. Repeated and reordered events do no harm."""
        self._lookout.found()
        self._view.discovered(event)

    def wanted_events_changed(self) -> None:
        """Somebody here wants other task events than before."""
        self._view.wanted_events_changed()

    def discovery_ended(self, error: BaseException | None) -> None:
        """Discovery will say no more; what is known stays in use, and nobody waits for it."""
        self._view.discovery_ended(error)

    def departed(self, uid: str, reason: RpcError) -> None:
        """Somebody who knows says that the worker has ended, and why."""
        self._view.departed(uid, reason)

    def introduced(self, link: Link, metadata: WorkerMetadata) -> RpcError | None:
        """A worker that was known by its address has said who it is. Returned is why it is not used."""
        return self._view.introduced(link, metadata)

    def view_changed(self) -> None:
        """Calls that wait may have a candidate now."""
        self._lookout.changed()
        # A call that waits for a suspect may have a better candidate now.
        for link in list(self._links.values()):
            if link.status.suspect and link.waiting:
                self._rebind_waiting(link)

    def left(self, link: Link) -> None:
        """The worker is in view no more: what waits for it goes elsewhere, what was started goes on."""
        self._rebind_waiting(link)
        self._close_if_unused(link)

    def _close_if_unused(self, link: Link) -> None:
        # A worker that was withdrawn, or is not needed, keeps its session as long as a task of ours is on it.
        if (connection := link.connection) is not None and connection.calls():
            return
        if link.dropped:
            self._spawn(link.close("no longer used"), f"wool closing link to worker {link.uid[:8]}")
        elif link.spare and connection is not None and not link.waiting:
            del self._by_connection[connection]
            self._spawn(link.rest("others are used"), f"wool resting link to worker {link.uid[:8]}")

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
            secure=self._view.secure,
            observer=self._observer,
            refusals=self._refusals,
        )

    # ---- what a call's user side asks ----

    def place(self, call: PlacedCall) -> None:
        """Take a new call."""
        self._active += 1
        if (timeout := call.dispatch_timeout) is not None:
            call.clock = self._dispatch.add(call, timeout)
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
            call.respond(Answer(None, error=endings.too_large(call, "the value sent in", size, limit, "yes")))
            return
        call.step = (kind, payload)
        self._perform(call, call.machine.step(cancelled=cancelled))
        if call.machine.state is State.CANCELLING:
            self._grace.add(call)

    # ---- binding: which worker ----

    def _bind(self, call: PlacedCall) -> None:
        """Bind ``call`` to the best candidate that it has not tried, or end it."""
        if self._closing is not None:
            self._exhausted(call)
            return
        if self._lookout.is_early and self._lookout.gathers() and self._view.ended_with is None:
            self._lookout.wait(call)
            return
        candidates = self._view.candidates(self._active)
        try:
            link = self._view.choose(self._balancer.order(call.task, candidates), call.tried) if candidates else None
            if link is None and (spares := self._view.spares()):
                link = self._view.choose(self._balancer.order(call.task, candidates := spares), call.tried)
        except BaseException as error:
            # The balancer is the user's code: its fault is told to the caller, and nothing has begun. Also a
            # SystemExit: this loop is not its own to end.
            words = f"the load balancer failed to order {call.task}: {endings.in_words(error)}"
            self._end_unplaced(call, NoWorkersAvailable(words), error)
            return
        if link is not None:
            if self._observer is not None:
                names = [status.metadata.key for status in candidates]
                self._observer.bound(call.task.key, link.uid, names, link.status.suspect)
            self._bind_to(call, link)
        elif not (self._links or self._view.gone or call.tried or self._view.ended_with):
            # Discovery has not named anybody yet; the dispatch timeout bounds the wait.
            self._lookout.waiting[call] = None
        elif self._view.make_way(needed=True):
            self._bind(call)
        elif self._lookout.is_looking and self._view.ended_with is None:
            # A name may yet lead to somebody; `lookup_seconds` bounds the wait, and the dispatch timeout.
            self._lookout.wait(call)
        else:
            self._exhausted(call)

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
            if call.parked:
                link.unpark(call)
            call.link = None

    def _rebind_waiting(self, link: Link) -> None:
        waiting = list(link.waiting)
        link.waiting.clear()
        for call in waiting:
            self._unbind(call)
            self._bind(call)

    def _exhausted(self, call: PlacedCall) -> None:
        error = endings.not_placed(call, self._view, self._what, self._closing)
        self._end_unplaced(call, error, error.__cause__)

    def _end_unplaced(self, call: PlacedCall, error: NoWorkersAvailable, cause: BaseException | None = None) -> None:
        error.__cause__ = cause
        self._finish(call, call.machine.exhausted(), Answer(None, error=error))

    # ---- offering ----

    def _offer(self, call: PlacedCall, link: Link, connection: Connection) -> None:
        limit = min(self._limits.payload_bytes, connection.peer.payload_bytes)
        size = call.size
        if size > limit:
            self._unbind(call)
            if size > self._limits.payload_bytes:
                error = endings.too_large(call, "the arguments", size, limit, "no")
                self._finish(call, call.machine.exhausted(), Answer(None, error=error))
            else:
                call.note_tried(link.uid, RpcError(f"takes at most {limit} bytes, {call.task} has {size}"))
                self._bind(call)
            return
        if link.full:
            link.park(call)
        number = connection.next_number()
        call.connection = connection
        call.number = number
        self._perform(call, call.machine.offer(connection, number))

    def _payload_limit(self, call: PlacedCall) -> int:
        limit = self._limits.payload_bytes
        return limit if call.connection is None else min(limit, call.connection.peer.payload_bytes)

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
                    call.waits = call.patiences(call.connection.metadata.uid) - 1
                self._patience.add(call)
            elif kind is caller.Step:
                assert call.connection is not None and call.step is not None
                call.connection.step(call.number, *call.step)
                call.step = None
            elif kind is caller.Withdraw:
                self._withdraw(call)
            elif kind is caller.Suspect:
                assert isinstance(instruction, caller.Suspect) and isinstance(instruction.session, Connection)
                if not call.parked:  # that waits at a worker which lives, as far as anybody knows
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
        if call.parked and isinstance(call.link, Link):
            call.link.unpark(call)
        self._stop_dispatch_clock(call)
        call.arguments = _SENT
        connection.start(call.number)

    def _withdraw(self, call: PlacedCall) -> None:
        self._patience.remove(call)
        if call.connection is not None:
            call.connection.withdraw(call.number)

    def _take_back(self, call: PlacedCall) -> None:
        """Withdraw the offer that is out, and look again for whom to give it to."""
        self._withdraw(call)
        self._perform(call, call.machine.reject(call.connection, call.number))

    def _stop_dispatch_clock(self, call: PlacedCall) -> None:
        clock = call.clock
        if clock is not None:
            call.clock = None
            self._dispatch.remove(call, clock)

    def _finish(self, call: PlacedCall, instructions: Instructions, answer: Answer) -> None:
        """The call has its one outcome."""
        connection, link = call.connection, call.link
        if call.machine.started is None:
            self._stop_dispatch_clock(call)
            self._patience.remove(call)
            self._lookout.waiting.pop(call, None)
            if isinstance(link, Link):
                link.waiting.pop(call, None)
        else:
            self._grace.remove(call)
        if connection is not None:
            connection.forget(call.number)
            call.connection = None
        if isinstance(link, Link):
            self._unbind(call)
            if link.dropped or link.spare:
                self._close_if_unused(link)
            if link.full and call.machine.started is not None and (other := self._view.freed(link)) is not None:
                self._take_back(other)
        self._active -= 1
        call.arguments = _SENT
        call.respond_last(answer)

    def _local_answer(self, call: PlacedCall, outcome: Outcome) -> Answer:
        return endings.local_answer(call, outcome, self._view, self._what, self._closing)

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
        if moved or not self._view.has_other(call):
            self._patience.add(call)
        elif call.waits:
            call.waits -= 1
            self._patience.add(call)
        else:
            uid = connection.metadata.uid
            call.leave_behind(uid)
            self._perform(call, call.machine.impatient(connection, call.number))

    def _suspect(self, connection: Connection) -> None:
        link = self._by_connection.get(connection)
        if link is not None:
            link.suspect_open()
            self._view.recount()
            link.reason = TransientRpcError(f"worker {link.uid[:8]} did not answer an offer in time")
            self._rebind_waiting(link)

    # ---- what links and connections tell ----

    def opened(self, link: Link) -> None:
        """The session is up: offer what waits for it."""
        if link.connection is None:
            return
        self._by_connection[link.connection] = link
        link.connection.watch(self._view.events.remote)
        self._drain_waiting(link)
        self._view.opened(link)

    def unreachable(self, link: Link, reason: RpcError) -> None:
        """The session could not be opened. A refusal is told of; who is not there may not be there for days."""
        say = self._refusals.say if is_refusal(reason) else _log.debug
        say("worker %s: %s", link.name, str(reason))  # whoever keeps a traceback keeps the connection
        self._view.unreachable(link, reason)
        self._rebind_waiting(link)

    def slow_to_connect(self, link: Link) -> None:
        """The session is not up after the patience of an offer."""
        self._view.slow_to_connect(link)
        if any(self._view.has_other(call) for call in link.waiting):
            self._rebind_waiting(link)

    def heard(self, connection: Connection) -> None:
        """The worker said something: it lives."""
        link = self._by_connection.get(connection)
        if link is not None and link.status.suspect:
            self._view.heard(link)

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
        if link is not None and code is RejectCode.BUSY and not call.parked:
            link.filled()  # nothing is wrong with it: if all others are full too, the offer waits there
        elif link is not None and code is not RejectCode.UNKNOWN_DEFINITION:
            call.note_tried(link.uid, TransientRpcError(f"rejected ({code.name.lower()}): {reason}"))
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
                self._finish(call, (instruction,), endings.told(call, result, payload))
            else:
                self._perform(call, (instruction,))

    def draining(self, connection: Connection) -> None:
        """The worker takes no new tasks."""
        link = self._by_connection.get(connection)
        if link is not None and not link.draining:
            link.draining = True
            self._view.make_way()
            self._rebind_waiting(link)

    def lost(self, connection: Connection, reason: RpcError) -> None:
        """The session is gone: every task on it hears so, once."""
        link = self._by_connection.pop(connection, None)
        if link is None:
            return
        link.lost(reason)
        self._view.recount()
        calls: list[PlacedCall] = connection.calls()
        if not link.dropped:
            link.probe_later()
            self._view.ask_others(link.uid)
        for call in calls:
            if call.machine.state is State.OFFERED:
                self._patience.remove(call)
                call.note_tried(link.uid, reason)
            self._perform(call, call.machine.lost(connection))
        self._rebind_waiting(link)

    # ---- the end ----

    def stop_placing(self, why: str) -> None:
        """Take no more calls; end those that no worker has started."""
        self._closing = why
        self._view.close()
        waiting = list(self._lookout.waiting)
        for link in self._links.values():
            waiting.extend(link.waiting)
            link.waiting.clear()
        for call in waiting:
            self._unbind(call)
            self._exhausted(call)
        for connection in list(self._by_connection):
            for call in filter(lambda call: call.machine.state is State.OFFERED, connection.calls()):
                self._take_back(call)

    @property
    def is_idle(self) -> bool:
        """Whether no call is under way, nor a generator open; may be read from any thread."""
        return not self._active

    async def close(self, why: str) -> None:
        """End all sessions, bounded. Tasks still started end as `WorkerLost`; idempotent."""
        self.stop_placing(why)
        self._lookout.close()
        links = {id(link): link for link in (*self._links.values(), *self._by_connection.values())}
        self._view.clear()
        await asyncio.gather(*(link.close(why) for link in links.values()), *self._closers)
        for deadlines in (self._patience, self._grace, self._dispatch):
            deadlines.close()
        self._refusals.close()
        await self._transport.close()
        self.closed = True

    def answer_closed(self, call: PlacedCall) -> Answer:
        """Answer a call that comes too late, or a step of a generator that has outlived the proxy."""
        return endings.too_late(call, self._closing)

    # ---- should the loop end by itself ----

    async def loop_dying(self, why: str) -> None:
        """See `wool.bridge.Mourner`: workers hear that this caller has gone."""
        await self.close(why)

    def loop_died(self, why: str) -> None:
        """See `wool.bridge.Mourner`: all calls end with what is known of them."""
        self._closing = why
        self._view.close()
        self.closed = True
        calls = dict.fromkeys(self._lookout.waiting)
        for link in (*self._links.values(), *self._by_connection.values()):
            calls.update(link.waiting)
            if link.connection is not None:
                calls.update(dict.fromkeys(link.connection.calls()))
        for call in calls:
            if (answer := endings.cut_off(call, why)) is not None:
                call.respond_last(answer)

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
