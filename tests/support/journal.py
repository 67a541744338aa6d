"""What a body does, in order, seen by the test while it happens.

A `Pen` travels as an argument, and what a body notes with it is in the journal before the answer to the
step is: so the journal can be compared after each step, and waited for, without polling.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import tempfile
from types import TracebackType
from typing import Any, Self

NOTE_BYTES = 4096
CHANGE_SECONDS = 10.0


class Pen:
    """Notes what happens, in the journal that it came from; in any process."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._socket: socket.socket | None = None

    def note(self, text: str) -> None:
        if self._socket is None:
            self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        # Blocks while the journal has too much to read.
        self._socket.sendto(text.encode(), self.path)

    async def park(self, text: str = "park") -> None:
        """Note ``text`` and wait for ever: only a cancellation goes on from here."""
        self.note(text)
        await asyncio.get_running_loop().create_future()

    def __getstate__(self) -> str:
        return self.path

    def __setstate__(self, path: str) -> None:
        self.path = path
        self._socket = None

    def __del__(self) -> None:
        if self._socket is not None:
            self._socket.close()


class LocalPen(Pen):
    """A pen for a body that runs on the journal's own loop."""

    def __init__(self, journal: Journal) -> None:
        super().__init__("")
        self._journal = journal

    def note(self, text: str) -> None:
        self._journal.add(text)


class Journal:
    """Collects notes. Use as a context manager on the loop of the test."""

    def __init__(self) -> None:
        self._notes: list[str] = []
        self._changed = asyncio.Event()
        self._directory = tempfile.mkdtemp(prefix="j-")
        self._path = os.path.join(self._directory, "s")
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.setblocking(False)
        self._socket.bind(self._path)

    def __enter__(self) -> Self:
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._socket.fileno(), self._read)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._loop.remove_reader(self._socket.fileno())
        self._socket.close()
        os.unlink(self._path)
        os.rmdir(self._directory)

    @property
    def pen(self) -> Pen:
        return Pen(self._path)

    @property
    def local_pen(self) -> Pen:
        return LocalPen(self)

    @property
    def notes(self) -> list[str]:
        """What has been noted so far, by whatever process."""
        self._read()
        return list(self._notes)

    def add(self, text: str) -> None:
        self._notes.append(text)
        self._changed.set()

    def _read(self) -> None:
        with contextlib.suppress(BlockingIOError):
            while True:
                self.add(self._socket.recv(NOTE_BYTES).decode())

    async def wait_for(self, text: str, times: int = 1) -> None:
        """Return when ``text`` has been noted so many times."""
        async with asyncio.timeout(CHANGE_SECONDS):
            while self.notes.count(text) < times:
                await self.changed()

    async def changed(self) -> None:
        """Return when something is noted."""
        self._changed.clear()
        await self._changed.wait()


def start(work: Any) -> asyncio.Task[Any]:
    """Run ``work`` as a task, so that a test can go on meanwhile."""
    return asyncio.ensure_future(work)
