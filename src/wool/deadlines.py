"""Many deadlines of the same length behind one timer of the event loop.

Calls outnumber everything else, and each has a deadline that nearly never fires: adding and removing
one must cost next to nothing. After a stall of our own process, what has arrived meanwhile is read
before anything fires.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable
from typing import Generic, TypeVar

from wool.limits import Limits

_Key = TypeVar("_Key")


class Deadlines(Generic[_Key]):
    """``fire(key)`` is called ``seconds`` after ``add(key)``, unless `remove` came first."""

    __slots__ = ("_due", "_fire", "_limits", "_looking", "_loop", "_settled", "_timer", "seconds")

    def __init__(
        self, loop: asyncio.AbstractEventLoop, seconds: float, limits: Limits, fire: Callable[[_Key], None]
    ) -> None:
        self._loop = loop
        self.seconds: float = seconds
        self._limits = limits
        self._fire = fire
        # Equal lengths: the order of insertion is the order of time.
        self._due: OrderedDict[_Key, float] = OrderedDict()
        self._timer: asyncio.TimerHandle | None = None
        self._settled = False
        self._looking = False

    def __len__(self) -> int:
        return len(self._due)

    def add(self, key: _Key) -> None:
        """Start (again) to count for ``key``."""
        due = self._loop.time() + self.seconds
        if key in self._due:
            self._due.move_to_end(key)
        self._due[key] = due
        if self._timer is None and not self._looking:
            self._timer = self._loop.call_at(due, self._look)

    def remove(self, key: _Key) -> None:
        """Stop counting for ``key``; no harm if it is not counted."""
        self._due.pop(key, None)

    def close(self) -> None:
        """Forget everything."""
        self._due.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _look(self) -> None:
        timer, self._timer = self._timer, None
        now = self._loop.time()
        if timer is not None and now - timer.when() > self._limits.stall_seconds and not self._settled:
            # We stood still: answers may be waiting to be read. Look again after they have been.
            self._settled = True
            self._timer = self._loop.call_at(now + self._limits.stall_settle_seconds, self._look)
            return
        self._settled = False
        self._looking = True
        try:
            while self._due:
                key, due = next(iter(self._due.items()))
                if due > now:
                    break
                del self._due[key]
                self._fire(key)
        finally:
            # Armed for the one that is due first, whatever was added meanwhile; also if one has failed.
            self._looking = False
            if self._due:
                self._timer = self._loop.call_at(next(iter(self._due.values())), self._look)


class Timeouts(Generic[_Key]):
    """Deadlines of whatever lengths: those of one length are behind one timer.

    ``keep`` is the length that most have. Of the others there may be as many as there are calls, so one that
    nobody counts on is forgotten.
    """

    __slots__ = ("_fire", "_keep", "_limits", "_loop", "lengths")

    def __init__(
        self, loop: asyncio.AbstractEventLoop, limits: Limits, fire: Callable[[_Key], None], *, keep: float
    ) -> None:
        self._loop = loop
        self._limits = limits
        self._fire = fire
        self._keep = keep
        self.lengths: dict[float, Deadlines[_Key]] = {}
        """By their seconds."""

    def add(self, key: _Key, seconds: float) -> Deadlines[_Key]:
        """Start to count for ``key``; return where."""
        deadlines = self.lengths.get(seconds)
        if deadlines is None:
            deadlines = self.lengths[seconds] = Deadlines(self._loop, seconds, self._limits, self._fire)
        deadlines.add(key)
        return deadlines

    def remove(self, key: _Key, deadlines: Deadlines[_Key]) -> None:
        """Stop counting for ``key``, which was added to ``deadlines``."""
        deadlines.remove(key)
        if not deadlines and deadlines.seconds != self._keep and self.lengths.get(deadlines.seconds) is deadlines:
            deadlines.close()
            del self.lengths[deadlines.seconds]

    def close(self) -> None:
        """Forget everything."""
        for deadlines in self.lengths.values():
            deadlines.close()
        self.lengths.clear()
