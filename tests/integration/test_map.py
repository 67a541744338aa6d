"""`wool.map` over workers: bounded there too, and left early the bodies have ended."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

import wool
from support.pools import module_loop, no_leaked_tasks, pool  # noqa: F401

pytestmark = [module_loop, pytest.mark.usefixtures("no_leaked_tasks")]


@wool.routine
async def square(number: int) -> tuple[int, int]:
    return number * number, os.getpid()


@wool.routine
async def note_end(directory: Path, number: int) -> int:
    if number == 0:
        return number
    (directory / f"{number} begun").touch()
    try:
        await asyncio.Event().wait()
    finally:
        await asyncio.sleep(0.01)
        (directory / f"{number} ended").touch()
    return number


@wool.routine
async def refuse_odd(number: int) -> int:
    if number % 2:
        raise LookupError(number)
    return number


class Accounts:
    def __init__(self, factor: int) -> None:
        self.factor = factor

    @wool.routine
    async def times(self, number: int) -> int:
        return self.factor * number


async def numbers(stop: int) -> AsyncIterator[int]:
    for number in range(stop):
        yield number


@pytest.mark.smoke
async def test_results_come_in_order_from_all_workers() -> None:
    results = [result async for result in wool.map(square, numbers(200))]
    assert [value for value, _ in results] == [number * number for number in range(200)]
    assert len({process for _, process in results}) == 2


async def test_methods_are_mapped_too() -> None:
    assert [result async for result in wool.map(Accounts(3).times, [1, 2])] == [3, 6]


async def test_an_infinite_map_that_is_left_early_leaves_no_body_behind(tmp_path: Path) -> None:
    mapped = wool.map(note_end, itertools.repeat(tmp_path), itertools.count(), concurrency=8)
    async with contextlib.aclosing(mapped) as results:
        async for result in results:
            assert result == 0
            while len(list(tmp_path.glob("* begun"))) < 8:
                await asyncio.sleep(0.005)
            break
    begun = {path.name.split()[0] for path in tmp_path.glob("* begun")}
    ended = {path.name.split()[0] for path in tmp_path.glob("* ended")}
    assert begun == ended == {str(number) for number in range(1, 9)}


async def test_exceptions_are_raised_or_stand_among_the_results() -> None:
    results = [result async for result in wool.map(refuse_odd, range(4), return_exceptions=True)]
    assert [result if isinstance(result, int) else type(result) for result in results] == [
        0,
        LookupError,
        2,
        LookupError,
    ]
    with pytest.raises(LookupError):
        async for _ in wool.map(refuse_odd, range(4), ordered=False):
            pass
