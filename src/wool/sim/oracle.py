"""What a plain coroutine or generator does, without wool: the same body, the same script, and no cluster.

Computed from the plan alone, with a driver that never waits. A nested call is taken to come to its end; an
invariant that compares looks first whether it did. It must never import what places or runs tasks.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import AsyncGenerator, Coroutine
from dataclasses import dataclass
from typing import Any

from wool.errors import WoolError
from wool.sim.bodies import Ask, Body, Step, walk
from wool.sim.consumer import consume, outcome_of
from wool.sim.history import Detail
from wool.sim.program import Unpicklable, make_error, plain_value, run_coroutine, run_generator, say_error, say_value


@dataclass(frozen=True, slots=True, kw_only=True)
class Expected:
    """What a local run shows."""

    asks: tuple[tuple[str, Any], ...]
    """What the consumer did, and the item that it got: ``("next", 3)``. The one that ended has none."""
    outcome: str
    value: Any
    """The value, or the error as text."""
    said: tuple[tuple[str, Detail], ...]
    """What the body has noted, in order."""
    yields: tuple[Any, ...]
    finals: int
    """How often its outermost ``finally`` has run when the consumer has left."""
    travels: bool
    """All that is yielded, returned or raised can be pickled, loaded, and is not over the limit."""
    nested: bool
    """It makes nested calls."""
    suspends: bool
    """The body waits somewhere: a cancellation can reach it."""


class _Env:
    def __init__(self, limit: int) -> None:
        self.said: list[tuple[str, Detail]] = []
        self.asks: list[tuple[str, Any]] = []
        self.travels = True
        self._limit = limit

    def begin(self) -> None:
        pass

    async def sleep(self, seconds: float) -> None:
        pass

    def block(self, seconds: float) -> None:
        pass

    async def call(self, step: Step) -> None:
        pass

    async def gather(self, steps: tuple[Step, ...]) -> None:
        pass

    def note(self, kind: str, detail: Detail = ()) -> None:
        self.said.append((kind, detail))

    def value(self, step: Step) -> Any:
        if step.text or step.size > self._limit:
            self.travels = False
        return plain_value(step)

    def error(self, step: Step) -> BaseException:
        return make_error(step.text, step.number)

    def consumed(self, kind: str, detail: Detail = ()) -> None:
        if kind == "call.step":
            self.asks.append((detail[0][1], None))
        else:
            self.asks[-1] = (self.asks[-1][0], detail[0][1])


def _drive(coroutine: Coroutine[Any, Any, Any]) -> Any:
    """Run what never waits."""
    try:
        coroutine.send(None)
    except StopIteration as stop:
        return stop.value
    coroutine.close()
    raise AssertionError("the oracle does not wait")


@functools.lru_cache(maxsize=4096)
def expected(body: Body, script: tuple[Ask, ...], limit: int) -> Expected:
    """Return what the body shows to a consumer that follows ``script``, with payloads of ``limit`` bytes at most."""
    env = _Env(limit)
    hooks, unraisable = sys.get_asyncgen_hooks(), sys.unraisablehook
    sys.set_asyncgen_hooks(firstiter=None, finalizer=_finalize)
    # One that ignores its close is collected where it stands, and Python would say so.
    sys.unraisablehook = _ignore
    try:
        outcome, value, said = _observe(body, script, env)
    finally:
        sys.set_asyncgen_hooks(*hooks)
        sys.unraisablehook = unraisable
    steps = list(walk(body.steps))
    return Expected(
        asks=tuple(env.asks),
        outcome=outcome,
        value=value,
        said=said,
        yields=tuple(detail[1][1] for kind, detail in said if kind == "body.yielded"),
        finals=sum(kind == "body.finally" for kind, _ in said),
        travels=env.travels,
        nested=any(step.op in ("call", "gather") for step in steps),
        suspends=any(step.op in ("call", "gather", "sleep") for step in steps),
    )


def _observe(body: Body, script: tuple[Ask, ...], env: _Env) -> tuple[str, Any, tuple[tuple[str, Detail], ...]]:
    try:
        if body.generator:
            outcome, value = _drive(consume(lambda: run_generator(body, env), script, env.consumed, env.sleep)), None
        else:
            outcome, value = "value", say_value(_drive(run_coroutine(body, env)))
    except BaseException as error:
        if isinstance(error, AssertionError):
            raise
        if isinstance(error, Unpicklable):
            env.travels = False
        outcome, _, value = outcome_of(error)
        if isinstance(error, WoolError | SystemExit | KeyboardInterrupt):
            outcome, value = "remote", say_error(error)
        # Here, while the traceback holds the generator: what it does when it is collected is not observed.
        return outcome, value, tuple(env.said)
    return outcome, value, tuple(env.said)


def _ignore(unraisable: Any) -> None:
    pass


def _finalize(generator: AsyncGenerator[Any, Any]) -> None:
    try:
        _drive(generator.aclose())
    except BaseException as error:
        if isinstance(error, AssertionError):
            raise
