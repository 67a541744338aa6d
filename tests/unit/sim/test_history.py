"""A history: what was added is there, in order, with a digest that any interpreter makes the same."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from support.simulated import cluster, one_call
from wool.sim.history import Event, History, first_difference

MAKE = """
from wool.sim.history import History
history = History()
history.add(0.1 + 0.2, "w1#0", "wire.said", "c0.1", "c0#0>w1#0/2:17", (("frame", "offer"), ("sizes", (1, None, True))))
print(history.digest())
"""


def test_an_event_says_what_it_was_given() -> None:
    history = History()
    history.add(0.5, "w1#0", "wire.said", "c0.1", "c0#0>w1#0/2:17", (("frame", "offer"), ("size", 3)))
    (event,) = history
    assert isinstance(event, Event)
    assert (event.get("frame"), event.get("size"), event.get("other", 7)) == ("offer", 3, 7)
    assert event.session == "c0#0>w1#0/2"
    assert "wire.said c0.1" in str(event)
    assert history.of("wire.said") == [event] == history.events


def test_a_history_comes_back_from_lines_as_it_was() -> None:
    history = one_call(cluster("w0#0")).history
    history.add(9.0, "w0#0", "place.bound", "c0.1", "", (("worker", "w0#0"), ("candidates", ("w0#0", "w1#0"))))
    again = History.from_lines(history.to_lines())
    assert again.events == history.events
    assert again.digest() == history.digest()
    assert first_difference(again, history) is None


def test_the_first_difference_is_named() -> None:
    one, other = (one_call(cluster("w0#0")).history for _ in range(2))
    other.events[5] = other.events[5]._replace(at=77.0)
    difference = first_difference(one, other)
    assert difference is not None and difference.number == 5
    assert "77.0" in str(difference)
    assert one.digest() != other.digest()
    longer = History([*one.events, one.events[-1]])
    difference = first_difference(one, longer)
    assert difference is not None and (difference.number, difference.one) == (len(one), None)


def test_the_digest_is_the_same_whatever_the_hash_seed() -> None:
    digests = set()
    for seed in ("0", "1", "4242"):
        made = subprocess.run(
            [sys.executable, "-c", MAKE],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        )
        digests.add(made.stdout)
    assert len(digests) == 1


@pytest.mark.parametrize(
    ("event", "words"),
    [
        (Event(1.0, "c0#0", "call.mode"), "no such kind"),
        (Event(1.0, "c0#0", "call.ended", "c0.0", "", (("outcome", "good"),)), "no such outcome"),
        (Event(0.0, "c0#0", "node.up"), "runs backward"),
    ],
)
def test_what_no_history_may_hold_is_found(event: Event, words: str) -> None:
    history = History([Event(0.5, "c0#0", "node.up"), event])
    with pytest.raises(ValueError, match=words):
        history.validate()
