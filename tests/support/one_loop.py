"""A whole cluster in one event loop: the production engine over `MemoryTransport`, without threads.

Proxies, worker services and runners are the real ones; what is made here are the seams that the engine
takes from outside: mailboxes, the network, randomness. Bodies live in `support.bodies`.
"""

from __future__ import annotations

import asyncio
import functools
import random
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from types import FunctionType
from typing import Any

import pytest

from wool.admission import EVERYBODY, Terms
from wool.balancer import LoadBalancerLike, RoundRobinLoadBalancer
from wool.call import Answer, Call
from wool.connection import Connection
from wool.definition import define
from wool.discovery.base import DiscoveryEvent, DiscoverySubscriberLike, Sought, WorkerMetadata
from wool.failure import rebuild
from wool.limits import Limits
from wool.link import Link
from wool.protocol.flow import Inbox, Outbox
from wool.protocol.frames import ResultKind, StepKind
from wool.protocol.handshake import WorkerWords
from wool.proxy import Proxy
from wool.serialization import Payload, dumps, loads
from wool.session import Session
from wool.task import Task
from wool.transport.memory import MemoryNetwork, MemoryTransport
from wool.worker.admission import Admission, let_in
from wool.worker.door import Door
from wool.worker.examiner import AdmissionHook, Examiner
from wool.worker.job import PostedRunner
from wool.worker.ledger import Vitals
from wool.worker.runner import Runner
from wool.worker.seats import Desk
from wool.worker.service import CallerSession, WorkerService

SECRET = b"known to caller and worker"
MEMORY_BYTES = 123_456_789
"""What each worker says that it holds."""

QUICK = Limits(
    patience_seconds=0.05,
    cancel_grace_seconds=0.2,
    handshake_seconds=0.5,
    close_seconds=0.2,
    reconnect_first_seconds=0.02,
    reconnect_most_seconds=0.08,
    dispatch_timeout_seconds=5.0,
    stop_seconds=0.5,
)
"""Waits short enough for a test, long enough for two busy cores."""


class LoopMailbox:
    """A mailbox whose both sides are one loop: in order, never here, and held back while a test says so."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._queue: deque[tuple[Callable[..., object], tuple[Any, ...]]] = deque()
        self._scheduled = False
        self.held = False

    def post(self, callback: Callable[..., object], *args: Any) -> None:
        """Run ``callback(*args)`` on the loop, soon."""
        self._queue.append((callback, args))
        self._schedule()

    def batched(self, loop: asyncio.AbstractEventLoop, crowd: Callable[[], int] = lambda: 0) -> LoopMailbox:
        """Return itself: nothing is gained by waking one's own loop less often."""
        assert loop is self._loop, "a mailbox of one loop is posted to from that loop"
        return self

    def hold(self) -> None:
        """Deliver nothing until `release`: the other side is busy."""
        self.held = True

    def release(self) -> None:
        """Deliver again, first what was held."""
        self.held = False
        self._schedule()

    def __len__(self) -> int:
        return len(self._queue)

    def _schedule(self) -> None:
        if self._queue and not self.held and not self._scheduled:
            self._scheduled = True
            self._loop.call_soon(self._deliver)

    def _deliver(self) -> None:
        self._scheduled = False
        try:
            for _ in range(len(self._queue)):
                if self.held:
                    return
                callback, args = self._queue.popleft()
                callback(*args)
        finally:
            self._schedule()


class NoNestedPools:
    """Bodies that make no calls of their own. Counts the sessions, which must come out even."""

    def __init__(self) -> None:
        self.sessions = 0

    def enter(self, description: bytes) -> None: ...

    def opened(self, description: bytes) -> None:
        self.sessions += 1

    def closed(self, description: bytes) -> None:
        self.sessions -= 1


class Worker:
    """One worker: a service and a runner, joined by two mailboxes of the same loop."""

    def __init__(
        self,
        network: MemoryNetwork,
        uid: str,
        limits: Limits,
        secret: bytes = SECRET,
        address: str = "",
        places: int | None = None,
        admission: AdmissionHook | None = None,
    ) -> None:
        loop = asyncio.get_running_loop()
        self.uid = uid
        self.address = address or f"unix:/{uid}"
        self.limits = limits
        self.to_io = LoopMailbox(loop)
        self.to_routines = LoopMailbox(loop)
        self.pools = NoNestedPools()
        self.door = None if places is None else Door(places)
        self.desk: Desk | None = None
        if self.door is not None and places is not None:
            changed = self.door.changed
            self.desk = Desk(
                places,
                loop=loop,
                routines=self.to_routines,
                mailbox=LoopMailbox,
                tell=lambda fresh, used: self.to_io.post(changed, fresh, used),
            )
        self.runner = Runner(
            loop=loop,
            io=self.to_io,
            pools=self.pools,
            worker=uid,
            limits=limits,
            host="here",
            pid=1,
            desk=self.desk,
        )
        self.service = WorkerService(
            transport=MemoryTransport(network, limits),
            runner=PostedRunner(self.runner, self.to_routines),
            secret=secret,
            limits=limits,
            random_bytes=random.Random(uid).randbytes,
            vitals=Vitals(lambda: MEMORY_BYTES, self.runner.lag.worst_seconds),
            door=self.door,
            admission=self._admission(admission),
        )
        self.metadata: WorkerMetadata

    def _admission(self, hook: AdmissionHook | None) -> Admission | None:
        if hook is None:
            return None
        examiner = Examiner(hook, loop=asyncio.get_running_loop(), io=self.to_io)
        onward = let_in if self.door is None else self.door.arrive

        def complain(message: str, *words: object) -> None:
            self.service.refusals.say(message, *words)

        return examiner.admission(self.to_routines, onward=onward, complain=complain)

    async def listen(self) -> WorkerMetadata:
        self.metadata = await self.service.listen(self.address, lambda address: metadata_of(self.uid, address))
        return self.metadata

    @property
    def sessions(self) -> list[CallerSession]:
        return list(self.service._sessions)


def of_another_python(patch: pytest.MonkeyPatch) -> None:
    """Let workers say that they run Python 2.7: nobody uses them, for good."""
    patch.setattr("wool.worker.service.WorkerWords", functools.partial(WorkerWords, python="2.7"))


def metadata_of(uid: str, address: str, *tags: str) -> WorkerMetadata:
    return WorkerMetadata(uid=uid, address=address, pid=1, version="1", tags=frozenset(tags), extra={})


class Cluster:
    """Workers by name, and one caller."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.network = MemoryNetwork()
        self.loop = asyncio.get_running_loop()
        self.io = LoopMailbox(self.loop)
        self.user = LoopMailbox(self.loop)
        self.workers: dict[str, Worker] = {}
        self.proxies: list[Proxy] = []
        self.proxy: Proxy
        self._random = random.Random("caller")
        self._spawned: list[asyncio.Task[Any]] = []

    def open_proxy(
        self,
        *,
        balancer: LoadBalancerLike | None = None,
        limits: Limits | None = None,
        secret: bytes = SECRET,
        transport: Any = None,
        terms: Terms = EVERYBODY,
        subscriber: DiscoverySubscriberLike | None = None,
    ) -> Proxy:
        limits = limits or self.limits
        proxy = Proxy(
            transport=transport or MemoryTransport(self.network, limits),
            balancer=balancer or RoundRobinLoadBalancer(randrange=lambda bound: 0),
            secret=secret,
            caller_uid="the caller",
            pool=b"pool",
            limits=limits,
            random_bytes=self._random.randbytes,
            what=Sought(words="the cluster", subscriber=subscriber),
            terms=terms,
        )
        self.proxies.append(proxy)
        return proxy

    async def add(
        self,
        uid: str,
        *,
        limits: Limits | None = None,
        announce: bool = True,
        places: int | None = None,
        admission: AdmissionHook | None = None,
    ) -> Worker:
        """Start a worker, and tell the caller of it."""
        worker = Worker(self.network, uid, limits or self.limits, places=places, admission=admission)
        self.workers[uid] = worker
        await worker.listen()
        if announce:
            self.announce(uid)
        return worker

    def announce(self, uid: str, address: str = "") -> None:
        self.proxy.discovered(DiscoveryEvent("worker-added", metadata_of(uid, address or f"unix:/{uid}")))

    def drop(self, uid: str) -> None:
        self.proxy.discovered(DiscoveryEvent("worker-dropped", metadata_of(uid, f"unix:/{uid}")))

    def link(self, uid: str) -> Link:
        return self.proxy._links[uid]

    def new_call(
        self,
        function: Callable[..., Any],
        *args: Any,
        dispatch_timeout: float | None = None,
        generator: bool = False,
        proxy: Proxy | None = None,
    ) -> Call:
        """Return a call that has not been dispatched; `first` does that."""
        assert isinstance(function, FunctionType)
        definition = define(function)
        task = Task(
            key=self._random.randbytes(16),
            routine=definition.name,
            kind="generator" if generator else "coroutine",
            caller="the caller",
        )
        if dispatch_timeout is None:
            dispatch_timeout = self.limits.dispatch_timeout_seconds
        payload = dumps((args, {}))
        return Call(proxy or self.proxy, self.io, self.loop, task, definition, payload, dispatch_timeout, self.user)

    async def call(self, function: Callable[..., Any], *args: Any, **options: Any) -> Any:
        """Call a routine and return what came of it, as its wrapper would."""
        return value_of(await self.new_call(function, *args, **options).first())

    def spawn(self, function: Callable[..., Any], *args: Any, **options: Any) -> asyncio.Task[Any]:
        """Call a routine in a task of its own, which ends with the cluster."""
        task = self.loop.create_task(self.call(function, *args, **options), name=f"call of {function.__name__}")
        self._spawned.append(task)
        task.add_done_callback(self._spawned.remove)
        return task

    def stream(self, function: Callable[..., Any], *args: Any, **options: Any) -> RemoteGenerator:
        return RemoteGenerator(self.new_call(function, *args, generator=True, **options))

    async def settle(self, turns: int = 50) -> None:
        """Let everything run that can run now."""
        for _ in range(turns):
            await asyncio.sleep(0)

    async def close(self) -> None:
        for proxy in self.proxies:
            await proxy.close("the test is over")
        await asyncio.gather(*self._spawned, return_exceptions=True)
        for worker in self.workers.values():
            await worker.service.close()
        await self.settle()


class RemoteGenerator:
    """Steps of a generator, without what the routine's wrapper adds."""

    def __init__(self, call: Call) -> None:
        self.call = call
        self._begun = False

    async def step(self, kind: StepKind = StepKind.NEXT, payload: Payload | None = None) -> Answer:
        if not self._begun:
            self._begun = True
            return await self.call.first()
        return await self.call.step(kind, payload)

    async def next(self) -> Any:
        return value_of(await self.step())

    async def send(self, value: object) -> Any:
        return value_of(await self.step(StepKind.SEND, dumps(value)))

    async def close(self) -> Answer:
        return await self.step(StepKind.CLOSE)


def value_of(answer: Answer) -> Any:
    """Return the value that an answer carries, or raise the exception."""
    if answer.kind is None:
        assert answer.error is not None
        raise answer.error
    assert answer.payload is not None
    if answer.kind in (ResultKind.RETURN, ResultKind.YIELD):
        return loads(answer.payload) if answer.payload.size else None
    if answer.kind is ResultKind.CANCELLED:
        raise asyncio.CancelledError
    raise rebuild(answer.payload)


@asynccontextmanager
async def cluster(
    *uids: str,
    limits: Limits = QUICK,
    balancer: LoadBalancerLike | None = None,
    terms: Terms = EVERYBODY,
    subscriber: DiscoverySubscriberLike | None = None,
) -> AsyncIterator[Cluster]:
    """A cluster of announced workers; closed, and found empty, at the end."""
    made = Cluster(limits)
    made.proxy = made.open_proxy(balancer=balancer, terms=terms, subscriber=subscriber)
    try:
        for uid in uids:
            await made.add(uid)
        yield made
    finally:
        made.io.release()
        made.user.release()
        for worker in made.workers.values():
            worker.to_io.release()
            worker.to_routines.release()
        await made.close()
    for worker in made.workers.values():
        assert worker.pools.sessions == 0, "a session was opened and never closed"
        assert not worker.service._sessions


async def until(condition: Callable[[], object], what: str = "", seconds: float = 5.0) -> None:
    """Wait until ``condition`` holds; fail if it does not in time."""
    loop = asyncio.get_running_loop()
    end = loop.time() + seconds
    while not condition():
        assert loop.time() < end, f"not within {seconds} s: {what or condition}"
        await asyncio.sleep(0.001)


def sizes(owner: object) -> dict[str, int]:
    """Return the length of every container that ``owner`` holds itself."""
    slots = [name for kind in type(owner).__mro__ for name in getattr(kind, "__slots__", ())]
    names = [*getattr(owner, "__dict__", {}), *slots]
    found: dict[str, int] = {}
    for name in names:
        value = getattr(owner, name, None)
        if hasattr(value, "__len__") and not isinstance(value, (str, bytes, tuple)):
            found[f"{type(owner).__name__}.{name}"] = len(value)
    return found


def all_sizes(owners: Sequence[object]) -> dict[str, int]:
    """Return the lengths of the containers of all ``owners``, summed up by class and name."""
    total: dict[str, int] = {}
    for owner in owners:
        for name, size in sizes(owner).items():
            total[name] = total.get(name, 0) + size
    return total


def holders(made: Cluster) -> list[object]:
    """Everything of a cluster that keeps books."""
    proxy = made.proxy
    found: list[object] = [made.io, made.user, proxy, proxy._view, proxy._patience, proxy._grace, proxy._dispatch]
    found += proxy._dispatch.lengths.values()
    sessions: list[Session] = []
    for link in proxy._links.values():
        found.append(link)
        if isinstance(link.connection, Connection):
            found.append(link.connection)
            sessions.append(link.connection.session)
    for worker in made.workers.values():
        found += [worker.runner, worker.service, worker.to_io, worker.to_routines, *worker.sessions]
        sessions += [served.session for served in worker.sessions]
    for session in sessions:
        assert isinstance(session.outbox, Outbox)
        assert isinstance(session.inbox, Inbox)
        found += [session, session.outbox, session.inbox]
    return found
