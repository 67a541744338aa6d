"""What ``wool`` does where its output goes to nobody, or cannot be written: no traceback, and a status that says so."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from support.command import environment
from support.faults import PATIENCE_SECONDS

PS = "ps --discovery local:test-output --wait 0"
SAYING = ["--help", "--version", "worker --help", "certs init --help", "completion bash", PS, f"{PS} --json"]


def shell(words: str, env: Mapping[str, str] = {}) -> subprocess.CompletedProcess[str]:
    """Run a line of a shell in which ``wool`` is the command, with a standard output that is buffered, as usual."""
    seen = {name: value for name, value in environment(env).items() if name != "PYTHONUNBUFFERED"}
    line = words.replace("wool ", f"{sys.executable} -W error -m wool ", 1)
    return subprocess.run(
        ["bash", "-c", line], env=seen, capture_output=True, text=True, check=False, timeout=PATIENCE_SECONDS
    )


@pytest.mark.parametrize("arguments", SAYING)
def test_a_reader_that_is_gone_is_no_error(arguments: str) -> None:
    # The reader has closed the pipe before anything is written.
    ended = shell(f"exec 3> >(:); wait $!; wool {arguments} >&3")
    assert (ended.returncode, ended.stderr) == (1, "")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full, which Linux has")
@pytest.mark.parametrize("arguments", SAYING)
def test_a_full_disk_is_named_and_is_a_failure(arguments: str) -> None:
    ended = shell(f"wool {arguments} > /dev/full")
    assert ended.returncode == 1
    assert "No space left on device" in ended.stderr
    assert "Traceback" not in ended.stderr and "Exception ignored" not in ended.stderr


@pytest.mark.parametrize("arguments", SAYING)
def test_who_has_closed_standard_output_hears_nothing_and_all_else_is_as_ever(arguments: str) -> None:
    ended = shell(f"wool {arguments} >&-")
    assert ended.returncode == 0
    assert "Traceback" not in ended.stderr


def test_what_the_terminal_cannot_show_is_escaped() -> None:
    ended = shell(
        "wool ps --discovery local:größe-✓ 2>&1", {"PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0", "LC_ALL": "C.UTF-8"}
    )
    assert "Traceback" not in ended.stdout
    assert "wool ps: error: --discovery" in ended.stdout and "\\u2713" in ended.stdout


def test_colours_and_what_else_only_terminals_know_are_for_terminals() -> None:
    for env in ({}, {"NO_COLOR": "1"}):
        assert "\x1b" not in shell("wool worker --help", env).stdout
    # On a terminal each look begins by clearing it.
    watched = shell(f"wool {PS} --watch --interval 0.1 | head -n 2").stdout
    assert [line.split()[0] for line in watched.splitlines()] == ["UID", "UID"]
    refused = shell("wool top --discovery local:test-output")
    assert (refused.returncode, refused.stdout) == (2, "")
