"""Every record of the log is one line that a program can read, and nobody who logs ever waits."""

from __future__ import annotations

import json
import logging
import os
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wool.worker import channel
from wool.worker.channel import Configure
from wool.worker.logs import (
    LEVELS,
    STYLES,
    EventFormatter,
    LineWriter,
    fields,
    format_event,
    time_of,
    write_events,
)

_FIELD = re.compile(r'([a-z_]+)=("(?:[^"\\]|\\.)*"|[^ "]*)(?: |$)')


def read(line: str) -> dict[str, str]:
    """Read a line of the text style, as a reader of ``key=value`` does."""
    found = {name: json.loads(value) if value.startswith('"') else value for name, value in _FIELD.findall(line)}
    assert "".join(match.group() for match in _FIELD.finditer(line)) == line
    return found


def record(message: str, *args: object, **more: Any) -> logging.LogRecord:
    made = logging.LogRecord("wool.worker", logging.WARNING, "", 1, message, args, None)
    made.created = 0.5
    vars(made).update(more)
    return made


@given(st.dictionaries(st.from_regex(r"[a-z_]{1,9}", fullmatch=True), st.text(), min_size=1))
def test_any_text_is_one_line_and_can_be_read_back(event: dict[str, str]) -> None:
    line = format_event("text", event)
    assert len(line.splitlines()) == 1
    assert read(line) == event
    line = format_event("json", event)
    assert len(line.splitlines()) == 1
    assert json.loads(line) == event


def test_a_line_says_what_is_plain_plainly() -> None:
    event = {"event": "task-ended", "seconds": 0.5, "tags": ["a", "b"], "none": None, "draining": True, "empty": ""}
    assert format_event("text", event) == 'event=task-ended seconds=0.5 tags=a,b draining=true empty=""'
    assert json.loads(format_event("json", event)) == {
        "event": "task-ended",
        "seconds": 0.5,
        "tags": ["a", "b"],
        "draining": True,
        "empty": "",
    }


def test_an_event_is_named_by_its_message_and_has_its_fields() -> None:
    line = EventFormatter("text", {"worker": "w", "pid": 1}).format(record("task-started", **fields(task="t")))
    assert line == "time=1970-01-01T00:00:00.500+00:00 level=warning event=task-started worker=w pid=1 task=t"
    assert time_of(0.5) == "1970-01-01T00:00:00.500+00:00"


def test_any_other_record_is_a_line_too() -> None:
    line = EventFormatter("json", {}).format(record("a caller was %s", "refused\nby us"))
    assert json.loads(line)["event"] == "log"
    assert json.loads(line)["message"] == "a caller was refused\nby us"
    assert json.loads(line)["logger"] == "wool.worker"


def test_a_traceback_stays_in_its_line() -> None:
    try:
        raise LookupError("boom")
    except LookupError as error:
        made = record("it failed", exc_info=(type(error), error, error.__traceback__))
    line = EventFormatter("text", {}).format(made)
    assert len(line.splitlines()) == 1
    assert read(line)["traceback"].endswith("LookupError: boom")


# ---- writing -----------------------------------------------------------------------------------------


@contextmanager
def pipe() -> Iterator[tuple[int, int]]:
    ends = os.pipe()
    try:
        yield ends
    finally:
        for end in ends:
            try:
                os.close(end)
            except OSError:
                continue


def test_lines_are_written_in_order_and_all_before_the_end() -> None:
    with pipe() as (reader, writer):
        lines = LineWriter(writer, most=1000, dropped=lambda count: b"")
        for number in range(1000):
            lines.put(b"%d" % number)
        lines.close(5)
        os.close(writer)
        with os.fdopen(os.dup(reader), "rb") as stream:
            assert stream.read().split() == [b"%d" % number for number in range(1000)]


def test_a_pipe_that_nobody_reads_keeps_nobody_waiting_and_what_was_dropped_is_said() -> None:
    with pipe() as (reader, writer):
        lines = LineWriter(writer, most=100, dropped=lambda count: b"dropped %d" % count)
        line = b"x" * 1000
        for _ in range(5000):
            lines.put(line)
        with os.fdopen(os.dup(reader), "rb") as stream:
            read = threading.Thread(target=lambda: found.extend(iter(stream.readline, b"")))
            found: list[bytes] = []
            read.start()
            lines.put(b"the last one")  # dropped too, or not
            lines.close(5)
            os.close(writer)
            read.join(5)
        told = sum(int(each.split()[1]) for each in found if each.startswith(b"dropped"))
        written = sum(not each.startswith(b"dropped") for each in found)
        assert told > 4000
        assert told + written == 5001


def test_a_pipe_that_was_closed_at_the_other_end_is_no_error() -> None:
    with pipe() as (reader, writer):
        os.close(reader)
        lines = LineWriter(writer, most=10, dropped=lambda count: b"")
        for _ in range(100):
            lines.put(b"x")
        lines.close(5)


def test_a_pipe_that_does_not_block_is_waited_for() -> None:
    with pipe() as (reader, writer):
        os.set_blocking(writer, False)
        lines = LineWriter(writer, most=1000, dropped=lambda count: b"")
        for _ in range(300):
            lines.put(b"y" * 1000)
        found = 0
        while found < 300 * 1001:
            found += len(os.read(reader, 65536))
        lines.close(5)


def test_a_handler_marks_its_lines_and_says_what_was_dropped() -> None:
    with pipe() as (reader, writer):
        lines, handler = write_events(writer, style="text", common={"pid": 7}, most=10, mark=b"<mark>")
        handler.handle(record("ready", **fields(workers=2)))
        handler.handle(record("%s", "\udc80"))
        lines.close(5)
        first, second = os.read(reader, 4096).splitlines()
        assert first.startswith(b"<mark>time=1970")
        assert first.endswith(b"event=ready pid=7 workers=2")
        assert b"\\udc80" in second
        dropped = lines._make_dropped(3)
        assert dropped.startswith(b"<mark>")
        assert dropped.endswith(b"level=warning event=lines-dropped pid=7 dropped=3")


def test_a_record_that_cannot_be_shown_costs_no_other(capsys: pytest.CaptureFixture[str]) -> None:
    with pipe() as (reader, writer):
        lines, handler = write_events(writer, style="text", common={}, most=10)
        handler.handle(record("%d", "no number"))
        handler.handle(record("fine"))
        lines.close(5)
        (line,) = os.read(reader, 4096).splitlines()
        assert line.endswith(b"message=fine")
    assert "Logging error" in capsys.readouterr().err


def test_owner_and_worker_know_the_same_styles_and_levels() -> None:
    plain = {"sys_path": (), "python_path": None, "address": "a", "secret": None}
    for style in STYLES:
        for level in LEVELS:
            made = Configure(**plain, log_style=style, log_level=level)  # type: ignore[arg-type]
            assert channel.decode_from_owner(channel.encode(made)[:-1]) == made
    for wrong in ({"log_style": "xml"}, {"log_level": "loud"}):
        with pytest.raises(ValueError, match="Configure.log_"):
            Configure(**plain, **wrong)  # type: ignore[arg-type]
