"""Every planted bug is caught by its stored plan, which passes without it; and every invariant catches one."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from sim.mutants.__main__ import PLANS, replay
from sim.mutants.catalogue import MUTANTS
from sim.mutants.mutant import DETERMINISM
from wool.sim.invariants.table import INVARIANTS
from wool.sim.plan import Plan

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
@pytest.mark.parametrize("name", [name for name, mutant in MUTANTS.items() if mutant.fault or mutant.way])
def test_a_bug_of_one_fault_in_one_discovery_is_caught_by_that_fault_there(name: str, tmp_path: Path) -> None:
    mutant = MUTANTS[name]
    plan = Plan.from_json(json.loads((PLANS / f"{name}.json").read_text()))
    assert mutant.fits(plan)
    if mutant.fault:
        (spared := tmp_path / f"{name}.json").write_text(json.dumps(mutant.without_fault(plan).to_json()))
        assert mutant.caught_by not in replay(name, spared)[name]


BEYOND: dict[str, dict[str, str]] = {
    "stale time to live": {"lan": "lost-goodbye", "dns": "answer-stale", "static": "answer-stale"},
    "flap": {"lan": "hello-flap", "dns": "zone-flap", "static": "zone-flap"},
    "split view": {"lan": "segment-split", "dns": "answer-split", "static": "answer-split"},
    "rolling restart": dict.fromkeys(("lan", "dns", "static"), "rolling-restart"),
}
"""What each fault of finding workers is, in each discovery beyond one machine."""


@pytest.mark.parametrize("way", ["lan", "dns", "static"])
@pytest.mark.parametrize("what", BEYOND)
def test_each_fault_of_finding_has_a_planted_bug_in_each_discovery(what: str, way: str) -> None:
    assert any((mutant.way, mutant.fault) == (way, BEYOND[what][way]) for mutant in MUTANTS.values())


def test_a_bug_that_only_what_stays_shows_is_not_caught_where_all_is_healed(tmp_path: Path) -> None:
    name = "patience-without-end"
    plan = Plan.from_json(json.loads((PLANS / f"{name}.json").read_text()))
    assert plan.staying
    healed = replace(plan, faults=tuple(replace(fault, stays=False, seconds=1.0) for fault in plan.faults))
    (file := tmp_path / f"{name}.json").write_text(json.dumps(healed.to_json()))
    assert replay(name, file)[name] == {}


@pytest.mark.parametrize("name", ["cancel-is-swallowed", "orphan-is-not-cancelled"])
def test_a_bug_of_cancellation_is_caught_where_workers_have_places_too(name: str, tmp_path: Path) -> None:
    plan = Plan.from_json(json.loads((PLANS / f"{name}.json").read_text()))
    (placed := tmp_path / f"{name}.json").write_text(
        json.dumps(replace(plan, knobs=replace(plan.knobs, places=1)).to_json())
    )
    assert MUTANTS[name].caught_by in replay(name, placed)[name]
    assert replay("-", placed)[name] == {}


@pytest.mark.timeout(ALL_SECONDS)
@pytest.mark.parametrize("name", MUTANTS)
def test_a_stored_plan_passes_without_the_bug(name: str, clean: dict[str, dict[str, str]]) -> None:
    assert clean[name] == {}
