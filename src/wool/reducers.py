"""How to pickle by value what cloudpickle leaves out, or takes along with a part missing.

Why it exists: code that travels by value must be itself on the other side. What pickle and cloudpickle know of
a type is said by its reducer; here are those that wool replaces, one per type, each with the function that
rebuilds it.

It must never decide what travels by value: that is said in `wool.references`.
"""

from __future__ import annotations

from collections.abc import Callable
from types import CodeType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    Reducer = Callable[[Any], Any]

    class CloudPickler:
        """What is used of cloudpickle's pickler, which carries no types."""

        dispatch_table: dict[type, Reducer]
else:
    from cloudpickle import Pickler as CloudPickler

__all__ = ["REDUCERS"]


# --- Code ----------------------------------------------------------------------------------------------


def _reduce_code(code: CodeType) -> tuple[Any, ...]:
    # Since 3.1.3 cloudpickle calls every file "<dynamic-code>": a traceback would show no source.
    make, arguments = CloudPickler.dispatch_table[CodeType](code)[:2]
    return _make_code, (make, arguments, code.co_filename)


def _make_code(make: Callable[..., CodeType], arguments: tuple[object, ...], filename: str) -> CodeType:
    return make(*arguments).replace(co_filename=filename)


# --- All -----------------------------------------------------------------------------------------------

REDUCERS: dict[type, Callable[[Any], Any]] = {CodeType: _reduce_code}
