"""A process in a network namespace of its own: publishes, watches or calls, line by line, as a test says.

``python -m support.lan_peer`` reads a JSON list per line, a verb and its arguments, and answers each with a JSON value.
Times are of ``time.monotonic``, which all processes of a machine share.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import sys
import time
from typing import Any

from support.routines import where
from wool import LocalWorker, NoWorkersAvailable, WorkerLost, WorkerMetadata, WorkerProxy
from wool.discovery.lan import LanDiscovery
from wool.limits import DEFAULT_LIMITS


class Peer:
    def __init__(self, options: dict[str, Any]) -> None:
        limits = {**options.get("limits", {})}
        self.limits = type(DEFAULT_LIMITS)(**limits)
        self.discovery = LanDiscovery(interfaces=options.get("interfaces") or None, limits=self.limits)
        self.exits = contextlib.AsyncExitStack()
        self.seen: list[tuple[float, str, str, str]] = []
        self.watchers: list[asyncio.Task[None]] = []
        self.worker: LocalWorker | None = None
        self.answers: list[list[Any]] = []

    async def hold_port(self) -> None:
        """Be a program that shares the port of multicast DNS with nobody."""
        held = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.exits.callback(held.close)
        held.bind(("", 5353))

    async def open(self) -> None:
        await self.discovery.__aenter__()

    async def close(self) -> None:
        for watcher in self.watchers:
            watcher.cancel()
        if self.watchers:
            await asyncio.wait(self.watchers)
        await self.exits.aclose()

    async def leave(self) -> float:
        began = time.monotonic()
        await self.discovery.__aexit__(None, None, None)
        return began

    async def publish(self, kind: str, uid: str, address: str, *tags: str) -> float:
        began = time.monotonic()
        metadata = WorkerMetadata(uid=uid, address=address, pid=1, version="1", tags=frozenset(tags))
        await self.discovery.publisher.publish(kind, metadata)  # type: ignore[arg-type]
        return began

    async def watch(self, times: int = 1) -> None:
        """Listen, so many times at once, each with sockets of its own."""
        subscriber = self.discovery.subscriber

        async def collect() -> None:
            async for event in subscriber:
                metadata = event.metadata
                self.seen.append((time.monotonic(), event.type, metadata.uid, metadata.address))

        self.watchers += [asyncio.create_task(collect(), name="watch") for _ in range(times)]

    async def wait(self, kind: str, uid: str, seconds: float, after: float = 0.0, times: int = 1) -> list[Any] | None:
        """Return when and where such an event was seen, so many times; None if it was not in time."""
        end = time.monotonic() + seconds
        while True:
            found = [each for each in self.seen if each[1:3] == (kind, uid) and each[0] > after]
            if len(found) >= times:
                when, _, _, address = found[times - 1]
                return [when, address]
            if time.monotonic() > end:
                return None
            for watcher in self.watchers:
                if watcher.done():
                    watcher.result()
            await asyncio.sleep(0.002)

    async def serve(self, address: str) -> list[Any]:
        """Start a real worker there, and publish it."""
        self.worker = LocalWorker("real")
        # Only for this test: these namespaces are reached by nobody but each other.
        self.worker._bind = address
        await self.worker.start()
        self.exits.push_async_callback(self.worker.stop, drain_seconds=0.0)
        await self.discovery.publisher.publish("worker-added", self.worker.metadata)
        return [self.worker.metadata.uid, self.worker.metadata.pid]

    async def start_calls(self) -> None:
        """Open a proxy, and call again and again until `calls` is asked."""

        async def work() -> None:
            async with WorkerProxy(discovery=self.discovery.subscribe(lambda metadata: "real" in metadata.tags)):
                while True:
                    began = time.monotonic()
                    try:
                        answer: object = (await where())[0]
                    except (NoWorkersAvailable, WorkerLost) as error:
                        answer = type(error).__name__
                    self.answers.append([began, time.monotonic(), answer])
                    await asyncio.sleep(0.005)

        self.watchers.append(asyncio.create_task(work(), name="calls"))

    async def calls(self, answer: object, seconds: float) -> list[Any]:
        """Return when each call so far began, ended, and who answered, as soon as ``answer`` is among them."""
        async with asyncio.timeout(seconds):
            while answer not in [each[2] for each in self.answers]:
                await asyncio.sleep(0.002)
        told, self.answers = self.answers, []
        return told

    async def call(self, seconds: float) -> list[int]:
        """Open a proxy and call for so long; return which processes have answered."""
        pids: dict[int, None] = {}
        end = time.monotonic() + seconds
        async with WorkerProxy(discovery=self.discovery.subscribe(lambda metadata: "real" in metadata.tags)):
            while time.monotonic() < end:
                with contextlib.suppress(NoWorkersAvailable):
                    pids[(await where())[0]] = None
                await asyncio.sleep(0.02)
        return list(pids)


async def main() -> None:
    peer = Peer(json.loads(sys.stdin.readline()))
    loop = asyncio.get_running_loop()
    print(json.dumps("ready"), flush=True)
    try:
        while line := await loop.run_in_executor(None, sys.stdin.readline):
            verb, *arguments = json.loads(line)
            try:
                answer = await getattr(peer, verb)(*arguments)
            except (OSError, ValueError, RuntimeError) as error:
                answer = {"error": f"{type(error).__name__}: {error}"}
            print(json.dumps(answer), flush=True)
    finally:
        await peer.close()


if __name__ == "__main__":
    asyncio.run(main())
