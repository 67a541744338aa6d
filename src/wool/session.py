"""One end of a session after the handshake: frames in, frames out, over one stream.

Both roles drive the same thing: one reader task, one writer task, an `Outbox` and an `Inbox`. A session
ends once, for one reason, which everybody hears. It knows nothing of tasks, and never times a read.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Protocol

from wool.harmless import harmless
from wool.limits import Limits
from wool.observer import Observer
from wool.protocol.caller import IllegalEvent
from wool.protocol.codec import decode, encode, encode_chunk
from wool.protocol.flow import CREDIT_SHARE, Inbox, Outbox, with_context
from wool.protocol.frames import (
    Chunk,
    Credit,
    Frame,
    Goodbye,
    Offer,
    ProtocolError,
    Report,
    Result,
    Step,
)
from wool.refusals import Refusals
from wool.serialization import Payload
from wool.transport.base import Stream, StreamLost

_log = logging.getLogger("wool.session")


_WITH_PAYLOAD = (Offer, Result, Step)
_OF_SESSION = (Chunk, Credit, Goodbye)


class SessionOwner(Protocol):
    """What a session tells its role. Called synchronously, on the session's loop."""

    def on_message(self) -> None:
        """A message has arrived; its frames follow."""
        ...

    def on_head(self, frame: Offer | Step | Result) -> bool:
        """A payload is announced and will come in chunks. False: nobody wants it, drop it."""
        ...

    def on_stray(self, number: int) -> None:
        """A chunk has come that nobody waits for, perhaps any more. Raises `ProtocolError` if nobody ever did."""
        ...

    def on_frame(self, frame: Frame, payload: Payload | None) -> None:
        """A frame has arrived, with its payload complete. May raise `ProtocolError` or `IllegalEvent`."""
        ...


class Session:
    """Drives one stream until it breaks, is finished, or the peer breaks the protocol."""

    def __init__(
        self,
        *,
        stream: Stream,
        owner: SessionOwner,
        limits: Limits,
        peer_credit_bytes: int,
        name: str,
        observer: Observer | None = None,
        refusals: Refusals | None = None,
    ) -> None:
        self._stream = stream
        self._refusals = refusals
        self._observer = observer
        self._owner = owner
        self._on_frame = owner.on_frame
        self.limits = limits
        self.name = name
        self.outbox: Outbox = Outbox(limits, peer_credit_bytes)
        self.inbox: Inbox = Inbox(limits.credit_bytes // CREDIT_SHARE)
        self._heads: dict[int, Offer | Step | Result] = {}
        self._wake: asyncio.Future[None] | None = None
        self._missed = 0
        self._finishing: str | None = None
        self._reason: str | None = None
        self.violated: bool = False
        """Whether it ended because the peer broke the protocol."""
        self.last_heard: float = 0.0
        """When the last message came, on the loop's clock, in seconds."""
        if observer is not None:
            observer.opened(stream)

    @property
    def ended(self) -> bool:
        """Whether nothing that is said any more will leave."""
        return self._reason is not None

    def say(self, frame: Frame, payload: Payload | None = None) -> None:
        """Queue ``frame``; never waits. After the end it is dropped."""
        if self._observer is not None:
            self._observer.said(self._stream, frame)
        if self._reason is not None:
            return
        self.outbox.say(frame, payload)
        if self._wake is not None:
            self._awake()

    def report(self, report: Report) -> None:
        """Queue what may be left out: if too much waits to be written it is, and the next one tells how much was."""
        if self.outbox.waiting >= self.limits.task_events:
            self._missed += 1
            return
        missed, self._missed = self._missed, 0
        self.say(report._replace(missed=missed))

    def forget(self, number: int) -> None:
        """Neither send nor collect more of any payload of ``number``."""
        self.outbox.drop(number)
        if self._heads:
            self.inbox.forget(number)
            self._heads.pop(number, None)

    def ignore(self, number: int) -> None:
        """Collect no more of any payload of ``number``; what is on its way to the peer goes on."""
        if self._heads:
            self.inbox.forget(number)
            self._heads.pop(number, None)

    def finish(self, reason: str) -> None:
        """Say goodbye after all that is queued, then end."""
        if self._finishing is None:
            self._finishing = reason
            self._awake()

    def abort(self, reason: str) -> None:
        """End at once; what is queued is lost."""
        if self._reason is None:
            self._reason = reason
            self._stream.abort(reason)
            self._awake()

    def violation(self, reason: str) -> None:
        """The peer broke the protocol: end at once."""
        if self._reason is None:
            self.violated = True
            warn = _log.warning if self._refusals is None else self._refusals.say
            warn("%s: protocol error: %s", self.name, reason)
            self.abort(f"protocol error: {reason}")

    async def run(self) -> str:
        """Read and write until the session ends; return why. Cancelling ends the session."""
        loop = asyncio.get_running_loop()
        self.last_heard = loop.time()
        writer = loop.create_task(self._write(), name=f"{self.name} writer")
        try:
            await self._read()
        finally:
            if self._reason is None:
                self._reason = "cancelled"
                self._stream.abort(self._reason)
            self._awake()
            await writer
            await self._stream.close()
            if self._observer is not None:
                self._observer.lost(self._stream, self._reason)
        return self._reason

    # ---- reading ----

    async def _read(self) -> None:
        stream, clock = self._stream, asyncio.get_running_loop().time
        try:
            while self._reason is None:
                message = await stream.read()
                if self._reason is not None:
                    break
                self.last_heard = clock()
                self._take(message)
        except StreamLost as lost:
            if self._reason is None:
                self._reason = str(lost) or "the stream broke"

    def _take(self, message: bytes) -> None:
        try:
            if len(message) > self.limits.message_bytes:
                raise ProtocolError(f"a message of {len(message)} bytes")
            frames, observer = decode(message), self._observer
            self._owner.on_message()
            for frame in frames:
                if observer is not None:
                    observer.heard(self._stream, frame)
                # Whole frames are all but all of them, and need nothing of what follows.
                if isinstance(frame, _WITH_PAYLOAD):
                    if not frame.body.chunked:
                        payload = self.inbox.open(frame.number, frame.body)
                        if frame.context and payload is not None:
                            payload = with_context(payload)
                        self._on_frame(frame, payload)
                    elif self._owner.on_head(frame):
                        self.inbox.open(frame.number, frame.body)
                        self._heads[frame.number] = frame
                elif isinstance(frame, _OF_SESSION):
                    self._dispatch(frame)
                else:
                    self._on_frame(frame, None)
                if self._reason is not None:
                    return
        except (ProtocolError, IllegalEvent) as error:
            self.violation(str(error))
            return
        if (credit := self.inbox.credit()) is not None:
            self.say(credit)

    def _dispatch(self, frame: Chunk | Credit | Goodbye) -> None:
        if isinstance(frame, Chunk):
            if frame.number not in self._heads:
                self._owner.on_stray(frame.number)
            payload = self.inbox.chunk(frame)
            if payload is not None:
                head = self._heads.pop(frame.number)
                self._on_frame(head, with_context(payload) if head.context else payload)
        elif isinstance(frame, Credit):
            self.outbox.acknowledge(frame.size)
            if self._wake is not None:
                self._awake()
        else:
            self.abort(f"the other side said goodbye: {harmless(frame.reason, self.limits.text_characters)}")

    # ---- writing ----

    def _awake(self) -> None:
        wake, self._wake = self._wake, None
        if wake is not None and not wake.done():
            wake.set_result(None)

    async def _write(self) -> None:
        loop, stream, outbox = asyncio.get_running_loop(), self._stream, self.outbox
        try:
            while self._reason is None:
                if outbox:
                    frames = outbox.take()
                    last = frames[-1]
                    if isinstance(last, Chunk):
                        # A message of its own, which is made and read with one copy less on each side.
                        frames.pop()
                        if frames:
                            await stream.write(encode(frames))
                        await stream.write(encode_chunk(last))
                    else:
                        await stream.write(encode(frames))
                elif self._finishing is not None and not outbox.unfinished:
                    goodbye = Goodbye(self._finishing)
                    if self._observer is not None:
                        self._observer.said(stream, goodbye)
                    await stream.write(encode([goodbye]))
                    # Closing ends the peer's reads after what was written, and our own reader with them.
                    await stream.close()
                    return
                else:
                    self._wake = loop.create_future()
                    await self._wake
        except StreamLost:
            # Nothing leaves any more. What the other end wrote before it ended can still be read, and answers are among
            # it: the reader reads to the end, which ends the session.
            return
        except Exception as error:
            # Nobody would be heard any more, and nobody would notice.
            _log.exception("%s: a frame cannot be written", self.name)
            self.abort(f"a frame cannot be written: {type(error).__name__}: {error}")
