"""What the project's own texts promise of each other."""

from __future__ import annotations

import ast
import importlib.metadata
import re
import shlex
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from wool._version import __version__

ROOT = Path(__file__).parents[2]
GENERATED = {".git", ".hypothesis", ".mypy_cache", ".nox", ".pytest_cache", ".ruff_cache", ".venv", "__pycache__"}
GENERATED |= {"build", "dist"}
README = (ROOT / "README.md").read_text()


def texts() -> Iterator[tuple[Path, str]]:
    """Yield every text of the project."""
    for path in sorted(ROOT.rglob("*")):
        if path.is_file() and not GENERATED.intersection(path.relative_to(ROOT).parts):
            try:
                yield path.relative_to(ROOT), path.read_text()
            except UnicodeDecodeError:
                continue


def code_blocks(language: str, text: str = README) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", text, flags=re.MULTILINE | re.DOTALL)


def commands(text: str = README) -> list[str]:
    return [line for block in code_blocks("sh", text) for line in block.splitlines() if line and line[0] != "#"]


def test_no_private_key_is_kept() -> None:
    begin = re.compile(r"-----BEGIN [A-Z ]*" + r"PRIVATE KEY-----")
    assert [path for path, text in texts() if begin.search(text)] == []
    assert [path for path in ROOT.glob("certs/**/*") if path.suffix in (".key", ".p12", ".pfx")] == []


def test_two_commands_do_all_the_set_up() -> None:
    install, test = commands()[:2]
    for command in (install, test):
        assert command.startswith("python3 -m venv .venv && .venv/bin/pip install ")
    assert install.endswith(" && .venv/bin/python examples/quickstart.py")
    assert test.endswith(" && .venv/bin/nox")


def test_ci_calls_the_command_of_the_readme() -> None:
    test = commands()[1]
    assert [line.strip() for line in (ROOT / ".ci" / "run").read_text().splitlines()].count(test) == 1
    assert (ROOT / ".ci" / "run").stat().st_mode & 0o111


def test_files_that_commands_name_exist() -> None:
    for text in (README, (ROOT / "CONTRIBUTING.md").read_text()):
        for command in commands(text):
            for word in shlex.split(command, comments=True):
                if re.fullmatch(r"(examples|tests|docs|bench)/\S+", word):
                    assert (ROOT / word.split("::")[0]).exists(), command


def test_the_quick_start_of_the_readme_is_the_example() -> None:
    example = (ROOT / "examples" / "quickstart.py").read_text()
    assert ast.dump(ast.parse(code_blocks("python")[0])) == ast.dump(ast.parse(example))
    assert '__name__ == "__main__"' not in example


def test_the_version_is_written_once() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert "version" not in project["project"]
    assert "version" in project["project"]["dynamic"]
    written = re.compile(
        rf"^[^#\n]*version\w*\s*[:=]\s*[\"']{re.escape(__version__)}[\"']", re.MULTILINE | re.IGNORECASE
    )
    assert [str(path) for path, text in texts() if written.search(text)] == ["src/wool/_version.py"]


def test_the_installed_version_is_the_written_one() -> None:
    try:
        installed = importlib.metadata.version("wool")
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("wool is not installed here; the source tree is on the path")
    assert installed == __version__


def test_the_changelog_knows_the_version() -> None:
    headings = re.findall(r"^## \[(.+?)\]", (ROOT / "CHANGELOG.md").read_text(), flags=re.MULTILINE)
    assert headings[0] == "Unreleased"
    assert __version__ in headings or len(headings) == 1


def relative_links() -> list[tuple[str, str]]:
    return [
        (str(path), target.split("#")[0])
        for path, text in texts()
        if path.suffix == ".md"
        for target in re.findall(r"\]\(([^)\s]+)\)", re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL))
        if not re.match(r"[a-z]+:|#", target)
    ]


@pytest.mark.parametrize(("path", "target"), relative_links())
def test_a_link_leads_somewhere(path: str, target: str) -> None:
    assert (ROOT / path).parent.joinpath(target).exists()


def test_every_python_that_is_supported_is_declared() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["requires-python"] == ">=3.11"
    assert project["license"] == "Apache-2.0"
    assert "Apache License" in (ROOT / "LICENSE").read_text()
