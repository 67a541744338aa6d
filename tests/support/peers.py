"""The other end of a session, spoken frame by frame: honest or hostile, as a test pleases."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Any, Self, TypeVar

from support.one_loop import SECRET, metadata_of
from wool.definition import define
from wool.limits import Limits
from wool.protocol.codec import decode, encode
from wool.protocol.flow import body_of
from wool.protocol.frames import Chunk, Credit, Frame, Offer, Result, ResultKind
from wool.protocol.handshake import CallerHandshake, CallerWords, WorkerHandshake, WorkerWords
from wool.serialization import Payload, dumps
from wool.transport.base import Listener, Stream, StreamLost, Transport
from wool.transport.memory import MemoryNetwork, MemoryTransport

_F = TypeVar("_F")


class RawPeer:
    """One end of an open session."""

    def __init__(self, stream: Stream) -> None:
        self.stream = stream
        self._frames: deque[Frame] = deque()

    async def say(self, *frames: Frame) -> None:
        await self.stream.write(encode(frames))

    async def hear(self) -> Frame:
        """Return the next frame; credits are the transport of chunks and are passed over."""
        while True:
            while not self._frames:
                self._frames.extend(decode(await asyncio.wait_for(self.stream.read(), 5)))
            frame = self._frames.popleft()
            if not isinstance(frame, Credit):
                return frame

    async def expect(self, kind: type[_F]) -> _F:
        frame = await self.hear()
        assert isinstance(frame, kind), frame
        return frame

    async def expect_end(self) -> None:
        """The other side ends the session, whatever it says before."""
        try:
            while True:
                await self.hear()
        except StreamLost:
            pass

    async def silent(self, seconds: float = 0.02) -> bool:
        """Whether nothing is said for so long. The session cannot be used after it."""
        try:
            frame = await asyncio.wait_for(self.hear(), seconds)
        except TimeoutError:
            return True
        raise AssertionError(f"said {frame}")


class RawCaller(RawPeer):
    """A caller that is connected to a worker under test."""

    number = 0

    @classmethod
    async def connect(
        cls,
        network: MemoryNetwork,
        address: str,
        limits: Limits,
        *,
        secret: bytes = SECRET,
        **words: Any,
    ) -> Self:
        return await cls.over(MemoryTransport(network, limits), address, limits, secret=secret, **words)

    @classmethod
    async def over(
        cls, transport: Transport, address: str, limits: Limits, *, secret: bytes = SECRET, **words: Any
    ) -> Self:
        """Connect over any transport."""
        stream = await transport.connect(address)
        said = {"payload_bytes": limits.payload_bytes, "credit_bytes": limits.credit_bytes} | words
        handshake = CallerHandshake(secret=secret, nonce=b"n" * 32, words=CallerWords(uid="raw", pool=b"raw", **said))
        await stream.write(handshake.hello())
        while not handshake.done:
            answer = handshake.receive(await asyncio.wait_for(stream.read(), 5))
            if answer is not None:
                await stream.write(answer)
        return cls(stream)

    def offer(self, function: Any, *args: Any, number: int = 0, defines: bool = True, limits: Limits) -> Offer:
        """Return an honest offer; the caller's numbers rise by themselves."""
        definition = define(function)
        payload = dumps((args, {}))
        if defines:
            payload = Payload((definition.blob, *payload.parts))
        self.number = number or self.number + 1
        return Offer(self.number, bytes(16), definition.digest, defines, body_of(payload, limits))


class RawWorker:
    """A worker that callers under test connect to; each session is served by the test."""

    def __init__(
        self,
        network: MemoryNetwork,
        uid: str,
        limits: Limits,
        *,
        transport: Transport | None = None,
        secret: bytes = SECRET,
        **words: Any,
    ) -> None:
        self.uid = uid
        self.limits = limits
        self.address = f"unix:/{uid}"
        self._transport = transport or MemoryTransport(network, limits)
        self._secret = secret
        self.words = words
        self._listener: Listener | None = None
        self._sessions: asyncio.Queue[RawPeer] = asyncio.Queue()
        self.connected = 0
        self.accepting = asyncio.Event()
        self.accepting.set()
        self.closed = asyncio.Event()

    async def listen(self, address: str = "") -> None:
        self._listener = await self._transport.listen(address or f"unix:/{self.uid}", self._serve)
        self.address = self._listener.address

    async def _serve(self, stream: Stream) -> None:
        self.connected += 1
        await self.accepting.wait()
        limits = self.limits
        words: dict[str, Any] = {
            "session": b"s" * 16,
            "metadata": metadata_of(self.uid, self.address).to_bytes(),
            "window_tasks": limits.window_tasks,
            "window_bytes": limits.window_bytes,
            "payload_bytes": limits.payload_bytes,
            "credit_bytes": limits.credit_bytes,
        }
        handshake = WorkerHandshake(secret=self._secret, nonce=b"w" * 32, words=WorkerWords(**(words | self.words)))
        while handshake.peer is None:
            await stream.write(handshake.receive(await stream.read()))
        self._sessions.put_nowait(RawPeer(stream))
        await self.closed.wait()

    async def session(self) -> RawPeer:
        return await asyncio.wait_for(self._sessions.get(), 5)

    async def close(self) -> None:
        self.accepting.set()
        self.closed.set()
        if self._listener is not None:
            await self._listener.close()


def returned(number: int, value: object) -> Result:
    (part,) = dumps(value).parts
    assert isinstance(part, bytes)
    return Result(number, ResultKind.RETURN, body_of(Payload((part,)), Limits()))


def in_chunks(number: int, data: bytes, size: int) -> list[Chunk]:
    return [Chunk(number, data[start : start + size]) for start in range(0, len(data), size)]
