"""Simulated processes: their two loops, their surroundings, and how they end.

Why it exists: a process in production is threads, pipes, signals and an exit status. What matters of that to
the engine is a `wool.runtime.Runtime`, and that is what an incarnation has. What a worker's does is in
`wool.sim.workers`.

What it owns: one incarnation of one process. Crashed or exited it has no effect any more and none of its
code runs, not even a ``finally``; everything of it is kept as it is until the verdict.

What it must never do: share anything with another incarnation but what the network and the host carry.
"""

from __future__ import annotations

import asyncio
import contextvars
import random
from collections.abc import Callable, Coroutine
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Protocol

from wool.credentials import CredentialsProvider
from wool.discovery.base import WorkerMetadata
from wool.limits import Limits
from wool.runtime import Runtime, set_runtime
from wool.sim.discovery import Host, SimDiscovery
from wool.sim.identity import Made
from wool.sim.loop import SimLoop, SimTask
from wool.sim.mailbox import SimIo, SimMailbox
from wool.sim.plan import LABEL_BYTES
from wool.sim.suspended import where
from wool.sim.told import SimEvents
from wool.sim.traced import sim_tracing
from wool.sim.watch import Names, NodeObserver, WatchedBalancer
from wool.transport.memory import MemoryTransport

if TYPE_CHECKING:
    from wool.sim.bodies import Ask, Body
    from wool.sim.discovery import Membership, Opened
    from wool.sim.history import Detail
    from wool.sim.kinds import Fault
    from wool.sim.multicast import Segment
    from wool.sim.network import SimNetwork
    from wool.worker.spec import Launcher

EXIT_SECONDS = 0.001
"""Until the owner of a process knows that it has ended, and a worker that its owner has."""
MEMORY_BYTES = 64 * 1024 * 1024
"""What each process holds: that of the real one is another in each run."""

_BRIEF_TIMERS = frozenset({"MemoryStream.arrive", "SimMailbox._deliver", "Socket.arrive", "Socket.reply", "_settle"})
"""The network's and the mailboxes' own."""

next_label: ContextVar[str] = ContextVar("wool.sim.next_label")
"""What the next call that is made in this context is named."""


def key_of_label(label: str) -> bytes:
    """Return a task's key on the wire."""
    return label.encode().ljust(LABEL_BYTES, b"\0")


def label_of_key(key: bytes) -> str:
    """Return what `key_of_label` was given."""
    return key.rstrip(b"\0").decode()


class Surroundings(Host, Names, Protocol):
    """The cluster, as its processes know it."""

    @property
    def limits(self) -> Limits:
        """Of every process."""
        ...

    @property
    def network(self) -> SimNetwork:
        """Between them."""
        ...

    @property
    def disturbed(self) -> bool:
        """Whether the plan has something to do to what subscribers hear."""
        ...

    @property
    def made(self) -> Made:
        """Which process has made which object."""
        ...

    @property
    def tasks(self) -> dict[str, tuple[Body, tuple[Ask, ...]]]:
        """The program of every task, by its label."""
        ...

    def launcher(self, owner: Incarnation) -> Launcher:
        """Return what starts the workers of a pool of this process."""
        ...

    def new_pid(self) -> int:
        """Mint a process id."""
        ...

    def new_incarnation(self, label: str) -> Incarnation:
        """Make the next process with this label."""
        ...

    def process_ended(self, process: Incarnation) -> None:
        """A process is dead."""
        ...

    def memberships_of(self, process: Incarnation) -> list[Membership]:
        """Return what a process has joined and not left."""
        ...

    @property
    def segment(self) -> Segment:
        """What multicast goes over."""
        ...

    def jitter(self, label: str, ordinal: int) -> float:
        """Return by how much later something comes."""
        ...

    def strikes(self, kind: str, target: str) -> Fault | None:
        """Return the fault of this kind that strikes ``target`` now, and write down that it does."""
        ...

    def discovery(self, *, disturbed: bool) -> Opened:
        """Return a discovery of the kind that the plan says."""
        ...

    def ready(self, process: Incarnation, metadata: WorkerMetadata) -> None:
        """A worker that announces nothing itself serves."""
        ...

    def leaving(self, process: Incarnation, metadata: WorkerMetadata) -> None:
        """It was told to stop."""
        ...

    def name_worker(self, uid: str) -> str:
        """Give the next label to a worker that a pool is going to start."""
        ...

    def where(self, label: str) -> str:
        """Return where the present incarnation of a worker listens."""
        ...

    def name_incarnation(self, uid: str, process: Incarnation) -> None:
        """Say which process has this uid."""
        ...

    def secret_of(self, label: str) -> bytes:
        """Return the secret that a process with this label has now."""
        ...

    def protocol_of(self, label: str) -> int:
        """Return the version of the protocol that a process with this label speaks now."""
        ...

    def reached(self, process: Incarnation, point: str) -> None:
        """A worker has come to this point of its life."""
        ...

    def fails_to_start(self, label: str) -> bool:
        """Whether the process of a worker fails to start, now."""
        ...


class WorkerProcess(Protocol):
    """What a process that is a worker's is, besides."""

    metadata: WorkerMetadata | None

    @property
    def serves(self) -> bool:
        """Whether it lives, and has not been told to stop."""
        ...

    def terminate(self) -> None:
        """Send it SIGTERM."""
        ...

    def owner_gone(self) -> None:
        """Its owner has died."""
        ...


class SimHome:
    """Where the workers of a simulated pool live."""

    def __init__(self, cluster: Surroundings, owner: Incarnation) -> None:
        self._cluster = cluster
        self._discovery = SimDiscovery(
            f"pool-{owner.label}-{owner.number}", cluster.limits, disturbed=cluster.disturbed
        )
        self._discovery.local.__enter__()
        self._closed = False

    @property
    def discovery(self) -> SimDiscovery:
        """See `wool.runtime.Home`."""
        return self._discovery

    def address(self, uid: str) -> str:
        """Return the address of the next worker, ``w0`` first."""
        return self._cluster.where(self._cluster.name_worker(uid))

    def close(self) -> None:
        """See `wool.runtime.Home`."""
        if not self._closed:
            self._closed = True
            self._discovery.local.__exit__(None, None, None)


class Incarnation:
    """One process, from its start to its end."""

    def __init__(self, cluster: Surroundings, label: str, number: int) -> None:
        self.cluster = cluster
        self.label = label
        self.number = number
        self.name: str = f"{label}#{number}"
        world = cluster.world
        self.user: SimLoop = world.new_loop(f"{self.name}.user", self)
        self.io: SimLoop = world.new_loop(f"{self.name}.io", self)
        self.dead: bool = False
        self.paused: bool = False
        self.worker: WorkerProcess | None = None
        self.children: list[WorkerProcess] = []
        self.when_gone: list[Callable[[str], None]] = []
        """Called, by the world, when the process has ended."""
        self.seams_left: int | None = None
        """At the so-manieth seam from here it is killed."""
        self.executions: int = 0
        self.subscriptions: int = 0
        self.balancer: WatchedBalancer = WatchedBalancer()
        """Of its pool, if it is a caller's."""
        self._random: random.Random | None = None
        self.provider: CredentialsProvider | None = None
        """What its streams show, if they speak TLS."""
        self.host: SimIo = SimIo(self.io)
        self.runtime: Runtime = Runtime(
            io=self.host,
            transport=self._transport,
            launcher=lambda: cluster.launcher(self),
            home=lambda: SimHome(cluster, self),
            user_key=lambda: cluster.secret_of(label),
            new_mailbox=SimMailbox,
            random_bytes=self.random_bytes,
            memory=lambda: MEMORY_BYTES,
            task_key=_next_key,
            limits=cluster.limits,
            protocol=cluster.protocol_of(label),
            observer=NodeObserver(self),
            events=SimEvents(self, remote=cluster.plan.told and label.startswith("c")),
            tracing=sim_tracing(self, on=cluster.plan.told),
            uid=self.name,
            host="simulated",
            pid=cluster.new_pid(),
        )

    def __repr__(self) -> str:
        return f"<Incarnation {self.name}{' dead' if self.dead else ' paused' if self.paused else ''}>"

    def _transport(self, limits: Limits, credentials: CredentialsProvider | None) -> MemoryTransport:
        self.provider = credentials
        transport = MemoryTransport(self.cluster.network, limits)
        transport.one_way = self.cluster.plan.topology.one_way
        return transport

    def random_bytes(self, size: int) -> bytes:
        """Return what no other incarnation gets."""
        if self._random is None:
            self._random = random.Random(f"{self.cluster.plan.seed}/{self.name}")
        return self._random.randbytes(size)

    @property
    def nanoseconds(self) -> int:
        """The time of its clock."""
        return int(self.cluster.world.now * 1e9)

    def note(self, kind: str, task: str = "", attempt: str = "", detail: Detail = ()) -> None:
        """Write into the history, unless this process is dead."""
        if not self.dead:
            cluster = self.cluster
            cluster.history.add(cluster.world.now, self.name, kind, task, attempt, detail)

    def spawn(self, work: Coroutine[Any, Any, None], name: str, loop: SimLoop | None = None) -> SimTask[None]:
        """Start a task of this process, in a context of its own."""
        context = contextvars.Context()
        context.run(set_runtime, self.runtime)
        task = (loop or self.user).create_task(work, name=name, context=context)
        task.add_done_callback(self._main_ended)
        return task

    def _main_ended(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            self.note("loop.error", detail=(("message", f"main: {type(error).__name__}: {error}"),))
            self.crash("its main program failed")

    # ---- what happens to it ----

    def seam(self) -> bool:
        """See `wool.sim.loop.LoopOwner`."""
        if self.seams_left is not None and not self.dead:
            self.seams_left -= 1
            if self.seams_left <= 0:
                self.crash("killed at a seam")
        return not self.dead

    def failed(self, loop: SimLoop, context: dict[str, Any]) -> None:
        """See `wool.sim.loop.LoopOwner`."""
        error: BaseException | None = context.get("exception")
        message = str(context.get("message", ""))
        if "never retrieved" in message:
            task: object = context.get("task")
            whose = f" of {task.get_name()}" if isinstance(task, asyncio.Task) else ""
            self.note("leak.never-retrieved", detail=(("what", f"{type(error).__name__}{whose}"),))
        else:
            said = "" if error is None else f"{type(error).__name__}: {error}"
            self.note("loop.error", detail=(("message", said or message),))

    def crash(self, reason: str, *, silent: bool = False) -> None:
        """Kill it. The step under way goes on to its next wait, without effect."""
        self._end("node.crashed", reason, f"killed by SIGKILL ({reason})", silent=silent)

    def exit(self) -> None:
        """End it in good order."""
        self._end("node.exited", "", "exited with status 0", silent=False)

    def _end(self, kind: str, reason: str, how: str, *, silent: bool) -> None:
        if self.dead:
            return
        self.note(kind, detail=(("reason", reason),))
        self.dead = True
        world = self.cluster.world
        for loop in (self.user, self.io):
            # Whatever waits for something that nobody else refers to must not be collected: that would run it.
            world.kept.extend(loop.tasks())
            loop.kill()
        self.cluster.network.forget(self, silent=silent, reason="the process has ended")
        self.cluster.process_ended(self)
        for child in self.children:
            world.loop.call_later(EXIT_SECONDS, child.owner_gone)
        for tell in self.when_gone:
            world.loop.call_later(EXIT_SECONDS, tell, how)

    def pause(self) -> None:
        """Let it stand still."""
        if not (self.dead or self.paused):
            self.paused = True
            self.note("node.paused")
            self.user.hold()
            self.io.hold()
            self.cluster.network.frozen(self, lambda: self.paused and not self.dead)

    def resume(self) -> None:
        """Let it go on."""
        if self.paused and not self.dead:
            self.paused = False
            self.note("node.resumed")
            self.io.release()
            self.user.release()

    # ---- what it leaves ----

    def census(self, *, user_tasks: bool) -> None:
        """Write down what is left at the end of all work."""
        for loop in (self.io, self.user):
            for task in loop.tasks():
                if task is asyncio.current_task(loop):
                    continue
                if loop is self.io or user_tasks or task.get_name().startswith("wool"):
                    what = f"{task.get_name()} at {where(task)}"
                    self.note("leak.task", detail=(("what", what),))
        timers = [entry for entry in self.cluster.world.timers if entry[2].loop in (self.io, self.user)]
        for _, _, timer in sorted(timers, key=lambda entry: entry[:2]):
            what = getattr(timer.callback, "__qualname__", type(timer.callback).__name__)
            if not timer.gone and (timer.loop is self.io or user_tasks) and what not in _BRIEF_TIMERS:
                self.note("leak.timer", detail=(("what", what),))
        for wire in self.cluster.network.wires_of(self):
            mine = wire.to.target if wire.worker is self else wire.back.target
            if not mine.over and (wire.worker is self or wire.answered):
                self.note("leak.stream", detail=(("what", wire.name),))
        for membership in self.cluster.memberships_of(self):
            self.note("leak.subscription", detail=(("what", membership.place.namespace),))
        if sockets := self.cluster.segment.joined(self):
            self.note("leak.subscription", detail=(("what", f"{sockets} sockets of multicast DNS"),))
        if self.host.users:
            self.note("leak.permit", detail=(("what", f"{self.host.users} uses of the I/O loop"),))
        for calls, uid in self.balancer.owed():
            what = f"{calls} calls that count as under way at {self.cluster.incarnation_of(uid)}"
            self.note("leak.permit", detail=(("what", what), ("calls", calls)))


def _next_key() -> bytes:
    return key_of_label(next_label.get())
