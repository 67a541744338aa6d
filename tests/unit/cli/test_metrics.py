"""The metrics port: what workers say in the words of Prometheus, and nothing that a stranger sends takes much of it."""

from __future__ import annotations

import asyncio
import dataclasses
import re
import socket
import sys
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import Metric
from prometheus_client.parser import text_string_to_metric_families

from wool.cli.main import main
from wool.cli.metrics import COUNTERS, GAUGES, MetricsServer, WorkersCollector
from wool.cli.worker import metrics_address
from wool.discovery.base import WorkerMetadata
from wool.limits import DEFAULT_LIMITS, Limits
from wool.statistics import Statistics

PAGE = (Path(__file__).parents[3] / "docs" / "metrics.md").read_text()
PATIENCE_SECONDS = 20
FIELDS = [field.name for field in dataclasses.fields(Statistics)]
NASTY = 'a"b\\c\nd,é='
SAID = Statistics(**{**{name: 1000 + place for place, name in enumerate(FIELDS)}, "draining": True})


class Worker:
    """Says what it is told to say."""

    def __init__(self, uid: str, said: Statistics | None = SAID, tags: tuple[str, ...] = ()) -> None:
        self.metadata = WorkerMetadata(
            uid=uid, address=f"unix:/{uid}", pid=7, version="0.1", tags=frozenset(tags), secure=False
        )
        self.said = said
        self.answers = asyncio.Event()
        self.answers.set()
        self.asked = 0

    async def statistics(self, seconds: float) -> Statistics | None:
        self.asked += 1
        await self.answers.wait()
        return self.said


def families(text: bytes) -> dict[str, Metric]:
    return {family.name: family for family in text_string_to_metric_families(text.decode())}


def values(family: Metric) -> dict[str, float]:
    return {sample.labels["worker"]: sample.value for sample in family.samples}


@asynccontextmanager
async def serving(*workers: Worker, limits: Limits = DEFAULT_LIMITS) -> AsyncIterator[int]:
    server = MetricsServer("127.0.0.1:0", lambda: workers, limits)
    port = server.start()
    try:
        yield port
    finally:
        await asyncio.wait_for(server.stop(), PATIENCE_SECONDS)
        await server.stop()


async def request(port: int, said: bytes = b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n") -> tuple[bytes, bytes]:
    """Say something to the port; return the first line of the answer, and its body."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            writer.write(said)
            answer = await reader.read()
        except ConnectionError:
            answer = b""
        finally:
            writer.close()
    head, _, body = answer.partition(b"\r\n\r\n")
    return head.partition(b"\r\n")[0], body


def collected(*workers: Worker) -> dict[str, Metric]:
    registry = CollectorRegistry(auto_describe=False)
    registry.register(WorkersCollector([(worker.metadata, worker.said) for worker in workers]))
    return families(generate_latest(registry))


# ---- what is told ----------------------------------------------------------------------------------


def test_the_whole_record_is_told_and_each_figure_once() -> None:
    assert {*COUNTERS, *GAUGES} == set(FIELDS)
    found = collected(Worker("a"))
    for field, (name, _) in COUNTERS.items():
        assert (found[name].type, values(found[name])) == ("counter", {"a": getattr(SAID, field)})
    for field, (name, _, unit) in GAUGES.items():
        assert (found[name].type, values(found[name])) == ("gauge", {"a": pytest.approx(getattr(SAID, field) * unit)})
    assert found.keys() == {
        "wool_worker_info",
        "wool_worker_up",
        *(name for name, _ in COUNTERS.values()),
        *(name for name, _, _ in GAUGES.values()),
    }


def test_names_are_as_prometheus_wants_them() -> None:
    for family in collected(Worker("a")).values():
        [name] = {sample.name for sample in family.samples}
        assert re.fullmatch(r"wool_worker_[a-z_]+", name)
        assert name.endswith("_total") == (family.type == "counter"), "counters end so, and nothing else does"
        assert not re.search(r"milli|micro|_ms|kilo|mega", name), "base units: seconds and bytes"


def test_every_metric_is_documented_and_no_other() -> None:
    told = {sample.name for family in collected(Worker("a")).values() for sample in family.samples}
    assert set(re.findall(r"^\| `(wool_[a-z_]+)` \|", PAGE, flags=re.MULTILINE)) == told


def test_who_a_worker_is_is_one_metric_and_survives_whatever_its_tags_are() -> None:
    [sample] = collected(Worker("a", tags=(NASTY, "z")))["wool_worker_info"].samples
    assert sample.labels == {
        "worker": "a",
        "address": "unix:/a",
        "pid": "7",
        "version": "0.1",
        "tags": ",".join(sorted((NASTY, "z"))),
    }


def test_of_a_worker_that_does_not_answer_only_that_is_told() -> None:
    found = collected(Worker("a"), Worker("b", None))
    assert values(found["wool_worker_up"]) == {"a": 1.0, "b": 0.0}
    assert values(found["wool_worker_info"]) == {"a": 1.0, "b": 1.0}
    assert values(found["wool_worker_tasks_done"]) == {"a": SAID.done}


# ---- the port --------------------------------------------------------------------------------------


async def test_all_workers_are_asked_at_once_when_somebody_asks_and_not_before() -> None:
    workers = [Worker("a"), Worker("b")]
    async with serving(*workers) as port:
        assert [worker.asked for worker in workers] == [0, 0]
        for worker in workers:
            worker.answers.clear()
        asking = asyncio.ensure_future(request(port))
        async with asyncio.timeout(PATIENCE_SECONDS):
            while [worker.asked for worker in workers] != [1, 1]:
                await asyncio.sleep(0.01)
        for worker in workers:
            worker.answers.set()
        status, body = await asking
        assert status == b"HTTP/1.0 200 OK"
        assert values(families(body)["wool_worker_tasks_done"]) == {"a": SAID.done, "b": SAID.done}


async def test_an_event_loop_that_does_not_answer_is_no_success() -> None:
    stuck = Worker("a")
    stuck.answers.clear()
    async with serving(stuck, limits=Limits(metrics_answer_seconds=0.05)) as port:
        status, _ = await request(port)
        assert status == b"HTTP/1.0 503 Service Unavailable"


@pytest.mark.parametrize(
    ("said", "status"),
    [
        (b"\r\n\r\n", b""),
        (b"nonsense\r\n\r\n", b"400"),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", b""),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"505"),
        (b"POST /metrics HTTP/1.1\r\nContent-Length: 999999999\r\n\r\n", b"405"),
        (b"GET /metrics HTTP/1.1\r\n" + b"".join(b"X-%d: y\r\n" % place for place in range(150)) + b"\r\n", b""),
        (b"GET /" + b"a" * 20_000 + b" HTTP/1.1\r\n\r\n", b""),
        (b"GET /metrics HTTP/1.1\r\nX: " + b"a" * 20_000 + b"\r\n\r\n", b""),
    ],
    ids=["nothing", "nonsense", "TLS", "HTTP/2", "a body", "many headers", "a long line", "a long header"],
)
async def test_what_is_no_question_is_refused_and_the_next_one_is_answered(said: bytes, status: bytes) -> None:
    async with serving(Worker("a")) as port:
        line, body = await request(port, said)
        assert status in line + body and b"wool_worker" not in body
        assert (await request(port))[0] == b"HTTP/1.0 200 OK"


async def test_a_question_of_more_bytes_than_a_request_may_have_gets_no_answer() -> None:
    asked = b"GET /metrics HTTP/1.1\r\nX: %s\r\n\r\n" % (b"a" * 200)
    for most, answered in ((200, b""), (300, b"HTTP/1.0 200 OK")):
        async with serving(Worker("a"), limits=Limits(metrics_request_bytes=most)) as port:
            assert (await request(port, asked))[0] == answered


async def connected(port: int, count: int, said: bytes = b"") -> list[asyncio.StreamReader]:
    opened: list[asyncio.StreamReader] = []
    for _ in range(count):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(said)
        reader.writer = writer  # type: ignore[attr-defined]
        opened.append(reader)
    return opened


async def ended(reader: asyncio.StreamReader) -> None:
    with suppress(ConnectionError):
        await reader.read()
    reader.writer.close()  # type: ignore[attr-defined]


@pytest.mark.parametrize("said", [b"", b"GET /metrics HTTP/1.1\r\nX:"], ids=["says nothing", "stops in its question"])
async def test_nobody_keeps_a_connection_for_long_nor_more_than_there_is_room_for(
    said: bytes,
) -> None:
    limits = Limits(metrics_connection_seconds=0.5, metrics_connections=4)
    async with serving(Worker("a"), limits=limits) as port, asyncio.timeout(PATIENCE_SECONDS):
        held = [asyncio.ensure_future(ended(reader)) for reader in await connected(port, 12, said)]
        await asyncio.wait(held, return_when=asyncio.FIRST_COMPLETED)
        assert sum(thread.name.startswith("Thread") for thread in threading.enumerate()) <= 4
        await asyncio.gather(*held)
        while (await request(port))[0] != b"HTTP/1.0 200 OK":
            pass


async def test_who_sends_a_byte_now_and_then_is_let_go_as_well() -> None:
    limits = Limits(metrics_connection_seconds=0.5)
    async with serving(Worker("a"), limits=limits) as port, asyncio.timeout(PATIENCE_SECONDS):
        [reader] = await connected(port, 1)
        gone = asyncio.ensure_future(ended(reader))
        while not gone.done():
            reader.writer.write(b"G")  # type: ignore[attr-defined]
            await asyncio.wait([gone], timeout=0.05)


async def test_to_stop_ends_what_is_open() -> None:
    async with serving(Worker("a")) as port:
        [reader] = await connected(port, 1)
    async with asyncio.timeout(PATIENCE_SECONDS):
        await ended(reader)


async def test_a_port_in_use_is_an_error_with_the_port_and_the_remedy() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(OSError, match=rf"cannot listen on 127\.0\.0\.1:{port} for metrics: .*--metrics HOST:PORT"):
            MetricsServer(f"127.0.0.1:{port}", tuple).start()


# ---- the setting -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "address"),
    [
        ("9464", "127.0.0.1:9464"),
        (9464, "127.0.0.1:9464"),
        ("0", "127.0.0.1:0"),
        ("0.0.0.0:9464", "0.0.0.0:9464"),
        ("[::1]:9464", "[::1]:9464"),
    ],
)
def test_a_port_alone_is_one_of_loopback(given: object, address: str) -> None:
    assert metrics_address(given) == address


@pytest.mark.parametrize(
    "given", ["", ":9464", "localhost:9464", "9464:", "65536", "-1", "1.5", "::1:9464", "[127.0.0.1]:1", "x", True, 1.5]
)
def test_what_is_no_address_is_refused_with_what_would_be(given: object) -> None:
    with pytest.raises(ValueError, match="must be"):
        metrics_address(given)


def test_without_the_extra_it_says_how_to_get_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    assert main(["worker", "--discovery", "local:x", "--metrics", "0"], {}) == 2
    assert "--metrics: needs prometheus-client, which is not installed: pip install 'wool[prometheus]'" in (
        capsys.readouterr().err
    )
