"""Spans of calls and executions, by OpenTelemetry: the extra ``wool[otel]``.

Why it exists: `instrument` fills `wool.tracing` with a tracer of OpenTelemetry's API. Which spans are kept, and where
they go, is for the ``TracerProvider`` that the application has set up in each process, callers and workers alike.

What it makes, after the semantic conventions for RPC (https://opentelemetry.io/docs/specs/semconv/rpc/rpc-spans/,
release candidate) where these fit:

* A span of kind CLIENT for each call, from when its arguments are pickled until its caller has the end, and one of kind
  SERVER for each execution, from when the body begins until it has ended, a generator's for its whole life. Both have
  ``rpc.method`` as their name, which is ``module:qualname`` of the routine. The execution is the child of the call,
  over the wire by W3C Trace Context (https://www.w3.org/TR/trace-context/), and current in the body, so that calls
  which bodies make are its children.
* ``rpc.system.name`` is ``wool``; ``server.address`` and ``server.port`` say where the call was accepted;
  ``code.function.name`` (https://opentelemetry.io/docs/specs/semconv/registry/attributes/code/) is the body's. Of
  wool's own are ``wool.task.id``, ``wool.task.kind``, ``wool.worker.id``, ``wool.caller.id`` and ``wool.outcome``.
* An error is an event ``exception`` (https://opentelemetry.io/docs/specs/semconv/exceptions/exceptions-spans/),
  ``error.type`` and the status ERROR, of both spans. What was cancelled is one for the caller and none for the worker,
  as it is with gRPC. A step of a generator is an event ``wool.step`` of the execution.

It must never break a call: what a sampler or a processor raises is logged, and the call goes on without its span.
"""

from __future__ import annotations

import logging
import re
import threading
from collections.abc import Callable
from importlib import import_module
from typing import Any, Final

from wool._version import __version__
from wool.discovery.base import WorkerMetadata
from wool.events import IterationKind, TaskOutcome
from wool.failure import TaskException
from wool.protocol.frames import Trace
from wool.protocol.tracing import checked
from wool.task import Task
from wool.tracing import PROCESS

try:
    from opentelemetry import context as otel_context
    from opentelemetry import trace as otel_trace
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
except ModuleNotFoundError as _missing:
    raise ModuleNotFoundError(
        "wool.otel needs opentelemetry-api: pip install 'wool[otel]'", name=_missing.name, path=_missing.path
    ) from _missing

__all__ = ["instrument", "uninstrument"]

_log = logging.getLogger("wool.otel")

SYSTEM: Final = "wool"
_PROPAGATOR = TraceContextTextMapPropagator()
_SETUP = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*(:[^\W\d]\w*(\.[^\W\d]\w*)*)?")
_NOTHING = otel_context.Context()


def instrument(provider: otel_trace.TracerProvider | None = None, *, worker_setup: str | None = None) -> None:
    """Trace the calls that this process makes and the bodies that it runs, from now on.

    ``provider`` makes the spans; without one it is the global one, also if that is only set later. Workers that this
    process starts from now on trace too. Each of them needs a provider of its own: ``worker_setup``,
    ``"module:function"`` or ``"module"``, is imported, and the function called without arguments, before the worker
    takes a task. `wool worker` is told the same by ``--otel``.

    Said again, it replaces what was said before. Raises `ValueError` if ``worker_setup`` has another form.
    """
    if worker_setup is not None:
        check_setup(worker_setup)
    PROCESS.workers = worker_setup or ""
    PROCESS.tracer = OtelTracer(provider)


def uninstrument() -> None:
    """Trace nothing from now on; spans that have begun end as they would. Workers that run are not told."""
    PROCESS.workers = None
    PROCESS.tracer = None


def check_setup(setup: object) -> str:
    """Return ``setup`` if it is ``module`` or ``module:function``. Raises `ValueError`."""
    if not isinstance(setup, str) or _SETUP.fullmatch(setup) is None:
        raise ValueError(f"must be 'module:function' or 'module', as in 'app.telemetry:set_up', got {setup!r:.100}")
    return setup


def set_up_worker(setup: str) -> None:
    """Do in a worker what `instrument` has said for it; ``setup`` may be empty.

    Raises `RuntimeError`, with the cause if that is in code of the user's and not in what ``setup`` says.
    """
    name, _, function = setup.partition(":")
    looks_up = False
    try:
        found: Any = import_module(name) if name else None
        looks_up = True
        for part in function.split(".") if function else ():
            found = getattr(found, part)
        looks_up = False
        if function:
            found()
    except Exception as error:
        if isinstance(error, ModuleNotFoundError) and f"{name}.".startswith(f"{error.name}."):
            looks_up = True  # it is not there, and not only what it imports
        words = f"tracing cannot be set up by {setup!r} (worker_setup, --otel): {type(error).__name__}: {error}"
        raise RuntimeError(words) from (None if looks_up else error)
    if PROCESS.tracer is None:
        instrument(worker_setup=setup or None)


class OtelTracer:
    """See `wool.tracing.Tracer`."""

    def __init__(self, provider: otel_trace.TracerProvider | None) -> None:
        self._provider = provider
        self._tracer = otel_trace.get_tracer("wool", __version__, tracer_provider=provider)

    def call(self, task: Task) -> OtelSpan:
        """See `wool.tracing.Tracer`."""
        return OtelSpan(self._start(task, otel_trace.SpanKind.CLIENT, None, {}), of_caller=True)

    def execution(self, task: Task, trace: Trace | None) -> OtelSpan:
        """See `wool.tracing.Tracer`."""
        headers = {} if trace is None else {"traceparent": trace.parent, "tracestate": trace.state}
        around = _PROPAGATOR.extract(headers, context=_NOTHING)
        more = {
            "wool.worker.id": task.worker,
            "wool.caller.id": task.caller,
            "code.function.name": task.routine.replace(":", "."),
        }
        span = self._start(task, otel_trace.SpanKind.SERVER, around, more)
        # Not detached: the context is the body's own, and goes with it.
        otel_context.attach(otel_trace.set_span_in_context(span, around))
        return OtelSpan(span, of_caller=False)

    def _start(
        self, task: Task, kind: otel_trace.SpanKind, around: otel_context.Context | None, more: dict[str, str]
    ) -> otel_trace.Span:
        attributes = {
            "rpc.system.name": SYSTEM,
            "rpc.method": task.routine,
            "wool.task.id": str(task.id),
            "wool.task.kind": task.kind,
            **more,
        }
        try:
            return self._tracer.start_span(
                task.routine, context=around, kind=kind, attributes=attributes, record_exception=False
            )
        except Exception:
            _log.exception("%s is not traced: its span could not be started", task)
            return otel_trace.INVALID_SPAN

    def flush(self, seconds: float) -> None:
        """See `wool.tracing.Tracer`."""
        provider: Any = self._provider or otel_trace.get_tracer_provider()
        flush: Callable[[int], object] | None = getattr(provider, "force_flush", None)
        if flush is None:
            return  # The API's own, which keeps nothing.
        # In a thread, since not every exporter keeps to the time that it is given.
        thread = threading.Thread(target=_quietly, args=(flush, int(seconds * 1000)), name="wool-otel", daemon=True)
        thread.start()
        thread.join(seconds)


class OtelSpan:
    """A span of either side: see `wool.tracing.CallSpan` and `wool.tracing.ExecutionSpan`."""

    __slots__ = ("_of_caller", "_span", "trace")

    def __init__(self, span: otel_trace.Span, *, of_caller: bool) -> None:
        self._span = span
        self._of_caller = of_caller
        self.trace: Trace | None = _trace_of(span) if of_caller else None
        """See `wool.tracing.CallSpan`."""

    def scheduled(self, worker: WorkerMetadata) -> None:
        """See `wool.tracing.CallSpan`."""
        attributes: dict[str, str | int] = {"wool.worker.id": worker.uid}
        host, _, port = worker.address.rpartition(":")
        if worker.address.startswith("unix:"):
            attributes["server.address"] = worker.address.removeprefix("unix:")
        else:
            attributes["server.address"] = host.strip("[]")
            attributes["server.port"] = int(port)
        _quietly(self._span.set_attributes, attributes)

    def step(self, kind: IterationKind, number: int) -> None:
        """See `wool.tracing.ExecutionSpan`."""
        _quietly(self._span.add_event, "wool.step", {"wool.step.kind": kind, "wool.step.number": number})

    def ended(self, outcome: TaskOutcome, exception: TaskException | None) -> None:
        """See `wool.tracing.CallSpan`."""
        _quietly(self._end, outcome, exception)

    def _end(self, outcome: TaskOutcome, exception: TaskException | None) -> None:
        span = self._span
        if span.is_recording():
            span.set_attribute("wool.outcome", outcome)
            if exception is not None:
                # As the SDK names them.
                type = exception.type.removeprefix("builtins.")
                what = {
                    "exception.type": type,
                    "exception.message": exception.message,
                    "exception.stacktrace": exception.traceback,
                }
                span.add_event("exception", what)
                if self._of_caller or outcome != "cancelled":
                    span.set_attribute("error.type", type)
                    words = f"{type}: {exception.message}"
                    span.set_status(otel_trace.Status(otel_trace.StatusCode.ERROR, words))
        span.end()


def _trace_of(span: otel_trace.Span) -> Trace | None:
    headers: dict[str, str] = {}
    _PROPAGATOR.inject(headers, context=otel_trace.set_span_in_context(span, _NOTHING))
    # What was made here is bounded like what comes from others; without a provider there is nothing.
    state = headers.get("tracestate", "").encode("utf-8", "replace")
    return checked(headers.get("traceparent", "").encode("ascii", "replace"), state)


def _quietly(do: Callable[..., object], *arguments: object) -> None:
    try:
        do(*arguments)
    except Exception:
        _log.exception("a span could not be told what has happened; the call goes on")
