"""How fast the simulator itself is, measured where it runs: for the table at the end of a campaign.

What a plan takes is measured by the campaign. Here is what that leaves out: a callback of the loop, and a
cluster in which nothing happens but heartbeats.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

from wool.sim.loop import World
from wool.sim.plan import Call, Knobs, Plan, Topology
from wool.sim.run import execute

CALLBACKS = 50_000
QUIET_SECONDS = 10 * 3600.0
HEARTBEAT_SECONDS = 5.0
"""Between two looks at discovery in the quiet time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Speed:
    """What was measured, in processor time of this process."""

    callback_seconds: float
    """Of one callback that does nothing, from `call_soon` to its end."""
    idle_rate: float
    """Simulated seconds a second, with an open pool and nothing to do."""


def measure() -> Speed:
    """Measure both; takes a fraction of a second."""
    return Speed(callback_seconds=_callback_seconds(), idle_rate=_idle_rate())


def _callback_seconds() -> float:
    world = World()
    left = CALLBACKS

    def again() -> None:
        nonlocal left
        left -= 1
        if left:
            world.loop.call_soon(again)

    world.loop.call_soon(again)
    began = time.process_time()
    world.run(lambda: not left, most_seconds=QUIET_SECONDS)
    took = time.process_time() - began
    world.dismantle()
    return took / CALLBACKS


def _idle_rate() -> float:
    # A call before, so that the sessions are open, and one after.
    calls = tuple(Call(ordinal=number, at=at) for number, at in enumerate((0.1, QUIET_SECONDS)))
    knobs = Knobs(poll=HEARTBEAT_SECONDS, lease=2 * HEARTBEAT_SECONDS)
    quiet = Plan(topology=Topology(workers=3), calls=calls, knobs=knobs)
    began = time.process_time()
    simulated = execute(quiet).seconds
    return simulated / (time.process_time() - began)
