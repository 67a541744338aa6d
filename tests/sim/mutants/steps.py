"""Bugs of cancellation and of generators: C and G."""

from __future__ import annotations

from sim.mutants.mutant import Edit, Mutant

PROXY, SERVICE, RUNNER, ROUTINE = "wool.proxy", "wool.worker.service", "wool.worker.runner", "wool.routine"

MUTANTS = (
    # ---- cancellation ----
    Mutant(
        name="no-grace",
        broken="A cancelled caller waits for its worker as long as it takes.",
        caught_by="released_within_grace",
        edits=(Edit(module=PROXY, old="        if first:\n            self._grace.add(call)\n", new=""),),
    ),
    Mutant(
        name="cancel-answered-before-the-body-hears",
        broken="The I/O side answers a cancel for a body that has not begun, which begins all the same.",
        caught_by="no_begin_after_an_answer",
        edits=(
            Edit(
                module=SERVICE,
                old="            assert served.job is not None\n            self._runner.cancel(",
                new="            assert served.job is not None\n"
                "            if served.job.runner_state is None and isinstance(frame, frames.Cancel):\n"
                '                self.answer(served.job, ResultKind.CANCELLED, Payload((b"",)), False)\n'
                "                return\n"
                "            self._runner.cancel(",
            ),
        ),
    ),
    Mutant(
        name="cancel-is-swallowed",
        broken="A worker takes a cancel for delivered, and the body never sees it.",
        caught_by="cancel_reaches_the_body",
        edits=(Edit(module=RUNNER, old="        state.task.cancel(message)\n        state.delivered += 1\n", new=""),),
    ),
    Mutant(
        name="result-after-cancel",
        broken="A result that the body made before it could hear of the cancellation is given to the cancelled caller.",
        caught_by="nothing_after_cancel",
        edits=(
            Edit(
                module="wool.call",
                old="                if answer.cancels < asked:\n",
                new="                if answer.cancels < 0:\n",
            ),
        ),
    ),
    Mutant(
        name="cancel-hits-everybody",
        broken="A worker cancels all that a caller runs there when one call of it is cancelled.",
        caught_by="only_the_family_is_touched",
        edits=(
            Edit(
                module=SERVICE,
                old="                self._do(served, served.machine.handle(Event.CANCEL), frames.Cancel",
                new="                for served in list(self._served.values()):\n"
                "                    if served.machine.started:\n"
                "                        self._do(served, served.machine.handle(Event.CANCEL), frames.Cancel",
            ),
        ),
    ),
    # ---- generators ----
    Mutant(
        name="send-skips-an-item",
        broken="What a generator yields in answer to a send is dropped, and the next item is sent.",
        caught_by="delivered_is_a_prefix",
        edits=(
            Edit(
                module=RUNNER,
                old="                    item = await _limited(watched(body.asend(sent)), limit)\n",
                new="                    await _limited(watched(body.asend(sent)), limit)\n"
                "                    item = await body.__anext__()\n",
            ),
        ),
    ),
    Mutant(
        name="read-ahead",
        broken="A worker takes the next item from the generator before it is asked for.",
        caught_by="no_read_ahead",
        edits=(
            Edit(
                module=RUNNER,
                old="        own = self._loop_task(state)\n        step = 0\n",
                new="        own = self._loop_task(state)\n        ahead: list[Any] = []\n        step = 0\n",
            ),
            Edit(
                module=RUNNER,
                old="                    item = await _limited(watched(body.__anext__()), limit)\n"
                "                elif kind is StepKind.SEND:\n",
                new="                    item = ahead.pop() if ahead else await body.__anext__()\n"
                "                elif kind is StepKind.SEND:\n",
            ),
            Edit(
                module=RUNNER,
                old="            kind, payload = await self._next_step(state)\n",
                new="            try:\n"
                "                ahead.append(await body.__anext__())\n"
                "            except StopAsyncIteration:\n"
                "                pass\n"
                "            kind, payload = await self._next_step(state)\n",
            ),
        ),
    ),
    Mutant(
        name="sent-value-is-lost",
        broken="A generator resumes with None, whatever was sent in.",
        caught_by="same_as_local",
        edits=(
            Edit(
                module=RUNNER,
                old="                    item = await _limited(watched(body.asend(sent)), limit)\n",
                new="                    item = await _limited(watched(body.asend(None)), limit)\n",
            ),
        ),
    ),
    Mutant(
        name="thrown-stop-is-the-end",
        broken="`StopAsyncIteration` that is thrown in is taken for the generator's own end.",
        caught_by="same_as_local",
        edits=(
            Edit(
                module=RUNNER,
                old="                    item = await _limited(watched(body.athrow(thrown)), limit)\n",
                new="                    if isinstance(thrown, StopAsyncIteration):\n"
                "                        raise thrown\n"
                "                    item = await _limited(watched(body.athrow(thrown)), limit)\n",
            ),
        ),
    ),
    Mutant(
        name="close-is-not-forwarded",
        broken="`aclose()` ends the caller's generator, and the remote one stays where it is.",
        caught_by="same_as_local",
        edits=(
            Edit(
                module=ROUTINE,
                old="                        kind = StepKind.CLOSE\n",
                new="                        stream.suspended = False\n                        raise\n",
            ),
        ),
    ),
    Mutant(
        name="orphan-is-not-cancelled",
        broken="A body whose session is lost goes on to its end.",
        caught_by="orphans_are_ended",
        edits=(
            Edit(
                module=RUNNER,
                old="            _awake(state)\n        else:\n            self.cancel(job, None)\n",
                new="            _awake(state)\n",
            ),
        ),
    ),
    Mutant(
        name="orphan-outlives-its-caller",
        broken="A worker that loses a session leaves its bodies running, and its generators where they stand.",
        caught_by="finally_runs_once",
        edits=(
            Edit(
                module=SERVICE,
                old="        elif do is Do.ABANDON:\n"
                "            assert served.job is not None\n"
                "            self._runner.abandon(served.job)\n",
                new="        elif do is Do.ABANDON:\n            assert served.job is not None\n",
            ),
        ),
    ),
)
