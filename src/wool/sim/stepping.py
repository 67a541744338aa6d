"""A run whose plan grows while it goes: somebody says what happens next, and looks at what has come of it.

Why it exists: a state machine of Hypothesis is a program that a contributor can read, where a plan is a list. It is the
same run, by the same conductor, and what was said is a plan in the end, whose run by itself has the same history.

What it must never do: reach into a process. It adds to the plan, and lets time pass.
"""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import replace
from typing import Self

from wool.sim.bodies import NOTHING, Ask, Body
from wool.sim.history import History
from wool.sim.invariants.story import Story
from wool.sim.kinds import Fault
from wool.sim.plan import Call, Plan
from wool.sim.run import conducted
from wool.sim.waiting import LiveScript

APART_SECONDS = 0.000100314159
"""Between two things that are said. No sum of it and of what a plan or the engine waits for is another such sum: of two
timers that are due at once, the one that was set first goes first, and a plan by itself sets them in another order."""


class Stepper:
    """One run, step by step. Use it as a context manager: left, nothing of the run is left."""

    def __init__(self, plan: Plan) -> None:
        self._stack = ExitStack()
        self._conductor = self._stack.enter_context(conducted(plan))
        self._cluster = self._conductor.cluster
        self._scripts: dict[str, LiveScript] = {}
        self._endless: set[int] = set()
        self._over = False
        self.now: float = 0.0
        """Until when everything has happened; what is said next happens later."""
        self._conductor.begin()
        for caller in self._conductor.callers:
            caller.grows = True

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    # ---- what is seen ----

    @property
    def plan(self) -> Plan:
        """What was said so far. A fault that has still no end lasts until now."""
        plan = self._cluster.plan
        calls = tuple(
            call if (script := self._scripts.get(call.label)) is None else replace(call, script=script.told)
            for call in plan.calls
        )
        faults = tuple(
            replace(fault, seconds=max(lasted, 0.0))
            if index in self._endless and (lasted := self._conductor.injector.lasted(index, self.now)) is not None
            else fault
            for index, fault in enumerate(plan.faults)
        )
        return replace(plan, calls=calls, faults=faults)

    @property
    def history(self) -> History:
        """What has happened so far."""
        return self._cluster.history

    def story(self) -> Story:
        """Return what has happened so far, for its judges."""
        return Story(self.history, self.plan)

    @property
    def under_way(self) -> list[str]:
        """The calls that were made and have not ended, and were not cancelled."""
        return [
            call.label
            for call in self._cluster.plan.calls
            if call.cancel_at is None and self._conductor.callers[call.caller].is_under_way(call.label)
        ]

    @property
    def consumed(self) -> list[str]:
        """Those of them whose consumers can be told what to ask."""
        return [label for label in self.under_way if label in self._scripts]

    @property
    def striking(self) -> list[int]:
        """The endless faults that strike."""
        return [
            index for index in sorted(self._endless) if self._conductor.injector.lasted(index, self.now) is not None
        ]

    # ---- what is said ----

    def advance(self, seconds: float) -> None:
        """Let so much time pass."""
        self.now += seconds
        self._conductor.advance(self.now)

    def call(self, body: Body, *, caller: int = 0, asks: bool = False) -> str:
        """Make a call; return its label. With ``asks``, its consumer asks for one item, and then what `ask` says."""
        known = self._conductor.callers[caller]
        script = LiveScript(known.node.user, Ask(op="next")) if asks else None
        call = self._say_call(body, caller, () if script is None else script.told)
        if script is not None:
            self._scripts[call.label] = script
        known.add(call, script)
        return call.label

    def _say_call(self, body: Body, caller: int, script: tuple[Ask, ...]) -> Call:
        plan = self._cluster.plan
        ordinal = sum(call.caller == caller for call in plan.calls)
        call = Call(ordinal=ordinal, caller=caller, at=self._next(), body=body, script=script)
        self._cluster.plan = replace(plan, calls=(*plan.calls, call))
        self._cluster.tasks.update(self._cluster.plan.tasks())
        return call

    def ask(self, label: str, ask: Ask) -> None:
        """Have the consumer of a generator ask."""
        self._scripts[label].ask(ask, self._next())

    def cancel(self, label: str, times: int = 1) -> None:
        """Cancel a call that is under way."""
        plan = self._cluster.plan
        call = next(call for call in plan.calls if call.label == label)
        changed = replace(call, cancel_at=self._next(), cancels=times)
        self._cluster.plan = replace(plan, calls=tuple(changed if other is call else other for other in plan.calls))
        self._conductor.callers[call.caller].cancel(changed)

    def strike(self, fault: Fault, *, endless: bool = False) -> int:
        """Have a fault strike, whatever its ``at`` says; return its index. If ``endless``, it lasts until `heal`."""
        plan = self._cluster.plan
        index, fault = len(plan.faults), replace(fault, at=self._next())
        if endless:
            self._endless.add(index)
        self._cluster.plan = replace(plan, faults=(*plan.faults, fault))
        self._conductor.injector.arm(index, fault)
        return index

    def heal(self, index: int) -> None:
        """Let an endless fault be over, if it strikes."""
        when = self._next()
        lasted = self._conductor.injector.lasted(index, when)
        self._endless.discard(index)
        if lasted is None:
            return
        plan = self._cluster.plan
        faults = (*plan.faults[:index], replace(plan.faults[index], seconds=lasted), *plan.faults[index + 1 :])
        self._cluster.plan = replace(plan, faults=faults)
        self._conductor.injector.end_at(index, when)

    def _next(self) -> float:
        """Return when what is said now happens."""
        self.now += APART_SECONDS
        return self.now

    # ---- the end ----

    def finish(self) -> None:
        """Come to the end of the faulty phase and of the run, as any run does."""
        if self._over:
            return
        self._over = True
        for index in sorted(self._endless):
            self.heal(index)
        for script in self._scripts.values():
            script.close(self._next())
        # With its last call nobody waits for another; and the faulty phase of the plan lasts until then.
        last = [(caller, self._say_call(NOTHING, caller.number, ())) for caller in self._conductor.callers]
        self._conductor.foresee()
        for caller, call in last:
            caller.grows = False
            caller.add(call)
        self._conductor.end()
