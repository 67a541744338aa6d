"""One worker in a caller's view: opened when needed, probed when lost, given up when refused."""

from __future__ import annotations

import asyncio

import pytest

from support.one_loop import QUICK, metadata_of, until
from wool.connection import Connection
from wool.discovery.base import WorkerMetadata
from wool.errors import RpcError, TransientRpcError
from wool.link import Link, LinkState


class Owner:
    """A proxy, as far as a link knows it."""

    def __init__(self) -> None:
        self.told: list[str] = []

    def opened(self, link: Link) -> None:
        self.told.append("opened")

    def unreachable(self, link: Link, reason: RpcError) -> None:
        self.told.append(f"unreachable: {reason}")

    def slow_to_connect(self, link: Link) -> None:
        self.told.append("slow")

    def __getattr__(self, name: str) -> object:
        return lambda *args: self.told.append(name)


class Connecting:
    """Opens sessions as a test says."""

    def __init__(self, *outcomes: Exception | None) -> None:
        self.outcomes = list(outcomes)
        self.times: list[float] = []
        self.held = asyncio.Event()
        self.held.set()

    async def __call__(self, metadata: WorkerMetadata) -> Connection:
        self.times.append(asyncio.get_running_loop().time())
        await self.held.wait()
        outcome = self.outcomes.pop(0) if self.outcomes else TransientRpcError("nobody")
        assert outcome is not None
        raise outcome


def link_of(connect: Connecting) -> tuple[Link, Owner]:
    owner = Owner()
    link = Link(
        metadata=metadata_of("a", "unix:/a"),
        owner=owner,  # type: ignore[arg-type]
        connect=connect,
        loop=asyncio.get_running_loop(),
        limits=QUICK,
    )
    return link, owner


async def test_nothing_is_opened_before_it_is_needed() -> None:
    connect = Connecting()
    link, _ = link_of(connect)
    await asyncio.sleep(0.02)
    assert (link.state, link.usable, connect.times) == (LinkState.CLOSED, True, [])
    await link.close("unused")


async def test_one_session_is_opened_whoever_asks_how_often() -> None:
    connect = Connecting()
    connect.held.clear()
    link, _ = link_of(connect)
    for _ in range(3):
        link.ensure_connecting()
        await asyncio.sleep(0)
    assert link.state is LinkState.CONNECTING
    assert len(connect.times) == 1
    await link.close("enough")
    assert not [task for task in asyncio.all_tasks() if "link" in task.get_name()]


async def test_a_worker_that_cannot_be_reached_is_suspect_and_probed_with_a_growing_bounded_backoff() -> None:
    connect = Connecting()
    link, owner = link_of(connect)
    link.ensure_connecting()
    await until(lambda: len(connect.times) >= 6)
    assert link.status.suspect
    assert link.usable
    waits = [after - before for before, after in zip(connect.times, connect.times[1:], strict=False)]
    assert QUICK.reconnect_first_seconds <= waits[0]
    assert all(wait >= QUICK.reconnect_most_seconds for wait in waits[2:5])
    assert link.backoff == QUICK.reconnect_most_seconds
    assert "unreachable: nobody" in owner.told
    await link.close("enough")
    seen = len(connect.times)
    await asyncio.sleep(2 * QUICK.reconnect_most_seconds)
    assert len(connect.times) == seen, "a closed link probes no more"


async def test_a_refusal_for_good_is_not_tried_again() -> None:
    connect = Connecting(RpcError("wrong version"))
    link, owner = link_of(connect)
    link.ensure_connecting()
    await until(lambda: owner.told)
    assert (link.state, link.usable) == (LinkState.REFUSED, False)
    link.ensure_connecting()
    link.probe_later()
    await asyncio.sleep(2 * QUICK.reconnect_most_seconds)
    assert len(connect.times) == 1
    await link.close("enough")


@pytest.mark.parametrize("failure", [ValueError("no address"), OSError("strange")])
async def test_an_unforeseen_failure_counts_as_unreachable(failure: Exception) -> None:
    connect = Connecting(failure)
    link, owner = link_of(connect)
    link.ensure_connecting()
    await until(lambda: owner.told)
    assert str(failure) in owner.told[0]
    assert isinstance(link.reason, TransientRpcError)
    await link.close("enough")


async def test_who_is_slow_to_connect_is_told_after_the_patience() -> None:
    connect = Connecting()
    connect.held.clear()
    link, owner = link_of(connect)
    link.ensure_connecting()
    await until(lambda: owner.told)
    assert owner.told == ["slow"]
    await link.close("enough")


async def test_a_dropped_link_opens_nothing() -> None:
    connect = Connecting()
    link, _ = link_of(connect)
    link.dropped = True
    link.ensure_connecting()
    link.probe_later()
    await asyncio.sleep(0.05)
    assert connect.times == []
    assert not link.usable
    await link.close("enough")
