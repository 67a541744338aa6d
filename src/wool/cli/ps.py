"""``wool ps``: who is there, and how they are.

It follows a discovery for a while, and asks each worker that comes into view how it is, by a session that ends with
its handshake. It places no task, and costs a worker no more than a handshake.

Whatever a worker or a discovery says is shown and never believed: what could mean something to a terminal is escaped,
and who does not answer in time is shown as such.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import shutil
import signal
import sys
import time
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from typing import TypeAlias

from wool.cli.credentials import CREDENTIALS, credential_files
from wool.cli.settings import Option, Settings, seconds, switch
from wool.cli.ways import CALLER_FORMS, Way, caller_way
from wool.connection import Connection
from wool.credentials import CredentialFiles, secret_of
from wool.discovery.base import DiscoverySubscriberLike, WorkerMetadata
from wool.errors import RpcError
from wool.harmless import harmless
from wool.limits import Limits
from wool.runtime import current_runtime
from wool.statistics import Statistics
from wool.transport.base import Transport

OPTIONS: Sequence[Option] = (
    Option(name="discovery", convert=caller_way, metavar="HOW", help=f"how workers are found: {CALLER_FORMS}"),
    Option(name="wait", convert=seconds(), metavar="SECONDS", help="how long to look for workers (default: 0.5 for "
           "local and static, 3 for lan and dns)"),
    Option(name="timeout", convert=seconds(least=0.001, most=86_400), default=2.0, metavar="SECONDS",
           help="how long each worker has to answer (default: 2)"),
    Option(name="json", convert=switch, default=False, switch=True, help="print JSON, a list; with --watch, one a "
           "line"),
    Option(name="watch", convert=switch, default=False, switch=True, help="go on, until Ctrl-C"),
    Option(name="interval", convert=seconds(least=0.1), default=2.0, metavar="SECONDS", help="how often to ask, with "
           "--watch (default: 2)"),
    *CREDENTIALS,
)  # fmt: skip

WAIT_SECONDS = {"local": 0.5, "static": 0.5, "lan": 3.0, "dns": 3.0}

FAILED = 1
TERMINATED = 128 + signal.SIGTERM


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One worker, and what it said, or why it did not."""

    metadata: WorkerMetadata
    statistics: Statistics | None = None
    asked_at: float = 0.0
    """When it answered, in seconds since the epoch."""
    why: str = ""
    """Why it is not known how it is; empty if it answered."""

    @property
    def status(self) -> str:
        """``up``, ``draining`` or ``unreachable``."""
        if self.why:
            return "unreachable"
        return "draining" if self.statistics is not None and self.statistics.draining else "up"

    @property
    def up_since(self) -> str | None:
        """When it was started, by this host's clock, in UTC; None if it does not say."""
        if self.statistics is None:
            return None
        # Years beyond what a calendar holds are what a worker can claim, too.
        with contextlib.suppress(ValueError, OverflowError, OSError):
            since = datetime.fromtimestamp(self.asked_at - self.statistics.up_milliseconds / 1000, UTC)
            return since.isoformat(timespec="seconds")
        return None

    def to_json(self) -> dict[str, object]:
        """Return all that is known."""
        known, said = self.metadata, self.statistics
        return {
            "uid": known.uid or None,
            "address": known.address,
            "pid": known.pid or None,
            "version": known.version or None,
            "tags": sorted(known.tags),
            "extra": dict(known.extra),
            "secure": known.secure,
            "status": self.status,
            "why": self.why or None,
            **{name: None if said is None else getattr(said, name) for name in SHOWN},
            "up_since": self.up_since,
        }

    def cells(self) -> list[str]:
        """Return what stands in the table."""
        known, said = self.metadata, self.statistics
        counts = ["-"] * 4 if said is None else list(map(str, (said.in_flight, said.done, said.failed, said.lost)))
        return [
            known.uid[:8] or "-",
            known.address,
            ",".join(sorted(known.tags)) or "-",
            known.version or "-",
            self.status,
            *counts,
            *strain(said),
            self.up_since or "-",
        ]


HEADINGS = (
    *("UID", "ADDRESS", "TAGS", "VERSION", "STATUS"),
    *("IN-FLIGHT", "DONE", "FAILED", "LOST", "LAG", "MEMORY", "UP SINCE"),
)
DISPENSABLE = (
    *("VERSION", "UP SINCE", "UP", "LOST", "DONE", "FAILED", "TAGS", "MEMORY", "ADDRESS"),
    *("LAG", "FAILED/S", "DONE/S"),
)
"""What is left out of a table that is wider than the terminal, first the first; the others stay."""
ADDRESS_CHARACTERS = 21
"""What is left of an address before columns are left out: as much as one of IPv4 has, with its port."""
SHOWN = tuple(field.name for field in fields(Statistics) if field.name not in ("up_milliseconds", "draining"))
"""What the record says that JSON says too; the others are in ``up_since`` and ``status``."""


def strain(said: Statistics | None) -> tuple[str, str]:
    """Return the loop's lag and the memory of a worker, in words; a worker of an older version says neither."""
    if said is None or not said.memory_bytes:
        return "-", "-"
    lag = said.loop_lag_microseconds
    memory = said.memory_bytes / 2**20
    return (
        f"{lag / 1000:.1f}ms" if lag < 1_000_000 else f"{lag / 1_000_000:.1f}s",
        f"{memory:.0f}M" if memory < 10_000 else f"{memory / 1024:.0f}G",
    )


def table(rows: Sequence[Row], most: int | None = None) -> str:
    """Return the rows as a table, and below it why who did not answer did not. See `columns` of ``most``."""
    return "\n".join([*columns(HEADINGS, [row.cells() for row in rows], most), *reasons(rows)]) + "\n"


def columns(headings: Sequence[str], rows: Iterable[Sequence[str]], most: int | None = None) -> list[str]:
    """Return the lines of a table. Where they may have ``most`` characters, addresses are cut and columns left out."""
    lines = [list(headings), *([harmless(cell) for cell in row] for row in rows)]
    if most is not None:
        lines = _fitted(lines, most)
    widths = _widths(lines)
    return ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines]


def _widths(lines: Sequence[Sequence[str]]) -> list[int]:
    return [max(map(len, column)) for column in zip(*lines, strict=True)]


def _fitted(lines: list[list[str]], most: int) -> list[list[str]]:
    """Make a table narrower until it fits, or has only what a person cannot do without."""
    headings = lines[0]
    over = sum(_widths(lines)) + 2 * (len(headings) - 1) - most
    if over > 0:
        place = headings.index("ADDRESS")
        width = max(ADDRESS_CHARACTERS, _widths(lines)[place] - over)
        for line in lines:
            if len(line[place]) > width:  # its end tells more: a port, the name of a socket
                line[place] = "…" + line[place][1 - width :]
    for name in DISPENSABLE:
        if sum(_widths(lines)) + 2 * (len(lines[0]) - 1) <= most:
            break
        if name in lines[0]:
            place = lines[0].index(name)
            lines = [[*line[:place], *line[place + 1 :]] for line in lines]
    return lines


def reasons(rows: Iterable[Row]) -> list[str]:
    """Return a line for each worker of which it is not known how it is."""
    return [f"{called(row)}: {harmless(row.why.removeprefix(f'{row.metadata.address}: '))}" for row in rows if row.why]


def called(row: Row) -> str:
    """Return what a worker is called: by its uid, or where it is if that is not known."""
    return harmless(row.metadata.uid[:8] or row.metadata.address)


def run(settings: Settings) -> int:
    """Run the command; return its exit status. Raises `SettingError`."""
    show = _show_json if settings["json"] else _show_table
    if settings["watch"]:
        show = _each_line if settings["json"] else _show_screen
    return look("ps", settings, show, settings["interval"] if settings["watch"] else None)


def look(
    command: str,
    settings: Settings,
    show: Show,
    interval_seconds: float | None,
    around: AbstractContextManager[None] | None = None,
) -> int:
    """Show who is there, once or for ever; return the exit status. Raises `SettingError`.

    ``around`` is entered while there is something to show; what went wrong is said when it has been left. SIGTERM
    ends it as Ctrl-C does: nothing is left where it has looked.
    """
    way: Way | None = settings["discovery"]
    if way is None:
        raise settings.error("discovery", f"must be said: {CALLER_FORMS}")
    try:
        subscriber = way.open().subscriber
    except (ValueError, ModuleNotFoundError) as error:
        raise settings.error("discovery", error) from None
    wait = settings["wait"]
    looking = Look(
        subscriber,
        wait_seconds=WAIT_SECONDS[way.kind] if wait is None else wait,
        timeout_seconds=settings["timeout"],
        credentials=credential_files(settings),
    )
    try:
        with _ended_by_sigterm(), around or contextlib.nullcontext():
            asyncio.run(looking.run(show, interval_seconds))
        for trouble in getattr(subscriber, "troubles", ()):
            if not trouble.startswith("AAAA "):  # most networks have none, and that is no trouble
                sys.stderr.write(f"wool {command}: {harmless(trouble)}\n")
    except BrokenPipeError:
        raise
    except Terminated:
        return TERMINATED
    except (OSError, EOFError, RuntimeError, ValueError, ExceptionGroup) as error:
        words = str(error) or type(error).__name__
        if isinstance(error, (EOFError, ValueError)):  # what is no table of workers any more, say
            words = f"discovery {way} has failed: {words}"
        sys.stderr.write(f"wool {command}: error: {harmless(words)}\n")
        return FAILED
    return 0


class Terminated(KeyboardInterrupt):
    """SIGTERM has come."""


@contextlib.contextmanager
def _ended_by_sigterm() -> Generator[None, None, None]:
    def end(number: int, frame: object) -> None:
        raise Terminated

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _show_table(rows: Sequence[Row]) -> None:
    sys.stdout.write(table(rows))
    sys.stdout.flush()


def _show_screen(rows: Sequence[Row]) -> None:
    if sys.stdout.isatty():
        sys.stdout.write("\x1b[H\x1b[2J")
        size = shutil.get_terminal_size()
        lines = table(rows, size.columns).splitlines()[: max(1, size.lines - 1)]
        sys.stdout.write("".join(f"{line[: size.columns]}\n" for line in lines))
        sys.stdout.flush()
    else:
        _show_table(rows)


def _show_json(rows: Sequence[Row]) -> None:
    sys.stdout.write(json.dumps([row.to_json() for row in rows], indent=2) + "\n")
    sys.stdout.flush()


def _each_line(rows: Sequence[Row]) -> None:
    sys.stdout.write(json.dumps([row.to_json() for row in rows]) + "\n")
    sys.stdout.flush()


Show: TypeAlias = Callable[[Sequence[Row]], None]
"""Is given who is there and how they are, each time that all were asked."""


class Look:
    """Follows a discovery, and asks who is in view."""

    def __init__(
        self,
        subscriber: DiscoverySubscriberLike,
        *,
        wait_seconds: float,
        timeout_seconds: float,
        credentials: CredentialFiles | None = None,
    ) -> None:
        self._subscriber = subscriber
        self._wait_seconds = wait_seconds
        self._runtime = current_runtime()
        self._credentials = credentials
        self._limits: Limits = dataclasses.replace(self._runtime.limits, handshake_seconds=timeout_seconds)
        self._turn = asyncio.Semaphore(self._limits.asked)
        self._known: dict[str, WorkerMetadata] = {}

    async def run(self, show: Show, interval_seconds: float | None) -> None:
        """Show who is there, once or for ever. Raises what the discovery raises."""
        transport = self._runtime.transport(self._limits, self._credentials)
        following = asyncio.create_task(self._follow(), name="wool following a discovery")
        try:
            await self._pause(following, self._wait_seconds)
            while True:
                show(await self._ask_all(transport))
                if interval_seconds is None:
                    return
                await self._pause(following, interval_seconds)
        finally:
            following.cancel()
            await asyncio.wait([following])
            await transport.close()

    @staticmethod
    async def _pause(following: asyncio.Task[None], duration_seconds: float) -> None:
        done, _ = await asyncio.wait([following], timeout=duration_seconds)
        if done:
            following.result()
            raise EOFError("the discovery has ended: nobody tells any more who comes and goes")

    async def _follow(self) -> None:
        events = self._subscriber.__aiter__()
        try:
            async for event in events:
                if event.type == "worker-dropped":
                    self._known.pop(event.metadata.key, None)
                else:
                    self._known[event.metadata.key] = event.metadata
        finally:
            close = getattr(events, "aclose", None)
            if close is not None:
                await close()

    async def _ask_all(self, transport: Transport) -> list[Row]:
        rows = await asyncio.gather(*(self._ask(transport, metadata) for metadata in list(self._known.values())))
        return sorted(_once_each(rows), key=lambda row: (row.metadata.address, row.metadata.uid))

    async def _ask(self, transport: Transport, metadata: WorkerMetadata) -> Row:
        runtime = self._runtime
        async with self._turn:
            try:
                connection = await Connection.open(
                    transport=transport,
                    address=metadata.address,
                    expects=metadata.uid,
                    secret=runtime.user_key() if self._credentials is None else secret_of(self._credentials),
                    caller=runtime.uid,
                    pool=b"",
                    limits=self._limits,
                    random_bytes=runtime.random_bytes,
                    secure=self._credentials is not None,
                )
            except RpcError as error:
                return Row(metadata=metadata, why=str(error))
            asked_at = time.time()
            await connection.decline("it was only asked how it is")
        if not metadata.uid:
            metadata = dataclasses.replace(connection.metadata, address=metadata.address)
        return Row(metadata=metadata, statistics=connection.statistics, asked_at=asked_at)


def _once_each(rows: Iterable[Row]) -> list[Row]:
    """A worker that was found at two of its addresses is one worker."""
    found: dict[str, Row] = {}
    for row in rows:
        found.setdefault(row.metadata.key, row)
    return list(found.values())
