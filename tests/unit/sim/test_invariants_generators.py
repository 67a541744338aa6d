"""G: generators, and what the oracle says of coroutines."""

from __future__ import annotations

from typing import Any

from support.simulated import (
    Script,
    began,
    body_ended,
    cluster,
    ended,
    found,
    generator,
    made,
    offered,
    one_call,
    plan_of,
    started,
)
from wool.sim.bodies import Ask, Body, Step
from wool.sim.plan import Call, Plan


def streaming() -> Script:
    script = cluster("w0#0")
    made(script, form="generator")
    ask(script, "next", 0)
    started(script, offered(script))
    began(script)
    return script


def ask(script: Script, step: str, ordinal: int) -> None:
    script.add("c0#0", "call.step", "c0.0", step=step, ordinal=ordinal)


def item(script: Script, value: Any, ordinal: int, yielded: Any = ...) -> None:
    script.add("w0#0", "body.yielded", "c0.0", ordinal=ordinal, value=value if yielded is ... else yielded)
    script.add("c0#0", "call.item", "c0.0", value=value, ordinal=ordinal)


def resumed(script: Script, step: str, ordinal: int, value: Any = None) -> None:
    script.add("w0#0", "body.resumed", "c0.0", step=step, ordinal=ordinal, value=value)


def complete() -> Script:
    """``yield 5; yield 6``, consumed to the end."""
    script = streaming()
    item(script, 5, 0)
    ask(script, "next", 1)
    resumed(script, "next", 0)
    item(script, 6, 1)
    ask(script, "next", 2)
    resumed(script, "next", 1)
    body_ended(script, value=None)
    return ended(script, "generator-end", executed="yes")


NAMES = ("delivered_is_a_prefix", "no_read_ahead", "same_as_local", "finally_runs_once")
PLAN: Plan = plan_of(generator(5, 6))


def test_g_a_generator_that_is_the_local_one_is_right() -> None:
    for name in NAMES:
        assert not found(name, complete().done(), PLAN), name


def test_g_an_item_that_was_not_yielded_is_found() -> None:
    script = streaming()
    item(script, 5, 0, yielded=7)
    assert found("delivered_is_a_prefix", script, PLAN)
    script = streaming().add("c0#0", "call.item", "c0.0", value=5, ordinal=0)
    assert found("delivered_is_a_prefix", script, PLAN)


def test_g_an_item_that_is_left_out_is_found() -> None:
    script = streaming()
    script.add("w0#0", "body.yielded", "c0.0", ordinal=0, value=5)
    item(script, 6, 1)
    assert found("delivered_is_a_prefix", script, PLAN)


def test_g_reading_ahead_is_found() -> None:
    script = streaming()
    item(script, 5, 0)
    resumed(script, "next", 0)
    script.add("w0#0", "body.yielded", "c0.0", ordinal=1, value=6)
    assert found("no_read_ahead", script, PLAN)


def test_g_a_wrong_item_is_found() -> None:
    script = streaming()
    item(script, 9, 0)
    assert found("same_as_local", script, PLAN)


def test_g_an_end_that_comes_too_early_is_found() -> None:
    script = streaming()
    item(script, 5, 0)
    ask(script, "next", 1)
    resumed(script, "next", 0)
    body_ended(script, value=None)
    ended(script, "generator-end", executed="yes")
    assert found("same_as_local", script, PLAN)


def test_g_an_end_that_a_fault_has_made_is_right() -> None:
    script = streaming()
    item(script, 5, 0)
    ask(script, "next", 1)
    ended(script, "lost", executed="unknown")
    assert not found("same_as_local", script, PLAN)


def test_g_a_value_that_is_sent_in_and_gets_lost_is_found() -> None:
    plan = plan_of(generator(5, 6, script=(Ask(op="next"), Ask(op="send", number=8), Ask(op="close"))))

    def run(seen: Any) -> Script:
        script = streaming()
        item(script, 5, 0)
        ask(script, "send", 1)
        resumed(script, "send" if seen else "next", 0, seen)
        item(script, 6, 1)
        ask(script, "close", 2)
        resumed(script, "close", 1)
        body_ended(script, how="closed", value=None)
        return ended(script, "closed", executed="yes")

    assert not found("same_as_local", run(8), plan)
    assert found("same_as_local", run(None), plan)


def test_g_a_close_that_is_not_passed_on_is_found() -> None:
    plan = plan_of(generator(5, script=(Ask(op="next"), Ask(op="close"))))
    script = streaming()
    item(script, 5, 0)
    ask(script, "close", 1)
    ended(script, "closed", executed="yes")
    assert found("same_as_local", script, plan)
    assert found("finally_runs_once", script.done(), plan)


def test_g_what_follows_a_cancellation_is_not_the_oracles() -> None:
    script = streaming()
    script.add("c0#0", "call.cancelled", "c0.0").add("w0#0", "body.cancelled", "c0.0")
    item(script, 99, 0)
    assert not found("same_as_local", script, PLAN)


def test_g_finally_that_runs_twice_or_never_is_found() -> None:
    script = complete().add("w0#0", "body.finally", "c0.0")
    assert found("finally_runs_once", script.done(), PLAN)
    script = streaming()
    ended(script, "lost")
    assert not found("finally_runs_once", script, PLAN), "the run is cut off"
    assert found("finally_runs_once", script.done(), PLAN)


def test_g_finally_need_not_run_on_a_worker_that_died_or_in_a_body_that_swallows_its_end() -> None:
    script = streaming().add("w0#0", "node.crashed", reason="killed").done()
    assert not found("finally_runs_once", script, PLAN)
    stubborn = Body(
        generator=True, steps=(Step(op="catch", text="generator-exit", steps=(Step(op="yield"),)), Step(op="yield"))
    )
    assert not found("finally_runs_once", streaming().done(), plan_of(Call(ordinal=0, body=stubborn)))


def test_g_a_coroutines_value_is_the_local_one() -> None:
    plan = plan_of(Call(ordinal=0, body=Body(steps=(Step(op="return", number=4),))))
    assert not found("same_as_local", one_call(cluster("w0#0"), value=4), plan)
    assert found("same_as_local", one_call(cluster("w0#0"), value=5), plan)


def test_g_an_exception_is_the_local_one_and_what_does_not_travel_says_so() -> None:
    plan = plan_of(Call(ordinal=0, body=Body(steps=(Step(op="raise", text="key-error", number=4),))))

    def run(outcome: str, value: str) -> Script:
        script = cluster("w0#0")
        started(made(script), offered(script))
        began(script)
        body_ended(script, how="raised", value="KeyError(4)")
        return ended(script, outcome, executed="yes", value=value)

    assert not found("same_as_local", run("raised", "KeyError(4)"), plan)
    assert found("same_as_local", run("raised", "ValueError(4)"), plan)
    assert found("same_as_local", run("serialization", "SerializationError"), plan)
    unpicklable = plan_of(Call(ordinal=0, body=Body(steps=(Step(op="return", text="unpicklable"),))))
    assert not found("same_as_local", run("serialization", "SerializationError"), unpicklable)
    assert found("same_as_local", run("value", "0"), unpicklable)


def test_g_a_generator_that_was_let_go_and_stands_where_it_stood_is_found_before_the_pool_closes() -> None:
    plan = plan_of(generator(1, 2, script=(Ask(op="next"), Ask(op="break"))))

    def dropped(*, final: float | None = None, died: float | None = None) -> Script:
        script = cluster("w0#0")
        started(script, offered(made(script, form="generator")))
        began(script)
        script.add("w0#0", "body.yielded", "c0.0", ordinal=0, value=1)
        ended(script, "dropped", executed="yes")
        if died is not None:
            script.add("w0#0", "node.crashed", at=died, reason="killed")
        if final is not None:
            script.add("w0#0", "body.finally", "c0.0", at=final)
        return script.done(at=20.0)

    assert found("a_dropped_generator_is_closed", dropped(), plan)
    assert found("a_dropped_generator_is_closed", dropped(final=15.0), plan), "late, as when the pool closes"
    assert not found("a_dropped_generator_is_closed", dropped(final=0.5), plan)
    assert not found("a_dropped_generator_is_closed", dropped(died=1.0), plan)
