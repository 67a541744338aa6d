"""Searches every planted bug from scratch, and writes what it took.

``nox -s mutants``, or in ``tests``: ``python -m sim.mutants [--seed N …] [--only NAME …] [--plans N] [--jobs N]
[--keep]``. Ends with 1 if one is not found. ``--keep`` writes each one's minimal plan, which the everyday tests replay:
one that shows the invariant that the mutant is there for, and passes on the code as it is.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sim.mutants.catalogue import MUTANTS
from sim.mutants.child import TESTS
from sim.mutants.mutant import Mutant

PLANS = Path(__file__).resolve().parent / "plans"
MOST_PLANS = 20_000
TELL_SECONDS = 10.0
LINE = "─" * 118


@dataclass(slots=True, kw_only=True)
class Search:
    """One mutant and one seed, and what has come of it."""

    mutant: Mutant
    seed: int
    tried: int = 0
    answer: dict[str, Any] = field(default_factory=dict)

    @property
    def found(self) -> bool:
        """Whether a plan fails."""
        return bool(self.answer.get("found"))


def run_child(*arguments: str) -> subprocess.Popen[str]:
    """Start a fresh interpreter; see `sim.mutants.child`."""
    return subprocess.Popen(
        [sys.executable, "-m", "sim.mutants.child", *arguments],
        stdout=subprocess.PIPE,
        text=True,
        cwd=TESTS,
        env={**os.environ, "PYTHONHASHSEED": "0"},
    )


def replay(name: str, *files: Path) -> dict[str, dict[str, str]]:
    """Return what stored plans break, each with its sentence, by the name of the file; ``-`` is the code as it is."""
    with run_child(name, "replay", *map(str, files)) as child:
        assert child.stdout is not None
        answers = [json.loads(line) for line in child.stdout]
    if child.returncode or len(answers) != len(files):
        raise RuntimeError(f"mutant {name}: the replay ended with status {child.returncode}")
    return {Path(answer["file"]).stem: answer["broken"] for answer in answers}


class Campaign:
    """All searches, and the lines that say how they go."""

    def __init__(self, searches: list[Search], most: int, *, keep: bool) -> None:
        self._searches = searches
        self._most = most
        self._keep = keep
        self._lock = threading.Lock()
        self._told = time.monotonic()
        self._running: dict[int, Search] = {}
        self._done = 0

    def run(self, jobs: int) -> None:
        """Do them all."""
        with ThreadPoolExecutor(jobs) as pool:
            list(pool.map(self._one, self._searches))

    def _one(self, search: Search) -> None:
        with self._lock:
            self._running[id(search)] = search
        words = ["keep"] if self._keep else []
        with run_child(search.mutant.name, "search", str(search.seed), str(self._most), *words) as child:
            assert child.stdout is not None
            for line in child.stdout:
                said = json.loads(line)
                search.tried = said["plans"]
                if "found" in said:
                    search.answer = said
                self._tell()
        with self._lock:
            del self._running[id(search)]
            self._done += 1
            self._say(search)
        if self._keep and search.found:
            keep(search)

    def _tell(self) -> None:
        with self._lock:
            if time.monotonic() - self._told > TELL_SECONDS:
                self._told = time.monotonic()
                now = ", ".join(f"{search.mutant.name} ({search.tried} plans)" for search in self._running.values())
                print(f"  {self._done} of {len(self._searches)} searches done; now {now}", flush=True)

    def _say(self, search: Search) -> None:
        answer = search.answer
        if search.found:
            what = f"found with plan {answer['plans']}, {answer['seconds']:.1f} s: {answer['sentence']}"
        elif answer:
            what = f"NOT found in {answer['plans']} plans, {answer['seconds']:.1f} s"
            if answer.get("others"):
                what += f"; broken were {', '.join(answer['others'])}"
        else:
            what = "the search FAILED"
        print(f"{search.mutant.name} (seed {search.seed}): {what[:300]}", flush=True)


def keep(search: Search) -> None:
    """Write the minimal plan, unless it fails on the code as it is, too."""
    mutant = search.mutant
    file = PLANS / f"{mutant.name}.json"
    before = file.read_text() if file.exists() else None
    PLANS.mkdir(exist_ok=True)
    file.write_text(json.dumps(search.answer["plan"], indent=1) + "\n")
    wrong = replay("-", file)[mutant.name]
    again = replay(mutant.name, file)[mutant.name]
    if wrong or mutant.caught_by not in again:
        print(f"{mutant.name}: NOT KEPT: without it {wrong or 'nothing'} is broken, with it {again or 'nothing'}")
        file.unlink()
        if before is not None:
            file.write_text(before)


# ---- the table --------------------------------------------------------------------------------------


def table(searches: list[Search]) -> str:
    """Return the table, a line for each mutant."""
    rows = [
        f"{'planted bug':<38}{'found':>7}{'plans':>8}{'95 %':>7}  {'size':<9}{'seconds':>8}{'shrink':>8}  invariant"
    ]
    by_mutant: dict[str, list[Search]] = {}
    for search in searches:
        by_mutant.setdefault(search.mutant.name, []).append(search)
    for name, group in by_mutant.items():
        found = [search.answer for search in group if search.found]
        row = f"{name:<38}{f'{len(found)}/{len(group)}':>7}"
        if found:
            plans = sorted(answer["plans"] for answer in found)
            smallest = min((answer["size"] for answer in found), key=sum)
            seconds = sorted(answer["seconds"] for answer in found)
            shrink = sorted(answer["shrink_seconds"] for answer in found)
            caught = Counter(answer["invariant"] for answer in found)
            row += f"{_quantile(plans, 0.5):>8}{_quantile(plans, 0.95):>7}  {'+'.join(map(str, smallest)):<9}"
            row += f"{_quantile(seconds, 0.5):>8.1f}{_quantile(shrink, 0.5):>8.1f}  "
            row += ", ".join(word for word, _ in caught.most_common())
        rows.append(row)
    shrinks = sorted(search.answer["shrink_seconds"] for search in searches if search.found)
    if shrinks:
        rows.append(
            f"to shrink: median {_quantile(shrinks, 0.5):.1f} s, 95th percentile {_quantile(shrinks, 0.95):.1f} s"
        )
    rows.append("plans: until found, median and 95th percentile over the seeds; size: calls+faults+stalls+noise")
    return f"{LINE}\n" + "\n".join(rows) + f"\n{LINE}"


def _quantile(values: list[Any], share: float) -> Any:
    return values[min(len(values) - 1, int(share * len(values)))]


def main() -> int:
    """Do what the command line says; return the exit status."""
    parser = argparse.ArgumentParser(prog="nox -s mutants --", description=__doc__)
    parser.add_argument("--seed", type=int, action="append", help="again for each seed; 1, 2 and 3 by default")
    parser.add_argument("--only", action="append", default=[], choices=sorted(MUTANTS), metavar="NAME")
    parser.add_argument("--plans", type=int, default=MOST_PLANS, help="give up after so many")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--keep", action="store_true", help="store the minimal plans")
    options = parser.parse_args()
    names = options.only or list(MUTANTS)
    searches = [Search(mutant=MUTANTS[name], seed=seed) for name in names for seed in options.seed or (1, 2, 3)]
    print(f"{len(names)} planted bugs, {len(searches)} searches, {options.jobs} at once", flush=True)
    begun = time.monotonic()
    Campaign(searches, options.plans, keep=options.keep).run(options.jobs)
    missing = sorted({search.mutant.name for search in searches if not search.found})
    print(table(searches))
    print(f"{len(names) - len(missing)} of {len(names)} found in {time.monotonic() - begun:.0f} s", end="")
    print(f"; NOT found: {', '.join(missing)}" if missing else "")
    return 1 if missing else 0


if __name__ == "__main__":
    sys.exit(main())
