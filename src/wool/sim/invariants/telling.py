"""T: what is told of tasks, by task events, is what has happened to them."""

from __future__ import annotations

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


INVARIANTS = (task_events_follow_the_grammar, completion_is_told)
