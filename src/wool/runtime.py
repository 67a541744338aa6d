"""What the engine gets from outside: the seams, in one record.

Production has one `Runtime`; a simulated node has one of its own, set in its context. The engine never
reaches for a transport, a process, a thread or randomness by itself.
"""

from __future__ import annotations

import asyncio
import importlib
import os
import random
import socket
import weakref
from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Protocol

from wool.bridge import IoHost, IoThread, Mailbox, MailboxLike
from wool.credentials import CredentialsProvider
from wool.discovery.base import DiscoveryLike
from wool.events import PROCESS, Events
from wool.limits import DEFAULT_LIMITS, Limits
from wool.observer import Observer
from wool.protocol.frames import PROTOCOL_VERSION
from wool.resident import resident_bytes
from wool.tracing import PROCESS as TRACING
from wool.tracing import Tracing
from wool.transport.base import Transport
from wool.worker.spec import Launcher


class Home(Protocol):
    """Where the workers that one owner starts live: their addresses, and how they are found."""

    @property
    def discovery(self) -> DiscoveryLike:
        """Tells the pool's callers, nested ones included, of its workers."""
        ...

    def address(self, uid: str) -> str:
        """Return an address for the worker ``uid`` to bind."""
        ...

    def close(self) -> None:
        """Remove it, with all that is in it; idempotent."""
        ...


_forks = 0
"""How many forks lie between this process and the one that imported wool: cheaper to read than the pid."""


def _forked() -> None:
    global _forks
    _forks += 1


os.register_at_fork(after_in_child=_forked)


class _TaskKeys:
    """A generator of 16-byte keys, seeded by the system once: a system call per task would hand the GIL over."""

    def __init__(self) -> None:
        self._random = random.Random(os.urandom(32))

    def next(self) -> bytes:
        return self._random.randbytes(16)


def _uid() -> str:
    return os.urandom(16).hex()


@dataclass(frozen=True, kw_only=True, eq=False)
class Runtime:
    """One process's surroundings, real or simulated."""

    io: IoHost
    transport: Callable[[Limits, CredentialsProvider | None], Transport]
    """Makes a transport; with credentials it speaks TLS."""
    launcher: Callable[[], Launcher]
    home: Callable[[], Home]
    user_key: Callable[[], bytes]
    """The key that processes of one user share."""
    new_mailbox: Callable[[asyncio.AbstractEventLoop], MailboxLike] = Mailbox
    random_bytes: Callable[[int], bytes] = os.urandom
    """Unpredictable, for secrets and nonces."""
    task_key: Callable[[], bytes] = field(default_factory=lambda: _TaskKeys().next)
    """Mints a task's identity: unique, not secret."""
    memory: Callable[[], int] = resident_bytes
    """The bytes that this process holds."""
    limits: Limits = DEFAULT_LIMITS
    prepare: Callable[[], None] = lambda: None
    """Does ahead of time, while workers start, what the first connection would have to wait for."""
    events: Events = PROCESS
    """Where it is told what happens to tasks, and asked who wants to know."""
    tracing: Tracing = TRACING
    """Who traces calls and executions, if anybody does."""
    observer: Observer | None = None
    """Watches what the engine says, hears and decides: the simulator."""
    protocol: int = PROTOCOL_VERSION
    """The version of the protocol that its workers speak: another one in the simulator, where two releases meet."""
    uid: str = field(default_factory=_uid)
    """Of this process as a caller."""
    host: str = field(default_factory=socket.gethostname)
    pid: int = field(default_factory=os.getpid)
    _forks: int = field(default_factory=lambda: _forks)
    _mailboxes: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, MailboxLike] = field(
        default_factory=weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, MailboxLike]
    )

    def mailbox(self, loop: asyncio.AbstractEventLoop) -> MailboxLike:
        """Return the one mailbox of ``loop``."""
        mailbox = self._mailboxes.get(loop)
        if mailbox is None:
            mailbox = self._mailboxes[loop] = self.new_mailbox(loop)
        return mailbox

    def new_uid(self) -> str:
        """Mint the uid of a worker."""
        return self.random_bytes(16).hex()

    @property
    def forked(self) -> bool:
        """Whether this process was forked from the one that the runtime belongs to."""
        return self._forks != _forks

    def check_process(self) -> None:
        """Raise `RuntimeError` in a process that was forked from the one this belongs to."""
        if self.forked:
            raise RuntimeError(
                f"process {os.getpid()} was forked from {self.pid}, where this pool was opened: a pool belongs to "
                "the process that opened it; start processes by spawn or exec, and open a pool there"
            )


_runtime: ContextVar[Runtime | None] = ContextVar("wool.runtime", default=None)
_process: Runtime | None = None


def current_runtime() -> Runtime:
    """Return the runtime of this context: a simulated node's, else the process's own."""
    runtime = _runtime.get()
    return runtime if runtime is not None else _process_runtime()


def set_runtime(runtime: Runtime) -> None:
    """Let everything that starts in this context live in ``runtime``."""
    _runtime.set(runtime)


def _process_runtime() -> Runtime:
    global _process
    if _process is None or _process.forked:
        _process = real_runtime()
    return _process


def real_runtime(*, limits: Limits = DEFAULT_LIMITS, io: IoHost | None = None) -> Runtime:
    """Return a runtime of real threads, sockets and processes."""
    # Imported late: gRPC takes most of the time of `import wool`, and a child that fails should say so fast.
    from wool.home import LocalHome
    from wool.runtime_directory import user_key
    from wool.worker.launch import ProcessLauncher

    return Runtime(
        io=io if io is not None else IoThread(),
        transport=_grpc_transport,
        prepare=_import_engine,
        launcher=ProcessLauncher,
        home=lambda: LocalHome(limits),
        user_key=user_key,
        limits=limits,
    )


def _grpc_transport(limits: Limits, credentials: CredentialsProvider | None) -> Transport:
    from wool.transport.grpc import GrpcTransport

    return GrpcTransport(limits, credentials)


def _import_engine() -> None:
    importlib.import_module("wool.proxy")
    importlib.import_module("wool.transport.grpc")
