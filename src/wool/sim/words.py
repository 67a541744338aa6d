"""A plan in plain English, one line an item, for whoever has to understand a failure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields

from wool.sim.bodies import Ask, Body, Step
from wool.sim.kinds import ANY, FAULTS, Fault
from wool.sim.plan import Call, Knobs, Plan, Stall

_DIRECTIONS = {"both": "", "to": " to the worker", "back": " back to the caller"}
_DISCOVERIES = {"local": "LocalDiscovery", "lan": "LanDiscovery", "dns": "DnsDiscovery", "static": "StaticDiscovery"}
_HOW = {"reset": "a reset", "silence": "nothing"}


def tell(plan: Plan) -> list[str]:
    """Return the plan in lines: who is there, what differs from the usual, the calls, the faults."""
    return [line for part in (_surroundings, _calls, _faults, _perturbations) for line in part(plan)]


def seconds(value: float) -> str:
    """Return a time as a person writes it."""
    return f"{value * 1000:g} ms" if value < 1 else f"{value:g} s"


def _surroundings(plan: Plan) -> Iterator[str]:
    topology = plan.topology
    callers = "one caller" if topology.callers == 1 else f"{topology.callers} callers"
    workers = "one worker" if topology.workers == 1 else f"{topology.workers} workers"
    how = "in the caller's own pool" if topology.mode == "pool" else f"found by {_DISCOVERIES[topology.discovery]}"
    yield f"There {'is' if topology.callers == 1 else 'are'} {callers} and {workers}, {how}."
    if topology.size:
        yield f"The pool of c0 starts {topology.size} more, which it publishes."
    if topology.named:
        yield f"Callers know the host names of the last {topology.named} of them."
    if topology.lease:
        yield f"A pool uses {topology.lease} of those that are found at a time."
    if topology.untagged:
        yield f"The last {topology.untagged} of them have not the tag that pools want."
    if topology.tls:
        who = (
            "Callers look at the certificates of workers, and show none."
            if topology.one_way
            else ("All of them have certificates, and look at those of the others.")
        )
        yield who + (" What counts is the identity, and not the host." if topology.identities else "")
    if plan.told:
        yield "Callers ask to be told what happens to their tasks on the workers, and everybody traces."
    if plan.variables:
        yield "Callers and bodies set a context variable, and read it."
    changed = [
        f"{field.name} is {getattr(plan.knobs, field.name):g}"
        for field in fields(Knobs)
        if getattr(plan.knobs, field.name) != field.default
    ]
    if changed:
        yield f"Unlike usual, {', '.join(changed)}."


def _calls(plan: Plan) -> Iterator[str]:
    for call in plan.calls:
        yield f"{call.label}: at {seconds(call.at)}, c{call.caller} calls {_call(call)}."


def _call(call: Call) -> str:
    said = body(call.body)
    if call.size:
        said += f", with {call.size} bytes of arguments"
    if call.timeout:
        said += f", to be placed within {seconds(call.timeout)}"
    if call.body.generator:
        said += f"; its consumer {script(call.script)}"
    if call.cancel_at is not None:
        times = "" if call.cancels == 1 else f" {call.cancels} times"
        said += f"; it is cancelled{times} at {seconds(call.cancel_at)}"
    return said


def body(value: Body) -> str:
    """Return what a body does."""
    what = "a generator" if value.generator else "a coroutine"
    return f"{what} that {_steps(value.steps) or 'does nothing'}"


def _steps(steps: tuple[Step, ...]) -> str:
    return ", ".join(_step(step) for step in steps)


def _step(step: Step) -> str:
    value = step.text or (f"{step.size} bytes" if step.size else str(step.number))
    match step.op:
        case "sleep":
            return f"waits {seconds(step.seconds)}"
        case "block":
            return f"blocks for {seconds(step.seconds)}"
        case "call":
            assert step.body is not None
            taken = f" and {script(step.script)}" if step.body.generator and step.script else ""
            return f"calls (as .{step.number}) {body(step.body)}{taken}"
        case "gather":
            return f"gathers [{_steps(step.steps)}]"
        case "yield":
            return f"yields {value}"
        case "return":
            return f"returns {value}"
        case "raise":
            return f"raises {step.text}"
        case "catch":
            return f"swallows {step.text} in [{_steps(step.steps)}]"
        case _:
            return f"[{_steps(step.steps)}] finally [{_steps(step.last)}]"


def script(asks: tuple[Ask, ...]) -> str:
    """Return what a generator's consumer does."""
    if not asks:
        return "takes all there is"
    words = {"send": "sends {0.number}", "throw": "throws {0.text}", "sleep": "waits {1}", "break": "lets it go"}
    return "does " + ", ".join(words.get(ask.op, ask.op).format(ask, seconds(ask.seconds)) for ask in asks)


def _faults(plan: Plan) -> Iterator[str]:
    for index, item in enumerate(plan.faults):
        yield f"Fault {index}: {fault(item)}."


def fault(item: Fault) -> str:
    """Return what a fault does."""
    kind = FAULTS[item.kind]
    frame = "frame" if item.frame == ANY else item.frame
    if item.frame:
        where = f"{'just after' if item.when == 'after' else 'just before'} {frame} {item.ordinal}"
    elif item.seam:
        where = f"at its seam call {item.seam} after {seconds(item.at)}"
    elif item.point:
        where = f"as soon as it is {item.point}, after {seconds(item.at)}"
    else:
        where = f"at {seconds(item.at)}"
    time = f", from {seconds(item.at)}"
    if item.stays:
        time += " on, and for ever"
    elif "seconds" in kind.fields:
        time += f" for {seconds(item.seconds)}"
    said = kind.words.format(
        target=item.target,
        time=time,
        where=where,
        frame=frame,
        ordinal=item.ordinal,
        seconds="ever" if item.stays else seconds(item.seconds),
        amount=seconds(item.amount),
        direction=_DIRECTIONS[item.direction],
        how=_HOW[item.how],
    )
    return said if "{where}" in kind.words or "{time}" in kind.words or item.kind == "delay" else f"{said} ({where})"


def stall(item: Stall) -> str:
    """Return what a stall does."""
    node, _, loop = item.loop.partition(".")
    which = "I/O loop" if loop == "io" else "user loop"
    return f"the {which} of {node} is not run from {seconds(item.at)} on, for {seconds(item.seconds)}"


def _perturbations(plan: Plan) -> Iterator[str]:
    for item in plan.stalls:
        yield f"Stall: {stall(item)}."
    if plan.noise.amplitude:
        yield f"Latencies and turns vary by up to {seconds(plan.noise.amplitude)} (seed {plan.seed})."
