"""Who is there, by what was heard and when; whom to ask, and how often."""

from __future__ import annotations

import dataclasses
import ipaddress
import itertools
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from support.records import check_grammar
from wool.discovery.base import DiscoveryEvent, WorkerMetadata
from wool.discovery.records import SERVICE, Announcement, Interface, announce
from wool.discovery.roster import Roster
from wool.discovery.sightings import Record, Sightings
from wool.limits import DEFAULT_LIMITS

ETH0 = Interface(name="eth0", address=ipaddress.ip_address("10.0.0.9"), network=ipaddress.ip_network("10.0.0.0/24"))
LIMITS = dataclasses.replace(
    DEFAULT_LIMITS, lan_workers=3, lan_ttl_seconds=30, lan_browse_seconds=60.0, lan_retry_most_seconds=10.0
)
TTL = 30.0
POINTER = 1200.0


def worker(uid: str, *tags: str, address: str = "10.0.0.7:7000") -> WorkerMetadata:
    return WorkerMetadata(uid=uid, address=address, pid=1, version="1", tags=frozenset(tags))


def said(metadata: WorkerMetadata) -> Announcement:
    return announce(metadata, [ETH0])


def records(metadata: WorkerMetadata, **seconds: float) -> list[Record]:
    """Return the records of one announcement; ``PTR=0`` says goodbye with the pointer."""
    of = said(metadata)
    given = {"PTR": POINTER, "SRV": TTL, "TXT": POINTER, "A": TTL} | seconds
    found = [
        Record(kind="PTR", name=SERVICE, seconds=given["PTR"], target=of.name),
        Record(kind="SRV", name=of.name, seconds=given["SRV"], target=of.host, port=of.port),
        Record(kind="TXT", name=of.name, seconds=given["TXT"], text=of.text),
        *(Record(kind="A", name=of.host, seconds=given["A"], target=address) for address in of.addresses),
    ]
    return [record for record in found if record.seconds >= 0]


def sightings(now: float = 0.0) -> Sightings:
    return Sightings([ETH0], LIMITS, now)


def quiet(view: Sightings, now: float) -> Sightings:
    view.questions(now)
    return view


# ---- who is there ------------------------------------------------------------------------------------


def test_a_worker_is_there_as_soon_as_all_of_it_was_heard() -> None:
    view = sightings()
    for record in records(worker("a")):
        assert view.workers(0.0) == []
        view.heard([record], 0.0)
    assert view.workers(0.0) == [worker("a")]


def test_the_order_within_a_message_says_nothing() -> None:
    view = sightings()
    view.heard(records(worker("a"))[::-1], 0.0)
    assert view.workers(0.0) == [worker("a")]


def test_names_are_the_same_in_upper_and_lower_case() -> None:
    view = sightings()
    loud = [
        dataclasses.replace(record, name=record.name.upper(), target=record.target.upper())
        for record in records(worker("a"))
    ]
    view.heard(loud, 0.0)
    assert view.workers(0.0) == [worker("a")]


def test_a_goodbye_of_pointer_or_service_counts_at_once() -> None:
    for goodbye in ({"PTR": 0.0}, {"SRV": 0.0}):
        view = sightings()
        view.heard(records(worker("a")), 0.0)
        view.heard(records(worker("a"), **{"PTR": -1.0, "SRV": -1.0, "TXT": -1.0, "A": -1.0} | goodbye), 1.0)
        assert view.workers(1.0) == []
        assert len(view) == 0


def test_a_worker_that_vanished_without_a_word_is_gone_when_its_time_is_over() -> None:
    view = sightings()
    view.heard(records(worker("a")), 100.0)
    assert view.workers(100.0 + TTL - 0.01) == [worker("a")]
    assert view.next_at(100.0 + TTL - 0.01) <= 100.0 + TTL
    assert view.workers(100.0 + TTL) == []


def test_what_is_heard_again_holds_anew() -> None:
    view = sightings()
    for now in (0.0, 25.0, 50.0, 75.0):
        view.heard(records(worker("a")), now)
    assert view.workers(100.0) == [worker("a")]


def test_a_worker_that_is_back_after_its_time_is_there_again() -> None:
    view = sightings()
    view.heard(records(worker("a")), 0.0)
    assert view.workers(40.0) == []
    view.heard(records(worker("a"), PTR=-1.0, TXT=-1.0), 41.0)
    assert view.workers(41.0) == [worker("a")]


def test_changed_metadata_replaces_the_old() -> None:
    view = sightings()
    view.heard(records(worker("a")), 0.0)
    view.heard(records(worker("a", "gpu")), 1.0)
    assert view.workers(1.0) == [worker("a", "gpu")]


def test_a_worker_that_moved_is_found_at_its_new_address() -> None:
    view = sightings()
    view.heard(records(worker("a")), 0.0)
    moved = worker("a", address="10.0.0.8:7001")
    view.heard(records(moved), 1.0)
    assert view.workers(1.0) == [moved]


@pytest.mark.parametrize("address", ["10.0.0.8:7000", "10.0.0.8:7001", "10.0.0.7:7001"])
def test_of_two_workers_with_one_uid_the_last_heard_is_there_both_are_told_and_no_other_is_hidden(address: str) -> None:
    view = sightings()
    one, other = worker("a"), dataclasses.replace(worker("a", address=address), pid=2)
    view.heard(records(worker("b")), 0.0)
    for metadata in (one, other, one):
        view.complaint = ""
        view.heard(records(metadata), 1.0)
        assert view.workers(1.0) == [worker("b"), metadata]
    assert view.complaint == (
        f"two workers are announced under one uid, a: process 2 at {address} and process 1 at 10.0.0.7:7000; "
        "the second is used"
    )


def test_of_two_workers_with_one_uid_what_the_one_says_is_not_taken_for_the_other() -> None:
    """One is asked whether it is still there, both answer, and say only where they are."""
    view = quiet(sightings(), 0.0)
    view._browse_at = 1e9
    one, other = worker("a"), dataclasses.replace(worker("a", address="10.0.0.8:7001"), pid=2)
    view.heard(records(one), 0.0)
    view.heard(records(other, PTR=-1.0, TXT=-1.0), 1.0)
    assert view.workers(1.0) == []
    asked = view.questions(1.0 + LIMITS.lan_retry_first_seconds)
    assert asked[:2] == [(said(one).name, "SRV"), (said(one).name, "TXT")]
    for metadata in (one, other):
        view.heard(records(metadata, PTR=-1.0), 2.0)
    assert view.workers(2.0) == [other]


def test_a_record_that_is_no_workers_hides_no_other_and_is_told() -> None:
    view = sightings()
    forged = [
        dataclasses.replace(record, text=said(worker("victim")).text) if record.kind == "TXT" else record
        for record in records(worker("a"))
    ]
    view.heard(forged, 0.0)
    view.heard(records(worker("b")), 0.0)
    assert view.workers(0.0) == [worker("b")]
    assert view.complaint == "a record on the network is no worker's: a: a says that it is worker victim"


@pytest.mark.parametrize(
    "lie",
    [
        {"kind": "TXT", "text": b"\x09txtvers=1\x03no!"},
        {"kind": "SRV", "port": 7001},
        {"kind": "A", "target": "10.0.0.66"},
    ],
    ids=lambda lie: str(lie["kind"]),
)
def test_a_lie_hides_a_worker_no_longer_than_until_everybody_is_asked(lie: dict[str, Any]) -> None:
    view, true = sightings(), records(worker("a"))
    view.heard(true, 0.0)
    view.workers(0.0)
    like = next(record for record in true if record.kind == lie["kind"])
    view.heard([dataclasses.replace(like, seconds=1e9, **lie)], 1.0)
    now, answers = 1.0, {(record.name, record.kind): record for record in true}
    while now < LIMITS.lan_browse_seconds + LIMITS.lan_retry_most_seconds:
        asked = view.questions(now)
        # Who knows the pointer is not told it again.
        view.heard([answers[question] for question in asked if question in answers and question[1] != "PTR"], now)
        view.workers(now)
        now = max(view.next_at(now), now + 0.01)
    assert view.workers(now) == [worker("a")]


def test_no_more_workers_are_kept_than_the_limit_and_the_first_stay() -> None:
    view = sightings()
    view.heard(records(worker("a")), 0.0)
    for number in range(50):
        view.heard(records(worker(f"flood-{number}")), 0.0)
    assert len(view) == LIMITS.lan_workers
    assert view.complaint == "more than 3 workers are announced (lan_workers)"
    assert view.workers(0.0)[0] == worker("a")
    for number in range(100):
        view.heard([Record(kind="A", name="a.local.", seconds=TTL, target=f"10.0.0.{number}")], 0.0)
    assert len(view._instances[f"a.{SERVICE}"].addresses) <= 16
    assert view.workers(0.0)[0] == worker("a")


def test_records_of_other_services_are_passed_over() -> None:
    view = sightings()
    view.heard([Record(kind="PTR", name="_http._tcp.local.", seconds=TTL, target=f"a.{SERVICE}")], 0.0)
    view.heard([Record(kind="PTR", name=SERVICE, seconds=TTL, target="a._http._tcp.local.")], 0.0)
    view.heard(records(worker("a"), PTR=-1.0), 0.0)
    assert (len(view), view.workers(0.0)) == (0, [])


# ---- whom to ask -------------------------------------------------------------------------------------


def test_everybody_is_asked_at_the_start_soon_again_and_then_rarely() -> None:
    view, now, asked = sightings(5.0), 5.0, []
    while now < 200.0:
        if view.questions(now):
            asked.append(now - 5.0)
        now = view.next_at(now)
    assert asked == [0.0, 1.0, 3.0, 63.0, 123.0, 183.0]


def test_what_was_heard_whole_is_not_asked_for_before_a_fifth_of_its_time_is_left() -> None:
    view = quiet(sightings(), 0.0)
    view._browse_at = 1e9
    view.heard(records(worker("a")), 0.0)
    assert view.questions(0.8 * TTL - 0.01) == []
    of = said(worker("a"))
    assert view.questions(0.8 * TTL) == [(of.name, "SRV"), (of.host, "A"), (of.host, "AAAA")]


def test_what_is_missing_is_asked_for_with_a_growing_wait() -> None:
    view = quiet(sightings(), 0.0)
    view._browse_at = 1e9
    view.heard(records(worker("a"), SRV=-1.0, TXT=-1.0, A=-1.0), 0.0)
    now, asked = 0.0, []
    while now < 40.0:
        if questions := view.questions(now):
            asked.append(now)
            assert questions == [(said(worker("a")).name, "SRV"), (said(worker("a")).name, "TXT")]
        now = view.next_at(now)
    assert [after - before for before, after in itertools.pairwise(asked)][:7] == [
        0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 10.0
    ]  # fmt: skip


def test_a_worker_that_vanished_is_asked_for_until_its_pointer_is_over_so_that_a_healed_network_heals() -> None:
    view, now, last = sightings(), 0.0, 0.0
    view.heard(records(worker("a")), 0.0)
    while now < POINTER - 1:
        if any(kind == "SRV" for _, kind in view.questions(now)):
            last = now
        view.workers(now)
        now = view.next_at(now)
    assert last > POINTER - 12
    assert view.workers(POINTER) == []
    assert len(view) == 0


def test_answers_that_nobody_need_give_are_named_while_they_are_fresh() -> None:
    view = sightings()
    view.heard(records(worker("a")), 0.0)
    assert view.known(10.0) == [(said(worker("a")).name, POINTER, 10.0)]
    assert view.known(POINTER / 2) == []


# ---- whatever is heard -------------------------------------------------------------------------------

names = st.sampled_from(["a", "b", "c", "d"])
kinds = st.sampled_from(["PTR", "SRV", "TXT", "A"])
steps = st.lists(
    st.tuples(
        names,
        st.sampled_from(["", "gpu"]),
        st.dictionaries(kinds, st.sampled_from([-1.0, 0.0, 1.0, TTL]), max_size=4),
        st.floats(0.0, 20.0),
    ),
    max_size=40,
)


@given(steps)
def test_whatever_is_heard_the_grammar_holds_nobody_outlives_its_time_and_the_questions_end(
    heard: list[tuple[str, str, dict[str, float], float]],
) -> None:
    view, roster, now = sightings(), Roster(), 0.0
    events: list[DiscoveryEvent] = []
    last: dict[str, float] = {}
    for uid, tag, seconds, wait in heard:
        turns = 0
        end = now + wait
        while (at := view.next_at(now)) < end:
            now = max(now, at)
            events += roster.advance(view.workers(now))
            view.questions(now)
            turns += 1
            assert turns < 500, "it looks without end"
        now = end
        view.heard(records(worker(uid, *([tag] if tag else [])), **seconds), now)
        last[uid] = now
        events += roster.advance(view.workers(now))
        view.questions(now)
        present = check_grammar(events)
        assert len(view) <= LIMITS.lan_workers
        assert all(now - last[uid] < TTL for uid in present)


class Looker:
    """Looks as a subscription does: when it is time, and when it has heard news, or anything at all."""

    def __init__(self, *, always: bool) -> None:
        self.view = sightings()
        self.always = always
        self.seen: list[WorkerMetadata] = []
        self.asked: list[tuple[float, list[tuple[str, str]]]] = []
        self.looks = 0
        self.look(0.0)

    def look(self, now: float) -> None:
        self.looks += 1
        self.seen = self.view.workers(now)
        if asked := self.view.questions(now):
            self.asked.append((now, list(asked)))
        self.next_at = self.view.next_at(now)

    def wait(self, until: float) -> None:
        while (at := self.next_at) <= until:
            self.look(at)

    def hear(self, records: list[Record], now: float) -> None:
        if self.view.heard(records, now) or self.always:
            self.look(now)


@given(steps)
def test_who_looks_only_at_news_sees_and_asks_what_one_does_who_looks_each_time(
    heard: list[tuple[str, str, dict[str, float], float]],
) -> None:
    rare, always, now = Looker(always=False), Looker(always=True), 0.0
    for uid, tag, seconds, wait in heard:
        now += wait
        for looker in (rare, always):
            looker.wait(now)
            looker.hear(records(worker(uid, *([tag] if tag else [])), **seconds), now)
        assert rare.seen == always.seen
    assert rare.asked == always.asked


def test_a_worker_that_says_again_what_it_has_said_is_no_news() -> None:
    looker = Looker(always=False)
    looker.hear(records(worker("a")), 0.0)
    before = looker.looks
    for now in range(1, 20):
        looker.hear(records(worker("a")), float(now))
    assert looker.looks == before
    looker.hear(records(worker("a", "gpu")), 20.0)
    assert (looker.looks, looker.seen) == (before + 1, [worker("a", "gpu")])


@given(
    st.lists(
        st.builds(
            Record,
            kind=st.sampled_from(["PTR", "SRV", "TXT", "A", "AAAA"]),
            name=st.sampled_from([SERVICE, f"a.{SERVICE}", "a.local.", "", "x" * 300]),
            seconds=st.sampled_from([0.0, 1.0, TTL, 1e9]),
            target=st.sampled_from([f"a.{SERVICE}", "a.local.", SERVICE, f".{SERVICE}", "10.0.0.7", "", "::"])
            | st.text(),
            port=st.integers(0, 65535),
            text=st.binary(max_size=5_000) | st.just(announce(worker("a"), [ETH0]).text),
        ),
        max_size=20,
    )
)
def test_any_records_give_workers_or_none(heard: list[Record]) -> None:
    view: Any = sightings()
    for record in heard:
        view.heard([record], 0.0)
        view.workers(0.0)
        view.questions(0.0)
    view.heard(heard, 1.0)
    assert len(view.workers(1.0)) <= LIMITS.lan_workers
    assert view.next_at(1.0) >= 0.0
