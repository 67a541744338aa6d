"""What happened in one run: a list of events, which invariants judge and a digest compares.

Owns the words of events. It must never hold payloads (pickles embed what differs from run to run), object
identities or anything whose order is not repeated.

Adding an event is on the hot path of every simulated frame: it appends a tuple, and nothing else.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple, TypeAlias, cast

Detail: TypeAlias = "tuple[tuple[str, Any], ...]"
"""Pairs of a name and a JSON value, in the order that the kind has them."""

KINDS: dict[str, str] = {
    "call.made": "a caller has made a call: body, form (coroutine or generator), timeout, parent",
    "call.cancelled": "the driver cancels the caller's asyncio task",
    "call.step": "a generator's consumer asks: step (next, send, throw, close, break), ordinal",
    "call.item": "it has got an item: value, ordinal",
    "call.ended": "the one outcome: outcome, executed, value (or the error as text), begun_by",
    "wire.said": "a session has said a frame: frame, and what is small and useful",
    "wire.heard": "a session has heard a frame: the same",
    "wire.opened": "a session was established, after the handshake: heard (messages of the other end until then)",
    "wire.lost": "it is over: reason",
    "wire.met": "both ends of a stream have taken the certificate of the other: since (when the caller read its own)",
    "wire.relayed": "a stream goes over somebody in between: at (the address that the caller has reached)",
    "wire.refused": "one end has not taken the certificate of the other: why",
    "body.began": "the first line of a body: execution, the unique id of this execution",
    "body.resumed": "a generator's body goes on after a yield: step, ordinal, value",
    "body.yielded": "it is about to yield: ordinal, value",
    "body.cancelled": "the body has seen CancelledError",
    "body.finally": "its outermost finally has run",
    "variable.read": "a body reads the context variable: where (begin or end), value",
    "variable.back": "its caller reads it, when the call has ended: value",
    "body.ended": "how: returned, raised, cancelled, closed; value, or the error as text",
    "place.bound": "a call was bound to a worker: worker, candidates, suspect",
    "place.refused": "a caller and a worker will not have each other: worker (its label), why",
    "view.added": "a caller's proxy has heard worker-added: worker, address",
    "view.updated": "the same of worker-updated",
    "view.dropped": "the same of worker-dropped",
    "heard.added": "a subscription has said worker-added: subscription (its ordinal in the process), worker",
    "heard.updated": "the same of worker-updated",
    "heard.dropped": "the same of worker-dropped",
    "truth.published": "what is so: the worker is up and published: worker, address",
    "truth.withdrawn": "the worker was withdrawn: worker",
    "truth.dead": "the worker is gone: worker",
    "truth.named": "the name server names an address: address",
    "truth.unnamed": "it names it no more: address",
    "look.begun": "a subscription to multicast DNS has begun",
    "look.asked": "the process asks where a name leads: name",
    "look.answered": "it is told: name",
    "truth.other-secret": "a worker comes up with another secret than everybody has: worker",
    "truth.other-version": "a worker comes up with another version of the protocol than everybody speaks: worker",
    "told.completed": "task-completed was told in the caller: outcome",
    "told.wrong": "a task event was told that nothing allows: type, what",
    "node.up": "an incarnation lives",
    "node.crashed": "it is dead; none of its code runs again",
    "node.paused": "it stands still",
    "node.resumed": "it goes on",
    "node.terminated": "it was told to stop (SIGTERM)",
    "node.exited": "it has ended in good order",
    "pool.opened": "a caller's pool or proxy is open",
    "pool.closing": "it begins to close",
    "pool.closed": "it is closed: all of it has ended",
    "pool.counted": "what it has counted of its calls: in_flight, done, failed, cancelled, interrupted, lost, unplaced",
    "fault.injected": "a fault strikes: fault, the index in the plan, and words",
    "fault.healed": "it is over: the same",
    "phase.healed": "the faulty phase is over: from here on liveness is demanded",
    "probe.made": "after the healing a call was made that must succeed",
    "probe.ended": "it has ended: outcome",
    "leak.task": "left at the exit of a live node: what",
    "leak.timer": "the same",
    "leak.stream": "the same",
    "leak.subscription": "the same",
    "leak.permit": "the same",
    "leak.never-retrieved": "the same",
    "loop.error": "what reached a loop's exception handler: message",
    "identity.crossed": "an object that one node has made was seen by another: what",
    "run.ended": "the driver has finished: how (done, deadlock, horizon, spinning), and words",
}
"""Every kind of event, and its meaning."""

OUTCOMES: dict[str, str] = {
    "value": "a coroutine's value",
    "generator-end": "a generator has come to its end: StopAsyncIteration",
    "closed": "aclose() returned",
    "dropped": "the consumer has let the generator go, and hears no more of it",
    "raised": "what the body raised, or what the consumer threw in",
    "cancelled": "CancelledError",
    "no-workers": "NoWorkersAvailable",
    "timeout": "DispatchTimeout",
    "interrupted": "TaskInterrupted",
    "lost": "WorkerLost",
    "serialization": "SerializationError",
    "remote": "RemoteError",
    "pickling": "the caller could not pickle its arguments",
    "no-pool": "the caller's pool or proxy could not be opened",
}
"""Every outcome of ``call.ended``."""


class Event(NamedTuple):
    """One thing that happened."""

    at: float
    """Virtual seconds."""
    node: str
    """The incarnation, ``w1#0``; empty for the world."""
    kind: str
    task: str = ""
    attempt: str = ""
    """``c0#0>w1#0/2:17``: caller, worker, the ordinal of the stream between the two, and the offer's number."""
    detail: Detail = ()

    def get(self, name: str, default: Any = None) -> Any:
        """Return one value of the detail."""
        for key, value in self.detail:
            if key == name:
                return value
        return default

    @property
    def session(self) -> str:
        """The attempt without the offer's number: ``c0#0>w1#0/2``."""
        return self.attempt.rpartition(":")[0] or self.attempt

    def __str__(self) -> str:
        words = " ".join(f"{name}={value}" for name, value in self.detail)
        return " ".join(
            word for word in (f"{self.at:.6f}", self.node, self.kind, self.task, self.attempt, words) if word
        )


_new: Callable[[type[Event], tuple[Any, ...]], Event] = cast("Any", tuple).__new__


class History:
    """The events of one run, in order."""

    __slots__ = ("_append", "events")

    def __init__(self, events: Iterable[Event] = ()) -> None:
        self.events: list[Event] = list(events)
        self._append = self.events.append

    def add(self, at: float, node: str, kind: str, task: str = "", attempt: str = "", detail: Detail = ()) -> None:
        """Append an event. ``kind`` is one of `KINDS`: `validate` checks it, not this."""
        self._append(_new(Event, (at, node, kind, task, attempt, detail)))

    def __iter__(self) -> Iterator[Event]:
        return iter(self.events)

    def __len__(self) -> int:
        return len(self.events)

    def __getitem__(self, index: int) -> Event:
        return self.events[index]

    def of(self, *kinds: str) -> list[Event]:
        """Return the events of these kinds."""
        return [event for event in self.events if event[2] in kinds]

    def validate(self) -> None:
        """Raise `ValueError` unless kinds and outcomes are known and time does not run backward."""
        before = 0.0
        for event in self.events:
            if event.kind not in KINDS:
                raise ValueError(f"no such kind of event: {event}")
            if event.kind == "call.ended" and event.get("outcome") not in OUTCOMES:
                raise ValueError(f"no such outcome: {event}")
            if event.at < before:
                raise ValueError(f"time runs backward, after {before}: {event}")
            before = event.at

    def digest(self) -> str:
        """Return a hash over all that the events say."""
        # The repr of str, int, float, bool, None and tuples of them is the same in every interpreter.
        return hashlib.blake2b(repr([tuple(event) for event in self.events]).encode(), digest_size=16).hexdigest()

    def to_lines(self) -> str:
        """Return the events as JSON, one a line."""
        return "".join(
            json.dumps([*event[:5], dict(event.detail)], separators=(",", ":")) + "\n" for event in self.events
        )

    @classmethod
    def from_lines(cls, text: str) -> History:
        """Read what `to_lines` returned."""
        history = cls()
        for line in text.splitlines():
            at, node, kind, task, attempt, detail = json.loads(line)
            history.add(float(at), node, kind, task, attempt, tuple((name, frozen(detail[name])) for name in detail))
        return history


def frozen(value: Any) -> Any:
    """Return a JSON value with its lists as tuples, as details have them."""
    if type(value) is list:
        return tuple(frozen(item) for item in cast("Any", value))
    return value


class Difference(NamedTuple):
    """Where two histories part."""

    number: int
    one: Event | None
    other: Event | None

    def __str__(self) -> str:
        return f"event {self.number} differs:\n  {self.one or 'nothing'}\n  {self.other or 'nothing'}"


def first_difference(one: History, other: History) -> Difference | None:
    """Return the first event in which two histories differ, if there is one."""
    for index, (left, right) in enumerate(zip(one.events, other.events, strict=False)):
        if left != right:
            return Difference(index, left, right)
    shorter = min(len(one), len(other))
    if len(one) == len(other):
        return None
    return Difference(
        shorter,
        one.events[shorter] if len(one) > shorter else None,
        other.events[shorter] if len(other) > shorter else None,
    )
