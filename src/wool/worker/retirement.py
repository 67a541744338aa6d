"""When a worker has had enough: so many tasks, or so much memory.

Why it exists: user code leaks, and so do the libraries that it uses. A worker that is replaced in time does not show
it. The worker decides, since it knows its tasks and its memory; its owner starts a successor, as
`wool.worker.succession` says.

This module is pure: what was started and what memory is held come in as numbers. It must never end a worker by
itself, nor say twice that one has had enough.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Retirement:
    """What a worker is good for. Raises `TypeError` or `ValueError` for what is no number of tasks or bytes."""

    max_tasks: int | None = None
    """Tasks that are started on it before it is replaced; None: as many as come."""
    memory_limit: int | None = None
    """Resident bytes from which on it is replaced; None: as many as there are."""

    def __post_init__(self) -> None:
        _check("max_tasks_per_worker", self.max_tasks, "tasks")
        _check("memory_limit", self.memory_limit, "bytes")

    def __bool__(self) -> bool:
        """Whether there is anything that a worker can have enough of."""
        return self.max_tasks is not None or self.memory_limit is not None

    def refusal(self, memory: int) -> str | None:
        """Return why a worker cannot live by this, that has run nothing and holds ``memory`` bytes; None: it can."""
        if self.memory_limit is None or memory < self.memory_limit:
            return None
        return (
            f"memory_limit={self.memory_limit} bytes: a worker holds {memory} before its first task, and would be "
            "replaced for ever; allow it more"
        )


def _check(name: str, value: object, unit: str) -> None:
    if value is None:
        return
    if type(value) is not int:
        raise TypeError(f"{name} must be a number of {unit}, got {value!r:.100}")
    if value < 1:
        raise ValueError(f"{name} must be at least 1, got {value}: leave it out for no limit")


ENDLESS = Retirement()


class Wear:
    """What one worker has had of its `Retirement`. ``worn`` is told why it has had enough, once."""

    def __init__(self, retirement: Retirement, worn: Callable[[str], None]) -> None:
        self._retirement = retirement
        self._worn = worn
        self.is_worn: bool = False
        """Whether it was told."""

    def started(self, tasks: int) -> None:
        """So many tasks were started on it, ever."""
        most = self._retirement.max_tasks
        if most is not None and tasks >= most:
            self._say(f"{tasks} tasks were started on it (max_tasks_per_worker={most})")

    def holds(self, memory: int) -> None:
        """It holds so many bytes."""
        most = self._retirement.memory_limit
        if most is not None and memory >= most:
            self._say(f"it holds {memory} bytes (memory_limit={most})")

    def _say(self, why: str) -> None:
        if not self.is_worn:
            self.is_worn = True
            self._worn(why)
