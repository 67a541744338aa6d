"""D and L beyond one machine: names, leases, tags, who stays, rolling restarts; hand-made histories."""

from __future__ import annotations

from typing import Any

from support.simulated import Script, found, made, offered, plan_of
from wool.sim.bodies import Body, Step
from wool.sim.kinds import Fault
from wool.sim.plan import Call, Plan, Topology

AT = "10.0.0.{}:7000"


def of(mode: str = "durable", **fields: Any) -> Plan:
    faults = fields.pop("faults", ())
    calls = fields.pop("calls", (Call(ordinal=0),))
    workers = fields.pop("workers", 2)
    topology = Topology(mode=mode, workers=workers, **fields)  # type: ignore[arg-type]
    return plan_of(*calls, topology=topology, faults=faults)


def looking(*view: tuple[str, str], named: tuple[str, ...] = ()) -> Script:
    script = Script().up("c0#0", "w0#0", "w1#0")
    for address in named:
        script.add("", "truth.named", address=address)
    for worker, address in view:
        script.add("c0#0", "view.added", worker=worker, address=address)
    return script


def closed(script: Script, at: float = 60.0) -> Script:
    script.add("", "phase.healed", all=True).add("c0#0", "pool.opened")
    return script.add("c0#0", "pool.closing", at=at).add("c0#0", "pool.closed")


def test_d_an_address_that_is_named_and_not_looked_at_is_found_and_the_other_way_round() -> None:
    one, two = AT.format(1), AT.format(2)
    plan = of(discovery="dns")
    assert not found("names_become_addresses", closed(looking(("w0#0", one), (two, two), named=(one, two))), plan)
    (missing,) = found("names_become_addresses", closed(looking(("w0#0", one), named=(one, two))), plan)
    assert "does not look at 10.0.0.2:7000" in missing.sentence
    (wrong,) = found("names_become_addresses", closed(looking((one, one), (two, two), named=(one,))), plan)
    assert "looks at 10.0.0.2:7000, which nobody names" in wrong.sentence
    early = closed(looking(("w0#0", one), named=(one, two)), at=0.5)
    assert not found("names_become_addresses", early, plan)


def test_d_the_addresses_of_a_static_discovery_are_named_for_good() -> None:
    one, two = AT.format(1), AT.format(2)
    assert not found("names_become_addresses", closed(looking((one, one), (two, two))), of(discovery="static"))
    assert found("names_become_addresses", closed(looking((one, one))), of(discovery="static"))


def test_d_with_a_lease_as_many_addresses_are_looked_at_as_it_has_places() -> None:
    one, two = AT.format(1), AT.format(2)
    plan = of(discovery="static", lease=1)
    assert not found("names_become_addresses", closed(looking((two, two))), plan)
    assert found("names_become_addresses", closed(looking()), plan)
    assert found("names_become_addresses", closed(looking((one, one), ("10.9.9.9:1", "10.9.9.9:1"))), plan)


def test_d_an_address_that_was_taken_over_unnoticed_is_found() -> None:
    one, plan = AT.format(1), of(discovery="static")
    script = looking(("w0#0", one), (AT.format(2), AT.format(2)))
    script.add("", "truth.published", worker="w0#0", address=one)
    assert not found("successors_are_noticed", closed(script), plan)
    script = looking(("w0#0", one)).add("", "truth.published", worker="w0#0", address=one)
    script.add("", "truth.dead", worker="w0#0")
    assert not found("successors_are_noticed", closed(script), plan), "nobody is there yet"
    script = looking(("w0#0", one)).add("", "truth.published", worker="w0#0", address=one)
    script.add("", "truth.dead", worker="w0#0").add("", "truth.published", worker="w0#1", address=one)
    (violation,) = found("successors_are_noticed", closed(script), plan)
    assert "takes w0#1 at 10.0.0.1:7000 for w0#0" in violation.sentence


def test_l_a_call_that_fails_before_everybody_was_heard_is_found() -> None:
    def failed(at: float, *events: tuple[str, dict[str, Any]]) -> Script:
        script = Script().up("c0#0")
        for kind, fields in events:
            script.add("c0#0", kind, **fields)
        return made(script).add("c0#0", "call.ended", "c0.0", at=at, outcome="no-workers", value="")

    name = "a_view_is_whole_before_it_is_believed"
    assert found(name, failed(1.0, ("look.begun", {})), of(discovery="lan"))
    assert not found(name, failed(3.0, ("look.begun", {})), of(discovery="lan"))
    asked, answered = ("look.asked", {"name": "a"}), ("look.answered", {"name": "a"})
    assert found(name, failed(0.2, asked), of(discovery="static"))
    assert not found(name, failed(0.2, asked, answered), of(discovery="static"))
    assert not found(name, failed(0.6, asked), of(discovery="static"))


def bound(*candidates: str) -> Script:
    script = made(Script().up("c0#0"))
    return script.add("c0#0", "place.bound", "c0.0", worker=candidates[0], candidates=candidates, suspect=False)


def test_d_more_candidates_than_the_lease_has_places_are_found() -> None:
    assert not found("a_lease_is_kept", bound("w0#0", "w1#0"), of(lease=2, workers=3))
    assert found("a_lease_is_kept", bound("w0#0", "w1#0"), of(lease=1, workers=3))
    assert not found("a_lease_is_kept", bound("w0#0", "w1#0"), of(workers=3))


def test_d_a_pools_own_workers_take_no_place() -> None:
    plan = of("hybrid", lease=1, size=2, workers=2)
    assert not found("a_lease_is_kept", bound("w0#0", "w2#0", "w3#0"), plan)
    assert found("a_lease_is_kept", bound("w0#0", "w1#0", "w2#0"), plan)


def test_d_an_offer_to_a_worker_without_the_tag_is_found() -> None:
    for worker, wrong in (("w0#0", False), ("w1#0", True), ("w2#0", False)):
        script = made(Script().up("c0#0", worker))
        offered(script, worker=worker)
        plan = of("hybrid", untagged=1, size=1, workers=2)
        assert bool(found("only_the_wanted_are_used", script, plan)) is wrong


def test_d_a_worker_that_was_dropped_while_it_was_well_is_found() -> None:
    def dropped(*before: tuple[str, str], kind: str = "view.dropped") -> Script:
        script = looking(("w0#0", AT.format(1)))
        for event, worker in before:
            script.add(worker if event == "node.terminated" else "", event, worker=worker)
        return script.add("c0#0", kind, worker="w0#0")

    assert found("the_healthy_stay", dropped(), of())
    assert not found("the_healthy_stay", dropped(("truth.dead", "w0#0")), of())
    assert not found("the_healthy_stay", dropped(("truth.withdrawn", "w0#0")), of())
    assert not found("the_healthy_stay", dropped(("node.terminated", "w0#0")), of())
    assert found("the_healthy_stay", dropped(("truth.dead", "w1#0")), of()), "another one's death"


def test_d_what_the_plan_hides_is_no_eviction_and_a_silent_name_server_is_no_excuse() -> None:
    script = looking(("w0#0", AT.format(1))).add("c0#0", "view.dropped", worker="w0#0")
    split = Fault(kind="segment-split", target="c0>w0", seconds=1.0)
    assert not found("the_healthy_stay", script, of(discovery="lan", faults=(split,)))
    silent = Fault(kind="answer-lost", target="c0", seconds=1.0)
    assert found("the_healthy_stay", script, of(discovery="dns", faults=(silent,)))
    denied = Fault(kind="answer-denied", target="c0", seconds=1.0)
    assert not found("the_healthy_stay", script, of(discovery="dns", faults=(denied,)))


def rolled(outcome: str, **fields: Any) -> list[Any]:
    script = made(Script().up("c0#0", "w0#0")).add("c0#0", "call.ended", "c0.0", outcome=outcome, executed="no")
    rolling = Fault(kind="rolling-restart", target="workers", at=0.3, seconds=fields.pop("seconds", 1.5))
    return list(found("a_rolling_restart_fails_nobody", script, of(faults=(rolling,), **fields)))


def test_l_a_call_that_fails_in_a_rolling_restart_is_found() -> None:
    assert not rolled("value")
    for outcome in ("no-workers", "timeout", "lost", "interrupted"):
        assert rolled(outcome)


def test_l_a_rolling_restart_may_fail_calls_where_nobody_could_help_it() -> None:
    assert not rolled("no-workers", seconds=0.05), "nobody has heard of the first when the second goes"
    assert not rolled("no-workers", workers=1)
    long = Call(ordinal=0, body=Body(steps=(Step(op="sleep", seconds=0.9),)))
    assert not rolled("interrupted", calls=(long,)), "it takes longer than the drain"
    assert not rolled("timeout", calls=(Call(ordinal=0, timeout=0.1),))
