"""The caller's machine: every state against every event, and at most once whatever comes in whatever order."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from wool.protocol import worker
from wool.protocol.caller import (
    IGNORED,
    TABLE,
    CallerTask,
    Cancel,
    CloseSession,
    Deliver,
    End,
    Event,
    IllegalEvent,
    Instructions,
    Offer,
    Outcome,
    Requeue,
    Start,
    State,
    Step,
    Suspect,
    Withdraw,
)

# ---- every state against every event ----------------------------------------------------------------


def queued() -> CallerTask:
    return CallerTask()


def offered() -> CallerTask:
    task = queued()
    task.offer("s", 1)
    return task


def hedged() -> CallerTask:
    task = offered()
    task.offer("t", 1)
    return task


def started() -> CallerTask:
    task = offered()
    task.accept("s", 1)
    return task


def idle() -> CallerTask:
    task = started()
    task.result("s", 1, Event.YIELD)
    return task


def cancelling() -> CallerTask:
    task = started()
    task.cancel()
    return task


def gone() -> CallerTask:
    task = idle()
    task.lost("s")
    return task


def ended() -> CallerTask:
    task = started()
    task.result("s", 1, Event.RETURN)
    return task


STATES: dict[str, Callable[[], CallerTask]] = {
    "QUEUED": queued,
    "OFFERED": offered,
    "OFFERED-TWICE": hedged,
    "STARTED": started,
    "IDLE": idle,
    "CANCELLING": cancelling,
    "GONE": gone,
    "ENDED": ended,
}

EVENTS: dict[str, Callable[[CallerTask], Instructions]] = {
    "offer": lambda task: task.offer("u", 7),
    "exhausted": lambda task: task.exhausted(),
    "expired": lambda task: task.expired(),
    "cancel": lambda task: task.cancel(),
    "impatient s": lambda task: task.impatient("s", 1),
    "impatient t": lambda task: task.impatient("t", 1),
    "step": lambda task: task.step(),
    "grace over": lambda task: task.grace_over(),
    "accept s": lambda task: task.accept("s", 1),
    "accept t": lambda task: task.accept("t", 1),
    "accept never offered": lambda task: task.accept("s", 99),
    "reject s": lambda task: task.reject("s", 1),
    "reject t": lambda task: task.reject("t", 1),
    "yield s": lambda task: task.result("s", 1, Event.YIELD),
    "return s": lambda task: task.result("s", 1, Event.RETURN),
    "raise s": lambda task: task.result("s", 1, Event.RAISE),
    "interrupted s": lambda task: task.result("s", 1, Event.INTERRUPTED),
    "return t": lambda task: task.result("t", 1, Event.RETURN),
    "lost s": lambda task: task.lost("s"),
    "lost t": lambda task: task.lost("t"),
    "violation s": lambda task: task.violation("s"),
    "violation t": lambda task: task.violation("t"),
}

SAID: dict[str, Instructions] = {
    "offer": (Offer("u", 7),),
    "start-s": (Start("s", 1),),
    "start-t": (Start("t", 1),),
    "withdraw-s": (Withdraw("s", 1),),
    "withdraw-t": (Withdraw("t", 1),),
    "suspect-s": (Suspect("s"),),
    "suspect-t": (Suspect("t"),),
    "requeue": (Requeue(),),
    "cancel": (Cancel("s", 1),),
    "step": (Step("s", 1),),
    "deliver": (Deliver(),),
    "close-s": (CloseSession("s"),),
    "close-t": (CloseSession("t"),),
    **{outcome.name: (End(outcome),) for outcome in Outcome},
}

# A cell is the next state, then what is said, in order. "." is a crossing: nothing. "!" cannot be.
CELLS = """
event                 state          next and said

offer                 QUEUED         OFFERED offer
offer                 OFFERED        OFFERED offer
offer                 OFFERED-TWICE  OFFERED offer
offer                 STARTED        !
offer                 IDLE           !
offer                 CANCELLING     !
offer                 GONE           !
offer                 ENDED          .

exhausted             QUEUED         ENDED NO_WORKERS
exhausted             OFFERED        .
exhausted             OFFERED-TWICE  .
exhausted             STARTED        .
exhausted             IDLE           .
exhausted             CANCELLING     .
exhausted             GONE           .
exhausted             ENDED          .

expired               QUEUED         ENDED TIMEOUT
expired               OFFERED        ENDED withdraw-s TIMEOUT
expired               OFFERED-TWICE  ENDED withdraw-s withdraw-t TIMEOUT
expired               STARTED        .
expired               IDLE           .
expired               CANCELLING     .
expired               GONE           .
expired               ENDED          .

cancel                QUEUED         ENDED CANCELLED
cancel                OFFERED        ENDED withdraw-s CANCELLED
cancel                OFFERED-TWICE  ENDED withdraw-s withdraw-t CANCELLED
cancel                STARTED        CANCELLING cancel
cancel                IDLE           .
cancel                CANCELLING     CANCELLING cancel
cancel                GONE           .
cancel                ENDED          .

impatient s           QUEUED         .
impatient s           OFFERED        QUEUED suspect-s withdraw-s requeue
impatient s           OFFERED-TWICE  OFFERED suspect-s withdraw-s
impatient s           STARTED        .
impatient s           IDLE           .
impatient s           CANCELLING     .
impatient s           GONE           .
impatient s           ENDED          .

impatient t           QUEUED         .
impatient t           OFFERED        .
impatient t           OFFERED-TWICE  OFFERED suspect-t withdraw-t
impatient t           STARTED        .
impatient t           IDLE           .
impatient t           CANCELLING     .
impatient t           GONE           .
impatient t           ENDED          .

step                  QUEUED         !
step                  OFFERED        !
step                  OFFERED-TWICE  !
step                  STARTED        !
step                  IDLE           STARTED step
step                  CANCELLING     !
step                  GONE           ENDED LOST
step                  ENDED          .

grace over            QUEUED         .
grace over            OFFERED        .
grace over            OFFERED-TWICE  .
grace over            STARTED        .
grace over            IDLE           .
grace over            CANCELLING     ENDED CANCELLED
grace over            GONE           .
grace over            ENDED          .

accept s              QUEUED         .
accept s              OFFERED        STARTED start-s
accept s              OFFERED-TWICE  STARTED start-s withdraw-t
accept s              STARTED        ENDED close-s LOST
accept s              IDLE           GONE close-s
accept s              CANCELLING     ENDED close-s CANCELLED
accept s              GONE           .
accept s              ENDED          .

accept t              QUEUED         .
accept t              OFFERED        .
accept t              OFFERED-TWICE  STARTED start-t withdraw-s
accept t              STARTED        .
accept t              IDLE           .
accept t              CANCELLING     .
accept t              GONE           .
accept t              ENDED          .

accept never offered  QUEUED         .
accept never offered  OFFERED        .
accept never offered  OFFERED-TWICE  .
accept never offered  STARTED        .
accept never offered  IDLE           .
accept never offered  CANCELLING     .
accept never offered  GONE           .
accept never offered  ENDED          .

reject s              QUEUED         .
reject s              OFFERED        QUEUED requeue
reject s              OFFERED-TWICE  OFFERED
reject s              STARTED        ENDED close-s LOST
reject s              IDLE           GONE close-s
reject s              CANCELLING     ENDED close-s CANCELLED
reject s              GONE           .
reject s              ENDED          .

reject t              QUEUED         .
reject t              OFFERED        .
reject t              OFFERED-TWICE  OFFERED
reject t              STARTED        .
reject t              IDLE           .
reject t              CANCELLING     .
reject t              GONE           .
reject t              ENDED          .

yield s               QUEUED         .
yield s               OFFERED        QUEUED close-s requeue
yield s               OFFERED-TWICE  OFFERED close-s
yield s               STARTED        IDLE deliver
yield s               IDLE           GONE close-s
yield s               CANCELLING     IDLE deliver
yield s               GONE           !
yield s               ENDED          .

return s              QUEUED         .
return s              OFFERED        QUEUED close-s requeue
return s              OFFERED-TWICE  OFFERED close-s
return s              STARTED        ENDED RETURNED
return s              IDLE           GONE close-s
return s              CANCELLING     ENDED RETURNED
return s              GONE           !
return s              ENDED          .

raise s               QUEUED         .
raise s               OFFERED        QUEUED close-s requeue
raise s               OFFERED-TWICE  OFFERED close-s
raise s               STARTED        ENDED RAISED
raise s               IDLE           GONE close-s
raise s               CANCELLING     ENDED RAISED
raise s               GONE           !
raise s               ENDED          .

interrupted s         QUEUED         .
interrupted s         OFFERED        QUEUED close-s requeue
interrupted s         OFFERED-TWICE  OFFERED close-s
interrupted s         STARTED        ENDED INTERRUPTED
interrupted s         IDLE           GONE
interrupted s         CANCELLING     ENDED INTERRUPTED
interrupted s         GONE           .
interrupted s         ENDED          .

return t              QUEUED         .
return t              OFFERED        .
return t              OFFERED-TWICE  OFFERED close-t
return t              STARTED        .
return t              IDLE           .
return t              CANCELLING     .
return t              GONE           .
return t              ENDED          .

lost s                QUEUED         .
lost s                OFFERED        QUEUED requeue
lost s                OFFERED-TWICE  OFFERED
lost s                STARTED        ENDED LOST
lost s                IDLE           GONE
lost s                CANCELLING     ENDED CANCELLED
lost s                GONE           .
lost s                ENDED          .

lost t                QUEUED         .
lost t                OFFERED        .
lost t                OFFERED-TWICE  OFFERED
lost t                STARTED        .
lost t                IDLE           .
lost t                CANCELLING     .
lost t                GONE           .
lost t                ENDED          .

violation s           QUEUED         QUEUED close-s
violation s           OFFERED        QUEUED close-s requeue
violation s           OFFERED-TWICE  OFFERED close-s
violation s           STARTED        ENDED close-s LOST
violation s           IDLE           GONE close-s
violation s           CANCELLING     ENDED close-s CANCELLED
violation s           GONE           .
violation s           ENDED          .

violation t           QUEUED         QUEUED close-t
violation t           OFFERED        OFFERED close-t
violation t           OFFERED-TWICE  OFFERED close-t
violation t           STARTED        STARTED close-t
violation t           IDLE           IDLE close-t
violation t           CANCELLING     CANCELLING close-t
violation t           GONE           GONE close-t
violation t           ENDED          ENDED close-t
"""


def cells() -> Iterator[tuple[str, str, str]]:
    for line in CELLS.strip().splitlines()[1:]:
        if line:
            yield line[:22].strip(), line[22:37].strip(), line[37:].strip()


def snapshot(task: CallerTask) -> tuple[object, ...]:
    return task.state, tuple(task.offers), task.started


def test_the_table_has_a_cell_for_every_state_and_every_event() -> None:
    found = [(event, state) for event, state, _ in cells()]
    assert sorted(found) == sorted((event, state) for event in EVENTS for state in STATES)


@pytest.mark.parametrize(("event", "state", "cell"), list(cells()), ids=[f"{s}-{e}" for e, s, _ in cells()])
def test_cell(event: str, state: str, cell: str) -> None:
    task = STATES[state]()
    assert task.state.name == state.removesuffix("-TWICE")
    before = snapshot(task)
    if cell == "!":
        with pytest.raises(IllegalEvent, match=task.state.name):
            EVENTS[event](task)
        assert snapshot(task) == before
    elif cell == ".":
        assert EVENTS[event](task) == ()
        assert snapshot(task) == before
    else:
        following, *said = cell.split()
        assert EVENTS[event](task) == tuple(instruction for word in said for instruction in SAID[word])
        assert task.state.name == following
    task.validate()


# The rows of the design, in its own words; the cells above say the same to the last detail.
ROWS: list[tuple[str, str, str]] = [
    ("QUEUED | a candidate with window | OFFERED: offer(s, n)", "QUEUED", "offer"),
    ("QUEUED | no candidate left | ENDED: NoWorkersAvailable", "QUEUED", "exhausted"),
    ("QUEUED | time over | ENDED: DispatchTimeout", "QUEUED", "expired"),
    ("QUEUED | cancelled | ENDED: CancelledError", "QUEUED", "cancel"),
    ("OFFERED | accept of a live offer | STARTED: start, withdraw the other offers", "OFFERED-TWICE", "accept s"),
    ("OFFERED | reject | drop that offer", "OFFERED-TWICE", "reject s"),
    ("OFFERED | reject, none left | QUEUED", "OFFERED", "reject s"),
    ("OFFERED | session lost | drop that offer", "OFFERED-TWICE", "lost s"),
    ("OFFERED | session lost, none left | QUEUED", "OFFERED", "lost s"),
    ("OFFERED | patience over | withdraw it, mark s suspect, QUEUED", "OFFERED", "impatient s"),
    ("OFFERED | time over | ENDED: withdraw all, DispatchTimeout", "OFFERED-TWICE", "expired"),
    ("OFFERED | cancelled | ENDED: withdraw all, CancelledError", "OFFERED-TWICE", "cancel"),
    ("OFFERED | accept of a withdrawn offer | nothing", "OFFERED", "accept t"),
    ("OFFERED | reject of a withdrawn offer | nothing", "OFFERED", "reject t"),
    ("STARTED | yield | IDLE", "STARTED", "yield s"),
    ("STARTED | return | ENDED with it", "STARTED", "return s"),
    ("STARTED | raise | ENDED with it", "STARTED", "raise s"),
    ("STARTED | interrupted | ENDED with it", "STARTED", "interrupted s"),
    ("STARTED | session lost | ENDED: WorkerLost", "STARTED", "lost s"),
    ("STARTED | frame not allowed here | ENDED: WorkerLost, closes the session", "STARTED", "violation s"),
    ("STARTED | cancel | CANCELLING: cancel", "STARTED", "cancel"),
    ("IDLE | next, send, throw, close | STARTED: it", "IDLE", "step"),
    ("IDLE | session lost | kept", "IDLE", "lost s"),
    ("IDLE, session lost | the next step | ends in WorkerLost", "GONE", "step"),
    ("CANCELLING | cancel again | cancel", "CANCELLING", "cancel"),
    ("CANCELLING | any end: return | ENDED with what the remote end says", "CANCELLING", "return s"),
    ("CANCELLING | any end: raise | ENDED with what the remote end says", "CANCELLING", "raise s"),
    ("CANCELLING | any end: interrupted | ENDED with what the remote end says", "CANCELLING", "interrupted s"),
    ("CANCELLING | session lost | ENDED: CancelledError", "CANCELLING", "lost s"),
    ("CANCELLING | grace over | ENDED: CancelledError", "CANCELLING", "grace over"),
    *[(f"ENDED | {event} | nothing", "ENDED", event) for event in EVENTS if event != "violation t"],
]

ENDS = {
    "NoWorkersAvailable": Outcome.NO_WORKERS,
    "DispatchTimeout": Outcome.TIMEOUT,
    "CancelledError": Outcome.CANCELLED,
    "WorkerLost": Outcome.LOST,
}


@pytest.mark.parametrize(("row", "state", "event"), ROWS, ids=[row for row, _, _ in ROWS])
def test_row_of_the_design(row: str, state: str, event: str) -> None:
    then = row.split(" | ")[2]
    task = STATES[state]()
    before = snapshot(task)
    said = EVENTS[event](task)
    task.validate()
    kinds = {type(instruction) for instruction in said}
    if then == "nothing":
        assert (said, snapshot(task)) == ((), before)
    for name in ("QUEUED", "OFFERED", "STARTED", "IDLE", "CANCELLING", "ENDED"):
        if then.startswith(name) or then.endswith(f", {name}"):
            assert task.state.name == name
    for name, outcome in ENDS.items():
        if name in then:
            assert said[-1] == End(outcome)
    assert (Start in kinds) == ("start" in then)
    assert (CloseSession in kinds) == ("closes the session" in then)
    assert (Suspect in kinds) == ("suspect" in then)
    assert (Withdraw in kinds) == ("withdraw" in then)
    assert (Cancel in kinds) == (then.endswith("cancel"))


def test_after_the_end_every_event_is_a_crossing() -> None:
    assert set(IGNORED[State.ENDED]) == set(Event)
    assert not TABLE[State.ENDED]


def test_an_interruption_is_remembered_over_the_loss_that_follows() -> None:
    task = idle()
    assert task.result("s", 1, Event.INTERRUPTED) == ()
    assert task.lost("s") == ()
    assert task.step() == (End(Outcome.INTERRUPTED),)


def test_every_offer_on_a_lost_session_is_dropped() -> None:
    task = offered()
    task.offer("s", 2)
    assert task.lost("s") == (Requeue(),)
    assert task.state is State.QUEUED
    task.validate()


# ---- any sequence of events --------------------------------------------------------------------------

sessions = st.sampled_from(["r", "s", "t"])
numbers = st.integers(1, 4)


class AnySequence(RuleBasedStateMachine):
    """Throws every event at the machine in any order, and keeps its own account of what was said."""

    @initialize()
    def begin(self) -> None:
        self.task = CallerTask()
        self.starts: list[Start] = []
        self.ends: list[End] = []
        self.out: list[tuple[object, int]] = []
        self.number = 0

    def take(self, do: Callable[[], Instructions]) -> None:
        before = snapshot(self.task)
        try:
            said = do()
        except IllegalEvent:
            assert snapshot(self.task) == before, "an illegal event changes nothing"
            return
        for instruction in said:
            assert not self.ends, "after the end nothing is said"
            if isinstance(instruction, Start):
                assert (instruction.session, instruction.number) in self.out, "only a live offer is started"
                self.starts.append(instruction)
                self.out.remove((instruction.session, instruction.number))
            elif isinstance(instruction, Offer):
                assert not self.starts, "nothing is offered after start"
                self.out.append((instruction.session, instruction.number))
            elif isinstance(instruction, Withdraw):
                self.out.remove((instruction.session, instruction.number))
            elif isinstance(instruction, (Step, Cancel)):
                assert [(instruction.session, instruction.number)] == [tuple(start) for start in self.starts]
            elif isinstance(instruction, Requeue):
                assert not self.starts
                assert not self.task.offers, "a task is queued again only when no offer is out"
            elif isinstance(instruction, End):
                self.ends.append(instruction)
        self.out = [offer for offer in self.out if offer in self.task.offers]

    @rule(session=sessions)
    def offer(self, session: str) -> None:
        self.number += 1
        self.take(lambda: self.task.offer(session, self.number))

    @rule(event=st.sampled_from(["exhausted", "expired", "cancel", "step", "grace over"]))
    def at_the_caller(self, event: str) -> None:
        self.take(lambda: EVENTS[event](self.task))

    @rule(data=st.data(), what=st.sampled_from(["accept", "reject", "impatient"]))
    @precondition(lambda self: self.out)
    def about_a_live_offer(self, data: st.DataObject, what: str) -> None:
        session, number = data.draw(st.sampled_from(self.out))
        self.take(lambda: getattr(self.task, what)(session, number))

    @rule(session=sessions, number=numbers, what=st.sampled_from(["accept", "reject", "impatient"]))
    def about_any_offer(self, session: str, number: int, what: str) -> None:
        self.take(lambda: getattr(self.task, what)(session, number))

    @rule(event=st.sampled_from([Event.YIELD, Event.RETURN, Event.RAISE, Event.INTERRUPTED]))
    @precondition(lambda self: self.starts)
    def result(self, event: Event) -> None:
        self.take(lambda: self.task.result(*self.starts[0], event))

    @rule(
        session=sessions,
        number=numbers,
        event=st.sampled_from([Event.YIELD, Event.RETURN, Event.RAISE, Event.INTERRUPTED]),
    )
    def any_result(self, session: str, number: int, event: Event) -> None:
        self.take(lambda: self.task.result(session, number, event))

    @rule(session=sessions, what=st.sampled_from(["lost", "lost", "violation"]))
    def session_ends(self, session: str, what: str) -> None:
        if what == "violation" and self.ends:
            return  # Says nothing of the task.
        self.take(lambda: getattr(self.task, what)(session))

    @invariant()
    def start_is_said_at_most_once(self) -> None:
        assert len(self.starts) <= 1

    @invariant()
    def the_one_outcome_is_said_once_and_only_at_the_end(self) -> None:
        assert len(self.ends) == (self.task.state is State.ENDED)

    @invariant()
    def what_is_said_of_a_task_never_started_fits(self) -> None:
        if self.ends and not self.starts:
            assert self.ends[0].outcome in (Outcome.NO_WORKERS, Outcome.TIMEOUT, Outcome.CANCELLED)
        if self.ends and self.starts:
            assert self.ends[0].outcome not in (Outcome.NO_WORKERS, Outcome.TIMEOUT)

    @invariant()
    def the_machine_is_valid(self) -> None:
        self.task.validate()


AnySequence.TestCase.settings = settings(max_examples=150, stateful_step_count=30)
TestAnySequence = AnySequence.TestCase


# ---- the two machines, joined ------------------------------------------------------------------------

WORKERS = ("a", "b")
MOST_OFFERS = 3


class Link(NamedTuple):
    """One session: what is on its way, what each side knows of it, and the worker's machines."""

    worker: str
    down: tuple[tuple[str, int], ...] = ()  # to the worker
    up: tuple[tuple[str, int], ...] = ()  # to the caller
    broken: bool = False
    lost_here: bool = False
    lost_there: bool = False
    served: tuple[tuple[int, worker.State], ...] = ()


class World(NamedTuple):
    most_losses: int
    most_out: int
    caller: tuple[State, tuple[tuple[object, int], ...], tuple[object, int] | None, Outcome]
    links: tuple[Link, ...]
    losses: int = 0
    offers: int = 0
    starts: int = 0
    begun: int = 0
    outcome: Outcome | None = None


def revive(world: World) -> CallerTask:
    task = CallerTask()
    task.state, offers, task.started, task._remembered = world.caller
    task.offers = list(offers)
    return task


def follow(world: World, task: CallerTask, said: Instructions) -> World:
    """Do what the caller's machine says."""
    task.validate()
    links = list(world.links)

    def down(session: object, word: str, number: int) -> None:
        assert isinstance(session, int)
        link = links[session]
        if not (link.lost_here or link.broken):
            links[session] = link._replace(down=(*link.down, (word, number)))

    starts, outcome = world.starts, world.outcome
    for instruction in said:
        if isinstance(instruction, Offer):
            down(instruction.session, "offer", instruction.number)
        elif isinstance(instruction, Start):
            starts += 1
            down(instruction.session, "start", instruction.number)
        elif isinstance(instruction, Withdraw):
            down(instruction.session, "withdraw", instruction.number)
        elif isinstance(instruction, Cancel):
            down(instruction.session, "cancel", instruction.number)
        elif isinstance(instruction, End):
            assert outcome is None, "two outcomes"
            outcome = instruction.outcome
    state = (task.state, tuple(task.offers), task.started, task._remembered)
    return world._replace(caller=state, links=tuple(links), starts=starts, outcome=outcome)


def at_the_caller(world: World) -> Iterator[World]:
    """What the caller may do by itself."""
    state = world.caller[0]
    if state in (State.QUEUED, State.OFFERED) and world.offers < MOST_OFFERS and len(world.caller[1]) < world.most_out:
        out = {world.links[session].worker for session, _ in world.caller[1] if isinstance(session, int)}
        for name in WORKERS:
            if name in out:
                continue
            links = world.links
            known = [index for index, link in enumerate(links) if link.worker == name and not link.lost_here]
            session = known[0] if known else len(links)
            if not known:
                links = (*links, Link(name))
            task = revive(world)
            number = world.offers + 1
            said = task.offer(session, number)
            yield follow(world._replace(links=links, offers=number), task, said)
    for event in ("cancel", "expired", "grace over"):
        task = revive(world)
        said = EVENTS[event](task)
        if said and not (event == "cancel" and state is State.CANCELLING):
            yield follow(world, task, said)
    if state is State.QUEUED:
        task = revive(world)
        yield follow(world, task, task.exhausted())
    for offer in world.caller[1]:
        task = revive(world)
        yield follow(world, task, task.impatient(*offer))


HEARD: dict[str, Callable[[CallerTask, int, int], Instructions]] = {
    "accept": lambda task, session, number: task.accept(session, number),
    "reject": lambda task, session, number: task.reject(session, number),
    "return": lambda task, session, number: task.result(session, number, Event.RETURN),
}


def on_the_way(world: World, index: int) -> Iterator[World]:
    """What one session may do next: deliver, break, be found broken, end a body."""
    link = world.links[index]

    def with_link(link: Link, **changes: object) -> World:
        links = (*world.links[:index], link, *world.links[index + 1 :])
        return world._replace(links=links, **changes)

    if not link.broken and world.losses < world.most_losses:
        yield with_link(link._replace(broken=True), losses=world.losses + 1)
    if link.broken and not link.lost_here:
        # The prefix ends here, whatever was still on its way.
        lost = with_link(link._replace(lost_here=True, up=()))
        task = revive(lost)
        yield follow(lost, task, task.lost(index))
    if link.broken and not link.lost_there:
        yield with_link(link._replace(lost_there=True, down=(), served=()))
    if link.up and not link.lost_here:
        (word, number), *rest = link.up
        heard = with_link(link._replace(up=tuple(rest)))
        task = revive(heard)
        yield follow(heard, task, HEARD[word](task, index, number))
    if link.down and not link.lost_there:
        yield from at_the_worker(with_link, world, link)
    if not link.lost_there:
        for number, state in link.served:
            if state is worker.State.RUNNING:
                up = link.up if link.broken else (*link.up, ("return", number))
                yield with_link(link._replace(up=up, served=without(link, number)))


def without(link: Link, number: int) -> tuple[tuple[int, worker.State], ...]:
    return tuple(served for served in link.served if served[0] != number)


def at_the_worker(with_link: Callable[..., World], world: World, link: Link) -> Iterator[World]:
    (word, number), *rest = link.down
    link = link._replace(down=tuple(rest))
    if word == "offer":
        for answer in (worker.Event.COMPLETE, worker.Event.REFUSE):
            machine = worker.WorkerTask()
            do = machine.handle(answer)
            said = "accept" if do is worker.Do.SAY_ACCEPT else "reject"
            up = link.up if link.broken else (*link.up, (said, number))
            served = link.served if said == "reject" else (*link.served, (number, machine.state))
            yield with_link(link._replace(up=up, served=served))
        return
    found = dict(link.served)
    if number not in found:
        assert word != "start", "a start that no accept explains"
        yield with_link(link)
        return
    machine = worker.WorkerTask()
    machine.state = found[number]
    do = machine.handle(worker.Event[word.upper()])
    served = without(link, number)
    if machine.state is not worker.State.ENDED:
        served = (*served, (number, machine.state))
    yield with_link(link._replace(served=served), begun=world.begun + (do is worker.Do.BEGIN))


def check(world: World) -> None:
    assert world.begun <= 1, "the body has begun twice"
    assert world.starts <= 1, "start was said twice"
    assert world.begun <= world.starts, "begun without a start"
    if world.outcome in (Outcome.NO_WORKERS, Outcome.TIMEOUT):
        assert world.starts == 0, "said never to begin, and started"
    if world.outcome in (Outcome.RETURNED, Outcome.LOST):
        assert world.starts == 1
    if world.outcome is Outcome.RETURNED:
        assert world.begun == 1
    assert (world.outcome is not None) == (world.caller[0] is State.ENDED)


@pytest.mark.parametrize(
    ("most_losses", "most_out", "more_than"),
    [
        pytest.param(2, 1, 4_000, id="one offer out at a time, two sessions lost"),
        pytest.param(1, 2, 4_000, id="two offers out at a time, one session lost"),
    ],
)
def test_one_caller_two_workers_losses_at_every_position_begin_at_most_once(
    most_losses: int, most_out: int, more_than: int
) -> None:
    """Every reachable state of the joined machines: a proof within its bounds."""
    task = CallerTask()
    first = World(most_losses, most_out, (task.state, (), None, task._remembered), ())
    seen = {first}
    waiting = [first]
    outcomes: set[Outcome | None] = set()
    while waiting:
        world = waiting.pop()
        check(world)
        outcomes.add(world.outcome)
        if world.outcome is not None and not any(
            ("start", number) in link.down for link in world.links for number in (1, 2, 3)
        ):
            continue  # Nothing can begin any more: a worker begins on what it reads, and nothing is said after the end.
        following = list(at_the_caller(world))
        for index in range(len(world.links)):
            following.extend(on_the_way(world, index))
        for found in following:
            if found not in seen:
                seen.add(found)
                waiting.append(found)
    assert len(seen) > more_than
    assert outcomes == {None, *Outcome} - {Outcome.RAISED, Outcome.INTERRUPTED}
