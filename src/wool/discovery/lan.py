"""Discovery among the hosts of one network, without a server: multicast DNS.

What it owns: the thread that answers for the workers that are published here. A program whose own loop is busy must
still be heard, else its workers would go out of view, and a worker may be published from any loop. A subscriber needs
no thread: it lives on the loop that iterates.

What is heard means is decided in `wool.discovery.sightings`, what a record says in `wool.discovery.records`, and the
sockets belong to `wool.discovery.mdns`, which is imported only when one is opened: zeroconf comes with an extra.

What it must never do: trust what it hears. Anybody on the network can announce a worker, or say goodbye for one; the
handshake decides whether there is one, and what was started on it goes on.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import logging
import os
import threading
import warnings
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Iterable, Sequence
from concurrent.futures import Future
from types import TracebackType
from typing import Any, Protocol, Self, TypeVar
from weakref import WeakMethod

from wool.discovery.base import DISCOVERY_EVENT_TYPES, DiscoveryEvent, DiscoveryEventType, WorkerFilter, WorkerMetadata
from wool.discovery.records import Announcement, Interface, announce, check_interfaces
from wool.discovery.roster import Roster
from wool.discovery.sightings import Question, Record, Sightings
from wool.limits import DEFAULT_LIMITS, Limits

_T = TypeVar("_T")
_log = logging.getLogger("wool.discovery")

_TOLD_AGAIN_SECONDS = 60.0
"""How often what is wrong on the network is worth a line in the log."""


class LanDiscovery:
    """Finds the workers that were published on the same network, by multicast DNS (``_wool._tcp.local.``).

    ``interfaces`` are those to speak on, each by name (``"eth0"``), address (``"10.0.0.7"``) or network
    (``"10.0.0.0/24"``, which means the same on every host); by default all that have IPv4, except loopback. With
    ``["127.0.0.1"]`` the workers of this machine are found, and nobody else hears of them.

    A context manager, plain or async, re-entrant and reusable: workers are published while it is open, and leaving says
    goodbye for them, three times within a quarter of a second, for which a plain one blocks. Its `subscriber` needs no
    open discovery. A worker that vanished without a word is dropped after ``Limits.lan_ttl_seconds``; one that does not
    answer is left aside by its callers before that.

    Pickled, it carries only how to look; the copy is not open. Not usable in a forked child of the process that entered
    it. Raises `ModuleNotFoundError` without the extra ``wool[lan]``, `ValueError` for what is no interface. Entering
    raises `OSError` if an interface is not there, or none is. One that is never left warns with `ResourceWarning`, and
    leaves.
    """

    def __init__(self, *, interfaces: Iterable[str] | None = None, limits: Limits = DEFAULT_LIMITS) -> None:
        self._announcer: _Announcer | None = None
        self._entered = 0
        self._mutex = threading.Lock()
        if importlib.util.find_spec("zeroconf") is None:
            raise ModuleNotFoundError("LanDiscovery needs zeroconf: pip install 'wool[lan]'", name="zeroconf")
        self._interfaces = () if interfaces is None else check_interfaces(interfaces)
        if interfaces is not None and not self._interfaces:
            raise ValueError("interfaces is empty: name those to speak on, or leave it out to speak on all")
        self._limits = limits

    @property
    def publisher(self) -> LanPublisher:
        """Announces workers, while this discovery is open."""
        return LanPublisher(self._open_announcer)

    @property
    def subscriber(self) -> LanSubscriber:
        """Sees all workers of the network."""
        return self.subscribe()

    def subscribe(self, filter: WorkerFilter | None = None, /) -> LanSubscriber:
        """Return a subscriber that sees only the workers for which ``filter`` is true.

        It is called on the loop that iterates. To pickle the subscriber, the filter must be picklable.
        """
        return LanSubscriber(self._interfaces, filter, self._limits)

    def __enter__(self) -> Self:
        self._enter().opened.result()
        return self

    async def __aenter__(self) -> Self:
        opened = self._enter().opened
        try:
            await _settled(opened)
        except asyncio.CancelledError:
            await self.__aexit__(None, None, None)
            raise
        return self

    def _enter(self) -> _Announcer:
        with self._mutex:
            announcer = self._announcer
            if announcer is None:
                announcer = self._announcer = _Announcer(self._interfaces, self._limits, WeakMethod(self._failed))
            announcer.check_process()
            self._entered += 1
            return announcer

    def _failed(self, announcer: _Announcer) -> None:
        """It could not be opened: who waits for that gets the error, and the next one to enter tries anew."""
        with self._mutex:
            if self._announcer is announcer:
                self._announcer, self._entered = None, 0

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if (announcer := self._leave()) is not None:
            announcer.stop().result()
            announcer.join()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if (announcer := self._leave()) is not None:
            await _settled(announcer.stop())
            announcer.join()

    def _leave(self) -> _Announcer | None:
        with self._mutex:
            self._entered = max(0, self._entered - 1)
            if self._entered > 0 or self._announcer is None:
                return None
            announcer, self._announcer = self._announcer, None
        return None if announcer.forked else announcer

    def _open_announcer(self) -> _Announcer:
        announcer = self._announcer
        if announcer is None:
            raise RuntimeError(f"{self!r} is closed: publish inside `async with LanDiscovery(...) as discovery`")
        announcer.check_process()
        return announcer

    def __del__(self) -> None:
        announcer = getattr(self, "_announcer", None)
        if announcer is not None and not announcer.forked:
            warnings.warn(f"unclosed {self!r}: use 'async with'", ResourceWarning, source=self, stacklevel=2)
            announcer.stop()

    @classmethod
    def _rebuild(cls, interfaces: tuple[str, ...], limits: Limits) -> LanDiscovery:
        return cls(interfaces=interfaces or None, limits=limits)

    def __reduce__(self) -> tuple[Any, ...]:
        return (LanDiscovery._rebuild, (self._interfaces, self._limits))

    def __repr__(self) -> str:
        announcer = self._announcer
        state = "closed" if announcer is None else f"open, {announcer.published} published"
        return f"<LanDiscovery {' '.join(self._interfaces) or 'all interfaces'} {state}>"


async def _settled(future: Future[_T]) -> _T:
    """Wait for what another thread does; to be cancelled does not undo it half-way."""
    return await asyncio.shield(asyncio.wrap_future(future))


class LanPublisher:
    """Announces workers on a network. Each announcement lives as long as the discovery is open, unless dropped."""

    def __init__(self, announcer: Callable[[], _Announcer]) -> None:
        self._announcer = announcer

    async def publish(self, type: DiscoveryEventType, metadata: WorkerMetadata, /) -> None:
        """Announce that a worker came, changed or went; on return it was said on every interface.

        From any loop. Raises `ValueError` (added twice, updated or dropped but not published here, no address that
        others can reach, record too long, no such event), `RuntimeError` (not open), `OSError`. Cancelled, it is
        published all the same.
        """
        if type not in DISCOVERY_EVENT_TYPES:
            raise ValueError(f"unknown discovery event {type!r}, expected one of {DISCOVERY_EVENT_TYPES}")
        announcer = self._announcer()
        await _settled(announcer.run(announcer.publish(type, metadata)))


class _Announcer:
    """A thread with a loop, which answers for the workers that were published."""

    def __init__(
        self, interfaces: tuple[str, ...], limits: Limits, failed: WeakMethod[Callable[[_Announcer], None]]
    ) -> None:
        # Weak: the thread must not keep alive the discovery that forgot to end it.
        self._interfaces = interfaces
        self._limits = limits
        self._failed = failed
        self._pid = os.getpid()
        self._loop = asyncio.new_event_loop()
        self._announcements: Announcements | None = None
        self._stopping = False
        self._end = asyncio.Event()
        self._ended: Future[None] = Future()
        self.opened: Future[None] = Future()
        self._thread = threading.Thread(target=self._run, name="wool-lan", daemon=True)
        self._thread.start()

    @property
    def published(self) -> int:
        """How many workers were published and not dropped."""
        return 0 if self._announcements is None else len(self._announcements)

    @property
    def forked(self) -> bool:
        """Whether this process is a fork of the one that the thread runs in."""
        return self._pid != os.getpid()

    def check_process(self) -> None:
        """Raise `RuntimeError` in a forked child."""
        if self.forked:
            raise RuntimeError(f"process {os.getpid()} was forked from {self._pid}, where this discovery was entered")

    def run(self, work: Coroutine[Any, Any, _T]) -> Future[_T]:
        """Run ``work`` on the thread's loop."""
        try:
            return asyncio.run_coroutine_threadsafe(work, self._loop)
        except RuntimeError:
            work.close()
            raise RuntimeError("this discovery was closed before this was published") from None

    def stop(self) -> Future[None]:
        """Say goodbye, then end the thread; idempotent; bounded by ``lan_open_seconds``."""
        if not self._stopping:
            self._stopping = True
            with contextlib.suppress(RuntimeError):  # it has ended by itself: it could not be opened
                self._loop.call_soon_threadsafe(self._end.set)
        return self._ended

    def join(self) -> None:
        """Wait for the thread, which has nothing to do any more."""
        self._thread.join()

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_until_complete(self._live())
        except Exception:
            _log.exception("the sockets of multicast DNS could not be closed")
        finally:
            self._loop.close()
            self._ended.set_result(None)

    async def _live(self) -> None:
        try:
            from wool.discovery.mdns import Multicast

            announcements = self._announcements = Announcements(await Multicast.open(self._interfaces, self._limits))
        except BaseException as error:
            if (failed := self._failed()) is not None:
                failed(self)
            self.opened.set_exception(error)
            return
        self.opened.set_result(None)
        await self._end.wait()
        await announcements.close()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        if others:
            await asyncio.wait(others)

    async def publish(self, type: DiscoveryEventType, metadata: WorkerMetadata) -> None:
        """See `LanPublisher.publish`; run on the thread's loop."""
        assert self._announcements is not None
        await self._announcements.publish(type, metadata)


class AnnouncingLike(Protocol):
    """The network, as `Announcements` needs it: the sockets of `wool.discovery.mdns`, or the simulator's."""

    @property
    def interfaces(self) -> Sequence[Interface]:
        """Where it is announced."""
        ...

    async def announce(self, announcement: Announcement, /) -> None:
        """Announce a worker; on return it was said once."""
        ...

    async def update(self, announcement: Announcement, /) -> None:
        """Announce what has changed."""
        ...

    async def withdraw(self, name: str, /) -> None:
        """Say goodbye; on return it was said once."""
        ...

    async def close(self) -> None:
        """Say goodbye for all that is announced, and close the sockets."""
        ...


class Announcements:
    """The workers that one open discovery has published: one change at a time, and none that makes no sense."""

    def __init__(self, network: AnnouncingLike) -> None:
        self._network = network
        self._published: dict[str, str] = {}
        self._lock = asyncio.Lock()

    def __len__(self) -> int:
        return len(self._published)

    async def publish(self, type: DiscoveryEventType, metadata: WorkerMetadata) -> None:
        """See `LanPublisher.publish`."""
        network = self._network
        who = f"worker {metadata.key[:8]}"
        async with self._lock:
            if type == "worker-added" and metadata.uid in self._published:
                raise ValueError(f"{who} is published already")
            if type != "worker-added" and metadata.uid not in self._published:
                raise ValueError(f"{who} is not published here")
            if type == "worker-dropped":
                await network.withdraw(self._published.pop(metadata.uid))
                return
            announcement = announce(metadata, network.interfaces)
            if type == "worker-updated":
                await network.update(announcement)
                return
            await network.announce(announcement)
            self._published[metadata.uid] = announcement.name

    async def close(self) -> None:
        """Say goodbye for all of them, after the change that is under way."""
        async with self._lock:
            await self._network.close()
        self._published.clear()


class LanSubscriber:
    """Sees the workers of a network. Each iteration is a subscription of its own, with sockets of its own."""

    lives_on_io_loop = True

    def __init__(self, interfaces: tuple[str, ...], filter: WorkerFilter | None, limits: Limits) -> None:
        self._interfaces = interfaces
        self._filter = filter
        self._limits = limits
        self._heard_all_at = 0.0

    @property
    def is_looking(self) -> bool:
        """Whether the last subscription began so lately that not everybody may have been heard yet."""
        return asyncio.get_running_loop().time() < self._heard_all_at

    def __aiter__(self) -> AsyncGenerator[DiscoveryEvent, None]:
        """Return a new subscription: first ``worker-added`` per worker that answers, then changes, without end.

        What the filter raises ends it; so does, at its first step, an `OSError`: no such interface, or none.
        """
        self._heard_all_at = asyncio.get_running_loop().time() + self._limits.lan_look_seconds
        return listen(self._open, self._filter, self._limits)

    async def _open(self) -> MulticastLike:
        from wool.discovery.mdns import Multicast

        return await Multicast.open(self._interfaces, self._limits)

    def __reduce__(self) -> tuple[Any, ...]:
        return (type(self), (self._interfaces, self._filter, self._limits))

    def __repr__(self) -> str:
        return (
            f"<LanSubscriber of {' '.join(self._interfaces) or 'all interfaces'}{' filtered' if self._filter else ''}>"
        )


class MulticastLike(Protocol):
    """The network, as `listen` needs it: the sockets of `wool.discovery.mdns`, or the simulator's."""

    @property
    def interfaces(self) -> Sequence[Interface]:
        """Where it listens."""
        ...

    def listen(self, hear: Callable[[Sequence[Record]], None]) -> None:
        """Let ``hear`` be told of all records, those of one message at a time."""
        ...

    def ask(self, questions: Iterable[Question], known: Iterable[tuple[str, float, float]]) -> None:
        """Ask everybody; who would only give an answer that is ``known`` keeps silent."""
        ...

    async def close(self) -> None:
        """Close the sockets."""
        ...


async def listen(
    open: Callable[[], Awaitable[MulticastLike]], filter: WorkerFilter | None, limits: Limits
) -> AsyncGenerator[DiscoveryEvent, None]:
    """Yield who is heard on the network that ``open`` opens, then changes, without end."""
    loop = asyncio.get_running_loop()
    multicast = await open()
    try:
        sightings = Sightings(multicast.interfaces, limits, loop.time())
        roster, news, tell_at = Roster(filter), asyncio.Event(), loop.time()

        def hear(records: Sequence[Record]) -> None:
            if sightings.heard(records, loop.time()):
                news.set()

        multicast.listen(hear)
        while True:
            news.clear()
            for event in roster.advance(sightings.workers(loop.time())):
                yield event
            if sightings.complaint and loop.time() >= tell_at:
                _log.warning("%s", sightings.complaint)
                sightings.complaint, tell_at = "", loop.time() + _TOLD_AGAIN_SECONDS
            now = loop.time()
            if questions := sightings.questions(now):
                # Who is known need not answer the question for everybody. With any other it would be said for nothing,
                # and where there are many, in several packets each time.
                everybody = any(kind == "PTR" for _, kind in questions)
                multicast.ask(questions, sightings.known(now) if everybody else ())
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout_at(sightings.next_at(now)):
                    await news.wait()
    finally:
        await multicast.close()
