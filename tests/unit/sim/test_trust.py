"""Certificates and secrets in virtual time: each fault has its effect, and what comes of it is the contract."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from support.plans import QUICK, calls, played, returns, step, struck
from wool.sim.history import Event, History
from wool.sim.invariants.safety import (
    FLAWS,
    another_version_is_told,
    certificates_were_good,
    nobody_is_in_between,
    secrets_are_the_same,
    versions_are_the_same,
)
from wool.sim.invariants.story import Story, Violation
from wool.sim.kinds import Fault
from wool.sim.network import net_address_of
from wool.sim.plan import Plan, Topology
from wool.sim.trust import Trust


def secured(*faults: Fault, made: int = 12, apart: float = 0.1, **topology: Any) -> Plan:
    wanted: dict[str, Any] = {"mode": "proxy", "workers": 2, "discovery": "static", "tls": True, **topology}
    return Plan(
        topology=Topology(**wanted), knobs=QUICK, calls=calls(*(returns(1),) * made, apart=apart), faults=faults
    )


def refused(history: History) -> list[str]:
    return [str(event.get("why")) for event in history.of("wire.refused")]


def met(history: History, session: str) -> list[float]:
    return [event.at for event in history.of("wire.met") if event.attempt.startswith(session)]


def all_ran(history: History) -> bool:
    return {str(event.get("outcome")) for event in history.of("call.ended")} == {"value"}


def none_failed_but_by(history: History, outcome: str, *, until: float) -> bool:
    """Whether some calls that ended before ``until`` had this outcome, nothing of them ran, and all others did."""
    ended = history.of("call.ended")
    failed = [event for event in ended if event.get("outcome") != "value"]
    assert {(event.get("outcome"), event.get("executed")) for event in failed} == {(outcome, "no")}
    return len(failed) < len(ended) and all(event.at < until for event in failed)


@pytest.mark.parametrize("discovery", ["static", "lan", "dns"])
def test_who_has_certificates_takes_those_of_the_others(discovery: str) -> None:
    history = played(secured(discovery=discovery))
    assert all_ran(history)
    assert refused(history) == []
    assert met(history, "c0#0>w0#0") and met(history, "c0#0>w1#0")


@pytest.mark.parametrize(
    ("kind", "target", "why"),
    [
        ("expired", "w0", "this side refused the worker's certificate: expired: the certificate of CN=10.0.0.1"),
        ("not-yet-valid", "w0", "certificate: not yet valid: the certificate of CN=10.0.0.1 is valid from"),
        ("wrong-authority", "w0", "this side refused the worker's certificate: authority: "),
        ("wrong-name", "w0", "is for 192.0.2.1, and not for 10.0.0.1"),
        (
            "wrong-usage",
            "w0",
            "this side refused the worker's certificate: usage: the certificate of CN=10.0.0.1 is not",
        ),
        ("expired", "c0", "the worker refused this side's certificate: expired: the certificate of CN=wool-caller"),
        ("not-yet-valid", "c0", "the worker refused this side's certificate: not yet valid: "),
        ("wrong-authority", "c0", "the worker refused this side's certificate: authority: "),
        ("wrong-usage", "c0", "the worker refused this side's certificate: usage: the certificate of CN=wool-caller"),
    ],
)
def test_a_certificate_that_is_no_good_opens_no_session_until_it_is_renewed(kind: str, target: str, why: str) -> None:
    history = played(secured(Fault(kind=kind, target=target, at=0.05, seconds=0.5)))
    assert struck(history, kind)
    assert refused(history) and all(why in said for said in refused(history))
    assert all(at > 0.55 for at in met(history, "c0#0>w0#0")) and met(history, "c0#0>w0#0")
    if target == "w0":
        assert all_ran(history)
    else:  # nobody takes it, and so nobody is left to try
        assert none_failed_but_by(history, "no-workers", until=0.7)


@pytest.mark.parametrize(
    ("kind", "target", "why"),
    [
        ("wrong-name", "w0", "is for 192.0.2.1, and not for wool-worker"),
        ("wrong-name", "c0", "is for 192.0.2.1, and not for wool-caller or wool-worker"),
        ("expired", "c0", "the worker refused this side's certificate: expired: the certificate of CN=wool-caller"),
    ],
)
def test_where_identities_count_both_ends_must_have_one_that_is_named(kind: str, target: str, why: str) -> None:
    history = played(secured(Fault(kind=kind, target=target, at=0.05, seconds=0.5), identities=True))
    assert struck(history, kind)
    assert refused(history) and all(why in said for said in refused(history))
    assert all(at > 0.55 for at in met(history, "c0#0>w0#0")) and met(history, "c0#0>w0#0")


def test_a_nested_call_is_made_under_the_identity_of_its_worker() -> None:
    plan = secured(identities=True, made=0)
    history = played(replace(plan, calls=calls(*(returns(1, step("call", number=1, body=returns(2))),) * 6, apart=0.1)))
    assert all_ran(history) and refused(history) == []
    assert met(history, "w0#0>w1#0") or met(history, "w1#0>w0#0")


@pytest.mark.parametrize("kind", sorted(FLAWS))
def test_one_way_a_caller_shows_nothing_that_could_be_wrong(kind: str) -> None:
    history = played(secured(Fault(kind=kind, target="c0", at=0.05, seconds=0.5), one_way=True))
    assert struck(history, kind)
    assert refused(history) == []
    assert all_ran(history)


def test_one_way_a_caller_looks_at_the_workers_certificate() -> None:
    history = played(secured(Fault(kind="wrong-authority", target="w0", at=0.05, seconds=0.5), one_way=True))
    assert refused(history) and all("authority" in said for said in refused(history))
    assert all(at > 0.55 for at in met(history, "c0#0>w0#0"))
    assert all_ran(history)


def test_one_way_a_worker_with_another_secret_runs_nothing() -> None:
    fault = Fault(kind="other-secret", target="w0", at=0.05, seconds=0.5)
    history = played(secured(fault, one_way=True, made=40))
    assert not [event for event in history.of("wire.opened") if "w0#1" in event.attempt]
    assert {event.node for event in history.of("body.began")} == {"w1#0", "w0#2"}
    assert all_ran(history)


@pytest.mark.parametrize("discovery", ["lan", "dns"])
@pytest.mark.parametrize("trust", [{"tls": False}, {"one_way": True}, {"one_way": True, "identities": True}, {}])
def test_who_passes_a_handshake_on_gets_no_session_unless_both_ends_have_shown_certificates(
    discovery: str, trust: dict[str, Any]
) -> None:
    relay = Fault(kind="relay", target="w0", at=0.05, seconds=1.6)
    history = played(secured(relay, discovery=discovery, made=20, **trust))
    relayed = {event.attempt for event in history.of("wire.relayed")}
    opened = {event.attempt for event in history.of("wire.opened")}
    assert not relayed & opened or trust == {}
    if discovery == "dns" and trust in ({}, {"one_way": True}):
        assert refused(history)  # the certificate is not for the relay's host
    else:
        assert relayed
    assert all_ran(history)


@pytest.mark.parametrize("discovery", ["lan", "dns"])
def test_between_two_certificates_a_relay_may_stand_and_no_call_fails(discovery: str) -> None:
    relay = Fault(kind="relay", target="w0", at=0.05, seconds=1.6)
    history = played(secured(relay, discovery=discovery, made=20, identities=True))
    relayed = {event.attempt for event in history.of("wire.relayed")}
    assert relayed & {event.attempt for event in history.of("wire.opened")}
    assert all_ran(history)


def test_a_worker_that_shows_a_callers_certificate_is_not_called_and_calls_others() -> None:
    plan = secured(Fault(kind="wrong-usage", target="w0", at=0.25, seconds=5.0), made=0)
    history = played(replace(plan, calls=calls(*(returns(1, step("call", number=1, body=returns(2))),) * 8, apart=0.1)))
    assert struck(history, "wrong-usage")
    assert refused(history) and all("is not for a server" in said for said in refused(history))
    assert any(at > 0.25 for at in met(history, "w0#0>w1#0"))
    assert all_ran(history)


def test_a_certificate_that_is_valid_from_a_moment_on_is_taken_from_then_on() -> None:
    """It is the same one all the time, which its owner read before: nobody has to renew anything."""
    trust = Trust(lambda: clock[0], lambda _: bytes(16), {}, identities=False, one_way=False)
    clock = [0.1]
    worker, caller = trust.credentials("w0"), trust.credentials("c0")
    trust.spoil("c0", "not-yet-valid", 0.5)
    early = trust.credentials("c0")
    for at, taken in ((0.1, False), (0.5999, False), (0.6, False), (0.601, True), (100.0, True)):
        clock[0] = at
        assert (trust.refuses(early, worker, net_address_of("w0")) is None) == taken, at
        assert trust.refuses(caller, worker, net_address_of("w0")) is None


def test_a_certificate_that_would_expire_before_it_is_valid_is_never_taken() -> None:
    trust = Trust(lambda: clock[0], lambda _: bytes(16), {"w0": [0.3]}, identities=False, one_way=False)
    clock = [0.1]
    trust.spoil("w0", "not-yet-valid", 0.5)
    worker, caller = trust.credentials("w0"), trust.credentials("c0")
    for at in (0.1, 0.2, 0.299, 0.3, 0.6, 0.601, 100.0):
        clock[0] = at
        assert trust.refuses(caller, worker, net_address_of("w0")), at


def test_a_session_goes_on_when_a_certificate_expires_in_flight() -> None:
    history = played(secured(Fault(kind="expired", target="w0", at=0.45, seconds=5.0), workers=1))
    (at,) = met(history, "c0#0>w0#0")
    assert at < 0.45
    assert refused(history) == []
    assert all_ran(history)


def test_a_certificate_that_expires_on_its_way_is_refused() -> None:
    fault = Fault(kind="expired", target="c0", at=0.1005, seconds=0.5)  # half a latency after it was shown
    history = played(secured(fault, workers=1))
    assert next(event.at for event in history.of("wire.refused")) < 0.105
    assert none_failed_but_by(history, "no-workers", until=0.7)


@pytest.mark.parametrize("at", [0.0, 0.0995, 0.1, 0.1005, 0.101, 0.102, 0.15, 0.3])
@pytest.mark.parametrize("seconds", [0.01, 0.3])
def test_an_authority_takes_anothers_place_at_any_moment_and_no_call_fails(at: float, seconds: float) -> None:
    crash = Fault(kind="crash", target="w0", at=0.5)  # afterwards there are sessions under the new one
    history = played(
        secured(
            Fault(kind="rotation", target="workers", at=at, seconds=seconds),
            crash,
            Fault(kind="restart", target="w0", at=0.6),
        )
    )
    assert struck(history, "rotation")
    assert refused(history) == []
    assert all_ran(history)
    assert met(history, "c0#0>w0#1")


@pytest.mark.parametrize("tls", [False, True])
@pytest.mark.parametrize("discovery", ["static", "lan", "dns"])
def test_a_worker_with_another_secret_runs_nothing_until_it_has_the_right_one(tls: bool, discovery: str) -> None:
    fault = Fault(kind="other-secret", target="w0", at=0.05, seconds=0.5)
    history = played(secured(fault, tls=tls, discovery=discovery, made=40))
    assert [event.get("worker") for event in history.of("truth.other-secret")] == ["w0#1"]
    assert not [event for event in history.of("wire.opened") if "w0#1" in event.attempt]
    assert {event.node for event in history.of("body.began")} == {"w1#0", "w0#2"}
    assert all_ran(history)


@pytest.mark.parametrize("tls", [False, True])
@pytest.mark.parametrize("discovery", ["static", "lan", "dns"])
def test_a_worker_of_another_version_is_refused_aloud_and_the_others_go_on(tls: bool, discovery: str) -> None:
    fault = Fault(kind="other-version", target="w0", at=0.05, seconds=0.5)
    history = played(secured(fault, tls=tls, discovery=discovery, made=40))
    assert [event.get("worker") for event in history.of("truth.other-version")] == ["w0#1"]
    assert {event.get("worker") for event in history.of("place.refused")} == {"w0"}
    assert all("speaks protocol version" in event.get("why") for event in history.of("place.refused"))
    assert not [event for event in history.of("wire.opened") if "w0#1" in event.attempt]
    assert {event.node for event in history.of("body.began")} == {"w1#0", "w0#2"}
    assert all_ran(history)


def test_certificates_are_for_workers_on_a_network() -> None:
    with pytest.raises(ValueError, match="certificates are for workers on a network"):
        Topology(mode="proxy", tls=True)


@pytest.mark.parametrize("what", ["identities", "one_way"])
def test_who_shows_what_is_of_certificates(what: str) -> None:
    asked: dict[str, Any] = {"mode": "proxy", "discovery": "static", what: True}
    with pytest.raises(ValueError, match="identities, and who shows them, are of certificates"):
        Topology(**asked)


# ---- the invariants ---------------------------------------------------------------------------------


def fault(at: float, kind: str, target: str, healed: float | None = None) -> list[Event]:
    detail = (("fault", kind), ("index", 0), ("target", target))
    events = [Event(at, "", "fault.injected", "", "", detail)]
    return events if healed is None else [*events, Event(healed, "", "fault.healed", "", "", detail)]


def together(at: float, since: float, session: str = "c0#0>w0#0/1") -> list[Event]:
    return [
        Event(at, "", "wire.met", "", session, (("since", since),)),
        Event(at, "w0#0", "wire.opened", "", session, (("heard", 2),)),
    ]


def found(invariant: Any, *events: Event, tls: bool = True, **topology: bool) -> list[Violation]:
    plan = Plan(topology=Topology(mode="proxy", discovery="static", tls=tls, **topology))
    return list(invariant(Story(History(sorted(events, key=lambda event: event.at)), plan)))


@pytest.mark.parametrize("kind", sorted(FLAWS))
def test_s7_a_session_with_a_certificate_that_was_one_to_refuse_is_found(kind: str) -> None:
    assert found(certificates_were_good, *fault(0.5, kind, "w0"), *together(0.6, 0.6))
    assert found(certificates_were_good, *fault(0.5, kind, "w0", 0.7), *together(0.6, 0.6))
    assert not found(certificates_were_good, *fault(0.5, kind, "w0", 0.55), *together(0.6, 0.58))
    assert not found(certificates_were_good, *fault(0.5, kind, "w0"), *together(0.4, 0.4))
    assert not found(certificates_were_good, *fault(0.5, kind, "w1"), *together(0.6, 0.6))


def test_s7_what_a_caller_shows_it_has_read_before() -> None:
    assert found(certificates_were_good, *fault(0.5, "wrong-authority", "c0"), *together(0.7, 0.6))
    assert not found(certificates_were_good, *fault(0.5, "wrong-authority", "c0"), *together(0.7, 0.4))
    assert found(certificates_were_good, *fault(0.5, "expired", "c0"), *together(0.7, 0.4))
    assert not found(certificates_were_good, *fault(0.5, "wrong-name", "c0"), *together(0.7, 0.6))
    assert found(certificates_were_good, *fault(0.5, "wrong-name", "c0"), *together(0.7, 0.6), identities=True)
    assert not found(certificates_were_good, *fault(0.5, "expired", "c0"), *together(0.7, 0.6), one_way=True)
    assert not found(certificates_were_good, *fault(0.5, "not-yet-valid", "c0"), *together(0.7, 0.4))


def test_s7_a_worker_may_call_with_a_certificate_that_is_for_callers_alone() -> None:
    nested = "w0#0>w1#0/1"
    assert not found(certificates_were_good, *fault(0.5, "wrong-usage", "w0"), *together(0.7, 0.6, nested))
    assert found(certificates_were_good, *fault(0.5, "wrong-usage", "w1"), *together(0.7, 0.6, nested))
    assert found(certificates_were_good, *fault(0.5, "wrong-usage", "c0"), *together(0.7, 0.6))


def test_s7_a_session_over_somebody_in_between_is_found_unless_both_ends_have_shown_certificates() -> None:
    session = "c0#0>w0#0/1"
    relayed = Event(0.59, "", "wire.relayed", "", session, (("at", "10.0.0.1:7999"),))
    opened = Event(0.6, "c0#0", "wire.opened", "", session, (("heard", 2),))
    assert found(nobody_is_in_between, relayed, opened, tls=False)
    assert found(nobody_is_in_between, relayed, opened, one_way=True)
    assert not found(nobody_is_in_between, relayed, opened)
    assert not found(nobody_is_in_between, relayed, tls=False)
    assert not found(nobody_is_in_between, opened, tls=False)


def test_s7_a_session_without_a_look_at_certificates_is_found_where_there_are_some() -> None:
    opened = together(0.6, 0.6)[1]
    assert found(certificates_were_good, opened)
    assert not found(certificates_were_good, opened, tls=False)


def test_s7_a_session_of_two_secrets_is_found() -> None:
    def other(name: str) -> Event:
        return Event(0.1, "", "truth.other-secret", "", "", (("worker", name),))

    opened = Event(0.6, "w0#0", "wire.opened", "", "w1#0>w0#0/1", (("heard", 2),))
    assert found(secrets_are_the_same, other("w0#0"), opened)
    assert found(secrets_are_the_same, other("w1#0"), opened)
    assert not found(secrets_are_the_same, other("w0#0"), other("w1#0"), opened)
    assert not found(secrets_are_the_same, other("w0#1"), opened)


def test_s7_a_session_of_two_versions_is_found() -> None:
    def other(name: str) -> Event:
        return Event(0.1, "", "truth.other-version", "", "", (("worker", name),))

    opened = Event(0.6, "w0#0", "wire.opened", "", "w1#0>w0#0/1", (("heard", 2),))
    assert found(versions_are_the_same, other("w0#0"), opened)
    assert not found(versions_are_the_same, other("w0#0"), other("w1#0"), opened)
    assert not found(versions_are_the_same, other("w0#1"), opened)


def test_s7_a_refusal_that_does_not_say_that_it_is_the_version_is_found() -> None:
    def life(why: str, *others: str) -> tuple[Event, ...]:
        return (
            *(Event(0.1, "", "truth.other-version", "", "", (("worker", name),)) for name in others),
            *(Event(0.2, name, "node.up") for name in ("w0#0", "w1#0")),
            Event(0.6, "c0#0", "place.refused", "", "", (("worker", "w0"), ("why", why))),
        )

    name = another_version_is_told
    assert found(name, *life("the worker gives no window", "w0#0"))
    assert not found(name, *life("the worker speaks protocol version 2, this side 1: install the same wool", "w0#0"))
    assert not found(name, *life("the worker gives no window", "w1#0"))
