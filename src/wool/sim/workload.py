"""What is called and who calls: routines that run a plan's bodies, and callers that make a plan's calls.

Why it exists: everything between the two is production code, from `wool.routine` to the worker's runner. The
program of a body stands for code that both sides have, and is found by the label of its task; the arguments
are real, and really pickled.

What it must never do: reach from one process into another. What happens is written down where it happens.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar, cast

from wool.context import RuntimeContext
from wool.routine import routine
from wool.sim.bodies import Ask, Body, Step, nested_label
from wool.sim.consumer import consume, outcome_of
from wool.sim.loop import SimLoop
from wool.sim.node import Incarnation, next_label
from wool.sim.program import make_error, plain_value, run_coroutine, run_generator, say_value
from wool.variables import ContextVar

if TYPE_CHECKING:
    from wool.sim.history import Detail


_T = TypeVar("_T")

_trail: ContextVar[str] = ContextVar("_trail", default="")
"""The task that has set it last, as `set_by_caller` or `set_by_body` has it."""


def set_by_caller(label: str) -> str:
    """Return what a caller sets before the call of this label."""
    return f"for {label}"


def set_by_body(label: str) -> str:
    """Return what the body of this label sets when it begins."""
    return f"by {label}"


def here() -> Incarnation:
    """Return the process that the running loop belongs to."""
    loop: Any = asyncio.get_running_loop()
    assert isinstance(loop, SimLoop) and loop.owner is not None
    owner: Any = loop.owner
    return owner  # type: ignore[no-any-return]


class Code:
    """Stands for a body on its way to a worker, where it is the body."""

    __slots__ = ("_label",)

    def __init__(self, label: str) -> None:
        self._label = label

    def __reduce__(self) -> tuple[Any, ...]:
        return _code, (self._label,)


def _code(label: str) -> Body:
    return here().cluster.tasks[label][0]


class Surroundings:
    """What a body can do, in the process in which it was unpickled. See `wool.sim.program.Env`."""

    __slots__ = ("_blob", "_label", "_node", "execution")

    def __init__(self, label: str, blob: bytes) -> None:
        self._label = label
        self._blob = blob
        self._node = here()
        self.execution: str = ""

    def __reduce__(self) -> tuple[Any, ...]:
        return Surroundings, (self._label, self._blob)

    def begin(self) -> None:
        """See `Env`."""
        node = self._node
        if here() is not node:
            here().note("identity.crossed", self._label, "", (("what", f"the surroundings made on {node.name}"),))
        node.executions += 1
        self.execution = f"{node.name}/{node.executions}"
        node.note("body.began", self._label, "", (("execution", self.execution),))
        if node.cluster.plan.variables:
            node.note("variable.read", self._label, "", (("where", "begin"), ("value", _trail.get())))
            _trail.set(set_by_body(self._label))

    async def sleep(self, seconds: float) -> None:
        """See `Env`."""
        await asyncio.sleep(seconds)

    def block(self, seconds: float) -> None:
        """See `Env`."""
        cast("SimLoop", asyncio.get_running_loop()).block(seconds)

    async def call(self, step: Step) -> None:
        """See `Env`."""
        assert step.body is not None
        await make_call(self._node, nested_label(self._label, step), step.body, step.script, parent=self._label)

    async def gather(self, steps: tuple[Step, ...]) -> None:
        """See `Env`: the first that fails has the others cancelled, and is raised."""
        try:
            async with asyncio.TaskGroup() as group:
                for step in steps:
                    group.create_task(self.call(step))
        except BaseExceptionGroup as failed:
            raise failed.exceptions[0] from None

    def note(self, kind: str, detail: Detail = ()) -> None:
        """See `Env`."""
        self._node.note(kind, self._label, "", detail)
        if kind == "body.ended" and self._node.cluster.plan.variables:
            self._node.note("variable.read", self._label, "", (("where", "end"), ("value", _trail.get())))

    def value(self, step: Step) -> Any:
        """See `Env`."""
        return self._made(plain_value(step))

    def error(self, step: Step) -> BaseException:
        """See `Env`."""
        return self._made(make_error(step.text, step.number))

    def result(self, value: Any) -> tuple[str, Any]:
        """Return what a coroutine gives: which execution it was, and the value."""
        return self._made((self.execution, value))

    def _made(self, what: _T) -> _T:
        self._node.cluster.made.keep(self._node.name, what)
        return what


@routine
async def simulated_coroutine(body: Body, env: Surroundings) -> tuple[str, Any]:
    """Run a body; return which execution it was, and the value."""
    return env.result(await run_coroutine(body, env))


simulated_generator: Callable[[Body, Surroundings], AsyncGenerator[Any, Any]] = routine(run_generator)
"""The interpreter itself, so that every step of the consumer is one of the body's own generator."""


async def make_call(
    node: Incarnation,
    label: str,
    body: Body,
    script: Sequence[Ask],
    *,
    parent: str = "",
    timeout: float | None = None,
    size: int = 0,
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
) -> None:
    """Make one call, consume what it gives, and write down its outcome, which is raised if it is an exception."""
    form = "generator" if body.generator else "coroutine"
    made = (("body", body.name), ("form", form), ("timeout", timeout), ("parent", parent))
    node.note("call.made", label, "", made)
    next_label.set(label)

    def note(kind: str, detail: Detail = ()) -> None:
        node.note(kind, label, "", detail)

    def look(what: object) -> None:
        maker = node.cluster.made.elsewhere(node.name, what)
        if maker is not None:
            note("identity.crossed", (("what", f"a {type(what).__name__} made on {maker}"),))

    code, env = cast("Body", Code(label)), Surroundings(label, bytes(size))
    begun_by = ""
    value: Any = None
    watched, before = node.cluster.plan.variables, _trail.get()
    if watched:
        _trail.set(set_by_caller(label))
    try:
        if body.generator:
            outcome = await consume(lambda: simulated_generator(code, env), script, note, sleep, look)
        else:
            result = await simulated_coroutine(code, env)
            look(result)
            begun_by, value = result
            outcome, value = "value", say_value(value)
    except BaseException as error:
        look(error)
        outcome, executed, text = outcome_of(error)
        _note_end(node, label, outcome, executed, text, "")
        raise
    finally:
        if watched and not node.dead:
            note("variable.back", (("value", _trail.get()),))
            _trail.set(before)
    _note_end(node, label, outcome, "yes", value, begun_by)


def _note_end(node: Incarnation, label: str, outcome: str, executed: str, value: Any, begun_by: str) -> None:
    detail = (("outcome", outcome), ("executed", executed), ("value", value), ("begun_by", begun_by))
    node.note("call.ended", label, "", detail)


async def make_top_call(
    node: Incarnation,
    label: str,
    body: Body,
    script: Sequence[Ask],
    timeout: float,
    size: int,
    *,
    sleep: Callable[[float], Awaitable[None]],
) -> None:
    """Make a call of the driver's: its outcome is in the history, and that is all. ``sleep`` is its consumer's."""
    try:
        with RuntimeContext(dispatch_timeout=timeout):
            await make_call(node, label, body, script, timeout=timeout, size=size, sleep=sleep)
    except (KeyboardInterrupt, GeneratorExit):
        raise
    except BaseException:  # Whatever it was, it is written down.
        return
