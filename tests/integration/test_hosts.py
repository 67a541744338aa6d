"""Several hosts, which are network namespaces: workers that are cut off, healed and frozen, with calls all the time."""

from __future__ import annotations

import asyncio
import contextlib
import time
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("zeroconf", reason="needs the extra wool[lan]")
pytest.importorskip("cryptography", reason="needs the extra wool[certs]")

from fixtures import make, write

from support import namespaces
from support.faults import PATIENCE_SECONDS, Journal, frozen
from support.hosts import certify, far_caller, worker_on
from wool.limits import DEFAULT_LIMITS

LOST_SECONDS = DEFAULT_LIMITS.tcp_keepalive_seconds + DEFAULT_LIMITS.tcp_ping_timeout_seconds + 1.0
"""A peer that is cut off is lost after so long."""
SLACK_SECONDS = 5.0
"""What a busy machine may be late by."""
ELSEWHERE_SECONDS = DEFAULT_LIMITS.patience_seconds + SLACK_SECONDS
"""A call takes some milliseconds; the first that is offered to who does not answer, its patience."""
AGAIN_SECONDS = DEFAULT_LIMITS.lan_retry_most_seconds + DEFAULT_LIMITS.reconnect_most_seconds + 10.0
"""From the healing until there is work again: it is heard of, it is probed, and a lost SYN is repeated."""


@pytest.mark.skipif(bool(namespaces.why_not()), reason=namespaces.why_not() or "never")
@pytest.mark.alone
@pytest.mark.timeout(240)
async def test_a_worker_that_is_cut_off_is_lost_and_works_again_when_healed_and_one_that_is_frozen_too(
    tmp_path: Path, journal: Journal
) -> None:
    """Found by multicast on two hosts, used from a third. What had started is `WorkerLost`, all else goes elsewhere."""
    fixtures, files, gate = make(), tmp_path / "certificates", tmp_path / "gate"
    write(fixtures, files)
    async with contextlib.AsyncExitStack() as stack:
        made = stack.enter_context(namespaces.network())
        own, *others = made.host(), made.host(), made.host()
        for number in (2, 3):
            certify(fixtures, files, number)
        cut_off, kept = [
            await stack.enter_async_context(worker_on(host, number, files))
            for number, host in zip((2, 3), others, strict=True)
        ]
        caller = await stack.enter_async_context(far_caller(own, files, journal))
        [gone], [left] = cut_off.pids, kept.pids
        assert await caller() in (gone, left)

        async def goes_on(calls: int) -> None:
            while calls > 0:
                calls -= await caller("")
                await asyncio.sleep(0.01)

        async def used(pid: int, within: float) -> float:
            """Wait until the worker has work; return how long it took."""
            began, seen = time.monotonic(), len(journal.lines())
            while not any(int(words[-1]) == pid for words in journal.lines()[seen:]):
                assert time.monotonic() - began < within, f"no work for {pid}"
                await goes_on(5)
            return time.monotonic() - began

        async def go_to(pid: int) -> None:
            """See that what is called from now on runs there, and at once."""
            for outcome, took in await caller("now 20"):
                assert outcome == pid
                assert took < ELSEWHERE_SECONDS

        async def ended(calls: list[str], within: float) -> dict[str, tuple[Any, float]]:
            """Wait until these calls have ended, with others all the time; return how, and when, of all."""
            until = time.monotonic() + within
            told = await caller("held")
            while None in [told[call][0] for call in calls]:
                assert time.monotonic() < until
                await goes_on(1)
                told = await caller("held")
            return {call: (outcome, when) for call, (outcome, when) in told.items()}

        for pid in (gone, left):
            await used(pid, PATIENCE_SECONDS)
        assert await caller(f"hold 4 {gate}") == "holding"
        held = [f"held-{index}" for index in range(4)]
        where = {call: await journal.appears("begin", call) for call in held}
        assert set(where.values()) == {gone, left}

        # The link goes down.
        made.cut(2)
        began = time.monotonic()
        await go_to(left)
        lost = [call for call in held if where[call] == gone]
        told = await ended(lost, began + LOST_SECONDS + SLACK_SECONDS - time.monotonic())
        for call in held:
            outcome, when = told[call]
            if call in lost:
                assert outcome.startswith("WorkerLost: ")
                print(f"lost after {when - began:.1f} s")
            else:
                assert outcome is None

        # It is up again.
        made.heal(2)
        print(f"work again after {await used(gone, AGAIN_SECONDS):.1f} s")

        # The other one stands still, and goes on.
        with frozen(left):
            await go_to(gone)
        print(f"thawed, work again after {await used(left, AGAIN_SECONDS):.1f} s")

        gate.touch()
        told = await ended(held, PATIENCE_SECONDS)
        assert {told[call][0] for call in held if call not in lost} == {left}
        failed, answered = await caller("stop")
        assert set(answered) == {gone, left}
        # Of six callers each had at most one call there, and one more of a body that had called from there.
        assert all("WorkerLost" in outcome for outcome in failed.values()), failed
        assert len(failed) <= 12
    calls = [words[1] for words in journal.lines() if words[0] == "begin"]
    assert len(calls) == len(set(calls)), "none ran twice"
