"""Any bytes give a value or the one named error: every target of the fuzzer, with its corpus and with dice."""

from __future__ import annotations

import logging
import time
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fuzz.targets import TARGETS, close, kept

MOST_SECONDS = 5.0
MOST_BYTES = 64 * 1024 * 1024
"""For an input of a kilobyte, on a busy machine: what grows with a number that the input names takes far more."""
SLOW = {"credential-files"}
"""Targets that write files or keys are tried less often."""


@pytest.fixture(autouse=True)
def freed() -> Iterator[None]:
    levels = {name: logging.getLogger(name).level for name in ("wool", "zeroconf")}
    yield
    close()
    for name, level in levels.items():
        logging.getLogger(name).setLevel(level)


@pytest.mark.parametrize("name", TARGETS)
def test_what_was_found_or_kept_gives_a_value_or_the_named_error(name: str) -> None:
    corpus = kept(name)
    assert corpus, f"nothing is kept for {name}: python -m fuzz.seeds"
    for path in corpus:
        TARGETS[name](path.read_bytes())


@pytest.mark.parametrize("name", TARGETS)
def test_any_bytes_give_a_value_or_the_named_error(name: str) -> None:
    seeds = st.sampled_from([path.read_bytes() for path in kept(name)])
    edits = st.lists(st.tuples(st.integers(0, 2000), st.binary(max_size=3)), min_size=1, max_size=6)

    @st.composite
    def changed(draw: st.DrawFn) -> bytes:
        data = bytearray(draw(seeds))
        for place, new in draw(edits):
            at = place % (len(data) + 1)
            data[at : at + len(new)] = new
        return bytes(data)

    @settings(max_examples=10 if name in SLOW else 200, suppress_health_check=[HealthCheck.too_slow])
    @given(st.binary(max_size=400) | changed())
    def tried(data: bytes) -> None:
        TARGETS[name](data)

    tried()


@pytest.mark.parametrize("name", TARGETS)
def test_any_input_is_judged_in_bounded_memory_and_time(name: str) -> None:
    inputs = [path.read_bytes() for path in kept(name)] + [bytes(1000), b"\xff" * 1000]
    for data in inputs:
        TARGETS[name](data)  # what is made once, at the first use
    tracemalloc.start()
    try:
        for data in inputs:
            tracemalloc.reset_peak()
            before, _ = tracemalloc.get_traced_memory()
            begun = time.perf_counter()
            TARGETS[name](data)
            assert time.perf_counter() - begun < MOST_SECONDS
            _, peak = tracemalloc.get_traced_memory()
            assert peak - before < MOST_BYTES
    finally:
        tracemalloc.stop()


def test_nothing_in_the_corpus_is_large() -> None:
    sizes = {path: path.stat().st_size for name in TARGETS for path in kept(name)}
    assert max(sizes.values()) <= 8192
    assert sum(sizes.values()) <= 500_000
    known = {path.parent.name for path in Path(next(iter(sizes))).parents[1].glob("*/*")}
    assert known <= set(TARGETS), "a corpus without a target"
