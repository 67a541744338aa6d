"""Moving whole messages between two ends, and nothing else.

A stream carries bytes in order, both ways, until it breaks; then it is broken for good, and each
direction has delivered a prefix. A write that returned is not a message that arrived. Transports know
nothing of tasks. They map every foreign exception to `StreamLost` or `ConnectFailed`, once, here.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Protocol, TypeAlias


class StreamLost(Exception):
    """The stream is broken or was closed by the other end. Says nothing about what was delivered."""


class ConnectFailed(Exception):
    """No stream could be opened: nobody listens, or the address is not reachable. May work later."""


class ConnectRefused(ConnectFailed):
    """Somebody answers, and one of the two ends does not take the certificate of the other. May work later."""


class Stream(Protocol):
    """One end of a bidirectional stream of messages.

    One reader task and one writer task at a time, each long-lived: on gRPC a cancelled read or write
    breaks the whole stream, so time-outs belong in the queues above.
    """

    @property
    def other_end(self) -> str:
        """Who is at the other end, as far as the transport knows: words for a log."""
        ...

    async def read(self) -> bytes:
        """Return the next message. Raises `StreamLost` at the end of the stream, however it came."""
        ...

    async def write(self, message: bytes) -> None:
        """Hand ``message`` over; returns when there is room for another. Raises `StreamLost`."""
        ...

    def abort(self, reason: str) -> None:
        """Break the stream at once, both directions; idempotent. Pending reads and writes end."""
        ...

    async def close(self) -> None:
        """End the stream after what has been written, and free it; idempotent; bounded."""
        ...


StreamHandler: TypeAlias = Callable[[Stream], Awaitable[None]]
"""Serves one accepted stream. The stream is closed when it returns."""


class Listener(Protocol):
    """An open address that accepts streams."""

    @property
    def address(self) -> str:
        """Where it listens, with the port that the system chose."""
        ...

    async def close(self) -> None:
        """Accept no more, abort what is open, wait (bounded) for the handlers; idempotent."""
        ...


class Transport(Protocol):
    """A way to reach workers. Lives on one event loop: the I/O loop."""

    @property
    def one_way(self) -> bool:
        """Whether it is encrypted, and the connecting end does not show who it is, or is not asked to."""
        ...

    async def connect(self, address: str) -> Stream:
        """Open a stream to ``address``. Raises `ConnectFailed`. Cancelling gives up cleanly."""
        ...

    async def listen(self, address: str, handler: StreamHandler) -> Listener:
        """Serve ``address`` (``unix:/path`` or ``host:port``; port 0: any). Raises `OSError`-like errors."""
        ...

    async def close(self) -> None:
        """Free what streams shared; idempotent."""
        ...
