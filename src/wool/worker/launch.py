"""Starting worker processes, and being sure that they end.

A worker is a plain ``python -m wool.worker`` with the owner's import path and directory; nothing of the owner's
``__main__`` is run again. Three things join the two: a socket pair to talk (`wool.worker.channel`), a pipe that
brings the worker's output, and the lifeline, a pipe on which nobody ever writes: while this process holds its
write end the worker lives, and when it is closed, by us or by the kernel, the worker dies
(`wool.worker.lifeline`).

This module owns the process, its descriptors and its exit status. It must never leave a process, a zombie or
a descriptor behind, whatever is raised or cancelled, and must never have a second holder of a lifeline's write
end. It uses none of asyncio's child watchers, since its loop does not run in the main thread.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import sys
import time
import warnings
from collections.abc import Callable
from typing import Final

from wool.credentials import WorkerCredentials
from wool.discovery.base import WorkerMetadata
from wool.statistics import Statistics
from wool.tracing import PROCESS as TRACING
from wool.whereabouts import note_workers_path
from wool.worker.channel import (
    Ask,
    ChannelError,
    Configure,
    Counted,
    Draining,
    Failed,
    Lines,
    Ready,
    Renew,
    Stop,
    Stopped,
    WorkerMessage,
    Worn,
    decode_from_worker,
    encode,
)
from wool.worker.child import Child, WorkerStartError, exit_in_words
from wool.worker.exposure import warn_if_insecure
from wool.worker.output import Forward, Output
from wool.worker.renewal import Renewal
from wool.worker.spec import WorkerSpec

_log = logging.getLogger("wool.worker")

_READ_BYTES: Final = 64 * 1024
"""Asked of a descriptor at once: what a pipe holds on Linux, so that one worker cannot keep the loop busy."""

_DRAIN_READS: Final = 16
"""After the worker's end, to empty its pipe and its socket; then somebody else is writing, and never stops."""


class ProcessLauncher:
    """Starts workers as processes of this machine.

    ``module`` is what ``python -m`` runs in them; it hands its arguments to `wool.worker.process.main`. ``forward``
    takes the lines that they print, on the loop that launches; by default they go to the standard error.
    """

    def __init__(self, *, module: str = "wool.worker", forward: Forward | None = None) -> None:
        self._module = module
        self._forward = forward

    async def launch(self, spec: WorkerSpec) -> WorkerProcess:
        """See `Launcher`. The loop stands still for the moment (1 to 3 ms) that creating a process takes.

        Raises `ChannelError`, a `ValueError`, if ``spec`` is wrong or too large to be sent.
        """
        configuration = encode(_configure(spec))
        try:
            # It alone knows whom it has refused in TLS. Where strangers get beyond that, one of them could have it
            # write so much that nobody else is served.
            mutual = spec.credentials is not None and spec.credentials.mutual
            child = Child(self._module, grpc_speaks=mutual)
        except OSError as error:
            raise WorkerStartError(f"no worker process could be created: {error}") from error
        try:
            worker = WorkerProcess(child, spec, self._forward)
        except BaseException:
            child.process.kill()
            child.process.wait()
            child.close_descriptors()
            raise
        try:
            await worker.start(configuration)
        except BaseException:
            worker.close()
            await worker.reap()
            raise
        warn_if_insecure(spec.credentials, worker.metadata.address)
        worker.keep_renewed()
        return worker


def _configure(spec: WorkerSpec) -> Configure:
    try:
        return Configure(
            # The import system ignores what is not a string.
            sys_path=tuple(entry for entry in sys.path if type(entry) is str),
            python_path=os.environ.get("PYTHONPATH"),
            argv=tuple(argument for argument in sys.argv if type(argument) is str),
            address=spec.address,
            secret=spec.secret,
            uid=spec.uid,
            tags=spec.tags,
            extra=spec.extra,
            limits=spec.limits,
            log_style=spec.log_style,
            log_level=spec.log_level,
            log_mark=spec.log_mark,
            credentials=spec.credentials,
            tracing=TRACING.workers if spec.tracing is None else spec.tracing,
            loop=spec.loop,
            retirement=spec.retirement,
            max_concurrency=spec.max_concurrency,
            admission=spec.admission,
        )
    except ValueError as error:
        raise ChannelError(f"no worker can be configured so: {error}") from error


class WorkerProcess:
    """A worker process, as its owner sees it. See `WorkerHandle`.

    Bookkeeping happens in callbacks of the loop and never waits, so no task is needed to notice the end.
    """

    def __init__(self, child: Child, spec: WorkerSpec, forward: Forward | None = None) -> None:
        self._loop = asyncio.get_running_loop()
        self._child = child
        self._spec = spec
        self._output = Output(child.process.pid, spec.limits, forward)
        self._output.uid = spec.uid
        self._forget_path = note_workers_path(sys.path)
        self._lines = Lines()
        self._unsent = bytearray()
        self._metadata: WorkerMetadata | None = None
        self._failure: str | None = None
        self._killed_because: str | None = None
        self._exit_reason: str | None = None
        self._stopped: Stopped | None = None
        self._started: asyncio.Future[None] = self._loop.create_future()
        self._worn: asyncio.Future[str | None] = self._loop.create_future()
        self._draining: asyncio.Future[None] = self._loop.create_future()
        self._closed: asyncio.Future[None] = self._loop.create_future()
        self._asked: asyncio.Future[Statistics | None] | None = None
        self._grace: asyncio.TimerHandle | None = None
        self._poll: asyncio.TimerHandle | None = None
        self._renewal: Renewal | None = None
        self._loop.add_reader(child.output, self._read_output)
        self._loop.add_reader(child.control.fileno(), self._read_control)
        if child.announcer is not None:
            self._loop.add_reader(child.announcer, self._look)
        else:
            self._look_again(spec.limits.exit_poll_most_seconds)

    def __repr__(self) -> str:
        state = self._exit_reason or ("draining" if self.is_draining else "ready" if self._metadata else "starting")
        return f"<WorkerProcess pid={self._child.process.pid} {state}>"

    def __del__(self) -> None:
        if getattr(self, "_exit_reason", "never began") is None:
            self._close_descriptors()  # the lifeline is one of them
            warnings.warn(f"{self!r} was never stopped", ResourceWarning, stacklevel=2, source=self)

    # What a handle offers.

    @property
    def metadata(self) -> WorkerMetadata:
        """What the worker said of itself when it was ready."""
        if self._metadata is None:
            raise RuntimeError("the worker is not ready")
        return self._metadata

    @property
    def exit_reason(self) -> str | None:
        """How it ended, in words; `None` while it lives."""
        return self._exit_reason

    @property
    def interrupted(self) -> int | None:
        """How many tasks did not come to an end of their own when it stopped; `None` if it did not say so."""
        return None if self._stopped is None else self._stopped.interrupted

    @property
    def is_draining(self) -> bool:
        """Whether it takes no more tasks, or lives no more."""
        return self._draining.done()

    async def wait_worn(self) -> str | None:
        """Return why the worker has had enough; None once it drains, or is gone."""
        return await asyncio.shield(self._worn)

    async def wait_draining(self) -> None:
        """Return when the worker takes no more tasks, or is gone."""
        await asyncio.shield(self._draining)

    async def wait_closed(self) -> str:
        """Return `exit_reason` when the worker is gone and nothing of it is left."""
        await asyncio.shield(self._closed)
        assert self._exit_reason is not None
        return self._exit_reason

    async def statistics(self, seconds: float) -> Statistics | None:
        """Ask what the worker has done, and how it is; None if it is gone, or does not answer within ``seconds``.

        May be cancelled. Whoever asks before it has answered waits for the same answer.
        """
        asked = self._asked
        if asked is None and not self._closed.done():
            asked = self._asked = self._loop.create_future()
            self._send(encode(Ask()))
        if asked is not None:
            await asyncio.wait([asked], timeout=seconds)
        return asked.result() if asked is not None and asked.done() else None

    async def stop(self, drain_seconds: float) -> None:
        """Let the worker finish for at most ``drain_seconds``; return when it is gone. See `WorkerHandle`."""
        message = encode(Stop(drain_seconds=drain_seconds))
        if self._closed.done():
            return
        reason = "its stop was cancelled"
        try:
            self._send(message)
            patience = drain_seconds + self._spec.limits.stop_seconds
            await asyncio.wait([self._closed], timeout=patience)
            reason = f"it did not stop within {patience:g} s"
        finally:
            if not self._closed.done():
                self._kill(reason)
                await self.reap()

    def close(self) -> None:
        """Kill the worker now."""
        self._kill("closed by its owner")
        if self._exit_reason is None and self._loop.is_closed():
            self._reap_without_loop()

    # Starting and ending.

    async def start(self, configuration: bytes) -> None:
        """Configure the worker and wait until it is ready. Raises `WorkerStartError` when it is gone instead."""
        limits = self._spec.limits
        self._send(configuration)
        await asyncio.wait([self._started], timeout=limits.worker_start_seconds)
        if self._metadata is not None:
            return
        if self._failure is not None:
            await asyncio.wait([self._closed], timeout=limits.stop_seconds)  # it exits by itself, after a last word
        self._kill(
            "it failed but did not exit"
            if self._failure is not None
            else f"it was not ready within {limits.worker_start_seconds:g} s (worker_start_seconds)"
        )
        await self.reap()
        raise WorkerStartError(self._start_problem())

    def keep_renewed(self) -> None:
        """Tell the worker of other credentials, as long as it lives, if a function gives them."""
        given, provider = self._spec.credentials, self._spec.provider
        if provider is not None and isinstance(given, WorkerCredentials) and self._exit_reason is None:
            seconds = self._spec.limits.credentials_seconds
            self._renewal = Renewal(provider, given, seconds=seconds, say=self._renew)

    def _renew(self, credentials: WorkerCredentials) -> None:
        try:
            self._send(encode(Renew(credentials=credentials)))
        except ChannelError as error:
            _log.warning("%r goes on with the credentials of before: %s", self, error)

    def _start_problem(self) -> str:
        tail = self._output.tail.strip("\n")
        parts = [f"worker process {self._child.process.pid} did not start: {self._exit_reason}"]
        if tail:
            parts.append(f"the end of its output:\n{tail}")
        if self._failure is not None and self._failure.strip() not in tail:
            parts.append(self._failure.strip())
        elif not tail:
            parts.append("it printed nothing")
        return "\n".join(parts)

    async def reap(self) -> None:
        """Wait until a killed worker is gone; a cancellation waits too, since that is a matter of milliseconds.

        Raises `RuntimeError` if it survives for ``stop_seconds``.
        """
        deadline = self._loop.time() + self._spec.limits.stop_seconds
        cancelled: asyncio.CancelledError | None = None
        while not self._closed.done() and self._loop.time() < deadline:
            try:
                await asyncio.wait([self._closed], timeout=deadline - self._loop.time())
            except asyncio.CancelledError as error:
                cancelled = error
        if not self._closed.done():
            raise RuntimeError(f"{self!r} survives SIGKILL: the kernel is stuck with it") from cancelled
        if cancelled is not None:
            raise cancelled

    def _reap_without_loop(self) -> None:
        deadline = time.monotonic() + self._spec.limits.stop_seconds
        while self._exit_reason is None and time.monotonic() < deadline:
            time.sleep(self._spec.limits.exit_poll_first_seconds)
            self._look()

    def _kill(self, reason: str) -> None:
        if self._exit_reason is not None:
            return
        self._killed_because = self._killed_because or reason
        try:
            if self._child.announcer is not None and sys.platform == "linux":
                signal.pidfd_send_signal(self._child.announcer, signal.SIGKILL)
            else:
                os.kill(self._child.process.pid, signal.SIGKILL)  # not reaped by us, so still that process
        except ProcessLookupError:
            pass  # gone, and reaped by somebody else; `_look` will find that out
        self._child.lifeline.close()
        self._expect_end()

    def _kill_later(self, reason: str) -> None:
        """The worker should end by itself now, but is not trusted to."""
        if self._exit_reason is not None:
            return
        if self._grace is None:
            self._grace = self._loop.call_later(self._spec.limits.stop_seconds, self._kill, reason)
        self._expect_end()

    def _expect_end(self) -> None:
        if self._poll is not None and not self._loop.is_closed():
            self._look_again(self._spec.limits.exit_poll_first_seconds)

    # Noticing the end.

    def _look_again(self, delay: float) -> None:
        if self._poll is not None:
            self._poll.cancel()
        self._poll = self._loop.call_later(delay, self._look, delay)

    def _look(self, delay: float | None = None) -> None:
        """See whether the process has ended; if not, and if nobody tells us, look again later."""
        process = self._child.process
        try:
            pid, status = os.waitpid(process.pid, os.WNOHANG)
        except ChildProcessError:
            # SIGCHLD is ignored, or somebody waits for every child of the process.
            code, reason = 0, "exit status unknown, since other code of this process took it"
        else:
            if pid == 0:
                if delay is not None:
                    self._look_again(min(2 * delay, self._spec.limits.exit_poll_most_seconds))
                return
            code = os.waitstatus_to_exitcode(status)
            reason = exit_in_words(code)
        process.returncode = code  # or `Popen` would wait for it again
        self._finish(reason if self._killed_because is None else f"{reason} ({self._killed_because})")

    def _finish(self, reason: str) -> None:
        self._exit_reason = reason
        self._forget_path()
        try:
            for _ in range(_DRAIN_READS):
                if not self._read_control():
                    break
            for _ in range(_DRAIN_READS):
                if not self._read_output():
                    break
            self._output.finish()
        finally:
            for timer in (self._grace, self._poll):
                if timer is not None:
                    timer.cancel()
            if self._renewal is not None:
                self._renewal.stop()
            self._close_descriptors()
            for future in (self._started, self._closed):
                self._settle(future)
            self._counts(None)
            self._drains()

    def _close_descriptors(self) -> None:
        for descriptor in (self._child.control.fileno(), self._child.output, self._child.announcer):
            self._forget(descriptor)
        self._child.close_descriptors()

    def _forget(self, descriptor: int | None) -> None:
        if descriptor is not None and descriptor >= 0 and not self._loop.is_closed():
            self._loop.remove_reader(descriptor)
            self._loop.remove_writer(descriptor)

    # Reading and writing: each returns whether there may be more to read.

    def _read_output(self) -> bool:
        data = self._read(lambda: os.read(self._child.output, _READ_BYTES))
        if data is None:
            return False
        if not data:
            self._forget(self._child.output)
            return False
        self._output.feed(data)
        return True

    def _read_control(self) -> bool:
        data = self._read(lambda: self._child.control.recv(_READ_BYTES))
        if data is None:
            return False
        if not data:
            self._forget(self._child.control.fileno())
            self._kill_later("it closed its control channel but did not exit")
            return False
        try:
            for line in self._lines.feed(data):
                self._handle(decode_from_worker(line))
        except ChannelError as error:
            self._forget(self._child.control.fileno())
            self._kill(f"it broke the control channel: {error}")
            return False
        return True

    @staticmethod
    def _read(read: Callable[[], bytes]) -> bytes | None:
        """`None`: nothing yet. Empty: never again."""
        try:
            return read()
        except (BlockingIOError, InterruptedError):
            return None
        except ConnectionError:
            return b""  # it died with something unread

    def _handle(self, message: WorkerMessage) -> None:
        match message:
            case Ready(metadata=metadata):
                if self._metadata is not None or self._failure is not None:
                    raise ChannelError("'ready' after 'ready' or 'failed'")
                if self._spec.uid not in (None, metadata.uid):
                    raise ChannelError(f"it is {metadata.uid}, not {self._spec.uid}")
                self._metadata = metadata
                self._output.uid = metadata.uid
                self._settle(self._started)
            case Failed(text=text):
                if self._metadata is not None or self._failure is not None:
                    raise ChannelError("'failed' after 'ready' or 'failed'")
                self._failure = text
                self._settle(self._started)
            case Worn(why=why):
                if not self._worn.done():
                    self._worn.set_result(why)
            case Counted(statistics=statistics):
                self._counts(statistics)
            case Draining():
                self._drains()
            case Stopped():
                self._stopped = message
                self._drains()
                self._kill_later("it stopped but did not exit")

    def _counts(self, statistics: Statistics | None) -> None:
        asked, self._asked = self._asked, None
        if asked is not None and not self._loop.is_closed():
            asked.set_result(statistics)

    def _drains(self) -> None:
        self._settle(self._draining)
        if not self._worn.done() and not self._loop.is_closed():
            self._worn.set_result(None)

    def _settle(self, future: asyncio.Future[None]) -> None:
        if not future.done() and not self._loop.is_closed():
            future.set_result(None)

    def _send(self, line: bytes) -> None:
        self._unsent += line
        self._flush()

    def _flush(self) -> None:
        control = self._child.control
        if control.fileno() < 0:
            return
        try:
            # MSG_NOSIGNAL, for an owner that lets SIGPIPE kill it.
            sent = control.send(self._unsent, getattr(socket, "MSG_NOSIGNAL", 0))
        except (BlockingIOError, InterruptedError):
            sent = 0
        except ConnectionError:
            sent = len(self._unsent)  # the worker is going or gone, and that is noticed elsewhere
        del self._unsent[:sent]
        if self._unsent:
            self._loop.add_writer(control.fileno(), self._flush)
        else:
            self._loop.remove_writer(control.fileno())
