"""Workers that this process starts and owns, on this machine."""

from __future__ import annotations

import asyncio
import logging
import warnings
from collections.abc import Callable, Iterable, Mapping
from types import TracebackType
from typing import Any, Self

from wool.bridge import IoLoopDied, MailboxLike, run_on
from wool.context import credentials_in_force
from wool.credentials import (
    CredentialFiles,
    CredentialsArgument,
    WorkerCredentials,
    as_provider,
    asked_again,
    for_worker,
    secret_of,
)
from wool.discovery.base import WorkerMetadata, check_tags
from wool.runtime import Home, Runtime, current_runtime
from wool.worker.examiner import AdmissionHook, check_admission, dump_admission
from wool.worker.exposure import is_beyond_loopback
from wool.worker.loops import LoopKind, check_loop
from wool.worker.places import check_max_concurrency
from wool.worker.spec import Launcher, WorkerHandle, WorkerSpec

_log = logging.getLogger("wool.worker")

Gone = Callable[[WorkerMetadata, str], None]
"""Told, on the I/O loop, that a worker has ended without being asked to by its owner, and how."""


class Fleet:
    """Several workers that start and stop together. Everything here is run on the I/O loop."""

    def __init__(
        self, *, launcher: Launcher, gone: Gone, draining: Callable[[WorkerMetadata], None] | None = None
    ) -> None:
        self._launcher = launcher
        self._gone = gone
        self._draining = draining
        self._watchers: dict[WorkerHandle, asyncio.Task[None]] = {}
        self._retired: dict[WorkerHandle, None] = {}
        self._stopping = False

    @property
    def handles(self) -> list[WorkerHandle]:
        """The workers that are not gone."""
        return list(self._watchers)

    async def start(self, specs: Iterable[WorkerSpec]) -> list[WorkerMetadata]:
        """Start a worker per spec, all at once; return them ready. If one fails, none is left."""
        starts = [
            asyncio.create_task(self._launcher.launch(spec), name=f"wool starting worker {spec.uid}") for spec in specs
        ]
        try:
            await asyncio.gather(*starts)
        except BaseException:
            for start in starts:
                start.cancel()
            await asyncio.wait(starts)
            ready = [start.result() for start in starts if not start.cancelled() and start.exception() is None]
            await asyncio.gather(*(handle.stop(0.0) for handle in ready))
            raise
        for start in starts:
            self._begin_to_watch(start.result())
        return [handle.metadata for handle in self.handles]

    async def add(self, spec: WorkerSpec) -> WorkerHandle:
        """Start one worker more; return it ready. Cancelled, it leaves none, or one that `stop` stops."""
        handle = await self._launcher.launch(spec)
        self._begin_to_watch(handle)
        return handle

    async def retire(self, handle: WorkerHandle, drain_seconds: float) -> None:
        """Stop one of the workers; return when it is gone. `stop`, called meanwhile, may shorten the time."""
        self._retired[handle] = None
        await handle.stop(drain_seconds)

    def _begin_to_watch(self, handle: WorkerHandle) -> None:
        self._watchers[handle] = asyncio.create_task(
            self._watch(handle), name=f"wool watching worker {handle.metadata.uid[:8]}"
        )

    async def _watch(self, handle: WorkerHandle) -> None:
        await handle.wait_draining()
        if not self._stopping and self._draining is not None and handle.exit_reason is None:
            self._draining(handle.metadata)
        how = await handle.wait_closed()
        if not self._stopping:
            del self._watchers[handle]
            level = logging.INFO if self._retired.pop(handle, self) is None else logging.WARNING
            _log.log(level, "worker %s (pid %d) ended: %s", handle.metadata.uid[:8], handle.metadata.pid, how)
            self._gone(handle.metadata, how)

    async def stop(self, drain_seconds: float) -> None:
        """Stop all workers; return when they are gone. Bounded by the drain time and ``stop_seconds``."""
        self._stopping = True
        await asyncio.gather(*(handle.stop(drain_seconds) for handle in self.handles))
        await asyncio.gather(*self._watchers.values())

    def kill(self) -> None:
        """Kill all workers now. May also be called where the I/O loop has ended by itself."""
        self._stopping = True
        for handle in self.handles:
            handle.close()


class LocalWorker:
    """One worker process on this machine, for pools of this user's processes.

    By default it listens on a Unix socket in the user's private runtime directory; with ``host`` and
    ``port`` on loopback TCP (port 0: any free one). Callers of the same user prove who they are with the
    user's key, a file of 32 bytes in that directory (``key``, below ``$XDG_RUNTIME_DIR/wool`` or
    ``/dev/shm/wool-<uid>``) that is made on first use, and stays. Publish ``metadata`` through a discovery, or
    give it to a `WorkerProxy`.

    With ``credentials`` it speaks TLS, at any ``host``, and who may call is decided by certificates. They are
    `WorkerCredentials`, or a function that returns them, such as `CredentialFiles`, which are read again when
    they change; another function is asked again every few seconds, and the worker told. Left out, they are those of
    the `RuntimeContext`.

    ``tags`` are free strings to filter by, ``extra`` is the application's own. Raises `ValueError` for a
    host that is not loopback without mutual credentials: others are not served. With ``allow_insecure`` they are:
    without credentials who has this user's key, in plain text, which anybody on the way can read and change; with
    one-way ones (``mutual=False``) who has their secret. Each start then logs a warning. With ``loop="uvloop"`` bodies
    run on uvloop (extra ``wool[uvloop]``). ``max_concurrency`` is how many bodies are at work at a time, of those that
    do not await a nested call; by default as many as are called. ``admission`` is asked, on the worker, whether it
    takes a task that it is offered: see `TaskOffer`.
    """

    def __init__(
        self,
        *tags: str,
        host: str | None = None,
        port: int = 0,
        extra: Mapping[str, str] | None = None,
        credentials: CredentialsArgument | None = None,
        allow_insecure: bool = False,
        loop: LoopKind = "asyncio",
        max_concurrency: int | None = None,
        admission: AdmissionHook | None = None,
    ) -> None:
        self._admission: AdmissionHook | None = check_admission(admission)
        self._most_at_work: int | None = check_max_concurrency(max_concurrency)
        self._loop_kind: LoopKind = check_loop(loop)
        self.tags: frozenset[str] = check_tags(tags)
        self._runtime: Runtime = current_runtime()
        self._extra = dict(extra or {})
        as_provider(credentials)
        self._credentials = credentials = credentials_in_force() if credentials is None else credentials
        self._bind = address_to_bind(host, port, credentials=credentials, allow_insecure=allow_insecure)
        self._allow_insecure = allow_insecure
        self._home: Home | None = None
        self._fleet: Fleet | None = None
        self._metadata: WorkerMetadata | None = None
        self._io: MailboxLike | None = None
        self._exit: str | None = None

    @property
    def metadata(self) -> WorkerMetadata:
        """The worker, as to be published. Raises `RuntimeError` before `start`."""
        if self._metadata is None:
            raise RuntimeError("the worker has not been started: await worker.start() first")
        return self._metadata

    @property
    def exit_reason(self) -> str | None:
        """How the process ended without being asked to; None while it lives, or if it was asked to."""
        return self._exit

    async def start(self) -> None:
        """Start the process; return when it is ready.

        Raises `WorkerStartError`, with the worker's own output, if it fails or takes longer than
        ``worker_start_seconds``, and `RuntimeError` if it was started before. Cancelling leaves nothing.
        """
        if self._fleet is not None:
            raise RuntimeError("the worker was started before: make a new LocalWorker")
        runtime = self._runtime
        runtime.check_process()
        fleet = self._fleet = Fleet(launcher=runtime.launcher(), gone=self._gone)
        io_loop = runtime.io.acquire()
        self._io = runtime.mailbox(io_loop)
        try:
            uid = runtime.new_uid()
            address = self._bind
            if address is None:
                self._home = runtime.home()
                address = self._home.address(uid)
            credentials = for_worker(self._credentials)
            check_mutual(address, credentials, allow_insecure=self._allow_insecure)
            spec = WorkerSpec(
                address=address,
                secret=runtime.user_key() if credentials is None else secret_of(credentials) or None,
                credentials=credentials,
                provider=asked_again(self._credentials),
                uid=uid,
                tags=self.tags,
                extra=self._extra,
                limits=runtime.limits,
                loop=self._loop_kind,
                max_concurrency=self._most_at_work,
                admission=dump_admission(self._admission),
            )

            async def start() -> list[WorkerMetadata]:
                return await fleet.start([spec])

            [self._metadata] = await self._run(start, "wool starting a worker")
        except BaseException:
            await self._clean_up(0.0)
            raise

    def _gone(self, metadata: WorkerMetadata, how: str) -> None:
        self._exit = how

    async def _run(self, work: Callable[[], Any], name: str) -> Any:
        assert self._io is not None
        here = self._runtime.mailbox(asyncio.get_running_loop())
        return await run_on(self._io, here, work, name)

    async def stop(self, *, drain_seconds: float | None = None) -> None:
        """Drain and stop the process; return when it is gone. Idempotent.

        What runs may go on for ``drain_seconds`` (default ``Limits.drain_seconds``), then is interrupted.
        A worker that does not end is killed. Cancelling kills it at once.
        """
        if self._runtime.forked:
            self._io = None  # the process is the parent's
        if self._io is not None:
            await self._clean_up(self._runtime.limits.drain_seconds if drain_seconds is None else drain_seconds)

    async def _clean_up(self, drain_seconds: float) -> None:
        fleet = self._fleet
        assert fleet is not None
        try:

            async def stop() -> None:
                await fleet.stop(drain_seconds)

            await self._run(stop, "wool stopping a worker")
        except IoLoopDied:
            fleet.kill()
        finally:
            self._io = None
            if self._home is not None:
                self._home.close()
            await self._runtime.io.release()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.stop()

    def __del__(self) -> None:
        if getattr(self, "_io", None) is not None:
            warnings.warn(f"unstopped {self!r}: await worker.stop()", ResourceWarning, source=self, stacklevel=2)

    def __repr__(self) -> str:
        state = "not started" if self._metadata is None else ("running" if self._io is not None else "stopped")
        return f"<LocalWorker {'' if self._metadata is None else self._metadata.uid[:8] + ' '}{state}>"


def address_to_bind(
    host: str | None,
    port: int,
    *,
    credentials: CredentialsArgument | None,
    who: str = "LocalWorker",
    allow_insecure: bool = False,
) -> str | None:
    """Return the address to bind, None for a Unix socket. Raises `ValueError` naming what is wrong.

    ``who`` is what the user has said it to. Beyond loopback only callers with certificates are served, unless others
    were allowed. What a function returns is not known yet: `check_mutual` is asked again once it is.
    """
    import ipaddress

    if type(port) is not int or not 0 <= port <= 65535:
        raise ValueError(f"port must be a number from 0 to 65535, got {port!r}")
    if host is None:
        if credentials is not None:
            raise ValueError(f"credentials are for workers on TCP: say at which host, {who}(host='127.0.0.1', …)")
        if port:
            raise ValueError(f"port {port} needs a host: LocalWorker(host='127.0.0.1', port={port})")
        return None
    try:
        ip = ipaddress.ip_address(host)
    except ValueError:
        raise ValueError(f"host must be a literal IP address such as '127.0.0.1', got {host!r}") from None
    if ip.is_unspecified:
        raise ValueError(f"host {host} is no address that callers can be told: name the one at which they reach it")
    if not ip.is_loopback and credentials is None and not allow_insecure:
        raise ValueError(
            f"host {host} is not loopback: a worker that others can reach needs mutual TLS; give {who} credentials, "
            "or use '127.0.0.1'"
        )
    address = f"[{ip}]:{port}" if ip.version == 6 else f"{ip}:{port}"
    check_mutual(address, credentials, who=who, allow_insecure=allow_insecure)
    return address


def check_mutual(
    address: str, credentials: CredentialsArgument | None, *, who: str = "LocalWorker", allow_insecure: bool
) -> None:
    """Raise `ValueError` if others can reach ``address``, and their callers need not show a certificate."""
    one_way = isinstance(credentials, WorkerCredentials | CredentialFiles) and not credentials.mutual
    if one_way and not allow_insecure and is_beyond_loopback(address):
        raise ValueError(
            f"{address} is not loopback: a worker that others can reach needs mutual TLS, and with mutual=False "
            f"callers show no certificate; give {who} credentials with mutual=True, or use '127.0.0.1', or say "
            "allow_insecure=True, and whoever has the secret may run any code there"
        )
