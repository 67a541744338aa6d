"""Streams between tasks of one event loop: the transport of tests and of the simulator.

It keeps every promise of the real one, under the same conformance tests, and nothing in it depends on
threads, on the wall clock or on the order of a set: the same inputs give the same run. Where gRPC leaves
something open, it does the least: what an abort finds under way is lost, a cancelled read or write breaks
the stream, and each call gives way to other tasks at least once.

All that one end tells the other passes through `MemoryNetwork.carry`, and every stream begins in
`MemoryNetwork.open`. A network that delays, loses or breaks overrides these two and nothing else.
"""

from __future__ import annotations

import asyncio
import types
from collections import deque
from collections.abc import Generator
from dataclasses import dataclass
from itertools import count
from typing import TypeAlias

from wool.limits import DEFAULT_LIMITS, Limits
from wool.transport.base import ConnectFailed, Stream, StreamHandler, StreamLost
from wool.transport.serving import Handlers

_FIRST_PORT = 49152
"""Given to the first address that asks for any port: where the ephemeral range begins."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """One end has closed: nothing follows what it wrote before, and it reads no more."""

    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Broken:
    """One end has aborted: what the other has not read yet is lost."""

    reason: str


@dataclass(frozen=True, slots=True)
class Taken:
    """One end has read so many bytes: there is room for as many more."""

    size: int


Item: TypeAlias = bytes | Ended | Broken | Taken
"""What one end tells the other. Items of one end must arrive in order."""


class MemoryNetwork:
    """Where ends of one event loop find each other. Share one object among the transports."""

    def __init__(self) -> None:
        self._listeners: dict[str, MemoryListener] = {}
        self._ports = count(_FIRST_PORT)
        self._streams = count(1)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} listeners={len(self._listeners)}>"

    async def open(self, address: str, limits: Limits) -> MemoryStream:
        """Join a new stream to whoever listens at ``address``. Raises `ConnectFailed`."""
        await asyncio.sleep(0)
        listener = self._listeners.get(address)
        if listener is None:
            raise ConnectFailed(f"nobody listens at {address}")
        name = f"{address}#{next(self._streams)}"
        near, far = MemoryStream(self, f"{name} near", limits), MemoryStream(self, f"{name} far", listener.limits)
        near.peer, far.peer = far, near
        listener.accept(far)
        return near

    def carry(self, source: MemoryStream, item: Item) -> None:
        """Bring ``item`` from ``source`` to the other end of its stream, now or later, in order."""
        source.peer.arrive(item)

    def taken(self, source: MemoryStream, size: int) -> None:
        """Bring it to the other end that ``source`` has read so many bytes."""
        self.carry(source, Taken(size))

    def register(self, listener: MemoryListener, address: str) -> str:
        """Give ``address`` to ``listener`` and return it, with a port where it asked for any."""
        if not address.startswith("unix:") and address.endswith(":0"):
            address = f"{address[:-2]}:{next(self._ports)}"
        if address in self._listeners:
            raise OSError(f"cannot listen at {address}: the address is in use")
        self._listeners[address] = listener
        return address

    def unregister(self, address: str) -> None:
        """Let nobody reach ``address`` any more."""
        self._listeners.pop(address, None)


@types.coroutine
def _give_way() -> Generator[None]:
    """Let other tasks run once: ``asyncio.sleep(0)``, without what that does for longer sleeps."""
    yield


class MemoryStream:
    """One end of a stream in memory."""

    peer: MemoryStream

    def __init__(self, network: MemoryNetwork, name: str, limits: Limits) -> None:
        self._network = network
        self._name = name
        self._message_bytes = limits.message_bytes
        # As much as gRPC lets wait on a Unix socket.
        self.buffer_bytes: int = limits.unix_lookahead_bytes
        self._arrived: deque[bytes] = deque()
        self._unread_bytes = 0  # written here, not yet read there
        self._lost: str | None = None  # nothing passes any more
        self._ended: str | None = None  # nothing arrives any more, and nobody reads
        self._reading = _Turn("read from")
        self._writing = _Turn("write to")

    def __repr__(self) -> str:
        state = self._lost or self._ended or "open"
        return f"<{type(self).__name__} {self._name}: {state}, {self._unread_bytes} B unread>"

    @property
    def other_end(self) -> str:
        """Who is at the other end: for logs."""
        return self.peer._name

    async def read(self) -> bytes:
        """Return the next message. Raises `StreamLost`; a cancelled read breaks the stream."""
        turn, arrived = self._reading, self._arrived
        if turn.taken:
            raise turn.refusal()
        turn.taken = True
        try:
            # Gives way to other tasks once in any case.
            if arrived or self._lost or self._ended:
                await _give_way()
            while not (arrived or self._lost or self._ended):
                turn.waiter = asyncio.get_running_loop().create_future()
                await turn.waiter
            if self._lost or not arrived:
                raise StreamLost(self._lost or self._ended)
            message = arrived.popleft()
            self._network.taken(self, len(message))
            return message
        except asyncio.CancelledError:
            self._cancelled()
            raise
        finally:
            turn.taken = False
            turn.waiter = None

    async def write(self, message: bytes) -> None:
        """Hand ``message`` over; returns when there is room for another.

        Raises `StreamLost`, and `ValueError` for a message above ``Limits.message_bytes``. A cancelled
        write breaks the stream.
        """
        if len(message) > self._message_bytes:
            raise ValueError(f"a message of {len(message)} B is above Limits.message_bytes={self._message_bytes}")
        turn = self._writing
        if turn.taken:
            raise turn.refusal()
        turn.taken = True
        try:
            if self._lost or self._ended:
                raise StreamLost(self._lost or self._ended)
            self._unread_bytes += len(message)
            self._network.carry(self, message)
            await _give_way()
            while self._unread_bytes > self.buffer_bytes and not (self._lost or self._ended):
                turn.waiter = asyncio.get_running_loop().create_future()
                await turn.waiter
            if self._lost or self._ended:
                raise StreamLost(self._lost or self._ended)
        except asyncio.CancelledError:
            self._cancelled()
            raise
        finally:
            turn.taken = False
            turn.waiter = None

    def abort(self, reason: str) -> None:
        """Break the stream at once; the other end loses what it has not read. Idempotent."""
        if self._lost is None:
            self._break(reason)
            self._network.carry(self, Broken(reason=reason))

    async def close(self) -> None:
        """End the stream after what has been written. Idempotent."""
        if self._lost is None:
            self._break("closed at this end")
            self._network.carry(self, Ended(reason="ended by the other end"))
        await _give_way()

    def arrive(self, item: Item) -> None:
        """Take what the other end said. For `MemoryNetwork.carry` only."""
        if self._lost is not None or self._ended is not None:
            if self._lost is None and isinstance(item, Broken):
                self._break(item.reason)
            return
        if isinstance(item, bytes):
            self._arrived.append(item)
            self._reading.wake()
        elif isinstance(item, Taken):
            self._unread_bytes -= item.size
            assert self._unread_bytes >= 0, "more was read than was written"
            self._writing.wake()
        elif isinstance(item, Ended):
            self._ended = item.reason
            self._writing.wake()
            self._reading.wake()
        else:
            self._break(item.reason)

    def _cancelled(self) -> None:
        # gRPC's rule, kept here so that nobody relies on less.
        self.abort("a read or a write was cancelled")

    def _break(self, reason: str) -> None:
        self._lost = reason
        self._arrived.clear()
        self._reading.wake()
        self._writing.wake()


class _Turn:
    """The right to read from, or to write to, one end: one task's at a time, as on gRPC."""

    __slots__ = ("_verb", "taken", "waiter")

    def __init__(self, verb: str) -> None:
        self._verb = verb
        self.taken: bool = False
        self.waiter: asyncio.Future[None] | None = None
        """What who has it waits for, if it waits for the other end."""

    def refusal(self) -> RuntimeError:
        """Return what to raise where another task has it."""
        return RuntimeError(f"one task at a time may {self._verb} a stream")

    def wake(self) -> None:
        """Let the waiting task look again."""
        if self.waiter is not None and not self.waiter.done():
            self.waiter.set_result(None)


class MemoryListener:
    """An address of a `MemoryNetwork` that accepts streams."""

    def __init__(self, network: MemoryNetwork, address: str, handler: StreamHandler, limits: Limits) -> None:
        self._network = network
        self.limits = limits
        self._address = network.register(self, address)
        self._handlers = Handlers(handler, name=self._address, close_seconds=limits.close_seconds)
        self._closing: asyncio.Task[None] | None = None

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._address} {self._handlers!r}>"

    @property
    def address(self) -> str:
        """Where it listens."""
        return self._address

    def accept(self, stream: Stream) -> None:
        """Serve ``stream``. For `MemoryNetwork.open` only."""
        self._handlers.start(stream)

    async def close(self) -> None:
        """Accept no more, abort what is open, wait (bounded) for the handlers; idempotent.

        A caller that is cancelled leaves at once; the closing goes on, as bounded as before.
        """
        if self._closing is None:
            self._network.unregister(self._address)
            self._closing = asyncio.create_task(
                self._handlers.close("the listener was closed"), name=f"{self._address}: close"
            )
        await asyncio.shield(self._closing)


class MemoryTransport:
    """Reaches the listeners of one `MemoryNetwork`; all its ends live on one event loop."""

    def __init__(self, network: MemoryNetwork, limits: Limits = DEFAULT_LIMITS) -> None:
        self._network = network
        self._limits = limits
        self.one_way: bool = False
        """See `Transport`; nothing here depends on it."""

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._network!r}>"

    async def connect(self, address: str) -> Stream:
        """Open a stream to ``address``. Raises `ConnectFailed`."""
        return await self._network.open(address, self._limits)

    async def listen(self, address: str, handler: StreamHandler) -> MemoryListener:
        """Serve ``address``. Raises `OSError` if it is in use."""
        return MemoryListener(self._network, address, handler, self._limits)

    async def close(self) -> None:
        """Nothing is shared, so nothing to free."""
