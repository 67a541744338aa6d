"""Frames to bytes and back.

`encode` packs frames into one message, `decode` takes a message apart and validates what the peer said:
any bytes give frames or `ProtocolError`, in bounded memory and time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from google.protobuf.message import DecodeError

from wool.limits import MOST_FRAMES, MOST_PARTS
from wool.protocol import wire_pb2
from wool.protocol.frames import (
    DIGEST_BYTES,
    EMPTY,
    REPORTED,
    TASK_BYTES,
    Accept,
    Body,
    Cancel,
    Chunk,
    Credit,
    Draining,
    Frame,
    Goodbye,
    Offer,
    ProtocolError,
    Reject,
    RejectCode,
    Report,
    Result,
    ResultKind,
    Start,
    Step,
    StepKind,
    Watch,
    Withdraw,
)
from wool.protocol.tracing import checked

LONG_MESSAGE_BYTES = 4096
"""From this size a message is looked at first as one chunk: below, copying costs less than looking."""


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
    if frame.context:
        offer.context = True
    if frame.trace is not None:
        offer.trace.parent = frame.trace.parent.encode("ascii")
        if frame.trace.state:
            offer.trace.state = frame.trace.state.encode("ascii")
    if frame.waits:
        offer.waits = True


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
    if frame.context:
        step.context = True


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
    if frame.cancels:
        result.cancels = frame.cancels
    if frame.context:
        result.context = True


def _put_draining(wire: wire_pb2.Frame, frame: Draining) -> None:
    wire.draining.SetInParent()


def _put_chunk(wire: wire_pb2.Frame, frame: Chunk) -> None:
    wire.chunk.number = frame.number
    wire.chunk.data = bytes(frame.data)


def _put_credit(wire: wire_pb2.Frame, frame: Credit) -> None:
    wire.credit = frame.size


def _put_goodbye(wire: wire_pb2.Frame, frame: Goodbye) -> None:
    wire.goodbye.reason = frame.reason


def _put_watch(wire: wire_pb2.Frame, frame: Watch) -> None:
    wire.watch = frame.types


def _put_report(wire: wire_pb2.Frame, frame: Report) -> None:
    report = wire.report
    report.number = frame.number
    report.type = frame.type  # type: ignore[assignment]
    report.timestamp = frame.timestamp
    if frame.kind is not None:
        report.kind = int(frame.kind)  # type: ignore[assignment]
    report.step = frame.step
    report.missed = frame.missed


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
    Watch: _put_watch,
    Report: _put_report,
}


# Frames of one kind that follow one another go in columns: nearly all traffic is such runs, and a message
# object per frame is most of what a frame costs.


def _is_plain(frame: Frame) -> bool:
    """Whether ``frame`` may be part of a run."""
    if isinstance(frame, Offer):
        body = frame.body
        return not (
            frame.defines
            or frame.waits
            or body.sizes
            or body.chunked
            or frame.trace is not None
            or frame.dispatch_timeout is not None
        )
    if isinstance(frame, Result):
        body = frame.body
        return frame.kind is ResultKind.RETURN and not (body.sizes or body.chunked or frame.echo or frame.cancels)
    return isinstance(frame, (Start, Accept))


def _continues(first: Frame, frame: Frame) -> bool:
    """Whether ``frame`` belongs to the run that a plain ``first`` has begun."""
    if type(frame) is not type(first) or not _is_plain(frame):
        return False
    if isinstance(first, Offer) and isinstance(frame, Offer):
        return frame.definition == first.definition and bool(frame.parent) == bool(first.parent)
    return True


def _put_run(wire: wire_pb2.Frame, run: Sequence[Any]) -> None:
    numbers = [frame.number for frame in run]
    first = run[0]
    if isinstance(first, Start):
        wire.starts.numbers.extend(numbers)
    elif isinstance(first, Accept):
        wire.accepts.numbers.extend(numbers)
    elif isinstance(first, Offer):
        offers = wire.offers
        offers.numbers.extend(numbers)
        offers.definition = first.definition
        offers.tasks = b"".join([frame.task for frame in run])
        offers.parents = b"".join([frame.parent for frame in run])
        offers.inline.extend([frame.body.inline for frame in run])
    else:
        wire.returns.numbers.extend(numbers)
        wire.returns.inline.extend([frame.body.inline for frame in run])


def encode(frames: Iterable[Frame]) -> bytes:
    """Pack ``frames`` into one message, in order."""
    packet = wire_pb2.Packet()
    add = packet.frames.add
    run: list[Frame] = []
    for frame in frames:
        if run and _continues(run[0], frame):
            run.append(frame)
            continue
        if run:
            _put_run_or_one(add(), run)
        if _is_plain(frame):
            run = [frame]
        else:
            run = []
            _PUT[type(frame)](add(), frame)
    if run:
        _put_run_or_one(add(), run)
    return packet.SerializeToString()


def _put_run_or_one(wire: wire_pb2.Frame, run: list[Frame]) -> None:
    if len(run) > 1:
        _put_run(wire, run)
    else:
        _PUT[type(run[0])](wire, run[0])


def encode_chunk(chunk: Chunk) -> bytes:
    """Pack one chunk: the same bytes as `encode` makes, with one copy of the data instead of three."""
    data = chunk.data
    inner = _varint(_NUMBER, chunk.number) + _varint(_DATA, len(data))
    middle = _varint(_CHUNK, len(inner) + len(data))
    outer = _varint(_FRAME, len(middle) + len(inner) + len(data))
    return b"".join((outer, middle, inner, data))


# Tags of the fields on the way to a chunk's data, each a single byte: number and wire type.
_FRAME = wire_pb2.Packet.FRAMES_FIELD_NUMBER << 3 | 2
_CHUNK = wire_pb2.Frame.CHUNK_FIELD_NUMBER << 3 | 2
_NUMBER = wire_pb2.Chunk.NUMBER_FIELD_NUMBER << 3
_DATA = wire_pb2.Chunk.DATA_FIELD_NUMBER << 3 | 2


def _varint(tag: int, value: int) -> bytes:
    octets = bytearray((tag,))
    while value > 0x7F:
        octets.append(value & 0x7F | 0x80)
        value >>= 7
    octets.append(value)
    return bytes(octets)


def _read_varint(message: bytes, at: int, tag: int) -> tuple[int, int] | None:
    """Return the value of the field at ``at``, and where it ends; None if it is not ``tag``'s."""
    if at >= len(message) or message[at] != tag:
        return None
    value = shift = 0
    for index in range(at + 1, min(at + 11, len(message))):
        octet = message[index]
        value |= (octet & 0x7F) << shift
        if octet < 0x80:
            return value, index + 1
        shift += 7
    return None


def _decode_chunk(message: bytes) -> Chunk | None:
    """Take apart a message that is exactly one chunk as `encode_chunk` packs it, without copying its data."""
    end = len(message)
    if (frame := _read_varint(message, 0, _FRAME)) is None or frame[1] + frame[0] != end:
        return None
    if (chunk := _read_varint(message, frame[1], _CHUNK)) is None or chunk[1] + chunk[0] != end:
        return None
    if (number := _read_varint(message, chunk[1], _NUMBER)) is None or number[0] > _MOST_NUMBER:
        return None
    if (data := _read_varint(message, number[1], _DATA)) is None or data[1] + data[0] != end:
        return None
    return Chunk(number[0], memoryview(message)[data[1] :])


_MOST_NUMBER = 2**64 - 1


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


def _get_context(context: bool, body: Body) -> bool:
    if context and len(body.sizes) < 2:
        raise ProtocolError("a payload with context variables has no part of its own for them")
    return context


def _get_offer(wire: wire_pb2.Frame) -> Frame:
    offer = wire.offer
    task, definition, parent = offer.task, offer.definition, offer.parent
    if len(task) != TASK_BYTES or len(definition) != DIGEST_BYTES or len(parent) not in (0, TASK_BYTES):
        raise ProtocolError("an offer's task, definition or parent has the wrong length")
    timeout = offer.dispatch_timeout if offer.HasField("dispatch_timeout") else None
    body = _get_body(offer)
    if offer.defines and len(body.sizes) < 2 + offer.context:
        raise ProtocolError("an offer that defines has no definition in its payload")
    context = _get_context(offer.context, body)
    trace = checked(offer.trace.parent, offer.trace.state) if offer.HasField("trace") else None
    return Offer(offer.number, task, definition, offer.defines, body, parent, timeout, context, trace, offer.waits)


def _get_cancel(wire: wire_pb2.Frame) -> Frame:
    cancel = wire.cancel
    return Cancel(cancel.number, cancel.message if cancel.HasField("message") else None)


def _get_step(wire: wire_pb2.Frame) -> Frame:
    step = wire.step
    try:
        kind = StepKind(step.kind)
    except ValueError:
        raise ProtocolError(f"unknown step {step.kind}") from None
    body = _get_body(step)
    return Step(step.number, kind, body, _get_context(step.context, body))


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
    body = _get_body(result)
    if not result.context:
        return Result(result.number, kind, body, result.echo, result.cancels)
    return Result(result.number, kind, body, result.echo, result.cancels, _get_context(True, body))


_STEP_KINDS: dict[int, StepKind | None] = {0: None, **{int(kind): kind for kind in StepKind}}


def _get_report(wire: wire_pb2.Frame) -> Frame:
    report = wire.report
    if report.type not in REPORTED or report.kind not in _STEP_KINDS:
        raise ProtocolError(f"unknown report {report.type} of step {report.kind}")
    kind = _STEP_KINDS[report.kind]
    return Report(report.number, int(report.type), report.timestamp, kind, report.step, report.missed)


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
    "watch": lambda wire: Watch(wire.watch),
    "report": _get_report,
}


def _get_numbers(wire: wire_pb2.Numbers) -> list[int]:
    numbers = list(wire.numbers)
    if len(numbers) > MOST_FRAMES:
        raise ProtocolError(f"a run of {len(numbers)} frames, the limit is {MOST_FRAMES}")
    return numbers


def _get_offers(offers: wire_pb2.Offers) -> list[Frame]:
    numbers, inline = list(offers.numbers), list(offers.inline)
    tasks, parents, definition = offers.tasks, offers.parents, offers.definition
    count = len(numbers)
    if (
        count > MOST_FRAMES
        or len(inline) != count
        or len(tasks) != TASK_BYTES * count
        or len(parents) not in (0, TASK_BYTES * count)
        or len(definition) != DIGEST_BYTES
    ):
        raise ProtocolError(f"a run of {count} offers has columns of other lengths")
    cuts = range(0, TASK_BYTES * count, TASK_BYTES)
    each_task = [tasks[cut : cut + TASK_BYTES] for cut in cuts]
    each_parent = [parents[cut : cut + TASK_BYTES] for cut in cuts] if parents else [b""] * count
    return [
        Offer(number, task, definition, False, Body((), part) if part else EMPTY, parent)
        for number, task, part, parent in zip(numbers, each_task, inline, each_parent, strict=True)
    ]


def _get_returns(returns: wire_pb2.Returns) -> list[Frame]:
    numbers, inline = list(returns.numbers), list(returns.inline)
    if len(numbers) > MOST_FRAMES or len(inline) != len(numbers):
        raise ProtocolError(f"a run of {len(numbers)} results has columns of other lengths")
    kind = ResultKind.RETURN
    return [
        Result(number, kind, Body((), part) if part else EMPTY) for number, part in zip(numbers, inline, strict=True)
    ]


_GET_RUN: dict[str, Callable[[wire_pb2.Frame], Sequence[Frame]]] = {
    "starts": lambda wire: [Start(number) for number in _get_numbers(wire.starts)],
    "accepts": lambda wire: [Accept(number) for number in _get_numbers(wire.accepts)],
    "offers": lambda wire: _get_offers(wire.offers),
    "returns": lambda wire: _get_returns(wire.returns),
}


def decode(message: bytes) -> Sequence[Frame]:
    """Take a message apart. Raises `ProtocolError` for anything that is no packet of valid frames."""
    if len(message) >= LONG_MESSAGE_BYTES and (chunk := _decode_chunk(message)) is not None:
        return (chunk,)
    try:
        packet = wire_pb2.Packet.FromString(message)
    except DecodeError as error:
        raise ProtocolError(f"not a packet: {error}") from None
    frames: list[Frame] = []
    for wire in packet.frames:
        kind = wire.WhichOneof("kind")
        if kind is None:
            raise ProtocolError("a frame of unknown kind")
        if (get_run := _GET_RUN.get(kind)) is not None:
            frames.extend(get_run(wire))
        else:
            frames.append(_GET[kind](wire))
        if len(frames) > MOST_FRAMES:
            raise ProtocolError(f"a message of more than {MOST_FRAMES} frames")
    return frames
