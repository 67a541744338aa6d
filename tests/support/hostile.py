"""What an attacker says on a socket, byte by byte; and who is served meanwhile."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import socket
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import TracebackType
from typing import Self

import pytest

import wool

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, RESET, SETTINGS, PING, GOAWAY, CONTINUATION = 0, 1, 3, 4, 6, 7, 9
END_STREAM, ACK, END_HEADERS = 1, 1, 4
CANCEL = 8
"""Why a stream is reset by who opened it."""
ENHANCE_YOUR_CALM = 11
"""Why a connection is ended with somebody who asks too much."""
MAX_CONCURRENT_STREAMS = b"\0\x03"
"""The setting, as it stands before its value."""
SESSION = "/wool.protocol.Worker/Session"
PULSE = "/wool.protocol.Worker/Pulse"
MIB = 1024 * 1024


def frame(kind: int, stream: int = 0, payload: bytes = b"", flags: int = 0, length: int | None = None) -> bytes:
    """Return an HTTP/2 frame, which may lie about its length."""
    size = len(payload) if length is None else length
    return size.to_bytes(3, "big") + bytes([kind, flags]) + struct.pack(">I", stream) + payload


async def read_frame(reader: asyncio.StreamReader) -> tuple[int, int, int, bytes]:
    """Return the next HTTP/2 frame: its kind, flags, stream and payload."""
    head = await reader.readexactly(9)
    payload = await reader.readexactly(int.from_bytes(head[:3], "big"))
    return head[3], head[4], int.from_bytes(head[5:], "big"), payload


def _field(name: str, value: str) -> bytes:
    # A literal without indexing; no string here is longer than a length of one byte says.
    texts = [text.encode() for text in (name, value)]
    return b"\0" + b"".join(bytes([len(text)]) + text for text in texts)


def call(stream: int, path: str = SESSION, **more: str) -> bytes:
    """Return what opens one gRPC call."""
    fields = {
        ":method": "POST",
        ":scheme": "http",
        ":path": path,
        ":authority": "localhost",
        "te": "trailers",
        "content-type": "application/grpc",
        **{name.replace("_", "-"): value for name, value in more.items()},
    }
    return frame(HEADERS, stream, b"".join(_field(*pair) for pair in fields.items()), END_HEADERS)


def message(stream: int, data: bytes, length: int | None = None) -> bytes:
    """Return one gRPC message, which may lie about its length."""
    size = len(data) if length is None else length
    return frame(DATA, stream, b"\0" + struct.pack(">I", size) + data)


OPENING = PREFACE + frame(SETTINGS)


class Attackers:
    """Connections to one address that belong together. They end with the context."""

    def __init__(self, address: str) -> None:
        self._address = address
        self.sockets: list[socket.socket] = []

    def connect(self, *said: bytes) -> socket.socket:
        if self._address.startswith("unix:"):
            made = socket.socket(socket.AF_UNIX)
            made.connect(self._address.removeprefix("unix:"))
        else:
            host, _, port = self._address.rpartition(":")
            made = socket.create_connection((host, int(port)))
        self.sockets.append(made)
        with contextlib.suppress(OSError):  # closed at once: there are too many
            for each in said:
                made.sendall(each)
        made.setblocking(False)
        return made

    def say(self, *said: bytes) -> None:
        """Say more on each that is still open, as far as it is listened to."""
        for each in self.sockets:
            with contextlib.suppress(OSError):
                each.send(b"".join(said))

    def open(self) -> int:
        """Count the connections that the other end has not closed."""
        return sum(map(_is_open, self.sockets))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for each in self.sockets:
            each.close()


WINDOW = 65535
"""Of HTTP/2, unless the other end opens it wider."""
_CHUNK = 16384
_WIDER, _INITIAL = 8, 4


async def say_within_the_window(connection: socket.socket, stream: int, data: bytes) -> int:
    """Say ``data`` on a stream, as fast as the other end allows; return how much was said when it ended that."""
    loop = asyncio.get_running_loop()
    windows = {0: WINDOW, stream: WINDOW}
    initial, said, heard = WINDOW, 0, b""
    try:
        while said < len(data):
            piece = data[said : said + _CHUNK]
            if min(windows.values()) >= len(piece):
                await loop.sock_sendall(connection, frame(DATA, stream, piece))
                said += len(piece)
                windows = {each: room - len(piece) for each, room in windows.items()}
                continue
            while len(heard) < 9 or len(heard) < 9 + int.from_bytes(heard[:3], "big"):
                if not (more := await loop.sock_recv(connection, 65536)):
                    return said
                heard += more
            end = 9 + int.from_bytes(heard[:3], "big")
            kind, flags, of = heard[3], heard[4], int.from_bytes(heard[5:9], "big")
            payload, heard = heard[9:end], heard[end:]
            if kind == _WIDER:
                windows[of] = windows.get(of, 0) + int.from_bytes(payload, "big")
            elif kind == SETTINGS and not flags:
                for at in range(0, len(payload), 6):
                    if int.from_bytes(payload[at : at + 2], "big") == _INITIAL:
                        before, initial = initial, int.from_bytes(payload[at + 2 : at + 6], "big")
                        windows[stream] += initial - before
                await loop.sock_sendall(connection, frame(SETTINGS, flags=1))
            elif kind == PING and not flags:
                await loop.sock_sendall(connection, frame(PING, payload=payload, flags=1))
    except OSError:
        pass
    return said


def _is_open(connection: socket.socket) -> bool:
    try:
        while connection.recv(65536):
            pass
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


def memory_bytes(pid: int) -> int:
    """Return what a process has in memory."""
    [line] = [line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("VmRSS:")]
    return int(line.split()[1]) * 1024


def descriptors(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))


@wool.routine
async def add(one: int, other: int) -> int:
    return one + other


class Bystander:
    """An honest caller that calls all the time; each call must come back with the right answer."""

    def __init__(self) -> None:
        self.served = 0
        self.slowest_seconds = 0.0

    async def call(self) -> None:
        loop = asyncio.get_running_loop()
        began = loop.time()
        assert await add(self.served, 1) == self.served + 1
        self.slowest_seconds = max(self.slowest_seconds, loop.time() - began)
        self.served += 1

    async def run(self) -> None:
        while True:
            await self.call()
            await asyncio.sleep(0.01)


@asynccontextmanager
async def served_meanwhile(proxy: wool.WorkerProxy, pid: int, *, most_bytes: int) -> AsyncIterator[Bystander]:
    """While the block runs somebody honest is served, and ``pid`` stays alive and takes no more memory than that."""
    bystander = Bystander()
    async with proxy:
        await bystander.call()
        before = memory_bytes(pid)
        highest = before
        task = asyncio.create_task(bystander.run(), name="the bystander")

        async def measure() -> None:
            nonlocal highest
            while True:
                highest = max(highest, memory_bytes(pid))
                await asyncio.sleep(0.02)

        measuring = asyncio.create_task(measure(), name="measuring")
        try:
            yield bystander
            served = bystander.served
            while bystander.served < served + 3:
                assert not task.done(), task
                await asyncio.sleep(0.01)
        finally:
            for each in (task, measuring):
                each.cancel()
            results = await asyncio.gather(task, measuring, return_exceptions=True)
        assert all(isinstance(result, asyncio.CancelledError) for result in results), results
        assert highest - before < most_bytes, f"{(highest - before) / MIB:.0f} MiB more"


@asynccontextmanager
async def unharmed(
    worker: wool.LocalWorker,
    capfd: pytest.CaptureFixture[str],
    *,
    says: str | None,
    most_bytes: int,
    most_lines: int,
    credentials: wool.WorkerCredentials | None = None,
) -> AsyncIterator[Bystander]:
    """While the block runs a worker stays up, its memory is bounded, others are served; and then its log ``says`` why.

    That is a pattern that some line of it has, of at most so many; None, if nobody above gRPC could know.
    """
    capfd.readouterr()
    proxy = wool.WorkerProxy(workers=[worker.metadata], credentials=credentials)
    async with served_meanwhile(proxy, worker.metadata.pid, most_bytes=most_bytes) as bystander:
        yield bystander
    assert worker.exit_reason is None
    await worker.stop()  # what has not been said is summed up
    _, printed = capfd.readouterr()
    lines = printed.splitlines()
    assert says is None or any(re.search(says, line) for line in lines), printed
    assert len(lines) <= most_lines, printed
