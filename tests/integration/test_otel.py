"""Tracing over real processes: each has a provider of its own, and their spans make one trace."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import textwrap
import uuid
from pathlib import Path
from typing import Any

import pytest

from support.command import environment, wool_command, worker_command

pytestmark = pytest.mark.timeout(120)


def spans_in(place: Path) -> dict[str, dict[str, Any]]:
    """Return all spans by id, each with the pid of its process."""
    found: dict[str, dict[str, Any]] = {}
    for path in place.glob("*.jsonl"):
        for line in path.read_text().splitlines():
            span = json.loads(line)
            found[span["context"]["span_id"]] = {**span, "pid": int(path.stem)}
    return found


def run(script: str, place: Path) -> subprocess.CompletedProcess[str]:
    code = textwrap.dedent(script)
    return subprocess.run(
        [sys.executable, "-c", code],
        env=environment({"WOOL_TEST_SPANS": str(place)}),
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )


def line_of(span: dict[str, Any], spans: dict[str, dict[str, Any]]) -> list[tuple[str, str]]:
    """Return name and kind of a span and of all above it."""
    found = [(span["name"].rpartition(":")[2], span["kind"].removeprefix("SpanKind."))]
    return found + (line_of(spans[span["parent_id"]], spans) if span["parent_id"] else [])


@pytest.mark.smoke
def test_a_nested_call_over_processes_is_one_trace_and_calls_beside_it_are_others(tmp_path: Path) -> None:
    done = run(
        """
        import asyncio, wool
        from support import spans

        async def main():
            async with wool.WorkerPool(size=2):
                await asyncio.gather(*(spans.outer(f"n{number}") for number in range(20)))
                assert [number async for number in spans.count(3)] == [0, 1, 2]
            # Of a worker that dies what it has not exported is lost: in a pool of its own.
            async with wool.WorkerPool(size=1):
                for bad, error in ((spans.fails, LookupError), (spans.dies, wool.WorkerLost)):
                    try:
                        await bad()
                    except error:
                        pass

        import wool.otel
        spans.set_up()
        wool.otel.instrument(worker_setup="support.spans:set_up")
        asyncio.run(main())
        """,
        tmp_path,
    )
    assert done.returncode == 0, done.stderr
    spans = spans_in(tmp_path)
    (caller,) = {span["pid"] for span in spans.values() if span["kind"] == "SpanKind.CLIENT" and not span["parent_id"]}
    mine = [span for span in spans.values() if span["pid"] == caller]
    names = ("outer", "count", "fails", "dies")
    calls = {name: [span for span in mine if span["name"] == f"support.spans:{name}"] for name in names}
    assert {name: len(found) for name, found in calls.items()} == {"outer": 20, "count": 1, "fails": 1, "dies": 1}
    assert len({span["context"]["trace_id"] for span in calls["outer"]}) == 20
    assert calls["dies"][0]["attributes"]["wool.outcome"] == "lost"
    assert calls["dies"][0]["status"]["status_code"] == calls["fails"][0]["status"]["status_code"] == "ERROR"
    whole = [span for span in spans.values() if span["name"].startswith("in n") and _complete(span, spans)]
    assert len(whole) == 20, "workers that are stopped export what they have before they go"
    for span in whole:
        expected = [("inner", "SERVER"), ("inner", "CLIENT"), ("outer", "SERVER"), ("outer", "CLIENT")]
        assert line_of(span, spans)[1:] == expected
        assert span["pid"] != caller and len({each["context"]["trace_id"] for each in _line(span, spans)}) == 1
    roots = [_line(span, spans)[-1]["context"]["span_id"] for span in whole]
    assert len(set(roots)) == len(roots)


def _line(span: dict[str, Any], spans: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    return [span, *(_line(spans[span["parent_id"]], spans) if span["parent_id"] else [])]


def _complete(span: dict[str, Any], spans: dict[str, dict[str, Any]]) -> bool:
    return not span["parent_id"] or (span["parent_id"] in spans and _complete(spans[span["parent_id"]], spans))


def test_a_setup_that_fails_on_the_worker_is_told_where_the_pool_is_opened(tmp_path: Path) -> None:
    done = run(
        """
        import asyncio, wool, wool.otel

        async def main():
            async with wool.WorkerPool(size=1):
                pass

        wool.otel.instrument(worker_setup="support.spans:no_such_function")
        asyncio.run(main())
        """,
        tmp_path,
    )
    assert "WorkerStartError" in done.stderr
    words = "tracing cannot be set up by 'support.spans:no_such_function' (worker_setup, --otel): AttributeError"
    assert words in done.stderr


async def test_workers_of_the_command_are_told_by_otel_and_export_all_before_they_go(tmp_path: Path) -> None:
    namespace = f"otel-{uuid.uuid4().hex}"
    arguments = ("--discovery", f"local:{namespace}", "--size", "1", "--otel", "support.spans:set_up")
    async with worker_command(*arguments, env={"WOOL_TEST_SPANS": str(tmp_path)}):
        done = await asyncio.to_thread(
            run,
            f"""
            import asyncio, wool, wool.otel
            from support import spans

            async def main():
                async with wool.WorkerPool(discovery=wool.LocalDiscovery({namespace!r})):
                    await spans.outer("n")

            spans.set_up()
            wool.otel.instrument()
            asyncio.run(main())
            """,
            tmp_path,
        )
        assert done.returncode == 0, done.stderr
    spans = spans_in(tmp_path)
    names = sorted(span["name"].rpartition(":")[2] for span in spans.values())
    assert names == ["in n", "inner", "inner", "outer", "outer"]
    assert len({span["context"]["trace_id"] for span in spans.values()}) == 1
    assert len({span["pid"] for span in spans.values()}) == 2 and os.getpid() not in {s["pid"] for s in spans.values()}


async def test_a_worker_of_a_caller_that_does_not_trace_begins_traces_of_its_own(tmp_path: Path) -> None:
    namespace = f"otel-{uuid.uuid4().hex}"
    arguments = ("--discovery", f"local:{namespace}", "--size", "1", "--otel", "support.spans:set_up")
    async with worker_command(*arguments, env={"WOOL_TEST_SPANS": str(tmp_path)}):
        script = f"""
            import asyncio, wool
            from support import spans

            async def main():
                async with wool.WorkerPool(discovery=wool.LocalDiscovery({namespace!r})):
                    await spans.inner("n")

            asyncio.run(main())
            """
        done = await asyncio.to_thread(run, script, tmp_path)
        assert done.returncode == 0, done.stderr
    kinds = {span["name"]: (span["kind"], span["parent_id"]) for span in spans_in(tmp_path).values()}
    assert kinds["support.spans:inner"] == ("SpanKind.SERVER", None) and len(kinds) == 2


@pytest.mark.parametrize("setup", ["no/module", "a:b()"])
async def test_a_setup_of_another_form_is_refused_before_anything_starts(setup: str) -> None:
    status, _, errors = await wool_command("worker", "--discovery", "local:x", "--otel", setup)
    words = f"--otel: must be 'module:function' or 'module', as in 'app.telemetry:set_up', got {setup!r}"
    assert status == 2 and words in errors


async def test_a_setup_of_the_command_that_is_not_there_is_one_clear_line() -> None:
    arguments = ("--discovery", "local:x", "--size", "1", "--otel", "no_such:f")
    async with worker_command(*arguments, ready=False) as command:
        failed = await command.event("failed")
        assert await command.ended() == 1
        assert "tracing cannot be set up by 'no_such:f' (worker_setup, --otel): ModuleNotFoundError" in failed["why"]
        assert "output" not in failed and command.all("output") == [] == command.others
