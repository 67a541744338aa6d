"""What can go wrong in a simulated run: the kinds of fault, as a table, and one fault.

Owns what a fault is called, whom it strikes, which fields it has and its words, and that a fault says no more than
its kind can mean. What it does is done by `wool.sim.faults`, and where it takes effect.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, get_args

from wool.sim.bodies import check_seconds

Discovery: TypeAlias = Literal["local", "lan", "static", "dns"]
WAYS: tuple[Discovery, ...] = get_args(Discovery)
"""How callers find the workers that they have not started."""

NAMED: tuple[Discovery, ...] = ("dns", "static")
"""Ways in which names are looked up; with ``static``, those that are ``named``."""

Sort: TypeAlias = Literal["link", "node", "worker", "caller", "all"]
_TARGETS: dict[Sort, re.Pattern[str]] = {
    "link": re.compile(r"[cw]\d+>w\d+"),
    "node": re.compile(r"[cw]\d+"),
    "worker": re.compile(r"w\d+"),
    "caller": re.compile(r"c\d+"),
    "all": re.compile(r"workers"),
}

FRAMES = ("offer", "start", "withdraw", "cancel", "step", "accept", "reject", "result", "draining", "goodbye")
ANY = "any"
"""Of the frames that a fault may wait for: each counts, of either direction, chunks and acknowledgements too."""
POINTS = ("listening", "announced", "withdrawn")
"""Of a worker's life: it listens and nobody knows, it has just been announced, it was withdrawn and has not exited."""
TO_WORKER = frozenset({"offer", "start", "withdraw", "cancel", "step"})
"""Said by the caller; the other frames are the worker's. ``goodbye`` is said by both."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FaultKind:
    """What one kind of fault is: whom it strikes, which fields it has, and what it does."""

    group: Literal["wire", "process", "discovery", "trust"]
    target: Sort
    fields: tuple[str, ...]
    words: str
    needs: Literal["", "proxy", "tls"] = ""
    """``proxy``: it has no effect on the workers of a pool. ``tls``: nor where nobody shows a certificate."""
    ways: tuple[Discovery, ...] = ()
    """The kinds of discovery that it can strike; all, if none is said."""


_PLACED = ("frame", "ordinal", "when")
FAULTS: dict[str, FaultKind] = {
    # ---- the wire: only what can happen with HTTP/2 underneath ----
    "refuse": FaultKind(
        group="wire", target="link", fields=("seconds", "stays"), words="connecting over {target} is refused{time}"
    ),
    "swallow": FaultKind(
        group="wire",
        target="link",
        fields=("seconds", "stays"),
        words="connecting over {target} is never answered{time}",
    ),
    "reset": FaultKind(group="wire", target="link", fields=_PLACED, words="the stream over {target} is reset {where}"),
    "delay": FaultKind(
        group="wire",
        target="link",
        fields=(*_PLACED, "seconds"),
        words="over {target}, {frame} {ordinal} and all behind it come {seconds} late",
    ),
    "partition": FaultKind(
        group="wire",
        target="link",
        fields=(*_PLACED, "seconds", "direction", "stays"),
        words="nothing passes over {target}{direction} {where}, for {seconds}",
    ),
    "slow": FaultKind(
        group="wire", target="link", fields=("seconds", "amount"), words="{target} is slower by {amount}{time}"
    ),
    "clog": FaultKind(
        group="wire",
        target="link",
        fields=("seconds", "direction", "stays"),
        words="what travels over {target}{direction} is held and comes in a burst{time}",
    ),
    # ---- processes ----
    "crash": FaultKind(
        group="process",
        target="node",
        fields=(*_PLACED, "seam", "point", "how"),
        words="{target} is killed {where}, and its peers hear {how}",
    ),
    "pause": FaultKind(
        group="process",
        target="node",
        fields=(*_PLACED, "seconds", "stays"),
        words="{target} stands still {where}, for {seconds}",
    ),
    "freeze": FaultKind(
        group="process",
        target="worker",
        fields=(),
        words="{target} stands still from when the last pool begins to close, until it is closed ({where} or later)",
    ),
    "crawl": FaultKind(
        group="process",
        target="node",
        fields=("seconds", "amount"),
        words="each step of {target} takes {amount} longer{time}",
    ),
    "terminate": FaultKind(
        group="process", target="worker", fields=_PLACED, words="{target} is told to stop (SIGTERM) {where}"
    ),
    "restart": FaultKind(
        group="process",
        target="worker",
        fields=(),
        words="{target}, if it is down, comes up again on the same address {where}",
        needs="proxy",
    ),
    "fail-start": FaultKind(
        group="process", target="worker", fields=(), words="the process of {target} fails to start"
    ),
    # ---- discovery ----
    "view-delay": FaultKind(
        group="discovery",
        target="link",
        fields=("seconds", "amount"),
        words="what discovery tells over {target} comes {amount} late{time}",
        ways=("local",),
    ),
    "view-duplicate": FaultKind(
        group="discovery",
        target="link",
        fields=("ordinal",),
        words="event {ordinal} of {target} in discovery comes twice",
        ways=("local",),
    ),
    "view-reorder": FaultKind(
        group="discovery",
        target="link",
        fields=("ordinal",),
        words="event {ordinal} of {target} in discovery comes after the one that follows it",
        ways=("local",),
    ),
    "view-lose": FaultKind(
        group="discovery",
        target="link",
        fields=("ordinal", "seconds"),
        words="event {ordinal} of {target} in discovery is lost, and made good after {seconds}",
        ways=("local",),
    ),
    "ghost": FaultKind(
        group="discovery",
        target="worker",
        fields=("seconds",),
        words="discovery names {target}, where nobody is{time}",
        needs="proxy",
        ways=("local", "lan", "dns"),
    ),
    "premature-drop": FaultKind(
        group="discovery", target="link", fields=("seconds",), words="discovery takes {target} for gone{time}"
    ),
    "flap": FaultKind(
        group="discovery",
        target="link",
        fields=("seconds", "ordinal"),
        words="discovery drops and adds {target} {ordinal} times{time}",
    ),
    "late-subscriber": FaultKind(
        group="discovery", target="caller", fields=(), words="{target} comes to discovery only {where}"
    ),
    "split-view": FaultKind(
        group="discovery", target="link", fields=("seconds",), words="{target} is kept out of sight{time}"
    ),
    "torn-write": FaultKind(
        group="discovery",
        target="worker",
        fields=("ordinal", "how"),
        words="the process that publishes {target} dies in the middle of its record, after write {ordinal}",
        needs="proxy",
        ways=("local",),
    ),
    "dead-publisher": FaultKind(
        group="discovery",
        target="worker",
        fields=(),
        words="the publisher of {target} dies {where} without withdrawing it",
        needs="proxy",
        ways=("local",),
    ),
    "table-full": FaultKind(
        group="discovery",
        target="worker",
        fields=("seconds",),
        words="no slot of the discovery table is free when {target} would be published{time}",
        needs="proxy",
        ways=("local",),
    ),
    "rolling-restart": FaultKind(
        group="process",
        target="all",
        fields=("ordinal", "seconds"),
        words="the {target} are told to stop and start again, one after the other, {ordinal} ports further, with "
        "{seconds} in between",
        needs="proxy",
    ),
    # ---- multicast DNS: a datagram may be lost, late, doubled, and anybody may speak ----
    "packet-lose": FaultKind(
        group="discovery",
        target="link",
        fields=("ordinal",),
        words="message {ordinal} of multicast DNS over {target} is lost",
        ways=("lan",),
    ),
    "packet-late": FaultKind(
        group="discovery",
        target="link",
        fields=("ordinal", "seconds"),
        words="message {ordinal} of multicast DNS over {target} comes {seconds} late, after others",
        ways=("lan",),
    ),
    "packet-twice": FaultKind(
        group="discovery",
        target="link",
        fields=("ordinal", "seconds"),
        words="message {ordinal} of multicast DNS over {target} comes again after {seconds}",
        ways=("lan",),
    ),
    "segment-split": FaultKind(
        group="discovery",
        target="link",
        fields=("seconds",),
        words="multicast does not pass over {target}{time}",
        ways=("lan",),
    ),
    "hello-flap": FaultKind(
        group="discovery",
        target="worker",
        fields=("seconds", "ordinal"),
        words="{target} says goodbye and hello again {ordinal} times{time}",
        ways=("lan",),
    ),
    "lost-goodbye": FaultKind(
        group="discovery",
        target="worker",
        fields=("seconds",),
        words="nobody hears {target} say goodbye{time}",
        ways=("lan",),
    ),
    "forged-goodbye": FaultKind(
        group="discovery",
        target="worker",
        fields=(),
        words="somebody says goodbye for {target}",
        ways=("lan",),
    ),
    "forged": FaultKind(
        group="discovery",
        target="worker",
        fields=("ordinal",),
        words="somebody announces a lie about {target}, of sort {ordinal}",
        ways=("lan",),
    ),
    "twin": FaultKind(
        group="discovery",
        target="worker",
        fields=("seconds",),
        words="another process is announced under the uid of {target}{time}",
        ways=("lan",),
    ),
    # ---- a name server ----
    "answer-stale": FaultKind(
        group="discovery",
        target="node",
        fields=("seconds",),
        words="{target} is told by the name server what was so before{time}",
        ways=NAMED,
    ),
    "answer-lost": FaultKind(
        group="discovery",
        target="node",
        fields=("seconds",),
        words="the name server does not answer {target}{time}",
        ways=NAMED,
    ),
    "answer-denied": FaultKind(
        group="discovery",
        target="node",
        fields=("seconds",),
        words="the name server tells {target} that there is no such name{time}",
        ways=NAMED,
    ),
    "answer-split": FaultKind(
        group="discovery",
        target="link",
        fields=("seconds",),
        words="what the name server says over {target} leaves the worker out, and tells others of it{time}",
        ways=NAMED,
    ),
    "zone-flap": FaultKind(
        group="discovery",
        target="worker",
        fields=("seconds", "ordinal"),
        words="the zone loses and regains {target} {ordinal} times{time}",
        ways=NAMED,
    ),
    # ---- who is who ----
    "other-secret": FaultKind(
        group="trust",
        target="worker",
        fields=("seconds",),
        words="{target} is started anew with another secret than everybody has{time}",
        needs="proxy",
    ),
    "other-version": FaultKind(
        group="trust",
        target="worker",
        fields=("seconds",),
        words="{target} is started anew with another version of the protocol than everybody speaks{time}",
        needs="proxy",
    ),
    "expired": FaultKind(
        group="trust",
        target="node",
        fields=("seconds",),
        words="the certificate of {target} expires {where}, and is renewed after {seconds}",
        needs="tls",
    ),
    "not-yet-valid": FaultKind(
        group="trust",
        target="node",
        fields=("seconds",),
        words="{target} shows a certificate that is not valid yet{time}",
        needs="tls",
    ),
    "wrong-authority": FaultKind(
        group="trust",
        target="node",
        fields=("seconds",),
        words="{target} shows a certificate of an authority that nobody believes{time}",
        needs="tls",
    ),
    "wrong-name": FaultKind(
        group="trust",
        target="node",
        fields=("seconds",),
        words="{target} shows a certificate for another host, and another identity{time}",
        needs="tls",
    ),
    "wrong-usage": FaultKind(
        group="trust",
        target="node",
        fields=("seconds",),
        words="{target} shows a certificate of which the usage is the other end's{time}",
        needs="tls",
    ),
    "relay": FaultKind(
        group="trust",
        target="worker",
        fields=("seconds",),
        words="somebody announces an address of theirs as that of {target}, and passes on to it what comes there{time}",
        needs="proxy",
        ways=("lan", "dns"),
    ),
    "rotation": FaultKind(
        group="trust",
        target="all",
        fields=("seconds",),
        words="another authority takes the place of that of the {target} {where}, in three steps within {seconds}",
        needs="tls",
    ),
}
"""All kinds of fault. In a link of discovery's, ``c0>w1`` is what ``c0`` sees of ``w1``."""

_FAULT_DEFAULTS: dict[str, Any] = {
    "frame": "",
    "ordinal": 0,
    "when": "before",
    "seam": 0,
    "point": "",
    "seconds": 0.0,
    "amount": 0.0,
    "direction": "both",
    "how": "reset",
    "stays": False,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """One fault. `FAULTS` says which fields belong to which ``kind``.

    Where it strikes: at the time ``at``; or, if ``frame`` is said, when the frame of that kind with that
    ``ordinal`` (from 0, counted per link from the beginning of the run) passes, ``before`` it arrives or
    ``after``; with ``any`` all frames of the link count. A process is struck when such a frame reaches it (``after``)
    or leaves for it (``before``).
    With ``seam`` (from 1), a process is killed at its so-manieth call of the network, a mailbox or
    discovery, counted from ``at``: everything that it does after that has no effect. With ``point`` a worker is killed
    the first time that it is there (`POINTS`), from ``at`` on.
    discovery, counted from ``at``: everything that it does after that has no effect.

    One that ``stays`` has no end, not even when all else is healed: see `wool.sim.plan.Plan.staying`.
    """

    kind: str
    target: str
    at: float = 0.0
    frame: str = ""
    ordinal: int = 0
    when: Literal["before", "after"] = "before"
    seam: int = 0
    point: str = ""
    seconds: float = 0.0
    amount: float = 0.0
    direction: Literal["both", "to", "back"] = "both"
    """``to`` is the direction from caller to worker."""
    how: Literal["reset", "silence"] = "reset"
    stays: bool = False

    def __post_init__(self) -> None:
        kind = FAULTS.get(self.kind)
        if kind is None:
            raise ValueError(f"kind {self.kind!r} is none of {', '.join(FAULTS)}")
        if not _TARGETS[kind.target].fullmatch(self.target):
            raise ValueError(f"a {self.kind} strikes a {kind.target}, not {self.target!r}")
        for name, default in _FAULT_DEFAULTS.items():
            if name not in kind.fields and getattr(self, name) != default:
                raise ValueError(f"field {name!r} means nothing to kind {self.kind!r}")
        if self.frame and self.frame not in (*FRAMES, ANY):
            raise ValueError(f"frame {self.frame!r} is none of {', '.join((*FRAMES, ANY))}")
        if self.kind == "delay" and not self.frame:
            raise ValueError("a delay needs a frame")
        if self.ordinal < 0 or self.seam < 0:
            raise ValueError("ordinal and seam must not be negative")
        if self.point and (self.point not in POINTS or self.frame or self.seam or not self.target.startswith("w")):
            raise ValueError(f"a worker, and nothing else, is struck at a point, one of {', '.join(POINTS)}")
        if self.stays and (self.seconds or (self.target.startswith("c") and kind.target == "node")):
            raise ValueError(f"a {self.kind} of {self.target!r} that stays has no seconds, and strikes no caller")
        for name in ("at", "seconds", "amount"):
            check_seconds(name, getattr(self, name))

    @property
    def group(self) -> str:
        """Wire, process, discovery or trust."""
        return FAULTS[self.kind].group
