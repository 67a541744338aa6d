"""Multicast DNS between simulated processes: a segment that loses, delays and doubles, and whoever speaks on it.

Why it exists: production's `wool.discovery.sightings` decides what was heard, `wool.discovery.records` what a record
says, and `wool.discovery.lan` when to ask and what may be published. Sockets are what is left, and the answers of
zeroconf, which are simulated here: records are said three times, questions are answered unless the answer is known.

A message goes to each listener by itself, and to each it may be lost, late or come twice: it is a datagram. What
speaks without being a worker (a liar, a twin) is here too: anybody on a network may.

What it must never do: deliver to a process that is dead, or bring what nobody has said.
"""

from __future__ import annotations

import asyncio
import dataclasses
import ipaddress
from collections.abc import AsyncGenerator, Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, Self, cast

from wool.discovery.base import DiscoveryEvent, DiscoveryEventType, WorkerFilter, WorkerMetadata
from wool.discovery.lan import Announcements, LanSubscriber
from wool.discovery.records import SERVICE, Announcement, Interface, announce, to_text
from wool.discovery.sightings import Kind, Question, Record
from wool.limits import Limits
from wool.sim.loop import LoopOwner, SimLoop
from wool.sim.network import SUBNET, net_address_of, number_of

if TYPE_CHECKING:
    from wool.sim.history import Detail
    from wool.sim.kinds import Fault
    from wool.sim.loop import World
    from wool.sim.plan import Plan

POINTER_SECONDS = 1200.0
"""As in `wool.discovery.mdns`: the pointer and the text are not what says that a worker lives."""
HELLO_SECONDS = 0.225
GOODBYE_SECONDS = 0.125
TIMES = 3
"""What is said is said so often, in case it gets lost."""
ANSWER_SECONDS = 0.02
"""Whoever answers waits for so long: others may be asking, or answering."""
TWIN_PORT = 90
"""Where a twin says that it listens, and nobody does."""

EVERYBODY: Question = (SERVICE, "PTR")
"""Asks who is there."""

SAID = ("packet-lose", "packet-late", "packet-twice")
"""Faults of one message of records, by its ordinal over the link from whoever hears it."""


class Air(Protocol):
    """The cluster, as its network segment knows it."""

    @property
    def plan(self) -> Plan:
        """What happens."""
        ...

    @property
    def world(self) -> World:
        """Its clock."""
        ...

    @property
    def healed(self) -> bool:
        """Whether nothing strikes any more."""
        ...

    @property
    def segment(self) -> Segment:
        """What multicast goes over."""
        ...

    @property
    def limits(self) -> Limits:
        """Of every process."""
        ...

    def strikes(self, kind: str, target: str) -> Fault | None:
        """Return the fault of this kind that strikes ``target`` now, and write down that it does."""
        ...

    def struck(self, index: int, fault: Fault) -> None:
        """Write down, once, that a fault has had an effect."""
        ...

    def published(self, type: DiscoveryEventType, metadata: WorkerMetadata) -> None:
        """A worker was announced, or withdrawn."""
        ...

    def jitter(self, label: str, ordinal: int) -> float:
        """Return by how much later something comes."""
        ...


class Speaker(LoopOwner, Protocol):
    """A process of the cluster, as its network segment knows it."""

    @property
    def cluster(self) -> Air:
        """Where it lives."""
        ...

    @property
    def io(self) -> SimLoop:
        """Where its sockets are."""
        ...

    def note(self, kind: str, task: str = "", attempt: str = "", detail: Detail = ()) -> None:
        """Write into the history."""
        ...


def here() -> Speaker:
    """Return the process that runs now."""
    loop = asyncio.get_running_loop()
    assert isinstance(loop, SimLoop) and loop.owner is not None
    return cast("Speaker", loop.owner)


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """One datagram: what is asked, or what is said."""

    questions: tuple[Question, ...] = ()
    """With names in lower case."""
    known: frozenset[str] = frozenset()
    """Instances of which the asker knows the pointer."""
    records: tuple[Record, ...] = ()


class Announced:
    """A worker that a process answers for: what is said of it, and to which questions."""

    __slots__ = ("answers", "records")

    def __init__(self, announcement: Announcement, seconds: float) -> None:
        name, host = announcement.name.lower(), announcement.host.lower()
        self.records: tuple[Record, ...] = records_of(announcement, seconds)
        self.answers: dict[Question, tuple[Kind, ...]] = {
            EVERYBODY: ("PTR", "SRV", "TXT", "A"),
            (name, "SRV"): ("SRV", "A"),
            (name, "TXT"): ("TXT",),
            (host, "A"): ("A",),
        }


class Segment:
    """What multicast goes over, between all processes of a cluster."""

    def __init__(self, air: Air, latency: float) -> None:
        self._air = air
        self._latency = latency
        self._sockets: dict[Socket, None] = {}
        self._ordinals: dict[str, int] = {}
        plan = air.plan
        self._faults = [(index, fault) for index, fault in enumerate(plan.faults) if fault.kind in SAID]

    def join(self, socket: Socket) -> None:
        """Let a socket hear what is said from now on."""
        self._sockets[socket] = None

    def leave(self, socket: Socket) -> None:
        """Let it hear nothing more; idempotent."""
        self._sockets.pop(socket, None)

    def joined(self, owner: object) -> int:
        """Return how many sockets a process has open."""
        return sum(socket.owner is owner for socket in self._sockets)

    def say(self, speaker: str, message: Message, source: Socket | None = None) -> None:
        """Bring a message to everybody else; ``speaker`` is the label of who says it, nothing for a stranger."""
        for socket in list(self._sockets):
            if socket is source or socket.owner.dead or not socket.cares(message):
                continue
            hearer = socket.owner.label
            delay = self._delay(f"{hearer}>{speaker}", f"{speaker}>{hearer}", bool(message.records))
            for late in delay:
                socket.loop.call_at(self._air.world.now + self._latency + late, socket.arrive, message)

    def _delay(self, link: str, back: str, said: bool) -> tuple[float, ...]:
        """Return how late each copy of a message comes: none, if it is lost."""
        air = self._air
        if air.strikes("segment-split", link) is not None or air.strikes("segment-split", back) is not None:
            return ()
        ordinal = self._ordinals.get(link, 0)
        self._ordinals[link] = ordinal + 1
        late = air.jitter(f"multicast {link}", ordinal)
        copies: tuple[float, ...] = (late,)
        if not said:
            return copies
        ordinal = self._ordinals.get(f"{link} said", 0)
        self._ordinals[f"{link} said"] = ordinal + 1
        for index, fault in self._faults:
            if fault.target != link or fault.ordinal != ordinal or air.healed:
                continue
            air.struck(index, fault)
            if fault.kind == "packet-lose":
                return ()
            if fault.kind == "packet-late":
                copies = (late + fault.seconds,)
            else:
                copies = (late, late + fault.seconds)
        return copies


class Socket:
    """One process's end of the segment: what it hears, what it asks, and what it answers for."""

    def __init__(self, owner: Speaker) -> None:
        self.owner = owner
        self.loop: SimLoop = owner.io
        number = number_of(owner.label)
        address = ipaddress.ip_address(net_address_of(owner.label).partition(":")[0])
        self.interfaces: Sequence[Interface] = (Interface(name=f"sim{number}", address=address, network=SUBNET),)
        self._hear: Callable[[Sequence[Record]], None] | None = None
        self._announced: dict[str, Announced] = {}
        self._owed: dict[str, set[Kind]] = {}
        """What is going to be answered."""
        self._repeats: dict[str, list[asyncio.TimerHandle]] = {}
        self._segment: Segment = owner.cluster.segment
        self._segment.join(self)

    # ---- hearing and asking ----

    def listen(self, hear: Callable[[Sequence[Record]], None]) -> None:
        """See `wool.discovery.lan.MulticastLike`."""
        self._hear = hear

    def ask(self, questions: Iterable[Question], known: Iterable[tuple[str, float, float]]) -> None:
        """See `wool.discovery.lan.MulticastLike`."""
        names = frozenset(name for name, seconds, age in known if int(seconds - age) > 0)
        asked: tuple[Question, ...] = tuple((name.lower(), kind) for name, kind in questions)
        self._say(Message(questions=asked, known=names))

    def cares(self, message: Message) -> bool:
        """Whether it makes a difference that this one hears ``message``."""
        # Of what is asked, most is asked of somebody else.
        return self._hear is not None if message.records else bool(self._wanted(message))

    def arrive(self, message: Message) -> None:
        """A message has come."""
        if message.records:
            if self._hear is not None:
                self._hear(message.records)
            return
        wanted = self._wanted(message)
        if wanted and not self._owed:
            self.loop.call_later(ANSWER_SECONDS, self.reply)
        for name, kinds in wanted.items():
            self._owed.setdefault(name, set()).update(kinds)

    def _wanted(self, message: Message) -> dict[str, set[Kind]]:
        """Return what of whom is asked of this one."""
        wanted: dict[str, set[Kind]] = {}
        for name, announced in self._announced.items():
            for question in message.questions:
                if question in announced.answers and not (question == EVERYBODY and name in message.known):
                    wanted.setdefault(name, set()).update(announced.answers[question])
        return wanted

    def reply(self) -> None:
        """Answer, once, all that was asked since the last answer, for what is still announced."""
        owed, self._owed = self._owed, {}
        said = tuple(
            record
            for name, announced in self._announced.items()
            for record in announced.records
            if record.kind in owed.get(name, ())
        )
        if said:
            self._say(Message(records=said))

    def _say(self, message: Message) -> None:
        if self.owner.seam():
            self._segment.say(self.owner.label, message, self)

    # ---- announcing: see `wool.discovery.lan.AnnouncingLike` ----

    async def announce(self, announcement: Announcement, /) -> None:
        """Announce a worker; on return it was said once."""
        announced = Announced(announcement, float(self.owner.cluster.limits.lan_ttl_seconds))
        self._announced[announcement.name] = announced
        self._repeat(announcement.name, announced.records, HELLO_SECONDS)

    async def update(self, announcement: Announcement, /) -> None:
        """Announce what has changed."""
        await self.announce(announcement)

    async def withdraw(self, name: str, /) -> None:
        """Say goodbye; on return it was said once."""
        announced = self._announced.pop(name)
        for timer in self._repeats.pop(name, ()):
            timer.cancel()
        if self.owner.cluster.strikes("lost-goodbye", self.owner.label) is None:
            self._repeat(name, goodbye(announced.records), GOODBYE_SECONDS)

    def _repeat(self, name: str, records: tuple[Record, ...], apart: float) -> None:
        for timer in self._repeats.pop(name, ()):
            timer.cancel()
        message = Message(records=records)
        self._say(message)
        now = self.loop.time()
        self._repeats[name] = [self.loop.call_at(now + turn * apart, self._say, message) for turn in range(1, TIMES)]

    async def close(self) -> None:
        """Say goodbye for all that is announced, and hear no more."""
        announcing = bool(self._announced)
        for name in list(self._announced):
            await self.withdraw(name)
        self._hear = None
        self._segment.leave(self)
        if announcing:
            await asyncio.sleep((TIMES - 1) * GOODBYE_SECONDS + 0.001)
        for timers in self._repeats.values():
            for timer in timers:
                timer.cancel()


def records_of(announcement: Announcement, seconds: float) -> tuple[Record, ...]:
    """Return what is said of a worker that is there for so long."""
    name, host = announcement.name, announcement.host
    return (
        Record(kind="PTR", name=SERVICE, seconds=POINTER_SECONDS, target=name),
        Record(kind="SRV", name=name, seconds=seconds, target=host, port=announcement.port),
        Record(kind="TXT", name=name, seconds=POINTER_SECONDS, text=announcement.text),
        *(Record(kind="A", name=host, seconds=seconds, target=address) for address in announcement.addresses),
    )


def goodbye(records: Iterable[Record]) -> tuple[Record, ...]:
    """Return what is said of a worker that goes, of which these were said before."""
    return tuple(dataclasses.replace(record, seconds=0.0) for record in records)


# ---- a discovery ------------------------------------------------------------------------------------


class SimLanSubscriber(LanSubscriber):
    """A `wool.discovery.lan.LanSubscriber` of the simulated network; it travels in the description of a pool."""

    def __aiter__(self) -> AsyncGenerator[DiscoveryEvent, None]:
        """Return a new subscription."""
        here().note("look.begun")
        return super().__aiter__()

    async def _open(self) -> Socket:
        return Socket(here())


class SimLan:
    """A `wool.discovery.lan.LanDiscovery` of the simulated network: publishes while it is entered."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._announcements: Announcements | None = None

    def __repr__(self) -> str:
        return "<SimLan>"

    @property
    def publisher(self) -> SimLanPublisher:
        """Announces workers, while it is entered."""
        assert self._announcements is not None
        return SimLanPublisher(self._announcements)

    @property
    def subscriber(self) -> SimLanSubscriber:
        """Sees all workers of the network."""
        return self.subscribe()

    def subscribe(self, filter: WorkerFilter | None = None, /) -> SimLanSubscriber:
        """Return a subscriber that sees only the workers for which ``filter`` is true."""
        return SimLanSubscriber((), filter, self._limits)

    async def __aenter__(self) -> Self:
        self._announcements = Announcements(Socket(here()))
        return self

    async def __aexit__(self, *error: object) -> None:
        announcements, self._announcements = self._announcements, None
        if announcements is not None:
            await announcements.close()


class SimLanPublisher:
    """A `wool.discovery.lan.LanPublisher` of the simulated network."""

    def __init__(self, announcements: Announcements) -> None:
        self._announcements = announcements

    async def publish(self, type: DiscoveryEventType, metadata: WorkerMetadata, /) -> None:
        """See `wool.discovery.lan.LanPublisher.publish`."""
        await self._announcements.publish(type, metadata)
        process = here()
        if not process.dead:
            process.cluster.published(type, metadata)


# ---- who speaks without being a worker --------------------------------------------------------------


def forged_goodbye(segment: Segment, metadata: WorkerMetadata) -> None:
    """Say goodbye for a worker that lives."""
    segment.say("", Message(records=goodbye(records_of(_announcement(metadata), 1.0))))


LIES = ("huge", "not JSON", "another uid", "another port", "another address", "cut off")
"""What a forged record may be, by ordinal."""


def forge(segment: Segment, metadata: WorkerMetadata, sort: int, seconds: float) -> None:
    """Announce, once, what contradicts itself, under the name of a worker."""
    true = _announcement(metadata)
    text, port, addresses = true.text, true.port, true.addresses
    lie = LIES[sort % len(LIES)]
    if lie == "huge":
        text = to_text(b"x" * 60_000)
    elif lie == "not JSON":
        text = to_text(b"\xff\xfe")
    elif lie == "another uid":
        text = to_text(dataclasses.replace(metadata, uid=f"liar-{metadata.uid[:8]}").to_bytes())
    elif lie == "another port":
        port = true.port + 1
    elif lie == "another address":
        addresses = ("10.0.9.9",)
    else:
        text = true.text[:-1]
    made = dataclasses.replace(true, text=text, port=port, addresses=addresses)
    segment.say("", Message(records=records_of(made, seconds)))


def twin_of(metadata: WorkerMetadata) -> WorkerMetadata:
    """Return another process under the uid of a worker."""
    host = metadata.address.partition(":")[0]
    return dataclasses.replace(metadata, pid=metadata.pid + 10_000, address=f"{host}:{TWIN_PORT}")


def _announcement(metadata: WorkerMetadata) -> Announcement:
    return announce(metadata, ())


def ghostly(segment: Segment, metadata: WorkerMetadata, seconds: float) -> None:
    """Announce a process that nobody can reach."""
    segment.say("", Message(records=records_of(_announcement(metadata), seconds)))
