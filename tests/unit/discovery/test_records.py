"""What is announced can be read; what is read was announced so, or is the one named error."""

from __future__ import annotations

import dataclasses
import ipaddress
import json
import pickle
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from support.records import printable, texts
from wool.discovery.base import WorkerMetadata
from wool.discovery.records import (
    SERVICE,
    Interface,
    RecordError,
    announce,
    check_interfaces,
    choose_interfaces,
    from_text,
    label_of,
    to_text,
    worker_of,
)
from wool.limits import DEFAULT_LIMITS


def face(name: str, address: str) -> Interface:
    place = ipaddress.ip_interface(address)
    return Interface(name=name, address=place.ip, network=place.network)


LO = face("lo", "127.0.0.1/8")
ETH0 = face("eth0", "10.0.0.7/24")
ETH1 = face("eth1", "192.168.1.7/24")
ETH1_6 = face("eth1", "fd00::7/64")


def worker(uid: str = "abc", address: str = "10.0.0.7:7000", **fields: Any) -> WorkerMetadata:
    return WorkerMetadata(**{"uid": uid, "address": address, "pid": 1, "version": "1"} | fields)


def read(metadata: WorkerMetadata, *faces: Interface, **changes: Any) -> WorkerMetadata:
    said = announce(metadata, faces or [ETH0])
    text, port = changes.get("text", said.text), changes.get("port", said.port)
    addresses = changes.get("addresses", said.addresses)
    return worker_of(changes.get("label", said.label), text, port, addresses, faces or [ETH0])


HONEST_BYTES = worker().to_bytes()


# ---- there and back ----------------------------------------------------------------------------------


@given(
    st.builds(
        WorkerMetadata,
        uid=printable,
        address=st.sampled_from(["10.0.0.7:1", "192.168.1.1:65535", "[fd00::7]:7000"]),
        pid=st.integers(0, 2**40),
        version=printable,
        tags=st.frozensets(texts.filter(bool), max_size=4),
        extra=st.dictionaries(texts, texts, max_size=4),
        secure=st.booleans(),
    )
)
def test_what_is_announced_is_read(metadata: WorkerMetadata) -> None:
    assert read(metadata) == metadata
    said = announce(metadata, [ETH0])
    assert said.name == f"{said.label}.{SERVICE}"
    assert len(said.label.encode()) <= 63


@given(st.binary(max_size=DEFAULT_LIMITS.record_bytes))
def test_any_bytes_fit_a_text_record_and_come_back(data: bytes) -> None:
    assert from_text(to_text(data)) == data


def test_the_largest_record_is_announced() -> None:
    metadata = worker(extra={"data": "x" * (DEFAULT_LIMITS.record_bytes - 150)})
    assert len(metadata.to_bytes()) > DEFAULT_LIMITS.record_bytes - 100
    assert read(metadata) == metadata


# ---- whatever the network says ------------------------------------------------------------------------


@given(st.binary(max_size=3_000))
@example(b"")
@example(b"\xff")
@example(to_text(b"{}"))
@example(to_text(pickle.dumps(worker)))
@example(to_text(b"[" * 2_000))
@example(to_text(b'{"pid":' + b"9" * 1_900 + b"}"))
def test_any_bytes_give_a_worker_or_the_one_error(text: bytes) -> None:
    try:
        data = from_text(text)
        worker_of("abc", text, 7000, ["10.0.0.7"], [ETH0])
    except RecordError as error:
        told = str(error)
    else:
        assert to_text(data) == text
        return
    assert len(told) < 1_000


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda values: st.lists(values, max_size=3) | st.dictionaries(st.text(max_size=5), values, max_size=3),
    max_leaves=5,
)


@given(st.fixed_dictionaries({name: st.just(value) | anything for name, value in json.loads(HONEST_BYTES).items()}))
def test_any_values_in_the_fields_give_a_worker_or_the_one_error(record: dict[str, object]) -> None:
    try:
        metadata = worker_of("abc", said_as(record), 7000, ["10.0.0.7"], [ETH0])
    except RecordError:
        return
    assert metadata == WorkerMetadata.from_bytes(from_text(said_as(record)))


@given(st.data())
def test_a_record_with_a_byte_changed_is_another_worker_or_the_one_error(data: st.DataObject) -> None:
    said = announce(worker(tags=frozenset({"gpu"}), extra={"zone": "a"}), [ETH0])
    place = data.draw(st.integers(0, len(said.text) - 1))
    text = said.text[:place] + bytes([data.draw(st.integers(0, 255))]) + said.text[place + 1 :]
    try:
        metadata = worker_of(said.label, text, said.port, said.addresses, [ETH0])
    except RecordError:
        return
    assert (metadata.uid, metadata.address) == ("abc", "10.0.0.7:7000")


def test_nothing_is_unpickled(monkeypatch: pytest.MonkeyPatch) -> None:
    def loads(*args: object) -> None:
        raise AssertionError("unpickled")

    monkeypatch.setattr(pickle, "loads", loads)
    read(worker())


def said_as(record: dict[str, object], **writing: Any) -> bytes:
    return to_text(json.dumps(record, **({"ensure_ascii": False, "separators": (",", ":")} | writing)).encode())


HONEST: dict[str, object] = json.loads(worker().to_bytes())


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"label": "another"}, "another says that it is worker abc"),
        ({"port": 7001}, "announced at port 7001, and says 7000"),
        ({"addresses": ["10.0.0.8"]}, "addresses that do not fit"),
        ({"addresses": []}, "addresses that do not fit"),
        ({"addresses": ["no address"]}, "addresses that do not fit"),
        ({"text": said_as(HONEST | {"uid": ""})}, "uid"),
        ({"text": said_as(HONEST | {"uid": "a\nb"})}, "uid must be .* that can be printed"),
        ({"text": said_as(HONEST | {"version": "\x1b[2J"})}, "version must be .* that can be printed"),
        ({"text": said_as(HONEST | {"uid": "\ud800"}, ensure_ascii=True)}, "not a worker's record"),
        ({"text": said_as(HONEST | {"address": "unix:/run/w.sock"})}, "not an address"),
        ({"text": said_as(HONEST | {"address": "gpu-2:7000"})}, "must be an IP address"),
        ({"text": said_as(HONEST | {"pid": -1})}, "pid"),
        ({"text": said_as(HONEST | {"pid": True})}, "pid"),
        ({"text": said_as(HONEST | {"more": 1})}, "exactly the fields"),
        ({"text": said_as(HONEST, separators=(", ", ": "))}, "as wool writes it"),
        ({"text": to_text(worker().to_bytes()[:-1] + b',"pid":1}')}, "as wool writes it"),
        ({"text": to_text(b"\xff\xfe" + worker().to_bytes())}, "not JSON"),
        ({"text": to_text(b"x" * 2_100)}, "is over 2048"),
        ({"text": announce(worker(), [ETH0]).text[:-1]}, "in the middle of a string"),
        ({"text": b"\x09txtvers=2"}, "does not begin with txtvers=1"),
        ({"text": b"\x09txtvers=1\x031=a"}, "lacks piece 0"),
        ({"text": b"\x09txtvers=1\x030=a\x031=b"}, "not cut as wool cuts it"),
    ],
)
def test_a_record_that_lies_is_refused_with_the_reason(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(RecordError, match=words):
        read(worker(), **changes)


def test_a_uid_that_is_no_label_is_announced_under_a_hash() -> None:
    assert label_of("0123abc") == "0123abc"
    for uid in ("Upper", "with.dot", "-dash", "ünicode", "x" * 64, "a b", "\ud800"):
        label = label_of(uid)
        assert label.startswith("h-") and len(label) == 42
    assert read(worker("with.dot")).uid == "with.dot"


# ---- addresses ---------------------------------------------------------------------------------------


def test_of_a_worker_that_listens_everywhere_the_address_in_our_own_network_is_used() -> None:
    metadata = worker(address="0.0.0.0:7000")
    said = announce(metadata, [ETH0, ETH1, ETH1_6])
    assert said.addresses == ("10.0.0.7", "192.168.1.7")
    here = face("wlan0", "192.168.1.99/24")
    assert worker_of(said.label, said.text, 7000, said.addresses, [here]).address == "192.168.1.7:7000"
    elsewhere = face("wlan0", "172.16.0.1/24")
    assert worker_of(said.label, said.text, 7000, said.addresses, [elsewhere]).address == "10.0.0.7:7000"
    assert announce(worker(address="[::]:7000"), [ETH0, ETH1_6]).addresses == ("fd00::7",)


def test_a_loopback_address_means_nothing_to_other_hosts() -> None:
    local = worker(address="127.0.0.1:7000")
    assert read(local, LO).address == "127.0.0.1:7000"
    with pytest.raises(ValueError, match=r"other hosts: start it on an address of eth0 \(10\.0\.0\.7\)"):
        announce(local, [ETH0])
    said = announce(local, [LO])
    with pytest.raises(RecordError, match="do not fit"):
        worker_of(said.label, said.text, said.port, said.addresses, [ETH0])


@pytest.mark.parametrize(
    ("metadata", "words"),
    [
        (worker(address="unix:/run/w.sock"), "start it with a host and a port"),
        (worker(address="gpu-2:7000"), "must be an IP address"),
        (worker(address="[::]:7000"), "through any chosen interface: eth0"),
        (WorkerMetadata.at("10.0.0.7:7000"), "its uid is not known"),
        (worker(extra={"data": "x" * 3_000}), "record_bytes"),
    ],
)
def test_a_worker_that_others_cannot_reach_is_not_announced(metadata: WorkerMetadata, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        announce(metadata, [ETH0])


# ---- interfaces --------------------------------------------------------------------------------------

ALL = [LO, ETH0, ETH1, ETH1_6]


@pytest.mark.parametrize(
    ("wanted", "chosen"),
    [
        ([], [ETH0, ETH1]),
        (["eth1"], [ETH1]),
        (["lo"], [LO]),
        (["10.0.0.7"], [ETH0]),
        (["192.168.0.0/16"], [ETH1]),
        (["fd00::7"], [ETH1_6]),
        (["eth0", "10.0.0.0/8", "fd00::/16"], [ETH0, ETH1_6]),
    ],
)
def test_interfaces_are_chosen_by_name_address_or_network(wanted: list[str], chosen: list[Interface]) -> None:
    assert choose_interfaces(ALL, check_interfaces(wanted)) == chosen


def test_an_interface_that_is_not_there_is_named_with_those_that_are() -> None:
    with pytest.raises(OSError, match=r"no interface 'wlan0': this host has lo \(127\.0\.0\.1\), eth0"):
        choose_interfaces(ALL, ["wlan0"])
    with pytest.raises(OSError, match=r"no interface to find workers by: this host has only lo"):
        choose_interfaces([LO], [])


@pytest.mark.parametrize("wanted", ["eth0", [""], [7]])
def test_what_cannot_be_an_interface_is_refused(wanted: Any) -> None:
    with pytest.raises(ValueError, match="interface"):
        check_interfaces(wanted)


def test_an_announcement_is_a_value() -> None:
    said = announce(worker(), [ETH0])
    assert dataclasses.replace(said) == said
    assert (said.host, said.port, said.addresses) == ("abc.local.", 7000, ("10.0.0.7",))
