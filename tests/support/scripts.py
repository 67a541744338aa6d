"""Programs as a user writes them, run as a user runs them, and what they leave behind."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import wool
from support.faults import is_alive

SOURCE = Path(wool.__file__).parents[1]
WORDS_SECONDS = 45.0
VANISH_SECONDS = 3.0

How = Literal["file", "stdin", "command", "repl", "notebook"]

NOTEBOOK = """
import ast, asyncio, pathlib, sys, types

async def notebook():
    module = sys.modules["__main__"] = types.ModuleType("__main__")
    for cell in pathlib.Path(sys.argv[1]).read_text().split("# %%"):
        for statement in ast.parse(cell).body:
            code = compile(ast.Module([statement], []), "<cell>", "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
            if (result := eval(code, vars(module))) is not None:
                await result

asyncio.run(notebook())
"""
"""What a notebook's kernel does: each cell in a ``__main__`` without a file, on a loop that runs already."""


class Place:
    """Directories of a user's own: where programs lie, where they run, where wool puts its things."""

    def __init__(self, root: Path) -> None:
        self.app = root / "app"
        self.home = root / "home"
        self.runtime = root / "run"
        self.temporary = root / "tmp"
        for directory in (self.app, self.home, self.runtime, self.temporary):
            directory.mkdir(mode=0o700)
        self.journal = root / "journal"

    def left(self) -> list[str]:
        """What is left of wool, apart from the user's key."""
        found = [*self.runtime.rglob("*"), *self.temporary.rglob("*")]
        names = [str(path.relative_to(self.runtime.parent)) for path in found]
        return sorted(name for name in names if name not in ("run/wool", "run/wool/key"))

    def environment(self) -> dict[str, str]:
        return {
            **{name: value for name, value in os.environ.items() if name != "PYTHONPATH"},
            "PYTHONPATH": str(SOURCE),
            "PYTHON_BASIC_REPL": "1",  # The new one of 3.13 takes no block of several lines from a pipe.
            "XDG_RUNTIME_DIR": str(self.runtime),
            "TMPDIR": str(self.temporary),
            "JOURNAL": str(self.journal),
        }

    def start(self, source: str, how: How = "file") -> subprocess.Popen[str]:
        """Start a program in ``home``; its script, if it is one, lies in ``app``."""
        script = self.app / "script.py"
        script.write_text(source)
        arguments = {
            "file": [str(script)],
            "stdin": ["-"],
            "command": ["-c", source],
            "repl": ["-m", "asyncio"],
            "notebook": ["-c", NOTEBOOK, str(script)],
        }[how]
        process = subprocess.Popen(
            [sys.executable, "-W", "error", *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=self.environment(),
            cwd=self.home,
            text=True,
        )
        assert process.stdin is not None
        if how in ("stdin", "repl"):
            process.stdin.write(source)
        process.stdin.close()
        process.stdin = None
        return process

    def run(self, source: str, how: How = "file", *, status: int = 0) -> str:
        """Run a program to its end; return what it printed."""
        with self.start(source, how) as process:
            try:
                output, errors = process.communicate(timeout=WORDS_SECONDS)
            except BaseException:
                process.send_signal(signal.SIGABRT)
                _, errors = process.communicate()
                print(errors, file=sys.stderr)
                raise
        assert process.returncode == status, f"exit status {process.returncode}\n{output}\n{errors}"
        return output

    @contextlib.contextmanager
    def running(self, source: str) -> Iterator[tuple[subprocess.Popen[str], list[int]]]:
        """Run a program that prints the process ids of its workers, and then goes on; it is killed in the end."""
        with self.start(source) as process:
            try:
                assert process.stdout is not None
                words = process.stdout.readline().split()
                if not words:
                    process.kill()
                    raise AssertionError(process.communicate()[1])
                yield process, [int(word) for word in words]
            finally:
                process.kill()


def assert_vanish(pids: list[int]) -> None:
    """Wait until none of the processes lives."""
    deadline = time.monotonic() + VANISH_SECONDS
    while alive := [pid for pid in pids if is_alive(pid)]:
        assert time.monotonic() < deadline, f"processes {alive} outlive their owner"
        time.sleep(0.01)


@contextlib.contextmanager
def user_place() -> Iterator[Place]:
    """Make a `Place`, with paths short enough for sockets."""
    with tempfile.TemporaryDirectory(prefix="wt-", dir="/tmp") as root:
        yield Place(Path(root))
