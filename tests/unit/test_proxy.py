"""Where calls go, what they end with, and that nothing is left of them: the whole engine in one loop."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import itertools
import logging
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest

from support import bodies
from support.one_loop import (
    QUICK,
    Cluster,
    Worker,
    all_sizes,
    cluster,
    holders,
    metadata_of,
    of_another_python,
    until,
)
from support.peers import RawWorker, returned
from wool.admission import Terms
from wool.balancer import WorkerStatus
from wool.discovery.base import DiscoveryEvent
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
from wool.limits import KIB, MOST_GONE, MOST_NAMED, Limits
from wool.link import LinkState
from wool.protocol.frames import (
    Accept,
    Body,
    Chunk,
    Credit,
    Draining,
    Goodbye,
    Offer,
    Reject,
    RejectCode,
    Result,
    ResultKind,
    Start,
    Withdraw,
)
from wool.task import Task
from wool.transport.base import ConnectFailed, ConnectRefused, Stream, StreamLost
from wool.transport.memory import MemoryTransport


def limits(**changes: Any) -> Limits:
    return dataclasses.replace(QUICK, **changes)


@pytest.fixture(autouse=True)
def clean() -> Iterator[None]:
    bodies.reset()
    yield
    bodies.reset()


def in_flight(made: Cluster) -> dict[str, int]:
    return {status.metadata.uid: status.in_flight for status in made.proxy.workers()}


def started(made: Cluster) -> dict[str, int]:
    return {uid: worker.service.started for uid, worker in made.workers.items()}


@asynccontextmanager
async def raw(made: Cluster, *uids: str, announce: bool = True, **words: Any) -> AsyncIterator[list[RawWorker]]:
    """Workers whose sessions the test serves itself."""
    workers = [RawWorker(made.network, uid, made.limits, **words) for uid in uids]
    for worker in workers:
        await worker.listen()
        if announce:
            made.announce(worker.uid)
    try:
        yield workers
    finally:
        for worker in workers:
            await worker.close()


# ---- the plain way -----------------------------------------------------------------------------------


async def test_a_call_returns_what_the_body_returned() -> None:
    async with cluster("a") as made:
        assert await made.call(bodies.echo, {"key": [1, 2]}) == {"key": [1, 2]}


async def test_a_call_raises_what_the_body_raised() -> None:
    async with cluster("a") as made:
        with pytest.raises(LookupError, match="no"):
            await made.call(bodies.fail, "no")


async def test_a_generator_goes_step_by_step() -> None:
    async with cluster("a") as made:
        stream = made.stream(bodies.count, 2)
        assert await stream.next() == 0
        assert await stream.send("sent") == "sent"
        assert await stream.next() == 1
        assert (await stream.step()).kind is ResultKind.RETURN
        assert bodies.story == ["sent sent", "count finally"]
        assert in_flight(made) == {"a": 0}


@pytest.mark.parametrize("size", [0, 1, 40 * KIB, 300 * KIB])
async def test_payloads_of_any_size_go_there_and_back(size: int) -> None:
    async with cluster("a", limits=limits(chunk_bytes=64 * KIB, credit_bytes=200 * KIB)) as made:
        value = bytes(size)
        assert await made.call(bodies.echo, value) == value
        stream = made.stream(bodies.count, 1)
        await stream.next()
        assert await stream.send(value) == (value or b"")


async def test_peers_whose_limits_differ_still_talk() -> None:
    async with cluster(limits=limits(chunk_bytes=64 * KIB, credit_bytes=128 * KIB)) as made:
        await made.add("a", limits=limits(chunk_bytes=2 * KIB, credit_bytes=5 * KIB))
        value = bytes(500 * KIB)
        assert await made.call(bodies.echo, value) == value


async def test_many_calls_at_once_all_have_their_own_answer() -> None:
    async with cluster("a", "b", "c", limits=limits(window_tasks=7)) as made:
        assert await asyncio.gather(*(made.call(bodies.echo, number) for number in range(500))) == list(range(500))
        assert set(in_flight(made).values()) == {0}
        assert len(bodies.begun) == 500
        assert set(bodies.begun.values()) == {1}


# ---- placement ---------------------------------------------------------------------------------------

PATIENT_SECONDS = 10.0
"""Who is slow to connect is passed over: where all are to get as much, a busy machine must not make anybody slow."""


@pytest.mark.parametrize("calls", [1, 10, 11, 100])
async def test_round_robin_differs_by_at_most_one(calls: int) -> None:
    async with cluster("a", "b", "c", limits=limits(patience_seconds=PATIENT_SECONDS)) as made:
        for _ in range(calls):
            await made.call(bodies.echo, 1)
        counts = started(made).values()
        assert max(counts) - min(counts) <= 1


@pytest.mark.parametrize("window", [1, 3, 1000])
async def test_round_robin_differs_by_at_most_one_also_concurrently_and_with_windows_full(window: int) -> None:
    patient = limits(window_tasks=window, patience_seconds=PATIENT_SECONDS)
    async with cluster("a", "b", "c", limits=patient) as made:
        await asyncio.gather(*(made.call(bodies.echo, number) for number in range(200)))
        counts = started(made).values()
        assert max(counts) - min(counts) <= 1


async def test_a_call_waits_until_discovery_names_the_first_worker() -> None:
    async with cluster() as made:
        call = made.spawn(bodies.echo, 1)
        await made.settle()
        assert not call.done()
        await made.add("a")
        assert await call == 1


async def test_nobody_within_the_dispatch_timeout_is_a_dispatch_timeout() -> None:
    async with cluster() as made:
        with pytest.raises(DispatchTimeout, match=r"within 0.03 s") as timeout:
            await made.call(bodies.echo, 1, dispatch_timeout=0.03)
        assert isinstance(timeout.value, TimeoutError)
        assert timeout.value.executed == "no"


async def test_discovery_that_ended_without_anybody_keeps_no_call_waiting() -> None:
    async with cluster() as made:
        call = made.spawn(bodies.echo, 1)
        await made.settle()
        failure = OSError("discovery broke")
        made.proxy.discovery_ended(failure)
        with pytest.raises(NoWorkersAvailable) as nobody:
            await call
        assert nobody.value.__cause__ is failure
        with pytest.raises(NoWorkersAvailable):
            await made.call(bodies.echo, 1)


async def test_a_worker_that_rejects_is_not_asked_again_and_the_next_one_is() -> None:
    async with cluster(balancer=Fixed("a", "b")) as made, raw(made, "a") as (worker,):
        await made.add("b")
        call = made.spawn(bodies.echo, 1)
        peer = await worker.session()
        offer = await peer.expect(Offer)
        await peer.say(Reject(offer.number, RejectCode.ADMISSION, "not now"))
        assert await call == 1
        assert started(made) == {"b": 1}
        assert await peer.silent()


async def test_all_refuse_is_no_workers_available_with_a_reason_per_worker() -> None:
    async with cluster() as made, raw(made, "a", "b") as workers:
        made.announce("nobody")
        call = made.spawn(bodies.echo, 1)

        async def refuse(worker: RawWorker) -> None:
            peer = await worker.session()
            offer = await peer.expect(Offer)
            await peer.say(Reject(offer.number, RejectCode.ADMISSION, f"{worker.uid} is full"))

        await asyncio.gather(*map(refuse, workers))
        with pytest.raises(NoWorkersAvailable) as nobody:
            await call
        reasons = nobody.value.reasons
        assert set(reasons) == {"a", "b", "nobody"}
        assert "a is full" in str(reasons["a"])
        assert "b is full" in str(reasons["b"])
        assert "nobody listens" in str(reasons["nobody"])
        assert all(isinstance(reason, TransientRpcError) for reason in reasons.values())
        assert nobody.value.executed == "no"
        assert not bodies.begun


async def test_suspects_are_tried_last_whatever_the_order() -> None:
    async with cluster("b", balancer=Fixed("nobody", "b")) as made:
        made.announce("nobody")
        assert await made.call(bodies.echo, 1) == 1
        assert made.link("nobody").status.suspect
        before = started(made)["b"]
        await asyncio.gather(*(made.call(bodies.echo, 1) for _ in range(20)))
        assert started(made)["b"] == before + 20


class Fixed:
    """Orders by name; leaves out who is not named."""

    def __init__(self, *uids: str) -> None:
        self.uids = uids

    def order(self, task: Task, workers: Sequence[WorkerStatus], /) -> Iterable[WorkerStatus]:
        known = {status.metadata.uid: status for status in workers}
        return [known[uid] for uid in self.uids if uid in known]


class Wordless(Exception):
    pass


class Unspeakable(Exception):
    def __str__(self) -> str:
        raise Wordless


class Broken:
    """A load balancer that fails in one way or another."""

    def __init__(self, how: str) -> None:
        self.how = how

    def order(self, task: Task, workers: Sequence[WorkerStatus], /) -> Any:
        if self.how == "raises":
            raise LookupError("the balancer's own")
        if self.how == "raises without a word":
            raise Wordless
        if self.how == "raises what cannot be shown":
            raise Unspeakable
        if self.how == "raises later":
            return (1 / 0 for _ in workers)
        if self.how == "no candidates":
            return [object()]
        if self.how == "goes on for ever":
            return itertools.repeat(WorkerStatus(metadata_of("stranger", "unix:/stranger")))
        return None


async def test_a_load_balancer_may_repeat_itself_but_not_for_ever() -> None:
    class Repeating(Fixed):
        times = 0

        def order(self, task: Task, workers: list[WorkerStatus], /) -> Iterator[WorkerStatus]:
            stranger = WorkerStatus(metadata_of("stranger", "unix:/stranger"))
            return itertools.chain(itertools.repeat(stranger, self.times), workers)

    balancer = Repeating("a")
    async with cluster("a", balancer=balancer) as made:
        balancer.times = MOST_NAMED
        assert await made.call(bodies.echo, 1) == 1
        balancer.times = MOST_NAMED + 1
        with pytest.raises(NoWorkersAvailable, match=f"it has named workers {MOST_NAMED + 1} times and goes on"):
            await made.call(bodies.echo, 1)


@pytest.mark.parametrize("how", ["raises", "raises later", "no candidates", "nothing to iterate", "goes on for ever"])
async def test_a_load_balancer_that_fails_fails_the_call_and_nothing_else(how: str) -> None:
    async with cluster("a", balancer=Broken(how)) as made:
        with pytest.raises(NoWorkersAvailable, match="load balancer failed") as nobody:
            await made.call(bodies.echo, 1)
        assert nobody.value.__cause__ is not None
        assert nobody.value.executed == "no"
        assert started(made) == {"a": 0}
        assert in_flight(made) == {"a": 0}
        made.proxy._balancer = Fixed("a")
        assert await made.call(bodies.echo, 1) == 1


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ("raises", "LookupError: the balancer's own"),
        ("raises without a word", "Wordless (without a message)"),
        ("raises what cannot be shown", "Unspeakable: <str() raised "),
    ],
)
async def test_what_a_load_balancer_raises_is_named_whatever_it_says_of_itself(how: str, words: str) -> None:
    async with cluster("a", balancer=Broken(how)) as made:
        with pytest.raises(NoWorkersAvailable) as nobody:
            await made.call(bodies.echo, 1)
        assert words in str(nobody.value)
        made.proxy._balancer = Fixed("a")
        assert await made.call(bodies.echo, 1) == 1


async def test_strangers_that_a_load_balancer_names_are_passed_over() -> None:
    class Strangers:
        def order(self, task: Task, workers: Sequence[WorkerStatus], /) -> Iterable[WorkerStatus]:
            yield WorkerStatus(metadata_of("stranger", "unix:/stranger"))
            yield from workers
            yield from workers

    async with cluster("a", balancer=Strangers()) as made:
        assert await made.call(bodies.echo, 1) == 1
        assert in_flight(made) == {"a": 0}


async def test_whom_a_load_balancer_leaves_out_is_not_tried_and_the_error_says_so() -> None:
    async with cluster("a", "b", balancer=Fixed("b")) as made:
        for _ in range(5):
            await made.call(bodies.echo, 1)
        assert started(made) == {"a": 0, "b": 5}
        made.proxy._balancer = Fixed()
        with pytest.raises(NoWorkersAvailable) as nobody:
            await made.call(bodies.echo, 1)
        assert set(nobody.value.reasons) == {"a", "b"}


# ---- definitions -------------------------------------------------------------------------------------


async def test_a_definition_travels_once_per_session() -> None:
    async with cluster() as made, raw(made, "a") as (worker,):
        calls = [made.spawn(bodies.echo, number) for number in range(3)]
        peer = await worker.session()
        offers = [await peer.expect(Offer) for _ in calls]
        assert [offer.defines for offer in offers] == [True, False, False]
        for offer in offers:
            await peer.say(Accept(offer.number))
        for number, offer in enumerate(offers):
            await peer.expect(Start)
            await peer.say(returned(offer.number, number))
        assert await asyncio.gather(*calls) == [0, 1, 2]


async def test_an_unknown_definition_is_sent_again_and_not_tried_elsewhere() -> None:
    async with cluster() as made, raw(made, "a", "b") as (worker, other):
        made.proxy._balancer = Fixed("a", "b")
        first = made.spawn(bodies.echo, 1)
        peer = await worker.session()
        offer = await peer.expect(Offer)
        await peer.say(Accept(offer.number), returned(offer.number, 1))
        await peer.expect(Start)
        second = made.spawn(bodies.echo, 2)
        offer = await peer.expect(Offer)
        assert not offer.defines
        await peer.say(Reject(offer.number, RejectCode.UNKNOWN_DEFINITION, "forgotten"))
        again = await peer.expect(Offer)
        assert again.defines
        assert again.task == offer.task
        assert again.number > offer.number
        await peer.say(Accept(again.number))
        await peer.expect(Start)
        await peer.say(returned(again.number, 2))
        assert await second == 2
        assert other.connected == 0
        await asyncio.wait([first])


async def test_a_worker_that_does_not_know_what_it_was_just_told_breaks_the_protocol() -> None:
    async with cluster() as made, raw(made, "a") as (worker,):
        call = made.spawn(bodies.echo, 1)
        peer = await worker.session()
        for _ in range(100):
            try:
                offer = await peer.expect(Offer)
                await peer.say(Reject(offer.number, RejectCode.UNKNOWN_DEFINITION, "never heard of it"))
            except Exception:
                break
        else:
            pytest.fail("it was told a hundred times")
        with pytest.raises(NoWorkersAvailable) as nobody:
            await call
        assert isinstance(nobody.value.reasons["a"], UnexpectedResponse)


async def test_definitions_are_bounded_on_both_sides_and_forgotten_ones_are_sent_again() -> None:
    def routine(number: int) -> Any:
        async def body() -> int:
            return number

        return body

    routines = [routine(number) for number in range(12)]
    async with cluster("a", limits=limits(definitions=3)) as made:
        for _ in range(3):
            for number, function in enumerate(routines):
                assert await made.call(function) == number
        assert await asyncio.gather(*(made.call(function) for function in routines * 3)) == list(range(12)) * 3
        connection = made.link("a").connection
        assert connection is not None
        assert len(connection._defined) <= 3
        (session,) = made.workers["a"].sessions
        assert len(session._definitions) <= 3
        assert session._definition_bytes == sum(map(len, session._definitions.values()))


async def test_definitions_are_bounded_in_bytes() -> None:
    def routine(data: bytes) -> Any:
        async def body() -> int:
            return len(data)

        return body

    async with cluster("a", limits=limits(definition_bytes=20_000)) as made:
        for size in (9_000, 9_001, 9_002, 9_003):
            assert await made.call(routine(bytes(size))) == size
        (session,) = made.workers["a"].sessions
        assert session._definition_bytes <= 20_000


async def test_a_definition_larger_than_the_window_is_offered_alone_and_breaks_no_session() -> None:
    data = bytes(90_000)

    async def large() -> int:
        return len(data)

    async with cluster("a", limits=limits(window_bytes=20_000, definition_bytes=30_000)) as made:
        assert await made.call(bodies.echo, 0) == 0
        worker = made.workers["a"]
        connection = made.link("a").connection
        calls = [
            made.spawn(bodies.echo, bytes(5_000)),
            made.spawn(large),
            made.spawn(bodies.echo, 1),
            made.spawn(large),
        ]
        assert [len(value) if isinstance(value, bytes) else value for value in await asyncio.gather(*calls)] == [
            5_000,
            90_000,
            1,
            90_000,
        ]
        assert made.link("a").connection is connection, "the session is still the same"
        assert len(worker.sessions) == 1


# ---- the window --------------------------------------------------------------------------------------


async def test_a_full_window_is_waiting_at_the_caller_and_never_rejection() -> None:
    async with cluster(limits=limits(window_tasks=2)) as made, raw(made, "a") as (worker,):
        calls = [made.spawn(bodies.echo, number) for number in range(5)]
        peer = await worker.session()
        first, second = await peer.expect(Offer), await peer.expect(Offer)
        await made.settle()
        assert in_flight(made) == {"a": 5}
        await peer.say(Accept(first.number))
        assert (await peer.expect(Start)).number == first.number
        third = await peer.expect(Offer)
        await peer.say(Accept(second.number), Accept(third.number))
        heard = [await peer.hear() for _ in range(4)]
        assert {type(frame) for frame in heard} == {Start, Offer}
        offers = [frame for frame in heard if isinstance(frame, Offer)]
        for offer in offers:
            await peer.say(Accept(offer.number))
            await peer.expect(Start)
        for number, offer in enumerate([first, second, third, *offers]):
            await peer.say(returned(offer.number, number))
        assert await asyncio.gather(*calls) == [0, 1, 2, 3, 4]


async def test_a_payload_larger_than_the_window_goes_alone() -> None:
    async with cluster("a", limits=limits(window_bytes=50_000)) as made:
        values = [bytes(200_000), b"small", bytes(40_000), bytes(200_000), bytes(40_000)]
        assert await asyncio.gather(*(made.call(bodies.echo, value) for value in values)) == values
        assert len(made.workers["a"].sessions) == 1


async def test_arguments_over_the_limit_say_task_size_and_setting_and_blame_nobody() -> None:
    async with cluster("a", limits=limits(payload_bytes=1000)) as made:
        assert await made.call(bodies.echo, 1) == 1
        with pytest.raises(SerializationError, match=r"arguments of task .*echo.* take \d+ bytes.*1000.*payload_bytes"):
            await made.call(bodies.echo, bytes(2000))
        assert in_flight(made) == {"a": 0}
        assert not made.link("a").status.suspect


async def test_arguments_over_one_workers_limit_go_to_another() -> None:
    async with cluster(balancer=Fixed("small", "large")) as made:
        await made.add("small", limits=limits(payload_bytes=1000))
        await made.add("large")
        assert await made.call(bodies.echo, bytes(2000)) == bytes(2000)
        assert started(made) == {"small": 0, "large": 1}
        made.drop("large")
        with pytest.raises(NoWorkersAvailable, match="at most 1000 bytes"):
            await made.call(bodies.echo, bytes(2000))


async def test_a_result_over_the_limit_is_the_bodys_failure() -> None:
    async with cluster("a", limits=limits(payload_bytes=3000)) as made:
        with pytest.raises(SerializationError, match=r"3000.*payload_bytes") as failure:
            await made.call(bodies.blob, 5000)
        assert failure.value.executed == "yes"
        assert await made.call(bodies.blob, 10) == bytes(10)


async def test_an_item_sent_in_over_the_limit_is_refused_and_the_generator_can_be_closed() -> None:
    async with cluster("a", limits=limits(payload_bytes=3000)) as made:
        stream = made.stream(bodies.count, 5)
        await stream.next()
        with pytest.raises(SerializationError, match="payload_bytes"):
            await stream.send(bytes(5000))
        await stream.close()
        assert bodies.story == ["count finally"]


# ---- patience ----------------------------------------------------------------------------------------


async def test_patience_over_the_offer_is_withdrawn_and_another_worker_asked() -> None:
    async with cluster(balancer=Fixed("frozen", "b")) as made, raw(made, "frozen") as (worker,):
        await made.add("b")
        assert await made.call(bodies.echo, 1) == 1
        peer = await worker.session()
        offer = await peer.expect(Offer)
        assert await peer.expect(Withdraw) == Withdraw(offer.number)
        assert made.link("frozen").status.suspect
        assert started(made) == {"b": 1}


async def test_a_late_accept_of_a_withdrawn_offer_never_starts() -> None:
    async with cluster(balancer=Fixed("slow", "b")) as made, raw(made, "slow") as (worker,):
        await made.add("b")
        assert await made.call(bodies.echo, 1) == 1
        peer = await worker.session()
        offer = await peer.expect(Offer)
        await peer.say(Accept(offer.number))
        await peer.expect(Withdraw)
        await made.settle()
        assert not made.link("slow").status.suspect, "it has been heard again"
        call = made.spawn(bodies.echo, 2)
        following = await peer.expect(Offer)  # And no start between.
        await peer.say(Accept(following.number))
        assert await peer.expect(Start) == Start(following.number)
        await peer.say(returned(following.number, 2))
        assert await call == 2


async def test_a_suspect_whose_session_lives_is_tried_by_one_call_after_a_while_and_then_used_again() -> None:
    async with cluster(balancer=Fixed("slow", "b")) as made, raw(made, "slow") as (worker,):
        await made.add("b")
        assert await made.call(bodies.echo, 1) == 1
        peer = await worker.session()
        offer = await peer.expect(Offer)
        assert await peer.expect(Withdraw) == Withdraw(offer.number)
        link = made.link("slow")
        assert link.status.suspect
        await until(lambda: link.half_open)
        trial, other = made.spawn(bodies.echo, 2), made.spawn(bodies.echo, 3)
        assert await other == 3, "only one call tries"
        following = await peer.expect(Offer)
        await peer.say(Accept(following.number))
        assert await peer.expect(Start) == Start(following.number)
        await peer.say(returned(following.number, 2))
        assert await trial == 2
        assert not link.status.suspect


async def test_a_suspect_whose_trial_was_never_offered_anything_is_tried_again() -> None:
    small = limits(payload_bytes=3000)
    async with cluster(balancer=Fixed("slow", "b"), limits=small) as made, raw(made, "slow") as (worker,):
        await made.add("b")
        assert await made.call(bodies.echo, 1) == 1
        peer = await worker.session()
        offer = await peer.expect(Offer)
        assert await peer.expect(Withdraw) == Withdraw(offer.number)
        link = made.link("slow")
        await until(lambda: link.half_open)
        with pytest.raises(SerializationError, match="payload_bytes"):
            await made.call(bodies.echo, bytes(4000))
        assert link.status.suspect
        await until(lambda: link.half_open)
        trial = made.spawn(bodies.echo, 2)
        following = await peer.expect(Offer)
        await peer.say(Accept(following.number))
        assert await peer.expect(Start) == Start(following.number)
        await peer.say(returned(following.number, 2))
        assert await trial == 2
        assert not link.status.suspect


async def test_a_suspect_that_does_not_answer_its_trial_stays_suspect() -> None:
    async with cluster(balancer=Fixed("frozen", "b")) as made, raw(made, "frozen"):
        await made.add("b")
        link = made.link("frozen")
        assert await made.call(bodies.echo, 1) == 1
        for number in range(2):
            await until(lambda: link.half_open)
            assert await made.call(bodies.echo, number) == number
            assert link.status.suspect
            assert not link.half_open
        assert started(made) == {"b": 3}


async def test_a_frozen_single_worker_is_waited_for_until_the_dispatch_timeout() -> None:
    async with cluster() as made, raw(made, "frozen") as (worker,):
        with pytest.raises(DispatchTimeout) as timeout:
            await made.call(bodies.echo, 1, dispatch_timeout=0.3)
        assert set(timeout.value.reasons) == {"frozen"}
        peer = await worker.session()
        offer = await peer.expect(Offer)
        assert await peer.expect(Withdraw) == Withdraw(offer.number)
        assert in_flight(made) == {"frozen": 0}


async def test_a_worker_that_takes_in_what_it_was_sent_is_heard_though_it_has_not_answered() -> None:
    async with cluster(
        balancer=Fixed("slow", "b"), limits=limits(chunk_bytes=64 * KIB, credit_bytes=150 * KIB)
    ) as made:
        async with raw(made, "slow") as (worker,):
            await made.add("b")
            value = bytes(600 * KIB)
            assert await made.call(bodies.echo, value) == value  # Stalled for want of credit: given to b.
            assert made.link("slow").status.suspect
            peer = await worker.session()
            await peer.say(Credit(64 * KIB))
            await until(lambda: not made.link("slow").status.suspect)


async def test_an_upload_that_moves_is_not_a_worker_that_is_silent() -> None:
    async with cluster(
        balancer=Fixed("slow", "b"), limits=limits(chunk_bytes=64 * KIB, credit_bytes=128 * KIB)
    ) as made:
        async with raw(made, "slow") as (worker,):
            await made.add("b")
            value = bytes(1024 * KIB)
            call = made.spawn(bodies.echo, value)
            peer = await worker.session()
            offer = await peer.expect(Offer)
            missing = offer.body.total
            while missing:
                chunk = await peer.expect(Chunk)
                missing -= len(chunk.data)
                await asyncio.sleep(QUICK.patience_seconds / 2)
                await peer.say(Credit(len(chunk.data)))
            await peer.say(Accept(offer.number))
            await peer.expect(Start)
            await peer.say(returned(offer.number, "done"))
            assert await call == "done"


async def test_a_worker_that_is_slow_to_connect_keeps_nobody_from_another() -> None:
    # Long, beside what ten calls take on a busy machine.
    within = limits(patience_seconds=0.5, handshake_seconds=10)
    async with (
        cluster("b", balancer=Fixed("slow", "b"), limits=within) as made,
        raw(made, "slow", announce=False) as (worker,),
    ):
        worker.accepting.clear()
        made.announce("slow")
        loop = asyncio.get_running_loop()
        begun = loop.time()
        assert await made.call(bodies.echo, 1) == 1
        assert loop.time() - begun < within.handshake_seconds
        begun = loop.time()
        await asyncio.gather(*(made.call(bodies.echo, 1) for _ in range(10)))
        assert loop.time() - begun < within.patience_seconds


async def test_of_many_workers_that_say_nothing_a_call_waits_for_the_first_and_then_for_all_at_once() -> None:
    """Anybody on a network may have announced them: each in its turn would cost a patience."""
    silent = [f"silent-{number}" for number in range(40)]
    within = limits(patience_seconds=0.2, handshake_seconds=10)
    async with (
        cluster("z", balancer=Fixed(*silent, "z"), limits=within) as made,
        raw(made, *silent, announce=False) as workers,
    ):
        for worker in workers:
            worker.accepting.clear()
            made.announce(worker.uid)
        loop = asyncio.get_running_loop()
        begun = loop.time()
        assert await made.call(bodies.echo, 1) == 1
        assert loop.time() - begun < 5 * within.patience_seconds


async def test_while_a_worker_is_slow_to_connect_so_many_others_are_asked_as_the_limit_says() -> None:
    silent = [f"silent-{number}" for number in range(20)]
    within = limits(patience_seconds=0.3, handshake_seconds=10, connects=5)
    async with (
        cluster(balancer=Fixed(*silent), limits=within) as made,
        raw(made, *silent, announce=False) as workers,
    ):
        for worker in workers:
            worker.accepting.clear()
            made.announce(worker.uid)
        call = made.spawn(bodies.echo, 1)
        await until(lambda: sum(worker.connected for worker in workers) > 1)
        await asyncio.sleep(0)
        assert sum(worker.connected for worker in workers) == 1 + 5  # the first, and at once five more
        call.cancel()
        await asyncio.wait([call])


async def test_while_workers_are_silent_calls_go_to_who_has_answered() -> None:
    silent = [f"silent-{number}" for number in range(6)]
    within = limits(patience_seconds=0.3, handshake_seconds=10, connects=1)
    async with (
        cluster("z", balancer=Fixed(*silent, "z"), limits=within) as made,
        raw(made, *silent, announce=False) as workers,
    ):
        for worker in workers:
            worker.accepting.clear()
        assert await made.call(bodies.echo, 0) == 0  # "z" has a session
        for worker in workers:
            made.announce(worker.uid)
        loop = asyncio.get_running_loop()
        begun = loop.time()
        assert await made.call(bodies.echo, 1) == 1
        assert loop.time() - begun < 2 * within.patience_seconds


async def test_a_better_candidate_that_comes_later_takes_what_waits_for_a_slow_connection() -> None:
    async with cluster(limits=limits(handshake_seconds=3)) as made, raw(made, "slow", announce=False) as (worker,):
        worker.accepting.clear()
        made.announce("slow")
        call = made.spawn(bodies.echo, 1)
        await asyncio.sleep(2 * QUICK.patience_seconds)
        await made.add("b")
        assert await asyncio.wait_for(call, 1) == 1


# ---- drain -------------------------------------------------------------------------------------------


async def test_a_draining_workers_reject_sends_the_task_elsewhere_at_once() -> None:
    async with cluster("a", "b", balancer=Fixed("a", "b")) as made:
        assert await made.call(bodies.echo, 0) == 0
        made.workers["a"].service.draining = True  # And the frame that says so is still on its way.
        calls = [made.spawn(bodies.echo, number) for number in range(10)]
        assert await asyncio.gather(*calls) == list(range(10))
        assert started(made) == {"a": 1, "b": 10}
        assert made.link("a").draining
        assert not made.link("a").status.suspect


async def test_a_draining_worker_is_offered_nothing_more() -> None:
    async with (
        cluster("b", balancer=Fixed("a", "b"), limits=limits(window_tasks=1)) as made,
        raw(made, "a") as (worker,),
    ):
        calls = [made.spawn(bodies.echo, number) for number in range(5)]
        peer = await worker.session()
        offer = await peer.expect(Offer)
        await peer.say(Draining())
        await peer.say(Accept(offer.number))
        assert await peer.expect(Start) == Start(offer.number)
        await peer.say(returned(offer.number, 0))
        assert await asyncio.gather(*calls) == [0, 1, 2, 3, 4]
        assert started(made) == {"b": 4}
        assert await peer.silent()


async def test_a_reject_that_says_draining_brings_no_further_offer() -> None:
    async with (
        cluster("b", balancer=Fixed("a", "b"), limits=limits(window_tasks=1)) as made,
        raw(made, "a") as (worker,),
    ):
        calls = [made.spawn(bodies.echo, number) for number in range(5)]
        peer = await worker.session()
        offer = await peer.expect(Offer)
        await peer.say(Reject(offer.number, RejectCode.DRAINING, "draining"))
        assert await asyncio.gather(*calls) == [0, 1, 2, 3, 4]
        assert await peer.silent()


async def test_a_draining_worker_keeps_what_it_has_accepted() -> None:
    async with cluster("a") as made:
        running = made.spawn(bodies.wait_for, "gate")
        await until(lambda: "gate begun" in bodies.story)
        drain = asyncio.ensure_future(made.workers["a"].service.drain(5))
        await made.settle()
        with pytest.raises(NoWorkersAvailable, match="draining"):
            await made.call(bodies.echo, 1)
        bodies.gates["gate"].set()
        assert await running == "gate"
        await drain


@pytest.mark.parametrize("size", [10, 400 * KIB])
async def test_what_was_answered_as_the_last_thing_before_the_end_arrives(size: int) -> None:
    """Drain, then close: what a body has returned is its caller's, however large it is."""
    async with cluster("a", limits=limits(close_seconds=1)) as made:
        call = made.spawn(bodies.blob, size)
        await until(lambda: bodies.begun)
        service = made.workers["a"].service
        await service.drain(5)
        await service.close()
        assert await call == bytes(size)


async def test_drain_time_over_the_rest_is_interrupted() -> None:
    async with cluster("a") as made:
        running = made.spawn(bodies.wait_for, "gate")
        stream = made.stream(bodies.count, 9)
        assert await stream.next() == 0
        await until(lambda: "gate begun" in bodies.story)
        service = made.workers["a"].service
        await service.drain(0.02)
        await service.close()
        with pytest.raises(TaskInterrupted) as interrupted:
            await running
        assert interrupted.value.executed == "yes"
        with pytest.raises(TaskInterrupted):
            await stream.next()
        assert {"gate finally", "count finally"} <= set(bodies.story)


async def test_a_task_accepted_before_and_started_after_the_drain_time_never_begins() -> None:
    async with cluster("a") as made:
        service = made.workers["a"].service
        assert await made.call(bodies.echo, 1) == 1
        connection = made.link("a").connection
        assert connection is not None
        accepted = connection._owner.accepted  # type: ignore[union-attr]
        late: list[Any] = []
        connection._owner.accepted = lambda *args: late.append(args)  # type: ignore[method-assign,union-attr]
        call = made.spawn(bodies.wait_for, "gate")
        await until(lambda: late)
        drain = asyncio.ensure_future(service.drain(0.01))
        await asyncio.sleep(0.05)
        accepted(*late[0])
        with pytest.raises(NoWorkersAvailable, match="worker a did not begin"):
            await asyncio.wait_for(call, 1)
        await drain
        assert "gate begun" not in bodies.story


# ---- discovery ---------------------------------------------------------------------------------------


async def test_events_repeated_reordered_and_flapping_lose_no_started_task() -> None:
    async with cluster("a") as made:
        running = made.spawn(bodies.wait_for, "gate")
        await until(lambda: "gate begun" in bodies.story)
        for _ in range(5):
            made.announce("a")
            made.drop("a")
            made.drop("a")
            await made.settle(3)
            made.announce("a")
            made.announce("a")
            await made.settle(3)
        assert await made.call(bodies.echo, 1) == 1
        bodies.gates["gate"].set()
        assert await running == "gate"
        assert bodies.story.count("gate begun") == 1
        await until(lambda: len(made.workers["a"].sessions) == 1)


async def test_a_dropped_worker_gets_no_new_call_and_its_session_ends_with_the_last_task() -> None:
    async with cluster("a") as made:
        running = made.spawn(bodies.wait_for, "gate")
        await until(lambda: "gate begun" in bodies.story)
        made.drop("a")
        with pytest.raises(NoWorkersAvailable, match="withdrawn from discovery"):
            await made.call(bodies.echo, 1)
        assert len(made.workers["a"].sessions) == 1
        bodies.gates["gate"].set()
        assert await running == "gate"
        await until(lambda: not made.workers["a"].sessions)


async def test_an_update_keeps_the_session() -> None:
    async with cluster("a") as made:
        await made.call(bodies.echo, 1)
        connection = made.link("a").connection
        metadata = dataclasses.replace(metadata_of("a", "unix:/a"), tags=frozenset({"new"}))
        made.proxy.discovered(DiscoveryEvent("worker-updated", metadata))
        assert made.link("a").connection is connection
        assert made.proxy.workers()[0].metadata is metadata


async def test_calls_that_wait_for_a_worker_that_moves_move_with_it() -> None:
    async with cluster() as made, raw(made, "a", announce=False) as (silent,):
        silent.accepting.clear()
        made.announce("a")
        call = made.spawn(bodies.echo, 1)
        await until(lambda: silent.connected)
        worker = await made.add("moved", announce=False)
        worker.service._metadata = metadata_of("a", "unix:/moved")
        made.announce("a", "unix:/moved")
        assert await call == 1


@pytest.mark.parametrize("lie", [{"address": "unix:/elsewhere"}, {"secure": True}])
async def test_a_record_that_lies_about_a_worker_ends_no_started_task_and_the_next_true_one_undoes_it(
    lie: dict[str, Any],
) -> None:
    async with cluster("a") as made:
        running = made.spawn(bodies.wait_for, "gate")
        await until(lambda: "gate begun" in bodies.story)
        forged = dataclasses.replace(metadata_of("a", "unix:/a"), **lie)
        made.proxy.discovered(DiscoveryEvent("worker-updated", forged))
        with pytest.raises(NoWorkersAvailable):
            await made.call(bodies.echo, 1)
        made.announce("a")
        assert await made.call(bodies.echo, 1) == 1
        bodies.gates["gate"].set()
        assert await running == "gate"
        assert bodies.story.count("gate begun") == 1


async def test_who_departed_is_remembered_in_bounds() -> None:
    async with cluster() as made:
        for number in range(500):
            made.proxy.departed(f"worker-{number}", TransientRpcError("it ended"))
        assert list(made.proxy._view.gone) == [f"worker-{number}" for number in range(500 - MOST_GONE, 500)]


async def test_the_reason_why_a_worker_ended_is_in_the_error() -> None:
    async with cluster("a") as made:
        made.proxy.departed("a", TransientRpcError("it was killed by signal 9"))
        with pytest.raises(NoWorkersAvailable, match="signal 9"):
            await made.call(bodies.echo, 1)


async def test_a_permanent_refusal_is_out_of_rotation_until_announced_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    async with cluster() as made:
        with monkeypatch.context() as patch:
            of_another_python(patch)
            await made.add("a")
            with pytest.raises(NoWorkersAvailable, match="the worker runs Python 2.7") as nobody:
                await made.call(bodies.echo, 1)
            assert type(nobody.value.reasons["a"]) is RpcError
            assert made.link("a").state is LinkState.REFUSED
            await asyncio.sleep(3 * QUICK.reconnect_most_seconds)
            assert made.link("a").state is LinkState.REFUSED, "it is not tried again"
        with pytest.raises(NoWorkersAvailable):
            await made.call(bodies.echo, 1)
        made.announce("a")
        assert await made.call(bodies.echo, 1) == 1


async def test_a_worker_that_did_not_prove_the_secret_is_tried_at_a_bounded_pace_and_used_once_it_does() -> None:
    """It is known by its name, and nobody announces it anew."""
    async with cluster() as made:
        worker = await made.add("a")
        right, worker.service._secret = worker.service._secret, b"another secret"
        for _ in range(2):
            with pytest.raises(NoWorkersAvailable, match="the worker did not prove that it knows the secret") as nobody:
                await made.call(bodies.echo, 1)
            assert type(nobody.value.reasons["a"]) is TransientRpcError
        await until(lambda: made.link("a").backoff == QUICK.reconnect_most_seconds)
        assert made.link("a").status.suspect
        worker.service._secret = right
        await until(lambda: made.link("a").state is LinkState.OPEN)
        assert not made.link("a").status.suspect
        assert await made.call(bodies.echo, 1) == 1


async def test_whoever_squats_on_a_workers_address_keeps_calls_from_it_only_as_long_as_it_is_there() -> None:
    async with cluster() as made:
        squatter = Worker(made.network, "a", QUICK, secret=b"a guess")
        made.workers["a"] = squatter
        await squatter.listen()
        made.announce("a")
        with pytest.raises(NoWorkersAvailable, match="did not prove"):
            await made.call(bodies.echo, 1)
        await squatter.service.close()
        owner = await made.add("a", announce=False)
        await until(lambda: made.link("a").state is LinkState.OPEN)
        assert await made.call(bodies.echo, 1) == 1
        assert (squatter.service.started, owner.service.started) == (0, 1)


async def test_another_worker_at_the_address_is_another_worker() -> None:
    async with cluster() as made:
        await made.add("new", announce=False)
        made.announce("old", "unix:/new")
        with pytest.raises(NoWorkersAvailable) as nobody:
            await made.call(bodies.echo, 1)
        assert type(nobody.value.reasons["old"]) is RpcError
        assert "worker new answers where old was expected" in str(nobody.value.reasons["old"])
        assert started(made) == {"new": 0}


async def test_a_half_open_probe_readmits_a_worker_that_was_not_reachable() -> None:
    async with cluster("b", balancer=Fixed("a", "b")) as made:
        made.announce("a")
        assert await made.call(bodies.echo, 1) == 1
        assert made.link("a").status.suspect
        await made.add("a", announce=False)
        await until(lambda: not made.link("a").status.suspect)
        assert made.link("a").state is LinkState.OPEN
        await made.call(bodies.echo, 1)
        assert started(made)["a"] == 1


# ---- how many sessions -------------------------------------------------------------------------------


def sessions(made: Cluster) -> int:
    return sum(link.connection is not None for link in made.proxy._links.values())


async def test_connections_are_opened_lazily() -> None:
    async with cluster(*(f"w{number}" for number in range(10))) as made:
        await made.settle()
        assert sessions(made) == 0
        for calls in range(1, 4):
            await made.call(bodies.echo, 1)
            assert sessions(made) == calls


async def test_connections_are_bounded_and_calls_spread_evenly_over_them() -> None:
    async with cluster(
        *(f"w{number}" for number in range(20)), limits=limits(sessions=5, patience_seconds=PATIENT_SECONDS)
    ) as made:
        for _ in range(20):
            await asyncio.gather(*(made.call(bodies.echo, number) for number in range(5)))
            assert sessions(made) == 5
        counts = sorted(started(made).values())
        assert counts == [0] * 15 + [20] * 5


async def test_who_has_more_calls_under_way_uses_more_workers_within_a_bound_and_fewer_again_later() -> None:
    # On a busy machine nobody is taken for slow to connect: another would be used in its place.
    few = limits(sessions=3, sessions_most=12, sessions_idle_seconds=0.1, patience_seconds=10)
    async with cluster(*(f"w{number}" for number in range(20)), limits=few) as made:
        began = made.loop.time()
        streams = [made.stream(bodies.count, 2) for _ in range(30)]
        for stream in streams:
            await stream.next()
        assert sessions(made) == 12
        assert max(in_flight(made).values()) <= 7, "they are spread over all that are used"
        for stream in streams:
            await stream.close()

        async def calls_until(wanted: int) -> None:
            async with asyncio.timeout(5):
                while sessions(made) != wanted:
                    await made.call(bodies.echo, 1)
                    await asyncio.sleep(0.01)

        await calls_until(3)
        assert made.loop.time() - began >= few.sessions_idle_seconds


async def test_two_callers_draw_different_workers() -> None:
    # On a busy machine nobody is taken for slow to connect: another would be used in its place.
    within = limits(sessions=5, patience_seconds=10)
    async with cluster(*(f"w{number}" for number in range(40)), limits=within) as made:
        used: list[set[str]] = []
        for _ in range(4):
            before = started(made)
            for _ in range(5):
                await made.call(bodies.echo, 1)
            used.append({uid for uid, calls in started(made).items() if calls > before[uid]})
            made.proxy = made.open_proxy()
            for uid in made.workers:
                made.announce(uid)
        assert len(set().union(*used)) > 5
        assert all(len(each) == 5 for each in used)


async def test_of_more_workers_than_are_used_others_take_over_while_some_cannot_be_reached() -> None:
    async with cluster(limits=limits(sessions=2)) as made:
        for number in range(6):
            made.announce(f"w{number}")
        await made.add("w6")
        # Nobody but one is there, and no call fails as long as one is.
        for _ in range(3):
            assert await made.call(bodies.echo, 1) == 1
        await made.add("w0", announce=False)
        await made.add("w1", announce=False)
        await until(lambda: not any(made.link(uid).status.suspect for uid in made.workers))
        for _ in range(6):
            await made.call(bodies.echo, 1)
        await until(lambda: sessions(made) == 2)
        assert sorted(calls > 0 for calls in started(made).values()).count(True) >= 2


async def test_a_call_that_all_that_are_used_refuse_goes_to_one_of_the_others() -> None:
    async with (
        cluster(limits=limits(sessions=2)) as made,
        raw(made, *(f"r{number}" for number in range(3))) as refusing,
    ):
        made.announce("a")
        await made.add("a", announce=False)
        call = made.spawn(bodies.echo, 1)

        async def refuse(worker: RawWorker) -> None:
            peer = await worker.session()
            offer = await peer.expect(Offer)
            await peer.say(Reject(offer.number, RejectCode.ADMISSION, "not now"))

        serving = [asyncio.ensure_future(refuse(worker)) for worker in refusing]
        try:
            assert await call == 1
            await until(lambda: sessions(made) <= 2)
        finally:
            for each in serving:
                each.cancel()
            await asyncio.gather(*serving, return_exceptions=True)


async def test_a_session_that_is_not_needed_any_more_stays_until_its_last_task_has_ended() -> None:
    async with cluster("a", limits=limits(sessions=1, sessions_most=1)) as made:
        made.link("a").lot = b"\x80"
        stream = made.stream(bodies.count, 2)
        assert await stream.next() == 0
        await made.add("b")
        made.link("b").lot = b"\x00"
        assert await made.call(bodies.echo, 1) == 1
        assert (sessions(made), started(made)["b"]) == (2, 1)
        assert await stream.next() == 1
        await stream.close()
        await until(lambda: sessions(made) == 1)
        assert made.link("a").state is LinkState.CLOSED
        await until(lambda: not made.workers["a"].sessions, "the worker hears of it")


async def test_a_frozen_worker_is_left_behind_for_one_that_is_not_used_so_far() -> None:
    async with cluster("b", limits=limits(sessions=1)) as made, raw(made, "a") as (frozen,):
        made.link("a").lot, made.link("b").lot = b"\x00", b"\x80"
        call = made.spawn(bodies.echo, 1)
        await (await frozen.session()).expect(Offer)
        assert await call == 1
        assert made.link("a").status.suspect


async def test_the_workers_that_a_pool_has_started_are_used_however_many_they_are() -> None:
    own = frozenset(f"w{number}" for number in range(6))
    async with cluster(*own, *"ab", limits=limits(sessions=1), terms=Terms(own=own)) as made:
        for _ in range(7):
            await made.call(bodies.echo, 1)
        assert sorted(started(made).values()) == [0, *[1] * 7]


class CountingTransport(MemoryTransport):
    """Notes when it was asked to connect, and fails in a way that a test chooses."""

    def __init__(self, made: Cluster, failure: Exception) -> None:
        super().__init__(made.network, made.limits)
        self.failure = failure
        self.times: list[float] = []

    async def connect(self, address: str) -> Stream:
        self.times.append(asyncio.get_running_loop().time())
        raise self.failure


async def test_the_backoff_grows_and_is_bounded() -> None:
    async with cluster() as made:
        transport = CountingTransport(made, ConnectFailed("nobody"))
        made.proxies.append(made.open_proxy(transport=transport))
        made.proxy = made.proxies[-1]
        made.announce("a")
        with pytest.raises(NoWorkersAvailable):
            await made.call(bodies.echo, 1)
        await until(lambda: len(transport.times) >= 6)
        waits = [after - before for before, after in zip(transport.times, transport.times[1:], strict=False)]
        assert waits[0] >= QUICK.reconnect_first_seconds
        assert all(wait >= QUICK.reconnect_most_seconds for wait in waits[2:5])
        assert made.link("a").backoff == QUICK.reconnect_most_seconds


async def test_a_worker_that_cannot_be_reached_again_and_again_fills_no_log(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    async with cluster() as made:
        transport = CountingTransport(made, ConnectFailed("nobody"))
        made.proxies.append(made.open_proxy(transport=transport))
        made.proxy = made.proxies[-1]
        made.announce("a")
        with pytest.raises(NoWorkersAvailable):
            await made.call(bodies.echo, 1)
        await until(lambda: len(transport.times) >= 6)
    assert not caplog.records


async def test_a_worker_that_is_refused_is_told_of_at_a_bounded_rate(caplog: pytest.LogCaptureFixture) -> None:
    async with cluster(limits=dataclasses.replace(QUICK, refusals=2)) as made:
        transport = CountingTransport(made, ConnectRefused("this side refused the worker's certificate: expired"))
        made.proxies.append(made.open_proxy(transport=transport))
        made.proxy = made.proxies[-1]
        made.announce("a")
        with pytest.raises(NoWorkersAvailable, match="expired"):
            await made.call(bodies.echo, 1)
        await until(lambda: len(transport.times) >= 6)
    first, second, last = caplog.messages
    assert first == second and first.endswith("this side refused the worker's certificate: expired")
    assert "more were refused in" in last


@pytest.mark.parametrize("failure", [ValueError("no such address"), OSError("strange"), KeyError("odd")])
async def test_a_connection_that_fails_in_an_unforeseen_way_keeps_nobody_waiting(failure: Exception) -> None:
    async with cluster() as made:
        made.proxies.append(made.open_proxy(transport=CountingTransport(made, failure)))
        made.proxy = made.proxies[-1]
        made.announce("a")
        with pytest.raises(NoWorkersAvailable, match=str(failure.args[0])):
            await made.call(bodies.echo, 1, dispatch_timeout=1)


# ---- lost sessions -----------------------------------------------------------------------------------


async def test_a_session_lost_before_start_sends_the_task_to_the_next_worker() -> None:
    async with cluster(balancer=Fixed("a", "b")) as made, raw(made, "a") as (worker,):
        await made.add("b")
        call = made.spawn(bodies.echo, 1)
        peer = await worker.session()
        await peer.expect(Offer)
        peer.stream.abort("killed")
        assert await call == 1


async def test_a_session_lost_after_start_is_worker_lost_and_the_task_is_not_tried_again() -> None:
    async with cluster(balancer=Fixed("a", "b")) as made, raw(made, "a") as (worker,):
        await made.add("b")
        call = made.spawn(bodies.echo, 1)
        peer = await worker.session()
        offer = await peer.expect(Offer)
        await peer.say(Accept(offer.number))
        await peer.expect(Start)
        peer.stream.abort("killed")
        with pytest.raises(WorkerLost) as lost:
            await call
        assert lost.value.executed == "unknown"
        assert "killed" in str(lost.value.__cause__)
        assert started(made) == {"b": 0}


async def test_a_generators_session_lost_between_two_steps_is_told_at_the_next_step() -> None:
    async with cluster("a") as made:
        stream = made.stream(bodies.count, 5)
        assert await stream.next() == 0
        made.workers["a"].sessions[0].session.abort("cut")
        await made.settle()
        with pytest.raises(WorkerLost):
            await stream.next()
        await until(lambda: "count finally" in bodies.story)
        assert set(in_flight(made).values()) == {0}


async def test_a_single_worker_that_comes_back_is_used_again() -> None:
    async with cluster("a") as made:
        for number in range(5):
            assert await made.call(bodies.echo, number) == number
            made.workers["a"].sessions[0].session.abort("cut")
            await until(lambda: made.link("a").state is not LinkState.OPEN)


async def test_a_goodbye_ends_the_session_and_the_next_call_opens_another() -> None:
    async with cluster() as made, raw(made, "a") as (worker,):
        first = made.spawn(bodies.echo, 1)
        peer = await worker.session()
        await peer.expect(Offer)
        with contextlib.suppress(StreamLost):
            await peer.say(Goodbye("for today"))
        with pytest.raises(NoWorkersAvailable, match="said goodbye: for today"):
            await first
        second = made.spawn(bodies.echo, 2)
        peer = await worker.session()
        offer = await peer.expect(Offer)
        await peer.say(Accept(offer.number))
        await peer.expect(Start)
        await peer.say(returned(offer.number, 2))
        assert await second == 2


# ---- cancelling --------------------------------------------------------------------------------------


async def test_a_call_cancelled_before_it_is_placed_never_begins() -> None:
    async with cluster() as made:
        call = made.spawn(bodies.echo, 1)
        await made.settle()
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        await made.add("a")
        await made.settle()
        assert started(made) == {"a": 0}


async def test_a_call_cancelled_while_offered_is_withdrawn() -> None:
    async with cluster() as made, raw(made, "a") as (worker,):
        call = made.spawn(bodies.echo, 1)
        peer = await worker.session()
        offer = await peer.expect(Offer)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        assert await peer.expect(Withdraw) == Withdraw(offer.number)
        await peer.say(Accept(offer.number))
        assert await peer.silent()


async def test_cancelling_waits_for_the_remote_finally_and_passes_the_message_on() -> None:
    async with cluster("a") as made:
        call = made.spawn(bodies.wait_for, "gate")
        await until(lambda: "gate begun" in bodies.story)
        call.cancel("because")
        with pytest.raises(asyncio.CancelledError):
            await call
        assert bodies.story == ["gate begun", "gate cancelled ('because',)", "gate finally"]
        assert in_flight(made) == {"a": 0}


@pytest.mark.parametrize("message", ["\ud800", "x" * 9_000_000])
async def test_whatever_message_a_cancel_has_the_session_survives_it(message: str) -> None:
    async with cluster("a") as made:
        call = made.spawn(bodies.wait_for, "gate")
        other = made.spawn(bodies.wait_for, "other")
        await until(lambda: "gate begun" in bodies.story and "other begun" in bodies.story)
        call.cancel(message)
        with pytest.raises(asyncio.CancelledError):
            await call
        assert "gate finally" in bodies.story
        bodies.gates["other"].set()
        assert await other == "other"


async def test_a_body_that_swallows_its_cancellation_is_waited_for_and_each_cancel_counts() -> None:
    async with cluster("a", limits=limits(cancel_grace_seconds=5)) as made:
        call = made.spawn(bodies.linger, "gate")
        await until(lambda: bodies.story)
        for times in (1, 2):
            call.cancel()
            await until(lambda times=times: bodies.story.count("gate swallowed") == times)
        bodies.gates["gate"].set()
        assert await call == "gate"


async def test_a_cancelled_caller_is_released_within_the_grace() -> None:
    async with cluster("a") as made:
        call = made.spawn(bodies.linger, "gate")
        await until(lambda: bodies.story)
        loop = asyncio.get_running_loop()
        begun = loop.time()
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        assert QUICK.cancel_grace_seconds <= loop.time() - begun < 2
        assert in_flight(made) == {"a": 0}
        bodies.gates["gate"].set()
        assert await made.call(bodies.echo, "later frames are ignored") == "later frames are ignored"


async def test_a_cancelled_caller_does_not_wait_for_a_lost_session() -> None:
    async with cluster("a", limits=limits(cancel_grace_seconds=30)) as made:
        call = made.spawn(bodies.linger, "gate")
        await until(lambda: bodies.story)
        call.cancel()
        await until(lambda: "gate swallowed" in bodies.story)
        made.workers["a"].sessions[0].session.abort("cut")
        with pytest.raises(asyncio.CancelledError):
            await call
        bodies.gates["gate"].set()
        await until(lambda: not made.workers["a"].runner.running)


@asynccontextmanager
async def slow_upload(made: Cluster) -> AsyncIterator[None]:
    """While it lasts, worker a acknowledges nothing: what is sent in stays on its way."""
    (session,) = made.workers["a"].sessions
    inbox = session.session.inbox
    credit = inbox.credit
    inbox.credit = lambda: None  # type: ignore[method-assign]
    try:
        yield
    finally:
        inbox.credit = credit  # type: ignore[method-assign]
        if (owed := inbox.credit()) is not None:
            session.session.say(owed)


SLOW = limits(chunk_bytes=64 * KIB, credit_bytes=128 * KIB, cancel_grace_seconds=0.05)


async def test_a_cancel_is_not_lost_while_what_was_sent_in_is_still_on_its_way() -> None:
    """The cancel overtakes the chunks of the step that it is for."""
    async with cluster("a", limits=dataclasses.replace(SLOW, cancel_grace_seconds=5)) as made:
        stream = made.stream(bodies.take_then_wait, "gate")
        assert await stream.next() == "first"
        async with slow_upload(made):
            step = asyncio.ensure_future(stream.send(bytes(800 * KIB)))
            (session,) = made.workers["a"].sessions
            await until(lambda: session.session.inbox._arriving)
            step.cancel()
            await made.settle()
        with pytest.raises(asyncio.CancelledError):
            await asyncio.wait_for(step, 2)
        assert bodies.story[-1] == "gate finally"
        assert in_flight(made) == {"a": 0}


async def test_a_generator_whose_consumer_has_gone_during_an_upload_is_closed() -> None:
    """The grace is over before what was sent in has arrived."""
    async with cluster("a", limits=SLOW) as made:
        stream = made.stream(bodies.count, 5)
        assert await stream.next() == 0
        (session,) = made.workers["a"].sessions
        async with slow_upload(made):
            step = asyncio.ensure_future(stream.send(bytes(500 * KIB)))
            await until(lambda: session.session.inbox._arriving)
            step.cancel()
            with pytest.raises(asyncio.CancelledError):
                await step
        await until(lambda: "count finally" in bodies.story)
        await until(lambda: not made.workers["a"].runner.running)
        await until(lambda: not session._served)


async def test_a_cancel_that_crosses_a_result_is_not_lost() -> None:
    """The body has ended without having heard of it: no value comes after a cancel."""
    async with cluster("a") as made:
        worker = made.workers["a"]
        call = made.spawn(bodies.echo, "value")
        worker.to_io.hold()
        await until(lambda: len(worker.to_io))
        call.cancel()
        await made.settle()
        worker.to_io.release()
        with pytest.raises(asyncio.CancelledError):
            await call


async def test_a_cancel_that_crosses_a_yield_is_not_lost() -> None:
    async with cluster("a") as made:
        worker = made.workers["a"]
        stream = made.stream(bodies.count, 5)
        assert await stream.next() == 0
        worker.to_io.hold()
        step = asyncio.ensure_future(stream.next())
        await until(lambda: len(worker.to_io))
        step.cancel()
        await made.settle()
        worker.to_io.release()
        with pytest.raises(asyncio.CancelledError):
            await step


async def test_a_cancel_that_crosses_a_yield_inside_the_caller_is_not_lost() -> None:
    async with cluster("a") as made:
        stream = made.stream(bodies.count, 5)
        assert await stream.next() == 0
        made.user.hold()
        step = asyncio.ensure_future(stream.next())
        await until(lambda: len(made.user))
        step.cancel()
        await made.settle()
        made.user.release()
        with pytest.raises(asyncio.CancelledError):
            await step


# ---- workers that break the protocol -----------------------------------------------------------------


HOSTILE: dict[str, Any] = {
    "accepts what was never offered": lambda n: [Accept(n + 1000)],
    "rejects what was never offered": lambda n: [Reject(n + 1000, RejectCode.ADMISSION, "")],
    "answers what was never offered": lambda n: [returned(n + 1000, 1)],
    "accepts number zero": lambda n: [Accept(0)],
    "returns before start": lambda n: [returned(n, 1)],
    "yields before start": lambda n: [Result(n, ResultKind.YIELD)],
    "accepts twice": lambda n: [Accept(n), Accept(n)],
    "yields what is no generator": lambda n: [Accept(n), Result(n, ResultKind.YIELD)],
    "rejects after accepting": lambda n: [Accept(n), Reject(n, RejectCode.ADMISSION, "")],
    "announces more than was agreed on": lambda n: [
        Accept(n),
        Result(n, ResultKind.RETURN, body_announcing(2**40)),
    ],
    "announces another payload while one is under way": lambda n: [
        Accept(n),
        Result(n, ResultKind.RETURN, body_announcing(1000)),
        Result(n, ResultKind.RETURN, body_announcing(1000)),
    ],
    "sends more than it announced": lambda n: [
        Accept(n),
        Result(n, ResultKind.RETURN, body_announcing(10)),
        Chunk(n, bytes(11)),
    ],
    "speaks like a caller": lambda n: [Start(n)],
    "offers": lambda n: [Offer(n, bytes(16), bytes(16), False, body_announcing(10))],
    "acknowledges what it was never sent": lambda n: [Credit(1)],
}


def body_announcing(size: int) -> Body:
    return Body((size,), b"", True)


@pytest.mark.parametrize("how", HOSTILE)
async def test_a_worker_that_breaks_the_protocol_loses_its_session_and_harms_nobody_else(how: str) -> None:
    async with cluster("honest", balancer=Fixed("hostile", "honest")) as made, raw(made, "hostile") as (worker,):
        # A task that runs elsewhere must not notice.
        made.proxy._balancer = Fixed("honest")
        bystander = made.spawn(bodies.wait_for, "gate")
        await until(lambda: "gate begun" in bodies.story)
        made.proxy._balancer = Fixed("hostile", "honest")
        victim = made.spawn(bodies.echo, "value")
        peer = await worker.session()
        offer = await peer.expect(Offer)
        frames = HOSTILE[how](offer.number)
        with contextlib.suppress(StreamLost):
            await peer.say(*frames)
        await peer.expect_end()
        result = (await asyncio.gather(victim, return_exceptions=True))[0]
        if isinstance(frames[0], Accept) and frames[0].number == offer.number:
            assert isinstance(result, WorkerLost)
            assert isinstance(result.__cause__, UnexpectedResponse), result.__cause__
        else:
            assert result == "value"  # Not started, so tried elsewhere.
            assert isinstance(made.link("hostile").reason, UnexpectedResponse)
        assert await made.call(bodies.echo, "next") == "next"
        bodies.gates["gate"].set()
        assert await bystander == "gate"
        assert set(in_flight(made).values()) == {0}


@pytest.mark.parametrize("message", [b"", b"\xff\xff", b"\x0a\x00"])
async def test_garbage_from_a_worker_harms_nobody(message: bytes) -> None:
    async with cluster("honest", balancer=Fixed("hostile", "honest")) as made, raw(made, "hostile") as (worker,):
        call = made.spawn(bodies.echo, 1)
        peer = await worker.session()
        await peer.expect(Offer)
        with contextlib.suppress(StreamLost):
            await peer.stream.write(message)
        assert await call == 1


async def test_a_message_too_long_ends_the_session() -> None:
    small = limits(message_bytes=600 * KIB)
    async with cluster("honest", balancer=Fixed("hostile", "honest"), limits=small) as made:
        async with raw(made, "hostile") as (worker,):
            worker.limits = QUICK
            call = made.spawn(bodies.echo, 1)
            peer = await worker.session()
            await peer.expect(Offer)
            peer.stream._message_bytes = 10**9  # type: ignore[attr-defined]
            with contextlib.suppress(StreamLost):
                await peer.stream.write(bytes(700 * KIB))
            assert await call == 1
            assert isinstance(made.link("hostile").reason, UnexpectedResponse)


# ---- the end -----------------------------------------------------------------------------------------


async def test_close_ends_every_call_with_exactly_one_outcome() -> None:
    outcomes: Counter[str] = Counter()
    async with cluster("a", limits=limits(window_tasks=3)) as made, raw(made, "silent") as (_,):
        made.proxy._balancer = Fixed("a")
        running = [made.spawn(bodies.wait_for, f"gate {number}") for number in range(3)]
        await until(lambda: len(bodies.story) == 3)
        cancelling = made.spawn(bodies.linger, "linger")
        await until(lambda: "linger begun" in bodies.story)
        cancelling.cancel()
        streams = [made.stream(bodies.count, 5) for _ in range(2)]
        for stream in streams:
            await stream.next()
        made.proxy._balancer = Fixed("silent")
        waiting = [made.spawn(bodies.echo, number) for number in range(6)]
        await made.settle()
        await made.proxy.close("the pool was closed")
        late = made.spawn(bodies.echo, "late")
        for task in [*running, cancelling, *waiting, late]:
            (result,) = await asyncio.wait_for(asyncio.gather(task, return_exceptions=True), 2)
            outcomes[type(result).__name__] += 1
        for stream in streams:
            with pytest.raises(WorkerLost):
                await stream.next()
        assert outcomes == {"WorkerLost": 3, "CancelledError": 1, "NoWorkersAvailable": 7}
        bodies.gates["linger"].set()
        await until(lambda: not made.workers["a"].runner.running)
        assert sum("finally" in line for line in bodies.story) == 5


async def test_close_is_idempotent_and_says_why_to_those_it_did_not_place() -> None:
    async with cluster() as made:
        call = made.spawn(bodies.echo, 1)
        await made.settle()
        await made.proxy.close("the pool was closed")
        with pytest.raises(NoWorkersAvailable, match="the pool was closed"):
            await call
        await made.proxy.close("again")


async def test_close_is_bounded_with_a_frozen_worker() -> None:
    async with (
        cluster(limits=limits(handshake_seconds=0.1)) as made,
        raw(made, "frozen", "unborn", announce=False) as (
            frozen,
            unborn,
        ),
    ):
        unborn.accepting.clear()
        made.announce("frozen")
        made.announce("unborn")
        calls = [made.spawn(bodies.echo, bytes(300 * KIB)) for _ in range(4)]
        await frozen.session()
        await made.settle()
        loop = asyncio.get_running_loop()
        begun = loop.time()
        await made.proxy.close("bounded")
        assert loop.time() - begun < 1
        for call in calls:
            with pytest.raises(NoWorkersAvailable):
                await call


async def test_the_books_are_even_after_everything_that_can_happen() -> None:
    async with cluster("a", "b", limits=limits(window_tasks=2)) as made:
        made.announce("nobody")
        calls = [made.spawn(bodies.echo, number) for number in range(30)]
        calls += [made.spawn(bodies.fail, "x") for _ in range(10)]
        calls += [made.spawn(bodies.wait_for, f"gate {number}") for number in range(10)]
        await until(lambda: len(bodies.story) >= 10)
        for number, call in enumerate(calls[-10:]):
            if number % 2:
                call.cancel()
        for gate in range(10):
            bodies.gates[f"gate {gate}"].set()
        await asyncio.gather(*calls, return_exceptions=True)
        assert set(in_flight(made).values()) == {0}
        assert made.proxy._active == 0
        for link in made.proxy._links.values():
            assert not link.waiting
            if link.connection is not None:
                assert not link.connection._calls
                assert not link.connection._unstarted
                assert link.connection._unstarted_bytes == 0
        for worker in made.workers.values():
            for session in worker.sessions:
                assert (session._unstarted, session._unstarted_bytes, len(session._served)) == (0, 0, 0)


async def test_twenty_thousand_calls_one_after_another_leave_nothing_that_grows() -> None:
    async with cluster("a", "b") as made:

        async def run(calls: int) -> dict[str, int]:
            for _ in range(calls):
                await made.call(bodies.echo, None)
            bodies.reset()
            await made.settle()
            return all_sizes(holders(made))

        before = await run(100)
        assert await run(20_000) == before


async def test_generators_cancels_timeouts_and_large_payloads_leave_nothing_that_grows() -> None:
    async with cluster("a", "b") as made:

        async def one(number: int) -> None:
            stream = made.stream(bodies.count, 3)
            await stream.next()
            await stream.send(bytes(50 * KIB))
            await stream.close()
            assert len(await made.call(bodies.echo, bytes(50 * KIB))) == 50 * KIB
            call = made.spawn(bodies.wait_for, "gate", dispatch_timeout=1 + number)
            await until(lambda: "gate begun" in bodies.story)
            call.cancel()
            await asyncio.wait([call])
            bodies.reset()

        async def run(times: int) -> dict[str, int]:
            for number in range(times):
                await one(number)
            await made.settle()
            return all_sizes(holders(made))

        before = await run(4)
        assert await run(60) == before
