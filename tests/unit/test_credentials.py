"""What credentials are made of, and that they stay where they are."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path
from typing import Any

import pytest
from fixtures import Fixtures, make, write

from wool.credentials import CredentialFiles, WorkerCredentials, as_provider

SECRET = bytes(range(32))


@pytest.fixture(scope="module")
def fixtures() -> Fixtures:
    return make()


def test_they_are_read_from_files(fixtures: Fixtures, tmp_path: Path) -> None:
    write(fixtures, tmp_path)
    (tmp_path / "secret").write_bytes(SECRET.hex().encode() + b"\n")
    read = WorkerCredentials.from_files(
        ca_path=tmp_path / "ca.pem",
        key_path=tmp_path / "worker.key",
        cert_path=tmp_path / "worker.pem",
        secret_path=tmp_path / "secret",
    )
    assert read == WorkerCredentials(
        ca=fixtures.ca,
        key=fixtures.issued["worker"].key,
        cert=fixtures.issued["worker"].cert,
        secret=SECRET.hex().encode(),
    )
    assert (tmp_path / "worker.key").stat().st_mode & 0o777 == 0o600


def test_a_key_of_another_certificate_is_named(fixtures: Fixtures, tmp_path: Path) -> None:
    write(fixtures, tmp_path)
    with pytest.raises(ValueError, match=r"caller\.key is not the key of the certificate in .*worker\.pem"):
        WorkerCredentials.from_files(
            ca_path=tmp_path / "ca.pem", key_path=tmp_path / "caller.key", cert_path=tmp_path / "worker.pem"
        )


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"nowhere\.pem"):
        WorkerCredentials.from_files(ca_path=tmp_path / "nowhere.pem")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"ca": b"nothing"}, "ca= must be a certificate in PEM form"),
        ({"ca": "text"}, "ca= must be a certificate in PEM form, as bytes"),
        ({"key": b"nothing"}, "key= must be a private key in PEM form"),
        ({"cert": b"nothing"}, "cert= must be a certificate in PEM form"),
        ({"key": None}, "lack key="),
        ({"cert": None}, "lack cert="),
        ({"key": None, "cert": None}, "mutual credentials need key= and cert="),
        ({"mutual": False}, "mutual=False need secret="),
        ({"secret": b"short"}, "secret= has 5 bytes, at least 16"),
        ({"workers": "wool-worker"}, "workers= must be a tuple of names"),
        ({"callers": ("",)}, "callers= must be a tuple of names"),
    ],
)
def test_what_they_lack_is_named(fixtures: Fixtures, change: dict[str, Any], message: str) -> None:
    worker = fixtures.issued["worker"]
    whole = {"ca": fixtures.ca, "key": worker.key, "cert": worker.cert}
    with pytest.raises(ValueError, match=message):
        WorkerCredentials(**{**whole, **change})


def test_they_show_no_key_and_no_secret(fixtures: Fixtures) -> None:
    worker = fixtures.issued["worker"]
    shown = WorkerCredentials(ca=fixtures.ca, key=worker.key, cert=worker.cert, secret=SECRET, workers=("a",))
    assert repr(shown) == str(shown) == "<WorkerCredentials mutual from bytes workers=('a',)>"


@pytest.mark.parametrize("travel", [pickle.dumps, copy.deepcopy])
def test_they_do_not_travel(fixtures: Fixtures, travel: Any) -> None:
    with pytest.raises(TypeError, match="no key leaves its process"):
        travel(fixtures.credentials("worker"))


def test_a_provider_is_asked_each_time(fixtures: Fixtures) -> None:
    first, second = fixtures.credentials("worker"), fixtures.credentials("caller")
    given = iter([first, second])
    provider = as_provider(lambda: next(given))
    assert provider is not None
    assert [provider(), provider()] == [first, second]
    fixed = as_provider(first)
    assert fixed is not None
    assert fixed() is first
    assert as_provider(None) is None
    with pytest.raises(TypeError, match="must be WorkerCredentials or a function"):
        as_provider("worker.pem")  # type: ignore[arg-type]


def files(directory: Path, name: str = "worker") -> CredentialFiles:
    return CredentialFiles(
        ca_path=str(directory / "ca.pem"),
        key_path=str(directory / f"{name}.key"),
        cert_path=str(directory / f"{name}.pem"),
    )


def test_files_that_change_are_read_again(fixtures: Fixtures, tmp_path: Path) -> None:
    write(fixtures, tmp_path)
    provider = files(tmp_path)
    first = provider()
    assert first == fixtures.credentials("worker")
    assert provider() is first
    renewed = make()
    write(renewed, tmp_path)
    assert provider() == renewed.credentials("worker")


def test_files_that_do_not_fit_yet_leave_what_was_read_and_are_named(
    fixtures: Fixtures, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write(fixtures, tmp_path)
    provider = files(tmp_path)
    first = provider()
    renewed = make()
    (tmp_path / "worker.pem").write_bytes(renewed.issued["worker"].cert)  # its key is still to come
    assert [provider(), provider()] == [first, first]
    (record,) = caplog.records
    assert "worker.key is not the key of the certificate" in record.getMessage()
    (tmp_path / "worker.key").unlink()
    assert provider() == first
    write(renewed, tmp_path)
    assert provider() == renewed.credentials("worker")


def test_files_that_never_fitted_are_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"ca\.pem"):
        files(tmp_path)()


def test_files_travel_by_name_and_are_read_there(fixtures: Fixtures, tmp_path: Path) -> None:
    write(fixtures, tmp_path)
    provider = files(tmp_path)
    provider()
    travelled = pickle.dumps(provider)
    assert b"PRIVATE" not in travelled
    there = pickle.loads(travelled)
    assert there == provider
    assert there() == fixtures.credentials("worker")
