"""Hand-made histories: one task's life in a few lines, and what to leave out or to change of it."""

from __future__ import annotations

from typing import Any

from wool.sim.bodies import Ask, Body, Step
from wool.sim.history import History, frozen
from wool.sim.invariants.story import Story, Violation
from wool.sim.invariants.table import INVARIANTS
from wool.sim.plan import Call, Plan

STEP = 0.001


class Script:
    """Writes a history; each event comes a millisecond after the last, unless ``at`` says when."""

    def __init__(self) -> None:
        self.history = History()
        self.now = 0.0

    def add(
        self, node: str, kind: str, task: str = "", attempt: str = "", /, *, at: float | None = None, **detail: Any
    ) -> Script:
        self.now = self.now + STEP if at is None else at
        self.history.add(
            self.now, node, kind, task, attempt, tuple((name, frozen(value)) for name, value in detail.items())
        )
        return self

    def wire(
        self, attempt: str, frame: str, task: str = "", /, *, lost: bool = False, at: float | None = None, **detail: Any
    ) -> Script:
        """A frame is said, and heard unless it is lost."""
        caller, _, rest = attempt.partition(">")
        worker = rest.partition("/")[0]
        to_worker = frame in ("offer", "start", "withdraw", "cancel", "step")
        sayer, hearer = (caller, worker) if to_worker else (worker, caller)
        self.add(sayer, "wire.said", task, attempt, at=at, frame=frame, **detail)
        if not lost:
            self.add(hearer, "wire.heard", task, attempt, frame=frame, **detail)
        return self

    def opened(self, session: str) -> Script:
        caller, _, rest = session.partition(">")
        self.add(rest.partition("/")[0], "wire.opened", "", session)
        return self.add(caller, "wire.opened", "", session)

    def up(self, *nodes: str) -> Script:
        for node in nodes:
            self.add(node, "node.up")
        return self

    def known(self, caller: str, *workers: str) -> Script:
        for worker in workers:
            self.add("", "truth.published", worker=worker, address=f"/{worker}")
            self.add(caller, "view.added", worker=worker, address=f"/{worker}")
        return self

    def done(self, how: str = "done", at: float | None = None) -> Script:
        return self.add("", "run.ended", at=at, how=how)


def cluster(*workers: str) -> Script:
    """One caller, ``c0#0``, with a session to each worker."""
    script = Script().up("c0#0", *workers).known("c0#0", *workers)
    for worker in workers:
        script.opened(f"c0#0>{worker}/0")
    return script


def made(script: Script, task: str = "c0.0", node: str = "c0#0", form: str = "coroutine") -> Script:
    return script.add(node, "call.made", task, body="body", form=form, timeout=0.0, parent=task.rpartition(".")[0])


def offered(script: Script, task: str = "c0.0", worker: str = "w0#0", number: int = 1, caller: str = "c0#0") -> str:
    attempt = f"{caller}>{worker}/0:{number}"
    script.add(caller, "place.bound", task, worker=worker, candidates=sorted(known_to(script, caller)), suspect=False)
    script.wire(attempt, "offer", task, at=script.now)
    return attempt


def known_to(script: Script, caller: str) -> set[str]:
    known: set[str] = set()
    for event in script.history:
        if event.node == caller and event.kind in ("view.added", "view.dropped"):
            (known.add if event.kind == "view.added" else known.discard)(event.get("worker"))
    return known


def started(script: Script, attempt: str, task: str = "c0.0") -> Script:
    return script.wire(attempt, "accept", task).wire(attempt, "start", task)


def began(script: Script, task: str = "c0.0", worker: str = "w0#0", number: int = 0) -> str:
    execution = f"{worker}/{number}"
    script.add(worker, "body.began", task, execution=execution)
    return execution


def body_ended(
    script: Script, task: str = "c0.0", worker: str = "w0#0", how: str = "returned", value: Any = 0
) -> Script:
    script.add(worker, "body.finally", task)
    return script.add(worker, "body.ended", task, how=how, value=value)


def ended(
    script: Script,
    outcome: str,
    task: str = "c0.0",
    node: str = "c0#0",
    executed: str = "",
    value: Any = None,
    **more: Any,
) -> Script:
    return script.add(node, "call.ended", task, outcome=outcome, executed=executed, value=value, **more)


def one_call(
    script: Script, task: str = "c0.0", worker: str = "w0#0", number: int = 1, value: Any = 0, told: bool = True
) -> Script:
    """A coroutine's whole life, in which nothing goes wrong."""
    made(script, task)
    attempt = offered(script, task, worker, number)
    started(script, attempt, task)
    execution = began(script, task, worker, number)
    body_ended(script, task, worker, value=value)
    script.wire(attempt, "result", task, kind="return")
    if told:
        script.add("c0#0", "told.completed", task, outcome="success")
    return ended(script, "value", task, executed="yes", value=value, begun_by=execution)


def plan_of(*calls: Call, **more: Any) -> Plan:
    return Plan(calls=calls or (Call(ordinal=0),), **more)


def generator(*values: int, script: tuple[Ask, ...] = (), ordinal: int = 0) -> Call:
    steps = tuple(Step(op="yield", number=value) for value in values)
    return Call(ordinal=ordinal, body=Body(generator=True, steps=steps), script=script)


def found(name: str, script: Script, plan: Plan | None = None) -> list[Violation]:
    script.history.validate()
    return list(INVARIANTS[name](Story(script.history, plan or plan_of())))


def all_found(script: Script, plan: Plan | None = None) -> list[Violation]:
    story = Story(script.history, plan or plan_of())
    return [violation for invariant in INVARIANTS.values() for violation in invariant(story)]
