"""Where the workers that this process starts live: a private directory, with their sockets and records."""

from __future__ import annotations

from wool.discovery.local import LocalDiscovery
from wool.limits import Limits
from wool.runtime_directory import private_directory


class LocalHome:
    """A fresh 0700 directory: one Unix socket per worker, and the table in which they are found."""

    def __init__(self, limits: Limits) -> None:
        self._directory = private_directory()
        self._discovery = LocalDiscovery.at(self._directory.path, limits=limits)
        try:
            self._discovery.__enter__()
        except BaseException:
            self._directory.close()
            raise

    @property
    def discovery(self) -> LocalDiscovery:
        """The discovery of this home's workers."""
        return self._discovery

    def address(self, uid: str) -> str:
        """Return the Unix socket of the worker ``uid``; short, since such paths are limited."""
        return f"unix:{self._directory.path / uid[:8]}.sock"

    def close(self) -> None:
        """Remove the directory; idempotent."""
        try:
            self._discovery.__exit__(None, None, None)
        finally:
            self._directory.close()
