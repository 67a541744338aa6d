"""Targets: credentials as they lie in files, and what an owner and its worker say to each other."""

from __future__ import annotations

import functools
import logging
import tempfile
from pathlib import Path

from fuzz.choices import Choices
from wool.authority import Authority
from wool.credentials import CredentialFiles, WorkerCredentials
from wool.worker.channel import ChannelError, Lines, decode_from_owner, decode_from_worker


@functools.cache
def _honest() -> tuple[bytes, bytes, bytes]:
    authority = Authority.create()
    issued = authority.issue(["127.0.0.1"])
    return authority.chain, issued.key, issued.cert


def _broken(choices: Choices, whole: bytes) -> bytes:
    kind = choices.below(4)
    if kind == 0:
        return whole
    if kind == 1:
        return choices.some_bytes()
    at = choices.byte() * len(whole) // 256
    if kind == 2:
        return whole[:at]
    return whole[:at] + choices.some_bytes() + whole[at + choices.byte() :]


def credential_files(data: bytes) -> None:
    """Files hold credentials, or are an error that names what is wrong and shows nothing of a key."""
    choices = Choices(data)
    ca, key, cert = _honest()
    logging.getLogger("wool").setLevel(logging.CRITICAL)
    with tempfile.TemporaryDirectory(prefix="wool-fuzz-") as place:
        paths = {name: Path(place, name) for name in ("ca_path", "key_path", "cert_path", "secret_path")}
        for path, content in zip(paths.values(), (ca, key, cert, bytes(32)), strict=True):
            path.write_bytes(_broken(choices, content))
        try:
            read = WorkerCredentials.from_files(**paths)
        except ValueError as error:
            assert "PRIVATE" not in str(error)
            assert len(str(error)) < 1000
        else:
            assert repr(read) == f"<WorkerCredentials mutual from {paths['cert_path']}>"
            files = CredentialFiles(**{name: str(path) for name, path in paths.items()})
            assert files() == read
            paths["cert_path"].write_bytes(_broken(choices, cert))
            files()


def control_message(data: bytes) -> None:
    """What comes on the channel between owner and worker is messages or `ChannelError`, which does not quote it."""
    try:
        lines = Lines().feed(data)
    except ChannelError:
        return
    for line in (data, *lines):
        for decode in (decode_from_owner, decode_from_worker):
            try:
                decode(line)
            except ChannelError as error:
                assert len(str(error)) < 1000
