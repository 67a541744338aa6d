"""Pools begin, live beside each other and end: with their block, with their owner, and leaving nothing."""

from __future__ import annotations

import asyncio
import functools
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import wool
from support.faults import (
    InOrder,
    Journal,
    OneAtATime,
    freeze,
    is_alive,
    is_suspect,
    started,
    statuses,
    thaw,
    until,
    workers,
)
from support.scripts import How, Place, assert_vanish, user_place
from support.traced import block, count_up, run, run_nested, run_nested_when, run_until
from wool.limits import Limits
from wool.runtime import real_runtime, set_runtime


@pytest.fixture
def place() -> Iterator[Place]:
    with user_place() as made:
        yield made


@pytest.fixture
def here(place: Place, monkeypatch: pytest.MonkeyPatch) -> Place:
    """Let this process live in the place, too."""
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(place.runtime))
    monkeypatch.setenv("TMPDIR", str(place.temporary))
    return place


def pids(pool: wool.WorkerPool) -> list[int]:
    return [worker.pid for worker in pool.workers]


# ---- wherever Python runs ----------------------------------------------------------------------------

QUICK_START = """
import asyncio
import wool

@wool.routine
async def add(x: int, y: int) -> int:
    return x + y

async def main():
    async with wool.WorkerPool(size=2):
        print(await add(1, 2))

asyncio.run(main())
"""

TOP_LEVEL_AWAIT = """
import wool
@wool.routine
async def add(x: int, y: int) -> int:
    return x + y

# %%
async with wool.WorkerPool(size=2):
    print("sum", await add(1, 2))

# %%
FACTOR = 10
@wool.routine
async def count(stop: int):
    for number in range(stop):
        yield FACTOR * number

# %%
async with wool.WorkerPool(size=1):
    print("items", [item async for item in count(await add(1, 2))])

# %%
FACTOR = 100
async with wool.WorkerPool(size=1):
    print("items", [item async for item in count(await add(1, 2))])

"""
SAID = ["sum 3", "items [0, 10, 20]", "items [0, 100, 200]"]


@pytest.mark.parametrize("how", ["file", "stdin", "command"])
def test_the_quick_start_runs_without_a_main_guard(how: How, place: Place) -> None:
    assert place.run(QUICK_START, how) == "3\n"
    assert place.left() == []


# The asyncio REPL of 3.13.0 itself takes no block of several lines from a pipe: it reports an IndentationError.
@pytest.mark.parametrize("how", ["repl", "notebook"] if sys.version_info < (3, 13) else ["notebook"])
def test_routines_run_where_await_stands_at_the_top_level(how: How, place: Place) -> None:
    output = place.run(TOP_LEVEL_AWAIT, how)
    assert [line.strip(">. ") for line in output.splitlines() if line.strip(">. ")] == SAID
    assert place.left() == []


RUN_NOTEBOOK = """
import asyncio, pathlib
import nbformat
from nbclient import NotebookClient

cells = pathlib.Path({cells!r}).read_text().split("# %%")
notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
NotebookClient(notebook, timeout=60, kernel_name="python3").execute()
for cell in notebook.cells:
    for output in cell.outputs:
        print(output.text, end="")
"""


def test_routines_run_in_a_notebook(place: Place) -> None:
    cells = place.app / "cells.txt"
    cells.write_text(TOP_LEVEL_AWAIT)
    assert place.run(RUN_NOTEBOOK.format(cells=str(cells))).splitlines() == SAID
    assert [name for name in place.left() if "wool" in name] == []


def test_modules_beside_the_script_and_the_working_directory_are_the_users(place: Place) -> None:
    (place.app / "beside.py").write_text(
        "import os, sys, wool\n"
        "@wool.routine\n"
        "async def where(): return os.getcwd(), __name__, os.environ.get('PYTHONPATH'), sys.path[0]\n"
    )
    output = place.run(
        "import asyncio, os, sys, wool\nfrom beside import where\n"
        "async def main():\n"
        "    async with wool.WorkerPool(size=1):\n"
        "        assert await where() == (os.getcwd(), 'beside', os.environ['PYTHONPATH'], sys.path[0])\n"
        "        print(os.getcwd())\n"
        "asyncio.run(main())\n"
    )
    assert output == f"{place.home}\n"


def test_the_arguments_that_a_routine_sees_are_the_programs(place: Place) -> None:
    output = place.run(
        "import asyncio, sys, wool\n"
        "sys.argv.append('--verbose')\n"
        "@wool.routine\n"
        "async def arguments(): return sys.argv\n"
        "async def main():\n"
        "    async with wool.WorkerPool(size=1):\n"
        "        assert await arguments() == sys.argv\n"
        "        print(sys.argv[1:])\n"
        "asyncio.run(main())\n"
    )
    assert output == "['--verbose']\n"


# ---- the end -----------------------------------------------------------------------------------------

TIDY = """
import asyncio, atexit, logging, sys, tempfile, time
import wool

@wool.routine
async def register(seconds):
    global scratch
    scratch = tempfile.TemporaryDirectory()  # removed at exit
    atexit.register(lambda: print("this is the end", flush=True))
    atexit.register(lambda: 1 / 0)
    atexit.register(time.sleep, seconds)
    return scratch.name

async def main(seconds):
    if seconds:
        wool.runtime.set_runtime(wool.runtime.real_runtime(limits=wool.limits.Limits(stop_seconds=0.5)))
    async with wool.WorkerPool(size=1) as pool:
        await register(seconds)
        began = time.monotonic()
    return time.monotonic() - began
"""


def test_what_a_body_has_registered_for_the_exit_runs_when_its_worker_ends(place: Place) -> None:
    with place.start(TIDY + "\nasyncio.run(main(0))\n") as process:
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 0
    assert "this is the end" in errors
    assert "ZeroDivisionError" in errors  # said, and nothing else comes of it
    assert place.left() == []


def test_what_a_body_has_registered_for_the_exit_does_not_hold_the_pools(place: Place) -> None:
    place.run("import wool.limits, wool.runtime\n" + TIDY + "\nassert asyncio.run(main(60)) < 10\n")


OWNER = """
import asyncio, os, signal, sys, time
import wool

def note(*words):
    with open(os.environ["JOURNAL"], "a") as journal:
        journal.write(" ".join(words) + "\\n")

@wool.routine
async def work():
    note("begin")
    try:
        await asyncio.sleep(3600)
    finally:
        note("finally")

@wool.routine
async def ping():
    return os.getpid()

async def main():
    async with wool.WorkerPool(size=2) as pool:
        await asyncio.gather(*(ping() for _ in range(4)))
        task = asyncio.create_task(work())
        while not os.path.exists(os.environ["JOURNAL"]):
            await asyncio.sleep(0.01)
        print(*(worker.pid for worker in pool.workers), flush=True)
        {end}

{run}
"""
RUN = "asyncio.run(main())"


@pytest.mark.parametrize(
    ("end", "status"),
    [
        ("pass", 0),
        ("raise LookupError('in the block')", 1),
        ("sys.exit(5)", 5),
        ("task.cancel()", 0),
        ("await task", -signal.SIGINT),
    ],
    ids=["with the pool", "with an exception in its block", "with an exit", "with its task", "with Ctrl-C"],
)
def test_workers_end_and_nothing_is_left(end: str, status: int, place: Place) -> None:
    with place.running(OWNER.format(end=end, run=RUN)) as (owner, workers_of_owner):
        if status < 0:
            owner.send_signal(-status)
        _, errors = owner.communicate(timeout=30)
        assert owner.returncode == status, errors
    assert not any(map(is_alive, workers_of_owner))
    assert place.left() == []
    assert place.journal.read_text() == "begin\nfinally\n"
    assert "Task was destroyed" not in errors


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGHUP, signal.SIGABRT])
def test_workers_end_with_an_owner_that_is_killed_and_the_next_start_cleans_up(
    number: signal.Signals, place: Place
) -> None:
    with place.running(OWNER.format(end="await task", run=RUN)) as (owner, workers_of_owner):
        owner.send_signal(number)
        owner.communicate(timeout=30)
        assert owner.returncode == -number
    assert_vanish(workers_of_owner)
    place.journal.unlink()
    assert place.run(QUICK_START) == "3\n"
    assert place.left() == []


def test_an_owner_that_leaves_without_a_word_takes_its_workers_along(place: Place) -> None:
    with place.running(OWNER.format(end="os._exit(7)", run=RUN)) as (owner, workers_of_owner):
        owner.communicate(timeout=30)
        assert owner.returncode == 7
    assert_vanish(workers_of_owner)
    assert place.run(QUICK_START) == "3\n"
    assert place.left() == []


def test_an_owner_that_forgets_to_close_its_pool_takes_its_workers_along(place: Place) -> None:
    forgetful = """
loop = asyncio.new_event_loop()
pool = wool.WorkerPool(size=2)
loop.run_until_complete(pool.__aenter__())
print(*(worker.pid for worker in pool.workers), flush=True)
"""
    with place.running(OWNER.format(end="pass", run=forgetful)) as (owner, workers_of_owner):
        owner.communicate(timeout=30)
        assert owner.returncode == 0
    assert_vanish(workers_of_owner)
    assert place.run(QUICK_START) == "3\n"
    assert place.left() == []


# ---- a worker that does not start --------------------------------------------------------------------


def customize(place: Place, monkeypatch: pytest.MonkeyPatch, program: str, *, only_one: bool = False) -> None:
    """Let ``program`` run first in workers, and in nothing else; ``only_one``: in one of them."""
    guard = "'wool.worker' in sys.orig_argv"
    if only_one:
        guard += f" and not os.path.exists({str(place.app / 'one')!r}) and not os.mkdir({str(place.app / 'one')!r})"
    lines = "".join(f"    {line}\n" for line in program.splitlines())
    (place.app / "sitecustomize.py").write_text(f"import os, sys, time\nif {guard}:\n{lines}")
    monkeypatch.syspath_prepend(place.app)


@pytest.mark.parametrize(
    ("program", "words"),
    [
        ("print('no licence for', 'this machine')\nos._exit(3)", ["exit status 3", "no licence for this machine"]),
        ("print('gone')\nos.kill(os.getpid(), 9)", ["killed by SIGKILL", "gone"]),
        ("sys.modules['grpc'] = None", ["exit status 1", "import of grpc halted"]),
        (
            "import resource\nresource.setrlimit(resource.RLIMIT_NOFILE, (7, 7))",
            ["Too many open files"],
        ),
        (
            "import resource, threading\nresource.setrlimit(resource.RLIMIT_AS, (2**26, 2**26))",
            ["worker process", "did not start"],
        ),
    ],
    ids=["exits", "is killed", "cannot import", "has no descriptors", "has no memory"],
)
async def test_a_worker_that_fails_to_start_fails_the_entry_with_its_own_words(
    program: str, words: list[str], here: Place, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    customize(here, monkeypatch, program, only_one=True)
    with pytest.raises(wool.WorkerStartError) as caught:
        async with wool.WorkerPool(size=3):
            pytest.fail("entered")
    for word in words:
        assert word in str(caught.value)
    assert here.left() == []
    async with wool.WorkerPool(size=1) as pool:
        assert len(pool.workers) == 1
    assert here.left() == []
    capsys.readouterr()


async def test_a_worker_that_is_not_ready_in_time_fails_the_entry(here: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    set_runtime(real_runtime(limits=Limits(worker_start_seconds=2.0)))
    customize(here, monkeypatch, "print('looking for a GPU', flush=True)\ntime.sleep(600)")
    began = time.monotonic()
    with pytest.raises(wool.WorkerStartError, match="worker_start_seconds") as caught:
        await wool.WorkerPool(size=1).__aenter__()
    assert "looking for a GPU" in str(caught.value)
    assert time.monotonic() - began < 2.0 + 5.0
    assert here.left() == []


async def test_a_cancelled_entry_leaves_nothing(here: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    customize(here, monkeypatch, f"open({str(here.journal)!r}, 'a').write(f'{{os.getpid()}}\\n')\ntime.sleep(600)")
    entry = asyncio.create_task(wool.WorkerPool(size=2).__aenter__())
    await until(lambda: here.journal.exists() and len(here.journal.read_text().split()) == 2)
    started = [int(word) for word in here.journal.read_text().split()]
    entry.cancel()
    with pytest.raises(asyncio.CancelledError):
        await entry
    assert not any(map(is_alive, started))
    assert here.left() == []


async def test_an_entry_that_is_cancelled_as_it_begins_does_not_wait_for_the_workers(
    here: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    customize(here, monkeypatch, "time.sleep(600)")
    for turns in range(5):
        entry = asyncio.create_task(wool.WorkerPool(size=1).__aenter__())
        for _ in range(turns):
            await asyncio.sleep(0)
        entry.cancel()
        with pytest.raises(asyncio.CancelledError):
            async with asyncio.timeout(10):
                await entry
        assert here.left() == []


async def test_what_a_worker_leaves_no_room_for_is_said_at_the_entry(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    deep = place.runtime / ("d" * 60)
    deep.mkdir(mode=0o700)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(deep))
    with pytest.raises(OSError, match="set XDG_RUNTIME_DIR to a shorter directory"):
        await wool.WorkerPool(size=1).__aenter__()
    assert list(deep.iterdir()) == []


# ---- several -----------------------------------------------------------------------------------------


async def test_pools_nest_and_the_innermost_is_current(journal: Journal) -> None:
    async def where() -> set[int]:
        return set(await asyncio.gather(*(run(journal.path, journal.new_call()) for _ in range(4))))

    async with wool.WorkerPool(size=2) as outer:
        assert await where() == set(pids(outer))
        async with wool.WorkerPool(size=1) as inner:
            assert await where() == set(pids(inner))
            assert not set(pids(inner)) & set(pids(outer))
        assert await where() == set(pids(outer))
    with pytest.raises(RuntimeError, match="outside a pool"):
        await where()


async def test_pools_live_side_by_side_in_tasks_of_one_loop(journal: Journal) -> None:
    async def use(size: int) -> tuple[set[int], set[int]]:
        async with wool.WorkerPool(size=size) as pool:
            entered[size].set()
            for other in entered.values():
                await other.wait()
            calls = [run(journal.path, journal.new_call()) for _ in range(20)]
            return set(await asyncio.gather(*calls)), set(pids(pool))

    entered = {1: asyncio.Event(), 2: asyncio.Event()}
    for where, own in await asyncio.gather(*map(use, entered)):
        assert where == own


def test_pools_live_on_one_loop_after_another(journal: Journal) -> None:
    async def use() -> int:
        async with wool.WorkerPool(size=1) as pool:
            assert await run(journal.path, journal.new_call()) == pids(pool)[0]
            return pids(pool)[0]

    assert len({asyncio.run(use()) for _ in range(3)}) == 3


def test_pools_live_in_two_threads(journal: Journal) -> None:
    def use() -> None:
        async def main() -> None:
            async with wool.WorkerPool(size=1) as pool:
                for _ in range(3):
                    await asyncio.to_thread(together.wait)
                    calls = [run(journal.path, f"{threading.get_ident()}") for _ in range(50)]
                    assert set(await asyncio.gather(*calls)) == set(pids(pool))
            done.append(True)

        asyncio.run(main())

    together, done = threading.Barrier(2, timeout=30), list[bool]()
    threads = [threading.Thread(target=use) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert done == [True, True]


async def test_one_pool_serves_the_loops_of_several_threads(journal: Journal) -> None:
    async with wool.WorkerPool(size=1) as pool:

        async def use() -> int:
            return await run(journal.path, "elsewhere")

        assert await asyncio.to_thread(lambda: asyncio.run(use())) == pids(pool)[0]
        assert await run(journal.path, "here") == pids(pool)[0]


async def test_a_pool_may_be_left_in_another_task_than_it_was_entered_in(journal: Journal) -> None:
    pool = wool.WorkerPool(size=1)
    await asyncio.create_task(pool.__aenter__())
    [worker] = pids(pool)
    await asyncio.create_task(pool.__aexit__(None, None, None))
    assert not is_alive(worker)


async def test_a_pool_is_used_by_tasks_that_were_not_started_inside_it(journal: Journal) -> None:
    pool, outer = wool.WorkerPool(size=1), wool.WorkerPool(size=1)
    await asyncio.create_task(pool.__aenter__())

    async def handle(call: str) -> int:
        with pytest.raises(RuntimeError, match="outside a pool"):
            await run(journal.path, "before")
        with pool.use():
            return await run(journal.path, call)

    [worker] = pids(pool)
    assert (
        await asyncio.gather(*(asyncio.create_task(handle(f"request {number}")) for number in range(3))) == [worker] * 3
    )
    assert await asyncio.to_thread(lambda: asyncio.run(handle("of another loop"))) == worker
    async with outer:
        with pool.use(), pool.use():
            assert await run(journal.path, "inner") == worker
        assert await run(journal.path, "outer") == pids(outer)[0]
        with pool.use():
            await asyncio.create_task(pool.__aexit__(None, None, None))
            assert await run(journal.path, "left meanwhile") == pids(outer)[0]


async def test_only_an_open_pool_can_be_used() -> None:
    pool = wool.WorkerPool(size=1)
    with pytest.raises(RuntimeError, match="<WorkerPool of 1 closed> is closed: use it between"):
        pool.use()
    async with pool:
        used = pool.use()
    with pytest.raises(RuntimeError, match="outside a pool: <WorkerPool of 1 closed> is closed"), used:
        await run(Path("nowhere"), "late")


async def test_a_pool_that_is_left_takes_the_current_one_of_nobody_away(journal: Journal) -> None:
    outer, inner = wool.WorkerPool(size=1), wool.WorkerPool(size=1)
    await asyncio.create_task(outer.__aenter__())
    async with inner:
        [worker] = pids(inner)
        assert await run(journal.path, "before") == worker
        await outer.__aexit__(None, None, None)
        assert await run(journal.path, "after") == worker
    with pytest.raises(RuntimeError, match="outside a pool"):
        await run(journal.path, "outside")


async def test_pools_may_be_left_in_the_order_in_which_they_were_entered(journal: Journal) -> None:
    pools = [wool.WorkerPool(size=1) for _ in range(3)]
    workers_of: list[int] = []
    for pool in pools:
        await pool.__aenter__()
        workers_of += pids(pool)
    for pool in pools:
        assert await run(journal.path, "inside") == workers_of[-1]
        await pool.__aexit__(None, None, None)
    with pytest.raises(RuntimeError, match="outside a pool.* closed: call routines inside its 'async with' block"):
        await run(journal.path, "outside")


@pytest.mark.parametrize("order", [(0, 1, 2), (0, 2, 1), (1, 0, 2), (1, 2, 0), (2, 0, 1), (2, 1, 0)])
async def test_the_innermost_pool_that_is_open_is_current_in_whatever_order_they_are_left(
    order: tuple[int, ...], journal: Journal
) -> None:
    async with workers("0", "1", "2") as started:
        proxies = [wool.WorkerProxy(workers=[worker.metadata]) for worker in started]
        for proxy in proxies:
            await proxy.__aenter__()
        all_left = asyncio.Event()

        async def in_a_task_from_inside() -> int:
            await all_left.wait()
            return await run(journal.path, "task")

        tasks: list[asyncio.Task[int]] = []
        opened = [0, 1, 2]
        for left in order:
            assert await run(journal.path, "inside") == started[opened[-1]].metadata.pid
            task = asyncio.create_task(in_a_task_from_inside())
            await asyncio.sleep(0)
            tasks.append(task)
            await proxies[left].__aexit__(None, None, None)
            opened.remove(left)
            if opened:
                assert await run(journal.path, "inside") == started[opened[-1]].metadata.pid
        all_left.set()
        for outcome in await asyncio.gather(*tasks, return_exceptions=True):
            assert isinstance(outcome, RuntimeError)
            assert "is closed" in str(outcome)


async def test_a_task_from_inside_a_pool_that_is_left_goes_on_with_the_outer_one(journal: Journal) -> None:
    async def call_later() -> int:
        await left.wait()
        return await run(journal.path, "later")

    left = asyncio.Event()
    async with workers("outer", "inner") as [one, two]:
        async with wool.WorkerProxy(workers=[one.metadata]):
            async with wool.WorkerProxy(workers=[two.metadata]):
                task = asyncio.create_task(call_later())
                await asyncio.sleep(0)
            left.set()
            assert await task == one.metadata.pid


async def test_a_call_after_the_pool_says_that_it_is_closed(journal: Journal) -> None:
    async with wool.WorkerPool(size=1):
        pass
    with pytest.raises(RuntimeError, match=r"outside a pool: <WorkerPool of 1 closed> is closed"):
        await run(journal.path, "late")


async def test_a_pool_is_opened_once(journal: Journal) -> None:
    async with wool.WorkerPool(size=1) as pool:
        with pytest.raises(RuntimeError, match="opened before"):
            await pool.__aenter__()
        assert await run(journal.path, journal.new_call()) == pids(pool)[0]
    with pytest.raises(RuntimeError, match="opened before"):
        await pool.__aenter__()


# ---- the default size --------------------------------------------------------------------------------


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="there is nothing but the number of CPUs")
async def test_a_pool_without_a_size_has_a_worker_for_each_cpu_that_this_process_may_use(journal: Journal) -> None:
    allowed = os.sched_getaffinity(0)
    assert wool.WorkerPool().size == len(allowed)
    async with wool.WorkerPool("gpu", "large") as pool:
        assert len(pool.workers) == len(allowed)
        assert all(worker.tags == {"gpu", "large"} for worker in pool.workers)
        assert await run(journal.path, "call") in {worker.pid for worker in pool.workers}
    try:
        os.sched_setaffinity(0, {min(allowed)})
        assert wool.WorkerPool().size == 1
    finally:
        os.sched_setaffinity(0, allowed)


# ---- a load balancer of the user's -------------------------------------------------------------------


def in_this_order(*tags: str) -> InOrder:
    return InOrder(*tags)


def two_then_one() -> InOrder:
    return InOrder("two", "one")


class TwoThenOne(InOrder):
    def __init__(self) -> None:
        super().__init__("two", "one")


@pytest.mark.parametrize(
    "balancer",
    [
        InOrder("two", "one"),
        TwoThenOne,
        two_then_one,
        lambda: InOrder("two", "one"),
        functools.partial(in_this_order, "two", "one"),
        functools.partial(InOrder, "two", "one"),
    ],
    ids=["an object", "a class", "a function", "a lambda", "a partial function", "a partial class"],
)
async def test_a_load_balancer_is_an_object_or_whatever_makes_one(balancer: Any, journal: Journal) -> None:
    async with workers("one", "two") as [one, two]:
        known = [one.metadata, two.metadata]
        async with wool.WorkerProxy(workers=known, loadbalancer=balancer):
            for _ in range(3):
                assert await run(journal.path, "call") == two.metadata.pid
            # Bodies have it too.
            assert await run_nested(journal.path, "nested", 2) == [two.metadata.pid] * 3
    async with wool.WorkerPool("one", "two", size=1, loadbalancer=balancer) as pool:
        assert await run(journal.path, "call") == pool.workers[0].pid


async def test_a_load_balancers_factory_is_called_once_for_a_pool(journal: Journal) -> None:
    made: list[InOrder] = []

    def make() -> InOrder:
        made.append(InOrder("one"))
        return made[-1]

    async with wool.WorkerPool("one", size=1, loadbalancer=make):
        await run(journal.path, "call")
    assert len(made) == 1


# ---- fork --------------------------------------------------------------------------------------------

FORK = """
import asyncio, os, signal, warnings
import wool

warnings.simplefilter("ignore", DeprecationWarning)

@wool.routine
async def add(x, y):
    return x + y

async def attempt(pool, worker, proxy):
    signal.alarm(20)
    {attempt}
    print("no harm", flush=True)

async def main():
    async with wool.WorkerPool(size=1) as pool, wool.LocalWorker() as worker:
        async with wool.WorkerProxy(workers=[worker.metadata]) as proxy:
            assert await add(1, 2) == 3
            if (child := os.fork()) == 0:
                try:
                    asyncio.run(attempt(pool, worker, proxy))
                except RuntimeError as error:
                    print(f"refused: {{error}}", flush=True)
                os._exit(0)  # as multiprocessing does
            _, status = await asyncio.to_thread(os.waitpid, child, 0)
            print("child", os.waitstatus_to_exitcode(status))
            print(await add(3, 4))
        print(await add(5, 6))

asyncio.run(main())
"""


def fork(attempt: str, place: Place) -> str:
    """Let a forked process make an ``attempt``; return what it says, once its parent has been seen to be well."""
    with place.start(FORK.format(attempt=attempt)) as process:
        output, errors = process.communicate(timeout=40)
    word, *rest = output.splitlines()
    assert rest == ["child 0", "7", "11"]
    assert errors == ""
    assert place.left() == []
    return word


@pytest.mark.parametrize(
    "attempt",
    ["await add(1, 2)", "await wool.WorkerPool(size=1).__aenter__()", "await wool.LocalWorker().start()"],
    ids=["a call", "a new pool", "a new worker"],
)
def test_a_forked_process_is_refused(attempt: str, place: Place) -> None:
    for _ in range(3):
        word = fork(attempt, place)
        assert word.startswith("refused: process ")
        assert "was forked from" in word
        assert "spawn or exec" in word


@pytest.mark.parametrize(
    "attempt",
    ["await pool.__aexit__(None, None, None)", "await worker.stop()", "await proxy.__aexit__(None, None, None)"],
    ids=["pool", "worker", "proxy"],
)
def test_a_forked_process_cannot_close_what_is_its_parents(attempt: str, place: Place) -> None:
    assert fork(attempt, place) == "no harm"


def test_a_process_that_was_forked_before_anything_was_opened_may_open_a_pool(place: Place) -> None:
    forked_early = QUICK_START.replace("asyncio.run(main())", "os.fork() or asyncio.run(main())\nos.wait()")
    output = place.run("import os\n" + forked_early.replace("os.wait()", "try: os.wait()\nexcept OSError: pass"))
    assert output == "3\n"
    assert place.left() == []


# ---- calls at the end of the pool --------------------------------------------------------------------


async def test_calls_in_flight_at_the_exit_are_interrupted(journal: Journal) -> None:
    async with wool.WorkerPool(size=2):
        calls = [journal.new_call() for _ in range(6)]
        tasks = [asyncio.create_task(run_until(journal.path, call, "/nowhere")) for call in calls]
        for call in calls:
            await journal.appears("begin", call)
    for call, outcome in zip(calls, await asyncio.gather(*tasks, return_exceptions=True), strict=True):
        assert isinstance(outcome, wool.TaskInterrupted)
        assert outcome.executed == "yes"
        assert len(journal.pids("cancelled", call)) == 1


async def test_calls_that_nobody_has_started_at_the_exit_never_run(journal: Journal) -> None:
    async with wool.WorkerPool(size=1) as pool:
        await run(journal.path, journal.new_call())
        [worker] = pids(pool)
        freeze(worker)
        try:
            call = journal.new_call()
            task = asyncio.create_task(run(journal.path, call))
            await until(lambda: statuses(pool)[worker].in_flight == 1)
        finally:
            leaving = asyncio.create_task(pool.__aexit__(None, None, None))
            [outcome] = await asyncio.gather(task, return_exceptions=True)
            thaw(worker)
            await leaving
    assert type(outcome) is wool.NoWorkersAvailable
    assert "the pool was closed" in str(outcome)
    assert outcome.executed == "no"
    assert journal.executions(call) == 0


@pytest.mark.parametrize("how", ["next", "close", "forgotten"])
@pytest.mark.parametrize("beside", [False, True], ids=["the only pool", "beside another pool"])
def test_a_generator_that_outlives_its_pool_ends(
    how: str, beside: bool, journal: Journal, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        other = wool.WorkerPool(size=1)
        if beside:
            await other.__aenter__()
        async with wool.WorkerPool(size=1):
            items = count_up(journal.path, "items")
            assert await anext(items) == 0
        assert len(journal.pids("closed", "items")) == 1
        try:
            async with asyncio.timeout(10):
                if how == "next":
                    with pytest.raises(wool.TaskInterrupted):
                        await anext(items)
                elif how == "close":
                    await items.aclose()
        finally:
            if beside:
                await other.__aexit__(None, None, None)

    asyncio.run(main())
    assert journal.executions("items") == 1
    assert caplog.record_tuples == []


async def test_a_call_to_a_closed_pool_says_so(journal: Journal) -> None:
    async def call_later() -> int:
        await closed.wait()
        return await run(journal.path, journal.new_call())

    closed = asyncio.Event()
    async with wool.WorkerPool(size=1):
        task = asyncio.create_task(call_later())
        await asyncio.sleep(0)
    closed.set()
    with pytest.raises(RuntimeError, match="closed: call routines inside its 'async with' block"):
        await task


# ---- drain -------------------------------------------------------------------------------------------


async def test_a_worker_that_is_stopped_finishes_what_runs_and_new_calls_go_elsewhere(
    journal: Journal, tmp_path: Path
) -> None:
    balancer = OneAtATime()
    gate = tmp_path / "gate"
    async with workers("one", "two") as [one, two]:
        balancer.first = one.metadata.pid
        async with wool.WorkerProxy(workers=[one.metadata, two.metadata], loadbalancer=balancer) as proxy:
            running = asyncio.create_task(run_until(journal.path, "running", str(gate)))
            items = count_up(journal.path, "items")
            assert await anext(items) == 0
            assert await journal.appears("begin", "running") == one.metadata.pid
            stopping = asyncio.create_task(one.stop())
            await until(lambda: one.metadata.pid not in {status.metadata.pid for status in usable(proxy)})
            calls = [journal.new_call() for _ in range(10)]
            assert set(await asyncio.gather(*(run(journal.path, call) for call in calls))) == {two.metadata.pid}
            assert await anext(items) == 1
            assert not stopping.done()
            gate.touch()
            assert await running == one.metadata.pid
            assert await anext(items) == 2
            await items.aclose()
            await stopping
            assert not is_alive(one.metadata.pid)
            assert await run(journal.path, journal.new_call()) == two.metadata.pid


def usable(proxy: wool.WorkerProxy | wool.WorkerPool) -> list[wool.WorkerStatus]:
    dispatcher = proxy.open_dispatcher
    assert dispatcher is not None
    return [link.status for link in dispatcher._proxy._links.values() if link.usable]


async def test_a_worker_that_gets_sigterm_drains(journal: Journal, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    async with wool.WorkerPool(size=2) as pool:
        running = asyncio.create_task(run_until(journal.path, "running", str(gate)))
        draining = await journal.appears("begin", "running")
        os.kill(draining, signal.SIGTERM)
        await until(lambda: draining not in {status.metadata.pid for status in usable(pool)})
        where = await asyncio.gather(*(run(journal.path, journal.new_call()) for _ in range(10)))
        assert set(where) == set(pids(pool)) - {draining}
        assert is_alive(draining)
        gate.touch()
        assert await running == draining
        await until(lambda: not is_alive(draining))
        assert await run(journal.path, journal.new_call()) == where[0]


async def test_a_draining_worker_is_withdrawn_from_discovery(journal: Journal, tmp_path: Path) -> None:
    async with wool.WorkerPool(size=2) as pool:
        running = asyncio.create_task(run_until(journal.path, "running", str(tmp_path / "gate")))
        draining = await journal.appears("begin", "running")
        os.kill(draining, signal.SIGTERM)
        await until(lambda: draining not in pids(pool) and draining not in statuses(pool), what="a withdrawal")
        assert is_alive(draining)
        (tmp_path / "gate").touch()
        assert await running == draining


async def test_what_outlasts_the_drain_time_is_interrupted(journal: Journal) -> None:
    async with workers("one") as [one]:
        async with wool.WorkerProxy(workers=[one.metadata]):
            running = asyncio.create_task(run_until(journal.path, "running", "/nowhere"))
            await journal.appears("begin", "running")
            began = time.monotonic()
            await one.stop(drain_seconds=0.5)
            assert time.monotonic() - began >= 0.5
            with pytest.raises(wool.TaskInterrupted) as caught:
                await running
            assert caught.value.executed == "yes"
            assert len(journal.pids("cancelled", "running")) == 1


async def test_what_had_not_begun_when_the_drain_time_was_over_is_said_never_to_have_begun(journal: Journal) -> None:
    async with workers("one") as [one]:
        async with wool.WorkerProxy(workers=[one.metadata]) as proxy:
            blocking = asyncio.create_task(block(journal.path, "blocking", 2.0))
            await journal.appears("begin", "blocking")
            waiting = asyncio.create_task(run(journal.path, "waiting"))
            await until(lambda: started(proxy) == 2, what="a second task that is started")
            await one.stop(drain_seconds=0)
            with pytest.raises(wool.NoWorkersAvailable, match="did not begin") as caught:
                await waiting
            assert caught.value.executed == "no"
            assert "before the body began" in str(caught.value.reasons[one.metadata.uid])
            with pytest.raises(wool.TaskInterrupted):
                await blocking
    assert journal.pids("begin", "waiting") == []


async def test_when_every_worker_drains_a_new_call_is_told_so(journal: Journal, tmp_path: Path) -> None:
    async with workers("one") as [one]:
        async with wool.WorkerProxy(workers=[one.metadata]) as proxy:
            running = asyncio.create_task(run_until(journal.path, "running", str(tmp_path / "gate")))
            await journal.appears("begin", "running")
            stopping = asyncio.create_task(one.stop())
            await until(lambda: not usable(proxy))
            with pytest.raises(wool.NoWorkersAvailable, match="draining") as caught:
                await run(journal.path, journal.new_call())
            assert list(caught.value.reasons) == [one.metadata.uid]
            (tmp_path / "gate").touch()
            assert await running == one.metadata.pid
            await stopping


async def test_nested_calls_of_a_task_on_a_draining_worker_go_elsewhere(journal: Journal, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    async with wool.WorkerPool(size=2) as pool:
        outer = asyncio.create_task(run_nested_when(str(gate), journal.path, "nested"))
        draining = await journal.appears("begin", "nested")
        os.kill(draining, signal.SIGTERM)
        await until(lambda: draining not in {status.metadata.pid for status in usable(pool)})
        gate.touch()
        assert await outer != draining
        assert not is_suspect(pool, await outer)


# ---- leftovers ---------------------------------------------------------------------------------------


async def test_nothing_is_left_of_pools_and_workers(here: Place, journal: Journal) -> None:
    for _ in range(2):
        async with wool.WorkerPool(size=2):
            await run(journal.path, journal.new_call())
        async with workers("unix"), workers("tcp", host="127.0.0.1"):
            pass
        assert here.left() == []
    assert sys.platform != "linux" or not [name for name in os.listdir("/dev/shm") if name.startswith("wool-test")]
