"""What a worker takes and refuses, whatever its callers say; a caller that breaks the protocol harms itself alone."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from support import bodies
from support.one_loop import QUICK, Cluster, cluster, until
from support.peers import RawCaller, in_chunks
from wool.definition import define
from wool.limits import KIB, Limits
from wool.protocol import wire_pb2
from wool.protocol.flow import Inbox
from wool.protocol.frames import (
    EMPTY,
    Accept,
    Body,
    Cancel,
    Chunk,
    Credit,
    Draining,
    Frame,
    Goodbye,
    Offer,
    Reject,
    RejectCode,
    Result,
    ResultKind,
    Start,
    Step,
    StepKind,
    Withdraw,
)
from wool.protocol.handshake import HandshakeFailed
from wool.serialization import dumps, loads
from wool.transport.base import StreamLost
from wool.transport.memory import MemoryTransport


def limits(**changes: Any) -> Limits:
    return dataclasses.replace(QUICK, **changes)


@pytest.fixture(autouse=True)
def clean() -> Iterator[None]:
    bodies.reset()
    yield
    bodies.reset()


@asynccontextmanager
async def served(limits: Limits = QUICK) -> AsyncIterator[tuple[Cluster, RawCaller]]:
    """A worker, and a caller that speaks to it frame by frame."""
    async with cluster("a", limits=limits) as made:
        caller = await RawCaller.connect(made.network, "unix:/a", made.limits)
        try:
            yield made, caller
        finally:
            caller.stream.abort("the test is over")
            await caller.stream.close()


async def begin(caller: RawCaller, function: Any, *args: Any, defines: bool = True) -> int:
    """Offer, hear accept, say start."""
    offer = caller.offer(function, *args, defines=defines, limits=QUICK)
    await caller.say(offer)
    assert await caller.expect(Accept) == Accept(offer.number)
    await caller.say(Start(offer.number))
    return offer.number


# ---- offer, accept, start ----------------------------------------------------------------------------


async def test_nothing_begins_before_start() -> None:
    async with served() as (made, caller):
        await caller.say(caller.offer(bodies.echo, 1, limits=QUICK))
        await caller.expect(Accept)
        await asyncio.sleep(0.05)
        assert not bodies.begun
        await caller.say(Start(1))
        result = await caller.expect(Result)
        assert (result.number, result.kind) == (1, ResultKind.RETURN)
        assert made.workers["a"].service.started == 1


async def test_an_accept_does_not_expire() -> None:
    async with served(limits(stall_seconds=0.01)) as (made, caller):
        await caller.say(caller.offer(bodies.echo, 1, limits=QUICK))
        await caller.expect(Accept)
        drain = asyncio.ensure_future(made.workers["a"].service.drain(5))
        await caller.expect(Draining)
        await asyncio.sleep(0.3)
        await caller.say(Start(1))
        await caller.expect(Result)
        await drain


async def test_a_withdrawn_offer_is_forgotten_and_its_room_is_free() -> None:
    async with served(limits(window_tasks=1)) as (made, caller):
        for _ in range(5):
            offer = caller.offer(bodies.echo, 1, limits=QUICK)
            await caller.say(offer, Withdraw(offer.number))
            assert await caller.expect(Accept) == Accept(offer.number)
        (session,) = made.workers["a"].sessions
        assert (session.open_tasks, session._unstarted, session._unstarted_bytes) == (0, 0, 0)


async def test_what_crosses_the_end_of_a_task_is_nothing() -> None:
    async with served() as (_, caller):
        number = await begin(caller, bodies.echo, 1)
        await caller.expect(Result)
        await caller.say(Cancel(number), Step(number, StepKind.NEXT), Withdraw(number))
        assert await begin(caller, bodies.echo, 2) == number + 1
        await caller.expect(Result)


async def test_a_cancel_before_the_first_step_means_that_the_body_never_begins() -> None:
    async with served() as (made, caller):
        made.workers["a"].to_routines.hold()
        number = await begin(caller, bodies.echo, 1)
        await caller.say(Cancel(number))
        await made.settle()
        made.workers["a"].to_routines.release()
        assert (await caller.expect(Result)).kind is ResultKind.CANCELLED
        assert not bodies.begun


async def test_a_session_lost_before_start_drops_the_offer() -> None:
    async with served() as (made, caller):
        await caller.say(caller.offer(bodies.echo, 1, limits=QUICK))
        await caller.expect(Accept)
        caller.stream.abort("gone")
        await until(lambda: not made.workers["a"].sessions)
        await made.settle()
        assert not bodies.begun


async def test_a_session_lost_cancels_the_bodies_and_closes_the_generators() -> None:
    async with served() as (made, caller):
        await begin(caller, bodies.wait_for, "gate")
        number = await begin(caller, bodies.count, 3)
        assert (await caller.expect(Result)).number == number
        caller.stream.abort("gone")
        await until(lambda: not made.workers["a"].runner.running)
        assert {"gate finally", "count finally"} <= set(bodies.story)


async def test_a_session_lost_while_a_large_step_arrives_closes_the_generator() -> None:
    async with served() as (made, caller):
        number = await begin(caller, bodies.count, 3)
        await caller.expect(Result)
        await caller.say(Step(number, StepKind.SEND, Body((100_000,), b"", True)), Chunk(number, bytes(10)))
        await made.settle()
        caller.stream.abort("gone")
        await until(lambda: not made.workers["a"].runner.running)
        assert bodies.story == ["count finally"]


async def test_an_offer_in_chunks_is_accepted_when_the_last_has_come() -> None:
    async with served() as (_, caller):
        offer = caller.offer(bodies.echo, bytes(100), limits=limits(inline_bytes=10))
        parts = dumps(((bytes(100),), {})).parts
        assert offer.body.chunked
        blob = offer.body.sizes[0]
        definition = define(bodies.echo)
        assert len(definition.blob) == blob
        first, *rest = in_chunks(offer.number, definition.blob, 7) + in_chunks(offer.number, bytes(parts[0]), 30)  # type: ignore[arg-type]
        await caller.say(offer, first)
        for chunk in rest:
            await caller.say(chunk)
        await caller.expect(Accept)
        await caller.say(Start(offer.number))
        assert loads_result(await caller.expect(Result)) == bytes(100)


def loads_result(result: Result) -> Any:
    payload = Inbox().open(result.number, result.body)
    assert payload is not None
    return loads(payload)


# ---- refusing ----------------------------------------------------------------------------------------


async def test_an_unknown_definition_is_rejected_and_nothing_else_happens() -> None:
    async with served() as (_, caller):
        await caller.say(caller.offer(bodies.echo, 1, defines=False, limits=QUICK))
        reject = await caller.expect(Reject)
        assert (reject.number, reject.code) == (1, RejectCode.UNKNOWN_DEFINITION)
        await begin(caller, bodies.echo, 2)
        await caller.expect(Result)
        await begin(caller, bodies.echo, 3, defines=False)
        await caller.expect(Result)


async def test_a_definition_forgotten_while_arguments_are_under_way_is_rejected_and_leaves_nothing() -> None:
    async with served(limits(definitions=1)) as (made, caller):
        await begin(caller, bodies.echo, 1)
        await caller.expect(Result)
        large = caller.offer(bodies.echo, 2, defines=False, limits=QUICK)
        data = large.body.inline
        await caller.say(large._replace(body=Body((len(data),), b"", True)))
        await caller.say(caller.offer(bodies.blob, 1, limits=QUICK))  # Pushes it out.
        assert await caller.expect(Accept) == Accept(3)
        (session,) = made.workers["a"].sessions
        await caller.say(Withdraw(3))
        await until(lambda: session.open_tasks == 1)
        idle = asyncio.ensure_future(session.wait_idle())
        await made.settle()
        await caller.say(Chunk(large.number, data))
        reject = await caller.expect(Reject)
        assert (reject.number, reject.code) == (large.number, RejectCode.UNKNOWN_DEFINITION)
        await asyncio.wait_for(idle, 1)
        assert (session.open_tasks, session._unstarted, session._unstarted_bytes) == (0, 0, 0)


async def test_a_draining_worker_rejects_at_the_head_and_drops_the_rest() -> None:
    async with served() as (made, caller):
        await until(lambda: made.workers["a"].sessions)
        made.workers["a"].service.draining = True
        offer = caller.offer(bodies.echo, 1, limits=QUICK)
        await caller.say(offer._replace(body=Body((10, 1000), b"", True)))
        reject = await caller.expect(Reject)
        assert (reject.number, reject.code) == (1, RejectCode.DRAINING)
        await caller.say(Chunk(1, bytes(10)), Chunk(1, bytes(500)), Chunk(1, bytes(500)))
        made.workers["a"].service.draining = False
        await begin(caller, bodies.echo, 2)
        await caller.expect(Result)


async def test_chunks_of_what_was_never_offered_break_the_protocol_and_late_ones_do_not() -> None:
    async with served() as (made, caller):
        await until(lambda: made.workers["a"].sessions)
        await begin(caller, bodies.echo, 1)
        await caller.expect(Result)
        await caller.say(Chunk(1, bytes(10)))
        await begin(caller, bodies.echo, 2)
        await caller.expect(Result)
        with contextlib.suppress(StreamLost):
            await caller.say(Chunk(3, bytes(10)))
        await caller.expect_end()


async def test_an_offer_over_the_limit_is_rejected_at_its_head_and_told_of_in_the_log(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with served(limits(payload_bytes=1000, definition_bytes=1000)) as (_, caller):
        offer = caller.offer(bodies.echo, 1, limits=QUICK)
        await caller.say(offer._replace(body=Body((10, 2**40), b"", True)))
        reject = await caller.expect(Reject)
        assert (reject.number, reject.code) == (1, RejectCode.TOO_LARGE)
        assert "1000" in reject.reason
    assert any("refused an offer of 1099511627786 bytes, the limit is 1000" in message for message in caplog.messages)


async def test_a_caller_that_comes_while_the_worker_drains_is_told_first() -> None:
    async with cluster("a") as made:
        made.workers["a"].service.draining = True
        caller = await RawCaller.connect(made.network, "unix:/a", made.limits)
        assert await caller.expect(Draining) == Draining()
        await caller.stream.close()


# ---- callers that break the protocol -----------------------------------------------------------------


def offer(caller: RawCaller, **changes: Any) -> Offer:
    return caller.offer(bodies.echo, 1, limits=QUICK)._replace(**changes)


HOSTILE: dict[str, Callable[[RawCaller], list[Frame]]] = {
    "starts what was never offered": lambda caller: [Start(1)],
    "starts twice": lambda caller: [offer(caller), Start(1), Start(1)],
    "starts before all has arrived": lambda caller: [offer(caller, body=Body((9, 9), b"", True)), Start(1)],
    "starts what was rejected": lambda caller: [offer(caller, defines=False), Start(1)],
    "starts what it has withdrawn": lambda caller: [offer(caller), Withdraw(1), Start(1)],
    "withdraws what it has started": lambda caller: [
        caller.offer(bodies.wait_for, "victim", limits=QUICK),
        Start(1),
        Withdraw(1),
    ],
    "cancels what was never offered": lambda caller: [Cancel(9)],
    "cancels before start": lambda caller: [offer(caller), Cancel(1)],
    "steps while the body runs": lambda caller: [
        caller.offer(bodies.wait_for, "victim", limits=QUICK),
        Start(1),
        Step(1, StepKind.NEXT),
    ],
    "announces a step while the body runs": lambda caller: [
        caller.offer(bodies.wait_for, "victim", limits=QUICK),
        Start(1),
        Step(1, StepKind.SEND, Body((50_000,), b"", True)),
    ],
    "steps what was never offered": lambda caller: [Step(9, StepKind.NEXT)],
    "offers a number twice": lambda caller: [offer(caller), offer(caller, number=1)],
    "offers numbers that go backwards": lambda caller: [offer(caller, number=7), offer(caller, number=3)],
    "offers number zero": lambda caller: [offer(caller, number=0)],
    "offers with the wrong digest": lambda caller: [offer(caller, definition=bytes(16))],
    "overruns the window": lambda caller: [offer(caller) for _ in range(QUICK.window_tasks + 1)],
    "overruns the window in bytes": lambda caller: [
        offer(caller),
        offer(caller, body=Body((10, QUICK.window_bytes), b"", True)),
    ],
    "sends more than it announced": lambda caller: [offer(caller, body=Body((3, 3), b"", True)), Chunk(1, bytes(4))],
    "speaks like a worker": lambda caller: [Accept(1)],
    "says a result": lambda caller: [Result(1, ResultKind.RETURN, EMPTY)],
    "announces a result": lambda caller: [Result(1, ResultKind.RETURN, Body((9,), b"", True))],
    "acknowledges what it was never sent": lambda caller: [Credit(1)],
}


@pytest.mark.parametrize("how", HOSTILE)
async def test_a_caller_that_breaks_the_protocol_loses_its_session_and_harms_nobody_else(how: str) -> None:
    async with served() as (made, caller):
        bystander = made.spawn(bodies.wait_for, "bystander")
        await until(lambda: "bystander begun" in bodies.story)
        with contextlib.suppress(StreamLost):
            await caller.say(*HOSTILE[how](caller))
        await caller.expect_end()
        await until(lambda: len(made.workers["a"].sessions) == 1)
        bodies.gates["bystander"].set()
        assert await bystander == "bystander"
        assert await made.call(bodies.echo, "next") == "next"
        assert max(bodies.begun.values()) == 1
        await until(lambda: not made.workers["a"].runner.running)


async def test_a_step_over_the_limit_ends_the_session() -> None:
    async with served(limits(payload_bytes=1000)) as (made, caller):
        number = await begin(caller, bodies.count, 3)
        await caller.expect(Result)
        with contextlib.suppress(StreamLost):
            await caller.say(Step(number, StepKind.SEND, Body((2000,), b"", True)))
        await caller.expect_end()
        await until(lambda: "count finally" in bodies.story)
        assert made.workers["a"].service.started == 1


@pytest.mark.parametrize("message", [b"garbage", b"\xff" * 100, b"", wire_pb2.Handshake().SerializeToString()])
async def test_garbage_instead_of_a_handshake_is_refused_and_the_worker_goes_on(message: bytes) -> None:
    async with cluster("a") as made:
        stream = await MemoryTransport(made.network, QUICK).connect("unix:/a")
        await stream.write(message)
        refusal = wire_pb2.Handshake.FromString(await asyncio.wait_for(stream.read(), 2))
        assert refusal.WhichOneof("step") == "refusal"
        with pytest.raises(StreamLost):
            await asyncio.wait_for(stream.read(), 2)
        await stream.close()
        assert await made.call(bodies.echo, 1) == 1


async def test_whoever_says_nothing_is_let_go_after_the_handshake_time() -> None:
    async with cluster("a", limits=limits(handshake_seconds=0.05)) as made:
        stream = await MemoryTransport(made.network, QUICK).connect("unix:/a")
        with pytest.raises(StreamLost):
            await asyncio.wait_for(stream.read(), 2)
        await stream.close()


async def test_a_pool_description_over_the_limit_is_refused() -> None:
    async with cluster("a", limits=limits(pool_description_bytes=2)) as made:
        with pytest.raises(HandshakeFailed, match="pool description of 3 bytes"):
            await RawCaller.connect(made.network, "unix:/a", made.limits)


# ---- the end -----------------------------------------------------------------------------------------


async def test_the_worker_says_goodbye_after_all_that_it_has_answered() -> None:
    async with served(limits(close_seconds=2)) as (made, caller):
        number = await begin(caller, bodies.blob, 300 * KIB)
        await until(lambda: bodies.begun)
        await made.settle()
        close = asyncio.ensure_future(made.workers["a"].service.close())
        head = await caller.expect(Result)
        missing = head.body.total
        while missing:
            chunk = await caller.expect(Chunk)
            assert chunk.number == number
            missing -= len(chunk.data)
        assert isinstance(await caller.hear(), Goodbye)
        await caller.expect_end()
        await close


async def test_close_is_bounded_with_a_caller_that_takes_nothing_in() -> None:
    async with served(limits(close_seconds=0.1)) as (made, caller):
        await begin(caller, bodies.blob, 30_000 * KIB)
        await until(lambda: bodies.begun)
        await made.settle()
        loop = asyncio.get_running_loop()
        begun = loop.time()
        await made.workers["a"].service.close()
        assert loop.time() - begun < 2
        await made.workers["a"].service.close()


async def test_an_interrupted_task_collects_no_more_of_a_step_on_its_way() -> None:
    async with served() as (made, caller):
        number = await begin(caller, bodies.count, 3)
        await caller.expect(Result)
        await caller.say(Step(number, StepKind.SEND, Body((100_000,), b"", True)), Chunk(number, bytes(10)))
        await made.settle()
        await made.workers["a"].service.drain(0.01)
        assert await caller.expect(Draining) == Draining()
        assert (await caller.expect(Result)).kind is ResultKind.INTERRUPTED
        (session,) = made.workers["a"].sessions
        assert not session.session._heads
        assert not session.session.inbox._arriving
        await caller.say(Chunk(number, bytes(10)))
        await made.settle()
        assert len(made.workers["a"].sessions) == 1


async def test_more_cancels_of_a_step_on_its_way_than_are_kept_end_the_session() -> None:
    async with served(limits(cancels=3)) as (made, caller):
        number = await begin(caller, bodies.count, 3)
        await caller.expect(Result)
        await caller.say(Step(number, StepKind.SEND, Body((100_000,), b"", True)), *[Cancel(number)] * 3)
        await made.settle()
        (session,) = made.workers["a"].sessions
        assert len(session._served[number].cancels) == 3
        with contextlib.suppress(StreamLost):
            await caller.say(Cancel(number))
        await caller.expect_end()
        await until(lambda: "count finally" in bodies.story)


async def test_the_message_of_a_cancel_is_cut_where_it_is_kept_and_where_it_is_delivered() -> None:
    async with served(limits(text_characters=5)) as (made, caller):
        number = await begin(caller, bodies.count, 3)
        await caller.expect(Result)
        await caller.say(Step(number, StepKind.SEND, Body((100_000,), b"", True)), Cancel(number, "x" * 1000))
        await made.settle()
        (session,) = made.workers["a"].sessions
        assert session._served[number].cancels == [Cancel(number, "x" * 5)]


# ---- what strangers, and callers that know the secret, may take up ------------------------------------


async def test_of_more_handshakes_than_there_is_room_for_the_oldest_is_given_up_and_others_are_served() -> None:
    async with served(limits(handshakes=3, handshake_seconds=30)) as (made, caller):
        transport = MemoryTransport(made.network, made.limits)
        silent = [await transport.connect("unix:/a") for _ in range(10)]
        await made.settle()
        assert len(made.workers["a"].service._strangers) == 3
        for stream in silent[:7]:
            with pytest.raises(StreamLost, match="more than 3 handshakes at once"):
                await stream.read()
        # Among them somebody honest comes, and one who is known goes on.
        another = await RawCaller.connect(made.network, "unix:/a", made.limits)
        for honest in (another, caller):
            await begin(honest, bodies.echo, 1)
            await honest.expect(Result)
        for stream in (*silent, another.stream):
            stream.abort("the test is over")
            await stream.close()
        await until(lambda: not made.workers["a"].service._strangers)


@pytest.mark.parametrize("how", ["rejected", "withdrawn"])
async def test_a_caller_that_offers_on_and_on_and_reads_nothing_loses_its_session(how: str) -> None:
    async with served(limits(unread_answers=50, unix_lookahead_bytes=1)) as (made, caller):
        await until(lambda: made.workers["a"].sessions)
        (session,) = made.workers["a"].sessions
        most = 0
        with contextlib.suppress(StreamLost):
            for _ in range(2000):
                offer = caller.offer(bodies.echo, 1, defines=how == "withdrawn", limits=QUICK)
                await caller.say(offer, *([Withdraw(offer.number)] if how == "withdrawn" else []))
                await asyncio.sleep(0)
                most = max(most, session.session.outbox.waiting)
            pytest.fail("it was never told off")
        assert most <= 2 * 50 + 2
        await until(lambda: session not in made.workers["a"].sessions)
        assert await made.call(bodies.echo, "another") == "another"


async def test_results_that_wait_for_a_slow_caller_are_no_unread_answers() -> None:
    async with served(limits(unread_answers=5, unix_lookahead_bytes=1)) as (made, caller):
        await until(lambda: made.workers["a"].sessions)
        (session,) = made.workers["a"].sessions
        numbers = [await begin(caller, bodies.wait_for, "gate") for _ in range(30)]
        numbers.append(await begin(caller, bodies.echo, "unread"))
        await until(lambda: session.open_tasks == 30)
        bodies.gates["gate"].set()
        await until(lambda: session.session.outbox.waiting > 20)
        last = caller.offer(bodies.echo, "last", limits=QUICK)
        await caller.say(last, Start(last.number))
        heard = [await caller.hear() for _ in range(len(numbers) + 2)]
        assert {frame.number for frame in heard if isinstance(frame, Result)} == {*numbers, last.number}


async def test_refusals_are_logged_at_a_bounded_rate_and_counted(caplog: pytest.LogCaptureFixture) -> None:
    async with served(limits(refusals=3)) as (made, _):
        transport = MemoryTransport(made.network, made.limits)
        for _ in range(20):
            stream = await transport.connect("unix:/a")
            await stream.write(b"who?")
            with contextlib.suppress(StreamLost):
                while True:
                    await stream.read()
            await stream.close()
        assert sum("a caller was refused" in message for message in caplog.messages) == 3
    assert any("17 more were refused in" in message for message in caplog.messages)
