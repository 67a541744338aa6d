"""What a worker has done and how it is: one record, for whoever asks.

Why it exists: `wool ps`, `wool top` and Prometheus show the same figures, whichever way they came. A worker makes the
record in one place (`wool.worker.service`); it travels with the welcome of a session and on the control channel.

It must never import what is slow to import: a worker process reads it first.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Statistics:
    """What a worker has done since it began, and how it is now.

    Every task that was started is in exactly one of ``in_flight``, ``done``, ``failed``, ``cancelled`` and ``lost``.
    """

    in_flight: int
    """Tasks that were started, whose end was not said yet, and whose caller is still there."""
    accepted: int
    """Offers that were accepted. Some are withdrawn before they are started, and are in no other count."""
    rejected: int
    """Offers that were refused: they go elsewhere, or come again with their definition."""
    done: int
    """Tasks that returned, or whose generator came to its end or was closed."""
    failed: int
    """Tasks that raised, could not be loaded, or whose result could not be sent."""
    cancelled: int
    """Tasks that their caller has cancelled, or an operator has cut short, and whose end was said."""
    lost: int
    """Tasks whose caller has gone before their end was said. The body is cancelled then, and nobody hears how it ends;
    the caller, if it lives, has `WorkerLost`."""
    loop_lag_microseconds: int
    """How late the loop that runs the bodies has run what was due, at worst within the last minute (at least the last
    half), or runs it now. Looked at while there are bodies: without any it is 0 after a minute."""
    memory_bytes: int
    """What the process holds: resident, and where the system does not tell, the most that it ever was."""
    sessions: int
    """Callers that are connected."""
    up_milliseconds: int
    """Since the worker began."""
    draining: bool
    """It takes no more tasks."""
