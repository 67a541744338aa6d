"""What the pages show is true: their programs run, and print what the pages say; their commands are commands.

A block of Python is a program: it is run as it stands, in an empty directory, warnings being errors. Where every
``print`` has a comment behind it, or a block of plain text follows, that is what it must print. Programs that need more
than an empty directory are run by the tests that `ELSEWHERE` names.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from markdown_it import MarkdownIt

from support.command import worker_command
from wool.cli.main import parser

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "SECURITY.md", *sorted((ROOT / "docs").glob("*.md"))]
PATIENCE_SECONDS = 60

ELSEWHERE = {
    ("README.md", "CredentialFiles"): "tests/integration/test_security_docs.py",
    ("docs/security.md", ""): "tests/integration/test_security_docs.py",
    ("docs/kubernetes.md", ""): "tests/integration/test_kubernetes.py",
}
"""Programs, by page and a word in them, that need what their page's commands make; and the tests that run both."""


class Block(NamedTuple):
    """A fenced block of a page."""

    page: str
    line: int
    language: str
    text: str
    output: str | None
    """The plain text that follows it."""

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


def blocks() -> Iterator[Block]:
    """Yield the fenced blocks of all pages."""
    for path in PAGES:
        tokens = MarkdownIt("commonmark").parse(path.read_text())
        for token, after in zip(tokens, [*tokens[1:], None], strict=True):
            if token.type == "fence":
                assert token.map is not None
                follows = after is not None and after.type == "fence" and after.info == "text"
                output = after.content if after is not None and follows else None
                yield Block(str(path.relative_to(ROOT)), token.map[0] + 1, token.info, token.content, output)


BLOCKS = list(blocks())
PROGRAMS = [
    block
    for block in BLOCKS
    if block.language == "python" and not any(block.page == page and word in block.text for page, word in ELSEWHERE)
]


def expected(block: Block) -> str | None:
    """Return what a program prints, as far as the page says so."""
    if block.output is not None:
        return block.output
    prints = [line for line in block.text.splitlines() if re.match(r"\s*print\(", line)]
    said = [match[1] for line in prints if (match := re.search(r"\)  # (.+)$", line))]
    return "".join(f"{line}\n" for line in said) if said and len(said) == len(prints) else None


@pytest.mark.parametrize("block", PROGRAMS, ids=str)
async def test_a_program_runs_and_prints_what_its_page_says(block: Block, tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(block.text)
    if 'LocalDiscovery("team")' in block.text and "asyncio.run" in block.text:
        async with worker_command("--discovery", "local:team", "--size", "1") as command:
            await command.event("ready")
            printed = run(program)
    else:
        printed = run(program)
    wanted = expected(block)
    if wanted is not None:
        assert printed == wanted


def run(program: Path) -> str:
    done = subprocess.run(
        [sys.executable, "-W", "error", str(program)],
        cwd=program.parent,
        env=dict(os.environ),
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_what_programs_print_is_checked() -> None:
    assert len([block for block in PROGRAMS if expected(block)]) >= 6


def test_pages_whose_programs_are_run_elsewhere_are_read_there() -> None:
    for (page, _), test in ELSEWHERE.items():
        assert Path(page).name in (ROOT / test).read_text()


def commands() -> Iterator[tuple[Block, str]]:
    """Yield each ``wool …`` that a page shows."""
    for block in BLOCKS:
        if block.language == "sh":
            for line in re.sub(r"\\\n\s*", "", block.text).splitlines():
                if line.startswith("wool "):
                    yield block, line


@pytest.mark.parametrize(("block", "command"), [pytest.param(*found, id=found[1]) for found in commands()])
def test_a_command_that_a_page_shows_is_one(block: Block, command: str) -> None:
    arguments = shlex.split(re.split(r" [|&>]", command)[0], comments=True)[1:]
    try:
        parser().parse_args(arguments)
    except SystemExit as error:
        pytest.fail(f"{block}: {command}: {error}")


def test_every_block_is_of_a_known_kind() -> None:
    known = {"python", "sh", "text", "toml", "yaml", "mermaid", ""}
    assert [str(block) for block in BLOCKS if block.language not in known] == []
