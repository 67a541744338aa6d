"""Stream a large file through a worker: nothing is ever held as a whole, and nobody runs ahead.

    python examples/stream_file.py FILE PATTERN

prints the lines of FILE in which PATTERN stands, while the worker reads. Without arguments it searches itself.
"""

import asyncio
import contextlib
import re
import sys
from collections.abc import AsyncGenerator
from pathlib import Path

import wool


@wool.routine
async def search(path: Path, pattern: str) -> AsyncGenerator[tuple[int, str], None]:
    wanted = re.compile(pattern)
    with path.open(errors="replace") as lines:
        for number, line in enumerate(lines, 1):
            if wanted.search(line):
                # The worker goes on when the consumer asks for more, not before.
                yield number, line.rstrip("\n")


async def main(path: Path, pattern: str, most: int = 3) -> None:
    async with wool.WorkerPool(size=1), contextlib.aclosing(search(path, pattern)) as found:
        async for number, line in found:
            print(f"{number}: {line}")
            most -= 1
            if not most:
                break  # and the file on the worker is closed before the next line runs here


if __name__ == "__main__":
    if len(sys.argv) == 3:
        asyncio.run(main(Path(sys.argv[1]), sys.argv[2]))
    else:
        asyncio.run(main(Path(__file__).resolve(), r"^import"))
