"""Following names: the I/O around `wool.discovery.lookups`, the same for every kind of name.

It owns the tasks that ask. What an answer means is decided in `wool.discovery.lookups`, what has changed in
`wool.discovery.roster`. It must never wait for one name's answer with another's in hand.
"""

from __future__ import annotations

import asyncio
import logging
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Callable, Iterable

from wool.discovery.base import DiscoveryEvent, WorkerFilter, WorkerMetadata
from wool.discovery.lookups import Answer, LookupFailed, Lookups, ResolverLike
from wool.discovery.roster import Roster
from wool.limits import Limits

_log = logging.getLogger("wool.discovery")


class Progress:
    """How far one subscription has come with its names; written by `follow`, read by who waits for workers."""

    def __init__(self, names: Iterable[str]) -> None:
        self.names: tuple[str, ...] = tuple(names)
        self.troubles: dict[str, str] = {name: f"{name} is being looked up" for name in self.names}
        """Why a name leads to nobody, by name."""
        self.unheard: set[str] = set(self.names)
        """Names that have had no answer yet, whatever it might be; none once the subscription has ended."""


class NamesSubscriber(ABC):
    """Sees the workers that names lead to, and those at ``fixed`` addresses. Each iteration is a subscription.

    Who inherits from it says whom to ask, and how to write both down.
    """

    lives_on_io_loop = True

    def __init__(
        self, names: Iterable[str], filter: WorkerFilter | None, limits: Limits, *, fixed: Iterable[str] = ()
    ) -> None:
        self._names = tuple(names)
        self._fixed = tuple(fixed)
        self._filter = filter
        self._limits = limits
        self._progress: Progress | None = None

    @property
    def troubles(self) -> list[str]:
        """Why names lead to nobody, as the last subscription has found, in the order of the names."""
        progress = self._progress
        return [] if progress is None else [progress.troubles[n] for n in progress.names if n in progress.troubles]

    @property
    def is_looking(self) -> bool:
        """Whether a name has had no answer yet, since the last subscription began."""
        return self._progress is not None and bool(self._progress.unheard)

    def __aiter__(self) -> AsyncGenerator[DiscoveryEvent, None]:
        """Return a new subscription: ``worker-added`` per address, then what becomes of the names, without end.

        A name that cannot be looked up is logged, and tried again; no other waits for it.
        """
        self._progress = Progress(self._names)
        return follow(self._progress, self._resolver, fixed=self._fixed, filter=self._filter, limits=self._limits)

    @abstractmethod
    def _resolver(self) -> ResolverLike:
        """Return whom to ask; called on the loop that iterates."""


async def follow(
    progress: Progress,
    resolver: Callable[[], ResolverLike],
    *,
    fixed: Iterable[str] = (),
    filter: WorkerFilter | None,
    limits: Limits,
) -> AsyncGenerator[DiscoveryEvent, None]:
    """Yield who is at the ``fixed`` addresses, then what the names lead to, then changes, without end."""
    loop = asyncio.get_running_loop()
    lookups, roster = Lookups(progress.names, limits), Roster(filter)
    always = [WorkerMetadata.at(address) for address in fixed]
    asked: dict[asyncio.Task[Answer], str] = {}
    resolving = resolver()
    try:
        while True:
            for event in roster.advance([*always, *lookups.workers()]):
                yield event
            busy = set(asked.values())
            for name in lookups.due(loop.time()):
                if name not in busy:
                    work = _ask(resolving, name, limits)
                    asked[loop.create_task(work, name=f"wool looking up {name}")] = name
            due = lookups.next_at(besides=asked.values())
            wait = None if due is None else max(0.0, due - loop.time())
            if not asked:
                await asyncio.sleep(_FOR_EVER if wait is None else wait)
                continue
            done, _ = await asyncio.wait(asked, timeout=wait, return_when=asyncio.FIRST_COMPLETED)
            for task in list(asked):
                if task in done:
                    name = asked.pop(task)
                    _take(lookups, name, task, loop.time(), limits, progress.troubles)
                    progress.unheard.discard(name)
    finally:
        progress.unheard.clear()
        for task in asked:
            task.cancel()
        if asked:
            await asyncio.wait(asked)
        resolving.close()


_FOR_EVER = 86_400.0
"""Nothing is asked; the loop turns once a day."""


async def _ask(resolver: ResolverLike, name: str, limits: Limits) -> Answer:
    try:
        async with asyncio.timeout(limits.lookup_seconds):
            return await resolver.resolve(name)
    except TimeoutError:
        raise LookupFailed(f"no answer within {limits.lookup_seconds} s (lookup_seconds)") from None


def _take(
    lookups: Lookups, name: str, task: asyncio.Task[Answer], now: float, limits: Limits, troubles: dict[str, str]
) -> None:
    again = lookups.has_failed(name)
    try:
        answer = task.result()
    except LookupFailed as error:
        wait = lookups.failed(name, now)
        # Once, and not each time: it may go on for days.
        level = logging.DEBUG if again else logging.WARNING
        _log.log(level, "%s cannot be looked up: %s; workers known so far stay, next try in %g s", name, error, wait)
        troubles[name] = f"{name} cannot be looked up: {error}"
        return
    troubles.pop(name, None)
    if not answer.addresses:
        troubles[name] = f"{name} leads to no worker"
        _log.info("%s leads to no worker", name)
    elif again:
        _log.info("%s can be looked up again", name)
    if lookups.answered(name, answer, now):
        _log.warning("%s leads to more workers than are used: %d (addresses)", name, limits.addresses)
