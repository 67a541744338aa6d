"""The site has what its reader looks for there."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import wool

ROOT = Path(__file__).parents[2]


def test_every_public_name_is_in_the_reference(tmp_path: Path) -> None:
    built = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path)],
        cwd=ROOT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert built.returncode == 0, built.stderr
    shown = re.findall(r'<h\d id="wool\.(\w+)"', (tmp_path / "reference" / "index.html").read_text())
    assert sorted({*wool.__all__} - {*shown}) == ["__version__"]
