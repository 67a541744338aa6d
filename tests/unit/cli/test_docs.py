"""What the documentation says of the command line is what there is."""

from __future__ import annotations

import re
import tomllib
from importlib import import_module
from pathlib import Path

import pytest

from wool.cli import health, ps, top, worker
from wool.cli.settings import Option, resolve
from wool.cli.supervisor import Status

ROOT = Path(__file__).parents[3]
PAGE = (ROOT / "docs" / "worker.md").read_text()
WORKER, REST = PAGE.split("\n## wool ps\n")
PS, REST = REST.split("\n## wool top\n")
TOP, HEALTH = REST.split("\n## wool health\n")
COMMANDS = [(WORKER, worker.OPTIONS), (PS, ps.OPTIONS), (TOP, top.OPTIONS), (HEALTH, health.OPTIONS)]
LOGGING = ("cli/supervisor.py", "cli/worker.py", "worker/ledger.py", "worker/logs.py")


@pytest.mark.parametrize(("text", "options"), COMMANDS)
def test_every_flag_is_documented_with_its_variable_and_key(text: str, options: tuple[Option, ...]) -> None:
    for option in options:
        assert f"| `--{option.name}` | `{option.variable}` | `{option.key}` |" in text


def test_no_flag_is_documented_that_is_not_there() -> None:
    for text, options in COMMANDS:
        rows = set(re.findall(r"^\| `--([a-z-]+)` \|", text, flags=re.MULTILINE))
        assert rows == {option.name for option in options} | {"config"}


def test_every_exit_status_is_documented() -> None:
    rows = re.findall(r"^\| (\d) \|", WORKER, flags=re.MULTILINE)
    assert list(map(int, rows)) == list(Status)


def test_every_event_is_documented() -> None:
    source = "".join((ROOT / "src" / "wool" / path).read_text() for path in LOGGING)
    said = re.findall(
        r'(?:_log\.(?:info|warning|error)\(\s*|_log\.log\([^"]*|_say\(|"msg": |"event": |_failed\([^"]*)"([a-z-]+)"',
        source,
    )
    assert {"worker-ready", "task-ended", "gave-up", "lines-dropped", "output", "worker-stopped"} <= set(said)
    for event in said:
        assert f"`{event}`" in WORKER, event


def test_the_file_of_the_documentation_can_be_read() -> None:
    (text,) = re.findall(r"^```toml\n(.*?)^```$", PAGE, flags=re.MULTILINE | re.DOTALL)
    assert set(tomllib.loads(text)) == {"worker", "ps"}
    for command, options in (("worker", worker.OPTIONS), ("ps", ps.OPTIONS)):
        settings = resolve(command, options, {"config": "x"}, {}, lambda path: text)
        assert settings["discovery"].name == "team"


def test_the_command_is_what_the_project_installs() -> None:
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    assert list(scripts) == ["wool"]
    module, _, name = scripts["wool"].partition(":")
    assert callable(getattr(import_module(module), name))
