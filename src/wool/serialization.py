"""Turn values into bytes that may travel, and back.

Why it exists: wool pickles arguments, results, definitions and exceptions, and all of them must agree on
what travels by reference (what the other side can import) and what by value (the rest). That decision is
made here, once, by looking at each class and function on its way, and not by trying: ``pickle`` happily
writes an instance of a class of ``__main__`` by reference, and the other side cannot load it.

It owns the two picklers, the layout of a `Payload`, and the hook by which a routine's wrapper travels.

It must never write to a class of this process because an instance of it came back from elsewhere, copy a
large buffer that could be passed on as it is, or read a byte of a payload before `loads` is called.

How things travel:

====================================  ==============================================================
value                                 by
====================================  ==============================================================
class or function that is importable  reference, plain ``pickle``
any other class or function           value, ``cloudpickle``; then the whole value is pickled so
raw function behind its wrapper       reference, with the number of wrappers to take off
routine (wrapper) not importable      its raw function, wrapped again on arrival
other named things not importable     value (`wool.reducers`), or an error here: cached functions, ``NewType``
exception among other values          as Python does, and past its constructor if that wants other arguments
large bytes, and views of such        its own part of the payload, out of band
any other large buffer                the same, copied: it may change before it has left
small memoryview                      in band, and stays a memoryview
====================================  ==============================================================
"""

from __future__ import annotations

import io
import pickle
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pickle import PickleBuffer
from types import CellType, CodeType, FunctionType, ModuleType
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias, cast

from wool.classes import reduce_class
from wool.limits import MOST_BUFFERS
from wool.reducers import (
    DISPATCH_TABLE,
    NAMED,
    TypeAliasType,
    is_dispatching,
    reduce_alias,
    reduce_dispatching,
    reduce_exception,
    set_names,
)
from wool.references import (
    MAIN_MODULES,
    ROUTINE_ATTRIBUTE,
    find_reference,
    findable,
    follow_reference,
    importable,
)

if TYPE_CHECKING:

    class CloudPickler(pickle.Pickler):
        """What is used of cloudpickle's pickler, which carries no types."""

        def reducer_override(self, obj: Any) -> Any: ...

    def register_pickle_by_value(module: object) -> None: ...
else:
    from cloudpickle import Pickler as CloudPickler
    from cloudpickle import register_pickle_by_value

__all__ = [
    "LARGE_BYTES",
    "PROTOCOL",
    "ROUTINE_ATTRIBUTE",
    "Definition",
    "Part",
    "Payload",
    "culprit",
    "dumps",
    "dumps_by_value",
    "dumps_inline",
    "loads",
    "loads_inline",
    "raw_function",
    "set_routine_rebuilder",
]

PROTOCOL = 5
"""Of pickle: the first with out-of-band buffers. Both sides run the same Python, so no newer is needed."""

LARGE_BYTES = 64 * 1024
"""From this size a buffer gets its own part: below, one more part costs more than one more copy."""

Part: TypeAlias = bytes | memoryview | list[bytes | memoryview]


class Payload(NamedTuple):
    """A pickled value: the pickle stream, then the buffers that travel beside it, in order.

    A part is ``bytes`` or ``memoryview`` (flat, of bytes), or the list of chunks in which it was received,
    which only `loads` joins. Nothing in it changes with the object that was pickled.

    ``context`` is what `wool.variables` sends along; empty where no variable was set, and no part of the value.
    """

    parts: tuple[Part, ...]
    context: bytes = b""

    @property
    def sizes(self) -> tuple[int, ...]:
        """Bytes of each part."""
        return tuple(sum(map(len, part)) if type(part) is list else len(part) for part in self.parts)

    @property
    def size(self) -> int:
        """Bytes in all."""
        parts = self.parts
        if len(parts) == 1 and type(parts[0]) is bytes:
            return len(parts[0]) + len(self.context)
        return sum(self.sizes) + len(self.context)

    def __repr__(self) -> str:
        context = f", context={len(self.context)}" if self.context else ""
        return f"Payload(sizes={self.sizes}{context})"


class Definition(NamedTuple):
    """A raw function on its way: ``digest`` names ``blob``; ``name`` is ``module:qualname``, for people."""

    digest: bytes
    blob: bytes
    name: str
    by_value: bool


# --- Routines ------------------------------------------------------------------------------------------


def _no_rebuilder(function: FunctionType) -> Callable[..., object]:
    raise RuntimeError(f"cannot make {function.__qualname__!r} a routine: wool.routine was never imported")


_routine_rebuilder: Callable[[FunctionType], Callable[..., object]] = _no_rebuilder


def set_routine_rebuilder(rebuilder: Callable[[FunctionType], Callable[..., object]]) -> None:
    """Say how a raw function becomes its wrapper: the same one for the same function, every time.

    ``rebuilder`` may be given a function whose globals, defaults and closure are still to be filled, when
    a routine refers to itself: it may look at ``__code__`` and nothing else that it wants to remember.
    """
    global _routine_rebuilder
    _routine_rebuilder = rebuilder


def _rebuild_routine(function: FunctionType) -> Callable[..., object]:
    return _routine_rebuilder(function)


_ROUTINE_NAMES = ("__module__", "__name__", "__qualname__", "__doc__")


def raw_function(wrapper: FunctionType) -> FunctionType | None:
    """Return the raw function of a routine's wrapper; None if ``wrapper`` is something else.

    A decorator around a routine copies the attribute by ``functools.wraps``, and is not the routine: what it
    wraps is not the raw function.
    """
    function = getattr(wrapper.__dict__.get(ROUTINE_ATTRIBUTE), "function", None)
    if not isinstance(function, FunctionType) or wrapper.__dict__.get("__wrapped__") is not function:
        return None
    return function


def _reduce_routine(function: FunctionType) -> tuple[Any, ...]:
    names = {name: getattr(function, name) for name in _ROUTINE_NAMES}
    # The wrapper of a self-recursive routine is made before its raw function knows its names.
    return _rebuild_routine, (function,), names, None, None, set_names


# --- Views ---------------------------------------------------------------------------------------------


def _reduce_view(view: memoryview) -> tuple[Any, ...]:
    layout = view.format, view.shape
    try:
        memoryview(b"").cast(cast("Any", view.format))
    except ValueError:
        raise TypeError(f"cannot pickle a memoryview of format {view.format!r}") from None
    if view.c_contiguous:
        return _load_view, (PickleBuffer(view), *layout)
    return _load_view, (view.tobytes() if view.readonly else bytearray(view.tobytes()), *layout)


def _load_view(buffer: bytes | bytearray, format: str, shape: tuple[int, ...]) -> memoryview:
    view = memoryview(buffer)
    if format == view.format and len(shape) == 1:
        return view
    if 0 in shape:
        return cast("memoryview", view.cast(cast("Any", format)))
    return cast("memoryview", view.cast("B").cast(cast("Any", format), cast("Any", shape)))


# --- The picklers --------------------------------------------------------------------------------------


class _TravelsByValue(Exception):
    """Something was met that only cloudpickle can take along."""


class _ReferencePickler(pickle.Pickler):
    """Plain pickle, which stops at the first thing that the other side could not import."""

    def reducer_override(self, obj: Any) -> Any:
        kind = cast("type[object]", type(obj))
        if kind is FunctionType:
            if not importable(obj):
                reference = find_reference(obj)
                if reference is None:
                    raise _TravelsByValue
                return follow_reference, tuple(reference)
        elif issubclass(kind, type):
            if not importable(obj):
                raise _TravelsByValue
        elif kind is memoryview:
            return _reduce_view(obj)
        elif kind in NAMED:
            if not findable(obj):
                raise _TravelsByValue
        elif kind.__module__ in MAIN_MODULES:
            raise _TravelsByValue  # It might say of itself that it is known by its name.
        elif issubclass(kind, BaseException):
            return reduce_exception(obj) or NotImplemented
        return NotImplemented


class _ValuePickler(CloudPickler):
    """cloudpickle, which knows routines, and which leaves the classes of the receiver alone."""

    dispatch_table = DISPATCH_TABLE

    def reducer_override(self, obj: Any) -> Any:
        kind = cast("type[object]", type(obj))
        if kind is FunctionType:
            return self._reduce_function(obj)
        if kind is memoryview:
            return _reduce_view(obj)
        if kind is TypeAliasType:
            return reduce_alias(obj, self.__dict__.setdefault("boxes", {}))
        if issubclass(kind, BaseException) and (as_value := reduce_exception(obj)):
            return as_value
        if not issubclass(kind, type):
            return _reduce_instance(obj) if kind.__module__ in MAIN_MODULES else NotImplemented
        reduced = super().reducer_override(obj)
        return reduce_class(obj, reduced) if _is_class_by_value(reduced) else reduced

    def _reduce_function(self, function: FunctionType) -> Any:
        if importable(function):
            return NotImplemented
        reference = find_reference(function)
        if reference is not None:
            return follow_reference, tuple(reference)
        if is_dispatching(function):
            return reduce_dispatching(function)
        if ROUTINE_ATTRIBUTE not in function.__dict__:
            return self._by_value(function)
        raw = raw_function(function)
        if raw is not None:
            return _reduce_routine(raw)
        make, arguments, (attributes, slots), *rest = self._by_value(function)
        kept = {name: value for name, value in attributes.items() if name != ROUTINE_ATTRIBUTE}
        return make, arguments, (kept, slots), *rest

    def _by_value(self, function: FunctionType) -> Any:
        reduced = super().reducer_override(function)
        if inner := [names for names in _names_of_inner(function.__code__) if names]:
            # cloudpickle has the other side import ``urllib.request`` for a function that names both, but does not look
            # into the functions inside.
            _, slots = reduced[2]
            reach = [*slots["__globals__"].values(), *map(_content, function.__closure__ or ())]
            packages = [value for value in reach if isinstance(value, ModuleType) and hasattr(value, "__path__")]
            slots["_cloudpickle_submodules"] += _submodules(packages, inner)
        return reduced


def _content(cell: CellType) -> object:
    try:
        return cell.cell_contents
    except ValueError:  # it holds nothing yet
        return None


def _names_of_inner(code: CodeType) -> Iterator[frozenset[str]]:
    """Yield the names in each function, comprehension and class body inside ``code``."""
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield frozenset(constant.co_names)
            yield from _names_of_inner(constant)


def _submodules(packages: Iterable[ModuleType], names: Sequence[frozenset[str]]) -> list[ModuleType]:
    """Return the modules of ``packages`` that are imported here and that code with some of ``names`` can reach."""
    found: list[ModuleType] = []
    for package in packages:
        prefix = package.__name__ + "."
        for name, module in list(sys.modules.items()):
            if name.startswith(prefix):
                way = set(name[len(prefix) :].split("."))
                if any(way <= known for known in names):
                    found.append(module)
    return found


def _reduce_instance(obj: Any) -> Any:
    """Reduce an instance of a class of ``__main__``, as pickle would, but that its name says nothing elsewhere."""
    if type(obj) in DISPATCH_TABLE:
        return NotImplemented
    reduced = obj.__reduce_ex__(PROTOCOL)
    if isinstance(reduced, str) and not findable(obj, reduced):
        raise pickle.PicklingError(
            f"cannot pickle {reduced!r}, of type {type(obj).__qualname__}: it says that it is known by its name in "
            f"module {getattr(obj, '__module__', None)!r}, which is another one on a worker; define it in a module "
            "that workers can import"
        )
    return reduced


def _is_class_by_value(reduced: Any) -> bool:
    """Tell a class that is built up from the few odd ones (``type(None)``), and from those by reference."""
    return isinstance(reduced, tuple) and len(cast("tuple[object, ...]", reduced)) == 6


_KeepBuffer: TypeAlias = Callable[[PickleBuffer], Any]


def _run_reference_pickler(value: object, file: io.BytesIO, keep: _KeepBuffer | None) -> None:
    _ReferencePickler(file, PROTOCOL, buffer_callback=keep).dump(value)


def _run_value_pickler(value: object, file: io.BytesIO, keep: _KeepBuffer | None) -> None:
    mp_main = sys.modules.get("__mp_main__")
    if mp_main is not None:
        register_pickle_by_value(mp_main)
    _ValuePickler(file, PROTOCOL, buffer_callback=keep).dump(value)


def _lasting(view: memoryview) -> bytes | memoryview:
    """Return what ``view`` shows now, whatever happens to its owner. Of bytes it is the view, or they themselves."""
    owner: object = view.obj
    while type(owner) is memoryview:
        owner = owner.obj
    if not isinstance(owner, bytes):
        # Read-only or not: an array that may not be written to can be a view of one that may.
        return bytes(view)
    return owner if type(owner) is bytes and len(owner) == view.nbytes else view


def _pickle(value: object, run: Callable[[object, io.BytesIO, _KeepBuffer | None], None], *, aside: bool) -> Payload:
    buffers: list[bytes | memoryview] = []
    readonly: list[bool] = []

    def keep(buffer: PickleBuffer) -> bool:
        view = buffer.raw()
        if view.nbytes < LARGE_BYTES or len(buffers) == MOST_BUFFERS:
            return True  # In band.
        readonly.append(view.readonly)
        buffers.append(_lasting(view))
        return False

    file = io.BytesIO()
    run(value, file, keep if aside else None)
    if not buffers:
        return Payload((file.getvalue(),))
    # pickle.loads ignores what follows the stream: there it is said which buffers were read-only.
    file.write(bytes(readonly))
    return Payload((file.getvalue(), *buffers))


def _by_reference_or_value(value: object, *, aside: bool) -> Payload:
    original: Exception | None = None
    try:
        return _pickle(value, _run_reference_pickler, aside=aside)
    except _TravelsByValue:
        pass
    except Exception as error:  # Whatever the user's own code raises: cloudpickle knows more types.
        original = error
    try:
        return _pickle(value, _run_value_pickler, aside=aside)
    except Exception:
        if original is None:
            raise
    # The first error names what could not be pickled; the second is mostly its echo.
    try:
        raise original
    finally:
        del original  # It refers to this frame.


# --- The door ------------------------------------------------------------------------------------------

_ATOMS = frozenset({type(None), bool, int, float, complex, str})
_BYTES = frozenset({bytes})
_BUFFERS = frozenset({bytes, bytearray})
_PLAIN = _ATOMS | _BUFFERS
_only_atoms = _ATOMS.issuperset
_stdlib_dumps = pickle.dumps
_stdlib_loads = pickle.loads


def _aside(value: Any, kinds: frozenset[type] = _BUFFERS) -> Any:
    return PickleBuffer(value) if type(value) in kinds and len(value) >= LARGE_BYTES else value


def _kinds_aside(values: Sequence[object]) -> frozenset[type]:
    """Return the types of which ``values`` may go aside: bytearrays may not if one may stand in two places.

    A buffer that goes aside is nobody else's where it arrives, and one that is shared would come apart.
    """
    arrays = [id(value) for value in values if type(value) is bytearray]
    if not arrays or (len(set(arrays)) == len(arrays) and _PLAIN.issuperset(map(type, values))):
        return _BUFFERS
    return _BYTES


def dumps(value: object) -> Payload:
    """Pickle a value, or an ``(args, kwargs)`` pair.

    Large bytes (the value itself, or one of the arguments) are not copied, and a large buffer that might change
    is, once: what is sent is the value as it is now. Raises what pickle or
    the value's own ``__reduce__`` or ``__getstate__`` raises; these may run twice.
    """
    if type(value) in _ATOMS:
        return Payload((_stdlib_dumps(value, PROTOCOL),))
    if type(value) is tuple and len(cast("tuple[object, ...]", value)) == 2:
        args, kwargs = cast("tuple[object, object]", value)
        if type(args) is tuple and type(kwargs) is dict:
            args = cast("tuple[object, ...]", args)
            kwargs = cast("dict[object, object]", kwargs)
            if _only_atoms(map(type, args)) and (
                not kwargs or (_only_atoms(map(type, kwargs)) and _only_atoms(map(type, kwargs.values())))
            ):
                return Payload((_stdlib_dumps(value, PROTOCOL),))
            kinds = _kinds_aside((*args, *kwargs.values()))
            value = (
                tuple(_aside(item, kinds) for item in args),
                {name: _aside(item, kinds) for name, item in kwargs.items()},
            )
    return _by_reference_or_value(_aside(value), aside=True)


def _join(part: Part, *, readonly: bool) -> bytes | bytearray:
    if readonly:
        return b"".join(part) if type(part) is list else bytes(cast("bytes | memoryview", part))
    return bytearray().join(part) if type(part) is list else bytearray(cast("bytes | memoryview", part))


def loads(payload: Payload) -> object:
    """Load what `dumps` made. Raises whatever unpickling raises, imports and user code included."""
    parts = payload.parts
    stream = parts[0]
    if type(stream) is list:
        stream = b"".join(stream)
    if len(parts) == 1:
        return _stdlib_loads(cast("bytes", stream))
    buffers = parts[1:]
    flags = cast("bytes", stream[-len(buffers) :])
    if len(flags) != len(buffers):
        raise pickle.UnpicklingError(f"{len(buffers)} buffers came with a stream of {len(stream)} bytes")
    joined = [_join(part, readonly=bool(flag)) for part, flag in zip(buffers, flags, strict=True)]
    return _stdlib_loads(cast("bytes", stream), buffers=joined)


def dumps_inline(value: object) -> bytes:
    """Pickle a value into one stream, without out-of-band buffers. Raises like `dumps`."""
    return cast("bytes", _by_reference_or_value(value, aside=False).parts[0])


def dumps_by_value(function: FunctionType) -> bytes:
    """Pickle a function with cloudpickle into one stream. Raises like `dumps`."""
    return cast("bytes", _pickle(function, _run_value_pickler, aside=False).parts[0])


def loads_inline(stream: bytes) -> object:
    """Load what `dumps_inline` or `dumps_by_value` made. Raises like `loads`."""
    return _stdlib_loads(stream)


def culprit(args: tuple[object, ...], kwargs: Mapping[str, object]) -> str | None:
    """Name the first argument that cannot be pickled by itself, to note it on the error; None if each can."""
    named: list[tuple[str, object]] = [(f"argument {index}", value) for index, value in enumerate(args)]
    named += [(f"argument {name!r}", value) for name, value in kwargs.items()]
    for name, value in named:
        try:
            dumps(value)
        except Exception:  # The user's own code may raise anything: that is what is looked for.
            return f"{name}, of type {type(value).__module__}.{type(value).__qualname__}"
    return None
