"""What every transport promises: one suite, over memory, over gRPC on a Unix socket, on loopback TCP, and on TLS.

The engine and the simulator rely on nothing that is not in here. What only gRPC can get wrong (sockets,
strangers at the port, many event loops) is in `test_grpc`.
"""

from __future__ import annotations

import asyncio
import logging
import os
import tempfile
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from fixtures import make

from wool.limits import KIB, MIB, Limits
from wool.transport.base import ConnectFailed, Listener, Stream, StreamHandler, StreamLost, Transport
from wool.transport.grpc import GrpcTransport
from wool.transport.memory import MemoryNetwork, MemoryTransport

QUICK = Limits(close_seconds=0.3)
"""For tests in which somebody does not do his part, so that a bound is waited for."""


CREDENTIALS = make().credentials("worker")


@dataclass
class Net:
    """The transport under test, and where it may listen."""

    make: Callable[[Limits], Transport]
    address: str
    opened: list[Transport] = field(default_factory=list)

    def transport(self, limits: Limits | None = None) -> Transport:
        transport = self.make(limits or Limits())
        self.opened.append(transport)
        return transport


@pytest.fixture(params=["memory", "unix", "tcp", "tls"])
async def net(request: pytest.FixtureRequest) -> AsyncIterator[Net]:
    with tempfile.TemporaryDirectory() as directory:
        if request.param == "memory":
            network = MemoryNetwork()
            net = Net(lambda limits: MemoryTransport(network, limits), "unix:/somewhere")
        elif request.param == "unix":
            net = Net(GrpcTransport, f"unix:{directory}/s")
        elif request.param == "tls":
            net = Net(lambda limits: GrpcTransport(limits, lambda: CREDENTIALS), "127.0.0.1:0")
        else:
            net = Net(GrpcTransport, "127.0.0.1:0")
        yield net
        for transport in net.opened:
            await transport.close()


@asynccontextmanager
async def listening(net: Net, handler: StreamHandler, limits: Limits | None = None) -> AsyncIterator[Listener]:
    listener = await net.transport(limits).listen(net.address, handler)
    try:
        yield listener
    finally:
        await listener.close()


@asynccontextmanager
async def joined(net: Net, limits: Limits | None = None) -> AsyncIterator[tuple[Stream, Stream]]:
    """Yield both ends of one stream: the one that connected and the one that was accepted."""
    accepted: asyncio.Future[Stream] = asyncio.get_running_loop().create_future()
    release = asyncio.Event()

    async def hand_over(stream: Stream) -> None:
        accepted.set_result(stream)
        await release.wait()

    async with listening(net, hand_over, limits) as listener:
        near = await net.transport(limits).connect(listener.address)
        try:
            yield near, await accepted
        finally:
            release.set()
            await near.close()


@pytest.fixture(params=["connected", "accepted"])
def turn(request: pytest.FixtureRequest) -> Callable[[Stream, Stream], tuple[Stream, Stream]]:
    """Say which end does it: the promises are the same for both."""
    return (lambda near, far: (near, far)) if request.param == "connected" else (lambda near, far: (far, near))


Turn = Callable[[Stream, Stream], tuple[Stream, Stream]]


async def echo(stream: Stream) -> None:
    while True:
        await stream.write(await stream.read())


async def ask(stream: Stream, message: bytes) -> bytes:
    await stream.write(message)
    return await stream.read()


async def read_all(stream: Stream) -> list[bytes]:
    messages: list[bytes] = []
    try:
        while True:
            messages.append(await stream.read())
    except StreamLost:
        return messages


async def write_all(stream: Stream, messages: list[bytes]) -> None:
    for message in messages:
        await stream.write(message)


async def until(condition: Callable[[], Any]) -> None:
    """Poll for what gives no signal; a time-out of the test ends what never comes."""
    while not condition():
        await asyncio.sleep(0.001)


async def standing_still(count: Callable[[], int], net: Net) -> None:
    """Return when ``count`` has not moved while a stream of its own made a hundred round trips."""
    network = net.make
    side = Net(network, "unix:/aside" if "somewhere" in net.address else net.address.replace("/s", "/side"))
    async with listening(side, echo) as listener:
        stream = await side.transport().connect(listener.address)
        before = -1
        while before != count():
            before = count()
            for _ in range(100):
                await stream.write(b"still there?")
                await stream.read()
        await stream.close()
    for transport in side.opened:
        await transport.close()


# ---- messages --------------------------------------------------------------------------------------


async def test_messages_arrive_in_order_both_ways(net: Net) -> None:
    async with joined(net) as (near, far):
        for writer, reader in ((near, far), (far, near)):
            sent = [f"{number}".encode() for number in range(500)]
            writing = asyncio.create_task(write_all(writer, sent))
            assert [await reader.read() for _ in sent] == sent
            await writing


@pytest.mark.parametrize("size", [0, 1, 1 * MIB, Limits().message_bytes])
async def test_a_message_arrives_whole_whatever_its_size(net: Net, size: int) -> None:
    message = os.urandom(size)
    async with joined(net) as (near, far):
        for writer, reader in ((near, far), (far, near)):
            writing = asyncio.create_task(writer.write(message))
            assert await reader.read() == message
            await writing


async def test_both_ends_write_and_read_at_once(net: Net) -> None:
    sent = [bytes([number]) * 64 * KIB for number in range(200)]

    async def read(stream: Stream) -> list[bytes]:
        return [await stream.read() for _ in sent]

    async with joined(net) as (near, far), asyncio.TaskGroup() as tasks:
        readings = [tasks.create_task(read(stream)) for stream in (near, far)]
        for stream in (near, far):
            tasks.create_task(write_all(stream, sent))
        assert [await reading for reading in readings] == [sent, sent]


async def test_a_writer_waits_while_the_other_end_does_not_read_and_goes_on_when_it_does(net: Net, turn: Turn) -> None:
    sent = [bytes([number % 256]) * 64 * KIB for number in range(512)]
    taken = 0

    async def write(stream: Stream) -> None:
        nonlocal taken
        for message in sent:
            await stream.write(message)
            taken += 1

    async with joined(net) as pair:
        writer, reader = turn(*pair)
        writing = asyncio.create_task(write(writer))
        await standing_still(lambda: taken, net)
        assert taken * 64 * KIB <= 8 * MIB
        assert not writing.done()
        assert [await reader.read() for _ in sent] == sent
        await writing


async def test_two_ends_that_only_write_both_wait_and_lose_nothing(net: Net) -> None:
    sent = [bytes([number % 256]) * 64 * KIB for number in range(256)]
    async with joined(net) as (near, far):
        writings = [asyncio.create_task(write_all(stream, sent)) for stream in (near, far)]
        await standing_still(lambda: sum(writing.done() for writing in writings), net)
        assert not any(writing.done() for writing in writings)
        for stream in (near, far):
            assert [await stream.read() for _ in sent] == sent
        await asyncio.gather(*writings)


async def test_a_message_above_the_limit_is_refused_and_harms_nothing(net: Net, turn: Turn) -> None:
    async with joined(net) as pair:
        writer, reader = turn(*pair)
        with pytest.raises(ValueError, match=r"Limits\.message_bytes"):
            await writer.write(bytes(Limits().message_bytes + 1))
        await writer.write(b"small")
        assert await reader.read() == b"small"


async def test_a_second_reader_or_writer_is_refused_and_harms_nothing(net: Net, turn: Turn) -> None:
    async with joined(net) as pair:
        one, other = turn(*pair)
        reading = asyncio.create_task(one.read())
        await asyncio.sleep(0)
        with pytest.raises(RuntimeError, match="one task at a time may read from"):
            await one.read()
        await other.write(b"for the first")
        assert await reading == b"for the first"
        writing = asyncio.create_task(one.write(bytes(Limits().message_bytes)))
        await asyncio.sleep(0)
        with pytest.raises(RuntimeError, match="one task at a time may write to"):
            await one.write(b"")
        assert len(await other.read()) == Limits().message_bytes
        await writing


# ---- the end ---------------------------------------------------------------------------------------


async def test_close_delivers_what_was_written_before(net: Net, turn: Turn) -> None:
    sent = [b"%d" % number * 100 for number in range(100)]
    async with joined(net) as pair:
        closer, reader = turn(*pair)
        await write_all(closer, sent)
        closing = asyncio.create_task(closer.close())
        assert await read_all(reader) == sent
        await closing


async def test_close_delivers_although_the_other_end_writes_into_it(net: Net, turn: Turn) -> None:
    sent = [b"%d" % number * 100 for number in range(100)]
    async with joined(net) as pair:
        closer, other = turn(*pair)
        await write_all(closer, sent)
        closing = asyncio.create_task(closer.close())

        async def write_until_lost() -> None:
            while True:
                await other.write(bytes(64 * KIB))

        if closer is pair[1]:
            # The accepted end does not read what comes after its close, so the writer must learn of it.
            with pytest.raises(StreamLost):
                await write_until_lost()
        assert await read_all(other) == sent
        with pytest.raises(StreamLost):
            await write_until_lost()
        await closing


async def test_a_handler_that_returns_closes_its_stream(net: Net) -> None:
    sent = [b"a", b"b", b"c"]
    async with listening(net, lambda stream: write_all(stream, sent)) as listener:
        near = await net.transport().connect(listener.address)
        assert await read_all(near) == sent
        await near.close()


async def test_the_end_stays_the_end(net: Net, turn: Turn) -> None:
    async with joined(net) as pair:
        closer, other = turn(*pair)
        closing = asyncio.create_task(closer.close())
        for _ in range(3):
            with pytest.raises(StreamLost):
                await other.read()
        for stream in (other, closer):
            with pytest.raises(StreamLost):
                await stream.write(b"too late")
        for _ in range(3):
            with pytest.raises(StreamLost, match="closed at this end"):
                await closer.read()
        await closing


async def test_close_ends_a_read_that_waits(net: Net, turn: Turn) -> None:
    async with joined(net) as pair:
        closer, other = turn(*pair)
        reading = asyncio.create_task(closer.read())
        closing = asyncio.create_task(closer.close())
        assert await read_all(other) == []
        await closing
        with pytest.raises(StreamLost):
            await reading


async def test_close_ends_a_write_of_the_other_end_that_waits(net: Net, turn: Turn) -> None:
    taken = 0

    async def fill(stream: Stream) -> None:
        nonlocal taken
        while True:
            await stream.write(bytes(64 * KIB))
            taken += 1

    async with joined(net, QUICK) as pair:
        closer, other = turn(*pair)
        writing = asyncio.create_task(fill(other))
        reading = asyncio.create_task(other.read())
        await standing_still(lambda: taken, net)
        await closer.close()
        for task in (writing, reading):
            with pytest.raises(StreamLost):
                await task


async def test_close_is_bounded_although_the_other_end_neither_reads_nor_closes(net: Net, turn: Turn) -> None:
    async with joined(net, QUICK) as pair:
        closer, _ = turn(*pair)
        writing = asyncio.create_task(write_all(closer, [bytes(64 * KIB)] * 500))
        await asyncio.sleep(0)
        start = time.monotonic()
        await closer.close()
        assert time.monotonic() - start < 10 * QUICK.close_seconds
        with pytest.raises(StreamLost):
            await writing


async def test_close_may_be_repeated_and_run_twice_at_once(net: Net, turn: Turn) -> None:
    async with joined(net) as pair:
        closer, other = turn(*pair)
        closings = [asyncio.create_task(closer.close()) for _ in range(3)]
        await read_all(other)
        await asyncio.gather(*closings)
        await closer.close()
        closer.abort("after close")


async def test_a_cancelled_close_closes_all_the_same(net: Net, turn: Turn) -> None:
    async with joined(net, QUICK) as pair:
        closer, other = turn(*pair)
        closing = asyncio.create_task(closer.close())
        await asyncio.sleep(0)
        closing.cancel()
        await asyncio.wait([closing])
        assert await read_all(other) == []
        await closer.close()


@pytest.mark.parametrize("waiting", ["connected", "accepted"])
async def test_abort_ends_reads_and_writes_that_wait_at_either_end(net: Net, turn: Turn, waiting: str) -> None:
    taken = 0

    async def fill(stream: Stream) -> None:
        nonlocal taken
        while True:
            await stream.write(bytes(64 * KIB))
            taken += 1

    async with joined(net) as pair:
        aborter, _ = turn(*pair)
        filler = pair[0] if waiting == "connected" else pair[1]
        waiting_tasks = [asyncio.create_task(fill(filler)), asyncio.create_task(filler.read())]
        await standing_still(lambda: taken, net)
        assert not any(task.done() for task in waiting_tasks)
        aborter.abort("enough")
        # Although nobody reads what has been written.
        outcomes = await asyncio.gather(*waiting_tasks, return_exceptions=True)
        assert [type(outcome) for outcome in outcomes] == [StreamLost, StreamLost]
        for stream in pair:
            await read_all(stream)
            with pytest.raises(StreamLost):
                await fill(stream)


async def test_abort_takes_effect_at_once_at_its_own_end(net: Net, turn: Turn) -> None:
    async with joined(net) as pair:
        aborter, other = turn(*pair)
        await other.write(b"unread")
        aborter.abort("first reason")
        aborter.abort("second reason")
        for _ in range(2):
            with pytest.raises(StreamLost, match="first reason"):
                await aborter.read()
            with pytest.raises(StreamLost, match="first reason"):
                await aborter.write(b"")
        assert await read_all(other) == []


async def test_each_direction_of_an_aborted_stream_has_delivered_a_prefix(net: Net, turn: Turn) -> None:
    sent = [b"%d" % number for number in range(2000)]
    async with joined(net) as pair:
        aborter, other = turn(*pair)
        writing = asyncio.create_task(write_all(aborter, sent))
        first = [await other.read() for _ in range(500)]
        aborter.abort("in the middle")
        got = first + await read_all(other)
        assert got == sent[: len(got)]
        await asyncio.wait([writing])
        assert writing.exception() is None or isinstance(writing.exception(), StreamLost)


async def test_a_cancelled_read_breaks_the_stream_and_stays_a_cancellation(net: Net, turn: Turn) -> None:
    async with joined(net) as pair:
        one, other = turn(*pair)
        reading = asyncio.create_task(one.read())
        await asyncio.sleep(0)
        reading.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reading
        for stream in (one, other):
            with pytest.raises(StreamLost):
                await stream.read()


async def test_a_cancelled_write_breaks_the_stream_and_stays_a_cancellation(net: Net, turn: Turn) -> None:
    async with joined(net) as pair:
        one, other = turn(*pair)
        writing = asyncio.create_task(write_all(one, [bytes(MIB)] * 20))
        await asyncio.sleep(0)
        writing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await writing
        await read_all(other)
        with pytest.raises(StreamLost):
            await one.read()


async def test_a_time_out_around_a_read_is_a_time_out(net: Net, turn: Turn) -> None:
    async with joined(net) as pair:
        one, _ = turn(*pair)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await one.read()


async def test_abort_and_cancellation_at_once_are_a_cancellation(net: Net, turn: Turn) -> None:
    async with joined(net) as pair:
        one, _ = turn(*pair)
        for cancel_first in (True, False):
            reading = asyncio.create_task(one.read())
            await asyncio.sleep(0)
            if cancel_first:
                reading.cancel()
            one.abort("at the same time")
            if not cancel_first and not reading.done():
                reading.cancel()
            await asyncio.wait([reading])
            if cancel_first:
                assert reading.cancelled()
            else:
                assert reading.cancelled() or isinstance(reading.exception(), StreamLost)


async def test_a_task_that_cleans_up_after_its_cancellation_sees_an_abort_as_lost(net: Net, turn: Turn) -> None:
    started = asyncio.Event()

    async def work(stream: Stream) -> str:
        try:
            started.set()
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            try:
                await stream.read()
            except StreamLost as lost:
                return str(lost)
        return "neither"

    async with joined(net) as pair:
        one, _ = turn(*pair)
        working = asyncio.create_task(work(one))
        await started.wait()
        working.cancel()
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        one.abort("meanwhile")
        assert await working == "meanwhile"
        assert working.cancelling() == 1, "the abort must take back its own cancellation, and only that"


# ---- opening ---------------------------------------------------------------------------------------


async def test_connecting_to_nobody_fails_at_once_and_names_the_address(net: Net) -> None:
    async with listening(net, echo) as listener:
        address = listener.address
    start = time.monotonic()
    with pytest.raises(ConnectFailed, match=address.replace("/", ".").replace("[", ".")):
        await net.transport().connect(address)
    assert time.monotonic() - start < 2


async def test_somebody_who_comes_back_is_reached_again(net: Net) -> None:
    transport = net.transport()
    listener = await transport.listen(net.address, echo)
    for _ in range(3):
        await listener.close()
        with pytest.raises(ConnectFailed):
            await transport.connect(listener.address)
        listener = await transport.listen(listener.address, echo)
        stream = await transport.connect(listener.address)
        await stream.write(b"again")
        assert await stream.read() == b"again"
        await stream.close()
    await listener.close()


async def test_an_address_in_use_is_an_error_that_names_it_and_harms_nobody(net: Net) -> None:
    async with listening(net, echo) as listener:
        with pytest.raises(OSError, match="in use") as raised:
            await net.transport().listen(listener.address, echo)
        assert listener.address in str(raised.value)
        stream = await net.transport().connect(listener.address)
        await stream.write(b"still here")
        assert await stream.read() == b"still here"
        await stream.close()


async def test_a_cancelled_connect_leaves_nothing_whenever_it_is_cancelled(net: Net) -> None:
    opened = 0

    async def handler(stream: Stream) -> None:
        nonlocal opened
        opened += 1
        await echo(stream)

    async with listening(net, handler) as listener:
        transport = net.transport()
        for steps in range(40):
            connecting = asyncio.create_task(transport.connect(listener.address))
            for _ in range(steps):
                await asyncio.sleep(0)
            connecting.cancel()
            await asyncio.wait([connecting])
            if not connecting.cancelled():
                await connecting.result().close()
        stream = await transport.connect(listener.address)
        await stream.write(b"and the next one works")
        assert await stream.read() == b"and the next one works"
        await stream.close()


async def test_streams_of_one_listener_do_not_touch_each_other(net: Net) -> None:
    async with listening(net, echo) as listener:
        transport = net.transport()
        streams = [await transport.connect(listener.address) for _ in range(20)]
        for number, stream in enumerate(streams):
            await stream.write(b"%d" % number)
        streams[7].abort("one of them")
        for number, stream in enumerate(streams):
            if number != 7:
                assert await stream.read() == b"%d" % number
        await asyncio.gather(*(stream.close() for stream in streams))


# ---- the listener ----------------------------------------------------------------------------------


async def test_a_failing_handler_ends_only_its_own_stream_and_is_logged(
    net: Net, caplog: pytest.LogCaptureFixture
) -> None:
    async def handler(stream: Stream) -> None:
        while (message := await stream.read()) != b"fail":
            await stream.write(message)
        raise LookupError("on purpose")

    async with listening(net, handler) as listener:
        transport = net.transport()
        failing, other = [await transport.connect(listener.address) for _ in range(2)]
        with caplog.at_level(logging.ERROR):
            with pytest.raises(StreamLost):
                await ask(failing, b"fail")
        assert [record.exc_info[0] for record in caplog.records if record.exc_info] == [LookupError]
        await other.write(b"unharmed")
        assert await other.read() == b"unharmed"
        for stream in (failing, other):
            await stream.close()


async def test_closing_a_listener_ends_its_streams_and_their_handlers(net: Net) -> None:
    ended: list[str] = []

    async def handler(stream: Stream) -> None:
        try:
            await echo(stream)
        except StreamLost as lost:
            ended.append(str(lost))

    listener = await net.transport().listen(net.address, handler)
    transport = net.transport()
    streams = [await transport.connect(listener.address) for _ in range(3)]
    await streams[0].write(b"busy")
    await listener.close()
    assert ended == ["the listener was closed"] * 3
    for stream in streams:
        await read_all(stream)
        with pytest.raises(StreamLost):
            await stream.write(b"")
        await stream.close()
    with pytest.raises(ConnectFailed):
        await transport.connect(listener.address)
    await listener.close()


async def test_closing_a_listener_is_bounded_although_a_handler_does_not_end(
    net: Net, caplog: pytest.LogCaptureFixture
) -> None:
    started, ended = asyncio.Event(), asyncio.Event()

    async def stubborn(_: Stream) -> None:
        started.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    listener = await net.transport(QUICK).listen(net.address, stubborn)
    stream = await net.transport().connect(listener.address)
    await started.wait()
    start = time.monotonic()
    await listener.close()
    assert time.monotonic() - start < 10 * QUICK.close_seconds
    assert ended.is_set()
    with pytest.raises(StreamLost):
        await stream.read()
    await stream.close()


async def test_a_handler_that_survives_even_its_cancellation_is_named(
    net: Net, caplog: pytest.LogCaptureFixture
) -> None:
    release = asyncio.Event()

    async def immortal(_: Stream) -> None:
        while not release.is_set():
            with suppress(asyncio.CancelledError):
                await release.wait()

    listener = await net.transport(QUICK).listen(net.address, immortal)
    stream = await net.transport().connect(listener.address)
    await stream.write(b"")
    await listener.close()
    release.set()
    await stream.close()
    errors = [record.getMessage() for record in caplog.records if record.levelno == logging.ERROR]
    assert errors == [f"{listener.address}: stream 1 does not end, although its stream is gone and it was cancelled"]


async def test_closing_a_listener_is_bounded_although_a_caller_does_not_read(net: Net) -> None:
    async def flood(stream: Stream) -> None:
        while True:
            await stream.write(bytes(64 * KIB))

    listener = await net.transport(QUICK).listen(net.address, flood)
    stream = await net.transport().connect(listener.address)
    await stream.read()
    start = time.monotonic()
    await listener.close()
    assert time.monotonic() - start < 10 * QUICK.close_seconds
    await stream.close()


async def test_a_cancelled_close_of_a_listener_closes_all_the_same(net: Net) -> None:
    listener = await net.transport().listen(net.address, echo)
    stream = await net.transport().connect(listener.address)
    closing = asyncio.create_task(listener.close())
    await asyncio.sleep(0)
    closing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await closing
    with pytest.raises(StreamLost):
        await stream.read()
    await stream.close()
    await listener.close()


async def test_port_zero_means_any_and_the_address_says_which(net: Net) -> None:
    if net.address.startswith("unix:/") and "somewhere" not in net.address:
        pytest.skip("a Unix socket has no port")
    transport = net.transport()
    listeners = [await transport.listen("127.0.0.1:0", echo) for _ in range(2)]
    addresses = {listener.address for listener in listeners}
    assert len(addresses) == 2
    assert "127.0.0.1:0" not in addresses
    for listener in listeners:
        stream = await transport.connect(listener.address)
        await stream.close()
        await listener.close()


# ---- leaks -----------------------------------------------------------------------------------------


def open_descriptors() -> int:
    return len(os.listdir("/proc/self/fd" if Path("/proc/self/fd").exists() else "/dev/fd"))


async def test_closed_streams_that_are_kept_hold_no_descriptor(net: Net) -> None:
    accepted: list[Stream] = []

    async def keep(stream: Stream) -> None:
        accepted.append(stream)
        await echo(stream)

    async with listening(net, keep) as listener:
        transport = net.transport()
        await (await transport.connect(listener.address)).close()
        before = open_descriptors()
        streams = [await transport.connect(listener.address) for _ in range(20)]
        await asyncio.gather(*(ask(stream, b"hello") for stream in streams))
        await asyncio.gather(*(stream.close() for stream in streams))
        await until(lambda: open_descriptors() <= before)
        for stream in streams + accepted:
            stream.abort("already closed")
            with pytest.raises(StreamLost):
                await stream.read()


@pytest.mark.parametrize("how", ["close", "abort", "the other end closes", "cancel a read"])
async def test_two_hundred_streams_leave_no_task_no_descriptor_and_no_thread(
    net: Net, how: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def once(stream: Stream) -> None:
        await stream.write(await stream.read())

    async with listening(net, once if how == "the other end closes" else echo) as listener:
        transport = net.transport()

        async def open_and_end() -> None:
            stream = await transport.connect(listener.address)
            await stream.write(b"hello")
            assert await stream.read() == b"hello"
            match how:
                case "abort":
                    stream.abort("enough")
                case "the other end closes":
                    assert await read_all(stream) == []
                case "cancel a read":
                    with pytest.raises(TimeoutError):
                        async with asyncio.timeout(0):
                            await stream.read()
                case _:
                    pass
            await stream.close()

        for _ in range(5):
            await open_and_end()
        tasks, descriptors, threads = len(asyncio.all_tasks()), open_descriptors(), threading.active_count()
        for _ in range(20):
            await asyncio.gather(*(open_and_end() for _ in range(10)))
        await until(lambda: len(asyncio.all_tasks()) <= tasks)
        await until(lambda: open_descriptors() <= descriptors)
        await until(lambda: threading.active_count() <= threads)
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]
