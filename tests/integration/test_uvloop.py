"""Bodies on uvloop: what they see, and that all else is as on asyncio's loop."""

from __future__ import annotations

import asyncio
import importlib.util
import os
import signal
import sys
import uuid
from collections.abc import AsyncIterator
from typing import Any

import pytest

import wool
from support.command import wool_command, worker_command
from support.faults import until


@wool.routine
async def loop_of_body() -> str:
    return type(asyncio.get_running_loop()).__mro__[1].__module__


@wool.routine
async def echo(value: Any) -> Any:
    await asyncio.sleep(0)
    return value


@wool.routine
async def items(stop: int) -> AsyncIterator[int]:
    for number in range(stop):
        yield number


@wool.routine
async def fails() -> None:
    raise LookupError("on purpose")


@wool.routine
async def program() -> bytes:
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", "print(6 * 7)", stdout=asyncio.subprocess.PIPE)
    output, _ = await process.communicate()
    return output.strip()


@wool.routine
async def hangs(path: str) -> None:
    try:
        os.close(os.open(path, os.O_CREAT))
        await asyncio.Event().wait()
    finally:
        os.unlink(path)


@wool.routine
async def ends_the_worker() -> None:
    asyncio.get_running_loop().call_soon(sys.exit, 3)
    await asyncio.sleep(0.05)


async def test_bodies_see_a_loop_of_uvloop_and_behave_as_on_asyncios(tmp_path: Any) -> None:
    async with wool.WorkerPool(size=1, loop="uvloop") as pool:
        [worker] = pool.workers
        assert await loop_of_body() == "uvloop"
        assert await asyncio.gather(*(echo(n) for n in range(200))) == list(range(200))
        assert len(await echo(b"x" * 3_000_000)) == 3_000_000
        assert [number async for number in items(5)] == [0, 1, 2, 3, 4]
        assert await program() == b"42"
        with pytest.raises(LookupError, match="on purpose"):
            await fails()
        path = str(tmp_path / "held")
        call = asyncio.create_task(hangs(path))
        await until(lambda: os.path.exists(path), what="the body to begin")
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        assert not os.path.exists(path)
        await ends_the_worker()
        assert pool.workers == (worker,)


async def test_the_default_is_asyncios_loop() -> None:
    async with wool.WorkerPool(size=1):
        assert await loop_of_body() == "asyncio.unix_events"


async def test_a_single_worker_and_those_of_the_command_run_on_uvloop_too_and_drain(tmp_path: Any) -> None:
    worker = wool.LocalWorker(loop="uvloop")
    await worker.start()
    try:
        async with wool.WorkerProxy(workers=[worker.metadata]):
            assert await loop_of_body() == "uvloop"
    finally:
        await worker.stop()
    namespace = f"uvloop-{uuid.uuid4().hex}"
    async with worker_command("--discovery", f"local:{namespace}", "--size", "1", "--loop", "uvloop") as command:
        async with wool.WorkerProxy(discovery=wool.LocalDiscovery(namespace).subscriber):
            assert await loop_of_body() == "uvloop"
        command.signal(signal.SIGTERM)
        assert await command.ended() == 0


@pytest.mark.parametrize("make", [wool.WorkerPool, wool.LocalWorker])
def test_without_uvloop_the_error_names_the_extra(make: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"needs uvloop, which is not installed: pip install 'wool\[uvloop\]'"):
        make(loop="uvloop")


@pytest.mark.parametrize("make", [wool.WorkerPool, wool.LocalWorker])
def test_a_loop_of_another_name_is_refused_in_words(make: Any) -> None:
    with pytest.raises(ValueError, match="loop must be 'asyncio' or 'uvloop', got 'trio'"):
        make(loop="trio")


async def test_the_command_refuses_a_loop_of_another_name_in_words() -> None:
    status, _, errors = await wool_command("worker", "--discovery", "local:x", "--loop", "trio")
    assert status == 2 and "--loop: loop must be 'asyncio' or 'uvloop', got 'trio'" in errors
