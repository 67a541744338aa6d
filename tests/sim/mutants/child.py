"""What a fresh interpreter does with one mutant: replay a plan, or search for one. It answers in lines of JSON.

``python -m sim.mutants.child NAME replay FILE… | search SEED PLANS [keep] | digests``; NAME is ``-`` for the
code as it is. Nothing of wool is imported before the mutant is planted.
"""

from __future__ import annotations

import gc
import itertools
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sim.mutants.catalogue import MUTANTS
from sim.mutants.mutant import DETERMINISM, Mutant, plant

if TYPE_CHECKING:
    from wool.sim.plan import Plan

COLLECT_EVERY = 25
TELL_SECONDS = 1.0
SHRINK_RUNS = 1500
SHRINK_SECONDS = 30.0
OTHER_HASH_SEED = "4242"
TESTS = Path(__file__).resolve().parents[2]

Broken = dict[str, str]
"""What a run has broken: a sentence, by the name of the invariant."""


def main(arguments: list[str]) -> None:
    """Do what the arguments say."""
    name, command, *rest = arguments
    mutant = None if name == "-" else MUTANTS[name]
    if mutant is not None:
        plant(mutant)
    # What a stubborn body makes of its end, when a world is dismantled, is nobody's business.
    sys.unraisablehook = lambda unraisable: None
    if command == "digests":
        for line in sys.stdin:
            _tell(digest=_digest(_plan_of(json.loads(line))))
        return
    look = _differences(name) if mutant is not None and mutant.caught_by == DETERMINISM else broken_by
    if command == "replay":
        for file in rest:
            _tell(file=file, broken=look(_read(Path(file))))
    elif mutant is not None:
        _search(int(rest[0]), int(rest[1]), look, mutant, mutant.caught_by if "keep" in rest or mutant.fault else "")


def _tell(**record: Any) -> None:
    print(json.dumps(record), flush=True)


def _plan_of(value: Any) -> Plan:
    from wool.sim.plan import Plan

    return Plan.from_json(value)


def _read(file: Path) -> Plan:
    return _plan_of(json.loads(file.read_text()))


# ---- what is broken ---------------------------------------------------------------------------------


def broken_by(plan: Plan) -> Broken:
    """Run a plan and return what it breaks, the most basic first."""
    from wool.sim.invariants.story import Story
    from wool.sim.invariants.table import INVARIANTS
    from wool.sim.run import execute

    try:
        history = execute(plan).history
    except Exception as error:
        return {"simulator": f"the run failed: {type(error).__name__}: {error}"}
    story = Story(history, plan)
    broken: Broken = {}
    for name, invariant in INVARIANTS.items():
        for violation in invariant(story):
            broken.setdefault(name, violation.sentence)
    return broken


def _digest(plan: Plan) -> str:
    from wool.sim.run import execute

    return execute(plan).history.digest()


RUNS_AGAIN = 8
"""What follows from a clock or from chance is now and then the same twice, where there is little to choose from."""


def _differences(name: str) -> Callable[[Plan], Broken]:
    """Return what compares two runs here, and one in another interpreter with another order of sets."""
    other = subprocess.Popen(
        [sys.executable, "-m", "sim.mutants.child", name, "digests"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=TESTS,
        env={**os.environ, "PYTHONHASHSEED": OTHER_HASH_SEED},
    )

    def look(plan: Plan) -> Broken:
        assert other.stdin is not None and other.stdout is not None
        print(json.dumps(plan.to_json()), file=other.stdin, flush=True)
        mine = _digest(plan)
        differ = any(_digest(plan) != mine for _ in range(RUNS_AGAIN))
        theirs = json.loads(other.stdout.readline())["digest"]
        if differ:
            return {DETERMINISM: "two runs in one interpreter differ"}
        if mine != theirs:
            return {DETERMINISM: f"the run differs with PYTHONHASHSEED={OTHER_HASH_SEED}"}
        return {}

    return look


def _clean(plan: Plan) -> Broken:
    """Return what a plan breaks in the code as it is."""
    with tempfile.TemporaryDirectory(prefix="wool-mutant-") as place:
        file = Path(place) / "plan.json"
        file.write_text(json.dumps(plan.to_json()))
        command = [sys.executable, "-m", "sim.mutants.child", "-", "replay", str(file)]
        answer = subprocess.run(command, stdout=subprocess.PIPE, text=True, cwd=TESTS, check=True)
    broken: Broken = json.loads(answer.stdout)["broken"]
    return broken


# ---- the search -------------------------------------------------------------------------------------


def _search(seed: int, most: int, look: Callable[[Plan], Broken], mutant: Mutant, wanted: str) -> None:
    """Try plans until one breaks something (``wanted``, if that is said), and make it small."""
    from wool.sim.shrink import shrink
    from wool.sim.strategies import random_plan

    gc.collect()
    gc.freeze()
    gc.disable()
    begun = told = time.perf_counter()
    others: dict[str, int] = {}
    fitting = (plan for number in itertools.count() if mutant.fits(plan := random_plan((seed << 24) + number)))
    for number, plan in enumerate(itertools.islice(fitting, most)):
        broken = look(plan)
        if mutant.fault and wanted in broken and wanted in look(mutant.without_fault(plan)):
            broken = {f"{wanted} (without {mutant.fault}, too)": ""}
        if wanted in broken or (broken and not wanted):
            known = _clean(plan).keys() & broken.keys()
            if not known:
                break
            broken = {f"{name} (WITHOUT the bug, by plan {number} of seed {seed})": "" for name in known}
        for name in broken:
            others[name] = others.get(name, 0) + 1
        if number % COLLECT_EVERY == 0:
            gc.collect()
        if time.perf_counter() - told > TELL_SECONDS:
            told = time.perf_counter()
            _tell(plans=number + 1)
    else:
        _tell(found=False, plans=most, seconds=time.perf_counter() - begun, others=others)
        return
    name = wanted or next(iter(broken))
    found = time.perf_counter()

    def shows(candidate: Plan) -> bool:
        if not mutant.fits(candidate) or name not in look(candidate):
            return False
        return not mutant.fault or name not in look(mutant.without_fault(candidate))

    small = shrink(
        plan,
        shows,
        most_runs=SHRINK_RUNS,
        until=lambda: time.perf_counter() > found + SHRINK_SECONDS,
    )
    _tell(
        found=True,
        plans=number + 1,
        seconds=found - begun,
        invariant=name,
        sentence=look(small.plan).get(name, broken[name]),
        all=list(broken),
        plan=small.plan.to_json(),
        size=[
            len(small.plan.calls),
            len(small.plan.faults),
            len(small.plan.stalls),
            int(bool(small.plan.noise.amplitude)),
        ],
        shrink_seconds=time.perf_counter() - found,
        shrink_runs=small.runs,
    )


if __name__ == "__main__":
    main(sys.argv[1:])
