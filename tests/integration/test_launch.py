"""Real worker processes: they start, they end, and never by being forgotten."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import io
import json
import os
import signal
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import wool.worker
from wool.limits import Limits
from wool.worker import child, launch
from wool.worker.channel import ChannelError
from wool.worker.child import WorkerStartError
from wool.worker.launch import ProcessLauncher
from wool.worker.spec import WorkerHandle, WorkerSpec

SECRET = bytes(range(100, 132))
SOURCE = Path(wool.worker.__file__).parents[2]
TESTS = Path(__file__).parents[1]
VANISH_SECONDS = 2.0
LAUNCHER = ProcessLauncher(module="support.fake_worker")

linux_only = pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")


def spec(mode: str = "", *, uid: str | None = None, limits: Limits | None = None, **extra: str) -> WorkerSpec:
    return WorkerSpec(
        address="unix:/tmp/none",
        secret=SECRET,
        uid=uid,
        tags=frozenset({"gpu"}),
        extra={"mode": mode, **extra},
        limits=limits or Limits(stop_seconds=1.0),
    )


def is_alive(pid: int) -> bool:
    """Whether the process exists and is no zombie."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    state = Path(f"/proc/{pid}/stat")
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        return state.read_text().rpartition(")")[2].split()[0] not in "ZX"
    return not Path("/proc/self").exists()


def until(condition: Callable[[], bool], seconds: float = VANISH_SECONDS) -> float:
    """Wait for ``condition``, return how long it took."""
    began = time.monotonic()
    while not condition():
        assert time.monotonic() - began < seconds, "waited in vain"
        time.sleep(0.002)
    return time.monotonic() - began


def descriptors() -> dict[str, str]:
    found: dict[str, str] = {}
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(FileNotFoundError):
            found[name] = os.readlink(f"/proc/self/fd/{name}")
    return found


@pytest.fixture(autouse=True)
def nothing_is_left() -> Iterator[None]:
    """At once, without any grace: no descriptor of ours, and no child, dead or alive."""
    if sys.platform != "linux":
        yield
        return
    before = set(descriptors().values())
    yield
    assert {name: what for name, what in descriptors().items() if what not in before and "event" not in what} == {}
    with pytest.raises(ChildProcessError):
        os.waitpid(-1, os.WNOHANG)
    assert child.Lifeline._open == set()


@pytest.fixture(params=["announced", "polled"])
def noticing(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Both ways to notice that a process has ended."""
    if request.param == "polled":
        monkeypatch.setattr(child, "_open_announcer", lambda pid: None)
    return str(request.param)


# ---- what it is born with ---------------------------------------------------------------------------


@pytest.mark.parametrize("python_path", [None, "/one:/two"])
async def test_a_worker_is_what_it_was_configured_to_be(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, python_path: str | None
) -> None:
    if python_path is None:
        monkeypatch.delenv("PYTHONPATH", raising=False)
    else:
        monkeypatch.setenv("PYTHONPATH", python_path)
    monkeypatch.setenv("MINE", "caf\udcff")
    monkeypatch.setattr(sys, "argv", ["program.py", "--flag", "caf\udcff", Path("ignored")])
    monkeypatch.setattr(sys, "path", [*sys.path, "", "/not-\udcfftext", "/with:colon", Path("/ignored")])
    monkeypatch.chdir(tmp_path)
    report = tmp_path / "report"
    handle = await LAUNCHER.launch(spec(uid="u" * 12, limits=Limits(inline_bytes=77), report=str(report)))
    await handle.stop(0)
    found = json.loads(report.read_text())
    assert found["sys_path"] == [entry for entry in sys.path if isinstance(entry, str)]
    assert found["argv"] == ["program.py", "--flag", "caf\udcff"]
    assert found["cwd"] == str(tmp_path)
    expected = {**os.environ, "GRPC_ENABLE_FORK_SUPPORT": "0"}
    assert {name: value for name, value in found["environ"].items() if name != "LC_CTYPE"} == expected
    assert found["secret"] == SECRET.hex()
    assert (found["address"], found["uid"], found["tags"], found["inline_bytes"]) == (
        "unix:/tmp/none",
        "u" * 12,
        ["gpu"],
        77,
    )
    assert found["session"] == found["pid"]
    assert found["stdin"] == "/dev/null"
    assert found["inheritable"] == []
    assert found["safe_path"]
    assert handle.metadata.uid == "u" * 12
    assert handle.metadata.pid == found["pid"]


async def test_signals_that_the_launching_thread_blocks_are_not_blocked_in_the_worker(tmp_path: Path) -> None:
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGUSR1})
    try:
        handle = await LAUNCHER.launch(spec(report=str(tmp_path / "report")))
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    await handle.stop(0)
    assert json.loads((tmp_path / "report").read_text())["blocked"] == []


@linux_only
async def test_the_secret_is_not_for_everybody_to_see() -> None:
    handle = await LAUNCHER.launch(spec())
    proc = Path(f"/proc/{handle.metadata.pid}")
    for place in ("cmdline", "environ"):
        seen = (proc / place).read_bytes()
        assert b"support.fake_worker" in seen or place == "environ"
        assert SECRET not in seen
        assert SECRET.hex().encode() not in seen.lower()
    assert repr(SECRET) not in repr(spec())
    assert SECRET.hex() not in repr(spec())
    assert SECRET.hex() not in repr(handle)
    await handle.stop(0)


async def test_interrupting_is_left_to_the_owner() -> None:
    handle = await LAUNCHER.launch(spec())
    os.kill(handle.metadata.pid, signal.SIGINT)
    await asyncio.sleep(0.05)
    assert is_alive(handle.metadata.pid)
    await handle.stop(0)
    assert handle.exit_reason == "exit status 0"


async def test_what_cannot_be_sent_is_refused_before_anything_is_started() -> None:
    with pytest.raises(ChannelError, match="tag"):
        await LAUNCHER.launch(WorkerSpec(address="x", secret=SECRET, tags=frozenset({""})))
    with pytest.raises(ChannelError, match="control_message_bytes"):
        await LAUNCHER.launch(WorkerSpec(address="x", secret=SECRET, extra={"x": "x" * 5_000_000}))


async def test_a_configuration_larger_than_any_socket_buffer_arrives(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # With colons, so that it is not in PYTHONPATH, which the system limits.
    entry = "/a:b/" + "x" * 2_000_000
    monkeypatch.setattr(sys, "path", [*sys.path, entry])
    handle = await LAUNCHER.launch(spec(report=str(tmp_path / "report")))
    await handle.stop(0)
    assert json.loads((tmp_path / "report").read_text())["sys_path"][-1] == entry


async def test_an_import_path_too_long_for_the_system_is_a_failed_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [*sys.path, "/" + "x" * 3_000_000])
    with pytest.raises(WorkerStartError, match="no worker process could be created"):
        await LAUNCHER.launch(spec())


# ---- a start that fails ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mode", "expected"),
    [
        ("raise", ["exit status 1", "last words", "LookupError: no such thing", "Traceback"]),
        ("exit", ["exit status 3", "half a line"]),
        ("die", ["killed by SIGSEGV", "it printed nothing"]),
        ("nonsense", ["killed by SIGKILL (it broke the control channel", "not one JSON object"]),
        (
            "never ready",
            ["killed by SIGKILL (it was not ready within 4 s (worker_start_seconds))", "still importing"],
        ),
    ],
)
async def test_a_failed_start_says_why_and_leaves_nothing(noticing: str, mode: str, expected: list[str]) -> None:
    seconds = 4.0 if mode == "never ready" else 30.0
    with pytest.raises(WorkerStartError) as caught:
        await LAUNCHER.launch(spec(mode, limits=Limits(worker_start_seconds=seconds)))
    for text in expected:
        assert text in str(caught.value)
    assert str(caught.value).count("Traceback") <= 1
    pid = int(str(caught.value).split()[2])
    assert not is_alive(pid)


async def test_a_module_that_is_not_there_is_a_failed_start() -> None:
    with pytest.raises(WorkerStartError, match=r"exit status 1\n.*\n.*No module named"):
        await ProcessLauncher(module="no_such_module").launch(spec())


@pytest.mark.parametrize("executable", ["", "/no/such/python"])
async def test_an_interpreter_that_cannot_be_started_is_a_failed_start(
    monkeypatch: pytest.MonkeyPatch, executable: str
) -> None:
    monkeypatch.setattr(sys, "executable", executable)
    with pytest.raises(WorkerStartError):
        await LAUNCHER.launch(spec())


async def test_another_uid_than_the_wanted_one_is_no_worker_of_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    # The worker is told another uid than the one that is expected of it.
    wanted = spec("another uid", uid="wanted")
    monkeypatch.setattr(launch, "_configure", lambda _: configure(spec("another uid", uid="other")))
    with pytest.raises(WorkerStartError, match="it is other, not wanted"):
        await LAUNCHER.launch(wanted)


configure = launch._configure


async def test_only_the_end_of_the_output_is_kept(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(WorkerStartError) as caught:
        await LAUNCHER.launch(spec("raise", limits=Limits(output_tail_bytes=60)))
    assert "last words" not in str(caught.value)
    assert "no such thing" in str(caught.value)


async def test_a_cancelled_start_leaves_nothing(noticing: str) -> None:
    for delay in (0, 0.001, 0.05, 0.4):
        task = asyncio.create_task(LAUNCHER.launch(spec("never ready")))
        await asyncio.sleep(delay)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        if sys.platform == "linux":
            with pytest.raises(ChildProcessError):
                os.waitpid(-1, os.WNOHANG)


async def test_a_start_that_is_cancelled_twice_leaves_nothing() -> None:
    task = asyncio.create_task(LAUNCHER.launch(spec("never ready")))
    await asyncio.sleep(0.1)
    task.cancel()
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


# ---- stopping ----------------------------------------------------------------------------------------


async def test_an_idle_worker_stops_at_once(noticing: str) -> None:
    took: list[float] = []
    for _ in range(4):
        handle = await LAUNCHER.launch(spec())
        assert handle.exit_reason is None
        assert not handle.is_draining
        began = time.monotonic()
        await handle.stop(30)
        took.append(time.monotonic() - began)
        assert handle.exit_reason == "exit status 0"
        assert handle.is_draining
        assert await handle.wait_closed() == "exit status 0"
        await handle.stop(30)
        handle.close()
        assert not is_alive(handle.metadata.pid)
    # How long exactly is for the bench to say; here, that it waits neither for the drain nor for a poll.
    assert min(took) < 1.0


async def test_a_frozen_worker_is_killed(noticing: str) -> None:
    handle = await LAUNCHER.launch(spec(limits=Limits(stop_seconds=0.2)))
    os.kill(handle.metadata.pid, signal.SIGSTOP)
    await handle.stop(0.1)
    assert handle.exit_reason == "killed by SIGKILL (it did not stop within 0.3 s)"


async def test_a_worker_that_does_not_exit_is_killed() -> None:
    handle = await LAUNCHER.launch(spec("never exit", limits=Limits(stop_seconds=0.2)))
    began = time.monotonic()
    await handle.stop(30)
    assert time.monotonic() - began < 2
    assert handle.exit_reason == "killed by SIGKILL (it stopped but did not exit)"


async def test_a_cancelled_stop_kills(noticing: str) -> None:
    handle = await LAUNCHER.launch(spec("busy"))
    task = asyncio.create_task(handle.stop(30))
    await asyncio.sleep(0.05)
    task.cancel()
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert handle.exit_reason == "killed by SIGKILL (its stop was cancelled)"


async def test_a_later_stop_may_allow_less_time() -> None:
    handle = await LAUNCHER.launch(spec("busy"))
    patient = asyncio.create_task(handle.stop(30))
    await asyncio.sleep(0.05)
    assert not patient.done()
    await asyncio.gather(handle.stop(0), patient)
    assert handle.exit_reason == "exit status 0"


async def test_a_drain_time_that_is_none_is_refused_and_harmless() -> None:
    handle = await LAUNCHER.launch(spec())
    with pytest.raises(ValueError, match="drain_seconds"):
        await handle.stop(-1)
    assert is_alive(handle.metadata.pid)
    handle.close()
    handle.close()
    assert await handle.wait_closed() == "killed by SIGKILL (closed by its owner)"


def test_a_worker_can_be_closed_when_its_loop_is(noticing: str) -> None:
    async def start() -> WorkerHandle:
        return await LAUNCHER.launch(spec())

    handle = asyncio.run(start())
    handle.close()
    assert handle.exit_reason == "killed by SIGKILL (closed by its owner)"


def test_a_forgotten_worker_dies_and_warns() -> None:
    async def start() -> int:
        return (await LAUNCHER.launch(spec())).metadata.pid

    with warnings.catch_warnings(record=True, action="always", category=ResourceWarning) as caught:
        pid = asyncio.run(start())
        gc.collect()
        texts = [str(warning.message) for warning in caught]
        caught.clear()  # each holds what it warns of
        gc.collect()
    assert any("was never stopped" in text for text in texts)
    until(lambda: not is_alive(pid))
    subprocess._cleanup()  # type: ignore[attr-defined]  # as the next Popen of the process would


# ---- ends that nobody asked for ----------------------------------------------------------------------


async def test_an_unexpected_end_is_told_in_words(noticing: str) -> None:
    handle = await LAUNCHER.launch(spec())
    os.kill(handle.metadata.pid, signal.SIGKILL)
    assert await handle.wait_closed() == "killed by SIGKILL"
    handle = await LAUNCHER.launch(spec("crash after ready"))
    assert await handle.wait_closed() == "exit status 1"


async def test_draining_by_itself_is_noticed() -> None:
    handle = await LAUNCHER.launch(spec("drain by itself"))
    await handle.wait_draining()
    assert handle.is_draining
    assert handle.exit_reason is None
    await handle.stop(0)
    handle = await LAUNCHER.launch(spec())
    waiting = asyncio.create_task(handle.wait_draining())
    await asyncio.sleep(0)
    handle.close()
    await waiting
    await handle.wait_closed()


@pytest.mark.parametrize("mode", ["ready twice", "close control"])
async def test_a_worker_that_breaks_the_channel_is_killed(mode: str) -> None:
    handle = await LAUNCHER.launch(spec(mode, limits=Limits(stop_seconds=0.2)))
    assert (await handle.wait_closed()).startswith("killed by SIGKILL (it ")


async def test_the_end_is_noticed_though_a_child_holds_all_descriptors(
    noticing: str, capsys: pytest.CaptureFixture[str]
) -> None:
    handle = await LAUNCHER.launch(spec("leave a child"))
    os.kill(handle.metadata.pid, signal.SIGKILL)
    async with asyncio.timeout(2):
        assert await handle.wait_closed() == "killed by SIGKILL"
    child = int(capsys.readouterr().err.split()[-1])
    os.kill(child, signal.SIGKILL)
    until(lambda: not is_alive(child))


async def test_a_status_that_somebody_else_took_is_no_error(noticing: str) -> None:
    handle = await LAUNCHER.launch(spec())
    os.kill(handle.metadata.pid, signal.SIGKILL)
    os.waitpid(handle.metadata.pid, 0)
    assert "exit status unknown" in await handle.wait_closed()


# ---- the owner ends ----------------------------------------------------------------------------------

OWNER = """
import asyncio, os, subprocess, sys, time
from wool.worker.launch import ProcessLauncher
from wool.worker.spec import WorkerSpec

async def main(mode, how, count):
    launcher = ProcessLauncher(module="support.fake_worker")
    specs = [WorkerSpec(address="unix:/x", secret=b"s" * 32, extra={"mode": mode}) for _ in range(count)]
    if how == "interrupt":
        tasks = [asyncio.create_task(launcher.launch(spec)) for spec in specs]
        await asyncio.sleep(0.05)
        print(*(line for line in subprocess.check_output(["pgrep", "-P", str(os.getpid()), "-f", "fake_worker"],
              text=True).split()), flush=True)
        await asyncio.gather(*tasks)
    handles = await asyncio.gather(*(launcher.launch(spec) for spec in specs))
    if how == "fork" and os.fork() == 0:
        time.sleep(30)
        os._exit(0)
    if how == "execute":
        subprocess.Popen(["sleep", "30"], close_fds=False)
    await asyncio.sleep(0.1)
    print(*(handle.metadata.pid for handle in handles), flush=True)
    if how == "return":
        return handles
    if how == "raise":
        raise SystemExit(5)
    await asyncio.sleep(1000)

kept = asyncio.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3])))
"""


def start_owner(
    mode: str, how: str = "", count: int = 3, options: tuple[str, ...] = (), prefix: str = "", **popen: Any
) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, *options, "-c", prefix + OWNER, mode, how, str(count)],
        env={**os.environ, "PYTHONPATH": f"{SOURCE}:{TESTS}"},
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
        **popen,
    )


def workers_of(owner: subprocess.Popen[str]) -> list[int]:
    assert owner.stdout is not None
    pids = [int(word) for word in owner.stdout.readline().split()]
    assert pids
    return pids


def end_of(owner: subprocess.Popen[str]) -> int:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(owner.pid, signal.SIGKILL)  # what it forked or executed, but not its workers
    assert owner.stdout is not None
    owner.stdout.close()
    return owner.wait()


@pytest.mark.parametrize("how", ["", "fork", "execute"])
@pytest.mark.parametrize("mode", ["", "hold the GIL"])
def test_workers_vanish_with_an_owner_that_is_killed(mode: str, how: str) -> None:
    if mode == "hold the GIL" and sys.platform != "linux":
        pytest.skip("only Linux delivers it without the GIL")
    owner = start_owner(mode, how)
    try:
        pids = workers_of(owner)
        assert all(map(is_alive, pids))
        owner.kill()
        owner.wait()
        until(lambda: not any(map(is_alive, pids)))
    finally:
        end_of(owner)


@pytest.mark.parametrize(("how", "status"), [("return", 0), ("raise", 5)])
def test_workers_vanish_with_an_owner_that_exits(how: str, status: int) -> None:
    owner = start_owner("hold the GIL" if sys.platform == "linux" else "", how)
    pids = workers_of(owner)
    assert owner.wait(10) == status
    until(lambda: not any(map(is_alive, pids)))
    end_of(owner)


def test_an_interrupt_while_several_are_started_leaves_none() -> None:
    owner = start_owner("never ready", "interrupt", 4, stderr=subprocess.DEVNULL)
    pids = workers_of(owner)
    owner.send_signal(signal.SIGINT)
    assert owner.wait(10) == -signal.SIGINT
    assert not any(map(is_alive, pids))
    end_of(owner)


@pytest.mark.parametrize("options", [("-I",), ("-E", "-s"), ("-X", "dev", "-W", "error")])
def test_an_owner_with_flags_has_workers_that_import_the_same(options: tuple[str, ...]) -> None:
    prefix = f"import sys; sys.path[:0] = [{str(SOURCE)!r}, {str(TESTS)!r}]\n"
    owner = start_owner("", "", 1, options, prefix)
    pids = workers_of(owner)
    end_of(owner)
    until(lambda: not any(map(is_alive, pids)))


def test_an_owner_without_standard_streams_can_have_workers() -> None:
    closed = "import os, sys\nsys.stdout, sys.stderr = os.fdopen(os.dup(1), 'w'), None\nos.closerange(0, 3)\n"
    owner = start_owner("print", "", 1, (), closed)
    pids = workers_of(owner)
    end_of(owner)
    until(lambda: not any(map(is_alive, pids)))


def test_the_thread_that_watches_the_lifeline_ends_the_process() -> None:
    program = (
        "import sys, time; from wool.worker import lifeline; lifeline._ask_kernel = lambda fd: False; "
        "lifeline.arm(int(sys.argv[1])); print('armed', flush=True); time.sleep(1000)"
    )
    for is_late in (False, True):
        reader, writer = os.pipe()
        if is_late:
            os.close(writer)
        process = subprocess.Popen(
            [sys.executable, "-c", program, str(reader)],
            pass_fds=[reader],
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": str(SOURCE)},
        )
        os.close(reader)
        assert process.stdout is not None
        if not is_late:
            assert process.stdout.readline() == b"armed\n"
            os.close(writer)
        assert process.wait(VANISH_SECONDS) == -signal.SIGKILL
        process.stdout.close()


def test_an_owner_that_was_gone_before_the_worker_could_look() -> None:
    lifeline, writer = os.pipe()
    os.close(writer)
    process = subprocess.run(
        [sys.executable, "-m", "wool.worker", "--control", "99", "--lifeline", str(lifeline)],
        pass_fds=[lifeline],
        check=False,
        env={**os.environ, "PYTHONPATH": str(SOURCE)},
        timeout=10,
    )
    os.close(lifeline)
    assert process.returncode == -signal.SIGKILL


@pytest.mark.parametrize("arguments", [[], ["--control", "3"], ["--control", "x", "--lifeline", "4"]])
def test_a_worker_is_not_started_by_hand(arguments: list[str]) -> None:
    process = subprocess.run(
        [sys.executable, "-m", "wool.worker", *arguments],
        env={**os.environ, "PYTHONPATH": str(SOURCE)},
        capture_output=True,
        check=False,
        text=True,
        timeout=10,
    )
    assert process.returncode == 2
    assert "started by its owner only" in process.stderr


@linux_only
def test_no_sibling_holds_a_lifeline() -> None:
    handles: dict[WorkerHandle, asyncio.AbstractEventLoop] = {}
    all_started, done = threading.Barrier(4), threading.Event()

    def own() -> None:
        async def main() -> None:
            mine = await asyncio.gather(*(LAUNCHER.launch(spec()) for _ in range(3)))
            handles.update(dict.fromkeys(mine, asyncio.get_running_loop()))
            await asyncio.to_thread(all_started.wait)
            await asyncio.to_thread(done.wait)
            await asyncio.gather(*(handle.stop(0) for handle in mine))

        asyncio.run(main())

    threads = [threading.Thread(target=own) for _ in range(3)]
    for thread in threads:
        thread.start()
    bystander = None
    try:
        all_started.wait(30)
        bystander = subprocess.Popen(["sleep", "100"], close_fds=False)
        assert len(handles) == 9
        pids = {handle.metadata.pid for handle in handles}
        for handle in handles:
            assert isinstance(handle, launch.WorkerProcess)
            pipe = os.readlink(f"/proc/self/fd/{handle._child.lifeline._writer}")
            assert pipe.startswith("pipe:")
            holders = {pid for pid in {*pids, bystander.pid} if pipe in links(pid)}
            assert holders == {handle.metadata.pid}
            assert list(descriptors().values()).count(pipe) == 1
        victim = next(iter(handles))
        assert isinstance(victim, launch.WorkerProcess)
        victim._child.lifeline.close()
        until(lambda: not is_alive(victim.metadata.pid))
        assert all(is_alive(pid) for pid in pids - {victim.metadata.pid})
    finally:
        done.set()
        for thread in threads:
            thread.join()
        if bystander is not None:
            bystander.kill()
            bystander.wait()


def links(pid: int) -> list[str]:
    found: list[str] = []
    for name in os.listdir(f"/proc/{pid}/fd"):
        with contextlib.suppress(FileNotFoundError):  # closed meanwhile
            found.append(os.readlink(f"/proc/{pid}/fd/{name}"))
    return found


@linux_only
async def test_many_lives_leave_no_descriptor_and_no_zombie() -> None:
    before = len(descriptors())
    for _ in range(3):
        handles = await asyncio.gather(*(LAUNCHER.launch(spec()) for _ in range(3)))
        await asyncio.gather(*(handle.stop(0) for handle in handles))
    assert len(descriptors()) == before


# ---- output ------------------------------------------------------------------------------------------


async def test_output_is_forwarded_by_whole_lines(noticing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = io.StringIO()
    monkeypatch.setattr(sys, "stderr", seen)
    limits = Limits(output_line_bytes=1000)
    handles = await asyncio.gather(
        *(LAUNCHER.launch(spec("print", uid=f"{name * 12}", limits=limits)) for name in "ab")
    )
    await asyncio.gather(*(handle.stop(0) for handle in handles))
    lines = seen.getvalue().splitlines(keepends=True)
    for handle in handles:
        uid = handle.metadata.uid
        prefix = f"[worker {uid[:8]} pid {handle.metadata.pid}] "
        mine = [line.removeprefix(prefix) for line in lines if line.startswith(prefix)]
        assert mine[:1000] == [f"{uid}:{number}:{'x' * 50}\n" for number in range(1000)]
        assert mine[1000:] == ["\ufffd" + "é" * 499 + "\n", "é" * 101 + "\n", "unfinished\n"]
    assert len(lines) == 2 * 1003


class Refusing(io.StringIO):
    def write(self, text: str) -> int:
        raise BrokenPipeError


@pytest.mark.parametrize("how", ["none", "closed", "broken"])
async def test_a_worker_does_not_suffer_from_a_closed_stderr(how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    stream = {"none": None, "closed": io.StringIO(), "broken": Refusing()}[how]
    if how == "closed" and stream is not None:
        stream.close()
    monkeypatch.setattr(sys, "stderr", stream)
    handle = await LAUNCHER.launch(spec("print"))
    await handle.stop(0)
    assert handle.exit_reason == "exit status 0"


# ---- quick -------------------------------------------------------------------------------------------


def test_neither_grpc_nor_the_engine_is_imported_before_the_worker_is_configured() -> None:
    program = (
        "import sys; import wool.worker.process; "
        "heavy = {'grpc', 'google.protobuf', 'wool.proxy', 'wool.transport.grpc', 'wool.worker.serve'}; "
        "sys.exit(repr(heavy & set(sys.modules)) if heavy & set(sys.modules) else 0)"
    )
    subprocess.run(
        [sys.executable, "-c", program], env={**os.environ, "PYTHONPATH": str(SOURCE)}, check=True, timeout=20
    )
