"""What a user opens to call routines: a pool that starts workers, or a proxy to workers that are there."""

from __future__ import annotations

import asyncio
import dataclasses
import os
import warnings
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager, AsyncExitStack
from types import TracebackType
from typing import Any, Self

from wool.admission import Terms, family_of, successor_of
from wool.balancer import LoadBalancerLike, RoundRobinLoadBalancer
from wool.bridge import MailboxLike
from wool.context import credentials_in_force
from wool.credentials import CredentialsArgument, as_provider, asked_again, for_worker, secret_of
from wool.crew import Crew
from wool.discovery.base import DiscoveryLike, NoPublisher, WorkerMetadata, check_tags, lives_on_io_loop
from wool.dispatch import Dispatcher, DispatcherSource, ProxySpec, enter_source, innermost_open, leave_source, used
from wool.errors import RpcError
from wool.runtime import Home, Runtime, current_runtime
from wool.supplied import (
    DISCOVERY,
    LOAD_BALANCER,
    SUBSCRIBER,
    DiscoveryArgument,
    LoadBalancerArgument,
    SubscriberArgument,
)
from wool.tally import PoolStatistics, Tally
from wool.worker.examiner import AdmissionHook, check_admission, dump_admission
from wool.worker.local import address_to_bind, check_mutual
from wool.worker.loops import LoopKind, check_loop
from wool.worker.places import check_max_concurrency
from wool.worker.retirement import Retirement
from wool.worker.spec import WorkerSpec

SECRET_BYTES = 32


class _Entered:
    """What pool and proxy share: entering makes it current, leaving makes it not, once each."""

    def __init__(self) -> None:
        self.open_dispatcher: Dispatcher | None = None
        self.outer: DispatcherSource | None = None
        self._opened = False
        self._tally = Tally()

    @property
    def is_left(self) -> bool:
        """See `wool.dispatch.DispatcherSource`."""
        return self.open_dispatcher is None

    async def dispatcher(self) -> Dispatcher:
        """Return the dispatcher. Raises `RuntimeError` if the pool is not open."""
        if self.open_dispatcher is None:
            raise RuntimeError(f"{self!r} is closed: call routines inside its 'async with' block")
        return self.open_dispatcher

    def statistics(self) -> PoolStatistics:
        """Return what has become of the calls that this process has made by it: as it is now, or was at the end.

        Calls that bodies make on the workers are not among them. Costs microseconds; from any thread, at any time.
        """
        return self._tally.statistics()

    def use(self) -> AbstractContextManager[None]:
        """Make this pool, which is open, current in a ``with`` block: for tasks that were not started inside its own.

        A web server, say, opens a pool in one task, and handles requests in others. The block may be in any task,
        thread and event loop of the process that has opened the pool. Leaving it leaves the pool open; where the pool
        is left first, calls in the block raise what they raise outside a pool. Raises `RuntimeError` if it is not open.
        """
        if self.is_left:
            raise RuntimeError(f"{self!r} is closed: use it between entering and leaving its 'async with' block")
        return used(self)

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
    ``loadbalancer`` is a `LoadBalancerLike`. Each may also be given as a function or class that makes it, or as a
    context manager, plain or async, that is entered and left with the proxy. With ``credentials`` it speaks TLS, and
    uses the workers that do; without, those that do not. Left out, they are those of the `RuntimeContext`.

    Use it as an async context manager. Leaving it ends the sessions: calls under way in other tasks end as
    `WorkerLost`, so gather them first. Raises `ValueError` or `TypeError` for arguments that do not fit, the latter
    when it is entered, if what they make does not.
    """

    def __init__(
        self,
        *,
        discovery: SubscriberArgument | None = None,
        workers: Sequence[WorkerMetadata] | None = None,
        loadbalancer: LoadBalancerArgument = RoundRobinLoadBalancer,
        credentials: CredentialsArgument | None = None,
    ) -> None:
        super().__init__()
        self._credentials = as_provider(credentials_in_force() if credentials is None else credentials)
        if (discovery is None) == (workers is None):
            raise ValueError("WorkerProxy takes either discovery= or workers=, and exactly one of them")
        if discovery is not None:
            SUBSCRIBER.check(discovery)
        self._discovery = discovery
        self._balancer = loadbalancer
        self._workers = _checked_workers(workers)
        self._stack = AsyncExitStack()
        self._runtime = current_runtime()

    async def __aenter__(self) -> Self:
        self._begin()
        stack, given = self._stack, self._discovery
        try:
            balancer = await LOAD_BALANCER.entered(LOAD_BALANCER.made(self._balancer), stack)
            subscriber = None if given is None else await SUBSCRIBER.entered(SUBSCRIBER.made(given), stack)
            spec = ProxySpec(
                balancer=self._balancer,
                subscriber=subscriber,
                workers=self._workers,
                what="the given workers" if subscriber is None else "the discovery",
            )
            provider = self._credentials
            secret = self._runtime.user_key() if provider is None else secret_of(provider)
            self.open_dispatcher = await Dispatcher.open(
                spec,
                runtime=self._runtime,
                secret=secret,
                credentials=provider,
                balancer=balancer,
                tally=self._tally,
            )
        except BaseException:
            await stack.aclose()
            raise
        self._enter()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._leave()
        dispatcher, self.open_dispatcher = self.open_dispatcher, None
        if dispatcher is not None:
            try:
                await dispatcher.close("the proxy was closed")
            finally:
                if not self._runtime.forked:  # then it is the parent's
                    await self._stack.aclose()

    def __repr__(self) -> str:
        return f"<WorkerProxy {'open' if self.open_dispatcher is not None else 'closed'}>"


class WorkerPool(_Entered):
    """Runs routines on worker processes: on those that it starts, on those that a discovery finds, or on both.

    ===================================  ==================================================================
    ``WorkerPool()``                     starts a worker per CPU that this process may use
    ``WorkerPool(size=n)``               starts n
    ``WorkerPool(discovery=d)``          starts none, and uses those that ``d`` finds
    ``WorkerPool(size=n, discovery=d)``  starts n, publishes them through ``d``, and uses all that ``d`` finds
    ===================================  ==================================================================

    ``tags`` mark the workers that it starts; of those that are found, it uses those that have all of them.
    ``size`` is how many it starts, and never caps the total. ``lease`` caps how many of the workers that others
    started are used at a time: those that discovery named first, each until it is withdrawn, drains, refuses for good
    or stays unreachable; then the next one has its place. ``discovery`` is a `DiscoveryLike`, ``loadbalancer`` a
    `LoadBalancerLike`. Each may also be given as a function or class that makes it, or as a context manager, plain or
    async, that is entered and left with the pool; so one that is entered already must bear to be entered again.
    ``host`` is where workers that are published listen: by default on Unix sockets, which reach as far as this
    machine; with ``"127.0.0.1"`` on free ports of loopback TCP, and with ``credentials`` at any address of this host.
    ``credentials``, `WorkerCredentials` or a function that returns them, are for workers that speak TLS, and only those
    are used then; without, those that do not. Left out where a discovery is given, they are those of the
    `RuntimeContext`. With ``allow_insecure`` the workers that it starts may listen beyond loopback without, or with
    one-way ones; see `LocalWorker`. With ``loop="uvloop"`` bodies on the workers that it starts run on uvloop (extra
    ``wool[uvloop]``). ``max_concurrency`` is how many bodies are at work at a time on each of them, of those that do
    not await a nested call; by default as many as are called. ``admission`` is asked, on the worker, whether it takes a
    task that it is offered: see `TaskOffer`.

    A worker that the pool starts is replaced when ``max_tasks_per_worker`` tasks were started on it, or when it holds
    ``memory_limit`` bytes of resident memory. Its successor is started and announced first, and the old one ends with
    the last task that it has: no call fails. Until then it takes tasks, so that neither is a cap. One is replaced at a
    time.

    Use it as an async context manager: entering returns when every worker that it starts is ready, leaving when every
    one is gone. Those that others find too are withdrawn first; what they run is interrupted, whoever called it. A
    pool is opened once, belongs to the process that opened it, and is current for the tasks that are started inside
    its block, and for the bodies of routines, on whatever worker. Calls still under way in other tasks when the block
    is left end as `TaskInterrupted` on the workers that it started, and as `WorkerLost` on others.

    A worker that the pool starts has the program's working directory, environment, import path and `sys.argv`. What
    bodies register with `atexit` runs when it ends, within ``stop_seconds``, unless it has to be killed.

    Where nobody is found yet, a call waits for the first worker, as long as ``dispatch_timeout`` lets it. Then
    `DispatchTimeout` says what was waited for, and who was seen and not used.

    Raises `ValueError` or `TypeError` for arguments that do not fit. Entering raises `TypeError`, if what they make
    does not; `WorkerStartError`, with the worker's own output, if one fails to start or takes longer than
    ``worker_start_seconds``; what the discovery raises, if one cannot be published, or `TimeoutError` if that takes
    longer than ``publish_seconds``. Then none is left. Cancelling the entry leaves nothing; cancelling the exit
    kills what is left.
    """

    def __init__(
        self,
        *tags: str,
        size: int | None = None,
        discovery: DiscoveryArgument | None = None,
        loadbalancer: LoadBalancerArgument = RoundRobinLoadBalancer,
        lease: int | None = None,
        host: str | None = None,
        credentials: CredentialsArgument | None = None,
        allow_insecure: bool = False,
        loop: LoopKind = "asyncio",
        max_tasks_per_worker: int | None = None,
        memory_limit: int | None = None,
        max_concurrency: int | None = None,
        admission: AdmissionHook | None = None,
    ) -> None:
        super().__init__()
        self.tags: frozenset[str] = check_tags(tags)
        self._retirement = Retirement(max_tasks=max_tasks_per_worker, memory_limit=memory_limit)
        self.size: int = 0 if discovery is not None and size is None else _checked_size(size)
        self.lease: int | None = _checked_lease(lease)
        if discovery is None and lease is not None:
            raise ValueError(f"lease={lease} caps the workers that a discovery finds: give discovery= too")
        if host is not None and (discovery is None or not self.size):
            raise ValueError(f"host={host!r} is for workers that are published: give size= and discovery= too")
        if self._retirement and not self.size:
            raise ValueError(
                "max_tasks_per_worker= and memory_limit= are for workers that the pool starts: give size= too"
            )
        if discovery is not None:
            DISCOVERY.check(discovery)
        if credentials is not None and discovery is None:
            raise ValueError("credentials= are for workers that others can reach: give discovery= too")
        if credentials is None and discovery is not None:
            credentials = credentials_in_force()
        self._credentials = credentials
        self._provider = as_provider(credentials)
        self._bind = None
        if self.size and discovery is not None:
            self._bind = address_to_bind(
                host, 0, credentials=credentials, who="WorkerPool", allow_insecure=allow_insecure
            )
        self._allow_insecure = allow_insecure
        self._loop_kind: LoopKind = check_loop(loop)
        self._most_at_work: int | None = check_max_concurrency(max_concurrency)
        if max_concurrency is not None and not self.size:
            raise ValueError(
                f"max_concurrency={max_concurrency} is for the workers that a pool starts: give size= too, or say it "
                "where the workers are started"
            )
        self._admission: AdmissionHook | None = check_admission(admission)
        if admission is not None and not self.size:
            raise ValueError(
                "admission= is for the workers that a pool starts: give size= too, or say it where the workers are "
                "started"
            )
        self._given = discovery
        self._balancer = loadbalancer
        self._runtime: Runtime = current_runtime()
        self._stack = AsyncExitStack()
        self._io: MailboxLike | None = None
        self._home: Home | None = None
        self._crew: Crew | None = None

    @property
    def workers(self) -> tuple[WorkerMetadata, ...]:
        """The workers that this pool started and that have not ended."""
        return () if self._crew is None else tuple(self._crew.workers.values())

    async def __aenter__(self) -> Self:
        self._begin()
        runtime = self._runtime
        runtime.check_process()
        try:
            # It may fail: before anything is started.
            balancer = await LOAD_BALANCER.entered(LOAD_BALANCER.made(self._balancer), self._stack)
            await self._open(balancer)
        except BaseException:
            await self._close("the pool was not opened")
            raise
        self._enter()
        return self

    async def _open(self, balancer: LoadBalancerLike) -> None:
        runtime, given = self._runtime, self._given
        discovery = None if given is None else await DISCOVERY.entered(DISCOVERY.made(given), self._stack)
        if discovery is not None and self.size and isinstance(discovery.publisher, NoPublisher):
            raise RuntimeError(
                f"{discovery!r:.200} cannot publish the workers that it would start: {discovery.publisher.why}; "
                "leave size= out"
            )
        self._io = runtime.mailbox(runtime.io.acquire())
        if self._provider is not None:
            secret = secret_of(self._provider)
        else:
            secret = runtime.random_bytes(SECRET_BYTES) if discovery is None else runtime.user_key()
        if discovery is None or self.size:
            self._home = runtime.home()
        if discovery is None:
            assert self._home is not None
            found, what, terms = self._home.discovery, f"this pool of {self.size}", Terms()
        else:
            found, what = discovery, _in_words(discovery, self.tags)
            terms = Terms(tags=self.tags, lease=self.lease)
        specs = self._specs(secret)
        own = frozenset(family_of(spec.uid or "") for spec in specs)
        if discovery is not None:
            terms = Terms(tags=self.tags, lease=self.lease, own=own)
        subscriber = found.subscriber
        if specs:
            await self._start(specs, found, on_io=lives_on_io_loop(subscriber), shared=discovery is not None)
        spec = ProxySpec(balancer=self._balancer, subscriber=subscriber, discovery=given, terms=terms, what=what)
        dispatcher = await Dispatcher.open(
            spec,
            runtime=runtime,
            secret=secret,
            credentials=self._provider,
            balancer=balancer,
            own=own,
            tally=self._tally,
        )
        self.open_dispatcher = dispatcher
        for metadata in self.workers:
            dispatcher.announce(metadata)

    def _specs(self, secret: bytes) -> list[WorkerSpec]:
        specs: list[WorkerSpec] = []
        admission = dump_admission(self._admission)
        credentials = for_worker(self._credentials) if self.size else None
        if self._bind is not None:
            check_mutual(self._bind, credentials, who="WorkerPool", allow_insecure=self._allow_insecure)
        for _ in range(self.size):
            uid, limits = self._runtime.new_uid(), self._runtime.limits
            assert self._home is not None
            address = self._bind or self._home.address(uid)
            specs.append(
                WorkerSpec(
                    address=address,
                    secret=secret or None,
                    uid=uid,
                    tags=self.tags,
                    limits=limits,
                    credentials=credentials,
                    provider=asked_again(self._credentials),
                    loop=self._loop_kind,
                    retirement=self._retirement,
                    max_concurrency=self._most_at_work,
                    admission=admission,
                )
            )
        return specs

    def _successor(self, spec: WorkerSpec) -> WorkerSpec:
        assert self._home is not None and spec.uid is not None
        uid = successor_of(spec.uid, self._runtime.new_uid())
        return dataclasses.replace(spec, uid=uid, address=self._bind or self._home.address(uid))

    async def _start(self, specs: list[WorkerSpec], found: DiscoveryLike, *, on_io: bool, shared: bool) -> None:
        assert self._io is not None
        crew = self._crew = Crew(
            runtime=self._runtime,
            io=self._io,
            publisher=found.publisher,
            on_io=on_io,
            shared=shared,
            departed=self._departed,
            arrived=self._arrived,
            successor=self._successor,
        )
        starting = asyncio.create_task(crew.start(specs), name="wool starting a pool")
        try:
            await asyncio.sleep(0)  # The start is under way on the I/O loop;
            self._runtime.prepare()  # meanwhile this thread imports what the first connection needs.
        except BaseException:
            starting.cancel()
            await asyncio.gather(starting, return_exceptions=True)
            raise
        await starting

    def _departed(self, uid: str, reason: RpcError) -> None:
        if self.open_dispatcher is not None:
            self.open_dispatcher.departed(uid, reason)

    def _arrived(self, metadata: WorkerMetadata) -> None:
        if self.open_dispatcher is not None:
            self.open_dispatcher.announce(metadata)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._leave()
        await self._close("the pool was closed")

    async def _close(self, why: str) -> None:
        """Refuse new calls, withdraw and stop the workers, end the sessions, remove the home, leave what was given."""
        if self._runtime.forked:
            self._io = self.open_dispatcher = None  # it is the parent's, all of it
            return
        dispatcher, crew, home, io = self.open_dispatcher, self._crew, self._home, self._io
        self.open_dispatcher = None
        try:
            if dispatcher is not None:
                dispatcher.stop_placing(why)
            if crew is not None:
                await crew.stop()
        finally:
            try:
                if dispatcher is not None:
                    await dispatcher.close(why)
            finally:
                self._io = self._crew = self._home = None
                try:
                    if home is not None:
                        home.close()
                    if io is not None:
                        await self._runtime.io.release()
                finally:
                    await self._stack.aclose()

    def __repr__(self) -> str:
        kind = f"of {self.size}" if self._given is None else f"of {self.size} and those that are found"
        return f"<WorkerPool {kind} {'open' if self.open_dispatcher is not None else 'closed'}>"


def _in_words(discovery: DiscoveryLike, tags: frozenset[str]) -> str:
    wanted = f" with the tags {', '.join(sorted(tags))}" if tags else ""
    return f"{discovery!r:.200}{wanted}"


def _checked_lease(lease: object) -> int | None:
    if lease is None:
        return None
    if not isinstance(lease, int) or isinstance(lease, bool):
        raise TypeError(f"lease must be a number of workers, got {lease!r:.100}")
    if lease < 1:
        raise ValueError(f"lease must be at least 1, got {lease}: leave it out for as many as are found")
    return lease


def _checked_size(size: object) -> int:
    if size is None:
        # Those that this process may use, where the system tells: a container or a batch job often has fewer.
        return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if not isinstance(size, int) or isinstance(size, bool):
        raise TypeError(f"size must be a number of workers, got {size!r}")
    if size < 1:
        raise ValueError(f"size must be at least 1, got {size}: leave it out for one worker per CPU")
    return size


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
