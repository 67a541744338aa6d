"""The one public door: what is behind it, that it is documented, and what opening it costs."""

from __future__ import annotations

import inspect
import subprocess
import sys
import textwrap
from typing import get_origin

import pytest

import wool

PUBLIC = {
    "routines": {
        "ContextVar",
        "Origin",
        "PoolStatistics",
        "routine",
        "RuntimeContext",
        "Task",
        "TaskEvent",
        "TaskException",
        "Token",
        "current_task",
        "map",
        "origin",
    },
    "workers": {"WorkerPool", "WorkerProxy", "LocalWorker", "WorkerMetadata"},
    "discovery": {
        "CredentialFiles",
        "DiscoveryEvent",
        "DiscoveryLike",
        "DiscoveryPublisherLike",
        "DiscoverySubscriberLike",
        "DnsDiscovery",
        "LanDiscovery",
        "LocalDiscovery",
        "StaticDiscovery",
    },
    "load balancing": {"LeastLoadedLoadBalancer", "LoadBalancerLike", "RoundRobinLoadBalancer", "WorkerStatus"},
    "errors": {
        "DispatchTimeout",
        "NoWorkersAvailable",
        "RemoteError",
        "RpcError",
        "SerializationError",
        "TaskInterrupted",
        "TaskLogFilter",
        "TaskOffer",
        "TransientRpcError",
        "UnexpectedResponse",
        "WoolError",
        "WorkerCredentials",
        "WorkerLost",
        "WorkerStartError",
    },
    "version": {"__version__"},
}
NAMES = sorted(name for names in PUBLIC.values() for name in names)

NOT_IMPORTED = {
    # Tests and their tools.
    "_pytest",
    "conftest",
    "doctest",
    "hypothesis",
    "pytest",
    "support",
    "unittest",
    # Heavy, and needed by nobody who only calls routines.
    "IPython",
    "cryptography",
    "dns",
    "numpy",
    "setuptools",
    "zeroconf",
    "wool.cli",
    "wool.discovery.dns",
    "wool.discovery.lan",
    "wool.discovery.sightings",
    "wool.transport.memory",
    "wool.worker.__main__",
}


def test_all_names_are_there_and_no_other() -> None:
    assert sorted(wool.__all__) == NAMES


def test_all_is_sorted_and_says_each_name_once() -> None:
    assert list(wool.__all__) == sorted(set(wool.__all__))


@pytest.mark.parametrize("name", NAMES)
def test_a_public_name_says_where_it_is_from(name: str) -> None:
    value = getattr(wool, name)
    if inspect.isclass(value) or inspect.isfunction(value):
        assert value.__module__.split(".")[0] == "wool"


def undocumented(name: str) -> list[str]:
    """Return what a public name lacks: its own docstring, or that of a public method it defines."""
    value = getattr(wool, name)
    if not (inspect.isclass(value) or inspect.isroutine(value)) or get_origin(value) is not None:
        return []
    own = vars(value).get("__doc__") if inspect.isclass(value) else value.__doc__
    generated = inspect.isclass(value) and (own or "").startswith(f"{value.__name__}(")  # by dataclass
    missing = [name] if not own or generated else []
    if inspect.isclass(value):
        for attribute, member in vars(value).items():
            plain = member.__func__ if isinstance(member, (classmethod, staticmethod)) else member
            plain = plain.fget if isinstance(plain, property) else plain
            documented = inspect.getdoc(getattr(value, attribute)) if inspect.isfunction(plain) else "data"
            if not attribute.startswith("_") and not documented:
                missing.append(f"{name}.{attribute}")
    return missing


@pytest.mark.parametrize("name", NAMES)
def test_a_public_name_is_documented(name: str) -> None:
    assert undocumented(name) == []


def test_import_brings_no_tests_and_nothing_heavy() -> None:
    script = "import sys; before = set(sys.modules); import wool; print(*sorted(set(sys.modules) - before), sep='\\n')"
    output = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    imported = set(output.split())
    assert "wool" in imported
    unwanted = {name for name in imported if name in NOT_IMPORTED or name.split(".")[0] in NOT_IMPORTED}
    assert not unwanted


def test_what_is_imported_late_is_there_like_the_rest() -> None:
    script = """
        import wool
        assert set(wool.__all__) <= set(dir(wool))
        from wool import *
        assert DnsDiscovery is wool.DnsDiscovery
        assert wool.LanDiscovery.__name__ == "LanDiscovery"
        try:
            wool.NoSuchDiscovery
        except AttributeError as error:
            assert str(error) == "module 'wool' has no attribute 'NoSuchDiscovery'", error
    """
    result = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True, check=False
    )
    assert (result.returncode, result.stderr) == (0, "")


def test_import_starts_no_thread_and_says_nothing() -> None:
    script = "import threading, wool; assert threading.active_count() == 1, threading.enumerate()"
    result = subprocess.run([sys.executable, "-W", "error", "-c", script], capture_output=True, text=True, check=False)
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")


@pytest.mark.parametrize(
    ("error", "executed"),
    [
        ("NoWorkersAvailable", "no"),
        ("DispatchTimeout", "no"),
        ("RemoteError", "yes"),
        ("TaskInterrupted", "yes"),
        ("WorkerLost", "unknown"),
    ],
)
def test_an_outcome_says_what_is_known(error: str, executed: str) -> None:
    assert getattr(wool, error).executed == executed
