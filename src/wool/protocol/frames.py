"""The frames of a session: small immutable records. `wool.protocol.codec` puts them on the wire.

The numbers of the enumerations are those of ``wire.proto``. Payloads are opaque here: a pickle is bytes
like any other.
"""

from __future__ import annotations

from enum import IntEnum
from typing import NamedTuple, TypeAlias

PROTOCOL_VERSION = 2
"""Compared in the handshake. It rises with every change that an older peer would misread."""

TASK_BYTES = 16
DIGEST_BYTES = 16
FOR_EVER = -1.0
"""A dispatch timeout of an offer that says: none. A missing one says: the default."""


class ProtocolError(Exception):
    """The peer said what the protocol does not allow. The session is closed."""


class StepKind(IntEnum):
    """What a consumer asks of a generator."""

    NEXT = 1
    SEND = 2
    THROW = 3
    CLOSE = 4


class RejectCode(IntEnum):
    """Why a worker does not take a task."""

    DRAINING = 1
    ADMISSION = 2
    TOO_LARGE = 3
    UNKNOWN_DEFINITION = 4
    BUSY = 5


class ResultKind(IntEnum):
    """How a step, or the task, ended on the worker."""

    YIELD = 1
    RETURN = 2
    RAISE = 3
    INTERRUPTED = 4
    CANCELLED = 5
    UNLOADABLE = 6
    UNSENDABLE = 7
    UNBEGUN = 8


REPORTED = frozenset({2, 3, 6})
"""The places of the task events that a worker reports."""


class Body(NamedTuple):
    """A payload as a frame carries it: whole, or announced and then sent in chunks.

    A frame's ``context`` says that the first part is what context variables the sender has set, and the value only
    begins with the next.

    ``sizes`` holds the bytes of each part; it is empty where there is one part and it is inline.
    """

    sizes: tuple[int, ...] = ()
    inline: bytes = b""
    chunked: bool = False

    @property
    def total(self) -> int:
        """Bytes of the whole payload."""
        return sum(self.sizes) if self.sizes else len(self.inline)


EMPTY = Body()


class Trace(NamedTuple):
    """Where a call stands in a trace: the headers of W3C Trace Context, checked."""

    parent: str
    """``traceparent``."""
    state: str = ""
    """``tracestate``."""


class Offer(NamedTuple):
    number: int
    task: bytes
    definition: bytes
    defines: bool
    body: Body
    parent: bytes = b""
    dispatch_timeout: float | None = None
    context: bool = False
    trace: Trace | None = None
    waits: bool = False
    """Where no place is free it waits for one, instead of being rejected."""


class Start(NamedTuple):
    number: int


class Withdraw(NamedTuple):
    number: int


class Cancel(NamedTuple):
    number: int
    message: str | None = None


class Step(NamedTuple):
    number: int
    kind: StepKind
    body: Body = EMPTY
    context: bool = False


class Accept(NamedTuple):
    number: int


class Reject(NamedTuple):
    number: int
    code: RejectCode
    reason: str


class Result(NamedTuple):
    number: int
    kind: ResultKind
    body: Body = EMPTY
    echo: bool = False
    cancels: int = 0
    """Cancels that the body has seen in this step: what is missing was too late for it."""
    context: bool = False


class Draining(NamedTuple):
    pass


class Watch(NamedTuple):
    types: int
    """Bits of `wool.events.BITS`."""


class Report(NamedTuple):
    number: int
    type: int
    """The place of the bit."""
    timestamp: int
    kind: StepKind | None = None
    step: int = 0
    missed: int = 0


class Chunk(NamedTuple):
    number: int
    data: bytes | memoryview


class Credit(NamedTuple):
    size: int


class Goodbye(NamedTuple):
    reason: str


Frame: TypeAlias = (
    Offer
    | Start
    | Withdraw
    | Cancel
    | Step
    | Accept
    | Reject
    | Result
    | Draining
    | Chunk
    | Credit
    | Goodbye
    | Watch
    | Report
)
