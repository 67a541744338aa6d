"""Runs a plan: a pure function from a plan to a history.

Why it exists: somebody has to open the pools, make the calls, end the faulty phase, demand liveness and count
what is left. That is the whole of it; what happens in between is production code.

A run has two phases. In the first the faults strike. Then everything is healed, at least one worker is there
again if that can be had, the calls that are under way come to their end, probes are made, the pools are closed,
and what is left is written down.
"""

from __future__ import annotations

import gc
import logging
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass

from wool.pool import WorkerPool, WorkerProxy
from wool.sim.cluster import Cluster
from wool.sim.driver import Caller
from wool.sim.faults import Injector
from wool.sim.history import History
from wool.sim.hooks import hook_of
from wool.sim.loop import Deadlock, Livelock
from wool.sim.node import Incarnation
from wool.sim.plan import Plan

STILL_SECONDS = 2.0
"""Calls that are under way when the last fault is over delay the healing for so long at most."""
LOOK_SECONDS = 0.05
HORIZON_SECONDS = 120.0
"""After the healing; what has not ended then never will."""
EXIT_SECONDS = 30.0
"""After the last caller has gone, for the workers."""
MOST_STEPS = 2_000_000
"""A run takes some thousands; one that takes more spins."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What came of a run, and what it took."""

    history: History
    seconds: float
    """Virtual."""
    steps: int


def run(plan: Plan) -> History:
    """Run the plan and return what happened."""
    return execute(plan).history


def execute(plan: Plan) -> Result:
    """Run the plan; return what happened and how much it took."""
    with conducted(plan) as conductor:
        conductor.begin()
        conductor.foresee()
        conductor.end()
    cluster = conductor.cluster
    return Result(history=cluster.history, seconds=cluster.world.now, steps=cluster.world.steps)


@contextmanager
def conducted(plan: Plan) -> Generator[Conductor]:
    """Yield who runs the plan; when it is left, nothing of the run is left in this interpreter."""
    with _quiet() as errors:
        conductor = Conductor(plan)
        cluster = errors.cluster = conductor.cluster
        try:
            yield conductor
        finally:
            errors.cluster = None
            for known in cluster.incarnations.values():
                for process in known:
                    process.dead = True
            cluster.world.dismantle()


class Conductor:
    """One run, from the first process to the last: `begin`, `advance` if somebody looks on, `foresee`, `end`."""

    def __init__(self, plan: Plan) -> None:
        self.cluster: Cluster = Cluster(plan)
        self.injector: Injector = Injector(self.cluster)
        self.callers: list[Caller] = []
        self._last = 0.0
        self._finished = False
        self._closing = False

    def begin(self) -> None:
        """Start the processes; nothing happens yet."""
        cluster, plan = self.cluster, self.cluster.plan
        cluster.when_ended.append(self._ended)
        if plan.topology.finds:
            for number in range(plan.topology.workers):
                cluster.world.loop.call_at(0.0, cluster.start_worker, f"w{number}")
        for number in range(plan.topology.callers):
            caller = Caller(cluster, number, self._open)
            self.callers.append(caller)
            caller.start()

    def advance(self, until: float) -> None:
        """Let all happen that happens until then. Raises `Livelock` if it spins."""
        world = self.cluster.world
        world.run(lambda: world.idle_until(until), most_seconds=float("inf"), most_steps=MOST_STEPS)

    def foresee(self) -> None:
        """See to it that all is healed when all that the plan says has happened."""
        cluster, plan = self.cluster, self.cluster.plan
        last = self._last = max((self.injector.last_seconds, *(max(c.at, c.cancel_at or 0.0) for c in plan.calls)))
        cluster.world.loop.call_at(last, self._look, last)

    def end(self) -> None:
        """Let the rest happen: the faulty phase to its end, healing, probes, exit, and the census."""
        cluster = self.cluster
        how, words = "done", ""
        try:
            cluster.world.run(
                self._is_finished,
                most_seconds=self._last + STILL_SECONDS + HORIZON_SECONDS + EXIT_SECONDS,
                most_steps=MOST_STEPS,
            )
        except Deadlock as error:
            how, words = "deadlock", str(error)
        except Livelock as error:
            how, words = "spinning" if "steps" in str(error).partition("\n")[0] else "horizon", str(error)
        if self._late():
            how = "horizon" if how == "done" else how
        cluster.note("run.ended", (("how", how), ("words", words)))

    def _is_finished(self) -> bool:
        return self._finished

    def _late(self) -> bool:
        return any(caller.late for caller in self.callers)

    def _open(self, number: int) -> WorkerPool | WorkerProxy:
        """Make the pool of a caller; run in its process."""
        topology = self.cluster.plan.topology
        balancer = self.callers[number].node.balancer
        if topology.mode == "pool":
            return WorkerPool(
                size=topology.workers,
                loadbalancer=balancer,
                max_concurrency=self.cluster.plan.knobs.places or None,
                admission=hook_of(self.cluster.plan.knobs.admits),
            )
        discovery = self.cluster.discovery(disturbed=self.cluster.disturbed)
        trust = self.cluster.trust
        credentials = None if trust is None else trust.provider(f"c{number}")
        if topology.mode == "proxy":
            return WorkerProxy(discovery=discovery.subscriber, loadbalancer=balancer, credentials=credentials)
        size = topology.size if number == 0 and topology.size else None
        return WorkerPool(
            *self.cluster.tags,
            size=size,
            max_concurrency=(self.cluster.plan.knobs.places or None) if size else None,
            admission=hook_of(self.cluster.plan.knobs.admits) if size else None,
            discovery=discovery,
            loadbalancer=balancer,
            lease=topology.lease or None,
            credentials=credentials,
        )

    # ---- phases ----

    def _look(self, last: float) -> None:
        """Heal as soon as nothing is under way any more, or when it has taken long enough."""
        world = self.cluster.world
        busy = self.injector.restarting or any(caller.busy for caller in self.callers)
        if busy and world.now < last + STILL_SECONDS:
            world.loop.call_later(LOOK_SECONDS, self._look, last)
            return
        self.injector.heal()
        if self.cluster.plan.topology.finds:
            self.cluster.restore_one()
        alive = [caller for caller in self.callers if not caller.node.dead]
        for caller in alive:
            caller.healed(probes=caller is alive[0], horizon=world.now + HORIZON_SECONDS)
        self._ended(None)

    def _ended(self, process: Incarnation | None) -> None:
        """A process has ended, or all is healed: see what remains to be done."""
        if not self.cluster.healed:
            return
        if any(not caller.node.dead for caller in self.callers):
            if process is not None and self.cluster.plan.topology.finds:
                # All were draining when everything was healed; now there is room for another.
                self.cluster.restore_one()
            return
        world = self.cluster.world
        if not self._closing:
            self._closing = True
            self.cluster.thaw()
            for worker in self.cluster.workers.values():
                # A pool's own are its own: they have ended with it, or end with its process.
                if worker.namespace is not None and not worker.process.dead:
                    worker.terminate()
            world.loop.call_later(EXIT_SECONDS, self._finish)
        workers = [known[-1] for label, known in self.cluster.incarnations.items() if label.startswith("w")]
        if all(worker.dead for worker in workers):
            self._finish()

    def _finish(self) -> None:
        self._finished = True


# ---- around a run ---------------------------------------------------------------------------------------


class _Errors(logging.Handler):
    """Writes what the engine logs as an error into the history: it has caught something that it did not expect."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.cluster: Cluster | None = None

    def emit(self, record: logging.LogRecord) -> None:
        cluster = self.cluster
        if cluster is not None:
            error = record.exc_info[1] if record.exc_info else None
            said = f"{record.name}: {record.msg}" + (f" ({type(error).__name__}: {error})" if error is not None else "")
            cluster.note("loop.error", (("message", said),))


@contextmanager
def _quiet() -> Generator[_Errors]:
    """Collect no garbage at odd moments, and let the engine's log go into the history."""
    log = logging.getLogger("wool")
    before = log.propagate, log.level
    handler = _Errors()
    collecting = gc.isenabled()
    gc.disable()
    log.addHandler(handler)
    log.propagate = False
    log.setLevel(logging.ERROR)
    try:
        yield handler
    finally:
        log.removeHandler(handler)
        log.propagate, level = before
        log.setLevel(level)
        if collecting:
            gc.enable()
