"""The yardsticks, as the benchmarks use them: raw gRPC, an executor of processes, fresh interpreters."""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from bench import plain

ROOT = Path(__file__).parents[1]
GRPC_ALONE = "import grpc.aio"


class RawGrpc:
    """Two processes with an open stream between them."""

    async def __aenter__(self) -> Self:
        self._directory = tempfile.mkdtemp(prefix="wool-bench-")
        path = str(Path(self._directory) / "raw")
        self._server = await self._start("serve", path)
        self._client = await self._start("drive", path)
        return self

    async def _start(self, role: str, path: str) -> asyncio.subprocess.Process:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "bench.raw",
            role,
            path,
            cwd=ROOT,
            limit=64 * 1024 * 1024,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )
        assert process.stdout is not None
        if await process.stdout.readline() != b"ready\n":
            raise RuntimeError(f"the raw gRPC process to {role} did not start")
        return process

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for process in (self._client, self._server):
            assert process.stdin is not None
            process.stdin.close()
            await process.wait()
        shutil.rmtree(self._directory)

    async def _ask(self, what: str, amount: int) -> Any:
        assert self._client.stdin is not None and self._client.stdout is not None
        self._client.stdin.write(json.dumps([what, amount]).encode() + b"\n")
        return json.loads(await self._client.stdout.readline())

    async def ping_pong(self, times: int) -> list[float]:
        """Return the seconds that each round trip of 200 bytes took."""
        return list(await self._ask("ping", times))

    async def bulk(self, size: int) -> float:
        """Return the seconds that so many bytes took, there and back, in messages of 128 KiB."""
        return float(await self._ask("bulk", size))

    async def pipe(self, size: int) -> float:
        """Return the seconds that so many bytes took through a pipe."""
        return float(await self._ask("pipe", size))

    async def copy(self, size: int) -> float:
        """Return the seconds that one copy of so many bytes in memory took."""
        return float(await self._ask("copy", size))


class Executor:
    """`ProcessPoolExecutor` with two spawned processes, used from asyncio."""

    def __init__(self) -> None:
        self._pool = ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("spawn"))

    async def __aenter__(self) -> Self:
        await self.spin([1, 1])
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await asyncio.to_thread(self._pool.shutdown)

    async def nothing(self, times: int) -> float:
        """Return the seconds that so many calls took, gathered."""
        loop = asyncio.get_running_loop()
        began = time.perf_counter()
        await asyncio.gather(*(loop.run_in_executor(self._pool, plain.nothing) for _ in range(times)))
        return time.perf_counter() - began

    async def spin(self, amounts: list[int]) -> float:
        """Return the seconds that the amounts of work took, side by side."""
        loop = asyncio.get_running_loop()
        began = time.perf_counter()
        await asyncio.gather(*(loop.run_in_executor(self._pool, plain.spin, amount) for amount in amounts))
        return time.perf_counter() - began


def import_seconds(statement: str) -> float:
    """Return the seconds that a statement takes in a fresh interpreter, without the interpreter's own start."""
    program = f"import time; began = time.perf_counter(); {statement}; print(time.perf_counter() - began)"
    answer = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    return float(answer.stdout)


def two_bare_processes() -> tuple[float, float]:
    """Return the seconds until two new processes have imported gRPC, and then those until they have ended."""
    program = f"import sys; {GRPC_ALONE}; print('ready', flush=True); sys.stdin.read()"
    began = time.perf_counter()
    processes = [
        subprocess.Popen([sys.executable, "-c", program], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        for _ in range(2)
    ]
    for process in processes:
        assert process.stdout is not None
        process.stdout.readline()
    ready = time.perf_counter()
    for process in processes:
        assert process.stdin is not None
        process.stdin.close()
    for process in processes:
        with process:
            process.wait()
    return ready - began, time.perf_counter() - ready
