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
from typing import Any, ClassVar, Protocol, TypeVar, TypeVarTuple

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


class Mailbox:
    """The mailbox between real threads. What is posted to a closed loop is dropped: nobody is there."""

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
        self._queue.clear()
        self._woken = False

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

CROWD_SHARE = 16
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
        assert loop is not None, "a batch is posted to from its running loop"
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
            self._scheduled = True
            loop.call_soon(self._flush)

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
            self._users -= 1
            if self._users:
                return
            loop, thread = self._loop, self._thread
            self._loop = self._thread = None
        assert loop is not None and thread is not None
        loop.call_soon_threadsafe(loop.stop)
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
        asked = self._loop is not loop
        if not asked and self._on_death is not None:
            self._on_death(error)
        try:
            loop.run_until_complete(loop.shutdown_asyncgens())
        finally:
            asyncio.set_event_loop(None)
            loop.close()


async def run_on(
    there: MailboxLike,
    here: MailboxLike,
    work: Callable[[], Awaitable[_T]],
    name: str,
) -> _T:
    """Run ``await work()`` as a task on another loop and return its result here.

    Cancelling cancels the work and waits for its end, so that what it cleans up is clean.
    """
    loop = asyncio.get_running_loop()
    done: asyncio.Future[None] = loop.create_future()
    task: asyncio.Task[_T] | None = None
    outcome: list[_T] = []
    failure: list[BaseException] = []

    def finish() -> None:
        if not done.done():
            done.set_result(None)

    def finished(task: asyncio.Task[_T]) -> None:
        if task.cancelled():
            failure.append(asyncio.CancelledError())
        elif (error := task.exception()) is not None:
            failure.append(error)
        else:
            outcome.append(task.result())
        here.post(finish)

    async def run() -> _T:
        return await work()

    def begin() -> None:
        nonlocal task
        task = asyncio.get_running_loop().create_task(run(), name=name)
        task.add_done_callback(finished)

    def cancel() -> None:
        if task is not None:
            task.cancel()

    there.post(begin)
    cancelled: asyncio.CancelledError | None = None
    while not done.done():
        try:
            await asyncio.shield(done)
        except asyncio.CancelledError as error:
            cancelled = error
            there.post(cancel)
    if cancelled is not None:
        # What came of it does not matter to a caller that was cancelled, but it was waited for.
        raise cancelled
    if failure:
        raise failure[0]
    return outcome[0]
