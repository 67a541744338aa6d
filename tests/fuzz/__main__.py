"""Let atheris search for bytes that break a target: ``nox -s fuzz -- --seconds N``.

Each target runs in a process of its own, since atheris ends it when something is found. What was found is written to
``--place`` and named; what reached something new is kept there too, and added to the corpus by ``--keep``.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from fuzz.targets import CORPUS, TARGETS, kept

LONGEST_INPUT_BYTES = 1024
SLOWEST_INPUT_SECONDS = 10
MOST_MEGABYTES = 2048
"""Beyond these an input counts as found: time and memory are to be bounded."""
POLL_SECONDS = 0.2
MOST_KEPT = 40
"""Inputs in the corpus of one target: the smallest of those that together reach what was reached."""


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="nox -s fuzz --", description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--seconds", type=int, default=60, help="for each target (default: %(default)s)")
    parser.add_argument("--runs", type=int, default=-1, help="inputs for each target, if that comes first")
    parser.add_argument("--target", action="append", choices=list(TARGETS), help="one of them; may be said again")
    parser.add_argument("--jobs", type=int, default=1, help="targets at once (default: %(default)s)")
    parser.add_argument("--place", type=Path, help="directory for what is found (default: a fresh one)")
    parser.add_argument("--keep", action="store_true", help="add what reached something new to the corpus")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    return parser.parse_args(arguments)


def one(name: str, arguments: list[str]) -> None:
    """Be the process of one target."""
    import atheris

    with atheris.instrument_imports(include=["wool", "fuzz"]):
        for module in [module for module in sys.modules if module.split(".")[0] in ("wool", "fuzz")]:
            del sys.modules[module]
        from fuzz import targets
    atheris.Setup([name, *arguments], targets.TARGETS[name])
    atheris.Fuzz()


def command(name: str, *arguments: str) -> list[str]:
    return [sys.executable, "-m", "fuzz", "--one", name, *arguments]


def begin(name: str, options: argparse.Namespace, place: Path) -> subprocess.Popen[bytes]:
    found = place / name
    found.mkdir(parents=True, exist_ok=True)
    (CORPUS / name).mkdir(parents=True, exist_ok=True)
    arguments = [
        str(found),
        str(CORPUS / name),
        f"-max_total_time={options.seconds}",
        f"-runs={options.runs}",
        f"-max_len={LONGEST_INPUT_BYTES}",
        f"-timeout={SLOWEST_INPUT_SECONDS}",
        f"-rss_limit_mb={MOST_MEGABYTES}",
        f"-artifact_prefix={place / name}-",
        "-print_final_stats=1",
    ]
    with log_of(name, place).open("w") as log:
        return subprocess.Popen(command(name, *arguments), stdout=log, stderr=subprocess.STDOUT)


def log_of(name: str, place: Path) -> Path:
    return place / f"{name}.log"


def report(name: str, process: subprocess.Popen[bytes], said: str) -> tuple[int, bool]:
    """Print what became of a target; return how many inputs were tried, and whether all went well."""
    counted = re.findall(r"stat::number_of_executed_units: (\d+)", said) or re.findall(r"^#(\d+)", said, re.MULTILINE)
    number = int(counted[-1]) if counted else 0
    good = process.returncode == 0
    print(f"{name:20} {number:>12,} inputs  {'' if good else f'FOUND (exit {process.returncode})'}", flush=True)
    if not good:
        print("\n".join(said.splitlines()[-60:]), flush=True)
    return number, good


def keep(name: str, place: Path) -> None:
    """Add to the corpus what reaches something that it does not reach, small ones first."""
    subprocess.run(
        command(name, "-merge=1", f"-max_len={LONGEST_INPUT_BYTES}", str(CORPUS / name), str(place / name)),
        capture_output=True,
        check=False,
    )
    by_size = sorted(kept(name), key=lambda path: (path.stat().st_size, path.name))
    for path in by_size[MOST_KEPT:]:
        if re.fullmatch(r"[0-9a-f]{40}", path.name):  # what has a name was kept for a reason
            path.unlink()


def main() -> int:
    options = parse()
    names = options.target or list(TARGETS)
    place = options.place or Path(tempfile.mkdtemp(prefix="wool-fuzz-"))
    waiting, total, all_good = list(names), 0, True
    running: dict[str, subprocess.Popen[bytes]] = {}
    while waiting or running:
        while waiting and len(running) < options.jobs:
            name = waiting.pop(0)
            running[name] = begin(name, options, place)
        while (name := next((name for name, process in running.items() if process.poll() is not None), None)) is None:
            time.sleep(POLL_SECONDS)
        number, good = report(name, running.pop(name), log_of(name, place).read_text(errors="replace"))
        total, all_good = total + number, all_good and good
        if options.keep:
            keep(name, place)
    print(f"{'together':20} {total:>12,} inputs; what was found is in {place}")
    return 0 if all_good else 1


if __name__ == "__main__":
    if "--one" in sys.argv[1:2]:
        os.environ.setdefault("ATHERIS_QUIET", "1")
        one(sys.argv[2], sys.argv[3:])
    else:
        sys.exit(main())
