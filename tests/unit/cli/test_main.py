"""``wool`` as a person meets it: bare, asked for help, and in a shell that completes."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from wool.cli.main import main, parser

COMMANDS = ("worker", "ps", "top", "health", "certs", "completion")


def test_bare_it_shows_what_there_is(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    output = capsys.readouterr().err
    assert [command for command in COMMANDS if not re.search(rf"^    {command}\b", output, re.MULTILINE)] == []


@pytest.mark.parametrize("command", [*COMMANDS[:4], "certs init", "certs issue", "certs show", "completion"])
def test_the_help_of_each_command_has_examples_that_can_be_parsed(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main([*command.split(), "--help"])
    assert ended.value.code == 0
    output = capsys.readouterr().out
    assert "\x1b" not in output
    examples = [
        line.split("   ")[0].split(" >")[0].split() for line in output.splitlines() if line.startswith("  wool ")
    ]
    assert examples
    for _, *arguments in examples:
        parser().parse_args(arguments)


@pytest.mark.parametrize(
    ("words", "wanted"), [("wool wo", "worker"), ("wool worker --dr", "--drain-timeout"), ("wool certs is", "issue")]
)
def test_bash_completes_commands_and_flags(words: str, wanted: str, tmp_path: Path) -> None:
    assert shutil.which("bash") is not None, "bash is needed to try what it completes"
    script = tmp_path / "wool.bash"
    command = [sys.executable, "-m", "wool", "completion", "bash"]
    script.write_bytes(subprocess.run(command, capture_output=True, check=True).stdout)
    *_, before, last = listed = words.split()
    asked = (
        f"source {script}; COMP_WORDS=({words}); COMP_CWORD={len(listed) - 1}; _shtab_wool wool {last} {before}; "
        'printf "%s\\n" "${COMPREPLY[@]}"'
    )
    answer = subprocess.run(["bash", "--norc", "-c", asked], capture_output=True, check=True, text=True)
    assert answer.stdout.split() == [wanted]


def test_without_the_extra_it_says_what_to_install(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "shtab", None)
    assert main(["completion", "zsh"]) == 2
    assert "pip install 'wool[completion]'" in capsys.readouterr().err
