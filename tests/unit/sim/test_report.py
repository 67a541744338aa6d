"""What a person reads of a failure."""

from __future__ import annotations

from support.simulated import (
    Script,
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
from wool.sim.diagram import Gap, Row, as_text, diagram_of
from wool.sim.kinds import Fault
from wool.sim.plan import Call, Plan
from wool.sim.report import Failure, report

PLAN = Plan(
    calls=(Call(ordinal=0, at=0.3),),
    faults=(
        Fault(kind="reset", target="c0>w0", frame="accept", when="before"),
        Fault(kind="crash", target="w1", at=0.5),
    ),
)


def twice() -> Script:
    """The classic: the accept is late, another worker is tried, and both begin."""
    script = cluster("w0#0", "w1#0", "w2#0")
    one_call(script, "c0.9", "w2#0")
    attempt = offered(made(script))
    script.wire(attempt, "accept", "c0.0", lost=True)
    script.wire(attempt, "start", "c0.0")
    began(script)
    started(script, offered(script, worker="w1#0"))
    script.add("w1#0", "node.paused").add("w1#0", "node.resumed")
    began(script, worker="w1#0")
    script.add("w0#0", "node.crashed", reason="killed")
    for number in range(10):
        one_call(script, f"c0.{20 + number}", "w2#0", 2 + number)
    body_ended(script, worker="w1#0")
    ended(script, "value", executed="yes", value=0)
    return script.done()


def failure() -> Failure:
    script = twice()
    violations = found("begins_at_most_once", script)
    return Failure(
        plan=PLAN,
        history=script.history,
        violations=tuple(violations),
        necessary=(0,),
        file="tests/sim/corpus/x.json",
        found="in volume mode",
    )


def test_a_report_has_the_sentence_the_plan_the_faults_and_the_command() -> None:
    text = report(failure())
    assert "S1 is broken, task c0.0: the body of c0.0 began 2 times" in text
    assert "c0.0: at 300 ms, c0 calls a coroutine" in text
    assert "Fault 0: the stream over c0>w0 is reset just before accept 0." in text
    assert "Necessary: fault 0 (" in text
    assert "nox -s sim -- --replay tests/sim/corpus/x.json" in text
    assert max(len(line) for line in text.splitlines()) <= 120


def test_a_diagram_shows_the_task_s_lanes_and_leaves_out_what_is_not_its() -> None:
    diagram = diagram_of(twice().history, PLAN, "c0.0")
    assert diagram.lanes == ("c0#0", "w0#0", "w1#0")
    assert diagram.left_out == ("w2#0",)
    assert any(isinstance(row, Gap) and row.events > 50 for row in diagram.rows)
    assert not any("c0.2" in row.words for row in diagram.rows if isinstance(row, Row))


def test_frames_are_arrows_and_a_lost_one_does_not_arrive() -> None:
    text = as_text(diagram_of(twice().history, PLAN, "c0.0"))
    lines = text.splitlines()
    (lost,) = [line for line in lines if " accept " in line and "✗" in line]
    assert "◀" not in lost
    starts = [line for line in lines if " start " in line]
    assert len(starts) == 2 and all("▶" in line for line in starts)


def test_crashes_pauses_and_what_breaks_the_invariant_are_marked() -> None:
    diagram = failure().diagram()
    text = as_text(diagram)
    assert "✗ crashed" in text and "▒ paused" in text
    assert [line for line in text.splitlines() if "BEGINS ◀" in line]
    lines = text.splitlines()
    after = lines[next(number for number, line in enumerate(lines) if "✗ crashed" in line) + 1 :]
    column = lines[0].index("w0#0") + 2
    assert all(len(line) <= column or line[column] not in "│┊" for line in after if "───" not in line)


def test_many_lanes_are_cut_to_those_that_matter() -> None:
    script = cluster(*(f"w{number}#0" for number in range(9)))
    for number in range(9):
        one_call(script, f"c0.{number}", f"w{number}#0")
    diagram = diagram_of(script.history, plan_of(), "c0.3")
    assert diagram.lanes == ("c0#0", "w3#0")
    assert all(len(line) <= 118 for line in as_text(diagram).splitlines())


def test_a_run_that_did_not_end_is_told_with_where_everything_waits() -> None:
    script = twice()
    words = "nothing is ready at 1 s\n  c0#0.user: main: driver.py:10 in main\n  w0#0.io: reader: session.py:5 in read"
    script.history.add(9.0, "", "run.ended", "", "", (("how", "deadlock"), ("words", words)))
    violations = found("the_run_ends", script)
    told = report(Failure(plan=PLAN, history=script.history, violations=tuple(violations))).splitlines()
    at = told.index("Where everything waits:")
    assert told[at + 2 : at + 5] == words.splitlines()
    assert "Where everything waits:" not in report(failure())


def test_a_violation_of_no_task_shows_its_events() -> None:
    script = cluster("w0#0").add("c0#0", "view.added", worker="w0#0")
    violations = found("events_follow_the_grammar", script)
    text = report(Failure(plan=Plan(), history=script.history, violations=tuple(violations)))
    assert "sees w0#0 ◀" in text
    assert "It takes no fault at all." in text
