"""What goes onto a session and in which order; what comes off it and how it is put together again.

Control frames overtake payload chunks, large payloads take turns, and the chunk bytes that the peer
has not acknowledged are bounded by its credit. Nothing here awaits: `Outbox.take` says what to write
next, and the driver writes it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from io import BytesIO
from itertools import accumulate
from typing import cast

from wool.buffers import fillable
from wool.limits import Limits
from wool.protocol.frames import (
    EMPTY,
    Accept,
    Body,
    Cancel,
    Chunk,
    Credit,
    Frame,
    Offer,
    ProtocolError,
    Reject,
    Result,
    Step,
)
from wool.serialization import Payload

CREDIT_SHARE = 4
"""A quarter of the credit is acknowledged at once: a frame per chunk would be as many messages again."""

FRAME_OVERHEAD_BYTES = 64
"""What a frame takes besides its inline payload, roughly; for packing only."""

CHARACTER_BYTES = 4
"""What a character takes, at most."""

SIZE_OVERHEAD_BYTES = 10
"""What the size of one part takes in a head, at most."""


def body_of(payload: Payload, limits: Limits) -> Body:
    """Return how ``payload`` travels in a frame: inline, or announced for chunks."""
    parts = payload.parts
    if len(parts) == 1 and not payload.context:
        part = parts[0]
        if type(part) is bytes:
            if len(part) <= limits.inline_bytes:
                return Body((), part) if part else EMPTY
            return Body((len(part),), b"", True)
    sizes = payload.sizes
    if payload.context:
        sizes = (len(payload.context), *sizes)
    if sum(sizes) <= limits.inline_bytes:
        return Body(sizes, b"".join(_flat(payload)))
    return Body(sizes, b"", True)


def with_context(payload: Payload) -> Payload:
    """Return what has come with a frame that says that its first part is of context variables."""
    context, *parts = payload.parts
    return Payload(tuple(parts), b"".join(context) if type(context) is list else bytes(cast("bytes", context)))


def _flat(payload: Payload) -> Iterator[bytes | memoryview]:
    if payload.context:
        yield payload.context
    for part in payload.parts:
        if isinstance(part, list):
            yield from part
        else:
            yield part


def _chunks(payload: Payload, size: int) -> Iterator[memoryview]:
    # No chunk spans two parts, so that the receiver need not copy to split them.
    for part in _flat(payload):
        view = memoryview(part).cast("B")
        for offset in range(0, len(view), size):
            yield view[offset : offset + size]


class Outbox:
    """Frames that wait to be written, in the order in which they may leave."""

    def __init__(self, limits: Limits, credit_bytes: int) -> None:
        self._limits = limits
        self._credit = self._whole_credit = credit_bytes
        # A peer may grant little, and acknowledges in shares of it: a chunk must fit beside what it still owes.
        self._chunk_bytes = min(limits.chunk_bytes, max(1, credit_bytes // 2))
        self._control: deque[tuple[Frame, Payload | None]] = deque()
        self._transfers: deque[tuple[int, Iterator[memoryview]]] = deque()
        self._next_chunk: tuple[int, memoryview] | None = None
        self._large = 0
        """Payloads that wait, head or chunks, to leave in chunks."""
        self.progress: int = 0
        """Chunk bytes that have left, ever: an upload that moves is not a worker that is silent."""

    def say(self, frame: Frame, payload: Payload | None = None) -> None:
        """Queue a control frame; ``payload`` follows in chunks if the frame's body announces them."""
        if payload is not None and isinstance(frame, (Offer, Result, Step)) and frame.body.chunked:
            self._large += 1
            self._control.append((frame, payload))
        else:
            self._control.append((frame, None))

    def drop(self, number: int) -> None:
        """Send no more of the payload of ``number``."""
        if not self._large:
            return
        before = len(self._transfers)
        self._transfers = deque(transfer for transfer in self._transfers if transfer[0] != number)
        self._large -= before - len(self._transfers)
        if self._next_chunk is not None and self._next_chunk[0] == number:
            self._next_chunk = None
        # A head that has not left yet keeps its place, but its chunks will not follow.
        for index, (frame, payload) in enumerate(self._control):
            if payload is not None and getattr(frame, "number", None) == number:
                self._control[index] = (frame, None)
                self._large -= 1

    def acknowledge(self, size: int) -> None:
        """The peer has taken in ``size`` chunk bytes."""
        if self._credit + size > self._whole_credit:
            raise ProtocolError(f"{size} bytes are acknowledged, more than were sent")
        self._credit += size

    def __bool__(self) -> bool:
        return bool(self._control) or (self._large > 0 and self._chunk_ready())

    @property
    def waiting(self) -> int:
        """How many control frames wait to be written."""
        return len(self._control)

    def answers(self) -> int:
        """Count the answers to offers among them; takes as long as there are frames."""
        return sum(isinstance(frame, (Accept, Reject)) for frame, _ in self._control)

    @property
    def unfinished(self) -> bool:
        """Whether part of a large payload has still to leave, now or when there is credit again."""
        return self._large > 0

    def sending(self, number: int) -> bool:
        """Whether chunks of ``number`` have still to leave."""
        return any(transfer[0] == number for transfer in self._transfers) or (
            self._next_chunk is not None and self._next_chunk[0] == number
        )

    def take(self) -> list[Frame]:
        """Return what to write next: waiting control frames, then at most one chunk, as the last."""
        frames: list[Frame] = []
        room = self._limits.packet_bytes
        control = self._control
        while control and room > 0:
            frame, payload = control.popleft()
            frames.append(frame)
            room -= FRAME_OVERHEAD_BYTES
            if isinstance(frame, (Offer, Result, Step)):
                room -= len(frame.body.inline) + SIZE_OVERHEAD_BYTES * len(frame.body.sizes)
                if payload is not None:
                    self._transfers.append((frame.number, _chunks(payload, self._chunk_bytes)))
            elif isinstance(frame, Cancel) and frame.message is not None:
                room -= CHARACTER_BYTES * len(frame.message)
        if self._large and self._chunk_ready():
            assert self._next_chunk is not None
            number, view = self._next_chunk
            self._next_chunk = None
            self._credit -= len(view)
            self.progress += len(view)
            frames.append(Chunk(number, view))
        return frames

    def _chunk_ready(self) -> bool:
        while self._next_chunk is None and self._transfers:
            number, chunks = self._transfers.popleft()
            view = next(chunks, None)
            if view is not None:
                self._next_chunk = (number, view)
                self._transfers.append((number, chunks))
            else:
                self._large -= 1
        return self._next_chunk is not None and self._credit >= len(self._next_chunk[1])


class _Arriving:
    """A payload of which chunks have come. Each part is filled in place, so that nothing is joined at the end."""

    __slots__ = ("_filling", "_parts", "_room", "_sizes", "missing")

    def __init__(self, sizes: tuple[int, ...]) -> None:
        self._sizes = deque(sizes)
        self._parts: list[bytes] = []
        self._filling = BytesIO()
        self._room = 0
        self.missing = sum(sizes)
        """Bytes that have still to come."""

    def add(self, data: bytes | memoryview) -> bool:
        """Take the next chunk; False if it does not fit what was announced."""
        if not self._room:
            self._open_part()
        if not data or len(data) > self._room:
            return False
        self._filling.write(data)
        self._room -= len(data)
        self.missing -= len(data)
        if not self._room:
            # Filled to its size, the buffer gives the bytes it holds and copies nothing.
            self._parts.append(self._filling.getvalue())
        return True

    def _open_part(self) -> None:
        size = 0
        while self._sizes and not size:
            size = self._sizes.popleft()
            if not size:
                self._parts.append(b"")
        try:
            self._filling = fillable(size)
        except (MemoryError, OverflowError):
            raise ProtocolError(f"a part of {size} bytes was announced, for which there is no memory") from None
        self._room = size

    def payload(self) -> Payload:
        """Return the payload, all of which has come."""
        return Payload((*self._parts, *(b"" for _ in self._sizes)))


class Inbox:
    """Payloads that arrive: whole ones at once, chunked ones when their last chunk has come."""

    def __init__(self, acknowledge_bytes: int = 1) -> None:
        self._arriving: dict[int, _Arriving] = {}
        self._owed = 0
        self._acknowledge_bytes = acknowledge_bytes

    def open(self, number: int, body: Body) -> Payload | None:
        """Take the head of a payload; return it if it is complete."""
        if not body.chunked:
            if not body.sizes:
                return Payload((body.inline,))
            ends = list(accumulate(body.sizes))
            view = body.inline
            return Payload(tuple(view[end - size : end] for end, size in zip(ends, body.sizes, strict=True)))
        if number in self._arriving:
            raise ProtocolError(f"a second payload for number {number} while the first is under way")
        if not sum(body.sizes):
            raise ProtocolError(f"a chunked payload of no bytes for number {number}")
        self._arriving[number] = _Arriving(body.sizes)
        return None

    def chunk(self, frame: Chunk) -> Payload | None:
        """Take one chunk; return the payload if it was the last. A number nobody waits for is dropped."""
        data = frame.data
        self._owed += len(data)
        arriving = self._arriving.get(frame.number)
        if arriving is None:
            return None
        if not arriving.add(data):
            raise ProtocolError(f"a chunk of {len(data)} bytes does not fit what number {frame.number} announced")
        if arriving.missing:
            return None
        del self._arriving[frame.number]
        return arriving.payload()

    def forget(self, number: int) -> None:
        """Nobody waits for ``number`` any more; its chunks are dropped as they come."""
        self._arriving.pop(number, None)

    def credit(self) -> Credit | None:
        """Return the acknowledgement that is due for chunks taken in, if it is worth a frame."""
        if self._owed < self._acknowledge_bytes:
            return None
        owed, self._owed = self._owed, 0
        return Credit(owed)
