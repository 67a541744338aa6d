"""What a body forks is a process of the user's own, and no second worker.

A fork inherits all that makes this process a worker: its signal handlers and the descriptor that they write to,
its sockets, and, where it comes back from the body, the event loop with every other body in it. Left at that, a
SIGTERM for the fork drains the worker, a fork keeps a dead worker's address and sessions open, and what a body
forked and did not end runs the other bodies a second time.

This module owns what happens on both sides of a fork. It must never touch what the user has set up.
"""

from __future__ import annotations

import asyncio
import inspect
import os
import selectors
import signal
import socket
import stat
import sys
import threading
from collections import deque
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import CodeType, FrameType
from typing import Any, Never, NoReturn, Protocol

_forked = False
"""Whether this process was forked from a worker."""


class RoutineLoop(asyncio.SelectorEventLoop):
    """An event loop that a fork of this process cannot run."""

    def __init__(self) -> None:
        self._own_selector = selectors.DefaultSelector()
        super().__init__(self._own_selector)

    def end_in_fork(self) -> None:
        """Let this process end as soon as anything comes back to the loop.

        Nothing that waits here may run: it runs in the worker, which shares even the selector with this process.
        """
        vars(self)["_ready"] = _NothingToRun(self)
        vars(self._own_selector)["select"] = _come_back


class _NothingToRun(deque[Any]):
    def __init__(self, loop: RoutineLoop) -> None:
        super().__init__()
        self._loop = loop  # the loop takes what is ready from here, at the latest when the body has suspended

    def popleft(self) -> Never:
        _come_back()


def _come_back(timeout: float | None = None) -> NoReturn:
    leave(None)


def leave_when_back(entry: CodeType) -> None:
    """Let this process end as soon as what ``entry``, which runs the loop, has called returns to it, or suspends.

    For a loop that has no place in Python where that could be seen: a profiler sees it. It makes the rest of the fork
    slower, and takes the place of a profiler that was inherited.
    """
    frame = inspect.currentframe()
    assert frame is not None, "CPython has frames"
    while frame.f_back is not None and frame.f_back.f_code is not entry:
        frame = frame.f_back
    if frame.f_back is None:
        return  # Forked in another thread: the one that runs the loop is not there any more.
    first = frame

    def profile(frame: FrameType, event: str, argument: object) -> None:
        if event == "return" and frame is first:
            leave(None)

    sys.setprofile(profile)


def leave_if_forked(error: BaseException) -> None:
    """In a fork that a body has ended with ``error``, end the process, as Python does with such an error."""
    if _forked:
        leave(error)


def leave(error: BaseException | None) -> NoReturn:
    """End a fork that a body has ended with ``error``, or has come back from. Nobody is answered."""
    status = 1
    try:
        if isinstance(error, SystemExit):
            status = _status(error.code)
        elif error is not None:
            import traceback

            traceback.print_exception(error)
        else:
            sys.stderr.write(
                f"wool: process {os.getpid()} was forked in the body of a routine and came back from it, or awaited in "
                "it. It is no worker, and ends: leave a fork with os._exit, or start it with multiprocessing\n"
            )
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        os._exit(status)


def _status(code: object) -> int:
    if code is None:
        return 0
    if isinstance(code, int):
        return code & 0xFF
    sys.stderr.write(f"{code}\n")
    return 1


class ForkSafeLoop(Protocol):
    """What `Forks` asks of a loop."""

    def end_in_fork(self) -> None:
        """Let this process end as soon as anything comes back to the loop."""
        ...


class Forks:
    """Makes forks of this process the user's own, from `install` on."""

    def __init__(
        self,
        *,
        loop: ForkSafeLoop,
        address: str,
        descriptors: Iterable[int],
        handlers: Mapping[signal.Signals, tuple[object, Any]],
    ) -> None:
        """Name what a fork is to be free of.

        ``address`` is where the worker listens, ``descriptors`` are others of its own, and ``handlers`` has for
        each signal the worker's handler and what a fork gets in its place.
        """
        self._loop = loop
        self._address = address
        self._descriptors = tuple(descriptors)
        self._handlers = dict(handlers)
        self._masks = threading.local()

    def install(self) -> None:
        """Do so with every fork, for the life of the process."""
        os.register_at_fork(before=self._before, after_in_parent=self._in_parent, after_in_child=self._in_child)

    def _before(self) -> None:
        # A signal for the new process must find it ready: until then its handler is the worker's.
        self._masks.old = signal.pthread_sigmask(signal.SIG_BLOCK, self._handlers)

    def _in_parent(self) -> None:
        signal.pthread_sigmask(signal.SIG_SETMASK, self._masks.old)

    def _in_child(self) -> None:
        global _forked
        try:
            if not _forked:  # what a fork's own forks inherit is the user's
                _forked = True
                self._loop.end_in_fork()
                self._reset_signals()
                self._let_go()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, self._masks.old)

    def _reset_signals(self) -> None:
        signal.set_wakeup_fd(-1)
        for number, (ours, plain) in self._handlers.items():
            if signal.getsignal(number) is ours:
                signal.signal(number, plain)

    def _let_go(self) -> None:
        """Let go of the worker's sockets: as long as anybody has them open, its peers do not see it die.

        Their numbers stay taken, since what is left of their owners here may close them.
        """
        nothing = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
        for descriptor in {*self._descriptors, *_sockets_at(self._address)}:
            os.dup2(nothing, descriptor, inheritable=False)
        os.close(nothing)


def _sockets_at(address: str) -> list[int]:
    """Return the descriptors of the socket that listens at ``address``, and of those that it has accepted."""
    listing = Path("/proc/self/fd")
    found: list[int] = []
    for name in os.listdir(listing if listing.exists() else "/dev/fd"):
        try:
            if stat.S_ISSOCK(os.fstat(int(name)).st_mode) and _own_name(int(name)) == address:
                found.append(int(name))
        except OSError:
            continue  # the one that the listing itself had open
    return found


def _own_name(descriptor: int) -> str | None:
    borrowed = socket.socket(fileno=descriptor)
    try:
        name: Any = borrowed.getsockname()
    finally:
        borrowed.detach()
    if borrowed.family == socket.AF_UNIX:
        return f"unix:{name}" if isinstance(name, str) else None
    if borrowed.family in (socket.AF_INET, socket.AF_INET6):
        host = name[0].removeprefix("::ffff:")  # gRPC serves IPv4 with sockets of IPv6 that are told so
        return f"[{host}]:{name[1]}" if ":" in host else f"{host}:{name[1]}"
    return None
