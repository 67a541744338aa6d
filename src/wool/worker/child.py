"""Creating a worker process, with the descriptors that join it to its owner.

It owns the command line, the environment and the descriptors until they are closed. It must never have a
second holder of a lifeline's write end, nor leave a descriptor open when the process cannot be created.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import socket
import subprocess
import sys
import threading
from typing import ClassVar


class WorkerStartError(RuntimeError):
    """A worker process did not become ready. It is gone, and nothing of it is left.

    The message says how it ended, and ends with why, or else with what it printed last.
    """


def _command(module: str) -> list[str]:
    if not sys.executable:
        raise WorkerStartError("sys.executable is empty: this interpreter cannot be started a second time")
    # Not public, but what `multiprocessing` starts its processes with.
    flags: list[str] = subprocess._args_from_interpreter_flags()  # type: ignore[attr-defined]
    if not sys.flags.ignore_environment:
        return [sys.executable, "-P", *flags, "-m", module]
    # With -E or -I the variable PYTHONPATH has no effect, so the path goes into the program.
    program = (
        f"import sys; sys.path[:] = {[entry for entry in sys.path if type(entry) is str]!r}; "
        f"import runpy; runpy.run_module({module!r}, run_name='__main__', alter_sys=True)"
    )
    return [sys.executable, "-P", *flags, "-c", program]


def _environment(*, grpc_speaks: bool) -> dict[str, str]:
    entries: list[str] = []
    for entry in sys.path:
        if type(entry) is not str or os.pathsep in entry:
            continue  # cannot be said in PYTHONPATH; `Configure` can
        try:
            entries.append(os.path.abspath(entry))
        except FileNotFoundError:
            continue  # relative to a working directory that was removed: imports nothing here either
    return {
        # As gRPC has it by itself; else it is silent, as `wool.transport.grpc_environment` says.
        **({"GRPC_VERBOSITY": ""} if grpc_speaks else {}),
        **os.environ,
        "PYTHONPATH": os.pathsep.join(entries),
        # The worker never forks without executing a program, and the handlers cost gRPC time at each start.
        "GRPC_ENABLE_FORK_SUPPORT": "0",
    }


class Lifeline:
    """The write end of the pipe that keeps one worker alive.

    It is closed on exec, and here also in every child that this process forks: such a child, say of
    `multiprocessing`, may live on when this process is gone, and the workers must not.
    """

    _lock: ClassVar = threading.RLock()  # re-entrant, since a signal handler may fork
    _open: ClassVar[set[int]] = set()

    def __init__(self) -> None:
        """Open the pipe; ``reader`` is the caller's, who gives it to the worker."""
        with self._lock:
            reader, writer = os.pipe()
            self.reader: int = reader
            self._writer: int = writer
            self._open.add(self._writer)

    def close(self) -> None:
        """Let the worker die, if it still lives. May be called again."""
        with self._lock:
            if self._writer in self._open:
                self._open.remove(self._writer)
                os.close(self._writer)
                self._writer = -1

    @classmethod
    def close_in_forked_child(cls) -> None:
        try:
            while cls._open:
                os.close(cls._open.pop())
        finally:
            cls._lock.release()

    @classmethod
    def install(cls) -> None:
        os.register_at_fork(
            before=cls._lock.acquire, after_in_parent=cls._lock.release, after_in_child=cls.close_in_forked_child
        )


Lifeline.install()


class Child:
    """A process that was just created, and the owner's ends of what joins it. Raises `OSError`.

    With ``grpc_speaks`` its gRPC writes to the standard error what it will.
    """

    def __init__(self, module: str, *, grpc_speaks: bool) -> None:
        with contextlib.ExitStack() as ours, contextlib.ExitStack() as theirs:
            self.lifeline: Lifeline = Lifeline()
            ours.callback(self.lifeline.close)
            theirs.callback(os.close, self.lifeline.reader)
            control, remote = socket.socketpair()
            self.control: socket.socket = control
            ours.enter_context(self.control)
            theirs.enter_context(remote)
            output, writer = os.pipe()
            self.output: int = output
            ours.callback(os.close, self.output)
            theirs.callback(os.close, writer)
            self.control.setblocking(False)
            os.set_blocking(self.output, False)
            given: list[int] = []
            for descriptor in (remote.fileno(), self.lifeline.reader):
                # In an owner whose standard streams are closed these might be 0, 1 or 2, which the output takes.
                given.append(fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, 3))
                theirs.callback(os.close, given[-1])
            # No preexec_fn: it would cost the cheap vfork. In a session of its own, so that a Ctrl-C in the
            # terminal reaches the owner alone.
            self.process: subprocess.Popen[bytes] = subprocess.Popen(
                [*_command(module), "--control", str(given[0]), "--lifeline", str(given[1])],
                stdin=subprocess.DEVNULL,
                stdout=writer,
                stderr=writer,
                env=_environment(grpc_speaks=grpc_speaks),
                pass_fds=given,
                start_new_session=True,
            )
            self.announcer = _open_announcer(self.process.pid)
            ours.pop_all()

    def close_descriptors(self) -> None:
        """Close all that the owner holds, the lifeline too. May be called again."""
        self.lifeline.close()
        self.control.close()
        if self.output >= 0:
            os.close(self.output)
            self.output = -1
        if self.announcer is not None:
            os.close(self.announcer)
            self.announcer = None


def _open_announcer(pid: int) -> int | None:
    """Return a descriptor that becomes readable when ``pid`` ends, or `None` where there is no such thing."""
    if sys.platform != "linux":
        return None
    try:
        return os.pidfd_open(pid)
    except OSError:
        return None  # an old kernel, a sandbox, no descriptors left: polling does it too


def exit_in_words(code: int) -> str:
    """Return how a process ended whose exit code, as `subprocess` has it, is ``code``."""
    if code >= 0:
        return f"exit status {code}"
    try:
        return f"killed by {signal.Signals(-code).name}"
    except ValueError:
        return f"killed by signal {-code}"
