"""When calls wait for workers that may still be found: in the first moments, and when nobody takes a call.

Why it exists: discovery tells of one worker after the other, some milliseconds apart. A program whose first act is a
thousand calls would give them all to the one that was heard first.

It owns the calls that wait, and the clock of both waits. It must never choose a worker, nor end a call.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from wool.call import PlacedCall
from wool.discovery.base import Sought
from wool.limits import Limits

_LOOKING_SECONDS = 0.05
"""How often calls that wait look whether everybody was heard."""


class Lookout:
    """Looks for one proxy whether discovery may still name somebody; ``place`` takes each call that waited for it."""

    def __init__(self, what: Sought, limits: Limits, place: Callable[[PlacedCall], None]) -> None:
        self._loop = asyncio.get_running_loop()
        self._what = what
        self._place = place
        self._first_seconds = limits.first_look_seconds
        self._first_until: float | None = None
        self._timer: asyncio.Handle | None = None
        self.is_early: bool = True
        """Whether the first moments may not be over; cheap to ask."""
        self.waiting: dict[PlacedCall, None] = {}
        """The calls that wait for a worker to be found, the first one first."""

    @property
    def is_looking(self) -> bool:
        """Whether somebody has not been heard yet, as far as the discovery knows; its own limits bound that."""
        return self._what.is_looking

    def found(self) -> None:
        """Discovery has named somebody: with the first, the first moments begin."""
        if self._first_until is None:
            self._first_until = self._loop.time() + self._first_seconds

    def gathers(self) -> bool:
        """Whether these are the first moments, and calls wait until everybody was heard."""
        if self._first_until is None:
            return False
        self.is_early = self._loop.time() < self._first_until
        return self.is_early and self._what.is_looking

    def wait(self, call: PlacedCall) -> None:
        """Keep a call until somebody is found, or was heard last."""
        self.waiting[call] = None
        if self._timer is None:
            now = self._loop.time()
            left = self._first_until - now if self._first_until is not None and self.is_early else _LOOKING_SECONDS
            self._timer = self._loop.call_later(min(left, _LOOKING_SECONDS), self._look)

    def changed(self) -> None:
        """Somebody may have been found: let go of the calls when all is heard that is being told just now."""
        if self.waiting:
            self.close()
            self._timer = self._loop.call_soon(self._look)

    def _look(self) -> None:
        self._timer = None
        waiting, self.waiting = self.waiting, {}
        for call in waiting:
            self._place(call)

    def close(self) -> None:
        """Look no more."""
        if self._timer is not None:
            self._timer.cancel()
