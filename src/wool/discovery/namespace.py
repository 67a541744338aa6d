"""The files and locks of a LocalDiscovery's namespace.

Why it exists: a shared file that outlives its users, or that two of them believe to be the first of, is worse
than none. Joining, leaving, writing and proving to be alive are all here, so that their races can be read in
one place. What is written is decided in `wool.discovery.table`.

What it owns, while anybody has the namespace open, below the user's runtime directory (or below a pool's
private one):

    local-<namespace>/gate            held (exclusive) to join, leave or write, for about a millisecond
    local-<namespace>/table           held (shared) by everybody who has the namespace open
    local-<namespace>/lease-<token>   held (exclusive) by the publisher of one worker, as long as it lives;
                                      says where the worker itself shows that it lives, if it does (`wool.lives`)

All three are `flock`: the kernel lets go when a process dies, however it dies. Who can take the table
exclusively while at the gate is alone: on joining it starts a new table, whatever a crashed process left; on
leaving it removes everything, the gate last. A lease that can be taken belongs to a dead publisher, and a worker
is there as long as neither its publisher nor itself is known to be dead. What was
unlinked while somebody waited for it is told by its inode.

Only the header is mapped, for a subscriber looks at it all the time; the rest is read and written with system
calls, so that a full disk is an error and not a SIGBUS, and the file is only as long as it has to be.

What it must never do: wait without bound, unpickle what it reads, touch anything in a forked child.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import mmap
import os
import re
import secrets
import threading
import time
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from wool.discovery import table
from wool.discovery.base import DiscoveryEventType, WorkerMetadata
from wool.limits import (
    LOCK_ATTEMPTS,
    LOCK_RETRY_SECONDS,
    LOOK_ATTEMPTS,
    MOST_LIFE_BYTES,
    MOST_NAMESPACE_CHARACTERS,
    Limits,
)
from wool.lives import Life, find_life
from wool.runtime_directory import (
    LockFile,
    check_private,
    make_private,
    remove_if_empty,
)

_log = logging.getLogger(__name__)

GATE_SECONDS = LOCK_ATTEMPTS * LOCK_RETRY_SECONDS
"""The gate is held for about a millisecond; after so long its holder must be stopped or stuck."""

_NAMESPACE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")


class MembershipLike(Protocol):
    """One use of a namespace, as discovery knows it. Its methods never wait."""

    @property
    def place(self) -> PlaceLike:
        """Where it was joined."""
        ...

    @property
    def published(self) -> int:
        """How many workers were published through it and not dropped."""
        ...

    def check_process(self) -> None:
        """Raise `RuntimeError` in another process than the one that joined."""
        ...

    def generation(self) -> int:
        """Return the number that every change raises."""
        ...

    def look(self) -> table.Snapshot | None:
        """Return what the table holds, or none if writers were in the way: then look later."""
        ...

    def is_live(self, lease: bytes) -> bool:
        """Whether the publisher that holds ``lease`` lives, and its worker, as far as is known."""
        ...

    def try_publish(self, type: DiscoveryEventType, metadata: WorkerMetadata) -> bool:
        """Publish and return true, or return false because somebody is at the gate."""
        ...

    def close(self) -> None:
        """Drop what was published here, and leave; idempotent."""
        ...


class PlaceLike(Protocol):
    """How to join a namespace; picklable. `Place` is the one in files, the simulator has one in memory."""

    @property
    def namespace(self) -> str:
        """The name that others join by."""
        ...

    @property
    def gate(self) -> str:
        """What members wait for, in words."""
        ...

    def join(self, limits: Limits) -> MembershipLike:
        """Join, waiting a little for whoever is at the gate."""
        ...

    def try_join(self, limits: Limits) -> MembershipLike | None:
        """Join, or return none because somebody is at the gate."""
        ...


@dataclass(frozen=True, slots=True)
class Place:
    """How to join a namespace: all that a pickle carries."""

    namespace: str
    base: Path
    shared: bool
    """Whether ``base`` is the user's runtime directory, made on demand and removed when empty."""

    @property
    def directory(self) -> Path:
        return self.base / f"local-{self.namespace}"

    @property
    def gate(self) -> str:
        return str(self.directory / "gate")

    def join(self, limits: Limits) -> Membership:
        return join(self, limits)

    def try_join(self, limits: Limits) -> Membership | None:
        return try_join(self, limits)

    def lease(self, token: bytes) -> Path:
        """The file whose lock proves that the publisher of one worker lives."""
        return self.directory / f"lease-{token.hex()}"


def check_name(namespace: str) -> str:
    if not isinstance(namespace, str):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise ValueError(f"the namespace of a LocalDiscovery is a string, got {namespace!r:.100}")
    if not namespace:
        raise ValueError("the namespace of a LocalDiscovery must not be empty; None makes up a fresh one")
    if len(namespace) > MOST_NAMESPACE_CHARACTERS:
        raise ValueError(
            f"the namespace {namespace[:MOST_NAMESPACE_CHARACTERS]!r}… has {len(namespace)} characters, "
            f"the limit is {MOST_NAMESPACE_CHARACTERS}"
        )
    if not _NAMESPACE.fullmatch(namespace):
        raise ValueError(
            f"the namespace {namespace!r} must consist of ASCII letters, digits, '_', '-' and '.', "
            f"and begin with a letter, digit or '_'"
        )
    return namespace


class Membership:
    """One use of a namespace: the shared lock, the descriptors, and the leases of what was published here.

    Its methods never wait; what needs the gate and does not get it says so. Safe to use from two threads.
    """

    def __init__(self, place: Place, lock: LockFile, header: mmap.mmap) -> None:
        self.place = place
        self._lock = lock
        self._header = header
        self._leases: dict[str, LockFile] = {}
        self._lives: dict[str, Life] = {}
        self._mutex = threading.Lock()
        self._pid = os.getpid()
        self._closed = False

    @property
    def published(self) -> int:
        return len(self._leases)

    def check_process(self) -> None:
        if self._pid != os.getpid():
            raise RuntimeError(
                f"namespace {self.place.namespace!r} was opened by process {self._pid}, of which this is a fork: "
                f"open it here, or pass the discovery to a process that is started afresh"
            )

    def generation(self) -> int:
        return table.read_generation(self._header)

    def look(self) -> table.Snapshot | None:
        """Return what the table holds, or none if writers overtook us again and again: then look later."""
        for _ in range(LOOK_ATTEMPTS):
            before = self.generation()
            snapshot = table.Snapshot.read(_read_all(self._lock.fileno()))
            if self.generation() == before == snapshot.generation:
                return snapshot
        return None

    def is_live(self, lease: bytes) -> bool:
        return _is_live(self.place.lease(lease))

    def try_publish(self, type: DiscoveryEventType, metadata: WorkerMetadata) -> bool:
        """Publish and return true, or return false because somebody is at the gate."""
        with self._mutex:
            if self._closed:
                raise RuntimeError(f"namespace {self.place.namespace!r} was closed before this was published")
            try:
                gate = _try_gate(self.place.directory, os.O_RDWR)
            except FileNotFoundError:
                raise self._removed() from None
            if gate is None:
                return False
            try:
                if not self._lock.is_current():
                    raise self._removed()
                self._publish(type, metadata)
            finally:
                gate.close()
            return True

    def close(self) -> None:
        """Drop what was published here, leave, and remove everything if nobody else is in; idempotent."""
        with self._mutex:
            if self._closed or self._pid != os.getpid():
                return
            self._closed = True
            gate = None
            try:
                with contextlib.suppress(FileNotFoundError):  # somebody removed the files: nothing to clean up
                    gate = self._wait_for_gate()
                if gate is not None:
                    self._leave(gate)
            finally:
                for lease in self._leases.values():
                    lease.close()
                self._leases.clear()
                self._header.close()
                self._lock.close()
                if gate is not None:
                    gate.close()

    def _removed(self) -> RuntimeError:
        return RuntimeError(
            f"the files of namespace {self.place.namespace!r} were removed from {self.place.directory}: "
            f"close the discovery and open it again"
        )

    def __del__(self) -> None:
        if not self._closed and self._pid == os.getpid():
            warnings.warn(f"unclosed {self!r}", ResourceWarning, stacklevel=2, source=self)
            self.close()

    def __repr__(self) -> str:
        return f"<Membership of {self.place.namespace!r} {'closed' if self._closed else 'open'}>"

    def _publish(self, type: DiscoveryEventType, metadata: WorkerMetadata) -> None:
        namespace, data = self.place.namespace, _read_all(self._lock.fileno())
        if type == "worker-added":
            token = secrets.token_bytes(table.LEASE_BYTES)
            change = table.add(data, metadata, token, namespace=namespace, is_live=self.is_live)
            lease = LockFile(self.place.lease(token), os.O_RDWR | os.O_CREAT | os.O_EXCL)
            try:
                if not lease.try_lock(exclusive=True):
                    raise RuntimeError(f"the new lease {lease.path} is locked by somebody else")
                life = find_life(metadata.uid)
                if life is not None:
                    os.write(lease.fileno(), life.to_bytes())
                self._carry_out(change)
            except BaseException:
                lease.path.unlink(missing_ok=True)
                lease.close()
                raise
            self._keep(metadata.uid, lease, life)
        elif type == "worker-updated":
            self._carry_out(table.update(data, metadata, namespace=namespace, is_live=self.is_live))
        else:
            try:
                change = table.drop(data, metadata.uid, namespace=namespace)
            except ValueError:
                life = self._lives.get(metadata.uid)
                if life is None or not life.has_ended():
                    raise
                # Others have found the worker dead, and its slot is free already.
            else:
                self._carry_out(change)
            self._keep(metadata.uid, None)

    def _keep(self, uid: str, lease: LockFile | None, life: Life | None = None) -> None:
        self._lives.pop(uid, None)
        if life is not None:
            self._lives[uid] = life
        # There can be an old one, if another member dropped the worker that was added here.
        old = self._leases.pop(uid, None)
        if old is not None:
            old.close()
        if lease is not None:
            self._leases[uid] = lease

    def _carry_out(self, change: table.Change) -> None:
        _carry_out(self.place, self._lock, change)

    def _wait_for_gate(self) -> LockFile | None:
        for _ in range(LOCK_ATTEMPTS):
            gate = _try_gate(self.place.directory, os.O_RDWR)
            if gate is not None:
                return gate
            time.sleep(LOCK_RETRY_SECONDS)
        _log.warning("%s; its next start cleans up what is left", gate_stuck(self.place))
        return None

    def _leave(self, gate: LockFile) -> None:
        """Drop what is ours; then, if nobody else has the table, unlink all. The gate is held."""
        ours = {lease.path for lease in self._leases.values()}
        data = _read_all(self._lock.fileno())
        for change in table.reclaim(data, is_live=lambda token: self.place.lease(token) not in ours):
            self._carry_out(change)
        # A conversion that fails loses the shared lock, and two that leave could both fail; but not under the gate.
        if self._lock.is_current() and self._lock.try_lock(exclusive=True):
            _clear(self.place, gate)


def gate_stuck(place: PlaceLike) -> TimeoutError:
    return TimeoutError(
        f"namespace {place.namespace!r}: another process held {place.gate} for {GATE_SECONDS:g} s; "
        f"look for a stopped process of yours that uses wool"
    )


def join(place: Place, limits: Limits) -> Membership:
    for _ in range(LOCK_ATTEMPTS):
        membership = try_join(place, limits)
        if membership is not None:
            return membership
        time.sleep(LOCK_RETRY_SECONDS)
    raise gate_stuck(place)


def try_join(place: Place, limits: Limits) -> Membership | None:
    """Join, or return none because somebody is at the gate or is just removing the namespace."""
    if not place.shared:
        check_private(place.base)
    try:
        if place.shared:
            make_private(place.base)
        make_private(place.directory)
        gate = _try_gate(place.directory, os.O_RDWR | os.O_CREAT)
    except FileNotFoundError:
        return None
    if gate is None:
        return None
    try:
        lock = LockFile(place.directory / "table", os.O_RDWR | os.O_CREAT)
        alone = lock.try_lock(exclusive=True)
        try:
            if alone:
                _start_table(place, lock, limits)
            membership = _enter(place, lock)
        except BaseException:
            if alone:
                _clear(place, gate)
            lock.close()
            raise
    finally:
        gate.close()
    if alone and place.shared:
        try:
            _clear_others(place)
        except OSError as error:  # somebody else's rest is no reason not to start
            _log.warning("could not remove what crashed processes left in %s: %s", place.base, error)
    return membership


def _enter(place: Place, lock: LockFile) -> Membership:
    """Become a member, and free the slots of dead publishers. The gate is held."""
    try:
        changes = table.reclaim(_read_all(lock.fileno()), is_live=lambda token: _is_live(place.lease(token)))
    except table.TableInvalid as error:
        raise RuntimeError(
            f"namespace {place.namespace!r} cannot be joined: {error}; use another namespace, or end the processes "
            f"of the other version of wool that use it"
        ) from error
    if not lock.try_lock(exclusive=False):
        raise RuntimeError(f"{lock.path} is locked by something that is not wool")
    for change in changes:
        _carry_out(place, lock, change)
    return Membership(place, lock, mmap.mmap(lock.fileno(), table.HEADER_BYTES, access=mmap.ACCESS_READ))


def _try_gate(directory: Path, flags: int) -> LockFile | None:
    """Take the gate, or return none if it is taken. Raises `FileNotFoundError` if it is not there."""
    gate = LockFile(directory / "gate", flags)
    if gate.try_lock(exclusive=True) and gate.is_current():
        return gate
    gate.close()
    return None


def _start_table(place: Place, lock: LockFile, limits: Limits) -> None:
    """Make an empty table where nobody has one, whatever a crashed process left. The gate is held."""
    for name in os.listdir(place.directory):
        if name.startswith("lease-"):
            (place.directory / name).unlink(missing_ok=True)
    os.ftruncate(lock.fileno(), 0)
    layout = table.Layout.of(slots=limits.local_workers, record_bytes=limits.record_bytes)
    _carry_out(place, lock, table.Change(0, layout.initial()))


def _clear(place: Place, gate: LockFile) -> None:
    """Remove a namespace that nobody has open. The gate is held, and goes last: until then nobody can join."""
    for name in os.listdir(place.directory):
        if name != gate.path.name:
            (place.directory / name).unlink(missing_ok=True)
    gate.path.unlink(missing_ok=True)
    remove_if_empty(place.directory)
    if place.shared:
        remove_if_empty(place.base)


def _clear_others(place: Place) -> None:
    """Remove the namespaces that crashed processes left behind and that nobody may ever start again."""
    for name in os.listdir(place.base):
        namespace = name.removeprefix("local-")
        if namespace in (name, place.namespace) or not _NAMESPACE.fullmatch(namespace):
            continue
        other = Place(namespace, place.base, place.shared)
        try:
            gate = _try_gate(other.directory, os.O_RDWR)
        except FileNotFoundError:
            # Gone meanwhile, or left without a gate; one that is only beginning makes its directory again.
            remove_if_empty(other.directory)
            continue
        if gate is not None:
            try:
                _clear_if_abandoned(other, gate)
            finally:
                gate.close()


def _clear_if_abandoned(place: Place, gate: LockFile) -> None:
    lock = LockFile(place.directory / "table", os.O_RDWR | os.O_CREAT)
    try:
        if lock.try_lock(exclusive=True):
            _clear(place, gate)
    finally:
        lock.close()


def _is_live(path: Path) -> bool:
    """Whether a living process holds the lease, and its worker is not known to be dead."""
    try:
        lease = LockFile(path, os.O_RDONLY)
    except FileNotFoundError:
        return False
    except OSError as error:
        if error.errno in (errno.EMFILE, errno.ENFILE):
            return True  # out of descriptors: we cannot tell, which is no proof of death
        raise
    try:
        if lease.try_lock(exclusive=False):
            return False
        life = Life.from_bytes(os.read(lease.fileno(), MOST_LIFE_BYTES))
        return life is None or not life.has_ended()
    finally:
        lease.close()


def _carry_out(place: Place, lock: LockFile, change: table.Change) -> None:
    """Write a change; in its order, for every write may be the last. The gate is held."""
    for write in change.writes:
        done = 0
        while done < len(write.data):
            done += os.pwrite(lock.fileno(), write.data[done:], write.offset + done)
    if change.retired is not None:
        place.lease(change.retired).unlink(missing_ok=True)


def _read_all(fd: int) -> bytes:
    size = os.fstat(fd).st_size
    chunks: list[bytes] = []
    offset = 0
    while offset < size and (chunk := os.pread(fd, size - offset, offset)):
        chunks.append(chunk)
        offset += len(chunk)
    return b"".join(chunks)
