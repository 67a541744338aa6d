"""Buffers that are filled in place."""

from __future__ import annotations

import pytest

from wool.buffers import HUGE_FROM_BYTES, fillable


@pytest.mark.parametrize("size", [0, 1, 4096, HUGE_FROM_BYTES - 1, HUGE_FROM_BYTES, HUGE_FROM_BYTES + 4097])
def test_what_is_written_in_order_is_what_comes_out(size: int) -> None:
    buffer = fillable(size)
    pattern = bytes(range(256)) * (size // 256 + 1)
    expected = pattern[:size]
    for offset in range(0, size, 100_000):
        buffer.write(expected[offset : offset + 100_000])
    assert type(buffer.getvalue()) is bytes
    assert buffer.getvalue() == expected


def test_a_full_buffer_gives_its_bytes_without_copying_them() -> None:
    buffer = fillable(HUGE_FROM_BYTES)
    buffer.write(bytes(HUGE_FROM_BYTES))
    assert buffer.getvalue() is buffer.getvalue()


def test_a_size_for_which_there_is_no_memory_is_refused() -> None:
    with pytest.raises((MemoryError, OverflowError)):
        fillable(1 << 62)
