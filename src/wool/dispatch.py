"""A pool as routines see it: the user's side of a proxy, and the pool that is current in a context.

A `Dispatcher` belongs to the process that opened it and may be used from any of its event loops. It
keeps the proxy on the I/O loop supplied with what discovery says, wherever that discovery lives.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import logging
import weakref
from collections.abc import Awaitable, Callable, Generator, Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from types import FunctionType
from typing import TYPE_CHECKING, Any, Protocol

from wool.admission import EVERYBODY, Terms
from wool.balancer import LoadBalancerLike
from wool.bridge import IoLoopDied, MailboxLike, forget_mourner, mourn, run_on
from wool.call import Call
from wool.context import dispatch_timeout_seconds
from wool.credentials import CredentialsProvider
from wool.definition import define, unpicklable_part
from wool.discovery.base import DiscoveryEvent, DiscoverySubscriberLike, Sought, WorkerMetadata, lives_on_io_loop
from wool.errors import RpcError
from wool.events import CallEvents
from wool.lending import LentCall, current_lender
from wool.runtime import Runtime
from wool.serialization import Payload, culprit, dumps, loads
from wool.supplied import DiscoveryArgument, LoadBalancerArgument
from wool.tally import Tally
from wool.task import RoutineKind, Task, current_task
from wool.tracing import CallTold, TracedCall
from wool.variables import ContextFault, held, pack

if TYPE_CHECKING:
    from wool.proxy import Proxy

_log = logging.getLogger("wool.proxy")


@dataclass(frozen=True, kw_only=True)
class ProxySpec:
    """What a proxy is made from, and what travels so that nested calls find the same workers.

    It holds no secret: a worker uses its own.
    """

    balancer: LoadBalancerArgument
    """As it was given: who opens a proxy makes and enters one."""
    subscriber: DiscoverySubscriberLike | None = None
    discovery: DiscoveryArgument | None = None
    """As it was given: travels instead of a subscriber that cannot be pickled, and is opened where it arrives."""
    workers: tuple[WorkerMetadata, ...] = ()
    terms: Terms = EVERYBODY
    what: str = "this pool"

    def describe(self) -> bytes:
        """Return what a worker needs to know; the reason why not, if this cannot be pickled."""
        forms = [dataclasses.replace(self, discovery=None)]
        if self.discovery is not None:
            forms.append(dataclasses.replace(self, subscriber=None))
        errors: list[str] = []
        for form in forms:
            try:
                return _one_part(dumps(form))
            except Exception as error:
                errors.append(f"{type(error).__name__}: {error}")
        return _one_part(
            dumps(
                f"the pool cannot be described to workers: {'; '.join(dict.fromkeys(errors))} "
                "(a function that makes the load balancer or the discovery can travel where they cannot)"
            )
        )


def _one_part(payload: Payload) -> bytes:
    return b"".join(part if isinstance(part, bytes) else bytes(part) for part in payload.parts if part)  # type: ignore[arg-type]


def load_description(description: bytes) -> ProxySpec:
    """Return the spec that `ProxySpec.describe` described. Raises `RuntimeError` if it could not be."""
    spec = loads(Payload((description,)))
    if not isinstance(spec, ProxySpec):
        raise RuntimeError(f"nested routines cannot be called here: {spec}")
    return spec


class Dispatcher:
    """Dispatches the calls of one pool."""

    def __init__(
        self,
        *,
        runtime: Runtime,
        proxy: Proxy,
        io: MailboxLike,
        io_loop: asyncio.AbstractEventLoop,
        what: str,
        tally: Tally,
    ) -> None:
        self._runtime = runtime
        self._proxy = proxy
        self._io = io
        self._io_loop = io_loop
        self._ways: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, tuple[MailboxLike, MailboxLike]]
        self._ways = weakref.WeakKeyDictionary()
        self._last_way: tuple[weakref.ref[asyncio.AbstractEventLoop], MailboxLike, MailboxLike] | None = None
        self._what = what
        self._feed: asyncio.Task[None] | None = None
        self._feed_on_io = False
        self._closed = False
        self.tally: Tally = tally
        """Counts its calls."""
        runtime.events.listen(self)

    @property
    def calls(self) -> int:
        """How many calls were made by it."""
        return self.tally.made

    @property
    def is_idle(self) -> bool:
        """Whether none of its calls is known to be under way; may be read from any thread."""
        return self._proxy.is_idle

    @classmethod
    async def open(
        cls,
        spec: ProxySpec,
        *,
        runtime: Runtime,
        secret: bytes,
        balancer: LoadBalancerLike,
        credentials: CredentialsProvider | None = None,
        description: bytes | None = None,
        own: frozenset[str] = frozenset(),
        tally: Tally | None = None,
    ) -> Dispatcher:
        """Open a proxy for ``spec``; run on the user's loop. Pair with `close`.

        ``balancer`` is what has become of the spec's, ``description`` what the spec was loaded from, if it was, ``own``
        the families of workers that this process starts for it, and uses however many they are. ``tally`` counts. A
        built-in discovery is followed on the I/O loop, one of the user's own on this loop. Cancelling leaves nothing
        open.
        """
        runtime.check_process()
        if description is None:
            description = spec.describe()
        if len(description) > runtime.limits.pool_description_bytes:
            raise ValueError(
                f"the description of {spec.what} takes {len(description)} bytes pickled, the limit is "
                f"{runtime.limits.pool_description_bytes} (pool_description_bytes): a load balancer or discovery "
                "holds too much data"
            )
        io_loop = runtime.io.acquire()
        try:
            io, here = runtime.mailbox(io_loop), runtime.mailbox(asyncio.get_running_loop())

            async def make() -> Proxy:
                # Late: the engine and what is below it take most of the time of `import wool`.
                from wool.proxy import Proxy

                return Proxy(
                    transport=runtime.transport(runtime.limits, credentials),
                    balancer=balancer,
                    secret=secret,
                    caller_uid=runtime.uid,
                    pool=description,
                    limits=runtime.limits,
                    random_bytes=runtime.random_bytes,
                    what=Sought(words=spec.what, subscriber=spec.subscriber),
                    terms=dataclasses.replace(spec.terms, own=spec.terms.own | own, secure=credentials is not None),
                    observer=runtime.observer,
                    events=runtime.events,
                )

            proxy = await run_on(io, here, make, "wool opening a proxy")
            mourn(io_loop, proxy)
            self = cls(runtime=runtime, proxy=proxy, io=io, io_loop=io_loop, what=spec.what, tally=tally or Tally())
            for metadata in spec.workers:
                self.announce(metadata)
            await self._follow(spec.subscriber)
            return self
        except BaseException:
            await runtime.io.release()
            raise

    async def _follow(self, subscriber: DiscoverySubscriberLike | None) -> None:
        if subscriber is None:
            return
        loop = asyncio.get_running_loop()
        if lives_on_io_loop(subscriber):
            proxy = self._proxy

            async def begin() -> asyncio.Task[None]:
                work = _feed(subscriber, proxy.discovered, proxy.discovery_ended)
                return asyncio.get_running_loop().create_task(work, name="wool discovery")

            self._feed_on_io = True
            self._feed = await run_on(self._io, self._runtime.mailbox(loop), begin, "wool following discovery")
            return

        def post_event(event: DiscoveryEvent) -> None:
            self._io.post(self._proxy.discovered, event)

        def post_end(error: BaseException | None) -> None:
            self._io.post(self._proxy.discovery_ended, error)

        self._feed = loop.create_task(_feed(subscriber, post_event, post_end), name="wool discovery")

    def announce(self, metadata: WorkerMetadata) -> None:
        """Tell the proxy of a worker, ahead of what discovery will say."""
        self._io.post(self._proxy.discovered, DiscoveryEvent("worker-added", metadata))

    def departed(self, uid: str, reason: RpcError) -> None:
        """Tell the proxy that a worker has ended, and why."""
        self._io.post(self._proxy.departed, uid, reason)

    async def run_on_io(self, work: Callable[[], Awaitable[Any]], name: str) -> Any:
        """Run ``work`` on the I/O loop and wait for it here."""
        here = self._runtime.mailbox(asyncio.get_running_loop())
        return await run_on(self._io, here, work, name)

    def stop_placing(self, why: str) -> None:
        """Refuse new calls and end those that no worker has started."""
        self._io.post(self._proxy.stop_placing, why)

    async def close(self, why: str) -> None:
        """End the sessions, stop following discovery, give the I/O loop back; idempotent; bounded."""
        if self._closed or self._runtime.forked:
            return
        self._closed = True
        feed, self._feed = self._feed, None
        try:
            if feed is not None and not self._feed_on_io:
                await _end(feed)

            async def close() -> None:
                if feed is not None and self._feed_on_io:
                    await _end(feed)
                await self._proxy.close(why)

            with contextlib.suppress(IoLoopDied):  # and all sessions with it; each call has been told
                await self.run_on_io(close, "wool closing a proxy")
        finally:
            forget_mourner(self._io_loop, self._proxy)
            await self._runtime.io.release()

    # ---- calls ----

    def new_call(
        self, function: FunctionType, kind: RoutineKind, args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> Call:
        """Pickle a call here and now; return it, to be dispatched once.

        Raises the original error, with a note, if the definition or an argument cannot be pickled.
        """
        runtime = self._runtime
        runtime.check_process()
        loop = asyncio.get_running_loop()
        try:
            definition = define(function)
        except Exception as error:
            error.add_note(
                f"wool cannot pickle routine {function.__module__}:{function.__qualname__} by value: "
                f"{unpicklable_part(function)}; no worker was contacted"
            )
            raise
        try:
            arguments = dumps((args, kwargs))
        except Exception as error:
            error.add_note(
                f"wool cannot pickle the arguments of routine {definition.name}: "
                f"{culprit(args, kwargs) or 'all of them together'}; no worker was contacted"
            )
            raise
        now = held()
        if now is not None:
            try:
                packed = pack(now, None, runtime.limits.context_bytes)
            except ContextFault as fault:
                raise fault.for_caller(f"routine {definition.name} did not run") from None
            arguments = Payload(arguments.parts, packed)
        parent = current_task()
        task = Task(
            key=runtime.task_key(),
            routine=definition.name,
            kind=kind,
            caller=runtime.uid,
            parent=parent.key if parent is not None else b"",
        )
        to_io, to_user = self.way(loop)
        self.tally.begin()
        timeout = dispatch_timeout_seconds()
        events = CallEvents(runtime.events, task) if runtime.events.mask else None
        tracer = runtime.tracing.tracer
        told: CallTold | None = events if tracer is None else TracedCall(tracer.call(task), events)
        if parent is not None and (lender := current_lender()) is not None:
            lent = LentCall(self._proxy, to_io, loop, task, definition, arguments, timeout, to_user, self, now, told)
            lent.lender = lender
            return lent
        return Call(self._proxy, to_io, loop, task, definition, arguments, timeout, to_user, self, now, told)

    def wanted_events_changed(self) -> None:
        """See `wool.events.EventsListener`."""
        if not self._closed:
            self._io.post(self._proxy.wanted_events_changed)

    @property
    def context_bytes(self) -> int:
        """What context variables may add to a step; see `wool.limits`."""
        return self._runtime.limits.context_bytes

    def way(self, loop: asyncio.AbstractEventLoop) -> tuple[MailboxLike, MailboxLike]:
        """Return how ``loop`` posts to the I/O loop, and the I/O loop to it."""
        last = self._last_way
        if last is not None and last[0]() is loop:
            return last[1], last[2]
        way = self._ways.get(loop)
        if way is None:
            way = self._io.batched(loop), self._runtime.mailbox(loop).batched(self._io_loop)
            self._ways[loop] = way
        # Nearly every call is made on the same loop as the one before.
        self._last_way = (weakref.ref(loop), *way)
        return way


async def _feed(
    subscriber: DiscoverySubscriberLike,
    tell: Callable[[DiscoveryEvent], None],
    ended: Callable[[BaseException | None], None],
) -> None:
    events = subscriber.__aiter__()
    try:
        async for event in events:
            if not isinstance(event, DiscoveryEvent):  # pyright: ignore[reportUnnecessaryIsInstance]
                raise TypeError(f"{subscriber!r:.200} has told of {event!r:.100}, which is no wool.DiscoveryEvent")
            tell(event)
        ended(None)
    except (asyncio.CancelledError, GeneratorExit):
        raise
    except BaseException as error:
        # Whatever a filter or a discovery of the user's raises: the loop may be the I/O loop.
        _log.exception("discovery %r failed; the workers known so far stay in use", subscriber)
        ended(error)
    finally:
        close = getattr(events, "aclose", None)
        if close is not None:
            await close()


async def _end(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.wait([task])


class DispatcherSource(Protocol):
    """What is current in a context: a pool, or on a worker the way to open the caller's."""

    async def dispatcher(self) -> Dispatcher:
        """Return the dispatcher, opening it first if need be."""
        ...

    @property
    def open_dispatcher(self) -> Dispatcher | None:
        """The dispatcher, if it is open already."""
        ...

    @property
    def outer(self) -> DispatcherSource | None:
        """What was current where this was entered."""
        ...

    @property
    def is_left(self) -> bool:
        """Whether it was entered and left, and will not be open again."""
        ...


class _Left:
    """Stands in a context for the pool that was the last to be left there, for the words of an error."""

    open_dispatcher = None
    outer = None
    is_left = True

    def __init__(self, pool: DispatcherSource) -> None:
        self._pool = weakref.ref(pool)

    async def dispatcher(self) -> Dispatcher:
        raise RuntimeError(f"{self!r} is closed")

    def __repr__(self) -> str:
        pool = self._pool()
        return "the pool" if pool is None else repr(pool)


_current: ContextVar[DispatcherSource | None] = ContextVar("wool.pool", default=None)


def current_source() -> DispatcherSource | None:
    """Return the pool of this context, if any; it may have been left."""
    return _current.get()


def innermost_open() -> DispatcherSource | None:
    """Return the innermost pool of this context that was not left, if any."""
    return _not_left(_current.get())


def _not_left(source: DispatcherSource | None) -> DispatcherSource | None:
    while source is not None and source.is_left:
        source = source.outer
    return source


def enter_source(source: DispatcherSource) -> None:
    """Make ``source`` current."""
    _current.set(source)


def leave_source(source: DispatcherSource) -> None:
    """Make what is around ``source`` current, if ``source`` is; in other contexts it is passed over.

    A pool may be left in another task than it was entered in, and before a pool that was entered after it.
    """
    if _current.get() is source:
        _current.set(_not_left(source.outer) or _Left(source))


class _Used:
    """Stands in a context for a pool that was entered in another."""

    def __init__(self, pool: DispatcherSource, outer: DispatcherSource | None) -> None:
        self._pool = pool
        self.outer = outer

    @property
    def open_dispatcher(self) -> Dispatcher | None:
        return self._pool.open_dispatcher

    @property
    def is_left(self) -> bool:
        return self._pool.is_left

    async def dispatcher(self) -> Dispatcher:
        return await self._pool.dispatcher()

    def __repr__(self) -> str:
        return repr(self._pool)


@contextlib.contextmanager
def used(source: DispatcherSource) -> Generator[None, None, None]:
    """Make ``source`` current in a block of another context than the one in which it was entered."""
    token = _current.set(_Used(source, innermost_open()))
    try:
        yield
    finally:
        _current.reset(token)
