"""What ``wool top`` draws: rates between two answers, those that do most first, and nothing that moves the screen."""

from __future__ import annotations

import dataclasses
import os

import pytest

from wool.cli.main import main
from wool.cli.ps import Row, table
from wool.cli.top import HEADINGS, Sample, Screen, duration, rate
from wool.discovery.base import WorkerMetadata
from wool.statistics import Statistics

REST = ("2", "1.5ms", "64M", "1h", "2m")


def row(uid: str, at: float, *, in_flight: int = 0, done: int = 0, failed: int = 0, why: str = "") -> Row:
    said = Statistics(
        in_flight=in_flight,
        accepted=done,
        rejected=0,
        done=done,
        failed=failed,
        cancelled=0,
        lost=2,
        loop_lag_microseconds=1_540,
        memory_bytes=64 * 2**20,
        sessions=1,
        up_milliseconds=3_723_000,
        draining=False,
    )
    metadata = WorkerMetadata(uid=uid * 8, address=f"unix:/{uid}", pid=1, version="0.1")
    return Row(metadata=metadata, statistics=None if why else said, asked_at=at, why=why)


def test_rates_are_what_happened_between_two_answers() -> None:
    screen = Screen()
    first = screen.lines([row("a", 100.0, done=10), row("b", 100.0, in_flight=3)])
    assert [line.split()[5:7] for line in first[3:]] == [["-", "-"], ["-", "-"]]
    summary, _, _, busiest, other = screen.lines(
        [row("a", 102.0, done=30, failed=1), row("b", 102.0, in_flight=3, done=4)]
    )
    assert summary.startswith("2 workers, 2 up, 3 tasks in flight, 12.0 done and 0.5 failed a second")
    assert busiest.split() == ["bbbbbbbb", "unix:/b", "-", "up", "3", "2.0", "0.0", "4", "0", *REST]
    assert other.split() == ["aaaaaaaa", "unix:/a", "-", "up", "0", "10.0", "0.5", "30", "1", *REST]


def test_a_worker_that_does_not_answer_stands_last_with_its_reason() -> None:
    lines = Screen().lines([row("a", 1.0, why="no session\x1b[2J"), row("b", 1.0)])
    assert lines[0].startswith("2 workers, 1 up, 0 tasks in flight")
    assert lines[4].split()[:5] == ["aaaaaaaa", "unix:/a", "-", "unreachable", "-"]
    assert lines[5] == "aaaaaaaa: no session\\x1b[2J"


@pytest.mark.parametrize(
    ("before", "now", "expected"),
    [
        (None, Sample(1.0, 5, 0), None),
        (Sample(1.0, 5, 0), Sample(1.0, 6, 0), None),
        (Sample(1.0, 5, 1), Sample(3.0, 9, 2), (2.0, 0.5)),
        (Sample(1.0, 5, 1), Sample(3.0, 0, 0), (0.0, 0.0)),
    ],
)
def test_a_rate_is_never_negative_and_unknown_without_two_answers(
    before: Sample | None, now: Sample, expected: tuple[float, float] | None
) -> None:
    assert rate(before, now) == expected


def test_a_duration_is_said_in_the_two_units_that_matter() -> None:
    times = (0, 59, 60, 3_723, 90_061, 8_640_000)
    assert [duration(seconds) for seconds in times] == ["0s", "59s", "1m 0s", "1h 2m", "1d 1h", "100d 0h"]


def test_without_a_terminal_it_says_what_to_use(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["top", "--discovery", "local:x"], dict(os.environ)) == 2
    assert "use `wool ps --watch`" in capsys.readouterr().err


ALWAYS = {"UID", "STATUS", "IN-FLIGHT"}


@pytest.mark.parametrize("width", [200, 120, 100, 80, 60, 40, 30])
def test_a_narrow_terminal_has_fewer_columns_and_none_that_is_cut_off(width: int) -> None:
    long = row("a", 1.0, in_flight=3)
    metadata = dataclasses.replace(
        long.metadata, address="unix:/dev/shm/wool-0/pool-c7a6bc4e/6b72c47d.sock", tags={"gpu"}
    )
    rows = [dataclasses.replace(long, metadata=metadata), row("b", 1.0)]
    headings, *lines = Screen().lines(rows, width)[2:]
    columns = headings.split()
    assert max(map(len, [headings, *lines])) <= width
    assert set(HEADINGS) >= set(columns) >= ALWAYS
    assert len(columns) == len(HEADINGS) or width < 120
    if width >= 100:  # what it is doing, and how it is, come before what it did once
        assert {"DONE/S", "FAILED/S", "LAG", "MEMORY", "ADDRESS", "TAGS"} <= set(columns)
        assert "6b72c47d.sock" in lines[0]
    if width >= 60:
        assert {"DONE/S", "FAILED/S", "LAG"} <= set(columns)


def test_what_stays_beside_the_address_when_there_is_room_is_all_of_it() -> None:
    headings, line = Screen().lines([row("a", 1.0)], 200)[2:]
    assert headings.split() == list(HEADINGS)
    assert "unix:/a " in line


@pytest.mark.parametrize("width", [150, 100, 80, 50])
def test_a_screen_of_ps_fits_the_terminal_too(width: int) -> None:
    lines = table([row("a", 1.0), row("b", 1.0, why="no " + 200 * "x")], width).splitlines()
    assert max(map(len, lines[:3])) <= width
    assert set(lines[0].split()) >= ALWAYS
