"""gRPC is imported with wool's settings, and nothing of them is left in the environment."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from wool.transport import grpc_environment
from wool.transport.grpc_environment import EXPERIMENTS, environment_for_import, installed_version
from wool.worker.child import _environment

NAMES = ("GRPC_ENABLE_FORK_SUPPORT", "GRPC_EXPERIMENTS", "GRPC_VERBOSITY")


@pytest.fixture(autouse=True)
def no_choice_of_the_users(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in NAMES:
        monkeypatch.delenv(name, raising=False)


def test_the_settings_hold_for_the_import_and_are_taken_back() -> None:
    with environment_for_import():
        assert os.environ["GRPC_ENABLE_FORK_SUPPORT"] == "0"
        assert os.environ["GRPC_EXPERIMENTS"] == EXPERIMENTS
        assert os.environ["GRPC_VERBOSITY"] == "NONE"
    assert not set(NAMES) & set(os.environ)


def test_they_are_taken_back_when_the_import_fails() -> None:
    with pytest.raises(ImportError), environment_for_import():
        raise ImportError
    assert not set(NAMES) & set(os.environ)


def test_what_the_user_has_set_stands(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRPC_EXPERIMENTS", "theirs")
    monkeypatch.setenv("GRPC_ENABLE_FORK_SUPPORT", "1")
    with environment_for_import():
        assert (os.environ["GRPC_EXPERIMENTS"], os.environ["GRPC_ENABLE_FORK_SUPPORT"]) == ("theirs", "1")
    assert (os.environ["GRPC_EXPERIMENTS"], os.environ["GRPC_ENABLE_FORK_SUPPORT"]) == ("theirs", "1")


@pytest.mark.parametrize("version", [None, (1, 79), (1, 86), (2, 0)])
def test_a_release_that_was_not_measured_gets_no_experiments(
    monkeypatch: pytest.MonkeyPatch, version: tuple[int, int] | None
) -> None:
    monkeypatch.setattr(grpc_environment, "installed_version", lambda: version)
    with environment_for_import():
        assert "GRPC_EXPERIMENTS" not in os.environ


def test_the_version_is_that_of_the_grpc_that_is_installed() -> None:
    import grpc

    major, minor, *_ = grpc.__version__.split(".")
    assert installed_version() == (int(major), int(minor))


def test_a_grpc_that_does_not_say_its_version_has_none(tmp_path: Path) -> None:
    (tmp_path / "grpc").mkdir()
    (tmp_path / "grpc" / "__init__.py").touch()
    ask = "from wool.transport.grpc_environment import installed_version; print(installed_version())"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])}
    said = subprocess.run([sys.executable, "-c", ask], env=environment, capture_output=True, text=True, check=True)
    assert said.stdout.strip() == "None"


@pytest.mark.parametrize("whose", ["a caller", "a worker with mutual TLS"])
def test_grpc_does_not_complain_about_them(whose: str) -> None:
    open_a_server = (
        "import asyncio, wool.transport.grpc as transport, grpc.aio\n"
        "async def main():\n"
        "    server = grpc.aio.server()\n"
        "    server.add_insecure_port('127.0.0.1:0')\n"
        "    await server.start()\n"
        "    await server.stop(None)\n"
        "asyncio.run(main())\n"
    )
    environment = _environment(grpc_speaks=whose == "a worker with mutual TLS")
    program = [sys.executable, "-c", open_a_server]
    said = subprocess.run(program, env=environment, capture_output=True, text=True, check=True)
    assert said.stderr == ""


LED_TO_A_STRANGER = """
import asyncio, socket, sys, threading
from support.hostile import ENHANCE_YOUR_CALM, GOAWAY, SETTINGS, frame
from wool.limits import Limits
from wool.transport.base import ConnectFailed
from wool.transport.grpc import GrpcTransport

farewell = frame(GOAWAY, 0, (1).to_bytes(4, "big") + ENHANCE_YOUR_CALM.to_bytes(4, "big") + b"too_many_pings")

def serve(listener):
    connection, _ = listener.accept()
    with connection:
        connection.sendall(frame(SETTINGS) + farewell * 1000)
        while connection.recv(65536):
            pass

async def main():
    transport = GrpcTransport(Limits(handshake_seconds=2.0))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=serve, args=(listener,), daemon=True).start()
        try:
            async with asyncio.timeout(3):
                await transport.connect(f"127.0.0.1:{listener.getsockname()[1]}")
        except (ConnectFailed, TimeoutError) as error:
            print(type(error).__name__)
    await transport.close()

asyncio.run(main())
"""


@pytest.mark.parametrize(("chosen", "silent"), [(None, True), ("INFO", False)])
def test_a_stranger_that_a_record_leads_to_has_grpc_write_nothing_unless_the_user_wants_to_hear_it(
    chosen: str | None, silent: bool
) -> None:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    if chosen is not None:
        environment["GRPC_VERBOSITY"] = chosen
    program = [sys.executable, "-c", LED_TO_A_STRANGER]
    said = subprocess.run(program, env=environment, capture_output=True, text=True, check=True, timeout=60)
    assert said.stdout.strip()
    assert (said.stderr == "") == silent
