"""Runs a body's program: one native coroutine function and one native async generator function.

The simulated workers run these, and so does the oracle that says what a plain generator would have done: it
is the same code, so that whatever differs is wool's doing. It must never touch a clock, a loop or wool
itself: all that goes beyond the program is asked of the `Env`.

The blocks of a program (catch, finally) are kept on a stack of our own, so that every ``yield`` is a yield
of the one generator function, and GeneratorExit, athrow and asend are Python's.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from typing import Any, Protocol

from wool.errors import NoWorkersAvailable
from wool.sim.bodies import Body, Step
from wool.sim.history import Detail


class Env(Protocol):
    """What a body can do beyond computing."""

    def begin(self) -> None:
        """The first line of the body."""
        ...

    async def sleep(self, seconds: float) -> None:
        """Wait."""
        ...

    def block(self, seconds: float) -> None:
        """Let time pass without waiting."""
        ...

    async def call(self, step: Step) -> None:
        """Make the nested call and wait for it; a generator is consumed as its script says."""
        ...

    async def gather(self, steps: tuple[Step, ...]) -> None:
        """Make several, concurrently."""
        ...

    def note(self, kind: str, detail: Detail = ()) -> None:
        """Write an event of this body into the history."""
        ...

    def value(self, step: Step) -> Any:
        """Return the value that a ``yield`` or ``return`` gives."""
        ...

    def error(self, step: Step) -> BaseException:
        """Return what a ``raise`` raises."""
        ...


class Custom(Exception):
    """An exception of the user's own, with an attribute."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


class Unpicklable(Exception):
    """An exception that cannot be pickled."""

    def __reduce__(self) -> Any:
        raise TypeError("this exception does not travel")


class UnpicklableValue:
    """A value that cannot be pickled."""

    def __reduce__(self) -> Any:
        raise TypeError("this value does not travel")


class UnloadableValue:
    """A value that can be pickled, and not be loaded."""

    def __reduce__(self) -> Any:
        return _broken, ()


def _broken() -> None:
    raise LookupError("broken on arrival")


_ERRORS: dict[str, Callable[[int], BaseException]] = {
    "value-error": lambda number: ValueError("of the body", number),
    "key-error": KeyError,
    "custom": Custom,
    "unpicklable": Unpicklable,
    "cancelled": lambda number: asyncio.CancelledError("of the body", number),
    "stop-async-iteration": StopAsyncIteration,
    "system-exit": SystemExit,
    "no-workers": lambda number: NoWorkersAvailable(f"of the body {number}"),
}

_CAUGHT: dict[str, type[BaseException]] = {
    "cancelled": asyncio.CancelledError,
    "generator-exit": GeneratorExit,
    "exception": Exception,
    "anything": BaseException,
}


def make_error(text: str, number: int = 0) -> BaseException:
    """Return a new exception of the kind that the plan names."""
    return _ERRORS[text](number)


def plain_value(step: Step) -> Any:
    """Return what a ``yield`` or ``return`` gives: its number, bytes of its size, or what does not travel."""
    if step.text == "unpicklable":
        return UnpicklableValue()
    if step.text == "unloadable":
        return UnloadableValue()
    return bytes(step.size) if step.size else step.number


def say_value(value: Any) -> Any:
    """Return a value as histories have it."""
    if isinstance(value, bytes):
        return f"{len(value)} bytes"
    return value if isinstance(value, int | str | None) else type(value).__name__


def say_error(error: BaseException) -> str:
    """Return an exception as histories have it."""
    arguments = ", ".join(repr(argument) for argument in error.args if isinstance(argument, int | str))
    return f"{type(error).__name__}({arguments})"


class _Block:
    __slots__ = ("index", "last", "pending", "steps", "swallows")

    def __init__(
        self,
        steps: tuple[Step, ...],
        swallows: type[BaseException] | None = None,
        last: tuple[Step, ...] | None = None,
        pending: BaseException | _Return | None = None,
    ) -> None:
        self.steps = steps
        self.index = 0
        self.swallows = swallows
        self.last = last
        self.pending = pending


class _Return:
    """Leaves all blocks, through their ``finally``, with a value."""

    __slots__ = ("value",)

    def __init__(self, value: Any) -> None:
        self.value = value


class _Machine:
    """Where a body stands in its program."""

    __slots__ = ("blocks", "raised_again", "result")

    def __init__(self, body: Body) -> None:
        self.blocks: list[_Block] = [_Block(body.steps)]
        self.raised_again: BaseException | None = None
        """What a ``finally`` has let pass, last."""
        self.result: Any = 0

    def next(self) -> Step | None:
        """Return the next step; None at the end. Raises what waits at the end of a ``finally``."""
        blocks = self.blocks
        while blocks:
            block = blocks[-1]
            if block.index < len(block.steps):
                step = block.steps[block.index]
                block.index += 1
                if step.op == "catch":
                    blocks.append(_Block(step.steps, swallows=_CAUGHT[step.text]))
                elif step.op == "finally":
                    blocks.append(_Block(step.steps, last=step.last))
                else:
                    return step
                continue
            blocks.pop()
            if block.last is not None:
                blocks.append(_Block(block.last))
            pending, block.pending = block.pending, None
            if isinstance(pending, _Return):
                self.leave(pending)
            elif pending is not None:
                self.raised_again = pending
                raise pending
        return None

    def leave(self, value: _Return) -> None:
        """Return from the body: what ``finally`` there is comes first."""
        while self.blocks:
            block = self.blocks.pop()
            if block.last is not None:
                self.blocks.append(_Block(block.last, pending=value))
                return
        self.result = value.value

    def caught(self, error: BaseException) -> bool:
        """Take what a step has raised: True if the program goes on, in a ``finally`` or after a ``catch``."""
        while self.blocks:
            block = self.blocks.pop()
            if block.last is not None:
                self.blocks.append(_Block(block.last, pending=error))
                return True
            if block.swallows is not None and isinstance(error, block.swallows):
                return True
        return False


async def _perform(step: Step, machine: _Machine, env: Env) -> None:
    op = step.op
    if op == "sleep":
        await env.sleep(step.seconds)
    elif op == "block":
        env.block(step.seconds)
    elif op == "call":
        await env.call(step)
    elif op == "gather":
        await env.gather(step.steps)
    elif op == "return":
        machine.leave(_Return(env.value(step)))
    elif op == "raise":
        raise env.error(step)


async def run_coroutine(body: Body, env: Env) -> Any:
    """Run the body of a coroutine routine and return its value."""
    env.begin()
    machine = _Machine(body)
    how = "returned"
    said: Any = None
    try:
        while True:
            try:
                step = machine.next()
                if step is None:
                    break
                await _perform(step, machine, env)
            except BaseException as error:
                if isinstance(error, asyncio.CancelledError) and error is not machine.raised_again:
                    env.note("body.cancelled")
                if not machine.caught(error):
                    how, said = _ended(error)
                    raise
        said = say_value(machine.result)
        return machine.result
    finally:
        env.note("body.finally")
        env.note("body.ended", (("how", how), ("value", said)))


async def run_generator(body: Body, env: Env) -> AsyncGenerator[Any, Any]:
    """Run the body of a generator routine."""
    env.begin()
    machine = _Machine(body)
    how = "returned"
    said: Any = None
    ordinal = -1
    try:
        while True:
            try:
                step = machine.next()
                if step is None:
                    break
                if step.op != "yield":
                    await _perform(step, machine, env)
                    continue
                ordinal += 1
                value = env.value(step)
                env.note("body.yielded", (("ordinal", ordinal), ("value", say_value(value))))
                item = [value]
                del value
                try:
                    sent = yield item.pop()
                except GeneratorExit:
                    env.note("body.resumed", (("step", "close"), ("ordinal", ordinal), ("value", None)))
                    raise
                except BaseException as error:
                    env.note("body.resumed", (("step", "throw"), ("ordinal", ordinal), ("value", say_error(error))))
                    raise
                how_asked = "next" if sent is None else "send"
                env.note("body.resumed", (("step", how_asked), ("ordinal", ordinal), ("value", say_value(sent))))
            except BaseException as error:
                if isinstance(error, asyncio.CancelledError) and error is not machine.raised_again:
                    env.note("body.cancelled")
                if not machine.caught(error):
                    how, said = _ended(error)
                    raise
    finally:
        env.note("body.finally")
        env.note("body.ended", (("how", how), ("value", said)))


def _ended(error: BaseException) -> tuple[str, Any]:
    if isinstance(error, GeneratorExit):
        return "closed", None
    if isinstance(error, asyncio.CancelledError):
        return "cancelled", say_error(error)
    return "raised", say_error(error)
