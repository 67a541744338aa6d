"""What mutual TLS costs: every figure beside the same one on plain TCP, by turns, against two workers of one kind.

The yardstick here is wool itself, so the ratio is the price.
"""

from __future__ import annotations

import os
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import wool
from bench import routines
from bench.measure import Need, Row, by_turns, rate
from bench.measure import time as time_figure
from bench.processes import HAS_PROC, thread_seconds
from bench.workloads import BULK_BYTES, Options, flat, gathered_seconds, one_by_one

HOST = "127.0.0.1"
DEARER = 1.15
"""What a call may cost more, of what it costs without."""


def _credentials() -> wool.WorkerCredentials:
    from wool.authority import Authority

    authority = Authority.create()
    issued = authority.issue([HOST])
    return wool.WorkerCredentials(ca=authority.chain, key=issued.key, cert=issued.cert)


@asynccontextmanager
async def _worker_and_proxy(
    credentials: wool.WorkerCredentials | None,
) -> AsyncGenerator[tuple[wool.LocalWorker, wool.WorkerProxy]]:
    async with wool.LocalWorker(host=HOST, credentials=credentials) as worker:
        async with wool.WorkerProxy(workers=[worker.metadata], credentials=credentials) as proxy:
            yield worker, proxy


def _in(proxy: wool.WorkerProxy, measured: Callable[[], Awaitable[Any]]) -> Callable[[], Awaitable[Any]]:
    async def side() -> Any:
        with proxy.use():
            return await measured()

    return side


def _used(worker: wool.LocalWorker) -> float:
    """Return the processor time of this process and of the worker so far, in seconds."""
    return sum(thread_seconds(os.getpid()).values()) + sum(thread_seconds(worker.metadata.pid).values())


def _measured(
    worker: wool.LocalWorker, proxy: wool.WorkerProxy, calls: int, work: Callable[[], Awaitable[Any]]
) -> Callable[[], Awaitable[float]]:
    async def side() -> float:
        before = _used(worker)
        with proxy.use():
            await work()
        return (_used(worker) - before) / calls

    return side


async def _processor(options: Options, sides: Sequence[tuple[wool.LocalWorker, wool.WorkerProxy]]) -> list[Row]:
    """What a call costs both ends in processor time: it counts work, not waiting, so a busy machine hardly matters."""
    if not HAS_PROC:
        return []
    works: tuple[tuple[str, int, Callable[[], Awaitable[Any]]], ...] = (
        ("lone", 1_000, lambda: one_by_one(routines.nothing, 1_000)),
        ("of 2 000 gathered", 10_000, lambda: _crowds(5)),
    )
    rows: list[Row] = []
    for what, calls, work in works:
        secure, plain = await by_turns(options.times(8, 3), *(_measured(*side, calls, work) for side in sides))
        rows.append(
            Row(
                workload=f"processor time of a call, {what}, mutual TLS",
                figure=time_figure([seconds * 1e6 for seconds in secure], "µs, both ends"),
                yardstick="the same, plain TCP",
                measure=time_figure([seconds * 1e6 for seconds in plain], "µs, both ends"),
                need=Need(ratio_at_most=DEARER),
            )
        )
    return rows


async def _crowds(times: int) -> None:
    for _ in range(times):
        await gathered_seconds(routines.nothing, 2_000)


async def tls(options: Options) -> list[Row]:
    """Lone calls, gathered calls, bulk and a session's set-up, with and without."""
    lone, crowd, data = 200, 2_000, os.urandom(BULK_BYTES)
    credentials = _credentials()

    async def bulk() -> float:
        began = time.perf_counter()
        assert len(await routines.echo(data)) == len(data)
        return time.perf_counter() - began

    def opened(worker: wool.LocalWorker, shown: wool.WorkerCredentials | None) -> Callable[[], Awaitable[float]]:
        async def side() -> float:
            began = time.perf_counter()
            async with wool.WorkerProxy(workers=[worker.metadata], credentials=shown):
                await routines.nothing()
                return time.perf_counter() - began

        return side

    async with _worker_and_proxy(credentials) as (secure_worker, secure), _worker_and_proxy(None) as (worker, plain):
        both = secure, plain
        lone_calls = await by_turns(
            options.times(15, 5), *(_in(proxy, lambda: one_by_one(routines.nothing, lone)) for proxy in both)
        )
        crowds = await by_turns(
            options.times(15, 5), *(_in(proxy, lambda: gathered_seconds(routines.nothing, crowd)) for proxy in both)
        )
        moved = await by_turns(options.times(12, 4), *(_in(proxy, bulk) for proxy in both), warm_up=2)
        processor = await _processor(options, ((secure_worker, secure), (worker, plain)))
        sessions = await by_turns(options.times(60, 15), opened(secure_worker, credentials), opened(worker, None))
    return [
        *processor,
        Row(
            workload="lone call, mutual TLS",
            figure=time_figure(flat(lone_calls[0], 1e6), "µs"),
            yardstick="the same, plain TCP",
            measure=time_figure(flat(lone_calls[1], 1e6), "µs"),
            need=Need(ratio_at_most=DEARER),
        ),
        Row(
            workload="2 000 gathered, mutual TLS",
            figure=rate([crowd / seconds for seconds in crowds[0]], "tasks/s"),
            yardstick="the same, plain TCP",
            measure=rate([crowd / seconds for seconds in crowds[1]], "tasks/s"),
            need=Need(ratio_at_least=round(1 / DEARER, 3)),
        ),
        Row(
            workload="32 MiB there and back, mutual TLS",
            figure=rate([2 * BULK_BYTES / 1e6 / seconds for seconds in moved[0]], "MB/s"),
            yardstick="the same, plain TCP",
            measure=rate([2 * BULK_BYTES / 1e6 / seconds for seconds in moved[1]], "MB/s"),
        ),
        Row(
            workload="a proxy's entry with its first result, mutual TLS",
            figure=time_figure([seconds * 1e3 for seconds in sessions[0]], "ms"),
            yardstick="the same, plain TCP",
            measure=time_figure([seconds * 1e3 for seconds in sessions[1]], "ms"),
        ),
    ]
