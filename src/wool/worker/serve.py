"""The worker process: the I/O thread serves sessions, the main thread runs the bodies.

It starts both, says that it is ready, drains when it is told to (by the owner's pipe or by SIGTERM) and
ends. Signals are read by the I/O loop from a wakeup descriptor, since the routine loop may be busy for
seconds. If the I/O loop dies, the process exits: gRPC's own threads would go on to answer pings.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import faulthandler
import gc
import logging
import os
import signal
import socket
import sys
from collections.abc import Callable

from wool._version import __version__
from wool.bridge import IoThread, MailboxLike, run_on
from wool.credentials import Renewed, WorkerCredentials, as_provider
from wool.discovery.base import WorkerMetadata
from wool.events import PROCESS
from wool.lives import begin_life
from wool.runtime import Runtime, real_runtime, set_runtime
from wool.statistics import Statistics
from wool.tracing import PROCESS as TRACING
from wool.whereabouts import note_workers_path
from wool.worker import forks
from wool.worker.admission import Admission, let_in
from wool.worker.channel import (
    Ask,
    ChannelError,
    ChildChannel,
    Configure,
    Counted,
    Draining,
    Ready,
    Renew,
    Stop,
    Stopped,
    Worn,
)
from wool.worker.door import Door
from wool.worker.examiner import Examiner, load_admission
from wool.worker.job import PostedRunner
from wool.worker.ledger import Vitals
from wool.worker.logs import write_events
from wool.worker.loops import routine_loop
from wool.worker.nested import Nested
from wool.worker.retirement import Wear
from wool.worker.runner import Runner
from wool.worker.seats import Desk
from wool.worker.service import WorkerService
from wool.worker.signals import ignore_interrupt
from wool.worker.spec import Unfit

_log = logging.getLogger("wool.worker")

IO_LOOP_DIED = 70
"""Exit status (EX_SOFTWARE) of a worker whose I/O loop ended by itself."""


class WorkerNode:
    """A worker's engine on its two loops, without anything of the process around it.

    Made on the routine loop; `start`, `drain` and `close` are run there. The simulator builds its workers
    from this very class.
    """

    def __init__(self, *, configure: Configure, runtime: Runtime, io_loop: asyncio.AbstractEventLoop) -> None:
        self._configure = configure
        self._runtime = runtime
        self._secret = configure.secret or b""
        given = configure.credentials
        self._renewed = Renewed(given) if isinstance(given, WorkerCredentials) else None
        self._credentials = self._renewed or as_provider(given)
        self.uid: str = configure.uid or runtime.new_uid()
        loop = asyncio.get_running_loop()
        self._io: MailboxLike = runtime.mailbox(io_loop)
        self._routines: MailboxLike = runtime.mailbox(loop)
        self._nested = Nested(runtime, self._secret, self._credentials, self._io, self._routines)
        self._door: Door | None = None
        self._examiner: Examiner | None = None
        if configure.admission is not None:
            self._examiner = Examiner(load_admission(configure.admission), loop=loop, io=self._io)
        answers, desk = self._io.batched(loop, crowd=self._crowd), None
        if configure.max_concurrency is not None:
            self._door = Door(configure.max_concurrency)
            changed = self._door.changed
            desk = Desk(
                configure.max_concurrency,
                loop=loop,
                routines=self._routines,
                mailbox=runtime.mailbox,
                tell=lambda fresh, used: answers.post(changed, fresh, used),
            )
        self._desk: Desk | None = desk
        self._runner = Runner(
            loop=loop,
            io=answers,
            pools=self._nested,
            worker=self.uid,
            limits=configure.limits,
            host=runtime.host,
            pid=runtime.pid,
            events=runtime.events,
            tracing=runtime.tracing,
            desk=desk,
        )
        self._service: WorkerService | None = None
        self._stopping: asyncio.Task[None] | None = None
        self._drain_until = 0.0
        self._look: asyncio.TimerHandle | None = None
        self.interrupted: int = 0
        """Tasks that did not come to an end of their own when the worker was stopped."""

    def _crowd(self) -> int:
        return self._runner.crowd()

    def renew(self, credentials: WorkerCredentials) -> None:
        """Show ``credentials`` to whoever connects from now on. Raises `ChannelError` where it was not given any."""
        if self._renewed is None:
            raise ChannelError("Renew is not expected where there are no credentials to be renewed")
        self._renewed.now = credentials

    async def start(self) -> WorkerMetadata:
        """Listen; return what to announce. Raises `Unfit` if it can have had enough before its first task."""
        configure, runtime = self._configure, self._runtime

        async def listen() -> WorkerMetadata:
            self._service = WorkerService(
                transport=runtime.transport(configure.limits, self._credentials),
                runner=PostedRunner(self._runner, self._routines.batched(asyncio.get_running_loop())),
                secret=self._secret,
                limits=configure.limits,
                random_bytes=runtime.random_bytes,
                vitals=Vitals(runtime.memory, self._runner.lag.worst_seconds),
                observer=runtime.observer,
                door=self._door,
                admission=self._admission(),
                protocol=runtime.protocol,
            )
            if configure.retirement and (refusal := configure.retirement.refusal(runtime.memory())):
                raise Unfit(refusal)
            return await self._service.listen(configure.address, self._describe)

        return await run_on(self._io, self._routines, listen, "wool worker listening")

    def _admission(self) -> Admission | None:
        if self._examiner is None:
            return None
        onward = let_in if self._door is None else self._door.arrive
        return self._examiner.admission(self._routines, onward=onward, complain=self._complain)

    def _complain(self, message: str, *args: object) -> None:
        assert self._service is not None
        self._service.refusals.say(message, *args)

    def _describe(self, address: str) -> WorkerMetadata:
        configure = self._configure
        return WorkerMetadata(
            uid=self.uid,
            address=address,
            pid=self._runtime.pid,
            version=__version__,
            tags=configure.tags,
            extra=configure.extra,
            secure=self._credentials is not None,
        )

    def statistics(self) -> Statistics:
        """Return what the worker has done, and how it is; run on the I/O loop, after `start`."""
        assert self._service is not None
        return self._service.statistics()

    def places_kept(self) -> int:
        """Return how many places are taken or waited for though no body is left; run on the routine loop."""
        if self._desk is None or self._runner.running:
            return 0
        return self._desk.places.held + self._desk.places.waiting

    def sweep(self) -> None:
        """See `Runner.sweep`."""
        self._runner.sweep()

    def watch_wear(self, worn: Callable[[str], None]) -> None:
        """Tell ``worn``, once, why the worker has had enough; run on the I/O loop, after `start`."""
        assert self._service is not None
        retirement = self._configure.retirement
        wear = Wear(retirement, worn)
        if self._stopping is not None:
            return
        wear.started(self._service.started)
        if retirement.max_tasks is not None:
            self._service.ledger.counted = wear.started
        if retirement.memory_limit is not None:
            self._look_at_memory(wear)

    def _look_at_memory(self, wear: Wear) -> None:
        wear.holds(self._runtime.memory())
        if not wear.is_worn:
            seconds = self._configure.limits.memory_look_seconds
            self._look = asyncio.get_running_loop().call_later(seconds, self._look_at_memory, wear)

    def begin_stop(self, drain_seconds: float, draining: Callable[[], None], stopped: Callable[[], None]) -> None:
        """Drain, then close the sessions; run on the I/O loop. Said again, it may shorten the drain."""
        loop = asyncio.get_running_loop()
        until = loop.time() + drain_seconds
        if self._stopping is not None and until >= self._drain_until:
            return
        self._drain_until = until
        first = self._stopping
        if first is not None:
            first.cancel()
        self._stopping = loop.create_task(self._stop(drain_seconds, draining, stopped), name="wool worker stopping")

    async def _stop(self, drain_seconds: float, draining: Callable[[], None], stopped: Callable[[], None]) -> None:
        assert self._service is not None
        draining()
        if self._look is not None:
            self._look.cancel()
        self._service.ledger.counted = None
        self.interrupted = await self._service.drain(drain_seconds)
        await self._service.close()
        stopped()

    async def close(self) -> None:
        """Close the pools of nested calls, and end hooks that still think; after the sessions have ended."""
        if self._examiner is not None:
            await self._examiner.close(self._configure.limits.close_seconds)
        self._runner.lag.close()
        await self._nested.close()


def serve(configure: Configure, channel: ChildChannel) -> int:
    """Run the worker until it has stopped; return the exit status."""
    note_workers_path(sys.path)  # The siblings' is the same, whatever bodies do to this one.
    close_log = _set_up_logging(configure)
    try:
        if configure.tracing is not None:
            # Late: most workers trace nothing, and its package is an extra.
            from wool.otel import set_up_worker

            try:
                set_up_worker(configure.tracing)
            except RuntimeError as error:
                if error.__cause__ is None:
                    raise Unfit(str(error)) from None
                raise
        _serve(configure, channel)
        PROCESS.end(configure.limits.close_seconds)
        # `os._exit` would leave them out. The owner waits for `stop_seconds`, and no longer.
        atexit._run_exitfuncs()  # pyright: ignore[reportPrivateUsage]
    finally:
        close_log()
    if (tracer := TRACING.tracer) is not None:
        tracer.flush(configure.limits.close_seconds)
    # Bodies that ignored their cancellation are left where they stand, in daemon threads too.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


def _serve(configure: Configure, channel: ChildChannel) -> None:
    faulthandler.enable()
    io = IoThread(on_death=_io_loop_died)
    runtime = real_runtime(limits=configure.limits, io=io)
    set_runtime(runtime)
    PROCESS.be_worker()
    io_loop = io.acquire()
    loop, fork_safe = routine_loop(configure.loop)
    asyncio.set_event_loop(loop)
    process = _Process(configure, channel, runtime, io_loop, loop, fork_safe)
    main = loop.create_task(process.run(), name="wool worker")
    # What the imports made stays: the collector need not walk it for every few hundred tasks.
    gc.freeze()
    while not main.done():
        try:
            loop.run_until_complete(main)
        except (SystemExit, KeyboardInterrupt) as error:
            forks.leave_if_forked(error)
            # A task that a body has left behind raised it. The body's own are caught where it runs.
            if main.done():
                raise
            _log.exception("a routine's background task tried to end the worker")
        except RuntimeError as error:
            forks.leave_if_forked(error)
            if main.done():
                raise
            _log.warning("a routine has stopped the event loop of its worker: it runs on")
    main.result()


def _set_up_logging(configure: Configure) -> Callable[[], None]:
    """Return what writes the rest of the log."""
    logger = logging.getLogger("wool")
    if not configure.log_style:
        handler: logging.Handler = logging.StreamHandler()
        handler.setFormatter(logging.Formatter("%(levelname)s %(name)s: %(message)s"))
        handler.setLevel(logging.WARNING)
        logger.addHandler(handler)
        return lambda: None
    writer, handler = write_events(
        sys.stderr.fileno(),
        style=configure.log_style,
        common={"worker": configure.uid, "pid": os.getpid()},
        most=configure.limits.log_lines,
        mark=configure.log_mark,
    )
    # At the root, for what routines log as well. The process is ours, so that `logging.basicConfig` in a module of
    # theirs finds all set up, and changes nothing.
    root = logging.getLogger()
    root.addHandler(handler)
    root.setLevel(configure.log_level.upper())
    return lambda: writer.close(configure.limits.close_seconds)


def _io_loop_died(error: BaseException | None) -> None:
    sys.stderr.write(f"wool: the I/O loop of worker process {os.getpid()} ended: {error!r}\n")
    sys.stderr.flush()
    os._exit(IO_LOOP_DIED)


class _Process:
    """The process around a `WorkerNode`: control channel, signals, the order of start and stop."""

    def __init__(
        self,
        configure: Configure,
        channel: ChildChannel,
        runtime: Runtime,
        io_loop: asyncio.AbstractEventLoop,
        loop: asyncio.AbstractEventLoop,
        fork_safe: forks.ForkSafeLoop,
    ) -> None:
        self._configure = configure
        self._channel = channel
        self._runtime = runtime
        self._io_loop = io_loop
        self._loop = loop
        self._fork_safe = fork_safe
        self._node: WorkerNode | None = None
        self._stopped: asyncio.Future[None] = loop.create_future()
        self._signals: tuple[socket.socket, socket.socket] | None = None

    async def run(self) -> None:
        """Start, wait until told to stop and stopped, clean up."""
        self._node = WorkerNode(configure=self._configure, runtime=self._runtime, io_loop=self._io_loop)
        metadata = await self._node.start()
        life = begin_life(metadata.uid, self._configure.secret)
        self._catch_signals(metadata.address)
        io, here = self._runtime.mailbox(self._io_loop), self._runtime.mailbox(self._loop)

        async def watch() -> None:
            self._io_loop.add_reader(self._channel.fileno(), self._read_control)

        await run_on(io, here, watch, "wool worker watching its owner")
        self._channel.send(Ready(metadata=metadata))
        if self._configure.retirement:
            io.post(self._node.watch_wear, self._say_worn)
        await self._wait_stopped(self._node)
        await self._node.close()
        if life is not None:
            life.close()
        self._channel.send(Stopped(interrupted=self._node.interrupted))

    async def _wait_stopped(self, node: WorkerNode) -> None:
        while not self._stopped.done():
            try:
                await asyncio.shield(self._stopped)
            except asyncio.CancelledError:
                # Nobody but a body, which has cancelled whatever `asyncio.all_tasks` gave it.
                _log.warning("a routine has cancelled the worker's own task; the worker goes on")
                self._loop.call_soon(node.sweep)  # those that were cancelled with it have ended then

    def _catch_signals(self, address: str) -> None:
        read, write = socket.socketpair()
        read.setblocking(False)
        write.setblocking(False)
        self._signals = (read, write)

        def noted(number: int, frame: object) -> None:
            # What counts is the byte in the wakeup descriptor, which comes while a body holds this thread. But a body
            # may have given the process another one, as every `add_signal_handler` does: then this one is heard.
            with contextlib.suppress(OSError):
                write.send(bytes((number,)))

        forks.Forks(
            loop=self._fork_safe,
            address=address,
            descriptors=(self._channel.fileno(), read.fileno(), write.fileno()),
            handlers={
                signal.SIGTERM: (noted, signal.SIG_DFL),
                signal.SIGINT: (ignore_interrupt, signal.default_int_handler),
            },
        ).install()
        signal.signal(signal.SIGTERM, noted)
        signal.set_wakeup_fd(write.fileno(), warn_on_full_buffer=False)
        self._io_loop.call_soon_threadsafe(lambda: self._io_loop.add_reader(read, self._read_signal, read))

    # ---- on the I/O loop ----

    def _read_signal(self, read: socket.socket) -> None:
        if signal.SIGTERM in read.recv(4096):
            self._stop(self._configure.limits.drain_seconds)

    def _read_control(self) -> None:
        try:
            for message in self._channel.receive_available():
                if isinstance(message, Stop):
                    self._stop(message.drain_seconds)
                elif isinstance(message, Ask):
                    self._say_counts()
                elif isinstance(message, Renew):
                    assert self._node is not None
                    self._node.renew(message.credentials)
                else:
                    raise ChannelError(f"{type(message).__name__} is not expected after the start")
        except (EOFError, ChannelError) as error:
            # The owner has gone. The lifeline ends this process; where there is none, this does.
            self._io_loop.remove_reader(self._channel.fileno())
            _log.info("the control channel ended: %s", error)
            self._stop(0.0)

    def _stop(self, drain_seconds: float) -> None:
        assert self._node is not None
        self._node.begin_stop(drain_seconds, self._say_draining, self._say_stopped)

    def _say_worn(self, why: str) -> None:
        try:
            self._channel.send(Worn(why=why))
        except OSError as error:
            _log.info("the owner does not hear that this worker has had enough: %s", error)

    def _say_counts(self) -> None:
        assert self._node is not None
        try:
            self._channel.send(Counted(statistics=self._node.statistics()))
        except OSError as error:
            _log.info("the owner does not hear how this worker is: %s", error)

    def _say_draining(self) -> None:
        try:
            self._channel.send(Draining())
        except OSError as error:
            _log.info("the owner does not hear that this worker drains: %s", error)

    def _say_stopped(self) -> None:
        self._runtime.mailbox(self._loop).post(self._finish)

    def _finish(self) -> None:
        if not self._stopped.done():
            self._stopped.set_result(None)
