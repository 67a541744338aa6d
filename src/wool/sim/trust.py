"""Who shows which certificate to whom, in virtual time, and who takes it.

Why it exists: real handshakes are BoringSSL's, and there are none here. So the certificates are real ones, and
`wool.certificates` judges them at the virtual instant; a table test shows that real gRPC takes and refuses the same.

It owns what every process holds at every moment. It must never look at the real clock: certificates are issued for the
days of the simulation, and refusals say the same in every run.

A certificate counts in whole seconds and a plan in milliseconds: a thousandth of a second here is a second there.
"""

from __future__ import annotations

import datetime
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Literal, TypeAlias

from wool.authority import CLIENT, SERVER, Authority, Issued
from wool.certificates import Refusal, judge_caller, judge_worker
from wool.credentials import WorkerCredentials
from wool.sim.network import net_address_of

Flaw: TypeAlias = Literal["expired", "not-yet-valid", "wrong-authority", "wrong-name", "wrong-usage"]

START = datetime.datetime(2030, 1, 1, tzinfo=datetime.UTC)
DAY = datetime.timedelta(days=1)
SECOND = datetime.timedelta(seconds=1)
ALWAYS = (START - DAY, START + 3000 * DAY)
NEVER = (START - DAY, START - DAY / 2)
"""From when and until when a certificate is valid."""
STRANGER = -1
"""The authority that nobody believes. The others are counted from 0."""
IDENTITY = "wool-caller"
WORKER_IDENTITY = "wool-worker"
ELSEWHERE = "192.0.2.1"


_Ends: TypeAlias = Literal["worker", "caller", "both"]
_Valid: TypeAlias = tuple[datetime.datetime, datetime.datetime]


def _instant(at: float) -> datetime.datetime:
    return START + datetime.timedelta(seconds=round(at * 1000))


@functools.lru_cache(maxsize=64)
def _authority(number: int) -> Authority:
    name = "an authority that nobody believes" if number == STRANGER else f"authority {number}"
    return Authority.create(name, not_before=START - DAY, days=3650)


@functools.lru_cache(maxsize=4096)
def _issued(number: int, names: tuple[str, ...], ends: _Ends, valid: _Valid) -> Issued:
    not_before, not_after = valid
    usages = {"worker": (SERVER,), "caller": (CLIENT,), "both": (SERVER, CLIENT)}[ends]
    return _authority(number).issue(names, usages=usages, not_before=not_before, not_after=not_after)


@functools.lru_cache(maxsize=4096)
def _credentials(
    believed: tuple[int, ...],
    number: int,
    names: tuple[str, ...],
    server: bool,
    ends: _Ends,
    valid: _Valid,
    secret: bytes,
    identities: bool,
    one_way: bool,
) -> WorkerCredentials:
    ca = b"".join(_authority(each).chain for each in believed)
    workers = (WORKER_IDENTITY,) if identities else ()
    if one_way and not server:
        return WorkerCredentials(ca=ca, mutual=False, secret=secret, workers=workers)
    issued = _issued(number, names, ends, valid)
    return WorkerCredentials(
        ca=ca,
        key=issued.key,
        cert=issued.cert,
        mutual=not one_way,
        secret=secret,
        workers=workers,
        # Nested calls are a worker's, which shows what it is.
        callers=(IDENTITY, WORKER_IDENTITY) if identities and not one_way else (),
    )


@functools.lru_cache(maxsize=4096)
def _refusals(
    caller: WorkerCredentials, worker: WorkerCredentials, host: str, at: datetime.datetime
) -> tuple[Refusal | None, Refusal | None]:
    """Return why the caller refuses the worker, and the worker the caller."""
    assert worker.cert is not None
    verdicts = [judge_worker(worker.cert, caller.ca, name, at) for name in caller.workers or (host,)]
    by_caller = None if None in verdicts else verdicts[-1]
    if not worker.mutual:
        return by_caller, None
    assert caller.cert is not None
    return by_caller, judge_caller(caller.cert, worker.ca, worker.callers, at)


class Trust:
    """The certificates of one run. ``expiries`` says, by label, when some of them are going to expire.

    With ``identities`` these count, and not hosts; with ``one_way`` callers show nothing.
    """

    def __init__(
        self,
        now: Callable[[], float],
        secret: Callable[[str], bytes],
        expiries: Mapping[str, Sequence[float]],
        *,
        identities: bool,
        one_way: bool,
    ) -> None:
        self._now = now
        self._secret = secret
        self._expiries = expiries
        self._identities = identities
        self._one_way = one_way
        self._flaws: dict[str, dict[Flaw, list[float]]] = {}
        self._signs = 0
        self._believed: tuple[int, ...] = (0,)

    def provider(self, label: str) -> Callable[[], WorkerCredentials]:
        """Return what a process with this label asks for its credentials."""
        return lambda: self.credentials(label)

    def credentials(self, label: str) -> WorkerCredentials:
        """Return what a process with this label shows and believes now."""
        flaws = self._flaws.get(label, {})
        is_worker = label.startswith("w")
        own = (net_address_of(label).partition(":")[0], WORKER_IDENTITY) if is_worker else (IDENTITY,)
        ends: _Ends = "both" if is_worker else "caller"
        return _credentials(
            self._believed,
            STRANGER if flaws.get("wrong-authority") else self._signs,
            (ELSEWHERE,) if flaws.get("wrong-name") else own,
            is_worker,
            # For the end that it is not: what a worker shows is then good for its own calls alone.
            ("caller" if is_worker else "worker") if flaws.get("wrong-usage") else ends,
            self._valid(label),
            self._secret(label),
            self._identities,
            self._one_way,
        )

    def _valid(self, label: str) -> _Valid:
        """Return from when and until when the certificate of a process with this label is valid."""
        flaws, (begins, ends) = self._flaws.get(label, {}), ALWAYS
        # Who shows one before it expires shows that one, and may meet the other end when it has.
        if over := flaws.get("expired") or [at for at in self._expiries.get(label, ()) if at > self._now()]:
            ends = _instant(min(over)) - SECOND  # at the very instant it is over
        if awaited := flaws.get("not-yet-valid"):
            begins = _instant(max(awaited)) + SECOND if max(awaited) < float("inf") else START + 2000 * DAY
        return (begins, ends) if begins <= ends else NEVER

    def refuses(self, caller: WorkerCredentials, worker: WorkerCredentials, address: str) -> str | None:
        """Say which side refuses whom and why, where the two meet now at ``address``; None if neither does."""
        by_caller, by_worker = _refusals(caller, worker, address.partition(":")[0], _instant(self._now()))
        if by_caller is not None:
            return f"this side refused the worker's certificate: {by_caller}"
        if by_worker is not None:
            return f"the worker refused this side's certificate: {by_worker}"
        return None

    # ---- what happens to it ----

    def spoil(self, label: str, flaw: Flaw, seconds: float) -> Callable[[], None]:
        """Let a process show a certificate with a flaw from now on, for so long, or for ever; return what renews it."""
        at = self._now()
        if flaw == "not-yet-valid":
            at += seconds or float("inf")
        held = self._flaws.setdefault(label, {}).setdefault(flaw, [])
        held.append(at)
        return lambda: held.remove(at)

    def believe_next(self) -> int:
        """Let everybody believe the next authority too; return its number."""
        number = max(self._believed) + 1
        self._believed = (*self._believed, number)
        return number

    def sign_by(self, number: int) -> None:
        """Let everybody show a certificate of an authority that all believe."""
        self._signs = max(self._signs, number)

    def believe_only(self, number: int) -> None:
        """Let nobody believe authorities before this one any more."""
        self._believed = tuple(each for each in self._believed if each >= number)
