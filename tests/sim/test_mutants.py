"""Every planted bug is caught by its stored plan, which passes without it; and every invariant catches one."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

import pytest

from sim.mutants.__main__ import PLANS, replay
from sim.mutants.catalogue import MUTANTS
from sim.mutants.mutant import DETERMINISM
from wool.sim.invariants.table import INVARIANTS

ALL_SECONDS = 300


@pytest.fixture(scope="module")
def replayed() -> Callable[[str], dict[str, str]]:
    """What each mutant's stored plan breaks, in a fresh interpreter each, as many at once as there are cores."""
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        runs: dict[str, Future[dict[str, dict[str, str]]]] = {
            name: pool.submit(replay, name, file) for name in MUTANTS if (file := PLANS / f"{name}.json").exists()
        }
    return lambda name: runs[name].result()[name]


@pytest.fixture(scope="module")
def clean() -> dict[str, dict[str, str]]:
    """What the stored plans break in the code as it is."""
    return replay("-", *sorted(PLANS.glob("*.json")))


@pytest.mark.parametrize("name", MUTANTS)
def test_a_planted_bug_fits_the_code(name: str) -> None:
    for module, source in MUTANTS[name].sources().items():
        compile(source, module, "exec")


def test_every_invariant_is_shown_able_to_fail() -> None:
    assert {mutant.caught_by for mutant in MUTANTS.values()} == {*INVARIANTS, DETERMINISM}


def test_each_has_a_stored_plan_and_each_plan_a_bug() -> None:
    assert {file.stem for file in PLANS.glob("*.json")} == set(MUTANTS)


def test_a_bug_that_does_not_fit_is_named() -> None:
    mutant = next(iter(MUTANTS.values()))
    with pytest.raises(ValueError, match=mutant.name):
        mutant.applied(mutant.edits[0].module, "nothing of it")


@pytest.mark.timeout(ALL_SECONDS)
@pytest.mark.parametrize("name", MUTANTS)
def test_a_stored_plan_catches_its_bug(name: str, replayed: Callable[[str], dict[str, str]]) -> None:
    broken = replayed(name)
    assert MUTANTS[name].caught_by in broken, f"broken: {broken or 'nothing'}"


@pytest.mark.timeout(ALL_SECONDS)
@pytest.mark.parametrize("name", MUTANTS)
def test_a_stored_plan_passes_without_the_bug(name: str, clean: dict[str, dict[str, str]]) -> None:
    assert clean[name] == {}
