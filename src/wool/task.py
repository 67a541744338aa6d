"""What wool knows of one call of a routine: the record that load balancers, logs and bodies see."""

from __future__ import annotations

from contextvars import ContextVar
from dataclasses import dataclass
from typing import Literal, TypeAlias
from uuid import UUID

from wool.failure import TaskException

RoutineKind: TypeAlias = Literal["coroutine", "generator"]


TIMEOUT_ATTRIBUTE = "__wool_timeout__"
"""On a routine's raw function: how long its body may run, in seconds."""


@dataclass(slots=True, kw_only=True, eq=False)
class Task:
    """One call of a routine. The same record exists in the caller and, while it runs, on the worker.

    ``exception`` is set once the task has failed: the captured form, without live objects.
    """

    key: bytes
    """16 random bytes; `id` is the same as a UUID."""
    routine: str
    """``module:qualname`` of the routine."""
    kind: RoutineKind
    caller: str
    """Uid of the process that made the call."""
    parent: bytes = b""
    worker: str = ""
    """Uid of the worker that runs it, on that worker; in the caller it is empty."""
    exception: TaskException | None = None

    @property
    def id(self) -> UUID:
        """The task's identity, unique in the cluster."""
        return UUID(bytes=self.key)

    @property
    def parent_id(self) -> UUID | None:
        """The task whose body made this call, if any."""
        return UUID(bytes=self.parent) if self.parent else None

    def __str__(self) -> str:
        return f"task {self.key.hex()[:12]} ({self.routine})"


_current_task: ContextVar[Task | None] = ContextVar("wool.current_task", default=None)


def current_task() -> Task | None:
    """Return the task whose body is running here, also inside generators; None outside a routine."""
    return _current_task.get()


def set_current_task(task: Task) -> None:
    """Enter ``task`` in the current context. For the worker's routine loop alone."""
    _current_task.set(task)
