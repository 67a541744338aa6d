"""How a body's own calls find the caller's pool: opened on the first nested call, kept while it is used.

One entry per pool description, shared by all sessions that brought it.
"""

from __future__ import annotations

import asyncio
import dataclasses
import functools
import logging
from contextlib import AsyncExitStack
from dataclasses import dataclass

from wool.bridge import MailboxLike, run_on
from wool.credentials import CredentialsProvider
from wool.discovery.base import lives_on_io_loop
from wool.dispatch import Dispatcher, ProxySpec, enter_source, load_description
from wool.runtime import Runtime
from wool.supplied import DISCOVERY, LOAD_BALANCER, is_manager

_log = logging.getLogger("wool.worker")


@dataclass(frozen=True, slots=True)
class _Plan:
    """A pool's description, and what its factories have made here."""

    spec: ProxySpec
    balancer: object
    discovery: object | None
    """To be entered for a subscriber, where none could travel."""

    @classmethod
    def of(cls, spec: ProxySpec) -> _Plan:
        discovery = None if spec.discovery is None else DISCOVERY.made(spec.discovery)
        return cls(spec, LOAD_BALANCER.made(spec.balancer), discovery)

    @property
    def is_the_users(self) -> bool:
        """Whether code of the user's is to be run that waits, and may block."""
        subscriber = self.spec.subscriber
        if self.discovery is not None or is_manager(self.balancer):
            return True
        return subscriber is not None and not lives_on_io_loop(subscriber)


@dataclass(frozen=True, slots=True)
class _Opened:
    """A pool that is open on this worker, and what was entered for it."""

    dispatcher: Dispatcher
    stack: AsyncExitStack

    async def close(self, why: str) -> None:
        try:
            await self.dispatcher.close(why)
        finally:
            await self.stack.aclose()


class NestedPool:
    """A caller's pool, as the bodies on this worker see it, whatever loops they make their calls on.

    It is opened and closed on one loop, its home: the I/O loop, for a body may keep its own waiting; or the routine
    loop, where a discovery of the user's own has to be followed, and what is a context manager has to be entered.

    One that nobody uses is closed after a while, and opened anew by the next call. Else two workers whose bodies have
    called each other would hold each other's pools open by their sessions for ever, with the caller long gone. It is
    taken out of the bodies' sight first, and closed at the next look, so that no call meets a closed one.
    """

    outer = None
    is_left = False

    def __init__(
        self,
        description: bytes,
        runtime: Runtime,
        secret: bytes,
        credentials: CredentialsProvider | None,
        io: MailboxLike,
        routines: MailboxLike,
    ) -> None:
        self._description = description
        self._runtime = runtime
        self._secret = secret
        self._credentials = credentials
        self._io = io
        self._routines = routines
        self._plan: _Plan | None = None
        self._home: MailboxLike | None = None
        self._opened: _Opened | None = None
        self._opening: asyncio.Task[Dispatcher] | None = None
        self._look: asyncio.TimerHandle | None = None
        self._closing: set[asyncio.Task[None]] = set()
        self.open_dispatcher: Dispatcher | None = None
        self.sessions = 0

    async def dispatcher(self) -> Dispatcher:
        """Return the dispatcher, opening it with the first nested call."""
        plan = self._plan
        if plan is None:
            # Here, where the call is made, and not on the I/O loop: it runs code of the user's.
            plan = self._plan = _Plan.of(load_description(self._description))
        home = self._home = self._routines if plan.is_the_users else self._io
        here = self._runtime.mailbox(asyncio.get_running_loop())
        return await run_on(home, here, functools.partial(self._ready, plan), "wool waiting for a nested pool")

    # ---- at home ----

    async def _ready(self, plan: _Plan) -> Dispatcher:
        if self._opened is not None:
            self.open_dispatcher = self._opened.dispatcher
            return self._opened.dispatcher
        if self._opening is None or self._opening.done():
            # A task of its own: the call that comes first may be cancelled, the others want it still.
            self._opening = asyncio.get_running_loop().create_task(self._open(plan), name="wool opening a nested pool")
        return await asyncio.shield(self._opening)

    async def _open(self, plan: _Plan) -> Dispatcher:
        spec, stack = plan.spec, AsyncExitStack()
        try:
            balancer = await LOAD_BALANCER.entered(plan.balancer, stack)
            if plan.discovery is not None:
                discovery = await DISCOVERY.entered(plan.discovery, stack)
                spec = dataclasses.replace(spec, subscriber=discovery.subscriber)
            dispatcher = await Dispatcher.open(
                spec,
                runtime=self._runtime,
                secret=self._secret,
                credentials=self._credentials,
                balancer=balancer,
                # As it came: pickled anew it may be other bytes, and be taken for another pool.
                description=self._description,
            )
        except BaseException:
            self._plan = None  # the next one to need it makes everything anew
            await stack.aclose()
            raise
        self._opened = _Opened(dispatcher, stack)
        self.open_dispatcher = dispatcher
        self._look_later(self._opened)
        return dispatcher

    def _look_later(self, opened: _Opened) -> None:
        seconds, loop = self._runtime.limits.nested_idle_seconds, asyncio.get_running_loop()
        self._look = loop.call_later(seconds, self._see_whether_used, opened, opened.dispatcher.calls)

    def _see_whether_used(self, opened: _Opened, calls: int) -> None:
        self._look = None
        dispatcher = opened.dispatcher
        if dispatcher.calls != calls or not dispatcher.is_idle:
            self.open_dispatcher = dispatcher
        elif self.open_dispatcher is not None:
            self.open_dispatcher = None  # who has seen it just now may still use it, until the next look
        else:
            self._opened = self._plan = None
            work = opened.close("no body has used it for a while")
            task = asyncio.get_running_loop().create_task(work, name="wool closing an idle nested pool")
            self._closing.add(task)
            task.add_done_callback(self._closed)
            return
        self._look_later(opened)

    def _closed(self, task: asyncio.Task[None]) -> None:
        self._closing.discard(task)
        _tell_failure(task)

    async def _close(self) -> None:
        if self._opening is not None:
            await asyncio.wait([self._opening])
        if self._look is not None:
            self._look.cancel()
        opened, self._opened, self.open_dispatcher = self._opened, None, None
        if self._closing:
            await asyncio.wait(self._closing)
        if opened is not None:
            await opened.close("the caller's session has ended")

    # ---- on the routine loop ----

    async def close(self) -> None:
        """Close it, if it was opened; idempotent."""
        if self._home is not None:
            await run_on(self._home, self._routines, self._close, "wool closing a nested pool")


def _tell_failure(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        _log.error("a nested pool was not closed cleanly", exc_info=error)


class Nested:
    """The pools of all callers that are connected to this worker. Lives on the routine loop."""

    def __init__(
        self,
        runtime: Runtime,
        secret: bytes,
        credentials: CredentialsProvider | None,
        io: MailboxLike,
        routines: MailboxLike,
    ) -> None:
        self._runtime = runtime
        self._secret = secret
        self._credentials = credentials
        self._io = io
        self._routines = routines
        self._pools: dict[bytes, NestedPool] = {}
        self._closing: set[asyncio.Task[None]] = set()

    def enter(self, description: bytes) -> None:
        """Make the pool current in this context, which is a body's."""
        enter_source(self._pool(description))

    def _pool(self, description: bytes) -> NestedPool:
        pool = self._pools.get(description)
        if pool is None:
            # The session has just ended, or never said so: the body runs, but is soon cancelled.
            pool = NestedPool(description, self._runtime, self._secret, self._credentials, self._io, self._routines)
            self._pools[description] = pool
        return pool

    def opened(self, description: bytes) -> None:
        """A session brought this pool."""
        self._pool(description).sessions += 1

    def closed(self, description: bytes) -> None:
        """The session has ended; with the last one, the pool is closed."""
        pool = self._pools.get(description)
        if pool is None:
            return
        pool.sessions -= 1
        if pool.sessions <= 0:
            del self._pools[description]
            self._begin_to_close(pool)

    def _begin_to_close(self, pool: NestedPool) -> None:
        task = asyncio.get_running_loop().create_task(pool.close(), name="wool closing a nested pool")
        self._closing.add(task)
        task.add_done_callback(self._closed)

    def _closed(self, task: asyncio.Task[None]) -> None:
        self._closing.discard(task)
        _tell_failure(task)

    async def close(self) -> None:
        """Close them all. What goes wrong is logged: it is the fault of a caller, not of this worker."""
        for pool in self._pools.values():
            self._begin_to_close(pool)
        self._pools.clear()
        if self._closing:
            await asyncio.wait(self._closing)
