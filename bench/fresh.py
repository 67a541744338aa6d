"""Benchmarks that need a process of their own: where memory is counted, or where the start is what counts.

``python -m bench.fresh NAME AMOUNT`` prints its result as JSON. `run` starts it so.
"""

from __future__ import annotations

import asyncio
import collections
import gc
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bench.processes import open_descriptors, resident_bytes, system_threads

ROOT = Path(__file__).parents[1]
WAVE = 5_000
CENSUS = 10_000


def run(name: str, amount: int = 0) -> Any:
    """Run one of the functions below in a fresh interpreter; its progress goes to our own standard error."""
    answer = subprocess.run(
        [sys.executable, "-m", "bench.fresh", name, str(amount)], cwd=ROOT, stdout=subprocess.PIPE, check=True
    )
    return json.loads(answer.stdout)


def progress(text: str) -> None:
    """Show how far a long run is, on a terminal and nowhere else."""
    if sys.stderr.isatty():
        print(f"\r\033[K{text}", end="", file=sys.stderr, flush=True)


# ---- a pool's start and end ------------------------------------------------------------------------


async def pool(_: int) -> dict[str, float]:
    """Open a pool of two, call once, leave."""
    import wool
    from bench.routines import nothing

    began = time.perf_counter()
    async with wool.WorkerPool(size=2):
        await nothing()
        entered = time.perf_counter()
        leaving = time.perf_counter()
    return {"entry": entered - began, "exit": time.perf_counter() - leaving}


# ---- calls that wait -------------------------------------------------------------------------------


@contextmanager
def highest_resident() -> Iterator[list[int]]:
    """Watch this process's memory; the list holds the highest value at the end."""
    highest = [resident_bytes(os.getpid())]
    stop = threading.Event()

    def watch() -> None:
        while not stop.wait(0.01):
            highest[0] = max(highest[0], resident_bytes(os.getpid()))

    thread = threading.Thread(target=watch, name="bench memory")
    thread.start()
    try:
        yield highest
    finally:
        stop.set()
        thread.join()


async def local(calls: int) -> float:
    """Return the bytes that a gathered call of a local coroutine takes while it waits for a future of its own."""
    loop = asyncio.get_running_loop()
    gates: list[asyncio.Future[None]] = []

    async def wait() -> None:
        gates.append(loop.create_future())
        await gates[-1]

    gc.collect()
    before = resident_bytes(os.getpid())
    gathered = asyncio.gather(*(wait() for _ in range(calls)))
    await asyncio.sleep(0)
    grown = resident_bytes(os.getpid()) - before
    for gate in gates:
        gate.set_result(None)
    await gathered
    return grown / calls


async def _census(calls: int) -> dict[str, float]:
    """Return the bytes of each kind of object that a waiting call holds: those that the collector knows."""
    from bench.routines import nothing

    gc.collect()
    gc.disable()
    gc.freeze()  # what is there already is not listed below
    # So long, nobody else gets the interpreter: what waits, waits until it has been counted.
    interval = sys.getswitchinterval()
    sys.setswitchinterval(100.0)
    tasks = [asyncio.ensure_future(nothing()) for _ in range(calls)]
    await asyncio.sleep(0)
    sizes: collections.Counter[str] = collections.Counter()
    for thing in gc.get_objects():
        sizes[type(thing).__qualname__] += sys.getsizeof(thing) + 16
    waiting = sum(not task.done() for task in tasks)
    sys.setswitchinterval(interval)
    gc.unfreeze()
    gc.enable()
    await asyncio.gather(*tasks)
    return {name: size / waiting for name, size in sizes.most_common() if size / waiting >= 8}


async def waiting(calls: int) -> dict[str, Any]:
    """Gather very many calls; return what each takes in memory while it waits, and the rate."""
    import wool
    from bench.routines import nothing

    async with wool.WorkerPool(size=2):
        await asyncio.gather(*(nothing() for _ in range(2_000)))
        gc.collect()
        before = resident_bytes(os.getpid())
        began = time.perf_counter()
        with highest_resident() as highest:
            results = await asyncio.gather(*(nothing() for _ in range(calls)))
        elapsed = time.perf_counter() - began
        assert len(results) == calls
        del results
        parts = await _census(min(calls, CENSUS))
    return {
        "bytes per call": (highest[0] - before) / calls,
        "parts": parts,
        "calls per second": calls / elapsed,
    }


# ---- growth ----------------------------------------------------------------------------------------


async def _worker_states() -> dict[int, dict[str, Any]]:
    from bench.routines import worker_state

    states: dict[int, dict[str, Any]] = {}
    while len(states) < 2:
        state = await worker_state()
        states[state["pid"]] = state
    return states


async def _state() -> list[dict[str, int]]:
    """Return what the caller and each worker hold: the caller first, the workers by pid."""
    workers = await _worker_states()
    gc.collect()
    own = {
        "objects": len(gc.get_objects()),
        "asyncio tasks": len(asyncio.all_tasks()),
        "python threads": threading.active_count(),
    }
    everybody: dict[int, dict[str, Any]] = {os.getpid(): own, **dict(sorted(workers.items()))}
    return [
        {
            "resident": resident_bytes(pid),
            "objects": state["objects"],
            "asyncio tasks": state["asyncio tasks"],
            "python threads": state["python threads"],
            "threads": system_threads(pid),
            "descriptors": open_descriptors(pid),
        }
        for pid, state in everybody.items()
    ]


async def growth(calls: int) -> dict[str, Any]:
    """Make very many calls, in waves; return the state of caller and workers at a tenth, half and the end."""
    import wool
    from bench.routines import nothing

    checkpoints = {calls // 10, calls // 2, calls}
    states: dict[str, list[dict[str, int]]] = {}
    began, done = time.perf_counter(), 0
    async with wool.WorkerPool(size=2):
        while done < calls:
            await asyncio.gather(*(nothing() for _ in range(WAVE)))
            done += WAVE
            progress(f"{done:,} of {calls:,} calls, {done / (time.perf_counter() - began):,.0f} a second")
            if done in checkpoints:
                states[str(done)] = await _state()
    progress("")
    return {"states": states, "calls per second": calls / (time.perf_counter() - began)}


if __name__ == "__main__":
    benchmarks: dict[str, Callable[[int], Awaitable[object]]] = {
        "pool": pool,
        "local": local,
        "waiting": waiting,
        "growth": growth,
    }

    async def chosen() -> object:
        return await benchmarks[sys.argv[1]](int(sys.argv[2]))

    print(json.dumps(asyncio.run(chosen())))
