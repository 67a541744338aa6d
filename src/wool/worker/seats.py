"""The places of a worker's bodies, on its routine loop: each body waits for one, lends it out and gives it back.

Why it exists: `wool.worker.places` says who is next; here that becomes bodies that wait, on whatever loop they make
their nested calls, and news for the I/O loop, which lets offers in.

A body has a place exactly while it is in a step, its own or the next of a generator, and none of its nested calls is
under way. It must never begin or end a body: that is the runner's.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from wool.bridge import MailboxLike, run_on
from wool.worker.places import Places


class Desk:
    """Gives seats out. Lives on the routine loop."""

    def __init__(
        self,
        most: int,
        *,
        loop: asyncio.AbstractEventLoop,
        routines: MailboxLike,
        mailbox: Callable[[asyncio.AbstractEventLoop], MailboxLike],
        tell: Callable[[int, int], None],
    ) -> None:
        self.places: Places[Seat] = Places(most)
        self.loop: asyncio.AbstractEventLoop = loop
        self.routines: MailboxLike = routines
        self.mailbox: Callable[[asyncio.AbstractEventLoop], MailboxLike] = mailbox
        self.tell: Callable[[int, int], None] = tell
        """Is told what has changed: bodies that have still to get their first place, and that have or want one."""


class Seat:
    """One body's claim to a place. It counts from the accept on, so at the beginning it wants one."""

    __slots__ = ("_active", "_counted", "_desk", "_listed", "_nested", "_seated", "_turns", "fresh")

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self._active = True
        self._nested = 0
        self._counted = True
        self._turns: list[asyncio.Future[None]] = []
        self.fresh: bool = True
        """It has had no place yet."""
        self._seated = False
        self._listed = False
        """It has a place or waits in line for one."""

    # ---- the runner's ----

    async def first(self) -> bool:
        """Wait for the first place, or for `rest`; return whether it has one."""
        if self._active:
            self._ask()
            if await self._wait(patiently=False) is not None:
                self.rest()  # somebody's body has cancelled whatever it found: this one never begins
        return self._seated

    async def again(self) -> bool:
        """Wait for a place for the next step; return whether somebody has cancelled the wait, which goes on."""
        self._active = True
        self._settle()
        return await self._wait() is not None

    def rest(self) -> None:
        """The body is not in a step any more, or will never begin; idempotent."""
        self._active = False
        self._settle()

    # ---- what a nested call asks: see `wool.lending` ----

    def lend(self) -> None:
        """A nested call begins."""
        if asyncio.get_running_loop() is self._desk.loop:
            self._lend()
        else:
            self._desk.routines.post(self._lend)

    async def back(self) -> None:
        """A nested call has ended: wait for a place, if it was the last. Cancelled, it has one when that is raised."""
        loop, desk = asyncio.get_running_loop(), self._desk
        if loop is desk.loop:
            await self._back()
        else:
            await run_on(desk.routines, desk.mailbox(loop), self._back, "wool waiting for a place")

    def forget(self) -> None:
        """A nested call was closed, and nobody goes on there. Where a call is thrown away no loop may be running."""
        if asyncio._get_running_loop() is self._desk.loop:
            self._end_of_call()
        else:
            self._desk.routines.post(self._end_of_call)

    def _lend(self) -> None:
        self._nested += 1
        self._settle()

    def _end_of_call(self) -> None:
        self._nested -= 1
        self._settle()

    async def _back(self) -> None:
        self._end_of_call()
        cancelled = await self._wait()
        if cancelled is not None:
            raise cancelled

    # ---- shared by the above ----

    @property
    def _wants(self) -> bool:
        return self._active and not self._nested

    def _settle(self) -> None:
        """Have a place, or wait for one, if the body wants one; else have none."""
        desk = self._desk
        if self._wants and not self._counted:
            self._counted = True
            desk.tell(0, 1)
            self._ask()
        elif self._counted and not self._wants:
            self._counted = False
            never, self.fresh = self.fresh, False
            self._seated = False
            if self._listed:
                self._listed = False
                following = desk.places.leave(self)
                if following is not None:
                    following._sit()
            desk.tell(-1 if never else 0, -1)
            self._wake()

    def _ask(self) -> None:
        self._listed = True
        if self._desk.places.want(self):
            self._sit()

    def _sit(self) -> None:
        self._seated = True
        if self.fresh:
            self.fresh = False
            self._desk.tell(-1, 0)
        self._wake()

    def _wake(self) -> None:
        for turn in self._turns:
            if not turn.done():
                turn.set_result(None)

    async def _wait(self, *, patiently: bool = True) -> asyncio.CancelledError | None:
        """Wait until it has what it wants, whoever cancels, if ``patiently``; return the last cancellation."""
        cancelled: asyncio.CancelledError | None = None
        while self._wants and not self._seated:
            turn = self._desk.loop.create_future()
            self._turns.append(turn)
            try:
                await turn
            except asyncio.CancelledError as error:
                cancelled = error
                if not patiently:
                    break
            finally:
                self._turns.remove(turn)
        return cancelled
