"""V: what a body and its caller read of a `wool.ContextVar` is what they would read of each other locally."""

from __future__ import annotations

from collections.abc import Iterator

from wool.sim.invariants.story import At, Story, Violation, value_of
from wool.sim.workload import set_by_body, set_by_caller

CAME_TO_AN_END = frozenset({"value", "generator-end"})
"""Outcomes that a body has told its caller itself."""
IN_ITS_CONTEXT = frozenset({"returned", "raised"})
"""Ends of a body that come in the context in which it has run. A generator is closed in that of whoever closes it."""


def _reads(story: Story, where: str) -> Iterator[tuple[str, At]]:
    for item in story.of("variable.read"):
        if value_of(item, "where") == where:
            yield item.event.task, item


def a_body_reads_what_its_caller_set(story: Story) -> Iterator[Violation]:
    """V: read(τ) at begin(τ) = what the caller has set before the call, and nothing of another body's."""
    for label, item in _reads(story, "begin"):
        if value_of(item, "value") != set_by_caller(label):
            yield Violation(
                invariant="V",
                task=label,
                sentence=f"the body of {label} began, and read {value_of(item, 'value')!r}; its caller had set "
                f"{set_by_caller(label)!r}",
                events=(item.index,),
            )


def a_body_reads_what_it_set(story: Story) -> Iterator[Violation]:
    """V: read(τ) at end(τ) = what τ has set at its begin, whatever other bodies of the worker have set meanwhile."""
    hows = {label: value_of(task.body_ended[-1], "how") for label, task in story.tasks.items() if task.body_ended}
    for label, item in _reads(story, "end"):
        if value_of(item, "value") != set_by_body(label) and hows.get(label) in IN_ITS_CONTEXT:
            yield Violation(
                invariant="V",
                task=label,
                sentence=f"the body of {label} had set {set_by_body(label)!r}, and read {value_of(item, 'value')!r}",
                events=(item.index,),
            )


def a_caller_reads_what_the_body_set(story: Story) -> Iterator[Violation]:
    """V: end(τ, value) ⇒ the caller reads then what the body of τ has set."""
    for item in story.of("variable.back"):
        label = item.event.task
        task = story.tasks.get(label)
        if task is None or task.outcome not in CAME_TO_AN_END or value_of(item, "value") == set_by_body(label):
            continue
        yield Violation(
            invariant="V",
            task=label,
            sentence=f"{label} has ended, and its caller read {value_of(item, 'value')!r}; the body had set "
            f"{set_by_body(label)!r}",
            events=(item.index, task.ended[0].index),
        )


INVARIANTS = (a_body_reads_what_its_caller_set, a_body_reads_what_it_set, a_caller_reads_what_the_body_set)
