"""What rules say to a cluster, one by one, breaks nothing; and a bug that is planted is found by them."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from sim import machine
from sim.mutants.__main__ import replay
from sim.mutants.child import TESTS
from wool.sim.bodies import Ask, Body, Step
from wool.sim.history import first_difference
from wool.sim.invariants.table import judge_story
from wool.sim.kinds import Fault
from wool.sim.plan import Noise, Plan, Topology
from wool.sim.run import execute
from wool.sim.stepping import Stepper

# Python says of a body that ignores its close that it does.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")

PLANTED = """
import sys
from hypothesis import settings
from sim.mutants.catalogue import MUTANTS
from sim.mutants.mutant import plant

settings.register_profile("planted", derandomize=True, database=None, deadline=None, print_blob=False)
settings.load_profile("planted")
plant(MUTANTS[sys.argv[1]])
from sim import machine
machine.main()
"""


@pytest.mark.timeout(180)
def test_nothing_is_broken_whatever_the_rules_say() -> None:
    machine.main()


def said(mode: str) -> Stepper:
    """A run in which a bit of everything was said."""
    topology = Topology(workers=3) if mode == "pool" else Topology(mode="proxy", workers=3, callers=2)
    with Stepper(Plan(topology=topology, noise=Noise(amplitude=0.001))) as run:
        run.advance(0.5)
        coroutine, generator = machine.COROUTINES["calls"], machine.GENERATORS["yields"]
        run.call(coroutine)
        run.advance(0.003)
        consumed = run.call(generator, asks=True)
        run.advance(0.05)
        run.ask(consumed, Ask(op="next"))
        run.ask(consumed, Ask(op="send", number=3))
        run.advance(0.2)
        cancelled = run.call(coroutine)
        run.advance(0.004)
        run.cancel(cancelled, 2)
        cut = run.strike(Fault(kind="partition", target="c0>w1"), endless=True)
        run.advance(0.1)
        run.call(coroutine)
        run.strike(Fault(kind="crash", target="w2"))
        run.advance(0.3)
        run.heal(cut)
        run.call(generator, asks=True)
        abandoned = run.call(generator, asks=True)
        run.advance(0.1)
        run.cancel(abandoned)
        run.strike(Fault(kind="pause", target="w0"), endless=True)
        run.advance(0.0)
        run.call(Body(steps=(Step(op="return", number=2),)))
        run.strike(Fault(kind="restart", target="w2"))
        run.advance(1.0)
        assert judge_story(run.story()) == []
        run.finish()
        assert judge_story(run.story()) == []
    return run


@pytest.mark.parametrize("mode", ["pool", "proxy"])
def test_what_was_said_step_by_step_is_a_plan_with_the_same_history(mode: str) -> None:
    run = said(mode)
    plan = Plan.from_json(json.loads(json.dumps(run.plan.to_json())))
    assert len(plan.faults) == 4
    assert first_difference(run.history, execute(plan).history) is None


@pytest.mark.timeout(180)
@pytest.mark.parametrize(
    ("name", "invariant"),
    [("late-accept-goes-to-the-next-worker", "S"), ("cancel-is-swallowed", "C"), ("read-ahead", "G")],
)
def test_the_rules_find_a_planted_bug_and_say_how_to_replay_it(name: str, invariant: str, tmp_path: Path) -> None:
    paths = os.pathsep.join([str(TESTS), *filter(None, sys.path)])
    tried = subprocess.run(
        [sys.executable, "-c", PLANTED, name],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": paths},
        capture_output=True,
        text=True,
        check=False,
    )
    assert tried.returncode == 1
    assert re.search(rf"{invariant}\d? is broken, task ", tried.stderr), tried.stderr
    said = re.search(r"nox -s sim -- --replay (\S+)", tried.stderr)
    assert said is not None
    kept = tmp_path / said[1]
    assert replay(name, kept)[kept.stem]
    assert replay("-", kept)[kept.stem] == {}
