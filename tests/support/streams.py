"""Bodies of async generators, one for each way to answer what a consumer does."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from typing import Any

from support.journal import Pen


class Awkward(Exception):
    """Takes other arguments than it hands on, and carries more."""

    def __init__(self, code: int, *, hint: str = "none") -> None:
        super().__init__(f"code {code}")
        self.code = code
        self.hint = hint


Items = AsyncGenerator[Any, Any]
BODIES: list[Callable[[Pen], Items]] = []


def body(function: Callable[[Pen], Items]) -> Callable[[Pen], Items]:
    BODIES.append(function)
    return function


@body
async def plain(pen: Pen) -> Items:
    for number in range(3):
        pen.note(f"before {number}")
        got = yield number
        pen.note(f"got {got!r}")
    pen.note("end")


@body
async def nothing(pen: Pen) -> Items:
    pen.note("nothing")
    return
    yield


@body
async def echoing(pen: Pen) -> Items:
    got: Any = None
    while got != "stop":
        got = yield got
        pen.note(f"got {got!r}")


@body
async def suppressing(pen: Pen) -> Items:
    for number in range(4):
        try:
            yield number
        except Exception as error:
            pen.note(f"suppressed {type(error).__name__}{error.args}")


@body
async def suppressing_everything(pen: Pen) -> Items:
    for number in range(4):
        try:
            yield number
        except BaseException as error:
            pen.note(f"suppressed {type(error).__name__}{error.args}")


@body
async def transforming(pen: Pen) -> Items:
    try:
        yield 1
        yield 2
    except ValueError as error:
        raise Awkward(3, hint="transformed") from error
    except LookupError:
        raise KeyError("in its context")  # noqa: B904
    except ArithmeticError:
        raise RuntimeError("no context") from None


@body
async def reraising(pen: Pen) -> Items:
    try:
        yield 1
    except BaseException as error:
        pen.note(f"saw {type(error).__name__}{error.args}")
        raise


@body
async def reraising_by_name(pen: Pen) -> Items:
    try:
        yield 1
    except BaseException as error:
        error.add_note("seen")
        raise error


@body
async def reraising_later(pen: Pen) -> Items:
    caught: BaseException | None = None
    try:
        yield 1
    except Exception as error:
        caught = error
    yield 2
    if caught is not None:
        raise caught


@body
async def reraising_from(pen: Pen) -> Items:
    try:
        yield 1
    except Exception as error:
        error.args = ("changed", 7)
        raise error from LookupError("why")


@body
async def yielding_in_a_handler(pen: Pen) -> Items:
    try:
        raise LookupError("handled")
    except LookupError:
        yield 1
        yield 2
    yield 3


@body
async def yielding_in_finally(pen: Pen) -> Items:
    try:
        yield 1
    finally:
        pen.note("finally")
        got = yield 2
        pen.note(f"got {got!r}")
        yield 3


@body
async def awaiting_in_finally(pen: Pen) -> Items:
    try:
        yield 1
        yield 2
    finally:
        pen.note("finally")
        await asyncio.sleep(0)
        pen.note("awaited")


@body
async def parking_in_finally(pen: Pen) -> Items:
    try:
        yield 1
        yield 2
    finally:
        pen.note("finally")
        try:
            await pen.park()
        finally:
            pen.note("left")


@body
async def returning_early(pen: Pen) -> Items:
    try:
        yield 1
        return
    finally:
        pen.note("finally")
    yield 2


@body
async def returning_from_close(pen: Pen) -> Items:
    try:
        yield 1
        yield 2
    except GeneratorExit:
        pen.note("closed")
        return
    except ValueError:
        pen.note("value")
        return


@body
async def raising_from_close(pen: Pen) -> Items:
    try:
        yield 1
        yield 2
    except GeneratorExit as error:
        raise Awkward(1) from error


@body
async def raising_in_the_middle(pen: Pen) -> Items:
    yield 1
    try:
        raise Awkward(2, hint="middle")
    finally:
        pen.note("finally")


@body
async def raising_at_once(pen: Pen) -> Items:
    raise ValueError("at once", 1)
    yield


@body
async def raising_stop(pen: Pen) -> Items:
    got = yield 1
    raise StopAsyncIteration("of the body") if got is None else StopIteration("of the body")


@body
async def raising_cancelled(pen: Pen) -> Items:
    yield 1
    raise asyncio.CancelledError("of the body")


@body
async def raising_a_group(pen: Pen) -> Items:
    yield 1
    try:
        raise KeyError("first")
    except KeyError as error:
        raise ExceptionGroup("both", [error, Awkward(5)]) from error


@body
async def nested_finally(pen: Pen) -> Items:
    try:
        try:
            yield 1
        finally:
            pen.note("inner")
            await asyncio.sleep(0)
            raise LookupError("inner")
    except LookupError as error:
        pen.note(f"context {type(error.__context__).__name__}")
        yield 2
        raise
    finally:
        pen.note("outer")


@body
async def delegating(pen: Pen) -> Items:
    async for item in endless(pen):
        got = yield ["delegated", item]
        pen.note(f"outer got {got!r}")
    pen.note("over")


@body
async def delegating_and_closing(pen: Pen) -> Items:
    inner = awaiting_in_finally(pen)
    try:
        async for item in inner:
            yield item
    finally:
        await inner.aclose()


@body
async def parking(pen: Pen) -> Items:
    yield 1
    await pen.park()
    yield 2


@body
async def suppressing_cancellation(pen: Pen) -> Items:
    for number in range(3):
        try:
            await pen.park()
        except asyncio.CancelledError as error:
            pen.note(f"cancelled {error.args}")
        yield number


@body
async def suppressing_twice(pen: Pen) -> Items:
    yield 0
    for _ in range(2):
        try:
            await pen.park()
        except asyncio.CancelledError as error:
            pen.note(f"cancelled {error.args}")
    await asyncio.sleep(0)
    yield 1


@body
async def transforming_cancellation(pen: Pen) -> Items:
    yield 0
    try:
        await pen.park()
    except asyncio.CancelledError:
        raise Awkward(9, hint="cancelled")  # noqa: B904


@body
async def endless(pen: Pen) -> Items:
    number = 0
    while True:
        number += 1
        yield number


DELEGATE_ENDED = "counted"


async def counted(pen: Pen, stop: int) -> AsyncIterator[int]:
    """For generated programs: what they delegate to."""
    try:
        for number in range(stop):
            yield number
    finally:
        pen.note(DELEGATE_ENDED)
