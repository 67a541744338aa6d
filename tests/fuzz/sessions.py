"""Targets: a session with a hostile peer, at either end, driven by the production code from first to last."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from typing import Any

from fuzz.choices import Choices
from fuzz.wire import SECRET, SMALL
from wool.connection import Connection
from wool.discovery.base import WorkerMetadata
from wool.errors import RpcError
from wool.protocol import caller, frames
from wool.protocol.caller import CallerTask, IllegalEvent
from wool.protocol.codec import encode
from wool.protocol.flow import Inbox
from wool.protocol.frames import RejectCode, ResultKind, StepKind
from wool.protocol.handshake import CallerWords, WorkerWords
from wool.serialization import Definition, Payload
from wool.task import RoutineKind, Task
from wool.transport.base import StreamLost
from wool.transport.memory import MemoryNetwork, MemoryTransport
from wool.worker.ledger import Vitals
from wool.worker.service import CallerSession, Job, WorkerService

MOST_MESSAGES = 200
PAYLOADS = (Payload((b"",)), Payload((b"x" * 50,)), Payload((b"x" * 300,)), Payload((b"y" * 70, b"z" * 200)))

_loop: asyncio.AbstractEventLoop | None = None


def _run(work: Coroutine[Any, Any, None]) -> None:
    global _loop
    # What a hostile peer is told off for is logged, and nobody reads it here.
    logging.getLogger("wool").setLevel(logging.CRITICAL)
    if _loop is None:
        _loop = asyncio.new_event_loop()
    _loop.run_until_complete(work)


def close_loop() -> None:
    """Close the loop that the targets share."""
    global _loop
    if _loop is not None:
        _loop.close()
        _loop = None
    logging.getLogger("wool").setLevel(logging.NOTSET)


class ScriptedStream:
    """The peer's messages are what the fuzzer chose; between them, things happen at this end."""

    def __init__(self, choices: Choices, happen: Callable[[Choices], None], check: Callable[[], None]) -> None:
        self._choices = choices
        self._happen = happen
        self._check = check
        self._lost = ""
        self._read = 0

    @property
    def other_end(self) -> str:
        return "a fuzzer"

    async def read(self) -> bytes:
        self._check()
        while True:
            if self._lost or not self._choices or self._read == MOST_MESSAGES:
                raise StreamLost(self._lost or "the end")
            kind = self._choices.below(8)
            if kind < 4:
                self._read += 1
                return self._message()
            if kind == 4:
                await asyncio.sleep(0)  # the writer's turn
            elif kind < 7:
                self._happen(self._choices)
                self._check()
            else:
                self._read += 1
                return self._choices.some_bytes()

    def _message(self) -> bytes:
        said = [self._choices.frame() for _ in range(1 + self._choices.below(3))]
        try:
            return encode(said)
        except ValueError:  # a number or size beyond 64 bits
            return b""

    async def write(self, message: bytes) -> None:
        if self._lost:
            raise StreamLost(self._lost)
        assert len(message) <= SMALL.message_bytes

    def abort(self, reason: str) -> None:
        self._lost = self._lost or reason

    async def close(self) -> None:
        self.abort("closed")


def _arriving_bytes(inbox: Inbox) -> int:
    return sum(len(arriving._filling.getbuffer()) for arriving in inbox._arriving.values())


# ---- the worker's end --------------------------------------------------------------------------------


class _Runner:
    """Bodies that do what the fuzzer chose."""

    def __init__(self) -> None:
        self.running: list[Job] = []
        self.suspended: list[Job] = []
        self.begun: set[int] = set()
        self.pools = 0

    def begin(self, job: Job) -> None:
        assert job.number not in self.begun, "a body began twice"
        self.begun.add(job.number)
        self.running.append(job)

    def cancel(self, job: Job, message: str | None) -> None:
        assert job in self.running or job in self.suspended
        assert message is None or len(message) <= SMALL.text_characters

    def step(self, job: Job, kind: StepKind, payload: Payload) -> None:
        self.suspended.remove(job)
        self.running.append(job)

    def close(self, job: Job) -> None:
        if job in self.suspended:
            self.suspended.remove(job)
            self.running.append(job)

    def abandon(self, job: Job) -> None:
        (self.running if job in self.running else self.suspended).remove(job)

    def session_opened(self, pool: bytes) -> None:
        self.pools += 1

    def session_closed(self, pool: bytes) -> None:
        self.pools -= 1


async def _served(data: bytes) -> None:
    choices, runner = Choices(data), _Runner()
    service = WorkerService(
        transport=MemoryTransport(MemoryNetwork(), SMALL),
        runner=runner,
        secret=SECRET,
        limits=SMALL,
        random_bytes=bytes,
        vitals=Vitals(lambda: 0, lambda now: 0.0),
    )

    def happen(choices: Choices) -> None:
        if runner.running and choices.flag():
            job = runner.running[choices.below(len(runner.running))]
            kind = choices.one_of(tuple(ResultKind))
            runner.running.remove(job)
            if kind is ResultKind.YIELD:
                runner.suspended.append(job)
            session.answer(job, kind, choices.one_of(PAYLOADS), choices.flag(), choices.byte())
        elif choices.below(8) == 7:
            session.interrupt()

    def check() -> None:
        unstarted = [served for served in session._served.values() if not served.machine.started]
        assert session._unstarted == len(unstarted)
        assert session._unstarted_bytes == sum(served.size for served in unstarted)
        if not session.session.ended:
            assert len(unstarted) <= SMALL.window_tasks
        assert len(session._definitions) <= SMALL.definitions
        assert session._definition_bytes == sum(map(len, session._definitions.values()))
        assert _arriving_bytes(session.session.inbox) <= (1 + len(session._served)) * (
            SMALL.payload_bytes + SMALL.definition_bytes
        )
        kept = sum(len(served.cancels) for served in session._served.values())
        assert kept <= len(session._served) * SMALL.cancels

    stream = ScriptedStream(choices, happen, check)
    words = CallerWords(uid="c", pool=b"p", payload_bytes=1000, credit_bytes=choices.one_of((1, 100, 2**60)))
    session = CallerSession(service=service, runner=runner, stream=stream, caller=words, limits=SMALL)
    await session.run()
    assert not session._served
    assert not runner.running
    assert not runner.suspended
    assert not runner.pools
    assert session._unstarted == session._unstarted_bytes == 0
    assert service.ledger.in_flight == 0


def session_of_worker(data: bytes) -> None:
    """Whatever a caller that knows the secret says, its session is served or ended, and its books come out even."""
    _run(_served(data))


# ---- the caller's end --------------------------------------------------------------------------------


class _Call:
    """A call as a connection knows it, with the machine that decides."""

    def __init__(self, definition: Definition, arguments: Payload, kind: RoutineKind) -> None:
        self.task = Task(key=bytes(16), routine="m:f", kind=kind, caller="c")
        self.definition = definition
        self.arguments = arguments
        self.dispatch_timeout: float | None = SMALL.dispatch_timeout_seconds
        self.machine = CallerTask()
        self.events = None
        self.parked = False
        self.number = 0
        self.starts = 0
        self.ends = 0


class _Owner:
    """What the proxy does with a connection, for one worker and without retries."""

    def __init__(self) -> None:
        self.calls: list[_Call] = []
        self.lost_with: RpcError | None = None

    def perform(self, connection: Connection, call: _Call, said: caller.Instructions) -> None:
        call.machine.validate()
        for each in said:
            if isinstance(each, caller.Start):
                call.starts += 1
                assert call.starts == 1, "start was said twice"
                connection.start(each.number)
            elif isinstance(each, caller.Withdraw):
                connection.withdraw(each.number)
            elif isinstance(each, caller.Cancel):
                connection.cancel(each.number, "why")
            elif isinstance(each, caller.CloseSession):
                connection.session.violation("not allowed here")
            elif isinstance(each, caller.End):
                call.ends += 1
                assert call.ends == 1, "two outcomes of one call"
                connection.forget(call.number)

    def accepted(self, connection: Connection, call: _Call, number: int) -> None:
        self.perform(connection, call, call.machine.accept(connection, number))

    def rejected(self, connection: Connection, call: _Call, number: int, code: RejectCode, reason: str) -> None:
        assert len(reason) <= SMALL.text_characters
        self.perform(connection, call, call.machine.reject(connection, number))

    def answered(
        self,
        connection: Connection,
        call: _Call,
        number: int,
        event: caller.Event,
        result: frames.Result,
        payload: Payload,
    ) -> None:
        assert payload.size <= SMALL.payload_bytes
        assert event is not caller.Event.YIELD or call.task.kind == "generator"
        self.perform(connection, call, call.machine.result(connection, number, event))

    def draining(self, connection: Connection) -> None: ...

    def heard(self, connection: Connection) -> None: ...

    def has_room(self, connection: Connection) -> None: ...

    def lost(self, connection: Connection, reason: RpcError) -> None:
        assert self.lost_with is None
        self.lost_with = reason
        for call in self.calls:
            self.perform(connection, call, call.machine.lost(connection))


async def _calling(data: bytes) -> None:
    choices, owner = Choices(data), _Owner()
    definitions = [Definition(bytes([n]) * 16, b"blob" * (1 + 40 * n), "m:f", False) for n in range(3)]

    def happen(choices: Choices) -> None:
        what = choices.below(5)
        if what == 0 and len(owner.calls) < 8:
            kind: RoutineKind = "coroutine" if choices.below(4) == 3 else "generator"
            call = _Call(choices.one_of(definitions), choices.one_of(PAYLOADS), kind)
            if connection.has_room_for(call):
                owner.calls.append(call)
                call.number = connection.next_number()
                call.machine.offer(connection, call.number)
                connection.offer(call.number, call)
            return
        if not owner.calls:
            return
        call = choices.one_of(owner.calls)
        if what == 1:
            owner.perform(connection, call, call.machine.cancel())
        elif what == 2:
            owner.perform(connection, call, call.machine.impatient(connection, call.number))
        elif what == 3:
            owner.perform(connection, call, call.machine.grace_over())
        elif call.machine.state in (caller.State.IDLE, caller.State.GONE):
            said = call.machine.step(cancelled=choices.flag())
            if any(isinstance(each, caller.Step) for each in said):
                connection.step(call.number, choices.one_of(tuple(StepKind)), choices.one_of((None, *PAYLOADS)))
            owner.perform(connection, call, said)

    def check() -> None:
        assert len(connection._calls) <= len(owner.calls)
        assert len(connection._told_to_close) <= len(owner.calls)
        assert connection._unstarted_bytes == sum(connection._unstarted.values())
        assert len(connection._defined) <= SMALL.definitions
        assert len(connection.session._heads) <= len(owner.calls)
        assert _arriving_bytes(connection.session.inbox) <= (1 + len(owner.calls)) * SMALL.payload_bytes

    stream = ScriptedStream(choices, happen, check)
    words = WorkerWords(
        session=b"s" * 16,
        metadata=b"",
        window_tasks=choices.one_of((1, 4, 2**32 - 1)),
        window_bytes=choices.one_of((1, 1000, 2**60)),
        payload_bytes=1000,
        credit_bytes=choices.one_of((1, 100, 2**60)),
    )
    metadata = WorkerMetadata(uid="w", address="unix:/w", pid=1, version="1")
    connection = Connection(stream=stream, peer=words, metadata=metadata, limits=SMALL)
    await connection.run(owner)
    assert owner.lost_with is not None
    for call in owner.calls:
        if call.machine.state is caller.State.GONE:
            owner.perform(connection, call, call.machine.step())
        elif call.machine.state is caller.State.QUEUED:
            owner.perform(connection, call, call.machine.exhausted())
        assert call.ends == 1, f"no outcome: {call.machine.state.name}"
        assert call.starts <= 1


def session_of_caller(data: bytes) -> None:
    """Whatever a worker says, each call has one outcome, and start is said once at most."""
    _run(_calling(data))


# ---- the machine alone: two workers that lie -----------------------------------------------------------


def machine_of_caller(data: bytes) -> None:
    """Any events in any order: start once at most, one end at most, and an illegal event changes nothing."""
    choices, machine = Choices(data), CallerTask()
    starts = ends = 0
    while choices:
        session, number = choices.one_of(("a", "b")), choices.below(3)
        before = machine.state, list(machine.offers), machine.started
        said: caller.Instructions = ()
        try:
            match choices.below(11):
                case 0:
                    if (session, number) not in machine.offers:
                        said = machine.offer(session, number)
                case 1:
                    said = machine.exhausted()
                case 2:
                    said = machine.expired()
                case 3:
                    said = machine.cancel()
                case 4:
                    said = machine.impatient(session, number)
                case 5:
                    said = machine.step(cancelled=choices.flag())
                case 6:
                    said = machine.grace_over()
                case 7:
                    said = machine.accept(session, number)
                case 8:
                    said = machine.reject(session, number)
                case 9:
                    said = machine.lost(session)
                case _:
                    kinds = (caller.Event.YIELD, caller.Event.RETURN, caller.Event.RAISE, caller.Event.INTERRUPTED)
                    said = machine.result(session, number, choices.one_of(kinds))
        except IllegalEvent:
            assert (machine.state, machine.offers, machine.started) == before
        machine.validate()
        starts += sum(isinstance(each, caller.Start) for each in said)
        ends += sum(isinstance(each, caller.End) for each in said)
        assert starts <= 1
        assert ends <= 1
