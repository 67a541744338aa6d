"""A caller and a worker that share nothing but their source path: each has a ``__main__`` of its own.

`run_caller` runs a script as ``__main__``, with `Worker` to call functions in a second process, whose
``__main__`` is another one. Only bytes pass between the two.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import FunctionType, SimpleNamespace
from typing import Any, BinaryIO, Self

from wool.definition import define, load_definition
from wool.failure import Origin, capture, rebuild
from wool.serialization import ROUTINE_ATTRIBUTE, Payload, dumps, loads, set_routine_rebuilder

_wrappers: dict[FunctionType, Callable[..., Any]] = {}


def routine(function: FunctionType) -> Callable[..., Any]:
    """Wrap ``function`` as the real decorator does, as far as pickling can see; the call is counted."""
    if function in _wrappers:
        return _wrappers[function]

    @functools.wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        wrapper.calls += 1
        return function(*args, **kwargs)

    wrapper.calls = 0
    setattr(wrapper, ROUTINE_ATTRIBUTE, SimpleNamespace(function=function))
    _wrappers[function] = wrapper
    return wrapper


class Worker:
    """A second process that runs what it is sent, one call at a time."""

    def __init__(self) -> None:
        command = [sys.executable, "-c", "from support.two_processes import serve; Point = 'another main'; serve()"]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def call(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Run ``function`` there; return its result or raise its exception."""
        raw = getattr(getattr(function, ROUTINE_ATTRIBUTE, None), "function", function)
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        _write(self.process.stdin, define(raw).blob, dumps((args, kwargs)))
        kind, payload = _read(self.process.stdout)
        if kind == b"return":
            return loads(payload)
        raise rebuild(payload)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with self.process:
            assert self.process.stdin is not None
            self.process.stdin.close()


def serve() -> None:
    """Be the worker, until the caller closes the pipe."""
    set_routine_rebuilder(routine)
    here = Origin("worker-uid", "some-host", os.getpid(), "task-id")
    while True:
        try:
            blob, arguments = _read(sys.stdin.buffer)
        except EOFError:
            return
        try:
            function = load_definition(blob)
            args, kwargs = loads(arguments)  # type: ignore[misc]
            result = function(*args, **kwargs)
            if inspect.iscoroutine(result):
                result = asyncio.run(result)
            _write(sys.stdout.buffer, b"return", dumps(result))
        except BaseException as error:
            _write(sys.stdout.buffer, b"raise", capture(error, here=here))


def _write(stream: Any, head: bytes, payload: Payload) -> None:
    parts = [b"".join(part) if isinstance(part, list) else bytes(part) for part in payload.parts]
    pickle.dump((head, parts), stream)
    stream.flush()


def _read(stream: BinaryIO | Any) -> tuple[bytes, Payload]:
    head, parts = pickle.load(stream)
    return head, Payload(tuple(parts))


def run_caller(script: str, folder: Path, modules: dict[str, str] | None = None, *, succeeds: bool = True) -> str:
    """Run ``script`` as ``__main__``, with ``worker`` ready; return what it printed, and what went to stderr.

    ``modules`` are written next to it, and both processes can import them.
    """
    for name, source in (modules or {}).items():
        (folder / f"{name}.py").write_text(source)
    path = folder / "caller.py"
    path.write_text(
        "from support.two_processes import Worker, routine\n"
        "from wool.serialization import set_routine_rebuilder\n"
        "set_routine_rebuilder(routine)\n"
        "worker = Worker()\n"
        f"{script}\n"
        "worker.__exit__()\n"
    )
    tests = Path(__file__).parents[1]
    paths = [str(folder), str(tests), str(tests.parent / "src")]
    done = subprocess.run(
        [sys.executable, str(path)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    assert (done.returncode == 0) is succeeds, done.stdout + done.stderr
    return done.stdout + done.stderr
