"""Bytes read as choices: a fuzzer that flips one of them changes one decision."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

from wool.protocol import frames
from wool.protocol.frames import Body, Frame, RejectCode, ResultKind, StepKind

_T = TypeVar("_T")

NUMBERS = (0, 1, 2, 3, 4, 5, 6, 7, 8, 2**32, 2**63, 2**64 - 1)
SIZES = (0, 1, 2, 3, 7, 64, 4096, 70_000, 2**31, 2**40, 2**62, 2**64 - 1)
PARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
TRACES = (None, frames.Trace(PARENT), frames.Trace(PARENT, "vendor=1,a@b=x"))


class Choices:
    """A reader that never fails: at the end everything is zero."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def __bool__(self) -> bool:
        return self._at < len(self._data)

    def byte(self) -> int:
        at = self._at
        self._at = at + 1
        return self._data[at] if at < len(self._data) else 0

    def below(self, most: int) -> int:
        return self.byte() % most

    def one_of(self, options: Sequence[_T]) -> _T:
        return options[self.byte() % len(options)]

    def flag(self) -> bool:
        return bool(self.byte() & 1)

    def some_bytes(self) -> bytes:
        size = self.byte()
        at = self._at
        self._at = at + size
        return self._data[at : at + size]

    def rest(self) -> bytes:
        at, self._at = self._at, len(self._data)
        return self._data[at:]

    # ---- frames ----

    def number(self) -> int:
        return self.one_of(NUMBERS)

    def body(self) -> Body:
        kind = self.below(4)
        if kind == 0:
            return frames.EMPTY
        if kind == 1:
            return Body((), self.some_bytes())
        if kind == 2:
            parts = [self.some_bytes() for _ in range(self.below(4))]
            return Body(tuple(map(len, parts)), b"".join(parts))
        return Body(tuple(self.one_of(SIZES) for _ in range(self.below(5))), b"", True)

    def frame(self) -> Frame:
        what = self.below(12)
        number = self.number()
        match what:
            case 0:
                offer = frames.Offer(
                    number,
                    bytes(frames.TASK_BYTES),
                    bytes([self.below(3)]) * frames.DIGEST_BYTES,
                    self.flag(),
                    self.body(),
                    self.one_of((b"", bytes(frames.TASK_BYTES))),
                    self.one_of((None, 0.0, -1.0, 1.5, float("inf"), float("nan"))),
                )
                # One byte for both, so that inputs which were kept before there were traces mean what they meant.
                trace, context = divmod(self.byte(), 4)
                return offer._replace(context=context == 3, trace=TRACES[trace % len(TRACES)])
            case 1:
                return frames.Start(number)
            case 2:
                return frames.Withdraw(number)
            case 3:
                return frames.Cancel(number, self.one_of((None, "", "why")))
            case 4:
                return frames.Step(number, self.one_of(tuple(StepKind)), self.body(), self.below(4) == 3)
            case 5:
                return frames.Accept(number)
            case 6:
                return frames.Reject(number, self.one_of(tuple(RejectCode)), "no" * self.byte())
            case 7:
                kind = self.one_of(tuple(ResultKind))
                return frames.Result(number, kind, self.body(), self.flag(), self.byte(), self.below(4) == 3)
            case 8:
                return frames.Draining()
            case 9:
                return frames.Chunk(number, self.some_bytes())
            case 10:
                return frames.Credit(self.one_of(SIZES))
            case _:
                return frames.Goodbye("bye" * self.byte())
