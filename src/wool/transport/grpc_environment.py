"""What gRPC reads from the environment as it is imported: set for that moment, and taken back.

gRPC has no other way to say these things. They hold for the whole process, and who imports gRPC first decides:
where the application has done so before us, or has set a variable itself, its choice stands, and wool is right
all the same, only slower. Must never leave anything behind in ``os.environ``: children inherit it.
"""

from __future__ import annotations

import importlib.util
import os
import re
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

OLDEST_MEASURED = (1, 80)
NEWEST_MEASURED = (1, 85)
"""Releases of gRPC, major and minor, of which `EXPERIMENTS` are known: another one would complain on stderr."""

EXPERIMENTS = "-event_engine_client,-event_engine_listener"
"""Have gRPC's older poller move the bytes: one thread between socket and event loop instead of three. A message
takes half the time and two thirds of the processor (docs/decisions/0007)."""


@contextmanager
def environment_for_import() -> Generator[None, None, None]:
    """Let gRPC be imported, inside the block, with wool's settings."""
    wanted = {
        # In every child that this process forks gRPC would start its threads anew, and crash many of them; yet
        # with wool running no such child can use gRPC.
        "GRPC_ENABLE_FORK_SUPPORT": "0",
        # What it writes to stderr knows no bound: a stranger that a forged record leads to had it write 40 MB a second.
        # A caller tells why it has refused whom, or was refused. Workers with mutual TLS let it speak
        # (`wool.worker.launch`), since it alone knows whom it has refused there.
        "GRPC_VERBOSITY": "NONE",
    }
    version = installed_version()
    if version is not None and OLDEST_MEASURED <= version <= NEWEST_MEASURED:
        wanted["GRPC_EXPERIMENTS"] = EXPERIMENTS
    ours = {name: value for name, value in wanted.items() if name not in os.environ}
    os.environ.update(ours)
    try:
        yield
    finally:
        for name in ours:
            os.environ.pop(name, None)


def installed_version() -> tuple[int, int] | None:
    """Return major and minor of the gRPC that would be imported, without importing it; None if it does not say."""
    spec = importlib.util.find_spec("grpc")
    for directory in (spec.submodule_search_locations if spec is not None else None) or ():
        # Not importlib.metadata: reading a distribution's records takes longer than the rest of this import.
        try:
            text = Path(directory, "_grpcio_metadata.py").read_text()
        except OSError:
            continue
        if found := re.search(r"__version__\s*=\s*[\"']+(\d+)\.(\d+)", text):
            return int(found[1]), int(found[2])
    return None
