"""The frames of a session, and their codec.

A frame is a small immutable record; `encode` packs frames into one message, `decode` takes a message
apart and validates what the peer said: any bytes give frames or `ProtocolError`, in bounded memory.
Payloads are opaque here: a pickle is bytes like any other.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from enum import IntEnum
from typing import Any, NamedTuple, TypeAlias

from google.protobuf.message import DecodeError

from wool.protocol import wire_pb2

PROTOCOL_VERSION = 1
"""Compared in the handshake. It rises with every change that an older peer would misread."""

TASK_BYTES = 16
DIGEST_BYTES = 16
MOST_PARTS = 4096
"""Parts of one payload: a pickle and its out-of-band buffers."""

FOR_EVER = -1.0
"""A dispatch timeout of an offer that says: none. A missing one says: the default."""


class ProtocolError(Exception):
    """The peer said what the protocol does not allow. The session is closed."""


class StepKind(IntEnum):
    """What a consumer asks of a generator."""

    NEXT = wire_pb2.Step.NEXT
    SEND = wire_pb2.Step.SEND
    THROW = wire_pb2.Step.THROW
    CLOSE = wire_pb2.Step.CLOSE


class RejectCode(IntEnum):
    """Why a worker does not take a task."""

    DRAINING = wire_pb2.Reject.DRAINING
    ADMISSION = wire_pb2.Reject.ADMISSION
    TOO_LARGE = wire_pb2.Reject.TOO_LARGE
    UNKNOWN_DEFINITION = wire_pb2.Reject.UNKNOWN_DEFINITION


class ResultKind(IntEnum):
    """How a step, or the task, ended on the worker."""

    YIELD = wire_pb2.Result.YIELD
    RETURN = wire_pb2.Result.RETURN
    RAISE = wire_pb2.Result.RAISE
    INTERRUPTED = wire_pb2.Result.INTERRUPTED
    CANCELLED = wire_pb2.Result.CANCELLED
    UNLOADABLE = wire_pb2.Result.UNLOADABLE
    UNSENDABLE = wire_pb2.Result.UNSENDABLE


class Body(NamedTuple):
    """A payload as a frame carries it: whole, or announced and then sent in chunks.

    ``sizes`` holds the bytes of each part; it is empty where there is one part and it is inline.
    """

    sizes: tuple[int, ...] = ()
    inline: bytes = b""
    chunked: bool = False

    @property
    def total(self) -> int:
        """Bytes of the whole payload."""
        return sum(self.sizes) if self.sizes else len(self.inline)


EMPTY = Body()


class Offer(NamedTuple):
    number: int
    task: bytes
    definition: bytes
    defines: bool
    body: Body
    parent: bytes = b""
    dispatch_timeout: float | None = None


class Start(NamedTuple):
    number: int


class Withdraw(NamedTuple):
    number: int


class Cancel(NamedTuple):
    number: int
    message: str | None = None


class Step(NamedTuple):
    number: int
    kind: StepKind
    body: Body = EMPTY


class Accept(NamedTuple):
    number: int


class Reject(NamedTuple):
    number: int
    code: RejectCode
    reason: str


class Result(NamedTuple):
    number: int
    kind: ResultKind
    body: Body = EMPTY
    echo: bool = False


class Draining(NamedTuple):
    pass


class Chunk(NamedTuple):
    number: int
    data: bytes | memoryview


class Credit(NamedTuple):
    size: int


class Goodbye(NamedTuple):
    reason: str


Frame: TypeAlias = (
    Offer | Start | Withdraw | Cancel | Step | Accept | Reject | Result | Draining | Chunk | Credit | Goodbye
)


# ---- encoding ----------------------------------------------------------------------------------


def _put_body(wire: Any, body: Body) -> None:
    if body.sizes:
        wire.sizes.extend(body.sizes)
    if body.inline:
        wire.inline = body.inline
    if body.chunked:
        wire.chunked = True


def _put_offer(wire: wire_pb2.Frame, frame: Offer) -> None:
    offer = wire.offer
    offer.number = frame.number
    offer.task = frame.task
    offer.definition = frame.definition
    if frame.defines:
        offer.defines = True
    _put_body(offer, frame.body)
    if frame.parent:
        offer.parent = frame.parent
    if frame.dispatch_timeout is not None:
        offer.dispatch_timeout = frame.dispatch_timeout


def _put_start(wire: wire_pb2.Frame, frame: Start) -> None:
    wire.start = frame.number


def _put_withdraw(wire: wire_pb2.Frame, frame: Withdraw) -> None:
    wire.withdraw = frame.number


def _put_cancel(wire: wire_pb2.Frame, frame: Cancel) -> None:
    wire.cancel.number = frame.number
    if frame.message is not None:
        wire.cancel.message = frame.message


def _put_step(wire: wire_pb2.Frame, frame: Step) -> None:
    step = wire.step
    step.number = frame.number
    step.kind = int(frame.kind)  # type: ignore[assignment]
    _put_body(step, frame.body)


def _put_accept(wire: wire_pb2.Frame, frame: Accept) -> None:
    wire.accept = frame.number


def _put_reject(wire: wire_pb2.Frame, frame: Reject) -> None:
    reject = wire.reject
    reject.number = frame.number
    reject.code = int(frame.code)  # type: ignore[assignment]
    reject.reason = frame.reason


def _put_result(wire: wire_pb2.Frame, frame: Result) -> None:
    result = wire.result
    result.number = frame.number
    result.kind = int(frame.kind)  # type: ignore[assignment]
    _put_body(result, frame.body)
    if frame.echo:
        result.echo = True


def _put_draining(wire: wire_pb2.Frame, frame: Draining) -> None:
    wire.draining.SetInParent()


def _put_chunk(wire: wire_pb2.Frame, frame: Chunk) -> None:
    wire.chunk.number = frame.number
    wire.chunk.data = bytes(frame.data)


def _put_credit(wire: wire_pb2.Frame, frame: Credit) -> None:
    wire.credit = frame.size


def _put_goodbye(wire: wire_pb2.Frame, frame: Goodbye) -> None:
    wire.goodbye.reason = frame.reason


_PUT: dict[type, Callable[[wire_pb2.Frame, Any], None]] = {
    Offer: _put_offer,
    Start: _put_start,
    Withdraw: _put_withdraw,
    Cancel: _put_cancel,
    Step: _put_step,
    Accept: _put_accept,
    Reject: _put_reject,
    Result: _put_result,
    Draining: _put_draining,
    Chunk: _put_chunk,
    Credit: _put_credit,
    Goodbye: _put_goodbye,
}


def encode(frames: Iterable[Frame]) -> bytes:
    """Pack ``frames`` into one message, in order."""
    packet = wire_pb2.Packet()
    add = packet.frames.add
    for frame in frames:
        _PUT[type(frame)](add(), frame)
    return packet.SerializeToString()


# ---- decoding ----------------------------------------------------------------------------------


def _get_body(wire: Any) -> Body:
    inline = wire.inline
    if not wire.chunked:
        # The path that nearly every payload takes: one part, here.
        if not wire.sizes:
            return Body((), inline) if inline else EMPTY
        # Counted before it is copied: millions of sizes fit into one message.
        parts = len(wire.sizes)
        sizes = tuple(wire.sizes) if parts <= MOST_PARTS else ()
        if not sizes or sum(sizes) != len(inline):
            raise ProtocolError(f"an inline payload of {len(inline)} bytes announces {parts} other parts")
        return Body(sizes, inline)
    parts = len(wire.sizes)
    if inline or not 0 < parts <= MOST_PARTS:
        raise ProtocolError(f"a chunked payload announces {parts} parts and has {len(inline)} bytes inline")
    return Body(tuple(wire.sizes), b"", True)


def _get_offer(wire: wire_pb2.Frame) -> Frame:
    offer = wire.offer
    task, definition, parent = offer.task, offer.definition, offer.parent
    if len(task) != TASK_BYTES or len(definition) != DIGEST_BYTES or len(parent) not in (0, TASK_BYTES):
        raise ProtocolError("an offer's task, definition or parent has the wrong length")
    timeout = offer.dispatch_timeout if offer.HasField("dispatch_timeout") else None
    body = _get_body(offer)
    if offer.defines and len(body.sizes) < 2:
        raise ProtocolError("an offer that defines has no definition in its payload")
    return Offer(offer.number, task, definition, offer.defines, body, parent, timeout)


def _get_cancel(wire: wire_pb2.Frame) -> Frame:
    cancel = wire.cancel
    return Cancel(cancel.number, cancel.message if cancel.HasField("message") else None)


def _get_step(wire: wire_pb2.Frame) -> Frame:
    step = wire.step
    try:
        kind = StepKind(step.kind)
    except ValueError:
        raise ProtocolError(f"unknown step {step.kind}") from None
    return Step(step.number, kind, _get_body(step))


def _get_reject(wire: wire_pb2.Frame) -> Frame:
    reject = wire.reject
    try:
        code = RejectCode(reject.code)
    except ValueError:
        raise ProtocolError(f"unknown reject code {reject.code}") from None
    return Reject(reject.number, code, reject.reason)


_RESULT_KINDS: dict[int, ResultKind] = {int(kind): kind for kind in ResultKind}


def _get_result(wire: wire_pb2.Frame) -> Frame:
    result = wire.result
    kind = _RESULT_KINDS.get(result.kind)
    if kind is None:
        raise ProtocolError(f"unknown result {result.kind}")
    return Result(result.number, kind, _get_body(result), result.echo)


_GET: dict[str, Callable[[wire_pb2.Frame], Frame]] = {
    "offer": _get_offer,
    "start": lambda wire: Start(wire.start),
    "withdraw": lambda wire: Withdraw(wire.withdraw),
    "cancel": _get_cancel,
    "step": _get_step,
    "accept": lambda wire: Accept(wire.accept),
    "reject": _get_reject,
    "result": _get_result,
    "draining": lambda wire: Draining(),
    "chunk": lambda wire: Chunk(wire.chunk.number, wire.chunk.data),
    "credit": lambda wire: Credit(wire.credit),
    "goodbye": lambda wire: Goodbye(wire.goodbye.reason),
}


def decode(message: bytes) -> Sequence[Frame]:
    """Take a message apart. Raises `ProtocolError` for anything that is no packet of valid frames."""
    try:
        packet = wire_pb2.Packet.FromString(message)
    except DecodeError as error:
        raise ProtocolError(f"not a packet: {error}") from None
    frames: list[Frame] = []
    for wire in packet.frames:
        kind = wire.WhichOneof("kind")
        if kind is None:
            raise ProtocolError("a frame of unknown kind")
        frames.append(_GET[kind](wire))
    return frames
