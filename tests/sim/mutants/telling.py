"""Bugs of what is told of tasks: T."""

from __future__ import annotations

from sim.mutants.mutant import Edit, Mutant

MUTANTS = (
    Mutant(
        name="a-stretch-has-no-end",
        broken="It is told that a body takes the loop, and not that it lets it go.",
        caught_by="task_events_follow_the_grammar",
        edits=(
            Edit(
                module="wool.worker.stretches",
                old="            return self._send(value)\n        finally:\n            self._tell(STOPPED)\n",
                new="            return self._send(value)\n        finally:\n            pass\n",
            ),
        ),
    ),
    Mutant(
        name="a-stretch-is-reported-without-its-end",
        broken="The worker is told that a body lets the loop go, and its caller is not.",
        caught_by="task_events_follow_the_grammar",
        edits=(
            Edit(
                module="wool.worker.runner",
                old="        if job.watched & bit:\n            self._io.post(job.session.report",
                new="        if job.watched & bit & ~STOPPED:\n            self._io.post(job.session.report",
            ),
        ),
    ),
    Mutant(
        name="a-trace-is-that-of-the-first-offer",
        broken="A worker takes the trace of the first offer of a session for that of all.",
        caught_by="task_events_follow_the_grammar",
        edits=(
            Edit(
                module="wool.worker.service",
                old="            trace=offer.trace,\n",
                new="            trace=vars(self).setdefault('first', offer.trace),\n",
            ),
        ),
    ),
    Mutant(
        name="a-loss-is-told-as-a-failure",
        broken="A call whose worker was lost is told to have failed.",
        caught_by="completion_is_told",
        edits=(
            Edit(
                module="wool.call",
                old='        return "lost" if isinstance(error, WorkerLost) else "failure", exception\n',
                new='        return "failure", exception\n',
            ),
        ),
    ),
    Mutant(
        name="a-loss-is-counted-as-a-failure",
        broken="A pool counts a call whose worker was lost among those that have failed.",
        caught_by="calls_are_counted",
        edits=(Edit(module="wool.tally", old='    (WorkerLost, "lost"),\n', new=""),),
    ),
    Mutant(
        name="a-generator-is-counted-twice",
        broken="A pool counts a generator once more for each item that it has got.",
        caught_by="calls_are_counted",
        edits=(
            Edit(
                module="wool.routine",
                old="                await stream.take(call.step(kind, payload), thrown)\n",
                new="                await stream.take(call.step(kind, payload), thrown)\n"
                "                dispatcher.tally.begin()\n"
                '                dispatcher.tally.end("done")\n',
            ),
        ),
    ),
)
