"""T: what is told of tasks, judged over histories made by hand, and heard from the engine."""

from __future__ import annotations

from typing import Any

import pytest

from support.simulated import Script, began, cluster, ended, found, made, one_call
from wool.events import TaskEvent
from wool.protocol.frames import Trace
from wool.protocol.tracing import checked
from wool.sim.told import SimEvents
from wool.sim.traced import SimTracer, trace_of
from wool.task import Task


def told(script: Script, outcome: str, task: str = "c0.0") -> Script:
    return script.add("c0#0", "told.completed", task, outcome=outcome)


def call_that_ended(outcome: str, told_as: str | None) -> Script:
    script = made(cluster("w0#0"))
    if told_as is not None:
        told(script, told_as)
    return ended(script, outcome)


@pytest.mark.parametrize(
    ("outcome", "told_as"),
    [
        ("value", "success"),
        ("lost", "lost"),
        ("cancelled", "cancelled"),
        ("raised", "failure"),
        ("no-workers", "failure"),
        ("cancelled", None),
        ("dropped", "lost"),
    ],
)
def test_a_completion_that_says_what_the_caller_got_is_right(outcome: str, told_as: str | None) -> None:
    assert not found("completion_is_told", call_that_ended(outcome, told_as))


@pytest.mark.parametrize(("outcome", "told_as"), [("lost", "failure"), ("value", "lost"), ("raised", "cancelled")])
def test_a_completion_that_says_something_else_is_found(outcome: str, told_as: str) -> None:
    (violation,) = found("completion_is_told", call_that_ended(outcome, told_as))
    assert violation.sentence == f"c0.0 has ended as {outcome}, and was told as {told_as}"


def test_a_value_whose_completion_was_not_told_is_found() -> None:
    (violation,) = found("completion_is_told", one_call(cluster("w0#0"), told=False))
    assert "task-completed was not told" in violation.sentence


def test_a_completion_that_is_told_after_the_end_is_found() -> None:
    assert found("completion_is_told", told(one_call(cluster("w0#0"), told=False), "success"))


def test_an_event_that_nothing_allows_is_found() -> None:
    script = cluster("w0#0").add("c0#0", "told.wrong", "c0.0", type="task-stopped", what="E after nothing")
    (violation,) = found("task_events_follow_the_grammar", script)
    assert violation.sentence == "c0#0 told task-stopped of c0.0: E after nothing"


class Node:
    """Hears what is noted."""

    nanoseconds = 5

    def __init__(self) -> None:
        self.noted: list[str] = []

    def note(self, kind: str, task: str = "", attempt: str = "", detail: Any = ()) -> None:
        self.noted.append(kind)


def heard(kind: Any, *types: Any) -> list[str]:
    node = Node()
    events = SimEvents(node)
    task = Task(key=b"c0.0".ljust(16, b"\0"), routine="m:f", kind=kind, caller="c0#0")
    for type in types:
        events.emit(TaskEvent(type=f"task-{type}", task=task), events.now())  # type: ignore[arg-type]
    return node.noted


def reported(kind: Any, *said: Any, remote: bool = True, ends: bool = False) -> list[str]:
    """What a caller notes that hears these reports, each a type and how many were left out before it."""
    node = Node()
    events = SimEvents(node, remote=remote)
    task = Task(key=b"c0.0".ljust(16, b"\0"), routine="m:f", kind=kind, caller="c0#0")
    here = ["created", *(["iteration-initiated"] if kind == "generator" else []), "scheduled"]
    for type in [*here, "completed"] if ends else here:
        events.emit(TaskEvent(type=f"task-{type}", task=task), events.now())  # type: ignore[arg-type]
    node.noted.clear()
    for type, missed in said:
        events.emit_remote(TaskEvent(type=f"task-{type}", task=task), events.now(), None, missed)
    return node.noted


PAIR = (("started", 0), ("stopped", 0))


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("coroutine", (*PAIR, *PAIR)),
        ("generator", (("iteration-started", 0), *PAIR, ("iteration-started", 0), *PAIR)),
        ("coroutine", (("started", 0), ("started", 1), ("stopped", 0))),
        ("generator", (("stopped", 7), ("iteration-started", 0))),
    ],
)
def test_reports_of_the_grammar_are_right_whatever_was_left_out(kind: str, said: Any) -> None:
    assert reported(kind, *said) == []


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("coroutine", (("stopped", 0),)),
        ("coroutine", (*PAIR, ("stopped", 0))),
        ("coroutine", (("started", 0), ("started", 0))),
        ("coroutine", (("started", 1), ("started", 0))),
        ("coroutine", (("iteration-started", 0),)),
        ("generator", PAIR),
    ],
)
def test_a_report_that_nothing_allows_is_found(kind: str, said: Any) -> None:
    assert reported(kind, *said) == ["told.wrong"]


def test_a_report_that_nobody_asked_for_or_that_comes_after_the_end_is_found() -> None:
    assert reported("coroutine", ("started", 0), remote=False) == ["told.wrong"]
    assert reported("coroutine", ("started", 0), ends=True) == ["told.wrong"]


FIRST = ("created", "iteration-initiated", "scheduled", "iteration-completed")


@pytest.mark.parametrize(
    ("kind", "types"),
    [
        ("coroutine", ("created", "scheduled", "completed")),
        ("coroutine", ("created", "completed")),
        ("coroutine", ("started", "stopped", "started", "stopped")),
        ("generator", (*FIRST, "completed")),
        ("generator", (*FIRST, "iteration-initiated", "iteration-completed", "completed")),
        ("generator", ("iteration-started", "started", "stopped", "iteration-started")),
    ],
)
def test_a_story_of_the_grammar_is_right(kind: str, types: tuple[str, ...]) -> None:
    assert "told.wrong" not in heard(kind, *types)


@pytest.mark.parametrize(
    ("kind", "types"),
    [
        ("coroutine", ("scheduled",)),
        ("coroutine", ("created", "created")),
        ("coroutine", ("created", "completed", "completed")),
        ("coroutine", ("created", "completed", "scheduled")),
        ("coroutine", ("started", "started")),
        ("coroutine", ("stopped",)),
        ("coroutine", ("created", "iteration-initiated")),
        ("generator", ("created", "completed")),
        ("generator", (*FIRST, "iteration-initiated", "scheduled")),
        ("generator", (*FIRST, "iteration-completed")),
        ("generator", ("started",)),
        ("generator", ("iteration-started", "started", "iteration-started")),
    ],
)
def test_a_story_that_is_none_is_noted_once(kind: str, types: tuple[str, ...]) -> None:
    assert heard(kind, *types).count("told.wrong") == 1


def traced(key: bytes = b"c0.0") -> tuple[Node, SimTracer, Task]:
    node = Node()
    task = Task(key=key.ljust(16, b"\0"), routine="m:f", kind="generator", caller="c0#0")
    return node, SimTracer(node), task


def test_an_execution_with_the_trace_of_its_call_is_right_and_steps_count_from_nothing() -> None:
    node, tracer, task = traced()
    call, execution = tracer.call(task), tracer.execution(task, trace_of(task))
    assert call.trace == trace_of(task)
    for number in range(3):
        execution.step("next", number)
    execution.ended("success", None)
    call.ended("success", None)
    assert node.noted == []


@pytest.mark.parametrize("said", [None, Trace("00-" + "1" * 32 + "-" + "1" * 16 + "-01")])
def test_an_execution_with_another_trace_is_found(said: Trace | None) -> None:
    node, tracer, task = traced()
    tracer.execution(task, said)
    assert node.noted == ["told.wrong"]


def test_a_span_that_ends_twice_or_leaves_out_a_step_is_found() -> None:
    node, tracer, task = traced()
    span = tracer.call(task)
    span.ended("lost", None)
    span.ended("lost", None)
    tracer.execution(task, trace_of(task)).step("send", 1)
    assert node.noted == ["told.wrong"] * 2


def test_what_simulated_callers_send_is_well_formed() -> None:
    _, _, task = traced()
    said = trace_of(task)
    assert checked(said.parent.encode(), said.state.encode()) == said


# ---- what a pool counts ------------------------------------------------------------------------------

COUNTED = {"in_flight": 0, "done": 1, "failed": 1, "cancelled": 1, "interrupted": 0, "lost": 0, "unplaced": 1}


def counted(*outcomes: str, **counts: int) -> Script:
    """Coroutines of one caller that have ended so, each begun where it may have; and what its pool says of them."""
    script = cluster("w0#0")
    for number, outcome in enumerate(outcomes):
        task = f"c0.{number}"
        made(script, task)
        if outcome in ("value", "raised"):
            began(script, task, number=number)
        ended(script, outcome, task)
    return script.add("c0#0", "pool.counted", **{**dict.fromkeys(COUNTED, 0), **counts})


@pytest.mark.parametrize(
    ("outcomes", "counts"),
    [
        ((), {}),
        (("value", "raised", "cancelled", "timeout"), COUNTED),
        (
            ("value", "value", "no-workers", "lost", "interrupted"),
            {"done": 2, "unplaced": 1, "lost": 1, "interrupted": 1},
        ),
        (("cancelled", "cancelled"), {"cancelled": 1}),
        (("pickling",), {}),
        (("remote", "serialization"), {}),
        (("remote", "serialization"), {"failed": 2}),
        (("raised", "dropped"), {"failed": 1, "in_flight": 1}),
    ],
)
def test_counts_that_are_what_the_caller_got_are_right(outcomes: tuple[str, ...], counts: dict[str, int]) -> None:
    assert not found("calls_are_counted", counted(*outcomes, **counts))


@pytest.mark.parametrize(
    ("outcomes", "counts"),
    [
        (("value",), {}),
        (("value",), {"done": 2}),
        (("value",), {"done": 1, "in_flight": 1}),
        (("value", "cancelled"), {"done": 1, "cancelled": 1, "in_flight": -1}),
        (("lost",), {"failed": 1}),
        (("interrupted",), {"lost": 1}),
        (("timeout",), {"failed": 1}),
        (("raised",), {"done": 1}),
        (("value", "cancelled"), {"done": 1, "cancelled": 1, "lost": 1}),
        ((), {"done": 1}),
    ],
)
def test_counts_that_are_anything_else_are_found(outcomes: tuple[str, ...], counts: dict[str, int]) -> None:
    (violation,) = found("calls_are_counted", counted(*outcomes, **counts))
    assert violation.sentence.startswith("the pool of c0#0 has counted {'done': ")
