"""What only gRPC can get wrong: socket files, strangers at either end of a connection, many event loops."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import gzip
import os
import socket
import stat
import tempfile
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import grpc
import grpc.aio
import pytest

from wool.limits import MIB, Limits
from wool.transport.base import ConnectFailed, Stream, StreamLost
from wool.transport.grpc import GrpcListener, GrpcTransport, add_servicer_to_server
from wool.transport.grpc_options import UNIX_PATH_BYTES

QUICK = Limits(close_seconds=0.3, handshake_seconds=0.5)

GARBAGE = {
    "random bytes": b"\x93\x11\x00\xff" * 5000,
    "HTTP/1": b"GET / HTTP/1.1\r\nHost: worker\r\n\r\n",
    "TLS": bytes.fromhex("16030100c8010000c40303") + bytes(200),
    "half a preface": b"PRI * HTTP/2.0\r\n\r\nS",
    "preface and garbage": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\xff" * 5000,
    "nothing": b"",
}


async def echo(stream: Stream) -> None:
    while True:
        await stream.write(await stream.read())


@pytest.fixture
def directory() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as directory:
        yield Path(directory)


@pytest.fixture
async def transport() -> AsyncIterator[GrpcTransport]:
    transport = GrpcTransport(QUICK)
    yield transport
    await transport.close()


@asynccontextmanager
async def listening(transport: GrpcTransport, address: str) -> AsyncIterator[GrpcListener]:
    listener = await transport.listen(address, echo)
    try:
        yield listener
    finally:
        await listener.close()


async def works(transport: GrpcTransport, address: str) -> None:
    stream = await transport.connect(address)
    await stream.write(b"hello")
    assert await stream.read() == b"hello"
    await stream.close()


async def dial(address: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    if address.startswith("unix:"):
        return await asyncio.open_unix_connection(address.removeprefix("unix:"))
    host, _, port = address.rpartition(":")
    return await asyncio.open_connection(host, int(port))


# ---- strangers -------------------------------------------------------------------------------------


@pytest.mark.parametrize("garbage", GARBAGE.values(), ids=list(GARBAGE))
@pytest.mark.parametrize("kind", ["unix", "tcp"])
async def test_a_listener_survives_garbage_and_serves_others_meanwhile(
    transport: GrpcTransport, directory: Path, kind: str, garbage: bytes
) -> None:
    async with listening(transport, f"unix:{directory}/s" if kind == "unix" else "127.0.0.1:0") as listener:
        stream = await transport.connect(listener.address)
        for _ in range(5):
            reader, writer = await dial(listener.address)
            writer.write(garbage)
            await stream.write(b"unharmed")
            assert await stream.read() == b"unharmed"
            await works(transport, listener.address)
            writer.close()
            try:
                await reader.read()
                await writer.wait_closed()
            except ConnectionError:
                pass  # what gRPC made of it
        await stream.close()


@asynccontextmanager
async def stranger(answer: bytes | None) -> AsyncIterator[str]:
    """Somebody who listens and does not speak gRPC; ``None``: who says nothing at all."""
    if answer is None:
        with socket.create_server(("127.0.0.1", 0)) as silent:
            yield f"127.0.0.1:{silent.getsockname()[1]}"
        return

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await reader.read(1)
            writer.write(answer)
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    host, port = server.sockets[0].getsockname()
    try:
        yield f"{host}:{port}"
    finally:
        server.close()
        await server.wait_closed()


@pytest.mark.parametrize(
    "answer", [b"HTTP/1.1 400 Bad Request\r\n\r\n", b"\x00\xff" * 5000, b"SSH-2.0-OpenSSH_9.6\r\n", b""]
)
async def test_who_listens_and_does_not_speak_grpc_is_a_failed_connect(transport: GrpcTransport, answer: bytes) -> None:
    async with stranger(answer) as address:
        with pytest.raises(ConnectFailed, match=address):
            await transport.connect(address)


async def test_who_listens_and_says_nothing_is_a_failed_connect_after_the_handshake_limit(
    transport: GrpcTransport,
) -> None:
    async with stranger(None) as address:
        with pytest.raises(ConnectFailed, match=address):
            await transport.connect(address)


async def test_a_connect_to_who_says_nothing_can_be_given_up() -> None:
    transport = GrpcTransport(Limits())
    async with stranger(None) as address:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await transport.connect(address)
    await transport.close()


async def serve_grpc(path: Path, session: Callable[[grpc.aio.ServicerContext], Awaitable[None]]) -> grpc.aio.Server:
    class Servicer:
        async def Session(self, _: object, context: grpc.aio.ServicerContext) -> None:
            await session(context)

        Pulse = Session

    server = grpc.aio.server()
    add_servicer_to_server(Servicer(), server)  # type: ignore[arg-type]
    server.add_insecure_port(f"unix:{path}")
    await server.start()
    return server


async def test_a_grpc_server_of_somebody_else_is_a_failed_connect(transport: GrpcTransport, directory: Path) -> None:
    async def hang(context: grpc.aio.ServicerContext) -> None:
        await context.send_initial_metadata((("some", "thing"),))
        await context.read()

    server = await serve_grpc(directory / "hangs", hang)
    with pytest.raises(ConnectFailed, match="no wool worker"):
        await transport.connect(f"unix:{directory}/hangs")
    await server.stop(None)

    server = grpc.aio.server()
    server.add_insecure_port(f"unix:{directory}/empty")
    await server.start()
    with pytest.raises(ConnectFailed, match="UNIMPLEMENTED"):
        await transport.connect(f"unix:{directory}/empty")
    await server.stop(None)


async def test_a_refusal_names_its_reason(transport: GrpcTransport, directory: Path) -> None:
    async def refuse(context: grpc.aio.ServicerContext) -> None:
        await context.abort(grpc.StatusCode.PERMISSION_DENIED, "not you")

    server = await serve_grpc(directory / "s", refuse)
    with pytest.raises(ConnectFailed, match="PERMISSION_DENIED: not you"):
        await transport.connect(f"unix:{directory}/s")
    await server.stop(None)


SPOOFED = "no\nWARNING all is well\x1b[2J" + "x" * 5000


async def test_what_a_stranger_refuses_with_is_one_bounded_line(transport: GrpcTransport, directory: Path) -> None:
    async def refuse(context: grpc.aio.ServicerContext) -> None:
        await context.abort(grpc.StatusCode.PERMISSION_DENIED, SPOOFED)

    server = await serve_grpc(directory / "s", refuse)
    with pytest.raises(ConnectFailed) as refused:
        await transport.connect(f"unix:{directory}/s")
    assert "PERMISSION_DENIED: no\\nWARNING all is well\\x1b[2Jxxx" in str(refused.value)
    assert len(str(refused.value)) < 1200
    await server.stop(None)


async def test_what_a_stranger_ends_a_stream_with_is_one_bounded_line(
    transport: GrpcTransport, directory: Path
) -> None:
    async def accept_and_refuse(context: grpc.aio.ServicerContext) -> None:
        await context.send_initial_metadata((("wool-session", "open"),))
        await context.read()
        await context.abort(grpc.StatusCode.ABORTED, SPOOFED)

    server = await serve_grpc(directory / "s", accept_and_refuse)
    stream = await transport.connect(f"unix:{directory}/s")
    await stream.write(b"hello")
    with pytest.raises(StreamLost) as lost:
        await stream.read()
    assert str(lost.value).startswith("ABORTED: no\\nWARNING all is well\\x1b[2Jxxx")
    assert len(str(lost.value)) < 1200
    await stream.close()
    await server.stop(None)


async def test_a_message_above_the_readers_limit_breaks_the_stream_and_only_that(directory: Path) -> None:
    generous = GrpcTransport(Limits(message_bytes=16 * MIB))
    strict = GrpcTransport(Limits())
    async with listening(strict, f"unix:{directory}/s") as listener:
        stream = await generous.connect(listener.address)
        other = await strict.connect(listener.address)
        await stream.write(bytes(Limits().message_bytes + MIB))
        with pytest.raises(StreamLost):
            await stream.read()
        await other.write(b"unharmed")
        assert await other.read() == b"unharmed"
        for end in (stream, other):
            await end.close()
    for transport in (generous, strict):
        await transport.close()


async def test_what_a_caller_sends_compressed_is_not_unpacked(transport: GrpcTransport) -> None:
    """Some releases of gRPC unpack it first, and look at the limit of a message then: a MiB becomes a GiB."""
    async with listening(transport, "127.0.0.1:0") as listener:
        async with grpc.aio.insecure_channel(listener.address, compression=grpc.Compression.Gzip) as channel:
            method: grpc.aio.StreamStreamMultiCallable[bytes, bytes] = channel.stream_stream(
                "/wool.protocol.Worker/Session"
            )
            stranger = method()
            await stranger.write(bytes(MIB))
            echoed = await stranger.read()
            assert isinstance(echoed, bytes)
            assert len(echoed) < 10_000
            assert gzip.decompress(echoed) == bytes(MIB)
            await stranger.done_writing()
            assert await stranger.read() is grpc.aio.EOF


async def test_what_a_worker_sends_compressed_is_not_unpacked(transport: GrpcTransport, directory: Path) -> None:
    async def answer_compressed(context: grpc.aio.ServicerContext) -> None:
        await context.send_initial_metadata((("wool-session", "open"), ("grpc-internal-encoding-request", "gzip")))
        await context.write(bytes(MIB))
        await context.read()

    server = await serve_grpc(directory / "s", answer_compressed)
    stream = await transport.connect(f"unix:{directory}/s")
    read = await stream.read()
    assert len(read) < 10_000
    assert gzip.decompress(read) == bytes(MIB)
    await stream.close()
    await server.stop(None)


# ---- addresses -------------------------------------------------------------------------------------


@pytest.mark.parametrize("address", ["127.0.0.1:0", "[::1]:0"])
async def test_a_port_that_the_system_chose_can_be_connected_to(transport: GrpcTransport, address: str) -> None:
    if "::1" in address:
        try:
            socket.create_server(("::1", 0), family=socket.AF_INET6).close()
        except OSError:
            pytest.skip("this machine has no IPv6")
    async with listening(transport, address) as listener:
        assert listener.address.rpartition(":")[0] == address.rpartition(":")[0]
        await works(transport, listener.address)


async def test_a_proxy_in_the_environment_is_ignored(transport: GrpcTransport, monkeypatch: pytest.MonkeyPatch) -> None:
    async with stranger(b"a proxy") as proxy, listening(transport, "127.0.0.1:0") as listener:
        for name in ("http_proxy", "https_proxy", "grpc_proxy", "all_proxy"):
            monkeypatch.setenv(name, f"http://{proxy}")
        await works(transport, listener.address)


async def test_what_is_no_address_is_an_error_that_says_so(transport: GrpcTransport) -> None:
    for address in ("localhost:1", "unix:/" + "x" * UNIX_PATH_BYTES, "nonsense"):
        with pytest.raises(ConnectFailed, match="is not an address"):
            await transport.connect(address)
        with pytest.raises(ValueError, match="is not an address"):
            await transport.listen(address, echo)


@pytest.mark.parametrize(
    ("address", "words"),
    [("192.0.2.1:0", "assign"), ("unix:/nowhere/at/all", "No such file")],
)
async def test_what_cannot_be_had_is_an_oserror_with_the_systems_reason(
    transport: GrpcTransport, address: str, words: str
) -> None:
    with pytest.raises(OSError, match=words) as raised:
        await transport.listen(address, echo)
    assert f"cannot listen at {address}" in str(raised.value)
    assert raised.value.errno


async def test_a_socket_file_is_its_owners_and_goes_with_the_listener(
    transport: GrpcTransport, directory: Path
) -> None:
    path = directory / "s p?c#i%l é"
    old = os.umask(0)
    try:
        async with listening(transport, f"unix:{path}") as listener:
            mode = path.lstat().st_mode
            assert stat.S_ISSOCK(mode)
            assert stat.S_IMODE(mode) == 0o600
            await works(transport, listener.address)
    finally:
        os.umask(old)
    assert list(directory.iterdir()) == []


async def test_the_longest_path_works(transport: GrpcTransport, directory: Path) -> None:
    path = f"{directory}/".ljust(UNIX_PATH_BYTES, "x")
    async with listening(transport, f"unix:{path}") as listener:
        await works(transport, listener.address)


async def test_a_socket_left_behind_is_replaced(transport: GrpcTransport, directory: Path) -> None:
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(f"{directory}/s")
    async with listening(transport, f"unix:{directory}/s") as listener:
        await works(transport, listener.address)


async def test_a_file_that_is_no_socket_is_not_touched(transport: GrpcTransport, directory: Path) -> None:
    (directory / "s").write_text("precious")
    with pytest.raises(FileExistsError, match="not a socket"):
        await transport.listen(f"unix:{directory}/s", echo)
    assert (directory / "s").read_text() == "precious"


async def test_a_living_socket_is_not_taken_over_even_if_its_owner_has_no_time(
    transport: GrpcTransport, directory: Path
) -> None:
    with socket.socket(socket.AF_UNIX) as busy:
        busy.bind(f"{directory}/s")
        busy.listen(0)
        waiting: list[socket.socket] = []
        try:
            for _ in range(5):  # until the backlog is full
                waiting.append(socket.socket(socket.AF_UNIX))
                waiting[-1].setblocking(False)
                try:
                    waiting[-1].connect(f"{directory}/s")
                except BlockingIOError:
                    break
            with pytest.raises(OSError, match="in use"):
                await transport.listen(f"unix:{directory}/s", echo)
        finally:
            for connection in waiting:
                connection.close()
    assert (directory / "s").exists()


async def test_a_failed_listen_leaves_nothing(transport: GrpcTransport) -> None:
    async with listening(transport, "127.0.0.1:0") as listener:
        before = len(os.listdir("/dev/fd"))
        for _ in range(20):
            with pytest.raises(OSError, match="in use"):
                await transport.listen(listener.address, echo)
        while len(os.listdir("/dev/fd")) > before:
            await asyncio.sleep(0.001)


# ---- loops, and the transport itself ---------------------------------------------------------------


async def session(directory: Path) -> None:
    transport = GrpcTransport(QUICK)
    async with listening(transport, f"unix:{directory}/{threading.get_ident()}") as listener:
        await asyncio.gather(*(works(transport, listener.address) for _ in range(3)))
    await transport.close()


def test_one_event_loop_after_another(directory: Path) -> None:
    for _ in range(10):
        asyncio.run(session(directory))


def test_one_event_loop_after_another_in_threads_too(directory: Path) -> None:
    outcomes: list[BaseException | None] = []

    def run() -> None:
        try:
            asyncio.run(session(directory))
            outcomes.append(None)
        except BaseException as error:
            outcomes.append(error)

    for _ in range(5):
        thread = threading.Thread(target=run)
        thread.start()
        thread.join()
        asyncio.run(session(directory))
    assert outcomes == [None] * 5


def test_a_loop_that_ends_with_everything_open_does_not_harm_the_next(
    directory: Path, recwarn: pytest.WarningsRecorder
) -> None:
    async def careless() -> None:
        transport = GrpcTransport(QUICK)
        listener = await transport.listen(f"unix:{directory}/careless", echo)
        stream = await transport.connect(listener.address)
        await stream.write(b"hello")
        stream.abort("but not closed")
        await listener.close()
        with pytest.warns(ResourceWarning, match="unclosed"):  # noqa: PT031  both statements are the one thing
            del stream
            gc.collect()
        await transport.close()

    for _ in range(3):
        asyncio.run(careless())
        asyncio.run(session(directory))


def test_a_transport_belongs_to_one_loop_and_says_so(directory: Path) -> None:
    transport = GrpcTransport(QUICK)

    async def fail() -> None:
        with pytest.raises(ConnectFailed):
            await transport.connect(f"unix:{directory}/nobody")

    async def close() -> None:
        with pytest.raises(RuntimeError, match="one event loop"):
            await transport.connect(f"unix:{directory}/nobody")
        await transport.close()

    asyncio.run(fail())
    asyncio.run(close())


async def test_a_closed_transport_refuses_and_may_be_closed_again(transport: GrpcTransport, directory: Path) -> None:
    with pytest.raises(ConnectFailed):
        await transport.connect(f"unix:{directory}/nobody")
    for _ in range(2):
        await transport.close()
    with pytest.raises(RuntimeError, match="closed"):
        await transport.connect(f"unix:{directory}/nobody")
    with pytest.raises(RuntimeError, match="closed"):
        await transport.listen("127.0.0.1:0", echo)


async def test_an_address_that_was_given_up_is_not_connected_to_again_though_the_error_is_kept() -> None:
    connected: list[asyncio.StreamWriter] = []
    ended = asyncio.Event()

    async def swallow(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connected.append(writer)
        with contextlib.suppress(OSError):
            while await reader.read(65536):
                pass
        writer.close()
        ended.set()

    server = await asyncio.start_server(swallow, "127.0.0.1", 0)
    address = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    transport = GrpcTransport(Limits(handshake_seconds=0.5))
    connecting = asyncio.create_task(transport.connect(address))
    while not connected:
        await asyncio.sleep(0.01)
    connecting.cancel()
    with pytest.raises(asyncio.CancelledError) as kept:
        await connecting
    await asyncio.wait_for(ended.wait(), 10)
    # gRPC would connect anew at once, and for ever: a second connection would be seen within the time of one.
    await asyncio.sleep(1.0)
    assert len(connected) == 1, kept
    await transport.close()
    server.close()
    await server.wait_closed()


@pytest.mark.parametrize("aborted", [False, True])
async def test_messages_that_nobody_read_from_who_has_hung_up_keep_no_connection_open(aborted: bool) -> None:
    async def talk(stream: Stream) -> None:
        for _ in range(50):
            await stream.write(b"nobody asked")
        with contextlib.suppress(StreamLost):
            await stream.read()
            stream.abort("and now I hang up")

    transport = GrpcTransport(QUICK)
    listener = await transport.listen("127.0.0.1:0", talk)
    stream = await transport.connect(listener.address)
    with contextlib.suppress(StreamLost):
        while True:
            await stream.write(b"hello")
            await asyncio.sleep(0)
    if aborted:
        stream.abort("the handshake failed")
    await stream.close()
    # Not of the call that gRPC would keep, nor of its connection.
    assert not [task for task in asyncio.all_tasks() if "_AioCall" in repr(task)]
    await listener.close()
    await transport.close()
