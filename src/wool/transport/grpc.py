"""Streams over gRPC: one bidirectional call, on a connection of its own, is one stream.

gRPC gives flow control, liveness, TLS and message boundaries; this module takes exactly these and hides
everything else. Messages stay bytes: gRPC neither serialises nor parses. Owns the channels, calls, server
and socket files that it makes. Maps every foreign exception to `StreamLost` or `ConnectFailed`, here and
nowhere else, and tells a cancelled task from a cancelled call, both of which gRPC reports as
``CancelledError``. Never puts a time-out on a read or write, except to give the stream up (a cancelled one
cancels the call), never infers that a written message arrived (#21348), knows nothing of tasks.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import socket
import stat
import warnings
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Coroutine
from typing import Any, TypeVar, cast

from wool.limits import Limits
from wool.transport.base import ConnectFailed, Stream, StreamHandler, StreamLost
from wool.transport.grpc_environment import environment_for_import
from wool.transport.grpc_options import Address, channel_options, check, join, parse, server_options
from wool.transport.serving import Handlers

with environment_for_import():
    import grpc
    import grpc.aio

_T = TypeVar("_T")

_SERVICE = "wool.protocol.Worker"
_METHOD = "Session"

_OPEN = ("wool-session", "open")
"""Initial metadata of a stream that a wool server has accepted. An RPC that fails has initial metadata too,
empty, and another server may answer with anything: this says that the right one is there."""

_FOREIGN = (grpc.RpcError, grpc.aio.BaseError, asyncio.InvalidStateError)
"""What grpc.aio raises when a call is over. Among them `ExecuteBatchError` and `INTERNAL`, which appear in
ordinary races of two closing ends (#31570, #36066) and say nothing about the peer's health."""

_ENDED_THERE = "ended by the other end"
_ENDED_HERE = "closed at this end"
_GONE = "the other end is gone"

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


class _GrpcStream(ABC):
    """What both ends of a stream have in common."""

    def __init__(self, name: str, limits: Limits) -> None:
        self._name = name
        self._message_bytes = limits.message_bytes
        self._close_seconds = limits.close_seconds
        self._lost: str | None = None
        # Only writing has ended: what the other end wrote before can still be read.
        self._unwritable: str | None = None
        self._reading = _Turn("read from")
        self._writing = _Turn("write to")
        self._closing: asyncio.Task[None] | None = None

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._name}: {self._lost or self._unwritable or 'open'}>"

    async def read(self) -> bytes:
        """Return the next message. Raises `StreamLost`; a cancelled read breaks the stream."""
        if self._lost is not None:
            raise StreamLost(self._lost)
        try:
            message = await self._perform(self._reading, self._receive())
        except _FOREIGN as error:
            raise StreamLost(self._lose(_reason(error))) from error
        if message is None:
            raise StreamLost(self._lose(_ENDED_THERE))
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
            self._unwritable = self._lost or _reason(error)
            raise StreamLost(self._unwritable) from error

    @abstractmethod
    def abort(self, reason: str) -> None:
        """Break the stream at once, both directions; idempotent. Pending reads and writes end."""

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


class _ConnectedStream(_GrpcStream):
    """The end that connected. It owns its channel: one connection per stream."""

    def __init__(
        self, channel: grpc.aio.Channel, call: grpc.aio.StreamStreamCall[bytes, bytes], name: str, limits: Limits
    ) -> None:
        super().__init__(name, limits)
        self._channel = channel
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
            if graceful:
                await self._finish(self._call)
        finally:
            self._call.cancel()
            # Closed here, or the garbage collector makes a task of it.
            await self._reading.over(self._close_seconds)
            if self._reading.task is None:
                await self._messages.aclose()
            await self._channel.close()
            self._call = self._messages = None

    async def _finish(self, call: grpc.aio.StreamStreamCall[bytes, bytes]) -> None:
        """Say that nothing follows, and wait for the other end to have read everything and to end the call.

        A cancel at this point would overtake the messages. What still arrives is read and dropped, or the
        other end could not get rid of it and would never look at ours.
        """
        try:
            async with asyncio.timeout(self._close_seconds):
                await call.done_writing()
                await self._reading.over(self._close_seconds)
                if self._reading.task is None:
                    while await self._receive() is not None:
                        pass
        except TimeoutError:
            _logger.debug("%r: the other end did not take everything within %s s", self, self._close_seconds)
        except _FOREIGN as error:
            _logger.debug("%r: already gone: %s", self, _reason(error))
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise
            _logger.debug("%r: aborted while it was closed", self)


class _AcceptedStream(_GrpcStream):
    """The end that was accepted.

    It lives as long as `SessionServicer.Session` runs: gRPC frees the call when that returns, so no
    operation may begin once ``_lost`` is set.
    """

    def __init__(self, context: grpc.aio.ServicerContext[bytes, bytes], name: str, limits: Limits) -> None:
        super().__init__(name, limits)
        self._context: grpc.aio.ServicerContext[bytes, bytes] | None = context
        loop = asyncio.get_running_loop()
        self.verdict: asyncio.Future[str | None] = loop.create_future()
        """How the call is to end: with OK (``None``), or as a failure with this reason."""
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

    async def _receive(self) -> bytes | None:
        assert self._context is not None, "read after the end"
        # gRPC says bytes; at the end it is its EOF object, which is the only thing here that is not bytes.
        message = cast(object, await self._context.read())
        if isinstance(message, bytes):
            return message
        # The other end has closed or is gone. It reads no more, so the call may end, whatever the handler
        # does next: a closing peer waits for that.
        self._lose(_ENDED_THERE)
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


class SessionServicer:
    """Serves ``wool.protocol.Worker``: each call of its one method is one stream for ``handler``.

    Register it with `add_servicer_to_server`. It keeps its own registry of what is open, since gRPC's
    shutdown does not wait for handlers that were aborted (#37239).
    """

    def __init__(self, handler: StreamHandler, limits: Limits, *, name: str = "session") -> None:
        self._name = name
        self._limits = limits
        self._handlers = Handlers(handler, name=name, close_seconds=limits.close_seconds)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._handlers!r}>"

    @property
    def open(self) -> int:
        """How many handlers have not ended."""
        return self._handlers.open

    async def Session(  # noqa: N802  the method's name on the wire
        self, _: object, context: grpc.aio.ServicerContext[bytes, bytes]
    ) -> None:
        """Serve one call; returns, and so ends the call, when the stream has ended.

        gRPC cancels this coroutine when the other end goes. The handler runs in a task of its own, which is
        not cancelled: it learns the end from its stream, as it learns any other.
        """
        if not self._handlers.closing:
            # At once, so that the connecting end knows that it has been accepted.
            await context.send_initial_metadata((_OPEN,))
        if self._handlers.closing:  # perhaps since a moment ago
            await context.abort(grpc.StatusCode.UNAVAILABLE, "the listener was closed")
        stream = _AcceptedStream(context, f"{self._name} from {context.peer()}", self._limits)
        self._handlers.start(stream)
        try:
            verdict = await stream.verdict
            if verdict is not None:
                await context.abort(grpc.StatusCode.ABORTED, verdict)
        except grpc.aio.InternalError:
            _logger.debug("%r: the other end had gone before it could be told", stream)
        finally:
            stream.end()

    async def close(self, reason: str) -> None:
        """Accept no more, abort every open stream, wait for the handlers, bounded."""
        await self._handlers.close(reason)


def add_servicer_to_server(servicer: SessionServicer, server: grpc.aio.Server) -> None:
    """Register ``servicer`` with a server that has not been started. Messages stay bytes."""
    method = cast(
        "grpc.RpcMethodHandler[bytes, bytes]", grpc.stream_stream_rpc_method_handler(cast(Any, servicer.Session))
    )
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(_SERVICE, {_METHOD: method}),))


class GrpcListener:
    """An open address with a gRPC server behind it."""

    def __init__(self, where: Address, server: grpc.aio.Server, servicer: SessionServicer, limits: Limits) -> None:
        self._where = where
        self._server = server
        self._servicer = servicer
        self._close_seconds = limits.close_seconds
        self._socket_file = _identity(where.path) if where.kind == "unix" else None
        self._closing: asyncio.Task[None] | None = None

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._where.text} open={self._servicer.open}>"

    def __del__(self) -> None:
        if self._closing is None:
            warnings.warn(f"unclosed {self!r}", ResourceWarning, source=self, stacklevel=2)

    @property
    def address(self) -> str:
        """Where it listens, with the port that the system chose."""
        return self._where.text

    async def close(self) -> None:
        """Accept no more, abort what is open, wait (bounded) for the handlers; idempotent.

        Takes at most four times ``Limits.close_seconds``, against handlers and against gRPC. A caller that
        is cancelled leaves at once; the closing goes on, as bounded as before.
        """
        if self._closing is None:
            self._closing = asyncio.create_task(self._close(), name=f"{self._where.text}: close")
        await asyncio.shield(self._closing)

    async def _close(self) -> None:
        # With a grace gRPC says a polite GOAWAY; without, every peer writes an error to its stderr. What has
        # not ended after it is cut off: this alone ends calls whose peer does not read.
        stop = asyncio.create_task(self._server.stop(self._close_seconds), name=f"{self._where.text}: stop")
        await self._servicer.close("the listener was closed")
        done, _ = await asyncio.wait([stop], timeout=2 * self._close_seconds)
        if not done:
            stop.cancel()
            _logger.error("the gRPC server at %s did not stop (#43421, #40989)", self._where.text)
        await asyncio.gather(stop, return_exceptions=not done)
        # gRPC removes the socket file. If it did not, and it is still ours, it must not outlive the listener.
        if self._socket_file is not None and _identity(self._where.path) == self._socket_file:
            os.unlink(self._where.path)


class GrpcTransport:
    """Reaches workers over gRPC, on Unix sockets and TCP. Belongs to the event loop that first uses it."""

    def __init__(self, limits: Limits) -> None:
        for kind in ("unix", "tcp"):
            check(channel_options(kind, limits), server_options(kind, limits))
        self._limits = limits
        self._loop: asyncio.AbstractEventLoop | None = None
        self._closed = False

    def __repr__(self) -> str:
        return f"<{type(self).__name__}{' closed' if self._closed else ''}>"

    async def connect(self, address: str) -> Stream:
        """Open a stream to ``address``; returns when the other end has accepted it.

        Raises `ConnectFailed`, at once if nobody listens, and within ``Limits.handshake_seconds`` if
        whoever listens does not speak gRPC. One that speaks it and does not answer is waited for until
        the caller gives up: cancelling leaves nothing behind.
        """
        self._use()
        try:
            where = parse(address)
        except ValueError as error:
            raise ConnectFailed(str(error)) from error
        channel = grpc.aio.insecure_channel(where.target, options=channel_options(where.kind, self._limits))
        try:
            method: grpc.aio.StreamStreamMultiCallable[bytes, bytes]
            method = channel.stream_stream(f"/{_SERVICE}/{_METHOD}")
            call = method(wait_for_ready=False)
            try:
                await self._opened(call, where)
            except BaseException:
                call.cancel()
                raise
        except BaseException:
            await channel.close()  # awaits nothing
            raise
        return _ConnectedStream(channel, call, f"to {where.text}", self._limits)

    async def _opened(self, call: grpc.aio.StreamStreamCall[bytes, bytes], where: Address) -> None:
        """Wait until the other end has accepted the call. Raises `ConnectFailed`."""
        key, value = _OPEN
        metadata = await call.initial_metadata()
        if metadata.get(key) == value:
            return
        try:
            async with asyncio.timeout(self._limits.close_seconds):
                reason = f"{(await call.code()).name}: {await call.details()}"
        except TimeoutError:
            reason = "who listens there is no wool worker"
        raise ConnectFailed(f"cannot connect to {where.text}: {reason}")

    async def listen(self, address: str, handler: StreamHandler) -> GrpcListener:
        """Serve ``address``: ``unix:/path``, or ``host:port`` with a literal host; port 0 means any.

        Raises `ValueError` for a malformed address, and `OSError`, which names the address, if it cannot be
        had. A Unix socket may be used by its owner only, and a stale one is replaced.
        """
        self._use()
        where = parse(address)
        if where.kind == "unix":
            _check_unix_path_is_free(where)
        server = grpc.aio.server(options=server_options(where.kind, self._limits))
        try:
            where = _bind(server, where)
            servicer = SessionServicer(handler, self._limits, name=where.text)
            add_servicer_to_server(servicer, server)
            await server.start()
            return GrpcListener(where, server, servicer, self._limits)
        except BaseException:
            # A server that was never started cannot be stopped, and one that was not stopped is never freed.
            await server.start()
            await server.stop(None)
            raise

    async def close(self) -> None:
        """Let go of gRPC's machinery, which ends with the last stream and listener; idempotent."""
        if self._loop is not None and not self._closed:
            grpc.aio.shutdown_grpc_aio()  # pyright: ignore[reportUnknownMemberType, reportAttributeAccessIssue]
        self._closed = True

    def _use(self) -> None:
        """Keep gRPC's poller, which would otherwise end and begin anew with every stream."""
        if self._closed:
            raise RuntimeError("the transport is closed")
        loop = asyncio.get_running_loop()
        if self._loop is None:
            grpc.aio.init_grpc_aio()  # pyright: ignore[reportUnknownMemberType, reportAttributeAccessIssue]
            self._loop = loop
        if loop is not self._loop:
            # Objects of grpc.aio belong to the loop that made them (#25364).
            raise RuntimeError("a transport belongs to one event loop")


def _reason(error: BaseException) -> str:
    if isinstance(error, grpc.aio.AioRpcError):
        return f"{error.code().name}: {error.details()}"
    return f"the call is over ({type(error).__name__})"


def _identity(path: str) -> tuple[int, int] | None:
    """Tell one file from another at the same path."""
    try:
        status = os.lstat(path)
    except FileNotFoundError:
        return None
    return status.st_dev, status.st_ino


def _check_unix_path_is_free(where: Address) -> None:
    """Raise `OSError` if the path is in use: gRPC would remove the socket of a living server and take its place."""
    try:
        mode = os.lstat(where.path).st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise OSError(errno.EEXIST, f"cannot listen at {where.text}: a file that is not a socket is there")
    with socket.socket(socket.AF_UNIX) as probe:
        probe.setblocking(False)
        try:
            probe.connect(where.path)
        except (ConnectionRefusedError, FileNotFoundError):
            return  # left behind by a process that died; gRPC replaces it
        except BlockingIOError:
            pass  # somebody listens, and has no time
    raise _in_use(where)


def _bind(server: grpc.aio.Server, where: Address) -> Address:
    """Open the port and return the address with the number that the system chose."""
    try:
        port = server.add_insecure_port(where.binding)
    except RuntimeError as error:
        raise _why_not_bound(where) from error
    if where.kind == "tcp":
        return parse(join(where.host, port))
    os.chmod(where.path, 0o600)
    return where


def _why_not_bound(where: Address) -> OSError:
    """Ask the system for the reason, which gRPC keeps to itself."""
    family = socket.AF_UNIX if where.kind == "unix" else socket.AF_INET6 if ":" in where.host else socket.AF_INET
    try:
        with socket.socket(family) as probe:
            if where.kind == "unix":
                probe.bind(where.path)
                os.unlink(where.path)
            else:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind((where.host, where.port))
                probe.listen()
    except OSError as error:
        return OSError(error.errno, f"cannot listen at {where.text}: {os.strerror(error.errno or 0)}")
    return _in_use(where)  # it was, a moment ago


def _in_use(where: Address) -> OSError:
    return OSError(errno.EADDRINUSE, f"cannot listen at {where.text}: {os.strerror(errno.EADDRINUSE)}")
