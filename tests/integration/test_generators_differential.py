"""A generator routine and the plain function that it was: nothing that a consumer does tells them apart."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import wool
from support import streams
from support.differential import Body, Op, compare
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


@settings(max_examples=EXAMPLES, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture])
@given(st.sampled_from(streams.BODIES), scripts)
async def test_no_script_tells_a_routine_from_the_plain_generator(body: Body, script: list[Op]) -> None:
    await compare(body, ROUTINES[body.__name__], script)
