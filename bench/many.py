"""Many workers and callers in one simulated cluster, and what they cost.

The engine is the real one, and every process has its two loops; one interpreter runs them all. So the processor time of
a phase is that of all processes together, and no figure has the system's or gRPC's part in it.
"""

from __future__ import annotations

import asyncio
import dataclasses
import gc
import logging
import time
from collections.abc import Callable, Sequence
from typing import Any

import wool
from bench.routines import nothing
from wool.limits import DEFAULT_LIMITS, Limits
from wool.sim.cluster import NAMESPACE, Cluster
from wool.sim.discovery import SharedTable, SimDiscovery
from wool.sim.node import Incarnation, next_label
from wool.sim.plan import Plan, Topology

Figures = dict[str, Any]

CALLS = 100
"""That each caller makes when its sessions are open."""
IDLE_SECONDS = 60.0
FAR_SECONDS = 10_000.0
MOST_STEPS = 500_000_000
SLOTS = 1024


class ManyNodes(Cluster):
    """A simulated cluster with the limits of production, room for a thousand workers, and counted bytes."""

    def __init__(self) -> None:
        super().__init__(Plan(topology=Topology(mode="proxy")))
        self.limits = DEFAULT_LIMITS
        self.bytes = self.messages = 0
        self._table: SharedTable | None = None
        carry = self.network.carry

        def counting(source: Any, item: Any) -> None:
            if type(item) is bytes:
                self.messages += 1
                self.bytes += len(item)
            carry(source, item)

        self.network.carry = counting  # type: ignore[method-assign]

    def table(self, namespace: str, limits: Limits) -> SharedTable:
        """Return the one table."""
        if self._table is None:
            self._table = SharedTable(namespace, limits, SLOTS)
        return self._table

    def drop_table(self, namespace: str) -> None:
        """Keep it: there is but one."""

    def new_incarnation(self, label: str) -> Incarnation:
        """Make a process that nobody watches: writing down every frame would cost more than the frames."""
        made = super().new_incarnation(label)
        made.runtime = dataclasses.replace(made.runtime, observer=None)
        return made


class Caller:
    """A simulated program with a proxy, told by the world what to do next."""

    def __init__(self, cluster: ManyNodes, number: int) -> None:
        self.node = cluster.new_incarnation(f"c{number}")
        self.proxy: wool.WorkerProxy | None = None
        self.calls = 0
        self.done = 0
        self._limits = cluster.limits
        self._news: asyncio.Event | None = None
        self.closed = self.ended = False

    def start(self) -> None:
        self.node.spawn(self._main(), "main")

    async def _main(self) -> None:
        self._news = asyncio.Event()
        discovery = SimDiscovery(NAMESPACE, self._limits, disturbed=False)
        async with wool.WorkerProxy(discovery=discovery.subscriber) as proxy:
            self.proxy = proxy
            while not self.closed:
                await self._news.wait()
                self._news.clear()
                while self.done < self.calls:
                    next_label.set(f"{self.node.label}.{self.done}")
                    await nothing()
                    self.done += 1
        self.ended = True

    def tell(self, calls: int = 0, *, close: bool = False) -> None:
        """Make so many calls more, one after the other; or close."""
        self.calls += calls
        self.closed = close
        if self._news is not None:
            self.node.user.call_soon(self._news.set)

    @property
    def links(self) -> Sequence[Any]:
        if self.proxy is None or self.proxy.open_dispatcher is None:
            return ()
        return list(self.proxy.open_dispatcher._proxy._links.values())

    @property
    def known(self) -> int:
        if self.proxy is None or self.proxy.open_dispatcher is None:
            return 0
        return len(self.proxy.open_dispatcher._proxy._links)

    @property
    def sessions(self) -> int:
        return sum(link.connection is not None for link in self.links)


class Meter:
    """What a phase of a simulated run takes: processor time, steps, bytes, messages, simulated seconds."""

    def __init__(self, cluster: ManyNodes) -> None:
        self.cluster = cluster

    def _now(self) -> tuple[float, int, int, int, float]:
        cluster = self.cluster
        return time.process_time(), cluster.world.steps, cluster.bytes, cluster.messages, cluster.world.now

    def run(self, until: Callable[[], bool]) -> Figures:
        """Run until the condition holds."""
        gc.collect()
        before = self._now()
        self.cluster.world.run(until, most_seconds=FAR_SECONDS, most_steps=MOST_STEPS)
        names = ("seconds", "steps", "bytes", "messages", "simulated")
        return {name: after - then for name, after, then in zip(names, self._now(), before, strict=True)}

    def wait(self, seconds: float) -> Figures:
        """Run for so many simulated seconds."""
        over = False

        def end() -> None:
            nonlocal over
            over = True

        self.cluster.world.loop.call_later(seconds, end)
        return self.run(lambda: over)


def simulate(workers: int, callers: int) -> Figures:
    """Run a cluster of this size through everything that is measured."""
    cluster = ManyNodes()
    meter = Meter(cluster)
    log = logging.getLogger("wool")
    gc.disable()
    try:
        return _simulated(cluster, meter, workers, callers)
    finally:
        log.setLevel(logging.CRITICAL)  # what is taken apart has a lot to say
        for known in cluster.incarnations.values():
            for process in known:
                process.dead = True
        cluster.world.dismantle()
        log.setLevel(logging.NOTSET)
        gc.enable()
        gc.collect()


def _simulated(cluster: ManyNodes, meter: Meter, workers: int, callers: int) -> Figures:
    world = cluster.world
    for number in range(workers):
        world.loop.call_at(0.0, cluster.start_worker, f"w{number}")
    # A simulated process that is announced has metadata; the look at the table comes a moment later.
    meter.run(lambda: all(worker.metadata is not None for worker in cluster.workers.values()) and world.now > 0)
    meter.wait(1.0)

    made = [Caller(cluster, number) for number in range(callers)]
    for caller in made:
        caller.start()
    opening = meter.run(lambda: all(caller.known == workers for caller in made))

    per_caller = min(workers, cluster.limits.sessions)
    lazily = sum(caller.sessions for caller in made)
    for caller in made:
        caller.tell(per_caller)
    connecting = meter.run(lambda: all(caller.done == caller.calls for caller in made))
    for caller in made:
        caller.tell(CALLS)
    calling = meter.run(lambda: all(caller.done == caller.calls for caller in made))
    sessions = [caller.sessions for caller in made]
    held = [0] * workers
    for caller in made:
        for link in caller.links:
            if link.connection is not None:
                held[int(cluster.label_of(link.uid)[1:])] += 1
    idle = meter.wait(IDLE_SECONDS)
    meter.wait(0.01)  # not at the very moment at which everybody looks

    cluster.start_worker(f"w{workers}")
    join = meter.run(lambda: all(caller.known == workers + 1 for caller in made))
    meter.wait(1.01)
    cluster.workers[f"w{workers}"].terminate()
    leave = meter.run(lambda: all(caller.known == workers for caller in made))
    for caller in made:
        caller.tell(close=True)
    meter.run(lambda: all(caller.ended for caller in made))
    calls = callers * CALLS
    return {
        "workers": workers,
        "callers": callers,
        "sessions_before_the_first_call": lazily,
        "sessions_per_caller": max(sessions),
        "sessions_per_worker_least": min(held),
        "sessions_per_worker_most": max(held),
        "view_us_per_worker": opening["seconds"] / callers / workers * 1e6,
        "first_call_us": connecting["seconds"] / (callers * per_caller) * 1e6,
        "first_call_bytes": connecting["bytes"] / (callers * per_caller),
        "dispatch_us": calling["seconds"] / calls * 1e6,
        "dispatch_bytes": calling["bytes"] / calls,
        "dispatch_messages": calling["messages"] / calls,
        "idle_minute_ms_per_process": idle["seconds"] / (callers + workers) * 1e3,
        "idle_minute_steps_per_process": idle["steps"] / (callers + workers),
        "idle_minute_messages": idle["messages"],
        "join_us_per_caller": join["seconds"] / callers * 1e6,
        "join_seen_by_all_ms": join["simulated"] * 1e3,
        "leave_us_per_caller": leave["seconds"] / callers * 1e6,
        "leave_seen_by_all_ms": leave["simulated"] * 1e3,
    }
