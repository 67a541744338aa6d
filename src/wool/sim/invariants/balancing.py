"""B: who is tried, how often, and that one worker's trouble is its own."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from wool.limits import KIB
from wool.sim.invariants.story import At, Story, TaskStory, Violation, caller_of, value_of, worker_of

SAME_INSTANT_SECONDS = 0.0005
"""Steps of a loop take a microsecond each; an offer follows its binding in the same step."""
SPARE_ATTEMPTS = 4
SMALL = ("start", "withdraw", "cancel", "accept", "reject")
"""Frames of a few bytes, which wait for nobody's payload."""
ANNOUNCED_SECONDS = 0.1
"""A large offer is announced, and refused or not, before its last chunk comes."""


def candidates_are_in_view(story: Story) -> Iterator[Violation]:
    """B: bind(τ, w, C) at n ⇒ w ∈ C, and every one of C is in n's view then."""
    for label, task in story.tasks.items():
        for bound in task.bound:
            if story.has_several(bound.node):
                continue
            worker, candidates = value_of(bound, "worker"), value_of(bound, "candidates", ())
            view = story.view_before(bound.node, bound.index)
            strangers = [name for name in candidates if name not in view]
            # A definition that the worker has forgotten is sent again, without a choice.
            if strangers or (
                worker not in candidates
                and not any(item.index < bound.index for item in task.frames("reject", heard=True))
            ):
                yield Violation(
                    invariant="B",
                    task=label,
                    sentence=f"{label} was bound to {worker} out of {', '.join(map(str, candidates)) or 'nobody'}"
                    + (f", and {', '.join(map(str, strangers))} was not in view" if strangers else ""),
                    events=(bound.index,),
                )
                break


def attempts_are_bounded(story: Story) -> Iterator[Violation]:
    """B: |offers of τ| ≤ twice the workers it could know of, and one per patience that passed, and a few to spare.

    Where workers have places, each may say in each patience that it has none free, that it does not know the
    definition, and nothing until a place is free.
    """
    patience, places = story.plan.knobs.patience, story.plan.knobs.places
    workers = {name for name in story.nodes if name.startswith("w")}
    for label, task in story.tasks.items():
        offers = task.frames("offer")
        if len(offers) <= SPARE_ATTEMPTS:
            continue
        lasted = offers[-1].at - offers[0].at
        rounds = 1.5 * (1 + lasted / patience) if places else 1
        most = 2 * max(len(workers), 1) * rounds + lasted / patience + SPARE_ATTEMPTS
        if len(offers) > most:
            yield Violation(
                invariant="B",
                task=label,
                sentence=f"{label} was offered {len(offers)} times in {lasted:.3f} s, with {len(workers)} workers",
                events=tuple(item.index for item in offers),
            )


def round_robin_is_even(story: Story) -> Iterator[Violation]:
    """B: without faults, and while the candidates stay, |bound(w) - bound(w')| ≤ 1 for all w, w' of one caller."""
    if story.plan.faults or story.plan.stalls or story.plan.noise.amplitude:
        # A worker that is slow to connect is suspect, and passed over.
        return
    first: dict[str, list[At]] = {}
    for task in story.tasks.values():
        if len(task.bound) > 1 or any(value_of(item, "suspect") for item in task.bound):
            # Bound anew: the balancer was asked twice for one call.
            return
        for item in task.bound:
            if item.at < story.ends and item.node.startswith("c"):
                first.setdefault(item.node, []).append(item)
    for node, items in first.items():
        items.sort(key=lambda item: item.index)
        changed = [item.index for item in story.views.get(node, []) if item.event.kind != "view.updated"]
        stretches: dict[tuple[int, frozenset[str]], list[At]] = {}
        for item in items:
            # One that has refused stays in view, and is no candidate any more.
            who = frozenset(map(str, value_of(item, "candidates", ())))
            stretches.setdefault((sum(index < item.index for index in changed), who), []).append(item)
        for stretch in stretches.values():
            candidates = [str(name) for name in value_of(stretch[0], "candidates", ())]
            counts = Counter(dict.fromkeys(candidates, 0))
            counts.update(str(value_of(item, "worker")) for item in stretch)
            if counts and max(counts.values()) - min(counts.values()) > 1:
                yield Violation(
                    invariant="B",
                    task="",
                    sentence=f"{node} bound {len(stretch)} calls unevenly: "
                    + ", ".join(f"{name} {count}" for name, count in counts.items()),
                    events=tuple(item.index for item in stretch),
                )


def nobody_waits_for_others(story: Story) -> Iterator[Violation]:
    """B: bind(τ, w) at t, the session with w open and room in its window ⇒ offer(τ → w) at t.

    So a worker that is swallowed, slow or silent delays the calls that are bound elsewhere by nothing.
    """
    window = story.plan.knobs.window_tasks
    unstarted = _Unstarted(story)
    for label, task in story.tasks.items():
        for bound in task.bound if not story.too_large(label) else ():
            worker = str(value_of(bound, "worker"))
            if worker == bound.node or story.has_several(bound.node):
                # Both ends of a worker's session with itself are written down alike.
                continue
            session = unstarted.session(bound, worker)
            if session is None or unstarted.count(session, bound.index) >= window:
                continue
            if any(
                item.index > bound.index and item.at <= bound.at + SAME_INSTANT_SECONDS
                for item in (*task.frames("offer"), *task.ended)
            ):
                continue
            if story.died(bound.node, _index_after(story, bound)) or story.end <= bound.at + SAME_INSTANT_SECONDS:
                continue
            if unstarted.waited_for(session, bound, window):
                continue
            yield Violation(
                invariant="B",
                task=label,
                sentence=f"{label} was bound to {worker} at {bound.at:.6f}, whose session was open and had "
                "room, and was not offered then",
                events=(bound.index, *_next_offer(task, bound)),
            )
            break


def _index_after(story: Story, bound: At) -> int:
    """Return the place of the first event that comes noticeably later."""
    events = story.history.events
    index = bound.index
    while index < len(events) and events[index].at <= bound.at + SAME_INSTANT_SECONDS:
        index += 1
    return index


def _next_offer(task: TaskStory, bound: At) -> tuple[int, ...]:
    return tuple(item.index for item in task.frames("offer") if item.index > bound.index)[:1]


class _Unstarted:
    """The windows: what was offered on each session and not settled, at any place in the history."""

    def __init__(self, story: Story) -> None:
        self._story = story
        self._changes: dict[str, list[tuple[int, int]]] = {}
        self._added: dict[tuple[str, str], list[int]] = {}
        for item in story.of("view.added"):
            self._added.setdefault((item.node, str(value_of(item, "worker"))), []).append(item.index)
        for task in story.tasks.values():
            settled: set[str] = set()
            frames = [
                (item.index, frame, item.event)
                for frame in ("offer", "start", "withdraw", "reject")
                for item in (*task.frames(frame), *task.frames(frame, heard=True))
            ]
            for index, frame, event in sorted(frames):
                attempt = event.attempt
                if event.node != caller_of(attempt):
                    continue
                if frame == "offer":
                    self._changes.setdefault(event.session, []).append((index, 1))
                elif attempt not in settled:
                    settled.add(attempt)
                    self._changes.setdefault(event.session, []).append((index, -1))

    def session(self, bound: At, worker: str) -> str | None:
        """Return the session of ``bound``'s node with a worker that was open then, if there was one.

        One that is older than the worker's place in the view belongs to a place that it had before.
        """
        node = bound.node
        added = max((index for index in self._added.get((node, worker), ()) if index < bound.index), default=0)
        for session, opened in self._story.sessions_between.get((node, worker), ()):
            lost = self._story.sessions_lost.get((node, session))
            if added < opened.index < bound.index and (lost is None or lost.at > bound.at + SAME_INSTANT_SECONDS):
                return session
        return None

    def count(self, session: str, index: int) -> int:
        """Return how many offers were unstarted before the event at ``index``."""
        return sum(change for place, change in self._changes.get(session, []) if place < index)

    def waited_for(self, session: str, bound: At, window: int) -> bool:
        """Whether others waited there already, since the window had been full not long before."""
        total = 0
        for place, change in sorted(self._changes.get(session, [])):
            if place >= bound.index:
                return False
            total += change
            if total >= window:
                return True
        return False


def nothing_small_waits_for_payloads(story: Story) -> Iterator[Violation]:
    """B: say(f) at t over a link that nothing disturbs, f small ∧ heard ⇒ heard by t + latency: no chunk goes before.

    So a start, a cancel or an answer to an offer is not late because somebody's arguments are large.
    """
    struck = {fault.target for fault in story.plan.faults if fault.group == "wire"}
    for label, task in story.tasks.items():
        for frame in SMALL:
            heard = {item.event.attempt: item for item in reversed(task.frames(frame, heard=True))}
            for said in task.frames(frame):
                attempt = said.event.attempt
                there, ends = heard.get(attempt), (caller_of(attempt), worker_of(attempt))
                if there is None or there.at <= said.at + story.plan.knobs.latency + SAME_INSTANT_SECONDS:
                    continue
                if ">".join(end.partition("#")[0] for end in ends) in struck:
                    continue
                late = there.at - said.at - story.plan.knobs.latency
                if late > SAME_INSTANT_SECONDS + sum(map(story.disturbance, ends)):
                    yield Violation(
                        invariant="B",
                        task=label,
                        sentence=f"{said.node} said {frame} for {label}, which came {late:.3f} s too late",
                        events=(said.index, there.index),
                    )


def nobody_is_evicted_for_good(story: Story) -> Iterator[Violation]:
    """B: after everything has healed and been quiet, n probes in a row reach each of n live workers in view.

    So a transient fault never evicts for good. The first probe comes before the quiet time, and does not count.
    """
    healed = story.healed
    if healed is None or not value_of(healed, "all", False):
        return
    probes: dict[str, list[At]] = {}
    for label, task in story.tasks.items():
        if label.startswith("p.") and label != "p.0" and task.bound:
            if len(task.bound) > 1:
                return
            probes.setdefault(task.bound[0].node, []).append(task.bound[0])
    for node, items in probes.items():
        first, last = min(item.index for item in items), max(item.index for item in items)
        known = sorted(name for name in story.view_before(node, first) if not story.died(name, last))
        if len(items) < len(known) or story.view_before(node, last) != story.view_before(node, first):
            continue
        bound = {value_of(item, "worker") for item in items}
        for worker in known:
            if worker not in bound and worker in story.nodes:
                yield Violation(
                    invariant="B",
                    task="",
                    sentence=f"{worker} lives and {node} knows of it, and none of {len(items)} calls was given to it",
                    events=(healed.index, *(item.index for item in items)),
                )


def draining_takes_nothing(story: Story) -> Iterator[Violation]:
    """B: say draining on s ≺ hear offer(τ) on s at w ⇒ w does not accept it. So τ goes elsewhere at once."""
    draining = {
        (item.node, item.event.session): item
        for item in reversed(story.of("wire.said"))
        if value_of(item, "frame") == "draining"
    }
    if not draining:
        return
    for label, task in story.tasks.items():
        for accept in task.frames("accept"):
            since = draining.get((accept.node, accept.event.session))
            if since is None:
                continue
            heard = next(
                (item for item in task.frames("offer", heard=True) if item.event.attempt == accept.event.attempt), None
            )
            # What it had begun to receive before is taken: only whole offers are written down as heard.
            call = story.top(label)
            whole = story.plan.knobs.inline_bytes >= KIB and not (call is not None and call.size)
            margin = 0.0 if whole else ANNOUNCED_SECONDS
            if heard is not None and heard.at > since.at + margin:
                yield Violation(
                    invariant="B",
                    task=label,
                    sentence=f"{accept.node} accepted {label} after it had said that it drains",
                    events=(since.index, heard.index, accept.index),
                )


INVARIANTS = (
    candidates_are_in_view,
    attempts_are_bounded,
    round_robin_is_even,
    nobody_waits_for_others,
    nothing_small_waits_for_payloads,
    nobody_is_evicted_for_good,
    draining_takes_nothing,
)
