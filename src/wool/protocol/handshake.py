"""Who is at the other end: the first messages of a session.

Both sides prove that they know the secret, by HMAC over both nonces and their own words, and neither
parses the other's words before it has checked the proof. The secret is never sent. Versions are
compared here, and a mismatch is a refusal that a person can read.

::

    caller                                   worker
      hello(nonce)               ────────▶
                                 ◀────────    challenge(nonce, words, proof)
      response(words, proof)     ────────▶
                                 ◀────────    welcome(statistics) | refusal(reason)

Pure: randomness comes in as arguments.
"""

from __future__ import annotations

import hmac
import sys
from collections.abc import Callable
from dataclasses import dataclass, fields

from google.protobuf.message import DecodeError

from wool.harmless import harmless
from wool.limits import MOST_HANDSHAKE_BYTES, MOST_UID_CHARACTERS
from wool.protocol import wire_pb2
from wool.protocol.frames import PROTOCOL_VERSION
from wool.statistics import Statistics

NONCE_BYTES = 32
PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"


class HandshakeFailed(Exception):
    """The session was not opened. ``permanent`` says that trying again is pointless."""

    def __init__(self, reason: str, *, permanent: bool) -> None:
        super().__init__(reason)
        self.permanent = permanent


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerWords:
    """What a worker says of itself."""

    session: bytes
    metadata: bytes
    window_tasks: int
    window_bytes: int
    payload_bytes: int
    credit_bytes: int
    one_way: bool = False
    """It speaks TLS, and asks its callers for no certificate: whoever is at the other end may be anybody."""
    protocol: int = PROTOCOL_VERSION
    python: str = PYTHON


@dataclass(frozen=True, slots=True, kw_only=True)
class CallerWords:
    """What a caller says of itself. ``pool`` is opaque here; ``expects`` is a worker's uid or empty."""

    uid: str
    pool: bytes
    payload_bytes: int
    credit_bytes: int
    expects: str = ""
    protocol: int = PROTOCOL_VERSION
    python: str = PYTHON


_STATISTICS = tuple(field.name for field in fields(Statistics))


def _proof(secret: bytes, role: bytes, caller_nonce: bytes, worker_nonce: bytes, body: bytes) -> bytes:
    # Nonces have a fixed length, so that the parts cannot be shifted against each other.
    return hmac.digest(secret, b"wool " + role + caller_nonce + worker_nonce + body, "sha256")


def _parse(message: bytes) -> wire_pb2.Handshake:
    if len(message) > MOST_HANDSHAKE_BYTES:
        raise HandshakeFailed(f"a handshake message of {len(message)} bytes", permanent=True)
    try:
        return wire_pb2.Handshake.FromString(message)
    except DecodeError:
        raise HandshakeFailed("what answered does not speak wool's protocol", permanent=True) from None


def _disagreement(peer: str, protocol: int, python: str) -> str | None:
    if protocol != PROTOCOL_VERSION:
        return f"the {peer} speaks protocol version {protocol}, this side {PROTOCOL_VERSION}: install the same wool"
    if python != PYTHON:
        return f"the {peer} runs Python {harmless(python, 20)}, this side {PYTHON}: use the same Python major.minor"
    return None


def _nameless(info: wire_pb2.CallerInfo) -> str | None:
    """Say which uid is none: they stand in logs, errors and on terminals as they are."""
    for name, uid in (("uid of the caller", info.uid), ("uid that the caller expects", info.expects)):
        if len(uid) > MOST_UID_CHARACTERS or not uid.isprintable():
            shown = harmless(uid, MOST_UID_CHARACTERS)
            return f"the {name} must have {MOST_UID_CHARACTERS} printable characters at most, got {shown}"
    return None


class CallerHandshake:
    """The caller's half. Send `hello`, then pass each answer to `receive`.

    ``accept`` is asked once the worker has proven itself, and raises if it is not the one that was looked for, or not
    where it was looked for. By then nothing was said that proves this side: whoever passes the handshake on from
    elsewhere has gained nothing.
    """

    def __init__(
        self,
        *,
        secret: bytes,
        nonce: bytes,
        words: CallerWords,
        accept: Callable[[WorkerWords], None] = lambda peer: None,
    ) -> None:
        if len(nonce) != NONCE_BYTES:
            raise ValueError(f"a nonce has {NONCE_BYTES} bytes, got {len(nonce)}")
        self._secret = secret
        self._nonce = nonce
        self._words = words
        self._accept = accept
        self.peer: WorkerWords | None = None
        """What the worker said of itself, once its proof has been checked."""
        self.statistics: Statistics | None = None
        """What the worker has done so far, if it said so with its welcome."""
        self.done: bool = False
        self._proven = False

    def hello(self) -> bytes:
        """Return the first message."""
        return wire_pb2.Handshake(hello=wire_pb2.Hello(nonce=self._nonce)).SerializeToString()

    def receive(self, message: bytes) -> bytes | None:
        """Take the worker's next message; return the answer, if there is one. Raises `HandshakeFailed`.

        Whoever has proven nothing cannot put a worker out of rotation for good: it may be somebody else at the address.
        """
        try:
            return self._received(message)
        except HandshakeFailed as failure:
            failure.permanent = failure.permanent and self._proven
            raise

    def _received(self, message: bytes) -> bytes | None:
        step = _parse(message)
        kind = step.WhichOneof("step")
        if kind == "refusal":
            reason = f"the worker refused: {harmless(step.refusal.reason)}"
            raise HandshakeFailed(reason, permanent=step.refusal.permanent)
        if kind == "challenge" and self.peer is None:
            return self._challenged(step.challenge)
        if kind == "welcome" and self.peer is not None:
            self.statistics = _statistics(step.welcome)
            self.done = True
            return None
        raise HandshakeFailed(f"{kind or 'an unknown step'} is not expected in the handshake", permanent=True)

    def _challenged(self, challenge: wire_pb2.Challenge) -> bytes:
        body = challenge.body
        if len(challenge.nonce) != NONCE_BYTES or not hmac.compare_digest(
            challenge.proof, _proof(self._secret, b"worker", self._nonce, challenge.nonce, body)
        ):
            raise HandshakeFailed("the worker did not prove that it knows the secret", permanent=False)
        self._proven = True
        try:
            info = wire_pb2.WorkerInfo.FromString(body)
        except DecodeError:
            raise HandshakeFailed("the worker's words cannot be parsed", permanent=True) from None
        if (why := _disagreement("worker", info.protocol, info.python)) is not None:
            raise HandshakeFailed(why, permanent=True)
        if not (info.window_tasks and info.window_bytes and info.payload_bytes and info.credit_bytes):
            raise HandshakeFailed("the worker gives no window or no credit", permanent=True)
        self.peer = WorkerWords(
            session=info.session,
            metadata=info.metadata,
            window_tasks=info.window_tasks,
            window_bytes=info.window_bytes,
            payload_bytes=info.payload_bytes,
            credit_bytes=info.credit_bytes,
            one_way=info.one_way,
            protocol=info.protocol,
            python=info.python,
        )
        self._accept(self.peer)
        words = self._words
        answer = wire_pb2.CallerInfo(
            protocol=words.protocol,
            python=words.python,
            uid=words.uid,
            pool=words.pool,
            payload_bytes=words.payload_bytes,
            credit_bytes=words.credit_bytes,
            expects=words.expects,
        ).SerializeToString()
        proof = _proof(self._secret, b"caller", self._nonce, challenge.nonce, answer)
        return wire_pb2.Handshake(response=wire_pb2.Response(body=answer, proof=proof)).SerializeToString()


def _statistics(welcome: wire_pb2.Welcome) -> Statistics | None:
    if not welcome.HasField("statistics"):
        return None
    return Statistics(**{name: getattr(welcome.statistics, name) for name in _STATISTICS})


def _welcome(statistics: Statistics | None) -> wire_pb2.Welcome:
    if statistics is None:
        return wire_pb2.Welcome()
    said = wire_pb2.Statistics(**{name: getattr(statistics, name) for name in _STATISTICS})
    return wire_pb2.Welcome(statistics=said)


class WorkerHandshake:
    """The worker's half. Pass each message to `receive` and send what it returns.

    ``admit`` says, after the proof, why the worker does not want this caller (uid expected, pool too
    large, …), or None. When `receive` refuses, it raises `HandshakeFailed`, and `refusal` is what to
    send before the stream is closed. ``statistics`` says what goes with the welcome, after the caller's proof.
    """

    def __init__(
        self,
        *,
        secret: bytes,
        nonce: bytes,
        words: WorkerWords,
        admit: Callable[[CallerWords], str | None] = lambda words: None,
        statistics: Callable[[], Statistics | None] = lambda: None,
    ) -> None:
        if len(nonce) != NONCE_BYTES:
            raise ValueError(f"a nonce has {NONCE_BYTES} bytes, got {len(nonce)}")
        self._secret = secret
        self._nonce = nonce
        self._words = words
        self._admit = admit
        self._statistics = statistics
        self._caller_nonce: bytes | None = None
        self.peer: CallerWords | None = None
        """What the caller said of itself, once its proof has been checked."""

    @staticmethod
    def refusal(failure: HandshakeFailed) -> bytes:
        """Return the message that tells the caller why."""
        refusal = wire_pb2.Refusal(reason=str(failure), permanent=failure.permanent)
        return wire_pb2.Handshake(refusal=refusal).SerializeToString()

    def receive(self, message: bytes) -> bytes:
        """Take the caller's next message; return the answer. Done once `peer` is set."""
        step = _parse(message)
        kind = step.WhichOneof("step")
        if kind == "hello" and self._caller_nonce is None:
            return self._greeted(step.hello.nonce)
        if kind == "response" and self._caller_nonce is not None and self.peer is None:
            return self._answered(self._caller_nonce, step.response)
        raise HandshakeFailed(f"{kind or 'an unknown step'} is not expected in the handshake", permanent=True)

    def _greeted(self, caller_nonce: bytes) -> bytes:
        if len(caller_nonce) != NONCE_BYTES:
            raise HandshakeFailed("the caller's nonce has the wrong length", permanent=True)
        self._caller_nonce = caller_nonce
        words = self._words
        body = wire_pb2.WorkerInfo(
            protocol=words.protocol,
            python=words.python,
            session=words.session,
            metadata=words.metadata,
            window_tasks=words.window_tasks,
            window_bytes=words.window_bytes,
            payload_bytes=words.payload_bytes,
            credit_bytes=words.credit_bytes,
            one_way=words.one_way,
        ).SerializeToString()
        proof = _proof(self._secret, b"worker", caller_nonce, self._nonce, body)
        challenge = wire_pb2.Challenge(nonce=self._nonce, body=body, proof=proof)
        return wire_pb2.Handshake(challenge=challenge).SerializeToString()

    def _answered(self, caller_nonce: bytes, response: wire_pb2.Response) -> bytes:
        body = response.body
        if not hmac.compare_digest(response.proof, _proof(self._secret, b"caller", caller_nonce, self._nonce, body)):
            raise HandshakeFailed("the caller did not prove that it knows the secret", permanent=True)
        try:
            info = wire_pb2.CallerInfo.FromString(body)
        except DecodeError:
            raise HandshakeFailed("the caller's words cannot be parsed", permanent=True) from None
        if (why := _disagreement("caller", info.protocol, info.python) or _nameless(info)) is not None:
            raise HandshakeFailed(why, permanent=True)
        words = CallerWords(
            uid=info.uid,
            pool=info.pool,
            payload_bytes=info.payload_bytes,
            credit_bytes=info.credit_bytes,
            expects=info.expects,
            protocol=info.protocol,
            python=info.python,
        )
        if not (words.payload_bytes and words.credit_bytes):
            raise HandshakeFailed("the caller gives no credit", permanent=True)
        if (why := self._admit(words)) is not None:
            raise HandshakeFailed(why, permanent=True)
        self.peer = words
        return wire_pb2.Handshake(welcome=_welcome(self._statistics())).SerializeToString()
