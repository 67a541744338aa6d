"""What leaves in which order, what is bounded, and that payloads arrive whole whatever is between them."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Iterable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from wool.limits import Limits
from wool.protocol.codec import decode, encode
from wool.protocol.flow import Inbox, Outbox, body_of, with_context
from wool.protocol.frames import (
    EMPTY,
    Accept,
    Body,
    Cancel,
    Chunk,
    Credit,
    Frame,
    Goodbye,
    Offer,
    ProtocolError,
    Result,
    ResultKind,
    Start,
)
from wool.serialization import Part, Payload

SMALL = Limits(inline_bytes=8, chunk_bytes=10, credit_bytes=40, packet_bytes=200)


def result(number: int, payload: Payload, limits: Limits = SMALL) -> Result:
    return Result(number, ResultKind.RETURN, body_of(payload, limits))


def joined(payload: Payload) -> list[bytes]:
    return [b"".join(part) if isinstance(part, list) else bytes(part) for part in payload.parts]


def say_large(outbox: Outbox, number: int, size: int) -> None:
    payload = Payload((bytes(size),))
    outbox.say(result(number, payload), payload)


def chunks(frames: Iterable[Frame]) -> list[tuple[int, int]]:
    return [(frame.number, len(frame.data)) for frame in frames if isinstance(frame, Chunk)]


# ---- how a payload travels ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("parts", "body"),
    [
        ((b"",), EMPTY),
        ((b"12345678",), Body((), b"12345678")),
        ((b"123456789",), Body((9,), b"", True)),
        ((b"123", b"45678"), Body((3, 5), b"12345678")),
        ((b"123", b"", b"45678"), Body((3, 0, 5), b"12345678")),
        ((b"123", b"456789"), Body((3, 6), b"", True)),
        ((b"", b""), Body((0, 0), b"")),
        ((memoryview(b"123"),), Body((3,), b"123")),
        (([b"12", b"3"], b"4"), Body((3, 1), b"1234")),
    ],
)
def test_a_payload_travels_inline_up_to_the_limit_and_announced_beyond(parts: tuple[Part, ...], body: Body) -> None:
    assert body_of(Payload(parts), SMALL) == body


LIMITS = Limits()


def test_a_byte_more_than_travels_inline_is_announced_and_travels_in_chunks() -> None:
    fits, exceeds = (Payload((bytes(size),)) for size in (LIMITS.inline_bytes, LIMITS.inline_bytes + 1))
    assert (body_of(fits, LIMITS).chunked, body_of(exceeds, LIMITS).chunked) == (False, True)
    outbox = Outbox(LIMITS, LIMITS.credit_bytes)
    outbox.say(result(1, exceeds, LIMITS), exceeds)
    head, chunk = outbox.take()
    assert isinstance(head, Result)
    assert not head.body.inline
    assert chunks([chunk]) == [(1, LIMITS.inline_bytes + 1)]


def test_a_byte_more_than_a_chunk_holds_is_a_second_chunk() -> None:
    for more, sizes in ((0, [LIMITS.chunk_bytes]), (1, [LIMITS.chunk_bytes, 1])):
        outbox = Outbox(LIMITS, LIMITS.credit_bytes)
        payload = Payload((bytes(LIMITS.chunk_bytes + more),))
        outbox.say(result(1, payload, LIMITS), payload)
        sent: list[tuple[int, int]] = []
        while outbox:
            sent += chunks(outbox.take())
        assert [size for _, size in sent] == sizes


def test_more_than_a_packet_holds_leaves_in_several_messages_of_about_its_size() -> None:
    outbox = Outbox(LIMITS, LIMITS.credit_bytes)
    payload = Payload((bytes(LIMITS.inline_bytes),))
    made = 4 * LIMITS.packet_bytes // LIMITS.inline_bytes
    for number in range(made):
        outbox.say(result(number, payload, LIMITS), payload)
    messages: list[list[Frame]] = []
    while outbox:
        messages.append(outbox.take())
    assert [frame.number for each in messages for frame in each if isinstance(frame, Result)] == list(range(made))
    assert len(messages) >= 4
    for each in messages:
        assert len(encode(each)) <= LIMITS.packet_bytes + LIMITS.inline_bytes


# ---- leaving -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [(b"",), (b"ab",), (b"abc", b"", b"d")])
@pytest.mark.parametrize("context", [b"c", b"more than fits inline"])
def test_context_variables_travel_before_the_value_and_are_taken_apart_again(
    value: tuple[Part, ...], context: bytes
) -> None:
    payload = Payload(value, context)
    body = body_of(payload, SMALL)
    assert body.total == payload.size == len(context) + sum(map(len, value))
    outbox, inbox = Outbox(SMALL, SMALL.credit_bytes), Inbox()
    outbox.say(Result(1, ResultKind.RETURN, body, context=True), payload)
    arrived: Payload | None = None
    while arrived is None:
        for frame in decode(encode(outbox.take())):
            arrived = inbox.chunk(frame) if isinstance(frame, Chunk) else inbox.open(1, body)
    assert with_context(arrived) == payload


def test_control_frames_overtake_chunks() -> None:
    outbox = Outbox(SMALL, 1000)
    say_large(outbox, 1, 35)
    assert chunks(outbox.take()) == [(1, 10)]
    outbox.say(Start(7))
    outbox.say(Accept(8))
    first, second, chunk = outbox.take()
    assert (first, second, chunks([chunk])) == (Start(7), Accept(8), [(1, 10)])
    assert chunks(outbox.take()) == [(1, 10)]
    assert chunks(outbox.take()) == [(1, 5)]
    assert not outbox


def test_a_start_leaves_while_no_credit_is_left_for_chunks() -> None:
    outbox = Outbox(SMALL, 10)
    say_large(outbox, 1, 35)
    while outbox:
        outbox.take()
    outbox.say(Start(7))
    assert outbox
    assert outbox.take() == [Start(7)]


def test_large_payloads_take_turns() -> None:
    outbox = Outbox(SMALL, 1000)
    for number in (1, 2, 3):
        say_large(outbox, number, 20)
    sent: list[tuple[int, int]] = []
    while outbox:
        sent += chunks(outbox.take())
    assert sent == [(1, 10), (2, 10), (3, 10), (1, 10), (2, 10), (3, 10)]


def test_control_frames_are_packed_up_to_the_size_of_a_packet() -> None:
    outbox = Outbox(SMALL, 1000)
    for number in range(100):
        outbox.say(Accept(number))
    sent: list[Frame] = []
    while outbox:
        packet = outbox.take()
        assert 1 < len(packet) < 20
        sent += packet
    assert sent == [Accept(number) for number in range(100)]


def test_many_heads_of_many_parts_do_not_make_a_message_that_nobody_reads() -> None:
    limits = Limits()
    outbox = Outbox(limits, 1)
    many = Payload((b"x",) * 4096)
    for number in range(300):
        body = Body((2**63,) * 4096, b"", True)
        outbox.say(Result(number, ResultKind.RETURN, body), many)
    while outbox:
        assert len(encode(outbox.take())) <= limits.message_bytes


def test_many_cancels_with_long_words_do_not_make_a_message_that_nobody_reads() -> None:
    limits = Limits()
    outbox = Outbox(limits, 1)
    words = "\N{SNOWMAN}" * limits.text_characters
    for number in range(300):
        outbox.say(Cancel(number, words))
    sent: list[Frame] = []
    while outbox:
        packet = outbox.take()
        assert len(encode(packet)) <= limits.message_bytes
        sent += packet
    assert [frame.number for frame in sent if isinstance(frame, Cancel)] == list(range(300))


def test_credit_bounds_unacknowledged_bytes_exactly() -> None:
    outbox = Outbox(SMALL, 25)
    say_large(outbox, 1, 100)
    sent = chunks(outbox.take()) + chunks(outbox.take())
    assert sent == [(1, 10), (1, 10)]
    assert not outbox  # Five bytes are left: not enough for a chunk.
    outbox.acknowledge(4)
    assert not outbox
    outbox.acknowledge(1)
    assert outbox
    assert chunks(outbox.take()) == [(1, 10)]
    assert outbox.progress == 30


def test_a_credit_smaller_than_a_chunk_slows_a_payload_down_but_does_not_stop_it() -> None:
    outbox = Outbox(SMALL, 3)
    say_large(outbox, 1, 11)
    sent = 0
    while outbox:
        (_, size) = chunks(outbox.take())[0]
        assert 0 < size <= 3
        sent += size
        outbox.acknowledge(size)
    assert sent == 11


def test_a_peer_that_acknowledges_more_than_it_was_sent_breaks_the_protocol() -> None:
    outbox = Outbox(SMALL, 40)
    say_large(outbox, 1, 20)
    outbox.take()
    outbox.acknowledge(10)
    with pytest.raises(ProtocolError, match="acknowledge"):
        outbox.acknowledge(1)


def test_what_is_dropped_in_mid_transfer_sends_no_more_and_holds_up_nobody() -> None:
    outbox = Outbox(SMALL, 1000)
    say_large(outbox, 1, 50)
    say_large(outbox, 2, 20)
    outbox.take()
    assert outbox.sending(1)
    outbox.drop(1)
    assert not outbox.sending(1)
    sent: list[tuple[int, int]] = []
    while outbox:
        sent += chunks(outbox.take())
    assert sent == [(2, 10), (2, 10)]


def test_what_is_dropped_before_its_head_has_left_sends_the_head_alone() -> None:
    outbox = Outbox(SMALL, 1000)
    say_large(outbox, 1, 50)
    outbox.drop(1)
    (head,) = outbox.take()
    assert isinstance(head, Result)
    assert head.body.chunked
    assert not outbox


def test_a_chunk_that_waits_for_credit_can_be_dropped() -> None:
    outbox = Outbox(SMALL, 20)
    say_large(outbox, 1, 50)
    outbox.take()
    say_large(outbox, 2, 10)
    while outbox:
        outbox.take()
    assert outbox.sending(1)
    outbox.drop(1)
    outbox.acknowledge(20)
    assert chunks(outbox.take()) == [(2, 10)]
    assert not outbox
    assert not outbox.unfinished


# ---- arriving ----------------------------------------------------------------------------------------


def test_parts_arrive_as_they_were_sent() -> None:
    inbox = Inbox()
    assert joined(inbox.open(1, EMPTY) or Payload(())) == [b""]
    assert joined(inbox.open(1, Body((), b"whole")) or Payload(())) == [b"whole"]
    assert joined(inbox.open(1, Body((2, 0, 3), b"ABcde")) or Payload(())) == [b"AB", b"", b"cde"]
    assert inbox.credit() is None


def test_zero_size_parts_before_between_and_after() -> None:
    inbox = Inbox()
    assert inbox.open(1, Body((0, 0, 3, 0, 2, 0), b"", True)) is None
    assert inbox.chunk(Chunk(1, b"AB")) is None
    assert inbox.chunk(Chunk(1, b"C")) is None
    payload = inbox.chunk(Chunk(1, b"de"))
    assert payload is not None
    assert joined(payload) == [b"", b"", b"ABC", b"", b"de", b""]


def test_what_was_taken_in_is_acknowledged_once() -> None:
    inbox = Inbox()
    inbox.open(1, Body((30,), b"", True))
    inbox.chunk(Chunk(1, bytes(10)))
    inbox.chunk(Chunk(9, bytes(7)))  # Nobody waits for it: dropped, but the sender's credit comes back.
    assert inbox.credit() == Credit(17)
    assert inbox.credit() is None


@pytest.mark.parametrize(
    ("sizes", "sent"),
    [
        pytest.param((10,), [bytes(11)], id="more than announced"),
        pytest.param((10,), [bytes(6), bytes(5)], id="more than announced, in two"),
        pytest.param((10,), [b""], id="an empty chunk"),
        pytest.param((5, 5), [bytes(6)], id="a chunk that spans two parts"),
        pytest.param((5, 0, 5), [bytes(3), bytes(3)], id="a chunk that spans three parts"),
        pytest.param((1000, 1), [bytes(1), b""], id="an empty chunk in the middle"),
        pytest.param((2**64 - 1, 1), [bytes(1)], id="more than any memory holds"),
    ],
)
def test_chunks_that_do_not_fit_their_head_break_the_protocol(sizes: tuple[int, ...], sent: list[bytes]) -> None:
    inbox = Inbox()
    inbox.open(1, Body(sizes, b"", True))
    *before, last = sent
    for data in before:
        inbox.chunk(Chunk(1, data))
    with pytest.raises(ProtocolError):
        inbox.chunk(Chunk(1, last))


def test_a_second_payload_for_a_number_under_way_breaks_the_protocol() -> None:
    inbox = Inbox()
    inbox.open(1, Body((10,), b"", True))
    with pytest.raises(ProtocolError, match="second payload"):
        inbox.open(1, Body((10,), b"", True))


def test_an_announced_payload_of_no_bytes_breaks_the_protocol() -> None:
    with pytest.raises(ProtocolError, match="no bytes"):
        Inbox().open(1, Body((0, 0), b"", True))


def test_what_is_forgotten_is_dropped_as_it_comes_and_its_number_is_free_again() -> None:
    inbox = Inbox()
    inbox.open(1, Body((20,), b"", True))
    inbox.chunk(Chunk(1, bytes(10)))
    inbox.forget(1)
    assert inbox.chunk(Chunk(1, bytes(10))) is None
    inbox.open(1, Body((3,), b"", True))
    payload = inbox.chunk(Chunk(1, b"new"))
    assert payload is not None
    assert joined(payload) == [b"new"]


# ---- both ends ---------------------------------------------------------------------------------------

payloads = st.lists(st.binary(max_size=60), min_size=1, max_size=6).map(lambda parts: Payload(tuple(parts)))


def deliver(inbox: Inbox, message: bytes, heads: dict[int, Frame], arrived: dict[int, list[bytes]]) -> Credit | None:
    for frame in decode(message):
        payload: Payload | None = None
        number = 0
        if isinstance(frame, Result):
            number = frame.number
            payload = inbox.open(number, frame.body)
            heads[number] = frame
        elif isinstance(frame, Chunk):
            number = frame.number
            payload = inbox.chunk(frame)
        if payload is not None:
            arrived[number] = joined(payload)
    return inbox.credit()


@given(
    st.lists(payloads, min_size=1, max_size=8),
    st.integers(1, 64),
    st.integers(1, 20),
    st.integers(1, 20),
    st.integers(0, 2**32),
)
def test_any_payloads_arrive_whole(sent: list[Payload], credit: int, chunk: int, inline: int, seed: int) -> None:
    dice = random.Random(seed)
    limits = Limits(inline_bytes=inline, chunk_bytes=chunk, packet_bytes=300)
    outbox, inbox = Outbox(limits, credit), Inbox()
    heads: dict[int, Frame] = {}
    arrived: dict[int, list[bytes]] = {}
    owed: deque[Credit] = deque()
    waiting = list(enumerate(sent))
    while waiting or outbox or owed:
        choice = dice.randrange(3)
        if choice == 0 and waiting:
            number, payload = waiting.pop(0)
            outbox.say(result(number, payload, limits), payload)
        elif choice == 1 and owed:
            outbox.acknowledge(owed.popleft().size)
        elif choice == 2 and outbox:
            acknowledgement = deliver(inbox, encode(outbox.take()), heads, arrived)
            if acknowledgement is not None:
                owed.append(acknowledgement)
            assert sum(credit.size for credit in owed) <= credit
    assert arrived == {number: joined(payload) for number, payload in enumerate(sent)}


class Interleaving(RuleBasedStateMachine):
    """Payloads said, dropped, sent and acknowledged in any order."""

    @initialize(credit=st.integers(5, 60))
    def begin(self, credit: int) -> None:
        self.credit = credit
        self.outbox, self.inbox = Outbox(SMALL, credit), Inbox()
        self.heads: dict[int, Frame] = {}
        self.arrived: dict[int, list[bytes]] = {}
        self.sent: dict[int, Payload] = {}
        self.dropped: set[int] = set()
        self.owed: deque[Credit] = deque()
        self.number = 0

    @rule(payload=payloads)
    def say(self, payload: Payload) -> None:
        self.number += 1
        self.sent[self.number] = payload
        self.outbox.say(result(self.number, payload), payload)

    @rule(data=st.data())
    @precondition(lambda self: self.sent)
    def drop(self, data: st.DataObject) -> None:
        number = data.draw(st.sampled_from(sorted(self.sent)))
        if number not in self.arrived:
            self.dropped.add(number)
            self.outbox.drop(number)
            self.inbox.forget(number)

    @rule()
    @precondition(lambda self: self.outbox)
    def send(self) -> None:
        credit = deliver(self.inbox, encode(self.outbox.take()), self.heads, self.arrived)
        if credit is not None:
            self.owed.append(credit)

    @rule()
    @precondition(lambda self: self.owed)
    def acknowledge(self) -> None:
        self.outbox.acknowledge(self.owed.popleft().size)

    @invariant()
    def what_is_unacknowledged_is_bounded(self) -> None:
        assert sum(credit.size for credit in self.owed) <= self.credit

    def teardown(self) -> None:
        if not hasattr(self, "outbox"):
            return
        while self.outbox or self.owed:
            if self.owed:
                self.acknowledge()
            if self.outbox:
                self.send()
        for number, payload in self.sent.items():
            if number not in self.dropped:
                assert self.arrived[number] == joined(payload)
        assert not self.outbox._transfers
        assert self.outbox._large == 0


Interleaving.TestCase.settings = settings(max_examples=100, stateful_step_count=40)
TestInterleaving = Interleaving.TestCase


def test_a_frame_that_is_no_payload_needs_no_credit() -> None:
    outbox = Outbox(SMALL, 1)
    offer = Offer(1, bytes(16), bytes(16), False, Body((), b"inline"))
    outbox.say(offer, Payload((b"inline",)))
    outbox.say(Goodbye("end"))
    assert outbox.take() == [offer, Goodbye("end")]
