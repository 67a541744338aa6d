"""Settings that a caller gives to the calls it makes, by context."""

from __future__ import annotations

from contextvars import ContextVar, Token
from types import TracebackType
from typing import Final, Self

from wool.limits import DEFAULT_LIMITS

_dispatch_timeout: ContextVar[float | None] = ContextVar(
    "wool.dispatch_timeout", default=DEFAULT_LIMITS.dispatch_timeout_seconds
)


class RuntimeContext:
    """Apply settings to every routine call in a block, and to the calls nested in those.

    ``dispatch_timeout`` is in float seconds, from the call until some worker has accepted the task, or
    None for ever. It does not bound how long the body runs: that is `asyncio.timeout`'s work. Raises
    `ValueError` for a number that is not positive.

    >>> with RuntimeContext(dispatch_timeout=2.5):
    ...     pass
    """

    def __init__(self, *, dispatch_timeout: float | None = DEFAULT_LIMITS.dispatch_timeout_seconds) -> None:
        self.dispatch_timeout: Final = _seconds_or_none(dispatch_timeout)
        self._tokens: list[Token[float | None]] = []

    def __enter__(self) -> Self:
        self._tokens.append(_dispatch_timeout.set(self.dispatch_timeout))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        _dispatch_timeout.reset(self._tokens.pop())

    def __repr__(self) -> str:
        return f"RuntimeContext(dispatch_timeout={self.dispatch_timeout!r})"


def _seconds_or_none(value: object) -> float | None:
    if value is None:
        return None
    if isinstance(value, (int, float)) and not isinstance(value, bool) and value > 0:
        return float(value)
    raise ValueError(f"dispatch_timeout must be a positive number of seconds or None, got {value!r}")


def dispatch_timeout_seconds() -> float | None:
    """Return the dispatch timeout in force here: seconds, or None for ever."""
    return _dispatch_timeout.get()


def set_dispatch_timeout(seconds: float | None) -> None:
    """Take over a caller's setting for the calls nested in a body. For the worker's routine loop alone."""
    _dispatch_timeout.set(seconds)
