"""A session ends once and says why; what is queued before a goodbye leaves before it."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from support.one_loop import QUICK, until
from wool.limits import KIB, Limits
from wool.protocol.codec import encode
from wool.protocol.flow import body_of
from wool.protocol.frames import (
    Accept,
    Chunk,
    Credit,
    Draining,
    Frame,
    Goodbye,
    Offer,
    ProtocolError,
    Result,
    ResultKind,
    Start,
    Step,
)
from wool.serialization import Payload
from wool.session import Session
from wool.transport.base import Stream
from wool.transport.memory import MemoryNetwork, MemoryTransport

SMALL = dataclasses.replace(QUICK, chunk_bytes=4 * KIB, credit_bytes=16 * KIB, inline_bytes=1 * KIB)


class Owner:
    """Writes down what its session tells it."""

    def __init__(self) -> None:
        self.heard: list[tuple[Frame, Payload | None]] = []
        self.messages = 0
        self.strays: list[int] = []
        self.wanted = True
        self.fault: Exception | None = None

    def on_message(self) -> None:
        self.messages += 1

    def on_head(self, frame: Offer | Step | Result) -> bool:
        return self.wanted

    def on_stray(self, number: int) -> None:
        if self.fault is not None:
            raise self.fault
        self.strays.append(number)

    def on_frame(self, frame: Frame, payload: Payload | None) -> None:
        if self.fault is not None:
            raise self.fault
        self.heard.append((frame, payload))


class Pair:
    """Two sessions over one stream."""

    def __init__(self, near: Stream, far: Stream, limits: Limits) -> None:
        self.streams = [near, far]
        self.owners = [Owner(), Owner()]
        self.sessions = [
            Session(
                stream=stream, owner=owner, limits=limits, peer_credit_bytes=limits.credit_bytes, name=f"session {name}"
            )
            for stream, owner, name in zip(self.streams, self.owners, "ab", strict=True)
        ]
        self.runs = [asyncio.ensure_future(session.run()) for session in self.sessions]


@asynccontextmanager
async def pair(limits: Limits = SMALL) -> AsyncIterator[Pair]:
    transport = MemoryTransport(MemoryNetwork(), limits)
    accepted: asyncio.Queue[Stream] = asyncio.Queue()
    done = asyncio.Event()

    async def serve(stream: Stream) -> None:
        accepted.put_nowait(stream)
        await done.wait()

    listener = await transport.listen("unix:/s", serve)
    made = Pair(await transport.connect("unix:/s"), await accepted.get(), limits)
    try:
        yield made
    finally:
        for session in made.sessions:
            session.abort("the test is over")
        await asyncio.gather(*made.runs, return_exceptions=True)
        done.set()
        await listener.close()


def result(number: int, size: int) -> tuple[Result, Payload]:
    payload = Payload((bytes(size),))
    return Result(number, ResultKind.RETURN, body_of(payload, SMALL)), payload


async def test_frames_arrive_in_order_and_packed() -> None:
    async with pair() as made:
        near, far = made.sessions[0], made.owners[1]
        for number in range(1, 1001):
            near.say(Start(number))
        await until(lambda: len(far.heard) == 1000)
        assert [frame for frame, _ in far.heard] == [Start(number) for number in range(1, 1001)]
        assert far.messages < 100


@pytest.mark.parametrize("size", [0, 100, 5 * KIB, 100 * KIB])
async def test_payloads_arrive_whole_both_ways_at_once(size: int) -> None:
    async with pair() as made:
        for session in made.sessions:
            for number in (1, 2, 3):
                session.say(*result(number, size))
        await until(lambda: all(len(owner.heard) == 3 for owner in made.owners))
        for owner in made.owners:
            assert [payload.size for _, payload in owner.heard if payload is not None] == [size] * 3
        for session in made.sessions:
            assert not session._heads


async def test_a_small_frame_overtakes_a_large_payload() -> None:
    async with pair() as made:
        near, far = made.sessions[0], made.owners[1]
        near.say(*result(1, 400 * KIB))
        await until(lambda: made.sessions[1]._heads)
        near.say(Accept(2))
        await until(lambda: len(far.heard) == 2)
        assert far.heard[0] == (Accept(2), None)


async def test_what_nobody_wants_is_dropped_and_its_credit_comes_back() -> None:
    async with pair() as made:
        near, far = made.sessions[0], made.owners[1]
        far.wanted = False
        near.say(*result(1, 200 * KIB))
        await until(lambda: not near.outbox.unfinished)
        far.wanted = True
        near.say(*result(2, 200 * KIB))
        await until(lambda: far.heard)
        assert far.heard[0][0].number == 2  # type: ignore[union-attr]


async def test_what_is_forgotten_in_mid_transfer_holds_up_nobody() -> None:
    async with pair() as made:
        near, far = made.sessions
        near.say(*result(1, 500 * KIB))
        await until(lambda: far._heads)
        near.forget(1)
        far.forget(1)
        near.say(*result(2, 50 * KIB))
        await until(lambda: made.owners[1].heard)
        assert [frame.number for frame, _ in made.owners[1].heard] == [2]  # type: ignore[union-attr]
        assert not far._heads
        assert not far.inbox._arriving


@pytest.mark.parametrize("size", [10, 400 * KIB])
async def test_a_goodbye_comes_after_all_that_was_said_before(size: int) -> None:
    async with pair() as made:
        near, far = made.sessions
        credit = far.inbox.credit
        far.inbox.credit = lambda: None  # type: ignore[method-assign]
        near.say(*result(1, size))
        near.say(Draining())
        near.finish("for today")
        near.finish("again")
        # What is large comes to a halt for want of credit: the goodbye must not take its chance.
        await asyncio.sleep(0.02)
        far.inbox.credit = credit  # type: ignore[method-assign]
        if (owed := credit()) is not None:
            far.say(owed)
        assert "for today" in await asyncio.wait_for(made.runs[1], 5)
        assert {type(frame) for frame, _ in made.owners[1].heard} == {Result, Draining}
        await asyncio.wait_for(made.runs[0], 5)
        assert near.ended
        assert far.ended
        assert not near.violated
        assert not far.violated


async def test_what_the_other_end_wrote_before_it_ended_is_heard_though_nothing_can_be_said_any_more() -> None:
    transport = MemoryTransport(MemoryNetwork(), SMALL)
    heard: asyncio.Future[tuple[str, list[Frame]]] = asyncio.get_running_loop().create_future()
    ended = asyncio.Event()

    async def serve(stream: Stream) -> None:
        await ended.wait()
        owner = Owner()
        session = Session(
            stream=stream, owner=owner, limits=SMALL, peer_credit_bytes=SMALL.credit_bytes, name="session b"
        )
        session.say(Draining())  # its writer finds that nothing leaves, before its reader has read a thing
        heard.set_result((await session.run(), [frame for frame, _ in owner.heard]))

    listener = await transport.listen("unix:/s", serve)
    near = await transport.connect("unix:/s")
    for number in range(20):
        await near.write(encode([Accept(number)]))
    await near.close()
    ended.set()
    reason, frames = await asyncio.wait_for(heard, 5)
    assert frames == [Accept(number) for number in range(20)]
    assert reason == "ended by the other end"
    await listener.close()


async def test_after_the_end_what_is_said_is_dropped() -> None:
    async with pair() as made:
        near = made.sessions[0]
        near.abort("enough")
        near.abort("again")
        assert await asyncio.wait_for(made.runs[0], 5) == "enough"
        near.say(Start(1))
        near.finish("late")
        assert not near.outbox
        assert "enough" in await asyncio.wait_for(made.runs[1], 5)


async def test_a_stream_that_breaks_ends_the_session_with_the_reason() -> None:
    async with pair() as made:
        made.streams[1].abort("the cable was cut")
        assert "the cable was cut" in await asyncio.wait_for(made.runs[0], 5)
        assert not made.sessions[0].violated


async def test_cancelling_the_run_ends_the_session_and_leaves_no_task() -> None:
    async with pair() as made:
        made.sessions[0].say(*result(1, 1000 * KIB))
        await asyncio.sleep(0)
        made.runs[0].cancel()
        with pytest.raises(asyncio.CancelledError):
            await made.runs[0]
        assert made.sessions[0].ended
        await asyncio.wait_for(made.runs[1], 5)
        assert not [task for task in asyncio.all_tasks() if "writer" in task.get_name()]


@pytest.mark.parametrize(
    "message",
    [
        b"\xff\xff",
        encode([Chunk(1, b"")]) + b"\x0a\x00",
        encode([Credit(1)]),
        encode([Start(1)]) + bytes(10),
    ],
)
async def test_what_is_no_packet_or_no_honest_one_is_a_violation(message: bytes) -> None:
    async with pair() as made:
        await made.streams[1].write(message)
        assert "protocol error" in await asyncio.wait_for(made.runs[0], 5)
        assert made.sessions[0].violated


async def test_a_fault_that_its_owner_finds_is_a_violation() -> None:
    async with pair() as made:
        made.owners[0].fault = ProtocolError("number 7 was never offered")
        made.sessions[1].say(Start(7))
        assert "number 7 was never offered" in await asyncio.wait_for(made.runs[0], 5)
        assert made.sessions[0].violated
        assert not made.sessions[1].violated


async def test_after_a_violation_nothing_more_of_the_message_is_heard() -> None:
    async with pair() as made:
        await made.streams[1].write(encode([Start(1), Credit(99), Start(2)]))
        await asyncio.wait_for(made.runs[0], 5)
        assert [frame for frame, _ in made.owners[0].heard] == [Start(1)]


async def test_a_goodbye_with_a_long_reason_is_cut() -> None:
    async with pair(dataclasses.replace(SMALL, text_characters=100)) as made:
        await made.streams[1].write(encode([Goodbye("x" * 10_000)]))
        assert len(await asyncio.wait_for(made.runs[0], 5)) < 200


async def test_a_goodbye_is_one_line_that_is_no_command_to_a_terminal() -> None:
    async with pair() as made:
        await made.streams[1].write(encode([Goodbye("bye\nWARNING all is well\x1b[2J")]))
        assert "bye\\nWARNING all is well\\x1b[2J" in await asyncio.wait_for(made.runs[0], 5)


async def test_a_frame_that_cannot_be_written_ends_the_session_instead_of_silencing_it() -> None:
    async with pair() as made:
        made.sessions[0].say(Goodbye("\ud800"))
        assert "cannot be written" in await asyncio.wait_for(made.runs[0], 5)
        await asyncio.wait_for(made.runs[1], 5)
