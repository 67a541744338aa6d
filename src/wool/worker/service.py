"""The worker's I/O side: serves sessions, accepts or rejects offers, says what the bodies answer.

One `WorkerService` per worker, one `CallerSession` per caller that is connected. It looks at versions,
room and bytes only: nothing of a task is unpickled here, and no user code runs here. Begin, cancel and
session-lost go to the routine loop through one FIFO, the runner's mailbox.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections import OrderedDict
from collections.abc import Callable

from wool.discovery.base import WorkerMetadata
from wool.events import OF_WORKERS
from wool.limits import Limits
from wool.observer import Observer
from wool.protocol import frames
from wool.protocol.caller import IllegalEvent
from wool.protocol.flow import body_of
from wool.protocol.frames import Frame, ProtocolError, RejectCode, ResultKind, StepKind
from wool.protocol.handshake import NONCE_BYTES, CallerWords, HandshakeFailed, WorkerHandshake, WorkerWords
from wool.protocol.worker import Do, Event, State
from wool.refusals import Refusals
from wool.serialization import Payload
from wool.session import Session
from wool.statistics import Statistics
from wool.transport.base import Listener, Stream, StreamLost, Transport
from wool.worker.admission import Admission
from wool.worker.door import Door
from wool.worker.job import Job, RunnerLike, Served
from wool.worker.ledger import Ledger, Vitals

_log = logging.getLogger("wool.worker")

SESSION_BYTES = 16


class CallerSession:
    """One caller's session, after the handshake."""

    def __init__(
        self,
        *,
        service: WorkerService,
        runner: RunnerLike,
        stream: Stream,
        caller: CallerWords,
        limits: Limits,
        observer: Observer | None = None,
    ) -> None:
        self.caller = caller
        self.answer_limit: int = min(limits.payload_bytes, caller.payload_bytes)
        self.watched: int = 0
        """The task events that the caller wants, as bits."""
        self._service = service
        self._runner = runner
        self._limits = limits
        self._served: dict[int, Served] = {}
        self._highest = 0
        self._unstarted = 0
        self._unstarted_bytes = 0
        self._count_at = 0
        self._definitions: OrderedDict[bytes, bytes] = OrderedDict()
        self._definition_bytes = 0
        self._idle = asyncio.Event()
        self._idle.set()
        self._interrupted = False
        self.ended: asyncio.Event = asyncio.Event()
        """Set when the session is over and what it started has been abandoned."""
        self.session: Session = Session(
            stream=stream,
            owner=self,
            limits=limits,
            peer_credit_bytes=caller.credit_bytes,
            name=f"wool session with caller {caller.uid[:8]} at {stream.other_end}",
            observer=observer,
            refusals=service.refusals,
        )

    async def run(self) -> None:
        """Serve until the session ends, then abandon what it started."""
        self._runner.session_opened(self.caller.pool)
        try:
            reason = await self.session.run()
            if self._served:
                _log.info("%s ended with %d tasks open: %s", self.session.name, len(self._served), reason)
        finally:
            for served in list(self._served.values()):
                if served.machine.started and served.job is not None:
                    self._service.ledger.abandon(served.job)
                self._do(served, served.machine.handle(Event.LOST))
            self._served.clear()
            self._runner.session_closed(self.caller.pool)
            self._idle.set()
            self.ended.set()

    @property
    def open_tasks(self) -> int:
        """Tasks that have been offered and have not ended."""
        return len(self._served)

    # ---- what the caller says ----

    def on_message(self) -> None:
        """Every message is taken apart frame by frame."""

    def on_head(self, frame: frames.Offer | frames.Step | frames.Result) -> bool:
        """A large payload is announced."""
        if isinstance(frame, frames.Offer):
            return self._offered(frame) is not None
        if isinstance(frame, frames.Step):
            if frame.body.total > self._limits.payload_bytes:
                raise ProtocolError(f"a step of {frame.body.total} bytes, over the limit that was agreed on")
            served = self._find(frame.number)
            if served is None:
                return False
            served.machine.handle(Event.STEP_ANNOUNCED)
            return served.machine.state is State.RESUMING
        raise ProtocolError("a caller does not say Result")

    def on_stray(self, number: int) -> None:
        """A chunk comes too late for anybody."""
        self._find(number)

    def on_frame(self, frame: Frame, payload: Payload | None) -> None:
        """A frame has arrived, its payload complete."""
        if isinstance(frame, frames.Offer):
            assert payload is not None
            served = self._served.get(frame.number) if frame.body.chunked else self._offered(frame)
            if served is not None:
                self._complete(served, payload)
        elif isinstance(frame, frames.Start):
            self._start(frame.number)
        elif isinstance(frame, frames.Cancel):
            served = self._find(frame.number)
            if served is not None:
                message = frame.message and frame.message[: self._limits.text_characters]
                self._do(served, served.machine.handle(Event.CANCEL), frames.Cancel(frame.number, message))
        elif isinstance(frame, frames.Step):
            served = self._find(frame.number)
            if served is not None:
                self._do(served, served.machine.handle(Event.STEP), frame, payload)
        elif isinstance(frame, frames.Withdraw):
            served = self._find(frame.number)
            if served is not None:
                self._do(served, served.machine.handle(Event.WITHDRAW))
        elif isinstance(frame, frames.Watch):
            self.watched = frame.types & OF_WORKERS
        else:
            raise ProtocolError(f"a caller does not say {type(frame).__name__}")

    def _find(self, number: int) -> Served | None:
        served = self._served.get(number)
        if served is None and not 0 < number <= self._highest:
            raise ProtocolError(f"number {number} was never offered")
        return served

    def _offered(self, offer: frames.Offer) -> Served | None:
        if offer.number <= self._highest:
            raise ProtocolError(f"offer {offer.number} comes after offer {self._highest}")
        self._highest = offer.number
        self._check_that_answers_are_read()
        served = Served(offer)
        code, reason = self._service.refuse(offer, self._limits)
        if code is None and not offer.defines and offer.definition not in self._definitions:
            code, reason = RejectCode.UNKNOWN_DEFINITION, "the definition is not known here (any more)"
        if code is RejectCode.TOO_LARGE:  # which a caller that keeps to the limit that it was told does not offer
            self._service.refusals.say("%s: refused an offer of %s", self.session.name, reason)
        if code is not None:
            served.machine.handle(Event.REFUSE)
            self._service.ledger.rejected += 1
            self.session.say(frames.Reject(offer.number, code, reason))
            return None
        unstarted, size = self._unstarted + 1, self._unstarted_bytes + served.size
        if unstarted > 1 and (unstarted > self._limits.window_tasks or size > self._limits.window_bytes):
            raise ProtocolError(f"{unstarted} unstarted offers with {size} bytes: no window")
        self._unstarted, self._unstarted_bytes = unstarted, size
        self._served[offer.number] = served
        return served

    def _check_that_answers_are_read(self) -> None:
        # Results wait there too, and rightly as many as were asked for: so it is counted, but not at each offer.
        most, waiting = self._limits.unread_answers, self.session.outbox.waiting
        if waiting <= most:
            self._count_at = most
        elif waiting > self._count_at:
            if self.session.outbox.answers() > most:
                raise ProtocolError(f"offers go on, and more than {most} answers are not read (unread_answers)")
            self._count_at = waiting + most

    def _complete(self, served: Served, payload: Payload) -> None:
        offer = served.offer
        if offer.defines:
            blob = payload.parts[0]
            served.definition = self._define(
                offer.definition, b"".join(blob) if isinstance(blob, list) else bytes(blob)
            )
            payload = Payload(payload.parts[1:], payload.context)
        else:
            known = self._definitions.get(offer.definition)
            if known is None:
                # Forgotten while the payload was under way.
                self.refuse(served, RejectCode.UNKNOWN_DEFINITION, "the definition is not known any more")
                return
            self._definitions.move_to_end(offer.definition)
            served.definition = known
        served.payload = payload
        if self._service.admission is not None or self._service.door is not None:
            self._park(served)
            return
        self._do(served, served.machine.handle(Event.COMPLETE))

    def _park(self, served: Served) -> None:
        service = self._service
        served.machine.handle(Event.PARK)
        if service.admission is not None:
            service.admission.arrive(self, served, started=service.ledger.in_flight)
        elif service.door is not None:
            service.door.arrive(self, served)

    def admit(self, served: Served) -> None:
        """Accept an offer that the door lets in."""
        self._do(served, served.machine.handle(Event.ADMIT))

    def refuse(self, served: Served, code: RejectCode, reason: str) -> None:
        """Reject an offer that was taken in."""
        self._forget(served.offer.number)
        self._release(served)
        served.machine.handle(Event.REFUSE)
        self._service.ledger.rejected += 1
        self.session.say(frames.Reject(served.offer.number, code, reason))

    def _define(self, digest: bytes, blob: bytes) -> bytes:
        if hashlib.blake2b(blob, digest_size=frames.DIGEST_BYTES).digest() != digest:
            raise ProtocolError("a definition does not have the digest that it is offered under")
        known = self._definitions.pop(digest, None)
        if known is None:
            known = blob
            self._definition_bytes += len(blob)
        self._definitions[digest] = known
        while len(self._definitions) > self._limits.definitions or (
            self._definition_bytes > self._limits.definition_bytes and len(self._definitions) > 1
        ):
            _, forgotten = self._definitions.popitem(last=False)
            self._definition_bytes -= len(forgotten)
        return known

    def _start(self, number: int) -> None:
        served = self._find(number)
        if served is None:
            raise IllegalEvent(f"start of number {number}, which is no accepted offer")
        self._do(served, served.machine.handle(Event.START))
        if self._interrupted:
            self._do(served, served.machine.handle(Event.DRAIN_OVER))

    # ---- doing what a machine says ----

    def _do(
        self, served: Served, do: Do, frame: frames.Cancel | frames.Step | None = None, payload: Payload | None = None
    ) -> None:
        offer = served.offer
        if do is Do.SAY_ACCEPT:
            self._service.ledger.accepted += 1
            self.session.say(frames.Accept(offer.number))
        elif do is Do.BEGIN:
            self._release(served)
            self._begin(served)
        elif do is Do.FORGET:
            self._release(served)
            if (door := self._service.door) is not None:
                door.leave(self, served)
            self._forget(offer.number)
            self.session.forget(offer.number)
        elif do is Do.DELIVER_CANCEL:
            assert served.job is not None
            self._runner.cancel(served.job, frame.message if isinstance(frame, frames.Cancel) else None)
        elif do is Do.DELIVER_STEP:
            assert served.job is not None and isinstance(frame, frames.Step) and payload is not None
            self._runner.step(served.job, frame.kind, payload)
            for cancel in served.cancels:
                self._runner.cancel(served.job, cancel.message)
            served.cancels.clear()
        elif do is Do.KEEP_CANCEL:
            assert isinstance(frame, frames.Cancel)
            if len(served.cancels) >= self._limits.cancels:
                raise ProtocolError(
                    f"more than {self._limits.cancels} cancels of number {offer.number} wait for its step"
                )
            served.cancels.append(frame)
        elif do is Do.CLOSE_GENERATOR:
            assert served.job is not None
            self._runner.close(served.job)
        elif do is Do.ABANDON:
            assert served.job is not None
            self._runner.abandon(served.job)

    def _forget(self, number: int) -> None:
        del self._served[number]
        if not self._served:
            self._idle.set()

    def _release(self, served: Served) -> None:
        self._unstarted -= 1
        self._unstarted_bytes -= served.size
        if (admission := self._service.admission) is not None:
            admission.leave(served)

    def _begin(self, served: Served) -> None:
        offer, payload = served.offer, served.payload
        assert payload is not None
        timeout = offer.dispatch_timeout
        if timeout is None:
            timeout = self._limits.dispatch_timeout_seconds
        elif not timeout > 0:
            timeout = None
        served.job = Job(
            session=self,
            number=offer.number,
            task=offer.task,
            parent=offer.parent,
            digest=offer.definition,
            definition=served.definition,
            arguments=payload,
            dispatch_timeout=timeout,
            trace=offer.trace,
        )
        served.payload = None
        served.counted = False  # from here on the routine loop says what becomes of its place
        self._idle.clear()
        self._service.ledger.begin(served.job)
        self._runner.begin(served.job)

    # ---- what the body says ----

    def answer(self, job: Job, kind: ResultKind, payload: Payload, echo: bool, cancels: int = 0) -> None:
        """Say how a step, or the task, ended. Run on the I/O loop, posted by the runner.

        ``cancels`` is how many cancellations the body has seen in this step.
        """
        served = self._served.get(job.number)
        if served is None:
            return
        do = served.machine.handle(Event.YIELDED if kind is ResultKind.YIELD else Event.FINISHED)
        if do is Do.CLOSE_GENERATOR:
            self._do(served, do)
            return
        if do is Do.SAY_INTERRUPTED and kind is not ResultKind.UNLOADABLE:
            # A body that never began was not interrupted: its caller is told so.
            kind = ResultKind.UNBEGUN if kind is ResultKind.CANCELLED else ResultKind.INTERRUPTED
            payload, echo = Payload((b"",)), False
        if served.machine.state is State.ENDED:
            self._service.ledger.end(job, kind, echo=echo, cancels=cancels)
            self._forget(job.number)
            # A step that was on its way when the task was interrupted is not collected any more.
            self.session.ignore(job.number)
        body, context = body_of(payload, self._limits), bool(payload.context)
        self.session.say(frames.Result(job.number, kind, body, echo, cancels, context), payload)

    def report(self, job: Job, type: int, timestamp: int, kind: StepKind | None, step: int) -> None:
        """Tell the caller what has happened to its task; posted by the runner. ``type`` is a place in `TYPES`."""
        if job.number in self._served:
            self.session.report(frames.Report(job.number, type, timestamp, kind, step))

    def broken(self, reason: str) -> None:
        """An answer that is owed will never come: end the session, so that its caller knows. Posted by the runner."""
        _log.error("%s: %s", self.session.name, reason)
        self.session.abort(reason)

    # ---- drain ----

    def say_draining(self) -> None:
        """Tell the caller to go elsewhere."""
        self.session.say(frames.Draining())

    def interrupt(self) -> None:
        """Drain time is over: end what runs, and what was accepted as soon as it is started."""
        self._interrupted = True
        for served in list(self._served.values()):
            if served.machine.started:
                self._do(served, served.machine.handle(Event.DRAIN_OVER))

    async def wait_idle(self) -> None:
        """Return when no task is accepted or running, or the session has ended."""
        while self._served:
            self._idle.clear()
            await self._idle.wait()


class WorkerService:
    """Accepts sessions on one address and hands started tasks to the routine loop."""

    def __init__(
        self,
        *,
        transport: Transport,
        runner: RunnerLike,
        secret: bytes,
        limits: Limits,
        random_bytes: Callable[[int], bytes],
        vitals: Vitals,
        observer: Observer | None = None,
        door: Door | None = None,
        admission: Admission | None = None,
        protocol: int = frames.PROTOCOL_VERSION,
    ) -> None:
        self._vitals = vitals
        self.door: Door | None = door
        """Where offers wait for a place; None if there is room for all."""
        self.admission: Admission | None = admission
        """Where they wait for the application's word; None if it is not asked."""
        self._observer = observer
        self._protocol = protocol
        self._transport = transport
        self._runner = runner
        self._secret = secret
        self._limits = limits
        self._random_bytes = random_bytes
        self._sessions: dict[CallerSession, None] = {}
        # Those that have still to say who they are, oldest first.
        self._strangers: dict[Stream, None] = {}
        self.refusals: Refusals = Refusals(_log.warning, limits)
        """Tells of callers that were refused, or broke the protocol, at a bounded rate."""
        self._listener: Listener | None = None
        self._metadata: WorkerMetadata | None = None
        self._one_way = False
        self.draining: bool = False
        self.ledger: Ledger = Ledger(asyncio.get_running_loop().time)

    @property
    def started(self) -> int:
        """Tasks started here, ever."""
        return self.ledger.started

    def statistics(self) -> Statistics:
        """Return what the worker has done, and how it is now."""
        return self.ledger.statistics(self._vitals, draining=self.draining, sessions=len(self._sessions))

    async def listen(self, address: str, describe: Callable[[str], WorkerMetadata]) -> WorkerMetadata:
        """Open ``address``; ``describe`` makes the metadata from the address that came of it."""
        self._one_way = self._transport.one_way  # for good: what is asked of callers does not rotate
        self._listener = await self._transport.listen(address, self._serve)
        self._metadata = describe(self._listener.address)
        return self._metadata

    def refuse(self, offer: frames.Offer, limits: Limits) -> tuple[RejectCode | None, str]:
        """Say why an offer is not taken, if it is not: version, room and bytes only."""
        if self.draining:
            return RejectCode.DRAINING, "the worker is draining"
        if offer.body.total > limits.payload_bytes + limits.definition_bytes:
            return RejectCode.TOO_LARGE, f"{offer.body.total} bytes, the limit is {limits.payload_bytes}"
        if self.door is not None and not offer.waits and self.door.is_full:
            return RejectCode.BUSY, self.door.busy
        return None, ""

    async def _serve(self, stream: Stream) -> None:
        if len(self._strangers) >= self._limits.handshakes:
            oldest = next(iter(self._strangers))
            del self._strangers[oldest]
            oldest.abort(f"more than {self._limits.handshakes} handshakes at once (handshakes)")
        self._strangers[stream] = None
        try:
            async with asyncio.timeout(self._limits.handshake_seconds):
                caller = await self._shake_hands(stream)
        except (HandshakeFailed, StreamLost, TimeoutError) as failure:
            why = str(failure) or f"no handshake in {self._limits.handshake_seconds} s (handshake_seconds)"
            self.refusals.say("a caller was refused: %s (at %s)", why, stream.other_end)
            return
        finally:
            self._strangers.pop(stream, None)
        session = CallerSession(
            service=self,
            runner=self._runner,
            stream=stream,
            caller=caller,
            limits=self._limits,
            observer=self._observer,
        )
        self._sessions[session] = None
        try:
            if self.draining:
                session.say_draining()
            await session.run()
        finally:
            del self._sessions[session]

    async def _shake_hands(self, stream: Stream) -> CallerWords:
        metadata = self._metadata
        while metadata is None:  # A caller that is faster than `listen` returns.
            await asyncio.sleep(0)
            metadata = self._metadata
        limits = self._limits
        handshake = WorkerHandshake(
            secret=self._secret,
            nonce=self._random_bytes(NONCE_BYTES),
            words=WorkerWords(
                session=self._random_bytes(SESSION_BYTES),
                metadata=metadata.to_bytes(),
                window_tasks=limits.window_tasks,
                window_bytes=limits.window_bytes,
                payload_bytes=limits.payload_bytes,
                credit_bytes=limits.credit_bytes,
                one_way=self._one_way,
                protocol=self._protocol,
            ),
            admit=lambda words: self._admit(words, metadata),
            statistics=self.statistics,
        )
        try:
            while handshake.peer is None:
                await stream.write(handshake.receive(await stream.read()))
        except HandshakeFailed as failure:
            await stream.write(WorkerHandshake.refusal(failure))
            await stream.close()
            raise
        return handshake.peer

    def _admit(self, words: CallerWords, metadata: WorkerMetadata) -> str | None:
        if words.expects and words.expects != metadata.uid:
            return f"worker {metadata.uid[:8]} is here, not {words.expects[:8]}"
        if len(words.pool) > self._limits.pool_description_bytes:
            return f"a pool description of {len(words.pool)} bytes, over {self._limits.pool_description_bytes}"
        return None

    async def drain(self, seconds: float) -> int:
        """Take no new tasks, let what was accepted go on for ``seconds``, interrupt the rest, wait for it.

        Returns when nothing runs any more, or `Limits.cancel_grace_seconds` after the interruption: how many tasks
        did not come to an end of their own.
        """
        self.draining = True
        for session in self._sessions:
            session.say_draining()
        for waits in (self.admission, self.door):
            if waits is not None:
                waits.close(RejectCode.DRAINING, "the worker is draining")
        if seconds > 0:
            await self._wait_idle(seconds)
        for session in list(self._sessions):
            session.interrupt()
        await self._wait_idle(self._limits.cancel_grace_seconds)
        return self.ledger.interrupted + self.ledger.in_flight

    async def _wait_idle(self, seconds: float) -> None:
        waits = [asyncio.ensure_future(session.wait_idle()) for session in self._sessions if session.open_tasks]
        if waits:
            _, late = await asyncio.wait(waits, timeout=seconds)
            for wait in late:
                wait.cancel()
            if late:
                await asyncio.wait(late)

    async def close(self) -> None:
        """Say goodbye on every session, after what was answered, and free the address; bounded; idempotent."""
        sessions = list(self._sessions)
        for session in sessions:
            session.session.finish("the worker has stopped")
        if sessions:
            waits = [asyncio.ensure_future(session.ended.wait()) for session in sessions]
            _, late = await asyncio.wait(waits, timeout=self._limits.close_seconds)
            for wait in late:
                wait.cancel()
        if self._listener is not None:
            await self._listener.close()
        self.refusals.close()
        await self._transport.close()
