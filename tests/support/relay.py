"""A TCP relay between a caller and a worker that stops at a frame of wool's protocol.

It forwards whole HTTP/2 frames, and looks into them far enough to know which frames of wool's protocol
each carries. So a test can hold one direction exactly from "the accept", "the start" or "the result" on,
let it go late, or cut the connection, so that what was held is lost. Nothing is ever changed or reordered.
"""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Literal, Self
from unittest.mock import patch

from wool.discovery.base import WorkerMetadata
from wool.protocol.codec import decode
from wool.protocol.frames import Frame

Direction = Literal["to worker", "to caller"]

PREFACE_BYTES = 24
FRAME_HEAD_BYTES = 9
MESSAGE_HEAD_BYTES = 5
HANDSHAKE_MESSAGES = 2
"""In each direction, before the first frame."""
PIECE_BYTES = 16 * 1024
"""What a slow link passes at once."""


class _Parser:
    """Cuts one direction of a connection into HTTP/2 frames and says what each completes."""

    def __init__(self, direction: Direction) -> None:
        self._preface = PREFACE_BYTES if direction == "to worker" else 0
        self._handshake = HANDSHAKE_MESSAGES
        self._bytes = bytearray()
        self._message = bytearray()

    def feed(self, data: bytes) -> Iterator[tuple[bytes, list[Frame]]]:
        buffer = self._bytes
        buffer += data
        if self._preface and len(buffer) >= self._preface:
            yield bytes(buffer[: self._preface]), []
            del buffer[: self._preface]
            self._preface = 0
        while not self._preface and len(buffer) >= FRAME_HEAD_BYTES:
            size = FRAME_HEAD_BYTES + int.from_bytes(buffer[:3], "big")
            if len(buffer) < size:
                return
            piece = bytes(buffer[:size])
            del buffer[:size]
            is_data = piece[3] == 0
            yield piece, list(self._frames(piece[FRAME_HEAD_BYTES:])) if is_data else []

    def _frames(self, data: bytes) -> Iterator[Frame]:
        message = self._message
        message += data
        while len(message) >= MESSAGE_HEAD_BYTES:
            size = MESSAGE_HEAD_BYTES + int.from_bytes(message[1:MESSAGE_HEAD_BYTES], "big")
            if len(message) < size:
                return
            content = bytes(message[MESSAGE_HEAD_BYTES:size])
            del message[:size]
            if self._handshake:
                self._handshake -= 1
            else:
                yield from decode(content)


class Hold:
    """An order to stop a direction; `reached` is set once it has stopped."""

    def __init__(self, matches: Callable[[Frame], bool]) -> None:
        self.matches = matches
        self.reached = asyncio.Event()


class Relay:
    """Listens on a port of its own and passes everything on to ``target``, until told otherwise."""

    def __init__(self, target: WorkerMetadata, *, bytes_per_second: float | None = None) -> None:
        self._target = target
        self._bytes_per_second = bytes_per_second
        self._server: asyncio.Server | None = None
        self._pumps: set[asyncio.Task[None]] = set()
        self._writers: set[asyncio.StreamWriter] = set()
        self._open: dict[Direction, asyncio.Event] = {"to worker": asyncio.Event(), "to caller": asyncio.Event()}
        self._holds: dict[Direction, list[Hold]] = {"to worker": [], "to caller": []}
        self.connections = 0
        """Connections that were made, ever."""
        self.passed: dict[Direction, int] = {"to worker": 0, "to caller": 0}
        """Bytes that were passed on, ever."""
        for direction in self._open.values():
            direction.set()

    @property
    def metadata(self) -> WorkerMetadata:
        """The worker, as it is reached through here."""
        assert self._server is not None
        port = self._server.sockets[0].getsockname()[1]
        return dataclasses.replace(self._target, address=f"127.0.0.1:{port}")

    # ---- orders ----

    def hold_at(self, direction: Direction, matches: type | Callable[[Frame], bool]) -> Hold:
        """Stop ``direction`` when the next frame of this kind comes: it is not passed on, nor anything after it."""
        hold = Hold((lambda frame: isinstance(frame, matches)) if isinstance(matches, type) else matches)
        self._holds[direction].append(hold)
        return hold

    def hold(self, *directions: Direction) -> None:
        """Stop at once."""
        for direction in directions:
            self._open[direction].clear()

    def release(self) -> None:
        """Let everything pass again, what was held first; orders not yet carried out are withdrawn."""
        for direction, is_open in self._open.items():
            self._holds[direction].clear()
            is_open.set()

    async def cut(self) -> None:
        """Break every connection; what was held is lost. New connections pass."""
        for writer in self._writers:
            writer.transport.abort()
        pumps = set(self._pumps)
        for pump in pumps:
            pump.cancel()
        if pumps:
            await asyncio.wait(pumps)
        self.release()

    # ---- passing on ----

    async def __aenter__(self) -> Self:
        # Without credentials a caller refuses a worker that says another address: this is what stands between them.
        self._unseen = patch("wool.connection._check_address", lambda metadata, address: None)
        self._unseen.start()
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0, limit=PIECE_BYTES)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        assert self._server is not None
        self._unseen.stop()
        self._server.close()
        await self.cut()
        await self._server.wait_closed()

    async def _accept(self, caller: asyncio.StreamReader, to_caller: asyncio.StreamWriter) -> None:
        self.connections += 1
        host, _, port = self._target.address.rpartition(":")
        try:
            worker, to_worker = await asyncio.open_connection(host, int(port), limit=PIECE_BYTES)
        except OSError:
            to_caller.transport.abort()
            return
        writers = {to_caller, to_worker}
        self._writers |= writers
        pumps = [
            asyncio.create_task(self._pump("to worker", caller, to_worker), name="relay to worker"),
            asyncio.create_task(self._pump("to caller", worker, to_caller), name="relay to caller"),
        ]
        self._pumps.update(pumps)
        try:
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for pump in pumps:
                pump.cancel()
            for writer in writers:
                writer.close()
            await asyncio.wait(pumps)
            self._pumps.difference_update(pumps)
            self._writers -= writers

    async def _pump(self, direction: Direction, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        parser = _Parser(direction)
        try:
            while data := await reader.read(PIECE_BYTES):
                for piece, frames in parser.feed(data):
                    self._look(direction, frames)
                    await self._open[direction].wait()
                    writer.write(piece)
                    self.passed[direction] += len(piece)
                await writer.drain()
                if self._bytes_per_second is not None:
                    await asyncio.sleep(len(data) / self._bytes_per_second)
        except OSError:
            pass  # the other side has gone: both hear of it

    def _look(self, direction: Direction, frames: list[Frame]) -> None:
        for hold in list(self._holds[direction]):
            if any(map(hold.matches, frames)):
                self._holds[direction].remove(hold)
                self._open[direction].clear()
                hold.reached.set()
