"""``wool`` as a person meets it: bare, asked for help, and in a shell that completes."""

from __future__ import annotations

import os
import pty
import re
import select
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from wool.cli.main import main, parser

PATIENCE_SECONDS = 30

COMMANDS = ("worker", "ps", "top", "health", "certs", "completion")


def test_bare_it_shows_what_there_is(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    output = capsys.readouterr().err
    assert [command for command in COMMANDS if not re.search(rf"^    {command}\b", output, re.MULTILINE)] == []


@pytest.mark.parametrize("command", ["", *COMMANDS, "certs init", "certs issue", "certs show"])
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


@pytest.mark.parametrize(
    ("typed", "wanted"),
    [
        ("wool comp", "wool completion "),
        ("wool worker --drain", "--drain-timeout "),
        ("wool worker --loop uv", "--loop uvloop "),
        ("wool worker --log-level warn", "--log-level warning "),
        ("wool worker --config sett", "--config settings.toml "),
        ("wool ps --ca sett", "--ca settings.toml "),
        ("wool certs init kee", "init keep/"),
        ("wool certs show keep/c", "show keep/ca.pem "),
    ],
)
def test_the_tab_key_completes_commands_flags_words_and_files(typed: str, wanted: str, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "wool", "completion", "bash"]
    (tmp_path / "wool.bash").write_bytes(subprocess.run(command, capture_output=True, check=True).stdout)
    (tmp_path / "settings.toml").touch()
    (tmp_path / "keep").mkdir()
    (tmp_path / "keep" / "ca.pem").touch()
    ours, theirs = pty.openpty()
    shell = subprocess.Popen(
        ["bash", "--norc", "--noprofile", "-i"],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        cwd=tmp_path,
        env={"PATH": os.environ["PATH"], "TERM": "dumb", "PS1": "ready> ", "INPUTRC": os.devnull, "HISTFILE": ""},
        start_new_session=True,
    )
    os.close(theirs)
    try:
        _press(ours, b"source wool.bash\n", "ready> .*ready> ")
        _press(ours, f"{typed}\t".encode(), re.escape(wanted))
    finally:
        shell.kill()
        shell.wait()
        os.close(ours)


def _press(terminal: int, keys: bytes, wanted: str) -> None:
    """Press ``keys`` and wait until the screen has ``wanted``."""
    os.write(terminal, keys)
    seen = b""
    ends = time.monotonic() + PATIENCE_SECONDS
    while not re.search(wanted, seen.decode(errors="replace"), re.DOTALL):
        assert select.select([terminal], [], [], max(0, ends - time.monotonic()))[0], seen
        seen += os.read(terminal, 65536)


def test_what_a_word_must_be_is_said_by_what_reads_it_and_not_by_the_completion() -> None:
    assert vars(parser().parse_args(["worker", "--loop", "trio"]))["loop"] == "trio"


def test_without_the_extra_it_says_what_to_install(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "shtab", None)
    assert main(["completion", "zsh"]) == 2
    assert "pip install 'wool[completion]'" in capsys.readouterr().err
