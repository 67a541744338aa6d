"""How far it goes: what a join, a dispatch and an idle minute cost with 1 to 1 000 workers and 1 to 100 callers.

``python -m bench.scale``, or ``nox -s bench -- scale``. No machine runs a thousand workers and a hundred callers for a
benchmark, so the cluster is simulated: the engine is the real one, every process has its two loops, and what is counted
is the processor time of all of them together, the bytes that go between them and the sessions that are open. What the
simulator leaves out is measured on real ones: gRPC's part of a session, the start of a process, multicast DNS.

It writes a table, the figures (``--json``) and the curves (``--plots``) of ``docs/scale.md``.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import socket
import statistics
import struct
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import wool
from bench.fresh import progress
from bench.many import Figures, simulate
from bench.processes import HAS_PROC, resident_bytes, thread_seconds
from bench.routines import nothing
from wool.balancer import LeastLoadedLoadBalancer, LoadBalancerLike, RoundRobinLoadBalancer, WorkerStatus
from wool.discovery.base import WorkerMetadata
from wool.task import Task

WORKERS = (1, 10, 100, 1000)
CALLERS = (1, 10, 100)

# ---- the load balancer -------------------------------------------------------------------------------


def balancing(workers: int) -> Figures:
    """Return what one choice costs, and one new drawing of lots."""
    statuses = [
        WorkerStatus(WorkerMetadata(uid=f"{n:032x}", address=f"10.0.0.1:{n + 1}", pid=1, version="1"))
        for n in range(workers)
    ]
    task = Task(key=b"", routine="nothing", kind="coroutine", caller="")
    balancers: dict[str, LoadBalancerLike] = {
        "round_robin_us": RoundRobinLoadBalancer(),
        "least_loaded_us": LeastLoadedLoadBalancer(randrange=random.Random(1).randrange),
    }
    found: Figures = {"workers": workers}
    for name, balancer in balancers.items():
        rounds = []
        for _ in range(5):
            began = time.perf_counter()
            for _ in range(2_000):
                next(iter(balancer.order(task, statuses)))
            rounds.append((time.perf_counter() - began) / 2_000 * 1e6)
        found[name] = min(rounds)
    return found


# ---- real sessions, real processes -------------------------------------------------------------------


async def real_sessions(sessions: int, idle_seconds: float) -> Figures:
    """Return what a session costs at both ends: many callers of one worker, over TCP."""
    async with wool.LocalWorker(host="127.0.0.1") as worker:
        pid = worker.metadata.pid
        proxies = [wool.WorkerProxy(workers=[worker.metadata]) for _ in range(sessions + 1)]
        async with proxies[0]:
            await nothing()  # what comes once is not counted
            before = resident_bytes(os.getpid()), resident_bytes(pid)
            async with _all_open(proxies[1:]):
                after = resident_bytes(os.getpid()), resident_bytes(pid)
                used = sum(thread_seconds(pid).values()), time.process_time()
                await asyncio.sleep(idle_seconds)
                idle = sum(thread_seconds(pid).values()) - used[0], time.process_time() - used[1]
        used_alone = sum(thread_seconds(pid).values())
        await asyncio.sleep(idle_seconds)
        alone = sum(thread_seconds(pid).values()) - used_alone
    minute = 60 / idle_seconds * 1e3
    return {
        "sessions": sessions,
        "caller_kib_per_session": (after[0] - before[0]) / sessions / 1024,
        "worker_kib_per_session": (after[1] - before[1]) / sessions / 1024,
        "idle_minute_ms_of_a_worker_without_a_session": alone * minute,
        "idle_minute_ms_per_session_at_the_worker": (idle[0] - alone) / sessions * minute,
        "idle_minute_ms_per_session_at_the_caller": idle[1] / sessions * minute,
    }


@asynccontextmanager
async def _all_open(proxies: Sequence[wool.WorkerProxy]) -> AsyncIterator[None]:
    opened: list[wool.WorkerProxy] = []
    try:
        for proxy in proxies:
            await proxy.__aenter__()
            opened.append(proxy)
            await nothing()
        yield
    finally:
        for proxy in reversed(opened):
            await proxy.__aexit__(None, None, None)


async def real_join(kind: str, times: int) -> Figures:
    """Return how long a worker takes to start, and from its announcement and withdrawal until a caller knows."""
    starts, joins, leaves = [], [], []
    async with _discovery(kind) as discovery, wool.WorkerPool(discovery=discovery) as pool:
        dispatcher = pool.open_dispatcher
        assert dispatcher is not None

        async def knows(count: int) -> None:
            while len(dispatcher._proxy._links) != count:
                await asyncio.sleep(0.0005)

        for _ in range(times):
            worker = wool.LocalWorker(host="127.0.0.1")
            began = time.perf_counter()
            await worker.start()
            starts.append(time.perf_counter() - began)
            try:
                began = time.perf_counter()
                await discovery.publisher.publish("worker-added", worker.metadata)
                await knows(1)
                joins.append(time.perf_counter() - began)
                began = time.perf_counter()
                await discovery.publisher.publish("worker-dropped", worker.metadata)
                await knows(0)
                leaves.append(time.perf_counter() - began)
            finally:
                await worker.stop()
    return {
        "discovery": kind,
        "start_ms": statistics.median(starts) * 1e3,
        "join_ms": statistics.median(joins) * 1e3,
        "join_worst_ms": max(joins) * 1e3,
        "leave_ms": statistics.median(leaves) * 1e3,
        "leave_worst_ms": max(leaves) * 1e3,
    }


@asynccontextmanager
async def _discovery(kind: str) -> AsyncIterator[Any]:
    if kind == "lan":
        async with wool.LanDiscovery(interfaces=["127.0.0.1"]) as lan:
            yield lan
    else:
        with wool.LocalDiscovery() as local:
            yield local


# ---- multicast DNS -----------------------------------------------------------------------------------


async def multicast(workers: int, seconds: float) -> Figures:
    """Return what goes over the network while nothing happens, and how long who comes late takes to see everybody."""
    async with wool.LanDiscovery(interfaces=["127.0.0.1"]) as discovery:
        for number in range(workers):
            metadata = WorkerMetadata(uid=f"{number:032x}", address=f"127.0.0.1:{10_000 + number}", pid=1, version="1")
            await discovery.publisher.publish("worker-added", metadata)
        await asyncio.sleep(3.0)  # what is announced is repeated
        late = await _sees_all(discovery, workers)
        async with _following(discovery, workers):
            with _listening() as packets:
                await asyncio.sleep(seconds)
                heard = packets()
    return {
        "workers": workers,
        "late_subscriber_seconds": late,
        "packets_per_minute": len(heard) * 60 / seconds,
        "bytes_per_minute": sum(heard) * 60 / seconds,
    }


async def _sees_all(discovery: Any, workers: int) -> float:
    began, seen = time.perf_counter(), set[str]()
    events = aiter(discovery.subscriber)
    async for event in events:
        seen.add(event.metadata.uid)
        if len(seen) == workers:
            break
    await events.aclose()
    return time.perf_counter() - began


@asynccontextmanager
async def _following(discovery: Any, workers: int) -> AsyncIterator[None]:
    """One subscriber, which has seen everybody."""
    seen: set[str] = set()
    all_seen = asyncio.Event()

    async def follow() -> None:
        async for event in discovery.subscriber:
            seen.add(event.metadata.uid)
            if len(seen) == workers:
                all_seen.set()

    following = asyncio.create_task(follow())
    try:
        await asyncio.wait_for(all_seen.wait(), 60)
        await asyncio.sleep(3.0)  # the questions of the beginning are over
        yield
    finally:
        following.cancel()
        await asyncio.wait([following])


@contextmanager
def _listening() -> Iterator[Callable[[], list[int]]]:
    """Hear every packet of multicast DNS on loopback; yield what returns their sizes so far."""
    ear = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    ear.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    ear.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 * 1024 * 1024)
    ear.setblocking(False)
    ear.bind(("224.0.0.251", 5353))
    member = struct.pack("=4s4s", socket.inet_aton("224.0.0.251"), socket.inet_aton("127.0.0.1"))
    ear.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, member)

    def sizes() -> list[int]:
        heard: list[int] = []
        while True:
            try:
                heard.append(len(ear.recv(65_536)))
            except BlockingIOError:
                return heard

    try:
        yield sizes
    finally:
        ear.close()


# ---- the command -------------------------------------------------------------------------------------


def sizes(quick: bool) -> list[tuple[int, int]]:
    """Return which clusters are simulated: workers and callers."""
    most = 100 if quick else max(WORKERS)
    found = [(workers, 1) for workers in WORKERS if workers <= most]
    found += [(most, callers) for callers in CALLERS[1:] if callers <= most / 10]
    return found if quick else [*found, (100, 100)]


def _size(text: str) -> tuple[int, int]:
    workers, _, callers = text.partition("x")
    return int(workers), int(callers)


def measure(parts: Sequence[str], quick: bool, given: Sequence[tuple[int, int]]) -> Figures:
    """Measure everything that was asked for."""
    found: Figures = {}
    if "simulated" in parts:
        found["simulated"] = []
        for workers, callers in given or sizes(quick):
            progress(f"simulating {workers} workers and {callers} callers …")
            found["simulated"].append(simulate(workers, callers))
    if "balancing" in parts:
        found["balancing"] = [balancing(workers) for workers in WORKERS]
    if "sessions" in parts and HAS_PROC:
        progress("real sessions …")
        found["sessions"] = asyncio.run(real_sessions(20 if quick else 100, 5.0 if quick else 60.0))
    if "joins" in parts:
        progress("real joins …")
        found["joins"] = [asyncio.run(real_join(kind, 3 if quick else 10)) for kind in ("local", "lan")]
    if "multicast" in parts:
        found["multicast"] = []
        for workers in (1, 10) if quick else (1, 10, 100, 200, 400, 1000):
            progress(f"multicast DNS with {workers} workers …")
            found["multicast"].append(asyncio.run(multicast(workers, 6.0 if quick else 48.0)))
    progress("")
    return found


def table(rows: Sequence[Figures]) -> str:
    """Return rows as text: a line for each figure, a column for each row."""
    names = list(rows[0])
    cells = [
        [name, *(f"{row[name]:,.4g}" if isinstance(row[name], float) else str(row[name]) for row in rows)]
        for name in names
    ]
    widths = [max(len(line[column]) for line in cells) for column in range(len(cells[0]))]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if not column else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        )
        for line in cells
    )


PARTS = ("simulated", "balancing", "sessions", "joins", "multicast")


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print, and write what was asked for."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.scale", description=__doc__.partition("\n")[0] if __doc__ else ""
    )
    parser.add_argument("--only", action="append", choices=PARTS, help="may repeat")
    parser.add_argument("--quick", action="store_true", help="small numbers: to see that it runs")
    parser.add_argument(
        "--size", action="append", type=_size, metavar="WORKERSxCALLERS", help="of what is simulated; may repeat"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there; those of other parts stay")
    parser.add_argument("--plots", type=Path, metavar="DIRECTORY", help="draw the curves there; needs matplotlib")
    parser.add_argument("--from", dest="given", type=Path, metavar="FILE", help="measure nothing, take these figures")
    chosen = parser.parse_args(arguments)
    if chosen.given is not None:
        found = json.loads(chosen.given.read_text())
    else:
        found = measure(chosen.only or PARTS, chosen.quick, chosen.size or ())
    for part in PARTS:
        if part in found:
            rows = found[part] if isinstance(found[part], list) else [found[part]]
            print(f"\n{part}\n{table(rows)}")
    if chosen.json is not None:
        before = json.loads(chosen.json.read_text()) if chosen.json.exists() else {}
        chosen.json.write_text(json.dumps({**before, **found}, indent=1) + "\n")
    if chosen.plots is not None:
        from bench.curves import draw

        draw(found, chosen.plots)
    return 0


if __name__ == "__main__":
    sys.exit(main())
