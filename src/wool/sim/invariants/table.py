"""All invariants, and the one function that asks them.

An invariant must never raise a false alarm: where a history cannot tell a broken promise from a run that was
cut off, it says nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TypeAlias

from wool.sim.history import History
from wool.sim.invariants import (
    balancing,
    cancellation,
    discovery,
    exits,
    finding,
    generators,
    room,
    safety,
    telling,
    variables,
)
from wool.sim.invariants.story import Story, Violation
from wool.sim.plan import Plan

Invariant: TypeAlias = Callable[[Story], Iterator[Violation]]

INVARIANTS: dict[str, Invariant] = {
    function.__name__: function
    for module in (safety, cancellation, generators, balancing, room, discovery, finding, telling, variables, exits)
    for function in module.INVARIANTS
}


def letter_of(name: str) -> str:
    """Return the name that simulation and docs have for an invariant: the first word of its docstring."""
    return (INVARIANTS[name].__doc__ or "").partition(":")[0]


def formula_of(name: str) -> str:
    """Return the formula of an invariant, the first line of its docstring."""
    return (INVARIANTS[name].__doc__ or "").strip().partition("\n")[0]


def judge(history: History, plan: Plan) -> list[Violation]:
    """Return what the run has broken; the most basic first."""
    return judge_story(Story(history, plan))


def judge_story(story: Story) -> list[Violation]:
    """Return what a run that is in order already has broken."""
    return [violation for invariant in INVARIANTS.values() for violation in invariant(story)]
