"""One worker, as a proxy knows it: its connection, and the calls that wait for room on it.

A link opens its connection when the first call needs it, probes an unreachable worker with a bounded
backoff, and says what is ready; where calls go is the proxy's business. States are few:

=============  ====================================================================================
CLOSED         no connection; opened by the first call, or by the probe if the worker is suspect
CONNECTING     the handshake is under way
OPEN           a session is up
REFUSED        a permanent refusal, by a worker that has proven itself: out of rotation until discovery
               announces it anew
=============  ====================================================================================

A worker that discovery knows by its address alone has a link too. Each handshake tells who is there, and the
proxy what to make of it: the link takes that worker's name, and another worker's when another answers. Nobody
will announce the successor of one that refuses, so it is asked again after ``address_retry_seconds``.
"""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Coroutine
from enum import Enum
from typing import Protocol

from wool.balancer import WorkerStatus
from wool.call import PlacedCall
from wool.connection import Connection, ConnectionOwner
from wool.discovery.base import WorkerFilter, WorkerMetadata
from wool.errors import RpcError, TransientRpcError
from wool.limits import Limits

_log = logging.getLogger("wool.proxy")


class LinkState(Enum):
    """Where the connection stands."""

    CLOSED = "closed"
    CONNECTING = "connecting"
    OPEN = "open"
    REFUSED = "refused"


class LinkOwner(ConnectionOwner, Protocol):
    """The proxy, as a link knows it."""

    def opened(self, link: Link) -> None: ...

    def unreachable(self, link: Link, reason: RpcError) -> None: ...

    def slow_to_connect(self, link: Link) -> None: ...

    def introduced(self, link: Link, metadata: WorkerMetadata) -> RpcError | None:
        """A worker that was known by its address has said who it is. Returned is why it is not used."""
        ...


class Link:
    """A worker in the view of a proxy."""

    __slots__ = (
        "_connect",
        "_limits",
        "_loop",
        "_owner",
        "_probe",
        "_task",
        "backoff",
        "connection",
        "draining",
        "dropped",
        "full",
        "full_until",
        "half_open",
        "lot",
        "parked",
        "place",
        "reason",
        "refuses",
        "same_as",
        "spare",
        "state",
        "status",
        "uid",
        "waiting",
        "wanted",
    )

    def __init__(
        self,
        *,
        metadata: WorkerMetadata,
        owner: LinkOwner,
        connect: Callable[[WorkerMetadata], Awaitable[Connection]],
        loop: asyncio.AbstractEventLoop,
        limits: Limits,
        wanted: WorkerFilter | None = None,
    ) -> None:
        self.uid: str = metadata.key
        """Of the worker; the address as long as no uid is known."""
        self.place: WorkerMetadata | None = None if metadata.uid else metadata
        """What discovery says of a worker that it knows by its address alone."""
        self.wanted: WorkerFilter | None = wanted
        """Whether a worker that is found there is one to use."""
        self.same_as: str = ""
        """The uid of a worker that answers here, but is in use at another address."""
        self.status: WorkerStatus = WorkerStatus(metadata)
        self.state: LinkState = LinkState.CLOSED
        self.connection: Connection | None = None
        self.waiting: OrderedDict[PlacedCall, None] = OrderedDict()
        """Calls bound to this worker that wait for the session or for room in its window."""
        self.draining: bool = False
        self.dropped: bool = False
        """Discovery has withdrawn it: no new call, but what was started goes on."""
        self.lot: bytes = b""
        """What it has drawn, where there are more workers than are used."""
        self.spare: bool = False
        """There are enough others: it keeps a session only as long as calls are on it."""
        self.reason: RpcError | None = None
        """Why it could not be used, the last time that it could not."""
        self.refuses: bool = False
        """It has refused for good, or was refused; asked again, it has not been found to be another one yet."""
        self.half_open: bool = False
        """It is suspect, its session has survived for a while, and one call may try whether it answers."""
        self.backoff: float = 0.0
        self.full: bool = False
        """It had no free place: an offer would wait."""
        self.full_until: float = 0.0
        """When that is not believed any more, unless some wait there."""
        self.parked: dict[PlacedCall, None] = {}
        """Calls whose offers wait there for a place, in order."""
        self._owner = owner
        self._connect = connect
        self._loop = loop
        self._limits = limits
        self._task: asyncio.Task[None] | None = None
        self._probe: asyncio.TimerHandle | None = None

    @property
    def name(self) -> str:
        """What a log calls it: the start of its uid, or the whole address as long as no uid is known."""
        return self.status.metadata.uid[:8] or self.status.metadata.address

    @property
    def usable(self) -> bool:
        """Whether new calls may be bound to it."""
        return not (self.dropped or self.draining or self.refuses)

    def filled(self) -> None:
        """It has no free place. Others may have them, so nothing need be heard of their end."""
        self.full = True
        self.full_until = self._loop.time() + self._limits.patience_seconds

    def park(self, call: PlacedCall) -> None:
        """The call's offer is going to wait here for a place."""
        call.parked = True
        self.parked[call] = None

    def unpark(self, call: PlacedCall) -> None:
        """It waits no more."""
        call.parked = False
        del self.parked[call]

    def ensure_connecting(self) -> None:
        """Open the connection, if there is none and none is being opened."""
        if self.state is LinkState.CLOSED and not self.dropped:
            self.state = LinkState.CONNECTING
            self._stop_probing()
            self._task = self._loop.create_task(self._run(), name=f"wool link to worker {self.uid[:8]}")

    async def _run(self) -> None:
        patience = self._loop.call_later(self._limits.patience_seconds, self._owner.slow_to_connect, self)
        try:
            connection = await self._connect(self.place or self.status.metadata)
            if self.place is not None and (why := self._owner.introduced(self, connection.metadata)) is not None:
                await connection.decline(str(why))
                raise why
        except RpcError as reason:
            self._failed(reason)
            return
        except Exception as error:
            _log.exception("worker %s cannot be connected to", self.name)
            unknown = TransientRpcError(f"{self.status.metadata.address}: {type(error).__name__}: {error}")
            unknown.__cause__ = error
            self._failed(unknown)
            return
        finally:
            patience.cancel()
        self.state = LinkState.OPEN
        self.refuses = False
        self.connection = connection
        self.backoff = 0.0
        self.status.suspect = False
        self._owner.opened(self)
        # Its end comes as `lost`, where the proxy sets the state: calls may be bound again at once.
        await connection.run(self._owner)

    def _failed(self, reason: RpcError) -> None:
        self.reason = reason
        self._task = None
        if isinstance(reason, TransientRpcError):
            self.state = LinkState.CLOSED
            self.probe_later()
        else:
            self.state = LinkState.REFUSED
            self.refuses = True
            if self.place is not None and not self.dropped:
                self._probe = self._loop.call_later(self._limits.address_retry_seconds, self.ask_again)
        self._owner.unreachable(self, reason)

    def probe_later(self) -> None:
        """Mark the worker suspect and try it again, by itself, after the backoff."""
        self.status.suspect = True
        if self.state is LinkState.CLOSED and self._probe is None and not self.dropped:
            limits = self._limits
            self.backoff = min(max(2 * self.backoff, limits.reconnect_first_seconds), limits.reconnect_most_seconds)
            self._probe = self._loop.call_later(self.backoff, self._probe_now)

    def suspect_open(self) -> None:
        """Mark the worker suspect although its session is open; after a while one call may try it again.

        Not earlier than ``reconnect_most_seconds``: by then a frozen one's session has mostly been lost.
        """
        self.status.suspect = True
        self.half_open_later()

    def half_open_later(self) -> None:
        """Let no call try the suspect now, and one after a while, if nothing is heard until then.

        Also where a call is about to: it may be too large, or be cancelled, before it has offered anything.
        """
        self.half_open = False
        if self.state is LinkState.OPEN and self._probe is None and not self.dropped:
            self._probe = self._loop.call_later(self._limits.reconnect_most_seconds, self._half_open_now)

    def heard(self) -> None:
        """It has said something: it is suspect no more."""
        self.status.suspect = self.half_open = False
        self.reason = None
        self._stop_probing()

    def lost(self, reason: RpcError) -> None:
        """The session is gone; the next one is opened by a call, or by the probe."""
        self.reason = reason
        self.state = LinkState.CLOSED
        self.connection = None
        self.draining = self.half_open = self.full = False
        self._stop_probing()

    def _half_open_now(self) -> None:
        self._probe = None
        self.half_open = self.status.suspect

    def _stop_probing(self) -> None:
        if self._probe is not None:
            self._probe.cancel()
            self._probe = None

    def ask_again(self) -> None:
        """Ask again who is at the address, after a refusal."""
        if self.state is LinkState.REFUSED and not self.dropped:
            self.same_as = ""
            self.status.suspect = True
            self.state = LinkState.CLOSED
            self.ensure_connecting()

    def _probe_now(self) -> None:
        self._probe = None
        self.ensure_connecting()

    async def close(self, reason: str) -> None:
        """End the session after what is queued, bounded; give up what is being opened."""
        self.dropped = True
        self._stop_probing()
        await self._end(self._task, self.connection, reason)

    def rest(self, reason: str) -> Coroutine[None, None, None]:
        """Be without a session until a call needs one; return what ends the one that there is, as `close` does."""
        ending = self._end(self._task, self.connection, reason)
        self.state, self.connection, self._task = LinkState.CLOSED, None, None
        self._stop_probing()
        return ending

    async def _end(self, task: asyncio.Task[None] | None, connection: Connection | None, reason: str) -> None:
        if task is None:
            return
        if connection is not None:
            connection.session.finish(reason)
            await asyncio.wait([task], timeout=self._limits.handshake_seconds)
        if not task.done():
            task.cancel()
            await asyncio.wait([task])
