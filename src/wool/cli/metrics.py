"""``wool worker --metrics``: what the workers do, for Prometheus, on a port of the command.

One port, whatever ``--size`` is: the command asks each of its workers, over the channel that it has to each, when
Prometheus asks. So the figures are those of now, nothing is done in between, and a worker whose bodies keep its loop
busy answers all the same. Needs the extra ``wool[prometheus]``, whose package makes the text.

What it owns: a listening socket and a thread, and one thread more per connection that is open. None of it runs on an
event loop. Whoever can connect is answered, so that connections are few, short and small; it must never do anything
but tell.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import errno
import logging
import selectors
import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from io import BufferedIOBase
from socketserver import TCPServer, ThreadingMixIn
from typing import TYPE_CHECKING, Any, Protocol, cast
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

import prometheus_client
from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily, Metric
from prometheus_client.registry import Collector

from wool.discovery.base import WorkerMetadata
from wool.limits import DEFAULT_LIMITS, Limits
from wool.statistics import Statistics

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

_log = logging.getLogger("wool.cli")

PAUSE_SECONDS = 0.1
"""When the system has no descriptor left, the next connection is waited for."""

COUNTERS = {
    "accepted": ("wool_worker_offers_accepted", "Offers that were accepted; some are withdrawn before they start."),
    "rejected": ("wool_worker_offers_rejected", "Offers that were refused; they go elsewhere."),
    "done": ("wool_worker_tasks_done", "Tasks that returned, or whose generator ended or was closed."),
    "failed": (
        "wool_worker_tasks_failed",
        "Tasks that raised, could not be loaded, or whose result cannot travel.",
    ),
    "cancelled": ("wool_worker_tasks_cancelled", "Tasks that their caller cancelled, or an operator cut short."),
    "lost": ("wool_worker_tasks_lost", "Tasks whose caller went before their end was said."),
}
GAUGES = {
    "in_flight": ("wool_worker_tasks_in_flight", "Tasks that are started and have not ended.", 1.0),
    "loop_lag_microseconds": (
        "wool_worker_loop_lag_seconds",
        "How late the loop of the bodies is, at worst within the last minute.",
        1e-6,
    ),
    "memory_bytes": ("wool_worker_resident_memory_bytes", "Resident memory of the process.", 1.0),
    "sessions": ("wool_worker_sessions", "Callers that are connected.", 1.0),
    "up_milliseconds": ("wool_worker_uptime_seconds", "Since the worker began.", 1e-3),
    "draining": ("wool_worker_draining", "1 when it takes no more tasks.", 1.0),
}


class Asked(Protocol):
    """A worker of this command: see `wool.worker.launch.WorkerProcess`."""

    @property
    def metadata(self) -> WorkerMetadata: ...

    async def statistics(self, seconds: float) -> Statistics | None: ...


Said = Sequence[tuple[WorkerMetadata, Statistics | None]]
"""Each worker, and what it says; None if it does not answer."""


async def ask(workers: Iterable[Asked], seconds: float) -> Said:
    """Ask all of them at once; bounded by ``seconds``."""
    known = list(workers)
    told = await asyncio.gather(*(worker.statistics(seconds) for worker in known))
    return [(worker.metadata, said) for worker, said in zip(known, told, strict=True)]


class WorkersCollector(Collector):
    """What the workers say, in the words of Prometheus."""

    def __init__(self, said: Said) -> None:
        self._said = said

    def collect(self) -> Iterator[Metric]:
        """See `prometheus_client`."""
        labels = ["worker"]
        info = InfoMetricFamily("wool_worker", "What a worker says of itself.", labels=labels)
        up = GaugeMetricFamily("wool_worker_up", "1 when the worker has answered in time.", labels=labels)
        for metadata, said in self._said:
            known = {
                "address": metadata.address,
                "pid": str(metadata.pid),
                "tags": ",".join(sorted(metadata.tags)),
                "version": metadata.version,
            }
            info.add_metric([metadata.uid], known)
            up.add_metric([metadata.uid], said is not None)
        yield info
        yield up
        answered = [(metadata.uid, said) for metadata, said in self._said if said is not None]
        for field, (name, words) in COUNTERS.items():
            counter = CounterMetricFamily(name, words, labels=labels)
            for uid, said in answered:
                counter.add_metric([uid], getattr(said, field))
            yield counter
        for field, (name, words, unit) in GAUGES.items():
            gauge = GaugeMetricFamily(name, words, labels=labels)
            for uid, said in answered:
                gauge.add_metric([uid], getattr(said, field) * unit)
            yield gauge


class _Head:
    """Reads the lines of one request, as far as there may be any."""

    def __init__(self, file: BufferedIOBase, most: int) -> None:
        self._file = file
        self._most = self._left = most

    def readline(self, size: int = -1) -> bytes:
        line = self._file.readline(self._left if size < 0 else min(size, self._left))
        self._left -= len(line)
        if self._left <= 0:
            raise ConnectionError(f"a request of more than {self._most} bytes (metrics_request_bytes)")
        return line

    def close(self) -> None:
        self._file.close()


class _Handler(WSGIRequestHandler):
    """One connection, in a thread of its own."""

    def setup(self) -> None:
        limits = cast(_Server, self.server).limits
        self.request.settimeout(limits.metrics_connection_seconds)
        super().setup()
        head: Any = _Head(self.rfile, limits.metrics_request_bytes)
        self.rfile = head

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing of each: it is asked every few seconds."""
        _log.debug("metrics: %s", format % args)


class _Server(ThreadingMixIn, WSGIServer):
    """Bounded as nothing of the standard library is by itself."""

    timeout = 0
    request_queue_size = 128
    # Their threads are waited for: each ends within a moment of its connection.
    daemon_threads = False
    block_on_close = True

    def __init__(self, host: str, port: int, limits: Limits) -> None:
        self.limits = limits
        self.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._open: dict[Any, float] = {}
        super().__init__((host, port), _Handler)
        self.socket.setblocking(False)

    def server_bind(self) -> None:
        """Bind, and look up no name, which could take seconds."""
        TCPServer.server_bind(self)
        self.server_name, self.server_port = self.server_address[:2]  # type: ignore[assignment]
        self.setup_environ()

    def get_request(self) -> Any:
        try:
            return super().get_request()
        except OSError as error:
            if error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM):
                time.sleep(PAUSE_SECONDS)
            raise

    def process_request(self, request: Any, client_address: Any) -> None:
        if len(self._open) >= self.limits.metrics_connections:
            self.shutdown_request(request)
            return
        self._open[request] = time.monotonic() + self.limits.metrics_connection_seconds
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        self._open.pop(request, None)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        _log.debug("a connection to the metrics port failed", exc_info=True)

    def patience(self) -> float | None:
        """Return for how long there is nothing to do but to wait for a connection; None: for ever."""
        ends = list(self._open.values())
        return max(0.0, min(ends) - time.monotonic()) if ends else None

    def end(self, *, all: bool) -> None:
        """End the connections that have had their time, or all."""
        now = time.monotonic()
        for request, ends in list(self._open.items()):
            if (all or ends <= now) and self._open.pop(request, None) is not None:
                with contextlib.suppress(OSError):  # it has ended by itself
                    request.shutdown(socket.SHUT_RDWR)


class MetricsServer:
    """Answers Prometheus on ``address``, an IP address and a port (0: a free one). To be used on one event loop."""

    def __init__(self, address: str, workers: Callable[[], Iterable[Asked]], limits: Limits = DEFAULT_LIMITS) -> None:
        self._limits = limits
        self._address = address
        self._workers = workers
        self._loop = asyncio.get_running_loop()
        self._ended: asyncio.Future[None] = self._loop.create_future()
        self._wake: socket.socket | None = None
        self._thread: threading.Thread | None = None

    def start(self) -> int:
        """Listen; return the port. Raises `OSError` if that address cannot be had."""
        host, _, port = self._address.rpartition(":")
        try:
            server = _Server(host.strip("[]"), int(port), self._limits)
        except OSError as error:
            raise OSError(
                f"cannot listen on {self._address} for metrics: {error.strerror or error}; choose another port with "
                "--metrics HOST:PORT, or 0 for any free one"
            ) from error
        server.set_app(self._answer)
        self._wake, told = socket.socketpair()
        self._thread = threading.Thread(target=self._run, args=(server, told), name="wool-metrics", daemon=True)
        self._thread.start()
        return server.server_port

    async def stop(self) -> None:
        """Listen no more, and end what is open; idempotent."""
        wake, self._wake = self._wake, None
        if wake is not None:
            wake.close()
            await self._ended
            assert self._thread is not None
            self._thread.join()  # it had nothing left to do

    # ---- in threads of its own ----

    def _run(self, server: _Server, told: socket.socket) -> None:
        try:
            with server, told, selectors.DefaultSelector() as selector:
                selector.register(server, selectors.EVENT_READ)
                selector.register(told, selectors.EVENT_READ)
                while not any(key.fileobj is told for key, _ in selector.select(server.patience())):
                    server.end(all=False)
                    server.handle_request()
                server.end(all=True)
        finally:
            self._loop.call_soon_threadsafe(self._ended.set_result, None)

    def _answer(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        asking = asyncio.run_coroutine_threadsafe(self._ask(), self._loop)
        try:
            said = asking.result(2 * self._limits.metrics_answer_seconds)
        except (TimeoutError, concurrent.futures.CancelledError):
            asking.cancel()
            start_response("503 Service Unavailable", [("Content-Type", "text/plain")])
            return [b"the command does not answer\n"]
        registry = CollectorRegistry(auto_describe=False)
        registry.register(WorkersCollector(said))
        # It says nothing of the type of what it returns.
        app: WSGIApplication = cast("Any", prometheus_client).make_wsgi_app(registry)
        return app(environ, start_response)

    async def _ask(self) -> Said:
        return await ask(self._workers(), self._limits.metrics_answer_seconds)
