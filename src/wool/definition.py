"""What a worker must know to run a routine's body: its raw function, as bytes with a digest.

Why it exists: definitions travel once per session and are named by their digest afterwards, so making one
must cost next to nothing when it has not changed, and must notice whenever it has.

It owns the layout of the blob and the caches. It must never hand out a definition that is older than the
function: what cannot be proven unchanged is pickled again, on each call.

A function that the other side can import travels as its name; `define` only checks that the name still leads
to it. Any other travels by value, as cloudpickle sees it: its code, defaults, closure and the globals that
its code names, and so on through the functions found there. Such a blob is kept together with a *proof*: all
those values, compared by identity. Only values that cannot change inside count (atoms, modules, whatever is
importable, tuples of such, and by-value functions, which are proven in turn); one list among the globals, or
one class of ``__main__``, and there is no proof.
"""

from __future__ import annotations

import dis
import functools
import hashlib
import logging
import pickle
import sys
import typing
import weakref
from collections.abc import Callable, Iterator, Mapping
from types import (
    BuiltinFunctionType,
    CodeType,
    FunctionType,
    GetSetDescriptorType,
    MemberDescriptorType,
    ModuleType,
    UnionType,
)
from typing import Any, NamedTuple, cast

from wool.limits import KNOWN_DEFINITIONS
from wool.references import (
    MAIN_MODULES,
    ROUTINE_ATTRIBUTE,
    Reference,
    find_reference,
    follow_reference,
    importable,
    registered_by_value,
    travels_by_value,
    unwrap,
)
from wool.serialization import Definition, dumps_by_value, dumps_inline, loads_inline, raw_function
from wool.variables import ContextVar, Token

__all__ = ["Definition", "define", "load_definition", "routine_name", "unpicklable_part"]

DIGEST_BYTES = 16
"""Of a definition's name on the wire: no two definitions of a session will ever meet."""

PROVEN_BLOB_BYTES = 1024 * 1024
"""A larger by-value blob is not kept: pickling it is a small part of what its call costs."""

PROVEN_FUNCTIONS = 64
"""Functions in one proof: beyond, checking it costs as much as pickling again."""

LOADED_REFERENCES = 1024
"""By-reference definitions that a worker keeps resolved: as many as a session keeps definitions."""

_BY_REFERENCE = b"r"
_BY_VALUE = b"v"


def define(function: FunctionType) -> Definition:
    """Return the definition of a routine's raw function as it is now.

    Raises what `wool.serialization.dumps` raises if the function must travel by value and cannot.
    """
    known = _known.get(function)
    if known is not None and known.holds(function):
        return known.definition
    reference = find_reference(function)
    if reference is not None:
        blob = _BY_REFERENCE + "\0".join([reference.module, reference.qualname, str(reference.steps)]).encode()
        definition = _definition(function, blob, by_value=False)
        _remember(function, _Found(definition, reference, tuple(reference.qualname.split("."))))
        return definition
    return _define_by_value(function)


def load_definition(blob: bytes) -> Callable[..., Any]:
    """Return the raw function of a definition.

    By value it is made anew each time, so that nothing which a body writes to its globals is left for the
    next. Raises whatever the import or the unpickling raises.
    """
    if blob[:1] == _BY_REFERENCE:
        return _load_reference(blob)
    if blob[:1] != _BY_VALUE:
        raise pickle.UnpicklingError("this is not the definition of a routine")
    function = loads_inline(blob[1:])
    if not isinstance(function, FunctionType):
        raise pickle.UnpicklingError(f"the definition of a routine holds a {type(function).__qualname__}")
    return function


@functools.lru_cache(maxsize=LOADED_REFERENCES)
def _load_reference(blob: bytes) -> FunctionType:
    module, qualname, steps = blob[1:].decode().split("\0")
    return follow_reference(module, qualname, int(steps))


def routine_name(blob: bytes) -> str | None:
    """Return ``module:qualname`` of a definition that travels as its name, without loading it; else None."""
    if blob[:1] != _BY_REFERENCE:
        return None
    try:
        module, qualname, _ = blob[1:].decode().split("\0")
    except ValueError:
        return None
    return f"{module}:{qualname}"


def _definition(function: FunctionType, blob: bytes, *, by_value: bool) -> Definition:
    digest = hashlib.blake2b(blob, digest_size=DIGEST_BYTES).digest()
    return Definition(digest, blob, f"{function.__module__}:{function.__qualname__}", by_value)


def _define_by_value(function: FunctionType) -> Definition:
    # The proof is taken first and checked again after: another thread may change a global in between.
    proof = None if function in _hopeless else _prove(function)
    definition = _definition(function, _BY_VALUE + dumps_by_value(function), by_value=True)
    if proof is None or len(definition.blob) > PROVEN_BLOB_BYTES:
        _hopeless.add(function)
    else:
        proven = _Proven(definition, proof)
        if proven.holds(function):
            _remember(function, proven)
    return definition


# --- What is to blame ----------------------------------------------------------------------------------


def unpicklable_part(function: FunctionType) -> str:
    """Name what keeps a by-value function from being pickled, for people, by the way that leads to it."""
    return _blame(function, set()) or "all of it together"


def _blame(thing: object, seen: set[int]) -> str | None:
    seen.add(id(thing))
    for name, value in _parts(thing):
        behind = _function_behind(value)
        if id(behind) in seen or len(seen) > PROVEN_FUNCTIONS or _can_be_pickled(behind):
            continue
        if not isinstance(behind, FunctionType | type | GetSetDescriptorType | MemberDescriptorType):
            return f"{name}, of type {type(behind).__module__}.{type(behind).__qualname__}"
        # If nothing in it is to blame, it only leads back to what is.
        inner = _blame(behind, seen)
        if inner is not None:
            return f"{name}, {inner}"
    return None


def _function_behind(value: object) -> object:
    if isinstance(value, property):
        value = value.fget
    elif isinstance(value, functools.cached_property):
        value = cast("functools.cached_property[object]", value).func
    elif not isinstance(value, FunctionType | type):
        value = unwrap(value) or value
    return (raw_function(value) or value) if isinstance(value, FunctionType) else value


def _can_be_pickled(value: object) -> bool:
    try:
        dumps_inline(value)
    except Exception:  # Whatever the user's own code raises: that is what is looked for.
        return False
    return True


def _parts(thing: object) -> Iterator[tuple[str, object]]:
    """Yield what a function or class that travels by value takes along."""
    if isinstance(thing, FunctionType):
        cells = zip(thing.__code__.co_freevars, thing.__closure__ or (), strict=False)
        yield from ((f"variable {name!r} of its closure", _content(cell)) for name, cell in cells)
        scope = thing.__globals__
        yield from (
            (f"its global {name!r}", scope[name]) for name in sorted(_names_of(thing.__code__)) if name in scope
        )
        defaults = [*(thing.__defaults__ or ()), *(thing.__kwdefaults__ or {}).values()]
        yield from (("a default of its parameters", value) for value in defaults)
        yield from ((f"its annotation of {name!r}", value) for name, value in thing.__annotations__.items())
        yield from ((f"its attribute {name!r}", value) for name, value in vars(thing).items())
    elif isinstance(thing, type) and not importable(thing):
        yield from ((f"its attribute {name!r}", value) for name, value in vars(thing).items())


# --- What is remembered --------------------------------------------------------------------------------


class _Found(NamedTuple):
    """A function that was found by its name. Holds no reference to it: it is the value of a weak key."""

    definition: Definition
    reference: Reference
    names: tuple[str, ...]

    def holds(self, function: FunctionType) -> bool:
        module, _, steps = self.reference
        if steps <= 1:
            # The common case, spelled out: a function or a method, plain or behind its routine's wrapper.
            found: Any = sys.modules.get(module)
            try:
                for name in self.names:
                    found = found.__dict__[name]
                if steps:
                    found = found.__dict__[ROUTINE_ATTRIBUTE].function
            except (AttributeError, KeyError):
                found = None
            if found is function:
                return not registered_by_value(module)
        return find_reference(function) == self.reference


class _Guard(NamedTuple):
    """What one by-value function consisted of. Functions among the values are weak references to them."""

    function: weakref.ref[FunctionType]
    fixed: tuple[object, ...]
    cells: tuple[object, ...]
    scope: tuple[tuple[str, object], ...]
    keywords: Mapping[str, object] | None
    annotations: Mapping[str, object]
    attributes: Mapping[str, object]


class _Proven(NamedTuple):
    """A by-value definition, and all that it depends on."""

    definition: Definition
    proof: _Proof

    def holds(self, function: FunctionType) -> bool:
        return self.proof.holds() and ("<locals>" in function.__qualname__ or find_reference(function) is None)


class _Proof(NamedTuple):
    guards: tuple[_Guard, ...]
    modules: int | None
    """How many modules were imported, if it matters: cloudpickle sends along what is imported of a package."""

    def holds(self) -> bool:
        if self.modules is not None and len(sys.modules) != self.modules:
            return False
        return all(map(_guard_holds, self.guards))


_known: weakref.WeakKeyDictionary[FunctionType, _Found | _Proven] = weakref.WeakKeyDictionary()
_hopeless: weakref.WeakSet[FunctionType] = weakref.WeakSet()
"""By-value functions with something mutable in them, which is not looked for again."""


def _remember(function: FunctionType, known: _Found | _Proven) -> None:
    if len(_known) >= KNOWN_DEFINITIONS:
        _known.clear()
    _known[function] = known


# --- The proof -----------------------------------------------------------------------------------------


class _Missing:
    """An empty cell, or a global that is not there (mostly a builtin)."""


class _NotProvable(Exception):
    """A value was met that may change inside."""


_missing = _Missing()
_ATOMS = frozenset({type(None), bool, int, float, complex, str, bytes, type(...), type(NotImplemented), _Missing})
_FROZEN_DEPTH = 8
_GLOBAL_OPERATIONS = frozenset({"LOAD_GLOBAL", "STORE_GLOBAL", "DELETE_GLOBAL", "LOAD_NAME"})
_SCOPE = ("__name__", "__package__", "__path__", "__file__")
"""Globals that cloudpickle sends along without being named."""


def _prove(function: FunctionType) -> _Proof | None:
    """Return what to compare in order to know that ``function`` is unchanged; None if that is not to be known."""
    guards: dict[int, _Guard] = {}
    waiting = [function]
    package = False
    try:
        while waiting:
            current = waiting.pop()
            if id(current) in guards:
                continue
            if len(guards) >= PROVEN_FUNCTIONS:
                return None
            guards[id(current)] = _guard(current, waiting)
            package = package or any(_is_package(value) for value in _reach(current))
    except _NotProvable:
        return None
    return _Proof(tuple(guards.values()), len(sys.modules) if package else None)


def _guard(function: FunctionType, waiting: list[FunctionType]) -> _Guard:
    def note(value: object) -> object:
        return _note(value, waiting)

    def notes(mapping: Mapping[str, object]) -> dict[str, object]:
        return {name: note(value) for name, value in mapping.items()}

    for value in function.__defaults__ or ():
        if not _frozen(value):
            raise _NotProvable
    scope = {name: function.__globals__.get(name, _missing) for name in _global_names(function.__code__)}
    return _Guard(
        weakref.ref(function),
        _fixed(function),
        tuple(note(_content(cell)) for cell in function.__closure__ or ()),
        tuple(notes(scope).items()),
        notes(function.__kwdefaults__) if function.__kwdefaults__ is not None else None,
        notes(function.__annotations__),
        notes(function.__dict__),
    )


def _fixed(function: FunctionType) -> tuple[object, ...]:
    return (
        function.__code__,
        function.__defaults__,
        function.__module__,
        function.__name__,
        function.__qualname__,
        function.__doc__,
    )


def _guard_holds(guard: _Guard) -> bool:
    function = guard.function()
    if function is None:
        return False
    code, defaults, module, name, qualname, doc = guard.fixed
    if (
        function.__code__ is not code
        or function.__defaults__ is not defaults
        or function.__module__ is not module
        or function.__name__ is not name
        or function.__qualname__ is not qualname
        or function.__doc__ is not doc
    ):
        return False
    if guard.cells and not all(map(_same, guard.cells, map(_content, function.__closure__ or ()))):
        return False
    scope = function.__globals__
    for name, value in guard.scope:
        found = scope.get(name, _missing)
        if found is not value and not _same(value, found):
            return False
    keywords = function.__kwdefaults__
    if (keywords is None) is not (guard.keywords is None):
        return False
    if guard.keywords and not _same_items(guard.keywords, keywords or {}):
        return False
    return _same_items(guard.annotations, function.__annotations__) and _same_items(guard.attributes, function.__dict__)


def _same(noted: object, found: object) -> bool:
    return found is noted or (type(noted) is weakref.ref and cast("weakref.ref[object]", noted)() is found)


def _same_items(noted: Mapping[str, object], found: Mapping[str, object]) -> bool:
    if len(noted) != len(found):
        return False
    return not noted or all(_same(value, found.get(name, _missing)) for name, value in noted.items())


def _content(cell: Any) -> object:
    try:
        return cell.cell_contents
    except ValueError:  # The cell is empty.
        return _missing


def _note(value: object, waiting: list[FunctionType]) -> object:
    """Return what is kept of ``value`` to compare with; a by-value function joins ``waiting``."""
    if type(value) is FunctionType and not importable(value):
        waiting.append(raw_function(value) or value)
        return weakref.ref(value)
    if not _frozen(value):
        raise _NotProvable
    return value


def _frozen(value: object, depth: int = 0) -> bool:
    """Tell whether ``value`` pickles to the same bytes for as long as it lives."""
    kind = type(value)
    if kind in _ATOMS:
        return True
    if depth > _FROZEN_DEPTH:
        return False
    if kind is tuple or kind is frozenset:
        return all(_frozen(item, depth + 1) for item in cast("tuple[object, ...]", value))
    if isinstance(value, ModuleType):
        name = value.__name__
        return name not in MAIN_MODULES and sys.modules.get(name) is value and not travels_by_value(name)
    if isinstance(value, type | FunctionType):
        return importable(value)
    if isinstance(value, BuiltinFunctionType):
        return value.__self__ is None or isinstance(value.__self__, ModuleType)
    if kind is logging.Logger:
        return True  # Travels as its name.
    if kind is ContextVar:
        default = cast("Any", value)._default
        return default is Token.MISSING or _frozen(default, depth + 1)
    if isinstance(value, UnionType) or typing.get_origin(value) is not None:
        origin = typing.get_origin(value)
        return _frozen(origin, depth + 1) and all(_frozen(item, depth + 1) for item in typing.get_args(value))
    return False


def _global_names(code: CodeType) -> frozenset[str]:
    return _names_of(code) | frozenset(_SCOPE)


@functools.lru_cache(maxsize=KNOWN_DEFINITIONS)
def _names_of(code: CodeType) -> frozenset[str]:
    names = {step.argval for step in dis.get_instructions(code) if step.opname in _GLOBAL_OPERATIONS}
    inner = [_names_of(constant) for constant in code.co_consts if isinstance(constant, CodeType)]
    return frozenset(names).union(*inner)


def _reach(function: FunctionType) -> Iterator[object]:
    """Yield the values in which cloudpickle looks for packages."""
    yield from (_content(cell) for cell in function.__closure__ or ())
    yield from (function.__globals__.get(name) for name in _names_of(function.__code__))


def _is_package(value: object) -> bool:
    return isinstance(value, ModuleType) and hasattr(value, "__path__")
