"""A worker has had enough when it is said to, once, and never before."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wool.resident import resident_bytes
from wool.worker.retirement import ENDLESS, Retirement, Wear


@given(
    st.none() | st.integers(1, 20),
    st.none() | st.integers(1, 20),
    st.lists(st.tuples(st.booleans(), st.integers(0, 25))),
)
def test_it_is_told_once_as_soon_as_either_is_reached(
    tasks: int | None, memory: int | None, story: list[tuple[bool, int]]
) -> None:
    told: list[str] = []
    wear = Wear(Retirement(max_tasks=tasks, memory_limit=memory), told.append)
    reached = False
    for is_memory, number in story:
        (wear.holds if is_memory else wear.started)(number)
        most = memory if is_memory else tasks
        reached |= most is not None and number >= most
        assert wear.is_worn == reached
        assert len(told) == reached


def test_it_is_said_what_was_reached_and_what_was_allowed() -> None:
    told: list[str] = []
    Wear(Retirement(max_tasks=3), told.append).started(3)
    Wear(Retirement(memory_limit=100), told.append).holds(120)
    assert told == ["3 tasks were started on it (max_tasks_per_worker=3)", "it holds 120 bytes (memory_limit=100)"]


@pytest.mark.parametrize(
    ("given", "error", "words"),
    [
        ({"max_tasks": 0}, ValueError, "max_tasks_per_worker must be at least 1, got 0"),
        ({"max_tasks": True}, TypeError, "max_tasks_per_worker must be a number of tasks, got True"),
        ({"memory_limit": -5}, ValueError, "memory_limit must be at least 1, got -5"),
        ({"memory_limit": 1e9}, TypeError, "memory_limit must be a number of bytes, got 1000000000.0"),
        ({"memory_limit": "1G"}, TypeError, "memory_limit must be a number of bytes, got '1G'"),
    ],
)
def test_what_is_no_limit_is_named(given: dict[str, Any], error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        Retirement(**given)


def test_a_limit_below_what_a_worker_needs_is_refused_with_both_numbers() -> None:
    assert Retirement(memory_limit=101).refusal(100) is None
    assert ENDLESS.refusal(1 << 50) is None
    refusal = Retirement(memory_limit=100).refusal(100)
    assert refusal is not None
    assert "memory_limit=100 bytes: a worker holds 100 before its first task" in refusal


def test_the_memory_of_this_process_grows_with_what_it_holds() -> None:
    before = resident_bytes()
    held = bytearray(64 * 1024 * 1024)
    held[::4096] = b"x" * len(held[::4096])
    assert resident_bytes() - before > 48 * 1024 * 1024
