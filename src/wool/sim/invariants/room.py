"""R: no more bodies are at work on a worker than there are places."""

from __future__ import annotations

from collections.abc import Iterator

from wool.sim.invariants.story import Story, Violation

_OF_BODIES = frozenset({"body.began", "body.ended", "body.yielded", "body.resumed", "call.made", "call.ended"})


def no_more_at_work_than_places(story: Story) -> Iterator[Violation]:
    """R: |{τ at w: begun, not ended, not at a yield, no nested call of it under way}| ≤ places, at any time."""
    places = story.plan.knobs.places
    if not places:
        return
    in_step: dict[str, set[str]] = {}
    nested: dict[str, int] = {}
    parents: dict[str, str] = {}
    for index, event in enumerate(story.history.events):
        kind, task = event.kind, event.task
        if kind not in _OF_BODIES:
            continue
        bodies = in_step.setdefault(event.node, set())
        if kind in ("body.began", "body.resumed"):
            bodies.add(task)
        elif kind in ("body.ended", "body.yielded"):
            bodies.discard(task)
        elif kind == "call.made":
            parent = parents[task] = str(event.get("parent") or "")
            nested[parent] = nested.get(parent, 0) + 1
        else:
            parent = parents.get(task, "")
            nested[parent] = nested.get(parent, 0) - 1
        at_work = [body for body in bodies if not nested.get(body)] if len(bodies) > places else []
        if len(at_work) > places:
            yield Violation(
                invariant="R",
                task=task,
                sentence=f"{event.node} has {places} places, and at work are {', '.join(sorted(at_work))}",
                events=(index,),
            )
            return


INVARIANTS = (no_more_at_work_than_places,)
