"""The workers that a pool starts: processes, and what discovery is told of them.

What it owns: the processes, through `wool.worker.local.Fleet`, and the announcements. A worker is announced when it
is ready, and withdrawn when it drains, when it is gone, or before it is stopped: in this order, so that nobody is
sent to one that is leaving. One that has had enough is replaced, as `wool.worker.succession` says.

A publisher of wool's own is called on the I/O loop, where the news is; one of the user's on the user's loop. What it
must never do: leave a worker behind because a publisher hangs or fails.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Coroutine, Iterable
from contextlib import AsyncExitStack
from functools import partial
from typing import Any

from wool.bridge import IoLoopDied, MailboxLike, run_on
from wool.discovery.base import DiscoveryEventType, DiscoveryPublisherLike, WorkerMetadata
from wool.errors import RpcError, TransientRpcError
from wool.runtime import Runtime
from wool.supplied import PUBLISHER
from wool.worker.local import Fleet
from wool.worker.spec import WorkerHandle, WorkerSpec
from wool.worker.succession import Succession

_log = logging.getLogger("wool.pool")


class Crew:
    """The workers of one pool. Made, started and stopped on one loop of the user's.

    ``on_io`` says that the publisher may be called on the I/O loop. ``shared`` says that others are told by it too:
    then workers are withdrawn before they are stopped, and each publication takes ``publish_seconds`` at most.
    ``departed`` is told, on the I/O loop, of a worker that has ended by itself, and why. ``successor`` makes the spec
    of a worker that replaces another, and ``arrived`` is told of it, also on the I/O loop, once it is announced.
    """

    def __init__(
        self,
        *,
        runtime: Runtime,
        io: MailboxLike,
        publisher: DiscoveryPublisherLike,
        on_io: bool,
        shared: bool,
        departed: Callable[[str, RpcError], None],
        arrived: Callable[[WorkerMetadata], None],
        successor: Callable[[WorkerSpec], WorkerSpec],
    ) -> None:
        self._runtime = runtime
        self._io = io
        self._here: MailboxLike = runtime.mailbox(asyncio.get_running_loop())
        self._publisher = publisher
        self._on_io = on_io
        self._shared = shared
        self._departed = departed
        self._arrived = arrived
        self._successor = successor
        self._succession: Succession | None = None
        self._keepers: list[asyncio.Task[None]] = []
        self._announced: dict[str, WorkerMetadata] = {}
        self._withdrawals: set[asyncio.Task[None]] = set()
        self._stack = AsyncExitStack()
        self._fleet = Fleet(launcher=runtime.launcher(), gone=self._gone, draining=self._withdraw)
        self.workers: dict[str, WorkerMetadata] = {}
        """Those that have not ended and do not drain, by uid."""

    async def start(self, specs: Iterable[WorkerSpec]) -> None:
        """Start a worker per spec and announce each; return when all are ready.

        Raises `WorkerStartError`, what the publisher raises, or `TimeoutError` if it takes too long; then, and if it
        is cancelled, `stop` is still to be called.
        """

        specs = list(specs)

        async def start() -> None:
            ready = await self._fleet.start(specs)
            self.workers.update((metadata.uid, metadata) for metadata in ready)
            if self._on_io:
                await self._announce(ready)
            self._keep({spec.uid: spec for spec in specs if spec.retirement})

        self._publisher = await PUBLISHER.entered(self._publisher, self._stack)
        await run_on(self._io, self._here, start, "wool starting a pool's workers")
        if not self._on_io:
            await self._announce(list(self.workers.values()))

    async def _announce(self, ready: Iterable[WorkerMetadata]) -> None:
        for metadata in ready:
            if metadata.uid not in self.workers:  # it has gone meanwhile
                continue
            self._announced[metadata.uid] = metadata
            try:
                await self._publish("worker-added", metadata)
            except Exception as error:
                if not isinstance(error, TimeoutError):  # else it may have been published
                    del self._announced[metadata.uid]
                error.add_note(
                    f"wool was announcing worker {metadata.uid[:8]} at {metadata.address} by {self._publisher!r:.200}: "
                    "a pool with size= and discovery= publishes the workers that it starts (host='127.0.0.1' lets them "
                    "listen on TCP)"
                )
                raise

    async def _publish(self, type: DiscoveryEventType, metadata: WorkerMetadata) -> None:
        if not self._shared:  # it is our own, and bounded by itself
            await self._publisher.publish(type, metadata)
            return
        seconds = self._runtime.limits.publish_seconds
        bound = asyncio.timeout(seconds)
        try:
            async with bound:
                await self._publisher.publish(type, metadata)
        except TimeoutError as error:
            if not bound.expired():
                raise
            raise TimeoutError(f"{type} was not published within {seconds} s (publish_seconds)") from error

    # ---- on the I/O loop: replacing those that have had enough ----

    def _keep(self, specs: dict[str | None, WorkerSpec]) -> None:
        if specs:
            self._succession = Succession(self._runtime.limits)
            self._keepers = [
                asyncio.create_task(
                    self._keep_replaced(self._succession, handle, specs[handle.metadata.uid]),
                    name=f"wool keeping worker {handle.metadata.uid[:8]} fresh",
                )
                for handle in self._fleet.handles
            ]

    async def _keep_replaced(self, succession: Succession, handle: WorkerHandle, spec: WorkerSpec) -> None:
        current: WorkerHandle | None = handle
        while current is not None:
            spec = self._successor(spec)
            current = await succession.successor(current, partial(self._succeed, spec), self._retire)

    async def _succeed(self, spec: WorkerSpec) -> WorkerHandle:
        handle = await self._fleet.add(spec)
        metadata = handle.metadata
        self.workers[metadata.uid] = metadata
        try:
            if self._on_io:
                await self._announce([metadata])
            else:
                io = self._runtime.mailbox(asyncio.get_running_loop())
                await run_on(self._here, io, partial(self._announce, [metadata]), "wool announcing a worker")
        except Exception:
            self._withdraw(metadata)
            await self._fleet.retire(handle, 0.0)
            raise
        self._arrived(metadata)
        return handle

    async def _retire(self, handle: WorkerHandle, seconds: float) -> None:
        self._withdraw(handle.metadata)
        await self._fleet.retire(handle, seconds)

    async def _end_succession(self) -> None:
        if self._succession is not None:
            self._succession.close()
            for keeper in self._keepers:
                keeper.cancel()
            await asyncio.wait(self._keepers)

    # ---- on the I/O loop: what becomes of a worker ----

    def _gone(self, metadata: WorkerMetadata, how: str) -> None:
        reason = TransientRpcError(f"worker {metadata.uid[:8]} (pid {metadata.pid}) ended: {how}")
        self._departed(metadata.uid, reason)
        self._withdraw(metadata)

    def _withdraw(self, metadata: WorkerMetadata) -> None:
        self.workers.pop(metadata.uid, None)
        if self._on_io:
            self._begin_withdrawal(metadata.uid)
        else:
            self._here.post(self._begin_withdrawal, metadata.uid)

    # ---- on the loop where the publisher is called ----

    def _begin_withdrawal(self, uid: str) -> None:
        metadata = self._announced.pop(uid, None)
        if metadata is not None:
            task = asyncio.get_running_loop().create_task(self._withdrawn(metadata), name="wool withdrawing a worker")
            self._withdrawals.add(task)
            task.add_done_callback(self._withdrawals.discard)

    async def _withdrawn(self, metadata: WorkerMetadata) -> None:
        try:
            await self._publish("worker-dropped", metadata)
        except Exception as error:
            # It is leaving, whatever others believe; who calls it finds out.
            _log.warning("worker %s could not be withdrawn: %s: %s", metadata.uid[:8], type(error).__name__, error)

    async def _withdraw_all(self) -> None:
        for uid in list(self._announced):
            self._begin_withdrawal(uid)
        if self._withdrawals:
            await asyncio.wait(self._withdrawals)

    async def _give_up_withdrawals(self) -> None:
        for task in self._withdrawals:
            task.cancel()
        if self._withdrawals:
            await asyncio.wait(self._withdrawals)

    # ---- the end ----

    async def stop(self) -> None:
        """Withdraw the workers, interrupt what they run, end them; return when they are gone. Bounded.

        Cancelled, or where the I/O loop has ended by itself, they are killed.
        """
        try:
            await self._run_on_io(self._end_succession, "wool ending the succession of a pool's workers")
            if self._shared:
                await self._run_where_published(self._withdraw_all)

            async def stop() -> None:
                await self._fleet.stop(0.0)
                if self._succession is not None:
                    await self._succession.finish()

            await self._run_on_io(stop, "wool stopping a pool's workers")
        except IoLoopDied:
            self._fleet.kill()
        except BaseException:
            with contextlib.suppress(IoLoopDied):
                await self._run_on_io(self._kill, "wool killing a pool's workers")
            raise
        finally:
            self.workers.clear()
            try:
                if self._withdrawals:
                    await self._run_where_published(self._give_up_withdrawals)
            finally:
                await self._stack.aclose()

    async def _kill(self) -> None:
        self._fleet.kill()
        await self._end_succession()
        self._fleet.kill()
        await self._fleet.stop(0.0)  # until nothing of them is left: the loop may be about to end
        if self._succession is not None:
            await self._succession.finish()

    async def _run_where_published(self, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        if not self._on_io:
            await work()
            return
        with contextlib.suppress(IoLoopDied):
            await self._run_on_io(work, "wool withdrawing a pool's workers")

    async def _run_on_io(self, work: Callable[[], Coroutine[Any, Any, None]], name: str) -> None:
        await run_on(self._io, self._runtime.mailbox(asyncio.get_running_loop()), work, name)
