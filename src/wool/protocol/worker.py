"""The worker's side of one task: it never begins before it has read *start*.

It owns when the body may begin, what is said of it, and who is told to end it. It must never await,
log, read a clock or draw a random number.

==============  ===============================  =================================================
state           event                            next state, and what is said or done
==============  ===============================  =================================================
RECEIVING       complete                         ACCEPTED: accept
..              refuse                           ENDED (rejected): reject; the rest is dropped
..              park                             WAITING: complete, and not let in yet
..              withdraw, session lost           ENDED (dropped)
WAITING         admit                            ACCEPTED: accept
..              refuse                           ENDED (rejected): reject
..              withdraw, session lost           ENDED (dropped)
ACCEPTED        start                            RUNNING: begin
..              withdraw, session lost           ENDED (dropped)
RUNNING         body yields / ends               SUSPENDED: yield / ENDED: its result
..              cancel                           deliver it
..              drain over                       INTERRUPTING: deliver cancel
..              session lost                     ENDED: abandon the body, say nothing
SUSPENDED       step                             RUNNING: deliver it
..              head of a large step             RESUMING
..              drain over                       INTERRUPTING: close the generator
..              session lost                     ENDED: abandon the generator, say nothing
RESUMING        step complete                    RUNNING: deliver it, then the cancels that were kept
..              cancel                           keep it: it has overtaken the step
..              drain over, session lost         as SUSPENDED
INTERRUPTING    body ends                        ENDED: interrupted
..              body yields                      close the generator
..              cancel                           deliver it
..              session lost                     ENDED: abandon
ENDED           withdraw, cancel, step, chunk    nothing: they crossed
any             anything else                    `IllegalEvent`: close the session
==============  ===============================  =================================================

Accept binds: nothing but a withdrawal or the end of the session undoes it, not even drain. The session
forgets a task that has ended; what still comes for its number has crossed.
"""

from __future__ import annotations

from enum import IntEnum

from wool.protocol.caller import IllegalEvent


class State(IntEnum):
    """Where a task stands, as its worker knows it."""

    RECEIVING = 0
    WAITING = 1
    ACCEPTED = 2
    RUNNING = 3
    SUSPENDED = 4
    RESUMING = 5
    INTERRUPTING = 6
    ENDED = 7


class Event(IntEnum):
    """What can happen to a task at its worker."""

    COMPLETE = 0
    REFUSE = 1
    WITHDRAW = 2
    LOST = 3
    START = 4
    CANCEL = 5
    STEP = 6
    YIELDED = 7
    FINISHED = 8
    DRAIN_OVER = 9
    STEP_ANNOUNCED = 10  # a step whose payload comes in chunks
    PARK = 11  # complete, and there is no room yet, or somebody has still to say whether it is taken
    ADMIT = 12


class Do(IntEnum):
    """What a transition asks for."""

    NOTHING = 0
    SAY_ACCEPT = 1
    SAY_REJECT = 2
    FORGET = 3
    BEGIN = 4
    SAY_YIELD = 5
    SAY_RESULT = 6
    SAY_INTERRUPTED = 7
    DELIVER_CANCEL = 8
    DELIVER_STEP = 9
    CLOSE_GENERATOR = 10
    ABANDON = 11
    KEEP_CANCEL = 12


TABLE: dict[State, dict[Event, tuple[State, Do]]] = {
    State.RECEIVING: {
        Event.COMPLETE: (State.ACCEPTED, Do.SAY_ACCEPT),
        Event.REFUSE: (State.ENDED, Do.SAY_REJECT),
        Event.WITHDRAW: (State.ENDED, Do.FORGET),
        Event.LOST: (State.ENDED, Do.FORGET),
        Event.PARK: (State.WAITING, Do.NOTHING),
    },
    State.WAITING: {
        Event.ADMIT: (State.ACCEPTED, Do.SAY_ACCEPT),
        Event.REFUSE: (State.ENDED, Do.SAY_REJECT),
        Event.WITHDRAW: (State.ENDED, Do.FORGET),
        Event.LOST: (State.ENDED, Do.FORGET),
    },
    State.ACCEPTED: {
        Event.START: (State.RUNNING, Do.BEGIN),
        Event.WITHDRAW: (State.ENDED, Do.FORGET),
        Event.LOST: (State.ENDED, Do.FORGET),
    },
    State.RUNNING: {
        Event.YIELDED: (State.SUSPENDED, Do.SAY_YIELD),
        Event.FINISHED: (State.ENDED, Do.SAY_RESULT),
        Event.CANCEL: (State.RUNNING, Do.DELIVER_CANCEL),
        Event.DRAIN_OVER: (State.INTERRUPTING, Do.DELIVER_CANCEL),
        Event.LOST: (State.ENDED, Do.ABANDON),
    },
    State.SUSPENDED: {
        Event.STEP: (State.RUNNING, Do.DELIVER_STEP),
        Event.DRAIN_OVER: (State.INTERRUPTING, Do.CLOSE_GENERATOR),
        Event.LOST: (State.ENDED, Do.ABANDON),
        # A cancel crosses the yield that is on its way to the caller.
        Event.CANCEL: (State.SUSPENDED, Do.NOTHING),
        Event.STEP_ANNOUNCED: (State.RESUMING, Do.NOTHING),
    },
    State.RESUMING: {
        Event.STEP: (State.RUNNING, Do.DELIVER_STEP),
        Event.DRAIN_OVER: (State.INTERRUPTING, Do.CLOSE_GENERATOR),
        Event.LOST: (State.ENDED, Do.ABANDON),
        # It was said after the step, and has overtaken the chunks: it is for the step.
        Event.CANCEL: (State.RESUMING, Do.KEEP_CANCEL),
    },
    State.INTERRUPTING: {
        Event.FINISHED: (State.ENDED, Do.SAY_INTERRUPTED),
        Event.YIELDED: (State.INTERRUPTING, Do.CLOSE_GENERATOR),
        Event.CANCEL: (State.INTERRUPTING, Do.DELIVER_CANCEL),
        # A step crosses the interruption of a suspended generator.
        Event.STEP: (State.INTERRUPTING, Do.NOTHING),
        Event.STEP_ANNOUNCED: (State.INTERRUPTING, Do.NOTHING),
        Event.DRAIN_OVER: (State.INTERRUPTING, Do.NOTHING),
        Event.LOST: (State.ENDED, Do.ABANDON),
    },
    State.ENDED: dict.fromkeys(
        (
            Event.WITHDRAW,
            Event.CANCEL,
            Event.STEP,
            Event.STEP_ANNOUNCED,
            Event.LOST,
            Event.YIELDED,
            Event.FINISHED,
            Event.DRAIN_OVER,
        ),
        (State.ENDED, Do.NOTHING),
    ),
}

_ROWS = tuple(TABLE[state] for state in State)


class WorkerTask:
    """The worker's machine for one offer."""

    __slots__ = ("state",)

    def __init__(self) -> None:
        self.state: State = State.RECEIVING

    def handle(self, event: Event) -> Do:
        """Take ``event``; return what is to be done. Raises `IllegalEvent`, then nothing has changed."""
        row = _ROWS[self.state].get(event)
        if row is None:
            raise IllegalEvent(f"{event.name} in state {self.state.name}")
        self.state = row[0]
        return row[1]

    @property
    def started(self) -> bool:
        """Whether the body was handed to the routine loop and has not ended."""
        return State.RUNNING <= self.state <= State.INTERRUPTING
