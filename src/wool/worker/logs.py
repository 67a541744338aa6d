"""Log lines that a program can read: one line per event, as ``key=value`` or as JSON.

Why it exists: who runs workers by hand reads prose, who runs a hundred of them reads with a program. Every record of
the logger ``wool`` becomes one line, whatever is in it. An event that has fields of its own (`EVENT_FIELDS`) is named
by its message; any other record is the event ``log``, with its text as a field.

What it owns: the form of a line, and the thread that writes. A line is queued, never written, by who has something to
say: a pipe that nobody reads must not stop an I/O loop. What does not fit the queue is dropped and counted.

A worker's lines go through the same pipe as what its routines print, so each begins with a mark, by which its owner
tells the two apart. It holds a word that is drawn at each start of the owner: what routines print may be text of people
who must not write into the log.
"""

from __future__ import annotations

import json
import logging
import os
import queue
import re
import select
import threading
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import cast

from wool.tasklog import OUTSIDE, TaskLogFilter
from wool.worker.ledger import EVENT_FIELDS

STYLES = ("text", "json")
LEVELS = ("debug", "info", "warning", "error")

MARK_BYTES = 8
"""Of the word in a mark: nobody finds it by guessing."""

_PLAIN = re.compile(r"[!#-<>-\[\]-~]+")
"""What needs no quotes: visible ASCII without the quote, the equals sign and the backslash."""

_TOGETHER_BYTES = 512
"""Written to a pipe at once, they stay together whatever others write: what POSIX promises (PIPE_BUF)."""


def mark_of(word: bytes) -> bytes:
    """Return what begins a line that is an event, in a worker's output: RS, as in RFC 7464, and a word."""
    return b"\x1e" + word.hex().encode() + b" "


def fields(**named: object) -> dict[str, object]:
    """Return what to give a logging call as ``extra``, for an event with these fields."""
    return {EVENT_FIELDS: named}


def time_of(seconds: float) -> str:
    """Return a time since the epoch as it stands in a line: UTC, to the millisecond."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds")


def format_event(style: str, event: Mapping[str, object]) -> str:
    """Return ``event`` as one line, without its end; a field that is None is left out."""
    said = {name: value for name, value in event.items() if value is not None}
    if style == "json":
        return json.dumps(said, default=str)
    return " ".join(f"{name}={_as_text(value)}" for name, value in said.items())


def _as_text(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (int, float)):
        return str(value)
    text = ",".join(map(str, cast("list[object]", value))) if isinstance(value, (list, tuple)) else str(value)
    # A quoted one is as in JSON, so that it holds no line break, of whatever kind.
    return text if _PLAIN.fullmatch(text) else json.dumps(text, ensure_ascii=not text.isprintable())


class EventFormatter(logging.Formatter):
    """Makes one line of a record. ``common`` are fields that all of them have."""

    def __init__(self, style: str, common: Mapping[str, object]) -> None:
        super().__init__()
        self._form = style
        self._common = dict(common)

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        own: dict[str, object] | None = getattr(record, EVENT_FIELDS, None)
        event: dict[str, object] = {
            "time": time_of(record.created),
            "level": record.levelname.lower(),
            "event": record.getMessage() if own is not None else "log",
            **self._common,
        }
        if own is None:
            own = {"logger": record.name, **_task_of(record), "message": record.getMessage()}
        event.update(own)
        if record.exc_info:
            event["traceback"] = self.formatException(record.exc_info)
        return format_event(self._form, event)


def _task_of(record: logging.LogRecord) -> dict[str, object]:
    """Return which task the record says that it belongs to."""
    task: str = getattr(record, "task", OUTSIDE)
    return {} if task == OUTSIDE else {"task": task, "caller": getattr(record, "caller", None)}


class LineWriter:
    """A thread that writes lines to ``descriptor``; ``most`` of them may wait.

    ``dropped(n)`` makes the line that says that n lines did not fit. Lines that nobody can read any more, since the
    other end was closed, are dropped without a word.
    """

    def __init__(self, descriptor: int, *, most: int, dropped: Callable[[int], bytes]) -> None:
        self._descriptor = descriptor
        self._most = most
        self._make_dropped = dropped
        # Neither of its two ends ever waits for a lock, so a fork cannot leave it locked.
        self._lines: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._dropped = self._told = 0
        self._thread = threading.Thread(target=self._write_all, name="wool-log", daemon=True)
        self._thread.start()

    def put(self, line: bytes) -> None:
        """Have ``line`` written, soon; never waits."""
        if self._lines.qsize() >= self._most:
            self._dropped += 1
        else:
            self._lines.put(line)

    def close(self, seconds: float) -> None:
        """Write what is queued, for at most so long."""
        self._lines.put(None)
        self._thread.join(seconds)

    def _write_all(self) -> None:
        ended = False
        while not ended:
            data: list[bytes] = []
            size = 0
            while size < _TOGETHER_BYTES and (not data or not self._lines.empty()):
                line = self._lines.get()
                if line is None:
                    ended = True
                    break
                data.append(line + b"\n")
                size += len(data[-1])
            if (lost := self._dropped - self._told) and self._lines.qsize() < self._most:
                self._told += lost
                data.append(self._make_dropped(lost) + b"\n")
            try:
                self._write(b"".join(data))
            except OSError:
                self._most = 0
                return

    def _write(self, data: bytes) -> None:
        rest = memoryview(data)
        while rest:
            try:
                rest = rest[os.write(self._descriptor, rest) :]
            except BlockingIOError:
                # Whoever shares the other end may have made it so.
                select.select([], [self._descriptor], [])


class EventHandler(logging.Handler):
    """Gives the lines of records to a `LineWriter`, each after ``mark``."""

    def __init__(self, writer: LineWriter, formatter: EventFormatter, mark: bytes = b"") -> None:
        super().__init__()
        self.setFormatter(formatter)
        self.addFilter(TaskLogFilter())
        self._writer = writer
        self._mark = mark

    def emit(self, record: logging.LogRecord) -> None:
        """Queue a record's line."""
        try:
            line = self.format(record)
        except Exception:
            # A message whose arguments do not fit it, or cannot be shown; logging's own way to say so.
            self.handleError(record)
            return
        self._writer.put(self._mark + line.encode(errors="backslashreplace"))


def write_events(
    descriptor: int, *, style: str, common: Mapping[str, object], most: int, mark: bytes = b""
) -> tuple[LineWriter, EventHandler]:
    """Return a writer to ``descriptor`` and the handler that feeds it; the caller attaches and closes them."""
    formatter = EventFormatter(style, common)

    def dropped(count: int) -> bytes:
        record = logging.makeLogRecord(
            {"levelname": "WARNING", "levelno": logging.WARNING, "msg": "lines-dropped", **fields(dropped=count)}
        )
        return mark + formatter.format(record).encode(errors="backslashreplace")

    writer = LineWriter(descriptor, most=most, dropped=dropped)
    return writer, EventHandler(writer, formatter, mark)
