"""What a simulated program may not touch: threads, sockets, processes, the clock.

Why it exists: one real thread, and a run is no function of its plan any more, without anybody noticing. So
the attempt is an error with a name, and the run fails even if the program swallows it.

It owns an audit hook, which cannot be removed and lets everything pass while no run is under way in this
thread, and stand-ins for what has no audit event, which are there during a run only.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable
from typing import Any


class SimulationError(Exception):
    """The simulation cannot go on; the plan is kept, and shows it again."""


class EscapedSimulation(SimulationError):
    """Simulated code reached for something real: a thread, a socket, a process, the clock."""


_FORBIDDEN = {
    "os.exec": "replace the process",
    "os.fork": "fork",
    "os.forkpty": "fork",
    "os.posix_spawn": "start a process",
    "os.system": "start a process",
    "socket.__new__": "make a socket",
    "subprocess.Popen": "start a process",
}
"""Audit events of what a simulated program must not do, in words."""

_REPLACED: tuple[tuple[object, str, str], ...] = (
    (threading.Thread, "start", "start a thread"),
    (time, "sleep", "sleep in real time"),
)
"""What has no audit event in every Python that wool runs on: it is replaced during a run."""


class Fence:
    """Raises for what leaves the simulation, while one runs in this thread."""

    def __init__(self) -> None:
        self._installed = False
        self._thread = 0
        self._depth = 0
        self.escaped: str | None = None
        self._real: list[Callable[..., object]] = []

    def enter(self) -> None:
        if not self._installed:
            # For good: an audit hook cannot be removed. Outside of a run it lets everything pass.
            self._installed = True
            sys.addaudithook(_hook(self))
        self._thread = threading.get_ident()
        self.escaped = None
        if not self._depth:
            self._real = [getattr(owner, name) for owner, name, _ in _REPLACED]
            for (owner, name, words), real in zip(_REPLACED, self._real, strict=True):
                setattr(owner, name, self._refusal(real, f"{words} ({name})"))
        self._depth += 1

    def leave(self) -> None:
        self._depth -= 1
        if not self._depth:
            for (owner, name, _), real in zip(_REPLACED, self._real, strict=True):
                setattr(owner, name, real)
            self._real.clear()

    def _refusal(self, real: Callable[..., object], words: str) -> Callable[..., object]:
        def refuse(*args: Any, **kwargs: Any) -> object:
            # Another thread of the process, such as a test's watchdog, is free to do it.
            if threading.get_ident() != self._thread:
                return real(*args, **kwargs)
            raise self._escape(words)

        return refuse

    def _escape(self, words: str) -> EscapedSimulation:
        self.escaped = self.escaped or f"simulated code would {words}"
        return EscapedSimulation(f"simulated code would {words}")

    def forbid(self, event: str) -> None:
        """An audit event has come that a simulated program must not cause."""
        if self._depth and threading.get_ident() == self._thread:
            raise self._escape(f"{_FORBIDDEN[event]} ({event})")


def _hook(fence: Fence) -> Callable[[str, tuple[Any, ...]], None]:
    forbidden, forbid = frozenset(_FORBIDDEN), fence.forbid

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        # Hundreds of events a run, of `id` and of attributes of code and frames.
        if event in forbidden:
            forbid(event)

    # Looked for at every event. Where it is missing an error is made, and forgotten: that took longer than the hook.
    setattr(hook, "__cantrace__", False)  # noqa: B010 - no type checker knows it
    return hook


FENCE = Fence()
"""The one of this process: an audit hook is for good."""
