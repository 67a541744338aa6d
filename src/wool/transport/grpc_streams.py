"""The two ends of a stream over gRPC: reading, writing, breaking and ending one bidirectional call.

Messages stay bytes: gRPC neither serialises nor parses. Maps every foreign exception to `StreamLost`, and
tells a cancelled task from a cancelled call, both of which gRPC reports as ``CancelledError``. Never puts a
time-out on a read or write, except to give the stream up (a cancelled one cancels the call), never infers that
a written message arrived (#21348), knows nothing of tasks.
"""

from __future__ import annotations

import asyncio
import logging
import warnings
import weakref
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Coroutine
from typing import Any, TypeVar, cast

from wool.harmless import harmless
from wool.limits import Limits
from wool.transport.base import StreamLost
from wool.transport.grpc_environment import environment_for_import
from wool.transport.grpc_pulse import Pulse
from wool.transport.onlookers import readable

with environment_for_import():
    import grpc
    import grpc.aio

_T = TypeVar("_T")

_FOREIGN = (grpc.RpcError, grpc.aio.BaseError, asyncio.InvalidStateError)
"""What grpc.aio raises when a call is over. Among them `ExecuteBatchError` and `INTERNAL`, which appear in
ordinary races of two closing ends (#31570, #36066) and say nothing about the peer's health."""

_ENDED_THERE = "ended by the other end"
_ENDED_HERE = "closed at this end"
_GONE = "the other end is gone"
_SILENT = "the other end gives no sign of life"

_LOOKS = 4
"""After a pulse has stopped, for what still arrives; several, since one may come late in a loop that was held up."""

_logger = logging.getLogger(__name__)


class _Turn:
    """The right to read from, or to write to, one end: gRPC allows one outstanding operation of each."""

    __slots__ = ("idle", "interrupted", "task", "verb")

    def __init__(self, verb: str) -> None:
        self.verb = verb
        self.task: asyncio.Task[Any] | None = None
        self.interrupted = False
        self.idle: asyncio.Future[None] | None = None
        """Made by who waits for the end of the operation under way."""

    async def over(self, seconds: float) -> None:
        """Wait, at most so long, until no operation is under way."""
        if self.task is not None:
            self.idle = self.idle or asyncio.get_running_loop().create_future()
            await asyncio.wait([self.idle], timeout=seconds)

    def interrupt(self) -> None:
        """End the operation under way, as `asyncio.timeout` does: by a cancel that is taken back."""
        if self.task is not None and not self.interrupted:
            self.interrupted = True
            self.task.cancel()


class GrpcStream(ABC):
    """What both ends of a stream have in common."""

    def __init__(self, name: str, limits: Limits, other_end: str) -> None:
        self._name = name
        self.other_end: str = other_end
        """Who is at the other end: an address, for logs."""
        self._message_bytes = limits.message_bytes
        self._close_seconds = limits.close_seconds
        self._lost: str | None = None
        # Only writing has ended: what the other end wrote before can still be read.
        self._unwritable: str | None = None
        self._reading = _Turn("read from")
        self._writing = _Turn("write to")
        self._closing: asyncio.Task[None] | None = None
        self._received = 0
        self._look_seconds = limits.unix_silence_seconds / _LOOKS

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._name}: {self._lost or self._unwritable or 'open'}>"

    async def read(self) -> bytes:
        """Return the next message. Raises `StreamLost`; a cancelled read breaks the stream."""
        if self._lost is not None:
            raise StreamLost(self._lost)
        try:
            message = await self._perform(self._reading, self._receive())
        except _FOREIGN as error:
            raise StreamLost(self._lose(reason_of(error))) from error
        if message is None:
            raise StreamLost(self._lose(_ENDED_THERE))
        self._received += 1
        return message

    async def write(self, message: bytes) -> None:
        """Hand ``message`` over; returns when there is room for another.

        Raises `StreamLost`, and `ValueError` for a message above ``Limits.message_bytes``. A cancelled
        write breaks the stream.
        """
        if len(message) > self._message_bytes:
            raise ValueError(f"a message of {len(message)} B is above Limits.message_bytes={self._message_bytes}")
        reason = self._lost or self._unwritable
        if reason is not None:
            raise StreamLost(reason)
        try:
            await self._perform(self._writing, self._send(message))
        except _FOREIGN as error:
            self._unwritable = self._lost or reason_of(error)
            raise StreamLost(self._unwritable) from error

    @abstractmethod
    def abort(self, reason: str) -> None:
        """Break the stream at once, both directions; idempotent. Pending reads and writes end."""

    def pulse_stopped(self) -> None:
        """Learn that the pulse has stopped: break the stream if who waits for the other end waits in vain.

        A peer that died, or closed, may have written much before; that is read to its end.
        """

        self._look_for_life(_LOOKS, self._received)

    def _look_for_life(self, looks: int, received: int) -> None:
        if self._lost is not None:
            return
        if self._received != received or (self._reading.task or self._writing.task) is None:
            looks = _LOOKS
        elif not looks:
            self.abort(_SILENT)
            return
        loop = asyncio.get_running_loop()
        loop.call_later(self._look_seconds, self._look_for_life, looks - 1, self._received)

    async def close(self) -> None:
        """End the stream after what has been written, and free it; idempotent.

        Waits at most ``Limits.close_seconds`` for the other end to take it. A caller that is cancelled
        leaves at once; the closing goes on, as bounded as before.
        """
        if self._closing is None:
            self._closing = asyncio.create_task(self._close(), name=f"{self._name}: close")
        await asyncio.shield(self._closing)

    @abstractmethod
    async def _receive(self) -> bytes | None:
        """Read from gRPC; ``None`` at the end."""

    @abstractmethod
    async def _send(self, message: bytes) -> None:
        """Write to gRPC."""

    @abstractmethod
    async def _close(self) -> None: ...

    def _lose(self, reason: str) -> str:
        """Note that nothing passes any more. The first reason stays: those that follow are echoes."""
        if self._lost is None:
            self._lost = reason
        return self._lost

    async def _perform(self, turn: _Turn, operation: Coroutine[Any, Any, _T]) -> _T:
        """Run a read or write, and tell a cancelled task from a cancelled call.

        gRPC raises ``CancelledError`` for both. As `asyncio.timeout` does, this counts the task's pending
        cancellations: a call that we cancelled ourselves adds none.
        """
        task = asyncio.current_task()
        assert task is not None, "a stream is used by tasks"
        if turn.task is not None:
            operation.close()
            raise RuntimeError(f"one task at a time may {turn.verb} a stream")
        cancellations = task.cancelling()
        turn.task = task
        try:
            return await operation
        except asyncio.CancelledError:
            turn.task = None  # nothing is under way any more that the abort below could interrupt
            if turn.interrupted:
                turn.interrupted = False
                task.uncancel()
            if self._lost is None or task.cancelling() > cancellations:
                self.abort(f"a task was cancelled that {turn.verb} it")
                raise
            raise StreamLost(self._lost) from None
        finally:
            turn.task = None
            if turn.idle is not None:
                turn.idle.set_result(None)
                turn.idle = None


class ConnectedStream(GrpcStream):
    """The end that connected. It owns its channel, one connection per stream, and its pulse."""

    def __init__(
        self,
        channel: grpc.aio.Channel,
        call: grpc.aio.StreamStreamCall[bytes, bytes],
        other_end: str,
        limits: Limits,
        pulse: Pulse | None = None,
    ) -> None:
        super().__init__(f"to {other_end}", limits, other_end)
        self._channel = channel
        self._pulse = pulse
        if pulse is not None:
            # By a weak reference, or a stream that nobody closes would never be missed.
            pulse.watch(weakref.WeakMethod(self.pulse_stopped))
        # Let go by `close`: gRPC keeps descriptors as long as somebody has a call in hand, even one that is over.
        self._call: grpc.aio.StreamStreamCall[bytes, bytes] | None = call
        # Not call.read(): it refuses once the call is done, and a failed write marks the call as done, so
        # what the other end wrote before it closed would be lost. The iterator reads to the true end. (It
        # must not be mixed with call.read(), #40921; with call.write() it may.)
        self._messages: AsyncGenerator[bytes, None] | None = cast(AsyncGenerator[bytes, None], aiter(call))

    def __del__(self) -> None:
        if self._closing is None:
            warnings.warn(f"unclosed {self!r}", ResourceWarning, source=self, stacklevel=2)

    def abort(self, reason: str) -> None:
        """Break the stream at once, both directions; idempotent. Pending reads and writes end."""
        self._lose(reason)
        if self._call is not None:
            self._call.cancel()
            # What gRPC has begun to write into a full socket outlasts even that.
            self._writing.interrupt()

    async def _receive(self) -> bytes | None:
        assert self._messages is not None, "read after close"
        return await anext(self._messages, None)

    async def _send(self, message: bytes) -> None:
        assert self._call is not None, "write after close"
        await self._call.write(message)

    async def _close(self) -> None:
        assert self._call is not None, "closed twice"
        assert self._messages is not None, "closed twice"
        graceful = self._lost is None and self._unwritable is None
        self._lose(_ENDED_HERE)
        try:
            if graceful or self._unwritable is not None:
                await self._finish(self._call, say_so=graceful)
        finally:
            self._call.cancel()
            # Closed here, or the garbage collector makes a task of it.
            await self._reading.over(self._close_seconds)
            if self._reading.task is None:
                await self._messages.aclose()
            await self._channel.close()
            if self._pulse is not None:
                await self._pulse.close()
                self._pulse = None
            self._call = self._messages = None

    async def _finish(self, call: grpc.aio.StreamStreamCall[bytes, bytes], *, say_so: bool) -> None:
        """Say that nothing follows, and wait for the other end to have read everything and to end the call.

        A cancel at this point would overtake the messages. What still arrives is read and dropped, or the
        other end could not get rid of it and would never look at ours. After a failed write too, though there is
        nobody to say so to: for gRPC such a call is over and cannot be cancelled, and yet it keeps its connection
        until the last message has been read.
        """
        try:
            async with asyncio.timeout(self._close_seconds):
                if say_so:
                    await call.done_writing()
                await self._reading.over(self._close_seconds)
                if self._reading.task is None:
                    while await self._receive() is not None:
                        pass
        except TimeoutError:
            _logger.debug("%r: the other end did not take everything within %s s", self, self._close_seconds)
        except _FOREIGN as error:
            _logger.debug("%r: already gone: %s", self, reason_of(error))
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise
            _logger.debug("%r: aborted while it was closed", self)


class AcceptedStream(GrpcStream):
    """The end that was accepted.

    It lives as long as `SessionServicer.Session` runs: gRPC frees the call when that returns, so no
    operation may begin once ``_lost`` is set.
    """

    def __init__(self, context: grpc.aio.ServicerContext[bytes, bytes], name: str, limits: Limits) -> None:
        other_end = readable(context.peer())
        super().__init__(f"{name} from {other_end}", limits, other_end)
        self._context: grpc.aio.ServicerContext[bytes, bytes] | None = context
        loop = asyncio.get_running_loop()
        self.verdict: asyncio.Future[str | None] = loop.create_future()
        """How the call is to end: with OK (``None``), or as a failure with this reason."""
        self.ended: asyncio.Event = asyncio.Event()
        self._over: asyncio.Future[None] = loop.create_future()
        context.add_done_callback(cast(Any, self._call_over))

    def abort(self, reason: str) -> None:
        """Break the stream at once, both directions; idempotent. Pending reads and writes end.

        If the other end does not read, it learns this only when it does, or when its connection ends:
        gRPC lets a server's last word wait behind what flow control holds back.
        """
        self._decide(self._lose(reason))
        self._reading.interrupt()
        self._writing.interrupt()

    def end(self) -> None:
        """Learn that the call has ended: from here on, gRPC must not be touched. gRPC itself ends what is pending."""
        self._lose(_GONE)
        self._decide(None)
        self._context = None
        self.ended.set()

    async def _receive(self) -> bytes | None:
        assert self._context is not None, "read after the end"
        # gRPC says bytes; at the end it is its EOF object, which is the only thing here that is not bytes.
        message = cast(object, await self._context.read())
        if isinstance(message, bytes):
            return message
        # The other end has closed or is gone. It reads no more, so the call may end, whatever the handler
        # does next: a closing peer waits for that. Or gRPC has ended it, for too large a message, and does not say so.
        too_large = f", or by gRPC for a message above {self._message_bytes} B (message_bytes)"
        self._lose(_ENDED_THERE if self._received else _ENDED_THERE + too_large)
        self._decide(None)
        return None

    async def _send(self, message: bytes) -> None:
        assert self._context is not None, "write after the end"
        await self._context.write(message)

    async def _close(self) -> None:
        self._lose(_ENDED_HERE)
        self._decide(None)
        await asyncio.wait([self._over], timeout=self._close_seconds)
        self._reading.interrupt()
        self._writing.interrupt()

    def _decide(self, verdict: str | None) -> None:
        if not self.verdict.done():
            self.verdict.set_result(verdict)

    def _call_over(self, _: object) -> None:
        if not self._over.done():
            self._over.set_result(None)


def reason_of(error: BaseException) -> str:
    if isinstance(error, grpc.aio.AioRpcError):
        return f"{error.code().name}: {harmless(error.details() or '')}"
    return f"the call is over ({type(error).__name__})"
