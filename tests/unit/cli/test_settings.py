"""What a command is told: a flag wins over the environment, that over the file, and an error says where it stands."""

from __future__ import annotations

import contextlib
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wool.cli import ps, worker
from wool.cli.settings import (
    Option,
    SettingError,
    Settings,
    one_of,
    resolve,
    seconds,
    switch,
    text,
    texts,
    whole,
)
from wool.cli.ways import Way, caller_way, worker_way
from wool.cli.worker import Plan
from wool.limits import MOST_WORKERS
from wool.worker.retirement import Retirement

OPTIONS = (
    Option(name="port", convert=whole(0, 65535, "a number from 0 to 65535"), help=""),
    Option(name="drain-timeout", convert=seconds(), default=30.0, help=""),
    Option(name="tag", convert=texts, repeated=True, default=(), help=""),
    Option(name="json", convert=switch, switch=True, default=False, help=""),
    Option(name="log-format", convert=one_of("text", "json"), default="text", help=""),
)


def settings(
    flags: dict[str, object] | None = None, environment: dict[str, str] | None = None, file: str | None = None
) -> Settings:
    flags = dict(flags or {})
    if file is not None:
        flags["config"] = "/etc/wool.toml"

    def read(path: Path) -> str:
        assert (str(path), file is None) == ("/etc/wool.toml", False)
        return file or ""

    return resolve("worker", OPTIONS, flags, environment or {}, read)


# ---- which one counts --------------------------------------------------------------------------------


def test_a_flag_wins_over_the_environment_and_that_over_the_file() -> None:
    file, variable = "[worker]\nport = 1\ntags = ['file']", {"WOOL_PORT": "2", "WOOL_TAGS": "e,f"}
    assert settings(file=file)["port"] == 1
    assert settings(file=file, environment=variable)["port"] == 2
    all_three = settings({"port": "3", "tag": ["flag"]}, variable, file)
    assert (all_three["port"], all_three["tag"]) == (3, ("flag",))


def test_what_nobody_says_is_the_default() -> None:
    assert dict(settings().values) == {
        "port": None,
        "drain-timeout": 30.0,
        "tag": (),
        "json": False,
        "log-format": "text",
    }


def test_a_variable_that_is_empty_is_not_set() -> None:
    assert settings(environment={"WOOL_PORT": ""}, file="[worker]\nport = 1")["port"] == 1


def test_each_says_the_same_in_its_own_way() -> None:
    expected = {"port": 7, "drain-timeout": 2.5, "tag": ("a", "b"), "json": True, "log-format": "json"}
    flags = {"port": "7", "drain-timeout": "2.5", "tag": ["a", "b"], "json": True, "log-format": "json"}
    variables = {
        "WOOL_PORT": "7",
        "WOOL_DRAIN_TIMEOUT": "2.5",
        "WOOL_TAGS": "a, b",
        "WOOL_JSON": "yes",
        "WOOL_LOG_FORMAT": "json",
    }
    file = "[worker]\nport = 7\ndrain-timeout = 2.5\ntags = ['a', 'b']\njson = true\nlog-format = 'json'\n[ps]\n"
    assert dict(settings(flags).values) == expected
    assert dict(settings(environment=variables).values) == expected
    assert dict(settings(file=file).values) == expected


def test_the_file_can_be_named_in_the_environment(tmp_path: Path) -> None:
    path = tmp_path / "w.toml"
    path.write_text("[worker]\nport = 9")
    assert resolve("worker", OPTIONS, {}, {"WOOL_CONFIG": str(path)})["port"] == 9


# ---- where it stands ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"flags": {"port": "x"}}, "--port: must be a number from 0 to 65535, got 'x'"),
        ({"flags": {"port": "65536"}}, "--port: must be a number from 0 to 65535, got '65536'"),
        ({"flags": {"tag": [""]}}, "--tag: must be strings that are not empty, got"),
        ({"environment": {"WOOL_PORT": "-1"}}, "WOOL_PORT in the environment: must be a number"),
        ({"environment": {"WOOL_PORT": "tcp://10.0.0.1:7"}}, "enableServiceLinks"),
        ({"environment": {"WOOL_TAGS": "a,,b"}}, "WOOL_TAGS in the environment: must be strings that are not empty"),
        ({"environment": {"WOOL_JSON": "perhaps"}}, "WOOL_JSON in the environment: must be true or false"),
        ({"environment": {"WOOL_LOG_FORMAT": "xml"}}, "must be text or json, got 'xml'"),
        ({"environment": {"WOOL_DRAIN_TIMEOUT": "nan"}}, "must be a number of seconds, 0 or more, got 'nan'"),
        ({"environment": {"WOOL_DRAIN_TIMEOUT": "inf"}}, "must be a number of seconds"),
        ({"file": "[worker]\nport = true"}, "port in [worker] of /etc/wool.toml: must be a number"),
        ({"file": "[worker]\nport = 1.5"}, "port in [worker] of /etc/wool.toml: must be a number"),
        ({"file": "[worker]\ntags = [1]"}, "tags in [worker] of /etc/wool.toml: must be strings"),
        ({"file": "[worker]\ntags = 1"}, "tags in [worker] of /etc/wool.toml: must be a list of strings"),
        ({"file": "[worker]\ndrain-timeout = true"}, "must be a number of seconds"),
        ({"file": "[worker]\nprot = 1"}, "prot in [worker] of /etc/wool.toml: there is no such setting, only port"),
        ({"file": "[wroker]\nport = 1"}, "/etc/wool.toml: [wroker] is none of the tables worker, ps"),
        ({"file": "worker = 1"}, "/etc/wool.toml: worker must be a table"),
        ({"file": "[worker"}, "--config: /etc/wool.toml is no TOML"),
    ],
)
def test_an_error_says_where_the_value_stands_and_what_is_wrong(given: dict[str, Any], words: str) -> None:
    with pytest.raises(SettingError) as error:
        settings(**given)
    assert words in str(error.value)


@pytest.mark.parametrize("command", ["worker", "ps", "top", "health"])
def test_one_file_has_a_table_for_each_command_that_takes_one(command: str) -> None:
    options = import_module(f"wool.cli.{command}").OPTIONS
    text = "".join(f'[{each}]\ndiscovery = "lan"\n' for each in ("worker", "ps", "top", "health"))
    found = resolve(command, options, {"config": "/etc/wool.toml"}, {}, lambda _: text)
    assert str(found["discovery"]) == "lan"


def test_a_file_that_cannot_be_read_is_named_with_who_named_it(tmp_path: Path) -> None:
    with pytest.raises(SettingError, match=r"--config: /no/such/file cannot be read: No such file"):
        resolve("worker", OPTIONS, {"config": "/no/such/file"}, {})
    path = tmp_path / "w.toml"
    path.write_bytes(b"\xff")
    with pytest.raises(SettingError, match="WOOL_CONFIG in the environment: .* is no TOML"):
        resolve("worker", OPTIONS, {}, {"WOOL_CONFIG": str(path)})


@given(st.one_of(st.text(), st.integers(), st.floats(), st.booleans(), st.lists(st.text()), st.none(), st.binary()))
def test_anything_at_all_is_a_value_or_a_value_error(value: object) -> None:
    for option in (*worker.OPTIONS, *ps.OPTIONS):
        with contextlib.suppress(ValueError):
            option.convert(value)


def test_no_two_options_of_a_command_have_one_name() -> None:
    for options in (worker.OPTIONS, ps.OPTIONS):
        for names in ([each.name for each in options], [each.variable for each in options]):
            assert len(names) == len(set(names))


def test_a_text_is_no_number() -> None:
    with pytest.raises(ValueError, match="must be a string, got 7"):
        text(7)


# ---- how workers are found ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("said", "way"),
    [
        ("local:team", Way(kind="local", name="team")),
        ("lan", Way(kind="lan")),
        ("lan:eth0,10.0.0.0/8", Way(kind="lan", listed=("eth0", "10.0.0.0/8"))),
        ("dns:workers.default.svc:7000", Way(kind="dns", name="workers.default.svc", port=7000)),
        ("dns:_wool._tcp.example.com", Way(kind="dns", name="_wool._tcp.example.com")),
    ],
)
def test_a_way_is_read_alike_for_workers_and_callers(said: str, way: Way) -> None:
    assert worker_way(said) == caller_way(said) == way


def test_a_worker_is_at_its_own_address_and_a_caller_is_told_of_others() -> None:
    assert worker_way("static") == Way(kind="static")
    assert caller_way("static:10.0.0.1:7, [::1]:7,unix:/x").listed == ("10.0.0.1:7", "[::1]:7", "unix:/x")
    with pytest.raises(ValueError, match="say static, with --host and --port"):
        worker_way("static:10.0.0.1:7")
    with pytest.raises(ValueError, match="say at which addresses"):
        caller_way("static")


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ("", "must be local:NAME, lan, "),
        ("foo", "must be local:NAME, lan, .* got 'foo'"),
        ("local", "must be local:NAME"),
        ("local:", "must be local:NAME"),
        ("local:a/b", "the namespace 'a/b' must consist of"),
        ("lan:", "must be local:NAME"),
        ("dns:", "must be local:NAME"),
        ("dns:a b:7", "'a b' is not a name"),
        ("dns:a:x", "the port of a name must be a number"),
        ("dns:a:70000", "a port must be a number from 1 to 65535, got 70000"),
        ("dns:10.0.0.1:7", "10.0.0.1 is an address and no name"),
        (7, "must be local:NAME"),
    ],
)
def test_a_malformed_way_is_named(said: object, words: str) -> None:
    for convert in (worker_way, caller_way):
        with pytest.raises(ValueError, match=words):
            convert(said)


@pytest.mark.parametrize("said", ["static:10.0.0.1", "static:a:0", "static:", "static:a:7,,b:7"])
def test_a_malformed_address_is_named(said: str) -> None:
    with pytest.raises(ValueError, match=r"is not an address|must be local"):
        caller_way(said)


# ---- what makes sense together -----------------------------------------------------------------------


def plan(**flags: object) -> Plan:
    named = {name.replace("_", "-"): value for name, value in flags.items()}
    return Plan.of(resolve("worker", worker.OPTIONS, named, {}))


def test_with_local_workers_have_unix_sockets_and_one_per_cpu() -> None:
    made = plan(discovery="local:x")
    assert (made.address(0), made.host) == (None, None)
    assert made.size == worker._cpus()


def test_with_a_port_there_is_one_worker_and_each_further_one_takes_the_next() -> None:
    made = plan(discovery="static", port="7000")
    assert (made.size, made.address(0)) == (1, "127.0.0.1:7000")
    made = plan(discovery="static", port="7000", size="3", host="::1")
    assert [made.address(place) for place in range(3)] == ["[::1]:7000", "[::1]:7001", "[::1]:7002"]


def test_any_free_port_is_that_for_each_worker() -> None:
    made = plan(discovery="local:x", host="127.0.0.1", size="2")
    assert [made.address(place) for place in range(2)] == ["127.0.0.1:0", "127.0.0.1:0"]


def test_with_dns_the_port_is_that_at_which_callers_look() -> None:
    made = plan(discovery="dns:workers:7000")
    assert (made.size, made.address(0)) == (1, "127.0.0.1:7000")


def test_a_worker_drains_as_long_whoever_tells_it_to() -> None:
    made = plan(discovery="local:x", drain_timeout="7")
    assert made.limits(worker.DEFAULT_LIMITS).drain_seconds == 7.0
    assert plan(discovery="local:x", drain_timeout="0").limits(worker.DEFAULT_LIMITS).drain_seconds > 0


@pytest.mark.parametrize(
    ("said", "octets"), [("1", 1), (7, 7), ("3K", 3072), ("512M", 512 * 1024**2), ("2GiB", 2 * 1024**3)]
)
def test_a_memory_limit_is_a_number_of_bytes_or_of_binary_units(said: object, octets: int) -> None:
    made = plan(discovery="local:x", memory_limit=said, max_tasks_per_worker="50")
    assert made.retirement == Retirement(max_tasks=50, memory_limit=octets)


def test_beyond_loopback_without_credentials_only_if_that_is_allowed() -> None:
    made = plan(discovery="static", host="10.77.0.1", port="7001", allow_insecure=True)
    assert made.address(0) == "10.77.0.1:7001"


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ({}, "--discovery: must be said: local:NAME"),
        ({"discovery": "local:x", "host": "10.77.0.1"}, "--host: host 10.77.0.1 is not loopback: .* needs mutual TLS"),
        ({"discovery": "local:x", "host": "0.0.0.0"}, "--host: host 0.0.0.0 is no address that callers can be told"),
        ({"discovery": "local:x", "host": "localhost"}, "--host: host must be a literal IP address"),
        ({"discovery": "static"}, "--port: with static callers look at a port that is known"),
        ({"discovery": "static", "port": "0"}, "--port: with static callers look at a port that is known"),
        ({"discovery": "dns:_wool._tcp.x"}, "--port: with dns callers look at a port that is known"),
        ({"discovery": "dns:x:7000", "port": "7001"}, "--port: 7001 is not the port at which callers look, 7000"),
        ({"discovery": "dns:x:7000", "size": "2"}, "--size: 2 workers cannot share port 7000"),
        ({"discovery": "static", "port": "65535", "size": "2"}, "--size: .* there is no port 65536"),
        ({"discovery": "local:x", "tag": ["x" * 3000]}, "--tag: do not fit into the 2048 bytes of a worker's"),
        ({"discovery": "lan", "tag": [f"tag-{n}" for n in range(300)]}, "--tag: do not fit into the 2048"),
        ({"discovery": "dns:x:7000", "tag": ["\udcff"]}, r"--tag: must be text that UTF-8 can write, got \['.udcff'"),
        ({"discovery": "static", "port": "7000", "tag": ["a", ""]}, "--tag: must be strings that are not empty"),
        (
            {"discovery": "static", "port": "7000", "max_tasks_per_worker": "5"},
            "--max-tasks-per-worker: a successor listens before the old worker ends, and port 7000 is taken",
        ),
        ({"discovery": "dns:x:7000", "memory_limit": "1G"}, "--memory-limit: .* leave --port out"),
        ({"discovery": "local:x", "max_tasks_per_worker": "0"}, "--max-tasks-per-worker: must be a number of tasks, 1"),
        (
            {"discovery": "local:x", "memory_limit": "1.5G"},
            "--memory-limit: must be a number of bytes, 1 or more, or of",
        ),
        ({"discovery": "local:x", "memory_limit": "0"}, "--memory-limit: must be a number of bytes, 1 or more, or of"),
        ({"discovery": "local:x", "size": "0"}, "--size: must be a number from 1 to 1024, got '0'"),
        (
            {"discovery": "local:x", "size": str(MOST_WORKERS + 1)},
            "--size: must be a number from 1 to 1024, got '1025'",
        ),
    ],
)
def test_what_makes_no_sense_together_is_named(flags: dict[str, object], words: str) -> None:
    with pytest.raises(SettingError, match=words):
        plan(**flags)


def test_what_makes_no_sense_together_is_named_where_it_stands() -> None:
    with pytest.raises(SettingError, match="^WOOL_HOST in the environment: host 10.0.0.1 is not loopback"):
        Plan.of(resolve("worker", worker.OPTIONS, {"discovery": "local:x"}, {"WOOL_HOST": "10.0.0.1"}))
