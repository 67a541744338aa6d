"""S: each invariant holds in a history that is right, and is broken by one that is wrong."""

from __future__ import annotations

from support.simulated import (
    Script,
    all_found,
    began,
    body_ended,
    cluster,
    ended,
    found,
    made,
    offered,
    one_call,
    plan_of,
    started,
)
from wool.sim.bodies import Body, Step
from wool.sim.plan import Call


def test_nothing_is_found_in_a_run_in_which_nothing_goes_wrong() -> None:
    script = cluster("w0#0", "w1#0")
    one_call(script, "c0.0", "w0#0", 1)
    one_call(script, "c0.1", "w1#0", 1)
    assert all_found(script.done(), plan_of(Call(ordinal=0), Call(ordinal=1))) == []


def test_s1_a_body_that_begins_on_two_workers_is_found() -> None:
    script = cluster("w0#0", "w1#0")
    one_call(script)
    began(script, "c0.0", "w1#0")
    (violation,) = found("begins_at_most_once", script.done())
    assert violation.invariant == "S1"
    assert "began 2 times" in violation.sentence
    assert len(violation.events) == 2


def test_s2_start_said_twice_is_found() -> None:
    script = cluster("w0#0", "w1#0")
    attempt = offered(made(script))
    started(script, attempt)
    script.wire(attempt, "start", lost=True)
    (violation,) = found("start_is_said_once", script)
    assert "w0#0" in violation.sentence
    assert violation.task == "c0.0", "a frame that names no task is its offer's"


def test_s2_a_begin_before_start_is_found() -> None:
    script = cluster("w0#0")
    attempt = offered(made(script))
    script.wire(attempt, "accept", "c0.0")
    began(script)
    script.wire(attempt, "start", "c0.0")
    assert found("begins_after_start", script)


def test_s2_a_begin_on_another_worker_than_the_started_one_is_found() -> None:
    script = cluster("w0#0", "w1#0")
    started(script, offered(made(script)))
    began(script, worker="w1#0")
    assert found("begins_after_start", script)


def test_s3_an_offer_after_start_is_found() -> None:
    script = cluster("w0#0", "w1#0")
    started(script, offered(made(script)))
    offered(script, worker="w1#0")
    (violation,) = found("offers_follow_ended_ones", script)
    assert "after start" in violation.sentence


def test_s3_an_offer_while_another_is_open_is_found() -> None:
    script = cluster("w0#0", "w1#0")
    offered(made(script))
    offered(script, worker="w1#0")
    (violation,) = found("offers_follow_ended_ones", script)
    assert "while it was open" in violation.sentence


def test_s3_an_offer_after_a_reject_a_withdrawal_or_a_loss_is_right() -> None:
    for how in ("reject", "withdraw", "lost"):
        script = cluster("w0#0", "w1#0")
        attempt = offered(made(script))
        if how == "lost":
            script.add("c0#0", "wire.lost", "", attempt.partition(":")[0], reason="reset")
        else:
            script.wire(attempt, how, "c0.0", code="draining")
        started(script, offered(script, worker="w1#0"))
        assert not found("offers_follow_ended_ones", script), how


def test_s3_a_task_that_somebody_else_offers_is_found() -> None:
    script = cluster("w0#0", "w1#0")
    made(script)
    script.wire("w1#0>w0#0/0:1", "offer", "c0.0")
    assert found("attempts_are_their_callers", script)


def test_s3_an_offer_that_is_never_settled_is_found() -> None:
    script = cluster("w0#0")
    attempt = offered(made(script))
    ended(script, "timeout", executed="no")
    assert not found("offers_are_settled", script), "the run is cut off"
    assert found("offers_are_settled", script.done(at=20.0))
    for how in ("withdraw", "reject"):
        script = cluster("w0#0")
        script.wire(offered(made(script)), how, "c0.0", code="draining")
        ended(script, "timeout", executed="no")
        assert not found("offers_are_settled", script.done(at=20.0))
    assert attempt


def test_s4_a_value_of_another_execution_is_found() -> None:
    script = cluster("w0#0")
    started(script, offered(made(script)))
    began(script)
    body_ended(script, value=1)
    ended(script, "value", executed="yes", value=1, begun_by="w0#0/77")
    assert found("value_is_this_executions", script)


def test_s4_a_value_that_the_body_has_not_returned_is_found() -> None:
    script = cluster("w0#0")
    started(script, offered(made(script)))
    execution = began(script)
    body_ended(script, value=1)
    ended(script, "value", executed="yes", value=2, begun_by=execution)
    assert found("value_is_this_executions", script)


def test_s4_never_ran_that_runs_later_is_found() -> None:
    script = cluster("w0#0")
    attempt = offered(made(script))
    ended(script, "timeout", executed="no")
    started(script, attempt)
    began(script)
    (violation,) = found("never_ran_is_never_run", script)
    assert "timeout" in violation.sentence


def test_s4_an_outcome_that_says_it_ran_when_it_did_not_is_found() -> None:
    script = cluster("w0#0")
    started(script, offered(made(script)))
    ended(script, "interrupted", executed="yes")
    assert found("ran_is_run", script)


def test_s4_interrupted_while_the_body_goes_on_is_found() -> None:
    script = cluster("w0#0")
    started(script, offered(made(script)))
    began(script)
    ended(script, "interrupted", executed="yes")
    assert found("ran_is_run", script)
    body_ended(script)
    assert found("ran_is_run", script), "later is too late"


def test_s4_worker_lost_before_start_is_found() -> None:
    script = cluster("w0#0")
    offered(made(script))
    ended(script, "lost", executed="unknown")
    assert found("lost_was_started", script)


def test_s5_two_outcomes_are_found() -> None:
    script = one_call(cluster("w0#0"))
    ended(script, "lost", executed="unknown")
    assert found("one_outcome", script)


def test_s5_no_outcome_is_found_only_if_the_caller_lives_and_the_run_came_to_its_end() -> None:
    script = made(cluster("w0#0"))
    assert not found("one_outcome", script)
    assert found("one_outcome", script.done())
    script = made(cluster("w0#0")).add("c0#0", "node.crashed", reason="killed").done()
    assert not found("one_outcome", script)


INNER = Body(steps=(Step(op="return", number=1),))
OUTER = plan_of(Call(ordinal=0, body=Body(steps=(Step(op="call", number=1, body=INNER), Step(op="return")))))


def nested(*, start: bool = True) -> Script:
    """A body on w0 has made a call, which w1 has begun."""
    script = cluster("w0#0", "w1#0")
    started(script, offered(made(script)))
    began(script)
    script.known("w0#0", "w1#0").opened("w0#0>w1#0/0")
    attempt = offered(made(script, "c0.0.1", "w0#0"), "c0.0.1", "w1#0", caller="w0#0")
    if start:
        started(script, attempt, "c0.0.1")
        began(script, "c0.0.1", "w1#0")
    return script


def left(script: Script) -> Script:
    """The workers end as they do in every run, after its caller."""
    script.add("c0#0", "node.exited", reason="")
    return script.add("w0#0", "node.exited", reason="").add("w1#0", "node.exited", reason="").done()


def test_s5_a_nested_call_without_outcome_is_found_when_the_body_that_made_it_has_ended() -> None:
    script = nested()
    body_ended(script, "c0.0.1", "w1#0", value=1)
    body_ended(script)
    (violation,) = found("one_outcome", left(ended(script, "value", executed="yes", value=0)), OUTER)
    assert violation.task == "c0.0.1"
    script = nested()
    ended(script, "value", "c0.0.1", "w0#0", executed="yes", value=1)
    body_ended(script)
    assert not found("one_outcome", left(ended(script, "value", executed="yes", value=0)), OUTER)


def test_s5_a_nested_call_without_outcome_is_found_when_its_worker_lives_long_after_the_healing() -> None:
    def closed(script: Script, at: float) -> Script:
        ended(script, "cancelled").add("", "phase.healed", at=2.0, all=True)
        return left(script.add("c0#0", "pool.closing", at=at))

    (violation,) = found("one_outcome", closed(nested(), 8.0), OUTER)
    assert violation.task == "c0.0.1"
    assert not found("one_outcome", closed(nested(), 3.0), OUTER), "it may still be on its way"
    assert not found("one_outcome", closed(nested(start=False), 5.0), OUTER), "it may look for a worker so long"
    script = nested().add("w0#0", "node.crashed", reason="killed")
    assert not found("one_outcome", closed(script, 8.0), OUTER)


def test_s3_an_offer_of_a_nested_call_that_is_never_settled_is_found() -> None:
    def over(script: Script, at: float) -> Script:
        ended(script, "timeout", "c0.0.1", "w0#0", executed="no")
        return script.add("w0#0", "node.exited", at=at, reason="").done()

    (violation,) = found("offers_are_settled", over(nested(start=False), 20.0), OUTER)
    assert violation.task == "c0.0.1"
    assert not found("offers_are_settled", over(nested(start=False), 0.5), OUTER), "its sessions have ended with it"
    assert not found("offers_are_settled", over(nested(), 20.0), OUTER)


def test_s6_an_identity_that_crosses_is_found() -> None:
    assert found("no_identity_crosses", cluster("w0#0").add("w0#0", "identity.crossed", what="a list"))


def test_s7_a_task_frame_before_the_handshake_is_found() -> None:
    script = cluster("w0#0")
    made(script)
    script.wire("c0#0>w0#0/1:1", "offer", "c0.0")
    assert found("nothing_before_the_handshake", script)
    script = cluster("w0#0")
    offered(made(script))
    assert not found("nothing_before_the_handshake", script)


def test_s7_a_session_that_ends_for_a_broken_protocol_is_found() -> None:
    def lost(reason: str) -> Script:
        return cluster("w0#0").add("w0#0", "wire.lost", "", "c0#0>w0#0/0", reason=reason)

    assert found("nobody_breaks_the_protocol", lost("protocol error: start of 7, which nobody offered"))
    assert not found("nobody_breaks_the_protocol", lost("the peer was silent for 1 s"))
