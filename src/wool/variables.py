"""`wool.ContextVar`: a context variable whose value goes along with a routine call, and comes back with its answer.

Why it exists: a routine is to behave as the function that it was, and what a local ``await`` reads and writes is the
context of whoever awaits. A `contextvars.ContextVar` has no name that another process could know it by.

What it owns: the identity of variables across processes, and what of a context travels: the variables that were set,
as the difference to what the other side has. Values are kept in contexts of the standard library, which says who sees
what; here is only noted which variables a context has.

It must never load a value before somebody reads it (a worker passes on what it cannot import), nor cost anything
where no variable is set.
"""

from __future__ import annotations

import contextvars
import pickle
import sys
import uuid
import weakref
from collections.abc import Mapping
from importlib import import_module
from inspect import CO_OPTIMIZED, currentframe
from types import CodeType, FrameType, TracebackType
from typing import Any, Final, Generic, TypeAlias, TypeVar, cast, final, overload

from wool.errors import SerializationError
from wool.references import MAIN_MODULES, travels_by_value
from wool.serialization import PROTOCOL, dumps_inline, loads_inline

_T = TypeVar("_T")
_D = TypeVar("_D")

_MISSING: Final[Any] = contextvars.Token.MISSING
_ANONYMOUS = "#"
"""Begins the origin of a variable that no module has, where others have the name of a module."""

_Key: TypeAlias = tuple[str, str]


class _Slot:
    """What a variable is, whatever objects stand for it: its identity, and where its values are kept."""

    __slots__ = ("__weakref__", "code", "inner", "key", "variable")

    def __init__(self, key: _Key) -> None:
        self.key: _Key = key
        self.inner: contextvars.ContextVar[Any] = contextvars.ContextVar(key[1])
        self.variable: weakref.ref[ContextVar[Any]] | None = None
        self.code: weakref.ref[CodeType] | None = None
        """Of the module that defined it; None if the variable has come from elsewhere."""

    @property
    def owner(self) -> ContextVar[Any] | None:
        """The object that stands for it here, if there is one."""
        return None if self.variable is None else self.variable()

    @property
    def is_anonymous(self) -> bool:
        return self.key[0].startswith(_ANONYMOUS)

    def __str__(self) -> str:
        origin, name = self.key
        return f"context variable {name!r}" + ("" if self.is_anonymous else f" of module {origin!r}")


_slots: weakref.WeakValueDictionary[_Key, _Slot] = weakref.WeakValueDictionary()


def _slot(key: _Key) -> _Slot:
    slot = _slots.get(key)
    if slot is None:
        slot = _slots.setdefault(key, _Slot(key))
    return slot


class _Travelled:
    """A value that has come from another process, as it came; loaded when somebody reads it."""

    __slots__ = ("_stream", "_value")

    def __init__(self, stream: bytes) -> None:
        self._stream: bytes | None = stream
        self._value: Any = None

    def load(self, slot: _Slot) -> Any:
        stream = self._stream
        if stream is not None:
            try:
                value = loads_inline(stream)
            except Exception as error:
                error.add_note(f"wool cannot load the value of {slot} here")
                raise
            if self._stream is not None:  # else another thread was faster, and its object is the one
                self._value, self._stream = value, None
        return self._value

    def packed(self) -> bytes:
        """Return the value as it travels on. Raises what pickling raises."""
        # What was loaded may have been changed in place.
        stream = self._stream
        return dumps_inline(self._value) if stream is None else stream


class Held:
    """What a context has of all variables: an immutable record, another one after each change."""

    __slots__ = ("packed", "values")

    def __init__(self, values: Mapping[_Slot, Any]) -> None:
        self.values: Mapping[_Slot, Any] = values
        self.packed: bytes | None = None
        """All of it as it travels, once it has, if that cannot change."""


_held: contextvars.ContextVar[Held | None] = contextvars.ContextVar("wool.variables", default=None)


def held() -> Held | None:
    """Return what this context has: None if no variable was ever set in it."""
    return _held.get()


def _note(slot: _Slot, value: Any) -> None:
    before = _held.get()
    values = {} if before is None else dict(before.values)
    if value is _MISSING:
        values.pop(slot, None)
    else:
        values[slot] = value
    _held.set(Held(values))


@final
class Token(Generic[_T]):
    """What `ContextVar.set` returns: to put back, by `ContextVar.reset`, what was there. As `contextvars.Token`."""

    __slots__ = ("_inner", "_slot", "_var")

    MISSING: Final = contextvars.Token.MISSING

    def __init__(self, var: ContextVar[_T], slot: _Slot, inner: contextvars.Token[Any]) -> None:
        self._var = var
        self._slot: _Slot = slot
        self._inner = inner

    @property
    def var(self) -> ContextVar[_T]:
        """The variable that was set."""
        return self._var

    @property
    def old_value(self) -> _T | Any:
        """What it was set to before; `Token.MISSING` if it was not."""
        value = self._inner.old_value
        return value.load(self._slot) if type(value) is _Travelled else value

    def __enter__(self) -> Token[_T]:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._var.reset(self)

    def __repr__(self) -> str:
        return f"<wool.Token var={self._var!r} at {id(self):#x}>"

    def __reduce__(self) -> str | tuple[Any, ...]:
        raise TypeError("cannot pickle a wool.Token: what it puts back is in a context of this process")


@final
class ContextVar(Generic[_T]):
    """A context variable that routine calls take along: as `contextvars.ContextVar`, across processes too.

    What the caller has set is seen by the body of a routine and by the routines that it calls; what the body sets is
    seen by the caller after the ``await``, and at each item of a generator, in both directions, also when the body
    raises. Concurrent calls do not see each other's values. Only what was set travels, pickled, and only when it has
    changed; the other side has a copy, as of an argument, and loads it when it reads it.

    Create it once, at the top of a module that workers can import: ``name`` and module are what other processes know
    it by. A second variable with the name of another in the same module raises `ValueError`. One of ``__main__``, or
    made in a function, is known by an identity of its own, which travels with the functions that use it.

    Values of one call take at most ``context_bytes`` pickled; pass more as an argument. A call whose values cannot be
    pickled raises what pickling raised, with a note that names the variable, and does not run.
    """

    __slots__ = ("__weakref__", "_default", "_name", "_slot")

    def __init__(self, name: str, *, default: _T = _MISSING) -> None:
        if not isinstance(cast("object", name), str):
            raise TypeError(
                f"the name of a context variable must be a str, got {type(name).__qualname__}: {name!r:.100}"
            )
        self._name = name
        self._default: Any = default
        origin, code = _origin(cast("FrameType", currentframe()).f_back)
        self._slot = slot = _slot((origin, name))
        defined_by = None if slot.code is None else slot.code()
        if code is not None and defined_by is code and slot.owner is not None:
            raise ValueError(
                f"module {origin!r} defines two context variables with the name {name!r}: give each a name of its own, "
                "by which other processes know it"
            )
        slot.variable = weakref.ref(self)
        slot.code = None if code is None else weakref.ref(code)

    def __init_subclass__(cls) -> None:
        raise TypeError("wool.ContextVar is not to be subclassed, as contextvars.ContextVar is not")

    @property
    def name(self) -> str:
        """What it is called."""
        return self._name

    @overload
    def get(self, /) -> _T: ...
    @overload
    def get(self, default: _T, /) -> _T: ...
    @overload
    def get(self, default: _D, /) -> _T | _D: ...

    def get(self, default: Any = _MISSING, /) -> Any:
        """Return the value in this context; else ``default``; else the variable's own default.

        Raises `LookupError` if there is none of these. A value that has come from another process and cannot be
        loaded here raises what loading it raises, with a note that names the variable.
        """
        value = self._slot.inner.get(_MISSING)
        if type(value) is _Travelled:
            return value.load(self._slot)
        if value is not _MISSING:
            return value
        if default is not _MISSING:
            return default
        if self._default is not _MISSING:
            return self._default
        raise LookupError(self)

    def set(self, value: _T, /) -> Token[_T]:
        """Set the value in this context. Return what `reset` takes to put back what was there."""
        inner = self._slot.inner.set(value)
        _note(self._slot, value)
        return Token(self, self._slot, inner)

    def reset(self, token: Token[_T], /) -> None:
        """Put back what was there before the `set` that returned ``token``.

        Raises `RuntimeError` if that was done, `ValueError` for the token of another variable or context.
        """
        if not isinstance(cast("object", token), Token):
            raise TypeError(f"expected an instance of wool.Token, got {token!r:.100}")
        slot, given = self._slot, cast("Any", token)
        if given._slot is not slot:
            raise ValueError(f"{token!r} was created by a different ContextVar")
        try:
            slot.inner.reset(given._inner)
        except RuntimeError:
            raise RuntimeError(f"{token!r} has already been used once") from None
        except ValueError:
            raise ValueError(f"{token!r} was created in a different Context") from None
        _note(slot, slot.inner.get(_MISSING))

    def __repr__(self) -> str:
        default = "" if self._default is _MISSING else f" default={self._default!r}"
        return f"<wool.ContextVar name={self._name!r}{default} at {id(self):#x}>"

    def __reduce__(self) -> tuple[Any, ...]:
        origin, name = self._slot.key
        if not self._slot.is_anonymous and not travels_by_value(origin):
            return _variable, (origin, name)
        return _variable, (origin, name, () if self._default is _MISSING else (self._default,))

    def __copy__(self) -> ContextVar[_T]:
        return self

    def __deepcopy__(self, memo: object) -> ContextVar[_T]:
        return self


# ---- identity ----------------------------------------------------------------------------------------


def _origin(frame: FrameType | None) -> tuple[str, CodeType | None]:
    """Return what a variable that ``frame`` makes is known by besides its name, and the code that defines it.

    That is the module whose top level is being executed, here as in every process that imports it.
    """
    while frame is not None and frame.f_globals.get("__name__") == "typing":
        frame = frame.f_back  # ContextVar[int]("name")
    direct = True
    while frame is not None:
        if frame.f_code.co_flags & CO_OPTIMIZED:
            direct = False
        elif frame.f_code.co_name == "<module>":
            module: object = frame.f_globals.get("__name__")
            spec = frame.f_globals.get("__spec__")
            # A function that is called from there counts while the module is imported, and not while it runs a program.
            importing = direct or getattr(spec, "_initializing", False)
            if type(module) is str and module not in MAIN_MODULES and importing and _is_module(module, frame):
                return module, frame.f_code
            break
        frame = frame.f_back
    return _ANONYMOUS + uuid.uuid4().hex, None


def _is_module(name: str, frame: FrameType) -> bool:
    return getattr(sys.modules.get(name), "__dict__", None) is frame.f_globals


def _variable(origin: str, name: str, default: tuple[Any] | tuple[()] | None = None) -> ContextVar[Any]:
    """Return the variable of this process that is known by ``origin`` and ``name``.

    ``default`` comes along where there may be no module to import: then a variable is made that stands for it.
    """
    known = _slots.get((origin, name))
    variable = None if known is None else known.owner
    if variable is not None:
        return variable
    if not origin.startswith(_ANONYMOUS):
        try:
            import_module(origin)
        except ModuleNotFoundError:
            if default is None:
                raise
        known = _slots.get((origin, name))
        variable = None if known is None else known.owner
        if variable is not None:
            return variable
    if default is None:
        raise AttributeError(f"module {origin!r} has no context variable {name!r} like the other process's", name=name)
    stand_in = cast("Any", object.__new__(ContextVar))
    stand_in._name = name
    stand_in._default = default[0] if default else _MISSING
    stand_in._slot = slot = _slot((origin, name))
    slot.variable, slot.code = weakref.ref(stand_in), None
    return cast("ContextVar[Any]", stand_in)


# ---- on the way --------------------------------------------------------------------------------------

_ATOMS = frozenset({type(None), bool, int, float, complex, str, bytes})


class ContextFault(Exception):
    """What was set cannot travel. ``cause`` is what pickling raised; None if it is only too large."""

    def __init__(self, words: str, cause: BaseException | None = None) -> None:
        super().__init__(words)
        self.cause = cause

    def for_caller(self, consequence: str, *, executed: bool = False) -> BaseException:
        """Return what a caller is to see: the error of its own value, with a note, or ours."""
        if self.cause is None:
            return SerializationError(f"{self}; {consequence}", executed="yes" if executed else "no")
        self.cause.add_note(f"wool cannot pickle {self}; {consequence}")
        return self.cause

    def for_worker(self, task: object) -> SerializationError:
        """Return what the caller of a body is to see."""
        if self.cause is None:
            return SerializationError(f"{self}: set by {task}", executed="yes")
        error = SerializationError(
            f"{self}, set by {task}, cannot be pickled: {type(self.cause).__name__}: {self.cause}", executed="yes"
        )
        error.__cause__ = self.cause
        return error


def pack(now: Held | None, before: Held | None, limit_bytes: int) -> bytes:
    """Return how ``now`` differs from ``before``, as bytes for `receive`; none if it does not.

    Raises `ContextFault`.
    """
    if now is before:
        return b""
    if before is None and now is not None and now.packed is not None:
        return now.packed
    old: Mapping[_Slot, Any] = {} if before is None else before.values
    new: Mapping[_Slot, Any] = {} if now is None else now.values
    lasting = before is None
    entries: list[tuple[str, str, bytes | None]] = []
    for slot, value in new.items():
        if old.get(slot, _MISSING) is value:
            continue
        lasting = lasting and type(value) in _ATOMS and not slot.is_anonymous
        if slot.is_anonymous and slot.owner is None:
            continue  # Nobody here can read it, and so nobody can who is called from here.
        entries.append((*slot.key, _packed(slot, value)))
    entries += [(*slot.key, None) for slot in old if slot not in new]
    if not entries:
        return b""
    packed = pickle.dumps(entries, PROTOCOL)
    if len(packed) > limit_bytes:
        origin, name, _ = max(entries, key=lambda entry: len(entry[2] or b""))
        raise ContextFault(
            f"context variables take {len(packed)} bytes pickled, the limit is {limit_bytes} (context_bytes), and the "
            f"largest of them is {_slot((origin, name))}: pass the data as an argument, or set a reference to it"
        )
    if lasting and now is not None:
        now.packed = packed
    return packed


def _packed(slot: _Slot, value: Any) -> bytes:
    try:
        return value.packed() if type(value) is _Travelled else dumps_inline(value)
    except BaseException as error:
        # On a worker it must not leave the body's task, whatever it is; the caller gets it as it was.
        if type(value) is _Travelled:
            value = value.load(slot)
        raise ContextFault(
            f"the value of {slot}, of type {type(value).__module__}.{type(value).__qualname__}", error
        ) from None


def receive(packed: bytes) -> Held | None:
    """Set in this context what `pack` has packed elsewhere; return what the context has now.

    Raises what unpickling raises if it was not `pack`. Values are loaded later, by whoever reads them.
    """
    entries = cast("list[tuple[str, str, bytes | None]]", pickle.loads(packed))
    before = _held.get()
    values = {} if before is None else dict(before.values)
    for origin, name, stream in entries:
        slot = _slot((origin, name))
        if stream is None:
            values.pop(slot, None)
            slot.inner.set(_MISSING)
        else:
            values[slot] = value = _Travelled(stream)
            slot.inner.set(value)
    now = Held(values)
    _held.set(now)
    return now
