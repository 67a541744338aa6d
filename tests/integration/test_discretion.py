"""What is passed between callers and workers is told to nobody: neither by a log, whatever its level, nor by a repr."""

from __future__ import annotations

import asyncio
import contextlib
import json
import uuid
from collections.abc import AsyncGenerator

import pytest

import wool
from support.command import WorkerCommand, worker_command
from support.routines import echo
from wool.serialization import dumps

pytestmark = pytest.mark.timeout(120)

VARIABLE: wool.ContextVar[str] = wool.ContextVar("discretion", default="")


class Unloadable:
    """Fails where it is loaded, with what it holds in its words."""

    def __init__(self, word: str) -> None:
        self.word = word

    def __setstate__(self, state: dict[str, str]) -> None:
        raise ValueError(f"cannot load {state}")


class Unpicklable:
    def __init__(self, word: str) -> None:
        self.word = word

    def __repr__(self) -> str:
        return f"Unpicklable({self.word})"

    def __reduce__(self) -> str:
        raise TypeError(f"cannot pickle {self.word}")


@wool.routine
async def fail(word: str) -> None:
    raise LookupError(word)


@wool.routine
async def answer_unsendably(word: str) -> Unpicklable:
    return Unpicklable(word)


@wool.routine
async def sleep(word: str) -> str:
    VARIABLE.set(word)
    await asyncio.sleep(60)
    return word


@wool.routine
async def back_and_forth(word: str) -> AsyncGenerator[str, str]:
    while True:
        word = yield word


async def _make_all_sorts_of_calls(word: str, command: WorkerCommand) -> None:
    VARIABLE.set(word)
    assert await echo(word) == word
    assert await echo([word] * 20_000) == [word] * 20_000
    for failing in (fail(word), answer_unsendably(word), echo(Unloadable(word))):
        with pytest.raises((LookupError, wool.SerializationError)):
            await failing
    numbers = back_and_forth(word)
    assert await anext(numbers) == word
    assert await numbers.asend(word) == word
    with pytest.raises(LookupError):
        await numbers.athrow(LookupError(word))
    sleeping = asyncio.create_task(sleep(word))
    await command.event("task-started", times=7)
    sleeping.cancel(word)
    with contextlib.suppress(asyncio.CancelledError):
        await sleeping


async def test_the_log_of_a_worker_and_of_its_caller_hold_nothing_of_arguments_results_and_exceptions(
    caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level("DEBUG")
    word, name = uuid.uuid4().hex, f"discretion-{uuid.uuid4().hex[:8]}"
    async with worker_command("--discovery", f"local:{name}", "--log-level", "debug") as command:
        await command.event("ready")
        async with wool.WorkerPool(discovery=wool.LocalDiscovery(name)):
            await _make_all_sorts_of_calls(word, command)
            await command.event("task-ended", times=7)
            begun = len(command.all("task-started"))
            left = asyncio.create_task(sleep(word))
            await command.event("task-started", times=begun + 1)
            left.cancel()
            await asyncio.wait([left])
        command.signal()
        assert await command.ended() == 0
    assert command.all("task-ended", outcome="failed"), "the log is told of what was done"
    assert word not in json.dumps(command.events) + "".join(command.others)
    out, err = capfd.readouterr()
    assert word not in out + err + caplog.text


async def test_no_repr_holds_anything_of_arguments_results_and_exceptions() -> None:
    word = uuid.uuid4().hex
    heard: list[wool.TaskEvent] = []

    @wool.TaskEvent.handler("task-created", "task-completed")
    def hear(event: wool.TaskEvent, timestamp: int, context: object = None) -> None:
        heard.append(event)

    try:
        async with wool.WorkerPool(size=1) as pool:
            with pytest.raises(LookupError) as caught:
                await fail(word)
            call, items = echo(word), back_and_forth(word)
            assert await anext(items) == word
            shown = [pool, *pool.workers, call, items, wool.origin(caught.value), VARIABLE, dumps(word), echo]
            told = [repr(each) for each in shown]
            await call
            await items.aclose()
    finally:
        wool.TaskEvent.remove_handler(hear)
    assert {event.type for event in heard} == {"task-created", "task-completed"}
    for text in (*told, *map(repr, heard), repr(wool.TaskException.from_exception(caught.value))):
        assert word not in text
