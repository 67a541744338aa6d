"""A run is a function of its plan, its time is virtual, and nothing of it reaches the next."""

from __future__ import annotations

import gc
import json
import os
import subprocess
import sys
import threading
import time
import warnings
from pathlib import Path

import pytest

from support.plans import Ask, begun, calls, outcome, plan, played, returns, step, yields
from wool.sim.bodies import Body
from wool.sim.history import first_difference
from wool.sim.kinds import Fault
from wool.sim.plan import Call, Knobs, Noise, Plan, Stall, Topology
from wool.sim.run import execute, run

NESTED = Body(
    steps=(
        step(
            "gather",
            steps=tuple(step("call", number=n, body=returns(n, step("sleep", seconds=0.01))) for n in (1, 2, 3)),
        ),
        step("call", number=4, body=yields(1, 2)),
        step("return", number=9),
    )
)
BUSY = (
    returns(1),
    NESTED,
    yields(1, 2, 3),
    returns(2, step("sleep", seconds=0.3)),
    Body(steps=(step("raise", text="custom", number=3),)),
    NESTED,
)


def busy(*faults: Fault, mode: str = "pool", seed: int = 1, amplitude: float = 0.002) -> Plan:
    made = calls(*BUSY, apart=0.02)
    cancelled = Call(ordinal=20, at=0.12, body=returns(1, step("sleep", seconds=5.0)), cancel_at=0.3)
    dropped = Call(ordinal=21, at=0.15, body=yields(*range(9)), script=(Ask(op="next"), Ask(op="break")))
    return plan(
        *faults,
        calls=(*made, cancelled, dropped),
        workers=3,
        mode=mode,
        noise=Noise(amplitude=amplitude),
        stalls=(Stall(loop="w1#0.io", at=0.15, seconds=0.02),),
        seed=seed,
    )


PLANS = {
    "pool": busy(),
    "proxy": busy(mode="proxy"),
    "crash": busy(Fault(kind="crash", target="w1", at=0.2)),
    "seam": busy(Fault(kind="crash", target="w1", at=0.1, seam=31)),
    "reset": busy(Fault(kind="reset", target="c0>w2", frame="start", ordinal=1), mode="proxy"),
    "pause": busy(Fault(kind="pause", target="w0", at=0.2, seconds=2.0)),
    "views": busy(Fault(kind="flap", target="c0>w1", at=0.1, seconds=1.0, ordinal=4), mode="proxy"),
}


@pytest.mark.parametrize("name", PLANS)
def test_the_same_plan_gives_the_same_history(name: str) -> None:
    first = run(PLANS[name])
    first.validate()
    for _ in range(3):
        again = run(PLANS[name])
        difference = first_difference(first, again)
        assert difference is None, str(difference)
        assert again.digest() == first.digest()


_IN_ANOTHER_INTERPRETER = """
import json, sys
from wool.sim.plan import Plan
from wool.sim.run import run
for line in sys.stdin:
    sys.stdout.write(run(Plan.from_json(json.loads(line))).to_lines() + "\\n")
"""


def test_other_interpreters_with_other_hash_seeds_give_the_same_history() -> None:
    wanted = "\n".join(json.dumps(made.to_json()) for made in PLANS.values())
    here = [run(made) for made in PLANS.values()]
    for seed in ("0", "4711"):
        done = subprocess.run(
            [sys.executable, "-c", _IN_ANOTHER_INTERPRETER],
            input=wanted,
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        )
        there = done.stdout.split("\n\n")
        for name, mine, other in zip(PLANS, here, there, strict=False):
            said = "".join(mine.to_lines().split())
            assert "".join(other.split()) == said, f"plan {name!r} ran differently with PYTHONHASHSEED={seed}"


def test_another_seed_or_noise_gives_another_history() -> None:
    digests = {run(busy(seed=seed)).digest() for seed in range(4)}
    assert len(digests) == 4
    assert run(busy(amplitude=0.0)).digest() == run(busy(amplitude=0.0, seed=9)).digest()


def test_an_hour_of_quiet_with_an_open_pool_passes_in_well_under_a_second() -> None:
    made = Call(ordinal=0, at=3600.0, body=returns(7))
    quiet = Plan(
        topology=Topology(workers=3),
        calls=(Call(ordinal=1, at=0.1, body=returns(1)), made),
        knobs=Knobs(poll=1.0, lease=1.0),
    )
    run(quiet)
    began = time.process_time()
    result = execute(quiet)
    took = time.process_time() - began
    assert result.seconds > 3600
    assert outcome(result.history, "c0.0") == "value"
    assert took < 1.0


def test_every_outcome_of_a_quiet_run_is_that_of_the_body() -> None:
    history = played(busy(amplitude=0.0))
    expected = ["value", "value", "generator-end", "value", "raised", "value"]
    assert [outcome(history, f"c0.{number}") for number in range(6)] == expected
    assert outcome(history, "c0.20") == "cancelled"
    assert outcome(history, "c0.21") == "dropped"


def test_nested_calls_are_named_by_their_labels_on_the_wire_too() -> None:
    history = played(plan(bodies=(NESTED,), workers=3))
    nested = [f"c0.0.{number}" for number in (1, 2, 3, 4)]
    assert all(len(begun(history, label)) == 1 for label in nested)
    offers = [event for event in history.of("wire.said") if event.get("frame") == "offer" and event.task in nested]
    assert len(offers) == 4
    assert all(event.node.startswith("w") for event in offers)


def test_leaving_one_fault_out_does_not_reshuffle_what_comes_before_the_other() -> None:
    both = busy(Fault(kind="crash", target="w1", at=0.2), Fault(kind="pause", target="w0", at=0.4, seconds=0.2))
    one = busy(Fault(kind="crash", target="w1", at=0.2))
    difference = first_difference(run(both), run(one))
    assert difference is not None
    assert (difference.one or difference.other).at >= 0.4  # type: ignore[union-attr]


def test_the_value_that_a_caller_gets_names_the_execution_that_made_it() -> None:
    history = played(plan(bodies=(returns(7),)))
    (began,) = [event for event in history.of("body.began") if event.task == "c0.0"]
    (ended,) = [event for event in history.of("call.ended") if event.task == "c0.0"]
    assert ended.get("begun_by") == began.get("execution")
    assert ended.get("value") == 7


def test_a_dropped_generator_is_closed_and_its_finally_runs_once() -> None:
    body = Body(
        generator=True, steps=(step("finally", steps=(step("yield", number=1),), last=(step("sleep", seconds=0.01),)),)
    )
    made = Call(ordinal=0, at=0.1, body=body, script=(Ask(op="next"), Ask(op="break")))
    history = played(plan(calls=(made,)))
    assert [event.task for event in history.of("body.finally") if event.task == "c0.0"] == ["c0.0"]
    (ended,) = [event for event in history.of("body.ended") if event.task == "c0.0"]
    assert ended.get("how") == "closed"


def test_nothing_of_a_run_stays_behind() -> None:
    threads = threading.enumerate()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for made in PLANS.values():
            run(made)
        gc.collect()
        kept = [obj for obj in gc.get_objects() if type(obj).__module__ in ("wool.sim.node", "wool.sim.loop")]
    assert not [obj for obj in kept if type(obj).__name__ in ("Incarnation", "World", "SimTask")]
    assert threading.enumerate() == threads
    assert gc.isenabled()


def test_what_a_pool_leaves_behind_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    import asyncio

    from wool.proxy import Proxy

    close = Proxy.close

    async def forgetful(self: Proxy, why: str) -> None:
        await close(self, why)
        loop = asyncio.get_running_loop()
        loop.call_later(600, print)
        self.forgotten = loop.create_task(asyncio.sleep(600), name="forgotten")  # type: ignore[attr-defined]

    monkeypatch.setattr(Proxy, "close", forgetful)
    history = run(plan(bodies=(returns(7),)))
    assert [str(event.get("what")).partition(" ")[0] for event in history.of("leak.task")] == ["forgotten"]
    assert history.of("leak.timer")


@pytest.mark.parametrize(
    "file", sorted((Path(__file__).parents[2] / "sim" / "corpus").glob("**/*.json")), ids=lambda p: p.stem
)
def test_the_corpus_runs_the_same_twice(file: Path) -> None:
    kept = json.loads(file.read_text())
    made = Plan.from_json(kept.get("plan", kept))
    difference = first_difference(run(made), run(made))
    assert difference is None, str(difference)
