"""Many plans: run, judged, counted; and what is done with the first that fails.

A campaign is made of `work`, which one process does until it is told to stop or finds a failure, and which
tells what it has done by small records. It must never print: `wool.sim.progress` does.

A failing plan is shrunk, run again in this interpreter and in fresh ones with other hash seeds, and reported.
"""

from __future__ import annotations

import gc
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeAlias

from hypothesis import HealthCheck, Phase, given, seed, settings

from wool.sim.bodies import walk
from wool.sim.coverage import Coverage
from wool.sim.history import History, first_difference
from wool.sim.invariants.story import Story, Violation
from wool.sim.invariants.table import judge_story
from wool.sim.plan import Plan
from wool.sim.records import RecordError
from wool.sim.report import Failure
from wool.sim.run import execute
from wool.sim.shrink import necessary_faults, shrink
from wool.sim.strategies import plans, random_plan

Mode: TypeAlias = Literal["hypothesis", "volume"]

TWICE_EVERY = 40
"""Of the plans that pass, every so-manieth runs twice."""
COLLECT_ALL_EVERY = 200
"""Garbage is collected between plans only: before each what the last one has left, while the processor still has it in
its cache; and after so many plans also what has survived that."""
CHUNK = 100
"""Plans of one Hypothesis run; the next gets another seed."""
TELL_SECONDS = 0.5
SHRINK_SECONDS = 30.0
SHRINK_RUNS = 1500
HYPOTHESIS_SHRINK_SECONDS = 10.0
"""Then what it has is shrunk by us."""
SLOW = (HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much, HealthCheck.large_base_example)
"""Checks of Hypothesis that mean nothing where an example is a whole run."""
REPLAYS = 3
HASH_SEEDS = ("1", "4242")
FRESH_SECONDS = 120.0
DETERMINISM = "determinism"
"""The name under which two different histories of one plan are a violation."""


@dataclass(slots=True, kw_only=True)
class Tally:
    """What a process has done; sums of it are what a campaign has done."""

    plans: Counter[str] = field(default_factory=Counter[str])
    """By mode."""
    scenarios: int = 0
    """Plans that count: see `counts`."""
    simulated: float = 0.0
    busy: Counter[str] = field(default_factory=Counter[str])
    """Milliseconds of processor time, by mode."""
    events: int = 0
    steps: int = 0
    faults: Counter[str] = field(default_factory=Counter[str])
    twice: int = 0
    states: Counter[str] = field(default_factory=Counter[str])

    def add(self, other: Tally) -> None:
        """Add another's."""
        for name in ("plans", "busy", "faults", "states"):
            getattr(self, name).update(getattr(other, name))
        for name in ("scenarios", "simulated", "events", "steps", "twice"):
            setattr(self, name, getattr(self, name) + getattr(other, name))


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """A plan that fails, on its way from the process that found it."""

    plan: Plan
    violation: Violation
    how: str
    necessary: tuple[int, ...] = ()
    shrink_runs: int = 0
    shrink_seconds: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """One run, judged."""

    history: History
    violations: list[Violation]
    story: Story
    seconds: float
    steps: int


def run_and_judge(plan: Plan) -> Verdict:
    """Run a plan and ask every invariant."""
    result = execute(plan)
    story = Story(result.history, plan)
    return Verdict(
        history=result.history,
        violations=judge_story(story),
        story=story,
        seconds=result.seconds,
        steps=result.steps,
    )


def counts(plan: Plan) -> bool:
    """Whether a plan is large enough to count as a scenario: three workers, 20 calls of all sorts, a fault.

    A nested call is a call: it is offered, accepted, started and answered as any other.
    """
    if plan.topology.workers < 3 or not plan.faults or len(plan.tasks()) < 20:
        return False
    generators = any(call.body.generator for call in plan.calls)
    coroutines = any(not call.body.generator for call in plan.calls)
    return generators and coroutines and any(step.op == "call" for call in plan.calls for step in walk(call.body.steps))


class Worker:
    """What one process does."""

    def __init__(self, mode: Mode, tell: Callable[[Tally], None], stop: Callable[[], bool]) -> None:
        self._mode = mode
        self._tell = tell
        self._stop = stop
        self._tally = Tally()
        self._coverage = Coverage()
        self._told = time.perf_counter()
        self._since = time.process_time()
        self._number = 0
        self._reported: dict[str, int] = {}

    @property
    def over(self) -> bool:
        """Whether it is told to stop."""
        return self._stop()

    def flush(self) -> None:
        """Tell what has been done since the last time."""
        # Processor time: a machine that does other things too makes nothing slower in it.
        now = time.process_time()
        tally, self._tally = self._tally, Tally()
        tally.busy[self._mode] = round(1000 * (now - self._since))
        self._since, self._told = now, time.perf_counter()
        tally.states.update(self._coverage.counts)
        for label in list(tally.states):
            tally.states[label] -= self._reported.get(label, 0)
        self._reported = dict(self._coverage.counts)
        self._tell(tally)

    def try_plan(self, plan: Plan, how: str) -> Found | None:
        """Run a plan, count it, and return what is wrong with it."""
        self._number += 1
        gc.collect(2 if self._number % COLLECT_ALL_EVERY == 0 else 0)
        verdict = run_and_judge(plan)
        tally = self._tally
        tally.plans[self._mode] += 1
        tally.scenarios += counts(plan)
        tally.simulated += verdict.seconds
        tally.events += len(verdict.history)
        tally.steps += verdict.steps
        tally.faults.update(str(item.event.get("fault")) for item in verdict.story.of("fault.injected"))
        self._coverage.add(verdict.story)
        found: Found | None = None
        if verdict.violations:
            found = Found(plan=plan, violation=verdict.violations[0], how=how)
        elif self._number % TWICE_EVERY == 0:
            tally.twice += 1
            difference = first_difference(verdict.history, execute(plan).history)
            if difference is not None:
                found = Found(plan=plan, violation=diverged(str(difference)), how=how)
        if time.perf_counter() - self._told > TELL_SECONDS:
            self.flush()
        return found


def diverged(where: str) -> Violation:
    """Return the violation that two different runs of one plan are."""
    return Violation(invariant=DETERMINISM, task="", sentence=f"two runs of one plan differ: {where}")


def work(
    mode: Mode, first_seed: int, most_plans: int | None, tell: Callable[[Tally], None], stop: Callable[[], bool]
) -> Found | None:
    """Try plans until ``stop``, or so many, or one fails, which is returned shrunk."""
    worker = Worker(mode, tell, stop)
    hook, sys.unraisablehook = sys.unraisablehook, _unraisable
    gc.collect()
    gc.freeze()
    gc.disable()
    try:
        search = _volume if mode == "volume" else _hypothesis
        found = search(worker, first_seed, most_plans)
        worker.flush()
        return None if found is None else shrunk(found)
    finally:
        gc.enable()
        gc.unfreeze()
        gc.collect()
        sys.unraisablehook = hook


def _unraisable(unraisable: sys.UnraisableHookArgs) -> None:
    """Be quiet about generators that ignore their close and are collected: plans have such bodies."""
    if not isinstance(unraisable.exc_value, RuntimeError):
        sys.__unraisablehook__(unraisable)


def _volume(worker: Worker, first_seed: int, most_plans: int | None) -> Found | None:
    number = 0
    while not worker.over and (most_plans is None or number < most_plans):
        plan_seed = (first_seed << 24) + number
        number += 1
        found = worker.try_plan(random_plan(plan_seed), f"in volume mode (plan {plan_seed})")
        if found is not None:
            return found
    return None


class _Failed(AssertionError):
    pass


class _Attempt:
    """What Hypothesis runs, and the smallest plan with which it failed."""

    def __init__(self, worker: Worker, how: str) -> None:
        self.smallest: Found | None = None
        self._worker = worker
        self._how = how
        self._until = float("inf")

    def check(self) -> Callable[[Plan], None]:
        """Return the function of one argument, new each time, that Hypothesis asks for."""

        def check(plan: Plan) -> None:
            self._try(plan)

        return check

    def _try(self, plan: Plan) -> None:
        if self._worker.over or time.perf_counter() > self._until:
            return
        found = self._worker.try_plan(plan, self._how)
        known = self.smallest
        if found is None or (known is not None and known.violation.invariant != found.violation.invariant):
            return
        if known is None:
            self._until = time.perf_counter() + HYPOTHESIS_SHRINK_SECONDS
        self.smallest = found
        raise _Failed


def _hypothesis(worker: Worker, first_seed: int, most_plans: int | None) -> Found | None:
    """Run Hypothesis, seed after seed. What it has shrunk is taken from here, and not from its report."""
    tried = 0
    chunk = 0
    while not worker.over and (most_plans is None or tried < most_plans):
        size = CHUNK if most_plans is None else min(CHUNK, most_plans - tried)
        attempt = _Attempt(worker, f"by Hypothesis (seed {first_seed}, run {chunk})")
        check = settings(
            max_examples=size,
            database=None,
            deadline=None,
            suppress_health_check=SLOW,
            phases=(Phase.generate, Phase.shrink),
            report_multiple_bugs=False,
            print_blob=False,
        )(seed((first_seed << 16) + chunk)(given(plan=plans())(attempt.check())))
        try:
            check()
        except Exception:
            # Hypothesis's own words for it; with the time for shrinking over, it calls the failure flaky.
            if attempt.smallest is None:
                raise
        if attempt.smallest is not None:
            return attempt.smallest
        tried += size
        chunk += 1
    return None


# ---- one that fails ---------------------------------------------------------------------------------


def fails_alike(violation: Violation) -> Callable[[Plan], bool]:
    """Return a test of plans: does it break the same invariant?"""

    def fails(plan: Plan) -> bool:
        if violation.invariant == DETERMINISM:
            return first_difference(execute(plan).history, execute(plan).history) is not None
        return any(other.invariant == violation.invariant for other in run_and_judge(plan).violations)

    return fails


def shrunk(found: Found) -> Found:
    """Return the failure with the smallest plan that can be found in the time for it."""
    begun = time.perf_counter()
    fails = fails_alike(found.violation)
    small = shrink(found.plan, fails, most_runs=SHRINK_RUNS, until=lambda: time.perf_counter() > begun + SHRINK_SECONDS)
    if found.violation.invariant == DETERMINISM:
        violation = found.violation
    else:
        broken = run_and_judge(small.plan).violations
        violation = next((v for v in broken if v.invariant == found.violation.invariant), found.violation)
    return Found(
        plan=small.plan,
        violation=violation,
        how=found.how,
        necessary=small.necessary,
        shrink_runs=small.runs,
        shrink_seconds=time.perf_counter() - begun,
    )


def failure_of(plan: Plan, *, first: Violation | None = None, **more: Any) -> Failure | None:
    """Run a plan and return its failure, if it is one; ``first`` is told first if it is there again.

    Which faults are necessary is found out, a run for each, unless ``more`` says so.
    """
    verdict = run_and_judge(plan)
    violations = verdict.violations
    if first is not None:
        alike = [violation for violation in violations if violation.invariant == first.invariant]
        others = [violation for violation in violations if violation.invariant != first.invariant]
        violations = [*(alike or [first]), *others]
    if not violations:
        return None
    if "necessary" not in more:
        more["necessary"] = necessary_faults(plan, fails_alike(violations[0]))
    return Failure(plan=plan, history=verdict.history, violations=tuple(violations), **more)


# ---- determinism ------------------------------------------------------------------------------------


def replays(plan: Plan, file: Path) -> Iterator[str]:
    """Run a plan again, here and in fresh interpreters, and yield what differs from the first run, in words."""
    first = execute(plan).history
    for number in range(1, REPLAYS):
        difference = first_difference(first, execute(plan).history)
        if difference is not None:
            yield f"run {number + 1} in one interpreter: {difference}"
            return
    for hash_seed in HASH_SEEDS:
        other = fresh_history(file, hash_seed)
        difference = first_difference(first, other)
        if difference is not None:
            yield f"a fresh interpreter with PYTHONHASHSEED={hash_seed}: {difference}"
            return


def fresh_history(file: Path, hash_seed: str) -> History:
    """Run the plan of a file in a fresh interpreter and return its history."""
    with tempfile.TemporaryDirectory(prefix="wool-sim-") as place:
        written = Path(place) / "history"
        subprocess.run(
            [sys.executable, "-m", "wool.sim", "--history", str(written), "--replay", str(file)],
            env={**os.environ, "PYTHONHASHSEED": hash_seed},
            check=False,
            capture_output=True,
            timeout=FRESH_SECONDS,
        )
        return History.from_lines(written.read_text())


# ---- files ------------------------------------------------------------------------------------------


def read_plan(file: Path) -> Plan:
    """Read a kept plan. Raises `OSError`, or `ValueError` with the place."""
    try:
        return Plan.from_json(json.loads(file.read_text()))
    except json.JSONDecodeError as error:
        raise RecordError(f"{file}: {error}") from error
    except RecordError as error:
        raise RecordError(f"{file}: {error}") from error


def keep_plan(plan: Plan, directory: Path, name: str) -> Path:
    """Write a plan where it can be replayed from."""
    directory.mkdir(parents=True, exist_ok=True)
    file = directory / f"{name}.json"
    file.write_text(json.dumps(plan.to_json(), indent=1) + "\n")
    return file
