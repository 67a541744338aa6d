"""S: at most once. τ is a task, ≺ is "before"."""

from __future__ import annotations

from collections.abc import Iterator

from wool.sim.invariants.story import At, NodeStory, Story, TaskStory, Violation, caller_of, value_of, worker_of

TASK_FRAMES = frozenset({"offer", "start", "withdraw", "cancel", "step", "accept", "reject", "result"})
SETTLED_SECONDS = 1.0
"""After the end of a call, for what its caller still says of it."""
HANDSHAKE_MESSAGES = 2
"""Of each direction."""
FLAWS = frozenset({"expired", "not-yet-valid", "wrong-authority", "wrong-name", "wrong-usage"})
"""Faults after which a certificate is one to refuse."""
WHILE_SECONDS = 1.0
"""Longer than a handshake takes: who answered one may be dead when it fails."""
EXECUTED = frozenset({"value", "remote", "serialization", "interrupted"})
"""Outcomes that say by themselves, or by ``executed``, that the body ran."""


def begins_at_most_once(story: Story) -> Iterator[Violation]:
    """S1: |{begin(τ)}| ≤ 1, over all nodes and incarnations."""
    for label, task in story.tasks.items():
        if len(task.began) > 1:
            where = " and ".join(f"on {item.node} at {item.at:.6f}" for item in task.began)
            yield Violation(
                invariant="S1",
                task=label,
                sentence=f"the body of {label} began {len(task.began)} times: {where}",
                events=tuple(item.index for item in task.began),
            )


def start_is_said_once(story: Story) -> Iterator[Violation]:
    """S2: |{say start(τ)}| ≤ 1."""
    for label, task in story.tasks.items():
        starts = task.frames("start")
        if len(starts) > 1:
            yield Violation(
                invariant="S2",
                task=label,
                sentence=f"start was said {len(starts)} times for {label}: "
                + " and ".join(f"to {worker_of(item.event.attempt)}" for item in starts),
                events=tuple(item.index for item in starts),
            )


def begins_after_start(story: Story) -> Iterator[Violation]:
    """S2: begin(τ, w) ⇒ say start(τ → w) ≺ begin(τ, w)."""
    for label, task in story.tasks.items():
        for began in task.began:
            said = [item for item in task.frames("start") if worker_of(item.event.attempt) == began.node]
            if not any(item.index < began.index for item in said):
                yield Violation(
                    invariant="S2",
                    task=label,
                    sentence=f"the body of {label} began on {began.node} before start was said to it",
                    events=(began.index, *(item.index for item in said)),
                )


def offers_follow_ended_ones(story: Story) -> Iterator[Violation]:
    """S3: offer(τ, i) ≺ offer(τ, j) ⇒ attempt i was rejected, withdrawn or lost, and never started, before offer j."""
    for label, task in story.tasks.items():
        if len(task.frames("offer")) < 2:
            continue
        open_ones: dict[str, At] = {}
        started: At | None = None
        for item in sorted((*task.said, *task.heard), key=_place):
            frame, attempt = value_of(item, "frame"), item.event.attempt
            if frame in ("reject", "withdraw") and item.node == caller_of(attempt):
                open_ones.pop(attempt, None)
            elif frame == "start" and item.event.kind == "wire.said":
                started = started or item
            elif frame == "offer" and item.event.kind == "wire.said":
                earlier = next((offer for offer in open_ones.values() if not _lost(story, offer, item)), None)
                other = started or earlier
                if other is not None:
                    how = "after start had been said to" if started is not None else "while it was open at"
                    yield Violation(
                        invariant="S3",
                        task=label,
                        sentence=f"{label} was offered to {worker_of(attempt)} {how} {worker_of(other.event.attempt)}",
                        events=(other.index, item.index),
                    )
                    break
                open_ones[attempt] = item


def _place(item: At) -> int:
    return item.index


def _lost(story: Story, offer: At, later: At) -> bool:
    lost = story.sessions_lost.get((offer.node, offer.event.session))
    # In one step of the loop the loss may be written down after what comes of it.
    return lost is not None and (lost.index < later.index or lost.at == later.at)


def value_is_this_executions(story: Story) -> Iterator[Violation]:
    """S4: end(τ, value v by x) ⇒ x is an execution of τ, returned(x) ≺ end, and v is what x returned."""
    for label, task in story.tasks.items():
        for ended in task.ended:
            if value_of(ended, "outcome") != "value":
                continue
            by = value_of(ended, "begun_by")
            mine = {value_of(item, "execution"): item for item in task.began if item.index < ended.index}
            if by is not None and by not in mine:
                yield Violation(
                    invariant="S4",
                    task=label,
                    sentence=f"{label} was given a value made by {by}, which is no execution of it",
                    events=(ended.index,),
                )
                continue
            values = [
                value_of(item, "value")
                for item in task.body_ended
                if item.index < ended.index and value_of(item, "how") == "returned"
            ]
            if value_of(ended, "value") not in values:
                yield Violation(
                    invariant="S4",
                    task=label,
                    sentence=f"{label} was given {value_of(ended, 'value')!r}; its body had returned "
                    f"{' and '.join(map(repr, values)) or 'nothing'}",
                    events=(ended.index, *(item.index for item in task.body_ended)),
                )


def never_ran_is_never_run(story: Story) -> Iterator[Violation]:
    """S4: end(τ, executed "no") ⇒ ¬begin(τ), before or after."""
    for label, task in story.tasks.items():
        for ended in task.ended:
            if value_of(ended, "executed") == "no" and task.began:
                yield Violation(
                    invariant="S4",
                    task=label,
                    sentence=f"the caller of {label} was told {value_of(ended, 'outcome')}, which means that it never "
                    f"runs, and its body began on {task.began[0].node}",
                    events=(ended.index, *(item.index for item in task.began)),
                )


def ran_is_run(story: Story) -> Iterator[Violation]:
    """S4: end(τ, executed "yes") ⇒ begin(τ) ≺ end; interrupted ⇒ the body has ended, too."""
    for label, task in story.tasks.items():
        for ended in task.ended:
            outcome = value_of(ended, "outcome")
            if value_of(ended, "executed") != "yes" or outcome not in EXECUTED:
                continue
            if not any(item.index < ended.index for item in task.began):
                yield Violation(
                    invariant="S4",
                    task=label,
                    sentence=f"the caller of {label} was told {outcome}, which means that it ran, and it had not begun",
                    events=(ended.index,),
                )
            elif outcome == "interrupted" and not any(item.index < ended.index for item in task.body_ended):
                yield Violation(
                    invariant="S4",
                    task=label,
                    sentence=f"the caller of {label} was told that it was interrupted, and its body had not ended",
                    events=(task.began[0].index, ended.index),
                )


def lost_was_started(story: Story) -> Iterator[Violation]:
    """S4: end(τ, WorkerLost) ⇒ say start(τ) ≺ end."""
    for label, task in story.tasks.items():
        for ended in task.ended:
            if value_of(ended, "outcome") == "lost" and not any(
                item.index < ended.index for item in task.frames("start")
            ):
                yield Violation(
                    invariant="S4",
                    task=label,
                    sentence=f"the caller of {label} was told WorkerLost, and start had not been said",
                    events=(ended.index,),
                )


def one_outcome(story: Story) -> Iterator[Violation]:
    """S5: made(τ) ⇒ |{end(τ)}| = 1, unless the caller died; without made(τ) there is no end.

    In a deadlock, too, what is missing is missing for good. A worker lives for ever only if it is not told to stop, so
    of the calls that bodies make each has its end before that of the body; or, if that has none either, before the
    first pool closes, if that comes T after the healing.
    """
    for label, task in story.tasks.items():
        if len(task.ended) > 1:
            yield Violation(
                invariant="S5",
                task=label,
                sentence=f"{label} has {len(task.ended)} outcomes: "
                + " and ".join(str(value_of(item, "outcome")) for item in task.ended),
                events=tuple(item.index for item in task.ended),
            )
        elif task.made and not task.ended and (due := _outcome_due(story, task)) is not None:
            yield Violation(
                invariant="S5",
                task=label,
                sentence=f"{label}, made by {task.caller} at {task.made[0].at:.6f}, has no outcome",
                events=(task.made[0].index, *([due] if due >= 0 else [])),
            )
        elif len(task.made) > 1:
            yield Violation(
                invariant="S5",
                task=label,
                sentence=f"{label} was made {len(task.made)} times",
                events=tuple(item.index for item in task.made),
            )


def _outcome_due(story: Story, task: TaskStory) -> int | None:
    """Return the place by which a call without an outcome ought to have one, -1 for the end; None if it need not."""
    made, caller = task.made[0], task.caller
    if caller.startswith("c"):
        return -1 if story.how in ("done", "deadlock") and not story.died(caller) else None
    parent = story.tasks.get(str(value_of(made, "parent")))
    for item in parent.body_ended if parent is not None else ():
        if item.node == caller and item.index > made.index:
            return item.index
    closing = story.of("pool.closing")
    if story.healed is None or not closing or story.died(caller, closing[0].index) or story.plan.staying:
        return None
    return closing[0].index if closing[0].at > _settled_by(story, task, story.healed) else None


def _settled_by(story: Story, task: TaskStory, healed: At) -> float:
    """Return when a nested call has its outcome at the latest, if nothing strikes after the healing.

    Until it was started, its caller may look for a worker for as long as it may; and so for each that its body makes.
    """
    knobs, top = story.plan.knobs, story.top(task.label)
    timeout = max(knobs.dispatch_timeout, top.timeout if top is not None else 0.0)
    placed = task.made[0].at + (0.0 if task.frames("start") else timeout)
    until = max(healed.at, placed) + story.looks_for_workers(task.label)
    until += knobs.ping_timeout + story.longest(task.label) + story.blocked + story.plan.noise.amplitude * 20
    return until + (sum(step.seconds for step in story.steps()) if knobs.places else 0.0)


def no_identity_crosses(story: Story) -> Iterator[Violation]:
    """S6: no object that one node has made is seen by another: arguments, results, items, exceptions.

    The simulator looks, and notes what it finds.
    """
    for item in story.of("identity.crossed"):
        yield Violation(
            invariant="S6",
            task=item.event.task,
            sentence=f"an object crossed to {item.node}: {value_of(item, 'what')}",
            events=(item.index,),
        )


def nothing_before_the_handshake(story: Story) -> Iterator[Violation]:
    """S7: say or hear a frame of τ on session s at node n ⇒ opened(s, n) ≺ it, its handshake having been heard."""
    opened = story.sessions_opened
    for (node, session), item in opened.items():
        heard = value_of(item, "heard", HANDSHAKE_MESSAGES)
        if heard < HANDSHAKE_MESSAGES:
            yield Violation(
                invariant="S7",
                task="",
                sentence=f"{node} opened {session} when it had heard {heard} messages of a handshake of "
                f"{HANDSHAKE_MESSAGES}",
                events=(item.index,),
            )
    for label, task in story.tasks.items():
        for item in _firsts(task):
            at = opened.get((item.node, item.event.session))
            if at is None or at.index > item.index:
                yield Violation(
                    invariant="S7",
                    task=label,
                    sentence=f"{value_of(item, 'frame')} of {label} passed {item.node} on "
                    f"{item.event.session or 'no session'} before its handshake was over",
                    events=(item.index,),
                )
                break


def certificates_were_good(story: Story) -> Iterator[Violation]:
    """S7: met(s) ⇒ neither end showed a certificate that is one to refuse; opened(s) ⇒ met(s), with TLS.

    One to refuse: out of its time, a stranger's, another's, or for the other end. A caller may have any name, unless
    identities count, and shows nothing one way; a worker that calls may show one that is for callers. What a caller
    shows it had read at ``since``: every flaw but that it has expired counts if it was there all the time.
    """
    topology = story.plan.topology
    if not topology.tls:
        return
    met = {item.event.attempt: item for item in story.of("wire.met")}
    flawed = list(_flaws(story))
    for session, item in met.items():
        caller, worker = (end(session).partition("#")[0] for end in (caller_of, worker_of))
        for kind, target, begins, ends in flawed:
            since = value_of(item, "since") if target == caller and kind != "expired" else item.at
            of_caller = not topology.one_way and {
                "wrong-name": topology.identities,
                "wrong-usage": caller.startswith("c"),
            }.get(kind, True)
            ends_meant = (caller, worker) if of_caller else (worker,)
            if target in ends_meant and begins < since and item.at < ends:
                yield Violation(
                    invariant="S7",
                    task="",
                    sentence=f"{session} came about while the certificate of {target} was one to refuse: {kind}",
                    events=(item.index,),
                )
    for (node, session), item in story.sessions_opened.items():
        if session not in met:
            yield Violation(
                invariant="S7",
                task="",
                sentence=f"{node} opened {session}, whose ends have not taken each other's certificates",
                events=(item.index,),
            )


def _flaws(story: Story) -> Iterator[tuple[str, str, float, float]]:
    """Yield kind, target, begin and end of what was wrong with certificates."""
    healed = {value_of(item, "index"): item.at for item in story.of("fault.healed")}
    for item in story.of("fault.injected"):
        kind = value_of(item, "fault")
        if kind in FLAWS:
            yield kind, value_of(item, "target"), item.at, healed.get(value_of(item, "index"), float("inf"))


def nobody_is_in_between(story: Story) -> Iterator[Violation]:
    """S7: opened(s) ∧ relayed(s) ⇒ both ends have shown certificates: then who is in between can read nothing."""
    topology = story.plan.topology
    if topology.tls and not topology.one_way:
        return
    relayed = {item.event.attempt: item for item in story.of("wire.relayed")}
    for (node, session), item in story.sessions_opened.items() if relayed else ():
        if session in relayed:
            yield Violation(
                invariant="S7",
                task="",
                sentence=f"{node} opened {session}, over somebody at {value_of(relayed[session], 'at')}",
                events=(relayed[session].index, item.index),
            )


def _opened_with_others(story: Story, truth: str, ends: str) -> Iterator[Violation]:
    others = {value_of(item, "worker") for item in story.of(truth)}
    for (node, session), item in story.sessions_opened.items() if others else ():
        caller, worker = caller_of(session), worker_of(session)
        if (caller in others) != (worker in others):
            yield Violation(
                invariant="S7", task="", sentence=f"{node} opened {session}, whose ends {ends}", events=(item.index,)
            )


def secrets_are_the_same(story: Story) -> Iterator[Violation]:
    """S7: opened(s, n) ⇒ both ends of s have the same secret."""
    yield from _opened_with_others(story, "truth.other-secret", "have different secrets")


def versions_are_the_same(story: Story) -> Iterator[Violation]:
    """S7: opened(s, n) ⇒ both ends of s speak the same version of the protocol; so the other gets no task either."""
    yield from _opened_with_others(story, "truth.other-version", "speak different versions of the protocol")


def another_version_is_told(story: Story) -> Iterator[Violation]:
    """S7: n and w refuse each other while w speaks another version ⇒ n is told that it is the version.

    Of plans in which nothing else is a reason to refuse.
    """
    others = {str(value_of(item, "worker")) for item in story.of("truth.other-version")}
    if not others or any(fault.group == "trust" and fault.kind != "other-version" for fault in story.plan.faults):
        return
    for item in story.of("place.refused"):
        label, why = value_of(item, "worker"), str(value_of(item, "why"))
        lives = [name for name, node in story.nodes.items() if name.startswith(f"{label}#") and _lives(node, item)]
        if lives and set(lives) <= others and "speaks protocol version" not in why:
            yield Violation(
                invariant="S7",
                task="",
                sentence=f"{item.node} refuses {lives[0]}, which speaks another version, and is told: {why}",
                events=(item.index,),
            )


def _lives(node: NodeStory, item: At) -> bool:
    """Whether an incarnation had come up before an event, and was there for a while afterwards."""
    ends = [end.at for end in (node.crashed, node.exited) if end is not None]
    return node.up is not None and node.up.index < item.index and all(end > item.at - WHILE_SECONDS for end in ends)


def _firsts(task: TaskStory) -> Iterator[At]:
    """Yield what each end of each attempt said first, and heard first: what comes later is later."""
    for items in (task.said, task.heard):
        seen: set[tuple[str, str]] = set()
        for item in items:
            event = item.event
            key = (event.node, event.attempt)
            if key not in seen and value_of(item, "frame") in TASK_FRAMES:
                seen.add(key)
                yield item


def nobody_breaks_the_protocol(story: Story) -> Iterator[Violation]:
    """S7: lost(s, n) ⇒ not for a protocol error: all peers are honest."""
    for item in story.of("wire.lost"):
        reason = str(value_of(item, "reason", ""))
        if reason.startswith("protocol error"):
            yield Violation(
                invariant="S7",
                task="",
                sentence=f"{item.node} ended {item.event.session}: {reason}",
                events=(item.index,),
            )


def attempts_are_their_callers(story: Story) -> Iterator[Violation]:
    """S3: offer(τ) and start(τ) are said by the node that made the call, and by nobody else."""
    for label, task in story.tasks.items():
        if not task.made:
            continue
        caller = task.caller
        for item in sorted((*task.frames("offer"), *task.frames("start")), key=_place):
            if item.node != caller or caller_of(item.event.attempt) != caller:
                yield Violation(
                    invariant="S3",
                    task=label,
                    sentence=f"{label} belongs to {task.caller}, and {item.node} said {value_of(item, 'frame')} for it",
                    events=(task.made[0].index, item.index),
                )
                break


def offers_are_settled(story: Story) -> Iterator[Violation]:
    """S3: end(τ) ⇒ each offer of τ was started, rejected, withdrawn or lost: none waits at a worker for ever."""
    if not story.complete:
        return
    for label, task in story.tasks.items():
        offers = task.frames("offer")
        if not offers or not task.ended or story.died(task.caller, task.ended[0].index):
            continue
        if task.caller.startswith("w") and story.died_by(task.caller, task.ended[0].at + SETTLED_SECONDS):
            # Whoever ends does so with all its sessions: a worker has none when the run is over, whatever it owed.
            continue
        settled = {item.event.attempt for frame in ("start", "withdraw") for item in task.frames(frame)}
        settled.update(item.event.attempt for item in task.frames("reject", heard=True))
        for offer in offers:
            lost = story.sessions_lost.get((offer.node, offer.event.session))
            if offer.event.attempt not in settled and (lost is None or lost.at > task.ended[0].at + SETTLED_SECONDS):
                yield Violation(
                    invariant="S3",
                    task=label,
                    sentence=f"{label} has ended, and its offer to {worker_of(offer.event.attempt)} was never settled",
                    events=(offer.index, task.ended[0].index),
                )
                break


INVARIANTS = (
    begins_at_most_once,
    start_is_said_once,
    begins_after_start,
    offers_follow_ended_ones,
    value_is_this_executions,
    never_ran_is_never_run,
    ran_is_run,
    lost_was_started,
    one_outcome,
    no_identity_crosses,
    nothing_before_the_handshake,
    certificates_were_good,
    nobody_is_in_between,
    secrets_are_the_same,
    versions_are_the_same,
    another_version_is_told,
    nobody_breaks_the_protocol,
    attempts_are_their_callers,
    offers_are_settled,
)
