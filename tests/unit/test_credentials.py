"""What credentials are made of, and that they stay where they are."""

from __future__ import annotations

import copy
import dataclasses
import logging
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fixtures import Fixtures, make, write

from wool.credentials import CredentialFiles, Steady, WorkerCredentials, as_provider
from wool.limits import MOST_CREDENTIAL_BYTES

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


@pytest.mark.parametrize("name", [field.name for field in dataclasses.fields(WorkerCredentials)])
def test_they_are_frozen(fixtures: Fixtures, name: str) -> None:
    shown = fixtures.credentials("worker")
    before = dataclasses.replace(shown)
    with pytest.raises(dataclasses.FrozenInstanceError, match=name):
        setattr(shown, name, getattr(fixtures.credentials("caller"), name))
    with pytest.raises(dataclasses.FrozenInstanceError, match=name):
        delattr(shown, name)
    assert shown == before


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
        ({"secret": "a long one, which is text"}, "secret= must be bytes, got str"),
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


HALF: dict[str, tuple[str, Callable[[bytes], bytes], str]] = {
    "one authority": ("ca.pem", lambda ca: ca[:-40], "ends in the middle of a certificate"),
    "the second authority": ("ca.pem", lambda ca: ca + ca[:200], "ends in the middle of a certificate"),
    "the first authority": ("ca.pem", lambda ca: ca[:200] + ca, "ends in the middle of a certificate"),
    "an authority that is none": (
        "ca.pem",
        lambda ca: ca + ca[:200] + b"\n-----END CERTIFICATE-----\n",
        "a certificate that cannot be read",
    ),
    "what leads to an authority": ("worker.pem", lambda own: own + own[:-40], "ends in the middle of a certificate"),
    "the key": ("worker.key", lambda key: key[:-60], "are no use as a key and its certificate"),
}


@pytest.mark.parametrize("what", HALF)
def test_a_half_written_file_changes_nothing_and_is_named(
    fixtures: Fixtures, tmp_path: Path, caplog: pytest.LogCaptureFixture, what: str
) -> None:
    """Who believed but a part of the authorities would refuse the callers of the others."""
    name, half, message = HALF[what]
    write(fixtures, tmp_path)
    provider = files(tmp_path)
    first = provider()
    whole = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(half(whole))
    assert [provider(), provider()] == [first, first]
    (record,) = caplog.records
    assert message in record.getMessage()
    assert str(tmp_path / name) in record.getMessage()
    with pytest.raises(ValueError, match=message):
        files(tmp_path)()
    (tmp_path / name).write_bytes(whole)
    assert provider() == first


def test_words_between_certificates_are_passed_over(fixtures: Fixtures, tmp_path: Path) -> None:
    write(fixtures, tmp_path)
    (tmp_path / "ca.pem").write_bytes("# Főtanúsítvány\n".encode() + fixtures.both + b"\n\xff\n" + fixtures.ca)
    assert files(tmp_path)() == files(tmp_path)()


def test_what_is_no_file_is_not_waited_for(fixtures: Fixtures, tmp_path: Path) -> None:
    write(fixtures, tmp_path)
    provider = files(tmp_path)
    first = provider()
    for name in ("ca.pem", "worker.key", "worker.pem"):
        whole = (tmp_path / name).read_bytes()
        (tmp_path / name).unlink()
        os.mkfifo(tmp_path / name)
        assert provider() is first
        with pytest.raises(ValueError, match=rf"{name} is no regular file"):
            files(tmp_path)()
        (tmp_path / name).unlink()
        (tmp_path / name).mkdir()
        assert provider() is first
        with pytest.raises(ValueError, match=rf"{name} is no regular file"):
            files(tmp_path)()
        (tmp_path / name).rmdir()
        (tmp_path / name).write_bytes(whole)


def test_a_file_larger_than_any_credentials_is_not_read_to_its_end(fixtures: Fixtures, tmp_path: Path) -> None:
    write(fixtures, tmp_path)
    with (tmp_path / "ca.pem").open("ab") as file:
        file.truncate(MOST_CREDENTIAL_BYTES)
    files(tmp_path)()
    os.truncate(tmp_path / "ca.pem", 1 << 40)
    with pytest.raises(ValueError, match=rf"ca\.pem holds more than {MOST_CREDENTIAL_BYTES} bytes"):
        files(tmp_path)()


@pytest.mark.parametrize("name", ["ca.pem", "worker.key", "worker.pem", "secret"])
def test_what_everybody_can_write_is_not_believed(
    fixtures: Fixtures, tmp_path: Path, caplog: pytest.LogCaptureFixture, name: str
) -> None:
    write(fixtures, tmp_path)
    (tmp_path / "secret").write_bytes(SECRET)
    (tmp_path / "secret").chmod(0o600)
    provider = with_secret(tmp_path)
    first = provider()
    (tmp_path / name).chmod(0o646)
    assert provider() is first
    with pytest.raises(ValueError, match=rf"{name} can be written by everybody \(mode 0646\)"):
        with_secret(tmp_path)()
    assert "can be written by everybody" in caplog.text


def test_renewed_files_that_were_refused_are_read_as_soon_as_their_mode_is_mended(
    fixtures: Fixtures, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """As the refusal advises; the time at which their contents changed is as it was then."""
    write(fixtures, tmp_path)
    provider = files(tmp_path)
    first = provider()
    renewed = fixtures.authority.issue(["wool-worker"])
    (tmp_path / "worker.key").write_bytes(renewed.key)
    (tmp_path / "worker.pem").write_bytes(renewed.cert)
    (tmp_path / "worker.pem").chmod(0o666)
    assert provider() is first
    assert "chmod o-w" in caplog.text
    (tmp_path / "worker.pem").chmod(0o644)
    assert (provider().key, provider().cert) == (renewed.key, renewed.cert)


@pytest.mark.parametrize(
    ("name", "mode", "told"),
    [
        ("worker.key", 0o644, True),
        ("worker.key", 0o440, False),  # as Kubernetes mounts a secret for a group
        ("secret", 0o604, True),
        ("secret", 0o640, False),
        ("ca.pem", 0o644, False),
        ("worker.pem", 0o644, False),
    ],
)
def test_a_key_or_secret_that_everybody_can_read_is_told_of(
    fixtures: Fixtures, tmp_path: Path, caplog: pytest.LogCaptureFixture, name: str, mode: int, told: bool
) -> None:
    """A warning and no error: in a pod, everybody is nobody else."""
    write(fixtures, tmp_path)
    (tmp_path / "secret").write_bytes(SECRET)
    (tmp_path / "secret").chmod(0o600)
    (tmp_path / name).chmod(mode)
    provider = with_secret(tmp_path)
    assert provider() is provider()
    warned = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert len(warned) == told
    assert all(f"{tmp_path / name} can be read by everybody (mode {mode:04o})" in each for each in warned)


def with_secret(directory: Path) -> CredentialFiles:
    return CredentialFiles(
        ca_path=str(directory / "ca.pem"),
        key_path=str(directory / "worker.key"),
        cert_path=str(directory / "worker.pem"),
        secret_path=str(directory / "secret"),
    )


def test_where_a_provider_fails_what_it_gave_before_stays_and_that_is_said_once(fixtures: Fixtures) -> None:
    given: list[Any] = [fixtures.credentials("worker")]
    said: list[str] = []

    def provider() -> WorkerCredentials:
        if given[0] is None:
            raise OSError("the vault is closed")
        result: WorkerCredentials = given[0]
        return result

    steady = Steady(provider, lambda credentials: None, said.append)
    first = steady()
    given[0] = None
    assert [steady(), steady()] == [first, first]
    given[0] = "no credentials"
    assert steady() is first
    assert said == ["no credentials are given, what was given before stays: OSError: the vault is closed"]
    given[0] = fixtures.credentials("caller")
    assert steady() == fixtures.credentials("caller")
    given[0] = "no credentials"
    steady()
    assert "must return WorkerCredentials, got str" in said[1]
    assert len(said) == 2
    with pytest.raises(TypeError, match="must return WorkerCredentials, got str"):
        Steady(provider, lambda credentials: None, said.append)


def test_files_travel_by_name_and_are_read_there(fixtures: Fixtures, tmp_path: Path) -> None:
    write(fixtures, tmp_path)
    provider = files(tmp_path)
    provider()
    travelled = pickle.dumps(provider)
    assert b"PRIVATE" not in travelled
    there = pickle.loads(travelled)
    assert there == provider
    assert there() == fixtures.credentials("worker")
