"""Each layer knows only those below it: read from the imports of every module, not from good intentions.

An import counts wherever it stands: at the top, inside a function, or for the type checker alone.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[2] / "src"

LAYERS = (
    # From the bottom up. A module may import from its own layer and from those below, never upward.
    (
        "words",
        {
            "_version",
            "balancer",
            "buffers",
            "certificates",
            "context",
            "credentials",
            "deadlines",
            "definition",
            "discovery",
            "discovery.base",
            "discovery.dns",
            "discovery.following",
            "discovery.lan",
            "discovery.local",
            "discovery.lookups",
            "discovery.mdns",
            "discovery.namespace",
            "discovery.records",
            "discovery.roster",
            "discovery.sightings",
            "discovery.static",
            "discovery.table",
            "discovery.view",
            "authority",
            "classes",
            "errors",
            "events",
            "failure",
            "harmless",
            "home",
            "limits",
            "lives",
            "pem",
            "reducers",
            "references",
            "refusals",
            "remote_traceback",
            "resident",
            "runtime_directory",
            "serialization",
            "statistics",
            "tally",
            "task",
            "tasklog",
            "variables",
            "whereabouts",
        },
    ),
    (
        "transport: moves frames",
        {
            "transport",
            "transport.base",
            "transport.grpc",
            "transport.grpc_environment",
            "transport.grpc_health",
            "transport.grpc_options",
            "transport.grpc_pulse",
            "transport.grpc_streams",
            "transport.grpc_tls",
            "transport.memory",
            "transport.onlookers",
            "transport.serving",
        },
    ),
    (
        "protocol: the state machines",
        {
            "protocol",
            "protocol.caller",
            "protocol.codec",
            "protocol.flow",
            "protocol.frames",
            "protocol.handshake",
            "protocol.tracing",
            "protocol.wire_pb2",
            "protocol.worker",
        },
    ),
    (
        "sessions: drive one",
        {
            "bridge",
            "connection",
            "observer",
            "otel",
            "session",
            "tracing",
            "worker",
            "worker.admission",
            "worker.door",
            "worker.job",
            "worker.ledger",
            "worker.service",
            "worker.signals",
        },
    ),
    (
        "engine: place tasks, run tasks",
        {
            "admission",
            "call",
            "crew",
            "dispatch",
            "endings",
            "lending",
            "link",
            "links",
            "lookout",
            "proxy",
            "runtime",
            "supplied",
            "worker.channel",
            "worker.child",
            "worker.examiner",
            "worker.forks",
            "worker.lag",
            "worker.launch",
            "worker.spec",
            "worker.lifeline",
            "worker.local",
            "worker.logs",
            "worker.loops",
            "worker.nested",
            "worker.output",
            "worker.places",
            "worker.process",
            "worker.exposure",
            "worker.renewal",
            "worker.retirement",
            "worker.runner",
            "worker.seats",
            "worker.serve",
            "worker.stretches",
            "worker.succession",
        },
    ),
    (
        "what the user touches",
        {
            "cli",
            "cli.certs",
            "cli.completion",
            "cli.credentials",
            "cli.health",
            "cli.main",
            "cli.metrics",
            "cli.ps",
            "cli.settings",
            "cli.supervisor",
            "cli.top",
            "cli.ways",
            "cli.worker",
            "mapping",
            "pool",
            "routine",
        },
    ),
    (
        "sim: a whole cluster in one process",
        {
            "sim",
            "sim.__main__",
            "sim.bodies",
            "sim.campaign",
            "sim.cluster",
            "sim.consumer",
            "sim.coverage",
            "sim.diagram",
            "sim.discovery",
            "sim.driver",
            "sim.faults",
            "sim.fence",
            "sim.history",
            "sim.hooks",
            "sim.identity",
            "sim.invariants",
            "sim.invariants.balancing",
            "sim.invariants.cancellation",
            "sim.invariants.discovery",
            "sim.invariants.exits",
            "sim.invariants.finding",
            "sim.invariants.generators",
            "sim.invariants.room",
            "sim.invariants.safety",
            "sim.invariants.story",
            "sim.invariants.table",
            "sim.invariants.telling",
            "sim.invariants.variables",
            "sim.kinds",
            "sim.loop",
            "sim.mailbox",
            "sim.multicast",
            "sim.network",
            "sim.node",
            "sim.oracle",
            "sim.plan",
            "sim.processes",
            "sim.program",
            "sim.progress",
            "sim.quiet",
            "sim.records",
            "sim.report",
            "sim.run",
            "sim.shapes",
            "sim.shrink",
            "sim.speed",
            "sim.stepping",
            "sim.strategies",
            "sim.subscribed",
            "sim.suspended",
            "sim.told",
            "sim.traced",
            "sim.trust",
            "sim.waiting",
            "sim.watch",
            "sim.words",
            "sim.workers",
            "sim.workload",
            "sim.zone",
        },
    ),
    ("doors", {"", "__main__", "worker.__main__"}),
)
LEVEL = {module: level for level, (_, modules) in enumerate(LAYERS) for module in modules}

EXTRAS = {
    "cryptography": {"authority", "certificates"},
    "dns": {"discovery.dns"},
    "ifaddr": {"discovery.mdns"},
    "opentelemetry": {"otel"},
    "prometheus_client": {"cli.metrics"},
    "uvloop": {"worker.loops"},
    "zeroconf": {"discovery.mdns"},
}
"""What comes with an extra, and the only modules that may know it."""
GRPC = {
    "transport.grpc",
    "transport.grpc_health",
    "transport.grpc_options",
    "transport.grpc_pulse",
    "transport.grpc_streams",
    "transport.grpc_tls",
}
"""The only modules that may know gRPC."""
PURE = {module for module in LEVEL if module.startswith("protocol.")} | {
    "certificates",
    "discovery.lookups",
    "discovery.records",
    "discovery.roster",
    "discovery.sightings",
    "discovery.table",
    "discovery.view",
    "worker.retirement",
}
IMPURE = {
    "asyncio",
    "concurrent",
    "logging",
    "multiprocessing",
    "os",
    "random",
    "secrets",
    "select",
    "signal",
    "socket",
    "subprocess",
    "threading",
    "time",
    "uuid",
}
"""What a pure module has no use for: it never awaits, logs, reads a clock or draws a random number."""


def modules_of(source: Path) -> dict[str, Path]:
    """Return every module of ``source/wool``, by its name without the leading ``wool.``."""
    found: dict[str, Path] = {}
    for path in sorted((source / "wool").rglob("*.py")):
        parts = path.relative_to(source / "wool").with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imports_of(path: Path) -> Iterator[tuple[str, str, int]]:
    """Yield what a module imports: a module, the name taken from it (or nothing), and the line."""
    for node in ast.walk(ast.parse(path.read_text(), str(path))):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, "", node.lineno
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: a relative import"
            for alias in node.names:
                yield node.module or "", alias.name, node.lineno


def wool_imports(path: Path, known: dict[str, Path]) -> Iterator[tuple[str, int]]:
    """Yield the modules of wool that a module imports; what is taken from a package may be one too."""
    for module, name, line in imports_of(path):
        if module.split(".")[0] == "wool":
            inside = module.removeprefix("wool").lstrip(".")
            submodule = f"{inside}.{name}".lstrip(".")
            yield (submodule if submodule in known else inside), line


def problems_in(source: Path) -> list[str]:
    """Return what is wrong with the layers, in words."""
    known = modules_of(source)
    problems = [f"wool.{module}: no layer knows it; give it a layer in {__name__}" for module in known.keys() - LEVEL]
    graph: dict[str, set[str]] = {}
    for module, path in known.items():
        graph[module] = set()
        for other, line in wool_imports(path, known):
            if other == module:
                continue
            graph[module].add(other)
            if other not in known:
                problems.append(f"{path.name}:{line}: there is no wool.{other}")
            if module in LEVEL and other in LEVEL and LEVEL[other] > LEVEL[module]:
                problems.append(
                    f"{path.name}:{line}: wool.{module} ({LAYERS[LEVEL[module]][0]}) imports upward: "
                    f"wool.{other} ({LAYERS[LEVEL[other]][0]})"
                )
        if path.name == "__init__.py" and module and graph[module]:
            problems.append(f"wool.{module}/__init__.py imports {sorted(graph[module])}; only wool/__init__.py may")
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        problems.append("modules in a circle: " + " <- ".join(f"wool.{module}" for module in error.args[1]))
    return sorted(problems)


def test_no_import_runs_upward_and_none_in_a_circle() -> None:
    problems = problems_in(SOURCE)
    assert not problems, "\n".join(problems)


@pytest.mark.parametrize("module", sorted(modules_of(SOURCE)))
def test_what_a_module_may_import_from_outside(module: str) -> None:
    for imported, _, line in imports_of(modules_of(SOURCE)[module]):
        top = imported.split(".")[0]
        if top == "grpc":
            assert module in GRPC, f"wool.{module}, line {line}: only {sorted(GRPC)} know gRPC"
        if module in PURE:
            assert top not in IMPURE, f"wool.{module}, line {line}: a pure module has no use for {top}"
        if top in EXTRAS:
            assert module in EXTRAS[top], f"wool.{module}, line {line}: only {sorted(EXTRAS[top])} know {top}"
            continue
        if top == "hypothesis":
            assert module.startswith("sim."), f"wool.{module}, line {line}: only wool.sim knows hypothesis"
            continue
        assert top in sys.stdlib_module_names | {"wool", "grpc", "google", "cloudpickle"}, (
            f"wool.{module}, line {line}: {top} is no dependency"
        )


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({"errors.py": "from wool import pool", "pool.py": ""}, "errors.py:1: wool.errors (words) imports upward"),
        (
            {"errors.py": "def f():\n    from wool.worker.service import S", "worker/service.py": ""},
            "errors.py:2: wool.errors (words) imports upward",
        ),
        (
            {
                "task.py": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import wool.proxy",
                "proxy.py": "",
            },
            "task.py:3: wool.task (words) imports upward: wool.proxy",
        ),
        ({"task.py": "import wool.limits", "limits.py": "from wool.task import Task"}, "modules in a circle"),
        ({"novelty.py": ""}, "give it a layer"),
        ({"worker/__init__.py": "import wool.errors", "errors.py": ""}, "only wool/__init__.py may"),
    ],
)
def test_a_wrong_import_is_found(tmp_path: Path, files: dict[str, str], words: str) -> None:
    for name, text in {"__init__.py": "", **files}.items():
        path = tmp_path / "wool" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    problems = problems_in(tmp_path)
    assert any(words in problem for problem in problems), problems
