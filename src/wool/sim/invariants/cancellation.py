"""C: cancellation. It is never lost, never delayed for long, and touches nobody else."""

from __future__ import annotations

from collections.abc import Iterator

from wool.sim.bodies import walk
from wool.sim.history import OUTCOMES
from wool.sim.invariants.story import At, Story, TaskStory, Violation, caller_of, value_of

SLACK_SECONDS = 0.6
"""A deadline that fires late looks once more at what has arrived (`Limits.stall_seconds`), and loops take turns."""
FAILED = frozenset(OUTCOMES) - {"value", "generator-end", "closed", "dropped"}
"""Outcomes that end what is gathered with it."""
LEFT = frozenset({"cancelled", "dropped"})
"""Outcomes that a cancellation may have without the body's doing."""


def released_within_grace(story: Story) -> Iterator[Violation]:
    """C1: cancel(τ) at t ⇒ end(τ) or, if it was suppressed, the next item by t + grace, whatever the network does.

    A generator's body may swallow the cancellation and yield; and a consumer that pauses between two steps
    is cancelled there, at once. What the plan held up the caller's own process for is added.
    """
    grace = story.plan.knobs.cancel_grace
    for label, task in story.tasks.items():
        if not task.cancelled or not task.made:
            continue
        cancel = task.cancelled[0]
        if story.died(task.caller):
            continue
        until = cancel.at + grace + SLACK_SECONDS + story.disturbance(task.caller)
        later = [item for item in (*task.items, *task.ended) if item.index > cancel.index]
        if any(item.index < cancel.index for item in task.ended):
            continue
        released = min((item.at for item in later), default=None)
        if released is None and story.end <= until:
            continue
        if released is None or released > until:
            when = "never" if released is None else f"after {released - cancel.at:.3f} s"
            yield Violation(
                invariant="C1",
                task=label,
                sentence=f"{label} was cancelled at {cancel.at:.6f} and its caller was released {when}; "
                f"the grace is {grace:g} s",
                events=(cancel.index, *(item.index for item in later[:1])),
            )


def no_begin_after_an_answer(story: Story) -> Iterator[Violation]:
    """C2: say result(τ) ≺ e ⇒ e is not begin(τ)."""
    for label, task in story.tasks.items():
        for began in task.began:
            said = next(
                (
                    item
                    for item in task.said
                    if item.index < began.index and item.node == began.node and value_of(item, "frame") == "result"
                ),
                None,
            )
            if said is not None:
                yield Violation(
                    invariant="C2",
                    task=label,
                    sentence=f"the body of {label} began on {began.node} after its worker had answered for it",
                    events=(said.index, began.index),
                )


def cancel_reaches_the_body(story: Story) -> Iterator[Violation]:
    """C2: hear cancel(τ) at w, the body having begun and not answered ⇒ it sees the cancellation, or ends, by T.

    T is short, and longer by the grace for every level of nesting, since a body that waits for a nested call
    hears of it when that one has ended. Where workers have so many places, a body that waits for one hears of it when
    it has one, behind all that came before: T is longer by what those may take.
    """
    grace = story.plan.knobs.cancel_grace
    for label, task in story.tasks.items():
        for cancel in task.frames("cancel", heard=True):
            began = next((item for item in task.began if item.node == cancel.node), None)
            if began is None:
                continue
            levels = 1 + max(other.label.count(".") for other in story.family(label)) - label.count(".")
            start = max(cancel.at, began.at)
            until = start + SLACK_SECONDS + (levels - 1) * (grace + SLACK_SECONDS) + story.disturbance(cancel.node)
            until += story.waits_for_places(label)
            if story.end <= until or story.died_by(cancel.node, until) or _answered(task, cancel, until):
                continue
            yield Violation(
                invariant="C2",
                task=label,
                sentence=f"{cancel.node} heard that {label} was cancelled at {cancel.at:.6f}, and its body had not "
                f"noticed by {until:.3f}",
                events=(cancel.index, began.index),
            )


def orphans_are_ended(story: Story) -> Iterator[Violation]:
    """C2: lose the session of τ at w, its body having begun and not ended ⇒ it is cancelled or closed, by T as above.

    So no body survives its caller, or the way to it, for long.
    """
    grace = story.plan.knobs.cancel_grace
    for label, task in story.tasks.items():
        for began in task.began:
            start = next((item for item in task.frames("start", heard=True) if item.node == began.node), None)
            if start is None or caller_of(start.event.attempt) == began.node:
                continue
            lost = story.sessions_lost.get((began.node, start.event.session))
            if lost is None or any(item.node == began.node and item.index < lost.index for item in task.body_ended):
                continue
            levels = 1 + max(other.label.count(".") for other in story.family(label)) - label.count(".")
            until = max(lost.at, began.at) + SLACK_SECONDS + (levels - 1) * (grace + SLACK_SECONDS)
            until += story.disturbance(began.node) + story.waits_for_places(label)
            if story.end <= until or story.died_by(began.node, until):
                continue
            marks = (*task.body_cancelled, *task.body_ended, *task.resumed)
            if any(item.node == began.node and lost.index < item.index and item.at <= until for item in marks):
                continue
            if any(item.index < lost.index for item in task.body_cancelled):
                # It has swallowed one already, and may swallow this.
                continue
            yield Violation(
                invariant="C2",
                task=label,
                sentence=f"{began.node} lost the session of {label} at {lost.at:.6f}, and its body went on until "
                f"{until:.3f} at least",
                events=(began.index, lost.index),
            )


def _answered(task: TaskStory, cancel: At, until: float) -> bool:
    """Whether the body saw the cancellation or left the step in time, or had left it before."""
    marks = (*task.body_cancelled, *task.body_ended, *task.yielded)
    if any(item.node == cancel.node and cancel.index < item.index and item.at <= until for item in marks):
        return True
    # It had ended, or stood at a yield, when the cancel arrived.
    before = [item for item in (*marks, *task.resumed, *task.began) if item.node == cancel.node]
    last = max((item for item in before if item.index < cancel.index), key=lambda item: item.index, default=None)
    return last is not None and last.event.kind in ("body.ended", "body.yielded")


def nothing_after_cancel(story: Story) -> Iterator[Violation]:
    """C3: cancel(τ) ≺ end(τ, o), o other than cancelled ⇒ τ's body, or one that it called, has seen a cancellation.

    The same of an item that comes after the cancel: whoever suppresses a cancellation has seen it. A task group
    in which something has failed swallows one unseen, as asyncio has it.
    """
    for label, task in story.tasks.items():
        if not task.cancelled:
            continue
        cancel = task.cancelled[0]
        seen = [
            item.index for member in story.family(label) for item in member.body_cancelled if item.index > cancel.index
        ]
        for item in (*task.items, *task.ended):
            if item.index < cancel.index or value_of(item, "outcome") in LEFT:
                continue
            if not any(index < item.index for index in seen) and not _a_group_has_failed(story, label, item.index):
                what = value_of(item, "outcome") or "an item"
                yield Violation(
                    invariant="C3",
                    task=label,
                    sentence=f"{label} was cancelled at {cancel.at:.6f} and its caller got {what}, though no body had "
                    "seen the cancellation",
                    events=(cancel.index, item.index),
                )
                break


def _a_group_has_failed(story: Story, label: str, before: int) -> bool:
    """Whether a body gathers, and one of what it gathers has failed: then the group swallows a cancellation."""
    if not any(step.op == "gather" for body, _ in story.programs_of_family(label) for step in walk(body.steps)):
        return False
    nested = (member for member in story.family(label) if member.label != label)
    return any(
        ended.index < before and value_of(ended, "outcome") in FAILED for member in nested for ended in member.ended
    )


def only_the_family_is_touched(story: Story) -> Iterator[Violation]:
    """C4: the body of τ sees a cancellation ⇒ τ or an ancestor was cancelled, or there is another reason for it.

    Its worker is stopping, its session is lost, the call above it has ended, or the program itself makes one.
    """
    closing = story.of("pool.closing")
    first_close = closing[0].index if closing else 1 << 60
    for label, task in story.tasks.items():
        if not task.body_cancelled or _cancels_itself(story, label):
            continue
        for seen in task.body_cancelled:
            if seen.index > first_close or story.cancelled_before(label, seen.index):
                break
            if _ended_from_above(story, label, seen) or _orphaned(story, label, seen):
                break
            yield Violation(
                invariant="C4",
                task=label,
                sentence=f"the body of {label} on {seen.node} saw a cancellation at {seen.at:.6f} that nobody "
                "asked for",
                events=(seen.index,),
            )
            break


def _cancels_itself(story: Story, label: str) -> bool:
    for body, script in story.programs_of_family(label):
        if any(ask.op == "throw" and ask.text == "cancelled" for ask in script):
            return True
        if _raises_cancelled(body.steps):
            return True
    return False


def _raises_cancelled(steps: object) -> bool:
    return "text='cancelled'" in repr(steps)


def _ended_from_above(story: Story, label: str, seen: At) -> bool:
    """Whether a worker of the task or of an ancestor was stopping, or had lost the session that it came on."""
    for task in story.lineage(label):
        for start in task.frames("start", heard=True):
            node = story.nodes.get(start.node)
            lost = story.sessions_lost.get((start.node, start.event.session))
            reasons = (lost, node.terminated if node is not None else None)
            if any(item is not None and item.index < seen.index for item in reasons):
                return True
    return False


def _orphaned(story: Story, label: str, seen: At) -> bool:
    """Whether a caller above it has gone: its body ended, or another of what it gathered failed."""
    for ancestor in story.lineage(label):
        if ancestor.label != label and any(item.index < seen.index for item in ancestor.body_ended):
            return True
        if any(item.index < seen.index for item in ancestor.ended):
            return True
        parent = ancestor.label.rpartition(".")[0]
        if parent.count(".") and any(
            item.index < seen.index and value_of(item, "outcome") in FAILED
            for sibling in story.tasks.values()
            if sibling.label.rpartition(".")[0] == parent and sibling.label != ancestor.label
            for item in sibling.ended
        ):
            return True
    return False


INVARIANTS = (
    released_within_grace,
    no_begin_after_an_answer,
    cancel_reaches_the_body,
    orphans_are_ended,
    nothing_after_cancel,
    only_the_family_is_touched,
)
