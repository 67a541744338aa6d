"""What a worker does about signals that are not meant for it. Imports nothing, since it is needed first."""

from __future__ import annotations


def ignore_interrupt(number: int, frame: object) -> None:
    """Handle SIGINT, which is the owner's business, by doing nothing.

    A handler, since a signal that is ignored would stay so in the programs that routines execute.
    """
