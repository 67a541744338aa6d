"""What a body raises is what its caller catches."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import json
import os
import socket
import subprocess
import sys
import textwrap
import traceback
from pathlib import Path
from typing import Any

import grpc
import pytest

import wool
from support import failures, routines
from support.failures import Custom, Frozen, HoldsALock, Keywords, NotThere, Reduced, Several, Signature, Slotted
from support.journal import Journal
from support.pools import connect, module_loop, no_leaked_tasks, pid, pool  # noqa: F401

pytestmark = module_loop

TESTS = Path(__file__).parents[1]


async def caught(call: Any) -> BaseException:
    """Return what ``call`` raises."""
    try:
        await call
    except BaseException as error:
        return error
    raise AssertionError("nothing was raised")


async def unharmed(pool: wool.WorkerPool, pids: set[int]) -> None:  # noqa: F811
    """Check that the same workers are there, that none is suspect, and that all serve on."""
    assert {worker.pid for worker in pool.workers} == pids
    assert await connect(pool) == pids
    dispatcher = pool.open_dispatcher
    assert dispatcher is not None
    statuses = dispatcher._proxy.workers()
    assert len(statuses) == len(pids)
    assert not any(status.suspect for status in statuses)


# ---- type, arguments, attributes ---------------------------------------------------------------------


@pytest.mark.parametrize(
    "error",
    [
        ValueError("text", 1, None),
        KeyError("key"),
        OSError(2, "No such file", "name"),
        FileNotFoundError(2, "No such file", "one", None, "two"),
        UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte"),
        UnicodeEncodeError("ascii", "é", 0, 1, "ordinal not in range"),
        ImportError("no module", name="missing", path="/nowhere"),
        SyntaxError("bad", ("file.py", 1, 2, "text", 1, 3)),
        json.JSONDecodeError("bad json", "doc", 1),
        subprocess.CalledProcessError(3, ["cmd"], b"out", b"err"),
        asyncio.IncompleteReadError(b"part", 10),
        asyncio.InvalidStateError("state"),
        TimeoutError("too late"),
        ConnectionResetError(104, "Connection reset by peer"),
        socket.gaierror(-2, "Name or service not known"),
        Custom("custom", {"a": [1]}),
        Custom(),
        ExceptionGroup("group", [ValueError(1), Custom(2)]),
        BaseExceptionGroup("base group", [KeyError(1), asyncio.CancelledError()]),
        RecursionError("too deep"),
        MemoryError(),
        AssertionError("asserted"),
        BaseException("the base itself"),
        DeprecationWarning("a warning"),
    ],
    ids=lambda error: type(error).__name__,
)
async def test_an_exception_arrives_with_type_arguments_and_attributes(error: BaseException) -> None:
    found = await caught(failures.fail(error))
    assert type(found) is type(error)
    assert str(found) == str(error)
    if isinstance(error, BaseExceptionGroup):
        assert isinstance(found, BaseExceptionGroup)
        assert [repr(member) for member in found.exceptions] == [repr(member) for member in error.exceptions]
    else:
        assert found.args == error.args
    for name in ("errno", "strerror", "filename", "filename2", "name", "path", "object", "start", "end", "reason"):
        assert getattr(found, name, None) == getattr(error, name, None)
    assert vars(found) == vars(error)


async def test_awkward_signatures_slots_and_reducers_arrive_whole() -> None:
    found = await caught(failures.fail_with("signature"))
    assert isinstance(found, Signature)
    assert (found.args, found.code, found.hint) == (("failed with 7",), 7, "h")
    found = await caught(failures.fail_with("slotted"))
    assert isinstance(found, Slotted)
    assert found.detail == "d"
    found = await caught(failures.fail_with("reduced"))
    assert isinstance(found, Reduced)
    assert found.sum == 3


async def test_an_exception_that_lets_nobody_write_to_it_arrives_as_itself() -> None:
    found = await caught(failures.fail_with("frozen"))
    assert isinstance(found, Frozen)
    assert (found.args, found.code, found.hint) == ((7, "h"), 7, "h")
    assert found.__context__ is None

    async def while_handling(handled: BaseException) -> None:
        try:
            raise handled
        except BaseException:
            await failures.fail_with("frozen")

    handled = LookupError("handled by the caller")
    found = await caught(while_handling(handled))
    assert isinstance(found, Frozen)
    assert found.__context__ is handled


async def test_exceptions_that_are_values_arrive_whole_whatever_their_constructors_want() -> None:
    def check(signature: Any, keywords: Any, missing: Any) -> None:
        assert (type(signature), str(signature), signature.code, signature.hint) == (Signature, "failed with 7", 7, "h")
        assert (type(keywords), str(keywords), keywords.code) == (Keywords, "code 8", 8)
        assert (type(missing), missing.errno, missing.filename) == (NotThere, 2, "p")

    found = await caught(failures.fail_with("several"))
    assert isinstance(found, Several)
    check(*found.errors)
    [returned, *others] = await failures.gathered("several", "slotted", "reduced", "frozen")
    assert isinstance(returned, Several)
    assert str(returned) == "3 errors"
    check(*returned.errors)
    assert [type(other) for other in others] == [Slotted, Reduced, Frozen]

    class Mine(Exception):
        def __init__(self, *, code: int) -> None:
            super().__init__("mine", code)

    [mine] = await routines.echo([Mine(code=3)])
    assert (type(mine), mine.args) == (Mine, ("mine", 3))


async def test_an_attribute_that_cannot_be_pickled_is_replaced_alone() -> None:
    found = await caught(failures.fail_with("lock"))
    assert isinstance(found, HoldsALock)
    assert found.name == "l"
    assert "not picklable" in str(found.lock)
    assert "lock" in str(found.lock)


async def test_an_exception_that_refuses_to_be_pickled_keeps_class_and_arguments() -> None:
    found = await caught(failures.fail_with("not reducible"))
    assert type(found) is failures.NotReducible
    assert found.args == ("n", 1)


async def test_a_class_that_was_made_in_the_body_comes_as_itself() -> None:
    found = await caught(failures.fail_with("local class"))
    assert type(found).__name__ == "Local"
    assert found.args == ("local", 1)


async def test_a_class_that_cannot_be_rebuilt_is_a_remote_error_with_its_text() -> None:
    found = await caught(failures.fail_with("module gone"))
    assert type(found).__name__ in ("RemoteError", "Nowhere")
    if isinstance(found, wool.RemoteError):
        assert found.executed == "yes"
    assert "nowhere" in str(found)


async def test_classes_of_the_caller_that_are_not_importable_come_back_as_its_own() -> None:
    class Mine(Exception):
        def __init__(self, code: int, *, hint: str) -> None:
            super().__init__(code)
            self.hint = hint

    @wool.routine
    async def fail() -> None:
        try:
            raise Mine(1, hint="cause")
        except Mine as cause:
            raise Mine(2, hint="outer") from cause

    with pytest.raises(Mine) as found:
        await fail()
    assert (found.value.args, found.value.hint) == ((2,), "outer")
    assert type(found.value.__cause__) is Mine


# ---- chain, notes, groups ----------------------------------------------------------------------------


async def test_cause_context_and_notes_arrive() -> None:
    found = await caught(failures.chained())
    assert (type(found), found.args) == (Custom, ("outermost", 1))
    cause = found.__cause__
    assert (type(cause), cause and cause.args) == (LookupError, ("middle",))
    assert cause is not None
    assert found.__context__ is cause
    assert cause.__notes__ == ["a note"]
    assert isinstance(cause.__context__, KeyError)
    assert cause.__cause__ is None
    found = await caught(failures.hidden())
    assert found.__suppress_context__
    assert found.__cause__ is None
    assert isinstance(found.__context__, KeyError)


def shape(error: BaseException | None) -> Any:
    """Say what an exception consists of, to the last link."""
    if error is None:
        return None
    members = [shape(member) for member in error.exceptions] if isinstance(error, BaseExceptionGroup) else None
    links = shape(error.__cause__), shape(error.__context__), error.__suppress_context__
    return repr(error), getattr(error, "__notes__", None), members, links


@pytest.mark.parametrize("name", ["chained", "hidden", "grouped", "handling", "grouped_by_a_task_group"])
async def test_chains_and_groups_are_what_they_are_locally(name: str) -> None:
    routine = getattr(failures, name)
    local = await caught(inspect.unwrap(routine)())
    remote = await caught(routine())
    assert shape(remote) == shape(local)


async def test_a_group_is_split_by_type_as_locally() -> None:
    split: list[str] = []
    try:
        await failures.grouped_by_a_task_group()
    except* Signature as errors:
        split += [error.hint for error in errors.exceptions]  # type: ignore[union-attr]
    except* ValueError as errors:
        split += [repr(error) for error in errors.exceptions]
    assert split == ["x", "ValueError('plain')"]


async def test_attributes_that_pickle_alone_would_lose_arrive() -> None:
    found = await caught(failures.miss("attribute"))
    assert isinstance(found, AttributeError)
    assert found.name == "missing"
    found = await caught(failures.miss("name"))
    assert isinstance(found, NameError)
    assert found.name == "missing"
    found = await caught(failures.miss("module"))
    assert isinstance(found, ModuleNotFoundError)
    assert found.name == "no_such_module"


async def test_a_cycle_in_the_chain_stays_one() -> None:
    found = await caught(failures.cyclic())
    assert isinstance(found, ValueError)
    assert isinstance(found.__context__, KeyError)
    assert found.__context__.__context__ is found


async def test_what_the_caller_is_handling_is_the_last_context_as_locally() -> None:
    async def chain(function: Any) -> list[str]:
        try:
            raise ZeroDivisionError("of the caller")
        except ZeroDivisionError:
            found: BaseException | None = await caught(function())
        names = []
        while found is not None:
            names.append(type(found).__name__)
            found = found.__context__
        return names

    local = await chain(failures.handling.__wrapped__)  # type: ignore[attr-defined]
    assert local == ["ValueError", "KeyError", "ZeroDivisionError"]
    assert await chain(failures.handling) == local


# ---- traceback and origin ----------------------------------------------------------------------------


async def test_the_traceback_shows_the_remote_frames_and_the_callers() -> None:
    found = await caught(failures.deep_frames(3))
    text = "".join(traceback.format_exception(found))
    assert text.count("in _deeper") == 4
    assert "in deep_frames" in text
    assert "_deeper(levels - 1)" in text
    assert "in caught" in text
    assert text.index("in caught") < text.index("in deep_frames") < text.index("in _deeper")
    assert failures.__file__ in text
    last = traceback.extract_tb(found.__traceback__)[-1]
    assert (last.name, last.line) == ("_deeper", 'raise Custom("deep")')


async def test_the_traceback_of_a_cause_shows_where_it_was_raised() -> None:
    found = await caught(failures.chained())
    text = "".join(traceback.format_exception(found))
    for line in ('raise KeyError("innermost")', 'raise LookupError("middle")', 'raise Custom("outermost", 1)'):
        assert line in text
    assert "a note" in text


async def test_origin_tells_worker_host_pid_and_task(pool: wool.WorkerPool) -> None:  # noqa: F811
    found = await caught(failures.fail(Custom("x")))
    origin = wool.origin(found)
    assert origin is not None
    worker = next(worker for worker in pool.workers if worker.pid == origin.pid)
    assert (origin.worker, origin.host) == (worker.uid, socket.gethostname())
    assert len(origin.task) == 32
    assert vars(found) == {}
    assert wool.origin(ValueError("mine")) is None


async def test_origin_is_where_it_was_raised_and_not_where_it_passed() -> None:
    found = await caught(failures.through(4))
    origin = wool.origin(found)
    assert origin is not None
    assert found.args == ("after the hops", origin.pid)
    text = "".join(traceback.format_exception(found))
    assert text.count("in through") == 5
    assert text.count("<worker ") == 5


# ---- what must not pass for something else -----------------------------------------------------------


@pytest.mark.parametrize("kind", ["exit", "interrupt", "generator"])
async def test_what_would_end_a_process_arrives_wrapped_and_leaves_the_worker_alive(
    pool: wool.WorkerPool,  # noqa: F811
    kind: str,
) -> None:
    pids = {worker.pid for worker in pool.workers}
    expected = {"exit": SystemExit, "interrupt": KeyboardInterrupt, "generator": GeneratorExit}[kind]
    for _ in range(4):
        with pytest.raises(wool.RemoteError) as found:
            await failures.exit_process(kind)
        assert found.value.executed == "yes"
        assert type(found.value.__cause__) is expected
        if kind == "exit":
            assert found.value.__cause__.code == 3  # type: ignore[union-attr]
    stream = failures.exit_in_stream(kind)
    assert await anext(stream) == 1
    with pytest.raises(wool.RemoteError) as found:
        await anext(stream)
    assert type(found.value.__cause__) is expected
    await unharmed(pool, pids)


async def test_an_exit_in_a_task_of_the_body_leaves_the_worker_alive(pool: wool.WorkerPool) -> None:  # noqa: F811
    pids = {worker.pid for worker in pool.workers}
    with pytest.raises(wool.RemoteError) as found:
        await failures.exit_in_child_task()
    assert type(found.value.__cause__) is SystemExit
    await failures.leave_exit_behind()
    await unharmed(pool, pids)


@pytest.mark.parametrize(
    "name", ["no workers", "lost", "interrupted", "dispatch", "serialization", "remote", "unexpected"]
)
async def test_an_outcome_that_the_body_raises_is_not_the_outcome_of_its_call(
    pool: wool.WorkerPool,  # noqa: F811
    name: str,
) -> None:
    pids = {worker.pid for worker in pool.workers}
    with Journal() as journal:
        with pytest.raises(wool.RemoteError) as found:
            await failures.fail_with(name, journal.pen)
        assert journal.notes == ["ran"]
    assert found.value.executed == "yes"
    cause = found.value.__cause__
    assert type(cause) is type(failures.make(name))
    assert "of the body's own" in str(cause)
    assert isinstance(cause, wool.WoolError)
    assert cause.executed == failures.make(name).executed  # type: ignore[attr-defined]
    await unharmed(pool, pids)


@pytest.mark.parametrize(
    "error",
    [
        failures.FakeRpcError("unavailable"),
        TimeoutError("slow"),
        ConnectionResetError(104, "reset"),
        BrokenPipeError(32, "pipe"),
        EOFError("eof"),
        OSError(28, "No space left on device"),
    ],
    ids=lambda error: type(error).__name__,
)
async def test_what_looks_like_a_broken_connection_is_a_routine_that_failed(
    pool: wool.WorkerPool,  # noqa: F811
    error: BaseException,
) -> None:
    pids = {worker.pid for worker in pool.workers}
    with Journal() as journal:
        found = await caught(failures.fail(error, journal.pen))
        assert type(found) is type(error)
        assert found.args == error.args
        assert journal.notes == ["ran"]
        stream = failures.fail_in_stream(error, journal.pen)
        assert await anext(stream) == 1
        assert type(await caught(anext(stream))) is type(error)
        assert journal.notes == ["ran", "ran"]
    await unharmed(pool, pids)


async def test_a_real_rpc_error_is_a_routine_that_failed(pool: wool.WorkerPool) -> None:  # noqa: F811
    pids = {worker.pid for worker in pool.workers}

    @wool.routine
    async def call_nobody() -> None:
        async with grpc.aio.insecure_channel("unix:/nonexistent") as channel:
            await channel.unary_unary("/a/b")(b"")

    found = await caught(call_nobody())
    assert isinstance(found, grpc.RpcError)
    await unharmed(pool, pids)


async def test_stop_iteration_from_a_body_is_a_runtime_error_as_locally() -> None:
    found = await caught(failures.stop("sync"))
    assert (type(found), str(found)) == (RuntimeError, "coroutine raised StopIteration")
    assert isinstance(found.__cause__, StopIteration)
    assert found.__cause__.args == ("of the body",)
    found = await caught(failures.stop("async"))
    assert (type(found), found.args) == (StopAsyncIteration, ("of the body",))


@pytest.mark.parametrize("how", ["raise", "subclass", "cancel"])
async def test_a_bodys_own_cancellation_is_the_callers_cancelled_error(how: str) -> None:
    found = await caught(failures.cancel_itself(how))
    assert isinstance(found, asyncio.CancelledError)
    assert found.args == (("by itself",) if how == "cancel" else ("of the body's own",))
    assert type(found) is (failures.Cancelled if how == "subclass" else asyncio.CancelledError)
    task = asyncio.current_task()
    assert task is not None
    assert not task.cancelling()


# ---- __main__ ----------------------------------------------------------------------------------------


async def test_exceptions_of_a_script_are_caught_as_its_own(tmp_path: Path) -> None:
    script = """
        import asyncio, traceback
        import wool

        class Failure(Exception):
            def __init__(self, code, *, hint):
                super().__init__(code)
                self.hint = hint

        class Quiet(BaseException):
            pass

        @wool.routine
        async def fail(kind):
            if kind == "quiet":
                raise Quiet("q")
            error = Failure(3, hint="h")
            error.add_note("n")
            raise ExceptionGroup("g", [error]) from Failure(4, hint="cause")

        @wool.routine
        async def stream():
            try:
                yield 1
            except Failure as error:
                raise Failure(5, hint=error.hint) from error

        async def main():
            async with wool.WorkerPool(size=2):
                for _ in range(3):
                    try:
                        await fail("group")
                    except* Failure as errors:
                        group = errors
                    (error,) = group.exceptions
                    assert type(error) is Failure and error.hint == "h" and error.__notes__ == ["n"]
                    assert type(group.__cause__) is Failure
                    try:
                        await fail("quiet")
                    except Quiet as error:
                        assert error.args == ("q",)
                        assert "raise Quiet" in "".join(traceback.format_exception(error))
                    items = stream()
                    await anext(items)
                    thrown = Failure(1, hint="thrown")
                    try:
                        await items.athrow(thrown)
                    except Failure as error:
                        assert error.hint == "thrown" and error.__cause__ is thrown
            print("fine")

        asyncio.run(main())
    """
    path = tmp_path / "script.py"
    path.write_text(textwrap.dedent(script))
    env = {**os.environ, "PYTHONPATH": str(Path(wool.__file__).parents[1])}
    process = await asyncio.create_subprocess_exec(
        sys.executable, str(path), env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    out, err = await process.communicate()
    assert (out, err) == (b"fine\n", b"")


# ---- many --------------------------------------------------------------------------------------------


async def test_a_thousand_failures_at_once_are_a_thousand_exceptions() -> None:
    found = await asyncio.gather(*(failures.fail(Custom(n)) for n in range(1000)), return_exceptions=True)
    assert [error.args for error in found if isinstance(error, Custom)] == [(n,) for n in range(1000)]


async def test_the_caller_keeps_nothing_of_an_exception_that_it_has_dropped() -> None:
    with contextlib.suppress(Custom):
        await failures.fail(Custom("x"))
    assert await routines.add(1, 2) == 3
    error = await caught(failures.fail(Custom("x")))
    tb = error.__traceback__
    while tb is not None:
        held = [name for name, value in tb.tb_frame.f_locals.items() if value is error]
        assert not held, (tb.tb_frame, held)
        tb = tb.tb_next
