"""What a mutant is, and how it is put in place of the code."""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import importlib.util
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import CodeType, ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from wool.sim.plan import Plan

SOURCE = Path(__file__).resolve().parents[3] / "src"
DETERMINISM = "determinism"
"""Catches what no invariant over one history can: two runs of one plan that differ."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Edit:
    """One change of one module: ``old``, which occurs exactly once, becomes ``new``."""

    module: str
    old: str
    new: str

    @property
    def file(self) -> Path:
        """Where the module's source is."""
        path = SOURCE.joinpath(*self.module.split("."))
        return path.with_suffix(".py") if path.with_suffix(".py").exists() else path / "__init__.py"


@dataclass(frozen=True, slots=True, kw_only=True)
class Mutant:
    """A bug: what is broken, in a sentence, and the invariant that its stored plan shows broken.

    With ``fault`` and ``way``, that plan has such a fault, without which it breaks nothing, and such a discovery.
    """

    name: str
    broken: str
    caught_by: str
    edits: tuple[Edit, ...]
    fault: str = ""
    way: str = ""

    def fits(self, plan: Plan) -> bool:
        """Whether a plan is of the sort that is to show the bug."""
        return plan.topology.discovery == (self.way or plan.topology.discovery) and (
            not self.fault or any(fault.kind == self.fault for fault in plan.faults)
        )

    def without_fault(self, plan: Plan) -> Plan:
        """Return a plan without the faults that are to show the bug."""
        return replace(plan, faults=tuple(fault for fault in plan.faults if fault.kind != self.fault))

    def applied(self, module: str, source: str) -> str:
        """Return the source of a module with this bug in it. Raises `ValueError` if the code has moved on."""
        for edit in self.edits:
            if edit.module != module:
                continue
            found = source.count(edit.old)
            if found != 1:
                raise ValueError(
                    f"mutant {self.name}: its old text occurs {found} times in {module}, and not once: {edit.old!r}"
                )
            source = source.replace(edit.old, edit.new)
        return source

    def sources(self) -> dict[str, str]:
        """Return the changed source of each module that it changes."""
        return {edit.module: self.applied(edit.module, edit.file.read_text()) for edit in self.edits}


class _Loader(importlib.machinery.SourceFileLoader):
    """Compiles the changed source, and keeps nothing of it."""

    mutant: Mutant

    def get_code(self, fullname: str) -> CodeType:
        path = self.get_filename(fullname)
        source = self.mutant.applied(fullname, Path(path).read_text())
        return compile(source, path, "exec", dont_inherit=True)


class _Finder(importlib.abc.MetaPathFinder):
    def __init__(self, mutant: Mutant) -> None:
        self._mutant = mutant
        self._modules = {edit.module for edit in mutant.edits}

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname not in self._modules:
            return None
        spec = importlib.machinery.PathFinder.find_spec(fullname, path)
        assert spec is not None and spec.origin is not None
        loader = _Loader(fullname, spec.origin)
        loader.mutant = self._mutant
        return importlib.util.spec_from_file_location(
            fullname, spec.origin, loader=loader, submodule_search_locations=spec.submodule_search_locations
        )


def plant(mutant: Mutant) -> None:
    """Have the modules that are imported from now on contain the bug."""
    early = [edit.module for edit in mutant.edits if edit.module in sys.modules]
    if early:
        raise RuntimeError(f"mutant {mutant.name} comes too late: {', '.join(early)} is imported already")
    sys.meta_path.insert(0, _Finder(mutant))
