"""Docstrings have tables that look like tables in the source; on the site they are Markdown's."""

from __future__ import annotations

import re
from typing import Any

from griffe import Extension, Object

RULE = re.compile(r" *=+( +=+)+ *")


class SimpleTables(Extension):
    """Turns reStructuredText's simple tables into Markdown's."""

    def on_object(self, *, obj: Object, **_: Any) -> None:
        """Rewrite the docstring of ``obj``."""
        if obj.docstring is not None:
            obj.docstring.value = with_markdown_tables(obj.docstring.value)


def with_markdown_tables(text: str) -> str:
    """Return ``text`` with each table, a head between two rules or none, and rows to the last rule, rewritten."""
    lines, out = text.splitlines(), list[str]()
    while lines:
        line = lines.pop(0)
        if not RULE.fullmatch(line):
            out.append(line)
            continue
        columns = [match.start() for match in re.finditer(r"=+", line)]
        parts: list[list[str]] = [[]]
        while lines and len(parts) < 3:
            row = lines.pop(0)
            if RULE.fullmatch(row):
                parts.append([])
                if not lines or not lines[0].strip():
                    break
            else:
                parts[-1].append(_row(row, columns))
        head, body = (parts[0], parts[1]) if len(parts) > 2 else ([], parts[0])
        empty = "| " + " | ".join("" for _ in columns) + " |"
        out += ["", *(head or [empty]), "|" + "---|" * len(columns), *body, ""]
    return "\n".join(out)


def _row(row: str, columns: list[int]) -> str:
    ends = [*columns[1:], None]
    cells = [row[start:end].strip() for start, end in zip(columns, ends, strict=True)]
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
