"""Which certificates real gRPC accepts, at either end, and what is said of those that it does not."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import datetime
import logging
import socket
import ssl
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import get_args

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtensionOID, NameOID
from fixtures import CALLER, HOST, WORKER, Fixtures, make, write

from wool.authority import CLIENT, SERVER, Issued
from wool.certificates import Why, judge_caller, judge_worker
from wool.credentials import CredentialsProvider, WorkerCredentials
from wool.limits import Limits
from wool.sim.invariants.safety import FLAWS
from wool.transport.base import ConnectFailed, ConnectRefused, Stream
from wool.transport.grpc import GrpcTransport
from wool.transport.grpc_environment import environment_for_import
from wool.transport.grpc_pulse import METHOD, STREAM_KEY
from wool.transport.grpc_tls import channel_credentials, flaw_of

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
    "worker by identity": ("name", f"name: its certificate is not for {HOST}"),
    "wrong name": ("name", f"name: its certificate is not for {HOST}"),
    "expired": ("expired", "expired: certificate has expired"),
    "not yet valid": ("not yet valid", "not yet valid: certificate is not yet valid"),
    "wrong authority": ("authority", "authority: unable to get local issuer certificate"),
    "caller of a wrong authority": ("usage", "authority: unable to get local issuer certificate"),
    "revoked by rotation": ("authority", "authority: unable to get local issuer certificate"),
    "client usage only": ("usage", "usage: unsupported certificate purpose"),
    "caller": ("usage", "usage: unsupported certificate purpose"),
}
"""What a worker shows, and why its caller refuses it: in the words of `judge_worker`, and in those of gRPC."""


def test_every_fixture_is_in_both_tables(fixtures: Fixtures) -> None:
    assert set(WORKERS) == set(CALLERS) == set(fixtures.issued)


AS_FAULTS: dict[Why, str] = {
    "expired": "expired",
    "not yet valid": "not-yet-valid",
    "usage": "wrong-usage",
    "name": "wrong-name",
    "authority": "wrong-authority",
}
"""What the simulator calls a certificate that is refused for that."""


def test_every_reason_to_refuse_a_fixture_is_a_fault_of_the_simulator() -> None:
    reasons = {refusal[0] for refusal in WORKERS.values() if refusal} | {why for why in CALLERS.values() if why}
    assert reasons == set(get_args(Why)) == set(AS_FAULTS)
    assert set(AS_FAULTS.values()) == FLAWS


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
            with pytest.raises(
                ConnectRefused, match=f"{address}: the worker refused this side's cert.*: {judged.why}: "
            ):
                await call(address, lambda: caller)


async def test_of_a_refusal_whose_reason_this_side_cannot_know_it_says_who_knows(
    fixtures: Fixtures, monkeypatch: pytest.MonkeyPatch
) -> None:
    caller = fixtures.issued["revoked by rotation"]
    other = WorkerCredentials(ca=fixtures.both, key=caller.key, cert=caller.cert)  # to this side it is good
    async with serving(lambda: fixtures.credentials("worker")) as address:
        with pytest.raises(ConnectRefused, match="refused this side's certificate or wants none, and its log says why"):
            await call(address, lambda: other)
        monkeypatch.setitem(sys.modules, "wool.certificates", None)  # as without wool[certs]
        with pytest.raises(ConnectRefused, match="refused this side's certificate or wants none, and its log says why"):
            await call(address, lambda: fixtures.credentials("expired"))


def test_a_certificate_that_is_kept_with_its_key_is_not_looked_at_and_has_no_known_flaw(fixtures: Fixtures) -> None:
    shown = fixtures.issued["expired"]
    assert flaw_of(WorkerCredentials(ca=fixtures.ca, key=shown.key, cert=shown.cert)) is not None
    assert flaw_of(WorkerCredentials(ca=fixtures.ca, key=shown.key, cert=shown.cert + shown.key)) is None


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


_DNS, _ADDRESS = b"\x82", b"\x87"
"""How a certificate says which kind of name follows."""

LOOSER: dict[str, tuple[str, bytes | None]] = {
    # What looks for a name of wool's, and what a certificate says: its common name, and its alternative names.
    "a common name, where no alternative name is a host's": (WORKER, None),
    "a common name beside an address": (WORKER, _ADDRESS + b"\x04" + bytes([10, 0, 0, 1])),
    "a name that goes on behind a zero": ("x", _DNS + bytes([len(WORKER) + 13]) + WORKER.encode() + b"\0.example.org"),
}
"""What real gRPC takes, and the judge does not. It cannot be told otherwise, and shows a caller no certificate."""


@pytest.mark.parametrize("how", LOOSER)
async def test_grpc_takes_names_that_only_a_careless_authority_signs_and_the_judge_does_not(
    fixtures: Fixtures, how: str
) -> None:
    """Held here so that it is known: SECURITY.md tells it. The other end, which names its callers, is stricter."""
    common, alternative = LOOSER[how]
    made = odd(fixtures, common, alternative)
    judged = judge_worker(made.cert, fixtures.ca, WORKER, now())
    assert judged is not None
    assert judged.why == "name"
    shown = WorkerCredentials(ca=fixtures.ca, key=made.key, cert=made.cert)
    async with serving(lambda: shown) as address:
        await call(address, lambda: fixtures.credentials("caller", workers=(WORKER,)))
    if alternative is None or alternative.startswith(_ADDRESS):
        async with serving(lambda: fixtures.credentials("worker", callers=(WORKER,))) as address:
            with pytest.raises(ConnectFailed, match="does not take a caller"):
                await call(address, lambda: shown)


def odd(fixtures: Fixtures, common: str, alternative: bytes | None) -> Issued:
    """Issue what `wool certs` does not: alternative names as they are encoded, or none."""
    issuer, key = x509.load_pem_x509_certificate(fixtures.ca), ec.generate_private_key(ec.SECP256R1())
    signer = serialization.load_pem_private_key(fixtures.authority.key, None)
    assert isinstance(signer, ec.EllipticCurvePrivateKey)
    builder = (
        x509.CertificateBuilder(public_key=key.public_key())
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common)]))
        .issuer_name(issuer.subject)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now() - datetime.timedelta(days=1))
        .not_valid_after(now() + datetime.timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.ExtendedKeyUsage([SERVER, CLIENT]), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer.public_key()), critical=False)  # type: ignore[arg-type]
    )
    if alternative is not None:
        names = b"\x30" + bytes([len(alternative)]) + alternative
        builder = builder.add_extension(x509.UnrecognizedExtension(ExtensionOID.SUBJECT_ALTERNATIVE_NAME, names), False)
    written = serialization.Encoding.PEM
    return Issued(
        key=key.private_bytes(written, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()),
        cert=builder.sign(signer, hashes.SHA256()).public_bytes(written),
    )


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
        with pytest.raises(ConnectFailed, match="the worker refused this side, which shows no certificate"):
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
        next_one = await transport.connect(address)
        await next_one.close()
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


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_no_session_of_tls_is_taken_up_again_once_the_credentials_have_changed(
    fixtures: Fixtures, tmp_path: Path, version: ssl.TLSVersion
) -> None:
    """With a ticket, which is worth two days, nobody looks at the certificate again: SECURITY.md says so."""
    write(fixtures, tmp_path)
    context = ssl.create_default_context(cadata=fixtures.ca.decode())
    context.minimum_version = context.maximum_version = version
    context.load_cert_chain(tmp_path / "caller.pem", tmp_path / "caller.key")
    context.set_alpn_protocols(["h2"])
    given = [fixtures.credentials("worker")]
    async with serving(lambda: given[0]) as address:
        ticket, reused = await asyncio.to_thread(shake_hands, address, context, None)
        assert not reused
        assert ticket is not None, "the worker gives no tickets any more: SECURITY.md need not speak of them"
        _, reused = await asyncio.to_thread(shake_hands, address, context, ticket)
        assert reused
        again = fixtures.authority.issue([HOST])
        given[0] = WorkerCredentials(ca=fixtures.authority.chain, key=again.key, cert=again.cert)
        _, reused = await asyncio.to_thread(shake_hands, address, context, ticket)
        assert not reused


def shake_hands(
    address: str, context: ssl.SSLContext, ticket: ssl.SSLSession | None
) -> tuple[ssl.SSLSession | None, bool | None]:
    """Open a session of TLS, with a ticket or none; return the one for the next, and whether this was taken."""
    host, _, port = address.rpartition(":")
    with (
        socket.create_connection((host, int(port)), 5) as plain,
        context.wrap_socket(plain, server_hostname=HOST, session=ticket) as secured,
    ):
        secured.sendall(PREFACE)
        secured.recv(65536)  # in TLS 1.3 tickets come behind the handshake
        return secured.session, secured.session_reused


PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])


async def test_a_provider_that_fails_is_told_of_in_the_log_once_and_never_to_who_connects(
    fixtures: Fixtures, caplog: pytest.LogCaptureFixture
) -> None:
    given: list[WorkerCredentials | None] = [fixtures.credentials("worker")]

    def provider() -> WorkerCredentials:
        if given[0] is None:
            raise OSError("vault.example refused token 271828")
        return given[0]

    async with serving(provider) as address:
        given[0] = None
        for _ in range(3):
            await call(address, lambda: fixtures.credentials("caller"))
        stranger = fixtures.credentials("wrong authority")
        with pytest.raises(ConnectFailed) as refused:
            await call(address, lambda: stranger)
    assert "271828" not in str(refused.value)
    assert [record.levelname for record in caplog.records if "271828" in record.getMessage()] == ["WARNING"]
    with pytest.raises(ConnectFailed, match="there are no credentials: OSError: vault.example refused"):
        await call("127.0.0.1:1", provider)
    with pytest.raises(ConnectFailed, match="there are no credentials: TypeError: a provider of credentials must"):
        await call("127.0.0.1:1", lambda: "nonsense")  # type: ignore[arg-type, return-value]


@pytest.mark.parametrize("mutual", [True, False])
async def test_a_worker_goes_on_to_ask_for_certificates_or_not_and_a_rotation_that_says_otherwise_is_told_of(
    fixtures: Fixtures, mutual: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """Who takes mutual TLS to be in force looks into the log."""
    first = dataclasses.replace(fixtures.credentials("worker"), secret=SECRET, mutual=mutual)
    renewed = fixtures.renewed("worker")
    now = first
    one_way = WorkerCredentials(ca=fixtures.ca, mutual=False, secret=SECRET)
    async with serving(lambda: now) as address:
        now = dataclasses.replace(first, mutual=not mutual, key=renewed.key, cert=renewed.cert)
        await call(address, lambda: fixtures.credentials("caller"))
        said = [record.getMessage() for record in caplog.records]
        assert len(said) == 1
        assert "what was given before stays" in said[0]
        assert f"started with mutual={mutual} cannot change to mutual={not mutual}: start it anew" in said[0]
        with pytest.raises(ConnectFailed) if mutual else contextlib.nullcontext():
            await call(address, lambda: one_way)


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
