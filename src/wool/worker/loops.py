"""The loops that bodies may run on: asyncio's own, or uvloop's, which is the extra ``wool[uvloop]``.

Why it exists: what a body sees as its running loop is for the application to choose, and a fork must not run either of
them (`wool.worker.forks`). The I/O loop is asyncio's always.
"""

from __future__ import annotations

import asyncio
import importlib.util
from typing import Any, Literal, TypeAlias, cast, get_args

from wool.worker.forks import ForkSafeLoop, RoutineLoop, leave_when_back

LoopKind: TypeAlias = Literal["asyncio", "uvloop"]


def check_loop(kind: object) -> LoopKind:
    """Return ``kind`` if workers started here can run on it. Raises `ValueError`."""
    kinds = get_args(LoopKind)
    if kind not in kinds:
        raise ValueError(f"loop must be {' or '.join(map(repr, kinds))}, got {kind!r:.100}")
    if kind == "uvloop" and importlib.util.find_spec("uvloop") is None:
        raise ValueError("loop 'uvloop' needs uvloop, which is not installed: pip install 'wool[uvloop]'")
    return cast(LoopKind, kind)


def routine_loop(kind: LoopKind) -> tuple[asyncio.AbstractEventLoop, ForkSafeLoop]:
    """Return a new loop of that kind, and the same as `wool.worker.forks` knows it.

    Raises `ModuleNotFoundError` without uvloop.
    """
    if kind == "asyncio":
        plain = RoutineLoop()
        return plain, plain
    # Late: most workers have no use for it, and it is an extra.
    import uvloop

    class UvloopRoutineLoop(uvloop.Loop):
        """uvloop's, which keeps what is ready to itself: its end is seen from the frames that it has called."""

        def run_until_complete(self, future: Any) -> Any:
            return super().run_until_complete(future)

        def end_in_fork(self) -> None:
            leave_when_back(UvloopRoutineLoop.run_until_complete.__code__)

    made = UvloopRoutineLoop()
    return made, made
