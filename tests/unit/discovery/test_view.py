"""What a subscription says, look by look."""

from __future__ import annotations

import pytest

from support.records import worker
from wool.discovery.base import DiscoveryEvent, WorkerMetadata
from wool.discovery.table import Layout, Slot, Snapshot, key_of
from wool.discovery.view import View

LIVE = {b"one", b"two"}


class Looks:
    """Snapshots in a row, each as if the table had changed since."""

    def __init__(self) -> None:
        self.sequence = 0

    def slot(self, index: int, metadata: WorkerMetadata, lease: bytes = b"one", record: bytes | None = None) -> Slot:
        self.sequence += 1
        return Slot(index, self.sequence, key_of(metadata.uid), lease, record or metadata.to_bytes())

    def __call__(self, *slots: Slot, unreadable: frozenset[int] = frozenset()) -> Snapshot:
        return Snapshot(
            layout=Layout.of(slots=9, record_bytes=500),
            generation=self.sequence,
            latest=self.sequence,
            slots=slots,
            unreadable=unreadable,
            settled=not unreadable,
        )


@pytest.fixture
def look() -> Looks:
    return Looks()


def added(metadata: WorkerMetadata) -> DiscoveryEvent:
    return DiscoveryEvent("worker-added", metadata)


def updated(metadata: WorkerMetadata) -> DiscoveryEvent:
    return DiscoveryEvent("worker-updated", metadata)


def dropped(metadata: WorkerMetadata) -> DiscoveryEvent:
    return DiscoveryEvent("worker-dropped", metadata)


def test_a_late_subscriber_sees_each_live_worker_once(look: Looks) -> None:
    snapshot = look(look.slot(0, worker("a")), look.slot(1, worker("b")))
    view = View()
    assert view.advance(snapshot, LIVE) == [added(worker("a")), added(worker("b"))]
    assert view.advance(snapshot, LIVE) == []


def test_a_worker_that_comes_and_goes_between_two_looks_is_not_mentioned(look: Looks) -> None:
    view = View()
    view.advance(look(), LIVE)
    look.slot(0, worker("a"))
    assert view.advance(look(), LIVE) == []


def test_several_changes_between_two_looks_are_one(look: Looks) -> None:
    view = View()
    view.advance(look(look.slot(0, worker("a"))), LIVE)
    look.slot(0, worker("a", "one"))
    assert view.advance(look(look.slot(0, worker("a", "two"))), LIVE) == [updated(worker("a", "two"))]


def test_a_change_to_the_same_is_none(look: Looks) -> None:
    view = View()
    view.advance(look(look.slot(0, worker("a"))), LIVE)
    assert view.advance(look(look.slot(0, worker("a"))), LIVE) == []


def test_a_worker_whose_publisher_died_is_dropped_as_it_was_last_seen(look: Looks) -> None:
    view = View()
    snapshot = look(look.slot(0, worker("a")))
    view.advance(snapshot, LIVE)
    assert view.advance(snapshot, set()) == [dropped(worker("a"))]
    assert view.advance(snapshot, set()) == []


def test_a_worker_announced_anew_under_another_lease_is_dropped_and_added(look: Looks) -> None:
    view = View()
    view.advance(look(look.slot(0, worker("a"), b"one")), LIVE)
    assert view.advance(look(look.slot(1, worker("a"), b"two")), LIVE) == [dropped(worker("a")), added(worker("a"))]


def test_of_two_slots_of_one_worker_the_newer_with_a_live_publisher_counts(look: Looks) -> None:
    older, newer = look.slot(1, worker("a", "old"), b"one"), look.slot(0, worker("a", "new"), b"two")
    assert View().advance(look(newer, older), LIVE) == [added(worker("a", "new"))]
    assert View().advance(look(newer, older), {b"one"}) == [added(worker("a", "old"))]


def test_an_unreadable_slot_keeps_its_last_good_value(look: Looks) -> None:
    view = View()
    view.advance(look(look.slot(0, worker("a"))), LIVE)
    assert view.advance(look(unreadable=frozenset({0})), LIVE) == []
    assert view.leases == {b"one"}
    assert view.advance(look(look.slot(0, worker("a", "new"))), LIVE) == [updated(worker("a", "new"))]


def test_an_unreadable_slot_of_a_dead_publisher_is_dropped(look: Looks) -> None:
    view = View()
    view.advance(look(look.slot(0, worker("a"))), LIVE)
    assert view.advance(look(unreadable=frozenset({0})), set()) == [dropped(worker("a"))]


def test_an_unreadable_slot_that_was_never_seen_is_nothing(look: Looks) -> None:
    assert View().advance(look(unreadable=frozenset({0})), LIVE) == []


def test_a_filter_hides_workers_and_what_happens_to_them(look: Looks) -> None:
    view = View(lambda metadata: "gpu" in metadata.tags)
    assert view.advance(look(look.slot(0, worker("a")), look.slot(1, worker("b", "gpu"))), LIVE) == [
        added(worker("b", "gpu"))
    ]
    assert view.workers == (worker("b", "gpu"),)
    assert view.advance(look(look.slot(1, worker("b", "gpu"))), LIVE) == []


def test_a_worker_that_begins_or_ceases_to_match_is_added_or_dropped(look: Looks) -> None:
    view = View(lambda metadata: "gpu" in metadata.tags)
    assert view.advance(look(look.slot(0, worker("a"))), LIVE) == []
    assert view.advance(look(look.slot(0, worker("a", "gpu"))), LIVE) == [added(worker("a", "gpu"))]
    assert view.advance(look(look.slot(0, worker("a", "gpu", "x"))), LIVE) == [updated(worker("a", "gpu", "x"))]
    assert view.advance(look(look.slot(0, worker("a"))), LIVE) == [dropped(worker("a", "gpu", "x"))]


def test_a_filter_that_raises_leaves_the_view_as_it_was(look: Looks) -> None:
    def choose(metadata: WorkerMetadata) -> bool:
        if "bad" in metadata.tags:
            raise LookupError("no such tag")
        return True

    view = View(choose)
    view.advance(look(look.slot(0, worker("a"))), LIVE)
    with pytest.raises(LookupError):
        view.advance(look(look.slot(1, worker("b", "bad"))), LIVE)
    assert view.workers == (worker("a"),)
    assert view.advance(look(look.slot(1, worker("c"))), LIVE) == [dropped(worker("a")), added(worker("c"))]


def test_a_filter_is_asked_once_per_change(look: Looks) -> None:
    asked: list[WorkerMetadata] = []

    def choose(metadata: WorkerMetadata) -> bool:
        asked.append(metadata)
        return True

    view = View(choose)
    for tag in ("x", "x", "y"):
        view.advance(look(look.slot(0, worker("a", tag))), LIVE)
    assert asked == [worker("a", "x"), worker("a", "y")]


@pytest.mark.parametrize("record", [b"not json", b"{}", worker("somebody-else").to_bytes()])
def test_a_record_that_is_not_the_workers_own_is_counted_and_hides_no_other(look: Looks, record: bytes) -> None:
    view = View()
    events = view.advance(look(look.slot(0, worker("a"), record=record), look.slot(1, worker("b"))), LIVE)
    assert events == [added(worker("b"))]
    assert view.rejected == 1
