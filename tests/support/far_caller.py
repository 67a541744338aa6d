"""A caller on a host of its own: finds workers by multicast, calls them until it is told to stop, says what came of it.

``python -m support.far_caller DIRECTORY JOURNAL``; the directory holds its credentials. Each line of standard input is
answered by one of standard output: with an empty line, how many calls have ended since the last; with ``stop`` the
outcomes that are no process id, and which processes have answered.
"""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path

import wool
from support.faults import Journal
from support.traced import block, run


@wool.routine
async def through(journal: str, call: str) -> int:
    """Call on from the worker."""
    return await run(journal, call)


async def main(directory: str, journal_path: str) -> None:
    journal, outcomes, counted = Journal(Path(journal_path)), dict[str, object](), 0
    here = Path(directory)
    credentials = wool.CredentialFiles(
        ca_path=str(here / "ca.pem"), key_path=str(here / "caller.key"), cert_path=str(here / "caller.pem")
    )
    loop = asyncio.get_running_loop()
    lines = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
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

    async with wool.WorkerPool(discovery=wool.LanDiscovery, credentials=credentials):
        print(json.dumps(await run(journal.path, "first")), flush=True)
        async with asyncio.TaskGroup() as group:
            for number in range(6):
                group.create_task(call_for_ever(number))
            while (line := (await lines.readline()).decode().strip()) != "stop":
                assert line == "", line
                ended = sum(outcome != "under way" for outcome in outcomes.values())
                print(json.dumps(ended - counted), flush=True)
                counted = ended
            stopping.set()
    failed = {call: outcome for call, outcome in outcomes.items() if not isinstance(outcome, int)}
    print(json.dumps([failed, sorted({outcome for outcome in outcomes.values() if isinstance(outcome, int)})]))


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
