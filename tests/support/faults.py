"""What fault tests share: the journal of executions, waiting for a condition, stopping processes."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import wool
from wool.balancer import WorkerStatus
from wool.pool import WorkerPool, WorkerProxy
from wool.task import Task

PATIENCE_SECONDS = 20.0
"""For what is not a promise about time: a loaded machine may take as long as it likes."""
POLL_SECONDS = 0.01


class Journal:
    """The append-only file in which `support.traced` note what happens."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)
        self._calls = 0

    def new_call(self) -> str:
        """Mint the id of a call."""
        self._calls += 1
        return f"call-{self._calls}"

    def lines(self) -> list[list[str]]:
        with contextlib.suppress(FileNotFoundError):
            return [line.split() for line in Path(self.path).read_text().splitlines()]
        return []

    def pids(self, what: str, call: str) -> list[int]:
        """The processes in which ``what`` happened to ``call``, once for each time."""
        return [int(words[-1]) for words in self.lines() if words[:2] == [what, call]]

    def executions(self, call: str) -> int:
        """How often the body of ``call`` has begun."""
        return len(self.pids("begin", call))

    async def appears(self, what: str, call: str, seconds: float = PATIENCE_SECONDS) -> int:
        """Wait until ``what`` has happened to ``call``; return in which process."""
        await until(lambda: bool(self.pids(what, call)), seconds, f"{what} {call}")
        return self.pids(what, call)[0]


def a_refused_call_waits(pool: wool.WorkerPool) -> bool:
    """Whether a call that a worker has not taken waits for who may still be found."""
    opened = pool.open_dispatcher
    return opened is not None and any(call.tried for call in opened._proxy._lookout.waiting)


async def until(condition: Callable[[], bool], seconds: float = PATIENCE_SECONDS, what: str = "it") -> float:
    """Wait for ``condition``; return how many seconds it took."""
    began = time.monotonic()
    while not condition():
        assert time.monotonic() - began < seconds, f"waited {seconds} s in vain for {what}"
        await asyncio.sleep(POLL_SECONDS)
    return time.monotonic() - began


def is_alive(pid: int) -> bool:
    """Whether the process exists and is no zombie."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    return not Path("/proc/self").exists()


def freeze(pid: int) -> None:
    """Stop the process; return when each of its threads stands still."""
    os.kill(pid, signal.SIGSTOP)
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not _stands_still(pid):
        assert time.monotonic() < deadline, f"process {pid} does not stop"
        time.sleep(POLL_SECONDS / 10)


def _stands_still(pid: int) -> bool:
    threads = list(Path(f"/proc/{pid}/task").glob("*/stat"))
    if not threads:
        time.sleep(10 * POLL_SECONDS)  # no /proc here: it takes far less
        return True
    return all(thread.read_text().rpartition(")")[2].split()[0] == "T" for thread in threads)


def thaw(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGCONT)


@contextlib.contextmanager
def frozen(*pids: int) -> Iterator[None]:
    """Stop processes, and let them go on in the end."""
    for pid in pids:
        freeze(pid)
    try:
        yield
    finally:
        for pid in pids:
            thaw(pid)


def kill(*pids: int) -> None:
    for pid in pids:
        os.kill(pid, signal.SIGKILL)


class InOrder:
    """Tries workers in the order of these tags, always."""

    def __init__(self, *tags: str) -> None:
        self.tags = tags

    def order(self, task: Task, workers: Sequence[WorkerStatus]) -> Iterable[WorkerStatus]:
        return sorted(
            workers, key=lambda status: next(i for i, tag in enumerate(self.tags) if tag in status.metadata.tags)
        )


class OneAtATime:
    """Tries the worker with this process id first."""

    def __init__(self) -> None:
        self.first = 0

    def order(self, task: Task, workers: Sequence[WorkerStatus]) -> Iterable[WorkerStatus]:
        return sorted(workers, key=lambda status: status.metadata.pid != self.first)

    def __reduce__(self) -> tuple[Any, ...]:
        return (OneAtATime, ())


def statuses(pool: WorkerPool | WorkerProxy) -> dict[int, WorkerStatus]:
    """What the pool knows of each worker, by process id."""
    dispatcher = pool.open_dispatcher
    assert dispatcher is not None
    return {status.metadata.pid: status for status in dispatcher._proxy.workers()}


def started(pool: WorkerPool | WorkerProxy) -> int:
    """How many calls the pool has said start of, whose end it has not heard."""
    dispatcher = pool.open_dispatcher
    assert dispatcher is not None
    connections = list(dispatcher._proxy._by_connection)
    return sum(call.machine.started is not None for connection in connections for call in connection.calls())


def is_suspect(pool: WorkerPool | WorkerProxy, pid: int) -> bool:
    """Whether the worker was found silent or lost, and has not been heard since."""
    status = statuses(pool).get(pid)
    return status is None or status.suspect


@contextlib.asynccontextmanager
async def workers(*tags: str, host: str | None = None) -> AsyncIterator[list[wool.LocalWorker]]:
    """Run one worker per tag; they are killed in the end, since here they are often in no state to stop."""
    started = [wool.LocalWorker(tag, host=host) for tag in tags]
    try:
        async with asyncio.TaskGroup() as group:
            for worker in started:
                group.create_task(worker.start())
        yield started
    finally:
        for worker in started:
            with contextlib.suppress(RuntimeError, ProcessLookupError):
                kill(worker.metadata.pid)
        for worker in started:
            await worker.stop(drain_seconds=0)
