"""Workers and callers on hosts of their own, which are network namespaces: with mutual TLS, found by multicast."""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

from fixtures import WORKER, Fixtures

from support.command import WorkerCommand, environment, worker_command
from support.faults import Journal


def flags(files: Path, name: str = "worker") -> tuple[str, ...]:
    return ("--ca", str(files / "ca.pem"), "--cert", str(files / f"{name}.pem"), "--key", str(files / f"{name}.key"))


def certify(fixtures: Fixtures, files: Path, number: int) -> None:
    """Give the host with this number a certificate for its address."""
    issued = fixtures.authority.issue([f"10.77.0.{number}", WORKER])
    (files / f"host{number}.pem").write_bytes(issued.cert)
    (files / f"host{number}.key").write_bytes(issued.key)


def worker_on(host: str, number: int, files: Path) -> AbstractAsyncContextManager[WorkerCommand]:
    """Run ``wool worker`` there, with one worker."""
    address = ("--host", f"10.77.0.{number}", "--size", "1")
    return worker_command("--discovery", "lan", *address, *flags(files, f"host{number}"), host=host)


@contextlib.asynccontextmanager
async def far_caller(host: str, files: Path, journal: Journal) -> AsyncIterator[Any]:
    """Call from a host of its own. Yielded is what tells it to go on or to stop."""
    process = await asyncio.create_subprocess_exec(
        *("ip", "netns", "exec", host, sys.executable, "-W", "error", "-m", "support.far_caller"),
        *(str(files), str(journal.path)),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        env=environment(),
    )
    assert process.stdin is not None and process.stdout is not None
    stdin, stdout = process.stdin, process.stdout

    async def say(word: str | None = None) -> Any:
        if word is not None:
            stdin.write(f"{word}\n".encode())
        line = await asyncio.wait_for(stdout.readline(), 60)
        assert line, "the caller ended"
        return json.loads(line)

    try:
        yield say
        assert await asyncio.wait_for(process.wait(), 30) == 0
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
        stdin.close()
