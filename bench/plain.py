"""What is measured, without wool: the bodies, as plain functions for the yardsticks.

It imports nothing, so that a yardstick's processes are charged with nothing of ours.
"""

from __future__ import annotations


def nothing() -> None:
    """Return."""


def spin(iterations: int) -> int:
    """Keep one core busy for a counted amount of work, however long that takes."""
    total = 0
    for number in range(iterations):
        total += number & 7
    return total
