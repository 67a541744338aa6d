"""What ``wool ps`` shows: whatever workers claim, it is one row each, and harmless to a terminal."""

from __future__ import annotations

import asyncio
import dataclasses
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wool.cli.main import main
from wool.cli.ps import HEADINGS, Look, Row, strain, table
from wool.connection import Connection
from wool.discovery.base import WorkerMetadata
from wool.discovery.static import StaticDiscovery
from wool.errors import TransientRpcError
from wool.limits import Limits
from wool.runtime import current_runtime, real_runtime, set_runtime
from wool.statistics import Statistics

METADATA = WorkerMetadata(uid="0123456789abcdef", address="unix:/a", pid=7, version="0.1", tags=frozenset({"b", "a"}))
STATISTICS = Statistics(
    in_flight=1,
    accepted=30,
    rejected=2,
    done=22,
    failed=3,
    cancelled=4,
    lost=5,
    loop_lag_microseconds=1_540,
    memory_bytes=64 * 2**20,
    sessions=6,
    up_milliseconds=61_500,
    draining=False,
)


def row(statistics: Statistics | None = STATISTICS, why: str = "", metadata: WorkerMetadata = METADATA) -> Row:
    return Row(metadata=metadata, statistics=statistics, asked_at=1_000_000.0, why=why)


def test_a_row_says_all_that_is_asked_for() -> None:
    heading, line = table([row()]).splitlines()
    assert heading.split(maxsplit=11) == list(HEADINGS)
    who, counts = line.split()[:5], line.split()[5:]
    assert who == ["01234567", "unix:/a", "a,b", "0.1", "up"]
    assert counts == ["1", "22", "3", "5", "1.5ms", "64M", "1970-01-12T13:45:38+00:00"]


@pytest.mark.parametrize(
    ("microseconds", "memory", "shown"),
    [(0, 1, ("0.0ms", "0M")), (999_949, 2**20, ("999.9ms", "1M")), (61_000_000, 2**34, ("61.0s", "16G"))],
)
def test_lag_and_memory_are_said_in_units_that_a_person_reads(
    microseconds: int, memory: int, shown: tuple[str, str]
) -> None:
    said = dataclasses.replace(STATISTICS, loop_lag_microseconds=microseconds, memory_bytes=memory)
    assert strain(said) == shown


def test_a_worker_of_an_older_version_says_nothing_of_lag_and_memory() -> None:
    assert strain(dataclasses.replace(STATISTICS, memory_bytes=0)) == strain(None) == ("-", "-")


def test_json_says_all_that_is_known() -> None:
    assert json.loads(json.dumps(row().to_json())) == {
        "uid": "0123456789abcdef",
        "address": "unix:/a",
        "pid": 7,
        "version": "0.1",
        "tags": ["a", "b"],
        "extra": {},
        "secure": False,
        "status": "up",
        "why": None,
        "in_flight": 1,
        "accepted": 30,
        "rejected": 2,
        "done": 22,
        "failed": 3,
        "cancelled": 4,
        "lost": 5,
        "loop_lag_microseconds": 1_540,
        "memory_bytes": 64 * 2**20,
        "sessions": 6,
        "up_since": "1970-01-12T13:45:38+00:00",
    }


def test_who_does_not_answer_is_shown_as_such_with_the_reason_below() -> None:
    _, line, why = table([row(None, "no session within 2 s")]).splitlines()
    assert line.split()[4:] == ["unreachable", *["-"] * 7]
    assert why == "01234567: no session within 2 s"
    assert row(None, "no session").to_json()["in_flight"] is None


def test_an_older_worker_that_says_nothing_is_up_all_the_same() -> None:
    _, line = table([row(None)]).splitlines()
    assert line.split()[4:] == ["up", *["-"] * 7]


def test_a_worker_of_which_only_the_address_is_known_has_its_row() -> None:
    _, line, why = table([row(None, "refused", WorkerMetadata.at("10.0.0.1:7"))]).splitlines()
    assert line.split() == ["-", "10.0.0.1:7", "-", "-", "unreachable", *["-"] * 7]
    assert why == "10.0.0.1: refused" or why == "10.0.0.1:7: refused"


@given(st.text(min_size=1, max_size=20), st.text(max_size=20), st.integers(0, 2**64 - 1))
def test_nothing_that_a_worker_says_reaches_the_terminal_as_a_command(tag: str, why: str, up: int) -> None:
    # Its uid, address and version cannot hold what is not printed.
    metadata = WorkerMetadata(uid="u", address="unix:/u", pid=0, version="0", tags=frozenset({tag, "\x1b]0;x\x07"}))
    counts = dict.fromkeys((field.name for field in dataclasses.fields(Statistics)), up)
    said = Statistics(**{**counts, "draining": True})
    text = table([row(said, why, metadata)])
    assert all(line.isprintable() for line in text.split("\n"))
    assert text.count("\n") == 2 + bool(why)


@pytest.mark.parametrize("arguments", [["--help"], ["worker", "--help"], ["ps", "--help"], ["--version"]])
def test_help_is_there(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments, {})
    assert ended.value.code == 0
    assert "wool" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "usage: wool"),
        (["pz"], "invalid choice: 'pz'"),
        (["ps"], "--discovery: must be said"),
        (["ps", "--discovery", "static"], "--discovery: got 'static': say at which addresses"),
        (["ps", "--discovery", "local:x", "--timeout", "0"], "--timeout: must be a number of seconds, from 0.001"),
        (["ps", "--discovery", "local:x", "--timeout", "1e300"], "to 86400, got '1e300'"),
    ],
)
def test_what_makes_no_sense_is_misuse(arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    try:
        status = main(arguments, {})
    except SystemExit as ended:
        status = int(str(ended.code))
    assert status == 2
    assert words in capsys.readouterr().err


async def test_no_more_workers_are_asked_at_once_than_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    under_way, most = 0, 0

    async def open_connection(**_: object) -> Connection:
        nonlocal under_way, most
        under_way += 1
        most = max(most, under_way)
        await asyncio.sleep(0.001)
        under_way -= 1
        raise TransientRpcError("nobody is there")

    monkeypatch.setattr(Connection, "open", open_connection)
    before = current_runtime()
    set_runtime(real_runtime(limits=Limits(asked=3)))
    try:
        look = Look(StaticDiscovery("127.0.0.1:1").subscriber, wait_seconds=0, timeout_seconds=1)
        look._known = {str(n): dataclasses.replace(METADATA, uid=f"uid-{n}", address=f"unix:/{n}") for n in range(20)}
        transport: Any = None
        rows = await look._ask_all(transport)
    finally:
        set_runtime(before)
    assert most == 3
    assert len(rows) == 20
