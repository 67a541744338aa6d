"""Discovery records are hints from strangers: bounded, strictly parsed, never unpickled."""

from __future__ import annotations

import json
import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from support.records import worker, workers
from wool.discovery.base import DiscoveryEvent, WorkerMetadata, check_tags
from wool.limits import DEFAULT_LIMITS

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=70),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=4,
)
FIELDS = ["uid", "address", "pid", "version", "tags", "extra", "secure"]


@given(workers)
def test_a_record_says_what_the_metadata_said(metadata: WorkerMetadata) -> None:
    read = WorkerMetadata.from_bytes(metadata.to_bytes())
    assert read == metadata
    assert hash(read) == hash(metadata)


@given(workers)
def test_equal_metadata_has_equal_records(metadata: WorkerMetadata) -> None:
    again = WorkerMetadata.from_bytes(metadata.to_bytes())
    assert again.to_bytes() == metadata.to_bytes()


@given(workers)
def test_a_pickle_is_a_record_and_nothing_else(metadata: WorkerMetadata) -> None:
    assert pickle.loads(pickle.dumps(metadata)) == metadata


@given(st.binary(max_size=300))
def test_any_bytes_give_metadata_or_a_value_error(data: bytes) -> None:
    try:
        metadata = WorkerMetadata.from_bytes(data)
    except ValueError:
        return
    assert isinstance(metadata, WorkerMetadata)


@given(st.fixed_dictionaries(dict.fromkeys(FIELDS, json_values)) | json_values)
def test_any_json_gives_metadata_or_a_value_error(value: object) -> None:
    try:
        metadata = WorkerMetadata.from_bytes(json.dumps(value).encode())
    except ValueError:
        return
    assert isinstance(metadata, WorkerMetadata)


@given(workers, st.data())
def test_a_damaged_record_gives_metadata_or_a_value_error(metadata: WorkerMetadata, data: st.DataObject) -> None:
    record = bytearray(metadata.to_bytes())
    for position in data.draw(st.lists(st.integers(0, len(record) - 1), min_size=1, max_size=5)):
        record[position] = data.draw(st.integers(0, 255))
    try:
        found = WorkerMetadata.from_bytes(bytes(record))
    except ValueError:
        return
    assert isinstance(found, WorkerMetadata)


@pytest.mark.parametrize("change", [{"surprise": 1}, {"pid": "1"}, {"pid": True}, {"tags": "ab"}, {"extra": [1]}])
def test_a_record_with_other_fields_or_types_is_refused(change: dict[str, object]) -> None:
    record = json.loads(worker("a").to_bytes()) | change
    with pytest.raises(ValueError):
        WorkerMetadata.from_bytes(json.dumps(record).encode())


def test_a_record_that_lacks_a_field_is_refused() -> None:
    record = json.loads(worker("a").to_bytes())
    del record["secure"]
    with pytest.raises(ValueError, match="exactly the fields"):
        WorkerMetadata.from_bytes(json.dumps(record).encode())


@pytest.mark.parametrize("data", [b"[" * 2000, b"1" * 5000, b" " * 2049, b'{"a":' * 300])
def test_deep_long_and_large_records_are_refused_without_a_crash(data: bytes) -> None:
    with pytest.raises(ValueError):
        WorkerMetadata.from_bytes(data)


def test_metadata_too_large_for_a_record_is_refused_with_the_limit() -> None:
    with pytest.raises(ValueError, match=rf"{DEFAULT_LIMITS.record_bytes} \(record_bytes\)"):
        worker("a", key="x" * DEFAULT_LIMITS.record_bytes).to_bytes()


def test_extra_cannot_be_changed_from_outside() -> None:
    extra = {"zone": "a"}
    metadata = WorkerMetadata(uid="a", address="unix:/a", pid=1, version="1", extra=extra)
    extra["zone"] = "b"
    assert metadata.extra == {"zone": "a"}


@pytest.mark.parametrize("tags", [[""], [1], [None], ["good", b"bad"]])
def test_a_tag_that_is_no_non_empty_string_is_refused(tags: list[object]) -> None:
    with pytest.raises(ValueError, match="non-empty string"):
        check_tags(tags)


def test_an_unknown_event_is_refused() -> None:
    with pytest.raises(ValueError, match="worker-vanished"):
        DiscoveryEvent("worker-vanished", worker("a"))  # type: ignore[arg-type]
