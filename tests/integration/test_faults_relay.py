"""Answers that are lost or late on the way: the body runs at most once, and the outcome says what is known.

A relay stands between the caller and the first of two workers. Each test names a row of the caller's table.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import wool
from support.faults import InOrder, Journal, is_suspect, until, workers
from support.relay import Relay
from support.traced import count_up, run, run_until
from wool.limits import Limits
from wool.protocol import frames
from wool.protocol.frames import Frame, StepKind
from wool.runtime import real_runtime, set_runtime

DELAYS = [0.0, 0.2, 1.0]
"""Seconds from the loss to the cut, or until the late one comes; 1 s is the patience with an offer."""
REPETITIONS = 3


@dataclass
class Bed:
    """A caller that prefers the worker behind the relay."""

    journal: Journal
    relay: Relay
    proxy: wool.WorkerProxy
    behind: int
    """The process behind the relay."""
    beside: int
    """The process that is reached directly; 0 if there is none."""

    async def is_ready(self) -> None:
        """Wait until the worker behind the relay is preferred (again), and a session is open."""
        async with asyncio.timeout(30):
            # The caller may not have heard yet that a session was cut, or may not have opened the next.
            while await run(self.journal.path, self.journal.new_call()) != self.behind:
                await until(lambda: not is_suspect(self.proxy, self.behind))


@contextlib.asynccontextmanager
async def bed(tmp_path: Path, *, alone: bool = False) -> AsyncIterator[Bed]:
    tags = ["behind"] if alone else ["behind", "beside"]
    async with workers(*tags, host="127.0.0.1") as [first, *others], Relay(first.metadata) as relay:
        known = [relay.metadata, *(worker.metadata for worker in others)]
        async with wool.WorkerProxy(workers=known, loadbalancer=InOrder("behind", "beside")) as proxy:
            beside = others[0].metadata.pid if others else 0
            made = Bed(Journal(tmp_path / "journal"), relay, proxy, first.metadata.pid, beside)
            await made.is_ready()
            yield made


async def outcome_of(call: asyncio.Task[Any]) -> Any:
    [outcome] = await asyncio.gather(call, return_exceptions=True)
    return outcome


# ---- the accept --------------------------------------------------------------------------------------


@pytest.mark.parametrize("delay", DELAYS)
async def test_a_lost_accept_sends_the_task_to_the_next_worker(delay: float, tmp_path: Path) -> None:
    async with bed(tmp_path) as it:
        for _ in range(REPETITIONS):
            call = it.journal.new_call()
            lost = it.relay.hold_at("to caller", frames.Accept)
            task = asyncio.create_task(run(it.journal.path, call))
            await lost.reached.wait()
            await asyncio.sleep(delay)
            await it.relay.cut()
            assert await task == it.beside
            assert it.journal.pids("begin", call) == [it.beside]
            await it.is_ready()
            assert it.journal.executions(call) == 1


@pytest.mark.parametrize("delay", DELAYS)
async def test_a_lost_accept_and_nobody_else_is_a_call_that_never_ran(delay: float, tmp_path: Path) -> None:
    async with bed(tmp_path, alone=True) as it:
        for _ in range(REPETITIONS):
            call = it.journal.new_call()
            lost = it.relay.hold_at("to caller", frames.Accept)
            task = asyncio.create_task(run(it.journal.path, call))
            await lost.reached.wait()
            await asyncio.sleep(delay)
            assert not task.done()
            await it.relay.cut()
            with pytest.raises(wool.NoWorkersAvailable, match="ended") as caught:
                await task
            assert caught.value.executed == "no"
            assert list(caught.value.reasons) == [it.relay.metadata.uid]
            assert isinstance(caught.value.reasons[it.relay.metadata.uid], wool.TransientRpcError)
            await it.is_ready()
            assert it.journal.executions(call) == 0


@pytest.mark.parametrize("delay", DELAYS)
async def test_a_late_accept_lets_the_body_run_once(delay: float, tmp_path: Path) -> None:
    async with bed(tmp_path) as it:
        for _ in range(REPETITIONS):
            call = it.journal.new_call()
            late = it.relay.hold_at("to caller", frames.Accept)
            task = asyncio.create_task(run(it.journal.path, call))
            await late.reached.wait()
            await asyncio.sleep(delay)
            it.relay.release()
            where = await task
            assert delay >= 1.0 or where == it.behind
            await it.is_ready()
            assert it.journal.pids("begin", call) == [where]
            assert it.relay.connections == 1


async def test_an_accept_that_comes_after_the_task_has_run_elsewhere_means_nothing(tmp_path: Path) -> None:
    async with bed(tmp_path) as it:
        for _ in range(REPETITIONS):
            call = it.journal.new_call()
            late = it.relay.hold_at("to caller", frames.Accept)
            task = asyncio.create_task(run(it.journal.path, call))
            await late.reached.wait()
            assert await task == it.beside
            it.relay.release()
            await it.is_ready()
            assert it.journal.pids("begin", call) == [it.beside]
            assert it.relay.connections == 1


@pytest.mark.parametrize("mended", [True, False], ids=["heals", "breaks"])
async def test_a_partition_after_the_offer_lets_the_body_run_once_elsewhere(mended: bool, tmp_path: Path) -> None:
    async with bed(tmp_path) as it:
        for _ in range(REPETITIONS):
            call = it.journal.new_call()
            lost = it.relay.hold_at("to caller", frames.Accept)
            task = asyncio.create_task(run(it.journal.path, call))
            await lost.reached.wait()
            it.relay.hold("to worker", "to caller")
            assert await task == it.beside
            if mended:
                it.relay.release()
            else:
                await it.relay.cut()
            await it.is_ready()
            assert it.journal.pids("begin", call) == [it.beside]


# ---- the start ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("delay", DELAYS)
async def test_a_lost_start_is_never_said_again(delay: float, tmp_path: Path) -> None:
    async with bed(tmp_path) as it:
        for _ in range(REPETITIONS):
            call = it.journal.new_call()
            lost = it.relay.hold_at("to worker", frames.Start)
            task = asyncio.create_task(run(it.journal.path, call))
            await lost.reached.wait()
            await asyncio.sleep(delay)
            assert not task.done()
            await it.relay.cut()
            with pytest.raises(wool.WorkerLost) as caught:
                await task
            assert caught.value.executed == "unknown"
            assert isinstance(caught.value.__cause__, wool.TransientRpcError)
            await it.is_ready()
            assert it.journal.executions(call) == 0


@pytest.mark.parametrize("delay", DELAYS)
async def test_a_late_start_lets_the_body_run_once(delay: float, tmp_path: Path) -> None:
    async with bed(tmp_path) as it:
        for _ in range(REPETITIONS):
            call = it.journal.new_call()
            late = it.relay.hold_at("to worker", frames.Start)
            task = asyncio.create_task(run(it.journal.path, call))
            await late.reached.wait()
            await asyncio.sleep(delay)
            assert it.journal.executions(call) == 0
            it.relay.release()
            assert await task == it.behind
            assert it.journal.executions(call) == 1


# ---- the result --------------------------------------------------------------------------------------


@pytest.mark.parametrize("delay", DELAYS)
async def test_a_lost_result_is_never_made_again(delay: float, tmp_path: Path) -> None:
    async with bed(tmp_path) as it:
        for _ in range(REPETITIONS):
            call = it.journal.new_call()
            lost = it.relay.hold_at("to caller", frames.Result)
            task = asyncio.create_task(run(it.journal.path, call))
            await lost.reached.wait()
            await asyncio.sleep(delay)
            assert not task.done()
            await it.relay.cut()
            with pytest.raises(wool.WorkerLost) as caught:
                await task
            assert caught.value.executed == "unknown"
            await it.is_ready()
            assert it.journal.pids("begin", call) == [it.behind]


@pytest.mark.parametrize("delay", DELAYS)
async def test_a_late_result_is_the_result(delay: float, tmp_path: Path) -> None:
    async with bed(tmp_path) as it:
        for _ in range(REPETITIONS):
            call = it.journal.new_call()
            late = it.relay.hold_at("to caller", frames.Result)
            task = asyncio.create_task(run(it.journal.path, call))
            await late.reached.wait()
            await asyncio.sleep(delay)
            it.relay.release()
            assert await task == it.behind
            assert it.journal.executions(call) == 1


async def test_a_body_whose_session_is_lost_is_cancelled(tmp_path: Path) -> None:
    async with bed(tmp_path) as it:
        for _ in range(REPETITIONS):
            call = it.journal.new_call()
            task = asyncio.create_task(run_until(it.journal.path, call, str(tmp_path / "never")))
            assert await it.journal.appears("begin", call) == it.behind
            await it.relay.cut()
            with pytest.raises(wool.WorkerLost):
                await task
            await it.journal.appears("cancelled", call)
            await it.is_ready()
            assert it.journal.executions(call) == 1


# ---- generators --------------------------------------------------------------------------------------


async def test_a_lost_item_ends_the_generator_on_both_sides(tmp_path: Path) -> None:
    async with bed(tmp_path) as it:
        for _ in range(REPETITIONS):
            call = it.journal.new_call()
            items = count_up(it.journal.path, call)
            assert [await anext(items), await anext(items)] == [0, 1]
            lost = it.relay.hold_at("to caller", frames.Result)
            step = asyncio.ensure_future(anext(items))
            await lost.reached.wait()
            await it.relay.cut()
            with pytest.raises(wool.WorkerLost):
                await step
            with pytest.raises(StopAsyncIteration):
                await anext(items)
            await it.journal.appears("closed", call)
            assert (it.journal.executions(call), len(it.journal.pids("step", call))) == (1, 1 + 1)
            await it.is_ready()


async def test_an_idle_generator_tells_of_its_lost_session_at_the_next_step(tmp_path: Path) -> None:
    async with bed(tmp_path) as it:
        for closing in (False, True):
            call = it.journal.new_call()
            items = count_up(it.journal.path, call)
            assert await anext(items) == 0
            await it.relay.cut()
            await it.journal.appears("closed", call)
            await it.is_ready()
            with pytest.raises(wool.WorkerLost):
                await (items.aclose() if closing else anext(items))
            assert it.journal.executions(call) == 1


async def test_a_lost_close_is_worker_lost_and_the_remote_finally_runs(tmp_path: Path) -> None:
    async with bed(tmp_path) as it:
        call = it.journal.new_call()
        items = count_up(it.journal.path, call)
        assert await anext(items) == 0
        lost = it.relay.hold_at("to worker", lambda said: isinstance(said, frames.Step) and said.kind is StepKind.CLOSE)
        closing = asyncio.ensure_future(items.aclose())
        await lost.reached.wait()
        assert it.journal.pids("closed", call) == []
        await it.relay.cut()
        with pytest.raises(wool.WorkerLost):
            await closing
        await it.journal.appears("closed", call)


# ---- cancellation ------------------------------------------------------------------------------------


async def test_a_caller_whose_cancel_is_lost_waits_no_longer_than_the_grace(tmp_path: Path) -> None:
    set_runtime(real_runtime(limits=Limits(cancel_grace_seconds=0.5)))
    async with bed(tmp_path) as it:
        call = it.journal.new_call()
        task = asyncio.create_task(run_until(it.journal.path, call, str(tmp_path / "never")))
        await it.journal.appears("begin", call)
        lost = it.relay.hold_at("to worker", frames.Cancel)
        task.cancel()
        await lost.reached.wait()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert it.journal.pids("cancelled", call) == []
        await it.relay.cut()
        await it.journal.appears("cancelled", call)
        assert it.journal.executions(call) == 1


async def test_a_cancelled_caller_does_not_wait_for_a_lost_session(tmp_path: Path) -> None:
    set_runtime(real_runtime(limits=Limits(cancel_grace_seconds=600)))
    async with bed(tmp_path) as it:
        call = it.journal.new_call()
        task = asyncio.create_task(run_until(it.journal.path, call, str(tmp_path / "never")))
        await it.journal.appears("begin", call)
        lost = it.relay.hold_at("to worker", frames.Cancel)
        task.cancel()
        await lost.reached.wait()
        await it.relay.cut()
        with pytest.raises(asyncio.CancelledError):
            await task
        await it.journal.appears("cancelled", call)


async def test_a_call_that_is_cancelled_before_start_never_runs(tmp_path: Path) -> None:
    async with bed(tmp_path) as it:
        call = it.journal.new_call()
        late = it.relay.hold_at("to caller", frames.Accept)
        task = asyncio.create_task(run(it.journal.path, call))
        await late.reached.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        it.relay.release()
        await it.is_ready()
        assert it.journal.executions(call) == 0


# ---- anything, anywhere ------------------------------------------------------------------------------


async def test_a_session_that_cannot_be_opened_in_time_sends_the_task_elsewhere(tmp_path: Path) -> None:
    async with bed(tmp_path) as it:
        await it.relay.cut()
        it.relay.hold("to worker", "to caller")
        calls = [it.journal.new_call() for _ in range(10)]
        assert set(await asyncio.gather(*(run(it.journal.path, call) for call in calls))) == {it.beside}
        it.relay.release()
        await it.is_ready()
        assert [it.journal.executions(call) for call in calls] == [1] * 10


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("direction", ["to worker", "to caller"])
async def test_a_cut_at_any_frame_runs_no_body_twice(direction: Any, seed: int, tmp_path: Path) -> None:
    dice = random.Random(f"{direction} {seed}")
    async with bed(tmp_path) as it:
        for _ in range(REPETITIONS):
            left = dice.randrange(30)

            def is_the_one(_: Frame) -> bool:
                nonlocal left
                left -= 1
                return left < 0

            calls = [it.journal.new_call() for _ in range(20)]
            fatal = it.relay.hold_at(direction, is_the_one)
            tasks = [asyncio.create_task(run(it.journal.path, call)) for call in calls]
            await asyncio.wait([asyncio.create_task(fatal.reached.wait()), *tasks], return_when=asyncio.FIRST_COMPLETED)
            await fatal.reached.wait()
            await it.relay.cut()
            outcomes = [await outcome_of(task) for task in tasks]
            await it.is_ready()
            for call, outcome in zip(calls, outcomes, strict=True):
                if isinstance(outcome, int):
                    assert it.journal.pids("begin", call) == [outcome]
                else:
                    assert isinstance(outcome, wool.WorkerLost), outcome
                    assert it.journal.pids("begin", call) in ([], [it.behind])
