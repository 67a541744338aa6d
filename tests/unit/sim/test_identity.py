"""An object that one process has made is known when another one sees it, and a copy of it is not."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest

from support.plans import QUICK, nodes, played, returns, step, yields
from wool.errors import RemoteError
from wool.sim.bodies import Body
from wool.sim.identity import Made
from wool.sim.plan import Call, Plan, Topology


def caused(error: Exception) -> RemoteError:
    stand_in = RemoteError("it stands in")
    stand_in.__cause__ = error
    return stand_in


@pytest.mark.parametrize("what", [("w0#0/1", 7), bytes(20), ValueError("of the body", 3), ("w0#0/1", bytes(20))])
def test_the_very_object_is_known_elsewhere_and_a_copy_is_not(what: Any) -> None:
    made = Made()
    made.keep("w0#0", what)
    assert made.elsewhere("c0#0", what) == "w0#0"
    assert made.elsewhere("w0#0", what) is None
    assert made.elsewhere("c0#0", pickle.loads(pickle.dumps(what))) is None


def test_an_exception_is_known_in_what_stands_in_for_it_too() -> None:
    made, error = Made(), ValueError("of the body", 3)
    made.keep("w0#0", error)
    assert made.elsewhere("c0#0", caused(error)) == "w0#0"
    assert made.elsewhere("c0#0", caused(copy.copy(ValueError("of the body", 4)))) is None


@pytest.mark.parametrize("what", [7, "a", b"", b"a", (), None])
def test_what_all_processes_share_is_nobodys(what: object) -> None:
    made = Made()
    made.keep("w0#0", what)
    assert made.elsewhere("c0#0", what) is None


def test_nothing_that_bodies_return_yield_or_raise_is_seen_by_their_callers_but_copies() -> None:
    raises = Body(steps=(step("raise", text="custom", number=3),))
    large = Body(generator=True, steps=(step("yield", size=300), step("yield", size=30_000)))
    nested = Body(steps=(step("call", number=1, body=large), step("call", number=2, body=raises)))
    bodies = (returns(7), yields(1, 2), raises, large, nested, Body(steps=(step("return", size=30_000),)))
    calls = tuple(Call(ordinal=ordinal, at=0.3, body=body) for ordinal, body in enumerate(bodies))
    history = played(Plan(topology=Topology(workers=2), knobs=QUICK, calls=calls))
    assert nodes(history, "identity.crossed") == []
    assert len(history.of("body.began")) > len(bodies)
