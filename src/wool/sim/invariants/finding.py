"""D and L beyond one machine: names, leases, and workers that are restarted one after the other."""

from __future__ import annotations

from collections.abc import Iterator

from wool.sim.bodies import Body, walk
from wool.sim.invariants.discovery import WITHOUT_UID, wait_seconds
from wool.sim.invariants.story import At, Story, Violation, value_of
from wool.sim.quiet import known_seconds, retry_seconds, reunion_seconds

PLACING_LATENCIES = 20
"""So many times a link is crossed, at most, until a call has begun: two sessions are opened, and one worker says no."""
FAILED = ("no-workers", "timeout", "lost", "interrupted")
"""Outcomes that are not the body's own."""
SILENCE: dict[str, tuple[str, ...]] = {
    "dns": ("answer-lost",),
    "static": ("answer-lost", "answer-denied", "answer-split", "zone-flap"),
}
"""What does not say that anybody is gone: no answer of a name server; and that a host name is not known, the system
says in the same words."""
EARLY_SECONDS = 0.2
"""Before that callers have not heard of all workers."""


def _quiet_views(story: Story, wait: float) -> Iterator[tuple[At, dict[str, str]]]:
    """Yield where each caller begins to close after having been quiet for so long, and its view: names, addresses."""
    if story.healed is None:
        return
    changes = sorted((*story.of("truth.named"), *story.of("truth.unnamed"), *story.truths), key=lambda item: item.index)
    for closing in story.of("pool.closing"):
        node = closing.node
        since = max((item.at for item in changes if item.index < closing.index), default=0.0)
        opened = next((item.at for item in story.of("pool.opened") if item.node == node), 0.0)
        quiet = closing.at - max(since, story.healed.at, opened) - story.disturbance(node)
        if quiet < wait or story.died(node, closing.index):
            continue
        view: dict[str, str] = {}
        for item in story.views.get(node, ()):
            if item.index < closing.index:
                name = str(value_of(item, "worker"))
                if item.event.kind == "view.dropped":
                    view.pop(name, None)
                else:
                    view[name] = str(value_of(item, "address"))
        yield closing, view


def _named(story: Story, index: int) -> set[str]:
    """Return the addresses that discovery named before the event at ``index``."""
    topology = story.plan.topology
    given = range(topology.workers - topology.named) if topology.discovery == "static" else ()
    named = {f"10.0.0.{number + 1}:7000" for number in given}
    for item in sorted((*story.of("truth.named"), *story.of("truth.unnamed")), key=lambda item: item.index):
        if item.index < index:
            address = {str(value_of(item, "address"))}
            named = named | address if item.event.kind == "truth.named" else named - address
    return named


def names_become_addresses(story: Story) -> Iterator[Violation]:
    """D: quiet for T ⇒ {address(v) | v ∈ view(n)} = {a | named(a)}; with a lease, as many of them as it has places."""
    if story.plan.topology.discovery not in WITHOUT_UID:
        return
    lease = story.plan.topology.lease
    wait = wait_seconds(story) + (reunion_seconds(story.plan) if lease else 0.0)
    for closing, view in _quiet_views(story, wait):
        known, named = set(view.values()), _named(story, closing.index)
        missing, wrong = sorted(named - known), sorted(known - named)
        if lease and len(known & named) >= min(lease, len(named)):
            missing = []
        if missing or wrong:
            words = [f"does not look at {', '.join(missing)}"] if missing else []
            words += [f"looks at {', '.join(wrong)}, which nobody names"] if wrong else []
            yield Violation(
                invariant="D",
                task="",
                sentence=f"{closing.node}, long after the last change, {' and '.join(words)}",
                events=(closing.index,),
            )


def successors_are_noticed(story: Story) -> Iterator[Violation]:
    """D: quiet for T ∧ w' serves at a, not told to stop ∧ (w at a) ∈ view(n) ⇒ w = w'. A successor is noticed."""
    if story.plan.topology.discovery not in WITHOUT_UID:
        return
    wait = wait_seconds(story) + retry_seconds(story.plan)
    for closing, view in _quiet_views(story, wait):
        serving: dict[str, str] = {}
        for item in story.truths:
            if item.index < closing.index:
                worker = str(value_of(item, "worker"))
                if item.event.kind == "truth.published":
                    serving[str(value_of(item, "address"))] = worker
                else:
                    serving = {address: other for address, other in serving.items() if other != worker}
        # Who was told to stop may have closed its door before it was announced: then nobody can learn who it is.
        stopped = {item.node for item in story.of("node.terminated") if item.index < closing.index}
        for name, address in view.items():
            present = serving.get(address, name)
            if name not in (address, present) and present not in stopped:
                yield Violation(
                    invariant="D",
                    task="",
                    sentence=f"{closing.node} takes {present} at {address} for {name}",
                    events=(closing.index,),
                )


def a_lease_is_kept(story: Story) -> Iterator[Violation]:
    """D: bind(τ, w, C) at n ⇒ |{c ∈ C | n has not started c}| ≤ lease."""
    lease = story.plan.topology.lease
    if not lease:
        return
    for label, task in story.tasks.items():
        for bound in task.bound:
            if not bound.node.startswith("c"):
                # A worker's proxies know whom the pool has started, and the history does not know whose pool it was.
                continue
            own = bound.node.startswith("c0")
            others = [name for name in value_of(bound, "candidates", ()) if not (own and story.is_own(str(name)))]
            if len(others) > lease:
                yield Violation(
                    invariant="D",
                    task=label,
                    sentence=f"{label} could go to {', '.join(map(str, others))}, and the lease has {lease} places",
                    events=(bound.index,),
                )
                break


def only_the_wanted_are_used(story: Story) -> Iterator[Violation]:
    """D: offer(τ → w) ⇒ w has the tags that the pool wants."""
    if not story.plan.topology.untagged:
        return
    for label, task in story.tasks.items():
        for offer in task.frames("offer"):
            worker = offer.event.attempt.partition(">")[2].partition("/")[0]
            if not story.is_wanted(worker):
                yield Violation(
                    invariant="D",
                    task=label,
                    sentence=f"{label} was offered to {worker}, which has not the tag",
                    events=(offer.index,),
                )
                break


def the_healthy_stay(story: Story) -> Iterator[Violation]:
    """D: drop(w) at n ⇒ w was withdrawn, told to stop or dead, or the plan came between n and w, or delays either.

    So nobody is evicted while healthy: no refresh comes too late, no lease changes hands by itself.
    """
    plan = story.plan
    # Who answers too late is not there, by multicast DNS; and one that cannot be reached gives up its place.
    late = plan.topology.discovery == "lan" or plan.topology.lease
    if (late and (plan.stalls or story.faults("crawl", "pause"))) or story.faults("ghost"):
        return
    troubled = {
        part
        for fault in plan.faults
        for part in fault.target.split(">")
        if fault.group != "process" and fault.kind not in SILENCE.get(plan.topology.discovery, ())
    }
    orphans = any(story.died(node) for node in story.nodes if node.startswith("c"))
    gone: dict[str, int] = {}
    for item in (*story.of("truth.withdrawn"), *story.of("truth.dead")):
        worker = str(value_of(item, "worker"))
        gone[worker] = min(gone.get(worker, item.index), item.index)
    for item in story.of("node.terminated"):
        gone[item.node] = min(gone.get(item.node, item.index), item.index)
    ends = {item.node: item.index for item in story.of("pool.closing")}
    for node, items in story.views.items():
        label = node.partition("#")[0]
        if not label.startswith("c") or label in troubled or (late and story.blocked):
            continue
        for item in items:
            worker = str(value_of(item, "worker"))
            if item.event.kind != "view.dropped" or item.index > ends.get(node, 1 << 60):
                continue
            if "#" not in worker or worker.partition("#")[0] in troubled or (orphans and story.is_own(worker)):
                continue
            if gone.get(worker, 1 << 60) > item.index:
                yield Violation(
                    invariant="D",
                    task="",
                    sentence=f"{node} dropped {worker}, which was well and announced",
                    events=(item.index,),
                )
                return


def a_rolling_restart_fails_nobody(story: Story) -> Iterator[Violation]:
    """L: workers restarted one after the other, and nothing else wrong ⇒ outcome(τ) is the body's own, for every τ.

    If every caller knows of a worker before the next one is told to stop, and if what runs comes to its end within the
    time for draining. Where bodies wait for places they may not, and where a hook is asked all may say no.
    """
    plan, topology = story.plan, story.plan.topology
    if len(plan.faults) != 1 or plan.faults[0].kind != "rolling-restart" or plan.stalls:
        return
    fault, knobs = plan.faults[0], plan.knobs
    if knobs.places or knobs.admits:
        return
    if fault.seconds < known_seconds(plan) or fault.at < EARLY_SECONDS or len(topology.wanted) < 2:
        return
    if (topology.discovery == "dns" or topology.named) and fault.ordinal and fault.seconds < 2 * knobs.ttl:
        return
    # A body that blocks its worker for so long lets none of the others there come to its end.
    steps = [step for call in plan.calls for step in walk(call.body.steps)]
    if any(step.op == "block" and step.seconds > knobs.drain / 2 for step in steps):
        return
    for label, task in story.tasks.items():
        call = story.top(label)
        if task.outcome not in FAILED or call is None or call.timeout or call.size or knobs.dispatch_timeout < 1:
            continue
        if topology.discovery == "dns" and task.made and task.made[0].at < knobs.ttl + EARLY_SECONDS:
            # The name server was asked while workers came up, and told of some: of the others one hears a TTL later.
            continue
        family = list(story.programs_of_family(call.label))
        placing = len(family) * PLACING_LATENCIES * knobs.latency
        if any(_lasts(program, script) + placing > knobs.drain / 2 for program, script in family):
            continue
        if any(
            step.op == "raise" for program, _ in story.programs_of_family(call.label) for step in walk(program.steps)
        ):
            continue
        yield Violation(
            invariant="L",
            task=label,
            sentence=f"{label} ended with {task.outcome} in a rolling restart: {value_of(task.ended[0], 'value', '')}",
            events=(task.ended[0].index,),
        )


def a_view_is_whole_before_it_is_believed(story: Story) -> Iterator[Violation]:
    """L: NoWorkersAvailable(τ) at n ⇒ n has heard from everybody: not before ``lan_look_seconds``, and of each name.

    Of a name a failure will do, and ``lookup_seconds`` are the most that one takes.
    """
    limits, topology = story.plan.knobs.limits(), story.plan.topology
    begun: dict[str, float] = {}
    for item in story.of("look.begun"):
        begun.setdefault(item.node, item.at)
    asked: dict[tuple[str, str], float] = {}
    answered: dict[tuple[str, str], float] = {}
    for kind, times in (("look.asked", asked), ("look.answered", answered)):
        for item in story.of(kind):
            times.setdefault((item.node, str(value_of(item, "name"))), item.at)
    if not (begun or asked):
        return
    lost = [item for item in story.of("wire.lost") if item.node.startswith("w")]
    for label, task in story.tasks.items():
        node, call = task.caller, story.top(label)
        if task.outcome != "no-workers" or call is None or (node.startswith("w") and topology.callers > 1):
            # A worker has a view for each pool that it serves.
            continue
        (ended, *_) = task.ended
        if task.frames("result", heard=True):
            continue  # a worker had it, and was told to stop before the body began
        over = [*story.of("pool.closing"), *(item for item in story.of("node.terminated") if item.node == node)]
        if any(item.index < ended.index for item in over) or any(
            step.op == "raise" for program, _ in story.programs_of_family(call.label) for step in walk(program.steps)
        ):
            continue
        if any(name.startswith("c") and story.died(name, ended.index) for name in story.nodes):
            continue
        # The pool of a caller whose session has ended is closed on the worker: what its bodies still call finds nobody.
        if any(item.node == node and item.index < ended.index and item.event.session.startswith("c") for item in lost):
            continue
        early = ended.at < begun.get(node, -1e9) + limits.lan_look_seconds
        unheard = [
            name
            for (who, name), at in asked.items()
            if who == node and at < ended.at < min(answered.get((who, name), 1e9), at + limits.lookup_seconds)
        ]
        if early or unheard:
            view = f"had looked for {ended.at - begun[node]:.3f} s" if early else f"knew nothing yet of {unheard[0]}"
            yield Violation(
                invariant="L",
                task=label,
                sentence=f"{label} found no workers when {node} {view}",
                events=(ended.index,),
            )


def _lasts(body: Body, script: tuple[object, ...]) -> float:
    """Return for how long a body waits, at most, and whoever consumes it."""
    waits = sum(step.seconds for step in walk(body.steps))
    return waits + sum(float(getattr(ask, "seconds", 0.0)) for ask in script)


INVARIANTS = (
    names_become_addresses,
    successors_are_noticed,
    a_lease_is_kept,
    only_the_wanted_are_used,
    the_healthy_stay,
    a_rolling_restart_fails_nobody,
    a_view_is_whole_before_it_is_believed,
)
