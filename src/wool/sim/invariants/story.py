"""A history put in order once, for all invariants: by task, by node, by session.

It judges nothing. What it owns beyond order is the question of what disturbed a node, and for how long:
an invariant about time asks it, so that a stall of the plan's own is never taken for one of wool's.
"""

from __future__ import annotations

import functools
from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from wool.sim.bodies import Ask, Body, Step, labelled, walk
from wool.sim.history import Event, History
from wool.sim.kinds import Fault
from wool.sim.oracle import Expected, expected
from wool.sim.plan import Call, Plan, top_of


@dataclass(frozen=True, slots=True, kw_only=True)
class Violation:
    """A promise that was broken, in a sentence, with the events that show it (their places in the history)."""

    invariant: str
    task: str
    sentence: str
    events: tuple[int, ...] = ()

    def __str__(self) -> str:
        return f"{self.invariant}: {self.sentence}"


class At:
    """An event and its place in the history."""

    __slots__ = ("event", "index")

    def __init__(self, index: int, event: Event) -> None:
        self.index: int = index
        self.event: Event = event

    @property
    def at(self) -> float:
        """When it happened."""
        return self.event[0]

    @property
    def node(self) -> str:
        """Where it happened."""
        return self.event[1]


class TaskStory:
    """All that happened to one task, in order, by kind."""

    __slots__ = (
        "began",
        "body_cancelled",
        "body_ended",
        "bound",
        "cancelled",
        "ended",
        "finals",
        "frames_heard",
        "frames_said",
        "heard",
        "items",
        "label",
        "made",
        "resumed",
        "said",
        "steps",
        "yielded",
    )

    def __init__(self, label: str) -> None:
        self.label: str = label
        self.made: list[At] = []
        self.cancelled: list[At] = []
        self.steps: list[At] = []
        self.items: list[At] = []
        self.ended: list[At] = []
        self.began: list[At] = []
        self.resumed: list[At] = []
        self.yielded: list[At] = []
        self.body_cancelled: list[At] = []
        self.finals: list[At] = []
        self.body_ended: list[At] = []
        self.bound: list[At] = []
        self.said: list[At] = []
        self.heard: list[At] = []
        self.frames_said: dict[str, list[At]] = {}
        self.frames_heard: dict[str, list[At]] = {}

    def frames(self, frame: str, *, heard: bool = False) -> list[At]:
        """Return what was said (or heard) of one kind of frame."""
        return (self.frames_heard if heard else self.frames_said).get(frame, _NONE)

    @property
    def outcome(self) -> str:
        """The word of the first end, or nothing."""
        return str(self.ended[0].event.get("outcome")) if self.ended else ""

    @property
    def caller(self) -> str:
        """The node that has made the call."""
        return self.made[0].node if self.made else ""


class NodeStory:
    """One incarnation."""

    __slots__ = ("crashed", "exited", "name", "paused", "resumed", "terminated", "up")

    def __init__(self, name: str) -> None:
        self.name: str = name
        self.up: At | None = None
        self.crashed: At | None = None
        self.exited: At | None = None
        self.terminated: At | None = None
        self.paused: list[At] = []
        self.resumed: list[At] = []

    @property
    def alive(self) -> bool:
        """It lives at the end of the history."""
        return self.crashed is None and self.exited is None


FOR_EVER_SECONDS = 1e9
LONGER_SECONDS = 1.0
"""Of a task: deadlines that fire late look once more at what has arrived, and loops take turns."""
_NONE: list[At] = []
_NO_VIEWS: tuple[list[int], list[frozenset[str]]] = ([], [frozenset()])

_TASK_LISTS = {
    "call.made": "made",
    "call.cancelled": "cancelled",
    "call.step": "steps",
    "call.item": "items",
    "call.ended": "ended",
    "body.began": "began",
    "body.resumed": "resumed",
    "body.yielded": "yielded",
    "body.cancelled": "body_cancelled",
    "body.finally": "finals",
    "body.ended": "body_ended",
    "place.bound": "bound",
    "wire.said": "said",
    "wire.heard": "heard",
}


class Story:
    """One run, for its judges."""

    def __init__(self, history: History, plan: Plan) -> None:
        self.history = history
        self.plan = plan
        self.tasks: dict[str, TaskStory] = {}
        self.nodes: dict[str, NodeStory] = {}
        self.kinds: dict[str, list[At]] = {}
        """Events that are no task's, by kind."""
        self.programs: dict[str, tuple[Body, tuple[Ask, ...]]] = plan.tasks()
        self._collect()

    def _collect(self) -> None:
        tasks, kinds, lists = self.tasks, self.kinds, _TASK_LISTS
        owners: dict[str, str] = {}
        for index, event in enumerate(self.history.events):
            _, node, kind, label, attempt, detail = event
            if not label and attempt:
                # Most frames carry a number; only the offer names the task.
                label = owners.get(attempt, "")
            item = At(index, event)
            if label and (name := lists.get(kind)) is not None:
                task = tasks.get(label)
                if task is None:
                    task = tasks[label] = TaskStory(label)
                getattr(task, name).append(item)
                if name == "said" or name == "heard":
                    # What a frame is comes first: see `wool.sim.watch`.
                    frame = detail[0][1] if detail and detail[0][0] == "frame" else event.get("frame")
                    frames = task.frames_heard
                    if name == "said":
                        owners.setdefault(attempt, label)
                        frames = task.frames_said
                    known = frames.get(frame)
                    if known is None:
                        frames[frame] = [item]
                    else:
                        known.append(item)
                continue
            kinds.setdefault(kind, []).append(item)
            if kind.startswith("node."):
                self._of_node(node, kind, item)

    def _of_node(self, node: str, kind: str, item: At) -> None:
        story = self.nodes.get(node)
        if story is None:
            story = self.nodes[node] = NodeStory(node)
        if kind == "node.up":
            story.up = item
        elif kind == "node.crashed":
            story.crashed = story.crashed or item
        elif kind == "node.exited":
            story.exited = story.exited or item
        elif kind == "node.terminated":
            story.terminated = story.terminated or item
        elif kind == "node.paused":
            story.paused.append(item)
        elif kind == "node.resumed":
            story.resumed.append(item)

    # ---- the run ----

    def of(self, kind: str) -> list[At]:
        """Return the events of a kind that belongs to no task."""
        return self.kinds.get(kind, [])

    @functools.cached_property
    def how(self) -> str:
        """How the run ended; empty if it says nothing of it."""
        ended = self.of("run.ended")
        return str(ended[-1].event.get("how")) if ended else ""

    @property
    def complete(self) -> bool:
        """The driver came to its end: whatever is missing then is missing for good."""
        return self.how == "done"

    @functools.cached_property
    def end(self) -> float:
        """The time of the last event."""
        return self.history.events[-1].at if len(self.history) else 0.0

    @functools.cached_property
    def healed(self) -> At | None:
        """Where the faulty phase ended."""
        healed = self.of("phase.healed")
        return healed[0] if healed else None

    @functools.cached_property
    def ends(self) -> float:
        """When the first pool began to close: from there on tasks are ended on purpose."""
        closing = self.of("pool.closing")
        return closing[0].at if closing else float("inf")

    # ---- nodes ----

    def lives(self, node: str) -> bool:
        """Whether an incarnation lives at the end. One that nothing is said of does."""
        story = self.nodes.get(node)
        return story is None or story.alive

    def died(self, node: str, index: int = 1 << 60) -> bool:
        """Whether an incarnation had crashed or exited before the event at ``index``.

        Every process exits when its work is done. A caller does so after all its calls and its pool have ended,
        which excuses nothing; what a worker's exit excuses is for whoever asks, by the ``index``.
        """
        story = self.nodes.get(node)
        if story is None:
            return False
        ends = (story.crashed,) if node.startswith("c") else (story.crashed, story.exited)
        return any(item is not None and item.index < index for item in ends)

    def died_by(self, node: str, until: float) -> bool:
        """Whether an incarnation had crashed or exited at the time ``until``."""
        story = self.nodes.get(node)
        if story is None:
            return False
        return any(item is not None and item.at <= until for item in (story.crashed, story.exited))

    @functools.cached_property
    def blocked(self) -> float:
        """For how long bodies block: one that does holds up all that shares its loop."""
        return sum(step.seconds for step in self.steps() if step.op == "block")

    def steps(self) -> Iterator[Step]:
        """Yield the steps of all bodies."""
        for body, _ in self.programs.values():
            yield from walk(body.steps)

    def longest(self, label: str) -> float:
        """Return for how long a task goes on, at most, with all that it calls, if all of them find their workers."""
        programs = self.programs_of_family(label)
        seconds = sum(step.seconds for body, _ in programs for step in walk(body.steps))
        return seconds + self.plan.knobs.cancel_grace * 2 + LONGER_SECONDS

    def looks_for_workers(self, label: str) -> float:
        """Return for how long, at most, what a task calls looks for workers, one after the other."""
        top = self.top(label)
        timeout = max(self.plan.knobs.dispatch_timeout, top.timeout if top is not None else 0.0)
        return (len(list(self.programs_of_family(label))) - 1) * timeout

    def waits_for_places(self, label: str) -> float:
        """Return for how long, at most, bodies of a task wait for places, where workers have so many.

        A body that calls nothing has its own all the time, unless it yields. Each of the others goes on behind all that
        came before, and whoever is at work there is so, all in all, no longer than its steps take. What the task and
        those that it calls do themselves is not waited for.
        """
        program = self.program(label)
        if not self.plan.knobs.places or program is None:
            return 0.0
        lends = program[0].generator or any(step.op in ("call", "gather") for step in walk(program[0].steps))
        if not lends:
            return 0.0
        mine = sum(step.seconds for body, _ in self.programs_of_family(label) for step in walk(body.steps))
        return sum(step.seconds for step in self.steps()) - mine

    def held_up(self, caller: str, worker: str) -> float:
        """Return for how many seconds, at most, the plan itself held up two nodes, and what travels between them."""
        link = f"{caller.partition('#')[0]}>{worker.partition('#')[0]}"
        total = self.disturbance(caller) + self.disturbance(worker)
        for fault in self.plan.faults:
            if fault.target == link and fault.group == "wire":
                total += FOR_EVER_SECONDS if fault.stays else fault.seconds + 4 * fault.amount
        return total

    def disturbance(self, node: str) -> float:
        """Return for how many seconds, at most, the plan itself held up this node."""
        known = self._disturbances.get(node)
        if known is None:
            known = self._disturbances[node] = self._disturbance(node)
        return known

    @functools.cached_property
    def _disturbances(self) -> dict[str, float]:
        return {}

    def _disturbance(self, node: str) -> float:
        label = node.partition("#")[0]
        total = self.blocked + self.plan.noise.amplitude * 20
        for fault in self.plan.faults:
            if fault.target == label and fault.stays:
                total += FOR_EVER_SECONDS
            if fault.target == label and fault.kind in ("pause", "crawl", "freeze"):
                total += fault.seconds + (0.0 if fault.kind == "pause" else 1e9)
        for stall in self.plan.stalls:
            if stall.loop.startswith(f"{label}#"):
                total += stall.seconds
        return total

    def faults(self, *kinds: str) -> list[Fault]:
        """Return the plan's faults of these kinds."""
        return [fault for fault in self.plan.faults if fault.kind in kinds]

    # ---- what is known of workers ----

    def is_own(self, worker: str) -> bool:
        """Whether a worker, by its incarnation, was started by a pool."""
        topology, label = self.plan.topology, worker.partition("#")[0]
        return "#" in worker and (not topology.finds or int(label[1:]) >= topology.workers)

    def has_several(self, node: str) -> bool:
        """Whether a node may have several proxies at a time: a worker that pools with different descriptions use."""
        topology = self.plan.topology
        return node.startswith("w") and topology.mode == "hybrid" and topology.callers > 1

    def is_wanted(self, worker: str) -> bool:
        """Whether a worker has the tag that pools want."""
        return self.is_own(worker) or int(worker.partition("#")[0].rpartition("-")[2][1:]) in self.plan.topology.wanted

    @functools.cached_property
    def views(self) -> dict[str, list[At]]:
        """What each caller's proxy has heard of workers, in order."""
        views: dict[str, list[At]] = {}
        for item in self.together("view.added", "view.updated", "view.dropped"):
            views.setdefault(item.node, []).append(item)
        return views

    def view_before(self, node: str, index: int) -> frozenset[str]:
        """Return the workers that a node knew of before the event at ``index``."""
        places, views = self._views_by_place.get(node, _NO_VIEWS)
        return views[bisect_left(places, index)]

    @functools.cached_property
    def _views_by_place(self) -> dict[str, tuple[list[int], list[frozenset[str]]]]:
        """For each node the places where its view changed, and what it was before, between and after them."""
        found: dict[str, tuple[list[int], list[frozenset[str]]]] = {}
        for node, items in self.views.items():
            views = [frozenset[str]()]
            for item in items:
                worker = {str(value_of(item, "worker"))}
                views.append(views[-1] - worker if item.event.kind == "view.dropped" else views[-1] | worker)
            found[node] = ([item.index for item in items], views)
        return found

    @functools.cached_property
    def truths(self) -> list[At]:
        """What is really so of workers, in order."""
        return self.together("truth.published", "truth.withdrawn", "truth.dead")

    def together(self, *kinds: str) -> list[At]:
        """Return the events of these kinds that belong to no task, in order."""
        return sorted((item for kind in kinds for item in self.of(kind)), key=lambda item: item.index)

    # ---- sessions ----

    @functools.cached_property
    def sessions_lost(self) -> dict[tuple[str, str], At]:
        """Where each end of each session has heard that it is over: by node and session."""
        return {(item.node, item.event.session): item for item in reversed(self.of("wire.lost"))}

    @functools.cached_property
    def lost_early(self) -> dict[str, int]:
        """Where the first end of each session has heard that it is over, if that was before the pools closed."""
        found: dict[str, int] = {}
        for (_, session), item in self.sessions_lost.items():
            if item.at < self.ends:
                found[session] = min(item.index, found.get(session, item.index))
        return found

    @functools.cached_property
    def sessions_opened(self) -> dict[tuple[str, str], At]:
        """Where each end of each session came out of the handshake."""
        return {(item.node, item.event.session): item for item in reversed(self.of("wire.opened"))}

    @functools.cached_property
    def sessions_between(self) -> dict[tuple[str, str], list[tuple[str, At]]]:
        """The sessions that came out of the handshake at the calling end, by caller and worker."""
        found: dict[tuple[str, str], list[tuple[str, At]]] = {}
        for (node, session), opened in self.sessions_opened.items():
            if caller_of(session) == node:
                found.setdefault((node, worker_of(session)), []).append((session, opened))
        return found

    # ---- tasks ----

    def program(self, label: str) -> tuple[Body, tuple[Ask, ...]] | None:
        """Return body and script of a task."""
        return self.programs.get(label)

    def expected(self, label: str) -> Expected | None:
        """Return what the task's body would have shown locally."""
        program = self.programs.get(label)
        return None if program is None else expected(*program, self.plan.knobs.payload_bytes)

    def too_large(self, label: str) -> bool:
        """Whether the arguments of a call may be over the limit, with what is pickled around them."""
        call = self.calls.get(label)
        return call is not None and call.size + 1024 > self.plan.knobs.payload_bytes

    @functools.cached_property
    def calls(self) -> dict[str, Call]:
        """The calls from the top, by label."""
        return {call.label: call for call in self.plan.calls}

    def top(self, label: str) -> Call | None:
        """Return the call from the top that the task of this label is, or descends from."""
        return self.calls.get(top_of(label))

    @functools.cached_property
    def _descendants(self) -> dict[str, list[TaskStory]]:
        found: dict[str, list[TaskStory]] = {}
        for label, task in self.tasks.items():
            above = label.rpartition(".")[0]
            while "." in above:
                found.setdefault(above, []).append(task)
                above = above.rpartition(".")[0]
        return found

    def family(self, label: str) -> Iterator[TaskStory]:
        """Yield the task and its descendants, as far as something happened to them."""
        task = self.tasks.get(label)
        if task is not None:
            yield task
        yield from self._descendants.get(label, ())

    def children(self, label: str) -> Iterator[TaskStory]:
        """Yield what the task has called itself."""
        depth = label.count(".") + 1
        for task in self._descendants.get(label, ()):
            if task.label.count(".") == depth:
                yield task

    def lineage(self, label: str) -> Iterator[TaskStory]:
        """Yield the task and its ancestors, innermost first."""
        parts = label.split(".")
        for length in range(len(parts), 1, -1):
            task = self.tasks.get(".".join(parts[:length]))
            if task is not None:
                yield task

    def cancelled_before(self, label: str, index: int) -> bool:
        """Whether the task or an ancestor had been cancelled by its caller before the event at ``index``."""
        return any(item.index < index for task in self.lineage(label) for item in task.cancelled)

    def programs_of_family(self, label: str) -> Iterator[tuple[Body, tuple[Ask, ...]]]:
        """Yield the programs of a task and of all that it may call."""
        program = self.programs.get(label)
        if program is not None:
            for _, body, script in labelled(label, *program):
                yield body, script


def worker_of(attempt: str) -> str:
    """Return the incarnation that an attempt was made at: ``w1#0`` of ``c0#0>w1#0/2:17``."""
    return attempt.partition(">")[2].partition("/")[0]


def caller_of(attempt: str) -> str:
    """Return the incarnation that made an attempt."""
    return attempt.partition(">")[0]


def value_of(item: At, name: str, default: Any = None) -> Any:
    """Return one value of an event's detail."""
    for key, value in item.event[5]:
        if key == name:
            return value
    return default
