"""The caller's side of one task: the machine that keeps the promise of at most once.

It owns the one decision that matters: *start* is said at most once in the life of a task, and counts as
said when this machine returns `Start`. Everything before may be tried elsewhere; nothing after may.
It must never await, log, read a clock or draw a random number.

====================  ==========================================  =======================================
state                 event                                       next state, and what is said
====================  ==========================================  =======================================
QUEUED                offer                                       OFFERED: offer
..                    exhausted / expired / cancel                ENDED: no workers / timeout / cancelled
OFFERED               accept of a live offer                      STARTED: start; withdraw the others
..                    reject, or its session lost                 drop that offer; none left: QUEUED
..                    impatient                                   withdraw it, suspect; none left: QUEUED
..                    expired / cancel                            ENDED: withdraw all; timeout / cancelled
..                    accept or reject of a withdrawn offer       nothing
STARTED               yield                                       IDLE
..                    return, raise, interrupted                  ENDED with it
..                    session lost / violation                    ENDED: lost (and close the session)
..                    cancel                                      CANCELLING: cancel
IDLE                  step                                        STARTED: step
..                    cancelled step                              CANCELLING: step
..                    session lost, interrupted                   GONE: kept; the next step ends in it
CANCELLING            cancel                                      cancel (each one counts)
..                    yield / any end                             IDLE / ENDED with what the end says
..                    session lost, violation, grace over         ENDED: cancelled
GONE                  step, cancelled step                        ENDED: lost or interrupted
ENDED                 anything                                    nothing
====================  ==========================================  =======================================

What a row leaves out is a crossing that means nothing, or an event that cannot be: `IGNORED` lists the
former, everything else raises `IllegalEvent` and leaves the state as it was.
"""

from __future__ import annotations

from collections.abc import Hashable
from enum import IntEnum
from typing import NamedTuple, TypeAlias


class State(IntEnum):
    """Where a task stands, as its caller knows it."""

    QUEUED = 0
    OFFERED = 1
    STARTED = 2
    IDLE = 3
    CANCELLING = 4
    GONE = 5
    ENDED = 6


class Event(IntEnum):
    """What can happen to a task at its caller, already told apart by what guards it."""

    OFFER = 0
    EXHAUSTED = 1
    EXPIRED = 2
    CANCEL = 3
    ACCEPT = 4
    DROP_ONE = 5  # a reject or a lost session, and other offers are out
    DROP_LAST = 6  # the same, and it was the only offer
    IMPATIENT_ONE = 7
    IMPATIENT_LAST = 8
    STALE = 9  # an accept or reject of an offer that was withdrawn
    YIELD = 10
    RETURN = 11
    RAISE = 12
    INTERRUPTED = 13
    LOST = 14  # the session that the task was started on
    VIOLATION = 15  # a frame that is not allowed here
    STEP = 16
    GRACE_OVER = 17
    CANCELLED_STEP = 18  # the step itself brings the cancellation, which has crossed a yield


class Outcome(IntEnum):
    """How a task ended for its caller."""

    NO_WORKERS = 0
    TIMEOUT = 1
    CANCELLED = 2
    RETURNED = 3
    RAISED = 4
    INTERRUPTED = 5
    LOST = 6


class Do(IntEnum):
    """What a transition says, before the machine fills in the session and the number."""

    NOTHING = 0
    OFFER = 1
    START = 2
    DROP = 3
    WITHDRAW_AND_SUSPECT = 4
    WITHDRAW_ALL = 5
    CANCEL = 6
    STEP = 7
    DELIVER = 8
    REMEMBER_LOST = 9
    REMEMBER_INTERRUPTED = 10
    END_AS_REMEMBERED = 11
    CLOSE_SESSION = 12
    END = 13


class Row(NamedTuple):
    """One transition: where to, what to say, and how it ended if it did."""

    next: State
    do: Do
    outcome: Outcome | None = None


_ENDED = State.ENDED

TABLE: dict[State, dict[Event, Row]] = {
    State.QUEUED: {
        Event.OFFER: Row(State.OFFERED, Do.OFFER),
        Event.EXHAUSTED: Row(_ENDED, Do.END, Outcome.NO_WORKERS),
        Event.EXPIRED: Row(_ENDED, Do.END, Outcome.TIMEOUT),
        Event.CANCEL: Row(_ENDED, Do.END, Outcome.CANCELLED),
    },
    State.OFFERED: {
        Event.OFFER: Row(State.OFFERED, Do.OFFER),
        Event.ACCEPT: Row(State.STARTED, Do.START),
        Event.DROP_ONE: Row(State.OFFERED, Do.DROP),
        Event.DROP_LAST: Row(State.QUEUED, Do.DROP),
        Event.IMPATIENT_ONE: Row(State.OFFERED, Do.WITHDRAW_AND_SUSPECT),
        Event.IMPATIENT_LAST: Row(State.QUEUED, Do.WITHDRAW_AND_SUSPECT),
        Event.EXPIRED: Row(_ENDED, Do.WITHDRAW_ALL, Outcome.TIMEOUT),
        Event.CANCEL: Row(_ENDED, Do.WITHDRAW_ALL, Outcome.CANCELLED),
    },
    State.STARTED: {
        Event.YIELD: Row(State.IDLE, Do.DELIVER),
        Event.RETURN: Row(_ENDED, Do.END, Outcome.RETURNED),
        Event.RAISE: Row(_ENDED, Do.END, Outcome.RAISED),
        Event.INTERRUPTED: Row(_ENDED, Do.END, Outcome.INTERRUPTED),
        Event.LOST: Row(_ENDED, Do.END, Outcome.LOST),
        Event.VIOLATION: Row(_ENDED, Do.CLOSE_SESSION, Outcome.LOST),
        Event.CANCEL: Row(State.CANCELLING, Do.CANCEL),
    },
    State.IDLE: {
        Event.STEP: Row(State.STARTED, Do.STEP),
        Event.CANCELLED_STEP: Row(State.CANCELLING, Do.STEP),
        Event.LOST: Row(State.GONE, Do.REMEMBER_LOST),
        Event.VIOLATION: Row(State.GONE, Do.CLOSE_SESSION),
        Event.INTERRUPTED: Row(State.GONE, Do.REMEMBER_INTERRUPTED),
    },
    State.CANCELLING: {
        Event.CANCEL: Row(State.CANCELLING, Do.CANCEL),
        Event.YIELD: Row(State.IDLE, Do.DELIVER),
        Event.RETURN: Row(_ENDED, Do.END, Outcome.RETURNED),
        Event.RAISE: Row(_ENDED, Do.END, Outcome.RAISED),
        Event.INTERRUPTED: Row(_ENDED, Do.END, Outcome.INTERRUPTED),
        Event.LOST: Row(_ENDED, Do.END, Outcome.CANCELLED),
        Event.VIOLATION: Row(_ENDED, Do.CLOSE_SESSION, Outcome.CANCELLED),
        Event.GRACE_OVER: Row(_ENDED, Do.END, Outcome.CANCELLED),
    },
    State.GONE: {
        Event.STEP: Row(_ENDED, Do.END_AS_REMEMBERED),
        Event.CANCELLED_STEP: Row(_ENDED, Do.END_AS_REMEMBERED),
    },
    State.ENDED: {},
}

_TIMERS = frozenset({Event.EXPIRED, Event.GRACE_OVER, Event.IMPATIENT_ONE, Event.IMPATIENT_LAST})
IGNORED: dict[State, frozenset[Event]] = {
    State.QUEUED: _TIMERS | {Event.STALE, Event.LOST},
    State.OFFERED: _TIMERS | {Event.STALE, Event.LOST, Event.EXHAUSTED},
    State.STARTED: _TIMERS | {Event.STALE, Event.EXHAUSTED},
    # A cancel crosses the yield that is on its way to the user's loop.
    State.IDLE: _TIMERS | {Event.STALE, Event.EXHAUSTED, Event.CANCEL},
    State.CANCELLING: _TIMERS | {Event.STALE, Event.EXHAUSTED},
    State.GONE: _TIMERS | {Event.STALE, Event.EXHAUSTED, Event.CANCEL, Event.LOST, Event.INTERRUPTED, Event.VIOLATION},
    State.ENDED: frozenset(Event),
}
"""Crossings: an event that the state need not answer, because something else came first."""


class IllegalEvent(Exception):
    """An event that the state does not allow and no crossing explains. The state is unchanged."""


SessionKey: TypeAlias = Hashable


class Offer(NamedTuple):
    """Say offer ``number`` on ``session``."""

    session: SessionKey
    number: int


class Start(NamedTuple):
    """Say start. Returned at most once in the life of a task."""

    session: SessionKey
    number: int


class Withdraw(NamedTuple):
    """Take an offer back; an answer to it means nothing any more."""

    session: SessionKey
    number: int


class Cancel(NamedTuple):
    """Pass a cancellation on to the body."""

    session: SessionKey
    number: int


class Step(NamedTuple):
    """Say the step (next, send, throw or close) that is at hand."""

    session: SessionKey
    number: int


class Suspect(NamedTuple):
    """The worker behind ``session`` did not answer in time."""

    session: SessionKey


class CloseSession(NamedTuple):
    """The peer broke the protocol: close the session."""

    session: SessionKey


class Deliver(NamedTuple):
    """Hand the yielded item to the consumer."""


class Requeue(NamedTuple):
    """No offer is out any more: find another candidate."""


class End(NamedTuple):
    """The call has its one outcome."""

    outcome: Outcome


Instruction: TypeAlias = Offer | Start | Withdraw | Cancel | Step | Suspect | CloseSession | Deliver | Requeue | End
Instructions: TypeAlias = tuple[Instruction, ...]

_NOTHING: Instructions = ()
_DELIVER: Instructions = (Deliver(),)
_ENDS: dict[Outcome, Instructions] = {outcome: (End(outcome),) for outcome in Outcome}

# Compiled for the path that every task takes: None is a crossing, a miss is illegal.
_ROWS: tuple[dict[Event, Row | None], ...] = tuple(
    {**dict.fromkeys(IGNORED[state], None), **TABLE[state]} for state in State
)


class CallerTask:
    """The caller's machine for one task. Each method is one event and returns what is to be done."""

    __slots__ = ("_remembered", "offers", "started", "state")

    def __init__(self) -> None:
        self.state: State = State.QUEUED
        self.offers: list[tuple[SessionKey, int]] = []
        """Offers that are out and not withdrawn."""
        self.started: tuple[SessionKey, int] | None = None
        """Where start was said; set at most once."""
        self._remembered = Outcome.LOST

    # ---- what the caller decides ----

    def offer(self, session: SessionKey, number: int) -> Instructions:
        """A candidate with room was found."""
        if self._move(Event.OFFER) is None:
            return _NOTHING
        self.offers.append((session, number))
        return (Offer(session, number),)

    def exhausted(self) -> Instructions:
        """Nobody is left to try."""
        return self._plain(Event.EXHAUSTED)

    def expired(self) -> Instructions:
        """The dispatch timeout is over."""
        return self._withdrawing(Event.EXPIRED)

    def cancel(self) -> Instructions:
        """The caller was cancelled (once more)."""
        if self.state is State.STARTED or self.state is State.CANCELLING:
            self._move(Event.CANCEL)
            assert self.started is not None
            return (Cancel(*self.started),)
        return self._withdrawing(Event.CANCEL)

    def impatient(self, session: SessionKey, number: int) -> Instructions:
        """The offer was not answered in time, and another candidate exists."""
        if (session, number) not in self.offers:
            return _NOTHING
        last = len(self.offers) == 1
        row = self._move(Event.IMPATIENT_LAST if last else Event.IMPATIENT_ONE)
        if row is None:
            return _NOTHING
        self.offers.remove((session, number))
        # Suspect first: the room that the withdrawal makes is not for those who wait there.
        said: Instructions = (Suspect(session), Withdraw(session, number))
        return (*said, Requeue()) if last else said

    def step(self, *, cancelled: bool = False) -> Instructions:
        """The consumer asks for the next step of a generator; ``cancelled``: that step is a cancellation."""
        row = self._move(Event.CANCELLED_STEP if cancelled else Event.STEP)
        if row is None:
            return _NOTHING
        if row.do is Do.END_AS_REMEMBERED:
            return _ENDS[self._remembered]
        assert self.started is not None
        return (Step(*self.started),)

    def grace_over(self) -> Instructions:
        """A cancelled caller has waited long enough."""
        return self._plain(Event.GRACE_OVER)

    # ---- what the worker says ----

    def accept(self, session: SessionKey, number: int) -> Instructions:
        """The worker takes the task."""
        if (session, number) not in self.offers:
            if self.started == (session, number):
                return self.violation(session)
            self._move(Event.STALE)
            return _NOTHING
        assert self.started is None, "start was said before"
        self._move(Event.ACCEPT)
        self.started = (session, number)
        if len(self.offers) == 1:
            self.offers.clear()
            return (Start(session, number),)
        others = [Withdraw(*offer) for offer in self.offers if offer != self.started]
        self.offers.clear()
        return (Start(session, number), *others)

    def reject(self, session: SessionKey, number: int) -> Instructions:
        """The worker does not take the task."""
        if (session, number) not in self.offers:
            if self.started == (session, number):
                return self.violation(session)
            self._move(Event.STALE)
            return _NOTHING
        return self._drop(session, number)

    def result(self, session: SessionKey, number: int, event: Event) -> Instructions:
        """The worker answers a step or ends: YIELD, RETURN, RAISE or INTERRUPTED."""
        if self.started != (session, number):
            if (session, number) in self.offers:
                return self.violation(session)
            return _NOTHING
        if self.state is State.IDLE and event is not Event.INTERRUPTED:
            return self.violation(session)
        row = self._move(event)
        if row is None:
            return _NOTHING
        if row.do is Do.DELIVER:
            return _DELIVER
        if row.do is Do.REMEMBER_INTERRUPTED:
            self._remembered = Outcome.INTERRUPTED
            return _NOTHING
        assert row.outcome is not None
        return _ENDS[row.outcome]

    def lost(self, session: SessionKey) -> Instructions:
        """The session is gone, for whatever reason."""
        if self.started is not None:
            return self._plain(Event.LOST) if self.started[0] == session else _NOTHING
        said: Instructions = _NOTHING
        for offer in [offer for offer in self.offers if offer[0] == session]:
            said += self._drop(*offer)
        return said

    def violation(self, session: SessionKey) -> Instructions:
        """The worker said what this task's state does not allow."""
        if self.started is None or self.started[0] != session:
            return (CloseSession(session), *self.lost(session))
        row = self._move(Event.VIOLATION)
        if row is None:
            return _NOTHING
        if row.outcome is None:
            return (CloseSession(session),)
        return (CloseSession(session), End(row.outcome))

    # ---- shared by the above ----

    def _move(self, event: Event) -> Row | None:
        rows = _ROWS[self.state]
        if event not in rows:
            raise IllegalEvent(f"{event.name} in state {self.state.name}: started={self.started is not None}")
        row = rows[event]
        if row is not None:
            self.state = row.next
        return row

    def _plain(self, event: Event) -> Instructions:
        row = self._move(event)
        if row is None or row.outcome is None:
            return _NOTHING
        return _ENDS[row.outcome]

    def _withdrawing(self, event: Event) -> Instructions:
        row = self._move(event)
        if row is None or row.outcome is None:
            return _NOTHING
        withdrawn = tuple(Withdraw(*offer) for offer in self.offers)
        self.offers.clear()
        return (*withdrawn, End(row.outcome))

    def _drop(self, session: SessionKey, number: int) -> Instructions:
        last = len(self.offers) == 1
        self._move(Event.DROP_LAST if last else Event.DROP_ONE)
        self.offers.remove((session, number))
        return (Requeue(),) if last else _NOTHING

    def validate(self) -> None:
        """Check what must hold between events; for tests and simulation."""
        assert (self.state is State.OFFERED) == bool(self.offers)
        if self.state in (State.STARTED, State.IDLE, State.CANCELLING, State.GONE):
            assert self.started is not None
        if self.state in (State.QUEUED, State.OFFERED):
            assert self.started is None
        assert len(set(self.offers)) == len(self.offers)
