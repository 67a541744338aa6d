"""Who is tried first. A load balancer only orders candidates, and cannot break a promise."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Protocol, runtime_checkable

from wool.discovery.base import WorkerMetadata
from wool.task import Task


class WorkerStatus:
    """One candidate, as a caller knows it. Read it; the proxy keeps it up to date."""

    __slots__ = ("in_flight", "metadata", "suspect")

    def __init__(self, metadata: WorkerMetadata) -> None:
        self.metadata: WorkerMetadata = metadata
        """The worker, as discovery announced it."""
        self.in_flight: int = 0
        """Tasks of this caller that are bound to the worker and have not ended."""
        self.suspect: bool = False
        """It did not answer in time, or its session broke: it is tried last, whatever the order."""

    def __repr__(self) -> str:
        uid = self.metadata.uid[:8]
        return f"<WorkerStatus {uid} in_flight={self.in_flight}{' suspect' if self.suspect else ''}>"


@runtime_checkable
class LoadBalancerLike(Protocol):
    """Orders the candidates for a task. Called on the I/O thread: synchronous, no lock, no I/O."""

    def order(self, task: Task, workers: Sequence[WorkerStatus], /) -> Iterable[WorkerStatus]:
        """Return the candidates to try, best first. What is left out is not tried."""
        ...


_MANY = 1 << 32


class RoundRobinLoadBalancer:
    """Each call starts with the worker after the one that the last call started with, the first with any.

    With any, since programs that make one call each, and workers whose bodies do, would all give it to the same one.

    ``randrange(n)`` draws a number from 0 to n - 1; give one of your own to say where it starts.
    """

    def __init__(self, *, randrange: Callable[[int], int] | None = None) -> None:
        self._next = (randrange or _own_dice())(_MANY)

    def order(self, task: Task, workers: Sequence[WorkerStatus], /) -> Iterable[WorkerStatus]:
        """Return all workers, rotated by one more than for the call before."""
        first = self._next % len(workers) if workers else 0
        self._next = first + 1
        return _rotated(workers, first)

    def __reduce__(self) -> tuple[Callable[[], RoundRobinLoadBalancer], tuple[()]]:
        # A copy in another process starts a round of its own.
        return (RoundRobinLoadBalancer, ())


def _own_dice() -> Callable[[int], int]:
    # Not the random module's: a program that has seeded it wants its numbers for itself, and its like in another
    # process, seeded alike, would draw the same workers.
    return random.Random().randrange


def _rotated(workers: Sequence[WorkerStatus], first: int) -> Iterator[WorkerStatus]:
    # Lazy: nearly always the first is taken and the rest is never looked at.
    for index in range(first, len(workers)):
        yield workers[index]
    for index in range(first):
        yield workers[index]


class LeastLoadedLoadBalancer:
    """Of two workers drawn at random, the one with fewer of this caller's tasks goes first.

    It knows what it has placed itself and not yet heard the end of, so it makes way for a worker that is slow
    or has drawn the long tasks. Two are drawn, and not all compared, since callers that all took the emptiest
    would all take the same one.

    ``randrange(n)`` draws a number from 0 to n - 1; give a seeded one to repeat what it does.
    """

    def __init__(self, *, randrange: Callable[[int], int] | None = None) -> None:
        self._randrange = randrange or _own_dice()

    def order(self, task: Task, workers: Sequence[WorkerStatus], /) -> Iterable[WorkerStatus]:
        """Return all workers: the better of two that are drawn, the other one, then the rest, emptiest first."""
        if len(workers) < 2:
            return workers
        one = self._randrange(len(workers))
        other = self._randrange(len(workers) - 1)
        other += other >= one  # of the others, each with the same chance
        if _load(workers[other]) < _load(workers[one]):
            one, other = other, one
        return _two_then_emptiest(workers, one, other)

    def __reduce__(self) -> tuple[type[LeastLoadedLoadBalancer], tuple[()]]:
        # A copy in another process draws by itself.
        return (LeastLoadedLoadBalancer, ())


def _load(worker: WorkerStatus) -> tuple[bool, int]:
    return worker.suspect, worker.in_flight


def _two_then_emptiest(workers: Sequence[WorkerStatus], one: int, other: int) -> Iterator[WorkerStatus]:
    # Lazy, as above: the rest is sorted only for who wants it.
    yield workers[one]
    yield workers[other]
    yield from sorted((worker for index, worker in enumerate(workers) if index not in (one, other)), key=_load)
