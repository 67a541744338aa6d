"""A routine looks to its caller like the function it was."""

from __future__ import annotations

import asyncio
import functools
import gc
import inspect
import os
import re
import subprocess
import sys
import textwrap
import time
import warnings
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import wool
from support import routines
from support.journal import Journal
from support.pools import connect, module_loop, no_leaked_tasks, pool  # noqa: F401
from support.routines import Account, Point, Savings
from wool.discovery.base import WorkerMetadata

pytestmark = module_loop

MIB = 1024 * 1024
TESTS = Path(__file__).parents[1]


async def taken(generator: Any) -> list[Any]:
    return [item async for item in generator]


# ---- what can be a routine ---------------------------------------------------------------------------


async def test_a_routine_runs_in_another_process_and_returns_its_value() -> None:
    pid, name, thread = await routines.where()
    assert pid != os.getpid()
    assert name == "support.routines:where"
    assert thread == "MainThread"
    assert await routines.add(1, 2) == 3


async def test_positional_keyword_default_and_variable_arguments_arrive_as_given() -> None:
    assert await routines.everything(1, third=3) == (1, 2, (), 3, 4, {})
    assert await routines.everything(1, 5, 6, 7, third=8, fourth=9, fifth=10, first=11) == (
        *(1, 5, (6, 7), 8, 9),
        {"fifth": 10, "first": 11},
    )


async def test_methods_of_every_kind_are_routines_with_the_decorators_in_either_order() -> None:
    account = Account(10)
    assert await account.doubled() == 20
    assert await account.doubled(times=3) == 80
    assert await Account.doubled(account) == 20
    assert await taken(account.parts(4)) == [4, 4, 2]
    for method in (Account.of_class, Account.of_class_inside, account.of_class, account.of_class_inside):
        assert await method(5) == ("Account", 10)
    for method in (Account.of_nothing, Account.of_nothing_inside, account.of_nothing, account.of_nothing_inside):
        assert await method(5) == 6
    assert await taken(Account.class_items(2)) == ["Account0", "Account1"]
    assert await taken(account.static_items(2)) == [0, 1]
    assert await Account.Inner().deep() == "Account.Inner"


async def test_a_private_method_is_a_routine_that_travels_as_its_name() -> None:
    assert await Account(5).in_private() == [15, 1]


async def test_inherited_methods_see_the_subclass_and_overridden_ones_call_super() -> None:
    savings = Savings(7)
    assert await savings.doubled() == 14
    assert await Savings.of_class_inside(5) == ("Savings", 15)
    assert await Savings.of_class(5) == ("super says Savings", 15)
    assert await savings.describe() == ["Savings True", "Account 7"]
    assert await taken(savings.items()) == ["savings", "account 7"]
    assert await taken(Savings.class_items(1)) == ["Savings0"]


async def test_a_method_of_a_slotted_dataclass_is_a_routine() -> None:
    assert await Point(1, 2).moved(3) == Point(4, 5)


async def test_local_functions_and_closures_are_routines() -> None:
    base = 10

    @wool.routine
    async def local(x: int, *, y: int = 5) -> int:
        return x + y + base

    @wool.routine
    async def stream(stop: int) -> Any:
        for number in range(stop):
            yield number + base

    assert await local(1) == 16
    assert await taken(stream(2)) == [10, 11]
    base = 100
    assert await local(1) == 106
    assert await taken(stream(2)) == [100, 101]


async def test_local_classes_travel_with_their_methods() -> None:
    class Local:
        def __init__(self, value: int) -> None:
            self.value = value

        @wool.routine
        async def twice(self) -> Local:
            return Local(self.value * 2)

        @wool.routine
        @classmethod
        async def name(cls) -> str:
            return cls.__name__

        @wool.routine
        @staticmethod
        async def plus(value: int) -> int:
            return value + 1

    result = await Local(4).twice()
    assert type(result) is Local
    assert result.value == 8
    assert (await result.twice()).value == 16
    assert await Local.name() == "Local"
    assert await Local.plus(1) == 2


async def test_a_local_routine_may_call_itself_and_others() -> None:
    @wool.routine
    async def factorial(n: int) -> int:
        return 1 if n < 2 else n * await factorial(n - 1)

    @wool.routine
    async def even(n: int) -> bool:
        return n == 0 or await odd(n - 1)

    @wool.routine
    async def odd(n: int) -> bool:
        return n != 0 and await even(n - 1)

    assert await factorial(6) == 720
    assert await even(5) is False
    assert await odd(5) is True


async def test_a_decorator_above_and_one_below_both_apply() -> None:
    def logged(function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        async def wrapper(*args: Any) -> Any:
            return ["logged", await function(*args)]

        return wrapper

    @logged
    @wool.routine
    async def above(x: int) -> tuple[int, int]:
        return x, os.getpid()

    @wool.routine
    @logged
    async def below(x: int) -> tuple[int, int]:
        return x, os.getpid()

    for name, (value, worker) in (await above(1), await below(1)):
        assert (name, value) == ("logged", 1)
        assert worker != os.getpid()


@pytest.mark.parametrize(
    "thing",
    [
        lambda x: x,
        # Marked as a coroutine function, where Python can.
        getattr(inspect, "markcoroutinefunction", lambda function: function)(lambda x: x),
        test_a_routine_runs_in_another_process_and_returns_its_value.__class__,
        len,
        functools.partial(routines.add, 1),
        type("Callable", (), {"__call__": lambda self: None})(),
        property(lambda self: None),
        staticmethod(len),
        classmethod(lambda cls: None),
        (number for number in ()).__class__,
        object(),
        None,
        7,
    ],
    ids=lambda thing: type(thing).__name__,
)
async def test_anything_else_is_refused_at_decoration(thing: Any) -> None:
    with pytest.raises(TypeError, match="@wool.routine takes a function defined with 'async def'"):
        wool.routine(thing)


async def test_a_plain_generator_function_is_refused_at_decoration() -> None:
    def plain() -> Any:
        yield 1

    with pytest.raises(TypeError, match="is a generator"):
        wool.routine(plain)  # type: ignore[call-overload]


async def test_a_routine_is_not_decorated_twice() -> None:
    with pytest.raises(ValueError, match="add is a routine already"):
        wool.routine(routines.add)
    for method in ("of_class", "of_class_inside", "of_nothing", "of_nothing_inside"):
        with pytest.raises(ValueError, match=f"{method} is a routine already"):
            wool.routine(vars(Account)[method])


# ---- what it looks like ------------------------------------------------------------------------------


async def test_a_routine_is_inspected_like_the_function_it_was() -> None:
    raw = inspect.unwrap(routines.add)
    assert raw is not routines.add
    assert inspect.iscoroutinefunction(routines.add)
    assert asyncio.iscoroutinefunction(routines.add)
    assert not inspect.isasyncgenfunction(routines.add)
    assert inspect.isasyncgenfunction(routines.count)
    assert not inspect.iscoroutinefunction(routines.count)
    assert inspect.iscoroutinefunction(Account.of_class)
    assert inspect.isasyncgenfunction(Account(1).parts)
    assert inspect.signature(routines.add) == inspect.signature(raw)
    assert str(inspect.signature(routines.add)) == "(x: 'int', y: 'int') -> 'int'"
    assert (routines.add.__name__, routines.add.__qualname__) == ("add", "add")
    assert routines.add.__module__ == "support.routines"
    assert routines.add.__doc__ == "Add two numbers."
    assert routines.add.__annotations__ == raw.__annotations__
    assert Account.doubled.__qualname__ == "Account.doubled"


async def test_a_call_is_a_native_coroutine_and_a_native_generator() -> None:
    call = routines.add(1, 2)
    assert inspect.iscoroutine(call)
    assert (call.__name__, call.__qualname__) == ("add", "add")
    assert await call == 3
    stream = routines.count(1)
    assert inspect.isasyncgen(stream)
    assert (stream.__name__, stream.__qualname__) == ("count", "count")
    assert await taken(stream) == [0]


async def test_a_call_that_is_never_awaited_warns_as_locally() -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        routines.add(1, 2)
        gc.collect()
    assert [str(warning.message) for warning in caught] == ["coroutine 'add' was never awaited"]


async def test_an_awaited_call_cannot_be_awaited_again() -> None:
    call = routines.add(1, 2)
    await call
    with pytest.raises(RuntimeError, match="cannot reuse already awaited coroutine"):
        await call


@pytest.mark.parametrize(
    ("args", "kwargs"), [((), {}), ((1,), {}), ((1, 2, 3), {}), ((1,), {"z": 2}), ((1, 2), {"x": 3})], ids=str
)
async def test_wrong_arguments_are_the_callers_own_type_error_and_no_worker_hears_of_them(
    args: tuple[Any, ...], kwargs: dict[str, Any]
) -> None:
    raw = inspect.unwrap(routines.add)
    with pytest.raises(TypeError) as local:
        await raw(*args, **kwargs)
    with pytest.raises(TypeError) as remote:
        await routines.add(*args, **kwargs)
    assert str(remote.value) == str(local.value)
    assert wool.origin(remote.value) is None
    with pytest.raises(TypeError, match="missing 1 required positional argument: 'stop'"):
        await anext(routines.count())  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="missing 1 required positional argument: 'self'"):
        await Account.doubled()  # type: ignore[call-arg]


# ---- values ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "value", [b"", None, "", 0, (), [], {}, float("inf"), 2**200, "é\0\ud83d\ude00", ...], ids=repr
)
async def test_small_values_come_back_as_they_went(value: Any) -> None:
    result = await routines.echo(value)
    assert result == value
    assert type(result) is type(value)


@pytest.mark.parametrize("kind", ["bytes", "bytearray", "memoryview", "nested"])
async def test_large_values_go_there_and_back(kind: str) -> None:
    size = 40 * MIB
    value = await routines.blob(kind, size)
    if kind == "nested":
        first, inner = value["a"]
        assert (type(first), len(first)) == (bytes, size // 2)
        assert (type(inner["b"]), len(inner["b"])) == (bytearray, size // 2)
    else:
        assert type(value).__name__ == kind
        assert len(value) == size
    assert await routines.echo(value) == value


async def test_the_callers_arguments_are_not_changed_by_the_body() -> None:
    items, table, data = [1], {"x": [2]}, bytearray(b"good" + bytes(200_000))
    changed_items, changed_table, head = await routines.spoil(items, table, data)
    assert (changed_items, changed_table, head) == ([1, 99], {"x": [2, 99]}, b"bad")
    assert (items, table, data[:4]) == ([1], {"x": [2]}, b"good")


async def test_a_shared_or_recursive_argument_stays_so() -> None:
    shared: list[Any] = []
    loop: dict[str, Any] = {"one": shared, "two": shared}
    loop["self"] = loop
    result = await routines.echo(loop)
    assert result["self"] is result
    assert result["one"] is result["two"]


async def test_a_shared_buffer_stays_so_whatever_its_size() -> None:
    @wool.routine
    async def write(one: bytearray, other: list[bytearray], third: bytearray) -> list[bytes]:
        one[:3] = b"new"
        return [bytes(buffer[:3]) for buffer in (one, other[0], third)]

    for size in (3, 1_000_000):
        buffer = bytearray(size)
        assert await write(buffer, [buffer], third=buffer) == [b"new"] * 3
        assert buffer == bytes(size)


async def test_what_a_body_lets_go_of_is_kept_by_nobody() -> None:
    local = await routines.let_go.__wrapped__(routines.Thing(), routines.Thing(), last=routines.Thing())  # type: ignore[attr-defined]
    assert local == [True] * 3
    assert await routines.let_go(routines.Thing(), routines.Thing(), last=routines.Thing()) == local
    assert await taken(routines.let_go_and_yield(routines.Thing())) == [True]


async def test_the_caller_of_a_body_at_work_keeps_no_arguments() -> None:
    thing = routines.Thing()
    seen = weakref.ref(thing)
    with Journal() as journal:
        call = asyncio.create_task(routines.park_with(journal.pen, thing))
        del thing
        while not journal.notes:
            await journal.changed()
        assert seen() is None
        call.cancel()
        await asyncio.wait([call])


async def test_a_routine_may_be_passed_as_an_argument_and_called_there() -> None:
    @wool.routine
    async def apply(function: Callable[..., Any], *args: Any) -> tuple[Any, bool]:
        return await function(*args), inspect.iscoroutinefunction(function)

    assert await apply(routines.add, 1, 2) == (3, True)
    assert await apply(Account(5).doubled) == (10, True)
    assert (await routines.echo(routines.add)) is routines.add
    assert await apply(apply, routines.add, 1, 2) == ((3, True), True)


async def test_five_thousand_calls_at_once_each_have_their_own_answer() -> None:
    assert await asyncio.gather(*(routines.add(number, 1) for number in range(5000))) == list(range(1, 5001))


# ---- outside -----------------------------------------------------------------------------------------


async def run_script(folder: Path, script: str, *, succeeds: bool = True) -> str:
    path = folder / "script.py"
    path.write_text(textwrap.dedent(script))
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(TESTS), str(TESTS.parent / "src")])}
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-W", "error", str(path), cwd=folder, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    out, err = await process.communicate()
    assert (process.returncode == 0) is succeeds, out.decode() + err.decode()
    return (out if succeeds else err).decode()


async def test_called_outside_a_pool_a_routine_says_what_to_do(tmp_path: Path) -> None:
    script = """
        import asyncio
        from support import routines
        for call in (lambda: routines.add(1, 2), lambda: anext(routines.count(1))):
            async def main():
                await call()
            try:
                asyncio.run(main())
            except RuntimeError as error:
                print(error)
    """
    lines = (await run_script(tmp_path, script)).splitlines()
    assert len(lines) == 2
    assert re.match(r"routine support\.routines:add was called outside a pool: .*async with wool\.WorkerPool", lines[0])
    assert "inside 'with pool.use():' where another task or thread has opened the pool" in lines[0]
    assert "support.routines:count" in lines[1]


async def test_called_after_its_pool_has_closed_a_routine_says_so(tmp_path: Path) -> None:
    script = """
        import asyncio, wool
        from support import routines
        async def later(opened, closed):
            opened.set()
            await closed.wait()
            await routines.add(1, 2)
        async def main():
            opened, closed = asyncio.Event(), asyncio.Event()
            async with wool.WorkerPool(size=1):
                task = asyncio.create_task(later(opened, closed))
                await opened.wait()
            closed.set()
            try:
                await task
            except RuntimeError as error:
                print(error)
            try:
                await routines.add(1, 2)
            except RuntimeError as error:
                print(error)
        asyncio.run(main())
    """
    lines = (await run_script(tmp_path, script)).splitlines()
    assert "closed" in lines[0]
    assert "called outside a pool" in lines[1]


# ---- __main__ ----------------------------------------------------------------------------------------


async def test_a_script_without_a_guard_calls_its_own_routines_recursive_ones_too(tmp_path: Path) -> None:
    script = """
        import asyncio, os
        import wool

        print("top")

        @wool.routine
        async def fib(n):
            if n < 2:
                return n
            async with asyncio.TaskGroup() as group:
                a, b = group.create_task(fib(n - 1)), group.create_task(fib(n - 2))
            return a.result() + b.result()

        @wool.routine
        async def even(n):
            return n == 0 or await odd(n - 1)

        @wool.routine
        async def odd(n):
            return n != 0 and await even(n - 1)

        @wool.routine
        async def squares(n):
            for number in range(n):
                yield await square(number)

        @wool.routine
        async def square(n):
            return n * n

        async def main():
            async with wool.WorkerPool(size=2):
                print(await fib(8), await even(7), await odd(7), [x async for x in squares(4)])

        asyncio.run(main())
    """
    assert await run_script(tmp_path, script) == "top\n21 False True [0, 1, 4, 9]\n"


async def test_classes_of_a_script_come_back_as_the_callers_own(tmp_path: Path) -> None:
    script = """
        import asyncio, enum, os
        from dataclasses import dataclass
        from typing import NamedTuple
        import wool

        @dataclass
        class Point:
            x: int
            @wool.routine
            async def moved(self, by):
                return Point(self.x + by)
            @wool.routine
            @classmethod
            async def origin(cls):
                return cls(0)

        class Far(Point):
            @wool.routine
            async def moved(self, by):
                near = await super().moved(by)
                return Far(near.x * 1000)

        class Color(enum.Enum):
            RED = 1

        class Pair(NamedTuple):
            a: object
            b: object

        class Failure(Exception):
            def __init__(self, code, *, hint):
                super().__init__(f"failed with {code}")
                self.code, self.hint = code, hint

        @wool.routine
        async def swap(pair):
            assert isinstance(pair, Pair) and pair.b is Color.RED
            return Pair(pair.b, pair.a)

        @wool.routine
        async def fail(code):
            try:
                raise Failure(code, hint=Point(code))
            except Failure as failure:
                raise LookupError("outer") from failure

        @wool.routine
        async def points(n):
            for x in range(n):
                got = yield Point(x)
                assert got is None or type(got) is Point

        async def main():
            async with wool.WorkerPool(size=2):
                moved = await Point(1).moved(2)
                assert type(moved) is Point and moved == Point(3), moved
                assert type(await Point.origin()) is Point
                assert type(await Far.origin()) is Far
                far = await Far(1).moved(2)
                assert type(far) is Far and far.x == 3000
                pair = await swap(Pair(Point(1), Color.RED))
                assert type(pair) is Pair and pair.a is Color.RED and type(pair.b) is Point
                try:
                    await fail(7)
                except LookupError as error:
                    cause = error.__cause__
                    assert type(cause) is Failure and cause.code == 7 and cause.hint == Point(7)
                    assert wool.origin(error).pid != os.getpid()
                try:
                    await fail(8)
                except LookupError as error:
                    assert isinstance(error.__cause__, Failure)
                stream = points(3)
                assert type(await anext(stream)) is Point
                assert type(await stream.asend(Point(9))) is Point
                await stream.aclose()
                # Again, on whichever worker: the classes are still ours.
                for again in await asyncio.gather(*(Point(n).moved(1) for n in range(20))):
                    assert type(again) is Point
                print("fine")

        asyncio.run(main())
    """
    assert await run_script(tmp_path, script) == "fine\n"


async def test_the_next_call_sees_changed_globals_and_closures_of_a_script(tmp_path: Path) -> None:
    script = """
        import asyncio
        import wool

        factor = 2
        table = {"x": 1}

        def helper(x):
            return x * factor

        @wool.routine
        async def scaled(x):
            return helper(x), table["x"]

        def make(base):
            @wool.routine
            async def shifted(x):
                return x + base
            def change(new):
                nonlocal base
                base = new
            return shifted, change

        @wool.routine
        async def counting():
            global factor
            factor += 1
            return factor

        async def main():
            global factor, helper
            async with wool.WorkerPool(size=1):
                print(await scaled(10))
                factor = 5
                table["x"] = 3
                print(await scaled(10))
                helper = lambda x: -x
                print(await scaled(10))
                shifted, change = make(1)
                print(await shifted(10))
                change(7)
                print(await shifted(10))
                print(await counting(), await counting(), factor)

        asyncio.run(main())
    """
    assert await run_script(tmp_path, script) == "(20, 1)\n(50, 3)\n(-10, 3)\n11\n17\n6 6 5\n"


async def test_a_script_from_standard_input_runs(tmp_path: Path) -> None:
    script = """
        import asyncio, wool
        @wool.routine
        async def add(x, y):
            return x + y
        async def main():
            async with wool.WorkerPool(size=1):
                print(await add(1, 2))
        asyncio.run(main())
    """
    env = {**os.environ, "PYTHONPATH": str(TESTS.parent / "src")}
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-", cwd=tmp_path, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    out, _ = await process.communicate(textwrap.dedent(script).encode())
    assert out == b"3\n"


async def test_modules_next_to_the_script_are_importable_on_the_workers(tmp_path: Path) -> None:
    (tmp_path / "neighbour.py").write_text(
        "import os, wool\n@wool.routine\nasync def place():\n    return os.getcwd(), __name__\n"
    )
    script = """
        import asyncio, os, wool, neighbour
        async def main():
            async with wool.WorkerPool(size=1):
                print(await neighbour.place() == (os.getcwd(), "neighbour"))
        asyncio.run(main())
    """
    assert await run_script(tmp_path, script) == "True\n"


# ---- the task ----------------------------------------------------------------------------------------


async def test_there_is_no_current_task_outside_a_routine() -> None:
    assert wool.current_task() is None
    await routines.add(1, 2)
    assert wool.current_task() is None


async def test_a_body_knows_its_task_and_the_task_its_caller() -> None:
    here = await routines.family(0)
    assert here.parent is None
    assert here.kind == "coroutine"
    assert here.routine == "support.routines:family"
    other = await routines.family(0)
    assert other.id != here.id
    assert other.caller == here.caller


async def test_nested_tasks_name_their_parents() -> None:
    root = await routines.family(3)
    seen = {root.id}

    def check(parent: routines.Family) -> None:
        assert len(parent.children) in (0, 2)
        for child in parent.children:
            assert child.parent == parent.id
            assert child.caller != root.caller
            assert child.id not in seen
            seen.add(child.id)
            check(child)

    check(root)
    assert len(seen) == 15


async def test_a_generator_has_one_task_for_all_its_steps() -> None:
    found = await taken(routines.family_stream(4))
    assert len({own.id for own, _ in found}) == 1
    own, _ = found[0]
    assert own.kind == "generator"
    assert own.parent is None
    assert all(nested.parent == own.id for _, nested in found)
    assert len({nested.id for _, nested in found}) == 4


# ---- the dispatch timeout ----------------------------------------------------------------------------


async def test_the_dispatch_timeout_is_inherited_by_nested_calls() -> None:
    assert await routines.timeout_in_force(2) == [60.0, 60.0, 60.0]
    for seconds in (7.5, None):
        with wool.RuntimeContext(dispatch_timeout=seconds):
            assert await routines.timeout_in_force(2) == [seconds] * 3
            with wool.RuntimeContext(dispatch_timeout=3):
                assert await routines.timeout_in_force(1) == [3.0, 3.0]
            assert await routines.timeout_replaced(1.25) == [1.25]
            assert await routines.timeout_replaced(None) == [None]
            assert await routines.timeout_in_force(0) == [seconds]
    assert await routines.timeout_in_force(0) == [60.0]


@pytest.mark.parametrize("seconds", [0, -1, float("nan"), "1", True])
async def test_a_dispatch_timeout_is_a_positive_number(seconds: Any) -> None:
    with pytest.raises(ValueError, match="dispatch_timeout must be a positive number"):
        wool.RuntimeContext(dispatch_timeout=seconds)


class NobodyYet:
    """A discovery that has not found anybody."""

    def __aiter__(self) -> NobodyYet:
        return self

    async def __anext__(self) -> wool.DiscoveryEvent:
        return await asyncio.get_running_loop().create_future()


async def test_with_no_worker_in_view_a_call_ends_after_its_dispatch_timeout() -> None:
    async with wool.WorkerProxy(discovery=NobodyYet()):
        with wool.RuntimeContext(dispatch_timeout=0.2):
            began = time.monotonic()
            with pytest.raises(wool.DispatchTimeout, match=r"within 0\.2 s") as caught:
                await routines.add(1, 2)
            assert 0.2 <= time.monotonic() - began < 5
            assert caught.value.executed == "no"
            assert isinstance(caught.value, TimeoutError)
            with pytest.raises(wool.DispatchTimeout):
                await anext(routines.count(1))


async def test_with_no_worker_reachable_a_call_ends_at_once() -> None:
    gone = WorkerMetadata(uid="ab" * 16, address="unix:/nonexistent/socket", pid=1, version="1", tags=frozenset())
    async with wool.WorkerProxy(workers=[gone]):
        with pytest.raises(wool.NoWorkersAvailable) as caught:
            await routines.add(1, 2)
    assert caught.value.executed == "no"
    assert list(caught.value.reasons) == [gone.uid]


# ---- contexts ----------------------------------------------------------------------------------------


async def test_what_one_body_sets_in_its_context_no_other_sees() -> None:
    # On workers whose ways to each other are opened by the very bodies that set it.
    async with wool.WorkerPool(size=2):
        for _ in range(5):
            found = await asyncio.gather(*(routines.variable("leaked", 3, 2) for _ in range(20)))
            assert set().union(*found) == {"unset"}
