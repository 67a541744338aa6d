"""Hosts that are network namespaces, joined by a bridge in one more of them. Needs root and iproute2."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

_numbers = itertools.count()


def why_not() -> str:
    """Return why this machine has no namespaces to offer; empty if it has."""
    if sys.platform != "linux":
        return "network namespaces are Linux's"
    if os.geteuid() != 0:
        return "network namespaces need root"
    if shutil.which("ip") is None:
        return "network namespaces need iproute2"
    name = f"wool-{os.getpid()}-try"
    if (tried := _ip("netns", "add", name, check=False)).returncode != 0:
        return f"no network namespace can be made: {tried.stderr.strip()}"
    _ip("netns", "del", name)
    return ""


def _ip(*words: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["ip", *words], check=check, capture_output=True, text=True)


class Network:
    """Several hosts on one network, 10.77.0.0/24, and as many as wanted on a second one, 10.78.0.0/24;
    with IPv6 too, fd77::/64 and fd78::/64."""

    def __init__(self) -> None:
        self._prefix = f"wool-{os.getpid()}-{next(_numbers)}"
        self._switch = f"{self._prefix}-switch"
        self._made: list[str] = []
        self._hosts = 0
        self._add(self._switch)
        for bridge in ("br0", "br1"):
            # Multicast goes to everybody: without a querier, snooping would forget who listens.
            self.run(self._switch, "link", "add", bridge, "type", "bridge", "mcast_snooping", "0")
            self.run(self._switch, "link", "set", bridge, "up")

    def _add(self, name: str) -> None:
        _ip("netns", "add", name)
        self._made.append(name)
        self.run(name, "link", "set", "lo", "up")

    def run(self, namespace: str, *words: str) -> None:
        """Run ``ip`` inside a namespace."""
        _ip("-n", namespace, *words)

    def host(self, *, networks: int = 1) -> str:
        """Add a host, joined to the first ``networks`` networks; return its namespace. Its address ends with its
        number, counted from 1."""
        self._hosts += 1
        name = f"{self._prefix}-{self._hosts}"
        self._add(name)
        for number in range(networks):
            port = f"port{self._hosts}-{number}"
            self.run(self._switch, "link", "add", port, "type", "veth", "peer", f"eth{number}", "netns", name)
            self.run(self._switch, "link", "set", port, "master", f"br{number}", "up")
            self.run(name, "addr", "add", f"10.{77 + number}.0.{self._hosts}/24", "dev", f"eth{number}")
            self.run(name, "addr", "add", f"fd{77 + number}::{self._hosts}/64", "dev", f"eth{number}", "nodad")
            self.run(name, "link", "set", f"eth{number}", "up")
        return name

    def cut(self, number: int, *, network: int = 0) -> None:
        """Pull the cable of host ``number``."""
        self.run(self._switch, "link", "set", f"port{number}-{network}", "down")

    def heal(self, number: int, *, network: int = 0) -> None:
        """Put it back."""
        self.run(self._switch, "link", "set", f"port{number}-{network}", "up")

    def close(self) -> None:
        for name in reversed(self._made):
            _ip("netns", "del", name, check=False)


@contextlib.contextmanager
def network() -> Iterator[Network]:
    made = Network()
    try:
        yield made
    finally:
        made.close()


class Process:
    """A `support.lan_peer` in a namespace."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    async def __call__(self, verb: str, *arguments: object) -> Any:
        """Let it do something; return what it answers."""
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(json.dumps([verb, *arguments]).encode() + b"\n")
        line = await asyncio.wait_for(self._process.stdout.readline(), 60)
        assert line, f"the peer ended at {verb}"
        return json.loads(line)

    async def kill(self) -> None:
        """End it without a word."""
        self._process.kill()
        await self._process.wait()


@contextlib.asynccontextmanager
async def peer(namespace: str, **options: Any) -> AsyncIterator[Process]:
    """Run a `support.lan_peer` in ``namespace``."""
    here = str(Path(__file__).parents[1])
    process = await asyncio.create_subprocess_exec(
        *("ip", "netns", "exec", namespace, sys.executable, "-m", "support.lan_peer"),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([here, os.environ.get("PYTHONPATH", "")])},
    )
    assert process.stdin is not None and process.stdout is not None
    try:
        process.stdin.write(json.dumps(options).encode() + b"\n")
        assert json.loads(await asyncio.wait_for(process.stdout.readline(), 30)) == "ready"
        yield Process(process)
    finally:
        process.stdin.close()
        try:
            await asyncio.wait_for(process.wait(), 20)
        except TimeoutError:
            process.kill()
            await process.wait()
        await process.stdout.read()
