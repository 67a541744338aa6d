"""Frames survive their codec, and whatever bytes come in, what goes out is frames or `ProtocolError`."""

from __future__ import annotations

import contextlib
import tracemalloc
from typing import get_args

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from wool.limits import MOST_PARTS
from wool.protocol import codec, wire_pb2
from wool.protocol.codec import decode, encode, encode_chunk
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
    Trace,
    Watch,
    Withdraw,
)

numbers = st.integers(0, 2**64 - 1)
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)


@st.composite
def bodies(draw: st.DrawFn, fewest: int = 0) -> Body:
    if draw(st.booleans()):
        return Body(tuple(draw(st.lists(numbers, min_size=max(1, fewest), max_size=6))), b"", True)
    parts = draw(st.lists(st.binary(max_size=20), min_size=fewest, max_size=5))
    if not fewest and len(parts) <= 1:
        return Body((), b"".join(parts))
    return Body(tuple(map(len, parts)), b"".join(parts))


steps = st.booleans().flatmap(
    lambda context: st.builds(
        Step, numbers, st.sampled_from(StepKind), bodies(fewest=2 if context else 0), st.just(context)
    )
)
results = st.booleans().flatmap(
    lambda context: st.builds(
        Result,
        numbers,
        st.sampled_from(ResultKind),
        bodies(fewest=2 if context else 0),
        st.booleans(),
        st.integers(0, 2**32 - 1),
        st.just(context),
    )
)
# As `tests/unit/protocol/test_tracing.py` has them, well-formed.
traces = st.builds(
    "00-{:032x}-{:016x}-{:02x}".format, st.integers(1, 2**128 - 1), st.integers(1, 2**64 - 1), st.integers(0, 255)
).flatmap(lambda parent: st.builds(Trace, st.just(parent), st.sampled_from(["", "vendor=1", "a@b=x y,c=z"])))
offers = st.tuples(st.booleans(), st.booleans()).flatmap(
    lambda carries: st.builds(
        Offer,
        number=numbers,
        task=st.binary(min_size=TASK_BYTES, max_size=TASK_BYTES),
        definition=st.binary(min_size=DIGEST_BYTES, max_size=DIGEST_BYTES),
        defines=st.just(carries[0]),
        body=bodies(fewest=1 + sum(carries) if any(carries) else 0),
        parent=st.sampled_from([b"", bytes(TASK_BYTES)]),
        dispatch_timeout=st.none() | st.floats(allow_nan=False),
        context=st.just(carries[1]),
        trace=st.none() | traces,
    )
)
BY_KIND: dict[type[Frame], st.SearchStrategy[Frame]] = {
    Offer: offers,
    Start: st.builds(Start, numbers),
    Withdraw: st.builds(Withdraw, numbers),
    Cancel: st.builds(Cancel, numbers, st.none() | texts),
    Step: steps,
    Accept: st.builds(Accept, numbers),
    Reject: st.builds(Reject, numbers, st.sampled_from(RejectCode), texts),
    Result: results,
    Draining: st.just(Draining()),
    Chunk: st.builds(Chunk, numbers, st.binary(max_size=50)),
    Credit: st.builds(Credit, numbers),
    Goodbye: st.builds(Goodbye, texts),
    Watch: st.builds(Watch, st.integers(0, 2**32 - 1)),
    Report: st.builds(
        Report,
        numbers,
        st.sampled_from(sorted(REPORTED)),
        numbers,
        st.none() | st.sampled_from(StepKind),
        numbers,
        numbers,
    ),
}
frames = st.one_of(*BY_KIND.values())


def test_every_kind_of_frame_is_tested() -> None:
    assert set(BY_KIND) == set(get_args(Frame))
    kinds = wire_pb2.Frame.DESCRIPTOR.oneofs_by_name["kind"].fields
    runs = {"starts", "accepts", "offers", "returns"}
    assert len({kind.name for kind in kinds} - runs) == len(BY_KIND)


@pytest.mark.parametrize("kind", BY_KIND, ids=lambda kind: kind.__name__)
def test_a_frame_survives_the_wire(kind: type[Frame]) -> None:
    @given(BY_KIND[kind])
    def check(frame: Frame) -> None:
        (found,) = decode(encode([frame]))
        assert (type(found), found) == (kind, frame)

    check()


@given(st.lists(frames, max_size=12))
def test_frames_of_one_message_keep_their_order_and_encoding_is_the_inverse(sent: list[Frame]) -> None:
    message = encode(sent)
    found = decode(message)
    assert list(found) == sent
    assert encode(found) == message


@given(st.binary(max_size=400))
@example(b"")
def test_any_bytes_give_frames_or_a_protocol_error(message: bytes) -> None:
    try:
        found = decode(message)
    except ProtocolError:
        return
    for frame in found:
        assert type(frame) in BY_KIND
    assert decode(encode(found)) == found


@given(st.lists(frames, min_size=1, max_size=4), st.data())
def test_a_message_with_changed_bytes_gives_frames_or_a_protocol_error(sent: list[Frame], data: st.DataObject) -> None:
    message = bytearray(encode(sent))
    for _ in range(data.draw(st.integers(1, 4))):
        message[data.draw(st.integers(0, len(message) - 1))] = data.draw(st.integers(0, 255))
    end = data.draw(st.integers(0, len(message)))
    for changed in (bytes(message), bytes(message[:end])):
        with contextlib.suppress(ProtocolError):
            assert all(type(frame) in BY_KIND for frame in decode(changed))


def wire(**kind: object) -> bytes:
    return wire_pb2.Packet(frames=[wire_pb2.Frame(**kind)]).SerializeToString()  # type: ignore[arg-type]


TASK, DIGEST = bytes(TASK_BYTES), bytes(DIGEST_BYTES)


@pytest.mark.parametrize(
    ("message", "why"),
    [
        (wire(), "unknown kind"),
        (b"\x0a\x04\xfa\x3e\x01x", "unknown kind"),  # a field that a later version may have
        (b"\xff\xff\xff", "not a packet"),
        (wire(goodbye={"reason": "x"}).replace(b"x", b"\xff"), "not a packet"),  # no text
        (wire(offer={"task": TASK[1:], "definition": DIGEST}), "wrong length"),
        (wire(offer={"task": TASK, "definition": DIGEST + b"x"}), "wrong length"),
        (wire(offer={"task": TASK, "definition": DIGEST, "parent": b"x"}), "wrong length"),
        (wire(offer={"task": TASK, "definition": DIGEST, "defines": True, "inline": b"xy"}), "no definition"),
        (
            wire(
                offer={
                    "task": TASK,
                    "definition": DIGEST,
                    "defines": True,
                    "context": True,
                    "sizes": [1, 1],
                    "inline": b"xy",
                }
            ),
            "no definition",
        ),
        (wire(offer={"task": TASK, "definition": DIGEST, "context": True, "inline": b"xy"}), "no part of its own"),
        (wire(step={"kind": 1, "context": True}), "no part of its own"),
        (wire(report={"type": 4}), "unknown report 4"),
        (wire(report={"type": 2, "kind": 9}), "unknown report 2 of step 9"),
        (wire(result={"kind": 2, "context": True, "sizes": [2], "inline": b"xy"}), "no part of its own"),
        (wire(offer={"task": TASK, "definition": DIGEST, "sizes": [1, 2], "inline": b"xy"}), "2 other parts"),
        (wire(offer={"task": TASK, "definition": DIGEST, "chunked": True}), "announces 0 parts"),
        (wire(offer={"task": TASK, "definition": DIGEST, "chunked": True, "sizes": [3], "inline": b"x"}), "1 bytes"),
        (wire(result={"number": 1, "kind": 2, "sizes": [0] * (MOST_PARTS + 1)}), "parts"),
        (wire(result={"number": 1, "kind": 2, "sizes": [1] * (MOST_PARTS + 1), "chunked": True}), "parts"),
        (wire(result={"number": 1}), "unknown result 0"),
        (wire(result={"number": 1, "kind": 99}), "unknown result 99"),
        (wire(step={"number": 1}), "unknown step 0"),
        (wire(step={"number": 1, "kind": 99}), "unknown step 99"),
        (wire(reject={"number": 1}), "unknown reject code 0"),
        (wire(reject={"number": 1, "code": 99}), "unknown reject code 99"),
    ],
)
def test_what_no_peer_may_say_is_a_protocol_error_that_says_why(message: bytes, why: str) -> None:
    with pytest.raises(ProtocolError, match=why):
        decode(message)


def test_a_message_of_many_sizes_does_not_take_many_times_its_own_memory() -> None:
    message = wire(result={"number": 1, "kind": 2, "sizes": [1] * 2_000_000, "chunked": True})
    tracemalloc.start()
    try:
        with pytest.raises(ProtocolError):
            decode(message)
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert most < len(message)


def test_the_bytes_of_a_body_are_those_of_its_parts() -> None:
    assert EMPTY.total == 0
    assert Body((), b"123").total == 3
    assert Body((2, 3), b"12345").total == 5
    assert Body((2, 0, 2**40), b"", True).total == 2**40 + 2


@pytest.mark.parametrize("view", [b"bytes", bytearray(b"bytes"), memoryview(b"xbytes")[1:]])
def test_a_chunk_is_sent_from_any_buffer(view: bytes | bytearray | memoryview) -> None:
    (chunk,) = decode(encode([Chunk(1, memoryview(view))]))
    assert chunk == Chunk(1, b"bytes")


# ---- the short way of large chunks -------------------------------------------------------------------


@given(numbers, st.binary(max_size=300), st.integers(0, 300_000))
def test_a_chunk_by_itself_has_the_same_bytes_as_in_a_packet(number: int, data: bytes, more: int) -> None:
    data += bytes(more)
    chunk = Chunk(number, memoryview(data))
    message = encode_chunk(chunk)
    found = decode(message)
    assert (found[0].number, bytes(found[0].data)) == (number, data)  # type: ignore[union-attr]
    # Fields that hold the default are left out of a packet and may stand in a chunk by itself.
    assert decode(encode([chunk]))[0].number == number  # type: ignore[union-attr]
    if number and data:
        assert message == encode([chunk])


@given(st.integers(1, 2**64 - 1), st.integers(1, 2_000), st.data())
def test_the_short_way_takes_nothing_that_the_long_way_reads_otherwise(
    number: int, size: int, data: st.DataObject
) -> None:
    message = bytearray(encode_chunk(Chunk(number, bytes(size))))
    for _ in range(data.draw(st.integers(0, 3))):
        message[data.draw(st.integers(0, min(40, len(message) - 1)))] = data.draw(st.integers(0, 255))
    end = data.draw(st.integers(max(0, len(message) - 2), len(message)))
    changed = bytes(message[:end])
    short = codec._decode_chunk(changed)
    if short is not None:
        (long,) = wire_pb2.Packet.FromString(changed).frames
        assert long.WhichOneof("kind") == "chunk"
        assert (long.chunk.number, long.chunk.data) == (short.number, bytes(short.data))
