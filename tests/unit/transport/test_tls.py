"""Which certificates real gRPC accepts, at either end, and what is said of those that it does not."""

from __future__ import annotations

import datetime
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from fixtures import CALLER, HOST, WORKER, Fixtures, make

from wool.certificates import judge_caller, judge_worker
from wool.credentials import CredentialsProvider, WorkerCredentials
from wool.limits import Limits
from wool.transport.base import ConnectFailed, Stream
from wool.transport.grpc import GrpcTransport
from wool.transport.grpc_environment import environment_for_import
from wool.transport.grpc_pulse import METHOD, STREAM_KEY
from wool.transport.grpc_tls import channel_credentials

with environment_for_import():
    import grpc
    import grpc.aio

LIMITS = Limits(close_seconds=0.3, handshake_seconds=2)
SECRET = bytes(32)


@pytest.fixture(scope="module")
def fixtures() -> Fixtures:
    return make()


def now() -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC)


async def echo(stream: Stream) -> None:
    while True:
        await stream.write(await stream.read())


@asynccontextmanager
async def serving(provider: CredentialsProvider | None) -> AsyncIterator[str]:
    transport = GrpcTransport(LIMITS, provider)
    listener = await transport.listen(f"{HOST}:0", echo)
    try:
        yield listener.address
    finally:
        await listener.close()
        await transport.close()


async def call(address: str, provider: CredentialsProvider | None) -> None:
    transport = GrpcTransport(LIMITS, provider)
    try:
        stream = await transport.connect(address)
        await stream.write(b"hello")
        assert await stream.read() == b"hello"
        await stream.close()
    finally:
        await transport.close()


async def call_for_ever(address: str, provider: CredentialsProvider) -> None:
    while True:
        await call(address, provider)


WORKERS = {
    "worker": None,
    "worker of an intermediate": None,
    "server usage only": None,
    "worker by identity": ("name", f"its certificate is not for {HOST}"),
    "wrong name": ("name", f"its certificate is not for {HOST}"),
    "expired": ("expired", "certificate has expired"),
    "not yet valid": ("not yet valid", "certificate is not yet valid"),
    "wrong authority": ("authority", "unable to get local issuer certificate"),
    "caller of a wrong authority": ("usage", "unable to get local issuer certificate"),
    "revoked by rotation": ("authority", "unable to get local issuer certificate"),
    "client usage only": ("usage", "unsupported certificate purpose"),
    "caller": ("usage", "unsupported certificate purpose"),
}
"""What a worker shows, and why its caller refuses it: in the words of `judge_worker`, and in those of gRPC."""


def test_every_fixture_is_in_both_tables(fixtures: Fixtures) -> None:
    assert set(WORKERS) == set(CALLERS) == set(fixtures.issued)


@pytest.mark.parametrize("shown", WORKERS)
async def test_a_caller_judges_the_certificate_of_a_worker(fixtures: Fixtures, shown: str) -> None:
    """Real gRPC and `judge_worker`, by which the simulator goes, take and refuse the same ones."""
    worker, caller = fixtures.credentials(shown), fixtures.credentials("caller")
    judged = judge_worker(fixtures.issued[shown].cert, fixtures.ca, HOST, now())
    async with serving(lambda: worker) as address:
        if (refusal := WORKERS[shown]) is None:
            assert judged is None
            await call(address, lambda: caller)
        else:
            assert judged is not None
            assert judged.why == refusal[0]
            with pytest.raises(ConnectFailed, match=f"{address}: this side refused the worker.*{refusal[1]}"):
                await call(address, lambda: caller)


CALLERS = {
    "caller": None,
    "worker": None,
    "worker of an intermediate": None,
    "worker by identity": None,
    "wrong name": None,
    "client usage only": None,
    "expired": "expired",
    "not yet valid": "not yet valid",
    "wrong authority": "authority",
    "caller of a wrong authority": "authority",
    "revoked by rotation": "authority",
    "server usage only": "usage",
}
"""What a caller shows, and why a worker refuses it that names no callers, in the words of `judge_caller`."""


@pytest.mark.parametrize("shown", CALLERS)
async def test_a_worker_judges_the_certificate_of_a_caller(fixtures: Fixtures, shown: str) -> None:
    """Real gRPC and `judge_caller`, by which the simulator goes, take and refuse the same ones."""
    worker, caller = fixtures.credentials("worker"), fixtures.credentials(shown)
    judged = judge_caller(fixtures.issued[shown].cert, fixtures.ca, (), now())
    assert (judged and judged.why) == CALLERS[shown]
    async with serving(lambda: worker) as address:
        if judged is None:
            await call(address, lambda: caller)
        else:
            with pytest.raises(ConnectFailed, match=f"{address}: the worker refused this side's certificate"):
                await call(address, lambda: caller)


async def test_while_an_authority_takes_anothers_place_both_are_believed(fixtures: Fixtures) -> None:
    old, new = fixtures.issued["revoked by rotation"], fixtures.issued["worker"]
    shown = [WorkerCredentials(ca=fixtures.both, key=issued.key, cert=issued.cert) for issued in (old, new)]
    for worker in shown:
        async with serving(lambda worker=worker: worker) as address:
            for caller in shown:
                assert caller.cert is not None
                assert judge_caller(caller.cert, fixtures.both, (), now()) is None
                await call(address, lambda caller=caller: caller)


@pytest.mark.parametrize("wanted", [CALLER, WORKER, "another"])
async def test_who_names_its_callers_takes_the_same_ones_by_grpc_and_by_the_judge(
    fixtures: Fixtures, wanted: str
) -> None:
    async with serving(lambda: fixtures.credentials("worker", callers=(wanted,))) as address:
        for name in ("caller", "worker", "wrong name"):
            judged = judge_caller(fixtures.issued[name].cert, fixtures.ca, (wanted,), now())
            if judged is None:
                await call(address, lambda name=name: fixtures.credentials(name))
            else:
                assert judged.why == "name"
                with pytest.raises(ConnectFailed, match="PERMISSION_DENIED"):
                    await call(address, lambda name=name: fixtures.credentials(name))


@pytest.mark.parametrize("name", ["worker", "WORKER", "a.team.example", "team.example", "a.b.team.example", "10.0.0.9"])
@pytest.mark.parametrize("issued", ["worker", "*.team.example", "10.0.0.9"])
async def test_grpc_and_the_judge_agree_for_whom_a_certificate_is(fixtures: Fixtures, name: str, issued: str) -> None:
    made = fixtures.authority.issue([issued])
    judged = judge_worker(made.cert, fixtures.ca, name, now())
    async with serving(lambda: WorkerCredentials(ca=fixtures.ca, key=made.key, cert=made.cert)) as address:
        if judged is None:
            await call(address, lambda: fixtures.credentials("caller", workers=(name,)))
        else:
            assert judged.why == "name"
            with pytest.raises(ConnectFailed, match=f"its certificate is not for {name}"):
                await call(address, lambda: fixtures.credentials("caller", workers=(name,)))


async def test_a_key_of_another_certificate_is_told_and_not_blamed_on_the_address(fixtures: Fixtures) -> None:
    worker, caller = fixtures.issued["worker"], fixtures.issued["caller"]
    mixed = WorkerCredentials(ca=fixtures.ca, key=caller.key, cert=worker.cert)
    transport = GrpcTransport(LIMITS, lambda: mixed)
    with pytest.raises(ValueError, match="cannot listen at .*: the credentials are no use: the key is not the cert"):
        await transport.listen(f"{HOST}:0", echo)
    async with serving(lambda: fixtures.credentials("worker")) as address:
        with pytest.raises(ConnectFailed, match="the credentials are no use: the key is not the certificate's"):
            await transport.connect(address)
    await transport.close()


async def test_a_worker_is_known_by_its_identity_where_addresses_change(fixtures: Fixtures) -> None:
    worker = fixtures.credentials("worker by identity")
    async with serving(lambda: worker) as address:
        await call(address, lambda: fixtures.credentials("caller", workers=(WORKER,)))
        await call(address, lambda: fixtures.credentials("caller", workers=("another", WORKER)))
        with pytest.raises(ConnectFailed, match="its certificate is not for another"):
            await call(address, lambda: fixtures.credentials("caller", workers=("another",)))


async def test_a_worker_takes_the_callers_that_it_names_and_a_stolen_workers_certificate_is_none(
    fixtures: Fixtures, caplog: pytest.LogCaptureFixture
) -> None:
    async with serving(lambda: fixtures.credentials("worker", callers=(CALLER,))) as address:
        await call(address, lambda: fixtures.credentials("caller"))
        with pytest.raises(ConnectFailed, match="PERMISSION_DENIED: .* does not take a caller at .*wool-worker"):
            await call(address, lambda: fixtures.credentials("worker"))
    (record,) = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert "whose certificate is for 127.0.0.1, wool-worker" in record.getMessage()


async def pulse(address: str, credentials: WorkerCredentials) -> grpc.StatusCode | None:
    """Say that we are the pulse of a stream; return why we may not be, if so."""
    channel = grpc.aio.secure_channel(f"ipv4:{address}", channel_credentials(credentials))
    call: grpc.aio.StreamStreamCall[bytes, bytes] = channel.stream_stream(METHOD)(metadata=((STREAM_KEY, "mine"),))
    try:
        return None if dict(await call.initial_metadata()) else await call.code()
    finally:
        call.cancel()
        await channel.close()


async def test_who_may_not_call_may_be_no_pulse_either(fixtures: Fixtures, caplog: pytest.LogCaptureFixture) -> None:
    async with serving(lambda: fixtures.credentials("worker", callers=(CALLER,))) as address:
        assert await pulse(address, fixtures.credentials("caller")) is None
        assert await pulse(address, fixtures.credentials("worker")) is grpc.StatusCode.PERMISSION_DENIED
    (record,) = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert "whose certificate is for 127.0.0.1, wool-worker" in record.getMessage()


async def test_one_end_with_tls_and_one_without_do_not_meet(fixtures: Fixtures) -> None:
    async with serving(lambda: fixtures.credentials("worker")) as address:
        with pytest.raises(ConnectFailed):
            await call(address, None)
        await call(address, lambda: fixtures.credentials("caller"))
    async with serving(None) as address:
        with pytest.raises(ConnectFailed, match="this side speaks TLS, the worker does not|refused"):
            await call(address, lambda: fixtures.credentials("caller"))
        await call(address, None)


async def test_a_caller_without_a_certificate_is_refused_where_both_must_show_one(fixtures: Fixtures) -> None:
    nameless = WorkerCredentials(ca=fixtures.ca, mutual=False, secret=SECRET)
    async with serving(lambda: fixtures.credentials("worker")) as address:
        with pytest.raises(ConnectFailed, match="the worker refused this side's certificate or wants none"):
            await call(address, lambda: nameless)


async def test_one_way_tls_shows_the_worker_alone(fixtures: Fixtures) -> None:
    shown = fixtures.issued["worker"]
    worker = WorkerCredentials(ca=fixtures.ca, key=shown.key, cert=shown.cert, mutual=False, secret=SECRET)
    async with serving(lambda: worker) as address:
        await call(address, lambda: WorkerCredentials(ca=fixtures.ca, mutual=False, secret=SECRET))


async def test_rotated_credentials_are_used_by_the_next_session_and_the_running_one_goes_on(
    fixtures: Fixtures,
) -> None:
    renewed = make()
    shown = {"worker": fixtures.credentials("worker"), "caller": fixtures.credentials("caller")}
    async with serving(lambda: shown["worker"]) as address:
        transport = GrpcTransport(LIMITS, lambda: shown["caller"])
        running = await transport.connect(address)
        shown["worker"] = renewed.credentials("worker")
        with pytest.raises(ConnectFailed, match="this side refused the worker's certificate"):
            await transport.connect(address)
        shown["caller"] = renewed.credentials("caller")
        await call(address, lambda: shown["caller"])
        await running.write(b"still here")
        assert await running.read() == b"still here"
        await running.close()
        await transport.close()


async def test_a_certificate_that_runs_out_ends_no_session(fixtures: Fixtures) -> None:
    authority = fixtures.authority
    soon = datetime.datetime.now(datetime.UTC) + datetime.timedelta(seconds=3)
    short = authority.issue([HOST], not_after=soon)
    credentials = WorkerCredentials(ca=authority.chain, key=short.key, cert=short.cert)
    caller = fixtures.credentials("caller")
    async with serving(lambda: credentials) as address:
        transport = GrpcTransport(LIMITS, lambda: caller)
        stream = await transport.connect(address)
        with pytest.raises(ConnectFailed, match="certificate has expired"):
            await call_for_ever(address, lambda: caller)
        await stream.write(b"still here")
        assert await stream.read() == b"still here"
        await stream.close()
        await transport.close()


async def test_credentials_are_for_tcp(fixtures: Fixtures) -> None:
    transport = GrpcTransport(LIMITS, lambda: fixtures.credentials("worker"))
    with pytest.raises(ConnectFailed, match="credentials are for workers on TCP"):
        await transport.connect("unix:/somewhere")
    with pytest.raises(ValueError, match="credentials are for workers on TCP"):
        await transport.listen("unix:/somewhere", echo)
    await transport.close()


async def test_a_worker_needs_a_certificate(fixtures: Fixtures) -> None:
    nameless = WorkerCredentials(ca=fixtures.ca, mutual=False, secret=SECRET)
    transport = GrpcTransport(LIMITS, lambda: nameless)
    with pytest.raises(ValueError, match="a worker needs credentials with key= and cert="):
        await transport.listen(f"{HOST}:0", echo)
    await transport.close()
