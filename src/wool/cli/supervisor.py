"""Keeping a number of workers alive, and ending them in order.

Why it exists: a worker that crashes is replaced, but one that crashes again and again is a fault that nobody would see
if it were replaced for ever. So restarts are bounded as in Erlang/OTP: more than n within t seconds, and the whole
command ends, loudly.

One that has had enough is no crash: its successor is ready and announced before it is told to drain, in the order
and at the pace of `wool.worker.succession`, and this counts for nothing.

What it owns: which workers there are and whether each is announced; when one is started, and when all end. The clock,
the start of a worker and the discovery come in as arguments, so that all of it runs in a test without a process.

It must never leave a worker behind, whatever fails, and never end one before it was withdrawn from discovery, unless
it is told to end at once.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine
from enum import IntEnum
from functools import partial
from typing import Any, Protocol

from wool.discovery.base import DiscoveryEventType, WorkerMetadata
from wool.limits import DEFAULT_LIMITS, Limits
from wool.statistics import Statistics
from wool.worker.child import WorkerStartError
from wool.worker.logs import fields
from wool.worker.succession import WORN, Replaceable, Succession

_log = logging.getLogger("wool.cli")


class Status(IntEnum):
    """The exit statuses of ``wool worker``. 2 is argparse's own, for what makes no sense."""

    DRAINED = 0
    FAILED = 1
    MISUSED = 2
    INTERRUPTED = 3
    ENDED_AT_ONCE = 4
    GAVE_UP = 5


STATUSES: dict[Status, str] = {
    Status.DRAINED: "told to stop, and every task came to an end of its own",
    Status.FAILED: "a worker did not start, or could not be announced",
    Status.MISUSED: "a flag, variable or file says what makes no sense",
    Status.INTERRUPTED: "told to stop, and tasks were cut short when the drain time was over",
    Status.ENDED_AT_ONCE: "a second signal ended it at once",
    Status.GAVE_UP: "workers crashed more often than --restarts allows",
}


class Intensity:
    """How often workers may be restarted: ``restarts`` times within any ``seconds``."""

    def __init__(self, *, restarts: int, seconds: float) -> None:
        self.restarts = restarts
        self.seconds = seconds
        self._crashes: deque[float] = deque()

    def crashed(self, now: float) -> bool:
        """Note a crash, in seconds of a clock that never goes back; return whether the worker may be restarted."""
        self._crashes.append(now)
        while self._crashes[0] <= now - self.seconds:
            self._crashes.popleft()
        return len(self._crashes) <= self.restarts

    @property
    def recent(self) -> int:
        """Crashes within the time that counts, as of the last one."""
        return len(self._crashes)


class Worker(Replaceable, Protocol):
    """A worker that is ready: see `wool.worker.launch.WorkerProcess`."""

    @property
    def exit_reason(self) -> str | None: ...

    @property
    def interrupted(self) -> int | None: ...

    async def wait_closed(self) -> str: ...

    async def statistics(self, seconds: float) -> Statistics | None: ...

    async def stop(self, drain_seconds: float) -> None: ...

    def close(self) -> None: ...


Start = Callable[[int], Awaitable[Worker]]
"""Starts a worker for a place, from 0 on; raises `WorkerStartError`, and cancelled leaves none."""
Tell = Callable[[bool], Awaitable[None]]
"""Is told whether there are workers that take tasks, each time that this may have changed; must not fail."""
Publish = Callable[[DiscoveryEventType, WorkerMetadata], Awaitable[None]]


class GaveUp(Exception):
    """Workers crashed too often. The message says how often; ``output`` is what the last one printed last."""

    def __init__(self, message: str, output: str) -> None:
        super().__init__(message)
        self.output: str = output


def headline(error: WorkerStartError) -> str:
    """Return the first and the last line of why a worker did not start: how it ended, and what it said of that."""
    first, *rest = str(error).strip().splitlines()
    return f"{first}; {rest[-1]}" if rest else first


def _say_event(event: str, worker: WorkerMetadata, why: str) -> None:
    level = logging.INFO if event == WORN else logging.ERROR
    _log.log(level, event, extra=fields(worker=worker.uid, pid=worker.pid, why=why))


class Supervisor:
    """Keeps ``size`` workers alive until it is told to stop. Everything here is run on one event loop."""

    def __init__(
        self,
        *,
        size: int,
        start: Start,
        publish: Publish,
        intensity: Intensity,
        drain_seconds: float,
        clock: Callable[[], float],
        last_output: Callable[[int], str] = lambda pid: "",
        tell: Tell | None = None,
        limits: Limits = DEFAULT_LIMITS,
    ) -> None:
        self._size = size
        self._start = start
        self._publish = publish
        self._intensity = intensity
        self._drain_seconds = drain_seconds
        self._clock = clock
        self._last_output = last_output
        self._tell_health = tell
        self._workers: dict[int, Worker] = {}
        self._retiring: list[Worker] = []
        self._succession = Succession(limits, _say_event)
        self._publish_seconds = limits.publish_seconds
        self._announced: dict[str, WorkerMetadata] = {}
        self._waited_for = set(range(size))
        self._is_ready = False
        self._told = asyncio.Event()
        self._hurry = asyncio.Event()
        self._stopping = False

    @property
    def workers(self) -> list[Worker]:
        """Those that live, as far as is known; also those that have a successor, and end."""
        return [*self._workers.values(), *self._retiring]

    def signal(self, name: str) -> None:
        """Stop: drain when told for the first time, end at once when told again."""
        if not self._told.is_set() and not self._stopping:
            _log.info("draining", extra=fields(signal=name, seconds=self._drain_seconds, workers=len(self._workers)))
            self._told.set()
        elif not self._hurry.is_set():
            _log.warning("ending-at-once", extra=fields(signal=name))
            self._hurry.set()

    async def run(self) -> Status:
        """Start the workers, keep them alive, return how all ended. No worker is left.

        Raises `WorkerStartError` if one of the first does not start, `GaveUp`, and what the discovery raises when a
        worker cannot be announced.
        """
        keeping = asyncio.create_task(self._keep_all(), name="wool keeping workers")
        told = asyncio.create_task(self._told.wait(), name="wool waiting to be told to stop")
        try:
            await asyncio.wait([keeping, told], return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._stopping = True
            self._succession.close()
            await self._say_health()
            await _end(told)
            await _end(keeping)
            clean = await self._stop_all()
        if not keeping.cancelled() and (error := keeping.exception()) is not None:
            raise error
        if self._hurry.is_set():
            return Status.ENDED_AT_ONCE
        return Status.DRAINED if clean else Status.INTERRUPTED

    # ---- keeping them alive ----

    async def _keep_all(self) -> None:
        places = [
            asyncio.create_task(self._keep(place), name=f"wool keeping worker {place}") for place in range(self._size)
        ]
        try:
            await asyncio.gather(*places)
        finally:
            for place in places:
                await _end(place)

    async def _keep(self, place: int) -> None:
        worker = await self._start(place)
        await self._welcome(place, worker)
        while True:
            successor = await self._succession.successor(worker, partial(self._succeed, place, worker), self._retire)
            if successor is not None:
                worker = successor
                continue
            # It ends, although nobody here told it to: nobody shall offer it anything any more.
            await self._withdraw(worker.metadata)
            await self._say_health()
            how = await worker.wait_closed()
            del self._workers[place]
            worker = await self._revive(place, worker.metadata, how)
            await self._welcome(place, worker)

    async def _succeed(self, place: int, old: Worker) -> Worker:
        new = await self._start(place)
        self._retiring.append(old)
        try:
            await self._welcome(place, new)
        except Exception:
            self._workers[place] = old
            self._retiring.remove(old)
            await new.stop(0.0)
            raise
        return new

    async def _retire(self, worker: Worker, seconds: float) -> None:
        """Let a worker end that has a successor."""
        await self._withdraw(worker.metadata)
        await self._say_health()
        await worker.stop(seconds)
        if self._stopping:
            return  # all are stopped, this one too
        self._retiring.remove(worker)
        self._note_end(worker)
        self._last_output(worker.metadata.pid)  # it is kept until somebody asks

    async def _welcome(self, place: int, worker: Worker) -> None:
        self._workers[place] = worker
        metadata = worker.metadata
        # Noted first: who is cancelled here does not know whether it was announced.
        self._announced[metadata.uid] = metadata
        try:
            await self._tell("worker-added", metadata)
        except Exception:
            del self._announced[metadata.uid]
            raise
        _log.info(
            "worker-ready",
            extra=fields(worker=metadata.uid, pid=metadata.pid, address=metadata.address, tags=sorted(metadata.tags)),
        )
        self._waited_for.discard(place)
        if not self._waited_for and not self._is_ready:
            self._is_ready = True
            _log.info("ready", extra=fields(workers=self._size))
        await self._say_health()

    async def _say_health(self) -> None:
        if self._tell_health is not None:
            await self._tell_health(self._is_ready and bool(self._announced) and not self._stopping)

    async def _revive(self, place: int, metadata: WorkerMetadata, how: str) -> Worker:
        who = fields(worker=metadata.uid, pid=metadata.pid, how=how)
        output = self._last_output(metadata.pid)
        while True:
            _log.error("worker-ended", extra=who)
            if not self._intensity.crashed(self._clock()):
                raise GaveUp(self._given_up(how), output)
            _log.info("worker-restarting", extra=fields(place=place, restart=self._intensity.recent))
            try:
                return await self._start(place)
            except WorkerStartError as error:
                how, output = headline(error), str(error)
                who = fields(how=how)

    def _given_up(self, how: str) -> str:
        intensity = self._intensity
        return (
            f"workers ended {intensity.recent} times within {intensity.seconds:g} s, and {intensity.restarts} restarts "
            f"are allowed (--restarts, --restart-seconds); the last one: {how}"
        )

    # ---- ending them ----

    async def _stop_all(self) -> bool:
        """Withdraw all, then stop them; return whether every task came to an end of its own."""
        await self._unless_hurried(self._withdraw_all())
        workers = self.workers
        stops = [
            asyncio.create_task(worker.stop(self._drain_seconds), name=f"wool stopping worker {worker.metadata.pid}")
            for worker in workers
        ]
        if stops:
            await self._unless_hurried(_all(stops))
        if self._hurry.is_set():
            for worker in workers:
                worker.close()
        # To be cancelled now must not leave one behind either: `stop` then kills it, and comes back at once.
        await _all(stops)
        await self._succession.finish()
        for worker in workers:
            self._note_end(worker)
        return all(worker.interrupted == 0 for worker in workers)

    def _note_end(self, worker: Worker) -> None:
        metadata = worker.metadata
        end = fields(worker=metadata.uid, pid=metadata.pid, how=worker.exit_reason, interrupted=worker.interrupted)
        _log.log(logging.INFO if worker.interrupted == 0 else logging.WARNING, "worker-stopped", extra=end)

    async def _withdraw_all(self) -> None:
        await asyncio.gather(*(self._withdraw(metadata) for metadata in list(self._announced.values())))

    async def _withdraw(self, metadata: WorkerMetadata) -> None:
        if self._announced.pop(metadata.uid, None) is None:
            return
        try:
            await self._tell("worker-dropped", metadata)
        except Exception as error:
            # Who follows the discovery hears of the end from the worker itself.
            _log.warning("worker-not-withdrawn", extra=fields(worker=metadata.uid, why=f"{error!r:.500}"))
        else:
            _log.info("worker-withdrawn", extra=fields(worker=metadata.uid))

    async def _tell(self, type: DiscoveryEventType, metadata: WorkerMetadata) -> None:
        try:
            async with asyncio.timeout(self._publish_seconds):
                await self._publish(type, metadata)
        except TimeoutError as error:
            why = str(error) or f"the discovery took longer than {self._publish_seconds:g} s (publish_seconds)"
            raise TimeoutError(f"{type} of worker {metadata.uid[:8]} could not be published: {why}") from error

    async def _unless_hurried(self, work: Coroutine[Any, Any, None]) -> None:
        """Do ``work``, but not any longer once there is a hurry."""
        doing = asyncio.create_task(work, name="wool stopping workers")
        hurry = asyncio.create_task(self._hurry.wait(), name="wool waiting for a hurry")
        try:
            await asyncio.wait([doing, hurry], return_when=asyncio.FIRST_COMPLETED)
        finally:
            await _end(hurry)
            await _end(doing)
        if not doing.cancelled():
            doing.result()


async def _end(task: asyncio.Task[Any]) -> None:
    task.cancel()
    await asyncio.wait([task])


async def _all(tasks: list[asyncio.Task[None]]) -> None:
    if tasks:
        await asyncio.wait(tasks)
        for task in tasks:
            task.result()
