"""The command line: which benchmarks, how thoroughly, and where the result goes."""

from __future__ import annotations

import argparse
import asyncio
import compileall
import importlib.util
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from bench.beside import BENCHMARKS as BESIDE
from bench.fresh import progress
from bench.measure import Row
from bench.secure import tls
from bench.table import describe_machine, render
from bench.workloads import BENCHMARKS as OTHERS
from bench.workloads import Benchmark, Nothing, Options

BENCHMARKS: dict[str, Benchmark] = {**OTHERS, "tls": tls, **BESIDE}

BUSY = 0.25
"""Load per core from which the figures are said to be disturbed."""


def _arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench", description="Measure wool beside its yardsticks.")
    parser.add_argument(
        "--only",
        action="append",
        choices=BENCHMARKS,
        metavar="NAME",
        help=f"one of {', '.join(BENCHMARKS)}; may repeat",
    )
    parser.add_argument("--quick", action="store_true", help="fewer repetitions: to see that it runs")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every sample there too")
    return parser.parse_args(arguments)


def _compile() -> None:
    """Compile the library, as installing it does: else every fresh interpreter might do so, and be timed at it."""
    library = importlib.util.find_spec("wool")
    assert library is not None and library.submodule_search_locations is not None
    for place in library.submodule_search_locations:
        compileall.compile_dir(place, quiet=1)


def main(by_value: Nothing, arguments: Sequence[str] | None = None) -> int:
    """Measure, print the table; return 1 if something was missed."""
    chosen = _arguments(arguments)
    machine = describe_machine()
    options = Options(quick=chosen.quick, by_value=by_value)
    rows: list[Row] = []
    _compile()
    print(", ".join(f"{name} {value}" for name, value in machine.items()), flush=True)
    cores, load = machine["cores"], machine["load average"]
    assert isinstance(cores, int) and isinstance(load, list)
    if load[0] > BUSY * cores:
        print("The machine is busy with something else: only ratios mean anything.", flush=True)
    for name in chosen.only or BENCHMARKS:
        progress(f"measuring {name} …")
        rows += asyncio.run(BENCHMARKS[name](options))
        progress("")
    print(f"\n{render(rows)}")
    if chosen.json is not None:
        chosen.json.write_text(json.dumps({"machine": machine, "rows": [row.as_json() for row in rows]}, indent=2))
    missed = [row.workload for row in rows if row.verdict == "MISSED"]
    if missed:
        print(f"\nmissed: {', '.join(missed)}", file=sys.stderr)
    return 1 if missed else 0
