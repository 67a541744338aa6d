"""Waiting for what is not known yet, in a run whose plan grows while it goes (`wool.sim.stepping`).

Why it exists: a caller that sleeps until its next call, and a consumer that sleeps before its next ask, do so in a
plan that is known for as long as it says; in one that grows they wait until somebody says more. Both take the same
steps of the loop at the same times: so the plan that has grown, run by itself, has the same history.
"""

from __future__ import annotations

from wool.sim.bodies import Ask
from wool.sim.loop import SimFuture, SimLoop

_OPEN = Ask(op="sleep", seconds=1.0)
"""The consumer's last ask as long as there may be others: it waits, nobody knows yet for how long."""
_BREAK = Ask(op="break")


class Wait:
    """A sleep whose length is said while it lasts: `asyncio.sleep` but for that."""

    def __init__(self, loop: SimLoop) -> None:
        self._loop = loop
        self._since = loop.time()
        self._future: SimFuture[None] = loop.create_future()
        self._ends = False

    @property
    def cancelled(self) -> bool:
        """Whether whoever slept was cancelled."""
        return self._future.cancelled()

    @property
    def endless(self) -> bool:
        """Whether it lasts, and nobody has said until when."""
        return not (self._ends or self._future.done())

    async def over(self) -> None:
        """Sleep."""
        await self._future

    def seconds_until(self, when: float) -> float:
        """Return how long it is if it ends then."""
        return when - self._since

    def end_at(self, when: float) -> float:
        """Let it end then, and return how long it is."""
        self._ends = True
        seconds = self.seconds_until(when)
        # This sum, and not ``when``: it is what a sleep of so many seconds comes to.
        self._loop.call_at(self._since + seconds, self._end)
        return seconds

    def _end(self) -> None:
        if not self._future.done():
            self._future.set_result(None)


class LiveScript:
    """What the consumer of a generator does, said ask by ask while it consumes."""

    def __init__(self, loop: SimLoop, first: Ask) -> None:
        self.asks: list[Ask] = [first, _OPEN]
        """As the consumer reads them."""
        self._loop = loop
        self._wait: Wait | None = None

    @property
    def told(self) -> tuple[Ask, ...]:
        """The script so far, as a plan has it."""
        return tuple(ask for ask in self.asks if ask is not _OPEN)

    async def sleep(self, seconds: float) -> None:
        """Wait for the next ask: the only sleep that there is here."""
        self._wait = Wait(self._loop)
        await self._wait.over()

    def ask(self, ask: Ask, at: float) -> None:
        """Have the consumer ask: at ``at`` if it waits, else as soon as it has what it asked for last."""
        self._say(at, ask, _OPEN)

    def close(self, at: float) -> None:
        """Have the consumer let the generator go, then; there is nothing more to ask."""
        wait = self._wait
        if wait is not None and wait.cancelled:
            self.asks[-1:] = [Ask(op="sleep", seconds=wait.seconds_until(at)), _BREAK]
        else:
            self._say(at, _BREAK)

    def _say(self, at: float, *asks: Ask) -> None:
        wait = self._wait
        if wait is None or not wait.endless:
            self.asks[-1:] = asks
        else:
            self.asks[-1:] = [Ask(op="sleep", seconds=wait.end_at(at)), *asks]
