"""How to pickle by value what cloudpickle leaves out, or takes along with a part missing.

Why it exists: what a script defines must be itself on the other side. How a thing is pickled is said by the
reducer of its type; here are those that wool adds or replaces, each with the function that rebuilds it. What
`wool.references` finds by its name, each of them leaves to its name.

It must never decide what travels by value, which `wool.references` does, nor depend on one version's
internals where the public constructor does it.

What refers to itself, such as a cached function that is recursive, is rebuilt before that function is complete:
its names come after.
"""

from __future__ import annotations

import copyreg
import functools
import pickle
import typing
from collections import ChainMap
from collections.abc import Callable, Mapping, MutableMapping
from types import CodeType, FunctionType, ModuleType
from typing import (
    TYPE_CHECKING,
    Any,
    NewType,
    ParamSpec,
    ParamSpecArgs,
    ParamSpecKwargs,
    TypeVar,
    TypeVarTuple,
    cast,
)

from wool.references import ROUTINE_ATTRIBUTE, findable, travels_by_value
from wool.remote_traceback import ARGS, ATTRIBUTES

if TYPE_CHECKING:

    class CloudPickler:
        """What is used of cloudpickle's pickler, which carries no types."""

        dispatch_table: MutableMapping[type, Callable[[Any], Any]]
else:
    from cloudpickle import Pickler as CloudPickler

__all__ = [
    "DISPATCH_TABLE",
    "NAMED",
    "is_dispatching",
    "reduce_alias",
    "reduce_dispatching",
    "reduce_exception",
    "set_names",
]

TypeAliasType: Any = getattr(typing, "TypeAliasType", None)
"""What a ``type`` statement makes; None where Python has none."""


def set_names(thing: object, names: Mapping[str, object]) -> None:
    """Set attributes of what could not know them when it was made."""
    for name, value in names.items():
        setattr(thing, name, value)


_NAMES = ("__module__", "__name__", "__qualname__", "__doc__")


def _names(wrapper: Any, *without: str) -> dict[str, object]:
    """Return what `functools.update_wrapper` and the user have written onto ``wrapper``."""
    attributes: dict[str, object] = wrapper.__dict__
    left_out = {*without, "__wrapped__", ROUTINE_ATTRIBUTE}
    names = {name: getattr(wrapper, name) for name in _NAMES if hasattr(wrapper, name)}
    return names | {name: value for name, value in attributes.items() if name not in left_out}


# --- Code, modules and classes ----------------------------------------------------------------------------------


def _reduce_code(code: CodeType) -> tuple[Any, ...]:
    # Since 3.1.3 cloudpickle calls every file "<dynamic-code>": a traceback would show no source.
    make, arguments = CloudPickler.dispatch_table[CodeType](code)[:2]
    return _make_code, (make, arguments, code.co_filename)


def _make_code(make: Callable[..., CodeType], arguments: tuple[object, ...], filename: str) -> CodeType:
    return make(*arguments).replace(co_filename=filename)


_OF_THE_IMPORT_SYSTEM = ("__spec__", "__loader__", "__cached__", "__builtins__")


def _reduce_module(module: ModuleType) -> tuple[Any, ...]:
    travels_by_value(module.__name__)  # If it does, cloudpickle is told.
    make, arguments, *rest = CloudPickler.dispatch_table[ModuleType](module)
    if len(arguments) == 2:
        name, attributes = arguments
        arguments = name, {key: value for key, value in attributes.items() if key not in _OF_THE_IMPORT_SYSTEM}
    return make, arguments, *rest


# --- Functions that are objects ------------------------------------------------------------------------

_CachedFunction = type(functools.lru_cache(lambda: None))


def _reduce_cached(wrapper: Any) -> Any:
    if findable(wrapper):
        return wrapper.__reduce__()
    parameters = wrapper.cache_parameters()
    names = _names(wrapper, "cache_parameters")
    return _make_cached, (wrapper.__wrapped__, parameters), names, None, None, set_names


def _make_cached(function: Callable[..., object], parameters: dict[str, Any]) -> object:
    return functools.lru_cache(**parameters)(function)


def _reduce_cached_property(found: functools.cached_property[object]) -> tuple[Any, ...]:
    # Until 3.12 it holds a lock.
    state = {name: value for name, value in vars(found).items() if name not in ("func", "lock")}
    return functools.cached_property, (found.func,), state


_DISPATCHING_CODE = functools.singledispatch(lambda thing: thing).__code__  # type: ignore[attr-defined]


def is_dispatching(function: FunctionType) -> bool:
    """Tell whether ``function`` was made by `functools.singledispatch`: its cache of weak references must stay."""
    return function.__code__ is _DISPATCHING_CODE


def reduce_dispatching(function: Any) -> tuple[Any, ...]:
    """Reduce what was made by `functools.singledispatch`."""
    registered: dict[type, object] = dict(function.registry)
    names = _names(function, "register", "dispatch", "registry", "_clear_cache")
    return functools.singledispatch, (registered[object],), (names, registered), None, None, _register


def _register(function: Any, state: tuple[dict[str, object], dict[type, object]]) -> None:
    names, registered = state
    for cls, implementation in registered.items():
        function.register(cls, implementation)
    set_names(function, names)


def _reduce_dispatching_method(method: functools.singledispatchmethod[object]) -> tuple[Any, ...]:
    return functools.singledispatchmethod, (method.func,), {"dispatcher": method.dispatcher}


# --- Types that are not classes ------------------------------------------------------------------------


def _reduce_new_type(new_type: Any) -> Any:
    if findable(new_type):
        return new_type.__reduce__()
    names = {"__module__": new_type.__module__, "__qualname__": new_type.__qualname__}
    return NewType, (new_type.__name__, new_type.__supertype__), names, None, None, set_names


def _reduce_parameter(parameter: Any) -> Any:
    if findable(parameter):
        return parameter.__reduce__()
    options: dict[str, object] = {}
    make = cast("type[object]", type(parameter))
    if make is ParamSpec:
        options["bound"] = parameter.__bound__
        for name in ("covariant", "contravariant", "infer_variance"):
            if hasattr(parameter, f"__{name}__"):
                options[name] = getattr(parameter, f"__{name}__")
    if hasattr(parameter, "has_default") and parameter.has_default():
        options["default"] = parameter.__default__
    names = {"__module__": parameter.__module__}
    return _make_parameter, (make, parameter.__name__, options), names, None, None, set_names


def _make_parameter(make: Callable[..., object], name: str, options: dict[str, object]) -> object:
    return make(name, **options)


def _reduce_arguments_of_parameter(arguments: ParamSpecArgs | ParamSpecKwargs) -> tuple[Any, ...]:
    return getattr, (arguments.__origin__, "args" if isinstance(arguments, ParamSpecArgs) else "kwargs")


def reduce_alias(alias: Any, boxes: dict[int, list[object]]) -> Any:
    """Reduce what a ``type`` statement made. ``boxes`` is the pickler's, for the aliases that it has met.

    An alias may stand in its own value; only one without parameters can be rebuilt then.
    """
    if findable(alias):
        return alias.__reduce__()
    name, module, parameters = alias.__name__, alias.__module__, alias.__type_params__
    if parameters:
        return _make_alias_of_parameters, (name, module, alias.__value__, parameters)
    box = boxes.get(id(alias))
    if box is None:
        box = boxes[id(alias)] = []
        box.append(alias.__value__)
    return _make_alias, (name, module, box)


def _make_alias(name: str, module: str, box: list[object]) -> object:
    if not name.isidentifier():
        raise pickle.UnpicklingError(f"no type alias is named {name!r}")
    scope = {"__name__": module, "box": box}
    exec(f"type {name} = box[0]", scope)  # As lazy as it was: the box may be filled later.
    return scope[name]


def _make_alias_of_parameters(name: str, module: str, value: object, parameters: tuple[object, ...]) -> object:
    scope = {"__name__": module, "make": TypeAliasType, "given": (name, value), "parameters": parameters}
    # The constructor looks for the module at its caller.
    return eval("make(*given, type_params=parameters)", scope)


# --- Exceptions that are values ------------------------------------------------------------------------


def reduce_exception(error: BaseException) -> tuple[Any, ...] | None:
    """Reduce an exception with a constructor of its own as Python would; None if Python's own way is as good.

    An exception is pickled as its class and ``args``, which are seldom what such a constructor wants. What is raised
    takes another way (`wool.failure`); this is for one in a list of results, or in an attribute of another.
    """
    cls = type(error)
    if cls in copyreg.dispatch_table or not _is_native(cls, "__reduce__") or cls.__reduce_ex__ is not _REDUCE_EX:
        return None
    if _is_native(cls, "__init__") and _is_native(cls, "__new__"):
        return None
    make, arguments, *state = cast("tuple[Any, ...]", error.__reduce__())
    if make is not cls:
        return None
    return _make_exception, (cls, arguments), *state, *(() if not state else (None, None, _set_attributes))


_REDUCE_EX = object.__reduce_ex__


def _native(cls: type) -> Any:
    return next(owner for owner in cls.__mro__ if owner.__module__ == "builtins")


def _is_native(cls: type, name: str) -> bool:
    return next(owner for owner in cls.__mro__ if name in vars(owner)).__module__ == "builtins"


def _make_exception(cls: type[BaseException], arguments: tuple[object, ...]) -> BaseException:
    try:
        made = cls(*arguments)
    except Exception:  # Of a constructor of the user's, which wants something else: then without it.
        native = _native(cls)
        made = cast("BaseException", native.__new__(cls, *arguments))
        native.__init__(made, *arguments)
    if cls.__reduce__ is BaseException.__reduce__:
        ARGS.__set__(made, arguments)  # what it was given is not what it hands to its base
    return made


def _set_attributes(error: BaseException, state: dict[str, object]) -> None:
    if type(error).__setstate__ is BaseException.__setstate__:
        ATTRIBUTES.__get__(error).update(state)  # past a `__setattr__` of the user's: it may be a frozen dataclass
    else:
        error.__setstate__(state)


# --- All -----------------------------------------------------------------------------------------------

_REDUCERS: dict[type, Callable[[Any], Any]] = {
    CodeType: _reduce_code,
    ModuleType: _reduce_module,
    _CachedFunction: _reduce_cached,
    functools.cached_property: _reduce_cached_property,
    functools.singledispatchmethod: _reduce_dispatching_method,
    NewType: _reduce_new_type,
    ParamSpec: _reduce_parameter,
    TypeVarTuple: _reduce_parameter,
    ParamSpecArgs: _reduce_arguments_of_parameter,
    ParamSpecKwargs: _reduce_arguments_of_parameter,
}

DISPATCH_TABLE: Mapping[type, Callable[[Any], Any]] = ChainMap(_REDUCERS, CloudPickler.dispatch_table)
"""Of the pickler that takes along by value, in which `copyreg`'s is seen as it is."""

NAMED = frozenset({_CachedFunction, NewType, TypeVar, ParamSpec, TypeVarTuple, TypeAliasType})
"""Types whose instances plain pickle writes as nothing but their name, without asking who knows it."""
