"""How a command is told its credentials: ``--ca``, ``--cert``, ``--key``, and who is accepted.

It owns these options, which every command that speaks TLS takes. It must never hold a key: it names files.
"""

from __future__ import annotations

from collections.abc import Sequence

from wool.cli.settings import Option, Settings, text, texts
from wool.credentials import CredentialFiles

CREDENTIALS: Sequence[Option] = (
    Option(name="ca", convert=text, metavar="FILE", help="certificates of the authorities that sign those of the "
           "others, PEM; with it, TLS is spoken"),
    Option(name="cert", convert=text, metavar="FILE", help="own certificate, and what leads from it to an authority, "
           "PEM; read again when it changes"),
    Option(name="key", convert=text, metavar="FILE", help="key of the own certificate, PEM, not encrypted"),
    Option(name="accept-worker", convert=texts, repeated=True, default=(), metavar="NAME", help="name that a "
           "worker's certificate must be for, instead of its address; may be said again"),
    Option(name="accept-caller", convert=texts, repeated=True, default=(), metavar="NAME", help="name that a "
           "caller's certificate must be for (default: whatever the authority has signed); may be said again"),
)  # fmt: skip


def credential_files(settings: Settings) -> CredentialFiles | None:
    """Return what was told, read once to see that it fits; None without ``--ca``. Raises `SettingError`."""
    ca: str | None = settings["ca"]
    if ca is None:
        for name in ("cert", "key", "accept-worker", "accept-caller"):
            if settings[name]:
                raise settings.error(name, "is for TLS, which needs --ca too")
        return None
    files = CredentialFiles(
        ca_path=ca,
        cert_path=settings["cert"],
        key_path=settings["key"],
        workers=tuple(settings["accept-worker"]),
        callers=tuple(settings["accept-caller"]),
    )
    try:
        files()
    except OSError as error:
        name = {settings["cert"]: "cert", settings["key"]: "key"}.get(error.filename, "ca")
        raise settings.error(name, f"{error.filename} cannot be read: {error.strerror or error}") from None
    except ValueError as error:
        raise settings.error("ca", error) from None
    return files
