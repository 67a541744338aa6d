"""The *sometimes* states: what a campaign must have been in, or it has explored less than it looks.

A state is a labelled predicate over one run. They are counted over a campaign; one that was never reached is
named, and in a long campaign it is a failure. They say nothing of right and wrong: that is what invariants are for.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import pairwise
from typing import TypeAlias

from wool.sim.invariants.story import At, Story, TaskStory, caller_of, value_of, worker_of
from wool.sim.kinds import POINTS


class Facts:
    """What many states ask for, collected once: cheap words for what has happened."""

    __slots__ = ("story", "words")

    def __init__(self, story: Story) -> None:
        self.story: Story = story
        self.words: set[tuple[str, str]] = set()
        self._collect()

    def has(self, kind: str, what: str = "") -> bool:
        """Whether something of this kind has happened, and was ``what``."""
        return (kind, what) in self.words

    def _collect(self) -> None:
        words, story = self.words, self.story
        for kind, detail in {(event[2], event[5]) for event in story.history.events}:
            words.add((kind, ""))
            if detail:
                words.add((kind, str(detail[0][1])))
                if len(detail) > 1 and kind in ("wire.said", "wire.heard"):
                    words.add((f"{kind} {detail[0][1]}", str(detail[1][1])))
        for task in story.tasks.values():
            if task.ended:
                form = str(value_of(task.made[0], "form")) if task.made else ""
                words.add((f"ended {form}", task.outcome))
                if "." in task.label.partition(".")[2]:
                    words.add(("ended nested", task.outcome))


Predicate: TypeAlias = Callable[[Facts], bool]


def _word(kind: str, what: str = "") -> Predicate:
    return lambda facts: (kind, what) in facts.words


def _task(test: Callable[[Story, TaskStory], bool]) -> Predicate:
    def predicate(facts: Facts) -> bool:
        story = facts.story
        return any(test(story, task) for task in story.tasks.values())

    return predicate


def _before(earlier: Iterable[At], later: Iterable[At]) -> bool:
    first = min((item.index for item in earlier), default=None)
    return first is not None and any(item.index > first for item in later)


def _lost_after(story: Story, task: TaskStory, frame: str, *, unless: str) -> bool:
    """The session of an attempt was lost after ``frame`` was heard, and before ``unless`` was."""
    for item in task.frames(frame, heard=True):
        attempt = item.event.attempt
        lost = story.lost_early.get(item.event.session)
        answers = (other for other in task.frames(unless, heard=True) if other.event.attempt == attempt)
        if lost is not None and lost > item.index and not any(other.index < lost for other in answers):
            return True
    return False


def _never_heard(task: TaskStory, frame: str) -> bool:
    heard = {item.event.attempt for item in task.frames(frame, heard=True)}
    return any(item.event.attempt not in heard for item in task.frames(frame))


def _late_accept(story: Story, task: TaskStory) -> bool:
    return any(
        accept.event.attempt == withdraw.event.attempt and accept.index > withdraw.index
        for withdraw in task.frames("withdraw")
        for accept in task.frames("accept", heard=True)
        if accept.node == withdraw.node
    )


def _cancel_crosses(story: Story, task: TaskStory) -> bool:
    """A cancel and a result passed each other on the wire."""
    results = task.frames("result")
    for cancel in task.frames("cancel"):
        heard = [item for item in task.frames("cancel", heard=True) if item.index > cancel.index]
        if any(item.index < (heard[0].index if heard else 1 << 60) for item in results) and not any(
            item.index < cancel.index for item in task.frames("result", heard=True)
        ):
            return True
    return False


def _cancelled_in(state: str) -> Predicate:
    """A call was cancelled while it stood there: queued, offered, running."""

    def test(story: Story, task: TaskStory) -> bool:
        for cancel in task.cancelled:
            offered = any(item.index < cancel.index for item in task.frames("offer"))
            started = any(item.index < cancel.index for item in task.frames("start"))
            began = any(item.index < cancel.index for item in task.began)
            ended = any(item.index < cancel.index for item in task.body_ended)
            here = {
                "queued": not offered,
                "offered": offered and not started,
                "started": started and not began,
                "running": began and not ended,
                "answered": ended,
            }
            if here[state]:
                return True
        return False

    return _task(test)


def _second_worker(story: Story, task: TaskStory) -> bool:
    workers = {worker_of(item.event.attempt) for item in task.frames("offer")}
    return len(workers) > 1 and bool(task.began)


def _nested_depth(depth: int) -> Predicate:
    return lambda facts: any(label.count(".") > depth for label, task in facts.story.tasks.items() if task.began)


def _crashed_in_body(story: Story, task: TaskStory) -> bool:
    for began in task.began:
        node = story.nodes.get(began.node)
        if node is not None and node.crashed is not None and not task.body_ended:
            return node.crashed.index > began.index
    return False


def _abandoned(story: Story, task: TaskStory) -> bool:
    """The caller died, and the body that it had started was told to end."""
    caller = story.nodes.get(task.caller)
    if caller is None or caller.crashed is None:
        return False
    return any(item.index > caller.crashed.index for item in (*task.body_cancelled, *task.finals))


def _offered_again_at_once(story: Story, task: TaskStory) -> bool:
    rejected = [item for item in task.frames("reject", heard=True) if value_of(item, "code") == "draining"]
    return any(
        other.index > item.index and other.at - item.at < 0.001 for item in rejected for other in task.frames("offer")
    )


def _went_on_in_another_session(facts: Facts) -> bool:
    return any(session.rpartition("/")[2] not in ("0", "1") for _, session in facts.story.sessions_opened)


def _both_cancel_and_finally(story: Story, task: TaskStory) -> bool:
    return _before(task.body_cancelled, task.finals)


def _idle_generator_loses_its_session(story: Story, task: TaskStory) -> bool:
    if not task.items or task.outcome != "lost":
        return False
    return any(step.index > lost.index for step in task.steps[-1:] for lost in _losses(story, task))


def _losses(story: Story, task: TaskStory) -> Iterator[At]:
    for start in task.frames("start"):
        lost = story.sessions_lost.get((start.node, start.event.session))
        if lost is not None:
            yield lost


def _full_window(facts: Facts) -> bool:
    """Some call waited for room: it was bound while as many as may be were offered and not started."""
    window = facts.story.plan.knobs.window_tasks
    return window <= 2 and any(
        offer.at - bound.at > 0.001
        for task in facts.story.tasks.values()
        for bound, offer in zip(task.bound, task.frames("offer"), strict=False)
    )


def _restarted(facts: Facts) -> bool:
    return any(not name.endswith("#0") for name in facts.story.nodes)


def _old_address(facts: Facts) -> bool:
    """An incarnation other than the first has run something."""
    return any(not began.node.endswith("#0") for task in facts.story.tasks.values() for began in task.began)


def _drained_with_work(story: Story, task: TaskStory) -> bool:
    for began in task.began:
        node = story.nodes.get(began.node)
        told = node.terminated if node is not None else None
        if told is None or told.at >= story.ends or began.index > told.index:
            continue
        if any(item.index > told.index for item in task.body_ended):
            return True
    return False


def _accepted_while_draining(story: Story, task: TaskStory) -> bool:
    """Start was heard by a worker that had been told to stop: accept binds."""
    for start in task.frames("start", heard=True):
        node = story.nodes.get(start.node)
        if node is not None and node.terminated is not None and node.terminated.index < start.index:
            return True
    return False


def _view_differs_from_truth(facts: Facts) -> bool:
    """A worker was offered something when it was gone already."""
    dead = {str(value_of(item, "worker")): item.index for item in facts.story.of("truth.dead")}
    return any(
        dead.get(worker_of(offer.event.attempt), 1 << 60) < offer.index
        for task in facts.story.tasks.values()
        for offer in task.frames("offer")
    )


def _at_the_same_instant(facts: Facts) -> bool:
    offers = sorted(
        (offer.at, worker_of(offer.event.attempt))
        for task in facts.story.tasks.values()
        for offer in task.frames("offer")
    )
    return any(one[0] == other[0] and one[1] != other[1] for one, other in pairwise(offers))


def _outlives_its_certificate(facts: Facts) -> bool:
    """A task was offered on a session after the certificate of one of its ends had expired."""
    expired = {
        value_of(item, "target"): item.index
        for item in facts.story.of("fault.injected")
        if value_of(item, "fault") == "expired"
    }
    opened = facts.story.sessions_opened
    for task in facts.story.tasks.values() if expired else ():
        for offer in task.frames("offer"):
            ends = {end(offer.event.attempt).partition("#")[0] for end in (caller_of, worker_of)}
            at = opened.get((offer.node, offer.event.session))
            if at is not None and any(at.index < expired.get(label, -1) < offer.index for label in ends):
                return True
    return False


def _relayed(facts: Facts) -> set[str]:
    return {item.event.attempt for item in facts.story.of("wire.relayed")}


def _opened(facts: Facts) -> set[str]:
    return {session for _, session in facts.story.sessions_opened}


def _rolled(facts: Facts) -> bool:
    """All workers that are found were restarted, one after the other."""
    return facts.has("fault.injected", "rolling-restart") and all(
        facts.has("truth.dead", f"w{number}#0") for number in range(facts.story.plan.topology.workers)
    )


def _runs_on(way: str) -> Predicate:
    """A task began on a worker that was found in this way."""
    return lambda facts: (
        facts.story.plan.topology.finds
        and facts.story.plan.topology.discovery == way
        and any(task.began for task in facts.story.tasks.values())
    )


def _taken_over(facts: Facts) -> bool:
    """At an address of which nothing else was known another worker answers than before."""
    if facts.story.plan.topology.discovery not in ("dns", "static"):
        return False
    at: dict[tuple[str, str], set[str]] = {}
    for node, items in facts.story.views.items():
        for item in items:
            name, address = str(value_of(item, "worker")), str(value_of(item, "address"))
            if name != address:
                at.setdefault((node, address), set()).add(name)
    return any(len(names) > 1 for names in at.values())


def _own_and_found(facts: Facts) -> bool:
    """A hybrid pool runs something on a worker of its own, and something on one that it has found."""
    if facts.story.plan.topology.mode != "hybrid":
        return False
    used = {item.node for task in facts.story.tasks.values() for item in task.began}
    return len({facts.story.is_own(worker) for worker in used}) == 2


def _host_moved(facts: Facts) -> bool:
    """A name of a StaticDiscovery leads to another address than it did."""
    named = {str(value_of(item, "address")) for item in facts.story.of("truth.named")}
    return facts.story.plan.topology.discovery == "static" and len(named) > facts.story.plan.topology.named


def _published_beyond(facts: Facts) -> bool:
    """A worker that a hybrid pool has started is published where other hosts hear of it."""
    story = facts.story
    return story.plan.topology.discovery == "lan" and any(
        story.is_own(str(value_of(item, "worker"))) for item in story.of("truth.published")
    )


def _place_handed_on(facts: Facts) -> bool:
    """A place of a lease is another worker's than it was, while there were more workers than places."""
    topology = facts.story.plan.topology
    if not topology.lease or topology.lease >= len(topology.wanted):
        return False
    for node, items in facts.story.views.items():
        dropped = [item for item in items if item.event.kind == "view.dropped" and item.at < facts.story.ends]
        if node.startswith("c") and any(
            item.event.kind == "view.added" and item.index > dropped[0].index for item in items if dropped
        ):
            return True
    return False


def _suspect_used(story: Story, task: TaskStory) -> bool:
    return any(value_of(item, "suspect") for item in task.bound)


def _outcomes(*forms: str) -> Iterator[tuple[str, Predicate]]:
    for form in forms:
        for outcome in _POSSIBLE[form]:
            yield f"a {form} ends: {outcome}", _word(f"ended {form}", outcome)


_POSSIBLE = {
    "coroutine": (
        "value",
        "raised",
        "cancelled",
        "no-workers",
        "timeout",
        "interrupted",
        "lost",
        "serialization",
        "remote",
    ),
    "generator": (
        "generator-end",
        "closed",
        "dropped",
        "raised",
        "cancelled",
        "timeout",
        "interrupted",
        "lost",
        "serialization",
    ),
    "nested": ("value", "raised", "cancelled", "lost", "interrupted"),
}


def _stays(kind: str) -> Predicate:
    """A fault of this kind has struck and is not over, and a call after the healing has returned."""

    def predicate(facts: Facts) -> bool:
        plan = facts.story.plan
        if not any(plan.faults[index].kind == kind for index in plan.staying) or not facts.has("fault.injected", kind):
            return False
        return any(label.startswith("p.") and task.outcome == "value" for label, task in facts.story.tasks.items())

    return predicate


STATES: dict[str, Predicate] = {
    **dict(_outcomes("coroutine", "generator", "nested")),
    # ---- before start ----
    "an offer is lost": _task(lambda story, task: _never_heard(task, "offer")),
    "an accept is lost": _task(lambda story, task: _never_heard(task, "accept")),
    "a start is lost": _task(lambda story, task: _never_heard(task, "start")),
    "a result is lost": _task(lambda story, task: _never_heard(task, "result")),
    "an offer is heard, and the session lost before the accept is": _task(
        lambda story, task: _lost_after(story, task, "offer", unless="accept")
    ),
    "a start is heard, and the session lost before the result is": _task(
        lambda story, task: _lost_after(story, task, "start", unless="result")
    ),
    "an offer is withdrawn": _word("wire.said", "withdraw"),
    "an accept comes after the withdrawal": _task(_late_accept),
    "a task that was offered in vain begins elsewhere": _task(_second_worker),
    "a worker rejects because it drains": _word("wire.heard reject", "draining"),
    "a worker has forgotten a definition": _word("wire.heard reject", "unknown_definition"),
    "a drained task is offered elsewhere at once": _task(_offered_again_at_once),
    "a call waits for room in a window": _full_window,
    "a suspect is tried": _task(_suspect_used),
    "two workers are offered something in the same instant": _at_the_same_instant,
    # ---- cancellation ----
    "cancelled while queued": _cancelled_in("queued"),
    "cancelled while offered": _cancelled_in("offered"),
    "cancelled between start and begin": _cancelled_in("started"),
    "cancelled while running": _cancelled_in("running"),
    "cancelled after the body ended": _cancelled_in("answered"),
    "a cancel crosses the answer": _task(_cancel_crosses),
    "a body sees its cancellation and runs its finally": _task(_both_cancel_and_finally),
    "a body swallows its cancellation": _task(
        lambda story, task: bool(task.cancelled and task.body_cancelled and task.outcome == "value")
    ),
    "a cancelled task never begins though it was started": _task(
        lambda story, task: bool(task.cancelled and task.frames("start", heard=True) and not task.began)
    ),
    "a cancelled caller waits out its grace": _task(
        lambda story, task: bool(
            task.cancelled
            and task.ended
            and task.outcome == "cancelled"
            and task.ended[0].at - task.cancelled[0].at > 0.9 * story.plan.knobs.cancel_grace
        )
    ),
    # ---- generators ----
    "a value is sent in": _word("body.resumed", "send"),
    "an exception is thrown in": _word("body.resumed", "throw"),
    "a generator is closed where it stands": _word("body.resumed", "close"),
    "a generator that stands at a yield loses its session": _task(_idle_generator_loses_its_session),
    "a generator is let go": _word("call.step", "break"),
    "a body ignores its close": _task(
        lambda story, task: "ignored GeneratorExit" in str(value_of(task.ended[0], "value")) if task.ended else False
    ),
    # ---- nested ----
    "a nested call begins": _nested_depth(1),
    "a call nested in a nested one begins": _nested_depth(2),
    "a worker's own session with itself": lambda facts: any(
        session.partition("/")[0].partition(">")[0] == worker_of(session) for _, session in facts.story.sessions_opened
    ),
    # ---- processes ----
    "a worker is killed": _word("fault.injected", "crash"),
    "a worker dies while a body runs": _task(_crashed_in_body),
    "a caller dies, and what it started is ended": _task(_abandoned),
    **{
        f"a worker dies as soon as it is {point}": _word("node.crashed", f"the plan says so: {point}")
        for point in POINTS
    },
    "a process stands still": _word("node.paused"),
    "a worker stands still when the last pool closes": _word("fault.injected", "freeze"),
    "a session dies of silence": lambda facts: any(
        "ping" in str(value_of(item, "reason")) for item in facts.story.of("wire.lost")
    ),
    "a worker drains with work under way": _task(_drained_with_work),
    "a start reaches a worker that is stopping": _task(_accepted_while_draining),
    "a worker comes up again": _restarted,
    "a second incarnation runs something": _old_address,
    "a worker process fails to start": _word("fault.injected", "fail-start"),
    "a pair of processes opens a second stream": _went_on_in_another_session,
    # ---- discovery ----
    "a worker is dropped from a view": _word("view.dropped"),
    "a worker is offered something when it is gone": _view_differs_from_truth,
    **{
        f"discovery: {kind}": _word("fault.injected", kind)
        for kind in (
            "view-delay",
            "view-duplicate",
            "view-reorder",
            "view-lose",
            "ghost",
            "premature-drop",
            "flap",
            "late-subscriber",
            "split-view",
            "torn-write",
            "dead-publisher",
            "table-full",
        )
    },
    **{
        f"a probe succeeds while this stays: {kind}": _stays(kind)
        for kind in ("pause", "partition", "swallow", "refuse", "clog")
    },
    # ---- beyond one machine ----
    **{f"a body begins on a worker found in this way: {way}": _runs_on(way) for way in ("lan", "dns", "static")},
    **{
        f"finding: {kind}": _word("fault.injected", kind)
        for kind in (
            "packet-lose",
            "packet-late",
            "packet-twice",
            "segment-split",
            "lost-goodbye",
            "forged-goodbye",
            "forged",
            "twin",
            "answer-stale",
            "answer-lost",
            "answer-denied",
            "answer-split",
            "zone-flap",
            "hello-flap",
            "rolling-restart",
        )
    },
    "all workers were restarted, one after the other": _rolled,
    "a host name leads to another address": _host_moved,
    "a hybrid pool publishes over the network": _published_beyond,
    "a successor answers at an address": _taken_over,
    "a hybrid pool uses workers of its own and others": _own_and_found,
    "a place of a lease is handed on": _place_handed_on,
    "a worker without the tag is there": lambda facts: facts.story.plan.topology.untagged > 0,
    # ---- the wire ----
    **{
        f"wire: {kind}": _word("fault.injected", kind)
        for kind in ("refuse", "swallow", "reset", "delay", "partition", "slow", "clog")
    },
    # ---- who is who ----
    **{
        f"trust: {kind}": _word("fault.injected", kind)
        for kind in (
            "other-secret",
            "other-version",
            "expired",
            "not-yet-valid",
            "wrong-authority",
            "wrong-name",
            "wrong-usage",
            "relay",
            "rotation",
        )
    },
    "an identity is asked for": lambda facts: facts.story.plan.topology.identities and facts.has("wire.met", ""),
    "a caller without a certificate is served": lambda facts: (
        facts.story.plan.topology.one_way and facts.has("wire.opened", "")
    ),
    "who is in between is refused": lambda facts: bool(_relayed(facts) - _opened(facts)),
    "who is in between can read nothing": lambda facts: bool(_relayed(facts) & _opened(facts)),
    "a certificate is refused": _word("wire.refused"),
    "a session is used after a certificate of its ends has expired": _outlives_its_certificate,
    "a stall": lambda facts: bool(facts.story.plan.stalls),
    "arguments in chunks": lambda facts: any(
        call.size > facts.story.plan.knobs.inline_bytes for call in facts.story.plan.calls
    ),
}
"""All states, by label."""


LONG_PLANS = 20_000
"""A search of so many plans reaches the rarest state many times over, unless something keeps it from there."""


def never_reached(counts: Mapping[str, int]) -> list[str]:
    """Name the states that are not among those counted."""
    return [label for label in STATES if not counts.get(label)]


ENOUGH = 100
"""A state that was reached so often is not looked for any more: that it is reached is known."""


class Coverage:
    """Counts, over many runs, which states were reached; up to `ENOUGH`."""

    def __init__(self) -> None:
        self.runs: int = 0
        self.counts: Counter[str] = Counter()

    def add(self, story: Story) -> None:
        """Look at one run."""
        self.runs += 1
        counts = self.counts
        facts = Facts(story)
        for label, predicate in STATES.items():
            if counts[label] < ENOUGH and predicate(facts):
                counts[label] += 1

    def merge(self, runs: int, counts: dict[str, int]) -> None:
        """Add what another process has counted."""
        self.runs += runs
        self.counts.update(counts)

    @property
    def reached(self) -> int:
        """How many states were reached."""
        return sum(self.counts[label] > 0 for label in STATES)

    def missing(self) -> list[str]:
        """Name the states that were never reached."""
        return never_reached(self.counts)
