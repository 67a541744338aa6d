"""The processes of a campaign: started, heard, stopped.

Each is a fresh interpreter, so that nothing of this one reaches into a run. It must never decide what a
failure is: `wool.sim.campaign` does.
"""

from __future__ import annotations

import functools
import multiprocessing
import queue
import sys
import time
import traceback
from multiprocessing.process import BaseProcess
from typing import Any, NamedTuple, TypeAlias

from wool.sim.campaign import Found, Mode, Tally, work
from wool.sim.progress import Progress

SILENT_SECONDS = 120.0
"""A process that says nothing for so long hangs."""
DEAD_SECONDS = 2.0
"""What a process that has ended has said may still be on its way for so long."""
END_SECONDS = 5.0
"""For a process to end when it has said its last."""


class _Message(NamedTuple):
    """What a process of the campaign says: what it did; and, at its end, what it found or how it failed."""

    job: int
    tally: Tally | None
    over: bool = False
    found: Found | None = None
    error: str = ""


def search(
    jobs: int, seed: int, plans: int | None, seconds: float | None, progress: Progress, total: Tally
) -> tuple[Found | None, str]:
    """Let ``jobs`` processes search, half of them with Hypothesis; return the first failure, or why they failed."""
    # A fresh interpreter each: nothing of this one reaches into a run.
    context = multiprocessing.get_context("spawn")
    messages: Any = context.Queue()
    stop: Any = context.Event()
    running: dict[int, BaseProcess] = {}
    for job, shares in enumerate(_shares(jobs, plans)):
        arguments = (job, shares, (seed << 8) + job, seconds, messages, stop)
        process = context.Process(target=_job, args=arguments, name=f"wool sim {job}", daemon=True)
        process.start()
        running[job] = process
    started = list(running.values())
    found: Found | None = None
    error = ""
    heard = time.monotonic()
    while running:
        try:
            message: _Message = messages.get(timeout=0.2)
        except KeyboardInterrupt:
            # The processes have heard it too; what was done so far is told.
            stop.set()
            continue
        except queue.Empty:
            dead = [job for job, process in running.items() if not process.is_alive()]
            if dead and time.monotonic() - heard > DEAD_SECONDS:
                error = error or f"process {dead[0]} ended by itself (status {running[dead[0]].exitcode})"
                stop.set()
                for job in dead:
                    del running[job]
            elif time.monotonic() - heard > SILENT_SECONDS:
                error = error or f"nothing was heard for {SILENT_SECONDS:.0f} s: a plan hangs the interpreter"
                break
            continue
        heard = time.monotonic()
        if message.tally is not None:
            total.add(message.tally)
            progress.show(total)
        if message.over:
            running.pop(message.job, None)
            error = error or message.error
            if message.found is not None and found is None:
                found = message.found
                progress.clear()
            if message.found is not None or message.error:
                stop.set()
    _end(started, patient=not error)
    messages.close()
    messages.join_thread()
    return found, error


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


def _job(job: int, shares: list[_Share], seed: int, seconds: float | None, messages: Any, stop: Any) -> None:
    """Be one process of a campaign."""
    begun = time.monotonic()
    # A generator that ignores its close is collected, and Python says so to the terminal.
    sys.unraisablehook = _unraisable

    def tell(tally: Tally) -> None:
        messages.put(_Message(job, tally))

    found: Found | None = None
    try:
        for number, (mode, plans) in enumerate(shares, 1):
            until = float("inf") if seconds is None else begun + seconds * number / len(shares)
            found = work(mode, seed, plans, tell, functools.partial(_over, until, stop))
            if found is not None:
                break
    except KeyboardInterrupt:
        messages.put(_Message(job, None, over=True))
    except BaseException as error:
        messages.put(_Message(job, None, over=True, error="".join(traceback.format_exception(error))))
    else:
        messages.put(_Message(job, None, over=True, found=found))


def _over(until: float, stop: Any) -> bool:
    return time.monotonic() > until or bool(stop.is_set())


def _unraisable(unraisable: Any) -> None:
    if not isinstance(unraisable.exc_value, RuntimeError):
        sys.__unraisablehook__(unraisable)
