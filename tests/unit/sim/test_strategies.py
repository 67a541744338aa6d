"""Plans from Hypothesis and from plain random numbers: the same shapes, quickly, the simplest first."""

from __future__ import annotations

import time
from dataclasses import replace

from hypothesis import HealthCheck, Phase, find, given, settings
from hypothesis import strategies as st

from wool.sim.campaign import counts
from wool.sim.kinds import FAULTS
from wool.sim.plan import Plan
from wool.sim.shapes import CALLS, FOUND, PACES, SHAPES, SLOW_DRAW_SECONDS, TASKS, body, decode
from wool.sim.strategies import plans, random_plan


def test_a_seed_is_a_plan() -> None:
    assert random_plan(7) == random_plan(7)
    assert random_plan(7) != random_plan(8)


def test_nearly_all_plans_of_the_volume_mode_are_scenarios() -> None:
    assert sum(counts(random_plan(seed)) for seed in range(100)) > 80


def test_nearly_all_plans_of_hypothesis_are_scenarios() -> None:
    drawn: list[bool] = []

    @settings(max_examples=100, database=None, deadline=None, suppress_health_check=list(HealthCheck))
    @given(plans())
    def draw(plan: Plan) -> None:
        drawn.append(counts(plan))

    draw()
    # It begins with the simplest ones, and comes back to them.
    assert sum(drawn) > 75


def test_a_plan_has_no_more_calls_than_make_a_scenario() -> None:
    for seed in range(100):
        plan = random_plan(seed)
        assert len(plan.tasks()) >= TASKS
        assert len(replace(plan, calls=plan.calls[:-1]).tasks()) < TASKS


def test_a_simple_call_that_is_left_out_lets_no_other_in() -> None:
    simple = [1] * (CALLS + 1)
    whole = decode(0, 0, 0, simple, [], []).calls
    assert [call.ordinal for call in whole] == list(range(TASKS))
    assert decode(0, 0, 0, [1, 0, *simple[2:]], [], []).calls == (whole[0], *whole[2:])


def test_every_kind_of_fault_and_every_shape_of_body_is_drawn() -> None:
    some = [random_plan(seed) for seed in range(1500)]
    assert {fault.kind for plan in some for fault in plan.faults} == set(FAULTS)
    drawn = {call.body for plan in some for call in plan.calls}
    for index, (name, _) in enumerate(SHAPES):
        assert any(body(index, wait, number) in drawn for wait in range(5) for number in range(6)), name


def test_every_way_in_which_workers_are_found_is_drawn() -> None:
    drawn = [random_plan(seed).topology for seed in range(3000)]
    for wanted in FOUND:
        assert any(all(getattr(one, name) == value for name, value in wanted.items()) for one in drawn), wanted


def test_some_plans_have_minutes_for_what_others_do_in_a_second() -> None:
    lasts = [max(call.at for call in random_plan(seed).calls) for seed in range(300)]
    for pace, _ in PACES:
        assert any(pace < last < 2 * pace for last in lasts), pace
    for seed in range(300):
        plan = random_plan(seed)
        # What discovery has to say is known before anybody looks whether it is: see `D`.
        assert plan.knobs.quiet >= 2 * plan.knobs.lease + 4 * plan.knobs.poll + 0.5
        for call in plan.calls:
            assert call.cancel_at is None or 0 <= call.cancel_at - call.at <= 0.1


def test_numbers_that_are_zero_are_items_that_are_not_there() -> None:
    assert decode(0, 0, 0, [0] * CALLS, [0], [0]) == Plan()
    plan = decode(0, 0, 0, [0, 5, 0, 9], [], [])
    assert [call.ordinal for call in plan.calls] == [1, 3]
    assert plan.calls[1] == decode(0, 0, 0, [0, 0, 0, 9], [], []).calls[0], "another's absence renames nothing"


@settings(max_examples=50, suppress_health_check=[HealthCheck.too_slow])
@given(plans())
def test_every_plan_of_hypothesis_is_one(plan: Plan) -> None:
    assert len(plan.calls) <= CALLS


def test_the_simplest_plan_is_the_empty_one() -> None:
    simplest = find(plans(), lambda plan: True, settings=settings(database=None))
    assert simplest == Plan()


def test_hypothesis_leaves_out_what_does_not_matter() -> None:
    small = find(
        plans(),
        lambda plan: any(call.cancel_at is not None for call in plan.calls),
        settings=settings(database=None, max_examples=2000, deadline=None),
    )
    assert not small.faults and not small.stalls and not small.noise.amplitude
    assert len(small.calls) < CALLS // 2


def test_a_plan_is_drawn_in_a_few_milliseconds() -> None:
    drawn: list[float] = []

    @settings(max_examples=60, database=None, phases=[Phase.generate], suppress_health_check=list(HealthCheck))
    @given(st.data())
    def draw(data: st.DataObject) -> None:
        # Not the time of day: others use the machine, too.
        begun = time.process_time()
        data.draw(plans())
        drawn.append(time.process_time() - begun)

    draw()
    assert sorted(drawn)[len(drawn) // 2] < SLOW_DRAW_SECONDS
