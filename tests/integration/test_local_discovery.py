"""LocalDiscovery between real processes: who is there is seen, who dies is missed, and nothing stays behind."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import pickle
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import textwrap
import threading
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any, Self

import pytest

import wool
from support.faults import is_alive, statuses, until, workers
from support.records import check_grammar, worker
from wool.discovery import namespace as files
from wool.discovery import table
from wool.discovery.base import (
    DiscoveryEvent,
    DiscoveryLike,
    DiscoveryPublisherLike,
    DiscoverySubscriberLike,
    WorkerMetadata,
)
from wool.discovery.local import LocalDiscovery, LocalSubscriber
from wool.limits import LOOK_ATTEMPTS, MOST_NAMESPACE_CHARACTERS, Limits
from wool.runtime_directory import RuntimeDirectoryError, private_directory

SOON_SECONDS = 1.0
"""An event takes 100 ms at most; a busy machine gets ten times that before a test says otherwise."""
PATIENCE_SECONDS = 20.0
SMALL = Limits(local_workers=2)


@pytest.fixture(autouse=True)
def runtime(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    path = Path(tempfile.mkdtemp(prefix="r-"))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(path))
    yield path
    shutil.rmtree(path)


class Watch:
    """A subscription, what it said, and waiting for it to say something."""

    def __init__(self, subscriber: LocalSubscriber) -> None:
        self.events: list[DiscoveryEvent] = []
        self._task = asyncio.create_task(self._collect(subscriber), name="watch")

    async def _collect(self, subscriber: LocalSubscriber) -> None:
        async for event in subscriber:
            self.events.append(event)
            check_grammar(self.events)

    async def until(self, *present: WorkerMetadata, seconds: float = PATIENCE_SECONDS) -> None:
        async with asyncio.timeout(seconds):
            while check_grammar(self.events) != {metadata.uid: metadata for metadata in present}:
                if self._task.done():
                    await self._task
                await asyncio.sleep(0.005)

    async def close(self) -> None:
        self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._task


@contextlib.asynccontextmanager
async def watching(discovery: LocalDiscovery) -> AsyncIterator[Watch]:
    watch = Watch(discovery.subscriber)
    try:
        yield watch
    finally:
        await watch.close()


MEMBER = """
import asyncio, json, os, signal, sys
from wool.discovery import namespace as files, table
from wool.discovery.base import WorkerMetadata
from wool.discovery.local import LocalDiscovery
from wool.limits import Limits

def metadata(uid, *tags):
    return WorkerMetadata(uid=uid, address="unix:/run/" + uid, pid=1, version="1", tags=frozenset(tags))

def tear(at):
    # Carry out a change up to a byte, then die without a word.
    def carry_out(place, lock, change):
        left = at
        for write in change.writes:
            os.pwrite(lock.fileno(), write.data[:left], write.offset)
            left -= len(write.data)
            if left < 0:
                os.kill(os.getpid(), signal.SIGKILL)
        os.kill(os.getpid(), signal.SIGKILL)
    files._carry_out = carry_out

async def main():
    limits = Limits(**json.loads(sys.argv[2]))
    with LocalDiscovery(sys.argv[1], limits=limits) as discovery:
        print(json.dumps("joined"), flush=True)
        for line in sys.stdin:
            command, *arguments = json.loads(line)
            answer = "done"
            try:
                if command == "tear":
                    tear(*arguments)
                elif command == "exit":
                    os._exit(0)
                elif command == "hold":
                    gate = files._try_gate(discovery._place.directory, os.O_RDWR)
                elif command == "release":
                    gate.close()
                elif command == "publish":
                    kind, record = arguments
                    await discovery.publisher.publish(kind, WorkerMetadata.from_bytes(record.encode()))
                elif command == "fork":
                    if os.fork() == 0:
                        os.read(0, 1)
                        os._exit(0)
                else:
                    await discovery.publisher.publish("worker-" + command, metadata(*arguments))
            except Exception as error:
                answer = f"{type(error).__name__}: {error}"
            print(json.dumps(answer), flush=True)

asyncio.run(main())
"""


class Member:
    """Another process that has the namespace open and does what it is told."""

    def __init__(self, namespace: str, **limits: float) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", MEMBER, namespace, json.dumps(limits)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    async def __aenter__(self) -> Self:
        assert await self._answer() == "joined"
        return self

    async def __aexit__(self, *_: object) -> None:
        await asyncio.to_thread(self.process.communicate)

    async def _answer(self) -> Any:
        assert self.process.stdout is not None
        line = await asyncio.to_thread(self.process.stdout.readline)
        return json.loads(line) if line else None

    async def __call__(self, *command: object) -> Any:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(command) + "\n")
        self.process.stdin.flush()
        return await self._answer()

    async def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        await asyncio.to_thread(self.process.wait)


def left(runtime: Path) -> list[Path]:
    return sorted(runtime.rglob("*"))


# ---- what it is for --------------------------------------------------------------------------------


def test_it_is_a_discovery() -> None:
    discovery = LocalDiscovery("ns")
    assert isinstance(discovery, DiscoveryLike)
    assert isinstance(discovery.publisher, DiscoveryPublisherLike)
    assert isinstance(discovery.subscribe(None), DiscoverySubscriberLike)


@pytest.mark.smoke
async def test_workers_of_one_process_are_seen_in_another(runtime: Path) -> None:
    with LocalDiscovery("ns") as discovery:
        async with watching(discovery) as watch, Member("ns") as member:
            assert await member("added", "a") == "done"
            await watch.until(worker("a"))
            assert await member("updated", "a", "gpu") == "done"
            await watch.until(worker("a", "gpu"))
            assert await member("dropped", "a") == "done"
            await watch.until()
        assert [event.type for event in watch.events] == ["worker-added", "worker-updated", "worker-dropped"]
    assert left(runtime) == []


async def test_a_late_subscriber_sees_what_is_there_once() -> None:
    async with Member("ns") as one, Member("ns") as other:
        await one("added", "a")
        await other("added", "b", "gpu")
        await one("updated", "a", "cpu")
        with LocalDiscovery("ns") as discovery:
            async with watching(discovery) as watch:
                await watch.until(worker("a", "cpu"), worker("b", "gpu"))
            assert [event.type for event in watch.events] == ["worker-added", "worker-added"]


async def test_each_iteration_is_a_subscription_of_its_own() -> None:
    with LocalDiscovery("ns") as discovery:
        subscriber = discovery.subscriber
        await discovery.publisher.publish("worker-added", worker("a"))
        one, other = aiter(subscriber), aiter(subscriber)
        assert await anext(one) == await anext(other) == DiscoveryEvent("worker-added", worker("a"))
        await discovery.publisher.publish("worker-dropped", worker("a"))
        assert await anext(one) == DiscoveryEvent("worker-dropped", worker("a"))
        await one.aclose()
        assert await anext(other) == DiscoveryEvent("worker-dropped", worker("a"))
        await other.aclose()
        with pytest.raises(StopAsyncIteration):
            await anext(one)


async def test_a_filter_chooses_what_a_subscriber_sees() -> None:
    with LocalDiscovery("ns") as discovery:
        await discovery.publisher.publish("worker-added", worker("a"))
        await discovery.publisher.publish("worker-added", worker("b", "gpu"))
        events = aiter(discovery.subscribe(lambda metadata: "gpu" in metadata.tags))
        assert await anext(events) == DiscoveryEvent("worker-added", worker("b", "gpu"))
        await discovery.publisher.publish("worker-updated", worker("a", "gpu"))
        assert await anext(events) == DiscoveryEvent("worker-added", worker("a", "gpu"))
        await events.aclose()


async def test_a_filter_that_raises_ends_the_subscription_with_its_error(runtime: Path) -> None:
    def choose(metadata: WorkerMetadata) -> bool:
        raise LookupError(metadata.uid)

    with LocalDiscovery("ns") as discovery:
        await discovery.publisher.publish("worker-added", worker("a"))
        with pytest.raises(LookupError, match="a"):
            await anext(aiter(discovery.subscribe(choose)))
    assert left(runtime) == []


async def test_namespaces_do_not_see_each_other() -> None:
    with LocalDiscovery("one") as one, LocalDiscovery("two") as two:
        await one.publisher.publish("worker-added", worker("a"))
        await two.publisher.publish("worker-added", worker("b"))
        events = aiter(two.subscriber)
        assert (await anext(events)).metadata == worker("b")
        await events.aclose()


async def test_without_a_name_every_discovery_is_one_of_its_own() -> None:
    one, two = LocalDiscovery(None), LocalDiscovery()
    assert one.namespace != two.namespace
    with one, LocalDiscovery(one.namespace) as joined:
        await joined.publisher.publish("worker-added", worker("a"))
        events = aiter(one.subscriber)
        assert (await anext(events)).metadata == worker("a")
        await events.aclose()


async def test_events_arrive_promptly() -> None:
    took: list[float] = []
    with LocalDiscovery("ns") as discovery:
        async with watching(discovery) as watch, Member("ns") as member:
            for step in range(10):
                await member("added" if step == 0 else "updated", "a", str(step))
                since = time.monotonic()
                await watch.until(worker("a", str(step)), seconds=SOON_SECONDS)
                took.append(time.monotonic() - since)
    print(f"event latency: median {sorted(took)[5] * 1000:.0f} ms, most {max(took) * 1000:.0f} ms")


async def test_hundreds_of_workers_fit_and_are_seen() -> None:
    workers = [worker(f"w{number}") for number in range(300)]
    with LocalDiscovery("ns") as discovery:
        since = time.monotonic()
        for metadata in workers:
            await discovery.publisher.publish("worker-added", metadata)
        published = time.monotonic()
        async with watching(discovery) as watch:
            await watch.until(*workers)
        print(f"300 workers: published in {published - since:.2f} s, seen in {time.monotonic() - published:.2f} s")


# ---- mistakes --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["a/b", "..", ".hidden", "-x", "with space", "ümlaut", "a\n", "a\0"])
def test_a_name_with_other_characters_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="must consist of ASCII letters"):
        LocalDiscovery(name)


def test_a_name_that_is_empty_or_too_long_is_refused() -> None:
    with pytest.raises(ValueError, match="must not be empty"):
        LocalDiscovery("")
    with pytest.raises(ValueError, match="has 65 characters, the limit is 64"):
        LocalDiscovery("x" * (MOST_NAMESPACE_CHARACTERS + 1))
    LocalDiscovery("x" * MOST_NAMESPACE_CHARACTERS)


async def test_a_worker_added_twice_or_unknown_is_refused() -> None:
    with LocalDiscovery("ns") as discovery:
        publish = discovery.publisher.publish
        with pytest.raises(ValueError, match="cannot be updated: publish worker-added"):
            await publish("worker-updated", worker("a"))
        with pytest.raises(ValueError, match="cannot be dropped"):
            await publish("worker-dropped", worker("a"))
        await publish("worker-added", worker("a"))
        with pytest.raises(ValueError, match="already: publish worker-updated"):
            await publish("worker-added", worker("a"))
        async with Member("ns") as member:
            assert "already" in await member("added", "a")
        with pytest.raises(ValueError, match="worker-vanished"):
            await publish("worker-vanished", worker("a"))  # type: ignore[arg-type]


async def test_what_was_refused_leaves_no_lease(runtime: Path) -> None:
    with LocalDiscovery("ns", limits=SMALL) as discovery:
        for uid in ("a", "b"):
            await discovery.publisher.publish("worker-added", worker(uid))
        before = left(runtime)
        for uid in ("a", "c"):
            with pytest.raises((ValueError, table.TableFull)):
                await discovery.publisher.publish("worker-added", worker(uid))
        assert left(runtime) == before


async def test_a_closed_publisher_refuses() -> None:
    discovery = LocalDiscovery("ns")
    with pytest.raises(RuntimeError, match="'ns' closed>"):
        await discovery.publisher.publish("worker-added", worker("a"))
    with discovery:
        publisher = discovery.publisher
    with pytest.raises(RuntimeError, match="is closed: publish inside `with"):
        await publisher.publish("worker-added", worker("a"))


async def test_a_full_namespace_says_so_and_takes_the_place_of_the_dead() -> None:
    with LocalDiscovery("ns", limits=SMALL) as discovery:
        async with watching(discovery) as watch, Member("ns") as member:
            await member("added", "a")
            await discovery.publisher.publish("worker-added", worker("b"))
            with pytest.raises(table.TableFull, match=r"'ns' is full: all 2 slots .* Limits\.local_workers"):
                await discovery.publisher.publish("worker-added", worker("c"))
            await watch.until(worker("a"), worker("b"))
            await member.kill()
            await discovery.publisher.publish("worker-added", worker("c"))
            await watch.until(worker("b"), worker("c"))


async def test_a_namespace_of_another_version_is_refused_with_a_remedy(runtime: Path) -> None:
    with LocalDiscovery("ns"):
        path = runtime / "wool" / "local-ns" / "table"
        with path.open("r+b") as file:
            file.seek(8)
            file.write(b"\x63")
        with pytest.raises(RuntimeError, match=r"'ns' cannot be joined: the table has layout 99.*another namespace"):
            LocalDiscovery("ns").__enter__()
        with path.open("r+b") as file:
            file.seek(8)
            file.write(bytes([table.LAYOUT_VERSION]))


async def test_files_that_were_removed_from_under_us_are_named(runtime: Path) -> None:
    with LocalDiscovery("ns") as discovery:
        shutil.rmtree(runtime / "wool")
        with pytest.raises(RuntimeError, match=r"files of namespace 'ns' were removed from .*local-ns"):
            await discovery.publisher.publish("worker-added", worker("a"))
        with LocalDiscovery("ns"):
            with pytest.raises(RuntimeError, match="were removed"):
                await discovery.publisher.publish("worker-added", worker("a"))
    assert left(runtime) == []


# ---- death -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("end", ["exit", "kill"])
async def test_a_worker_that_died_without_a_word_is_dropped(end: str, runtime: Path) -> None:
    with LocalDiscovery("ns") as discovery:
        async with watching(discovery) as watch, Member("ns") as member:
            await member("added", "a")
            await discovery.publisher.publish("worker-added", worker("b"))
            await watch.until(worker("a"), worker("b"))
            since = time.monotonic()
            await (member.kill() if end == "kill" else member("exit"))
            await watch.until(worker("b"))
            print(f"found dead after {time.monotonic() - since:.2f} s")
    assert left(runtime) == []


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere only the publisher's life is known")
@pytest.mark.parametrize("host", [None, "127.0.0.1"], ids=["unix", "tcp"])
@pytest.mark.parametrize("publisher", ["its owner", "another process"])
async def test_a_worker_that_was_killed_is_dropped_though_its_publisher_lives(publisher: str, host: str | None) -> None:
    with LocalDiscovery("ns") as discovery:
        async with workers("a", "b", host=host) as [one, two], watching(discovery) as watch, Member("ns") as member:
            for started in (one, two):
                if publisher == "its owner":
                    await discovery.publisher.publish("worker-added", started.metadata)
                else:
                    assert await member("publish", "worker-added", started.metadata.to_bytes().decode()) == "done"
            await watch.until(one.metadata, two.metadata)
            os.kill(one.metadata.pid, signal.SIGKILL)
            await watch.until(two.metadata)
            async with watching(discovery) as late:
                await late.until(two.metadata)
                assert [event.metadata for event in late.events] == [two.metadata]
            with pytest.raises(ValueError, match="cannot be updated"):
                await discovery.publisher.publish("worker-updated", one.metadata)
            # Whoever announced it and cleans up need not know that others were faster.
            if publisher == "its owner":
                await discovery.publisher.publish("worker-dropped", one.metadata)
            else:
                assert await member("publish", "worker-dropped", one.metadata.to_bytes().decode()) == "done"
            with pytest.raises(ValueError, match="cannot be dropped"):
                await discovery.publisher.publish("worker-dropped", one.metadata)


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere only the publisher's life is known")
async def test_a_worker_that_was_killed_is_dropped_though_a_process_that_it_forked_lives(tmp_path: Path) -> None:
    with LocalDiscovery("ns") as discovery:
        async with workers("a") as [one], watching(discovery) as watch:
            await discovery.publisher.publish("worker-added", one.metadata)
            await watch.until(one.metadata)
            async with wool.WorkerProxy(workers=[one.metadata]):
                child = await fork_and_leave()
            try:
                os.kill(one.metadata.pid, signal.SIGKILL)
                await watch.until()
            finally:
                os.kill(child, signal.SIGKILL)
                await until(lambda: not is_alive(child))


@wool.routine
async def fork_and_leave() -> int:
    child = os.fork()
    if child == 0:
        time.sleep(60)
        os._exit(0)
    return child


async def test_a_worker_that_was_killed_is_known_to_callers_as_gone(tmp_path: Path) -> None:
    with LocalDiscovery("ns") as discovery:
        async with workers("a", "b") as [one, two]:
            for started in (one, two):
                await discovery.publisher.publish("worker-added", started.metadata)
            async with wool.WorkerProxy(discovery=discovery.subscriber) as proxy:
                await until(lambda: len(statuses(proxy)) == 2)
                os.kill(one.metadata.pid, signal.SIGKILL)
                await until(lambda: list(statuses(proxy)) == [two.metadata.pid])


async def test_a_publisher_that_closes_drops_its_workers_at_once() -> None:
    with LocalDiscovery("ns", limits=Limits(discovery_lease_seconds=1000.0)) as discovery:
        async with watching(discovery) as watch, Member("ns") as member:
            await member("added", "a")
            await watch.until(worker("a"))
            await member.__aexit__()
            await watch.until(seconds=SOON_SECONDS)


async def test_a_stopped_publisher_is_not_dead() -> None:
    limits = Limits(discovery_lease_seconds=0.05)
    with LocalDiscovery("ns", limits=limits) as discovery:
        async with watching(discovery) as watch, Member("ns") as member:
            await member("added", "a")
            await watch.until(worker("a"))
            member.process.send_signal(signal.SIGSTOP)
            await asyncio.sleep(0.3)
            assert [event.type for event in watch.events] == ["worker-added"]
            member.process.send_signal(signal.SIGCONT)


async def test_a_dead_publisher_is_found_dead_though_its_forked_child_lives() -> None:
    with LocalDiscovery("ns") as discovery:
        async with watching(discovery) as watch, Member("ns") as member:
            await member("added", "a")
            await watch.until(worker("a"))
            await member("fork")
            assert member.process.stdin is not None
            await member.kill()
            await watch.until()


# An added worker takes about 230 bytes of writes, an update and a drop less: cut in the mark, in the head, in
# the record, between the writes, after the last.
@pytest.mark.parametrize("at", [0, 1, 2, 30, 90, 150, 10_000])
@pytest.mark.parametrize("command", ["added", "updated", "dropped"])
async def test_a_publisher_killed_in_mid_write_harms_nobody(command: str, at: int, runtime: Path) -> None:
    with LocalDiscovery("ns", limits=SMALL) as discovery:
        await discovery.publisher.publish("worker-added", worker("b"))
        async with watching(discovery) as watch, Member("ns") as member:
            if command != "added":
                await member("added", "a")
            await member("tear", at)
            assert await member(command, "a", "new") is None
            await asyncio.to_thread(member.process.wait)
            # Its gate is free, its slot can be used, and everybody sees the same.
            await discovery.publisher.publish("worker-added", worker("c"))
            await watch.until(worker("b"), worker("c"))
            async with watching(discovery) as late:
                await late.until(worker("b"), worker("c"))
    assert left(runtime) == []


@pytest.mark.parametrize("at", [0, 30, 90, 150, 10_000])
async def test_an_update_by_another_cut_in_mid_write_leaves_the_old_value_or_the_new(at: int) -> None:
    with LocalDiscovery("ns") as discovery:
        await discovery.publisher.publish("worker-added", worker("a", "old"))
        async with Member("ns") as member:
            await member("tear", at)
            assert await member("updated", "a", "new") is None
            await asyncio.to_thread(member.process.wait)
        events = aiter(discovery.subscriber)
        assert (await anext(events)).metadata in (worker("a", "old"), worker("a", "new"))
        await discovery.publisher.publish("worker-updated", worker("a", "newest"))
        assert await anext(events) == DiscoveryEvent("worker-updated", worker("a", "newest"))
        await events.aclose()


async def test_a_stopped_writer_delays_others_but_not_their_loop_and_not_for_ever(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with LocalDiscovery("ns") as discovery:
        async with Member("ns") as member:
            assert await member("hold") == "done"
            publishing = asyncio.create_task(discovery.publisher.publish("worker-added", worker("a")))
            for _ in range(10):
                await asyncio.sleep(0.01)
            assert not publishing.done()
            await member("release")
            await publishing
            assert await member("hold") == "done"
            monkeypatch.setattr("wool.discovery.local.GATE_SECONDS", 0.1)
            with pytest.raises(TimeoutError, match=r"another process held .*gate for .* stopped process"):
                await discovery.publisher.publish("worker-added", worker("b"))
            publishing = asyncio.create_task(discovery.publisher.publish("worker-added", worker("c")))
            await asyncio.sleep(0.01)
            publishing.cancel()
            with pytest.raises(asyncio.CancelledError):
                await publishing
            await member("release")
        async with watching(discovery) as watch:
            await watch.until(worker("a"))


# ---- nothing left behind ---------------------------------------------------------------------------


async def test_files_are_ours_alone_and_gone_after_the_last_close(runtime: Path) -> None:
    with LocalDiscovery("ns") as one:
        await one.publisher.publish("worker-added", worker("a"))
        with LocalDiscovery("ns"):
            for path in left(runtime):
                assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600)
        assert (runtime / "wool" / "local-ns" / "table").exists()
    assert left(runtime) == []


async def test_what_a_killed_process_left_is_cleaned_by_the_next_start(runtime: Path) -> None:
    async with Member("ns") as one, Member("other") as other:
        for member in (one, other):
            await member("added", "a")
        for member in (one, other):
            await member.kill()
    assert len([path for path in left(runtime) if path.name.startswith("lease-")]) == 2
    with LocalDiscovery("ns") as discovery:
        assert [path.name for path in left(runtime)] == ["wool", "local-ns", "gate", "table"]
        await discovery.publisher.publish("worker-added", worker("b"))
        async with watching(discovery) as watch:
            await watch.until(worker("b"))
        assert len(watch.events) == 1
    assert left(runtime) == []


async def test_the_dead_are_swept_by_who_joins_the_living(runtime: Path) -> None:
    with LocalDiscovery("ns"):
        async with Member("ns") as member:
            await member("added", "a")
            await member.kill()
        with LocalDiscovery("ns"):
            assert [path for path in left(runtime) if path.name.startswith("lease-")] == []


RACE = """
import asyncio, sys
from wool.discovery.base import WorkerMetadata
from wool.discovery.local import LocalDiscovery

async def main():
    me = WorkerMetadata(uid=sys.argv[1], address="unix:/x", pid=1, version="1")
    for _ in range(int(sys.argv[2])):
        with LocalDiscovery("ns") as discovery:
            await discovery.publisher.publish("worker-added", me)
            async for event in discovery.subscriber:
                if event.metadata.uid == me.uid:
                    break

asyncio.run(main())
"""


async def test_processes_that_join_and_leave_at_once_never_lose_each_other_or_a_file(runtime: Path) -> None:
    racers = [
        await asyncio.create_subprocess_exec(
            sys.executable, "-W", "error", "-c", RACE, f"w{number}", "150", stderr=asyncio.subprocess.PIPE
        )
        for number in range(3)
    ]
    for racer in racers:
        _, errors = await racer.communicate()
        assert (racer.returncode, errors) == (0, b"")
    assert left(runtime) == []


async def test_a_cancelled_subscription_leaves_nothing(runtime: Path) -> None:
    with LocalDiscovery("ns") as discovery:
        watch = Watch(discovery.subscriber)
        await asyncio.sleep(0.1)
    assert left(runtime) != []  # a subscription is a member of its own
    await watch.close()
    assert left(runtime) == []


async def test_a_subscription_that_was_never_stepped_joins_nothing(runtime: Path) -> None:
    events = aiter(LocalDiscovery("ns").subscriber)
    assert left(runtime) == []
    await events.aclose()


def test_an_unclosed_discovery_warns_and_leaves(runtime: Path) -> None:
    kept = [LocalDiscovery("ns").__enter__()]
    with pytest.warns(ResourceWarning, match="unclosed <Membership of 'ns' open>"):
        kept.clear()
    assert left(runtime) == []


def test_entering_again_is_counted(runtime: Path) -> None:
    discovery = LocalDiscovery("ns")
    for _ in range(2):
        with discovery:
            with discovery:
                pass
            assert left(runtime) != []
        assert left(runtime) == []


# ---- elsewhere -------------------------------------------------------------------------------------


async def test_a_pool_has_one_in_its_private_directory(runtime: Path) -> None:
    with private_directory() as directory:
        with LocalDiscovery.at(directory.path) as discovery, LocalDiscovery.at(directory.path) as other:
            await discovery.publisher.publish("worker-added", worker("a"))
            events = aiter(other.subscriber)
            assert (await anext(events)).metadata == worker("a")
            await events.aclose()
            assert all(directory.path in (path, *path.parents) for path in left(runtime) if path.is_file())
        assert [path.name for path in directory.path.iterdir()] == ["lock"]
    assert left(runtime) == []


def test_a_directory_that_others_can_see_is_refused(runtime: Path) -> None:
    runtime.chmod(0o755)
    with pytest.raises(RuntimeDirectoryError, match="has mode 0755, not 0700"):
        LocalDiscovery.at(runtime).__enter__()
    with pytest.raises(FileNotFoundError):
        LocalDiscovery.at(runtime / "missing").__enter__()


def gpus(metadata: WorkerMetadata) -> bool:
    return "gpu" in metadata.tags


async def test_pickles_carry_how_to_join_and_join_lazily(runtime: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with LocalDiscovery("ns", limits=SMALL) as discovery:
        await discovery.publisher.publish("worker-added", worker("a"))
        await discovery.publisher.publish("worker-added", worker("b", "gpu"))
        pickles = [pickle.dumps(what) for what in (discovery, discovery.subscriber, discovery.subscribe(gpus))]
    # Wherever they are loaded, they find the same place.
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(runtime.parent))
    copy, everybody, chosen = (pickle.loads(data) for data in pickles)
    assert left(runtime) == []
    with copy:
        assert [path.name for path in left(runtime)] == ["wool", "local-ns", "gate", "table"]
        await copy.publisher.publish("worker-added", worker("c"))
        await copy.publisher.publish("worker-added", worker("d", "gpu"))
        with pytest.raises(table.TableFull):
            await copy.publisher.publish("worker-added", worker("e"))
        one, other = aiter(everybody), aiter(chosen)
        assert (await anext(one)).metadata == worker("c")
        assert (await anext(other)).metadata == worker("d", "gpu")
        await one.aclose()
        await other.aclose()
    assert left(runtime) == []


FORK = textwrap.dedent(
    """
    import asyncio, os
    from wool.discovery.base import WorkerMetadata
    from wool.discovery.local import LocalDiscovery

    me = WorkerMetadata(uid="a", address="unix:/x", pid=1, version="1")

    def refused(action):
        try:
            action()
        except RuntimeError as error:
            return "of which this is a fork" in str(error)

    async def first(subscriber):
        async for event in subscriber:
            return event.metadata

    with LocalDiscovery("ns") as discovery:
        publisher = discovery.publisher
        asyncio.run(publisher.publish("worker-added", me))
        child = os.fork()
        if child == 0:
            good = refused(lambda: asyncio.run(publisher.publish("worker-dropped", me)))
            good = good and refused(discovery.__enter__)
            discovery.__exit__(None, None, None)
            with LocalDiscovery("ns") as own:
                good = good and asyncio.run(first(own.subscriber)) == me
            os._exit(0 if good else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert asyncio.run(first(discovery.subscriber)) == me
    """
)


def test_a_forked_child_is_refused_and_takes_nothing_from_its_parent(runtime: Path) -> None:
    subprocess.run([sys.executable, "-W", "error", "-c", FORK], check=True, timeout=30)
    assert left(runtime) == []


async def test_descriptors_do_not_reach_other_programs(monkeypatch: pytest.MonkeyPatch) -> None:
    before = set(os.listdir("/dev/fd"))
    with LocalDiscovery("ns") as discovery:
        await discovery.publisher.publish("worker-added", worker("a"))
        events = aiter(discovery.subscriber)
        await anext(events)
        for name in set(os.listdir("/dev/fd")) - before:
            with contextlib.suppress(OSError):  # that of the listing itself
                assert not os.get_inheritable(int(name))
        await events.aclose()


async def test_it_can_be_used_from_two_threads() -> None:
    failures: list[BaseException] = []

    def publish(discovery: LocalDiscovery, prefix: str) -> None:
        async def main() -> None:
            for number in range(20):
                await discovery.publisher.publish("worker-added", worker(f"{prefix}{number}"))

        try:
            asyncio.run(main())
        except BaseException as error:
            failures.append(error)

    with LocalDiscovery("ns") as discovery:
        threads = [threading.Thread(target=publish, args=(discovery, prefix)) for prefix in "xyz"]
        for thread in threads:
            thread.start()
        for thread in threads:
            await asyncio.to_thread(thread.join)
        assert failures == []
        async with watching(discovery) as watch:
            await watch.until(*(worker(f"{prefix}{number}") for prefix in "xyz" for number in range(20)))


async def test_an_idle_subscriber_costs_next_to_nothing() -> None:
    with LocalDiscovery("ns") as discovery:
        for number in range(20):
            await discovery.publisher.publish("worker-added", worker(f"w{number}"))
        async with watching(discovery) as watch:
            await watch.until(*(worker(f"w{number}") for number in range(20)))
            since, used = time.monotonic(), time.process_time()
            await asyncio.sleep(1)
            share = (time.process_time() - used) / (time.monotonic() - since)
    print(f"an idle subscriber takes {share:.2%} of a core")
    assert share < 0.1


def test_the_gate_is_waited_for_by_who_joins_but_not_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "LOCK_ATTEMPTS", 5)
    monkeypatch.setattr(files, "LOCK_RETRY_SECONDS", 0.003)
    slept: list[float] = []
    monkeypatch.setattr("wool.discovery.namespace.time.sleep", slept.append)
    with LocalDiscovery("ns") as discovery:
        directory = discovery._place.directory
        gate = files._try_gate(directory, os.O_RDWR)
        assert gate is not None
        with pytest.raises(TimeoutError, match="gate"):
            LocalDiscovery("ns").__enter__()
        gate.close()
    assert slept == [0.003] * 5


def test_who_is_overtaken_again_and_again_by_writers_looks_later(monkeypatch: pytest.MonkeyPatch) -> None:
    with LocalDiscovery("ns") as discovery:
        membership = discovery._membership
        assert isinstance(membership, files.Membership)
        assert membership.look() is not None
        generations = itertools.count()
        monkeypatch.setattr(membership, "generation", lambda: next(generations))
        assert membership.look() is None
        assert next(generations) == 2 * LOOK_ATTEMPTS


def test_who_cannot_get_the_gate_leaves_without_cleaning_and_says_so(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, runtime: Path
) -> None:
    monkeypatch.setattr(files, "LOCK_ATTEMPTS", 5)
    with LocalDiscovery("ns") as discovery:
        gate = files._try_gate(discovery._place.directory, os.O_RDWR)
        assert gate is not None
    assert "its next start cleans up" in caplog.text
    gate.close()
    with LocalDiscovery("ns"):
        pass
    assert left(runtime) == []
