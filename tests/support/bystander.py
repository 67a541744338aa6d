"""A caller in a process of its own: ``python -m support.bystander MODE JOURNAL METADATA…``.

It may be stopped and killed without harm to the test. It notes in the journal what it sees.
"""

from __future__ import annotations

import asyncio
import sys

import wool
from support.traced import count_up, note, run_until, upload

BULK_BYTES = 32 * 1024 * 1024


async def main(mode: str, journal: str, *workers: str) -> None:
    metadata = [wool.WorkerMetadata.from_bytes(worker.encode()) for worker in workers]
    async with wool.WorkerProxy(workers=metadata):
        if mode == "idle":
            items = count_up(journal, mode)
            await anext(items)
            note(journal, "ready", mode)
            await asyncio.sleep(3600)
        open_call = asyncio.create_task(run_until(journal, mode, "/nowhere"))
        if mode == "bulk":
            data = bytes(BULK_BYTES)
            await upload(journal, "bulk-upload", data)
            note(journal, "ready", mode)
            while True:
                await upload(journal, "bulk-upload", data)
        note(journal, "ready", mode)
        await open_call


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
