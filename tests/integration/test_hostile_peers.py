"""Who knows the secret and does not keep to the protocol: harms its own session, and nobody else's."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import itertools
import os
import re
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from fixtures import HOST

import wool
from support.faults import until
from support.hostile import MIB, add, served_meanwhile, unharmed
from support.one_loop import metadata_of
from support.peers import RawCaller, RawPeer, RawWorker, returned
from wool.discovery.base import WorkerMetadata
from wool.limits import Limits
from wool.protocol.frames import (
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
    Withdraw,
)
from wool.runtime import current_runtime, real_runtime, set_runtime
from wool.transport.base import StreamLost
from wool.transport.grpc import GrpcTransport
from wool.transport.memory import MemoryNetwork

LIMITS = Limits(handshake_seconds=2.0, refusals=5, unread_answers=2000, window_tasks=64)
MOST_BYTES = 128 * MIB
TASK = bytes(16)
PATIENCE_SECONDS = 3.0
"""For a caller that is not listened to any more."""

pytestmark = pytest.mark.timeout(120)


@pytest.fixture(autouse=True)
def quick() -> Iterator[None]:
    before = current_runtime()
    set_runtime(real_runtime(limits=LIMITS))
    yield
    set_runtime(before)


@asynccontextmanager
async def transport() -> AsyncIterator[GrpcTransport]:
    made = GrpcTransport(LIMITS)
    try:
        yield made
    finally:
        await made.close()


# ---- callers -----------------------------------------------------------------------------------------


def offer(number: int, body: Body, *, defines: bool = True) -> Offer:
    return Offer(number, TASK, bytes([1]) * 16, defines, body)


def _never_started() -> Iterator[list[Frame]]:
    yield [offer(number, Body((1, 1), b"ab"), defines=False) for number in range(1, 2)]
    # With definitions that are what they are said to be, or it would end at the first.
    blob = b"a definition"
    digest = hashlib.blake2b(blob, digest_size=16).digest()
    body = Body((len(blob), 1000), blob + bytes(1000))
    for first in range(2, 10_000, 10):
        yield [Offer(number, TASK, digest, True, body) for number in range(first, first + 10)]


def _never_finished() -> Iterator[list[Frame]]:
    for number in range(1, 60):
        yield [offer(number, Body((1000, 200_000), b"", True)), Chunk(number, bytes(500))]
    for _ in range(10_000):
        yield [Chunk(999, bytes(100_000))]


def _chunks_of_nothing() -> Iterator[list[Frame]]:
    for _ in range(1000):
        yield [Chunk(7, bytes(128 * 1024))]


def _huge_lengths() -> Iterator[list[Frame]]:
    for size in (2**30 + 2**26, 2**40, 2**62):
        yield [offer(size % 1000 + 1, Body((size, size), b"", True))]


def _one_huge_payload() -> Iterator[list[Frame]]:
    yield [offer(1, Body((10, 2**30), b"", True)), *[Chunk(1, b"x" * 5)] * 2]
    for _ in range(30):
        yield [Chunk(1, bytes(1000))]


def _offered_and_withdrawn() -> Iterator[list[Frame]]:
    for first in itertools.count(1, 50):
        said: list[Frame] = []
        for number in range(first, first + 50):
            said += [offer(number, Body((1, 1), b"ab"), defines=False), Withdraw(number)]
        yield said


SAYS = r"wool session with caller raw at 127\.0\.0\.1:\d+: "

CALLERS: dict[str, tuple[Callable[[], Iterator[list[Frame]]], str | None]] = {
    "offers that are never started": (
        _never_started,
        SAYS + r"protocol error: 65 unstarted offers with \d+ bytes: no window",
    ),
    "chunks that are never finished": (_never_finished, SAYS + "protocol error: number 999 was never offered"),
    "chunks of what was never offered": (_chunks_of_nothing, SAYS + "protocol error: number 7 was never offered"),
    "huge lengths": (_huge_lengths, SAYS + r"refused an offer of \d+ bytes, the limit is 1073741824"),
    "one huge payload that never comes": (_one_huge_payload, None),
    "offers without end, and nothing read": (
        _offered_and_withdrawn,
        SAYS + r"protocol error: offers go on, .* are not read \(unread_answers\)",
    ),
    "starts of what was never offered": (
        lambda: iter([[Start(5)]] * 3),
        SAYS + "protocol error: number 5 was never offered",
    ),
    "long words": (
        lambda: iter([[Cancel(1, "x" * (MIB // 2)), Goodbye("y" * (MIB // 2))]]),
        SAYS + "protocol error: number 1 was never offered",
    ),
    "credit without end": (
        lambda: iter([[Credit(2**62)]] * 2),
        SAYS + "protocol error: 4611686018427387904 bytes are acknowledged, more than were sent",
    ),
}
"""What a caller says, and what the worker's log says of it: nothing of one that is only slow, and then goes."""


@pytest.mark.parametrize("how", CALLERS)
async def test_a_caller_that_breaks_the_protocol_takes_bounded_memory_others_are_served_and_the_log_says_so(
    how: str, capfd: pytest.CaptureFixture[str]
) -> None:
    said, says = CALLERS[how]
    async with wool.LocalWorker(host=HOST) as worker, transport() as way:
        async with unharmed(worker, capfd, says=says, most_bytes=MOST_BYTES, most_lines=LIMITS.refusals + 2):
            for _ in range(4):
                await _misbehave(way, worker.metadata, said())


async def _misbehave(way: GrpcTransport, metadata: WorkerMetadata, said: Iterator[list[Frame]]) -> None:
    """Say it all, or until the worker has had enough; read nothing before."""
    peer = await RawCaller.over(way, metadata.address, LIMITS, secret=current_runtime().user_key())
    try:
        async with asyncio.timeout(PATIENCE_SECONDS):
            with contextlib.suppress(StreamLost):
                for frames in said:
                    await peer.say(*frames)
                while True:  # it has all been said; until the worker has heard it
                    await peer.stream.read()
    except TimeoutError:
        pass  # it is not listened to any more: that is its own defence
    finally:
        peer.stream.abort("the test is over")
        await peer.stream.close()


async def test_an_offer_flood_that_reads_nothing_is_told_off_by_name(capfd: pytest.CaptureFixture[str]) -> None:
    async with wool.LocalWorker(host=HOST) as worker, transport() as way:
        peer = await RawCaller.over(way, worker.metadata.address, LIMITS, secret=current_runtime().user_key())
        with contextlib.suppress(StreamLost):
            for frames in _offered_and_withdrawn():
                await peer.say(*frames)
        await peer.stream.close()
        async with wool.WorkerProxy(workers=[worker.metadata]):
            assert await add(1, 2) == 3
    _, printed = capfd.readouterr()
    assert "answers are not read (unread_answers)" in printed


# ---- workers -----------------------------------------------------------------------------------------


@asynccontextmanager
async def lying(**words: Any) -> AsyncIterator[RawWorker]:
    """A worker that knows the secret, and says what the test tells it."""
    async with transport() as way:
        worker = RawWorker(
            MemoryNetwork(), "1" * 32, LIMITS, transport=way, secret=current_runtime().user_key(), **words
        )
        await worker.listen(f"{HOST}:0")
        try:
            yield worker
        finally:
            await worker.close()


class LiarFirst:
    """The lying worker is tried first as long as it is there."""

    def order(self, task: wool.Task, workers: Any) -> Any:
        return sorted(workers, key=lambda status: status.metadata.uid != "1" * 32)


LIES: dict[str, tuple[Callable[[int], list[Frame]], bool, str | None]] = {
    "accepts a task that it was not offered": (
        lambda n: [Accept(n + 1000)],
        False,
        r"protocol error: number 10\d\d was never offered",
    ),
    "accepts twice": (
        lambda n: [Accept(n), Accept(n)],
        True,
        "protocol error: an answer that task [0-9a-f]+ .* does not allow",
    ),
    "sends a result before it accepts": (
        lambda n: [returned(n, "a lie")],
        False,
        "protocol error: an answer that task [0-9a-f]+ .* does not allow",
    ),
    "sends a result of what was never asked": (
        lambda n: [returned(n + 1000, "a lie")],
        False,
        r"protocol error: number 10\d\d was never offered",
    ),
    "sends chunks of what was never asked": (
        lambda n: [Chunk(n + 1000, bytes(MIB))],
        False,
        r"protocol error: number 10\d\d was never offered",
    ),
    "yields what nobody asks for": (
        lambda n: [Accept(n), Result(n, ResultKind.YIELD), Result(n, ResultKind.YIELD)],
        True,
        r"protocol error: an item of number \d+, which is no generator",
    ),
    "announces a result of 4 EiB": (
        lambda n: [Accept(n), Result(n, ResultKind.RETURN, Body((2**62,), b"", True))],
        True,
        r"protocol error: an answer of \d+ bytes, over the limit that was agreed on",
    ),
    "rejects with a book": (
        lambda n: [Reject(n, RejectCode.ADMISSION, "no " * (MIB // 2))],
        False,
        None,
    ),
    "drains, accepts and is silent": (
        lambda n: [Draining(), Accept(n), Goodbye("bye")],
        True,
        None,
    ),
    "acknowledges what was never sent": (
        lambda n: [Credit(2**62)],
        False,
        "protocol error: 4611686018427387904 bytes are acknowledged, more than were sent",
    ),
    "speaks like a caller": (
        lambda n: [Start(n)],
        False,
        "protocol error: a worker does not say Start",
    ),
}
"""What a worker says of an offer, whether that begins the task, and what the caller's log says of it."""


@pytest.mark.parametrize("how", LIES)
async def test_a_worker_that_answers_what_it_was_not_asked_loses_its_session_and_nobody_elses_call(
    how: str, caplog: pytest.LogCaptureFixture
) -> None:
    said, started, says = LIES[how]
    async with lying() as liar, wool.LocalWorker(host=HOST) as honest:
        others = wool.WorkerProxy(workers=[honest.metadata])
        async with served_meanwhile(others, os.getpid(), most_bytes=MOST_BYTES):
            metadata = metadata_of(liar.uid, liar.address)
            async with wool.WorkerProxy(workers=[metadata, honest.metadata], loadbalancer=LiarFirst()):
                victim = asyncio.create_task(add(1, 2))
                peer = await liar.session()
                offered = await peer.expect(Offer)
                with contextlib.suppress(StreamLost):
                    await peer.say(*said(offered.number))
                [outcome] = await asyncio.gather(victim, return_exceptions=True)
                if started:
                    assert isinstance(outcome, wool.WorkerLost), outcome
                    assert outcome.executed == "unknown"
                    assert "worker 11111111 was lost" in str(outcome)
                else:
                    assert outcome == 3
                liar.accepting.clear()
                assert [await add(number, 1) for number in range(5)] == [1, 2, 3, 4, 5]
        assert honest.exit_reason is None
    told = [message for message in caplog.messages if message.startswith("wool session with worker 11111111 at ")]
    if says is not None:
        assert any(re.search(rf"at {re.escape(liar.address)}: {says}", message) for message in told), caplog.messages
    assert len(caplog.messages) <= LIMITS.refusals
    assert max(map(len, caplog.messages), default=0) < 1000


async def test_a_worker_that_says_another_workers_uid_is_refused() -> None:
    async with wool.LocalWorker(host=HOST) as honest, lying() as liar:
        impostor = metadata_of(honest.metadata.uid, liar.address)
        async with wool.WorkerProxy(workers=[impostor]):
            with wool.RuntimeContext(dispatch_timeout=2), pytest.raises(wool.NoWorkersAvailable, match="answers where"):
                await add(1, 2)
        liar.words["metadata"] = honest.metadata.to_bytes()  # with the honest one's address too
        async with wool.WorkerProxy(workers=[impostor]):
            with wool.RuntimeContext(dispatch_timeout=2), pytest.raises(wool.NoWorkersAvailable, match="passes on"):
                await add(1, 2)


async def test_a_worker_that_breaks_the_protocol_again_and_again_is_told_of_at_a_bounded_rate(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with lying() as liar:
        async with wool.WorkerProxy(workers=[metadata_of(liar.uid, liar.address)]):

            async def lie() -> None:
                while True:
                    peer: RawPeer = await liar.session()
                    with contextlib.suppress(StreamLost):
                        await peer.say(Accept(1000))

            lies = asyncio.create_task(lie())
            with wool.RuntimeContext(dispatch_timeout=0.2):
                for _ in range(30):
                    with contextlib.suppress(wool.NoWorkersAvailable):
                        await add(1, 2)
            lies.cancel()
            await asyncio.gather(lies, return_exceptions=True)
    broken = [message for message in caplog.messages if "protocol error" in message and "more were" not in message]
    assert 1 <= len(broken) <= LIMITS.refusals


# ---- forged records ------------------------------------------------------------------------------------


async def test_forged_records_lead_nowhere_and_calls_find_the_honest_worker(caplog: pytest.LogCaptureFixture) -> None:
    """Those that swallow, refuse, speak something else, or claim the honest one's uid."""
    silent = await asyncio.start_server(_swallow, HOST, 0)
    talker = await asyncio.start_server(_talk, HOST, 0)
    ports = [server.sockets[0].getsockname()[1] for server in (silent, talker)]
    async with silent, talker, wool.LocalWorker(host=HOST) as honest:
        forged = [metadata_of(f"{number:032x}", f"{HOST}:{ports[number % 2]}") for number in range(20)]
        forged += [metadata_of(f"{number:032x}", f"{HOST}:1") for number in range(20, 40)]
        forged += [metadata_of("f" * 32, "unix:/nowhere"), metadata_of("e" * 32, "no address at all")]
        async with served_meanwhile(wool.WorkerProxy(workers=[honest.metadata]), os.getpid(), most_bytes=MOST_BYTES):
            async with wool.WorkerProxy(workers=[*forged, honest.metadata]):
                results = await asyncio.gather(*(add(number, 1) for number in range(100)))
                assert results == [number + 1 for number in range(100)]
                loop = asyncio.get_running_loop()
                began = loop.time()
                assert await add(1, 2) == 3
                assert loop.time() - began < 5
        # gRPC ends what it was connecting to after ``handshake_seconds``, whoever has given it up.
        await until(lambda: not _swallowing, LIMITS.handshake_seconds + 10, what="the last connections to end")
    assert len(caplog.messages) <= LIMITS.refusals + 1, caplog.messages


_swallowing: set[asyncio.StreamWriter] = set()


async def _swallow(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    _swallowing.add(writer)
    with contextlib.suppress(OSError):
        while await reader.read(65536):
            pass
    writer.close()
    _swallowing.discard(writer)


async def _talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        writer.write(b"\0" * 100_000)
        await writer.drain()
        await reader.read(1000)
    writer.close()
