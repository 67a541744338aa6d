"""Where the two loops of a simulated process meet: what takes the place of `wool.bridge`.

It queues as the production bridge does, so that no race between begin, cancel and session lost is removed.
When a wake-up comes is decided by the loop that is woken, and so by the plan.
"""

from __future__ import annotations

import asyncio
import contextvars
from collections import deque
from collections.abc import Callable
from typing import Any, TypeVarTuple

from wool.sim.loop import SimLoop

_Args = TypeVarTuple("_Args")


class SimIo:
    """Lends a simulated process's I/O loop, which is always there."""

    def __init__(self, loop: SimLoop) -> None:
        self._loop = loop
        self.users: int = 0

    def acquire(self) -> asyncio.AbstractEventLoop:
        """See `wool.bridge.IoHost`."""
        self.users += 1
        return self._loop

    async def release(self) -> None:
        """See `wool.bridge.IoHost`."""
        self.users -= 1
        assert self.users >= 0, "the I/O loop was given back more often than it was lent"


class SimMailbox:
    """Where the loops of a process meet. See `wool.bridge.MailboxLike`.

    In order, never at once, and one wake-up for what is posted together; when that comes, the plan's noise and
    stalls decide. The races between begin, cancel and session lost are those of production.
    """

    __slots__ = ("_context", "_loop", "_queue", "_woken")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        # Of nobody, as in production: what is begun here must not live in the context of whoever posted.
        self._context = contextvars.Context()
        self._loop = loop
        self._queue: deque[tuple[Callable[..., object], tuple[Any, ...]]] = deque()
        self._woken = False

    def post(self, callback: Callable[[*_Args], object], *args: *_Args) -> None:
        """Run ``callback(*args)`` on the loop."""
        self._queue.append((callback, args))
        if not self._woken:
            self._woken = True
            self._loop.call_soon_threadsafe(self._deliver, context=self._context)

    def batched(self, loop: asyncio.AbstractEventLoop, *hints: Any, **more: Any) -> SimMailbox:
        """Return itself: a wake-up costs nothing here, and how it might be saved does not matter."""
        return self

    def _deliver(self) -> None:
        self._woken = False
        queue = self._queue
        for _ in range(len(queue)):
            callback, args = queue.popleft()
            try:
                callback(*args)
            except Exception as error:
                self._loop.call_exception_handler(
                    {"message": f"a callback across the bridge failed: {callback!r}", "exception": error}
                )
        if queue and not self._woken:
            self._woken = True
            self._loop.call_soon(self._deliver, context=self._context)
