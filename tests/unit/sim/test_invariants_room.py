"""R: places and admission hooks, on hand-made histories, right and wrong."""

from __future__ import annotations

from support.simulated import Script, began, body_ended, cluster, found, made, offered, plan_of
from wool.sim.invariants.room import IDLE_SECONDS
from wool.sim.plan import Knobs, Plan


def places(number: int) -> Plan:
    return plan_of(knobs=Knobs(places=number))


def accepted(script: Script, task: str, number: int) -> str:
    attempt = offered(made(script, task), task, number=number)
    script.wire(attempt, "accept", task)
    return attempt


def test_r_more_bodies_at_work_than_places_are_found() -> None:
    script = cluster("w0#0")
    began(script, "c0.0")
    assert not found("no_more_at_work_than_places", script, places(1))
    began(script, "c0.1", number=1)
    assert found("no_more_at_work_than_places", script, places(1))
    assert not found("no_more_at_work_than_places", script, places(2))
    assert not found("no_more_at_work_than_places", script, plan_of()), "where places are not bounded"


def test_r_who_awaits_a_nested_call_or_stands_at_a_yield_is_not_at_work() -> None:
    script = cluster("w0#0", "w1#0")
    began(script, "c0.0")
    made(script, "c0.0.0", node="w0#0")
    began(script, "c0.1", number=1)
    script.add("w0#0", "body.yielded", "c0.1")
    began(script, "c0.2", number=2)
    assert not found("no_more_at_work_than_places", script, places(1))
    script.add("w0#0", "call.ended", "c0.0.0", outcome="value", executed="yes", value=0)
    assert found("no_more_at_work_than_places", script, places(1))


def test_r_a_place_that_is_idle_while_an_offer_waits_is_found() -> None:
    script = cluster("w0#0")
    began(script, "c0.0")
    offered(made(script, "c0.1"), "c0.1")
    body_ended(script, "c0.0")
    assert not found("no_place_is_idle_while_an_offer_waits", script, places(1))
    late = script.now + IDLE_SECONDS + 0.1
    script.add("w0#0", "wire.said", "c0.1", "c0#0>w0#0/0:1", at=late, frame="accept")
    assert found("no_place_is_idle_while_an_offer_waits", script, places(1))


def test_r_a_place_is_not_idle_while_somebody_has_it_or_is_going_to() -> None:
    script = cluster("w0#0")
    began(script, "c0.0")
    offered(made(script, "c0.1"), "c0.1")
    body_ended(script, "c0.0", how="returned")
    accepted(script, "c0.2", 2)
    script.add("w0#0", "body.began", "c0.2", at=script.now + IDLE_SECONDS + 0.1, execution="w0#0/2")
    script.add("w0#0", "body.ended", "c0.2", at=script.now + IDLE_SECONDS + 0.1, how="returned", value=0)
    assert not found("no_place_is_idle_while_an_offer_waits", script, places(1))


def test_r_more_under_way_than_a_hook_takes_are_found() -> None:
    plan = plan_of(knobs=Knobs(admits=1))
    script = cluster("w0#0")
    first = accepted(script, "c0.0", 1)
    script.wire(first, "result", "c0.0", result="yield")
    assert not found("no_more_under_way_than_are_admitted", script, plan)
    other = accepted(script, "c0.1", 2)
    assert found("no_more_under_way_than_are_admitted", script, plan), "one that has yielded is under way"
    assert not found("no_more_under_way_than_are_admitted", script, plan_of(knobs=Knobs(admits=2)))
    script = cluster("w0#0")
    script.wire(accepted(script, "c0.0", 1), "result", "c0.0", result="return")
    script.wire(accepted(script, "c0.1", 2), "withdraw", "c0.1")
    accepted(script, "c0.2", 3)
    script.add("w0#0", "wire.lost", "", "c0#0>w0#0/0", reason="reset")
    accepted(script, "c0.3", 4)
    assert not found("no_more_under_way_than_are_admitted", script, plan)
    assert other.endswith(":2")
