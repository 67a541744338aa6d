"""A generator routine and the plain function that it was: nothing that a consumer does tells them apart."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

import wool
from support import streams
from support.differential import Body, Op, compare, compiled
from support.pools import module_loop, no_leaked_tasks, pool  # noqa: F401
from support.streams import Awkward

pytestmark = [module_loop, pytest.mark.timeout(600)]

EXAMPLES = int(os.environ.get("WOOL_TEST_EXAMPLES", "300"))

errors = st.sampled_from(
    [
        (ValueError, ("thrown", 1)),
        (KeyError, ("thrown",)),
        (ZeroDivisionError, ()),
        (Awkward, (4,)),
        (OSError, (2, "no such thing", "name")),
        (RuntimeError, ("thrown",)),
        (asyncio.CancelledError, ("thrown",)),
        (StopAsyncIteration, ("thrown",)),
        (StopIteration, ("thrown",)),
        (GeneratorExit, ()),
        (ExceptionGroup, ("thrown", [ValueError(1), KeyError(2)])),
    ]
)
overlaps = st.sampled_from([None, None, "next", "send", "throw", "close"])
messages = st.sampled_from([None, "enough"])


def ops(kind: str, values: st.SearchStrategy[Any]) -> st.SearchStrategy[Op]:
    return st.builds(Op, st.just(kind), values, overlaps, messages)


operations = st.one_of(
    ops("next", st.none()),
    ops("next", st.none()),
    ops("send", st.sampled_from([None, 1, "x", "stop", [1, 2]])),
    ops("throw", errors),
    ops("close", st.none()),
)
scripts = st.builds(
    lambda begin, rest, end: [*begin, *rest, *end],
    st.sampled_from([[], [Op("next")]]),
    st.lists(operations, max_size=6),
    st.sampled_from([[], [Op("close")], [Op("drop", message="enough")]]),
)

ROUTINES: dict[str, Callable[..., Any]] = {body.__name__: wool.routine(body) for body in streams.BODIES}


# ---- generated programs ------------------------------------------------------------------------------

RAISED = ["ValueError('p')", "KeyError('p')", "streams.Awkward(6)", "StopAsyncIteration('p')", "RuntimeError()"]
CAUGHT = ["ValueError", "LookupError", "Exception", "BaseException", "GeneratorExit", "asyncio.CancelledError"]

simple = st.one_of(
    st.integers(0, 9).map(lambda number: [f"pen.note(repr((yield {number})))"]),
    st.integers(0, 9).map(lambda number: [f"pen.note(repr((yield {number})))"]),
    st.integers(0, 9).map(lambda number: [f"pen.note('{number}')"]),
    st.just(["await asyncio.sleep(0)"]),
    st.just(["await pen.park()"]),
    st.just(["return"]),
    st.sampled_from(RAISED).map(lambda made: [f"raise {made}"]),
    st.sampled_from(RAISED).map(lambda made: [f"raise {made} from streams.Awkward(8)"]),
    st.sampled_from(RAISED).map(lambda made: [f"raise {made} from None"]),
    st.integers(0, 2).map(
        lambda stop: [
            f"async with contextlib.aclosing(streams.counted(pen, {stop})) as items:",
            "    async for item in items:",
            "        pen.note(repr((yield item)))",
        ]
    ),
)
in_handlers = st.sampled_from([["raise"], ["raise error"], ["raise KeyError('h') from error"], ["error.add_note('n')"]])


def indented(lines: list[str]) -> list[str]:
    return [f"    {line}" for line in lines]


def block(statements: st.SearchStrategy[list[str]]) -> st.SearchStrategy[list[str]]:
    return st.lists(statements, min_size=1, max_size=3).map(lambda parts: [line for part in parts for line in part])


def compound(inner: st.SearchStrategy[list[str]]) -> st.SearchStrategy[list[str]]:
    def attempt(body: list[str], caught: str, handler: list[str], last: list[str] | None) -> list[str]:
        lines = ["try:", *indented(body), f"except {caught} as error:", "    pen.note(f'caught {error!r}')"]
        lines += indented(handler)
        return lines if last is None else [*lines, "finally:", *indented(last)]

    handled = block(inner | in_handlers)
    return st.one_of(
        st.builds(attempt, block(inner), st.sampled_from(CAUGHT), handled, st.none() | block(inner)),
        st.builds(
            lambda body, last: ["try:", *indented(body), "finally:", *indented(last)], block(inner), block(inner)
        ),
        block(inner).map(lambda body: ["for _ in range(2):", *indented(body)]),
    )


programs = block(st.recursive(simple, compound, max_leaves=12)).map(
    lambda lines: "\n".join(["async def program(pen):", *indented(lines), "    yield 'last'"])
)
PROGRAM_CASES = st.tuples(programs, scripts)


@settings(max_examples=EXAMPLES, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture])
@given(PROGRAM_CASES)
async def test_no_script_tells_a_generated_program_from_its_routine(case: tuple[str, list[Op]]) -> None:
    source, script = case
    await compare(*compiled(source), script)


@settings(max_examples=EXAMPLES, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture])
@given(st.sampled_from(streams.BODIES), scripts)
@example(
    streams.reraising_from,
    [Op("next", None, None, None), Op("throw", (ExceptionGroup, ("thrown", [ValueError(1), KeyError(2)])), None, None)],
)
async def test_no_script_tells_a_routine_from_the_plain_generator(body: Body, script: list[Op]) -> None:
    await compare(body, ROUTINES[body.__name__], script)
