"""Exceptions on their way from a worker to the caller.

Why it exists: pickling an exception loses its traceback, its chain and its notes, and fails for every class
whose ``__init__`` takes other arguments than it hands to its base, and for every exception that holds a lock
or a socket. The caller is promised the exception itself. So it is taken apart here, each part is pickled on
its own, and it is put together again without running its ``__init__``.

It owns the form in which exceptions travel, and which of them arrive as the cause of a `RemoteError`. It must
never raise from `capture`, unpickle anything before `rebuild` is called, or add anything to the user's object.

A captured exception is a list of nodes (exceptions: the chain, groups, attributes that are exceptions; so
cycles and sharing are kept) and a list of values, which nodes point into. What cannot be pickled, or loaded,
is replaced alone: a value by a text that holds its ``repr``, a class by `RemoteError`.
"""

from __future__ import annotations

import contextlib
import copyreg
import operator
import pickle
import weakref
from dataclasses import dataclass, field
from types import BuiltinFunctionType, GetSetDescriptorType, MemberDescriptorType
from typing import Any, NamedTuple, cast

from wool.errors import RemoteError, WoolError
from wool.limits import DEFAULT_LIMITS, MOST_LABEL_CHARACTERS, Limits
from wool.remote_traceback import (
    ARGS,
    ATTRIBUTES,
    CAUSE,
    CONTEXT,
    MEMBERS,
    SUPPRESS_CONTEXT,
    TRACEBACK,
    FrameRecord,
    Origin,
    Outline,
    bounded_repr,
    build_traceback,
    cut,
    format_records,
    message_of,
    origin,
    outline_exception,
    print_outline,
    record_traceback,
    type_name,
)
from wool.serialization import PROTOCOL, Payload, dumps_inline, loads, loads_inline

__all__ = ["Origin", "TaskException", "as_outcome", "capture", "origin", "rebuild", "travels_as_cause"]

VALUE_BYTES = 32
"""What a value is reckoned to take beyond its pickled bytes."""

_ATOMS = frozenset({type(None), bool, int, float, complex, str, bytes})
_HOW_TO_PICKLE = ("__reduce_ex__", "__reduce__", "__getstate__", "__setstate__", "__getnewargs__", "__getnewargs_ex__")

_ATOM, _EXCEPTION, _PICKLED, _TEXT = range(4)

_MEMBERS = -1
"""Among the numbers of a group's arguments: its exceptions."""

_stand_ins: weakref.WeakSet[RemoteError] = weakref.WeakSet()
"""What `rebuild` gave in place of an exception: not to be taken for a RemoteError that the body raised."""


class _Node(NamedTuple):
    """One exception on its way. Numbers point to values, and edges (numbers, or a text) to other nodes."""

    name: str
    message: str
    cls: int
    whole: bytes | None
    """The exception as its own class pickles it, if its class says how."""
    args: tuple[int, ...] | None
    """None for those that its making gives a group; `_MEMBERS` in the place of its exceptions."""
    attributes: dict[str, int]
    slots: dict[str, int]
    cause: _Edge
    context: _Edge
    suppress_context: bool
    group: tuple[str, tuple[_Edge, ...], bool] | None
    """Of a group: message, exceptions, and whether they were given as a list."""
    frames: list[tuple[Any, ...]]


_Edge = int | str | None
"""A node's number, what is left of an exception beyond the limit, or nothing."""


# --- Capture -------------------------------------------------------------------------------------------


def capture(
    exc: BaseException,
    *,
    here: Origin | None,
    limits: Limits = DEFAULT_LIMITS,
    thrown: BaseException | None = None,
) -> Payload:
    """Take an exception apart, with its chain, groups, notes and traceback, into something that travels.

    ``here`` is written into the traceback, at its outer end. ``thrown`` is what the other side threw in: where
    it is found again, it is named as such. Never raises. Runs the exception's own
    ``__reduce__``, ``__str__`` and ``__repr__``, where it has them, and pickles its arguments and attributes.
    """
    try:
        stream = _Capture(limits).run(exc, here, thrown)
        if len(stream) <= limits.payload_bytes:
            return Payload((stream,))
    except BaseException:  # User code that a part runs may raise anything: the text is then what is left.
        stream = b""
    return Payload((_as_text(exc, here, limits),))


def _as_text(exc: BaseException, here: Origin | None, limits: Limits) -> bytes:
    message = message_of(exc, min(limits.text_characters, limits.payload_bytes // 8))
    frames: list[tuple[Any, ...]] = []
    with contextlib.suppress(Exception):  # Out of stack or memory: the message matters more.
        limit_bytes = min(limits.traceback_bytes, limits.payload_bytes // 4)
        records = record_traceback(TRACEBACK.__get__(exc), here=here, limit_bytes=limit_bytes)
        frames = [tuple(record) for record in records]
    node = _Node(type_name(type(exc)), message, 0, None, (), {}, {}, None, None, False, None, frames)
    return pickle.dumps(([tuple(node)], [(_TEXT, "it could not be pickled, or is too large")], None), PROTOCOL)


class _Capture:
    """The state of one `capture`."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.bytes_left = limits.payload_bytes // 2
        self.exceptions: list[BaseException] = []
        self.node_of: dict[int, int] = {}
        self.values: list[tuple[Any, ...]] = []
        self.value_of: dict[int, int] = {}
        self.alive: list[object] = []  # An id means nothing once its object is gone.

    def run(self, exc: BaseException, here: Origin | None, thrown: BaseException | None) -> bytes:
        self.edge(exc)
        # Breadth first: where the limit cuts the chain, the nearest exceptions are kept. The list grows.
        nodes = [tuple(self.node(current, here)) for current in self.exceptions]
        mark = self.node_of.get(id(thrown)) if thrown is not None else None
        return pickle.dumps((nodes, self.values, mark), PROTOCOL)

    def edge(self, exc: BaseException | None) -> _Edge:
        if exc is None:
            return None
        number = self.node_of.get(id(exc))
        if number is not None:
            return number
        if len(self.exceptions) >= self.limits.exceptions:
            text = f"{type_name(type(exc))}: {message_of(exc, self.limits.text_characters)}"
            return cut(f"left out, as one of more than {self.limits.exceptions} exceptions: {text}")
        number = self.node_of[id(exc)] = len(self.exceptions)
        self.exceptions.append(exc)
        return number

    def node(self, exc: BaseException, here: Origin | None) -> _Node:
        cls = type(exc)
        tb = TRACEBACK.__get__(exc)
        is_group = issubclass(cls, BaseExceptionGroup)
        border = here if tb is not None or exc is self.exceptions[0] else None
        frames = record_traceback(tb, here=border, limit_bytes=self.limits.traceback_bytes)
        cause, context = self.edge(CAUSE.__get__(exc)), self.edge(CONTEXT.__get__(exc))
        group = self.group(cast("BaseExceptionGroup[Any]", exc)) if is_group else None
        return _Node(
            name=type_name(cls),
            message=message_of(exc, self.limits.text_characters),
            cls=self.value(cls),
            whole=self.whole(exc) if not is_group and _says_how_to_pickle(cls) else None,
            args=self.args(exc, MEMBERS.__get__(exc) if is_group else None),
            attributes=self.attributes(exc),
            slots=self.slots(exc) if not is_group else {},
            cause=cause,
            context=context,
            suppress_context=bool(SUPPRESS_CONTEXT.__get__(exc)),
            group=group,
            frames=[tuple(frame) for frame in frames],
        )

    def args(self, exc: BaseException, members: tuple[BaseException, ...] | None) -> tuple[int, ...] | None:
        given: tuple[object, ...] = ARGS.__get__(exc)
        if members is None:
            return tuple(map(self.value, given))
        natural = [_holds(value, members) for value in given]
        if natural == [False, True] and given[0] == BaseExceptionGroup.__dict__["message"].__get__(exc):
            return None
        return tuple(_MEMBERS if found else self.value(value) for value, found in zip(given, natural, strict=True))

    def group(self, exc: BaseExceptionGroup[Any]) -> tuple[str, tuple[_Edge, ...], bool]:
        members: tuple[BaseException, ...] = MEMBERS.__get__(exc)
        room = max(self.limits.exceptions - len(self.exceptions), 1)
        edges = [self.edge(member) for member in members[:room]]
        if len(members) > room:
            edges.append(f"left out: {len(members) - room} more exceptions of this group")
        given: tuple[object, ...] = ARGS.__get__(exc)
        message: str = BaseExceptionGroup.__dict__["message"].__get__(exc)
        as_list = any(type(value) is list and _holds(value, members) for value in given)
        return cut(message, self.limits.text_characters), tuple(edges), as_list

    def whole(self, exc: BaseException) -> bytes | None:
        try:
            stream = dumps_inline(exc)
        except BaseException:  # Its own __reduce__ may raise anything: it is taken apart then.
            return None
        return stream if self.take(len(stream)) else None

    def attributes(self, exc: BaseException) -> dict[str, int]:
        found: dict[object, object] = ATTRIBUTES.__get__(exc)
        return {name: self.value(value) for name, value in list(found.items()) if type(name) is str}

    def slots(self, exc: BaseException) -> dict[str, int]:
        """Return what is kept in ``__slots__`` and in members written in C, such as ``OSError.errno``."""
        found: dict[str, int] = {}
        for owner in type(exc).__mro__:
            if owner in _NO_MEMBERS:
                continue
            for name, member in list(vars(owner).items()):
                if not _is_member(member) or name in found or name.startswith("__"):
                    continue
                if owner is AttributeError and name == "obj":
                    continue  # Anything at all, which nobody meant to send.
                with contextlib.suppress(AttributeError):  # It is not set.
                    value = member.__get__(exc)
                    if value is not None:
                        found[name] = self.value(value)
        return found

    def value(self, value: object) -> int:
        number = self.value_of.get(id(value))
        if number is None:
            encoded = self.encoded(value)
            number = self.value_of[id(value)] = len(self.values)
            self.values.append(encoded)
            self.alive.append(value)
        return number

    def encoded(self, value: object) -> tuple[Any, ...]:
        kind = type(value)
        if kind in _ATOMS:
            if not (kind is str or kind is bytes) or self.take(len(cast("str", value))):
                return _ATOM, value
            return _TEXT, cut(cast("str", value) if kind is str else bounded_repr(value), self.limits.text_characters)
        if issubclass(kind, BaseException):
            return _EXCEPTION, self.edge(cast("BaseException", value))
        try:
            stream = dumps_inline(value)
        except BaseException as error:  # Its own __reduce__ may raise anything: only this value is lost.
            why = f"{type_name(type(error))}: {message_of(error, MOST_LABEL_CHARACTERS)}"
            return _TEXT, f"<not picklable: {bounded_repr(value)} ({why})>"
        if not self.take(len(stream)):
            return _TEXT, f"<too large: {bounded_repr(value)}>"
        return _PICKLED, stream, type_name(kind)

    def take(self, size: int) -> bool:
        if size + VALUE_BYTES > self.bytes_left:
            return False
        self.bytes_left -= size + VALUE_BYTES
        return True


_NO_MEMBERS = frozenset({BaseException, object})


def _is_member(attribute: object) -> bool:
    return isinstance(attribute, MemberDescriptorType | GetSetDescriptorType)


def _says_how_to_pickle(cls: type) -> bool:
    """Tell whether ``cls`` pickles otherwise than the exceptions of Python itself, and is to be heard first."""
    if cls in copyreg.dispatch_table:
        return True
    for name in _HOW_TO_PICKLE:
        owner = next((owner for owner in cls.__mro__ if name in vars(owner)), None)
        if owner is not None and owner.__module__ != "builtins":
            return True
    # One written in C may keep what only its own __init__ can restore.
    return any(
        isinstance(vars(owner).get("__new__"), BuiltinFunctionType)
        for owner in cls.__mro__
        if owner.__module__ != "builtins"
    )


# --- Rebuild -------------------------------------------------------------------------------------------


def rebuild(payload: Payload, thrown: BaseException | None = None) -> BaseException:
    """Put a captured exception together again: the exception itself, or a `RemoteError` that stands in for it.

    Where it names what was thrown in, ``thrown`` takes its place, with what has been added to it.
    Imports its class, and runs what its arguments and attributes run when they are loaded; not its
    ``__init__``, unless its class says by ``__reduce__`` that it wants to be called. Raises nothing of its own.
    """
    try:
        nodes, values, mark = cast("tuple[list[Any], list[Any], int | None]", loads(payload))
        return _Rebuild([_Node(*node) for node in nodes], values, mark, thrown).run()
    except Exception as error:  # Not what `capture` makes: the peer is to blame, and the body has run all the same.
        return _stand_in(
            f"an exception that could not be read: {type_name(type(error))}: {message_of(error, MOST_LABEL_CHARACTERS)}"
        )


def _stand_in(message: str) -> RemoteError:
    stand_in = RemoteError(message)
    _stand_ins.add(stand_in)
    return stand_in


class _NotLoaded(str):
    """What stands for a value that could not be loaded."""

    __slots__ = ()


class _Rebuild:
    """The state of one `rebuild`."""

    def __init__(
        self, nodes: list[_Node], values: list[tuple[Any, ...]], mark: int | None, thrown: BaseException | None
    ) -> None:
        self.nodes = nodes
        self.values = values
        self.loaded: dict[int, object] = {}
        self.made: dict[int, BaseException] = {}
        self.complete: set[int] = set()
        self.thrown = mark if thrown is not None else None
        if mark is not None and thrown is not None:
            self.made[mark] = thrown

    def run(self) -> BaseException:
        for number in range(len(self.nodes)):
            self.make_with_members(number)
        for number, node in enumerate(self.nodes):
            self.fill(number, node)
        return self.made[0]

    def make_with_members(self, number: int) -> None:
        """Make the exceptions of a group before the group, which is immutable. No recursion: groups nest."""
        waiting, expanded = [number], set[int]()
        while waiting:
            current = waiting[-1]
            group = self.nodes[current].group
            if current in self.made:
                waiting.pop()
            elif group is None or current in expanded:
                self.made[current] = self.make(current, self.nodes[current])
            else:
                expanded.add(current)
                waiting += [edge for edge in group[1] if isinstance(edge, int) and edge not in self.made]

    def make(self, number: int, node: _Node) -> BaseException:
        cls = self.value(node.cls)
        if isinstance(cls, type) and issubclass(cls, BaseException):
            if node.whole is not None:
                with _whatever_user_code_raises():
                    whole = loads_inline(node.whole)
                    if type(whole) is cls:
                        self.complete.add(number)
                        return whole
            with _whatever_user_code_raises():
                return self.make_by_parts(cls, node)
        self.complete.add(number)
        why = cls if isinstance(cls, str) else "its class is not what it was, or cannot be made"
        frames = format_records(FrameRecord(*frame) for frame in node.frames)
        traceback = f"\n\nRemote traceback (most recent call last):\n{frames}" if frames else ""
        return _stand_in(f"{node.name}: {node.message}\n({why}){traceback}")

    def make_by_parts(self, cls: type[BaseException], node: _Node) -> BaseException:
        new = next(vars(owner)["__new__"] for owner in cls.__mro__ if _makes_natively(owner))
        if node.group is None:
            made = new(cls)
        else:
            message, edges, as_list = node.group
            members = [self.edge(edge) for edge in edges]
            made = new(cls, message, members if as_list else tuple(members))
        return cast("BaseException", made)

    def edge(self, edge: _Edge) -> BaseException | None:
        if isinstance(edge, str):
            return _stand_in(edge)
        return None if edge is None else self.made[edge]

    def value(self, number: int) -> Any:
        if number not in self.loaded:
            kind, content, *name = self.values[number]
            if kind == _EXCEPTION:
                content = self.edge(content)
            elif kind == _PICKLED:
                content = _load(content, name[0])
            elif kind == _TEXT:
                content = _NotLoaded(content)
            self.loaded[number] = content
        loaded = self.loaded[number]
        return str(loaded) if type(loaded) is _NotLoaded else loaded

    def fill(self, number: int, node: _Node) -> None:
        exc = self.made[number]
        if number == self.thrown:
            self.update(exc, node)
            return
        if number not in self.complete:
            self.fill_parts(exc, node)
        elif "__notes__" in node.attributes and type(exc) is not RemoteError:
            ATTRIBUTES.__get__(exc).setdefault("__notes__", self.value(node.attributes["__notes__"]))
        CAUSE.__set__(exc, self.edge(node.cause))
        CONTEXT.__set__(exc, self.edge(node.context))
        SUPPRESS_CONTEXT.__set__(exc, node.suppress_context)
        TRACEBACK.__set__(exc, build_traceback([FrameRecord(*frame) for frame in node.frames]))

    def update(self, exc: BaseException, node: _Node) -> None:
        """Give an object of this side what the other side's copy of it has gained; what it is made of stays."""
        attributes: dict[str, object] = ATTRIBUTES.__get__(exc)
        for name, number in node.attributes.items():
            value = self.value(number)
            if name == "__notes__" or name not in attributes or _differ(attributes[name], value):
                attributes[name] = value
        if node.whole is None and node.args is not None:
            args = self.args(node.args, node)
            given: tuple[object, ...] = ARGS.__get__(exc)
            if len(args) != len(given) or any(map(_differ, given, args)):
                ARGS.__set__(exc, args)
        for member, edge in ((CAUSE, node.cause), (CONTEXT, node.context)):
            found = self.edge(edge)
            # A copy of what was there from the beginning does not replace it.
            if found is None or type(found) is not type(member.__get__(exc)):
                member.__set__(exc, found)
        SUPPRESS_CONTEXT.__set__(exc, node.suppress_context)
        TRACEBACK.__set__(exc, build_traceback([FrameRecord(*frame) for frame in node.frames]))

    def args(self, numbers: tuple[int, ...], node: _Node) -> tuple[object, ...]:
        members: object = None
        if node.group is not None:
            _, edges, as_list = node.group
            members = [self.edge(edge) for edge in edges] if as_list else tuple(map(self.edge, edges))
        return tuple(members if number == _MEMBERS else self.value(number) for number in numbers)

    def fill_parts(self, exc: BaseException, node: _Node) -> None:
        if node.args is not None:
            ARGS.__set__(exc, self.args(node.args, node))
        ATTRIBUTES.__get__(exc).update({name: self.value(value) for name, value in node.attributes.items()})
        for name, value in node.slots.items():
            members = (vars(owner).get(name) for owner in type(exc).__mro__)
            member: Any = next(filter(_is_member, members), None)
            if member is not None:
                with contextlib.suppress(AttributeError, TypeError, ValueError):  # Read-only, or a placeholder.
                    member.__set__(exc, self.value(value))


def _holds(value: object, members: tuple[BaseException, ...]) -> bool:
    """Tell whether ``value`` is the sequence of exceptions that a group was made of."""
    if type(value) not in (list, tuple):
        return False
    found = cast("list[object] | tuple[object, ...]", value)
    return len(found) == len(members) and all(map(operator.is_, found, members))


def _differ(here: object, there: object) -> bool:
    """Tell whether a value was replaced there: of two atoms it can be told."""
    return type(here) in _ATOMS and type(there) in _ATOMS and here != there


def _makes_natively(owner: type) -> bool:
    return owner.__module__ == "builtins" and "__new__" in vars(owner)


@contextlib.contextmanager
def _whatever_user_code_raises() -> Any:
    """Go on after whatever a user's import, ``__setstate__`` or ``__reduce__`` raises, but a Ctrl-C."""
    try:
        yield
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        del error


def _load(stream: bytes, name: str) -> object:
    try:
        return loads_inline(stream)
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        return _NotLoaded(f"<not loaded: {name}: {type_name(type(error))}: {message_of(error, MOST_LABEL_CHARACTERS)}>")


# --- What the caller sees ------------------------------------------------------------------------------


def travels_as_cause(exc: BaseException) -> bool:
    """Tell whether ``exc``, raised by a body, would be misread if the call raised it as it is."""
    return issubclass(type(exc), WoolError | SystemExit | KeyboardInterrupt | GeneratorExit)


def as_outcome(exc: BaseException) -> BaseException:
    """Return what a call raises whose body raised ``exc``: itself, or a `RemoteError` from it.

    The `RemoteError` has the same traceback, and so the same `origin`.
    """
    if not travels_as_cause(exc) or (type(exc) is RemoteError and exc in _stand_ins):
        return exc
    message = message_of(exc, DEFAULT_LIMITS.text_characters)
    outcome = RemoteError(f"the routine raised {type_name(type(exc)).removeprefix('builtins.')}: {message}")
    outcome.__cause__ = exc
    return outcome.with_traceback(exc.__traceback__)


@dataclass(frozen=True, slots=True)
class TaskException:
    """An exception as text, for events and logs. It holds no live object."""

    type: str
    """``module.qualname`` of its class."""
    message: str = field(repr=False)
    """What ``str`` of it says; not in the repr, since it may hold what the routine was given."""
    _outline: Outline = field(repr=False)
    _characters: int = field(repr=False)

    @property
    def traceback(self) -> str:
        """As Python prints it; its end, where it is very long. Made when asked for: few are, and it takes long."""
        return print_outline(self._outline, self._characters)

    @classmethod
    def from_exception(cls, exc: BaseException, *, limits: Limits = DEFAULT_LIMITS) -> TaskException:
        """Describe ``exc``. Never raises; each text has at most about ``limits.text_characters``."""
        characters = limits.text_characters
        return cls(type_name(type(exc)), message_of(exc, characters), outline_exception(exc, characters), characters)
