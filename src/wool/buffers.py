"""Room for large payloads: bytes that are filled piece by piece, and not copied when they are full.

A fresh buffer of some megabytes costs more in page faults than in copying; on Linux the kernel is asked
for huge pages, which is advice and no more. Nothing here may depend on the advice being taken.
"""

from __future__ import annotations

import mmap
import sys
from io import BytesIO

HUGE_FROM_BYTES = 4 * 1024 * 1024
"""From this size huge pages are asked for: they have 2 MiB, and below two of them nothing is won."""


def fillable(size: int) -> BytesIO:
    """Return a buffer of ``size`` zeroes. Once it is filled from the start, ``getvalue`` copies nothing.

    The zeroes are the system's, mapped when they are touched: a size that is only announced takes no memory.
    Raises `MemoryError` or `OverflowError`.
    """
    buffer = BytesIO(bytes(size))
    if size >= HUGE_FROM_BYTES and sys.platform == "linux":
        _ask_for_huge_pages(buffer)
    return buffer


def _ask_for_huge_pages(buffer: BytesIO) -> None:
    import ctypes  # not with the package: most processes never see such a payload

    madvise = ctypes.CDLL(None).madvise
    madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
    with buffer.getbuffer() as view:
        start = ctypes.c_char.from_buffer(view)
        address = ctypes.addressof(start)
        first = -(-address // mmap.PAGESIZE) * mmap.PAGESIZE
        last = (address + len(view)) // mmap.PAGESIZE * mmap.PAGESIZE
        # Refused where the kernel has no huge pages: then the pages are small.
        madvise(first, last - first, mmap.MADV_HUGEPAGE)
        del start
