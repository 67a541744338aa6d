"""The command ``wool worker`` as an operator runs it: started, read by its log lines, sent signals."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import wool
from support.faults import PATIENCE_SECONDS

TESTS = Path(__file__).parents[1]
SOURCE = Path(wool.__file__).parents[1]


def environment(more: Mapping[str, str] = {}) -> dict[str, str]:
    """What the command sees: routines of the tests can be imported, and nothing of wool's is set."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("WOOL_") or "TEST" in name}
    return {**inherited, "PYTHONPATH": os.pathsep.join([str(SOURCE), str(TESTS)]), **more}


def free_port(host: str = "127.0.0.1") -> int:
    """Return a port at which nobody listens."""
    with socket.socket() as probe:
        probe.bind((host, 0))
        port: int = probe.getsockname()[1]
        return port


async def wool_command(
    *arguments: str, env: Mapping[str, str] = {}, cwd: Path | None = None, inside: Sequence[str] = ()
) -> tuple[int, str, str]:
    """Run ``wool`` to its end, perhaps ``inside`` another command; return its exit status, what it printed, and its
    errors.
    """
    process = await asyncio.create_subprocess_exec(
        *inside,
        sys.executable,
        *("-W", "error", "-m", "wool", *arguments),
        env=environment(env),
        cwd=cwd,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        output, errors = await asyncio.wait_for(process.communicate(), PATIENCE_SECONDS)
    except BaseException:
        process.kill()
        await process.communicate()
        raise
    assert process.returncode is not None
    return process.returncode, output.decode(), errors.decode()


class WorkerCommand:
    """One ``wool worker`` that logs as JSON. Made by `worker_command`."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.events: list[dict[str, Any]] = []
        self.others: list[str] = []
        """Lines that are no events: there should be none, but of argparse."""
        self._news = asyncio.Condition()
        self._reading = asyncio.create_task(self._read(), name="reading the log of a command")

    async def _read(self) -> None:
        assert self.process.stderr is not None
        async for line in self.process.stderr:
            async with self._news:
                try:
                    self.events.append(json.loads(line))
                except ValueError:
                    self.others.append(line.decode())
                self._news.notify_all()
        async with self._news:
            self._news.notify_all()

    def all(self, name: str, **fields: object) -> list[dict[str, Any]]:
        """Return the events of this name, with these fields, so far."""
        return [
            event
            for event in self.events
            if event["event"] == name and all(event.get(key) == value for key, value in fields.items())
        ]

    async def event(self, name: str, times: int = 1, **fields: object) -> dict[str, Any]:
        """Wait until this was said so often; return what was said last."""
        async with self._news, asyncio.timeout(PATIENCE_SECONDS):
            while len(found := self.all(name, **fields)) < times:
                assert not self._reading.done(), f"it ended before {name} {fields}: {self.events} {self.others}"
                await self._news.wait()
        return found[-1]

    @property
    def pids(self) -> list[int]:
        """The processes of the workers that have become ready, the oldest first."""
        return [event["pid"] for event in self.all("worker-ready")]

    def signal(self, number: int = signal.SIGTERM) -> None:
        self.process.send_signal(number)

    async def ended(self) -> int:
        """Wait for the end; return the exit status."""
        async with asyncio.timeout(PATIENCE_SECONDS):
            status = await self.process.wait()
            await self._reading
        return status

    async def close(self) -> None:
        """End it at once, if it has not ended, so that it leaves nothing behind."""
        try:
            while self.process.returncode is None and not self.all("ending-at-once"):
                self.signal()
                await asyncio.wait([self._reading], timeout=0.1)
            await self.ended()
        except BaseException:
            self.process.kill()
            raise


@asynccontextmanager
async def worker_command(
    *flags: str,
    env: Mapping[str, str] = {},
    ready: bool = True,
    json_lines: bool = True,
    cwd: Path | None = None,
    host: str | None = None,
    inside: Sequence[str] = (),
) -> AsyncIterator[WorkerCommand]:
    """Run ``wool worker``, perhaps on a host of its own, a network namespace, or ``inside`` another command; in the end
    it is told to end at once.
    """
    command = WorkerCommand(
        await asyncio.create_subprocess_exec(
            *(inside if host is None else ("ip", "netns", "exec", host)),
            sys.executable,
            *("-W", "error", "-m", "wool", "worker", *flags),
            *(("--log-format", "json") if json_lines else ()),
            env=environment(env),
            cwd=cwd,
            stdin=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
            limit=4 * 1024 * 1024,
        )
    )
    try:
        if ready:
            await command.event("ready")
        yield command
    finally:
        await command.close()
