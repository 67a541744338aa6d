"""A caller's live session with one worker: offers go out, answers come in, the window is kept.

It knows which of its offers are unstarted and tells the proxy what the worker says; which task goes
where, and what an answer means for a task, is not decided here.
"""

from __future__ import annotations

import asyncio
import ipaddress
from collections.abc import Callable
from typing import Any, Protocol

from wool.discovery.base import WorkerMetadata
from wool.discovery.lookups import split
from wool.errors import RpcError, TransientRpcError, UnexpectedResponse
from wool.harmless import harmless
from wool.limits import Limits
from wool.observer import Observer
from wool.protocol import frames
from wool.protocol.caller import Event
from wool.protocol.flow import body_of
from wool.protocol.frames import Frame, ProtocolError, RejectCode, ResultKind, StepKind
from wool.protocol.handshake import (
    NONCE_BYTES,
    CallerHandshake,
    CallerWords,
    HandshakeFailed,
    WorkerWords,
)
from wool.refusals import Refusals
from wool.serialization import Definition, Payload
from wool.session import Session
from wool.statistics import Statistics
from wool.task import Task
from wool.tracing import CallTold
from wool.transport.base import ConnectFailed, ConnectRefused, Stream, StreamLost, Transport

_EVENTS: dict[ResultKind, Event] = {
    ResultKind.YIELD: Event.YIELD,
    ResultKind.RETURN: Event.RETURN,
    ResultKind.RAISE: Event.RAISE,
    ResultKind.CANCELLED: Event.RAISE,
    ResultKind.UNLOADABLE: Event.RAISE,
    ResultKind.UNSENDABLE: Event.RAISE,
    ResultKind.UNBEGUN: Event.RAISE,
    ResultKind.INTERRUPTED: Event.INTERRUPTED,
}


class OfferedCall(Protocol):
    """What a connection has to know of a call."""

    @property
    def task(self) -> Task: ...

    @property
    def definition(self) -> Definition: ...

    @property
    def arguments(self) -> Payload: ...

    @property
    def dispatch_timeout(self) -> float | None: ...

    @property
    def events(self) -> CallTold | None: ...

    @property
    def parked(self) -> bool: ...


class ConnectionOwner(Protocol):
    """Hears what the worker says. Called synchronously, on the connection's loop."""

    def accepted(self, connection: Connection, call: Any, number: int) -> None: ...

    def rejected(self, connection: Connection, call: Any, number: int, code: RejectCode, reason: str) -> None: ...

    def answered(
        self, connection: Connection, call: Any, number: int, event: Event, result: frames.Result, payload: Payload
    ) -> None: ...

    def draining(self, connection: Connection) -> None: ...

    def heard(self, connection: Connection) -> None: ...

    def has_room(self, connection: Connection) -> None: ...

    def lost(self, connection: Connection, reason: RpcError) -> None: ...


class Connection:
    """One open session. Numbers are given here, and never twice."""

    def __init__(
        self,
        *,
        stream: Stream,
        peer: WorkerWords,
        metadata: WorkerMetadata,
        limits: Limits,
        observer: Observer | None = None,
        statistics: Statistics | None = None,
        refusals: Refusals | None = None,
    ) -> None:
        self.peer = peer
        self.metadata = metadata
        self.statistics: Statistics | None = statistics
        """What the worker had done when the session was opened; None if it does not say."""
        self._limits = limits
        self._owner: ConnectionOwner | None = None
        self._calls: dict[int, Any] = {}
        self._unstarted: dict[int, int] = {}
        self._unstarted_bytes = 0
        self._number = 0
        self._watched = 0
        # Generators whose consumer has gone, until they end.
        self._told_to_close: set[int] = set()
        self._defining: set[int] = set()
        # Digests that the worker has, oldest first; bounded, since what falls out is just sent again.
        self._defined: dict[bytes, None] = {}
        self.session: Session = Session(
            stream=stream,
            owner=self,
            limits=limits,
            peer_credit_bytes=peer.credit_bytes,
            name=f"wool session with worker {metadata.uid[:8]} at {metadata.address}",
            observer=observer,
            refusals=refusals,
        )
        self.ended: bool = False

    @classmethod
    async def open(
        cls,
        *,
        transport: Transport,
        address: str,
        expects: str,
        secret: bytes,
        caller: str,
        pool: bytes,
        limits: Limits,
        random_bytes: Callable[[int], bytes],
        secure: bool = False,
        observer: Observer | None = None,
        refusals: Refusals | None = None,
    ) -> Connection:
        """Connect and shake hands. Raises `RpcError` or `TransientRpcError`; bounded by ``handshake_seconds``.

        Unless the transport is ``secure``, and shows both ends to each other, the worker must be where it says that it
        listens. Whether it looks at certificates of callers it says itself: who has one cannot tell.
        """
        words = CallerWords(
            uid=caller,
            pool=pool,
            payload_bytes=limits.payload_bytes,
            credit_bytes=limits.credit_bytes,
            expects=expects,
        )

        def accept(peer: WorkerWords) -> None:
            metadata = _checked_metadata(peer, expects)
            if metadata.secure and not secure:
                why = f"worker {metadata.uid[:8]} has credentials, and this side has no credentials"
                raise HandshakeFailed(why, permanent=True)
            if not secure or transport.one_way or peer.one_way:
                _check_address(metadata, address)

        handshake = CallerHandshake(secret=secret, nonce=random_bytes(NONCE_BYTES), words=words, accept=accept)
        stream: Stream | None = None
        try:
            async with asyncio.timeout(limits.handshake_seconds):
                stream = await transport.connect(address)
                await stream.write(handshake.hello())
                while not handshake.done:
                    answer = handshake.receive(await stream.read())
                    if answer is not None:
                        await stream.write(answer)
            assert handshake.peer is not None
            metadata = _checked_metadata(handshake.peer, expects)
        except BaseException as error:
            if stream is not None:
                stream.abort("handshake failed")
                await stream.close()
            if (mapped := _as_rpc_error(error, address, limits)) is not None:
                raise mapped from error
            raise
        return cls(
            stream=stream,
            peer=handshake.peer,
            metadata=metadata,
            limits=limits,
            observer=observer,
            statistics=handshake.statistics,
            refusals=refusals,
        )

    async def run(self, owner: ConnectionOwner) -> None:
        """Drive the session until it ends, then tell ``owner`` that it is lost, once."""
        self._owner = owner
        reason = "the session was closed"
        try:
            reason = await self.session.run()
        finally:
            self.ended = True
            kind = UnexpectedResponse if self.session.violated else TransientRpcError
            owner.lost(self, kind(f"the session with {self._who} ended: {reason}"))

    async def decline(self, reason: str) -> None:
        """Say goodbye on a session that is not wanted; instead of `run`. Bounded by ``close_seconds``."""
        self.ended = True
        self.session.finish(reason)
        await self.session.run()

    @property
    def _who(self) -> str:
        return f"worker {self.metadata.uid[:8]} at {self.metadata.address}"

    # ---- what the caller says ----

    def has_room_for(self, call: OfferedCall) -> bool:
        """Whether the window has room for an offer of ``call``; one alone always fits."""
        if not self._unstarted:
            return not self.ended
        if self.ended or len(self._unstarted) >= self.peer.window_tasks:
            return False
        size = call.arguments.size
        if call.definition.digest not in self._defined:
            size += len(call.definition.blob)
        return self._unstarted_bytes + size <= self.peer.window_bytes

    def next_number(self) -> int:
        """Mint the number of the next offer."""
        self._number += 1
        return self._number

    def offer(self, number: int, call: OfferedCall) -> None:
        """Say offer ``number`` for ``call``."""
        payload = call.arguments
        digest = call.definition.digest
        defines = digest not in self._defined
        if defines:
            payload = Payload((call.definition.blob, *payload.parts), payload.context)
            self._defining.add(number)
        body = body_of(payload, self._limits)
        if defines and not body.chunked:
            # A definition that goes in chunks may be overtaken by the next offer, so it is sent with
            # each offer until one of them has been accepted.
            self._remember(digest)
        self._calls[number] = call
        size = body.total
        self._unstarted[number] = size
        self._unstarted_bytes += size
        timeout = call.dispatch_timeout
        if timeout == self._limits.dispatch_timeout_seconds:
            timeout = None
        elif timeout is None:
            timeout = frames.FOR_EVER
        task = call.task
        context = bool(payload.context)
        trace = call.events.trace if call.events is not None else None
        offer = frames.Offer(number, task.key, digest, defines, body, task.parent, timeout, context, trace, call.parked)
        self.session.say(offer, payload)

    def start(self, number: int) -> None:
        """Say start."""
        if (events := self._calls[number].events) is not None:
            events.scheduled(self.metadata)
        # Said before the window is looked at again: the next offer must not reach the worker first.
        self.session.say(frames.Start(number))
        self._settle(number)

    def watch(self, types: int) -> None:
        """Say which task events are wanted of the worker, if it does not know."""
        if types != self._watched:
            self._watched = types
            self.session.say(frames.Watch(types))

    def withdraw(self, number: int) -> None:
        """Take an offer back."""
        if self._calls.pop(number, None) is None:
            return
        self.session.forget(number)
        self.session.say(frames.Withdraw(number))
        self._settle(number)

    def cancel(self, number: int, message: str | None) -> None:
        """Pass a cancellation on."""
        if message is not None:
            # A str may hold what no frame can: half of a surrogate pair.
            message = message[: self._limits.text_characters].encode(errors="replace").decode()
        self.session.say(frames.Cancel(number, message))

    def step(self, number: int, kind: StepKind, payload: Payload | None) -> None:
        """Say the next step of a generator."""
        if payload is None:
            self.session.say(frames.Step(number, kind))
        else:
            body = body_of(payload, self._limits)
            self.session.say(frames.Step(number, kind, body, bool(payload.context)), payload)

    def forget(self, number: int) -> None:
        """The call has ended; what still comes for it has crossed."""
        if self._calls.pop(number, None) is None:
            return
        if number in self._unstarted:
            self.session.forget(number)
            self._settle(number)
        else:
            # A step on its way goes on: the generator waits for it, and is closed with its answer.
            self.session.ignore(number)

    def calls(self) -> list[Any]:
        """Return the calls that are offered or started here, oldest first."""
        return list(self._calls.values())

    def uploading(self, number: int) -> bool:
        """Whether part of the offer has still to leave."""
        return self.session.outbox.sending(number)

    def _remember(self, digest: bytes) -> None:
        self._defined[digest] = None
        if len(self._defined) > self._limits.definitions:
            del self._defined[next(iter(self._defined))]

    def _settle(self, number: int) -> None:
        size = self._unstarted.pop(number, None)
        if size is not None:
            self._unstarted_bytes -= size
            self._defining.discard(number)
            if self._owner is not None:
                self._owner.has_room(self)

    # ---- what the worker says ----

    def on_message(self) -> None:
        """The worker said something, whatever it is: it lives."""
        if self._owner is not None:
            self._owner.heard(self)

    def on_head(self, frame: frames.Offer | frames.Step | frames.Result) -> bool:
        """Take the announcement of a large answer."""
        if not isinstance(frame, frames.Result):
            raise ProtocolError(f"a worker does not say {type(frame).__name__}")
        self._check_number(frame.number)
        if frame.body.total > self._limits.payload_bytes:
            raise ProtocolError(f"an answer of {frame.body.total} bytes, over the limit that was agreed on")
        return frame.number in self._calls or frame.kind is ResultKind.YIELD

    def on_stray(self, number: int) -> None:
        """Let a chunk pass that comes too late for anybody."""
        self._check_number(number)

    def on_frame(self, frame: Frame, payload: Payload | None) -> None:
        """Take one frame."""
        owner = self._owner
        if owner is None:  # declined
            return
        if isinstance(frame, frames.Result):
            self._result(owner, frame, payload)
        elif isinstance(frame, frames.Accept):
            number = frame.number
            call = self._calls.get(number)
            if call is None:
                self._check_number(number)
            else:
                if call.definition.digest not in self._defined:
                    self._remember(call.definition.digest)
                owner.accepted(self, call, number)
        elif isinstance(frame, frames.Reject):
            self._check_number(frame.number)
            self._reject(owner, frame)
        elif isinstance(frame, frames.Draining):
            owner.draining(self)
        elif isinstance(frame, frames.Report):
            self._check_number(frame.number)
            call = self._calls.get(frame.number)
            if call is not None and call.events is not None and self._watched >> frame.type & 1:
                call.events.reported(frame.type, frame.timestamp, self.metadata, *frame[3:])
        else:
            raise ProtocolError(f"a worker does not say {type(frame).__name__}")

    def _result(self, owner: ConnectionOwner, frame: frames.Result, payload: Payload | None) -> None:
        assert payload is not None
        call = self._calls.get(frame.number)
        if call is None:
            self._check_number(frame.number)
            if frame.kind is not ResultKind.YIELD:
                self._told_to_close.discard(frame.number)
            elif frame.number not in self._told_to_close:
                # The consumer has gone (its cancel grace was over): nobody will ask for the next item. Said
                # once: a generator that yields all the same would be told without end.
                self._told_to_close.add(frame.number)
                self.session.say(frames.Step(frame.number, StepKind.CLOSE))
            return
        if frame.kind is ResultKind.YIELD and call.task.kind != "generator":
            raise ProtocolError(f"an item of number {frame.number}, which is no generator")
        owner.answered(self, call, frame.number, _EVENTS[frame.kind], frame, payload)

    def _reject(self, owner: ConnectionOwner, frame: frames.Reject) -> None:
        call = self._calls.get(frame.number)
        if call is None:
            return
        if frame.code is RejectCode.DRAINING:
            # First, so that what waits for room does not go where it would be rejected too.
            owner.draining(self)
        if frame.code is RejectCode.UNKNOWN_DEFINITION:
            if frame.number in self._defining:
                raise ProtocolError("the worker does not know the definition that came with the offer")
            self._defined.pop(call.definition.digest, None)
        self.forget(frame.number)
        owner.rejected(self, call, frame.number, frame.code, harmless(frame.reason, self._limits.text_characters))

    def _check_number(self, number: int) -> None:
        if not 0 < number <= self._number:
            raise ProtocolError(f"number {number} was never offered")


def _checked_metadata(peer: WorkerWords, expects: str) -> WorkerMetadata:
    try:
        metadata = WorkerMetadata.from_bytes(peer.metadata)
    except ValueError as error:
        raise HandshakeFailed(f"the worker describes itself wrongly: {error}", permanent=True) from error
    if expects and metadata.uid != expects:
        raise HandshakeFailed(f"worker {metadata.uid[:8]} answers where {expects[:8]} was expected", permanent=True)
    return metadata


def _check_address(metadata: WorkerMetadata, address: str) -> None:
    """Raise `HandshakeFailed` if an honest worker answers, but at another address than its own.

    Without TLS nothing protects what follows the handshake, and where the caller shows no certificate, nothing tells
    the worker with whom it shares the connection. Whoever stands at one address, with any certificate for it, and
    passes the handshake on to a worker at another would know no secret, and still could say what it likes to both ends.
    """
    if _as_listened_at(metadata.address) != _as_listened_at(address):
        raise HandshakeFailed(
            f"worker {metadata.uid[:8]} answers, which listens at {metadata.address}: somebody passes on what is said "
            "there; to reach a worker by a relay or another address, give both ends certificates",
            permanent=True,
        )


def _as_listened_at(address: str) -> object:
    try:
        host, port = split(address)
        return ipaddress.ip_address(host), port
    except ValueError:
        return address


def is_refusal(reason: RpcError) -> bool:
    """Whether no session came about since one end does not take the other for who it is."""
    cause = reason.__cause__
    return isinstance(cause, (ConnectRefused, HandshakeFailed))


def _as_rpc_error(error: BaseException, address: str, limits: Limits) -> RpcError | None:
    if isinstance(error, HandshakeFailed):
        return (RpcError if error.permanent else TransientRpcError)(f"{address}: {error}")
    if isinstance(error, TimeoutError):
        return TransientRpcError(f"{address}: no session within {limits.handshake_seconds} s (handshake_seconds)")
    if isinstance(error, (ConnectFailed, StreamLost)):
        return TransientRpcError(f"{address}: {error}")
    return None
