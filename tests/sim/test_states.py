"""Every state that a search must reach has a stored plan that reaches it, and breaks nothing."""

from __future__ import annotations

import pytest

from sim.states.__main__ import PLANS, file_of, reached
from wool.sim.campaign import read_plan
from wool.sim.coverage import STATES

# Python says of a body that ignores its close that it does.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


def test_each_state_has_a_stored_plan_and_each_plan_a_state() -> None:
    assert {file.stem for file in PLANS.glob("*.json")} == {file_of(label).stem for label in STATES}


@pytest.mark.parametrize("label", STATES)
def test_a_state_is_reached_by_its_stored_plan(label: str) -> None:
    # One that is not: either nothing can get there any more, or `python -m sim.states --only "…"` finds another way.
    assert reached(read_plan(file_of(label)), [label]) == [label]
