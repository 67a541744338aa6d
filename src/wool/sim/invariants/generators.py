"""G: a remote generator is observably the local one; and a coroutine's value is the local one's.

What must have been seen is `wool.sim.oracle`'s, up to the point where something came between: a fault that
ended the call, a cancellation, an operator. From there on only the rules that no fault suspends apply:
what is delivered is a prefix of what was yielded, nothing is read ahead, `finally` runs once.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from wool.sim.bodies import Step, walk
from wool.sim.invariants.story import At, Story, TaskStory, Violation, value_of
from wool.sim.oracle import Expected

CUT_SHORT = frozenset({"cancelled", "no-workers", "timeout", "interrupted", "lost", "no-pool", "pickling"})
"""Outcomes that something other than the body may have made."""
PLAIN = frozenset({"value", "generator-end", "closed", "dropped"})


def delivered_is_a_prefix(story: Story) -> Iterator[Violation]:
    """G: the i-th item that the consumer got is the i-th that the body yielded, and was yielded before.

    Items that nobody heard of (the consumer was cancelled) are only at the end, so prefix is the word.
    """
    for label, task in story.tasks.items():
        if len(task.began) > 1:
            continue
        for number, item in enumerate(task.items):
            yielded = task.yielded[number] if number < len(task.yielded) else None
            if yielded is not None and yielded.index < item.index:
                if value_of(yielded, "value") == value_of(item, "value"):
                    continue
                if story.cancelled_before(label, item.index):
                    # An item that was unseen when the cancel came has been lost on purpose.
                    break
            yield Violation(
                invariant="G",
                task=label,
                sentence=f"item {number} of {label} was {value_of(item, 'value')!r}, "
                + (f"and {value_of(yielded, 'value')!r} was yielded" if yielded else "and none had been yielded"),
                events=(item.index, *([yielded.index] if yielded else [])),
            )
            break


def no_read_ahead(story: Story) -> Iterator[Violation]:
    """G: the body yields for the n-th time ⇒ the consumer had asked n times, or it was told to close."""
    for label, task in story.tasks.items():
        for yielded in task.yielded:
            asked = sum(item.index < yielded.index for item in task.steps)
            told = sum(
                item.index < yielded.index and value_of(item, "step") in ("close", "throw") for item in task.resumed
            )
            had = sum(item.index <= yielded.index for item in task.yielded)
            if had > asked + told + len(task.body_cancelled):
                yield Violation(
                    invariant="G",
                    task=label,
                    sentence=f"the body of {label} yielded {had} times when its consumer had asked {asked} times",
                    events=(yielded.index,),
                )
                break


def same_as_local(story: Story) -> Iterator[Violation]:
    """G: what consumer and body show is what they show locally, up to what came between."""
    for label, task in story.tasks.items():
        expected = story.expected(label)
        if expected is None or not task.made or len(task.began) > 1:
            continue
        if story.too_large(label) and task.outcome == "serialization" and not task.began:
            continue
        until = _undisturbed(story, task)
        program = story.program(label)
        assert program is not None
        if program[0].generator:
            yield from _same_generator(story, task, expected, until)
        else:
            yield from _same_coroutine(task, expected, until)


def _undisturbed(story: Story, task: TaskStory) -> int:
    """Return the place in the history from which on the oracle knows no more."""
    until = 1 << 60
    for member in story.lineage(task.label):
        for item in member.cancelled:
            until = min(until, item.index)
    # A cancellation that the body has not made itself: drain, a lost session, a caller that has gone.
    for item in task.body_cancelled:
        until = min(until, item.index)
    for member in story.children(task.label):
        for item in member.ended:
            if value_of(item, "outcome") not in PLAIN:
                until = min(until, item.index)
    # A worker that stops closes what stands at a yield.
    for began in task.began:
        node = story.nodes.get(began.node)
        for struck in (node.terminated, node.crashed) if node is not None else ():
            if struck is not None:
                until = min(until, struck.index)
    for start in (*task.frames("start"), *task.frames("start", heard=True)):
        lost = story.sessions_lost.get((start.node, start.event.session))
        if lost is not None:
            until = min(until, lost.index)
    return until


def _same_coroutine(task: TaskStory, expected: Expected, until: int) -> Iterator[Violation]:
    ended = task.ended[0] if task.ended else None
    if ended is None or ended.index > until:
        return
    outcome, value = value_of(ended, "outcome"), value_of(ended, "value")
    if outcome in CUT_SHORT and expected.outcome != outcome:
        return
    if not _agrees(expected, outcome, value):
        yield _differs(task, ended, expected)


def _agrees(expected: Expected, outcome: Any, value: Any) -> bool:
    if not expected.travels:
        return outcome in ("serialization", "remote", "raised")
    return bool(outcome == expected.outcome and value == expected.value)


def _differs(task: TaskStory, ended: At, expected: Expected) -> Violation:
    local = f"{expected.outcome} {expected.value!r}" if expected.travels else "what does not travel"
    return Violation(
        invariant="G",
        task=task.label,
        sentence=f"{task.label} ended with {value_of(ended, 'outcome')} {value_of(ended, 'value')!r}; "
        f"locally it ends with {local}",
        events=(ended.index,),
    )


def _same_generator(story: Story, task: TaskStory, expected: Expected, until: int) -> Iterator[Violation]:
    # What the consumer did and got: each ask with the item that came of it.
    results = {value_of(item, "ordinal"): item for item in task.items}
    for number, step in enumerate(task.steps):
        if step.index > until:
            return
        if number >= len(expected.asks):
            yield _said(task, step, f"its consumer went on to {value_of(step, 'step')}, where locally it had ended")
            return
        ask, item = expected.asks[number]
        got = results.get(number)
        if value_of(step, "step") != ask:
            yield _said(task, step, f"its consumer said {value_of(step, 'step')} where locally it says {ask}")
            return
        last = number == len(expected.asks) - 1
        if got is not None and got.index > until:
            return
        if got is None:
            break
        if last:
            yield _said(task, got, f"{ask} {number} gave {value_of(got, 'value')!r}, and locally it gives no item")
            return
        if value_of(got, "value") != item:
            yield _said(task, got, f"{ask} {number} gave {value_of(got, 'value')!r}, and locally {item!r}")
            return
    ended = task.ended[0] if task.ended else None
    if ended is None or ended.index > until:
        return
    outcome = value_of(ended, "outcome")
    complete = len(task.steps) == len(expected.asks)
    if outcome in CUT_SHORT and not (complete and expected.outcome == outcome):
        return
    if not expected.travels and outcome in ("serialization", "remote", "raised"):
        return
    if not complete or not _agrees(expected, outcome, value_of(ended, "value")):
        yield _differs(task, ended, expected)
        return
    yield from _same_body(task, expected, until)


def _said(task: TaskStory, item: At, words: str) -> Violation:
    return Violation(invariant="G", task=task.label, sentence=f"{task.label}: {words}", events=(item.index,))


def _same_body(task: TaskStory, expected: Expected, until: int) -> Iterator[Violation]:
    """The body of a call that came to its end undisturbed has shown what it shows locally."""
    events = (*task.yielded, *task.resumed, *task.finals, *task.body_ended)
    shown = sorted((item for item in events if item.index < until), key=lambda item: item.index)
    if task.outcome == "dropped":
        # Its end comes later, or is cut off by that of the run.
        wanted = expected.said[: len(shown)]
    else:
        wanted = expected.said
        shown = shown[: len(wanted)]
    for number, (kind, detail) in enumerate(wanted):
        if kind == "body.cancelled":
            return
        here = shown[number].event if number < len(shown) else None
        if here is None or here.kind != kind or here.detail != detail:
            local = " ".join([kind, *(f"{name}={value}" for name, value in detail)])
            yield Violation(
                invariant="G",
                task=task.label,
                sentence=f"{task.label}: where the body locally shows {local!r}, it showed "
                f"{' '.join([here.kind, *(f'{name}={value}' for name, value in here.detail)]) if here else 'nothing'}",
                events=(shown[number].index,) if here is not None else tuple(item.index for item in task.ended),
            )
            return


def finally_runs_once(story: Story) -> Iterator[Violation]:
    """G: begin(τ, w) ⇒ finally runs at most once; and exactly once if w lives for T after the call has ended.

    The call has ended for a worker, too, that has lost its session. T is as long as the body takes at most. A body
    that ignores its close, or swallows what ends it, need not come to its ``finally``.
    """
    for label, task in story.tasks.items():
        executions = max(len(task.began), 1)
        if len(task.finals) > executions:
            yield Violation(
                invariant="G",
                task=label,
                sentence=f"the finally of {label} ran {len(task.finals)} times",
                events=tuple(item.index for item in task.finals),
            )
        if not task.began or not story.complete or task.finals or len(task.began) > 1:
            continue
        began = task.began[0]
        program = story.program(label)
        if program is None or _may_hold_on(list(walk(program[0].steps))):
            continue
        if story.died_by(began.node, _over(story, task) + story.longest(label) + story.disturbance(began.node)):
            continue
        yield Violation(
            invariant="G",
            task=label,
            sentence=f"the finally of {label} has not run, and {began.node}, where it began, lives",
            events=(began.index,),
        )


def _over(story: Story, task: TaskStory) -> float:
    """Return when, at the latest, the worker could know that nobody wants the task any more."""
    ends = [item.at for item in task.ended]
    for start in task.frames("start", heard=True):
        lost = story.sessions_lost.get((start.node, start.event.session))
        if lost is not None:
            ends.append(lost.at)
            break
    else:
        return float("inf")
    return max(ends) if task.outcome == "dropped" else min(ends)


def a_dropped_generator_is_closed(story: Story) -> Iterator[Violation]:
    """G: dropped(τ) at t, and w, where it began, lives until t + T ⇒ finally(τ) by t + T, not when the pool closes.

    T is what the body's end takes, and the time after which a silent link is lost, which ends it too; and what the plan
    itself holds up. The contract names no shorter one: whoever collects the generator has it closed, and waits for
    nothing.
    """
    for label, task in story.tasks.items():
        if task.outcome != "dropped" or len(task.began) != 1 or not task.ended:
            continue
        began, dropped = task.began[0], task.ended[0]
        program = story.program(label)
        if program is None or _may_hold_on(list(walk(program[0].steps))):
            continue
        until = dropped.at + story.plan.knobs.ping_timeout + story.longest(label) + story.waits_for_places(label)
        until += story.looks_for_workers(label) + story.held_up(task.caller, began.node)
        if story.end <= until or story.died_by(began.node, until) or story.died_by(task.caller, until):
            continue
        if not any(item.at <= until for item in task.finals):
            yield Violation(
                invariant="G",
                task=label,
                sentence=f"the consumer of {label} let it go at {dropped.at:.6f}, and its finally had not run on "
                f"{began.node} by {until:.3f}",
                events=(began.index, dropped.index, *(item.index for item in task.finals)),
            )


def _may_hold_on(steps: list[Step]) -> bool:
    return any(
        (step.op == "catch" and step.text in ("generator-exit", "anything", "cancelled"))
        or (step.op == "finally" and any(inner.op == "yield" for inner in walk(step.last)))
        for step in steps
    )


INVARIANTS = (delivered_is_a_prefix, no_read_ahead, same_as_local, finally_runs_once, a_dropped_generator_is_closed)
