"""Simulated processes: their two loops, their surroundings, how they are started and how they end.

Why it exists: a process in production is threads, pipes, signals and an exit status. What matters of that to
the engine is a `wool.runtime.Runtime`, and that is what an incarnation has, with the production `WorkerNode`
inside a worker.

What it owns: one incarnation of one process. Crashed or exited it has no effect any more and none of its
code runs, not even a ``finally``; everything of it is kept as it is until the verdict.

What it must never do: share anything with another incarnation but what the network and the host carry.
"""

from __future__ import annotations

import asyncio
import contextlib
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
from wool.sim.loop import SimFuture, SimLoop, SimTask, where
from wool.sim.mailbox import SimIo, SimMailbox
from wool.sim.plan import LABEL_BYTES
from wool.sim.told import SimEvents
from wool.sim.traced import sim_tracing
from wool.sim.watch import Names, NodeObserver
from wool.transport.memory import MemoryTransport
from wool.worker.channel import Configure
from wool.worker.child import WorkerStartError
from wool.worker.launch import WorkerSpec
from wool.worker.serve import WorkerNode

if TYPE_CHECKING:
    from wool.sim.bodies import Ask, Body
    from wool.sim.discovery import Membership, Opened
    from wool.sim.history import Detail
    from wool.sim.multicast import Segment
    from wool.sim.network import SimNetwork
    from wool.sim.plan import Fault

PIPE_SECONDS = 0.0002
"""From an owner to its worker and back."""
EXIT_SECONDS = 0.001
"""Until the owner of a process knows that it has ended, and a worker that its owner has."""
SPAWN_SECONDS = 0.02
"""From the wish for a process to its first line."""
MEMORY_BYTES = 64 * 1024 * 1024
"""What each process holds: that of the real one is another in each run."""
REPUBLISH_SECONDS = 0.25
"""A worker that could not be announced tries again after so long."""

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
    def tasks(self) -> dict[str, tuple[Body, tuple[Ask, ...]]]:
        """The program of every task, by its label."""
        ...

    @property
    def workers(self) -> dict[str, SimWorker]:
        """The present workers by label."""
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

    def fails_to_start(self, label: str) -> bool:
        """Whether the process of a worker fails to start, now."""
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
        self.worker: SimWorker | None = None
        self.children: list[SimWorker] = []
        self.when_gone: list[Callable[[str], None]] = []
        """Called, by the world, when the process has ended."""
        self.seams_left: int | None = None
        """At the so-manieth seam from here it is killed."""
        self.executions: int = 0
        self._random: random.Random | None = None
        self.provider: CredentialsProvider | None = None
        """What its streams show, if they speak TLS."""
        self.host: SimIo = SimIo(self.io)
        self.runtime: Runtime = Runtime(
            io=self.host,
            transport=self._transport,
            launcher=lambda: SimLauncher(self),
            home=lambda: SimHome(cluster, self),
            user_key=lambda: cluster.secret_of(label),
            new_mailbox=SimMailbox,
            random_bytes=self.random_bytes,
            memory=lambda: MEMORY_BYTES,
            task_key=_next_key,
            limits=cluster.limits,
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
        return MemoryTransport(self.cluster.network, limits)

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
            self.note("leak.never-retrieved", detail=(("what", type(error).__name__),))
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


def _next_key() -> bytes:
    return key_of_label(next_label.get())


# ---- workers --------------------------------------------------------------------------------------------


class SimWorker:
    """A worker process: started by the launcher of a pool, or by the cluster to be found by discovery."""

    def __init__(self, cluster: Surroundings, label: str, *, namespace: str | None = None) -> None:
        self.cluster = cluster
        self.label = label
        self.namespace = namespace
        self.process: Incarnation = cluster.new_incarnation(label)
        self.process.worker = self
        self.told_to_stop: bool = False
        self.node: WorkerNode | None = None
        self.metadata: WorkerMetadata | None = None
        self.ready: Callable[[WorkerMetadata], None] | None = None
        self.draining: Callable[[], None] | None = None
        self.worn: Callable[[str], None] | None = None
        self._stopped: SimFuture[None] = self.process.user.create_future()
        self._announce = True
        self._news: Callable[[], object] | None = None

    @property
    def serves(self) -> bool:
        """Whether it lives, and has not been told to stop."""
        return not (self.process.dead or self.told_to_stop)

    def start(self, configure: Configure) -> None:
        """Let its first line run."""
        self.process.note("node.up")
        self.process.spawn(self._main(configure), "main")

    async def _main(self, configure: Configure) -> None:
        process = self.process
        self.node = WorkerNode(configure=configure, runtime=process.runtime, io_loop=process.io)
        self.metadata = await self.node.start()
        if self.ready is not None:
            self.ready(self.metadata)
        if self.worn is not None and configure.retirement:
            process.io.call_soon_threadsafe(self.node.watch_wear, self.worn)
        if self.namespace is None:
            await self._stopped
        else:
            await self._announced(self.metadata)
        await self.node.close()
        process.census(user_tasks=False)
        process.exit()

    async def _announced(self, metadata: WorkerMetadata) -> None:
        """Be found until told to stop."""
        cluster, withdrawn, news = self.cluster, asyncio.Event(), asyncio.Event()

        def told() -> None:
            withdrawn.set()
            news.set()

        def withdraw() -> None:
            self.process.user.call_soon_threadsafe(told)

        self.draining = withdraw
        self._news = lambda: self.process.user.call_soon_threadsafe(news.set)
        if cluster.plan.topology.discovery in ("dns", "static"):
            cluster.ready(self.process, metadata)
            await withdrawn.wait()
            cluster.leaving(self.process, metadata)
            await self._stopped
            return
        async with cluster.discovery(disturbed=False) as discovery:
            said = False
            while not withdrawn.is_set():
                news.clear()
                wait: float | None = None
                if said is not self._announce:
                    try:
                        await discovery.publisher.publish("worker-dropped" if said else "worker-added", metadata)
                        said = not said
                        continue
                    except RuntimeError:
                        wait = REPUBLISH_SECONDS
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(wait):
                        await news.wait()
        await self._stopped

    def announce(self, *, wanted: bool) -> None:
        """Announce it, or withdraw it while it serves."""
        self._announce = wanted
        if self._news is not None:
            self._news()

    # ---- what its owner, or the kernel, tells it ----

    def stop(self, drain_seconds: float) -> None:
        """Tell it to stop; run on its own I/O loop."""
        if self.node is None:
            self.process.crash("told to stop before it was ready")
        else:
            self.node.begin_stop(drain_seconds, self._drains, self._stops)

    def terminate(self) -> None:
        """Send it SIGTERM."""
        self.told_to_stop = True
        self.process.note("node.terminated")
        self.process.io.call_soon(self.stop, self.process.runtime.limits.drain_seconds)

    def owner_gone(self) -> None:
        """Its owner has died: it does not outlive it."""
        self.process.crash("its owner has gone")

    def _drains(self) -> None:
        if self.draining is not None:
            self.draining()

    def _stops(self) -> None:
        def stopped() -> None:
            if not self._stopped.done():
                self._stopped.set_result(None)

        self.process.user.call_soon_threadsafe(stopped)


class SimLauncher:
    """Starts simulated workers for a pool. See `wool.worker.launch.Launcher`."""

    def __init__(self, owner: Incarnation) -> None:
        self._owner = owner

    async def launch(self, spec: WorkerSpec) -> SimWorkerHandle:
        """Return a worker that is ready."""
        owner, cluster = self._owner, self._owner.cluster
        assert spec.uid is not None
        label = cluster.label_of(spec.uid)
        await asyncio.sleep(SPAWN_SECONDS)
        if not owner.seam():
            await asyncio.get_running_loop().create_future()
        if cluster.fails_to_start(label):
            raise WorkerStartError(f"worker {label} did not start: the plan says so")
        worker = SimWorker(cluster, label)
        cluster.name_incarnation(spec.uid, worker.process)
        cluster.workers[label] = worker
        handle = SimWorkerHandle(worker, owner, spec.limits)
        worker.start(
            Configure(
                sys_path=(),
                python_path=None,
                address=spec.address,
                secret=spec.secret,
                uid=spec.uid,
                tags=spec.tags,
                extra=spec.extra,
                limits=spec.limits,
                retirement=spec.retirement,
                max_concurrency=spec.max_concurrency,
                admission=spec.admission,
            )
        )
        try:
            await handle.started()
        except BaseException:
            handle.close()
            raise
        return handle


class SimWorkerHandle:
    """A simulated worker, as its owner sees it. See `wool.worker.launch.WorkerHandle`."""

    def __init__(self, worker: SimWorker, owner: Incarnation, limits: Limits) -> None:
        self._worker = worker
        self._owner = owner
        self._limits = limits
        loop = owner.io
        self._started: SimFuture[WorkerMetadata | None] = loop.create_future()
        self._worn: SimFuture[str | None] = loop.create_future()
        self._drains: SimFuture[None] = loop.create_future()
        self._closed: SimFuture[None] = loop.create_future()
        self._exit_reason: str | None = None
        self._metadata: WorkerMetadata | None = None
        worker.ready = lambda metadata: self._hear(self._is_ready, metadata)
        worker.worn = lambda why: self._hear(self._is_worn, why)
        worker.draining = lambda: self._hear(self._is_draining)
        worker.process.when_gone.append(lambda how: self._hear(self._is_gone, how))
        owner.children.append(worker)

    def _hear(self, what: Callable[..., None], *arguments: object) -> None:
        """The worker's pipe, or the kernel, brings something to the owner's I/O loop."""
        loop = self._owner.io
        loop.call_at(loop.world.now + PIPE_SECONDS, what, *arguments)

    def _tell(self, what: Callable[..., None], *arguments: object) -> None:
        if self._owner.seam():
            loop = self._worker.process.io
            loop.call_at(loop.world.now + PIPE_SECONDS, what, *arguments)

    def _is_ready(self, metadata: WorkerMetadata) -> None:
        self._metadata = metadata
        if not self._started.done():
            self._started.set_result(metadata)

    def _is_worn(self, why: str | None) -> None:
        if not self._worn.done():
            self._worn.set_result(why)

    def _is_draining(self) -> None:
        self._is_worn(None)
        if not self._drains.done():
            self._drains.set_result(None)

    def _is_gone(self, how: str) -> None:
        self._exit_reason = how
        self._is_draining()
        if not self._started.done():
            self._started.set_result(None)
        if not self._closed.done():
            self._closed.set_result(None)

    async def started(self) -> None:
        """Wait until it is ready. Raises `WorkerStartError`."""
        await asyncio.wait([self._started], timeout=self._limits.worker_start_seconds)
        if self._metadata is None:
            raise WorkerStartError(f"worker {self._worker.label} did not start: {self._exit_reason or 'too slow'}")

    @property
    def metadata(self) -> WorkerMetadata:
        """See `WorkerHandle`."""
        assert self._metadata is not None
        return self._metadata

    @property
    def exit_reason(self) -> str | None:
        """See `WorkerHandle`."""
        return self._exit_reason

    @property
    def is_draining(self) -> bool:
        """See `WorkerHandle`."""
        return self._drains.done()

    async def wait_worn(self) -> str | None:
        """See `WorkerHandle`."""
        return await asyncio.shield(self._worn)

    async def wait_draining(self) -> None:
        """See `WorkerHandle`."""
        await asyncio.shield(self._drains)

    async def wait_closed(self) -> str:
        """See `WorkerHandle`."""
        await asyncio.shield(self._closed)
        assert self._exit_reason is not None
        return self._exit_reason

    async def stop(self, drain_seconds: float) -> None:
        """See `WorkerHandle`."""
        if self._closed.done():
            return
        try:
            self._tell(self._worker.stop, drain_seconds)
            await asyncio.wait([self._closed], timeout=drain_seconds + self._limits.stop_seconds)
        finally:
            if not self._closed.done():
                self.close()
                await asyncio.shield(self._closed)

    def close(self) -> None:
        """See `WorkerHandle`."""
        if self._exit_reason is None and self._owner.seam():
            self._worker.process.crash("killed by its owner")
