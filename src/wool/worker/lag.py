"""How late the routine loop is: what a body that computes without awaiting does to all the others.

Why it exists: such a body holds up every other one on its worker, and nothing else tells. While there are bodies, the
loop is woken every quarter of a second, and is as late as that call comes late; so a hold-up is seen while it lasts,
too. A worker without bodies is not woken.

What it owns: one timer of the routine loop, and three numbers. They are written on the routine loop, and read on the
I/O loop: each is replaced as a whole. It must never ask what time it is but of an event loop.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

LOOK_SECONDS = 0.25
"""A hold-up shorter than that may be missed; four wake-ups a second cost less than 0.1 % of a CPU."""
WINDOW_SECONDS = 30.0
"""The worst of this window and of the one before is told: what is asked for every half minute is never missed."""


class LoopLag:
    """Watches one loop while ``is_busy`` says so. All but `worst_seconds` is run on that loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop, is_busy: Callable[[], bool]) -> None:
        self._loop = loop
        self._is_busy = is_busy
        self._timer: asyncio.TimerHandle | None = None
        self._due: float | None = None
        self._windows = (loop.time(), 0.0, 0.0)
        """When the present window began, the worst in it, and the worst in the one before."""

    def watch(self) -> None:
        """There is something to do: look from now on, until there is not."""
        if self._due is None:
            self._look_later()

    def _look_later(self) -> None:
        self._due = due = self._loop.time() + LOOK_SECONDS
        self._timer = self._loop.call_at(due, self._look)

    def _look(self) -> None:
        due, now = self._due, self._loop.time()
        assert due is not None, "a look is due when it comes"
        began, worst, before = self._windows
        if (age := now - began) >= WINDOW_SECONDS:
            began, worst, before = now, 0.0, worst if age < 2 * WINDOW_SECONDS else 0.0
        self._windows = began, max(worst, now - due), before
        if self._is_busy():
            self._look_later()
        else:
            self._due = self._timer = None

    def worst_seconds(self, now: float) -> float:
        """Return how late it was at worst, lately or just now. From any thread; ``now`` is the time of its own loop."""
        due = self._due
        began, worst, before = self._windows
        if (age := now - began) >= WINDOW_SECONDS:
            worst, before = 0.0, worst if age < 2 * WINDOW_SECONDS else 0.0
        return max(worst, before, 0.0 if due is None else now - due)

    def close(self) -> None:
        """Look no more; idempotent."""
        if self._timer is not None:
            self._timer.cancel()
        self._due = self._timer = None
