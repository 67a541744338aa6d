"""What the system says of a process: memory, descriptors, threads, processor time. Linux has it in /proc.

Elsewhere the functions return None, and the benchmarks that need them say so.
"""

from __future__ import annotations

import os
import sys
import threading
from pathlib import Path

MIB = 1024 * 1024
HAS_PROC = sys.platform == "linux"


def resident_bytes(pid: int) -> int:
    """Return the memory that a process has in RAM, without what it shares with files."""
    fields = Path(f"/proc/{pid}/statm").read_text().split()
    return (int(fields[1]) - int(fields[2])) * os.sysconf("SC_PAGE_SIZE")


def open_descriptors(pid: int) -> int:
    """Return how many descriptors a process has."""
    return len(os.listdir(f"/proc/{pid}/fd"))


def system_threads(pid: int) -> int:
    """Return how many threads a process has, gRPC's own included."""
    return len(os.listdir(f"/proc/{pid}/task"))


def threads_of_this_process() -> dict[str, int]:
    """Return the Python threads by name, with the system's id of each."""
    return {thread.name: thread.native_id or 0 for thread in threading.enumerate()}


def thread_seconds(pid: int) -> dict[int, float]:
    """Return the processor time that each thread of a process has used."""
    used: dict[int, float] = {}
    for thread in os.listdir(f"/proc/{pid}/task"):
        try:
            used[int(thread)] = int(Path(f"/proc/{pid}/task/{thread}/schedstat").read_text().split()[0]) / 1e9
        except FileNotFoundError:  # it has ended meanwhile
            continue
    return used
