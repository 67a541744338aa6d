"""A worker does not outlive its owner.

Not even an owner that was killed with SIGKILL and so could say nothing, and not even while a routine holds
the GIL and so no Python code of the worker can run. The owner holds the only write end of a pipe, on which it
never writes; the kernel closes it when the owner is gone, however it went.

On Linux the kernel also does the rest: it is asked to send SIGKILL to this process as soon as anything
happens on the read end. (The parent-death signal would not do: it follows the *thread* that started the
worker.) Elsewhere a thread waits for the end of the pipe, and has to wait for the GIL, too.

This module owns the read end, in the worker. It must never import more than it needs, since until it has
armed the pipe the promise does not hold.
"""

from __future__ import annotations

import os
import select
import signal
import sys


def arm(descriptor: int) -> None:
    """Tie the life of this process to the other end of the pipe ``descriptor``, from now on.

    Does not return if the other end is closed already. Takes ownership: the descriptor stays open for the
    life of the process, and is not inherited by programs that it executes.
    """
    os.set_inheritable(descriptor, False)
    if not _ask_kernel(descriptor):
        _watch(descriptor)
    # An owner that died before the lines above caused no signal, since nobody had asked for one yet.
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    if poll.poll(0):
        _die()


def _ask_kernel(descriptor: int) -> bool:
    """Have the kernel send SIGKILL when the pipe ends. False where it cannot."""
    if sys.platform != "linux":
        return False
    import fcntl

    try:
        fcntl.fcntl(descriptor, fcntl.F_SETSIG, signal.SIGKILL)
        fcntl.fcntl(descriptor, fcntl.F_SETOWN, os.getpid())
        fcntl.fcntl(descriptor, fcntl.F_SETFL, fcntl.fcntl(descriptor, fcntl.F_GETFL) | os.O_ASYNC)
    except OSError:
        return False  # a sandbox that does not know it; the thread is the next best
    return True


def _watch(descriptor: int) -> None:
    """Have a thread wait for the end of the pipe."""
    import threading

    def wait() -> None:
        os.read(descriptor, 1)
        _die()

    threading.Thread(target=wait, name="wool-lifeline", daemon=True).start()


def _die() -> None:
    """End this process as the kernel would."""
    os.kill(os.getpid(), signal.SIGKILL)
