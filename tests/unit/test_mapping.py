"""`wool.map`: bounded, lazy, in order, and nothing goes on when its consumer has left.

What it calls here are plain async functions: a routine is one to it. `tests/integration/test_map.py` has workers.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import gc
import inspect
import itertools
import sys
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import wool
from wool.limits import DEFAULT_LIMITS


class Bench:
    """Calls that end when the test says so, and what is known of them."""

    def __init__(self) -> None:
        self.gates: dict[int, asyncio.Future[int]] = {}
        self.ended: list[int] = []
        self.cancelled: list[int] = []

    async def call(self, number: int) -> int:
        gate = self.gates[number] = asyncio.get_running_loop().create_future()
        try:
            return await gate
        except asyncio.CancelledError:
            self.cancelled.append(number)
            await asyncio.sleep(0)
            raise
        finally:
            self.ended.append(number)

    @property
    def open(self) -> set[int]:
        return self.gates.keys() - set(self.ended)

    def answer(self, number: int) -> None:
        self.gates[number].set_result(number)


@pytest.fixture
def bench() -> Bench:
    return Bench()


async def settle() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


async def double(number: int) -> int:
    await asyncio.sleep(0)
    return 2 * number


async def add(x: int, y: int) -> int:
    return x + y


async def numbers(stop: int | None = None) -> AsyncIterator[int]:
    for number in itertools.count() if stop is None else range(stop):
        await asyncio.sleep(0)
        yield number


async def fail_at_three(number: int) -> int:
    if number == 3:
        raise LookupError(number)
    return number


async def all_of(results: AsyncIterator[Any]) -> list[Any]:
    return [result async for result in results]


# ---- results -----------------------------------------------------------------------------------------


async def test_results_come_in_the_order_of_the_arguments_from_plain_and_async_iterables() -> None:
    assert await all_of(wool.map(double, [1, 2, 3])) == [2, 4, 6]
    assert await all_of(wool.map(double, numbers(3))) == [0, 2, 4]
    assert await all_of(wool.map(double, [])) == []
    assert await all_of(wool.map(double, numbers(0))) == []


async def test_several_iterables_are_read_side_by_side_until_the_shortest_ends() -> None:
    assert await all_of(wool.map(add, [1, 2, 3], numbers())) == [1, 3, 5]
    assert await all_of(wool.map(add, itertools.count(), numbers(2))) == [0, 2]


async def test_without_order_results_come_as_they_end(bench: Bench) -> None:
    results = wool.map(bench.call, range(3), ordered=False)
    first = asyncio.ensure_future(anext(results))
    await settle()
    bench.answer(2)
    assert await first == 2
    bench.answer(0)
    bench.answer(1)
    assert await all_of(results) == [0, 1]


async def test_in_order_an_early_end_waits_for_its_turn(bench: Bench) -> None:
    results = wool.map(bench.call, range(3))
    first = asyncio.ensure_future(anext(results))
    await settle()
    bench.answer(2)
    bench.answer(1)
    await settle()
    assert not first.done()
    bench.answer(0)
    assert [await first, *await all_of(results)] == [0, 1, 2]


@given(
    arguments=st.lists(st.integers(0, 5)),
    concurrency=st.integers(1, 5),
    ordered=st.booleans(),
    plain=st.booleans(),
    turns=st.lists(st.integers(0, 3), min_size=1),
)
async def test_whatever_takes_how_long_each_argument_has_one_result_and_the_bound_holds(
    arguments: list[int], concurrency: int, ordered: bool, plain: bool, turns: list[int]
) -> None:
    under_way = most = 0
    waits = itertools.cycle(turns)

    async def body(argument: int) -> int:
        nonlocal under_way, most
        under_way += 1
        most = max(most, under_way)
        for _ in range(next(waits)):
            await asyncio.sleep(0)
        under_way -= 1
        return argument

    async def source() -> AsyncIterator[int]:
        for argument in arguments:
            yield argument

    found = await all_of(wool.map(body, arguments if plain else source(), concurrency=concurrency, ordered=ordered))
    assert most <= concurrency
    assert Counter(found) == Counter(arguments)
    if ordered:
        assert found == arguments


# ---- bounds ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ordered", [True, False])
async def test_no_more_is_read_than_concurrency_allows_however_slow_the_first_call(bench: Bench, ordered: bool) -> None:
    read: list[int] = []

    def source() -> Iterator[int]:
        for number in itertools.count():
            read.append(number)
            yield number

    async with contextlib.aclosing(wool.map(bench.call, source(), concurrency=4, ordered=ordered)) as results:
        first = asyncio.ensure_future(anext(results))
        await settle()
        assert read == [0, 1, 2, 3] and bench.open == {0, 1, 2, 3}
        # In order, results that wait for the first count too, or it would read ahead without bound.
        for number in (1, 2, 3) if ordered else ():
            bench.answer(number)
        await settle()
        assert read == [0, 1, 2, 3]
        bench.answer(0)
        assert await first == 0
        await settle()
        assert read == [0, 1, 2, 3, 4]


async def test_a_consumer_that_takes_its_time_does_not_let_results_pile_up() -> None:
    read = 0

    def source() -> Iterator[int]:
        nonlocal read
        while True:
            read += 1
            yield read

    async with contextlib.aclosing(wool.map(double, source(), concurrency=3, ordered=False)) as results:
        for taken in range(1, 5):
            await anext(results)
            await settle()
            assert read == 3 + taken


async def test_a_slow_source_does_not_hold_back_results_that_are_there() -> None:
    more = asyncio.Event()

    async def source() -> AsyncIterator[int]:
        yield 1
        await more.wait()
        yield 2

    results = wool.map(double, source())
    assert await anext(results) == 2
    more.set()
    assert await all_of(results) == [4]


async def test_by_default_the_named_limit_bounds_it(bench: Bench) -> None:
    async with contextlib.aclosing(wool.map(bench.call, itertools.count())) as results:
        first = asyncio.ensure_future(anext(results))
        await settle()
        assert len(bench.open) == DEFAULT_LIMITS.map_concurrency
        bench.answer(0)
        await first


async def test_nothing_is_read_before_somebody_asks_for_a_result() -> None:
    source = numbers()
    results = wool.map(double, source)
    await settle()
    assert inspect.getasyncgenstate(source) == "AGEN_CREATED" if sys.version_info >= (3, 12) else True
    assert await anext(source) == 0
    await results.aclose()
    await source.aclose()


# ---- failures ----------------------------------------------------------------------------------------


async def test_a_failure_is_raised_in_its_turn_and_the_rest_is_cancelled(bench: Bench) -> None:
    results = wool.map(bench.call, itertools.count(), concurrency=4)
    first = asyncio.ensure_future(anext(results))
    await settle()
    bench.gates[1].set_exception(LookupError("one"))
    bench.answer(0)
    assert await first == 0
    with pytest.raises(LookupError, match="one"):
        await anext(results)
    assert bench.cancelled == [2, 3] and not bench.open
    with pytest.raises(StopAsyncIteration):
        await anext(results)


async def test_after_a_failure_no_more_calls_are_begun(bench: Bench) -> None:
    results = wool.map(bench.call, itertools.count(), concurrency=4)
    first = asyncio.ensure_future(anext(results))
    await settle()
    bench.gates[3].set_exception(LookupError("three"))
    await settle()
    bench.answer(0)
    assert await first == 0
    await settle()
    assert set(bench.gates) == {0, 1, 2, 3}
    await results.aclose()


async def test_with_return_exceptions_a_failure_stands_among_the_results() -> None:
    async def cancels_itself(number: int) -> int:
        if number == 1:
            raise asyncio.CancelledError("of its own")
        return await fail_at_three(number)

    zero, one, two, three, four = await all_of(wool.map(cancels_itself, range(5), return_exceptions=True))
    assert (zero, two, four) == (0, 2, 4)
    assert isinstance(three, LookupError) and three.args == (3,)
    assert isinstance(one, asyncio.CancelledError) and one.args == ("of its own",)


@pytest.mark.parametrize("plain", [True, False])
async def test_what_an_iterable_raises_comes_after_the_results_of_what_was_read(plain: bool) -> None:
    def broken() -> Iterator[int]:
        yield 1
        yield 2
        raise OSError("no more")

    async def broken_async() -> AsyncIterator[int]:
        for number in broken():
            yield number

    results = wool.map(double, broken() if plain else broken_async(), return_exceptions=True)
    assert [await anext(results), await anext(results)] == [2, 4]
    with pytest.raises(OSError, match="no more"):
        await anext(results)


# ---- leaving -----------------------------------------------------------------------------------------


async def test_leaving_early_ends_an_infinite_map_and_waits_for_the_calls_to_end(bench: Bench) -> None:
    closed = []

    async def source() -> AsyncIterator[int]:
        try:
            for number in itertools.count():
                yield number
        finally:
            await asyncio.sleep(0)
            closed.append(True)

    asyncio.get_running_loop().call_later(0.01, lambda: bench.answer(0))
    async with contextlib.aclosing(wool.map(bench.call, source(), concurrency=5)) as results:
        async for result in results:
            assert result == 0
            await settle()
            break
    assert bench.cancelled == [1, 2, 3, 4, 5] and not bench.open
    assert closed == [True]


async def test_a_plain_generator_is_closed_too() -> None:
    closed = []

    def source() -> Iterator[int]:
        try:
            yield from itertools.count()
        finally:
            closed.append(True)

    given = source()
    async with contextlib.aclosing(wool.map(double, given)) as results:
        await anext(results)
    assert closed == [True]


async def test_cancelling_the_consumer_cancels_the_calls_and_a_source_that_waits(bench: Bench) -> None:
    closed = []

    async def source() -> AsyncIterator[int]:
        try:
            yield 0
            await asyncio.get_running_loop().create_future()
        finally:
            closed.append(True)

    consumer = asyncio.create_task(all_of(wool.map(bench.call, source())))
    await settle()
    consumer.cancel("enough")
    with pytest.raises(asyncio.CancelledError, match="enough"):
        await consumer
    assert bench.cancelled == [0] and closed == [True]


async def test_a_second_cancellation_is_passed_on_and_still_waited_for() -> None:
    heard: list[int] = []

    async def stubborn(number: int) -> None:
        for _ in range(2):
            try:
                await asyncio.get_running_loop().create_future()
            except asyncio.CancelledError:
                heard.append(number)

    consumer = asyncio.create_task(all_of(wool.map(stubborn, [7])))
    await settle()
    consumer.cancel()
    await settle()
    assert heard == [7] and not consumer.done()
    consumer.cancel()
    with pytest.raises(asyncio.CancelledError):
        await consumer
    assert heard == [7, 7]


async def test_what_goes_wrong_in_closing_a_source_is_not_lost() -> None:
    async def source() -> AsyncIterator[int]:
        try:
            for number in itertools.count():
                yield number
        finally:
            raise OSError("cannot close")

    results = wool.map(double, source(), concurrency=2)
    await anext(results)
    with pytest.raises(OSError, match="cannot close"):
        await results.aclose()


# ---- context -----------------------------------------------------------------------------------------


async def test_calls_are_made_in_the_context_in_which_map_was_called() -> None:
    variable = contextvars.ContextVar("variable", default="outside")

    async def look(_: int) -> str:
        return variable.get()

    token = variable.set("inside")
    results = wool.map(look, range(2))
    variable.reset(token)
    assert await all_of(results) == ["inside", "inside"]


# ---- bad input ---------------------------------------------------------------------------------------


async def generator(number: int) -> AsyncIterator[int]:
    yield number


def not_async(number: int) -> int:
    return number


@pytest.mark.parametrize(
    ("arguments", "options", "error", "words"),
    [
        ((3, [1]), {}, TypeError, "takes a routine, got int: 3"),
        ((int, [1]), {}, TypeError, "takes a routine, got type"),
        ((generator, [1]), {}, TypeError, "generator is a generator: collect its items"),
        ((wool.routine(generator), [1]), {}, TypeError, "generator is a generator: collect its items"),
        ((double,), {}, TypeError, "at least one iterable of arguments for double"),
        ((add, [1], 5), {}, TypeError, "argument 2 after the routine of wool.map is neither .*: int"),
        ((double, [1]), {"concurrency": 0}, ValueError, "concurrency must be a positive number of calls, got 0"),
        ((double, [1]), {"concurrency": True}, ValueError, "got True"),
        ((double, [1]), {"concurrency": 2.5}, ValueError, "got 2.5"),
        ((double, [1]), {"concurrency": None}, ValueError, "got None"),
    ],
)
def test_what_cannot_be_mapped_is_told_at_once(
    arguments: Any, options: Any, error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        wool.map(*arguments, **options)


async def test_a_function_that_is_not_async_is_named() -> None:
    with pytest.raises(TypeError, match="not_async returned int, which is not awaitable"):
        await all_of(wool.map(not_async, [1]))  # type: ignore[arg-type]


async def test_a_call_with_the_wrong_number_of_arguments_fails_as_any_call() -> None:
    with pytest.raises(TypeError, match="add"):
        await all_of(wool.map(add, [1]))  # type: ignore[call-arg, arg-type]


# ---- progress ----------------------------------------------------------------------------------------


async def test_progress_is_shown_on_standard_error_up_to_the_length_of_the_shortest(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert await all_of(wool.map(add, range(5), range(9), progress=True)) == [0, 2, 4, 6, 8]
    shown = capsys.readouterr()
    assert shown.out == ""
    assert "add: 100%" in shown.err and "5/5" in shown.err


async def test_progress_of_what_has_no_length_counts_alone(capsys: pytest.CaptureFixture[str]) -> None:
    await all_of(wool.map(double, numbers(4), progress=True))
    assert "double: 4call" in capsys.readouterr().err


async def test_without_progress_nothing_is_shown_and_tqdm_is_not_needed(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "tqdm.auto", None)
    assert await all_of(wool.map(double, [1])) == [2]
    assert capsys.readouterr().err == ""


def test_progress_without_tqdm_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tqdm.auto", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'wool\[progress\]'"):
        wool.map(double, [1], progress=True)


class UnreadError:
    """A standard error whose reader goes away after some words."""

    def __init__(self, words: int) -> None:
        self.left = words

    def write(self, text: str) -> int:
        self.left -= 1
        if self.left < 0:
            raise BrokenPipeError
        return len(text)

    def flush(self) -> None:
        if self.left < 0:
            raise BrokenPipeError


@pytest.mark.parametrize("words", [0, 4])
async def test_a_progress_bar_that_nobody_reads_any_more_stops_nothing(
    words: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stderr", UnreadError(words))

    async def slow(number: int) -> int:
        await asyncio.sleep(0.11)  # as long as tqdm waits before it draws again
        return number

    async with asyncio.timeout(10):
        results = wool.map(slow, range(4), concurrency=1, progress=True)
        assert await all_of(results) == [0, 1, 2, 3]
    del results
    gc.collect()


# ---- sources that are not as one expects -------------------------------------------------------------


@pytest.mark.parametrize("leaves", [True, False])
async def test_what_an_iterable_raises_is_no_news_for_the_loop_if_its_consumer_has_left(leaves: bool) -> None:
    told: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(context))

    async def source() -> AsyncIterator[int]:
        yield 3
        raise ValueError("the source's own")

    async def use() -> None:
        async with contextlib.aclosing(wool.map(double if leaves else fail_at_three, source())) as results:
            async for _ in results:
                await settle()
                break

    with contextlib.nullcontext() if leaves else pytest.raises(LookupError):
        await use()
    gc.collect()
    await settle()
    assert told == []


async def test_what_an_async_iterable_gives_need_only_have_anext() -> None:
    class Bare:
        def __init__(self) -> None:
            self.last = 0

        async def __anext__(self) -> int:
            self.last += 1
            if self.last > 3:
                raise StopAsyncIteration
            return self.last

    class Source:
        def __aiter__(self) -> Any:
            return Bare()

    assert await all_of(wool.map(double, Source())) == [2, 4, 6]


async def test_a_plain_iterable_that_raises_the_async_end_has_failed_and_not_ended() -> None:
    def broken() -> Iterator[int]:
        yield 1
        raise StopAsyncIteration

    results = wool.map(double, broken())
    assert await anext(results) == 2
    with pytest.raises(RuntimeError, match="StopAsyncIteration"):
        await anext(results)


@pytest.mark.parametrize("plain", [True, False])
async def test_an_infinite_iterable_that_never_waits_keeps_nobody_from_leaving_however_many_calls_are_allowed(
    plain: bool,
) -> None:
    read = 0

    def count() -> Iterator[int]:
        nonlocal read
        for read in itertools.count():
            assert read < 10_000, "nobody else has had a turn"
            yield read

    async def async_count() -> AsyncIterator[int]:
        for number in count():
            yield number

    async with contextlib.aclosing(wool.map(double, count() if plain else async_count(), concurrency=10**9)) as results:
        async for result in results:
            if result == 20:
                return
    raise AssertionError("it has ended")
