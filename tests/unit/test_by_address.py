"""Workers of which discovery knows the address alone: who is there is learnt, and only the view changes by it."""

from __future__ import annotations

import asyncio
import dataclasses
import pickle
import random
from collections.abc import Iterator
from typing import Any

import pytest

from support import bodies
from support.one_loop import QUICK, Cluster, Worker, cluster, metadata_of, of_another_python, until
from wool.admission import Terms
from wool.balancer import WorkerStatus
from wool.discovery.base import DiscoveryEvent, DiscoveryEventType, WorkerFilter, WorkerMetadata
from wool.errors import NoWorkersAvailable, RpcError, TransientRpcError, WorkerLost
from wool.limits import Limits
from wool.link import LinkState
from wool.task import Task

SOON = dataclasses.replace(QUICK, address_retry_seconds=0.1)


@pytest.fixture(autouse=True)
def clean() -> Iterator[None]:
    bodies.reset()
    yield
    bodies.reset()


def tell(made: Cluster, type: DiscoveryEventType, address: str, wanted: WorkerFilter | None = None) -> None:
    made.proxy.discovered(DiscoveryEvent(type, WorkerMetadata.at(address), wanted))


def add(made: Cluster, *addresses: str, wanted: WorkerFilter | None = None) -> None:
    for address in addresses:
        tell(made, "worker-added", address, wanted)


async def serve(made: Cluster, uid: str, address: str, limits: Limits | None = None, **options: Any) -> Worker:
    worker = Worker(made.network, uid, limits or made.limits, address=address, **options)
    made.workers[f"{uid} {address}"] = worker
    await worker.listen()
    return worker


def keys(made: Cluster) -> list[str]:
    """Return what the workers in view are called; and that the books agree on it."""
    proxy = made.proxy
    for key, link in proxy._links.items():
        assert key == link.uid == link.status.metadata.key
        assert not link.dropped
    for address, link in proxy._view.addresses.items():
        assert link.place == WorkerMetadata.at(address)
        assert proxy._links[link.uid] is link
    return sorted(proxy._links)


def address_of(made: Cluster, key: str) -> str:
    link = made.proxy._links.get(key)
    return "" if link is None else link.status.metadata.address


# ---- what stands for a worker that nobody knows yet ----------------------------------------------------


def test_a_worker_of_which_the_address_is_known_is_called_by_it() -> None:
    place = WorkerMetadata.at("10.0.0.1:7000")
    assert (place.uid, place.key, metadata_of("a", "unix:/a").key) == ("", "10.0.0.1:7000", "a")
    assert pickle.loads(pickle.dumps(place)) == place


def test_no_record_and_no_handshake_may_leave_the_uid_out() -> None:
    with pytest.raises(ValueError, match="uid"):
        WorkerMetadata.from_bytes(WorkerMetadata.at("10.0.0.1:7000").to_bytes())


@pytest.mark.parametrize(("uid", "version"), [("", "1"), ("a", "")])
def test_nothing_but_the_address_may_be_known_or_all_of_it(uid: str, version: str) -> None:
    with pytest.raises(ValueError, match="1 to 64"):
        WorkerMetadata(uid=uid, address="unix:/a", pid=1, version=version)


# ---- learning who it is ------------------------------------------------------------------------------


async def test_a_worker_known_by_its_address_runs_calls_and_its_metadata_is_learnt() -> None:
    async with cluster() as made:
        await serve(made, "a", "unix:/here")
        add(made, "unix:/here")
        assert keys(made) == ["unix:/here"]
        assert await asyncio.gather(*(made.call(bodies.echo, number) for number in range(20))) == list(range(20))
        assert keys(made) == ["a"]
        (status,) = made.proxy.workers()
        assert status.metadata == metadata_of("a", "unix:/here")
        assert (status.in_flight, set(bodies.begun.values())) == (0, {1})


async def test_with_credentials_the_address_that_was_dialled_counts_and_not_the_one_the_worker_has_bound() -> None:
    async with cluster(terms=Terms(secure=True)) as made:
        worker = await serve(made, "a", "unix:/here")
        worker.service._metadata = dataclasses.replace(worker.metadata, address="0.0.0.0:7000", secure=True)
        add(made, "unix:/here")
        await made.call(bodies.echo, 1)
        assert made.link("a").status.metadata.address == "unix:/here"


async def test_nothing_is_opened_before_a_call_needs_it() -> None:
    async with cluster() as made:
        worker = await serve(made, "a", "unix:/here")
        add(made, "unix:/here")
        await asyncio.sleep(0.05)
        assert not worker.sessions


async def test_an_address_that_is_told_again_does_no_harm() -> None:
    async with cluster() as made:
        worker = await serve(made, "a", "unix:/here")
        for _ in range(3):
            add(made, "unix:/here")
            tell(made, "worker-updated", "unix:/here")
            await made.call(bodies.echo, 1)
        assert keys(made) == ["a"]
        assert len(worker.sessions) == 1
        for _ in range(2):
            tell(made, "worker-dropped", "unix:/here")
            tell(made, "worker-dropped", "unix:/never")
        assert keys(made) == []


async def test_a_balancer_sees_it_before_and_after() -> None:
    seen: list[tuple[str, str]] = []

    class Looking:
        def order(self, task: Task, workers: list[WorkerStatus], /) -> list[WorkerStatus]:
            seen.extend((worker.metadata.uid, worker.metadata.address) for worker in workers)
            return workers

    async with cluster(balancer=Looking()) as made:  # type: ignore[arg-type]
        await serve(made, "a", "unix:/here")
        add(made, "unix:/here")
        await made.call(bodies.echo, 1)
        await made.call(bodies.echo, 2)
    assert seen == [("", "unix:/here"), ("a", "unix:/here")]


# ---- another one answers -----------------------------------------------------------------------------


async def test_another_uid_at_the_same_address_is_another_worker() -> None:
    async with cluster() as made:
        first = await serve(made, "a", "unix:/here")
        add(made, "unix:/here")
        await made.call(bodies.echo, 1)
        assert keys(made) == ["a"]
        await first.service.close()
        second = await serve(made, "b", "unix:/here")
        assert await made.call(bodies.echo, 2) == 2
        assert keys(made) == ["b"]
        assert (first.service.started, second.service.started) == (1, 1)
        assert "b answers at unix:/here" in str(made.proxy._view.gone["a"])


async def test_a_task_that_was_started_never_goes_to_who_took_the_address_over() -> None:
    async with cluster() as made:
        first = await serve(made, "a", "unix:/here")
        add(made, "unix:/here")
        call = made.spawn(bodies.wait_for, "gate")
        await until(lambda: bodies.story == ["gate begun"])
        for session in first.sessions:
            session.session.abort("cut off")
        with pytest.raises(WorkerLost):
            await call
        await first.service.close()
        second = await serve(made, "b", "unix:/here")
        assert await made.call(bodies.echo, 2) == 2
        assert second.service.started == 1
        assert set(bodies.begun.values()) == {1}


async def test_of_two_addresses_of_one_worker_one_is_used() -> None:
    async with cluster() as made:
        one = await serve(made, "a", "unix:/one")
        other = await serve(made, "a", "unix:/other")
        add(made, "unix:/one", "unix:/other")
        assert await asyncio.gather(*(made.call(bodies.echo, number) for number in range(20))) == list(range(20))
        await until(lambda: any(link.state is LinkState.REFUSED for link in made.proxy._links.values()))
        await until(lambda: len(one.sessions) + len(other.sessions) == 1)
        assert len(keys(made)) == 2
        (refused,) = [link for link in made.proxy._links.values() if link.state is LinkState.REFUSED]
        assert "worker a is in use already, at unix:/o" in str(refused.reason)
        assert len(made.proxy._view.candidates()) == 1
        assert set(bodies.begun.values()) == {1}


@pytest.mark.parametrize("how", ["withdrawn", "lost"])
async def test_the_other_address_of_a_worker_takes_over(how: str) -> None:
    async with cluster() as made:
        one = await serve(made, "a", "unix:/one")
        other = await serve(made, "a", "unix:/other")
        add(made, "unix:/one")
        await made.call(bodies.echo, 0)
        add(made, "unix:/other")
        await until_used(made)
        if how == "withdrawn":
            tell(made, "worker-dropped", "unix:/one")
        else:
            await one.service.close()
        await until(lambda: address_of(made, "a") == "unix:/other")
        assert await made.call(bodies.echo, 1) == 1
        assert other.service.started == 1
        keys(made)


async def until_used(made: Cluster) -> None:
    """Call until no worker in view is one that nobody has asked who it is."""

    async def called() -> bool:
        await made.call(bodies.echo, None)
        return all(
            link.state in (LinkState.OPEN, LinkState.REFUSED) for link in made.proxy._links.values() if not link.dropped
        )

    async with asyncio.timeout(5):
        while not await called():
            await asyncio.sleep(0.005)


async def test_a_worker_that_discovery_names_is_not_used_twice_by_its_address() -> None:
    async with cluster() as made:
        await made.add("a")
        await serve(made, "a", "unix:/other")
        await made.call(bodies.echo, 0)
        add(made, "unix:/other")
        await until_used(made)
        assert keys(made) == ["a", "unix:/other"]
        assert made.link("a").status.metadata.address == "unix:/a"
        made.drop("a")
        await until(lambda: keys(made) == ["a"])
        assert made.link("a").status.metadata.address == "unix:/other"


async def test_a_worker_known_by_its_address_that_discovery_names_elsewhere_is_used_there() -> None:
    async with cluster() as made:
        await serve(made, "a", "unix:/other")
        add(made, "unix:/other")
        await made.call(bodies.echo, 0)
        await made.add("a")
        await until_used(made)
        assert keys(made) == ["a", "unix:/other"]
        assert await made.call(bodies.echo, 1) == 1
        assert made.link("a").status.metadata.address == "unix:/a"


async def test_a_worker_that_is_said_to_have_ended_is_looked_for_again_at_its_address() -> None:
    async with cluster() as made:
        await serve(made, "a", "unix:/here")
        add(made, "unix:/here")
        await made.call(bodies.echo, 0)
        made.proxy.departed("a", TransientRpcError("killed"))
        assert keys(made) == ["unix:/here"]
        assert await made.call(bodies.echo, 1) == 1
        assert keys(made) == ["a"]


# ---- nobody, or nobody who is wanted -----------------------------------------------------------------


async def test_an_address_where_nobody_answers_is_named_in_the_reasons() -> None:
    async with cluster() as made:
        add(made, "unix:/nobody", "unix:/nowhere")
        with pytest.raises(NoWorkersAvailable) as caught:
            await made.call(bodies.echo, 1)
        assert set(caught.value.reasons) == {"unix:/nobody", "unix:/nowhere"}
        assert {type(reason) for reason in caught.value.reasons.values()} == {TransientRpcError}


async def test_an_address_is_probed_until_somebody_answers() -> None:
    async with cluster() as made:
        add(made, "unix:/late")
        with pytest.raises(NoWorkersAvailable):
            await made.call(bodies.echo, 1)
        await serve(made, "a", "unix:/late")
        await until(lambda: keys(made) == ["a"])
        assert await made.call(bodies.echo, 1) == 1


async def test_a_withdrawn_address_gets_no_new_call_and_keeps_what_was_started() -> None:
    async with cluster() as made:
        worker = await serve(made, "a", "unix:/here")
        add(made, "unix:/here")
        call = made.spawn(bodies.wait_for, "gate")
        await until(lambda: bodies.story)
        tell(made, "worker-dropped", "unix:/here")
        assert keys(made) == []
        with pytest.raises(NoWorkersAvailable, match="unix:/here was withdrawn"):
            await made.call(bodies.echo, 1)
        bodies.gates["gate"].set()
        assert await call == "gate"
        await until(lambda: not worker.sessions)


async def test_an_address_that_is_withdrawn_in_the_middle_of_its_handshake_stays_away() -> None:
    async with cluster() as made:
        worker = await serve(made, "a", "unix:/here")
        add(made, "unix:/here")
        for turns in range(40):
            call = made.spawn(bodies.echo, turns)
            await made.settle(turns)
            tell(made, "worker-dropped", "unix:/here")
            assert keys(made) == []
            await asyncio.wait([call])
            add(made, "unix:/here")
        tell(made, "worker-dropped", "unix:/here")
        await until(lambda: not worker.sessions)
        assert keys(made) == []
        assert all(count == 1 for count in bodies.begun.values())


async def test_a_worker_that_the_filter_does_not_want_gets_no_call() -> None:
    async with cluster(limits=SOON) as made:
        unwanted = await serve(made, "a", "unix:/one")
        wanted = await serve(made, "b", "unix:/other")
        add(made, "unix:/one", "unix:/other", wanted=lambda metadata: metadata.uid == "b")
        assert await asyncio.gather(*(made.call(bodies.echo, number) for number in range(10))) == list(range(10))
        await until_used(made)
        assert (unwanted.service.started, unwanted.sessions) == (0, [])
        assert wanted.service.started >= 10
        tell(made, "worker-dropped", "unix:/other")
        with pytest.raises(NoWorkersAvailable, match="worker a at unix:/one is not one that the filter wants"):
            await made.call(bodies.echo, 1)


async def test_a_draining_worker_that_is_not_wanted_is_left_without_a_fuss(caplog: pytest.LogCaptureFixture) -> None:
    async with cluster() as made:
        worker = await serve(made, "a", "unix:/here")
        worker.service.draining = True
        add(made, "unix:/here", wanted=lambda metadata: False)
        with pytest.raises(NoWorkersAvailable, match="is not one that the filter wants"):
            await made.call(bodies.echo, 1)
        await until(lambda: not worker.sessions)
    assert not [record for record in caplog.records if record.levelname in ("WARNING", "ERROR")]


async def test_a_filter_that_fails_is_the_reason() -> None:
    def fail(metadata: WorkerMetadata) -> bool:
        raise LookupError("no such tag")

    async with cluster() as made:
        await serve(made, "a", "unix:/here")
        add(made, "unix:/here", wanted=fail)
        with pytest.raises(NoWorkersAvailable, match=r"the filter failed on worker a .*no such tag"):
            await made.call(bodies.echo, 1)


async def test_who_was_refused_for_good_is_asked_again_in_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    async with cluster(limits=SOON) as made:
        first = await serve(made, "a", "unix:/here")
        add(made, "unix:/here")
        with monkeypatch.context() as patch:
            of_another_python(patch)
            with pytest.raises(NoWorkersAvailable) as caught:
                await made.call(bodies.echo, 1)
        (reason,) = caught.value.reasons.values()
        assert type(reason) is RpcError
        await first.service.close()
        await serve(made, "b", "unix:/here")
        await until(lambda: keys(made) == ["b"])
        assert await made.call(bodies.echo, 1) == 1


async def test_a_worker_at_an_address_that_did_not_prove_the_secret_is_used_once_it_does() -> None:
    limits = dataclasses.replace(QUICK, address_retry_seconds=3600.0)
    async with cluster(limits=limits) as made:
        first = await serve(made, "a", "unix:/here", secret=b"another")
        add(made, "unix:/here")
        with pytest.raises(NoWorkersAvailable, match="did not prove"):
            await made.call(bodies.echo, 1)
        assert keys(made) == ["unix:/here"]
        await first.service.close()
        await serve(made, "b", "unix:/here")
        await until(lambda: keys(made) == ["b"])
        assert await made.call(bodies.echo, 1) == 1


async def test_a_refused_address_that_is_withdrawn_is_not_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    of_another_python(monkeypatch)
    async with cluster(limits=SOON) as made:
        await serve(made, "a", "unix:/here")
        add(made, "unix:/here")
        with pytest.raises(NoWorkersAvailable):
            await made.call(bodies.echo, 1)
        (link,) = made.proxy._links.values()
        tell(made, "worker-dropped", "unix:/here")
        await asyncio.sleep(2 * SOON.address_retry_seconds)
        assert (keys(made), link.state) == ([], LinkState.REFUSED)


# ---- whatever happens --------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(12))
async def test_whatever_moves_between_addresses_no_body_begins_twice(seed: int) -> None:
    dice = random.Random(seed)
    addresses = [f"unix:/place-{number}" for number in range(3)]
    serving: dict[str, Worker] = {}
    limits = dataclasses.replace(SOON, dispatch_timeout_seconds=1.0)
    async with cluster(limits=limits) as made:
        calls: list[asyncio.Task[Any]] = []
        for step in range(60):
            address = dice.choice(addresses)
            match dice.randrange(7):
                case 0:
                    add(made, address)
                case 1:
                    tell(made, "worker-dropped", address)
                case 2 if address in serving:
                    await serving.pop(address).service.close()
                case 2 | 3 if address not in serving:
                    serving[address] = worker = Worker(made.network, f"w{dice.randrange(3)}", limits, address=address)
                    made.workers[f"{step}"] = worker
                    await worker.listen()
                case _:
                    calls.append(made.spawn(bodies.echo, step))
            await made.settle(dice.randrange(30))
            keys(made)
        for address in addresses:
            tell(made, "worker-dropped", address)
            if address in serving:
                await serving.pop(address).service.close()
        ends = await asyncio.gather(*calls, return_exceptions=True)
        assert {type(end) for end in ends if isinstance(end, BaseException)} <= {NoWorkersAvailable, WorkerLost}
        assert all(count == 1 for count in bodies.begun.values())
        ran = sum(1 for end in ends if not isinstance(end, (NoWorkersAvailable, WorkerLost)))
        assert ran <= len(bodies.begun)
        await until(lambda: not made.proxy._active)
        assert keys(made) == []
