"""Figures, and the one way in which they are taken: the sides of a comparison by turns.

A machine is never quite idle, and never the same for two minutes. So the library and its yardstick are
measured A B A B …, each figure is a median with its best beside it, and what counts is their ratio.
"""

from __future__ import annotations

import gc
import statistics
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Figure:
    """What was measured: all samples of one thing."""

    samples: Sequence[float]
    unit: str
    more_is_better: bool

    @property
    def median(self) -> float:
        """The middle of the samples."""
        return statistics.median(self.samples)

    @property
    def best(self) -> float:
        """The sample that the rest of the machine disturbed least."""
        return max(self.samples) if self.more_is_better else min(self.samples)


def rate(samples: Sequence[float], unit: str) -> Figure:
    """Return a figure of which more is better."""
    return Figure(samples=samples, unit=unit, more_is_better=True)


def time(samples: Sequence[float], unit: str) -> Figure:
    """Return a figure of which less is better."""
    return Figure(samples=samples, unit=unit, more_is_better=False)


PING_PONG_THERE = 170e-6
"""Seconds of the raw ping-pong (150 to 190 µs) on the machine on which the needs were set."""

BULK_THERE = 839.0
"""MB/s of the raw stream there, in messages of 128 KiB."""


@dataclass(frozen=True, kw_only=True)
class Need:
    """What a workload must reach; what is None does not matter."""

    at_least: float | None = None
    at_most: float | None = None
    ratio_at_least: float | None = None
    ratio_at_most: float | None = None

    def met(self, value: float, ratio: float | None, speed: float = 1.0) -> bool:
        """Tell whether a value, and its ratio to the yardstick, are good enough on a machine of that ``speed``."""
        return (
            (self.at_least is None or value >= self.at_least * speed)
            and (self.at_most is None or value <= self.at_most / speed)
            and (self.ratio_at_least is None or (ratio is not None and ratio >= self.ratio_at_least))
            and (self.ratio_at_most is None or (ratio is not None and ratio <= self.ratio_at_most))
        )

    def __str__(self) -> str:
        parts = []
        for bound, sign, suffix in (
            (self.at_least, "≥", ""),
            (self.at_most, "≤", ""),
            (self.ratio_at_least, "≥", " ×"),
            (self.ratio_at_most, "≤", " ×"),
        ):
            if bound is not None:
                parts.append(f"{sign} {bound:,.6g}{suffix}")
        return ", ".join(parts)


@dataclass(frozen=True, kw_only=True)
class Row:
    """One line of the table."""

    workload: str
    figure: Figure
    yardstick: str = ""
    measure: Figure | None = None
    """The yardstick's figure, in the same unit where there is a ratio to it."""
    need: Need = field(default_factory=Need)
    speed: float | None = None
    """This machine's, for such work: a yardstick's figure in this run, in parts of what the same yardstick gave where
    the need was set."""
    notes: Sequence[str] = ()

    @property
    def ratio(self) -> float | None:
        """The library to its yardstick, median to median."""
        return None if self.measure is None else self.figure.median / self.measure.median

    @property
    def best_ratio(self) -> float | None:
        """The same, best to best."""
        return None if self.measure is None else self.figure.best / self.measure.best

    @property
    def verdict(self) -> str:
        """``ok``; ``ok at …``: on a machine of that speed; ``at best``: only the best sample; ``MISSED``; nothing."""
        if not str(self.need):
            return ""
        if self.need.met(self.figure.median, self.ratio):
            return "ok"
        if self.speed is not None and self.need.met(self.figure.median, self.ratio, self.speed):
            return f"ok at {self.speed:.2f}"
        return "at best" if self.need.met(self.figure.best, self.best_ratio) else "MISSED"

    def as_json(self) -> dict[str, Any]:
        """Return everything, for a machine to read."""
        return {
            "workload": self.workload,
            "unit": self.figure.unit,
            "median": self.figure.median,
            "best": self.figure.best,
            "samples": list(self.figure.samples),
            "yardstick": self.yardstick,
            "yardstick_median": None if self.measure is None else self.measure.median,
            "yardstick_best": None if self.measure is None else self.measure.best,
            "ratio": self.ratio,
            "ratio_of_bests": self.best_ratio,
            "need": str(self.need),
            "speed": self.speed,
            "verdict": self.verdict,
            "notes": list(self.notes),
        }


async def by_turns(repetitions: int, *sides: Callable[[], Awaitable[Any]], warm_up: int = 1) -> list[list[Any]]:
    """Run the sides in turn, so many times; return what each returned. The first turns do not count."""
    results: list[list[Any]] = [[] for _ in sides]
    for turn in range(warm_up + repetitions):
        for side, kept in zip(sides, results, strict=True):
            gc.collect()
            result = await side()
            if turn >= warm_up:
                kept.append(result)
    return results
