"""What each subscription of production's discoveries says, written down before anybody has made anything of it.

Why it exists: whoever places tasks swallows what it knows already, and a plan changes what it hears (`Told`, in
`wool.sim.discovery`). The grammar of events is the discovery's promise, so it is heard at the discovery's own iterator.

What it must never do: change, hold back or reorder an event.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from typing import TYPE_CHECKING, Any, Protocol, cast

from wool.discovery.base import DiscoveryEvent, DiscoveryEventType, DiscoverySubscriberLike
from wool.sim.loop import LoopOwner, SimLoop

if TYPE_CHECKING:
    from wool.sim.history import Detail

_KINDS: dict[DiscoveryEventType, str] = {
    "worker-added": "heard.added",
    "worker-updated": "heard.updated",
    "worker-dropped": "heard.dropped",
}


class Named(Protocol):
    """The cluster, as far as it knows who is who."""

    def incarnation_of(self, uid: str) -> str:
        """Return the incarnation that is a worker."""
        ...


class Subscribing(LoopOwner, Protocol):
    """A process, as what it subscribes to knows it."""

    subscriptions: int
    """How many it has begun."""

    @property
    def cluster(self) -> Named:
        """Where it lives."""
        ...

    def note(self, kind: str, task: str = "", attempt: str = "", detail: Detail = ()) -> None:
        """Write into the history."""
        ...


def _here() -> Subscribing:
    loop = asyncio.get_running_loop()
    assert isinstance(loop, SimLoop) and loop.owner is not None
    return cast("Subscribing", loop.owner)


class Between:
    """A subscriber between production's and whoever subscribes; what becomes of the events is a subclass's."""

    lives_on_io_loop = True

    def __init__(self, inner: DiscoverySubscriberLike) -> None:
        self._inner = inner

    @property
    def is_looking(self) -> bool:
        """Whether it has still to hear from everybody, as far as it knows."""
        return bool(getattr(self._inner, "is_looking", False))

    def __aiter__(self) -> AsyncGenerator[DiscoveryEvent, None]:  # noqa: PYI058 - aclose() is part of it
        """Return a new subscription."""
        return self._events()

    def _events(self) -> AsyncGenerator[DiscoveryEvent, None]:
        raise NotImplementedError

    def __reduce__(self) -> tuple[Any, ...]:
        return (type(self), (self._inner,))

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._inner!r}>"


class Overheard(Between):
    """Each event is written into the history."""

    async def _events(self) -> AsyncGenerator[DiscoveryEvent, None]:
        here = _here()
        number = here.subscriptions
        here.subscriptions += 1
        events = self._inner.__aiter__()
        try:
            async for event in events:
                worker = here.cluster.incarnation_of(event.metadata.key)
                here.note(_KINDS[event.type], detail=(("subscription", number), ("worker", worker)))
                yield event
        finally:
            close = getattr(events, "aclose", None)
            if close is not None:
                await close()
