"""A worker's life is seen by whoever knows its uid, and doubt is not taken for death."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from wool.discovery import namespace
from wool.limits import MOST_LIFE_BYTES
from wool.lives import Life, begin_life, find_life
from wool.runtime_directory import LockFile, user_key

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the kernel has no such locks")


@pytest.fixture(autouse=True)
def own_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    return tmp_path / "wool"


def test_a_life_is_seen_until_it_ends() -> None:
    assert find_life("a") is None
    lock = begin_life("a", user_key())
    assert lock is not None
    life = find_life("a")
    assert life is not None
    assert Life.from_bytes(life.to_bytes()) == life
    assert find_life("b") is None
    assert not life.has_ended()
    user_key()  # opening and closing the file takes nothing away
    assert not life.has_ended()
    lock.close()
    assert life.has_ended()


def test_a_life_ends_with_its_process() -> None:
    user_key()
    source = (
        "from wool.lives import begin_life\nfrom wool.runtime_directory import user_key\n"
        "life = begin_life('a', user_key())\nprint(life is not None, flush=True)\ninput()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", source], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "True\n"
        life = find_life("a")
        assert life is not None
        process.kill()
        process.wait()
        assert life.has_ended()


def test_a_worker_with_another_secret_shows_nothing() -> None:
    assert begin_life("a", b"of a pool") is None
    user_key()
    assert begin_life("a", b"of a pool") is None
    assert begin_life("a", None) is None


def test_what_cannot_be_looked_at_is_not_known_to_have_ended(own_directory: Path) -> None:
    lock = begin_life("a", user_key())
    life = find_life("a")
    assert lock is not None
    assert life is not None
    lock.close()
    key = own_directory / "key"
    key.rename(own_directory / "away")
    assert not life.has_ended()
    key.write_bytes(os.urandom(32))  # another key, which the worker does not know
    assert not life.has_ended()
    (own_directory / "away").rename(key)
    assert life.has_ended()


def test_of_a_lease_no_more_is_read_than_a_life_takes(tmp_path: Path) -> None:
    lock = begin_life("a", user_key())
    life = find_life("a")
    assert lock is not None and life is not None
    lock.close()
    lease = tmp_path / "lease"
    lease.touch()
    publisher = LockFile(lease)
    assert publisher.try_lock(exclusive=True)
    said = life.to_bytes()
    # A life that cannot be read is not known to have ended.
    for spaces, is_live in ((0, False), (MOST_LIFE_BYTES - len(said), False), (MOST_LIFE_BYTES, True)):
        lease.write_bytes(b" " * spaces + said)
        assert namespace._is_live(lease) is is_live
    publisher.close()


@pytest.mark.parametrize("data", [b"", b"nonsense", b"[]", b'["/", 1, 2]', b'["/", 1, 2, -1]', b"[1, 1, 2, 3]", b"7"])
def test_what_was_not_written_by_us_is_no_life(data: bytes) -> None:
    assert Life.from_bytes(data) is None
