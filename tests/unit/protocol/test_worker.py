"""The worker's machine: every state against every event, and no body begins before start was read."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wool.protocol.caller import IllegalEvent
from wool.protocol.worker import TABLE, Do, Event, State, WorkerTask

# What leads to each state from the beginning.
PATHS: dict[State, tuple[Event, ...]] = {
    State.RECEIVING: (),
    State.WAITING: (Event.PARK,),
    State.ACCEPTED: (Event.COMPLETE,),
    State.RUNNING: (Event.COMPLETE, Event.START),
    State.SUSPENDED: (Event.COMPLETE, Event.START, Event.YIELDED),
    State.RESUMING: (Event.COMPLETE, Event.START, Event.YIELDED, Event.STEP_ANNOUNCED),
    State.INTERRUPTING: (Event.COMPLETE, Event.START, Event.DRAIN_OVER),
    State.ENDED: (Event.COMPLETE, Event.START, Event.FINISHED),
}

# "." is a crossing: nothing. "!" cannot be, or is the caller's fault: the session is closed.
CELLS = """
event           state         next and done

COMPLETE        RECEIVING     ACCEPTED:ACCEPT
COMPLETE        WAITING       !
COMPLETE        ACCEPTED      !
COMPLETE        RUNNING       !
COMPLETE        SUSPENDED     !
COMPLETE        RESUMING      !
COMPLETE        INTERRUPTING  !
COMPLETE        ENDED         !

REFUSE          RECEIVING     ENDED:REJECT
REFUSE          WAITING       ENDED:REJECT
REFUSE          ACCEPTED      !
REFUSE          RUNNING       !
REFUSE          SUSPENDED     !
REFUSE          RESUMING      !
REFUSE          INTERRUPTING  !
REFUSE          ENDED         !

WITHDRAW        RECEIVING     ENDED:FORGET
WITHDRAW        WAITING       ENDED:FORGET
WITHDRAW        ACCEPTED      ENDED:FORGET
WITHDRAW        RUNNING       !
WITHDRAW        SUSPENDED     !
WITHDRAW        RESUMING      !
WITHDRAW        INTERRUPTING  !
WITHDRAW        ENDED         .

LOST            RECEIVING     ENDED:FORGET
LOST            WAITING       ENDED:FORGET
LOST            ACCEPTED      ENDED:FORGET
LOST            RUNNING       ENDED:ABANDON
LOST            SUSPENDED     ENDED:ABANDON
LOST            RESUMING      ENDED:ABANDON
LOST            INTERRUPTING  ENDED:ABANDON
LOST            ENDED         .

START           RECEIVING     !
START           WAITING       !
START           ACCEPTED      RUNNING:BEGIN
START           RUNNING       !
START           SUSPENDED     !
START           RESUMING      !
START           INTERRUPTING  !
START           ENDED         !

CANCEL          RECEIVING     !
CANCEL          WAITING       !
CANCEL          ACCEPTED      !
CANCEL          RUNNING       RUNNING:DELIVER_CANCEL
CANCEL          SUSPENDED     .
CANCEL          RESUMING      RESUMING:KEEP_CANCEL
CANCEL          INTERRUPTING  INTERRUPTING:DELIVER_CANCEL
CANCEL          ENDED         .

STEP_ANNOUNCED  RECEIVING     !
STEP_ANNOUNCED  WAITING       !
STEP_ANNOUNCED  ACCEPTED      !
STEP_ANNOUNCED  RUNNING       !
STEP_ANNOUNCED  SUSPENDED     RESUMING:NOTHING
STEP_ANNOUNCED  RESUMING      !
STEP_ANNOUNCED  INTERRUPTING  .
STEP_ANNOUNCED  ENDED         .

STEP            RECEIVING     !
STEP            WAITING       !
STEP            ACCEPTED      !
STEP            RUNNING       !
STEP            SUSPENDED     RUNNING:DELIVER_STEP
STEP            RESUMING      RUNNING:DELIVER_STEP
STEP            INTERRUPTING  .
STEP            ENDED         .

YIELDED         RECEIVING     !
YIELDED         WAITING       !
YIELDED         ACCEPTED      !
YIELDED         RUNNING       SUSPENDED:YIELD
YIELDED         SUSPENDED     !
YIELDED         RESUMING      !
YIELDED         INTERRUPTING  INTERRUPTING:CLOSE_GENERATOR
YIELDED         ENDED         .

FINISHED        RECEIVING     !
FINISHED        WAITING       !
FINISHED        ACCEPTED      !
FINISHED        RUNNING       ENDED:RESULT
FINISHED        SUSPENDED     !
FINISHED        RESUMING      !
FINISHED        INTERRUPTING  ENDED:INTERRUPTED
FINISHED        ENDED         .

DRAIN_OVER      RECEIVING     !
DRAIN_OVER      WAITING       !
DRAIN_OVER      ACCEPTED      !
DRAIN_OVER      RUNNING       INTERRUPTING:DELIVER_CANCEL
DRAIN_OVER      SUSPENDED     INTERRUPTING:CLOSE_GENERATOR
DRAIN_OVER      RESUMING      INTERRUPTING:CLOSE_GENERATOR
DRAIN_OVER      INTERRUPTING  .
DRAIN_OVER      ENDED         .

PARK            RECEIVING     WAITING:NOTHING
PARK            WAITING       !
PARK            ACCEPTED      !
PARK            RUNNING       !
PARK            SUSPENDED     !
PARK            RESUMING      !
PARK            INTERRUPTING  !
PARK            ENDED         !

ADMIT           RECEIVING     !
ADMIT           WAITING       ACCEPTED:ACCEPT
ADMIT           ACCEPTED      !
ADMIT           RUNNING       !
ADMIT           SUSPENDED     !
ADMIT           RESUMING      !
ADMIT           INTERRUPTING  !
ADMIT           ENDED         !
"""

SAID = {"ACCEPT", "REJECT", "YIELD", "RESULT", "INTERRUPTED"}


def cells() -> Iterator[tuple[Event, State, str]]:
    for line in CELLS.strip().splitlines()[1:]:
        if line:
            event, state, cell = line.split()
            yield Event[event], State[state], cell


def in_state(state: State) -> WorkerTask:
    task = WorkerTask()
    for event in PATHS[state]:
        task.handle(event)
    assert task.state is state
    return task


def test_the_table_has_a_cell_for_every_state_and_every_event() -> None:
    found = [(event, state) for event, state, _ in cells()]
    assert sorted(found) == sorted((event, state) for event in Event for state in State)


@pytest.mark.parametrize(
    ("event", "state", "cell"), list(cells()), ids=[f"{state.name}-{event.name}" for event, state, _ in cells()]
)
def test_cell(event: Event, state: State, cell: str) -> None:
    task = in_state(state)
    if cell == "!":
        with pytest.raises(IllegalEvent, match=f"{event.name} in state {state.name}"):
            task.handle(event)
        assert task.state is state
    elif cell == ".":
        assert task.handle(event) is Do.NOTHING
        assert task.state is state
    else:
        following, do = cell.split(":")
        assert task.handle(event) is Do[f"SAY_{do}" if do in SAID else do]
        assert task.state is State[following]


ROWS: list[tuple[str, State, Event, State, Do]] = [
    ("RECEIVING | payload complete | ACCEPTED: accept", State.RECEIVING, Event.COMPLETE, State.ACCEPTED, Do.SAY_ACCEPT),
    (
        "RECEIVING | over a limit, draining, admission says no | REJECTED: reject(reason)",
        State.RECEIVING,
        Event.REFUSE,
        State.ENDED,
        Do.SAY_REJECT,
    ),
    ("RECEIVING | withdraw | DROPPED", State.RECEIVING, Event.WITHDRAW, State.ENDED, Do.FORGET),
    ("RECEIVING | session lost | DROPPED", State.RECEIVING, Event.LOST, State.ENDED, Do.FORGET),
    ("ACCEPTED | start | RUNNING: hand to the routine loop", State.ACCEPTED, Event.START, State.RUNNING, Do.BEGIN),
    ("ACCEPTED | withdraw | DROPPED", State.ACCEPTED, Event.WITHDRAW, State.ENDED, Do.FORGET),
    ("ACCEPTED | session lost | DROPPED", State.ACCEPTED, Event.LOST, State.ENDED, Do.FORGET),
    ("RUNNING | body ends | ENDED: return, raise", State.RUNNING, Event.FINISHED, State.ENDED, Do.SAY_RESULT),
    ("RUNNING | body yields | SUSPENDED: yield", State.RUNNING, Event.YIELDED, State.SUSPENDED, Do.SAY_YIELD),
    ("RUNNING | cancel | deliver it to the body", State.RUNNING, Event.CANCEL, State.RUNNING, Do.DELIVER_CANCEL),
    (
        "RUNNING | drain time over | deliver cancel",
        State.RUNNING,
        Event.DRAIN_OVER,
        State.INTERRUPTING,
        Do.DELIVER_CANCEL,
    ),
    (
        "RUNNING, drain time over | body ends | said as interrupted",
        State.INTERRUPTING,
        Event.FINISHED,
        State.ENDED,
        Do.SAY_INTERRUPTED,
    ),
    ("RUNNING | session lost | cancel the body, say nothing", State.RUNNING, Event.LOST, State.ENDED, Do.ABANDON),
    ("SUSPENDED | next, send, throw, close | RUNNING", State.SUSPENDED, Event.STEP, State.RUNNING, Do.DELIVER_STEP),
    (
        "SUSPENDED | session lost | close the generator, say nothing",
        State.SUSPENDED,
        Event.LOST,
        State.ENDED,
        Do.ABANDON,
    ),
    (
        "REJECTED, DROPPED, ENDED | withdraw that crossed | nothing",
        State.ENDED,
        Event.WITHDRAW,
        State.ENDED,
        Do.NOTHING,
    ),
    ("REJECTED, DROPPED, ENDED | cancel that crossed | nothing", State.ENDED, Event.CANCEL, State.ENDED, Do.NOTHING),
    ("REJECTED, DROPPED, ENDED | next that crossed | nothing", State.ENDED, Event.STEP, State.ENDED, Do.NOTHING),
]


@pytest.mark.parametrize(("row", "state", "event", "following", "do"), ROWS, ids=[row[0] for row in ROWS])
def test_row_of_the_design(row: str, state: State, event: Event, following: State, do: Do) -> None:
    task = in_state(state)
    assert task.handle(event) is do
    assert task.state is following


@pytest.mark.parametrize("state", [state for state in State if state is not State.ACCEPTED])
def test_row_of_the_design_any_start_that_no_crossing_explains_is_a_protocol_error(state: State) -> None:
    with pytest.raises(IllegalEvent):
        in_state(state).handle(Event.START)


@pytest.mark.parametrize("state", [State.RECEIVING, State.ACCEPTED, State.RUNNING, State.RESUMING])
def test_row_of_the_design_any_step_that_no_crossing_explains_is_a_protocol_error(state: State) -> None:
    with pytest.raises(IllegalEvent):
        in_state(state).handle(Event.STEP_ANNOUNCED)


@given(st.lists(st.sampled_from(Event), max_size=40))
def test_whatever_comes_the_body_begins_at_most_once_and_only_on_start(events: list[Event]) -> None:
    task = WorkerTask()
    done: list[Do] = []
    for event in events:
        before = task.state
        try:
            do = task.handle(event)
        except IllegalEvent:
            assert task.state is before
            continue
        assert do is not Do.BEGIN or event is Event.START
        if before is State.ENDED:
            assert (task.state, do) == (State.ENDED, Do.NOTHING)
        done.append(do)
        assert task.started == (task.state not in (State.RECEIVING, State.WAITING, State.ACCEPTED, State.ENDED))
    said = [do for do in done if do in (Do.SAY_RESULT, Do.SAY_INTERRUPTED, Do.ABANDON, Do.FORGET, Do.SAY_REJECT)]
    assert len(said) <= 1, "a task ends once"
    assert done.count(Do.BEGIN) <= 1
    assert done.count(Do.SAY_ACCEPT) <= 1
    body = [Do.SAY_YIELD, Do.SAY_RESULT, Do.SAY_INTERRUPTED, Do.DELIVER_CANCEL, Do.DELIVER_STEP, Do.ABANDON]
    first = next((index for index, do in enumerate(done) if do in body), None)
    if first is not None:
        assert Do.BEGIN in done[:first], "nothing is said of a body, or to it, before it has begun"


def test_every_row_of_the_table_is_for_a_state_and_an_event() -> None:
    assert set(TABLE) == set(State)
