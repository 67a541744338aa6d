"""Replacing workers that have had enough, so that no call fails.

Why it exists: a pool and `wool worker` replace their workers in the same order, and the order is the promise. The
successor is started and announced first. Then it is waited until the callers may have heard of it, and only then
the old worker takes no more tasks, and ends with the last that it has.

What it owns: whose turn it is, and the old workers until they are gone. One worker is replaced at a time, so that
there is one process more than was asked for, and not twice as many. A worker that does not end keeps its turn for the
drain time and no longer, else one body that hangs would keep all others from being replaced.

It must never end a worker without a successor: where none starts, the old one goes on, and it is tried again. The start
of a worker, its announcement and its end come in as arguments. Everything here is run on one event loop.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Protocol, TypeVar

from wool.discovery.base import WorkerMetadata
from wool.limits import Limits

_log = logging.getLogger("wool.worker")


class Replaceable(Protocol):
    """A worker that is ready; see `wool.worker.launch.WorkerHandle`."""

    @property
    def metadata(self) -> WorkerMetadata: ...

    @property
    def is_draining(self) -> bool: ...

    async def wait_worn(self) -> str | None: ...

    async def wait_draining(self) -> None: ...


_W = TypeVar("_W", bound=Replaceable)


class _Once:
    """Does something when it is called for the first time."""

    def __init__(self, act: Callable[[], None]) -> None:
        self._act: Callable[[], None] | None = act

    def __call__(self) -> None:
        act, self._act = self._act, None
        if act is not None:
            act()


WORN, NOT_REPLACED, NOT_STOPPED = "worker-worn", "worker-not-replaced", "worker-not-stopped"
"""What is said: it has had enough; its successor did not start, and it goes on; it could not be ended."""

_WORDS = {
    WORN: "has had enough, and is replaced",
    NOT_REPLACED: "has had enough and goes on, since its successor did not start",
    NOT_STOPPED: "was not stopped",
}

Say = Callable[[str, WorkerMetadata, str], None]
"""Is told what happens to a worker: one of the words above, of whom, and why."""


def say_in_prose(event: str, worker: WorkerMetadata, why: str) -> None:
    """Log what happens to a worker of a program's own."""
    level = logging.INFO if event == WORN else logging.ERROR
    _log.log(level, "worker %s (pid %d) %s: %s", worker.uid[:8], worker.pid, _WORDS[event], why)


class Succession:
    """Replaces the workers of one owner, one at a time."""

    def __init__(self, limits: Limits, say: Say = say_in_prose) -> None:
        self._limits = limits
        self._say = say
        self._turn = asyncio.Lock()
        self._closing = asyncio.Event()
        self._retiring: dict[asyncio.Task[None], Replaceable] = {}

    async def successor(
        self, worker: _W, start: Callable[[], Awaitable[_W]], retire: Callable[[_W, float], Awaitable[None]]
    ) -> _W | None:
        """Wait until ``worker`` has had enough; return its successor, announced. None: it ends, or drains, by itself.

        ``start`` returns a worker that is ready and announced, or raises and leaves none. ``retire`` is then called,
        some time later, to withdraw the old one and stop it, with the seconds that its tasks have; it returns when the
        old one is gone. May be cancelled: then what ``start`` had begun is its own to clean up.
        """
        why = await worker.wait_worn()
        while why is not None and not worker.is_draining and not self._closing.is_set():
            await self._turn.acquire()
            free = _Once(self._turn.release)
            try:
                if worker.is_draining:
                    break
                self._say(WORN, worker.metadata, why)
                try:
                    new = await start()
                except Exception as error:
                    # Whatever a publisher of the user's raises: the old worker is there, and serves.
                    self._say(NOT_REPLACED, worker.metadata, f"{type(error).__name__}: {error}")
                else:
                    retiring = asyncio.create_task(self._retire(worker, retire, free), name="wool retiring a worker")
                    free = _Once(lambda: None)  # the turn lasts until the old one is gone
                    self._retiring[retiring] = worker
                    retiring.add_done_callback(self._retiring.pop)
                    return new
            finally:
                free()
            await self._pause(worker, self._limits.successor_retry_seconds)
        return None

    async def _pause(self, worker: Replaceable, seconds: float) -> None:
        """Wait, as long as the worker takes tasks and nobody ends all."""
        ends = [
            asyncio.create_task(worker.wait_draining(), name="wool waiting for a worker"),
            asyncio.create_task(self._closing.wait(), name="wool waiting for the end"),
        ]
        try:
            await asyncio.wait(ends, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for end in ends:
                end.cancel()
            await asyncio.wait(ends)

    async def _retire(self, worker: _W, retire: Callable[[_W, float], Awaitable[None]], free: _Once) -> None:
        timer: asyncio.TimerHandle | None = None
        try:
            await self._pause(worker, self._limits.handover_seconds)
            if self._closing.is_set():
                return  # its owner stops it, with all the others
            timer = asyncio.get_running_loop().call_later(self._limits.drain_seconds, free)
            await retire(worker, self._limits.retire_seconds)
        except RuntimeError as error:
            self._say(NOT_STOPPED, worker.metadata, str(error))
        finally:
            if timer is not None:
                timer.cancel()
            free()

    def close(self) -> None:
        """Begin no more. Those that wait for their turn are cancelled by who waits."""
        self._closing.set()

    @property
    def retiring(self) -> list[Replaceable]:
        """The old workers that are not gone: their owner stops them at its own end, before `finish`."""
        return list(self._retiring.values())

    async def finish(self) -> None:
        """Return when nothing of it is left; after `close`, and after all workers were stopped."""
        if self._retiring:
            await asyncio.wait(self._retiring)
