"""What only the transport in memory promises: a repeatable run, and one place through which all passes."""

from __future__ import annotations

import asyncio
import random
from collections import deque

import pytest

from wool.limits import DEFAULT_LIMITS, KIB, Limits
from wool.transport.base import ConnectFailed, Stream, StreamLost
from wool.transport.memory import Broken, Ended, Item, MemoryNetwork, MemoryStream, MemoryTransport, Taken


async def scenario(seed: int) -> list[str]:
    """Let many streams talk at random, and write down what happened, in order."""
    story: list[str] = []
    dice = random.Random(seed)
    transport = MemoryTransport(MemoryNetwork(), Limits(close_seconds=0.01))

    async def serve(stream: Stream) -> None:
        try:
            while True:
                message = await stream.read()
                story.append(f"{stream!r} read {len(message)}")
                await stream.write(message)
                if dice.random() < 0.05:
                    stream.abort("at random")
        except StreamLost as lost:
            story.append(f"{stream!r} {lost}")

    async def call(number: int) -> None:
        stream = await transport.connect("unix:/s")
        try:
            for _ in range(20):
                await stream.write(bytes(dice.randrange(300 * KIB)))
                story.append(f"{number} got {len(await stream.read())}")
        except StreamLost as lost:
            story.append(f"{number} {lost}")
        await stream.close()

    listener = await transport.listen("unix:/s", serve)
    await asyncio.gather(*(call(number) for number in range(30)))
    await listener.close()
    return story


def test_the_same_inputs_give_the_same_run() -> None:
    stories = [asyncio.run(scenario(seed)) for seed in (1, 1, 2)]
    assert stories[0] == stories[1]
    assert stories[0] != stories[2]
    assert len(stories[0]) > 100


class SlowNetwork(MemoryNetwork):
    """Delivers nothing until it is told to; may lose what it holds. And refuses some addresses."""

    def __init__(self) -> None:
        super().__init__()
        self.held: deque[tuple[MemoryStream, Item]] = deque()

    async def open(self, address: str, limits: Limits) -> MemoryStream:
        if address == "unix:/partitioned":
            raise ConnectFailed("no route")
        return await super().open(address, limits)

    def carry(self, source: MemoryStream, item: Item) -> None:
        self.held.append((source, item))

    def deliver(self) -> None:
        while self.held:
            super().carry(*self.held.popleft())


async def test_all_that_one_end_tells_the_other_passes_through_one_method() -> None:
    network = SlowNetwork()
    transport = MemoryTransport(network)
    ends: asyncio.Queue[Stream] = asyncio.Queue()
    release = asyncio.Event()

    async def hand_over(stream: Stream) -> None:
        ends.put_nowait(stream)
        await release.wait()

    listener = await transport.listen("unix:/s", hand_over)
    with pytest.raises(ConnectFailed, match="no route"):
        await transport.connect("unix:/partitioned")

    near = await transport.connect("unix:/s")
    far = await ends.get()
    await near.write(b"one")
    await near.close()
    assert [item for _, item in network.held] == [b"one", Ended(reason="ended by the other end")]
    reading = asyncio.create_task(far.read())
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert not reading.done()
    network.deliver()
    assert await reading == b"one"
    with pytest.raises(StreamLost, match="ended by the other end"):
        await far.read()

    near = await transport.connect("unix:/s")
    far = await ends.get()
    await far.write(b"lost on the way")
    near.abort("cut")
    assert network.held[-1][1] == Broken(reason="cut")
    network.deliver()
    with pytest.raises(StreamLost, match="cut"):
        await far.read()
    release.set()
    await listener.close()


async def test_what_arrives_after_the_end_is_dropped() -> None:
    network = MemoryNetwork()
    transport = MemoryTransport(network)
    ends: asyncio.Queue[MemoryStream] = asyncio.Queue()
    release = asyncio.Event()

    async def hand_over(stream: Stream) -> None:
        assert isinstance(stream, MemoryStream)
        ends.put_nowait(stream)
        await release.wait()

    listener = await transport.listen("unix:/s", hand_over)
    near = await network.open("unix:/s", DEFAULT_LIMITS)
    far = await ends.get()
    await near.close()
    far.arrive(b"a ghost")
    far.arrive(Broken(reason="late"))
    near.arrive(b"another")
    for stream in (near, far):
        with pytest.raises(StreamLost):
            await stream.read()
    release.set()
    await listener.close()


async def test_room_for_more_passes_through_carry_too() -> None:
    class Held(MemoryNetwork):
        """Holds back what tells a writer of room."""

        def __init__(self) -> None:
            super().__init__()
            self.held: list[tuple[MemoryStream, Taken]] | None = []

        def carry(self, source: MemoryStream, item: Item) -> None:
            if self.held is not None and isinstance(item, Taken):
                self.held.append((source, item))
            else:
                super().carry(source, item)

    network = Held()
    limits = Limits(close_seconds=0.01)
    transport = MemoryTransport(network, limits)
    accepted: asyncio.Future[Stream] = asyncio.get_running_loop().create_future()
    done = asyncio.Event()

    async def serve(stream: Stream) -> None:
        accepted.set_result(stream)
        await done.wait()

    listener = await transport.listen("unix:/s", serve)
    near = await transport.connect("unix:/s")
    far = await accepted
    writing = asyncio.create_task(near.write(bytes(limits.unix_lookahead_bytes + 1)))
    assert len(await far.read()) > limits.unix_lookahead_bytes
    await asyncio.sleep(0.01)
    assert not writing.done()
    held, network.held = network.held or [], None
    for source, item in held:
        network.carry(source, item)
    await writing
    done.set()
    await near.close()
    await listener.close()
