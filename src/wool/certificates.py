"""Certificates, read: what one says of itself, and whether a peer would take it at some instant.

Owns the reading and the verdict, both pure: bytes and an instant in, a record out; no file, no clock. Real streams are
judged by gRPC, which is to say by BoringSSL, and never by this. This is for what has no such stream: `wool certs show`,
and the simulator, where time is virtual; and for who was refused without a word, and wants to know what may be wrong. A
test holds the two against each other, certificate by certificate. Needs ``pip install 'wool[certs]'``.
"""

from __future__ import annotations

import datetime
import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias, TypeVar

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.x509.verification import PolicyBuilder, Store, VerificationError

from wool.authority import CLIENT, SERVER

_USAGES: dict[x509.ObjectIdentifier, str] = {SERVER: "server", CLIENT: "client"}

Extension = TypeVar("Extension", bound=x509.ExtensionType)

Why: TypeAlias = Literal["expired", "not yet valid", "usage", "name", "authority"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """Why a certificate is not taken: the first of these that holds, in the order of `Why`."""

    why: Why
    detail: str

    def __str__(self) -> str:
        return f"{self.why}: {self.detail}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Description:
    """What a certificate says. Nothing in it has been verified."""

    subject: str
    issuer: str
    names: tuple[str, ...]
    """Its subject alternative names: hosts, IP addresses, identities."""
    usages: tuple[str, ...]
    """``server`` is what a worker needs to listen, ``client`` what it takes to call; others as dotted numbers."""
    authority: bool
    """Whether it may sign others."""
    not_before: datetime.datetime
    not_after: datetime.datetime
    fingerprint: str
    """SHA-256 of the whole, in hexadecimal."""
    serial: str

    def days_left(self, at: datetime.datetime) -> int:
        """Return how many whole days it is still valid after ``at``: below zero once it has expired."""
        return (self.not_after - at).days


def load(pem: bytes, what: str = "it") -> list[x509.Certificate]:
    """Return the certificates in ``pem``. Raises `ValueError`, which names ``what`` was read."""
    if b"PRIVATE KEY-----" in pem:
        raise ValueError(f"{what} holds a private key: only its certificate is meant to be looked at")
    try:
        return x509.load_pem_x509_certificates(pem)
    except ValueError as error:
        raise ValueError(f"{what} holds no certificate in PEM form: {error}") from error


def describe(certificate: x509.Certificate) -> Description:
    """Return what ``certificate`` says."""
    constraints = _extension(certificate, x509.BasicConstraints)
    usages = _extension(certificate, x509.ExtendedKeyUsage)
    return Description(
        subject=certificate.subject.rfc4514_string(),
        issuer=certificate.issuer.rfc4514_string(),
        names=_names(certificate),
        usages=tuple(_USAGES.get(usage) or usage.dotted_string for usage in usages or ()),
        authority=constraints is not None and constraints.ca,
        not_before=certificate.not_valid_before_utc,
        not_after=certificate.not_valid_after_utc,
        fingerprint=certificate.fingerprint(hashes.SHA256()).hex(),
        serial=f"{certificate.serial_number:x}",
    )


def judge_worker(chain: bytes, trust: bytes, name: str, at: datetime.datetime) -> Refusal | None:
    """Say why a caller that looks for ``name`` at the instant ``at`` refuses a worker that shows ``chain``.

    ``chain`` is the worker's certificate and those between it and an authority in ``trust``, PEM; ``name`` is a host,
    an IP address or an identity. Raises `ValueError` for what is no PEM or no name.
    """
    leaf, *others = load(chain, "the chain")
    verifier = _policy(trust, at).build_server_verifier(_subject(name))
    try:
        verifier.verify(leaf, others)
    except VerificationError as error:
        return _why([leaf, *others], at, SERVER, str(error), named=name)
    return None


def judge_caller(chain: bytes, trust: bytes, names: Sequence[str], at: datetime.datetime) -> Refusal | None:
    """Say why a worker refuses, at the instant ``at``, a caller that shows ``chain``.

    ``names`` are the identities that the worker takes; without any, it takes whatever ``trust`` has signed. Raises
    `ValueError` for what is no PEM.
    """
    leaf, *others = load(chain, "the chain")
    try:
        _policy(trust, at).build_client_verifier().verify(leaf, others)
    except VerificationError as error:
        return _why([leaf, *others], at, CLIENT, str(error))
    if names and not set(names) & set(_names(leaf)):
        return _wrong_name(leaf, " or ".join(names))
    return None


def _policy(trust: bytes, at: datetime.datetime) -> PolicyBuilder:
    return PolicyBuilder().store(Store(load(trust, "the trust"))).time(at)


def _subject(name: str) -> x509.DNSName | x509.IPAddress:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _why(
    chain: list[x509.Certificate],
    at: datetime.datetime,
    usage: x509.ObjectIdentifier,
    said: str,
    *,
    named: str | None = None,
) -> Refusal:
    """Find what a verification has failed by: its own words change from release to release."""
    for each in chain:
        if at > each.not_valid_after_utc:
            return Refusal(why="expired", detail=f"{_short(each)} expired at {each.not_valid_after_utc:%F %T} UTC")
        if at < each.not_valid_before_utc:
            return Refusal(
                why="not yet valid", detail=f"{_short(each)} is valid from {each.not_valid_before_utc:%F %T} UTC on"
            )
    usages = _extension(chain[0], x509.ExtendedKeyUsage)
    if usages is not None and usage not in usages:
        return Refusal(why="usage", detail=f"{_short(chain[0])} is not for a {_USAGES[usage]}")
    if named is not None and not _is_for(chain[0], named):
        return _wrong_name(chain[0], named)
    return Refusal(why="authority", detail=said)


def _wrong_name(certificate: x509.Certificate, wanted: str) -> Refusal:
    names = ", ".join(_names(certificate)) or "nobody"
    return Refusal(why="name", detail=f"{_short(certificate)} is for {names}, and not for {wanted}")


def _is_for(certificate: x509.Certificate, name: str) -> bool:
    """Whether a subject alternative name is ``name``, or a wildcard that holds it."""
    _, dot, parent = name.partition(".")
    wildcard = f"*.{parent}".lower() if dot and not isinstance(_subject(name), x509.IPAddress) else None
    return any(each.lower() in (name.lower(), wildcard) for each in _names(certificate))


def _names(certificate: x509.Certificate) -> tuple[str, ...]:
    found = _extension(certificate, x509.SubjectAlternativeName)
    # Names of other kinds than text and addresses, such as a directory's, are nobody's in wool.
    return tuple(str(name.value) for name in found or () if isinstance(name.value, str) or _is_address(name))


def _is_address(name: x509.GeneralName) -> bool:
    return isinstance(name, x509.IPAddress)


def _short(certificate: x509.Certificate) -> str:
    return f"the certificate of {certificate.subject.rfc4514_string()}"


def _extension(certificate: x509.Certificate, kind: type[Extension]) -> Extension | None:
    try:
        return certificate.extensions.get_extension_for_class(kind).value
    except x509.ExtensionNotFound:
        return None
