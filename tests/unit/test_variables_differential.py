"""A program with `wool.ContextVar` in routines sees what it sees with `contextvars` in plain functions."""

from __future__ import annotations

import os

from hypothesis import HealthCheck, example, given, settings

from support.contexts import Program, outcome, programs
from support.memory_pool import memory_pool

EXAMPLES = int(os.environ.get("WOOL_TEST_EXAMPLES", "200"))


@settings(max_examples=EXAMPLES, suppress_health_check=[HealthCheck.too_slow])
@given(programs)
@example([("set", 0, 1), ("call", [("get", 0), ("set", 0, 2), ("call", [("get", 0)], False)], True), ("get", 0)])
@example([("iterate", [[("set", 1, 5)], [("get", 0)], [("reset", False)]], [([("set", 0, 1)], True), ([], False)])])
async def test_no_program_tells_routines_from_plain_functions(program: Program) -> None:
    async with memory_pool():
        assert await outcome("wool", program) == await outcome("plain", program)
