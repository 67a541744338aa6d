"""Whether a worker's process lives, for whoever knows its uid.

Why it exists: who publishes a worker need not be its owner, and can live on when the worker is dead.

What it owns: a lock that a worker takes for its life, on one byte of the user's key file, far behind its end. Which
byte follows from the uid. The lock belongs to the open file, so the kernel gives it back with the process, and
leaves no file behind. The byte is never written.

What it must never do: take doubt for death. Where the kernel has no such locks (macOS), or the worker was started
by another user or with another runtime directory, nothing is known, and a lease ends with its publisher alone.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import struct
from pathlib import Path
from typing import NamedTuple, Self

from wool.runtime_directory import LockFile, RuntimeDirectoryError, runtime_directory, user_key

_FLOCK = struct.Struct("hhqqi0q")
"""The kernel's: type, whence, start, length, process."""


class Life(NamedTuple):
    """Where the lock of one worker lies; what a publisher writes down for others to look at."""

    path: str
    device: int
    inode: int
    offset: int

    @classmethod
    def of(cls, uid: str, lock: LockFile) -> Self:
        status = os.fstat(lock.fileno())
        digest = hashlib.blake2b(uid.encode("utf-8", "surrogatepass"), digest_size=8).digest()
        return cls(str(lock.path), status.st_dev, status.st_ino, (1 << 62) | int.from_bytes(digest) >> 2)

    def to_bytes(self) -> bytes:
        return json.dumps(self).encode()

    @classmethod
    def from_bytes(cls, data: bytes) -> Self | None:
        """Return the life that was written down, none if there was none."""
        try:
            path, device, inode, offset = json.loads(data)
        except (TypeError, ValueError):
            return None
        good = type(path) is str and all(type(number) is int for number in (device, inode, offset))
        return cls(path, device, inode, offset) if good and "\0" not in path and 0 <= offset < (1 << 63) - 1 else None

    def has_ended(self) -> bool:
        """Whether the process is known to be gone."""
        try:
            lock = LockFile(Path(self.path), os.O_RDONLY)
        except OSError:
            return False
        try:
            status = os.fstat(lock.fileno())
            return (status.st_dev, status.st_ino) == (self.device, self.inode) and not _is_taken(lock, self.offset)
        finally:
            lock.close()


def begin_life(uid: str, secret: bytes | None) -> LockFile | None:
    """Let others see that this process, the worker ``uid``, lives. Keep what is returned until the end.

    Only for a worker that other processes of this user can find: one whose ``secret`` is the user's key.
    """
    try:
        if not hasattr(fcntl, "F_OFD_SETLK") or not (runtime_directory(create=False) / "key").exists():
            return None
        if secret != user_key():
            return None
        lock = LockFile(runtime_directory(create=False) / "key")
    except (OSError, RuntimeDirectoryError):
        return None
    try:
        fcntl.fcntl(lock.fileno(), fcntl.F_OFD_SETLK, _byte(fcntl.F_WRLCK, Life.of(uid, lock).offset))
    except OSError:
        lock.close()
        return None
    return lock


def find_life(uid: str) -> Life | None:
    """Return where the worker ``uid`` shows that it lives, none if it does not show it here."""
    try:
        lock = LockFile(runtime_directory(create=False) / "key", os.O_RDONLY)
    except OSError:
        return None
    try:
        life = Life.of(uid, lock)
        return life if hasattr(fcntl, "F_OFD_GETLK") and _is_taken(lock, life.offset) else None
    finally:
        lock.close()


def _is_taken(lock: LockFile, offset: int) -> bool:
    try:
        answer = fcntl.fcntl(lock.fileno(), fcntl.F_OFD_GETLK, _byte(fcntl.F_WRLCK, offset))
    except OSError:
        return False
    return bool(_FLOCK.unpack(answer)[0] != fcntl.F_UNLCK)


def _byte(kind: int, offset: int) -> bytes:
    return _FLOCK.pack(kind, os.SEEK_SET, offset, 1, 0)
