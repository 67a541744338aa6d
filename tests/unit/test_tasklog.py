from __future__ import annotations

import asyncio
import io
import logging

from wool.task import Task, set_current_task
from wool.tasklog import TaskLogFilter


def test_a_record_says_which_task_has_logged_it_and_nothing_outside() -> None:
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.addFilter(TaskLogFilter())
    handler.setFormatter(logging.Formatter("%(task)s %(caller)s %(worker)s %(message)s"))
    logger = logging.getLogger("a shop of this test alone")
    logger.propagate = False
    logger.addHandler(handler)

    async def body(number: int) -> None:
        set_current_task(
            Task(key=bytes([number] * 16), routine="m:f", kind="coroutine", caller="caller", worker=f"worker-{number}")
        )
        await asyncio.sleep(0)
        logger.warning("inside %d", number)
        await asyncio.to_thread(logger.warning, "thread of %d", number)

    async def main() -> None:
        logger.warning("before")
        await asyncio.gather(body(1), body(2))
        logger.warning("after")

    asyncio.run(main())
    lines = stream.getvalue().splitlines()
    assert (lines[0], lines[-1]) == ("- - - before", "- - - after")
    for number in (1, 2):
        ids = f"{f'0{number}' * 16} caller worker-{number}"
        assert {f"{ids} inside {number}", f"{ids} thread of {number}"} <= set(lines)
    assert len(lines) == 6
