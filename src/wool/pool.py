"""What a user opens to call routines: a pool that starts workers, or a proxy to workers that are there."""

from __future__ import annotations

import asyncio
import os
import warnings
from collections.abc import Callable, Iterable, Sequence
from types import TracebackType
from typing import Any, Self

from wool.balancer import LoadBalancerLike, RoundRobinLoadBalancer
from wool.bridge import IoLoopDied, MailboxLike, run_on
from wool.discovery.base import DiscoverySubscriberLike, WorkerMetadata, check_tags
from wool.dispatch import Dispatcher, DispatcherSource, ProxySpec, enter_source, innermost_open, leave_source
from wool.errors import TransientRpcError
from wool.runtime import Home, Runtime, current_runtime
from wool.worker.launch import WorkerSpec
from wool.worker.local import Fleet

LoadBalancerArgument = LoadBalancerLike | Callable[[], LoadBalancerLike]

SECRET_BYTES = 32


class _Entered:
    """What pool and proxy share: entering makes it current, leaving makes it not, once each."""

    def __init__(self) -> None:
        self.open_dispatcher: Dispatcher | None = None
        self.outer: DispatcherSource | None = None
        self._opened = False

    @property
    def is_left(self) -> bool:
        """See `wool.dispatch.DispatcherSource`."""
        return self.open_dispatcher is None

    async def dispatcher(self) -> Dispatcher:
        """Return the dispatcher. Raises `RuntimeError` if the pool is not open."""
        if self.open_dispatcher is None:
            raise RuntimeError(f"{self!r} is closed: call routines inside its 'async with' block")
        return self.open_dispatcher

    def _begin(self) -> None:
        if self._opened:
            raise RuntimeError(f"{self!r} was opened before: make a new one")
        self._opened = True

    def _enter(self) -> None:
        self.outer = innermost_open()
        enter_source(self)

    def _leave(self) -> None:
        leave_source(self)

    def __del__(self) -> None:
        if getattr(self, "open_dispatcher", None) is not None:
            warnings.warn(f"unclosed {self!r}: use 'async with'", ResourceWarning, source=self, stacklevel=2)


class WorkerProxy(_Entered):
    """Calls routines on workers that somebody else started.

    ``discovery`` is a subscriber that tells of workers; or ``workers`` names them. Exactly one of the two.
    ``loadbalancer`` is a `LoadBalancerLike`, or a class or function that makes one.

    Use it as an async context manager. Leaving it ends the sessions: calls under way in other tasks end as
    `WorkerLost`, so gather them first. Raises `ValueError` or `TypeError` for arguments that do not fit.
    """

    def __init__(
        self,
        *,
        discovery: DiscoverySubscriberLike | None = None,
        workers: Sequence[WorkerMetadata] | None = None,
        loadbalancer: LoadBalancerArgument = RoundRobinLoadBalancer,
    ) -> None:
        super().__init__()
        if (discovery is None) == (workers is None):
            raise ValueError("WorkerProxy takes either discovery= or workers=, and exactly one of them")
        _check_subscriber(discovery)
        known = _checked_workers(workers)
        self._spec = ProxySpec(
            balancer=loadbalancer,
            subscriber=discovery,
            workers=known,
            what="the given workers" if discovery is None else "the discovery",
        )
        self._runtime = current_runtime()

    async def __aenter__(self) -> Self:
        self._begin()
        self.open_dispatcher = await Dispatcher.open(self._spec, runtime=self._runtime, secret=self._runtime.user_key())
        self._enter()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._leave()
        dispatcher, self.open_dispatcher = self.open_dispatcher, None
        if dispatcher is not None:
            await dispatcher.close("the proxy was closed")

    def __repr__(self) -> str:
        return f"<WorkerProxy {'open' if self.open_dispatcher is not None else 'closed'}>"


class WorkerPool(_Entered):
    """Starts worker processes on this machine and runs routines on them.

    ``tags`` mark the workers. ``size`` is their number, by default one per CPU that this process may use.
    ``loadbalancer`` is a `LoadBalancerLike`, or a class or function that makes one.

    Use it as an async context manager: entering returns when every worker is ready, leaving when every one
    is gone. A pool is opened once, belongs to the process that opened it, and is current for the tasks that
    are started inside its block. Calls still under way in other tasks when the block is left end as
    `TaskInterrupted`.

    Raises `ValueError` or `TypeError` for arguments that do not fit. Entering raises `WorkerStartError`,
    with the worker's own output, if one fails to start or takes longer than ``worker_start_seconds``; then
    none is left. Cancelling the entry leaves nothing; cancelling the exit kills what is left.
    """

    def __init__(
        self,
        *tags: str,
        size: int | None = None,
        loadbalancer: LoadBalancerArgument = RoundRobinLoadBalancer,
    ) -> None:
        super().__init__()
        self.tags: frozenset[str] = check_tags(tags)
        self.size: int = _checked_size(size)
        self._balancer = loadbalancer
        self._runtime: Runtime = current_runtime()
        self._io: MailboxLike | None = None
        self._home: Home | None = None
        self._fleet: Fleet | None = None
        self._workers: dict[str, WorkerMetadata] = {}

    @property
    def workers(self) -> tuple[WorkerMetadata, ...]:
        """The workers that this pool started and that have not ended."""
        return tuple(self._workers.values())

    async def __aenter__(self) -> Self:
        self._begin()
        runtime = self._runtime
        runtime.check_process()
        balancer = ProxySpec(balancer=self._balancer).make_balancer()  # it may fail: before anything is started
        self._io = runtime.mailbox(runtime.io.acquire())
        try:
            secret = runtime.random_bytes(SECRET_BYTES)
            home = self._home = runtime.home()
            await self._start_workers(home, secret)
            spec = ProxySpec(
                balancer=self._balancer,
                subscriber=home.discovery.subscriber,
                what=f"this pool of {self.size}",
            )
            dispatcher = await Dispatcher.open(spec, runtime=runtime, secret=secret, balancer=balancer)
            self.open_dispatcher = dispatcher
            for metadata in self._workers.values():
                dispatcher.announce(metadata)
        except BaseException:
            await self._close("the pool was not opened")
            raise
        self._enter()
        return self

    async def _start_workers(self, home: Home, secret: bytes) -> None:
        runtime = self._runtime
        specs: list[WorkerSpec] = []
        for _ in range(self.size):
            uid = runtime.new_uid()
            specs.append(
                WorkerSpec(address=home.address(uid), secret=secret, uid=uid, tags=self.tags, limits=runtime.limits)
            )
        publisher = home.discovery.publisher

        def withdraw(metadata: WorkerMetadata) -> None:
            self._workers.pop(metadata.uid, None)
            if metadata.uid not in drops:
                drop = publisher.publish("worker-dropped", metadata)
                drops[metadata.uid] = asyncio.get_running_loop().create_task(drop)

        def gone(metadata: WorkerMetadata, how: str) -> None:
            reason = TransientRpcError(f"worker {metadata.uid[:8]} (pid {metadata.pid}) ended: {how}")
            if self.open_dispatcher is not None:
                self.open_dispatcher.departed(metadata.uid, reason)
            withdraw(metadata)

        drops: dict[str, asyncio.Task[None]] = {}
        fleet = self._fleet = Fleet(launcher=runtime.launcher(), gone=gone, draining=withdraw)

        async def start() -> list[WorkerMetadata]:
            ready = await fleet.start(specs)
            for metadata in ready:
                await publisher.publish("worker-added", metadata)
            return ready

        starting = asyncio.create_task(self._run(start, "wool starting a pool's workers"), name="wool starting a pool")
        try:
            await asyncio.sleep(0)  # The start is under way on the I/O loop;
            runtime.prepare()  # meanwhile this thread imports what the first connection needs.
        except BaseException:
            starting.cancel()
            await asyncio.gather(starting, return_exceptions=True)
            raise
        ready = await starting
        self._workers = {metadata.uid: metadata for metadata in ready}

    async def _run(self, work: Callable[[], Any], name: str) -> Any:
        assert self._io is not None
        return await run_on(self._io, self._runtime.mailbox(asyncio.get_running_loop()), work, name)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._leave()
        await self._close("the pool was closed")

    async def _close(self, why: str) -> None:
        """Refuse new calls, interrupt what runs, stop the workers, end the sessions, remove the home."""
        if self._io is None:
            return
        if self._runtime.forked:
            self._io = self.open_dispatcher = None  # it is the parent's, all of it
            return
        dispatcher, fleet, home = self.open_dispatcher, self._fleet, self._home
        self.open_dispatcher = None
        try:
            if dispatcher is not None:
                dispatcher.stop_placing(why)
            if fleet is not None:

                async def stop() -> None:
                    await fleet.stop(0.0)

                await self._run(stop, "wool stopping a pool's workers")
        except IoLoopDied:
            if fleet is not None:
                fleet.kill()
        except BaseException:
            if fleet is not None:
                self._io.post(fleet.kill)
            raise
        finally:
            try:
                if dispatcher is not None:
                    await dispatcher.close(why)
            finally:
                self._io = None
                self._workers.clear()
                if home is not None:
                    home.close()
                await self._runtime.io.release()

    def __repr__(self) -> str:
        return f"<WorkerPool of {self.size} {'open' if self.open_dispatcher is not None else 'closed'}>"


def _checked_size(size: object) -> int:
    if size is None:
        # Those that this process may use, where the system tells: a container or a batch job often has fewer.
        return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if not isinstance(size, int) or isinstance(size, bool):
        raise TypeError(f"size must be a number of workers, got {size!r}")
    if size < 1:
        raise ValueError(f"size must be at least 1, got {size}: leave it out for one worker per CPU")
    return size


def _check_subscriber(discovery: object) -> None:
    if discovery is not None and not isinstance(discovery, DiscoverySubscriberLike):
        raise TypeError(
            f"discovery must be a subscriber (iterated with 'async for'), got {discovery!r:.100}: "
            "give LocalDiscovery(...).subscriber"
        )


def _checked_workers(workers: object) -> tuple[WorkerMetadata, ...]:
    if workers is None:
        return ()
    given: Any = workers
    if not isinstance(workers, Iterable):
        raise TypeError(f"workers must be a sequence of WorkerMetadata, got {workers!r:.100}: give [worker.metadata]")
    for worker in (checked := tuple(given)):
        if not isinstance(worker, WorkerMetadata):
            raise TypeError(f"workers must be WorkerMetadata, got {worker!r:.100}: give worker.metadata")
    return checked
