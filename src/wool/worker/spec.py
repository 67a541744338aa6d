"""The worker that is wanted, what starts one, and the handle on it: what an owner knows of how workers are started.

Why it exists: pools are written against it, and `wool.worker.launch`, which starts processes, is loaded by the first
that needs one. The simulator has a launcher of its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Protocol

from wool.credentials import CredentialFiles, CredentialsProvider, WorkerCredentials
from wool.discovery.base import WorkerMetadata
from wool.limits import DEFAULT_LIMITS, Limits
from wool.worker.loops import LoopKind
from wool.worker.retirement import ENDLESS, Retirement


class Unfit(RuntimeError):
    """What a worker was told to be, it cannot be. The message says what and why; where in wool that was found out is no
    use to anybody.
    """


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerSpec:
    """The worker that is wanted; see `wool.worker.channel.Configure` for the fields. ``limits`` are for both sides."""

    address: str
    secret: bytes | None = field(repr=False)
    uid: str | None = None
    tags: frozenset[str] = frozenset()
    extra: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    limits: Limits = DEFAULT_LIMITS
    log_style: str = ""
    log_level: str = "warning"
    log_mark: bytes = field(default=b"", repr=False)
    """See `wool.worker.logs.mark_of`."""
    credentials: WorkerCredentials | CredentialFiles | None = None
    provider: CredentialsProvider | None = None
    """What is asked again for ``credentials``; see `wool.credentials.asked_again`."""
    tracing: str | None = None
    """`None`: as `wool.otel.instrument` has said in this process."""
    loop: LoopKind = "asyncio"
    retirement: Retirement = ENDLESS
    max_concurrency: int | None = None
    admission: bytes | None = None
    """See `wool.worker.examiner.dump_admission`."""


class WorkerHandle(Protocol):
    """A worker that became ready. To be used on the event loop that launched it."""

    @property
    def metadata(self) -> WorkerMetadata:
        """What the worker said of itself when it was ready."""
        ...

    @property
    def exit_reason(self) -> str | None:
        """How it ended, in words, such as "killed by SIGKILL"; `None` while it lives."""
        ...

    @property
    def is_draining(self) -> bool:
        """Whether it takes no more tasks, or lives no more."""
        ...

    async def wait_worn(self) -> str | None:
        """Return why the worker has had enough, when it says so; None once it drains, or is gone. May be cancelled."""
        ...

    async def wait_draining(self) -> None:
        """Return when the worker takes no more tasks, asked to or not, or is gone. May be cancelled."""
        ...

    async def wait_closed(self) -> str:
        """Return `exit_reason` when the worker is gone and nothing of it is left. May be cancelled."""
        ...

    async def stop(self, drain_seconds: float) -> None:
        """Let the worker finish what it has for at most ``drain_seconds``; return when it is gone.

        A worker that has not ended ``stop_seconds`` after that is killed; one whose `stop` is cancelled is
        killed at once, and is gone when `asyncio.CancelledError` comes out. May be called again, also while
        it is under way, to allow less time. Raises `ValueError` if the time is negative or not finite, and
        `RuntimeError` if the process survives even SIGKILL (the kernel is stuck with it).
        """
        ...

    def close(self) -> None:
        """Kill the worker now. `wait_closed` returns when it is gone. May be called again."""
        ...


class Launcher(Protocol):
    """Starts workers."""

    async def launch(self, spec: WorkerSpec) -> WorkerHandle:
        """Return a worker that is ready.

        Raises `WorkerStartError`. Whatever is raised, cancellation included, no worker is left.
        """
        ...
