"""The processes of a campaign: started, heard, stopped.

Each is a fresh interpreter, so that nothing of this one reaches into a run. It must never decide what a
failure is: `wool.sim.campaign` does.
"""

from __future__ import annotations

import contextlib
import functools
import multiprocessing
import time
import traceback
from collections.abc import Iterable
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import NamedTuple, TypeAlias

from wool.sim.campaign import Found, Mode, Tally, work
from wool.sim.progress import Progress

SILENT_SECONDS = 120.0
"""A process that says nothing for so long hangs."""
LOOK_SECONDS = 0.5
END_SECONDS = 5.0
"""For a process to end when it has said its last."""


class _Message(NamedTuple):
    """What a process of the campaign says: what it did; and, at its end, what it found or how it failed."""

    tally: Tally | None
    over: bool = False
    found: Found | None = None
    error: str = ""


def search(
    jobs: int, seed: int, plans: int | None, seconds: float | None, progress: Progress, total: Tally
) -> tuple[Found | None, str]:
    """Let ``jobs`` processes search, half of them with Hypothesis; return the first failure, or why they failed."""
    # A fresh interpreter each: nothing of this one reaches into a run. Pipes, since they leave nothing behind.
    context = multiprocessing.get_context("spawn")
    open_ones: dict[Connection, BaseProcess] = {}
    for job, shares in enumerate(_shares(jobs, plans)):
        ours, theirs = context.Pipe()
        arguments = (shares, (seed << 8) + job, seconds, theirs)
        process = context.Process(target=_job, args=arguments, name=f"wool sim {job}", daemon=True)
        process.start()
        theirs.close()
        open_ones[ours] = process
    processes = list(open_ones.values())
    found, error = _listen(open_ones, progress, total)
    _end(processes, patient=not error)
    return found, error


def _listen(open_ones: dict[Connection, BaseProcess], progress: Progress, total: Tally) -> tuple[Found | None, str]:
    """Hear the processes until each has said its last."""
    found: Found | None = None
    error = ""
    heard = time.monotonic()
    while open_ones:
        try:
            ready = wait(list(open_ones), timeout=LOOK_SECONDS)
        except KeyboardInterrupt:
            # The processes have heard it too; what was done so far is told.
            _stop(open_ones)
            continue
        if not ready and time.monotonic() - heard > SILENT_SECONDS:
            error = error or f"nothing was heard for {SILENT_SECONDS:.0f} s: a plan hangs the interpreter"
            break
        for pipe in ready:
            heard = time.monotonic()
            assert isinstance(pipe, Connection)
            message = _next(pipe)
            if message is None:
                process = open_ones.pop(pipe)
                process.join(END_SECONDS)
                message = _Message(None, over=True, error=f"{process.name} ended by itself ({process.exitcode})")
            if message.tally is not None:
                total.add(message.tally)
                progress.show(total)
            if message.over:
                open_ones.pop(pipe, None)
                pipe.close()
                error = error or message.error
                found = found or message.found
                if message.found is not None or message.error:
                    _stop(open_ones)
    for pipe in open_ones:
        pipe.close()
    return found, error


def _next(pipe: Connection) -> _Message | None:
    try:
        message: _Message = pipe.recv()
    except (EOFError, OSError):
        return None
    return message


def _stop(pipes: Iterable[Connection]) -> None:
    for pipe in pipes:
        with contextlib.suppress(OSError):
            pipe.send("stop")


def _end(processes: list[BaseProcess], *, patient: bool) -> None:
    """Wait for processes that have said that they are through; kill what does not end."""
    for process in processes:
        if patient:
            process.join(END_SECONDS)
        if process.is_alive():
            process.kill()
        process.join()
        process.close()


_Share: TypeAlias = "tuple[Mode, int | None]"


def _shares(jobs: int, plans: int | None) -> list[list[_Share]]:
    """Divide the plans: half for Hypothesis, half for the volume mode; one process does one after the other."""
    modes: list[Mode] = ["hypothesis", "volume"]
    parts = max(jobs, 2)
    each: list[_Share] = [
        (modes[part % 2], None if plans is None else plans // parts + (part < plans % parts)) for part in range(parts)
    ]
    return [each] if jobs == 1 else [[share] for share in each]


def _job(shares: list[_Share], seed: int, seconds: float | None, pipe: Connection) -> None:
    """Be one process of a campaign."""
    begun = time.monotonic()

    def tell(tally: Tally) -> None:
        pipe.send(_Message(tally))

    found: Found | None = None
    try:
        for number, (mode, plans) in enumerate(shares, 1):
            until = float("inf") if seconds is None else begun + seconds * number / len(shares)
            found = work(mode, seed, plans, tell, functools.partial(_over, until, pipe))
            if found is not None:
                break
    except KeyboardInterrupt:
        pipe.send(_Message(None, over=True))
    except BaseException as error:
        pipe.send(_Message(None, over=True, error="".join(traceback.format_exception(error))))
    else:
        pipe.send(_Message(None, over=True, found=found))


def _over(until: float, pipe: Connection) -> bool:
    return time.monotonic() > until or pipe.poll()
