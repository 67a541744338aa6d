"""Where threads meet: user loops on one side, the one I/O loop of the process on the other.

Everything that crosses is a callback in a `Mailbox`: in order, and with one wake-up for all that is
posted while the other side has not looked yet. Nothing else in wool touches another thread's loop.
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
import os
import threading
import weakref
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any, ClassVar, Generic, Protocol, TypeVar, TypeVarTuple

from wool.limits import WIND_UP_SECONDS

_log = logging.getLogger("wool.bridge")
_T = TypeVar("_T")
_Args = TypeVarTuple("_Args")


class MailboxLike(Protocol):
    """Runs callbacks on one loop, in the order in which they were posted, from any thread."""

    def post(self, callback: Callable[[*_Args], object], *args: *_Args) -> None:
        """Run ``callback(*args)`` on the mailbox's loop, soon; never here."""
        ...

    def batched(self, loop: asyncio.AbstractEventLoop, crowd: Callable[[], int] = lambda: 0) -> MailboxLike:
        """Return a way to post from ``loop`` alone that wakes the other side once for what is posted together.

        ``crowd()`` is how many callbacks of ``loop`` still have to run and to post: what is posted may wait for a
        share of them, `HOLD_SECONDS` at most.
        """
        ...


class IoLoopDied(RuntimeError):
    """The I/O loop of this process has ended by itself: what was open on it is lost."""


class Mourner(Protocol):
    """Is told if a loop on which it lives ends by itself."""

    async def loop_dying(self, why: str) -> None:
        """Run on the loop, unless it is too broken for that: say what can still be said. Cancelled after a while."""
        ...

    def loop_died(self, why: str) -> None:
        """Nothing will ever run on the loop again: release whoever waits for it. Run in the loop's thread."""
        ...


_lock = threading.Lock()
_mailboxes: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, list[weakref.ref[Mailbox]]]
_mailboxes = weakref.WeakKeyDictionary()
_mourners: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, weakref.WeakSet[Mourner]] = weakref.WeakKeyDictionary()
"""Weak both ways, since who lives on a loop mostly refers to it."""
_dying: weakref.WeakSet[asyncio.AbstractEventLoop] = weakref.WeakSet()


def mourn(loop: asyncio.AbstractEventLoop, mourner: Mourner) -> None:
    """Tell ``mourner``, until `forget_mourner`, if ``loop``, an I/O loop, ends by itself."""
    with _lock:
        _mourners.setdefault(loop, weakref.WeakSet()).add(mourner)


def forget_mourner(loop: asyncio.AbstractEventLoop, mourner: Mourner) -> None:
    """Undo `mourn`; idempotent."""
    with _lock:
        mourners = _mourners.get(loop)
        if mourners is not None:
            mourners.discard(mourner)


class Mailbox:
    """The mailbox between real threads. What is posted to a closed loop is dropped: nobody is there.

    An owner of a method that is dropped so is told, if it has ``undeliverable(method, arguments)``.
    """

    __slots__ = ("__weakref__", "_context", "_delivered", "_loop", "_queue", "_watched", "_watching", "_woken")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        # Of nobody: else what is begun here would run in, and keep, the context of whoever posted first.
        self._context = contextvars.Context()
        # Weak, since a runtime keeps one mailbox per loop for as long as the loop lives.
        self._loop = weakref.ref(loop)
        self._queue: deque[tuple[Callable[..., object], tuple[Any, ...]]] = deque()
        self._woken = False
        self._watched = False  # somebody posts in batches, and may hold something back
        self._watching = False
        self._delivered = False  # since the watch began
        with _lock:
            _mailboxes.setdefault(loop, []).append(weakref.ref(self))

    def post(self, callback: Callable[[*_Args], object], *args: *_Args) -> None:
        """Run ``callback(*args)`` on the loop."""
        self._queue.append((callback, args))
        self.wake()

    def append(self, callback: Callable[..., object], args: tuple[Any, ...]) -> bool:
        """Queue a callback; return whether somebody has still to `wake` the loop for it."""
        self._queue.append((callback, args))
        return not self._woken

    def wake(self) -> None:
        """Have the loop look into the queue."""
        # Appending comes before the look at the flag here, and clearing it before the look at the
        # queue in `_deliver`: so either this wakes the loop, or the delivery under way sees it.
        if self._woken or not self._queue:
            return
        self._woken = True
        loop = self._loop()
        if loop is not None:
            try:
                loop.call_soon_threadsafe(self._deliver, context=self._context)
                return
            except RuntimeError:
                if not loop.is_closed():
                    raise
        self.drop()

    def drop(self) -> None:
        """Empty the queue of a loop that is closed, in whatever thread finds that out."""
        # First the flag: whoever appends after the look at the queue below wakes, and then comes here too.
        self._woken = False
        while self._queue:
            try:
                callback, args = self._queue.popleft()
            except IndexError:
                return  # another thread was faster
            undeliverable = getattr(getattr(callback, "__self__", None), "undeliverable", None)
            if undeliverable is not None:
                undeliverable(callback, args)

    def batched(self, loop: asyncio.AbstractEventLoop, crowd: Callable[[], int] = lambda: 0) -> Batch:
        """Return a way to post from ``loop``, and only from there, with fewer wake-ups."""
        self._watched = True
        return Batch(self, loop, crowd)

    def _deliver(self) -> None:
        self._woken = False
        if self._watched:
            self._delivered = True
            if not self._watching:
                self._watch()
        self._run_queue()

    def _watch(self) -> None:
        self._watching, self._delivered = True, False
        asyncio.get_running_loop().call_later(HOLD_SECONDS, self._look, context=self._context)

    def _look(self) -> None:
        """Look for what a batch has held back and cannot announce, since its own loop is busy with a long callback."""
        self._watching = False
        if self._delivered:
            self._watch()  # a batch holds back for so long after each wake-up, not after the first
        if not self._woken:
            self._run_queue()

    def _run_queue(self) -> None:
        queue = self._queue
        # Only what is there now: what these callbacks post comes after what else the loop has to do.
        try:
            for _ in range(len(queue)):
                callback, args = queue.popleft()
                try:
                    callback(*args)
                except Exception as error:
                    asyncio.get_running_loop().call_exception_handler(
                        {"message": f"a callback across the bridge failed: {callback!r}", "exception": error}
                    )
        finally:
            # Also where KeyboardInterrupt or SystemExit leaves some behind: the loop may run again.
            if queue and not self._woken:
                self._woken = True
                asyncio.get_running_loop().call_soon(self._deliver, context=self._context)


BATCH = 64
"""Posts after which the other side is woken at once: so many keep it busy until the next."""

QUIET_SECONDS = 0.001
"""After so long without a wake-up the next post wakes at once: a lone one, or one among callbacks that take long."""

CROWD_SHARE = 4
"""Unless there is a crowd behind it: then it waits for one post in so many of those that are still to come."""

HOLD_SECONDS = 0.02
"""What is posted waits at most so long for others: the other side looks by itself so long after a wake-up."""


class Batch:
    """Posts into a mailbox from one loop, and wakes the other side once for what is posted together.

    A wake-up is a system call that hands the interpreter to the other thread, and what it brings alone is a
    message of its own on the wire: one per post would have the two take turns for each. But nobody waits long:
    the first post of a burst wakes at once, and so does one that comes a while after; those between, when there
    are many or the loop has run what is ready, or at the latest when the other side looks by itself.
    """

    __slots__ = ("_append", "_crowd", "_loop", "_mailbox", "_pending", "_scheduled", "_woke")

    def __init__(self, mailbox: Mailbox, loop: asyncio.AbstractEventLoop, crowd: Callable[[], int]) -> None:
        self._mailbox = mailbox
        self._append = mailbox.append
        self._crowd = crowd
        self._loop = weakref.ref(loop)
        self._pending = 0
        self._scheduled = False
        self._woke = 0.0

    def post(self, callback: Callable[[*_Args], object], *args: *_Args) -> None:
        """Run ``callback(*args)`` on the mailbox's loop. Only to be called on this batch's own loop."""
        if not self._append(callback, args):
            return
        loop = self._loop()
        if loop is None:
            self._mailbox.wake()
            return
        now = loop.time()
        self._pending += 1
        quiet = now - self._woke
        if (
            self._pending >= BATCH
            or quiet >= HOLD_SECONDS
            or (quiet >= QUIET_SECONDS and self._pending * CROWD_SHARE > self._crowd())
        ):
            self._woke = now
            self._pending = 0
            self._mailbox.wake()
        elif not self._scheduled:
            try:
                loop.call_soon(self._flush)
            except RuntimeError:
                # It has ended by itself, and somebody in another thread answers in its place.
                self._mailbox.wake()
            else:
                self._scheduled = True

    def batched(self, loop: asyncio.AbstractEventLoop, crowd: Callable[[], int] = lambda: 0) -> Batch:
        """See `Mailbox.batched`."""
        return self._mailbox.batched(loop, crowd)

    def _flush(self) -> None:
        self._scheduled = False
        self._pending = 0
        self._mailbox.wake()


class IoHost(Protocol):
    """Lends the I/O loop. The first to acquire starts it, the last to release ends it."""

    def acquire(self) -> asyncio.AbstractEventLoop:
        """Return the running I/O loop, starting it if need be."""
        ...

    async def release(self) -> None:
        """Give it back. Returns when the loop has ended, if this was the last."""
        ...


class IoThread:
    """The one I/O thread of a process: shared by all pools, started with the first, joined with the last.

    ``on_death`` is called, in the I/O thread, if the loop ends by itself: a worker then exits, since
    gRPC's own threads would go on to answer pings for a dead process.
    """

    _first_process: ClassVar[int | None] = None
    """Where gRPC was first used. It does not survive a fork, not even when nothing of it is open any more."""

    def __init__(self, on_death: Callable[[BaseException | None], None] | None = None) -> None:
        self._lock = threading.Lock()
        self._users = 0
        self._bereft = 0
        """Users of loops that have ended by themselves, who still give back what is no more."""
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._on_death = on_death

    def acquire(self) -> asyncio.AbstractEventLoop:
        """Return the I/O loop, starting its thread if need be. Raises `RuntimeError` after a fork."""
        first = IoThread._first_process
        if first is None:
            IoThread._first_process = os.getpid()
        elif first != os.getpid():
            raise RuntimeError(
                f"process {os.getpid()} was forked from {first}, which had used wool: gRPC does not survive a fork; "
                "start processes by spawn or exec"
            )
        with self._lock:
            if self._users == 0:
                started: threading.Event = threading.Event()
                self._loop = loop = asyncio.new_event_loop()
                loop.call_soon(started.set)
                self._thread = threading.Thread(target=self._run, args=(loop,), name="wool-io", daemon=True)
                self._thread.start()
                started.wait()
            self._users += 1
            assert self._loop is not None
            return self._loop

    async def release(self) -> None:
        """Give the loop back; the last one waits, off its own loop, for the thread to end."""
        with self._lock:
            if self._bereft:
                # Perhaps it is not one of those; then the loop of now ends with the last of them.
                self._bereft -= 1
                return
            self._users -= 1
            if self._users:
                return
            loop, thread = self._loop, self._thread
            self._loop = self._thread = None
        assert loop is not None and thread is not None
        try:
            loop.call_soon_threadsafe(loop.stop)
        except RuntimeError:
            if not loop.is_closed():
                raise
        # The thread has nothing left to do but to close its loop: this is a matter of a millisecond.
        thread.join()

    def _run(self, loop: asyncio.AbstractEventLoop) -> None:
        asyncio.set_event_loop(loop)
        error: BaseException | None = None
        try:
            loop.run_forever()
        except BaseException as caught:
            error = caught
            _log.critical("the I/O loop died", exc_info=True)
        with self._lock:
            asked = self._loop is not loop
            if not asked:
                self._bereft += self._users
                self._users = 0
                self._loop = self._thread = None
        why = f"the I/O loop has ended by itself: {error!r}"
        if not asked:
            _dying.add(loop)
            if self._on_death is not None:
                self._on_death(error)
            self._wind_up(loop, why)
        try:
            if asked:
                loop.run_until_complete(self._settle())
            loop.run_until_complete(loop.shutdown_asyncgens())
        except Exception:
            _log.exception("the I/O loop did not end cleanly")
        finally:
            asyncio.set_event_loop(None)
            self._close(loop)
        for mourner in _mourners_of(loop):
            if not asked:
                mourner.loop_died(why)
        with _lock:
            mailboxes = [mailbox() for mailbox in _mailboxes.get(loop, [])]
        for mailbox in mailboxes:
            if mailbox is not None:
                mailbox.drop()

    @staticmethod
    async def _settle() -> None:
        """Let end what was given up a moment ago: gRPC has still to say so, and would say it to a closed loop."""
        if tasks := asyncio.all_tasks() - {asyncio.current_task()}:
            await asyncio.wait(tasks, timeout=WIND_UP_SECONDS)

    @staticmethod
    def _wind_up(loop: asyncio.AbstractEventLoop, why: str) -> None:
        """Let those who live on a loop that has ended by itself say what they still can, and end its tasks."""

        async def wind_up() -> None:
            last_words = [asyncio.ensure_future(mourner.loop_dying(why)) for mourner in _mourners_of(loop)]
            if last_words:
                await asyncio.wait(last_words, timeout=WIND_UP_SECONDS)
            tasks = asyncio.all_tasks() - {asyncio.current_task()}
            for task in tasks:
                task.cancel()
            if tasks:
                await asyncio.wait(tasks, timeout=WIND_UP_SECONDS)

        try:
            loop.run_until_complete(wind_up())
        except BaseException:
            _log.exception("the I/O loop could not even be wound up")

    @staticmethod
    def _close(loop: asyncio.AbstractEventLoop) -> None:
        try:
            loop.close()
        except OSError:
            _log.exception("the I/O loop did not close cleanly")


def _mourners_of(loop: asyncio.AbstractEventLoop) -> list[Mourner]:
    with _lock:
        return list(_mourners.get(loop, ()))


class _Crossing(Generic[_T]):
    """One `run_on`, as both loops know it."""

    def __init__(self, here: MailboxLike, work: Callable[[], Awaitable[_T]], name: str) -> None:
        self._here = here
        self._work = work
        self._name = name
        self._loop: asyncio.AbstractEventLoop | None = None
        self._task: asyncio.Task[_T] | None = None
        self._settled = False
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.outcome: list[_T] = []
        self.failure: BaseException | None = None

    # ---- on the other loop ----

    def begin(self) -> None:
        self._loop = asyncio.get_running_loop()
        mourn(self._loop, self)
        if self._loop in _dying:
            return
        self._task = self._loop.create_task(self._run(), name=self._name)
        self._task.add_done_callback(self._finished)

    async def _run(self) -> _T:
        return await self._work()

    def cancel(self) -> None:
        if self._task is not None:
            self._task.cancel()

    def _finished(self, task: asyncio.Task[_T]) -> None:
        assert self._loop is not None
        forget_mourner(self._loop, self)
        if task.cancelled():
            self._settle(asyncio.CancelledError())
        elif (error := task.exception()) is not None:
            self._settle(error)
        else:
            self.outcome.append(task.result())
            self._settle(None)

    def _settle(self, failure: BaseException | None) -> None:
        if not self._settled:
            self._settled = True
            self.failure = failure
            self._here.post(self._finish)

    async def loop_dying(self, why: str) -> None:
        """See `Mourner`."""
        if self._task is not None:
            self._task.remove_done_callback(self._finished)  # its end is not what has happened

    def loop_died(self, why: str) -> None:
        """See `Mourner`."""
        self._settle(IoLoopDied(why))

    def undeliverable(self, method: Callable[..., object], args: tuple[Any, ...]) -> None:
        """See `Mailbox`."""
        if self._task is None:
            self._settle(IoLoopDied("the I/O loop has ended"))

    # ---- on this loop ----

    def _finish(self) -> None:
        if not self.done.done():
            self.done.set_result(None)


async def run_on(
    there: MailboxLike,
    here: MailboxLike,
    work: Callable[[], Awaitable[_T]],
    name: str,
) -> _T:
    """Run ``await work()`` as a task on another loop and return its result here.

    Cancelling cancels the work and waits for its end, so that what it cleans up is clean. Raises `IoLoopDied` if
    the other loop, an I/O loop, ends by itself.
    """
    crossing = _Crossing(here, work, name)
    there.post(crossing.begin)
    cancelled: asyncio.CancelledError | None = None
    while not crossing.done.done():
        try:
            await asyncio.shield(crossing.done)
        except asyncio.CancelledError as error:
            cancelled = error
            there.post(crossing.cancel)
    if cancelled is not None:
        # What came of it does not matter to a caller that was cancelled, but it was waited for.
        raise cancelled
    if crossing.failure is not None:
        raise crossing.failure
    return crossing.outcome[0]
