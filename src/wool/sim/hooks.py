"""The admission hook of simulated workers: it takes so many tasks at a time, and an even number after some thought.

It is what the production code gets, pickled and asked as any other; whether it was heard is for an invariant to see.
"""

from __future__ import annotations

import asyncio
from collections.abc import Generator
from typing import Any

from wool.worker.admission import TaskOffer
from wool.worker.examiner import AdmissionHook

THINKING_SECONDS = 0.004


class TakesSoMany:
    """A plain hook."""

    def __init__(self, most: int) -> None:
        self.most: int = most

    def __call__(self, offer: TaskOffer) -> bool | str:
        """See `wool.worker.examiner.AdmissionHook`."""
        return offer.in_flight < self.most or f"{offer.in_flight} tasks are under way"


class TakesSoManyLater:
    """One that must be awaited."""

    def __init__(self, most: int) -> None:
        self.hook: TakesSoMany = TakesSoMany(most)

    def __call__(self, offer: TaskOffer) -> Thought:
        """See `wool.worker.examiner.AdmissionHook`."""
        return Thought(self.hook, offer)


class Thought:
    """What it says, after some time. No coroutine: one that a killed process never awaits makes Python warn."""

    def __init__(self, hook: TakesSoMany, offer: TaskOffer) -> None:
        self._hook = hook
        self._offer = offer

    def __await__(self) -> Generator[Any, None, bool | str]:
        yield from asyncio.sleep(THINKING_SECONDS).__await__()
        return self._hook(self._offer)


def hook_of(most: int) -> AdmissionHook | None:
    """Return the hook that a plan's ``admits`` says."""
    if not most:
        return None
    return TakesSoMany(most) if most % 2 else TakesSoManyLater(most)
