"""What is said of those who were refused: at a bounded rate, and the rest is counted.

Why it exists: whoever is refused can come again at once, and a line for each would fill the disk, or hide what else
the log says. One place bounds it, for strangers, failed handshakes and peers that break the protocol alike.

What it owns: how many lines were written lately, and the timer that sums up. What it must never do: say a secret; it
is told words that are fit for a log.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TypeAlias

from wool.limits import Limits

Write: TypeAlias = Callable[..., object]
"""Takes a message and its arguments, as a logger's method does."""


class Refusals:
    """Has ``write`` called at most ``refusals`` times in ``refusal_seconds``, then with how many more there were.

    Times are those of the running event loop, on which alone it is used. `close` says what has not been said.
    """

    def __init__(self, write: Write, limits: Limits) -> None:
        self._write = write
        self._most = limits.refusals
        self._seconds = limits.refusal_seconds
        self._characters = limits.text_characters
        self._until = float("-inf")
        self._said = 0
        self._more = 0
        self._last = ""
        self._timer: asyncio.TimerHandle | None = None

    def __repr__(self) -> str:
        return f"<{type(self).__name__} said={self._said} more={self._more}>"

    def say(self, message: str, *args: object) -> None:
        """Warn, or count it if enough was said."""
        loop = asyncio.get_running_loop()
        now = loop.time()
        if self._timer is None and now >= self._until:
            self._until, self._said = now + self._seconds, 0
        if self._said < self._most:
            self._said += 1
            self._write(message, *args)
            return
        self._more += 1
        self._last = (message % args)[: self._characters]
        if self._timer is None:
            self._timer = loop.call_at(self._until, self._sum_up)

    def _sum_up(self) -> None:
        self._timer = None
        more, self._more = self._more, 0
        # One line, which counts for the time that begins.
        self._until, self._said = self._until + self._seconds, 1
        self._write("%d more were refused in %g s, the last: %s", more, self._seconds, self._last)

    def close(self) -> None:
        """Sum up what has not been said; idempotent."""
        if self._timer is not None:
            self._timer.cancel()
            self._sum_up()
