"""``wool worker`` on real processes: what an operator does to it, and what callers notice of that, which is little."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import re
import shlex
import signal
import socket
import sys
import tempfile
import time
import uuid
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

import wool
from support import routines
from support.command import WorkerCommand, environment, free_port, wool_command, worker_command
from support.faults import PATIENCE_SECONDS, Journal, is_alive, statuses, until
from support.traced import block, count_up, die, ignore_cancellation, run, run_until
from wool.cli.supervisor import Status

AT_ONCE_SECONDS = 2.0
"""What is said to happen at once, on a machine that is busy."""

pytestmark = pytest.mark.timeout(120)


@contextlib.asynccontextmanager
async def calling(namespace: str) -> AsyncIterator[wool.WorkerProxy]:
    """Call the workers of a namespace."""
    async with wool.WorkerProxy(discovery=wool.LocalDiscovery(namespace).subscriber) as proxy:
        yield proxy


async def sees(proxy: wool.WorkerProxy, *pids: int) -> None:
    """Wait until the callers have heard of these workers."""
    await until(lambda: set(statuses(proxy)) >= set(pids), what="the callers to see the workers")


async def outcome(call: Any) -> Any:
    [found] = await asyncio.gather(call, return_exceptions=True)
    return found


class Load:
    """Callers that call without pause, until they are told to stop; every outcome is kept.

    Every other one calls what takes a while, so that a worker that is told to stop has something that runs.
    """

    def __init__(self, journal: Journal, callers: int) -> None:
        self._journal = journal
        self.done: dict[str, object] = {}
        self._stop = False
        self._tasks = [asyncio.create_task(self._call(number), name=f"caller {number}") for number in range(callers)]

    async def _call(self, number: int) -> None:
        path = self._journal.path
        while not self._stop:
            call = self._journal.new_call()
            self.done[call] = await outcome(block(path, call, 0.02) if number % 2 else run(path, call))

    async def stop(self) -> None:
        self._stop = True
        await asyncio.gather(*self._tasks)

    async def goes_on(self, calls: int = 50) -> None:
        """Wait until so many more calls have ended."""
        so_far = len(self.done)
        await until(lambda: len(self.done) >= so_far + calls, what="calls to go on")

    def check(self) -> None:
        """Not one call has failed, and none ran twice."""
        failed = {call: found for call, found in self.done.items() if not isinstance(found, int)}
        assert failed == {}
        began = [words[1] for words in self._journal.lines() if words[0] == "begin"]
        assert sorted(began) == sorted(self.done)


@contextlib.asynccontextmanager
async def load(journal: Journal, callers: int = 6) -> AsyncIterator[Load]:
    made = Load(journal, callers)
    try:
        yield made
    finally:
        await made.stop()


# ---- as the page begins ------------------------------------------------------------------------------


async def test_the_first_lines_of_the_page_run_as_written(journal: Journal) -> None:
    page = (Path(__file__).parents[2] / "docs" / "worker.md").read_text()
    commands = re.findall(r"^```sh\n(.*?)^```$", page, flags=re.MULTILINE | re.DOTALL)[0]
    program = re.findall(r"^```python\n(.*?)^```$", page, flags=re.MULTILINE | re.DOTALL)[0]
    worker, ps = map(shlex.split, commands.splitlines())
    assert (worker[:2], ps[:2]) == (["wool", "worker"], ["wool", "ps"])
    async with worker_command(*worker[2:]) as command:
        status, output, errors = await wool_command(*ps[1:])
        assert (status, errors) == (0, "")
        heading, *rows = output.splitlines()
        assert (heading.split()[0], len(rows)) == ("UID", len(command.pids))
        assert all(row.split()[2:5:2] == ["gpu", "up"] for row in rows)
        # The page leaves out what is called.
        names: dict[str, Any] = {"call": lambda: run(journal.path, "call")}
        assert program.count("        ...\n") == 1
        exec(program.replace("        ...\n", "        return await call()\n"), names)
        assert await names["use"]() in command.pids


# ---- told to stop ------------------------------------------------------------------------------------


@pytest.mark.smoke
async def test_sigterm_under_load_fails_no_call_and_runs_none_twice(namespace: str, journal: Journal) -> None:
    async with (
        worker_command("--discovery", f"local:{namespace}", "--size", "2") as leaving,
        worker_command("--discovery", f"local:{namespace}", "--size", "1") as staying,
        calling(namespace),
        load(journal) as callers,
    ):
        await callers.goes_on()
        await until(lambda: {int(words[-1]) for words in journal.lines()} >= {*leaving.pids, *staying.pids})
        leaving.signal()
        assert await leaving.ended() == Status.DRAINED
        await callers.goes_on()
        await callers.stop()
        callers.check()
        assert not any(is_alive(pid) for pid in leaving.pids)
        order = [event["event"] for event in leaving.events if event["event"].startswith(("worker-w", "worker-s"))]
        assert order == ["worker-withdrawn"] * 2 + ["worker-stopped"] * 2
        assert leaving.others == []


async def test_while_it_drains_calls_go_elsewhere_at_once_and_what_runs_ends_well(
    namespace: str, journal: Journal, tmp_path: Path
) -> None:
    gate = tmp_path / "gate"
    async with (
        worker_command("--discovery", f"local:{namespace}", "--size", "1") as leaving,
        calling(namespace) as proxy,
    ):
        held = asyncio.create_task(run_until(journal.path, "held", str(gate)))
        await journal.appears("begin", "held")
        async with worker_command("--discovery", f"local:{namespace}", "--size", "1") as staying:
            await sees(proxy, *leaving.pids, *staying.pids)
            leaving.signal()
            await leaving.event("worker-withdrawn")
            began = time.monotonic()
            assert {await run(journal.path, f"call-{number}") for number in range(20)} == set(staying.pids)
            assert time.monotonic() - began < AT_ONCE_SECONDS
            assert leaving.process.returncode is None
            gate.touch()
            assert await held == leaving.pids[0]
            assert await leaving.ended() == Status.DRAINED
            assert leaving.all("worker-stopped")[0]["interrupted"] == 0


async def test_what_runs_longer_than_the_drain_time_is_cancelled_and_the_status_says_so(
    namespace: str, journal: Journal, tmp_path: Path
) -> None:
    flags = ("--discovery", f"local:{namespace}", "--size", "1", "--drain-timeout", "0.2")
    async with worker_command(*flags) as command, calling(namespace):
        held = asyncio.create_task(outcome(run_until(journal.path, "held", str(tmp_path / "never"))))
        items = count_up(journal.path, "generator")
        assert await anext(items) == 0
        await journal.appears("begin", "held")
        command.signal()
        assert await command.ended() == Status.INTERRUPTED
        found = await held
        assert isinstance(found, wool.TaskInterrupted), found
        assert journal.pids("cancelled", "held")
        assert journal.pids("closed", "generator")
        assert command.all("worker-stopped")[0]["interrupted"] == 2
        with pytest.raises(wool.WoolError):
            await anext(items)


async def test_a_body_that_will_not_end_is_in_the_status_too(namespace: str, journal: Journal) -> None:
    flags = ("--discovery", f"local:{namespace}", "--size", "1", "--drain-timeout", "0")
    async with worker_command(*flags) as command, calling(namespace):
        held = asyncio.create_task(outcome(ignore_cancellation(journal.path, "held")))
        await journal.appears("begin", "held")
        command.signal()
        assert await command.ended() == Status.INTERRUPTED
        assert isinstance(await held, wool.WorkerLost)


async def test_a_second_signal_ends_it_at_once(namespace: str, journal: Journal, tmp_path: Path) -> None:
    async with (
        worker_command("--discovery", f"local:{namespace}", "--size", "2") as command,
        calling(namespace),
    ):
        held = asyncio.create_task(outcome(run_until(journal.path, "held", str(tmp_path / "never"))))
        await journal.appears("begin", "held")
        command.signal(signal.SIGINT)
        await command.event("draining", signal="SIGINT")
        began = time.monotonic()
        command.signal()
        assert await command.ended() == Status.ENDED_AT_ONCE
        assert time.monotonic() - began < AT_ONCE_SECONDS
        assert isinstance(await held, wool.WorkerLost)
        assert not any(is_alive(pid) for pid in command.pids)


async def test_told_to_stop_while_its_workers_start_none_is_left(namespace: str) -> None:
    async with worker_command("--discovery", f"local:{namespace}", "--size", "2", ready=False) as command:
        # A worker's first line is not said before it is ready; the signal handlers stand when its process exists.
        await until(lambda: bool(_children(command.process.pid)), what="a worker process")
        pids = _children(command.process.pid)
        command.signal()
        assert await command.ended() == Status.DRAINED
        assert command.all("stopped") != []
        assert not any(is_alive(pid) for pid in pids)


def _children(pid: int) -> list[int]:
    if not Path(f"/proc/{pid}/task").exists():
        pytest.skip("looks into /proc")
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


async def test_workers_do_not_outlive_a_command_that_was_killed(
    namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with tempfile.TemporaryDirectory(prefix="r-") as directory:
        # The next one there would clean up.
        monkeypatch.setenv("XDG_RUNTIME_DIR", directory)
        await _kill_a_command(namespace)


async def _kill_a_command(namespace: str) -> None:
    async with worker_command("--discovery", f"local:{namespace}", "--size", "2") as command:
        command.signal(signal.SIGKILL)
        await command.ended()
        await until(lambda: not any(is_alive(pid) for pid in command.pids), what="the workers to vanish")
        status, output, errors = await wool_command("ps", "--discovery", f"local:{namespace}", "--json")
        assert (status, output, errors) == (0, "[]\n", "")


# ---- a rolling restart -------------------------------------------------------------------------------


async def test_a_rolling_restart_under_load_fails_no_call_and_runs_none_twice(namespace: str, journal: Journal) -> None:
    flags = ("--discovery", f"local:{namespace}", "--size", "1")
    async with contextlib.AsyncExitStack() as stack:
        commands = [await stack.enter_async_context(worker_command(*flags)) for _ in range(3)]
        proxy = await stack.enter_async_context(calling(namespace))
        callers = await stack.enter_async_context(load(journal))
        await sees(proxy, *(pid for command in commands for pid in command.pids))
        await callers.goes_on()
        old = [pid for command in commands for pid in command.pids]
        for place, command in enumerate(commands):
            command.signal()
            assert await command.ended() == Status.DRAINED
            commands[place] = await stack.enter_async_context(worker_command(*flags))
            await sees(proxy, *commands[place].pids)
            await callers.goes_on()
        await callers.stop()
        callers.check()
        new = {pid for command in commands for pid in command.pids}
        assert new.isdisjoint(old)
        assert {int(words[-1]) for words in journal.lines()[-30:]} <= new


# ---- workers that crash ------------------------------------------------------------------------------


async def test_a_worker_that_crashed_is_replaced_and_found_again(namespace: str, journal: Journal) -> None:
    async with (
        worker_command("--discovery", f"local:{namespace}", "--size", "1") as command,
        calling(namespace) as proxy,
    ):
        assert isinstance(await outcome(die(journal.path, "fatal", signal.SIGKILL)), wool.WorkerLost)
        ended = await command.event("worker-ended")
        assert ended["how"] == "killed by SIGKILL"
        await command.event("worker-ready", times=2)
        await sees(proxy, command.pids[1])
        assert await run(journal.path, "next") == command.pids[1] != command.pids[0]
        command.signal()
        assert await command.ended() == Status.DRAINED


async def test_a_crash_loop_ends_the_command_with_its_own_status_and_the_last_words(
    namespace: str, journal: Journal
) -> None:
    flags = ("--discovery", f"local:{namespace}", "--size", "2", "--restarts", "1", "--restart-seconds", "60")
    async with worker_command(*flags) as command, calling(namespace):
        await outcome(die(journal.path, "first", signal.SIGSEGV))
        await command.event("worker-ready", times=3)
        await outcome(die(journal.path, "second", signal.SIGSEGV))
        assert await command.ended() == Status.GAVE_UP
        [gave_up] = command.all("gave-up")
        assert "workers ended 2 times within 60 s, and 1 restarts are allowed" in gave_up["why"]
        assert "killed by SIGSEGV" in gave_up["why"]
        assert "Fatal Python error: Segmentation fault" in gave_up["output"]
        assert gave_up["level"] == "error"
        assert not any(is_alive(pid) for pid in command.pids)


async def test_a_worker_that_others_told_to_stop_is_withdrawn_and_replaced(namespace: str, journal: Journal) -> None:
    async with (
        worker_command("--discovery", f"local:{namespace}", "--size", "2") as command,
        calling(namespace) as proxy,
        load(journal, 2) as callers,
    ):
        await sees(proxy, *command.pids)
        await callers.goes_on(5)
        os.kill(command.pids[0], signal.SIGTERM)
        await command.event("worker-ready", times=3)
        await callers.goes_on(5)
        await callers.stop()
        callers.check()
        assert command.all("worker-ended")[0]["how"] == "exit status 0"


async def test_at_a_fixed_port_a_crashed_worker_is_replaced_at_that_port(journal: Journal) -> None:
    port = free_port()
    async with (
        worker_command("--discovery", "static", "--port", str(port), "--tag", "gpu") as command,
        wool.WorkerProxy(discovery=wool.StaticDiscovery(f"127.0.0.1:{port}").subscriber),
    ):
        assert await run(journal.path, "one") == command.pids[0]
        await outcome(die(journal.path, "fatal", signal.SIGKILL))
        await command.event("worker-ready", times=2)
        assert await run(journal.path, "two") == command.pids[1]
        first, second = command.all("worker-ready")
        assert first["address"] == second["address"] == f"127.0.0.1:{port}"
        assert first["worker"] != second["worker"]
        assert first["tags"] == ["gpu"]


# ---- what it is told ---------------------------------------------------------------------------------


async def test_flags_win_over_the_environment_and_that_over_the_file(namespace: str, tmp_path: Path) -> None:
    path = tmp_path / "wool.toml"
    path.write_text('[worker]\ndiscovery = "local:of-the-file"\nsize = 2\ntags = ["file"]\ndrain-timeout = 11\n')
    env = {"WOOL_CONFIG": str(path), "WOOL_TAGS": "from,environment", "WOOL_DISCOVERY": "local:of-the-environment"}
    async with worker_command("--discovery", f"local:{namespace}", env=env) as command:
        ready = command.all("worker-ready")
        assert len(ready) == 2
        assert ready[0]["tags"] == ["environment", "from"]
        status, output, _ = await wool_command("ps", env={**env, "WOOL_DISCOVERY": f"local:{namespace}"})
        assert (status, output.count("environment,from")) == (0, 2)
        command.signal()
        assert (await command.event("draining"))["seconds"] == 11
        assert await command.ended() == Status.DRAINED


@pytest.mark.parametrize(
    ("flags", "env", "words"),
    [
        ((), {}, "wool worker: error: --discovery: must be said"),
        (("--discovery", "zookeeper"), {}, "--discovery: must be local:NAME, lan, "),
        (
            ("--discovery", "local:x", "--host", "0.0.0.0"),
            {},
            "--host: host 0.0.0.0 is no address that callers can be told",
        ),
        (("--discovery", "local:x"), {"WOOL_SIZE": "many"}, "WOOL_SIZE in the environment: must be a number"),
        (("--discovery", "local:x", "--config", "/no/such"), {}, "--config: /no/such cannot be read"),
        (("--no-such-flag",), {}, "unrecognized arguments: --no-such-flag"),
    ],
)
async def test_what_makes_no_sense_is_said_before_anything_starts(
    flags: tuple[str, ...], env: dict[str, str], words: str
) -> None:
    status, output, errors = await wool_command("worker", *flags, env=env)
    assert (status, output) == (Status.MISUSED, "")
    assert words in errors
    assert "Traceback" not in errors


async def test_a_port_in_use_is_named_and_no_worker_is_left() -> None:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        port = holder.getsockname()[1]
        flags = ("--discovery", "static", "--port", str(port - 1), "--size", "2")
        async with worker_command(*flags, ready=False) as command:
            assert await command.ended() == Status.FAILED
            [failed] = command.all("failed")
            assert f"cannot listen at 127.0.0.1:{port}: Address already in use" in failed["why"]


async def test_it_imports_from_its_working_directory(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    script = tmp_path / "elsewhere" / "script.py"
    script.write_text(
        "import sys\nfrom wool.cli.worker import _see_working_directory\n_see_working_directory()\n"
        "import of_the_users\nprint(of_the_users.WORD)\n"
    )
    (tmp_path / "of_the_users.py").write_text("WORD = 'here'\n")
    for flags, words in (([], b"here\n"), (["-P"], b"")):
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            *(*flags, str(script)),
            env=environment(),
            cwd=tmp_path,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
        )
        output, _ = await process.communicate()
        assert output == words


# ---- the log -----------------------------------------------------------------------------------------


async def test_each_task_is_in_the_log_with_its_caller_and_how_it_ended(namespace: str, journal: Journal) -> None:
    async with (
        worker_command("--discovery", f"local:{namespace}", "--size", "1") as command,
        calling(namespace),
    ):
        await run(journal.path, "one")
        with pytest.raises(LookupError):
            await _fail()
        ended = await command.event("task-ended", outcome="failed")
        [done] = command.all("task-ended", outcome="done")
        started = command.all("task-started")
        assert [event["task"] for event in started] == [done["task"], ended["task"]]
        assert len({event["caller"] for event in (*started, done, ended)}) == 1
        assert done["worker"] == command.all("worker-ready")[0]["worker"]
        assert done["pid"] == command.pids[0]
        assert 0 <= done["seconds"] < 10


@wool.routine
async def _fail() -> None:
    raise LookupError("boom")


@wool.routine
async def _say(*lines: str) -> None:
    for line in lines:
        print(line)


async def test_what_a_routine_prints_is_a_line_of_the_log(namespace: str) -> None:
    flags = ("--discovery", f"local:{namespace}", "--size", "1", "--log-level", "warning")
    async with worker_command(*flags, ready=False) as command, calling(namespace):
        await _say("plain", 'with "quotes" and = and \x1b[31mcolour')
        await command.event("output", line="plain")
        await command.event("output", line='with "quotes" and = and \x1b[31mcolour')
        assert command.all("task-started") == []


async def test_text_that_a_routine_prints_cannot_pose_as_an_event(namespace: str) -> None:
    async with worker_command("--discovery", f"local:{namespace}", "--size", "1") as command, calling(namespace):
        forged = "time=1970-01-01T00:00:00.000+00:00 level=error event=gave-up why=forged"
        await _say(
            f"\x1e{forged}", f"a customer says: \x1e{forged}", f"\x1e{'0' * 16} {forged}", "\x1e\x1b]0;forged\x07"
        )
        await command.event("output", line="\x1e\x1b]0;forged\x07")
        assert (command.all("gave-up"), command.others) == ([], [])
        assert [event["line"].count(forged) for event in command.all("output")] == [1, 1, 1, 0]


@wool.routine
async def _log() -> str:
    logging.basicConfig(level=logging.DEBUG)
    logging.getLogger("shop.till").info("sold %d", 3)
    await asyncio.to_thread(logging.getLogger("shop.cellar").warning, "of a thread")
    task = wool.current_task()
    assert task is not None
    return task.key.hex()


async def test_what_a_routine_logs_is_a_line_of_the_log_with_its_task_and_caller(namespace: str) -> None:
    async with (
        worker_command("--discovery", f"local:{namespace}", "--size", "1") as command,
        calling(namespace),
    ):
        task = await _log()
        till = await command.event("log", logger="shop.till")
        cellar = await command.event("log", logger="shop.cellar")
        [started] = command.all("task-started", task=task)
    for event, level, message in ((till, "info", "sold 3"), (cellar, "warning", "of a thread")):
        assert (event["level"], event["message"], event["task"]) == (level, message, task)
        assert (event["caller"], event["worker"]) == (started["caller"], started["worker"])
    assert len(command.all("log", logger="shop.till")) == 1
    assert command.all("output") == []


async def test_a_log_that_nobody_reads_stops_nothing(namespace: str, journal: Journal) -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "wool", "worker", "--discovery", f"local:{namespace}", "--size", "1"),
        env=environment(),
        stderr=(pipe := os.pipe())[1],
    )
    os.close(pipe[1])
    try:
        async with wool.WorkerPool(discovery=wool.LocalDiscovery(namespace)):
            # Twice as many bytes as the pipe holds, and more lines than may wait.
            for _ in range(60):
                await asyncio.gather(*(_say(journal.path) for _ in range(100)))
        process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(PATIENCE_SECONDS):
            assert await process.wait() == Status.DRAINED
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
        os.close(pipe[0])


async def test_text_lines_are_one_per_event(namespace: str, journal: Journal) -> None:
    flags = ("--discovery", f"local:{namespace}", "--size", "1")
    async with worker_command(*flags, json_lines=False, ready=False) as command, calling(namespace):
        await run(journal.path, "one")
        await until(lambda: any("event=task-ended" in line for line in command.others))
        command.signal()
        assert await command.ended() == Status.DRAINED
        assert all(line.startswith("time=20") and " event=" in line for line in command.others), command.others
        assert command.others[-1].rstrip().endswith("event=stopped status=0")
        [ended] = [line for line in command.others if "event=task-ended" in line]
        for part in (" level=info ", " worker=", f" pid={journal.pids('begin', 'one')[0]} ", " task=", " caller="):
            assert part in ended


# ---- other ways to be found --------------------------------------------------------------------------


@pytest.mark.alone
async def test_workers_are_announced_on_the_network(journal: Journal) -> None:
    tag = uuid.uuid4().hex
    async with worker_command("--discovery", "lan:127.0.0.1", "--size", "2", "--tag", tag) as command:
        discovery = wool.LanDiscovery(interfaces=["127.0.0.1"])
        async with wool.WorkerProxy(discovery=discovery.subscribe(lambda worker: tag in worker.tags)):
            await until_each(journal, command)
            status, output, _ = await wool_command("ps", "--discovery", "lan:127.0.0.1", "--json")
            found = [worker for worker in json.loads(output) if tag in worker["tags"]]
            assert status == 0
            assert [(worker["status"], worker["done"] > 0) for worker in found] == [("up", True)] * 2
            command.signal()
            assert await command.ended() == Status.DRAINED


async def until_each(journal: Journal, command: WorkerCommand) -> None:
    """Call until each worker has answered."""
    seen: set[int] = set()
    while seen != set(command.pids):
        seen.add(await run(journal.path, journal.new_call()))


async def test_a_worker_on_loopback_is_not_announced_to_others() -> None:
    async with worker_command("--discovery", "lan", "--size", "1", ready=False) as command:
        assert await command.ended() == Status.FAILED
        [failed] = command.all("failed")
        assert "cannot be reached from other hosts" in failed["why"] or "no interface" in failed["why"]
        assert command.all("worker-not-withdrawn") == []


class ClosesBadly:
    """Is entered to get a load balancer, and raises when it is left on a worker."""

    def __init__(self) -> None:
        self.owner = os.getpid()

    def __enter__(self) -> wool.LoadBalancerLike:
        return wool.RoundRobinLoadBalancer()

    def __exit__(self, *_: object) -> None:
        if os.getpid() != self.owner:
            raise ValueError("it cannot be left")


async def test_what_a_caller_supplies_and_cannot_be_closed_does_not_end_a_worker_badly(namespace: str) -> None:
    async with worker_command("--discovery", f"local:{namespace}", "--size", "1") as command:
        with wool.LocalDiscovery(namespace) as discovery:
            async with wool.WorkerPool(discovery=discovery, loadbalancer=ClosesBadly()):
                assert await routines.is_even(2)
                command.signal()
                assert await command.ended() == Status.DRAINED
    [stopped] = command.all("worker-stopped")
    assert (stopped["how"], stopped["interrupted"]) == ("exit status 0", 0)
    assert any("it cannot be left" in event.get("traceback", "") for event in command.all("log", level="error"))
