"""`wool.ContextVar`: the standard library's interface, an identity that others know, and what of it travels."""

from __future__ import annotations

import asyncio
import contextvars
import copy
import gc
import importlib
import pickle
import sys
import threading
import types
import weakref
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import wool
from support.memory_pool import memory_pool
from wool.limits import Limits
from wool.serialization import dumps, loads
from wool.variables import ContextFault, Held, Token, held, pack, receive

MIB = 1024 * 1024
LIMIT = 4096

at_the_top: wool.ContextVar[Any] = wool.ContextVar("at the top", default=0)


class Owner:
    variable: wool.ContextVar[int] = wool.ContextVar("in a class")


def made_by_a_function(name: str) -> wool.ContextVar[Any]:
    return wool.ContextVar(name)


at_import: wool.ContextVar[Any] = made_by_a_function("at import")
both = [wool.ContextVar[int](name) for name in ("comprehended", "too")]


@pytest.fixture
def fresh() -> contextvars.Context:
    """A context in which nothing was set."""
    return contextvars.Context()


# ---- the interface of the standard library -----------------------------------------------------------


@pytest.mark.parametrize("make", [contextvars.ContextVar, wool.ContextVar])
def test_it_is_used_as_the_standard_librarys(make: Any, fresh: contextvars.Context) -> None:
    def use() -> None:
        bare, defaulted = make("bare"), make("defaulted", default=None)
        assert (bare.name, defaulted.name) == ("bare", "defaulted")
        with pytest.raises(LookupError) as caught:
            bare.get()
        assert caught.value.args == (bare,)
        assert (bare.get(3), defaulted.get(), defaulted.get(3)) == (3, None, 3)
        first = bare.set(1)
        second = bare.set(2)
        assert (first.var, first.old_value, second.old_value) == (bare, first.MISSING, 1)
        assert (bare.get(), bare.get(3)) == (2, 2)
        bare.reset(second)
        assert bare.get() == 1
        bare.reset(first)
        assert bare.get(None) is None
        with pytest.raises(RuntimeError, match="has already been used once"):
            bare.reset(first)
        with pytest.raises(ValueError, match="was created by a different ContextVar"):
            defaulted.reset(bare.set(1))
        with pytest.raises(ValueError, match="was created in a different Context"):
            defaulted.reset(contextvars.Context().run(defaulted.set, 5))
        with pytest.raises(TypeError, match="expected an instance of"):
            bare.reset("token")
        with pytest.raises(TypeError, match="must be a str"):
            make(3)
        with pytest.raises(TypeError):
            make("name", 3)
        with pytest.raises(TypeError):
            type("Sub", (make,), {})
        with pytest.raises(TypeError, match="cannot pickle"):
            pickle.dumps(bare.set(1))
        assert repr(bare).startswith(("<ContextVar name='bare' at ", "<wool.ContextVar name='bare' at "))
        assert " name='defaulted' default=None at " in repr(defaulted)
        assert len({bare, defaulted, bare}) == 2
        make[int]

    fresh.run(use)


def test_a_token_can_be_annotated_by_the_name_that_its_messages_have(fresh: contextvars.Context) -> None:
    token: wool.Token[Any] = fresh.run(at_the_top.set, 1)
    assert repr(token).startswith("<wool.Token var=")
    with pytest.raises(TypeError, match="expected an instance of wool.Token"):
        at_the_top.reset(contextvars.Token)  # type: ignore[arg-type]


def test_a_token_puts_back_at_the_end_of_its_block(fresh: contextvars.Context) -> None:
    def use() -> None:
        with at_the_top.set(7) as token:
            assert (token.var, at_the_top.get()) == (at_the_top, 7)
        assert at_the_top.get() == 0

    fresh.run(use)


async def test_tasks_and_threads_have_values_of_their_own_and_begin_with_those_of_who_starts_them() -> None:
    at_the_top.set("here")

    async def other() -> Any:
        seen = at_the_top.get()
        at_the_top.set("there")
        return seen

    assert await asyncio.create_task(other()) == "here"
    assert await asyncio.to_thread(at_the_top.get) == "here"
    assert at_the_top.get() == "here"
    bare: list[Any] = []
    thread = threading.Thread(target=lambda: bare.append(at_the_top.get()))
    thread.start()
    thread.join()
    assert bare == [0] or bare == ["here"]  # the second where threads inherit context


# ---- identity ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("variable", [at_the_top, Owner.variable, at_import, *both], ids=lambda each: each.name)
def test_a_variable_of_a_module_travels_as_its_name(variable: wool.ContextVar[Any]) -> None:
    assert variable.__reduce__()[1] == (__name__, variable.name)
    assert loads(dumps(variable)) is variable
    assert copy.copy(variable) is variable and copy.deepcopy([variable]) == [variable]


def test_a_variable_made_in_a_function_comes_back_as_itself_and_two_of_one_name_are_two() -> None:
    one, other = wool.ContextVar[int]("local"), wool.ContextVar[int]("local", default=3)
    assert loads(dumps([one, other])) == [one, other]
    assert one.__reduce__() != other.__reduce__()


def test_a_variable_that_is_only_elsewhere_gets_a_stand_in_with_its_default() -> None:
    variable = wool.ContextVar("elsewhere", default=[5])
    sent = dumps([variable, variable])
    known = weakref.ref(variable)
    del variable
    gc.collect()
    assert known() is None
    first, again = loads(sent)  # type: ignore[misc]
    assert first is again and first.name == "elsewhere" and first.get() == [5]
    assert loads(dumps(first)) is first


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    """An importable module with one variable."""
    (tmp_path / "settings_of_test.py").write_text("import wool\nuser = wool.ContextVar('user', default='nobody')\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "settings_of_test", raising=False)
    return importlib.import_module("settings_of_test")


def test_a_name_is_looked_up_by_importing_its_module(module: types.ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    sent = dumps(module.user)
    monkeypatch.delitem(sys.modules, module.__name__)
    del module.user
    gc.collect()
    found: Any = loads(sent)
    assert found.get() == "nobody" and found is sys.modules["settings_of_test"].user


def test_a_module_that_has_no_such_variable_is_named(module: types.ModuleType, tmp_path: Path) -> None:
    sent = dumps(module.user)
    del module.user
    gc.collect()
    with pytest.raises(AttributeError, match="module 'settings_of_test' has no context variable 'user'"):
        loads(sent)


def test_a_second_variable_of_one_name_in_one_module_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = ["import wool", "first = wool.ContextVar('twice')", "for _ in 'ab': second = wool.ContextVar('twice')"]
    (tmp_path / "twice_in_test.py").write_text("\n".join(lines))
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ValueError, match="module 'twice_in_test' defines two context variables with the name 'twice'"):
        importlib.import_module("twice_in_test")


def test_a_module_that_is_executed_again_defines_the_same_variable_again(
    module: types.ModuleType, fresh: contextvars.Context
) -> None:
    def use() -> None:
        before = module.user
        before.set("me")
        importlib.reload(module)
        assert module.user is not before
        assert module.user.get() == "me"
        assert loads(dumps(before)) is module.user

    fresh.run(use)


def test_what_is_not_used_any_more_is_forgotten() -> None:
    variable = wool.ContextVar[int]("short-lived")
    gone = weakref.ref(variable)
    contextvars.Context().run(variable.set, 1)
    del variable
    gc.collect()
    assert gone() is None


# ---- what travels ------------------------------------------------------------------------------------


def packed(*contexts: contextvars.Context, limit: int = LIMIT) -> bytes:
    """Pack what the last context has and the one before has not."""
    before, now = ([None, *(context.run(held) for context in contexts)])[-2:]
    return pack(now, before, limit)


def test_nothing_travels_where_nothing_was_set_or_has_changed(fresh: contextvars.Context) -> None:
    assert packed(fresh) == b""
    fresh.run(at_the_top.get)
    assert fresh.run(held) is None
    fresh.run(at_the_top.set, [1])
    same = fresh.copy()
    assert packed(fresh, same) == b""
    same.run(lambda: at_the_top.reset(at_the_top.set([2])))
    assert packed(fresh, same) == b""


def test_only_what_was_set_travels(fresh: contextvars.Context) -> None:
    fresh.run(at_the_top.set, 1)
    fresh.run(Owner.variable.set, 2)
    assert [entry[1] for entry in pickle.loads(packed(fresh))] == ["at the top", "in a class"]
    later = fresh.copy()
    later.run(Owner.variable.set, 3)
    assert [entry[1] for entry in pickle.loads(packed(fresh, later))] == ["in a class"]


@given(st.lists(st.tuples(st.integers(0, 2), st.none() | st.integers(0, 3) | st.lists(st.booleans())), max_size=12))
def test_the_other_side_has_what_this_side_has_after_any_number_of_changes(changes: list[tuple[int, Any]]) -> None:
    variables = [at_the_top, Owner.variable, at_import]
    here, there = contextvars.Context(), contextvars.Context()
    tokens: list[tuple[wool.ContextVar[Any], Token[Any]]] = []
    known: Held | None = None

    def seen(context: contextvars.Context) -> list[Any]:
        return [context.run(variable.get, "unset") for variable in variables]

    for index, value in changes:
        if value is None and tokens:
            variable, token = tokens.pop()
            here.run(variable.reset, token)
        else:
            tokens.append((variables[index], here.run(variables[index].set, value)))
        now = here.run(held)
        if difference := pack(now, known, LIMIT):
            there.run(receive, difference)
        known = now
        assert seen(there) == seen(here)
        assert there.run(lambda: Owner.variable.get(None)) == here.run(lambda: Owner.variable.get(None))


def test_what_cannot_change_is_pickled_once(fresh: contextvars.Context) -> None:
    fresh.run(at_the_top.set, "text")
    assert packed(fresh) is packed(fresh)
    fresh.run(at_the_top.set, [1])
    first = packed(fresh)
    fresh.run(lambda: at_the_top.get().append(2))
    assert packed(fresh) != first


loaded: list[str] = []


class Loud:
    """Says when it is loaded."""

    def __reduce__(self) -> Any:
        return _load_loud, ()


def _load_loud() -> str:
    loaded.append("loaded")
    return "loud"


def _cannot_load() -> None:
    raise ModuleNotFoundError("no such module here")


class Unloadable:
    def __reduce__(self) -> Any:
        return _cannot_load, ()


def test_a_value_is_loaded_once_when_it_is_read_and_passed_on_as_it_came(fresh: contextvars.Context) -> None:
    loaded.clear()
    fresh.run(at_the_top.set, Loud())
    middle, far = contextvars.Context(), contextvars.Context()
    middle.run(receive, packed(fresh))
    far.run(receive, packed(middle))
    assert not loaded
    token = far.run(at_the_top.set, 5)
    assert token.old_value == "loud"
    far.run(at_the_top.reset, token)
    assert far.run(at_the_top.get) is far.copy().run(at_the_top.get) == "loud"
    assert loaded == ["loaded"]


def test_a_value_that_cannot_be_loaded_harms_who_reads_it_alone(fresh: contextvars.Context) -> None:
    fresh.run(at_the_top.set, Unloadable())
    fresh.run(Owner.variable.set, 3)
    there = contextvars.Context()
    there.run(receive, packed(fresh))
    assert there.run(Owner.variable.get) == 3
    with pytest.raises(ModuleNotFoundError) as caught:
        there.run(at_the_top.get)
    assert "the value of context variable 'at the top' of module" in caught.value.__notes__[0]


def test_what_was_loaded_and_changed_travels_on_as_it_is_now(fresh: contextvars.Context) -> None:
    fresh.run(at_the_top.set, [1])
    middle, far = contextvars.Context(), contextvars.Context()
    middle.run(receive, packed(fresh))
    middle.run(lambda: at_the_top.get().append(2))
    far.run(receive, packed(middle))
    assert far.run(at_the_top.get) == [1, 2]


def test_what_nobody_here_can_read_is_not_passed_on(fresh: contextvars.Context) -> None:
    variable = wool.ContextVar[int]("of a body")
    fresh.run(variable.set, 1)
    assert packed(fresh)
    del variable
    gc.collect()
    assert packed(fresh) == b""


@pytest.mark.parametrize("bytes_", [b"", b"nonsense", pickle.dumps(3), pickle.dumps([(1, 2)])])
def test_what_was_not_packed_is_not_taken(bytes_: bytes, fresh: contextvars.Context) -> None:
    with pytest.raises((EOFError, pickle.UnpicklingError, TypeError, ValueError)):
        fresh.run(receive, bytes_)
    assert fresh.run(held) is None


def test_a_limit_bounds_what_travels_and_names_the_largest(fresh: contextvars.Context) -> None:
    fresh.run(Owner.variable.set, 1)
    fresh.run(at_the_top.set, bytes(LIMIT))
    with pytest.raises(ContextFault, match=rf"limit is {LIMIT} \(context_bytes\).* is context variable 'at the top'"):
        packed(fresh)


# ---- calls -------------------------------------------------------------------------------------------


@wool.routine
async def read() -> Any:
    return at_the_top.get()


@wool.routine
async def write(value: Any, fails: bool = False) -> str:
    at_the_top.set(value)
    if fails:
        raise LookupError("on purpose")
    return "written"


@wool.routine
async def write_bad(fails: bool) -> str:
    at_the_top.set(threading.Lock())
    if fails:
        raise LookupError("on purpose")
    return "written"


@wool.routine
async def stream(values: list[Any]) -> Any:
    try:
        for value in values:
            at_the_top.set(value)
            yield at_the_top.get()
    finally:
        closed.append(at_the_top.get())


@wool.routine
async def write_lock_in_stream() -> Any:
    try:
        yield 1
        at_the_top.set(threading.Lock())
        yield 2
    finally:
        closed.append("closed")


closed: list[Any] = []


@wool.routine
async def hang(value: Any) -> None:
    at_the_top.set(value)
    try:
        await asyncio.Event().wait()
    except asyncio.CancelledError:
        at_the_top.set([value, "cancelled"])
        raise


@wool.routine
async def hang_with_a_lock() -> None:
    at_the_top.set(threading.Lock())
    await asyncio.Event().wait()


@wool.routine
async def hang_with_a_lock_in_stream() -> Any:
    yield 1
    at_the_top.set(threading.Lock())
    await asyncio.Event().wait()


async def test_a_value_that_cannot_be_pickled_names_its_variable_and_nothing_has_run() -> None:
    async with memory_pool() as made:
        at_the_top.set(threading.Lock())
        with pytest.raises(TypeError, match="cannot pickle") as caught:
            await read()
        (note,) = caught.value.__notes__
        assert "context variable 'at the top' of module" in note
        assert note.endswith("of type _thread.lock; routine unit.test_variables:read did not run")
        assert not [link for link in made.proxy._links.values() if link.connection is not None]


async def test_a_hundred_megabytes_are_over_the_limit_before_anything_is_sent() -> None:
    async with memory_pool(limits=Limits()):
        at_the_top.set(bytes(100 * MIB))
        with pytest.raises(wool.SerializationError, match=r"limit is 1048576 \(context_bytes\)") as caught:
            await read()
        assert caught.value.executed == "no"


async def test_what_a_body_sets_is_seen_whether_it_returns_or_raises() -> None:
    async with memory_pool():
        assert await write("returned") == "written"
        assert at_the_top.get() == "returned"
        with pytest.raises(LookupError, match="on purpose"):
            await write("raised", True)
        assert at_the_top.get() == "raised"


@pytest.mark.parametrize("fails", [False, True])
async def test_what_a_body_sets_and_cannot_be_pickled_is_told_with_the_variables_name(fails: bool) -> None:
    async with memory_pool():
        at_the_top.set("before")
        with pytest.raises(
            wool.SerializationError, match="context variable 'at the top' .* cannot be pickled"
        ) as caught:
            await write_bad(fails)
        assert caught.value.executed == "yes"
        context = caught.value.__context__ if fails else caught.value.__cause__
        assert isinstance(context, LookupError if fails else TypeError)
        assert at_the_top.get() == "before"


async def test_what_a_body_sets_is_bounded_too() -> None:
    async with memory_pool(limits=Limits(context_bytes=100)):
        with pytest.raises(wool.SerializationError, match=r"limit is 100 \(context_bytes\)") as caught:
            await write(bytes(200))
        assert caught.value.executed == "yes"


async def test_large_values_go_in_chunks() -> None:
    value = bytes(range(256)) * 2000
    async with memory_pool(limits=Limits()):
        at_the_top.set(value)
        assert await read() == value
        await write(value[::-1])
        assert at_the_top.get() == value[::-1]


async def test_a_generator_that_cannot_be_told_a_value_is_closed() -> None:
    closed.clear()
    async with memory_pool():
        items = stream([1, 2, 3])
        assert await anext(items) == 1
        at_the_top.set(threading.Lock())
        with pytest.raises(TypeError, match="cannot pickle") as caught:
            await anext(items)
        assert caught.value.__notes__[0].endswith("has been closed")
        assert closed == [1]
        with pytest.raises(StopAsyncIteration):
            await anext(items)


async def test_a_generator_whose_value_does_not_travel_is_closed() -> None:
    closed.clear()
    async with memory_pool():
        items = write_lock_in_stream()
        assert await anext(items) == 1
        with pytest.raises(wool.SerializationError, match="'at the top'"):
            await anext(items)
        assert closed == ["closed"]


async def test_what_a_cancelled_body_sets_is_seen() -> None:
    async with memory_pool() as made:
        at_the_top.set("before")
        seen: list[Any] = []

        async def caller() -> None:
            try:
                await hang("value")
            finally:
                seen.append(at_the_top.get())

        task = asyncio.create_task(caller())
        await made.settle(200)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert seen == [["value", "cancelled"]]
        assert at_the_top.get() == "before"


@pytest.mark.parametrize("streams", [False, True])
async def test_a_time_out_is_one_though_what_the_cancelled_body_has_set_does_not_travel(
    streams: bool, caplog: pytest.LogCaptureFixture
) -> None:
    async with memory_pool() as made:
        scope = asyncio.timeout(None)

        async def caller() -> None:
            async with scope:
                if streams:
                    async for _ in hang_with_a_lock_in_stream():
                        pass
                else:
                    await hang_with_a_lock()

        task = asyncio.create_task(caller())
        await made.settle(200)
        scope.reschedule(0)
        with pytest.raises(TimeoutError):
            await task
    assert "the value of context variable 'at the top'" in caplog.text


async def test_an_answer_with_nonsense_for_context_is_told_and_ends_the_generator(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    closed.clear()
    monkeypatch.setattr("wool.worker.runner.pack", lambda now, before, limit: b"nonsense")
    async with memory_pool():
        with pytest.raises(wool.SerializationError, match="says of context variables cannot be read") as caught:
            await write("value")
        assert caught.value.executed == "yes"
        with pytest.raises(wool.SerializationError, match="says of context variables cannot be read"):
            await anext(stream([1, 2]))
        assert closed == [1]


async def test_a_call_with_nonsense_for_context_does_not_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("wool.dispatch.pack", lambda now, before, limit: b"nonsense")
    async with memory_pool():
        at_the_top.set(1)
        with pytest.raises(wool.SerializationError) as caught:
            await read()
        assert caught.value.executed == "no"


async def test_a_step_with_nonsense_for_context_closes_the_generator(monkeypatch: pytest.MonkeyPatch) -> None:
    closed.clear()
    async with memory_pool():
        items = stream([1, 2])
        await anext(items)
        monkeypatch.setattr("wool.call.pack", lambda now, before, limit: b"nonsense")
        at_the_top.set(9)
        with pytest.raises(wool.SerializationError):
            await anext(items)
        assert closed == [1]
