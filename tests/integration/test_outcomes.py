"""Every call ends in exactly one outcome, and the outcome says what is known: one test per row of the contract."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import threading
import traceback
from collections.abc import Awaitable, Callable

import pytest

import wool
from support import cancels, failures, generators, routines
from support.failures import Custom, Gone
from support.journal import Journal, start
from support.pools import connect, module_loop, no_leaked_tasks, pool  # noqa: F401
from wool.discovery.base import WorkerMetadata
from wool.limits import Limits
from wool.runtime import real_runtime, set_runtime

pytestmark = module_loop


async def unharmed(pool: wool.WorkerPool, pids: set[int]) -> None:  # noqa: F811
    assert await connect(pool) == pids
    dispatcher = pool.open_dispatcher
    assert dispatcher is not None
    assert not any(status.suspect or status.in_flight for status in dispatcher._proxy.workers())


async def with_limits(limits: Limits, work: Callable[[wool.WorkerPool], Awaitable[None]]) -> None:
    """Run ``work`` in a pool that has ``limits``."""

    async def main() -> None:
        set_runtime(real_runtime(limits=limits))
        async with wool.WorkerPool(size=2) as limited:
            await connect(limited)
            await work(limited)

    await start(main())


# ---- the body returned: its value --------------------------------------------------------------------


async def test_the_body_returned() -> None:
    assert await routines.add(1, 2) == 3


# ---- the body raised: that exception, with type and traceback ----------------------------------------


async def test_the_body_raised() -> None:
    with pytest.raises(Custom) as caught:
        await failures.fail(Custom("x"))
    assert not hasattr(caught.value, "executed")
    assert traceback.extract_tb(caught.value.__traceback__)[-1].name == "fail"


async def test_the_body_raised_a_cancelled_error_of_its_own() -> None:
    with pytest.raises(asyncio.CancelledError) as caught:
        await failures.cancel_itself("raise")
    assert caught.value.args == ("of the body's own",)


# ---- the body raised, or let pass, an outcome or an exit: RemoteError, yes ---------------------------


@pytest.mark.parametrize("name", ["no workers", "lost", "interrupted", "dispatch", "serialization", "remote"])
async def test_the_body_raised_one_of_wools_outcomes(name: str) -> None:
    with pytest.raises(wool.RemoteError) as caught:
        await failures.fail_with(name)
    assert isinstance(caught.value, RuntimeError)
    assert caught.value.executed == "yes"
    assert type(caught.value.__cause__) is type(failures.make(name))


@pytest.mark.parametrize("kind", ["exit", "interrupt", "generator"])
async def test_the_body_raised_an_exit(kind: str) -> None:
    with pytest.raises(wool.RemoteError) as caught:
        await failures.exit_process(kind)
    assert caught.value.executed == "yes"
    assert isinstance(caught.value.__cause__, SystemExit | KeyboardInterrupt | GeneratorExit)


async def test_the_body_let_an_outcome_of_a_nested_call_pass() -> None:
    @wool.routine
    async def outer() -> None:
        await failures.give("frame")

    with pytest.raises(wool.RemoteError) as caught:
        await outer()
    assert caught.value.executed == "yes"
    assert isinstance(caught.value.__cause__, wool.SerializationError)
    assert caught.value.__cause__.executed == "yes"


async def test_the_body_let_the_remote_error_of_a_nested_call_pass() -> None:
    @wool.routine
    async def outer() -> None:
        await failures.fail_with("lost")

    with pytest.raises(wool.RemoteError) as caught:
        await outer()
    inner = caught.value.__cause__
    assert isinstance(inner, wool.RemoteError)
    assert isinstance(inner.__cause__, wool.WorkerLost)


# ---- the result, item or exception does not travel: SerializationError, yes --------------------------


@pytest.mark.parametrize("what", ["frame", "lock"])
async def test_the_result_cannot_be_pickled(pool: wool.WorkerPool, what: str) -> None:  # noqa: F811
    pids = {worker.pid for worker in pool.workers}
    with pytest.raises(wool.SerializationError, match="cannot pickle") as caught:
        await failures.give(what)
    assert caught.value.executed == "yes"
    assert isinstance(caught.value.__cause__, TypeError)
    await unharmed(pool, pids)


async def test_the_result_cannot_be_loaded_by_the_caller(pool: wool.WorkerPool) -> None:  # noqa: F811
    pids = {worker.pid for worker in pool.workers}
    with pytest.raises(wool.SerializationError, match="cannot be loaded here") as caught:
        await failures.give("gone")
    assert caught.value.executed == "yes"
    assert isinstance(caught.value.__cause__, ModuleNotFoundError)
    await unharmed(pool, pids)


async def test_the_item_cannot_be_pickled() -> None:
    with Journal() as journal:
        stream = generators.unpicklable(journal.pen)
        await anext(stream)
        with pytest.raises(wool.SerializationError) as caught:
            await anext(stream)
    assert caught.value.executed == "yes"


async def test_the_result_is_over_the_limit() -> None:
    async def work(limited: wool.WorkerPool) -> None:
        pids = {worker.pid for worker in limited.workers}
        with pytest.raises(wool.SerializationError, match=r"the limit is 1000000 \(payload_bytes\)") as caught:
            await failures.give("2000000")
        assert caught.value.executed == "yes"
        assert len(await failures.give("900000")) <= 900_000
        with Journal() as journal:
            stream = generators.repeat()
            await anext(stream)
            with pytest.raises(wool.SerializationError, match="payload_bytes") as caught:
                await stream.asend(bytes(2_000_000))
            assert caught.value.executed == "yes"
            assert journal.notes == []
        await unharmed(limited, pids)

    await with_limits(Limits(payload_bytes=1_000_000), work)


async def test_the_exception_is_over_the_limit() -> None:
    async def work(limited: wool.WorkerPool) -> None:
        pids = {worker.pid for worker in limited.workers}
        with pytest.raises(failures.Heavy, match="heavy") as caught:
            await failures.fail_heavily(2_000_000)
        # Its class and its text travel; what is too large is replaced by a text that says what it was.
        assert isinstance(caught.value.data, str)
        assert len(caught.value.data) < 100_000
        await unharmed(limited, pids)

    await with_limits(Limits(payload_bytes=1_000_000), work)


async def test_the_exception_cannot_be_pickled_and_is_rebuilt_with_its_class() -> None:
    with pytest.raises(failures.HoldsALock, match="l"):
        await failures.fail_with("lock")


# ---- the worker cannot load the definition or the arguments: SerializationError, no ------------------


async def test_the_worker_cannot_load_an_argument(pool: wool.WorkerPool) -> None:  # noqa: F811
    pids = {worker.pid for worker in pool.workers}
    with Journal() as journal:
        with pytest.raises(wool.SerializationError, match="No module named 'gone'") as caught:
            await failures.fail(Gone(), journal.pen)  # type: ignore[arg-type]
        assert journal.notes == []
    assert caught.value.executed == "no"
    assert isinstance(caught.value.__cause__, ModuleNotFoundError)
    await unharmed(pool, pids)


async def test_the_worker_cannot_load_the_definition(pool: wool.WorkerPool) -> None:  # noqa: F811
    pids = {worker.pid for worker in pool.workers}
    part = Gone()

    @wool.routine
    async def local() -> object:
        return part

    with pytest.raises(wool.SerializationError, match="No module named 'gone'") as caught:
        await local()
    assert caught.value.executed == "no"
    assert isinstance(caught.value.__cause__, ModuleNotFoundError)
    await unharmed(pool, pids)


# ---- the caller cannot pickle the arguments: the original error, no worker is contacted --------------


async def test_the_caller_cannot_pickle_the_definition(pool: wool.WorkerPool) -> None:  # noqa: F811
    pids = {worker.pid for worker in pool.workers}
    lock = threading.Lock()

    @wool.routine
    async def local() -> object:
        return lock

    with pytest.raises(TypeError, match="cannot pickle") as caught:
        await local()
    (note,) = caught.value.__notes__
    assert "local by value: variable 'lock' of its closure, of type _thread.lock" in note
    assert "no worker was contacted" in note
    await unharmed(pool, pids)


async def test_the_caller_cannot_pickle_an_argument(pool: wool.WorkerPool) -> None:  # noqa: F811
    pids = {worker.pid for worker in pool.workers}
    with pytest.raises(TypeError, match="cannot pickle") as caught:
        await routines.add(1, y=threading.Lock())  # type: ignore[arg-type]
    (note,) = caught.value.__notes__
    assert "support.routines:add" in note
    assert "argument 'y'" in note
    assert "no worker was contacted" in note
    assert wool.origin(caught.value) is None
    with pytest.raises(TypeError) as caught:
        await anext(routines.count(sys._getframe()))  # type: ignore[arg-type]
    assert "argument 0" in caught.value.__notes__[0]
    await unharmed(pool, pids)


async def test_the_arguments_are_over_the_limit() -> None:
    async def work(limited: wool.WorkerPool) -> None:
        pids = {worker.pid for worker in limited.workers}
        with pytest.raises(wool.SerializationError, match=r"support\.routines:echo.*limit is 1000000") as caught:
            await routines.echo(bytes(2_000_000))
        assert caught.value.executed == "no"
        await unharmed(limited, pids)

    await with_limits(Limits(payload_bytes=1_000_000), work)


# ---- the caller cancelled: CancelledError, or what the body made of it -------------------------------


async def test_the_caller_cancelled() -> None:
    with Journal() as journal:
        task = start(cancels.parked(journal.pen))
        await journal.wait_for("park")
        task.cancel("why")
        with pytest.raises(asyncio.CancelledError, match="why"):
            await task
        task = start(cancels.suppressing(journal.pen, 1))
        await journal.wait_for("park", 2)
        task.cancel()
        assert await task == 1


# ---- nobody left to try: NoWorkersAvailable, no, with a reason per worker ----------------------------


async def test_nobody_is_left_to_try() -> None:
    workers = [
        WorkerMetadata(uid=name * 32, address=f"unix:/nonexistent/{name}", pid=1, version="1", tags=frozenset())
        for name in "ab"
    ]
    async with wool.WorkerProxy(workers=workers):
        with pytest.raises(wool.NoWorkersAvailable) as caught:
            await routines.add(1, 2)
    assert caught.value.executed == "no"
    assert not isinstance(caught.value, TimeoutError)
    assert set(caught.value.reasons) == {worker.uid for worker in workers}
    for reason in caught.value.reasons.values():
        assert isinstance(reason, wool.TransientRpcError)
    assert "/nonexistent/a" in str(caught.value)


class NobodyYet:
    """A discovery that has not found anybody."""

    def __aiter__(self) -> NobodyYet:
        return self

    async def __anext__(self) -> wool.DiscoveryEvent:
        return await asyncio.get_running_loop().create_future()


async def test_nobody_took_it_in_time() -> None:
    async with wool.WorkerProxy(discovery=NobodyYet()):
        with wool.RuntimeContext(dispatch_timeout=0.1):
            with pytest.raises(wool.DispatchTimeout) as caught:
                await routines.add(1, 2)
    assert caught.value.executed == "no"
    assert isinstance(caught.value, wool.NoWorkersAvailable)
    assert isinstance(caught.value, TimeoutError)


# ---- an operator ended it: TaskInterrupted, yes ------------------------------------------------------


async def test_the_pool_was_closed_with_the_call_in_flight() -> None:
    with Journal() as journal:
        async with wool.WorkerPool(size=1):
            call = start(cancels.parked(journal.pen))
            stream = cancels.inner_stream(journal.pen)
            await anext(stream)
            await journal.wait_for("park")
        with pytest.raises(wool.TaskInterrupted) as caught:
            await call
        assert caught.value.executed == "yes"
        with pytest.raises(wool.TaskInterrupted):
            await anext(stream)
        # Both have ended, and cleaned up.
        assert journal.notes.count("finally") == 1
        assert journal.notes.count("inner finally") == 1


# ---- the worker cannot be heard any more: WorkerLost, unknown ----------------------------------------


async def test_the_worker_was_lost_after_start() -> None:
    with Journal() as journal:
        async with wool.WorkerPool(size=1) as lonely:
            (worker,) = lonely.workers
            call = start(cancels.parked(journal.pen))
            stream = cancels.inner_stream(journal.pen)
            await anext(stream)
            await journal.wait_for("park")
            os.kill(worker.pid, signal.SIGKILL)
            async with asyncio.timeout(10):
                with pytest.raises(wool.WorkerLost) as caught:
                    await call
                assert caught.value.executed == "unknown"
                with pytest.raises(wool.WorkerLost) as caught:
                    await anext(stream)
                assert caught.value.executed == "unknown"
                assert await anext(stream, "ended") == "ended"
                with pytest.raises(wool.NoWorkersAvailable) as nobody:
                    await routines.add(1, 2)
                assert list(nobody.value.reasons) == [worker.uid]
        assert journal.notes.count("park") == 1
