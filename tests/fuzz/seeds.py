"""Honest inputs, to begin from: ``python -m fuzz.seeds`` writes them into the corpus. A search from nothing finds a
byte that matters in minutes; from these in no time.
"""

from __future__ import annotations

from collections.abc import Iterator

from fuzz.choices import TRACES
from fuzz.targets import CORPUS
from wool.discovery.base import WorkerMetadata
from wool.discovery.records import to_text
from wool.discovery.table import Layout, add, apply
from wool.protocol import frames
from wool.protocol.codec import encode, encode_chunk
from wool.worker.channel import Configure, Draining, Failed, Ready, Stop, Stopped
from wool.worker.channel import encode as encode_control

TASK, DIGEST = bytes(frames.TASK_BYTES), bytes(frames.DIGEST_BYTES)
WORKER = WorkerMetadata(
    uid="a", address="10.0.0.2:7000", pid=1, version="1", tags=frozenset({"gpu"}), extra={"zone": "b"}
)


def _frames() -> Iterator[tuple[str, list[frames.Frame]]]:
    body = frames.Body((), b"inline")
    yield "offers", [frames.Offer(n, TASK, DIGEST, False, body, TASK) for n in (1, 2, 3)]
    yield "offer", [frames.Offer(1, TASK, DIGEST, True, frames.Body((3, 3), b"inline"), b"", 1.5)]
    yield "offer-traced", [frames.Offer(1, TASK, DIGEST, False, body, trace=trace) for trace in TRACES]
    yield "starts", [frames.Start(n) for n in (1, 2, 3)]
    yield "accepts", [frames.Accept(n) for n in (1, 2, 3)]
    yield "returns", [frames.Result(n, frames.ResultKind.RETURN, body) for n in (1, 2, 3)]
    yield "result", [frames.Result(1, frames.ResultKind.RAISE, frames.Body((70_000, 1), b"", True), True, 2)]
    yield "step", [frames.Step(1, frames.StepKind.SEND, body), frames.Cancel(1, "why"), frames.Cancel(1)]
    yield "ends", [frames.Withdraw(1), frames.Reject(1, frames.RejectCode.DRAINING, "no"), frames.Draining()]
    yield "session", [frames.Chunk(1, b"data"), frames.Credit(9), frames.Goodbye("bye")]


def seeds() -> Iterator[tuple[str, str, bytes]]:
    """Yield target, name and bytes."""
    for name, said in _frames():
        yield "decoding", name, encode(said)
    yield "decoding-chunks", "chunk", encode_chunk(frames.Chunk(300, b"data" * 10))
    for name, choices in {
        "offer-start-return": bytes([0, 0, 0, 1, 1, 1, 0, 2, 0, 1, 1, 0, 4, 5, 0, 0, 1, 0, 1]),
        "nothing": b"",
        "traced-offer": bytes([0, 0, 1, 1, 1, 1, 0, 2, 0, 1, 1, 0, 4, 5, 0, 0, 8]),
    }.items():
        for target in ("encoding", "flow", "session-of-worker", "session-of-caller", "machine-of-caller", "sightings"):
            yield target, name, choices
    yield "handshake-of-caller", "proven", bytes([6, 1, 2, 1, 1, 1, 0, 0, 1, 1, 1, 1, 3])
    yield "handshake-of-worker", "proven", bytes([1, 0, 4, 1, 1, 1, 1, 1, 0, 1, 1, 1])
    yield "record", "worker", WORKER.to_bytes()
    yield "record", "address", WorkerMetadata(uid="b", address="unix:/b", pid=2, version="2", secure=True).to_bytes()
    yield "life", "life", b'["/key", 1, 2, 3]'
    yield "text-record", "worker", bytes(3) + WORKER.to_bytes()
    yield "text-record", "text", to_text(WORKER.to_bytes())
    layout, table = Layout.of(slots=2, record_bytes=300), bytearray()
    apply(table, layout.initial())
    apply(table, add(bytes(table), WORKER, b"l" * 16, namespace="n", is_live=lambda lease: True).writes)
    yield "shared-table", "one", bytes(table)
    yield "shared-table", "flipped", bytes([1, 0, 70, 255])
    for name, text in {"unix": "unix:/a", "v4": "10.0.0.1:7000", "v6": "[::1]:7000", "name": "a.local:7000"}.items():
        yield "addresses", name, text.encode()
    yield "credential-files", "whole", bytes(8)
    yield "credential-files", "cut", bytes([0, 2, 100, 2, 100, 0, 0])
    configure = Configure(sys_path=("/a",), python_path=None, address="unix:/a", secret=b"s" * 32)
    said = (configure, Stop(drain_seconds=1.0), Ready(metadata=WORKER), Failed(text="t"), Draining(), Stopped())
    for message in said:
        yield "control-message", type(message).__name__.lower(), encode_control(message)
    yield from _network()


def _network() -> Iterator[tuple[str, str, bytes]]:
    import dns.message
    import dns.rrset
    import zeroconf

    said: list[tuple[str, list[tuple[str, int, str, str]]]] = [
        ("addresses", [("x.", 5, "A", "10.0.0.2"), ("x.", 5, "A", "10.0.0.3")]),
        ("services", [("x.", 5, "SRV", "1 1 7000 a."), ("x.", 5, "SRV", "0 1 7000 .")]),
        ("alias", [("x.", 5, "CNAME", "y."), ("y.", 5, "A", "10.0.0.2")]),
    ]
    for name, records in said:
        query = dns.message.make_query("x.", records[0][2] if records[0][2] != "CNAME" else "A")
        query.id = 1
        response = dns.message.make_response(query)
        for owner, seconds, kind, text in records:
            response.answer.append(dns.rrset.from_text(owner, seconds, "IN", kind, text))
        if name == "services":
            response.additional.append(dns.rrset.from_text("a.", 5, "IN", "A", "10.0.0.2"))
        yield "answers", name, response.to_wire()
    denied = dns.message.make_response(dns.message.make_query("x.", "A"))
    denied.id = 1
    denied.authority.append(dns.rrset.from_text("x.", 5, "IN", "SOA", "a. b. 1 2 3 4 5"))
    yield "answers", "denied", denied.to_wire()

    out = zeroconf.DNSOutgoing(0x8400)
    name = "a._wool._tcp.local."
    out.add_answer_at_time(zeroconf.DNSPointer("_wool._tcp.local.", 12, 1, 1200, name), 0)
    out.add_answer_at_time(zeroconf.DNSService(name, 33, 1, 30, 0, 0, 7000, "a.local."), 0)
    out.add_answer_at_time(zeroconf.DNSText(name, 16, 1, 30, to_text(WORKER.to_bytes())), 0)
    out.add_answer_at_time(zeroconf.DNSAddress("a.local.", 1, 1, 30, bytes([10, 0, 0, 2])), 0)
    (packet,) = out.packets()
    yield "packets", "announcement", packet


def main() -> None:
    for target, name, data in seeds():
        directory = CORPUS / target
        directory.mkdir(parents=True, exist_ok=True)
        (directory / name).write_bytes(data)


if __name__ == "__main__":
    main()
