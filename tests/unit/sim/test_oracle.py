"""The oracle: what a plain generator does, from the plan alone; and the interpreter that both sides share."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncGenerator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wool.sim.bodies import Ask, Body, Step
from wool.sim.oracle import expected
from wool.sim.program import Env, make_error, plain_value, run_generator, say_error

LIMIT = 10_000


def gives(number: int) -> Step:
    return Step(op="yield", number=number)


def asks(*ops: str) -> tuple[Ask, ...]:
    words = {"throw": {"text": "key-error"}, "send": {"number": 8}}
    return tuple(Ask(op=op, **words.get(op, {})) for op in ops)  # type: ignore[arg-type]


def test_a_generator_that_is_taken_whole() -> None:
    shown = expected(Body(generator=True, steps=(gives(1), gives(2))), (), LIMIT)
    assert shown.asks == (("next", 1), ("next", 2), ("next", None))
    assert (shown.outcome, shown.yields, shown.finals, shown.travels) == ("generator-end", (1, 2), 1, True)


@pytest.mark.parametrize(
    ("script", "outcome", "value"),
    [
        (asks("next", "close"), "closed", None),
        (asks("close"), "closed", None),
        (asks("next", "break"), "dropped", None),
        (asks("next"), "dropped", None),
        (asks("next", "throw"), "raised", "KeyError(0)"),
        (asks("throw"), "raised", "KeyError(0)"),
        (asks("next", "send", "next", "next"), "generator-end", None),
    ],
)
def test_what_a_consumer_does_is_what_python_makes_of_it(script: tuple[Ask, ...], outcome: str, value: Any) -> None:
    shown = expected(Body(generator=True, steps=(gives(1), gives(2))), script, LIMIT)
    assert (shown.outcome, shown.value) == (outcome, value)


def test_a_body_that_ignores_its_close_is_python_s_runtime_error() -> None:
    stubborn = Body(generator=True, steps=(Step(op="catch", text="generator-exit", steps=(gives(1),)), gives(2)))
    shown = expected(stubborn, asks("next", "close"), LIMIT)
    assert shown.value == "RuntimeError('async generator ignored GeneratorExit')"
    assert shown.finals == 0


def test_finally_runs_on_the_way_out_and_may_yield() -> None:
    body = Body(generator=True, steps=(Step(op="finally", steps=(gives(1),), last=(gives(2),)), gives(3)))
    assert expected(body, (), LIMIT).yields == (1, 2, 3)
    assert expected(body, asks("next", "throw", "next"), LIMIT).asks == (("next", 1), ("throw", 2), ("next", None))


def test_return_goes_through_finally_and_a_raise_in_it_wins() -> None:
    leave = Step(op="finally", steps=(Step(op="return", number=1),), last=(Step(op="raise", text="key-error"),))
    assert expected(Body(steps=(leave,)), (), LIMIT).value == "KeyError(0)"
    leave = Step(op="finally", steps=(Step(op="raise", text="key-error"),), last=(Step(op="return", number=4),))
    assert (expected(Body(steps=(leave,)), (), LIMIT).outcome, expected(Body(steps=(leave,)), (), LIMIT).value) == (
        "value",
        4,
    )


def test_wool_s_own_exceptions_come_wrapped_and_what_does_not_travel_is_known() -> None:
    assert expected(Body(steps=(Step(op="raise", text="no-workers"),)), (), LIMIT).outcome == "remote"
    assert not expected(Body(steps=(Step(op="return", text="unpicklable"),)), (), LIMIT).travels
    assert not expected(Body(steps=(Step(op="return", size=LIMIT + 1),)), (), LIMIT).travels
    assert not expected(Body(steps=(Step(op="raise", text="unpicklable"),)), (), LIMIT).travels
    assert expected(Body(steps=(Step(op="return", size=LIMIT - 1),)), (), LIMIT).travels


# ---- the interpreter against Python itself ----------------------------------------------------------

ERRORS = {"value-error": 'ValueError("of the body", 0)', "key-error": "KeyError(0)"}
CAUGHT = {"exception": "Exception", "anything": "BaseException", "generator-exit": "GeneratorExit"}

plain_steps = st.one_of(
    st.integers(0, 9).map(gives),
    st.integers(0, 9).map(gives),
    st.just(Step(op="return")),
    st.sampled_from(sorted(ERRORS)).map(lambda text: Step(op="raise", text=text)),
)
blocks = st.recursive(
    plain_steps,
    lambda inner: st.one_of(
        st.builds(
            lambda text, steps: Step(op="catch", text=text, steps=tuple(steps)),
            st.sampled_from(sorted(CAUGHT)),
            st.lists(inner, min_size=1, max_size=3),
        ),
        st.builds(
            lambda steps, last: Step(op="finally", steps=tuple(steps), last=tuple(last)),
            st.lists(inner, min_size=1, max_size=3),
            st.lists(inner, max_size=2),
        ),
    ),
    max_leaves=8,
)
bodies = st.lists(blocks, max_size=4).map(lambda steps: Body(generator=True, steps=tuple(steps)))
scripts = st.lists(st.sampled_from(["next", "next", "send", "throw", "close"]), max_size=6).map(
    lambda ops: asks("next", *ops)
)


def source(steps: tuple[Step, ...], depth: int = 1) -> list[str]:
    """The steps as a person would write them."""
    pad = "    " * depth
    lines: list[str] = []
    for step in steps:
        match step.op:
            case "yield":
                lines.append(f"{pad}yield {step.number}")
            case "return":
                lines.append(f"{pad}return")
            case "raise":
                lines.append(f"{pad}raise {ERRORS[step.text]}")
            case "catch":
                lines += [f"{pad}try:", *source(step.steps, depth + 1), f"{pad}except {CAUGHT[step.text]}: pass"]
            case _:
                lines += [f"{pad}try:", *source(step.steps, depth + 1), f"{pad}finally:", *source(step.last, depth + 1)]
    return lines or [f"{pad}pass"]


class Silent:
    def begin(self) -> None: ...

    async def sleep(self, seconds: float) -> None: ...

    def block(self, seconds: float) -> None: ...

    async def call(self, step: Step) -> None: ...

    async def gather(self, steps: tuple[Step, ...]) -> None: ...

    def note(self, kind: str, detail: Any = ()) -> None: ...

    def value(self, step: Step) -> Any:
        return plain_value(step)

    def error(self, step: Step) -> BaseException:
        return make_error(step.text, step.number)


async def observe(generator: AsyncGenerator[Any, Any], script: tuple[Ask, ...]) -> list[Any]:
    seen: list[Any] = []
    for ask in script:
        try:
            if ask.op == "next":
                seen.append(await anext(generator))
            elif ask.op == "send":
                seen.append(await generator.asend(8))
            elif ask.op == "throw":
                seen.append(await generator.athrow(KeyError("thrown")))
            else:
                seen.append(await generator.aclose())
        except (Exception, asyncio.CancelledError, GeneratorExit) as error:
            seen.append(say_error(error))
    return seen


@settings(max_examples=200)
@given(bodies, scripts)
async def test_the_interpreter_is_python(body: Body, script: tuple[Ask, ...]) -> None:
    text = "\n".join(["async def program():", *source(body.steps), "    return", "    yield"])
    scope: dict[str, Any] = {}
    exec(compile(text, "<program>", "exec"), scope)
    env: Env = Silent()
    # One that ignores its close is collected where it stands, on either side, and Python says so.
    hook, sys.unraisablehook = sys.unraisablehook, lambda unraisable: None
    try:
        assert await observe(run_generator(body, env), script) == await observe(scope["program"](), script), text
    finally:
        sys.unraisablehook = hook
