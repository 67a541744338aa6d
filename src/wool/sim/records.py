"""Frozen records as JSON, and back: strict, so that a plan with a typing error never runs as another plan.

Owns nothing but the two directions. A field that has its default is left out, so that a kept plan
shows what matters; an unknown field, a missing one or a wrong type is an error that names the place.
"""

from __future__ import annotations

import dataclasses
import functools
import types
import typing
from collections.abc import Callable
from typing import Any, TypeAlias, TypeVar

Json: TypeAlias = "bool | int | float | str | list[Json] | dict[str, Json] | None"

_T = TypeVar("_T")


class RecordError(ValueError):
    """What was read is not such a record; the message begins with the place."""


def to_json(record: Any) -> Json:
    """Return a frozen dataclass as JSON values, without the fields that have their defaults."""
    if _is(record, tuple):
        items: tuple[Any, ...] = record
        return [to_json(item) for item in items]
    if not dataclasses.is_dataclass(record):
        return typing.cast("Json", record)
    said: dict[str, Json] = {}
    for field in dataclasses.fields(record):
        value = getattr(record, field.name)
        default: Any = field.default if field.default_factory is dataclasses.MISSING else field.default_factory()
        if value != default or type(value) is not type(default):
            said[field.name] = to_json(value)
    return said


def from_json(kind: type[_T], value: Any, place: str = "") -> _T:
    """Return the record of class ``kind`` that ``value`` says. Raises `RecordError`."""
    return typing.cast("_T", _read(kind, value, place or kind.__name__.lower()))


@functools.cache
def _fields(kind: type) -> dict[str, tuple[Any, bool]]:
    """Return the type of each field, and whether it must be said."""
    hints = typing.get_type_hints(kind)
    missing = dataclasses.MISSING
    return {
        field.name: (hints[field.name], field.default is missing and field.default_factory is missing)
        for field in dataclasses.fields(kind)
    }


def _read(kind: Any, value: Any, place: str) -> Any:
    if dataclasses.is_dataclass(kind):
        return _read_record(typing.cast("type", kind), value, place)
    origin = typing.get_origin(kind)
    arguments: tuple[Any, ...] = typing.get_args(kind)
    if origin is tuple:
        if not _is(value, list):
            raise RecordError(f"{place}: expected a list, got {value!r:.80}")
        items: list[Any] = value
        return tuple(_read(arguments[0], item, f"{place}[{number}]") for number, item in enumerate(items))
    if origin in (typing.Union, types.UnionType):
        if value is None and type(None) in arguments:
            return None
        (kind,) = [argument for argument in arguments if argument is not type(None)]
        return _read(kind, value, place)
    if origin is typing.Literal:
        if value not in arguments:
            raise RecordError(f"{place}: {value!r:.80} is none of {', '.join(map(repr, arguments))}")
        return value
    return _read_plain(kind, value, place)


def _read_plain(kind: Any, value: Any, place: str) -> Any:
    if kind is float and type(value) is int:
        return float(value)
    if type(value) is not kind:
        raise RecordError(f"{place}: expected {kind.__name__}, got {value!r:.80}")
    return value


def _read_record(kind: type, value: Any, place: str) -> Any:
    if not _is(value, dict):
        raise RecordError(f"{place}: expected an object, got {value!r:.80}")
    fields = _fields(kind)
    said: dict[str, Any] = value
    for name in said:
        if name not in fields:
            raise RecordError(f"{place}: unknown field {name!r}; there are {', '.join(fields)}")
    for name, (_, needed) in fields.items():
        if needed and name not in said:
            raise RecordError(f"{place}: field {name!r} is missing")
    read = {name: _read(fields[name][0], item, f"{place}.{name}") for name, item in said.items()}
    make: Callable[..., Any] = kind
    try:
        return make(**read)
    except RecordError:
        raise
    except ValueError as error:
        raise RecordError(f"{place}: {error}") from error


def _is(value: Any, kind: type) -> bool:
    # Not `isinstance` in place, which narrows to a list of what nobody knows.
    return isinstance(value, kind)
