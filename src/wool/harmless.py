"""What others say, made fit for a log, an error and a terminal.

Why it exists: who answers at an address may be anybody, and what it says becomes a reason in an error, or a line of a
log, before it has proven who it is. Newlines would forge other lines there, escapes would speak to the terminal.

What it owns: that one rule, for the place where such words come in. It must never judge what is said.
"""

from __future__ import annotations

from wool.limits import MOST_CHARACTERS


def harmless(text: str, most: int = MOST_CHARACTERS) -> str:
    """Return ``text`` in one line, of ``most`` characters at most, with whatever is not printable escaped."""
    shown = text[:most]
    if not shown.isprintable():
        shown = "".join(each if each.isprintable() else each.encode("unicode_escape").decode() for each in shown)
    return shown if len(shown) <= most and len(text) <= most else f"{shown[: most - 1]}…"
