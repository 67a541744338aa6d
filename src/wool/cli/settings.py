"""What a command was told, and where: by a flag, by the environment, or by a TOML file.

A flag wins over the environment, the environment over the file. A value that is no good is an error that names where
it stands, since with three places nobody remembers.

This module is pure: the environment and the file's text come in as arguments. It must never guess: a key of the file
that no command knows is an error, not a comment.
"""

from __future__ import annotations

import math
import re
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

COMMANDS = ("worker", "ps", "top", "health")
"""Tables that a file may have: one per command."""

CONFIG = "WOOL_CONFIG"


class SettingError(ValueError):
    """A value that the user gave is no good. The message names where it stands, the value and the remedy."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Option:
    """One thing that a command can be told: ``--name``, ``WOOL_NAME``, or ``name = …`` in the file.

    ``convert`` makes the value from what was given, a string or what TOML has, and raises `ValueError` in words that
    follow "--name: ". ``default`` is what nobody has to say. A flag that is ``repeated`` collects its values, and of
    one that is a ``switch`` only the presence counts. ``words`` are all that it may be, for a shell that completes.
    """

    name: str
    convert: Callable[[object], Any]
    help: str
    default: Any = None
    metavar: str | None = None
    repeated: bool = False
    switch: bool = False
    words: tuple[str, ...] = ()

    @property
    def variable(self) -> str:
        """The name of the variable in the environment."""
        name = f"{self.name}s" if self.repeated else self.name
        return "WOOL_" + name.upper().replace("-", "_")

    @property
    def key(self) -> str:
        """The name in the file."""
        return f"{self.name}s" if self.repeated else self.name


@dataclass(frozen=True, slots=True)
class Settings:
    """The values, by the names of their options, and where each was given."""

    values: Mapping[str, Any]
    origins: Mapping[str, str] = field(default_factory=dict[str, str])

    def __getitem__(self, name: str) -> Any:
        return self.values[name]

    def error(self, name: str, problem: object) -> SettingError:
        """Return what to raise if the value turns out to be no good later."""
        return SettingError(f"{self.origins.get(name, f'--{name}')}: {problem}")


def resolve(
    command: str,
    options: Sequence[Option],
    flags: Mapping[str, object],
    environment: Mapping[str, str],
    read: Callable[[Path], str] = Path.read_text,
) -> Settings:
    """Return the values of all ``options``. Raises `SettingError`.

    ``flags`` are those that were given, by name, and under ``config`` perhaps the file; ``read`` reads it. A variable
    that is empty counts as not set.
    """
    path, table = _read_table(command, options, flags.get("config"), environment, read)
    values: dict[str, Any] = {}
    origins: dict[str, str] = {}
    for option in options:
        if option.name in flags:
            given, origin = flags[option.name], f"--{option.name}"
        elif environment.get(option.variable):
            given, origin = environment[option.variable], f"{option.variable} in the environment"
        elif option.key in table:
            given, origin = table[option.key], f"{option.key} in [{command}] of {path}"
        else:
            values[option.name] = option.default
            continue
        origins[option.name] = origin
        try:
            values[option.name] = option.convert(given)
        except ValueError as error:
            raise SettingError(f"{origin}: {error}{_hint(given)}") from None
    return Settings(values, origins)


def _hint(given: object) -> str:
    if isinstance(given, str) and given.startswith("tcp://"):
        return " (Kubernetes sets such variables for a Service named 'wool': set enableServiceLinks to false)"
    return ""


def _read_table(
    command: str,
    options: Sequence[Option],
    flag: object,
    environment: Mapping[str, str],
    read: Callable[[Path], str],
) -> tuple[str, Mapping[str, object]]:
    if flag is not None:
        path, origin = str(flag), "--config"
    elif environment.get(CONFIG):
        path, origin = environment[CONFIG], f"{CONFIG} in the environment"
    else:
        return "", {}
    try:
        document: dict[str, object] = tomllib.loads(read(Path(path)))
    except OSError as error:
        raise SettingError(f"{origin}: {path} cannot be read: {error.strerror or error}") from None
    except ValueError as error:  # no TOML, or no text at all
        raise SettingError(f"{origin}: {path} is no TOML: {error}") from None
    for name in document:
        if name not in COMMANDS:
            raise SettingError(f"{path}: [{name}] is none of the tables {_listed(COMMANDS)}")
    table = document.get(command, {})
    if not isinstance(table, dict):
        raise SettingError(f"{path}: {command} must be a table, [{command}]")
    keys = [option.key for option in options]
    for name in cast(dict[str, object], table):
        if name not in keys:
            raise SettingError(f"{name} in [{command}] of {path}: there is no such setting, only {_listed(keys)}")
    return path, cast(dict[str, object], table)


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names)


# Conversions: from a string, or from what TOML has.


def text(given: object) -> str:
    """Take a string that is not empty."""
    if not isinstance(given, str) or not given:
        raise ValueError(f"must be a string, got {given!r:.100}")
    return given


def texts(given: object) -> tuple[str, ...]:
    """Take several strings: a list of them, or one with commas between."""
    listed: list[object] = list(given.split(",")) if isinstance(given, str) else cast("list[object]", given)
    if not isinstance(cast(object, listed), list):
        raise ValueError(f"must be a list of strings, got {given!r:.100}")
    found = [each.strip() if isinstance(each, str) else each for each in listed]
    if not all(isinstance(each, str) and each for each in found):
        raise ValueError(f"must be strings that are not empty, got {given!r:.100}")
    return tuple(cast("list[str]", found))


def whole(least: int, most: int, what: str) -> Callable[[object], int]:
    """Return what takes a whole number within bounds."""

    def convert(given: object) -> int:
        try:
            number = int(given) if isinstance(given, str) and given.isascii() else given
        except ValueError:
            number = None
        if type(number) is not int or not least <= number <= most:
            raise ValueError(f"must be {what}, got {given!r:.100}")
        return number

    return convert


def seconds(*, least: float = 0.0, most: float = math.inf) -> Callable[[object], float]:
    """Return what takes a finite number of seconds, from ``least`` to ``most``."""
    bounds = f"{least:g} or more" if most == math.inf else f"from {least:g} to {most:g}"

    def convert(given: object) -> float:
        try:
            number = float(given) if isinstance(given, (str, int, float)) and not isinstance(given, bool) else math.nan
        except (ValueError, OverflowError):
            number = math.nan
        if not (math.isfinite(number) and least <= number <= most):
            raise ValueError(f"must be a number of seconds, {bounds}, got {given!r:.100}")
        return number

    return convert


_UNITS = {"": 1, "K": 1024, "M": 1024**2, "G": 1024**3}


def octets(given: object) -> int:
    """Take a number of bytes, 1 or more, or of KiB, MiB or GiB: ``512M``."""
    found = re.fullmatch(r"([0-9]{1,15})\s*([KMG]?)(?:iB)?", str(given)) if type(given) in (str, int) else None
    number = 0 if found is None else int(found[1]) * _UNITS[found[2]]
    if not number:
        raise ValueError(f"must be a number of bytes, 1 or more, or of K, M or G, as in 512M, got {given!r:.100}")
    return number


def one_of(*names: str) -> Callable[[object], str]:
    """Return what takes one of some words."""

    def convert(given: object) -> str:
        if given not in names:
            raise ValueError(f"must be {' or '.join(names)}, got {given!r:.100}")
        return str(given)

    return convert


def switch(given: object) -> bool:
    """Take a yes or no."""
    words = {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False}
    if isinstance(given, bool):
        return given
    if isinstance(given, str) and given.lower() in words:
        return words[given.lower()]
    raise ValueError(f"must be true or false, got {given!r:.100}")
