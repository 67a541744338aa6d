"""Routines of every shape, for the tests to call. Workers import this module."""

from __future__ import annotations

import asyncio
import contextvars
import os
import threading
import weakref
from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import wool
from support.journal import Pen

VARIABLE: contextvars.ContextVar[str] = contextvars.ContextVar("support.variable", default="unset")


@wool.routine
async def add(x: int, y: int) -> int:
    """Add two numbers."""
    return x + y


@wool.routine
async def echo(value: Any) -> Any:
    return value


@wool.routine
async def everything(
    first: int, /, second: int = 2, *rest: int, third: int, fourth: int = 4, **more: int
) -> tuple[object, ...]:
    return first, second, rest, third, fourth, more


class Thing:
    """Something that can be seen to go."""


@wool.routine
async def let_go(thing: Thing, *more: Thing, last: Thing) -> list[bool]:
    """Let go of what was given; return what has gone."""
    seen = [weakref.ref(thing), weakref.ref(more[0]), weakref.ref(last)]
    del thing, more, last
    await asyncio.sleep(0)
    return [reference() is None for reference in seen]


@wool.routine
async def let_go_and_yield(thing: Thing) -> AsyncIterator[bool]:
    """Let go of what was given; yield whether it has gone."""
    seen = weakref.ref(thing)
    del thing
    yield seen() is None


@wool.routine
async def park_with(pen: Pen, thing: Thing) -> None:
    await pen.park()


@wool.routine
async def where() -> tuple[int, str | None, str]:
    """Tell the process, the current task's routine and the thread."""
    task = wool.current_task()
    return os.getpid(), task and task.routine, threading.current_thread().name


@wool.routine
async def count(stop: int) -> AsyncGenerator[int, None]:
    """Count to ``stop``."""
    for number in range(stop):
        yield number


@wool.routine
async def blob(kind: str, size: int) -> Any:
    data = os.urandom(1024) * (size // 1024)
    match kind:
        case "bytes":
            return data
        case "bytearray":
            return bytearray(data)
        case "memoryview":
            return memoryview(data)
        case "nested":
            return {"a": [data[: size // 2], {"b": bytearray(data[size // 2 :])}], "n": None}
        case _:
            raise LookupError(kind)


@wool.routine
async def spoil(items: list[int], table: dict[str, list[int]], data: bytearray) -> tuple[Any, ...]:
    """Change every argument."""
    items.append(99)
    table["x"].append(99)
    data[:3] = b"bad"
    return items, table, bytes(data[:3])


_LOCK = threading.Lock()
"""What keeps a function that uses it from going by value."""


class Account:
    """Methods of every kind, with the decorators in either order."""

    rate = 2

    def __init__(self, balance: int) -> None:
        self.balance = balance

    @wool.routine
    async def doubled(self, times: int = 1) -> int:
        """Double the balance."""
        return self.balance * 2**times

    @wool.routine
    async def parts(self, size: int) -> AsyncIterator[int]:
        for start in range(0, self.balance, size):
            yield min(size, self.balance - start)

    @wool.routine
    @classmethod
    async def of_class(cls, amount: int) -> tuple[str, int]:
        return cls.__name__, amount * cls.rate

    @classmethod
    @wool.routine
    async def of_class_inside(cls, amount: int) -> tuple[str, int]:
        return cls.__name__, amount * cls.rate

    @wool.routine
    @staticmethod
    async def of_nothing(amount: int) -> int:
        return amount + 1

    @staticmethod
    @wool.routine
    async def of_nothing_inside(amount: int) -> int:
        return amount + 1

    @wool.routine
    @classmethod
    async def class_items(cls, stop: int) -> AsyncIterator[str]:
        for number in range(stop):
            yield f"{cls.__name__}{number}"

    @staticmethod
    @wool.routine
    async def static_items(stop: int) -> AsyncIterator[int]:
        for number in range(stop):
            yield number

    @wool.routine
    async def describe(self) -> list[str]:
        return [f"Account {self.balance}"]

    @wool.routine
    async def items(self) -> AsyncIterator[str]:
        yield f"account {self.balance}"

    class Inner:
        @wool.routine
        async def deep(self) -> str:
            return type(self).__qualname__

    async def in_private(self) -> list[int]:
        return [await self.__tripled(), await self.__Hidden().call()]

    @wool.routine
    async def __tripled(self) -> int:
        with _LOCK:
            return self.balance * 3

    class __Hidden:
        @wool.routine
        async def __call(self) -> int:
            with _LOCK:
                return 1

        async def call(self) -> int:
            return await self.__call()


class Savings(Account):
    rate = 3

    @wool.routine
    async def describe(self) -> list[str]:
        return [f"Savings {os.getpid() > 0}", *await super().describe()]

    @wool.routine
    async def items(self) -> AsyncIterator[str]:
        yield "savings"
        async for item in super().items():
            yield item

    @wool.routine
    @classmethod
    async def of_class(cls, amount: int) -> tuple[str, int]:
        name, product = await super().of_class(amount)
        return f"super says {name}", product


@dataclass(slots=True)
class Point:
    x: int
    y: int = 0

    @wool.routine
    async def moved(self, by: int) -> Point:
        return Point(self.x + by, self.y + by)


@wool.routine
async def fib(n: int) -> int:
    if n < 2:
        return n
    async with asyncio.TaskGroup() as group:
        a = group.create_task(fib(n - 1))
        b = group.create_task(fib(n - 2))
    return a.result() + b.result()


@wool.routine
async def depth(n: int) -> list[int]:
    """Nest ``n`` calls in one another and return the pids, outermost first."""
    return [os.getpid(), *(await depth(n - 1) if n else [])]


@wool.routine
async def is_even(n: int) -> bool:
    return n == 0 or await is_odd(n - 1)


@wool.routine
async def is_odd(n: int) -> bool:
    return n != 0 and await is_even(n - 1)


@wool.routine
async def own_body(n: int) -> bool:
    """Whether the body began in the asyncio task and wool task in which it goes on, helpers included."""
    before = asyncio.current_task(), wool.current_task()
    after = await _helper()
    return before == after


async def _helper() -> tuple[Any, Any]:
    await asyncio.sleep(0)
    return asyncio.current_task(), wool.current_task()


@dataclass
class Family:
    """Who called whom."""

    id: str
    parent: str | None
    caller: str
    kind: str
    routine: str
    children: list[Family] = field(default_factory=list)


def myself() -> Family:
    task = wool.current_task()
    assert task is not None
    parent = task.parent_id
    return Family(str(task.id), str(parent) if parent else None, task.caller, task.kind, task.routine)


@wool.routine
async def family(levels: int, width: int = 2) -> Family:
    here = myself()
    if levels:
        here.children = list(await asyncio.gather(*(family(levels - 1, width) for _ in range(width))))
    return here


@wool.routine
async def family_stream(steps: int) -> AsyncIterator[tuple[Family, Family]]:
    for _ in range(steps):
        yield myself(), await family(0)


@wool.routine
async def nested_count(stop: int) -> AsyncIterator[int]:
    """Yield what a nested generator yields."""
    async for number in count(stop):
        yield number * 10


@wool.routine
async def total(stop: int) -> int:
    return sum([number async for number in nested_count(stop)])


@wool.routine
async def timeout_in_force(levels: int) -> list[float | None]:
    from wool.context import dispatch_timeout_seconds

    return [dispatch_timeout_seconds(), *(await timeout_in_force(levels - 1) if levels else [])]


@wool.routine
async def timeout_replaced(seconds: float | None) -> list[float | None]:
    with wool.RuntimeContext(dispatch_timeout=seconds):
        return await timeout_in_force(0)


@wool.routine
async def variable(value: str, calls: int, levels: int) -> set[str]:
    """Return what a context variable was when the bodies began; set it, and call others with it set."""
    found = {VARIABLE.get()}
    VARIABLE.set(value)
    if levels:
        found.update(*await asyncio.gather(*(variable(value, calls, levels - 1) for _ in range(calls))))
    return found


@wool.routine
async def parked(pen: Pen, name: str) -> None:
    try:
        await pen.park(f"{name} parked")
    finally:
        pen.note(f"{name} finally")
