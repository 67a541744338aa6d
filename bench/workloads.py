"""The benchmarks, one function each: measures the library and its yardstick by turns, returns rows.

Each opens what it needs and leaves nothing open, so that each can be run by itself.
"""

from __future__ import annotations

import asyncio
import os
import random
import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import wool
from bench import fresh, routines, yardsticks
from bench.measure import BULK_THERE, PING_PONG_THERE, Need, Row, by_turns, rate
from bench.measure import time as time_figure
from bench.processes import HAS_PROC, MIB, thread_seconds, threads_of_this_process
from bench.table import number
from bench.yardsticks import Executor, RawGrpc

Nothing: TypeAlias = Callable[[], Awaitable[None]]

BULK_BYTES = 32 * MIB
WORKERS_UNEVEN = 4
GROWTH_OBJECTS = 500
"""What the number of objects in a process may vary by, in a run that keeps none."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """What the user asked for."""

    quick: bool
    by_value: Nothing
    """A routine of ``__main__``."""

    def times(self, full: int, quick: int) -> int:
        """Return how often to do something."""
        return quick if self.quick else full


Benchmark: TypeAlias = Callable[[Options], Coroutine[Any, Any, list[Row]]]


async def gathered_seconds(routine: Callable[[], Awaitable[Any]], calls: int) -> float:
    began = time.perf_counter()
    await asyncio.gather(*(routine() for _ in range(calls)))
    return time.perf_counter() - began


async def one_by_one(routine: Nothing, calls: int) -> list[float]:
    samples = []
    for _ in range(calls):
        began = time.perf_counter()
        await routine()
        samples.append(time.perf_counter() - began)
    return samples


def flat(lists: Sequence[Sequence[float]], factor: float) -> list[float]:
    return [sample * factor for samples in lists for sample in samples]


PINGS = 200
"""Round trips of one turn, where they only tell how fast the machine is."""


def _speed(pings: Sequence[Sequence[float]]) -> float:
    """Return how fast round trips are here, in parts of what they were where the needs were set."""
    return PING_PONG_THERE / time_figure(flat(pings, 1.0), "s").median


# ---- calls -----------------------------------------------------------------------------------------


async def gathered(options: Options) -> list[Row]:
    """2 000 no-op calls at once."""
    calls = 2_000
    async with RawGrpc() as raw, wool.WorkerPool(size=2), Executor() as executor:
        ours, theirs, pings = await by_turns(
            options.times(15, 5),
            lambda: gathered_seconds(routines.nothing, calls),
            lambda: executor.nothing(calls),
            lambda: raw.ping_pong(PINGS),
            warm_up=2,
        )
    return [
        Row(
            workload="2 000 no-op calls gathered",
            figure=rate([calls / seconds for seconds in ours], "tasks/s"),
            yardstick="ProcessPoolExecutor",
            measure=rate([calls / seconds for seconds in theirs], "tasks/s"),
            need=Need(at_least=20_000, ratio_at_least=2),
            speed=_speed(pings),
        )
    ]


async def lone(options: Options) -> list[Row]:
    """One no-op call after the other."""
    calls = 200
    async with RawGrpc() as raw, wool.WorkerPool(size=2):
        ours, theirs = await by_turns(
            options.times(15, 5), lambda: one_by_one(routines.nothing, calls), lambda: raw.ping_pong(calls)
        )
    return [
        Row(
            workload="a lone no-op call",
            figure=time_figure(flat(ours, 1e6), "µs"),
            yardstick="raw gRPC ping-pong",
            measure=time_figure(flat(theirs, 1e6), "µs"),
            need=Need(ratio_at_most=5),
        )
    ]


async def _iterations_per_millisecond(repetitions: int) -> int:
    """Calibrate `spin` on a worker that does nothing else: the shortest time that a counted loop took."""
    iterations = 1_000_000

    async def once() -> float:
        began = time.perf_counter()
        await routines.spin(iterations)
        return time.perf_counter() - began

    seconds: list[float]
    (seconds,) = await by_turns(repetitions, once)
    return round(iterations / min(seconds) / 1000)


async def processor(options: Options) -> list[Row]:
    """1 000 calls of a millisecond of work, against the same work in two pieces."""
    calls = 1_000
    async with wool.WorkerPool(size=2), Executor() as executor:
        iterations = await _iterations_per_millisecond(options.times(30, 15))
        ours, perfect = await by_turns(
            options.times(10, 4),
            lambda: gathered_seconds(lambda: routines.spin(iterations), calls),
            lambda: executor.spin([iterations * calls // 2] * 2),
        )
    work = calls / 1000
    note = (
        f"1 ms is {iterations} iterations, calibrated alone on a worker; the yardstick is the same work as "
        "two calls of half a second, so it is perfect for as many cores as the machine has to spare."
    )
    return [
        Row(
            workload="1 000 calls of 1 ms, gathered",
            figure=rate([work / seconds for seconds in ours], "s of work/s"),
            yardstick="two pieces, two processes",
            measure=rate([work / seconds for seconds in perfect], "s of work/s"),
            need=Need(ratio_at_least=0.9),
            notes=[note],
        )
    ]


async def by_value(options: Options) -> list[Row]:
    """A routine of ``__main__``, which travels by value."""
    calls, at_once = 200, 2_000
    importable, by_value = routines.nothing, options.by_value
    async with wool.WorkerPool(size=2):
        alone, reference = await by_turns(
            options.times(8, 3), lambda: one_by_one(by_value, calls), lambda: one_by_one(importable, calls)
        )
        together, beside = await by_turns(
            options.times(8, 3),
            lambda: gathered_seconds(by_value, at_once),
            lambda: gathered_seconds(importable, at_once),
        )
    return [
        Row(
            workload="lone call, routine of __main__",
            figure=time_figure(flat(alone, 1e6), "µs"),
            yardstick="importable routine",
            measure=time_figure(flat(reference, 1e6), "µs"),
        ),
        Row(
            workload="2 000 gathered, routine of __main__",
            figure=rate([at_once / seconds for seconds in together], "tasks/s"),
            yardstick="importable routine",
            measure=rate([at_once / seconds for seconds in beside], "tasks/s"),
        ),
    ]


async def tcp(options: Options) -> list[Row]:
    """A lone call over loopback TCP."""
    calls = 200
    samples: list[list[list[float]]] = []
    async with RawGrpc() as raw, wool.LocalWorker(host="127.0.0.1") as worker:
        async with wool.WorkerProxy(workers=[worker.metadata]):
            samples = await by_turns(
                options.times(8, 3), lambda: one_by_one(routines.nothing, calls), lambda: raw.ping_pong(calls)
            )
    return [
        Row(
            workload="lone call over loopback TCP",
            figure=time_figure(flat(samples[0], 1e6), "µs"),
            yardstick="raw gRPC ping-pong (Unix)",
            measure=time_figure(flat(samples[1], 1e6), "µs"),
        )
    ]


async def nested(options: Options) -> list[Row]:
    """A tree of nested routines."""
    number_, calls = 16, 3_193

    async def tree() -> float:
        began = time.perf_counter()
        assert await routines.fib(number_) == 987
        return time.perf_counter() - began

    async with wool.WorkerPool(size=2):
        (seconds,) = await by_turns(options.times(5, 2), tree)
    return [
        Row(
            workload="fib(16), 3 193 nested calls",
            figure=rate([calls / second for second in seconds], "calls/s"),
        )
    ]


# ---- data ------------------------------------------------------------------------------------------


async def bulk(options: Options) -> list[Row]:
    """32 MB of bytes, there and back."""
    data, moved = os.urandom(BULK_BYTES), 2 * BULK_BYTES

    async def ours() -> float:
        began = time.perf_counter()
        assert len(await routines.echo(data)) == len(data)
        return time.perf_counter() - began

    async with RawGrpc() as raw, wool.WorkerPool(size=2):
        library, stream, pipe, copy = await by_turns(
            options.times(12, 4),
            ours,
            lambda: raw.bulk(BULK_BYTES),
            lambda: raw.pipe(moved),
            lambda: raw.copy(moved),
            warm_up=2,
        )

    def speed(seconds: Sequence[float]) -> list[float]:
        return [moved / 1e6 / second for second in seconds]

    pipe_speed, copy_speed = rate(speed(pipe), "MB/s"), rate(speed(copy), "MB/s")
    note = (
        f"the same bytes through a pipe between two threads: {number(pipe_speed.median)} MB/s, copied once "
        f"in memory: {number(copy_speed.median)} MB/s."
    )
    return [
        Row(
            workload="32 MiB there and back",
            figure=rate(speed(library), "MB/s"),
            yardstick="raw gRPC, 128 KiB messages",
            measure=rate(speed(stream), "MB/s"),
            need=Need(at_least=600),
            speed=rate(speed(stream), "MB/s").median / BULK_THERE,
            notes=[note],
        )
    ]


async def generator(options: Options) -> list[Row]:
    """A generator, item by item: each is a round trip."""
    items = 500

    async def ours() -> float:
        began = time.perf_counter()
        taken = 0
        async for _ in routines.count(items):
            taken += 1
        assert taken == items
        return items / (time.perf_counter() - began)

    pings: list[list[float]] = []

    async def theirs() -> float:
        pings.append(await raw.ping_pong(items))
        return items / sum(pings[-1])

    async with RawGrpc() as raw, wool.WorkerPool(size=2):
        library, stream = await by_turns(options.times(12, 4), ours, theirs)
    return [
        Row(
            workload="generator, item by item",
            figure=rate(library, "items/s"),
            yardstick="raw gRPC ping-pong",
            measure=rate(stream, "items/s"),
            need=Need(at_least=2_500),
            speed=_speed(pings),
        )
    ]


# ---- memory ----------------------------------------------------------------------------------------


async def waiting(options: Options) -> list[Row]:
    """100 000 calls at once, and what each takes while it waits."""
    if not HAS_PROC:
        return []
    calls = options.times(100_000, 20_000)
    result = fresh.run("waiting", calls)
    local = fresh.run("local", calls)
    kept = list(result["parts"].items())
    parts = ", ".join(f"{name} {number(size)}" for name, size in kept[:12])
    rest = sum(size for _, size in kept[12:])
    note = (
        f"all finished, {number(result['calls per second'])} a second. Growth of the caller's memory at its "
        f"highest; of it, by type, in bytes per call just made: {parts}, other types {number(rest)}; the "
        "rest is bytes, numbers, the queues' own room and the allocator's."
    )
    return [
        Row(
            workload=f"{number(calls)} gathered: each, waiting",
            figure=time_figure([result["bytes per call"]], "bytes"),
            yardstick="a local coroutine, waiting",
            measure=time_figure([local], "bytes"),
            need=Need(at_most=10_000),
            notes=[note],
        )
    ]


def _grown(first: dict[str, int], last: dict[str, int]) -> list[str]:
    return [
        name
        for name in first
        if name != "resident" and last[name] - first[name] > (GROWTH_OBJECTS if name == "objects" else 0)
    ]


def _told(states: dict[str, list[dict[str, int]]]) -> list[str]:
    told = []
    for done, state in states.items():
        each = "; ".join(
            f"{name} {held['resident'] / MIB:.1f} MiB, {held['objects']} objects, {held['asyncio tasks']} tasks, "
            f"{held['threads']} threads, {held['descriptors']} descriptors"
            for name, held in zip(("caller", "worker 1", "worker 2"), state, strict=True)
        )
        told.append(f"after {number(int(done))}: {each}.")
    return told


async def growth(options: Options) -> list[Row]:
    """1 000 000 calls in waves: nothing may grow."""
    if not HAS_PROC:
        return []
    calls = options.times(1_000_000, 50_000)
    result = fresh.run("growth", calls)
    states: dict[str, list[dict[str, int]]] = result["states"]
    counted = [int(done) for done in states]
    first, *_, last = states.values()
    resident = [
        max(0, end["resident"] - start["resident"]) / (counted[-1] - counted[0])
        for start, end in zip(first, last, strict=True)
    ]
    grown = [name for start, end in zip(first, last, strict=True) for name in _grown(start, end)]
    return [
        Row(
            workload=f"{number(calls)} calls in waves: grown by",
            figure=time_figure([max(resident)], "bytes/call"),
            # The smallest object that could be kept takes 16 bytes. A short run sees the allocator's own settling.
            need=Need(at_most=options.times(4, 64)),
            notes=[f"{number(result['calls per second'])} calls a second, in waves of {number(fresh.WAVE)}."],
        ),
        Row(
            workload="and more objects, tasks, threads, files",
            figure=time_figure([len(grown)], "kinds"),
            need=Need(at_most=0),
            notes=[*_told(states), f"grown: {', '.join(grown) or 'nothing'}."],
        ),
    ]


async def uneven(options: Options) -> list[Row]:
    """Work of uneven length, eight calls at a time: least loaded against round robin."""
    calls, at_once = 200, 8
    # One of ten takes fifty times as long; in an order that is the same each time.
    lengths = [0.002] * (calls * 9 // 10) + [0.100] * (calls // 10)
    random.Random(1).shuffle(lengths)

    async def run(pool: wool.WorkerPool) -> tuple[float, list[float]]:
        waiting, short = iter(lengths), []

        async def one_after_the_other() -> None:
            for seconds in waiting:
                began = time.perf_counter()
                await routines.hold(seconds)
                if seconds < 0.1:
                    short.append(time.perf_counter() - began)

        async with pool:
            await asyncio.gather(*(routines.hold(0.01) for _ in range(4 * WORKERS_UNEVEN)))
            began = time.perf_counter()
            await asyncio.gather(*(one_after_the_other() for _ in range(at_once)))
            return time.perf_counter() - began, sorted(short)

    least, robin = await by_turns(
        options.times(9, 3),
        lambda: run(wool.WorkerPool(size=WORKERS_UNEVEN, loadbalancer=wool.LeastLoadedLoadBalancer)),
        lambda: run(wool.WorkerPool(size=WORKERS_UNEVEN)),
    )
    work = sum(lengths)
    note = (
        f"{calls} calls that hold their worker's loop, as computing does: of ten nine for 2 ms, one for 100 ms. "
        f"{WORKERS_UNEVEN} workers, so {WORKERS_UNEVEN} s of work per second is perfect; they sleep, "
        "so that it takes no more cores than there are."
    )
    return [
        Row(
            workload="uneven work, least loaded",
            figure=rate([work / seconds for seconds, _ in least], "s of work/s"),
            yardstick="round robin",
            measure=rate([work / seconds for seconds, _ in robin], "s of work/s"),
            need=Need(ratio_at_least=1.15),
            notes=[note],
        ),
        Row(
            workload="a short call of it, 95th percentile",
            figure=time_figure([short[len(short) * 95 // 100] * 1000 for _, short in least], "ms"),
            yardstick="round robin",
            measure=time_figure([short[len(short) * 95 // 100] * 1000 for _, short in robin], "ms"),
            need=Need(ratio_at_most=0.85),
        ),
    ]


# ---- start and end ---------------------------------------------------------------------------------


async def pool(options: Options) -> list[Row]:
    """A pool of two: until the first result, and to leave it."""

    async def ours() -> dict[str, float]:
        result: dict[str, float] = fresh.run("pool")
        return result

    async def theirs() -> tuple[float, float]:
        return yardsticks.two_bare_processes()

    async with RawGrpc() as raw:
        library, bare, pings = await by_turns(options.times(15, 5), ours, theirs, lambda: raw.ping_pong(PINGS))
    return [
        Row(
            workload="pool of two: entry to first result",
            figure=time_figure([result["entry"] for result in library], "s"),
            yardstick="two processes, import grpc.aio",
            measure=time_figure([started for started, _ in bare], "s"),
            need=Need(at_most=0.3),
            speed=_speed(pings),
        ),
        Row(
            workload="pool of two: exit",
            figure=time_figure([result["exit"] for result in library], "s"),
            yardstick="their end",
            measure=time_figure([ended for _, ended in bare], "s"),
            need=Need(at_most=0.15),
            speed=_speed(pings),
        ),
    ]


async def imports(options: Options) -> list[Row]:
    """``import wool``."""

    async def ours() -> float:
        return yardsticks.import_seconds("import wool") * 1000

    async def theirs() -> float:
        return yardsticks.import_seconds("import grpc.aio, cloudpickle") * 1000

    library, needed = await by_turns(options.times(25, 7), ours, theirs, warm_up=2)
    return [
        Row(
            workload="import wool",
            figure=time_figure(library, "ms"),
            yardstick="import grpc.aio, cloudpickle",
            measure=time_figure(needed, "ms"),
            need=Need(ratio_at_most=1.5),
        )
    ]


# ---- where the time goes ---------------------------------------------------------------------------


async def threads(options: Options) -> list[Row]:
    """Processor time per call of each thread: says where time goes, whatever else the machine does."""
    if not HAS_PROC:
        return []
    async with wool.WorkerPool(size=2):
        workers: dict[int, dict[str, int]] = {}
        while len(workers) < 2:
            state = await routines.worker_state()
            workers[state["pid"]] = state["threads"]
        calls = 2_000

        async def measured(work: Callable[[], Awaitable[object]]) -> dict[str, float]:
            before = {pid: thread_seconds(pid) for pid in (os.getpid(), *workers)}
            await work()
            after = {pid: thread_seconds(pid) for pid in before}
            names = {os.getpid(): threads_of_this_process(), **workers}
            used: dict[str, float] = {}
            for pid, seconds in after.items():
                role = "caller" if pid == os.getpid() else "worker"
                known = {native: name for name, native in names[pid].items()}
                for thread, second in seconds.items():
                    name = {"MainThread": "user", "wool-io": "I/O"}.get(known.get(thread, ""), "gRPC's own")
                    key = f"{role}, {name if role == 'caller' or name != 'user' else 'bodies'}"
                    used[key] = used.get(key, 0.0) + (second - before[pid].get(thread, 0.0)) / calls * 1e6
            return used

        together, apart = await by_turns(
            options.times(8, 3),
            lambda: measured(lambda: gathered_seconds(routines.nothing, calls)),
            lambda: measured(lambda: one_by_one(routines.nothing, calls)),
        )
    return [
        Row(
            workload=f"CPU of a call: {name}",
            figure=time_figure([used[name] for used in together], "µs, gathered"),
            yardstick="alone",
            measure=time_figure([used[name] for used in apart], "µs, alone"),
        )
        for name in together[0]
    ]


BENCHMARKS: dict[str, Benchmark] = {
    "gathered": gathered,
    "lone": lone,
    "processor": processor,
    "bulk": bulk,
    "generator": generator,
    "waiting": waiting,
    "growth": growth,
    "pool": pool,
    "imports": imports,
    "by-value": by_value,
    "nested": nested,
    "uneven": uneven,
    "tcp": tcp,
    "threads": threads,
}
