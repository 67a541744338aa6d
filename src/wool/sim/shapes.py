"""What plans are made of: tables, and one function that turns small numbers into a plan.

Hypothesis and the volume mode draw nothing but numbers, one for each item of a plan, and both have them
decoded here: so the two explore the same plans, and a draw, which costs Hypothesis 50 microseconds, is paid
once an item. A number of 0 is the item's absence; smaller numbers are simpler items. An item has its slot,
and its name with it: that one is left out renames nothing.

It must never draw anything itself.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

from wool.limits import KIB
from wool.sim.bodies import Ask, Body, Step, labelled
from wool.sim.kinds import ANY, FAULTS, POINTS, WAYS, Fault
from wool.sim.plan import Call, Knobs, Noise, Plan, Stall, Topology
from wool.sim.quiet import known_seconds

CALLS = 20
"""Slots for calls."""
TASKS = 20
"""A plan that has so many, nested ones too, is a scenario, and leaves its other slots empty: what more tasks would show
another plan shows, in the time that they would take."""
FAULT_SLOTS = 5
STALL_SLOTS = 3
ITEM_BYTES = 6
ITEM = 1 << 8 * ITEM_BYTES
"""An item's number is below this."""
HEADER_BYTES = 4
HEADER = 1 << 8 * HEADER_BYTES
"""So are those of the surroundings and of the swarm: above the product of all tables that they choose from."""
SLOW_DRAW_SECONDS = 0.01
"""A plan that takes longer to draw, on any machine, makes more draws than it should."""

# ---- bodies -----------------------------------------------------------------------------------------

WAITS = (0.001, 0.02, 0.1, 0.3, 2.5)
"""The last is longer than any grace."""


def _sleep(seconds: float) -> Step:
    return Step(op="sleep", seconds=seconds)


def _yields(*numbers: int) -> tuple[Step, ...]:
    return tuple(Step(op="yield", number=number) for number in numbers)


def _returns(number: int) -> Step:
    return Step(op="return", number=number)


def _nested(number: int, body: Body, *script: Ask) -> Step:
    return Step(op="call", number=number, body=body, script=script)


def _coroutine(*steps: Step) -> Body:
    return Body(steps=steps)


def _generator(*steps: Step) -> Body:
    return Body(generator=True, steps=steps)


def _catch(what: str, *steps: Step) -> Step:
    return Step(op="catch", text=what, steps=steps)


def _finally(steps: tuple[Step, ...], *last: Step) -> Step:
    return Step(op="finally", steps=steps, last=last)


_Shape = Callable[[float, int], Body]
"""Takes a time to wait and a number to tell values by."""

SHAPES: tuple[tuple[str, _Shape], ...] = (
    ("value", lambda s, n: _coroutine(_returns(n))),
    ("slow value", lambda s, n: _coroutine(_sleep(s), _returns(n))),
    ("items", lambda s, n: _generator(*_yields(n, n + 1))),
    ("slow items", lambda s, n: _generator(*_yields(n), _sleep(s), *_yields(n + 1, n + 2))),
    ("nested", lambda s, n: _coroutine(_nested(1, _coroutine(_sleep(s), _returns(n))), _returns(n + 1))),
    ("error", lambda s, n: _coroutine(_sleep(s), Step(op="raise", text=("value-error", "key-error", "custom")[n % 3]))),
    ("cleanup", lambda s, n: _coroutine(_finally((_sleep(s),), _sleep(0.02)), _returns(n))),
    ("suppressing", lambda s, n: _coroutine(_catch("cancelled", _sleep(s)), _sleep(0.01), _returns(n))),
    ("items with cleanup", lambda s, n: _generator(_finally((*_yields(n), _sleep(s), *_yields(n + 1)), _sleep(0.01)))),
    (
        "nested items",
        lambda s, n: _coroutine(_nested(1, _generator(*_yields(n), _sleep(s), *_yields(n + 1))), _returns(n)),
    ),
    (
        "gathered",
        lambda s, n: _coroutine(
            Step(
                op="gather",
                steps=(
                    _nested(1, _coroutine(_sleep(s), _returns(n))),
                    _nested(2, _coroutine(_returns(n))),
                    _nested(3, _generator(*_yields(n, n + 1))),
                ),
            ),
            _returns(n),
        ),
    ),
    (
        "two levels",
        lambda s, n: _coroutine(
            _nested(1, _coroutine(_nested(1, _coroutine(_sleep(s), _returns(n))), _returns(n + 1))), _returns(n + 2)
        ),
    ),
    ("items that catch", lambda s, n: _generator(_catch("exception", *_yields(n, n + 1)), _sleep(s), *_yields(n + 2))),
    (
        "items that calls make",
        lambda s, n: _generator(
            *_yields(n), _nested(1, _coroutine(_sleep(s))), *_yields(n + 1), _nested(2, _coroutine()), *_yields(n + 2)
        ),
    ),
    ("blocking", lambda s, n: _coroutine(Step(op="block", seconds=s), _returns(n))),
    ("large value", lambda s, n: _coroutine(Step(op="return", size=(2 * KIB, 20 * KIB, 60 * KIB)[n % 3]))),
    (
        "large items",
        lambda s, n: _generator(*_yields(n), Step(op="yield", size=(2 * KIB, 20 * KIB)[n % 2]), *_yields(n + 1)),
    ),
    ("odd error", lambda s, n: _coroutine(Step(op="raise", text=("unpicklable", "cancelled", "no-workers")[n % 3]))),
    ("odd value", lambda s, n: _coroutine(Step(op="return", text=("unpicklable", "unloadable")[n % 2]))),
    (
        "odd items",
        lambda s, n: _generator(
            *_yields(n), Step(op="yield", text=("unpicklable", "unloadable")[n % 2]), *_yields(n + 1)
        ),
    ),
    ("items in finally", lambda s, n: _generator(_finally(_yields(n, n + 1), *_yields(n + 2)))),
    ("stubborn items", lambda s, n: _generator(_catch("anything", *_yields(n), _sleep(s)), *_yields(n + 1, n + 2))),
    (
        "nested that is caught",
        lambda s, n: _coroutine(
            _catch("exception", _nested(1, _coroutine(_sleep(s), Step(op="raise", text="custom", number=n)))),
            _returns(n),
        ),
    ),
    ("stubborn", lambda s, n: _coroutine(_catch("anything", _sleep(s)), _catch("anything", _sleep(s)), _returns(n))),
    (
        "cleanup that calls",
        lambda s, n: _coroutine(_finally((_sleep(s),), _nested(1, _coroutine(_returns(n)))), _returns(n)),
    ),
    (
        "items half taken",
        lambda s, n: _coroutine(
            _nested(1, _generator(_finally(_yields(n, n + 1, n + 2), _sleep(s))), Ask(op="next"), Ask(op="break")),
            _returns(n),
        ),
    ),
    # Longer than every wait of the engine's: who does not end it, does not get away with it.
    ("long value", lambda s, n: _coroutine(_finally((_sleep(10 * s),), _sleep(0.001)), _returns(n))),
    ("long items", lambda s, n: _generator(*_yields(n), _finally((_sleep(10 * s),), _sleep(0.001)), *_yields(n + 1))),
)
"""Simpler ones first."""


@functools.lru_cache(maxsize=8192)
def body(shape: int, wait: int, number: int) -> Body:
    """Return one body of a shape."""
    return SHAPES[shape][1](WAITS[wait], number)


_NEXT = Ask(op="next")
SCRIPTS: tuple[tuple[Ask, ...], ...] = (
    (),
    (),
    (_NEXT, Ask(op="close")),
    (_NEXT, _NEXT, Ask(op="break")),
    (_NEXT, Ask(op="send", number=7), _NEXT, _NEXT),
    (_NEXT, Ask(op="throw", text="value-error"), _NEXT, _NEXT),
    (_NEXT, Ask(op="sleep", seconds=0.3), _NEXT, _NEXT, _NEXT),
    (_NEXT, Ask(op="throw", text="cancelled"), _NEXT),
    (Ask(op="close"),),
    (_NEXT, Ask(op="sleep", seconds=0.1), Ask(op="break")),
    (Ask(op="break"),),
    (_NEXT, Ask(op="throw", text="stop-async-iteration")),
)

TIMES = tuple(round(0.3 + step * 0.037, 3) for step in range(32))
"""When a call is made: some at about the same time as others, all within a second and a half."""
CANCELS: tuple[tuple[float, int] | None, ...] = (
    *(None,) * 12,
    (0.0, 1),
    (0.002, 1),
    (0.003, 1),
    (0.004, 1),
    (0.01, 1),
    (0.05, 2),
)
"""How long after it was made a call is cancelled, and how often."""
TIMEOUTS = (*(0.0,) * 14, 0.05, 0.4)
SIZES = (*(0,) * 12, 100, 3 * KIB, 24 * KIB, 200 * KIB, 300 * KIB)

# ---- faults -----------------------------------------------------------------------------------------

WIRE_FRAMES = (
    *("offer", "accept", "start", "result") * 4,
    *("cancel", "step") * 2,
    *("withdraw", "reject", "draining", "goodbye"),
    *(ANY,) * 4,
)
MOST_FRAMES = 64
"""The first frames of a link, whichever they are, before or after one of which something may strike."""
EARLY = frozenset({"table-full", "torn-write", "fail-start", "late-subscriber", "answer-split"})
"""Kinds that mostly strike while workers come up, or not at all."""
SECONDS = (0.005, 0.05, 0.15, 0.3, 0.6, 1.5, 3.0)
AMOUNTS = (0.001, 0.01, 0.05, 0.15)
FAULT_TIMES = (*(0.25, 0.28, 0.299, 0.301) * 4, *(round(0.25 + step * 0.028, 3) for step in range(48)))
"""Often when the first calls are made: there are handshakes then, and hardly later."""
KINDS = {
    (finds, way, tls): tuple(
        name
        for name, kind in FAULTS.items()
        if (finds or not kind.needs) and (not kind.ways or way in kind.ways) and (tls or kind.needs != "tls")
    )
    for finds, way, tls in (
        (False, "local", False),
        *((True, way, tls) for way in WAYS for tls in (False, True)),
    )
}
"""By whether workers are found by a discovery, and by which, and whether they have certificates."""
TRUST = {
    way: tuple(name for name, kind in FAULTS.items() if kind.group == "trust" and (not kind.ways or way in kind.ways))
    for way in WAYS
}
"""What can be wrong with certificates and secrets, by the way in which workers are found."""

BEYOND = {
    way: (
        *(name for name, kind in FAULTS.items() if way in kind.ways and "local" not in kind.ways),
        "rolling-restart",
        "restart",
    )
    for way in WAYS
}
"""Kinds of fault that are about finding workers beyond one machine."""

FOUND: tuple[dict[str, Any], ...] = (
    *({"mode": "proxy"},) * 14,
    {"mode": "durable"},
    {"mode": "durable", "lease": 2},
    {"mode": "hybrid", "size": 1, "lease": 1},
    {"mode": "hybrid", "size": 2, "untagged": 1},
    {"mode": "proxy", "discovery": "lan"},
    {"mode": "durable", "discovery": "lan"},
    {"mode": "durable", "discovery": "lan", "lease": 2},
    {"mode": "durable", "discovery": "lan", "lease": 1, "untagged": 1},
    {"mode": "proxy", "discovery": "dns"},
    {"mode": "durable", "discovery": "dns"},
    {"mode": "durable", "discovery": "dns", "lease": 2},
    {"mode": "durable", "discovery": "dns", "untagged": 1},
    {"mode": "proxy", "discovery": "static"},
    {"mode": "durable", "discovery": "static", "lease": 2},
    {"mode": "durable", "discovery": "static", "untagged": 1},
    {"mode": "proxy", "discovery": "static", "named": 2},
    {"mode": "durable", "discovery": "static", "named": 3},
    {"mode": "hybrid", "discovery": "lan", "size": 1},
    {"mode": "hybrid", "discovery": "lan", "size": 2, "lease": 2},
    {"mode": "proxy", "discovery": "static", "tls": True},
    {"mode": "durable", "discovery": "lan", "tls": True},
    {"mode": "durable", "discovery": "dns", "tls": True},
    {"mode": "proxy", "discovery": "lan", "tls": True, "one_way": True},
    {"mode": "durable", "discovery": "dns", "tls": True, "one_way": True, "identities": True},
    {"mode": "proxy", "discovery": "dns", "tls": True, "identities": True},
    {"mode": "durable", "discovery": "lan", "tls": True, "identities": True},
)
"""How workers are found, and by what sort of pool."""

KNOBS: tuple[dict[str, Any], ...] = (
    {},
    {},
    {},
    {},
    {"window_tasks": 1},
    {"window_tasks": 2, "latency": 0.01},
    {"definitions": 1},
    {"patience": 0.05},
    {"cancel_grace": 0.1},
    {"drain": 0.1},
    {"dispatch_timeout": 0.5},
    {"latency": 0.03},
    {"inline_bytes": 64},
    {"payload_bytes": 16 * KIB},
    {"handshake": 0.1, "patience": 0.3},
    {"ping_timeout": 0.3},
    {"ping_timeout": 20.0},
    {"places": 1},
    {"places": 2},
    {"admits": 2},
    {"admits": 3},
)
AMPLITUDES = (0.0, 0.0, 0.0005, 0.002, 0.01)
_AS_THEY_ARE: dict[str, Any] = {}
PACES: tuple[tuple[int, dict[str, Any]], ...] = (
    *((1, _AS_THEY_ARE),) * 6,
    (40, {"poll": 1.0, "lease": 2.0, "quiet": 10.0}),
    (200, {"poll": 4.0, "lease": 8.0, "quiet": 35.0}),
)
"""How many times as far apart all that a plan says happens. Mostly it is at about the same time, which is when things
meet; in some plans there are minutes for it, with quiet stretches between. In those nobody looks at discovery as often:
most of what happens would be that."""
TTLS = {1: 1, 40: 6, 200: 25}
"""How long what is heard over the network holds, by pace."""
STAYING = ("pause", "partition", "swallow", "pause", "clog", "refuse")
"""Kinds of fault that may be there still when all else has healed."""
LASTING = frozenset(
    {"refuse", "swallow", "partition", "clog", "slow", "pause", "segment-split", "answer-lost", "answer-stale"}
    | {"answer-split", "hello-flap", "zone-flap"}
    | {"expired", "not-yet-valid", "wrong-authority", "wrong-name", "wrong-usage", "relay", "rotation"}
)
"""Kinds of fault that last as many times as long: they are over when everything is healed."""


class _Digits:
    """Takes a number apart, the least significant choice first."""

    __slots__ = ("_rest",)

    def __init__(self, number: int) -> None:
        self._rest = number

    def below(self, count: int) -> int:
        self._rest, digit = divmod(self._rest, count)
        return digit

    def of(self, table: Sequence[Any]) -> Any:
        return table[self.below(len(table))]


def decode(
    surroundings: int, swarm: int, seed: int, calls: Sequence[int], faults: Sequence[int], stalls: Sequence[int]
) -> Plan:
    """Return the plan that the numbers say.

    ``swarm`` chooses which kinds of fault may occur at all: a few of them, so that each gets its turn.
    """
    digits = _Digits(surroundings)
    finds = digits.of((False, True))
    workers = 3 + digits.of((0, 0, 0, 1, 2))
    callers = digits.of((1, 1, 2)) if finds else 1
    chosen = {**digits.of(KNOBS), **digits.of(KNOBS)}
    amplitude = digits.of(AMPLITUDES)
    pace, unhurried = digits.of(PACES)
    knobs = replace(Knobs(), **chosen, **unhurried)
    # With less patience than a round trip takes, or no time for a handshake, nobody is ever given anything.
    knobs = replace(
        knobs,
        patience=max(knobs.patience, 4 * knobs.latency),
        handshake=max(knobs.handshake, 10 * knobs.latency + 4 * amplitude),
    )
    topology = Topology(callers=callers, workers=workers, **(digits.of(FOUND) if finds else _AS_THEY_ARE))
    if topology.discovery != "local":
        knobs = replace(knobs, ttl=TTLS[pace])
    kinds = _enabled(swarm, KINDS[finds, topology.discovery, topology.tls])
    if topology.tls:
        # Once there are certificates, something is wrong with them.
        amiss = TRUST[topology.discovery]
        wrong = amiss[swarm // 4 % len(amiss)]
        kinds = (wrong, wrong, *kinds)
    if topology.discovery != "local":
        # One that can strike nothing else: else what lasts long and is rare is hardly ever seen.
        kinds = (BEYOND[topology.discovery][swarm % len(BEYOND[topology.discovery])], *kinds)
    workers += topology.size
    plan = Plan(
        topology=topology,
        knobs=knobs,
        calls=tuple(_calls(calls, callers)),
        faults=tuple(fault for number in faults if number for fault in _faults(number, finds, kinds, callers, workers)),
        stalls=tuple(_stall(number, callers, workers) for number in stalls if number),
        noise=Noise(amplitude=amplitude),
        seed=seed,
        told=seed % 4 == 1,
        variables=seed % 4 == 2,
    )
    if finds and seed % 16 == 3:
        plan = _restarting(plan)
    elif seed % 16 == 7:
        plan = _crawling(plan)
    elif seed % 16 == 11 and topology.discovery == "local":
        plan = _staying(plan)
    return plan if pace == 1 else _stretched(plan, pace)


def _restarting(plan: Plan) -> Plan:
    """Return the plan with nothing but a rolling restart in it: only of that it is said that no call fails."""
    at = plan.faults[0].at if plan.faults else 0.25
    seconds = round(known_seconds(plan) + 0.05, 3)
    restart = Fault(
        kind="rolling-restart", target="workers", at=max(at, 0.25), seconds=seconds, ordinal=plan.seed // 16 % 2
    )
    return replace(plan, faults=(restart,), stalls=())


def _staying(plan: Plan) -> Plan:
    """Return the plan with faults that stay for ever: one more, and all that may and strike the same worker.

    In half of them a silent session counts as open till long after the probes.
    """
    turn = plan.seed // 16
    kind = STAYING[turn % len(STAYING)]
    at = plan.faults[0].at if plan.faults else 0.8
    # Not the first worker, which is mostly wanted if only one is.
    target = "w1" if kind == "pause" else f"c{turn % plan.topology.callers}>w1"
    others = [
        replace(fault, stays=True, seconds=0.0) if fault.kind in STAYING and fault.target.endswith("w1") else fault
        for fault in plan.faults
    ]
    knobs = replace(plan.knobs, ping_timeout=20.0) if turn % 2 else plan.knobs
    return replace(plan, knobs=knobs, faults=(Fault(kind=kind, target=target, at=at, stays=True), *others))


def _crawling(plan: Plan) -> Plan:
    """Return the plan with a caller that is slow, and offers that leave in pieces: its own patience is over before."""
    at = plan.faults[0].at if plan.faults else 0.8
    crawl = Fault(kind="crawl", target="c0", at=at, seconds=SECONDS[3 + plan.seed // 16 % 4], amount=0.15)
    return replace(plan, knobs=replace(plan.knobs, inline_bytes=64), faults=(crawl,), stalls=())


def _stretched(plan: Plan, pace: int) -> Plan:
    def later(at: float) -> float:
        return round(at * pace, 3)

    calls = [
        replace(
            call,
            at=later(call.at),
            cancel_at=None if call.cancel_at is None else round(later(call.at) + call.cancel_at - call.at, 6),
        )
        for call in plan.calls
    ]
    faults = [
        replace(
            fault,
            at=later(fault.at),
            seconds=later(fault.seconds) if fault.kind in LASTING else fault.seconds,
        )
        for fault in plan.faults
    ]
    stalls = [replace(stall, at=later(stall.at)) for stall in plan.stalls]
    return replace(plan, calls=tuple(calls), faults=tuple(faults), stalls=tuple(stalls))


def _enabled(swarm: int, kinds: tuple[str, ...]) -> tuple[str, ...]:
    digits = _Digits(swarm)
    count = 1 + digits.below(4)
    enabled = tuple(digits.of(kinds) for _ in range(count))
    # What comes up again must have gone down.
    return (*enabled, "crash") if "restart" in enabled and "crash" not in enabled else enabled


def _calls(numbers: Sequence[int], callers: int) -> Iterator[Call]:
    room = TASKS
    for slot, number in enumerate(numbers):
        if room <= 0:
            return
        if number:
            call = _call(slot, number, callers)
            room -= _tasks_of(call.body)
            yield call
        else:
            # One that is left out is as large as a simple one: no other comes in its place.
            room -= 1


@functools.lru_cache(maxsize=8192)
def _tasks_of(made: Body) -> int:
    """Return how many tasks a call of this body may make, itself among them."""
    return sum(1 for _ in labelled("", made))


def _call(slot: int, number: int, callers: int) -> Call:
    digits = _Digits(number - 1)
    at = digits.of(TIMES)
    shape = digits.below(len(SHAPES))
    made = body(shape, digits.below(len(WAITS)), digits.below(6))
    script = digits.of(SCRIPTS)
    caller = digits.below(callers)
    cancel = digits.of(CANCELS)
    timeout = digits.of(TIMEOUTS)
    size = digits.of(SIZES)
    return Call(
        ordinal=slot,
        caller=caller,
        at=at,
        body=made,
        script=script if made.generator else (),
        cancel_at=None if cancel is None else round(at + cancel[0], 6),
        cancels=1 if cancel is None else cancel[1],
        timeout=timeout,
        size=size,
    )


def _faults(number: int, finds: bool, kinds: tuple[str, ...], callers: int, workers: int) -> Iterator[Fault]:
    digits = _Digits(number - 1)
    fault = _fault(digits, kinds, callers, workers)
    yield fault
    if fault.kind == "lost-goodbye" or fault.point == "withdrawn":
        # Else nobody says it.
        yield Fault(kind="terminate", target=fault.target, at=round(fault.at + 0.01, 3))
    if finds and fault.kind in ("crash", "terminate") and fault.target.startswith("w"):
        # Now and then it comes up again, on the same address.
        after = digits.of((None, None, 0.05, 0.3, 0.8))
        if after is not None:
            yield Fault(kind="restart", target=fault.target, at=round(fault.at + after, 3))


def _fault(digits: _Digits, kinds: tuple[str, ...], callers: int, workers: int) -> Fault:
    kind = digits.of(kinds)
    form = FAULTS[kind]
    worker = f"w{digits.below(workers)}"
    # Mostly a caller's own links; now and then one between two workers, over which nested calls go.
    caller = digits.of(
        (*(f"c{index}" for index in range(callers)),) * 4 + tuple(f"w{index}" for index in range(workers))
    )
    at = digits.of(FAULT_TIMES)
    where = digits.below(2)
    frame, ordinal, when = digits.of(WIRE_FRAMES), digits.of((0, 0, 1, 2, 3, 5, 8)), digits.of(("before", "after"))
    said: dict[str, Any] = {"kind": kind, "at": 0.0 if kind in EARLY and where else at}
    if form.target == "link":
        if caller == worker:
            caller = "c0"
        said["target"] = f"{caller}>{worker}"
    elif form.target == "caller":
        said["target"] = f"c{digits.below(callers)}"
    elif form.target == "worker":
        said["target"] = worker
    elif form.target == "all":
        said["target"] = "workers"
    elif form.group == "discovery":
        said["target"] = caller
    else:
        # What a caller shows matters as much as what a worker does.
        said["target"] = digits.of((worker,) * (1 if form.needs == "tls" else 7) + ("c0",))
    fields = form.fields
    if "frame" in fields and (where or kind == "delay"):
        said.update(frame=frame, ordinal=digits.below(MOST_FRAMES) if frame == ANY else ordinal, when=when)
    elif "ordinal" in fields and "frame" not in fields:
        said["ordinal"] = ordinal
    if "seam" in fields:
        seam = digits.of((0, 0, 0, 1, 2, 3, 5, 8, 13))
        if seam and "frame" not in said:
            said["seam"] = seam
        point = digits.of(("", "", "", "", *POINTS, *POINTS))
        if point and "frame" not in said and not seam and said["target"].startswith("w"):
            # Workers come up at once, and are withdrawn when they are told to stop.
            said.update(point=point, at=at if point == "withdrawn" else 0.0)
    if "seconds" in fields:
        said["seconds"] = digits.of(SECONDS)
    if "amount" in fields:
        said["amount"] = digits.of(AMOUNTS)
    if "direction" in fields:
        said["direction"] = digits.of(("both", "to", "back"))
    if "how" in fields:
        said["how"] = digits.of(("reset", "silence"))
    return Fault(**said)


def _stall(number: int, callers: int, workers: int) -> Stall:
    digits = _Digits(number - 1)
    node = digits.of((*(f"c{index}" for index in range(callers)), *(f"w{index}" for index in range(workers))))
    loop = digits.of(("io", "user"))
    return Stall(
        loop=f"{node}#0.{loop}", at=digits.of(FAULT_TIMES), seconds=digits.of((0.0005, 0.002, 0.01, 0.05, 0.4))
    )
