"""The sometimes states: enough of them, each a label, counted, and named if they were never reached."""

from __future__ import annotations

from support.simulated import cluster, made, offered, one_call, plan_of, started
from wool.sim.coverage import ENOUGH, STATES, Coverage, Facts
from wool.sim.invariants.story import Story


def test_there_are_enough_states() -> None:
    assert len(STATES) >= 60


def test_a_state_is_reached_by_what_it_says() -> None:
    script = cluster("w0#0", "w1#0")
    attempt = offered(made(script))
    script.wire(attempt, "withdraw", "c0.0").wire(attempt, "accept", "c0.0")
    second = offered(script, worker="w1#0")
    started(script, second)
    script.add("w1#0", "body.began", "c0.0", execution="w1#0/0")
    facts = Facts(Story(script.history, plan_of()))
    reached = {label for label, predicate in STATES.items() if predicate(facts)}
    assert "an accept comes after the withdrawal" in reached
    assert "a task that was offered in vain begins elsewhere" in reached
    assert "a coroutine ends: value" not in reached


def test_states_are_counted_and_those_never_reached_are_named() -> None:
    coverage = Coverage()
    story = Story(one_call(cluster("w0#0")).history, plan_of())
    for _ in range(3):
        coverage.add(story)
    assert coverage.counts["a coroutine ends: value"] == 3
    assert "a coroutine ends: value" not in coverage.missing()
    assert len(coverage.missing()) + coverage.reached == len(STATES)
    assert "a worker is killed" in coverage.missing()
    for _ in range(ENOUGH):
        coverage.add(story)
    assert coverage.counts["a coroutine ends: value"] == ENOUGH
