"""``wool certs``: a development authority, and certificates for workers and callers, as files.

It owns what these files are called and how they are written: keys for their owner alone, and nothing over what is there
unless that is said. It must never print a key. What is in the certificates is `wool.authority`'s business, and what
they say `wool.certificates`'; both are imported when they are needed, since they come with an extra.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import stat
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from wool import pem
from wool.cli.completion import with_files
from wool.cli.settings import SettingError
from wool.harmless import harmless
from wool.limits import MOST_DAYS

if TYPE_CHECKING:
    from wool.authority import Authority, Issued

DIRECTORY = "certs"
AUTHORITY = "ca"
WORKER_NAMES = ("wool-worker", "localhost", "127.0.0.1", "::1")
"""An identity that stays where addresses change, and loopback, so that the first steps need no names."""
CALLER_NAMES = ("wool-caller",)

DAYS = 397
"""As long as the authority issues them by itself, which is not imported for this."""

SAID = "make a development authority and certificates, or look at some"

EXAMPLES = """\
examples:
  wool certs init
  wool certs issue host2 10.0.0.6 wool-worker
  wool certs show
"""

_INIT = """\
Make an authority and, signed by it, a certificate for workers and one for callers.

examples:
  wool certs init
  wool certs init /etc/wool --worker wool-worker --worker 10.0.0.5

Writes ca, worker and caller, each a .pem (certificate) and a .key (private key, 0600), and says how they are used.
Who holds ca.key can make a certificate for anybody: keep it off the hosts where workers and callers run.
"""

_ISSUE = """\
Make a certificate that the authority in the directory signs: NAME.pem and NAME.key there.

examples:
  wool certs issue host2 10.0.0.6 wool-worker      for a worker, by address and by identity
  wool certs issue nightly wool-nightly --caller   for a caller that is no worker
  wool certs issue worker --force                  renew: a new key and certificate, for the same names

A worker's certificate is for both ends, since workers call each other; a caller's is no good to a worker that listens.
"""

_SHOW = """\
Say what certificates say: for whom, by whom, for what, how long.

examples:
  wool certs show
  wool certs show certs/worker.pem --json
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what can be said to the command."""
    deeds = parser.add_subparsers(dest="deed", metavar="DEED", required=True)

    def deed(name: str, said: str, help_: str) -> argparse.ArgumentParser:
        return deeds.add_parser(
            name,
            help=said,
            description=help_,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )

    init = deed("init", "make an authority, a certificate for workers and one for callers", _INIT)
    with_files(
        init.add_argument(
            "directory", nargs="?", default=DIRECTORY, metavar="DIRECTORY", help=f"(default: {DIRECTORY})"
        )
    )
    for who, names in (("worker", WORKER_NAMES), ("caller", CALLER_NAMES)):
        words = f"host, IP address or identity that the {who}'s certificate is for (default: {', '.join(names)}); may "
        init.add_argument(f"--{who}", action="append", metavar="NAME", help=f"{words}be said again")
    _add_days(init)
    init.add_argument("--force", action="store_true", help="replace what is there, the authority too: what the old "
                      "one has signed is then worth nothing")  # fmt: skip

    issue = deed("issue", "make a certificate that the authority signs", _ISSUE)
    issue.add_argument("name", metavar="NAME", help="what the files are called")
    issue.add_argument("names", nargs="*", metavar="FOR", help="host, IP address or identity that the certificate is "
                       "for; with --force and none, those of the one that is replaced")  # fmt: skip
    where = f"where ca.pem and ca.key are, and the new files will be (default: {DIRECTORY})"
    with_files(issue.add_argument("--directory", default=DIRECTORY, metavar="DIRECTORY", help=where))
    issue.add_argument("--caller", action="store_true", help="for a caller that is no worker")
    _add_days(issue)
    issue.add_argument("--force", action="store_true", help="replace what is there")

    show = deed("show", "say what certificates say", _SHOW)
    what = f"PEM file, or a directory with some (default: {DIRECTORY})"
    with_files(show.add_argument("paths", nargs="*", default=[DIRECTORY], metavar="FILE", help=what))
    show.add_argument("--json", action="store_true", help="print JSON, a list")


def _add_days(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--days", type=_days, default=DAYS, metavar="DAYS", help="how long certificates are valid "
                        f"(default: {DAYS})")  # fmt: skip


def _days(text: str) -> int:
    days = int(text) if text.isascii() and text.isdecimal() else 0
    if not 1 <= days <= MOST_DAYS:
        raise argparse.ArgumentTypeError(f"must be a whole number of days from 1 to {MOST_DAYS}, got {text!r:.100}")
    return days


def run(flags: Mapping[str, Any]) -> int:
    """Do it; return the exit status. Raises `SettingError` for what is in the way."""
    deeds: Mapping[str, Callable[[Mapping[str, Any]], None]] = {"init": _init, "issue": _issue, "show": _show}
    try:
        deeds[flags["deed"]](flags)
    except BrokenPipeError:
        raise
    except OSError as error:
        raise SettingError(f"{error.filename}: {error.strerror or error}") from None
    return 0


# ---- init --------------------------------------------------------------------------------------------


def _init(flags: Mapping[str, Any]) -> None:
    module, directory, force = _authority(), Path(flags["directory"]), flags["force"]
    _check_free(directory, (AUTHORITY, "worker", "caller"), force=force)
    for_worker: Sequence[str] = flags["worker"] or WORKER_NAMES
    for_caller: Sequence[str] = flags["caller"] or CALLER_NAMES
    authority: Authority = module.Authority.create()
    worker = _issued(authority, for_worker, flags["days"], (module.SERVER, module.CLIENT))
    caller = _issued(authority, for_caller, flags["days"], (module.CLIENT,))
    if not directory.is_dir():
        _make(directory)
    _check_ours(directory)
    _write(directory, AUTHORITY, authority.key, authority.chain, force=force)
    _write(directory, "worker", worker.key, worker.cert, force=force)
    _write(directory, "caller", caller.key, caller.cert, force=force)
    ca = directory / "ca.pem"
    sys.stdout.write(
        f"{directory}: an authority, {ca} and ca.key; keep the key, and give {ca} to everybody\n"
        f"  workers, for {', '.join(for_worker)}:\n    {_flags(directory, 'worker')}\n"
        f"  callers, for {', '.join(for_caller)}:\n    {_flags(directory, 'caller')}\n"
    )


def _flags(directory: Path, name: str) -> str:
    return f"--ca {directory / 'ca.pem'} --cert {directory / f'{name}.pem'} --key {directory / f'{name}.key'}"


# ---- issue -------------------------------------------------------------------------------------------


def _issue(flags: Mapping[str, Any]) -> None:
    module, directory, name = _authority(), Path(flags["directory"]), _file_name(flags["name"])
    if directory.is_dir():
        _check_ours(directory)
    _check_free(directory, (name,), force=flags["force"])
    names: Sequence[str] = flags["names"]
    usages = (module.CLIENT,) if flags["caller"] else (module.SERVER, module.CLIENT)
    if not names:
        names, kept = _of_the_replaced(directory / f"{name}.pem")
        usages = (module.CLIENT,) if flags["caller"] or "server" not in kept else usages
    issued = _issued(_load(module, directory), names, flags["days"], usages)
    _write(directory, name, issued.key, issued.cert, force=flags["force"])
    sys.stdout.write(f"for {', '.join(names)}:\n    {_flags(directory, name)}\n")


def _file_name(name: str) -> str:
    if not name or name != Path(name).name or name.startswith(".") or not name.isprintable():
        raise SettingError(f"NAME is what the files are called, in the directory: it cannot be {name!r:.100}")
    if name.lower() == AUTHORITY:  # some file systems do not tell upper from lower case
        raise SettingError(f"{AUTHORITY}.pem is the authority's own certificate: call this one something else")
    return name


def _of_the_replaced(path: Path) -> tuple[Sequence[str], Sequence[str]]:
    if not path.exists():
        raise SettingError("say for whom: a host, an IP address or an identity, or several")
    described = _described(path)[0]
    return described.names, described.usages


def _load(module: ModuleType, directory: Path) -> Authority:
    paths = directory / f"{AUTHORITY}.key", directory / f"{AUTHORITY}.pem"
    try:
        key, chain = (pem.read(path, private=False) for path in paths)
        authority: Authority = module.Authority(key=key, chain=chain)
    except FileNotFoundError as error:
        raise SettingError(f"{error.filename} is not there: wool certs init {directory} makes an authority") from None
    except (ValueError, TypeError) as error:
        raise SettingError(f"{paths[0]} and {paths[1]} are no authority of wool's: {error}") from None
    if (mode := stat.S_IMODE(paths[0].stat().st_mode)) & stat.S_IROTH:
        raise SettingError(
            f"{paths[0]} can be read by everybody (mode {mode:04o}), and who has read it can make a certificate for "
            f"anybody: make another authority, by wool certs init --force, or if nobody has, chmod 600 {paths[0]}"
        )
    return authority


# ---- show --------------------------------------------------------------------------------------------


def _show(flags: Mapping[str, Any]) -> None:
    now = datetime.datetime.now(datetime.UTC)
    rows = [_row(path, each, now) for path in _files(flags["paths"]) for each in _described(path)]
    if flags["json"]:
        sys.stdout.write(json.dumps(rows, indent=2) + "\n")
    else:
        sys.stdout.write("\n".join(map(_in_words, rows)))
    sys.stdout.flush()


def _files(paths: Sequence[str]) -> list[Path]:
    found: list[Path] = []
    for path in map(Path, paths):
        if path.is_dir():
            inside = sorted(path.glob("*.pem"))
            if not inside:
                raise SettingError(f"{path} holds no .pem file")
            found += inside
        else:
            found.append(path)
    return found


def _described(path: Path) -> list[Any]:
    module = _import("certificates")
    try:
        return [module.describe(each) for each in module.load(path.read_bytes(), str(path))]
    except ValueError as error:
        raise SettingError(error) from None


def _row(path: Path, described: Any, now: datetime.datetime) -> dict[str, Any]:
    return {
        "file": str(path),
        "subject": described.subject,
        "issuer": described.issuer,
        "names": list(described.names),
        "usages": list(described.usages),
        "authority": described.authority,
        "not_before": described.not_before.isoformat(),
        "not_after": described.not_after.isoformat(),
        "days_left": described.days_left(now),
        "fingerprint": described.fingerprint,
        "serial": described.serial,
    }


def _in_words(row: Mapping[str, Any]) -> str:
    days = row["days_left"]
    left = f"{days} days left" if days >= 0 else "EXPIRED"
    lines = {
        "subject": row["subject"],
        "issuer": row["issuer"],
        "for": ", ".join(row["names"]) or "nobody",
        "as": "authority" if row["authority"] else ", ".join(row["usages"]) or "anything",
        "valid": f"{row['not_before']} to {row['not_after']}, {left}",
        "sha-256": row["fingerprint"],
    }
    return f"{row['file']}\n" + "".join(f"  {name:8} {harmless(value)}\n" for name, value in lines.items())


# ---- what they share ---------------------------------------------------------------------------------


def _authority() -> ModuleType:
    return _import("authority")


def _import(name: str) -> ModuleType:
    from importlib import import_module

    try:
        return import_module(f"wool.{name}")
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "cryptography":
            raise
        raise SettingError("certificates need cryptography: pip install 'wool[certs]'") from None


def _issued(authority: Authority, names: Sequence[str], days: int, usages: Sequence[Any]) -> Issued:
    try:
        return authority.issue(names, usages=usages, days=days)
    except ValueError as error:
        raise SettingError(error) from None


def _make(directory: Path) -> None:
    """Make it, and what it lies in; whatever the umask, nobody else can write there."""
    for parent in reversed(directory.parents):
        if not parent.exists():
            parent.mkdir(mode=0o755)
    directory.mkdir(mode=0o700)


def _check_ours(directory: Path) -> None:
    """Refuse to read or write a key where others can replace it by theirs."""
    _check_way(directory.absolute())
    _check_way(directory.resolve())
    status = directory.stat()
    mode = stat.S_IMODE(status.st_mode)
    if status.st_uid != os.geteuid():
        raise SettingError(
            f"{directory} belongs to user {status.st_uid}, not to {os.geteuid()}, and who owns a directory can replace "
            "the keys in it: name one of your own"
        )
    if mode & 0o022:
        raise SettingError(
            f"{directory} can be written by others (mode {mode:04o}), who can replace the keys in it: look whether all "
            f"that is in it is yours, then chmod go-w {directory}, or name another directory"
        )


def _check_way(directory: Path) -> None:
    """Refuse what others can put something else in the place of."""
    parent, status = directory.parent, directory.parent.stat()
    if status.st_uid not in (0, os.geteuid()):
        raise SettingError(
            f"{parent} belongs to user {status.st_uid}, who can put other keys in the place of those in {directory}: "
            "name another directory"
        )
    if status.st_mode & stat.S_IWOTH and not status.st_mode & stat.S_ISVTX:
        raise SettingError(
            f"{parent} can be written by everybody, who can put other keys in the place of those in {directory}: "
            f"chmod o-w {parent}, or name another directory"
        )
    if directory.is_symlink() and (owner := directory.lstat().st_uid) not in (0, os.geteuid()):
        raise SettingError(
            f"{directory} is a link of user {owner}, who can let it lead to other keys: name the directory itself"
        )


def _check_free(directory: Path, names: Sequence[str], *, force: bool) -> None:
    """Refuse before anything is written. Whoever comes between is met by `_write`."""
    there = [path for name in names for path in _paths(directory, name) if os.path.lexists(path)]
    if there and not force:
        raise SettingError(f"{', '.join(map(str, there))}: there already; --force replaces what is there")


def _paths(directory: Path, name: str) -> tuple[Path, Path]:
    return directory / f"{name}.key", directory / f"{name}.pem"


def _write(directory: Path, name: str, key: bytes, cert: bytes, *, force: bool) -> None:
    """Write a key and its certificate. Those that are there are replaced at once: who reads them may be running."""
    for path, content, mode in zip(_paths(directory, name), (key, cert), (0o600, 0o644), strict=True):
        new = path.with_name(f".{path.name}.{os.getpid()}") if force else path
        descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            if force:
                os.replace(new, path)
        except BaseException:
            new.unlink(missing_ok=True)
            raise
