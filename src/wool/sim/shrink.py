"""Makes a failing plan small: the second stage, after Hypothesis, or the only one.

It works on the plan as a person reads it: drops calls, faults and stalls, turns noise into a stall, takes
steps out of bodies, makes what is left simpler, as long as the plan still fails. What is left is necessary,
and `Shrunk.necessary` says so of each fault. It must never know how a plan is run: that is ``fails``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, replace
from typing import Any, TypeAlias

from wool.sim.bodies import Body, Step
from wool.sim.kinds import Fault
from wool.sim.plan import Call, Knobs, Noise, Plan, Stall, Topology

Fails: TypeAlias = Callable[[Plan], bool]

ITEMS = ("faults", "calls", "stalls")


class OutOfTime(Exception):
    """The budget of runs is used up."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shrunk:
    """A plan that fails, and of which nothing can be taken away."""

    plan: Plan
    runs: int
    """How many plans were tried."""
    complete: bool
    """Nothing more could be taken away; False if the budget was used up."""
    necessary: tuple[int, ...]
    """The faults (their places in the plan) without which it does not fail."""


def shrink(plan: Plan, fails: Fails, *, most_runs: int = 600, until: Callable[[], bool] = lambda: False) -> Shrunk:
    """Return the smallest plan that ``fails`` and can be found with so many runs; ``until`` ends the search early."""
    shrinker = _Shrinker(plan, fails, most_runs, until)
    complete = True
    try:
        while shrinker.round():
            pass
    except OutOfTime:
        complete = False
    small = shrinker.plan
    return Shrunk(plan=small, runs=shrinker.runs, complete=complete, necessary=necessary_faults(small, fails))


def necessary_faults(plan: Plan, fails: Callable[[Plan], bool]) -> tuple[int, ...]:
    """Return the faults, by their place, without which the plan does not fail."""
    return tuple(index for index in range(len(plan.faults)) if not fails(plan.without("faults", index)))


class _Shrinker:
    def __init__(self, plan: Plan, fails: Fails, most_runs: int, until: Callable[[], bool]) -> None:
        self.plan = plan
        self.runs = 0
        self._fails = fails
        self._most_runs = most_runs
        self._until = until
        self._tried: set[Plan] = {plan}

    def keep(self, candidate: Plan) -> bool:
        """Take ``candidate`` in place of the plan if it fails too."""
        if candidate in self._tried:
            return False
        if self.runs >= self._most_runs or self._until():
            raise OutOfTime
        self._tried.add(candidate)
        self.runs += 1
        if not self._fails(candidate):
            return False
        self.plan = candidate
        return True

    def round(self) -> bool:
        """Try everything once; return whether anything was gained."""
        before = self.plan
        for items in ITEMS:
            self._drop(items)
        self._quieten()
        self._simplify("faults", simpler_faults)
        self._simplify("calls", simpler_calls)
        self._simplify("stalls", simpler_stalls)
        while any(self.keep(candidate) for candidate in simpler_surroundings(self.plan)):
            pass
        return self.plan != before

    def _drop(self, name: str) -> None:
        """Leave items out: all, half of them, a quarter, …, each."""
        size = len(getattr(self.plan, name))
        while size:
            start = 0
            while start < len(items := getattr(self.plan, name)):
                changed: dict[str, Any] = {name: items[:start] + items[start + size :]}
                if not self.keep(replace(self.plan, **changed)):
                    start += size
            size //= 2

    def _quieten(self) -> None:
        """Turn the noise off, or into one stall, or at least down."""
        plan = self.plan
        if not plan.noise.amplitude or self.keep(replace(plan, noise=Noise())):
            return
        for stall in likely_stalls(plan):
            if self.keep(replace(plan, noise=Noise(), stalls=(*plan.stalls, stall))):
                return
        for amplitude in (0.0005, 0.002):
            if amplitude < plan.noise.amplitude and self.keep(replace(plan, noise=Noise(amplitude=amplitude))):
                return

    def _simplify(self, name: str, simpler: Callable[[Any], Iterator[Any]]) -> None:
        """Replace each item by the first simpler one that still fails, again and again."""
        for index in range(len(getattr(self.plan, name))):
            gained = True
            while gained:
                items = getattr(self.plan, name)
                gained = False
                for item in simpler(items[index]):
                    changed: dict[str, Any] = {name: (*items[:index], item, *items[index + 1 :])}
                    if self.keep(replace(self.plan, **changed)):
                        gained = True
                        break


def likely_stalls(plan: Plan) -> Iterator[Stall]:
    """Yield stalls that may do what noise does: each loop, when something is called or strikes."""
    topology = plan.topology
    nodes = [f"c{index}" for index in range(topology.callers)] + [f"w{index}" for index in range(topology.workers)]
    times = sorted({0.0, *(call.at for call in plan.calls), *(fault.at for fault in plan.faults)})[:6]
    for at in times:
        for node in nodes:
            for loop in ("io", "user"):
                yield Stall(loop=f"{node}#0.{loop}", at=at, seconds=0.01)


def simpler_faults(fault: Fault) -> Iterator[Fault]:
    """Yield what is simpler than a fault."""
    if fault.seam:
        yield replace(fault, seam=0)
    if fault.point:
        yield replace(fault, point="")
    if fault.frame:
        if fault.kind != "delay":
            yield replace(fault, frame="", ordinal=0, when="before")
        for ordinal in range(fault.ordinal):
            yield replace(fault, ordinal=ordinal)
        if fault.at:
            yield replace(fault, at=0.0)
    elif fault.at != round(fault.at, 1):
        yield replace(fault, at=round(fault.at, 1))
    if fault.stays:
        yield replace(fault, stays=False, seconds=1.0)
    if fault.direction != "both":
        yield replace(fault, direction="both")
    if fault.how != "reset":
        yield replace(fault, how="reset")
    for seconds in (0.05, 0.3, 1.0):
        if seconds < fault.seconds:
            yield replace(fault, seconds=seconds)


def simpler_stalls(stall: Stall) -> Iterator[Stall]:
    """Yield what is simpler than a stall."""
    for seconds in (0.001, 0.01):
        if seconds < stall.seconds:
            yield replace(stall, seconds=seconds)


def simpler_calls(call: Call) -> Iterator[Call]:
    """Yield what is simpler than a call."""
    if call.cancel_at is not None:
        yield replace(call, cancel_at=None, cancels=1)
        if call.cancels > 1:
            yield replace(call, cancels=1)
    if call.timeout:
        yield replace(call, timeout=0.0)
    if call.size:
        yield replace(call, size=0)
    if call.script:
        yield replace(call, script=())
        for index in range(len(call.script)):
            yield replace(call, script=call.script[:index] + call.script[index + 1 :])
    for body in simpler_bodies(call.body):
        yield replace(call, body=body, script=call.script if body.generator else ())
    early = 0.3
    if call.at > early and call.cancel_at is None:
        yield replace(call, at=early)


def simpler_bodies(body: Body) -> Iterator[Body]:
    """Yield what is simpler than a body: a plain coroutine, fewer steps, simpler ones."""
    if body.steps:
        if body.generator:
            yield Body(steps=(Step(op="return", number=1),))
        for steps in fewer(body.steps):
            yield replace(body, steps=steps)


def fewer(steps: tuple[Step, ...]) -> Iterator[tuple[Step, ...]]:
    """Yield the steps without one, with one unwrapped, with one simpler."""
    for index, step in enumerate(steps):
        before, after = steps[:index], steps[index + 1 :]
        yield before + after
        if step.op in ("catch", "finally", "gather"):
            yield before + step.steps + after
        for simpler in simpler_steps(step):
            yield (*before, simpler, *after)


def simpler_steps(step: Step) -> Iterator[Step]:
    """Yield what is simpler than a step."""
    if step.op in ("yield", "return") and (step.size or step.text):
        yield replace(step, size=0, text="")
    if step.op == "raise" and step.text != "value-error":
        yield replace(step, text="value-error")
    if step.op in ("sleep", "block") and step.seconds > 0.001:
        yield replace(step, seconds=0.001)
    if step.body is not None:
        if step.script:
            yield replace(step, script=())
        for body in simpler_bodies(step.body):
            yield replace(step, body=body, script=step.script if body.generator else ())
    for name in ("steps", "last"):
        for inner in fewer(getattr(step, name)):
            if inner or name == "last":
                changed: dict[str, Any] = {name: inner}
                yield replace(step, **changed)


def simpler_surroundings(plan: Plan) -> Iterator[Plan]:
    """Yield plans with fewer processes and plainer knobs."""
    topology = plan.topology
    if topology.mode != "pool" and topology.callers == 1:
        yield replace(plan, topology=Topology(workers=topology.workers))
    if topology.mode in ("durable", "hybrid"):
        yield replace(plan, topology=replace(topology, mode="proxy", lease=0, untagged=0, size=0))
    if topology.mode == "hybrid":
        yield replace(plan, topology=replace(topology, mode="durable", size=0))
    if topology.lease:
        yield replace(plan, topology=replace(topology, lease=0))
    if topology.untagged:
        yield replace(plan, topology=replace(topology, untagged=0))
    if topology.tls:
        yield replace(plan, topology=replace(topology, tls=False, identities=False, one_way=False))
    if topology.identities:
        yield replace(plan, topology=replace(topology, identities=False))
    if topology.one_way:
        yield replace(plan, topology=replace(topology, one_way=False))
    if topology.named:
        yield replace(plan, topology=replace(topology, named=0))
        yield replace(plan, topology=replace(topology, named=topology.named - 1))
    if topology.discovery != "local" and not topology.tls:
        yield replace(plan, topology=replace(topology, discovery="local", named=0))
    if topology.callers > 1 and all(call.caller == 0 for call in plan.calls):
        yield replace(plan, topology=replace(topology, callers=1))
    for workers in (1, 2, 3):
        if topology.untagged < workers < topology.workers:
            named = min(workers, topology.named)
            yield replace(plan, topology=replace(topology, workers=workers, named=named))
    for field in fields(Knobs):
        if getattr(plan.knobs, field.name) != field.default:
            changed: dict[str, Any] = {field.name: field.default}
            yield replace(plan, knobs=replace(plan.knobs, **changed))
    if plan.told:
        yield replace(plan, told=False)
    if plan.variables:
        yield replace(plan, variables=False)
    if plan.seed and not plan.noise.amplitude:
        yield replace(plan, seed=0)
