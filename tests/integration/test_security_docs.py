"""What README.md and docs/security.md tell to do, done as it is written there."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import shlex
import signal
import sys
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

import wool
from support import namespaces
from support.command import environment
from support.faults import PATIENCE_SECONDS
from wool.cli.supervisor import Status
from wool.cli.worker import OPTIONS

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
PAGE = (ROOT / "docs" / "security.md").read_text()

pytestmark = [pytest.mark.timeout(120), pytest.mark.alone]  # the ports are those of the texts
hosts = pytest.mark.skipif(bool(namespaces.why_not()), reason=namespaces.why_not() or "never")


def section(text: str, title: str) -> str:
    found = re.search(rf"^## {re.escape(title)}\n(.*?)(?=^## |\Z)", text, flags=re.MULTILINE | re.DOTALL)
    assert found is not None, title
    return found[1]


def blocks(text: str, language: str) -> list[str]:
    found = re.findall(rf"^( *)```{language}\n(.*?)^\1```$", text, flags=re.MULTILINE | re.DOTALL)
    return ["\n".join(line.removeprefix(indent) for line in block.splitlines()) for indent, block in found]


def commands(text: str) -> list[str]:
    return [line for block in blocks(text, "sh") for line in block.splitlines()]


class Shell:
    """Runs commands in a directory, on this host or on one of its own."""

    def __init__(self, directory: Path, host: str | None = None, **more: str) -> None:
        self._directory = directory
        self._before = () if host is None else ("ip", "netns", "exec", host)
        path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
        self._environment = environment({"PATH": path, "PYTHONWARNINGS": "error", **more})

    async def start(self, *words: str, errors: int | None = None) -> asyncio.subprocess.Process:
        return await asyncio.create_subprocess_exec(
            *self._before,
            *words,
            cwd=self._directory,
            env=self._environment,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=errors,
        )

    async def run(self, command: str) -> str:
        """Run a command to its end; return what it printed. It must not fail."""
        return await self._ended(await self.start("sh", "-ec", command), command)

    async def fails(self, command: str) -> bool:
        """Run a command to its end; return whether it failed."""
        process = await self.start("sh", "-ec", command)
        await asyncio.wait_for(process.communicate(), PATIENCE_SECONDS)
        return process.returncode != 0

    async def python(self, program: str) -> str:
        """Run a program from a file, as one does; return what it printed."""
        (self._directory / "program.py").write_text(program)
        return await self._ended(await self.start(sys.executable, "program.py"), program)

    async def _ended(self, process: asyncio.subprocess.Process, what: str) -> str:
        try:
            output, _ = await asyncio.wait_for(process.communicate(), PATIENCE_SECONDS)
        except BaseException:
            process.kill()
            await process.communicate()
            raise
        assert process.returncode == 0, what
        return output.decode()

    @contextlib.asynccontextmanager
    async def worker(self, command: str) -> AsyncIterator[None]:
        """Run ``wool worker`` until the end of the block, from when it is ready; told to stop, it drains."""
        words = shlex.split(command)
        assert words[:2] == ["wool", "worker"]
        process = await self.start(*words, "--size", "1", errors=asyncio.subprocess.PIPE)
        assert process.stderr is not None
        lines: list[str] = []

        async def read(until: str = "") -> None:
            assert process.stderr is not None
            while line := await process.stderr.readline():
                lines.append(line.decode())
                if until and f"event={until}" in lines[-1]:
                    return

        try:
            await asyncio.wait_for(read("ready"), PATIENCE_SECONDS)
            assert process.returncode is None and lines and "event=ready" in lines[-1], lines
            yield
            process.send_signal(signal.SIGTERM)
            await asyncio.wait_for(asyncio.gather(read(), process.wait()), PATIENCE_SECONDS)
            assert process.returncode == Status.DRAINED, lines
        finally:
            if process.returncode is None:
                process.kill()
                await asyncio.gather(read(), process.wait())


@pytest.fixture
def own_ports() -> Any:
    """A host of its own where there can be one: then the ports of the texts are free."""
    if namespaces.why_not():
        yield None
        return
    with namespaces.network() as made:
        yield made.host()


async def test_the_security_example_of_the_readme_runs_as_written(tmp_path: Path, own_ports: str | None) -> None:
    text = section(README, "Workers on other hosts")
    (program,) = blocks(text, "python")
    init, worker = commands(text)
    shell = Shell(tmp_path, own_ports)
    await shell.run(init)
    async with shell.worker(worker):
        assert await shell.python(program) == "3\n"


@hosts
async def test_the_two_hosts_of_the_documentation_serve_a_third_as_written(tmp_path: Path) -> None:
    text = section(PAGE, "Two hosts")
    (program,) = blocks(text, "python")
    *making, second, third, ps = commands(text)
    with namespaces.network() as made:
        own, *others = made.host(), made.host(), made.host()
        await made_here(tmp_path / "authority", making)
        shells = [
            await with_files_of(tmp_path, name, host) for name, host in zip(("host2", "host3"), others, strict=True)
        ]
        caller = await with_files_of(tmp_path, "caller", own)
        async with shells[0].worker(second), shells[1].worker(third):
            assert await caller.python(program) == "[1, 2, 3, 4]\n"
            assert (await caller.run(ps)).count(" up ") == 2
            stranger = await with_files_of(tmp_path, "worker", own)
            assert (await stranger.run(ps.replace("/caller.", "/worker."))).count(" up ") == 2
            # What the authority signs for somebody whom the workers do not name is nobody to them.
            await Shell(tmp_path / "authority").run("wool certs issue other somebody-else --caller")
            nobody = await with_files_of(tmp_path, "other", own)
            assert (await nobody.run(ps.replace("/caller.", "/other."))).count("PERMISSION_DENIED") == 2


async def made_here(directory: Path, making: Sequence[str]) -> None:
    directory.mkdir()
    for command in making:
        await Shell(directory).run(command)


async def with_files_of(tmp_path: Path, name: str, host: str) -> Shell:
    """Return a shell on a host that has the certificate of the authority, and one pair."""
    directory = tmp_path / name
    (directory / "certs").mkdir(parents=True)
    for file in ("ca.pem", f"{name}.pem", f"{name}.key"):
        (directory / "certs" / file).write_bytes((tmp_path / "authority" / "certs" / file).read_bytes())
    return Shell(directory, host)


CALL = """
import asyncio, sys, wool
credentials = wool.CredentialFiles(ca_path=sys.argv[1] + "/ca.pem", cert_path=sys.argv[1] + "/caller.pem",
                                   key_path=sys.argv[1] + "/caller.key")
@wool.routine
async def add(x, y):
    return x + y
async def main():
    async with wool.WorkerPool(discovery=wool.StaticDiscovery("127.0.0.1:7001"), credentials=credentials):
        print(await add(1, 2))
asyncio.run(main())
"""


async def test_certificates_and_their_authority_are_rotated_as_written_and_no_worker_is_restarted(
    tmp_path: Path, own_ports: str | None
) -> None:
    """After each step the caller's files of this step are served; in the end those of the beginning are not."""
    *renewing, both, cat, mv, all_new, only_new = commands(section(PAGE, "Rotation"))
    shell = Shell(tmp_path, own_ports)
    (tmp_path / "call.py").write_text(CALL)
    await shell.run("wool certs init")
    await shell.run("cp -a certs before")
    worker = commands(section(README, "Workers on other hosts"))[1]
    steps = [renewing, [both, cat, mv], [all_new], [only_new]]
    assert [len(step) for step in steps] == [3, 3, 1, 1]
    async with shell.worker(worker):
        for step in steps:
            assert await shell.run("python call.py certs") == "3\n"
            for command in step:
                await shell.run(command)
        assert await shell.run("python call.py certs") == "3\n"
        assert await shell.fails("python call.py before 2>/dev/null")
    assert wool.WorkerCredentials.from_files(
        ca_path=tmp_path / "certs" / "ca.pem",
        key_path=tmp_path / "certs" / "worker.key",
        cert_path=tmp_path / "certs" / "worker.pem",
    ).mutual


def pod() -> dict[str, Any]:
    (containers,) = (block for block in blocks(PAGE, "yaml") if block.startswith("containers:"))
    found: dict[str, Any] = yaml.safe_load(containers)
    return found


async def test_the_command_of_the_pod_serves_answers_its_probe_and_takes_renewed_files_as_kubelet_writes_them(
    tmp_path: Path, own_ports: str | None
) -> None:
    (container,) = pod()["containers"]
    (mount,) = container["volumeMounts"]
    (probe,) = commands(section(PAGE, "Probes"))
    assert mount["mountPath"] == "/tls"
    certificates = documents()
    worker = certificates["wool-worker"]["spec"]
    assert {"server auth", "client auth"} < set(worker["usages"])

    shell = Shell(tmp_path, own_ports, POD_IP="127.0.0.1")
    volume = Volume(tmp_path / "tls")

    async def renew() -> None:
        await shell.run(f"wool certs issue worker {' '.join(worker['dnsNames'])} --force")
        names = {"ca.crt": "ca.pem", "tls.crt": "worker.pem", "tls.key": "worker.key"}
        volume.write({here: (tmp_path / "certs" / there).read_bytes() for here, there in names.items()})

    def placed(text: str) -> str:
        return text.replace("/tls/", f"{volume.path}/").replace("$(POD_IP)", "127.0.0.1")

    await shell.run("wool certs init")
    await renew()
    async with shell.worker(shlex.join(placed(word) for word in container["command"])):
        await shell.run(placed(probe))
        program = CALL.replace('"/caller.key")', '"/caller.key", workers=("wool-worker",))')
        (tmp_path / "call.py").write_text(program)
        assert await shell.run("python call.py certs") == "3\n"
        before = volume.current()
        await shell.run("wool certs init --force")  # another authority: nothing of before is of any use
        await renew()
        assert volume.current() != before
        assert await shell.run("python call.py certs") == "3\n"
        await shell.run(placed(probe))
    assert await shell.fails(placed(probe))


class Volume:
    """A directory in which all files change at once, as kubelet does it: by a link that is replaced."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._made = 0
        path.mkdir()

    def write(self, files: dict[str, bytes]) -> None:
        self._made += 1
        data = self.path / f"..{self._made}"
        data.mkdir()
        for name, content in files.items():
            (data / name).write_bytes(content)
            if not (self.path / name).is_symlink():
                (self.path / name).symlink_to(f"..data/{name}")
        (self.path / "..data_tmp").symlink_to(data.name)
        (self.path / "..data_tmp").replace(self.path / "..data")

    def current(self) -> str:
        return os.readlink(self.path / "..data")


def documents() -> dict[str, Any]:
    (text,) = (block for block in blocks(PAGE, "yaml") if not block.startswith("containers:"))
    return {each["metadata"]["name"]: each for each in yaml.safe_load_all(text)}


def test_what_certificates_and_pod_name_of_each_other_is_there() -> None:
    found = documents()
    assert set(found) == {"wool-bootstrap", "wool-ca", "wool", "wool-worker", "wool-caller"}
    deployed = Path(__file__).parents[2] / "deploy" / "cert-manager" / "certificates.yaml"
    assert list(yaml.safe_load_all(deployed.read_text())) == list(found.values())
    for each in found.values():
        issuer = each["spec"].get("issuerRef", {"name": each["metadata"]["name"]})["name"]
        assert found[issuer]["kind"] in ("Issuer", each["kind"])
    assert found["wool"]["spec"]["ca"]["secretName"] == found["wool-ca"]["spec"]["secretName"]
    (volume,) = pod()["volumes"]
    assert volume["secret"]["secretName"] == found["wool-worker"]["spec"]["secretName"]
    (container,) = pod()["containers"]
    flags = {word for word in container["command"] if word.startswith("--")}
    assert flags <= {f"--{option.name}" for option in OPTIONS}


def test_every_flag_of_the_page_is_one_of_the_commands() -> None:
    known = {f"--{option.name}" for option in OPTIONS} | {"--force", "--json", "--caller"}
    assert set(re.findall(r"(?<![\w-])--[a-z][a-z-]*", PAGE)) <= known


async def test_the_first_commands_of_the_page_make_what_its_table_names(tmp_path: Path) -> None:
    text = section(PAGE, "Certificates")
    shell = Shell(tmp_path)
    for command in commands(text):
        await shell.run(command)
    named = set(re.findall(r"certs/[\w.]+", text))
    assert named and all((tmp_path / name).exists() for name in named)
    rows = json.loads(await shell.run("wool certs show --json"))
    assert len(rows) == 3
