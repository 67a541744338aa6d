"""Where the numbers of a plan come from: Hypothesis, or a plain generator of random numbers.

`wool.sim.shapes` makes the plan. Nothing else is decided here than how many items there are and which
numbers they get.
"""

from __future__ import annotations

import random

from hypothesis import strategies as st

from wool.sim.plan import Plan
from wool.sim.shapes import CALLS, FAULT_SLOTS, HEADER, HEADER_BYTES, ITEM, ITEM_BYTES, STALL_SLOTS, decode

FILLED = (0, 1, 1, 1, 2, 2, 2, 3, 3, 4, 5)
"""How many faults the volume mode makes."""


def plans(*, calls: int = CALLS, faults: int = FAULT_SLOTS, stalls: int = STALL_SLOTS) -> st.SearchStrategy[Plan]:
    """Return a strategy of plans with at most so many items.

    Each item is one number in a slot of its own: what is shrunk to 0 is gone, and nothing else is renamed.

    All numbers are one draw of bytes, but which faults are left out. Drawn one by one, integers are mostly small
    ones, which are the first kinds, workers and times of every table. And of several draws of a sort Hypothesis puts
    one in another's place: most plans were nearly those before them, or had no calls.
    """
    size = _HEAD_BYTES + (faults + calls + stalls) * ITEM_BYTES
    return st.builds(
        _decoded,
        st.just((faults, calls)),
        st.binary(min_size=size, max_size=size),
        st.integers(0, 3**faults - 1),
    )


_HEAD_BYTES = 2 * HEADER_BYTES + 1
"""Surroundings, swarm and the seed."""


def _decoded(sizes: tuple[int, int], blob: bytes, left_out: int) -> Plan:
    faults, calls = sizes
    numbers = _numbers(blob[_HEAD_BYTES:])
    kept: list[int] = []
    for number in numbers[:faults]:
        left_out, digit = divmod(left_out, 3)
        kept.append(0 if digit == 1 else number)
    # The last byte says whether a stall is there at all: mostly not.
    stalls = [number if number % 3 == 1 else 0 for number in numbers[faults + calls :]]
    surroundings, swarm = blob[:HEADER_BYTES], blob[HEADER_BYTES : 2 * HEADER_BYTES]
    return decode(
        int.from_bytes(surroundings),
        int.from_bytes(swarm),
        blob[2 * HEADER_BYTES],
        numbers[faults : faults + calls],
        kept,
        stalls,
    )


def _numbers(blob: bytes) -> list[int]:
    return [int.from_bytes(blob[start : start + ITEM_BYTES]) for start in range(0, len(blob), ITEM_BYTES)]


def random_plan(seed: int) -> Plan:
    """Return the plan of one seed: the volume mode's."""
    source = random.Random(seed)
    below = source.randrange
    filled = FILLED[below(len(FILLED))]
    return decode(
        below(HEADER),
        below(HEADER),
        below(256),
        [below(1, ITEM) for _ in range(CALLS)],
        [below(1, ITEM) for _ in range(filled)],
        [below(1, ITEM) if below(3) == 0 else 0 for _ in range(STALL_SLOTS)],
    )
