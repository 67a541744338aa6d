"""Sets up tracing in a process as an application does, and its spans are lines of a file."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path

from opentelemetry import trace
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, ConsoleSpanExporter

import wool

PLACE = os.environ.get("WOOL_TEST_SPANS", "")


def set_up() -> None:
    """What ``worker_setup`` and ``--otel`` name."""
    provider = TracerProvider(resource=Resource({"service.name": "wool-tests"}))
    file = (Path(PLACE) / f"{os.getpid()}.jsonl").open("a")
    exporter = ConsoleSpanExporter(out=file, formatter=lambda span: span.to_json(indent=None) + "\n")
    # In batches, so that what is not flushed at the end is missing.
    provider.add_span_processor(BatchSpanProcessor(exporter))
    trace.set_tracer_provider(provider)


@wool.routine
async def inner(name: str) -> int:
    with trace.get_tracer("body").start_as_current_span(f"in {name}"):
        await asyncio.sleep(0)
    return os.getpid()


@wool.routine
async def outer(name: str) -> int:
    return await inner(name)


@wool.routine
async def count(stop: int) -> AsyncIterator[int]:
    for number in range(stop):
        yield number


@wool.routine
async def fails() -> None:
    raise LookupError("on purpose")


@wool.routine
async def dies() -> None:
    os.kill(os.getpid(), 9)
