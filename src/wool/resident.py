"""How much memory this process holds: what a memory limit and the statistics are measured by.

Linux tells it in a file of a few bytes; elsewhere the system tells the most that it ever was, which a limit that is
to be noticed once can live with. It must never cost more than some microseconds: it is asked on the I/O loop.
"""

from __future__ import annotations

import os
import sys

_STATM = "/proc/self/statm"


def resident_bytes() -> int:
    """Return the bytes of memory that this process holds (its resident set); where Linux is not, their peak."""
    try:
        with open(_STATM, "rb") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except FileNotFoundError:
        import resource

        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024
