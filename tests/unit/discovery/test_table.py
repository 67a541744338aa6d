"""The shared table: whatever dies wherever, a reader sees what was there before or what came after."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from support.records import check_grammar, worker
from wool.discovery import table
from wool.discovery.base import DiscoveryEvent, WorkerMetadata
from wool.discovery.table import Change, Layout, Snapshot, TableFull, TableInvalid, Write
from wool.discovery.view import View
from wool.limits import MOST_SLOT_BYTES, MOST_SLOTS

RECORD_BYTES = 160
NAMESPACE = "tests"
UIDS = ["a", "b", "c", "d"]


def empty(slots: int = 3) -> bytearray:
    buffer = bytearray()
    table.apply(buffer, Layout.of(slots=slots, record_bytes=RECORD_BYTES).initial())
    return buffer


def lease(number: int) -> bytes:
    return number.to_bytes(table.LEASE_BYTES, "big")


def everybody(_: bytes) -> bool:
    return True


def nobody(_: bytes) -> bool:
    return False


def add(buffer: bytearray, metadata: WorkerMetadata, number: int) -> None:
    table.apply(buffer, table.add(buffer, metadata, lease(number), namespace=NAMESPACE, is_live=everybody).writes)


def update(buffer: bytearray, metadata: WorkerMetadata) -> None:
    table.apply(buffer, table.update(buffer, metadata, namespace=NAMESPACE, is_live=everybody).writes)


def drop(buffer: bytearray, uid: str) -> None:
    table.apply(buffer, table.drop(buffer, uid, namespace=NAMESPACE).writes)


def seen(buffer: bytes | bytearray) -> list[WorkerMetadata]:
    return [WorkerMetadata.from_bytes(slot.record) for slot in Snapshot.read(buffer).slots]


def cuts(change: Change) -> Iterator[list[Write]]:
    """Every way in which the writer of a change can die: before the first byte, …, after the last."""
    done: list[Write] = []
    for write in change.writes:
        yield from ([*done, Write(write.offset, write.data[:length])] for length in range(len(write.data)))
        done = [*done, write]
    yield done


def torn(buffer: bytearray, writes: list[Write]) -> bytearray:
    copy = bytearray(buffer)
    table.apply(copy, writes)
    return copy


# ---- what it is for --------------------------------------------------------------------------------


def test_a_new_table_is_empty() -> None:
    snapshot = Snapshot.read(empty())
    assert (snapshot.slots, snapshot.unreadable, snapshot.settled) == ((), frozenset(), True)


def test_what_was_added_updated_and_dropped_is_seen() -> None:
    buffer = empty()
    add(buffer, worker("a"), 1)
    add(buffer, worker("b"), 2)
    assert seen(buffer) == [worker("a"), worker("b")]
    update(buffer, worker("a", "gpu"))
    assert seen(buffer) == [worker("a", "gpu"), worker("b")]
    drop(buffer, "a")
    assert seen(buffer) == [worker("b")]


def test_every_change_changes_the_generation() -> None:
    buffer, generations = empty(), [0]
    for step in range(300):
        if step % 2:
            drop(buffer, "a")
        else:
            add(buffer, worker("a"), step + 1)
        generations.append(table.read_generation(buffer))
    assert generations == sorted(set(generations))


def test_a_freed_slot_is_used_again_and_the_table_does_not_grow() -> None:
    buffer = empty(slots=2)
    for number in range(1, 50):
        add(buffer, worker(f"w{number}"), number)
        drop(buffer, f"w{number}")
    assert len(buffer) <= Layout.parse(buffer).size
    assert Snapshot.read(buffer).slots == ()


def test_a_full_table_says_so_with_namespace_capacity_and_remedy() -> None:
    buffer = empty(slots=2)
    add(buffer, worker("a"), 1)
    add(buffer, worker("b"), 2)
    with pytest.raises(TableFull, match=r"'tests' is full: all 2 slots .*Limits\.local_workers"):
        add(buffer, worker("c"), 3)


def test_a_full_table_takes_the_slot_of_a_dead_publisher() -> None:
    buffer = empty(slots=2)
    add(buffer, worker("a"), 1)
    add(buffer, worker("b"), 2)
    change = table.add(buffer, worker("c"), lease(3), namespace=NAMESPACE, is_live=lambda token: token != lease(1))
    assert change.retired == lease(1)
    table.apply(buffer, change.writes)
    assert seen(buffer) == [worker("c"), worker("b")]


def test_a_worker_cannot_be_added_twice_while_its_publisher_lives() -> None:
    buffer = empty()
    add(buffer, worker("a"), 1)
    with pytest.raises(ValueError, match="a is in namespace 'tests' already: publish worker-updated"):
        add(buffer, worker("a", "gpu"), 2)


def test_a_worker_whose_publisher_died_can_be_added_again() -> None:
    buffer = empty()
    add(buffer, worker("a"), 1)
    change = table.add(buffer, worker("a", "gpu"), lease(2), namespace=NAMESPACE, is_live=nobody)
    assert change.retired == lease(1)
    table.apply(buffer, change.writes)
    assert seen(buffer) == [worker("a", "gpu")]


def test_an_unknown_worker_cannot_be_updated_or_dropped() -> None:
    buffer = empty()
    with pytest.raises(ValueError, match="cannot be updated"):
        update(buffer, worker("a"))
    with pytest.raises(ValueError, match="cannot be dropped"):
        drop(buffer, "a")


def test_a_worker_whose_publisher_died_cannot_be_updated() -> None:
    buffer = empty()
    add(buffer, worker("a"), 1)
    with pytest.raises(ValueError, match="cannot be updated"):
        table.update(buffer, worker("a", "gpu"), namespace=NAMESPACE, is_live=nobody)


def test_a_record_longer_than_a_slot_is_refused_and_nothing_is_written() -> None:
    buffer = empty()
    with pytest.raises(ValueError, match=rf"holds {RECORD_BYTES} \(Limits\.record_bytes"):
        add(buffer, worker("a", long="x" * RECORD_BYTES), 1)


@pytest.mark.parametrize("token", [b"", b"short", bytes(table.LEASE_BYTES)])
def test_a_lease_must_be_one(token: bytes) -> None:
    with pytest.raises(ValueError, match="lease"):
        table.add(empty(), worker("a"), token, namespace=NAMESPACE, is_live=everybody)


def test_slots_of_dead_publishers_are_reclaimed_together() -> None:
    buffer = empty()
    for number, uid in enumerate("abc", 1):
        add(buffer, worker(uid), number)
    changes = table.reclaim(buffer, is_live=lambda token: token == lease(2))
    assert [change.retired for change in changes] == [lease(1), lease(3)]
    for change in changes:
        table.apply(buffer, change.writes)
    assert seen(buffer) == [worker("b")]
    assert table.reclaim(buffer, is_live=lambda token: token == lease(2)) == ()


def test_a_table_cut_after_its_last_bank_reads_as_the_whole() -> None:
    buffer = empty(slots=100)
    add(buffer, worker("a"), 1)
    whole = bytes(buffer).ljust(Layout.parse(buffer).size, b"\0")
    assert len(buffer) < len(whole)
    assert Snapshot.read(buffer) == Snapshot.read(whole)


# ---- a writer that dies ----------------------------------------------------------------------------

operation = st.tuples(st.sampled_from(["add", "update", "drop"]), st.sampled_from(UIDS), st.integers(0, 9))
operations = st.lists(operation, max_size=12)


def plan(buffer: bytearray, kind: str, uid: str, number: int, token: int) -> Change | None:
    """The change that an operation asks for, if the table allows it."""
    metadata = worker(uid, n="x" * number)
    try:
        if kind == "add":
            return table.add(buffer, metadata, lease(token), namespace=NAMESPACE, is_live=everybody)
        if kind == "update":
            return table.update(buffer, metadata, namespace=NAMESPACE, is_live=everybody)
        return table.drop(buffer, uid, namespace=NAMESPACE)
    except (ValueError, TableFull):
        return None


def after(script: list[tuple[str, str, int]]) -> tuple[bytearray, int]:
    buffer, token = empty(), 1
    for kind, uid, number in script:
        change = plan(buffer, kind, uid, number, token)
        token += 1
        if change is not None:
            table.apply(buffer, change.writes)
    return buffer, token


@settings(max_examples=60)
@given(operations, st.sampled_from(["add", "update", "drop"]), st.sampled_from(UIDS))
def test_a_change_cut_at_any_byte_happened_or_did_not(script: list[tuple[str, str, int]], kind: str, uid: str) -> None:
    buffer, token = after(script)
    change = plan(buffer, kind, uid, 5, token)
    if change is None:
        return
    before, then = Snapshot.read(buffer), Snapshot.read(torn(buffer, list(change.writes)))
    assert before.slots != then.slots
    for writes in cuts(change):
        broken = torn(buffer, writes)
        snapshot = Snapshot.read(broken)
        assert snapshot.slots in (before.slots, then.slots)
        assert snapshot.settled
        assert not snapshot.unreadable


@settings(max_examples=25)
@given(operations, st.sampled_from(["add", "update", "drop"]), st.sampled_from(UIDS), operations)
def test_after_a_change_cut_at_any_byte_the_next_writers_go_on(
    script: list[tuple[str, str, int]], kind: str, uid: str, more: list[tuple[str, str, int]]
) -> None:
    buffer, token = after(script)
    change = plan(buffer, kind, uid, 5, token)
    if change is None:
        return
    for writes in list(cuts(change))[::7]:
        broken = torn(buffer, writes)
        expected = {metadata.uid: metadata for metadata in seen(broken)}
        for number, (kind_, uid_, length) in enumerate(more):
            latest = Snapshot.read(broken).latest
            following = plan(broken, kind_, uid_, length, token + 1 + number)
            allowed = uid_ not in expected and len(expected) < 3 if kind_ == "add" else uid_ in expected
            assert (following is not None) == allowed
            if following is None:
                continue
            table.apply(broken, following.writes)
            if kind_ == "drop":
                del expected[uid_]
            else:
                expected[uid_] = worker(uid_, n="x" * length)
            assert {metadata.uid: metadata for metadata in seen(broken)} == expected
            assert table.read_generation(broken) == Snapshot.read(broken).latest > latest


def test_a_publisher_that_died_in_mid_write_leaves_its_slot_to_others() -> None:
    buffer = empty(slots=1)
    change = table.add(buffer, worker("a"), lease(1), namespace=NAMESPACE, is_live=everybody)
    for writes in cuts(change):
        broken = torn(buffer, writes)
        taken = table.add(broken, worker("b"), lease(2), namespace=NAMESPACE, is_live=lambda token: token == lease(2))
        table.apply(broken, taken.writes)
        assert seen(broken) == [worker("b")]


def test_a_slot_without_any_valid_bank_is_unreadable_for_readers_and_free_for_writers() -> None:
    buffer = empty(slots=1)
    add(buffer, worker("a"), 1)
    start = Layout.parse(buffer).bank(0, 0)
    buffer[start + 60] ^= 1
    snapshot = Snapshot.read(buffer)
    assert (snapshot.slots, snapshot.unreadable, snapshot.settled) == ((), frozenset({0}), False)
    add(buffer, worker("b"), 2)
    assert seen(buffer) == [worker("b")]


# ---- a reader that reads meanwhile -----------------------------------------------------------------


def states(buffer: bytearray, changes: list[Write]) -> list[bytes]:
    found = [bytes(buffer)]
    for write in changes:
        table.apply(buffer, [write])
        found.append(bytes(buffer))
    size = len(found[-1])
    return [state.ljust(size, b"\0") for state in found]


def test_a_writer_that_died_before_it_raised_the_generation_is_not_missed_by_a_copy() -> None:
    buffer = empty(slots=1)
    add(buffer, worker("a"), 1)
    update(buffer, worker("a", "1"))
    early, split = bytes(buffer), Layout.parse(buffer).bank(0, 1)
    died = table.update(buffer, worker("a", "2"), namespace=NAMESPACE, is_live=everybody)
    table.apply(buffer, died.writes[:-1])
    following = table.update(buffer, worker("a", "3"), namespace=NAMESPACE, is_live=everybody)
    for writes in cuts(following):
        late = bytes(torn(buffer, writes))
        if table.read_generation(late) == table.read_generation(early):
            values = [
                WorkerMetadata.from_bytes(slot.record) for slot in Snapshot.read(early[:split] + late[split:]).slots
            ]
            assert values in ([worker("a", "1")], [worker("a", "2")], [worker("a", "3")])


@settings(max_examples=400)
@given(operations, st.lists(st.tuples(operation, st.none() | st.integers(0, 400)), max_size=8), st.data())
def test_a_copy_made_between_two_equal_generations_holds_what_was_there_meanwhile(
    script: list[tuple[str, str, int]], meanwhile: list[tuple[tuple[str, str, int], int | None]], data: st.DataObject
) -> None:
    buffer, token = after(script)
    writes: list[Write] = []
    future = bytearray(buffer)
    for (kind, uid, number), cut in meanwhile:
        change = plan(future, kind, uid, number, token)
        token += 1
        if change is not None:
            ways = list(cuts(change))
            chosen = ways[-1 if cut is None else cut % len(ways)]  # some writers die
            table.apply(future, chosen)
            writes.extend(chosen)
    history = states(buffer, writes)
    generations = [table.read_generation(state) for state in history]
    # The reader copies from the front to the back, while the writers go on.
    first = data.draw(st.integers(0, len(history) - 1))
    last = data.draw(st.integers(first, len(history) - 1))
    if generations[first] != generations[last]:
        return
    places = sorted(data.draw(st.lists(st.integers(0, len(history[0])), max_size=4)))
    times = sorted(data.draw(st.tuples(*[st.integers(first, last)] * (len(places) + 1))))
    pieces = zip([0, *places], [*places, len(history[0])], times, strict=True)
    snapshot = Snapshot.read(b"".join(history[time][start:end] for start, end, time in pieces))
    assert snapshot.settled
    assert snapshot.slots in [Snapshot.read(state).slots for state in history[first : last + 1]]


@settings(max_examples=300)
@given(operations, st.sampled_from(["update", "drop"]), st.sampled_from(UIDS), st.data())
def test_writes_that_become_visible_in_any_order_show_the_old_value_or_the_new(
    script: list[tuple[str, str, int]], kind: str, uid: str, data: st.DataObject
) -> None:
    buffer, token = after(script)
    change = plan(buffer, kind, uid, 5, token)
    if change is None:
        return
    done = torn(buffer, list(change.writes))
    old = bytes(buffer).ljust(len(done), b"\0")
    differing = [index for index in range(len(done)) if old[index] != done[index]]
    shown = data.draw(st.sets(st.sampled_from(differing)))
    mixed = bytes(done[index] if index in shown else old[index] for index in range(len(done)))
    assert Snapshot.read(mixed).slots in (Snapshot.read(old).slots, Snapshot.read(done).slots)


# ---- any bytes -------------------------------------------------------------------------------------


@given(st.binary(max_size=400))
def test_any_bytes_are_a_table_or_the_named_error(data: bytes) -> None:
    with pytest.raises(TableInvalid):
        Snapshot.read(data)


@given(operations, st.lists(st.tuples(st.integers(0, 2000), st.integers(0, 255)), min_size=1, max_size=20))
def test_a_damaged_table_is_read_or_refused_and_can_be_written(
    script: list[tuple[str, str, int]], damage: list[tuple[int, int]]
) -> None:
    buffer, _ = after(script)
    for position, value in damage:
        buffer[position % len(buffer)] = value
    view = View()
    try:
        snapshot = Snapshot.read(buffer)
        view.advance(snapshot, {slot.lease for slot in snapshot.slots})
        change = table.add(buffer, worker("new"), lease(99), namespace=NAMESPACE, is_live=everybody)
    except (TableInvalid, TableFull):
        return
    table.apply(buffer, change.writes)
    assert worker("new") in seen(buffer)


@pytest.mark.parametrize(
    ("offset", "data", "message"),
    [
        (0, b"x", "not a table"),
        (8, b"\2", "layout 2, this version of wool knows 1"),
        (12, b"\7", "damaged"),
        (20, b"\0\0\0\0", "damaged"),
    ],
)
def test_a_wrong_header_is_refused_with_the_reason(offset: int, data: bytes, message: str) -> None:
    buffer = empty()
    buffer[offset : offset + len(data)] = data
    with pytest.raises(TableInvalid, match=message):
        Snapshot.read(buffer)


def test_a_table_that_was_not_finished_is_refused_at_every_byte() -> None:
    layout = Layout.of(slots=1, record_bytes=RECORD_BYTES)
    *unfinished, finished = cuts(Change(0, layout.initial()))
    for writes in unfinished:
        with pytest.raises(TableInvalid):
            Layout.parse(torn(bytearray(), writes))
    assert Layout.parse(torn(bytearray(), finished)) == layout


@pytest.mark.parametrize(("slots", "record_bytes"), [(0, 100), (MOST_SLOTS + 1, 100), (1, -100), (1, MOST_SLOT_BYTES)])
def test_dimensions_are_bounded(slots: int, record_bytes: int) -> None:
    with pytest.raises(TableInvalid):
        Layout.of(slots=slots, record_bytes=record_bytes)


# ---- everything at once ----------------------------------------------------------------------------


class World:
    """Publishers that add, update, drop and die, also in mid-write, and subscribers that look now and then."""

    def __init__(self, subscribers: int) -> None:
        self.buffer = empty()
        self.owned: dict[str, set[bytes]] = {name: set() for name in "xyz"}
        self.token = 0
        self.views = [View() for _ in range(subscribers)]
        self.said: list[list[DiscoveryEvent]] = [[] for _ in self.views]

    @property
    def live(self) -> set[bytes]:
        return {token for tokens in self.owned.values() for token in tokens}

    def do(self, publisher: str, kind: str, uid: str, number: int, cut: int | None) -> None:
        metadata = worker(uid, n="x" * number)
        self.token += 1
        new = lease(self.token)

        def is_live(token: bytes) -> bool:
            return token in self.live

        try:
            if kind == "add":
                change = table.add(self.buffer, metadata, new, namespace=NAMESPACE, is_live=is_live)
            elif kind == "update":
                change = table.update(self.buffer, metadata, namespace=NAMESPACE, is_live=is_live)
            else:
                change = table.drop(self.buffer, uid, namespace=NAMESPACE)
        except (ValueError, TableFull):
            return
        if cut is None:
            if kind == "add":
                self.owned[publisher].add(new)
            table.apply(self.buffer, change.writes)
            return
        ways = list(cuts(change))
        table.apply(self.buffer, ways[cut % len(ways)])
        self.owned[publisher].clear()

    def look(self, subscriber: int) -> None:
        snapshot = Snapshot.read(self.buffer)
        self.said[subscriber] += self.views[subscriber].advance(snapshot, self.live)


steps = st.one_of(
    st.tuples(
        st.sampled_from("xyz"),
        st.sampled_from(["add", "add", "update", "drop"]),
        st.sampled_from(UIDS),
        st.integers(0, 3),
        st.none() | st.integers(0, 400),
    ),
    st.integers(0, 2),
)


@settings(max_examples=400)
@given(st.lists(steps, max_size=40))
def test_whatever_dies_wherever_every_subscriber_ends_with_the_live_workers(
    script: list[tuple[str, str, str, int, int | None] | int],
) -> None:
    world = World(subscribers=3)
    for step in script:
        if isinstance(step, int):
            world.look(step)
        else:
            world.do(*step)
    snapshot = Snapshot.read(world.buffer)
    live = [WorkerMetadata.from_bytes(slot.record) for slot in snapshot.slots if slot.lease in world.live]
    expected = {metadata.uid: metadata for metadata in live}
    for subscriber in range(3):
        world.look(subscriber)
        assert check_grammar(world.said[subscriber]) == expected
        assert {metadata.uid: metadata for metadata in world.views[subscriber].workers} == expected
