"""What a peer says of a trace is well-formed by the recommendation, or it is nothing; its offer is taken anyway."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wool.limits import MOST_TRACE_MEMBERS, MOST_TRACE_STATE_BYTES
from wool.protocol import wire_pb2
from wool.protocol.codec import decode, encode
from wool.protocol.frames import EMPTY, Offer, Trace
from wool.protocol.tracing import checked

PARENT = b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
OFFER = Offer(1, b"t" * 16, b"d" * 16, False, EMPTY)


def received(parent: bytes, state: bytes = b"") -> Offer:
    packet = wire_pb2.Packet.FromString(encode([OFFER]))
    packet.frames[0].offer.trace.parent = parent
    packet.frames[0].offer.trace.state = state
    (offer,) = decode(packet.SerializeToString())
    assert isinstance(offer, Offer)
    return offer


MALFORMED = {
    "empty": b"",
    "short": PARENT[:-1],
    "long": PARENT + b"0",
    "more-after-it": PARENT + b"-00",
    "newline": PARENT + b"\n",
    "upper-case": PARENT.upper(),
    "no-trace": b"00-" + b"0" * 32 + PARENT[35:],
    "no-span": PARENT[:36] + b"0" * 16 + b"-01",
    "forbidden-version": b"ff" + PARENT[2:],
    "unknown-version": b"01" + PARENT[2:],
    "no-text": b"\xff\xfe" * 27,
    "huge": b"0" * 100_000,
}


@pytest.mark.parametrize("parent", MALFORMED.values(), ids=MALFORMED.keys())
def test_a_malformed_traceparent_is_ignored_and_the_offer_is_taken(parent: bytes) -> None:
    assert received(parent, b"vendor=1") == OFFER


STATES = {
    "no-value": b"vendor",
    "no-key": b"=1",
    "key-upper-case": b"Vendor=1",
    "twice": b"a=1,b=2,a=3",
    "no-text": b"a=\xff",
    "control": b"a=1\r\nx: y",
    "empty-member": b"a=1,,b=2",
    "ends-in-space": b"a= ",
    "equals-in-value": b"a=b=c",
    "too-many": b",".join(b"k%d=v" % number for number in range(MOST_TRACE_MEMBERS + 1)),
    "too-long": b"a=" + b"v" * 200 + b",b=" + b"v" * 200 + b",c=" + b"v" * (MOST_TRACE_STATE_BYTES - 400),
}


@pytest.mark.parametrize("state", STATES.values(), ids=STATES.keys())
def test_a_malformed_tracestate_is_left_out_and_the_parent_is_kept(state: bytes) -> None:
    assert received(PARENT, state).trace == Trace(PARENT.decode())


@pytest.mark.parametrize(
    "state",
    [
        b"vendor=1",
        b"congo=t61rcWkgMzE,rojo=00f067aa0ba902b7",
        b"tenant1@vendor=a b, x/y-z_*=!",
        b",".join(b"k%d=v" % number for number in range(MOST_TRACE_MEMBERS)),
        b"a=" + b"v" * 256,
    ],
)
def test_what_is_well_formed_is_taken_as_it_is(state: bytes) -> None:
    assert received(PARENT, state).trace == Trace(PARENT.decode(), state.decode())


def test_an_offer_of_a_caller_that_knows_no_traces_has_none() -> None:
    message = encode([OFFER])
    assert b"00-" not in message and list(decode(message)) == [OFFER]


def test_a_worker_that_knows_no_traces_reads_the_offer_without_it() -> None:
    traced = wire_pb2.Packet.FromString(encode([OFFER._replace(trace=Trace(PARENT.decode(), "a=1"))]))
    offer = traced.frames[0].offer
    # To it field 11 is one that it does not know, which it passes over.
    assert "trace" in {field.name for field, _ in offer.ListFields()}
    offer.ClearField("trace")
    assert list(decode(traced.SerializeToString())) == [OFFER]


def test_an_offer_with_a_field_of_the_future_is_taken() -> None:
    offer = wire_pb2.Packet.FromString(encode([OFFER])).frames[0].offer.SerializeToString()
    offer += b"\xfa\x01\x03new"  # field 31
    frame = b"\x0a" + bytes([len(offer)]) + offer
    assert list(decode(b"\x0a" + bytes([len(frame)]) + frame)) == [OFFER]


@given(st.binary(max_size=80) | st.just(PARENT), st.binary(max_size=600))
def test_whatever_is_said_is_checked_in_bounded_time_and_comes_out_as_text_that_is_taken_again(
    parent: bytes, state: bytes
) -> None:
    trace = checked(parent, state)
    if trace is not None:
        assert checked(trace.parent.encode(), trace.state.encode()) == trace
        assert trace.parent.isascii() and trace.parent.isprintable() and trace.state.isprintable()
