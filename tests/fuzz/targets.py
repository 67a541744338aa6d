"""Every target, by name. A target is a function of bytes that returns, or raises what nobody had named."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from fuzz import finding, identity, sessions, wire

TARGETS: dict[str, Callable[[bytes], None]] = {
    "decoding": wire.decoding,
    "decoding-chunks": wire.decoding_chunks,
    "encoding": wire.encoding,
    "handshake-of-caller": wire.handshake_of_caller,
    "handshake-of-worker": wire.handshake_of_worker,
    "flow": wire.flow,
    "session-of-worker": sessions.session_of_worker,
    "session-of-caller": sessions.session_of_caller,
    "machine-of-caller": sessions.machine_of_caller,
    "record": finding.record,
    "life": finding.life,
    "text-record": finding.text_record,
    "shared-table": finding.shared_table,
    "addresses": finding.addresses,
    "sightings": finding.sightings,
    "packets": finding.packets,
    "answers": finding.answers,
    "credential-files": identity.credential_files,
    "control-message": identity.control_message,
}

CORPUS = Path(__file__).parent / "corpus"


def kept(name: str) -> list[Path]:
    """Return the inputs that are kept for a target."""
    return sorted(path for path in (CORPUS / name).glob("*") if path.is_file())


def close() -> None:
    """Free what the targets share."""
    sessions.close_loop()
    finding.close_loop()
