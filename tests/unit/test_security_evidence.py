"""Each promise about security names the tests that show it, and those are there; no test of an attack is left out."""

from __future__ import annotations

import ast
import functools
import re
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]
PAGE = TESTS.parent / "docs" / "security-evidence.md"
ATTACKS = [*sorted((TESTS / "integration").glob("test_hostile_*.py")), TESTS / "unit" / "test_authentication.py"]

_NAMED = re.compile(r"`([\w/]+\.py)::(\w+)`")


def rows() -> dict[str, list[tuple[str, str]]]:
    """What is promised, and the file and name of each test that shows it."""
    found: dict[str, list[tuple[str, str]]] = {}
    for line in PAGE.read_text().splitlines():
        if line.startswith("| ") and not line.startswith("| promise"):
            _, promise, shown, _ = line.split("|")
            assert promise.strip() not in found, f"{promise.strip()} is promised twice"
            rest = _NAMED.sub("", shown).replace("<br>", "").strip()
            assert not rest, f"this names no test: {rest}"
            found[promise.strip()] = _NAMED.findall(shown)
    return found


@functools.cache
def defined_in(file: Path) -> frozenset[str]:
    nodes = ast.parse(file.read_text()).body
    functions = [node for node in nodes if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    return frozenset(node.name for node in functions if node.name.startswith("test_"))


@pytest.mark.parametrize("promise", rows())
def test_a_promise_about_security_names_tests_that_are_there(promise: str) -> None:
    named = rows()[promise]
    assert named
    missing = [f"{file}::{test}" for file, test in named if test not in defined_in(TESTS / file)]
    assert missing == []


def test_every_test_that_plays_an_attacker_shows_a_promise() -> None:
    named = {pair for pairs in rows().values() for pair in pairs}
    played = {(str(file.relative_to(TESTS)), test) for file in ATTACKS for test in defined_in(file)}
    assert len(played) > 20
    assert sorted(played - named) == []
