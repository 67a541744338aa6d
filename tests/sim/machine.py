"""A cluster as a state machine of Hypothesis: rules that a contributor can read, on the simulator.

Each rule says what happens next and steps the loop; after each, and at the end, every invariant is asked, the same that
the campaigns ask. What the rules have said is a plan: its run by itself has the same history, and a failure is shrunk,
kept and told as that of any other plan, with the command that replays it. So Hypothesis shrinks nothing here: it would
take minutes, and a plan says it in fewer words than the rules.
"""

from __future__ import annotations

import functools
from pathlib import Path

from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from wool.sim.bodies import Ask, Body, Step
from wool.sim.campaign import Found, failure_of, keep_plan, shrunk
from wool.sim.history import first_difference
from wool.sim.invariants.story import Violation
from wool.sim.invariants.table import judge_story
from wool.sim.kinds import Fault
from wool.sim.plan import Knobs, Plan, Topology
from wool.sim.report import report
from wool.sim.run import execute
from wool.sim.stepping import Stepper

KEPT = Path("sim-failures")
OPENED_SECONDS = 0.5
"""By then the pools are open."""
EXAMPLES = settings(
    max_examples=100,
    stateful_step_count=30,
    deadline=None,
    report_multiple_bugs=False,
    phases=(Phase.explicit, Phase.reuse, Phase.generate),
    suppress_health_check=(HealthCheck.too_slow, HealthCheck.filter_too_much),
)

_RETURN = Step(op="return", number=7)
_SHORT = Body(steps=(Step(op="sleep", seconds=0.02), _RETURN))
_YIELDS = Body(
    generator=True,
    steps=(Step(op="finally", steps=tuple(Step(op="yield", number=n) for n in range(4)), last=(Step(op="sleep"),)),),
)


def _sleeps(seconds: float) -> Body:
    return Body(
        steps=(Step(op="finally", steps=(Step(op="sleep", seconds=seconds),), last=(Step(op="sleep"),)), _RETURN)
    )


COROUTINES: dict[str, Body] = {
    "returns": Body(steps=(_RETURN,)),
    "sleeps": _sleeps(0.3),
    "sleeps for long": _sleeps(3.0),
    "raises": Body(steps=(Step(op="raise", text="custom", number=3),)),
    "calls": Body(steps=(Step(op="call", number=1, body=_SHORT), _RETURN)),
    "calls a generator": Body(steps=(Step(op="call", number=1, body=_YIELDS), _RETURN)),
    "gathers": Body(
        steps=(Step(op="gather", steps=tuple(Step(op="call", number=n, body=_SHORT) for n in (1, 2))), _RETURN)
    ),
}
GENERATORS: dict[str, Body] = {
    "yields": _YIELDS,
    "sleeps between its items": Body(
        generator=True,
        steps=(Step(op="yield", number=1), Step(op="sleep", seconds=0.1), Step(op="yield", number=2)),
    ),
    "calls, and yields": Body(
        generator=True, steps=(Step(op="call", number=1, body=_SHORT), Step(op="yield", number=1))
    ),
}
ASKS: dict[str, Ask] = {
    "next": Ask(op="next"),
    "send": Ask(op="send", number=5),
    "throw": Ask(op="throw", text="custom"),
    "close": Ask(op="close"),
    "break": Ask(op="break"),
}
WHICH = st.integers(0, 5)
SOON = st.sampled_from((0.0, 0.0007, 0.0015, 0.01, 0.1))
"""Seconds until the next rule: mostly while something is on its way."""


class ClusterMachine(RuleBasedStateMachine):
    """Callers, workers, and what happens to them."""

    def __init__(self) -> None:
        super().__init__()
        self.run: Stepper | None = None

    @property
    def cluster(self) -> Stepper:
        assert self.run is not None
        return self.run

    @property
    def topology(self) -> Topology:
        return self.cluster.plan.topology

    @initialize(
        mode=st.sampled_from(("pool", "proxy")),
        workers=st.integers(2, 3),
        places=st.integers(0, 1),
        seed=st.integers(0, 9),
    )
    def open(self, mode: str, workers: int, places: int, seed: int) -> None:
        topology = Topology(mode="proxy", callers=2, workers=workers) if mode == "proxy" else Topology(workers=workers)
        self.run = Stepper(Plan(topology=topology, knobs=Knobs(places=places), seed=seed))
        self.run.advance(OPENED_SECONDS)

    # ---- calls ----

    @rule(body=st.sampled_from(sorted(COROUTINES)), caller=st.integers(0, 1), times=st.integers(1, 4), then=SOON)
    def call(self, body: str, caller: int, times: int, then: float) -> None:
        for _ in range(times):
            self.cluster.call(COROUTINES[body], caller=min(caller, self.topology.callers - 1))
        self.cluster.advance(then)

    @rule(body=st.sampled_from(sorted(GENERATORS)), then=SOON)
    def call_a_generator(self, body: str, then: float) -> None:
        self.cluster.call(GENERATORS[body], asks=True)
        self.cluster.advance(then)

    @precondition(lambda self: self.cluster.consumed)
    @rule(which=WHICH, ask=st.sampled_from(sorted(ASKS)), then=SOON)
    def step_a_generator(self, which: int, ask: str, then: float) -> None:
        consumed = self.cluster.consumed
        self.cluster.ask(consumed[which % len(consumed)], ASKS[ask])
        self.cluster.advance(then)

    @precondition(lambda self: self.cluster.under_way)
    @rule(which=WHICH, times=st.integers(1, 2), then=SOON)
    def cancel(self, which: int, times: int, then: float) -> None:
        under_way = self.cluster.under_way
        self.cluster.cancel(under_way[which % len(under_way)], times)
        self.cluster.advance(then)

    # ---- what happens to workers ----

    def _worker(self, number: int) -> str:
        return f"w{min(number, self.topology.workers - 1)}"

    @rule(number=st.integers(0, 2), how=st.sampled_from(("SIGTERM", "reset", "silence")), then=SOON)
    def end_a_worker(self, number: int, how: str, then: float) -> None:
        worker = self._worker(number)
        match how:
            case "SIGTERM":
                self.cluster.strike(Fault(kind="terminate", target=worker))
            case "reset":
                self.cluster.strike(Fault(kind="crash", target=worker))
            case _:
                self.cluster.strike(Fault(kind="crash", target=worker, how="silence"))
        self.cluster.advance(then)

    @precondition(lambda self: self.topology.finds)
    @rule(number=st.integers(0, 2), then=SOON)
    def restart(self, number: int, then: float) -> None:
        self.cluster.strike(Fault(kind="restart", target=self._worker(number)))
        self.cluster.advance(then)

    @rule(number=st.integers(0, 2), then=SOON)
    def pause(self, number: int, then: float) -> None:
        self.cluster.strike(Fault(kind="pause", target=self._worker(number)), endless=True)
        self.cluster.advance(then)

    # ---- what happens to links ----

    @rule(
        caller=st.sampled_from(("c0", "c1", "w0", "w1")),
        number=st.integers(0, 2),
        how=st.sampled_from(("partition", "clog", "swallow", "refuse", "reset")),
        then=SOON,
    )
    def cut(self, caller: str, number: int, how: str, then: float) -> None:
        self.cluster.strike(Fault(kind=how, target=f"{caller}>{self._worker(number)}"), endless=how != "reset")
        self.cluster.advance(then)

    @precondition(lambda self: self.cluster.striking)
    @rule(which=WHICH, then=SOON)
    def heal_or_resume(self, which: int, then: float) -> None:
        striking = self.cluster.striking
        self.cluster.heal(striking[which % len(striking)])
        self.cluster.advance(then)

    # ---- time, and the judges ----

    @rule(seconds=st.sampled_from((0.002, 0.05, 0.3, 1.0, 3.0)))
    def let_time_pass(self, seconds: float) -> None:
        self.cluster.advance(seconds)

    @invariant()
    def nothing_is_broken(self) -> None:
        self._judge()

    def teardown(self) -> None:
        if self.run is None:
            return
        with self.run:
            self.run.finish()
            self._judge()
        difference = first_difference(self.run.history, execute(self.run.plan).history)
        assert difference is None, f"the plan by itself has another history: {difference}"

    def _judge(self) -> None:
        broken = judge_story(self.cluster.story())
        if broken:
            # Come to the end, so that the plan is whole.
            self.cluster.finish()
            raise AssertionError(told(self.cluster.plan, broken[0]))


@functools.cache
def told(plan: Plan, violation: Violation) -> str:
    """Shrink and keep a plan, and return the report. Hypothesis fails twice with each: the second time it is known."""
    small = shrunk(Found(plan=plan, violation=violation, how="by rules, step by step"))
    file = keep_plan(small.plan, KEPT, f"machine-{violation.invariant.lower()}")
    failure = failure_of(small.plan, first=small.violation, necessary=small.necessary, file=str(file), found=small.how)
    assert failure is not None
    return f"\n{report(failure)}"


def main() -> None:
    """Try the machine. Raises `AssertionError` with the report of what it finds."""
    run_state_machine_as_test(ClusterMachine, settings=EXAMPLES)  # type: ignore[no-untyped-call]
