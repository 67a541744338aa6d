"""``wool worker``: workers on this host, announced where callers look, until it is told to stop.

It owns what a worker command is made of: what it was told, checked as a whole before anything is started (`Plan`); the
processes, their output and the log; the signals. How workers are kept alive and ended is `wool.cli.supervisor`'s.

It must never bind an address that others can reach without credentials: `Plan.address` is the one place where an
address is let pass.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import importlib.util
import ipaddress
import logging
import os
import signal
import sys
import time
from collections import deque
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from typing import get_args

from wool._version import __version__
from wool.cli.credentials import CREDENTIALS, credential_files
from wool.cli.settings import Option, Settings, octets, one_of, seconds, switch, text, texts, whole
from wool.cli.supervisor import GaveUp, Intensity, Publish, Status, Supervisor, Tell, headline
from wool.cli.ways import WORKER_FORMS, Way, worker_way
from wool.credentials import CredentialFiles, secret_of
from wool.discovery.base import DiscoveryEventType, WorkerMetadata
from wool.limits import DEFAULT_LIMITS, MOST_LAST_LINE_BYTES, MOST_LAST_LINES, MOST_WORKERS, Limits
from wool.runtime import Home, Runtime, current_runtime
from wool.runtime_directory import SOCKET_PATH_BYTES
from wool.worker.child import WorkerStartError
from wool.worker.examiner import NamedHook, dump_admission, named_admission
from wool.worker.launch import ProcessLauncher, WorkerProcess
from wool.worker.local import address_to_bind
from wool.worker.logs import (
    LEVELS,
    MARK_BYTES,
    STYLES,
    EventHandler,
    LineWriter,
    fields,
    format_event,
    mark_of,
    time_of,
    write_events,
)
from wool.worker.loops import LoopKind, check_loop
from wool.worker.retirement import ENDLESS, Retirement
from wool.worker.spec import WorkerSpec

_log = logging.getLogger("wool.cli")

_ADDRESS_CHARACTERS = len("unix:") + SOCKET_PATH_BYTES
"""The longest address of a worker."""
_PID = 2**22
"""As large as one gets."""


def health_address(value: object) -> str:
    """Return ``HOST:PORT`` as gRPC takes it. Raises `ValueError`."""
    address = text(value)
    host, _, port = address.rpartition(":")
    with contextlib.suppress(ValueError):
        ipaddress.ip_address(host.strip("[]"))
        if port.isdecimal() and int(port) <= 65535:
            return address
    raise ValueError(f"must be an IP address and a port, as in 127.0.0.1:8086, got {address!r}")


def metrics_address(value: object) -> str:
    """Return ``HOST:PORT``; of a port alone, that of loopback. Raises `ValueError`, also without the extra."""
    if importlib.util.find_spec("prometheus_client") is None:
        raise ValueError("needs prometheus-client, which is not installed: pip install 'wool[prometheus]'")
    given = str(value) if type(value) is int else text(value)
    host, _, port = given.rpartition(":")
    with contextlib.suppress(ValueError):
        address = ipaddress.ip_address(host.removeprefix("[").removesuffix("]") or "127.0.0.1")
        if port.isdecimal() and int(port) <= 65535 and given[0] != ":" and (address.version == 6) == ("[" in host):
            return given if host else f"127.0.0.1:{port}"
    raise ValueError(f"must be a port of loopback, or an IP address and a port, as in 0.0.0.0:9464, got {given!r:.100}")


def tracing_setup(value: object) -> str:
    """Return ``module:function`` as `wool.otel` takes it. Raises `ValueError`, also without the extra."""
    try:
        # Late: most commands trace nothing, and its package is an extra.
        from wool.otel import check_setup
    except ModuleNotFoundError as error:
        raise ValueError(str(error)) from None
    return check_setup(value)


OPTIONS: Sequence[Option] = (
    Option(name="discovery", convert=worker_way, metavar="HOW", help=f"how callers find the workers: {WORKER_FORMS}"),
    Option(name="host", convert=text, metavar="ADDRESS", help="IP address to listen on (default: 127.0.0.1, or with "
           "local: a Unix socket)"),
    Option(name="port", convert=whole(0, 65535, "a number from 0 to 65535"), metavar="PORT", help="port to listen on, "
           "0 for any free one; each further worker takes the next (default: 0, or that of dns:NAME:PORT)"),
    Option(name="tag", convert=texts, repeated=True, default=(), metavar="TAG", help="tag of the workers, to filter "
           "by; may be said again"),
    Option(name="size", convert=whole(1, MOST_WORKERS, f"a number from 1 to {MOST_WORKERS}"), metavar="N", help="how "
           "many workers (default: one per CPU, or one where a port is given)"),
    Option(name="drain-timeout", convert=seconds(), default=DEFAULT_LIMITS.drain_seconds, metavar="SECONDS",
           help="how long tasks may go on when it is told to stop, before they are cancelled (default: 30)"),
    Option(name="restarts", convert=whole(0, 1_000_000, "a number, 0 or more"), default=5, metavar="N", help="how "
           "often crashed workers are restarted within --restart-seconds, before it gives up (default: 5)"),
    Option(name="restart-seconds", convert=seconds(least=0.001), default=60.0, metavar="SECONDS", help="see "
           "--restarts (default: 60)"),
    Option(name="max-tasks-per-worker", convert=whole(1, 1_000_000_000, "a number of tasks, 1 or more"), metavar="N",
           help="replace a worker when so many tasks were started on it; no call fails (default: never)"),
    Option(name="memory-limit", convert=octets, metavar="BYTES", help="replace a worker when it holds so much memory, "
           "512M say; no call fails (default: never)"),
    Option(name="log-format", convert=one_of(*STYLES), words=STYLES, default="text", metavar="FORMAT",
           help="of log lines, which go to standard error: text (key=value) or json (default: text)"),
    Option(name="log-level", convert=one_of(*LEVELS), words=LEVELS, default="info", metavar="LEVEL",
           help="of log lines: debug, info, warning or error (default: info; tasks are told of at info)"),
    Option(name="health", convert=health_address, metavar="HOST:PORT", help="where gRPC's health service answers, in "
           "plain text and without credentials (default: nowhere)"),
    Option(name="reflection", convert=switch, default=False, switch=True, help="let gRPC's reflection answer at "
           "--health too: which services there are, the health service and itself"),
    Option(name="metrics", convert=metrics_address, metavar="[HOST:]PORT", help="where Prometheus may ask what the "
           "workers do, in plain text and without credentials; a port alone is one of loopback (default: nowhere)"),
    Option(name="max-concurrency", convert=whole(1, 1_000_000, "a number of bodies, 1 or more"), metavar="N",
           help="how many bodies are at work at a time in each worker (default: as many as are called)"),
    Option(name="admission", convert=named_admission, metavar="MODULE:FUNCTION", help="function that each worker asks "
           "whether it takes a task: True, False or a reason; it is told a wool.TaskOffer"),
    Option(name="loop", convert=check_loop, words=get_args(LoopKind), default="asyncio", metavar="KIND",
           help="event loop that bodies run on: asyncio or uvloop (default: asyncio)"),
    Option(name="otel", convert=tracing_setup, metavar="MODULE[:FUNCTION]", help="trace what the workers run with "
           "OpenTelemetry: each of them imports the module and calls the function, which sets up its tracer provider"),
    *CREDENTIALS,
    Option(name="allow-insecure", convert=switch, default=False, switch=True, help="listen beyond loopback without "
           "--ca: whoever has this user's key may call, in plain text; each start logs a warning"),
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What is to be done; it makes sense as a whole."""

    way: Way
    host: str | None
    port: int
    size: int
    tags: frozenset[str]
    drain_seconds: float
    restarts: int
    restart_seconds: float
    log_style: str
    log_level: str
    credentials: CredentialFiles | None = None
    allow_insecure: bool = False
    health: str | None = None
    reflection: bool = False
    metrics: str | None = None
    tracing: str | None = None
    loop: LoopKind = "asyncio"
    retirement: Retirement = ENDLESS
    max_concurrency: int | None = None
    admission: NamedHook | None = None

    @classmethod
    def of(cls, settings: Settings) -> Plan:
        """Check the settings against each other. Raises `SettingError`."""
        way: Way | None = settings["discovery"]
        if way is None:
            raise settings.error("discovery", f"must be said: {WORKER_FORMS}")
        if way.announces:
            try:
                way.open()
            except (ValueError, ModuleNotFoundError) as error:
                raise settings.error("discovery", error) from None
        credentials = credential_files(settings)
        if credentials is not None and credentials.key_path is None:
            raise settings.error("ca", "a worker shows a certificate: give --cert and --key too")
        if settings["reflection"] and settings["health"] is None:
            raise settings.error("reflection", "answers where the health service does: say --health HOST:PORT too")
        host, port = _host_and_port(settings, way, credentials=credentials)
        size = _size(settings, way, port)
        for name in ("max-tasks-per-worker", "memory-limit"):
            if port and settings[name] is not None:
                raise settings.error(
                    name,
                    f"a successor listens before the old worker ends, and port {port} is taken: leave --port out",
                )
        return cls(
            way=way,
            host=host,
            port=port,
            size=size,
            tags=_tags(settings),
            drain_seconds=settings["drain-timeout"],
            restarts=settings["restarts"],
            restart_seconds=settings["restart-seconds"],
            log_style=settings["log-format"],
            log_level=settings["log-level"],
            credentials=credentials,
            allow_insecure=settings["allow-insecure"],
            health=settings["health"],
            reflection=settings["reflection"],
            metrics=settings["metrics"],
            tracing=settings["otel"],
            loop=settings["loop"],
            retirement=Retirement(max_tasks=settings["max-tasks-per-worker"], memory_limit=settings["memory-limit"]),
            max_concurrency=settings["max-concurrency"],
            admission=settings["admission"],
        )

    def address(self, place: int) -> str | None:
        """Return where the worker of a place is to listen; None for a Unix socket."""
        port = self.port + place if self.port else 0
        return address_to_bind(
            self.host,
            port,
            credentials=self.credentials,
            who="`wool worker`",
            allow_insecure=self.allow_insecure,
        )

    def limits(self, limits: Limits) -> Limits:
        """Return ``limits`` with what the plan says; a worker that is told to stop by others drains as long."""
        return dataclasses.replace(limits, drain_seconds=max(self.drain_seconds, 0.001))


def _host_and_port(settings: Settings, way: Way, *, credentials: CredentialFiles | None) -> tuple[str | None, int]:
    host: str | None = settings["host"]
    port: int | None = settings["port"]
    if way.port is not None:
        if port not in (None, way.port):
            raise settings.error("port", f"{port} is not the port at which callers look, {way.port}: leave it out")
        port = way.port
    if not way.announces and not port:
        raise settings.error("port", f"with {way.kind} callers look at a port that is known: say which")
    if host is None and (port is not None or way.kind != "local" or credentials is not None):
        host = "127.0.0.1"
    try:
        allowed: bool = settings["allow-insecure"]
        address_to_bind(host, port or 0, credentials=credentials, who="`wool worker`", allow_insecure=allowed)
    except ValueError as error:
        raise settings.error("host", error) from None
    return host, port or 0


def _tags(settings: Settings) -> frozenset[str]:
    """Return the tags, if the record of a worker has room for them wherever it listens."""
    tags = frozenset[str](settings["tag"])
    longest = WorkerMetadata(
        uid="0" * 32, address="x" * _ADDRESS_CHARACTERS, pid=_PID, version=__version__, tags=tags, secure=False
    )
    try:
        longest.to_bytes()
    except UnicodeEncodeError:
        raise settings.error("tag", f"must be text that UTF-8 can write, got {sorted(tags)!r:.100}") from None
    except ValueError:
        limit = DEFAULT_LIMITS.record_bytes
        words = f"do not fit into the {limit} bytes of a worker's record (record_bytes): use fewer "
        raise settings.error("tag", f"{words}or shorter ones") from None
    return tags


def _size(settings: Settings, way: Way, port: int) -> int:
    size: int | None = settings["size"]
    if size is None:
        return 1 if port else _cpus()
    if size > 1 and way.port is not None:
        raise settings.error("size", f"{size} workers cannot share port {port}: callers look at one port per address")
    if port and port + size - 1 > 65535:
        raise settings.error("size", f"{size} workers from port {port} on: there is no port {port + size - 1}")
    return size


def _cpus() -> int:
    # Those that this process may use, where the system tells, as for a pool.
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def run(settings: Settings) -> int:
    """Run the command; return its exit status. Raises `SettingError` before anything is started."""
    plan = Plan.of(settings)
    _see_working_directory()
    writer, handler = write_events(_standard_error(), style=plan.log_style, common={}, most=DEFAULT_LIMITS.log_lines)
    _set_up_logging(handler, plan.log_level)
    try:
        status = asyncio.run(_Command(plan, writer).run())
    finally:
        writer.close(DEFAULT_LIMITS.close_seconds)
    return status


def _standard_error() -> int:
    # Whoever closed it wants no log; the number may be that of any file by now.
    stream: object = sys.stderr
    return os.open(os.devnull, os.O_WRONLY) if stream is None else sys.stderr.fileno()


def _see_working_directory() -> None:
    """Import from here, as ``python -m wool`` does, and unless Python was told not to."""
    if sys.flags.safe_path:
        return
    with contextlib.suppress(FileNotFoundError):  # it was removed: nothing can be imported from there
        here = os.getcwd()
        if here not in sys.path:
            sys.path.insert(0, here)


def _set_up_logging(handler: EventHandler, level: str) -> None:
    # The process is ours: what other packages warn of goes the same way.
    logging.getLogger().addHandler(handler)
    logging.getLogger("wool").setLevel(level.upper())


class _Output:
    """What workers print, as log lines of the command, and the end of it."""

    def __init__(self, writer: LineWriter, style: str, mark: bytes) -> None:
        self._writer = writer
        self._style = style
        self._mark = mark
        self._last: dict[int, deque[bytes]] = {}

    def forward(self, uid: str | None, pid: int, lines: Sequence[bytes]) -> None:
        """Pass on the lines of one worker. Those that are events are as they should be already."""
        for line in lines:
            printed, *events = line.split(self._mark)
            if printed or not events:
                self._last.setdefault(pid, deque(maxlen=MOST_LAST_LINES)).append(printed[:MOST_LAST_LINE_BYTES])
                said = {
                    "time": time_of(time.time()),
                    "level": "info",
                    "event": "output",
                    "worker": uid,
                    "pid": pid,
                    "line": printed.decode(errors="replace"),
                }
                self._writer.put(format_event(self._style, said).encode(errors="backslashreplace"))
            for event in events:
                self._writer.put(event)

    def last(self, pid: int) -> str:
        """Return what a worker printed last; asked once, when it has ended."""
        return b"\n".join(self._last.pop(pid, ())).decode(errors="replace")


class _Command:
    """One run of the command, on the one loop of this process."""

    def __init__(self, plan: Plan, writer: LineWriter) -> None:
        self._plan = plan
        self._runtime: Runtime = current_runtime()
        self._mark = mark_of(self._runtime.random_bytes(MARK_BYTES))
        self._output = _Output(writer, plan.log_style, self._mark)
        self._launcher = ProcessLauncher(forward=self._output.forward)
        self._home: Home | None = None

    async def run(self) -> int:
        """Serve until told to stop, or until it fails."""
        try:
            status = await self._serve()
        except GaveUp as error:
            status = self._failed(Status.GAVE_UP, "gave-up", str(error), error.output)
        except WorkerStartError as error:
            why, output = headline(error), str(error)
            status = self._failed(Status.FAILED, "failed", why, output if output.count("\n") > 1 else "")
        except (OSError, RuntimeError, ValueError, ImportError, TimeoutError) as error:
            status = self._failed(Status.FAILED, "failed", str(error) or type(error).__name__)
        _log.info("stopped", extra=fields(status=int(status)))
        return status

    def _failed(self, status: Status, event: str, why: str, output: str = "") -> Status:
        _log.error(event, extra=fields(why=why, status=int(status), output=output or None))
        return status

    async def _serve(self) -> Status:
        plan, loop = self._plan, asyncio.get_running_loop()
        if plan.address(0) is None:
            self._home = self._runtime.home()
        try:
            async with self._publisher() as publish, self._health() as tell:
                supervisor = Supervisor(
                    size=plan.size,
                    start=self._start,
                    publish=publish,
                    intensity=Intensity(restarts=plan.restarts, seconds=plan.restart_seconds),
                    drain_seconds=plan.drain_seconds,
                    clock=loop.time,
                    last_output=self._output.last,
                    tell=tell,
                    limits=plan.limits(self._runtime.limits),
                )
                async with self._metrics(supervisor):
                    for number in (signal.SIGTERM, signal.SIGINT):
                        loop.add_signal_handler(number, supervisor.signal, number.name)
                    return await supervisor.run()
        finally:
            if self._home is not None:
                self._home.close()

    @contextlib.asynccontextmanager
    async def _publisher(self) -> AsyncGenerator[Publish, None]:
        """Open the discovery, if workers are announced in it; give what announces them."""
        if not self._plan.way.announces:
            yield _publish_nothing
            return
        discovery = self._plan.way.open()
        async with contextlib.AsyncExitStack() as stack:
            if isinstance(discovery, contextlib.AbstractAsyncContextManager):
                await stack.enter_async_context(discovery)
            elif isinstance(discovery, contextlib.AbstractContextManager):
                stack.enter_context(discovery)
            yield discovery.publisher.publish

    @contextlib.asynccontextmanager
    async def _health(self) -> AsyncGenerator[Tell | None, None]:
        """Answer probes, if that is wanted; give what tells them."""
        if self._plan.health is None:
            yield None
            return
        # Late: most commands answer no probes, and its package is an extra.
        from wool.transport.grpc_health import HealthServer

        server = HealthServer(self._plan.health, reflection=self._plan.reflection)
        port = await server.start()
        _log.info("health", extra=fields(port=port))
        try:
            yield server.tell
        finally:
            await server.stop()

    @contextlib.asynccontextmanager
    async def _metrics(self, supervisor: Supervisor) -> AsyncGenerator[None, None]:
        """Answer Prometheus, if that is wanted."""
        if self._plan.metrics is None:
            yield
            return
        # Late: most commands are not asked, and its package is an extra.
        from wool.cli.metrics import MetricsServer

        server = MetricsServer(self._plan.metrics, lambda: supervisor.workers, self._runtime.limits)
        _log.info("metrics", extra=fields(port=server.start()))
        try:
            yield
        finally:
            await server.stop()

    async def _start(self, place: int) -> WorkerProcess:
        plan, runtime = self._plan, self._runtime
        uid = runtime.new_uid()
        address = plan.address(place)
        if address is None:
            assert self._home is not None
            address = self._home.address(uid)
        return await self._launcher.launch(
            WorkerSpec(
                address=address,
                secret=runtime.user_key() if plan.credentials is None else secret_of(plan.credentials) or None,
                credentials=plan.credentials,
                uid=uid,
                tags=plan.tags,
                limits=plan.limits(runtime.limits),
                log_style=plan.log_style,
                log_level=plan.log_level,
                log_mark=self._mark,
                tracing=plan.tracing,
                loop=plan.loop,
                retirement=plan.retirement,
                max_concurrency=plan.max_concurrency,
                admission=dump_admission(plan.admission),
            )
        )


async def _publish_nothing(type: DiscoveryEventType, metadata: WorkerMetadata, /) -> None:
    """Do nothing: callers know the address already."""
