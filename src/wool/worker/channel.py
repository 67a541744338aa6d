"""What an owner and its worker process say to each other, and the worker's end of the line.

One socket pair per worker; one message per line, as JSON, since this is read before anything but the
standard library can be imported. The first message brings the secret, so that it is never in an argument, in
the environment or in a file. Nothing here quotes the text of a message in an error, for the same reason.

This module owns the messages, their codec and `ChildChannel`. It must never import what is slow to import,
nor let anything but a message or a `ChannelError` come out of bytes that were read.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
import socket
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Literal, TypeAlias, TypeVar, cast

from wool.credentials import CredentialFiles, WorkerCredentials
from wool.discovery.base import WorkerMetadata, check_tags
from wool.limits import DEFAULT_LIMITS, Limits
from wool.statistics import Statistics
from wool.worker.retirement import ENDLESS, Retirement

_READ_BYTES = 64 * 1024
"""Asked of the socket at once; more than any usual message."""


class ChannelError(ValueError):
    """A control message is not what it should be. The other side is broken, or was replaced."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Configure:
    """Owner to worker, first and once: all that the worker has to know. Raises `ValueError` if it is wrong.

    ``sys_path``, ``python_path`` (the variable PYTHONPATH, `None` if it was not set) and ``argv`` are the owner's.
    ``address`` is where to listen: ``unix:/path`` or ``host:port``. ``secret`` is shared by all who may
    dispatch; `None` if certificates alone decide, those in ``credentials``. ``uid`` is `None` if the worker is to mint
    one. ``retirement`` says when it has had enough. ``log_style`` says how log lines look (`wool.worker.logs`), from
    ``log_level`` on, each after ``log_mark``; without one they are prose, from warnings on. ``tracing`` is what
    `wool.otel.set_up_worker` is told; `None` if nothing is traced. ``loop`` is what bodies run on
    (`wool.worker.loops`). ``max_concurrency`` is how many bodies are at work at a time; `None` for as many as are
    started. ``admission`` is the pickled hook, as `wool.worker.examiner` has made it; `None` if all are let in.
    """

    sys_path: tuple[str, ...]
    python_path: str | None
    argv: tuple[str, ...] = ()
    address: str
    secret: bytes | None = field(repr=False)
    uid: str | None = None
    tags: frozenset[str] = frozenset()
    extra: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    limits: Limits = DEFAULT_LIMITS
    log_style: str = ""
    log_level: str = "warning"
    log_mark: bytes = field(default=b"", repr=False)
    credentials: WorkerCredentials | CredentialFiles | None = None
    tracing: str | None = None
    loop: Literal["asyncio", "uvloop"] = "asyncio"
    retirement: Retirement = ENDLESS
    max_concurrency: int | None = None
    admission: bytes | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        if not self.address:
            raise ValueError("Configure.address must not be empty")
        if self.secret is not None and not self.secret:
            raise ValueError("Configure.secret must not be empty")
        if self.uid is not None and not 0 < len(self.uid) <= 64:
            raise ValueError("Configure.uid must have 1 to 64 characters")
        if self.log_style not in ("", "text", "json"):
            raise ValueError(f"Configure.log_style must be 'text', 'json' or empty, not {self.log_style!r:.100}")
        if self.log_level not in ("debug", "info", "warning", "error"):
            raise ValueError(f"Configure.log_level must be that of a log line, not {self.log_level!r:.100}")
        if self.loop not in ("asyncio", "uvloop"):
            raise ValueError(f"Configure.loop must be 'asyncio' or 'uvloop', not {self.loop!r:.100}")
        if self.max_concurrency is not None and self.max_concurrency < 1:
            raise ValueError(f"Configure.max_concurrency must be at least 1, not {self.max_concurrency!r}")
        object.__setattr__(self, "tags", check_tags(self.tags))
        object.__setattr__(self, "extra", MappingProxyType(dict(self.extra)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Stop:
    """Owner to worker: take no more tasks, and exit once those at hand have ended.

    What still runs after ``drain_seconds`` is interrupted. Said again, it may shorten that time.
    """

    drain_seconds: float

    def __post_init__(self) -> None:
        if not (math.isfinite(self.drain_seconds) and self.drain_seconds >= 0):
            raise ValueError(f"drain_seconds must be a finite number of seconds, not {self.drain_seconds!r}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Renew:
    """Owner to worker: show these from now on. Only to one that was configured with credentials and no files."""

    credentials: WorkerCredentials = dataclasses.field(repr=False)


@dataclass(frozen=True, slots=True)
class Ask:
    """Owner to worker: how is it? It answers with `Counted`, each time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ready:
    """Worker to owner, once: it listens at ``metadata.address``."""

    metadata: WorkerMetadata


@dataclass(frozen=True, slots=True, kw_only=True)
class Failed:
    """Worker to owner, instead of `Ready`: why it cannot start, with traceback unless it is `Unfit`. It exits next."""

    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Worn:
    """Worker to owner, once: it has had enough, and why. It takes tasks until it is told to stop."""

    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Counted:
    """Worker to owner, as often as it is asked: what it has done, and how it is."""

    statistics: Statistics


@dataclass(frozen=True, slots=True)
class Draining:
    """Worker to owner: it takes no more tasks, asked to or not."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stopped:
    """Worker to owner: all tasks have ended and the sessions are closed. It exits next.

    ``interrupted`` is how many tasks did not come to an end of their own.
    """

    interrupted: int = 0

    def __post_init__(self) -> None:
        if self.interrupted < 0:
            raise ValueError(f"interrupted must be a number of tasks, not {self.interrupted!r}")


OwnerMessage: TypeAlias = Configure | Renew | Ask | Stop
WorkerMessage: TypeAlias = Ready | Failed | Worn | Counted | Draining | Stopped


# How each field is written, and how it is read. A reader raises ValueError or TypeError.


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError("not a string")
    return value


def _seconds(value: object) -> float:
    if type(value) not in (int, float):
        raise TypeError("not a number")
    return float(cast(float, value))


def _count(value: object) -> int:
    if type(value) is not int:
        raise TypeError("not a whole number")
    return value


def _texts(value: object) -> tuple[str, ...]:
    if not isinstance(value, list):
        raise TypeError("not a list")
    return tuple(map(_text, cast(list[object], value)))


def _mapping(value: object) -> dict[str, object]:
    if not isinstance(value, dict):
        raise TypeError("not an object")
    return cast(dict[str, object], value)  # JSON has no other keys


def _limits(value: object) -> Limits:
    numbers = _mapping(value)
    for name, default in dataclasses.asdict(DEFAULT_LIMITS).items():
        if name not in numbers:
            raise ValueError(f"the limit {name} is missing")
        wanted = (int,) if type(default) is int else (int, float)
        if type(numbers[name]) not in wanted or not math.isfinite(cast(float, numbers[name])):
            raise ValueError(f"the limit {name} is not a finite {type(default).__name__}")
    return Limits(**cast(Any, numbers))


_NAMES_OF_PEERS = ("workers", "callers")


def _write_credentials(credentials: WorkerCredentials | CredentialFiles) -> dict[str, object]:
    names = {name: list(getattr(credentials, name)) for name in _NAMES_OF_PEERS}
    if isinstance(credentials, CredentialFiles):
        paths = {name: getattr(credentials, name) for name in ("ca_path", "key_path", "cert_path", "secret_path")}
        return {"kind": "files", "mutual": credentials.mutual, **names, **paths}
    held = {name: getattr(credentials, name) for name in ("ca", "key", "cert", "secret")}
    texts = {name: None if value is None else value.hex() for name, value in held.items()}
    return {"kind": "held", "mutual": credentials.mutual, "source": credentials.source, **names, **texts}


def _read_credentials(value: object) -> WorkerCredentials | CredentialFiles:
    given: dict[str, Any] = _mapping(value)
    kind = given.pop("kind", None)
    given |= {name: _texts(given.get(name)) for name in _NAMES_OF_PEERS}
    if kind == "files":
        return CredentialFiles(**given)
    if kind != "held":
        raise ValueError("credentials are neither files nor held")
    for name in ("ca", "key", "cert", "secret"):
        given[name] = None if given[name] is None else bytes.fromhex(_text(given[name]))
    return WorkerCredentials(**given)


def _read_held(value: object) -> WorkerCredentials:
    credentials = _read_credentials(value)
    if not isinstance(credentials, WorkerCredentials):
        raise ValueError("files are read again by themselves")
    return credentials


def _read_retirement(value: object) -> Retirement:
    given = _mapping(value)
    if given.keys() != {"max_tasks", "memory_limit"}:
        raise ValueError("not exactly max_tasks and memory_limit")
    return Retirement(**{name: None if number is None else _count(number) for name, number in given.items()})


def _read_statistics(value: object) -> Statistics:
    given = _mapping(value)
    if given.keys() != {field.name for field in dataclasses.fields(Statistics)}:
        raise ValueError("not exactly the fields of Statistics")
    draining = given.pop("draining")
    counts = {name: _count(number) for name, number in given.items()}
    if type(draining) is not bool or min(counts.values()) < 0:
        raise ValueError("a count below 0, or draining is neither true nor false")
    return Statistics(draining=draining, **counts)


def _optional(codec: _Codec) -> _Codec:
    write, read = codec
    return (
        lambda value: None if value is None else write(value),
        lambda value: None if value is None else read(value),
    )


_Codec: TypeAlias = tuple[Callable[[Any], object], Callable[[object], object]]

_TEXT: _Codec = (_text, _text)
_BYTES: _Codec = (bytes.hex, lambda value: bytes.fromhex(_text(value)))
_FIELDS: dict[type, dict[str, _Codec]] = {
    Configure: {
        "sys_path": (list, _texts),
        "python_path": _optional(_TEXT),
        "argv": (list, _texts),
        "address": _TEXT,
        "secret": _optional(_BYTES),
        "uid": _optional(_TEXT),
        "tags": (sorted, lambda value: frozenset(_texts(value))),
        "extra": (dict, lambda value: {name: _text(text) for name, text in _mapping(value).items()}),
        "limits": (dataclasses.asdict, _limits),
        "log_style": _TEXT,
        "log_level": _TEXT,
        "log_mark": _BYTES,
        "credentials": _optional((_write_credentials, _read_credentials)),
        "tracing": _optional(_TEXT),
        "loop": _TEXT,
        "retirement": (dataclasses.asdict, _read_retirement),
        "max_concurrency": _optional((_count, _count)),
        "admission": _optional(_BYTES),
    },
    Renew: {"credentials": (_write_credentials, _read_held)},
    Ask: {},
    Stop: {"drain_seconds": (_seconds, _seconds)},
    # As a discovery record, which has its own limit and its own strict parser.
    Ready: {
        "metadata": (
            lambda metadata: metadata.to_bytes().decode(),
            lambda value: WorkerMetadata.from_bytes(_text(value).encode()),
        )
    },
    Failed: {"text": _TEXT},
    Worn: {"why": _TEXT},
    Counted: {"statistics": (dataclasses.asdict, _read_statistics)},
    Draining: {},
    Stopped: {"interrupted": (_count, _count)},
}
_OWNER_SAYS: dict[str, type[OwnerMessage]] = {
    "configure": Configure,
    "renew": Renew,
    "ask": Ask,
    "stop": Stop,
}
_WORKER_SAYS: dict[str, type[WorkerMessage]] = {
    "ready": Ready,
    "failed": Failed,
    "worn": Worn,
    "counted": Counted,
    "draining": Draining,
    "stopped": Stopped,
}
_NAMES: dict[type, str] = {kind: name for name, kind in (*_OWNER_SAYS.items(), *_WORKER_SAYS.items())}

_Message = TypeVar("_Message")


def encode(message: OwnerMessage | WorkerMessage) -> bytes:
    """Return ``message`` as a line. Raises `ChannelError` if it does not fit ``control_message_bytes``."""
    kind = type(message)
    record = {name: write(getattr(message, name)) for name, (write, _) in _FIELDS[kind].items()}
    try:
        # ASCII: a path may hold bytes that are no text, as lone surrogates, which UTF-8 refuses.
        line = json.dumps({"type": _NAMES[kind], **record}, allow_nan=False, separators=(",", ":")).encode() + b"\n"
    except ValueError:
        problem = "holds a number that is not finite"
    else:
        if len(line) <= DEFAULT_LIMITS.control_message_bytes:
            return line
        problem = f"takes {len(line)} bytes, the limit is {DEFAULT_LIMITS.control_message_bytes}"
    raise ChannelError(f"a {_NAMES[kind]!r} message {problem} (control_message_bytes)")


def decode_from_owner(line: bytes) -> OwnerMessage:
    """Parse what an owner said, without the newline. Raises `ChannelError` for anything else."""
    return _decode(line, _OWNER_SAYS)


def decode_from_worker(line: bytes) -> WorkerMessage:
    """Parse what a worker said, without the newline. Raises `ChannelError` for anything else."""
    return _decode(line, _WORKER_SAYS)


def _decode(line: bytes, kinds: Mapping[str, type[_Message]]) -> _Message:
    record = _parse(line)
    name = record.pop("type", None)
    kind = kinds.get(name) if isinstance(name, str) else None
    if kind is None:
        raise ChannelError(f"a control message is none of {sorted(kinds)}")
    codecs = _FIELDS[kind]
    if record.keys() != codecs.keys():
        raise ChannelError(f"a {name!r} message has not exactly the fields {sorted(codecs)}")
    problem: object = None
    values: dict[str, object] = {}
    where = None
    try:
        for where, (_, read) in codecs.items():
            values[where] = read(record[where])
        where = None
        return kind(**values)
    except (TypeError, ValueError, OverflowError) as error:
        problem = error
    at = "" if where is None else f", in {where}"
    raise ChannelError(f"a {name!r} message is wrong{at}: {problem}")


def _parse(line: bytes) -> dict[str, object]:
    # Raised after the except clauses: a decoding error carries the text, and with it perhaps the secret.
    if len(line) >= DEFAULT_LIMITS.control_message_bytes:
        raise ChannelError(f"a control message is over {DEFAULT_LIMITS.control_message_bytes} bytes")
    try:
        record = json.loads(line.decode("ascii"), object_pairs_hook=_unique, parse_constant=_refuse)
    except (ValueError, RecursionError):
        record = None
    if not isinstance(record, dict):
        raise ChannelError("a control message is not one JSON object")
    return cast(dict[str, object], record)


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    record = dict(pairs)
    if len(record) != len(pairs):
        raise ValueError("a name twice")
    return record


def _refuse(constant: str) -> object:
    raise ValueError(f"{constant} is no JSON")


class Lines:
    """Cuts what is read from a channel into lines of bounded length."""

    __slots__ = ("_rest",)

    def __init__(self) -> None:
        self._rest = bytearray()

    def feed(self, data: bytes) -> list[bytes]:
        """Take ``data``, return the lines that are complete. Raises `ChannelError` if one grows too long."""
        if b"\n" not in data:
            self._rest += data
            lines: list[bytes] = []
        else:
            first, *others = data.split(b"\n")
            lines = [bytes(self._rest) + first, *others[:-1]]
            self._rest = bytearray(others[-1])
        if len(self._rest) >= DEFAULT_LIMITS.control_message_bytes:
            raise ChannelError(f"a control message is over {DEFAULT_LIMITS.control_message_bytes} bytes")
        return lines


class ChildChannel:
    """The worker's end of the control channel. Takes ownership of the socket ``descriptor``.

    One thread reads (`receive`, then `receive_available` whenever `fileno` is readable); any may `send`.
    """

    def __init__(self, descriptor: int) -> None:
        os.set_inheritable(descriptor, False)
        self._socket = socket.socket(fileno=descriptor)
        self._lock = threading.Lock()
        self._lines = Lines()
        self._has_started = False

    @property
    def has_started(self) -> bool:
        """Whether `Ready` or `Failed` was said, of which only one may be, and once."""
        return self._has_started

    def fileno(self) -> int:
        """Return the descriptor, for an event loop's ``add_reader``. It is in blocking mode."""
        return self._socket.fileno()

    def send(self, message: WorkerMessage) -> None:
        """Say ``message``; from any thread. Raises `OSError` if the owner is gone.

        Blocks only while an owner that stands still has left kilobytes unread.
        """
        line = encode(message)
        with self._lock:
            if isinstance(message, Ready | Failed):
                self._has_started = True
            self._socket.sendall(line)

    def receive(self) -> OwnerMessage:
        """Wait for one message. Raises `EOFError` if the owner is gone, `ChannelError` if it talks nonsense."""
        while True:
            # A look first, so as to take one line and no more: the next one stays where `fileno` shows it.
            data = self._socket.recv(_READ_BYTES, socket.MSG_PEEK)
            if not data:
                raise EOFError("the owner closed the control channel")
            data = self._socket.recv(data.find(b"\n") + 1 or len(data))
            for line in self._lines.feed(data):
                return decode_from_owner(line)

    def receive_available(self) -> tuple[OwnerMessage, ...]:
        """Return the messages that have arrived, perhaps none, without waiting. Raises as `receive` does."""
        try:
            data = self._socket.recv(_READ_BYTES, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return ()
        if not data:
            raise EOFError("the owner closed the control channel")
        return tuple(map(decode_from_owner, self._lines.feed(data)))

    def close(self) -> None:
        """Close this end. May be called again."""
        self._socket.close()
