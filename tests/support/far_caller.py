"""A caller on a host of its own: finds workers by multicast, calls them until it is told to stop, says what came of it.

``python -m support.far_caller DIRECTORY JOURNAL``; the directory holds its credentials. Each line of standard input is
answered by one of standard output: with an empty line, how many calls have ended since the last; with ``hold N GATE`` N
more calls are made, which run until the file GATE exists, and with ``held`` it is told what has come of them, and when;
with ``now N`` N calls are made one after the other, and it is told what came of each, and how long that took;
with ``stop`` the outcomes that are no process id, and which processes have answered.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from pathlib import Path

import wool
from support.faults import Journal
from support.traced import block, run, run_until


@wool.routine
async def through(journal: str, call: str) -> int:
    """Call on from the worker."""
    return await run(journal, call)


@wool.routine
async def pair(journal: str, call: str) -> tuple[int, int]:
    """Say where this body runs, and where the one that it calls."""
    return os.getpid(), await run(journal, call)


async def main(directory: str, journal_path: str) -> None:
    journal, outcomes, counted = Journal(Path(journal_path)), dict[str, object](), 0
    here = Path(directory)
    credentials = wool.CredentialFiles(
        ca_path=str(here / "ca.pem"), key_path=str(here / "caller.key"), cert_path=str(here / "caller.pem")
    )
    loop = asyncio.get_running_loop()
    lines = asyncio.StreamReader()
    pipe, _ = await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
    stopping = asyncio.Event()

    async def call_for_ever(number: int) -> None:
        kinds = (run, through, lambda path, call: block(path, call, 0.02))
        while not stopping.is_set():
            call = f"{number}-{len(outcomes)}"
            outcomes[call] = "under way"
            try:
                outcomes[call] = await kinds[number % 3](journal.path, call)
            except Exception as error:
                outcomes[call] = f"{type(error).__name__}: {error}"

    held: dict[str, list[object]] = {}

    async def hold(call: str, gate: str) -> None:
        held[call] = [None, 0.0]
        try:
            outcome: object = await run_until(journal.path, call, gate)
        except Exception as error:
            outcome = f"{type(error).__name__}: {error}"
        held[call] = [outcome, time.monotonic()]

    async def timed(call: str) -> tuple[object, float]:
        began = time.monotonic()
        outcomes[call] = "under way"
        try:
            outcomes[call] = await run(journal.path, call)
        except Exception as error:
            outcomes[call] = f"{type(error).__name__}: {error}"
        return outcomes[call], time.monotonic() - began

    async with wool.WorkerPool(discovery=wool.LanDiscovery, credentials=credentials):
        print(json.dumps(await run(journal.path, "first")), flush=True)
        async with asyncio.TaskGroup() as group:
            for number in range(6):
                group.create_task(call_for_ever(number))
            while (line := (await lines.readline()).decode().strip()) != "stop":
                match line.split():
                    case ["hold", count, gate]:
                        for index in range(int(count)):
                            group.create_task(hold(f"held-{index}", gate))
                        print(json.dumps("holding"), flush=True)
                        continue
                    case ["held"]:
                        print(json.dumps(held), flush=True)
                        continue
                    case ["nested"]:
                        print(json.dumps(await pair(journal.path, journal.new_call())), flush=True)
                        continue
                    case ["now", count]:
                        print(json.dumps([await timed(journal.new_call()) for _ in range(int(count))]), flush=True)
                        continue
                    case words:
                        assert words == [], line
                ended = sum(outcome != "under way" for outcome in outcomes.values())
                print(json.dumps(ended - counted), flush=True)
                counted = ended
            stopping.set()
    pipe.close()
    failed = {call: outcome for call, outcome in outcomes.items() if not isinstance(outcome, int)}
    print(json.dumps([failed, sorted({outcome for outcome in outcomes.values() if isinstance(outcome, int)})]))


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
