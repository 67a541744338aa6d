"""Every kind of fault has the effect that it names, and what the engine makes of it follows the contract."""

from __future__ import annotations

from dataclasses import replace

import pytest

from support.plans import (
    QUICK,
    begun,
    calls,
    executed,
    frames,
    nodes,
    outcome,
    plan,
    played,
    returns,
    step,
    struck,
    yields,
)
from wool.limits import KIB
from wool.sim.kinds import ANY, FAULTS, POINTS, Discovery, Fault
from wool.sim.plan import Call, Knobs, Plan, Topology
from wool.sim.run import run

SLOW = returns(7, step("sleep", seconds=0.5))

# ---- the wire ---------------------------------------------------------------------------------------


def test_a_lost_accept_lets_the_call_complete_elsewhere_once() -> None:
    history = played(plan(Fault(kind="reset", target="c0>w0", frame="accept"), bodies=(returns(7),)))
    assert struck(history, "reset")
    assert len(frames(history, "c0.0", "accept")) == 2
    assert begun(history, "c0.0") == ["w1#0"]
    assert outcome(history, "c0.0") == "value"


def test_a_lost_offer_lets_the_call_complete_elsewhere_once() -> None:
    history = played(plan(Fault(kind="reset", target="c0>w0", frame="offer"), bodies=(returns(7),)))
    assert not [event for event in frames(history, "c0.0", "offer", "wire.heard") if event.node == "w0#0"]
    assert begun(history, "c0.0") == ["w1#0"]
    assert outcome(history, "c0.0") == "value"


def test_a_lost_start_is_worker_lost_and_the_body_never_runs() -> None:
    history = played(plan(Fault(kind="reset", target="c0>w0", frame="start"), bodies=(returns(7),)))
    assert begun(history, "c0.0") == []
    assert (outcome(history, "c0.0"), executed(history, "c0.0")) == ("lost", "unknown")


def test_a_lost_result_is_worker_lost_and_the_body_ran_once() -> None:
    history = played(plan(Fault(kind="reset", target="c0>w0", frame="result"), bodies=(returns(7),)))
    assert begun(history, "c0.0") == ["w0#0"]
    assert (outcome(history, "c0.0"), executed(history, "c0.0")) == ("lost", "unknown")


def test_any_frame_may_be_the_last_before_or_after_which_a_stream_is_reset() -> None:
    large = Plan(
        topology=Topology(workers=1, mode="proxy"),
        knobs=QUICK,
        calls=(Call(ordinal=0, at=0.5, body=returns(7), size=40 * KIB),),
    )
    whole = played(large)
    told = [event for event in whole if event.kind == "wire.said" and event.attempt.startswith("c0#0>w0#0/1")]
    resets = [Fault(kind="reset", target="c0>w0", frame=ANY, ordinal=ordinal) for ordinal in range(20)]
    struck_by = {fault.ordinal: struck(played(replace(large, faults=(fault,))), "reset") for fault in resets}
    assert all(struck_by.values()), "chunks and acknowledgements count, which the history knows nothing of"
    assert len(told) < len(resets)
    # Each at another moment, in the order in which they pass.
    times = [events[0].at for events in struck_by.values()]
    assert times == sorted(times) and len(set(times)) > len(told) // 2


def test_a_reset_after_the_result_takes_nothing_from_the_caller() -> None:
    fault = Fault(kind="reset", target="c0>w0", frame="result", when="after")
    history = played(plan(fault, bodies=(returns(7), returns(8))))
    assert outcome(history, "c0.0") == "value"
    assert outcome(history, "c0.1") == "value"


def test_a_reset_at_a_time_ends_what_runs_and_cancels_its_body() -> None:
    history = played(plan(Fault(kind="reset", target="c0>w0", at=0.3), bodies=(SLOW,)))
    assert outcome(history, "c0.0") == "lost"
    assert nodes(history, "body.cancelled") == ["w0#0"]


def test_a_late_accept_is_left_behind_and_does_not_start_the_task() -> None:
    fault = Fault(kind="delay", target="c0>w0", frame="accept", seconds=0.8)
    history = played(plan(fault, bodies=(returns(7),)))
    assert struck(history, "delay")
    assert frames(history, "c0.0", "withdraw")
    assert len(frames(history, "c0.0", "start")) == 1
    assert begun(history, "c0.0") == ["w1#0"]


def test_a_refused_connect_sends_the_call_elsewhere_and_heals() -> None:
    history = played(plan(Fault(kind="refuse", target="c0>w0", seconds=1.0), bodies=(returns(7), returns(8))))
    assert struck(history, "refuse")
    assert begun(history, "c0.0") == ["w1#0"]
    assert [event for event in history.of("wire.opened") if event.at > 1.0 and event.node == "w0#0"]


def test_a_swallowed_connect_costs_the_patience_and_no_more() -> None:
    history = played(plan(Fault(kind="swallow", target="c0>w0", seconds=1.0), bodies=(returns(7),)))
    (ended,) = [event for event in history.of("call.ended") if event.task == "c0.0"]
    assert ended.get("outcome") == "value"
    assert QUICK.patience <= ended.at - 0.1 < QUICK.patience + 0.1
    assert begun(history, "c0.0") == ["w1#0"]


def test_a_short_partition_delays_and_loses_nothing() -> None:
    history = played(plan(Fault(kind="partition", target="c0>w0", at=0.2, seconds=0.6), bodies=(SLOW,)))
    (ended,) = [event for event in history.of("call.ended") if event.task == "c0.0"]
    assert ended.get("outcome") == "value"
    assert 0.8 <= ended.at < 0.9


def test_a_partition_longer_than_the_ping_timeout_loses_the_session() -> None:
    history = played(plan(Fault(kind="partition", target="c0>w0", at=0.2, seconds=2.0), bodies=(SLOW,)))
    (ended,) = [event for event in history.of("call.ended") if event.task == "c0.0"]
    assert ended.get("outcome") == "lost"
    assert QUICK.ping_timeout <= ended.at - 0.2 < QUICK.ping_timeout + 0.1


def test_a_partition_of_one_direction_lets_the_other_pass() -> None:
    fault = Fault(kind="partition", target="c0>w0", frame="accept", direction="back", seconds=0.5)
    history = played(plan(fault, bodies=(returns(7),)))
    # Withdrawn by the caller, which is heard; its answer is late.
    assert [event.node for event in frames(history, "c0.0", "withdraw", "wire.heard")] == ["w0#0"]
    assert begun(history, "c0.0") == ["w1#0"]


def test_a_clogged_link_brings_everything_in_a_burst() -> None:
    fault = Fault(kind="clog", target="c0>w0", at=0.2, seconds=0.5)
    history = played(plan(fault, calls=calls(returns(1), SLOW, SLOW, SLOW, apart=0.05), workers=1))
    heard = [event.at for event in history.of("wire.heard") if event.at > 0.2 and event.node == "c0#0"]
    assert min(heard) >= 0.7
    assert outcome(history, "c0.3") == "value"


def test_a_slow_link_is_slower() -> None:
    quick = played(plan(bodies=(returns(7),)))
    slow = played(plan(Fault(kind="slow", target="c0>w0", seconds=2.0, amount=0.05), bodies=(returns(7),)))
    ends = [next(e.at for e in history.of("call.ended") if e.task == "c0.0") for history in (quick, slow)]
    assert ends[1] - ends[0] > 0.15


def test_of_frames_in_one_message_only_those_before_the_reset_arrive() -> None:
    bodies = tuple(returns(number) for number in range(6))
    fault = Fault(kind="reset", target="c0>w0", frame="start", ordinal=3)
    history = played(plan(fault, calls=calls(*bodies, apart=0.0), workers=1))
    heard = [event for event in history.of("wire.heard") if event.get("frame") == "start" and event.at < 0.2]
    assert len(heard) == 3
    assert [outcome(history, f"c0.{number}") for number in range(6)].count("lost") >= 3


# ---- processes --------------------------------------------------------------------------------------


def test_a_crashed_worker_runs_no_finally_and_its_calls_are_lost() -> None:
    body = returns(7, step("finally", steps=(step("sleep", seconds=0.5),), last=(step("sleep", seconds=0.01),)))
    history = played(plan(Fault(kind="crash", target="w0", at=0.3), bodies=(body,)))
    crash = next(event.at for event in history.of("node.crashed"))
    assert not [event for event in history if event.node == "w0#0" and event.at > crash]
    assert not [event for event in history.of("body.finally") if event.node == "w0#0"]
    assert outcome(history, "c0.0") == "lost"


def test_a_crash_after_the_start_was_heard_is_unknown_and_the_body_began_once() -> None:
    fault = Fault(kind="crash", target="w0", frame="start", when="after")
    history = played(plan(fault, bodies=(SLOW,)))
    assert begun(history, "c0.0") == ["w0#0"]
    assert (outcome(history, "c0.0"), executed(history, "c0.0")) == ("lost", "unknown")


def test_a_crash_before_the_start_arrives_leaves_the_body_unbegun() -> None:
    history = played(plan(Fault(kind="crash", target="w0", frame="start"), bodies=(SLOW,)))
    assert begun(history, "c0.0") == []
    assert outcome(history, "c0.0") == "lost"


def test_a_crash_as_the_accept_is_said_lets_the_call_complete_elsewhere() -> None:
    history = played(plan(Fault(kind="crash", target="w0", frame="accept"), bodies=(returns(7),)))
    assert begun(history, "c0.0") == ["w1#0"]


def test_a_crash_just_after_the_result_has_left_takes_nothing() -> None:
    history = played(plan(Fault(kind="crash", target="w0", frame="result", when="after"), bodies=(returns(7),)))
    assert nodes(history, "node.crashed") == ["w0#0"]
    assert outcome(history, "c0.0") == "value"


def test_a_silent_crash_is_found_out_by_pings() -> None:
    history = played(plan(Fault(kind="crash", target="w0", at=0.3, how="silence"), bodies=(SLOW,), mode="proxy"))
    (ended,) = [event for event in history.of("call.ended") if event.task == "c0.0"]
    assert ended.get("outcome") == "lost"
    assert 0.3 + QUICK.ping_timeout <= ended.at < 0.4 + QUICK.ping_timeout


def test_a_process_may_be_killed_at_any_seam_and_no_call_begins_twice() -> None:
    bodies = (returns(1), yields(1, 2), SLOW)
    crashed = 0
    for seam in range(1, 60, 4):
        for target in ("w0", "c0"):
            history = run(plan(Fault(kind="crash", target=target, at=0.1, seam=seam), bodies=bodies))
            assert history[-1].get("how") == "done", history[-1]
            crashed += len([node for node in nodes(history, "node.crashed") if node.startswith(target)])
            assert all(len(begun(history, f"c0.{number}")) <= 1 for number in range(3))
    assert crashed > 10


def test_a_paused_worker_goes_on_where_it_stood() -> None:
    history = played(plan(Fault(kind="pause", target="w0", at=0.2, seconds=0.7), bodies=(SLOW,)))
    (resumed,) = history.of("node.resumed")
    (ended,) = [event for event in history.of("call.ended") if event.task == "c0.0"]
    assert not [e for e in history if e.node == "w0#0" and 0.2001 < e.at < resumed.at]
    assert ended.get("outcome") == "value"
    assert 0.9 <= ended.at < 0.95


@pytest.mark.parametrize("discovery", ["local", "lan", "dns", "static"])
@pytest.mark.parametrize("point", POINTS)
def test_a_worker_that_dies_at_a_point_of_its_life_takes_no_call_with_it(point: str, discovery: Discovery) -> None:
    stop = Fault(kind="terminate", target="w0", at=0.3)
    faults = (Fault(kind="crash", target="w0", point=point), *([stop] if point == "withdrawn" else []))
    topology = Topology(mode="proxy", workers=2, discovery=discovery)
    made = tuple(Call(ordinal=number, at=2.0, body=returns(7)) for number in range(4))
    history = played(Plan(topology=topology, knobs=QUICK, faults=faults, calls=made))
    assert struck(history, "crash")
    assert nodes(history, "node.crashed") == ["w0#0"]
    events = [event.kind for event in history if "w0#0" in (event.node, event.get("worker"))]
    assert ("truth.published" in events) is (point != "listening")
    assert ("node.terminated" in events[: events.index("node.crashed")]) is (point == "withdrawn")
    assert "node.exited" not in events
    assert [outcome(history, call.label) for call in made] == ["value"] * 4


def test_a_worker_that_freezes_when_the_last_pool_closes_does_not_hold_up_its_end() -> None:
    knobs = replace(QUICK, ping_timeout=20.0)
    fault = Fault(kind="freeze", target="w0")
    history = played(Plan(topology=Topology(mode="proxy", callers=2, workers=2), knobs=knobs, faults=(fault,)))
    assert struck(history, "freeze")
    *_, closing = [event.at for event in history.of("pool.closing")]
    *_, closed = [event.at for event in history.of("pool.closed")]
    ((frozen,), (resumed,)) = ([event.at for event in history.of(kind)] for kind in ("node.paused", "node.resumed"))
    assert closing == frozen < closed <= closing + knobs.handshake + 0.1
    assert closed < resumed


def test_a_worker_paused_for_longer_than_the_ping_timeout_is_lost_and_cleans_up_later() -> None:
    history = played(plan(Fault(kind="pause", target="w0", at=0.2, seconds=3.0), bodies=(SLOW,)))
    (ended,) = [event for event in history.of("call.ended") if event.task == "c0.0"]
    assert ended.get("outcome") == "lost"
    assert ended.at < 0.3 + QUICK.ping_timeout
    assert len(begun(history, "c0.0")) == 1


def test_a_terminated_worker_drains_what_runs_and_takes_no_more() -> None:
    bodies = (SLOW, SLOW, returns(1), returns(2), returns(3))
    history = played(plan(Fault(kind="terminate", target="w0", at=0.105), bodies=bodies))
    (told,) = history.of("node.terminated")
    assert not [event for event in history.of("body.began") if event.node == "w0#0" and event.at > told.at + 0.01]
    assert all(outcome(history, f"c0.{number}") == "value" for number in range(5))
    assert "w0#0" in nodes(history, "node.exited")


def test_what_outlasts_the_drain_is_interrupted() -> None:
    body = returns(7, step("sleep", seconds=60.0))
    history = played(plan(Fault(kind="terminate", target="w0", at=0.3), bodies=(body,)))
    assert outcome(history, "c0.0") == "interrupted"
    assert executed(history, "c0.0") == "yes"


def test_a_restart_on_the_same_address_is_another_worker() -> None:
    faults = (Fault(kind="crash", target="w0", at=0.2), Fault(kind="restart", target="w0", at=0.5))
    made = calls(returns(1), SLOW, at=0.3, apart=0.5)
    history = played(plan(*faults, calls=made, workers=1, mode="proxy"))
    assert nodes(history, "node.up").count("w0#1") == 1
    assert begun(history, "c0.1") == ["w0#1"]
    assert outcome(history, "c0.1") == "value"


def test_a_worker_that_fails_to_start_leaves_the_pool_unopened() -> None:
    history = run(plan(Fault(kind="fail-start", target="w1"), bodies=(returns(7),)))
    assert outcome(history, "c0.0") == "no-pool"
    assert not history.of("leak.task", "leak.timer", "leak.stream", "leak.permit")


def test_the_workers_of_a_crashed_caller_do_not_outlive_it() -> None:
    history = played(plan(Fault(kind="crash", target="c0", at=0.2), bodies=(SLOW,)))
    gone = {event.node: event.at for event in history.of("node.crashed")}
    assert set(gone) == {"c0#0", "w0#0", "w1#0"}
    assert max(gone.values()) < 0.21


def test_a_worker_that_is_not_its_own_cancels_what_a_crashed_caller_had_running() -> None:
    history = played(plan(Fault(kind="crash", target="c0", at=0.2), bodies=(SLOW,), mode="proxy"))
    assert nodes(history, "body.cancelled") == ["w0#0"]
    assert nodes(history, "body.finally") == ["w0#0"]


def test_a_crawling_node_is_slower_and_hinders_nobody_else() -> None:
    fault = Fault(kind="crawl", target="w0", at=0.05, seconds=2.0, amount=0.01)
    history = played(plan(fault, bodies=(returns(1), returns(2))))
    ends = {event.task: event.at for event in history.of("call.ended")}
    assert ends["c0.0"] > 0.15
    assert ends["c0.1"] < 0.13


def test_a_blocked_routine_loop_answers_offers_and_pings() -> None:
    bodies = (returns(1, step("block", seconds=3.0)), returns(2))
    history = played(plan(calls=calls(*bodies, apart=0.2), workers=1))
    accept = next(event for event in frames(history, "c0.1", "accept"))
    assert accept.at < 0.4
    assert outcome(history, "c0.0") == outcome(history, "c0.1") == "value"


# ---- discovery --------------------------------------------------------------------------------------


def proxied(*faults: Fault, at: float = 1.0, **fields: object) -> Plan:
    return plan(*faults, calls=calls(returns(1), returns(2), at=at), mode="proxy", **fields)


def viewed(plan_: Plan, worker: str) -> list[tuple[str, float]]:
    history = played(plan_)
    assert all(outcome(history, f"c0.{number}") == "value" for number in range(2))
    events = history.of("view.added", "view.updated", "view.dropped")
    return [
        (event.kind.removeprefix("view."), event.at)
        for event in events
        if event.node == "c0#0" and event.get("worker") == worker and event.at < 3.0
    ]


def test_a_hidden_worker_is_dropped_and_comes_back() -> None:
    for kind in ("premature-drop", "split-view"):
        seen = viewed(proxied(Fault(kind=kind, target="c0>w0", at=0.5, seconds=1.0)), "w0#0")
        assert [what for what, _ in seen] == ["added", "dropped", "added"]
        assert 1.5 <= seen[2][1] < 1.6


def test_a_flapping_worker_comes_and_goes() -> None:
    seen = viewed(proxied(Fault(kind="flap", target="c0>w0", at=0.5, seconds=1.0, ordinal=3)), "w0#0")
    assert [what for what, _ in seen] == ["added", "dropped", "added", "dropped", "added", "dropped", "added"]


def test_a_late_event_comes_late() -> None:
    ((what, at),) = viewed(proxied(Fault(kind="view-delay", target="c0>w0", seconds=1.0, amount=0.6)), "w0#0")
    assert what == "added"
    assert 0.6 <= at < 1.1


def test_a_lost_event_is_made_good() -> None:
    ((what, at),) = viewed(proxied(Fault(kind="view-lose", target="c0>w0", seconds=0.9)), "w0#0")
    assert what == "added"
    assert 0.9 <= at < 1.3


def test_a_doubled_event_does_no_harm() -> None:
    assert [what for what, _ in viewed(proxied(Fault(kind="view-duplicate", target="c0>w0")), "w0#0")] == ["added"]


def test_reordered_events_come_out_right_in_the_end() -> None:
    # The drop after a crash comes before the addition, which is then made good.
    faults = (Fault(kind="view-reorder", target="c0>w0"), Fault(kind="crash", target="w0", at=0.6))
    seen = viewed(proxied(*faults, at=1.5), "w0#0")
    assert [what for what, _ in seen][-1:] in (["dropped"], [])


def test_a_late_subscriber_sees_each_live_worker_once() -> None:
    ((what, at),) = viewed(proxied(Fault(kind="late-subscriber", target="c0", at=0.9)), "w0#0")
    assert what == "added"
    assert at >= 0.9


def test_a_ghost_takes_no_call_away() -> None:
    made = proxied(Fault(kind="ghost", target="w7", seconds=2.0))
    assert [what for what, _ in viewed(made, "ghost-w7-0")] == ["added", "dropped"]


def test_a_torn_record_is_no_record() -> None:
    for write in range(5):
        history = played(proxied(Fault(kind="torn-write", target="w0", ordinal=write)))
        assert nodes(history, "node.crashed") == ["w0#0"]
        # Its process is dead: whatever of the record is there, its lease is not held.
        assert not [e for e in history.of("place.bound") if e.get("worker") == "w0#0"]
        assert begun(history, "c0.0") == ["w1#0"]


def test_the_worker_of_a_dead_publisher_leaves_the_view() -> None:
    seen = viewed(proxied(Fault(kind="dead-publisher", target="w0", at=0.5)), "w0#0")
    assert [what for what, _ in seen] == ["added", "dropped"]
    assert seen[1][1] < 0.5 + QUICK.lease + 2 * QUICK.poll


def test_a_full_table_keeps_a_worker_out_until_there_is_room() -> None:
    ((what, at),) = viewed(proxied(Fault(kind="table-full", target="w0", seconds=0.6)), "w0#0")
    assert what == "added"
    assert 0.6 <= at < 1.2


# ---- all of them ------------------------------------------------------------------------------------


def test_a_fault_that_points_at_what_is_not_there_is_harmless() -> None:
    targets = {"link": "c0>w9", "node": "w9", "worker": "w9", "caller": "c9", "all": "workers"}
    faults = []
    for name, kind in FAULTS.items():
        fields: dict[str, object] = {"target": targets[kind.target]}
        if name == "delay":
            fields["frame"] = "accept"
        if name != "ghost":
            faults.append(Fault(kind=name, **fields))  # type: ignore[arg-type]
    history = played(plan(*faults, bodies=(returns(1), yields(1))))
    assert outcome(history, "c0.0") == "value"
    assert outcome(history, "c0.1") == "generator-end"


def test_a_stalled_loop_lets_the_others_go_first() -> None:
    from wool.sim.plan import Stall

    stall = Stall(loop="c0#0.user", at=0.1035, seconds=0.3)
    history = played(plan(bodies=(returns(7),), stalls=(stall,)))
    (ended,) = [event for event in history.of("call.ended") if event.task == "c0.0"]
    assert 0.4 <= ended.at < 0.45


def test_after_the_healing_a_probe_succeeds_if_a_worker_is_there() -> None:
    faults = (
        Fault(kind="partition", target="c0>w0", at=0.0, seconds=0.0),
        Fault(kind="partition", target="c0>w1", at=0.0, seconds=0.0),
    )
    history = played(plan(*faults, bodies=(returns(7),)))
    assert {event.get("outcome") for event in history.of("probe.ended")} == {"value"}


def test_where_all_workers_are_dead_one_comes_back_for_the_probe() -> None:
    faults = tuple(Fault(kind="crash", target=f"w{number}", at=0.3) for number in range(2))
    history = played(plan(*faults, bodies=(SLOW,), mode="proxy"))
    assert "w0#1" in nodes(history, "node.up")
    assert {event.get("outcome") for event in history.of("probe.ended")} == {"value"}


def test_where_the_last_workers_drain_or_are_announced_no_more_one_is_found_again_for_the_probe() -> None:
    drains = tuple(Fault(kind="terminate", target=f"w{number}", at=0.3) for number in range(2))
    hidden = tuple(Fault(kind="dead-publisher", target=f"w{number}", at=0.3) for number in range(2))
    for faults in (drains, hidden, (drains[0], hidden[1])):
        history = played(plan(*faults, bodies=(SLOW,), mode="proxy"))
        assert {event.get("outcome") for event in history.of("probe.ended")} == {"value"}


def test_two_callers_share_workers_that_are_not_theirs() -> None:
    made = (*calls(returns(1), returns(2)), *calls(returns(3), returns(4), caller=1))
    wanted = Plan(topology=Topology(mode="proxy", workers=2, callers=2), calls=made, knobs=Knobs(poll=0.25, quiet=0.5))
    history = played(wanted)
    assert all(outcome(history, f"c{caller}.{number}") == "value" for caller in range(2) for number in range(2))


# ---- what stays ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["pause", "partition", "swallow", "refuse", "clog"])
def test_what_stays_is_there_when_all_else_is_healed_and_calls_succeed_beside_it(kind: str) -> None:
    target = "w1" if kind == "pause" else "c0>w1"
    stays = Fault(kind=kind, target=target, at=0.05, stays=True)
    other = Fault(kind="partition", target="c0>w0", at=0.2, seconds=0.3)
    history = played(plan(stays, other, bodies=(returns(1), returns(2)), mode="proxy"))
    assert [event.get("fault") for event in history.of("fault.healed")] == ["partition"]
    probes = [event for event in history.of("call.ended") if event.task.startswith("p.")]
    assert [event.get("outcome") for event in probes] == ["value"] * 3
    assert {begun(history, event.task)[0] for event in probes} == {"w0#0"}


def test_what_stays_is_healed_as_all_else_if_it_left_no_core() -> None:
    stays = [Fault(kind="partition", target=f"c0>w{number}", at=0.05, stays=True) for number in range(2)]
    history = played(plan(*stays, mode="proxy"))
    assert len(history.of("fault.healed")) == 2
    assert [event.get("outcome") for event in history.of("probe.ended")] == ["value"] * 3


def test_a_pool_closes_in_time_though_one_of_its_workers_stands_still_for_ever() -> None:
    history = played(plan(Fault(kind="pause", target="w1", at=0.3, stays=True), bodies=(returns(1),)))
    closing, closed = history.of("pool.closing")[0].at, history.of("pool.closed")[0].at
    assert closed - closing < QUICK.drain + 2 * QUICK.stop + 4 * QUICK.close
    assert [event.node for event in history.of("node.crashed")] == ["w1#0"]
