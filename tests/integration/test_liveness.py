"""Who is silent is found in time, and who is only slow or busy is left alone: on both transports, both ways."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest

import wool
from support import bystander, sink
from support.faults import Journal, frozen, is_suspect, until, workers
from support.relay import Relay
from support.traced import download, hold_the_gil, run, run_until, upload
from wool.discovery.base import WorkerMetadata
from wool.transport.base import Stream, StreamLost
from wool.transport.grpc import GrpcTransport

pytestmark = pytest.mark.alone  # they measure time

HOSTS = {"unix": None, "tcp": "127.0.0.1"}
LOST_SECONDS = {"unix": 6.0, "tcp": 31.0}
MARGIN_SECONDS = {"unix": 2.0, "tcp": 4.0}
"""For a loaded machine."""
GIL_SECONDS = 20
BULK_BYTES = 32 * 1024 * 1024
SLOW_BYTES = 12 * 1024 * 1024
SLOW_BYTES_PER_SECOND = 1024 * 1024

TRANSPORTS = pytest.mark.parametrize("transport", ["unix", "tcp"])


async def together(**scenarios: Coroutine[Any, Any, float]) -> dict[str, float]:
    """Run scenarios at the same time, since most of theirs is waiting; return what each measured."""
    async with asyncio.TaskGroup() as group:
        tasks = {name: group.create_task(scenario) for name, scenario in scenarios.items()}
    return {name: task.result() for name, task in tasks.items()}


def assert_in_time(seconds: dict[str, float], transport: str) -> None:
    late = {name: took for name, took in seconds.items() if took > LOST_SECONDS[transport] + MARGIN_SECONDS[transport]}
    assert not late, f"lost too late: {late}"


# ---- a frozen worker, seen from its caller -----------------------------------------------------------


async def lost_while_idle(worker: WorkerMetadata, journal: Journal) -> float:
    async with wool.WorkerProxy(workers=[worker]) as proxy:
        await run(journal.path, journal.new_call())
        assert not is_suspect(proxy, worker.pid)
        with frozen(worker.pid):
            return await until(lambda: is_suspect(proxy, worker.pid), 90, "an idle worker to be lost")


async def lost_in_mid_routine(worker: WorkerMetadata, journal: Journal) -> float:
    async with wool.WorkerProxy(workers=[worker]):
        task = asyncio.create_task(run_until(journal.path, "routine", "/nowhere"))
        await journal.appears("begin", "routine")
        with frozen(worker.pid):
            seconds = await seconds_until_lost(task)
        await journal.appears("cancelled", "routine")
        assert journal.executions("routine") == 1
        return seconds


async def lost_in_mid_upload(worker: WorkerMetadata, journal: Journal) -> float:
    data = bytes(BULK_BYTES)
    async with wool.WorkerProxy(workers=[worker]):
        open_call = asyncio.create_task(run_until(journal.path, "beside-upload", "/nowhere"))
        await journal.appears("begin", "beside-upload")
        uploads = asyncio.create_task(for_ever(lambda: upload(journal.path, "upload", data)))
        await journal.appears("begin", "upload")
        with frozen(worker.pid):
            seconds = await seconds_until_lost(open_call)
            with pytest.raises((wool.NoWorkersAvailable, wool.WorkerLost)):
                await uploads
        return seconds


async def lost_in_mid_download(worker: WorkerMetadata, journal: Journal) -> float:
    async with wool.WorkerProxy(workers=[worker]):
        open_call = asyncio.create_task(run_until(journal.path, "beside-download", "/nowhere"))
        await journal.appears("begin", "beside-download")
        downloads = asyncio.create_task(for_ever(lambda: download(journal.path, "download", BULK_BYTES)))
        await journal.appears("begin", "download")
        with frozen(worker.pid):
            seconds = await seconds_until_lost(open_call)
            with pytest.raises((wool.NoWorkersAvailable, wool.WorkerLost)):
                await downloads
        return seconds


async def for_ever(call: Any) -> None:
    while True:
        await call()


async def seconds_until_lost(task: asyncio.Task[Any]) -> float:
    began = time.monotonic()
    with pytest.raises(wool.WorkerLost) as caught:
        await task
    assert caught.value.executed == "unknown"
    return time.monotonic() - began


@TRANSPORTS
@pytest.mark.timeout(120)
async def test_a_frozen_worker_is_lost_in_time(transport: str, journal: Journal) -> None:
    async with workers("a", "b", "c", "d", host=HOSTS[transport]) as started:
        idle, routine, up, down = (worker.metadata for worker in started)
        seconds = await together(
            idle=lost_while_idle(idle, journal),
            routine=lost_in_mid_routine(routine, journal),
            upload=lost_in_mid_upload(up, journal),
            download=lost_in_mid_download(down, journal),
        )
        assert_in_time(seconds, transport)


@contextlib.contextmanager
def peer(role: str, address: str) -> Iterator[int]:
    """Run a process that reads from a stream, which it accepts or opens."""
    with subprocess.Popen(
        [sys.executable, "-m", "support.sink", role, address],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        stderr=subprocess.DEVNULL,
    ) as process:
        try:
            yield process.pid
        finally:
            process.kill()


async def seconds_to_lose(stream: Stream, pid: int) -> float:
    """Freeze a process and write to it until it is lost."""

    async def write_for_ever() -> None:
        while True:
            await stream.write(bytes(64 * 1024))

    reading, writing = asyncio.create_task(stream.read()), asyncio.create_task(write_for_ever())
    with frozen(pid):
        began = time.monotonic()
        for task in (writing, reading):
            with pytest.raises(StreamLost):
                await task
        seconds = time.monotonic() - began
    await stream.close()
    return seconds


@pytest.mark.parametrize("role", ["accepts", "connects"])
async def test_a_peer_that_freezes_behind_a_full_unix_socket_is_lost_in_time(role: str) -> None:
    transport = GrpcTransport(sink.LIMITS)
    with tempfile.TemporaryDirectory() as directory, peer(role, address := f"unix:{directory}/s") as pid:
        if role == "accepts":
            await until(Path(directory, "s").exists, 30, "the peer to listen")
            assert_in_time({role: await seconds_to_lose(await transport.connect(address), pid)}, "unix")
        else:
            measured: asyncio.Future[float] = asyncio.get_running_loop().create_future()

            async def serve(stream: Stream) -> None:
                measured.set_result(await seconds_to_lose(stream, pid))

            listener = await transport.listen(address, serve)
            assert_in_time({role: await measured}, "unix")
            await listener.close()
    await transport.close()


# ---- a frozen caller, seen from its worker -----------------------------------------------------------


@contextlib.asynccontextmanager
async def caller(mode: str, journal: Journal, worker: WorkerMetadata) -> AsyncIterator[int]:
    """Run a caller of its own; it has called what its mode says when the block is entered."""
    process = subprocess.Popen(
        [sys.executable, "-m", "support.bystander", mode, journal.path, worker.to_bytes().decode()],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        stderr=subprocess.DEVNULL,
    )
    try:
        await journal.appears("begin", mode)
        await journal.appears("ready", mode)
        yield process.pid
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()


async def abandoned(mode: str, what: str, worker: WorkerMetadata, journal: Journal) -> float:
    """Freeze a caller; return after how many seconds ``what`` happens to its open body."""
    async with caller(mode, journal, worker) as pid:
        with frozen(pid):
            return await until(lambda: bool(journal.pids(what, mode)), 90, f"the body of a frozen {mode} caller")


@TRANSPORTS
@pytest.mark.timeout(120)
async def test_a_frozen_caller_is_lost_in_time_and_its_bodies_end(transport: str, journal: Journal) -> None:
    async with workers("a", host=HOSTS[transport]) as [worker]:
        seconds = await together(
            idle=abandoned("idle", "closed", worker.metadata, journal),
            routine=abandoned("routine", "cancelled", worker.metadata, journal),
            bulk=abandoned("bulk", "cancelled", worker.metadata, journal),
        )
        assert_in_time(seconds, transport)
        assert bystander.BULK_BYTES == BULK_BYTES
        async with wool.WorkerProxy(workers=[worker.metadata]):
            assert await run(journal.path, journal.new_call()) == worker.metadata.pid
        assert [journal.executions(mode) for mode in ("idle", "routine", "bulk")] == [1, 1, 1]


# ---- slow or busy, but alive -------------------------------------------------------------------------


async def gil_held(worker: WorkerMetadata, journal: Journal, call: str) -> float:
    async with wool.WorkerProxy(workers=[worker]) as proxy:
        began = time.monotonic()
        holder = asyncio.create_task(hold_the_gil(journal.path, call, GIL_SECONDS))
        await journal.appears("begin", call)
        waiting = asyncio.create_task(run(journal.path, journal.new_call()))
        assert await holder == worker.pid
        seconds = time.monotonic() - began
        assert await waiting == worker.pid
        assert not is_suspect(proxy, worker.pid)
        assert journal.executions(call) == 1
        return seconds


@pytest.mark.timeout(120)
async def test_a_routine_that_holds_the_gil_for_long_is_not_declared_lost(journal: Journal) -> None:
    async with workers("unix") as [unix], workers("tcp", host="127.0.0.1") as [tcp]:
        seconds = await together(
            unix=gil_held(unix.metadata, journal, "unix"), tcp=gil_held(tcp.metadata, journal, "tcp")
        )
    assert min(seconds.values()) >= GIL_SECONDS - 1


async def slow_upload(relay: Relay, journal: Journal) -> float:
    began = time.monotonic()
    assert await upload(journal.path, "slow-upload", bytes(SLOW_BYTES)) == SLOW_BYTES
    assert relay.connections == 1
    return time.monotonic() - began


async def slow_download(relay: Relay, journal: Journal) -> float:
    began = time.monotonic()
    assert len(await download(journal.path, "slow-download", SLOW_BYTES)) == SLOW_BYTES
    assert relay.connections == 1
    return time.monotonic() - began


async def test_a_healthy_transfer_over_a_slow_link_survives(journal: Journal) -> None:
    async def over_a_slow_link(transfer: Callable[[Relay, Journal], Coroutine[Any, Any, float]]) -> float:
        async with (
            workers("far", host="127.0.0.1") as [worker],
            Relay(worker.metadata, bytes_per_second=SLOW_BYTES_PER_SECOND) as relay,
            wool.WorkerProxy(workers=[relay.metadata]),
        ):
            return await transfer(relay, journal)

    seconds = await together(upload=over_a_slow_link(slow_upload), download=over_a_slow_link(slow_download))
    assert min(seconds.values()) > 0.8 * SLOW_BYTES / SLOW_BYTES_PER_SECOND, "the link was not slow"
    assert [journal.executions(call) for call in ("slow-upload", "slow-download")] == [1, 1]
