"""Routines over the real engine in one event loop: what their wrappers do included, without processes or threads."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, cast

from support.one_loop import QUICK, Cluster, LoopMailbox, cluster
from wool.dispatch import Dispatcher, enter_source, leave_source
from wool.events import ProcessEvents
from wool.limits import Limits
from wool.runtime import Runtime
from wool.tally import Tally


class MemoryPool:
    """What is current in a context: the cluster's proxy. Bodies see it too: their runner begins in its context."""

    outer = None
    is_left = False

    def __init__(self, made: Cluster, limits: Limits) -> None:
        nothing = cast("Any", None)
        runtime = Runtime(
            io=nothing,
            transport=nothing,
            launcher=nothing,
            home=nothing,
            user_key=nothing,
            new_mailbox=LoopMailbox,
            limits=limits,
        )
        loop = asyncio.get_running_loop()
        self.open_dispatcher = Dispatcher(
            runtime=runtime, proxy=made.proxy, io=LoopMailbox(loop), io_loop=loop, what="the cluster", tally=Tally()
        )

    async def dispatcher(self) -> Dispatcher:
        """See `wool.dispatch.DispatcherSource`."""
        return self.open_dispatcher


@asynccontextmanager
async def memory_pool(*uids: str, limits: Limits = QUICK, places: int | None = None) -> AsyncIterator[Cluster]:
    """A cluster whose workers run the routines that are called inside."""
    async with cluster(limits=limits) as made:
        source = MemoryPool(made, limits)
        enter_source(source)
        try:
            for uid in uids or ("one", "two"):
                worker = await made.add(uid, places=places)
                # Handlers are those of this process, which is the caller: in a worker's own there are none.
                worker.runner._events = ProcessEvents()
                worker.runner._events.be_worker()
            yield made
        finally:
            leave_source(source)
            source.open_dispatcher._closed = True
