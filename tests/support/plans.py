"""Short plans for the simulator, and what to look for in their histories."""

from __future__ import annotations

from typing import Any

from wool.sim.bodies import Ask, Body, Step
from wool.sim.history import Event, History
from wool.sim.kinds import Fault
from wool.sim.plan import Call, Knobs, Plan, Topology
from wool.sim.run import run

QUICK = Knobs(poll=0.25, quiet=0.5)


def step(op: str, **fields: Any) -> Step:
    return Step(op=op, **fields)


def returns(number: int, *before: Step) -> Body:
    return Body(steps=(*before, step("return", number=number)))


def yields(*numbers: int) -> Body:
    return Body(generator=True, steps=tuple(step("yield", number=number) for number in numbers))


def calls(*bodies: Body, at: float = 0.1, apart: float = 0.01, **fields: Any) -> tuple[Call, ...]:
    return tuple(Call(ordinal=n, at=at + n * apart, body=body, **fields) for n, body in enumerate(bodies))


def plan(*faults: Fault, bodies: tuple[Body, ...] = (), workers: int = 2, mode: Any = "pool", **fields: Any) -> Plan:
    fields.setdefault("knobs", QUICK)
    fields.setdefault("calls", calls(*bodies))
    return Plan(topology=Topology(mode=mode, workers=workers), faults=faults, **fields)


def played(wanted: Plan) -> History:
    """Run it; the history is well-formed, the run came to its end, and nothing was left or logged."""
    history = run(wanted)
    history.validate()
    assert history[-1].kind == "run.ended"
    assert history[-1].get("how") == "done", history[-1].get("words")
    bad = [str(event) for event in history if event.kind.startswith("leak.") or event.kind == "loop.error"]
    assert not bad, "\n".join(bad)
    return history


def outcome(history: History, task: str) -> str:
    (ended,) = [event for event in history.of("call.ended") if event.task == task]
    return str(ended.get("outcome"))


def executed(history: History, task: str) -> str:
    (ended,) = [event for event in history.of("call.ended") if event.task == task]
    return str(ended.get("executed"))


def begun(history: History, task: str) -> list[str]:
    """Where the body of a task has begun."""
    return [event.node for event in history.of("body.began") if event.task == task]


def frames(history: History, task: str, frame: str, kind: str = "wire.said") -> list[Event]:
    return [event for event in history.of(kind) if event.task == task and event.get("frame") == frame]


def struck(history: History, fault: str) -> list[Event]:
    return [event for event in history.of("fault.injected") if event.get("fault") == fault]


def nodes(history: History, kind: str) -> list[str]:
    return [event.node for event in history.of(kind)]


__all__ = [
    "QUICK",
    "Ask",
    "begun",
    "calls",
    "executed",
    "frames",
    "nodes",
    "outcome",
    "plan",
    "played",
    "returns",
    "step",
    "struck",
    "yields",
]
