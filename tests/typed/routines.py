# pyright: strict, reportUnnecessaryTypeIgnoreComment=error
"""What type checkers make of routines of every shape. Checked by the `types` session, never run."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager, nullcontext
from typing import Any, Generic, TypeVar, assert_type

import wool

T = TypeVar("T")


@wool.routine
async def add(x: int, y: int = 2, *rest: int, scale: float = 1.0) -> float:
    return scale * (x + y + sum(rest))


@wool.routine
async def nothing() -> None: ...


@wool.routine
async def first(items: list[T]) -> T:
    return items[0]


@wool.routine
async def numbers(stop: int) -> AsyncGenerator[int, str | None]:
    for number in range(stop):
        yield number


@wool.routine
async def iterated(stop: int) -> AsyncIterator[int]:
    for number in range(stop):
        yield number


@wool.routine
async def iterable(stop: int) -> AsyncIterable[int]:
    for number in range(stop):
        yield number


@wool.routine
async def repeated(item: T) -> AsyncIterator[T]:
    yield item


@wool.routine(timeout=3.0)
async def limited(x: int) -> str:
    return str(x)


class Account(Generic[T]):
    def __init__(self, owner: T) -> None:
        self.owner = owner

    @wool.routine
    async def describe(self, prefix: str) -> T:
        return self.owner

    @wool.routine
    async def parts(self, size: int) -> AsyncIterator[T]:
        yield self.owner

    @wool.routine
    @classmethod
    async def of_class(cls, amount: int) -> str:
        return cls.__name__

    @classmethod
    @wool.routine
    async def of_class_inside(cls, amount: int) -> str:
        return cls.__name__

    @wool.routine
    @staticmethod
    async def of_nothing(amount: int) -> int:
        return amount

    @staticmethod
    @wool.routine
    async def of_nothing_inside(amount: int) -> int:
        return amount

    @wool.routine
    @classmethod
    async def class_items(cls, stop: int) -> AsyncIterator[str]:
        yield cls.__name__

    @staticmethod
    @wool.routine
    async def static_items(stop: int) -> AsyncGenerator[bytes, None]:
        yield b""


async def calls(account: Account[str]) -> None:
    assert_type(await add(1, 2, 3, scale=4.0), float)
    assert_type(await limited(1), str)
    await limited("1")  # type: ignore[arg-type]
    unawaited: Coroutine[Any, Any, float] = add(1)
    await unawaited
    await nothing()
    assert_type(await first(["a"]), str)
    assert_type(await account.describe("x"), str)
    assert_type(await Account[str].describe(account, "x"), str)
    assert_type(await Account[str].of_class(1), str)
    assert_type(await account.of_class_inside(1), str)
    assert_type(await Account[str].of_nothing(1), int)
    assert_type(await account.of_nothing_inside(1), int)


async def streams(account: Account[str]) -> None:
    assert_type(numbers(3), AsyncGenerator[int, str | None])
    assert_type(await numbers(3).asend("x"), int)
    assert_type(iterated(3), AsyncIterator[int])
    assert_type(await anext(iterated(3)), int)
    assert_type([number async for number in iterable(3)], list[int])
    assert_type([item async for item in repeated(b"")], list[bytes])
    assert_type([item async for item in account.parts(3)], list[str])
    assert_type([item async for item in Account[str].class_items(3)], list[str])
    assert_type([item async for item in account.static_items(3)], list[bytes])


async def wrong_calls() -> None:
    await add("1")  # type: ignore[arg-type]
    await add(1, scael=2.0)  # type: ignore[call-arg]
    await nothing(1)  # type: ignore[call-arg]
    async for _ in iterated("1"):  # type: ignore[arg-type]
        pass


def plain(x: int) -> int:
    return x


wool.routine(plain)  # type: ignore[type-var]


def make() -> wool.RoundRobinLoadBalancer:
    return wool.RoundRobinLoadBalancer()


async def pools(worker: wool.LocalWorker, kind: type[wool.LoadBalancerLike]) -> None:
    async with wool.WorkerPool("gpu", "large", size=2, loadbalancer=make) as pool:
        assert_type(pool, wool.WorkerPool)
        assert_type(pool.workers, tuple[wool.WorkerMetadata, ...])
    wool.WorkerPool(loadbalancer=wool.RoundRobinLoadBalancer)
    wool.WorkerPool(loadbalancer=wool.RoundRobinLoadBalancer())
    wool.WorkerPool(loadbalancer=3)  # type: ignore[arg-type]
    async with wool.WorkerProxy(workers=[worker.metadata]) as proxy:
        assert_type(proxy, wool.WorkerProxy)


@asynccontextmanager
async def opened() -> AsyncGenerator[wool.LocalDiscovery, None]:
    with wool.LocalDiscovery("team") as team:
        yield team


async def pools_that_find_workers(custom: wool.DiscoveryLike) -> None:
    team = wool.LocalDiscovery("team")
    wool.WorkerPool("gpu", size=2, discovery=team, lease=3, host="127.0.0.1")
    wool.WorkerPool(discovery=custom)
    wool.WorkerPool(discovery=wool.LocalDiscovery)
    wool.WorkerPool(discovery=lambda: team)
    wool.WorkerPool(discovery=nullcontext(team), loadbalancer=nullcontext(make()))
    wool.WorkerPool(discovery=opened())
    wool.WorkerPool(discovery=opened)
    wool.WorkerProxy(discovery=team.subscriber)
    wool.WorkerProxy(discovery=lambda: team.subscriber)
    wool.WorkerPool(discovery=team.subscriber)  # type: ignore[arg-type]


signature: Callable[[int], AsyncIterator[int]] = iterated


@wool.routine
async def joined(number: int, text: str) -> bytes:
    return text.encode() * number


async def mapped(source: AsyncIterator[int]) -> None:
    assert_type([result async for result in wool.map(add, source)], list[float])
    assert_type([result async for result in wool.map(joined, [1], ["a"], ordered=False)], list[bytes])
    assert_type([result async for result in wool.map(add, [1], return_exceptions=True)], list[float | BaseException])
    wool.map(joined, ["a"], [1])  # type: ignore[arg-type]
    wool.map(iterated, [1])  # type: ignore[arg-type]
