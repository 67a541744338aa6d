"""Another user of the same machine: cannot connect, cannot read, and cannot stand between caller and worker."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import dataclasses
import hashlib
import hmac
import os
import pickle
import shutil
import stat
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from fixtures import HOST, make

import wool
from support.command import environment
from support.hostile import add
from support.peers import RawCaller, RawPeer
from wool.authority import Issued
from wool.connection import Connection
from wool.definition import define
from wool.discovery.base import WorkerMetadata
from wool.dispatch import Dispatcher, ProxySpec
from wool.errors import RpcError
from wool.limits import Limits
from wool.protocol import wire_pb2
from wool.protocol.codec import encode
from wool.protocol.flow import body_of
from wool.protocol.frames import PROTOCOL_VERSION, Accept, Body, Offer, Result, ResultKind, Start
from wool.protocol.handshake import PYTHON, WorkerHandshake, WorkerWords
from wool.runtime import current_runtime
from wool.serialization import Payload
from wool.transport.base import Stream, StreamLost
from wool.transport.grpc import GrpcTransport

NOBODY = 65534
as_another = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
linux = pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")

ANOTHER = """
import os, socket, sys
from pathlib import Path
os.setgroups([]); os.setgid({uid}); os.setuid({uid})
assert os.geteuid() == {uid}

def tried(what, action):
    try:
        action()
    except (PermissionError, FileNotFoundError, ProcessLookupError) as error:
        print("refused", what, type(error).__name__)
    except OSError as error:
        print("refused", what, type(error).__name__, error.errno)
    else:
        print("POSSIBLE", what)

def connect(path):
    with socket.socket(socket.AF_UNIX) as made:
        made.connect(path)

paths, pids = {paths!r}, {pids!r}
for path in paths:
    tried("open " + path, lambda: open(path, "rb").read(1))
    tried("write " + path, lambda: open(path, "ab").close())
    tried("list " + path, lambda: os.listdir(path))
    tried("make in " + path, lambda: open(os.path.join(path, "mine"), "wb").close())
    tried("remove " + path, lambda: os.rename(path, path + "-mine"))
    tried("connect " + path, lambda: connect(path))
for pid in pids:
    for name in ("mem", "environ", "fd", "map_files", "maps", "root/tmp/x"):
        where = "/proc/%d/%s" % (pid, name)
        tried("read " + where, lambda: os.listdir(where) if name in ("fd", "map_files") else open(where, "rb").read(1))
    tried("signal %d" % pid, lambda: os.kill(pid, 0))
print("cmdlines", *[Path("/proc/%d/cmdline" % pid).read_bytes().hex() for pid in pids])
"""


@pytest.fixture
def open_place(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A runtime directory below one that everybody may enter: wool's own modes must do."""
    place = Path(tempfile.mkdtemp(prefix="wool-open-", dir="/tmp"))
    place.chmod(0o755)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(place))
    yield place
    shutil.rmtree(place)


def attempts(paths: list[Path], pids: list[int]) -> list[str]:
    """Return what another user could and could not do."""
    program = ANOTHER.format(uid=NOBODY, paths=[str(path) for path in paths], pids=pids)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    return done.stdout.splitlines()


@as_another
@linux
async def test_another_user_cannot_connect_to_a_pool_read_its_secret_or_its_shared_memory(open_place: Path) -> None:
    async with wool.WorkerPool(size=2) as pool:
        assert await add(1, 2) == 3
        paths = list(open_place.rglob("*"))
        kinds = {stat.S_IFMT(path.lstat().st_mode) for path in paths}
        assert {stat.S_IFSOCK, stat.S_IFREG, stat.S_IFDIR} <= kinds
        pids = [worker.pid for worker in pool.workers]
        said = attempts(paths, pids)
        assert [line for line in said if line.startswith("POSSIBLE")] == []
        assert sum(line.startswith("refused") for line in said) == 6 * len(paths) + 7 * len(pids)
        assert await add(2, 3) == 5


def noted_secrets(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """Return a list of the secrets of the pools and proxies that are opened from now on."""
    secrets: list[bytes] = []
    open_dispatcher = Dispatcher.open

    async def noting(spec: ProxySpec, *, secret: bytes, **others: Any) -> Dispatcher:
        secrets.append(secret)
        return await open_dispatcher(spec, secret=secret, **others)

    monkeypatch.setattr(Dispatcher, "open", noting)
    return secrets


async def test_each_pool_has_a_fresh_secret_which_opens_no_session_with_the_workers_of_another(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    secrets = noted_secrets(monkeypatch)
    async with wool.WorkerPool(size=1) as one, wool.WorkerPool(size=1) as other:
        assert await add(1, 2) == 3
        known = [*secrets, current_runtime().user_key()]
        assert [len(secret) for secret in known] == [32, 32, 32]
        assert len(set(known)) == 3
        for number, pool in enumerate((one, other)):
            (worker,) = pool.workers
            said = [await refusal(worker.address, secret) for secret in known]
            assert said.pop(number) == ""
            assert said == 2 * [f"{worker.address}: the worker did not prove that it knows the secret"]
    async with wool.WorkerPool(size=1):
        assert secrets[2] not in known


async def refusal(address: str, secret: bytes) -> str:
    """Say why a worker and who has this secret have no session; nothing if they have one."""
    transport = GrpcTransport(Limits())
    try:
        connection = await Connection.open(
            transport=transport,
            address=address,
            expects="",
            secret=secret,
            caller="c",
            pool=b"",
            limits=Limits(),
            random_bytes=os.urandom,
        )
    except RpcError as error:
        return str(error)
    else:
        await connection.decline("looked")
        return ""
    finally:
        await transport.close()


@as_another
@linux
async def test_another_user_cannot_read_the_users_key_or_a_namespace(open_place: Path) -> None:
    with wool.LocalDiscovery("shared") as discovery:
        async with wool.WorkerPool(size=1, discovery=discovery):
            assert await add(1, 2) == 3
            key = open_place / "wool" / "key"
            assert key.stat().st_mode & 0o777 == 0o600
            paths = list(open_place.rglob("*"))
            assert {"key", "table", "gate"} <= {path.name for path in paths}
            said = attempts(paths, [])
            assert [line for line in said if line.startswith("POSSIBLE")] == []


@as_another
async def test_a_directory_that_another_user_has_prepared_is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    place = Path(tempfile.mkdtemp(prefix="wool-open-", dir="/tmp"))
    try:
        monkeypatch.setenv("XDG_RUNTIME_DIR", str(place))
        for mode in (0o700, 0o777):
            (place / "wool").mkdir()
            (place / "wool").chmod(mode)
            os.chown(place / "wool", NOBODY, NOBODY)
            with pytest.raises(OSError, match=f"belongs to user {NOBODY}, not to 0"):
                async with wool.WorkerPool(size=1):
                    pytest.fail("a worker was started")
            (place / "wool").rmdir()
        (place / "wool").symlink_to(tmp_path)
        with pytest.raises(OSError, match="is a symbolic link"):
            async with wool.WorkerPool(size=1):
                pytest.fail("a worker was started")
    finally:
        shutil.rmtree(place)


@linux
@pytest.mark.parametrize("of", ["the user", "a pool", "one-way TLS"])
async def test_the_secret_is_in_no_argument_environment_or_log(
    open_place: Path,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    of: str,
) -> None:
    caplog.set_level("DEBUG")
    secrets = noted_secrets(monkeypatch)
    async with contextlib.AsyncExitStack() as stack:
        if of == "a pool":
            pool = await stack.enter_async_context(wool.WorkerPool(size=1))
            (metadata,) = pool.workers
        else:
            shown, given = (None, None) if of == "the user" else one_way(b"what both of them know")
            worker = await stack.enter_async_context(wool.LocalWorker(host=HOST, credentials=shown))
            metadata = worker.metadata
            await stack.enter_async_context(wool.WorkerProxy(workers=[metadata], credentials=given))
        assert await add(1, 2) == 3
        (secret,) = secrets
        assert (secret == current_runtime().user_key()) == (of == "the user")
        forms = (secret, secret.hex().encode(), base64.b64encode(secret), repr(secret)[2:-1].encode())
        for pid in (metadata.pid, os.getpid()):
            for name in ("cmdline", "environ"):
                told = Path(f"/proc/{pid}/{name}").read_bytes()
                assert not [form for form in forms if form in told]
    out, err = capfd.readouterr()
    said = (out + err + caplog.text).encode()
    assert not [form for form in forms if form in said]


def one_way(secret: bytes) -> tuple[wool.WorkerCredentials, wool.WorkerCredentials]:
    """Return what a worker and its callers have, of whom only the worker shows a certificate."""
    fixtures = make()
    shown = fixtures.issued["worker"]
    given = wool.WorkerCredentials(ca=fixtures.ca, mutual=False, secret=secret)
    return dataclasses.replace(given, key=shown.key, cert=shown.cert), given


# ---- loopback TCP, where the key alone decides ---------------------------------------------------------


STRANGER = """
import asyncio, os, sys
from wool.connection import Connection
from wool.errors import RpcError
from wool.limits import Limits
from wool.protocol.frames import PROTOCOL_VERSION
from wool.protocol.handshake import PYTHON
from wool.protocol.wire_pb2 import CallerInfo, Handshake, Hello, Response
from wool.transport.base import StreamLost
from wool.transport.grpc import GrpcTransport
os.setgroups([]); os.setgid({uid}); os.setuid({uid})

async def main():
    transport = GrpcTransport(Limits())
    for secret in (b"", b"x" * 32):
        try:
            await Connection.open(transport=transport, address={address!r}, expects="", secret=secret, caller="c",
                                  pool=b"", limits=Limits(), random_bytes=os.urandom)
        except RpcError as error:
            print(error)
        else:
            print("POSSIBLE")
    # One that does not care whether the worker is who it should be.
    stream = await transport.connect({address!r})
    await stream.write(Handshake(hello=Hello(nonce=os.urandom(32))).SerializeToString())
    await stream.read()
    words = CallerInfo(protocol=PROTOCOL_VERSION, python=PYTHON, uid="c", payload_bytes=1, credit_bytes=1)
    response = Response(body=words.SerializeToString(), proof=os.urandom(32))
    await stream.write(Handshake(response=response).SerializeToString())
    print(Handshake.FromString(await stream.read()).refusal.reason)
    try:
        await stream.read()
    except StreamLost:
        print("ENDED")
    stream.abort("done")
    await stream.close()
    await transport.close()

asyncio.run(main())
"""


@as_another
async def test_another_user_that_connects_on_loopback_does_not_get_past_the_key(
    capfd: pytest.CaptureFixture[str],
) -> None:
    async with wool.LocalWorker(host=HOST) as worker:
        program = STRANGER.format(uid=NOBODY, address=worker.metadata.address)
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", program, stdout=asyncio.subprocess.PIPE, env=environment()
        )
        said, _ = await process.communicate()
        assert said.decode().count("the worker did not prove that it knows the secret") == 2
        assert b"POSSIBLE" not in said
        assert said.decode().splitlines()[-2:] == ["the caller did not prove that it knows the secret", "ENDED"]
        async with wool.WorkerProxy(workers=[worker.metadata]):
            assert await add(1, 2) == 3
    assert "a caller was refused: the caller did not prove that it knows the secret" in capfd.readouterr().err


@asynccontextmanager
async def passing_on(address: str) -> AsyncIterator[tuple[str, list[bytes]]]:
    """Somebody who passes on what is said to ``address``, and notes it."""
    host, _, port = address.rpartition(":")
    heard: list[bytes] = []
    tasks: set[asyncio.Task[None]] = set()

    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            heard.append(data)
            writer.write(data)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        there, to_there = await asyncio.open_connection(host, int(port))
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(pump(reader, to_there))
                group.create_task(pump(there, writer))
        except* OSError:
            pass
        finally:
            to_there.close()
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}", heard
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await server.wait_closed()


@pytest.mark.parametrize("knows", ["the worker's uid", "the address alone"])
async def test_who_passes_the_handshake_on_to_a_real_worker_gets_no_task(knows: str) -> None:
    """A forged record, or a port that a dead worker has left, leads to somebody who relays to a living one."""
    async with wool.LocalWorker(host=HOST) as worker, passing_on(worker.metadata.address) as (address, heard):
        if knows == "the address alone":
            proxy = wool.WorkerProxy(discovery=wool.StaticDiscovery(address).subscriber)
        else:
            proxy = wool.WorkerProxy(workers=[dataclasses.replace(worker.metadata, address=address)])
        async with proxy:
            with wool.RuntimeContext(dispatch_timeout=3), pytest.raises(wool.NoWorkersAvailable, match="passes on"):
                await add(271828, 314159)
        assert heard, "nobody was asked"
        said = b"".join(heard)
        assert b"support.hostile" not in said, "a task was said to a stranger"
        assert current_runtime().user_key() not in said
        async with wool.WorkerProxy(workers=[worker.metadata]):
            assert await add(1, 2) == 3


def handing_on(
    transport: GrpcTransport, address: str, heard: list[bytes], ended: asyncio.Event
) -> Callable[[Stream], Awaitable[None]]:
    """Return who passes the first words on to ``address`` and back, and notes what the caller says next."""

    async def relay(caller: Stream) -> None:
        upwards = await transport.connect(address)
        try:
            await upwards.write(await caller.read())
            await caller.write(await upwards.read())
            heard.append(await caller.read())
        except StreamLost:
            pass
        finally:
            upwards.abort("done")
            await upwards.close()
            ended.set()

    return relay


async def test_who_passes_the_handshake_on_hears_no_proof_and_so_gets_no_session_of_its_own() -> None:
    """It keeps the worker's side when the caller hangs up: with the caller's proof it would be the caller."""
    heard: list[bytes] = []
    ended = asyncio.Event()
    transport = GrpcTransport(Limits())

    async with wool.LocalWorker(host=HOST) as worker:
        listener = await transport.listen(f"{HOST}:0", handing_on(transport, worker.metadata.address, heard, ended))
        try:
            async with wool.WorkerProxy(discovery=wool.StaticDiscovery(listener.address).subscriber):
                with wool.RuntimeContext(dispatch_timeout=3), pytest.raises(wool.NoWorkersAvailable, match="passes on"):
                    await add(271828, 314159)
            await asyncio.wait_for(ended.wait(), 10)
        finally:
            await listener.close()
            await transport.close()
    assert heard == []


@pytest.mark.parametrize("has", ["no certificate", "a certificate that nobody asks for"])
async def test_who_passes_a_handshake_of_one_way_tls_on_gets_no_session_with_a_certificate_alone(has: str) -> None:
    """It has a good certificate for its own address, of the same authority, and not the secret.

    That the caller would show one makes no difference, as long as the worker takes whoever knows the secret.
    """
    fixtures, secret, heard = make(), b"what both of them know", list[bytes]()

    def one_way(secret: bytes, shown: Issued | None = None) -> wool.WorkerCredentials:
        own = {} if shown is None else {"key": shown.key, "cert": shown.cert}
        return wool.WorkerCredentials(ca=fixtures.ca, mutual=False, secret=secret, **own)

    ended = asyncio.Event()
    stranger = one_way(b"it knows none of it", fixtures.authority.issue([HOST]))
    transport = GrpcTransport(Limits(), lambda: stranger)

    caller = one_way(secret)
    if has != "no certificate":
        caller = dataclasses.replace(fixtures.credentials("caller"), secret=secret)
    shown = one_way(secret, fixtures.issued["worker"])
    async with wool.LocalWorker(host=HOST, credentials=shown) as worker:
        listener = await transport.listen(f"{HOST}:0", handing_on(transport, worker.metadata.address, heard, ended))
        forged = dataclasses.replace(worker.metadata, address=listener.address)
        try:
            async with wool.WorkerProxy(workers=[forged], credentials=caller):
                with wool.RuntimeContext(dispatch_timeout=3), pytest.raises(wool.NoWorkersAvailable, match="passes on"):
                    await add(271828, 314159)
            await asyncio.wait_for(ended.wait(), 10)
        finally:
            await listener.close()
            await transport.close()
        async with wool.WorkerProxy(workers=[worker.metadata], credentials=caller):
            assert await add(1, 2) == 3
    assert heard == []


# ---- what is unpickled leaves a trace ------------------------------------------------------------------


class Trace:
    """Makes a directory in whatever process it is unpickled in."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self._path),)


@pytest.fixture
def trace(tmp_path: Path) -> tuple[Path, bytes]:
    """Where a trace would be, and the pickle that would leave it."""
    return tmp_path / "unpickled", pickle.dumps(Trace(tmp_path / "unpickled"))


def squatting(metadata: WorkerMetadata, secret: bytes, bomb: bytes, heard: list[bytes]) -> Callable[[Stream], Any]:
    """Return who poses as a worker that has died, and goes on as if it were believed, whatever it knows."""
    limits = Limits()
    words = WorkerWords(
        session=bytes(16),
        metadata=metadata.to_bytes(),
        window_tasks=limits.window_tasks,
        window_bytes=limits.window_bytes,
        payload_bytes=limits.payload_bytes,
        credit_bytes=limits.credit_bytes,
    )

    async def squat(stream: Stream) -> None:
        with contextlib.suppress(StreamLost):
            heard.append(await stream.read())
            await stream.write(WorkerHandshake(secret=secret, nonce=os.urandom(32), words=words).receive(heard[-1]))
            heard.append(await stream.read())
            await stream.write(wire_pb2.Handshake(welcome=wire_pb2.Welcome()).SerializeToString())
            peer = RawPeer(stream)
            offered = await peer.expect(Offer)
            await peer.say(Accept(offered.number))
            await peer.expect(Start)
            await peer.say(Result(offered.number, ResultKind.RETURN, body_of(Payload((bomb,)), limits)))
            await peer.expect_end()

    return squat


@asynccontextmanager
async def in_place_of(metadata: WorkerMetadata, secret: bytes, bomb: bytes) -> AsyncIterator[list[bytes]]:
    """Somebody listens where a dead worker has, and this process calls it; what is said to it."""
    heard: list[bytes] = []
    transport = GrpcTransport(Limits())
    directory = Path(metadata.address.removeprefix("unix:")).parent if metadata.address.startswith("unix:") else None
    if directory is not None:  # it went with its worker
        directory.mkdir(mode=0o700)
    try:
        listener = await transport.listen(metadata.address, squatting(metadata, secret, bomb, heard))
        try:
            async with wool.WorkerProxy(workers=[metadata]):
                yield heard
        finally:
            await listener.close()
            await transport.close()
    finally:
        if directory is not None:
            shutil.rmtree(directory)


@pytest.mark.parametrize("host", [HOST, None], ids=["port", "socket"])
async def test_who_squats_where_a_dead_worker_has_listened_learns_nothing_and_nothing_is_unpickled(
    host: str | None, trace: tuple[Path, bytes]
) -> None:
    left, bomb = trace
    async with wool.LocalWorker(host=host) as worker:
        metadata = worker.metadata
    key = current_runtime().user_key()
    async with in_place_of(metadata, b"what it does not know", bomb) as heard:
        with wool.RuntimeContext(dispatch_timeout=1), pytest.raises(wool.NoWorkersAvailable, match="did not prove"):
            await add(271828, 314159)
    assert heard, "nobody was asked"
    said = b"".join(heard)
    assert {wire_pb2.Handshake.FromString(each).WhichOneof("step") for each in heard} == {"hello"}
    assert b"support.hostile" not in said
    assert key not in said
    assert not left.exists()
    # The trace is one that is left, by who knows the key.
    async with in_place_of(metadata, key, bomb):
        with wool.RuntimeContext(dispatch_timeout=5):
            await add(1, 2)
    assert left.exists()


def strangers(bomb: bytes, secret: bytes) -> dict[str, list[bytes]]:
    """Return what somebody says to a worker, in the order of a session that it believes to be open."""
    blob = b"v" + bomb
    digest = hashlib.blake2b(blob, digest_size=16).digest()
    offer = Offer(1, bytes(16), digest, True, Body((len(blob), len(bomb)), blob + bomb))
    tasks = encode([offer, Start(1)])
    caller = wire_pb2.CallerInfo(
        protocol=PROTOCOL_VERSION, python=PYTHON, uid="c", pool=bomb, payload_bytes=1 << 20, credit_bytes=1 << 20
    ).SerializeToString()
    proof = hmac.digest(secret, b"anything", "sha256")
    response = wire_pb2.Handshake(response=wire_pb2.Response(body=caller, proof=proof)).SerializeToString()
    hello = wire_pb2.Handshake(hello=wire_pb2.Hello(nonce=os.urandom(32))).SerializeToString()
    return {
        "tasks": [tasks],
        "a pickle": [bomb],
        "hello and tasks": [hello, tasks],
        "a wrong proof and tasks": [hello, response, tasks],
    }


@pytest.mark.parametrize("what", list(strangers(b"", b"")))
async def test_nothing_is_unpickled_in_a_worker_of_who_does_not_know_the_key(
    what: str, trace: tuple[Path, bytes]
) -> None:
    left, bomb = trace
    async with wool.LocalWorker(host=HOST) as worker:
        transport = GrpcTransport(Limits())
        try:
            stream = await transport.connect(worker.metadata.address)
            with contextlib.suppress(StreamLost, TimeoutError):
                async with asyncio.timeout(10):
                    for message in strangers(bomb, b"what it does not know")[what]:
                        await stream.write(message)
                    while True:
                        await stream.read()
            stream.abort("the test is over")
            await stream.close()
            async with wool.WorkerProxy(workers=[worker.metadata]):
                assert await add(1, 2) == 3
            assert not left.exists()
            # The trace is one that is left, by who knows the key.
            peer = await RawCaller.over(
                transport, worker.metadata.address, Limits(), secret=current_runtime().user_key()
            )
            offer = peer.offer(add, limits=Limits())
            blob = define(add).blob
            await peer.say(offer._replace(body=Body((len(blob), len(bomb)), blob + bomb)))
            await peer.expect(Accept)
            await peer.say(Start(offer.number))
            await peer.expect(Result)
            assert left.exists()
            peer.stream.abort("the test is over")
            await peer.stream.close()
        finally:
            await transport.close()
