"""What ``wool worker`` keeps of a worker's output, to explain its end."""

from __future__ import annotations

from typing import Any

from wool.cli.worker import _Output
from wool.limits import MOST_LAST_LINE_BYTES, MOST_LAST_LINES


class Nobody:
    """Takes the lines that are forwarded."""

    def put(self, line: bytes) -> None: ...


def test_of_what_a_worker_prints_the_end_is_kept_and_of_a_long_line_its_start() -> None:
    nobody: Any = Nobody()
    output = _Output(nobody, "text", b"mark")
    for number in range(2 * MOST_LAST_LINES):
        output.forward("uid", 1, [b"%d " % number + b"x" * MOST_LAST_LINE_BYTES])
    output.forward("uid", 2, [b"of another"])
    lines = output.last(1).splitlines()
    assert [line.split()[0] for line in lines] == [str(MOST_LAST_LINES + number) for number in range(MOST_LAST_LINES)]
    assert {len(line) for line in lines} == {MOST_LAST_LINE_BYTES}
    assert output.last(1) == ""
