"""Settings that a caller gives to the calls it makes, by context."""

from __future__ import annotations

from contextvars import ContextVar, Token
from functools import partial
from types import EllipsisType, TracebackType
from typing import Any, Final, Self

from wool.credentials import CredentialsArgument, as_provider
from wool.limits import DEFAULT_LIMITS

_dispatch_timeout: ContextVar[float | None] = ContextVar(
    "wool.dispatch_timeout", default=DEFAULT_LIMITS.dispatch_timeout_seconds
)

_credentials: ContextVar[CredentialsArgument | None] = ContextVar("wool.credentials", default=None)


class RuntimeContext:
    """Apply settings to what happens in a block: to every routine call, and to the calls nested in those.

    ``dispatch_timeout`` is in float seconds, from the call until some worker has accepted the task, or
    None for ever. It does not bound how long the body runs: that is `asyncio.timeout`'s work.

    ``credentials`` are what a pool with a discovery, a `WorkerProxy` or a `LocalWorker` uses that is made in the block
    and has none of its own; None for none. They stay in this process: a body uses those of its worker.

    What is left out stays as it is around the block. Raises `ValueError` for a number that is not positive, and
    `TypeError` for credentials that are none.

    >>> with RuntimeContext(dispatch_timeout=2.5):
    ...     pass
    """

    def __init__(
        self,
        *,
        dispatch_timeout: float | EllipsisType | None = ...,
        credentials: CredentialsArgument | EllipsisType | None = ...,
    ) -> None:
        self._dispatch_timeout: Final = (
            ... if dispatch_timeout is ... else seconds_or_none("dispatch_timeout", dispatch_timeout)
        )
        self._credentials: Final = credentials
        if credentials is not ...:
            as_provider(credentials)
        self._tokens: list[tuple[Token[float | None] | None, Token[CredentialsArgument | None] | None]] = []

    @property
    def dispatch_timeout(self) -> float | None:
        """What is in force in the block: seconds, or None for ever."""
        return dispatch_timeout_seconds() if self._dispatch_timeout is ... else self._dispatch_timeout

    def __enter__(self) -> Self:
        timeout, credentials = self._dispatch_timeout, self._credentials
        self._tokens.append(
            (
                None if timeout is ... else _dispatch_timeout.set(timeout),
                None if credentials is ... else _credentials.set(credentials),
            )
        )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        timeout, credentials = self._tokens.pop()
        if timeout is not None:
            _dispatch_timeout.reset(timeout)
        if credentials is not None:
            _credentials.reset(credentials)

    def _given(self) -> dict[str, Any]:
        given = {"dispatch_timeout": self._dispatch_timeout, "credentials": self._credentials}
        return {name: value for name, value in given.items() if value is not ...}

    def __repr__(self) -> str:
        return f"RuntimeContext({', '.join(f'{name}={value!r}' for name, value in self._given().items())})"

    def __reduce__(self) -> tuple[object, ...]:
        given = self._given()
        if given.get("credentials") is not None:
            raise TypeError(
                "a RuntimeContext with credentials does not travel: no key leaves its process; a body uses the "
                "credentials of its worker"
            )
        return partial(RuntimeContext, **given), ()


def seconds_or_none(name: str, value: object) -> float | None:
    """Return ``value`` if it can be a time-out, in seconds or None for ever, else raise `ValueError` that names it."""
    if value is None:
        return None
    if isinstance(value, (int, float)) and not isinstance(value, bool) and value > 0:
        return float(value)
    raise ValueError(f"{name} must be a positive number of seconds or None, got {value!r}")


def dispatch_timeout_seconds() -> float | None:
    """Return the dispatch timeout in force here: seconds, or None for ever."""
    return _dispatch_timeout.get()


def credentials_in_force() -> CredentialsArgument | None:
    """Return what is used here by who has no credentials of its own."""
    return _credentials.get()


def set_dispatch_timeout(seconds: float | None) -> None:
    """Take over a caller's setting for the calls nested in a body. For the worker's routine loop alone."""
    _dispatch_timeout.set(seconds)
