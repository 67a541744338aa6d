"""When a name is asked about again, what its answers mean, and how addresses are written."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wool.discovery.lookups import Answer, Lookups, check_host_name, check_port, join, split
from wool.limits import DEFAULT_LIMITS

LIMITS = dataclasses.replace(
    DEFAULT_LIMITS,
    lookup_least_seconds=1.0,
    lookup_most_seconds=300.0,
    lookup_retry_first_seconds=1.0,
    lookup_retry_most_seconds=30.0,
    addresses=4,
)


def answer(*addresses: str, seconds: float = 10.0) -> Answer:
    return Answer(addresses=addresses, seconds=seconds)


def test_every_name_is_asked_about_at_once() -> None:
    lookups = Lookups(["one", "two"], LIMITS)
    assert lookups.due(0.0) == ["one", "two"]
    assert (lookups.next_at(), lookups.next_at(["one", "two"])) == (0.0, None)
    assert list(lookups.addresses()) == []


@pytest.mark.parametrize(("ttl", "waits"), [(10.0, 10.0), (0.0, 1.0), (1.0, 1.0), (300.0, 300.0), (604_800.0, 300.0)])
def test_an_answer_is_used_for_its_time_to_live_within_bounds(ttl: float, waits: float) -> None:
    lookups = Lookups(["name"], LIMITS)
    lookups.answered("name", answer("10.0.0.1:1", seconds=ttl), now=100.0)
    assert lookups.next_at() == 100.0 + waits
    assert lookups.due(100.0 + waits - 0.01) == []
    assert lookups.due(100.0 + waits) == ["name"]


def test_who_cannot_be_asked_about_is_not_gone() -> None:
    lookups = Lookups(["name"], LIMITS)
    lookups.answered("name", answer("10.0.0.1:1"), now=0.0)
    waits = [lookups.failed("name", now=10.0) for _ in range(8)]
    assert waits == [1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0, 30.0]
    assert list(lookups.addresses()) == ["10.0.0.1:1"]
    assert lookups.has_failed("name")
    lookups.answered("name", answer(), now=50.0)
    assert (list(lookups.addresses()), lookups.has_failed("name")) == ([], False)
    assert lookups.failed("name", now=60.0) == 1.0, "the backoff begins anew after an answer"


def test_the_backoff_does_not_overflow_in_a_year() -> None:
    lookups = Lookups(["name"], LIMITS)
    assert {lookups.failed("name", now=0.0) for _ in range(2_000)} == {1.0, 2.0, 4.0, 8.0, 16.0, 30.0}


def test_one_names_silence_says_nothing_of_the_others() -> None:
    lookups = Lookups(["one", "two"], LIMITS)
    lookups.answered("one", answer("10.0.0.1:1", "10.0.0.2:1"), now=0.0)
    lookups.answered("two", answer("10.0.0.2:1", "10.0.0.3:1"), now=0.0)
    assert [worker.address for worker in lookups.workers()] == ["10.0.0.1:1", "10.0.0.2:1", "10.0.0.3:1"]
    lookups.failed("one", now=10.0)
    lookups.answered("two", answer(), now=10.0)
    assert list(lookups.addresses()) == ["10.0.0.1:1", "10.0.0.2:1"]


def test_who_is_still_there_is_told_in_the_same_object() -> None:
    lookups = Lookups(["one"], LIMITS)
    lookups.answered("one", answer("10.0.0.1:1", "10.0.0.2:1"), now=0.0)
    first, second = lookups.workers()
    lookups.answered("one", answer("10.0.0.2:1", "10.0.0.3:1"), now=10.0)
    stayed, came = lookups.workers()
    assert stayed is second
    assert (came.address, lookups.workers()[1]) == ("10.0.0.3:1", came)
    lookups.answered("one", answer("10.0.0.1:1"), now=20.0)
    (back,) = lookups.workers()
    assert back is not first, "who has gone is kept by nobody"
    assert back == first


def test_an_answer_with_too_many_addresses_is_cut() -> None:
    lookups = Lookups(["name"], LIMITS)
    many = answer(*(f"10.0.0.{number}:1" for number in range(9)))
    assert [lookups.answered("name", many, now=0.0) for _ in range(3)] == [True, False, False], "told once"
    assert len(list(lookups.addresses())) == LIMITS.addresses
    fitting = dataclasses.replace(many, addresses=many.addresses[: LIMITS.addresses])
    assert [lookups.answered("name", each, now=0.0) for each in (fitting, many)] == [False, True]


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        ("10.0.0.1:7000", "10.0.0.1", 7000),
        ("[::1]:1", "::1", 1),
        ("gpu-2:65535", "gpu-2", 65535),
        ("workers.default.svc.cluster.local.:80", "workers.default.svc.cluster.local.", 80),
    ],
)
def test_an_address_is_understood(text: str, host: str, port: int) -> None:
    assert split(text) == (host, port)
    assert join(host, port) == text


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "expected host:port"),
        ("gpu-2", "expected host:port"),
        ("gpu-2:", "expected host:port"),
        ("gpu-2:0", "expected host:port"),
        ("gpu-2:65536", "expected host:port"),
        ("gpu-2:" + "9" * 9_999, "expected host:port"),
        ("gpu-2:7000x", "expected host:port"),
        ("gpu-2:\u0667", "expected host:port"),
        ("::1:7000", "in brackets"),
        ("[10.0.0.1]:7000", "in brackets"),
        ("[gpu-2]:7000", "in brackets"),
        (":7000", "not a name"),
        ("gpu 2:7000", "not a name"),
        ("-gpu:7000", "not a name"),
        ("a..b:7000", "not a name"),
        (".:7000", "not a name"),
        (f"{'a' * 64}:7000", "not a name"),
        (f"{'.'.join(['a' * 60] * 5)}:7000", "not a name"),
        ("http://gpu-2:7000", "not a name"),
    ],
)
def test_what_is_no_address_is_refused_with_the_reason(text: str, words: str) -> None:
    with pytest.raises(ValueError, match=words) as caught:
        split(text)
    assert len(str(caught.value)) < 500


@given(st.text(max_size=400))
def test_any_text_is_an_address_or_the_one_error(text: str) -> None:
    try:
        host, port = split(text)
    except ValueError:
        return
    assert split(join(host, port)) == (host, port)


@given(st.text(max_size=300))
def test_any_text_is_a_name_or_the_one_error(text: str) -> None:
    try:
        assert check_host_name(text) == text
    except ValueError:
        return
    assert text.isascii()
    assert len(text) < 254


@pytest.mark.parametrize("port", [0, -1, 65536, True, "7000"])
def test_what_is_no_port_is_refused(port: int) -> None:
    with pytest.raises(ValueError, match="1 to 65535"):
        check_port(port)
