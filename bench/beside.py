"""What goes along with calls, and what it costs where nothing does: task events and context variables."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import wool
from bench import routines
from bench.measure import Need, Row, by_turns, rate
from bench.workloads import Benchmark, Options, gathered_seconds

CALLS = 2_000
TYPES = (
    "task-created",
    "task-scheduled",
    "task-started",
    "task-stopped",
    "task-completed",
    "task-iteration-initiated",
    "task-iteration-started",
    "task-iteration-completed",
)
variables = [wool.ContextVar[str](f"bench {number}") for number in range(10)]


def _hear(event: wool.TaskEvent, timestamp: int, context: object = None) -> None:
    """Do nothing."""


def _rows(named: str, seconds: list[list[float]], needs: list[Need], workloads: list[str]) -> list[Row]:
    first, *others = [rate([CALLS / each for each in samples], "tasks/s") for samples in seconds]
    return [
        Row(workload=workload, figure=figure, yardstick=named, measure=first, need=need)
        for workload, figure, need in zip(workloads, others, needs, strict=True)
    ]


async def events(options: Options) -> list[Row]:
    """2 000 no-op calls at once, with and without somebody who listens."""

    def listening(*types: wool.events.TaskEventType, remote: bool = False) -> Callable[[], Awaitable[float]]:
        async def measured() -> float:
            wool.TaskEvent.handler(*types, remote=remote)(_hear)
            try:
                return await gathered_seconds(routines.nothing, CALLS)
            finally:
                wool.TaskEvent.remove_handler(_hear)

        return measured

    async def nobody() -> float:
        return await gathered_seconds(routines.nothing, CALLS)

    async def nobody_any_more() -> float:
        wool.TaskEvent.handler(*TYPES, remote=True)(_hear)
        wool.TaskEvent.remove_handler(_hear)
        return await nobody()

    async with wool.WorkerPool(size=2):
        seconds = await by_turns(
            options.times(15, 5),
            nobody,
            nobody_any_more,
            listening("task-completed"),
            listening(*TYPES, remote=True),
            warm_up=2,
        )
    return _rows(
        "nobody listens",
        seconds,
        [Need(ratio_at_least=0.9), Need(), Need()],
        [
            "2 000 no-op calls, nobody listens any more",
            "… and a handler hears of their end",
            "… and one of all, workers included",
        ],
    )


async def context(options: Options) -> list[Row]:
    """2 000 no-op calls at once, with and without context variables."""

    def with_variables(count: int) -> Callable[[], Awaitable[float]]:
        async def measured() -> float:
            for variable in variables[:count]:
                variable.set("some text")
            return await gathered_seconds(routines.nothing, CALLS)

        return lambda: asyncio.create_task(measured())

    async with wool.WorkerPool(size=2):
        none, one, ten = await by_turns(
            options.times(15, 5), with_variables(0), with_variables(1), with_variables(10), warm_up=2
        )
    return _rows(
        "none is set",
        [none, one, ten],
        [Need(), Need()],
        ["2 000 no-op calls, a context variable is set", "… and ten are"],
    )


BENCHMARKS: dict[str, Benchmark] = {"events": events, "context": context}
