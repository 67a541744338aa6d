"""Admission hooks on real workers: of pools, of `LocalWorker`, of the command."""

from __future__ import annotations

import asyncio
import os
import uuid
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest

import wool
from support.command import wool_command, worker_command


@wool.routine
async def where() -> int:
    return os.getpid()


@wool.routine
async def hold() -> AsyncGenerator[int, None]:
    yield os.getpid()


def takes_no_other_while_one_runs(offer: wool.TaskOffer) -> bool | str:
    return offer.in_flight == 0 or "one at a time"


async def takes_none(offer: wool.TaskOffer) -> str:
    await asyncio.sleep(0)
    return f"{offer.routine} is not served here"


async def test_a_pools_workers_ask_its_hook_and_what_one_rejects_another_takes() -> None:
    async with wool.WorkerPool(size=2, admission=takes_no_other_while_one_runs):
        first, second = hold(), hold()
        busy = await anext(first)
        assert {await where() for _ in range(6)} == {await where()} != {busy}
        assert await anext(second) != busy
        with pytest.raises(wool.NoWorkersAvailable, match="one at a time"):
            await where()
        await first.aclose()
        assert await where() == busy
        await second.aclose()


async def test_a_worker_of_a_discovery_may_have_a_hook_of_its_own() -> None:
    async with wool.LocalWorker(admission=takes_none) as picky, wool.LocalWorker() as other:
        async with wool.WorkerProxy(workers=[picky.metadata, other.metadata]):
            assert {await where() for _ in range(6)} == {other.metadata.pid}
        async with wool.WorkerProxy(workers=[picky.metadata]):
            with pytest.raises(wool.NoWorkersAvailable, match=f"{__name__}:where is not served here"):
                await where()


async def test_the_command_takes_a_hook_by_its_name(tmp_path: Path) -> None:
    (tmp_path / "admitting.py").write_text("def admit(offer):\n    return 'closed for today'\n")
    namespace = f"admission-{uuid.uuid4().hex[:8]}"
    arguments = ("--discovery", f"local:{namespace}", "--size", "1", "--admission")
    async with worker_command(*arguments, "admitting:admit", cwd=tmp_path) as command:
        await command.event("ready")
        with wool.LocalDiscovery(namespace) as discovery:
            async with wool.WorkerPool(discovery=discovery):
                with pytest.raises(wool.NoWorkersAvailable, match="closed for today"):
                    await where()
    status, _, errors = await wool_command("worker", "--discovery", "local:x", "--admission", "admit")
    assert status == 2 and "--admission: must be 'module:function', as in 'app.admission:admit', got 'admit'" in errors


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("no_such:f", "the admission hook cannot be loaded: ModuleNotFoundError: No module named 'no_such'"),
        ("json:no_such", "the admission hook cannot be loaded: AttributeError: module 'json' has no attribute"),
        ("json:__name__", "the admission hook is no function: 'json'"),
    ],
)
async def test_a_hook_that_is_not_there_is_one_clear_line(name: str, words: str) -> None:
    flags = ("--discovery", "local:x", "--size", "1", "--admission", name)
    async with worker_command(*flags, ready=False) as command:
        failed = await command.event("failed")
        assert await command.ended() == 1
        assert words in failed["why"]
        assert "output" not in failed and command.all("output") == [] == command.others


async def test_a_hook_that_cannot_be_loaded_fails_the_start_and_says_why(tmp_path: Path) -> None:
    (tmp_path / "broken.py").write_text("import no_such\n")
    command = ("worker", "--discovery", "local:x", "--size", "1")
    status, _, errors = await wool_command(*command, "--admission", "broken:f", cwd=tmp_path)
    assert status == 1
    assert "the admission hook cannot be loaded: ModuleNotFoundError: No module named 'no_such'" in errors
    assert "broken.py" in errors  # where in the user's own code
    with pytest.raises(wool.WorkerStartError, match="the admission hook cannot be loaded"):
        async with wool.WorkerPool(size=1, admission=Unloadable()):
            raise AssertionError("the pool has opened")


class Unloadable:
    """A hook that can be pickled, and not be loaded."""

    def __call__(self, offer: wool.TaskOffer) -> bool:
        raise AssertionError("it was loaded")

    def __reduce__(self) -> tuple[object, ...]:
        return int, ("no number",)
