"""How many bodies are at work at a time, and who is next.

Why it exists: a worker may be told that no more than so many bodies run at once (``max_concurrency``). A body that
awaits a nested call lends its place out, or trees of routines would wait for each other for ever; and wants one again
when the call has ended.

What it owns: who has a place and who waits for one, in one line. First come, first served, whoever it is: a body that
is to begin, a generator that is asked for its next item, one that comes back from a nested call. So each waits only for
those before it, and nobody for ever. It must never await, and knows nothing of bodies.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import Generic, TypeVar

_Who = TypeVar("_Who", bound=Hashable)


def check_max_concurrency(most: object) -> int | None:
    """Return ``most`` if it is a number of bodies, or None. Raises `TypeError` or `ValueError`."""
    if most is None:
        return None
    if not isinstance(most, int) or isinstance(most, bool):
        raise TypeError(f"max_concurrency must be a number of bodies, got {most!r:.100}")
    if most < 1:
        raise ValueError(f"max_concurrency must be at least 1, got {most}: leave it out for as many as are called")
    return most


class Places(Generic[_Who]):
    """``most`` places, and the line of those who wait for one."""

    __slots__ = ("_held", "_line", "most")

    def __init__(self, most: int) -> None:
        self.most: int = most
        self._held: dict[_Who, None] = {}
        self._line: dict[_Who, None] = {}

    @property
    def held(self) -> int:
        """Places that are taken."""
        return len(self._held)

    @property
    def waiting(self) -> int:
        """How many wait for one."""
        return len(self._line)

    def want(self, who: _Who) -> bool:
        """Ask for a place: True if ``who`` has it now, False if it waits in line."""
        assert who not in self._held and who not in self._line, "who has a place, or waits, does not ask again"
        if len(self._held) < self.most:
            # Nobody waits while a place is free: whoever leaves one hands it on.
            self._held[who] = None
            return True
        self._line[who] = None
        return False

    def leave(self, who: _Who) -> _Who | None:
        """Give a place back, or leave the line; return who has got the place, if somebody has."""
        if who in self._line:
            del self._line[who]
            return None
        del self._held[who]
        following = next(iter(self._line), None)
        if following is not None:
            del self._line[following]
            self._held[following] = None
        return following

    def validate(self) -> None:
        """Check what always holds."""
        assert len(self._held) <= self.most, f"{len(self._held)} places of {self.most} are taken"
        assert not self._line or len(self._held) == self.most, "somebody waits, and a place is free"
        assert self._held.keys().isdisjoint(self._line), "somebody waits who has a place"
