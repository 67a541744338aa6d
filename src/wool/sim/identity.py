"""Which node has made which object: none is ever seen by another, only copies of it.

Owns what is kept of results, items and exceptions that bodies make, for as long as the run: a kept object's identity is
given to no other. It must never keep an exception itself, whose traceback keeps all that its body had: what is kept is
the tuple of its arguments, which is its own.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import cast


class Made:
    """The objects that nodes have made, in one run."""

    def __init__(self) -> None:
        self._known: dict[int, tuple[str, object]] = {}

    def keep(self, node: str, what: object) -> None:
        """Note that a node has made ``what``, if an object of its type is like no other."""
        for part in _own(what):
            self._known[id(part)] = (node, part)

    def elsewhere(self, node: str, what: object) -> str | None:
        """Return which other node has made ``what``, if one has and this node sees the very object."""
        for part in _own(what):
            maker, _ = self._known.get(id(part), (node, None))
            if maker != node:
                return maker
        return None


def _own(what: object) -> Iterator[object]:
    """Yield what of an object no other has: numbers and short strings are shared in any process."""
    if isinstance(what, BaseException):
        yield from _own(what.args)
        if what.__cause__ is not None:
            yield from _own(what.__cause__.args)
    elif isinstance(what, tuple) and what:
        yield cast("object", what)
        yield from (item for item in cast("Iterable[object]", what) if isinstance(item, bytes) and len(item) > 1)
    elif isinstance(what, bytes) and len(what) > 1:
        yield what
