"""``wool ps`` on real workers: it lists who is there and how they are, and waits for nobody beyond its time."""

from __future__ import annotations

import asyncio
import json
import re
import shutil
import signal
import sys
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

import wool
from support import namespaces
from support.command import environment, free_port, wool_command, worker_command
from support.faults import PATIENCE_SECONDS, Journal, frozen
from support.traced import run, run_until
from wool.runtime_directory import runtime_directory

pytestmark = pytest.mark.timeout(120)


hosts = pytest.mark.skipif(bool(namespaces.why_not()), reason=namespaces.why_not() or "never")


async def listed(how: str, *flags: str, inside: Sequence[str] = ()) -> list[dict[str, Any]]:
    status, output, errors = await wool_command("ps", "--discovery", how, "--json", *flags, inside=inside)
    assert (status, errors) == (0, "")
    found: list[dict[str, Any]] = json.loads(output)
    return found


@wool.routine
async def _fail() -> None:
    raise LookupError("boom")


@pytest.mark.smoke
async def test_it_says_of_each_worker_what_it_has_done_and_does(
    namespace: str, journal: Journal, tmp_path: Path
) -> None:
    flags = ("--discovery", f"local:{namespace}", "--size", "1", "--tag", "gpu", "--tag", "eu")
    async with (
        worker_command(*flags) as command,
        wool.WorkerProxy(discovery=wool.LocalDiscovery(namespace).subscriber),
    ):
        gate = tmp_path / "gate"
        held = asyncio.create_task(run_until(journal.path, "held", str(gate)))
        await run(journal.path, "one")
        await run(journal.path, "two")
        with pytest.raises(LookupError):
            await _fail()
        await journal.appears("begin", "held")
        [worker] = await listed(f"local:{namespace}")
        ready = command.all("worker-ready")[0]
        assert (worker["uid"], worker["pid"], worker["address"]) == (ready["worker"], ready["pid"], ready["address"])
        assert (worker["tags"], worker["version"], worker["status"]) == (["eu", "gpu"], wool.__version__, "up")
        assert (worker["in_flight"], worker["done"], worker["failed"], worker["cancelled"]) == (1, 2, 1, 0)
        assert worker["up_since"][:10] == ready["time"][:10]
        command.signal()
        await command.event("worker-withdrawn")
        gate.touch()
        await held
        assert await listed(f"local:{namespace}") == []


async def test_a_worker_that_drains_is_shown_as_such(journal: Journal, tmp_path: Path) -> None:
    port = free_port()
    async with (
        worker_command("--discovery", "static", "--port", str(port)) as command,
        wool.WorkerProxy(discovery=wool.StaticDiscovery(f"127.0.0.1:{port}").subscriber),
    ):
        gate = tmp_path / "gate"
        held = asyncio.create_task(run_until(journal.path, "held", str(gate)))
        await journal.appears("begin", "held")
        command.signal()
        await command.event("draining")
        async with asyncio.timeout(PATIENCE_SECONDS):
            while (worker := (await listed(f"static:127.0.0.1:{port}"))[0])["status"] != "draining":
                assert worker["status"] == "up"
        # Found by its address, it is known by what it says of itself.
        assert (worker["uid"], worker["in_flight"]) == (command.all("worker-ready")[0]["worker"], 1)
        gate.touch()
        await held
        assert await command.ended() == 0


async def test_a_worker_that_does_not_answer_keeps_nobody_waiting(namespace: str) -> None:
    flags = ("--discovery", f"local:{namespace}", "--size", "2")
    async with worker_command(*flags) as command:
        with frozen(command.pids[0]):
            began = time.monotonic()
            workers = await listed(f"local:{namespace}", "--timeout", "0.5")
            took = time.monotonic() - began
        by_pid = {worker["pid"]: worker for worker in workers}
        assert by_pid[command.pids[1]]["status"] == "up"
        silent = by_pid[command.pids[0]]
        assert (silent["status"], silent["in_flight"]) == ("unreachable", None)
        assert "no session within 0.5 s" in silent["why"]
        # An interpreter's start, the look for workers, the time for answers, and as much again for a busy machine.
        assert took < 10
        status, output, _ = await wool_command("ps", "--discovery", f"local:{namespace}")
        assert (status, output.count(" up ")) == (0, 2)


async def test_an_address_at_which_nobody_is_is_shown_with_the_reason() -> None:
    port = free_port()
    status, output, errors = await wool_command("ps", "--discovery", f"static:127.0.0.1:{port}")
    assert (status, errors) == (0, "")
    assert "unreachable" in output
    assert "Connection refused" in output


@hosts
async def test_the_workers_behind_a_name_are_listed(tmp_path: Path) -> None:
    """The command asks the name servers of the system, which are those of its mount namespace here."""
    pytest.importorskip("dns", reason="needs the extra wool[dns]")
    from support.name_server import name_server

    inside = with_name_server(tmp_path, "127.0.0.77")
    port = free_port()
    async with (
        name_server(host="127.0.0.77", port=53) as server,
        worker_command("--discovery", f"dns:workers.test:{port}") as command,
    ):
        ready = command.all("worker-ready")[0]
        server.set("workers", "A", "127.0.0.1")
        server.set("_wool._tcp", "SRV", f"0 0 {port} workers.test.")
        for how in (f"dns:workers.test:{port}", "dns:_wool._tcp.test"):
            [worker] = await listed(how, inside=inside)
            assert (worker["uid"], worker["status"]) == (ready["worker"], "up")
            assert worker["address"] == f"127.0.0.1:{port}" == ready["address"]
        status, output, errors = await wool_command("ps", "--discovery", "dns:others.test:7000", inside=inside)
        assert (status, len(output.splitlines())) == (0, 1)
        assert re.fullmatch(r"wool ps: A others\.test\.? leads to no worker\n", errors)


def with_name_server(place: Path, address: str) -> tuple[str, ...]:
    """Return the command inside which the system's name server is at ``address``."""
    own = place / "resolv.conf"
    own.write_text(f"nameserver {address}\n")
    return ("unshare", "--mount", "sh", "-c", f'mount --bind "{own}" /etc/resolv.conf && exec "$@"', "sh")


@asynccontextmanager
async def watching(
    namespace: str, *flags: str
) -> AsyncIterator[tuple[asyncio.subprocess.Process, asyncio.StreamReader]]:
    """Run ``wool ps --watch``; yield its process and its output. It is killed if it has not ended."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "wool", "ps", "--discovery", f"local:{namespace}", "--watch", "--interval", "0.1", *flags),
        env=environment(),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    try:
        yield process, process.stdout
    finally:
        if process.returncode is None:
            process.kill()
            await process.communicate()


async def test_watching_shows_who_comes_and_ends_with_ctrl_c(namespace: str) -> None:
    async with watching(namespace, "--json") as (process, output), asyncio.timeout(2 * PATIENCE_SECONDS):
        assert json.loads(await output.readline()) == []
        async with worker_command("--discovery", f"local:{namespace}", "--size", "1") as command:
            while not (workers := json.loads(await output.readline())):
                pass
            assert workers[0]["pid"] == command.pids[0]
        while json.loads(await output.readline()):
            pass
        process.send_signal(signal.SIGINT)
        _, errors = await process.communicate()
    assert (process.returncode, errors) == (130, b"")


async def test_watching_ends_with_sigterm_and_leaves_nothing(namespace: str) -> None:
    async with watching(namespace, "--json") as (process, output), asyncio.timeout(2 * PATIENCE_SECONDS):
        await output.readline()
        process.terminate()
        _, errors = await process.communicate()
    assert (process.returncode, errors) == (143, b"")
    assert not (runtime_directory() / f"local-{namespace}").exists()


async def test_a_table_that_is_destroyed_while_it_watches_is_said_and_ends_it(namespace: str) -> None:
    place = runtime_directory() / f"local-{namespace}"
    try:
        async with watching(namespace) as (process, output):
            assert (await output.readline()).startswith(b"UID")
            (place / "table").write_bytes(b"no table")
            _, errors = await asyncio.wait_for(process.communicate(), PATIENCE_SECONDS)
    finally:
        shutil.rmtree(place)
    assert process.returncode == 1
    assert errors.decode().startswith(f"wool ps: error: discovery local:{namespace} has failed: a table begins with")
    assert errors.count(b"\n") == 1


async def test_a_reader_that_has_seen_enough_is_no_error(namespace: str) -> None:
    process = await asyncio.create_subprocess_shell(
        f"{sys.executable} -m wool ps --discovery local:{namespace} --watch --interval 0.1 | head -n 1",
        env=environment(),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    output, errors = await asyncio.wait_for(process.communicate(), PATIENCE_SECONDS)
    assert output.startswith(b"UID")
    assert errors == b""
