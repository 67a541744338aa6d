"""What waits for the application's word on whether this worker takes a task.

Why it exists: whether there is room may depend on what only the application knows: a model that is not loaded, a device
that is taken, a caller that has used up its share. A hook that says no sends the task elsewhere, before anything of it
has begun.

What it owns: what a hook is told of an offer, and which offers wait for its word. It lives on the I/O loop and never
awaits; the hook is user code, and runs on the routine loop (`wool.worker.examiner`). It must never unpickle anything of
a task: what a hook is told is what stands outside.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from wool.definition import routine_name
from wool.protocol.frames import RejectCode

if TYPE_CHECKING:
    from wool.worker.job import Lobby, Served


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskOffer:
    """A task that a worker may take, as its admission hook is told of it. Nothing of it was unpickled."""

    task: str
    """The task's id, as in logs and events."""
    caller: str
    """The uid of the process that offers it; callers choose their own."""
    routine: str | None
    """``module:qualname`` of the routine; None if its code travels along, as that of ``__main__`` does."""
    payload_bytes: int
    """Size of the pickled arguments, and of the code if it comes with them."""
    in_flight: int
    """Tasks that this worker was offered before, did not reject, and that have not ended."""


def let_in(lobby: Lobby, served: Served) -> None:
    """Accept what was offered: there is room for all."""
    lobby.admit(served)


class Admission:
    """Has each offer wait for the hook's word, and sends it on, or away.

    A hook that is slow is told of as many offers as callers' windows hold. One that does not answer in time loses the
    offer: its caller withdraws it after its patience, and goes elsewhere.
    """

    def __init__(
        self,
        *,
        examine: Callable[[Served, TaskOffer], None],
        forget: Callable[[Served], None],
        onward: Callable[[Lobby, Served], None],
        complain: Callable[..., object],
    ) -> None:
        self._examine = examine
        self._forget = forget
        self._onward = onward
        self._complain = complain
        self._asked: dict[Served, Lobby] = {}
        self._unstarted: set[Served] = set()
        """Those that wait for its word, and those that were taken and have still to be started."""

    @property
    def waiting(self) -> int:
        """Offers that wait for the hook's word."""
        return len(self._asked)

    def arrive(self, lobby: Lobby, served: Served, *, started: int) -> None:
        """An offer is complete; so many tasks were started and have not ended."""
        offer = served.offer
        self._asked[served] = lobby
        told = TaskOffer(
            task=offer.task.hex(),
            caller=lobby.caller.uid,
            routine=routine_name(served.definition),
            payload_bytes=served.size,
            in_flight=started + len(self._unstarted),
        )
        self._unstarted.add(served)
        self._examine(served, told)

    def leave(self, served: Served) -> None:
        """What was offered has been started, withdrawn, lost with its session, or rejected."""
        self._unstarted.discard(served)
        if self._asked.pop(served, None) is not None:
            self._forget(served)

    def answered(self, served: Served, reason: str | None, fault: str = "") -> None:
        """The hook takes what was offered, or says why not, or failed; posted by the `Examiner`."""
        lobby = self._asked.pop(served, None)
        if lobby is None:
            return
        if fault:
            self._complain("the admission hook failed, and a task was rejected: %s", fault)
        if reason is None:
            self._onward(lobby, served)
        else:
            lobby.refuse(served, RejectCode.ADMISSION, reason)

    def close(self, code: RejectCode, reason: str) -> None:
        """Reject all that wait."""
        asked, self._asked = self._asked, {}
        for served, lobby in asked.items():
            self._forget(served)
            lobby.refuse(served, code, reason)
