"""The second stage of shrinking: on the plan, with any test of failure."""

from __future__ import annotations

from wool.sim.bodies import Ask, Body, Step, walk
from wool.sim.kinds import Fault
from wool.sim.plan import Call, Knobs, Noise, Plan, Stall, Topology
from wool.sim.shrink import shrink, simpler_surroundings
from wool.sim.strategies import random_plan

CRASH = Fault(kind="crash", target="w1", at=0.37)


def large() -> Plan:
    return random_plan(3)


def test_what_does_not_matter_is_gone() -> None:
    plan = Plan(
        topology=Topology(workers=5),
        knobs=Knobs(patience=0.05),
        calls=tuple(Call(ordinal=number, at=0.4, size=100, timeout=0.4) for number in range(20)),
        faults=(*(Fault(kind="refuse", target="c0>w0", seconds=1.0),) * 3, CRASH),
        stalls=(Stall(loop="w0#0.io"),),
        noise=Noise(amplitude=0.01),
        seed=9,
    )
    small = shrink(
        plan,
        lambda plan: any(fault.kind == "crash" for fault in plan.faults) and any(c.ordinal == 13 for c in plan.calls),
    )
    assert small.complete
    assert small.plan.calls == (Call(ordinal=13, at=0.3),)
    assert [fault.kind for fault in small.plan.faults] == ["crash"]
    assert small.necessary == (0,)
    assert (small.plan.stalls, small.plan.noise, small.plan.seed) == ((), Noise(), 0)
    assert (small.plan.topology, small.plan.knobs) == (Topology(workers=1), Knobs())


def test_two_faults_of_which_either_is_enough_are_one() -> None:
    plan = Plan(faults=(CRASH, CRASH, CRASH))
    small = shrink(plan, lambda plan: len(plan.faults) >= 1)
    assert len(small.plan.faults) == 1


def test_noise_becomes_a_stall_if_one_does() -> None:
    plan = Plan(calls=(Call(ordinal=0, at=0.3),), noise=Noise(amplitude=0.01))
    small = shrink(plan, lambda plan: bool(plan.noise.amplitude) or any("w1" in s.loop for s in plan.stalls))
    assert not small.plan.noise.amplitude
    assert len(small.plan.stalls) == 1


def test_noise_that_it_takes_stays_but_smaller() -> None:
    small = shrink(Plan(noise=Noise(amplitude=0.01), seed=4), lambda plan: plan.noise.amplitude > 0)
    assert small.plan.noise.amplitude == 0.0005
    assert small.plan.seed == 4, "noise is made of it"


def test_bodies_and_scripts_become_simpler() -> None:
    body = Body(
        generator=True,
        steps=(
            Step(
                op="finally", steps=(Step(op="yield", number=1), Step(op="yield", size=4000)), last=(Step(op="sleep"),)
            ),
            Step(op="call", number=2, body=Body(steps=(Step(op="raise", text="custom"),))),
        ),
    )
    plan = Plan(calls=(Call(ordinal=0, body=body, script=(Ask(op="next"), Ask(op="sleep", seconds=1.0))),))
    small = shrink(plan, lambda plan: any(s.op == "yield" and s.size for c in plan.calls for s in walk(c.body.steps)))
    (call,) = small.plan.calls
    assert call.body == Body(generator=True, steps=(Step(op="yield", size=4000),))
    assert call.script == ()


def test_the_budget_is_kept_and_what_was_gained_stays() -> None:
    runs: list[Plan] = []

    def fails(plan: Plan) -> bool:
        runs.append(plan)
        return bool(plan.faults)

    small = shrink(large(), fails, most_runs=4)
    assert not small.complete
    assert len(runs) <= 4 + len(small.plan.faults)
    assert small.plan.faults
    assert shrink(large(), fails, until=lambda: True).plan == large()


def test_no_plan_is_tried_twice() -> None:
    tried: list[Plan] = []

    def fails(plan: Plan) -> bool:
        assert plan not in tried
        tried.append(plan)
        return len(plan.calls) >= 3

    small = shrink(Plan(calls=large().calls), fails)
    assert len(small.plan.calls) == 3


def test_whatever_a_plan_is_made_of_what_is_simpler_is_a_plan_too() -> None:
    seen = set()
    for seed in range(400):
        plan = random_plan(seed)
        topology = plan.topology
        seen.add((topology.mode, topology.discovery, topology.tls))
        for simpler in simpler_surroundings(plan):
            assert simpler != plan
    assert len(seen) > 8
