"""Targets: messages, the handshake, payloads in chunks."""

from __future__ import annotations

from google.protobuf.message import DecodeError

from fuzz.choices import SIZES, Choices
from wool.limits import MOST_FRAMES, Limits
from wool.protocol import codec, frames, wire_pb2
from wool.protocol.codec import decode, encode
from wool.protocol.flow import Inbox, Outbox, body_of
from wool.protocol.frames import Chunk, Frame, ProtocolError
from wool.protocol.handshake import (
    NONCE_BYTES,
    CallerHandshake,
    CallerWords,
    HandshakeFailed,
    WorkerHandshake,
    WorkerWords,
    _proof,
)
from wool.serialization import Payload

SECRET = b"s" * 32
NONCE = b"n" * NONCE_BYTES
OTHER_NONCE = b"w" * NONCE_BYTES
SMALL = Limits(
    window_tasks=4,
    window_bytes=1000,
    payload_bytes=100_000,
    definition_bytes=500,
    definitions=2,
    inline_bytes=100,
    chunk_bytes=64,
    credit_bytes=256,
    packet_bytes=400,
    message_bytes=2000,
    text_characters=50,
    cancels=2,
)
"""Limits that an input of some hundred bytes reaches."""


def _same(one: Frame, other: Frame) -> bool:
    # A timeout may be NaN, which is not equal to itself.
    return repr(one) == repr(other) if not isinstance(one, Chunk) else bytes(one.data) == bytes(_chunk(other).data)


def _chunk(frame: Frame) -> Chunk:
    assert isinstance(frame, Chunk)
    return frame


def decoding(data: bytes) -> None:
    """A message gives frames, which say the same again, or `ProtocolError`."""
    try:
        found = decode(data)
    except ProtocolError as error:
        assert len(str(error)) < 500
        return
    assert len(found) <= MOST_FRAMES
    again = decode(encode(found))
    assert len(again) == len(found)
    assert all(map(_same, found, again)), (found, again)


def decoding_chunks(data: bytes) -> None:
    """What is taken apart without protobuf is what protobuf makes of it."""
    chunk = codec._decode_chunk(data)
    if chunk is None:
        return
    try:
        packet = wire_pb2.Packet.FromString(data)
    except DecodeError:
        raise AssertionError(f"taken for a chunk, and no packet: {data!r:.100}") from None
    (frame,) = packet.frames
    assert (frame.chunk.number, frame.chunk.data) == (chunk.number, bytes(chunk.data))


def encoding(data: bytes) -> None:
    """What is packed is unpacked the same, if it may be said at all."""
    choices = Choices(data)
    said: list[Frame] = []
    while choices and len(said) < 50:
        frame = choices.frame()
        if getattr(frame, "context", False) and len(getattr(frame, "body", frames.EMPTY).sizes) < 2:
            return  # a context has a part of its own
        said.append(frame)
    try:
        packed = encode(said)
    except ValueError:  # a number or size beyond 64 bits
        return
    try:
        heard = decode(packed)
    except ProtocolError:
        return
    assert len(heard) == len(said)
    assert all(map(_same, said, heard)), (said, heard)


def _words(choices: Choices) -> bytes:
    """Honest words of either side, or any bytes."""
    kind = choices.below(4)
    if kind == 0:
        return choices.rest()
    if kind == 1:
        return wire_pb2.CallerInfo(
            protocol=choices.below(3),
            python=choices.one_of(("", "3.11", "3.12", "3.13", "2.7", "9" * 1000)),
            uid=choices.one_of(("", "caller", "c" * 1000)),
            pool=choices.some_bytes(),
            payload_bytes=choices.one_of(SIZES),
            credit_bytes=choices.one_of(SIZES),
            expects=choices.one_of(("", "a", "b")),
        ).SerializeToString()
    return wire_pb2.WorkerInfo(
        protocol=choices.below(3),
        python=choices.one_of(("", "3.11", "3.12", "3.13", "2.7", "9" * 1000)),
        session=choices.some_bytes(),
        metadata=choices.some_bytes(),
        window_tasks=choices.one_of((0, 1, 2**32 - 1)),
        window_bytes=choices.one_of(SIZES),
        payload_bytes=choices.one_of(SIZES),
        credit_bytes=choices.one_of(SIZES),
    ).SerializeToString()


def _handshake_message(choices: Choices) -> tuple[bytes, bool]:
    """Return a message, and whether it carries a proof that is right."""
    kind = choices.below(7)
    if kind == 0:
        return choices.some_bytes(), False
    if kind == 1:
        hello = wire_pb2.Hello(nonce=choices.one_of((NONCE, b"", b"n" * 31)))
        return wire_pb2.Handshake(hello=hello).SerializeToString(), False
    if kind == 2:
        refusal = wire_pb2.Refusal(reason="r" * (choices.byte() * 20), permanent=choices.flag())
        return wire_pb2.Handshake(refusal=refusal).SerializeToString(), False
    if kind == 3:
        return wire_pb2.Handshake(welcome=wire_pb2.Welcome()).SerializeToString(), False
    knows, body = choices.flag(), _words(choices)
    secret = SECRET if knows else b"x" * 32
    if kind == 4:
        proof = _proof(secret, b"caller", NONCE, OTHER_NONCE, body)
        return wire_pb2.Handshake(response=wire_pb2.Response(body=body, proof=proof)).SerializeToString(), knows
    proof = _proof(secret, b"worker", NONCE, OTHER_NONCE, body)
    if kind == 5:
        proof = proof[: choices.below(40)]
    challenge = wire_pb2.Challenge(nonce=OTHER_NONCE, body=body, proof=proof)
    return wire_pb2.Handshake(challenge=challenge).SerializeToString(), knows


def handshake_of_caller(data: bytes) -> None:
    """Whatever a worker says: an answer, an end, or `HandshakeFailed`; nobody is a peer without the proof."""
    choices = Choices(data)
    words = CallerWords(uid="c", pool=b"p", payload_bytes=1, credit_bytes=1)
    handshake = CallerHandshake(secret=SECRET, nonce=NONCE, words=words)
    proven = False
    while choices and not handshake.done:
        message, right = _handshake_message(choices)
        proven = proven or right
        try:
            handshake.receive(message)
        except HandshakeFailed as failure:
            assert len(str(failure)) < 2000
            assert proven or handshake.peer is None
            return
        assert proven or handshake.peer is None
    assert not handshake.done or handshake.peer is not None


def handshake_of_worker(data: bytes) -> None:
    """Whatever a caller says: an answer, or `HandshakeFailed`; nobody is a peer without the proof."""
    choices = Choices(data)
    words = WorkerWords(session=b"s", metadata=b"m", window_tasks=1, window_bytes=1, payload_bytes=1, credit_bytes=1)
    asked: list[CallerWords] = []

    def admit(caller: CallerWords) -> str | None:
        asked.append(caller)
        return "not expected" if caller.expects == "b" else None

    handshake = WorkerHandshake(secret=SECRET, nonce=OTHER_NONCE, words=words, admit=admit)
    proven = False
    while choices and handshake.peer is None:
        message, right = _handshake_message(choices)
        proven = proven or right
        try:
            answer = handshake.receive(message)
        except HandshakeFailed as failure:
            assert proven or not asked
            assert len(handshake.refusal(failure)) < 2000
            return
        assert answer
        assert proven or not (asked or handshake.peer)


def flow(data: bytes) -> None:
    """Chunks of any size and order give payloads as announced, or `ProtocolError`; credit is never exceeded."""
    choices = Choices(data)
    inbox, outbox = Inbox(64), Outbox(SMALL, choices.one_of((1, 2, 64, 128, 256)))
    owed = 0
    number = 0
    while choices:
        what = choices.below(6)
        try:
            if what == 0:
                frame_body = choices.body()
                if sum(frame_body.sizes) > SMALL.payload_bytes:
                    continue  # refused by whoever drives the inbox
                whole = inbox.open(choices.number(), frame_body)
                assert whole is None or whole.size == frame_body.total
            elif what == 1:
                chunk = Chunk(choices.number(), choices.some_bytes())
                whole = inbox.chunk(chunk)
                assert whole is None or whole.size <= SMALL.payload_bytes
            elif what == 2:
                inbox.forget(choices.number())
                outbox.drop(choices.number())
            elif what == 3:
                number += 1
                payload = Payload(tuple(bytes(choices.byte()) for _ in range(1 + choices.below(4))))
                body = body_of(payload, SMALL)
                outbox.say(frames.Step(number, frames.StepKind.SEND, body), payload)
            elif what == 4:
                for frame in outbox.take():
                    if isinstance(frame, Chunk):
                        owed += len(frame.data)
                assert owed <= outbox._whole_credit
            else:
                size = choices.one_of((0, 1, 64, 2**62, owed, owed))
                outbox.acknowledge(size)
                owed -= size
                assert owed >= 0
        except ProtocolError as error:
            assert len(str(error)) < 500
            return
        inbox.credit()
