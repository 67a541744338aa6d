"""Where the numbers of a plan come from: Hypothesis, or a plain generator of random numbers.

`wool.sim.shapes` makes the plan. Nothing else is decided here than how many items there are and which
numbers they get.
"""

from __future__ import annotations

import random

from hypothesis import strategies as st

from wool.sim.plan import Plan
from wool.sim.shapes import CALLS, FAULT_SLOTS, HEADER, ITEM, ITEM_BYTES, STALL_SLOTS, decode

FILLED = (0, 1, 1, 1, 2, 2, 2, 3, 3, 4, 5)
"""How many faults the volume mode makes."""


def plans(*, calls: int = CALLS, faults: int = FAULT_SLOTS, stalls: int = STALL_SLOTS) -> st.SearchStrategy[Plan]:
    """Return a strategy of plans with at most so many items.

    Each item is one number in a slot of its own: what is shrunk to 0 is gone, and nothing else is renamed.
    The numbers of all calls and stalls are one draw. Not two: Hypothesis tries one draw's bytes in place of
    another's, and where they are too few it takes zeros, which are no calls at all.
    """
    size = (calls + stalls) * ITEM_BYTES
    return st.builds(
        _decoded,
        st.integers(0, HEADER - 1),
        st.integers(0, HEADER - 1),
        st.integers(0, 255),
        st.just(calls),
        st.binary(min_size=size, max_size=size),
        st.tuples(*[st.integers(0, ITEM - 1)] * faults),
        st.integers(0, 3**faults - 1),
    )


def _decoded(
    surroundings: int, swarm: int, seed: int, calls: int, items: bytes, faults: tuple[int, ...], left_out: int
) -> Plan:
    kept: list[int] = []
    for number in faults:
        left_out, digit = divmod(left_out, 3)
        kept.append(0 if digit == 1 else number)
    # The last byte says whether a stall is there at all: mostly not.
    numbers = _numbers(items)
    stalls = [number if number % 3 == 1 else 0 for number in numbers[calls:]]
    return decode(surroundings, swarm, seed, numbers[:calls], kept, stalls)


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
