"""A user's own project, tested with pytest as users do."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator

import pytest

from support.scripts import WORDS_SECONDS, Place, user_place

TEST_FILE = """
import asyncio, os
from dataclasses import dataclass

import pytest
import pytest_asyncio
import wool

@dataclass
class Point:
    x: int

class Refused(Exception):
    pass

@wool.routine
async def moved(point: Point, by: int) -> Point:
    return Point(point.x + by)

@wool.routine
async def count(stop: int):
    for number in range(stop):
        yield number

@wool.routine
async def refuse():
    raise Refused("by the body")

@pytest_asyncio.fixture
async def pool():
    async with wool.WorkerPool(size=1) as pool:
        yield pool

async def test_values_travel(pool):
    async with wool.WorkerPool(size=1):
        assert await moved(Point(1), 2) == Point(3)
        assert [number async for number in count(3)] == [0, 1, 2]

async def test_exceptions_are_the_tests_own():
    async with wool.WorkerPool(size=1):
        with pytest.raises(Refused, match="by the body"):
            await refuse()

@pytest.mark.parametrize("number", range(2))
async def test_a_pool_per_test(number):
    async with wool.WorkerPool(size=1):
        assert (await moved(Point(number), 1)).x == number + 1

async def test_a_pool_is_left_in_its_fixture_and_nothing_hangs(pool):
    assert len(pool.workers) == 1
"""

SETTINGS = """
[pytest]
asyncio_mode = auto
asyncio_default_fixture_loop_scope = function
filterwarnings = error
"""


@pytest.fixture
def place() -> Iterator[Place]:
    with user_place() as made:
        yield made


@pytest.mark.parametrize("mode", ["prepend", "append", "importlib"])
def test_a_users_tests_run_in_every_import_mode(mode: str, place: Place) -> None:
    tests = place.home / "tests"
    tests.mkdir()
    (tests / "test_points.py").write_text(TEST_FILE)
    (place.home / "pytest.ini").write_text(
        "[pytest]\nasyncio_mode = auto\nasyncio_default_fixture_loop_scope = function\nfilterwarnings = error\n"
    )
    environment = {name: value for name, value in place.environment().items() if not name.startswith("PYTEST_")}
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"--import-mode={mode}", "tests"],
        cwd=place.home,
        env={**environment, "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        timeout=WORDS_SECONDS,
        check=False,
    )
    assert done.returncode == os.EX_OK, done.stdout + done.stderr
    assert "5 passed" in done.stdout
    assert place.left() == []
