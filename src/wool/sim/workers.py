"""Simulated workers: one that is found, or that a pool has started, and what starts it and hears of it.

Owns what a worker's process does between its start and its end around the production `WorkerNode`, and the pipe between
it and its owner. Knows nothing of how a process itself ends: that is `wool.sim.node`.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import TYPE_CHECKING

from wool.discovery.base import WorkerMetadata
from wool.limits import Limits
from wool.sim.loop import SimFuture
from wool.worker.channel import Configure
from wool.worker.child import WorkerStartError
from wool.worker.serve import WorkerNode
from wool.worker.spec import WorkerSpec

if TYPE_CHECKING:
    from wool.sim.node import Incarnation, Surroundings

PIPE_SECONDS = 0.0002
"""From an owner to its worker and back."""
SPAWN_SECONDS = 0.02
"""From the wish for a process to its first line."""
REPUBLISH_SECONDS = 0.25
"""A worker that could not be announced tries again after so long."""


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
        if not self._lives_on("listening"):
            return
        if self.ready is not None:
            self.ready(self.metadata)
            self._lives_on("announced")
        if self.worn is not None and configure.retirement:
            process.io.call_soon_threadsafe(self.node.watch_wear, self.worn)
        if self.namespace is None:
            await self._stopped
        else:
            await self._announced(self.metadata)
        await self.node.close()
        if places := self.node.places_kept():
            process.note("leak.permit", detail=(("what", f"{places} places of bodies that have ended"),))
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
            self._lives_on("announced")
            await withdrawn.wait()
            cluster.leaving(self.process, metadata)
            self._lives_on("withdrawn")
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
                        if said:
                            self._lives_on("announced")
                        continue
                    except RuntimeError:
                        wait = REPUBLISH_SECONDS
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(wait):
                        await news.wait()
        self._lives_on("withdrawn")
        await self._stopped

    def _lives_on(self, point: str) -> bool:
        """Come to this point of its life; return whether it lives then."""
        self.cluster.reached(self.process, point)
        return not self.process.dead

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
    """Starts simulated workers for a pool, and enters them in ``workers``. See `wool.worker.launch.Launcher`."""

    def __init__(self, owner: Incarnation, workers: dict[str, SimWorker]) -> None:
        self._owner = owner
        self._workers = workers

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
        self._workers[label] = worker
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
