"""A module that callers and workers import, with handlers of task events that write down where they were told what."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import wool

PLACE = os.environ.get("WOOL_TEST_TOLD", "")


def _write(name: str, event: wool.TaskEvent) -> None:
    if PLACE:
        with (Path(PLACE) / name).open("a") as file:
            file.write(f"{os.getpid()} {event.type} {event.task.routine.partition(':')[2]} {event.outcome}\n")


@wool.TaskEvent.handler("task-started", "task-completed", remote=True)
def from_everywhere(event: wool.TaskEvent, timestamp: int, context: object = None) -> None:
    _write("remote", event)


@wool.TaskEvent.handler("task-started", "task-created", "task-completed")
async def from_here(event: wool.TaskEvent, timestamp: int, context: object = None) -> None:
    _write("here", event)


@wool.routine
async def inner() -> None:
    await asyncio.sleep(0)


@wool.routine
async def outer() -> int:
    await inner()
    return os.getpid()


@wool.routine
async def dies() -> None:
    os.kill(os.getpid(), 9)
