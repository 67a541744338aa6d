"""Whom a pool takes of the workers that discovery names, and in which order the others wait.

Why it exists: a pool may want workers with certain tags, and no more than a number of them. Both are decided by what
is known of a worker before it is used, and the same way in every process of a pool: `Terms` travel with its
description.

What it owns: the order in which workers wait for a place, and what an error tells of those that have none. It never
awaits. It must never touch a link: who has a place is seen from the links, in `wool.links`.

A place is given in the order in which discovery named the workers, and kept. So a worker that goes and comes back
moves nobody else: the next one has its place, and it waits behind the others.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from wool.discovery.base import WorkerFilter, WorkerMetadata
from wool.errors import RpcError, TransientRpcError
from wool.harmless import harmless
from wool.limits import MOST_TOLD


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """Which workers a pool takes of those that discovery names."""

    tags: frozenset[str] = frozenset()
    """A worker must have all of them."""
    lease: int | None = None
    """How many are used at a time; None: as many as there are."""
    own: frozenset[str] = frozenset()
    """The uids of workers that the pool has started itself, or their families: they take no place."""
    secure: bool = False
    """Whether it has credentials, and so takes those that have some; else it takes those that have none. Does not
    travel: it is each process's own."""

    def __reduce__(self) -> tuple[Any, ...]:
        # In an order of its own: a description is the same bytes in every process.
        return (_terms, (tuple(sorted(self.tags)), self.lease, tuple(sorted(self.own))))

    def is_own(self, uid: str) -> bool:
        """Whether the pool has started this worker itself."""
        return uid in self.own or family_of(uid) in self.own

    def refusal(self, metadata: WorkerMetadata) -> RpcError | None:
        """Return why the worker is not wanted, if it is not."""
        if metadata.secure != self.secure:
            theirs, ours = ("", "no ") if metadata.secure else ("no ", "")
            return RpcError(f"worker {metadata.uid[:8]} has {theirs}credentials, and this side has {ours}credentials")
        missing = sorted(self.tags - metadata.tags)
        if not missing:
            return None
        has = harmless(", ".join(sorted(metadata.tags))) or "none"
        return RpcError(f"worker {metadata.uid[:8]} has not the tags {', '.join(missing)}; its tags: {has}")


def _terms(tags: tuple[str, ...], lease: int | None, own: tuple[str, ...]) -> Terms:
    return Terms(tags=frozenset(tags), lease=lease, own=frozenset(own))


EVERYBODY = Terms()


_OF_ONE = 8
"""Characters of a uid that are its own; the rest it shares with those that it succeeds."""


def family_of(uid: str) -> str:
    """Return what the uid of a worker has in common with that of its successor.

    The description of a pool is made once, and travels; so it names families, and knows successors too.
    """
    return uid[_OF_ONE:]


def successor_of(uid: str, fresh: str) -> str:
    """Return the uid of a worker that replaces another; ``fresh`` is one that was just minted."""
    return fresh[:_OF_ONE] + family_of(uid)


@dataclass(frozen=True, slots=True)
class Candidate:
    """A worker that waits for a place."""

    metadata: WorkerMetadata
    wanted: WorkerFilter | None
    why: RpcError | None
    """Why it gave up the place that it had; None if it had none."""


class Outside:
    """The workers that discovery names and the pool does not use."""

    def __init__(self, terms: Terms) -> None:
        self._terms = terms
        self._waiting: dict[str, Candidate] = {}
        self._unwanted: dict[str, RpcError] = {}

    def __len__(self) -> int:
        return len(self._waiting)

    @property
    def fresh(self) -> bool:
        """Whether one waits that has not had a place before: for no other one is a place given up."""
        return any(candidate.why is None for candidate in self._waiting.values())

    def refuse(self, worker: str, why: RpcError) -> None:
        """Note that a worker is not wanted, and why."""
        self.forget(worker)
        self._unwanted[worker] = why
        while len(self._unwanted) > MOST_TOLD:
            del self._unwanted[next(iter(self._unwanted))]

    def wait(self, metadata: WorkerMetadata, wanted: WorkerFilter | None = None, why: RpcError | None = None) -> None:
        """Let a worker wait for a place: behind the others, or where it waits already."""
        self._unwanted.pop(metadata.key, None)
        self._waiting[metadata.key] = Candidate(metadata, wanted, why)

    def next(self) -> Candidate:
        """Take the one whose turn it is: who has had a place before lets the others go first."""
        first = next((key for key, candidate in self._waiting.items() if candidate.why is None), None)
        return self._waiting.pop(next(iter(self._waiting)) if first is None else first)

    def forget(self, worker: str) -> None:
        """The worker, by uid or address, is withdrawn or taken."""
        self._waiting.pop(worker, None)
        self._unwanted.pop(worker, None)

    def reasons(self) -> Iterator[tuple[str, RpcError]]:
        """Yield why workers are not used, of some of them if they are many."""
        yield from self._unwanted.items()
        for key, candidate in list(self._waiting.items())[:MOST_TOLD]:
            why = f"; it had one before: {candidate.why}" if candidate.why is not None else ""
            yield key, TransientRpcError(f"it waits for one of the {self._terms.lease} places of the lease{why}")
