"""Workers found beyond one machine, in virtual time: each fault has its effect, and callers find the way around it."""

from __future__ import annotations

from typing import Any

import pytest

from support.plans import QUICK, begun, calls, nodes, outcome, played, returns, step, struck
from wool.sim.history import Event, History
from wool.sim.invariants.table import judge
from wool.sim.kinds import WAYS, Fault
from wool.sim.multicast import LIES
from wool.sim.plan import Plan, Topology

SLOW = returns(7, step("sleep", seconds=0.2))
MANY = calls(*[returns(number, step("sleep", seconds=0.1)) for number in range(24)], at=0.4, apart=0.05)


def plan(*faults: Fault, way: Any = "lan", mode: Any = "durable", **fields: Any) -> Plan:
    topology = {name: fields.pop(name) for name in ("lease", "untagged", "size", "callers", "named") if name in fields}
    fields.setdefault("knobs", QUICK)
    fields.setdefault("calls", calls(*[returns(number) for number in range(6)], at=0.5))
    workers = fields.pop("workers", 3)
    return Plan(topology=Topology(mode=mode, workers=workers, discovery=way, **topology), faults=faults, **fields)


def sound(wanted: Plan) -> History:
    """Run it; nothing is left, and no invariant is broken."""
    history = played(wanted)
    assert [str(violation) for violation in judge(history, wanted)] == []
    return history


def seen(history: History, kind: str, worker: str, node: str = "c0#0") -> list[Event]:
    return [event for event in history.of(kind) if event.node == node and event.get("worker") == worker]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("mode", ["proxy", "durable"])
def test_workers_are_found_and_used_whatever_the_kind_of_discovery(way: str, mode: str) -> None:
    history = sound(plan(way=way, mode=mode))
    assert {begun(history, f"c0.{number}")[0] for number in range(6)} == {"w0#0", "w1#0", "w2#0"}


@pytest.mark.parametrize("way", WAYS)
def test_a_pool_takes_as_many_as_its_lease_has_places_and_those_with_its_tag(way: str) -> None:
    history = sound(plan(way=way, lease=1, untagged=1))
    used = {begun(history, f"c0.{number}")[0] for number in range(6)}
    assert len(used) == 1
    assert used <= {"w0#0", "w1#0"}


def test_what_a_hybrid_pool_starts_is_found_by_others_and_takes_no_place_of_its_own_lease() -> None:
    both = (*calls(*[returns(1)] * 6, at=0.5), *calls(*[returns(2)] * 6, at=0.5, caller=1))
    both = tuple({call.label: call for call in both}.values())
    history = sound(plan(way="local", mode="hybrid", size=2, lease=1, workers=2, callers=2, calls=both))
    assert {"w2#0", "w3#0"} <= {begun(history, f"c0.{number}")[0] for number in range(6)}
    assert len({event.get("worker") for event in history.of("view.added") if event.node == "c1#0"}) == 1


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("ports", [0, 1])
def test_all_workers_are_restarted_under_load_and_no_call_fails(way: str, ports: int) -> None:
    gap = 1.5 if way == "dns" else 0.6
    fault = Fault(kind="rolling-restart", target="workers", at=0.3, ordinal=ports, seconds=gap)
    history = sound(plan(fault, way=way, calls=MANY))
    assert struck(history, "rolling-restart")
    assert {"w0#1", "w1#1"} <= set(nodes(history, "node.up"))
    assert {outcome(history, call.label) for call in MANY} == {"value"}


def test_a_worker_at_another_port_after_its_restart_is_found_there() -> None:
    fault = Fault(kind="rolling-restart", target="workers", at=0.3, ordinal=1, seconds=0.6)
    history = sound(plan(fault, calls=MANY))
    (added,) = seen(history, "view.added", "w0#1")
    assert added.get("address") == "10.0.0.1:7001"


# ---- multicast --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "fields"),
    [("packet-lose", {}), ("packet-late", {"seconds": 0.3}), ("packet-twice", {"seconds": 0.3})],
)
def test_a_hello_that_is_lost_late_or_doubled_hides_nobody(kind: str, fields: dict[str, Any]) -> None:
    history = sound(plan(Fault(kind=kind, target="c0>w1", **fields)))
    assert struck(history, kind)
    assert len(seen(history, "view.added", "w1#0")) == 1


def test_who_is_in_another_part_of_a_split_segment_is_out_of_sight_until_it_is_whole() -> None:
    history = sound(plan(Fault(kind="segment-split", target="c0>w1", seconds=2.0), way="lan"))
    (added,) = seen(history, "view.added", "w1#0")
    assert 2.0 <= added.at < 3.5
    assert begun(history, "c0.0") != ["w1#0"]


def test_a_worker_whose_goodbye_is_lost_is_dropped_when_its_time_is_over() -> None:
    faults = (Fault(kind="lost-goodbye", target="w1", seconds=5.0), Fault(kind="terminate", target="w1", at=1.0))
    history = sound(plan(*faults))
    (dropped,) = seen(history, "view.dropped", "w1#0")
    assert 1.3 < dropped.at < 3.0
    (said,) = sound(plan(faults[1])).of("view.dropped")
    assert said.at < 1.1


def test_a_worker_for_whom_somebody_said_goodbye_is_back_when_everybody_is_asked() -> None:
    history = sound(plan(Fault(kind="forged-goodbye", target="w1", at=0.45)))
    assert len(seen(history, "view.dropped", "w1#0")) == 1
    assert len(seen(history, "view.added", "w1#0")) == 2


@pytest.mark.parametrize("sort", range(len(LIES)), ids=LIES)
def test_a_record_that_lies_costs_nobody_a_call_and_is_forgotten(sort: int) -> None:
    history = sound(plan(Fault(kind="forged", target="w1", at=0.45, ordinal=sort)))
    assert struck(history, "forged")
    assert {outcome(history, f"c0.{number}") for number in range(6)} == {"value"}


def test_another_process_under_the_uid_of_a_worker_costs_nobody_a_call() -> None:
    history = sound(plan(Fault(kind="twin", target="w1", at=0.45, seconds=1.0)))
    assert struck(history, "twin")
    assert {outcome(history, f"c0.{number}") for number in range(6)} == {"value"}


# ---- a name server ----------------------------------------------------------------------------------


def test_an_answer_that_grew_stale_leads_to_who_is_gone_and_calls_go_elsewhere() -> None:
    faults = (Fault(kind="answer-stale", target="c0", at=0.3, seconds=3.0), Fault(kind="crash", target="w0", at=0.4))
    history = sound(plan(*faults, way="dns", calls=MANY))
    gone = next(event.at for event in history.of("truth.unnamed"))
    assert gone < 1.5
    assert {outcome(history, call.label) for call in MANY} == {"value"}
    assert not seen(history, "view.dropped", "w0#0") or seen(history, "view.dropped", "w0#0")[0].at > 3.3


def test_a_name_server_that_does_not_answer_drops_nobody() -> None:
    history = sound(plan(Fault(kind="answer-lost", target="c0", at=0.3, seconds=3.0), way="dns", calls=MANY))
    assert struck(history, "answer-lost")
    assert not seen(history, "view.dropped", "w0#0")


def test_a_name_that_is_denied_drops_all_and_what_runs_goes_on() -> None:
    fault = Fault(kind="answer-denied", target="c0", at=0.5, seconds=1.5)
    history = sound(plan(fault, way="dns", calls=calls(returns(7, step("sleep", seconds=3.0)), at=0.4)))
    assert seen(history, "view.dropped", begun(history, "c0.0")[0])
    assert outcome(history, "c0.0") == "value"


def test_an_address_that_comes_and_goes_in_the_zone_is_in_use_in_the_end() -> None:
    history = sound(plan(Fault(kind="zone-flap", target="w1", at=0.3, seconds=4.0, ordinal=2), way="dns"))
    assert len([event for event in history.of("truth.unnamed") if event.at < 5.0]) == 2
    assert [event for event in history.of("view.dropped") if "w1#0" in str(event) or "10.0.0.2" in str(event)]


def test_a_worker_that_says_goodbye_and_hello_again_is_in_use_again() -> None:
    history = sound(plan(Fault(kind="hello-flap", target="w1", at=0.45, seconds=1.0, ordinal=2), way="lan"))
    assert len(seen(history, "view.dropped", "w1#0")) == 2
    assert len(seen(history, "view.added", "w1#0")) == 3


def test_an_answer_that_leaves_a_worker_out_for_one_caller_leaves_it_to_the_others() -> None:
    fault = Fault(kind="answer-split", target="c0>w1", at=0.3, seconds=3.0)
    history = sound(plan(fault, way="dns", callers=2, calls=MANY))
    assert struck(history, "answer-split")
    assert seen(history, "view.dropped", "10.0.0.2:7000") or seen(history, "view.dropped", "w1#0")


def test_a_host_name_that_the_system_does_not_know_for_a_while_drops_nobody() -> None:
    history = sound(plan(Fault(kind="zone-flap", target="w1", at=0.3, seconds=4.0), way="static", named=3, calls=MANY))
    assert struck(history, "zone-flap")
    assert not [event for event in seen(history, "view.dropped", "w1#0") if event.at < 4.0]


def test_a_worker_whose_host_has_another_address_is_found_there_by_its_name() -> None:
    fault = Fault(kind="rolling-restart", target="workers", at=0.3, ordinal=1, seconds=2.5)
    history = sound(plan(fault, way="static", named=3, calls=MANY))
    assert [event for event in history.of("view.added") if event.get("address") == "10.0.10.1:7000"]


def test_what_a_hybrid_pool_starts_is_heard_of_on_the_network() -> None:
    history = sound(plan(way="lan", mode="hybrid", size=1, workers=1, callers=2))
    assert seen(history, "view.added", "w1#0", node="c1#0")


def test_a_successor_at_the_same_address_is_noticed_by_its_uid() -> None:
    faults = (Fault(kind="crash", target="w0", at=0.4), Fault(kind="restart", target="w0", at=0.6))
    history = sound(plan(*faults, way="static", calls=MANY))
    assert seen(history, "view.added", "w0#1")
    assert "w0#1" in {begun(history, call.label)[0] for call in MANY}
