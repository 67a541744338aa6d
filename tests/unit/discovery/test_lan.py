"""Listening to a network that is a list: what is heard becomes events, and what has to be asked is asked."""

from __future__ import annotations

import asyncio
import dataclasses
import ipaddress
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import pytest

from support.watch import watching
from wool.discovery.base import WorkerFilter, WorkerMetadata
from wool.discovery.lan import listen
from wool.discovery.records import SERVICE, Interface, announce
from wool.discovery.sightings import Question, Record
from wool.limits import DEFAULT_LIMITS, Limits

FAST = dataclasses.replace(DEFAULT_LIMITS, lan_retry_first_seconds=0.02, lan_retry_most_seconds=0.05)
ETH0 = Interface(name="eth0", address=ipaddress.ip_address("10.0.0.9"), network=ipaddress.ip_network("10.0.0.0/24"))
POINTER = 1200.0


class Air:
    """A network without sockets, on which a test answers for the workers."""

    def __init__(self, *, answers: bool = True) -> None:
        self.interfaces = [ETH0]
        self.answers = answers
        self.ttl = 0.2
        self.there: dict[str, WorkerMetadata] = {}
        self.asked: list[Question] = []
        self.said_known: list[tuple[set[str], int]] = []
        """What kinds were asked for together, and how many were said to be known with that."""
        self._news = asyncio.Event()
        self.closed = 0
        self._hear: Callable[[Sequence[Record]], None] = lambda records: None

    async def open(self) -> Air:
        return self

    def listen(self, hear: Callable[[Sequence[Record]], None]) -> None:
        self._hear = hear

    def ask(self, questions: Iterable[Question], known: Iterable[tuple[str, float, float]]) -> None:
        questions = list(questions)
        self.asked += questions
        self.said_known.append(({kind for _, kind in questions}, len(list(known))))
        self._news.set()
        if self.answers:
            names = {name for name, _ in questions}
            for metadata in self.there.values():
                said = announce(metadata, self.interfaces)
                if {SERVICE, said.name, said.host} & names:
                    asyncio.get_running_loop().call_soon(self.say, metadata)

    async def until_asked(self, kind: str, times: int) -> None:
        """Wait until so many questions of ``kind`` were asked."""
        async with asyncio.timeout(30):
            while sum(asked == kind for _, asked in self.asked) < times:
                self._news.clear()
                await self._news.wait()

    def say(self, metadata: WorkerMetadata, *, hello: bool = True) -> None:
        said = announce(metadata, self.interfaces)
        self._hear(
            [
                Record(kind="PTR", name=SERVICE, seconds=POINTER if hello else 0.0, target=said.name),
                Record(kind="SRV", name=said.name, seconds=self.ttl, target=said.host, port=said.port),
                Record(kind="TXT", name=said.name, seconds=POINTER, text=said.text),
                *(Record(kind="A", name=said.host, seconds=self.ttl, target=address) for address in said.addresses),
            ]
        )

    async def close(self) -> None:
        self.closed += 1


class Subscriber:
    def __init__(self, air: Air, filter: WorkerFilter | None = None, limits: Limits = FAST) -> None:
        self.of = (air.open, filter, limits)

    def __aiter__(self) -> Any:
        return listen(*self.of)


def worker(uid: str, *tags: str) -> WorkerMetadata:
    return WorkerMetadata(uid=uid, address="10.0.0.7:7000", pid=1, version="1", tags=frozenset(tags))


async def test_who_is_there_is_asked_at_once_and_stays_while_it_answers() -> None:
    air = Air()
    air.ttl = 1.0  # of which a fifth, after it was asked for again, is what a busy machine may be late by
    air.there["a"] = worker("a")
    async with watching(Subscriber(air)) as watch:
        await watch.until(worker("a"))
        await air.until_asked("SRV", 3)
        assert len(watch.events) == 1
        air.there.clear()
        await watch.until()
    assert air.closed == 1


async def test_who_is_known_is_said_with_the_question_for_everybody_and_with_no_other() -> None:
    air = Air()
    for number in range(5):
        air.there[f"{number}"] = worker(f"{number}")
    async with watching(Subscriber(air)) as watch:
        await watch.until(*air.there.values())
        await air.until_asked("SRV", 3)
        await air.until_asked("PTR", 2)
    assert {known for kinds, known in air.said_known if "PTR" not in kinds} == {0}
    assert max(known for kinds, known in air.said_known if "PTR" in kinds) == 5


async def test_a_goodbye_is_told_at_once() -> None:
    air = Air()
    air.there["a"] = worker("a")
    async with watching(Subscriber(air)) as watch:
        await watch.until(worker("a"))
        air.ttl = 1e6
        air.say(worker("a"))
        air.say(air.there.pop("a"), hello=False)
        assert await watch.until() < 5.0


async def test_who_does_not_answer_for_a_while_is_back_when_it_does() -> None:
    air = Air()
    air.there["a"] = worker("a")
    async with watching(Subscriber(air)) as watch:
        await watch.until(worker("a"))
        air.answers = False
        await watch.until()
        air.answers = True
        assert await watch.until(worker("a")) < 5.0


async def test_what_the_filter_raises_ends_it_and_the_sockets_are_closed() -> None:
    def wanted(metadata: WorkerMetadata) -> bool:
        raise LookupError("no such tag")

    air = Air()
    air.there["a"] = worker("a")
    with pytest.raises(LookupError):
        await anext(listen(air.open, wanted, FAST))
    assert air.closed == 1


async def test_records_that_are_no_workers_are_told_once_in_a_while(caplog: pytest.LogCaptureFixture) -> None:
    air = Air()
    async with watching(Subscriber(air)) as watch:
        await air.until_asked("PTR", 1)
        for number in range(20):
            said = announce(worker(f"w{number}"), [ETH0])
            air._hear(
                [
                    Record(kind="PTR", name=SERVICE, seconds=POINTER, target=said.name),
                    Record(kind="SRV", name=said.name, seconds=30.0, target=said.host, port=1),
                    Record(kind="TXT", name=said.name, seconds=30.0, text=said.text),
                    Record(kind="A", name=said.host, seconds=30.0, target="10.0.0.7"),
                ]
            )
            await asyncio.sleep(0)
        air.say(worker("honest"))
        await watch.until(worker("honest"))
    told = [record.getMessage() for record in caplog.records]
    assert len(told) == 1
    assert "is no worker's: w0: worker w0 is announced at port 1, and says 7000" in told[0]
