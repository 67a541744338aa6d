"""Who is connected and opens no session is told of, once, by host; who has opened one is not."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from support.faults import until
from wool.limits import Limits
from wool.transport.base import Stream
from wool.transport.grpc import GrpcTransport
from wool.transport.onlookers import LOOKS, SUSPECT, Onlookers, readable

SECONDS = 0.2


@pytest.fixture(params=["127.0.0.1", "::1", "::"])
def listening(request: pytest.FixtureRequest) -> Iterator[socket.socket]:
    family = socket.AF_INET6 if ":" in request.param else socket.AF_INET
    with socket.create_server((request.param, 0), family=family, dualstack_ipv6=request.param == "::") as made:
        yield made


class Heard(list[str]):
    def say(self, message: str, *args: object) -> None:
        self.append(message % args)


def joined(listening: socket.socket, kept: ExitStack) -> str:
    """Connect; return the other end as gRPC calls it."""
    host, port = listening.getsockname()[:2]
    near = kept.enter_context(socket.create_connection((host if host != "::" else "127.0.0.1", port)))
    kept.enter_context(listening.accept()[0])
    name, number = near.getsockname()[:2]
    return f"ipv4:{name}:{number}" if "." in name else f"ipv6:%5B{name}%5D:{number}"


async def test_who_is_connected_and_opens_no_session_is_told_of_once(listening: socket.socket) -> None:
    heard = Heard()
    with ExitStack() as kept:
        onlookers = Onlookers(listening.getsockname()[1], "here", SECONDS, heard.say)
        for _ in range(3):
            peer = joined(listening, kept)
        onlookers.start()
        await until(lambda: heard)
        for _ in range(LOOKS):
            onlookers._look()
        host = readable(peer).rpartition(":")[0].strip("[]")
        seconds = (SUSPECT - 1) * SECONDS / LOOKS
        assert heard == [f"here: connections that have opened no session in {seconds:g} s: 3 from {host}"]
        joined(listening, kept)
        await until(lambda: len(heard) == 2)
        assert ": 1 from " in heard[1]
        onlookers.close()


async def test_who_has_opened_a_session_is_not_told_of(listening: socket.socket) -> None:
    heard = Heard()
    with ExitStack() as kept:
        onlookers = Onlookers(listening.getsockname()[1], "here", SECONDS, heard.say)
        for _ in range(3):
            onlookers.met(joined(listening, kept))
        for _ in range(2 * SUSPECT):
            onlookers._look()
        assert heard == []


async def test_who_has_no_descriptor_left_to_look_with_looks_again_later(monkeypatch: pytest.MonkeyPatch) -> None:
    heard, looks = Heard(), iter([True, True, False])

    def listdir(_: str, look: Callable[[str], list[str]] = os.listdir) -> list[str]:
        if next(looks, False):
            raise OSError(errno.EMFILE, "Too many open files")
        return look("/dev/fd")

    monkeypatch.setattr("wool.transport.onlookers.os.listdir", listdir)
    with ExitStack() as kept:
        server = kept.enter_context(socket.create_server(("127.0.0.1", 0)))
        joined(server, kept)
        onlookers = Onlookers(server.getsockname()[1], "here", SECONDS, heard.say)
        onlookers.start()
        await until(lambda: heard)
        onlookers.close()


async def test_many_hosts_are_counted() -> None:
    heard = Heard()
    onlookers = Onlookers(1, "here", SECONDS, heard.say)
    onlookers._connected = lambda: {f"10.0.0.{each}:{port}": f"10.0.0.{each}" for each in range(9) for port in (1, 2)}  # type: ignore[method-assign]
    for _ in range(SUSPECT):
        onlookers._look()
    [said] = heard
    assert said.endswith(", 8 from others")
    assert said.count("2 from 10.0.0.") == 5


async def test_no_socket_is_touched() -> None:
    """Whoever looks at another's sockets must leave them as they are: blocking, and open."""
    with ExitStack() as kept:
        server = kept.enter_context(socket.create_server(("127.0.0.1", 0)))
        joined(server, kept)
        server.setblocking(True)
        before = sorted(os.listdir("/dev/fd"))
        onlookers = Onlookers(server.getsockname()[1], "here", SECONDS, Heard().say)
        for _ in range(100):
            assert len(onlookers._connected()) == 1
        assert sorted(os.listdir("/dev/fd")) == before
        assert server.getblocking()
        assert os.get_blocking(server.fileno())


@pytest.mark.parametrize(
    ("peer", "shown"),
    [
        ("ipv4:127.0.0.1:5", "127.0.0.1:5"),
        ("ipv6:%5B::1%5D:5", "[::1]:5"),
        ("ipv6:%5Bfe80::1%25eth0%5D:5", "[fe80::1%eth0]:5"),
        ("unix:", "a Unix socket"),
    ],
)
def test_the_other_end_is_written_as_addresses_are(peer: str, shown: str) -> None:
    assert readable(peer) == shown


@pytest.mark.parametrize("address", ["127.0.0.1:0", "[::1]:0"])
async def test_a_stream_over_grpc_is_no_onlooker_and_a_bare_connection_is(
    address: str, caplog: pytest.LogCaptureFixture
) -> None:
    transport = GrpcTransport(Limits(handshake_seconds=1.0))

    async def hold(stream: Stream) -> None:
        await stream.read()

    listener = await transport.listen(address, hold)
    try:
        stream = await transport.connect(listener.address)
        # That is told of alone, though the stream has been there for longer.
        host, _, port = listener.address.rpartition(":")
        with socket.create_connection((host.strip("[]"), int(port))):
            await until(lambda: caplog.messages)
        assert caplog.messages == [
            f"{listener.address}: connections that have opened no session in 0.25 s: 1 from {host.strip('[]')}"
        ]
        stream.abort("done")
        await stream.close()
    finally:
        await listener.close()
        await transport.close()
