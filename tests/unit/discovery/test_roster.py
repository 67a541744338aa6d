"""What a subscription says, telling by telling."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from support.records import check_grammar, worker
from wool.discovery.base import DiscoveryEvent, WorkerMetadata
from wool.discovery.roster import Roster

tellings = st.lists(
    st.lists(
        st.builds(worker, st.sampled_from("abc"), st.sampled_from(["gpu", "cpu"]))
        | st.builds(WorkerMetadata.at, st.sampled_from(["10.0.0.1:1", "10.0.0.2:1"])),
        max_size=6,
    ),
    max_size=12,
)


@given(tellings, st.booleans())
def test_whatever_is_told_the_grammar_holds_and_the_last_telling_counts(
    told: list[list[WorkerMetadata]], filtered: bool
) -> None:
    def wanted(metadata: WorkerMetadata) -> bool:
        assert metadata.uid, "a filter is not asked about somebody who is not known"
        return "gpu" in metadata.tags

    roster = Roster(wanted if filtered else None)
    events: list[DiscoveryEvent] = []
    for present in told:
        events += roster.advance(present)
        assert {metadata.key: metadata for metadata in roster.workers} == check_grammar(events)
    if told:
        last: dict[str, WorkerMetadata] = {}
        for metadata in told[-1]:
            last.setdefault(metadata.key, metadata)
        shown = [metadata for metadata in last.values() if not filtered or not metadata.uid or wanted(metadata)]
        assert sorted(roster.workers, key=repr) == sorted(shown, key=repr)


def test_the_same_told_again_is_no_event_and_the_filter_is_not_asked() -> None:
    asked: list[str] = []
    roster = Roster(lambda metadata: not asked.append(metadata.uid))
    assert [event.type for event in roster.advance([worker("a")])] == ["worker-added"]
    assert roster.advance([worker("a")]) == []
    assert [event.type for event in roster.advance([worker("a", "new")])] == ["worker-updated"]
    assert asked == ["a", "a"]


def test_of_two_with_one_uid_the_first_that_is_told_counts() -> None:
    roster = Roster()
    assert [event.metadata for event in roster.advance([worker("a", "one"), worker("a", "two")])] == [
        worker("a", "one")
    ]


def test_the_filter_goes_with_a_worker_that_is_known_by_its_address() -> None:
    def wanted(metadata: WorkerMetadata) -> bool:
        return True

    place = WorkerMetadata.at("10.0.0.1:1")
    (here, there) = Roster(wanted).advance([place, worker("a")])
    assert (here.wanted, there.wanted) == (wanted, None)


def test_a_filter_that_raises_leaves_the_roster_as_it_was() -> None:
    def wanted(metadata: WorkerMetadata) -> bool:
        if "bad" in metadata.tags:
            raise LookupError("no such tag")
        return True

    roster = Roster(wanted)
    roster.advance([worker("a")])
    with pytest.raises(LookupError):
        roster.advance([worker("b", "bad")])
    assert roster.workers == (worker("a"),)
    assert check_grammar([DiscoveryEvent("worker-added", worker("a")), *roster.advance([worker("c")])]).keys() == {"c"}
