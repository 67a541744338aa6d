"""The checks of `support.leaks`, each proved by a test that leaks on purpose."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

CONFTEST = """
import pytest
pytest_plugins = ["support.leaks"]
KEPT = []  # what a test leaks must not be collected before it is found

def pytest_configure():
    from support import leaks
    leaks.GRACE_SECONDS = leaks.TASK_GRACE_SECONDS = 0.3

@pytest.fixture
def keep():
    return KEPT.append

def pytest_unconfigure():
    import os, signal, subprocess, threading
    for kept in KEPT:
        if isinstance(kept, subprocess.Popen):
            kept.kill()
            kept.wait()
        elif isinstance(kept, threading.Event):
            kept.set()
        elif isinstance(kept, int):
            os.kill(kept, signal.SIGKILL)
        elif hasattr(kept, "unlink"):
            kept.unlink()
"""

LEAKS = """
import asyncio, os, socket, subprocess, sys, tempfile, threading
from pathlib import Path
import pytest

SLEEP = "import time; time.sleep(60)"

async def test_task():
    asyncio.create_task(asyncio.sleep(60), name="forgotten")

@pytest.fixture
async def service():
    asyncio.create_task(asyncio.sleep(60), name="of a fixture")
    yield

async def test_task_of_a_fixture(service):
    pass

def test_thread(keep):
    stop = threading.Event()
    keep(stop)
    threading.Thread(target=stop.wait, name="forgotten").start()

def test_process(keep):
    keep(subprocess.Popen([sys.executable, "-c", SLEEP]))

def test_zombie(keep):
    keep(subprocess.Popen([sys.executable, "-c", ""]))

def test_descriptor(tmp_path):
    os.open(tmp_path / "opened", os.O_CREAT | os.O_RDWR)

def test_socket(keep):
    keep(socket.socket())

def test_temporary_file():
    tempfile.mkdtemp(prefix="forgotten-")

def test_file_in_the_runtime_directory():
    directory = Path(os.environ["XDG_RUNTIME_DIR"], "wool")
    directory.mkdir()
    (directory / "forgotten.sock").touch()

def test_nothing():
    pass
"""

LEAKS_ON_LINUX = """

CHILD = "import subprocess, sys; print(subprocess.Popen([sys.executable, '-c', sys.argv[1]]).pid)"

def test_orphan(keep):
    made = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", CHILD, "import os; os.close(1); " + SLEEP],
        stdout=subprocess.PIPE, check=True,
    )
    keep(int(made.stdout))

def test_shared_memory(keep):
    path = Path("/dev/shm", f"wool-test-{os.getpid()}")
    path.touch()
    keep(path)
"""

WORDS = {
    "task": "*task 'forgotten' in sleep at *",
    "task_of_a_fixture": "*task 'of a fixture' in sleep at *",
    "thread": "*thread 'forgotten'",
    "process": "*process *: *time.sleep(60)*",
    "zombie": "*process *zombie*",
    "descriptor": "*file descriptor * -> */opened",
    "socket": "*file descriptor * -> socket:*",
    "temporary_file": "*file */forgotten-*/",
    "file_in_the_runtime_directory": "*file */wool/forgotten.sock",
}
WORDS_ON_LINUX = {
    "orphan": "*process *: *time.sleep(60)*",
    "shared_memory": "*file /dev/shm/wool-test-*",
}


def run(pytester: pytest.Pytester, test: str) -> pytest.RunResult:
    """Run ``test`` in a pytest of its own, so that what it leaks is not ours."""
    pytester.makeini("[pytest]\nasyncio_mode = auto\nasyncio_default_fixture_loop_scope = function\n")
    pytester.makeconftest(CONFTEST)
    pytester.makepyfile(test)
    return pytester.runpytest_subprocess("-p", "no:cacheprovider")


@pytest.fixture(autouse=True)
def support_is_importable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[1]))


def test_a_leak_fails_the_test_that_left_it_and_no_other(pytester: pytest.Pytester) -> None:
    on_linux = sys.platform == "linux"
    words = WORDS | WORDS_ON_LINUX if on_linux else WORDS
    result = run(pytester, LEAKS + LEAKS_ON_LINUX if on_linux else LEAKS)
    result.assert_outcomes(passed=len(words) + 1, errors=len(words))
    for kind, expected in words.items():
        result.stdout.fnmatch_lines([f"*ERROR at teardown of test_{kind} *", "the test left behind:", expected])


def test_what_ends_by_itself_soon_is_no_leak(pytester: pytest.Pytester) -> None:
    result = run(
        pytester,
        """
        import asyncio, threading, time

        def test_thread():
            threading.Thread(target=time.sleep, args=[0.2]).start()

        async def test_task():
            asyncio.create_task(asyncio.sleep(0.2))
        """,
    )
    result.assert_outcomes(passed=2)


def test_what_a_test_cleans_up_or_a_wider_fixture_holds_is_no_leak(pytester: pytest.Pytester) -> None:
    result = run(
        pytester,
        """
        import asyncio, socket, subprocess, sys, tempfile, threading
        import pytest

        @pytest.fixture(scope="module", autouse=True)
        def service():
            stop = threading.Event()
            thread = threading.Thread(target=stop.wait)
            thread.start()
            with socket.socket(), tempfile.TemporaryDirectory():
                yield
            stop.set()
            thread.join()

        @pytest.fixture
        async def ticker():
            task = asyncio.create_task(asyncio.sleep(60))
            yield
            task.cancel()

        def test_sync(tmp_path):
            (tmp_path / "kept").touch()
            subprocess.run([sys.executable, "-c", ""], check=True)

        async def test_async(ticker):
            await asyncio.to_thread(int)
        """,
    )
    result.assert_outcomes(passed=2)


def test_grpc_closed_is_no_leak(pytester: pytest.Pytester) -> None:
    result = run(
        pytester,
        """
        import grpc.aio
        import pytest

        @pytest.mark.parametrize("time", range(3))
        async def test_grpc(time):
            server = grpc.aio.server()
            port = server.add_insecure_port("127.0.0.1:0")
            await server.start()
            async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
                await channel.channel_ready()
            await server.stop(None)
        """,
    )
    result.assert_outcomes(passed=3)
