"""Workers to be discovered, and the grammar that what is said of them must obey."""

from __future__ import annotations

from collections.abc import Iterable

from hypothesis import strategies as st

from wool.discovery.base import DiscoveryEvent, WorkerMetadata


def worker(uid: str, *tags: str, **extra: str) -> WorkerMetadata:
    return WorkerMetadata(uid=uid, address=f"unix:/run/{uid}", pid=1, version="1", tags=frozenset(tags), extra=extra)


texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
printable = st.text(st.characters(exclude_categories=["C", "Z"], include_characters=" "), min_size=1, max_size=30)
workers = st.builds(
    WorkerMetadata,
    uid=printable,
    address=printable,
    pid=st.integers(0, 2**40),
    version=printable,
    tags=st.frozensets(texts.filter(bool), max_size=4),
    extra=st.dictionaries(texts, texts, max_size=4),
    secure=st.booleans(),
)


def check_grammar(events: Iterable[DiscoveryEvent]) -> dict[str, WorkerMetadata]:
    """Assert (added updated* dropped)* per worker, and return who is there in the end."""
    present: dict[str, WorkerMetadata] = {}
    for event in events:
        uid = event.metadata.key
        if event.type == "worker-added":
            assert uid not in present, f"{uid} added twice"
            present[uid] = event.metadata
        elif event.type == "worker-updated":
            assert uid in present, f"{uid} updated before it was added"
            assert present[uid] != event.metadata, f"{uid} updated without a change"
            present[uid] = event.metadata
        else:
            assert event.metadata == present.pop(uid, None), f"{uid} dropped with metadata it did not have"
    return present
