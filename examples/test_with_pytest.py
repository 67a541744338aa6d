"""Test code that calls routines, on real workers: one pool for all tests of the module.

    pip install pytest pytest-asyncio
    pytest examples/test_with_pytest.py

Bodies that need no worker are tested without one.
"""

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

import wool


class OutOfStock(Exception):
    pass


@wool.routine
async def price(item: str, pieces: int) -> int:
    if item not in ("sock", "hat"):
        raise OutOfStock(item)
    return {"sock": 4, "hat": 9}[item] * pieces


@pytest_asyncio.fixture(scope="module", loop_scope="module", autouse=True)
async def pool() -> AsyncIterator[None]:
    async with wool.WorkerPool(size=1):
        yield


@pytest.mark.asyncio(loop_scope="module")
async def test_on_a_worker() -> None:
    assert await price("sock", 3) == 12
    with pytest.raises(OutOfStock, match="coat"):
        await price("coat", 1)


@pytest.mark.asyncio(loop_scope="module")
async def test_the_body_alone() -> None:
    # Without a worker, in this process, where a debugger and coverage see it.
    assert await price.__wrapped__("hat", 2) == 18
