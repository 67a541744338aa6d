"""Credentials that a function gives: asked again and again for the workers that this process has started.

Why it exists: a worker cannot ask its owner's function, as it reads files. Owns when the function is asked, and that
it is not heard once the worker has gone. Never opens a connection, never writes: ``say`` tells the worker.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from wool.credentials import CredentialsProvider, Steady, WorkerCredentials, for_worker

_log = logging.getLogger(__name__)


class Renewal:
    """Asks ``provider`` now and every ``seconds``, on the running loop, and says what is not as it was ``last``.

    One that raises, or returns what is no worker's, changes nothing, and is logged once until it succeeds again.
    """

    def __init__(
        self,
        provider: CredentialsProvider,
        last: WorkerCredentials,
        *,
        seconds: float,
        say: Callable[[WorkerCredentials], object],
    ) -> None:
        self._provider = Steady(provider, for_worker, _log.warning, last=last)
        self._last = last
        self._seconds = seconds
        self._say = say
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._look()

    def stop(self) -> None:
        """Ask no more; idempotent."""
        if self._timer is not None:
            self._timer.cancel()

    def _look(self) -> None:
        now = self._provider()
        if now != self._last:
            self._last = now
            self._say(now)
        self._timer = self._loop.call_later(self._seconds, self._look)
