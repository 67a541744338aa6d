"""The life of a worker process, from its first line to its exit status.

It becomes mortal (`lifeline`), hears from its owner what it is to be (`channel`), makes its import path and its
arguments those of the owner, and hands over to `wool.worker.serve`. Until then it imports little, both to be quick
and since what is imported before the path is restored might be something else than what the owner has.

It must never let a failure before `Ready` go unsaid: the owner waits.
"""

from __future__ import annotations

import io
import os
import signal
import sys
from collections.abc import Callable, Sequence
from typing import TypeAlias

from wool.worker import lifeline
from wool.worker.channel import ChannelError, ChildChannel, Configure, Failed
from wool.worker.signals import ignore_interrupt
from wool.worker.spec import Unfit

Serve: TypeAlias = Callable[[Configure, ChildChannel], int]
"""Runs the worker until it has stopped, and returns the exit status. Says `Ready` when it listens."""


def main(arguments: Sequence[str], serve: Serve | None = None) -> int:
    """Run a worker process and return its exit status: 1 if it failed, 2 if ``arguments`` are wrong.

    ``arguments`` are ``--control FD --lifeline FD``, descriptors that are inherited from the owner. ``serve``
    is `wool.worker.serve.serve` unless given.
    """
    try:
        control, line = _parse(arguments)
    except ValueError as error:
        sys.stderr.write(f"wool.worker is started by its owner only: {error}\n")
        return 2
    lifeline.arm(line)
    _reset_signals()
    _reset_streams()
    channel = ChildChannel(control)
    try:
        return _run(channel, serve)
    except BaseException as error:
        _report(error, channel)
        return 1
    finally:
        channel.close()


def _run(channel: ChildChannel, serve: Serve | None) -> int:
    configure = channel.receive()
    if not isinstance(configure, Configure):
        raise ChannelError("the first control message is not 'configure'")
    _restore(configure)
    return (serve or _import_serve())(configure, channel)


def _import_serve() -> Serve:
    from wool.worker.serve import serve

    return serve


def _parse(arguments: Sequence[str]) -> tuple[int, int]:
    match arguments:
        case ["--control", control, "--lifeline", line] if control.isdecimal() and line.isdecimal():
            return int(control), int(line)
        case _:
            raise ValueError("expected --control FD --lifeline FD")


def _reset_signals() -> None:
    # What the owner's thread had blocked, this process inherited.
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    signal.signal(signal.SIGINT, ignore_interrupt)


def _reset_streams() -> None:
    # A pipe is buffered in blocks, by default: a line would show up late, and never after a SIGKILL. The
    # owner expects UTF-8, whatever the locale.
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(encoding="utf-8", errors="backslashreplace", line_buffering=True)


def _restore(configure: Configure) -> None:
    # PYTHONPATH was only there to find this package; programs that routines execute get the owner's.
    sys.path[:] = configure.sys_path
    sys.argv[:] = configure.argv
    if configure.python_path is None:
        os.environ.pop("PYTHONPATH", None)
    else:
        os.environ["PYTHONPATH"] = configure.python_path


def _report(error: BaseException, channel: ChildChannel) -> None:
    import traceback

    if isinstance(error, Unfit) and not channel.has_started:
        text = f"{error}\n"  # for the owner, who says it once
    else:
        text = "".join(traceback.format_exception(error))
        sys.stderr.write(text)
    if channel.has_started:
        return
    from wool.limits import DEFAULT_LIMITS

    try:
        # Cut at the front: the last line of a traceback says most.
        channel.send(Failed(text=text[-DEFAULT_LIMITS.text_characters :]))
    except OSError as gone:
        sys.stderr.write(f"nobody to tell: {gone}\n")
