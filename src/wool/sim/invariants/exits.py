"""X and L: everything ends, leaves nothing behind, and goes on after the faults have gone."""

from __future__ import annotations

from collections.abc import Iterator

from wool.sim.bodies import walk
from wool.sim.history import KINDS
from wool.sim.invariants.story import Story, Violation, value_of

LEAKS = tuple(kind for kind in KINDS if kind.startswith("leak."))
SLACK_SECONDS = 1.0


def nothing_is_left(story: Story) -> Iterator[Violation]:
    """X: at the exit of a pool, a live node has no task, timer, stream, subscription or permit left."""
    for kind in LEAKS:
        for item in story.of(kind):
            if 0 < value_of(item, "calls", 0) <= _generators_left(story, item.node):
                continue
            if not story.died(item.node, item.index):
                yield Violation(
                    invariant="X",
                    task=item.event.task,
                    sentence=f"{item.node} was left with a {kind.partition('.')[2]}: {value_of(item, 'what')}",
                    events=(item.index,),
                )


def _generators_left(story: Story, node: str) -> int:
    """How many generators a node has not taken to their end: one that yields in its ``finally`` is open to the last."""
    return sum(
        task.caller == node and task.outcome != "generator-end" and program[0].generator
        for label, task in story.tasks.items()
        if (program := story.program(label)) is not None
    )


def nothing_goes_unhandled(story: Story) -> Iterator[Violation]:
    """X: nothing reaches a loop's exception handler, but a generator that ignores its close (as it does locally)."""
    for item in story.of("loop.error"):
        message = str(value_of(item, "message"))
        if "ignored GeneratorExit" in message or _own_finalizer(story, message):
            continue
        yield Violation(
            invariant="X",
            task=item.event.task,
            sentence=f"the loop of {item.node} was told: {message}",
            events=(item.index,),
        )


def _own_finalizer(story: Story, message: str) -> bool:
    """Whether a generator that was let go may have raised what its own body raises."""
    if "asynchronous generator" not in message:
        return False
    return any(
        step.op in ("raise", "catch", "finally", "call", "gather")
        for body, _ in story.programs.values()
        if body.generator
        for step in walk(body.steps)
    )


def exit_ends_in_time(story: Story) -> Iterator[Violation]:
    """X: closing(n) at t ⇒ closed(n) by t + T, whatever fails; T is the sum of what a stop may take."""
    knobs = story.plan.knobs
    limit = knobs.drain + 2 * knobs.cancel_grace + 2 * knobs.stop + 4 * knobs.close + knobs.handshake + SLACK_SECONDS
    for closing in story.of("pool.closing"):
        node = closing.node
        closed = next((item for item in story.of("pool.closed") if item.node == node), None)
        until = closing.at + limit + story.disturbance(node)
        if story.died(node) or (closed is None and story.end <= until):
            continue
        if closed is None or closed.at > until:
            yield Violation(
                invariant="X",
                task="",
                sentence=f"the pool of {node} began to close at {closing.at:.6f} and "
                + (f"took {closed.at - closing.at:.3f} s" if closed is not None else "never came to its end")
                + f"; {limit:.3f} s are allowed",
                events=(closing.index, *([closed.index] if closed is not None else [])),
            )


def the_run_ends(story: Story) -> Iterator[Violation]:
    """L: the driver comes to its end: no deadlock, nothing spins, nothing outlasts the horizon."""
    if story.how in ("", "done"):
        return
    ended = story.of("run.ended")[-1]
    waiting = [
        label for label, task in story.tasks.items() if task.made and not task.ended and not story.died(task.caller)
    ]
    yield Violation(
        invariant="L",
        task=waiting[0] if waiting else "",
        sentence=f"the run did not come to its end ({story.how})"
        + (f"; {', '.join(waiting)} had no outcome" if waiting else ""),
        events=(ended.index,),
    )


def probes_succeed(story: Story) -> Iterator[Violation]:
    """L: after the healing, every probe succeeds, if there is a worker that lives and was not told to stop.

    Where some faults stay for ever, the same: if that worker is one of the core, which they do not strike.
    """
    for label, task in story.tasks.items():
        if not label.startswith("p") or not task.made:
            continue
        if story.died(task.caller) or not _served(story, task.made[0].index):
            continue
        if any(value_of(reject, "code") == "admission" for reject in task.frames("reject", heard=True)):
            continue
        if story.plan.knobs.places and task.outcome == "timeout" and _at_work_since(story, task.made[0].at):
            continue  # it has waited for a place, behind who had one all the while
        if task.outcome and task.outcome != "value":
            yield Violation(
                invariant="L",
                task=label,
                sentence=f"after the faults were over, the probe {label} of {task.caller} ended with {task.outcome} "
                f"{value_of(task.ended[0], 'value', '')}",
                events=(task.made[0].index, task.ended[0].index),
            )


def _at_work_since(story: Story, at: float) -> bool:
    """Whether a body that had begun before went on then."""
    return any(
        task.began and task.began[0].at < at and (not task.body_ended or task.body_ended[-1].at > at)
        for task in story.tasks.values()
    )


def _served(story: Story, index: int) -> bool:
    """Whether there was a worker to call, before the event at ``index``: a pool starts no new ones."""
    return any(
        name.startswith("w")
        and story.is_wanted(name)
        and name.partition("#")[0] not in story.plan.cut_off
        and not story.died(name, index)
        and (node.terminated is None or node.terminated.index > index)
        for name, node in story.nodes.items()
    )


INVARIANTS = (nothing_is_left, nothing_goes_unhandled, exit_ends_in_time, the_run_ends, probes_succeed)
