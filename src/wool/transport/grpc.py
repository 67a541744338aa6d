"""Streams over gRPC: one bidirectional call, on a connection of its own, is one stream.

gRPC gives flow control, liveness, TLS and message boundaries; this transport takes exactly these and hides
everything else. Here streams are opened and accepted, what they then do is in `wool.transport.grpc_streams`.
Owns the channels, server and socket files that it makes. Maps every foreign exception to `ConnectFailed` or
`OSError`. Knows nothing of tasks.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import socket
import stat
import traceback
import warnings
from typing import Any, cast

from wool.credentials import CredentialsProvider, Steady, WorkerCredentials, provided
from wool.harmless import harmless
from wool.limits import Limits
from wool.refusals import Refusals
from wool.transport.base import ConnectFailed, ConnectRefused, Stream, StreamHandler
from wool.transport.grpc_environment import environment_for_import
from wool.transport.grpc_options import Address, channel_options, check, join, parse, server_options
from wool.transport.grpc_pulse import STREAM_KEY, Pulse, name_of, new_name
from wool.transport.grpc_streams import AcceptedStream, ConnectedStream
from wool.transport.grpc_tls import (
    NO_USE,
    WorkersCheck,
    channel_credentials,
    expecting,
    is_for_another,
    names_of_caller,
    server_credentials,
    why_refused,
)
from wool.transport.onlookers import Onlookers, readable
from wool.transport.serving import Handlers

with environment_for_import():
    import grpc
    import grpc.aio

_SERVICE = "wool.protocol.Worker"
_METHOD = f"/{_SERVICE}/Session"

_OPEN = ("wool-session", "open")
"""Initial metadata of a stream that a wool server has accepted. An RPC that fails has initial metadata too,
empty, and another server may answer with anything: this says that the right one is there."""

_logger = logging.getLogger(__name__)


class SessionServicer:
    """Serves ``wool.protocol.Worker``: each call of ``Session`` is one stream for ``handler``, ``Pulse`` its pulse.

    Register it with `add_servicer_to_server`. It keeps its own registry of what is open, since gRPC's
    shutdown does not wait for handlers that were aborted (#37239).
    """

    def __init__(
        self,
        handler: StreamHandler,
        limits: Limits,
        *,
        name: str = "session",
        credentials: CredentialsProvider | None = None,
    ) -> None:
        self._name = name
        self._limits = limits
        self._credentials = credentials
        self.refusals: Refusals = Refusals(_logger.warning, limits)
        """Tells of those who did not get as far as the handler, at a bounded rate."""
        self.onlookers: Onlookers | None = None
        """Who is connected and calls nothing, if that can be seen: not on a Unix socket, where nobody has a name."""
        self._handlers = Handlers(handler, name=name, close_seconds=limits.close_seconds)
        # Those that wait for their stream.
        self._pulses: dict[str, asyncio.Future[AcceptedStream]] = {}

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
        await self._refuse_strangers(context)
        if not self._handlers.closing:
            # At once, so that the connecting end knows that it has been accepted.
            await context.send_initial_metadata((_OPEN,))
        if self._handlers.closing:  # perhaps since a moment ago
            await context.abort(grpc.StatusCode.UNAVAILABLE, "the listener was closed")
        stream = AcceptedStream(context, self._name, self._limits)
        pulse = self._pulses.get(name_of(context) or "")
        if pulse is not None and not pulse.done():
            pulse.set_result(stream)
        self._met(context)
        self._handlers.start(stream)
        try:
            verdict = await stream.verdict
            if verdict is not None:
                await context.abort(grpc.StatusCode.ABORTED, verdict)
        except grpc.aio.InternalError:
            _logger.debug("%r: the other end had gone before it could be told", stream)
        finally:
            stream.end()

    async def _refuse_strangers(self, context: grpc.aio.ServicerContext[bytes, bytes]) -> None:
        """End the call if whoever makes it is nobody whose identity is accepted."""
        if (stranger := self._stranger(context)) is not None:
            self._refuse(context, "%s: refused a caller %s", self._name, stranger)
            await context.abort(grpc.StatusCode.PERMISSION_DENIED, f"this worker does not take a caller {stranger}")

    def _stranger(self, context: grpc.aio.ServicerContext[bytes, bytes]) -> str | None:
        """Say who calls, if it is nobody whose identity is accepted."""
        accepted = self._credentials().callers if self._credentials is not None else ()
        if not accepted:
            return None
        names = names_of_caller(context)
        if set(names) & set(accepted):
            return None
        return f"at {readable(context.peer())} whose certificate is for {harmless(', '.join(names)) or 'nobody'}"

    async def Pulse(self, _: object, context: grpc.aio.ServicerContext[bytes, bytes]) -> None:  # noqa: N802
        """Be the pulse of the stream of that name, which is yet to come: one, as long as that stream is open."""
        await self._refuse_strangers(context)
        name, caller = name_of(context), readable(context.peer())
        if not name or name in self._pulses:
            self._refuse(context, "%s: refused a pulse from %s that names no stream of its own", self._name, caller)
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "a pulse must name a stream of its own")
        pulse = self._pulses[name] = asyncio.get_running_loop().create_future()
        try:
            await context.send_initial_metadata((_OPEN,))
            try:
                async with asyncio.timeout(self._limits.handshake_seconds):
                    stream = await pulse
            except TimeoutError:
                self._refuse(context, "%s: refused a pulse from %s whose stream has not come", self._name, caller)
                await context.abort(grpc.StatusCode.DEADLINE_EXCEEDED, "a pulse of no stream")
            await stream.ended.wait()
        finally:  # gRPC cancels this when the connection breaks
            del self._pulses[name]
            if pulse.done() and not pulse.cancelled():
                pulse.result().pulse_stopped()

    def _met(self, context: grpc.aio.ServicerContext[bytes, bytes]) -> None:
        if self.onlookers is not None:
            self.onlookers.met(context.peer())

    def _refuse(self, context: grpc.aio.ServicerContext[bytes, bytes], message: str, *args: object) -> None:
        self._met(context)
        self.refusals.say(message, *args)

    async def refuse_method(self, method: str, context: grpc.aio.ServicerContext[bytes, bytes]) -> None:
        """End a call of what no worker serves."""
        await self._refuse_strangers(context)
        caller, asked = readable(context.peer()), harmless(method)
        self._refuse(context, "%s: refused a caller at %s: there is no method %s", self._name, caller, asked)
        await context.abort(grpc.StatusCode.UNIMPLEMENTED, "there is no such method")

    async def close(self, reason: str) -> None:
        """Accept no more, abort every open stream, wait for the handlers, bounded."""
        try:
            await self._handlers.close(reason)
        finally:
            self.refusals.close()


class _NoMethods(grpc.GenericRpcHandler):
    """Asked last, for methods that nobody serves: gRPC would refuse those who call them without a word."""

    def __init__(self, servicer: SessionServicer) -> None:
        self._servicer = servicer

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler[Any, Any]:
        async def refuse(_: object, context: grpc.aio.ServicerContext[bytes, bytes]) -> None:
            await self._servicer.refuse_method(handler_call_details.method, context)

        return grpc.stream_stream_rpc_method_handler(cast(Any, refuse))


def add_servicer_to_server(servicer: SessionServicer, server: grpc.aio.Server) -> None:
    """Register ``servicer`` with a server that has not been started. Messages stay bytes."""
    methods = {
        name: cast("grpc.RpcMethodHandler[bytes, bytes]", grpc.stream_stream_rpc_method_handler(cast(Any, method)))
        for name, method in {"Session": servicer.Session, "Pulse": servicer.Pulse}.items()
    }
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(_SERVICE, methods), _NoMethods(servicer)))


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
            if self._servicer.onlookers is not None:
                self._servicer.onlookers.close()
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
    """Reaches workers over gRPC, on Unix sockets and TCP. Belongs to the event loop that first uses it.

    With ``credentials`` it speaks TLS, both ways, and TCP alone; each new connection uses what they are then.
    """

    def __init__(self, limits: Limits, credentials: CredentialsProvider | None = None) -> None:
        for kind in ("unix", "tcp"):
            check(channel_options(kind, limits), server_options(kind, limits))
        self._limits = limits
        self._credentials = credentials
        self._loop: asyncio.AbstractEventLoop | None = None
        self._closed = False

    def __repr__(self) -> str:
        return f"<{type(self).__name__}{' closed' if self._closed else ''}>"

    @property
    def one_way(self) -> bool:
        """Whether the connecting end shows no certificate, now. Raises what the provider raises."""
        return self._credentials is not None and not provided(self._credentials).mutual

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
        if self._credentials is None:
            return await self._connect(where, None, None)
        try:
            credentials = provided(self._credentials)
        except Exception as error:  # the user's code
            why = f"there are no credentials: {type(error).__name__}: {error}"
            raise ConnectFailed(f"cannot connect to {where.text}: {why}") from error
        if where.kind == "unix":
            raise ConnectFailed(f"cannot connect to {where.text}: credentials are for workers on TCP")
        *others, last = credentials.workers or (None,)
        for identity in others:
            try:
                return await self._connect(where, credentials, identity)
            except ConnectFailed as error:
                if not is_for_another(str(error)):
                    raise
        return await self._connect(where, credentials, last)

    async def _connect(self, where: Address, credentials: WorkerCredentials | None, identity: str | None) -> Stream:
        options = channel_options(where.kind, self._limits)
        expected = identity or where.host
        name = new_name()

        async def opened(call: grpc.aio.StreamStreamCall[bytes, bytes]) -> None:
            if (reason := await self._refused(call)) is not None:
                why = credentials and why_refused(reason, expected, credentials)
                if why:
                    raise ConnectRefused(f"cannot connect to {where.text}: {why} ({reason})")
                raise ConnectFailed(f"cannot connect to {where.text}: {reason}")

        pulse: Pulse | None = None
        if credentials is not None:
            tls = channel_credentials(credentials)
            channel = grpc.aio.secure_channel(where.target, tls, options=options + expecting(identity))
        else:
            if where.kind == "unix":
                pulse = await Pulse.open(where.target, options, name, opened)
            channel = grpc.aio.insecure_channel(where.target, options=options)
        call: grpc.aio.StreamStreamCall[bytes, bytes] | None = None
        try:
            call = _session(channel, name)
            await opened(call)
        except BaseException as error:
            if call is not None:
                call.cancel()
            await channel.close()  # awaits nothing
            if pulse is not None:
                await pulse.close()
            # Who keeps the error would keep the frames in its traceback, and gRPC goes on to connect for a channel
            # that was closed, again and again, as long as anybody has a call of it in hand.
            traceback.clear_frames(error.__traceback__)
            del call, channel, pulse
            raise
        return ConnectedStream(channel, call, where.text, self._limits, pulse)

    async def _refused(self, call: grpc.aio.StreamStreamCall[bytes, bytes]) -> str | None:
        """Wait until the other end has accepted the call; return why, if it has not."""
        key, value = _OPEN
        metadata = await call.initial_metadata()
        if metadata.get(key) == value:
            return None
        try:
            async with asyncio.timeout(self._limits.close_seconds):
                return f"{(await call.code()).name}: {harmless(await call.details() or '')}"
        except TimeoutError:
            return "who listens there is no wool worker"

    async def listen(self, address: str, handler: StreamHandler) -> GrpcListener:
        """Serve ``address``: ``unix:/path``, or ``host:port`` with a literal host; port 0 means any.

        Raises `ValueError` for a malformed address and for credentials that are no use, and `OSError`, which names
        the address, if it cannot be had. A Unix socket may be used by its owner only, and a stale one is replaced.
        """
        self._use()
        where = parse(address)
        if where.kind == "unix":
            if self._credentials is not None:
                raise ValueError(f"cannot listen at {where.text}: credentials are for workers on TCP")
            _check_unix_path_is_free(where)
        loop = asyncio.get_running_loop()
        credentials = tls = None
        if self._credentials is not None:
            credentials = Steady(
                self._credentials, WorkersCheck(), lambda said: loop.call_soon_threadsafe(_logger.warning, "%s", said)
            )
            tls = server_credentials(credentials)
        server = grpc.aio.server(options=server_options(where.kind, self._limits))
        try:
            where = _bind(server, where, tls)
            servicer = SessionServicer(handler, self._limits, name=where.text, credentials=credentials)
            add_servicer_to_server(servicer, server)
            await server.start()
            if where.kind == "tcp":
                seconds, say = self._limits.handshake_seconds, servicer.refusals.say
                servicer.onlookers = Onlookers(where.port, where.text, seconds, say)
                servicer.onlookers.start()
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


def _session(channel: grpc.aio.Channel, name: str) -> grpc.aio.StreamStreamCall[bytes, bytes]:
    method: grpc.aio.StreamStreamMultiCallable[bytes, bytes] = channel.stream_stream(_METHOD)
    return method(metadata=((STREAM_KEY, name),), wait_for_ready=False)


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


def _bind(server: grpc.aio.Server, where: Address, tls: grpc.ServerCredentials | None) -> Address:
    """Open the port and return the address with the number that the system chose."""
    try:
        if tls is None:
            port = server.add_insecure_port(where.binding)
        else:
            port = server.add_secure_port(where.binding, tls)
    except RuntimeError as error:
        raise _why_not_bound(where, tls) from error
    if where.kind == "tcp":
        return parse(join(where.host, port))
    os.chmod(where.path, 0o600)
    return where


def _why_not_bound(where: Address, tls: grpc.ServerCredentials | None) -> OSError | ValueError:
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
    if tls is not None:
        return ValueError(f"cannot listen at {where.text}: {NO_USE}")
    return _in_use(where)  # it was, a moment ago


def _in_use(where: Address) -> OSError:
    return OSError(errno.EADDRINUSE, f"cannot listen at {where.text}: {os.strerror(errno.EADDRINUSE)}")
