"""The Deployment of docs/kubernetes.md, without Kubernetes: its variables, its command and its probes.

Pods are network namespaces, a real name server does what the headless Service would, and the page's program runs as it
is written there.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import shlex
import sys
import textwrap
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("dns", reason="needs the extra wool[dns]")
pytest.importorskip("cryptography", reason="needs the extra wool[certs]")

import yaml

from support import namespaces
from support.command import WorkerCommand, environment, worker_command
from support.faults import PATIENCE_SECONDS, Journal
from wool.cli.settings import resolve
from wool.cli.supervisor import Status
from wool.cli.worker import OPTIONS, Plan

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "kubernetes.md").read_text()
MANIFEST = ROOT / "deploy" / "kubernetes" / "workers.yaml"
SERVICE, DEPLOYMENT = yaml.safe_load_all(MANIFEST.read_text())
POD = DEPLOYMENT["spec"]["template"]["spec"]
(CONTAINER,) = POD["containers"]
TLS = "/etc/wool/tls"
ZONE = "default.svc.cluster.local."
NAME_SERVER = "10.77.0.1"

pytestmark = pytest.mark.timeout(120)
hosts = pytest.mark.skipif(bool(namespaces.why_not()), reason=namespaces.why_not() or "never")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGE, flags=re.MULTILINE | re.DOTALL)


def variables(address: str, files: Path) -> dict[str, str]:
    """What the container sees at ``address``; its secret is mounted elsewhere."""
    found = {}
    for each in CONTAINER["env"]:
        if "value" in each:
            found[each["name"]] = each["value"].replace(TLS, str(files))
        else:
            assert each["valueFrom"] == {"fieldRef": {"fieldPath": "status.podIP"}}
            found[each["name"]] = address
    return found


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """Where the certificates of the page have been made, as it says."""
    making, _ = blocks("python")
    with contextlib.chdir(tmp_path):
        exec(making, {})
    return tmp_path


# ---- what the file says ------------------------------------------------------------------------------


def test_the_worker_command_understands_every_variable_of_the_deployment(directory: Path) -> None:
    given = variables("10.77.0.2", directory / "worker")
    assert set(given) <= {option.variable for option in OPTIONS}
    plan = Plan.of(resolve("worker", OPTIONS, {}, given))
    assert (plan.host, plan.port, plan.size) == ("10.77.0.2", 7000, 1)
    assert plan.credentials is not None
    assert plan.credentials.workers == ("wool-worker",)
    # The kubelet's patience has to be larger than the worker's by ten seconds.
    assert plan.drain_seconds + 10 <= POD["terminationGracePeriodSeconds"]


def test_the_parts_of_the_file_fit_each_other_and_the_page() -> None:
    assert CONTAINER["command"] == ["wool", "worker"]
    given = variables("", Path(TLS))
    _, name, port = given["WOOL_DISCOVERY"].split(":")
    assert (SERVICE["metadata"]["name"], SERVICE["spec"]["ports"][0]["port"]) == (name, int(port))
    assert SERVICE["spec"]["clusterIP"] == "None"
    labels = DEPLOYMENT["spec"]["template"]["metadata"]["labels"]
    assert SERVICE["spec"]["selector"] == DEPLOYMENT["spec"]["selector"]["matchLabels"] == labels
    (port_of_container,) = CONTAINER["ports"]
    assert port_of_container == {"name": SERVICE["spec"]["ports"][0]["targetPort"], "containerPort": int(port)}
    (volume,), (mount,) = POD["volumes"], CONTAINER["volumeMounts"]
    assert mount == {"name": volume["name"], "mountPath": TLS, "readOnly": True}
    assert POD["enableServiceLinks"] is False
    (commands,) = blocks("sh")
    for words in map(shlex.split, commands.splitlines()):
        assert words[0] == "kubectl"
    assert f"secret generic {volume['secret']['secretName']} " in commands
    assert f"apply -f {MANIFEST.relative_to(ROOT)}\n" in commands
    assert f"deployment/{DEPLOYMENT['metadata']['name']}\n" in commands
    assert f'DnsDiscovery("{name}", port={port})' in PAGE


# ---- the same, run -----------------------------------------------------------------------------------


class Cluster:
    """Pods that are hosts, and what the cluster's name server says of the Service."""

    def __init__(self, directory: Path, stack: contextlib.AsyncExitStack) -> None:
        self.made = stack.enter_context(namespaces.network())
        self.directory = directory
        self._resolv = directory / "resolv.conf"
        self._resolv.write_text(f"nameserver {NAME_SERVER}\nsearch {ZONE}\noptions ndots:5\n")
        self._zone = self.made.host()
        self._server: asyncio.subprocess.Process
        self._ready: list[str] = []

    def inside(self, host: str) -> tuple[str, ...]:
        """The command inside which ``host``'s name server is the cluster's."""
        mount = f'mount --bind "{self._resolv}" /etc/resolv.conf && exec "$@"'
        return ("ip", "netns", "exec", host, "sh", "-c", mount, "sh")

    @contextlib.asynccontextmanager
    async def serving(self) -> AsyncIterator[None]:
        self._server = await asyncio.create_subprocess_exec(
            *("ip", "netns", "exec", self._zone, sys.executable, "-m", "support.name_server", NAME_SERVER, ZONE),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            env=environment(),
        )
        assert self._server.stdin is not None
        try:
            await self._hears("ready")
            yield
        finally:
            self._server.stdin.close()
            await asyncio.wait_for(self._server.communicate(), PATIENCE_SECONDS)

    async def _hears(self, word: str) -> None:
        assert self._server.stdout is not None
        assert await asyncio.wait_for(self._server.stdout.readline(), PATIENCE_SECONDS) == f"{word}\n".encode()

    async def is_ready(self, address: str, ready: bool = True) -> None:
        """Let the name lead to a pod, or no longer."""
        (self._ready.append if ready else self._ready.remove)(address)
        assert self._server.stdin is not None
        texts = ", ".join(f'"{text}"' for text in (SERVICE["metadata"]["name"], "A", *self._ready))
        self._server.stdin.write(f"[{texts}]\n".encode())
        await self._hears("set")

    @contextlib.asynccontextmanager
    async def pod(self, host: str, address: str) -> AsyncIterator[WorkerCommand]:
        """Run the Deployment's container until the end of the block, ready as its probe says."""
        env = variables(address, self.directory / "worker")
        async with worker_command(env=env, inside=self.inside(host), json_lines=False) as command:
            assert await self.probe(host, env) == 0
            await self.is_ready(address)
            yield command

    async def probe(self, host: str, env: dict[str, str]) -> int:
        probe: Any = CONTAINER["readinessProbe"]["exec"]["command"]
        assert probe == CONTAINER["startupProbe"]["exec"]["command"]
        here = self.directory / "bin"
        here.mkdir(exist_ok=True)
        (here / "wool").write_text(f'#!/bin/sh\nexec "{sys.executable}" -m wool "$@"\n')
        (here / "wool").chmod(0o700)
        process = await asyncio.create_subprocess_exec(
            *self.inside(host), *probe, env=environment({**env, "PATH": f"{here}:/usr/bin:/bin"})
        )
        return await asyncio.wait_for(process.wait(), PATIENCE_SECONDS)

    @contextlib.asynccontextmanager
    async def program(self, host: str, body: str) -> AsyncIterator[asyncio.subprocess.Process]:
        """Run the page's program, with ``body`` where it has an ellipsis."""
        _, text = blocks("python")
        text = text.replace(TLS, str(self.directory / "caller"))
        assert text.endswith("    ...\n")
        text = text.removesuffix("    ...\n") + textwrap.indent(textwrap.dedent(body), "    ")
        program = "import asyncio, sys\nimport wool\nfrom support.traced import run\n\nasync def main():\n"
        program += textwrap.indent(text, "    ") + "\nasyncio.run(main())\n"
        path = self.directory / "program.py"
        path.write_text(program)
        process = await asyncio.create_subprocess_exec(
            *self.inside(host),
            *(sys.executable, "-W", "error", str(path)),
            env=environment(),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )
        try:
            yield process
        finally:
            if process.returncode is None:
                process.kill()
            await process.communicate()


CALLS = """
loop = asyncio.get_running_loop()
lines = asyncio.StreamReader()
await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
stop = asyncio.ensure_future(lines.read())
number = 0
while not stop.done():
    print(await run(JOURNAL, f"call-{number}"), flush=True)
    number += 1
"""


@hosts
@pytest.mark.alone
async def test_the_program_of_the_page_uses_the_pods_of_the_deployment_and_a_rollout_fails_no_call(
    directory: Path, journal: Journal
) -> None:
    async with contextlib.AsyncExitStack() as stack:
        cluster = Cluster(directory, stack)
        await stack.enter_async_context(cluster.serving())
        caller, *others = (cluster.made.host() for _ in range(4))
        old = await stack.enter_async_context(cluster.pod(others[0], "10.77.0.3"))
        kept = await stack.enter_async_context(cluster.pod(others[1], "10.77.0.4"))
        body = CALLS.replace("JOURNAL", repr(journal.path))
        program = await stack.enter_async_context(cluster.program(caller, body))
        assert program.stdin is not None and program.stdout is not None

        async def used(*pids: int) -> None:
            assert program.stdout is not None
            missing = set(pids)
            async with asyncio.timeout(2 * PATIENCE_SECONDS):
                while missing:
                    line = await program.stdout.readline()
                    assert line, "the program ended: a call failed"
                    missing.discard(int(line))

        await used(*old.pids, *kept.pids)
        # A rollout: one more is ready, then an old one is told to stop.
        new = await stack.enter_async_context(cluster.pod(others[2], "10.77.0.5"))
        await used(*new.pids)
        old.signal()
        assert await old.ended() == Status.DRAINED
        await cluster.is_ready("10.77.0.3", False)
        env = variables("10.77.0.3", directory / "worker")
        assert await cluster.probe(others[0], env) != 0, "nobody is there, and the probe says so"
        await used(*new.pids, *kept.pids)
        program.stdin.close()
        answers = (await program.stdout.read()).split()
        assert await program.wait() == 0
        assert answers
    calls = [words[1] for words in journal.lines() if words[0] == "begin"]
    assert len(calls) == len(set(calls))
