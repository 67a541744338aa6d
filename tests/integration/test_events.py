"""Task events over real workers: a module on both sides is told once, and what ends a worker ends no story twice."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
import time
from collections import Counter
from pathlib import Path

import pytest

import wool
from support.pools import module_loop, no_leaked_tasks, pool  # noqa: F401
from support.story import check, listening

pytestmark = [module_loop, pytest.mark.usefixtures("no_leaked_tasks")]


@wool.routine
async def answer() -> int:
    return 42


@wool.routine
async def count(stop: int) -> object:
    for number in range(stop):
        yield number


@pytest.mark.smoke
async def test_calls_on_workers_are_told_as_the_grammar_has_it_by_clocks_that_agree() -> None:
    with listening(remote=True) as listener:
        began = time.time_ns()
        assert await answer() == 42
        assert [number async for number in count(3)] == [0, 1, 2]
        ended = time.time_ns()
        assert listener.types("answer") == "csSEC"
        assert listener.types("count").startswith("cisbSE")
    assert len(check(listener.told)) == 2
    assert all(began <= timestamp <= ended for _, timestamp, _ in listener.told)
    workers = {context.pid for _, _, context in listener.told if context is not None}
    assert os.getpid() not in workers and workers


def run(script: str, place: Path) -> dict[str, list[list[str]]]:
    tests = str(Path(__file__).parents[1])
    environment = {**os.environ, "WOOL_TEST_TOLD": str(place), "PYTHONPATH": tests}
    text = textwrap.dedent(script)
    result = subprocess.run(
        [sys.executable, "-c", text], env=environment, capture_output=True, text=True, timeout=50, check=False
    )
    assert result.returncode == 0, result.stderr
    assert "Traceback" not in result.stderr
    return {name: [line.split() for line in (place / name).read_text().splitlines()] for name in ("here", "remote")}


async def test_a_module_that_is_imported_on_both_sides_is_told_once(tmp_path: Path) -> None:
    told = run(
        """
        import asyncio, wool
        from support import told

        async def main():
            async with wool.WorkerPool(size=1):
                await told.outer()

        asyncio.run(main())
        """,
        tmp_path,
    )
    # In the caller alone, and at the end of the program.
    assert len({line[0] for line in told["remote"]}) == 1
    remote = Counter(tuple(line[1:]) for line in told["remote"])
    assert remote.keys() == {("task-started", "outer", "None"), ("task-completed", "outer", "success")}
    assert remote["task-completed", "outer", "success"] == 1
    # Each process of its own: the worker is the caller of what its bodies call.
    caller = told["remote"][0][0]
    here = Counter((line[0] == caller, *line[1:3]) for line in told["here"])
    assert here[True, "task-created", "outer"] == here[True, "task-completed", "outer"] == 1
    assert here[False, "task-created", "inner"] == here[False, "task-completed", "inner"] == 1
    assert here[False, "task-started", "outer"] == remote["task-started", "outer", "None"] >= 2
    assert not here[True, "task-started", "outer"]


async def test_a_worker_that_dies_is_told_as_a_loss_once(tmp_path: Path) -> None:
    told = run(
        """
        import asyncio, wool
        from support import told

        async def main():
            async with wool.WorkerPool(size=1):
                try:
                    await told.dies()
                except wool.WorkerLost:
                    pass

        asyncio.run(main())
        """,
        tmp_path,
    )
    ended = [line[1:] for line in told["remote"] if line[1] == "task-completed"]
    assert ended == [["task-completed", "dies", "lost"]]
