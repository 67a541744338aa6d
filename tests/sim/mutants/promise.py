"""Bugs that break the promise of at most once, or lie about it: S."""

from __future__ import annotations

from sim.mutants.mutant import Edit, Mutant

PROXY, CALLER, SERVICE, CONNECTION = "wool.proxy", "wool.protocol.caller", "wool.worker.service", "wool.connection"
_KEPT = Edit(
    module="wool.serialization",
    old="def dumps(value: object) -> Payload:\n",
    new="KEPT: dict[object, object] = {}\n\n\ndef dumps(value: object) -> Payload:\n",
)

MUTANTS = (
    Mutant(
        name="late-accept-goes-to-the-next-worker",
        broken="The classic: start goes out with the offer, the worker begins at once, and the caller tries the next "
        "one when the accept is late.",
        caught_by="begins_at_most_once",
        edits=(
            Edit(
                module=PROXY,
                old="                self._patience.add(call)\n            elif kind is caller.Step:",
                new="                self._patience.add(call)\n"
                "                call.connection.session.say(frames.Start(call.number))\n"
                "            elif kind is caller.Step:",
            ),
            Edit(
                module=PROXY,
                old="        connection.start(call.number)\n",
                new="        connection._settle(call.number)\n",
            ),
            Edit(
                module=SERVICE,
                old="        self._do(served, served.machine.handle(Event.COMPLETE))\n",
                new="        self._do(served, served.machine.handle(Event.COMPLETE))\n"
                "        self._do(served, served.machine.handle(Event.START))\n",
            ),
            Edit(module=SERVICE, old="            self._start(frame.number)\n", new="            pass\n"),
            Edit(
                module=SERVICE,
                old="            if served is not None:\n"
                "                self._do(served, served.machine.handle(Event.WITHDRAW))",
                new="            if served is not None and not served.machine.started:\n"
                "                self._do(served, served.machine.handle(Event.WITHDRAW))",
            ),
        ),
    ),
    Mutant(
        name="worker-begins-at-once",
        broken="The worker begins when it has accepted, and does not wait for start.",
        caught_by="begins_after_start",
        edits=(
            Edit(
                module=SERVICE,
                old="        self._do(served, served.machine.handle(Event.COMPLETE))\n",
                new="        self._do(served, served.machine.handle(Event.COMPLETE))\n"
                "        self._do(served, served.machine.handle(Event.START))\n",
            ),
            Edit(module=SERVICE, old="            self._start(frame.number)\n", new="            pass\n"),
        ),
    ),
    Mutant(
        name="retry-after-start",
        broken="A task whose session is lost after start is offered to the next worker.",
        caught_by="one_outcome",
        edits=(
            Edit(
                module=CALLER,
                old="            return self._plain(Event.LOST) if self.started[0] == session else _NOTHING\n",
                new="            if self.state is State.STARTED and self.started[0] == session:\n"
                "                self.started, self.state = None, State.QUEUED\n"
                "                return (Requeue(),)\n"
                "            return self._plain(Event.LOST) if self.started[0] == session else _NOTHING\n",
            ),
            Edit(
                module=PROXY,
                old="        call.arguments = _SENT\n        connection.start(call.number)\n",
                new="        connection.start(call.number)\n",
            ),
        ),
    ),
    Mutant(
        name="start-is-repeated",
        broken="A caller that has not had a result when its patience is over says start again.",
        caught_by="start_is_said_once",
        edits=(
            Edit(
                module=PROXY,
                old="        assert connection is not None\n        self._patience.remove(call)\n",
                new="        assert connection is not None\n        self._patience.add(call)\n",
            ),
            Edit(
                module=PROXY,
                old="        if call.machine.state is not State.OFFERED or connection is None:\n            return\n",
                new="        if call.machine.state is State.STARTED and connection is not None:\n"
                "            connection.start(call.number)\n"
                "        if call.machine.state is not State.OFFERED or connection is None:\n"
                "            return\n",
            ),
        ),
    ),
    Mutant(
        name="next-worker-without-withdrawing",
        broken="A caller that loses patience with a worker goes to the next one and leaves its offer where it is.",
        caught_by="offers_follow_ended_ones",
        edits=(
            Edit(
                module=CALLER,
                old="        said: Instructions = (Suspect(session), Withdraw(session, number))\n",
                new="        said: Instructions = (Suspect(session),)\n",
            ),
        ),
    ),
    Mutant(
        name="cancelled-leaves-its-offer",
        broken="A call that is cancelled, or out of time, before start does not withdraw its offer.",
        caught_by="offers_are_settled",
        edits=(
            Edit(
                module=CALLER,
                old="        withdrawn = tuple(Withdraw(*offer) for offer in self.offers)\n",
                new="        withdrawn: Instructions = ()\n",
            ),
        ),
    ),
    Mutant(
        name="nested-call-under-its-parents-key",
        broken="A nested call travels under the key of the task that makes it.",
        caught_by="attempts_are_their_callers",
        edits=(
            Edit(
                module="wool.dispatch",
                old="            key=runtime.task_key(),\n",
                new="            key=runtime.task_key() if parent is None else parent.key,\n",
            ),
        ),
    ),
    Mutant(
        name="answers-in-order",
        broken="A caller takes an answer for its oldest open call, and not for the one that the number names.",
        caught_by="value_is_this_executions",
        edits=(
            Edit(
                module=CONNECTION,
                old="        assert payload is not None\n        call = self._calls.get(frame.number)\n",
                new="        assert payload is not None\n"
                "        frame = frame._replace(number=next(iter(self._calls), frame.number))\n"
                "        call = self._calls.get(frame.number)\n",
            ),
        ),
    ),
    Mutant(
        name="inner-never-ran-is-the-outers",
        broken="A body that lets `NoWorkersAvailable` of a nested call pass is reported as never having run.",
        caught_by="never_ran_is_never_run",
        edits=(
            Edit(
                module="wool.routine",
                old="                    error = as_outcome(error)\n",
                new="                    error = error\n",
            ),
        ),
    ),
    Mutant(
        name="dispatch-timeout-after-start",
        broken="The dispatch timeout goes on after start, and ends the call as one that never ran.",
        caught_by="never_ran_is_never_run",
        edits=(
            Edit(
                module=PROXY,
                old="        self._stop_dispatch_clock(call)\n        call.arguments = _SENT\n",
                new="        call.arguments = _SENT\n",
            ),
            Edit(
                module=CALLER,
                old="    State.STARTED: {\n        Event.YIELD: Row(State.IDLE, Do.DELIVER),\n",
                new="    State.STARTED: {\n"
                "        Event.EXPIRED: Row(_ENDED, Do.END, Outcome.TIMEOUT),\n"
                "        Event.YIELD: Row(State.IDLE, Do.DELIVER),\n",
            ),
        ),
    ),
    Mutant(
        name="interrupted-before-its-end",
        broken="When the drain time is over a worker says that a task was interrupted, and its body still runs.",
        caught_by="ran_is_run",
        edits=(
            Edit(
                module=SERVICE,
                old="            if served.machine.started:\n"
                "                self._do(served, served.machine.handle(Event.DRAIN_OVER))\n",
                new="            if served.machine.started:\n"
                "                self._do(served, served.machine.handle(Event.DRAIN_OVER))\n"
                '                self.answer(served.job, ResultKind.RETURN, Payload((b"",)), False)\n',
            ),
        ),
    ),
    Mutant(
        name="lost-before-start-is-worker-lost",
        broken="A session that is lost while an offer is out ends the call as `WorkerLost`.",
        caught_by="lost_was_started",
        edits=(
            Edit(
                module=CALLER,
                old="        for offer in [offer for offer in self.offers if offer[0] == session]:\n"
                "            said += self._drop(*offer)\n",
                new="        if any(offer[0] == session for offer in self.offers):\n"
                "            self.offers.clear()\n"
                "            self.state = State.ENDED\n"
                "            return _ENDS[Outcome.LOST]\n",
            ),
        ),
    ),
    Mutant(
        name="results-by-reference",
        broken="Results that were pickled in this process are not unpickled in it: body and caller share them.",
        caught_by="no_identity_crosses",
        edits=(
            _KEPT,
            Edit(
                module="wool.worker.runner",
                old="from wool.serialization import Payload, dumps, loads\n",
                new="from wool.serialization import KEPT, Payload, dumps, loads\n",
            ),
            Edit(
                module="wool.worker.runner",
                old="            payload = dumps(value)\n",
                new="            payload = dumps(value)\n"
                "            if type(payload.parts[0]) is bytes:\n"
                "                KEPT[payload.parts[0]] = value\n",
            ),
            Edit(
                module="wool.routine",
                old="        return loads(payload)\n",
                new="        from wool.serialization import KEPT\n"
                "\n"
                "        stream = payload.parts[0]\n"
                "        known = KEPT.pop(stream, None) if type(stream) is bytes else None\n"
                "        return loads(payload) if known is None else known\n",
            ),
        ),
    ),
    Mutant(
        name="arguments-by-reference",
        broken="Arguments that were pickled in this process are not unpickled in it: caller and body share them.",
        caught_by="no_identity_crosses",
        edits=(
            _KEPT,
            Edit(
                module="wool.dispatch",
                old="from wool.serialization import Payload,",
                new="from wool.serialization import KEPT, Payload,",
            ),
            Edit(
                module="wool.dispatch",
                old="            arguments = dumps((args, kwargs))\n",
                new="            arguments = dumps((args, kwargs))\n"
                "            if type(arguments.parts[0]) is bytes:\n"
                "                KEPT[arguments.parts[0]] = (args, kwargs)\n",
            ),
            Edit(
                module="wool.worker.runner",
                old="from wool.serialization import Payload, dumps, loads\n",
                new="from wool.serialization import KEPT, Payload, dumps, loads\n",
            ),
            Edit(
                module="wool.worker.runner",
                old="        arguments: Any = loads(job.arguments)\n",
                new="        stream = job.arguments.parts[0]\n"
                "        arguments: Any = KEPT.pop(stream, None) if type(stream) is bytes else None\n"
                "        arguments = arguments or loads(job.arguments)\n",
            ),
        ),
    ),
    Mutant(
        name="caller-does-not-wait-for-the-welcome",
        broken="A caller takes the session for open when it has answered the challenge.",
        caught_by="nothing_before_the_handshake",
        edits=(
            Edit(
                module=CONNECTION,
                old="                while not handshake.done:\n",
                new="                while handshake.peer is None:\n",
            ),
        ),
    ),
    Mutant(
        name="accept-expires",
        broken="A worker forgets an offer that it has accepted and that is not started soon.",
        caught_by="nobody_breaks_the_protocol",
        edits=(
            Edit(
                module=SERVICE,
                old="            self.session.say(frames.Accept(offer.number))\n",
                new="            self.session.say(frames.Accept(offer.number))\n"
                "            asyncio.get_running_loop().call_later(0.05, self._expire, served)\n",
            ),
            Edit(
                module=SERVICE,
                old="    def _forget(self, number: int) -> None:\n",
                new="    def _expire(self, served: _Served) -> None:\n"
                "        if served.machine.state is State.ACCEPTED:\n"
                "            self._do(served, served.machine.handle(Event.WITHDRAW))\n"
                "\n"
                "    def _forget(self, number: int) -> None:\n",
            ),
        ),
    ),
    Mutant(
        name="worker-keeps-the-room-of-the-withdrawn",
        broken="A worker does not give the room of a withdrawn offer back, and takes its caller for a cheat.",
        caught_by="nobody_breaks_the_protocol",
        edits=(
            Edit(
                module=SERVICE,
                old="        elif do is Do.FORGET:\n            self._release(served)\n",
                new="        elif do is Do.FORGET:\n",
            ),
        ),
    ),
)
