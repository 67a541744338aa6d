"""Whom a pool takes: those with its tags, no more than its lease, and the same ones whatever comes and goes."""

from __future__ import annotations

import asyncio
import dataclasses
import pickle
import random
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from support import bodies
from support.one_loop import QUICK, SECRET, Cluster, Worker, cluster, metadata_of, until
from support.peers import RawWorker
from wool.admission import Outside, Terms
from wool.discovery.base import DiscoveryEvent, DiscoveryEventType, WorkerMetadata
from wool.errors import DispatchTimeout, NoWorkersAvailable, RpcError, TransientRpcError, WorkerLost
from wool.limits import MOST_TOLD
from wool.link import LinkState
from wool.protocol.frames import Draining, Offer, Reject, RejectCode

TWO = Terms(lease=2)
GPU = Terms(tags=frozenset({"gpu"}))


@pytest.fixture(autouse=True)
def clean() -> Iterator[None]:
    bodies.reset()
    yield
    bodies.reset()


def tell(made: Cluster, type: DiscoveryEventType, metadata: WorkerMetadata) -> None:
    made.proxy.discovered(DiscoveryEvent(type, metadata))


def view(made: Cluster) -> list[str]:
    return [status.metadata.key for status in made.proxy.workers()]


def place(address: str) -> WorkerMetadata:
    return WorkerMetadata.at(address)


def test_what_a_record_says_of_tags_does_not_speak_to_the_terminal() -> None:
    """Anybody on the network may have written it."""
    told = dataclasses.replace(
        metadata_of("a", "10.0.0.1:1"), tags=frozenset({"\x1b[2J\nERROR wool: forged", "x" * 1900})
    )
    refusal = str(GPU.refusal(told))
    assert refusal.isprintable()
    assert "\\x1b[2J\\nERROR wool: forged" in refusal
    assert len(refusal) < 1200


def test_of_the_workers_that_are_not_used_an_error_names_some() -> None:
    outside = Outside(TWO)
    for number in range(2 * MOST_TOLD):
        outside.refuse(f"unwanted {number}", RpcError("it has no GPU"))
        outside.wait(metadata_of(f"waiting {number}", f"unix:/{number}"))
    named = [key for key, _ in outside.reasons()]
    assert [key for key in named if key.startswith("unwanted")] == [
        f"unwanted {MOST_TOLD + n}" for n in range(MOST_TOLD)
    ]
    assert [key for key in named if key.startswith("waiting")] == [f"waiting {n}" for n in range(MOST_TOLD)]
    assert len(outside) == 2 * MOST_TOLD, "they wait all the same"


# ---- a lease -----------------------------------------------------------------------------------------


async def test_a_lease_takes_the_workers_that_discovery_named_first_and_no_more() -> None:
    async with cluster("a", "b", "c", "d", terms=TWO) as made:
        assert view(made) == ["a", "b"]
        await asyncio.gather(*(made.call(bodies.echo, number) for number in range(20)))
        assert [len(worker.sessions) for worker in made.workers.values()] == [1, 1, 0, 0]


async def test_a_freed_place_is_given_to_the_next_one() -> None:
    async with cluster("a", "b", "c", "d", terms=TWO) as made:
        made.drop("a")
        assert view(made) == ["b", "c"]
        made.drop("d")
        made.drop("b")
        assert view(made) == ["c"]
        await made.add("e")
        assert view(made) == ["c", "e"]


async def test_a_flap_moves_nobody_but_the_worker_that_flaps() -> None:
    async with cluster("a", "b", "c", "d", terms=TWO) as made:
        for _ in range(3):
            made.drop("a")
            made.announce("a")
            assert view(made) == ["b", "c"]
        made.drop("b")
        assert view(made) == ["c", "d"]
        made.drop("d")
        assert view(made) == ["c", "a"]


async def test_a_worker_that_is_announced_again_keeps_its_place_and_its_turn() -> None:
    async with cluster("a", "b", "c", "d", terms=TWO) as made:
        for uid in "dcba":
            made.announce(uid)
        assert view(made) == ["a", "b"]
        made.announce("a", "unix:/moved")
        assert sorted(view(made)) == ["a", "b"]
        assert made.link("a").status.metadata.address == "unix:/moved"
        made.drop("a")
        assert view(made) == ["b", "c"]


async def test_what_was_started_goes_on_where_the_place_has_gone_to_another() -> None:
    async with cluster("a", "b", terms=Terms(lease=1)) as made:
        call = made.spawn(bodies.wait_for, "gate")
        await until(lambda: bodies.story)
        made.drop("a")
        made.announce("a")
        assert view(made) == ["b"]
        assert await made.call(bodies.echo, 1) == 1
        bodies.gates["gate"].set()
        assert await call == "gate"
        assert [worker.service.started for worker in made.workers.values()] == [1, 1]
        assert set(bodies.begun.values()) == {1}


async def test_a_call_that_waits_gets_the_one_to_whom_the_place_is_given() -> None:
    async with cluster(terms=Terms(lease=1)) as made:
        silent = RawWorker(made.network, "silent", made.limits)
        await silent.listen()
        made.announce("silent")
        await made.add("b")
        call = made.spawn(bodies.echo, 1)
        peer = await silent.session()
        await peer.expect(Offer)
        assert not call.done()
        made.drop("silent")
        await peer.stream.close()
        assert await call == 1
        await silent.close()


async def test_the_pools_own_workers_take_no_place() -> None:
    terms = Terms(lease=1, own=frozenset({"mine", "mine too"}))
    async with cluster("a", "mine", "b", "mine too", terms=terms) as made:
        assert view(made) == ["a", "mine", "mine too"]
        made.drop("mine")
        assert view(made) == ["a", "mine too"]
        made.drop("a")
        assert sorted(view(made)) == ["b", "mine too"]


async def test_a_worker_that_drains_makes_way_at_once() -> None:
    async with cluster("a", "b", terms=Terms(lease=1)) as made:
        call = made.spawn(bodies.wait_for, "gate")
        await until(lambda: bodies.story)
        for session in made.workers["a"].sessions:
            session.session.say(Draining())
        await until(lambda: view(made) == ["b"])
        assert await made.call(bodies.echo, 1) == 1
        bodies.gates["gate"].set()
        assert await call == "gate"


async def test_a_worker_that_drains_with_nobody_waiting_makes_way_for_who_comes() -> None:
    async with cluster("a", terms=Terms(lease=1)) as made:
        await made.call(bodies.echo, 1)
        for session in made.workers["a"].sessions:
            session.session.say(Draining())
        await until(lambda: made.link("a").draining)
        await made.add("b")
        assert view(made) == ["b"]
        assert await made.call(bodies.echo, 1) == 1


async def test_where_all_drain_they_do_not_take_turns_for_ever() -> None:
    async with cluster(terms=Terms(lease=1)) as made:
        for uid in "abc":
            (await made.add(uid)).service.draining = True
        with pytest.raises(NoWorkersAvailable) as nobody:
            await made.call(bodies.echo, 1)
        assert set(nobody.value.reasons) == {"a", "b", "c"}
        assert len(view(made)) == 1
        assert sum(len(worker.sessions) for worker in made.workers.values()) <= 3


async def unfit(made: Cluster) -> Worker:
    """Start a worker that nobody can use, for good: it says that it speaks TLS."""
    worker = made.workers["a"] = Worker(made.network, "a", made.limits)
    await worker.listen()
    worker.service._metadata = dataclasses.replace(worker.metadata, secure=True)
    return worker


@pytest.mark.parametrize("by", ["name", "address"])
async def test_a_worker_that_does_not_prove_the_secret_makes_way_at_once_and_waits_for_its_turn(by: str) -> None:
    slow = dataclasses.replace(QUICK, reconnect_first_seconds=0.02, reconnect_most_seconds=60.0)
    async with cluster(terms=Terms(lease=1), limits=slow) as made:
        made.workers["a"] = stranger = Worker(made.network, "a", made.limits, secret=b"another")
        await stranger.listen()
        if by == "name":
            made.announce("a")
        else:
            tell(made, "worker-added", place("unix:/a"))
        await made.add("b")
        first = "a" if by == "name" else "unix:/a"
        assert view(made) == [first]
        assert await made.call(bodies.echo, 1) == 1
        assert view(made) == ["b"]
        stranger.service._secret = SECRET
        assert await made.call(bodies.echo, 2) == 2
        assert stranger.service.started == 0
        made.drop("b")
        assert view(made) == [first]
        assert await made.call(bodies.echo, 3) == 3
        assert stranger.service.started == 1


async def test_a_worker_that_refuses_for_good_takes_no_place() -> None:
    async with cluster(terms=Terms(lease=1)) as made:
        await unfit(made)
        made.announce("a")
        await made.add("b")
        assert view(made) == ["a"]
        assert await made.call(bodies.echo, 1) == 1
        assert view(made) == ["a", "b"]
        assert made.link("a").state is LinkState.REFUSED
        made.announce("a")  # anew: it may be another by now, and has to wait for its turn
        assert view(made) == ["b"]
        made.drop("b")
        assert view(made) == ["a"]
        assert "a" not in made.proxy._view.gone


async def test_a_worker_that_is_unreachable_for_a_moment_keeps_its_place() -> None:
    slow = dataclasses.replace(QUICK, reconnect_first_seconds=0.02, reconnect_most_seconds=60.0)
    async with cluster("a", terms=Terms(lease=1), limits=slow) as made:
        await made.call(bodies.echo, 1)
        await made.workers["a"].service.close()
        await until(lambda: made.link("a").backoff > 0.05)
        await made.add("b")
        assert view(made) == ["a"]
        made.workers["a again"] = again = Worker(made.network, "a", made.limits)
        await again.listen()
        await until(lambda: made.link("a").state is LinkState.OPEN)
        assert await made.call(bodies.echo, 2) == 2
        assert view(made) == ["a"]


async def test_a_call_that_nobody_takes_is_taken_by_one_that_waits_for_a_place() -> None:
    slow = dataclasses.replace(QUICK, reconnect_first_seconds=30.0, reconnect_most_seconds=60.0)
    async with cluster("a", "b", "c", terms=Terms(lease=1), limits=slow) as made:
        for uid in "ab":
            await made.workers[uid].service.close()
        assert view(made) == ["a"]
        assert await made.call(bodies.echo, 1) == 1
        assert view(made) == ["c"]
        await made.workers["c"].service.close()
        with pytest.raises(NoWorkersAvailable, match="it had one before"):
            await made.call(bodies.echo, 2)


@pytest.mark.parametrize("known_by", ["uid", "address"])
async def test_a_worker_that_stays_unreachable_makes_way_and_has_its_turn_again(known_by: str) -> None:
    names = {uid: f"unix:/{uid}" if known_by == "address" else uid for uid in ("a", "b")}

    def metadata(uid: str) -> WorkerMetadata:
        return place(names[uid]) if known_by == "address" else metadata_of(uid, f"unix:/{uid}")

    async with cluster(terms=Terms(lease=1)) as made:
        tell(made, "worker-added", metadata("a"))
        with pytest.raises(NoWorkersAvailable):
            await made.call(bodies.echo, 1)
        await made.add("b", announce=False)
        tell(made, "worker-added", metadata("b"))
        await until(lambda: view(made) == [names["b"]])
        assert await made.call(bodies.echo, 1) == 1
        await made.add("a", announce=False)
        tell(made, "worker-dropped", metadata("b"))
        assert view(made) == [names["a"]]
        assert await made.call(bodies.echo, 2) == 2


async def test_two_that_nobody_can_reach_do_not_take_turns_for_ever() -> None:
    async with cluster(terms=Terms(lease=1)) as made:
        made.announce("a")
        made.announce("b")
        with pytest.raises(NoWorkersAvailable):
            await made.call(bodies.echo, 1)
        await until(lambda: view(made) == ["b"])
        with pytest.raises(NoWorkersAvailable, match="it had one before"):
            await made.call(bodies.echo, 2)
        b = made.link("b")
        await until(lambda: b.backoff >= QUICK.reconnect_most_seconds)
        await asyncio.sleep(5 * QUICK.reconnect_most_seconds)
        assert (view(made), b.dropped) == (["b"], False)
        made.announce("c")  # one that has not had a place goes first
        assert view(made) == ["c"]


async def test_a_withdrawn_address_waits_for_no_place() -> None:
    async with cluster(terms=Terms(lease=1)) as made:
        for name in "ab":
            tell(made, "worker-added", place(f"unix:/{name}"))
        tell(made, "worker-dropped", place("unix:/b"))
        tell(made, "worker-dropped", place("unix:/a"))
        assert view(made) == []


async def test_of_addresses_those_where_somebody_is_wanted_have_the_places() -> None:
    terms = Terms(lease=1, tags=frozenset({"gpu"}))
    async with cluster(terms=terms) as made:
        for uid, tags in {"a": (), "b": ("gpu",), "c": ("gpu",)}.items():
            worker = made.workers[uid] = Worker(made.network, uid, made.limits)
            await worker.service.listen(
                worker.address, lambda address, uid=uid, tags=tags: metadata_of(uid, address, *tags)
            )
            tell(made, "worker-added", place(f"unix:/{uid}"))
        assert await made.call(bodies.echo, 1) == 1
        assert [worker.service.started for worker in made.workers.values()] == [0, 1, 0]
        assert view(made) == ["unix:/a", "b"]
        assert "worker a has not the tags gpu; its tags: none" in str(made.link("unix:/a").reason)


async def test_who_was_refused_at_its_address_and_is_no_more_finds_the_places_taken() -> None:
    soon = dataclasses.replace(QUICK, address_retry_seconds=0.05)
    async with cluster(terms=Terms(lease=1), limits=soon) as made:
        stranger = await unfit(made)
        tell(made, "worker-added", place("unix:/a"))
        await made.add("b")
        assert await made.call(bodies.echo, 1) == 1
        await stranger.service.close()
        await made.add("a", announce=False)
        await until(lambda: "comes too late" in str(made.link("unix:/a").reason))
        assert await made.call(bodies.echo, 1) == 1
        made.drop("b")
        await until(lambda: view(made) == ["a"])


async def test_while_who_was_refused_is_asked_again_it_has_no_place() -> None:
    soon = dataclasses.replace(QUICK, address_retry_seconds=0.05)
    async with cluster(terms=Terms(lease=1), limits=soon) as made:
        stranger = await unfit(made)
        tell(made, "worker-added", place("unix:/a"))
        await made.add("b")
        assert await made.call(bodies.echo, 1) == 1
        link = made.link("unix:/a")
        await until(lambda: link.state is LinkState.CONNECTING)
        assert [status.metadata.key for status in made.proxy._view.candidates()] == ["b"]
        await stranger.service.close()


async def test_an_error_names_who_waits_for_a_place() -> None:
    async with cluster(terms=Terms(lease=1)) as made:
        refusing = RawWorker(made.network, "a", made.limits)
        await refusing.listen()
        made.announce("a")
        made.announce("b")
        call = made.spawn(bodies.echo, 1)
        peer = await refusing.session()
        offer = await peer.expect(Offer)
        await peer.say(Reject(offer.number, RejectCode.ADMISSION, "full"))
        with pytest.raises(
            NoWorkersAvailable, match="b: TransientRpcError: it waits for one of the 1 places"
        ) as nobody:
            await call
        assert set(nobody.value.reasons) == {"a", "b"}
        await refusing.close()


# ---- tags --------------------------------------------------------------------------------------------


async def test_a_worker_must_have_all_tags() -> None:
    async with cluster(terms=Terms(tags=frozenset({"gpu", "large"}))) as made:
        for uid, tags in {"a": (), "b": ("gpu",), "c": ("large", "gpu", "eu")}.items():
            tell(made, "worker-added", metadata_of(uid, f"unix:/{uid}", *tags))
        assert view(made) == ["c"]


async def test_a_worker_that_gains_or_loses_a_tag_comes_or_goes() -> None:
    async with cluster(terms=GPU) as made:
        await made.add("a")
        assert view(made) == []
        tell(made, "worker-updated", metadata_of("a", "unix:/a", "gpu"))
        assert view(made) == ["a"]
        assert await made.call(bodies.echo, 1) == 1
        tell(made, "worker-updated", metadata_of("a", "unix:/a"))
        assert view(made) == []
        with pytest.raises(NoWorkersAvailable, match="has not the tags gpu"):
            await made.call(bodies.echo, 1)


async def test_a_call_waits_for_the_first_worker_with_the_tags_and_says_who_was_seen() -> None:
    async with cluster("a", "b", terms=GPU) as made:
        with pytest.raises(DispatchTimeout, match="within 0.03 s") as nobody:
            await made.call(bodies.echo, 1, dispatch_timeout=0.03)
        assert set(nobody.value.reasons) == {"a", "b"}
        assert "worker a has not the tags gpu; its tags: none" in str(nobody.value)
        assert {type(reason) for reason in nobody.value.reasons.values()} == {RpcError}
        made.drop("a")
        call = made.spawn(bodies.echo, 1)
        await made.add("c", announce=False)
        tell(made, "worker-added", metadata_of("c", "unix:/c", "gpu"))
        assert await call == 1


async def test_nobody_at_all_is_said_in_words() -> None:
    async with cluster(terms=GPU) as made:
        with pytest.raises(DispatchTimeout, match=r"\(dispatch_timeout\): none was found"):
            await made.call(bodies.echo, 1, dispatch_timeout=0.03)


async def test_of_ten_thousand_that_are_not_wanted_an_error_names_some() -> None:
    async with cluster(terms=GPU) as made:
        for number in range(10_000):
            tell(made, "worker-added", metadata_of(f"w{number}", "unix:/nobody"))
        with pytest.raises(DispatchTimeout) as nobody:
            await made.call(bodies.echo, 1, dispatch_timeout=0.03)
        assert 0 < len(nobody.value.reasons) <= 64


def test_terms_travel() -> None:
    terms = Terms(tags=frozenset({"gpu"}), lease=3, own=frozenset({"a"}))
    assert pickle.loads(pickle.dumps(terms)) == terms


# ---- whatever happens --------------------------------------------------------------------------------

UIDS = ["w0", "w1", "w2", "w3", "w4", "own"]
Step = tuple[str, str]
steps = st.tuples(st.sampled_from(["add", "drop", "at", "not at", "lose", "depart", "untag"]), st.sampled_from(UIDS))


@settings(max_examples=60, deadline=None)
@given(st.lists(steps, max_size=30), st.integers(1, 3))
def test_whatever_comes_and_goes_the_places_are_filled_and_never_more(story: list[Step], lease: int) -> None:
    asyncio.run(_told(story, lease))


async def _told(story: list[Step], lease: int) -> None:
    terms = Terms(lease=lease, tags=frozenset({"gpu"}), own=frozenset({"own"}))
    async with cluster(terms=terms) as made:
        announced: dict[str, None] = {}
        for what, uid in story:
            metadata, at = metadata_of(uid, f"unix:/{uid}", "gpu"), place(f"unix:/at-{uid}")
            before = [key for key in view(made) if key != "own"]
            match what:
                case "add":
                    tell(made, "worker-added", metadata)
                    announced[uid] = None
                case "drop":
                    tell(made, "worker-dropped", metadata)
                    announced.pop(uid, None)
                case "at":
                    tell(made, "worker-added", at)
                    announced[at.key] = None
                case "not at":
                    tell(made, "worker-dropped", at)
                    announced.pop(at.key, None)
                case "untag":
                    tell(made, "worker-updated", metadata_of(uid, f"unix:/{uid}"))
                    announced.pop(uid, None)
                case "depart":
                    made.proxy.departed(uid, TransientRpcError("killed"))
                    announced.pop(uid, None)
                case _ if uid in made.proxy._links:
                    made.link(uid).draining = True
                    made.proxy._view.make_way()
                case _:
                    pass
            own = {"own"} & announced.keys()
            held = [key for key in view(made) if key != "own"]
            assert ("own" in view(made)) == bool(own)
            assert len(held) == min(lease, len(announced) - len(own)), (what, uid, announced, held)
            # Who has had a place and is announced still has it, unless it drains.
            lost = {key for key in before if key in announced and key not in held}
            assert what == "lose" or lost <= drained(made), (what, uid, before, held)
            assert not {key for key in made.proxy._view.outside._waiting if key in view(made)}


def drained(made: Cluster) -> set[str]:
    waiting = made.proxy._view.outside._waiting.values()
    return {candidate.metadata.key for candidate in waiting if candidate.why is not None}


@pytest.mark.parametrize("seed", range(8))
async def test_whoever_has_the_places_every_call_ends_and_no_body_begins_twice(seed: int) -> None:
    dice, uids = random.Random(seed), [f"w{number}" for number in range(5)]
    limits = dataclasses.replace(QUICK, dispatch_timeout_seconds=1.0)
    async with cluster(terms=Terms(lease=2), limits=limits) as made:
        calls: list[asyncio.Task[object]] = []
        serving: dict[str, Worker] = {}
        for step in range(80):
            uid = dice.choice(uids)
            match dice.randrange(8):
                case 0 | 1:
                    made.announce(uid)
                case 2:
                    made.drop(uid)
                case 3 if uid in serving:
                    await serving.pop(uid).service.close()
                case 3 | 4 if uid not in serving:
                    serving[uid] = made.workers[f"{uid} {step}"] = worker = Worker(made.network, uid, limits)
                    await worker.listen()
                case 4:
                    for session in serving[uid].sessions:
                        session.session.say(Draining())
                case _:
                    calls.append(made.spawn(bodies.echo, step))
            await made.settle(dice.randrange(30))
            assert len(made.proxy._view._holders()) <= 2
        ends = await asyncio.gather(*calls, return_exceptions=True)
        assert {type(end) for end in ends if isinstance(end, BaseException)} <= {
            NoWorkersAvailable,
            DispatchTimeout,
            WorkerLost,
        }
        assert all(count == 1 for count in bodies.begun.values())
        assert not made.proxy._active
