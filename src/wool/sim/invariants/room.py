"""R: no more bodies are at work on a worker than it has places, none of which is idle while somebody waits for it.

And its admission hook is heard: no more tasks are under way there than it takes.
"""

from __future__ import annotations

from collections.abc import Iterator

from wool.sim.history import Event
from wool.sim.invariants.story import Story, Violation, worker_of

_OF_BODIES = frozenset({"body.began", "body.ended", "body.yielded", "body.resumed", "call.made", "call.ended"})
_OF_OFFERS = frozenset({"wire.said", "wire.heard", "wire.lost"})
IDLE_SECONDS = 0.1
"""A place may be idle for so long while an offer waits: a hook may think, and news cross from loop to loop."""


def no_more_at_work_than_places(story: Story) -> Iterator[Violation]:
    """R: |{τ at w: begun, not ended, not at a yield, no nested call of it under way}| ≤ places, at any time."""
    places = story.plan.knobs.places
    if not places:
        return
    at = _AtWork()
    for index, event in enumerate(story.history.events):
        if event.kind not in _OF_BODIES:
            continue
        at.see(event)
        bodies = at.in_step.get(event.node, ())
        at_work = at.work(event.node, nested=at.nested) if len(bodies) > places else []
        if len(at_work) > places:
            yield Violation(
                invariant="R",
                task=event.task,
                sentence=f"{event.node} has {places} places, and at work are {', '.join(sorted(at_work))}",
                events=(index,),
            )
            return


def no_place_is_idle_while_an_offer_waits(story: Story) -> Iterator[Violation]:
    """R: an offer waits at w ⇒ |{at work at w}| + |{accepted at w, not begun}| ≥ places, but for ``IDLE_SECONDS``.

    A body of whose generators one may still be asked counts as at work; whoever is held up by the plan is excused, and
    an offer whose payload may come later.
    """
    knobs = story.plan.knobs
    if not knobs.places or knobs.inline_bytes < 1024:
        return
    large = frozenset(call.label for call in story.plan.calls if call.size)
    at = _AtWork()
    doors: dict[str, _Offers] = {}
    idle_since: dict[str, tuple[float, int]] = {}
    for index, event in enumerate(story.history.events):
        node, kind = event.node, event.kind
        if kind in _OF_BODIES:
            at.see(event)
        elif kind not in _OF_OFFERS:
            if kind in ("node.crashed", "node.exited", "node.terminated"):
                idle_since.pop(node, None)
                doors.pop(node, None)
            continue
        if not node.startswith("w"):
            continue
        door = doors.setdefault(node, _Offers(large))
        door.see(event)
        since, began = idle_since.pop(node, (event.at, index))
        if event.at - since > IDLE_SECONDS + story.disturbance(node):
            yield Violation(
                invariant="R",
                task=event.task,
                sentence=f"{node} had one of {knobs.places} places idle for {event.at - since:.3f} s while offers wait",
                events=(began, index),
            )
            return
        if door.waiting and len(at.work(node, nested=at.nested_coroutines)) + len(door.accepted) < knobs.places:
            idle_since[node] = (since, began)


def no_more_under_way_than_are_admitted(story: Story) -> Iterator[Violation]:
    """R: |{τ: accepted at w, not withdrawn, end not said, session not lost}| ≤ admits, at any time."""
    admits = story.plan.knobs.admits
    if not admits:
        return
    doors: dict[str, _Offers] = {}
    for index, event in enumerate(story.history.events):
        if event.kind not in _OF_OFFERS or not event.node.startswith("w"):
            continue
        door = doors.setdefault(event.node, _Offers())
        door.see(event)
        if len(door.taken) > admits:
            yield Violation(
                invariant="R",
                task=event.task,
                sentence=f"the hook of {event.node} takes {admits} at a time, and under way are "
                f"{', '.join(sorted(door.taken))}",
                events=(index,),
            )
            return


class _AtWork:
    """Which bodies are in a step on each worker, and which of them have nested calls under way."""

    def __init__(self) -> None:
        self.in_step: dict[str, set[str]] = {}
        self.nested: dict[str, int] = {}
        self.nested_coroutines: dict[str, int] = {}
        self._parents: dict[str, tuple[str, int]] = {}

    def see(self, event: Event) -> None:
        kind, task = event.kind, event.task
        bodies = self.in_step.setdefault(event.node, set())
        if kind in ("body.began", "body.resumed"):
            bodies.add(task)
        elif kind in ("body.ended", "body.yielded"):
            bodies.discard(task)
        else:
            if kind == "call.made":
                self._parents[task] = (str(event.get("parent") or ""), event.get("form") == "coroutine")
            parent, coroutine = self._parents.get(task, ("", False))
            turn = 1 if kind == "call.made" else -1
            self.nested[parent] = self.nested.get(parent, 0) + turn
            if coroutine:
                self.nested_coroutines[parent] = self.nested_coroutines.get(parent, 0) + turn

    def work(self, node: str, *, nested: dict[str, int]) -> list[str]:
        return [body for body in self.in_step.get(node, ()) if not nested.get(body)]


class _Offers:
    """What was offered to one worker: waits, is accepted and not begun, is under way."""

    def __init__(self, large: frozenset[str] = frozenset()) -> None:
        self._large = large
        self.waiting: set[str] = set()
        self.accepted: set[str] = set()
        self.taken: set[str] = set()
        self._attempts: dict[str, str] = {}

    def see(self, event: Event) -> None:
        attempt = event.attempt
        if event.kind == "body.began":
            self.accepted.discard(self._attempts.get(event.task, ""))
        elif event.kind == "wire.lost":
            for group in (self.waiting, self.accepted, self.taken):
                group.difference_update([one for one in group if one.startswith(f"{attempt}:")])
        elif event.kind in _OF_OFFERS and worker_of(attempt) == event.node:
            # One that calls itself is at both ends: what its caller's end says and hears is of no account.
            word = (event.kind == "wire.heard", event.get("frame"))
            if word == (True, "offer"):
                if event.task not in self._large:
                    self.waiting.add(attempt)
                self._attempts[event.task] = attempt
            elif word == (False, "accept"):
                self.waiting.discard(attempt)
                self.accepted.add(attempt)
                self.taken.add(attempt)
            elif word in ((False, "reject"), (True, "withdraw")) or (
                word == (False, "result") and event.get("result") != "yield"
            ):
                for group in (self.waiting, self.accepted, self.taken):
                    group.discard(attempt)


INVARIANTS = (
    no_more_at_work_than_places,
    no_place_is_idle_while_an_offer_waits,
    no_more_under_way_than_are_admitted,
)
