"""How long what has changed takes to get about, by kind of discovery: what a run waits for, and what is judged after.

It owns the sums, so that whoever waits and whoever judges wait alike. It must never look at a history.
"""

from __future__ import annotations

from wool.sim.plan import Plan


def quiet_seconds(plan: Plan) -> float:
    """Return T: once nothing changes any more, and nothing strikes, every caller knows how it is after so long.

    A publisher that died is noticed by lease, everything else by polling. By multicast DNS, what vanished without a
    word is gone when its time is over, and what a lie has hidden is there again when everybody is asked. What a name
    server said holds for its time, and one attempt to ask may fail.
    """
    knobs, limits = plan.knobs, plan.knobs.limits()
    match plan.topology.discovery:
        case "lan":
            return knobs.ttl + limits.lan_browse_seconds + 2 * limits.lan_retry_most_seconds + 0.5
        case "dns":
            return knobs.ttl + limits.lookup_seconds + limits.lookup_retry_most_seconds + 0.5
        case "static":
            looked_up = knobs.ttl + limits.lookup_seconds + limits.lookup_retry_most_seconds
            return 0.5 + (looked_up if plan.topology.named else 0.0)
        case _:
            return 2 * knobs.lease + 4 * knobs.poll + 0.5


def reunion_seconds(plan: Plan) -> float:
    """Return after how long a worker that can be reached again is, and a place of a lease has been given up for it."""
    knobs = plan.knobs
    attempts = 2 + int(knobs.reconnect_most / knobs.reconnect_first).bit_length()
    return attempts * (knobs.reconnect_most + knobs.handshake) + knobs.limits().address_retry_seconds


def retry_seconds(plan: Plan) -> float:
    """Return after how long a worker that can be reached again has been tried, whatever it had answered before."""
    knobs = plan.knobs
    return knobs.reconnect_most + knobs.handshake + knobs.limits().address_retry_seconds


def settling_seconds(plan: Plan) -> float:
    """Return for how long after the healing a worker that is back may still not be known, or not be tried."""
    knobs, topology = plan.knobs, plan.topology
    if topology.discovery == "local":
        settling = knobs.poll + knobs.lease + knobs.reconnect_most + knobs.handshake
    else:
        settling = quiet_seconds(plan) + knobs.reconnect_most + knobs.handshake
    if topology.lease:
        settling += reunion_seconds(plan)
    return settling


def known_seconds(plan: Plan) -> float:
    """Return after how long, where nothing goes wrong, every caller knows of a worker that has come up."""
    knobs = plan.knobs
    late = 10 * knobs.latency + 4 * plan.noise.amplitude
    match plan.topology.discovery:
        case "lan":
            return 0.1 + late
        case "dns":
            return knobs.ttl + 0.1 + late
        case "static":
            return knobs.reconnect_most + (knobs.ttl if plan.topology.named else 0.0) + 0.1 + late
        case _:
            return 2 * knobs.poll + 0.1 + late
