"""``wool certs``: what it writes, over what it never writes, and what it says."""

from __future__ import annotations

import datetime
import json
import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization

from wool.authority import CERTIFICATE_DAYS, Authority, alternative_name
from wool.certificates import judge_caller, judge_worker
from wool.cli import certs
from wool.cli.main import main
from wool.credentials import WorkerCredentials
from wool.limits import MOST_DAYS

NOW = datetime.datetime.now(datetime.UTC)


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def loose_umask() -> Iterator[None]:
    before = os.umask(0)
    yield
    os.umask(before)


def contents(directory: Path = Path("certs")) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.iterdir()}


def done(*arguments: str) -> None:
    assert main(["certs", *arguments], {}) == 0


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """Run it; return its complaint."""
    capsys.readouterr()
    assert main(["certs", *arguments], {}) == 2
    output, errors = capsys.readouterr()
    assert output == ""
    assert errors.startswith("wool certs: error: ")
    return errors


def shown(capsys: pytest.CaptureFixture[str], *paths: str) -> list[dict[str, object]]:
    capsys.readouterr()
    done("show", "--json", *paths)
    rows: list[dict[str, object]] = json.loads(capsys.readouterr().out)
    return rows


# ---- init --------------------------------------------------------------------------------------------


def test_one_command_makes_an_authority_and_certificates_for_workers_and_callers(
    capsys: pytest.CaptureFixture[str],
) -> None:
    done("init")
    made = contents()
    assert set(made) == {f"{name}.{end}" for name in ("ca", "worker", "caller") for end in ("key", "pem")}
    for name in ("wool-worker", "localhost", "127.0.0.1", "::1"):
        assert judge_worker(made["worker.pem"], made["ca.pem"], name, NOW) is None
    for name in ("worker", "caller"):
        assert judge_caller(made[f"{name}.pem"], made["ca.pem"], (f"wool-{name}",), NOW) is None
    assert judge_worker(made["caller.pem"], made["ca.pem"], "wool-caller", NOW) is not None
    assert "--ca certs/ca.pem --cert certs/worker.pem --key certs/worker.key" in capsys.readouterr().out


@pytest.mark.usefixtures("loose_umask")
def test_keys_are_for_their_owner_alone() -> None:
    done("init")
    done("issue", "host2", "10.0.0.6")
    done("issue", "host2", "--force")
    assert stat.S_IMODE(Path("certs").stat().st_mode) == 0o700
    keys = sorted(Path("certs").glob("*.key"))
    assert len(keys) == 4
    assert {stat.S_IMODE(path.stat().st_mode) for path in keys} == {0o600}


def test_nothing_is_overwritten_unless_that_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    done("init")
    before = contents()
    assert "certs/ca.key, certs/ca.pem, " in (said := refused(capsys, "init"))
    assert "there already; --force replaces what is there" in said
    assert "certs/worker.key" in refused(capsys, "issue", "worker", "10.0.0.6")
    assert contents() == before
    done("init", "--force")
    after = contents()
    assert set(after) == set(before)
    assert all(after[name] != before[name] for name in before)


@pytest.mark.parametrize("there", ["ca.pem", "worker.key", "caller.pem"])
def test_one_file_that_is_there_keeps_all_from_being_written(capsys: pytest.CaptureFixture[str], there: str) -> None:
    Path("certs").mkdir()
    (Path("certs") / there).symlink_to("nowhere")
    assert f"certs/{there}: there already" in refused(capsys, "init")
    assert [path.name for path in Path("certs").iterdir()] == [there]


def test_who_comes_between_is_not_overwritten(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("certs").mkdir()
    Path("certs/ca.key").write_bytes(b"mine")
    monkeypatch.setattr(certs, "_check_free", lambda *_, **__: None)
    assert "certs/ca.key: File exists" in refused(capsys, "init")
    assert contents() == {"ca.key": b"mine"}


@pytest.mark.parametrize("arguments", [("init",), ("init", "--force"), ("issue", "host2", "10.0.0.6")])
@pytest.mark.parametrize("mode", [0o775, 0o757, 0o1777])
def test_no_key_is_written_where_others_can_write(
    capsys: pytest.CaptureFixture[str], mode: int, arguments: tuple[str, ...]
) -> None:
    if arguments[0] == "issue":
        done("init")
    Path("certs").mkdir(exist_ok=True)
    before = contents()
    Path("certs").chmod(mode)
    said = refused(capsys, *arguments)
    assert f"certs can be written by others (mode {mode:04o})" in said
    assert "chmod go-w certs, or name another directory" in said
    assert contents() == before
    Path("certs").chmod(mode & ~0o022)
    done(*arguments)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a directory away")
@pytest.mark.parametrize("arguments", [("init",), ("init", "--force"), ("issue", "host2", "10.0.0.6")])
def test_no_key_is_written_where_somebody_else_owns_the_directory(
    capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...]
) -> None:
    if arguments[0] == "issue":
        done("init")
    Path("certs").mkdir(mode=0o700, exist_ok=True)
    before = contents()
    os.chown("certs", 65534, -1)
    assert "certs belongs to user 65534, not to 0, and" in (said := refused(capsys, *arguments))
    assert "name one of your own" in said
    assert contents() == before


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a directory away")
@pytest.mark.parametrize("arguments", [("init", "there/certs"), ("issue", "host2", "h", "--directory", "there/certs")])
@pytest.mark.parametrize("how", ["belongs to user 65534", "can be written by everybody", "is a link of user 65534"])
def test_no_key_is_written_where_somebody_else_can_rename_the_directory(
    capsys: pytest.CaptureFixture[str], how: str, arguments: tuple[str, ...]
) -> None:
    done("init", "mine")
    Path("there").mkdir()
    if "link" in how:
        Path("there/certs").symlink_to(Path("mine").absolute())
        os.chown("there/certs", 65534, -1, follow_symlinks=False)
    else:
        Path("mine").rename("there/certs")
        os.chown("there", 65534 if "belongs" in how else -1, -1)
        Path("there").chmod(0o755 if "belongs" in how else 0o777)
    before = contents(Path("there/certs"))
    said = refused(capsys, *arguments, *(["--force"] if arguments[0] == "init" else []))
    assert how in said
    assert contents(Path("there/certs")) == before
    Path("there").chmod(0o1777)
    os.chown("there", 0, -1)
    if "link" not in how:
        done(*arguments, "--force")  # as in /tmp: others can write there, and rename nothing of ours


def test_what_a_directory_lies_in_is_made_for_us_alone_to_write(loose_umask: None) -> None:
    done("init", "a/b/certs")
    assert [Path(path).stat().st_mode & 0o777 for path in ("a", "a/b", "a/b/certs")] == [0o755, 0o755, 0o700]


def test_an_authority_whose_key_everybody_can_read_signs_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    done("init")
    Path("certs/ca.key").chmod(0o644)
    said = refused(capsys, "issue", "host2", "10.0.0.6")
    assert "certs/ca.key can be read by everybody (mode 0644)" in said
    assert "chmod 600 certs/ca.key" in said
    Path("certs/ca.key").chmod(0o600)
    done("issue", "host2", "10.0.0.6")


def test_an_authority_that_is_no_file_is_not_waited_for(capsys: pytest.CaptureFixture[str]) -> None:
    done("init")
    Path("certs/ca.key").unlink()
    os.mkfifo("certs/ca.key")
    assert "certs/ca.key is no regular file" in refused(capsys, "issue", "host2", "10.0.0.6")


@pytest.mark.parametrize("name", ["ca", "CA", "Ca"])
def test_no_certificate_is_called_as_the_authoritys_own_is(capsys: pytest.CaptureFixture[str], name: str) -> None:
    done("init")
    assert "call this one something else" in refused(capsys, "issue", name, "10.0.0.6", "--force")


def test_names_and_days_are_those_that_were_said(capsys: pytest.CaptureFixture[str]) -> None:
    done("init", "made/here", "--worker", "10.0.0.5", "--worker", "w.example", "--caller", "nightly", "--days", "3")
    authority, caller, worker = shown(capsys, "made/here")
    assert (worker["names"], caller["names"]) == (["10.0.0.5", "w.example"], ["nightly"])
    assert (worker["days_left"], caller["days_left"]) == (2, 2)
    assert authority["authority"] is True


@pytest.mark.parametrize("name", ["10.0.0.5:7000", "https://w.example", "a b", "-x", "w..example", "ü", "", "a" * 64])
def test_what_is_no_name_is_refused_and_nothing_is_written(capsys: pytest.CaptureFixture[str], name: str) -> None:
    assert f"{name!r} is neither an IP address nor a name" in refused(capsys, "init", f"--worker={name}")
    assert not Path("certs").exists()


@pytest.mark.parametrize("name", ["wool-worker", "w.example", "*.example", "10.0.0.5", "fe80::1", "w_1.example"])
def test_what_is_a_name(name: str) -> None:
    assert str(alternative_name(name).value) == name


def test_certificates_are_valid_as_long_as_the_authority_says_by_itself() -> None:
    assert certs.DAYS == CERTIFICATE_DAYS


@pytest.mark.parametrize("days", ["0", "-1", "1.5", "x", str(MOST_DAYS + 1)])
def test_days_are_whole_and_bounded(capsys: pytest.CaptureFixture[str], days: str) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["certs", "init", f"--days={days}"], {})
    assert ended.value.code == 2
    assert f"must be a whole number of days from 1 to 36500, got '{days}'" in capsys.readouterr().err


def test_a_directory_that_cannot_be_made_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    Path("file").write_bytes(b"")
    assert "file/certs: Not a directory" in refused(capsys, "init", "file/certs")


# ---- issue -------------------------------------------------------------------------------------------


def test_a_certificate_is_issued_and_credentials_are_made_of_it() -> None:
    done("init")
    done("issue", "host2", "10.0.0.6", "wool-worker")
    read = WorkerCredentials.from_files(
        ca_path="certs/ca.pem", key_path="certs/host2.key", cert_path="certs/host2.pem", workers=("wool-worker",)
    )
    assert read.cert is not None
    assert judge_worker(read.cert, read.ca, "10.0.0.6", NOW) is None
    assert judge_caller(read.cert, read.ca, (), NOW) is None


def test_a_callers_certificate_is_no_good_to_a_worker() -> None:
    done("init")
    done("issue", "nightly", "wool-nightly", "--caller")
    made = contents()
    refusal = judge_worker(made["nightly.pem"], made["ca.pem"], "wool-nightly", NOW)
    assert refusal is not None
    assert refusal.why == "usage"


@pytest.mark.parametrize("name", ["worker", "caller"])
def test_a_certificate_is_renewed_for_the_same_names_and_use(capsys: pytest.CaptureFixture[str], name: str) -> None:
    done("init")
    (before,) = shown(capsys, f"certs/{name}.pem")
    key = Path(f"certs/{name}.key").read_bytes()
    done("issue", name, "--force")
    (after,) = shown(capsys, f"certs/{name}.pem")
    assert (after["names"], after["usages"]) == (before["names"], before["usages"])
    assert after["serial"] != before["serial"]
    assert Path(f"certs/{name}.key").read_bytes() != key
    assert not [path for path in Path("certs").iterdir() if path.name.startswith(".")]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("host2",), "say for whom: a host, an IP address or an identity"),
        (("../host2", "a"), "NAME is what the files are called, in the directory: it cannot be '../host2'"),
        (("", "a"), "it cannot be ''"),
        ((".hidden", "a"), "it cannot be '.hidden'"),
        (("ca", "a", "--force"), "ca.pem is the authority's own certificate: call this one something else"),
        (("host2", "a", "--directory", "else"), "else/ca.key is not there: wool certs init else makes an authority"),
    ],
)
def test_what_cannot_be_issued_says_why(
    capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], message: str
) -> None:
    done("init")
    before = contents()
    assert message in refused(capsys, "issue", *arguments)
    assert contents() == before


@pytest.mark.parametrize("broken", [b"nothing", None])
def test_an_authority_that_does_not_fit_is_named(capsys: pytest.CaptureFixture[str], broken: bytes | None) -> None:
    done("init")
    Path("certs/ca.key").write_bytes(Authority.create().key if broken is None else broken)
    assert "certs/ca.key and certs/ca.pem are no authority of wool's: " in refused(capsys, "issue", "host2", "a")


# ---- show --------------------------------------------------------------------------------------------


def test_what_a_certificate_says_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    done("init")
    authority, caller, worker = shown(capsys)
    assert [row["file"] for row in (authority, caller, worker)] == [
        f"certs/{name}.pem" for name in ("ca", "caller", "worker")
    ]
    certificate = x509.load_pem_x509_certificate(Path("certs/worker.pem").read_bytes())
    assert worker == {
        "file": "certs/worker.pem",
        "subject": "CN=wool-worker",
        "issuer": "CN=wool development authority",
        "names": ["wool-worker", "localhost", "127.0.0.1", "::1"],
        "usages": ["server", "client"],
        "authority": False,
        "not_before": certificate.not_valid_before_utc.isoformat(),
        "not_after": certificate.not_valid_after_utc.isoformat(),
        "days_left": 396,
        "fingerprint": certificate.fingerprint(certificate.signature_hash_algorithm).hex(),  # type: ignore[arg-type]
        "serial": f"{certificate.serial_number:x}",
    }
    capsys.readouterr()
    done("show", "certs/worker.pem")
    text = capsys.readouterr().out
    assert "  for      wool-worker, localhost, 127.0.0.1, ::1\n  as       server, client\n" in text
    assert ", 396 days left\n" in text


def test_what_has_expired_is_shown_as_such(capsys: pytest.CaptureFixture[str]) -> None:
    day = datetime.timedelta(days=1)
    issued = Authority.create().issue(["a"], not_before=NOW - 3 * day, not_after=NOW - 2 * day)
    Path("old.pem").write_bytes(issued.cert)
    (row,) = shown(capsys, "old.pem")
    assert row["days_left"] == -3
    done("show", "old.pem")
    assert ", EXPIRED\n" in capsys.readouterr().out


def test_who_made_a_certificate_does_not_speak_to_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    Path("odd.pem").write_bytes(Authority.create("\x1b[2Jmine").chain)
    done("show", "odd.pem")
    text = capsys.readouterr().out
    assert "\x1b" not in text
    assert "CN=\\x1b[2Jmine" in text


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("certs/worker.key", "certs/worker.key holds a private key"),
        ("nowhere.pem", "nowhere.pem: No such file or directory"),
        ("empty", "empty holds no .pem file"),
        ("text.pem", "text.pem holds no certificate in PEM form"),
    ],
)
def test_what_cannot_be_shown_says_why(capsys: pytest.CaptureFixture[str], path: str, message: str) -> None:
    done("init")
    Path("empty").mkdir()
    Path("text.pem").write_text("text")
    assert message in refused(capsys, "show", path)


# ---- all of it ---------------------------------------------------------------------------------------


def test_no_key_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    done("init")
    done("issue", "host2", "10.0.0.6")
    done("show")
    output, errors = capsys.readouterr()
    assert errors == ""
    assert "PRIVATE" not in output
    for path in Path("certs").glob("*.key"):
        key = serialization.load_pem_private_key(path.read_bytes(), password=None)
        lines = path.read_text().splitlines()[1:-1]
        assert key and lines
        assert not [line for line in lines if line in output]


@pytest.mark.parametrize("arguments", [("init",), ("issue", "host2", "a"), ("show", "certs/a.pem")])
def test_without_the_extra_the_command_says_what_to_install(here: Path, arguments: tuple[str, ...]) -> None:
    (here / "certs").mkdir()
    (here / "certs" / "a.pem").write_bytes(Authority.create().chain)
    without = "import sys; sys.modules['cryptography'] = None; from wool.cli.main import main; sys.exit(main())"
    ended = subprocess.run(
        [sys.executable, "-W", "error", "-c", without, "certs", *arguments],
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    assert ended.stderr == "wool certs: error: certificates need cryptography: pip install 'wool[certs]'\n"
    assert ended.returncode == 2


def test_the_help_has_examples_that_can_be_run(capsys: pytest.CaptureFixture[str], here: Path) -> None:
    said = ""
    for deed in ("init", "issue", "show"):
        with pytest.raises(SystemExit) as ended:
            main(["certs", deed, "--help"], {})
        assert ended.value.code == 0
        said += capsys.readouterr().out
    examples = [line.split("   ")[0].split()[1:] for line in map(str.strip, said.splitlines()) if line[:5] == "wool "]
    assert len(examples) == 7
    for words in examples:
        assert main([word.replace("/etc", str(here)) for word in words], {}) == 0, words


def test_other_commands_import_nothing_of_the_extra() -> None:
    look = "import sys; from wool.cli.main import main; main(['ps']); sys.exit('cryptography' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", look], capture_output=True, timeout=50, check=False).returncode == 0
