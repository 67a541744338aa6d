"""Nothing is unpickled before the peer is authenticated, at either end, whatever it says before."""

from __future__ import annotations

import asyncio
import contextlib
import os
import pickle
import sys
from collections.abc import Iterator
from typing import Any

import cloudpickle
import pytest

from support import bodies
from support.one_loop import QUICK, SECRET, Cluster, cluster, metadata_of
from support.peers import RawCaller
from wool.definition import define
from wool.errors import NoWorkersAvailable
from wool.protocol import wire_pb2
from wool.protocol.codec import encode
from wool.protocol.frames import (
    PROTOCOL_VERSION,
    Accept,
    Body,
    Goodbye,
    Offer,
    Result,
    ResultKind,
    Start,
    Step,
    StepKind,
)
from wool.protocol.handshake import PYTHON, CallerHandshake, CallerWords, WorkerHandshake, WorkerWords
from wool.transport.base import Stream, StreamLost
from wool.transport.memory import MemoryTransport


class Bomb:
    """What does harm when it is unpickled: here it only says so."""

    exploded = False

    def __reduce__(self) -> tuple[Any, ...]:
        return setattr, (Bomb, "exploded", True)


BOMB = pickle.dumps(Bomb())


class Loads:
    """Counts what is unpickled, by whatever name it is called in wool."""

    def __init__(self, original: Any) -> None:
        self.count = 0
        self._original = original

    def __call__(self, *args: Any, **options: Any) -> Any:
        self.count += 1
        return self._original(*args, **options)


@pytest.fixture
def loads(monkeypatch: pytest.MonkeyPatch) -> Iterator[Loads]:
    bodies.reset()
    original, counting = pickle.loads, Loads(pickle.loads)
    for name, module in list(sys.modules.items()):
        if name in ("pickle", "cloudpickle") or name.split(".")[0] == "wool":
            for attribute, value in list(vars(module).items()):
                if value is original:
                    monkeypatch.setattr(module, attribute, counting)
    for name in ("load", "Unpickler"):
        monkeypatch.setattr(pickle, name, _never)
    assert pickle.loads is cloudpickle.loads is counting
    Bomb.exploded = False
    yield counting
    assert not Bomb.exploded


def _never(*_: object, **__: object) -> object:
    raise AssertionError("unpickled by a way that nobody counts")


def _proof_of(secret: bytes) -> list[bytes]:
    """Return what a caller with that secret says, with a bomb wherever something is pickled."""
    words = CallerWords(uid="c", pool=BOMB, payload_bytes=1, credit_bytes=1)
    handshake = CallerHandshake(secret=secret, nonce=b"n" * 32, words=words)
    return [handshake.hello()]


def offers() -> bytes:
    definition = define(bodies.echo)
    body = Body((len(BOMB), len(BOMB)), BOMB * 2)
    offer = Offer(1, bytes(16), definition.digest, True, body, context=False)
    return encode([offer, Start(1), Step(1, StepKind.SEND, Body((), BOMB))])


def _response(secret: bytes, challenge: bytes) -> bytes:
    words = CallerWords(uid="c", pool=BOMB, payload_bytes=1, credit_bytes=1)
    handshake = CallerHandshake(secret=secret, nonce=b"n" * 32, words=words)
    handshake.hello()
    answer = handshake.receive(challenge)
    assert answer is not None
    return answer


def _response_without_proof() -> bytes:
    """Say what an honest caller does, but for the proof: nothing but the proof can be what is refused."""
    words = wire_pb2.CallerInfo(
        protocol=PROTOCOL_VERSION, python=PYTHON, uid="c", pool=BOMB, payload_bytes=1 << 20, credit_bytes=1 << 20
    )
    response = wire_pb2.Response(body=words.SerializeToString(), proof=os.urandom(32))
    return wire_pb2.Handshake(response=response).SerializeToString()


STRANGERS = {
    "sends tasks instead of a handshake": [offers()],
    "sends a pickle": [BOMB],
    "says hello, then tasks": [*_proof_of(b"x"), offers()],
    "answers with a wrong proof": [
        *_proof_of(b"x"),
        wire_pb2.Handshake(response=wire_pb2.Response(body=BOMB, proof=os.urandom(32))).SerializeToString(),
        offers(),
    ],
    "answers as callers do, with a wrong proof": [*_proof_of(b"x"), _response_without_proof(), offers()],
    "welcomes": [wire_pb2.Handshake(welcome=wire_pb2.Welcome()).SerializeToString(), offers()],
}


@pytest.mark.parametrize("how", STRANGERS)
async def test_nothing_of_a_caller_is_unpickled_before_it_is_authenticated(how: str, loads: Loads) -> None:
    async with cluster("a") as made:
        before = loads.count
        stream = await MemoryTransport(made.network, QUICK).connect("unix:/a")
        with contextlib.suppress(StreamLost):
            for message in STRANGERS[how]:
                await stream.write(message)
                await made.settle()
            while True:
                await asyncio.wait_for(stream.read(), 5)
        await stream.close()
        assert loads.count == before
        assert not made.workers["a"].sessions
        assert made.workers["a"].service.started == 0
        await _control(made, loads)


async def _control(made: Cluster, loads: Loads) -> None:
    """The count is one that can rise: for who knows the secret, it does."""
    before = loads.count
    caller = await RawCaller.connect(made.network, "unix:/a", QUICK, secret=SECRET)
    offer = caller.offer(bodies.echo, 1, limits=QUICK)
    await caller.say(offer)
    await caller.expect(Accept)
    assert loads.count == before, "arguments are unpickled after start"
    await caller.say(Start(offer.number))
    await caller.expect(Result)
    assert loads.count > before
    caller.stream.abort("the test is over")
    await caller.stream.close()


def _challenge_of_a_stranger(hello: bytes) -> bytes:
    words = WorkerWords(
        session=BOMB,
        metadata=metadata_of("a", "unix:/a").to_bytes(),
        window_tasks=1,
        window_bytes=1,
        payload_bytes=1000,
        credit_bytes=1000,
    )
    return WorkerHandshake(secret=b"x", nonce=b"w" * 32, words=words).receive(hello)


def _results() -> bytes:
    return encode([Accept(1), *(Result(1, kind, Body((), BOMB)) for kind in ResultKind), Goodbye("bye")])


@pytest.mark.parametrize("how", ["sends results", "challenges wrongly", "challenges wrongly and welcomes", "refuses"])
async def test_nothing_of_a_worker_is_unpickled_before_it_is_authenticated(how: str, loads: Loads) -> None:
    async with cluster(limits=QUICK) as made:

        async def serve(stream: Stream) -> None:
            hello = await stream.read()
            said = [_results()]
            if "challenges" in how:
                said.insert(0, _challenge_of_a_stranger(hello))
            if "welcomes" in how:
                said.insert(1, wire_pb2.Handshake(welcome=wire_pb2.Welcome()).SerializeToString())
            if how == "refuses":
                refusal = wire_pb2.Refusal(reason="r" * 100_000, permanent=True)
                said.insert(0, wire_pb2.Handshake(refusal=refusal).SerializeToString())
            with contextlib.suppress(StreamLost):
                for message in said:
                    await stream.write(message)
                while True:
                    await stream.read()

        listener = await MemoryTransport(made.network, QUICK).listen("unix:/a", serve)
        made.announce("a")
        before = loads.count
        with pytest.raises(NoWorkersAvailable):
            await made.call(bodies.echo, 1, dispatch_timeout=0.5)
        assert loads.count == before
        await listener.close()
        made.drop("a")
        await made.add("honest")
        assert await made.call(bodies.echo, 1) == 1
        assert loads.count > before
