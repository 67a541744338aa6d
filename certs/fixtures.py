"""The certificates that tests, the simulator and a curious person use: good ones, and one of every bad kind.

``python certs/fixtures.py DIRECTORY`` writes them there, keys readable by their owner only. Nothing is kept in the
repository: each test run makes its own, since a private key in a repository is nobody's secret.
"""

from __future__ import annotations

import datetime
import os
import sys
from dataclasses import dataclass
from pathlib import Path

from wool.authority import CLIENT, SERVER, Authority, Issued
from wool.credentials import WorkerCredentials

HOST = "127.0.0.1"
WORKER = "wool-worker"
CALLER = "wool-caller"
"""Workload identities: names that stay when addresses change."""

NAMES = {"worker": [HOST, WORKER], "caller": [CALLER]}

_DAY = datetime.timedelta(days=1)


@dataclass(frozen=True, kw_only=True)
class Fixtures:
    """An authority, and what it and others have issued, by name."""

    authority: Authority
    """The one that everybody believes."""
    former: Authority
    """The one of the same name that they believed before, and believe no longer."""
    issued: dict[str, Issued]

    @property
    def ca(self) -> bytes:
        """The certificate of the authority."""
        return self.authority.chain

    @property
    def both(self) -> bytes:
        """What is believed while one authority takes the other's place."""
        return self.ca + self.former.chain

    def renewed(self, name: str) -> Issued:
        """Return what the authority issues next for the same names."""
        return self.authority.issue(NAMES[name])

    def credentials(
        self, name: str, *, workers: tuple[str, ...] = (), callers: tuple[str, ...] = ()
    ) -> WorkerCredentials:
        """Return credentials that show ``name`` and believe the authority."""
        shown = self.issued[name]
        return WorkerCredentials(ca=self.ca, key=shown.key, cert=shown.cert, workers=workers, callers=callers)


def make() -> Fixtures:
    """Make all of them afresh."""
    authority, former = Authority.create(), Authority.create()
    stranger = Authority.create("an authority that nobody believes")
    intermediate = authority.intermediate()
    now = datetime.datetime.now(datetime.UTC)
    both = NAMES["worker"]
    return Fixtures(
        authority=authority,
        former=former,
        issued={
            "worker": authority.issue(both),
            "worker of an intermediate": intermediate.issue(both),
            "worker by identity": authority.issue([WORKER]),
            "caller": authority.issue([CALLER], usages=[CLIENT]),
            "expired": authority.issue(both, not_before=now - 2 * _DAY, not_after=now - _DAY),
            "not yet valid": authority.issue(both, not_before=now + _DAY, not_after=now + 2 * _DAY),
            "wrong authority": stranger.issue(both),
            "caller of a wrong authority": stranger.issue([CALLER], usages=[CLIENT]),
            "revoked by rotation": former.issue(both),
            "wrong name": authority.issue(["192.0.2.1", "somebody-else"]),
            "server usage only": authority.issue(both, usages=[SERVER]),
            "client usage only": authority.issue(both, usages=[CLIENT]),
        },
    )


def write(fixtures: Fixtures, directory: Path) -> None:
    """Write ``ca.pem``, and key and certificate of each."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "ca.pem").write_bytes(fixtures.ca)
    for name, issued in fixtures.issued.items():
        stem = name.replace(" ", "-")
        (directory / f"{stem}.pem").write_bytes(issued.cert)
        key = os.open(directory / f"{stem}.key", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(key, "wb") as file:
            file.write(issued.key)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python certs/fixtures.py DIRECTORY")
    write(make(), Path(sys.argv[1]))
