"""``wool worker --metrics`` on real workers: what Prometheus hears is what has happened, whatever the bodies do."""

from __future__ import annotations

import asyncio
import dataclasses
import importlib.util
import os
import signal
import urllib.request
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

import wool
from support.command import wool_command, worker_command
from support.faults import PATIENCE_SECONDS, Journal, frozen
from support.traced import block, die, run, run_until
from wool.statistics import Statistics
from wool.worker.launch import ProcessLauncher
from wool.worker.spec import WorkerSpec

pytestmark = pytest.mark.timeout(120)

Scraped = dict[str, dict[str, float]]
"""The value of each metric, by worker."""


async def scrape(port: int) -> Scraped:
    """Ask as Prometheus does."""

    def read() -> str:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=PATIENCE_SECONDS) as answer:
            assert answer.headers["Content-Type"].startswith("text/plain; version=")
            text: str = answer.read().decode()
            return text

    found: Scraped = {}
    for family in text_string_to_metric_families(await asyncio.to_thread(read)):
        for sample in family.samples:
            found.setdefault(sample.name, {})[sample.labels["worker"]] = sample.value
    return found


async def scraped_until(port: int, name: str, total: float) -> Scraped:
    async with asyncio.timeout(PATIENCE_SECONDS):
        while sum((found := await scrape(port))[name].values()) != total:
            await asyncio.sleep(0.05)
    return found


@wool.routine
async def _fail() -> None:
    raise LookupError("boom")


async def test_what_is_scraped_is_what_has_happened_on_each_worker(
    namespace: str, journal: Journal, tmp_path: Path
) -> None:
    flags = ("--discovery", f"local:{namespace}", "--size", "2", "--metrics", "0")
    async with (
        worker_command(*flags) as command,
        wool.WorkerProxy(discovery=wool.LocalDiscovery(namespace).subscriber),
    ):
        port = command.all("metrics")[0]["port"]
        gate = str(tmp_path / "gate")
        held = asyncio.create_task(run_until(journal.path, "held", gate))
        given_up = asyncio.create_task(run_until(journal.path, "given-up", gate))
        for call in map(str, range(20)):
            await run(journal.path, call)
        with pytest.raises(LookupError):
            await _fail()
        await journal.appears("begin", "held")
        await journal.appears("begin", "given-up")
        given_up.cancel()
        with pytest.raises(asyncio.CancelledError):
            await given_up
        found = await scrape(port)
        uids = {event["worker"] for event in command.all("worker-ready")}
        assert all(values.keys() == uids for values in found.values()), "each worker says everything"
        assert {name: sum(found[f"wool_worker_{name}"].values()) for name in TOLD} == TOLD
        assert found["wool_worker_up"] == dict.fromkeys(uids, 1.0)
        assert all(2**20 < size < 2**32 for size in found["wool_worker_resident_memory_bytes"].values())
        assert all(0 < seconds < 600 for seconds in found["wool_worker_uptime_seconds"].values())
        Path(gate).touch()
        await held
        found = await scrape(port)
        assert sum(found["wool_worker_tasks_done_total"].values()) == TOLD["tasks_done_total"] + 1
        assert sum(found["wool_worker_tasks_in_flight"].values()) == 0


TOLD = {
    "tasks_in_flight": 1,
    "tasks_done_total": 20,
    "tasks_failed_total": 1,
    "tasks_cancelled_total": 1,
    "tasks_lost_total": 0,
    "offers_accepted_total": 23,
    "sessions": 2,
    "draining": 0,
}


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
async def test_a_body_that_computes_is_a_lag_and_the_worker_answers_meanwhile(
    loop: str, namespace: str, journal: Journal
) -> None:
    flags = ("--discovery", f"local:{namespace}", "--size", "1", "--metrics", "0", "--loop", loop)
    async with (
        worker_command(*flags) as command,
        wool.WorkerProxy(discovery=wool.LocalDiscovery(namespace).subscriber),
    ):
        port = command.all("metrics")[0]["port"]
        await run(journal.path, "quick")
        blocking = asyncio.create_task(block(journal.path, "blocks", 3.0))
        await journal.appears("begin", "blocks")
        async with asyncio.timeout(PATIENCE_SECONDS):
            while True:
                found = await scrape(port)
                [lag] = found["wool_worker_loop_lag_seconds"].values()
                assert found["wool_worker_up"].popitem()[1] == 1
                if lag > 1:
                    break
        assert not blocking.done(), "seen while it lasts"
        await blocking
        [lag] = (await scrape(port))["wool_worker_loop_lag_seconds"].values()
        assert lag > 2


async def test_a_worker_that_is_frozen_is_not_up_and_the_others_are_told_of(namespace: str) -> None:
    flags = ("--discovery", f"local:{namespace}", "--size", "2", "--metrics", "0")
    async with worker_command(*flags) as command:
        port = command.all("metrics")[0]["port"]
        first, second = (event["worker"] for event in command.all("worker-ready"))
        with frozen(command.pids[0]):
            found = await scrape(port)
            assert found["wool_worker_up"] == {first: 0.0, second: 1.0}
            assert found["wool_worker_tasks_done_total"].keys() == {second}
        found = await scrape(port)
        assert found["wool_worker_up"] == {first: 1.0, second: 1.0}


async def test_tasks_whose_caller_has_gone_are_lost_and_a_drain_is_told(
    namespace: str, journal: Journal, tmp_path: Path
) -> None:
    flags = ("--discovery", f"local:{namespace}", "--size", "1", "--metrics", "0")
    async with worker_command(*flags) as command:
        port = command.all("metrics")[0]["port"]
        async with wool.WorkerProxy(discovery=wool.LocalDiscovery(namespace).subscriber):
            lost = asyncio.create_task(run_until(journal.path, "lost", str(tmp_path / "never")))
            await journal.appears("begin", "lost")
        with pytest.raises(wool.WorkerLost):
            await lost
        found = await scraped_until(port, "wool_worker_tasks_lost_total", 1)
        assert sum(found["wool_worker_tasks_cancelled_total"].values()) == 0
        async with wool.WorkerProxy(discovery=wool.LocalDiscovery(namespace).subscriber):
            held = asyncio.create_task(run_until(journal.path, "held", str(tmp_path / "gate")))
            await journal.appears("begin", "held")
            command.signal()
            await scraped_until(port, "wool_worker_draining", 1)
            (tmp_path / "gate").touch()
            await held
        assert await command.ended() == 0


async def test_a_metrics_port_in_use_ends_the_command_with_the_reason_before_a_worker_is_started(
    namespace: str,
) -> None:
    flags = ("--discovery", f"local:{namespace}", "--size", "1")
    async with worker_command(*flags, "--metrics", "0") as command:
        port = command.all("metrics")[0]["port"]
        status, _, errors = await wool_command("worker", *flags, "--metrics", str(port))
    assert status == 1
    assert f"cannot listen on 127.0.0.1:{port} for metrics: Address already in use; choose another port" in errors
    assert "worker-ready" not in errors


async def test_without_the_extra_the_command_says_so_and_starts_nothing(namespace: str, tmp_path: Path) -> None:
    assert importlib.util.find_spec("prometheus_client") is not None
    (tmp_path / "sitecustomize.py").write_text("import sys\nsys.modules['prometheus_client'] = None\n")
    path = os.pathsep.join([str(tmp_path), str(Path(wool.__file__).parents[1])])
    flags = ("worker", "--discovery", f"local:{namespace}", "--metrics", "0")
    status, _, errors = await wool_command(*flags, env={"PYTHONPATH": path})
    needed = "needs prometheus-client, which is not installed: pip install 'wool[prometheus]'"
    assert (status, errors) == (2, f"wool worker: error: --metrics: {needed}\n")


# ---- the owner's side --------------------------------------------------------------------------------


async def test_a_worker_tells_its_owner_how_it_is_as_long_as_it_lives(tmp_path: Path) -> None:
    spec = WorkerSpec(address=f"unix:{tmp_path}/w.sock", secret=b"s" * 32, uid="u" * 32)
    worker = await ProcessLauncher().launch(spec)
    try:
        first, second = await asyncio.gather(worker.statistics(PATIENCE_SECONDS), worker.statistics(PATIENCE_SECONDS))
        assert first is second and first is not None, "who asks meanwhile hears the same"
        later = await worker.statistics(PATIENCE_SECONDS)
        assert later is not None and later.up_milliseconds >= first.up_milliseconds
        quiet = {"up_milliseconds", "memory_bytes"}
        counts = {name: count for name, count in dataclasses.asdict(first).items() if name not in quiet}
        assert not any(counts.values()), "it has done nothing"
        with frozen(worker.metadata.pid):
            assert await worker.statistics(0.05) is None
            asking = asyncio.create_task(worker.statistics(PATIENCE_SECONDS))
            await asyncio.sleep(0)
            asking.cancel()
            with pytest.raises(asyncio.CancelledError):
                await asking
        assert isinstance(await worker.statistics(PATIENCE_SECONDS), Statistics)
        with frozen(worker.metadata.pid):
            waiting = asyncio.create_task(worker.statistics(PATIENCE_SECONDS))
            await asyncio.sleep(0)
            worker.close()
        assert await waiting is None, "who waits when it ends is told at once"
        await worker.wait_closed()
        assert await worker.statistics(PATIENCE_SECONDS) is None
    finally:
        worker.close()
        await worker.wait_closed()


# ---- the caller's side -------------------------------------------------------------------------------


async def test_a_pool_says_what_has_become_of_its_calls_also_when_it_is_left(journal: Journal, tmp_path: Path) -> None:
    pool = wool.WorkerPool(size=2)
    assert not any(dataclasses.asdict(pool.statistics()).values())
    async with pool:
        await asyncio.gather(*(run(journal.path, str(call)) for call in range(20)))
        with pytest.raises(LookupError):
            await _fail()
        held = asyncio.create_task(run_until(journal.path, "held", str(tmp_path / "never")))
        await journal.appears("begin", "held")
        killed = asyncio.create_task(die(journal.path, "killed", signal.SIGKILL))
        with pytest.raises(wool.WorkerLost):
            await killed
        said = pool.statistics()
        assert (said.done, said.failed, said.lost) == (20, 1, said.lost)
        assert said.in_flight + said.lost == 2, "the one that is held may have been beside the one that was killed"
    with pytest.raises((wool.TaskInterrupted, wool.WorkerLost)):
        await held
    said = pool.statistics()
    assert (said.in_flight, said.done, said.failed, said.lost + said.interrupted) == (0, 20, 1, 2)


async def test_what_the_workers_count_is_what_their_callers_count(namespace: str, journal: Journal) -> None:
    flags = ("--discovery", f"local:{namespace}", "--size", "2", "--metrics", "0")
    async with worker_command(*flags) as command:
        port = command.all("metrics")[0]["port"]
        async with wool.WorkerProxy(discovery=wool.LocalDiscovery(namespace).subscriber) as proxy:
            calls = [run(journal.path, str(call)) if call % 5 else _fail() for call in range(100)]
            await asyncio.gather(*calls, return_exceptions=True)
            ours, theirs = proxy.statistics(), await scrape(port)
        assert (ours.in_flight, ours.done, ours.failed) == (0, 80, 20)
        assert sum(theirs["wool_worker_tasks_done_total"].values()) == ours.done
        assert sum(theirs["wool_worker_tasks_failed_total"].values()) == ours.failed
