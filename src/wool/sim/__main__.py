"""``python -m wool.sim``: replays what is kept, then searches for plans that break a promise.

Exit status: 0 if nothing is broken, 1 if something is (the report is printed, the plan is kept), or if a long
search never reached a state that it must reach; 2 for arguments that make no sense.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import random
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn, TextIO

from wool.sim.campaign import DETERMINISM, Found, Tally, diverged, failure_of, keep_plan, read_plan, replays
from wool.sim.coverage import LONG_PLANS, never_reached
from wool.sim.plan import Plan
from wool.sim.processes import search
from wool.sim.progress import Progress, invariants_told, summary
from wool.sim.report import report
from wool.sim.run import run
from wool.sim.speed import measure

CORPUS = Path("tests/sim/corpus")
FOUND = Path("sim-failures")
"""What a campaign finds is written here, to be looked at and moved into the corpus."""
FIXED_SEED = 20_26
"""Of the part of a campaign in CI that is the same every time."""
FIXED_PLANS = 150
"""Of that part, for each process."""
NIGHT_SECONDS = 8 * 3600.0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="nox -s sim --", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seconds", type=float, help="how long to search (75; with --plans: until they are done)")
    parser.add_argument("--plans", type=int, help="how many plans to try, all processes together")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="how many processes (one per core)")
    parser.add_argument("--seed", type=int, help="of the search; without it, a new one, which is printed")
    parser.add_argument("--replay", type=Path, nargs="+", metavar="FILE", help="run these kept plans, and no others")
    parser.add_argument("--profile", choices=("ci", "nightly"), help="ci: a fixed part first; nightly: all night")
    parser.add_argument("--corpus", type=Path, default=CORPUS, help=f"kept plans, replayed first ({CORPUS})")
    parser.add_argument("--keep", type=Path, default=FOUND, help=f"where a plan that fails is written ({FOUND})")
    parser.add_argument("--invariants", action="store_true", help="print every invariant with its formula")
    parser.add_argument("--history", type=Path, help=argparse.SUPPRESS)
    return parser


def main(arguments: Sequence[str] | None = None, out: TextIO = sys.stdout) -> int:
    """Run the command; return its exit status."""
    parser = _parser()
    options = parser.parse_args(arguments)
    for name in ("seconds", "plans", "jobs"):
        value = getattr(options, name)
        if value is not None and not value > 0:
            parser.error(f"--{name} must be positive, got {value}")
    if options.seed is not None and not 0 <= options.seed < 1 << 31:
        parser.error(f"--seed must be 0 to {(1 << 31) - 1}, got {options.seed}")
    if options.invariants:
        out.write(invariants_told())
        return 0
    plans = _read(parser, options.replay or ([] if options.history else _kept(options.corpus)))
    if options.history is not None:
        if len(plans) != 1:
            parser.error("--history is for one plan")
        options.history.write_text(run(plans[0][1]).to_lines())
        return 0
    if options.replay:
        return _replay(plans, out)
    return _campaign(options, plans, out)


def _kept(corpus: Path) -> list[Path]:
    return sorted(corpus.glob("*.json"))


def _read(parser: argparse.ArgumentParser, files: list[Path]) -> list[tuple[Path, Plan]]:
    plans: list[tuple[Path, Plan]] = []
    for file in files:
        try:
            plans.append((file, read_plan(file)))
        except (OSError, ValueError) as error:
            _refuse(parser, str(error))
    return plans


def _refuse(parser: argparse.ArgumentParser, words: str) -> NoReturn:
    parser.error(words)


# ---- replay -----------------------------------------------------------------------------------------


def _replay(plans: list[tuple[Path, Plan]], out: TextIO) -> int:
    broken = 0
    for file, plan in plans:
        words = _broken(file, plan, thoroughly=True)
        out.write(words or f"{file}: nothing is broken, and every run was the same\n")
        broken += bool(words)
    return 1 if broken else 0


def _broken(file: Path, plan: Plan, *, thoroughly: bool) -> str:
    """Run a kept plan; return the report if it fails. ``thoroughly``: and see that every run is the same."""
    first = None
    if thoroughly:
        difference = next(replays(plan, file), None)
        first = diverged(difference) if difference is not None else None
    failure = failure_of(plan, first=first, file=str(file))
    return "" if failure is None else report(failure)


# ---- campaign ---------------------------------------------------------------------------------------


def _campaign(options: argparse.Namespace, kept: list[tuple[Path, Plan]], out: TextIO) -> int:
    seed = options.seed if options.seed is not None else random.SystemRandom().randrange(1 << 31)
    seconds: float | None = options.seconds
    if seconds is None and options.plans is None:
        seconds = NIGHT_SECONDS if options.profile == "nightly" else 75.0
    out.write(f"seed {seed}, {options.jobs} processes, {len(kept)} kept plans\n")
    out.flush()
    for file, plan in kept:
        words = _broken(file, plan, thoroughly=False)
        if words:
            out.write(words)
            return 1
    progress = Progress(out, seconds, options.plans)
    total = Tally()
    found: Found | None = None
    error = ""
    if options.profile == "ci":
        found, error = search(options.jobs, FIXED_SEED, FIXED_PLANS * options.jobs, None, progress, total)
    if found is None and not error:
        left = None if seconds is None else max(seconds - progress.elapsed, 1.0)
        found, error = search(options.jobs, seed, options.plans, left, progress, total)
    progress.clear()
    if found is not None:
        out.write(_told(found, options.keep))
    if error:
        out.write(f"\nthe campaign itself has failed:\n{error}\n")
    told = summary(
        total,
        elapsed=progress.elapsed,
        jobs=options.jobs,
        seed=seed,
        kept=len(kept),
        found=found,
        speed=measure(),
    )
    out.write(told)
    missing = never_reached(total.states) if sum(total.plans.values()) >= LONG_PLANS else []
    if missing:
        out.write(f"\nthe search has failed: in {LONG_PLANS} plans it must reach every state, and did not reach:\n")
        out.writelines(f"  {label}\n" for label in missing)
    return 1 if found is not None or error or missing else 0


def _told(found: Found, directory: Path) -> str:
    """Keep the plan, run it again and again, and return the report."""
    name = hashlib.blake2b(repr(found.plan).encode(), digest_size=5).hexdigest()
    file = keep_plan(found.plan, directory, f"{found.violation.invariant.lower()}-{name}")
    first = found.violation
    notes = f"shrunk in {found.shrink_runs} runs and {found.shrink_seconds:.1f} s"
    difference = next(replays(found.plan, file), None)
    if difference is not None:
        if first.invariant == DETERMINISM:
            first = diverged(difference)
        notes += f"; and its runs differ: {difference}"
    else:
        notes += "; five runs of it, two in fresh interpreters, were the same"
    failure = failure_of(
        found.plan, first=first, necessary=found.necessary, file=str(file), found=f"{found.how}, {notes}"
    )
    assert failure is not None
    return report(failure)


if __name__ == "__main__":
    raise SystemExit(main())
