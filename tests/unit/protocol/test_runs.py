"""Frames of one kind that follow one another travel in columns, and mean what the single ones mean."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wool.limits import MOST_FRAMES
from wool.protocol import wire_pb2
from wool.protocol.codec import decode, encode
from wool.protocol.frames import (
    EMPTY,
    Accept,
    Body,
    Frame,
    Offer,
    ProtocolError,
    Result,
    ResultKind,
    Start,
    Trace,
    Withdraw,
)

numbers = st.integers(0, 2**64 - 1)
bodies = st.binary(max_size=20).map(lambda inline: Body((), inline) if inline else EMPTY)
digests = st.sampled_from([b"a" * 16, b"b" * 16])
parents = st.sampled_from([b"", b"p" * 16, b"q" * 16])
offers = st.builds(
    Offer,
    numbers,
    st.binary(min_size=16, max_size=16),
    digests,
    st.just(False),
    bodies,
    parents,
    st.none() | st.just(2.5),
    st.just(False),
    st.sampled_from([None, Trace("00-" + "a" * 32 + "-" + "b" * 16 + "-01", "vendor=1")]),
)
kinds = st.sampled_from([ResultKind.RETURN, ResultKind.YIELD])
# Context variables are a part of their own, which no run has room for.
in_parts = st.builds(Result, numbers, kinds, st.just(Body((1, 2), b"cvv")), st.just(False), st.just(0), st.booleans())
results = in_parts | st.builds(Result, numbers, kinds, bodies, st.booleans(), st.integers(0, 2), st.just(False))
mixed: st.SearchStrategy[Frame] = st.one_of(
    st.builds(Start, numbers), st.builds(Accept, numbers), offers, results, st.builds(Withdraw, numbers)
)


@given(st.lists(st.tuples(mixed, st.integers(1, 5)), max_size=12))
def test_runs_and_single_frames_keep_their_order(sent: list[tuple[Frame, int]]) -> None:
    frames = [frame for frame, times in sent for _ in range(times)]
    assert list(decode(encode(frames))) == frames


@pytest.mark.parametrize(
    "frame",
    [
        Start(7),
        Accept(7),
        Offer(7, b"t" * 16, b"d" * 16, False, Body((), b"arguments")),
        Offer(7, b"t" * 16, b"d" * 16, False, Body((), b"arguments"), b"p" * 16),
        Result(7, ResultKind.RETURN, Body((), b"value")),
    ],
    ids=lambda frame: type(frame).__name__,
)
def test_a_run_is_one_frame_on_the_wire(frame: Frame) -> None:
    packet = wire_pb2.Packet.FromString(encode([frame] * 100))
    assert len(packet.frames) == 1


OFFERS = {"numbers": [1, 2], "definition": b"d" * 16, "tasks": b"t" * 32, "inline": [b"", b"x"]}


@pytest.mark.parametrize(
    "columns",
    [
        {**OFFERS, "tasks": b"t" * 31},
        {**OFFERS, "parents": b"p" * 16},
        {**OFFERS, "definition": b"d"},
        {**OFFERS, "inline": [b""]},
        {**OFFERS, "numbers": [1]},
    ],
)
def test_offers_whose_columns_differ_in_length_break_the_protocol(columns: dict[str, object]) -> None:
    message = wire_pb2.Packet(frames=[wire_pb2.Frame(offers=wire_pb2.Offers(**columns))]).SerializeToString()  # type: ignore[arg-type]
    with pytest.raises(ProtocolError, match="columns of other lengths"):
        decode(message)


def test_results_whose_columns_differ_in_length_break_the_protocol() -> None:
    returns = wire_pb2.Returns(numbers=[1, 2], inline=[b""])
    with pytest.raises(ProtocolError, match="columns of other lengths"):
        decode(wire_pb2.Packet(frames=[wire_pb2.Frame(returns=returns)]).SerializeToString())


@pytest.mark.parametrize("columns", ["starts", "accepts"])
def test_a_run_longer_than_the_limit_breaks_the_protocol(columns: str) -> None:
    run = wire_pb2.Numbers(numbers=[1] * (MOST_FRAMES + 1))
    message = wire_pb2.Packet(frames=[wire_pb2.Frame(**{columns: run})]).SerializeToString()  # type: ignore[arg-type]
    with pytest.raises(ProtocolError, match=f"the limit is {MOST_FRAMES}"):
        decode(message)


def test_a_message_of_more_frames_than_the_limit_breaks_the_protocol() -> None:
    frames = [wire_pb2.Frame(withdraw=1)] * (MOST_FRAMES + 1)
    with pytest.raises(ProtocolError, match=f"more than {MOST_FRAMES} frames"):
        decode(wire_pb2.Packet(frames=frames).SerializeToString())
