"""Workers that are killed, stopped or stuck: what their callers see, and when."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

import wool
from support.faults import Journal, OneAtATime, frozen, is_alive, is_suspect, kill, until, workers
from support.traced import (
    block,
    count_up,
    die,
    ignore_cancellation,
    run,
    run_nested,
    run_until,
    run_until_another_dies,
)
from wool.limits import DEFAULT_LIMITS, Limits
from wool.runtime import real_runtime, set_runtime

LOST_AFTER_KILL_SECONDS = 1.0
UNIX_LOST_SECONDS = 6.0
AT_ONCE_SECONDS = 1.0
MARGIN_SECONDS = 2.0
"""For a loaded machine."""


async def seconds_of(call: Any) -> tuple[Any, float]:
    """Await ``call``; return its outcome and how long that took."""
    began = time.monotonic()
    [outcome] = await asyncio.gather(call, return_exceptions=True)
    return outcome, time.monotonic() - began


async def outcomes_of(tasks: list[asyncio.Task[Any]]) -> list[Any]:
    return await asyncio.gather(*tasks, return_exceptions=True)


def pids(pool: wool.WorkerPool) -> list[int]:
    return [worker.pid for worker in pool.workers]


async def ended(pool: wool.WorkerPool, pid: int) -> None:
    """Wait until the pool has noticed that the worker is no more."""
    await until(lambda: pid not in pids(pool), what="the pool to notice")


async def exhausted(items: AsyncIterator[Any]) -> None:
    async for _ in items:
        pass


# ---- killed ------------------------------------------------------------------------------------------


async def test_a_worker_killed_in_mid_routine_is_lost_within_a_second(journal: Journal, tmp_path: Path) -> None:
    async with wool.WorkerPool(size=2) as pool:
        call = journal.new_call()
        task = asyncio.create_task(run_until(journal.path, call, str(tmp_path / "never")))
        victim = await journal.appears("begin", call)
        kill(victim)
        outcome, seconds = await seconds_of(task)
        assert isinstance(outcome, wool.WorkerLost)
        assert outcome.executed == "unknown"
        assert seconds < LOST_AFTER_KILL_SECONDS
        others = [journal.new_call() for _ in range(10)]
        where = set(await asyncio.gather(*(run(journal.path, other) for other in others)))
        assert where == set(pids(pool)) - {victim}
        assert journal.pids("begin", call) == [victim]


async def test_calls_after_an_idle_worker_was_killed_succeed_on_the_others(journal: Journal) -> None:
    async with wool.WorkerPool(size=3) as pool:
        for victim in pids(pool)[:2]:
            # Sessions are up on all of them.
            while len({await run(journal.path, journal.new_call()) for _ in range(12)}) < len(pids(pool)):
                pass
            kill(victim)
            calls = [journal.new_call() for _ in range(30)]
            where = await asyncio.gather(*(run(journal.path, call) for call in calls))
            assert victim not in where
            assert [journal.executions(call) for call in calls] == [1] * len(calls)
            await ended(pool, victim)


async def test_a_worker_killed_before_its_first_call_is_passed_over(journal: Journal) -> None:
    async with wool.WorkerPool(size=2) as pool:
        victim, other = pids(pool)
        kill(victim)
        for _ in range(10):
            assert await run(journal.path, journal.new_call()) == other


async def test_all_dead_is_said_at_once_and_for_each_worker_why(journal: Journal) -> None:
    async with wool.WorkerPool(size=2) as pool:
        uids = {worker.uid for worker in pool.workers}
        first, second = pids(pool)
        await run(journal.path, journal.new_call())
        kill(first, second)
        await until(lambda: not pool.workers, what="the pool to notice")
        for _ in range(3):
            call = journal.new_call()
            outcome, seconds = await seconds_of(run(journal.path, call))
            assert type(outcome) is wool.NoWorkersAvailable
            assert outcome.executed == "no"
            assert set(outcome.reasons) == uids
            for pid in (first, second):
                assert f"(pid {pid}) ended: killed by SIGKILL" in str(outcome)
            assert seconds < AT_ONCE_SECONDS
            assert journal.executions(call) == 0


async def test_dead_workers_that_were_named_by_hand_are_told_of_at_once(journal: Journal) -> None:
    async with workers("one", "two") as started:
        known = [worker.metadata for worker in started]
        async with wool.WorkerProxy(workers=known) as proxy:
            assert await run(journal.path, journal.new_call())
            kill(*(worker.pid for worker in known))
            await until(lambda: all(worker.exit_reason for worker in started))
            outcome, seconds = await seconds_of(run(journal.path, journal.new_call()))
            assert type(outcome) is wool.NoWorkersAvailable
            assert set(outcome.reasons) == {worker.uid for worker in known}
            assert all(isinstance(reason, wool.TransientRpcError) for reason in outcome.reasons.values())
            assert seconds < AT_ONCE_SECONDS
            assert proxy.open_dispatcher is not None


async def test_a_kill_under_load_runs_no_body_twice_and_loses_no_call(journal: Journal) -> None:
    async with wool.WorkerPool(size=3) as pool:
        while len({await run(journal.path, journal.new_call()) for _ in range(12)}) < 3:
            pass
        for victim in pids(pool)[:2]:
            calls = [journal.new_call() for _ in range(300)]
            tasks = [asyncio.create_task(run(journal.path, call)) for call in calls]
            await journal.appears("begin", calls[0])
            kill(victim)
            outcomes = await outcomes_of(tasks)
            for call, outcome in zip(calls, outcomes, strict=True):
                if isinstance(outcome, int):
                    assert journal.pids("begin", call) == [outcome]
                else:
                    assert isinstance(outcome, wool.WorkerLost), outcome
                    assert journal.pids("begin", call) in ([], [victim])
            await ended(pool, victim)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV, signal.SIGABRT])
async def test_a_routine_that_takes_its_worker_down_is_not_run_on_the_next(
    number: signal.Signals, journal: Journal, capsys: pytest.CaptureFixture[str]
) -> None:
    async with wool.WorkerPool(size=2) as pool:
        call = journal.new_call()
        with pytest.raises(wool.WorkerLost):
            await die(journal.path, call, int(number))
        [victim] = journal.pids("begin", call)
        await ended(pool, victim)
        assert await run(journal.path, journal.new_call()) == pids(pool)[0]
        assert journal.executions(call) == 1
    capsys.readouterr()


async def test_a_generator_whose_worker_was_killed_says_so_at_the_next_step(journal: Journal) -> None:
    async with wool.WorkerPool(size=2):
        call = journal.new_call()
        items = count_up(journal.path, call)
        assert [await anext(items), await anext(items)] == [0, 1]
        kill(journal.pids("begin", call)[0])
        with pytest.raises(wool.WorkerLost):
            await exhausted(items)
        with pytest.raises(StopAsyncIteration):
            await anext(items)
        assert journal.executions(call) == 1


async def test_a_nested_call_whose_worker_was_killed_is_a_failure_of_the_outer_body(journal: Journal) -> None:
    async with wool.WorkerPool(size=2):
        with pytest.raises(wool.RemoteError) as caught:
            await run_until_another_dies(journal.path, "outer")
        assert isinstance(caught.value.__cause__, wool.WorkerLost)
        assert caught.value.executed == "yes"
        assert journal.executions("outer") == 1
        [victim] = journal.pids("dies", "outer")
        assert victim != journal.pids("begin", "outer")[0]


# ---- stopped -----------------------------------------------------------------------------------------


async def test_a_call_to_a_frozen_worker_completes_on_another_and_runs_once(journal: Journal) -> None:
    balancer = OneAtATime()
    async with wool.WorkerPool(size=2, loadbalancer=balancer) as pool:
        victim, other = pids(pool)
        for balancer.first in (other, victim):
            assert await run(journal.path, journal.new_call()) == balancer.first
        call = journal.new_call()
        with frozen(victim):
            assert await run(journal.path, call) == other
        await until(lambda: not is_suspect(pool, victim), what="the worker to be heard again")
        assert await run(journal.path, journal.new_call()) == victim
        assert journal.pids("begin", call) == [other]


async def test_a_worker_frozen_before_its_first_session_is_passed_over(journal: Journal) -> None:
    balancer = OneAtATime()
    async with wool.WorkerPool(size=2, loadbalancer=balancer) as pool:
        balancer.first, other = pids(pool)
        call = journal.new_call()
        with frozen(balancer.first):
            outcome, seconds = await seconds_of(run(journal.path, call))
            assert outcome == other
            assert seconds < DEFAULT_LIMITS.patience_seconds + MARGIN_SECONDS
        await until(lambda: not is_suspect(pool, balancer.first), what="the worker to be heard again")
        assert await run(journal.path, journal.new_call()) == balancer.first
        assert journal.executions(call) == 1


async def test_one_frozen_worker_delays_no_call_that_is_bound_elsewhere(journal: Journal) -> None:
    balancer = OneAtATime()
    async with wool.WorkerPool(size=2, loadbalancer=balancer) as pool:
        victim, other = pids(pool)
        for balancer.first in (other, victim):
            await run(journal.path, journal.new_call())
        with frozen(victim):
            stuck = [asyncio.create_task(run(journal.path, journal.new_call())) for _ in range(50)]
            await asyncio.sleep(0)
            balancer.first = other
            slowest = 0.0
            for _ in range(50):
                outcome, seconds = await seconds_of(run(journal.path, journal.new_call()))
                assert outcome == other
                slowest = max(slowest, seconds)
            assert slowest < DEFAULT_LIMITS.patience_seconds / 2
            assert set(await asyncio.gather(*stuck)) == {other}


async def test_after_the_first_a_frozen_worker_costs_no_call_its_patience(journal: Journal) -> None:
    async with wool.WorkerPool(size=2) as pool:
        victim, other = pids(pool)
        while len({await run(journal.path, journal.new_call()) for _ in range(4)}) < 2:
            pass
        with frozen(victim):
            await asyncio.gather(*(run(journal.path, journal.new_call()) for _ in range(2)))
            assert is_suspect(pool, victim)
            for _ in range(20):
                outcome, seconds = await seconds_of(run(journal.path, journal.new_call()))
                assert outcome == other
                assert seconds < DEFAULT_LIMITS.patience_seconds / 2


async def test_a_worker_frozen_in_mid_routine_is_lost_and_its_body_cancelled_when_it_wakes(
    journal: Journal, tmp_path: Path
) -> None:
    async with wool.WorkerPool(size=2) as pool:
        call = journal.new_call()
        task = asyncio.create_task(run_until(journal.path, call, str(tmp_path / "never")))
        victim = await journal.appears("begin", call)
        with frozen(victim):
            outcome, seconds = await seconds_of(task)
            assert isinstance(outcome, wool.WorkerLost)
            assert seconds < UNIX_LOST_SECONDS + MARGIN_SECONDS
        await journal.appears("cancelled", call)
        await until(lambda: not is_suspect(pool, victim), what="the worker to be heard again")
        assert victim in await asyncio.gather(*(run(journal.path, journal.new_call()) for _ in range(4)))
        assert journal.executions(call) == 1


async def test_a_frozen_worker_and_nobody_else_is_no_hang(journal: Journal) -> None:
    async with wool.WorkerPool(size=1) as pool:
        [victim] = pids(pool)
        await run(journal.path, journal.new_call())
        call = journal.new_call()
        with frozen(victim):
            outcome, seconds = await seconds_of(run(journal.path, call))
            assert type(outcome) is wool.NoWorkersAvailable
            assert outcome.executed == "no"
            assert seconds < UNIX_LOST_SECONDS + MARGIN_SECONDS
        await until(lambda: not is_suspect(pool, victim), what="the worker to be heard again")
        assert await run(journal.path, journal.new_call()) == victim
        assert journal.executions(call) == 0


async def test_a_frozen_worker_and_nobody_else_is_a_dispatch_timeout_if_that_is_shorter(journal: Journal) -> None:
    async with wool.WorkerPool(size=1) as pool:
        await run(journal.path, journal.new_call())
        call = journal.new_call()
        with frozen(pids(pool)[0]), wool.RuntimeContext(dispatch_timeout=0.5):
            outcome, seconds = await seconds_of(run(journal.path, call))
        assert type(outcome) is wool.DispatchTimeout
        assert isinstance(outcome, TimeoutError)
        assert 0.5 <= seconds < 0.5 + MARGIN_SECONDS
        assert await run(journal.path, journal.new_call()) == pids(pool)[0]
        assert journal.executions(call) == 0


async def test_a_worker_whose_routine_blocks_goes_on_accepting(journal: Journal) -> None:
    async with wool.WorkerPool(size=1):
        busy = asyncio.create_task(block(journal.path, "busy", 3.0))
        await journal.appears("begin", "busy")
        with wool.RuntimeContext(dispatch_timeout=1.5):
            waiting = [asyncio.create_task(run(journal.path, journal.new_call())) for _ in range(5)]
            done = await asyncio.gather(busy, *waiting)
        assert len(set(done)) == 1


# ---- the pool's exit ---------------------------------------------------------------------------------


async def test_a_pool_with_a_frozen_worker_ends_in_bounded_time(journal: Journal, tmp_path: Path) -> None:
    limits = Limits(stop_seconds=2.0)
    set_runtime(real_runtime(limits=limits))
    async with wool.WorkerPool(size=2) as pool:
        started = pids(pool)
        calls = [journal.new_call() for _ in range(4)]
        tasks = [asyncio.create_task(run_until(journal.path, call, str(tmp_path / "never"))) for call in calls]
        victim, *_ = [await journal.appears("begin", call) for call in calls]
        with frozen(victim):
            began = time.monotonic()
            await pool.__aexit__(None, None, None)
            assert time.monotonic() - began < limits.stop_seconds + MARGIN_SECONDS
            assert not any(map(is_alive, started))
        outcomes = await outcomes_of(tasks)
    for call, outcome in zip(calls, outcomes, strict=True):
        if journal.pids("begin", call) == [victim]:
            assert isinstance(outcome, wool.WorkerLost), outcome  # it was killed: nobody knows how far it came
        else:
            assert isinstance(outcome, wool.TaskInterrupted), outcome
        assert journal.executions(call) == 1


async def test_a_pool_whose_routine_ignores_cancellation_ends_in_bounded_time(journal: Journal) -> None:
    limits = Limits(stop_seconds=2.0, cancel_grace_seconds=1.0)
    set_runtime(real_runtime(limits=limits))
    async with wool.WorkerPool(size=2) as pool:
        started = pids(pool)
        task = asyncio.create_task(ignore_cancellation(journal.path, "stubborn"))
        await journal.appears("begin", "stubborn")
        began = time.monotonic()
    assert time.monotonic() - began < limits.stop_seconds + MARGIN_SECONDS
    assert not any(map(is_alive, started))
    [outcome] = await outcomes_of([task])
    assert isinstance(outcome, wool.WorkerLost), outcome
    assert journal.executions("stubborn") == 1


async def test_a_pool_whose_routine_blocks_its_worker_ends_in_bounded_time(journal: Journal) -> None:
    limits = Limits(stop_seconds=2.0, cancel_grace_seconds=1.0)
    set_runtime(real_runtime(limits=limits))
    async with wool.WorkerPool(size=1) as pool:
        started = pids(pool)
        task = asyncio.create_task(block(journal.path, "busy", 600.0))
        await journal.appears("begin", "busy")
        began = time.monotonic()
    assert time.monotonic() - began < limits.stop_seconds + MARGIN_SECONDS
    assert not any(map(is_alive, started))
    [outcome] = await outcomes_of([task])
    assert isinstance(outcome, wool.WorkerLost), outcome


async def test_a_cancelled_exit_kills_what_is_left(journal: Journal) -> None:
    async def use() -> None:
        async with wool.WorkerPool(size=2) as pool:
            started.extend(pids(pool))
            tasks.append(asyncio.create_task(ignore_cancellation(journal.path, "stubborn")))
            await journal.appears("begin", "stubborn")
            leaving.set()

    started: list[int] = []
    tasks: list[asyncio.Task[None]] = []
    leaving = asyncio.Event()
    user = asyncio.create_task(use())
    await leaving.wait()
    await asyncio.sleep(0.1)
    user.cancel()
    outcome, seconds = await seconds_of(user)
    assert isinstance(outcome, asyncio.CancelledError)
    assert seconds < DEFAULT_LIMITS.stop_seconds
    assert not any(map(is_alive, started))
    await outcomes_of(list(tasks))


async def test_a_proxy_to_a_frozen_worker_closes_in_bounded_time(journal: Journal, tmp_path: Path) -> None:
    async with workers("one") as [worker]:
        proxy = wool.WorkerProxy(workers=[worker.metadata])
        async with proxy:
            task = asyncio.create_task(run_until(journal.path, "open", str(tmp_path / "never")))
            victim = await journal.appears("begin", "open")
            with frozen(victim):
                began = time.monotonic()
                await proxy.__aexit__(None, None, None)
                limits = DEFAULT_LIMITS
                assert time.monotonic() - began < limits.handshake_seconds + 2 * limits.close_seconds + MARGIN_SECONDS
                [outcome] = await outcomes_of([task])
                assert isinstance(outcome, wool.WorkerLost)


# ---- another process at the address ------------------------------------------------------------------


async def test_a_worker_that_took_over_an_address_does_not_get_the_other_ones_tasks(journal: Journal) -> None:
    async with workers("old", host="127.0.0.1") as [old]:
        gone = old.metadata
        await old.stop()
        port = int(gone.address.rpartition(":")[2])
        new = wool.LocalWorker("new", host="127.0.0.1", port=port)
        await new.start()
        try:
            async with wool.WorkerProxy(workers=[gone]):
                call = journal.new_call()
                with pytest.raises(wool.NoWorkersAvailable, match="is here, not|where .* was expected") as caught:
                    await run(journal.path, call)
                assert type(caught.value.reasons[gone.uid]) is wool.RpcError
                assert journal.executions(call) == 0
            async with wool.WorkerProxy(workers=[new.metadata]):
                assert await run(journal.path, journal.new_call()) == new.metadata.pid
        finally:
            await new.stop()


async def test_a_nested_call_finds_the_workers_that_are_left(journal: Journal) -> None:
    async with wool.WorkerPool(size=2) as pool:
        while len(set(await run_nested(journal.path, journal.new_call(), 6))) < 2:
            pass
        victim, other = pids(pool)
        kill(victim)
        await ended(pool, victim)
        for _ in range(5):
            assert set(await run_nested(journal.path, journal.new_call(), 3)) == {other}
