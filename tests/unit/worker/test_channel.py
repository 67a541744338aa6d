"""The control channel: any message arrives as it was said, any other bytes are one named error."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import random
import socket
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from fixtures import make

from wool.discovery.base import WorkerMetadata
from wool.limits import DEFAULT_LIMITS, Limits
from wool.statistics import Statistics
from wool.worker.channel import (
    Ask,
    ChannelError,
    ChildChannel,
    Configure,
    Counted,
    Draining,
    Failed,
    Lines,
    Ready,
    Renew,
    Stop,
    Stopped,
    Worn,
    decode_from_owner,
    decode_from_worker,
    encode,
)
from wool.worker.retirement import Retirement

CONFIGURE = Configure(
    sys_path=("", "/a b", "/caf\u00e9", "/not-\udcfftext", "line\nbreak"),
    python_path="/p:/q",
    argv=("script.py", "--not-\udcfftext", ""),
    address="unix:/tmp/x",
    secret=bytes(range(32)),
    uid="u" * 32,
    tags=frozenset({"gpu", "eu"}),
    extra={"zone": "a", "": "\u2028"},
    limits=Limits(drain_seconds=1.5, inline_bytes=7),
    retirement=Retirement(max_tasks=50, memory_limit=2**40),
)
PLAIN = Configure(sys_path=(), python_path=None, address="127.0.0.1:0", secret=None)
METADATA = WorkerMetadata(uid="u", address="unix:/x", pid=1, version="1", tags=frozenset({"t"}), extra={"k": "v"})

STATISTICS = Statistics(
    **dict.fromkeys((field.name for field in dataclasses.fields(Statistics) if field.name != "draining"), 2**64 - 1),
    draining=True,
)

OWNER_SAYS = [
    CONFIGURE,
    PLAIN,
    Renew(credentials=make().credentials("worker")),
    Ask(),
    Stop(drain_seconds=0.0),
    Stop(drain_seconds=30),
]
WORKER_SAYS = [
    Ready(metadata=METADATA),
    Failed(text="Traceback\n  ...\nboom \u26a0"),
    Worn(why="it holds 7 bytes"),
    Counted(statistics=STATISTICS),
    Draining(),
    Stopped(interrupted=3),
]


@pytest.mark.parametrize("message", OWNER_SAYS, ids=lambda message: type(message).__name__)
def test_what_the_owner_says_arrives(message: Any) -> None:
    line = encode(message)
    assert line.endswith(b"\n")
    assert line.count(b"\n") == 1
    assert decode_from_owner(line[:-1]) == message
    with pytest.raises(ChannelError, match="none of"):
        decode_from_worker(line[:-1])


@pytest.mark.parametrize("message", WORKER_SAYS, ids=lambda message: type(message).__name__)
def test_what_the_worker_says_arrives(message: Any) -> None:
    line = encode(message)
    assert line.endswith(b"\n")
    assert line.count(b"\n") == 1
    assert decode_from_worker(line[:-1]) == message
    with pytest.raises(ChannelError, match="none of"):
        decode_from_owner(line[:-1])


def test_the_secret_is_in_no_repr_and_in_no_error() -> None:
    secret = b"\xab" * 32
    message = dataclasses.replace(PLAIN, secret=secret)
    assert secret.hex() not in repr(message)
    assert repr(secret) not in repr(message)
    line = encode(message)[:-1]
    for broken in (line[:-1], line.replace(b"abab", b"abxx"), line.replace(b'"uid"', b'"UID"'), b"[" + line):
        with pytest.raises(ChannelError) as caught:
            decode_from_owner(broken)
        seen: list[BaseException | None] = [caught.value, caught.value.__context__, caught.value.__cause__]
        for error in seen:
            assert "abab" not in repr(error)
            assert "abab" not in repr(getattr(error, "doc", ""))


def change(message: Any, **fields: object) -> bytes:
    record = json.loads(encode(message))
    for name, value in fields.items():
        record[name] = value
    return json.dumps(record).encode()


def counted(**fields: object) -> bytes:
    return change(Counted(statistics=STATISTICS), statistics={**dataclasses.asdict(STATISTICS), **fields})


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"{}",
        b"null",
        b"[]",
        b'"stop"',
        b'{"type":"stop"}',
        b'{"type":["stop"],"drain_seconds":1}',
        b'{"type":"stop","drain_seconds":1,"more":1}',
        b'{"type":"stop","drain_seconds":1,"drain_seconds":2}',
        b'{"type":"stop","drain_seconds":"1"}',
        b'{"type":"stop","drain_seconds":true}',
        b'{"type":"stop","drain_seconds":-1}',
        b'{"type":"stop","drain_seconds":NaN}',
        b'{"type":"stop","drain_seconds":Infinity}',
        b'{"type":"stop","drain_seconds":1e999}',
        b'{"type":"stop","drain_seconds":' + b"9" * 400 + b"}",
        b'{"type":"stop","drain_seconds":' + b"9" * 5000 + b"}",
        b'{"type":"stop","drain_seconds":1}\xff',
        b"{'type':'stop'}",
        b'{"type":"st\xc3\xb6p"}',
        b"[" * 200_000,
        b'{"a":' * 50_000,
        b'{"type":"stopped"}',
        b'{"type":"stopped","interrupted":-1}',
        b'{"type":"stopped","interrupted":true}',
        b'{"type":"stopped","interrupted":1.0}',
        change(CONFIGURE, log_style="xml"),
        change(CONFIGURE, log_level="loud"),
        change(CONFIGURE, sys_path=[1]),
        change(CONFIGURE, sys_path="x"),
        change(CONFIGURE, python_path=3),
        change(CONFIGURE, address=""),
        change(CONFIGURE, secret=""),
        change(CONFIGURE, secret="zz"),
        change(CONFIGURE, secret=[1]),
        change(CONFIGURE, uid=""),
        change(CONFIGURE, uid="u" * 65),
        change(CONFIGURE, tags=[""]),
        change(CONFIGURE, tags=[["x"]]),
        change(CONFIGURE, extra={"a": 1}),
        change(CONFIGURE, extra=[]),
        change(CONFIGURE, retirement=None),
        change(CONFIGURE, retirement={"max_tasks": 1}),
        change(CONFIGURE, retirement={"max_tasks": 0, "memory_limit": None}),
        change(CONFIGURE, retirement={"max_tasks": None, "memory_limit": 1.5}),
        change(CONFIGURE, limits={}),
        change(CONFIGURE, limits={**dataclasses.asdict(DEFAULT_LIMITS), "unknown": 1}),
        change(CONFIGURE, limits={**dataclasses.asdict(DEFAULT_LIMITS), "inline_bytes": 1.5}),
        change(CONFIGURE, limits={**dataclasses.asdict(DEFAULT_LIMITS), "inline_bytes": True}),
        change(CONFIGURE, limits={**dataclasses.asdict(DEFAULT_LIMITS), "inline_bytes": -1}),
        change(CONFIGURE, limits={**dataclasses.asdict(DEFAULT_LIMITS), "drain_seconds": "1"}),
        change(CONFIGURE, limits={**dataclasses.asdict(DEFAULT_LIMITS), "drain_seconds": math.inf}),
    ],
    ids=lambda line: repr(line[:60]),
)
def test_anything_else_from_the_owner_is_one_error(line: bytes) -> None:
    with pytest.raises(ChannelError):
        decode_from_owner(line)


@pytest.mark.parametrize(
    "line",
    [
        b'{"type":"ready"}',
        b'{"type":"ready","metadata":{}}',
        b'{"type":"ready","metadata":"{}"}',
        b'{"type":"ready","metadata":"\\ud800"}',
        json.dumps(
            {"type": "ready", "metadata": METADATA.to_bytes().decode().replace('"pid":1', '"pid":"1"')}
        ).encode(),
        json.dumps({"type": "ready", "metadata": " " * 3000}).encode(),
        b'{"type":"failed","text":null}',
        b'{"type":"draining","text":null}',
        b'{"type":"worn"}',
        b'{"type":"worn","why":1}',
        b'{"type":"counted"}',
        b'{"type":"counted","statistics":[]}',
        change(Counted(statistics=STATISTICS), statistics={"done": 1}),
        counted(done=-1),
        counted(done=1.5),
        counted(done=True),
        counted(draining=1),
        counted(more=1),
    ],
)
def test_anything_else_from_the_worker_is_one_error(line: bytes) -> None:
    with pytest.raises(ChannelError):
        decode_from_worker(line)


def test_any_bytes_are_a_message_or_the_one_error() -> None:
    chance = random.Random(20240)
    seeds = [encode(message)[:-1] for message in (*OWNER_SAYS, *WORKER_SAYS)]
    alphabet = b'{}[]",:0123456789eE+-.\\u\x00\xffnulltrufas'
    good = 0
    for _ in range(20_000):
        line = bytearray(chance.choice(seeds))
        for _ in range(chance.randrange(4)):
            at = chance.randrange(len(line) + 1)
            match chance.randrange(4):
                case 0:
                    line[at : at + chance.randrange(8)] = bytes(chance.choices(alphabet, k=chance.randrange(6)))
                case 1:
                    line[at : at + 1] = chance.randbytes(1)
                case 2:
                    del line[at:]
                case _:
                    line[at:at] = line[: chance.randrange(40)]
        for decode in (decode_from_owner, decode_from_worker):
            try:
                decode(bytes(line))
                good += 1
            except ChannelError:
                continue
    assert good > 1000
    for _ in range(2_000):
        with pytest.raises(ChannelError):
            decode_from_owner(chance.randbytes(chance.randrange(200)))


def test_a_message_that_is_too_long_is_neither_said_nor_read() -> None:
    most = DEFAULT_LIMITS.control_message_bytes
    with pytest.raises(ChannelError, match="control_message_bytes"):
        encode(Failed(text="x" * most))
    with pytest.raises(ChannelError, match="over"):
        decode_from_worker(b" " * most)
    lines = Lines()
    for _ in range(4):
        assert lines.feed(b"x" * (most // 4 - 1)) == []
    with pytest.raises(ChannelError, match="over"):
        lines.feed(b"xxxx")


def test_a_limit_that_is_not_finite_cannot_be_sent() -> None:
    with pytest.raises(ChannelError, match="finite"):
        encode(dataclasses.replace(PLAIN, limits=Limits(drain_seconds=math.inf)))


@pytest.mark.parametrize("seconds", [-1, math.nan, math.inf])
def test_a_drain_time_is_finite_and_not_negative(seconds: float) -> None:
    with pytest.raises(ValueError, match="drain_seconds"):
        Stop(drain_seconds=seconds)


def test_lines_come_out_whole_however_they_are_cut() -> None:
    text = b"one\ntwo\n\nthree\nrest"
    for size in range(1, len(text) + 1):
        lines = Lines()
        found = [line for at in range(0, len(text), size) for line in lines.feed(text[at : at + size])]
        assert found == [b"one", b"two", b"", b"three"]
        assert lines.feed(b"!\n") == [b"rest!"]


@pytest.fixture
def ends() -> Iterator[tuple[socket.socket, ChildChannel]]:
    owner, child = socket.socketpair()
    channel = ChildChannel(child.detach())
    yield owner, channel
    owner.close()
    channel.close()
    channel.close()


def test_the_child_takes_one_message_at_a_time(ends: tuple[socket.socket, ChildChannel]) -> None:
    owner, channel = ends
    assert not os.get_inheritable(channel.fileno())
    assert channel.receive_available() == ()
    big = dataclasses.replace(CONFIGURE, sys_path=("x" * 300_000,))
    sender = threading.Thread(target=lambda: owner.sendall(encode(big) + encode(Stop(drain_seconds=1))))
    sender.start()
    assert channel.receive() == big
    sender.join()
    assert channel.receive_available() == (Stop(drain_seconds=1),)
    assert channel.receive_available() == ()
    owner.sendall(encode(Stop(drain_seconds=2)) + encode(Stop(drain_seconds=3)))
    assert channel.receive() == Stop(drain_seconds=2)
    owner.close()
    assert channel.receive_available() == (Stop(drain_seconds=3),)
    with pytest.raises(EOFError):
        channel.receive_available()
    with pytest.raises(EOFError):
        channel.receive()


def test_what_several_threads_send_is_not_mixed(ends: tuple[socket.socket, ChildChannel]) -> None:
    owner, channel = ends
    assert not channel.has_started
    texts = [str(number) * 50_000 for number in range(8)]
    threads = [threading.Thread(target=channel.send, args=(Failed(text=text),)) for text in texts]
    for thread in threads:
        thread.start()
    lines, found = Lines(), list[str]()
    while len(found) < len(texts):
        for line in lines.feed(owner.recv(1000)):
            message = decode_from_worker(line)
            assert isinstance(message, Failed)
            found.append(message.text)
    for thread in threads:
        thread.join()
    assert sorted(found) == texts
    assert channel.has_started


def test_nonsense_from_the_owner_is_one_error(ends: tuple[socket.socket, ChildChannel]) -> None:
    owner, channel = ends
    owner.sendall(b"hello\nhello\n")
    with pytest.raises(ChannelError):
        channel.receive()
    with pytest.raises(ChannelError):
        channel.receive_available()


def test_sending_to_an_owner_that_is_gone_raises(ends: tuple[socket.socket, ChildChannel]) -> None:
    owner, channel = ends
    owner.close()
    with pytest.raises(OSError):
        channel.send(Draining())
