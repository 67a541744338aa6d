"""A user's own test suite calls routines that it defines, however its runner has loaded the files."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[2] / "src"

SUITE = """
import asyncio
import dataclasses
import functools

import pytest
import pytest_asyncio

import wool


class Failure(Exception):
    pass


@dataclasses.dataclass(slots=True)
class Point:
    x: int


@functools.cache
def scale():
    return 2


@wool.routine
async def scaled(point: Point) -> Point:
    assert isinstance(point, Point)
    return Point(point.x * scale())


@wool.routine
async def fail():
    raise Failure("of the body")


@wool.routine
async def count(stop):
    for number in range(stop):
        yield Point(number)


@wool.routine
async def twice(point: Point) -> Point:
    return await scaled(await scaled(point))


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def pool():
    async with wool.WorkerPool(size=2) as pool:
        yield pool


@pytest.mark.asyncio(loop_scope="module")
class TestRoutines:
    async def test_value(self, pool):
        assert await scaled(Point(2)) == Point(4)

    async def test_exception(self, pool):
        with pytest.raises(Failure, match="of the body"):
            await fail()

    async def test_items(self, pool):
        assert [point async for point in count(3)] == [Point(0), Point(1), Point(2)]

    async def test_nested(self, pool):
        assert await twice(Point(1)) == Point(4)

    async def test_local(self, pool):
        @wool.routine
        async def local(x):
            return Point(x)

        assert await local(3) == Point(3)


def test_without_a_plugin():
    async def main():
        async with wool.WorkerPool(size=1):
            return await scaled(Point(5))

    assert asyncio.run(main()) == Point(10)
"""


@pytest.mark.parametrize("mode", ["prepend", "importlib"])
def test_a_users_tests_call_the_routines_that_they_define(mode: str, tmp_path: Path) -> None:
    # Two files of one name: for importlib's mode no trouble, and no path leads to either.
    for folder in ["one", "two"] if mode == "importlib" else ["one"]:
        (tmp_path / "suite" / folder).mkdir(parents=True)
        (tmp_path / "suite" / folder / "test_points.py").write_text(SUITE)
    (tmp_path / "pytest.ini").write_text("[pytest]\nasyncio_default_fixture_loop_scope = function\n")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-W", "error", "-p", "no:cacheprovider", f"--import-mode={mode}"],
        cwd=tmp_path / "suite",
        env={**os.environ, "PYTHONPATH": str(SOURCE)},
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{6 if mode == 'prepend' else 12} passed" in done.stdout


def test_a_module_that_came_on_the_path_after_the_pool_was_opened_travels_by_value(tmp_path: Path) -> None:
    (tmp_path / "late").mkdir()
    (tmp_path / "late" / "plugin.py").write_text(
        "import wool\nclass Made: pass\n@wool.routine\nasync def make(): return Made()\n"
    )
    script = tmp_path / "script.py"
    script.write_text(
        f"""
import asyncio, sys, wool

async def main():
    async with wool.WorkerPool(size=1):
        sys.path.insert(0, {str(tmp_path / "late")!r})
        import plugin
        assert type(await plugin.make()) is plugin.Made

asyncio.run(main())
"""
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", str(script)],
        env={**os.environ, "PYTHONPATH": str(SOURCE)},
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
