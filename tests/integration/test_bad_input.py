"""What cannot work is refused with clear words, blames the right side, and leaves the pool as it was."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import os
import socket
import sys
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import grpc.aio
import pytest

import wool
from support.faults import InOrder, Journal, is_suspect, until, workers
from support.traced import (
    Unloadable,
    count_up,
    describe,
    download,
    fail_at_length,
    run,
    run_until,
    unpicklable_item,
    unpicklable_result,
    upload,
)
from wool.discovery.base import WorkerMetadata
from wool.limits import DEFAULT_LIMITS, Limits
from wool.protocol import frames
from wool.protocol.codec import decode, encode
from wool.protocol.frames import PROTOCOL_VERSION
from wool.protocol.handshake import (
    NONCE_BYTES,
    PYTHON,
    CallerHandshake,
    CallerWords,
    HandshakeFailed,
    WorkerHandshake,
    WorkerWords,
)
from wool.runtime import real_runtime, set_runtime
from wool.runtime_directory import user_key
from wool.transport.base import Stream, StreamLost
from wool.transport.grpc import GrpcTransport

MIB = 1024 * 1024


@contextlib.asynccontextmanager
async def unharmed(journal: Journal, *, size: int = 2) -> AsyncIterator[wool.WorkerPool]:
    """A pool that must be as good after the block as before: the same workers, none suspect, sessions open."""
    async with wool.WorkerPool(size=size) as pool:
        before = {worker.pid for worker in pool.workers}
        while {await run(journal.path, journal.new_call()) for _ in range(2 * size)} != before:
            pass
        yield pool
        assert {await run(journal.path, journal.new_call()) for _ in range(2 * size)} == before
        assert not any(is_suspect(pool, pid) for pid in before)


# ---- the pool's own arguments ------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, -1, -(10**9)])
def test_a_size_below_one_is_refused(size: int) -> None:
    with pytest.raises(ValueError, match=f"size must be at least 1, got {size}"):
        wool.WorkerPool(size=size)


@pytest.mark.parametrize("size", [True, 1.5, "2", [1]])
def test_a_size_that_is_no_number_is_refused(size: Any) -> None:
    with pytest.raises(TypeError, match="size must be a number of workers"):
        wool.WorkerPool(size=size)


async def no_balancer() -> wool.RoundRobinLoadBalancer:
    return wool.RoundRobinLoadBalancer()


def failing_factory() -> wool.RoundRobinLoadBalancer:
    raise LookupError("no licence for this balancer")


@pytest.mark.parametrize("balancer", [object(), object, 7, None, lambda: 7, no_balancer])
async def test_a_load_balancer_that_is_none_is_refused_before_anything_is_started(balancer: Any) -> None:
    def launcher() -> Any:
        pytest.fail("a worker was started")

    set_runtime(dataclasses.replace(real_runtime(), launcher=launcher))
    with pytest.raises(TypeError, match=r"load balancer needs order\(task, workers\)"):
        async with wool.WorkerPool(size=1, loadbalancer=balancer):
            pytest.fail("entered")
    with pytest.raises(TypeError, match=r"load balancer needs order\(task, workers\)"):
        async with wool.WorkerProxy(workers=[], loadbalancer=balancer):
            pytest.fail("entered")


async def test_a_load_balancer_whose_factory_fails_fails_the_entry_before_anything_is_started() -> None:
    with pytest.raises(LookupError, match="no licence"):
        async with wool.WorkerPool(size=1, loadbalancer=failing_factory):
            pytest.fail("entered")


class Broken:
    """A load balancer with a bug."""

    def order(self, task: wool.Task, workers: Any) -> Any:
        raise LookupError("no idea")


async def test_a_load_balancer_that_fails_is_told_to_the_caller(journal: Journal) -> None:
    async with wool.WorkerPool(size=1, loadbalancer=Broken) as pool:
        call = journal.new_call()
        with pytest.raises(wool.NoWorkersAvailable, match="load balancer failed") as caught:
            await run(journal.path, call)
        assert isinstance(caught.value.__cause__, LookupError)
        assert len(pool.workers) == 1
        assert journal.executions(call) == 0


# ---- what does not pickle ----------------------------------------------------------------------------


async def test_an_argument_that_cannot_be_pickled_is_the_callers_own_error(journal: Journal) -> None:
    async with unharmed(journal):
        with pytest.raises(TypeError, match="cannot pickle '_thread.lock' object") as caught:
            await describe([1, {"deep": threading.Lock()}])
        [note] = caught.value.__notes__
        assert "support.traced:describe" in note
        assert "no worker was contacted" in note
        assert "argument" in note


async def test_a_result_that_cannot_be_pickled_is_told_and_the_body_has_run_once(journal: Journal) -> None:
    async with unharmed(journal):
        call = journal.new_call()
        with pytest.raises(wool.SerializationError, match="result .* cannot be pickled .*lock") as caught:
            await unpicklable_result(journal.path, call)
        assert caught.value.executed == "yes"
        assert journal.executions(call) == 1


async def test_an_item_that_cannot_be_pickled_ends_the_generator_after_its_finally(journal: Journal) -> None:
    async with unharmed(journal):
        call = journal.new_call()
        items = unpicklable_item(journal.path, call)
        assert await anext(items) == 0
        with pytest.raises(wool.SerializationError, match="item .* cannot be pickled .*lock") as caught:
            await anext(items)
        assert caught.value.executed == "yes"
        assert len(journal.pids("closed", call)) == 1
        with pytest.raises(StopAsyncIteration):
            await anext(items)


async def test_a_value_sent_in_that_cannot_be_pickled_closes_the_generator(journal: Journal) -> None:
    async with unharmed(journal):
        call = journal.new_call()
        items = count_up(journal.path, call)
        assert await anext(items) == 0
        with pytest.raises(TypeError, match="cannot pickle '_thread.lock' object") as caught:
            await items.asend(threading.Lock())  # type: ignore[arg-type]
        assert "has been closed" in caught.value.__notes__[0]
        assert len(journal.pids("closed", call)) == 1


async def test_arguments_that_the_worker_cannot_load_are_told_with_the_cause(journal: Journal) -> None:
    async with unharmed(journal):
        with pytest.raises(wool.SerializationError, match="LookupError: not here") as caught:
            await describe(Unloadable(os.getpid()))
        assert caught.value.executed == "no"
        assert isinstance(caught.value.__cause__, LookupError)


async def test_a_result_that_the_caller_cannot_load_is_told_and_the_body_has_run(journal: Journal) -> None:
    async with unharmed(journal):
        call = journal.new_call()
        with pytest.raises(wool.SerializationError, match="cannot be loaded here: LookupError: not here") as caught:
            await unloadable_result(journal.path, call)
        assert caught.value.executed == "yes"
        assert journal.executions(call) == 1


@pytest.mark.parametrize("kind", [SystemExit, asyncio.CancelledError, GeneratorExit])
async def test_a_result_whose_loading_would_end_or_cancel_the_caller_cannot_be_loaded(
    kind: type[BaseException], journal: Journal
) -> None:
    async with unharmed(journal):
        with pytest.raises(
            wool.SerializationError, match=f"cannot be loaded here: {kind.__name__}: not here"
        ) as caught:
            await unloadable_result(journal.path, journal.new_call(), kind)
        assert caught.value.executed == "yes"
        assert type(caught.value.__cause__) is kind


@wool.routine
async def unloadable_result(journal: str, call: str, kind: type[BaseException] = LookupError) -> Unloadable:
    """Return what can be loaded here, and not at the caller."""
    from support.traced import note

    note(journal, "begin", call)
    return Unloadable(os.getpid(), kind)


# ---- what is too large -------------------------------------------------------------------------------


@pytest.fixture
def small_limit() -> Limits:
    return Limits(payload_bytes=MIB, chunk_bytes=64 * 1024)


async def test_arguments_over_the_limit_are_refused_before_anything_runs(journal: Journal, small_limit: Limits) -> None:
    set_runtime(real_runtime(limits=small_limit))
    async with unharmed(journal):
        call = journal.new_call()
        with pytest.raises(wool.SerializationError, match=r"payload_bytes") as caught:
            await upload(journal.path, call, bytes(2 * MIB))
        assert caught.value.executed == "no"
        assert f"the limit is {MIB}" in str(caught.value)
        assert "support.traced:upload" in str(caught.value)
        assert journal.executions(call) == 0
        assert await upload(journal.path, call, bytes(MIB - 1024)) == MIB - 1024


async def test_a_result_over_the_limit_is_told_and_the_body_has_run(journal: Journal, small_limit: Limits) -> None:
    set_runtime(real_runtime(limits=small_limit))
    async with unharmed(journal):
        call = journal.new_call()
        with pytest.raises(wool.SerializationError, match=r"payload_bytes") as caught:
            await download(journal.path, call, 2 * MIB)
        assert caught.value.executed == "yes"
        assert f"the limit is {MIB}" in str(caught.value)
        assert "support.traced:download" in str(caught.value)
        assert journal.executions(call) == 1
        assert len(await download(journal.path, call, MIB - 1024)) == MIB - 1024


async def test_a_value_sent_in_over_the_limit_closes_the_generator(journal: Journal, small_limit: Limits) -> None:
    set_runtime(real_runtime(limits=small_limit))
    async with unharmed(journal):
        call = journal.new_call()
        items = count_up(journal.path, call)
        assert await anext(items) == 0
        with pytest.raises(wool.SerializationError, match=r"payload_bytes"):
            await items.asend(bytes(2 * MIB))  # type: ignore[arg-type]
        await journal.appears("closed", call)


async def test_an_exception_over_the_limit_keeps_its_class(journal: Journal, small_limit: Limits) -> None:
    set_runtime(real_runtime(limits=small_limit))
    async with unharmed(journal):
        with pytest.raises(LookupError, match="^xxxxx"):
            await fail_at_length(2 * MIB)


# ---- what the worker cannot import -------------------------------------------------------------------


@contextlib.contextmanager
def only_here(name: str, source: str, folder: Path) -> Any:
    """A module that this process has imported, and that its workers do not find."""
    place = folder / "only-here"
    place.mkdir()
    (place / f"{name}.py").write_text(source)
    sys.path.insert(0, str(place))
    try:
        yield __import__(name)
    finally:
        sys.path.remove(str(place))
        del sys.modules[name]


async def test_a_routine_whose_module_the_worker_cannot_import_is_told(journal: Journal, tmp_path: Path) -> None:
    source = (
        f"import os, wool\nif os.getpid() != {os.getpid()}:\n    import not_installed_there\n"
        "@wool.routine\nasync def unknown():\n    return 1\n"
    )
    with only_here("only_at_the_caller", source, tmp_path) as module:
        async with unharmed(journal):
            assert isinstance(module, ModuleType)
            with pytest.raises(wool.SerializationError, match="No module named 'not_installed_there'") as caught:
                await module.unknown()
        assert caught.value.executed == "no"
        assert isinstance(caught.value.__cause__, ModuleNotFoundError)
        assert "only_at_the_caller:unknown" in str(caught.value)
        assert "cloudpickle.register_pickle_by_value" in str(caught.value)


async def test_a_module_that_breaks_on_the_worker_is_told_with_the_cause(journal: Journal, tmp_path: Path) -> None:
    source = (
        f"import os, wool\nif os.getpid() != {os.getpid()}:\n    raise SystemExit('no licence')\n"
        "@wool.routine\nasync def licensed():\n    return 1\n"
    )
    with only_here("breaks_on_the_worker", source, tmp_path) as module:
        async with unharmed(journal):
            with pytest.raises(wool.SerializationError, match="no licence") as caught:
                await module.licensed()
            assert caught.value.executed == "no"


# ---- who is not a worker like ours -------------------------------------------------------------------

WORKER_WORDS = {
    "session": b"s" * 16,
    "window_tasks": 8,
    "window_bytes": MIB,
    "payload_bytes": MIB,
    "credit_bytes": MIB,
}


@contextlib.asynccontextmanager
async def impostor(
    *,
    secret: bytes | None = None,
    claims: str = "f" * 32,
    serve: Callable[[Stream], Awaitable[None]] | None = None,
    **words: Any,
) -> AsyncIterator[WorkerMetadata]:
    """Speak the handshake in these words, and whatever ``serve`` says after it."""
    transport = GrpcTransport(DEFAULT_LIMITS)
    found = WorkerMetadata(uid="f" * 32, address="127.0.0.1:0", pid=1, version="1", tags=frozenset({"odd"}))

    async def handle(stream: Stream) -> None:
        said = dataclasses.replace(found, uid=claims, address=listener.address)
        handshake = WorkerHandshake(
            secret=user_key() if secret is None else secret,
            nonce=os.urandom(NONCE_BYTES),
            words=WorkerWords(**{**WORKER_WORDS, "metadata": said.to_bytes(), **words}),
        )
        with contextlib.suppress(StreamLost):
            while handshake.peer is None:
                await stream.write(handshake.receive(await stream.read()))
            if serve is not None:
                await serve(stream)
            while True:
                await stream.read()

    listener = await transport.listen("127.0.0.1:0", handle)
    try:
        yield dataclasses.replace(found, address=listener.address)
    finally:
        await listener.close()
        await transport.close()


async def refused(metadata: WorkerMetadata, journal: Journal) -> BaseException:
    """Call with a healthy worker beside it, which must get the task, and with nobody; return the reason given."""
    async with workers("healthy") as [healthy]:
        known = [metadata, healthy.metadata]
        async with wool.WorkerProxy(workers=known, loadbalancer=InOrder("odd", "healthy")) as proxy:
            calls = [journal.new_call() for _ in range(5)]
            where = await asyncio.gather(*(run(journal.path, call) for call in calls))
            assert set(where) == {healthy.metadata.pid}
            assert [journal.executions(call) for call in calls] == [1] * 5
            assert not is_suspect(proxy, healthy.metadata.pid)
    async with wool.WorkerProxy(workers=[metadata]):
        with pytest.raises(wool.NoWorkersAvailable) as caught:
            await run(journal.path, journal.new_call())
        assert caught.value.executed == "no"
        return caught.value.reasons[metadata.uid]


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        ({"python": "2.7"}, rf"the worker runs Python 2\.7, this side {PYTHON}: use the same Python major\.minor"),
        ({"protocol": PROTOCOL_VERSION + 1}, "speaks protocol version .*: install the same wool"),
        ({"claims": "e" * 32}, "worker eeeeeeee answers where ffffffff was expected"),
        ({"window_tasks": 0}, "gives no window"),
        ({"metadata": b"nonsense"}, "describes itself wrongly"),
    ],
    ids=["another Python", "another protocol", "another uid", "no window", "nonsense"],
)
async def test_a_worker_that_does_not_fit_is_refused_for_good(
    words: dict[str, Any], reason: str, journal: Journal
) -> None:
    async with impostor(**words) as metadata:
        error = await refused(metadata, journal)
    assert type(error) is wool.RpcError
    with pytest.raises(wool.RpcError, match=reason):
        raise error


async def test_a_worker_that_does_not_know_the_secret_gets_no_task_and_may_be_mended(
    journal: Journal,
) -> None:
    async with impostor(secret=b"x" * 32) as metadata:
        error = await refused(metadata, journal)
    assert type(error) is wool.TransientRpcError
    assert "the worker did not prove that it knows the secret" in str(error)


async def test_a_worker_that_breaks_the_protocol_before_start_costs_no_execution(journal: Journal) -> None:
    async def serve(stream: Stream) -> None:
        await stream.read()
        await stream.write(b"\xff garbage")

    async with impostor(serve=serve) as metadata:
        error = await refused(metadata, journal)
    assert type(error) is wool.UnexpectedResponse


async def test_a_worker_that_breaks_the_protocol_after_start_is_lost(journal: Journal) -> None:
    async def serve(stream: Stream) -> None:
        offer = decode(await stream.read())[0]
        assert isinstance(offer, frames.Offer)
        await stream.write(encode([frames.Accept(offer.number)]))
        assert decode(await stream.read()) == [frames.Start(offer.number)]
        await stream.write(encode([frames.Accept(offer.number), frames.Accept(offer.number + 7)]))

    async with impostor(serve=serve) as metadata, wool.WorkerProxy(workers=[metadata]):
        with pytest.raises(wool.WorkerLost) as caught:
            await run(journal.path, journal.new_call())
        assert type(caught.value.__cause__) is wool.UnexpectedResponse


# ---- who is no worker at all -------------------------------------------------------------------------


@contextlib.asynccontextmanager
async def stranger(answer: bytes | None, *, stays: bool) -> AsyncIterator[WorkerMetadata]:
    """Accept connections, say ``answer``, and stay or go."""
    open_ones: set[asyncio.StreamWriter] = set()
    gone = False

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if gone:  # it was accepted in the last moment
            writer.transport.abort()
            return
        open_ones.add(writer)
        if answer is not None:
            writer.write(answer)
        if not stays:
            writer.close()

    async with await asyncio.start_server(handle, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        yield WorkerMetadata(uid="f" * 32, address=f"127.0.0.1:{port}", pid=1, version="1", tags=frozenset({"odd"}))
        gone = True
        server.close()
        for writer in open_ones:
            writer.transport.abort()
    for _ in range(5):  # accepting, its task, and the end of the transport take a turn of the loop each
        await asyncio.sleep(0)


@pytest.mark.parametrize(
    ("answer", "stays"),
    [
        (None, False),
        (None, True),
        (b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n", False),
        (b"220 mail.example.org ESMTP\r\n", True),
        (bytes(range(256)) * 16, True),
    ],
    ids=["hangs up", "is silent", "speaks HTTP/1", "speaks SMTP", "speaks nonsense"],
)
async def test_a_process_that_is_no_worker_gets_no_task(answer: bytes | None, stays: bool, journal: Journal) -> None:
    async with stranger(answer, stays=stays) as metadata:
        error = await refused(metadata, journal)
    assert type(error) is wool.TransientRpcError
    assert metadata.address in str(error)


async def test_another_grpc_server_gets_no_task(journal: Journal) -> None:
    server = grpc.aio.server()
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        address = f"127.0.0.1:{port}"
        error = await refused(
            WorkerMetadata(uid="f" * 32, address=address, pid=1, version="1", tags=frozenset({"odd"})), journal
        )
    finally:
        await server.stop(None)
    assert isinstance(error, wool.RpcError)
    assert "UNIMPLEMENTED" in str(error)


async def test_an_address_where_nobody_listens_is_told_at_once(journal: Journal) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    nobody = WorkerMetadata(uid="f" * 32, address=address, pid=1, version="1")
    async with wool.WorkerProxy(workers=[nobody]):
        began = time.monotonic()
        with pytest.raises(wool.NoWorkersAvailable, match="refused") as caught:
            await run(journal.path, journal.new_call())
        assert time.monotonic() - began < 2.0
        assert type(caught.value.reasons[nobody.uid]) is wool.TransientRpcError


# ---- who is no caller --------------------------------------------------------------------------------

GARBAGE = {
    "nothing": b"",
    "noise": bytes(range(256)) * 64,
    "HTTP/1": b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "half a preface": b"PRI * HTTP/2.0\r\n",
    "a preface, then noise": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\xff" * 4096,
    "a frame without an end": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\xff\xff\xff\x00\x00" + b"\x00" * 64,
}


def connect(address: str) -> socket.socket:
    if address.startswith("unix:"):
        line = socket.socket(socket.AF_UNIX)
        line.connect(address.removeprefix("unix:"))
        return line
    host, _, port = address.rpartition(":")
    return socket.create_connection((host, int(port)))


@pytest.mark.parametrize("host", [None, "127.0.0.1"], ids=["unix", "tcp"])
async def test_garbage_on_a_workers_socket_disturbs_nobody(host: str | None, journal: Journal, tmp_path: Path) -> None:
    async with workers("one", host=host) as [worker], wool.WorkerProxy(workers=[worker.metadata]) as proxy:
        gate = tmp_path / "gate"
        running = asyncio.create_task(run_until(journal.path, "running", str(gate)))
        await journal.appears("begin", "running")
        with contextlib.ExitStack() as lines:
            for garbage in GARBAGE.values():
                for stays in (True, False):
                    line = lines.enter_context(connect(worker.metadata.address))
                    with contextlib.suppress(ConnectionError):
                        line.sendall(garbage)
                    if not stays:
                        line.close()
            for _ in range(20):
                assert await run(journal.path, journal.new_call()) == worker.metadata.pid
            async with wool.WorkerProxy(workers=[worker.metadata]):
                assert await run(journal.path, journal.new_call()) == worker.metadata.pid
            gate.touch()
            assert await running == worker.metadata.pid
            assert not is_suspect(proxy, worker.metadata.pid)
        assert journal.executions("running") == 1


@contextlib.asynccontextmanager
async def stream_to(worker: wool.LocalWorker) -> AsyncIterator[Stream]:
    transport = GrpcTransport(DEFAULT_LIMITS)
    stream = await transport.connect(worker.metadata.address)
    try:
        yield stream
    finally:
        await stream.close()
        await transport.close()


async def introduce(stream: Stream, *, secret: bytes | None = None, **words: Any) -> None:
    """Speak a caller's handshake in these words. Raises what refuses it."""
    said = CallerWords(**{"uid": "c" * 32, "pool": b"", "payload_bytes": MIB, "credit_bytes": MIB, **words})
    handshake = CallerHandshake(
        secret=user_key() if secret is None else secret, nonce=os.urandom(NONCE_BYTES), words=said
    )
    await stream.write(handshake.hello())
    while not handshake.done:
        answer = handshake.receive(await stream.read())
        if answer is not None:
            await stream.write(answer)


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        ({"python": "2.7"}, rf"the caller runs Python 2\.7, this side {PYTHON}"),
        ({"protocol": PROTOCOL_VERSION + 1}, "the caller speaks protocol version"),
        ({"expects": "e" * 32}, "is here, not eeeeeeee"),
        ({"pool": b"x" * (MIB + 1)}, "pool description of"),
        ({"credit_bytes": 0}, "gives no credit"),
    ],
    ids=["another Python", "another protocol", "another worker", "too much to say", "no credit"],
)
async def test_a_caller_that_does_not_fit_is_refused_and_logged(
    words: dict[str, Any], reason: str, journal: Journal, capfd: pytest.CaptureFixture[str]
) -> None:
    async with workers("one") as [worker], wool.WorkerProxy(workers=[worker.metadata]) as proxy:
        await run(journal.path, journal.new_call())
        async with stream_to(worker) as stream:
            with pytest.raises(HandshakeFailed, match=reason) as caught:
                await introduce(stream, **words)
            assert caught.value.permanent
        assert await run(journal.path, journal.new_call()) == worker.metadata.pid
        assert not is_suspect(proxy, worker.metadata.pid)
        said = ""

        def is_logged() -> bool:
            nonlocal said
            said += capfd.readouterr().err
            return "a caller was refused: " in said

        await until(is_logged, what="the worker's log")


async def test_a_caller_without_the_secret_learns_nothing(journal: Journal, capfd: pytest.CaptureFixture[str]) -> None:
    async with workers("one") as [worker], wool.WorkerProxy(workers=[worker.metadata]):
        async with stream_to(worker) as stream:
            await stream.write(b"\xff no handshake at all")
            with pytest.raises((StreamLost, HandshakeFailed)):
                CallerHandshake(
                    secret=b"",
                    nonce=bytes(NONCE_BYTES),
                    words=CallerWords(uid="", pool=b"", payload_bytes=1, credit_bytes=1),
                ).receive(await stream.read())
        async with stream_to(worker) as stream:
            with pytest.raises(HandshakeFailed, match="did not prove"):
                await introduce(stream, secret=b"y" * 32)
        assert await run(journal.path, journal.new_call()) == worker.metadata.pid
    capfd.readouterr()


async def until_broken(stream: Stream) -> None:
    """Read until the other end breaks the stream."""
    with contextlib.suppress(StreamLost):
        while True:
            await stream.read()


@pytest.mark.parametrize(
    "message",
    [b"\xff\xff\xff", b"", encode([])[:0] + b"\x0a\x00", b"\x00" * 100_000],
    ids=["noise", "nothing", "an empty frame", "zeros"],
)
async def test_a_caller_that_breaks_the_protocol_loses_its_own_session_only(
    message: bytes, journal: Journal, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    async with workers("one") as [worker], wool.WorkerProxy(workers=[worker.metadata]) as proxy:
        gate = tmp_path / "gate"
        running = asyncio.create_task(run_until(journal.path, "running", str(gate)))
        await journal.appears("begin", "running")
        async with stream_to(worker) as stream:
            await introduce(stream)
            await stream.write(message)
            if message:
                await until_broken(stream)
        assert await run(journal.path, journal.new_call()) == worker.metadata.pid
        gate.touch()
        assert await running == worker.metadata.pid
        assert not is_suspect(proxy, worker.metadata.pid)
    capfd.readouterr()


async def test_a_start_that_nobody_accepted_runs_nothing(journal: Journal, capfd: pytest.CaptureFixture[str]) -> None:
    async with workers("one") as [worker], wool.WorkerProxy(workers=[worker.metadata]):
        async with stream_to(worker) as stream:
            await introduce(stream)
            await stream.write(encode([frames.Start(1)]))
            await until_broken(stream)
        assert await run(journal.path, journal.new_call()) == worker.metadata.pid
    assert "protocol error" in capfd.readouterr().err
