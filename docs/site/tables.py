"""What the reference needs beyond what is in the source, where names and tables look as they do in Python.

Docstrings have tables that look like tables in the source; on the site they are Markdown's. And a function that the
package exports is shown also where a module of the package has its name.
"""

from __future__ import annotations

import re
from typing import Any

from griffe import Alias, Extension, Module, Object

RULE = re.compile(r" *=+( +=+)+ *")


class SimpleTables(Extension):
    """Turns reStructuredText's simple tables into Markdown's."""

    def on_object(self, *, obj: Object, **_: Any) -> None:
        """Rewrite the docstring of ``obj``."""
        if obj.docstring is not None:
            obj.docstring.value = with_markdown_tables(obj.docstring.value)


class ExportsFirst(Extension):
    """Shows what the package exports where a module has the same name, as `wool.routine`: else the module hides it."""

    def on_package(self, *, pkg: Module, **_: Any) -> None:
        """Put the exported object in the place of the module in which it is defined."""
        for name in pkg.exports or ():
            found = pkg.members.get(str(name))
            if isinstance(found, Module) and str(name) in found.members:
                pkg.members[str(name)] = Alias(str(name), found.members[str(name)], parent=pkg)


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
