"""What a user supplies to a pool: a discovery or a load balancer, in whichever form is at hand.

By structure alone: it is one, or makes one when it is called (a class, a function), or is entered to get one (a
context manager, plain or async), or makes what is entered. A manager is entered and left where the pool is, on the
user's loop: it is the user's code.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, AbstractContextManager, AsyncExitStack
from dataclasses import dataclass
from typing import Any, Generic, TypeAlias, TypeVar, cast

from wool.balancer import LoadBalancerLike
from wool.discovery.base import DiscoveryLike, DiscoveryPublisherLike, DiscoverySubscriberLike

_T = TypeVar("_T")
Given: TypeAlias = _T | AbstractContextManager[_T] | AbstractAsyncContextManager[_T]
Supplied: TypeAlias = Given[_T] | Callable[[], Given[_T]]
LoadBalancerArgument: TypeAlias = Supplied[LoadBalancerLike]
DiscoveryArgument: TypeAlias = Supplied[DiscoveryLike]
SubscriberArgument: TypeAlias = Supplied[DiscoverySubscriberLike]


@dataclass(frozen=True, slots=True)
class Kind(Generic[_T]):
    """What is wanted, and what it must have."""

    names: tuple[str, ...]
    needs: str
    hint: str

    def check(self, given: object) -> None:
        """Raise `TypeError` for what can be no form of it, without calling it."""
        if not (self._fits(given) or is_manager(given) or callable(given)):
            raise self._refusal(given, repr(given))

    def made(self, given: object) -> object:
        """Call ``given`` if it makes one, and return what is to be entered. Raises `TypeError` for neither."""
        if isinstance(given, type) or not (self._fits(given) or is_manager(given) or not callable(given)):
            made = cast("Callable[[], object]", given)()
            whose = f"what {given!r:.100} makes, {made!r:.100},"
        else:
            made, whose = given, repr(given)
        if not (self._fits(made) or is_manager(made)):
            if inspect.iscoroutine(made):
                made.close()
            raise self._refusal(made, whose)
        return made

    async def entered(self, made: object, stack: AsyncExitStack) -> _T:
        """Enter what `made` has returned, if it is a manager; ``stack`` leaves it.

        Raises `TypeError` if what comes of it is not what is wanted, and what the manager raises. Cancelled, it is
        entered or it is not, as the manager has it.
        """
        if not is_manager(made):
            return cast("_T", made)
        manager: Any = made
        if hasattr(type(made), "__aenter__"):
            inside = await stack.enter_async_context(manager)
        else:
            inside = stack.enter_context(manager)
        for each in (inside, made):  # of one whose __enter__ returns nothing, itself
            if self._fits(each):
                return cast("_T", each)
        raise self._refusal(inside, f"what {made!r:.100} is entered for, {inside!r:.100},")

    def _fits(self, thing: object) -> bool:
        return not isinstance(thing, type) and all(_has(thing, name) for name in self.names)

    def _refusal(self, thing: object, whose: str) -> TypeError:
        missing = " and no ".join(name for name in self.names if not _has(thing, name)) or "instance"
        return TypeError(f"{self.needs}, {whose:.250} has no {missing}: {self.hint}")


def _has(thing: object, name: str) -> bool:
    try:
        inspect.getattr_static(thing, name)  # without running a property of the user's
    except AttributeError:
        return hasattr(thing, name)
    return True


def is_manager(thing: object) -> bool:
    """Whether ``thing`` is a context manager, plain or async."""
    kind = type(thing)
    if isinstance(thing, type):
        return False
    return hasattr(kind, "__aenter__") or (hasattr(kind, "__enter__") and hasattr(kind, "__exit__"))


LOAD_BALANCER: Kind[LoadBalancerLike] = Kind(
    ("order",), "a load balancer needs order(task, workers)", "see wool.LoadBalancerLike"
)
DISCOVERY: Kind[DiscoveryLike] = Kind(
    ("publisher", "subscriber", "subscribe"),
    "a discovery needs publisher, subscriber and subscribe(filter)",
    "see wool.DiscoveryLike; a subscriber alone is for WorkerProxy",
)
PUBLISHER: Kind[DiscoveryPublisherLike] = Kind(
    ("publish",), "a publisher needs publish(type, metadata)", "see wool.DiscoveryPublisherLike"
)
SUBSCRIBER: Kind[DiscoverySubscriberLike] = Kind(
    ("__aiter__",),
    "discovery must be a subscriber (iterated with 'async for')",
    "give LocalDiscovery(...).subscriber",
)
