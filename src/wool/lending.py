"""A body lends its place out while it awaits a nested call.

Why it exists: where a worker bounds how many bodies run at once, a tree of routines must not wait for itself. What a
body calls is made anywhere in its context: in tasks that it gathers, in threads that it starts. So who lends is found
there.

It must never cost anything where nothing is bounded: there is no lender then, and a call is a plain `Call`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from contextvars import ContextVar
from typing import Any, Protocol

from wool.call import Answer, Call
from wool.protocol.frames import StepKind
from wool.serialization import Payload


class Lender(Protocol):
    """A body's place. Each may be asked on whatever loop the nested call is made."""

    def lend(self) -> None:
        """A nested call begins."""
        ...

    async def back(self) -> None:
        """It has ended: have a place again. Cancelled, it has one when that is raised."""
        ...

    def forget(self) -> None:
        """It was closed, and nobody waits for it to go on."""
        ...


_lender: ContextVar[Lender | None] = ContextVar("wool.lender", default=None)


def current_lender() -> Lender | None:
    """Return who lends in this context, which is a body's."""
    return _lender.get()


def set_lender(lender: Lender) -> None:
    """Say who lends in this context."""
    _lender.set(lender)


class LentCall(Call):
    """A call that a body makes, on a worker that bounds how many are at work."""

    __slots__ = ("lender",)

    lender: Lender

    def first(self) -> Coroutine[Any, Any, Answer]:
        """See `Call.first`."""
        return self._lent(super().first)

    def _ask(self, kind: StepKind, payload: Payload | None, cancelled: bool) -> Coroutine[Any, Any, Answer]:
        ask = super()._ask
        return self._lent(lambda: ask(kind, payload, cancelled))

    async def _lent(self, ask: Callable[[], Coroutine[Any, Any, Answer]]) -> Answer:
        lender = self.lender
        lender.lend()
        try:
            answer = await ask()
        except GeneratorExit:
            lender.forget()
            raise
        except BaseException:
            await lender.back()
            raise
        try:
            await lender.back()
        except asyncio.CancelledError:
            # The answer was here, and the body does not see it: as if the cancellation had come just before.
            self.unseen: Answer | None = answer
            raise
        return answer
