"""Coroutines and generators that are suspended: where one waits, and how it is ended though it is never run again.

Owns the reading of their frames, and the order in which one that will not end is asked to. It must never run anything
of theirs but their ends, unheard.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Coroutine
from types import CodeType, FrameType
from typing import Any

_CLOSE_ATTEMPTS = 16
"""Of a coroutine whose ``finally`` waits: each attempt ends one wait."""


def end_coroutine(work: Coroutine[Any, Any, Any]) -> None:
    """Close it, wherever it waits."""
    for _ in range(_CLOSE_ATTEMPTS):
        try:
            work.close()
        except RuntimeError:
            continue
        except BaseException:  # Whatever a body makes of its end: nobody hears it.
            return
        return


def end_generator(generator: AsyncGenerator[Any, Any]) -> None:
    """Close it, wherever it waits."""
    for _ in range(_CLOSE_ATTEMPTS):
        closing = generator.aclose()
        try:
            closing.send(None)
        except (StopIteration, StopAsyncIteration):
            return
        except RuntimeError:
            continue
        except BaseException:  # As above.
            return


def where(task: asyncio.Task[Any]) -> str:
    """Return the innermost place at which ``task`` is suspended, and what it waits for there."""
    inner: Any = task.get_coro()
    place = "not begun"
    while inner is not None:
        frame: FrameType | None = getattr(inner, "cr_frame", None) or getattr(inner, "ag_frame", None)
        if frame is not None:
            code: CodeType = frame.f_code
            place = f"{code.co_filename.rpartition('/')[2]}:{frame.f_lineno} in {code.co_qualname}"
        inner = getattr(inner, "cr_await", None) or getattr(inner, "ag_await", None)
    return place
