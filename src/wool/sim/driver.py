"""A simulated caller: opens its pool, makes the plan's calls, cancels them, probes, and closes.

It is a user's program like any other, on the user loop of its process. It must never look into the engine.
"""

from __future__ import annotations

import asyncio
import dataclasses
from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from wool.pool import WorkerPool, WorkerProxy
from wool.sim.bodies import Ask, Body, Step
from wool.sim.loop import SimFuture, SimTask
from wool.sim.plan import Call
from wool.sim.quiet import settling_seconds
from wool.sim.waiting import LiveScript, Wait
from wool.sim.workload import make_top_call

if TYPE_CHECKING:
    from wool.sim.cluster import Cluster
    from wool.sim.node import Incarnation

PROBE: Body = Body(steps=(Step(op="return", number=1),))
"""Called once as soon as the news of the healing may have got about, and after the quiet time once per worker."""
BETWEEN_CANCELS_SECONDS = 0.001


class Caller:
    """One caller of a plan."""

    def __init__(self, cluster: Cluster, number: int, open: Callable[[int], WorkerPool | WorkerProxy]) -> None:
        self.cluster = cluster
        self.number = number
        self.node: Incarnation = cluster.new_incarnation(f"c{number}")
        self.late: bool = False
        """Calls were still under way at the horizon."""
        self.grows: bool = False
        """More calls may come than are known: it waits for them."""
        self._open = open
        mine = (call for call in cluster.plan.calls if call.caller == number)
        self._calls = deque(sorted(mine, key=lambda call: (call.at, call.ordinal)))
        self._left = len(self._calls)
        self._wait: Wait | None = None
        self._scripts: dict[str, LiveScript] = {}
        self._tasks: dict[str, SimTask[None]] = {}
        self._healed: SimFuture[tuple[bool, float]] = self.node.user.create_future()
        self._probes = 1 + cluster.plan.topology.workers
        for index in range(self._probes):
            cluster.tasks.setdefault(f"p.{index}", (PROBE, ()))

    @property
    def busy(self) -> bool:
        """Whether calls of it have not ended, or have still to be made."""
        return not self.node.dead and self._left > 0

    def start(self) -> None:
        """Let its first line run."""
        self.node.note("node.up")
        self.node.spawn(self._main(), "main")

    def healed(self, *, probes: bool, horizon: float) -> None:
        """The faulty phase is over; told by the world."""
        self._healed.set_result((probes, horizon))

    def add(self, call: Call, script: LiveScript | None = None) -> None:
        """Have one call more made; ``script`` is what its consumer does."""
        self._calls.append(call)
        self._left += 1
        if script is not None:
            self._scripts[call.label] = script
        if self._wait is not None and self._wait.endless:
            self._wait.end_at(call.at)

    def is_under_way(self, label: str) -> bool:
        """Whether a call was made and has not ended."""
        return label in self._tasks and not self._tasks[label].done()

    def cancel(self, call: Call) -> None:
        """Cancel a call that was made, when and as often as it says."""
        assert call.cancel_at is not None
        loop = self.node.user
        for turn in range(call.cancels):
            when = max(call.cancel_at, loop.time()) + turn * BETWEEN_CANCELS_SECONDS
            loop.call_at(when, self._cancel, call.label, self._tasks[call.label])

    async def _main(self) -> None:
        node = self.node
        for index, fault in enumerate(self.cluster.plan.faults):
            if fault.kind == "late-subscriber" and fault.target == node.label and fault.at > 0:
                self.cluster.struck(index, fault)
                await asyncio.sleep(max(0.0, fault.at - asyncio.get_running_loop().time()))
        pool = self._open(self.number)
        opened = False
        try:
            await pool.__aenter__()
        except Exception as error:
            self._no_pool(error)
        else:
            opened = True
            node.note("pool.opened")
            try:
                await self._work()
            finally:
                node.note("pool.closing")
                self.cluster.pool_closes(node)
                await pool.__aexit__(None, None, None)
            node.note("pool.closed")
        await self._healed
        # What was cancelled or closed by its end has one turn to go.
        await asyncio.sleep(self.cluster.limits.close_seconds)
        if opened:
            node.note("pool.counted", detail=tuple(dataclasses.asdict(pool.statistics()).items()))
        node.census(user_tasks=True)
        node.exit()

    def _no_pool(self, error: Exception) -> None:
        self._left = 0
        for call in self._calls:
            detail = (("outcome", "no-pool"), ("executed", "no"), ("value", type(error).__name__), ("begun_by", ""))
            self.node.note("call.ended", call.label, "", detail)

    async def _work(self) -> None:
        loop = asyncio.get_running_loop()
        while (call := await self._next()) is not None:
            self._make(call)
        probes, horizon = await self._healed
        pending = [task for task in self._tasks.values() if not task.done()]
        if pending:
            _, late = await asyncio.wait(pending, timeout=max(0.0, horizon - loop.time()))
            self.late = bool(late)
            for task in late:
                task.cancel()
        for index in range(self._probes if probes else 0):
            if index < 2:
                await asyncio.sleep(self.cluster.plan.knobs.quiet if index else settling_seconds(self.cluster.plan))
            await self._probe(f"p.{index}")
        self._tasks.clear()

    async def _next(self) -> Call | None:
        """Return the next call when it is to be made; None if there is no other."""
        loop = asyncio.get_running_loop()
        if not self._calls and self.grows:
            self._wait = Wait(self.node.user)
            await self._wait.over()
        if not self._calls:
            return None
        call = self._calls.popleft()
        if call.at > loop.time():
            await asyncio.sleep(call.at - loop.time())
        return call

    def _make(self, call: Call) -> None:
        timeout = call.timeout or self.cluster.limits.dispatch_timeout_seconds
        live = self._scripts.get(call.label)
        script: Sequence[Ask] = call.script if live is None else live.asks
        sleep = asyncio.sleep if live is None else live.sleep
        made = make_top_call(self.node, call.label, call.body, script, timeout, call.size, sleep=sleep)
        task = self._tasks[call.label] = self.node.user.create_task(made, name=f"call {call.label}")
        task.add_done_callback(self._ended)
        if call.cancel_at is not None:
            self.cancel(call)

    def _cancel(self, label: str, task: SimTask[None]) -> None:
        if not task.done():
            self.node.note("call.cancelled", label)
            task.cancel()

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._left -= 1

    async def _probe(self, label: str) -> None:
        self.node.note("probe.made", label)
        before = len(self.cluster.history)
        await make_top_call(
            self.node, label, PROBE, (), self.cluster.limits.dispatch_timeout_seconds, 0, sleep=asyncio.sleep
        )
        events = self.cluster.history.events[before:]
        outcome = next((e.get("outcome") for e in events if e.kind == "call.ended" and e.task == label), "")
        self.node.note("probe.ended", label, "", (("outcome", outcome),))
