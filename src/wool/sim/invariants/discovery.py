"""D: what a caller believes of the workers comes to be what is so."""

from __future__ import annotations

from collections.abc import Iterator

from wool.sim.invariants.story import At, Story, Violation, value_of, worker_of
from wool.sim.quiet import quiet_seconds, reunion_seconds

WITHOUT_UID = ("dns", "static")
"""Kinds of discovery that know workers by their addresses alone."""
DISTORTING = ("view-duplicate", "view-reorder", "view-lose", "ghost", "flap", "premature-drop", "split-view")
"""Faults that make discovery itself say what is not so: the grammar of its events is theirs then."""


def wait_seconds(story: Story) -> float:
    """Return T, with what the plan itself delays."""
    return quiet_seconds(story.plan) + max((fault.amount for fault in story.faults("view-delay")), default=0.0)


def truth_before(story: Story, index: int) -> tuple[set[str], float]:
    """Return the workers that are up and published before the event at ``index``, and since when this is so."""
    truth: set[str] = set()
    since = 0.0
    for item in story.truths:
        if item.index >= index:
            break
        worker = str(value_of(item, "worker"))
        since = item.at
        if item.event.kind == "truth.published":
            truth.add(worker)
        else:
            truth.discard(worker)
    return truth, since


def view_becomes_truth(story: Story) -> Iterator[Violation]:
    """D: quiet for T ⇒ view(n) = {w | up(w) ∧ published(w) ∧ wanted(w)}, for every caller n that lives.

    With a lease it is a part of those, with all own workers, and as many others as the lease has places for. Looked
    at when the caller begins to close: after that nobody cares.
    """
    if story.healed is None or story.plan.topology.discovery in WITHOUT_UID:
        return
    wait = wait_seconds(story) + (reunion_seconds(story.plan) if story.plan.topology.lease else 0.0)
    for closing in story.of("pool.closing"):
        node = closing.node
        truth, since = truth_before(story, closing.index)
        opened = next((item.at for item in story.of("pool.opened") if item.node == node), 0.0)
        quiet = closing.at - max(since, story.healed.at, opened) - story.disturbance(node)
        if quiet < wait or story.died(node, closing.index):
            continue
        view = set(story.view_before(node, closing.index))
        truth = {worker for worker in truth if story.is_wanted(worker)}
        missing, wrong = sorted(truth - view), sorted(view - truth)
        if story.plan.topology.lease:
            places = {worker for worker in truth if not _own_of(story, node, worker)}
            full = len(view & places) >= min(story.plan.topology.lease, len(places))
            missing = [worker for worker in missing if not (full and worker in places)]
        if missing or wrong:
            words = [f"does not know of {', '.join(missing)}"] if missing else []
            words += [f"believes in {', '.join(wrong)}"] if wrong else []
            yield Violation(
                invariant="D",
                task="",
                sentence=f"{node}, {quiet:.3f} s after the last change, {' and '.join(words)}",
                events=(closing.index,),
            )


def _own_of(story: Story, node: str, worker: str) -> bool:
    """Whether the pool of a node has started a worker: it takes no place of the lease."""
    return node.startswith("c0") and story.is_own(worker)


def nothing_is_offered_to_the_dropped(story: Story) -> Iterator[Violation]:
    """D: offer(τ → w) by n ⇒ add(w) at n ≺ it, and no drop(w) between the two.

    So whoever answers at the address of a worker that was in view is not taken for it.
    """
    for label, task in story.tasks.items():
        for offer in task.frames("offer"):
            worker = worker_of(offer.event.attempt)
            last: At | None = None
            for item in story.views.get(offer.node, []):
                if item.index > offer.index:
                    break
                if value_of(item, "worker") == worker:
                    last = item
            if last is None:
                yield Violation(
                    invariant="D",
                    task=label,
                    sentence=f"{label} was offered to {worker}, of which {offer.node} had not been told",
                    events=(offer.index,),
                )
                break
            # One of several proxies may have dropped it, and another one offered.
            if last.event.kind == "view.dropped" and not story.has_several(offer.node):
                yield Violation(
                    invariant="D",
                    task=label,
                    sentence=f"{label} was offered to {worker}, which {offer.node} had dropped at {last.at:.6f}",
                    events=(last.index, offer.index),
                )
                break


def events_follow_the_grammar(story: Story) -> Iterator[Violation]:
    """D: per caller and worker, the events are (added updated* dropped)*; so a late one sees each worker once."""
    if story.faults(*DISTORTING):
        return
    for node, items in story.views.items():
        if not node.startswith("c"):
            # A worker has a proxy per pool that it serves, one after the other or side by side.
            continue
        known: dict[str, At] = {}
        for item in items:
            worker, kind = str(value_of(item, "worker")), item.event.kind
            if (kind == "view.added") == (worker in known):
                before = known.get(worker)
                yield Violation(
                    invariant="D",
                    task="",
                    sentence=f"{node} heard {kind.partition('.')[2]} of {worker}, which it "
                    + ("knew already" if before is not None else "did not know"),
                    events=(*([before.index] if before is not None else []), item.index),
                )
                return
            if kind == "view.dropped":
                del known[worker]
            else:
                known[worker] = item


def subscriptions_follow_the_grammar(story: Story) -> Iterator[Violation]:
    """D: per subscription and worker, what discovery itself says is (added updated* dropped)*, whatever happens to it.

    Heard at its iterator, before anybody swallows what is known already: `events_follow_the_grammar` is of what a
    caller has made of it. A subscription that begins late says added once of each worker that is there.
    """
    known: dict[tuple[str, int, str], At] = {}
    for item in story.together("heard.added", "heard.updated", "heard.dropped"):
        worker, kind = str(value_of(item, "worker")), item.event.kind
        key = (item.node, int(value_of(item, "subscription")), worker)
        before = known.get(key)
        if (kind == "heard.added") == (before is not None):
            yield Violation(
                invariant="D",
                task="",
                sentence=f"subscription {key[1]} of {item.node} said {kind.partition('.')[2]} of {worker}, which it "
                + ("had added already" if before is not None else "had not added"),
                events=(*([before.index] if before is not None else []), item.index),
            )
            return
        if kind == "heard.dropped":
            del known[key]
        else:
            known[key] = item


INVARIANTS = (
    view_becomes_truth,
    nothing_is_offered_to_the_dropped,
    events_follow_the_grammar,
    subscriptions_follow_the_grammar,
)
