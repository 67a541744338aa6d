"""What a certificate says, and who would take it when. That real gRPC agrees is proven in transport/test_tls.py."""

from __future__ import annotations

import datetime

import pytest
from fixtures import CALLER, HOST, WORKER, Fixtures, make

from wool.authority import Authority
from wool.certificates import describe, judge_caller, judge_worker, load

SECOND = datetime.timedelta(seconds=1)
NOON = datetime.datetime(2030, 1, 1, 12, tzinfo=datetime.UTC)


@pytest.fixture(scope="module")
def fixtures() -> Fixtures:
    return make()


@pytest.mark.parametrize(
    ("offset", "why"), [(-3601, "not yet valid"), (-3600, None), (0, None), (3600, None), (3601, "expired")]
)
def test_time_is_that_of_the_question_to_the_second(fixtures: Fixtures, offset: int, why: str | None) -> None:
    hour = 3600 * SECOND
    issued = fixtures.authority.issue([HOST], not_before=NOON - hour, not_after=NOON + hour)
    at = NOON + offset * SECOND
    for judged in (
        judge_worker(issued.cert, fixtures.ca, HOST, at),
        judge_caller(issued.cert, fixtures.ca, (), at),
    ):
        assert (judged and judged.why) == why


def test_an_authority_that_has_expired_vouches_for_nobody() -> None:
    authority = Authority.create(days=2)
    issued = authority.issue([HOST], days=30)
    soon = datetime.datetime.now(datetime.UTC)
    assert judge_worker(issued.cert, authority.chain, HOST, soon) is None
    refusal = judge_worker(issued.cert, authority.chain, HOST, soon + datetime.timedelta(days=3))
    assert refusal is not None
    assert refusal.why == "authority"


def test_a_refusal_says_whom_and_why(fixtures: Fixtures) -> None:
    at = datetime.datetime.now(datetime.UTC)
    for name, said in (
        ("expired", "expired: the certificate of CN=127.0.0.1 expired at 20"),
        ("not yet valid", "not yet valid: the certificate of CN=127.0.0.1 is valid from 20"),
        ("caller", "usage: the certificate of CN=wool-caller is not for a server"),
        ("wrong name", "name: the certificate of CN=192.0.2.1 is for 192.0.2.1, somebody-else, and not for 127.0.0.1"),
        ("wrong authority", "authority: "),
    ):
        assert str(judge_worker(fixtures.issued[name].cert, fixtures.ca, HOST, at)).startswith(said)
    refusal = judge_caller(fixtures.issued["worker"].cert, fixtures.ca, (CALLER, "another"), at)
    assert str(refusal).endswith("is for 127.0.0.1, wool-worker, and not for wool-caller or another")


def test_what_a_certificate_says(fixtures: Fixtures) -> None:
    chain = [describe(each) for each in load(fixtures.issued["worker of an intermediate"].cert)]
    worker, intermediate = chain
    assert worker.names == (HOST, WORKER)
    assert worker.usages == ("server", "client")
    assert (worker.authority, intermediate.authority) == (False, True)
    assert worker.issuer == intermediate.subject == "CN=wool intermediate authority"
    assert len(worker.fingerprint) == 64
    assert worker.days_left(worker.not_after) == 0
    assert worker.days_left(worker.not_after + SECOND) == -1


@pytest.mark.parametrize(
    ("pem", "message"),
    [
        (b"nothing", r"w\.pem holds no certificate in PEM form"),
        (b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", r"w\.pem holds no certificate in PEM form"),
    ],
)
def test_what_is_no_certificate_is_named(pem: bytes, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load(pem, "w.pem")


def test_a_private_key_is_not_looked_at(fixtures: Fixtures) -> None:
    with pytest.raises(ValueError, match=r"w\.key holds a private key: only its certificate is meant"):
        load(fixtures.issued["worker"].key, "w.key")
