"""A subscription, what it has said so far, and waiting for it to say something."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

from support.records import check_grammar
from wool.discovery.base import DiscoveryEvent, DiscoverySubscriberLike, WorkerMetadata

PATIENCE_SECONDS = 20.0


class Watch:
    """Collects the events of a subscriber, and checks their grammar at each."""

    def __init__(self, subscriber: DiscoverySubscriberLike) -> None:
        self.events: list[DiscoveryEvent] = []
        self.times: list[float] = []
        self._task = asyncio.create_task(self._collect(subscriber), name="watch")

    async def _collect(self, subscriber: DiscoverySubscriberLike) -> None:
        events = subscriber.__aiter__()
        try:
            async for event in events:
                self.events.append(event)
                self.times.append(asyncio.get_running_loop().time())
                check_grammar(self.events)
        finally:
            await events.aclose()  # type: ignore[attr-defined]

    @property
    def present(self) -> dict[str, WorkerMetadata]:
        """The workers that are there, by uid or address."""
        return check_grammar(self.events)

    async def until(self, *present: WorkerMetadata | str, seconds: float = PATIENCE_SECONDS) -> float:
        """Wait until exactly these are there (an address stands for who is known by it); return for how long."""
        wanted = {
            metadata.key: metadata
            for metadata in (WorkerMetadata.at(text) if isinstance(text, str) else text for text in present)
        }
        began = asyncio.get_running_loop().time()
        try:
            async with asyncio.timeout(seconds):
                while self.present != wanted:
                    if self._task.done():
                        await self._task
                    await asyncio.sleep(0.005)
        except TimeoutError:
            there = self.present
            wrong = {key: there.get(key) for key in wanted.keys() | there.keys() if there.get(key) != wanted.get(key)}
            raise AssertionError(
                f"not within {seconds} s: {len(wrong)} of {len(wanted)} differ: {wrong!r:.2000}"
            ) from None
        return asyncio.get_running_loop().time() - began

    async def close(self) -> None:
        self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._task


@contextlib.asynccontextmanager
async def watching(subscriber: DiscoverySubscriberLike) -> AsyncIterator[Watch]:
    watch = Watch(subscriber)
    try:
        yield watch
    finally:
        await watch.close()
