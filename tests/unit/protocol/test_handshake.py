"""Who may open a session, and that nothing of the other's words is parsed before the proof."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
from google.protobuf.message import Message
from hypothesis import given
from hypothesis import strategies as st

from wool.limits import MOST_HANDSHAKE_BYTES, MOST_UID_CHARACTERS
from wool.protocol import handshake, wire_pb2
from wool.protocol.frames import PROTOCOL_VERSION
from wool.protocol.handshake import (
    NONCE_BYTES,
    PYTHON,
    CallerHandshake,
    CallerWords,
    HandshakeFailed,
    WorkerHandshake,
    WorkerWords,
)
from wool.statistics import Statistics

SECRET, OTHER = b"the secret", b"another secret"
CALLER_NONCE, WORKER_NONCE = b"c" * NONCE_BYTES, b"w" * NONCE_BYTES
WORKER = WorkerWords(session=b"s" * 16, metadata=b"{}", window_tasks=1, window_bytes=2, payload_bytes=3, credit_bytes=4)
CALLER = CallerWords(uid="caller", pool=b"pool", payload_bytes=5, credit_bytes=6, expects="worker")


def caller(secret: bytes = SECRET, nonce: bytes = CALLER_NONCE, **words: Any) -> CallerHandshake:
    return CallerHandshake(secret=secret, nonce=nonce, words=dataclasses.replace(CALLER, **words))


def worker(secret: bytes = SECRET, nonce: bytes = WORKER_NONCE, **words: Any) -> WorkerHandshake:
    return WorkerHandshake(secret=secret, nonce=nonce, words=dataclasses.replace(WORKER, **words))


def answer(side: CallerHandshake, message: bytes) -> bytes:
    said = side.receive(message)
    assert said is not None
    return said


@pytest.fixture
def parsed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is parsed of the other's words, by the name of the message."""
    names: list[str] = []

    class Watched:
        def __init__(self, kind: type[Message]) -> None:
            self._kind = kind

        def __call__(self, *args: Any, **kwargs: Any) -> Message:
            return self._kind(*args, **kwargs)

        def FromString(self, data: bytes) -> Message:
            names.append(self._kind.__name__)
            return self._kind.FromString(data)

    class Wire:
        def __getattr__(self, name: str) -> Watched:
            return Watched(getattr(wire_pb2, name))

    monkeypatch.setattr(handshake, "wire_pb2", Wire())
    return names


def test_two_that_know_the_secret_learn_each_others_words(parsed: list[str]) -> None:
    here, there = caller(), worker()
    challenge = there.receive(here.hello())
    response = answer(here, challenge)
    assert here.peer == WORKER
    assert not here.done
    welcome = there.receive(response)
    assert there.peer == CALLER
    assert here.receive(welcome) is None
    assert here.done
    assert parsed == ["Handshake", "Handshake", "WorkerInfo", "Handshake", "CallerInfo", "Handshake"]


MUCH = Statistics(
    in_flight=1,
    accepted=8,
    rejected=9,
    done=2**63,
    failed=3,
    cancelled=4,
    lost=7,
    loop_lag_microseconds=10,
    memory_bytes=11,
    sessions=12,
    up_milliseconds=5,
    draining=True,
)


def greet(here: CallerHandshake, there: WorkerHandshake) -> bytes:
    """Go through the handshake; return the welcome."""
    return there.receive(answer(here, there.receive(here.hello())))


def test_the_welcome_says_what_the_worker_has_done_as_it_is_then() -> None:
    said: list[Statistics] = []
    here = caller()
    there = WorkerHandshake(secret=SECRET, nonce=WORKER_NONCE, words=WORKER, statistics=lambda: said[-1])
    response = answer(here, there.receive(here.hello()))
    said.append(MUCH)
    assert here.receive(there.receive(response)) is None
    assert here.statistics == MUCH


@pytest.mark.parametrize("field", ["uid", "expects"])
@pytest.mark.parametrize(
    "said", ["a\nERROR forged", "\x1bc", "\u202eevil", "u" * (MOST_UID_CHARACTERS + 1), "u" * 2**20]
)
def test_a_callers_ids_neither_write_into_the_log_nor_fill_it(field: str, said: str) -> None:
    there = worker()
    response = answer(caller(**{field: said}), there.receive(caller().hello()))
    with pytest.raises(HandshakeFailed, match="must have 64 printable characters at most, got ") as caught:
        there.receive(response)
    assert caught.value.permanent
    assert there.peer is None
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 200


def test_an_older_worker_says_nothing_of_what_it_has_done() -> None:
    here = caller()
    assert here.receive(greet(here, worker())) is None
    assert (here.done, here.statistics) == (True, None)


def test_who_has_not_proven_to_know_the_secret_hears_nothing_of_what_the_worker_has_done() -> None:
    asked: list[None] = []
    here = caller(OTHER)
    there = WorkerHandshake(
        secret=SECRET, nonce=WORKER_NONCE, words=WORKER, statistics=lambda: asked.append(None) or MUCH
    )
    here.receive(worker(OTHER).receive(here.hello()))
    there.receive(here.hello())
    body = b"words"
    response = wire_pb2.Response(body=body, proof=handshake._proof(OTHER, b"caller", CALLER_NONCE, WORKER_NONCE, body))
    with pytest.raises(HandshakeFailed, match="did not prove"):
        there.receive(wire_pb2.Handshake(response=response).SerializeToString())
    assert asked == []


def test_what_a_newer_worker_adds_to_its_welcome_is_skipped() -> None:
    here = caller()
    greet(here, worker())
    newer = wire_pb2.Handshake.FromString(b"\x22\x03\x98\x06\x07")  # a welcome with a field 99
    assert newer.WhichOneof("step") == "welcome"
    assert here.receive(newer.SerializeToString()) is None
    assert (here.done, here.statistics) == (True, None)


def test_a_worker_that_is_not_the_one_looked_for_hears_no_proof() -> None:
    seen: list[WorkerWords] = []

    def accept(peer: WorkerWords) -> None:
        seen.append(peer)
        raise HandshakeFailed("it is another one", permanent=True)

    looking = CallerHandshake(secret=SECRET, nonce=CALLER_NONCE, words=CALLER, accept=accept)
    challenge = worker().receive(looking.hello())
    with pytest.raises(HandshakeFailed, match="it is another one"):
        looking.receive(challenge)
    assert seen == [WORKER]
    assert not looking.done


def test_the_secret_is_never_sent() -> None:
    here, there = caller(), worker()
    said = [here.hello()]
    said.append(there.receive(said[-1]))
    said.append(answer(here, said[-1]))
    said.append(there.receive(said[-1]))
    assert all(SECRET not in message for message in said)


@pytest.mark.parametrize("same", [True, False])
def test_proofs_are_compared_in_constant_time_and_by_nothing_else(monkeypatch: pytest.MonkeyPatch, same: bool) -> None:
    """What `hmac.compare_digest` says decides at both ends, whatever the proofs are."""
    compared: list[int] = []

    def compare(one: bytes, other: bytes) -> bool:
        compared.append(len(one))
        return same

    monkeypatch.setattr(handshake.hmac, "compare_digest", compare)
    secret = OTHER if same else SECRET
    for here, there in ((caller(secret), worker()), (caller(), worker(secret))):
        challenge = there.receive(here.hello())
        if same:
            there.receive(answer(here, challenge))
            assert here.peer == WORKER
            assert there.peer == CALLER
        else:
            with pytest.raises(HandshakeFailed, match="the worker did not prove"):
                here.receive(challenge)
    assert compared == ([32] * 4 if same else [32] * 2)
    if not same:
        monkeypatch.undo()
        here, there = caller(), worker()
        response = answer(here, there.receive(here.hello()))
        monkeypatch.setattr(handshake.hmac, "compare_digest", compare)
        with pytest.raises(HandshakeFailed, match="the caller did not prove"):
            there.receive(response)


def test_a_worker_with_another_secret_is_refused_before_its_words_are_parsed(parsed: list[str]) -> None:
    here, there = caller(), worker(OTHER)
    challenge = there.receive(here.hello())
    with pytest.raises(HandshakeFailed, match="did not prove") as refused:
        here.receive(challenge)
    assert not refused.value.permanent
    assert here.peer is None
    assert "WorkerInfo" not in parsed


def test_a_caller_with_another_secret_is_refused_before_its_words_are_parsed(parsed: list[str]) -> None:
    there = worker()
    # A caller that would take any worker's word: it answers with a proof made from another secret.
    here = caller(OTHER)
    here.receive(worker(OTHER).receive(here.hello()))
    there.receive(here.hello())
    body = b"words"
    proof = handshake._proof(OTHER, b"caller", CALLER_NONCE, WORKER_NONCE, body)
    parsed.clear()
    with pytest.raises(HandshakeFailed, match="did not prove") as refused:
        there.receive(response_of(body, proof))
    assert refused.value.permanent
    assert there.peer is None
    assert parsed == ["Handshake"]


def response_of(body: bytes, proof: bytes) -> bytes:
    return wire_pb2.Handshake(response=wire_pb2.Response(body=body, proof=proof)).SerializeToString()


def recorded() -> tuple[bytes, bytes, bytes, bytes]:
    """The four messages of a handshake that somebody has overheard."""
    here, there = caller(), worker()
    hello = here.hello()
    challenge = there.receive(hello)
    response = answer(here, challenge)
    return hello, challenge, response, there.receive(response)


def test_a_replayed_challenge_proves_nothing_to_another_caller() -> None:
    _, challenge, _, _ = recorded()
    here = caller(nonce=b"n" * NONCE_BYTES)
    with pytest.raises(HandshakeFailed, match="did not prove"):
        here.receive(challenge)


def test_a_replayed_response_proves_nothing_to_another_session() -> None:
    hello, _, response, _ = recorded()
    there = worker(nonce=b"n" * NONCE_BYTES)
    there.receive(hello)
    with pytest.raises(HandshakeFailed, match="did not prove"):
        there.receive(response)


def test_a_proof_that_is_sent_back_to_its_maker_proves_nothing() -> None:
    # Somebody without the secret opens a session with a worker and answers it with the worker's own proof.
    there = worker()
    hello = wire_pb2.Handshake(hello=wire_pb2.Hello(nonce=WORKER_NONCE)).SerializeToString()
    challenge = wire_pb2.Handshake.FromString(there.receive(hello)).challenge
    with pytest.raises(HandshakeFailed, match="did not prove"):
        there.receive(response_of(challenge.body, challenge.proof))
    # The same against a caller: with a proof that a caller made, over the same nonces.
    here = caller(nonce=WORKER_NONCE)
    other = caller(nonce=WORKER_NONCE)
    genuine = worker(nonce=WORKER_NONCE).receive(other.hello())
    response = wire_pb2.Handshake.FromString(answer(other, genuine)).response
    forged = wire_pb2.Challenge(nonce=WORKER_NONCE, body=response.body, proof=response.proof)
    with pytest.raises(HandshakeFailed, match="did not prove"):
        here.receive(wire_pb2.Handshake(challenge=forged).SerializeToString())


@given(st.integers(0, 10_000), st.integers(1, 255))
def test_a_challenge_changed_on_its_way_is_refused(position: int, change: int) -> None:
    here = caller()
    challenge = bytearray(worker().receive(here.hello()))
    challenge[position % len(challenge)] ^= change
    with pytest.raises(HandshakeFailed):
        here.receive(bytes(challenge))
    assert here.peer is None


@given(st.integers(0, 10_000), st.integers(1, 255))
def test_a_response_changed_on_its_way_is_refused(position: int, change: int) -> None:
    here, there = caller(), worker()
    response = bytearray(answer(here, there.receive(here.hello())))
    response[position % len(response)] ^= change
    with pytest.raises(HandshakeFailed):
        there.receive(bytes(response))
    assert there.peer is None


VERSIONS = [
    ({"protocol": PROTOCOL_VERSION + 1}, f"protocol version {PROTOCOL_VERSION + 1}, this side {PROTOCOL_VERSION}"),
    ({"protocol": 0}, "protocol version 0"),
    ({"python": "2.7"}, f"Python 2.7, this side {PYTHON}"),
    ({"python": "3." + "9" * 10_000}, "Python 3.999"),
]


@pytest.mark.parametrize(("words", "why"), VERSIONS, ids=["newer", "older", "python", "nonsense"])
def test_a_worker_of_another_version_is_refused_readably_and_for_good(words: dict[str, Any], why: str) -> None:
    here = caller()
    with pytest.raises(HandshakeFailed, match=why) as refused:
        here.receive(worker(**words).receive(here.hello()))
    assert refused.value.permanent
    assert "the worker" in str(refused.value)
    assert len(str(refused.value)) < 200


@pytest.mark.parametrize(("words", "why"), VERSIONS, ids=["newer", "older", "python", "nonsense"])
def test_a_caller_of_another_version_is_refused_readably_and_for_good(words: dict[str, Any], why: str) -> None:
    here, there = caller(**words), worker()
    response = answer(here, there.receive(here.hello()))
    with pytest.raises(HandshakeFailed, match=why) as refused:
        there.receive(response)
    assert there.peer is None
    # And it is told so.
    with pytest.raises(HandshakeFailed, match=f"the worker refused: the caller .*{why}") as told:
        here.receive(WorkerHandshake.refusal(refused.value))
    assert told.value.permanent
    assert not here.done


def test_a_refusal_that_may_pass_says_so() -> None:
    with pytest.raises(HandshakeFailed, match="later") as told:
        caller().receive(WorkerHandshake.refusal(HandshakeFailed("later", permanent=False)))
    assert not told.value.permanent


@pytest.mark.parametrize(
    "said",
    [
        b"HTTP/1.1 400 Bad Request",
        bytes(MOST_HANDSHAKE_BYTES + 1),
        wire_pb2.Handshake(welcome=wire_pb2.Welcome()).SerializeToString(),
        wire_pb2.Handshake(challenge=wire_pb2.Challenge(nonce=WORKER_NONCE, proof=bytes(32))).SerializeToString(),
        WorkerHandshake.refusal(HandshakeFailed("never", permanent=True)),
    ],
    ids=["no handshake", "too long", "out of order", "no proof", "refusal"],
)
def test_nothing_that_was_said_without_a_proof_is_for_good(said: bytes) -> None:
    """Whoever stands at a worker's address could put it out of use otherwise."""
    with pytest.raises(HandshakeFailed) as failed:
        caller().receive(said)
    assert not failed.value.permanent


def test_a_long_refusal_is_cut() -> None:
    with pytest.raises(HandshakeFailed) as told:
        caller().receive(WorkerHandshake.refusal(HandshakeFailed("x" * 100_000, permanent=True)))
    assert len(str(told.value)) < 2_000


SPOOFED = "no\nWARNING all is well\x1b[2J"


def test_what_a_stranger_refuses_with_is_one_line_and_no_command_to_a_terminal() -> None:
    with pytest.raises(HandshakeFailed) as told:
        caller().receive(WorkerHandshake.refusal(HandshakeFailed(SPOOFED, permanent=True)))
    assert str(told.value) == "the worker refused: no\\nWARNING all is well\\x1b[2J"


@pytest.mark.parametrize("words", ["window_tasks", "window_bytes", "payload_bytes", "credit_bytes"])
def test_a_worker_that_gives_no_room_is_refused(words: str) -> None:
    here = caller()
    with pytest.raises(HandshakeFailed, match="no window or no credit"):
        here.receive(worker(**{words: 0}).receive(here.hello()))


@pytest.mark.parametrize("words", ["payload_bytes", "credit_bytes"])
def test_a_caller_that_gives_no_room_is_refused(words: str) -> None:
    here, there = caller(**{words: 0}), worker()
    with pytest.raises(HandshakeFailed, match="no credit"):
        there.receive(answer(here, there.receive(here.hello())))


def test_a_worker_admits_whom_it_wants_and_asks_only_after_the_proof() -> None:
    asked: list[CallerWords] = []

    def admit(words: CallerWords) -> str | None:
        asked.append(words)
        return None if words.expects == "me" else f"I am not {words.expects}"

    for expects, welcome in (("me", True), ("somebody else", False)):
        here = caller(expects=expects)
        there = WorkerHandshake(secret=SECRET, nonce=WORKER_NONCE, words=WORKER, admit=admit)
        challenge = there.receive(here.hello())
        assert not asked
        response = answer(here, challenge)
        if welcome:
            there.receive(response)
            assert there.peer is not None
        else:
            with pytest.raises(HandshakeFailed, match="I am not somebody else") as refused:
                there.receive(response)
            assert refused.value.permanent
            assert there.peer is None
        assert [words.expects for words in asked] == [expects]
        asked.clear()


# ---- every message out of order ----------------------------------------------------------------------


def callers_so_far() -> dict[str, Callable[[], CallerHandshake]]:
    def fresh() -> CallerHandshake:
        return caller()

    def challenged() -> CallerHandshake:
        side = caller()
        side.receive(worker().receive(side.hello()))
        return side

    return {"fresh": fresh, "challenged": challenged}


def workers_so_far() -> dict[str, Callable[[], WorkerHandshake]]:
    def fresh() -> WorkerHandshake:
        return worker()

    def greeted() -> WorkerHandshake:
        side = worker()
        side.receive(recorded()[0])
        return side

    def done() -> WorkerHandshake:
        side = greeted()
        side.receive(recorded()[2])
        return side

    return {"fresh": fresh, "greeted": greeted, "done": done}


MESSAGES = dict(zip(("hello", "challenge", "response", "welcome"), recorded(), strict=True))
MESSAGES["nothing"] = b""


@pytest.mark.parametrize("message", MESSAGES)
@pytest.mark.parametrize("state", callers_so_far())
def test_a_caller_takes_each_message_only_in_its_turn(state: str, message: str) -> None:
    side = callers_so_far()[state]()
    if (state, message) in (("fresh", "challenge"), ("challenged", "welcome")):
        side.receive(MESSAGES[message])
        return
    with pytest.raises(HandshakeFailed, match="not expected"):
        side.receive(MESSAGES[message])
    assert not side.done


@pytest.mark.parametrize("message", MESSAGES)
@pytest.mark.parametrize("state", workers_so_far())
def test_a_worker_takes_each_message_only_in_its_turn(state: str, message: str) -> None:
    side = workers_so_far()[state]()
    peer = side.peer
    if (state, message) in (("fresh", "hello"), ("greeted", "response")):
        side.receive(MESSAGES[message])
        return
    with pytest.raises(HandshakeFailed, match="not expected"):
        side.receive(MESSAGES[message])
    assert side.peer is peer


@given(st.binary(max_size=300), st.sampled_from(sorted(callers_so_far())))
def test_any_bytes_to_a_caller_are_a_failed_handshake(message: bytes, state: str) -> None:
    side = callers_so_far()[state]()
    with pytest.raises(HandshakeFailed):
        side.receive(message)


@given(st.binary(max_size=300), st.sampled_from(["fresh", "greeted"]))
def test_any_bytes_to_a_worker_are_a_failed_handshake(message: bytes, state: str) -> None:
    side = workers_so_far()[state]()
    with pytest.raises(HandshakeFailed):
        side.receive(message)
    assert side.peer is None


@given(st.binary(max_size=200))
def test_proven_words_that_cannot_be_parsed_are_a_failed_handshake(body: bytes) -> None:
    proof = handshake._proof(SECRET, b"worker", CALLER_NONCE, WORKER_NONCE, body)
    challenge = wire_pb2.Challenge(nonce=WORKER_NONCE, body=body, proof=proof)
    with pytest.raises(HandshakeFailed):
        caller().receive(wire_pb2.Handshake(challenge=challenge).SerializeToString())
    there = worker()
    there.receive(caller().hello())
    with pytest.raises(HandshakeFailed):
        there.receive(response_of(body, handshake._proof(SECRET, b"caller", CALLER_NONCE, WORKER_NONCE, body)))


@pytest.mark.parametrize("side", [caller, worker])
def test_a_message_too_long_is_not_parsed(
    side: Callable[[], CallerHandshake | WorkerHandshake], parsed: list[str]
) -> None:
    with pytest.raises(HandshakeFailed, match=f"{MOST_HANDSHAKE_BYTES + 1} bytes"):
        side().receive(bytes(MOST_HANDSHAKE_BYTES + 1))
    assert parsed == []


@pytest.mark.parametrize("size", [0, NONCE_BYTES - 1, NONCE_BYTES + 1])
def test_a_nonce_has_one_length(size: int) -> None:
    with pytest.raises(ValueError, match="nonce"):
        caller(nonce=bytes(size))
    with pytest.raises(ValueError, match="nonce"):
        worker(nonce=bytes(size))
    with pytest.raises(HandshakeFailed, match="nonce"):
        worker().receive(wire_pb2.Handshake(hello=wire_pb2.Hello(nonce=bytes(size))).SerializeToString())


def test_a_worker_that_shortens_its_nonce_to_shift_the_parts_is_refused() -> None:
    body = b"abc"
    proof = handshake._proof(SECRET, b"worker", CALLER_NONCE, WORKER_NONCE[:-1], WORKER_NONCE[-1:] + body)
    forged = wire_pb2.Challenge(nonce=WORKER_NONCE[:-1], body=WORKER_NONCE[-1:] + body, proof=proof)
    with pytest.raises(HandshakeFailed, match="did not prove"):
        caller().receive(wire_pb2.Handshake(challenge=forged).SerializeToString())
