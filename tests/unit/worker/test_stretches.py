"""What drives a body in stretches is to the body, and to who awaits it, as if it were not there."""

from __future__ import annotations

import types
from collections.abc import Generator

import pytest

from wool.events import STARTED, STOPPED
from wool.worker.stretches import in_stretches


@types.coroutine
def suspended() -> Generator[str, str, str]:
    return (yield "suspended")


async def test_a_body_that_is_dropped_in_the_middle_is_closed_with_its_awaiter_and_what_it_raises_is_seen() -> None:
    story: list[str] = []

    async def body() -> None:
        try:
            await suspended()
        finally:
            story.append("finally")
            raise LookupError("of the finally")

    async def outer() -> None:
        await in_stretches(body(), lambda bit: None)

    running = outer()
    assert running.send(None) == "suspended"
    with pytest.raises(LookupError, match="of the finally"):
        running.close()
    assert story == ["finally"]


async def test_values_and_exceptions_go_through_and_each_stretch_is_told() -> None:
    told: list[int] = []

    async def body() -> list[str]:
        said = [await suspended()]
        try:
            await suspended()
        except LookupError as error:
            said.append(str(error))
        return said

    async def outer() -> list[str]:
        result: list[str] = await in_stretches(body(), told.append)
        return result

    running = outer()
    running.send(None)
    running.send("sent")
    with pytest.raises(StopIteration) as ended:
        running.throw(LookupError("thrown"))
    assert ended.value.value == ["sent", "thrown"]
    assert told == [STARTED, STOPPED] * 3
