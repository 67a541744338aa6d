"""Bugs of context variables: V."""

from __future__ import annotations

from sim.mutants.mutant import Edit, Mutant

RUNNER, CALL = "wool.worker.runner", "wool.call"

MUTANTS = (
    Mutant(
        name="context-leaks-between-bodies",
        broken="All bodies of a worker run in one context: what one sets, the others read.",
        caught_by="a_body_reads_what_it_set",
        edits=(
            Edit(
                module=RUNNER,
                old="self._run(job, state), context=self._context.copy())\n",
                new="self._run(job, state), context=self._context)\n",
            ),
        ),
    ),
    Mutant(
        name="context-of-a-nested-call-stays-behind",
        broken="What a body has set does not go along with the calls that it makes.",
        caught_by="a_body_reads_what_its_caller_set",
        edits=(
            Edit(
                module=RUNNER,
                old="        if job.arguments.context:\n",
                new="        if job.arguments.context and not job.parent:\n",
            ),
        ),
    ),
    Mutant(
        name="what-a-body-has-set-is-lost",
        broken="A caller takes what a body has set with the items of a generator, and not with a coroutine's value.",
        caught_by="a_caller_reads_what_the_body_set",
        edits=(
            Edit(
                module=CALL,
                old="                answer = self._receive(answer)\n",
                new="                if answer.kind is ResultKind.YIELD:\n"
                "                    answer = self._receive(answer)\n",
            ),
        ),
    ),
)
