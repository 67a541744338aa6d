"""The user's own directory: nobody else's, and nothing left in it by the dead."""

from __future__ import annotations

import errno
import os
import shutil
import stat
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from wool import runtime_directory as module
from wool.limits import REMOVE_ATTEMPTS
from wool.runtime_directory import (
    KEY_BYTES,
    SOCKET_NAME_BYTES,
    SOCKET_PATH_BYTES,
    LockFile,
    RuntimeDirectoryError,
    private_directory,
    runtime_directory,
    socket_path,
    user_key,
)


@pytest.fixture(autouse=True)
def runtime(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A directory of its own for each test, with a path short enough for sockets."""
    path = Path(tempfile.mkdtemp(prefix="r-"))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(path))
    yield path
    shutil.rmtree(path)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.lstat().st_mode)


def run(script: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", script, *map(str, arguments)], capture_output=True, text=True, check=True, timeout=30
    )


# ---- where it is -----------------------------------------------------------------------------------


def test_it_is_below_the_declared_runtime_directory(runtime: Path) -> None:
    assert runtime_directory() == runtime / "wool"
    assert mode(runtime / "wool") == 0o700


def test_it_is_made_with_0700_whatever_the_umask(runtime: Path) -> None:
    old = os.umask(0)
    try:
        assert mode(runtime_directory()) == 0o700
    finally:
        os.umask(old)


def test_it_is_not_made_unless_asked_for(runtime: Path) -> None:
    assert runtime_directory(create=False) == runtime / "wool"
    assert not (runtime / "wool").exists()


@pytest.mark.parametrize("declared", ["", "relative", "/nonexistent/directory"])
def test_a_declaration_that_names_no_directory_is_passed_over(declared: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", declared)
    top = Path("/dev/shm") if sys.platform == "linux" else Path(tempfile.gettempdir())
    assert runtime_directory(create=False) == top / f"wool-{os.geteuid()}"


def test_a_declared_directory_of_somebody_else_is_passed_over(runtime: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    somebody_else = os.geteuid() + 1
    monkeypatch.setattr(os, "geteuid", lambda: somebody_else)
    assert runtime not in module.runtime_directory(create=False).parents


def test_without_shared_memory_it_is_in_the_temporary_directory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("XDG_RUNTIME_DIR")
    monkeypatch.setattr(os, "access", lambda *_: False)
    assert runtime_directory(create=False) == Path(tempfile.gettempdir(), f"wool-{os.geteuid()}")


# ---- whose it is -----------------------------------------------------------------------------------


def test_a_symbolic_link_in_its_place_is_refused(runtime: Path) -> None:
    (runtime / "elsewhere").mkdir(mode=0o700)
    (runtime / "wool").symlink_to(runtime / "elsewhere")
    with pytest.raises(RuntimeDirectoryError, match=r"wool is a symbolic link: remove it, or set XDG_RUNTIME_DIR"):
        runtime_directory()


def test_a_file_in_its_place_is_refused(runtime: Path) -> None:
    (runtime / "wool").touch()
    with pytest.raises(RuntimeDirectoryError, match="is not a directory"):
        runtime_directory()


@pytest.mark.parametrize("wrong", [0o755, 0o770, 0o701, 0o500])
@pytest.mark.parametrize("create", [True, False])
def test_another_mode_is_refused_and_not_repaired(runtime: Path, wrong: int, create: bool) -> None:
    (runtime / "wool").mkdir()
    (runtime / "wool").chmod(wrong)
    with pytest.raises(RuntimeDirectoryError, match=rf"has mode {wrong:04o}, not 0700: .*chmod 700"):
        runtime_directory(create)
    assert mode(runtime / "wool") == wrong


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a directory away")
def test_a_directory_of_somebody_else_is_refused(runtime: Path) -> None:
    path = runtime_directory()
    os.chown(path, 12345, -1)
    with pytest.raises(RuntimeDirectoryError, match="belongs to user 12345"):
        runtime_directory()


@pytest.mark.parametrize("use", [private_directory, user_key])
@pytest.mark.parametrize(
    "whose",
    [
        pytest.param(
            "somebody else's",
            marks=pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a directory away"),
        ),
        "open to all",
    ],
)
def test_a_directory_that_takes_the_place_of_a_checked_one_is_refused_before_anything_is_made_in_it(
    runtime: Path, use: Callable[[], object], whose: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One of our processes leaves, and removes the base as empty; then another user makes one, which is opened."""
    held = module._held

    def replaced(base: Path) -> object:
        base.rmdir()
        base.mkdir()
        base.chmod(0o777 if whose == "open to all" else 0o700)
        os.chown(base, 12345 if whose == "somebody else's" else -1, -1)
        return held(base)

    monkeypatch.setattr(module, "_held", replaced)
    message = "has mode 0777, not 0700" if whose == "open to all" else "belongs to user 12345"
    with pytest.raises(RuntimeDirectoryError, match=message):
        use()
    assert list((runtime / "wool").iterdir()) == []


def test_a_parent_that_others_can_write_is_refused(runtime: Path) -> None:
    runtime.chmod(0o777)
    with pytest.raises(RuntimeDirectoryError, match="can be written by others and has no sticky bit"):
        runtime_directory()
    runtime.chmod(0o1777)
    runtime_directory()


# ---- private directories ---------------------------------------------------------------------------


def test_a_private_directory_is_fresh_and_leaves_nothing(runtime: Path) -> None:
    with private_directory() as one, private_directory() as other:
        assert one.path != other.path
        assert mode(one.path) == 0o700
        assert mode(one.path / "lock") == 0o600
        (one.path / "socket").touch()
        (one.path / "sub").mkdir()
        (one.path / "sub" / "file").touch()
    assert list(runtime.iterdir()) == []


def test_closing_twice_is_closing_once(runtime: Path) -> None:
    directory = private_directory()
    directory.close()
    directory.close()
    assert list(runtime.iterdir()) == []


def test_closing_survives_that_the_directory_is_gone(runtime: Path) -> None:
    directory = private_directory()
    shutil.rmtree(runtime / "wool")
    directory.close()


def test_the_base_stays_while_anything_is_in_it(runtime: Path) -> None:
    key = user_key()
    private_directory().close()
    assert user_key() == key


def test_an_unclosed_private_directory_warns_and_is_removed(runtime: Path) -> None:
    kept = [private_directory()]
    with pytest.warns(ResourceWarning, match="unclosed <PrivateDirectory"):
        kept.clear()
    assert list(runtime.iterdir()) == []


DIE = """
import os, signal
from wool.runtime_directory import private_directory
directory = private_directory()
(directory.path / "rest").mkdir()
print(directory.path, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_the_directory_of_a_killed_owner_is_removed_by_the_next_and_a_living_one_is_not(runtime: Path) -> None:
    with private_directory() as living:
        killed = subprocess.run([sys.executable, "-c", DIE], capture_output=True, text=True, check=False, timeout=30)
        left = Path(killed.stdout.strip())
        assert left.is_dir()
        with private_directory():
            assert not left.exists()
            assert living.path.is_dir()
    assert list(runtime.iterdir()) == []


def test_what_died_before_its_lock_was_made_is_removed(runtime: Path) -> None:
    half = runtime_directory() / "pool-00000000"
    half.mkdir(mode=0o700)
    private_directory().close()
    assert not half.exists()


def test_a_link_that_looks_like_a_private_directory_is_not_followed(runtime: Path) -> None:
    precious = runtime / "precious"
    precious.mkdir()
    (precious / "file").touch()
    (runtime_directory() / "pool-00000000").symlink_to(precious)
    private_directory().close()
    assert (precious / "file").exists()


FORK = """
import os, sys
from wool.runtime_directory import private_directory
directory = private_directory()
child = os.fork()
if child == 0:
    directory.close()  # of the parent, so nothing happens
    os._exit(0 if directory.path.is_dir() else 1)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
reader, writer = os.pipe()
if os.fork() == 0:
    os.close(writer)
    os.read(reader, 1)  # lives for longer than its parent
    os._exit(0)
print(directory.path, flush=True)
sys.stdin.read()
os._exit(1)  # without a word
"""


def test_a_forked_child_neither_removes_the_directory_nor_keeps_it(runtime: Path) -> None:
    owner = subprocess.Popen([sys.executable, "-c", FORK], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert owner.stdout is not None
    path = Path(owner.stdout.readline().strip())
    assert path.is_dir()
    with private_directory():
        assert path.is_dir()
    owner.communicate()
    private_directory().close()
    assert not path.exists()


CHURN = """
import sys
from wool.runtime_directory import private_directory, user_key
for _ in range(int(sys.argv[1])):
    with private_directory() as directory:
        (directory.path / "socket").touch()
    if len(sys.argv) > 2:
        print(user_key().hex())
"""


def test_a_directory_that_is_being_made_is_not_swept_by_others(runtime: Path) -> None:
    racers = [subprocess.Popen([sys.executable, "-c", CHURN, "300"], stderr=subprocess.PIPE) for _ in range(3)]
    for racer in racers:
        _, errors = racer.communicate(timeout=50)
        assert (racer.returncode, errors) == (0, b"")
    assert list(runtime.iterdir()) == []


def test_a_socket_path_that_is_too_long_is_refused_before_anything_is_made(
    runtime: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    deep = runtime / ("d" * (SOCKET_PATH_BYTES - len(os.fsencode(runtime)) - 20))
    deep.mkdir(mode=0o700)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(deep))
    with pytest.raises(RuntimeDirectoryError, match=rf"may have {SOCKET_PATH_BYTES}: set XDG_RUNTIME_DIR to a shorter"):
        private_directory()
    assert list(deep.iterdir()) == []


def test_a_private_directory_has_room_for_a_socket() -> None:
    with private_directory() as directory:
        assert socket_path(directory.path, "s" * SOCKET_NAME_BYTES).parent == directory.path
    longest = Path("/" + "x" * (SOCKET_PATH_BYTES - 3))
    assert len(os.fsencode(socket_path(longest, "s"))) == SOCKET_PATH_BYTES
    with pytest.raises(RuntimeDirectoryError, match="has 104 bytes"):
        socket_path(longest, "ss")


# ---- the key ---------------------------------------------------------------------------------------


def test_the_key_is_the_same_for_all_processes_and_only_ours(runtime: Path) -> None:
    key = user_key()
    assert len(key) == KEY_BYTES
    assert user_key() == key
    assert mode(runtime / "wool" / "key") == 0o600
    other = run("from wool.runtime_directory import user_key; print(user_key().hex())")
    assert bytes.fromhex(other.stdout) == key
    assert [path.name for path in (runtime / "wool").iterdir()] == ["key"]


def test_processes_that_make_the_key_at_once_agree(runtime: Path) -> None:
    racers = [
        subprocess.Popen([sys.executable, "-c", CHURN, "10", "key"], stdout=subprocess.PIPE, text=True)
        for _ in range(4)
    ]
    keys = {line for racer in racers for line in racer.communicate(timeout=50)[0].split()}
    assert len(keys) == 1
    assert [path.name for path in (runtime / "wool").iterdir()] == ["key"]


def test_a_draft_of_a_process_that_died_is_removed(runtime: Path) -> None:
    draft = runtime_directory() / "key-00000000"
    draft.write_bytes(b"half")
    assert len(user_key()) == KEY_BYTES
    assert not draft.exists()


def test_a_directory_that_does_not_go_away_is_removed_again_so_often_and_then_told_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    tried: list[Path] = []

    def fail(path: Path) -> None:
        tried.append(path)
        raise OSError(errno.ENOTEMPTY, "somebody still writes there")

    with monkeypatch.context() as patch:
        patch.setattr(shutil, "rmtree", fail)
        module._remove_tree(tmp_path)
    assert tried == [tmp_path] * REMOVE_ATTEMPTS
    assert f"could not remove {tmp_path}: " in caplog.text


@pytest.mark.parametrize("size", [0, KEY_BYTES - 1, KEY_BYTES + 1])
def test_a_key_of_another_size_is_refused(runtime: Path, size: int) -> None:
    path = runtime_directory() / "key"
    path.write_bytes(bytes(size))
    path.chmod(0o600)
    with pytest.raises(RuntimeDirectoryError, match=r"does not hold 32 bytes: remove it"):
        user_key()


def test_a_key_that_others_can_read_is_refused(runtime: Path) -> None:
    user_key()
    (runtime / "wool" / "key").chmod(0o640)
    with pytest.raises(RuntimeDirectoryError, match=r"can be used by others \(mode 0640\)"):
        user_key()


def test_a_key_that_is_a_link_or_no_file_is_refused(runtime: Path) -> None:
    user_key()
    path = runtime / "wool" / "key"
    path.rename(runtime / "key")
    path.symlink_to(runtime / "key")
    with pytest.raises(RuntimeDirectoryError, match="is a symbolic link"):
        user_key()
    path.unlink()
    os.mkfifo(path, 0o600)
    with pytest.raises(RuntimeDirectoryError, match="is not a regular file"):
        user_key()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_a_key_of_somebody_else_is_refused(runtime: Path) -> None:
    user_key()
    os.chown(runtime / "wool" / "key", 12345, -1)
    with pytest.raises(RuntimeDirectoryError, match="belongs to user 12345"):
        user_key()


# ---- locks -----------------------------------------------------------------------------------------


def test_a_lock_excludes_others_also_in_this_process_until_it_is_closed(runtime: Path) -> None:
    one, other = LockFile(runtime / "lock", os.O_RDWR | os.O_CREAT), LockFile(runtime / "lock")
    assert one.try_lock(exclusive=True)
    assert not other.try_lock(exclusive=False)
    one.close()
    one.close()
    assert other.try_lock(exclusive=True)
    other.close()
    with pytest.raises(ValueError, match="is closed"):
        other.try_lock(exclusive=True)


def test_a_lock_on_a_file_that_was_replaced_is_not_current(runtime: Path) -> None:
    lock = LockFile(runtime / "lock", os.O_RDWR | os.O_CREAT)
    assert lock.is_current()
    (runtime / "lock").unlink()
    assert not lock.is_current()
    (runtime / "lock").touch()
    assert not lock.is_current()
    lock.close()


def test_a_lock_is_not_inherited_by_another_program(runtime: Path) -> None:
    lock = LockFile(runtime / "lock", os.O_RDWR | os.O_CREAT)
    assert not os.get_inheritable(lock.fileno())
    lock.close()


FORK_WITH_LOCK = """
import os, sys
from pathlib import Path
from wool.runtime_directory import LockFile

path = Path(sys.argv[1])
lock = LockFile(path, os.O_RDWR | os.O_CREAT)
assert lock.try_lock(exclusive=True)
child = os.fork()
if child == 0:
    try:
        lock.fileno()
    except ValueError as error:
        os._exit(0 if "is closed in this process" in str(error) and not LockFile(path).try_lock(exclusive=True) else 1)
    os._exit(2)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
assert not LockFile(path).try_lock(exclusive=True)
"""


def test_a_lock_stays_with_the_parent_when_a_forked_child_ends(runtime: Path) -> None:
    run(FORK_WITH_LOCK, runtime / "lock")
