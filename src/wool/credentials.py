"""Who a process is, and whom it believes: keys and certificates for workers that other hosts can reach.

Owns `WorkerCredentials` and where they come from. Knows nothing of gRPC: the transport turns them into its own.
Never writes, prints or pickles a key: a record shows what it holds by name, and refuses to travel.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from functools import partial
from typing import Any, NoReturn, TypeAlias, cast

from wool import pem

SECRET_BYTES = 16
"""A shared secret that is shorter can be guessed."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class WorkerCredentials:
    """What a worker or a caller shows of itself, and what it wants to see of the other: PEM, as bytes.

    ``ca`` holds the authorities that sign the certificates of the others; ``key`` and ``cert`` are this side's own,
    the certificate first and what leads to an authority after it. With ``mutual``, both ends show a certificate.
    Without, only the worker does, so the caller proves who it is with ``secret``, which both then need: random bytes,
    and no phrase that could be guessed. A caller then needs no ``key`` and ``cert``.

    ``workers`` names the identities that a caller accepts in a worker's certificate, as subject alternative names;
    without any, the certificate must be for the host in the worker's address. ``callers`` names those that a
    worker accepts in a caller's; without any, whatever the authority has signed.

    Raises `ValueError`, which names the argument and what is wrong with it.
    """

    ca: bytes
    key: bytes | None = None
    cert: bytes | None = None
    mutual: bool = True
    secret: bytes | None = None
    workers: tuple[str, ...] = ()
    callers: tuple[str, ...] = ()
    source: str = field(default="bytes", compare=False)
    """Where they are from, for messages."""

    def __post_init__(self) -> None:
        pem.check_certificates("ca", self.ca)
        if (self.key is None) != (self.cert is None):
            missing = "key" if self.key is None else "cert"
            raise ValueError(f"credentials lack {missing}=: a key and its certificate go together")
        if self.key is not None and self.cert is not None:
            pem.check_key("key", self.key)
            pem.check_certificates("cert", self.cert)
        elif self.mutual:
            raise ValueError("mutual credentials need key= and cert=: both ends show a certificate")
        if self.secret is None:
            if not self.mutual:
                raise ValueError(
                    "credentials with mutual=False need secret=: without it anybody who can connect may run code here"
                )
        elif not isinstance(cast("object", self.secret), bytes):
            raise ValueError(f"secret= must be bytes, got {type(self.secret).__name__}")
        elif len(self.secret) < SECRET_BYTES:
            raise ValueError(f"secret= has {len(self.secret)} bytes, at least {SECRET_BYTES} are needed")
        for name in ("workers", "callers"):
            _check_names(name, getattr(self, name))

    @classmethod
    def from_files(
        cls,
        *,
        ca_path: str | os.PathLike[str],
        key_path: str | os.PathLike[str] | None = None,
        cert_path: str | os.PathLike[str] | None = None,
        mutual: bool = True,
        secret_path: str | os.PathLike[str] | None = None,
        workers: tuple[str, ...] = (),
        callers: tuple[str, ...] = (),
    ) -> WorkerCredentials:
        """Read them from PEM files; the secret's file holds its bytes, without the white space around them.

        Raises `OSError` for a file that cannot be read, and `ValueError` for what the files hold: among it, a key
        that is not the certificate's; and for files that everybody can write, that are no regular files, or larger
        than 1 MiB. A key or secret that everybody can read is warned of.
        """
        try:
            credentials = cls(
                ca=pem.read(ca_path, private=False),
                key=None if key_path is None else pem.read(key_path, private=True),
                cert=None if cert_path is None else pem.read(cert_path, private=False),
                mutual=mutual,
                secret=None if secret_path is None else pem.read(secret_path, private=True).strip(),
                workers=workers,
                callers=callers,
                source=str(cert_path if cert_path is not None else ca_path),
            )
        except ValueError as error:
            argument, said, _ = str(error).partition("=")
            named = {"ca": ca_path, "key": key_path, "cert": cert_path, "secret": secret_path}.get(argument)
            if said and named is not None:
                raise ValueError(f"{os.fspath(named)}: {error}") from error
            raise
        if key_path is not None and cert_path is not None:
            pem.check_pair(key_path, cert_path)
        return credentials

    def __repr__(self) -> str:
        shown = ["mutual" if self.mutual else "one-way", f"from {self.source}"]
        shown += [f"{name}={names}" for name in ("workers", "callers") if (names := getattr(self, name))]
        return f"<{type(self).__name__} {' '.join(shown)}>"

    def __reduce__(self) -> NoReturn:
        raise TypeError("credentials do not travel: no key leaves its process; give each process its own")


@dataclass(frozen=True, slots=True, kw_only=True)
class CredentialFiles:
    """Credentials that are read again when their files change: for certificates that are renewed in place.

    A provider, to be given as ``credentials``; arguments as for `WorkerCredentials.from_files`. A half-written set of
    files, or one that does not fit, changes nothing yet: what was read last stays, and is logged. It travels to
    the workers that a pool starts, which read the files themselves; no key does.

    Certificates, their keys and authorities take effect with the next session. A secret does not: a worker goes on with
    the one that ``secret_path`` held when it was started, and a pool or proxy with that of when it was opened.

    Called, it raises what `WorkerCredentials.from_files` raises, the first time.
    """

    ca_path: str
    key_path: str | None = None
    cert_path: str | None = None
    mutual: bool = True
    secret_path: str | None = None
    workers: tuple[str, ...] = ()
    callers: tuple[str, ...] = ()
    _read: list[tuple[tuple[object, ...], WorkerCredentials]] = field(
        default_factory=list[tuple[tuple[object, ...], WorkerCredentials]], init=False, repr=False, compare=False
    )
    """What was read last, and the state of the files then; none, or one."""

    def __call__(self) -> WorkerCredentials:
        """Return the credentials as they are now."""
        state = tuple(_state(path) for path in (self.ca_path, self.key_path, self.cert_path, self.secret_path))
        if self._read and self._read[0][0] == state:
            return self._read[0][1]
        try:
            credentials = WorkerCredentials.from_files(**self._arguments())
        except (OSError, ValueError) as error:
            if not self._read:
                raise
            credentials = self._read[0][1]
            _log.warning("%s: what was read before stays: %s", self.cert_path or self.ca_path, error)
        self._read[:] = [(state, credentials)]
        return credentials

    def _arguments(self) -> dict[str, Any]:
        return {each.name: getattr(self, each.name) for each in fields(self) if each.init}

    def __reduce__(self) -> tuple[object, ...]:
        return partial(CredentialFiles, **self._arguments()), ()


def _state(path: str | None) -> object:
    if path is None:
        return None
    try:
        found = os.stat(path)
    except OSError as error:
        return error.errno
    # The last one is what a change of its mode or owner leaves, which is the remedy for a file that was refused.
    return found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


CredentialsProvider: TypeAlias = Callable[[], WorkerCredentials]
"""Called for each new connection, and every few seconds for workers that this process has started
(``Limits.credentials_seconds``): who returns other credentials than before has rotated them. Must not block: wool's I/O
waits for it."""

CredentialsArgument: TypeAlias = WorkerCredentials | CredentialsProvider


def as_provider(credentials: CredentialsArgument | None) -> CredentialsProvider | None:
    """Return what was given as a provider. Raises `TypeError` for what is neither."""
    if credentials is None:
        return None
    if isinstance(credentials, WorkerCredentials):
        return lambda: credentials
    if callable(credentials):
        return credentials
    raise TypeError(f"credentials must be WorkerCredentials or a function that returns them, got {credentials!r:.100}")


class Steady:
    """A provider that goes on with what another one returned last, where that one fails, and has that said.

    Said once, until it succeeds again: whoever connects makes it ask, on a thread of gRPC's. Without ``last`` it is
    asked at once, and what it raises then is raised, and so is what ``check`` has against what it returns.
    """

    def __init__(
        self,
        provider: CredentialsProvider,
        check: Callable[[WorkerCredentials], object],
        say: Callable[[str], object],
        *,
        last: WorkerCredentials | None = None,
    ) -> None:
        self._provider = provider
        self._check = check
        self._say = say
        self._last = self._ask() if last is None else last
        self._failing = False

    def __call__(self) -> WorkerCredentials:
        """Return the credentials as they are now, or as they were before."""
        try:
            self._last = self._ask()
        except Exception as error:
            if not self._failing:
                self._say(f"no credentials are given, what was given before stays: {type(error).__name__}: {error}")
            self._failing = True
        else:
            self._failing = False
        return self._last

    def _ask(self) -> WorkerCredentials:
        now = provided(self._provider)
        self._check(now)
        return now


def provided(provider: CredentialsProvider) -> WorkerCredentials:
    """Ask ``provider``, which may be anybody's. Raises what it raises, and `TypeError` for what are no credentials."""
    now = cast("object", provider())
    if not isinstance(now, WorkerCredentials):
        raise TypeError(f"a provider of credentials must return WorkerCredentials, got {type(now).__name__}")
    return now


def for_worker(credentials: CredentialsArgument | None) -> WorkerCredentials | CredentialFiles | None:
    """Return what a worker process is given to start with: files are read there, and again when they change.

    What another function returns is given as it is now; see `asked_again`. Raises what reading them raises, and
    `ValueError` for credentials without a certificate, which are a caller's.
    """
    provider = as_provider(credentials)
    if provider is None:
        return None
    now = provider()
    if now.key is None:
        raise ValueError(f"a worker needs credentials with key= and cert=, got {now!r}")
    return provider if isinstance(provider, CredentialFiles) else now


def asked_again(credentials: CredentialsArgument | None) -> CredentialsProvider | None:
    """Return the function that is to be asked again for a worker; None where it reads files, or nothing changes."""
    unchanging = credentials is None or isinstance(credentials, WorkerCredentials | CredentialFiles)
    return None if unchanging else as_provider(credentials)


class Renewed:
    """A provider that gives what it was told last: a worker's, whose owner has the function."""

    def __init__(self, now: WorkerCredentials) -> None:
        self.now: WorkerCredentials = now
        """May be set from any thread."""

    def __call__(self) -> WorkerCredentials:
        """Return what it was told last."""
        return self.now


def secret_of(credentials: CredentialsArgument) -> bytes:
    """Return the secret that goes with credentials: none, where certificates alone decide."""
    provider = as_provider(credentials)
    return (provider and provider().secret) or b""


def _check_names(name: str, value: tuple[object, ...] | object) -> None:
    names = cast("tuple[object, ...]", value) if isinstance(value, tuple) else (None,)
    if not all(isinstance(item, str) and item for item in names):
        raise ValueError(f"{name}= must be a tuple of names, got {value!r:.100}")
