"""Spans of calls and executions: who is whose child, what they say, and that no tracer can harm a call."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, Sampler

import wool
from support import bodies
from support.memory_pool import memory_pool
from support.one_loop import until
from support.story import listening
from wool import otel
from wool.tracing import PROCESS

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:opentelemetry")


@wool.routine
async def inner(name: str) -> str:
    await asyncio.sleep(0)
    with trace.get_tracer("body").start_as_current_span(f"in {name}"):
        await asyncio.sleep(0)
    return name


@wool.routine
async def outer(name: str) -> list[str]:
    return await asyncio.gather(inner(f"{name}1"), inner(f"{name}2"))


@wool.routine
async def fails() -> None:
    raise LookupError("on purpose")


@wool.routine
async def locks() -> object:
    return threading.Lock()


@wool.routine
async def hangs() -> None:
    bodies.story.append("hangs")
    await asyncio.Event().wait()


@wool.routine
async def items(stop: int) -> AsyncIterator[Any]:
    got = None
    for number in range(stop):
        got = yield (number, got)


class Recorder:
    """The spans that have ended."""

    def __init__(self) -> None:
        self.exporter = InMemorySpanExporter()
        self.provider = TracerProvider()
        self.provider.add_span_processor(SimpleSpanProcessor(self.exporter))

    def of(self, name: str, kind: trace.SpanKind | None = None) -> list[ReadableSpan]:
        return [
            span
            for span in self.exporter.get_finished_spans()
            if span.name.endswith(name) and kind in (None, span.kind)
        ]

    def pair(self, name: str) -> tuple[ReadableSpan, ReadableSpan]:
        (call,) = self.of(name, trace.SpanKind.CLIENT)
        (execution,) = self.of(name, trace.SpanKind.SERVER)
        return call, execution


@pytest.fixture
def recorder(monkeypatch: pytest.MonkeyPatch) -> Iterator[Recorder]:
    made = Recorder()
    # The global provider can be set but once per process; bodies ask for it here.
    monkeypatch.setattr(trace, "get_tracer_provider", lambda: made.provider)
    otel.instrument(made.provider)
    yield made
    otel.uninstrument()
    made.provider.shutdown()


def child_of(span: ReadableSpan, parent: ReadableSpan) -> bool:
    return span.parent is not None and span.parent.span_id == parent.context.span_id  # type: ignore[union-attr]


async def test_a_call_is_a_span_and_its_execution_a_child_of_it(recorder: Recorder) -> None:
    async with memory_pool("one"):
        with recorder.provider.get_tracer("app").start_as_current_span("request"):
            assert await inner("a") == "a"
        await until(lambda: len(recorder.exporter.get_finished_spans()) == 4)
    (request,) = recorder.of("request")
    call, execution = recorder.pair("test_otel:inner")
    (within,) = recorder.of("in a")
    assert child_of(call, request) and child_of(execution, call) and child_of(within, execution)
    assert len({span.context.trace_id for span in recorder.exporter.get_finished_spans()}) == 1  # type: ignore[union-attr]
    assert execution.parent is not None and execution.parent.is_remote
    said, done = dict(call.attributes or {}), dict(execution.attributes or {})
    method = f"{__name__}:inner"
    assert call.name == execution.name == said["rpc.method"] == done["rpc.method"] == method
    assert said["rpc.system.name"] == done["rpc.system.name"] == "wool"
    assert said["wool.task.id"] == done["wool.task.id"] and said["wool.task.kind"] == "coroutine"
    assert said["wool.worker.id"] == done["wool.worker.id"] == "one" and said["server.address"] == "/one"
    assert done["code.function.name"] == method.replace(":", ".")
    assert said["wool.outcome"] == done["wool.outcome"] == "success"
    assert call.status.is_unset and execution.status.is_unset


async def test_calls_that_a_body_makes_are_children_of_its_execution_and_those_of_others_are_not(
    recorder: Recorder,
) -> None:
    async with memory_pool("one", "two"):
        names = [f"n{number}." for number in range(30)]
        assert await asyncio.gather(*map(outer, names)) == [[f"{name}1", f"{name}2"] for name in names]
        await until(lambda: len(recorder.exporter.get_finished_spans()) == 30 * 8)
    spans = {span.context.span_id: span for span in recorder.exporter.get_finished_spans()}  # type: ignore[union-attr]
    roots: dict[int, set[str]] = {}
    for span in recorder.of(""):
        line = [span]
        while line[-1].parent is not None:
            line.append(spans[line[-1].parent.span_id])
        if span.name.startswith("in "):
            kinds = [each.kind for each in line[1:]]
            assert kinds == [trace.SpanKind.SERVER, trace.SpanKind.CLIENT] * 2
            roots.setdefault(line[-1].context.span_id, set()).add(span.name)  # type: ignore[union-attr]
    assert sorted(map(sorted, roots.values())) == sorted([f"in {name}1", f"in {name}2"] for name in names)


async def test_what_a_body_raises_is_recorded_with_status_on_both_sides(recorder: Recorder) -> None:
    async with memory_pool():
        with pytest.raises(LookupError):
            await fails()
        await until(lambda: len(recorder.of(":fails")) == 2)
    for span in recorder.pair(":fails"):
        assert span.status.status_code is trace.StatusCode.ERROR
        assert span.status.description == "LookupError: on purpose"
        assert dict(span.attributes or {})["error.type"] == "LookupError"
        (event,) = span.events
        said = dict(event.attributes or {})
        assert event.name == "exception" and said["exception.type"] == "LookupError"
        assert "raise LookupError" in str(said["exception.stacktrace"])


async def test_a_result_that_does_not_travel_is_a_failure_of_both(recorder: Recorder) -> None:
    async with memory_pool():
        with pytest.raises(wool.SerializationError):
            await locks()
        await until(lambda: len(recorder.of(":locks")) == 2)
    for span in recorder.pair(":locks"):
        assert dict(span.attributes or {})["error.type"] == "wool.errors.SerializationError"


async def test_a_cancelled_call_is_an_error_of_its_caller_and_none_of_the_worker(recorder: Recorder) -> None:
    bodies.reset()
    async with memory_pool():
        call = asyncio.create_task(hangs())
        await until(lambda: bodies.story == ["hangs"])
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        await until(lambda: len(recorder.of(":hangs")) == 2)
    said, done = recorder.pair(":hangs")
    assert said.status.status_code is trace.StatusCode.ERROR and done.status.is_unset
    for span in (said, done):
        assert dict(span.attributes or {})["wool.outcome"] == "cancelled"
        assert [event.name for event in span.events] == ["exception"]


async def test_a_lost_worker_ends_the_span_of_the_call_as_lost(recorder: Recorder) -> None:
    bodies.reset()
    async with memory_pool("one") as made:
        call = asyncio.create_task(hangs())
        await until(lambda: bodies.story == ["hangs"])
        made.workers["one"].sessions[0].session.abort("cut")
        with pytest.raises(wool.WorkerLost):
            await call
    (said,) = recorder.of(":hangs", trace.SpanKind.CLIENT)
    assert dict(said.attributes or {})["wool.outcome"] == "lost"
    assert dict(said.attributes or {})["error.type"] == "wool.errors.WorkerLost"
    assert said.status.status_code is trace.StatusCode.ERROR


async def test_no_workers_end_the_span_of_the_call_as_a_failure(recorder: Recorder) -> None:
    async with memory_pool("one") as made:
        made.drop("one")
        await made.settle()
        with wool.RuntimeContext(dispatch_timeout=0.05), pytest.raises(wool.NoWorkersAvailable):
            await waits("never")
    (said,) = recorder.of(":waits")
    assert str(dict(said.attributes or {})["error.type"]).startswith("wool.errors.")
    assert "server.address" not in (said.attributes or {})


async def test_the_execution_of_a_generator_lasts_its_life_and_its_steps_are_events(recorder: Recorder) -> None:
    async with memory_pool():
        generator: Any = items(5)
        assert await anext(generator) == (0, None)
        assert await generator.asend("x") == (1, "x")
        assert not recorder.of(":items")
        await generator.aclose()
        await until(lambda: len(recorder.of(":items")) == 2)
    said, done = recorder.pair(":items")
    steps = [dict(event.attributes or {}) for event in done.events]
    assert [(step["wool.step.kind"], step["wool.step.number"]) for step in steps] == [
        ("next", 0),
        ("send", 1),
        ("close", 2),
    ]
    assert child_of(done, said) and said.status.is_unset and done.status.is_unset
    assert dict(done.attributes or {})["wool.outcome"] == "success"


async def test_handlers_of_task_events_hear_the_same_with_a_tracer_as_without(recorder: Recorder) -> None:
    with listening(remote=True) as listener:
        async with memory_pool("one"):
            assert await inner("a") == "a"
        assert listener.types("inner").startswith("csS") and listener.types("inner").endswith("EC")


async def test_a_trace_that_is_not_sampled_goes_on_unsampled(recorder: Recorder) -> None:
    off = TracerProvider(sampler=ALWAYS_OFF)
    seen: list[trace.SpanContext] = []

    async with memory_pool("one") as made:
        made.workers["one"].runner._tracing.tracer = Seeing(otel.OtelTracer(off), seen)
        with off.get_tracer("app").start_as_current_span("request") as request:
            await waits("a")
    assert not recorder.exporter.get_finished_spans()
    assert seen[0].trace_id == request.get_span_context().trace_id and not seen[0].trace_flags.sampled


class Seeing:
    def __init__(self, tracer: otel.OtelTracer, seen: list[trace.SpanContext]) -> None:
        self._tracer, self._seen = tracer, seen

    def call(self, task: wool.Task) -> Any:
        return self._tracer.call(task)

    def execution(self, task: wool.Task, said: Any) -> Any:
        span = self._tracer.execution(task, said)
        self._seen.append(trace.get_current_span().get_span_context())
        return span

    def flush(self, seconds: float) -> None:
        self._tracer.flush(seconds)


class BadSampler(Sampler):
    def should_sample(self, *args: Any, **kwargs: Any) -> Any:
        raise ZeroDivisionError("the sampler")

    def get_description(self) -> str:
        return "bad"


class BadProcessor(SpanProcessor):
    def on_end(self, span: ReadableSpan) -> None:
        raise ZeroDivisionError("the processor")


@pytest.mark.parametrize("bad", ["sampler", "processor"])
async def test_a_tracer_that_raises_breaks_no_call(
    recorder: Recorder, bad: str, caplog: pytest.LogCaptureFixture
) -> None:
    if bad == "sampler":
        otel.instrument(TracerProvider(sampler=BadSampler()))
    else:
        recorder.provider.add_span_processor(BadProcessor())
    async with memory_pool("one"):
        assert await asyncio.gather(*map(waits, "ab")) == ["a", "b"]
    assert f"ZeroDivisionError: the {bad}" in caplog.text


@wool.routine
async def waits(name: str) -> str:
    return name


async def test_spans_end_where_tracing_does_and_what_began_ends() -> None:
    made = Recorder()
    otel.instrument(made.provider)
    bodies.reset()
    try:
        async with memory_pool():
            call = asyncio.create_task(hangs())
            await until(lambda: bodies.story == ["hangs"])
            otel.uninstrument()
            assert await waits("untraced") == "untraced"
            call.cancel()
            with pytest.raises(asyncio.CancelledError):
                await call
            await until(lambda: len(made.of("")) == 2)
        assert len(made.of(":hangs")) == 2
    finally:
        otel.uninstrument()


def test_nothing_of_opentelemetry_is_imported_where_nobody_traces() -> None:
    code = (
        "import sys, wool, wool.proxy, wool.worker.serve, wool.transport.grpc\n"
        "print([name for name in sys.modules if 'opentelemetry' in name])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=50)
    assert done.stdout.strip() == "[]"


def test_without_the_extra_the_error_names_it() -> None:
    code = "import sys; sys.modules['opentelemetry'] = None\nimport wool.otel"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=50)
    assert "wool.otel needs opentelemetry-api: pip install 'wool[otel]'" in done.stderr


@pytest.mark.parametrize("setup", ["", "a b", "a:", ":b", "a:b()", "a/b", 3])
def test_a_worker_setup_of_another_form_is_refused_in_words(setup: Any) -> None:
    with pytest.raises(ValueError, match=r"must be 'module:function' or 'module'.* got "):
        otel.instrument(worker_setup=setup)
    assert PROCESS.tracer is None and PROCESS.workers is None


@pytest.mark.parametrize("setup", ["no_such_module:f", "support.bodies:nothing", "support.bodies:fail.x"])
def test_a_setup_that_fails_is_named_with_its_cause(setup: str) -> None:
    with pytest.raises(RuntimeError, match=rf"tracing cannot be set up by '{setup}'.*Error: ") as caught:
        otel.set_up_worker(setup)
    assert caught.value.__cause__ is None and caught.value.__suppress_context__  # the words say all
    assert PROCESS.tracer is None
