"""Who may watch the engine: told what it says, hears and decides, when it does.

It exists for the simulator, whose invariants are judged over what was really said and not over what tests
can see from outside. A process has none, and what that costs is one comparison with None. An observer is
called synchronously, must not raise, and must not touch what it is shown.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from wool.discovery.base import DiscoveryEventType, WorkerMetadata
from wool.errors import RpcError
from wool.protocol.frames import Frame
from wool.transport.base import Stream


class Observer(Protocol):
    """Watches one process. A session is named by its stream, which the observer's transport has made."""

    def opened(self, stream: Stream) -> None:
        """A session has come out of its handshake."""
        ...

    def said(self, stream: Stream, frame: Frame) -> None:
        """The engine says ``frame``: it counts as said, whether or not it will leave."""
        ...

    def heard(self, stream: Stream, frame: Frame) -> None:
        """``frame`` has arrived; what comes of it follows."""
        ...

    def lost(self, stream: Stream, reason: str) -> None:
        """The session is over."""
        ...

    def viewed(self, type: DiscoveryEventType, worker: WorkerMetadata) -> None:
        """A proxy has changed what it knows of ``worker``."""
        ...

    def unreachable(self, worker: WorkerMetadata, reason: RpcError) -> None:
        """A proxy could not open a session with ``worker``."""
        ...

    def bound(self, task: bytes, worker: str, candidates: Sequence[str], suspect: bool) -> None:
        """A proxy has bound a call to ``worker``, one of ``candidates`` (uids)."""
        ...
