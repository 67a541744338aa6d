"""Probes: ``wool health``, and gRPC's health service beside ``wool worker``."""

from __future__ import annotations

import asyncio
import os
import pty
import select
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager

import pytest

import wool
from support.command import environment, free_port, wool_command, worker_command
from support.faults import PATIENCE_SECONDS, Journal
from support.hostile import OPENING, Attackers, call, message
from support.traced import run, run_until
from wool.limits import KIB, Limits
from wool.transport.grpc_health import HealthServer

pytestmark = pytest.mark.timeout(120)


async def test_health_is_an_exit_status(namespace: str, journal: Journal, tmp_path: os.PathLike[str]) -> None:
    how = ("health", "--discovery", f"local:{namespace}")
    assert await wool_command(*how, "--wait", "0.1") == (1, "", "0 of 0 workers up, 1 must be\n")
    async with (
        worker_command("--discovery", f"local:{namespace}", "--size", "2") as command,
        wool.WorkerProxy(discovery=wool.LocalDiscovery(namespace).subscriber),
    ):
        assert await wool_command(*how) == (0, "2 of 2 workers up\n", "")
        assert await wool_command(*how, "--least", "3") == (1, "", "2 of 2 workers up, 3 must be\n")
        gate = os.path.join(tmp_path, "gate")
        held = asyncio.create_task(run_until(journal.path, "held", gate))
        await journal.appears("begin", "held")
        address = command.all("worker-ready")[0]["address"]
        assert address.startswith("unix:")
        os.close(os.open(gate, os.O_CREAT))
        await held
    status, output, errors = await wool_command(*how, "--wait", "0.1")
    assert (status, output) == (1, "")
    assert "0 of 0 workers up" in errors


async def test_an_address_where_nobody_listens_is_not_healthy() -> None:
    status, output, errors = await wool_command("health", "--discovery", f"static:127.0.0.1:{free_port()}")
    assert (status, output) == (1, "")
    assert "is unreachable" in errors
    assert "0 of 1 workers up" in errors


async def _asked(port: int, service: str = "") -> str:
    """Ask as Kubernetes does, in a process of its own."""
    source = (
        "import sys, grpc\n"
        "from grpc_health.v1 import health_pb2, health_pb2_grpc\n"
        "with grpc.insecure_channel(sys.argv[1]) as channel:\n"
        "    stub = health_pb2_grpc.HealthStub(channel)\n"
        "    try:\n"
        "        answer = stub.Check(health_pb2.HealthCheckRequest(service=sys.argv[2]), timeout=5)\n"
        "        print(health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status))\n"
        "    except grpc.RpcError as error:\n"
        "        print(error.code().name)\n"
    )
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", source, f"127.0.0.1:{port}", service), stdout=asyncio.subprocess.PIPE
    )
    output, _ = await asyncio.wait_for(process.communicate(), PATIENCE_SECONDS)
    return output.decode().strip()


REFLECTED = """
import sys, grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase
from google.protobuf.descriptor_pool import DescriptorPool
with grpc.insecure_channel(sys.argv[1]) as channel:
    known = ProtoReflectionDescriptorDatabase(channel)
    try:
        print(*known.get_services())
        service = DescriptorPool(known).FindServiceByName("grpc.health.v1.Health")
        print(*(method.name for method in service.methods))
        stub = reflection_pb2_grpc.ServerReflectionStub(channel)
        for name in ("wool.protocol.Worker", "wool.protocol.Packet", "google.protobuf.Any"):
            ask = reflection_pb2.ServerReflectionRequest(file_containing_symbol=name)
            answer = next(stub.ServerReflectionInfo(iter([ask])))
            print(grpc.StatusCode.NOT_FOUND.value[0] == answer.error_response.error_code)
    except grpc.RpcError as error:
        print(error.code().name)
"""


async def _reflected(port: int) -> list[str]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", REFLECTED, f"127.0.0.1:{port}"), stdout=asyncio.subprocess.PIPE
    )
    output, _ = await asyncio.wait_for(process.communicate(), PATIENCE_SECONDS)
    return output.decode().splitlines()


async def test_reflection_tells_of_the_health_service_and_of_nothing_else(namespace: str) -> None:
    flags = ("--discovery", f"local:{namespace}", "--size", "1", "--health", "127.0.0.1:0", "--reflection")
    async with worker_command(*flags) as command:
        port = command.all("health")[0]["port"]
        services, methods, *unknown = await _reflected(port)
        assert services.split() == ["grpc.health.v1.Health", "grpc.reflection.v1alpha.ServerReflection"]
        assert "Check" in methods.split()
        assert unknown == ["True"] * 3
        assert await _asked(port) == "SERVING"


async def test_without_the_flag_there_is_no_reflection(namespace: str) -> None:
    flags = ("--discovery", f"local:{namespace}", "--size", "1", "--health", "127.0.0.1:0")
    async with worker_command(*flags) as command:
        assert await _reflected(command.all("health")[0]["port"]) == ["UNIMPLEMENTED"]


async def test_reflection_without_a_health_service_is_refused_in_words() -> None:
    status, _, errors = await wool_command("worker", "--discovery", "local:x", "--reflection")
    assert status == 2 and "--reflection: answers where the health service does: say --health HOST:PORT too" in errors


async def test_reflection_without_its_package_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "grpc_reflection.v1alpha.reflection", None)
    HealthServer("127.0.0.1:0")
    with pytest.raises(ModuleNotFoundError, match=r"reflection needs grpcio-reflection: pip install 'wool\[health\]'"):
        HealthServer("127.0.0.1:0", reflection=True)


async def test_the_health_service_says_when_workers_take_tasks_and_when_they_drain(
    namespace: str, journal: Journal, tmp_path: os.PathLike[str]
) -> None:
    flags = ("--discovery", f"local:{namespace}", "--size", "1", "--health", "127.0.0.1:0")
    async with worker_command(*flags) as command, wool.WorkerProxy(discovery=wool.LocalDiscovery(namespace).subscriber):
        port = command.all("health")[0]["port"]
        assert await _asked(port) == "SERVING"
        gate = os.path.join(tmp_path, "gate")
        held = asyncio.create_task(run_until(journal.path, "held", gate))
        await journal.appears("begin", "held")
        command.process.send_signal(signal.SIGTERM)
        await command.event("worker-withdrawn")
        assert await _asked(port) == "NOT_SERVING"
        os.close(os.open(gate, os.O_CREAT))
        await held
        assert await command.process.wait() == 0


HELD: dict[str, tuple[bytes, ...]] = {
    "says nothing": (),
    "opens no stream": (OPENING,),
    "watches": (OPENING, call(1, "/grpc.health.v1.Health/Watch"), message(1, b"")),
    "stops in its question": (OPENING, call(1, "/grpc.health.v1.Health/Check"), message(1, b"\x0a", length=1024)),
}


@asynccontextmanager
async def _health(limits: Limits) -> AsyncIterator[int]:
    server = HealthServer("127.0.0.1:0", limits)
    port = await server.start()
    try:
        await server.tell(True)
        yield port
    finally:
        await server.stop()


@pytest.mark.parametrize("how", HELD)
async def test_nobody_keeps_a_connection_to_the_health_port_for_long_and_probes_are_answered_meanwhile(
    how: str,
) -> None:
    limits = Limits(handshake_seconds=2, probe_connection_seconds=2)
    async with _health(limits) as port:
        with Attackers(f"127.0.0.1:{port}") as attackers:
            for _ in range(100):
                attackers.connect(*HELD[how])
                await asyncio.sleep(0)
            assert await _asked(port) == "SERVING"
            async with asyncio.timeout(PATIENCE_SECONDS):
                while attackers.open():
                    await asyncio.sleep(0.05)
        assert await _asked(port) == "SERVING"


async def test_more_connections_to_the_health_port_than_there_is_room_for_are_closed_at_once() -> None:
    # Nobody here is let go for being idle: that the others are closed is the limit's work.
    async with _health(Limits(probe_connections=8, handshake_seconds=600, probe_connection_seconds=600)) as port:
        with Attackers(f"127.0.0.1:{port}") as attackers:
            for _ in range(100):
                attackers.connect(OPENING)
            async with asyncio.timeout(PATIENCE_SECONDS):
                while attackers.open() > 8:
                    await asyncio.sleep(0.05)
        async with asyncio.timeout(PATIENCE_SECONDS):
            while await _asked(port) != "SERVING":
                pass


async def test_a_question_longer_than_a_probe_has_is_not_read() -> None:
    async with _health(Limits(probe_bytes=4 * KIB)) as port:
        assert await _asked(port, "a" * 4000) == "NOT_FOUND"
        assert await _asked(port, "a" * 5000) == "RESOURCE_EXHAUSTED"


async def test_a_health_port_in_use_ends_the_command_with_the_reason(namespace: str) -> None:
    flags = ("--discovery", f"local:{namespace}", "--size", "1")
    async with worker_command(*flags, "--health", "127.0.0.1:0") as command:
        port = command.all("health")[0]["port"]
        status, _, errors = await wool_command("worker", *flags, "--health", f"127.0.0.1:{port}")
    assert status == 1
    assert f"cannot listen on 127.0.0.1:{port} for the health service" in errors


async def test_a_health_address_that_is_none_is_refused() -> None:
    status, _, errors = await wool_command("worker", "--discovery", "local:x", "--health", "localhost")
    assert status == 2
    assert "--health: must be an IP address and a port, as in 127.0.0.1:8086, got 'localhost'" in errors


async def test_top_draws_on_a_terminal_and_leaves_it_as_it_was(namespace: str, journal: Journal) -> None:
    async with (
        worker_command("--discovery", f"local:{namespace}", "--size", "1"),
        wool.WorkerProxy(discovery=wool.LocalDiscovery(namespace).subscriber),
    ):
        await run(journal.path, "one")
        seen = await asyncio.to_thread(_watch, namespace)
    assert seen.startswith("\x1b[?1049h\x1b[?25l")
    assert "1 workers, 1 up, 0 tasks in flight, 0.0 done and 0.0 failed a second" in seen
    assert seen.endswith("\x1b[?1049l\x1b[?25h")


def _watch(namespace: str) -> str:
    """Run ``wool top`` on a terminal until it has drawn twice, then press Ctrl-C; return what it wrote."""
    with _top(namespace) as (process, screen):
        screen.until(lambda seen: seen.count("\x1b[H") >= 2)
        process.send_signal(signal.SIGINT)
        screen.until_closed()
        assert process.wait(PATIENCE_SECONDS) == 0
        assert process.stderr is not None
        assert process.stderr.read() == b""
    return screen.seen


def test_sigterm_ends_top_with_its_status_and_the_terminal_as_it_was(namespace: str) -> None:
    with _top(namespace) as (process, screen):
        screen.until(lambda seen: seen.count("\x1b[H") >= 1)
        process.terminate()
        screen.until_closed()
        assert process.wait(PATIENCE_SECONDS) == 143
    assert screen.seen.endswith("\x1b[?1049l\x1b[?25h")


def test_while_top_is_stopped_the_terminal_is_as_it_was(namespace: str) -> None:
    with _top(namespace) as (process, screen):
        screen.until(lambda seen: seen.count("\x1b[H") >= 1)
        process.send_signal(signal.SIGTSTP)
        screen.until(lambda seen: seen.endswith("\x1b[?1049l\x1b[?25h"))
        _, status = os.waitpid(process.pid, os.WUNTRACED)
        assert os.WIFSTOPPED(status)
        process.send_signal(signal.SIGCONT)
        screen.until(lambda seen: "\x1b[?1049h\x1b[?25l\x1b[H" in seen.partition("\x1b[?1049l\x1b[?25h")[2])
        process.send_signal(signal.SIGINT)
        screen.until_closed()
        assert process.wait(PATIENCE_SECONDS) == 0
    assert screen.seen.endswith("\x1b[?1049l\x1b[?25h")


class _Screen:
    """What a program writes on a terminal."""

    def __init__(self, terminal: int) -> None:
        self._terminal = terminal
        self._ends = time.monotonic() + PATIENCE_SECONDS
        self.seen = ""

    def until(self, is_there: Callable[[str], bool]) -> None:
        while not is_there(self.seen):
            assert self._read(), self.seen

    def until_closed(self) -> None:
        while self._read():
            pass

    def _read(self) -> bool:
        assert select.select([self._terminal], [], [], max(0, self._ends - time.monotonic()))[0], self.seen
        try:
            data = os.read(self._terminal, 65536)
        except OSError:  # the other end is closed
            return False
        self.seen += data.decode()
        return bool(data)


@contextmanager
def _top(namespace: str) -> Iterator[tuple[subprocess.Popen[bytes], _Screen]]:
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "wool", "top", "--discovery", f"local:{namespace}", "--interval", "0.1"],
        stdin=theirs,
        stdout=theirs,
        stderr=subprocess.PIPE,
        env=environment({"COLUMNS": "200", "LINES": "30"}),
        start_new_session=True,
    )
    os.close(theirs)
    try:
        yield process, _Screen(ours)
    finally:
        process.kill()
        process.wait()
        assert process.stderr is not None
        process.stderr.close()
        os.close(ours)
