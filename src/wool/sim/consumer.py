"""What a caller does with a routine's generator, and what it makes of the end of a call.

The simulated callers and the oracle share this, as they share the bodies. It must never know wool's
machinery: it sees what a user sees.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from typing import Any, Protocol

from wool.errors import (
    DispatchTimeout,
    NoWorkersAvailable,
    RemoteError,
    SerializationError,
    TaskInterrupted,
    WoolError,
    WorkerLost,
)
from wool.sim.bodies import Ask
from wool.sim.history import Detail
from wool.sim.program import make_error, say_error, say_value

EVERYTHING: tuple[Ask, ...] = ()
"""The script of a consumer that takes all there is."""
_NEXT = Ask(op="next")


class Note(Protocol):
    """Writes an event of this call into the history."""

    def __call__(self, kind: str, detail: Detail = ()) -> None: ...


async def consume(
    make: Callable[[], AsyncGenerator[Any, Any]],
    script: Sequence[Ask],
    note: Note,
    sleep: Callable[[float], Awaitable[None]],
    look: Callable[[object], None] = lambda item: None,
) -> str:
    """Make the generator, do what ``script`` says, and return the outcome: generator-end, closed or dropped.

    ``look`` is shown each item. What the generator raises is raised. No reference to it is left when this returns.
    """
    generator = make()
    ordinal = 0
    asks = iter(script)
    while True:
        ask = next(asks, None) if script else _NEXT
        if ask is None or ask.op == "break":
            note("call.step", (("step", "break"), ("ordinal", ordinal)))
            return "dropped"
        if ask.op == "sleep":
            await sleep(ask.seconds)
            continue
        note("call.step", (("step", ask.op), ("ordinal", ordinal)))
        thrown = make_error(ask.text, ask.number) if ask.op == "throw" else None
        try:
            if ask.op == "next":
                item = await anext(generator)
            elif ask.op == "send":
                # CPython refuses a value for a generator that has not begun.
                item = await generator.asend(ask.number if ordinal else None)
            elif thrown is not None:
                item = await generator.athrow(thrown)
            else:
                await generator.aclose()
                return "closed"
        except StopAsyncIteration as stop:
            if stop is thrown:
                raise
            return "generator-end"
        finally:
            thrown = None
        look(item)
        note("call.item", (("value", say_value(item)), ("ordinal", ordinal)))
        del item
        ordinal += 1


def outcome_of(error: BaseException) -> tuple[str, str, str]:
    """Return the outcome, what it says of the execution, and the error as text."""
    for kind, outcome in _OUTCOMES:
        if isinstance(error, kind):
            executed = error.executed if isinstance(error, WoolError) else ""
            if kind is RemoteError:
                return outcome, executed, say_error(error.__cause__) if error.__cause__ is not None else ""
            return outcome, executed, type(error).__name__ if isinstance(error, WoolError) else say_error(error)
    return "raised", "yes", say_error(error)


_OUTCOMES: tuple[tuple[type[BaseException], str], ...] = (
    (DispatchTimeout, "timeout"),
    (NoWorkersAvailable, "no-workers"),
    (SerializationError, "serialization"),
    (RemoteError, "remote"),
    (TaskInterrupted, "interrupted"),
    (WorkerLost, "lost"),
    (asyncio.CancelledError, "cancelled"),
)
