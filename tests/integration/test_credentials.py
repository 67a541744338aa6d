"""Workers that speak TLS, on real processes: who is served, nested calls, rotation, and hosts of their own."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import re
import ssl
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from fixtures import HOST, WORKER, Fixtures, make, write

import wool
from support import namespaces
from support.command import free_port, wool_command, worker_command
from support.far_caller import through
from support.faults import Journal, until
from support.hosts import certify, far_caller, flags, worker_on
from support.routines import add
from support.traced import run, run_until
from wool.cli.supervisor import Status
from wool.context import credentials_in_force
from wool.limits import Limits
from wool.runtime import real_runtime, set_runtime
from wool.worker.exposure import warn_if_insecure
from wool.worker.spec import WorkerSpec

pytestmark = pytest.mark.timeout(120)
hosts = pytest.mark.skipif(bool(namespaces.why_not()), reason=namespaces.why_not() or "never")


@pytest.fixture(scope="module")
def fixtures() -> Fixtures:
    return make()


@pytest.fixture
def files(fixtures: Fixtures, tmp_path: Path) -> Path:
    write(fixtures, tmp_path / "certificates")
    return tmp_path / "certificates"


def in_files(directory: Path, name: str) -> wool.CredentialFiles:
    return wool.CredentialFiles(
        ca_path=str(directory / "ca.pem"),
        key_path=str(directory / f"{name}.key"),
        cert_path=str(directory / f"{name}.pem"),
    )


# ---- who is served -----------------------------------------------------------------------------------


async def test_workers_with_credentials_serve_who_has_some_and_call_each_other_with_their_own(
    fixtures: Fixtures, journal: Journal
) -> None:
    shown = fixtures.credentials("worker")
    async with (
        wool.LocalWorker(host=HOST, credentials=shown) as one,
        wool.LocalWorker(host=HOST, credentials=shown) as other,
    ):
        assert one.metadata.secure
        both = {one.metadata.pid, other.metadata.pid}
        async with wool.WorkerProxy(workers=[one.metadata, other.metadata], credentials=fixtures.credentials("caller")):
            assert {await run(journal.path, journal.new_call()) for _ in range(4)} == both
            found: set[int] = set()
            while found != both:
                found.add(await through(journal.path, journal.new_call()))


async def test_a_proxy_without_credentials_uses_no_worker_that_has_some_and_the_other_way_round(
    fixtures: Fixtures, journal: Journal
) -> None:
    caller = fixtures.credentials("caller")
    async with (
        wool.LocalWorker(host=HOST, credentials=fixtures.credentials("worker")) as secure,
        wool.LocalWorker(host=HOST) as plain,
    ):
        for worker, credentials, why in (
            (secure, None, "has credentials, and this side has no credentials"),
            (plain, caller, "has no credentials, and this side has credentials"),
        ):
            async with wool.WorkerProxy(workers=[worker.metadata], credentials=credentials):
                with wool.RuntimeContext(dispatch_timeout=0.5), pytest.raises(wool.DispatchTimeout, match=why):
                    await run(journal.path, "refused")
        async with wool.WorkerProxy(workers=[secure.metadata, plain.metadata], credentials=caller):
            assert {await run(journal.path, journal.new_call()) for _ in range(4)} == {secure.metadata.pid}
    assert journal.executions("refused") == 0


@pytest.mark.parametrize("shown", ["expired", "wrong authority", "server usage only"])
async def test_a_caller_whose_certificate_is_no_good_runs_nothing(
    fixtures: Fixtures, journal: Journal, shown: str
) -> None:
    async with wool.LocalWorker(host=HOST, credentials=fixtures.credentials("worker")) as worker:
        async with wool.WorkerProxy(workers=[worker.metadata], credentials=fixtures.credentials(shown)):
            with pytest.raises(wool.NoWorkersAvailable, match="the worker refused this side's certificate"):
                await run(journal.path, "refused")
        async with wool.WorkerProxy(workers=[worker.metadata], credentials=fixtures.credentials("caller")):
            await run(journal.path, "next")
    assert [journal.executions(call) for call in ("refused", "next")] == [0, 1]


async def test_one_way_tls_needs_the_secret_too(fixtures: Fixtures, journal: Journal) -> None:
    shown = fixtures.issued["worker"]

    def one_way(secret: bytes, **own: Any) -> wool.WorkerCredentials:
        return wool.WorkerCredentials(ca=fixtures.ca, mutual=False, secret=secret, **own)

    worker_side = one_way(b"the secret of both", key=shown.key, cert=shown.cert)
    async with wool.LocalWorker(host=HOST, credentials=worker_side) as worker:
        async with wool.WorkerProxy(workers=[worker.metadata], credentials=one_way(b"the secret of both")):
            await run(journal.path, "known")
        async with wool.WorkerProxy(workers=[worker.metadata], credentials=one_way(b"some other secret")):
            with pytest.raises(wool.NoWorkersAvailable, match="did not prove that it knows the secret"):
                await run(journal.path, "unknown")
    assert [journal.executions(call) for call in ("known", "unknown")] == [1, 0]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"host": "10.77.0.1"}, "host 10.77.0.1 is not loopback: .* needs mutual TLS; give LocalWorker credentials"),
        ({"host": "0.0.0.0", "credentials": True}, "host 0.0.0.0 is no address that callers can be told"),
        ({"credentials": True}, "credentials are for workers on TCP"),
    ],
)
def test_a_worker_says_what_it_lacks(fixtures: Fixtures, arguments: dict[str, Any], message: str) -> None:
    if arguments.get("credentials"):
        arguments = {**arguments, "credentials": fixtures.credentials("worker")}
    with pytest.raises(ValueError, match=message):
        wool.LocalWorker(**arguments)


def test_beyond_loopback_nobody_listens_without_credentials_unless_that_is_allowed() -> None:
    wool.LocalWorker(host="10.77.0.1", allow_insecure=True)
    wool.WorkerPool(size=1, discovery=wool.LocalDiscovery("team"), host="10.77.0.1", allow_insecure=True)
    with pytest.raises(ValueError, match="host 10.77.0.1 is not loopback: .*; give WorkerPool credentials"):
        wool.WorkerPool(size=1, discovery=wool.LocalDiscovery("team"), host="10.77.0.1")


@pytest.mark.parametrize("given", ["held", "files", "function"])
async def test_beyond_loopback_callers_without_certificates_are_served_only_if_that_is_allowed(
    fixtures: Fixtures, files: Path, given: str
) -> None:
    """A secret instead is not enough: one-way TLS leaves the caller anonymous."""
    shown, secret = fixtures.issued["worker"], b"the secret of both"
    (files / "secret").write_bytes(secret)
    held = wool.WorkerCredentials(ca=fixtures.ca, key=shown.key, cert=shown.cert, mutual=False, secret=secret)
    in_file = wool.CredentialFiles(
        ca_path=str(files / "ca.pem"),
        key_path=str(files / "worker.key"),
        cert_path=str(files / "worker.pem"),
        mutual=False,
        secret_path=str(files / "secret"),
    )
    credentials: Any = {"held": held, "files": in_file, "function": lambda: held}[given]
    pool: dict[str, Any] = {"size": 1, "discovery": wool.LocalDiscovery("team"), "host": "10.77.0.1"}
    message = (
        "10.77.0.1:0 is not loopback: .* needs mutual TLS, and with mutual=False callers show no certificate; give {} "
        "credentials with mutual=True, or use '127.0.0.1', or say allow_insecure=True"
    )
    with pytest.raises(ValueError, match=message.format("LocalWorker")):
        await wool.LocalWorker(host="10.77.0.1", credentials=credentials).start()
    with pytest.raises(ValueError, match=message.format("WorkerPool")):
        async with wool.WorkerPool(**pool, credentials=credentials):
            raise AssertionError("it was opened")
    if given != "function":  # which is asked at the start, and not before
        with pytest.raises(ValueError, match=message.format("LocalWorker")):
            wool.LocalWorker(host="10.77.0.1", credentials=credentials)
        with pytest.raises(ValueError, match=message.format("WorkerPool")):
            wool.WorkerPool(**pool, credentials=credentials)
    # No host has this address, so what is allowed fails for that.
    with pytest.raises(wool.WorkerStartError, match="cannot listen at 10.77.0.1:0"):
        await wool.LocalWorker(host="10.77.0.1", credentials=credentials, allow_insecure=True).start()
    with pytest.raises(wool.WorkerStartError, match="cannot listen at 10.77.0.1:0"):
        async with wool.WorkerPool(**pool, credentials=credentials, allow_insecure=True):
            raise AssertionError("it was opened")


@pytest.mark.parametrize(
    ("address", "warned"),
    [("10.77.0.1:7001", 1), ("[fe80::1]:7001", 1), ("127.0.0.1:7001", 0), ("[::1]:7001", 0), ("unix:/run/w", 0)],
)
@pytest.mark.parametrize(
    ("shown", "words"), [(None, "speaks no TLS"), ("one-way", "wants no certificate of callers"), ("mutual", "")]
)
def test_each_start_beyond_loopback_without_mutual_tls_is_warned_of(
    fixtures: Fixtures, caplog: pytest.LogCaptureFixture, address: str, warned: int, shown: str | None, words: str
) -> None:
    own = fixtures.issued["worker"]
    credentials = shown and wool.WorkerCredentials(
        ca=fixtures.ca, key=own.key, cert=own.cert, mutual=shown == "mutual", secret=b"the secret of both"
    )
    spec = WorkerSpec(address=address, secret=b"s" * 32, credentials=credentials or None, uid="w", limits=Limits())
    warn_if_insecure(spec.credentials, address)
    assert len(caplog.messages) == (warned if words else 0)
    assert all(f"the worker at {address} {words}" in message for message in caplog.messages)


@hosts
@pytest.mark.alone
async def test_a_worker_that_is_allowed_to_be_insecure_is_reached_by_this_users_key_and_warns_at_its_start() -> None:
    with namespaces.network() as made:
        first, second = made.host(), made.host()
        flags = ("--discovery", "static", "--host", "10.77.0.1", "--port", "7001", "--allow-insecure")
        for _ in range(2):
            async with worker_command(*flags, host=first) as command:
                (warning,) = command.all("log", level="warning")
                assert warning["message"].startswith("the worker at 10.77.0.1:7001 speaks no TLS: who has this user's")
                there = ("ip", "netns", "exec", second)
                listed = ("ps", "--discovery", "static:10.77.0.1:7001", "--json")
                status, output, _ = await wool_command(*listed, inside=there)
                assert (status, [row["status"] for row in json.loads(output)]) == (0, ["up"])


async def test_a_worker_that_was_refused_is_used_as_soon_as_its_caller_shows_what_it_should(
    fixtures: Fixtures, journal: Journal
) -> None:
    """Nobody is put out of use for good because of a certificate."""
    shown = fixtures.credentials("expired")
    async with wool.LocalWorker(host=HOST, credentials=fixtures.credentials("worker")) as worker:
        async with wool.WorkerProxy(workers=[worker.metadata], credentials=lambda: shown):
            with pytest.raises(wool.NoWorkersAvailable, match="the worker refused this side's certificate"):
                await run(journal.path, "refused")
            shown = fixtures.credentials("caller")
            while True:
                try:
                    await run(journal.path, "taken")
                    break
                except wool.NoWorkersAvailable:
                    continue
    assert [journal.executions(call) for call in ("refused", "taken")] == [0, 1]


REFUSED = {
    "the worker refuses a caller that has expired": ("worker", "expired", r"the worker .* expired: .* expired at 20"),
    "the worker refuses a caller of another authority": ("worker", "wrong authority", "the worker .* authority: none"),
    "the worker refuses a caller for its usage": ("worker", "server usage only", "the worker .* usage: .* not for a"),
    "the worker refuses a caller that it does not name": ("naming", "caller", "the worker .* name: its certificate is"),
    "the caller refuses a worker that has expired": ("expired", "caller", "this side .* expired: certificate has exp"),
    "the caller refuses a worker of another authority": ("wrong authority", "caller", "this side .* authority: unable"),
    "the caller refuses a worker of another name": ("wrong name", "caller", f"this side .* name: .* is not for {HOST}"),
}
"""What worker and caller show, and which side the caller's log says has refused, and why."""


@pytest.mark.parametrize("how", REFUSED)
async def test_the_callers_log_says_which_side_refused_which_worker_and_why(
    fixtures: Fixtures, caplog: pytest.LogCaptureFixture, how: str
) -> None:
    by_worker, by_caller, said = REFUSED[how]
    naming = fixtures.credentials("worker", callers=("somebody",))
    shown = naming if by_worker == "naming" else fixtures.credentials(by_worker)
    caller = fixtures.credentials(by_caller)
    async with wool.LocalWorker(host=HOST, credentials=shown) as worker:
        uid, address = worker.metadata.uid, worker.metadata.address
        named = wool.WorkerProxy(workers=[worker.metadata], credentials=caller)
        found = wool.WorkerPool(discovery=wool.StaticDiscovery(address), credentials=caller)
        # As long as nobody has said who it is, a worker is called by its address.
        for way, name in ((named, uid[:8]), (found, address)):
            caplog.clear()
            async with way:
                with pytest.raises(wool.NoWorkersAvailable, match=said):
                    await add(1, 2)
            lines = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
            assert lines
            for line in lines:
                assert re.match(f"worker {re.escape(name)}: {address}: cannot connect to {address}: {said}", line)


def test_a_pool_says_what_credentials_are_for(fixtures: Fixtures) -> None:
    with pytest.raises(ValueError, match="credentials= are for workers that others can reach: give discovery= too"):
        wool.WorkerPool(size=1, credentials=fixtures.credentials("worker"))


# ---- those of the context ----------------------------------------------------------------------------


async def test_who_has_no_credentials_of_its_own_uses_those_of_the_context(
    fixtures: Fixtures, journal: Journal
) -> None:
    with wool.RuntimeContext(credentials=fixtures.credentials("worker")):
        worker = wool.LocalWorker(host=HOST)
    async with worker:
        assert worker.metadata.secure
        with wool.RuntimeContext(credentials=fixtures.credentials("caller")):
            proxy = wool.WorkerProxy(workers=[worker.metadata])
            pool = wool.WorkerPool(discovery=wool.StaticDiscovery(worker.metadata.address))
            stranger = wool.WorkerProxy(workers=[worker.metadata], credentials=fixtures.credentials("expired"))
            nobody = wool.WorkerPool(size=1)
        async with proxy:
            assert await run(journal.path, "by proxy") == worker.metadata.pid
        async with pool:
            assert await run(journal.path, "by pool") == worker.metadata.pid
        async with stranger:
            with pytest.raises(wool.NoWorkersAvailable, match="refused this side's certificate"):
                await run(journal.path, "by its own")
        async with nobody:  # its workers are nobody else's, and need none
            assert await run(journal.path, "private") == nobody.workers[0].pid
            assert not nobody.workers[0].secure
    assert journal.executions("by its own") == 0


def test_credentials_of_the_context_are_for_workers_on_tcp_too(fixtures: Fixtures) -> None:
    with wool.RuntimeContext(credentials=fixtures.credentials("worker")):
        with pytest.raises(ValueError, match=r"credentials are for workers on TCP: say at which host, WorkerPool\("):
            wool.WorkerPool(size=1, discovery=wool.LocalDiscovery("team"))
        with pytest.raises(ValueError, match="credentials are for workers on TCP"):
            wool.LocalWorker()


async def test_a_body_uses_the_credentials_of_its_worker_and_none_of_its_callers_key_arrives(
    fixtures: Fixtures, journal: Journal
) -> None:
    """The workers take only workers: a nested call under the caller's certificate would be refused."""
    shown = fixtures.credentials("worker", callers=(WORKER,))
    async with (
        wool.LocalWorker(host=HOST, credentials=fixtures.credentials("worker")) as first,
        wool.LocalWorker(host=HOST, credentials=shown) as picky,
    ):
        both = {first.metadata.pid, picky.metadata.pid}
        with wool.RuntimeContext(credentials=fixtures.credentials("caller")):
            async with wool.WorkerProxy(workers=[first.metadata, picky.metadata]):
                assert {await run(journal.path, journal.new_call()) for _ in range(4)} == {first.metadata.pid}
                found: set[int] = set()
                while found != both:
                    found.add(await through(journal.path, journal.new_call()))
                assert await credentials_of_the_context() is None


@wool.routine
async def credentials_of_the_context() -> object:
    return credentials_in_force()


# ---- rotation ----------------------------------------------------------------------------------------


def replaced(path: Path, content: bytes) -> None:
    path.with_name(f"new-{path.name}").write_bytes(content)
    path.with_name(f"new-{path.name}").replace(path)


async def test_a_changed_secret_is_that_of_what_is_started_or_opened_after_it(
    fixtures: Fixtures, files: Path, journal: Journal
) -> None:
    secret = files / "secret"
    secret.write_bytes(b"the secret of before")
    shown = {name: str(files / f"{name}.pem") for name in ("ca", "worker")}
    caller = wool.CredentialFiles(ca_path=shown["ca"], mutual=False, secret_path=str(secret))
    worker = wool.CredentialFiles(
        ca_path=shown["ca"],
        key_path=str(files / "worker.key"),
        cert_path=shown["worker"],
        mutual=False,
        secret_path=str(secret),
    )
    async with (
        wool.LocalWorker(host=HOST, credentials=worker) as old,
        wool.WorkerProxy(workers=[old.metadata], credentials=caller),
    ):
        replaced(secret, b"the secret of after")
        await run(journal.path, "before")
        async with wool.WorkerProxy(workers=[old.metadata], credentials=caller):
            with pytest.raises(wool.NoWorkersAvailable, match="did not prove that it knows the secret"):
                await run(journal.path, "mixed")
        async with (
            wool.LocalWorker(host=HOST, credentials=worker) as new,
            wool.WorkerProxy(workers=[new.metadata], credentials=caller),
        ):
            await run(journal.path, "after")
    assert [journal.executions(call) for call in ("before", "mixed", "after")] == [1, 0, 1]


@contextlib.asynccontextmanager
async def under_load(worker: wool.LocalWorker, provider: wool.CredentialFiles, journal: Journal) -> AsyncIterator[Any]:
    """Make calls on one session all the time, and on sessions that are opened for them; none may fail, or run twice.
    Yielded is what waits for some more of both."""
    stop, opened = False, 0

    async def one_session_for_ever() -> None:
        async with wool.WorkerProxy(workers=[worker.metadata], credentials=provider):
            while not stop:
                await run(journal.path, journal.new_call())

    async def sessions_for_ever() -> None:
        nonlocal opened
        while not stop:
            async with wool.WorkerProxy(workers=[worker.metadata], credentials=provider):
                await run(journal.path, journal.new_call())
            opened += 1

    async def some_more() -> None:
        calls, sessions = len(journal.lines()), opened
        await until(lambda: len(journal.lines()) > calls + 20 and opened > sessions + 2, what="more calls and sessions")

    async with asyncio.TaskGroup() as group:
        for work in (one_session_for_ever, sessions_for_ever):
            group.create_task(work())
        await some_more()
        yield some_more
        await some_more()
        stop = True
    calls = [words[1] for words in journal.lines() if words[0] == "begin"]
    assert len(calls) == len(set(calls))


async def shown_by(worker: wool.LocalWorker) -> bytes:
    return await shown_at(worker.metadata.address)


async def shown_at(address: str) -> bytes:
    host, _, port = address.rpartition(":")
    return (await asyncio.to_thread(ssl.get_server_certificate, (host, int(port)))).encode()


async def test_certificates_that_are_renewed_under_load_fail_no_call(
    fixtures: Fixtures, files: Path, journal: Journal
) -> None:
    async with wool.LocalWorker(host=HOST, credentials=in_files(files, "worker")) as worker:
        assert await shown_by(worker) in fixtures.issued["worker"].cert
        async with under_load(worker, in_files(files, "caller"), journal) as some_more:
            renewed = fixtures.renewed("worker")
            replaced(files / "worker.key", renewed.key)
            replaced(files / "worker.pem", renewed.cert)
            await some_more()
        assert await shown_by(worker) in renewed.cert


async def test_an_authority_takes_anothers_place_under_load_and_no_call_fails(
    fixtures: Fixtures, files: Path, journal: Journal
) -> None:
    next_one = make()
    steps = (
        {"ca.pem": next_one.ca + fixtures.ca},
        {
            f"{name}.{end}": content
            for name in ("worker", "caller")
            for end, content in (("key", next_one.issued[name].key), ("pem", next_one.issued[name].cert))
        },
        {"ca.pem": next_one.ca},
    )
    async with wool.LocalWorker(host=HOST, credentials=in_files(files, "worker")) as worker:
        async with under_load(worker, in_files(files, "caller"), journal) as some_more:
            for step in steps:
                for name, content in step.items():
                    replaced(files / name, content)
                await some_more()
        assert await shown_by(worker) in next_one.issued["worker"].cert
        async with wool.WorkerProxy(workers=[worker.metadata], credentials=fixtures.credentials("caller")):
            with pytest.raises(wool.NoWorkersAvailable, match="refused"):
                await run(journal.path, "of the old one")
    assert journal.executions("of the old one") == 0


async def shows(address: str, certificate: bytes) -> None:
    """Wait until the worker there shows a certificate."""
    async with asyncio.timeout(20):
        while await shown_at(address) not in certificate:
            await asyncio.sleep(0.05)


async def test_what_a_function_gives_anew_a_running_worker_shows_and_its_task_goes_on(
    fixtures: Fixtures, journal: Journal, tmp_path: Path
) -> None:
    shown, gate = fixtures.credentials("worker"), tmp_path / "gate"
    set_runtime(real_runtime(limits=Limits(credentials_seconds=0.1)))
    async with wool.LocalWorker(host=HOST, credentials=lambda: shown) as worker:
        assert await shown_by(worker) in fixtures.issued["worker"].cert
        async with wool.WorkerProxy(workers=[worker.metadata], credentials=fixtures.credentials("caller")):
            going_on = asyncio.create_task(run_until(journal.path, "long", str(gate)))
            await until(lambda: journal.executions("long") == 1, what="the long call to begin")
            renewed = fixtures.renewed("worker")
            shown = dataclasses.replace(shown, key=renewed.key, cert=renewed.cert)
            await shows(worker.metadata.address, renewed.cert)
            gate.touch()
            await going_on
        async with wool.WorkerProxy(workers=[worker.metadata], credentials=fixtures.credentials("caller")):
            await run(journal.path, "after")
    assert [journal.executions(call) for call in ("long", "after")] == [1, 1]


async def test_a_pool_starts_workers_with_what_a_function_gives_and_successors_with_what_it_gives_then(
    fixtures: Fixtures, journal: Journal
) -> None:
    shown = fixtures.credentials("worker")
    set_runtime(real_runtime(limits=Limits(handover_seconds=0.1)))  # and the function asked every five seconds
    with wool.LocalDiscovery() as discovery:
        seen = aiter(discovery.subscriber)
        async with wool.WorkerPool(
            size=1, discovery=discovery, host=HOST, credentials=lambda: shown, max_tasks_per_worker=2
        ):
            first = await anext(seen)
            assert await shown_at(first.metadata.address) in fixtures.issued["worker"].cert
            renewed = fixtures.renewed("worker")
            shown = dataclasses.replace(shown, key=renewed.key, cert=renewed.cert)
            for _ in range(2):
                await run(journal.path, journal.new_call())
            async with asyncio.timeout(20):
                while (event := await anext(seen)).type != "worker-added":
                    pass
            assert event.metadata.uid != first.metadata.uid
            await shows(event.metadata.address, renewed.cert)
            await run(journal.path, journal.new_call())
        await seen.aclose()


# ---- the command, and hosts of their own -------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (("--cert", "x.pem"), "--cert: is for TLS, which needs --ca too"),
        (("--ca", "/nowhere.pem"), "--ca: /nowhere.pem cannot be read"),
        (("--ca", "CA"), "--ca: mutual credentials need key= and cert="),
    ],
)
async def test_a_command_says_what_credentials_lack(files: Path, given: tuple[str, ...], message: str) -> None:
    given = tuple(str(files / "ca.pem") if word == "CA" else word for word in given)
    status, _, errors = await wool_command("worker", "--discovery", "static", "--port", "7001", *given)
    assert status == 2
    assert message in errors


async def test_the_command_serves_tls_and_ps_asks_by_it(files: Path, fixtures: Fixtures, journal: Journal) -> None:
    async with worker_command("--discovery", "static", "--port", str(free_port()), *flags(files)) as command:
        ready = await command.event("worker-ready")
        discovery = wool.StaticDiscovery(ready["address"])
        async with wool.WorkerPool(discovery=discovery, credentials=fixtures.credentials("caller")):
            assert await run(journal.path, "one") == ready["pid"]
        listed = ("ps", "--discovery", f"static:{ready['address']}", "--json")
        status, output, _ = await wool_command(*listed, *flags(files, "caller"))
        assert (status, [row["pid"] for row in json.loads(output)]) == (0, [ready["pid"]])
        command.signal()
        assert await command.ended() == Status.DRAINED


@hosts
@pytest.mark.alone
async def test_workers_on_other_hosts_are_found_used_and_restarted_under_load(
    fixtures: Fixtures, files: Path, journal: Journal
) -> None:
    """Three hosts, mutual TLS, multicast; not one call fails, and none runs twice."""
    with namespaces.network() as made:
        own, first, second = made.host(), made.host(), made.host()
        for number in (2, 3):
            certify(fixtures, files, number)

        async with contextlib.AsyncExitStack() as stack:
            commands = [
                await stack.enter_async_context(worker_on(host, number, files))
                for number, host in ((2, first), (3, second))
            ]
            caller = await stack.enter_async_context(far_caller(own, files, journal))
            pids = {pid for command in commands for pid in command.pids}
            assert await caller() in pids

            async def goes_on(calls: int = 30) -> None:
                while calls > 0:
                    calls -= await caller("")

            def at_work() -> set[int]:
                return {int(words[-1]) for words in journal.lines()[-60:]}

            async def used_by(wanted: set[int]) -> None:
                while not wanted <= at_work():
                    await goes_on()

            await used_by(pids)
            reached: dict[int, set[int]] = {pid: set() for pid in pids}
            while any(found != pids for found in reached.values()):
                outer, inner = await caller("nested")
                reached[outer].add(inner)  # from the bodies on either host, the workers of both
            for place, (number, host) in enumerate(((2, first), (3, second))):
                commands[place].signal()
                assert await commands[place].ended() == Status.DRAINED
                await goes_on()
                commands[place] = await stack.enter_async_context(worker_on(host, number, files))
                await used_by(set(commands[place].pids))
            failed, answered = await caller("stop")
            assert failed == {}
            assert pids | {pid for command in commands for pid in command.pids} <= set(answered)
    calls = [words[1] for words in journal.lines() if words[0] == "begin"]
    assert len(calls) == len(set(calls))
