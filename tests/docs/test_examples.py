"""Every program in ``examples/`` runs as its first lines say, and does what they say."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path

from support.command import worker_command

EXAMPLES = Path(__file__).parents[2] / "examples"
PATIENCE_SECONDS = 60


def run(example: str, *arguments: str, cwd: Path) -> str:
    """Run an example as a user does, warnings being errors; return what it prints."""
    done = subprocess.run(
        [sys.executable, "-W", "error", str(EXAMPLES / example), *arguments],
        cwd=cwd,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONSAFEPATH": "1"}


def test_every_example_has_a_test_here() -> None:
    source = Path(__file__).read_text()
    assert [path.name for path in EXAMPLES.glob("*.py") if not re.search(rf"\b{path.stem}\b", source)] == []


def test_the_quick_start(tmp_path: Path) -> None:
    assert run("quickstart.py", cwd=tmp_path) == "3\n"


def test_the_web_scraper_counts_the_words_of_its_own_pages(tmp_path: Path) -> None:
    assert run("web_scraper.py", cwd=tmp_path) == "wool 4, is 3, sheep 2\n"


def test_the_web_scraper_tells_of_a_page_that_is_not_there(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / "web_scraper.py"), "http://127.0.0.1:1/"],
        cwd=tmp_path,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
        check=True,
    )
    assert re.fullmatch(r"http://127\.0\.0\.1:1/: URLError: .*refused.*\n", done.stderr)


def test_thumbnails_fit_into_the_square_and_keep_their_shape(tmp_path: Path) -> None:
    from PIL import Image

    assert run("thumbnails.py", cwd=tmp_path).splitlines() == [
        "picture0.png: 128 x 96",
        "picture1.png: 96 x 128",
        "picture2.png: 128 x 128",
    ]
    sources, targets = tmp_path / "from", tmp_path / "to"
    sources.mkdir()
    Image.new("RGB", (640, 320)).save(sources / "wide.jpg")
    assert run("thumbnails.py", str(sources), str(targets), cwd=tmp_path) == "wide.jpg: 128 x 64\n"
    with Image.open(targets / "wide.jpg") as thumbnail:
        assert thumbnail.size == (128, 64)


def test_a_file_is_searched_on_a_worker_and_left_in_the_middle(tmp_path: Path) -> None:
    assert len(run("stream_file.py", cwd=tmp_path).splitlines()) == 3
    book = tmp_path / "book"
    book.write_text("".join(f"line {number}\n" for number in range(100_000)))
    assert run("stream_file.py", str(book), "7$", cwd=tmp_path) == "8: line 7\n18: line 17\n28: line 27\n"


async def test_calls_fan_out_over_workers_that_a_command_has_started(tmp_path: Path) -> None:
    namespace = f"example-{os.getpid()}"
    async with worker_command("--discovery", f"local:{namespace}", "--size", "2") as command:
        await command.event("ready")
        output = await asyncio.to_thread(run, "two_hosts.py", f"local:{namespace}", "--calls", "8", cwd=tmp_path)
    counts = [int(line.split()[0]) for line in output.splitlines()]
    assert (len(counts), sum(counts)) == (2, 8)


async def test_a_web_application_runs_its_requests_on_workers() -> None:
    command = ("-m", "uvicorn", "--app-dir", str(EXAMPLES), "fastapi_app:app", "--port", "0")
    server = await asyncio.create_subprocess_exec(sys.executable, *command, stderr=asyncio.subprocess.PIPE)
    assert server.stderr is not None
    try:
        async with asyncio.timeout(PATIENCE_SECONDS):
            while (found := re.search(rb"running on (http://\S+)", line := await server.stderr.readline())) is None:
                assert line, "the server ended"
            url = found.group(1).decode()
            answer = await asyncio.to_thread(_read, f"{url}/primes?below=100")
            assert answer == {"below": 100, "primes": 25}
            server.send_signal(signal.SIGINT)
            rest = await server.stderr.read()
            assert await server.wait() in (0, -signal.SIGINT)
            assert b"Traceback" not in rest
    finally:
        if server.returncode is None:
            server.kill()
            await server.communicate()


def _read(url: str) -> object:
    with urllib.request.urlopen(url, timeout=PATIENCE_SECONDS) as answer:
        return json.load(answer)


def test_tests_of_code_with_routines_pass(tmp_path: Path) -> None:
    suite = tmp_path / "test_with_pytest.py"
    suite.write_text((EXAMPLES / "test_with_pytest.py").read_text())
    (tmp_path / "pytest.ini").write_text("[pytest]\nasyncio_default_fixture_loop_scope = function\n")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-W", "error", "-p", "no:cacheprovider"],
        cwd=tmp_path,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    assert "2 passed" in done.stdout
