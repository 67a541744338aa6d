"""The user's own directory for sockets, shared tables and the key, and the locks that guard them.

Why it exists: who can write where a socket or a shared table lies can pose as a worker. So there is one
directory per user, made with a plain ``mkdir`` of mode 0700, and its owner and mode are checked at every
use. A directory that somebody else prepared is refused, never repaired.

What it owns: that directory, the private directories of ephemeral pools below it, and the user's key.

    base/                   $XDG_RUNTIME_DIR/wool, else /dev/shm/wool-<uid>, else <temp>/wool-<uid>
        key                 32 random bytes, 0600, made on first use, stays
        pool-<random>/lock  a private directory; its owner holds the lock for as long as it lives

What it must never do: follow a symbolic link that stands in for one of these, wait without bound, or
remove what a living process uses. A lock is an `flock`, so the kernel gives it back when its holder dies,
however it dies; whatever is found unlocked is a dead process's, and is removed by the next one.

The base may vanish at any moment while it is empty, since whoever leaves last removes it: everything here
that creates something in it takes `FileNotFoundError` to mean "once more".
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import importlib
import logging
import os
import secrets
import stat
import sys
import time
import warnings
import weakref
from collections.abc import Generator
from pathlib import Path
from types import TracebackType
from typing import Self

from wool.limits import LOCK_ATTEMPTS, LOCK_RETRY_SECONDS, REMOVE_ATTEMPTS

_log = logging.getLogger(__name__)

KEY_BYTES = 32
"""The user's key: as much as HMAC-SHA256 can use."""
SOCKET_PATH_BYTES = 103
"""The longest path of a Unix socket: ``sun_path`` has 104 bytes on macOS (108 on Linux), one is for the NUL."""
SOCKET_NAME_BYTES = 24
"""Of these, kept free below a private directory for the name of the socket itself."""


class RuntimeDirectoryError(OSError):
    """The machine or the environment is at fault; says which path, what is wrong and what to do."""

    def __init__(self, path: Path, problem: str, remedy: str) -> None:
        super().__init__(f"{path} {problem}: {remedy}")


class LockFile:
    """A descriptor to take an `flock` on: ``O_CLOEXEC``, and closed in a forked child.

    Without the latter a child that knows nothing of wool would keep its parent's locks alive.
    """

    __slots__ = ("__weakref__", "_fd", "path")

    def __init__(self, path: Path, flags: int = os.O_RDWR) -> None:
        """Open ``path`` (made with 0600 if ``flags`` have ``O_CREAT``); unlocked. Raises `OSError`."""
        self._fd = -1
        self.path: Path = path
        self._fd = os.open(path, flags | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        _lock_files.add(self)

    def fileno(self) -> int:
        """Return the descriptor. Raises `ValueError` once closed, also after a fork."""
        if self._fd < 0:
            raise ValueError(f"the lock {self.path} is closed in this process")
        return self._fd

    def try_lock(self, *, exclusive: bool) -> bool:
        """Take or convert the lock without waiting. A conversion that fails has lost the old lock."""
        try:
            fcntl.flock(self.fileno(), (fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH) | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def is_current(self) -> bool:
        """Whether the path still names this file: a lock on what was unlinked meanwhile guards nothing."""
        try:
            return os.path.samestat(os.fstat(self.fileno()), os.stat(self.path, follow_symlinks=False))
        except FileNotFoundError:
            return False

    def close(self) -> None:
        """Unlock and close; idempotent.

        The explicit unlock matters: a child between fork and exec has this descriptor too.
        """
        if self._fd >= 0:
            fd, self._fd = self._fd, -1
            try:
                fcntl.flock(fd, fcntl.LOCK_UN)
            finally:
                os.close(fd)

    def abandon(self) -> None:
        """Close without unlocking, which would unlock it for the parent too."""
        if self._fd >= 0:
            fd, self._fd = self._fd, -1
            os.close(fd)

    def __del__(self) -> None:
        self.close()


_lock_files: weakref.WeakSet[LockFile] = weakref.WeakSet()


def _abandon_locks_of_parent() -> None:
    for lock in list(_lock_files):
        lock.abandon()


os.register_at_fork(after_in_child=_abandon_locks_of_parent)


def runtime_directory(create: bool = True) -> Path:
    """Return the user's own runtime directory; with ``create`` it exists on return.

    If it exists it is ours alone (0700, no symbolic link), else `RuntimeDirectoryError`. While it is
    empty another process may remove it at any moment.
    """
    path = _location()
    if not create:
        with contextlib.suppress(FileNotFoundError):
            check_private(path)
        return path
    for _ in range(LOCK_ATTEMPTS):
        with contextlib.suppress(FileNotFoundError):  # removed, as empty, before we could look at it
            make_private(path)
            return path
    raise _vanished(path)


def make_private(path: Path) -> None:
    """Make ``path`` with 0700, or check that what is there is ours alone.

    Raises `RuntimeDirectoryError`, or `FileNotFoundError` if the parent is missing.
    """
    _check_parent(path.parent)
    with contextlib.suppress(FileExistsError):
        os.mkdir(path, 0o700)
    check_private(path)


def check_private(path: Path) -> None:
    """Raise `RuntimeDirectoryError` unless ``path`` is a directory that nobody else can look into."""
    _check_status(path, os.lstat(path))


def _check_status(path: Path, status: os.stat_result) -> None:
    elsewhere = "remove it, or set XDG_RUNTIME_DIR to a directory of your own"
    if stat.S_ISLNK(status.st_mode):
        raise RuntimeDirectoryError(path, "is a symbolic link", elsewhere)
    if not stat.S_ISDIR(status.st_mode):
        raise RuntimeDirectoryError(path, "is not a directory", elsewhere)
    if status.st_uid != os.geteuid():
        raise RuntimeDirectoryError(path, f"belongs to user {status.st_uid}, not to {os.geteuid()}", elsewhere)
    if status.st_mode & 0o777 != 0o700:
        raise RuntimeDirectoryError(
            path, f"has mode {status.st_mode & 0o777:04o}, not 0700", "find out who changed it, then chmod 700 it"
        )


def remove_if_empty(path: Path) -> bool:
    """Remove a directory that holds nothing; false if it holds something, is gone, or may not be removed."""
    try:
        os.rmdir(path)
    except OSError as error:
        if error.errno not in _NOT_OURS_TO_REMOVE:
            raise
        return False
    return True


def socket_path(directory: Path, name: str) -> Path:
    """Return ``directory/name``, or raise `RuntimeDirectoryError` if that is too long for a Unix socket."""
    path = directory / name
    length = len(os.fsencode(path))
    if length > SOCKET_PATH_BYTES:
        raise RuntimeDirectoryError(
            path,
            f"has {length} bytes, and a Unix socket's path may have {SOCKET_PATH_BYTES}",
            "set XDG_RUNTIME_DIR to a shorter directory of your own",
        )
    return path


class PrivateDirectory:
    """A fresh directory of one owner, 0700, removed by `close`, or after the owner's death by the next one.

    A context manager; `close` is idempotent, and does nothing in a forked child.
    """

    def __init__(self, path: Path, lock: LockFile) -> None:
        self.path = path
        self._lock = lock
        self._pid = os.getpid()
        self._closed = False

    def close(self) -> None:
        """Remove the directory with all that is in it, and the base if nothing else is in that."""
        if self._closed or self._pid != os.getpid():
            return
        self._closed = True
        try:
            _remove_tree(self.path)
        finally:
            self._lock.close()
        remove_if_empty(self.path.parent)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<PrivateDirectory {self.path} {'closed' if self._closed else 'open'}>"

    def __del__(self) -> None:
        if not self._closed and self._pid == os.getpid():
            warnings.warn(f"unclosed {self!r}", ResourceWarning, stacklevel=2, source=self)
            self.close()


def private_directory() -> PrivateDirectory:
    """Make a fresh private directory, and remove those of owners that died.

    Its path leaves room for a Unix socket's name of ``SOCKET_NAME_BYTES``. Raises `RuntimeDirectoryError`.
    """
    # It loads much, which only who has a directory needs. Not at the end, when no descriptor may be left to load it by.
    importlib.import_module("shutil")
    for _ in range(LOCK_ATTEMPTS):
        path = _location() / f"pool-{secrets.token_hex(4)}"
        socket_path(path, "s" * SOCKET_NAME_BYTES)  # before anything is made
        base = runtime_directory()
        path = base / path.name
        # The base may be removed, as empty, before it is locked and before something is in it.
        with contextlib.suppress(FileNotFoundError, FileExistsError), _held(base) as held:
            # Below the descriptor that is locked, not below the path, which may be another's base by now. From
            # here on the base is not empty, so it stays: only then may anything be swept.
            os.mkdir(path.name, 0o700, dir_fd=held.fileno())
            check_private(path)
            lock = LockFile(path / "lock", os.O_RDWR | os.O_CREAT | os.O_EXCL)
            if not lock.try_lock(exclusive=True):
                raise RuntimeDirectoryError(lock.path, "is locked by somebody else", "end the process that holds it")
            directory = PrivateDirectory(path, lock)
            try:
                _sweep(base)
            except BaseException:
                directory.close()
                raise
            return directory
    raise _vanished(_location())


def user_key() -> bytes:
    """Return the user's secret of ``KEY_BYTES`` bytes, the same for all processes; made on first use.

    Never log it. Raises `RuntimeDirectoryError` if the file is not ours, or readable by others.
    """
    for _ in range(LOCK_ATTEMPTS):
        base = runtime_directory()
        path = base / "key"
        with contextlib.suppress(FileNotFoundError):
            return _read_key(path)
        with contextlib.suppress(FileNotFoundError), _held(base):
            _make_key(path)
    raise _vanished(_location())


_NOT_OURS_TO_REMOVE = frozenset(
    {errno.ENOENT, errno.ENOTEMPTY, errno.EEXIST, errno.EBUSY, errno.EACCES, errno.EPERM, errno.EROFS}
)


def _location() -> Path:
    declared = os.environ.get("XDG_RUNTIME_DIR", "")
    if os.path.isabs(declared) and _is_our_directory(declared):
        return Path(declared) / "wool"
    name = f"wool-{os.geteuid()}"
    if sys.platform == "linux" and os.path.isdir("/dev/shm") and os.access("/dev/shm", os.W_OK | os.X_OK):
        return Path("/dev/shm") / name
    import tempfile  # Late: most have the directory above.

    return Path(tempfile.gettempdir()) / name


def _vanished(path: Path) -> RuntimeDirectoryError:
    return RuntimeDirectoryError(path, "vanished again and again", "look for what removes it")


def _is_our_directory(path: str) -> bool:
    try:
        status = os.stat(path)
    except OSError:
        return False
    return stat.S_ISDIR(status.st_mode) and status.st_uid == os.geteuid()


def _check_parent(path: Path) -> None:
    # Whoever may rename entries of the parent may put a directory of theirs in the place of ours.
    status = os.stat(path)
    remedy = "set XDG_RUNTIME_DIR to a directory of your own"
    if status.st_uid not in (0, os.geteuid()):
        raise RuntimeDirectoryError(path, f"belongs to user {status.st_uid}, who can rename what is in it", remedy)
    if status.st_mode & 0o022 and not status.st_mode & stat.S_ISVTX:
        raise RuntimeDirectoryError(path, "can be written by others and has no sticky bit", remedy)


@contextlib.contextmanager
def _held(base: Path) -> Generator[LockFile, None, None]:
    """Hold the base against others that create in it or sweep it: the lock is on the directory itself."""
    for _ in range(LOCK_ATTEMPTS):
        lock = LockFile(base, os.O_RDONLY | os.O_DIRECTORY)
        try:
            # What the path names may have been replaced since it was checked: what was opened decides.
            _check_status(base, os.fstat(lock.fileno()))
            if lock.try_lock(exclusive=True):
                if not lock.is_current():
                    raise FileNotFoundError(errno.ENOENT, "was replaced while we waited", str(base))
                yield lock
                return
        finally:
            lock.close()
        time.sleep(LOCK_RETRY_SECONDS)
    raise RuntimeDirectoryError(
        base,
        f"was locked by another process for {LOCK_ATTEMPTS * LOCK_RETRY_SECONDS:g} s",
        "look for a stopped process of yours that uses wool",
    )


def _sweep(base: Path) -> None:
    """Remove the private directories of dead owners. The base is held, so none is half made by a live one."""
    with os.scandir(base) as entries:
        found = [
            Path(entry) for entry in entries if entry.name.startswith("pool-") and entry.is_dir(follow_symlinks=False)
        ]
    for path in found:
        try:
            lock = LockFile(path / "lock")
        except FileNotFoundError:
            # Its owner died before the lock was made, or is removing it right now: the same to us.
            _remove_tree(path)
            continue
        try:
            if lock.try_lock(exclusive=True):
                _remove_tree(path)
        finally:
            lock.close()


def _remove_tree(path: Path) -> None:
    from shutil import rmtree

    failure: OSError | None = None
    for _ in range(REMOVE_ATTEMPTS):
        try:
            rmtree(path)
        except OSError as error:  # also FileNotFoundError: somebody else is removing the same tree
            failure = error
        if not os.path.lexists(path):
            return
    _log.warning("could not remove %s: %s; the next pool of this user tries again", path, failure)


def _read_key(path: Path) -> bytes:
    remedy = "remove it, and a new one is made (what runs with the old key must be restarted)"
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise RuntimeDirectoryError(path, "is a symbolic link", remedy) from None
        raise
    try:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode):
            raise RuntimeDirectoryError(path, "is not a regular file", remedy)
        if status.st_uid != os.geteuid():
            raise RuntimeDirectoryError(path, f"belongs to user {status.st_uid}, not to {os.geteuid()}", remedy)
        if status.st_mode & 0o077:
            raise RuntimeDirectoryError(path, f"can be used by others (mode {status.st_mode & 0o777:04o})", remedy)
        key = os.read(fd, KEY_BYTES + 1)
    finally:
        os.close(fd)
    if len(key) != KEY_BYTES:
        raise RuntimeDirectoryError(path, f"does not hold {KEY_BYTES} bytes", remedy)
    return key


def _make_key(path: Path) -> None:
    """Make the key whole or not at all. The base is held: another's draft is a dead process's.

    Should the base have been replaced meanwhile, two may remove each other's draft; then both try again.
    """
    for stale in path.parent.glob("key-*"):
        stale.unlink(missing_ok=True)
    draft = path.with_name(f"key-{secrets.token_hex(4)}")
    fd = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(fd, "wb") as file:
            file.write(secrets.token_bytes(KEY_BYTES))
        # A link appears at once, complete, and never replaces a key that is there.
        with contextlib.suppress(FileExistsError):
            os.link(draft, path)
    finally:
        draft.unlink(missing_ok=True)
