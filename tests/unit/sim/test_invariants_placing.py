"""B, D, X and L: placing, discovery, exits, liveness."""

from __future__ import annotations

import pytest

from support.simulated import (
    Script,
    all_found,
    began,
    body_ended,
    cluster,
    ended,
    found,
    generator,
    made,
    offered,
    one_call,
    plan_of,
    started,
)
from wool.sim.kinds import Fault
from wool.sim.plan import Call, Knobs, Stall


def bind(script: Script, task: str, worker: str, *candidates: str) -> Script:
    return script.add("c0#0", "place.bound", task, worker=worker, candidates=list(candidates), suspect=False)


def test_b_a_candidate_that_is_not_in_view_is_found() -> None:
    script = bind(cluster("w0#0"), "c0.0", "w0#0", "w0#0")
    assert not found("candidates_are_in_view", script)
    script = bind(cluster("w0#0"), "c0.0", "w0#0", "w0#0", "w9#0")
    assert found("candidates_are_in_view", script)
    script = cluster("w0#0", "w1#0").add("c0#0", "view.dropped", worker="w1#0")
    assert found("candidates_are_in_view", bind(script, "c0.0", "w1#0", "w0#0", "w1#0"))


def test_b_a_worker_that_is_no_candidate_is_found() -> None:
    assert found("candidates_are_in_view", bind(cluster("w0#0", "w1#0"), "c0.0", "w1#0", "w0#0"))


def test_b_attempts_without_end_are_found() -> None:
    script = cluster("w0#0", "w1#0")
    made(script)
    for number in range(1, 30):
        attempt = offered(script, worker=f"w{number % 2}#0", number=number)
        script.wire(attempt, "reject", "c0.0", code="draining")
    assert found("attempts_are_bounded", script)


def test_b_uneven_rounds_are_found_and_only_without_faults() -> None:
    script = cluster("w0#0", "w1#0")
    for number, worker in enumerate(["w0#0", "w1#0", "w0#0"]):
        bind(script, f"c0.{number}", worker, "w0#0", "w1#0")
    assert not found("round_robin_is_even", script)
    bind(script, "c0.7", "w0#0", "w0#0", "w1#0")
    assert found("round_robin_is_even", script)
    assert not found("round_robin_is_even", script, plan_of(faults=(Fault(kind="crash", target="w1"),)))
    # Once w2 has refused it is no candidate, though it stays in view: what comes then is a round of its own.
    script = cluster("w0#0", "w1#0", "w2#0")
    for task, worker in (("c0.0", "w1#0"), ("c0.1", "w1#0")):
        bind(script, task, worker, *(("w0#0", "w1#0", "w2#0") if task == "c0.0" else ("w0#0", "w1#0")))
    assert not found("round_robin_is_even", script)


def test_b_a_call_that_waits_though_its_session_is_open_is_found() -> None:
    script = cluster("w0#0", "w1#0")
    bind(made(script), "c0.0", "w1#0", "w0#0", "w1#0")
    script.wire("c0#0>w1#0/0:1", "offer", "c0.0")
    assert found("nobody_waits_for_others", script.done(at=2.0))


def test_b_a_call_that_waits_for_its_session_or_for_room_is_right() -> None:
    script = Script().up("c0#0", "w0#0").known("c0#0", "w0#0")
    bind(made(script), "c0.0", "w0#0", "w0#0")
    script.opened("c0#0>w0#0/0").wire("c0#0>w0#0/0:1", "offer", "c0.0")
    assert not found("nobody_waits_for_others", script.done(at=2.0))
    script = cluster("w0#0")
    first = offered(made(script))
    bind(made(script, "c0.1"), "c0.1", "w0#0", "w0#0")
    started(script, first)
    script.wire("c0#0>w0#0/0:2", "offer", "c0.1")
    assert not found("nobody_waits_for_others", script.done(at=2.0), plan_of(knobs=Knobs(window_tasks=1)))


def probing(*workers: str) -> Script:
    script = cluster("w0#0", "w1#0").add("", "phase.healed", all=True)
    for number, worker in enumerate(("w0#0", *workers)):
        made(bind(script, f"p.{number}", worker, "w0#0", "w1#0"), f"p.{number}")
    return script


def test_b_a_worker_that_gets_nothing_after_the_healing_is_found() -> None:
    assert not found("nobody_is_evicted_for_good", probing("w0#0", "w1#0"))
    (violation,) = found("nobody_is_evicted_for_good", probing("w0#0", "w0#0"))
    assert "w1#0" in violation.sentence
    assert not found("nobody_is_evicted_for_good", probing("w0#0")), "too few to tell"


def test_b_a_worker_that_takes_what_comes_after_it_has_said_that_it_drains_is_found() -> None:
    script = cluster("w0#0")
    script.add("w0#0", "wire.said", "", "c0#0>w0#0/0", frame="draining")
    script.now += 0.5
    attempt = offered(made(script))
    script.wire(attempt, "accept", "c0.0")
    assert found("draining_takes_nothing", script)


def closing(script: Script, at: float) -> Script:
    return script.add("c0#0", "pool.closing", at=at)


def test_d_a_view_that_is_not_what_is_so_is_found_after_quiet_time() -> None:
    healed = cluster("w0#0", "w1#0").add("", "phase.healed")
    assert not found("view_becomes_truth", closing(healed, 20.0))

    script = cluster("w0#0", "w1#0").add("", "truth.dead", worker="w1#0").add("", "phase.healed")
    assert not found("view_becomes_truth", closing(script, 0.1)), "too early"
    script = cluster("w0#0", "w1#0").add("", "truth.dead", worker="w1#0").add("", "phase.healed")
    (violation,) = found("view_becomes_truth", closing(script, 20.0))
    assert "believes in w1#0" in violation.sentence

    script = cluster("w0#0").add("", "truth.published", worker="w1#0").add("", "phase.healed")
    (violation,) = found("view_becomes_truth", closing(script, 20.0))
    assert "does not know of w1#0" in violation.sentence


def test_d_an_offer_to_what_was_dropped_is_found() -> None:
    script = cluster("w0#0").add("c0#0", "view.dropped", worker="w0#0")
    made(script).wire("c0#0>w0#0/0:1", "offer", "c0.0")
    assert found("nothing_is_offered_to_the_dropped", script)
    script = cluster("w0#0").add("c0#0", "view.dropped", worker="w0#0").add("c0#0", "view.added", worker="w0#0")
    made(script).wire("c0#0>w0#0/0:1", "offer", "c0.0")
    assert not found("nothing_is_offered_to_the_dropped", script)


def test_d_what_is_added_twice_or_dropped_or_updated_unknown_is_found() -> None:
    assert found("events_follow_the_grammar", cluster("w0#0").add("c0#0", "view.added", worker="w0#0"))
    for kind in ("view.dropped", "view.updated"):
        assert found("events_follow_the_grammar", cluster("w0#0").add("c0#0", kind, worker="w1#0"))
    right = cluster("w0#0").add("c0#0", "view.updated", worker="w0#0").add("c0#0", "view.dropped", worker="w0#0")
    assert not found("events_follow_the_grammar", right.add("c0#0", "view.added", worker="w0#0"))
    distorted = plan_of(faults=(Fault(kind="view-duplicate", target="c0>w0"),))
    assert not found("events_follow_the_grammar", cluster("w0#0").add("c0#0", "view.added", worker="w0#0"), distorted)


def test_d_what_a_subscription_says_out_of_the_grammar_is_found_and_each_subscription_has_its_own() -> None:
    def heard(*kinds: str, subscription: int = 0) -> Script:
        script = cluster("w0#0")
        for kind in kinds:
            script.add("c0#0", f"heard.{kind}", subscription=subscription, worker="w0#0")
        return script

    for kinds in (("added", "added"), ("updated",), ("dropped",), ("added", "dropped", "updated")):
        assert found("subscriptions_follow_the_grammar", heard(*kinds)), kinds
    right = heard("added", "updated", "updated", "dropped", "added")
    right.add("c0#0", "heard.added", subscription=1, worker="w0#0").add(
        "c0#0", "heard.added", subscription=0, worker="w1#0"
    )
    assert not found("subscriptions_follow_the_grammar", right)


@pytest.mark.parametrize("frame", ["start", "withdraw", "cancel", "accept", "reject"])
def test_b_a_small_frame_that_is_late_is_found_where_nothing_disturbs_it(frame: str) -> None:
    attempt = "c0#0>w0#0/0:1"
    sayer, hearer = ("w0#0", "c0#0") if frame in ("accept", "reject") else ("c0#0", "w0#0")

    def script(late: float) -> Script:
        life = made(cluster("w0#0")).wire(attempt, "offer", "c0.0")
        life.add(sayer, "wire.said", "c0.0", attempt, at=1.0, frame=frame)
        return life.add(hearer, "wire.heard", "c0.0", attempt, at=1.001 + late, frame=frame)

    name = "nothing_small_waits_for_payloads"
    assert not found(name, script(0.0001))
    assert found(name, script(0.01))
    assert not found(name, script(0.01), plan_of(stalls=(Stall(loop="w0#0.io", at=1.0, seconds=0.01),)))
    assert not found(name, script(0.01), plan_of(faults=(Fault(kind="clog", target="c0>w0", seconds=0.01),)))
    assert found(name, script(0.01), plan_of(faults=(Fault(kind="clog", target="c0>w1", seconds=0.01),)))


def test_x_what_is_left_on_a_live_node_is_found() -> None:
    script = cluster("w0#0").add("w0#0", "leak.task", what="wool closing")
    assert found("nothing_is_left", script)
    script = cluster("w0#0").add("w0#0", "node.crashed").add("w0#0", "leak.task", what="wool closing")
    assert not found("nothing_is_left", script)


def test_x_a_failure_that_nobody_looks_at_is_found_also_where_a_generator_was_let_go() -> None:
    plan = plan_of(generator(1))
    script = ended(made(cluster("w0#0"), form="generator"), "dropped")
    assert found("nothing_is_left", script.add("c0#0", "leak.never-retrieved", what="RpcError of wool link"), plan)


@pytest.mark.parametrize(("calls", "wrong"), [(1, False), (2, True), (-1, True)])
def test_x_calls_that_count_as_under_way_at_the_end_are_generators_that_were_let_go(calls: int, wrong: bool) -> None:
    plan = plan_of(generator(1))
    script = ended(made(cluster("w0#0"), form="generator"), "dropped")
    script.add("c0#0", "leak.permit", what=f"{calls} calls", calls=calls)
    assert bool(found("nothing_is_left", script, plan)) is wrong
    assert found("nothing_is_left", script)


def test_x_what_nobody_handled_is_found() -> None:
    assert found("nothing_goes_unhandled", cluster("w0#0").add("w0#0", "loop.error", message="boom"))
    ignored = "RuntimeError: async generator ignored GeneratorExit"
    assert not found("nothing_goes_unhandled", cluster("w0#0").add("w0#0", "loop.error", message=ignored))


def test_x_an_exit_that_takes_too_long_is_found() -> None:
    assert not found("exit_ends_in_time", closing(cluster("w0#0"), 1.0).add("c0#0", "pool.closed", at=1.5))
    assert found("exit_ends_in_time", closing(cluster("w0#0"), 1.0).add("c0#0", "pool.closed", at=60.0))
    assert found("exit_ends_in_time", closing(cluster("w0#0"), 1.0).done("horizon", at=60.0))
    assert not found("exit_ends_in_time", closing(cluster("w0#0"), 1.0).done("horizon", at=1.1))


def test_l_a_run_that_does_not_end_is_found() -> None:
    for how in ("deadlock", "horizon", "spinning"):
        (violation,) = found("the_run_ends", made(cluster("w0#0")).done(how))
        assert violation.task == "c0.0"
        assert how in violation.sentence


def test_l_a_probe_that_fails_is_found() -> None:
    script = made(cluster("w0#0"), "p.0")
    ended(script, "no-workers", "p.0", executed="no")
    assert found("probes_succeed", script)
    assert not found("probes_succeed", one_call(cluster("w0#0"), "p.0"))


def test_l_where_a_fault_stays_a_probe_that_fails_is_found_if_a_worker_of_the_core_lives() -> None:
    def failed(*workers: str) -> Script:
        script = made(cluster(*workers), "p.0")
        return ended(script, "timeout", "p.0", executed="no")

    stays = plan_of(
        faults=(Fault(kind="pause", target="w1", stays=True), Fault(kind="swallow", target="c0>w2", stays=True))
    )
    assert stays.cut_off == {"w1", "w2"}
    assert found("probes_succeed", failed("w0#0", "w1#0"), stays)
    assert found("probes_succeed", failed("w0#0").add("w0#1", "node.up"), stays)
    assert not found("probes_succeed", failed("w1#0", "w2#0"), stays)
    assert found("probes_succeed", failed("w1#0", "w2#0")), "without what stays they would have to serve"


def test_a_crash_with_all_its_consequences_is_no_violation() -> None:
    script = cluster("w0#0", "w1#0")
    made(script)
    attempt = offered(script)
    started(script, attempt)
    began(script)
    script.add("w0#0", "node.crashed", reason="killed").add("", "truth.dead", worker="w0#0")
    script.add("c0#0", "wire.lost", "", attempt.partition(":")[0], reason="reset")
    ended(script, "lost", executed="unknown")
    script.add("c0#0", "view.dropped", worker="w0#0").add("", "phase.healed")
    one_call(script, "p.0", "w1#0")
    closing(script, 20.0).add("c0#0", "pool.closed").done()
    assert all_found(script, plan_of(Call(ordinal=0), faults=(Fault(kind="crash", target="w0", at=0.01),))) == []


def test_a_crash_of_the_caller_is_no_violation() -> None:
    script = cluster("w0#0")
    attempt = offered(made(script))
    started(script, attempt)
    began(script)
    script.add("c0#0", "node.crashed", reason="killed")
    script.add("w0#0", "wire.lost", "", attempt.partition(":")[0], reason="reset")
    script.add("w0#0", "body.cancelled", "c0.0")
    body_ended(script, how="cancelled", value="CancelledError()")
    assert all_found(script.done()) == []
