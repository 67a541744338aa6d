"""How name servers are asked: no more at once than a limit says, however many names there are."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from wool.discovery.dns import DnsResolver, _Found
from wool.limits import Limits


async def test_no_more_hosts_of_an_answer_are_asked_for_at_once_than_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    resolver = DnsResolver(None, (), Limits(lookups=3))
    asked: set[str] = set()
    most = 0

    async def query(name: str, kind: str) -> Any:
        nonlocal most
        asked.add(name)
        most = max(most, len(asked))
        await asyncio.sleep(0.001)
        asked.discard(name)
        return _Found(seconds=60.0)

    monkeypatch.setattr(resolver, "_query", query)
    await asyncio.gather(*(resolver._hosts(f"host-{number}") for number in range(20)))
    assert most == 3
