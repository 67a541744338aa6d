"""Opening a session: with whom, how long, and what the error says when it fails."""

from __future__ import annotations

import asyncio
import dataclasses
import random
from typing import Any

import pytest

from support.one_loop import QUICK, SECRET, metadata_of, until
from support.peers import RawWorker
from wool.connection import Connection, is_refusal
from wool.errors import RpcError, TransientRpcError
from wool.limits import Limits
from wool.protocol import wire_pb2
from wool.transport.base import Stream
from wool.transport.memory import MemoryNetwork, MemoryTransport


async def connect(
    network: MemoryNetwork,
    address: str,
    *,
    expects: str = "",
    secret: bytes = SECRET,
    limits: Limits = QUICK,
    secure: bool = False,
    one_way: bool = False,
) -> Connection:
    transport = MemoryTransport(network, limits)
    transport.one_way = one_way
    return await Connection.open(
        transport=transport,
        address=address,
        expects=expects,
        secret=secret,
        caller="me",
        pool=b"pool",
        limits=limits,
        random_bytes=random.Random(1).randbytes,
        secure=secure,
    )


async def close(connection: Connection) -> None:
    connection.session.abort("the test is over")
    await connection.session._stream.close()


async def test_an_open_session_knows_whom_it_talks_to() -> None:
    network = MemoryNetwork()
    worker = RawWorker(network, "a", QUICK, window_tasks=7)
    await worker.listen()
    connection = await connect(network, "unix:/a", expects="a")
    assert connection.metadata == metadata_of("a", "unix:/a")
    assert connection.peer.window_tasks == 7
    assert connection.calls() == []
    await close(connection)
    await worker.close()


@pytest.mark.parametrize("says", ["unix:/a", "127.0.0.1:7001", "127.0.0.2:7000"])
async def test_without_tls_a_worker_that_is_reached_through_somebody_elses_address_is_refused_for_good(
    says: str,
) -> None:
    # Whoever passes the handshake on knows no secret, and could then say what it likes to both.
    network = MemoryNetwork()
    worker = RawWorker(network, "a", QUICK, metadata=metadata_of("a", says).to_bytes())
    await worker.listen("127.0.0.1:7000")
    with pytest.raises(RpcError, match="somebody passes on what is said there") as failure:
        await connect(network, "127.0.0.1:7000", expects="a")
    assert type(failure.value) is RpcError
    secure = dataclasses.replace(metadata_of("a", says), secure=True)
    worker.words["metadata"] = secure.to_bytes()
    with pytest.raises(RpcError, match="has credentials, and this side has no credentials"):
        await connect(network, "127.0.0.1:7000", expects="a")
    await close(await connect(network, "127.0.0.1:7000", expects="a", secure=True))
    # Who is no more than encrypted shares the connection with anybody who has a certificate for that address.
    with pytest.raises(RpcError, match="somebody passes on what is said there.* give both ends certificates"):
        await connect(network, "127.0.0.1:7000", expects="a", secure=True, one_way=True)
    # It is as anonymous where the worker does not ask who it is.
    worker.words["one_way"] = True
    with pytest.raises(RpcError, match="somebody passes on what is said there.* give both ends certificates"):
        await connect(network, "127.0.0.1:7000", expects="a", secure=True)
    await worker.close()


@pytest.mark.parametrize(("dialled", "says"), [("[::1]:7000", "[0:0:0:0:0:0:0:1]:7000"), ("unix:/a", "unix:/a")])
async def test_without_tls_an_address_may_be_written_in_two_ways(dialled: str, says: str) -> None:
    network = MemoryNetwork()
    worker = RawWorker(network, "a", QUICK, metadata=metadata_of("a", says).to_bytes())
    await worker.listen(dialled)
    await close(await connect(network, dialled))
    await worker.close()


FAILURES: dict[str, tuple[dict[str, Any], dict[str, Any], type[RpcError], str]] = {
    "another uid": ({}, {"expects": "b"}, RpcError, "worker a answers where b was expected"),
    "another protocol": ({"protocol": 99}, {}, RpcError, "protocol version 99"),
    "another Python": ({"python": "2.7"}, {}, RpcError, r"Python 2\.7"),
    "no metadata": ({"metadata": b"nonsense"}, {}, RpcError, "describes itself wrongly"),
    "metadata without end": ({"metadata": b"x" * 10_000}, {}, RpcError, "describes itself wrongly"),
}


@pytest.mark.parametrize("how", FAILURES)
async def test_a_worker_that_does_not_fit_is_refused_for_good_and_readably(how: str) -> None:
    words, options, kind, why = FAILURES[how]
    network = MemoryNetwork()
    worker = RawWorker(network, "a", QUICK, **words)
    await worker.listen()
    with pytest.raises(kind, match=rf"^unix:/a: .*{why}") as failure:
        await connect(network, "unix:/a", **options)
    assert type(failure.value) is kind
    assert len(str(failure.value)) < 500
    await worker.close()


async def test_a_worker_that_does_not_know_the_secret_is_refused_readably_and_not_for_good() -> None:
    network = MemoryNetwork()
    worker = RawWorker(network, "a", QUICK)
    await worker.listen()
    with pytest.raises(TransientRpcError, match="^unix:/a: the worker did not prove that it knows the secret$"):
        await connect(network, "unix:/a", secret=b"another")
    await worker.close()


async def test_an_address_where_nobody_listens_may_work_later() -> None:
    with pytest.raises(TransientRpcError, match=r"unix:/nobody: nobody listens"):
        await connect(MemoryNetwork(), "unix:/nobody")


async def answering(network: MemoryNetwork, *messages: bytes, hang: bool = False) -> Any:
    """Listen, and answer whatever comes with ``messages``."""

    async def serve(stream: Stream) -> None:
        await stream.read()
        for message in messages:
            await stream.write(message)
        if hang:
            await asyncio.sleep(60)

    return await MemoryTransport(network, QUICK).listen("unix:/other", serve)


@pytest.mark.parametrize("message", [b"HTTP/1.1 400 Bad Request\r\n\r\n", b"\xff" * 50, bytes(2 * 1024 * 1024)])
async def test_a_process_that_is_no_worker_is_refused_until_a_worker_may_be_there(message: bytes) -> None:
    network = MemoryNetwork()
    listener = await answering(network, message)
    with pytest.raises(TransientRpcError, match="unix:/other") as failure:
        await connect(network, "unix:/other")
    assert is_refusal(failure.value)
    await listener.close()


async def test_a_peer_that_never_answers_is_given_up_in_time_and_the_error_names_the_limit() -> None:
    network = MemoryNetwork()
    listener = await answering(network, hang=True)
    limits = dataclasses.replace(QUICK, handshake_seconds=0.05)
    with pytest.raises(TransientRpcError, match=r"no session within 0\.05 s \(handshake_seconds\)"):
        await connect(network, "unix:/other", limits=limits)
    await listener.close()


async def test_a_stream_that_breaks_in_the_handshake_may_work_later() -> None:
    network = MemoryNetwork()
    listener = await answering(network)
    with pytest.raises(TransientRpcError, match="unix:/other"):
        await connect(network, "unix:/other")
    await listener.close()


async def test_a_refusal_by_who_has_proven_nothing_is_not_for_good() -> None:
    for permanent in (True, False):
        network = MemoryNetwork()
        refusal = wire_pb2.Handshake(refusal=wire_pb2.Refusal(reason="not you", permanent=permanent))
        listener = await answering(network, refusal.SerializeToString())
        with pytest.raises(RpcError, match="the worker refused: not you") as failure:
            await connect(network, "unix:/other")
        assert type(failure.value) is TransientRpcError
        await listener.close()


async def test_cancelled_while_opening_it_leaves_no_stream() -> None:
    network = MemoryNetwork()
    worker = RawWorker(network, "a", QUICK)
    worker.accepting.clear()
    await worker.listen()
    opening = asyncio.ensure_future(connect(network, "unix:/a"))
    await until(lambda: worker.connected)
    opening.cancel()
    with pytest.raises(asyncio.CancelledError):
        await opening
    await worker.close()
