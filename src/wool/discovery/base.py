"""What callers know of workers, and the shapes that every discovery has.

A discovery record is a hint: bounded, strictly parsed, never unpickled. Trust comes from the handshake
alone. Anything with the right methods is a discovery; nothing here needs to be inherited from.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Literal, NoReturn, Protocol, TypeAlias, cast, get_args, runtime_checkable

from wool.limits import DEFAULT_LIMITS

DiscoveryEventType: TypeAlias = Literal["worker-added", "worker-updated", "worker-dropped"]
DISCOVERY_EVENT_TYPES: tuple[str, ...] = get_args(DiscoveryEventType)


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerMetadata:
    """One worker, as discovery announces it and the handshake confirms it.

    ``uid`` is minted by the worker process: another uid at the same address is another worker.
    ``address`` is ``unix:/path`` or ``host:port`` with a literal host. ``secure`` says that the worker
    speaks TLS. ``extra`` is the application's own, strings to strings.

    A discovery that knows nothing but addresses announces `at` an address, with an empty ``uid``; the rest is
    learnt from the first handshake.
    """

    uid: str
    address: str
    pid: int
    version: str
    tags: frozenset[str] = frozenset()
    extra: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    secure: bool = False

    def __post_init__(self) -> None:
        _check_text("address", self.address, 512)
        if self.uid or self.version:
            _check_text("uid", self.uid, 64)
            _check_text("version", self.version, 64)
        _check(type(self.pid) is int and self.pid >= 0, "pid", self.pid, "a process id")
        _check(type(self.secure) is bool, "secure", self.secure, "True or False")
        object.__setattr__(self, "tags", check_tags(self.tags))
        object.__setattr__(self, "extra", _checked_extra(self.extra))

    @classmethod
    def at(cls, address: str) -> WorkerMetadata:
        """Return what is known of a worker of which only the address is known."""
        return cls(uid="", address=address, pid=0, version="")

    @property
    def key(self) -> str:
        """The uid, or the address where no uid is known."""
        return self.uid or self.address

    def __hash__(self) -> int:
        return hash((self.uid, self.address, self.pid))

    def __reduce__(self) -> tuple[Any, ...]:
        if not self.uid:
            return (_metadata_at, (self.address,))
        return (_metadata_from_bytes, (self.to_bytes(),))

    def to_bytes(self) -> bytes:
        """Encode as a discovery record. Raises `ValueError` if it is larger than ``record_bytes``."""
        record = {name: getattr(self, name) for name in _FIELDS}
        record["tags"] = sorted(self.tags)
        record["extra"] = dict(sorted(self.extra.items()))
        data = json.dumps(record, ensure_ascii=False, separators=(",", ":")).encode()
        if len(data) > DEFAULT_LIMITS.record_bytes:
            raise ValueError(
                f"metadata of worker {self.uid} takes {len(data)} bytes, the limit is "
                f"{DEFAULT_LIMITS.record_bytes} (record_bytes): use fewer or shorter tags and extra"
            )
        return data

    @classmethod
    def from_bytes(cls, data: bytes) -> WorkerMetadata:
        """Parse a discovery record strictly. Raises `ValueError` for anything else."""
        if len(data) > DEFAULT_LIMITS.record_bytes:
            raise ValueError(f"a discovery record of {len(data)} bytes is over {DEFAULT_LIMITS.record_bytes}")
        try:
            parsed: object = json.loads(data.decode())
        except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
            raise ValueError(f"a discovery record is not JSON: {error}") from None
        record = cast("dict[str, Any]", parsed) if isinstance(parsed, dict) else {}
        if record.keys() != _FIELDS.keys():
            raise ValueError(f"a discovery record has not exactly the fields {sorted(_FIELDS)}")
        _check_text("uid", record["uid"], 64)
        if not isinstance(record["tags"], list) or not isinstance(record["extra"], dict):
            raise ValueError("a discovery record's tags or extra have the wrong shape")
        return cls(**record)


_FIELDS = dict.fromkeys(slot.name for slot in dataclasses.fields(WorkerMetadata))
_metadata_from_bytes = WorkerMetadata.from_bytes
_metadata_at = WorkerMetadata.at


def _check(good: bool, name: str, value: object, wanted: str) -> None:
    if not good:
        raise ValueError(f"WorkerMetadata.{name} must be {wanted}, got {value!r:.100}")


def _check_text(name: str, value: object, most: int) -> None:
    # They reach errors, logs and terminals as they are.
    if not (isinstance(value, str) and 0 < len(value) <= most and value.isprintable()):
        _check(False, name, value, f"a string of 1 to {most} characters that can be printed")


def _checked_extra(extra: object) -> Mapping[str, str]:
    given: Any = extra
    good = isinstance(extra, Mapping) and all(isinstance(text, str) for pair in given.items() for text in pair)
    _check(good, "extra", given, "a mapping of strings to strings")
    return MappingProxyType(cast("dict[str, str]", dict(given)))


def check_tags(tags: Iterable[object]) -> frozenset[str]:
    """Return ``tags`` as a set, or raise `ValueError` naming the one that is no non-empty string."""
    found: set[str] = set()
    for tag in tags:
        if not isinstance(tag, str) or not tag:
            raise ValueError(f"a worker tag must be a non-empty string, got {tag!r:.100}")
        found.add(tag)
    return frozenset(found)


@dataclass(frozen=True, slots=True)
class DiscoveryEvent:
    """A worker came, changed or went. Per worker: (added updated* dropped)*.

    ``wanted`` is asked, once the handshake has told who it is, whether a worker that was announced by its
    address alone is one that the subscriber wants to see.
    """

    type: DiscoveryEventType
    metadata: WorkerMetadata
    wanted: WorkerFilter | None = field(default=None, compare=False, repr=False)

    def __post_init__(self) -> None:
        if self.type not in DISCOVERY_EVENT_TYPES:
            raise ValueError(f"unknown discovery event {self.type!r}, expected one of {DISCOVERY_EVENT_TYPES}")


WorkerFilter: TypeAlias = Callable[[WorkerMetadata], bool]
"""A predicate over `WorkerMetadata`: true for the workers that a subscriber wants to see."""


@runtime_checkable
class DiscoveryPublisherLike(Protocol):
    """Announces workers. May also be an async context manager, entered before the first publish."""

    async def publish(self, type: DiscoveryEventType, metadata: WorkerMetadata, /) -> None:
        """Announce that ``metadata``'s worker came, changed or went."""
        ...


@runtime_checkable
class DiscoverySubscriberLike(Protocol):
    """Sees workers. Each iteration is a subscription of its own: first what is there, then changes."""

    def __aiter__(self) -> AsyncIterator[DiscoveryEvent]: ...


def lives_on_io_loop(subscriber: DiscoverySubscriberLike) -> bool:
    """Whether ``subscriber`` may be followed on the I/O loop: a built-in one, which never blocks it.

    One of the user's own stays on the user's loop; it says otherwise with ``lives_on_io_loop = True``.
    """
    return getattr(subscriber, "lives_on_io_loop", False) is True


class NoPublisher:
    """For a discovery whose records are kept by somebody else."""

    def __init__(self, why: str) -> None:
        self.why: str = why

    async def publish(self, type: DiscoveryEventType, metadata: WorkerMetadata, /) -> NoReturn:
        """Raise `RuntimeError`: here nothing can be announced."""
        if type not in DISCOVERY_EVENT_TYPES:
            raise ValueError(f"unknown discovery event {type!r}, expected one of {DISCOVERY_EVENT_TYPES}")
        raise RuntimeError(f"worker {metadata.key[:8]} cannot be published: {self.why}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Sought:
    """What a proxy looks for, in the words of its errors."""

    words: str
    subscriber: DiscoverySubscriberLike | None = None

    def troubles(self) -> list[str]:
        """Return what keeps the subscriber from finding workers, if it knows: names that cannot be looked up."""
        built_in = self.subscriber is not None and lives_on_io_loop(self.subscriber)
        return list(getattr(self.subscriber, "troubles", ())) if built_in else []

    @property
    def is_looking(self) -> bool:
        """Whether the subscriber has still to hear for the first time where a name leads; False if it cannot know."""
        built_in = self.subscriber is not None and lives_on_io_loop(self.subscriber)
        return built_in and bool(getattr(self.subscriber, "is_looking", False))

    def __str__(self) -> str:
        return self.words


@runtime_checkable
class DiscoveryLike(Protocol):
    """Both sides of one way of finding workers."""

    @property
    def publisher(self) -> DiscoveryPublisherLike:
        """Announces workers."""
        ...

    @property
    def subscriber(self) -> DiscoverySubscriberLike:
        """Sees all workers."""
        ...

    def subscribe(self, filter: WorkerFilter | None = None, /) -> DiscoverySubscriberLike:
        """Return a subscriber that sees only the workers for which ``filter`` is true."""
        ...
