"""``wool health``: whether the workers that a discovery knows are up, as an exit status, for probes.

It asks as `wool.cli.ps` does, and must never say more than that answer: who may not call may not ask.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from wool.cli import ps
from wool.cli.credentials import CREDENTIALS
from wool.cli.settings import Option, Settings, whole
from wool.harmless import harmless

OPTIONS: Sequence[Option] = (
    *(option for option in ps.OPTIONS if option.name in ("discovery", "wait", "timeout")),
    Option(name="least", convert=whole(1, 1_000_000, "a number, 1 or more"), default=1, metavar="N", help="how many "
           "workers must be up (default: 1)"),
    *CREDENTIALS,
)  # fmt: skip

HEALTHY = 0
UNHEALTHY = 1


def run(settings: Settings) -> int:
    """Run the command; return its exit status: 0 if enough workers are up. Raises `SettingError`."""
    rows: list[ps.Row] = []
    failed = ps.look("health", settings, rows.extend, None)
    if failed:
        return UNHEALTHY
    up = sum(row.status == "up" for row in rows)
    for row in rows:
        if row.status != "up":
            why = f": {harmless(row.why.removeprefix(f'{row.metadata.address}: '))}" if row.why else ""
            sys.stderr.write(f"{ps.called(row)} is {row.status}{why}\n")
    healthy = up >= settings["least"]
    words = f"{up} of {len(rows)} workers up" + ("" if healthy else f", {settings['least']} must be")
    (sys.stdout if healthy else sys.stderr).write(f"{words}\n")
    return HEALTHY if healthy else UNHEALTHY
