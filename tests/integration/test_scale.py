"""Sessions in a cluster of more workers than one caller uses: simulated, as `bench.scale` measures it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("hypothesis", reason="needs the extra wool[sim]")

from wool.limits import DEFAULT_LIMITS

ROOT = Path(__file__).parents[2]


@pytest.mark.skipif(not (ROOT / "bench").is_dir(), reason="the benchmarks are not here")
def test_with_many_workers_sessions_are_opened_lazily_and_bounded_and_a_join_is_seen_by_all(tmp_path: Path) -> None:
    figures = tmp_path / "figures.json"
    subprocess.run(
        [sys.executable, "-m", "bench.scale", "--only", "simulated", "--size", "200x3", "--json", str(figures)],
        cwd=ROOT,
        check=True,
        timeout=50,
    )
    (found,) = json.loads(figures.read_text())["simulated"]
    assert found["sessions_before_the_first_call"] == 0
    assert found["sessions_per_caller"] == DEFAULT_LIMITS.sessions
    # Each caller draws its own: with three of them, more than 128 workers are used, and hardly any by none.
    assert found["sessions_per_worker_most"] >= 2
    assert found["join_seen_by_all_ms"] <= 2 * DEFAULT_LIMITS.discovery_poll_seconds * 1e3
    assert found["leave_seen_by_all_ms"] <= 2 * DEFAULT_LIMITS.discovery_poll_seconds * 1e3
    assert found["idle_minute_messages"] == 0
