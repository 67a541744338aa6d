"""Whoever can connect and knows no secret: takes up little, for a short time, and harms nobody."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import ssl
import struct
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest
from fixtures import HOST, Fixtures, make

import wool
from support.faults import until
from support.hostile import (
    ACK,
    CANCEL,
    CONTINUATION,
    DATA,
    END_STREAM,
    ENHANCE_YOUR_CALM,
    GOAWAY,
    HEADERS,
    MAX_CONCURRENT_STREAMS,
    MIB,
    OPENING,
    PING,
    PREFACE,
    PULSE,
    RESET,
    SETTINGS,
    WINDOW,
    Attackers,
    add,
    call,
    descriptors,
    frame,
    message,
    read_frame,
    say_within_the_window,
    served_meanwhile,
    unharmed,
)
from wool.limits import Limits
from wool.protocol import wire_pb2
from wool.runtime import current_runtime, real_runtime, set_runtime
from wool.transport.base import ConnectFailed
from wool.transport.grpc import GrpcTransport, SessionServicer, add_servicer_to_server

LIMITS = Limits(handshake_seconds=2.0, handshakes=16, connections=60, refusals=5)
GONE_SECONDS = 15.0
"""After which a slow peer must be gone on a busy machine; without the limits it would be there for ever."""
MOST_BYTES = 96 * MIB
MOST_LINES = 2 * (LIMITS.refusals + 1)
"""Of a log: what the transport refuses, what the worker does, and of each how many more there were."""

HOLDS = r"connections that have opened no session in .*: \d+ from 127\.0\.0\.1"
REFUSED = r"a caller was refused: {why}.* \(at 127\.0\.0\.1:\d+\)"
LATE = REFUSED.format(why=r"no handshake in 2\.0 s \(handshake_seconds\)")
TOO_LARGE = REFUSED.format(why=r"ended by the other end, or by gRPC for a message above \d+ B \(message_bytes\)")
NO_WORDS = REFUSED.format(why=r"what answered does not speak wool's protocol")

pytestmark = pytest.mark.timeout(120)


@pytest.fixture(scope="module")
def fixtures() -> Fixtures:
    return make()


@pytest.fixture(autouse=True)
def quick() -> Iterator[None]:
    before = current_runtime()
    set_runtime(real_runtime(limits=LIMITS))
    yield
    set_runtime(before)


@pytest.fixture
async def worker() -> AsyncIterator[wool.LocalWorker]:
    async with wool.LocalWorker(host=HOST) as made:
        yield made


@pytest.fixture
async def secure(fixtures: Fixtures) -> AsyncIterator[wool.LocalWorker]:
    async with wool.LocalWorker(host=HOST, credentials=fixtures.credentials("worker")) as made:
        yield made


HELLO = wire_pb2.Handshake(hello=wire_pb2.Hello(nonce=b"n" * 32)).SerializeToString()

SLOW: dict[str, tuple[tuple[bytes, ...], str]] = {
    "says nothing": ((), HOLDS),
    "stops in the preface": ((PREFACE[:10],), HOLDS),
    "opens no stream": ((OPENING,), HOLDS),
    "stops in the headers": ((OPENING, frame(HEADERS, 1, b"\x82", length=100)), HOLDS),
    "never ends the headers": ((OPENING, frame(HEADERS, 1, b"\x82")), HOLDS),
    "opens a stream and says nothing": ((OPENING, call(1)), LATE),
    "stops in its first message": ((OPENING, call(1), message(1, b"\x0a", length=MIB)), LATE),
    "announces too large a message": ((OPENING, call(1), message(1, b"\x0a", length=8 * MIB - 1)), TOO_LARGE),
    "says hello and no more": ((OPENING, call(1), message(1, HELLO)), LATE),
    "opens a pulse of no stream": (
        (OPENING, call(1, PULSE, wool_stream="mine")),
        r"refused a pulse from 127\.0\.0\.1:\d+ whose stream has not come",
    ),
    "opens a pulse without a name": (
        (OPENING, call(1, PULSE)),
        r"refused a pulse from 127\.0\.0\.1:\d+ that names no stream",
    ),
}
"""What a slow stranger says, and what the log says of it."""


@pytest.mark.parametrize("how", SLOW)
async def test_who_is_slow_is_let_go_and_others_are_served_and_the_log_says_so(
    worker: wool.LocalWorker, how: str, capfd: pytest.CaptureFixture[str]
) -> None:
    said, says = SLOW[how]
    pid = worker.metadata.pid
    async with unharmed(worker, capfd, says=says, most_bytes=MOST_BYTES, most_lines=MOST_LINES):
        files = descriptors(pid)
        with Attackers(worker.metadata.address) as attackers:
            for _ in range(20):
                attackers.connect(*said)
            await until(lambda: not attackers.open(), GONE_SECONDS, what="the slow ones to be let go")
        await until(lambda: descriptors(pid) <= files + 2, GONE_SECONDS, what="their descriptors to be closed")


async def test_a_slow_loris_that_trickles_is_let_go_all_the_same(
    worker: wool.LocalWorker, capfd: pytest.CaptureFixture[str]
) -> None:
    async with unharmed(worker, capfd, says=LATE, most_bytes=MOST_BYTES, most_lines=MOST_LINES):
        with Attackers(worker.metadata.address) as attackers:
            for _ in range(10):
                attackers.connect(OPENING, call(1), message(1, b"\x0a", length=MIB))
            loop = asyncio.get_running_loop()
            end = loop.time() + GONE_SECONDS
            while attackers.open() and loop.time() < end:
                attackers.say(frame(0, 1, b"x"))
                await asyncio.sleep(0.05)
            # What is left of a connection is that it is answered; its stream has ended.
            attackers.say(frame(PING, 0, bytes(8)))
            await until(lambda: not attackers.open(), GONE_SECONDS, what="the trickling ones to be let go")


@pytest.mark.parametrize("how", ["says nothing", "stops in its hello", "says hello and no more"])
async def test_slow_tls_handshakes_are_let_go_and_others_are_served(
    secure: wool.LocalWorker, fixtures: Fixtures, how: str, capfd: pytest.CaptureFixture[str]
) -> None:
    hello = _client_hello()
    said = {"says nothing": b"", "stops in its hello": hello[:20], "says hello and no more": hello}[how]
    caller = fixtures.credentials("caller")
    async with unharmed(secure, capfd, says=HOLDS, most_bytes=MOST_BYTES, most_lines=MOST_LINES, credentials=caller):
        with Attackers(secure.metadata.address) as attackers:
            for _ in range(18):
                attackers.connect(said)
            await until(lambda: not attackers.open(), GONE_SECONDS, what="the slow ones to be let go")


async def test_strangers_that_have_sent_almost_a_whole_message_take_no_more_memory_than_handshakes_have(
    worker: wool.LocalWorker, capfd: pytest.CaptureFixture[str]
) -> None:
    most = LIMITS.handshakes * LIMITS.message_bytes
    almost = b"\0" + (LIMITS.message_bytes - 1).to_bytes(4, "big") + bytes(LIMITS.message_bytes - 2)
    says = REFUSED.format(why=r"(more than 16 handshakes at once \(handshakes\)|no handshake in)")
    # Twice: gRPC holds what it has read of those that are given up until their connections have ended.
    bounds = {"most_bytes": 2 * most + 16 * MIB, "most_lines": MOST_LINES}
    async with unharmed(worker, capfd, says=says, **bounds):
        with Attackers(worker.metadata.address) as attackers:
            made = [attackers.connect(OPENING, call(1)) for _ in range(3 * LIMITS.handshakes)]
            said = await asyncio.gather(*(say_within_the_window(each, 1, almost) for each in made))
            assert max(said) == len(almost), said
            await until(lambda: not attackers.open(), GONE_SECONDS, what="all to be let go")
    assert most <= MOST_BYTES
    assert Limits().handshakes * Limits().message_bytes <= 256 * MIB


def _client_hello() -> bytes:
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.set_alpn_protocols(["h2"])
    connection = context.wrap_bio(incoming, outgoing, server_hostname=HOST)
    with pytest.raises(ssl.SSLWantReadError):
        connection.do_handshake()
    return outgoing.read()


async def test_more_connections_than_there_is_room_for_leave_the_worker_its_descriptors(
    worker: wool.LocalWorker, capfd: pytest.CaptureFixture[str]
) -> None:
    pid = worker.metadata.pid
    files = descriptors(pid)
    async with unharmed(worker, capfd, says=HOLDS, most_bytes=MOST_BYTES, most_lines=MOST_LINES):
        with Attackers(worker.metadata.address) as attackers:
            for _ in range(300):
                attackers.connect(OPENING)
            most = descriptors(pid)
            await until(lambda: not attackers.open(), GONE_SECONDS, what="all to be let go")
            assert most - files <= LIMITS.connections + 30
        # And there is room again for somebody else who is honest.
        async with wool.WorkerProxy(workers=[worker.metadata]):
            async with asyncio.timeout(GONE_SECONDS):
                await served_once()


async def served_once() -> None:
    while True:
        try:
            assert await add(1, 2) == 3
        except wool.NoWorkersAvailable:
            await asyncio.sleep(0.1)
        else:
            return


async def test_a_connection_has_so_many_streams_and_one_more_is_refused_until_there_is_room(
    worker: wool.LocalWorker,
) -> None:
    most = LIMITS.streams
    allowed = [1 + 2 * number for number in range(most)]
    further, later = 1 + 2 * most, 3 + 2 * most
    proxy = wool.WorkerProxy(workers=[worker.metadata])
    async with served_meanwhile(proxy, worker.metadata.pid, most_bytes=MOST_BYTES):
        host, _, port = worker.metadata.address.rpartition(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        accepted: list[int] = []
        refused: list[int] = []

        async def hear(until: Callable[[], bool]) -> None:
            async with asyncio.timeout(GONE_SECONDS):
                while not until():
                    kind, flags, stream, _ = await read_frame(reader)
                    if kind == HEADERS and not flags & END_STREAM:
                        accepted.append(stream)
                    elif kind == RESET and stream not in accepted:
                        refused.append(stream)

        writer.write(OPENING)
        kind, _, _, settings = await read_frame(reader)
        assert kind == SETTINGS
        assert MAX_CONCURRENT_STREAMS + most.to_bytes(4, "big") in settings
        writer.write(frame(SETTINGS, flags=ACK))
        writer.write(b"".join(call(stream) for stream in (*allowed, further)))
        await hear(lambda: len(accepted) == most and bool(refused))
        assert (sorted(accepted), refused) == (allowed, [further])
        writer.write(frame(RESET, allowed[0], CANCEL.to_bytes(4, "big")) + call(later))
        await hear(lambda: later in (*accepted, *refused))
        assert (accepted[most:], refused) == ([later], [further])
        writer.transport.abort()


def _many_streams() -> bytes:
    return OPENING + b"".join(call(1 + 2 * number) + message(1 + 2 * number, HELLO) for number in range(500))


def _rapid_resets() -> bytes:
    cancel = CANCEL.to_bytes(4, "big")
    return OPENING + b"".join(call(1 + 2 * number) + frame(RESET, 1 + 2 * number, cancel) for number in range(2000))


def _much_in_little() -> bytes:
    """A message that fits into HTTP/2's first window, and is thirty times as long as the limit where it is unpacked."""
    data = gzip.compress(bytes(60 * MIB))
    said = b"\1" + struct.pack(">I", len(data)) + data
    assert len(said) < WINDOW
    pieces = (said[at : at + 16384] for at in range(0, len(said), 16384))
    return OPENING + call(1, grpc_encoding="gzip") + b"".join(frame(DATA, 1, piece) for piece in pieces)


FLOODS: dict[str, tuple[Callable[[], bytes], str | None]] = {
    "streams": (_many_streams, LATE),
    "streams that are reset at once": (_rapid_resets, HOLDS),
    "pings": (lambda: OPENING + frame(PING, 0, bytes(8)) * 20_000, HOLDS),
    "settings": (lambda: OPENING + frame(SETTINGS) * 20_000, HOLDS),
    "continuations without end": (
        lambda: OPENING + frame(HEADERS, 1, b"\x82") + frame(CONTINUATION, 1, b"\0\x01a\x7f" + b"b" * 127) * 20_000,
        None,
    ),
    "a message of 4 GiB": (lambda: OPENING + call(1) + message(1, bytes(16000), length=2**32 - 1), TOO_LARGE),
    "a message that unpacks to 60 MiB": (_much_in_little, NO_WORDS),
    "bytes that are no HTTP": (lambda: b"\xff" * MIB, None),
    "HTTP/1.1": (lambda: b"GET / HTTP/1.1\r\nHost: a\r\n\r\n" * 1000, None),
    "another method": (
        lambda: (
            OPENING + b"".join(call(1 + 2 * number, f"/wool.protocol.Worker/Stop{number}") for number in range(100))
        ),
        r"refused a caller at 127\.0\.0\.1:\d+: there is no method /wool\.protocol\.Worker/Stop\d",
    ),
}
"""What floods a worker, and what its log says of it: nothing if gRPC cuts it off at once, which it does not tell."""


@pytest.mark.parametrize("what", FLOODS)
async def test_a_flood_is_bounded_in_memory_and_others_are_served_and_the_log_says_so(
    worker: wool.LocalWorker, what: str, capfd: pytest.CaptureFixture[str]
) -> None:
    make, says = FLOODS[what]
    said = make()
    async with unharmed(worker, capfd, says=says, most_bytes=MOST_BYTES, most_lines=MOST_LINES) as bystander:
        served = bystander.served
        with Attackers(worker.metadata.address) as attackers:
            for _ in range(10):
                connection = attackers.connect()
                rest = memoryview(said)
                loop = asyncio.get_running_loop()
                # As much as it takes: what it does not read is its own defence.
                with contextlib.suppress(OSError, TimeoutError):
                    async with asyncio.timeout(1.0):
                        await loop.sock_sendall(connection, rest)
            await until(lambda: bystander.served > served + 5, GONE_SECONDS, what="others to be served")
            await until(lambda: not attackers.open(), GONE_SECONDS, what="the flood to be cut off")


async def test_who_says_farewell_without_end_keeps_nobody_from_being_served(
    worker: wool.LocalWorker, capfd: pytest.CaptureFixture[str]
) -> None:
    """gRPC would write two lines for each, and come to nothing else: one stranger was enough."""
    farewell = frame(GOAWAY, 0, (1).to_bytes(4, "big") + ENHANCE_YOUR_CALM.to_bytes(4, "big") + b"too_many_pings")
    loop = asyncio.get_running_loop()
    async with unharmed(worker, capfd, says=HOLDS, most_bytes=MOST_BYTES, most_lines=2) as bystander:
        with Attackers(worker.metadata.address) as attackers:
            connection = attackers.connect(OPENING)
            served, noticed = bystander.served, loop.time() + LIMITS.handshake_seconds
            with contextlib.suppress(OSError):
                async with asyncio.timeout(GONE_SECONDS):
                    while bystander.served < served + 50 or loop.time() < noticed:
                        await loop.sock_sendall(connection, 1000 * farewell)


async def test_the_log_says_who_was_refused_at_a_bounded_rate(
    worker: wool.LocalWorker, capfd: pytest.CaptureFixture[str]
) -> None:
    async with served_meanwhile(
        wool.WorkerProxy(workers=[worker.metadata]), worker.metadata.pid, most_bytes=MOST_BYTES
    ):
        with Attackers(worker.metadata.address) as attackers:
            for _ in range(100):
                attackers.connect(OPENING, call(1), message(1, b"who?"))
                await asyncio.sleep(0.005)
            await until(lambda: not attackers.open(), GONE_SECONDS, what="all to be refused")
    await worker.stop()
    _, printed = capfd.readouterr()
    lines = [line for line in printed.splitlines() if "refused" in line]
    assert sum("a caller was refused: what answered does not speak" in line for line in lines) >= 1
    assert len(lines) <= LIMITS.refusals + 2, printed
    assert "more were refused in 60 s" in lines[-1]


# ---- plaintext and TLS -------------------------------------------------------------------------------


async def test_plaintext_to_a_tls_port_is_refused_and_named_at_a_bounded_rate(
    secure: wool.LocalWorker, fixtures: Fixtures, capfd: pytest.CaptureFixture[str]
) -> None:
    bounds = {"most_bytes": MOST_BYTES, "most_lines": LIMITS.refusals + 3}
    caller = fixtures.credentials("caller")
    async with unharmed(secure, capfd, says="WRONG_VERSION_NUMBER", credentials=caller, **bounds):
        with Attackers(secure.metadata.address) as attackers:
            for _ in range(50):
                attackers.connect(OPENING, call(1), message(1, HELLO))
                await asyncio.sleep(0.005)
            await until(lambda: not attackers.open(), GONE_SECONDS, what="all to be refused")


async def test_tls_to_a_plaintext_port_is_refused(worker: wool.LocalWorker, capfd: pytest.CaptureFixture[str]) -> None:
    async with unharmed(worker, capfd, says=None, most_bytes=MOST_BYTES, most_lines=MOST_LINES):
        with Attackers(worker.metadata.address) as attackers:
            for _ in range(20):
                attackers.connect(_client_hello())
            await until(lambda: not attackers.open(), GONE_SECONDS, what="all to be refused")


WRONG: dict[str | None, str] = {
    None: "PEER_DID_NOT_RETURN_A_CERTIFICATE",
    "wrong authority": "CERTIFICATE_VERIFY_FAILED",
    "expired": "CERTIFICATE_VERIFY_FAILED",
    "not yet valid": "CERTIFICATE_VERIFY_FAILED",
    "server usage only": "CERTIFICATE_VERIFY_FAILED",
    "revoked by rotation": "CERTIFICATE_VERIFY_FAILED",
}
"""What a client shows, and what the log says of it: gRPC's own words, which name nobody."""


@pytest.mark.parametrize("shown", WRONG)
async def test_a_client_without_a_certificate_or_with_a_wrong_one_is_refused_and_others_are_served_and_the_log_says_so(
    secure: wool.LocalWorker, fixtures: Fixtures, shown: str | None, capfd: pytest.CaptureFixture[str]
) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.set_alpn_protocols(["h2"])
    if shown is not None:
        _load(context, fixtures, shown)
    host, _, port = secure.metadata.address.rpartition(":")
    bounds = {"most_bytes": MOST_BYTES, "most_lines": MOST_LINES}
    async with unharmed(secure, capfd, says=WRONG[shown], credentials=fixtures.credentials("caller"), **bounds):
        for _ in range(20):
            # In TLS 1.3 a client learns that it was refused when it reads.
            try:
                reader, writer = await asyncio.open_connection(host, int(port), ssl=context)
            except (OSError, ssl.SSLError):
                continue
            writer.write(OPENING + call(1) + message(1, HELLO))
            with pytest.raises((OSError, ssl.SSLError, EOFError)):  # noqa: PT012
                while True:
                    if not await reader.read(1000):
                        raise EOFError
            writer.transport.abort()


def _load(context: ssl.SSLContext, fixtures: Fixtures, name: str) -> None:
    with tempfile.TemporaryDirectory() as place:
        cert, key = Path(place, "cert"), Path(place, "key")
        cert.write_bytes(fixtures.issued[name].cert)
        key.write_bytes(fixtures.issued[name].key)
        context.load_cert_chain(cert, key)


async def test_a_stolen_workers_certificate_is_no_caller_where_identities_are_named_and_the_log_says_so(
    fixtures: Fixtures, capfd: pytest.CaptureFixture[str]
) -> None:
    shown = fixtures.credentials("worker", callers=("wool-caller",))
    says = r"refused a caller at 127\.0\.0\.1:\d+ whose certificate is for 127\.0\.0\.1, wool-worker"
    bounds = {"most_bytes": MOST_BYTES, "most_lines": MOST_LINES}
    async with wool.LocalWorker(host=HOST, credentials=shown) as worker:
        async with unharmed(worker, capfd, says=says, credentials=fixtures.credentials("caller"), **bounds):
            await _thief(worker, fixtures)


async def _thief(worker: wool.LocalWorker, fixtures: Fixtures) -> None:
    stolen = fixtures.credentials("worker")
    transport = GrpcTransport(LIMITS, lambda: stolen)
    try:
        for _ in range(30):
            with pytest.raises(ConnectFailed, match="does not take a caller at"):
                await transport.connect(worker.metadata.address)
    finally:
        await transport.close()


async def test_stop_is_not_on_the_public_service(worker: wool.LocalWorker, capfd: pytest.CaptureFixture[str]) -> None:
    """What a worker serves is ``Session`` and ``Pulse``, and no frame or handshake of either ends it."""

    class Server:
        names: list[str] = []

        def add_generic_rpc_handlers(self, handlers: tuple[object, ...]) -> None:
            for handler in handlers:
                # What is not among the methods is answered by one that refuses it.
                self.names += [str(name) for name in getattr(handler, "_method_handlers", ())]

    server = Server()
    add_servicer_to_server(SessionServicer(_nobody, LIMITS), server)  # type: ignore[arg-type]
    assert sorted(server.names) == ["/wool.protocol.Worker/Pulse", "/wool.protocol.Worker/Session"]
    kinds = {field.name for field in wire_pb2.Frame.DESCRIPTOR.oneofs_by_name["kind"].fields}
    assert not {name for name in kinds if "stop" in name or "shut" in name or "drain" in name} - {"draining"}
    says = r"refused a caller at 127\.0\.0\.1:\d+: there is no method /wool\.protocol\.Worker/Drain"
    async with unharmed(worker, capfd, says=says, most_bytes=MOST_BYTES, most_lines=MOST_LINES):
        with Attackers(worker.metadata.address) as attackers:
            for name in ("Stop", "stop", "Shutdown", "Drain"):
                attackers.connect(OPENING, call(1, f"/wool.protocol.Worker/{name}"), message(1, b""))
            await until(lambda: not attackers.open(), GONE_SECONDS, what="all to be refused")


async def _nobody(stream: object) -> None: ...
