"""Runs the same script on a plain async generator and on a routine, and writes down all that can be observed.

A script is a list of operations. A body that waits for ever (it parks) is cancelled there, and only there,
so that a script has one course on either side.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import sys
import weakref
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass
from typing import Any

import wool
from support import streams
from support.journal import CHANGE_SECONDS, Journal, Pen

PARKED = "park"
LINKS = 6
"""Of a chain of causes and contexts: so many are compared."""

Body = Callable[[Pen], AsyncGenerator[Any, Any]]


@dataclass(frozen=True, slots=True)
class Op:
    """One thing that a consumer does. If the body parks meanwhile: ``overlap`` is tried, then it is cancelled."""

    kind: str
    """next, send, throw, close, or drop: the last reference goes."""
    value: Any = None
    overlap: str | None = None
    message: str | None = None


def describe(error: BaseException | None, thrown: BaseException | None, links: int = LINKS) -> Any:
    """Say what can be said of an exception, and of its chain."""
    if error is None or not links:
        return None
    frames = []
    traceback = error.__traceback__
    while traceback is not None:
        code = traceback.tb_frame.f_code
        if code.co_filename.startswith(("<program", __file__.removesuffix("differential.py") + "streams.py")):
            frames.append((code.co_name, traceback.tb_lineno))
        traceback = traceback.tb_next
    return {
        "type": type(error).__name__,
        "args": repr(error.args),
        "notes": getattr(error, "__notes__", None),
        "extra": {name: value for name, value in vars(error).items() if name != "__notes__"},
        "frames": frames,
        "suppress": error.__suppress_context__,
        "cause": describe(error.__cause__, thrown, links - 1),
        "context": describe(error.__context__, thrown, links - 1),
    }


def outcome_of(error: BaseException, thrown: BaseException | None) -> tuple[Any, ...]:
    """Describe what an operation raised, as the contract has it."""
    cause = error.__cause__
    if isinstance(error, wool.RemoteError) and isinstance(cause, GeneratorExit):
        # The one difference that is meant: a GeneratorExit of the body's own is wrapped.
        return "raised", False, describe(cause, thrown)
    return "raised", error is thrown, describe(error, thrown)


def forget_frames(description: Any) -> None:
    if description is not None:
        del description["frames"]
        forget_frames(description["cause"])
        forget_frames(description["context"])


class Consumer:
    """Performs operations on one generator, and notes what comes of each."""

    def __init__(self, generator: AsyncGenerator[Any, Any], journal: Journal, expected: list[Any] | None) -> None:
        self._generator: Any = generator
        self._journal = journal
        self._parks = 0
        self._finalizers: list[tuple[int, asyncio.Task[str]]] = []
        self._expected = expected
        self.seen: list[Any] = []
        self.gone = False
        self._begun = False

    async def perform(self, op: Op) -> None:
        if self.gone:
            return
        if op.kind == "drop":
            await self._drop(op)
            return
        thrown = make_error(op.value) if op.kind == "throw" else None
        outcome = await self._attended(asyncio.ensure_future(self._attempt(op.kind, op.value, thrown)), op)
        generator = self._generator
        # What CPython says of one that has ended depends on how it was ended.
        state = "ended" if generator.ag_frame is None else ("running", generator.ag_running)
        if not self._begun and outcome[0] == "raised":
            # Thrown into a body that has not begun: there is no line of it to point to.
            forget_frames(outcome[2])
        just_started = outcome[0] == "raised" and "just-started" in outcome[2]["args"]
        self._begun = self._begun or (op.kind in ("next", "send") and not just_started)
        self.seen.append((op.kind, outcome, state, self._journal.notes))
        if op.kind == "close" and self._cancelled and state == "ended":
            # CPython 3.11 takes one for running for ever whose aclose() was cancelled.
            self.gone = True
            self._generator = None

    async def _attempt(self, kind: str, value: Any, thrown: BaseException | None) -> tuple[Any, ...]:
        generator = self._generator
        try:
            match kind:
                case "next":
                    return "item", await anext(generator)
                case "send":
                    return "item", await generator.asend(value)
                case "throw":
                    return "item", await generator.athrow(thrown)
                case _:
                    return "closed", await generator.aclose()
        except BaseException as error:
            return outcome_of(error, thrown)
        finally:
            del thrown

    async def _attended(self, task: asyncio.Task[Any], op: Op) -> Any:
        """Wait for the task; where the body parks, disturb it and cancel it."""
        self._cancelled = False
        async with asyncio.timeout(CHANGE_SECONDS):
            while True:
                parked = asyncio.ensure_future(self._parked())
                await asyncio.wait([task, parked], return_when=asyncio.FIRST_COMPLETED)
                if task.done():
                    parked.cancel()
                    await asyncio.wait([parked])
                    # A park that was left, by a routine that ended all the same, must be seen too.
                    self._parks = self._journal.notes.count(PARKED)
                    return task.exception() if not task.cancelled() and task.exception() else task.result()
                if op.overlap is not None:
                    thrown = ValueError("overlapping") if op.overlap == "throw" else None
                    self.seen.append(("overlap", await self._attempt(op.overlap, None, thrown)))
                self._cancelled = True
                task.cancel(op.message)

    async def _parked(self) -> None:
        while self._journal.notes.count(PARKED) <= self._parks:
            await self._journal.changed()
        self._parks = self._journal.notes.count(PARKED)

    async def _drop(self, op: Op) -> None:
        """Let go, and wait for what the loop makes of it."""
        self.gone = True
        self._mine = id(self._generator)
        hook, sys.unraisablehook = sys.unraisablehook, lambda _: None  # One that has ignored its end before.
        dropped = weakref.ref(self._generator)
        self._generator = None
        if dropped() is not None:
            gc.collect()
        sys.unraisablehook = hook
        outcomes: list[Any] = []
        notes: list[str] | None = None
        for generator, finalizer in self._finalizers:
            outcome = await self._attended(finalizer, Op("drop", message=op.message))
            if generator == self._mine:
                outcomes.append(outcome)
                if "ignored GeneratorExit" in outcome:
                    # It is given up where it stands. What it delegates to is let go of here, now or soon, and by a
                    # worker when that collects its garbage: nobody can tell when.
                    notes = [note for note in self._journal.notes if note != streams.DELEGATE_ENDED]
        self._finalizers.clear()
        if self._expected is not None and not outcomes:
            # One that had ignored its end and is collected now: nobody waits for what it does then.
            async with asyncio.timeout(CHANGE_SECONDS):
                while len(self._journal.notes) < len(self._expected[-1][-1]):
                    await self._journal.changed()
        self.seen.append(("dropped", outcomes, self._journal.notes if notes is None else notes))

    def finalize(self, generator: AsyncGenerator[Any, Any]) -> None:
        """Be the hook for a generator that was collected, as the event loop is."""
        self._finalizers.append((id(generator), asyncio.ensure_future(_closed(generator))))


async def _closed(generator: AsyncGenerator[Any, Any]) -> str:
    try:
        await generator.aclose()
    except BaseException as error:
        return f"{type(error).__name__}: {error}"
    return "closed"


def make_error(recipe: Any) -> BaseException:
    make, args = recipe
    error: BaseException = make(*args)
    return error


async def observe(function: Body, script: list[Op], expected: list[Any] | None = None) -> list[Any]:
    """Run ``script`` and return all that was seen; where ``expected`` was seen before, ``function`` is the routine."""
    local = expected is None
    with Journal() as journal:
        consumer = Consumer(function(journal.local_pen if local else journal.pen), journal, expected)
        hooks = sys.get_asyncgen_hooks()
        sys.set_asyncgen_hooks(firstiter=None, finalizer=consumer.finalize)
        try:
            for op in script:
                await consumer.perform(op)
            await consumer.perform(Op("drop"))
        finally:
            sys.set_asyncgen_hooks(*hooks)
        return consumer.seen


def compiled(source: str) -> tuple[Body, Body]:
    """Return a generated program as a plain function and as a routine, which travels by value."""
    scope: dict[str, Any] = {"asyncio": asyncio, "streams": streams, "contextlib": contextlib, "__name__": "program"}
    exec(compile(source, f"<program {hash(source)}>", "exec"), scope)
    plain: Body = scope["program"]
    return plain, wool.routine(plain)


async def compare(plain: Body, routine: Body, script: list[Op]) -> None:
    """Fail unless plain function and routine are the same to their consumer."""
    expected = await observe(plain, script)
    seen = await observe(routine, script, expected)
    assert len(seen) == len(expected), (expected, seen)
    for number, (there, here) in enumerate(zip(seen, expected, strict=True)):
        assert there == here, f"\nstep {number}\nroutine: {there}\nlocally: {here}\nscript: {script}"
