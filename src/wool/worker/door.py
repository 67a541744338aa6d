"""Who is let in: offers that are complete wait here until there is a place for them.

Why it exists: a worker that is told how many bodies may run at once (``max_concurrency``) must not accept more than it
can begin. An offer that finds no place is rejected at once, so that the task goes elsewhere; one whose caller knows of
nobody with a free place says that it waits, and is accepted as soon as there is one.

What it owns: how many bodies have or want a place, as the routine loop tells, and the lines of those who wait, one for
each session: they take turns, so that nobody waits for all that somebody else has. It lives on the I/O loop and never
awaits. It must never look at what is offered.

Nobody waits for ever: whenever a place is given back, one is let in, if a place is free or nobody who was let in before
has still to get the first. So bodies that come back from nested calls, again and again, keep nobody out.
"""

from __future__ import annotations

from wool.protocol.frames import RejectCode
from wool.worker.job import Lobby, Served


class Door:
    """Lets offers in."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._used = 0
        self._fresh = 0
        self._lines: dict[Lobby, dict[Served, None]] = {}
        self.busy: str = f"no place is free (max_concurrency is {most})"
        """Why an offer is rejected that does not wait."""

    @property
    def is_full(self) -> bool:
        """Whether an offer that came now would find no place."""
        return self._used >= self._most or bool(self._lines)

    @property
    def waiting(self) -> int:
        """Offers that wait."""
        return sum(map(len, self._lines.values()))

    def arrive(self, lobby: Lobby, served: Served) -> None:
        """An offer is complete."""
        if not self.is_full:
            self._let_in(lobby, served)
        elif served.offer.waits:
            self._lines.setdefault(lobby, {})[served] = None
        else:
            lobby.refuse(served, RejectCode.BUSY, self.busy)

    def leave(self, lobby: Lobby, served: Served) -> None:
        """An offer was withdrawn, or its session is lost, before its start."""
        if served.counted:
            served.counted = False
            self.changed(-1, -1)
        elif (line := self._lines.get(lobby)) is not None and served in line:
            del line[served]
            if not line:
                del self._lines[lobby]

    def changed(self, fresh: int, used: int) -> None:
        """So many bodies more have still to get their first place, and so many more have or want one."""
        self._fresh += fresh
        self._used += used
        if used < 0:
            self._open()

    def close(self, code: RejectCode, reason: str) -> None:
        """Reject all that wait."""
        lines, self._lines = self._lines, {}
        for lobby, line in lines.items():
            for served in line:
                lobby.refuse(served, code, reason)

    def _open(self) -> None:
        while self._lines and (self._used < self._most or not self._fresh):
            lobby, line = next(iter(self._lines.items()))
            served = next(iter(line))
            del line[served], self._lines[lobby]
            if line:
                self._lines[lobby] = line  # behind the others
            self._let_in(lobby, served)

    def _let_in(self, lobby: Lobby, served: Served) -> None:
        self._used += 1
        self._fresh += 1
        served.counted = True
        lobby.admit(served)
