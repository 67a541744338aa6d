"""How long an unanswered offer is waited for, seen over minutes of virtual time."""

from __future__ import annotations

from support.plans import begun, outcome, plan, played, returns
from wool.sim.plan import Call, Knobs

FAR = Knobs(latency=0.3, patience=0.2, handshake=5.0, dispatch_timeout=20.0, ping_timeout=5.0, quiet=0.5)


def test_a_call_does_not_go_round_for_ever_among_workers_that_all_answer_too_late_for_its_patience() -> None:
    history = played(plan(workers=3, knobs=FAR, calls=(Call(ordinal=0, at=3.0, body=returns(7)),)))
    assert outcome(history, "c0.0") == "value"
    assert len(begun(history, "c0.0")) == 1
    offers = [event for event in history.of("wire.said") if event.task == "c0.0" and event.get("frame") == "offer"]
    assert len(offers) <= 3 * 3, "twice as patient with each round: three rounds suffice"
