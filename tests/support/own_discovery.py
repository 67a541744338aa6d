"""A discovery of the user's own: nothing of wool is inherited, and everything that is asked of it is noted."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from typing import Any, Self

import wool
from support.traced import note
from wool.discovery.base import DiscoveryEvent, DiscoveryEventType, WorkerFilter, WorkerMetadata


class OwnDiscovery:
    """Tells what a LocalDiscovery knows, on the loop of whoever follows it. Its subscriber cannot be pickled."""

    def __init__(self, namespace: str) -> None:
        self.local = wool.LocalDiscovery(namespace)
        self.story: list[tuple[str, str]] = []
        self.publisher = OwnPublisher(self)
        self.before_publish: Callable[[str, WorkerMetadata], Any] = lambda type, metadata: None
        self._lock = threading.Lock()

    @property
    def subscriber(self) -> OwnSubscriber:
        return self.subscribe()

    def subscribe(self, filter: WorkerFilter | None = None, /) -> OwnSubscriber:
        return OwnSubscriber(self, filter)


class OwnPublisher:
    """A manager too: what was published is dropped when it is left."""

    def __init__(self, discovery: OwnDiscovery) -> None:
        self._discovery = discovery
        self.loops: set[asyncio.AbstractEventLoop] = set()

    async def __aenter__(self) -> None:
        self._discovery.local.__enter__()

    async def __aexit__(self, *_: object) -> None:
        self._discovery.local.__exit__(None, None, None)

    async def publish(self, type: DiscoveryEventType, metadata: WorkerMetadata, /) -> None:
        discovery = self._discovery
        self.loops.add(asyncio.get_running_loop())
        waiting = discovery.before_publish(type, metadata)
        if waiting is not None:
            await waiting
        discovery.story.append((type, metadata.uid))
        await discovery.local.publisher.publish(type, metadata)


class OwnSubscriber:
    def __init__(self, discovery: OwnDiscovery, filter: WorkerFilter | None) -> None:
        self._discovery = discovery
        self._filter = filter

    async def __aiter__(self) -> AsyncIterator[DiscoveryEvent]:
        self._discovery.story.append(("followed", ""))
        async for event in self._discovery.local.subscribe(self._filter):
            yield event


class Entered:
    """A manager, async or plain, of whatever it is given; notes when it is entered and left."""

    story: list[str] = []

    def __init__(self, inside: Any) -> None:
        self.inside = inside


class AsyncManager(Entered):
    async def __aenter__(self) -> Any:
        self.story.append("entered")
        return self.inside

    async def __aexit__(self, *_: object) -> None:
        self.story.append("left")


class NotingManager(AsyncManager):
    """Notes in a journal whether it is entered and left on the main thread, in whatever process."""

    def __init__(self, inside: Any, journal: str) -> None:
        super().__init__(inside)
        self.journal = journal

    async def __aenter__(self) -> Any:
        note(self.journal, "entered", threading.current_thread() is threading.main_thread())
        return self.inside

    async def __aexit__(self, *_: object) -> None:
        note(self.journal, "left", threading.current_thread() is threading.main_thread())


class Manager(Entered):
    def __enter__(self) -> Any:
        self.story.append("entered")
        return self.inside

    def __exit__(self, *_: object) -> None:
        self.story.append("left")


class SelfManager(OwnDiscovery):
    """A discovery that is a manager too, whose ``__aenter__`` returns nothing."""

    async def __aenter__(self) -> None:
        Entered.story.append("entered")

    async def __aexit__(self, *_: object) -> None:
        Entered.story.append("left")


class OpenOwnDiscovery(OwnDiscovery):
    """One that holds its namespace while it is entered."""

    async def __aenter__(self) -> Self:
        self.local.__enter__()
        return self

    async def __aexit__(self, *_: object) -> None:
        self.local.__exit__(None, None, None)
