"""What a worker prints is forwarded as it is; what gRPC's core says for each stranger that fails, at a bounded rate."""

from __future__ import annotations

from collections.abc import Sequence

from wool.limits import Limits
from wool.worker.output import Output

FAILED = b"I1127 23:24:47.692462    4097 ssl_transport_security.cc:2563] Handshake failed with error SSL_ERROR_SSL\n"


def forwarding(limits: Limits) -> tuple[Output, list[str]]:
    lines: list[str] = []

    def forward(uid: str | None, pid: int, printed: Sequence[bytes]) -> None:
        lines.extend(line.decode() for line in printed)

    return Output(1, limits, forward), lines


async def test_failed_tls_handshakes_are_forwarded_at_a_bounded_rate_and_counted() -> None:
    output, lines = forwarding(Limits(refusals=3))
    for _ in range(1000):
        output.feed(FAILED + b"a body's own line\n")
    assert lines.count("a body's own line") == 1000
    assert sum("Handshake failed" in line for line in lines) == 3
    output.finish()
    assert lines[-1].startswith("997 more were refused in 60 s, the last: I1127 ")


def test_last_words_are_forwarded_when_no_loop_runs_any_more() -> None:
    output, lines = forwarding(Limits())
    output.feed(FAILED + b"unfinished")
    output.finish()
    assert lines == [FAILED.decode().strip(), "unfinished"]
