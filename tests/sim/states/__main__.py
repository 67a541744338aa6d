"""Searches a small plan for each state of `wool.sim.coverage` that has none, and stores it.

In ``tests``: ``python -m sim.states [--seed N] [--plans N] [--only STATE …]``. Ends with 1 if one is not found. The
everyday tests see that each stored plan still reaches its state: a state that cannot be reached any more fails.
"""

from __future__ import annotations

import argparse
import gc
import re
import sys
import time
from collections.abc import Iterable
from pathlib import Path

from wool.sim.campaign import keep_plan, run_and_judge
from wool.sim.coverage import STATES, Facts
from wool.sim.plan import Plan
from wool.sim.shrink import shrink
from wool.sim.strategies import random_plan

PLANS = Path(__file__).resolve().parent / "plans"
MOST_PLANS = 20_000
SHRINK_RUNS = 300
SHRINK_SECONDS = 20.0


def file_of(label: str) -> Path:
    """Return where the plan of a state is stored."""
    return PLANS / f"{re.sub(r'[^a-z0-9]+', '-', label.lower())}.json"


def reached(plan: Plan, labels: Iterable[str]) -> list[str]:
    """Run a plan; return which of the states it reaches, none if it breaks a promise."""
    verdict = run_and_judge(plan)
    gc.collect(0)
    facts = Facts(verdict.story)
    return [] if verdict.violations else [label for label in labels if STATES[label](facts)]


def small(plan: Plan, label: str) -> Plan:
    """Return what is left of a plan if all is taken away without which it reaches the state, too."""
    until = time.monotonic() + SHRINK_SECONDS
    return shrink(
        plan, lambda other: bool(reached(other, [label])), most_runs=SHRINK_RUNS, until=lambda: time.monotonic() > until
    ).plan


def main() -> int:
    """Do what the command line says; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m sim.states", description=__doc__)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--plans", type=int, default=MOST_PLANS, help="give up after so many")
    parser.add_argument("--only", action="append", choices=STATES, metavar="STATE", help="also if it has a plan")
    options = parser.parse_args()
    wanted = dict.fromkeys(options.only or [label for label in STATES if not file_of(label).exists()])
    # Python says of a body that ignores its close that it does, and of nothing else.
    sys.unraisablehook = lambda _: None
    gc.disable()
    for number in range(options.plans):
        if not wanted:
            break
        plan = random_plan((options.seed << 24) + number)
        for label in reached(plan, tuple(wanted)):
            del wanted[label]
            kept = small(plan, label)
            keep_plan(kept, PLANS, file_of(label).stem)
            print(f"plan {number}: {label}: {len(kept.calls)} calls, {len(kept.faults)} faults", flush=True)
    for label in wanted:
        print(f"not found in {options.plans} plans: {label}")
    return 1 if wanted else 0


if __name__ == "__main__":
    sys.exit(main())
