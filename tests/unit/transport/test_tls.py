"""Which certificates real gRPC accepts, at either end, and what is said of those that it does not."""

from __future__ import annotations

import datetime
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from fixtures import CALLER, HOST, WORKER, Fixtures, make

from wool.credentials import CredentialsProvider, WorkerCredentials
from wool.limits import Limits
from wool.transport.base import ConnectFailed, Stream
from wool.transport.grpc import GrpcTransport

LIMITS = Limits(close_seconds=0.3, handshake_seconds=2)
SECRET = bytes(32)


@pytest.fixture(scope="module")
def fixtures() -> Fixtures:
    return make()


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
    "worker by identity": f"its certificate is not for {HOST}",
    "wrong name": f"its certificate is not for {HOST}",
    "expired": "certificate has expired",
    "not yet valid": "certificate is not yet valid",
    "wrong authority": "unable to get local issuer certificate",
    "client usage only": "unsupported certificate purpose",
}
"""What a worker shows, and why its caller refuses it."""


@pytest.mark.parametrize("shown", WORKERS)
async def test_a_caller_judges_the_certificate_of_a_worker(fixtures: Fixtures, shown: str) -> None:
    worker, caller = fixtures.credentials(shown), fixtures.credentials("caller")
    async with serving(lambda: worker) as address:
        if (why := WORKERS[shown]) is None:
            await call(address, lambda: caller)
        else:
            with pytest.raises(ConnectFailed, match=f"{address}: this side refused the worker.*{why}"):
                await call(address, lambda: caller)


CALLERS = {
    "caller": True,
    "worker": True,
    "worker of an intermediate": True,
    "worker by identity": True,
    "wrong name": True,
    "client usage only": True,
    "expired": False,
    "not yet valid": False,
    "wrong authority": False,
    "server usage only": False,
}
"""What a caller shows, and whether a worker takes it that names no callers."""


@pytest.mark.parametrize("shown", CALLERS)
async def test_a_worker_judges_the_certificate_of_a_caller(fixtures: Fixtures, shown: str) -> None:
    worker, caller = fixtures.credentials("worker"), fixtures.credentials(shown)
    async with serving(lambda: worker) as address:
        if CALLERS[shown]:
            await call(address, lambda: caller)
        else:
            with pytest.raises(ConnectFailed, match=f"{address}: the worker refused this side's certificate"):
                await call(address, lambda: caller)


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
