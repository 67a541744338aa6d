"""Programs that set, read and reset context variables, in bodies that call each other: the same, plain and as routines.

A program is data, so that it travels; what runs it is one coroutine function and one async generator function. Plain
they are called as they stand and the variables are the standard library's; as routines they are `wool.routine` and the
variables are wool's. Whatever is seen is written into a log, which is what a program returns.
"""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any, Literal

from hypothesis import strategies as st

import wool

Mode = Literal["plain", "wool"]
Op = tuple[Any, ...]
Program = list[Op]

VARIABLES: dict[str, list[Any]] = {
    "plain": [
        contextvars.ContextVar("first"),
        contextvars.ContextVar("second", default="default"),
        contextvars.ContextVar("third"),
    ],
    "wool": [wool.ContextVar("first"), wool.ContextVar("second", default="default"), wool.ContextVar("third")],
}


class Failure(Exception):
    """What a program raises on purpose; its argument is the log."""


class Frame:
    """One body at work: its log, and the tokens that it may reset."""

    def __init__(self, mode: Mode) -> None:
        self.mode = mode
        self.variables = VARIABLES[mode]
        self.log: list[Any] = []
        self.tokens: list[tuple[Any, Any]] = []

    async def run(self, program: Program) -> None:
        for kind, *arguments in program:
            await getattr(self, f"do_{kind}")(*arguments)

    async def do_set(self, index: int, value: Any) -> None:
        variable = self.variables[index]
        token = variable.set(value)
        old = "missing" if token.old_value is token.MISSING else token.old_value
        self.log.append(("set over", old))
        self.tokens.append((variable, token))

    async def do_get(self, index: int) -> None:
        try:
            self.log.append(self.variables[index].get())
        except LookupError as error:
            self.log.append(("lookup error", error.args == (self.variables[index],)))
        self.log.append(self.variables[index].get("given"))

    async def do_reset(self, again: bool) -> None:
        if self.tokens:
            variable, token = self.tokens.pop()
            for _ in range(1 + again):
                try:
                    variable.reset(token)
                except (ValueError, RuntimeError) as error:
                    # Of another context, or used before.
                    self.log.append(type(error).__name__)

    async def do_pause(self) -> None:
        await asyncio.sleep(0)

    async def do_call(self, program: Program, fails: bool) -> None:
        self.log.append(await call(self.mode, program, fails))

    async def do_gather(self, *programs: Program) -> None:
        self.log.extend(await asyncio.gather(*(call(self.mode, program, False) for program in programs)))

    async def do_iterate(self, segments: list[Program], steps: list[tuple[Program, bool]]) -> None:
        """Step through a generator; before each step something is done, and some are made in a task of their own."""
        stepping = items if self.mode == "plain" else items_routine
        async with aclosing(stepping(self.mode, segments)) as stream:
            for number, (program, in_task) in enumerate(steps):
                step = self._step(stream, program, number or None)
                self.log.append(await (asyncio.create_task(step) if in_task else step))
        self.log.append("closed")

    async def _step(self, stream: AsyncGenerator[Any, Any], program: Program, sent: int | None) -> Any:
        await self.run(program)
        try:
            return await stream.asend(sent)
        except StopAsyncIteration:
            return "stop"
        except Failure as failure:
            return "failed", failure.args
        finally:
            # A token of this task's context is of no use in another.
            self.tokens.clear()


async def body(mode: Mode, program: Program, fails: bool) -> list[Any]:
    frame = Frame(mode)
    await frame.run(program)
    if fails:
        raise Failure(frame.log)
    return frame.log


async def items(mode: Mode, segments: list[Program]) -> AsyncGenerator[Any, Any]:
    """Run one segment for each step; the last one when it is closed early, or exhausted."""
    frame = Frame(mode)
    *early, last = segments
    try:
        for segment in early:
            await frame.run(segment)
            log, frame.log = frame.log, []
            frame.tokens.clear()
            frame.log.append(("sent", (yield log)))
    finally:
        frame.log = []
        await frame.run(last)
    raise Failure(frame.log)


body_routine = wool.routine(body)
items_routine = wool.routine(items)


async def call(mode: Mode, program: Program, fails: bool) -> Any:
    called = body if mode == "plain" else body_routine
    try:
        return await called(mode, program, fails)
    except Failure as failure:
        return "failed", failure.args


async def outcome(mode: Mode, program: Program) -> tuple[Any, list[Any]]:
    """Run a program from the outside, in a context of its own; return its log and what the context has then."""

    async def run() -> tuple[Any, list[Any]]:
        log = await call(mode, program, False)
        return log, [variable.get("unset") for variable in VARIABLES[mode]]

    return await asyncio.create_task(run())


# ---- programs ----------------------------------------------------------------------------------------

_indices = st.integers(0, 2)
_values = st.sampled_from([None, 0, 1, "text", [1, 2], ("a", b"b")])
_simple = st.one_of(
    st.tuples(st.just("set"), _indices, _values),
    st.tuples(st.just("set"), _indices, _values),
    st.tuples(st.just("get"), _indices),
    st.tuples(st.just("get"), _indices),
    st.tuples(st.just("reset"), st.booleans()),
    st.just(("pause",)),
)


def _compound(inner: st.SearchStrategy[Op]) -> st.SearchStrategy[Op]:
    block = st.lists(inner, min_size=1, max_size=4)
    small = st.lists(_simple, max_size=3)
    return st.one_of(
        st.tuples(st.just("call"), block, st.booleans()),
        st.tuples(st.just("gather"), block, block),
        st.tuples(
            st.just("iterate"),
            st.lists(block, min_size=1, max_size=4),
            st.lists(st.tuples(small, st.booleans()), max_size=4),
        ),
    )


programs: st.SearchStrategy[Program] = st.lists(st.recursive(_simple, _compound, max_leaves=14), max_size=6)
