"""Who can reach the address of a worker, and the warning where that is more than its user meant.

Owns the question alone: whether a worker may listen there is decided by who starts it.
"""

from __future__ import annotations

import logging

from wool.credentials import CredentialFiles, WorkerCredentials

_log = logging.getLogger("wool.worker")


def warn_if_insecure(credentials: WorkerCredentials | CredentialFiles | None, address: str) -> None:
    """Say at each start that a worker which others can reach wants no certificate. Who starts it has allowed that."""
    if (credentials is None or not credentials.mutual) and is_beyond_loopback(address):
        if credentials is None:
            _log.warning(
                "the worker at %s speaks no TLS: who has this user's key may run any code as it, and who is on the way "
                "may read and change what passes",
                address,
            )
        else:
            _log.warning(
                "the worker at %s wants no certificate of callers (mutual=False): who has the secret may run any code "
                "as it",
                address,
            )


def is_beyond_loopback(address: str) -> bool:
    """Whether other hosts may reach ``address``: ``unix:/path`` or ``host:port`` with a literal host."""
    if address.startswith("unix:"):
        return False
    import ipaddress  # takes a while, and most workers need it not

    return not ipaddress.ip_address(address.rpartition(":")[0].strip("[]")).is_loopback
