"""V: context variables, judged over histories made by hand, and read by bodies and callers of a run."""

from __future__ import annotations

import pytest

from support.simulated import Script, began, body_ended, cluster, ended, found, made, plan_of
from wool.sim.bodies import Body, Step
from wool.sim.plan import Call
from wool.sim.run import run


def life(begin: str = "for c0.0", end: str = "by c0.0", back: str = "by c0.0", how: str = "returned") -> Script:
    script = made(cluster("w0#0"))
    began(script)
    script.add("w0#0", "variable.read", "c0.0", where="begin", value=begin)
    body_ended(script, how=how)
    script.add("w0#0", "variable.read", "c0.0", where="end", value=end)
    script.add("c0#0", "variable.back", "c0.0", value=back)
    return ended(script, "value")


NAMES = ("a_body_reads_what_its_caller_set", "a_body_reads_what_it_set", "a_caller_reads_what_the_body_set")


@pytest.mark.parametrize(
    ("place", "script"), [(0, life(begin="by c0.1")), (1, life(end="by c0.1")), (2, life(back="for c0.0"))]
)
def test_v_what_is_read_and_was_set_elsewhere_is_found(place: int, script: Script) -> None:
    assert [bool(found(name, script)) for name in NAMES] == [index == place for index in range(3)]


def test_v_what_is_as_it_would_be_locally_is_right() -> None:
    for script in (life(), life(end="", how="closed"), ended(life(), "cancelled")):
        assert not any(found(name, script) for name in NAMES)


def test_v_bodies_and_callers_of_a_plan_read_what_each_other_set() -> None:
    inner = Body(generator=True, steps=(Step(op="yield", number=1), Step(op="yield", number=2)))
    outer = Body(steps=(Step(op="call", number=1, body=inner), Step(op="return", number=3)))
    history = run(plan_of(Call(ordinal=0, at=0.3, body=outer), variables=True))
    assert [
        (event.task, event.get("where", "back"), event.get("value"))
        for event in history.of("variable.read", "variable.back")
        if event.task.startswith("c")
    ] == [
        ("c0.0", "begin", "for c0.0"),
        ("c0.0.1", "begin", "for c0.0.1"),
        ("c0.0.1", "end", "by c0.0.1"),
        ("c0.0.1", "back", "by c0.0.1"),
        ("c0.0", "end", "by c0.0"),
        ("c0.0", "back", "by c0.0"),
    ]
    assert not run(plan_of(Call(ordinal=0, at=0.3, body=outer))).of("variable.read", "variable.back")
