"""The network between simulated processes: latency, and all that HTTP/2 underneath allows to go wrong.

Why it exists: the production memory transport brings everything at once and loses nothing. This one brings
each item after a time, on the receiving end's own loop, and breaks what the plan says.

What it owns: what is on its way, and the state of every link, which is the pair of a calling and a serving
process by label (``c0>w1``), over all their incarnations and streams. Inside a stream order is kept and
nothing is lost by itself or doubled: a stream breaks, and each direction has delivered a prefix.

What it must never do: an impossible thing. What is told to a dead process goes nowhere, and what a dead
process says is not said.
"""

from __future__ import annotations

import asyncio
import ipaddress
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeAlias, cast

from wool.credentials import WorkerCredentials
from wool.limits import Limits
from wool.protocol import frames
from wool.protocol.codec import decode, encode
from wool.sim.kinds import ANY
from wool.sim.loop import LoopOwner, SimLoop, World
from wool.transport.base import ConnectFailed, ConnectRefused
from wool.transport.memory import Broken, Ended, Item, MemoryListener, MemoryNetwork, MemoryStream, Taken

if TYPE_CHECKING:
    from wool.protocol.frames import Frame

FRAME_NAMES: dict[type, str] = {
    frames.Offer: "offer",
    frames.Start: "start",
    frames.Withdraw: "withdraw",
    frames.Cancel: "cancel",
    frames.Step: "step",
    frames.Accept: "accept",
    frames.Reject: "reject",
    frames.Result: "result",
    frames.Draining: "draining",
    frames.Goodbye: "goodbye",
}
"""The frames that plans and histories know; chunks and credits are not among them."""

HANDSHAKE_MESSAGES = 2
"""Of each direction, before the first frame."""

GIVEN_UP = "the connecting side has given up"

AFTER_ARRIVAL_SECONDS = 50e-6
"""Whoever is struck after a frame has reached it has had so long to read it."""


SUBNET = ipaddress.ip_network("10.0.0.0/16")
"""Of the simulated hosts, each process its own."""
PORT = 7000


def address_of(label: str, ports: int = 0) -> str:
    """Return where the process with this label listens, in all its incarnations: ``ports`` places further."""
    return f"unix:/{label}" + (f".{ports}" if ports else "")


def number_of(label: str) -> int:
    """Return the number of a label, ghosts' and callers' too."""
    return int(label.rpartition("-")[2][1:])


_MOVED = 9
"""The third number of an address is above this where a worker's host has moved: so many times."""


def net_address_of(label: str, ports: int = 0, moves: int = 0) -> str:
    """Return the same where it listens on a network; a host that has moved has another address."""
    kind = "w" if label.startswith("w") else "c" if label.startswith("c") else "g"
    place = _MOVED + moves if moves else "wcg".index(kind)
    return f"10.0.{place}.{number_of(label) + 1}:{PORT + ports}"


def label_at(address: str) -> str:
    """Return whose address it is."""
    if address.startswith("unix:/"):
        return address.removeprefix("unix:/").partition(".")[0]
    _, _, kind, number = address.partition(":")[0].split(".")
    prefix = "w" if int(kind) > _MOVED else ("w", "c", "ghost-w")[int(kind)] if kind in "012" else "x"
    return f"{prefix}{int(number) - 1}"


class Watch:
    """Strikes when a certain frame passes: the ``ordinal``-th of its kind over the link, from 0."""

    def __init__(self, *, target: str, frame: str, ordinal: int, strike: Callable[[Wire, bool, bool], None]) -> None:
        self.target = target
        """A link or a node."""
        self.frame = frame
        self.ordinal = ordinal
        self.before = True
        self.strike = strike
        """Told the stream, whether the frame goes to the worker, and whether the target says it."""
        self.fired = False

    def concerns(self, link: Link) -> bool:
        """Whether the frames of ``link`` are meant."""
        return self.target in (link.name, link.caller, link.worker)


class Link:
    """What lies between two processes, the calling one first."""

    def __init__(self, name: str, latency: float) -> None:
        self.name = name
        caller, _, worker = name.partition(">")
        self.caller: str = caller
        self.worker: str = worker
        self.latency = latency
        self.refused = 0
        self.swallowed = 0
        self.blocked: list[int] = [0, 0]
        """How many faults hold up what goes to the worker, and what goes back."""
        self.watches: list[Watch] = []
        self.counts: dict[str, int] = {}
        self.wires: dict[Wire, None] = {}
        self.messages = 0

    def blocks(self, to_worker: bool) -> bool:
        """Whether nothing passes in this direction."""
        return self.blocked[0 if to_worker else 1] > 0


class Direction:
    """What one end of a stream has told the other, and has not arrived."""

    __slots__ = ("due", "held_until", "loop", "messages", "reads", "target", "to_worker", "unread", "waiting", "wire")

    def __init__(self, wire: Wire, target: SimStream, loop: SimLoop, *, to_worker: bool) -> None:
        self.wire: Wire = wire
        self.target: SimStream = target
        self.loop: SimLoop = loop
        self.to_worker: bool = to_worker
        self.due: float = 0.0
        self.held_until: float = 0.0
        self.messages: int = 0
        self.reads: int = 0
        """Messages that this end has read, of what comes the other way."""
        self.unread: int = 0
        self.waiting: deque[Item] = deque()
        """What a blocked link holds up."""


class Wire:
    """A stream, seen from outside: its name ``c0#0>w1#0/2``, and its two directions."""

    __slots__ = ("answered", "attempts", "back", "broken", "caller", "ended", "link", "name", "silent", "to", "worker")

    def __init__(self, name: str, link: Link, caller: LoopOwner, worker: LoopOwner) -> None:
        self.name: str = name
        self.link: Link = link
        self.caller: LoopOwner = caller
        self.worker: LoopOwner = worker
        self.broken: bool = False
        self.silent: bool = False
        """What is said over it goes nowhere."""
        self.answered: bool = False
        """The connecting side has its end, and has to close it."""
        self.ended: int = 0
        """How many of its ends are closed or broken."""
        self.attempts: dict[int, tuple[str, str]] = {}
        """By the number of an offer the label of the task that it is for, and what histories call it."""
        self.to: Direction
        self.back: Direction


class SimStream(MemoryStream):
    """One end of a stream; knows what it is an end of."""

    wire: Wire
    owner: LoopOwner
    outward: Direction

    @property
    def over(self) -> bool:
        """Whether this end is closed or broken."""
        return self._lost is not None


Meeting: TypeAlias = "Callable[[Wire, WorkerCredentials | None, WorkerCredentials | None, str, float], str | None]"
"""Told a stream, what its ends show, the address, and since when the calling end shows it: why one refuses, if so."""


class SimNetwork(MemoryNetwork):
    """All links of a cluster."""

    def __init__(
        self,
        world: World,
        *,
        latency: float,
        ping_timeout: float,
        jitter: Callable[[str, int], float] | None = None,
    ) -> None:
        super().__init__()
        self.world = world
        self.links: dict[str, Link] = {}
        self.watches: list[Watch] = []
        self.meet: Meeting | None = None
        """Whether the two ends of a stream take each other; without, there is nothing to take."""
        self.shown: Callable[[LoopOwner], WorkerCredentials | None] = lambda owner: None
        """What a process shows of itself now."""
        self.relays: dict[str, str] = {}
        """Addresses at which somebody passes on what comes there, and to which."""
        self.relayed: Callable[[Wire, str], None] = lambda wire, address: None
        """Told of each stream that goes over one of these."""
        self._latency = latency
        self._ping_timeout = ping_timeout
        self._jitter = jitter
        self._loops: dict[str, SimLoop] = {}
        self._ordinals: dict[str, int] = {}
        self._epochs: dict[str, int] = {}

    def link(self, name: str) -> Link:
        """Return the link of this name."""
        link = self.links.get(name)
        if link is None:
            link = self.links[name] = Link(name, self._latency)
            link.watches = [watch for watch in self.watches if watch.concerns(link)]
        return link

    # ---- addresses ----

    def register(self, listener: MemoryListener, address: str) -> str:
        """See `MemoryNetwork.register`."""
        loop = cast("SimLoop", asyncio.get_running_loop())
        assert loop.owner is not None
        if not loop.owner.seam():
            return address
        address = super().register(listener, address)
        self._loops[address] = loop
        return address

    def unregister(self, address: str) -> None:
        """See `MemoryNetwork.unregister`."""
        loop = asyncio._get_running_loop()
        if isinstance(loop, SimLoop) and (loop.owner is None or not loop.owner.seam()):
            return
        super().unregister(address)
        self._loops.pop(address, None)

    # ---- connecting ----

    async def open(self, address: str, limits: Limits) -> MemoryStream:
        """See `MemoryNetwork.open`: it takes a round trip, or for ever."""
        loop = cast("SimLoop", asyncio.get_running_loop())
        owner = loop.owner
        assert owner is not None
        answered: asyncio.Future[MemoryStream] = loop.create_future()
        if owner.seam():
            link = self.link(f"{owner.label}>{label_at(address)}")
            if not (link.swallowed or link.blocks(True)):
                arrive = loop.time() + self._delay(link)
                # What it shows it has read now, whatever it may be renewed to while this is under way.
                shown = None if self.meet is None else (self.shown(owner), loop.time())
                self.world.loop.call_at(arrive, self._arrived, link, address, limits, loop, owner, answered, shown)
        try:
            return await answered
        except asyncio.CancelledError:
            if answered.done() and not answered.cancelled() and answered.exception() is None:
                # The answer came in the same instant, and nobody will have the stream.
                answered.result().abort(GIVEN_UP)
            raise

    def _arrived(
        self,
        link: Link,
        address: str,
        limits: Limits,
        loop: SimLoop,
        owner: LoopOwner,
        answered: asyncio.Future[MemoryStream],
        shown: tuple[WorkerCredentials | None, float] | None,
    ) -> None:
        listener = self._listeners.get(self.relays.get(address, address))
        if listener is None or link.refused:
            why = f"nobody listens at {address}" if listener is None else f"{address} refuses"
            self._answer(link, loop, _settle, answered, ConnectFailed(why))
            return
        there = self._loops[self.relays.get(address, address)]
        there.call_soon(self._accept, link, address, listener, limits, loop, owner, answered, shown)

    def _accept(
        self,
        link: Link,
        address: str,
        listener: MemoryListener,
        limits: Limits,
        loop: SimLoop,
        owner: LoopOwner,
        answered: asyncio.Future[MemoryStream],
        shown: tuple[WorkerCredentials | None, float] | None,
    ) -> None:
        there = cast("SimLoop", asyncio.get_running_loop())
        worker = there.owner
        assert worker is not None
        if self._listeners.get(self.relays.get(address, address)) is not listener:
            self._answer(link, loop, _settle, answered, ConnectFailed(f"{address} was closed"))
            return
        pair = f"{owner.name}>{worker.name}"
        ordinal = self._ordinals[pair] = self._ordinals.get(pair, 0) + 1
        name = f"{pair}/{ordinal}"
        wire = Wire(name, link, owner, worker)
        if self.meet is not None and shown is not None:
            mine, since = shown
            why = self.meet(wire, mine, self.shown(worker), address, since)
            if why is not None:
                refused = ConnectRefused(f"cannot connect to {address}: {why}")
                self._answer(link, loop, _settle, answered, refused)
                return
        if address in self.relays:
            self.relayed(wire, address)
        near = SimStream(self, f"{name} near", limits)
        far = SimStream(self, f"{name} far", listener.limits)
        near.peer, far.peer = far, near
        near.wire = far.wire = wire
        near.owner, far.owner = owner, worker
        near.outward = wire.to = Direction(wire, far, there, to_worker=True)
        far.outward = wire.back = Direction(wire, near, loop, to_worker=False)
        link.wires[wire] = None
        if owner.dead:
            # It died while this was under way: its kernel answers with a reset.
            self.break_(wire, "the caller has gone")
        if link.blocks(False):
            # Nobody will have the near end: the answer does not come through, which pings of the far end find out.
            near.arrive(Broken(reason="the connection did not come about"))
            self.silence(wire)
        listener.accept(far)
        self._answer(link, loop, _settle, answered, near)

    def _answer(self, link: Link, loop: SimLoop, tell: Callable[..., None], *arguments: object) -> None:
        if not link.blocks(False):
            loop.call_at(self.world.now + self._delay(link), tell, *arguments)

    # ---- carrying ----

    def carry(self, source: MemoryStream, item: Item) -> None:
        """See `MemoryNetwork.carry`: the item arrives later, in order."""
        if TYPE_CHECKING:
            assert isinstance(source, SimStream)
        wire, direction = source.wire, source.outward
        if not source.owner.seam():
            return
        if type(item) is bytes:
            if wire.broken:
                return
            if wire.link.watches:
                self._watch(direction, source, item)
                return
        elif wire.broken:
            self._end(wire)
            return
        else:
            self._end(wire)
        self._send(direction, item)

    def taken(self, source: MemoryStream, size: int) -> None:
        """See `MemoryNetwork.taken`. As HTTP/2 does: the window is opened again by a quarter, not by every read."""
        if TYPE_CHECKING:
            assert isinstance(source, SimStream)
        if not source.owner.seam():
            return
        direction = source.outward
        direction.reads += 1
        direction.unread += size
        if 4 * direction.unread >= source.buffer_bytes:
            opened, direction.unread = Taken(direction.unread), 0
            self._send(direction, opened)

    def _end(self, wire: Wire) -> None:
        wire.ended += 1
        if wire.ended >= 2:
            wire.link.wires.pop(wire, None)

    def _send(self, direction: Direction, item: Item) -> None:
        wire = direction.wire
        if wire.silent:
            return
        link = wire.link
        if link.blocked[0 if direction.to_worker else 1]:
            direction.waiting.append(item)
            return
        world = self.world
        running = world.current
        now = world.now if running is None else world.now + running.lead
        due = now + (link.latency if self._jitter is None else self._delay(link))
        # Behind what went before.
        if due < direction.due:
            due = direction.due
        if due < direction.held_until:
            due = direction.held_until
        direction.due = due
        direction.loop.call_at(due, direction.target.arrive, item)

    def _delay(self, link: Link) -> float:
        if self._jitter is None:
            return link.latency
        link.messages += 1
        return link.latency + self._jitter(link.name, link.messages)

    # ---- frames that the plan names ----

    def _watch(self, direction: Direction, source: SimStream, message: bytes) -> None:
        direction.messages += 1
        wire = direction.wire
        link = wire.link
        if direction.messages <= HANDSHAKE_MESSAGES:
            self._send(direction, message)
            return
        pending: list[Frame] = []
        whole = True
        for frame in decode(message):
            struck = self._struck(link, FRAME_NAMES.get(type(frame), ""))
            for watch in [watch for watch in struck if watch.before]:
                whole = False
                self._flush(direction, source, pending)
                watch.strike(wire, direction.to_worker, self._says(watch, wire, direction))
            pending.append(frame)
            for watch in [watch for watch in struck if not watch.before]:
                whole = False
                self._flush(direction, source, pending)
                watch.strike(wire, direction.to_worker, self._says(watch, wire, direction))
        if whole:
            self._send(direction, message)
        else:
            self._flush(direction, source, pending)

    @staticmethod
    def _says(watch: Watch, wire: Wire, direction: Direction) -> bool:
        return watch.target == (wire.caller if direction.to_worker else wire.worker).label

    @staticmethod
    def _struck(link: Link, name: str) -> list[Watch]:
        ordinals: dict[str, int] = {}
        for counted in (name, ANY):
            ordinals[counted] = link.counts.get(counted, 0)
            link.counts[counted] = ordinals[counted] + 1
        struck = [w for w in link.watches if not w.fired and ordinals.get(w.frame) == w.ordinal]
        for watch in struck:
            watch.fired = True
        return struck

    def _flush(self, direction: Direction, source: SimStream, pending: list[Frame]) -> None:
        if pending and not (source.owner.dead or direction.wire.broken):
            self._send(direction, encode(pending))
        pending.clear()

    # ---- what faults do ----

    def break_(self, wire: Wire, reason: str) -> None:
        """Break a stream: what is on its way still arrives, then both ends are reset."""
        if wire.broken:
            return
        wire.broken = True
        wire.link.wires.pop(wire, None)
        for direction in (wire.to, wire.back):
            direction.waiting.clear()
            # What is before it has arrived and been read.
            due = max(direction.due + AFTER_ARRIVAL_SECONDS, self.world.now + wire.link.latency)
            direction.due = due
            direction.loop.call_at(due, direction.target.arrive, Broken(reason=reason))

    def silence(self, wire: Wire) -> None:
        """What is said over this stream from now on goes nowhere, and nobody says so; pings find it out."""
        wire.silent = True
        self.world.loop.call_later(self._ping_timeout, self.break_, wire, "the peer does not answer pings")

    def block(self, link: Link, directions: str) -> None:
        """Let nothing pass; what is said waits. Longer than the ping timeout, and the streams break."""
        for index in _indices(directions):
            link.blocked[index] += 1
        wires = list(link.wires)
        self.world.loop.call_later(self._ping_timeout, self._pinged, link, directions, self._epoch(link), wires)

    def unblock(self, link: Link, directions: str) -> None:
        """Let pass again, first what has waited."""
        self._epochs[link.name] = self._epoch(link) + 1
        for index in _indices(directions):
            link.blocked[index] -= 1
        for wire in list(link.wires):
            for direction in (wire.to, wire.back):
                if not link.blocks(direction.to_worker):
                    waiting, direction.waiting = direction.waiting, deque()
                    for item in waiting:
                        self._send(direction, item)

    def _epoch(self, link: Link) -> int:
        return self._epochs.get(link.name, 0)

    def _pinged(self, link: Link, directions: str, epoch: int, wires: list[Wire]) -> None:
        if any(link.blocked[index] for index in _indices(directions)) and self._epoch(link) == epoch:
            for wire in wires:
                self.break_(wire, "the peer does not answer pings")

    def hold(self, wire: Wire, *, to_worker: bool, seconds: float) -> None:
        """What goes this way over the stream from now on comes ``seconds`` later."""
        direction = wire.to if to_worker else wire.back
        direction.held_until = max(direction.held_until, self.world.now + seconds)

    def forget(self, owner: LoopOwner, *, silent: bool, reason: str) -> None:
        """A process is gone: its addresses are free, and its streams are reset, or just silent."""
        for address, loop in list(self._loops.items()):
            if loop.owner is owner:
                del self._loops[address]
                self._listeners.pop(address, None)
        for wire in self.wires_of(owner):
            if silent:
                self.silence(wire)
            else:
                self.break_(wire, reason)

    def frozen(self, owner: LoopOwner, still: Callable[[], bool]) -> None:
        """A process stands still: unless it goes on in time, its streams break."""
        wires = self.wires_of(owner)

        def look() -> None:
            if still():
                for wire in wires:
                    self.break_(wire, "the peer does not answer pings")

        self.world.loop.call_later(self._ping_timeout, look)

    def wires_of(self, owner: LoopOwner) -> list[Wire]:
        """Return the streams of an incarnation that are open."""
        return [
            wire for link in self.links.values() for wire in link.wires if owner is wire.caller or owner is wire.worker
        ]


def _indices(directions: str) -> tuple[int, ...]:
    return {"both": (0, 1), "to": (0,), "back": (1,)}[directions]


def _settle(answered: asyncio.Future[MemoryStream], outcome: MemoryStream | Exception) -> None:
    if answered.done():
        # The caller has given up: the stream is closed as soon as it is there.
        if isinstance(outcome, MemoryStream):
            outcome.abort(GIVEN_UP)
    elif isinstance(outcome, Exception):
        answered.set_exception(outcome)
    else:
        cast("SimStream", outcome).wire.answered = True
        answered.set_result(outcome)


__all__ = ["FRAME_NAMES", "Ended", "Link", "SimNetwork", "SimStream", "Watch", "Wire", "address_of", "label_at"]
