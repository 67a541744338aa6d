"""A test must not leave anything behind: here is what looks, and fails the test that did.

Looked for after every test, by comparison with what was there before it: asyncio tasks, threads,
processes, file descriptors, and files in the temporary directory, in shared memory and in the runtime
directory. What ends by itself (a thread that was told to stop, a process that was killed) gets a short
grace; the rest is named in the failure. Fixtures of a wider scope are set up before the comparison
begins, so what they hold is no leak of the test that happens to be the first.

A plugin of its own, so that the leaks themselves can be tested. It gives the session a temporary and a
runtime directory that nobody else writes to, and marks every process that descends from it, so that one
which lost its parent is found too.
"""

from __future__ import annotations

import asyncio
import gc
import os
import shutil
import stat
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import pytest_asyncio

GRACE_SECONDS = 5.0
"""What ends asynchronously has so long; longer than any exit of a worker that is killed."""
POLL_SECONDS = 0.02
TASK_GRACE_SECONDS = 1.0
"""Tasks share the loop with the check, so one that is ending needs only some turns of it."""

MARK = "WOOL_TEST_SESSION"

TOLERATED_THREADS = (
    # grpc.aio has one completion queue per process, polled by this thread; it goes when the last of its
    # objects is collected, which is up to the garbage collector.
    "(_poll_wrapper)",
)
TOLERATED_PROCESSES = (
    # Of multiprocessing: started on first use, kept for the life of the process, by design.
    "multiprocessing.resource_tracker",
    "multiprocessing.forkserver",
)
TOLERATED_FILES = tuple(
    # The runtime directory is kept while it holds the user's own key, which is made on first use and kept.
    path
    for directory in ("wool", f"wool-{os.getuid()}")
    for path in (directory, f"{directory}/key")
)

SHORT = "/tmp"
"""Where temporary directories go: what nox or macOS would choose is too long for the path of a socket."""

_state = pytest.StashKey[tuple[Path, dict[str, str | None]]]()


# ---- a place of our own ----------------------------------------------------------------------------


def pytest_configure(config: pytest.Config) -> None:
    """Give the session directories of its own, with paths short enough for a Unix socket."""
    place = Path(tempfile.mkdtemp(prefix="wt-", dir=SHORT))
    runtime = place / "run"
    runtime.mkdir(mode=0o700)
    temporary = place / "tmp"
    temporary.mkdir(mode=0o700)
    mine = {
        # pytest's own directories lie outside, and are kept after the session.
        "PYTEST_DEBUG_TEMPROOT": os.environ.get("PYTEST_DEBUG_TEMPROOT") or SHORT,
        "TMPDIR": str(temporary),
        "XDG_RUNTIME_DIR": str(runtime),
        MARK: uuid.uuid4().hex,
    }
    config.stash[_state] = (place, {name: os.environ.get(name) for name in mine})
    os.environ.update(mine)
    tempfile.tempdir = None


def pytest_unconfigure(config: pytest.Config) -> None:
    place, environment = config.stash[_state]
    for name, value in environment.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value
    tempfile.tempdir = None
    shutil.rmtree(place, ignore_errors=True)


# ---- what there is ---------------------------------------------------------------------------------


def living_threads() -> dict[object, str]:
    return {
        thread: f"thread {thread.name!r}{' (daemon)' if thread.daemon else ''}"
        for thread in threading.enumerate()
        if not thread.name.endswith(TOLERATED_THREADS)
    }


def living_processes() -> dict[object, str]:
    """Our children, and on Linux whatever else descends from this session."""
    found = _processes_of_proc() if Path("/proc/self/stat").exists() else _processes_of_ps()
    return {
        pid: f"process {pid}: {command}"
        for pid, command in found.items()
        if not any(tolerated in command for tolerated in TOLERATED_PROCESSES)
    }


def _processes_of_proc() -> dict[int, str]:
    own = os.getpid()
    mark = f"{MARK}={os.environ.get(MARK, '')}".encode()
    found: dict[int, str] = {}
    for directory in Path("/proc").iterdir():
        if not directory.name.isdigit() or int(directory.name) == own:
            continue
        try:
            name, _, rest = (directory / "stat").read_text().partition("(")[2].rpartition(")")
            state, parent = rest.split()[:2]
            if int(parent) != own and (state == "Z" or mark not in (directory / "environ").read_bytes().split(b"\0")):
                continue
            command = (directory / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
        except OSError:
            continue  # gone, or somebody else's
        found[int(directory.name)] = f"{command or name}{' (zombie: nobody waited for it)' if state == 'Z' else ''}"
    return found


def _processes_of_ps() -> dict[int, str]:
    child = subprocess.Popen(["ps", "-axo", "pid=,ppid=,command="], stdout=subprocess.PIPE, text=True)
    output, _ = child.communicate()
    found: dict[int, str] = {}
    for line in output.splitlines():
        pid, parent, command = line.split(None, 2)
        if int(parent) == os.getpid() and int(pid) != child.pid:
            found[int(pid)] = command
    return found


def open_descriptors() -> dict[object, str]:
    """Every open descriptor with what it refers to, so that a number in new use is told apart."""
    proc = Path("/proc/self/fd")
    tolerated = _tracker_descriptors()
    found: dict[object, str] = {}
    for name in os.listdir(proc if proc.exists() else "/dev/fd"):
        if int(name) in tolerated:
            continue
        try:
            status = os.fstat(int(name))
            target = os.readlink(proc / name) if proc.exists() else _target(int(name), status)
        except OSError:
            continue  # the one that the listing itself had open
        found[int(name), status.st_dev, status.st_ino, target] = f"file descriptor {name} -> {target}"
    return found


def _target(descriptor: int, status: os.stat_result) -> str:
    """What readlink would say where there is no /proc."""
    if stat.S_ISREG(status.st_mode) or stat.S_ISDIR(status.st_mode):
        try:
            import fcntl

            path = fcntl.fcntl(descriptor, fcntl.F_GETPATH, bytes(1024))  # type: ignore[attr-defined]
            return str(path.rstrip(b"\0").decode())
        except (AttributeError, OSError):
            pass
    kinds = {stat.S_IFSOCK: "socket", stat.S_IFIFO: "pipe", stat.S_IFREG: "file", stat.S_IFCHR: "device"}
    return f"{kinds.get(stat.S_IFMT(status.st_mode), 'anonymous')}:[{status.st_ino}]"


def _tracker_descriptors() -> list[int]:
    """The pipe to multiprocessing's resource tracker lives as long as the process, like the tracker."""
    module = sys.modules.get("multiprocessing.resource_tracker")
    descriptor = getattr(getattr(module, "_resource_tracker", None), "_fd", None)
    return [] if descriptor is None else [descriptor]


def watched_directories() -> list[Path]:
    """Where a file that is left behind stays left behind."""
    places = [tempfile.gettempdir(), os.environ.get("XDG_RUNTIME_DIR"), "/dev/shm"]
    return [Path(place) for place in places if place and Path(place).is_dir()]


def present_files() -> dict[object, str]:
    found: dict[object, str] = {}
    for top in watched_directories():
        for directory, names, files in os.walk(top):
            for name in [*names, *files]:
                path = Path(directory, name)
                try:
                    status = path.lstat()
                except OSError:
                    continue  # gone meanwhile
                if status.st_uid == os.getuid() and not _tolerated_file(path, top):
                    found[path] = f"file {path}{'/' if stat.S_ISDIR(status.st_mode) else ''}"
    return found


def _tolerated_file(path: Path, top: Path) -> bool:
    inside = path.relative_to(top)
    # The tests of this session have a runtime directory of their own: what lies in the user's usual one is
    # that of a program which runs at the same time.
    return str(inside) in TOLERATED_FILES or inside.parts[0] == f"wool-{os.getuid()}"


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What there was at one moment, each with the words for it."""

    threads: dict[object, str]
    processes: dict[object, str]
    descriptors: dict[object, str]
    files: dict[object, str]

    @classmethod
    def take(cls) -> Snapshot:
        return cls(
            threads=living_threads(),
            processes=living_processes(),
            descriptors=open_descriptors(),
            files=present_files(),
        )

    def since(self, before: Snapshot) -> list[str]:
        """Name what is here and was not there before."""
        new = [text for key, text in self.threads.items() if key not in before.threads]
        new += [text for key, text in self.processes.items() if key not in before.processes]
        new += [text for key, text in self.descriptors.items() if key not in before.descriptors]
        new += [text for key, text in self.files.items() if key not in before.files and isinstance(key, Path)]
        return new


def left_since(before: Snapshot, grace_seconds: float) -> list[str]:
    """Return what is left, after the garbage collector and, if that is not enough, some time."""
    if not (left := Snapshot.take().since(before)):
        return []
    gc.collect()
    deadline = time.monotonic() + grace_seconds
    while (left := Snapshot.take().since(before)) and time.monotonic() < deadline:
        time.sleep(POLL_SECONDS)
        gc.collect()  # what another thread has let go of meanwhile may hold a descriptor in a cycle
    return left


# ---- the fixtures ----------------------------------------------------------------------------------


def _fail(left: list[str]) -> None:
    pytest.fail("the test left behind:\n" + "\n".join(f"  {text}" for text in left), pytrace=False)


@pytest.fixture(autouse=True)
def no_leaks() -> Iterator[None]:
    """Fail the test that left a thread, process, descriptor or file behind."""
    before = Snapshot.take()
    yield
    if left := left_since(before, GRACE_SECONDS):
        _fail(left)


@pytest.fixture(autouse=True)
def no_leaks_on_the_loop(request: pytest.FixtureRequest, no_leaks: None) -> None:
    """Look at the loop too, where the test has one; before `no_leaks`, which needs the loop closed."""
    if pytest_asyncio.is_async_test(request.node):
        request.getfixturevalue("no_leaked_tasks")


@pytest_asyncio.fixture
async def no_leaked_tasks() -> AsyncIterator[None]:
    """Fail the test that left a task on its loop, which would be cancelled unseen."""
    before = asyncio.all_tasks()
    yield
    left = asyncio.all_tasks() - before - {asyncio.current_task()}
    if left:
        _, left = await asyncio.wait(left, timeout=TASK_GRACE_SECONDS)
    if left:
        _fail(sorted(_describe(task) for task in left))


def _describe(task: asyncio.Task[object]) -> str:
    where = "".join(f" at {frame.f_code.co_filename}:{frame.f_lineno}" for frame in task.get_stack(limit=1))
    return f"task {task.get_name()!r} in {getattr(task.get_coro(), '__qualname__', task.get_coro())}{where}"
