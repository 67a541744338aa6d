"""What a shell is told of arguments beyond their names: which are files, for ``wool completion``.

It owns how shtab is told, which looks at an attribute of argparse's actions. It must not need shtab: that is an extra.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import Any

_SHOWN: Mapping[str, Mapping[str, str]] = {
    "FILE": {"bash": "_shtab_compgen_files", "zsh": "_files", "tcsh": "f"},
    "DIRECTORY": {"bash": "_shtab_compgen_dirs", "zsh": "_files -/", "tcsh": "d"},
}
"""By metavar; as ``shtab.FILE`` and ``shtab.DIRECTORY``."""


def with_files(action: argparse.Action) -> None:
    """Let shells complete the names of files where ``action`` takes some, as its metavar says."""
    shown = _SHOWN.get(str(action.metavar))
    if shown is not None:
        told: Any = action
        told.complete = dict(shown)
