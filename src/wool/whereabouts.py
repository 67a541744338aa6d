"""Which modules of this process another one can import, and which exist only here.

Why it exists: what a module defines travels as its name, but not every module in ``sys.modules`` is to be found
by its name: a test runner or a plugin system loads files from where no path leads, a program changes ``sys.path``
when its workers run already, `runpy` gives a file any name. What such a module defines must travel by value.

It asks the import system, once per module, where it would find that name on the path that workers have, and
compares that with the file that was loaded. It owns that path and the answers, and it enters such modules into
cloudpickle's registry of what goes by value, so that both packages say the same.

It must never import anything in order to answer, nor call a module of the standard library, one written in C, or
one that its package makes, a stranger: these cannot travel by value, or need not.
"""

from __future__ import annotations

import os
import sys
import weakref
from collections.abc import Callable, Iterable
from importlib.machinery import ExtensionFileLoader, ModuleSpec, PathFinder
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:

    def register_pickle_by_value(module: ModuleType) -> None: ...
else:
    from cloudpickle import register_pickle_by_value

__all__ = ["note_workers_path", "only_here"]

_MAIN = frozenset({"__main__", "__mp_main__"})
"""Elsewhere they are others: `wool.references` knows, and as modules they travel as their name."""

_workers_paths: dict[object, list[str]] = {}
"""Where the living workers that this process has started import from, the newest last."""

_judged: dict[str, tuple[Callable[[], object], bool]] = {}
"""For a name, the module that was judged, and whether it is only here."""


def note_workers_path(path: Iterable[object]) -> Callable[[], None]:
    """Say what ``sys.path`` a new worker has; return what to call at its end, once or more.

    It is read now, with the working directory as it is now. The newest worker's is the one that counts, and
    where there are none, that of this process.
    """
    worker = object()
    _workers_paths[worker] = [os.path.abspath(entry) for entry in path if type(entry) is str]

    def forget() -> None:
        _workers_paths.pop(worker, None)

    return forget


def only_here(name: str) -> bool:
    """Tell whether the module ``name`` of this process cannot be imported by workers."""
    module = sys.modules.get(name)
    judged = _judged.get(name)
    if judged is not None and judged[0]() is module:
        return judged[1]
    if type(module) is not ModuleType or module.__name__ != name:
        return False  # Made up by somebody who knows what importing it gives.
    verdict = _is_stranger(name, module)
    if verdict:
        register_pickle_by_value(module)
    _judged[name] = weakref.ref(module), verdict
    return verdict


def _is_stranger(name: str, module: ModuleType) -> bool:
    top, dot, _ = name.partition(".")
    if top in sys.stdlib_module_names or top in _MAIN:
        return False
    spec = module.__spec__
    file: object = spec.origin if spec is not None and spec.has_location else getattr(module, "__file__", None)
    if (dot and spec is None and file is None) or isinstance(spec and spec.loader, ExtensionFileLoader):
        return False
    found = _find(name)
    if found is None:
        return True
    return type(file) is str and found.has_location and not _is_same_file(file, str(found.origin))


def _find(name: str) -> ModuleSpec | None:
    # Copied, since workers come and go in other threads.
    *_, path = sys.path, *list(_workers_paths.values())
    found: ModuleSpec | None = None
    parts = name.split(".")
    for end in range(1, len(parts) + 1):
        prefix = ".".join(parts[:end])
        found = _ask(prefix, path)
        if found is None:
            return None
        # What a package adds to its path, it adds elsewhere too.
        added: Iterable[str] = getattr(sys.modules.get(prefix), "__path__", ())
        path = [*(found.submodule_search_locations or ()), *added]
    return found


def _ask(name: str, path: list[str]) -> ModuleSpec | None:
    # The others are those of editable installs and the like, which the worker's Python has too; whichever look
    # on a path are given the one to look on.
    others: list[Any] = [finder for finder in sys.meta_path if finder is not PathFinder]
    for finder in (PathFinder, *others):
        try:
            found = finder.find_spec(name, path)
        except Exception:  # Anybody's code: it has not found anything.
            continue
        if isinstance(found, ModuleSpec):
            return found
    return None


def _is_same_file(one: str, other: str) -> bool:
    try:
        return os.path.samefile(one, other)
    except OSError:  # Inside an archive, or gone by now.
        return os.path.abspath(one) == os.path.abspath(other)
