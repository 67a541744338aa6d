"""A plan is data: validated, named stably, and JSON both ways."""

from __future__ import annotations

import json
from dataclasses import fields
from typing import Any

import pytest
from hypothesis import given, settings

from wool.limits import Limits
from wool.sim.bodies import Ask, Body, Step, labelled
from wool.sim.kinds import FAULTS, Fault
from wool.sim.plan import Call, Knobs, Plan, Stall, Topology, top_of
from wool.sim.records import RecordError
from wool.sim.strategies import plans, random_plan
from wool.sim.words import tell

NESTED = Body(
    steps=(
        Step(op="call", number=1, body=Body(steps=(Step(op="call", number=2, body=Body()),))),
        Step(op="finally", steps=(Step(op="sleep", seconds=0.1),), last=(Step(op="call", number=7, body=Body()),)),
        Step(op="gather", steps=(Step(op="call", number=3, body=Body(generator=True)),)),
    )
)


@settings(max_examples=50)
@given(plans())
def test_a_plan_comes_back_from_json_as_it_was(plan: Plan) -> None:
    text = json.dumps(plan.to_json())
    assert Plan.from_json(json.loads(text)) == plan
    assert hash(Plan.from_json(json.loads(text))) == hash(plan)


def test_what_has_its_default_is_left_out() -> None:
    assert Plan().to_json() == {}
    assert Plan(calls=(Call(ordinal=3),)).to_json() == {"calls": [{"ordinal": 3}]}


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ([], "plan: expected an object"),
        ({"call": []}, "plan: unknown field 'call'; there are topology"),
        ({"calls": {}}, "plan.calls: expected a list"),
        ({"calls": [{}]}, "plan.calls[0]: field 'ordinal' is missing"),
        ({"calls": [{"ordinal": "1"}]}, "plan.calls[0].ordinal: expected int, got '1'"),
        ({"calls": [{"ordinal": True}]}, "plan.calls[0].ordinal: expected int"),
        ({"calls": [{"ordinal": 1, "at": "now"}]}, "plan.calls[0].at: expected float"),
        ({"calls": [{"ordinal": 1, "body": {"steps": [{"op": "jump"}]}}]}, "plan.calls[0].body.steps[0]: op 'jump'"),
        ({"faults": [{"kind": "reset", "target": "w1"}]}, "plan.faults[0]: a reset strikes a link, not 'w1'"),
        ({"faults": [{"kind": "reset", "target": "c0>w1", "how": "loud"}]}, "plan.faults[0].how: 'loud' is none of"),
        ({"topology": {"mode": "mesh"}}, "plan.topology.mode: 'mesh' is none of"),
        ({"seed": None}, "plan.seed: expected int"),
    ],
)
def test_what_is_wrong_with_json_is_said_with_its_place(value: Any, words: str) -> None:
    with pytest.raises(RecordError) as caught:
        Plan.from_json(value)
    assert words in str(caught.value)


@pytest.mark.parametrize(
    "make",
    [
        lambda: Step(op="sleep", number=1),
        lambda: Step(op="sleep", seconds=-1.0),
        lambda: Step(op="yield", text="odd"),
        lambda: Step(op="raise", text="odd"),
        lambda: Step(op="catch", text="odd"),
        lambda: Step(op="call"),
        lambda: Step(op="gather", steps=(Step(op="sleep"),)),
        lambda: Body(steps=(Step(op="yield"),)),
        lambda: Body(steps=(Step(op="call", number=1, body=Body()), Step(op="call", number=1, body=Body()))),
        lambda: Ask(op="ask"),
        lambda: Ask(op="throw", text="no-workers"),
        lambda: Ask(op="next", number=1),
        lambda: Call(ordinal=-1),
        lambda: Call(ordinal=0, cancels=9),
        lambda: Call(ordinal=123456, body=Body(steps=(Step(op="call", number=123456789, body=Body()),))),
        lambda: Fault(kind="odd", target="w0"),
        lambda: Fault(kind="delay", target="c0>w0"),
        lambda: Fault(kind="crash", target="w0", seconds=1.0),
        lambda: Fault(kind="reset", target="c0>w0", frame="odd"),
        lambda: Fault(kind="pause", target="c0", stays=True),
        lambda: Fault(kind="pause", target="w0", seconds=1.0, stays=True),
        lambda: Fault(kind="crash", target="w0", stays=True),
        lambda: Stall(loop="w0.io"),
        lambda: Topology(workers=0),
        lambda: Topology(callers=2),
        lambda: Knobs(patience=0.0),
        lambda: Plan(calls=(Call(ordinal=1), Call(ordinal=1))),
    ],
)
def test_what_makes_no_sense_is_refused(make: Any) -> None:
    with pytest.raises(ValueError):
        make()


def test_a_label_is_that_of_the_item_and_not_of_its_place() -> None:
    plan = Plan(calls=(Call(ordinal=4), Call(ordinal=9, body=NESTED)))
    assert list(plan.tasks()) == ["c0.4", "c0.9", "c0.9.1", "c0.9.1.2", "c0.9.7", "c0.9.3"]
    assert list(plan.without("calls", 0).tasks()) == ["c0.9", "c0.9.1", "c0.9.1.2", "c0.9.7", "c0.9.3"]
    assert top_of("c0.9.1.2") == "c0.9"
    found = plan.call("c0.9.1.2")
    assert found is not None and found.ordinal == 9
    assert [label for label, _, _ in labelled("x", NESTED)] == ["x", "x.1", "x.1.2", "x.7", "x.3"]


def test_the_knobs_are_limits_that_the_engine_takes() -> None:
    limits = Knobs(patience=0.7, window_tasks=3).limits()
    assert isinstance(limits, Limits)
    assert (limits.patience_seconds, limits.window_tasks) == (0.7, 3)


def test_every_plan_can_be_told_and_every_item_is_in_it() -> None:
    for seed in range(60):
        plan = random_plan(seed)
        lines = tell(plan)
        assert len(lines) >= 1 + len(plan.calls) + len(plan.faults) + len(plan.stalls)
        assert not any("{" in line for line in lines), lines


def test_every_kind_of_fault_is_told_in_words_of_its_own() -> None:
    targets = {"link": "c0>w1", "node": "w1", "worker": "w1", "caller": "c0", "all": "workers"}
    told = set()
    for kind, form in FAULTS.items():
        frame = {"frame": "offer"} if kind == "delay" else {}
        fault = Fault(kind=kind, target=targets[form.target], at=0.5, **frame)  # type: ignore[arg-type]
        (line,) = [line for line in tell(Plan(faults=(fault,))) if line.startswith("Fault 0: ")]
        assert targets[form.target] in line
        told.add(line)
    assert len(told) == len(FAULTS)


def test_each_word_of_a_plan_is_a_field_that_json_has() -> None:
    assert {field.name for field in fields(Plan)} == {
        "topology",
        "knobs",
        "calls",
        "faults",
        "stalls",
        "told",
        "variables",
        "noise",
        "seed",
    }
