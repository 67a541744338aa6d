"""What workers cannot import is known before it is sent to them, and nothing else is held back."""

from __future__ import annotations

import importlib
import importlib.util
import os
import runpy
import sys
import types
from collections.abc import Iterator
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any

import cloudpickle
import pytest

from wool import whereabouts
from wool.definition import define
from wool.whereabouts import note_workers_path, only_here


@pytest.fixture(autouse=True)
def _as_it_was(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(whereabouts, "_workers_paths", {})
    monkeypatch.setattr(whereabouts, "_judged", {})
    modules, registered = dict(sys.modules), cloudpickle.list_registry_pickle_by_value()
    yield
    for name in cloudpickle.list_registry_pickle_by_value() - registered:
        cloudpickle.unregister_pickle_by_value(types.ModuleType(name))
    for name in set(sys.modules) - set(modules):
        del sys.modules[name]


def write(path: Path, source: str = "def f(): return 1\nclass C: pass\n") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(source)
    importlib.invalidate_caches()
    return path


def loaded(name: str, path: Path) -> types.ModuleType:
    """Load a file as test runners and plugin systems do."""
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_file_that_was_loaded_from_off_the_path_is_only_here(tmp_path: Path) -> None:
    module = loaded("off_the_path", write(tmp_path / "anything.py"))
    assert only_here("off_the_path")
    assert define(module.f).by_value
    assert "off_the_path" in cloudpickle.list_registry_pickle_by_value()


def test_a_file_that_the_path_leads_to_is_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    module = loaded("on_the_path", write(tmp_path / "on_the_path.py"))
    assert not only_here("on_the_path")
    assert not define(module.f).by_value
    assert "on_the_path" not in cloudpickle.list_registry_pickle_by_value()


def test_another_file_of_the_same_name_is_only_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "path" / "twin.py")
    monkeypatch.syspath_prepend(tmp_path / "path")
    loaded("twin", write(tmp_path / "elsewhere" / "twin.py"))
    assert only_here("twin")


def test_the_same_file_by_another_way_is_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "real" / "linked.py")
    os.symlink(tmp_path / "real", tmp_path / "link")
    monkeypatch.syspath_prepend(tmp_path / "real")
    loaded("linked", tmp_path / "link" / "linked.py")
    assert not only_here("linked")


def test_what_came_on_the_path_after_the_workers_had_theirs_is_only_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "before" / "early.py")
    write(tmp_path / "after" / "late.py")
    monkeypatch.syspath_prepend(tmp_path / "before")
    note_workers_path(sys.path)
    monkeypatch.syspath_prepend(tmp_path / "after")
    for name in ("early", "late"):
        importlib.import_module(name)
    assert not only_here("early")
    assert only_here("late")


def test_the_path_of_a_worker_that_has_ended_counts_no_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "now" / "current.py")
    forget = note_workers_path(sys.path), note_workers_path(sys.path)
    monkeypatch.syspath_prepend(tmp_path / "now")
    for each in (*forget, *forget):
        each()
    importlib.import_module("current")
    assert not only_here("current")


def test_the_path_of_the_newest_worker_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "now" / "newest.py")
    note_workers_path(sys.path)
    monkeypatch.syspath_prepend(tmp_path / "now")
    note_workers_path(sys.path)
    importlib.import_module("newest")
    assert not only_here("newest")


def test_the_path_of_the_workers_is_read_where_they_were_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "started" / "relative.py")
    monkeypatch.chdir(tmp_path / "started")
    note_workers_path([3, "", *sys.path])
    monkeypatch.chdir(tmp_path)
    loaded("relative", tmp_path / "started" / "relative.py")
    assert not only_here("relative")


def test_a_file_that_is_run_under_a_name_is_only_here_while_it_runs(tmp_path: Path) -> None:
    source = "from wool.whereabouts import only_here\nfound = only_here(__name__)\n"
    assert runpy.run_path(str(write(tmp_path / "run.py", source)), run_name="some_name")["found"]


def test_a_module_made_by_hand_is_only_here() -> None:
    sys.modules["made_by_hand"] = types.ModuleType("made_by_hand")
    assert only_here("made_by_hand")


def test_packages_and_their_modules_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "pack" / "__init__.py", f"__path__.append({str(tmp_path / 'more')!r})\n")
    write(tmp_path / "pack" / "inner" / "module.py")
    write(tmp_path / "more" / "added.py")
    monkeypatch.syspath_prepend(tmp_path)
    for name in ("pack", "pack.inner", "pack.inner.module", "pack.added"):
        importlib.import_module(name)
        assert not only_here(name), name
    loaded("pack.stranger", write(tmp_path / "stranger.py"))
    assert only_here("pack.stranger")


@pytest.mark.parametrize(
    "name", ["builtins", "json.decoder", "posixpath", "pyexpat.errors", "grpc._cython.cygrpc", "wool.task", "__main__"]
)
def test_what_every_python_of_the_environment_has_is_not_only_here(name: str) -> None:
    for top in ("json", "pyexpat", "grpc._cython.cygrpc", "wool.task"):
        importlib.import_module(top)
    assert not only_here(name)


def test_modules_that_another_finder_finds_or_a_package_makes_are_not_only_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = write(tmp_path / "edited" / "editable.py")

    class Finder:
        @classmethod
        def find_spec(cls, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
            return importlib.util.spec_from_file_location(name, place) if name == "editable" else None

    class Angry:
        def find_spec(self, *_: object) -> None:
            raise AssertionError

    monkeypatch.syspath_prepend(tmp_path)
    write(tmp_path / "maker.py", "import sys, types\nsys.modules['maker.made'] = types.ModuleType('maker.made')\n")
    importlib.import_module("maker")
    loaded("editable", place)
    monkeypatch.setattr(sys, "meta_path", [Angry(), Finder, *sys.meta_path])
    assert not only_here("editable")
    assert not only_here("maker.made")


def test_a_module_is_judged_once_and_anew_when_it_is_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    ask = whereabouts._ask
    monkeypatch.setattr(whereabouts, "_ask", lambda name, path: asked.append(name) or ask(name, path))
    for count in (1, 2):
        loaded("judged", write(tmp_path / "judged.py"))
        assert only_here("judged") and only_here("judged")
        assert asked == ["judged"] * count


def test_what_is_no_module_is_left_to_whoever_put_it_there() -> None:
    sys.modules["odd"] = types.SimpleNamespace()  # type: ignore[assignment]
    sys.modules["alias"] = types.ModuleType("another_name")
    assert not only_here("odd")
    assert not only_here("alias")
    assert not only_here("not_there")
