"""A development authority: keys and certificates for workers and callers, made on the spot.

For development, tests and small sites; where there is an authority already, use that one's certificates. Owns the
form of what it issues: P-256 keys, subject alternative names, extended key usage. Never writes a file: that is the
command line's business. Needs ``pip install 'wool[certs]'``.
"""

from __future__ import annotations

import datetime
import ipaddress
import re
from collections.abc import Sequence
from dataclasses import dataclass

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

CLIENT = ExtendedKeyUsageOID.CLIENT_AUTH
SERVER = ExtendedKeyUsageOID.SERVER_AUTH

AUTHORITY_DAYS = 3650
CERTIFICATE_DAYS = 397
"""Longer than a year by the leeway that the field has agreed on."""
MOST_NAME = 253
"""Characters of a host name."""
_LABEL = r"[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?"
_HOST = re.compile(rf"(?:\*\.)?{_LABEL}(?:\.{_LABEL})*")
BACKDATED = datetime.timedelta(minutes=5)
"""Clocks differ: what is issued now is valid a little earlier."""


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Issued:
    """A key and its certificate, followed by those between it and the authority's root; PEM."""

    key: bytes
    cert: bytes


def _now() -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC)


def _pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _name(common: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common[:64])])


def alternative_name(text: str) -> x509.GeneralName:
    """Return an IP address as such, anything else as a DNS name. Raises `ValueError`."""
    try:
        return x509.IPAddress(ipaddress.ip_address(text))
    except ValueError:
        pass
    if len(text) > MOST_NAME or not _HOST.fullmatch(text):
        raise ValueError(f"{text!r} is neither an IP address nor a name that a certificate can hold")
    return x509.DNSName(text)


class Authority:
    """Signs certificates. ``chain`` is its own certificate, then those between it and the root; PEM."""

    def __init__(self, *, key: bytes, chain: bytes) -> None:
        loaded = serialization.load_pem_private_key(key, password=None)
        if not isinstance(loaded, ec.EllipticCurvePrivateKey):
            raise ValueError(f"the authority's key is {type(loaded).__name__}, an elliptic-curve key was expected")
        self._key = loaded
        self._certificate = x509.load_pem_x509_certificates(chain)[0]
        if self._certificate.public_key() != loaded.public_key():
            raise ValueError("the authority's key is not the key of its certificate")
        self._chain = chain

    @property
    def key(self) -> bytes:
        """Its private key, PEM."""
        return _pem(self._key)

    @property
    def chain(self) -> bytes:
        """Its certificate, and for an intermediate those above it, without the root; PEM."""
        return self._chain

    @classmethod
    def create(
        cls,
        name: str = "wool development authority",
        *,
        days: float = AUTHORITY_DAYS,
        not_before: datetime.datetime | None = None,
    ) -> Authority:
        """Make a root, valid from now on or from ``not_before``."""
        key = ec.generate_private_key(ec.SECP256R1())
        began = not_before or _now() - BACKDATED
        builder = _builder(_name(name), _name(name), key, began, began + datetime.timedelta(days=days))
        certificate = _as_authority(builder, key, key, path_length=1).sign(key, hashes.SHA256())
        return cls(key=_pem(key), chain=certificate.public_bytes(serialization.Encoding.PEM))

    def intermediate(self, name: str = "wool intermediate authority", *, days: float = AUTHORITY_DAYS) -> Authority:
        """Make an authority below this root."""
        key = ec.generate_private_key(ec.SECP256R1())
        began = _now() - BACKDATED
        builder = _builder(_name(name), self._certificate.subject, key, began, began + datetime.timedelta(days=days))
        certificate = _as_authority(builder, key, self._key, path_length=0).sign(self._key, hashes.SHA256())
        return Authority(key=_pem(key), chain=certificate.public_bytes(serialization.Encoding.PEM))

    def issue(
        self,
        names: Sequence[str],
        *,
        days: float = CERTIFICATE_DAYS,
        usages: Sequence[x509.ObjectIdentifier] = (SERVER, CLIENT),
        not_before: datetime.datetime | None = None,
        not_after: datetime.datetime | None = None,
    ) -> Issued:
        """Issue a key and a certificate for ``names``: host names, IP addresses, identities.

        A worker needs both usages, since it calls its peers; a caller that is no worker needs `CLIENT` alone.
        Raises `ValueError` for a name that no certificate can hold.
        """
        if not names:
            raise ValueError("a certificate needs at least one name: a host, an IP address or an identity")
        named = [alternative_name(name) for name in names]
        key = ec.generate_private_key(ec.SECP256R1())
        began = not_before or _now() - BACKDATED
        ends = not_after or began + datetime.timedelta(days=days)
        builder = _builder(_name(names[0]), self._certificate.subject, key, began, ends)
        for extension, critical in (
            (x509.BasicConstraints(ca=False, path_length=None), True),
            (_key_usage(signs_certificates=False), True),
            (x509.ExtendedKeyUsage(list(usages)), False),
            (x509.SubjectAlternativeName(named), False),
            (x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()), False),
        ):
            builder = builder.add_extension(extension, critical=critical)
        certificate = builder.sign(self._key, hashes.SHA256())
        own = certificate.public_bytes(serialization.Encoding.PEM)
        is_root = self._certificate.issuer == self._certificate.subject
        return Issued(key=_pem(key), cert=own if is_root else own + self._chain)


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    key: ec.EllipticCurvePrivateKey,
    not_before: datetime.datetime,
    not_after: datetime.datetime,
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(not_before)
        .not_valid_after(not_after)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )


def _as_authority(
    builder: x509.CertificateBuilder,
    key: ec.EllipticCurvePrivateKey,
    signer: ec.EllipticCurvePrivateKey,
    *,
    path_length: int,
) -> x509.CertificateBuilder:
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=path_length), critical=True)
    builder = builder.add_extension(_key_usage(signs_certificates=True), critical=True)
    if signer is not key:
        identifier = x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key())
        builder = builder.add_extension(identifier, critical=False)
    return builder


def _key_usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        encipher_only=False,
        decipher_only=False,
    )
