"""What others say is one line that can be shown, whatever they say."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wool.harmless import harmless
from wool.limits import MOST_CHARACTERS


@given(st.text(st.characters() | st.characters(categories=["Cc", "Cf", "Cs", "Zl"])), st.integers(1, 50))
def test_whatever_is_said_is_printable_and_bounded(text: str, most: int) -> None:
    shown = harmless(text, most)
    assert shown.isprintable()
    assert len(shown) <= most


@given(st.text(st.characters(categories=["L", "N", "P"]), max_size=50))
def test_what_can_be_shown_stays_as_it_is(text: str) -> None:
    assert harmless(text, 50) == text


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        ("a\nWARNING b", "a\\nWARNING b"),
        ("\x1b[2J\x07 grüß \\n", "\\x1b[2J\\x07 grüß \\n"),
        ("\u202eabc\u2028\ud800", "\\u202eabc\\u2028\\ud800"),
        ("", ""),
    ],
)
def test_what_cannot_be_shown_is_escaped_and_nothing_else(said: str, shown: str) -> None:
    assert harmless(said) == shown


def test_what_is_too_long_is_cut_and_says_so() -> None:
    assert harmless("x" * MOST_CHARACTERS) == "x" * MOST_CHARACTERS
    for long in ("x" * (MOST_CHARACTERS + 1), "\x1b" * MOST_CHARACTERS):
        assert len(harmless(long)) == MOST_CHARACTERS
        assert harmless(long).endswith("…")
