"""Files of keys and certificates, read: whole, of a bounded size, and told of if they are not the user's alone.

Why it exists: who can write one of these files decides who is believed, and they are read again while a worker runs,
by its I/O thread, at any moment of a rotation.

What it owns: the reading, and whether what was read can be used at all. Whom a certificate is for, and whether it will
do, is judged by gRPC. It must never wait for a file, nor put what it holds into an error.
"""

from __future__ import annotations

import logging
import os
import re
import ssl
import stat

from wool.limits import MOST_CREDENTIAL_BYTES

_log = logging.getLogger("wool.credentials")

CERTIFICATE = b"-----BEGIN CERTIFICATE-----"
KEY = b"PRIVATE KEY-----"

_CERTIFICATES = re.compile(CERTIFICATE + rb".*?-----END CERTIFICATE-----", re.DOTALL)


def read(path: str | os.PathLike[str], *, private: bool) -> bytes:
    """Return what the file holds. One that is ``private`` and that everybody can read is told of in the log.

    Raises `OSError` if it cannot be read, and `ValueError`, which names it, if it is no regular file, larger than
    ``MOST_CREDENTIAL_BYTES``, or if everybody can write it.
    """
    name = os.fspath(path)
    descriptor = os.open(name, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)  # a FIFO would be waited for
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise ValueError(f"{name} is no regular file")
        with os.fdopen(descriptor, "rb", closefd=False) as file:
            data = file.read(MOST_CREDENTIAL_BYTES + 1)
    finally:
        os.close(descriptor)
    if len(data) > MOST_CREDENTIAL_BYTES:
        raise ValueError(f"{name} holds more than {MOST_CREDENTIAL_BYTES} bytes: no key or certificate is so large")
    mode = f"mode {stat.S_IMODE(status.st_mode):04o}"
    if status.st_mode & stat.S_IWOTH:
        raise ValueError(
            f"{name} can be written by everybody ({mode}), who so decides who is believed: look whether what it holds "
            "is yours, then chmod o-w"
        )
    if private and status.st_mode & stat.S_IROTH:
        _log.warning("%s can be read by everybody (%s), who then can pose as its owner: chmod o-r", name, mode)
    return data


def check_certificates(name: str, value: object) -> None:
    """Raise `ValueError` unless ``value``, the argument ``name``, is certificates in PEM form, every one of them whole.

    A file that is copied in place is seen half written, and who believes but the first half of the authorities in it
    refuses the others' callers.
    """
    _check_form(name, value, CERTIFICATE, "a certificate")
    assert isinstance(value, bytes)
    found = _CERTIFICATES.findall(value)
    if value.count(CERTIFICATE) != len(found) or any(each.count(CERTIFICATE) > 1 for each in found):
        raise ValueError(f"{name}= ends in the middle of a certificate")
    try:
        text = b"\n".join(found).decode("ascii")
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cadata=text)
    except (ssl.SSLError, UnicodeDecodeError) as error:
        reason = getattr(error, "reason", None) or "it is not written in base64"
        raise ValueError(f"{name}= holds a certificate that cannot be read: {reason}") from error


def check_key(name: str, value: object) -> None:
    """Raise `ValueError` unless ``value``, the argument ``name``, looks like a private key in PEM form."""
    _check_form(name, value, KEY, "a private key")


def _check_form(name: str, value: object, marker: bytes, what: str) -> None:
    if not isinstance(value, bytes) or marker not in value:
        raise ValueError(f"{name}= must be {what} in PEM form, as bytes")


def check_pair(key_path: str | os.PathLike[str], cert_path: str | os.PathLike[str]) -> None:
    """Raise `ValueError`, which names both files, unless the one holds the key of the certificate in the other."""
    key, cert = os.fspath(key_path), os.fspath(cert_path)
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(cert, key, password=_no_password)
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            raise ValueError(f"{key} is not the key of the certificate in {cert}") from error
        why = error.reason or "no key that can be read"
        raise ValueError(f"{key} and {cert} are no use as a key and its certificate: {why}") from error


def _no_password() -> str:
    raise ValueError("the private key is encrypted: a worker has nobody to ask for the password")
