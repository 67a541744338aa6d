"""What the site adds to the pages: the project's other texts, the examples, and pictures of the state machines.

mkdocs calls the functions named ``on_…``. The pages are written for readers of the repository, whose links lead to
files; here a link leads to the page that shows the file, or is none where there is no such page.
"""

from __future__ import annotations

import importlib
import posixpath
import re
from enum import IntEnum
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[2]

TEXTS = {
    "README.md": "project/readme.md",
    "CHANGELOG.md": "project/changelog.md",
    "CONTRIBUTING.md": "project/contributing.md",
    "SECURITY.md": "project/security.md",
}
"""Texts at the top of the repository, and the pages that show them."""

LINK = re.compile(r"(?<!!)\[([^\]]+)\]\(([^)\s#]+)(#[^)\s]*)?\)")
MACHINE = re.compile(r"<!-- state machine: (\w+) -->")


def examples() -> dict[str, str]:
    """Return the examples, and the pages that show them."""
    return {f"examples/{path.name}": f"examples/{path.stem}.md" for path in sorted((ROOT / "examples").glob("*.py"))}


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add a page for each text and each example."""
    for source, page in TEXTS.items():
        if (ROOT / source).exists():
            files.append(File.generated(config, page, content=(ROOT / source).read_text()))
    for source, page in examples().items():
        code = (ROOT / source).read_text()
        files.append(File.generated(config, page, content=f"# {Path(source).name}\n\n```python\n{code}```\n"))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Lead links to pages, and draw the state machines."""
    pages = {**TEXTS, **examples()}
    shown = {page: source for source, page in pages.items()}
    here = page.file.src_uri
    directory = posixpath.dirname(shown.get(here, f"docs/{here}"))

    def lead(match: re.Match[str]) -> str:
        text, target, anchor = match.groups()
        if ":" in target:
            return match[0]
        wanted = posixpath.normpath(posixpath.join(directory, target))
        found = pages.get(wanted, wanted.removeprefix("docs/") if wanted.startswith("docs/") else None)
        if found is None or files.get_file_from_path(found) is None:
            # A file of the repository that has no page; what leads nowhere is left for mkdocs to complain of.
            return text if (ROOT / wanted).exists() else match[0]
        return f"[{text}]({posixpath.relpath(found, posixpath.dirname(here) or '.')}{anchor or ''})"

    return MACHINE.sub(lambda match: draw(match[1]), LINK.sub(lead, markdown))


def draw(side: str) -> str:
    """Return the diagram of a side's table: an arrow from each state to the next, with the events that lead there."""
    machine = importlib.import_module(f"wool.protocol.{side}")
    table: dict[IntEnum, dict[IntEnum, Any]] = machine.TABLE
    first, last = next(iter(machine.State)), machine.State.ENDED
    lines = ["```mermaid", "stateDiagram-v2", f"    [*] --> {first.name}"]
    for state, rows in table.items():
        ways: dict[str, list[str]] = {}
        for event, row in rows.items():
            ways.setdefault(row[0].name, []).append(event.name.lower().replace("_", " "))
        lines += [f"    {state.name} --> {target}: {', '.join(events)}" for target, events in ways.items()]
    return "\n".join([f"**The task at its {side}**", "", *lines, f"    {last.name} --> [*]", "```"])
