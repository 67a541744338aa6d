"""T: what is told of tasks, by task events and by the counts of pools, is what has happened to them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from wool.sim.invariants.story import At, Story, Violation, value_of

_TOLD = {"value": "success", "generator-end": "success", "closed": "success", "lost": "lost", "cancelled": "cancelled"}
"""What is told of each outcome of a call; of all others, ``failure``."""


def task_events_follow_the_grammar(story: Story) -> Iterator[Violation]:
    """T: each task event is one that may follow what was told of the task before."""
    for item in story.of("told.wrong"):
        yield Violation(
            invariant="T",
            task=item.event.task,
            sentence=f"{item.node} told {value_of(item, 'type')} of {item.event.task}: {value_of(item, 'what')}",
            events=(item.index,),
        )


def completion_is_told(story: Story) -> Iterator[Violation]:
    """T: a call has ended ⇒ task-completed was told before, with the outcome that its caller got."""
    told: dict[tuple[str, str], At] = {(item.event.task, item.node): item for item in story.of("told.completed")}
    for label, task in story.tasks.items():
        if not task.ended:
            continue
        ended, outcome = task.ended[0], task.outcome
        completed = told.get((label, ended.node))
        program = story.program(label)
        if completed is None:
            # What was cancelled, closed or refused before it began was no task.
            if outcome == "value":
                yield Violation(
                    invariant="T",
                    task=label,
                    sentence=f"{label} has returned, and task-completed was not told",
                    events=(ended.index,),
                )
            continue
        if outcome == "dropped" or program is None:
            continue
        if program[0].generator and outcome not in ("generator-end", "closed"):
            continue  # What a consumer threw in may be what it gets, whatever the call has come to.
        wanted = _TOLD.get(outcome, "failure")
        if completed.index > ended.index or value_of(completed, "outcome") != wanted:
            yield Violation(
                invariant="T",
                task=label,
                sentence=f"{label} has ended as {outcome}, and was told as {value_of(completed, 'outcome')}",
                events=(completed.index, ended.index),
            )


_COUNTED = {
    "value": "done",
    "raised": "failed",
    "remote": "failed",
    "serialization": "failed",
    "interrupted": "interrupted",
    "lost": "lost",
    "no-workers": "unplaced",
    "timeout": "unplaced",
}
"""As what a pool counts each outcome of a coroutine that was certainly called."""
_COUNTS = ("done", "failed", "cancelled", "interrupted", "lost", "unplaced")


def calls_are_counted(story: Story) -> Iterator[Violation]:
    """T: a pool is closed ⇒ each of its calls is in one count, that of the outcome that its caller got."""
    for item in story.of("pool.counted"):
        certain, open_ = Counter[str](), 0
        for label, task in story.tasks.items():
            if task.caller != item.node:
                continue
            program = story.program(label)
            counted = _COUNTED.get(task.outcome)
            if program is None or program[0].generator or counted is None or (counted == "failed" and not task.began):
                # What a consumer threw in may be what it gets; what was cancelled may not have been called.
                open_ += 1
            else:
                certain[counted] += 1
        found = {name: int(value_of(item, name)) for name in _COUNTS}
        in_flight = int(value_of(item, "in_flight"))
        wrong = [name for name, count in found.items() if not certain[name] <= count <= certain[name] + open_]
        made = sum(found.values()) + in_flight
        if wrong or in_flight < 0 or made > sum(certain.values()) + open_:
            yield Violation(
                invariant="T",
                task="",
                sentence=f"the pool of {item.node} has counted {found} and {in_flight} in flight, "
                f"of {dict(certain)} and {open_} calls that may be anything",
                events=(item.index,),
            )


INVARIANTS = (task_events_follow_the_grammar, completion_is_told, calls_are_counted)
