"""TLS for streams: what gRPC needs of our credentials, and what it says of the other end's.

Owns the translation both ways. Certificates are judged by gRPC, which is to say by BoringSSL, against the
authorities and names in `WorkerCredentials`; nothing here decides by itself that a certificate will do.
"""

from __future__ import annotations

import datetime
import re
import threading
from typing import Any, cast

from wool.credentials import CredentialsProvider, WorkerCredentials
from wool.transport.grpc_environment import environment_for_import
from wool.transport.grpc_options import Options

with environment_for_import():
    import grpc
    import grpc.aio

NO_USE = "the credentials are no use: the key is not the certificate's, or the certificate is not meant for TLS"
"""What gRPC does not tell of credentials that it cannot load."""

_NAMES = "x509_subject_alternative_name"

_WHY = {
    "certificate has expired": "expired",
    "certificate is not yet valid": "not yet valid",
    "unsupported certificate purpose": "usage",
    "unable to get local issuer certificate": "authority",
    "self signed certificate in certificate chain": "authority",
    "self signed certificate": "authority",
}
"""What BoringSSL says of a certificate that it does not take, and what `wool.certificates` calls it."""


def channel_credentials(credentials: WorkerCredentials) -> grpc.ChannelCredentials:
    """Return what the connecting end shows, and whom it believes. Without mutual TLS it shows nothing."""
    mutual = credentials.mutual
    return grpc.ssl_channel_credentials(
        root_certificates=credentials.ca,
        private_key=credentials.key if mutual else None,
        certificate_chain=credentials.cert if mutual else None,
    )


def expecting(identity: str | None) -> Options:
    """Return the channel options that make ``identity`` the name to be found, and not the address."""
    return [] if identity is None else [("grpc.ssl_target_name_override", identity)]


def server_credentials(provider: CredentialsProvider) -> grpc.ServerCredentials:
    """Return what the accepting end shows; asked anew for each handshake, so that rotation needs no restart.

    What has not changed stays: gRPC takes new ones without a lock, and where each of several handshakes at once brought
    some, the process was aborted, or worse. ``provider`` must not raise: see `wool.credentials.Steady`.
    """
    shown = provider()
    first = _certificates(shown)
    one_at_a_time = threading.Lock()  # each handshake asks on a thread of its own, and new ones are given once

    def fetch() -> grpc.ServerCertificateConfiguration | None:
        nonlocal shown
        with one_at_a_time:
            now = provider()
            if now == shown:
                return None
            shown = now
        return _certificates(now)

    # None is for "as before", which the stubs do not know.
    return grpc.dynamic_ssl_server_credentials(first, cast(Any, fetch), shown.mutual)


class WorkersCheck:
    """Raises `ValueError` for credentials that a running server cannot show, or could only seem to go by.

    Those are a caller's, without a certificate; and such as differ from the first ones in whether callers must show
    theirs, which gRPC is told once.
    """

    def __init__(self) -> None:
        self._mutual: bool | None = None

    def __call__(self, credentials: WorkerCredentials) -> None:
        """Check what is about to be used."""
        _certificates(credentials)
        if self._mutual is None:
            self._mutual = credentials.mutual
        if credentials.mutual != self._mutual:
            raise ValueError(
                f"a worker that was started with mutual={self._mutual} cannot change to mutual={credentials.mutual}: "
                "start it anew"
            )


def _certificates(credentials: WorkerCredentials) -> grpc.ServerCertificateConfiguration:
    if credentials.key is None or credentials.cert is None:
        raise ValueError(f"a worker needs credentials with key= and cert=, got {credentials!r}")
    return grpc.ssl_server_certificate_configuration(
        [(credentials.key, credentials.cert)], root_certificates=credentials.ca
    )


def is_for_another(details: str) -> bool:
    """Whether the worker's certificate is good, but for none of the names that were looked for."""
    return "Hostname Verification Check failed" in details


def why_refused(details: str, expected: str, shown: WorkerCredentials) -> str | None:
    """Tell which side refused whom, and why, from what gRPC says of a failed handshake; None if it was none.

    A worker that refuses closes the connection without a word, alerts of TLS included. What this side has ``shown`` is
    known here, though, so that is looked at: see `flaw_of`.
    """
    if is_for_another(details):
        return f"this side refused the worker: name: its certificate is not for {expected}"
    if found := re.search(r"CERTIFICATE_VERIFY_FAILED: ([^:]*)", details):
        said = found[1].strip()
        return f"this side refused the worker's certificate: {_WHY.get(said, 'it is not valid')}: {said}"
    if "Failed to create security handshaker" in details:
        return NO_USE
    if "WRONG_VERSION_NUMBER" in details:
        return "this side speaks TLS, the worker does not: give it credentials"
    if "does not take a caller" in details:
        return "the worker refused this side: name: its certificate is for none of the callers that are named there"
    if "Socket closed" in details or "Connection reset" in details:
        if not shown.mutual:
            return "the worker refused this side, which shows no certificate; or it speaks no TLS"
        if (flaw := flaw_of(shown)) is not None:
            return f"the worker refused this side's certificate: {flaw}"
        return "the worker refused this side's certificate or wants none, and its log says why; or it speaks no TLS"
    return None


def flaw_of(shown: WorkerCredentials) -> str | None:
    """Say why whoever believes what this side believes would refuse a caller that shows this, now.

    None if nobody can tell: without ``wool[certs]``, or because nothing is wrong with it but for others.
    """
    try:
        from wool.certificates import judge_caller
    except ImportError:
        return None
    assert shown.cert is not None
    try:
        refusal = judge_caller(shown.cert, shown.ca, (), datetime.datetime.now(datetime.UTC))
    except ValueError:  # gRPC reads more: a file that holds the key too, for one
        return None
    if refusal is None:
        return None
    return "authority: none that this side believes has signed it" if refusal.why == "authority" else str(refusal)


def names_of_caller(context: grpc.aio.ServicerContext[bytes, bytes]) -> list[str]:
    """Return the identities in the caller's certificate, which has been checked."""
    found = cast("dict[str, list[bytes]]", context.auth_context())
    return [name.decode(errors="replace") for name in found.get(_NAMES, ())]
