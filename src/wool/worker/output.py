"""What workers print, on its way to the owner's standard error: whole lines, each with its worker's name.

An owner that has another use for the lines gives `Output` another `Forward`.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Sequence
from typing import TextIO, TypeAlias

from wool.limits import Limits
from wool.refusals import Refusals

_GRPCS_OWN = re.compile(rb"[IWEF]\d{4} \d\d:\d\d:\d\d\.\d+ +\d+ \S+:\d+\]")
"""How a line begins that gRPC's core has written: above all one for each TLS handshake that failed."""

Forward: TypeAlias = Callable[[str | None, int, Sequence[bytes]], None]
"""Takes whole lines, without their ends: the worker's uid, once it is known, its process id, and what it printed."""


class Output:
    """Forwards a worker's output by whole lines, and remembers the end of it.

    What gRPC's core says there, and knows no bound for, is forwarded at the rate of refusals.
    """

    def __init__(self, pid: int, limits: Limits, forward: Forward | None = None) -> None:
        self.uid: str | None = None
        self._to: Forward = forward or _to_standard_error
        self._pid = pid
        self._line_bytes = limits.output_line_bytes
        self._tail_bytes = limits.output_tail_bytes
        self._rest = bytearray()
        self._tail = bytearray()
        self._grpcs = Refusals(self._write, limits)

    @property
    def tail(self) -> str:
        return self._tail.decode(errors="replace")

    def feed(self, data: bytes) -> None:
        """Take what the worker printed, and forward the lines that are complete."""
        self._tail += data
        del self._tail[: -self._tail_bytes]
        *lines, rest = (bytes(self._rest) + data).split(b"\n")
        pieces = [piece for line in lines for piece in self._split(line)]
        *full, rest = self._split(rest)
        self._rest = bytearray(rest)
        self._forward([*pieces, *full])

    def finish(self) -> None:
        """Forward what came after the last newline."""
        rest, self._rest = bytes(self._rest), bytearray()
        if rest:
            self._forward([rest])
        self._grpcs.close()

    def _split(self, line: bytes) -> list[bytes]:
        pieces: list[bytes] = []
        while len(line) > self._line_bytes:
            end = self._line_bytes
            while end > max(1, self._line_bytes - 3) and line[end] & 0xC0 == 0x80:
                end -= 1  # not in the middle of a character
            pieces.append(line[:end])
            line = line[end:]
        return [*pieces, line]

    def _forward(self, lines: list[bytes]) -> None:
        own = [line for line in lines if not _GRPCS_OWN.match(line)]
        if own:
            self._to(self.uid, self._pid, own)
        if len(own) < len(lines):
            for line in lines:
                if _GRPCS_OWN.match(line):
                    self._forward_grpcs(line)

    def _forward_grpcs(self, line: bytes) -> None:
        try:
            self._grpcs.say("%s", line.decode(errors="replace"))
        except RuntimeError:  # no loop runs any more: these are last words
            self._to(self.uid, self._pid, [line])

    def _write(self, message: str, *args: object) -> None:
        self._to(self.uid, self._pid, [(message % args).encode(errors="replace")])


def _to_standard_error(uid: str | None, pid: int, lines: Sequence[bytes]) -> None:
    who = f"worker {uid[:8]}" if uid else "worker"
    text = "".join(f"[{who} pid {pid}] {line.decode(errors='replace')}\n" for line in lines)
    # Whatever it is now: tests and notebooks replace it, and in a process without a terminal it may be None.
    stream: TextIO | None = getattr(sys, "stderr", None)
    if stream is None:
        return
    try:
        stream.write(text)
        stream.flush()
    except (OSError, ValueError):
        # Closed, or nobody reads it, or it cannot encode this: no reason to lose the worker, and the place
        # to complain at is the one that is broken.
        return
