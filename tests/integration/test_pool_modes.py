"""The four modes of a pool, on real workers: what it starts, what it finds, whom it takes, what others see of it."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

import wool
from support.faults import InOrder, Journal, frozen, is_alive, kill, statuses, until, workers
from support.own_discovery import (
    AsyncManager,
    Entered,
    Manager,
    NotingManager,
    OpenOwnDiscovery,
    OwnDiscovery,
    SelfManager,
)
from support.scripts import Place, user_place
from support.traced import run, run_nested, run_until
from wool.limits import Limits
from wool.pool import WorkerPool
from wool.runtime import real_runtime, set_runtime


@pytest.fixture(autouse=True)
def place(monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    with user_place() as made:
        monkeypatch.setenv("XDG_RUNTIME_DIR", str(made.runtime))
        monkeypatch.setenv("TMPDIR", str(made.temporary))
        yield made


@pytest.fixture(autouse=True)
def clean() -> Iterator[None]:
    Entered.story.clear()
    yield
    Entered.story.clear()


def pids(of: Sequence[Any]) -> set[int]:
    return {worker.pid if isinstance(worker, wool.WorkerMetadata) else worker.metadata.pid for worker in of}


async def used(journal: Journal, calls: int = 12) -> set[int]:
    """Return where calls run."""
    return set(await asyncio.gather(*(run(journal.path, journal.new_call()) for _ in range(calls))))


async def used_by_bodies(journal: Journal, depth: int = 12) -> set[int]:
    """Return where the calls of bodies run, of which each makes the next."""
    return set(await run_nested(journal.path, journal.new_call(), depth))


async def known(pool: WorkerPool, wanted: set[int]) -> None:
    """Wait until the pool has these workers in view, and no others."""
    await until(lambda: set(statuses(pool)) == wanted, what=f"a view of {wanted}")


@contextlib.asynccontextmanager
async def published(
    discovery: wool.DiscoveryLike, *tags: str, host: str | None = None
) -> AsyncIterator[list[wool.LocalWorker]]:
    """Workers that somebody else has started and published, one per tag, in this order."""
    async with workers(*tags, host=host) as started:
        for worker in started:
            await discovery.publisher.publish("worker-added", worker.metadata)
        yield started


def without_processes() -> None:
    """From here on nothing may be started."""

    def launcher() -> Any:
        pytest.fail("a worker was started")

    set_runtime(dataclasses.replace(real_runtime(), launcher=launcher))


OTHER = """
import asyncio, sys
import wool
from support.routines import where

async def answer(line):
    return set(await asyncio.gather(*(where() for _ in range(12))))

async def main():
    loop = asyncio.get_running_loop()
    with wool.LocalDiscovery(sys.argv[1]) as discovery:
        async with {open}:
            print("ready", {pids}, flush=True)
            while line := await loop.run_in_executor(None, sys.stdin.readline):
                pids = {{pid for pid, *_ in await asyncio.gather(*(where() for _ in range(12)))}}
                print("used", *sorted(pids), flush=True)

asyncio.run(main())
"""


@contextlib.contextmanager
def another_process(namespace: str, open: str, pids: str = "''") -> Iterator[subprocess.Popen[str]]:
    """Another program of this user, in which a pool is open."""
    process = subprocess.Popen(
        [sys.executable, "-c", OTHER.format(open=open, pids=pids), namespace],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    with process:
        try:
            yield process
        finally:
            assert process.stdin is not None
            process.stdin.close()
            process.wait(30)


async def said(process: subprocess.Popen[str], word: str) -> list[int]:
    """Read what the other process says."""
    assert process.stdout is not None
    line = (await asyncio.to_thread(process.stdout.readline)).split()
    assert line[:1] == [word], line
    return [int(word) for word in line[1:]]


async def asked(process: subprocess.Popen[str]) -> set[int]:
    """Let the other process make calls; return where they ran."""
    assert process.stdin is not None
    process.stdin.write("\n")
    process.stdin.flush()
    return set(await said(process, "used"))


# ---- the four modes ----------------------------------------------------------------------------------


async def test_by_default_a_pool_starts_a_worker_per_cpu_and_uses_no_others(
    journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 3}, raising=False)
    with wool.LocalDiscovery() as discovery:
        async with published(discovery, "another"), wool.WorkerPool() as pool:
            assert len(pool.workers) == 2
            assert await used(journal) == pids(pool.workers)


async def test_an_ephemeral_pool_starts_as_many_as_it_is_told_and_nobody_else_finds_them(journal: Journal) -> None:
    with wool.LocalDiscovery() as discovery:
        async with wool.WorkerPool(size=3) as pool, wool.WorkerPool(discovery=discovery):
            assert len(pids(pool.workers)) == 3
            with pytest.raises(wool.DispatchTimeout), wool.RuntimeContext(dispatch_timeout=0.3):
                await run(journal.path, journal.new_call())


async def test_a_durable_pool_starts_nobody_and_uses_all_that_are_found(journal: Journal) -> None:
    with wool.LocalDiscovery() as discovery:
        async with published(discovery, "one", "two") as found:
            without_processes()
            async with wool.WorkerPool(discovery=discovery) as pool:
                assert (pool.size, pool.workers) == (0, ())
                await known(pool, pids(found))
                assert await used(journal) == pids(found)
            assert all(map(is_alive, pids(found)))


async def test_a_hybrid_pool_uses_its_own_and_those_that_are_found_and_size_caps_neither(journal: Journal) -> None:
    with wool.LocalDiscovery() as discovery:
        async with published(discovery, "one", "two", "three") as found:
            async with wool.WorkerPool(size=1, discovery=discovery) as pool:
                assert len(pool.workers) == 1
                await known(pool, pids(found) | pids(pool.workers))
                assert await used(journal) == pids(found) | pids(pool.workers)
                own = pids(pool.workers)
            assert not any(map(is_alive, own))
            assert all(map(is_alive, pids(found)))


async def test_programs_find_the_workers_of_each_others_hybrid_pools(journal: Journal) -> None:
    discovery = wool.LocalDiscovery("shared")
    hybrid = "wool.WorkerPool(size=1, discovery=discovery) as pool"
    with another_process("shared", hybrid, "*(worker.pid for worker in pool.workers)") as other:
        theirs = set(await said(other, "ready"))
        async with wool.WorkerPool(size=2, discovery=discovery) as pool:
            everybody = theirs | pids(pool.workers)
            await known(pool, everybody)
            assert await used(journal) == everybody
            while await asked(other) != everybody:
                pass
            assert await used_by_bodies(journal) == everybody
        assert await asked(other) == theirs


@pytest.mark.alone
async def test_a_hybrid_pool_is_found_on_the_network_where_its_workers_listen_on_tcp(
    journal: Journal, place: Place
) -> None:
    pytest.importorskip("zeroconf", reason="needs the extra wool[lan]")

    def lan() -> wool.LanDiscovery:
        return wool.LanDiscovery(interfaces=["127.0.0.1"])

    with pytest.raises(ValueError, match="unix:") as caught:
        async with wool.WorkerPool(size=1, discovery=lan):
            pytest.fail("entered")
    assert "host='127.0.0.1'" in caught.value.__notes__[0]
    assert place.left() == []
    tag = os.urandom(8).hex()
    async with (
        wool.WorkerPool(tag, size=2, discovery=lan, host="127.0.0.1") as pool,
        wool.WorkerPool(tag, discovery=lan()) as other,
    ):
        await known(other, pids(pool.workers))
        assert await used(journal) == await used_by_bodies(journal) == pids(pool.workers)
    assert place.left() == []


async def test_a_program_that_finds_workers_need_not_start_any(journal: Journal) -> None:
    discovery = wool.LocalDiscovery("shared")
    async with wool.WorkerPool(size=2, discovery=discovery) as pool:
        with another_process("shared", "wool.WorkerPool(discovery=discovery)") as other:
            await said(other, "ready")
            while await asked(other) != pids(pool.workers):
                pass


async def test_workers_come_and_go_while_a_pool_is_open(journal: Journal) -> None:
    with wool.LocalDiscovery() as discovery:
        async with wool.WorkerPool(size=1, discovery=discovery) as pool:
            own = pids(pool.workers)
            assert await used(journal) == own
            async with published(discovery, "late") as found:
                await known(pool, own | pids(found))
                assert await used(journal) == own | pids(found)
                await discovery.publisher.publish("worker-dropped", found[0].metadata)
                await known(pool, own)
                assert await used(journal) == own


async def test_a_pool_that_is_left_withdraws_its_workers_before_it_stops_them(place: Place) -> None:
    alive: list[tuple[str, bool]] = []
    discovery = OwnDiscovery("own")
    discovery.before_publish = lambda type, metadata: alive.append((type, is_alive(metadata.pid)))
    async with wool.WorkerPool(size=2, discovery=discovery):
        pass
    assert sorted(alive) == [("worker-added", True)] * 2 + [("worker-dropped", True)] * 2


@pytest.mark.parametrize("own", [False, True], ids=["wool's discovery", "the user's"])
async def test_a_worker_of_a_hybrid_pool_that_dies_is_withdrawn_and_the_others_go_on(
    own: bool, journal: Journal
) -> None:
    discovery: Any = OwnDiscovery("shared") if own else wool.LocalDiscovery("shared")
    with wool.LocalDiscovery("shared") as seen:
        async with wool.WorkerPool(size=2, discovery=discovery) as pool, wool.WorkerPool(discovery=seen) as other:
            await known(other, pids(pool.workers))
            victim = min(pids(pool.workers))
            kill(victim)
            await until(lambda: victim not in statuses(other) and victim not in statuses(pool))
            assert await used(journal) == pids(pool.workers)
            assert len(pool.workers) == 1


async def test_a_worker_of_a_hybrid_pool_that_drains_is_withdrawn_and_finishes(
    journal: Journal, tmp_path: Path
) -> None:
    gate = tmp_path / "gate"
    with wool.LocalDiscovery() as discovery:
        async with (
            wool.WorkerPool(size=2, discovery=discovery) as pool,
            wool.WorkerPool(discovery=discovery) as other,
        ):
            own = pids(pool.workers)
            await known(other, own)
            running = asyncio.create_task(run_until(journal.path, "running", str(gate)))
            draining = await journal.appears("begin", "running")
            os.kill(draining, signal.SIGTERM)
            await known(other, own - {draining})
            assert await used(journal) == own - {draining}
            assert is_alive(draining)
            gate.touch()
            assert await running == draining


# ---- a lease, tags -----------------------------------------------------------------------------------


async def test_a_lease_caps_who_is_found_and_not_who_is_started(journal: Journal) -> None:
    with wool.LocalDiscovery() as discovery:
        async with published(discovery, "one", "two", "three") as found:
            async with wool.WorkerPool(size=2, discovery=discovery, lease=1) as pool:
                admitted = pids(pool.workers) | pids(found[:1])
                await known(pool, admitted)
                assert await used(journal) == admitted
                assert await used_by_bodies(journal, 20) == admitted
                kill(found[0].metadata.pid)
                await known(pool, pids(pool.workers) | pids(found[1:2]))
                assert await used(journal) == pids(pool.workers) | pids(found[1:2])


async def test_a_pool_uses_those_that_have_all_its_tags(journal: Journal) -> None:
    with wool.LocalDiscovery() as discovery:
        async with published(discovery, "gpu", "cpu") as [gpu, cpu]:
            both = dataclasses.replace(cpu.metadata, tags=frozenset({"gpu", "cpu"}))
            await discovery.publisher.publish("worker-updated", both)
            async with wool.WorkerPool("gpu", discovery=discovery) as pool:
                await known(pool, pids([gpu, cpu]))
            async with wool.WorkerPool("gpu", "cpu", discovery=discovery) as pool:
                await known(pool, pids([cpu]))
                assert await used(journal) == await used_by_bodies(journal) == pids([cpu])
                await discovery.publisher.publish("worker-updated", cpu.metadata)
                await known(pool, set())


async def test_the_workers_of_a_hybrid_pool_have_its_tags() -> None:
    with wool.LocalDiscovery() as discovery:
        async with (
            wool.WorkerPool("gpu", size=1, discovery=discovery) as pool,
            wool.WorkerPool("gpu", discovery=discovery) as same,
            wool.WorkerPool("tpu", discovery=discovery) as other,
        ):
            await known(same, pids(pool.workers))
            assert not statuses(other)


# ---- nobody yet --------------------------------------------------------------------------------------


async def test_a_call_of_a_durable_pool_waits_for_the_first_worker(journal: Journal) -> None:
    with wool.LocalDiscovery() as discovery:
        async with wool.WorkerPool(discovery=discovery):
            call = asyncio.create_task(run(journal.path, "call"))
            async with published(discovery, "first") as found:
                assert {await call} == pids(found)


async def test_a_durable_pool_says_what_it_waited_for(journal: Journal) -> None:
    with wool.LocalDiscovery("jobs") as discovery:
        async with wool.WorkerPool("gpu", "eu", discovery=discovery):
            began = time.monotonic()
            with pytest.raises(wool.DispatchTimeout) as caught, wool.RuntimeContext(dispatch_timeout=0.5):
                await run(journal.path, "call")
            assert 0.5 <= time.monotonic() - began < 10
            for words in ("<LocalDiscovery 'jobs'", "with the tags eu, gpu", "within 0.5 s", "none was found"):
                assert words in str(caught.value)
            async with published(discovery, "gpu") as [worker]:
                with pytest.raises(wool.DispatchTimeout) as caught, wool.RuntimeContext(dispatch_timeout=1.5):
                    await run(journal.path, "call")
                assert list(caught.value.reasons) == [worker.metadata.uid]
                assert "has not the tags eu; its tags: gpu" in str(caught.value)
    assert journal.executions("call") == 0


async def test_an_address_where_nobody_is_yet_is_said_at_once_and_used_when_somebody_is(journal: Journal) -> None:
    async with workers("one", host="127.0.0.1") as [worker]:
        address = worker.metadata.address
    async with wool.WorkerPool(discovery=wool.StaticDiscovery(address)) as pool:
        with pytest.raises(wool.NoWorkersAvailable, match=address):
            await run(journal.path, "early")
        late = wool.LocalWorker(host="127.0.0.1", port=int(address.rpartition(":")[2]))
        async with late:
            await known(pool, {late.metadata.pid})
            assert await run(journal.path, "late") == late.metadata.pid
    assert journal.executions("early") == 0


# ---- nested calls ------------------------------------------------------------------------------------


async def test_bodies_see_the_pool_whose_workers_are_at_given_addresses(journal: Journal) -> None:
    async with workers("one", "two", host="127.0.0.1") as found:
        addresses = [worker.metadata.address for worker in found]
        async with wool.WorkerPool(discovery=lambda: wool.StaticDiscovery(*addresses)):
            assert await used_by_bodies(journal) == pids(found)


async def test_a_discovery_that_cannot_travel_is_made_anew_for_bodies_where_what_makes_it_can(
    journal: Journal,
) -> None:
    async with wool.WorkerPool(size=2, discovery=lambda: OwnDiscovery("own")) as pool:
        assert await used_by_bodies(journal) == pids(pool.workers)
        assert await used(journal) == pids(pool.workers)


async def test_a_discovery_that_cannot_travel_in_any_form_is_said_to_the_body(journal: Journal) -> None:
    async with wool.WorkerPool(size=1, discovery=OwnDiscovery("own")) as pool:
        assert await used(journal) == pids(pool.workers)
        with pytest.raises(RuntimeError, match=r"cannot be described to workers: .*pickle.*a function that makes"):
            await run_nested(journal.path, "nested", 1)


async def test_what_fails_to_open_for_a_body_is_tried_anew_by_the_next(journal: Journal, tmp_path: Path) -> None:
    broken = tmp_path / "broken"

    def make() -> Any:
        if os.path.exists(broken):
            raise LookupError("no discovery today")
        return AsyncManager(OwnDiscovery("own"))

    async with wool.WorkerPool(size=1, discovery=make) as pool:
        broken.touch()
        for _ in range(2):
            with pytest.raises(LookupError, match="no discovery today"):
                await run_nested(journal.path, "nested", 1)
        broken.unlink()
        assert await used_by_bodies(journal) == pids(pool.workers)


async def test_workers_that_nobody_uses_let_go_of_each_other_and_find_each_other_again(
    journal: Journal, caplog: pytest.LogCaptureFixture
) -> None:
    set_runtime(real_runtime(limits=Limits(nested_idle_seconds=0.3)))
    with wool.LocalDiscovery("own") as discovery:
        async with published(discovery, "one", "two") as found:
            for _ in range(2):
                discoverers = wool.WorkerPool(
                    discovery=discovery, loadbalancer=lambda: NotingManager(wool.RoundRobinLoadBalancer(), journal.path)
                )
                async with discoverers:
                    await journal_settles(journal, pids(found))
                    for _ in range(2):
                        assert await used_by_bodies(journal) == pids(found)
                        await journal_settles(journal, pids(found))


async def journal_settles(journal: Journal, of: set[int]) -> None:
    """Wait until these workers have left what they have entered."""

    def settled() -> bool:
        return all(journal.pids("entered", "True").count(pid) == journal.pids("left", "True").count(pid) for pid in of)

    await until(settled, what="workers that let go")


# ---- in whatever form --------------------------------------------------------------------------------


def open_discovery() -> OpenOwnDiscovery:
    return OpenOwnDiscovery("own")


FORMS: dict[str, Callable[[], Any]] = {
    "an object": lambda: OwnDiscovery("own"),
    "a function": lambda: lambda: OwnDiscovery("own"),
    "a context manager": lambda: Manager(OwnDiscovery("own")),
    "an async context manager": lambda: AsyncManager(OwnDiscovery("own")),
    "a function that makes a context manager": lambda: lambda: Manager(OwnDiscovery("own")),
    "a function that makes an async context manager": lambda: lambda: AsyncManager(OwnDiscovery("own")),
    "one that is its own manager": lambda: SelfManager("own"),
    "a function that makes one that is its own manager": lambda: open_discovery,
    "wool's own, not entered": lambda: wool.LocalDiscovery("own"),
    "wool's own, made": lambda: lambda: wool.LocalDiscovery("own"),
}


@pytest.mark.parametrize("form", FORMS)
async def test_a_discovery_is_taken_in_whatever_form(form: str, journal: Journal) -> None:
    async with wool.WorkerPool(size=1, discovery=FORMS[form]()) as pool:
        async with wool.WorkerPool(discovery=wool.LocalDiscovery("own")) as other:
            await known(other, pids(pool.workers))
        assert await used(journal) == pids(pool.workers)
        assert Entered.story in ([], ["entered"])
    assert Entered.story in ([], ["entered", "left"])


@pytest.mark.parametrize(
    "balancer",
    [
        Manager(InOrder("two", "one")),
        AsyncManager(InOrder("two", "one")),
        lambda: Manager(InOrder("two", "one")),
        lambda: AsyncManager(InOrder("two", "one")),
    ],
)
async def test_a_load_balancer_may_be_a_manager_and_bodies_enter_one_of_their_own(
    balancer: Any, journal: Journal
) -> None:
    with wool.LocalDiscovery() as discovery:
        async with published(discovery, "one", "two") as [_, two]:
            async with wool.WorkerPool(discovery=discovery, loadbalancer=balancer) as pool:
                await until(lambda: len(statuses(pool)) == 2)
                assert await used(journal) == await used_by_bodies(journal, 3) == pids([two])
                assert Entered.story == ["entered"]
            assert Entered.story == ["entered", "left"]


@pytest.mark.parametrize("what", ["discovery", "loadbalancer"])
async def test_what_bodies_enter_is_entered_and_left_on_their_own_loop(what: str, journal: Journal) -> None:
    path = journal.path
    set_runtime(real_runtime(limits=Limits(nested_idle_seconds=0.5)))
    with wool.LocalDiscovery("own") as discovery:
        async with published(discovery, "one", "two") as found:
            arguments: dict[str, Any] = {"discovery": discovery}
            if what == "discovery":
                arguments["discovery"] = lambda: NotingManager(OwnDiscovery("own"), path)
            else:
                arguments["loadbalancer"] = lambda: NotingManager(wool.RoundRobinLoadBalancer(), path)
            async with wool.WorkerPool(**arguments):
                assert await used_by_bodies(journal) == pids(found)
            everybody = pids(found) | {os.getpid()}
            await until(lambda: set(journal.pids("left", "True")) == everybody, what="everybody to leave it")
            assert sorted(journal.pids("entered", "True")) == sorted(journal.pids("left", "True")) == sorted(everybody)
            assert not journal.pids("entered", "False") + journal.pids("left", "False")


async def test_a_subscriber_of_a_proxy_may_be_made_and_entered_too(journal: Journal) -> None:
    with wool.LocalDiscovery("own") as discovery:
        async with published(discovery, "one") as found:
            async with wool.WorkerProxy(discovery=lambda: AsyncManager(discovery.subscriber)):
                assert await used(journal) == pids(found)
    assert Entered.story == ["entered", "left"]


async def test_what_is_the_users_is_called_on_the_users_loop() -> None:
    discovery = OwnDiscovery("own")
    async with wool.WorkerPool(size=1, discovery=discovery) as pool:
        kill(*pids(pool.workers))
        await until(lambda: not pool.workers and len(discovery.story) >= 3)
    assert discovery.publisher.loops == {asyncio.get_running_loop()}
    assert {type for type, _ in discovery.story} == {"worker-added", "worker-dropped", "followed"}


# ---- what goes wrong ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ({"lease": 1}, ValueError, "lease=1 caps the workers that a discovery finds: give discovery="),
        ({"lease": 0, "discovery": wool.LocalDiscovery}, ValueError, "lease must be at least 1, got 0"),
        ({"lease": True, "discovery": wool.LocalDiscovery}, TypeError, "lease must be a number of workers"),
        ({"size": 0, "discovery": wool.LocalDiscovery}, ValueError, "size must be at least 1"),
        ({"discovery": 7}, TypeError, "a discovery needs publisher, subscriber and subscribe"),
        ({"host": "127.0.0.1"}, ValueError, "is for workers that are published"),
        ({"host": "127.0.0.1", "discovery": wool.LocalDiscovery}, ValueError, "is for workers that are published"),
        ({"host": "10.0.0.1", "size": 1, "discovery": wool.LocalDiscovery}, ValueError, "give WorkerPool credentials"),
        ({"host": "gpu-1", "size": 1, "discovery": wool.LocalDiscovery}, ValueError, "must be a literal IP address"),
    ],
)
def test_arguments_that_do_not_fit_are_refused(arguments: dict[str, Any], error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        wool.WorkerPool(**arguments)


@pytest.mark.parametrize("made", [7, wool.RoundRobinLoadBalancer()])
async def test_what_makes_no_discovery_fails_the_entry_before_anything_is_started(made: Any) -> None:
    without_processes()
    with pytest.raises(TypeError, match=r"a discovery needs publisher.* makes"):
        async with wool.WorkerPool(size=1, discovery=lambda: made):
            pytest.fail("entered")


async def test_a_discovery_that_fails_to_open_fails_the_entry_and_what_was_entered_is_left() -> None:
    class Failing:
        async def __aenter__(self) -> Any:
            raise LookupError("no network")

        async def __aexit__(self, *_: object) -> None: ...

    without_processes()
    with pytest.raises(LookupError, match="no network"):
        async with wool.WorkerPool(discovery=Failing, loadbalancer=Manager(InOrder("one"))):
            pytest.fail("entered")
    assert Entered.story == ["entered", "left"]


async def test_workers_that_cannot_be_published_fail_the_entry_and_none_is_left(place: Place) -> None:
    async def refuse() -> None:
        raise LookupError("there is no room for another one")

    discovery = OwnDiscovery("own")
    discovery.before_publish = lambda type, metadata: refuse()
    with pytest.raises(LookupError, match="there is no room for another one") as caught:
        async with wool.WorkerPool(size=2, discovery=discovery):
            pytest.fail("entered")
    assert "publishes the workers that it starts" in caught.value.__notes__[0]
    assert place.left() == []


async def test_a_publisher_that_hangs_leaks_no_worker_and_holds_nobody_up_for_long(
    place: Place, caplog: pytest.LogCaptureFixture
) -> None:
    set_runtime(real_runtime(limits=Limits(publish_seconds=0.5)))
    discovery = OwnDiscovery("own")
    hangs: set[str] = {"worker-added"}
    discovery.before_publish = lambda type, metadata: asyncio.sleep(3600) if type in hangs else None
    with pytest.raises(TimeoutError, match=r"worker-added was not published within 0.5 s \(publish_seconds\)"):
        async with wool.WorkerPool(size=2, discovery=discovery):
            pytest.fail("entered")
    assert place.left() == []
    hangs = {"worker-dropped"}
    async with wool.WorkerPool(size=2, discovery=discovery) as pool:
        own = pids(pool.workers)
        began = time.monotonic()
    assert time.monotonic() - began < 0.5 + 10
    assert not any(map(is_alive, own))
    assert len([line for line in caplog.messages if "could not be withdrawn" in line]) == 1 + 2


async def test_an_exit_that_is_cancelled_while_a_publisher_hangs_leaves_no_worker(place: Place) -> None:
    discovery = OwnDiscovery("own")
    hangs = asyncio.Event()

    async def hang() -> None:
        hangs.set()
        await asyncio.sleep(3600)

    discovery.before_publish = lambda type, metadata: hang() if type == "worker-dropped" else None
    pool = await wool.WorkerPool(size=1, discovery=discovery).__aenter__()
    own = pids(pool.workers)
    leaving = asyncio.create_task(pool.__aexit__(None, None, None))
    await hangs.wait()
    leaving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await leaving
    assert not any(map(is_alive, own))
    assert place.left() == []


async def test_nothing_is_left_of_a_pool_that_finds_workers(place: Place, journal: Journal) -> None:
    for arguments in ({}, {"size": 1}, {"size": 1, "host": "127.0.0.1"}):
        async with wool.WorkerPool(discovery=wool.LocalDiscovery("own"), **arguments):
            if arguments:
                await used(journal)
    assert place.left() == []


# ---- sessions heal -----------------------------------------------------------------------------------


async def test_a_flap_of_discovery_loses_no_started_task_and_no_call(journal: Journal, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    with wool.LocalDiscovery() as discovery:
        async with published(discovery, "one", "two") as found, wool.WorkerPool(discovery=discovery) as pool:
            await known(pool, pids(found))
            names = [f"running-{number}" for number in range(4)]
            running = [asyncio.create_task(run_until(journal.path, name, str(gate))) for name in names]
            for name in names:
                await journal.appears("begin", name)
            for _ in range(3):
                calls = [journal.new_call() for _ in range(20)]
                made = [asyncio.create_task(run(journal.path, call)) for call in calls]
                await discovery.publisher.publish("worker-dropped", found[0].metadata)
                await known(pool, pids(found[1:]))
                await discovery.publisher.publish("worker-added", found[0].metadata)
                await known(pool, pids(found))
                assert set(await asyncio.gather(*made)) <= pids(found)
                assert [journal.executions(call) for call in calls] == [1] * len(calls)
            gate.touch()
            assert set(await asyncio.gather(*running)) == pids(found)
            assert [journal.executions(name) for name in names] == [1] * len(names)
            assert await used(journal) == pids(found)


async def test_a_worker_that_was_unreachable_and_comes_back_gets_work_again(journal: Journal) -> None:
    with wool.LocalDiscovery() as discovery:
        async with published(discovery, "one", "two") as found, wool.WorkerPool(discovery=discovery) as pool:
            await known(pool, pids(found))
            assert await used(journal) == pids(found)
            first = found[0].metadata.pid
            with frozen(first):
                while not statuses(pool)[first].suspect:
                    assert await used(journal, 2) == pids(found[1:])
                assert await used(journal) == pids(found[1:])
            await until(lambda: not statuses(pool)[first].suspect, what="a probe that succeeds")
            assert await used(journal) == pids(found)


async def test_another_worker_at_the_same_address_is_known_by_its_uid(journal: Journal, tmp_path: Path) -> None:
    async with workers("one", host="127.0.0.1") as [first]:
        address, port = first.metadata.address, int(first.metadata.address.rpartition(":")[2])
        async with wool.WorkerPool(discovery=wool.StaticDiscovery(address)) as pool:
            running = asyncio.create_task(run_until(journal.path, "running", str(tmp_path / "gate")))
            await journal.appears("begin", "running")
            os.kill(first.metadata.pid, signal.SIGKILL)
            with pytest.raises(wool.WorkerLost):
                await running
            await until(lambda: not is_alive(first.metadata.pid))
            async with wool.LocalWorker(host="127.0.0.1", port=port) as second:
                await known(pool, {second.metadata.pid})
                assert await run(journal.path, "call") == second.metadata.pid
                [status] = statuses(pool).values()
                assert status.metadata.uid == second.metadata.uid != first.metadata.uid
    assert journal.executions("running") == 1
