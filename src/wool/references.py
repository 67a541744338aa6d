"""What the other side can import, and so need not be sent.

Why it exists: arguments, definitions and exceptions must agree on which classes and functions travel as their
name. The answer is looked up in ``sys.modules``, as pickle does, with four differences: ``__main__`` is another
module elsewhere, some other modules are only here (`wool.whereabouts`), the user may ask that a module goes by
value, and a raw function is found through the wrappers that decorators put around it.

It must never import anything in order to answer, nor invoke a descriptor to look through a wrapper.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Mapping
from types import FunctionType
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from wool.limits import MOST_WRAPPERS
from wool.whereabouts import only_here

if TYPE_CHECKING:

    def list_registry_pickle_by_value() -> set[str]: ...
else:
    from cloudpickle import list_registry_pickle_by_value

ROUTINE_ATTRIBUTE = "__wool_routine__"
"""Where a routine's wrapper keeps its record; the record's ``function`` is the raw function."""

MAIN_MODULES = frozenset({"__main__", "__mp_main__"})
"""Modules that are another module in another process (the second: multiprocessing's copy of the first)."""


class Reference(NamedTuple):
    """Where an importable raw function is found, and how many wrappers are around it there."""

    module: str
    qualname: str
    steps: int


def registered_by_value(module: str) -> bool:
    """Tell whether the user asked (``cloudpickle.register_pickle_by_value``) that ``module`` goes by value."""
    registered = list_registry_pickle_by_value()
    if not registered:
        return False
    while module not in registered:
        module, dot, _ = module.rpartition(".")
        if not dot:
            return False
    return True


def travels_by_value(module: str) -> bool:
    """Tell whether what ``module`` defines goes by value: on request, or since nobody else can import it."""
    return registered_by_value(module) or only_here(module)


def importable(thing: type | FunctionType) -> bool:
    """Tell whether the other side gets ``thing``, a class or function, by importing it."""
    module_name: object = thing.__module__
    if type(module_name) is not str or module_name in MAIN_MODULES:
        return False
    found: object = sys.modules.get(module_name)
    try:
        for name in thing.__qualname__.split("."):
            found = getattr(found, name)
    except AttributeError:
        return False
    return found is thing and not travels_by_value(module_name)


def findable(thing: Any, name: str | None = None) -> bool:
    """Tell the same as `importable` of something else that has a name, which is its own unless it is given."""
    module_name = getattr(thing, "__module__", None)
    if type(module_name) is not str or module_name in MAIN_MODULES:
        return False
    found: object = sys.modules.get(module_name)
    own_name: Any = getattr(thing, "__qualname__", None) or getattr(thing, "__name__", "")
    for step in (name or own_name).split("."):
        found = getattr(found, step, None)
    return found is thing and not travels_by_value(module_name)


def unwrap(thing: object) -> object:
    """Take one wrapper off: a static or class method, a routine's wrapper, a ``functools.wraps``. Else None."""
    if isinstance(thing, staticmethod | classmethod):
        return cast("staticmethod[..., object]", thing).__func__
    attributes: Mapping[str, object] = getattr(thing, "__dict__", {})
    routine = attributes.get(ROUTINE_ATTRIBUTE)
    if routine is not None:
        return cast("object", getattr(routine, "function", None))
    return attributes.get("__wrapped__")


def _mangled(owner: str, name: str) -> str:
    """Return as what the compiler stores ``name`` in the class ``owner``."""
    if not name.startswith("__") or name.endswith("__") or not owner.strip("_"):
        return name
    return f"_{owner.lstrip('_')}{name}"


def look_up(module: object, qualname: str) -> object:
    """Return what stands at ``qualname`` below ``module``, without invoking descriptors; None if nothing.

    A private method stands in its class under a longer name than it has itself.
    """
    found, owner = module, ""
    for name in qualname.split("."):
        attributes: Mapping[str, object] = getattr(found, "__dict__", {})
        found = attributes.get(_mangled(owner, name), attributes.get(name))
        owner = name
    return found


def find_reference(function: FunctionType) -> Reference | None:
    """Return how the other side finds this very function by importing, through its wrappers; or None."""
    module_name: object = function.__module__
    qualname = function.__qualname__
    if type(module_name) is not str or module_name in MAIN_MODULES or "<locals>" in qualname:
        return None
    found = look_up(sys.modules.get(module_name), qualname)
    for steps in range(MOST_WRAPPERS):
        if found is function:
            return None if travels_by_value(module_name) else Reference(module_name, qualname, steps)
        if found is None:
            return None
        found = unwrap(found)
    return None


def follow_reference(module: str, qualname: str, steps: int) -> FunctionType:
    """Import what `find_reference` described.

    Raises whatever the import raises, and `AttributeError` if the module holds something else there.
    """
    importlib.import_module(module)
    found = look_up(sys.modules[module], qualname)
    for _ in range(steps):
        found = unwrap(found)
    if not isinstance(found, FunctionType):
        raise AttributeError(f"module {module!r} has no function {qualname!r} like the caller's", name=qualname)
    return found
