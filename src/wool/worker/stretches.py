"""The stretches in which a body holds its worker's event loop, told one by one.

Why it exists: what a task costs is the sum of them, and nothing but the body's own coroutine knows when they begin and
end. It must never change what the body sees: values and exceptions go through as they are.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, cast

from wool.events import STARTED, STOPPED


def in_stretches(body: Any, tell: Callable[[int], None]) -> Awaitable[Any]:
    """Return ``body``, a coroutine or a step of an async generator, as what tells `STARTED` and `STOPPED` in pairs.

    A stretch begins each time that the body is entered, and ends when it waits for something, or has ended.
    """
    return cast("Awaitable[Any]", Stretches(body, tell))


class Stretches:
    """Drives what is awaited by hand, as ``yield from`` would."""

    __slots__ = ("_close", "_send", "_tell", "_throw", "cr_await")

    def __init__(self, body: Any, tell: Callable[[int], None]) -> None:
        self.cr_await: Any = body
        """For whoever looks where a task is suspended."""
        self._close = body.close
        self._send = body.send
        self._throw = body.throw
        self._tell = tell

    def __await__(self) -> Stretches:
        return self

    def __iter__(self) -> Stretches:
        return self

    def __next__(self) -> Any:
        return self.send(None)

    def send(self, value: Any) -> Any:
        """Go on."""
        self._tell(STARTED)
        try:
            return self._send(value)
        finally:
            self._tell(STOPPED)

    def close(self) -> None:
        """Close what is driven, as ``yield from`` does: what that raises is raised here, and not lost at its end."""
        self._close()

    def throw(self, *error: Any) -> Any:
        """Go on with an exception."""
        self._tell(STARTED)
        try:
            return self._throw(*error)
        finally:
            self._tell(STOPPED)
