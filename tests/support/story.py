"""The grammar of task events, as `docs/events.md` tells it, and what tests see of them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import wool
from wool.discovery.base import WorkerMetadata
from wool.events import PROCESS, TYPES

Told = tuple[wool.TaskEvent, int, WorkerMetadata | None]

LETTERS = dict(zip(TYPES, "csSECibd", strict=True))
"""created, scheduled, Started, stopped (its End), Completed, initiated, begun, done."""

AT_THE_CALLER = {"coroutine": re.compile("cs?C"), "generator": re.compile("cis?d(id)*C")}
ON_THE_WORKER = {"coroutine": re.compile("(SE)*"), "generator": re.compile("(b(SE)*)*")}


class Listener:
    """A handler that writes down what it is told."""

    def __init__(self) -> None:
        self.told: list[Told] = []

    def __call__(self, event: wool.TaskEvent, timestamp: int, context: WorkerMetadata | None = None) -> None:
        self.told.append((event, timestamp, context))

    def of(self, name: str = "") -> list[wool.TaskEvent]:
        """Return the events of the calls of a routine, after all have been told."""
        assert wool.TaskEvent.flush(10)
        return [event for event, _, _ in self.told if event.task.routine.endswith(name)]

    def types(self, name: str = "") -> str:
        return "".join(LETTERS[event.type] for event in self.of(name))


@contextmanager
def listening(*types: Any, remote: bool = False) -> Iterator[Listener]:
    """A listener for ``types``, or for all."""
    listener = Listener()
    wool.TaskEvent.handler(*(types or TYPES), remote=remote)(listener)
    try:
        yield listener
    finally:
        wool.TaskEvent.remove_handler(listener)
        assert not PROCESS.mask and not PROCESS.remote


def check(told: list[Told]) -> dict[bytes, str]:
    """Check the story of each task that has ended; return the stories, in letters, by the tasks' keys."""
    stories: dict[bytes, list[Told]] = {}
    for each in told:
        stories.setdefault(each[0].task.key, []).append(each)
    found: dict[bytes, str] = {}
    for key, story in stories.items():
        kind = story[0][0].task.kind
        letters = found[key] = "".join(LETTERS[event.type] for event, _, _ in story)
        here, there = re.sub("[SEb]", "", letters), re.sub("[^SEb]", "", letters)
        assert AT_THE_CALLER[kind].fullmatch(here), letters
        assert ON_THE_WORKER[kind].fullmatch(there), letters
        assert not there or letters.index("s") < min(letters.index(letter) for letter in set(there)), letters
        for side in ("SEb", "csCid"):
            times = [timestamp for event, timestamp, _ in story if LETTERS[event.type] in side]
            assert times == sorted(times)
        for letter in "ibd":
            steps = [event.step for event, _, _ in story if LETTERS[event.type] == letter]
            assert steps == list(range(len(steps))), letters
        for event, _, context in story:
            iterates = LETTERS[event.type] in "ibd"
            assert (event.kind is not None) is iterates and (event.step is not None) is iterates
            assert (event.outcome is not None) is (LETTERS[event.type] == "C")
            assert (context is not None) is (LETTERS[event.type] in "sSEb")
    return found
