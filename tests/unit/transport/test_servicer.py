"""The real servicer, driven by a plain gRPC client through the fixtures of pytest-grpc-aio."""

from __future__ import annotations

import asyncio
import logging
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractAsyncContextManager
from typing import Any, Protocol

import grpc
import grpc.aio
import pytest

from wool.limits import Limits
from wool.transport.base import Stream, StreamLost
from wool.transport.grpc import SessionServicer, add_servicer_to_server

Call = grpc.aio.StreamStreamCall[bytes, bytes]

LIMITS = Limits(close_seconds=0.3, handshake_seconds=0.2, unix_silence_seconds=0.2)


class ChannelFactory(Protocol):
    """What the plugin's fixture `grpc_aio_channel` is."""

    def __call__(self) -> AbstractAsyncContextManager[grpc.aio.Channel]: ...


class Handler:
    """Echoes, does what a message tells it, and remembers how its streams ended."""

    def __init__(self) -> None:
        self.ends: list[str] = []
        self.ended = asyncio.Event()

    async def __call__(self, stream: Stream) -> None:
        try:
            while True:
                match await stream.read():
                    case b"return":
                        return
                    case b"fail":
                        raise LookupError("on purpose")
                    case b"abort":
                        stream.abort("told to")
                    case b"flood":
                        while True:
                            await stream.write(bytes(1 << 16))
                    case message:
                        await stream.write(message)
        except StreamLost as lost:
            self.ends.append(str(lost))
            raise
        finally:
            self.ended.set()


@pytest.fixture
def grpc_addr() -> Iterator[str]:
    """A Unix socket: the plugin's own fixture leaves the socket open with which it looks for a port."""
    with tempfile.TemporaryDirectory() as directory:
        yield f"unix:{directory}/s"


@pytest.fixture
def grpc_add_to_server() -> Any:
    return add_servicer_to_server


@pytest.fixture
async def handler() -> Handler:
    return Handler()


@pytest.fixture
def grpc_servicer(handler: Handler) -> SessionServicer:
    return SessionServicer(handler, LIMITS)


@pytest.fixture
async def channel(grpc_aio_channel: ChannelFactory) -> AsyncIterator[grpc.aio.Channel]:
    async with grpc_aio_channel() as channel, channel:  # the plugin does not close it
        yield channel


def session(channel: grpc.aio.Channel, name: str | None = None) -> Call:
    method: grpc.aio.StreamStreamMultiCallable[bytes, bytes]
    method = channel.stream_stream("/wool.protocol.Worker/Session")
    return method(metadata=None if name is None else (("wool-stream", name),))


def pulse(channel: grpc.aio.Channel, name: str) -> Call:
    method: grpc.aio.StreamStreamMultiCallable[bytes, bytes]
    method = channel.stream_stream("/wool.protocol.Worker/Pulse")
    return method(metadata=(("wool-stream", name),))


async def test_an_accepted_call_is_told_so_before_a_message_is_written(channel: grpc.aio.Channel) -> None:
    call = session(channel)
    metadata = await call.initial_metadata()
    assert metadata.get("wool-session") == "open"


async def test_messages_pass_as_they_are(channel: grpc.aio.Channel) -> None:
    call = session(channel)
    for message in (b"", b"\0\xff" * 1000, b"not protobuf"):
        await call.write(message)
        assert await call.read() == message


async def test_half_closing_ends_the_stream_with_ok(channel: grpc.aio.Channel, handler: Handler) -> None:
    call = session(channel)
    await call.write(b"last")
    await call.done_writing()
    assert await call.read() == b"last"
    assert await call.read() is grpc.aio.EOF
    assert await call.code() == grpc.StatusCode.OK
    await handler.ended.wait()
    assert handler.ends == ["ended by the other end"]


async def test_a_handler_that_returns_ends_the_call_with_ok(channel: grpc.aio.Channel) -> None:
    call = session(channel)
    await call.write(b"return")
    assert await call.read() is grpc.aio.EOF
    assert await call.code() == grpc.StatusCode.OK


async def test_an_abort_is_a_status_with_the_reason(channel: grpc.aio.Channel, handler: Handler) -> None:
    call = session(channel)
    await call.write(b"abort")
    assert await call.code() == grpc.StatusCode.ABORTED
    assert await call.details() == "told to"
    await handler.ended.wait()
    assert handler.ends == ["told to"]


async def test_a_failing_handler_says_so_without_its_secrets(
    channel: grpc.aio.Channel, caplog: pytest.LogCaptureFixture
) -> None:
    call = session(channel)
    await call.write(b"fail")
    assert await call.code() == grpc.StatusCode.ABORTED
    assert await call.details() == "its handler failed"
    assert [record.name for record in caplog.records if record.levelno >= logging.ERROR] == ["wool.transport.serving"]


async def test_a_cancelled_call_is_the_end_of_the_stream_and_no_cancellation(
    channel: grpc.aio.Channel, handler: Handler
) -> None:
    call = session(channel)
    await call.initial_metadata()
    call.cancel()
    await handler.ended.wait()
    [end] = handler.ends
    assert end.startswith(("ended by the other end", "the other end is gone"))


async def test_a_caller_that_goes_while_it_is_written_to_is_the_end(
    channel: grpc.aio.Channel, handler: Handler
) -> None:
    call = session(channel)
    await call.write(b"flood")
    await call.read()
    call.cancel()
    await handler.ended.wait()
    assert len(handler.ends) == 1


async def test_calls_cancelled_at_any_moment_leave_nothing_and_log_nothing(
    channel: grpc.aio.Channel, grpc_servicer: SessionServicer, caplog: pytest.LogCaptureFixture
) -> None:
    for turns in range(60):
        call = session(channel)
        for _ in range(turns):
            await asyncio.sleep(0)
        call.cancel()
    last = session(channel)
    await last.write(b"unharmed")
    assert await last.read() == b"unharmed"
    await last.done_writing()
    assert await last.read() is grpc.aio.EOF
    while grpc_servicer.open:
        await asyncio.sleep(0.001)
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


async def test_closing_ends_every_call_and_refuses_new_ones(
    channel: grpc.aio.Channel, grpc_servicer: SessionServicer, handler: Handler
) -> None:
    calls = [session(channel) for _ in range(3)]
    for call in calls:
        await call.write(b"hello")
        assert await call.read() == b"hello"
    assert grpc_servicer.open == 3
    await grpc_servicer.close("enough")
    assert grpc_servicer.open == 0
    assert handler.ends == ["enough"] * 3
    for call in calls:
        assert (await call.code(), await call.details()) == (grpc.StatusCode.ABORTED, "enough")
    late = session(channel)
    assert await late.code() == grpc.StatusCode.UNAVAILABLE


async def test_a_pulse_ends_with_its_stream(channel: grpc.aio.Channel) -> None:
    beat = pulse(channel, "a")
    assert (await beat.initial_metadata()).get("wool-session") == "open"
    call = session(channel, "a")
    await call.write(b"return")
    assert await call.code() == grpc.StatusCode.OK
    assert await beat.code() == grpc.StatusCode.OK


async def test_a_stream_whose_pulse_breaks_is_lost_if_nothing_arrives(
    channel: grpc.aio.Channel, handler: Handler
) -> None:
    beat = pulse(channel, "a")
    await beat.initial_metadata()
    call = session(channel, "a")
    await call.write(b"hello")
    assert await call.read() == b"hello"
    beat.cancel()
    since = time.monotonic()
    await handler.ended.wait()
    assert time.monotonic() - since > LIMITS.unix_silence_seconds / 2
    assert handler.ends == ["the other end gives no sign of life"]
    assert await call.code() == grpc.StatusCode.ABORTED


async def test_a_stream_whose_pulse_breaks_is_read_as_long_as_something_arrives(channel: grpc.aio.Channel) -> None:
    beat = pulse(channel, "a")
    await beat.initial_metadata()
    call = session(channel, "a")
    await call.write(b"hello")
    assert await call.read() == b"hello"
    beat.cancel()
    until = time.monotonic() + 3 * LIMITS.unix_silence_seconds
    while time.monotonic() < until:
        await call.write(b"still here")
        assert await call.read() == b"still here"
        await asyncio.sleep(0.01)
    await call.write(b"return")
    assert await call.code() == grpc.StatusCode.OK


async def test_a_pulse_without_a_stream_is_ended_in_time_and_named_in_the_log(
    channel: grpc.aio.Channel, caplog: pytest.LogCaptureFixture
) -> None:
    assert await pulse(channel, "a").code() == grpc.StatusCode.DEADLINE_EXCEEDED
    assert any("refused a pulse from" in each and "stream has not come" in each for each in caplog.messages)


@pytest.mark.parametrize("taken", [False, True], ids=["nameless", "taken"])
async def test_a_pulse_needs_a_name_of_its_own(
    channel: grpc.aio.Channel, taken: bool, caplog: pytest.LogCaptureFixture
) -> None:
    first = pulse(channel, "a")
    await first.initial_metadata()
    assert await pulse(channel, "a" if taken else "").code() == grpc.StatusCode.INVALID_ARGUMENT
    assert any("names no stream of its own" in each for each in caplog.messages)
    call = session(channel, "a")
    await call.write(b"unharmed")
    assert await call.read() == b"unharmed"
    await call.done_writing()
    assert await first.code() == grpc.StatusCode.OK


async def test_another_method_is_not_implemented(channel: grpc.aio.Channel) -> None:
    method: grpc.aio.StreamStreamMultiCallable[bytes, bytes]
    method = channel.stream_stream("/wool.protocol.Worker/Other")
    assert await method().code() == grpc.StatusCode.UNIMPLEMENTED


async def test_who_calls_a_method_that_nobody_serves_is_told_so_and_named_in_the_log(
    channel: grpc.aio.Channel, caplog: pytest.LogCaptureFixture
) -> None:
    method: grpc.aio.StreamStreamMultiCallable[bytes, bytes] = channel.stream_stream("/wool.protocol.Worker/Stop")
    assert await method().code() == grpc.StatusCode.UNIMPLEMENTED
    [message] = [each for each in caplog.messages if "refused" in each]
    assert message.endswith(": there is no method /wool.protocol.Worker/Stop")
