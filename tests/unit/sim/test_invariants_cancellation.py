"""C: cancellation."""

from __future__ import annotations

from support.simulated import Script, began, body_ended, cluster, ended, found, made, offered, plan_of, started
from wool.sim.bodies import Body, Step
from wool.sim.kinds import Fault
from wool.sim.plan import Call, Knobs


def running(*workers: str) -> tuple[Script, str]:
    script = cluster(*(workers or ("w0#0",)))
    attempt = offered(made(script))
    started(script, attempt)
    began(script)
    return script, attempt


def test_c1_a_cancelled_caller_that_is_released_in_time_is_right() -> None:
    script, attempt = running()
    script.add("c0#0", "call.cancelled", "c0.0").wire(attempt, "cancel", "c0.0")
    ended(script, "cancelled")
    assert not found("released_within_grace", script.done(at=30))


def test_c1_a_caller_that_is_never_released_is_found() -> None:
    script, _ = running()
    script.add("c0#0", "call.cancelled", "c0.0")
    assert not found("released_within_grace", script), "the run is cut off: nobody can say"
    assert found("released_within_grace", script.done("horizon", at=30))


def test_c1_a_caller_that_is_released_late_is_found_unless_the_plan_held_it_up() -> None:
    script, _ = running()
    script.add("c0#0", "call.cancelled", "c0.0")
    script.now = 5.0
    ended(script, "cancelled")
    assert found("released_within_grace", script)
    paused = plan_of(faults=(Fault(kind="pause", target="c0", at=0.1, seconds=6.0),))
    assert not found("released_within_grace", script, paused)


def test_c1_a_generator_that_suppresses_and_yields_is_right() -> None:
    script, _ = running()
    script.add("c0#0", "call.cancelled", "c0.0").add("c0#0", "call.item", "c0.0", value=1, ordinal=0)
    assert not found("released_within_grace", script.done(at=30))


def test_c1_a_caller_that_died_is_nobodys_promise() -> None:
    script, _ = running()
    script.add("c0#0", "call.cancelled", "c0.0").add("c0#0", "node.crashed", reason="killed")
    assert not found("released_within_grace", script.done(at=30))


def test_c2_a_begin_after_the_answer_is_found() -> None:
    script = cluster("w0#0")
    attempt = offered(made(script))
    started(script, attempt)
    script.wire(attempt, "result", "c0.0", kind="cancelled")
    began(script)
    assert found("no_begin_after_an_answer", script)


def test_c2_a_body_that_never_hears_of_its_cancellation_is_found() -> None:
    script, attempt = running()
    script.wire(attempt, "cancel", "c0.0")
    assert found("cancel_reaches_the_body", script.done(at=30))


def test_c2_a_body_that_hears_of_it_or_had_ended_or_stood_at_a_yield_is_right() -> None:
    for kind in ("body.cancelled", "body.ended"):
        script, attempt = running()
        script.wire(attempt, "cancel", "c0.0").add("w0#0", kind, "c0.0", how="returned", value=0)
        assert not found("cancel_reaches_the_body", script.done(at=30))
    for kind in ("body.ended", "body.yielded"):
        script, attempt = running()
        script.add("w0#0", kind, "c0.0", how="returned", value=0, ordinal=0).wire(attempt, "cancel", "c0.0")
        assert not found("cancel_reaches_the_body", script.done(at=30))


def test_c2_a_body_on_a_worker_that_died_is_nobodys_promise() -> None:
    script, attempt = running()
    script.wire(attempt, "cancel", "c0.0").add("w0#0", "node.crashed", reason="killed")
    assert not found("cancel_reaches_the_body", script.done(at=30))


def test_c2_a_body_that_survives_its_session_is_found() -> None:
    script, attempt = running()
    script.add("w0#0", "wire.lost", "", attempt.partition(":")[0], reason="reset")
    assert found("orphans_are_ended", script.done(at=30))
    for kind in ("body.cancelled", "body.resumed"):
        script, attempt = running()
        script.add("w0#0", "wire.lost", "", attempt.partition(":")[0], reason="reset")
        script.add("w0#0", kind, "c0.0", step="close", ordinal=0, value=None)
        assert not found("orphans_are_ended", script.done(at=30))


def test_c2_where_workers_have_places_a_body_that_lends_its_own_hears_of_it_behind_the_work_of_others() -> None:
    inner = Step(op="call", number=1, body=Body())
    works = Call(ordinal=1, body=Body(steps=(Step(op="sleep", seconds=10.0),)))
    lends = plan_of(Call(ordinal=0, body=Body(steps=(inner,))), works, knobs=Knobs(places=1))
    keeps = plan_of(Call(ordinal=0), works, knobs=Knobs(places=1))

    def deaf(name: str, until: float) -> Script:
        script, attempt = running()
        if name == "cancel_reaches_the_body":
            script.wire(attempt, "cancel", "c0.0")
        else:
            script.add("w0#0", "wire.lost", "", attempt.partition(":")[0], reason="reset")
        return script.done(at=until)

    for name in ("cancel_reaches_the_body", "orphans_are_ended"):
        assert found(name, deaf(name, 2.0), keeps)
        assert not found(name, deaf(name, 2.0), lends)
        assert found(name, deaf(name, 30.0), lends)


def test_c3_a_value_after_a_cancel_that_no_body_has_seen_is_found() -> None:
    script, _ = running()
    body_ended(script, value=3)
    script.add("c0#0", "call.cancelled", "c0.0")
    ended(script, "value", executed="yes", value=3, begun_by="w0#0/0")
    assert found("nothing_after_cancel", script)


def test_c3_a_value_after_a_cancel_that_the_body_or_its_nested_one_has_swallowed_is_right() -> None:
    for label in ("c0.0", "c0.0.1"):
        script, _ = running()
        script.add("c0#0", "call.cancelled", "c0.0").add("w0#0", "body.cancelled", label)
        body_ended(script, value=3)
        ended(script, "value", executed="yes", value=3, begun_by="w0#0/0")
        assert not found("nothing_after_cancel", script)


def test_c3_an_item_after_a_cancel_that_no_body_has_seen_is_found() -> None:
    script, _ = running()
    script.add("c0#0", "call.cancelled", "c0.0").add("c0#0", "call.item", "c0.0", value=1, ordinal=0)
    assert found("nothing_after_cancel", script)


def test_c4_a_cancellation_that_nobody_asked_for_is_found() -> None:
    script, _ = running()
    script.add("w0#0", "body.cancelled", "c0.0")
    assert found("only_the_family_is_touched", script)


def test_c4_every_reason_for_a_cancellation_is_one() -> None:
    script, _ = running()
    script.add("c0#0", "call.cancelled", "c0.0").add("w0#0", "body.cancelled", "c0.0")
    assert not found("only_the_family_is_touched", script)

    script, _ = running()
    script.add("w0#0", "node.terminated").add("w0#0", "body.cancelled", "c0.0")
    assert not found("only_the_family_is_touched", script)

    script, attempt = running()
    script.add("w0#0", "wire.lost", "", attempt.partition(":")[0], reason="reset").add("w0#0", "body.cancelled", "c0.0")
    assert not found("only_the_family_is_touched", script)

    script, _ = running()
    script.add("w0#0", "body.cancelled", "c0.0")
    own = plan_of(Call(ordinal=0, body=Body(steps=(Step(op="raise", text="cancelled"),))))
    assert not found("only_the_family_is_touched", script, own)


def test_c4_a_cancel_of_another_task_is_no_reason_and_one_of_an_ancestor_is() -> None:
    script, _ = running()
    made(script, "c0.1").add("c0#0", "call.cancelled", "c0.1").add("w0#0", "body.cancelled", "c0.0")
    assert found("only_the_family_is_touched", script)
    script, _ = running()
    script.add("c0#0", "call.cancelled", "c0.0").add("w1#0", "body.cancelled", "c0.0.2")
    assert not found("only_the_family_is_touched", script)
